"""What requests look like, and what is made of them.

Fields that are unknown are passed over, as OpenAI's server does; known ones with other values than they may have are
refused with their name. Videos come in the shapes that vLLM and SGLang take, and in ours.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from timechat.answers.events import Event, Task
from timechat.answers.tasks import TASKS
from timechat.errors import DataError
from timechat.pipeline import DecodingOptions, FrameSampling, MomentSelection, Request, WindowConfig
from timechat.serving.errors import ApiError
from timechat.serving.inline_frames import InlineFrames
from timechat.serving.service import VideoRequest
from timechat.serving.settings import ServerSettings
from timechat.speech import clean_transcript, parse_transcript

_FREE_TOKENS = 512
_MIN_TEMPERATURE = 0.001  # temperature below which the likeliest token is taken: scores divided by less are infinite
_FRAME_FIELDS = ("start", "end", "fps", "max_frames", "num_frames")
_MAX_FRAMES_SENT = 600
_MAX_WORDS = 10_000  # characters of a query
_MAX_TEXT = 1_000_000  # characters of all messages, or of a transcript
_MAX_STOPS = 16

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", str_max_length=200_000_000)


class SpeechLine(_Request):
    """A line of a transcript."""

    start: Seconds
    end: Seconds
    caption: str = ""
    text: str | None = None


class InlineFrame(_Request):
    """A frame that comes with the request: a `data:` address and its time in seconds."""

    url: str
    time: Seconds


class InlineFrameList(_Request):
    """Frames of a video that the client has cut up itself."""

    frames: list[InlineFrame] = Field(min_length=1, max_length=_MAX_FRAMES_SENT)
    duration: Seconds | None = None

    def inline_frames(self) -> InlineFrames:
        """The same, for the service."""
        urls, times = (tuple(getattr(frame, name) for frame in self.frames) for name in ("url", "time"))
        return InlineFrames(urls, times, self.duration)


class Options(_Request):
    """How a video is looked at, and how the answer is written."""

    start: Seconds | None = None
    end: Seconds | None = None
    fps: float | None = Field(None, gt=0, le=1000)
    max_frames: int | None = Field(None, ge=1)
    num_frames: int | None = Field(None, ge=1)
    window: Seconds | None = None
    overlap: Seconds | None = None
    step: float | None = Field(None, gt=0, le=1e6)
    refine: bool | None = None
    transcript: list[SpeechLine] | str | None = None
    max_new_tokens: int = Field(_FREE_TOKENS, ge=1)
    free: bool = False

    def sampling(self) -> FrameSampling:
        """Which frames."""
        return FrameSampling(self.num_frames, self.fps, self.max_frames, self.start, self.end)

    def window_config(self) -> WindowConfig:
        """In which windows."""
        looking = WindowConfig(self.window, self.overlap, self.step, self.refine)
        looking.check_density(num_frames=self.num_frames, fps=self.fps)
        return looking


class TaskRequest(Options):
    """A question of `/v1/captions`, `/v1/moments` and their like."""

    model: str | None = None
    video: str | InlineFrameList
    query: str | None = Field(None, max_length=_MAX_WORDS)
    top_k: int = Field(1, ge=1, le=1000)
    find_all: bool = False
    threshold: float | None = Field(None, ge=0, le=1)
    cite: bool = False

    def to_request(self, task: Task) -> VideoRequest:
        """The question that is meant."""
        video = self.video.inline_frames() if isinstance(self.video, InlineFrameList) else self.video
        if TASKS[task].query == "required" and not (self.query or "").strip():
            raise ApiError(400, f"query must say in words what is asked, got {self.query!r}", "query")
        request = Request(
            task,
            self.query if TASKS[task].query != "none" else None,
            decoding=DecodingOptions(max_new_tokens=self.max_new_tokens, is_free=self.free),
            transcript=transcript_events(self.transcript),
            moments=MomentSelection(self.top_k, self.find_all, self.threshold),
            cite=self.cite,
        )
        return VideoRequest(video, request, self.window_config(), self.sampling())


class JobRequest(TaskRequest):
    """A question that is answered in the background."""

    task: Literal["dense_caption", "grounding", "highlights", "steps", "summary", "transcribe", "ask"]


class JsonSchema(_Request):
    """A form of answers, as OpenAI's API has it."""

    name: str = ""
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Request):
    """`{"type": "json_schema", "json_schema": {"name": …, "schema": …}}`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    def schema_text(self) -> str | None:
        """The schema as JSON; None for free text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return json.dumps({"type": "object"})
        if self.json_schema is None:
            raise ApiError(400, "response_format of the type json_schema needs json_schema", "response_format")
        return json.dumps(self.json_schema.schema_)


