"""Progress bars and notes of a command, on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_STAGES = {
    "decode": "decoding frames",
    "encode": "encoding frames",
    "windows": "answering",
    "listen": "recognizing speech",
    "write": "writing weights",
}


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
            typer.echo(f"note: {text}", err=True)

    def info(self, text: str) -> None:
        """Print a line of information."""
        if not self._quiet:
            typer.echo(text, err=True)


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
