"""Requests of the API, and their conversion into requests of the service.

Unknown fields are ignored, as in OpenAI's API. A known field with a wrong value is an error that names the field.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from timechat.answers.events import Task
from timechat.answers.tasks import GREEDY, TASKS
from timechat.pipeline import DecodingOptions, FrameSampling, MomentSelection, Request, WindowConfig
from timechat.search.retrieval import DEFAULT_READ, RetrievalConfig, Source, parse_read
from timechat.serving.errors import RequestError
from timechat.serving.http.messages import (
    ChatConversation,
    InlineFrameList,
    RequestMessage,
    RequestModel,
    Seconds,
    SpeechLine,
    transcript_events,
)
from timechat.serving.service import VideoRequest
from timechat.serving.settings import ServerSettings

_FREE_TOKENS = 512
_ALL_FRAMES = -1  # in vLLM; here the model chooses the frames
_MIN_TEMPERATURE = 0.001  # a lower temperature is greedy decoding: scores divided by it are infinite
_MAX_QUERY = 10_000  # characters of a query
_MAX_STOPS = 16
_MAX_PENALTY = 2.0  # as in vLLM
_STRUCTURES = {"grammar", "regex", "ebnf", "structural_tag", "choice", "json_schema"}
_BEAM_FIELDS = {"best_of", "length_penalty", "num_beams", "use_beam_search"}
_REFUSED_FIELDS: dict[str, Any] = {  # with the value that changes nothing, besides null, 0, false and empty values
    "allowed_token_ids": None,
    "bad_words": None,
    "best_of": 1,
    "ignore_eos": None,
    "length_penalty": 1,
    "logits_processors": None,
    "min_p": None,
    "num_beams": 1,
    "prompt_logprobs": None,
    "stop_token_ids": None,
    "use_beam_search": None,
}


ReadShare = Annotated[float, BeforeValidator(parse_read)]
"""Share of a long video that the model reads, or `"all"`."""


class FrameFields(RequestModel):
    """Frames to take from the video."""

    start: Seconds | None = None
    end: Seconds | None = None
    fps: float | None = Field(None, gt=0, le=1000)
    max_frames: int | None = Field(None, ge=1)
    num_frames: int | None = Field(None, ge=1)


class Options(FrameFields):
    """Options of the frames, the windows and the answer."""

    window: Seconds | None = None
    overlap: Seconds | None = None
    step: float | None = Field(None, gt=0, le=1e6)
    refine: bool | None = None
    transcript: list[SpeechLine] | str | None = None
    max_new_tokens: int = Field(_FREE_TOKENS, ge=1)
    min_new_tokens: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0, le=_MAX_PENALTY)
    num_beams: int | None = None
    free: bool = False

    def sampling(self) -> FrameSampling:
        """Return the frames of the video."""
        return FrameSampling(self.num_frames, self.fps, self.max_frames, self.start, self.end)

    def window_config(self) -> WindowConfig:
        """Return the windows of the video."""
        windows = WindowConfig(self.window, self.overlap, self.step, self.refine)
        windows.check_density(num_frames=self.num_frames, fps=self.fps)
        return windows


class TaskRequest(Options):
    """A request of a task route, such as `/v1/captions`."""

    model: str | None = None
    video: str | InlineFrameList
    query: str | None = Field(None, max_length=_MAX_QUERY)
    top_k: int = Field(1, ge=1, le=1000)
    find_all: bool = False
    threshold: float | None = Field(None, ge=0, le=1)
    cite: bool = False
    read: ReadShare | None = None
    by: Source = "auto"
    subtitles: bool = True

    def to_request(self, task: Task) -> VideoRequest:
        """Return the request of the service.

        Raises:
            RequestError: The query is missing, or beams are requested.
        """
        if self.num_beams not in (None, 1):
            raise _refused("num_beams")
        video = self.video.inline_frames() if isinstance(self.video, InlineFrameList) else self.video
        if TASKS[task].query == "required" and not (self.query or "").strip():
            raise RequestError(400, f"query must be a text that is not empty, got {self.query!r}", "query")
        request = Request(
            task,
            self.query if TASKS[task].query != "none" else None,
            decoding=DecodingOptions(
                max_new_tokens=self.max_new_tokens,
                is_free=self.free,
                repetition_penalty=self.repetition_penalty,
                min_new_tokens=self.min_new_tokens,
            ),
            transcript=transcript_events(self.transcript),
            moments=MomentSelection(self.top_k, self.find_all, self.threshold),
            cite=self.cite,
            retrieval=_retrieval(self.read, self.by),
        )
        windows, sampling = self.window_config(), self.sampling()
        return VideoRequest(video, request, windows, sampling, self.subtitles, self.model or "")


def _retrieval(read: float | None, by: Source) -> RetrievalConfig:
    return RetrievalConfig(DEFAULT_READ if read is None else read, by)


class JobRequest(TaskRequest):
    """A request of `/v1/jobs`."""

    task: Task


class JsonSchema(RequestModel):
    """A JSON schema, in the format of OpenAI's API."""

    name: str = ""
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(RequestModel):
    """`{"type": "json_schema", "json_schema": {"name": …, "schema": …}}`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    def schema_text(self) -> str | None:
        """Return the schema as JSON; None for free text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return json.dumps({"type": "object"})
        if self.json_schema is None:
            raise RequestError(400, "response_format of the type json_schema needs json_schema", "response_format")
        return json.dumps(self.json_schema.schema_)


