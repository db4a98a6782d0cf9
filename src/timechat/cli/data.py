"""`timechat data`: films to learn from, and what concerns data sets."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from timechat.cli.options import FrameRateOptions, expand_options
from timechat.cli.session import CommandConsole

if TYPE_CHECKING:
    from timechat.data.check import CheckReport
    from timechat.data.records import Record
    from timechat.data.settings import SampleSettings
    from timechat.model.processing import TimeChatProcessor

_SHOWN = 10  # findings of a kind, unless all are asked for with --json

Files = Annotated[list[Path], typer.Argument(metavar="FILES...", help="Instruction records, ours or as published.")]
Videos = Annotated[
    Path | None, typer.Option("--videos", metavar="DIR", help="Where the videos' paths start.", show_default="the file")
]
FileFormat = Annotated[
    Literal["auto", "timechat", "instruct", "valley"],
    typer.Option("--format", help="How the files are written; auto looks into them."),
]
Model = Annotated[str, typer.Option("--model", "-m", help="nano (built in), a converted folder, or a hub id.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds after which a video is given up.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes.")]

app = typer.Typer(help="Draw films to learn from, check data sets, extract features.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Keep the group a group, however few commands it has."""


@app.command()
def draw(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make; films that it has are kept.")],
    clips: Annotated[int, typer.Option("--clips", metavar="N", min=1, help="How many films.")],
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="The same seed draws the same films.")],
    level: Annotated[int, typer.Option("--level", min=1, max=3, help="1: few large things; 3: everything.")] = 1,
    split: Annotated[Literal["train", "test"], typer.Option("--split", help="The two never share a film.")] = "train",
    part: Annotated[
        Literal["standard", "unseen_pairs", "longer", "mixed"] | None,
        typer.Option(
            "--part",
            help="Of the test split: films as in training, with a color and shape that training never shows "
            "together, longer than any in training, or 8, 1 and 1 in 10 of them.",
            show_default="mixed for test",
        ),
    ] = None,
    minutes: Annotated[
        int | None,
        typer.Option(
            "--minutes",
            metavar="M",
            min=1,
            help="Draw long films instead, M minutes each: many short ones, one after the other.",
            show_default="short films",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="K", min=1, help="Processes.", show_default="one a core"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no report.")] = False,
) -> None:
    """Draw films whose every moment is known, short or long, with instruction records about them.

    OUT/videos gets the films, OUT/records.jsonl a question and its answer a line, OUT/truth.jsonl the script of each
    film. Stopped and started again, it goes on where it was.
    """
    from timechat.synthetic.scene import Level
    from timechat.synthetic.write import RECORDS_FILE, LongSet, SyntheticSet, render_videos

    levels: dict[int, Level] = {1: 1, 2: 2, 3: 3}
    films = (
        SyntheticSet(clips, seed, levels[level], split, part)
        if minutes is None
        else LongSet(clips, seed, minutes, levels[level], split, part)
    )
    screen = CommandConsole(quiet=quiet)
    start = time.perf_counter()
    with screen.progress() as bars:
        done = render_videos(films, out, workers=workers, progress=lambda i, total: bars("drawing films", i, total))
    seconds = time.perf_counter() - start
    kept = f", kept {done.kept} that were there" if done.kept else ""
    screen.info(
        f"drew {done.drawn} films{kept}, wrote {done.records} records in {seconds:.1f} s: "
        f"{done.drawn / seconds:.2f} films per second"
    )
    typer.echo(out / RECORDS_FILE)


@app.command()
@expand_options
def check(
    files: Files,
    frames: FrameRateOptions,
    videos: Videos = None,
    format: FileFormat = "auto",
    transcripts: Annotated[
        Path | None, typer.Option("--transcripts", metavar="DIR", help="Speech that is shown with the questions.")
    ] = None,
    model: Model = "nano",
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Tokens that are kept in training.")] = 2048,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read all frames that training would read, not only the headers.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if anything is found.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every finding, for programs.")] = False,
    workers: Annotated[int, typer.Option("--workers", metavar="K", min=1, help="Threads.")] = 4,
    timeout: Timeout = 60.0,
    quiet: Quiet = False,
) -> None:
    """List missing, short and damaged videos, lengths in tokens, and answers that would be cut off."""
    from timechat.data.check import check_records
    from timechat.data.readers import read_records
    from timechat.model.modeling import quiet_transformers

    records = {
        file: read_records(file, videos=videos, format=format, transcripts=transcripts) for file in dict.fromkeys(files)
    }
    with quiet_transformers():
        processor = _load_processor(model)
    settings = _settings(processor, frames, timeout, max_length, transcripts is not None)
    screen = CommandConsole(quiet=quiet)
    reports = {}
    with screen.progress() as bars:
        for file, items in records.items():
            reports[file] = check_records(
                items,
                settings,
                processor=processor,
                decodes=decode,
                workers=workers,
                progress=lambda done, total, name=file.name: bars(f"checking {name}", done, total),  # type: ignore[misc]
            )
    if as_json:
        typer.echo(json.dumps({"files": [{"file": str(file)} | found.to_dict() for file, found in reports.items()]}))
    else:
        for file, report in reports.items():
            _print_report(file, report)
    if strict and any(report.findings for report in reports.values()):
        raise typer.Exit(1)


