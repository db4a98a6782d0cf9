"""Measure a frame-text encoder: moments in joined clips, whether a sentence happens at all, and time.

    python perf/search.py ../shared/inputs/search/sentences.json perf/search_sentences.json --videos ../shared/videos
    python perf/search.py SENTENCES.json --videos FOLDER --encoder google/siglip2-base-patch16-224 --json search.json

A file of sentences has the keys `clips` (names of files in the folder) and `sentences` (clip -> sentences). The clips
are decoded at `--fps` frames per second and encoded once. Their vectors are joined in the order of the file and in
random orders, as if the clips were one video. The right moment of a sentence is the part of its clip.

Columns: the share of spans whose middle is inside the moment (inside), R@1 at IoU 0.3, 0.5 and 0.7, and mean IoU.
Beside the encoder: a random span, and a random shot of those that the encoder's cuts give.

`found` compares each sentence with each clip alone. AUROC is the probability that a right pair has a higher
`probability` than a wrong one. Sentences of other clips count as wrong even where they happen to be true. Nonsense
words are wrong for all clips.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from timechat.search.encoder import BUILT_IN, FrameTextEncoder, load_encoder
from timechat.search.spans import best_spans, find_cuts
from timechat.video import load_frames

THRESHOLDS = (0.3, 0.5, 0.7)
RANDOM_SPANS = 200
NONSENSE = (
    "blorf gnix tralup",
    "xqzv wplk",
    "asdf qwer zxcv",
    "florbit snarkle vump",
    "zzkrt mbleh",
    "grobulent fiznar",
)


@dataclass(frozen=True)
class Clip:
    """An encoded clip: `(frames, dimension)` vectors, times and duration in seconds."""

    vectors: np.ndarray
    times: np.ndarray
    duration: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", nargs="+", type=Path, help="JSON files of clips and sentences")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--encoder", default=BUILT_IN)
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second")
    parser.add_argument("--orders", type=int, default=20, help="number of random orders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    start = time.process_time()
    encoder = load_encoder(args.encoder)
    print(f"{encoder.name}: loaded and tested in {time.process_time() - start:.1f} CPU s")
    results = {}
    for path in args.sentences:
        results[path.name] = measure(encoder, json.loads(path.read_text(encoding="utf-8")), args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(encoder: FrameTextEncoder, content: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Print and return the metrics of one file of sentences."""
    clips, seconds, num_frames = {}, 0.0, 0
    for name in content["clips"]:
        frames = load_frames(args.videos / name, fps=args.fps, max_frames=None, size=encoder.image_size)
        start = time.process_time()
        vectors = encoder.encode_frames(frames.pixels).astype(np.float16).astype(np.float32)
        seconds, num_frames = seconds + time.process_time() - start, num_frames + len(vectors)
        clips[name] = Clip(vectors, frames.timestamps, frames.duration)
    sentences = {
        text: (name, vector)
        for name, texts in content["sentences"].items()
        for text, vector in zip(texts, encoder.encode_sentences(texts), strict=True)
    }
    rng = np.random.default_rng(args.seed)
    orders = [list(clips)] + [[str(name) for name in rng.permutation(list(clips))] for _ in range(args.orders)]
    rows: dict[str, dict[str, float | None]] = {}
    for title, chosen in (("order of the file", orders[:1]), (f"{args.orders} random orders", orders[1:])):
        if chosen:
            rows |= moments(encoder, clips, sentences, chosen, title, rng)
    found = presence(encoder, clips, sentences)
    print(f"\n{len(sentences)} sentences, {len(clips)} clips, {num_frames} frames")
    print(f"{'':34}inside   R@.3   R@.5   R@.7   mIoU")
    for title, row in rows.items():
        print(f"{title:34} " + " ".join("      " if value is None else f"{value:6.3f}" for value in row.values()))
    print("found: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    print(f"encoding: {seconds / num_frames:.4f} CPU s per frame")
    return {"moments": rows, "found": found, "cpu_seconds_per_frame": seconds / num_frames}


def moments(
    encoder: FrameTextEncoder,
    clips: dict[str, Clip],
    sentences: dict[str, tuple[str, np.ndarray]],
    orders: Sequence[list[str]],
    title: str,
    rng: np.random.Generator,
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of moments in clips that are joined in some orders."""
    hits: list[bool] = []
    ious: dict[str, list[float]] = {title: [], f"{title}, random span": [], f"{title}, random shot": []}
    for order in orders:
        starts = dict(zip(order, np.cumsum([0.0] + [clips[name].duration for name in order]), strict=False))
        vectors = np.concatenate([clips[name].vectors for name in order])
        times = np.concatenate([clips[name].times + starts[name] for name in order])
        duration = sum(clips[name].duration for name in order)
        cuts = find_cuts(encoder.pictures(vectors), encoder.cut_distance)
        shot_borders = [0.0, *(float(times[cut - 1] + times[cut]) / 2 for cut in cuts), duration]
        for name, vector in sentences.values():
            truth = (starts[name], starts[name] + clips[name].duration)
            scores, evidence = encoder.compare(vectors, vector)
            span = best_spans(scores, times, cuts, duration=duration, evidence=evidence)[0]
            middle = (span.start + span.end) / 2
            hits.append(bool(truth[0] <= middle < truth[1]))
            values = list(ious.values())
            values[0].append(iou((span.start, span.end), truth))
            values[1].extend(iou(tuple(sorted(ends)), truth) for ends in rng.uniform(0, duration, (RANDOM_SPANS, 2)))
            values[2].extend(iou(shot, truth) for shot in pairwise(shot_borders))
    rows: dict[str, dict[str, float | None]] = {}
    for name, values in ious.items():
        inside = float(np.mean(hits)) if name == title else None
        recalls = {f"r1_iou_{limit}": float(np.mean(np.array(values) >= limit)) for limit in THRESHOLDS}
        rows[name] = {"inside": inside, **recalls, "miou": float(np.mean(values))}
    return rows


def presence(
    encoder: FrameTextEncoder, clips: dict[str, Clip], sentences: dict[str, tuple[str, np.ndarray]]
) -> dict[str, float]:
    """Return how well the probability of a sentence tells clips that show it from others."""
    right, wrong = [], []
    for name, vector in sentences.values():
        for other, probability in probabilities(encoder, clips, vector):
            (right if other == name else wrong).append(probability)
    nonsense = [p for vector in encoder.encode_sentences(NONSENSE) for _, p in probabilities(encoder, clips, vector)]
    above = np.array(right)[:, None] - np.array(wrong)[None]
    limit = encoder.found_threshold
    return {
        "auroc": float(np.mean((above > 0) + 0.5 * (above == 0))),
        "right_found": float(np.mean(np.array(right) >= limit)),
        "wrong_found": float(np.mean(np.array(wrong) >= limit)),
        "nonsense_found": float(np.mean(np.array(nonsense) >= limit)),
        "nonsense_mean": float(np.mean(nonsense)),
    }


def probabilities(
    encoder: FrameTextEncoder, clips: dict[str, Clip], sentence: np.ndarray
) -> Iterator[tuple[str, float]]:
    """Yield the probability of a sentence in the best span of each clip."""
    for name, clip in clips.items():
        cuts = find_cuts(encoder.pictures(clip.vectors), encoder.cut_distance)
        scores = encoder.score(clip.vectors, sentence)
        first, after = best_spans(scores, clip.times, cuts, duration=clip.duration)[0].frames
        yield name, encoder.probability(clip.vectors[first:after], sentence)


def iou(one: tuple[float, ...], other: tuple[float, float]) -> float:
    overlap = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return overlap / max(max(one[1], other[1]) - min(one[0], other[0]), 1e-9)


if __name__ == "__main__":
    main()
