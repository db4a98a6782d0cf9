"""CLIP and SigLIP models, tiny and random."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from timechat.errors import CheckpointError
from timechat.search.contrastive import ContrastiveEncoder, Preprocessing
from timechat.search.encoder import full_name, load_encoder

WORDS = ["a", "red", "sunset", "in", "the", "sky", "checkered", "pattern", ",", "chess", "board", "dog", "A"]


def save_tiny(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<end>", *WORDS])}
    text = {**sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 24, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        model.logit_bias.data.fill_(-2.0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    config = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def encoder(folder) -> ContrastiveEncoder:
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, ContrastiveEncoder)
    return encoder


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 40, 52, 3), dtype=np.uint8)


def test_vectors_have_unit_length(encoder):
    vectors = encoder.encode_frames(pictures())
    assert vectors.shape == (3, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_sentence("a dog")), 1.0, rtol=1e-5)


def test_probabilities_are_those_of_the_loss_of_siglip(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "siglip")))
    model = SiglipModel.from_pretrained(tmp_path)
    values = encoder._preprocessing(pictures()[:1])
    ids = torch.zeros(1, 24, dtype=torch.long)
    ids[0, :2] = torch.tensor([3, 3 + WORDS.index("dog")])
    with torch.inference_mode():
        expected = torch.sigmoid(model(input_ids=ids, pixel_values=values).logits_per_image).item()
    actual = encoder.probability(encoder.encode_frames(pictures()[:1]), encoder.encode_sentence("A dog"))
    assert actual == pytest.approx(expected, rel=1e-4)


def test_evidence_of_clip_is_its_logit_above_the_middle(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "clip")))
    model = CLIPModel.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 3 + WORDS.index("dog")]])
    with torch.inference_mode():
        logits = model(input_ids=ids, pixel_values=encoder._preprocessing(pictures())).logits_per_image[:, 0].numpy()
    actual = encoder.evidence(encoder.encode_frames(pictures()), encoder.encode_sentence("a dog"))
    np.testing.assert_allclose(actual, logits - 0.22 * model.logit_scale.exp().item(), rtol=1e-4, atol=1e-4)


def test_the_score_is_one_dot_product(encoder):
    vectors, sentence = encoder.encode_frames(pictures()), encoder.encode_sentence("a dog")
    scores, products = encoder.score(vectors, sentence), vectors @ sentence
    np.testing.assert_allclose(
        scores[1:] - scores[0], encoder._scale * (products[1:] - products[0]), rtol=1e-3, atol=1e-5
    )


def test_a_sentence_does_not_depend_on_its_batch(encoder):
    together = encoder.encode_sentences(["a dog", "a red sunset in the sky"])
    np.testing.assert_allclose(together[0], encoder.encode_sentence("a dog"), atol=1e-5)


def test_a_long_sentence_is_cut(encoder):
    assert np.isfinite(encoder.encode_sentence("a dog " * 100)).all()


def test_frames_are_prepared_as_the_config_says():
    preparation = Preprocessing((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 1 / 255, "bicubic")
    picture = np.full((1, 64, 64, 3), 255, np.uint8)
    torch.testing.assert_close(preparation(picture)[0, :, 0, 0], torch.tensor([3.0, 0.5 / 0.3, 1.0]))
    noise = pictures()[:1] // 4 + 96  # without values near the limits, where PIL clamps between its two passes
    expected = np.asarray(Image.fromarray(noise[0]).resize((32, 32), Image.Resampling.BICUBIC)) / 255
    actual = preparation(noise)[0].permute(1, 2, 0).numpy() * [0.2, 0.3, 0.4] + [0.4, 0.5, 0.6]
    np.testing.assert_allclose(actual, expected, atol=1.5 / 255)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 22}}, (20, 22)),
        ({"size": {"shortest_edge": 24}}, (24, 24)),
        ({"size": 28}, (28, 28)),
        ({}, (32, 32)),
    ],
)
def test_the_size_is_read_from_each_form_of_config(config, size):
    assert Preprocessing.from_config(config, 32).size == size


def test_other_weights_have_another_fingerprint(folder, encoder):
    other = ContrastiveEncoder.load(str(folder))
    assert other.fingerprint == encoder.fingerprint
    with torch.no_grad():
        next(other._model.parameters()).add_(0.1)
    changed = ContrastiveEncoder("x", other._model, other._tokenizer, other._preprocessing, "")
    assert changed.fingerprint != encoder.fingerprint


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="folder or hub id of a CLIP or SigLIP model"):
        load_encoder(str(tmp_path))


def test_a_model_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="type bert"):
        load_encoder(str(tmp_path))


def test_a_model_that_sees_nothing_is_refused(tmp_path):
    save_tiny(tmp_path, "siglip")
    model = SiglipModel.from_pretrained(tmp_path)
    model.logit_scale.data.fill_(-60.0)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="equal scores"):
        load_encoder(str(tmp_path))


def test_missing_weights_are_refused(tmp_path):
    weights = save_tiny(tmp_path, "clip") / "model.safetensors"
    tensors = load_file(weights)
    save_file({n: t for n, t in tensors.items() if "vision_model.encoder" not in n}, weights, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lack 16 tensors, such as vision_model\.encoder\.layers\.0\.layer_norm1"
    ):
        load_encoder(str(tmp_path))


def test_damaged_weights_are_one_line(tmp_path):
    weights = save_tiny(tmp_path, "clip") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"^cannot load encoder .*header") as caught:
        load_encoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise ImportError("\nrequires the sentencepiece library\nmore")

    save_tiny(tmp_path, "clip")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(CheckpointError, match=r": requires the sentencepiece library\. Give sight"):
        load_encoder(str(tmp_path))


def test_a_relative_folder_has_its_absolute_path_as_name(tmp_path, monkeypatch):
    save_tiny(tmp_path / "tiny", "clip")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("tiny").name == str(tmp_path / "tiny")
    assert (full_name("tiny"), full_name("sight")) == (str(tmp_path / "tiny"), "sight")
    assert full_name("google/siglip2-base-patch16-224") == "google/siglip2-base-patch16-224"