class StreamOptions(RequestModel):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(FrameFields):
    """A request of `/v1/chat/completions`."""

    model: str = ""
    messages: list[RequestMessage] = Field(min_length=1, max_length=1000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = None
    seed: int | None = None
    n: int | None = None
    stop: str | Annotated[list[str], Field(max_length=_MAX_STOPS)] | None = None
    response_format: ResponseFormat | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = Field(None, gt=0, le=_MAX_PENALTY)
    min_tokens: int | None = Field(None, ge=0)
    logit_bias: dict[str, Any] | None = None
    # Ours:
    task: Task = "ask"
    cite: bool = False
    read: ReadShare | None = None
    by: Source = "auto"
    subtitles: bool = True
    window: Seconds | None = None
    overlap: Seconds | None = None
    step: float | None = Field(None, gt=0, le=1e6)
    refine: bool | None = None
    top_moments: int = Field(1, ge=1, le=1000)
    find_all: bool = False
    threshold: float | None = Field(None, ge=0, le=1)

    model_config = ConfigDict(extra="allow")  # so that unsupported fields are refused by name

    @field_validator("fps", "max_frames", "num_frames", mode="before")
    @classmethod
    def _choose_by_model(cls, value: Any) -> Any:
        return None if value == _ALL_FRAMES else value

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    def to_request(self, settings: ServerSettings) -> VideoRequest:
        """Return the request of the service for the last message.

        Raises:
            RequestError: The server cannot answer this conversation.
        """
        self._reject_unsupported()
        conversation = ChatConversation()
        for i, message in enumerate(self.messages):
            conversation.add(message, f"messages[{i}]")
        video, given = conversation.video
        options = Options.model_validate(self._frame_options(given))
        schema = self._schema()
        windows = WindowConfig(0.0 if schema else self.window, self.overlap, self.step, self.refine)
        windows.check_density(num_frames=options.num_frames, fps=options.fps)
        query = conversation.question if TASKS[self.task].query != "none" else None
        if self.task == "grounding" and not query:
            raise RequestError(400, "grounding needs a query: say in the last message what to look for", "messages")
        request = Request(
            self.task,
            query or None,
            conversation.history,
            self._decoding(schema, settings),
            transcript=transcript_events(given.get("transcript")),
            moments=MomentSelection(self.top_moments, self.find_all, self.threshold),
            system=conversation.system,
            cite=self.cite,
            retrieval=_retrieval(self.read, self.by),
        )
        return VideoRequest(video, request, windows, options.sampling(), self.subtitles, self.model)

    def _schema(self) -> str | None:
        """Return the JSON schema of the answer; None without one."""
        found: dict[str, str] = {}
        if self.response_format is not None and (text := self.response_format.schema_text()) is not None:
            found["response_format"] = text
        for name, value in (self.structured_outputs or {}).items():
            if name == "json" and value:
                found["structured_outputs"] = value if isinstance(value, str) else json.dumps(value)
            elif name == "json_object" and value:
                found["structured_outputs"] = json.dumps({"type": "object"})
            elif value and name in _STRUCTURES:
                raise _refused_structure(f"structured_outputs.{name}", "structured_outputs")
        if self.guided_json:
            given = self.guided_json
            found["guided_json"] = given if isinstance(given, str) else json.dumps(given)
        if len(found) > 1:
            raise RequestError(400, f"{' and '.join(found)} each state the form of the answer; give one", min(found))
        for name in found if self.task != "ask" else ():
            raise RequestError(400, f"the answers of {self.task} have a format of their own", name)
        return next(iter(found.values()), None)

    def _frame_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the frame options.

        Those beside the video have priority, then `mm_processor_kwargs`, `media_io_kwargs`, and last the fields of
        the request itself. A number of frames and a rate replace each other.
        """
        media = self.media_io_kwargs or {}
        video = media.get("video", media)
        if not isinstance(video, Mapping):
            raise RequestError(400, 'media_io_kwargs must look like {"video": {"num_frames": 32}}', "media_io_kwargs")
        merged: dict[str, Any] = {}
        for source in (
            self.model_dump(include=set(FrameFields.model_fields)),
            video,
            self.mm_processor_kwargs or {},
            given,
        ):
            named = {name: source[name] for name in FrameFields.model_fields if source.get(name) is not None}
            for name, other in (("fps", "num_frames"), ("num_frames", "fps")):
                if named.get(name, _ALL_FRAMES) != _ALL_FRAMES and other not in named:
                    merged.pop(other, None)
            merged |= named
        # A negative time is an error.
        return {name: value for name, value in merged.items() if value != _ALL_FRAMES or name in ("start", "end")}

    def _decoding(self, schema: str | None, settings: ServerSettings) -> DecodingOptions:
        longest = self.max_completion_tokens or self.max_tokens or min(_FREE_TOKENS, settings.max_new_tokens)
        samples = self.temperature is not None and self.temperature >= _MIN_TEMPERATURE
        if self.min_tokens is not None and self.min_tokens > longest:
            message = f"min_tokens must be at most max_tokens={longest}, got {self.min_tokens}"
            raise RequestError(400, message, "min_tokens")
        return DecodingOptions(
            max_new_tokens=longest,
            do_sample=samples,
            temperature=self.temperature if samples and self.temperature is not None else 1.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=50 if self.top_k is None or self.top_k < 1 else self.top_k,
            seed=self._seed(samples=samples),
            json_schema=schema,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            min_new_tokens=self.min_tokens or 0,
        )

    def _seed(self, *, samples: bool) -> int:
        """Return the seed: without one, a sampled answer is random; a greedy one has the key of the cache."""
        if self.seed is not None:
            return self.seed
        return secrets.randbelow(2**63) if samples else GREEDY.seed

    def _reject_unsupported(self) -> None:
        """Raise for known fields that the server does not support."""
        refused = {
            "n": self.n not in (None, 1),
            "tools": bool(self.tools) and self.tool_choice != "none",
            "functions": bool(self.functions),
            "modalities": any(kind != "text" for kind in self.modalities or ()),
            "frequency_penalty": bool(self.frequency_penalty),
            "presence_penalty": bool(self.presence_penalty),
            "logit_bias": bool(self.logit_bias),
        }
        if self.top_logprobs:
            message = (
                f"top_logprobs must be 0 or left out, got {self.top_logprobs}; this server records the log probability "
                "of the chosen token only"
            )
            raise RequestError(400, message, "top_logprobs", "unsupported")
        for name, value in (self.model_extra or {}).items():
            if value and (name.startswith("guided_") or name in _STRUCTURES):
                raise _refused_structure(name, name)
            if name in _REFUSED_FIELDS and value and value != _REFUSED_FIELDS[name]:
                refused[name] = True
        for name, is_refused in refused.items():
            if is_refused:
                raise _refused(name)


def _refused_structure(name: str, param: str) -> RequestError:
    """Return the error of a form of answers that the server does not support."""
    message = f"{name} is not offered by this server; use response_format with a JSON schema"
    return RequestError(400, message, param, "unsupported")


def _refused(name: str) -> RequestError:
    """Return the error of a known field that the server does not support."""
    reason = ""
    if name in _BEAM_FIELDS:
        reason = ", which decodes the answers of all requests in one batch (the commands have --num-beams)"
    return RequestError(400, f"{name} is not offered by this server{reason}; leave it out", name, "unsupported")
