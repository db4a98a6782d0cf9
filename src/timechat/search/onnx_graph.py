"""EfficientNet-Lite2 as an ONNX model in memory, for ONNX Runtime (extra `search`).

ONNX Runtime needs about 0.6 of the CPU time of torch for this network. The model is written here, in the wire format of
protocol buffers, because the package `onnx` is needed for nothing else. Field numbers are those of `onnx.proto3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from timechat.search.efficientnet import FEATURE_LIMIT, IMAGE_SIZE, NUM_FEATURES, blocks, same_padding
from timechat.search.encoder import FloatArray

_IR_VERSION, _OPSET = 8, 13
_FLOAT, _INT_ATTRIBUTE, _INTS_ATTRIBUTE = 1, 2, 7


def load_session(tensors: Mapping[str, Tensor], threads: int) -> Any | None:
    """Return an ONNX Runtime session of the network; None if ONNX Runtime is not installed.

    Args:
        tensors: Folded weights and biases, see `EfficientNetLite2`.
        threads: Number of threads.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the core to others
    return onnxruntime.InferenceSession(write_model(tensors), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, pixel_values: FloatArray) -> FloatArray:
    """Compute the features, `(batch, 1280)`, of `(batch, 3, 260, 260)` pixels; see `EfficientNetLite2`."""
    (features,) = session.run(None, {"pixel_values": pixel_values})
    result: FloatArray = features
    return result


def write_model(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the ONNX model of the convolutions, as bytes."""
    graph = _Graph(tensors)
    values = graph.convolve("pixel_values", "stem", 2, has_relu6=True)
    for index, (stage, is_first) in enumerate(blocks()):
        shortcut = values
        if stage.expansion > 1:
            values = graph.convolve(values, f"blocks.{index}.expand", 1, has_relu6=True)
        values = graph.convolve(values, f"blocks.{index}.depthwise", stage.stride if is_first else 1, has_relu6=True)
        values = graph.convolve(values, f"blocks.{index}.project", 1, has_relu6=False)
        if not is_first:
            values = graph.add_node("Add", [values, shortcut], f"blocks.{index}.sum")
    values = graph.convolve(values, "head", 1, has_relu6=True)
    values = graph.add_node("GlobalAveragePool", [values], "pooled")
    graph.add_node("Flatten", [values], "features")
    return graph.to_bytes()


class _Graph:
    """The nodes and weights of a graph, as encoded messages."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors, self._size = tensors, IMAGE_SIZE
        self._nodes: list[bytes] = []
        self._weights: list[bytes] = []
        self._add_weight("zero", np.float32(0))
        self._add_weight("limit", np.float32(FEATURE_LIMIT))

    def convolve(self, values: str, name: str, stride: int, *, has_relu6: bool) -> str:
        """Add a convolution with TensorFlow's padding; return the name of its result."""
        weight = self._tensors[f"{name}.weight"].float().numpy()
        self._add_weight(f"{name}.weight", weight)
        self._add_weight(f"{name}.bias", self._tensors[f"{name}.bias"].float().numpy())
        kernel = weight.shape[-1]
        before, after = same_padding(self._size, kernel, stride)
        self._size = -(-self._size // stride)
        result = self.add_node(
            "Conv",
            [values, f"{name}.weight", f"{name}.bias"],
            f"{name}.values",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            group=weight.shape[0] if name.endswith("depthwise") else 1,
            pads=[before, before, after, after],
        )
        return self.add_node("Clip", [result, "zero", "limit"], f"{name}.clipped") if has_relu6 else result

    def add_node(self, kind: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> str:
        """Add a node; return the name of its result."""
        node = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, kind)
        for name, value in attributes.items():
            if isinstance(value, int):
                content = _number(3, value) + _number(20, _INT_ATTRIBUTE)
            else:
                content = b"".join(_number(8, each) for each in value) + _number(20, _INTS_ATTRIBUTE)
            node += _message(5, _text(1, name) + content)
        self._nodes.append(node)
        return output

    def to_bytes(self) -> bytes:
        """Return the model."""
        graph = b"".join(_message(1, node) for node in self._nodes) + _text(2, "efficientnet_lite2")
        graph += b"".join(_message(5, weight) for weight in self._weights)
        graph += _message(11, _value("pixel_values", [3, IMAGE_SIZE, IMAGE_SIZE]))
        graph += _message(12, _value("features", [NUM_FEATURES]))
        return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, _text(1, "") + _number(2, _OPSET))

    def _add_weight(self, name: str, value: Any) -> None:
        array = np.ascontiguousarray(value, "<f4")
        shape = b"".join(_number(1, each) for each in np.shape(value))
        self._weights.append(shape + _number(2, _FLOAT) + _text(8, name) + _message(9, array.tobytes()))


def _value(name: str, shape: Iterable[int]) -> bytes:
    """Return the description of an input or output whose first dimension is the batch."""
    dimensions = _message(1, _text(2, "batch")) + b"".join(_message(1, _number(1, each)) for each in shape)
    return _text(1, name) + _message(2, _message(1, _number(1, _FLOAT) + _message(2, dimensions)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Encode a number with 7 bits in each byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
