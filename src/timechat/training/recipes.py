"""One YAML file → the stages of a training run."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from timechat.files import written_whole
from timechat.training.config import Recipe

RESOLVED_FILE = "recipe.yaml"
# What may differ when a run is taken up again: it changes what is kept and shown, not what is computed.
_FREE = ("run.save_every", "run.keep_checkpoints", "run.log_every", "run.tensorboard", "run.wandb", "run.plot")
_FREE_TOO = ("run.output", "run.export", "data.workers", "name")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> list[Recipe]:
    """Read a recipe into its stages; a recipe without `stages` is one.

    `${NAME}` in a value is replaced by the environment's variable.

    Args:
        path: The YAML file.
        overrides: `section.key=value`, the value as YAML; they win over the file and over every stage.

    Raises:
        ValueError: The file is no YAML mapping, a key is unknown, a value does not fit, or a variable is not set.
    """
    return build_recipe(_read_mapping(path), overrides, named=str(path))


def build_recipe(content: Mapping[str, Any], overrides: Sequence[str] = (), *, named: str = "recipe") -> list[Recipe]:
    """Turn a mapping, as YAML holds it, into the stages of a recipe; see `read_recipe`."""
    base = {key: value for key, value in content.items() if key != "stages"}
    given = _read_overrides(overrides)
    if "stages" not in content:
        return [_build(_merge(base, given), named)]
    stages = content["stages"]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and "name" in stage for stage in stages):
        raise ValueError(f"{named}: stages must be a list of mappings that each have a name")
    recipes = []
    for number, stage in enumerate(stages, start=1):
        recipe = _merge(_merge(base, stage), given)
        output = f"{recipe.get('run', {}).get('output', 'runs/train')}/{number}-{stage['name']}"
        recipe = _merge(recipe, {"run": {"output": output}})
        recipes.append(_build(recipe, f"{named}, stage {stage['name']}"))
        if number < len(stages) and "folder" not in recipes[-1].run.export:
            raise ValueError(
                f"{named}, stage {stage['name']}: run.export is {recipes[-1].run.export}, but the next stage starts "
                "from its folder; add folder"
            )
    return recipes


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a resolved recipe, with every default spelt out."""
    with written_whole(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(plain_recipe(recipe), sort_keys=False, allow_unicode=True))


def load_resolved(path: Path) -> Recipe:
    """Read a recipe that `save_recipe` has written; nothing in it is replaced."""
    return _ADAPTER.validate_python(_read_mapping(path))


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Name what differs between two recipes in a way that changes what is computed: `key: old → new`."""
    new, old = (dict(_flatten(plain_recipe(recipe))) for recipe in (ours, theirs))
    keys = [key for key in {**old, **new} if not key.startswith((*_FREE, *_FREE_TOO))]
    return [f"{key}: {old.get(key)} → {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


_ADAPTER = TypeAdapter(Recipe)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no recipe {path}; name a YAML file such as those in recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a mapping with model, data, run, ...")
    return content


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Turn `a.b=value` into nested mappings."""
    given: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes section.key=value, got {override!r}")
        value: Any = yaml.safe_load(text)
        for key in reversed(name.strip().split(".")):
            value = {key: value}
        given = _merge(given, value)
    return given


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _build(content: dict[str, Any], named: str) -> Recipe:
    _check_keys(content, Recipe, "", named)
    expanded = _expand(content, "", named)
    try:
        return _ADAPTER.validate_python(expanded)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "function-after")
        got = "" if first["type"] in ("value_error", "missing") else f", got {first['input']!r}"
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{named}: {f'{place}: ' if place else ''}{message}{got}") from error


def _check_keys(content: Mapping[str, Any], cls: type, place: str, named: str) -> None:
    """Refuse keys that the dataclass does not have, at any depth, and name the nearest that it has."""
    hints = get_type_hints(cls)
    known = {field.name: hints[field.name] for field in fields(cls)}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5) or _elsewhere(str(key))
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ValueError(f"{named}: unknown key {place}{key}; {hint}")
        inner = known[key]
        if is_dataclass(inner) and isinstance(value, Mapping):
            _check_keys(value, inner, f"{place}{key}.", named)  # type: ignore[arg-type]
        elif isinstance(value, list) and (items := get_args(inner)) and is_dataclass(items[0]):
            for i, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check_keys(item, items[0], f"{place}{key}[{i}].", named)  # type: ignore[arg-type]


def _elsewhere(key: str) -> list[str]:
    """Find a key in the other sections."""
    return [name for name in _all_keys(Recipe, "") if name.rpartition(".")[2] == key]


def _all_keys(cls: type, place: str) -> list[str]:
    names = []
    for name, hint in get_type_hints(cls).items():
        names += _all_keys(hint, f"{place}{name}.") if is_dataclass(hint) else [f"{place}{name}"]  # type: ignore[arg-type]
    return names


def _expand(value: Any, place: str, named: str) -> Any:
    """Put the environment's variables in the place of `${NAME}`, at any depth."""
    if isinstance(value, Mapping):
        return {key: _expand(item, f"{place}.{key}".strip("."), named) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{place}.{i}", named) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(
                f"{named}: {place} is {value}, but the environment has no {match[1]}; set it, or give --set {place}=..."
            )
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", variable, value)


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return plain


def _flatten(value: Any, place: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, item in value.items() for pair in _flatten(item, f"{place}.{key}".strip("."))]
    return [(place, value)]
