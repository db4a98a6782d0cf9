"""Metrics on cases computed by hand, and against metrics of the original's own scripts."""

import json
from pathlib import Path

import numpy as np
import pytest

from timechat.evaluation.metrics.answers import answer_hits, majority_answer, normalize_answer
from timechat.evaluation.metrics.captioning import (
    Attributes,
    caption_iou,
    detect,
    detection_scores,
    match_events,
)
from timechat.evaluation.metrics.grounding import answered_iou, grounding_scores, temporal_iou
from timechat.evaluation.metrics.highlights import HighlightGroundTruth, average_precision, highlight_scores, hit_at_1
from timechat.evaluation.metrics.intervals import bootstrap_mean

GOLDEN = json.loads((Path(__file__).parent / "golden_metrics.json").read_text())

# ------------------------------------------------------------------------------------------------- grounding


def test_grounding_iou_is_the_original_s():
    cases = GOLDEN["tvg_iou"]
    ious = temporal_iou([case["a"] for case in cases], [case["b"] for case in cases])
    assert ious.tolist() == [case["iou"] for case in cases]


def test_iou_that_lies_on_a_threshold_counts():
    assert grounding_scores(temporal_iou([[0, 5]], [[0, 10]])) == {
        "r1_iou_0.3": 1.0,
        "r1_iou_0.5": 1.0,
        "r1_iou_0.7": 0.0,
        "miou": 0.5,
    }


def test_a_span_that_ends_before_it_starts_scores_nothing():
    assert temporal_iou([8, 2], [2, 8]) == 0.0


def test_a_moment_equals_itself_alone():
    assert temporal_iou([[3, 3], [3, 3]], [[3, 3], [4, 4]]).tolist() == [1.0, 0.0]


def test_spans_are_compared_all_with_all_where_their_shapes_broadcast():
    assert temporal_iou(np.zeros((4, 1, 2)), np.ones((3, 2))).shape == (4, 3)


def test_a_missing_answer_is_wrong_and_still_counts():
    ious = answered_iou([(0, 10), None], [(0, 10), (5, 9)])
    assert ious.tolist() == [1.0, 0.0]
    assert grounding_scores(ious)["r1_iou_0.5"] == 0.5


def test_predictions_must_be_as_many_as_queries():
    with pytest.raises(ValueError, match="got 1 predictions for ground truth of shape"):
        answered_iou([None], [(0, 1), (2, 3)])


def test_no_query_has_no_score():
    with pytest.raises(ValueError, match="at least one query"):
        grounding_scores([])


# ------------------------------------------------------------------------------------------ dense captioning


def test_caption_iou_precision_and_recall_are_the_original_s():
    case = GOLDEN["dvc_detection"]
    assert caption_iou(case["gt"], case["pred"]).tolist() == case["iou_matrix_gt_by_pred"]
    found = detect(case["gt"], case["pred"], case["thresholds"])
    assert list(found.precisions) == case["precision"]
    assert list(found.recalls) == case["recall"]
    # means 0.5625 and 0.66667
    assert found.f1 == pytest.approx(2 * 0.5625 * (2 / 3) / (0.5625 + 2 / 3))


def test_an_iou_on_the_threshold_is_not_enough_for_captions():
    assert detect([[0, 10]], [[0, 5]], [0.5]).recalls == (0.0,)


def test_reversed_spans_are_put_in_order_for_captions():
    assert caption_iou([[10, 0]], [[0, 10]])[0, 0] == pytest.approx(1.0)


def test_a_video_without_predictions_scores_0_and_counts():
    right = detect([[0, 10]], [[0, 10]])
    nothing = detect([[0, 10]], [])
    assert (nothing.precision, nothing.recall, nothing.f1) == (0.0, 0.0, 0.0)
    assert detection_scores([right, nothing]) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_f1_is_averaged_over_videos_not_made_of_the_averages():
    only_half_found = detect([[0, 10], [20, 30]], [[0, 10]])  # precision 1, recall 0.5
    half_right = detect([[0, 10]], [[0, 10], [20, 30]])  # precision 0.5, recall 1
    scores = detection_scores([only_half_found, half_right])
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["precision"] == scores["recall"] == 0.75


def test_a_video_without_true_events_is_refused():
    with pytest.raises(ValueError, match="at least one true event"):
        detect([], [[0, 1]])


def test_events_are_matched_once_each_the_best_overlap_first():
    assert match_events([[0, 10], [2, 10]], [[2, 10], [1, 10]]) == [(0, 1), (1, 0)]
    assert match_events([[0, 10]], [[0, 4]]) == []
    assert match_events([[0, 10]], []) == []


def test_attributes_agree_word_by_word():
    right = Attributes("circle", "red", "bounce")
    assert right.agrees(Attributes("circle", "blue", "bounce")) == {
        "object": 1.0,
        "color": 0.0,
        "action": 1.0,
        "all": 0.0,
    }


