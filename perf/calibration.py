"""Fit the weights that turn a TimeChat model's evidence into scores, and draw how true the scores are on other videos.

    timechat data draw out/train1 --clips 12 --seed 22 --split train --minutes 1
    timechat data draw out/train10 --clips 3 --seed 21 --split train --minutes 10
    timechat data draw out/videos1 --clips 20 --seed 31 --split test --minutes 1
    python perf/calibration.py --fit out/train1 out/train10 --test out/videos1 --diagram docs/reliability.png --write

The model names a moment of every query in every window. The weights of its evidence (`timechat.answers.merging`) are
fitted on the moments of `--fit`; the threshold of `found` is the score with the best sum of two F1 values there, that
of queries that happen and that of queries that do not. Scores of dense captions are fitted on the same videos. The test
videos are used for the report only. `--write` puts weights and threshold into the configuration of the model.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timechat import TimeChat
from timechat.answers.events import Event, Task
from timechat.answers.merging import WindowAnswer, event_evidence
from timechat.answers.tasks import parse_events
from timechat.answers.windows import temporal_iou
from timechat.errors import TimeChatError
from timechat.evaluation.metrics.calibration import Reliability, auroc, fit_calibration, reliability
from timechat.files import atomic_write, write_json_atomically
from timechat.model import NANO_FOLDER
from timechat.pipeline.request import Request

KINDS: dict[Task, tuple[str, ...]] = {"grounding": ("time", "existence"), "dense_caption": ("time", "caption")}
"""Kinds of evidence that count for each task."""
MIN_IOU = 0.5


@dataclass(frozen=True)
class Moments:
    """What a model found in videos.

    Attributes:
        evidence: Evidence of each moment, `(moments, kinds)` nats.
        prior_odds: Log odds of its window before the model has read it, `(moments,)`.
        is_right: Whether its IoU with a true event is 0.5 or more, with the same caption for captions, `(moments,)`.
        query: Number of its query, `(moments,)`.
        happens: Whether each query happens, `(queries,)`.
    """

    evidence: np.ndarray
    prior_odds: np.ndarray
    is_right: np.ndarray
    query: np.ndarray
    happens: np.ndarray

    def scores(self, weights: np.ndarray, offset: float) -> np.ndarray:
        """Return the score of each moment, `(moments,)`."""
        return np.exp(-np.logaddexp(0, -(self.evidence @ weights + offset + self.prior_odds)))

    def of_queries(self, scores: np.ndarray) -> np.ndarray:
        """Return the best score of each query, `(queries,)`."""
        best = np.zeros(len(self.happens))
        np.maximum.at(best, self.query, scores)
        return best


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="model name or folder (default: nano)")
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="drawn videos of the training split")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="other drawn videos")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--diagram", type=Path, help="a PNG or SVG file")
    parser.add_argument("--write", action="store_true", help="write weights and threshold into the model's config.json")
    return parser.parse_args()


def find_moments(timechat: TimeChat, folders: Sequence[Path], task: Task) -> Moments:
    """Answer the grounding queries, or caption the videos, of folders of drawn videos."""
    rows: list[tuple[Any, ...]] = []
    happens: list[bool] = []
    for folder in folders:
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
        asked = [record for record in records if record["task"] == task]
        for video in dict.fromkeys(record["video"] for record in asked):
            of_video = [record for record in asked if record["video"] == video]
            for record, found in _answers(timechat, folder / video, of_video, task):
                true = [Event(**{k: e[k] for k in ("start", "end", "caption")}) for e in record["events"]]
                prior = -np.log(len(found)) if task == "grounding" else 0.0
                rows += [(*one, prior, len(happens)) for answer in found for one in _moments(answer, true, task)]
                happens.append(bool(true))
    evidence, is_right, prior_odds, query = (np.array(column) for column in zip(*rows, strict=True))
    return Moments(evidence, prior_odds, is_right, query, np.array(happens))


def _answers(
    timechat: TimeChat, path: Path, records: Sequence[dict[str, Any]], task: Task
) -> Iterator[tuple[dict[str, Any], list[WindowAnswer]]]:
    """Each record of a video with the answers about its windows."""
    windows = timechat.answerer().windows
    with timechat.open(str(path)) as session:
        encoded = list(session.encode(session.windows, timechat.backbone))
        for record in records:
            request = windows.with_preset(Request(task, record.get("query")))
            yield record, windows.answer_all(request, encoded)


def _moments(answer: WindowAnswer, true: Sequence[Event], task: Task) -> Iterator[tuple[list[float], bool]]:
    """Evidence of each moment of an answer, and whether it is right."""
    events = parse_events(answer.text, task=task, duration=answer.window.duration).events
    for event, evidence in zip(events, event_evidence(events, answer, task), strict=True):
        if evidence is None:
            continue
        placed = answer.window.to_video_event(event)
        same = [one for one in true if task == "grounding" or _words(one) == _words(event)]
        is_right = any(temporal_iou(placed, one) >= MIN_IOU for one in same)
        yield [getattr(evidence, kind) for kind in KINDS[task]], is_right


def _words(event: Event) -> str:
    return event.caption.strip(" .").lower()


def choose_threshold(scores: np.ndarray, happens: np.ndarray) -> float:
    """Return the score with the best sum of the F1 of queries that happen and that of queries that do not."""
    return float(max(np.unique(scores), key=lambda limit: sum(found_metrics(scores, happens, limit)[:2])))


def found_metrics(scores: np.ndarray, happens: np.ndarray, threshold: float) -> tuple[float, float, float, float]:
    """Return the F1 of queries that happen and of queries that do not, and precision and recall of the former."""
    found = scores >= threshold
    right, alarms, missed = (found & happens).sum(), (found & ~happens).sum(), (~found & happens).sum()
    refused = (~found & ~happens).sum()
    f1 = 2 * right / max(1, 2 * right + alarms + missed)
    refusal_f1 = 2 * refused / max(1, 2 * refused + alarms + missed)
    return float(f1), float(refusal_f1), float(right / max(1, right + alarms)), float(right / max(1, right + missed))


def calibrate(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Reliability]]:
    """Fit on some videos, and measure scores on others."""
    torch.set_num_threads(1)
    timechat = TimeChat.from_pretrained(options.model, device="cpu")
    config = timechat.model.config
    # All moments are named, and none is verified: the evidence of the fit is that of the fitted model.
    config.found_threshold, config.score_calibration = 0.5, {"grounding": {"existence": 1.0, "offset": 0.0}}
    result: dict[str, Any] = {"score_calibration": {}}
    shown: dict[str, Reliability] = {}
    for task, name in (("grounding", "grounding"), ("dense_caption", "captions")):
        fitted, test = (find_moments(timechat, folders, task) for folders in (options.fit, options.test))
        weights, offset = fit_calibration(fitted.evidence, fitted.is_right, prior_odds=fitted.prior_odds)
        fit = {kind: round(float(weight), 4) for kind, weight in zip(KINDS[task], weights, strict=True)}
        result["score_calibration"][name] = fit | {"offset": round(offset, 4)}
        print(f"{name}: {fit}, offset {offset:.4f}, from {len(fitted.is_right)} moments")
        scores = test.scores(weights, offset)
        raw = replace(test, prior_odds=np.zeros(len(scores))).scores(np.ones(len(weights)), 0.0)
        for kind, values in (("raw evidence", raw), ("scores", scores)):
            shown[f"{name}, {kind}"] = one = reliability(values, test.is_right)
            print(f"{name}, {kind}: expected calibration error {one.error:.4f} on {len(values)} moments of test videos")
            bins = [[b.score, b.right, b.count] for b in one.bins]
            result[f"{name}, {kind}"] = {"error": one.error, "bins": bins}
        if task == "grounding":
            threshold = choose_threshold(fitted.of_queries(fitted.scores(weights, offset)), fitted.happens)
            result["found_threshold"] = threshold = float(f"{threshold:.2g}")
            best = test.of_queries(scores)
            f1, refusal_f1, precision, recall = found_metrics(best, test.happens, threshold)
            result["found"] = {"f1": f1, "refusal_f1": refusal_f1, "precision": precision, "recall": recall}
            result["found"]["auroc"] = auroc(best, test.happens)
            print(f"threshold {threshold} from {len(fitted.happens)} queries; on {len(best)} others: {result['found']}")
    return result, shown


def draw_reliability(path: Path, shown: dict[str, Reliability], title: str) -> None:
    """Draw the share right over the score, side by side, each point as large as its count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(shown), figsize=(4.2 * len(shown), 4.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, one) in zip(axes[0], shown.items(), strict=True):
        total = sum(b.count for b in one.bins)
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        axis.plot([b.score for b in one.bins], [b.right for b in one.bins], color="#2b6cb0", linewidth=1)
        axis.scatter(
            [b.score for b in one.bins],
            [b.right for b in one.bins],
            s=[20 + 400 * b.count / total for b in one.bins],
            color="#2b6cb0",
            alpha=0.7,
        )
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="score")
        axis.set_title(f"{name}\nexpected calibration error {one.error:.3f}, n = {total}", fontsize=10)
    axes[0][0].set_ylabel("share right")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def write_config(model: str, result: dict[str, Any]) -> None:
    """Write weights and threshold into the configuration of a model."""
    path = (NANO_FOLDER if model == "nano" else Path(model)) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {key: result[key] for key in ("score_calibration", "found_threshold")}
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Fit, measure, print, draw and write."""
    options = parse_options()
    try:
        result, shown = calibrate(options)
    except (TimeChatError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.json:
        write_json_atomically(options.json, result)
    if options.diagram:
        draw_reliability(options.diagram, shown, f"moments right at IoU {MIN_IOU}, videos that no training has seen")
    if options.write:
        write_config(options.model, result)


if __name__ == "__main__":
    main()
