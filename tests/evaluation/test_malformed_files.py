"""Files of predictions and truth that are not as they should be: scored as far as they go, and told; never a crash."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from timechat.errors import DataError
from timechat.evaluation.score import Scores, ScoreTask, score_files

SPANS = {"annotations": [{"id": i, "image_id": "v.mp4", "timestamp": [10 * i, 10 * i + 5]} for i in range(4)]}
CLIPS = [
    {
        "qid": i,
        "vid": "v",
        "duration": 10,
        "relevant_clip_ids": [i],
        "saliency_scores": [[4, 4, 4]],
        "relevant_windows": [[2 * i, 2 * i + 2]],
    }
    for i in range(4)
]
CAPTIONS = {
    "annotations": [
        {"image_id": f"v{i}.mp4", "segments": [[0, 5], [5, 9]], "pure_cap": "a man runs. a dog sits down."}
        for i in range(4)
    ]
}
LABELS = [{"vid": f"v{i}", "label": [[5, 1], [1, 5], [1, 1]]} for i in range(4)]
TRUTH: dict[ScoreTask, Any] = {"tvg": SPANS, "vhd": CLIPS, "mr": CLIPS, "dvc": CAPTIONS, "tvsum": LABELS}


@pytest.fixture(autouse=True)
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about reading, and METEOR takes seconds to start."""
    monkeypatch.setattr("timechat.evaluation.metrics.java.find_java", lambda: None)


def score(folder: Path, predictions: Any, task: ScoreTask, truth: Any = None) -> Scores:
    for name, content in (("p", predictions), ("t", TRUTH[task] if truth is None else truth)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    return score_files(folder / "p", folder / "t", task, resamples=5)


# ------------------------------------------------------------------------------------------- one by one


@pytest.mark.parametrize(
    ("row", "hit", "is_unparsed"),
    [
        ({"timestamp": [[0, 5]]}, 1, False),
        ({"timestamp": [[5, 0]]}, 0, False),  # reversed, as in the script
        ({"timestamp": [["0", "5.0"]]}, 1, False),
        ({"timestamp": [0, 5]}, 1, False),
        ({"timestamp": []}, 0, True),
        ({"timestamp": [[0]]}, 0, True),
        ({"timestamp": [[0, None]]}, 0, True),
        ({"timestamp": [[float("nan"), 5]]}, 0, True),
        ({"timestamp": [[0, float("inf")]]}, 0, True),
        ({"timestamp": [[None, None], [0, 5]]}, 0, True),  # the first span only
        ({"timestamp": None}, 0, True),
        ({"timestamp": "0 - 5"}, 0, True),
        ({}, 0, True),
        (None, 0, True),
        ("0 - 5", 1, False),  # a plain answer
        ("It does not happen.", 0, True),
    ],
)
def test_a_query_s_row_is_read_or_counts_as_without_a_span(row: Any, hit: int, is_unparsed: bool, tmp_path: Path):
    scores = score(tmp_path, {"0": row, "99": {"timestamp": [[0, 5]]}}, "tvg")
    assert scores.metrics["r1_iou_0.5"] == hit / 4
    assert scores.metrics["r1_iou_0.5_predicted_only"] == hit
    assert (scores.n_missing, scores.n_unparsed) == (3, int(is_unparsed))
    assert "1 predicted queries are not in the ground truth and were ignored" in scores.notes


def test_without_any_prediction_everything_is_missing(tmp_path: Path):
    for task in TRUTH:
        for nothing in ({}, []):
            scores = score(tmp_path, nothing, task)
            assert scores.n_missing == scores.n_queries == 4
            assert all(not value for name, value in scores.metrics.items() if not name.startswith("para_cider_as"))


def test_of_two_rows_about_a_query_the_later_counts(tmp_path: Path):
    right, wrong = [1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0]
    rows = [{"qid": 0, "pred_saliency_scores": wrong}, {"qid": "0", "pred_saliency_scores": right}]
    scores = score(tmp_path, rows, "vhd")
    assert scores.metrics["hit1_very_good_predicted_only"] == 1.0
    assert "1 queries are predicted twice; the later row counts" in scores.notes


@pytest.mark.parametrize(
    ("given", "hit", "is_predicted"),
    [
        ([1, 0, 0, 0, 0], 1, True),
        ([1], 1, True),  # filled with zeros
        ([1] + [0] * 9, 1, True),  # cut
        ([], 1, True),  # all zero: the first clip
        ([None, 1, 0, 0, 0], 0, True),
        ([float("nan"), 1, 0, 0, 0], 0, True),
        (None, 0, False),
        ("1 2 3", 0, False),
    ],
)
def test_scores_of_clips_are_filled_cut_or_none(given: Any, hit: int, is_predicted: bool, tmp_path: Path):
    other = {"qid": 99, "pred_saliency_scores": [1]}  # a file without any usable row is refused
    scores = score(tmp_path, [{"qid": 0, "pred_saliency_scores": given}, other], "vhd")
    assert scores.metrics["hit1_very_good"] == hit / 4
    assert (scores.metrics["hit1_very_good_predicted_only"] is not None) == is_predicted
    assert scores.n_unparsed == int(not is_predicted)


def test_captions_without_times_or_words_are_counted(tmp_path: Path):
    good = {"timestamp": [5, 0], "caption": "a man runs"}  # reversed: put in order
    bad = [{"timestamp": [1], "caption": "x"}, {"timestamp": None}, {}, None, "x", {"timestamp": [0, float("nan")]}]
    words = [
        {"timestamp": [5, 9], "caption": caption} for caption in (None, 5, "", "|||", "a\u2028b\r\x85c", "x" * 9999)
    ]
    scores = score(tmp_path, {"v0.mp4": [good, *bad, *words], "v1.mp4": None, "v2.mp4": [], "v9.mp4": []}, "dvc")
    assert scores.items["v0.mp4"]["recall_0.9"] == 1.0
    assert scores.items["v0.mp4"]["predictions_per_video"] == 7.0
    assert (scores.n_missing, scores.n_unparsed) == (1, 2)
    assert "6 captions have no readable times and were skipped" in scores.notes


def test_a_summary_of_any_length_is_scored(tmp_path: Path):
    scores = score(tmp_path, {"v0": [9], "v1": None, "v2": [1, "x", float("nan"), 4, 5]}, "tvsum")
    assert scores.n_missing == 1
    assert scores.n_unparsed == 1
    assert scores.items["v0"]["top5_map"] == 0.5  # the first clip is right to one of two


# ------------------------------------------------------------------------------------------------ files


def test_lines_that_are_no_json_are_passed_over(tmp_path: Path):
    row = {"qid": 0, "pred_relevant_windows": [[0, 2, 1.0]]}
    scores = score(tmp_path, f"{json.dumps(row)}\n{{half a line\n\n{json.dumps(row | {'qid': 1})}", "mr")
    assert scores.metrics["MR-full-R1@0.5"] == 0.25
    assert "1 lines are not JSON and were skipped" in scores.notes


def test_compressed_files_and_byte_order_marks_are_read_whatever_the_name(tmp_path: Path):
    (tmp_path / "p.json").write_bytes(gzip.compress(json.dumps({"0": {"timestamp": [[0, 5]]}}).encode()))
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + json.dumps(SPANS).encode())
    assert score_files(tmp_path / "p.json", tmp_path / "t.txt", "tvg", resamples=5).metrics["miou"] == 0.25


