"""Measure retrieval before grounding: nano on long synthetic videos, all windows against the best ones.

    timechat data draw videos10 --clips 3 --seed 31 --split test --minutes 10
    timechat data draw videos60 --clips 1 --seed 31 --split test --minutes 60
    python perf/retrieval.py videos10 --questions 20
    python perf/retrieval.py videos60 --questions 20 --ways read

Ways: `all` reads every window; `read` reads the share `--read` that an encoder ranks first; `search` is the span of the
encoder without the model. Encoders: `sight`, and the tokens of nano itself (`perf/nano_encoder.py`), which know shapes.

Columns: R@1 at IoU 0.3 and 0.5 and mean IoU of the best moment, whatever its score, against any right one; the share of
queries for which a window that was read holds at least half of a right moment (held); the share of the video that was
read; and CPU seconds for the first question about a video (decoding, encoding and ranking included, without a cache)
and for each further one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.nano_encoder import NanoEncoder

from timechat import Answer, Event, TimeChat
from timechat.answers.merging import MomentSelection
from timechat.answers.windows import Window, temporal_iou
from timechat.files.cache import DiskCache
from timechat.pipeline import Request, VideoSession
from timechat.pipeline.retrieving import frame_vectors, windows_to_read
from timechat.search.encoder import FrameTextEncoder, load_encoder
from timechat.search.retrieval import RetrievalConfig
from timechat.search.video_vectors import find_spans

WAYS = ("all", "read", "search")
ENCODERS = ("sight", "nano")
_BEST = MomentSelection(threshold=0.0)


@dataclass(frozen=True)
class Question:
    """A query and its right moments."""

    query: str
    moments: tuple[Event, ...]


@dataclass(frozen=True)
class Result:
    """The result of one question."""

    iou: float
    is_held: bool
    share: float
    seconds: float
    is_first: bool


def main() -> None:
    """Measure each way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of `timechat data draw --minutes`")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--read", type=float, default=0.1, help="share of the video to read")
    parser.add_argument("--questions", type=int, default=20, help="number of questions about each video")
    parser.add_argument("--videos", type=int, help="maximum number of videos of each folder")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    timechat = TimeChat.from_pretrained("nano", device="cpu")
    timechat.cache = DiskCache(max_bytes=0)
    encoders: dict[str, FrameTextEncoder] = {}
    if {"read", "search"} & set(args.ways):
        made = {"sight": load_encoder, "nano": lambda: NanoEncoder(timechat)}
        encoders = {name: made[name]() for name in args.encoders}
    rows: dict[str, dict[str, float]] = {}
    for folder in args.folders:
        videos = dict(list(read_questions(folder, args.questions).items())[: args.videos])
        for way in args.ways:
            for name, encoder in encoders.items() if way in ("read", "search") else [("", None)]:
                title = f"{folder.name}, {way} {name}".rstrip()
                found = [
                    one for path, asked in videos.items() for one in ask(timechat, path, asked, way, encoder, args.read)
                ]
                rows[title] = summary(found)
                print(row_text(title, rows[title]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read_questions(folder: Path, per_video: int) -> dict[Path, list[Question]]:
    """Return questions about events that happen, drawn for each video of a folder."""
    found: dict[Path, list[Question]] = {}
    for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        if record["task"] == "grounding" and record["events"]:
            moments = tuple(Event(event["start"], event["end"]) for event in record["events"])
            found.setdefault(folder / record["video"], []).append(Question(record["query"], moments))
    return {path: random.Random(path.name).sample(all_, min(per_video, len(all_))) for path, all_ in found.items()}


def ask(
    timechat: TimeChat,
    path: Path,
    questions: Sequence[Question],
    way: str,
    encoder: FrameTextEncoder | None,
    read: float,
) -> list[Result]:
    """Ask all questions about a video in one way; the first one includes opening the video."""
    results = []
    began = time.process_time()
    with timechat.open(path) as session:
        if isinstance(encoder, NanoEncoder):
            session.vectors[encoder.fingerprint] = encoder.encode_file(str(path))
        for i, question in enumerate(questions):
            answer, windows = answer_in(timechat, session, question.query, way, encoder, read)
            seconds = time.process_time() - began
            best = max(
                (temporal_iou(event, right) for event in answer.events[:1] for right in question.moments), default=0.0
            )
            held = any(holds(window, right) for window in windows for right in question.moments)
            results.append(Result(best, held, answer.read_share, seconds, i == 0))
            began = time.process_time()
    return results


def answer_in(
    timechat: TimeChat, session: VideoSession, query: str, way: str, encoder: FrameTextEncoder | None, read: float
) -> tuple[Answer, Sequence[Window]]:
    """Answer in one way; also the windows that were read."""
    if way == "all" or encoder is None:
        return timechat.run(Request("grounding", query, moments=_BEST), session), session.windows
    if way == "search":
        vectors = frame_vectors(session, encoder, timechat.backbone.check)
        span = find_spans(vectors, encoder, encoder.encode_sentence(query))[0]
        return Answer("", [Event(span.start, span.end)], task="grounding"), session.windows
    request = Request("grounding", query, moments=_BEST, retrieval=RetrievalConfig(read, encoder=encoder))
    return timechat.run(request, session), windows_to_read(request, session, timechat.backbone.check).windows


def holds(window: Window, moment: Event) -> bool:
    """Whether a window holds at least half of a moment."""
    return 2 * (min(window.end, moment.end) - max(window.start, moment.start)) >= moment.duration


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Return the metrics of the results of one way."""
    ious = np.array([one.iou for one in results])
    rest = [one.seconds for one in results if not one.is_first]
    return {
        "n": len(results),
        "r1_iou_0.3": float((ious >= 0.3).mean()),
        "r1_iou_0.5": float((ious >= 0.5).mean()),
        "miou": float(ious.mean()),
        "held": float(np.mean([one.is_held for one in results])),
        "read_share": float(np.mean([one.share for one in results])),
        "first_seconds": float(np.mean([one.seconds for one in results if one.is_first])),
        "further_seconds": float(np.mean(rest)) if rest else 0.0,
    }


def row_text(title: str, row: dict[str, float]) -> str:
    """Return a row of the table in Markdown."""
    numbers = [f"{row[name]:.3f}" for name in ("r1_iou_0.3", "r1_iou_0.5", "miou", "held", "read_share")]
    seconds = [f"{row[name]:.1f}" for name in ("first_seconds", "further_seconds")]
    return f"| {title} | {' | '.join([*numbers, *seconds, str(int(row['n']))])} |"


if __name__ == "__main__":
    main()
