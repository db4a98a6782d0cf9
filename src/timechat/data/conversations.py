"""Conversations as instruction files write them: roles, content parts, system turns and places of the video."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from timechat.answers.prompts import Message, Role

_ROLES: dict[str, Role] = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_SYSTEM = "system"
_KEYS = (("role", "content"), ("from", "value"))  # of a message: ours and OpenAI's, and LLaVA's
_TEXT_PARTS = ("text", "input_text", "output_text")
_VIDEO_PARTS = ("video", "video_url", "input_video")
_IMAGE_PARTS = ("image", "image_url", "input_image")
_ARTICLES = {"video": "a", "image": "an"}
_PLACE_AT_START = re.compile(r"\A\s*<(?:video|image)>\s*")
_PLACE_AT_END = re.compile(r"\s*<(?:video|image)>\s*\Z")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of an instruction file.

    Attributes:
        messages: Messages of the user and of the assistant, without marks for the place of the video.
        system: Text of the system turns; None without one.
        videos: Videos that parts of messages name, in order.
        images: Images that parts of messages name, in order.
    """

    messages: tuple[Message, ...]
    system: str | None
    videos: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The video or the image of a record.

    Attributes:
        path: Path or address.
        is_image: Whether it is a still image.
    """

    path: str
    is_image: bool = False


def read_conversation(items: Any) -> Conversation:
    """Read a list of messages, as `{"role", "content"}` or `{"from", "value"}`.

    Raises:
        ValueError: A message has another shape or an unknown role.
    """
    if not isinstance(items, list):
        raise ValueError(f"a conversation must be a list of messages, got {describe(items)}")
    messages: list[Message] = []
    system: list[str] = []
    videos: list[str] = []
    images: list[str] = []
    for item in items:
        role, content = _role_and_content(item)
        text = _join_parts(content, videos, images) if isinstance(content, list) else content
        if role != _SYSTEM and role not in _ROLES:
            raise ValueError(
                f"the role of a message must be one of {', '.join([*_ROLES, _SYSTEM])}, got {role!r}; remove this turn"
            )
        if not isinstance(text, str):
            raise ValueError(f"the content of a message must be text, got {text!r}")
        if role == _SYSTEM:
            system.append(text)
        elif _ROLES[role] == "user":
            messages.append(Message("user", without_video_place(text)))
        else:
            messages.append(Message("assistant", text))
    return Conversation(tuple(messages), "\n".join(system) if system else None, tuple(videos), tuple(images))


def without_video_place(question: str) -> str:
    """Return a question without the mark of the video's place, `<video>` or `<image>`, at its start or its end."""
    shortened, found = _PLACE_AT_START.subn("", question)
    return shortened if found else _PLACE_AT_END.sub("", question)


def find_source(data: Mapping[str, Any], conversation: Conversation | None = None) -> Source | None:
    """Return the one video or image that a record names, in a key of its own or in a part of a message; None without.

    An image counts only if no video is named.

    Raises:
        ValueError: Several videos or several images are named, or a name is not text.
    """
    for kind, in_parts in (
        ("video", () if conversation is None else conversation.videos),
        ("image", () if conversation is None else conversation.images),
    ):
        named = [*_named_by(data, kind), *in_parts]
        for name in named:
            if not isinstance(name, str):
                raise ValueError(f"{kind} must be the path or the address of {_ARTICLES[kind]} {kind}, got {name!r}")
        if len(set(named)) > 1:
            raise ValueError(
                f"a record is about one {kind}, got {len(set(named))} {kind}s: {', '.join(dict.fromkeys(named))}; "
                f"write a record for each {kind}"
            )
        if named:
            return Source(named[0], kind == "image")
    return None


def _named_by(data: Mapping[str, Any], kind: str) -> Iterator[Any]:
    for key in (kind, f"{kind}s"):
        value = data.get(key)
        yield from value if isinstance(value, list) else [] if value is None else [value]


def describe(data: Any) -> str:
    """Describe a JSON value in an error message: the keys of an object, any other value itself."""
    if isinstance(data, Mapping):
        return f"the keys {', '.join(map(str, data))}" if data else "an empty object"
    shown = repr(data)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."


def _role_and_content(item: Any) -> tuple[str, Any]:
    for role, content in _KEYS:
        if isinstance(item, Mapping) and role in item and content in item:
            return str(item[role]), item[content]
    raise ValueError(f'a message must be {{"role", "content"}} or {{"from", "value"}}, got {describe(item)}')


def _join_parts(parts: list[Any], videos: list[str], images: list[str]) -> str:
    """Return the text of content parts, one line each, and add what they name to `videos` and `images`."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else "text" if isinstance(part, str) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in (*_VIDEO_PARTS, *_IMAGE_PARTS) and isinstance(name := _named_in(part), str):
            (videos if kind in _VIDEO_PARTS else images).append(name)
        elif kind in (*_VIDEO_PARTS, *_IMAGE_PARTS) and name is None:
            continue  # a place for the video or image that another key names
        else:
            got = f"a part of type {kind!r}" if kind is not None else describe(part)
            raise ValueError(f"the content of a message must be text and at most one video or image, got {got}")
    return "\n".join(text for text in texts if text)


def _named_in(part: Mapping[str, Any]) -> Any:
    """Return the path or address in a part about a video or an image; None if the part has none."""
    for key in ("video", "video_url", "image", "image_url", "path", "url"):
        value = part.get(key)
        if isinstance(value, Mapping):
            value = value.get("url", value.get("path"))
        if value is not None:
            return value
    return None
