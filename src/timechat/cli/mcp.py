"""`timechat mcp`: the tasks as tools for agents."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.options import ModelOptions, expand_options
from timechat.cli.session import CommandConsole, load_timechat

if TYPE_CHECKING:
    from timechat.serving.mcp.library import VideoLibrary


@expand_options
def mcp(
    settings: ModelOptions,
    allow: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Videos in it may be opened; repeatable. Default: the current folder."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Videos at its http(s) addresses may be fetched; repeatable. Default: none."),
    ] = None,
    preload: Annotated[
        bool, typer.Option("--preload", help="Load the model at the start, not for the first question.")
    ] = False,
) -> None:
    """Serve the tasks as tools for agents (Model Context Protocol) over stdin and stdout."""
    from timechat.serving.mcp.library import VideoLibrary
    from timechat.serving.mcp.protocol import serve
    from timechat.serving.mcp.worker import Worker

    screen = CommandConsole(quiet=settings.quiet)
    with (
        contextlib.closing(VideoLibrary(allow or [Path()], allow_host or [])) as library,
        contextlib.closing(Worker(partial(load_timechat, settings, screen))) as desk,
        _ended_by_signals(library),
    ):
        if preload:
            with contextlib.redirect_stdout(sys.stderr):
                desk.load()
        screen.info("serving tools on stdin and stdout; videos in " + ", ".join(map(str, library.folders)))
        asyncio.run(serve(desk, library))


@contextlib.contextmanager
def _ended_by_signals(library: "VideoLibrary") -> Iterator[None]:
    """End at once on Ctrl-C or `kill`: a thread that waits for a line on stdin would hold up the usual way out."""

    def end(number: int, _: FrameType | None) -> None:
        library.close()
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
