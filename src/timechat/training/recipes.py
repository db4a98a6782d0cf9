"""Read one YAML file into the stages of a training run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from timechat import config as recipes
from timechat.config import build, merge, read_mapping, read_overrides
from timechat.training.config import TrainingRecipe

RESOLVED_FILE = "recipe.yaml"
# Keys that may change when a run is resumed. They change what is kept and shown, not what is computed.
_FREE = ("run.save_every", "run.keep_checkpoints", "run.log_every", "run.tensorboard", "run.wandb", "run.plot")
_FREE_TOO = ("run.output", "run.export", "data.workers", "name")
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


def load_resolved(path: Path) -> TrainingRecipe:
    """Read a recipe that `timechat.config.save_recipe` has written, without replacing variables."""
    return _rename_objective(recipes.load_resolved(TrainingRecipe, path))


def differences(ours: TrainingRecipe, theirs: TrainingRecipe) -> list[str]:
    """List the differences of two recipes that change what is computed, as `key: old → new`."""
    return recipes.differences(ours, theirs, apart_from=(*_FREE, *_FREE_TOO))


def _rename_objective(recipe: TrainingRecipe) -> TrainingRecipe:
    """Replace an objective's name of version 0.1 by its name of today."""
    return replace(recipe, objective=_RENAMED_OBJECTIVES.get(recipe.objective, recipe.objective))
