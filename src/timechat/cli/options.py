"""Options that commands share: declared once, spread over the commands' signatures."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from timechat.export import FORMATS

if TYPE_CHECKING:
    from timechat.answers.tasks import DecodingOptions
    from timechat.answers.windows import WindowConfig
    from timechat.pipeline import MomentSelection

Result = TypeVar("Result")

_SAMPLING = "Which frames are looked at"
_WINDOWS = "How long videos are looked at"
_TRANSCRIPT = "What is said in the video"
_DECODING = "How the answer is written"
_OUTPUT = "Where the answer goes"


class CutMode(StrEnum):
    """Ways to cut a video."""

    EXACT = "exact"
    COPY = "copy"


@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, and where it runs."""

    model: Annotated[str, typer.Option("--model", "-m", help="nano (built in), a converted folder, or a hub id.")] = (
        "nano"
    )
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, or int8 on CPUs.")] = "auto"
    lora_scale: Annotated[
        float | None,
        typer.Option(help="Strength of the LoRA adapter; 0.625 is advised for question answering."),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no notes.")] = False


@dataclass(frozen=True)
class FrameOptions:
    """Which frames are looked at."""

    num_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames spread over the video.", rich_help_panel=_SAMPLING)
    ] = None
    fps: Annotated[float | None, typer.Option(help="Frames a second instead.", rich_help_panel=_SAMPLING)] = None
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Most frames with --fps.", rich_help_panel=_SAMPLING)
    ] = None
    start: Annotated[float | None, typer.Option(help="Look from this second on.", rich_help_panel=_SAMPLING)] = None
    end: Annotated[float | None, typer.Option(help="Look up to this second.", rich_help_panel=_SAMPLING)] = None
    keyframes: Annotated[
        bool,
        typer.Option(
            "--keyframes",
            help="Take the nearest keyframes, with their true times: faster, coarser.",
            rich_help_panel=_SAMPLING,
        ),
    ] = False

    timeout: Annotated[
        float, typer.Option(help="Seconds after which reading the video is given up.", rich_help_panel=_SAMPLING)
    ] = 600.0

    def sampling_options(self) -> dict[str, Any]:
        """Return these options as `TimeChat.encode` takes them."""
        return {
            "num_frames": self.num_frames,
            "fps": self.fps,
            "max_frames": self.max_frames,
            "start": self.start,
            "end": self.end,
            "sampling": "keyframes" if self.keyframes else "exact",
            "timeout": self.timeout,
        }


@dataclass(frozen=True)
class WindowOptions:
    """How long videos are looked at."""

    window: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds of one window; 0 looks at the whole video at once. Default: as the model was trained.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that windows share, at most half a window.", rich_help_panel=_WINDOWS),
    ] = None
    step: Annotated[
        float | None,
        typer.Option(help="Seconds from frame to frame; larger is faster and coarser.", rich_help_panel=_WINDOWS),
    ] = None
    refine: Annotated[
        bool | None,
        typer.Option(
            "--refine/--no-refine",
            help="Look again at moments with denser frames. Default: where the step is over half a second.",
            rich_help_panel=_WINDOWS,
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Windows that are asked about at once.", rich_help_panel=_WINDOWS)
    ] = 8
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what the job will take, and stop.", rich_help_panel=_WINDOWS)
    ] = False

    def window_config(self) -> "WindowConfig":
        """Return these options as the pipeline takes them."""
        from timechat.answers.windows import WindowConfig

        return WindowConfig(self.window, self.overlap, self.step, self.refine, self.batch_size)


@dataclass(frozen=True)
class TranscriptOptions:
    """What is said in the video, told with the question."""

    transcript: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What is said: SRT, WebVTT, Whisper's JSON or lines of start, end, words.",
            rich_help_panel=_TRANSCRIPT,
        ),
    ] = None
    asr: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Listen with this faster-whisper model.", rich_help_panel=_TRANSCRIPT),
    ] = None


