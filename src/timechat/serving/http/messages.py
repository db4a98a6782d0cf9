"""Parts of requests that hold a video, a transcript or a conversation.

Videos come in the formats of vLLM and SGLang, in OpenAI's and in ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from timechat.answers.events import Event
from timechat.errors import DataError
from timechat.serving.errors import RequestError
from timechat.serving.http.image_times import TimedImages
from timechat.serving.inline_frames import InlineFrames
from timechat.speech import clean_transcript, parse_transcript

_MAX_FRAMES_SENT = 600
_MAX_TEXT = 1_000_000  # characters of all messages, or of a transcript
_TEXT_TYPES = ("text", "input_text", "output_text")

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class RequestModel(BaseModel):
    """Base of all requests: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", str_max_length=200_000_000)


class SpeechLine(RequestModel):
    """A line of a transcript."""

    start: Seconds
    end: Seconds
    caption: str = ""
    text: str | None = None


class InlineFrame(RequestModel):
    """A frame in the request: a `data:` address and its time in seconds."""

    url: str
    time: Seconds


class InlineFrameList(RequestModel):
    """Frames of a video that the client has extracted."""

    frames: list[InlineFrame] = Field(min_length=1, max_length=_MAX_FRAMES_SENT)
    duration: Seconds | None = None

    def inline_frames(self) -> InlineFrames:
        """Return the frames for the service."""
        urls, times = (tuple(getattr(frame, name) for frame in self.frames) for name in ("url", "time"))
        return InlineFrames(urls, times, self.duration)


