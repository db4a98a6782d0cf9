"""Moments that match a query, and the result of a search: joining, ranking, JSON.

Moments of several sources at the same time are one moment. A line with exactly the words of the query is always before
all other moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from timechat.answers.events import Answer, Event
from timechat.search.records import Kind

NO_VIDEO = "the library has no video that fits; index one with: timechat index PATH"
"""Note of a search without any video."""


_SAME_SHARE = 0.3  # of the shorter moment that overlaps, from which two moments are the same


@dataclass(frozen=True)
class Moment:
    """A moment that matches a query.

    Attributes:
        video: Path of the video.
        start: Start in seconds on the clock of the video.
        end: End in seconds.
        score: Probability from 0 to 1 that the moment matches.
        by: Sources that matched.
        text: Line that matched; None for pictures alone.
        is_exact: Whether the line has the words of the query, in their order.
        is_offline: Whether the video is away, so that it cannot be played now.
        duration: Duration of the video in seconds.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames.
    """

    video: str
    start: float
    end: float
    score: float
    by: tuple[Kind, ...]
    text: str | None = None
    is_exact: bool = field(default=False, compare=False)
    is_offline: bool = field(default=False, compare=False)
    duration: float | None = field(default=None, compare=False)
    player_offset: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the moment as the JSON of `search --json`."""
        return {
            "video": self.video,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "score": round(self.score, 4),
            "by": list(self.by),
            "text": self.text,
            "offline": self.is_offline,
        }


@dataclass(frozen=True)
class SearchResult:
    """Moments that match a query, the best first.

    Attributes:
        query: Words, or the path of a picture.
        library: Path of the library; None for a library in memory.
        encoder: Name of the encoder.
        threshold: Score from which a moment counts as found.
        moments: Moments, also below the threshold.
        notes: Sentences about the search.
    """

    query: str
    library: str | None
    encoder: str
    threshold: float
    moments: tuple[Moment, ...]
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether the best moment counts as found."""
        return bool(self.moments) and self.moments[0].score >= self.threshold

    @property
    def shown_moments(self) -> tuple[Moment, ...]:
        """The moments that count as found; all of them if none does."""
        return tuple(one for one in self.moments if one.score >= self.threshold) or self.moments

    def to_dict(self) -> dict[str, Any]:
        """Return the result as the JSON of `search --json` and `POST /v1/search`."""
        return {
            "query": self.query,
            "library": self.library,
            "encoder": self.encoder,
            "found": self.found,
            "threshold": self.threshold,
            "moments": [moment.to_dict() for moment in self.moments],
            "notes": list(self.notes),
        }

    def answers(self) -> list[Answer]:
        """Return an answer for each video with a shown moment, in the order of their best moments."""
        by_video: dict[str, list[Moment]] = {}
        for moment in self.shown_moments:
            by_video.setdefault(moment.video, []).append(moment)
        return [
            Answer(
                "",
                [Event(one.start, one.end, one.text or self.query, one.score) for one in moments],
                task="grounding",
                question=self.query,
                video=video,
                duration=moments[0].duration,
                model=self.encoder,
                found=self.found,
                score=moments[0].score,
                by="search",
                player_offset=moments[0].player_offset,
                notes=self.notes,
            )
            for video, moments in by_video.items()
        ]


def join_results(results: Sequence[SearchResult], best: int) -> SearchResult:
    """Join the results of one query in several libraries.

    Args:
        results: Results with one encoder, at least one; the first one is that of the named library.
        best: Maximum number of moments.
    """
    first = results[0]
    moments = sorted((moment for result in results for moment in result.moments), key=_rank)[:best]
    notes = dict.fromkeys(note for result in results for note in result.notes if not (moments and note == NO_VIDEO))
    return replace(first, moments=tuple(moments), notes=tuple(notes))


def merge_moments(moments: Sequence[Moment], threshold: float) -> list[Moment]:
    """Join the moments of different sources that are at the same time, and sort them, the best first.

    A joined moment has the times of its most certain source. Its score is the probability that at least one of its
    sources is right. Exact words come first, so no other source can lower them. A source below the threshold has not
    matched, and adds nothing to another one.

    Args:
        moments: Moments, each of one source.
        threshold: Score from which a moment counts as found.
    """
    by_video: dict[str, list[Moment]] = {}
    for moment in sorted(moments, key=_rank):
        by_video.setdefault(moment.video, []).append(moment)
    return sorted((moment for ranked in by_video.values() for moment in _merge(ranked, threshold)), key=_rank)


def _merge(ranked: Sequence[Moment], threshold: float) -> list[Moment]:
    """Join the moments of one video, given the best first; each is compared only with those near it in time."""
    merged: list[Moment] = []
    first = min(moment.start for moment in ranked)
    step = max((max(moment.end for moment in ranked) - first) / len(ranked), 1e-3)  # seconds of a part of the video
    parts: dict[int, list[int]] = {}  # numbers of the merged moments in each part
    for moment in ranked:
        covered = range(int((moment.start - first) / step), int((moment.end - first) / step) + 1)
        near = sorted({number for part in covered for number in parts.get(part, ())})
        same = next((number for number in near if _is_same(moment, merged[number])), None)
        if same is None:
            if moment.end > moment.start:  # a moment without length is the same as no other
                for part in covered:
                    parts.setdefault(part, []).append(len(merged))
            merged.append(moment)
            continue
        other = merged[same]
        if moment.score < threshold or set(moment.by) <= set(other.by):
            continue
        score = 1 - (1 - other.score) * (1 - moment.score)
        merged[same] = replace(other, score=score, by=(*other.by, *moment.by), text=other.text or moment.text)
    return merged


def _rank(moment: Moment) -> tuple[bool, float, str, float]:
    return (not moment.is_exact, -moment.score, moment.video, moment.start)


def _is_same(one: Moment, other: Moment) -> bool:
    """Return whether two moments of one video are the same."""
    overlap = min(one.end, other.end) - max(one.start, other.start)
    shorter = min(one.end - one.start, other.end - other.start)
    return overlap > 0 and overlap >= _SAME_SHARE * shorter
