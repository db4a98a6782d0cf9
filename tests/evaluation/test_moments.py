"""Moments of long videos and the truth of scores, on cases computed by hand."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from timechat.answers.events import Event
from timechat.evaluation.metrics.calibration import (
    Bin,
    Threshold,
    auroc,
    best_threshold,
    fit_calibration,
    reliability,
)
from timechat.evaluation.metrics.moments import AllMoments, MomentFit, fit_moment, match_moments
from timechat.evaluation.moments import moment_scores, score_moments
from timechat.evaluation.samples import Prediction, Sample

# ------------------------------------------------------------------------------------------------- moments


def test_a_moment_is_compared_with_the_occurrence_that_it_fits_best():
    assert fit_moment((101, 109), [(0, 10), (100, 110), (300, 308)]) == MomentFit(0.8, 1.0, 1.0)
    assert fit_moment((98, 105), [(100, 110)]) == MomentFit(5 / 12, 2.0, 5.0)


def test_borders_are_compared_from_a_third_of_overlap_on():
    assert fit_moment((0, 3), [(0, 10)]) == MomentFit(0.3, 0.0, 7.0)
    assert fit_moment((0, 2), [(0, 10)]) == MomentFit(0.2)
    assert fit_moment((50, 60), [(0, 10), (20, 30)]) == MomentFit(0.0)
    assert fit_moment(None, [(0, 10)]) == MomentFit(0.0)
    with pytest.raises(ValueError, match="at least one occurrence"):
        fit_moment((0, 1), [])


def test_a_moment_told_twice_is_right_once():
    told = [(0, 9), (0, 10), (50, 60), (100, 105)]
    truth = [(0, 10), (100, 110), (200, 210)]
    assert match_moments(told, truth) == AllMoments((False, True, False, True), (True, True, False))
    assert match_moments(told, truth, min_iou=0.6) == AllMoments((False, True, False, False), (True, False, False))


def test_of_what_never_happens_every_moment_is_wrong():
    assert match_moments([(0, 1), (2, 3)], []) == AllMoments((False, False), ())
    assert match_moments([], [(0, 1)]) == AllMoments((), (False,))
    assert match_moments([], [(0, 1), (2, 3)]) == AllMoments((), (False, False))
    assert match_moments([(0, 1), (2, 3)], [(0, 1)]) == AllMoments((True, False), (True,))
    assert match_moments([], []) == AllMoments((), ())


# --------------------------------------------------------------------------------------------- calibration


def test_reliability_is_each_bin_s_mean_score_and_share_right():
    scores = [0.05, 0.15, 0.15, 0.25, 0.95, 1.0]
    result = reliability(scores, [False, True, False, True, True, False], bins=5)
    assert [(round(b.score, 6), round(b.right, 6), b.count) for b in result.bins] == [
        (round(0.35 / 3, 6), round(1 / 3, 6), 3),
        (0.25, 1.0, 1),
        (0.975, 0.5, 2),
    ]
    assert result.error == pytest.approx((3 * (1 / 3 - 0.35 / 3) + 0.75 + 2 * 0.475) / 6)


def test_scores_that_keep_what_they_promise_have_no_error():
    result = reliability([0.25] * 4 + [1.0], [True, False, False, False, True])
    assert result.bins == (Bin(0.25, 0.25, 4), Bin(1.0, 1.0, 1))
    assert result.error == 0.0


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def test_a_fitted_line_goes_through_the_smoothed_shares_of_two_scores():
    # Ten items at 0 of which 2 are right and ten at 1 of which 8 are: right counts 11/12 and wrong 1/12, so that the
    # shares are (2 * 11 + 8 * 1) / 120 = 1/4 and 3/4, whose logits are -log(3) and log(3).
    x = [[0.0]] * 10 + [[1.0]] * 10
    right = [True] * 2 + [False] * 8 + [True] * 8 + [False] * 2
    weights, offset = fit_calibration(x, right)
    assert weights == pytest.approx([2 * math.log(3)], abs=1e-9)
    assert offset == pytest.approx(-math.log(3), abs=1e-9)


def test_weights_that_were_used_to_draw_labels_are_found_again():
    rng = np.random.default_rng(0)
    x, prior = rng.normal(2, 3, (20_000, 2)), rng.normal(0, 1, 20_000)
    right = rng.random(len(x)) < probabilities(x @ [0.6, -0.2] - 1.5 + prior)
    weights, offset = fit_calibration(x, right, prior_odds=prior)
    assert [*weights, offset] == pytest.approx([0.6, -0.2, -1.5], abs=0.07)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scores_that_a_threshold_parts_have_a_line_too(scale):
    x = np.array([-3.0, -2.0, 2.0, 3.0, 40.0]) * scale
    (slope,), offset = fit_calibration(x[:, None], [False, False, True, True, True])
    chances = probabilities(slope * x + offset)
    assert slope > 0
    assert (np.diff(chances) > 0).all() or chances[-1] == pytest.approx(1)
    targets = np.array([1 / 4, 1 / 4, 4 / 5, 4 / 5, 4 / 5])
    assert (chances - targets).sum() == pytest.approx(0, abs=1e-8)  # where the likelihood is flat
    assert ((chances - targets) * x / scale).sum() == pytest.approx(0, abs=1e-6)


def test_an_outlier_does_not_carry_the_fit_away():
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1000.0])
    right = np.array([False, True, False, True, True, False])
    (slope,), offset = fit_calibration(x[:, None], right)
    residual = probabilities(slope * x + offset) - np.where(right, 4 / 5, 1 / 5)
    assert residual.sum() == pytest.approx(0, abs=1e-8)
    assert (residual * x).sum() == pytest.approx(0, abs=1e-5)


def test_calibration_needs_right_and_wrong_and_scores_that_differ():
    with pytest.raises(ValueError, match="2 right ones of 2"):
        fit_calibration([[0.1], [0.2]], [True, True])
    with pytest.raises(ValueError, match=r"got \[0\.5\] only"):
        fit_calibration([[0.5], [0.5]], [True, False])
    with pytest.raises(ValueError, match=r"\(items, kinds\)"):
        fit_calibration([0.5, 0.6], [True, False])
    with pytest.raises(ValueError, match="0 to 1"):
        reliability([1.5], [True])
    with pytest.raises(ValueError, match="at least one score"):
        reliability([], [])


def test_auroc_counts_pairs_and_half_of_ties():
    # right 0.9 0.5, wrong 0.5 0.1: three pairs won and one tie of four
    assert auroc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == 3.5 / 4
    assert auroc([0.1, 0.2, 0.3], [True, False, False]) == 0.0
    with pytest.raises(ValueError, match="right and wrong"):
        auroc([0.1], [True])


def test_best_threshold_has_the_best_f1_and_of_several_is_the_highest():
    scores, there = [0.9, 0.8, 0.6, 0.4, 0.2], [True, False, True, True, False]
    best = best_threshold(scores, there)  # F1 of 0.9: 1/2, of 0.8: 2/5, of 0.6: 2/3, of 0.4: 6/7, of 0.2: 3/4
    assert best == Threshold(0.4, 3 / 4, 1.0)
    assert best.f1 == pytest.approx(6 / 7)
    assert best_threshold([0.7, 0.3, 0.3], [True, True, False]).threshold == 0.3
    # F1 of 0.9: 2 * 1 / (1 + 2), and of 0.6: 2 * 2 / (4 + 2)
    assert best_threshold([0.9, 0.8, 0.7, 0.6], [True, False, False, True]).threshold == 0.9
    with pytest.raises(ValueError, match="at least one existing item"):
        best_threshold([0.7], [False])


# ------------------------------------------------------------------------------------------------ all moments


def query(name: str, *windows: tuple[float, float], video: str = "a.mp4", group: str = "1_min") -> Sample:
    truth = {"relevant_windows": [list(window) for window in windows]}
    return Sample(id=name, video=video, task="grounding", query="x", ground_truth=truth, groups=(group,))


def answer(name: str, *spans: tuple[float, float], score: float | None = 0.9, **options: Any) -> Prediction:
    events = tuple(Event(start, end, score=score) for start, end in spans)
    options = {"found": bool(spans), "score": score} | options
    return Prediction(id=name, video="a.mp4", task="grounding", events=events, **options)


def test_reference_answers_have_the_best_metrics():
    samples = [query("1", (0, 10), (50, 60)), query("2"), query("3", (20, 30), group="10_min")]
    predictions = [answer("1", (0, 10), (50, 60)), answer("2", score=0.1), answer("3", (20, 30))]
    scores = score_moments(samples, predictions, resamples=10)
    best = {"r1_iou_0.7": 1, "miou": 1, "precision": 1, "recall": 1, "found_precision": 1, "found_recall": 1}
    assert {name: scores.metrics[name] for name in best} == best
    assert {scores.metrics[name] for name in ("start_error", "end_error", "median_start_error")} == {0.0}
    assert (scores.metrics["auroc"], scores.metrics["best_threshold"]) == (1.0, 0.9)
    assert (scores.metrics["miou_10_min"], scores.metrics["miou_1_min"]) == (1.0, 1.0)
    assert (scores.n_queries, scores.n_missing, scores.n_unparsed) == (3, 0, 0)
    assert set(scores.items) == {"1", "3"}


def test_any_of_several_moments_is_right_and_all_are_wanted():
    samples, predictions = [query("1", (0, 10), (50, 60))], [answer("1", (51, 60), (90, 95))]
    scores = score_moments(samples, predictions, resamples=10)
    assert scores.metrics["miou"] == 0.9
    assert (scores.metrics["start_error"], scores.metrics["end_error"]) == (1.0, 0.0)
    assert (scores.metrics["precision"], scores.metrics["recall"]) == (0.5, 0.5)


def test_found_is_scored_on_queries_that_happen_and_that_do_not():
    samples = [query("1", (0, 1)), query("2", (0, 1)), query("3", (0, 1)), query("4"), query("5")]
    predictions = [
        answer("1", (0, 1), score=0.8),
        answer("2", (0, 1), score=0.6),
        answer("3", score=0.3),
        answer("4", (0, 1), score=0.7),
        answer("5", score=0.2),
    ]
    scores = score_moments(samples, predictions, resamples=10)
    assert scores.metrics["found_precision"] == pytest.approx(2 / 3)
    assert scores.metrics["found_recall"] == pytest.approx(2 / 3)
    assert scores.metrics["auroc"] == pytest.approx(5 / 6 - 1 / 6)  # of six pairs 0.8, 0.8, 0.6 and 0.3 win
    values, are_right = moment_scores(list(zip(samples[3:4], predictions[3:4], strict=True)))
    assert (values.tolist(), are_right.tolist()) == ([0.7], [False])


def test_a_query_without_an_answer_is_missing_and_wrong():
    lost = answer("1", score=None, found=None, status="missing_video")
    garbled = answer("2", score=None, found=None, status="unparsed")
    denied = answer("3", score=0.1, status="unparsed")
    scores = score_moments([query(name, (0, 1)) for name in "123"], [lost, garbled, denied], resamples=10)
    assert (scores.metrics["miou"], scores.metrics["found_recall"]) == (0.0, 0.0)
    assert (scores.n_missing, scores.n_unparsed) == (1, 1)
    assert "auroc" not in scores.metrics


def test_found_and_score_are_written_only_where_they_are_known():
    kept = answer("1", (0, 1), score=0.4)
    assert Prediction.from_dict(kept.to_dict()) == kept
    row = replace(kept, found=None, score=None).to_dict()
    assert not {"found", "score"} & set(row)  # as 0.1 wrote it
    assert Prediction.from_dict(row) == replace(kept, found=None, score=None)
