"""The page about a run: what it computes, what it shows, and that nothing of a model's text runs in it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from timechat.answers.events import Event
from timechat.evaluation.benchmarks import BENCHMARKS
from timechat.evaluation.config import BenchmarkSettings, EvaluationRecipe, EvaluationRunSettings
from timechat.evaluation.error_analysis import Bar, analyse
from timechat.evaluation.evaluate import Evaluation
from timechat.evaluation.report_page import write_report_page
from timechat.evaluation.samples import Prediction, Sample, count_statuses
from timechat.evaluation.score import Scores

EVIL = '<script>alert(1)</script> {{cases}} & "quoted"'


def grounded(number: int, truth: tuple[float, float], answer: Event | None) -> tuple[Sample, Prediction, float]:
    """A query about a video of 100 seconds, what was answered, and its IoU."""
    sample = Sample(
        id=str(number),
        video=f"v{number}.mp4",
        task="grounding",
        query=f"query {number} {EVIL}",
        ground_truth={"id": number, "caption": "he runs", "timestamp": list(truth)},
    )
    events = () if answer is None else (answer,)
    status = "unparsed" if answer is None else "ok"
    prediction = Prediction(
        id=sample.id, video=sample.video, task="grounding", duration=100.0, text=EVIL, status=status, events=events
    )
    if answer is None:
        return sample, prediction, 0.0
    overlap = max(0.0, min(answer.end, truth[1]) - max(answer.start, truth[0]))
    return sample, prediction, overlap / (max(answer.end, truth[1]) - min(answer.start, truth[0]))


def evaluation(tmp_path: Path, rows: list[tuple[Sample, Prediction, float]]) -> Evaluation:
    output = tmp_path / "run"
    output.mkdir(exist_ok=True)
    recipe = EvaluationRecipe(
        benchmark=BenchmarkSettings(name="charades_sta", annotations="a", videos=str(tmp_path)),
        run=EvaluationRunSettings(output=str(output)),
    )
    items = {sample.id: {"miou": iou} for sample, _, iou in rows}
    metrics = {"miou": float(np.mean([iou for _, _, iou in rows])) if rows else None}
    scores = {"grounding": Scores("tvg", metrics, {}, items, len(rows), 0, 0)} if rows else {}
    predictions = [prediction for _, prediction, _ in rows]
    metrics = {
        "samples": len(rows),
        "preset": "timechat@1",
        "preset_sha256": "0" * 64,
        "weights": "1" * 64,
        "model": EVIL,
        "statuses": count_statuses(predictions),
    }
    return Evaluation(
        recipe, BENCHMARKS["charades_sta"], [sample for sample, _, _ in rows], predictions, scores, metrics, ""
    )


ROWS = [
    grounded(0, (10, 11), Event(10, 11, score=0.9)),  # 1 s, right
    grounded(1, (50, 54), Event(52, 54, score=0.8)),  # 4 s, IoU 0.5: starts 2 s too late
    grounded(2, (90, 98), Event(0, 8, score=0.7)),  # 8 s, wrong and sure
    grounded(3, (90, 98), Event(0, 4, score=0.2)),  # 8 s, wrong and unsure
    grounded(4, (20, 60), None),  # 40 s, unread
]


def test_figures_go_by_length_and_place_of_the_event(tmp_path: Path):
    charts = {chart.title: chart for chart in analyse(evaluation(tmp_path, ROWS)).charts}
    assert charts["Grounding: mean IoU by the event's length"].bars == (
        Bar("0 to 2 s", 1.0, 1),
        Bar("2 to 5 s", 0.5, 1),
        Bar("5 to 10 s", 0.0, 2),
        Bar("30+ s", 0.0, 1),
    )
    places = charts["Grounding: mean IoU by position in the video"].bars
    assert [(bar.label, bar.value, bar.count) for bar in places] == [
        ("0 to 0.2", 1.0, 1),
        ("0.4 to 0.6", 0.25, 2),
        ("0.8 to 1", 0.0, 2),
    ]
    ious = charts["Grounding: how well answers fit (IoU)"].bars
    assert [bar.count for bar in ious] == [3, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_borders_are_compared_where_the_answer_meets_the_event(tmp_path: Path):
    charts = {chart.title: chart for chart in analyse(evaluation(tmp_path, ROWS)).charts}
    starts = charts["Grounding: start too early (-) or too late (+), seconds"]
    assert {bar.label: bar.count for bar in starts.bars if bar.count} == {"-0.5 to 0.5": 1, "2 to 5": 1}
    assert starts.note == "Median distance 1.00 s, median +1.00 s, of 2 answers with IoU 0.3 or more."


def test_scores_are_held_against_what_they_promise(tmp_path: Path):
    told = analyse(evaluation(tmp_path, ROWS)).reliability
    assert told is not None
    assert sum(one.count for one in told.bins) == 4
    assert told.error == pytest.approx((0.1 + 0.2 + 0.7 + 0.2) / 4)


def test_the_worst_come_first_and_of_equals_the_surest(tmp_path: Path):
    worst = analyse(evaluation(tmp_path, ROWS), num_worst=3).worst
    assert [case.sample.id for case in worst] == ["2", "3", "4"]


def test_moments_of_several_windows_go_by_their_own_figure(tmp_path: Path):
    one = evaluation(tmp_path, ROWS[:1])
    sample = replace(one.samples[0], ground_truth={"qid": 0, "relevant_windows": [[10, 11], [50, 60]]})
    scores = Scores("mr", {"MR-full-mAP": 0.5}, {}, {"0": {"MR-full-mAP": 0.5}}, 1, 0, 0)
    (worst,) = analyse(replace(one, samples=[sample], scores={"grounding": scores})).worst
    assert (worst.metric, worst.value) == ("MR-full-mAP", 0.5)
    assert [(mark.start, mark.end) for mark in worst.truth] == [(10, 11), (50, 60)]


def test_questions_go_by_kind(tmp_path: Path):
    samples = [
        Sample(id=str(i), video="v", task="ask", query="?", answer="a", groups=(f"kind_{i % 2}",)) for i in range(3)
    ]
    predictions = [Prediction(id=str(i), video="v", task="ask", text="b") for i in range(3)]
    items = {str(i): {"accuracy": 0.0} for i in range(3)}
    metrics = {"accuracy": 0.0, "accuracy_kind_0": 0.25, "accuracy_kind_1": 0.5}
    scores = {"questions": Scores("questions", metrics, {}, items, 3, 0, 0)}
    asked = replace(evaluation(tmp_path, []), samples=samples, predictions=predictions, scores=scores)
    assert analyse(asked).charts[-1].bars == (Bar("kind 0", 0.25, 2), Bar("kind 1", 0.5, 1))


def test_nothing_that_a_model_wrote_runs_in_the_page(tmp_path: Path):
    (tmp_path / "v2.mp4").touch()
    page = write_report_page(evaluation(tmp_path, ROWS)).read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{cases}}" in page  # as it was written, not filled in
    assert 'src="../v2.mp4"' in page
    assert "The video file is missing." in page
    assert re.search(r'<button class=true data-time="90.000" style="left:90.00%;width:8.00%"', page)
    assert "://" not in page


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [grounded(1, (0, 5), None)],
        [grounded(1, (0, 5), Event(0, 5))],
        [(*(lambda s, p, i: (s, replace(p, status="missing_video", duration=None, events=()), i))(*ROWS[0]),)],
    ],
    ids=["nothing asked", "nothing read", "no scores, all right", "no video"],
)
def test_a_page_is_made_of_whatever_there_is(rows, tmp_path: Path):
    page = write_report_page(evaluation(tmp_path, list(rows))).read_text()
    assert "</html>" in page
    assert page.count("<script>") == 1
