"""The console, the video and the model of a command."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from timechat.cli.options import ChatOptions, ModelOptions, TranscriptOptions, WindowOptions
from timechat.errors import printable_line

if TYPE_CHECKING:
    from timechat.answers.events import Task
    from timechat.pipeline import EncodedVideo, TimeChat, VideoSession
    from timechat.speech import Transcript

_STAGES = {
    "decode": "decoding frames",
    "encode": "encoding frames",
    "windows": "answering",
    "listen": "recognizing speech",
    "write": "writing weights",
}

Video = Annotated[str, typer.Argument(metavar="VIDEO", help="Path or http(s) address of a video.")]

_ONE_THREAD_PARAMETERS = 20_000_000  # with fewer parameters, several threads are slower than one


class CommandConsole:
    """Progress bars and notes of one command: none with `--quiet`, bars only on a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._shows_bars = not quiet and self._console.is_terminal

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show that work of unknown length is running."""
        if not self._shows_bars:
            yield
            return
        with self._console.status(what):
            yield

    @contextmanager
    def progress(self) -> Iterator["ProgressBars"]:
        """Show one progress bar for each stage."""
        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._shows_bars,
            transient=True,
        )
        with bars:
            yield ProgressBars(bars)

    def warn(self, text: str) -> None:
        """Print a note."""
        if not self._quiet:
            typer.echo(f"note: {printable_line(text)}", err=True)

    def info(self, text: str) -> None:
        """Print a line of information."""
        if not self._quiet:
            typer.echo(printable_line(text), err=True)


class ProgressBars:
    """Progress bars as a progress callback."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Update the bar of a stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(_STAGES.get(stage, stage), total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


class Session:
    """Opens the video once, checks the input, and loads the model last; a context manager.

    Attributes:
        source: Path, address or file from which the video can be read any number of times.
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
        """Check the options and probe the video, before torch is imported and a model is loaded."""
        from timechat.answers.tasks import build_question, find_preset
        from timechat.video import probe_video

        find_preset(self._settings.preset)
        build_question(task, query, preset=self._settings.preset)
        self._settings.decoding()
        self._settings.sampling()
        self.source = self._read_once()
        probe_video(self.source, timeout=self._settings.timeout)

    def encode(self) -> tuple["TimeChat", "EncodedVideo"]:
        """Load the model and encode the video as one window; show the notes of both."""
        timechat = load_timechat(self._settings, self._console)
        sampling, timeout = self._settings.sampling(), self._settings.timeout
        with self._console.progress() as progress:
            encoded = timechat.encode(self.source, sampling, timeout=timeout, progress=progress)
        encoded = replace(encoded, name=self._video)
        for note in (*timechat.notes, *encoded.notes):
            self._console.warn(note)
        return timechat, encoded

    def load_transcript(self, settings: TranscriptOptions) -> "Transcript | None":
        """Read the transcript, or recognize the speech, if the options ask for it."""
        if settings.transcript is None and settings.asr is None:
            return None
        from timechat.speech.loading import load_transcript

        with self._console.progress() as progress:
            return load_transcript(
                self.source, transcript=settings.transcript, asr_model=settings.asr, progress=progress
            )

    def open(self, settings: WindowOptions, *, keep_in_memory: bool) -> tuple["TimeChat", "VideoSession"]:
        """Load the model and open the video; `keep_in_memory` is for more than one request."""
        timechat = load_timechat(self._settings, self._console)
        video = timechat.open(
            self.source,
            windows=settings.window_config(),
            sampling=self._settings.sampling(),
            keep_in_memory=keep_in_memory,
            name=self._video,
            timeout=self._settings.timeout,
        )
        return timechat, self._open_files.enter_context(video)

    def _read_once(self) -> str | IO[bytes]:
        """Copy a pipe into a temporary file, because a pipe can be read only once."""
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
    """Use one thread for a model that is too small for several."""
    import torch

    if timechat.model.num_parameters() < _ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
