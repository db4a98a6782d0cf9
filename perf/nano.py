"""Quality of a model on synthetic videos that it has never seen, compared with baselines.

    timechat data draw films --clips 500 --seed 1 --split test
    python perf/nano.py films --controls --json nano.json

prints tables in Markdown. A stopped run resumes where it stopped: raw answers are stored after every video.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from timechat import TimeChat
from timechat.errors import TimeChatError
from timechat.evaluation.asking import TASKS, Asking, ask_films, open_store
from timechat.evaluation.drawn import report_drawn
from timechat.evaluation.films import RECORDS_FILE, read_films
from timechat.files import atomic_write
from timechat.model.fingerprint import weights_fingerprint


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of `timechat data draw`")
    parser.add_argument("--model", default="nano", help="model for TimeChat.from_pretrained")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="number of videos, from the first on")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--wording", choices=("record", "preset"), default="record", help="wording of the questions")
    parser.add_argument("--controls", action="store_true", help="ground blank and shuffled frames too")
    parser.add_argument("--json", type=Path, help="output file for the metrics")
    parser.add_argument("--answers", type=Path, help="file of raw answers; by default one per model in the folder")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit must be at least 1 video, got {options.limit}")
    return options


def show_progress(begun: float, done: int, total: int) -> None:
    seconds = time.perf_counter() - begun
    left = f", {seconds / done * (total - done):.0f} s to go" if done else ""
    print(f"\r{done} of {total} films{left}    ", end="" if done < total else "\n", file=sys.stderr, flush=True)


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def evaluate(options: argparse.Namespace) -> None:
    films = read_films(options.folder, tasks=options.tasks, limit=options.limit)
    timechat = TimeChat.from_pretrained(options.model, device=options.device)
    weights = weights_fingerprint(timechat.model)[:16]
    asking = Asking(wording=options.wording)
    digest = hashlib.sha256((options.folder / RECORDS_FILE).read_bytes()).hexdigest()[:16]
    name = f"{Path(options.model).name}-{weights[:8]}-{options.wording}.jsonl"
    store = open_store(options.answers or options.folder / "answers" / name, timechat, asking, digest)
    begun = time.perf_counter()
    ask_films(
        timechat,
        films,
        store,
        asking=asking,
        controls=options.controls,
        progress=lambda done, total: show_progress(begun, done, total),
    )
    facts = {"model": options.model, "weights": weights, "records": digest, "wording": options.wording}
    heading = f"{options.model} ({weights[:8]}) on {len(films)} films of level {films[0].level}, greedy"
    report = report_drawn(films, store, heading=heading, facts=facts)
    print(report.to_markdown())
    if options.json:
        write_json(options.json, report.to_dict())


def main() -> None:
    """Evaluate and print the tables."""
    try:
        evaluate(parse_options())
    except (TimeChatError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
