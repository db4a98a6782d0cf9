"""One video and one model, as the commands bring them together."""

import math
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from timechat.cli.console import CommandConsole
from timechat.cli.options import ChatOptions, ModelOptions, TranscriptOptions, WindowOptions

if TYPE_CHECKING:
    from timechat.answers.events import Task
    from timechat.pipeline import EncodedVideo, TimeChat, VideoSession
    from timechat.speech import Transcript

Video = Annotated[str, typer.Argument(metavar="VIDEO", help="Path or http(s) address of a video.")]

_TOO_SMALL_TO_SHARE = 20_000_000  # parameters: below, cores wait for each other longer than they work


class Session:
    """Opens the video once, checks what can be checked, and loads the model last.

    Attributes:
        source: What the video can be read from again while the session lasts.
    """

    def __init__(self, video: str, settings: ChatOptions, console: CommandConsole) -> None:
        self._video, self._settings, self._console = video, settings, console
        self.source: str | IO[bytes] = video
        self._open_files = ExitStack()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()

    def check(self, task: "Task", query: str | None) -> None:
        """Find bad input while it is still cheap: before any model is loaded."""
        from timechat.answers.tasks import build_question, find_preset
        from timechat.video import probe_video
        from timechat.video.sampling import FrameSampling

        find_preset(self._settings.preset)
        build_question(task, query, preset=self._settings.preset)
        self._settings.decoding()
        options = self._settings.sampling_options()
        timeout = options.pop("timeout")
        FrameSampling(**{**options, "num_frames": options["num_frames"] or 1}, timestamps=None)
        self.source = self._read_once()
        probe_video(self.source, timeout=timeout)

    def encode(self) -> tuple["TimeChat", "EncodedVideo"]:
        """Load the model, and encode the video at one look; say what is to be said about both."""
        timechat = self._load_model()
        with self._console.progress() as progress:
            encoded = timechat.encode(self.source, progress=progress, **self._settings.sampling_options())
        encoded = replace(encoded, name=self._video)
        for note in (*timechat.notes, *encoded.notes):
            self._console.warn(note)
        return timechat, encoded

    def load_transcript(self, settings: TranscriptOptions) -> "Transcript | None":
        """Read what is said in the video, or listen to it, where that is wanted."""
        if settings.transcript is None and settings.asr is None:
            return None
        from timechat.speech.loading import load_transcript

        with self._console.progress() as progress:
            return load_transcript(
                self.source, transcript=settings.transcript, asr_model=settings.asr, progress=progress
            )

    def open(self, settings: WindowOptions, *, keep_in_memory: bool) -> tuple["TimeChat", "VideoSession"]:
        """Load the model and open the video, to be looked at window by window, perhaps more than once."""
        timechat = self._load_model()
        from timechat.pipeline import WindowSampling

        options = self._settings.sampling_options()
        timeout = options.pop("timeout")
        video = self._open_files.enter_context(
            timechat.open(
                self.source,
                window_config=settings.window_config(),
                sampling=WindowSampling(**options),
                keep_in_memory=keep_in_memory,
                timeout=timeout,
            )
        )
        video.name = self._video
        return timechat, video

    def _load_model(self) -> "TimeChat":
        return load_timechat(self._settings, self._console)

    def _read_once(self) -> str | IO[bytes]:
        """Copy a pipe into a temporary file: it is looked into more than once, but can be read only once."""
        if not Path(self._video).is_fifo():
            return self._video
        from timechat.video.source import Deadline, read_pipe

        file = self._open_files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the session
        for chunk in read_pipe(Path(self._video), Deadline(math.inf, self._video)):
            file.write(chunk)
        file.seek(0)
        return file


def load_timechat(settings: ModelOptions, console: CommandConsole) -> "TimeChat":
    """Load the model that the options name."""
    with console.working("loading the model"):
        from timechat.pipeline import TimeChat

        timechat = TimeChat.from_pretrained(
            settings.model, device=settings.device, dtype=settings.dtype, lora_scale=settings.lora_scale
        )
    choose_threads(timechat)
    return timechat


def choose_threads(timechat: "TimeChat") -> None:
    """Let one core do the work of a model that is too small to be shared by several."""
    import torch

    if timechat.model.num_parameters() < _TOO_SMALL_TO_SHARE:
        torch.set_num_threads(1)
