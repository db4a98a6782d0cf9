"""Linear layers with int8 or int4 weights for CPUs; activations and results are float32."""

import hashlib
import threading
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

GROUP = 32
"""Number of inputs that share a scale and an offset in int4."""
_BLOCK = 64  # outputs in one block of the int4 layout
_ROWS = 256  # rows of int8 that are multiplied at once, so that they stay in the processor's cache
_TINY = 1e-30  # scale of a row of zeros
_ENGINE = "fbgemm"
_engine_lock = threading.Lock()


class QuantizedLinear(nn.Linear):
    """A linear layer without weights until `set_weights`; a subclass of `nn.Linear` so that PEFT can adapt it.

    Attributes:
        parts: Names of the tensors in which the weight is stored.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # the parent's would allocate a float weight
        self.in_features, self.out_features = in_features, out_features
        self.bias = bias  # type: ignore[assignment]
        self.register_buffer("weight", torch.empty(0), persistent=False)  # PEFT asks for its device

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """Return the stored tensors of a weight, `(out, in)`, by the names of `parts`."""
        raise NotImplementedError

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors that `quantize` returns.

        Raises:
            ValueError: A tensor has another shape or dtype than `quantize` returns for this layer.
        """
        raise NotImplementedError

    def _check(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, tuple[tuple[int, ...], tuple[torch.dtype, ...]]]
    ) -> None:
        for name, (shape, dtypes) in like.items():
            tensor = tensors[name]
            if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {dtypes[0]} {list(shape)}")


class Int8Linear(QuantizedLinear):
    """int8 weights with one scale per output channel; activations are rounded to int8 with one scale per row.

    The layout of the weights is that of `compressed-tensors` (`int-quantized`). In memory they are packed for fbgemm
    where torch has it. A row's result depends on no other row.
    """

    parts = ("weight", "weight_scale")
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__(in_features, out_features, bias)
        self._packed: Any = None
        self._digest: Tensor | None = None

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """Return `weight`, int8 `(out, in)`, and `weight_scale`, float32 `(out, 1)`."""
        weight = weight.float()
        scale = weight.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
        return {"weight": weight.div(scale).round_().to(torch.int8), "weight_scale": scale}

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Pack the weights; see the base class."""
        rows = self.out_features
        floats = (torch.float32, torch.bfloat16, torch.float16)
        self._check(
            tensors,
            {"weight": ((rows, self.in_features), (torch.int8,)), "weight_scale": ((rows, 1), floats)},
        )
        scale = tensors["weight_scale"].float()
        self.register_buffer("weight_scale", scale, persistent=False)
        self._packed = _pack(tensors["weight"], scale) if _has_fbgemm() else tensors["weight"]
        self._digest = None

    def unpacked_weight(self) -> Tensor:
        """Return the int8 weight, `(out, in)`: a copy if it is packed."""
        if isinstance(self._packed, Tensor):
            return self._packed
        weight, _ = torch.ops.quantized.linear_unpack(self._packed)
        unpacked: Tensor = weight.int_repr()
        return unpacked

    @torch.no_grad()  # fbgemm has no gradients
    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # as in nn.Linear
        rows = x.reshape(-1, self.in_features).float()
        if len(rows) == 1 and _has_fbgemm():
            result = self._multiply_one(rows)
        else:
            result = torch.empty(len(rows), self.out_features)
            for start in range(0, len(rows), _ROWS):
                part = slice(start, start + _ROWS)
                self._multiply(rows[part], result[part])
        return result.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def _multiply_one(self, row: Tensor) -> Tensor:
        """Return the result of one row, with fewer steps than for several."""
        levels = _levels()
        scale = max(float(row.abs().max()), _TINY) / levels
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            row, scale, levels + 1, self._packed
        )
        return product if self.bias is None else product.add_(self.bias)

    def _multiply(self, rows: Tensor, result: Tensor) -> None:
        """Write the result of some rows into `result`."""
        row_scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=_TINY)
        multiply = _int8_product_packed if _has_fbgemm() else _int8_product
        product = multiply(rows / row_scale, self._packed, self.weight_scale)
        zero = torch.zeros(())
        torch.addcmul(zero if self.bias is None else self.bias, product, row_scale, out=result)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Store a digest in place of the packed weight, whose copy would need as much memory again."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._packed is not None:
            if self._digest is None:
                digest = hashlib.sha256(self.unpacked_weight().contiguous().numpy().data).digest()
                self._digest = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
            destination[f"{prefix}weight_digest"] = self._digest
            destination[f"{prefix}weight_scale"] = self.weight_scale


@cache
def _has_fbgemm() -> bool:
    return _ENGINE in torch.backends.quantized.supported_engines


@cache
def _levels() -> int:
    """Return the largest value of a rounded activation.

    Without VNNI, fbgemm adds two products in 16 bits: activations of 7 bits are the largest that cannot overflow.
    """
    return 127 if torch.cpu.get_capabilities().get("avx512_vnni") else 63


def _pack(weight: Tensor, scale: Tensor) -> Any:
    with _engine_lock, _using(_ENGINE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the removal of quantised tensors, which fbgemm needs
        quantized = torch._make_per_channel_quantized_tensor(
            weight, scale[:, 0].double(), torch.zeros(len(weight), dtype=torch.int64), 0
        )
        return torch.ops.quantized.linear_prepack(quantized, None)


@contextmanager
def _using(engine: str) -> Any:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _int8_product_packed(rows: Tensor, packed: Any, _: Tensor) -> Tensor:
    """Multiply rows with values from -1 to 1 by a packed weight."""
    levels = _levels()
    product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        rows, 1 / levels, levels + 1, packed
    )
    return product


def _int8_product(rows: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply rows with values from -1 to 1 by an int8 weight, on processors without fbgemm."""
    rounded = rows.mul(127).round_().to(torch.int8)
    return torch._int_mm(rounded, weight.t()).float().mul_(scale.t() / 127)


