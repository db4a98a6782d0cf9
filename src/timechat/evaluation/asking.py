"""Ask a model everything that is asked about drawn films, also with the film blanked or its frames out of order."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from timechat.answers.events import Event, Task
from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import build_question, find_preset, parse_events
from timechat.data.records import Record
from timechat.evaluation.answering import answer_questions
from timechat.evaluation.films import DrawnFilm
from timechat.evaluation.store import AnswerStore
from timechat.model.fingerprint import weights_fingerprint
from timechat.pipeline import EncodedVideo, TimeChat
from timechat.video import Frames, load_frames

Shown = Literal["film", "blank", "shuffled"]
"""What the model is shown: the film, frames without any light, or the film's frames in a random order. The times of
the frames are told rightly in any case."""
Wording = Literal["record", "preset"]
"""Whether a question is asked as the record words it, or as `TimeChat.ground` and the like word it."""
Progress = Callable[[int, int], None]
"""Called with the number of films that are done and of those that there are."""

TASKS = ("grounding", "dense_caption", "highlights", "qa")
CONTROLLED_TASKS = ("grounding",)
CONTROLS: tuple[Shown, ...] = ("blank", "shuffled")
_MAX_NEW_TOKENS = {"grounding": 32, "qa": 48}
_LONGEST_ANSWER = 384


@dataclass(frozen=True, slots=True)
class Asking:
    """How films are asked about.

    Attributes:
        wording: Of the questions.
        preset: Whose system prompt is used, and whose wording with `wording="preset"`.
        batch_size: Most questions of a film that are answered at once.
    """

    wording: Wording = "record"
    preset: str = DEFAULT_PRESET
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.wording not in get_args(Wording):
            raise ValueError(f"wording must be one of {', '.join(get_args(Wording))}, got {self.wording!r}")
        find_preset(self.preset)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 question, got {self.batch_size}")

    def question(self, record: Record) -> str:
        """What the model is asked."""
        if self.wording == "record" or record.task == "qa":
            return record.turns[0][0]
        return build_question(read_task(record), record.query, preset=self.preset)


def read_task(record: Record) -> Task:
    """As which task of the pipeline a record's answer is read."""
    return "ask" if record.task == "qa" else record.task  # type: ignore[return-value]


def read_events(text: str, record: Record, film: DrawnFilm) -> list[Event]:
    """The events that an answer names."""
    return parse_events(text, task=read_task(record), duration=film.duration).events


def open_store(path: Path, timechat: TimeChat, asking: Asking, folder_digest: str) -> AnswerStore:
    """Open the file of answers that this model gives to this folder when asked so.

    Args:
        path: The file.
        timechat: Who answers.
        asking: How it is asked.
        folder_digest: Tells these records from others.
    """
    settings: dict[str, Any] = {"model": timechat.name, "weights": weights_fingerprint(timechat.model)[:16]}
    settings |= {"records": folder_digest, "wording": asking.wording, "preset": asking.preset}
    return AnswerStore(path, settings)


def ask_films(
    timechat: TimeChat,
    films: Sequence[DrawnFilm],
    store: AnswerStore,
    *,
    asking: Asking | None = None,
    controls: bool = False,
    progress: Progress | None = None,
) -> None:
    """Answer all records of the films, greedily; answers that the store has already are not given again.

    Args:
        timechat: Who answers.
        films: What is asked about.
        store: Where the answers go, film by film.
        asking: How it is asked; None takes the records' own wording.
        controls: Whether grounding is asked with blank and with shuffled frames as well.
        progress: Told how far the work is.

    Raises:
        VideoError: A film cannot be read.
    """
    for done, film in enumerate(films):
        if progress is not None:
            progress(done, len(films))
        encoded: EncodedVideo | None = None
        for shown in ("film", *(CONTROLS if controls else ())):
            records = _unanswered(film, store, shown)
            if not records:
                continue
            if encoded is None:
                encoded = timechat.encode(film.path)
            video = encoded if shown == "film" else timechat.encode(_altered(film, encoded, timechat, shown))
            store.add(film.video, shown, _answer(timechat, video, records, asking or Asking()))
    if progress is not None:
        progress(len(films), len(films))


def _unanswered(film: DrawnFilm, store: AnswerStore, shown: Shown) -> list[Record]:
    there = store.get(film.video, shown)
    return [
        record
        for record in film.records
        if record.id not in there and (shown == "film" or record.task in CONTROLLED_TASKS)
    ]


def _altered(film: DrawnFilm, encoded: EncodedVideo, timechat: TimeChat, shown: Shown) -> Frames:
    """The frames that were encoded, with other pixels under the same times."""
    size = timechat.model.config.vision_config.image_size
    frames = load_frames(film.path, timestamps=encoded.timestamps.tolist(), size=size)
    frames = replace(frames, timestamps=encoded.timestamps)
    if shown == "blank":
        return replace(frames, pixels=np.zeros_like(frames.pixels))
    order = np.random.default_rng(zlib.crc32(film.video.encode())).permutation(len(frames))
    return replace(frames, pixels=frames.pixels[order])


def _answer(timechat: TimeChat, video: EncodedVideo, records: Sequence[Record], asking: Asking) -> dict[str, str]:
    """Answer records about one video, those with answers of like length together."""
    by_length: dict[int, list[Record]] = {}
    for record in records:
        by_length.setdefault(_MAX_NEW_TOKENS.get(record.task, _LONGEST_ANSWER), []).append(record)
    answers: dict[str, str] = {}
    for max_new_tokens, alike in by_length.items():
        texts = answer_questions(
            timechat.model,
            timechat.processor,
            video.video_tokens,
            video.timestamps.tolist(),
            [asking.question(record) for record in alike],
            max_new_tokens=max_new_tokens,
            system=find_preset(asking.preset).system,
            batch_size=asking.batch_size,
        )
        answers |= {record.id: text for record, text in zip(alike, texts, strict=True)}
    return answers
