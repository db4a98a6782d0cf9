"""The text of `--help`: plain, in groups, with examples, and with every bracket that the texts contain."""

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from timechat.cli.examples import EXAMPLES

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_WIDTH = 100  # columns of the text
_COLUMN = 28  # column of the explanations

_VALUE_NAMES: dict[Any, str] = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}


class HelpCommand(TyperCommand):
    """A command whose help is the text of `help_text`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_text(self, ctx))


class HelpGroup(TyperGroup):
    """A group of commands whose help is the text of `help_text`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(help_text(self, ctx))


def name_values(function: Function) -> Function:
    """Name the values of all options of a command whose declaration has no `metavar`; a flag has no value."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation if get_origin(parameter.annotation) is Annotated else hints[name]
        kind, option = get_args(annotation)
        if get_origin(kind) in (Union, UnionType):
            (kind,) = (each for each in get_args(kind) if each is not NoneType)
        kind = get_args(kind)[0] if get_origin(kind) is list else kind
        if isinstance(option, OptionInfo) and option.metavar is None and kind is not bool:
            option.metavar = _choices(kind) or _VALUE_NAMES[kind]
    return function


def _choices(kind: Any) -> str:
    """Return the choices of a type; empty for a type without choices."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return "|".join(str(each.value) for each in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ""


def help_text(command: Any, ctx: Any) -> str:
    """Return the help of a command or a group of commands, with a final line end."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    lines = [f"Usage: {usage(command, ctx)}", ""]
    for paragraph in paragraphs(command):
        lines += [*_wrapped(paragraph, width), ""]
    for title, options in option_groups(command, ctx).items():
        lines += [f"{title}:", *_rows([option_row(option) for option in options], width), ""]
    for title, commands in command_groups(command, ctx).items():
        rows = [(each.name or "", paragraphs(each)[0]) for each in commands]
        lines += [f"{title}:", *_rows(rows, width), ""]
    if examples := EXAMPLES.get(command_name(ctx)):
        lines += ["Examples:", *(f"  {line}" for line in examples), ""]
    return "\n".join(lines)


def command_name(ctx: Any) -> str:
    """Return the name of a command without that of the program, such as `data draw`; empty for the program itself."""
    names = []
    while ctx.parent is not None:
        names.append(ctx.info_name)
        ctx = ctx.parent
    return " ".join(reversed(names))


def usage(command: Any, ctx: Any) -> str:
    """Return the usage line of a command: the names of optional arguments are in brackets."""
    arguments = [each.metavar or each.name.upper() for each in command.get_params(ctx) if _is_argument(each)]
    tail = ["COMMAND ..."] if command_groups(command, ctx) else []
    return " ".join([ctx.command_path, "[OPTIONS]", *arguments, *tail])


def paragraphs(command: Any) -> list[str]:
    """Return the description of a command, one line per paragraph."""
    return [" ".join(text.split()) for text in inspect.cleandoc(command.help or "").split("\n\n")]


def option_groups(command: Any, ctx: Any) -> dict[str, list[Any]]:
    """Return the arguments and options of a command, by the titles of their groups."""
    groups: dict[str, list[Any]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        if not getattr(parameter, "hidden", False):
            title = "Arguments" if _is_argument(parameter) else getattr(parameter, "rich_help_panel", None) or "Options"
            groups.setdefault(title, []).append(parameter)
    return {title: options for title, options in groups.items() if options}


def command_groups(command: Any, ctx: Any) -> dict[str, list[Any]]:
    """Return the commands of a group, by the titles of their groups; empty for a single command."""
    groups: dict[str, list[Any]] = {}
    for name in getattr(command, "commands", {}):
        each = command.get_command(ctx, name)
        groups.setdefault(getattr(each, "rich_help_panel", None) or "Commands", []).append(each)
    return groups


def option_row(parameter: Any) -> tuple[str, str]:
    """Return an argument or option with the name of its value, and its explanation with its limits and default."""
    if _is_argument(parameter):
        return parameter.metavar or parameter.name.upper(), parameter.help or ""
    names = sorted(parameter.opts, key=len) + parameter.secondary_opts
    value = "" if parameter.is_flag or parameter.metavar is None else f" {parameter.metavar}"
    facts = [*_limits(parameter), *_default(parameter), *(["required"] if parameter.required else [])]
    explanation = f"{parameter.help or ''} [{'; '.join(facts)}]" if facts else parameter.help or ""
    return ", ".join(names) + value, explanation


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _limits(parameter: Any) -> Iterator[str]:
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is not None:
        yield f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def _default(parameter: Any) -> Iterator[str]:
    default = parameter.default
    if isinstance(parameter.show_default, str):
        yield f"default: {parameter.show_default}"
    elif parameter.secondary_opts and default is not None:
        yield f"default: {(parameter.opts if default else parameter.secondary_opts)[0]}"
    elif default is not None and not callable(default) and not parameter.is_flag and parameter.show_default:
        shown = default.value if isinstance(default, Enum) else default
        yield f"default: {shown:g}" if isinstance(shown, float) else f"default: {shown}"


def _rows(rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield two columns; an entry that is too long for the first one has its own line."""
    for left, right in rows:
        lines = _wrapped(right, max(20, width - _COLUMN))
        if len(left) > _COLUMN - 4 or not lines:
            yield f"  {left}"
        else:
            yield f"  {left:<{_COLUMN - 2}}{lines.pop(0)}"
        for line in lines:
            yield " " * _COLUMN + line


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
