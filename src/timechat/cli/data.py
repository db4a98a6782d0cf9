"""`timechat data`: synthetic training videos and checks of data sets."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from timechat.cli.help import HelpCommand, HelpGroup, name_values
from timechat.cli.options import FrameRateOptions, expand_options
from timechat.cli.session import CommandConsole
from timechat.cli.times import time_from

if TYPE_CHECKING:
    from timechat.data.check import CheckReport
    from timechat.data.records import Record
    from timechat.data.settings import SampleSettings
    from timechat.model.processing import TimeChatProcessor

_SHOWN = 10  # maximum number of findings of a kind that are printed; --json prints all

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES...",
        help="Instruction records: files in our or a published format, or folders with records.jsonl or JSON files.",
    ),
]
Videos = Annotated[
    Path | None,
    typer.Option("--videos", metavar="DIR", help="Base folder of the video paths.", show_default="folder of the file"),
]
FileFormat = Annotated[
    Literal["auto", "timechat", "instruct", "valley"],
    typer.Option("--format", help="Format of the files; auto detects it."),
]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="nano (built in), a converted folder, or a hub id.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", parser=time_from(0), metavar="TIME", help="Maximum time to read one video.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars and no notes.")]

app = typer.Typer(
    cls=HelpGroup,
    help="Make synthetic training videos, build and check data sets, compute features.",
    no_args_is_help=True,
)


@app.callback()
def _data() -> None:
    """Keep `data` a group of commands, also with one command only."""


@app.command(cls=HelpCommand)
@name_values
def draw(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder; complete videos in it are kept.")],
    clips: Annotated[int, typer.Option("--clips", metavar="N", min=1, help="Number of videos.")],
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Random seed; equal seeds give equal videos.")],
    level: Annotated[
        int, typer.Option("--level", min=1, max=3, help="Difficulty: 1 is easy (few large objects), 3 is hard.")
    ] = 1,
    split: Annotated[
        Literal["train", "test"], typer.Option("--split", help="Split; train and test never share a video.")
    ] = "train",
    part: Annotated[
        Literal["standard", "unseen_pairs", "longer", "mixed"] | None,
        typer.Option(
            "--part",
            help="Part of the test split. standard: as in training. unseen_pairs: with a color and shape that never "
            "occur together in training. longer: longer than any training video. mixed: 8, 1 and 1 in 10 of these.",
            show_default="mixed for test",
        ),
    ] = None,
    minutes: Annotated[
        int | None,
        typer.Option(
            "--minutes",
            metavar="M",
            min=1,
            help="Make long videos of M minutes each, as sequences of short ones.",
            show_default="short videos",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="K", min=1, help="Number of processes.", show_default="one per core"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bar and no report.")] = False,
) -> None:
    """Make synthetic videos with known events, short or long, and instruction records about them.

    OUT/videos holds the videos, OUT/records.jsonl one question with its answer per line, OUT/truth.jsonl the script of
    each video. After an interruption, the same command resumes. Synthetic videos of an earlier set in OUT that the new
    records do not name are removed.
    """
    from timechat.synthetic.scene import Level
    from timechat.synthetic.write import RECORDS_FILE, LongSet, SyntheticSet, render_videos

    levels: dict[int, Level] = {1: 1, 2: 2, 3: 3}
    videos = (
        SyntheticSet(clips, seed, levels[level], split, part)
        if minutes is None
        else LongSet(clips, seed, minutes, levels[level], split, part)
    )
    screen = CommandConsole(quiet=quiet)
    start = time.perf_counter()
    with screen.progress() as bars:
        done = render_videos(videos, out, workers=workers, progress=lambda i, total: bars("drawing videos", i, total))
    seconds = time.perf_counter() - start
    kept = f", kept {done.kept} that existed" if done.kept else ""
    removed = f", removed {done.removed} of an earlier set" if done.removed else ""
    noun = "video" if done.drawn == 1 else "videos"
    screen.info(
        f"drew {done.drawn} {noun}{kept}{removed}, wrote {done.records} records in {seconds:.1f} s: "
        f"{done.drawn / seconds:.2f} videos per second"
    )
    typer.echo(out / RECORDS_FILE)


@app.command(cls=HelpCommand)
@name_values
@expand_options
def check(
    files: Files,
    frames: FrameRateOptions,
    videos: Videos = None,
    format: FileFormat = "auto",
    transcripts: Annotated[
        Path | None,
        typer.Option("--transcripts", metavar="DIR", help="Folder of transcripts that are shown with the questions."),
    ] = None,
    model: Model = "nano",
    max_length: Annotated[
        int, typer.Option("--max-length", min=1, help="Maximum number of tokens in training.")
    ] = 2048,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode all frames that training would read, not only the headers.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if there are findings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
    workers: Annotated[int, typer.Option("--workers", metavar="K", min=1, help="Number of threads.")] = 4,
    timeout: Timeout = 60.0,
    quiet: Quiet = False,
) -> None:
    """List videos, events, texts and lengths with problems, such as missing videos, empty answers and late events."""
    from timechat.data.check import check_records
    from timechat.data.readers import read_records, record_files
    from timechat.model.pretrained import quiet_transformers

    records = {
        file: read_records(file, videos=videos, format=format, transcripts=transcripts)
        for path in files
        for file in record_files(path)
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


@app.command(cls=HelpCommand)
@name_values
@expand_options
def encode(
    files: Files,
    frames: FrameRateOptions,
    out: Annotated[
        Path,
        typer.Option("--output", "--out", "-o", metavar="DIR", help="Feature store; an unfinished one is resumed."),
    ],
    videos: Videos = None,
    format: FileFormat = "auto",
    model: Model = "nano",
    parts: Annotated[
        Literal["vision", "frames"],
        typer.Option("--parts", help="vision: the vision tower; frames: also the image Q-Former, if it is frozen."),
    ] = "vision",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option("--dtype", help="Number format of the files.")
    ] = "float32",
    model_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(
            "--model-dtype", help="Number format of the computation; use that of the frozen parts in training."
        ),
    ] = "float32",
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cuda, mps or cpu.")] = "auto",
    workers: Annotated[int, typer.Option("--workers", metavar="K", min=1, help="Number of decoding threads.")] = 2,
    timeout: Timeout = 120.0,
    quiet: Quiet = False,
) -> None:
    """Compute the outputs of the frozen parts of a model for all videos once, for use in many training runs.

    After an interruption, the same command resumes.
    """
    from timechat.data.features import encode_features, unique_videos
    from timechat.data.readers import read_records, record_files
    from timechat.model.loading import load_model
    from timechat.model.pretrained import quiet_transformers

    records: list[Record] = []
    for file in dict.fromkeys(file for path in files for file in record_files(path)):
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
    screen.info(f"{total - len(unreadable)} of {total} videos are in the store after {seconds:.1f} s")
    typer.echo(out)


def _load_processor(model: str) -> "TimeChatProcessor":
    """Load the processor, which counts tokens, without the weights of the model."""
    from timechat.model.loading import load_processor

    return load_processor(model)


def _settings(
    processor: "TimeChatProcessor",
    frames: FrameRateOptions,
    timeout: float,
    max_length: int = 2048,
    transcripts: bool = False,
) -> "SampleSettings":
    from timechat.data.settings import SampleSettings

    sampling = frames.sampling()
    return SampleSettings(
        num_frames=sampling.num_frames or processor.config.max_frame_positions,
        fps=sampling.fps,
        max_frames=sampling.max_frames,
        max_length=max_length,
        transcripts=transcripts,
        timeout=timeout,
        sampling="uniform",
        augmentation=False,
    )


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, such as `1 video` or `2 videos`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _print_report(file: Path, report: "CheckReport") -> None:
    from timechat.data.check import MEANINGS

    typer.echo(
        f"{file}: {counted(report.records, 'record')} about {counted(report.videos, 'video')} or parts of videos"
    )
    if report.token_quantiles:
        tokens = [f"{'at most' if q == 1 else f'{q:.0%} at most'} {n}" for q, n in report.token_quantiles.items()]
        typer.echo(f"  tokens         {', '.join(tokens)}")
    if not report.findings:
        typer.echo("  no findings")
    for kind, count in report.counts.items():
        typer.echo(f"  {kind:<14} {count}: {MEANINGS[kind]}")
        findings = [finding for finding in report.findings if finding.kind == kind]
        for finding in findings[:_SHOWN]:
            typer.echo(f"    {finding.record}: {finding.detail}")
        if count > _SHOWN:
            typer.echo(f"    and {count - _SHOWN} more; --json prints all")
