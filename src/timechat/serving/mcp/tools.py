"""The tools: names, descriptions, arguments and results."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from timechat.answers.events import AnsweredBy, Task
from timechat.answers.merging import MomentSelection
from timechat.answers.tasks import build_question
from timechat.serving.mcp.arguments import Arguments
from timechat.serving.mcp.search_tool import SearchVideos, SearchVideosResult
from timechat.video.sampling import FrameSampling

if TYPE_CHECKING:
    from timechat.serving.service import VideoRequest

# ------------------------------------------------------------------------------------------------- arguments

VideoName = Annotated[
    str,
    Field(
        min_length=1,
        description="Path of a video, as `list_videos` gives it, or an http(s) address of an allowed host.",
    ),
]


class ListVideos(Arguments):
    """Arguments of `list_videos`."""

    contains: Annotated[
        str, Field(description="Only videos whose path contains this text, in upper or lower case; empty lists all.")
    ] = ""
    limit: Annotated[int, Field(ge=1, le=1000, description="Maximum number of videos to list.")] = 100
    offset: Annotated[int, Field(ge=0, description="Number of videos to leave out at the beginning.")] = 0


class VideoInfoArguments(Arguments):
    """Arguments of `video_info`."""

    video: VideoName


class VideoTask(Arguments):
    """Arguments of a task for a video or a part of it."""

    task: ClassVar[Task]

    video: VideoName
    start: Annotated[float | None, Field(ge=0, description="Look from this second on; null from the beginning.")] = None
    end: Annotated[float | None, Field(ge=0, description="Look up to this second; null to the end.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="Maximum number of events in the result.")] = 200
    offset: Annotated[int, Field(ge=0, description="Number of events to leave out at the beginning.")] = 0

    def check(self) -> None:
        """Check the arguments without the model.

        Raises:
            ValueError: The query is empty, or the end is not after the start.
        """
        build_question(self.task, self.words)
        self.sampling()

    @property
    def words(self) -> str | None:
        """The query or question; None if the task takes none."""
        return None

    @property
    def num_passes(self) -> int:
        """Number of passes over the windows of the video."""
        return 1

    def sampling(self) -> FrameSampling:
        """Return the frame options."""
        return FrameSampling(start=self.start, end=self.end)

    def request_options(self) -> dict[str, Any]:
        """Return further options of the request."""
        return {}

    def to_request(self) -> "VideoRequest":
        """Return the request of the service."""
        # Imported here: the tools are listed before the model and torch are loaded.
        from timechat.pipeline import Request
        from timechat.serving.service import VideoRequest

        request = Request(self.task, self.words, **self.request_options())
        return VideoRequest(self.video, request, sampling=self.sampling())


class CaptionVideo(VideoTask):
    """Arguments of `caption_video`."""

    task = "dense_caption"


class FindMoments(VideoTask):
    """Arguments of `find_moments`."""

    task = "grounding"

    query: Annotated[str, Field(min_length=1, description="What to look for: a short sentence, 'the light turns on'.")]
    top_k: Annotated[int, Field(ge=1, description="Maximum number of moments, the best first.")] = 1
    find_all: Annotated[bool, Field(description="All moments in which it happens, whatever top_k.")] = False
    threshold: Annotated[
        float | None,
        Field(ge=0, le=1, description="Minimum score of a moment that counts as found; null takes the model's own."),
    ] = None

    @property
    def words(self) -> str:
        """The query."""
        return self.query

    def request_options(self) -> dict[str, Any]:
        """Return the selection of moments."""
        from timechat.search.retrieval import RetrievalConfig  # it loads torch

        moments = MomentSelection(self.top_k, self.find_all, self.threshold)
        return {"moments": moments, "retrieval": RetrievalConfig(by="auto")}


class FindHighlights(VideoTask):
    """Arguments of `find_highlights`."""

    task = "highlights"

    query: Annotated[str | None, Field(min_length=1, description="Topic of the highlights; null for any.")] = None

    @property
    def words(self) -> str | None:
        """The query."""
        return self.query


class ListSteps(VideoTask):
    """Arguments of `list_steps`."""

    task = "steps"


class SummarizeVideo(VideoTask):
    """Arguments of `summarize_video`."""

    task = "summary"

    cite: Annotated[
        bool, Field(description="Add to each sentence when it can be seen, [m:ss–m:ss]; takes about twice as long.")
    ] = False

    @property
    def num_passes(self) -> int:
        """Number of passes over the windows of the video: citations take a second one."""
        return 2 if self.cite else 1

    def request_options(self) -> dict[str, Any]:
        """Return whether to cite."""
        return {"cite": self.cite}


class TranscribeVideo(VideoTask):
    """Arguments of `transcribe_video`."""

    task = "transcribe"

    subtitles: Annotated[
        bool, Field(description="Return the subtitles of the video if it has any; false always lets the model guess.")
    ] = True

    def to_request(self) -> "VideoRequest":
        """Return the request of the service."""
        return replace(super().to_request(), reads_subtitles=self.subtitles)


class Turn(Arguments):
    """An earlier question and its answer."""

    question: str
    answer: str


class AskVideo(VideoTask):
    """Arguments of `ask_video`."""

    task = "ask"

    question: Annotated[str, Field(min_length=1, description="The question.")]
    history: Annotated[
        list[Turn], Field(description="Earlier questions about this video and their answers, oldest first.")
    ] = []  # noqa: RUF012 - pydantic copies it

    @property
    def words(self) -> str:
        """The question."""
        return self.question

    def request_options(self) -> dict[str, Any]:
        """Return the conversation so far."""
        return {"history": [(turn.question, turn.answer) for turn in self.history]}


# ------------------------------------------------------------------------------------------------- results


class EventResult(BaseModel):
    """An event; a highlight is a moment, `start == end`."""

    start: Annotated[float, Field(description="Seconds from the start of the video.")]
    end: Annotated[float, Field(description="Seconds from the start of the video.")]
    caption: str
    score: Annotated[float | None, Field(description="Probability, 0 to 1; null for a highlight.")]
    saliency: Annotated[float | None, Field(description="Rating of a highlight, usually 1 to 5; null otherwise.")] = (
        None
    )


class AnswerResult(BaseModel):
    """The object that `timechat ... --json` prints, see `timechat.answers.events.Answer`."""

    video: Annotated[str | None, Field(description="Its name in the call.")]
    duration: Annotated[float | None, Field(description="Seconds of the whole video.")]
    task: Task
    question: Annotated[str, Field(description="The question or query; empty where the tool takes none.")]
    text: Annotated[str, Field(description="The answer as the model wrote it.")]
    events: Annotated[list[EventResult], Field(description="Events in the text, in the time of the video.")]
    model: str | None
    found: Annotated[bool | None, Field(description="Whether the query happens in the video; null without a query.")]
    score: Annotated[float | None, Field(description="Probability that the query happens, 0 to 1.")]
    step: Annotated[float | None, Field(description="Resolution of the times: seconds between frames.")]
    by: Annotated[AnsweredBy, Field(description="model, or search where a frame-text encoder found the moments.")]
    read_share: Annotated[float, Field(description="Share of the video that was read, 0 to 1.")]
    player_offset: Annotated[float, Field(description="Seconds to add to each time to get the time in a player.")]
    timings: Annotated[dict[str, float], Field(description="Seconds spent, by stage.")]
    notes: Annotated[list[str], Field(description="Notes about the answer.")]


class ListedVideo(BaseModel):
    """A video in an allowed folder."""

    video: Annotated[str, Field(description="Its path, as the other tools take it.")]
    bytes: int


class ListVideosResult(BaseModel):
    """Result of `list_videos`."""

    videos: list[ListedVideo]
    total: Annotated[int, Field(description="Number of all matching videos, also those beyond the limit.")]
    folders: Annotated[list[str], Field(description="Folders whose videos may be opened.")]
    hosts: Annotated[list[str], Field(description="Hosts whose http(s) addresses may be opened.")]


class VideoInfoResult(BaseModel):
    """Result of `video_info`: properties of a video."""

    video: str
    duration: Annotated[float, Field(description="Seconds.")]
    width: Annotated[int, Field(description="Pixels, as displayed.")]
    height: Annotated[int, Field(description="Pixels, as displayed.")]
    fps: Annotated[float | None, Field(description="Average frames per second.")]
    has_audio: bool
    format: str
    codec: str
    created: Annotated[str | None, Field(description="Date that the file states, ISO 8601; null if it states none.")]


# -------------------------------------------------------------------------------------------------- tools


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        name: Name in a tool call.
        title: Title for people.
        description: Description for agents.
        arguments: Model of the arguments.
        result: Model of the result.
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
            "List the video files that may be opened, with their paths. Call it first, unless the user named "
            "a file. Call video_info for the length of a video.",
            ListVideos,
            ListVideosResult,
        ),
        Tool(
            "video_info",
            "Get the properties of a video",
            "Get the length of a video, its size in pixels, its frame rate and whether it has sound. Fast, without the "
            "model; use it before a question about a part of a long video.",
            VideoInfoArguments,
            VideoInfoResult,
        ),
        Tool(
            "search_videos",
            "Search all videos",
            "Search the indexed videos for what they show or say: moments of any video with its path, start and end in "
            "seconds, and a score. `found: false` means that the moments are only the nearest ones. Fast, without the "
            "model; use it to choose a video, then find_moments or ask_video for details.",
            SearchVideos,
            SearchVideosResult,
        ),
        Tool(
            "find_moments",
            "Find moments",
            "Find when something happens in a video: start and end in seconds, with scores. The result has `found: "
            "false` and no events if it does not happen. One moment unless top_k or find_all ask for more.",
            FindMoments,
            AnswerResult,
        ),
        Tool(
            "caption_video",
            "Caption a video",
            "Describe all that happens in a video, in order: events with start, end (seconds) and a caption. Use it "
            "to get an overview; use find_moments to look for one thing.",
            CaptionVideo,
            AnswerResult,
        ),
        Tool(
            "find_highlights",
            "Find highlights",
            "Find the highlights of a video, in general or for a query: times in seconds with saliency scores. Each "
            "is a point in time (start equals end).",
            FindHighlights,
            AnswerResult,
        ),
        Tool(
            "list_steps",
            "List steps",
            "List the steps of the activity in an instructional video, in order, with start and end in seconds.",
            ListSteps,
            AnswerResult,
        ),
        Tool(
            "summarize_video",
            "Summarize a video",
            "Summarize a video in a few sentences. With cite, each sentence gets the times at which it can be seen.",
            SummarizeVideo,
            AnswerResult,
        ),
        Tool(
            "transcribe_video",
            "Transcribe a video",
            "Return the speech in a video, with times: its subtitles if it has any, which a note names. Otherwise the "
            "video model guesses it: the model sees the frames and does not hear the sound, so this does not replace "
            "speech recognition.",
            TranscribeVideo,
            AnswerResult,
        ),
        Tool(
            "ask_video",
            "Ask about a video",
            "Ask a free question about a video; `events` holds the times in the answer. Each window of a long video is "
            "answered separately: give start and end to ask about one part. For times, find_moments and "
            "caption_video are more reliable.",
            AskVideo,
            AnswerResult,
        ),
    )
}
"""All tools by name, in the order of `list_tools`."""
