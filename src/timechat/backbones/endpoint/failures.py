"""From a response, or from none, to an `EndpointError` in one line; temporary failures are marked for a retry."""

import json
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from time import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from timechat.backbones.endpoint.address import KEY_VARIABLE, ApiKey, EndpointAddress, without_secrets
from timechat.errors import EndpointError

_TEMPORARY = {408, 409, 429}  # and from 500 on
_TOO_LARGE = re.compile(
    r"context[ _](?:length|window|size)|n_ctx|max_model_len|too (?:large|long|many (?:tokens|images|videos))|too_large"
    r"|at most \d+ (?:image|video)|maximum (?:number of (?:images|videos|tokens)|.{0,40}tokens)"
    r"|exceeds? .{0,60}(?:tokens|context|length)|longer than the (?:maximum|max)",
    re.IGNORECASE,
)
_UNKNOWN_MODEL = re.compile(
    r"model_not_found|(?:unknown|no such|invalid) model"
    r"|\bmodel\b.{0,200}(?:not found|not exist|unknown|no such|not (?:be )?loaded)",
    re.IGNORECASE,
)


class TemporaryFailure(Exception):  # noqa: N818 - it is caught where the request is sent again
    """A failure after which the request is sent again.

    Attributes:
        error: Error for the caller if there is no further attempt.
        delay: Seconds for which the server asks to wait; None if it names no time.
    """

    def __init__(self, error: EndpointError, delay: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.delay = error, delay


class Failures:
    """Errors of one server.

    Args:
        address: Address of the server.
        key: Key that is sent; it is removed from all texts of the server.
    """

    def __init__(self, address: EndpointAddress, key: ApiKey | None) -> None:
        self._base = address.base_url
        self._key = key
        self._has_answered = False

    def of_response(self, response: httpx.Response, data: bytes) -> EndpointError | TemporaryFailure | None:
        """Return the error of a response; None for a status of success.

        Args:
            response: Response with its status and headers.
            data: Content of a response without success.
        """
        status = response.status_code
        if 200 <= status < 300:
            self._has_answered = True
            return None
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("location", ""))
            where = (
                f"to {target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}"
                if target.netloc
                else "elsewhere"
            )
            return self.bad_response(f"it redirects {self._clean(where)}; give the final address")
        self._has_answered = self._has_answered or status < 500
        if status == 401:  # without the words of the server, which may repeat a part of the key
            return EndpointError(f"{self._base} {self._key_problem()} (status 401)", "bad_key")
        detail = self._detail(data)
        said = f": {detail}" if detail else ""
        if status == 403:
            return EndpointError(f"{self._base} {self._key_problem()} (status 403){said}", "bad_key", detail)
        if status in _TEMPORARY or status >= 500:
            error = self.failed(f"status {status}", detail)
            return error if "insufficient_quota" in detail else TemporaryFailure(error, _retry_after(response.headers))
        if status == 413 or (status in (400, 422) and _TOO_LARGE.search(detail)):
            return EndpointError(f"{self._base} says that the request is too large{said}", "too_large", detail)
        if status in (400, 404, 422) and _UNKNOWN_MODEL.search(detail):
            return EndpointError(f"{self._base} does not know the model{said}", "unknown_model", detail)
        if status in (404, 405):
            return self.bad_response(f"it has no such address (status {status}); the address usually ends in /v1")
        return EndpointError(f"{self._base} refuses the request (status {status}){said}", "refused", detail)

    def of_transport(self, error: httpx.RequestError | httpx.InvalidURL) -> EndpointError | TemporaryFailure:
        """Return the error of a connection that failed.

        It is temporary, except where no connection was made to a server that has never answered: its address is
        probably wrong.
        """
        reason = self._clean(str(error) or type(error).__name__, max_characters=150)
        if isinstance(error, httpx.DecodingError):
            return self.bad_response(reason)
        problem = EndpointError(
            f"{self._base} cannot be reached: {reason}; check the address, and that the server runs", "unreachable"
        )
        is_first = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not self._has_answered
        is_mistake = isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError)
        return problem if is_first or is_mistake else TemporaryFailure(problem)

    def read_json(self, data: bytes, content_type: str) -> dict[str, Any]:
        """Return the JSON object of a successful response.

        Raises:
            EndpointError: The content is something else, or the object says that the request failed.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            shown = self._clean(content_type.partition(";")[0].strip() or "no content type")
            raise self.bad_response(f"a JSON object was expected, got {shown}; the address usually ends in /v1")
        if value.get("error") and "choices" not in value:
            raise self.failed("an error", self._detail(data))
        return value

    def bad_response(self, what: str) -> EndpointError:
        """Return the error for a response that does not follow the protocol."""
        message = f"{self._base} does not answer as an OpenAI-compatible server: {what}"
        return EndpointError(message, "bad_response")

    def failed(self, what: str, detail: str) -> EndpointError:
        """Return the error for a failure in the server."""
        return EndpointError(f"{self._base} answered with {what}{f': {detail}' if detail else ''}", "failed", detail)

    def interrupted(self) -> EndpointError:
        """Return the error for an answer that stops in the middle."""
        return EndpointError(f"{self._base} stopped in the middle of an answer; try again", "interrupted")

    def late(self, seconds: float) -> EndpointError:
        """Return the error for a request that has reached its time limit."""
        return EndpointError(
            f"{self._base} gave no complete answer within {seconds:g} s; raise the time limit, or send fewer or "
            "smaller pictures",
            "timeout",
        )

    def unknown_model(self, model: object, names: Sequence[str], detail: str) -> EndpointError:
        """Return the error for a model that the server does not have.

        Args:
            model: Name of the model that was asked; None if the address names none.
            names: Names of the models that the server has.
            detail: Words of the server.
        """
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        if model is None:
            has = f"has {len(names)} models ({listed})" if names else "lists no model"
            message = f"{self._base} {has}; name one in the address: {self._base}#MODEL"
        else:
            message = f"{self._base} does not know the model {model!r}{f'; it has {listed}' if names else ''}"
        return EndpointError(self._clean(message, max_characters=600), "unknown_model", detail)

    def _key_problem(self) -> str:
        if self._key is None:
            return f"needs a key; set the environment variable {KEY_VARIABLE}"
        return f"refuses the key in the environment variable {self._key.variable}"

    def _detail(self, data: bytes) -> str:
        """The words of the server about an error, in one line."""
        text = data.decode("utf-8", "replace")
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError):
            value = "" if text.lstrip().startswith("<") else text  # a page of a proxy
        return self._clean(_words(value))

    def _clean(self, text: str, *, max_characters: int = 300) -> str:
        return without_secrets(text, self._key, max_characters=max_characters)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds for which the server asks to wait; None if it names none."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) * scale
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time())
    except (KeyError, TypeError, ValueError):
        return None


def _words(value: Any, depth: int = 0) -> str:
    """The words in the object of an error: those of the OpenAI protocol, of FastAPI, or the text itself.

    The name of the field comes before them. The value of the field, which FastAPI repeats, is left out.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth < 5:
        return "; ".join(words for item in value[:5] if (words := _words(item, depth + 1)))
    if not isinstance(value, dict) or depth >= 5:
        return ""
    for name in ("error", "detail", "message", "msg"):
        if words := _words(value.get(name), depth + 1):
            place = value["loc"] if isinstance(value.get("loc"), list) else [value.get("param"), value.get("code")]
            names = ".".join(item for item in place if isinstance(item, str) and item != "body")
            return f"{names}: {words}" if names and names not in words else words
    return ""
