"""Dense captions: YouCook2, ActivityNet Captions, ViTT and QuerYD."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    coco_items,
    is_object,
    read_json,
    read_lines,
    read_list,
    timed,
)
from timechat.data.builders.answers import write_captions, write_moment, write_span, write_starts
from timechat.errors import DataError, located

_QUERYD_LONGEST = 300.0  # seconds; the original leaves out longer videos of QuerYD
_VITT_IDS = "id_mapping.json"  # from ids of YouTube-8M to ids of YouTube, beside the annotations


def read_youcook2(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:
    """Read `youcookii_annotations_trainval.json`, or the original's `train.caption_coco_format.json`."""
    content = read_json(path)
    if not is_object(content, "database"):
        for video, spans in _coco_captions(path, ". ", "pure_cap", is_clean=True):
            yield Annotation(video=video, task="dense_caption", spans=spans, write=write_captions)
        return
    for video, item in content["database"].items():
        with located(f"{path}: {video}"):
            if not context.includes(item["subset"]):
                yield Dropped(video, "other split")
                continue
            spans = tuple(
                timed(each["segment"], _without_mark(each["sentence"]).rstrip(".")) for each in item["annotations"]
            )
            yield Annotation(
                video=video, task="dense_caption", spans=spans, write=write_captions, duration=item.get("duration")
            )


def read_activitynet(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read dense captions from `train.json` of ActivityNet Captions, or from the original's coco format."""
    for video, spans, duration in _activitynet(path, is_clean=False):
        yield Annotation(video=video, task="dense_caption", spans=spans, write=write_captions, duration=duration)


def read_activitynet_grounding(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001
    """Read queries from the same files as `read_activitynet`."""
    for video, spans, duration in _activitynet(path, is_clean=True):
        for span in spans:
            yield Annotation(
                video=video, task="grounding", spans=(span,), query=span.text, write=write_span, duration=duration
            )


def read_vitt(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read `ViTT-annotations.json` with one video per line, or the original's `train.json`; both have starts only."""
    mapping = path.with_name(_VITT_IDS)
    ids: Mapping[str, str] = read_json(mapping) if mapping.is_file() else {}
    for location, item in read_list(path):
        with located(location):
            if "annotations" in item:
                video = str(ids.get(item["id"], item["id"]))
                starts = [(each["timestamp"] / 1000, each["tag"]) for each in item["annotations"]]
            else:
                video = item["vid"]
                segments = [each[0] if isinstance(each, list) else each for each in item["segments"]]
                starts = list(zip(segments, item["captions"], strict=True))
            spans = tuple(Span(start, start, _without_mark(text)) for start, text in starts)
        yield Annotation(video=video, task="dense_caption_starts", spans=spans, write=write_starts, has_moments=True)


def read_queryd(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read the audio descriptions of QuerYD as dense captions; see `_queryd`."""
    for found in _queryd(path):
        if isinstance(found, Dropped):
            yield found
        else:
            video, spans = found
            yield Annotation(video=video, task="dense_caption", spans=spans, write=write_captions, has_moments=True)


def read_queryd_grounding(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001
    """Read the audio descriptions of QuerYD as queries; a moment has a time instead of start and end."""
    for found in _queryd(path):
        if isinstance(found, Dropped):
            yield found
            continue
        video, spans = found
        for span in spans:
            yield Annotation(
                video=video,
                task="grounding",
                spans=(span,),
                query=span.text.rstrip("."),
                write=write_moment,
                has_moments=True,
            )


def _activitynet(path: Path, *, is_clean: bool) -> Iterator[tuple[str, tuple[Span, ...], float | None]]:
    content = read_json(path)
    if is_object(content, "annotations"):
        for video, spans in _coco_captions(path, ".", "caption", is_clean=is_clean):
            yield Path(video).name, spans, None
        return
    with located(str(path)):
        if not isinstance(content, Mapping):
            raise ValueError('expected {"v_ID": {"duration", "timestamps", "sentences"}}')
    for video, item in content.items():
        with located(f"{path}: {video}"):
            texts = [text.strip().rstrip(".") for text in item["sentences"]]
            spans = tuple(
                timed(segment, _without_mark(text) if is_clean else text)
                for segment, text in zip(item["timestamps"], texts, strict=True)
            )
            duration = item.get("duration")
        yield video, spans, duration


def _coco_captions(path: Path, split: str, key: str, *, is_clean: bool) -> Iterator[tuple[str, tuple[Span, ...]]]:
    """Yield videos with timed sentences from `{"annotations": [{"image_id", "segments", caption}]}`.

    All sentences of a video are one text, which `split` divides. Parts without a segment, such as the empty text after
    the last full stop, are no sentences.
    """
    for number, item in enumerate(coco_items(path)):
        with located(f"{path}: item {number}"):
            texts = [_without_mark(text) if is_clean else text.strip() for text in item[key].split(split)]
            spans = tuple(timed(segment, text) for segment, text in zip(item["segments"], texts, strict=False))
            yield item["image_id"], spans


def _queryd(folder: Path) -> Iterator[tuple[str, tuple[Span, ...]] | Dropped]:
    """Yield videos with timed sentences from the files of QuerYD in a folder; a sentence is a list of words."""
    texts = _queryd_file(folder, "raw_captions_combined_filtered")
    times = _queryd_file(folder, "times_captions_combined_filtered")
    lists = [folder / name for name in ("exists_train_list.txt", "train_list.txt") if (folder / name).is_file()]
    if not lists:
        raise DataError(f"{folder}: holds no exists_train_list.txt and no train_list.txt; give the folder of QuerYD")
    for _, line in read_lines(lists[0]):
        video = line.strip()
        if video not in texts or video not in times:
            yield Dropped(video, "no annotation")
            continue
        with located(f"{folder}: {video}"):
            spans = tuple(
                timed(list(segment), " ".join(words).strip())
                for segment, words in zip(times[video], texts[video], strict=True)
            )
        if max((float(span.end) for span in spans), default=0.0) > _QUERYD_LONGEST:
            yield Dropped(video, "longer than 300 s")
        else:
            yield video, spans


def _queryd_file(folder: Path, stem: str) -> Mapping[str, Any]:
    """Read a file of QuerYD: the published pickle, or the same as JSON; a version may end its name."""
    found = sorted(file for file in folder.glob(f"{stem}*") if file.suffix in (".json", ".pkl"))
    if not found:
        raise DataError(f"{folder}: holds no {stem}.json and no {stem}.pkl; give the folder of QuerYD")
    path = found[0]
    if path.suffix == ".json":
        content = read_json(path)
    else:
        with path.open("rb") as file:
            try:
                content = _PlainUnpickler(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, IndexError) as error:
                raise DataError(f"{path}: is not a pickle of plain lists: {error}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected the captions by video, got {type(content).__name__}")
    return content


class _PlainUnpickler(pickle.Unpickler):
    """A reader of pickles that hold dicts, lists, numbers and texts only; it runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not opened; convert the file to JSON")


def _without_mark(text: str) -> str:
    return text.replace("#", "").strip()
