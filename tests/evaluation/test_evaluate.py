"""Recipes into predictions, result files and metrics, on every benchmark; stopped, killed, shared, and resumed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.clips import RECIPES as CLIPS
from tests.clips import draw_clip
from timechat.answers.tasks import TASKS, build_question, find_preset
from timechat.cli import app
from timechat.errors import DataError
from timechat.evaluation import ablations
from timechat.evaluation.baselines import report_baselines
from timechat.evaluation.benchmarks import BENCHMARKS as PUBLIC
from timechat.evaluation.config import EvaluationRecipe, read_recipe
from timechat.evaluation.evaluate import finished_predictions, plain_settings, read_samples, run_predictions, score_run
from timechat.evaluation.predict import chunks, find_video
from timechat.evaluation.published import published_beside, published_metrics
from timechat.evaluation.run_folder import RunFolder
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.score import score_files
from timechat.pipeline import TimeChat
from timechat.pipeline.request import Request
from timechat.synthetic.benchmark import SYNTHETIC_BENCHMARKS
from timechat.synthetic.write import SyntheticSet, render_videos
from timechat.video import Frames, load_frames

ALL = {**PUBLIC, **SYNTHETIC_BENCHMARKS}
RECIPES = Path(__file__).parents[2] / "recipes"
DATA = Path(__file__).parents[1] / "data" / "benchmarks"
SMALL = [
    "model.checkpoint=nano",
    "model.lora_alpha=null",
    "model.timestamp_tokenizer=null",
    "decoding.max_new_tokens=12",
]

BENCHMARKS = {
    "youcook2": ("eval_youcook2_zeroshot", "youcook2", "val"),
    "activitynet_captions": ("eval_activitynet_captions", "activitynet/public", "val"),
    "activitynet_grounding": ("eval_activitynet_grounding", "activitynet/public", "val"),
    "charades_sta": ("eval_charades_sta_zeroshot", "charades_sta/public", "test"),
    "qvhighlights": ("eval_qvhighlights_zeroshot", "qvhighlights/public", "val"),
    "egoschema": ("eval_egoschema", "egoschema", "subset"),
    "mvbench": ("eval_mvbench", "mvbench", "val"),
    "tempcompass": ("eval_tempcompass", "tempcompass/questions", "val"),
    "video_mme": ("eval_video_mme", "video_mme/original", "val"),
    "the original's own config": ("timechat", "youcook2", "val"),
}
"""Recipe, made-up annotations and split of each."""
VARIABLES = ("ANNOTATIONS", "VIDEOS", "TRANSCRIPTS")
THINNED = "run.per_video=8"
"""Some questions of every task about each of both videos."""


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions are scored without METEOR, which takes many seconds to start; `test_score.py` scores with it."""
    monkeypatch.setattr("timechat.evaluation.metrics.java.java_is_ready", lambda: False)


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained("nano")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    render_videos(SyntheticSet(2, seed=5, level=1, split="test", part="standard"), folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four minutes in 240 pictures."""
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    draw_clip(replace(CLIPS["constant rate"], times=[Fraction(i) for i in range(240)]), path)
    return path


def drawn_recipe(films: Path, output: Path, *overrides: str) -> EvaluationRecipe:
    given = [f"benchmark.annotations={films}", f"benchmark.videos={films}", f"run.output={output}"]
    return read_recipe(RECIPES / "eval_drawn.yaml", [*given, "run.batch_size=1", "run.resamples=20", *overrides])


@pytest.fixture(scope="module")
def whole(films: Path, nano: TimeChat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = drawn_recipe(films, folder, THINNED)
    assert run_predictions(recipe, read_samples(recipe, ALL), nano) is not None
    return folder


def rows_of(output: Path) -> list[dict[str, Any]]:
    """What was predicted, without what it took."""
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ------------------------------------------------------------------------------------------ every benchmark


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_evaluated_from_its_annotations_to_its_figures(
    name: str, nano: TimeChat, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe_name, annotations, split = BENCHMARKS[name]
    videos = tmp_path / "videos"
    videos.mkdir()
    text = (RECIPES / f"{recipe_name}.yaml").read_text()
    for word in text.replace("}", " ").split("${")[1:]:
        monkeypatch.setenv(word.split()[0], "nano" if "CHECKPOINT" in word.split()[0] else str(tmp_path))
    overrides = [*SMALL, f"benchmark.annotations={DATA / annotations}", f"benchmark.videos={videos}"]
    overrides += [
        f"benchmark.split={split}",
        f"run.output={tmp_path / 'run'}",
        "run.resamples=10",
        "frames.num_frames=8",
    ]
    recipe = read_recipe(RECIPES / f"{recipe_name}.yaml", overrides)
    samples = read_samples(recipe, ALL)
    for number, video in enumerate(dict.fromkeys(sample.video for sample in samples)):
        if number:  # the first one stays missing
            (videos / video).parent.mkdir(parents=True, exist_ok=True)
            (videos / video).with_suffix(".mp4").write_bytes(clip.read_bytes())
    predictions = run_predictions(recipe, samples, nano)
    assert predictions is not None
    assert [one.id for one in predictions] == [sample.id for sample in samples]
    statuses = {one.status for one in predictions}
    assert "missing_video" in statuses
    assert statuses & {"ok", "unparsed"}
    for sample, one in zip(samples, predictions, strict=True):
        query = sample.query.lower() if sample.query and TASKS[sample.task].describes_query else sample.query
        asked = sample.question or build_question(sample.task, query, preset=recipe.preset)  # as nano reads it
        system = find_preset(recipe.preset).system
        start, end = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n<Video><ImageHere></Video> ", f"{asked} [/INST]"
        assert (one.prompt.startswith(start) and one.prompt.endswith(end)) == one.is_answered, one.prompt
    evaluation = score_run(recipe, samples, predictions, benchmarks=ALL, compares=True)
    assert evaluation.scores
    assert "| without a video: no such file |" in evaluation.table
    for one in evaluation.scores.values():
        assert one.n_missing >= 1
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["statuses"]["missing_video"] >= 1
    assert sum(metrics["statuses"].values()) == len(samples)


# --------------------------------------------------------------------------------- stopped, killed, shared


def test_a_run_that_was_stopped_goes_on_to_the_same_predictions(
    films: Path, nano: TimeChat, whole: Path, tmp_path: Path
):
    stopped = drawn_recipe(films, tmp_path / "stopped", THINNED)
    samples = read_samples(stopped, ALL)
    assert {sample.task for sample in samples} == {"grounding", "dense_caption", "highlights", "ask"}
    assert run_predictions(stopped, samples, nano, should_stop=lambda: True) is None
    share = tmp_path / "stopped" / "predictions-0-of-1.jsonl"
    done = share.read_text().splitlines()
    assert 0 < len(done) < len(samples)
    share.write_text("\n".join([*done, done[0][:40]]))  # killed in the middle of a line
    assert finished_predictions(stopped, samples) is None
    assert run_predictions(stopped, samples, nano) is not None
    assert rows_of(tmp_path / "stopped") == rows_of(whole)
    assert not share.exists()
    assert finished_predictions(stopped, samples) is not None


@pytest.mark.slow
def test_shares_of_a_run_make_the_same_predictions_as_one_run(films: Path, nano: TimeChat, whole: Path, tmp_path: Path):
    shared = drawn_recipe(films, tmp_path / "shared", THINNED)
    samples = read_samples(shared, ALL)
    assert run_predictions(shared, samples, nano, shard=(1, 2)) is None
    assert run_predictions(shared, samples, nano, shard=(0, 2)) is not None
    assert rows_of(tmp_path / "shared") == rows_of(whole)


@pytest.mark.slow
def test_a_run_goes_on_only_with_the_settings_that_it_began_with(films: Path, nano: TimeChat, tmp_path: Path):
    recipe = drawn_recipe(films, tmp_path / "run", "run.per_video=4", "run.limit=2")
    run_predictions(recipe, read_samples(recipe, ALL), nano)
    other = drawn_recipe(films, tmp_path / "run", "run.per_video=4", "run.limit=2", "decoding.max_new_tokens=7")
    with pytest.raises(
        DataError, match=r"made with decoding .*'max_new_tokens': 384.* instead of .*'max_new_tokens': 7"
    ):
        finished_predictions(other, read_samples(other, ALL))
    longer = drawn_recipe(films, tmp_path / "run", "run.per_video=4", "run.limit=7")  # questions about both videos
    assert finished_predictions(longer, read_samples(longer, ALL)) is None
    predictions = run_predictions(longer, read_samples(longer, ALL), nano)
    assert predictions is not None
    assert len(predictions) == 7
    assert len(finished_predictions(recipe, read_samples(recipe, ALL)) or []) == 2
    assert len(rows_of(tmp_path / "run")) == 7  # what was answered stays


def test_a_video_that_has_come_since_is_asked_about(films: Path, nano: TimeChat, tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    recipe = drawn_recipe(films, tmp_path / "run", "run.limit=3", f"benchmark.videos={videos}")
    samples = read_samples(recipe, ALL)
    missing = run_predictions(recipe, samples, nano)
    assert missing is not None
    assert {one.status for one in missing} == {"missing_video"}
    assert finished_predictions(recipe, samples) is not None
    name = Path(samples[0].video).name
    (videos / name).write_bytes((films / samples[0].video).read_bytes())
    assert finished_predictions(recipe, samples) is None
    there = run_predictions(recipe, samples, nano)
    assert there is not None
    assert "missing_video" not in {one.status for one in there}


@pytest.mark.slow
def test_an_answer_to_another_question_is_asked_again(films: Path, nano: TimeChat, tmp_path: Path):
    recipe = drawn_recipe(films, tmp_path / "run", "run.limit=2")
    samples = read_samples(recipe, ALL)
    run_predictions(recipe, samples, nano)
    reworded = [replace(one, query=f"{one.query} again") for one in samples]  # the annotations have changed since
    assert finished_predictions(recipe, samples) is not None
    assert finished_predictions(recipe, reworded) is None
    predictions = run_predictions(recipe, reworded, nano)
    assert predictions is not None
    assert [one.query for one in predictions] == [one.query for one in reworded]


def test_a_damaged_video_and_a_prompt_without_room_are_counted(films: Path, nano: TimeChat, tmp_path: Path):
    videos = tmp_path / "videos" / "videos"
    videos.mkdir(parents=True)
    recipe = drawn_recipe(films, tmp_path / "run", f"benchmark.videos={videos.parent}")
    samples = read_samples(recipe, ALL)
    first, second, *_ = dict.fromkeys(sample.video for sample in samples)
    (videos.parent / first).write_bytes(b"no video")
    (videos.parent / second).write_bytes((films / second).read_bytes())
    asked = [
        next(sample for sample in samples if sample.video == video and sample.task == "ask")
        for video in (first, second)
    ]
    asked.append(replace(asked[1], id="long", query="why " * 5000))
    predictions = run_predictions(recipe, asked, nano)
    assert predictions is not None
    assert [one.status for one in predictions] == ["unreadable_video", "ok", "too_long"]


def test_answers_in_windows_are_those_of_the_pipeline(films: Path, nano: TimeChat, tmp_path: Path):
    recipe = drawn_recipe(films, tmp_path / "run", "frames.windows=true")
    asked = [sample for sample in read_samples(recipe, ALL) if sample.task == "grounding"][:2]
    predictions = run_predictions(recipe, asked, nano)
    assert predictions is not None
    for sample, prediction in zip(asked, predictions, strict=True):
        answer = nano.ground(films / sample.video, sample.query or "", find_all=True, threshold=0.0)
        assert prediction.text == answer.text
        assert [(event.start, event.end) for event in prediction.events] == [(e.start, e.end) for e in answer.events]


@pytest.mark.slow
def test_questions_may_be_asked_in_the_wording_of_the_annotations(films: Path, nano: TimeChat, tmp_path: Path):
    recipe = drawn_recipe(films, tmp_path / "run", "benchmark.wording=annotations", "run.limit=6")
    asked = [sample for sample in read_samples(recipe, ALL) if sample.task == "grounding"]
    predictions = run_predictions(recipe, asked, nano)
    assert predictions is not None
    video = nano.encode(films / asked[0].video)
    for sample, prediction in zip(asked, predictions, strict=True):
        assert sample.question is not None
        decoding = replace(recipe.decoding, is_free=False)
        request = Request("grounding", sample.query, decoding=decoding, question=sample.question)
        [answer] = nano.run_all([request], [video])
        assert prediction.text == answer.text
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["wording"] == "annotations"
    plain = drawn_recipe(films, tmp_path / "run", "run.limit=6")
    assert "wording" not in plain_settings(plain)


def test_annotations_without_a_wording_are_refused(tmp_path: Path):
    settings = [f"benchmark.annotations={DATA / 'charades_sta/public'}", f"benchmark.videos={tmp_path}"]
    settings += ["benchmark.name=charades_sta", "benchmark.wording=annotations", "benchmark.split=test"]
    recipe = read_recipe(RECIPES / "eval_drawn.yaml", settings)
    with pytest.raises(DataError, match=r"has no wording of its own; set benchmark\.wording=preset"):
        read_samples(recipe, ALL)


def test_the_settings_of_a_run_are_those_that_0_1_wrote(films: Path, tmp_path: Path):
    settings = plain_settings(drawn_recipe(films, tmp_path, "frames.windows=true"))
    assert sorted(settings) == sorted(
        ["benchmark", "transcripts", "model", "frames", "preset", "preset_sha256", "decoding", "batch_size"]
    )
    assert sorted(settings["frames"]) == ["fps", "max_frames", "num_frames", "windows"]
    later = plain_settings(
        drawn_recipe(films, tmp_path, "frames.windows=true", "frames.step=1", "moments.threshold=null")
    )
    assert later["frames"]["step"] == 1
    assert later["moments"] == {"find_all": True, "threshold": None}


@pytest.mark.parametrize("option", ["model.dtype=int8", "model.quantize=int8"])
def test_int8_runs_of_0_1_do_not_match_the_new_rounding(films: Path, tmp_path: Path, option: str):
    assert plain_settings(drawn_recipe(films, tmp_path, option))["int8"] == "one scale per channel and token"


def test_the_settings_name_a_quantization_only_if_there_is_one(films: Path, tmp_path: Path):
    assert "quantize" not in plain_settings(drawn_recipe(films, tmp_path))["model"]
    assert plain_settings(drawn_recipe(films, tmp_path, "model.quantize=int4"))["model"]["quantize"] == "int4"


def test_samples_about_one_video_are_thinned_evenly(films: Path, tmp_path: Path):
    every = read_samples(drawn_recipe(films, tmp_path), ALL)
    thinned = read_samples(drawn_recipe(films, tmp_path, "run.per_video=3"), ALL)
    first = [sample.id for sample in every if sample.video == every[0].video]
    assert [sample.id for sample in thinned[:3]] == [first[0], first[len(first) // 3], first[2 * len(first) // 3]]
    assert len(thinned) == 6


@pytest.mark.slow
def test_all_moments_are_predicted_with_found_and_score(films: Path, nano: TimeChat, tmp_path: Path):
    given = [f"benchmark.annotations={films}", f"benchmark.videos={films}", f"run.output={tmp_path / 'run'}"]
    recipe = read_recipe(RECIPES / "eval_drawn_moments.yaml", [*given, "run.limit=3", "run.resamples=10"])
    samples = read_samples(recipe, ALL)
    predictions = run_predictions(recipe, samples, nano)
    assert predictions is not None
    for sample, prediction in zip(samples, predictions, strict=True):
        answer = nano.ground(films / sample.video, sample.query or "", find_all=True, threshold=0.0)
        assert prediction.found == answer.found
        assert prediction.score == pytest.approx(answer.score)
    evaluation = score_run(recipe, samples, predictions, benchmarks=ALL)
    assert evaluation.scores["grounding"].task == "moments"
    assert "| found_recall |" in evaluation.table
    assert "random_event" in report_baselines(evaluation).to_dict()["tables"]["moments"]


def test_baselines_are_written_beside_the_metrics(films: Path, whole: Path):
    arguments = ["evaluate", str(RECIPES / "eval_drawn.yaml"), "--output", str(whole), "--baselines", "-q"]
    for setting in (
        f"benchmark.annotations={films}",
        f"benchmark.videos={films}",
        "run.batch_size=1",
        "run.resamples=20",
        THINNED,
    ):
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    markdown = (whole / "baselines.md").read_text()
    assert markdown in result.output
    content = json.loads((whole / "baselines.json").read_text())
    metrics = json.loads((whole / "metrics.json").read_text())
    assert content["weights"] == metrics["weights"]
    ours = content["tables"]["grounding"]["model"]["miou"]["value"]
    assert ours == pytest.approx(metrics["scores"]["grounding"]["miou"])
    assert "random_span" in content["tables"]["grounding"]


@pytest.mark.slow
def test_killed_in_the_middle_the_command_goes_on_to_the_same_figures(
    films: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "")  # without Java, which takes seconds to start
    arguments = ["evaluate", str(RECIPES / "eval_drawn.yaml"), "--json"]
    for setting in (
        f"benchmark.annotations={films}",
        f"benchmark.videos={films}",
        "run.batch_size=1",
        "run.resamples=10",
        THINNED,
    ):
        arguments += ["--set", setting]
    command = [sys.executable, "-m", "timechat", *arguments, "--output", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    share = tmp_path / "killed" / "predictions-0-of-1.jsonl"
    until = time.monotonic() + 120
    while not (share.exists() and share.stat().st_size) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    shutil.copytree(whole, tmp_path / "whole")
    results = []
    for name in ("killed", "whole"):
        done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        results.append(json.loads(done.stdout) | {"seconds": None})
    assert results[0] == results[1]
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


# ------------------------------------------------------------------------------------- what a run leaves


def test_result_files_score_the_same_by_timechat_score(films: Path, whole: Path, tmp_path: Path):
    recipe = drawn_recipe(films, whole, THINNED)
    samples = read_samples(recipe, ALL)
    predictions = finished_predictions(recipe, samples)
    assert predictions is not None
    evaluation = score_run(recipe, samples, predictions, benchmarks=ALL)
    results = whole / "results"
    grounding = score_files(
        results / "grounding" / "fmt_drawn_test_fauto_result.json",
        results / "grounding" / "test.caption_coco_format.json",
        "tvg",
        resamples=20,
    )
    assert grounding.metrics == evaluation.scores["grounding"].metrics
    raw = results / "grounding" / "drawn_test_fauto_result.json"
    again = score_files(raw, results / "grounding" / "test.caption_coco_format.json", "tvg", resamples=20)
    assert again.metrics == grounding.metrics
    asked = {sample.id for sample in samples}
    lines = (films / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(line for line in lines if json.loads(line)["id"] in asked))
    ours = score_files(whole / "predictions.jsonl", tmp_path / "records.jsonl", "tvg", resamples=20)
    assert ours.metrics["miou"] == grounding.metrics["miou"]
    run = json.loads((whole / "run.json").read_text())
    assert {"torch", "transformers"} <= set(run["versions"])
    assert len(run["settings"]["weights"]) == len(run["settings"]["preset_sha256"]) == 64
    assert read_recipe(whole / "recipe.yaml") == recipe


def test_chosen_options_are_the_likeliest(films: Path, whole: Path):
    recipe = drawn_recipe(films, whole, THINNED)
    samples = read_samples(recipe, ALL)
    predictions = finished_predictions(recipe, samples)
    assert predictions is not None
    chosen = [(s, p) for s, p in zip(samples, predictions, strict=True) if s.rank_options]
    assert chosen
    for sample, prediction in chosen:
        assert len(prediction.option_logprobs) == len(sample.options) >= 2
        assert prediction.text == sample.options[int(np.argmax(prediction.option_logprobs))]


def test_blank_and_shuffled_frames_keep_the_timestamps(
    films: Path, nano: TimeChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Frames] = []
    encode = ablations.encode_frames

    def record(model: Any, processor: Any, frames: Frames, **options: Any) -> torch.Tensor:
        seen.append(frames)
        return encode(model, processor, frames, **options)

    monkeypatch.setattr(ablations, "encode_frames", record)
    recipe = drawn_recipe(films, tmp_path / "run")
    [sample] = read_samples(recipe, ALL)[:1]
    path, config = films / sample.video, nano.model.config
    for name in ("blank-frames", "shuffled-frames"):
        look = ablations.ABLATIONS[name].look
        assert look is not None
        assert look(nano, path, sample, recipe).num_frames == len(seen[-1])
    blank, shuffled = seen
    frames = load_frames(path, size=config.frame_size, **config.default_sampling())
    assert not blank.pixels.any()
    assert sorted(map(bytes, shuffled.pixels)) == sorted(map(bytes, frames.pixels))
    assert not np.array_equal(shuffled.pixels, frames.pixels)
    for one in seen:
        np.testing.assert_array_equal(one.timestamps, frames.timestamps)


@pytest.mark.slow
def test_ablations_change_what_the_model_is_shown_and_leave_it_as_it_was(films: Path, nano: TimeChat, tmp_path: Path):
    recipe = drawn_recipe(films, tmp_path / "run", "run.limit=4", "decoding.max_new_tokens=32")
    samples = read_samples(recipe, ALL)
    predictions = run_predictions(recipe, samples, nano)
    assert predictions is not None
    scores = score_run(recipe, samples, predictions, benchmarks=ALL).scores
    before = nano.model.config.window_size
    table = ablations.run_ablations(recipe, samples, scores, nano, benchmarks=ALL)
    assert nano.model.config.window_size == nano.processor.config.window_size == before
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == 2 + len(ablations.ABLATIONS)
    assert table == (tmp_path / "run" / "ablations.md").read_text()
    texts = {name: rows_of(tmp_path / "run" / "ablations" / name) for name in ablations.ABLATIONS}
    assert all(rows != rows_of(tmp_path / "run") for rows in texts.values())
    assert run_predictions(replace(recipe, run=replace(recipe.run, output=str(tmp_path / "again"))), samples, nano)
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "run")  # nothing of the ablations stays


# ----------------------------------------------------------------------------------------------- parts


def sample(name: str, video: str) -> Sample:
    return Sample(id=name, video=video, task="ask", query="what?")


def test_chunks_hold_whole_videos_in_order_of_first_appearance():
    samples = [sample("1", "a"), sample("2", "b"), sample("3", "a"), sample("4", "c")]
    assert [[one.id for one in chunk] for chunk in chunks(samples, 2)] == [["1", "3", "2"], ["4"]]


def test_videos_are_found_without_their_folders_and_under_other_endings(tmp_path: Path):
    (tmp_path / "a.mkv").touch()
    assert find_video(tmp_path, "val/a.mp4") == tmp_path / "a.mkv"
    assert find_video(tmp_path, "b.mp4") is None


def test_a_line_cut_inside_a_letter_is_ignored_and_then_removed(tmp_path: Path):
    run = RunFolder(tmp_path)
    first, second = (Prediction(id=name, video="v", task="ask", text="où") for name in ("1", "2"))
    run.add([first])
    share = tmp_path / "predictions-0-of-1.jsonl"
    whole = share.read_bytes()
    share.write_bytes(whole + whole[: whole.index("ù".encode()) + 1])
    assert run.predictions() == {"1": first}
    run.add([second])
    assert run.predictions() == {"1": first, "2": second}


def test_predictions_with_unusual_line_ends_come_back(tmp_path: Path):
    folder = RunFolder(tmp_path)
    kept = [Prediction(id="1", video="a", task="ask", text="one\u2028two\x85three\nfour")]
    folder.add(kept)
    assert list(folder.predictions().values()) == kept


def test_every_published_figure_has_a_source_and_a_unit_of_ours():
    assert len(published_metrics()) > 50
    for one in published_metrics():
        assert one.source.get("title")
        assert one.setting in ("zero-shot", "fine-tuned")
        assert all(0 <= value <= 1 for value in one.metrics.values()), one
    models = {one.model for one in published_beside("charades_sta", "zero-shot", ["r1_iou_0.5"])}
    assert "TimeChat-7B" in models


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.yaml"], "there is no recipe nowhere.yaml"),
        ([str(RECIPES / "eval_drawn.yaml"), "--shard", "5/4"], "--shard takes I/N with I from 1 to N"),
        ([str(RECIPES / "eval_drawn.yaml"), "--shard", "1/4", "--fresh"], "--fresh would delete"),
        ([str(RECIPES / "eval_drawn.yaml"), "--set", "benchmark.name=coco"], "benchmark.name must be one of youcook2"),
        ([str(RECIPES / "eval_drawn.yaml"), "--set", "preset=mine"], "there is no prompt preset 'mine'"),
        ([str(RECIPES / "eval_drawn.yaml"), "--set", "benchmark.video=x"], "did you mean videos?"),
    ],
)
def test_bad_settings_are_told(arguments: list[str], told: str):
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert told in str(result.exception)
