"""A real server on loopback, in a thread of the tests."""

import asyncio
import io
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import uvicorn

from timechat.pipeline import TimeChat
from timechat.search.encoder import FrameTextEncoder
from timechat.serving.http import ServerSettings, create_app
from timechat.serving.http.routes.state import ServerState
from timechat.serving.http.server import HttpServer
from timechat.serving.service import Service
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video


@dataclass
class Running:
    """A running server.

    Attributes:
        url: Address of the server.
        client: HTTP client for the server.
        server: Parts of the server.
        settings: Settings of the server.
        http: The HTTP server.
    """

    url: str
    client: httpx.Client
    server: ServerState
    settings: ServerSettings
    http: HttpServer


@pytest.fixture(scope="session")
def nano() -> TimeChat:
    return TimeChat.from_pretrained()


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    """A folder with a short synthetic video, `film.mp4`, and a shorter one, `inner/second.mp4`."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "inner").mkdir()
    write_video(write_scene(3, 1, level=1), folder / "film.mp4")
    write_video(write_scene(3, 2, level=1), folder / "inner" / "second.mp4")
    return folder


@contextmanager
def serving(
    timechat: TimeChat, settings: ServerSettings, *, encoder: FrameTextEncoder | None = None
) -> Iterator[Running]:
    """Run a server for a `with` block."""
    app = create_app(timechat, settings, encoder=encoder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = HttpServer(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        def run() -> None:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            until(lambda: server.started)
            with httpx.Client(base_url=url, timeout=120) as client:
                yield Running(url, client, app.state.server, settings, server)
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            if thread.is_alive():
                pytest.fail(f"the server did not stop\n{stacks_of_all_tasks(loops[0])}\n{stacks_of_all_threads()}")


@pytest.fixture(scope="session")
def running(nano, films, tmp_path_factory) -> Iterator[Running]:
    """A server with default settings, for tests that leave no state behind."""
    with serving(nano, ServerSettings(data=tmp_path_factory.mktemp("data"), folders=(films,))) as running:
        yield running


@pytest.fixture
def served(nano, films, tmp_path) -> Iterator[Callable[..., Running]]:
    """Start servers with settings of the test; each stops the one before, which has the same data folder."""
    with ExitStack() as servers:

        def serve(**changes) -> Running:
            servers.pop_all().close()
            settings = replace(ServerSettings(data=tmp_path / "data", folders=(films,)), **changes)
            return servers.enter_context(serving(nano, settings))

        yield serve


@pytest.fixture(scope="session")
def film_id(running) -> str:
    files = running.client.get("/v1/files").json()["data"]
    return next(file["id"] for file in files if file["filename"] == "film.mp4")


@pytest.fixture(scope="session")
def uploaded(running, films) -> str:
    """Id of an upload that is not deleted."""
    with (films / "film.mp4").open("rb") as file:
        answer = running.client.post("/v1/files", files={"file": ("my film.mp4", file)}, data={"purpose": "user_data"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def stacks_of_all_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """What each task of an event loop waits for, and the timers of the loop."""
    stacks = io.StringIO()
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=stacks)
    now = loop.time()
    timers = [f"{timer.when() - now:.3f} s: {timer}" for timer in list(getattr(loop, "_scheduled", []))]
    return "\n".join([stacks.getvalue(), "--- timers in the order of the heap", *timers])


def stacks_of_all_threads() -> str:
    """Return the stacks of all threads."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"--- {names.get(ident)}\n{''.join(traceback.format_stack(frame)[-12:])}"
        for ident, frame in sys._current_frames().items()
    )


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


@pytest.fixture
def held_requests(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Requests wait until this event is set; streams send a comment every 0.1 s meanwhile."""
    monkeypatch.setattr("timechat.serving.http.answering.OPEN_SECONDS", 0.1)
    monkeypatch.setattr("timechat.serving.http.answering.KEEPALIVE_SECONDS", 0.1)
    is_free = threading.Event()
    open_request = Service.open_request

    def wait(self: Service, request: object, context: object) -> object:
        assert is_free.wait(30)
        return open_request(self, request, context)

    monkeypatch.setattr(Service, "open_request", wait)
    return is_free
