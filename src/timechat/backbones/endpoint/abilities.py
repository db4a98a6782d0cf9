"""Requests with the fields that a server takes: optional fields are left out after their first refusal.

No server says what it can do. So each optional field is sent in the best spelling first. A server that refuses it, or
that accepts it and then ignores it, gets the next spelling, and at last a request without the field. What was learned
is remembered for the address and the model until the process ends, so the next request is right at once.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from timechat.answers.forms import AnswerForm
from timechat.backbones.backbone import Check
from timechat.backbones.endpoint.answers import Completion, StreamedAnswer, read_completion
from timechat.backbones.endpoint.client import EndpointClient
from timechat.errors import EndpointError

Ability = Literal[
    "regex",
    "json_schema",
    "logprobs",
    "media_io_kwargs",
    "thinking",
    "stream_usage",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
]
"""An optional part of a request."""

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One question to a server, in the terms of the project.

    Attributes:
        messages: Messages of the chat.
        max_tokens: Maximum number of tokens of the answer.
        form: Form of the answer; None for a free answer.
        top_logprobs: Number of alternatives for each token, 0 for the log probabilities of the tokens only; None for
            no log probabilities.
        temperature: Temperature of sampling, 0 for the most likely token.
        seed: Seed of sampling; None leaves it to the server.
        top_p: Cumulative probability of the tokens that sampling considers; None leaves it to the server.
        top_k: Number of tokens that sampling considers; None leaves it to the server.
        fixed: Fields without which there is no answer, such as `repetition_penalty`.
        native_video: Messages with the frames as one video, and their `media_io_kwargs`; None sends `messages`.
        thinks: Whether a model that can think before it answers may do so.
    """

    messages: Sequence[Mapping[str, Any]] = field(repr=False)
    max_tokens: int
    form: AnswerForm | None = None
    top_logprobs: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    native_video: tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]] | None = field(default=None, repr=False)
    thinks: bool = False


class _Stopped(Exception):  # noqa: N818 - it is caught where the stream is read
    """The reader of a stream needs no more text."""


@dataclass(frozen=True, slots=True)
class _Spelling:
    """One way to ask for an ability.

    Attributes:
        name: Name of the field.
        mentions: Pattern of the words with which a server refuses it.
        fields: Function that gives the fields of a request; none if the request does not need the ability.
    """

    name: str
    mentions: str
    fields: Callable[[CompletionRequest], Fields]


def _regex(request: CompletionRequest, *, spelling: str) -> Fields:
    if request.form is None or request.form.regex is None:
        return {}
    value = request.form.regex
    return {spelling: {"regex": value} if spelling == "structured_outputs" else value}


