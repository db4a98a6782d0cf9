"""Tokens kept on disk: the same ones back, and keys that change with everything they depend on."""

import copy

import numpy as np
import pytest
import torch

from tests.model.random_nano import build_random_nano
from timechat.backbones.timechat.facts import answer_facts, model_fingerprint
from timechat.files.cache import DiskCache, cache_key
from timechat.model import fingerprint as digest_module
from timechat.model.fingerprint import tensors_fingerprint, weights_fingerprint
from timechat.model.processing import TimeChatProcessor
from timechat.model.quantization import quantize_layer
from timechat.pipeline.cache import TokenCache

KEY = cache_key(video="a")


@pytest.fixture
def cache(tmp_path) -> TokenCache:
    return TokenCache(DiskCache(tmp_path / "cache", max_bytes=10_000_000))


@pytest.fixture
def nano():
    return build_random_nano()


def saved_file(cache: TokenCache):
    (entry,) = cache.disk.entries()
    return entry.path


# ---------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_come_back_as_they_were(cache, dtype):
    tensors = {"frame_tokens": torch.arange(24).reshape(2, 3, 4).to(dtype), "one": torch.tensor(7, dtype=dtype)}
    cache.save(KEY, tensors)
    found = TokenCache(DiskCache(cache.disk.folder, max_bytes=10_000_000)).load(KEY)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_views_and_inference_tensors_can_be_saved(cache):
    with torch.inference_mode():
        tokens = torch.randn(4, 6)
        cache.save(KEY, {"rows": tokens[1:3], "others": tokens[:1], "turned": tokens.T})
        found = cache.load(KEY)
    assert torch.equal(found["turned"], tokens.T)
    assert torch.equal(found["rows"], tokens[1:3])


def test_what_was_never_saved_is_a_miss(cache):
    assert cache.load(KEY) is None


def test_nothing_is_done_for_a_cache_that_is_off(tmp_path):
    cache = TokenCache(DiskCache(tmp_path / "cache", max_bytes=0))
    cache.save(KEY, {"tokens": torch.ones(2)})
    assert cache.load(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_a_miss_and_is_removed(cache):
    tensors = {"tokens": torch.randn(3, 5)}
    cache.save(KEY, tensors)
    path = saved_file(cache)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = cache.load(KEY)  # damage of white space in the header harms nothing
        assert found is None or torch.equal(found["tokens"], tensors["tokens"])
        if place >= len(whole) - 60:  # the numbers themselves
            assert found is None
        assert path.exists() == (found is not None)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 50, -1])
def test_a_file_cut_short_is_a_miss_and_can_be_saved_anew(cache, length):
    tensors = {"tokens": torch.randn(3, 5)}
    cache.save(KEY, tensors)
    path = saved_file(cache)
    path.write_bytes(path.read_bytes()[:length])
    assert cache.load(KEY) is None
    assert cache.disk.entries() == []
    cache.save(KEY, tensors)
    assert torch.equal(cache.load(KEY)["tokens"], tensors["tokens"])


def test_a_file_that_vanishes_between_finding_and_reading_is_a_miss(cache, monkeypatch):
    monkeypatch.setattr(DiskCache, "get", lambda self, _: self.folder / "gone")
    assert cache.load(KEY) is None


# ------------------------------------------------------------------------------------------------ model facts


def test_the_same_model_built_again_has_the_same_key(nano):
    for kind in ("frames", "video"):
        assert cache_key(**model_fingerprint(*nano, kind)) == cache_key(**model_fingerprint(*build_random_nano(), kind))


def test_a_saved_and_loaded_model_has_the_same_key(nano, tmp_path):
    model, processor = nano
    model.save_pretrained(tmp_path)
    processor.save_pretrained(str(tmp_path))
    loaded = type(model).from_pretrained(tmp_path), TimeChatProcessor.from_pretrained(str(tmp_path))
    assert model_fingerprint(*loaded) == model_fingerprint(model, processor)


