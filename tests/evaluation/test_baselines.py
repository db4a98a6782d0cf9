"""Baselines of grounding, on cases computed by hand."""

import numpy as np
import pytest

from timechat.evaluation.baselines import grounding_rows
from timechat.evaluation.metrics.baselines import best_constant_span, expected_metrics, random_spans
from timechat.evaluation.tables import MetricTable, group_names


def test_a_random_event_is_an_average_over_events():
    metrics = expected_metrics([(0, 10), (0, 6), (20, 30)], (0, 10))
    assert metrics == {
        "r1_iou_0.3": pytest.approx(2 / 3),
        "r1_iou_0.5": pytest.approx(2 / 3),
        "r1_iou_0.7": pytest.approx(1 / 3),
        "miou": pytest.approx(1.6 / 3),
    }


def test_random_spans_are_stretched_to_each_video():
    metrics = random_spans([(0, 10), (10, 20)], [20, 40], [(0.0, 0.5), (0.25, 0.5)])
    assert metrics["r1_iou_0.5"].tolist() == [1.0, 1.0]  # [0, 10] and [5, 10]; [0, 20] and [10, 20]
    assert metrics["r1_iou_0.7"].tolist() == [0.5, 0.5]


def test_the_constant_span_is_the_best_for_each_metric():
    metrics = best_constant_span([(0, 5), (20, 25), (0, 50)], [10, 50, 100])
    assert metrics["r1_iou_0.5"].mean() == pytest.approx(2 / 3)
    assert metrics["r1_iou_0.7"].tolist() == [1.0, 0.0, 1.0]


def test_an_answer_is_scored_on_its_event_and_on_every_other():
    rows = grounding_rows((0.0, 10.0), (0.0, 10.0), np.array([(0.0, 6.0), (20.0, 30.0)]))
    assert rows["model"]["r1_iou_0.5"] == 1.0
    assert rows["other_event"]["r1_iou_0.5"] == 0.5
    assert rows["random_event"]["r1_iou_0.5"] == pytest.approx(2 / 3)
    assert rows["margin_random"]["r1_iou_0.5"] == pytest.approx(1 / 3)
    assert rows["margin_other_event"]["r1_iou_0.5"] == 0.5


def test_an_answer_without_a_span_is_wrong_on_every_event():
    rows = grounding_rows(None, (0.0, 10.0), np.array([(0.0, 6.0)]))
    assert set(rows["model"].values()) == set(rows["other_event"].values()) == {0.0}
    assert rows["random_event"]["r1_iou_0.5"] == 1.0


def test_a_video_with_one_event_has_no_other_event():
    rows = grounding_rows((0.0, 10.0), (0.0, 10.0), np.zeros((0, 2)))
    assert set(rows) == {"model", "random_event", "margin_random"}
    assert rows["margin_random"]["miou"] == 0.0


def test_groups_hold_some_rows_but_not_all():
    assert group_names([("a", "x"), ("b", "x"), ("a", "x")]) == ["a", "b"]
    table = MetricTable()
    for video, group, value in (("v", "a", 1.0), ("w", "b", 0.0), ("w", "a", 0.5)):
        table.add(video, (group,), {"accuracy": value})
    assert table.only("a").values == {"accuracy": [1.0, 0.5]}
    [cell] = table.only("a").estimates(["accuracy"], resamples=10)
    assert cell is not None
    assert (cell.value, cell.items, cell.groups) == (0.75, 2, 2)
    assert table.estimates(["miou"]) == (None,)
