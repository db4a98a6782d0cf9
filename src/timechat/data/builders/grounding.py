"""Queries and their moments: Charades-STA, DiDeMo and HiREST."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    read_json,
    read_lines,
    read_list,
    timed,
)
from timechat.data.builders.answers import write_digits, write_span
from timechat.errors import located

_PIECE_SECONDS = 5  # length of the pieces in which DiDeMo counts


def read_charades(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read `charades_sta_train.txt`, lines of the form `VIDEO START END##SENTENCE`; times keep their digits."""
    for location, line in read_lines(path):
        with located(location):
            place, mark, sentence = line.strip().partition("##")
            words = place.split()
            if not mark or len(words) != 3:
                raise ValueError(f"expected VIDEO START END##SENTENCE, got {line[:80]!r}")
            try:
                start, end = Decimal(words[1]), Decimal(words[2])
            except InvalidOperation as error:
                raise ValueError(f"start and end must be seconds, got {words[1]!r} and {words[2]!r}") from error
        query = sentence.replace("#", "").strip().rstrip(".")
        span = Span(start, end, query)
        yield Annotation(video=f"{words[0]}.mp4", task="grounding", spans=(span,), query=query, write=write_digits)


def read_didemo(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read the published `train_data.json`, or the original's lines `{"clip_name", "caption_list", "timestamps"}`.

    A time is the first and the last piece of five seconds. In the published file, several people gave a time each; the
    one that overlaps most with the others counts.
    """
    for location, item in read_list(path):
        with located(location):
            if "description" in item:
                pieces = [(_agreed(item["times"]), item["description"])]
                video = item["video"]
            else:
                pieces = list(zip(item["timestamps"], item["caption_list"], strict=True))
                video = f"{item['clip_name']}.mp4"
            spans = [
                Span(first * _PIECE_SECONDS, (last + 1) * _PIECE_SECONDS, text.strip())
                for (first, last), text in pieces
            ]
        for span in spans:
            yield Annotation(
                video=video, task="grounding", spans=(span,), query=span.text.rstrip("."), write=write_digits
            )


def read_hirest_grounding(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001
    """Read the raw `all_data_train.json`, or the original's list of `{"image_id", "caption", "timestamp"}`."""
    content = read_json(path)
    if isinstance(content, Mapping):
        for query, video, item in hirest_clips(path, content):
            if isinstance(item, Dropped):
                yield item
                continue
            with located(f"{path}: {query}: {video}"):
                span = timed(item["bounds"], query)
                yield _hirest(video, span, item.get("v_duration"))
        return
    for location, item in read_list(path):
        with located(location):
            yield _hirest(item["image_id"], timed(item["timestamp"], item["caption"]), None)


def hirest_clips(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any] | Dropped]]:
    """Yield the query, the video and the item of all clips in a raw file of HiREST, `{QUERY: {VIDEO: item}}`.

    An item is `{"relevant", "clip", "v_duration", "bounds": [start, end], "steps": [{"heading", "absolute_bounds"}]}`.
    Videos that are not relevant to the query, or that have no clip, are dropped.
    """
    for query, videos in content.items():
        with located(f"{path}: {query}"):
            found: Sequence[tuple[str, Mapping[str, Any]]] = list(videos.items())
        for video, item in found:
            with located(f"{path}: {query}: {video}"):
                if not item["relevant"]:
                    yield query, video, Dropped(video, "not relevant")
                elif not item["clip"] or not item.get("bounds"):
                    yield query, video, Dropped(video, "no clip")
                else:
                    yield query, video, item


def _hirest(video: str, span: Span, duration: float | None) -> Annotation:
    return Annotation(
        video=video, task="grounding", spans=(span,), query=span.text, write=write_span, duration=duration
    )


def _agreed(times: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the time with the greatest overlap (intersection over union) with those of all people, the first of them.

    For equal overlap, the time that more people gave counts.
    """
    if not times:
        raise ValueError("times must hold the first and the last piece of at least one person, got none")
    counts = Counter(tuple(time) for time in times)
    return max(times, key=lambda time: (sum(_overlap(time, other) for other in times), counts[tuple(time)]))


def _overlap(one: Sequence[int], other: Sequence[int]) -> float:
    shared = min(one[1], other[1]) - max(one[0], other[0]) + 1
    return max(0, shared) / (max(one[1], other[1]) - min(one[0], other[0]) + 1)
