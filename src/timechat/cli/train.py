"""`timechat train`: train a model by a recipe, with resuming."""

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
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="YAML file, see `timechat recipes`.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting of the recipe; can be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run; replaces run.output.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start anew, or resume from the last checkpoint.")
    ] = False,
    accept_changed_recipe: Annotated[
        bool,
        typer.Option(
            "--accept-changed-recipe",
            help="Resume although the recipe, the records or the start weights have changed; the changes are recorded.",
        ),
    ] = False,
    from_stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="First stage of the recipe to run. It starts from model.checkpoint and model.heads, not from the "
            "stage before.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Maximum time in minutes; then stop with a checkpoint. The next call resumes."),
    ] = None,
    export_original: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="RUN OUT.pth",
            help="Do not train: write the folder of a run or a model as a checkpoint of the original.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train a model by a recipe. After an interruption, the same command resumes.

    Several processes: torchrun --nproc-per-node=N -m timechat.training RECIPE --set run.parallel=ddp
    """
    screen = CommandConsole(quiet=quiet)
    if export_original is not None:
        if recipe is not None:
            raise ValueError("--export-original does not train; leave out the RECIPE")
        given = {"--set": settings, "--output": output, "--fresh": fresh, "--minutes": minutes is not None}
        given |= {"--accept-changed-recipe": accept_changed_recipe, "--from-stage": from_stage is not None}
        for option, is_given in given.items():
            if is_given:
                raise ValueError(f"--export-original does not train; leave out {option}")
        _export_original(*export_original, screen)
        return
    if recipe is None:
        raise ValueError("give a RECIPE; `timechat recipes` lists those of the package, and copies one with -o FILE")
    if fresh and accept_changed_recipe:
        raise ValueError("--fresh starts anew, so no change is to be accepted; leave out --accept-changed-recipe")
    overrides = [*(settings or []), *([f"run.output={output}"] if output else [])]
    from timechat.training.recipes import read_recipe, stages_from

    stages = read_recipe(recipe, overrides)
    if from_stage is not None:
        stages = stages_from(stages, from_stage)
    with screen.working("loading"):
        from timechat.synthetic.nano.objectives import NANO_OBJECTIVES
        from timechat.training.objectives import OBJECTIVES
        from timechat.training.run import train_recipe
    with stop_signal(minutes, "after this step, with a checkpoint") as should_stop:
        finished = train_recipe(
            stages,
            objectives={**OBJECTIVES, **NANO_OBJECTIVES},
            make_validate=make_validate,
            fresh=fresh,
            accept_changes=accept_changed_recipe,
            should_stop=should_stop,
            report=screen.info,
        )
    if finished:
        typer.echo(Path(stages[-1].run.output))
    from timechat.files.system import launched_processes

    # torchrun treats any exit status except 0 as a crash of the process.
    raise typer.Exit(0 if finished or launched_processes() > 1 else EXIT_STOPPED)


def make_validate(recipe: "TrainingRecipe", processor: "TimeChatProcessor") -> "Validate | None":
    """Make the validation of a recipe: grounding on synthetic videos of the test split, with real decoding."""
    settings = recipe.data.validation_films
    if recipe.run.validate_every is None or settings is None:
        return None
    from timechat.synthetic.scene import write_scene
    from timechat.synthetic.validation import default_times, draw_validation_video, validate_grounding

    config = processor.config
    videos = [
        draw_validation_video(
            write_scene(settings.seed, index, level=settings.level, split="test"),  # type: ignore[arg-type]
            lambda scene: default_times(scene, config),
            size=config.frame_size,
        )
        for index in range(settings.num_films)
    ]
    return lambda model, step: validate_grounding(model, processor, videos)  # noqa: ARG005


def _export_original(folder: Path, out: Path, console: CommandConsole) -> None:
    with console.working("writing the original checkpoint"):
        from timechat.synthetic.nano.objectives import NANO_OBJECTIVES
        from timechat.training.export import export_folder_as_original
        from timechat.training.objectives import OBJECTIVES

        export_folder_as_original(folder, out, objectives={**OBJECTIVES, **NANO_OBJECTIVES})
    typer.echo(out)
