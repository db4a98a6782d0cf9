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

from timechat.cli.index import LibraryOption
from timechat.cli.model_options import ModelOptions
from timechat.cli.options import CacheOptions, expand_options
from timechat.cli.served_library import library_of_server
from timechat.cli.session import CommandConsole, load_timechat
from timechat.files.system import missing_limits

if TYPE_CHECKING:
    from timechat.serving.mcp.worker import ToolWorker


@expand_options
def mcp(
    settings: ModelOptions,
    cache: CacheOptions,
    allow: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Videos in it may be opened; repeatable. Default: the current folder."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Videos at its http(s) addresses may be fetched; repeatable. Default: none."),
    ] = None,
    library: LibraryOption = None,
    preload: Annotated[
        bool, typer.Option("--preload", help="Load the model at the start, not with the first question.")
    ] = False,
) -> None:
    """Serve the tasks as tools for agents (Model Context Protocol) over stdin and stdout."""
    from timechat.backbones.endpoint.address import EndpointAddress
    from timechat.backbones.loading import is_endpoint
    from timechat.model import NANO, NANO_FOLDER
    from timechat.model.domain import read_limits
    from timechat.serving.mcp.protocol import serve
    from timechat.serving.mcp.worker import ToolWorker

    console = CommandConsole(quiet=settings.quiet)
    for note in missing_limits():
        console.warn(note)
    load = partial(load_timechat, settings, console, use_cache=not cache.no_cache)
    limits = read_limits(NANO_FOLDER if settings.model == NANO else Path(settings.model))
    privacy_note = EndpointAddress.parse(settings.model).privacy_note() if is_endpoint(settings.model) else None
    folders = allow or [Path()]
    searched = library_of_server(library, folders, console)
    worker = ToolWorker(load, folders, allow_host or [], limits=limits, privacy_note=privacy_note, library=searched)
    with contextlib.closing(worker), _exit_on_signals(worker):
        if preload:
            with contextlib.redirect_stdout(sys.stderr):
                worker.load()
        console.info("serving tools on stdin and stdout; videos in " + ", ".join(map(str, worker.folders)))
        asyncio.run(serve(worker))


@contextlib.contextmanager
def _exit_on_signals(worker: "ToolWorker") -> Iterator[None]:
    """Exit at once on Ctrl-C or `kill`: the usual way would wait for the thread that reads a line of stdin."""

    def end(number: int, _: FrameType | None) -> None:
        worker.delete_files()
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
