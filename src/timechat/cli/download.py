"""`timechat download`: the original checkpoint's files into the folders that `timechat convert` reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from timechat.download import Progress


def download(
    directory: Annotated[
        Path | None, typer.Argument(metavar="CKPT_DIR", help="The folder that gets the files.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PART", help="Fetch this part only; may be given again."),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The weights that the paper measured, not the released ones.")
    ] = False,
    without_stage2: Annotated[
        bool,
        typer.Option("--without-stage2", help="Leave out what only the start of stage-2 training needs."),
    ] = False,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="TOKEN", help="Hub access token; better given in HF_TOKEN, unseen by others."),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print the parts and their licence terms, and fetch nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars and no notes.")] = False,
) -> None:
    """Fetch the original TimeChat's files, going on where an earlier run stopped."""
    from timechat.download import choose_parts, describe_parts
    from timechat.download import download as fetch

    parts = choose_parts(only or (), paper=paper, without_stage2=without_stage2)
    if list_only:
        typer.echo(describe_parts(parts))
        return
    if directory is None:
        raise ValueError("CKPT_DIR is missing: timechat download CKPT_DIR, or timechat download --list")
    if not quiet:
        for terms in dict.fromkeys(f"{part.licence.title}. {part.licence.terms}" for part in parts):
            typer.echo(f"licence: {terms}", err=True)

    with _ProgressBars(is_shown=not quiet) as bars:
        found = fetch(directory, parts, token=token, on_progress=bars.update)

    for file in found:
        typer.echo(f"{file.path}\t{file.size}\tsha256:{file.sha256}\t{'kept' if file.was_there else 'fetched'}")
    if not quiet:
        weights = " --timechat " + str(directory / "timechat/timechat_7b_paper.pth") if paper else ""
        typer.echo(f"next: timechat convert --from {directory}{weights} OUT_DIR", err=True)


class _ProgressBars:
    """A bar a file on stderr, shown on a terminal only."""

    def __init__(self, *, is_shown: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (is_shown and console.is_terminal),
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> "_ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, progress: "Progress") -> None:
        key = (progress.path, progress.stage)
        if key not in self._tasks:
            description = f"{progress.stage} {progress.path.rpartition('/')[2]}"
            self._tasks[key] = self._bars.add_task(description, total=progress.total)
        self._bars.update(self._tasks[key], completed=progress.done, total=progress.total)
