"""Synthetic videos as a benchmark: their samples, and the tables beside the baselines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timechat.answers.events import Event
from timechat.answers.tasks import parse_events
from timechat.data.records import Record, write_lines
from timechat.evaluation.baselines import report_baselines
from timechat.evaluation.benchmarks import BenchmarkFiles
from timechat.evaluation.config import read_recipe
from timechat.evaluation.evaluate import Evaluation
from timechat.evaluation.samples import Prediction, Sample
from timechat.synthetic.benchmark import (
    SYNTHETIC_BENCHMARKS,
    matched_captions,
    read_drawn,
    read_drawn_moments,
    training_spans,
)
from timechat.synthetic.folder import StoredVideo, read_videos
from timechat.synthetic.long import write_long_scene
from timechat.synthetic.long_records import long_records
from timechat.synthetic.scene import COLORS

RECIPE = Path(__file__).parents[2] / "recipes" / "eval_drawn.yaml"


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[StoredVideo]:
    return read_videos(folder)


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    return list(read_drawn(BenchmarkFiles(folder, folder, own_wording=True)))


def predict(samples: list[Sample], answer: Callable[[Sample], str]) -> list[Prediction]:
    predictions = []
    for sample in samples:
        text = answer(sample)
        events = tuple(parse_events(text, task=sample.task, duration=sample.duration).events)
        status: Any = "ok" if events or sample.task == "ask" else "unparsed"
        predictions.append(
            Prediction(id=sample.id, video=sample.video, task=sample.task, text=text, status=status, events=events)
        )
    return predictions


def tables_of(samples: list[Sample], predictions: list[Prediction]) -> dict[str, Any]:
    recipe = read_recipe(RECIPE, ["run.resamples=20"])
    facts = {"name": "t", "benchmark": "drawn", "split": "test", "model": "m", "weights": "w" * 8, "preset": "p"}
    benchmark = SYNTHETIC_BENCHMARKS["drawn"]
    run = Evaluation(recipe, benchmark, samples, predictions, {}, facts | {"samples": len(samples)}, "")
    content: dict[str, Any] = json.loads(json.dumps(report_baselines(run).to_dict()))
    return content["tables"]


def reference_answers(videos: list[StoredVideo]) -> dict[str, str]:
    return {record.id: record.turns[0][1] for video in videos for record in video.records}


# --------------------------------------------------------------------------------------------------- samples


def test_samples_carry_kind_and_part_as_groups(videos: list[StoredVideo], samples: list[Sample]):
    grounding = [sample for sample in samples if sample.task == "grounding" and sample.video == videos[0].video]
    assert [sample.groups[:2] for sample in grounding] == [(event.kind, "standard") for event in videos[0].events]
    choices = [sample for sample in samples if sample.options]
    assert {sample.groups[0] for sample in choices} == {"choice"}
    assert all(sample.rank_options and sample.answer in sample.options for sample in choices)


def test_questions_have_the_wording_of_the_records_only_if_wanted(folder: Path, samples: list[Sample]):
    records = {record.id: record for video in read_videos(folder) for record in video.records}
    worded = [sample for sample in samples if sample.task != "ask"]
    assert all(sample.question == records[sample.id].turns[0][0] for sample in worded)
    plain = list(read_drawn(BenchmarkFiles(folder, folder)))
    assert {sample.question for sample in plain} == {None}
    assert [sample.id for sample in plain] == [sample.id for sample in samples]


def test_queries_for_nothing_are_samples_of_moments_only(folder: Path, samples: list[Sample]):
    moments = list(read_drawn_moments(BenchmarkFiles(folder, folder)))
    absent = [sample for sample in moments if not sample.ground_truth["relevant_windows"]]
    assert absent
    assert {sample.groups[1] for sample in absent} == {"absent"}
    assert not {sample.id for sample in absent} & {sample.id for sample in samples}


def test_a_query_of_a_long_video_has_all_its_moments(tmp_path: Path):
    chain = write_long_scene(5, 0, minutes=10, split="test")
    write_lines(tmp_path / "records.jsonl", (record.to_dict() for record in long_records(chain)))
    write_lines(tmp_path / "truth.jsonl", [chain.to_dict()])
    samples = list(read_drawn_moments(BenchmarkFiles(tmp_path, tmp_path)))
    assert {sample.groups[0] for sample in samples} == {"10_min"}
    assert any(len(sample.ground_truth["relevant_windows"]) > 1 for sample in samples)
    assert len(samples[0].ground_truth["video_events"]) == sum(len(scene.actions) for scene in chain.parts)


# ---------------------------------------------------------------------------------------------------- tables


def test_reference_answers_have_the_best_metrics(videos: list[StoredVideo], samples: list[Sample]):
    answers = reference_answers(videos)
    tables = tables_of(samples, predict(samples, lambda sample: answers[sample.id.removesuffix(":choice")]))
    grounding = tables["grounding"]
    assert list(grounding) == [
        "model", "other_event", "margin_other_event", "random_event", "margin_random", "random_span", "constant_span"
    ]  # fmt: skip
    assert grounding["model"]["r1_iou_0.7"]["value"] == 1.0
    assert {row["r1_iou_0.5"]["items"] for row in grounding.values()} == {sum(len(v.events) for v in videos)}
    assert grounding["random_event"]["r1_iou_0.5"]["value"] < 0.5
    margin = 1 - grounding["random_event"]["miou"]["value"]
    assert grounding["margin_random"]["miou"]["value"] == pytest.approx(margin)
    by_group = tables["grounding_by_group"]
    assert {"standard", "unseen_pairs", "longer", "without_speech", videos[0].events[0].kind} <= set(by_group)
    assert by_group["longer"]["miou"]["value"] == 1.0
    assert tables["dense_caption"]["model"]["f1"]["value"] == pytest.approx(1.0)
    assert tables["dense_caption"]["other_video"]["f1"]["value"] < 0.6
    assert tables["matched_captions"]["model"]["all"]["value"] == 1.0
    assert tables["highlights"]["model"]["map_fair"]["value"] == 1.0
    assert 0 < tables["highlights"]["random_clip"]["hit1_fair"]["value"] < 0.7
    assert tables["questions"]["all"]["accuracy"]["value"] == 1.0
    assert 0 < tables["questions"]["all"]["majority"]["value"] < 0.9
    assert tables["choices"]["all"]["accuracy"]["value"] == 1.0
    assert tables["choices"]["all"]["guessing"]["value"] < 0.5


def test_the_answer_about_another_event_has_a_negative_margin(videos: list[StoredVideo], samples: list[Sample]):
    asked = [sample for sample in samples if sample.task == "grounding" and sample.video == videos[0].video]
    answers = reference_answers(videos)
    shifted = {sample.id: answers[asked[i - 1].id] for i, sample in enumerate(asked)}
    grounding = tables_of(asked, predict(asked, lambda sample: shifted[sample.id]))["grounding"]
    assert grounding["margin_other_event"]["r1_iou_0.5"]["value"] < 0
    assert grounding["margin_random"]["r1_iou_0.5"]["value"] < 0


def test_unparsed_answers_score_nothing_and_are_counted(videos: list[StoredVideo], samples: list[Sample]):
    asked = [sample for sample in samples if sample.video == videos[0].video]
    tables = tables_of(asked, predict(asked, lambda _: "blue blue"))
    for task, metric in (("grounding", "miou"), ("dense_caption", "f1"), ("highlights", "hit1_fair")):
        row = tables[task]["model"]
        assert (row[metric]["value"], row["unparsed"]["value"]) == (0.0, 1.0)


def test_a_wrong_color_shows_in_matched_captions(samples: list[Sample]):
    sample = next(sample for sample in samples if sample.task == "dense_caption")
    text = str(sample.ground_truth["pure_cap"])
    color = next(color for color in COLORS if color not in text)
    for other in COLORS:
        text = text.replace(other, color)
    captions = text.rstrip(".").split(". ")
    spans = sample.ground_truth["segments"]
    events = tuple(Event(start, end, words) for (start, end), words in zip(spans, captions, strict=True))
    prediction = Prediction(id=sample.id, video=sample.video, task="dense_caption", events=events)
    [table] = matched_captions([sample], [prediction])
    row = table.to_dict()["model"]
    assert (row["color"]["value"], row["action"]["value"], row["all"]["value"]) == (0.0, 1.0, 0.0)


def test_training_spans_are_shares_of_the_duration():
    spans = training_spans(1, videos=5)
    assert spans.shape[1] == 2
    assert (spans[:, 0] < spans[:, 1]).all()
    assert 0 < spans.min() < spans.max() <= 1
    np.testing.assert_array_equal(spans, training_spans(1, videos=5))


def test_every_event_of_a_video_is_asked_for(videos: list[StoredVideo], samples: list[Sample]):
    for video in videos:
        spans = [
            tuple(s.ground_truth["timestamp"]) for s in samples if s.task == "grounding" and s.video == video.video
        ]
        assert sorted(spans) == sorted(event.span for event in video.events)


def test_records_of_one_video_are_one_clip(samples: list[Sample], videos: list[StoredVideo]):
    records: list[Record] = [record for video in videos for record in video.records]
    assert {sample.clip for sample in samples} == {(record.video, None, None) for record in records}
