"""`timechat data build` and `timechat data merge`: instruction records from annotations, and one file from several."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from timechat.cli.data import Quiet, counted
from timechat.cli.session import CommandConsole
from timechat.cli.times import time_from

if TYPE_CHECKING:
    from timechat.data.builders import BuildReport

_SHOWN = 10  # maximum number of findings of a kind that are named; --json prints all
_SPEECH = "Speech in the videos"

Out = Annotated[
    Path, typer.Option("--output", "--out", "-o", metavar="FILE", help="File of records to write, one per line.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary with all findings as JSON.")]


def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Source: youcook2, anet, anet/grounding, vitt, queryd, queryd/grounding, charades, didemo, "
            "hirest/grounding, hirest/steps, coin, qvhighlights, tvsum, summe, yttemporal or valley.",
        ),
    ],
    annotations: Annotated[
        Path,
        typer.Argument(
            metavar="ANNOTATIONS",
            help="Annotations as the source publishes them: a file; a folder for queryd, summe, and for transcripts of "
            "yttemporal.",
        ),
    ],
    videos: Annotated[
        Path, typer.Option("--videos", metavar="DIR", help="Folder of the videos, which are found by their ids.")
    ],
    out: Out,
    wording: Annotated[
        str,
        typer.Option(
            "--wording",
            metavar="WORDING",
            help="Wording of the questions: original (as recorded), timechat (six of this package for each task), or a "
            "file with one wording per line, or a prompt file of the original.",
        ),
    ] = "original",
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="Random seed for the draw of a wording for each record.")
    ] = 0,
    split: Annotated[
        Literal["train", "val", "test", "all"],
        typer.Option("--split", help="Split to read, where a file holds several (youcook2, coin)."),
    ] = "train",
    transcripts: Annotated[
        Path | None,
        typer.Option(
            "--transcripts",
            metavar="DIR",
            help="Folder of transcripts VIDEO.txt; the speech is written before the questions.",
            rich_help_panel=_SPEECH,
        ),
    ] = None,
    asr: Annotated[
        str | None,
        typer.Option(
            "--asr",
            metavar="MODEL",
            help="Recognize the speech of videos without a transcript with this faster-whisper model, and write it to "
            "the folder of transcripts.",
            rich_help_panel=_SPEECH,
        ),
    ] = None,
    compress: Annotated[
        Path | None,
        typer.Option(
            "--compress",
            metavar="DIR",
            help="Write copies of the videos with 6 frames per second and a short side of 224 pixels, without audio, "
            "to this folder; the records name the copies.",
        ),
    ] = None,
    as_json: AsJson = False,
    timeout: Annotated[
        float, typer.Option("--timeout", parser=time_from(0), metavar="TIME", help="Maximum time to read one video.")
    ] = 600.0,
    quiet: Quiet = False,
) -> None:
    """Build instruction records from the annotations of a data set, as the original builds its training data.

    Everything that is dropped or changed is counted and named. Videos that exist as transcripts or copies are not
    processed again, so the same command resumes.
    """
    from timechat.data.builders import BuildOptions, build_file
    from timechat.data.builders.media import MediaOptions, prepare_media

    screen = CommandConsole(quiet=quiet)
    options = BuildOptions(wording=wording, seed=seed, split=split, transcripts=transcripts, timeout=timeout)
    media = MediaOptions(asr=asr, compress=compress, timeout=timeout)
    with screen.progress() as bars:
        prepared = prepare_media(source, annotations, videos, options, media, bars)
        report = build_file(source, annotations, out, videos=videos, options=options, prepare=prepared.prepare)
    _print(out, report, as_json, screen, tuple(prepared.problems))


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Files of records in any format that training reads."),
    ],
    out: Out,
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            "--ratio",
            metavar="R",
            help="Number of copies of each record of a file, one option per file in their order: 1 is all, 0.5 a "
            "random half, 2 all twice.",
            show_default="1 for each file",
        ),
    ] = None,
    videos: Annotated[
        list[Path] | None,
        typer.Option(
            "--videos",
            metavar="DIR",
            help="Base folder of the video paths: one for all files, or one option per file in their order.",
            show_default="folder of the file",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Random seed of the choice and of the order.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge files of records to one file in random order, with a share of each.

    Every record keeps the name of its source. The choice and the order depend on the seed and the records only.
    """
    from timechat.data.builders import MergePart, merge_files

    ratios: list[float] = ratio or [1.0] * len(files)
    folders: list[Path | None] = [*videos] if videos else [None]
    if len(folders) == 1:
        folders *= len(files)
    for name, given in (("--ratio", ratios), ("--videos", folders)):
        if len(given) != len(files):
            raise ValueError(f"{name} is given {len(given)} times for {len(files)} files; give it once per file")
    parts = [MergePart(*values) for values in zip(files, ratios, folders, strict=True)]
    report = merge_files(parts, out, seed=seed)
    _print(out, report, as_json, CommandConsole(quiet=quiet), ())


def _print(out: Path, report: "BuildReport", as_json: bool, screen: CommandConsole, notes: tuple[str, ...]) -> None:
    if as_json:
        typer.echo(json.dumps({"file": str(out)} | report.to_dict() | {"notes": [*report.notes, *notes]}))
        return
    typer.echo(f"{out}: {counted(report.kept, 'record')} about {counted(report.videos, 'video')}")
    for line in report.lines(shown=_SHOWN):
        typer.echo(line)
    for note in (*report.notes, *notes):
        screen.warn(note)
