"""The choice of tokens in vLLM's process, and the logits processors of its two model runners."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from timechat.answers.forms import answer_form
from timechat.answers.grammar import AnswerGrammar
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import Question
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.executor import GenerationBatch, LocalExecutor
from timechat.backbones.timechat.vllm.token_chooser import ARGUMENT, TokenChooser, answer_arguments
from timechat.model.generation.generate import Sampler
from timechat.pipeline import TimeChat

CAPTIONS = DecodingOptions(max_new_tokens=40)


# ── the choice of tokens in the other process ───────────────────────────────────────────────────────────────────


@pytest.fixture
def chooser(exported) -> TokenChooser:
    return TokenChooser(exported, torch.device("cpu"))


def test_a_row_with_wrong_facts_is_ended_alone(own, chooser, caplog) -> None:
    good = chooser.start(answer_arguments(CAPTIONS, answer_form("grounding", duration=9.0).grammar))
    bad = chooser.start({ARGUMENT: "no JSON"})
    broken = chooser.start(answer_arguments(CAPTIONS, AnswerGrammar("start: nothing", None)))
    assert good is not None
    assert bad is not None
    assert broken is not None
    assert "cannot be used" in caplog.text
    logits = torch.zeros(3, own[0].config.text_config.vocab_size)
    forced = chooser.force({0: (bad, []), 1: (good, []), 2: (broken, [])}, logits)
    tokens = forced.argmax(-1).tolist()
    assert [tokens[0], tokens[2]] == [2, 2]
    assert tokens[1] != 2
    assert forced.isfinite().sum(-1).tolist() == [1, 1, 1]


def test_rows_without_rules_keep_their_scores(own, chooser) -> None:
    assert answer_arguments(DecodingOptions(is_free=True), None) is None
    assert chooser.start(None) is None
    logits = torch.randn(2, own[0].config.text_config.vocab_size)
    row = chooser.start(answer_arguments(replace(CAPTIONS, do_sample=True), None))
    assert row is not None
    forced = chooser.force({1: (row, [])}, logits.clone())
    assert torch.equal(forced[0], logits[0])


def test_a_failing_step_ends_only_the_row_that_fails(own, chooser, monkeypatch, caplog) -> None:
    rows = [chooser.start(answer_arguments(CAPTIONS, answer_form("grounding", duration=9.0).grammar)) for _ in range(2)]

    def fail(scores, tokens_left):
        raise OverflowError("too deep")

    monkeypatch.setattr(chooser, "_restart", lambda *_: None)
    monkeypatch.setattr(rows[0].constraint, "most_likely_token", fail)
    logits = torch.zeros(2, own[0].config.text_config.vocab_size)
    tokens = chooser.choose([(rows[0], []), (rows[1], [])], logits)
    assert tokens[0] == 2
    assert tokens[1] != 2
    assert "each row is tried alone" in caplog.text


def test_a_sampler_can_skip_the_draws_of_another() -> None:
    decoding = DecodingOptions(do_sample=True, seed=3, top_k=20)
    scores = torch.randn(12, 1, 500, generator=torch.Generator().manual_seed(0))
    whole, later = Sampler(decoding, torch.device("cpu")), Sampler(decoding, torch.device("cpu"))
    drawn = [int(whole(step)) for step in scores]
    later.skip(7, 500)
    assert [int(later(step)) for step in scores[7:]] == drawn[7:]


# ── the processors of both model runners ────────────────────────────────────────────────────────────────────────


def stand_ins_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules of vLLM that the processors import be empty ones, where vLLM is not installed."""
    names = ["vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor", "vllm.v1.worker"]
    below = "vllm.v1.worker.gpu"
    for name in [*names, below, f"{below}.sample", f"{below}.sample.logits_processor"]:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    interface = ModuleType(f"{below}.sample.logits_processor.interface")
    interface.LogitsProcessor = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    for name in ("processor", "processor_v2"):
        monkeypatch.delitem(sys.modules, f"timechat.backbones.timechat.vllm.{name}", raising=False)


@pytest.fixture
def second_runner(own, exported, monkeypatch):
    """The processor of the second model runner, with three slots of its buffers."""
    stand_ins_of_vllm(monkeypatch)
    from timechat.backbones.timechat.vllm.processor_v2 import AnswerLogitsProcessorV2

    states = SimpleNamespace(
        device=torch.device("cpu"),
        prompt_len=SimpleNamespace(np=np.array([4, 2, 3])),
        all_token_ids=SimpleNamespace(gpu=torch.zeros(3, 200, dtype=torch.int32)),
    )
    config = SimpleNamespace(model_config=SimpleNamespace(model=str(exported)))
    return AnswerLogitsProcessorV2(config, states), states


def step_of(slots: list[int], positions: list[int]) -> SimpleNamespace:
    """Return the layout of one step: a row for each slot, whose last visible token is at a position."""
    return SimpleNamespace(
        idx_mapping_np=np.array(slots), expanded_idx_mapping=torch.tensor(slots), pos=torch.tensor(positions)
    )


def test_the_second_runner_writes_the_same_answer(own, encoded, second_runner) -> None:
    processor, states = second_runner
    grammar = answer_form("dense_caption", duration=encoded.duration).grammar
    sampling = SimpleNamespace(extra_args=answer_arguments(CAPTIONS, grammar))
    assert processor.add_request(2, SimpleNamespace(extra_args=None)) is False
    assert processor.add_request(1, sampling) is True
    [expected] = reference_tokens(own, encoded, grammar)
    scores = torch.zeros(2, own[0].config.text_config.vocab_size)
    first = int(states.prompt_len.np[1])
    processor.apply(scores.clone(), step_of([2, 1], [2, 0]))  # the first half of the prompt; its token is dropped
    for i, token in enumerate(expected):
        raw = scores.clone()
        raw[:, token] = 9.0  # the model's favourite is the token of our engine
        forced = processor.apply(raw.clone(), step_of([2, 1], [2 + i, first - 1 + i]))
        assert torch.equal(forced[0], raw[0])
        assert int(forced[1].argmax()) == token
        states.all_token_ids.gpu[1, first + i] = token


def reference_tokens(own, encoded, grammar) -> list[list[int]]:
    timechat = TimeChat(TimeChatBackbone(*own, name="nano"))
    prompt = timechat.backbone.prompt(encoded, Question("Tell all."), 40)
    batch = GenerationBatch([prompt], [grammar], CAPTIONS)
    return [output.token_ids for output in LocalExecutor(*own).generate(batch)]


def test_the_second_runner_forgets_the_request_of_a_slot(own, second_runner) -> None:
    processor, _ = second_runner
    grounding = answer_arguments(CAPTIONS, answer_form("grounding", duration=9.0).grammar)
    processor.add_request(1, SimpleNamespace(extra_args=grounding))
    processor.add_request(1, SimpleNamespace(extra_args=None))
    logits = torch.randn(1, own[0].config.text_config.vocab_size)
    assert torch.equal(processor.apply(logits.clone(), step_of([1], [1])), logits)
    with pytest.raises(ValueError, match="must be the JSON text"):
        processor.validate_params(SimpleNamespace(extra_args={ARGUMENT: "{}"}))
