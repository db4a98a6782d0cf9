"""The `timechat` command. Heavy libraries are imported inside of the commands that need them."""

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from timechat import __version__
from timechat.cli import (
    ask,
    batch,
    cache,
    chat,
    convert,
    data,
    data_build,
    download,
    evaluate,
    index,
    info,
    mcp,
    models,
    recipes,
    score,
    search,
    serve,
    train,
    watch,
)
from timechat.cli.help import HelpCommand, HelpGroup, name_values
from timechat.errors import TimeChatError, describe_error, is_out_of_memory, plain_mistake, printable_line

_INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT
_DEBUG_VARIABLE = "TIMECHAT_DEBUG"

app = typer.Typer(
    name="timechat",
    cls=HelpGroup,
    help="Ask about long videos: answers, captions, moments and highlights, each with start and end in seconds.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"timechat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[  # noqa: ARG001 - done by its callback
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    if debug:
        os.environ[_DEBUG_VARIABLE] = "1"


_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Questions about videos": {
        "ask": ask.ask,
        "chat": chat.chat,
        "caption": ask.caption,
        "ground": ask.ground,
        "highlights": ask.highlights,
        "steps": ask.steps,
        "summarize": ask.summarize,
        "transcribe": ask.transcribe,
        "watch": watch.watch,
        "batch": batch.batch,
    },
    "Search": {"index": index.index, "search": search.search},
    "Servers": {"serve": serve.serve, "mcp": mcp.mcp},
    "Models": {"models": models.models, "info": info.info, "download": download.download, "convert": convert.convert},
    "Training and evaluation": {
        "recipes": recipes.recipes,
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "score": score.score,
    },
}
for panel, commands in _COMMANDS.items():
    for name, function in commands.items():
        app.command(name, cls=HelpCommand, rich_help_panel=panel)(name_values(function))
for command in (data_build.build, data_build.merge):
    data.app.command(cls=HelpCommand)(name_values(command))
app.add_typer(data.app, name="data", rich_help_panel="Training and evaluation")
app.add_typer(cache.app, name="cache", rich_help_panel="Cache")


def main() -> None:
    """Run the command: bad input gives one line on stderr and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _write_utf8()
    try:
        status = app(prog_name="timechat", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except typer.TyperException as error:
        if isinstance(error, typer.BadParameter):
            error.message = _plain_message(error)
        describe = getattr(error, "format_message", error.__str__)
        if not describe():  # no arguments at all: the help was shown
            sys.exit(2)
        _fail(f"{describe()} (try --help)")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read us has gone
        sys.exit(1)
    except (TimeChatError, ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get(_DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        _fail(describe_error(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail("out of memory; take fewer frames (--num-frames), a smaller --dtype, or another --device")
    if status == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _write_utf8() -> None:
    """Write UTF-8 with unchanged line ends, also on Windows; the environment variable PYTHONIOENCODING wins."""
    encoding = None if os.environ.get("PYTHONIOENCODING") else "utf-8"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="backslashreplace", newline="\n")


def _plain_message(error: typer.BadParameter) -> str:
    """Say what is wrong with the value of an option, and what the value was."""
    message = plain_mistake(error.message)
    mistakes = getattr(error.__cause__, "errors", None)  # of pydantic, which newer versions of Typer ask
    return f"{message}, got {mistakes()[0]['input']!r}" if mistakes and message.startswith("must ") else message


def _fail(message: str) -> NoReturn:
    """Say in one line what was wrong with the input."""
    typer.echo(f"timechat: {printable_line(message)}", err=True)
    sys.exit(2)
