"""`timechat download`: the files of the original checkpoint, in the layout that `timechat convert` reads."""

from pathlib import Path
from typing import Annotated

import typer


def download(
    directory: Annotated[Path | None, typer.Argument(metavar="[CKPT_DIR]", help="Folder for the files.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PART", help="Download only this part; can be repeated."),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Download the weights that the paper measured, not the released ones.")
    ] = False,
    without_stage2: Annotated[
        bool,
        typer.Option("--without-stage2", help="Leave out the file that only the start of stage-2 training needs."),
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="TOKEN", help="Hub access token. HF_TOKEN is safer: other users cannot see it."
        ),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print the parts and their licence terms; download nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars and no notes.")] = False,
) -> None:
    """Download the files of the original TimeChat; resume where an earlier run stopped."""
    from timechat.model.download import choose_parts, describe_parts
    from timechat.model.download import download as fetch

    parts = choose_parts(only or (), paper=paper, without_stage2=without_stage2)
    if list_only and directory is not None:
        raise ValueError("--list downloads nothing; leave out CKPT_DIR")
    if list_only:
        typer.echo(describe_parts(parts))
        return
    if directory is None:
        raise ValueError("CKPT_DIR is missing: timechat download CKPT_DIR, or timechat download --list")
    if not quiet:
        for terms in dict.fromkeys(f"{part.licence.title}. {part.licence.terms}" for part in parts):
            typer.echo(f"licence: {terms}", err=True)

    for file in fetch(directory, parts, token=token, show_progress=not quiet):
        typer.echo(f"{file.path}\t{file.size}\tsha256:{file.sha256}\t{'kept' if file.is_kept else 'fetched'}")
    if not quiet:
        weights = " --timechat " + str(directory / "timechat/timechat_7b_paper.pth") if paper else ""
        typer.echo(f"next: timechat convert --from {directory}{weights} OUT_DIR", err=True)
