"""Constrained against unconstrained answers: number of parsing faults, and tokens per second.

    timechat data draw films60 --clips 1 --seed 31 --split test --minutes 60
    python perf/answer_form.py films60 --windows 24

Every window is asked twice, in turns, so that the load of the machine affects both equally. A fault is a window whose
answer gets a note of the parser (no event, times past the end, missing or surplus scores) or has events out of order.
Prints a table in Markdown.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from timechat import TimeChat
from timechat.files.cache import DiskCache
from timechat.pipeline import DecodingOptions, EncodedVideo, Request
from timechat.synthetic.folder import read_videos

MODES = {"free": DecodingOptions(is_free=True), "constrained": DecodingOptions()}
TASKS = ("dense_caption", "grounding", "highlights", "steps")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of `timechat data draw --minutes`")
    parser.add_argument("--model", default="nano", help="model for TimeChat.from_pretrained")
    parser.add_argument("--windows", type=int, default=24, help="maximum number of windows per folder")
    return parser.parse_args()


def ask(
    timechat: TimeChat, window: EncodedVideo, task: str, query: str, decoding: DecodingOptions
) -> tuple[bool, int, float]:
    """Return whether an answer has a fault, its number of tokens, and its seconds."""
    began = time.perf_counter()
    answer = timechat.run(
        Request(task, None if task in ("dense_caption", "steps") else query, decoding=decoding), window
    )
    seconds = time.perf_counter() - began
    starts = [event.start for event in answer.events]
    has_fault = any("read" in note or "past the end" in note or "score" in note for note in answer.notes)
    return has_fault or starts != sorted(starts), len(timechat.processor.tokenizer(answer.text).input_ids), seconds


def main() -> None:
    """Print the table."""
    options = parse_options()
    torch.set_num_threads(1)
    timechat = TimeChat.from_pretrained(options.model)
    timechat.cache = DiskCache(max_bytes=0)
    print("| videos | task | windows | faults, free | constrained | tokens/s, free | constrained | ratio |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for folder in options.folders:
        films = read_videos(folder, tasks=["grounding"])
        windows = []
        for film in films:
            with timechat.open(film.path) as video:
                wanted = max(1, options.windows // len(films))
                chosen = video.windows[:: max(1, len(video.windows) // wanted)][:wanted]
                queries = [record.query or "" for record in film.records]
                windows += [(one, queries[i % len(queries)]) for i, one in enumerate(video.encode(chosen))]
        for task in TASKS:
            faults, tokens, seconds = Counter(), Counter(), Counter()
            for window, query in windows:
                for name, decoding in MODES.items():
                    fault, count, took = ask(timechat, window, task, query, decoding)
                    faults[name] += fault
                    tokens[name] += count
                    seconds[name] += took
            speed = {name: tokens[name] / seconds[name] for name in MODES}
            print(
                f"| {folder.name} | {task} | {len(windows)} | {faults['free']} | {faults['constrained']} | "
                f"{speed['free']:.0f} | {speed['constrained']:.0f} | {speed['constrained'] / speed['free']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
