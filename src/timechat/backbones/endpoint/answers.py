"""Responses of a server as values: text, tokens with their places, usage; streamed parts give the same result.

A token is placed by its bytes, because one character can be written by several tokens. Some servers give U+FFFD for the
bytes of an unfinished character; the places of such tokens follow from the tokens around them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timechat.answers.answer_text import range_without_thoughts
from timechat.answers.token_evidence import Token

_UNKNOWN = "\ufffd"
_THOUGHT_TAGS = ("<think>", "</think>", "<thinking>", "</thinking>", "◁think▷", "◁/think▷")


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Numbers of tokens that a server counted; None where it does not say."""

    prompt_tokens: int | None = None
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a server.

    Attributes:
        text: Text without thoughts.
        tokens: Tokens that wrote the text, with their log probabilities; empty if the server gives none, or if they do
            not fit the text.
        alternatives: For each token, the most likely tokens at its place and their log probabilities.
        finish_reason: `stop` for a complete answer, `length` for one at the token limit, or another word of the server;
            None if it gives none.
        usage: Numbers of tokens.
        model: Name of the model that answered; None if the server does not say.
        fingerprint: Fingerprint of the server's system; None if the server gives none.
        has_thoughts: Whether thoughts were removed from the text.
        form: Field of the request that constrains the text; None for a free answer. A server that ignores the field is
            not noticed while its answers are cut.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    alternatives: tuple[tuple[tuple[str, float], ...], ...] = ()
    finish_reason: str | None = None
    usage: TokenUsage = TokenUsage()
    model: str | None = None
    fingerprint: str | None = None
    has_thoughts: bool = False
    form: str | None = None

    @property
    def was_cut(self) -> bool:
        """Whether the answer ends at the token limit."""
        return self.finish_reason == "length"


def read_completion(response: Mapping[str, Any]) -> Completion:
    """Return the answer in the response to a chat completion.

    Raises:
        ValueError: The response has no answer.
    """
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ValueError("the response has no choices with a message")
    content = _content(message.get("content"))
    start, end = range_without_thoughts(content)
    if start:
        start += len(content[start:end]) - len(content[start:end].lstrip())
    entries = _entries(choice.get("logprobs"))
    places = place_tokens(content, entries)
    placed = [
        (Token(max(0, first - start), min(last, end) - start, entry["logprob"]), _alternatives(entry))
        for (first, last), entry in zip(places, entries, strict=False)
        if last > start and first < end
    ]
    usage = response.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(
        content[start:end],
        tokens=tuple(token for token, _ in placed),
        alternatives=tuple(alternatives for _, alternatives in placed),
        finish_reason=_string(choice.get("finish_reason")),
        usage=TokenUsage(_number(counts.get("prompt_tokens")), _number(counts.get("completion_tokens"))),
        model=_string(response.get("model")),
        fingerprint=_string(response.get("system_fingerprint")),
        has_thoughts=(start, end) != (0, len(content)),
    )


