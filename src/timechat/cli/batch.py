"""`timechat batch`: answers about many videos, resumed by the same command."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.model_options import GENERAL, ModelOptions
from timechat.cli.options import DecodingCommandOptions, FrameOptions, WindowShapeOptions, expand_options
from timechat.cli.retrieval import DomainOptions, RetrievalOptions, SourceOptions
from timechat.cli.session import CommandConsole
from timechat.cli.stop import EXIT_STOPPED, stop_signal
from timechat.cli.times import time_from
from timechat.errors import printable_line

if TYPE_CHECKING:
    from timechat.batch import BatchSettings
    from timechat.search.retrieval import RetrievalConfig

_FAILED = 1  # exit status if a row has no answer
_MACHINES = "Several processes or machines"


@dataclass(frozen=True)
class BatchOptions(WindowShapeOptions, DecodingCommandOptions, FrameOptions, ModelOptions):
    """Options of all rows of a batch."""

    timeout: Annotated[
        float,
        typer.Option(parser=time_from(0), metavar="TIME", help="Maximum time for one video.", rich_help_panel=GENERAL),
    ] = 3600.0


@expand_options
def batch(
    settings: BatchOptions,
    retrieval: RetrievalOptions,
    domain: DomainOptions,
    source: SourceOptions,
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS...",
            help="Folder, pattern, videos, or a manifest: .txt, .jsonl, .csv, .parquet or metadata.jsonl. Also s3://...",
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK",
            help="ask, caption, ground, highlights, steps, summarize or transcribe, for rows without one.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="Folder of the results; a path or s3://, gs://, ...")
    ],
    query: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Query or question of rows that have none.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Repeat the rows that failed before.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the amount of work, from the headers of the videos, and stop.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|HOST:PORT",
            help="Ray cluster: that of this machine, processes of this machine, or an address (extra batch).",
            rich_help_panel=_MACHINES,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of processes with a model. Default: one on each GPU, or one.", rich_help_panel=_MACHINES
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0, help="Number of GPUs of each process. Default: 1 if the cluster has GPUs.", rich_help_panel=_MACHINES
        ),
    ] = None,
) -> None:
    """Answer questions about many videos. After an interruption, the same command resumes.

    The exit status is 0 if all rows have an answer, 1 if some failed, and 75 if the command was stopped.
    """
    for option, value in (("--actors", actors), ("--gpus", gpus)):
        if value is not None and ray is None:
            raise ValueError(f"{option} {value:g} has an effect only with --ray; leave it out")
    if ray is not None:
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or a thread of Ray connects again after a stop
    from timechat.batch import plan_batch, run_batch

    console = CommandConsole(quiet=settings.quiet)
    chosen = _settings(
        settings, task, query, output, retry=retry, force=domain.force, retrieval=retrieval.config(source.by)
    )
    if plan:
        planned = plan_batch(videos, chosen)
        for error in planned.unreadable.values():
            console.warn(error)
        typer.echo(str(planned))
        return
    with stop_signal(None, "now; what is finished is kept") as should_stop:
        report = run_batch(
            videos,
            chosen,
            should_stop=should_stop,
            on_progress=lambda progress: console.info(str(progress)),
            ray=ray,
            actors=actors,
            gpus=gpus,
        )
    reasons = ", ".join(f"{number} {kind}" for kind, number in report.errors.items())
    failed = report.failed + (0 if report.stopped else report.lost)
    failures = f", {failed} failed ({reasons})" if failed else ""
    typer.echo(printable_line(f"{report.ok} of {report.rows} rows answered{failures} in {output}"))
    if report.stopped:
        typer.echo(f"stopped with {report.lost} rows to do; the same command resumes", err=True)
        raise typer.Exit(EXIT_STOPPED)
    if failed:
        typer.echo(f"timechat: {failed} rows failed, see {output}/failed.jsonl; --retry repeats them", err=True)
        raise typer.Exit(_FAILED)


def _settings(
    options: BatchOptions,
    task: str,
    query: str | None,
    output: str,
    *,
    retry: bool,
    force: bool,
    retrieval: "RetrievalConfig",
) -> "BatchSettings":
    from timechat.backbones.endpoint.options import EndpointSettings
    from timechat.batch import BatchSettings

    names = ("model", "device", "dtype", "quantize", "lora_scale", "picture_side")
    model = {name: getattr(options, name) for name in names} | options.engine_arguments()
    windows, sampling = options.window_config(), options.sampling()
    windows.check_density(num_frames=sampling.num_frames, fps=sampling.fps)
    return BatchSettings(
        task=task,
        query=query,
        output=output,
        windows=windows,
        sampling=sampling,
        decoding=options.decoding(),
        preset=options.preset,
        by=retrieval.by,
        read=retrieval.read,
        encoder=str(retrieval.encoder),
        force=force,
        timeout=options.timeout,
        retry=retry,
        endpoint=options.endpoint_settings() or EndpointSettings(),
        **model,
    )