class RequestMessage(RequestModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatConversation:
    """The messages of a request, added in order.

    Attributes:
        history: Earlier (question, answer) pairs.
        question: Text of the last user messages.
    """

    def __init__(self) -> None:
        self.history: list[tuple[str, str]] = []
        self.question = ""
        self._system: list[str] = []
        self._video: tuple[str | InlineFrames, dict[str, Any]] | None = None
        self._place = ""

    @property
    def num_characters(self) -> int:
        """Number of characters of all texts."""
        texts = [*self._system, self.question, *(text for turn in self.history for text in turn)]
        return sum(map(len, texts))

    @property
    def system(self) -> str | None:
        """System prompt; None without system messages."""
        return "\n".join(self._system) or None

    @property
    def video(self) -> tuple[str | InlineFrames, dict[str, Any]]:
        """The video and the options beside it.

        Raises:
            RequestError: There is no video, or the last message is not the user's.
        """
        if self._video is None:
            raise RequestError(
                400,
                'no message holds a video; add a part such as {"type": "video_url", "video_url": {"url": "…"}}',
                "messages",
            )
        if not self._place.endswith("user"):
            raise RequestError(400, "the last message must be the user's", "messages")
        return self._video

    def add(self, message: RequestMessage, place: str) -> None:
        """Add the next message; `place` is its location in the request.

        Raises:
            RequestError: The message is not accepted, or the texts are too long.
        """
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
            raise RequestError(400, f"messages of the role {message.role} are not accepted by this server", place)
        if self.num_characters > _MAX_TEXT:
            raise RequestError(400, f"the messages have more than {_MAX_TEXT} characters", "messages")

    def _text(self, message: RequestMessage, place: str) -> str:
        if message.content is None or isinstance(message.content, str):
            return message.content or ""
        texts: list[str] = []
        images = TimedImages()
        is_text = False  # whether the part before this one is a text
        for i, part in enumerate(message.content):
            where = f"{place}.content[{i}]"
            kind = part.get("type")
            if kind in _TEXT_TYPES:
                texts.append(_text(part.get("text"), "a part of the type text needs text", where))
            elif message.role == "user" and kind in ("image_url", "input_image"):
                rest = images.add(part, texts.pop() if is_text else None, where)
                texts += [rest.rstrip()] if rest.strip() else []
            elif message.role == "user" and (video := read_part(part, where)) is not None:
                self._add_video(video, where)
            else:
                raise RequestError(
                    400,
                    f"parts of the type {str(kind)[:40]!r} are not accepted here; expected text, video_url, "
                    "input_video, file, video, frames, or image_url after a text with its time",
                    where,
                )
            is_text = kind in _TEXT_TYPES
        if images.frames:
            timed = InlineFrameList.model_validate({"frames": images.frames, "duration": images.duration})
            self._add_video((replace(timed.inline_frames(), is_one_window=True), {}), place)
        return "\n".join(texts)

    def _add_video(self, video: tuple[str | InlineFrames, dict[str, Any]], where: str) -> None:
        if self._video is not None:
            same = isinstance(video[0], str) and self._video[0] == video[0]
            if not same:
                raise RequestError(400, "a conversation is about one video; this is a second one", where)
        self._video = video


def _text(value: Any, message: str, where: str) -> str:
    """Return a text of the request; an error with `message` if it is not a text."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:  # tokenizers accept no lone surrogate
        raise RequestError(400, "a text holds half of a character (a surrogate without the other)", where) from None
    raise RequestError(400, message, where)


def read_part(part: Mapping[str, Any], where: str) -> tuple[str | InlineFrames, dict[str, Any]] | None:
    """Read a part of a message that may be a video.

    Accepted types are `video_url` (vLLM, SGLang), `video` (Qwen: a list of images, or an address), `file`,
    `input_file` and `input_video` (OpenAI: an uploaded file, its content or an address), and `frames`.

    Returns:
        The video and the options beside it; None for a part of another type.
    """
    kind = part.get("type")
    if kind in ("video_url", "input_video") and "video_url" in part:
        inside = part.get("video_url")
        inside = {"url": inside} if isinstance(inside, str) else inside
        if not isinstance(inside, Mapping) or not isinstance(inside.get("url"), str):
            raise RequestError(
                400, 'a part of this type needs {"video_url": {"url": "…"}} or {"video_url": "…"}', where
            )
        options = {**part, **inside}
        url = inside["url"]
        if url[:16].lower().startswith("data:video/jpeg"):
            _, _, images = url.partition(",")
            urls = [f"data:image/jpeg;base64,{image}" for image in images.split(",")]
            return _frames(urls, options, where), _without_times(options)
        return url, dict(options)
    if kind in ("file", "input_file", "input_video"):
        inside = part.get("file") if isinstance(part.get("file"), Mapping) else part
        assert isinstance(inside, Mapping)
        options = {**part, **inside}
        for name in ("file_id", "file_url", "file_data"):
            if isinstance(inside.get(name), str):
                return inside[name], options
        names = "video_url, file_id" if kind == "input_video" else "file_id, file_url"
        raise RequestError(400, f"a part of the type {kind} needs {names}, or file_data with a data: address", where)
    if kind == "video_url":
        raise RequestError(400, 'a part of the type video_url needs {"video_url": {"url": "…"}}', where)
    if kind == "video":
        video = part.get("video")
        if isinstance(video, str):
            return video, dict(part)
        if isinstance(video, list) and all(isinstance(url, str) for url in video):
            return _frames(video, part, where), _without_times(part)
        raise RequestError(400, "a part of the type video needs an address, or a list of data: addresses", where)
    if kind == "frames":
        timed = InlineFrameList.model_validate({"frames": part.get("frames"), "duration": part.get("duration")})
        return timed.inline_frames(), _without_times(part)
    return None


def _without_times(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for frames that the client has sampled itself."""
    return {name: value for name, value in options.items() if name in ("start", "end", "transcript")}


def _frames(urls: Sequence[str], options: Mapping[str, Any], where: str) -> InlineFrames:
    """Return images as frames; `timestamps` or `fps` gives their times."""
    times, fps, duration = (options.get(name) for name in ("timestamps", "fps", "duration"))
    if isinstance(times, list) and len(times) == len(urls):
        seconds = times
    elif isinstance(fps, int | float) and fps > 0:
        seconds = [i / fps for i in range(len(urls))]
        duration = len(urls) / fps if duration is None else duration
    else:
        raise RequestError(
            400, f"{len(urls)} images need {len(urls)} timestamps in seconds, or fps, to be a video", where
        )
    images = [{"url": url, "time": time} for url, time in zip(urls, seconds, strict=True)]
    return InlineFrameList.model_validate({"frames": images, "duration": duration}).inline_frames()


def transcript_events(transcript: list[SpeechLine] | list[Any] | str | None) -> tuple[Event, ...] | None:
    """Return the transcript of a request, which is a list of lines or the text of a subtitle file."""
    if transcript is None:
        return None
    if len(str(transcript)) > _MAX_TEXT:
        raise RequestError(413, f"a transcript may have {_MAX_TEXT} characters", "transcript")
    try:
        if isinstance(transcript, str):
            lines = parse_transcript(_text(transcript, "a transcript is text", "transcript"))
        elif not isinstance(transcript, list):
            raise RequestError(
                400, "a transcript is a list of lines, or the text of an SRT or WebVTT file", "transcript"
            )
        else:
            read = [line if isinstance(line, SpeechLine) else SpeechLine.model_validate(line) for line in transcript]
            lines = tuple(Event(line.start, line.end, line.text or line.caption) for line in read)
    except DataError as error:
        raise RequestError(400, str(error), "transcript") from error
    return clean_transcript(lines) or lines
