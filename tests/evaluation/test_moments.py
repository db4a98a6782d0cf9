"""Moments of long videos and the truth of scores, on cases computed by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from timechat.answers.events import Answer, Event
from timechat.answers.tasks import parse_events
from timechat.data.records import Record, write_lines
from timechat.evaluation.films import DrawnFilm, read_films
from timechat.evaluation.metrics.calibration import (
    Bin,
    Threshold,
    auroc,
    best_threshold,
    calibrated,
    fit_calibration,
    logit,
    reliability,
)
from timechat.evaluation.metrics.moments import AllMoments, MomentFit, fit_moment, match_moments
from timechat.evaluation.moments import (
    Told,
    ToldMoments,
    all_figures,
    best_figures,
    found_figures,
    happening_scores,
    moment_scores,
    report_moments,
)
from timechat.synthetic.long import write_long_scene
from timechat.synthetic.long_records import long_records

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


def test_a_fitted_line_goes_through_the_smoothed_shares_of_two_scores():
    # Ten items at 0 of which 2 are right and ten at 1 of which 8 are: right counts 11/12 and wrong 1/12, so that the
    # shares are (2 * 11 + 8 * 1) / 120 = 1/4 and 3/4, whose logits are -log(3) and log(3).
    x = [0.0] * 10 + [1.0] * 10
    right = [True] * 2 + [False] * 8 + [True] * 8 + [False] * 2
    slope, offset = fit_calibration(x, right)
    assert slope == pytest.approx(2 * math.log(3), abs=1e-9)
    assert offset == pytest.approx(-math.log(3), abs=1e-9)
    assert calibrated([0.0, 0.5, 1.0], slope, offset) == pytest.approx([0.25, 0.5, 0.75])


def test_a_line_that_was_used_to_draw_labels_is_found_again():
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, 20_000)
    right = rng.random(len(x)) < 1 / (1 + np.exp(-(0.6 * x - 1.5)))
    assert fit_calibration(x, right) == pytest.approx((0.6, -1.5), abs=0.06)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scores_that_a_threshold_parts_have_a_line_too(scale):
    x = np.array([-3.0, -2.0, 2.0, 3.0, 40.0]) * scale
    slope, offset = fit_calibration(x, [False, False, True, True, True])
    chances = calibrated(x, slope, offset)
    assert slope > 0
    assert (np.diff(chances) > 0).all() or chances[-1] == pytest.approx(1)
    targets = np.array([1 / 4, 1 / 4, 4 / 5, 4 / 5, 4 / 5])
    assert (chances - targets).sum() == pytest.approx(0, abs=1e-8)  # where the likelihood is flat
    assert ((chances - targets) * x / scale).sum() == pytest.approx(0, abs=1e-6)


def test_an_outlier_does_not_carry_the_fit_away():
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1000.0])
    right = np.array([False, True, False, True, True, False])
    residual = calibrated(x, *fit_calibration(x, right)) - np.where(right, 4 / 5, 1 / 5)
    assert residual.sum() == pytest.approx(0, abs=1e-8)
    assert (residual * x).sum() == pytest.approx(0, abs=1e-5)


def test_calibration_needs_right_and_wrong_and_scores_that_differ():
    with pytest.raises(ValueError, match="2 right ones of 2"):
        fit_calibration([0.1, 0.2], [True, True])
    with pytest.raises(ValueError, match=r"got 0\.5 only"):
        fit_calibration([0.5, 0.5], [True, False])
    with pytest.raises(ValueError, match="0 to 1"):
        reliability([1.5], [True])
    with pytest.raises(ValueError, match="at least one score"):
        reliability([], [])


def test_logits_of_sure_scores_are_finite():
    assert logit([0.5, 0.75]) == pytest.approx([0, math.log(3)])
    assert logit([0.0, 1.0]) == pytest.approx([math.log(1e-6 / (1 - 1e-6)), math.log((1 - 1e-6) / 1e-6)])


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
    with pytest.raises(ValueError, match="something that is there"):
        best_threshold([0.7], [False])


# ------------------------------------------------------------------------------------------------ long films


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[DrawnFilm]:
    """Records and truth of a film of one minute and of one of ten, as written with `--minutes`; nothing is drawn."""
    folder = tmp_path_factory.mktemp("films")
    chains = [write_long_scene(5, 0, minutes=length, split="test") for length in (1, 10)]
    write_lines(folder / "records.jsonl", (record.to_dict() for chain in chains for record in long_records(chain)))
    write_lines(folder / "truth.jsonl", (chain.to_dict() for chain in chains))
    return read_films(folder, tasks=["grounding"])


def tell(films: list[DrawnFilm], answer: Callable[[Record], ToldMoments]) -> Told:
    return {film.video: {record.id: answer(record) for record in film.records} for film in films}


def told(
    *spans: tuple[float, float], score: float = 0.9, found: bool | None = None, unread: bool = False
) -> ToldMoments:
    return ToldMoments(spans, (score,) * len(spans), bool(spans) if found is None else found, score, 0.5, unread, 2.0)


def all_of(record: Record) -> ToldMoments:
    return told(*((event.start, event.end) for event in record.events), score=0.9 if record.events else 0.1)


def test_true_answers_have_all_figures_at_their_best(films):
    report = report_moments(films, {"all": tell(films, all_of)}, heading="truth")
    tables = report.to_dict()["tables"]
    for length in (1, 10):
        best, borders = tables["best"][f"{length}_all"], tables["borders"][f"{length}_all"]
        assert [best[name]["value"] for name in ("r1_iou_0.5", "r1_iou_0.7", "miou", "unread")] == [1, 1, 1, 0]
        assert [borders[name]["value"] for name in ("start_error", "end_error")] == [0, 0]
        for table in ("all", "found"):
            assert [cell["value"] for cell in tables[table][f"{length}_all"].values()] == [1, 1]
        details = report.facts["details"][f"{length}_all"]
        assert (details["auroc"], details["best_threshold"], details["seconds_a_question"]) == (1, 0.9, 2)
        assert 0 < tables["best"][f"{length}_random_event"]["r1_iou_0.5"]["value"] < 0.5
    assert "10 min, all" in report.to_markdown()


def test_any_of_several_occurrences_is_right_and_all_are_wanted(films):
    several = next(record for record in films[1].records if len(record.events) > 1)
    last = several.events[-1]
    film = replace(films[1], records=(several,))
    answers = {film.video: {several.id: told((last.start + 1, last.end), (0.0, 0.5))}}
    hits, borders = best_figures([film], answers)
    assert hits.values["r1_iou_0.5"] == [1.0]
    assert (borders.values["start_error"], borders.values["end_error"]) == ([1.0], [0.0])
    precision, recall = all_figures([film], answers)
    assert precision.values["precision"] == [1.0, 0.0]
    assert sum(recall.values["recall"]) == 1
    assert len(recall) == len(several.events)


def test_found_is_scored_on_what_happens_and_what_does_not(films):
    happening = [record for record in films[0].records if record.events][:3]
    never = [record for record in films[0].records if not record.events][:2]
    film = replace(films[0], records=(*happening, *never))
    moments = [
        told((0, 1), score=0.8),
        told((0, 1), score=0.6),
        told(score=0.3),
        told((0, 1), score=0.7),
        told(score=0.2),
    ]
    answers = {film.video: {record.id: one for record, one in zip(film.records, moments, strict=True)}}
    precision, recall = found_figures([film], answers)
    assert precision.values["precision"] == [1.0, 1.0, 0.0]
    assert recall.values["recall"] == [1.0, 1.0, 0.0]
    scores, happens = happening_scores([film], answers)
    assert scores.tolist() == [0.8, 0.6, 0.3, 0.7, 0.2]
    assert happens.tolist() == [True, True, True, False, False]
    scores, is_right = moment_scores([film], {film.video: {never[0].id: told((0, 1), score=0.7)}})
    assert (scores.tolist(), is_right.tolist()) == ([0.7], [False])


def test_an_answer_is_kept_with_what_matters():
    event = Event(3.0, 7.5, score=0.4)
    answer = Answer("", [event], task="grounding", found=True, score=0.4, step=0.5)
    moments = ToldMoments.from_answer(answer, 1.5)
    assert moments == ToldMoments(((3.0, 7.5),), (0.4,), True, 0.4, 0.5, False, 1.5)
    assert ToldMoments.from_json(moments.to_json()) == moments
    notes = parse_events("I do not know.", task="grounding").notes
    unread = ToldMoments.from_answer(replace(answer, events=[], found=None, notes=notes), 1.5)
    assert (unread.is_unread, unread.found, unread.spans) == (True, False, ())


def test_without_answers_there_is_nothing_to_report(films):
    with pytest.raises(ValueError, match="no answers"):
        report_moments(films, {"all": {}}, heading="nothing")
