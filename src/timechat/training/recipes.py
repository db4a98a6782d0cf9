"""Read one YAML file into the stages of a training run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from timechat import config as recipes
from timechat.config import build, merge, read_mapping, read_overrides
from timechat.errors import TrainingError
from timechat.training.config import SourceSettings, TrainingRecipe

RESOLVED_FILE = "recipe.yaml"
# Keys that may change when a run is resumed: they do not change what is computed.
_FREE = (
    *("name", "run.save_every", "run.keep_checkpoints", "run.log_every", "run.tensorboard", "run.wandb", "run.plot"),
    *("run.output", "run.export", "run.device", "data.workers", "data.timeout", "data.max_bad_share"),
    *("model.gradient_checkpointing", "run.collective_timeout", "run.save_in_background"),
    *("run.parallel", "run.shard_size"),
)
# Names that recipes and run folders of version 0.1 give to objectives that are called differently now.
_RENAMED_OBJECTIVES = {"answers": "next_token"}


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> list[TrainingRecipe]:
    """Read a recipe into its stages; a recipe without `stages` is one stage.

    `${NAME}` in a value is replaced by the value of this environment variable.

    Args:
        path: YAML file.
        overrides: Settings of the form `section.key=value`, the value as YAML. They override the file and every stage.

    Raises:
        ValueError: The file holds no YAML mapping, a key is unknown, a value is invalid, or a variable is not set.
    """
    return build_recipe(read_mapping(path), overrides, named=str(path))


def build_recipe(
    content: Mapping[str, Any], overrides: Sequence[str] = (), *, named: str = "recipe"
) -> list[TrainingRecipe]:
    """Turn the mapping of a YAML file into the stages of a recipe; see `read_recipe`."""
    base = {key: value for key, value in content.items() if key != "stages"}
    given = read_overrides(overrides)
    if "stages" not in content:
        return [_rename_objective(build(TrainingRecipe, merge(base, given), named))]
    stages = content["stages"]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and "name" in stage for stage in stages):
        raise ValueError(f"{named}: stages must be a list of mappings that each have a name")
    built = []
    for number, stage in enumerate(stages, start=1):
        recipe = merge(merge(base, stage), given)
        output = f"{recipe.get('run', {}).get('output', 'runs/train')}/{number}-{stage['name']}"
        recipe = merge(recipe, {"run": {"output": output}})
        built.append(_rename_objective(build(TrainingRecipe, recipe, f"{named}, stage {stage['name']}")))
        if number < len(stages) and "folder" not in built[-1].run.export:
            raise ValueError(
                f"{named}, stage {stage['name']}: run.export is {built[-1].run.export}, but the next stage starts "
                "from its folder; add folder"
            )
    return built


def stages_from(stages: Sequence[TrainingRecipe], name: str) -> list[TrainingRecipe]:
    """Return the stages of a recipe from the one with this name on.

    Raises:
        ValueError: The recipe has no stage of this name.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise ValueError(f"the recipe has no stage {name!r}; give one of: {', '.join(names)}")
    return list(stages[names.index(name) :])


def load_resolved(path: Path) -> TrainingRecipe:
    """Read a recipe that `timechat.config.save_recipe` has written, without replacing variables.

    Raises:
        TrainingError: The file is damaged.
    """
    try:
        return _rename_objective(recipes.load_resolved(TrainingRecipe, path))
    except ValueError as error:  # pydantic's errors are of this kind too
        reason = (str(error).splitlines() or ["it is empty"])[0].removeprefix(f"{path} ")
        raise TrainingError(
            f"{path} is not the recipe of a run ({reason}); restore this file, or start anew with --fresh"
        ) from error


def with_global_batch(recipe: TrainingRecipe, num_processes: int) -> TrainingRecipe:
    """Return a recipe whose batch size is that of all processes together, as it is stored in the folder of a run.

    Args:
        recipe: Recipe, possibly with the deprecated `run.batch_size`.
        num_processes: Number of processes that `run.batch_size` is for.
    """
    size = recipe.run.global_batch_size or recipe.run.samples_per_process(num_processes) * num_processes
    return replace(recipe, run=replace(recipe.run, global_batch_size=size, batch_size=None))


def differences(ours: TrainingRecipe, theirs: TrainingRecipe, *, paths_count: bool = True) -> list[str]:
    """List the differences of two recipes that change what is computed, as `key: old → new`.

    Args:
        ours: New recipe.
        theirs: Old recipe.
        paths_count: Whether paths of records, videos and start weights are compared too. The checkpoint holds hashes of
            what they lead to.
    """
    if not paths_count:
        ours, theirs = _without_paths(ours), _without_paths(theirs)
    return recipes.differences(ours, theirs, apart_from=_FREE)


def _without_paths(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return a recipe without paths of inputs; what is there and what is not stays visible."""
    sources = [SourceSettings(records="", weight=source.weight) for source in recipe.data.sources]
    features = None if recipe.data.features is None else ""
    return replace(
        recipe,
        model=replace(recipe.model, checkpoint="", heads=None),
        data=replace(recipe.data, sources=sources, features=features),
    )


def _rename_objective(recipe: TrainingRecipe) -> TrainingRecipe:
    """Replace an objective's name of version 0.1 by its name of today."""
    return replace(recipe, objective=_RENAMED_OBJECTIVES.get(recipe.objective, recipe.objective))