def quantize(parent: torch.nn.Module, name: str) -> None:
    setattr(parent, name, quantize_layer(getattr(parent, name)))


def changed(parameter: torch.Tensor) -> None:
    with torch.no_grad():
        parameter.view(-1)[-1] += 1


FRAME_CHANGES = {
    "vision weights": lambda model, _: changed(model.frame_encoder.vision_model.embeddings.patch_embedding.weight),
    "image Q-Former weights": lambda model, _: changed(model.frame_encoder.query_tokens),
    "vision dtype": lambda model, _: model.frame_encoder.vision_model.to(torch.bfloat16),
    "int8": lambda model, _: quantize(model.frame_encoder.vision_model.encoder.layers[0].mlp, "fc1"),
    "vision heads": lambda model, _: setattr(model.config.vision_config, "num_attention_heads", 2),
    "Q-Former eps": lambda model, _: setattr(model.config.qformer_config, "layer_norm_eps", 1e-6),
    "last norm's eps": lambda model, _: setattr(model.config, "vision_post_layernorm_eps", 1e-6),
    "mean": lambda _, processor: setattr(processor, "image_mean", (0.5, 0.5, 0.5)),
    "std": lambda _, processor: setattr(processor, "image_std", (0.5, 0.5, 0.5)),
}
VIDEO_CHANGES = {
    "video Q-Former weights": lambda model, _: changed(model.video_qformer.query_tokens),
    "frame positions": lambda model, _: changed(model.video_qformer.frame_positions.weight),
    "projection": lambda model, _: changed(model.video_qformer.projection.bias),
    "window": lambda model, _: setattr(model.config, "window_size", 16),
    "stride": lambda model, _: setattr(model.config, "stride", 16),
    "restart of positions": lambda model, _: setattr(model.config, "max_frame_positions", 48),
    "video Q-Former heads": lambda model, _: setattr(model.config.video_qformer_config, "num_attention_heads", 2),
    "domain": lambda model, _: setattr(
        model.config, "domain", {"description": "cats", "weights": [1.0], "offset": 0.5}
    ),
}


@pytest.mark.parametrize("change", [*FRAME_CHANGES, *VIDEO_CHANGES])
def test_a_key_depends_on_everything_that_tokens_depend_on(nano, change):
    before = {kind: cache_key(**model_fingerprint(*nano, kind)) for kind in ("frames", "video")}
    (FRAME_CHANGES | VIDEO_CHANGES)[change](*nano)
    after = {kind: cache_key(**model_fingerprint(*nano, kind)) for kind in ("frames", "video")}
    assert after["video"] != before["video"]
    assert (after["frames"] != before["frames"]) == (change in FRAME_CHANGES)


@pytest.mark.parametrize(
    ("threshold", "calibration"),
    [(0.5, None), (0.0, {"grounding": {"time": 1.0, "existence": 1.0, "offset": 0.0}})],
)
def test_the_key_of_an_answer_depends_on_what_a_fit_changes(nano, threshold, calibration):
    model, processor = nano
    before = cache_key(**answer_facts(model, processor))
    model.config.found_threshold, model.config.score_calibration = threshold, calibration
    assert cache_key(**answer_facts(model, processor)) != before


def test_a_key_does_not_change_with_the_language_model(nano):
    before = cache_key(**model_fingerprint(*nano))
    changed(nano[0].language_model.lm_head.weight)
    assert cache_key(**model_fingerprint(*nano)) == before


def test_a_key_does_not_change_with_where_a_part_came_from(nano):
    before = model_fingerprint(*nano)
    for config in (nano[0].config.vision_config, nano[0].config.qformer_config, nano[0].config.video_qformer_config):
        config._name_or_path, config.architectures = "some/where", ["Some"]
    assert model_fingerprint(*nano) == before


