"""Files of other tools and of the benchmarks: read as what they are, or refused with the keys found and expected."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.errors import DataError
from timechat.evaluation.readers import video_key
from timechat.evaluation.score import Scores, ScoreTask, score_files

SPANS = {"annotations": [{"id": i, "image_id": f"v{i}.mp4", "timestamp": [10 * i, 10 * i + 10]} for i in range(4)]}
CAPTIONS = {
    "annotations": [
        {"image_id": "v_a.mp4", "segments": [[0, 5], [5, 9]], "pure_cap": "A man runs. A dog sits."},
        {"image_id": "v_b.mp4", "segments": [[1, 8]], "pure_cap": "A cat sleeps."},
    ]
}
WINDOWS = [
    {"qid": i, "vid": "v_0.0_150.0", "query": "q", "duration": 150, "relevant_windows": [[20 * i, 20 * i + 10]]}
    for i in range(2)
]
CLIPS = [row | {"relevant_clip_ids": [3], "saliency_scores": [[4, 4, 4]]} for row in WINDOWS]


@pytest.fixture(autouse=True)
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about reading, and METEOR takes seconds to start."""
    monkeypatch.setattr("timechat.evaluation.metrics.java.find_java", lambda: None)


def score(folder: Path, predictions: Any, task: ScoreTask, truth: Any) -> Scores:
    for name, content in (("p", predictions), ("t", truth)):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return score_files(folder / "p", folder / "t", task, resamples=5)


def refused(folder: Path, predictions: Any, task: ScoreTask, truth: Any) -> str:
    with pytest.raises(DataError) as error:
        score(folder, predictions, task, truth)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{folder / 'p'}: ")


# ------------------------------------------------------------------------------------------------- grounding


@pytest.mark.parametrize(
    "predictions",
    [
        {"1": "The given query happens in 10.0 - 20.0 seconds.", "2": "Nothing happens."},
        [{"id": 1, "start": 10, "end": 20.0}, {"id": 2, "start": None, "end": None}],
        {"1": {"start": "10", "end": 20}, "2": {}},
        {"id": 1, "timestamp": [10, 20]},  # the only line of a JSON Lines file
        [{"qid": 1, "id": "v1", "timestamp": [[10, 20], [0, 3]]}, {"qid": 2, "id": "v1", "timestamp": []}],
    ],
)
def test_a_span_is_read_in_each_known_format(predictions: Any, tmp_path: Path):
    scores = score(tmp_path, predictions, "tvg", SPANS)
    assert scores.metrics["r1_iou_0.7"] == 0.25
    assert not any("twice" in note for note in scores.notes)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            [{"qid": 1, "answer": "10 - 20"}],
            "no row has a prediction that can be read; the rows have the keys 'qid', 'answer' (ids '1'); expected "
            "'timestamp': [[start, end]]",
        ),
        ([{"qid": 1, "span": [[10, 20]], "pred": [[0, 9]]}], "no row has a prediction that can be read; the rows"),
        ([{"id": 1, "timestamp": [["0:10", "0:20"]]}], "the keys 'id', 'timestamp' (ids '1')"),
        ({"1": None, "2": 7}, "the rows have null and numbers (ids '1', '2')"),
        ({"1": "A man.", "2": "A dog."}, "the rows have texts (ids '1', '2')"),
        ([{"response": "10 - 20 s"}], "no row has an id; the rows have the keys 'response'; expected rows with 'qid'"),
        ([[10, 20], [20, 30]], "its 2 rows are lists; expected rows with 'qid' or 'id', or an object {id: row}"),
        (
            {"1.0": [10, 20], "2.0": [20, 30]},
            "none of its queries is in the ground truth; it has '1.0', '2.0', and the ground truth has '0', '1', "
            "'2', ...; give predictions for the same queries",
        ),
        ({"v.mp4>>>a wheel.": "The query happens in 10 - 20 seconds."}, "it has 'v.mp4>>>a wheel.'"),
        ("", "is empty (0 bytes) and so contains no JSON"),
        (" \n", "is empty (2 bytes) and so contains no JSON"),
    ],
)
def test_spans_in_another_format_are_refused(predictions: Any, message: str, tmp_path: Path):
    assert message in refused(tmp_path, predictions, "tvg", SPANS)


