"""Arguments and result of the tool `search_videos`."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from timechat.search.query import DEFAULT_BEST, SearchFilters
from timechat.search.records import Kind
from timechat.serving.library import LibraryQuery
from timechat.serving.mcp.arguments import Arguments


class SearchVideos(Arguments):
    """Arguments of `search_videos`."""

    query: Annotated[
        str,
        Field(min_length=1, description="What to see, 'a dog on a beach', or words that are said or shown."),
    ]
    best: Annotated[int, Field(ge=1, le=1000, description="Maximum number of moments, the best first.")] = DEFAULT_BEST
    videos: Annotated[
        list[str],
        Field(description="Paths of videos or folders to search, as `list_videos` gives them; empty for all."),
    ] = []  # noqa: RUF012 - pydantic copies it
    name: Annotated[str | None, Field(description="Pattern of the file name, such as IMG_*; null for any.")] = None
    since: Annotated[
        datetime | None, Field(description="Only videos recorded from this time on, ISO 8601; null for any.")
    ] = None
    until: Annotated[datetime | None, Field(description="Only videos recorded before it, ISO 8601; null for any.")] = (
        None
    )
    min_length: Annotated[float | None, Field(ge=0, description="Minimum length of a video in seconds.")] = None
    max_length: Annotated[float | None, Field(ge=0, description="Maximum length of a video in seconds.")] = None

    def to_query(self) -> LibraryQuery:
        """Return the query of the library."""
        filters = SearchFilters(
            name=self.name,
            since=None if self.since is None else self.since.timestamp(),
            until=None if self.until is None else self.until.timestamp(),
            min_seconds=self.min_length,
            max_seconds=self.max_length,
        )
        return LibraryQuery(self.query, best=self.best, videos=tuple(self.videos), filters=filters)


class MomentResult(BaseModel):
    """A moment of a video of the library."""

    video: Annotated[str, Field(description="Path of the video, as the other tools take it.")]
    start: Annotated[float, Field(description="Seconds from the start of the video.")]
    end: Annotated[float, Field(description="Seconds from the start of the video.")]
    score: Annotated[float, Field(description="Probability that the moment matches, 0 to 1.")]
    by: Annotated[list[Kind], Field(description="Sources that matched: the picture, or a line of the video.")]
    text: Annotated[str | None, Field(description="Line that matched; null for pictures alone.")]
    offline: Annotated[bool, Field(description="Whether the file is away, so that it cannot be opened now.")]
    filename: Annotated[str, Field(description="Path in the allowed folder.")]


class SearchVideosResult(BaseModel):
    """The object that `timechat search --json` prints."""

    query: str
    library: Annotated[str | None, Field(description="Path of the library.")]
    encoder: Annotated[str, Field(description="Encoder that compares pictures with words.")]
    found: Annotated[bool, Field(description="Whether the best moment matches; the nearest ones are given anyway.")]
    threshold: Annotated[float, Field(description="Score from which a moment counts as found.")]
    moments: Annotated[list[MomentResult], Field(description="Moments, the best first.")]
    notes: Annotated[list[str], Field(description="Notes about the search.")]
