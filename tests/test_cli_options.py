"""The options of all commands: what a wrong value is answered with, and what `--help` shows of their texts."""

import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from unittest.mock import patch

import pytest
import typer

from timechat.cli import app, main


def commands(group: typer.Typer = app, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command: its name, a word or two, and the function that Typer reads its options from."""
    for command in group.registered_commands:
        yield (*names, command.name or command.callback.__name__), command.callback
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance, (*names, str(inner.name)))


def parameters(function: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every option and argument of a command: its name, its type without None, and its Typer settings."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation if get_origin(parameter.annotation) is Annotated else hints[name]
        kind, told = get_args(annotation)
        if get_origin(kind) in (Union, UnionType):
            (kind,) = (one for one in get_args(kind) if one is not NoneType)
        yield name, kind, told


def checked_options() -> list[tuple[str, ...]]:
    """Every option that takes a number or a choice, behind its command."""
    found = []
    for command, function in commands():
        for name, kind, told in parameters(function):
            is_choice = get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))
            if isinstance(told, typer.models.OptionInfo) and (kind in (int, float) or is_choice or name == "format"):
                long = [one for one in told.param_decls or () if one.startswith("--")]
                found.append((*command, long[0] if long else f"--{name.replace('_', '-')}"))
    return found


def shown_help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What `--help` shows of a command; line ends and blanks in a row are one blank."""
    app([*command, "--help"], prog_name="timechat", standalone_mode=False)
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module", autouse=True)
def _built_once() -> Iterator[None]:
    """Typer builds all commands anew in every call, which takes longer than to refuse an option."""
    with patch.object(typer.main, "get_command", cache(typer.main.get_command)):
        yield


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Call the command with bad input; returns its one line."""
    monkeypatch.setattr(sys, "argv", ["timechat", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_a_format_that_is_none_is_answered_with_the_list(capsys, monkeypatch):
    err = refused(capsys, monkeypatch, "caption", "film.mp4", "--format", "xml")
    assert err == (
        "timechat: --format must be one of text, json, jsonl, csv, srt, vtt, vtt-chapters, youtube, ffmetadata, edl, "
        "otio, qvhighlights, html, got 'xml'\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--num-frames", "x", "'--num-frames': must be a valid integer, got 'x' (try --help)"),
        ("--num-frames", "0", "'--num-frames': must be greater than or equal to 1, got '0' (try --help)"),
        ("--fps", "x", "'--fps': must be a valid number, got 'x' (try --help)"),
        ("--cut", "x", "'--cut': 'x' is not one of 'exact', 'copy'. (try --help)"),
    ],
)
def test_a_wrong_value_is_named_in_plain_words(capsys, monkeypatch, option, value, says):
    err = refused(capsys, monkeypatch, "caption", "film.mp4", option, value)
    assert err == f"timechat: Invalid value for {says}\n"


@pytest.mark.parametrize("option", checked_options(), ids=" ".join)
def test_no_option_shows_the_words_of_a_library(capsys, monkeypatch, option):
    required = {"ground": ["film.mp4", "a"], "ask": ["film.mp4", "a"], "watch": ["film.mp4", "a"]}
    err = refused(capsys, monkeypatch, *option, "?", *required.get(option[0], ["film.mp4"]))
    assert option[-1] in err
    assert "'?'" in err
    assert "Input should" not in err
    assert "Value error" not in err
    assert "pydantic" not in err


@pytest.mark.parametrize(
    ("command", "function"), list(commands()), ids=lambda one: " ".join(one) if isinstance(one, tuple) else ""
)
def test_help_shows_every_text_to_its_last_bracket(capsys, command, function):
    shown = shown_help(capsys, *command)
    texts = [told.help for _, _, told in parameters(function)]
    assert all(texts)
    for text in [*texts, inspect.getdoc(function)]:
        assert " ".join(text.split()) in shown


def test_a_short_option_means_the_same_in_every_command():
    short_names: dict[str, set[str]] = {}
    todo: list[Any] = [typer.main.get_command(app)]
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        for option in command.params:
            long = next((name for name in option.opts if name.startswith("--")), None)
            if long is not None:
                short_names.setdefault(long, set()).update(name for name in option.opts if len(name) == 2)
                short_names[long] |= {"none"} if all(len(name) > 2 for name in option.opts) else set()
    assert short_names["--quiet"] == {"-q"}
    assert {long: names for long, names in short_names.items() if len(names) > 1} == {}
    shorts = [name for names in short_names.values() for name in names if name != "none"]
    assert len(shorts) == len(set(shorts))


def test_help_of_cite_shows_how_times_are_written(capsys):
    shown = shown_help(capsys, "ask")
    assert "Add the time of each sentence in the video: [m:ss–m:ss]." in shown


@pytest.mark.parametrize("group", [(), ("data",), ("cache",)], ids=lambda one: " ".join(one) or "all")
def test_help_of_a_group_shows_every_text(capsys, group):
    command: Any = typer.main.get_command(app)
    for name in group:
        command = command.commands[name]
    shown = shown_help(capsys, *group)
    assert " ".join(command.help.split()) in shown
    for inner in command.commands.values():
        assert " ".join(inner.help.partition("\n\n")[0].split()) in shown
