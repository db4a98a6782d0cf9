"""Faster linear layers for float32 inference on CPUs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_MIN_ROWS = 1024  # packing costs about 7 % of a product with 2048 rows, and saves about 15 %


class PackedLinear(TorchFunctionMode):
    """Compute large linear layers with oneDNN and packed weights inside a `with` block.

    Torch computes float32 linear layers on CPUs with MKL. On the processors that were measured (docs/measurements.md),
    oneDNN needs 10 to 20 % less time once the weight has its blocked layout. The weight is packed for each product and
    released afterwards, so that no second copy of the weights stays in memory. Products that record gradients, have few
    rows, use another device or dtype, or have a weight of another class (sharded, quantized) are computed as usual.
    Results differ in the last rounding. The block applies to its own thread only.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace `torch.nn.functional.linear`, and pass on all other functions."""
        if func is functional.linear and not kwargs and _can_pack(*args[:2]):
            values, weight = args[:2]
            bias = args[2] if len(args) > 2 else None
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _num_rows(values))
            return torch.ops.mkldnn._linear_pointwise(values, packed, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def _can_pack(values: Tensor, weight: Tensor) -> bool:
    return (
        type(values) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and weight.ndim == 2
        and values.dtype == weight.dtype == torch.float32
        and values.device.type == weight.device.type == "cpu"
        and _num_rows(values) >= _MIN_ROWS
        and not (torch.is_grad_enabled() and (values.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _num_rows(values: Tensor) -> int:
    return values.numel() // max(1, values.shape[-1])
