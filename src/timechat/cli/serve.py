"""`timechat serve`: an OpenAI-compatible API and a web page."""

import json
import logging
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timechat.cli.index import LibraryOption
from timechat.cli.model_options import MODEL, ModelOptions
from timechat.cli.options import CacheOptions, expand_options
from timechat.cli.served_library import library_of_server
from timechat.cli.session import CommandConsole, load_timechat
from timechat.cli.times import time_from
from timechat.files.system import bind, missing_limits, share_freed_memory

if TYPE_CHECKING:
    from timechat.pipeline import TimeChat
    from timechat.serving.http import ServerSettings

_ACCESS = "Videos"
_NETWORK = "Network and keys"
_LOAD = "Load"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@expand_options
def serve(
    settings: ModelOptions,
    cache: CacheOptions,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.", rich_help_panel=_NETWORK)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=_NETWORK)
    ] = 8000,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Videos in this folder may be opened; repeatable.", rich_help_panel=_ACCESS
        ),
    ] = None,
    library: LibraryOption = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Videos may be fetched from this host: example.org, *.example.org, or * (any public one); repeatable.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", help="Hosts of --allow-host may be in a private network.", rich_help_panel=_ACCESS
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of uploads and jobs. Default: $TIMECHAT_DATA or the user's data folder.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    max_upload: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Maximum size of an uploaded or fetched video.", rich_help_panel=_ACCESS),
    ] = "4GB",
    max_duration: Annotated[
        float,
        typer.Option(parser=time_from(1), metavar="TIME", help="Maximum duration of a video.", rich_help_panel=_ACCESS),
    ] = 21600.0,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Key that requests must send; repeatable. Other users see it in the list of processes.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with one key per line. Alternative: $TIMECHAT_API_KEYS, separated by commas.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth", help="Accept requests without a key, also from other machines.", rich_help_panel=_NETWORK
        ),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Accepted host name of the server; repeatable.", rich_help_panel=_NETWORK),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Web page of another server that may send requests; repeatable.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(min=1, help="Maximum number of answers that are decoded together.", rich_help_panel=_LOAD)
    ] = 16,
    max_requests: Annotated[
        int,
        typer.Option(
            min=1, help="Maximum number of running and waiting requests; further ones get 429.", rich_help_panel=_LOAD
        ),
    ] = 96,
    request_timeout: Annotated[
        float,
        typer.Option(parser=time_from(1), metavar="TIME", help="Maximum time of an answer.", rich_help_panel=_LOAD),
    ] = 600.0,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="LoRA adapter that requests choose by its name as their model; needs --engine vllm; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Write one line per request to stderr.")] = False,
) -> None:
    """Serve the model: an OpenAI-compatible API, and a web page at /."""
    from timechat.files.cache import parse_size
    from timechat.serving.access import Addresses, Folders, Limits

    keys = _read_keys(api_key or [], api_key_file)
    if keys and no_auth:
        raise ValueError("--no-auth accepts requests without a key, but keys were given; leave out one of them")
    is_open = host not in _LOOPBACK
    if is_open and not keys and not no_auth:
        raise ValueError(
            f"--host {host} admits other machines, and there is no key; give --api-key-file, $TIMECHAT_API_KEYS or "
            "--no-auth"
        )
    names = ("*",) if is_open and not name else ("localhost", "127.0.0.1", "[::1]", *(name or ()))
    adapters = _read_adapters(lora or [], settings)
    Folders(allow or [])  # errors are reported before the model is loaded
    Addresses(allow_host or [], allows_private=allow_private)
    console = CommandConsole(quiet=settings.quiet)
    from timechat.serving.database import exclusive_lock
    from timechat.serving.http import ServerSettings
    from timechat.serving.settings import default_data_folder

    options = ServerSettings(
        folders=tuple(allow or ()),
        library=library_of_server(library, tuple(allow or ()), console),
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
    share_freed_memory()
    for note in missing_limits():
        console.warn(note)
    with exclusive_lock(options.data):
        pass  # a folder that another server uses is reported before the model is loaded
    with _listening(host, port) as listener:
        timechat = load_timechat(
            _with_engine_options(settings, max_rows, adapters), console, use_cache=not cache.no_cache
        )
        if Path(settings.model).is_dir():
            timechat.backbone.name = Path(settings.model).resolve().name  # clients do not see its path
        for note in timechat.notes:
            console.warn(note)
        _run(timechat, options, listener, console, host)


def _read_adapters(given: list[str], settings: ModelOptions) -> dict[str, str]:
    """Return the folders of adapters by name."""
    if given and settings.engine is None:
        raise ValueError("--lora needs --engine vllm; TimeChat's own engine has the adapter of the model only")
    taken = {"timechat", settings.model, Path(settings.model).resolve().name}
    adapters: dict[str, str] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ValueError(f"--lora must be NAME=FOLDER, such as --lora cooking=runs/cooking/adapter, got {text!r}")
        if name in taken or name in adapters:
            raise ValueError(f"--lora {text}: the name {name} is taken; choose another one")
        adapters[name] = folder
    return adapters


def _with_engine_options(settings: ModelOptions, max_rows: int, adapters: dict[str, str]) -> ModelOptions:
    """Pass the maximum number of answers and the adapters to the engine, unless its own options say them."""
    from timechat.backbones.loading import LORA_MODULES

    options = settings.engine_arguments()
    if options["engine"] is None:
        return settings
    ours = {"max_num_seqs": max_rows} | ({LORA_MODULES: adapters} if adapters else {})
    return replace(settings, engine_options=json.dumps(ours | (options["engine_options"] or {})))


def _read_keys(given: list[str], path: Path | None) -> list[str]:
    keys = [*given, *os.environ.get("TIMECHAT_API_KEYS", "").split(",")]
    if path is not None:
        keys += path.read_text(encoding="utf-8").splitlines()
    keys = [key.strip() for key in keys if key.strip()]
    if any(len(key) < 8 for key in keys):
        raise ValueError("a key must have at least 8 characters; make one with: openssl rand -hex 24")
    return keys


def _listening(host: str, port: int) -> socket.socket:
    """Return a bound socket, so that a port in use is reported before the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        bind(listener, (host, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}") from error
    return listener


def _run(
    timechat: "TimeChat", options: "ServerSettings", listener: socket.socket, console: CommandConsole, host: str
) -> None:
    import uvicorn

    from timechat.serving.http import create_app
    from timechat.serving.http.connections import Connection
    from timechat.serving.http.server import HttpServer

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
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    HttpServer(config, lambda: typer.echo(f"timechat serve: {address}", err=True)).run(sockets=[listener])
    console.info("stopped")
