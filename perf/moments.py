"""Moments of long videos: found or not, position, accuracy, and reliability of the scores.

    timechat data draw films1 --clips 20 --seed 1 --split test --minutes 1
    timechat data draw films60 --clips 2 --seed 1 --split test --minutes 60
    python perf/moments.py films1 films60 --json moments.json

prints tables in Markdown. With videos of the training split,

    timechat data draw train10 --clips 6 --seed 1 --minutes 10
    python perf/moments.py films1 films60 --calibrate-on train10 --diagram reliability.svg

fits the calibration of the scores and plots their reliability on the other videos, before and after. A stopped run
resumes where it stopped: every answer is stored.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from timechat import Event, TimeChat
from timechat.answers.confidence import Calibration
from timechat.answers.windows import WindowConfig, temporal_iou
from timechat.data.records import Record
from timechat.errors import TimeChatError
from timechat.evaluation.films import RECORDS_FILE, DrawnFilm, read_films
from timechat.evaluation.metrics.calibration import Reliability, calibrated, fit_calibration, logit, reliability
from timechat.evaluation.moments import Told, ToldMoments, minutes, moment_scores, report_moments
from timechat.evaluation.store import AnswerStore
from timechat.files import atomic_write
from timechat.model.fingerprint import weights_fingerprint
from timechat.pipeline import WindowSampling
from timechat.pipeline.merging import Scoring
from timechat.pipeline.window_plan import plan_windows


@dataclass(frozen=True, slots=True)
class Way:
    """A mode of asking.

    Attributes:
        refine: Whether borders are looked at again, with denser frames.
        find_all: Whether all moments are wanted, not the best one.
        threshold: Least score of a moment that is told; None takes the model's.
    """

    refine: bool
    find_all: bool = False
    threshold: float | None = None


WAYS = {
    "coarse": Way(refine=False),
    "refined": Way(refine=True),
    "all": Way(refine=False, find_all=True),
    "all, refined": Way(refine=True, find_all=True),
    "all, however unsure": Way(refine=False, find_all=True, threshold=0.0),
}
_USUAL = ("coarse", "refined", "all")
_FOR_CALIBRATION = "all, however unsure"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of `timechat data draw --minutes`")
    parser.add_argument("--model", default="nano", help="model for TimeChat.from_pretrained")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="number of videos per folder, from the first on")
    parser.add_argument("--questions", type=int, help="maximum number of questions per video, spread over it")
    parser.add_argument("--step", type=float, help="seconds between frames in the first pass")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(_USUAL), help="modes of asking")
    parser.add_argument("--json", type=Path, help="output file for the metrics")
    parser.add_argument("--calibrate-on", type=Path, metavar="FOLDER", help="videos of the training split")
    parser.add_argument("--diagram", type=Path, help="with --calibrate-on: a PNG or SVG file")
    options = parser.parse_args()
    for name in ("limit", "questions"):
        if (number := getattr(options, name)) is not None and number < 1:
            parser.error(f"--{name} must be at least 1, got {number}")
    if options.diagram and not options.calibrate_on:
        parser.error("--diagram needs --calibrate-on FOLDER")
    return options


# ------------------------------------------------------------------------------------------------- asking


class Asker:
    """A model with stored answers about folders of videos."""

    def __init__(self, timechat: TimeChat, *, step: float | None, limit: int | None, questions: int | None) -> None:
        """Take a model, seconds between frames, and the numbers of videos per folder and questions per video."""
        self.timechat, self.step, self.limit, self.questions = timechat, step, limit, questions
        self.weights = weights_fingerprint(timechat.model)

    def ask(self, folder: Path, ways: Sequence[str]) -> tuple[list[DrawnFilm], dict[str, Told]]:
        """Ask all questions in the given modes."""
        films = read_films(folder, tasks=["grounding"], limit=self.limit)
        films = [replace(film, records=spread(film.records, self.questions)) for film in films]
        store = self._open_store(folder)
        for number, film in enumerate(films, 1):
            for way in ways:
                self._ask_film(film, way, store, f"{folder.name}: film {number} of {len(films)}, {way}")
        told: dict[str, Told] = {
            way: {
                video: {record: ToldMoments.from_json(text) for record, text in answers.items()}
                for video, answers in store.shown(way).items()
            }
            for way in ways
        }
        return films, told

    def _open_store(self, folder: Path) -> AnswerStore:
        digest = hashlib.sha256((folder / RECORDS_FILE).read_bytes()).hexdigest()[:16]
        settings: dict[str, Any] = {"model": self.timechat.name, "weights": self.weights, "records": digest}
        name = f"moments-{Path(self.timechat.name).name}-{self.weights[:8]}-{self.step or 'usual'}.jsonl"
        return AnswerStore(folder / "answers" / name, settings | {"step": self.step})

    def _ask_film(self, film: DrawnFilm, name: str, store: AnswerStore, told_as: str) -> None:
        records = [record for record in film.records if record.id not in store.get(film.video, name)]
        if not records:
            return
        way = WAYS[name]
        begun = time.perf_counter()
        with self.timechat.open(film.path, window_config=WindowConfig(step=self.step, refine=way.refine)) as video:
            for done, record in enumerate(records, 1):
                answer = self.timechat.ground(video, record.query, find_all=way.find_all, threshold=way.threshold)
                seconds = time.perf_counter() - begun
                store.add(film.video, name, {record.id: ToldMoments.from_answer(answer, seconds).to_json()})
                begun = time.perf_counter()
                print(f"\r{told_as}: {done} of {len(records)}    ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)


def spread(records: Sequence[Record], most: int | None) -> tuple[Record, ...]:
    """Take records at equal distances: they are in order of time, with queries of absent events last."""
    if most is None or len(records) <= most:
        return tuple(records)
    return tuple(records[i * len(records) // most] for i in range(most))


# -------------------------------------------------------------------------------------------- calibration


def calibrate(asker: Asker, options: argparse.Namespace) -> dict[str, Any]:
    """Fit on the videos of the training split and report the reliability of calibrated and raw scores on the others."""
    shown: dict[str, Reliability] = {}
    result: dict[str, Any] = {}
    scoring = Scoring.from_config(asker.timechat.model.config)
    for name, line, scored in (
        ("grounding", scoring.grounding, grounded_scores),
        ("captions", scoring.captions, caption_scores),
    ):
        scores, windows, is_right = scored(asker, [options.calibrate_on])
        slope, offset = fit_calibration(evidence(scores, windows, line), is_right)
        # Videos of one length have one number of windows, by which the odds are divided afterwards.
        offset += float(np.log(windows).mean())
        print(f"{name}: slope {slope:.4f}, offset {offset:.4f}, from {len(scores)} moments")
        result[name] = {"slope": slope, "offset": offset, "moments": len(scores)}
        scores, windows, is_right = scored(asker, options.folders)
        raw = calibrated(evidence(scores, windows, line), 1.0, 0.0)
        for told, numbers in (("raw evidence", raw), ("scores", scores)):
            shown[f"{name}, {told}"] = one = reliability(numbers, is_right)
            print(f"{name}, {told}: expected calibration error {one.error:.4f} on {len(scores)} moments of other films")
            bins = [[b.score, b.right, b.count] for b in one.bins]
            result[f"{name}, {told}"] = {"error": one.error, "bins": bins}
    if options.diagram:
        draw_reliability(options.diagram, shown, f"{asker.timechat.name}: moments right at IoU 0.5, unseen films")
    return result


def grounded_scores(asker: Asker, folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of all found moments, windows of their videos, and correctness at IoU 0.5."""
    pieces = []
    for folder in folders:
        films, told = asker.ask(folder, [_FOR_CALIBRATION])
        for film in films:
            scores, is_right = moment_scores([film], told[_FOR_CALIBRATION])
            plan = plan_windows(
                asker.timechat.model.config, film.duration, WindowConfig(step=asker.step), WindowSampling()
            )
            pieces.append((scores, np.full(len(scores), len(plan.windows)), is_right))
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))  # type: ignore[return-value]


