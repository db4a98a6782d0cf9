"""Requests to an OpenAI-compatible server: retries, a total time limit, a limit of number, cancellation, clear errors.

The caller's thread waits and calls its check function; the requests run as coroutines in a thread of the client. So a
request is cancelled at once in every stage (name look-up, connection, wait for the first byte). This closes its
connection, and the server stops computing. No redirect is followed: the key goes to the given address only.
"""

import asyncio
import json
import queue
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import Any, TypeVar

import httpx

from timechat.backbones.backbone import Check
from timechat.backbones.endpoint.address import ApiKey, EndpointAddress
from timechat.backbones.endpoint.background import POLL_SECONDS, BackgroundLoop
from timechat.backbones.endpoint.failures import Failures, TemporaryFailure
from timechat.backbones.endpoint.limits import RequestLimits
from timechat.errors import EndpointError

Result = TypeVar("Result")

_FIRST_DELAY, _LAST_DELAY = 0.5, 8.0  # seconds before a retry if the server names no time
_MAX_RESPONSE_BYTES = 64 << 20
_COMPLETIONS = "/chat/completions"


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model that a server lists.

    Attributes:
        name: Name of the model.
        context: Maximum number of tokens of prompt and answer; None if the server does not state it.
        preset: Name of the prompt preset that the model was made for; only a server of this software states it.
    """

    name: str
    context: int | None = None
    preset: str | None = None


class EndpointClient:
    """Connection to one server; threads can share it.

    Args:
        address: Address of the server.
        key: Key of the server; None for a server without one.
        limits: Limits of the requests.
        sleep: Coroutine function that waits before a retry, in seconds.
    """

    def __init__(
        self,
        address: EndpointAddress,
        key: ApiKey | None = None,
        *,
        limits: RequestLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.address = address
        self.limits = limits or RequestLimits()
        self.failures = Failures(address, key)
        self._sleep = sleep
        self._slots = asyncio.Semaphore(self.limits.max_concurrent)
        self._served: ListedModel | None = None
        self._loop = BackgroundLoop()
        self._http = httpx.AsyncClient(
            headers={"User-Agent": "timechat"} | ({"Authorization": f"Bearer {key.secret}"} if key else {}),
            timeout=httpx.Timeout(self.limits.timeout, connect=self.limits.connect_timeout),
            limits=httpx.Limits(max_connections=None),  # the number of requests is limited before
            follow_redirects=False,
            verify=_tls_context(),
            trust_env=not address.is_loopback,  # a proxy of the environment is not on this machine
        )

    def __enter__(self) -> "EndpointClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<client of {self.address}>"

    def close(self) -> None:
        """Cancel all requests and close the connections."""
        self._loop.close(self._http.aclose)

    def list_models(self, check: Check = lambda: None) -> tuple[ListedModel, ...]:
        """Return the models of the server.

        Raises:
            EndpointError: The server gives no list.
        """
        listed = self._loop.run(self._with_retries(partial(self._send, "GET", "/models", None)), check).get("data")
        if not isinstance(listed, list):
            raise self.failures.bad_response("a list of models was expected")
        return tuple(
            ListedModel(
                item["id"],
                context if isinstance(context := item.get("max_model_len"), int) else None,
                preset if isinstance(preset := item.get("preset"), str) else None,
            )
            for item in listed
            if isinstance(item, dict) and isinstance(item.get("id"), str)
        )

    def served_model(self, check: Check = lambda: None) -> ListedModel:
        """Return the model that answers, as the server lists it: that of the address, or the only one in the list.

        The server is asked once. One that gives no list is no problem if the address names a model.

        Raises:
            EndpointError: The server cannot be reached or refuses the key, or the address names no model and the server
                lists none or several.
        """
        if self._served is None:
            name = self.address.model
            try:
                models = self.list_models(check)
            except EndpointError as error:
                if name is None or error.reason not in ("bad_response", "refused", "failed"):
                    raise
                models = ()
            if name is not None:
                models = tuple(model for model in models if model.name == name) or (ListedModel(name),)
            elif len(models) != 1:
                raise self.failures.unknown_model(None, [model.name for model in models], "")
            self._served = models[0]
        return self._served

    def model(self, check: Check = lambda: None) -> str:
        """Return the name of the model that answers; the server is asked only if the address names none.

        Raises:
            EndpointError: The address names no model, and the server lists none or several.
        """
        return self.address.model or self.served_model(check).name

    def post(self, body: Mapping[str, Any], check: Check = lambda: None) -> dict[str, Any]:
        """Send a request for a chat completion and return the response.

        Args:
            body: JSON object of the request, with the name of the model.
            check: Function that can cancel the request.

        Raises:
            EndpointError: The server gave no answer.
        """
        try:
            return self._loop.run(
                self._with_retries(partial(self._send, "POST", _COMPLETIONS, encode_body(body))), check
            )
        except EndpointError as error:
            raise self._with_model_names(error, body, check) from None

    def stream(self, body: Mapping[str, Any], check: Check = lambda: None) -> Iterator[dict[str, Any]]:
        """Send a request for a chat completion and yield the parts of the response as they arrive.

        An attempt that fails before its first part is repeated. A server that does not stream gives one part, the
        whole response.

        Args:
            body: JSON object of the request, with the name of the model.
            check: Function that can cancel the request.

        Raises:
            EndpointError: The server gave no answer, or stopped in the middle (`interrupted`).
        """
        parts: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        send = partial(self._send_stream, encode_body({**body, "stream": True}), parts.put)
        future = self._loop.submit(self._with_retries(send))
        future.add_done_callback(lambda _: parts.put(None))
        try:
            while True:
                check()
                try:
                    part = parts.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if part is None:
                    break
                yield part
            future.result()
        except EndpointError as error:
            raise self._with_model_names(error, body, check) from None
        finally:
            future.cancel()

    # ------------------------------------------------------------------------- coroutines in the thread of the loop

    async def _with_retries(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        async with self._slots:
            deadline = asyncio.get_running_loop().time() + self.limits.timeout
            try:
                async with asyncio.timeout_at(deadline):
                    for number in count():
                        try:
                            return await attempt()
                        except TemporaryFailure as failure:
                            delay = _backoff(number) if failure.delay is None else failure.delay
                            is_late = asyncio.get_running_loop().time() + delay > deadline
                            if number >= self.limits.retries or is_late:
                                raise failure.error from None
                            await self._sleep(delay)
            except TimeoutError:
                pass
        raise self.failures.late(self.limits.timeout)

    async def _send(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        async with self._response(method, path, content) as response:
            data = await self._read(response)
        return self.failures.read_json(data, response.headers.get("content-type", ""))

    async def _send_stream(self, content: bytes, put: Callable[[dict[str, Any]], None]) -> None:
        is_begun = is_finished = False
        try:
            async with self._response("POST", _COMPLETIONS, content) as response:
                kind = response.headers.get("content-type", "")
                if "event-stream" not in kind:
                    put(self.failures.read_json(await self._read(response), kind))
                    return
                async for data in _events(response):
                    if data == b"[DONE]":
                        is_finished = True
                        break
                    part = self.failures.read_json(data, kind)
                    is_finished = is_finished or _is_last(part)
                    put(part)
                    is_begun = True
            if not is_finished:
                raise TemporaryFailure(self.failures.interrupted())
        except TemporaryFailure:
            if is_finished:
                return  # the connection broke after the last part
            if is_begun:
                raise self.failures.interrupted() from None
            raise

    @asynccontextmanager
    async def _response(self, method: str, path: str, content: bytes | None) -> AsyncIterator[httpx.Response]:
        """The response of one attempt, with a status of success and an unread content."""
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            url = self.address.base_url + path
            async with self._http.stream(method, url, content=content, headers=headers) as response:
                error = self.failures.of_response(response, b"" if response.is_success else await self._read(response))
                if error is not None:
                    raise error
                yield response
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self.failures.of_transport(error) from None  # the error has the request with its key

    async def _read(self, response: httpx.Response) -> bytes:
        data = bytearray()
        async for block in response.aiter_bytes():
            data += block
            if len(data) > _MAX_RESPONSE_BYTES:
                raise self.failures.bad_response(f"the response has more than {_MAX_RESPONSE_BYTES >> 20} MB")
        return bytes(data)

    def _with_model_names(self, error: EndpointError, body: Mapping[str, Any], check: Check) -> EndpointError:
        """Return the error for an unknown model with the names of the models that the server has."""
        if error.reason != "unknown_model":
            return error
        try:
            names = [model.name for model in self.list_models(check)]
        except EndpointError:
            names = []
        return self.failures.unknown_model(body.get("model"), names, error.detail)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    r"""The data of the events of a stream, one line each.

    Only `\n` ends a line: `aiter_lines` of httpx also splits at U+2028, which JSON contains as it is.
    """
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(rest) > _MAX_RESPONSE_BYTES:
            return
    if rest.startswith(b"data:"):
        yield rest[5:].strip()


@cache
def _tls_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reads hundreds of certificates, once per process


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Return a request body as it is sent."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _is_last(part: Mapping[str, Any]) -> bool:
    choices = part.get("choices")
    return isinstance(choices, list) and any(isinstance(c, dict) and c.get("finish_reason") for c in choices)


def _backoff(number: int) -> float:
    """Seconds before retry `number`, counted from 0; shortened at random, so that clients do not return together."""
    return min(_LAST_DELAY, _FIRST_DELAY * 2.0**number) * random.uniform(0.75, 1.0)
