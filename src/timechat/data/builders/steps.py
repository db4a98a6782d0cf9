"""Steps of tasks: COIN and HiREST."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    Time,
    as_clean_text,
    as_list,
    as_object,
    database_items,
    is_object,
    paired,
    read_json,
    read_list,
    timed,
)
from timechat.data.builders.answers import write_captions
from timechat.data.builders.grounding import hirest_clips
from timechat.errors import located


def read_coin(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:
    """Read the published `COIN.json`, or the original's list of `{"video_path", "segments", "labels"}`."""
    content = read_json(path)
    if not is_object(content, "database"):
        yield from _prepared_steps(path)
        return
    for location, video, item in database_items(path, content):
        with located(location):
            if not context.includes(item["subset"]):
                yield Dropped(video, "other split")
                continue
            spans = tuple(
                timed(each["segment"], as_clean_text(each["label"]))
                for each in map(as_object, as_list(item["annotation"]))
            )
            yield Annotation(
                video=video, task="steps", spans=spans, write=write_captions, duration=item.get("duration")
            )


def read_hirest_steps(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read the raw `all_data_train.json`, or the original's list of `{"image_id", "segments", "labels"}`.

    The original cuts a file for each clip of the raw annotations. Here the record names the part of the whole video,
    and its times count from the start of the part, so nothing has to be cut.
    """
    content = read_json(path)
    if not isinstance(content, Mapping):
        yield from _prepared_steps(path)
        return
    for query, video, item in hirest_clips(path, content):
        if isinstance(item, Dropped):
            yield item
            continue
        with located(f"{path}: {query}: {video}"):
            part = timed(item["bounds"], query)
            steps = [as_object(each) for each in as_list(item["steps"])]
            if not steps:
                yield Dropped(video, "no annotation")
                continue
            yield Annotation(
                video=video,
                task="steps",
                spans=tuple(_moved(timed(each["absolute_bounds"], each["heading"]), part.start) for each in steps),
                write=write_captions,
                duration=item.get("v_duration"),
                part=(float(part.start), float(part.end)),
            )


def _moved(span: Span, start: Time) -> Span:
    """Return an event on the clock of a part that starts at `start` seconds."""
    return Span(float(span.start) - float(start), float(span.end) - float(start), as_clean_text(span.text))


def _prepared_steps(path: Path) -> Iterator[Annotation]:
    for location, item in read_list(path):
        with located(location):
            labels = [as_clean_text(label) for label in as_list(item["labels"])]
            pairs = paired(as_list(item["segments"]), labels, "segments", "labels")
            spans = tuple(timed(segment, text) for segment, text in pairs)
            video = item.get("video_path") or item["image_id"]
            yield Annotation(video=video, task="steps", spans=spans, write=write_captions)
