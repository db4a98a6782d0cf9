"""Make instruction records from annotations of public data sets, with the wording of the original's scripts.

Times are rounded to a tenth of a second. Charades-STA keeps the digits of its annotations, and DiDeMo counts whole
pieces of five seconds, as in the published instructions. Questions have the wording of `timechat.answers.prompts`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.answers.prompts import DEFAULT_PRESET, PRESETS, transcript_text
from timechat.data.readers import as_messages, place_video
from timechat.data.records import Record
from timechat.data.transcripts import find_transcript
from timechat.errors import DataError, located
from timechat.speech import thin_transcript

_MIN_LETTERS = 2
_CLIP_SECONDS = 2.0  # clip length of QVHighlights
_PIECE_SECONDS = 5  # piece length of DiDeMo
_QUERYD_LONGEST = 300.0  # seconds; longer videos of QuerYD are skipped


@dataclass(frozen=True)
class Instruction:
    """One annotated video without the text of its question.

    Attributes:
        video: Path, relative to the video folder of the data set.
        task: Task, as `Preset.question` names it.
        answer: Target answer of the model.
        query: Query, for tasks that have one.
    """

    video: str
    task: str
    answer: str
    query: str | None = None


def build_records(
    dataset: str, annotations: str | Path, *, videos: str | Path, preset: str = DEFAULT_PRESET
) -> tuple[list[Record], list[str]]:
    """Make instruction records from the annotations that a data set publishes.

    Args:
        dataset: Name of the data set, a key of `BUILDERS`.
        annotations: File that the data set publishes; for QuerYD, the folder of its files.
        videos: Folder of its videos.
        preset: Prompt preset for the questions.

    Returns:
        The records, and the annotated videos that are missing. Missing videos have no records.

    Raises:
        DataError: The annotations are missing or malformed.
    """
    if dataset not in BUILDERS:
        raise ValueError(f"dataset must be one of {', '.join(BUILDERS)}, got {dataset!r}")
    path = Path(annotations)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give the annotations of {dataset}")
    with located(str(path)):
        items = list(BUILDERS[dataset](path))
    return _as_records(items, dataset, Path(videos), preset)


def build_speech_records(
    dataset: str, transcripts: str | Path, *, videos: str | Path, preset: str = DEFAULT_PRESET
) -> list[Record]:
    """Make records that ask for the speech of every video in a folder, as for YT-Temporal.

    Args:
        dataset: Name of the data set.
        transcripts: Folder with files `VIDEO_NAME.txt`; a video without a file has no speech.
        videos: Folder of the videos.
        preset: Prompt preset for the questions.
    """
    items = []
    for video in sorted(path for path in Path(videos).iterdir() if path.is_file()):
        speech = find_transcript(Path(transcripts), video.name)
        items.append(Instruction(video.name, "transcribe", transcript_text(thin_transcript(speech, first=1))))
    return _as_records(items, dataset, Path(videos), preset)[0]


def _as_records(
    items: Sequence[Instruction], dataset: str, videos: Path, preset: str
) -> tuple[list[Record], list[str]]:
    """Add the texts of the questions, and skip items without a video."""
    records, missing = [], []
    for number, item in enumerate(items):
        if not (videos / item.video).exists():
            missing.append(item.video)
            continue
        question = PRESETS[preset].question(item.task, item.query)
        records.append(
            Record(
                id=f"{dataset}:{number}",
                video=place_video(item.video, videos),
                messages=as_messages([(question, item.answer)]),
                task=item.task.removesuffix("_without_query"),
                query=item.query,
                source=dataset.partition("/")[0],
            )
        )
    return records, list(dict.fromkeys(missing))


def _coco_captions(path: Path, split: str, key: str) -> Iterator[tuple[str, list[tuple[Any, Any, str]]]]:
    """Yield videos with timed sentences from `{"annotations": [{"image_id", "segments", caption}]}`."""
    for item in _annotations(path):
        sentences = [sentence.replace("#", "").strip() for sentence in item[key].split(split)]
        spans = [(*span, text) for span, text in zip(item["segments"], sentences, strict=False)]
        yield item["image_id"], [span for span in spans if len(span[2]) >= _MIN_LETTERS]


def _youcook2(path: Path) -> Iterator[Instruction]:
    for video, spans in _coco_captions(path, ". ", "pure_cap"):
        yield Instruction(video, "dense_caption", _captions(spans))


def _activitynet(path: Path) -> Iterator[Instruction]:
    for video, spans in _coco_captions(path, ".", "caption"):
        yield Instruction(Path(video).name, "dense_caption", _captions(spans))


def _steps(path: Path) -> Iterator[Instruction]:
    for item in _list(path):
        labels = [label.replace("#", "") for label in item["labels"]]
        spans = [(*span, text) for span, text in zip(item["segments"], labels, strict=True)]
        spans = [span for span in spans if len(span[2]) >= _MIN_LETTERS]
        yield Instruction(item.get("video_path") or item["image_id"], "steps", _captions(spans))


def _captions(spans: Sequence[tuple[Any, Any, str]]) -> str:
    return "  ".join(f"{_tenth(start)} - {_tenth(end)} seconds, {text}." for start, end, text in spans)


def _activitynet_grounding(path: Path) -> Iterator[Instruction]:
    for video, spans in _coco_captions(path, ".", "caption"):
        for start, end, query in spans:
            yield _grounded(Path(video).name, query, f"{_tenth(start)} - {_tenth(end)}")


def _charades(path: Path) -> Iterator[Instruction]:
    """Read lines of the form `VIDEO START END##SENTENCE`."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        with located(f"{path}:{number}"):
            place, _, sentence = line.strip().partition("##")
            if not place:
                continue
            video, start, end = place.split()
        query = sentence.replace("#", "").strip().rstrip(".")
        if len(query) >= _MIN_LETTERS:
            yield _grounded(f"{video}.mp4", query, f"{start} - {end}")