# ------------------------------------------------------------------------------------------------ highlights


def test_highlight_figures_are_the_official_ones():
    case = GOLDEN["vhd_metric"]
    truth = [
        HighlightGroundTruth(
            row["duration"], tuple(row["relevant_clip_ids"]), tuple(map(tuple, row["saliency_scores"]))
        )
        for row in case["ground_truth"]
    ]
    metrics = highlight_scores([row["pred_saliency_scores"] for row in case["submission"]], truth)
    rounded = {name: round(100 * float(values.mean()), 2) for name, values in metrics.items()}
    names = {"fair": "Fair", "good": "Good", "very_good": "VeryGood"}
    expected = case["result"]["brief"]
    assert rounded == {
        f"{ours}_{level}": expected[f"HL-min-{theirs}-{metric}"]
        for level, theirs in names.items()
        for ours, metric in (("map", "mAP"), ("hit1", "Hit1"))
    }


def test_average_precision_is_the_plain_mean_over_steps_of_recall():
    # found at ranks 1 and 3: precisions 1 and 2/3
    assert average_precision([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)
    # equal scores are one step: two of three
    assert average_precision([1, 1, 1, 0], [1, 0, 1, 0]) == pytest.approx(2 / 3)
    # a later step may lift an earlier one: precisions 1/2, 2/3 and 3/4
    assert average_precision([5, 4, 3, 2, 1], [0, 1, 1, 1, 0]) == pytest.approx(3 / 4)


def test_average_precision_of_no_highlights_is_0_and_of_nothing_else_is_1():
    assert average_precision([1, 2], [0, 0]) == 0.0
    assert average_precision([1, 2], [1, 1]) == 1.0


def test_the_first_of_the_highest_clips_is_the_hit():
    assert hit_at_1([1, 3, 3], [[0], [1], [0]]) == 1.0
    assert hit_at_1([1, 3, 3], [[0], [0], [1]]) == 0.0
    assert hit_at_1([0, 0, 0, 9], [[1], [1], [1]]) == 0.0  # past the end
    assert hit_at_1([], [[0, 1]]) == 1.0


def test_a_query_without_prediction_scores_0():
    truth = HighlightGroundTruth(4.0, (0,), ((4.0,),))
    metrics = highlight_scores([None, [1.0]], [truth, truth])
    assert metrics["hit1_very_good"].tolist() == [0.0, 1.0]


def test_own_levels_can_be_given():
    truth = HighlightGroundTruth(6.0, (1,), ((1.0,),))
    assert highlight_scores([[0, 1]], [truth], {"relevant": 1.0})["hit1_relevant"].tolist() == [1.0]


def test_clips_and_saliency_must_go_together():
    with pytest.raises(ValueError, match="got 2 clips and 1 saliency rows"):
        HighlightGroundTruth(10.0, (0, 1), ((1.0,),))


# --------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The red circle bounces.", "red circle bounces"),
        (" Yes! ", "yes"),
        ("12.0 seconds", "12 seconds"),
        ("12.50 s.", "12.5 s"),
        ("10", "10"),
        ("", ""),
    ],
)
def test_answers_are_compared_without_form(text, normal):
    assert normalize_answer(text) == normal


def test_a_missing_answer_is_no_hit():
    assert answer_hits(["Yes", None, "the Blue one"], ["yes.", "no", "blue one"]).tolist() == [1.0, 0.0, 1.0]
    assert answer_hits(["Yes"], ["yes."], exact=True).tolist() == [0.0]


def test_the_majority_answer_is_the_first_of_equals():
    assert majority_answer(["No.", "Yes.", "yes", "no", "Two."]) == "No."


# ------------------------------------------------------------------------------------------------- intervals


def test_an_interval_holds_its_mean_and_is_the_same_every_time():
    values = np.random.default_rng(3).random(200)
    groups = [i // 4 for i in range(200)]
    estimate = bootstrap_mean(values, groups)
    assert estimate.low < estimate.value < estimate.high
    assert estimate == bootstrap_mean(values, groups)
    assert (estimate.items, estimate.groups) == (200, 50)


def test_values_without_spread_have_an_interval_without_width():
    estimate = bootstrap_mean([1.0, 1.0, 1.0], ["a", "a", "b"])
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


def test_questions_of_one_film_are_drawn_together():
    values = [1.0] * 10 + [0.0] * 10
    together = bootstrap_mean(values, ["a"] * 10 + ["b"] * 10)
    apart = bootstrap_mean(values, range(20))
    assert (together.low, together.high) == (0.0, 1.0)
    assert 0.2 < apart.low < apart.high < 0.8


def test_the_interval_is_that_of_the_normal_distribution_where_it_must_be():
    values = np.random.default_rng(0).normal(size=500)
    estimate = bootstrap_mean(values, range(500))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * values.std() / 500**0.5, rel=0.05)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([float("nan")], ["a"])
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean([], [])