def test_a_key_changes_with_the_tokenizer_of_the_timestamps(nano):
    model, processor = nano
    processor.config.qformer_config.vocab_size = len(processor.tokenizer)
    before = cache_key(**model_fingerprint(model, processor))
    model.config.timestamp_tokenizer = processor.config.timestamp_tokenizer = "llama"
    assert cache_key(**model_fingerprint(model, processor)) != before


def test_a_key_changes_with_the_vocabulary_of_the_timestamps(nano):
    model, processor = nano
    before = cache_key(**model_fingerprint(model, processor, "frames"))
    tokenizer = copy.deepcopy(processor.qformer_tokenizer)
    tokenizer.add_tokens(["quite-new"])
    other = TimeChatProcessor(processor.tokenizer, tokenizer, processor.config)
    assert cache_key(**model_fingerprint(model, other, "frames")) != before


def test_a_key_changes_with_the_wording_of_the_frame_prompt(nano, monkeypatch):
    before = cache_key(**model_fingerprint(*nano, "frames"))
    monkeypatch.setattr("timechat.backbones.timechat.facts.frame_prompt", "at {} s".format)
    assert cache_key(**model_fingerprint(*nano, "frames")) != before


def test_facts_do_not_depend_on_what_was_tokenised_before(nano):
    before = model_fingerprint(*nano)
    nano[1].encode_timestamps(np.arange(200.0))
    nano[1].qformer_tokenizer("a long text " * 100, truncation=True, max_length=5)
    assert model_fingerprint(*nano) == before


# ---------------------------------------------------------------------------------------------------- digests


def test_different_weights_have_different_digests(nano):
    digest = weights_fingerprint(nano[0])
    other = build_random_nano()[0]
    assert digest == weights_fingerprint(other)
    changed(other.language_model.lm_head.weight)
    assert digest != weights_fingerprint(other)


def test_weights_are_hashed_once_and_again_when_they_change(nano, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        digest_module, "tensors_fingerprint", lambda tensors: hashed.append(1) or tensors_fingerprint(tensors)
    )
    encoder = nano[0].frame_encoder
    first = weights_fingerprint(encoder)
    assert weights_fingerprint(encoder) == first
    assert len(hashed) == 1
    changed(encoder.query_tokens)
    second = weights_fingerprint(encoder)
    encoder.load_state_dict(build_random_nano()[0].frame_encoder.state_dict())
    assert first == weights_fingerprint(encoder) != second
    assert len(hashed) == 3


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_a_digest_follows_every_kind_of_optimizer(options):
    module = torch.nn.Linear(40, 30)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0, **options)
    before = weights_fingerprint(module)
    module(torch.ones(1, 40)).sum().backward()
    optimizer.step()
    assert weights_fingerprint(module) != before


def test_weights_in_int8_have_a_digest(nano):
    model = nano[0]
    quantize(model.language_model, "lm_head")
    digest = weights_fingerprint(model)
    other, rescaled, changed_in_place = (build_random_nano()[0] for _ in range(3))
    rescaled.language_model.lm_head.weight.data *= 2  # the same whole numbers, with another scale
    changed_in_place.language_model.lm_head.weight.data[0, 0] = 0.0  # another whole number, with the same scale
    for one in (other, rescaled, changed_in_place):
        quantize(one.language_model, "lm_head")
    assert weights_fingerprint(other) == digest
    assert len({digest, weights_fingerprint(rescaled), weights_fingerprint(changed_in_place)}) == 3


def test_digests_of_stored_features_and_answers_stay_valid():
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
        module.bias.copy_(torch.tensor([3.0]))
    # printf '%s' 'bias torch.float32 (1,)' + 3.0 + 'weight torch.float32 (1, 2)' + 1.0, 2.0 (little endian), hashed
    assert weights_fingerprint(module) == "4daa9ce4c98876a18563bd161ca8a95b31b8a0e04a4838a75701735b9f74eb88"
