"""Everything around vLLM that needs no vLLM: folders, prompts, checks, the choice of tokens, options."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.backbones.timechat.stand_in import StandInEngine
from tests.cli.conftest import run_command
from timechat.answers.forms import answer_form
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import Question
from timechat.backbones.loading import load_backbone
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.executor import GenerationBatch, LocalExecutor
from timechat.backbones.timechat.facts import model_fingerprint
from timechat.backbones.timechat.vllm.adapters import engine_arguments, read_adapter
from timechat.backbones.timechat.vllm.executor import VllmExecutor, VllmWriter
from timechat.backbones.timechat.vllm.folder import FACTS_FILE, export_language_model
from timechat.backbones.timechat.vllm.options import check_options, default_options, runs_in_one_process
from timechat.backbones.timechat.vllm.requests import ModelFacts, continuation, mixed_prompt
from timechat.errors import CheckpointError, EngineError, PromptTooLongError
from timechat.evaluation.config import BenchmarkSettings, EvaluationRecipe, EvaluationRunSettings
from timechat.evaluation.evaluate import read_samples, run_predictions
from timechat.model import NANO_FOLDER
from timechat.model.generation.generate import Prompt
from timechat.model.loading import load_model
from timechat.model.lora import attach_adapter, save_adapter
from timechat.model.partial_loading import load_without_language_model
from timechat.model.quantization import quantization_config
from timechat.pipeline import Request, TimeChat

CAPTIONS = DecodingOptions(max_new_tokens=40)
KINDS: dict[str, tuple[Request, ...]] = {
    "captions": (Request("dense_caption", decoding=CAPTIONS),),
    "grounding": (Request("grounding", "the blue star", decoding=CAPTIONS),),
    "drawn": (Request("dense_caption", decoding=replace(CAPTIONS, do_sample=True, seed=7)),),
    "free": (Request("ask", "What happens?", decoding=replace(CAPTIONS, is_free=True)),),
    "penalty": (Request("ask", "What happens?", decoding=replace(CAPTIONS, repetition_penalty=1.3, min_new_tokens=9)),),
    "schema": (
        Request(
            "ask",
            "What happens?",
            decoding=replace(CAPTIONS, json_schema='{"type": "object", "properties": {"a": {"enum": [7]}}}'),
        ),
    ),
}


@pytest.fixture
def engine(own, exported) -> StandInEngine:
    return StandInEngine(own[0], exported)


def with_engine(own, engine: StandInEngine) -> TimeChat:
    writer = VllmWriter(*own, engine, dtype=torch.float32, facts={"weights": "abc"})
    return TimeChat(TimeChatBackbone(*own, name="nano", executor=VllmExecutor(own[0], writer)))


# ── without the language model ──────────────────────────────────────────────────────────────────────────────────


def test_a_model_without_language_model_encodes_the_same(own, encoded, video_path) -> None:
    model, processor, dtype = load_without_language_model("nano", device="cpu", dtype="float32")
    assert dtype == torch.float32
    assert all(weight.is_meta for weight in model.language_model.parameters())
    assert not any(weight.is_meta for weight in model.frame_encoder.parameters())
    assert model_fingerprint(model, processor) == model_fingerprint(*own)
    tokens = TimeChat(TimeChatBackbone(model, processor, name="nano")).encode(video_path).content
    assert torch.equal(tokens, encoded.content)


def test_a_folder_without_vision_weights_is_refused(tmp_path) -> None:
    for path in NANO_FOLDER.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            (tmp_path / path.relative_to(NANO_FOLDER)).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(NANO_FOLDER)).write_bytes(path.read_bytes())
    save_file({"language_model.model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not hold this model's weights: missing: frame_encoder"):
        load_without_language_model(str(tmp_path), device="cpu")


# ── the exported folder ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_exported_folder_is_the_language_model(own, exported) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    expected = own[0].language_model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert json.loads((exported / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert json.loads((exported / FACTS_FILE).read_text()) == {
        "vocab_size": own[0].config.text_config.vocab_size,
        "eos_token_ids": [2],
        "chat_style": own[1].chat_style,
    }


def test_a_second_export_writes_nothing(own, exported) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.iterdir()}
    again = export_language_model(NANO_FOLDER, *own, exported.parent)
    assert again.path == exported
    assert {path: path.stat().st_mtime_ns for path in exported.iterdir()} == before


def test_the_adapter_is_merged_at_the_given_strength(converted, golden_model, golden_processor, tmp_path) -> None:
    half = export_language_model(converted, golden_model, golden_processor, tmp_path, lora_scale=0.5)
    full = export_language_model(converted, golden_model, golden_processor, tmp_path)
    assert half.digest != full.digest
    assert (half.lora_scale, full.lora_scale) == (0.5, golden_model.lora_scale)
    name = "model.layers.0.self_attn.q_proj"
    layer = golden_model.language_model.get_submodule(name)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    written = load_file(half.path / "model.safetensors")[f"{name}.weight"]
    assert written.dtype == torch.float32
    torch.testing.assert_close(written, layer.base_layer.weight + 0.5 * product)


def test_a_strength_without_an_adapter_is_refused(own, tmp_path) -> None:
    with pytest.raises(ValueError, match="has no LoRA adapter"):
        export_language_model(NANO_FOLDER, *own, tmp_path, lora_scale=0.5)


# ── answers through a stand-in of the engine ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_own_engine(kind, own, engine, encoded) -> None:
    for request in KINDS[kind]:
        expected = TimeChat(TimeChatBackbone(*own, name="nano")).run(request, encoded)
        answer = with_engine(own, engine).run(request, encoded)
        assert answer.text == expected.text
        assert [event.score for event in answer.events] == pytest.approx([event.score for event in expected.events])
    assert (engine.requests[0].arguments is None) == (kind == "free")


def test_an_evaluation_has_the_answers_of_the_own_engine(own, engine, video_path, tmp_path) -> None:
    network, processor, _ = load_without_language_model("nano", device="cpu", dtype="float32")
    writer = VllmWriter(network, processor, engine, dtype=torch.float32, facts={"weights": "abc"})
    theirs = TimeChatBackbone(network, processor, name="nano", executor=VllmExecutor(network, writer))
    annotations = tmp_path / "moments.txt"
    annotations.write_text(f"{video_path.stem} 0 1##the blue star.")
    answers = []
    for name, backbone in {"own": TimeChatBackbone(*own, name="nano"), "vllm": theirs}.items():
        recipe = EvaluationRecipe(
            benchmark=BenchmarkSettings(
                name="charades_sta", annotations=str(annotations), videos=str(video_path.parent)
            ),
            decoding=CAPTIONS,
            run=EvaluationRunSettings(output=str(tmp_path / name)),
        )
        predictions = run_predictions(recipe, read_samples(recipe), TimeChat(backbone))
        assert predictions is not None
        answers.append([(each.status, each.text) for each in predictions])
    assert answers[0] == answers[1]
    assert [status for status, _ in answers[0]] == ["ok"]


@pytest.mark.parametrize("kind", ["captions", "drawn"])
def test_a_preempted_answer_continues_as_before(kind, own, exported, encoded) -> None:
    request = KINDS[kind][0]
    expected = TimeChat(TimeChatBackbone(*own, name="nano")).run(request, encoded)
    assert with_engine(own, StandInEngine(own[0], exported, forgotten=15)).run(request, encoded).text == expected.text


def test_a_stream_and_its_stop_are_those_of_the_engine(own, engine, encoded) -> None:
    backbone = with_engine(own, engine).backbone
    form = answer_form("dense_caption", duration=encoded.duration)
    prompt = backbone.prompt(encoded, Question("Tell all."), 60)
    parts: list[str] = []
    [whole] = backbone.generate([prompt], [form], CAPTIONS, on_text=parts.append)
    assert "".join(parts).strip() == whole.text
    read: list[str] = []
    [cut] = backbone.generate([prompt], [form], CAPTIONS, on_text=read.append, should_stop=lambda: len(read) >= 3)
    assert 0 < cut.num_tokens < whole.num_tokens
    assert whole.text.startswith(cut.text)
    backbone.generate([prompt], [form], CAPTIONS)
    assert [request.is_streamed for request in engine.requests] == [True, True, False]


def test_windows_rank_behind_each_other(own, engine, encoded) -> None:
    backbone = with_engine(own, engine).backbone
    prompt = backbone.prompt(encoded, Question("Tell all."), 4)
    backbone.generate([prompt] * 3, [None] * 3, DecodingOptions(max_new_tokens=4))
    assert [request.priority for request in engine.requests] == [0, 1, 2]


def test_scores_of_given_words_are_those_of_the_network(own, engine, encoded) -> None:
    ids = own[1].encode_prompt_with_answer(
        own[1].render_prompt(encoded.timestamps, "What is it?"), "a star", encoded.num_frames
    )[0]
    prompts, lengths = [Prompt(ids, encoded.content)] * 2, [3, 2]
    writer = with_engine(own, engine).own_backbone.executor
    expected = LocalExecutor(*own).continuation_logprobs(prompts, lengths)
    for values, right in zip(writer.continuation_logprobs(prompts, lengths), expected, strict=True):
        assert values == pytest.approx(right, abs=1e-4)


def test_missing_log_probabilities_of_a_prompt_raise() -> None:
    prompt = Prompt([1, 2, 3], torch.zeros(0, 4))
    with pytest.raises(RuntimeError, match="no log probabilities of the prompt"):
        continuation(prompt, [None], 1)
    with pytest.raises(RuntimeError, match="no log probabilities of the prompt"):
        continuation(prompt, None, 1)
    assert continuation(prompt, [None, -1.0, -2.0], 2) == [-1.0, -2.0]


def test_an_error_of_the_engine_ends_the_call(own, engine, encoded, monkeypatch) -> None:
    monkeypatch.setattr(engine, "_answer", lambda _: [EngineError("the engine has ended")])
    with pytest.raises(EngineError, match="the engine has ended"):
        with_engine(own, engine).run(KINDS["captions"][0], encoded)
    assert engine.num_cancelled == 1


def test_a_cancelled_request_leaves_the_engine(own, engine, encoded, monkeypatch) -> None:
    monkeypatch.setattr(engine, "_answer", lambda _: [])  # an answer that never comes
    writer = VllmWriter(*own, engine, dtype=torch.float32, facts={})
    checks = iter([None, None])

    def check() -> None:
        if next(checks, "gone") == "gone":
            raise TimeoutError

    prompt = Prompt([1, *[own[0].config.image_token_id] * len(encoded.content)], encoded.content)
    with pytest.raises(TimeoutError):
        writer.generate(GenerationBatch([prompt], [None], CAPTIONS), check)
    assert engine.num_cancelled == 1


def test_closing_the_model_stops_the_engine(own, engine) -> None:
    with_engine(own, engine).backbone.close()
    assert engine.is_stopped


def test_answers_of_the_engine_have_keys_of_their_own(own, engine) -> None:
    facts = with_engine(own, engine).backbone.facts("answer")
    plain = TimeChatBackbone(*own, name="nano").facts("answer")
    assert facts["weights"] == "abc"
    assert facts["tokens"] == plain["tokens"]


# ── checks before a request is sent ─────────────────────────────────────────────────────────────────────────────

FACTS = ModelFacts(9, 4, 12, torch.float32)
VIDEO = torch.ones(2, 4)


def test_a_mixed_prompt_has_ids_and_vectors_at_their_places() -> None:
    prompt = mixed_prompt(Prompt([1, 9, 9, 5], VIDEO), FACTS, 8)
    assert prompt.token_ids == [1, 0, 0, 5]
    assert prompt.is_token == [True, False, False, True]
    assert prompt.embeds.tolist() == [[0.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4]


@pytest.mark.parametrize(
    ("ids", "video", "error", "message"),
    [
        ([1, 9, 9], torch.ones(2, 5), ValueError, "the language model is 4 wide"),
        ([1, 9], VIDEO, ValueError, "1 placeholders for video tokens, but the video has 2"),
        ([1, 9, 9], VIDEO / 0, ValueError, "NaN or infinite"),
        ([1, 9, 9, 1, 1], VIDEO, PromptTooLongError, "5 tokens and the answer may have 8, but the engine reads 12"),
    ],
)
def test_a_wrong_prompt_is_refused_before_it_is_sent(ids, video, error, message) -> None:
    with pytest.raises(error, match=message):
        mixed_prompt(Prompt(ids, video), FACTS, 8)


def test_a_wrong_grammar_or_a_beam_search_is_never_sent(own, engine, encoded) -> None:
    timechat = with_engine(own, engine)
    decoding = replace(CAPTIONS, json_schema='{"type": "nonsense"}')
    with pytest.raises(ValueError, match="JSON schema"):
        timechat.run(Request("ask", "What?", decoding=decoding), encoded)
    with pytest.raises(ValueError, match="num_beams=2 is not offered by the engine vllm"):
        timechat.run(Request("dense_caption", decoding=replace(CAPTIONS, num_beams=2)), encoded)
    assert engine.requests == []


# ── options ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_that_timechat_sets_or_nobody_knows_are_refused() -> None:
    check_options({"max_num_seqs": 4}, ["max_num_seqs", "model"])
    with pytest.raises(ValueError, match="engine option model is set by TimeChat"):
        check_options({"model": "a"}, ["model"])
    with pytest.raises(ValueError, match="'max_seqs' is no argument of vLLM's AsyncEngineArgs"):
        check_options({"max_seqs": 4}, ["max_num_seqs"])


def test_one_process_runs_engine_and_model_on_few_cores(monkeypatch) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    assert runs_in_one_process({"max_num_seqs": 4}, has_gpu=False, num_cores=2)
    assert not runs_in_one_process({}, has_gpu=True, num_cores=2)
    assert not runs_in_one_process({}, has_gpu=False, num_cores=64)
    assert not runs_in_one_process({"tensor_parallel_size": 2}, has_gpu=False, num_cores=2)
    assert not runs_in_one_process({"distributed_executor_backend": "mp"}, has_gpu=False, num_cores=2)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    assert not runs_in_one_process({}, has_gpu=False, num_cores=2)


def test_the_cache_has_room_for_all_answers_up_to_4_gib() -> None:
    text = SimpleNamespace(
        num_attention_heads=32, hidden_size=4096, num_hidden_layers=32, max_position_embeddings=2048, head_dim=None
    )
    one = 2 * 32 * 32 * 128 * 2 * 2048
    assert default_options(text, torch.bfloat16, has_gpu=True, max_num_seqs=64) == {
        "max_num_seqs": 64,
        "kv_cache_memory_bytes": 4 << 30,
        "enforce_eager": False,
    }
    small = default_options(text, torch.bfloat16, has_gpu=False, max_num_seqs=2)
    assert (small["kv_cache_memory_bytes"], small["enforce_eager"]) == (2 * one, True)


@pytest.fixture
def adapter(own, tmp_path) -> Path:
    network = load_model("nano", device="cpu", dtype="float32")[0].language_model
    attach_adapter(network, LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj", "down_proj"]))
    save_adapter(network, tmp_path / "adapter", 2)
    return tmp_path / "adapter"


def test_an_adapter_is_described_for_vllm(adapter, exported) -> None:
    read = read_adapter("a", adapter, exported)
    assert (read.rank, read.scale, read.targets) == (4, 0.5, {"q_proj", "down_proj"})
    assert engine_arguments({"a": read}) == {
        "enable_lora": True,
        "max_loras": 2,
        "max_lora_rank": 8,
        "lora_target_modules": ["down_proj", "q_proj"],
    }
    assert engine_arguments({}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(min(tensors)), "does not hold lora_A and lora_B of each layer"),
        (lambda tensors: tensors.update(dict.fromkeys(list(tensors)[:1], torch.zeros(4, 3))), "has the shape"),
        (lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 256)}), "lm_head"),
        (lambda tensors: tensors.update({"base_model.model.model.layers.0.x.lora_A.weight": torch.ones(1)}), "layers"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter, exported, change, message) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_adapter("a", adapter, exported)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora", "a=b"], "--lora needs --engine vllm"),
        (["--engine", "vllm", "--lora", "a"], "--lora must be NAME=FOLDER"),
        (["--engine", "vllm", "--lora", "nano=b"], "the name nano is taken"),
        (["--engine", "vllm", "--lora", "a=b", "--lora", "a=c"], "the name a is taken"),
    ],
)
def test_wrong_adapters_end_the_server_in_one_line(options, message, capsys) -> None:
    code, _, err = run_command(capsys, "serve", *options)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "sglang"], "engine must be vllm, got 'sglang'"),
        (["--engine-options", "{}", "--engine", "vllm", "--quantize", "int8"], "quantize int8 is not an option"),
        (["--engine-options", '{"max_num_seqs": 4}'], "give engine vllm too"),
        (["--engine", "vllm", "--engine-options", "[4]"], "engine options must be a JSON object"),
        (["--engine", "vllm", "--engine-options", "{4"], "engine options must be a JSON object"),
    ],
)
def test_wrong_engine_options_end_a_command_in_one_line(options, message, video_path, capsys) -> None:
    code, _, err = run_command(capsys, "caption", video_path, *options)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


def test_a_folder_of_int4_is_refused_before_the_engine_starts(tmp_path) -> None:
    for path in NANO_FOLDER.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": quantization_config("int4")}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quantized as int4, which vLLM cannot read; name a folder of int8"):
        load_without_language_model(str(tmp_path))


def test_an_engine_is_refused_where_it_does_not_fit() -> None:
    with pytest.raises(ValueError, match="engine vllm is not an option of a server"):
        load_backbone("http://localhost:1/v1#m", engine="vllm")
