"""Linear layers with int8 and int4 weights: what they store, and how near they compute."""

import pytest
import torch

from timechat.model import quantized_linear
from timechat.model.quantized_linear import Int4Linear, Int8Linear, pack_int4, unpack_int4


def made(kind, layer):
    new = kind(layer.in_features, layer.out_features, layer.bias)
    new.set_weights(kind.quantize(layer.weight.detach()))
    return new


def error(layer, new, x):
    want = layer(x)
    return float((new(x) - want).norm() / want.norm())


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(128, 64).requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(1))


def test_int8_has_one_scale_per_output(layer):
    layer.weight[3] *= 100
    stored = Int8Linear.quantize(layer.weight)
    assert stored["weight"].dtype == torch.int8
    assert stored["weight_scale"].shape == (64, 1)
    assert torch.equal(stored["weight_scale"][:, 0], layer.weight.abs().amax(1) / 127)
    assert stored["weight"].abs().amax(1).tolist() == [127] * 64


def test_int8_is_near_float32(layer, x):
    assert error(layer, made(Int8Linear, layer), x) < 0.015


def test_an_int8_row_depends_on_no_other_row(layer, x):
    new = made(Int8Linear, layer)
    alone = new(x[:1, :1])
    beside = new(torch.cat([x[:1, :1], 1000 * x[:1, 1:]], dim=1))
    assert torch.allclose(alone, beside[:, :1], atol=1e-5)


def test_many_rows_are_computed_as_few(layer):
    many = torch.randn(600, 128, generator=torch.Generator().manual_seed(2))
    new = made(Int8Linear, layer)
    assert torch.equal(new(many), torch.cat([new(part) for part in many.split(100)]))


def test_int8_leaves_its_input_as_it_was(layer, x):
    before = x.clone()
    made(Int8Linear, layer)(x)
    assert torch.equal(x, before)


def test_a_row_of_zeros_gives_the_bias(layer):
    zeros = torch.zeros(1, 128)
    assert torch.equal(made(Int8Linear, layer)(zeros)[0], layer.bias)
    assert (made(Int4Linear, layer)(zeros)[0] - layer.bias).abs().max() == 0


def test_int8_without_fbgemm_computes_the_same(layer, x, monkeypatch):
    want = made(Int8Linear, layer)(x)
    monkeypatch.setattr(quantized_linear, "_has_fbgemm", lambda: False)
    new = made(Int8Linear, layer)
    assert torch.allclose(new(x), want, atol=1e-4)
    assert torch.equal(new.unpacked_weight(), Int8Linear.quantize(layer.weight)["weight"])


def test_processors_without_vnni_use_seven_bits(layer, x, monkeypatch):
    new = made(Int8Linear, layer)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    levels = quantized_linear._levels.__wrapped__()
    assert levels == 63
    monkeypatch.setattr(quantized_linear, "_levels", lambda: levels)
    assert error(layer, new, x) < 0.02


def test_packed_int8_weights_can_be_read_again(layer):
    assert torch.equal(made(Int8Linear, layer).unpacked_weight(), Int8Linear.quantize(layer.weight)["weight"])


def test_int8_keeps_the_dtype_of_its_input(layer, x):
    assert made(Int8Linear, layer)(x.bfloat16()).dtype == torch.bfloat16


def test_int4_packs_pairs_of_outputs_of_blocks_of_64():
    values = (torch.arange(128 * 32).view(128, 32) % 16).to(torch.uint8)
    packed = pack_int4(values)
    assert packed.shape == (2, 32, 32)
    assert packed[1, 7, 5] == values[64 + 5, 7] + 16 * values[64 + 37, 7]
    assert torch.equal(unpack_int4(packed), values)


def test_int4_weights_are_within_half_a_step(layer):
    stored = Int4Linear.quantize(layer.weight)
    scale, offset = stored["weight_scale"].float().unbind(-1)  # (groups, out)
    values = unpack_int4(stored["weight_packed"]).float().view(64, 4, 32)
    weight = (values - 8) * scale.T[..., None] + offset.T[..., None]
    distance = (weight - layer.weight.view(64, 4, 32)).abs()
    assert (distance / scale.T[..., None]).max() < 0.55  # the offset is rounded too


def test_int4_is_near_float32(layer, x):
    assert error(layer, made(Int4Linear, layer), x) < 0.09


def test_int4_is_packed_again_for_another_kernel(layer, x, monkeypatch):
    want = made(Int4Linear, layer)(x)
    monkeypatch.setattr(quantized_linear, "_kernel_has_our_layout", lambda: False)
    assert torch.equal(made(Int4Linear, layer)(x), want)


@pytest.mark.parametrize(
    ("inputs", "outputs", "fits"), [(32, 64, True), (96, 128, True), (48, 64, False), (32, 32, False)]
)
def test_int4_needs_whole_groups_and_blocks(inputs, outputs, fits):
    assert Int4Linear.fits(inputs, outputs) is fits


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_weights_of_another_layer_are_refused(kind, layer):
    with pytest.raises(ValueError, match=r"is torch\.u?int8 .*, expected torch\.u?int8"):
        kind(128, 128, None).set_weights(kind.quantize(layer.weight))