def _schema(request: CompletionRequest) -> Fields:
    if request.form is None or request.form.schema is None:
        return {}
    schema = {"name": "answer", "schema": request.form.schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _logprobs(request: CompletionRequest, *, with_top: bool) -> Fields:
    if request.top_logprobs is None or (with_top and not request.top_logprobs):
        return {}
    return {"logprobs": True} | ({"top_logprobs": request.top_logprobs} if with_top else {})


def _no_thinking(request: CompletionRequest) -> Fields:
    return {} if request.thinks else {"chat_template_kwargs": {"enable_thinking": False}}


def _given(request: CompletionRequest, *, name: Literal["seed", "top_p", "top_k"]) -> Fields:
    value = getattr(request, name)
    return {} if value is None else {name: value}


def _max_completion_tokens(request: CompletionRequest) -> Fields:
    return {"max_completion_tokens": request.max_tokens}


def _native_video(request: CompletionRequest) -> Fields:
    if request.native_video is None:
        return {}
    messages, kwargs = request.native_video
    return {"messages": list(messages), "media_io_kwargs": kwargs}


_STREAM_USAGE = {"stream_options": {"include_usage": True}}
_FORM_WORDS = r"structured|guided|grammar|regex"
_SPELLINGS: dict[Ability, tuple[_Spelling, ...]] = {
    "media_io_kwargs": (_Spelling("media_io_kwargs", r"media_io_kwargs|mm[-_]kwargs|video", _native_video),),
    "regex": (
        _Spelling("structured_outputs", _FORM_WORDS, partial(_regex, spelling="structured_outputs")),
        _Spelling("guided_regex", _FORM_WORDS, partial(_regex, spelling="guided_regex")),
    ),
    "json_schema": (_Spelling("response_format", r"response_format|json_schema|schema", _schema),),
    "logprobs": (
        _Spelling("top_logprobs", r"(?:top_)?logprobs", partial(_logprobs, with_top=True)),
        _Spelling("logprobs", r"(?:top_)?logprobs", partial(_logprobs, with_top=False)),
    ),
    "thinking": (_Spelling("chat_template_kwargs", r"chat_template_kwargs|enable_thinking|template", _no_thinking),),
    "stream_usage": (_Spelling("stream_options", r"stream_options|include_usage", lambda _: _STREAM_USAGE),),
    "seed": (_Spelling("seed", r"seed", partial(_given, name="seed")),),
    "temperature": (_Spelling("temperature", r"temperature", lambda request: {"temperature": request.temperature}),),
    "top_p": (_Spelling("top_p", r"top_p", partial(_given, name="top_p")),),
    "top_k": (_Spelling("top_k", r"top_k", partial(_given, name="top_k")),),
    "max_tokens": (
        _Spelling("max_tokens", r"max_tokens", lambda request: {"max_tokens": request.max_tokens}),
        _Spelling("max_completion_tokens", r"max_completion_tokens", _max_completion_tokens),
    ),
}
"""The spellings of each ability, best first; after the last one, the request has no such field."""

_REQUIRED: tuple[Ability, ...] = ("max_tokens",)  # without it, an answer may never end
_STANDARD: tuple[Ability, ...] = ("seed", "temperature", "top_p", "max_tokens")  # refused by name only

Levels = dict[Ability, int]
"""For each ability, the index of the spelling to send; abilities at 0 may be missing."""


class Abilities:
    """What one model of one server takes; threads can share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: Levels = {}

    def levels(self) -> Levels:
        """Return the spelling to send of each ability."""
        with self._lock:
            return dict(self._levels)

    def learn(self, levels: Levels) -> None:
        """Remember the spellings of a request that was answered; a spelling that was refused is not tried again."""
        with self._lock:
            for ability, level in levels.items():
                self._levels[ability] = max(level, self._levels.get(ability, 0))

    @property
    def missing(self) -> tuple[Ability, ...]:
        """Abilities that the server refused or ignored in all spellings."""
        levels = self.levels()
        return tuple(ability for ability, spellings in _SPELLINGS.items() if levels.get(ability, 0) >= len(spellings))


_known: dict[tuple[str, str], Abilities] = {}
_known_lock = threading.Lock()


def known_abilities(base_url: str, model: str) -> Abilities:
    """Return what this process knows about a model of a server; at first nothing."""
    with _known_lock:
        return _known.setdefault((base_url, model), Abilities())


def forget_abilities() -> None:
    """Forget all servers, so that every field is tried again."""
    with _known_lock:
        _known.clear()


def complete(client: EndpointClient, request: CompletionRequest, check: Check = lambda: None) -> Completion:
    """Return the answer to a request.

    An answer that does not have its form, although the server accepted the field for it, is asked for again in the next
    spelling.

    Args:
        client: Connection to the server.
        request: Question.
        check: Function that can cancel the request.

    Raises:
        EndpointError: The server gave no answer.
    """

    def send(body: Fields) -> Completion:
        return _read(client, lambda: read_completion(client.post(body, check)))

    return _ask(client, request, send, check, streams=False)


def complete_streamed(
    client: EndpointClient,
    request: CompletionRequest,
    show: Callable[[str], object],
    check: Check = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Completion:
    """Return the answer to a request, and show its text while it is written.

    An answer that does not have its form is returned, because it was shown; the next request has the next spelling.

    Args:
        client: Connection to the server.
        request: Question.
        show: Function that takes the next characters of the text, thoughts left out.
        check: Function that can cancel the request.
        should_stop: Function that ends the answer early when it returns True; the text so far is the answer.

    Raises:
        EndpointError: The server gave no answer, or stopped in the middle.
    """

    def check_both() -> None:
        check()
        if should_stop():
            raise _Stopped

    def send(body: Fields) -> Completion:
        answer = StreamedAnswer()
        try:
            for part in client.stream(body, check_both):
                if text := answer.add(part):
                    show(text)
        except _Stopped:
            pass  # the connection is closed, so the server stops too
        return _read(client, answer.completion)

    return _ask(client, request, send, check, streams=True)


def request_body(request: CompletionRequest, model: str, levels: Levels, *, streams: bool = False) -> Fields:
    """Return the JSON object of a request in the given spellings."""
    body: Fields = {"model": model, "messages": list(request.messages), **request.fixed}
    for spelling in _spellings(request, levels, streams=streams).values():
        body |= spelling.fields(request)
    return body


def refused_fixed(error: EndpointError, request: CompletionRequest) -> tuple[str, ...]:
    """Return the fixed fields of a request that the words of a refusal mention."""
    return tuple(name for name in request.fixed if error.reason == "refused" and name in error.detail)


# --------------------------------------------------------------------------------------------------- negotiation


def _ask(
    client: EndpointClient,
    request: CompletionRequest,
    send: Callable[[Fields], Completion],
    check: Check,
    *,
    streams: bool,
) -> Completion:
    model = client.model(check)
    known = known_abilities(client.address.base_url, model)
    while True:
        completion, levels = _negotiate(
            lambda levels: send(request_body(request, model, levels, streams=streams)),
            request,
            known.levels(),
            streams=streams,
        )
        known.learn(levels)
        used = _form_ability(request, levels)
        if used is None or request.form is None:
            return completion
        name = _spellings(request, levels, streams=streams)[used].name
        is_whole = completion.finish_reason == "stop"
        if not is_whole or request.form.is_kept_by(completion.text, as_json=used == "json_schema"):
            return replace(completion, form=name)
        known.learn({used: levels.get(used, 0) + 1})
        if streams:
            return completion


def _negotiate(
    send: Callable[[Levels], Completion], request: CompletionRequest, levels: Levels, *, streams: bool
) -> tuple[Completion, Levels]:
    """Return the answer, and the spellings of the request that got it."""
    while True:
        try:
            return send(levels), levels
        except EndpointError as error:
            if error.reason != "refused":
                raise
            named = _refused_by_name(error.detail, _spellings(request, levels, streams=streams))
            refusal = error
            if refused_fixed(error, request):
                raise
        if not named:
            break
        levels = {**levels, **named}
    for trial in _trials(request, levels, streams=streams):
        try:
            return send(trial), trial
        except EndpointError as error:
            if error.reason != "refused":
                raise
    raise refusal


def _spellings(request: CompletionRequest, levels: Levels, *, streams: bool) -> dict[Ability, _Spelling]:
    """The spellings that a request needs and that are still to be tried; a schema only without a regular expression."""
    found: dict[Ability, _Spelling] = {}
    for ability in _SPELLINGS:
        is_idle = (ability == "json_schema" and "regex" in found) or (ability == "stream_usage" and not streams)
        spelling = None if is_idle else _next_spelling(request, ability, levels.get(ability, 0))
        if spelling is not None:
            found[ability] = spelling
    return found


def _next_spelling(request: CompletionRequest, ability: Ability, level: int) -> _Spelling | None:
    return next((spelling for spelling in _SPELLINGS[ability][level:] if spelling.fields(request)), None)


def _after(ability: Ability, spelling: _Spelling) -> int:
    """The level behind a spelling."""
    return _SPELLINGS[ability].index(spelling) + 1


def _form_ability(request: CompletionRequest, levels: Levels) -> Ability | None:
    sent = _spellings(request, levels, streams=False)
    return next((ability for ability in ("regex", "json_schema") if ability in sent), None)


def _refused_by_name(detail: str, sent: Mapping[Ability, _Spelling]) -> Levels:
    """The new levels of the abilities that the words of a refusal mention."""
    named = {
        ability: _after(ability, spelling)
        for ability, spelling in sent.items()
        if re.search(rf"(?<![\w-])(?:{spelling.mentions})", detail, re.IGNORECASE)
    }
    return {a: level for a, level in named.items() if a not in _REQUIRED or level < len(_SPELLINGS[a])}


def _trials(request: CompletionRequest, levels: Levels, *, streams: bool) -> Iterator[Levels]:
    """Levels to try after a refusal that names no field: one ability less each time, at last without all of them."""
    everything = dict(levels)
    for ability in _spellings(request, levels, streams=streams):
        if ability in _STANDARD:
            continue
        everything[ability] = len(_SPELLINGS[ability])
        level = levels.get(ability, 0)
        while (spelling := _next_spelling(request, ability, level)) is not None:
            level = _after(ability, spelling)
            yield {**levels, ability: level}
        if ability == "regex":  # without it, the request had the schema instead
            everything["json_schema"] = len(_SPELLINGS["json_schema"])
            yield {**levels, ability: level, "json_schema": everything["json_schema"]}
    yield everything


def _read(client: EndpointClient, read: Callable[[], Completion]) -> Completion:
    try:
        return read()
    except ValueError as error:
        raise client.failures.bad_response(str(error)) from error
