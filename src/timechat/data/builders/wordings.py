"""Wordings of the questions, and the draw of one of them for each record."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from timechat.answers.presets import PRESETS
from timechat.data.builders.own_wordings import OWN_WORDINGS
from timechat.errors import DataError, located

_PRESET = PRESETS["original-finetuned@1"].prompts
_QUERY = re.compile(r"\{query\}|<query_placeholder>")
_DATASET = re.compile(r"\{dataset\}|<dataset_placeholder>")
_END_WORD = re.compile(r"\bend(?:s|ing)?\b", re.IGNORECASE)
_QUERY_TASKS = ("grounding", "highlights")

_RECORDED = {
    "dense_caption": _PRESET["dense_caption"],
    "grounding": _PRESET["grounding"].replace("{query}", "'{query}'"),
    "highlights": _PRESET["highlights"]
    .replace("the qvhighlights dataset", "the {dataset} dataset")
    .replace("{query}", "'{query}'"),
}
"""Wordings of the original that are recorded: the first lines of its prompt files for fine-tuned checkpoints. Its
training data quotes the query."""

UNRECORDED = ("dense_caption_starts", "highlights_without_query", "steps", "transcribe")
"""Tasks for which no wording of the original is recorded; `original` asks them with the prompts of this package."""

_DENSE_CAPTION_STARTS = (
    "Localize a series of activity events in the video, output the start timestamp for each event, and describe each "
    "event with sentences. The output format of each predicted event should be like: 'start seconds, event "
    "description'. A specific example is : ' 90 seconds, spread margarine on two slices of white bread in the video' ."
)

ORIGINAL_WORDINGS: Mapping[str, tuple[str, ...]] = {
    **{task: (text,) for task, text in _RECORDED.items()},
    "dense_caption_starts": (_DENSE_CAPTION_STARTS,),
    **{task: (_PRESET[task],) for task in UNRECORDED if task in _PRESET},
}


@dataclass(frozen=True)
class Wordings:
    """Wordings of the questions of all tasks.

    Attributes:
        name: `original`, `timechat`, or the path of the file.
        templates: Wordings of each task; a task that is not in it has those under the empty name.
    """

    name: str
    templates: Mapping[str, tuple[str, ...]]

    def question(self, task: str, *, key: str, seed: int, dataset: str, query: str | None, is_moment: bool) -> str:
        """Return the question of a record in a wording that depends on the seed and the record only.

        Args:
            task: Key of the wordings.
            key: Text that identifies the record by its content.
            seed: Random seed of the draw.
            dataset: Name of the data set, for wordings that name it.
            query: Query, for wordings that have a place for it.
            is_moment: Whether the answer is one time; wordings with the word "end" are then left out. If none is
                left, one of this package's wordings for moments is drawn.
        """
        choices: Sequence[str] = self._of(task)
        if is_moment:
            choices = _without_end(choices) or OWN_WORDINGS["grounding_moment"]
        number = int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big")
        return _fill(choices[number % len(choices)], dataset, query)

    def can_ask_moments(self, task: str) -> bool:
        """Return whether a wording of a task is without the word "end", so that one time can be its answer."""
        return bool(_without_end(self._of(task)))

    def _of(self, task: str) -> tuple[str, ...]:
        return self.templates.get(task) or self.templates[""]


def _without_end(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if not _END_WORD.search(text)]


def load_wordings(name: str, *, task: str | None = None) -> Wordings:
    """Return wordings by name, or from a file.

    A file has one wording per line, or is JSON: a list, or an object whose values are wordings, as the prompt files of
    the original are. The place of the query is `{query}`, or `<query_placeholder>`, which is filled with the query in
    single quotes, as the original does; the name of the data set is `{dataset}` or `<dataset_placeholder>`. In the
    original's prompt files for evaluation, `{}` is the query, and the first of two is the data set.

    Args:
        name: `original`, `timechat`, or the path of a file.
        task: Task that the file is for; a task with a query needs a place for it. None does not check this.

    Raises:
        DataError: The file is missing, holds no wording, or a wording has no place for the query.
    """
    if name == "original":
        return Wordings(name, ORIGINAL_WORDINGS)
    if name == "timechat":
        return Wordings(name, OWN_WORDINGS)
    path = Path(name)
    if not path.is_file():
        raise DataError(
            f"{name}: is no wording and no file; give original, timechat, or a file with one wording per line"
        )
    with located(name):
        texts = _read_texts(path)
    texts = tuple(_with_named_places(text) for text in texts)
    if not texts:
        raise DataError(f"{name}: holds no wording; write one per line")
    for number, text in enumerate(texts, 1):
        if task is not None and task not in _QUERY_TASKS and _QUERY.search(text):
            raise DataError(f"{name}: wording {number} has a place for a query, but {task} has no query")
        if task in _QUERY_TASKS and not _QUERY.search(text):
            raise DataError(f"{name}: wording {number} has no place for the query; write {{query}} in it")
    return Wordings(name, {"": texts})


def _read_texts(path: Path) -> tuple[str, ...]:
    content = path.read_text(encoding="utf-8-sig")
    if content.lstrip().startswith(("{", "[")) and (path.suffix == ".json" or _is_json(content)):
        data = json.loads(content)
        values = list(data.values()) if isinstance(data, Mapping) else data
        if any(not isinstance(value, str) for value in values):
            raise ValueError("expected texts, as a list or as the values of an object")
    else:
        values = content.splitlines()
    return tuple(value.strip() for value in values if value.strip())


def _is_json(content: str) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _with_named_places(text: str) -> str:
    """Replace `{}` by the names of the places."""
    count = text.count("{}")
    return text.replace("{}", "{dataset}", 1).replace("{}", "{query}") if count > 1 else text.replace("{}", "{query}")


def _fill(template: str, dataset: str, query: str | None) -> str:
    text = _DATASET.sub(lambda _: dataset, template)
    words = query or ""
    return _QUERY.sub(lambda match: words if match[0] == "{query}" else f"'{words}'", text)
