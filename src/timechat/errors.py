"""The errors that a caller may want to catch; misuse raises Python's own."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

AccessReason = Literal["forbidden", "not_found", "too_large", "bad_address", "unreachable"]
"""Why something that was asked for from outside is not opened."""


class TimeChatError(Exception):
    """Base of every error that TimeChat raises for the state of the world rather than for misuse."""


class VideoError(TimeChatError):
    """A video that cannot be read: missing, empty, damaged, without pictures, or too slow to decode."""


class AccessError(TimeChatError):
    """A video that somebody outside has named and that is not opened; the message tells nothing of what else exists.

    Attributes:
        reason: `forbidden` by what this machine was told to allow, `not_found` where it may look, `too_large`,
            a `bad_address` that says nothing usable, or `unreachable`: another server did not send it.
    """

    def __init__(self, message: str, reason: AccessReason) -> None:
        super().__init__(message, reason)
        self.reason: AccessReason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(TimeChatError):
    """Weights that cannot be used: a file is missing, unreadable, or does not fit the model."""


class DownloadError(TimeChatError):
    """A file that could not be fetched whole."""


class TrainingError(TimeChatError):
    """A training run that cannot go on: its loss is no number, or what it left behind does not fit."""


class DataError(TimeChatError):
    """Records or a transcript that cannot be used: malformed, or with too many videos that cannot be read."""


class JavaError(TimeChatError):
    """A Java program that scores captions and cannot be run, or has failed."""


class PromptTooLongError(TimeChatError, ValueError):
    """A prompt, with the answer that may follow, that is longer than what the language model reads."""


def describe_error(error: Exception) -> str:
    """Say in one line what an error says; the system's own lack a subject without the file's name."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return " ".join(said.split())


def plain_mistake(message: str) -> str:
    """Say in plain words what pydantic says about a value: "must be ...", without the names of its internals."""
    said = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    return re.sub(r"^Input should be\b", "must be", said)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is memory, of the machine or of a GPU, that was lacking."""
    return type(error).__name__ in ("MemoryError", "OutOfMemoryError")


@contextmanager
def located(place: str) -> Iterator[None]:
    """Turn what is wrong with a line or an item into a `DataError` that says where it stands."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: is no JSON: {error.msg} at column {error.colno}") from error
    except KeyError as error:
        raise DataError(f"{place}: the key {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{place}: {error}") from error