def test_rows_without_an_id_are_counted_and_not_double(tmp_path: Path):
    scores = score(
        tmp_path, [{"timestamp": [0, 1]}, {"timestamp": [0, 2]}, {"id": 1, "timestamp": [10, 20]}], "tvg", SPANS
    )
    assert scores.notes == ("2 rows name no query and were skipped",)


def test_lines_of_charades_sta_are_a_ground_truth(tmp_path: Path):
    lines = "AAA 0.0 10.0##a person runs.\n\nAAA 10.0 20.0##he sits ## down.\nno line\nBBB 30 40##a dog.\n"
    scores = score(tmp_path, {"0": [0, 10], "1": [10, 20], "3": [30, 40]}, "tvg", lines)
    assert (scores.metrics["miou"], scores.n_queries) == (1.0, 3)
    assert scores.notes == ("1 lines of the ground truth are not VIDEO START END##SENTENCE and were skipped",)


def test_sentences_of_activitynet_are_numbered_queries(tmp_path: Path):
    truth = {
        "v_a": {"duration": 9, "timestamps": [[0, 5], [9, 5]], "sentences": ["A.", "B."]},
        "v_b": {"duration": 8, "timestamps": [[1, 8]], "sentences": ["C."]},
    }
    assert score(tmp_path, {"0": [0, 5], "1": [5, 9], "2": [1, 8]}, "tvg", truth).metrics["miou"] == 1.0


# ------------------------------------------------------------------------------------------- dense captions

EVENTS = {"v_a": [([0, 5], "A man runs."), ([5, 9], "A dog sits.")], "v_b": [([1, 8], "A cat sleeps.")]}


@pytest.mark.parametrize("extension", ["", ".mp4", ".MKV"])
@pytest.mark.parametrize(
    "shape",
    [
        lambda events: [{"timestamp": span, "caption": text} for span, text in events],
        lambda events: [{"timestamp": span, "sentence": text} for span, text in events],
        lambda events: [{"segment": span, "sentence": text} for span, text in events],
        lambda events: [{"start": span[0], "end": span[1], "caption": text} for span, text in events],
        lambda events: {"timestamps": [span for span, _ in events], "sentences": [text for _, text in events]},
        lambda events: "  ".join(f"{start}.0 - {end}.0 seconds, {text}" for (start, end), text in events),
    ],
)
def test_captions_are_read_in_each_known_format(extension: str, shape: Any, tmp_path: Path):
    predicted = {f"{video}{extension}": shape(events) for video, events in EVENTS.items()}
    for content in (predicted, {"results": predicted, "version": "VERSION 1.0"}):
        scores = score(tmp_path, content, "dvc", CAPTIONS)
        assert (scores.metrics["f1"], scores.n_missing) == (1.0, 0)
        assert list(scores.items) == ["v_a.mp4", "v_b.mp4"]