def caption_scores(asker: Asker, folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of dense captions, ones, and whether each matches the caption of a true event at IoU 0.5."""
    scores, is_right = [], []
    for folder in folders:
        for film in read_films(folder, tasks=["dense_caption"], limit=asker.limit):
            truth = film.records[0].events
            for event in asker.timechat.dense_caption(film.path, window_config=WindowConfig(step=asker.step)).events:
                if event.score is not None:
                    same = [Event(t.start, t.end) for t in truth if t.caption.lower() == event.caption.lower()]
                    scores.append(event.score)
                    is_right.append(any(temporal_iou(event, true) >= 0.5 for true in same))
    return np.array(scores), np.ones(len(scores)), np.array(is_right)


def evidence(scores: np.ndarray, windows: np.ndarray, line: Calibration) -> np.ndarray:
    """Return the evidence behind calibrated scores in nats."""
    return (logit(scores) + np.log(windows) - line.offset) / line.slope


def draw_reliability(path: Path, shown: dict[str, Reliability], title: str) -> None:
    """Plot the share of correct moments over the score, side by side; point size is the count."""
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


# ------------------------------------------------------------------------------------------------- command


def evaluate(options: argparse.Namespace) -> None:
    timechat = TimeChat.from_pretrained(options.model, device=options.device)
    asker = Asker(timechat, step=options.step, limit=options.limit, questions=options.questions)
    facts: dict[str, Any] = {"model": options.model, "weights": asker.weights, "step": options.step}
    facts |= {"questions": options.questions}
    if options.calibrate_on:
        result = {**facts, "calibration": calibrate(asker, options)}
    else:
        asked = [asker.ask(folder, options.ways) for folder in options.folders]
        films = [film for films, _ in asked for film in films]
        told = {way: {video: answers for _, of_folder in asked for video, answers in of_folder[way].items()}
                for way in options.ways}  # fmt: skip
        lengths = ", ".join(f"{length} min" for length in sorted({minutes(film) for film in films}))
        heading = f"{options.model} ({asker.weights[:8]}) on {len(films)} films of {lengths}, greedy"
        report = report_moments(films, told, heading=heading, facts=facts)
        print(report.to_markdown())
        result = report.to_dict()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(options.json) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Evaluate and print."""
    try:
        evaluate(parse_options())
    except (TimeChatError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
