"""The console, the video and the model of a command."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from timechat.cli.model_options import ModelOptions
from timechat.cli.options import ChatOptions, TranscriptOptions, WindowOptions
from timechat.cli.videos import STDIN
from timechat.errors import VideoError, printable_line

if TYPE_CHECKING:
    from timechat.answers.events import Task
    from timechat.pipeline import EncodedVideo, TimeChat, VideoSession
    from timechat.speech import Transcript
    from timechat.video import VideoInfo

_STAGES = {
    "decode": "decoding frames",
    "encode": "encoding frames",
    "windows": "answering",
    "search": "searching frames",
    "listen": "recognizing speech",
    "write": "writing weights",
    "index": "indexing",
}

Video = Annotated[
    str, typer.Argument(metavar="VIDEO", help="Path or address of a video; - is a video on standard input.")
]


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
    """A video that is opened once, probed before a model is loaded, and closed at the end; a context manager.

    Attributes:
        name: Path or address of the video, as given.
        source: Path, address or file from which the video can be read any number of times.
        info: Facts from the header of the video; None before `probe`.
        transcript: Speech in the video; None if no option asks for it.
    """

    def __init__(self, name: str, settings: ChatOptions, console: CommandConsole) -> None:
        self.name, self._settings, self._console = name, settings, console
        self.source: str | IO[bytes] = name
        self.info: VideoInfo | None = None
        self.transcript: Transcript | None = None
        self._open_files = ExitStack()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the video."""
        self._open_files.close()

    def probe(self) -> None:
        """Read the header of the video."""
        from timechat.video import probe_video

        self.source = self._read_once()
        self.info = probe_video(self.source, timeout=self._settings.timeout)

    def encode(self) -> tuple["TimeChat", "EncodedVideo"]:
        """Load the model and encode the video as one window."""
        timechat = load_timechat(self._settings, self._console, use_cache=not self._settings.no_cache)
        sampling, timeout = self._settings.sampling(), self._settings.timeout
        with self._console.progress() as progress:
            encoded = timechat.encode(self.source, sampling, timeout=timeout, progress=progress)
        return timechat, replace(encoded, name=self.name)

    def load_transcript(
        self, settings: TranscriptOptions, *, is_answer: bool = False, reads_subtitles: bool = False
    ) -> None:
        """Read the transcript, or recognize the speech, if the options ask for it.

        Args:
            settings: Options that name a transcript or a recogniser.
            is_answer: Whether the transcript is the answer, with all its lines, and not a part of a prompt.
            reads_subtitles: Whether the subtitles of the video are the transcript if the options name none.
        """
        if settings.transcript is None and settings.asr is None and not reads_subtitles:
            return
        from timechat.speech.loading import load_transcript

        with self._console.progress() as progress:
            self.transcript = load_transcript(
                self.source,
                info=self.info,
                transcript=settings.transcript,
                asr_model=settings.asr,
                is_cleaned=not is_answer,
                timeout=self._settings.timeout,
                progress=progress,
            )

    def open(self, timechat: "TimeChat", settings: WindowOptions, *, keep_in_memory: bool) -> "VideoSession":
        """Open the video; `keep_in_memory` is for more than one request."""
        video = timechat.open(
            self.source,
            windows=settings.window_config(),
            sampling=self._settings.sampling(),
            keep_in_memory=keep_in_memory,
            name=self.name,
            timeout=self._settings.timeout,
        )
        return self._open_files.enter_context(video)

    def _read_once(self) -> str | IO[bytes]:
        """Copy a pipe or standard input into a temporary file, because they can be read only once."""
        if self.name != STDIN and not Path(self.name).is_fifo():
            return self.name
        from timechat.video.limits import Deadline
        from timechat.video.source import read_open_pipe, read_pipe

        deadline = Deadline(self._settings.timeout, self.name)
        is_stdin = self.name == STDIN
        chunks = read_open_pipe(binary_stdin(), deadline) if is_stdin else read_pipe(Path(self.name), deadline)
        file = self._open_files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the session
        for chunk in chunks:
            file.write(chunk)
        if is_stdin and not file.tell():
            raise VideoError(f"{STDIN}: standard input is empty; expected the content of a video file")
        file.seek(0)
        return cast(IO[bytes], _NamedFile(file, self.name))


def binary_stdin() -> IO[bytes]:
    """Return standard input as a binary file; a terminal holds no video."""
    if sys.stdin is None or sys.stdin.isatty():
        raise VideoError(f"{STDIN}: standard input is a terminal; send a video to it, as in: timechat info - < a.mp4")
    return sys.stdin.buffer


class _NamedFile:
    """A file whose name in messages is that of the video."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self.name = file, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._file, attribute)


def check_request(task: "Task", query: str | None, settings: ChatOptions) -> None:
    """Check the options of a request before any file is opened."""
    from timechat.answers.prompts import DEFAULT_PRESET
    from timechat.answers.tasks import build_question, find_preset

    preset = settings.preset or DEFAULT_PRESET
    find_preset(preset)
    build_question(task, query, preset=preset)
    settings.decoding()
    settings.sampling()


def load_timechat(settings: ModelOptions, console: CommandConsole, *, use_cache: bool = True) -> "TimeChat":
    """Load the model that the options name.

    Args:
        settings: Name of the model, device and number format.
        console: Console that shows that work is running.
        use_cache: Whether the model reads and writes the cache of tokens and answers.
    """
    engine = settings.engine_arguments()
    with console.working("loading the model"):
        from timechat.pipeline import TimeChat
        from timechat.pipeline.timechat import choose_threads

        timechat = TimeChat.from_pretrained(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
            lora_scale=settings.lora_scale,
            picture_side=settings.picture_side,
            endpoint=settings.endpoint_settings(),
            **engine,
        )
        privacy_note = timechat.backbone.config.privacy_note
    if privacy_note is not None:
        console.warn(privacy_note)
    if not use_cache:
        switch_cache_off(timechat)
    choose_threads(timechat)
    return timechat


def switch_cache_off(timechat: "TimeChat") -> None:
    """Let a model neither read nor write the cache of tokens and answers."""
    from timechat.files.cache import DiskCache

    timechat.cache = DiskCache(max_bytes=0)
