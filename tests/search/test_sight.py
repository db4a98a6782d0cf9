"""The built-in encoder `sight`, with its real weights."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from timechat.errors import CheckpointError
from timechat.search import efficientnet
from timechat.search.efficientnet import EfficientNetLite2, convolution_names
from timechat.search.encoder import load_encoder
from timechat.search.minilm import from_int8, to_int8
from timechat.search.sight import WEIGHTS, SightEncoder, load_sentence_encoder

SIZE = 130


@pytest.fixture(scope="module")
def sight() -> SightEncoder:
    encoder = load_encoder()
    assert isinstance(encoder, SightEncoder)
    return encoder


def chess_board() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.repeat(((rows // 16 + columns // 16) % 2 * 255)[..., None], 3, axis=-1).astype(np.uint8)


def sea_under_sky() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    waves = np.where(rows > 75, 20 * np.sin(columns / 5 + rows / 2), 0)
    below = rows > 75
    picture = np.stack(
        [np.where(below, 20, 140) + waves, np.where(below, 90, 190) + waves, np.where(below, 140, 235) + waves], -1
    )
    return picture.clip(0, 255).astype(np.uint8)


def orange() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(rows - 65, columns - 65)
    shade = np.clip(1.2 - np.hypot(rows - 45, columns - 45) / 110, 0.3, 1.1)[..., None]
    return np.where((distance < 45)[..., None], np.array([250, 145, 20]) * shade, 245).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vectors(sight):
    return sight.encode_frames(np.stack([chess_board(), sea_under_sky(), orange()]))


def test_vectors_have_the_stated_shape(sight, vectors):
    assert vectors.shape == (3, sight.dimension) == (3, 1281)
    assert vectors.dtype == np.float32
    assert sight.encode_sentence("a dog").shape == (sight.sentence_dimension,) == (384,)
    assert sight.encode_frames(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 1281)


@pytest.mark.parametrize(
    ("sentence", "picture"),
    [("a crossword or checkered board", 0), ("the sea shore", 1), ("a round orange, a citrus fruit", 2)],
)
def test_a_sentence_finds_its_picture(sight, vectors, sentence, picture):
    assert sight.score(vectors, sight.encode_sentence(sentence)).argmax() == picture


def test_a_right_sentence_is_more_probable(sight, vectors):
    right = sight.probability(vectors[2:], sight.encode_sentence("a round orange, a citrus fruit"))
    wrong = sight.probability(vectors[2:], sight.encode_sentence("a soldier with a rifle"))
    assert right > sight.found_threshold > wrong


@pytest.mark.parametrize("words", ["blorf gnix tralup", "xqzv wplk", "zzkrt mbleh"])
def test_nonsense_words_are_not_found(sight, vectors, words):
    assert sight.probability(vectors, sight.encode_sentence(words)) < sight.found_threshold


def test_vectors_can_be_stored_as_float16(sight, vectors):
    sentence = sight.encode_sentence("the sea shore")
    stored = vectors.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(sight.score(stored, sentence), sight.score(vectors, sentence), atol=0.01)
    np.testing.assert_allclose(sight.evidence(stored, sentence), sight.evidence(vectors, sentence), atol=0.01)


def test_scores_are_those_of_the_full_computation(sight):
    with safe_open(WEIGHTS / "model.safetensors", "np") as file:
        classifier, bias, classes, by_map, logit_mean, logit_deviation, map_mean, covariance = (
            file.get_tensor(name).astype(np.float64)
            for name in ("classifier.weight", "classifier.bias", "classes", "map", "background.logit_mean",
                         "background.logit_deviation", "background.map_mean", "background.map_covariance")
        )  # fmt: skip
    stored = np.abs(np.random.default_rng(0).standard_normal((300, 1281))).astype(np.float16)
    features, length = stored[:, :-1].astype(np.float64), stored[:, -1:].astype(np.float64)
    sentence = sight.encode_sentence("the sea shore")
    weights = np.exp((classes @ sentence) / 0.05) / np.exp((classes @ sentence) / 0.05).sum()
    direction = (sentence - classes.mean(0)) / np.linalg.norm(sentence - classes.mean(0))
    logits = features @ classifier.T
    cosines = (features @ by_map / length) @ direction
    in_all = (logits + bias - logit_mean) / logit_deviation @ weights
    mapped = (cosines - map_mean @ direction) / np.sqrt(direction @ covariance @ direction)
    in_video = (logits / (logits.std(0) + 0.3)) @ weights
    curves = [(values - values.mean()) / (values.std() + 0.01) for values in (in_video, cosines)]
    score, evidence = sight.compare(stored, sentence)
    np.testing.assert_allclose(evidence, 1.29 * (in_all + 0.5 * mapped - 1.43), atol=2e-3)
    np.testing.assert_allclose(score, curves[0] + 0.8 * curves[1], atol=2e-3)
    np.testing.assert_array_equal(sight.evidence(stored, sentence), evidence)


def test_a_vector_does_not_depend_on_its_batch(sight, vectors):
    alone = sight.encode_frames(orange()[None])
    np.testing.assert_allclose(alone[0], vectors[2], atol=1e-3)


def test_equal_frames_have_equal_scores(sight, vectors):
    scores = sight.score(np.repeat(vectors[:1], 5, axis=0), sight.encode_sentence("a dog"))
    np.testing.assert_allclose(scores, 0.0, atol=0.05)
    assert len(sight.score(vectors[:0], sight.encode_sentence("a dog"))) == 0


def test_a_moment_without_frames_has_no_probability(sight, vectors):
    with pytest.raises(ValueError, match="at least one frame"):
        sight.probability(vectors[:0], sight.encode_sentence("a dog"))


def test_the_fingerprint_names_the_weights(sight):
    assert re.fullmatch("[0-9a-f]{64}", sight.fingerprint)
    assert "WordNet" in sight.licence


def test_missing_weights_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="install timechat again"):
        SightEncoder.load(tmp_path)


def test_damaged_weights_fail_the_test_on_loading(sight):
    class Blind(SightEncoder):
        def encode_frames(self, pixels):
            return np.ones((len(pixels), self.dimension), np.float32)

    blind = Blind.__new__(Blind)
    blind.__dict__ = sight.__dict__
    with pytest.raises(CheckpointError, match="different pictures have equal scores"):
        blind.self_test()


def test_scores_that_are_no_numbers_are_refused(sight):
    class Broken(SightEncoder):
        def encode_sentences(self, sentences):
            return np.full((len(sentences), 384), np.nan, np.float32)

    broken = Broken.__new__(Broken)
    broken.__dict__ = sight.__dict__
    with pytest.raises(CheckpointError, match="not a number"):
        broken.self_test()


def test_notices_are_beside_the_weights():
    assert {path.name for path in WEIGHTS.iterdir()} == {
        "model.safetensors",
        "tokenizer.json",
        "LICENSE.MiniLM",
        "LICENSE.WordNet",
        "NOTICE.MiniLM",
    }


def random_tensors() -> dict[str, torch.Tensor]:
    """Return random weights with the shapes of the real ones."""
    from safetensors import safe_open

    generator = torch.Generator().manual_seed(0)
    with safe_open(WEIGHTS / "model.safetensors", "pt") as file:
        shapes = {
            name.removeprefix("image."): file.get_slice(name).get_shape()
            for name in file.keys()  # noqa: SIM118 - not a dict
            if name.startswith("image.")
        }
    return {
        name: torch.randn(shape, generator=generator) / max(1, np.prod(shape[1:])) ** 0.5
        for name, shape in shapes.items()
    }


def test_packed_convolutions_equal_plain_ones(monkeypatch):
    tensors, pixel_values = random_tensors(), torch.randn(2, 3, 260, 260, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        packed = EfficientNetLite2(tensors)(pixel_values)
        monkeypatch.setattr(efficientnet.torch.backends.mkldnn, "is_available", lambda: False)
        plain = EfficientNetLite2(tensors)(pixel_values)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)


def test_padding_is_that_of_tensorflow():
    assert efficientnet.same_padding(260, 3, 2) == (0, 1)
    assert efficientnet.same_padding(65, 5, 2) == (2, 2)
    assert efficientnet.same_padding(33, 3, 1) == (1, 1)


def test_the_network_has_64_convolutions():
    assert len(convolution_names()) == 2 + 2 + 20 * 3


def test_int8_keeps_each_row_within_half_a_step():
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]
    restored = from_int8(to_int8({"weight": weight}))["weight"]
    assert ((restored - weight).abs().amax(1) <= weight.abs().amax(1) / 127 * 0.501).all()
    assert functional.cosine_similarity(restored, weight).min() > 0.999


def test_torch_and_onnx_runtime_give_the_same_features(sight):
    pytest.importorskip("onnxruntime", reason="the extra search is not installed")
    picture = np.stack([chess_board(), orange()])
    with_torch, with_onnx = (SightEncoder.load(uses_onnx=choice).encode_frames(picture) for choice in (False, True))
    np.testing.assert_allclose(with_torch, with_onnx, atol=1e-4)


def test_the_sentence_encoder_is_loaded_once_by_threads():
    with ThreadPoolExecutor(4) as threads:
        encoders = list(threads.map(lambda _: load_sentence_encoder(), range(4)))
    assert len({id(encoder) for encoder in encoders}) == 1


def test_a_process_has_one_text_model(sight):
    assert sight.text_model is load_sentence_encoder()


@pytest.mark.parametrize(
    ("sentence", "is_known"),
    [("a dog", True), ("a dog 🐶", True), ("犬", False), ("ሰላም ለዓለም", False), ("собака", False), ("1984", False)],
)
def test_the_sentence_encoder_knows_latin_words_only(sentence, is_known):
    assert load_sentence_encoder().knows(sentence) is is_known
