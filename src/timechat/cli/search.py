"""`timechat search`: moments of videos that match words or look like a picture."""

import glob
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.cli.index import LibraryOption
from timechat.cli.model_options import GENERAL
from timechat.cli.options import expand_options
from timechat.cli.outputs import OutputOptions, write_results
from timechat.cli.session import CommandConsole
from timechat.cli.times import time_from
from timechat.cli.videos import output_names
from timechat.errors import VideoError
from timechat.export import FORMATS
from timechat.files import is_below

if TYPE_CHECKING:
    from timechat.answers.events import Answer
    from timechat.search import Library
    from timechat.search.moments import SearchResult

_FILTERS = "Videos to search"
_NOT_FOUND = 1  # exit status with --exit-status


def _date(text: str) -> float:
    """Return the seconds since 1970 of a date such as 2025-07-31 or 2025-07-31T12:00, in the local time zone."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):  # a year that the system does not know
        raise ValueError("must be a date such as 2025-07-31 or 2025-07-31T18:30") from None


@expand_options
def search(
    output: OutputOptions,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS [PATH...]", help="What to see or hear, and the videos and folders to search."),
    ] = None,
    library: LibraryOption = None,
    like: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Search for frames like this image instead of words.")
    ] = None,
    best: Annotated[int, typer.Option(min=1, help="Maximum number of moments.")] = 5,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encoder for videos that are not in a library. Default: sight.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="File names, such as 'IMG_*'.", rich_help_panel=_FILTERS)
    ] = None,
    since: Annotated[
        float | None,
        typer.Option(parser=_date, metavar="DATE", help="Recorded on this date or later.", rich_help_panel=_FILTERS),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(parser=_date, metavar="DATE", help="Recorded before this date.", rich_help_panel=_FILTERS),
    ] = None,
    min_length: Annotated[
        float | None,
        typer.Option(parser=time_from(0), metavar="TIME", help="Minimum duration.", rich_help_panel=_FILTERS),
    ] = None,
    max_length: Annotated[
        float | None,
        typer.Option(parser=time_from(0), metavar="TIME", help="Maximum duration.", rich_help_panel=_FILTERS),
    ] = None,
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Exit with status 0 if it is found and 1 if it is not found.")
    ] = False,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Neither read nor write the cache of frame vectors.", rich_help_panel=GENERAL),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress bars and no notes.", rich_help_panel=GENERAL)
    ] = False,
) -> None:
    """Find moments in a library, or in videos that are not indexed yet."""
    from timechat.search.moments import join_results
    from timechat.search.query import SearchFilters

    console = CommandConsole(quiet=quiet)
    given = list(arguments or ())
    words = "" if like is not None or not given else given.pop(0)
    if like is None and not words.strip():
        raise ValueError("the words to search for are missing; describe what to see or hear, or give --like PICTURE")
    _check_output(output)
    filters = SearchFilters((), name, since, until, min_length, max_length)
    with ExitStack() as stack:
        parts = _libraries(given, library, encoder, console, stack, use_cache=not no_cache)
        results = [
            part.search(words, like=like, best=best, filters=replace(filters, only=only)) for part, only in parts
        ]
    result = join_results(results, best)
    for note in result.notes:
        console.warn(note)
    _write(result, output, console)
    if exit_status and not result.found:
        raise typer.Exit(_NOT_FOUND)


def _libraries(
    paths: Sequence[str],
    library: Path | None,
    encoder: str | None,
    console: CommandConsole,
    stack: ExitStack,
    *,
    use_cache: bool,
) -> "list[tuple[Library, frozenset[str] | None]]":
    """Open the library, and index videos that it does not hold; return both, each with the files to search, or None.

    A library that is named answers alone. Otherwise, videos that are not in the user's library, or that have changed,
    are indexed into memory; their frame vectors come from the cache if they were searched before.
    """
    from timechat.search import Library, default_library
    from timechat.search.paths import check_paths

    if library is not None and encoder is not None:
        raise ValueError("--encoder is for videos that are not in a library, which has its own; leave out one of them")
    opened = None
    if library is not None or not paths or (encoder is None and default_library().is_file()):
        opened = stack.enter_context(Library(library, is_read_only=True))
    if opened is None:
        check_paths(paths)
        return [(_index_in_memory(_find(paths, console), encoder, console, stack, use_cache=use_cache), None)]
    if not paths:
        return [(opened, None)]
    known, unknown = opened.split_known(_expanded(paths))
    in_library = frozenset(file.path for file in opened.files() if any(is_below(file.path, root) for root in known))
    if library is not None:
        if not known:
            raise ValueError(f"{unknown[0]}: is not in {library}; index it with: timechat index --library {library}")
        for path in unknown:
            console.warn(f"{path}: is not in {library}; index it with: timechat index")
        return [(opened, in_library)]
    check_paths(unknown)
    changed = opened.without_current(_find(paths, console, may_be_empty=bool(in_library)))
    parts: list[tuple[Library, frozenset[str] | None]] = []
    if in_library.difference(changed):  # also those whose storage is away
        parts.append((opened, in_library.difference(changed)))
    if changed:
        name = opened.setting("encoder")
        parts.append((_index_in_memory(changed, name, console, stack, use_cache=use_cache), None))
    return parts


def _expanded(paths: Sequence[str]) -> list[str]:
    """Return the paths, with the files of each pattern instead of it."""
    from timechat.search.paths import find_files

    return [
        file
        for path in paths
        for file in ([path] if Path(path).exists() or not glob.has_magic(path) else find_files([path]) or [path])
    ]


def _find(paths: Sequence[str], console: CommandConsole, *, may_be_empty: bool = False) -> list[str]:
    """Return the videos of files, folders and patterns; a folder that cannot be read is a note.

    Raises:
        VideoError: There is no video.
    """
    from timechat.search.paths import find_files

    files = find_files(paths, lambda folder, error: console.warn(f"{folder}: {error.strerror}; it was not searched"))
    if not files and not may_be_empty:
        what = "is a folder without videos" if len(paths) == 1 else "are folders without videos"
        raise VideoError(f"{', '.join(paths)}: {what}; give a video file, a folder of videos or a pattern")
    return files


def _index_in_memory(
    paths: Sequence[str], encoder: str | None, console: CommandConsole, stack: ExitStack, *, use_cache: bool
) -> "Library":
    """Index videos into a library in memory; frame vectors come from the cache if they were searched before."""
    from timechat.files.cache import DiskCache
    from timechat.search import Library

    library = stack.enter_context(Library(":memory:"))
    with console.progress() as bars:
        report = library.index(
            paths,
            encoder=encoder,
            cache=DiskCache() if use_cache else None,
            progress=lambda _, done, total: bars("index", done, total),
        )
    for note in report.notes:
        console.warn(note)
    for path, reason in report.failed.items():
        if not report.num_videos:
            raise VideoError(f"{path}: {reason}")
        console.warn(f"{path}: {reason}")
    return library


def _check_output(output: OutputOptions) -> None:
    """Check the options of the output before any work is done; the videos are not known yet."""
    output.check_output([], is_many=output.output_dir is not None)


def _write(result: "SearchResult", output: OutputOptions, console: CommandConsole) -> None:
    """Write the moments, the page and the clips."""
    from timechat.export import write_as, write_text_atomically

    form = output.form
    answers = result.answers() if result.found or form == "text" else []
    if output.output_dir is not None:
        if answers:
            output.output_dir.mkdir(exist_ok=True)
        else:
            console.warn(f"nothing was found, so no file was written to {output.output_dir}")
        names = output_names([str(answer.video) for answer in answers], FORMATS[form].extension)
        for answer, name in zip(answers, names, strict=True):
            write_text_atomically(output.output_dir / name, write_as(answer, form))
    elif output.writes_results and output.output is not None:
        write_results(output.output, answers)
    else:
        text = _as_text(result, form, answers)
        if output.output is None:
            typer.echo(text, nl=False)
        else:
            write_text_atomically(output.output, text)
    if output.html is not None:
        from timechat.export.search_page import to_search_page
        from timechat.video.thumbnails import thumbnail_or_none

        folder = output.html.resolve().parent
        page = to_search_page(result.query, result.answers(), thumbnail_or_none, found=result.found, page_folder=folder)
        write_text_atomically(output.html, page)
    _cut(answers, output, console, is_found=result.found)


def _as_text(result: "SearchResult", form: str, answers: "Sequence[Answer]") -> str:
    from timechat.answers.events import Event, printable
    from timechat.export import write_as
    from timechat.export.text import time_range

    if form == "json":
        text = json.dumps(result.to_dict(), ensure_ascii=False, indent=2) + "\n"
        return text.encode("utf-8", "backslashreplace").decode()
    if form == "jsonl":
        moments = result.shown_moments if result.found else ()
        return "".join(json.dumps(moment.to_dict()) + "\n" for moment in moments)
    if form != "text":
        if len(answers) > 1:
            raise ValueError(
                f"the moments are in {len(answers)} videos, and {form} is about one; give --output-dir DIR, or --json"
            )
        if not answers:
            raise ValueError(f"nothing was found that can be written as {form}; --json says so")
        return write_as(answers[0], form)
    lines = [] if result.found else [f"not found: {result.query}"]
    if result.moments and not result.found:
        lines.append("the most similar moments:")
    width = max((len(time_range(event)) for answer in answers for event in answer.events), default=0)
    for moment in result.shown_moments:
        said = f'  "{moment.text}"' if moment.text else ""
        times = f"{time_range(Event(moment.start, moment.end)):<{width}}"
        lines.append(f"{times}  {moment.score:.2f}  {'+'.join(moment.by)}  {moment.video}{said}")
    return "".join(f"{printable(line)}\n" for line in lines)


def _cut(answers: "Sequence[Answer]", output: OutputOptions, console: CommandConsole, *, is_found: bool) -> None:
    if output.clips is None and output.reel is None:
        return
    from timechat.video.clips import concat_clips, extract_clips

    if not is_found:
        console.warn("nothing was found, so there is nothing to cut")
        return
    if output.reel is not None and len(answers) > 1:
        raise ValueError(f"the moments are in {len(answers)} videos, and --reel joins those of one; give --clips DIR")
    names = output_names([str(answer.video) for answer in answers], "")
    reports: list[Any] = []
    with console.working("cutting the videos"):
        for answer, name in zip(answers, names, strict=True):
            if output.clips is not None:
                output.clips.mkdir(exist_ok=True)
                folder = output.clips if len(answers) == 1 else output.clips / name
                reports += extract_clips(str(answer.video), answer.events, folder, mode=output.cut.value)
            if output.reel is not None:
                reports += concat_clips(str(answer.video), answer.events, output.reel, mode=output.cut.value)
    for report in reports:
        console.warn(str(report))
