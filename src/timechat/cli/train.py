"""`timechat train`: a recipe into a model, stopped and taken up as often as need be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.session import CommandConsole
from timechat.cli.stop import EXIT_STOPPED, stop_signal

if TYPE_CHECKING:
    from timechat.model.processing import TimeChatProcessor
    from timechat.training.config import TrainingRecipe
    from timechat.training.loop import Validate


def train(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A YAML file, see recipes/.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change the recipe; may be repeated.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run, as run.output.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start anew instead of going on from the last checkpoint.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop with a checkpoint after this long; the next call goes on.")
    ] = None,
    export_original: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="RUN OUT.pth", help="Train nothing: write a run's or a model's folder as the original's checkpoint."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Train by a recipe; the same command goes on wherever it stopped.

    Several processes: torchrun --nproc-per-node=N -m timechat.training RECIPE --set run.parallel=ddp
    """
    screen = CommandConsole(quiet=quiet)
    if export_original is not None:
        if recipe is not None:
            raise ValueError("--export-original trains nothing; leave the recipe out")
        _export_original(*export_original, screen)
        return
    if recipe is None:
        raise ValueError("give a RECIPE, such as recipes/stage2_finetune_charades.yaml")
    overrides = [*(settings or []), *([f"run.output={output}"] if output else [])]
    from timechat.training.recipes import read_recipe

    stages = read_recipe(recipe, overrides)
    with screen.working("loading"):
        from timechat.training.run import train_recipe
    with stop_signal(minutes, "after this step, with a checkpoint") as wants_stop:
        finished = train_recipe(
            stages,
            make_validate=make_validate,
            fresh=fresh,
            should_stop=wants_stop,
            report=screen.info,
        )
    if finished:
        typer.echo(Path(stages[-1].run.output))
    from timechat.distributed import launched_processes

    # torchrun takes any other status than 0 for a crash of that process.
    raise typer.Exit(0 if finished or launched_processes() > 1 else EXIT_STOPPED)


def make_validate(recipe: "TrainingRecipe", processor: "TimeChatProcessor") -> "Validate | None":
    """Make the validation of a recipe: grounding on drawn films that no training has seen, with real decoding."""
    settings = recipe.data.validation_films
    if recipe.run.validate_every is None or settings is None:
        return None
    from timechat.evaluation.validation import draw_grounding_film, film_times, grounding_validation
    from timechat.synthetic.scene import write_scene

    config = processor.config
    films = [
        draw_grounding_film(
            write_scene(settings.seed, index, level=settings.level, split="test"),  # type: ignore[arg-type]
            lambda film: film_times(film, config),
            size=config.vision_config.image_size,
        )
        for index in range(settings.num_films)
    ]
    return lambda model, step: grounding_validation(model, processor, films)  # noqa: ARG005


def _export_original(folder: Path, out: Path, console: CommandConsole) -> None:
    with console.working("writing the original's layout"):
        from timechat.training.export import export_folder_as_original

        export_folder_as_original(folder, out)
    typer.echo(out)
