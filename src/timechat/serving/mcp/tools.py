"""The tools: what an agent reads about them, what they take, and what they give."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from timechat.answers.events import Task

# ------------------------------------------------------------------------------------------------- what they take

VideoName = Annotated[
    str,
    Field(
        min_length=1,
        description="Path of a video, as `list_videos` gives it, or an http(s) address of an allowed host.",
    ),
]


@dataclass(frozen=True)
class ToolRequest:
    """A question about a video, as a tool call asks it.

    Attributes:
        task: Which one.
        video: Path or address, as the caller wrote it.
        query: The question, or what to look for, where the task takes it.
        history: Earlier (question, answer) pairs.
        start: Seconds; look from here on.
        end: Seconds; look up to here.
        top_k: Most moments that are wanted.
        find_all: All of them instead.
        threshold: Least score of a moment that counts as found; None takes the model's.
        cite: Whether sentences say when they can be seen.
    """

    task: Task
    video: str
    query: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    start: float | None = None
    end: float | None = None
    top_k: int = 1
    find_all: bool = False
    threshold: float | None = None
    cite: bool = False

    @property
    def num_passes(self) -> int:
        """How often the windows of the video are gone through."""
        return 2 if self.cite else 1


class Arguments(BaseModel):
    """What a tool takes; anything else is refused."""

    model_config = ConfigDict(extra="forbid")


class ListVideos(Arguments):
    """Arguments of `list_videos`."""

    contains: Annotated[
        str, Field(description="Only videos whose path contains this, whatever the case; empty lists all.")
    ] = ""
    limit: Annotated[int, Field(ge=1, le=1000, description="Most videos to list.")] = 100


class VideoInfoArguments(Arguments):
    """Arguments of `video_info`."""

    video: VideoName


class About(Arguments, ABC):
    """A video, or a part of it, that is asked about."""

    video: VideoName
    start: Annotated[float | None, Field(ge=0, description="Look from this second on; null from the beginning.")] = None
    end: Annotated[float | None, Field(ge=0, description="Look up to this second; null to the end.")] = None

    @abstractmethod
    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""


class CaptionVideo(About):
    """Arguments of `caption_video`."""

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        return ToolRequest("dense_caption", self.video, start=self.start, end=self.end)


class FindMoments(About):
    """Arguments of `find_moments`."""

    query: Annotated[str, Field(min_length=1, description="What to look for: a short sentence, 'the light turns on'.")]
    top_k: Annotated[int, Field(ge=1, description="Most moments that are wanted, the best first.")] = 1
    find_all: Annotated[bool, Field(description="All moments in which it happens, whatever top_k.")] = False
    threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="Least score of a moment that counts as found; null takes the model's own."),
    ] = None

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        return ToolRequest(
            "grounding",
            self.video,
            self.query,
            start=self.start,
            end=self.end,
            top_k=self.top_k,
            find_all=self.find_all,
            threshold=self.threshold,
        )


class FindHighlights(About):
    """Arguments of `find_highlights`."""

    query: Annotated[str | None, Field(min_length=1, description="What they are about; null for any.")] = None

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        return ToolRequest("highlights", self.video, self.query, start=self.start, end=self.end)


class ListSteps(About):
    """Arguments of `list_steps`."""

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        return ToolRequest("steps", self.video, start=self.start, end=self.end)


class SummarizeVideo(About):
    """Arguments of `summarize_video`."""

    cite: Annotated[
        bool, Field(description="Let each sentence say when it can be seen, [m:ss–m:ss]; takes about twice as long.")
    ] = False

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        return ToolRequest("summary", self.video, start=self.start, end=self.end, cite=self.cite)


class TranscribeVideo(About):
    """Arguments of `transcribe_video`."""

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        return ToolRequest("transcribe", self.video, start=self.start, end=self.end)


class Turn(Arguments):
    """A question that was asked before, and its answer."""

    question: str
    answer: str


class AskVideo(About):
    """Arguments of `ask_video`."""

    question: Annotated[str, Field(min_length=1, description="In words.")]
    history: Annotated[
        list[Turn], Field(description="Earlier questions about this video and their answers, oldest first.")
    ] = []

    def job(self) -> ToolRequest:
        """Return these arguments as the question that they are."""
        turns = tuple((turn.question, turn.answer) for turn in self.history)
        return ToolRequest("ask", self.video, self.question, turns, start=self.start, end=self.end)


# ------------------------------------------------------------------------------------------------- what they give


class EventResult(BaseModel):
    """Something that happens; a highlight is a moment, `start == end`."""

    start: Annotated[float, Field(description="Seconds from the start of the video.")]
    end: Annotated[float, Field(description="Seconds from the start of the video.")]
    caption: str
    score: Annotated[float | None, Field(description="How sure the model is, 0 to 1, or a highlight's saliency.")]


class AnswerResult(BaseModel):
    """The object that `timechat ... --json` prints, see `timechat.answers.events.Answer`."""

    video: Annotated[str | None, Field(description="As it was asked about.")]
    duration: Annotated[float | None, Field(description="Seconds of the whole video.")]
    task: Literal["ask", "dense_caption", "grounding", "highlights", "steps", "summary", "transcribe"]
    question: Annotated[str, Field(description="The question or query; empty where the tool takes none.")]
    text: Annotated[str, Field(description="The answer as the model wrote it.")]
    events: Annotated[list[EventResult], Field(description="Read out of the text, on the video's own clock.")]
    model: str | None
    found: Annotated[bool | None, Field(description="Whether what was looked for happens; null where nothing was.")]
    score: Annotated[float | None, Field(description="How sure the model is that it happens, 0 to 1.")]
    step: Annotated[float | None, Field(description="Resolution of the times: seconds from frame to frame.")]
    timings: Annotated[dict[str, float], Field(description="Seconds that the answer took, by stage.")]
    notes: Annotated[list[str], Field(description="What a reader of the answer should know.")]


class ListedVideo(BaseModel):
    """A video in an allowed folder."""

    video: Annotated[str, Field(description="Its path, as the other tools take it.")]
    bytes: int


class ListVideosResult(BaseModel):
    """Videos that may be asked about."""

    videos: list[ListedVideo]
    total: Annotated[int, Field(description="How many there are; more than are listed where the limit was reached.")]
    folders: Annotated[list[str], Field(description="Whose videos may be opened.")]
    hosts: Annotated[list[str], Field(description="Whose http(s) addresses may be opened.")]


class VideoInfoResult(BaseModel):
    """What a video is."""

    video: str
    duration: Annotated[float, Field(description="Seconds.")]
    width: Annotated[int, Field(description="Pixels, as displayed.")]
    height: Annotated[int, Field(description="Pixels, as displayed.")]
    fps: Annotated[float | None, Field(description="Average frames per second.")]
    has_audio: bool
    format: str
    codec: str


# -------------------------------------------------------------------------------------------------- what they are


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        name: By which it is called.
        title: For people.
        description: For agents.
        arguments: What it takes.
        result: What it gives.
    """

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    result: type[BaseModel]


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "list_videos",
            "List videos",
            "List the video files that may be asked about, with their paths. Call it first, unless the user named "
            "a file. Looks at names only: call video_info for the length of one.",
            ListVideos,
            ListVideosResult,
        ),
        Tool(
            "video_info",
            "Look up a video",
            "Tell how long a video is, its size in pixels, its frame rate and whether it has sound. Quick, no model; "
            "use it before asking about a part of a long video.",
            VideoInfoArguments,
            VideoInfoResult,
        ),
        Tool(
            "find_moments",
            "Find moments",
            "Find when something happens in a video: start and end in seconds, with scores. Says `found: false` and no "
            "events where it does not happen. One moment unless top_k or find_all ask for more.",
            FindMoments,
            AnswerResult,
        ),
        Tool(
            "caption_video",
            "Caption a video",
            "Tell all that happens in a video, in order: events with start, end (seconds) and a caption each. Use it "
            "to learn what a video holds; use find_moments to look for one thing.",
            CaptionVideo,
            AnswerResult,
        ),
        Tool(
            "find_highlights",
            "Find highlights",
            "Find the moments worth seeing in a video, all in all or about a query: times in seconds with saliency "
            "scores, each a point in time (start equals end).",
            FindHighlights,
            AnswerResult,
        ),
        Tool(
            "list_steps",
            "List steps",
            "List the steps of what is being done in an instructional video, in order, with start and end in seconds.",
            ListSteps,
            AnswerResult,
        ),
        Tool(
            "summarize_video",
            "Summarize a video",
            "Tell in a few sentences what happens in a video. With cite, each sentence says when it can be seen.",
            SummarizeVideo,
            AnswerResult,
        ),
        Tool(
            "transcribe_video",
            "Transcribe a video",
            "Let the video model write, with times, the speech that it believes to be there. It sees pictures and does "
            "not hear the sound: no stand-in for speech recognition.",
            TranscribeVideo,
            AnswerResult,
        ),
        Tool(
            "ask_video",
            "Ask about a video",
            "Ask anything about a video, in words; `events` holds the times that the answer names. About a long video "
            "each of its stretches answers for itself: give start and end to ask about one. For times, find_moments "
            "and caption_video are surer.",
            AskVideo,
            AnswerResult,
        ),
    )
}
"""Every tool by its name, in the order in which they are listed."""
