"""The list of known models."""

import json
from pathlib import Path

import pytest

from timechat.backbones.catalog import MODELS, RECOMMENDED, models_within, recommended

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("memory", RECOMMENDED)
def test_recommended_models_fit_the_memory(memory):
    assert set(recommended(memory)) <= {model.name for model in models_within(memory)}


def test_a_machine_below_8_gb_gets_no_recommendation():
    assert recommended(7.9) is None
    assert [model.name for model in models_within(1.2)] == ["nano"]


def test_metrics_have_a_source():
    assert all((model.metrics is None) == (model.source is None) for model in MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_page_of_models_has_the_facts_of_the_command(model):
    name = model.name.split(" (")[0]
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}`")]
    row = next(line for line in rows if model.tried in line)
    metrics = "–" if model.metrics is None else " / ".join(f"{value:g}" for value in model.metrics)
    facts = [f"{model.download:g}", f"{model.memory:g}", model.licence or "see its page", model.good_at, metrics]
    assert [cell.strip() for cell in row.split("|")[2:7]] == facts


def test_the_command_lists_what_fits_the_memory(run):
    status, out, _ = run("models", "--memory", "16", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["models"][0]["name"] == "MCG-NJU/TimeLens2-4B"
    assert found["recommended"] == ["qwen3-vl:4b (a server such as Ollama)", "MCG-NJU/TimeLens2-4B"]


def test_the_command_says_that_a_small_device_has_no_advice(run):
    _, out, _ = run("models", "--memory", "4")
    assert out.startswith("HuggingFaceTB/SmolVLM2-500M-Video-Instruct\n")
    assert out.endswith("recommended for 4 GB: none of these; give the address of a server, http://HOST/v1#NAME\n")


def test_the_command_says_what_was_tried(run):
    _, out, _ = run("models")
    assert "tried: a random model of this architecture" in out
    assert "licence: see its page" in out
