"""One YAML file → the stages of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timechat import config as recipes
from timechat.config import build, merge, read_mapping, read_overrides
from timechat.training.config import TrainingRecipe

RESOLVED_FILE = "recipe.yaml"
# What may differ when a run is taken up again: it changes what is kept and shown, not what is computed.
_FREE = ("run.save_every", "run.keep_checkpoints", "run.log_every", "run.tensorboard", "run.wandb", "run.plot")
_FREE_TOO = ("run.output", "run.export", "data.workers", "name")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> list[TrainingRecipe]:
    """Read a recipe into its stages; a recipe without `stages` is one.

    `${NAME}` in a value is replaced by the environment's variable.

    Args:
        path: The YAML file.
        overrides: `section.key=value`, the value as YAML; they win over the file and over every stage.

    Raises:
        ValueError: The file is no YAML mapping, a key is unknown, a value does not fit, or a variable is not set.
    """
    return build_recipe(read_mapping(path), overrides, named=str(path))


def build_recipe(
    content: Mapping[str, Any], overrides: Sequence[str] = (), *, named: str = "recipe"
) -> list[TrainingRecipe]:
    """Turn a mapping, as YAML holds it, into the stages of a recipe; see `read_recipe`."""
    base = {key: value for key, value in content.items() if key != "stages"}
    given = read_overrides(overrides)
    if "stages" not in content:
        return [build(TrainingRecipe, merge(base, given), named)]
    stages = content["stages"]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and "name" in stage for stage in stages):
        raise ValueError(f"{named}: stages must be a list of mappings that each have a name")
    built = []
    for number, stage in enumerate(stages, start=1):
        recipe = merge(merge(base, stage), given)
        output = f"{recipe.get('run', {}).get('output', 'runs/train')}/{number}-{stage['name']}"
        recipe = merge(recipe, {"run": {"output": output}})
        built.append(build(TrainingRecipe, recipe, f"{named}, stage {stage['name']}"))
        if number < len(stages) and "folder" not in built[-1].run.export:
            raise ValueError(
                f"{named}, stage {stage['name']}: run.export is {built[-1].run.export}, but the next stage starts "
                "from its folder; add folder"
            )
    return built


def load_resolved(path: Path) -> TrainingRecipe:
    """Read a recipe that `timechat.config.save_recipe` has written; nothing in it is replaced."""
    return recipes.load_resolved(TrainingRecipe, path)


def differences(ours: TrainingRecipe, theirs: TrainingRecipe) -> list[str]:
    """Name what differs between two recipes in a way that changes what is computed: `key: old → new`."""
    return recipes.differences(ours, theirs, apart_from=(*_FREE, *_FREE_TOO))