@app.command()
@expand_options
def encode(
    files: Files,
    frames: FrameRateOptions,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The store to make, or to go on with.")],
    videos: Videos = None,
    format: FileFormat = "auto",
    model: Model = "nano",
    parts: Annotated[
        Literal["vision", "frames"],
        typer.Option("--parts", help="vision: the vision tower; frames: the image Q-Former too, where it is frozen."),
    ] = "vision",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option("--dtype", help="Number format of the files.")
    ] = "float32",
    model_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option("--model-dtype", help="Number format of the computation: that of the frozen parts in training."),
    ] = "float32",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    workers: Annotated[int, typer.Option("--workers", metavar="K", min=1, help="Threads that decode.")] = 2,
    timeout: Timeout = 120.0,
    quiet: Quiet = False,
) -> None:
    """Compute what frozen parts of a model make of the videos, once, to train from it again and again.

    Stopped and started again, it goes on where it was.
    """
    from timechat.data.features import encode_features, unique_videos
    from timechat.data.readers import read_records
    from timechat.model.loading import load_model
    from timechat.model.modeling import quiet_transformers

    records: list[Record] = []
    for file in dict.fromkeys(files):
        records += read_records(file, videos=videos, format=format)
    screen = CommandConsole(quiet=quiet)
    with screen.working("loading the model"), quiet_transformers():
        network, processor = load_model(model, device=device, dtype=model_dtype)
    settings = _settings(processor, frames, timeout)
    total = len(unique_videos(records))
    unreadable = []
    start = time.perf_counter()
    with screen.progress() as bars:
        states = encode_features(
            network.eval(), processor, records, out, settings, parts=parts, dtype=dtype, workers=workers
        )
        for done, problem in enumerate(states, 1):
            unreadable += [problem] if problem else []
            bars("encoding videos", done, total)
    for problem in unreadable[:_SHOWN]:
        screen.warn(problem)
    seconds = time.perf_counter() - start
    screen.info(f"{total - len(unreadable)} of {total} videos are in the store, after {seconds:.1f} s")
    typer.echo(out)


def _load_processor(model: str) -> "TimeChatProcessor":
    """Load what counts tokens, without the weights where they are in files."""
    from timechat.model.loading import NANO, NANO_FOLDER
    from timechat.model.processing import TimeChatProcessor

    return TimeChatProcessor.from_pretrained(str(NANO_FOLDER) if model == NANO else model)  # type: ignore[no-any-return]


def _settings(
    processor: "TimeChatProcessor",
    frames: FrameRateOptions,
    timeout: float,
    max_length: int = 2048,
    transcripts: bool = False,
) -> "SampleSettings":
    from timechat.data.settings import SampleSettings

    return SampleSettings(
        num_frames=frames.num_frames or processor.config.max_frame_positions,
        fps=frames.fps,
        max_frames=frames.max_frames,
        max_length=max_length,
        transcripts=transcripts,
        timeout=timeout,
        sampling="uniform",
        augmentation=False,
    )


def _print_report(file: Path, report: "CheckReport") -> None:
    from timechat.data.check import MEANINGS

    typer.echo(f"{file}: {report.records} records about {report.videos} videos or parts of them")
    if report.token_quantiles:
        tokens = [f"{'at most' if q == 1 else f'{q:.0%} at most'} {n}" for q, n in report.token_quantiles.items()]
        typer.echo(f"  tokens       {', '.join(tokens)}")
    if not report.findings:
        typer.echo("  nothing is wrong with them")
    for kind, count in report.counts.items():
        typer.echo(f"  {kind:<12} {count}: {MEANINGS[kind]}")
        findings = [finding for finding in report.findings if finding.kind == kind]
        for finding in findings[:_SHOWN]:
            typer.echo(f"    {finding.record}: {finding.detail}")
        if count > _SHOWN:
            typer.echo(f"    and {count - _SHOWN} more; --json names all")
