"""Highlights of a query: QVHighlights."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timechat.data.builders.annotation import Annotation, Dropped, ReadContext, Span, coco_items, read_rows
from timechat.data.builders.answers import write_highlights
from timechat.errors import located

_CLIP_SECONDS = 2.0


def read_qvhighlights(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read the published `highlight_train_release.jsonl`, or the original's coco format with the same keys.

    The time of a highlight is the start of its clip of two seconds, its score the mean of the votes.
    """
    for location, item in _items(path):
        with located(location):
            video = item.get("image_id") or f"{item['vid']}.mp4"
            if "relevant_clip_ids" not in item:  # the test split has none
                yield Dropped(video, "no annotation")
                continue
            spans = tuple(
                Span(clip * _CLIP_SECONDS, clip * _CLIP_SECONDS, saliency=sum(votes) / len(votes))
                for clip, votes in zip(item["relevant_clip_ids"], item["saliency_scores"], strict=True)
            )
            query = item.get("caption") or item["query"]
        yield Annotation(
            video=video,
            task="highlights",
            spans=spans,
            query=query.strip().rstrip("."),
            write=write_highlights,
            duration=item.get("duration"),
            has_moments=True,
        )


def _items(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix == ".json":
        yield from ((f"{path}: item {number}", item) for number, item in enumerate(coco_items(path)))
    else:
        yield from read_rows(path)
