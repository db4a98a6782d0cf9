"""Steps of tasks: COIN and HiREST."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    is_object,
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
    for video, item in content["database"].items():
        with located(f"{path}: {video}"):
            if not context.includes(item["subset"]):
                yield Dropped(video, "other split")
                continue
            spans = tuple(timed(each["segment"], _without_mark(each["label"])) for each in item["annotation"])
        yield Annotation(video=video, task="steps", spans=spans, write=write_captions, duration=item.get("duration"))


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
            start, end = item["bounds"]
            spans = tuple(
                Span(
                    each["absolute_bounds"][0] - start,
                    each["absolute_bounds"][1] - start,
                    _without_mark(each["heading"]),
                )
                for each in item["steps"]
            )
        if not spans:
            yield Dropped(video, "no annotation")
            continue
        yield Annotation(
            video=video,
            task="steps",
            spans=spans,
            write=write_captions,
            duration=item.get("v_duration"),
            part=(float(start), float(end)),
        )


def _prepared_steps(path: Path) -> Iterator[Annotation]:
    for location, item in read_list(path):
        with located(location):
            labels = [_without_mark(label) for label in item["labels"]]
            spans = tuple(timed(span, text) for span, text in zip(item["segments"], labels, strict=True))
            video = item.get("video_path") or item["image_id"]
        yield Annotation(video=video, task="steps", spans=spans, write=write_captions)


def _without_mark(text: str) -> str:
    return text.replace("#", "").strip()
