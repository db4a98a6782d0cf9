"""`timechat score` against the metrics that the original's scripts and their upstreams gave, and cases by hand."""

import gzip
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from timechat.cli import app
from timechat.errors import DataError, JavaError
from timechat.evaluation.metrics.java import MeteorProcess, java_is_ready, tokenize_ptb
from timechat.evaluation.metrics.summaries import top_5_average_precision
from timechat.evaluation.score import NO_JAVA_NOTE, Scores, ScoreTask, score_files

HERE = Path(__file__).parents[1] / "data" / "metrics"
BESIDE = Path(__file__).parents[3] / "shared" / "reference" / "metrics"
needs_java = pytest.mark.skipif(not java_is_ready(), reason="the official METEOR needs Java")

CAPTIONS = [
    "s01_example_full", "s02_oracle", "s03_jitter", "s04_missing_videos", "s05_empty_lists", "s06_messy_times",
    "s07_text_stress", "s08_single_event",
]  # fmt: skip


@pytest.fixture(scope="module")
def meteor_process() -> Iterator[MeteorProcess | None]:
    """METEOR takes many seconds to start; None without Java."""
    if not java_is_ready():
        yield None
        return
    with MeteorProcess() as process:
        yield process


@pytest.fixture
def meteor(meteor_process: MeteorProcess | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions are scored by the one METEOR of this file."""
    if meteor_process is not None:
        monkeypatch.setattr("timechat.evaluation.metrics.java.MeteorProcess", lambda: nullcontext(meteor_process))


def case(name: str) -> Path:
    """The folder of a recorded case: of ours, or of the reference where that lies beside the project."""
    folder = HERE / name if (HERE / name).is_dir() else BESIDE / name
    if not folder.is_dir():
        pytest.skip(f"the recorded case {name} is not here: the reference's metrics do not lie beside the project")
    return folder


def one_of(folder: Path, name: str) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name.startswith(name))


def expected(folder: Path) -> dict[str, Any]:
    path = one_of(folder, "expected")
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def scored(folder: Path, task: ScoreTask, *, truth: Path | None = None) -> Scores:
    return score_files(one_of(folder, "pred"), truth or one_of(folder, "gt"), task, resamples=10)


# ------------------------------------------------------------------------------------- against recorded metrics


@needs_java
@pytest.mark.usefixtures("meteor")
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in CAPTIONS[:2]), *CAPTIONS[2:]]
)
def test_captions_score_what_the_original_s_scripts_give(name: str):
    folder = case(f"dvc/{name}")
    recorded = expected(folder)
    script = recorded["reference"]
    scores = scored(folder, "dvc")
    metrics = {
        "soda_c": recorded["SODA_c_corrected_sorted"],
        "soda_c_as_published": script["SODA_c_as_published"],
        "cider": script["CIDEr" if "CIDEr" in script else "CIDER"],
        "meteor": script["METEOR"],
        "precision": script["Precision_Mean"],
        "recall": script["Recall_Mean"],
        "f1": script["F1_Score"],
        "para_cider": recorded["paragraph_corrected"]["Para_CIDER"],
        "para_meteor": recorded["paragraph_corrected"]["Para_METEOR"],
        "para_cider_as_published": script["Para_CIDER"],
        "para_meteor_as_published": script["Para_METEOR"],
        "predictions_per_video": script["n_preds"],
    }
    metrics |= {f"{kind.lower()}_{t}": script[f"{kind}@{t}"] for kind in ("Precision", "Recall") for t in (0.3, 0.9)}
    assert {key: scores.metrics[key] for key in metrics} == pytest.approx(metrics, abs=1e-6)
    assert scores.n_queries == recorded["n_videos"]


@needs_java
@pytest.mark.usefixtures("meteor")
def test_captions_of_each_video_score_what_the_original_s_script_gives():
    folder = case("dvc/s03_jitter")
    scores = scored(folder, "dvc")
    per_video = expected(folder)["per_video"]
    assert len(per_video) > 10
    names = {"CIDER": "cider", "METEOR": "meteor", "F1_Score": "f1", "SODA_c_corrected_sorted": "soda_c"}
    compared = 0
    for video, recorded in per_video.items():
        for theirs, ours in names.items():
            if theirs in recorded:
                assert scores.items[video][ours] == pytest.approx(recorded[theirs], abs=1e-6)
                compared += 1
    assert compared >= len(per_video)


@pytest.mark.parametrize("name", ["s01_example", "s02_jitter", "s03_messy", "s04_boundaries"])
def test_grounding_scores_what_the_original_s_script_gives(name: str):
    folder = case(f"tvg/{name}")
    recorded = expected(folder)
    scores = scored(folder, "tvg")
    for suffix, mode in (("", "full"), ("_predicted_only", "sample")):
        script = recorded["script"][mode]
        if not isinstance(script, dict) or "R@1,IoU=0.3" not in script:
            continue  # where fewer queries are predicted than asked, the script stops
        for threshold in (0.3, 0.5, 0.7):
            metric = scores.metrics[f"r1_iou_{threshold}{suffix}"]
            assert metric is not None
            assert metric * 100 == pytest.approx(script[f"R@1,IoU={threshold}"], abs=1e-9)
    mode = "_predicted_only" if recorded["use_sample_flag"] else ""
    metric = scores.metrics[f"miou{mode}"]
    assert metric is not None
    assert metric * 100 == pytest.approx(recorded["derived"]["mIoU_percent"], abs=1e-9)


@pytest.mark.parametrize("name", ["s01_example_full", "s02_noisy_gt", "s03_messy", "s04_missing_dup"])
def test_highlights_score_what_the_original_s_script_gives(name: str):
    folder = case(f"vhd/{name}")
    recorded = expected(folder)
    scores = scored(folder, "vhd")
    levels = {"fair": "Fair", "good": "Good", "very_good": "VeryGood"}
    for ours, theirs in levels.items():
        script = recorded["unrounded"][f"HL-min-{theirs}"]
        for metric, key in ((f"map_{ours}", "HL-mAP"), (f"hit1_{ours}", "HL-Hit1")):
            predicted_only, over_all = scores.metrics[f"{metric}_predicted_only"], scores.metrics[metric]
            assert predicted_only is not None
            assert over_all is not None
            assert predicted_only * 100 == pytest.approx(script[key], abs=1e-4)
            share = recorded["n_queries_scored"] / recorded["n_gt"]
            assert over_all == pytest.approx(predicted_only * share)  # queries without a prediction count as 0
    assert scores.n_missing == recorded["n_gt"] - recorded["n_queries_scored"]


@pytest.mark.parametrize("name", ["s01_moment_detr_sample", "s02_noisy", "s03_messy"])
def test_moment_retrieval_scores_what_the_official_script_gives(name: str):
    folder = case(f"mr/{name}")
    recorded = expected(folder)["figures"]
    scores = scored(folder, "mr")
    wanted = dict(recorded["brief"])
    for length in ("full", "long", "middle", "short"):
        for kind in ("R1", "mAP"):
            wanted |= {
                f"MR-{length}-{kind}@{t}": v for t, v in recorded[length][f"MR-{kind}"].items() if t != "average"
            }
    ours = {key: 100 * (scores.metrics[key] or 0.0) for key in wanted}
    assert ours == pytest.approx(wanted, abs=0.005 + 1e-9)
    assert len(wanted) >= 80


@pytest.mark.parametrize("name", ["s01_mean_label", "s02_random"])
def test_tvsum_scores_what_the_usual_rule_gives(name: str):
    folder = case(f"tvsum/{name}")
    recorded = expected(folder)
    scores = scored(folder, "tvsum", truth=one_of(folder.parent, "gt"))
    assert scores.metrics["top5_map"] == pytest.approx(recorded["mAP_top5"], abs=1e-9)
    ours = {video: metrics["top5_map"] for video, metrics in scores.items.items()}
    assert ours == pytest.approx(recorded["per_video"], abs=1e-9)


# --------------------------------------------------------------------------------------------------- by hand


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@needs_java
@pytest.mark.usefixtures("meteor")
def test_an_exact_copy_of_more_than_ten_captions_scores_1_unless_scored_as_published(tmp_path: Path):
    words = ["chop", "fry", "boil", "peel", "stir", "bake", "mix", "pour", "slice", "serve", "taste", "wash"]
    captions = [f"{word} the {other} slowly" for word, other in zip(words, reversed(words), strict=True)]
    spans = [[10 * i, 10 * i + 9] for i in range(len(words))]
    truth = {"image_id": "v.mp4", "segments": spans, "pure_cap": ". ".join(captions) + "."}
    pairs = zip(spans, captions, strict=True)
    predicted = {"v.mp4": [{"timestamp": span, "caption": caption} for span, caption in pairs]}
    scores = score_files(
        write(tmp_path / "p.json", predicted), write(tmp_path / "t.json", {"annotations": [truth]}), "dvc"
    )
    assert scores.metrics["soda_c"] == pytest.approx(1.0)
    assert (scores.metrics["soda_c_as_published"] or 0) < 0.9
    assert scores.metrics["soda_c_exact_stem"] == pytest.approx(1.0)


def test_without_java_what_needs_it_is_null_and_approximations_have_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("timechat.evaluation.metrics.java.find_java", lambda: None)
    truth = {"image_id": "v.mp4", "segments": [[0, 9], [10, 20]], "pure_cap": "a man runs. a dog sits down."}
    predicted = {"v.mp4": [{"timestamp": [0, 9], "caption": "a man running"}]}
    scores = score_files(
        write(tmp_path / "p.json", predicted), write(tmp_path / "t.json", {"annotations": [truth]}), "dvc"
    )
    for name in ("meteor", "soda_c", "soda_c_as_published", "cider", "para_meteor"):
        assert scores.metrics[name] is None
    assert (scores.metrics["meteor_exact_stem"] or 0) > 0.3
    assert scores.metrics["recall"] == 0.5
    assert NO_JAVA_NOTE in scores.notes


def test_a_summary_that_picks_what_every_annotator_likes_scores_1():
    labels = [[5, 4]] * 5 + [[1, 2]] * 10
    assert top_5_average_precision(list(range(15, 0, -1)), labels) == 1.0
    assert top_5_average_precision(list(range(15)), labels) == 0.0


def test_the_best_of_five_at_the_second_place_has_a_quarter_of_the_area():
    labels = [[0], [5]] + [[0]] * 8
    # precision falls from 1 to 0 at recall 0, then rises to 1/2 at recall 1: the trapezoid is (0 + 1/2) / 2
    assert top_5_average_precision([9, 8, 7, 6, 5, 0, 0, 0, 0, 0], labels) == 0.25


def test_our_predictions_and_records_are_scored_as_well(tmp_path: Path):
    record = {
        "id": "q1",
        "video": "videos/a.mp4",
        "task": "grounding",
        "query": "he runs",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}],
        "events": [{"start": 2.0, "end": 6.0}],
    }
    other = record | {"id": "q2"}
    row = {"id": "q1", "video": "videos/a.mp4", "task": "grounding", "text": "", "status": "ok"}
    row["events"] = [{"start": 2.0, "end": 6.0, "caption": "", "score": None}]
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [record, other])) + "\n")
    scores = score_files(tmp_path / "p.jsonl", tmp_path / "t.jsonl", "tvg")
    assert (scores.metrics["miou"], scores.metrics["miou_predicted_only"], scores.n_missing) == (0.5, 1.0, 1)


def test_the_original_s_unread_results_are_read_on_the_way(tmp_path: Path):
    truth = {"annotations": [{"id": 7, "image_id": "a.mp4", "caption": "he runs", "timestamp": [2, 6]}]}
    raw = [{"vname": "a.mp4", "generated_cap": "The event happens in 2.0 - 6.0 seconds.", "query": "he runs", "id": 7}]
    scores = score_files(write(tmp_path / "p.json", raw), write(tmp_path / "t.json", truth), "tvg")
    assert scores.metrics["r1_iou_0.7"] == 1.0


def test_highlights_in_words_are_read_at_their_clip_and_as_published_one_clip_early(tmp_path: Path):
    truth = {"qid": 1, "vid": "a", "query": "q", "duration": 20, "relevant_clip_ids": [4], "saliency_scores": [[4, 4]]}
    text = "There are 1 highlight moments in the 8.0 second. Their saliency scores are 3.0."
    raw = [{"vname": "a.mp4", "generated_cap": text, "query": "q", "id": 1}]
    (tmp_path / "t.jsonl").write_text(json.dumps(truth))
    scores = score_files(write(tmp_path / "p.json", raw), tmp_path / "t.jsonl", "vhd")
    assert scores.metrics["hit1_very_good"] == 1.0
    assert scores.metrics["hit1_very_good_as_published"] == 0.0
    assert "hit1_very_good_as_published" not in scored(case("mr/s03_messy"), "mr").metrics


def test_moments_that_are_missing_or_none_score_nothing_and_reversed_ones_are_put_in_order(tmp_path: Path):
    truth = [
        {"qid": i, "query": "q", "vid": f"v{i}", "duration": 150, "relevant_windows": [[20, 40]]} for i in range(4)
    ]
    predicted = [
        {"qid": 0, "pred_relevant_windows": [[20, 40, 0.9]]},
        {"qid": 1, "pred_relevant_windows": [[40, 20, 0.9]]},
        {"qid": 2, "pred_relevant_windows": []},
    ]
    for name, rows in (("t", truth), ("p", predicted)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scores = score_files(tmp_path / "p.jsonl", tmp_path / "t.jsonl", "mr")
    assert scores.metrics["MR-full-mAP"] == scores.metrics["MR-full-R1@0.5"] == 0.5
    assert scores.metrics["MR-short-mAP"] is None
    assert (scores.n_queries, scores.n_missing, scores.n_unparsed) == (4, 1, 1)


def test_the_command_prints_one_flat_object(tmp_path: Path):
    folder = case("tvg/s04_boundaries")
    files = [str(one_of(folder, "pred")), str(one_of(folder, "gt"))]
    result = CliRunner().invoke(app, ["score", *files, "--task", "tvg", "--json"])
    printed = json.loads(result.stdout)
    assert {"r1_iou_0.3", "r1_iou_0.5", "r1_iou_0.7", "miou", "miou_predicted_only"} <= set(printed)
    assert {"n_queries", "n_missing", "n_unparsed", "ci"} <= set(printed)
    low, high = printed["ci"]["miou"]
    assert low <= printed["miou"] <= high
    table = CliRunner().invoke(app, ["score", *files, "--task", "tvg"])
    assert f"| miou | {printed['miou']:.4f} |" in table.stdout


def test_files_that_are_nothing_of_the_task_are_refused(tmp_path: Path):
    empty = write(tmp_path / "empty.json", [])
    truth = write(tmp_path / "t.json", {"annotations": [{"id": 1, "timestamp": [0, 1]}]})
    with pytest.raises(DataError, match="has no readable ground truth; expected"):
        score_files(empty, empty, "tvg")
    with pytest.raises(DataError, match="no such file"):
        score_files(tmp_path / "nowhere.json", truth, "tvg")
    (tmp_path / "no.json").write_text("one two three")
    with pytest.raises(DataError, match="is neither JSON nor JSON Lines"):
        score_files(empty, tmp_path / "no.json", "vhd")


# --------------------------------------------------------------------------------------------- Java programs


@needs_java
def test_odd_captions_keep_their_lines_and_their_pairs(meteor_process: MeteorProcess):
    odd = ["", "a\nb", "a\u2028b\x85c\rd", "|||", "x ||| y", "\ud800 alone", "it's", "(so)", "café – 🙂", " "]
    tokens = tokenize_ptb(odd)
    assert len(tokens) == len(odd)
    assert tokens[0] == tokens[9] == ""
    assert tokens[1] == "a b"
    assert tokens[6] == "it 's"
    assert tokens[7] == "-lrb- so -rrb-"
    assert meteor_process.statistics([(one, two) for one in odd for two in odd]).shape == (100, 23)


@needs_java
def test_a_meteor_that_has_ended_is_told_and_none_is_left_behind():
    with MeteorProcess() as meteor:
        meteor._process.kill()
        meteor._process.wait()
        with pytest.raises(JavaError, match="METEOR did not answer to 'SCORE "):
            meteor.statistics([("a", "b")])
    assert meteor._process.poll() is not None