@pytest.mark.parametrize(
    "truth",
    [
        {video: {"timestamps": [s for s, _ in es], "sentences": [t for _, t in es]} for video, es in EVENTS.items()},
        {
            "database": {
                video: {"annotations": [{"segment": s, "sentence": t} for s, t in es]} for video, es in EVENTS.items()
            }
        },
    ],
)
def test_files_of_the_caption_benchmarks_are_truth(truth: Any, tmp_path: Path):
    predicted = {
        f"{video}.mp4": [{"timestamp": s, "caption": t} for s, t in events] for video, events in EVENTS.items()
    }
    scores = score(tmp_path, predicted, "dvc", truth)
    assert (scores.metrics["f1"], scores.n_queries, scores.n_missing) == (1.0, 2, 0)
    assert (
        scores.metrics["soda_c_exact_stem"] == score(tmp_path, predicted, "dvc", CAPTIONS).metrics["soda_c_exact_stem"]
    )


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([{"video": "v_a.mp4", "answer": "0 - 5 s, A."}], "the rows have the keys 'video', 'answer' (ids 'v_a.mp4')"),
        (
            {"v_a.mp4": [{"from": 0, "to": 5}]},
            "the rows have the keys 'from', 'to' (ids 'v_a.mp4'); expected a list of",
        ),
        ([{"caption": "A."}], "no row has an id; the rows have the keys 'caption'"),
        ({"w": []}, "none of its videos is in the ground truth; it has 'w', and the ground truth has 'v_a.mp4', "),
    ],
)
def test_captions_in_another_format_are_refused(predictions: Any, message: str, tmp_path: Path):
    assert message in refused(tmp_path, predictions, "dvc", CAPTIONS)


def test_one_video_with_two_true_rows_counts_once(tmp_path: Path):
    truth = [{"image_id": name, "segments": [[0, 5]], "pure_cap": "A man runs."} for name in ("v_a", "v_a.mp4")]
    scores = score(tmp_path, {"v_a": [{"timestamp": [0, 5], "caption": "A man."}]}, "dvc", truth)
    assert (scores.n_queries, scores.metrics["f1"]) == (1, 1.0)
    assert "1 videos of the ground truth have two rows; the later row counts" in scores.notes


@given(st.text(st.sampled_from("ab._0/"), min_size=1, max_size=9), st.sampled_from([".mp4", ".webm", ".MOV"]))
def test_an_extension_never_changes_which_video_it_is(name: str, extension: str):
    if not name.endswith("/"):
        assert video_key(f"folder/{name}{extension}") == video_key(name)


def test_numbers_in_the_name_of_a_video_are_no_extension():
    assert video_key("kitchen_0.0_150.0") == "kitchen_0.0_150.0"


# ------------------------------------------------------------------------------------------------ QVHighlights


def test_one_bare_window_is_that_window(tmp_path: Path):
    rows = [{"qid": 0, "pred_relevant_windows": [0, 10, 0.9]}, {"qid": 1, "pred_relevant_windows": [20, 30]}]
    scores = score(tmp_path, rows, "mr", WINDOWS)
    assert (scores.metrics["MR-full-R1@0.7"], scores.n_unparsed, scores.notes) == (1.0, 0, ())


def test_queries_without_a_true_window_are_counted(tmp_path: Path):
    truth = [*WINDOWS, {"qid": 7, "vid": "v", "duration": 150, "relevant_windows": []}]
    scores = score(tmp_path, {"0": {"pred_relevant_windows": [[0, 10]]}}, "mr", truth)
    assert scores.n_queries == 2
    assert scores.notes == ("1 queries of the ground truth have no windows (relevant_windows) and were left out",)


@pytest.mark.parametrize(
    ("task", "predictions", "message"),
    [
        ("mr", [{"query": "q", "pred_relevant_windows": [[0, 9]]}], "no row has an id; the rows have the keys 'query'"),
        ("mr", [{"qid": 0, "pred_saliency_scores": [1]}], "expected 'pred_relevant_windows': [[start, end, score]"),
        ("vhd", [{"qid": 0, "pred_relevant_windows": [[0, 9]]}], "expected 'pred_saliency_scores': [score, ...]"),
        ("vhd", [{"id": 0, "timestamps": [[10]], "scores": [[3]]}], "the keys 'id', 'timestamps', 'scores' (ids '0')"),
        ("vhd", [[0.3, 1.0], [0.1]], "its 2 rows are lists; expected rows with 'qid' or 'id'"),
    ],
)
def test_other_rows_of_qvhighlights_are_refused(task: ScoreTask, predictions: Any, message: str, tmp_path: Path):
    assert message in refused(tmp_path, predictions, task, CLIPS)
