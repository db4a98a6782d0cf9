"""Queries and their moments: Charades-STA, DiDeMo and HiREST."""

import math
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
    as_list,
    as_number,
    as_object,
    as_text,
    paired,
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
                pieces = [(_agreed(as_list(item["times"])), item["description"])]
                video = item["video"]
            else:
                pieces = paired(as_list(item["timestamps"]), as_list(item["caption_list"]), "timestamps", "captions")
                video = f"{as_text(item['clip_name'])}.mp4"
            for piece, text in pieces:
                first, last = _piece(piece)
                query = as_text(text).strip()
                span = Span(first * _PIECE_SECONDS, (last + 1) * _PIECE_SECONDS, query)
                yield Annotation(
                    video=video, task="grounding", spans=(span,), query=query.rstrip("."), write=write_digits
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
                yield _hirest(video, timed(item["bounds"], query), item.get("v_duration"))
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
            as_object(videos)
        for video, item in videos.items():
            with located(f"{path}: {query}: {video}"):
                as_object(item)
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


def _agreed(times: Sequence[Any]) -> Sequence[int]:
    """Return the time with the greatest overlap (intersection over union) with those of all people.

    For equal overlap, the time that more people gave counts, and then the first one.
    """
    if not times:
        raise ValueError("times must hold the first and the last piece of at least one person, got none")
    pieces = [_piece(time) for time in times]
    counts = Counter(pieces)
    return max(pieces, key=lambda piece: (sum(_overlap(piece, other) for other in pieces), counts[piece]))


def _piece(time: Any) -> tuple[int, int]:
    """Return the numbers of the first and the last piece."""
    numbers = [as_number(number) for number in as_list(time)]
    if len(numbers) != 2 or any(number != int(number) for number in numbers if math.isfinite(number)):
        raise ValueError(f"a time must be the numbers of the first and the last piece, got {time!r:.60}")
    return int(numbers[0]), int(numbers[1])


def _overlap(one: Sequence[int], other: Sequence[int]) -> float:
    union = max(one[1], other[1]) - min(one[0], other[0]) + 1
    return max(0, min(one[1], other[1]) - max(one[0], other[0]) + 1) / max(1, union)