class StreamedAnswer:
    """The parts of a streamed response, joined to the response that the server would have given at once."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._content = ""
        self._entries: list[Any] = []
        self._finish_reason: str | None = None
        self._start = self._num_shown = (
            0  # place in the content from which text is shown, and number of shown characters
        )

    def add(self, part: Mapping[str, Any]) -> str:
        """Add a part and return the new text for a reader: without thoughts, and without a tag that may begin one.

        A thought that has no opening tag is shown until its closing tag arrives; the completion does not contain it.
        """
        self._head |= {name: part[name] for name in ("model", "system_fingerprint", "usage") if part.get(name)}
        choices = part.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta") or choice.get("message")  # the whole message if the server does not stream
            self._content += _content(delta.get("content") if isinstance(delta, dict) else None)
            logprobs = choice.get("logprobs")
            content = logprobs.get("content") if isinstance(logprobs, dict) else None
            self._entries += content if isinstance(content, list) else []
            self._finish_reason = _string(choice.get("finish_reason")) or self._finish_reason
        return self._new_text()

    def completion(self) -> Completion:
        """Return the answer of all parts."""
        choice = {
            "message": {"content": self._content},
            "logprobs": {"content": self._entries},
            "finish_reason": self._finish_reason,
        }
        return read_completion({**self._head, "choices": [choice]})

    def _new_text(self) -> str:
        start, end = range_without_thoughts(self._content)
        text = self._content[start:end]
        if start:
            text = text.lstrip()
        if self._finish_reason is None:
            text = _without_unfinished_tag(text)
        if start != self._start:  # a thought has ended: the text begins again
            self._start, self._num_shown = start, 0
        new = text[self._num_shown :]
        self._num_shown += len(new)
        return new


def _without_unfinished_tag(text: str) -> str:
    at = max(text.rfind("<"), text.rfind("◁"))
    is_open = at >= 0 and any(tag.startswith(text[at:].lower()) for tag in _THOUGHT_TAGS)
    return text[:at] if is_open else text


# ------------------------------------------------------------------------------------------------ places of tokens


def place_tokens(content: str, entries: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return the range of characters `(first, end)` that each token wrote; empty if the tokens do not fit the text.

    Tokens that share a character all have it in their range. Tokens outside of the text, such as the end token, have
    an empty range at one of its ends.

    Args:
        content: Text of the answer.
        entries: Tokens as in the response: `token`, and `bytes` or None.
    """
    if not content or not entries:
        return []
    pieces = [_bytes(entry) for entry in entries]
    return _places_of_bytes(content, pieces) or _places_of_texts(content, [entry["token"] for entry in entries])


def _places_of_bytes(content: str, pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    joined = b"".join(pieces)
    text = joined.decode("utf-8", "ignore")
    try:
        joined.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":  # a character that is cut at the end of the answer is no problem
            return []
    if (offset := text.rfind(content)) < 0:
        if not text or content.rstrip(_UNKNOWN) != text:
            return []
        offset = 0
    starts = [0]  # number of characters that begin before each byte
    for byte in joined:
        starts.append(starts[-1] + ((byte & 0xC0) != 0x80))
    places, at = [], 0
    for piece in pieces:
        end = at + len(piece)
        first = starts[at] - (bool(piece) and (joined[at] & 0xC0) == 0x80)
        places.append((_within(first - offset, content), _within(starts[end] - offset, content)))
        at = end
    return places


def _places_of_texts(content: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    places: list[tuple[int, int]] = []
    at = num_open = 0  # tokens since `at` whose characters are not known yet
    for text in texts:
        if not text or _UNKNOWN in text:
            num_open += 1
            places.append((at, at))
            continue
        found = content.find(text, at, at + 2 * num_open + len(text))
        if found < 0:  # the end token, which is no part of the text, if nothing is left but unknown characters
            if len(content) - at > 2 * num_open or len(places) < len(texts) - 1:
                return []
            found, text = len(content), ""
        places[len(places) - num_open :] = [(at, found)] * num_open
        num_open, at = 0, found + len(text)
        places.append((found, at))
    if num_open:
        places[len(places) - num_open :] = [(at, len(content))] * num_open
    return places if num_open or at == len(content) else []


def _within(place: int, content: str) -> int:
    return min(max(place, 0), len(content))


# ------------------------------------------------------------------------------------------------- fields


def _content(value: Any) -> str:
    """The text of a message: a string, or a list of parts."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _entries(logprobs: Any) -> list[dict[str, Any]]:
    """The tokens of a response that has them; empty if one of them is no token with a number."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = content if isinstance(content, list) else []
    return entries if all(map(_is_entry, entries)) else []


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("token"), str) and _is_number(value.get("logprob"))


def _bytes(entry: Mapping[str, Any]) -> bytes:
    value = entry.get("bytes")
    if isinstance(value, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
        return bytes(value)
    return str(entry["token"]).encode("utf-8", "replace")


def _alternatives(entry: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    listed = entry.get("top_logprobs")
    items = listed if isinstance(listed, list) else []
    return tuple((item["token"], float(item["logprob"])) for item in items if _is_entry(item))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
