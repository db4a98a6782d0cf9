"""EfficientNet-Lite2 (Tan and Le 2019, TensorFlow's "lite" variant): an image -> 1280 features, inference only."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

IMAGE_SIZE = 260
NUM_FEATURES = 1280
FEATURE_LIMIT = 6.0
"""Upper bound of ReLU6."""


@dataclass(frozen=True)
class BlockGroup:
    """A group of equal blocks. Only the first block of a group has the stride.

    Attributes:
        blocks: Number of blocks.
        kernel: Width of the depthwise convolutions in pixels.
        stride: Stride of the first block.
        expansion: Channels inside a block divided by its input channels.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int


GROUPS = (
    BlockGroup(1, 3, 1, 1),
    BlockGroup(3, 3, 2, 6),
    BlockGroup(3, 5, 2, 6),
    BlockGroup(4, 3, 2, 6),
    BlockGroup(4, 5, 1, 6),
    BlockGroup(5, 5, 2, 6),
    BlockGroup(1, 3, 1, 6),
)


@dataclass(frozen=True)
class Convolution:
    """A convolution with batch normalization folded into it, and TensorFlow's padding.

    Attributes:
        weight: `(out channels, in channels / groups, kernel, kernel)`, packed for oneDNN where that is available.
        bias: `(out channels,)`.
        kernel: Width in pixels.
        stride: Stride in pixels.
        groups: Number of groups; the number of channels for a depthwise convolution.
        has_relu6: Whether the outputs are clamped to 0..6.
        is_packed: Whether `weight` has the layout of oneDNN.
    """

    weight: Tensor
    bias: Tensor
    kernel: int
    stride: int
    groups: int
    has_relu6: bool
    is_packed: bool

    def __call__(self, values: Tensor) -> Tensor:
        """Convolve `(batch, in channels, height, width)`."""
        top, bottom = same_padding(values.shape[2], self.kernel, self.stride)
        left, right = same_padding(values.shape[3], self.kernel, self.stride)
        if top == bottom and left == right:
            padding = [top, left]
        else:
            values, padding = functional.pad(values, (left, right, top, bottom)), [0, 0]
        if self.is_packed:
            after, limits = ("hardtanh", [0.0, FEATURE_LIMIT]) if self.has_relu6 else ("none", [])
            stride, dilation = [self.stride] * 2, [1, 1]
            convolve = torch.ops.mkldnn._convolution_pointwise
            result: Tensor = convolve(
                values, self.weight, self.bias, padding, stride, dilation, self.groups, after, limits, ""
            )
            return result
        values = functional.conv2d(values, self.weight, self.bias, self.stride, tuple(padding), groups=self.groups)
        return values.clamp_(0.0, FEATURE_LIMIT) if self.has_relu6 else values


class EfficientNetLite2:
    """The convolutions of EfficientNet-Lite2 without its classifier.

    Args:
        tensors: Folded weights and biases by the names of `convolution_names`, such as `blocks.3.depthwise.weight`.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        packed = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        self._stem = _convolution(tensors, "stem", 2, True, packed)
        self._blocks: list[tuple[list[Convolution], bool]] = []
        for index, (group, is_first) in enumerate(blocks()):
            stride = group.stride if is_first else 1
            layers = [_convolution(tensors, f"blocks.{index}.expand", 1, True, packed)] if group.expansion > 1 else []
            layers.append(_convolution(tensors, f"blocks.{index}.depthwise", stride, True, packed))
            layers.append(_convolution(tensors, f"blocks.{index}.project", 1, False, packed))
            self._blocks.append((layers, not is_first))
        self._head = _convolution(tensors, "head", 1, True, packed)

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Compute features.

        Args:
            pixel_values: `(batch, 3, 260, 260)` float32, `(value - 127) / 128` of RGB from 0 to 255.

        Returns:
            `(batch, 1280)` float32, each from 0 to 6.
        """
        values = self._stem(pixel_values.contiguous(memory_format=torch.channels_last))
        for layers, has_shortcut in self._blocks:
            shortcut = values
            for layer in layers:
                values = layer(values)
            if has_shortcut:
                values = values.add_(shortcut)
        return self._head(values).mean((2, 3))


def convolution_names() -> list[str]:
    """Return the names of all convolutions in the order of computation."""
    names = ["stem"]
    for index, (group, _) in enumerate(blocks()):
        parts = ("expand", "depthwise", "project") if group.expansion > 1 else ("depthwise", "project")
        names += [f"blocks.{index}.{part}" for part in parts]
    return [*names, "head"]


def blocks() -> list[tuple[BlockGroup, bool]]:
    """Return the group of each block, and whether the block is the first one of its group."""
    return [(group, number == 0) for group in GROUPS for number in range(group.blocks)]


def _convolution(
    tensors: Mapping[str, Tensor], name: str, stride: int, has_relu6: bool, is_packed: bool
) -> Convolution:
    weight = tensors[f"{name}.weight"].float().contiguous(memory_format=torch.channels_last)
    bias = tensors[f"{name}.bias"].float().contiguous()
    kernel = weight.shape[-1]
    groups = weight.shape[0] if name.endswith("depthwise") else 1
    if is_packed:
        padding = [kernel // 2] * 2 if stride == 1 else [0, 0]
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        weight = reorder(weight.contiguous(), padding, [stride] * 2, [1, 1], groups, None)
    return Convolution(weight, bias, kernel, stride, groups, has_relu6, is_packed)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after an axis with which TensorFlow's outputs have `ceil(size / stride)` values."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
