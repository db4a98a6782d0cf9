"""Items of a batch on Ray Data, and the work of the processes that plan, rank and decode them; imports no Ray.

An item is a dict of Arrow columns: `id`, `task` (pickled), `outcome` (JSON) once it is known, and `fatal`, an error of
the model.
"""

import json
import pickle
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from timechat.batch.manifest import Row
from timechat.batch.pieces import PieceTask, RankTask
from timechat.batch.stages import Piece, Stage
from timechat.batch.worker import Outcome, Worker
from timechat.errors import TimeChatError, describe_error

Item = dict[str, Any]


def make_item(
    row_id: str, task: PieceTask | RankTask | None = None, outcome: Outcome | None = None, fatal: str = ""
) -> Item:
    """Make the item of a row or of a piece of it."""
    packed = b"" if task is None else pickle.dumps(task)
    return {"id": row_id, "task": packed, "outcome": json.dumps(asdict(outcome)) if outcome else "", "fatal": fatal}


def plan_row(item: dict[str, Any], stage: Stage[Row], timeout: float, folder: str) -> list[Item]:
    """Split a row into pieces; runs as a task of Ray."""
    row, pieces = Row(**json.loads(item["row"])), [Piece.from_dict(piece) for piece in json.loads(item["pieces"])]
    return _task_items(row.id, _worker(stage, folder).run(row, lambda: pieces, timeout=timeout))


def _task_items(row_id: str, outcome: Outcome) -> list[Item]:
    if outcome.result is None:
        return [make_item(row_id, outcome=outcome)]
    return [make_item(row_id, task) for task in outcome.result["tasks"]]


class RankActor:
    """Chooses the windows of rows in a worker process with the encoder; one actor of the pool."""

    def __init__(self, stage: Stage[RankTask], timeout: float, folder: str) -> None:
        hide_main()
        self._run = partial(Worker(stage, folder).run, timeout=timeout)

    def __call__(self, item: Item) -> list[Item]:
        """Split a row whose windows are to be ranked into pieces; return other items as they are."""
        task = pickle.loads(item["task"]) if item["task"] else None
        if not isinstance(task, RankTask):
            return [item]
        try:
            return _task_items(item["id"], self._run(task))
        except TimeChatError as error:
            return [make_item(item["id"], fatal=describe_error(error))]


def decode_piece(item: Item, stage: Stage[PieceTask], timeout: float, folder: str) -> Item:
    """Add the frames of a piece; runs as a task of Ray."""
    task = pickle.loads(item["task"]) if item["task"] else None
    if task is None or not task.windows:
        return item
    outcome = _worker(stage, folder).run(task, list, timeout=timeout)
    if outcome.result is None:
        return make_item(item["id"], outcome=outcome)
    return make_item(item["id"], replace(task, frames=outcome.result["frames"]))


_workers: dict[str, tuple[bytes, Worker]] = {}  # of this process of Ray, by the type of their stage


def _worker(stage: Stage[Any], folder: str) -> Worker:
    """Return the worker process for a stage, which later tasks in the same process of Ray use too."""
    hide_main()
    name, content = type(stage).__name__, pickle.dumps((stage, folder))
    known, worker = _workers.get(name, (b"", None))
    if worker is None or known != content:
        if worker is not None:
            worker.kill()
        worker = Worker(stage, folder)
        _workers[name] = content, worker
    return worker


def hide_main() -> None:
    """Let worker processes not import the main module of a process of Ray, which imports Ray."""
    main = sys.modules["__main__"]
    if Path(getattr(main, "__file__", None) or "").name == "default_worker.py":
        sys.modules["__main__"] = ModuleType("__main__")
