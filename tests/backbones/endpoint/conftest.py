from collections.abc import Callable, Iterator

import pytest

from tests.backbones.endpoint.stub import SECRET, Answering, Reply, StubServer
from timechat.backbones.endpoint.abilities import forget_abilities
from timechat.backbones.endpoint.address import ApiKey, EndpointAddress
from timechat.backbones.endpoint.client import EndpointClient, RequestLimits

KEY = ApiKey("OPENAI_API_KEY", SECRET)


class Connected:
    """A server, a client of it, and the seconds for which the client waited before retries."""

    def __init__(self, server: StubServer, *, model: str | None, key: ApiKey | None, limits: RequestLimits) -> None:
        self.server = server
        self.waits: list[float] = []
        self.address = EndpointAddress.parse(f"{server.url}#{model or ''}")
        self.client = EndpointClient(self.address, key, limits=limits, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


Connect = Callable[..., Connected]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Start a server with the given replies and connect to it."""
    opened: list[Connected] = []

    def start(
        *replies: Reply | Answering,
        models: tuple[str, ...] = ("tiny",),
        model: str | None = "tiny",
        key: ApiKey | None = KEY,
        limits: RequestLimits | None = None,
    ) -> Connected:
        server = StubServer(*replies, models=models).__enter__()
        opened.append(Connected(server, model=model, key=key, limits=limits or RequestLimits(timeout=20)))
        return opened[-1]

    yield start
    for connected in opened:
        connected.client.close()
        connected.server.__exit__()


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    forget_abilities()
    yield
    forget_abilities()
