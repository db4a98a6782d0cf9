"""Requests of search and indexing."""

from datetime import datetime
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from timechat.search.query import DEFAULT_BEST, SearchFilters
from timechat.serving.errors import RequestError
from timechat.serving.http.messages import RequestModel, Seconds
from timechat.serving.inline_frames import decode_picture
from timechat.serving.library import IndexTask, LibraryQuery

_MAX_QUERY = 10_000  # characters
_MAX_NAMES = 10_000

Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=_MAX_NAMES)]
"""Videos and folders: `film-…`, a name as in `GET /v1/files`, the name of a folder, or a `file://` address."""


class SearchRequest(RequestModel):
    """A request of `/v1/search`. `since` and `until` are ISO 8601 or seconds since 1970, lengths are in seconds."""

    query: str = Field("", max_length=_MAX_QUERY)
    like: str | None = None
    best: int = Field(DEFAULT_BEST, ge=1, le=1000)
    videos: Names = Field(default_factory=list)
    name: str | None = Field(None, max_length=1000)
    since: datetime | None = None
    until: datetime | None = None
    min_length: Seconds | None = None
    max_length: Seconds | None = None

    def to_query(self) -> LibraryQuery:
        """Return the query of the library; decodes the picture.

        Raises:
            RequestError: There are words and a picture, or the picture cannot be read.
        """
        if self.like is not None and self.query.strip():
            raise RequestError(400, "give query or like, not both", "like")
        picture = None if self.like is None else np.asarray(decode_picture(self.like, "like"))
        filters = SearchFilters(
            name=self.name,
            since=_timestamp(self.since, "since"),
            until=_timestamp(self.until, "until"),
            min_seconds=self.min_length,
            max_seconds=self.max_length,
        )
        return LibraryQuery(self.query, picture, self.best, tuple(self.videos), filters)


class CurveRequest(RequestModel):
    """A request of `/v1/search/curve`."""

    query: str = Field("", max_length=_MAX_QUERY)
    video: str = Field(min_length=1, max_length=4096)


class IndexRequest(RequestModel):
    """A request of `/v1/index`, which becomes a job."""

    task: Literal["index"] = "index"
    videos: Names = Field(default_factory=list)
    full: bool = False
    retry: bool = False

    @property
    def video(self) -> None:
        """No single video."""
        return None

    @property
    def query(self) -> None:
        """No query."""
        return None

    def to_task(self) -> IndexTask:
        """Return the task of the library."""
        return IndexTask(tuple(self.videos), self.full, self.retry)


def _timestamp(time: datetime | None, param: str) -> float | None:
    """Return seconds since 1970; a time without a zone is one of this machine."""
    try:
        return None if time is None else time.timestamp()
    except (OverflowError, ValueError, OSError) as error:
        raise RequestError(400, f"{param} is out of range", param) from error
