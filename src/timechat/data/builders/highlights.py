"""Highlights of a query: QVHighlights."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    as_list,
    as_number,
    as_text,
    coco_items,
    is_one_object,
    paired,
    read_rows,
)
from timechat.data.builders.answers import write_highlights
from timechat.errors import located

_CLIP_SECONDS = 2.0


def read_qvhighlights(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read the published `highlight_train_release.jsonl`, or the original's coco format with the same keys.

    The time of a highlight is the start of its clip of two seconds, its score the mean of the votes.
    """
    for location, item in _items(path):
        with located(location):
            video = item.get("image_id") or f"{as_text(item['vid'])}.mp4"
            if "relevant_clip_ids" not in item:  # the test split has none
                yield Dropped(as_text(video), "no annotation")
                continue
            clips = [as_number(clip) * _CLIP_SECONDS for clip in as_list(item["relevant_clip_ids"])]
            votes = [[as_number(vote) for vote in as_list(each)] for each in as_list(item["saliency_scores"])]
            if not all(votes):
                raise ValueError("a clip must have at least one saliency score, got none")
            query = as_text(item.get("caption") or item["query"])
            yield Annotation(
                video=video,
                task="highlights",
                spans=tuple(
                    Span(time, time, saliency=sum(each) / len(each))
                    for time, each in paired(clips, votes, "relevant clips", "lists of scores")
                ),
                query=query.strip().rstrip("."),
                write=write_highlights,
                duration=item.get("duration"),
                has_moments=True,
            )


def _items(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_one_object(path, "annotations"):
        yield from coco_items(path)
    else:
        yield from read_rows(path)
