"""`timechat evaluate`: a recipe into predictions, result files and figures."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.session import CommandConsole, choose_threads
from timechat.cli.stop import EXIT_STOPPED, stop_signal

if TYPE_CHECKING:
    from timechat.evaluation.config import EvaluationRecipe
    from timechat.evaluation.evaluate import Evaluation
    from timechat.evaluation.samples import Prediction, Sample


def evaluate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, see recipes/.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change the recipe; may be repeated.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run, as run.output.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many samples, as run.limit.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start anew instead of keeping what is answered.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do share I of N only, counted from 1; the last one scores.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after this long; the next call goes on.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Published figures beside ours.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write a page about the errors, OUT/report.html.")] = False,
    ablations: Annotated[
        bool,
        typer.Option("--ablations", help="Also without timestamps, with shuffled ones, and without sliding windows."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")] = False,
) -> None:
    """Predict and score by a recipe; stopped or killed, the same command goes on where it was.

    Several processes: torchrun --nproc-per-node=N -m timechat evaluate RECIPE, or --shard 1/N, --shard 2/N, ... on
    machines that share a folder.
    """
    overrides = [*(settings or [])]
    overrides += [f"run.output={output}"] if output is not None else []
    overrides += [f"run.limit={limit}"] if limit is not None else []
    share = _read_shard(shard)
    if fresh and share[1] > 1:
        raise ValueError(
            "--fresh would throw away what other shares answer; delete the folder, or give another --output"
        )
    from timechat.evaluation.config import read_recipe

    resolved = read_recipe(recipe, overrides)
    screen = CommandConsole(quiet=quiet)
    predictions = _predict(resolved, share, screen, fresh=fresh, minutes=minutes)
    if predictions is None:
        return
    from timechat.evaluation.evaluate import read_samples, score_run

    samples = read_samples(resolved)
    with screen.working("scoring"):
        evaluation = score_run(resolved, samples, predictions, compares=compare)
    typer.echo(json.dumps(evaluation.metrics, indent=1, ensure_ascii=False) if as_json else evaluation.table)
    if report:
        from timechat.evaluation.report_page import write_report_page

        with screen.working("writing the report"):
            screen.info(str(write_report_page(evaluation)))
    if ablations:
        _ablate(evaluation, screen)


def _read_shard(shard: str | None) -> tuple[int, int]:
    """The share of this process, number from 0 and count: as the option says, or else torchrun."""
    from timechat.distributed import launched_processes, launched_rank

    if shard is None:
        return launched_rank(), launched_processes()
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard takes I/N with I from 1 to N, such as 1/4, got {shard!r}")
    return int(match[1]) - 1, int(match[2])


def _predict(
    recipe: "EvaluationRecipe", shard: tuple[int, int], console: CommandConsole, *, fresh: bool, minutes: float | None
) -> "list[Prediction] | None":
    """All predictions of the run; None, with a word about it, where some are still to come."""
    from timechat.evaluation.evaluate import finished_predictions, load_timechat, read_samples, run_predictions

    samples: list[Sample] = read_samples(recipe)
    if not fresh and (done := finished_predictions(recipe, samples)) is not None:
        return done if shard[0] == 0 else None
    with console.working("loading the model"):
        timechat = load_timechat(recipe.model)
    choose_threads(timechat)
    for note in timechat.notes:
        console.warn(note)
    with stop_signal(minutes, "after these videos") as wants_stop, console.progress() as bars:
        predictions = run_predictions(
            recipe, samples, timechat, fresh=fresh, shard=shard, should_stop=wants_stop, progress=bars
        )
        stopped = wants_stop()
    if predictions is None and stopped:
        console.info("stopped; the same command goes on")
        raise typer.Exit(EXIT_STOPPED)
    if predictions is None:
        console.info(f"share {shard[0] + 1} of {shard[1]} is done; others are not yet")
    return predictions


def _ablate(evaluation: "Evaluation", console: CommandConsole) -> None:
    """Print the table of the ablations."""
    from timechat.evaluation.ablations import run_ablations
    from timechat.evaluation.evaluate import load_timechat

    recipe = evaluation.recipe
    with console.working("loading the model"):
        timechat = load_timechat(recipe.model)
    choose_threads(timechat)
    with console.progress() as bars:
        typer.echo(run_ablations(recipe, evaluation.samples, evaluation.scores, timechat, progress=bars))
