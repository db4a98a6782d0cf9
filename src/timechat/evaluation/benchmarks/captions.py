"""Dense captioning: YouCook2 and ActivityNet Captions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from timechat.errors import located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, coco_rows, read_json
from timechat.evaluation.readers import plain_caption
from timechat.evaluation.samples import Sample

COCO_FILE = "{split}.caption_coco_format.json"
ACTIVITYNET_FILES = (COCO_FILE, "{split}_1.json", "{split}.json")


def read_youcook2(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read YouCook2 in the original's layout: `{"annotations": [{"image_id", "segments", "pure_cap", ...}]}`."""
    for place, row in coco_rows(source.file(COCO_FILE)):
        with located(place):
            sample = _captioned(row["image_id"], row, source)
        yield sample


def read_activitynet(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read ActivityNet Captions: public `{video: {"duration", "timestamps", "sentences"}}`, or the original layout."""
    for place, video, row in activitynet_rows(source):
        with located(place):
            sample = _captioned(video, row, source)
        yield sample


def activitynet_rows(source: BenchmarkFiles) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Videos of ActivityNet Captions with their rows in the original's layout, each with its location for errors."""
    path = source.file(*ACTIVITYNET_FILES)
    content = read_json(path)
    if isinstance(content, Mapping) and "annotations" in content:
        for place, row in coco_rows(path):
            with located(place):
                video = Path(row["image_id"]).name
            yield place, video, row
        return
    with located(str(path)):
        if not isinstance(content, Mapping):
            raise ValueError(f"expected a JSON object of videos, got {type(content).__name__}")
        items = list(content.items())
    for name, item in items:
        with located(f"{path}: {name}"):
            row = {
                "image_id": f"{name}.mp4",
                "duration": item["duration"],
                "segments": item["timestamps"],
                "pure_cap": joined_captions(item["sentences"]),
            }
            if len(item["sentences"]) != len(item["timestamps"]):
                raise ValueError(f"{len(item['sentences'])} sentences for {len(item['timestamps'])} timestamps")
        yield f"{path}: {name}", f"{name}.mp4", row


def joined_captions(sentences: Sequence[str]) -> str:
    """Join sentences into one `pure_cap`.

    Scorers split it at a full stop followed by a space, so full stops of this kind inside a sentence are removed.
    """
    return ". ".join(map(plain_caption, sentences)) + "."


def split_captions(pure_cap: str) -> list[str]:
    """Split a `pure_cap` of `joined_captions` into captions without their full stops."""
    return pure_cap.rstrip(".").split(". ")


def _captioned(video: str, row: Mapping[str, Any], source: BenchmarkFiles) -> Sample:
    return Sample(
        id=Path(video).name,
        video=video,
        task="dense_caption",
        duration=row.get("duration"),
        speech=source.speech(video),
        ground_truth=row,
    )
