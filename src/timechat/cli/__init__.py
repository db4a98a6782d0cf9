"""The `timechat` command. Heavy libraries are imported inside of the commands that need them."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from timechat import __version__
from timechat.cli import ask, cache, chat, convert, data, download, evaluate, info, mcp, score, serve, train, watch
from timechat.errors import TimeChatError, describe_error, is_out_of_memory, plain_mistake, printable_line

_INTERRUPTED = 130  # as shells say it: 128 and the number of SIGINT
_DEBUG_VARIABLE = "TIMECHAT_DEBUG"

app = typer.Typer(
    name="timechat",
    help="Understand long videos in time: captions, moments and highlights with times you can trust.",
    no_args_is_help=True,
    add_completion=False,
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


app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("caption")(ask.caption)
app.command("ground")(ask.ground)
app.command("highlights")(ask.highlights)
app.command("steps")(ask.steps)
app.command("summarize")(ask.summarize)
app.command("transcribe")(ask.transcribe)
app.command("watch")(watch.watch)
app.command("mcp")(mcp.mcp)
app.command("info")(info.info)
app.command("download")(download.download)
app.command("convert")(convert.convert)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(score.score)
app.command("serve")(serve.serve)


def main() -> None:
    """Run the command: bad input gives one line on stderr and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        status = app(standalone_mode=False)
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


def _plain_message(error: typer.BadParameter) -> str:
    """Say what is wrong with the value of an option, and what the value was."""
    message = plain_mistake(error.message)
    mistakes = getattr(error.__cause__, "errors", None)  # of pydantic, which newer versions of Typer ask
    return f"{message}, got {mistakes()[0]['input']!r}" if mistakes and message.startswith("must ") else message


def _fail(message: str) -> NoReturn:
    """Say in one line what was wrong with the input."""
    typer.echo(f"timechat: {printable_line(message)}", err=True)
    sys.exit(2)
