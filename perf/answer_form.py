"""Answers kept in their form against free ones: how many cannot be read as they should, and tokens a second.

    timechat data draw films60 --clips 1 --seed 31 --split test --minutes 60
    python perf/answer_form.py films60 --windows 24

Every window is asked twice, in turns, so that both ways share whatever else the machine does. A fault is a window whose
answer the parser has to say something about: no event, times past the end, scores that are missing or left over; or
events out of order. Prints a table in Markdown.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from timechat import TimeChat
from timechat.cache import DiskCache
from timechat.pipeline import DecodingOptions, EncodedVideo, Request
from timechat.synthetic.folder import read_videos

WAYS = {"free": DecodingOptions(is_free=True), "in form": DecodingOptions()}
TASKS = ("dense_caption", "grounding", "highlights", "steps")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="what `timechat data draw --minutes` has written")
    parser.add_argument("--model", default="nano", help="any model that TimeChat.from_pretrained takes")
    parser.add_argument("--windows", type=int, default=24, help="most windows of a folder, spread over its films")
    return parser.parse_args()


def ask(
    timechat: TimeChat, window: EncodedVideo, task: str, query: str, decoding: DecodingOptions
) -> tuple[bool, int, float]:
    """Whether an answer has a fault, its tokens, and the seconds that it took."""
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
    print("| films | task | windows | faults, free | faults, in form | tokens/s, free | tokens/s, in form | ratio |")
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
                for name, decoding in WAYS.items():
                    fault, count, took = ask(timechat, window, task, query, decoding)
                    faults[name] += fault
                    tokens[name] += count
                    seconds[name] += took
            speed = {name: tokens[name] / seconds[name] for name in WAYS}
            print(
                f"| {folder.name} | {task} | {len(windows)} | {faults['free']} | {faults['in form']} | "
                f"{speed['free']:.0f} | {speed['in form']:.0f} | {speed['in form'] / speed['free']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