@pytest.mark.parametrize("task", list(TRUTH))
@pytest.mark.parametrize("truth", [{}, [], {"annotations": []}, [None, 3], {"annotations": [{"id": 1}]}, "", "no", 7])
def test_a_truth_of_which_nothing_can_be_read_is_refused_in_one_line(task: ScoreTask, truth: Any, tmp_path: Path):
    with pytest.raises(DataError) as error:
        score(tmp_path, {}, task, truth)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "t") in str(error.value)


@pytest.mark.parametrize("content", [b"\x00\xff\xfe\x01", b"\x1f\x8b broken", b"[" * 100_000, "é".encode("latin-1")])
def test_files_that_are_no_text_are_refused(content: bytes, tmp_path: Path):
    (tmp_path / "p").write_bytes(content)
    (tmp_path / "t").write_text(json.dumps(SPANS))
    with pytest.raises(DataError):
        score_files(tmp_path / "p", tmp_path / "t", "tvg")


# ------------------------------------------------------------------------------------------ anything at all

scalars = st.none() | st.booleans() | st.integers(-3, 10**18) | st.floats() | st.text(max_size=5)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.sampled_from(["timestamp", "caption", "qid", "id", "vid", "events", "start", "end", "task", "generated_cap",
                     "pred_relevant_windows", "pred_saliency_scores", "v0.mp4", "v0", "0", "annotations", "results"]),
    inner, max_size=5), max_leaves=25)  # fmt: skip


@pytest.mark.parametrize("task", list(TRUTH))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(predictions={"events": [None], "timestamp": None, "id": []})
@given(predictions=anything)
def test_any_json_is_scored_or_refused(task: ScoreTask, predictions: Any, tmp_path: Path):
    try:
        scores = score(tmp_path, predictions, task)
    except DataError:
        return
    assert scores.n_queries == 4
    assert json.loads(json.dumps(scores.to_dict()))
