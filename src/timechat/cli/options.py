"""Options that commands share: declared once as dataclasses, expanded into the signatures of commands."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from timechat.cli.model_options import GENERAL, ModelOptions
from timechat.cli.outputs import OutputOptions
from timechat.cli.times import parse_time, time_from

if TYPE_CHECKING:
    from timechat.answers.tasks import DecodingOptions
    from timechat.answers.windows import WindowConfig
    from timechat.pipeline import MomentSelection
    from timechat.video import FrameSampling

Result = TypeVar("Result")

_SAMPLING = "Frames"
WINDOWS = "Windows of long videos"
_TRANSCRIPT = "Speech in the video"
_DECODING = "Decoding of the answer"


@dataclass(frozen=True)
class FrameRateOptions:
    """Number of frames."""

    num_frames: Annotated[
        int | None,
        typer.Option(min=1, help="Number of frames, spread evenly over the video.", rich_help_panel=_SAMPLING),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second of video, instead of a number of frames.", rich_help_panel=_SAMPLING),
    ] = None
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of frames with --fps.", rich_help_panel=_SAMPLING)
    ] = None

    def sampling(self) -> "FrameSampling":
        """Return the frame options.

        Raises:
            ValueError: The options contradict each other.
        """
        from timechat.video.sampling import FrameSampling

        if self.num_frames is not None and self.fps is not None:
            raise ValueError("--num-frames and --fps both say how many frames are taken; give one of them")
        return FrameSampling(self.num_frames, self.fps, self.max_frames)


@dataclass(frozen=True)
class FrameOptions(FrameRateOptions):
    """Frames to take from a video, and the time to read them."""

    start: Annotated[
        float | None,
        typer.Option(parser=parse_time, metavar="TIME", help="Start of the part to use.", rich_help_panel=_SAMPLING),
    ] = None
    end: Annotated[
        float | None,
        typer.Option(parser=parse_time, metavar="TIME", help="End of the part to use.", rich_help_panel=_SAMPLING),
    ] = None
    keyframes: Annotated[
        bool,
        typer.Option(
            "--keyframes",
            help="Take the nearest keyframes with their own times: faster, less exact.",
            rich_help_panel=_SAMPLING,
        ),
    ] = False

    timeout: Annotated[
        float,
        typer.Option(
            parser=time_from(0),
            metavar="TIME",
            help="Maximum time for reading the video, also for waiting for a pipe.",
            rich_help_panel=_SAMPLING,
        ),
    ] = 600.0

    def sampling(self) -> "FrameSampling":
        """Return the frame options."""
        kind = "keyframes" if self.keyframes else "exact"
        return replace(super().sampling(), start=self.start, end=self.end, sampling=kind)


@dataclass(frozen=True)
class WindowShapeOptions:
    """Windows of long videos."""

    window: Annotated[
        float | None,
        typer.Option(
            parser=time_from(0),
            metavar="TIME",
            help="Length of a window; 0 makes one window of the whole video. Default: as in training.",
            rich_help_panel=WINDOWS,
        ),
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(
            parser=time_from(0),
            metavar="TIME",
            help="Overlap of neighboring windows, at most half a window.",
            rich_help_panel=WINDOWS,
        ),
    ] = None
    step: Annotated[
        float | None,
        typer.Option(
            parser=parse_time,
            metavar="TIME",
            help="Time between frames; a larger value is faster and less exact.",
            rich_help_panel=WINDOWS,
        ),
    ] = None
    refine: Annotated[
        bool | None,
        typer.Option(
            "--refine/--no-refine",
            help="Refine the borders of moments with denser frames. Default: if frames are over 0.5 s apart "
            "and the model reads denser ones.",
            rich_help_panel=WINDOWS,
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Number of windows in one batch.", rich_help_panel=WINDOWS)] = 8

    def window_config(self) -> "WindowConfig":
        """Return the window options."""
        from timechat.answers.windows import WindowConfig

        return WindowConfig(self.window, self.overlap, self.step, self.refine, self.batch_size)


@dataclass(frozen=True)
class WindowOptions(WindowShapeOptions):
    """Windows of long videos, and the estimate of the work."""

    plan: Annotated[
        bool, typer.Option("--plan", help="Print an estimate of the job and stop.", rich_help_panel=WINDOWS)
    ] = False
    price: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT,ANSWER",
            help="Price of a million tokens of prompts and of answers at the server, for the estimate: 0.15,0.60.",
            rich_help_panel=WINDOWS,
        ),
    ] = None

    def prices(self) -> tuple[float, float] | None:
        """Return the prices of a million tokens of prompts and of answers; None if they are not given.

        Raises:
            ValueError: The option is no pair of prices.
        """
        if self.price is None:
            return None
        try:
            prompt, answer = (float(part) for part in self.price.split(","))
        except ValueError:
            prompt = answer = -1.0
        if not (0 <= prompt < math.inf and 0 <= answer < math.inf):
            raise ValueError(f"--price takes two prices, as in 0.15,0.60, got {self.price!r}")
        return prompt, answer


@dataclass(frozen=True)
class TranscriptOptions:
    """Speech in the video, shown to the model with the question."""

    transcript: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Transcript: SRT, WebVTT, Whisper JSON, or lines of start, end and text.",
            rich_help_panel=_TRANSCRIPT,
        ),
    ] = None
    asr: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Recognize the speech with this faster-whisper model.", rich_help_panel=_TRANSCRIPT
        ),
    ] = None


@dataclass(frozen=True)
class DecodingCommandOptions:
    """Decoding of the answer."""

    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of the answer in tokens.", rich_help_panel=_DECODING)
    ] = 512
    free: Annotated[
        bool,
        typer.Option(
            "--free", help="Do not constrain the answer to the grammar of its task.", rich_help_panel=_DECODING
        ),
    ] = False
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Sample the answer, as the original does.", rich_help_panel=_DECODING),
    ] = False
    temperature: Annotated[float, typer.Option(help="Sampling temperature.", rich_help_panel=_DECODING)] = 1.0
    top_p: Annotated[float, typer.Option(help="Top-p of sampling.", rich_help_panel=_DECODING)] = 0.9
    top_k: Annotated[int, typer.Option(help="Top-k of sampling.", rich_help_panel=_DECODING)] = 50
    seed: Annotated[int, typer.Option(help="Random seed of sampling.", rich_help_panel=_DECODING)] = 42
    num_beams: Annotated[
        int,
        typer.Option(min=1, help="Number of beams of a search for the most likely answer.", rich_help_panel=_DECODING),
    ] = 1
    length_penalty: Annotated[
        float,
        typer.Option(help="Exponent of the length in beam search: higher means longer.", rich_help_panel=_DECODING),
    ] = 1.0
    repetition_penalty: Annotated[
        float,
        typer.Option(help="Penalty on tokens that the answer has already; 1 is none.", rich_help_panel=_DECODING),
    ] = 1.0
    min_new_tokens: Annotated[
        int, typer.Option(min=0, help="Minimum length of the answer in tokens.", rich_help_panel=_DECODING)
    ] = 0
    preset: Annotated[
        str | None,
        typer.Option(metavar="PRESET", help="Prompt preset. Default: that of the model.", rich_help_panel=_DECODING),
    ] = None

    def decoding(self) -> "DecodingOptions":
        """Return the decoding options."""
        from timechat.answers.tasks import DecodingOptions

        given = {"--temperature": self.temperature != 1.0, "--top-p": self.top_p != 0.9, "--top-k": self.top_k != 50}
        if not self.sample and any(given.values()):
            raise ValueError(f"{next(name for name in given if given[name])} has an effect only with --sample; add it")
        if self.sample and self.num_beams > 1:
            raise ValueError("--num-beams searches for the most likely answer and --sample draws one; give one of them")
        if self.num_beams == 1 and self.length_penalty != 1.0:
            raise ValueError("--length-penalty has an effect only with --num-beams above 1; add it")
        return DecodingOptions(
            max_new_tokens=self.max_new_tokens,
            is_free=self.free,
            do_sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
            min_new_tokens=self.min_new_tokens,
        )


@dataclass(frozen=True)
class CacheOptions:
    """Use of the cache on disk."""

    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache", help="Neither read nor write the cache of tokens and answers.", rich_help_panel=GENERAL
        ),
    ] = False


@dataclass(frozen=True)
class ChatOptions(DecodingCommandOptions, FrameOptions, CacheOptions, ModelOptions):
    """Options of a conversation."""


@dataclass(frozen=True)
class TaskOptions(OutputOptions, TranscriptOptions, WindowOptions, ChatOptions):
    """Options of one request."""

    def check_windows(self) -> None:
        """Raise a `ValueError` if the options of windows and frames contradict each other."""
        self.window_config().check_density(num_frames=self.num_frames, fps=self.fps)
        if self.overlap is not None and (self.window == 0 or (self.window is None and self.num_frames is not None)):
            reason = "--window 0" if self.window == 0 else "--num-frames without --window"
            raise ValueError(f"{reason} makes one window of the video, which has no overlap; leave out --overlap")


@dataclass(frozen=True)
class MomentOptions:
    """Moments that a grounding answer keeps."""

    best: Annotated[int, typer.Option(min=1, help="Maximum number of moments, the best first.")] = 1
    find_all: Annotated[bool, typer.Option("--all", help="Return all moments in which it happens.")] = False
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum score of a moment. Default: the model's.")
    ] = None
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Exit with status 0 if it is found and 1 if it is not found.")
    ] = False

    def __post_init__(self) -> None:
        if self.find_all and self.best != 1:
            raise ValueError("--all and --best both say how many moments are returned; give one of them")

    def selection(self) -> "MomentSelection":
        """Return the selection of moments; imports torch."""
        from timechat.pipeline import MomentSelection

        return MomentSelection(self.best, self.find_all, self.threshold)


@dataclass(frozen=True)
class EvidenceOptions:
    """Citations of free answers."""

    cite: Annotated[bool, typer.Option("--cite", help="Add the time of each sentence in the video: [m:ss–m:ss].")] = (
        False
    )
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Cite, ask the model for each sentence again, and mark citations that do not hold."
        ),
    ] = False


def expand_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Replace each parameter whose type is a dataclass of options by one option for each field.

    Typer reads the options of a command from its signature; this function writes that signature.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in groups
    ]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=get_type_hints(group, include_extras=True)[field.name],
        )
        for group in groups.values()
        for field in fields(group)
    ]

    @functools.wraps(command)
    def flat(**values: Any) -> Result:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    flat.__signature__ = inspect.Signature([*keyword_only, *options])  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in [*keyword_only, *options]}
    return flat