def _didemo(path: Path) -> Iterator[Instruction]:
    """Read lines `{"clip_name", "caption_list", "timestamps"}`; a timestamp is the first and the last piece."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        with located(f"{path}:{number}"):
            item = json.loads(line)
        for query, (first, last) in zip(item["caption_list"], item["timestamps"], strict=True):
            if len(query) >= _MIN_LETTERS:
                span = f"{first * _PIECE_SECONDS} - {(last + 1) * _PIECE_SECONDS}"
                yield _grounded(f"{item['clip_name']}.mp4", query, span)


def _hirest_grounding(path: Path) -> Iterator[Instruction]:
    for item in _list(path):
        start, end = item["timestamp"]
        yield _grounded(item["image_id"], item["caption"], f"{_tenth(start)} - {_tenth(end)}")


def _grounded(video: str, query: str, span: str) -> Instruction:
    return Instruction(video, "grounding", f"The given query happens in {span} seconds.", query)


def _queryd(folder: Path) -> Iterator[tuple[str, list[tuple[Any, Any, str]]]]:
    """Yield videos with timed sentences from the three files of QuerYD; a sentence is a list of words."""
    texts = _json(folder / "raw_captions_combined_filtered.json")
    times = _json(folder / "times_captions_combined_filtered.json")
    for video in (folder / "exists_train_list.txt").read_text(encoding="utf-8").split():
        spans = [(*span, " ".join(words)) for span, words in zip(times[video], texts[video], strict=True)]
        if max(end for _, end, _ in spans) <= _QUERYD_LONGEST:
            yield video, spans


def _queryd_captions(folder: Path) -> Iterator[Instruction]:
    for video, spans in _queryd(folder):
        yield Instruction(video, "dense_caption", _captions(spans))


def _queryd_grounding(folder: Path) -> Iterator[Instruction]:
    for video, spans in _queryd(folder):
        for start, end, text in spans:
            first, last = _tenth(start), _tenth(end)
            yield _grounded(video, text.rstrip("."), first if first == last else f"{first} - {last}")


def _qvhighlights(path: Path) -> Iterator[Instruction]:
    """Read the published JSON Lines `{"vid", "query", ...}`, or a file `{"annotations": [...]}` with the same items."""
    if path.suffix == ".jsonl":
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        items = _annotations(path)
    for item in items:
        times = ", ".join(str(clip * _CLIP_SECONDS) for clip in item["relevant_clip_ids"])
        scores = ", ".join(_tenth(sum(votes) / len(votes)) for votes in item["saliency_scores"])
        yield Instruction(
            item.get("image_id") or f"{item['vid']}.mp4",
            "highlights",
            f"There are {len(item['relevant_clip_ids'])} highlight moments in the {times} second. "
            f"Their saliency scores are {scores}.",
            item.get("caption") or item["query"],
        )


def _summaries(path: Path) -> Iterator[Instruction]:
    """Read SumMe and TVSum; scores from 0 to 1 become scores from 1 to 5, and whole seconds have no decimals."""
    for item in _annotations(path):
        times = ", ".join(str(round(time, 1)) for time in item["timestamps"])
        scores = ", ".join(_tenth(score * 4 + 1) for score in item["scores"])
        answer = f"The highlight timestamps are in the {times} seconds. Their saliency scores are {scores}."
        yield Instruction(item["image_id"], "highlights_without_query", answer)


def _tenth(value: float) -> str:
    return str(round(float(value), 1))


def _json(path: Path) -> Any:
    with located(str(path)):
        return json.loads(path.read_text(encoding="utf-8"))


def _list(path: Path) -> list[Mapping[str, Any]]:
    items = _json(path)
    with located(str(path)):
        if not isinstance(items, list):
            raise ValueError(f"expected a JSON list, got {type(items).__name__}")
    return items


def _annotations(path: Path) -> list[Mapping[str, Any]]:
    content = _json(path)
    with located(str(path)):
        if not isinstance(content, Mapping) or not isinstance(content.get("annotations"), list):
            raise ValueError('expected {"annotations": [...]}')
    return content["annotations"]  # type: ignore[no-any-return]


BUILDERS: dict[str, Callable[[Path], Iterator[Instruction]]] = {
    "youcook2": _youcook2,
    "anet": _activitynet,
    "anet/grounding": _activitynet_grounding,
    "queryd": _queryd_captions,
    "queryd/grounding": _queryd_grounding,
    "charades": _charades,
    "didemo": _didemo,
    "hirest/grounding": _hirest_grounding,
    "hirest/steps": _steps,
    "coin": _steps,
    "qvhighlights": _qvhighlights,
    "summe": _summaries,
    "tvsum": _summaries,
}
