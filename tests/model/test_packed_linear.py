"""Linear layers with packed weights, and frames in batches: the same results as without."""

import pytest
import torch
from torch.nn import functional

from tests.model.tiny import tiny_model
from timechat.model import packed_linear
from timechat.model.packed_linear import PackedLinear


@pytest.fixture
def packed(monkeypatch):
    """The numbers of rows of all products with packed weights."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    rows = []
    count = packed_linear._num_rows
    monkeypatch.setattr(packed_linear, "_num_rows", lambda values: rows.append(count(values)) or count(values))
    return rows


def layer(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator).to(dtype) for size in ((2, 700, 48), (64, 48), (64,))]


def is_packed(monkeypatch, values, weight, bias=None):
    packing = []
    pack = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda *args: packing.append(args) or pack(*args))
    with PackedLinear():
        functional.linear(values, weight, bias)
    return bool(packing)


@pytest.mark.parametrize("has_bias", [True, False])
def test_packed_products_equal_those_of_torch(packed, has_bias):
    values, weight, bias = layer()
    bias = bias if has_bias else None
    expected = functional.linear(values, weight, bias)
    with PackedLinear():
        result = functional.linear(values, weight, bias)
    assert packed == [1400, 1400]  # asked for the decision, and for the layout
    assert result.shape == (2, 700, 64)
    assert torch.allclose(result, expected, atol=1e-4, rtol=1e-5)


def test_large_float32_products_are_packed(packed, monkeypatch):
    assert is_packed(monkeypatch, *layer())


def test_products_of_few_rows_are_not_packed(packed, monkeypatch):
    values, weight, bias = layer()
    assert not is_packed(monkeypatch, values[:, :511], weight, bias)  # 1022 rows


def test_half_precision_products_are_not_packed(packed, monkeypatch):
    assert not is_packed(monkeypatch, *layer(dtype=torch.bfloat16))


def test_products_that_record_gradients_are_not_packed(packed, monkeypatch):
    values, weight, bias = layer()
    assert not is_packed(monkeypatch, values, weight.requires_grad_(), bias)
    with torch.no_grad():
        assert is_packed(monkeypatch, values, weight, bias)


def test_products_under_autocast_are_not_packed(packed, monkeypatch):
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_packed(monkeypatch, *layer())


def test_weights_of_another_class_are_not_packed(packed, monkeypatch):
    values, weight, bias = layer()
    assert not is_packed(monkeypatch, values, weight.as_subclass(type("Quantized", (torch.Tensor,), {})), bias)


def test_nothing_is_packed_if_onednn_is_switched_off(packed, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not is_packed(monkeypatch, *layer())


def test_a_frozen_tower_gives_the_same_states_in_batches():
    encoder = tiny_model().frame_encoder
    pixels = torch.randn(37, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = encoder.vision_model(pixel_values=pixels).last_hidden_state
    encoder.vision_model.requires_grad_(False)
    states = encoder.vision_states(pixels)
    assert not states.requires_grad
    assert torch.allclose(states, expected, atol=1e-6)


def test_a_trained_tower_records_gradients():
    encoder = tiny_model().frame_encoder
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    encoder.vision_states(pixels).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.vision_model.encoder.parameters())


def test_gradients_of_pixels_pass_a_frozen_tower():
    encoder = tiny_model().frame_encoder
    encoder.vision_model.requires_grad_(False)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1)).requires_grad_()
    encoder.vision_states(pixels)[0].square().sum().backward()
    assert pixels.grad is not None
    assert [bool(frame.any()) for frame in pixels.grad] == [True, False]


@pytest.mark.parametrize(("limit", "sizes"), [(16, [16, 16, 5]), (None, [37])])
def test_a_frozen_tower_reads_batches_of_a_maximum_size(limit, sizes, monkeypatch):
    encoder = tiny_model().frame_encoder
    encoder.vision_model.requires_grad_(False)
    encoder.frames_per_batch = limit
    read, encode = [], encoder._vision_states
    monkeypatch.setattr(encoder, "_vision_states", lambda batch, dtype: read.append(len(batch)) or encode(batch, dtype))
    encoder.vision_states(torch.zeros(37, 3, 28, 28))
    assert read == sizes
