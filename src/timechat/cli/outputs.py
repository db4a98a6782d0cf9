"""Where the answers of a command go: format, files and folders."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timechat.errors import missing_extra
from timechat.export import FORMATS

if TYPE_CHECKING:
    from timechat.answers.events import Answer

_OUTPUT = "Output"

_SUFFIX_FORMATS = {
    ".txt": "text",
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".srt": "srt",
    ".vtt": "vtt",
    ".edl": "edl",
    ".otio": "otio",
}
"""Format of a file name's ending, if `--format` is not given."""

_FORMAT_SUFFIXES = {
    **{form: (suffix,) for suffix, form in _SUFFIX_FORMATS.items()},
    "vtt-chapters": (".vtt",),
    "youtube": (".txt",),
    "ffmetadata": (".txt",),
    "qvhighlights": (".jsonl",),
    "html": (".html", ".htm"),
}
_KNOWN_SUFFIXES = {*_SUFFIX_FORMATS, ".html", ".htm", ".parquet"}
_RESULT_SUFFIXES = (".jsonl", ".parquet")


class CutMode(StrEnum):
    """Ways to cut a video."""

    EXACT = "exact"
    COPY = "copy"


@dataclass(frozen=True)
class OutputOptions:
    """Files and format of the output."""

    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_OUTPUT)] = False
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"{', '.join(FORMATS)}. Default: the format of the ending of --output, else text.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file instead of stdout. Its ending chooses the format. With several videos: FILE.jsonl "
            "or FILE.parquet, one result per video.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            metavar="DIR",
            help="Write one file per video into this folder, named like the video.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Also write an HTML page with video and timeline.", rich_help_panel=_OUTPUT
        ),
    ] = None
    clips: Annotated[
        Path | None,
        typer.Option(
            "--clips", metavar="DIR", help="Write every event as a clip into this folder.", rich_help_panel=_OUTPUT
        ),
    ] = None
    reel: Annotated[
        Path | None,
        typer.Option(
            "--reel",
            metavar="FILE",
            help="Join the events into one video: .mp4, .mov or .mkv.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    cut: Annotated[
        CutMode,
        typer.Option(
            "--cut", help="exact encodes the clips; copy is fast, but cuts at keyframes only.", rich_help_panel=_OUTPUT
        ),
    ] = CutMode.EXACT

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.as_json and self.format not in (None, "json"):
            raise ValueError(f"--json and --format {self.format} name two formats; give one of them")
        if self.output is not None and self.output_dir is not None:
            raise ValueError("--output and --output-dir were both given; give one of them")
        if self.cut is CutMode.COPY and self.clips is None and self.reel is None:
            raise ValueError("--cut copy needs --clips DIR or --reel FILE")

    @property
    def form(self) -> str:
        """Name of the output format, see `FORMATS`."""
        if self.as_json:
            return "json"
        by_suffix = "text" if self.output is None else _SUFFIX_FORMATS.get(self.output.suffix.lower(), "text")
        return self.format or by_suffix

    @property
    def writes_results(self) -> bool:
        """Whether the output file has one result per video, whatever the number of videos."""
        return self.output is not None and self.output.suffix.lower() == ".parquet"

    def check_output(self, videos: Sequence[str], *, is_many: bool, plan: bool = False) -> None:
        """Check, before any work is done, that the options fit together and that all output files can be written.

        Args:
            videos: Names of the videos.
            is_many: Whether the command takes several videos.
            plan: Whether an estimate is printed instead of the answers.
        """
        self._check_number_of_videos(len(videos))
        if plan:
            self._check_plan()
        files = self._files()
        for (one, path), (other, other_path) in combinations(files.items(), 2):
            if path.absolute() == other_path.absolute():
                raise ValueError(f"{one} and {other} both name {path}; give them different files")
        for path in files.values():
            self._check_file(path, videos)
        self._check_suffix(is_many=is_many)
        FORMATS[self.form].check()
        if self.reel is not None:
            from timechat.video.clips import check_target

            check_target(self.reel, self.cut.value)
        for option, folder in (("--clips", self.clips), ("--output-dir", self.output_dir)):
            if folder is not None:
                _check_folder(option, folder)

    def _files(self) -> dict[str, Path]:
        options = {"--output": self.output, "--html": self.html, "--reel": self.reel}
        return {option: path for option, path in options.items() if path is not None}

    def _check_number_of_videos(self, number: int) -> None:
        if number <= 1:
            return
        for option, value in (("--html", self.html), ("--clips", self.clips), ("--reel", self.reel)):
            if value is not None:
                raise ValueError(f"{option} takes one video, got {number}; give --output-dir DIR for several")
        is_result_file = self.output is not None and self.output.suffix.lower() in _RESULT_SUFFIXES
        if self.output_dir is None and not is_result_file:
            given = "" if self.output is None else f", got -o {self.output}"
            raise ValueError(f"{number} videos need --output-dir DIR, -o FILE.jsonl or -o FILE.parquet{given}")

    def _check_plan(self) -> None:
        files = {**self._files(), "--output-dir": self.output_dir, "--clips": self.clips}
        for option, path in files.items():
            if path is not None:
                raise ValueError(f"--plan prints an estimate and writes no answer; leave out {option} {path}")
        if self.form not in ("text", "json"):
            raise ValueError(f"--plan prints text or JSON; leave out --format {self.form}")

    def _check_file(self, path: Path, videos: Sequence[str]) -> None:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise ValueError(f"{path} cannot be written: permission denied")
        if path.exists() and any(Path(video).exists() and path.samefile(video) for video in videos):
            raise ValueError(f"{path} is the video itself; name another file")

    def _check_suffix(self, *, is_many: bool) -> None:
        """Check that the ending of the output file is that of the format; a device or a pipe may have any name."""
        path = self.output
        if path is None or (path.exists() and not path.is_file()):
            return
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            _check_parquet()
        if suffix in _RESULT_SUFFIXES and (suffix == ".parquet" or is_many):
            if self.as_json or self.format not in (None, suffix[1:]):
                form = "--json" if self.as_json else f"--format {self.format}"
                raise ValueError(f"-o {path} gets one result per video in its own format; leave out {form}")
            return
        if self.as_json or self.format is not None:
            if suffix in _KNOWN_SUFFIXES and suffix not in _FORMAT_SUFFIXES[self.form]:
                endings = " or ".join(_FORMAT_SUFFIXES[self.form])
                raise ValueError(f"-o {path} does not end like format {self.form}; name a file that ends in {endings}")
            return
        if suffix not in _SUFFIX_FORMATS:
            endings = ", ".join(_SUFFIX_FORMATS)
            page = "; a page is written by --html FILE" if suffix in (".html", ".htm") else ""
            raise ValueError(
                f"-o {path}: the ending {path.suffix!r} names no format; use {endings}, or add --format{page}"
            )


def _check_folder(option: str, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for {option}")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"{folder} cannot be made: there is no folder {folder.parent}")
    if not os.access(folder if folder.exists() else folder.absolute().parent, os.W_OK):
        raise ValueError(f"{folder} cannot be written to: permission denied")


def _check_parquet() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("-o FILE.parquet needs pyarrow", "batch") from error


def write_results(path: Path, answers: Sequence["Answer"]) -> None:
    """Write one result per video: a line of JSON in a `.jsonl` file, a row in a `.parquet` file."""
    from timechat.export import write_text_atomically

    if path.suffix.lower() == ".parquet":
        _write_parquet(path, [answer.to_dict() for answer in answers])
        return
    lines = (json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False) for answer in answers)
    write_text_atomically(path, "".join(f"{line.translate(_LINE_ENDS)}\n" for line in lines))


_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}  # some readers end lines there


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the same columns and types for every command."""
    import pyarrow
    import pyarrow.parquet

    from timechat.files import atomic_write

    text, number = pyarrow.string(), pyarrow.float64()
    event = pyarrow.struct(
        [("start", number), ("end", number), ("caption", text), ("score", number), ("saliency", number)]
    )
    schema = pyarrow.schema(
        [
            *(("video", text), ("duration", number), ("task", text), ("question", text), ("text", text)),
            *(("events", pyarrow.list_(event)), ("model", text), ("found", pyarrow.bool_()), ("score", number)),
            *(("step", number), ("by", text), ("read_share", number)),
            *(("timings", pyarrow.map_(text, number)), ("notes", pyarrow.list_(text))),
        ]
    )
    rows = [{**row, "timings": list(row["timings"].items())} for row in rows]
    with atomic_write(path) as unfinished:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), unfinished)
