"""Conversations of Valley, about videos of VATEX and of Jukin Media."""

from collections.abc import Iterator
from pathlib import Path

from timechat.data.builders.annotation import Annotation, Dropped, ReadContext, read_list
from timechat.data.readers import read_conversation_item
from timechat.errors import located

_ID_LETTERS = 11  # of YouTube, at the start of an id of VATEX


def read_valley(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:
    """Read the published list of `{"v_id", "video", "source", "conversations"}`.

    The original cuts the videos of VATEX; an item is the part of a video that its `v_id` names. Here the record names
    the part of the whole video, unless the folder holds a file that is cut: one whose name is the `v_id`.
    """
    for location, item in read_list(path):
        with located(location):
            record = read_conversation_item(item)
            name = str(item.get("v_id") or "")
            part = None if record.start is None or record.end is None else (record.start, record.end)
        candidates: list[tuple[str, tuple[float, float] | None]] = [(name, None)] if name else []
        candidates += [(record.video, part), (name[:_ID_LETTERS], part)] if part else [(record.video, None)]
        video, part = next(
            ((each, its_part) for each, its_part in candidates if context.videos.find(each)), (record.video, part)
        )
        if any(not answer.strip() for _, answer in record.turns):
            yield Dropped(video, "empty text")
            continue
        yield Annotation(video=video, task="ask", turns=tuple(record.turns), part=part)
