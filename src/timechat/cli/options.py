"""Options that commands share: declared once as dataclasses, expanded into the signatures of commands."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from timechat.answers.tasks import DecodingOptions
    from timechat.answers.windows import WindowConfig
    from timechat.pipeline import MomentSelection
    from timechat.video import FrameSampling

Result = TypeVar("Result")

_SAMPLING = "Frames"
_WINDOWS = "Windows of long videos"
_TRANSCRIPT = "Speech in the video"
_DECODING = "Decoding of the answer"
_OUTPUT = "Output"


class CutMode(StrEnum):
    """Ways to cut a video."""

    EXACT = "exact"
    COPY = "copy"


class Format(StrEnum):
    """Output formats of an answer."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    SRT = "srt"
    VTT = "vtt"
    VTT_CHAPTERS = "vtt-chapters"
    YOUTUBE = "youtube"
    FFMETADATA = "ffmetadata"
    EDL = "edl"
    OTIO = "otio"
    QVHIGHLIGHTS = "qvhighlights"


@dataclass(frozen=True)
class ModelOptions:
    """The model, and the device it runs on."""

    model: Annotated[str, typer.Option("--model", "-m", help="nano (built in), a converted folder, or a hub id.")] = (
        "nano"
    )
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, or int8 on CPUs.")] = "auto"
    lora_scale: Annotated[
        float | None,
        typer.Option(help="Strength of the LoRA adapter; the authors advise 0.625 for question answering."),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars and no notes.")] = False


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
        """Return the frame options."""
        from timechat.video.sampling import FrameSampling

        return FrameSampling(self.num_frames, self.fps, self.max_frames)


@dataclass(frozen=True)
class FrameOptions(FrameRateOptions):
    """Frames to take from a video, and the time to read them."""

    start: Annotated[
        float | None, typer.Option(help="Start of the part to use, in seconds.", rich_help_panel=_SAMPLING)
    ] = None
    end: Annotated[
        float | None, typer.Option(help="End of the part to use, in seconds.", rich_help_panel=_SAMPLING)
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
        float, typer.Option(help="Maximum time for reading the video, in seconds.", rich_help_panel=_SAMPLING)
    ] = 600.0

    def sampling(self) -> "FrameSampling":
        """Return the frame options."""
        kind = "keyframes" if self.keyframes else "exact"
        return replace(super().sampling(), start=self.start, end=self.end, sampling=kind)


@dataclass(frozen=True)
class WindowOptions:
    """Windows of long videos."""

    window: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Length of a window in seconds; 0 makes one window of the whole video. Default: as in training.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None
    overlap: Annotated[
        float | None, typer.Option(min=0, help="Overlap of neighboring windows in seconds.", rich_help_panel=_WINDOWS)
    ] = None
    step: Annotated[
        float | None,
        typer.Option(help="Seconds between frames; a larger value is faster and less exact.", rich_help_panel=_WINDOWS),
    ] = None
    refine: Annotated[
        bool | None,
        typer.Option(
            "--refine/--no-refine",
            help="Refine the borders of moments with denser frames. Default: if frames are over 0.5 s apart.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of windows in one batch.", rich_help_panel=_WINDOWS)
    ] = 8
    plan: Annotated[
        bool, typer.Option("--plan", help="Print an estimate of the job and stop.", rich_help_panel=_WINDOWS)
    ] = False

    def window_config(self) -> "WindowConfig":
        """Return the window options."""
        from timechat.answers.windows import WindowConfig

        return WindowConfig(self.window, self.overlap, self.step, self.refine, self.batch_size)


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
    preset: Annotated[str, typer.Option(help="Prompt preset.", rich_help_panel=_DECODING)] = "timechat@1"

    def decoding(self) -> "DecodingOptions":
        """Return the decoding options."""
        from timechat.answers.tasks import DecodingOptions

        return DecodingOptions(
            max_new_tokens=self.max_new_tokens,
            is_free=self.free,
            do_sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
        )


@dataclass(frozen=True)
class OutputOptions:
    """Files and format of the output."""

    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_OUTPUT)] = False
    format: Annotated[Format, typer.Option("--format", help="Output format.", rich_help_panel=_OUTPUT)] = Format.TEXT
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead of stdout.", rich_help_panel=_OUTPUT),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Also write an HTML page with video and timeline.", rich_help_panel=_OUTPUT),
    ] = None

    clips: Annotated[
        Path | None,
        typer.Option("--clips", help="Write every event as a clip into this folder.", rich_help_panel=_OUTPUT),
    ] = None
    reel: Annotated[
        Path | None,
        typer.Option("--reel", help="Join the events into one video: .mp4, .mov or .mkv.", rich_help_panel=_OUTPUT),
    ] = None
    cut: Annotated[
        CutMode,
        typer.Option(
            "--cut", help="exact encodes the clips; copy is fast, but cuts at keyframes only.", rich_help_panel=_OUTPUT
        ),
    ] = CutMode.EXACT

    def check_output(self, video: str) -> None:
        """Check, before any work is done, that all output files can be written."""
        from timechat.export import check_otio

        options = {"--output": self.output, "--html": self.html, "--reel": self.reel}
        files = {option: path for option, path in options.items() if path is not None}
        for (one, path), (other, other_path) in combinations(files.items(), 2):
            if path.absolute() == other_path.absolute():
                raise ValueError(f"{one} and {other} both name {path}; give them different files")
        if self.format is Format.OTIO and not self.as_json:
            check_otio()
        self._check_cuts()
        for path in files.values():
            if path.is_dir():
                raise ValueError(f"{path} is a folder; name a file in it")
            if not path.absolute().parent.is_dir():
                raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
            if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
                raise ValueError(f"{path} cannot be written: permission denied")
            if path.exists() and Path(video).exists() and path.samefile(video):
                raise ValueError(f"{path} is the video itself; name another file")

    def _check_cuts(self) -> None:
        if self.reel is not None:
            from timechat.video.clips.cut import check_target

            check_target(self.reel, self.cut.value)
        if self.clips is None:
            return
        if self.clips.exists() and not self.clips.is_dir():
            raise ValueError(f"{self.clips} is a file; name a folder for --clips")
        if not self.clips.absolute().parent.is_dir():
            raise ValueError(f"{self.clips} cannot be made: there is no folder {self.clips.parent}")
        if not os.access(self.clips if self.clips.exists() else self.clips.absolute().parent, os.W_OK):
            raise ValueError(f"{self.clips} cannot be written to: permission denied")


@dataclass(frozen=True)
class ChatOptions(DecodingCommandOptions, FrameOptions, ModelOptions):
    """Options of a conversation."""


@dataclass(frozen=True)
class TaskOptions(OutputOptions, TranscriptOptions, WindowOptions, ChatOptions):
    """Options of one request."""


@dataclass(frozen=True)
class MomentOptions:
    """Moments that a grounding answer keeps."""

    best: Annotated[int, typer.Option(min=1, help="Maximum number of moments, the best first.")] = 1
    find_all: Annotated[bool, typer.Option("--all", help="Return all moments in which it happens.")] = False
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum score of a moment. Default: the model's.")
    ] = None

    def selection(self) -> "MomentSelection":
        """Return the selection of moments; imports torch."""
        from timechat.pipeline import MomentSelection

        return MomentSelection(self.best, self.find_all, self.threshold)


@dataclass(frozen=True)
class EvidenceOptions:
    """Citations of free answers."""

    cite: Annotated[bool, typer.Option("--cite", help="Add the time of each sentence in the video: \\[m:ss–m:ss].")] = (
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
