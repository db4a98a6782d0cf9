"""Evaluation of models that are not TimeChat's: TimeLens-Bench with a random model."""

from pathlib import Path

import pytest

from tests.backbones.transformers.tiny import save_tiny
from timechat.evaluation.config import read_recipe
from timechat.evaluation.evaluate import load_timechat, read_samples, run_predictions, score_run
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "eval_timelens.yaml"


@pytest.fixture
def recipe_of(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv("TIMELENS_BENCH", str(ROOT / "tests/data/benchmarks/timelens"))
    for i, name in enumerate(("3MSZA", "v_AAAA")):
        write_video(write_scene(3, i, level=1), tmp_path / "videos" / f"{name}.mp4")

    def read(*settings: str):
        paths = [f"benchmark.videos={tmp_path / 'videos'}", f"run.output={tmp_path / 'run'}"]
        return read_recipe(RECIPE, [*paths, *settings])

    return read


def test_the_recipe_has_the_prompt_and_sampling_of_timelens2(recipe_of):
    recipe = recipe_of()
    assert (recipe.preset, recipe.frames.fps, recipe.model.picture_side) == ("timelens2@1", 2.0, 480)
    assert recipe.model.checkpoint == "MCG-NJU/TimeLens2-4B"


def test_a_model_of_transformers_is_evaluated(recipe_of, tmp_path):
    folder = save_tiny("qwen3_vl", tmp_path / "model", text={"max_position_embeddings": 16384})
    recipe = recipe_of(
        f"model.checkpoint={folder}", "model.picture_side=64", "decoding.max_new_tokens=40", "decoding.is_free=false"
    )
    samples = read_samples(recipe)
    predictions = run_predictions(recipe, samples, load_timechat(recipe.model))
    assert [prediction.status for prediction in predictions] == ["ok"] * 3
    assert all(prediction.prompt.startswith('Given the query: "A ') for prediction in predictions)
    metrics = score_run(recipe, samples, predictions).metrics
    assert 0.0 <= metrics["scores"]["grounding"]["miou"] <= 1.0
