"""Dense captions: YouCook2, ActivityNet Captions, ViTT and QuerYD."""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    as_clean_text,
    as_list,
    as_number,
    as_object,
    as_text,
    coco_items,
    database_items,
    is_object,
    paired,
    read_json,
    read_lines,
    read_list,
    timed,
)
from timechat.data.builders.answers import write_captions, write_moment, write_span, write_starts
from timechat.errors import DataError, located

_QUERYD_LONGEST = 300.0  # seconds; the original leaves out longer videos of QuerYD
_VITT_IDS = "id_mapping.json"  # from ids of YouTube-8M to ids of YouTube, beside the annotations


@dataclass(frozen=True, slots=True)
class _Captions:
    """Timed sentences of one video.

    Attributes:
        location: Location in the file, for messages.
        video: Name of the video.
        spans: Sentences.
        duration: Length of the video in seconds, if it is stated.
    """

    location: str
    video: str
    spans: tuple[Span, ...]
    duration: float | None = None


def read_youcook2(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:
    """Read `youcookii_annotations_trainval.json`, or the original's `train.caption_coco_format.json`."""
    content = read_json(path)
    if not is_object(content, "database"):
        for captions in _coco_captions(path, ". ", "pure_cap", is_clean=True):
            yield captions if isinstance(captions, Dropped) else _dense(captions)
        return
    for location, video, item in database_items(path, content):
        with located(location):
            if not context.includes(item["subset"]):
                yield Dropped(video, "other split")
                continue
            spans = tuple(
                timed(each["segment"], as_clean_text(each["sentence"]).rstrip("."))
                for each in map(as_object, as_list(item["annotations"]))
            )
            yield _dense(_Captions(location, video, spans, item.get("duration")))


def read_activitynet(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read dense captions from `train.json` of ActivityNet Captions, or from the original's coco format."""
    for captions in _activitynet(path, is_clean=False):
        yield captions if isinstance(captions, Dropped) else _dense(captions)


def read_activitynet_grounding(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001
    """Read queries from the same files as `read_activitynet`."""
    for captions in _activitynet(path, is_clean=True):
        if isinstance(captions, Dropped):
            yield captions
            continue
        with located(captions.location):
            for span in captions.spans:
                yield Annotation(
                    video=captions.video,
                    task="grounding",
                    spans=(span,),
                    query=span.text,
                    write=write_span,
                    duration=captions.duration,
                )


def read_vitt(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read `ViTT-annotations.json` with one video per line, or the original's `train.json`; both have starts only."""
    mapping = path.with_name(_VITT_IDS)
    ids = read_json(mapping) if mapping.is_file() else {}
    with located(str(mapping)):
        as_object(ids)
    for location, item in read_list(path):
        with located(location):
            if "annotations" in item:
                found = as_text(item["id"])
                video = as_text(ids.get(found, found))
                tags = [as_object(each) for each in as_list(item["annotations"])]
                starts = [(as_number(each["timestamp"]) / 1000, each["tag"]) for each in tags]
            else:
                video = item["vid"]
                segments = [each[0] if isinstance(each, list) and each else each for each in as_list(item["segments"])]
                times = [as_number(each) for each in segments]
                starts = paired(times, as_list(item["captions"]), "segments", "captions")
            spans = tuple(Span(start, start, as_clean_text(text)) for start, text in starts)
            yield Annotation(
                video=video, task="dense_caption_starts", spans=spans, write=write_starts, has_moments=True
            )


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


def _dense(captions: _Captions) -> Annotation:
    with located(captions.location):
        return Annotation(
            video=captions.video,
            task="dense_caption",
            spans=captions.spans,
            write=write_captions,
            duration=captions.duration,
        )


def _activitynet(path: Path, *, is_clean: bool) -> Iterator[_Captions | Dropped]:
    content = read_json(path)
    if is_object(content, "annotations"):
        for captions in _coco_captions(path, ".", "caption", is_clean=is_clean):
            yield replace(captions, video=captions.video.rsplit("/", 1)[-1])
        return
    with located(str(path)):
        if not isinstance(content, Mapping):
            raise ValueError('expected {"v_ID": {"duration", "timestamps", "sentences"}}')
    for video, item in content.items():
        with located(f"{path}: {video}"):
            texts = [as_text(text).strip().rstrip(".") for text in as_list(as_object(item)["sentences"])]
            spans = tuple(
                timed(segment, as_clean_text(text) if is_clean else text)
                for segment, text in paired(as_list(item["timestamps"]), texts, "timestamps", "sentences")
            )
            yield _Captions(f"{path}: {video}", video, spans, item.get("duration"))


def _coco_captions(path: Path, split: str, key: str, *, is_clean: bool) -> Iterator[_Captions | Dropped]:
    """Yield videos with timed sentences from `{"annotations": [{"image_id", "segments", caption}]}`.

    All sentences of a video are one text, which `split` divides. Empty texts without a segment, such as that after the
    last full stop, are no sentences. A segment without a sentence has an empty text, so that it is counted.
    """
    for location, item in coco_items(path):
        with located(location):
            parts = as_text(item[key]).rstrip(". ").split(split)
            texts = [as_clean_text(text) if is_clean else text.strip() for text in parts]
            segments = as_list(item["segments"])
            video = as_text(item["image_id"])
            if any(texts[len(segments) :]):
                yield Dropped(video, "more sentences than times")
                continue
            texts += [""] * (len(segments) - len(texts))
            spans = tuple(timed(segment, text) for segment, text in zip(segments, texts, strict=False))
            yield _Captions(location, video, spans, item.get("duration"))


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
                timed(segment, " ".join(map(as_text, as_list(words))).strip())
                for segment, words in paired(as_list(times[video]), as_list(texts[video]), "times", "captions")
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
