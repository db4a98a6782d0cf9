"""`timechat index`: bring a library up to date with files and folders."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.answers.events import format_time
from timechat.cli.model_options import GENERAL
from timechat.cli.session import CommandConsole
from timechat.cli.stop import EXIT_STOPPED, stop_signal
from timechat.errors import printable_line
from timechat.files.cache import readable_size

if TYPE_CHECKING:
    from timechat.search.encoded_files import EncodeFiles
    from timechat.search.encoder import FrameTextEncoder
    from timechat.search.index_report import IndexReport
    from timechat.search.library import LibraryInfo
    from timechat.search.line_sources import LineSource

_SOURCES = "What is read"
_OTHER = "Instead of indexing"
_MACHINES = "Several processes or machines"
_FAILED = 1  # exit status if a file could not be read

LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library", metavar="FILE", help="Library file. Default: $TIMECHAT_LIBRARY or the user's data folder."
    ),
]


def index(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", help="Files, folders and patterns.")] = None,
    library: LibraryOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="sight (built in), or the folder or hub id of a CLIP or SigLIP model. Default: that of the library.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    asr: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Recognize the speech of videos without subtitles: folder or name of a Whisper model (extra asr).",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Language of speech and subtitles, such as en.", rich_help_panel=_SOURCES),
    ] = None,
    ocr: Annotated[
        bool,
        typer.Option("--ocr", help="Read the text on the screen after cuts (extra ocr).", rich_help_panel=_SOURCES),
    ] = False,
    captions: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Let a video language model describe each video: a model as for timechat caption.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Read everything again; the same command resumes after a stop.", rich_help_panel=_SOURCES
        ),
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try files again that could not be read.", rich_help_panel=_SOURCES)
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Maximum time in minutes; the same command resumes.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|HOST:PORT",
            help="Ray cluster that encodes the frames (extra batch); see timechat batch.",
            rich_help_panel=_MACHINES,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes that encode. Default: 1.", rich_help_panel=_MACHINES),
    ] = None,
    info: Annotated[bool, typer.Option("--info", help="Show what the library holds.", rich_help_panel=_OTHER)] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Remove these files and folders from the library.", rich_help_panel=_OTHER),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="Write all rows as a table.", rich_help_panel=_OTHER),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=GENERAL)] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress bars and no notes.", rich_help_panel=GENERAL)
    ] = False,
) -> None:
    """Index videos for search; only what is new or changed is read."""
    from timechat.search import Library

    if actors is not None and ray is None:
        raise ValueError(f"--actors {actors} has an effect only with --ray; leave it out")
    console = CommandConsole(quiet=quiet)
    given = list(paths or ())
    others = {"--info": info, "--remove": remove, "--export": export is not None}
    chosen = [option for option, is_given in others.items() if is_given]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} were given; give one of them")
    if bool(given) == (info or export is not None):
        problem = f"{chosen[0]} takes no paths" if given else "Missing argument 'PATH...' (try --help)"
        raise ValueError(problem)
    if export is not None and export.suffix.lower() != ".parquet":
        raise ValueError(f"--export {export}: must end in .parquet; other kinds of tables are not written")
    if info or export is not None:
        with Library(library, is_read_only=True) as opened:
            if export is not None:
                from timechat.search.tables import write_parquet

                console.info(f"{write_parquet(opened, export)} rows written to {export}")
                return
            summary = opened.info()
        typer.echo(json.dumps(asdict(summary), indent=2) if as_json else _describe(summary))
        return
    if ray is not None and not remove:
        _check_cluster(ray, actors)
    # A model that cannot be loaded leaves no empty library behind.
    sources = [] if remove else _sources(asr, language, captions, ocr=ocr)
    with Library(library) as opened:
        if remove:
            number = opened.remove(given)
            typer.echo(json.dumps({"removed": number}) if as_json else f"{number} files removed from {opened.path}")
            return
        options: dict[str, Any] = {"encoder": encoder, "sources": sources, "full": full, "retry": retry}
        if ray is not None:
            options["encode_files"] = _on_cluster(opened.encoder(encoder), ray, actors)
        report, is_stopped = _run(opened, given, options, minutes, console)
    _show(report, str(opened.path), console, as_json=as_json, is_stopped=is_stopped)
    if is_stopped:
        raise typer.Exit(EXIT_STOPPED)
    if report.failed:
        raise typer.Exit(_FAILED)


def _sources(asr: str | None, language: str | None, captions: str | None, *, ocr: bool) -> "list[LineSource]":
    """Return the readers of lines that the options ask for."""
    from timechat.search.line_sources import SpeechLines

    sources: list[LineSource] = [SpeechLines(asr, language=language)]
    if ocr:
        from timechat.search.screen_text import ScreenText

        sources.append(ScreenText())
    if captions is not None:
        from timechat.pipeline import TimeChat
        from timechat.pipeline.caption_lines import CaptionLines

        sources.append(CaptionLines(TimeChat.from_pretrained(captions)))
    return sources


def _check_cluster(address: str, actors: int | None) -> None:
    """Refuse a missing extra and a pool that does not fit, before a model is loaded."""
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or a thread of Ray connects again after a stop
    from timechat.batch.ray_data import check_pool

    check_pool(address, actors)


def _on_cluster(encoder: "FrameTextEncoder", address: str, actors: int | None) -> "EncodeFiles":
    """Return the function that encodes files on a Ray cluster."""
    from timechat.batch.encoding import ClusterEncoder, EncodeVideo

    return ClusterEncoder(EncodeVideo(encoder.name, encoder.fingerprint), address, actors)


def _run(
    library: Any, paths: Sequence[str], options: dict[str, Any], minutes: float | None, console: CommandConsole
) -> tuple["IndexReport", bool]:
    """Index paths; return the report, and whether the work was stopped."""
    from timechat.search.index_report import IndexStopped

    with stop_signal(minutes, "now; what is finished is kept") as is_stopped, console.progress() as bars:

        def check() -> None:
            if is_stopped():
                raise IndexStopped

        try:
            report = library.index(
                paths, check=check, progress=lambda _, done, total: bars("index", done, total), **options
            )
        except IndexStopped as stopped:
            return stopped.report, True
    return report, False


def _show(report: "IndexReport", library: str, console: CommandConsole, *, as_json: bool, is_stopped: bool) -> None:
    for note in report.notes:
        console.warn(note)
    for path, reason in report.failed.items():
        typer.echo(f"timechat: {printable_line(f'{path}: {reason}')}", err=True)
    if as_json:
        typer.echo(json.dumps({"library": library, "stopped": is_stopped, **asdict(report)}, indent=2))
        return
    counts = {
        "read": report.num_read,
        "unchanged": report.num_unchanged,
        "moved": report.num_moved,
        "removed": report.num_removed,
        "offline": len(report.offline),
        "failed": len(report.failed),
    }
    said = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    typer.echo(f"{report.num_videos} videos indexed{f' ({said})' if said else ''} in {library}")
    if is_stopped:
        typer.echo("stopped before the end; the same command resumes", err=True)


def _describe(info: "LibraryInfo") -> str:
    rows = ", ".join(f"{number} {kind}" for kind, number in sorted(info.rows.items())) or "none"
    lines = [
        f"library  {info.library}",
        f"encoder  {info.encoder or 'none'}",
        f"videos   {info.num_videos}, {format_time(info.seconds)} in all",
        f"rows     {rows}",
        f"size     {readable_size(info.num_bytes)}",
    ]
    lines += [f"offline  {printable_line(path)}" for path in info.offline]
    lines += [f"failed   {printable_line(f'{path}: {reason}')}" for path, reason in info.failed.items()]
    return "\n".join(lines)
