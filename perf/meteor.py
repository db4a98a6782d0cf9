"""Scoring of dense captions: one open METEOR process with a cache of pairs, against one process per call.

    python perf/meteor.py PRED GT [--calls 6]

PRED and GT are a prediction file and its ground truth, as for `timechat score --task dvc`. Everything is scored once as
`timechat score` does. A scorer with one process per call makes one call per video and IoU threshold for METEOR, and one
per video for SODA_c. Some of these calls, spread evenly, are timed; the total is their mean times the number of calls.
"""

import argparse
import time
from pathlib import Path

from timechat.evaluation.metrics.captioning import THRESHOLDS, caption_iou
from timechat.evaluation.metrics.java import MeteorProcess, tokenize_ptb
from timechat.evaluation.readers import InputIssues, read_caption_ground_truth, read_caption_predictions
from timechat.evaluation.score import score_files

Pairs = list[tuple[str, str]]


def calls_of(predictions: Path, truth_file: Path) -> list[Pairs]:
    """Return the (hypothesis, reference) pairs of every call, without pairs with a random word."""
    truth = read_caption_ground_truth(truth_file, InputIssues())
    predicted = read_caption_predictions(predictions, InputIssues())
    videos = [(right, predicted[video]) for video, right in truth.items() if video in predicted]
    words = iter(tokenize_ptb([caption for pair in videos for one in pair for caption in one.captions]))
    calls: list[Pairs] = []
    for right, answered in videos:
        references = [next(words) for _ in right.captions]
        hypotheses = [next(words) for _ in answered.captions]
        iou = caption_iou(right.spans, answered.spans)
        for threshold in THRESHOLDS:
            calls.append([(hypotheses[j], references[i]) for i, j in zip(*(iou >= threshold).nonzero(), strict=True)])
        calls.append([(references[i], hypotheses[j]) for i, j in zip(*(iou > 0).nonzero(), strict=True)])
    return [pairs for pairs in calls if pairs]


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--calls", type=int, default=6, help="number of timed calls with a separate process")
    options = parser.parse_args()
    begun = time.perf_counter()
    scores = score_files(options.predictions, options.truth, "dvc", resamples=100)
    kept_open = time.perf_counter() - begun
    calls = calls_of(options.predictions, options.truth)
    chosen = calls[:: max(1, len(calls) // options.calls)][: options.calls]
    begun = time.perf_counter()
    for pairs in chosen:
        with MeteorProcess() as meteor:
            meteor.statistics(pairs)
    each = (time.perf_counter() - begun) / len(chosen)
    alone = each * len(calls)
    print(f"{scores.n_queries} videos, {len(calls)} calls with {sum(map(len, calls))} pairs")
    print(f"one open process, everything scored: {kept_open:.1f} s")
    print(f"one process per call: {each:.2f} s per call, mean of {len(chosen)}; {alone / 60:.0f} min for all calls")
    print(f"ratio: {alone / kept_open:.0f}")


if __name__ == "__main__":
    main()
