"""`timechat evaluate`: make predictions, result files and metrics by a recipe."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.model_options import GENERAL
from timechat.cli.session import CommandConsole, switch_cache_off
from timechat.cli.stop import EXIT_STOPPED, stop_signal

if TYPE_CHECKING:
    from timechat.evaluation.benchmarks import Benchmark
    from timechat.evaluation.config import EvaluationRecipe
    from timechat.evaluation.evaluate import Evaluation
    from timechat.evaluation.samples import Prediction, Sample


def evaluate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, see `timechat recipes`.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting of the recipe; can be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run; replaces run.output.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of samples; replaces run.limit.")] = None,
    sample_num: Annotated[
        int | None, typer.Option(min=1, help="Number of samples of a random subset; replaces run.sample_num.")
    ] = None,
    post_check: Annotated[
        bool, typer.Option("--post-check", help="Ask in a second turn to correct the form of each answer.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Start anew, or keep existing predictions.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Process share I of N only, from 1; the last one scores.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Maximum time in minutes. The next call resumes.")
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache", help="Neither read nor write the cache of tokens and answers.", rich_help_panel=GENERAL
        ),
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Print published metrics beside ours.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write an error analysis to OUT/report.html.")] = False,
    ablations: Annotated[
        bool,
        typer.Option(
            "--ablations",
            help="Also evaluate without timestamps, without sliding windows, and with blank or shuffled frames.",
        ),
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also print metrics of random and constant answers, and by group.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of the table.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result only.", rich_help_panel=GENERAL)
    ] = False,
) -> None:
    """Predict and score by a recipe. After an interruption, the same command resumes.

    Several processes: torchrun --nproc-per-node=N -m timechat evaluate RECIPE, or --shard 1/N, --shard 2/N, ... on
    machines that share a folder.
    """
    overrides = [*(settings or [])]
    overrides += [f"run.output={output}"] if output is not None else []
    overrides += [f"run.limit={limit}"] if limit is not None else []
    overrides += [f"run.sample_num={sample_num}"] if sample_num is not None else []
    overrides += ["post_check=true"] if post_check else []
    share = _read_shard(shard)
    if fresh and share[1] > 1:
        raise ValueError(
            "--fresh would delete the predictions of other shares; delete the folder, or give another --output"
        )
    from timechat.evaluation.config import read_recipe

    resolved = read_recipe(recipe, overrides)
    screen = CommandConsole(quiet=quiet)
    predictions = _predict(resolved, share, screen, fresh=fresh, minutes=minutes, use_cache=not no_cache)
    if predictions is None:
        return
    from timechat.evaluation.evaluate import read_samples, score_run

    benchmarks = _benchmarks()
    samples = read_samples(resolved, benchmarks)
    with screen.working("scoring"):
        evaluation = score_run(resolved, samples, predictions, benchmarks=benchmarks, compares=compare)
    typer.echo(json.dumps(evaluation.metrics, indent=1, ensure_ascii=False) if as_json else evaluation.table)
    if report:
        from timechat.evaluation.report_page import write_report_page

        with screen.working("writing the report"):
            screen.info(str(write_report_page(evaluation)))
    if baselines:
        from timechat.evaluation.baselines import write_baselines

        with screen.working("baselines"):
            tables = write_baselines(evaluation)
        if not as_json:
            typer.echo(tables)
    if ablations:
        _ablate(evaluation, screen, use_cache=not no_cache)


def _benchmarks() -> "dict[str, Benchmark]":
    """Public benchmarks, and those of synthetic videos."""
    from timechat.evaluation.benchmarks import BENCHMARKS
    from timechat.synthetic.benchmark import SYNTHETIC_BENCHMARKS

    return {**BENCHMARKS, **SYNTHETIC_BENCHMARKS}


def _read_shard(shard: str | None) -> tuple[int, int]:
    """Return number (from 0) and count of the shares, from the option or from torchrun."""
    from timechat.files.system import launched_processes, launched_rank

    if shard is None:
        return launched_rank(), launched_processes()
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard takes I/N with I from 1 to N, such as 1/4, got {shard!r}")
    return int(match[1]) - 1, int(match[2])


def _predict(
    recipe: "EvaluationRecipe",
    shard: tuple[int, int],
    console: CommandConsole,
    *,
    fresh: bool,
    minutes: float | None,
    use_cache: bool,
) -> "list[Prediction] | None":
    """Return all predictions of the run; None, with a message, if some are missing."""
    from timechat.answers.prompts import DEFAULT_PRESET
    from timechat.evaluation.evaluate import finished_predictions, load_timechat, read_samples, run_predictions
    from timechat.pipeline.timechat import choose_threads

    samples: list[Sample] = read_samples(recipe, _benchmarks())
    if not fresh and (done := finished_predictions(recipe, samples)) is not None:
        return done if shard[0] == 0 else None
    with console.working("loading the model"):
        timechat = load_timechat(recipe.model)
    if not use_cache:
        switch_cache_off(timechat)
    choose_threads(timechat)
    for note in timechat.notes:
        console.warn(note)
    own = timechat.backbone.config.preset
    if recipe.preset == DEFAULT_PRESET != own:
        console.warn(
            f"the recipe asks with the preset {recipe.preset}, but {timechat.name} was made for {own}: set preset={own}"
        )
    with stop_signal(minutes, "after these videos") as should_stop, console.progress() as bars:
        predictions = run_predictions(
            recipe, samples, timechat, fresh=fresh, shard=shard, should_stop=should_stop, progress=bars
        )
        stopped = should_stop()
    if predictions is None and stopped:
        console.info("stopped; the same command resumes")
        raise typer.Exit(EXIT_STOPPED)
    if predictions is None:
        console.info(f"share {shard[0] + 1} of {shard[1]} is done; other shares are not")
    return predictions


def _ablate(evaluation: "Evaluation", console: CommandConsole, *, use_cache: bool) -> None:
    """Print the table of the ablations."""
    from timechat.evaluation.ablations import run_ablations
    from timechat.evaluation.evaluate import load_timechat
    from timechat.pipeline.timechat import choose_threads

    recipe = evaluation.recipe
    with console.working("loading the model"):
        timechat = load_timechat(recipe.model)
    if not use_cache:
        switch_cache_off(timechat)
    choose_threads(timechat)
    with console.progress() as bars:
        table = run_ablations(
            recipe, evaluation.samples, evaluation.scores, timechat, benchmarks=_benchmarks(), progress=bars
        )
    typer.echo(table)