class Int4Linear(QuantizedLinear):
    """int4 weights with a scale and an offset per group of 32 inputs; activations are rounded to bfloat16.

    `weight_packed` is uint8 `(out / 64, in, 32)`: block, input, and the pair of outputs `j` (low half of the byte) and
    `j + 32` (high half) of the block. This is the layout of torch's kernel for AVX-512, which reads it as it is; on
    other processors the weights are packed again when they are loaded. `weight_scale` is bfloat16 `(in / 32,
    out, 2)`: a weight is `(value - 8) * scale + offset`.
    """

    parts = ("weight_packed", "weight_scale")
    weight_packed: Tensor
    weight_scale: Tensor

    @staticmethod
    def fits(in_features: int, out_features: int) -> bool:
        """Return whether a layer can have int4 weights."""
        return out_features % _BLOCK == 0 and in_features % GROUP == 0

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """Return `weight_packed` and `weight_scale`."""
        rows, columns = weight.shape
        groups = weight.float().view(rows, columns // GROUP, GROUP)
        low, high = groups.aminmax(dim=2)  # (out, groups)
        scale = ((high - low) / 15).clamp_(min=1e-20).bfloat16()
        offset = (low + 8 * scale.float()).bfloat16()
        values = groups.sub(offset.float()[..., None]).div_(scale.float()[..., None]).add_(8).round_().clamp_(0, 15)
        return {
            "weight_packed": pack_int4(values.to(torch.uint8).view(rows, columns)),
            "weight_scale": torch.stack([scale, offset], dim=-1).transpose(0, 1).contiguous(),
        }

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights, as they are where torch's kernel has their layout; see the base class."""
        rows, columns = self.out_features, self.in_features
        self._check(
            tensors,
            {
                "weight_packed": ((rows // _BLOCK, columns, _BLOCK // 2), (torch.uint8,)),
                "weight_scale": ((columns // GROUP, rows, 2), (torch.bfloat16,)),
            },
        )
        packed = tensors["weight_packed"]
        if not _kernel_has_our_layout():
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_int4(packed).int(), 1)
        self.register_buffer("weight_packed", packed.view(rows, columns // 2))
        self.register_buffer("weight_scale", tensors["weight_scale"])

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102  # as in nn.Linear
        rows = x.reshape(-1, self.in_features).bfloat16()
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight_packed, GROUP, self.weight_scale)
        product = product.to(x.dtype) if self.bias is None else product + self.bias
        return product.view(*x.shape[:-1], self.out_features).to(x.dtype)


def pack_int4(values: Tensor) -> Tensor:
    """Pack values from 0 to 15, uint8 `(out, in)`, as `Int4Linear` stores them."""
    low, high = values.unflatten(0, (-1, 2, _BLOCK // 2)).unbind(1)  # (blocks, 32, in)
    packed: Tensor = (low | high << 4).transpose(1, 2).contiguous()
    return packed


def unpack_int4(packed: Tensor) -> Tensor:
    """Return the values of `pack_int4`."""
    both = torch.stack([packed & 15, packed >> 4], dim=1)  # (blocks, 2, in, 32)
    values: Tensor = both.transpose(2, 3).flatten(0, 2).contiguous()
    return values


def _kernel_has_our_layout() -> bool:
    """Return whether torch's int4 kernel of this processor reads the layout in which weights are stored."""
    values = (torch.arange(_BLOCK * GROUP).view(_BLOCK, GROUP) * 7 % 16).to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
    return torch.equal(packed.flatten(), pack_int4(values).flatten())