class StreamOptions(_Request):
    """What a stream tells besides the text."""

    include_usage: bool = False


class RequestMessage(_Request):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(_Request):
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
    top_logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    # Ours:
    task: Task = "ask"
    cite: bool = False
    window: Seconds | None = None
    overlap: Seconds | None = None
    step: float | None = Field(None, gt=0, le=1e6)
    refine: bool | None = None
    top_moments: int = Field(1, ge=1, le=1000)
    find_all: bool = False
    threshold: float | None = Field(None, ge=0, le=1)

    @property
    def stops(self) -> list[str]:
        """Texts at which an answer ends."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    def to_request(self, settings: ServerSettings) -> VideoRequest:
        """The question that the conversation ends with.

        Raises:
            ApiError: It is none that this server can answer.
        """
        self._reject_unsupported()
        conversation = _Conversation()
        for i, message in enumerate(self.messages):
            conversation.add(message, f"messages[{i}]")
            if conversation.num_characters > _MAX_TEXT:
                raise ApiError(400, f"the messages have more than {_MAX_TEXT} characters", "messages")
        video, given = conversation.video
        options = Options.model_validate(self._frame_options(given))
        schema = None if self.response_format is None else self.response_format.schema_text()
        if schema is not None and self.task != "ask":
            raise ApiError(400, f"the answers of {self.task} have a form of their own", "response_format")
        windows = WindowConfig(0.0 if schema else self.window, self.overlap, self.step, self.refine)
        windows.check_density(num_frames=options.num_frames, fps=options.fps)
        words = conversation.question if TASKS[self.task].query != "none" else None
        if self.task == "grounding" and not words:
            raise ApiError(400, "grounding needs a query: say in the last message what to look for", "messages")
        request = Request(
            self.task,
            words or None,
            conversation.history,
            self._decoding(schema, settings),
            transcript=transcript_events(given.get("transcript")),
            system=conversation.system,
            moments=MomentSelection(self.top_moments, self.find_all, self.threshold),
            cite=self.cite,
        )
        return VideoRequest(video, request, windows, options.sampling())

    def _frame_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the video: those beside it win over those of the whole request."""
        media = self.media_io_kwargs or {}
        video = media.get("video", media)
        if not isinstance(video, Mapping):
            raise ApiError(400, 'media_io_kwargs must look like {"video": {"num_frames": 32}}', "media_io_kwargs")
        merged = {**video, **(self.mm_processor_kwargs or {}), **{k: v for k, v in given.items() if v is not None}}
        named = {name: merged[name] for name in _FRAME_FIELDS if merged.get(name) is not None}
        # vLLM: -1 takes all frames, which here is the model's own choice; a time before the film is none.
        return {name: value for name, value in named.items() if value != -1 or name in ("start", "end")}

    def _decoding(self, schema: str | None, settings: ServerSettings) -> DecodingOptions:
        longest = self.max_completion_tokens or self.max_tokens or min(_FREE_TOKENS, settings.max_new_tokens)
        samples = self.temperature is not None and self.temperature >= _MIN_TEMPERATURE
        return DecodingOptions(
            max_new_tokens=longest,
            do_sample=samples,
            temperature=self.temperature if samples and self.temperature is not None else 1.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=50 if self.top_k is None or self.top_k < 1 else self.top_k,
            seed=42 if self.seed is None else self.seed,
            json_schema=schema,
        )

    def _reject_unsupported(self) -> None:
        """Say so rather than answer something else."""
        refused = {
            "n": self.n not in (None, 1),
            "tools": bool(self.tools) and self.tool_choice != "none",
            "functions": bool(self.functions),
            "modalities": any(kind != "text" for kind in self.modalities or ()),
            "logprobs": bool(self.logprobs),
            "top_logprobs": bool(self.top_logprobs),
            "frequency_penalty": bool(self.frequency_penalty),
            "presence_penalty": bool(self.presence_penalty),
            "repetition_penalty": self.repetition_penalty not in (None, 1),
            "logit_bias": bool(self.logit_bias),
        }
        for name, is_refused in refused.items():
            if is_refused:
                raise ApiError(400, f"{name} is not offered by this server; leave it out", name, "unsupported")


