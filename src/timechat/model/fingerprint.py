"""Hashes that identify weights and tensors."""

import hashlib
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_SAMPLES = 16  # values of a tensor that are compared

_State = list[tuple[str, torch.dtype, int, int, list[float]]]
_known_fingerprints: WeakKeyDictionary[nn.Module, tuple[_State, str]] = WeakKeyDictionary()


def weights_fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights: names, dtypes, shapes and values.

    The result is cached until a weight is replaced or changed in place.
    """
    weights = module.state_dict()
    state = [(name, *_state(value)) for name, value in weights.items() if isinstance(value, Tensor)]
    known = _known_fingerprints.get(module)
    if known is None or known[0] != state:
        known = _known_fingerprints[module] = (state, tensors_fingerprint(weights))
    return known[1]


def tensors_fingerprint(tensors: Mapping[str, object]) -> str:
    """Return the SHA-256 of named tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state(tensor: Tensor) -> tuple[torch.dtype, int, int, list[float]]:
    """Return values that change when a tensor changes, without reading all of it.

    The sampled values detect fused optimizers, which write to weights without increasing their version.
    """
    version = 0 if tensor.is_inference() else tensor._version
    samples = tensor.detach().flatten()[:: max(1, tensor.numel() // _SAMPLES)]
    return tensor.dtype, tensor.data_ptr(), version, samples.float().tolist()
