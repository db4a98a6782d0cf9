"""Options of the original's evaluation: `--sample_num` and `--post_check`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.clips import RECIPES as CLIPS
from tests.clips import draw_clip
from timechat.answers.prompts import POST_CHECKS
from timechat.answers.tasks import build_question
from timechat.cli import app
from timechat.config import load_resolved
from timechat.evaluation.config import EvaluationRecipe, read_recipe
from timechat.evaluation.evaluate import plain_settings, read_samples, run_predictions, score_run
from timechat.pipeline import TimeChat
from timechat.pipeline.request import Request

RECIPES = Path(__file__).parents[2] / "recipes"
DATA = Path(__file__).parents[1] / "data" / "benchmarks"
SHORT = ["model.checkpoint=nano", "decoding.max_new_tokens=12", "frames.num_frames=4", "run.resamples=10"]


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained("nano")


@pytest.fixture(autouse=True, scope="module")
def _environment() -> Iterator[None]:
    """The variables of the recipes, which `recipe_of` replaces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timechat.evaluation.metrics.java.java_is_ready", lambda: False)
        patch.setenv("TIMECHAT_CHECKPOINT", "nano")
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short video, under the name of every video of the made-up annotations."""
    folder = tmp_path_factory.mktemp("videos")
    draw_clip(replace(CLIPS["constant rate"], times=[Fraction(i) for i in range(20)]), folder / "clip.mp4")
    for name in ("charades_sta", "qvhighlights", "youcook2"):
        for sample in read_samples(recipe_of(name, folder, folder / "none")):
            if not (folder / sample.video).exists():
                (folder / sample.video).parent.mkdir(exist_ok=True)
                (folder / sample.video).symlink_to(folder / "clip.mp4")
    for number in range(9):
        (folder / f"V{number}.mp4").symlink_to(folder / "clip.mp4")
    lines = (f"V{number} 0 {number + 1}##a person opens door {number}." for number in range(9))
    (folder / "nine.txt").write_text("\n".join(lines))
    return folder


def recipe_of_nine(videos: Path, output: Path, *overrides: str) -> EvaluationRecipe:
    return recipe_of("charades_sta", videos, output, f"benchmark.annotations={videos / 'nine.txt'}", *overrides)


def recipe_of(name: str, videos: Path, output: Path, *overrides: str) -> EvaluationRecipe:
    annotations = DATA / ("youcook2" if name == "youcook2" else f"{name}/public")
    given = [f"benchmark.annotations={annotations}", f"benchmark.videos={videos}", f"run.output={output}"]
    return read_recipe(RECIPES / f"eval_{name}_zeroshot.yaml", [*given, *SHORT, *overrides])


# ----------------------------------------------------------------------------------------------- random subsets


def test_a_random_subset_has_a_seed_and_grows(videos: Path, tmp_path: Path):
    def ids(*overrides: str) -> list[str]:
        return [sample.id for sample in read_samples(recipe_of_nine(videos, tmp_path, *overrides))]

    every = ids()
    subsets = [ids(f"run.sample_num={count}") for count in range(1, len(every) + 1)]
    assert [len(subset) for subset in subsets] == list(range(1, len(every) + 1))
    assert all(set(small) < set(large) for small, large in pairwise(subsets))
    assert all(subset == [one for one in every if one in subset] for subset in subsets)
    assert ids("run.sample_num=99") == every
    assert ids("run.sample_num=2", "run.limit=1") == subsets[1][:1]
    seeds = [ids("run.sample_num=2", f"run.sample_seed={seed}") for seed in range(6)]
    assert len({tuple(subset) for subset in seeds}) > 1


def test_the_default_subset_never_changes(videos: Path, tmp_path: Path):
    recipe = recipe_of_nine(videos, tmp_path, "run.sample_num=4")
    assert [sample.id for sample in read_samples(recipe)] == ["1", "2", "5", "6"]


def test_a_stopped_run_of_a_subset_resumes_exactly(nano: TimeChat, videos: Path, tmp_path: Path):
    options = ("run.sample_num=3", "run.batch_size=1", "run.sample_seed=3")
    whole = recipe_of_nine(videos, tmp_path / "whole", *options)
    expected = run_predictions(whole, read_samples(whole), nano)
    stopped = recipe_of_nine(videos, tmp_path / "stopped", *options)
    assert run_predictions(stopped, read_samples(stopped), nano, should_stop=lambda: True) is None
    again = load_resolved(EvaluationRecipe, tmp_path / "stopped" / "recipe.yaml")
    assert (again.run.sample_num, again.run.sample_seed) == (3, 3)
    assert run_predictions(again, read_samples(again), nano) == expected
    assert expected is not None
    table = score_run(again, read_samples(again), expected).table
    assert "3 samples (random subset, seed 3), greedy, preset" in table
    assert json.loads((tmp_path / "stopped" / "metrics.json").read_text())["sample_seed"] == 3


# -------------------------------------------------------------------------------------------------- second turn


@pytest.mark.parametrize("name", ["charades_sta", "qvhighlights", "youcook2"])
def test_a_second_turn_asks_to_correct_the_answer(name: str, nano: TimeChat, videos: Path, tmp_path: Path):
    once = recipe_of(name, videos, tmp_path / "once", "run.limit=2")
    twice = replace(once, post_check=True, run=replace(once.run, output=str(tmp_path / "twice")))
    samples = read_samples(twice)
    first, second = (run_predictions(recipe, samples, nano) for recipe in (once, twice))
    assert first is not None
    assert second is not None
    assert [one.first_answer for one in second] == [one.text for one in first]
    assert all(one.first_answer == "" for one in first)
    for sample, before, after in zip(samples, first, second, strict=True):
        query = sample.query.lower() if sample.query else None  # as nano reads it
        turn = (build_question(sample.task, query, preset=twice.preset), before.text)
        request = Request(
            sample.task,
            sample.query,
            (turn,),
            twice.decoding,
            twice.preset,
            question=POST_CHECKS[sample.task],
        )
        video = nano.encode(videos / sample.video, num_frames=4)
        assert after.text == nano.run_all([request], [video])[0].text
        assert after.prompt.startswith(f"{before.prompt} {before.text}")
        assert after.prompt.endswith(f"[INST] {POST_CHECKS[sample.task]} [/INST]")
    score_run(twice, samples, second)
    [formatted] = (tmp_path / "twice" / "results").glob("*/fmt_*_result.json")
    rows = json.loads(formatted.with_name(formatted.name.removeprefix("fmt_")).read_text())
    assert [(row["generated_cap"], row["first_answer"]) for row in rows] == [
        (one.text, one.first_answer) for one in second
    ]
    arguments = ["evaluate", str(RECIPES / f"eval_{name}_zeroshot.yaml"), "--post-check", "--limit", "2", "-q"]
    given = [f"benchmark.annotations={twice.benchmark.annotations}", f"benchmark.videos={videos}", *SHORT]
    for setting in (*given, f"run.output={tmp_path / 'twice'}"):
        arguments += ["--set", setting]
    assert "greedy, with a second turn (post_check), preset" in CliRunner().invoke(app, arguments).stdout


def test_a_second_turn_is_a_setting_of_the_run(videos: Path, tmp_path: Path):
    recipe = recipe_of("charades_sta", videos, tmp_path)
    settings, checked = plain_settings(recipe), plain_settings(replace(recipe, post_check=True))
    assert {key for key in checked if checked[key] != settings.get(key)} == {"post_check_sha256"}


def test_a_second_turn_needs_events_and_whole_videos(videos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="post_check continues the conversation about one window"):
        recipe_of("charades_sta", videos, tmp_path, "post_check=true", "frames.windows=true")
    given = [f"benchmark.annotations={DATA / 'egoschema'}", f"benchmark.videos={videos}", "post_check=true", *SHORT]
    with pytest.raises(ValueError, match="asks again about dense_caption, grounding, highlights, and egoschema has"):
        read_samples(read_recipe(RECIPES / "eval_egoschema.yaml", given))
