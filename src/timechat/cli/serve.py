"""`timechat serve`: an API that existing clients speak, and a page."""

import ctypes
import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.console import CommandConsole
from timechat.cli.options import ModelOptions, expand_options
from timechat.cli.session import load_timechat

if TYPE_CHECKING:
    import uvicorn

    from timechat.pipeline import TimeChat
    from timechat.serving.http import ServerSettings

_ACCESS = "What may be asked about"
_NETWORK = "Who may ask"
_LOAD = "How much at once"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@expand_options
def serve(
    settings: ModelOptions,
    host: Annotated[str, typer.Option(help="Address to listen at.", rich_help_panel=_NETWORK)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.", rich_help_panel=_NETWORK)] = 8000,
    allow: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Films in this folder may be asked about.", rich_help_panel=_ACCESS),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Films may be fetched from here: example.org, *.example.org, or * for any public host.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Those hosts may be in a private network.", rich_help_panel=_ACCESS),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of uploads and jobs. Default: $TIMECHAT_DATA or the user's.", rich_help_panel=_ACCESS
        ),
    ] = None,
    max_upload: Annotated[
        str, typer.Option(help="Largest film that is uploaded or fetched.", rich_help_panel=_ACCESS)
    ] = "4GB",
    max_duration: Annotated[
        float, typer.Option(min=1, help="Longest film, in seconds.", rich_help_panel=_ACCESS)
    ] = 21600.0,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that requests must show; others see it in the list of processes.", rich_help_panel=_NETWORK
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File of keys, one a line; or $TIMECHAT_API_KEYS with commas.", rich_help_panel=_NETWORK),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="No key, even beyond this machine.", rich_help_panel=_NETWORK)
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name under which the server may be asked.", rich_help_panel=_NETWORK),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web page of another server that may ask.", rich_help_panel=_NETWORK),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(min=1, help="Answers that are written side by side.", rich_help_panel=_LOAD)
    ] = 16,
    max_requests: Annotated[
        int,
        typer.Option(min=1, help="Questions that are answered at once or wait; more get 429.", rich_help_panel=_LOAD),
    ] = 96,
    request_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that an answer may take.", rich_help_panel=_LOAD)
    ] = 600.0,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="A line a request, on stderr.")] = False,
) -> None:
    """Serve the model: an API that OpenAI's clients speak, and a page at /."""
    from timechat.cache import parse_size
    from timechat.serving.access import Addresses, Folders, Limits

    keys = _read_keys(api_key or [], api_key_file)
    is_open = host not in _LOOPBACK
    if is_open and not keys and not no_auth:
        raise ValueError(
            f"--host {host} lets other machines in, and there is no key; give --api-key-file or $TIMECHAT_API_KEYS, or "
            "say --no-auth"
        )
    names = ("*",) if is_open and not name else ("localhost", "127.0.0.1", "[::1]", *(name or ()))
    Folders(allow or [])  # what is wrong with these is told before the model is loaded
    Addresses(allow_host or [], allows_private=allow_private)
    from timechat.serving.database import exclusive_lock
    from timechat.serving.http import ServerSettings
    from timechat.serving.settings import default_data_folder

    options = ServerSettings(
        folders=tuple(allow or ()),
        hosts=tuple(allow_host or ()),
        allows_private=allow_private,
        api_keys=tuple(keys),
        names=names,
        origins=tuple(origin or ()),
        limits=Limits(max_bytes=parse_size(max_upload), max_duration=max_duration),
        max_rows=max_rows,
        max_requests=max_requests,
        request_timeout=request_timeout,
        data=data or default_data_folder(),
    )
    if log_requests:
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        logging.getLogger("timechat.serving.http.requests").setLevel(logging.INFO)
    screen = CommandConsole(quiet=settings.quiet)
    _share_memory()
    with exclusive_lock(options.data):
        pass  # a folder that another server has is told before the model is loaded too
    with _listening(host, port) as listener:
        timechat = load_timechat(settings, screen)
        if Path(settings.model).is_dir():
            timechat.name = Path(settings.model).resolve().name  # clients need not know where it lies
        for note in timechat.notes:
            screen.warn(note)
        _run(timechat, options, listener, screen, host)


def _share_memory() -> None:
    """Let threads share what they free: glibc otherwise keeps a heap for each, and a server of many threads grows."""
    arena_max = -8  # M_ARENA_MAX of malloc.h
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(arena_max, 2)


def _read_keys(given: list[str], path: Path | None) -> list[str]:
    keys = [*given, *os.environ.get("TIMECHAT_API_KEYS", "").split(",")]
    if path is not None:
        keys += path.read_text(encoding="utf-8").splitlines()
    keys = [key.strip() for key in keys if key.strip()]
    if any(len(key) < 8 for key in keys):
        raise ValueError("a key must have at least 8 characters; make one with: openssl rand -hex 24")
    return keys


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens: a port that is taken is told before the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"cannot listen at {host}:{port}: {(error.strerror or str(error)).lower()}") from error
    return listener


def _run(
    timechat: "TimeChat", options: "ServerSettings", listener: socket.socket, console: CommandConsole, host: str
) -> None:
    import uvicorn

    from timechat.serving.http import create_app
    from timechat.serving.http.connections import Connection

    config = uvicorn.Config(
        create_app(timechat, options),
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        limit_concurrency=options.max_requests + 256,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _announced(config, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
    server.run(sockets=[listener])
    console.info("stopped")


def _announced(config: "uvicorn.Config", address: str) -> "uvicorn.Server":
    """A server that says where it is once it can be asked."""
    import uvicorn

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                typer.echo(f"timechat serve: {address}", err=True)

    return Announced(config)