class _Conversation:
    """Messages, read one after the other."""

    def __init__(self) -> None:
        self.history: list[tuple[str, str]] = []
        self.question = ""
        self._system: list[str] = []
        self._video: tuple[str | InlineFrames, dict[str, Any]] | None = None
        self._place = ""

    @property
    def num_characters(self) -> int:
        told = [*self._system, self.question, *(text for turn in self.history for text in turn)]
        return sum(map(len, told))

    @property
    def system(self) -> str | None:
        return "\n".join(self._system) or None

    @property
    def video(self) -> tuple[str | InlineFrames, dict[str, Any]]:
        if self._video is None:
            raise ApiError(
                400,
                'no message holds a video; add a part such as {"type": "video_url", "video_url": {"url": "…"}}',
                "messages",
            )
        if not self._place.endswith("user"):
            raise ApiError(400, "the last message must be the user's", "messages")
        return self._video

    def add(self, message: RequestMessage, place: str) -> None:
        self._place = f"{place}.{message.role}"
        if message.role in ("system", "developer"):
            self._system.append(self._text(message, place))
        elif message.role == "user":
            text = self._text(message, place)
            self.question = f"{self.question}\n{text}".strip()
        elif message.role == "assistant":
            self.history.append((self.question, self._text(message, place)))
            self.question = ""
        else:
            raise ApiError(400, f"messages of the role {message.role} are not taken by this server", place)

    def _text(self, message: RequestMessage, place: str) -> str:
        if message.content is None or isinstance(message.content, str):
            return message.content or ""
        texts = []
        for i, part in enumerate(message.content):
            where = f"{place}.content[{i}]"
            kind = part.get("type")
            if kind in ("text", "input_text"):
                texts.append(_text(part.get("text"), "a part of the type text needs text", where))
            elif message.role == "user" and (video := read_part(part, where)) is not None:
                self._add_video(video, where)
            else:
                raise ApiError(
                    400,
                    f"parts of the type {str(kind)[:40]!r} are not taken here; expected text, video_url, file, "
                    "video or frames",
                    where,
                )
        return "\n".join(texts)

    def _add_video(self, video: tuple[str | InlineFrames, dict[str, Any]], where: str) -> None:
        if self._video is not None:
            same = isinstance(video[0], str) and self._video[0] == video[0]
            if not same:
                raise ApiError(400, "a conversation is about one video; this is a second one", where)
        self._video = video


