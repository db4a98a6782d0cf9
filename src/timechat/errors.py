"""Errors that a caller may want to catch; misuse raises built-in exceptions."""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

AccessReason = Literal["forbidden", "not_found", "too_large", "bad_address", "unreachable", "no_room"]
"""Reason why a video named by a client is not opened."""

EndpointReason = Literal[
    "unreachable",
    "bad_key",
    "unknown_model",
    "bad_response",
    "timeout",
    "too_large",
    "refused",
    "failed",
    "interrupted",
]
"""Reason why an endpoint gave no answer."""


class TimeChatError(Exception):
    """Base class of errors caused by files, devices or the network, not by misuse."""


class VideoError(TimeChatError):
    """A video that cannot be read: missing, empty, damaged, without frames, or too slow to decode."""


class VideoTimeoutError(VideoError):
    """A video that was not read within its time limit."""


class AccessError(TimeChatError):
    """A video named by a client that is not opened; the message does not reveal whether other files exist.

    Attributes:
        reason: `forbidden` by the settings of this machine, `not_found` in the allowed folders, `too_large`,
            `bad_address` for an unusable address, `unreachable` if another server did not send the video, or `no_room`
            if this machine may not store another one.
    """

    def __init__(self, message: str, reason: AccessReason) -> None:
        super().__init__(message, reason)
        self.reason: AccessReason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class EndpointError(TimeChatError):
    """A server with a model that gave no answer; the message contains no key and no picture.

    Attributes:
        reason: `unreachable` without a connection, `bad_key` if the server refuses the key or needs one,
            `unknown_model`, `bad_response` if the server does not follow the protocol, `timeout` after the total time
            limit, `too_large` for too many tokens, pictures or bytes, `refused` for another invalid request, `failed`
            if the server still fails after all retries, or `interrupted` if an answer ended in the middle.
        detail: Words of the server in one line; empty without any.
    """

    def __init__(self, message: str, reason: EndpointReason, detail: str = "") -> None:
        super().__init__(message, reason, detail)
        self.reason: EndpointReason = reason
        self.detail = detail

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(TimeChatError):
    """Weights that cannot be used: a file is missing, unreadable, or does not fit the model."""


class EngineError(TimeChatError):
    """The engine of another program, which writes the answers, cannot be started or has ended."""


class DownloadError(TimeChatError):
    """A file that could not be downloaded completely."""


class TrainingError(TimeChatError):
    """A training run that cannot continue: its loss is not a number, or its saved state does not fit."""


class DataError(TimeChatError):
    """Records or a transcript that cannot be used: malformed, or with too many videos that cannot be read."""


class JavaError(TimeChatError):
    """A Java program for caption metrics that cannot be run or has failed."""


class PromptTooLongError(TimeChatError, ValueError):
    """A prompt that, together with its longest answer, exceeds the context length of the language model."""


def missing_extra(need: str, extra: str) -> ModuleNotFoundError:
    """Return the error for an optional library that is not installed.

    Args:
        need: What needs the library, such as "the server needs fastapi".
        extra: Name of the extra in `pyproject.toml`.
    """
    return ModuleNotFoundError(
        f'{need}; install the extra "{extra}": pip install ".[{extra}]" in a checkout, or pip install "WHEEL[{extra}]"'
    )


def describe_error(error: Exception) -> str:
    """Return the message of an error in one printable line; for an `OSError`, with the name of the file."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; free some space, or name a folder on another disk"
    return printable_line(message)


def printable_line(message: str) -> str:
    """Return a message in one line, with escapes for characters that could steer a terminal or reorder the line.

    The names of files and videos can contain such characters.
    """
    line = " ".join(message.split())
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), line)


# Control characters, marks of the direction of writing, and halves of surrogate pairs.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_mistake(message: str) -> str:
    """Say in plain words what pydantic says about a value: "must be ...", without the names of its internals."""
    said = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    return re.sub(r"^Input should be\b", "must be", said)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the machine or a GPU ran out of memory; on a CPU, torch raises a plain `RuntimeError`."""
    return type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "DefaultCPUAllocator" in str(error)


@contextmanager
def located(location: str) -> Iterator[None]:
    """Convert an error about a line or an item into a `DataError` with its location."""
    try:
        yield
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" starting at")
        raise DataError(f"{location}: is not JSON: {reason} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{location}: is not UTF-8 text") from error
    except RecursionError as error:
        raise DataError(f"{location}: is nested too deeply; expected plain lists and objects") from error
    except KeyError as error:
        raise DataError(f"{location}: the key {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{location}: {error}") from error
