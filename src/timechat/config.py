"""Read a recipe: one YAML file → a dataclass. Unknown keys are errors; `--set a.b=value` overrides."""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from timechat.errors import plain_mistake
from timechat.files import atomic_write

Recipe = TypeVar("Recipe")

_validators: dict[type, TypeAdapter[Any]] = {}


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping.

    Raises:
        ValueError: The file does not exist or contains something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no recipe {path}; name a YAML file such as those in recipes/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}; expected a mapping with model, data, run, ...")
    return content


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Convert `a.b=value` into nested mappings; values are read as YAML."""
    result: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes section.key=value, got {override!r}")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {name}: the value is not YAML, got {text!r}") from error
        for key in reversed(name.strip().split(".")):
            value = {key: value}
        result = merge(result, value)
    return result


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with the changes applied, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        is_nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if is_nested else value
    return merged


def build(cls: type[Recipe], content: Mapping[str, Any], source: str) -> Recipe:
    """Build a recipe from a mapping; `${NAME}` in a value is replaced by the environment variable.

    Args:
        cls: Dataclass of dataclasses.
        content: Content of the YAML file.
        source: Name of the recipe in error messages.

    Raises:
        ValueError: A key is unknown, a value does not fit, or a variable is not set.
    """
    _check_keys(content, cls, cls, "", source)
    expanded = _expand(content, "", source)
    try:
        recipe: Recipe = _validator(cls).validate_python(expanded)
        return recipe
    except ValidationError as error:
        first = error.errors()[0]
        key_path = ".".join(str(part) for part in first["loc"] if part != "function-after")
        got = "" if first["type"] in ("value_error", "missing", "missing_argument") else f", got {first['input']!r}"
        message = plain_mistake(first["msg"])
        raise ValueError(f"{source}: {f'{key_path}: ' if key_path else ''}{message}{got}") from error


def _validator(cls: type) -> TypeAdapter[Any]:
    """Return the validator of a dataclass. It is kept, because building one takes longer than using it."""
    if cls not in _validators:
        _validators[cls] = TypeAdapter(cls)
    return _validators[cls]


def _check_keys(content: Mapping[str, Any], cls: type, root: type, key_path: str, source: str) -> None:
    """Refuse unknown keys at any depth, with the most similar known key in the message."""
    hints = get_type_hints(cls)
    known = {field.name: hints[field.name] for field in fields(cls)}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5) or _elsewhere(str(key), root)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ValueError(f"{source}: unknown key {key_path}{key}; {hint}")
        inner = known[key]
        if is_dataclass(inner) and isinstance(value, Mapping):
            _check_keys(value, inner, root, f"{key_path}{key}.", source)  # type: ignore[arg-type]
        elif isinstance(value, list) and (items := get_args(inner)) and is_dataclass(items[0]):
            for i, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check_keys(item, items[0], root, f"{key_path}{key}[{i}].", source)  # type: ignore[arg-type]


def _elsewhere(key: str, root: type) -> list[str]:
    """Return the paths of a key in other sections."""
    return [name for name in _all_keys(root, "") if name.rpartition(".")[2] == key]


def _all_keys(cls: type, key_path: str) -> list[str]:
    names = []
    for name, hint in get_type_hints(cls).items():
        names += _all_keys(hint, f"{key_path}{name}.") if is_dataclass(hint) else [f"{key_path}{name}"]  # type: ignore[arg-type]
    return names


def _expand(value: Any, key_path: str, source: str) -> Any:
    """Replace `${NAME}` by the environment variable, at any depth."""
    if isinstance(value, Mapping):
        return {key: _expand(item, f"{key_path}.{key}".strip("."), source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{key_path}.{i}", source) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(
                f"{source}: {key_path} is {value}, but the environment has no {match[1]}; set it, or give "
                f"--set {key_path}=..."
            )
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", variable, value)


def plain(recipe: Any) -> dict[str, Any]:
    """Return a recipe as plain JSON values."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return content


def save_recipe(recipe: Any, path: Path) -> None:
    """Write a resolved recipe with all its defaults."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_resolved(cls: type[Recipe], path: Path) -> Recipe:
    """Read a recipe written by `save_recipe`; variables are not replaced."""
    recipe: Recipe = _validator(cls).validate_python(read_mapping(path))
    return recipe


def differences(ours: Any, theirs: Any, *, apart_from: tuple[str, ...] = ()) -> list[str]:
    """Return the differences between two recipes as `key: old → new`.

    Args:
        ours: New recipe.
        theirs: Old recipe.
        apart_from: Prefixes of keys to ignore.
    """
    new, old = (dict(_flatten(plain(recipe))) for recipe in (ours, theirs))
    keys = [key for key in {**old, **new} if not key.startswith(apart_from)]
    return [f"{key}: {old.get(key)} → {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def _flatten(value: Any, key_path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, item in value.items() for pair in _flatten(item, f"{key_path}.{key}".strip("."))]
    return [(key_path, value)]