def _text(value: Any, wanted: str, where: str) -> str:
    """A text that a client has sent, where it is one."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:  # half of a pair of surrogates is no character, and no tokenizer takes it
        raise ApiError(400, "a text holds half of a character (a surrogate without the other)", where) from None
    raise ApiError(400, wanted, where)


def read_part(part: Mapping[str, Any], where: str) -> tuple[str | InlineFrames, dict[str, Any]] | None:
    """Read a part of a message that may be a video: the video, and how it is to be looked at.

    Taken are `video_url` (vLLM, SGLang), `video` (Qwen: a list of pictures, or an address), `file` and `input_file`
    (OpenAI: an uploaded file), and `frames`.

    Returns:
        None for a part of another type.
    """
    kind = part.get("type")
    if kind == "video_url":
        inside = part.get("video_url")
        inside = {"url": inside} if isinstance(inside, str) else inside
        if not isinstance(inside, Mapping) or not isinstance(inside.get("url"), str):
            raise ApiError(400, 'a part of the type video_url needs {"video_url": {"url": "…"}}', where)
        options = {**part, **inside}
        url = inside["url"]
        if url[:16].lower().startswith("data:video/jpeg"):
            _, _, pictures = url.partition(",")
            urls = [f"data:image/jpeg;base64,{picture}" for picture in pictures.split(",")]
            return _frames(urls, options, where), _without_times(options)
        return url, dict(options)
    if kind in ("file", "input_file"):
        inside = part.get("file") if isinstance(part.get("file"), Mapping) else part
        assert isinstance(inside, Mapping)
        options = {**part, **inside}
        if isinstance(inside.get("file_id"), str):
            return inside["file_id"], options
        if isinstance(inside.get("file_data"), str):
            return inside["file_data"], options
        raise ApiError(400, "a part of the type file needs a file_id, or file_data with a data: address", where)
    if kind == "video":
        video = part.get("video")
        if isinstance(video, str):
            return video, dict(part)
        if isinstance(video, list) and all(isinstance(url, str) for url in video):
            return _frames(video, part, where), _without_times(part)
        raise ApiError(400, "a part of the type video needs an address, or a list of data: addresses", where)
    if kind == "frames":
        timed = InlineFrameList.model_validate({"frames": part.get("frames"), "duration": part.get("duration")})
        return timed.inline_frames(), _without_times(part)
    return None


def _without_times(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of frames that are there already: how dense they are was the client's choice."""
    return {name: value for name, value in options.items() if name in ("start", "end", "transcript")}


def _frames(urls: Sequence[str], options: Mapping[str, Any], where: str) -> InlineFrames:
    """Frames of pictures, whose times are told by `timestamps` or `fps`."""
    times, fps, duration = (options.get(name) for name in ("timestamps", "fps", "duration"))
    if isinstance(times, list) and len(times) == len(urls):
        seconds = times
    elif isinstance(fps, int | float) and fps > 0:
        seconds = [i / fps for i in range(len(urls))]
        duration = len(urls) / fps if duration is None else duration
    else:
        raise ApiError(
            400, f"{len(urls)} pictures need {len(urls)} timestamps in seconds, or fps, to be a video", where
        )
    pictures = [{"url": url, "time": time} for url, time in zip(urls, seconds, strict=True)]
    return InlineFrameList.model_validate({"frames": pictures, "duration": duration}).inline_frames()


def transcript_events(transcript: list[SpeechLine] | list[Any] | str | None) -> tuple[Event, ...] | None:
    """What is said in a video, as the request tells it: lines, or the text of a subtitle file."""
    if transcript is None:
        return None
    if len(str(transcript)) > _MAX_TEXT:
        raise ApiError(413, f"a transcript may have {_MAX_TEXT} characters", "transcript")
    try:
        if isinstance(transcript, str):
            lines = parse_transcript(_text(transcript, "a transcript is text", "transcript"))
        elif not isinstance(transcript, list):
            raise ApiError(400, "a transcript is a list of lines, or the text of an SRT or WebVTT file", "transcript")
        else:
            read = [line if isinstance(line, SpeechLine) else SpeechLine.model_validate(line) for line in transcript]
            lines = tuple(Event(line.start, line.end, line.text or line.caption) for line in read)
    except DataError as error:
        raise ApiError(400, str(error), "transcript") from error
    return clean_transcript(lines) or lines