@dataclass(frozen=True)
class DecodingCommandOptions:
    """How the answer is written."""

    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=_DECODING)
    ] = 512
    free: Annotated[
        bool,
        typer.Option("--free", help="Do not keep the answer in its task's form.", rich_help_panel=_DECODING),
    ] = False
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Draw the answer, as the original does.", rich_help_panel=_DECODING),
    ] = False
    temperature: Annotated[float, typer.Option(help="Of --sample.", rich_help_panel=_DECODING)] = 1.0
    top_p: Annotated[float, typer.Option(help="Of --sample.", rich_help_panel=_DECODING)] = 0.9
    top_k: Annotated[int, typer.Option(help="Of --sample.", rich_help_panel=_DECODING)] = 50
    seed: Annotated[int, typer.Option(help="Of --sample.", rich_help_panel=_DECODING)] = 42
    preset: Annotated[str, typer.Option(help="Wording of the question.", rich_help_panel=_DECODING)] = "timechat@1"

    def decoding(self) -> "DecodingOptions":
        """Return these options as the pipeline takes them."""
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
    """Where the answer goes, and in which form."""

    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_OUTPUT)] = False
    format: Annotated[
        str,
        typer.Option("--format", metavar=f"<{'|'.join(FORMATS)}>", help="Form of the answer.", rich_help_panel=_OUTPUT),
    ] = "text"
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead of stdout.", rich_help_panel=_OUTPUT),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with video and timeline too.", rich_help_panel=_OUTPUT),
    ] = None

    clips: Annotated[
        Path | None,
        typer.Option("--clips", help="Cut every event into a file of its own in this folder.", rich_help_panel=_OUTPUT),
    ] = None
    reel: Annotated[
        Path | None,
        typer.Option("--reel", help="Join the events into one film, as .mp4, .mov or .mkv.", rich_help_panel=_OUTPUT),
    ] = None
    cut: Annotated[
        CutMode,
        typer.Option(
            "--cut", help="exact encodes cuts anew; copy is quick, but keeps to keyframes.", rich_help_panel=_OUTPUT
        ),
    ] = CutMode.EXACT

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {self.format!r}")

    def check_output(self, video: str) -> None:
        """Refuse, before any work is done, a place that cannot be written to or must not be."""
        named = {"--output": self.output, "--html": self.html, "--reel": self.reel}
        places = {option: path for option, path in named.items() if path is not None}
        for (one, path), (other, same) in combinations(places.items(), 2):
            if path.absolute() == same.absolute():
                raise ValueError(f"{one} and {other} both name {path}; give them different files")
        if not self.as_json:
            FORMATS[self.format].check()
        self._check_cuts()
        for path in places.values():
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
            from timechat.video.clips import check_target

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
    """What a conversation needs to know."""


@dataclass(frozen=True)
class TaskOptions(OutputOptions, TranscriptOptions, WindowOptions, ChatOptions):
    """What one question needs to know."""


@dataclass(frozen=True)
class MomentOptions:
    """Which moments are wanted."""

    best: Annotated[int, typer.Option(min=1, help="Most moments, the best first.")] = 1
    find_all: Annotated[bool, typer.Option("--all", help="All moments in which it happens.")] = False
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of a moment. Default: the model's.")
    ] = None

    def selection(self) -> "MomentSelection":
        """Return these options as the pipeline takes them; imports torch."""
        from timechat.pipeline import MomentSelection

        return MomentSelection(self.best, self.find_all, self.threshold)


@dataclass(frozen=True)
class EvidenceOptions:
    """Whether sentences say when they can be seen."""

    cite: Annotated[bool, typer.Option("--cite", help=r"Let each sentence say when it can be seen: \[m:ss–m:ss].")] = (
        False
    )
    verify: Annotated[
        bool, typer.Option("--verify", help="Cite, ask for each sentence again, and mark what does not hold.")
    ] = False


def expand_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Spread parameters that are settings classes into one option a field.

    Typer reads a command's options from its signature; this writes that signature.
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
