"""The key-value cache of a continuous batch: one tensor for each layer, with one row for each sequence."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

_GROWTH_POSITIONS = 256  # positions by which the cache grows; each growth copies the cache


def allocated_rows(num_rows: int, max_rows: int) -> int:
    """Return the number of rows to allocate for `num_rows` sequences: a power of two, so that few growths copy."""
    return min(max_rows, 1 << (num_rows - 1).bit_length())


def allocated_positions(num_positions: int) -> int:
    """Return the number of positions to allocate for `num_positions`: a multiple of the growth step."""
    return -(-num_positions // _GROWTH_POSITIONS) * _GROWTH_POSITIONS


class KVCacheSlots:
    """Keys and values of all rows, in one tensor for each layer that is written in place and grows on demand.

    Attributes:
        cache: The slots as the cache that the language model takes.
        width: Number of positions of the longest row after the next step.
        lengths: `(rows,)`, position of each row's next token.
        indices: `(rows,)`, row numbers of the next step.
    """

    def __init__(self, max_rows: int, num_layers: int) -> None:
        self._max_rows = max_rows
        self._layers = [_KVSlotLayer(self) for _ in range(num_layers)]
        self.cache = Cache(layers=list(self._layers))
        self.width = 0
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.indices = self.lengths

    def write_row(self, row: int, states: list[tuple[Tensor, Tensor]]) -> None:
        """Write the states of a sequence into a row: keys and values of each layer, `(heads, positions, head size)`."""
        length = states[0][0].shape[1]
        self._grow(row + 1, length + 1, like=states[0][0])
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            layer.keys[row, :, :length] = keys
            layer.values[row, :, :length] = values

    def read_row(self, row: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Return a copy of the first `length` positions of a row."""
        return [(layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()) for layer in self._layers]

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        for layer in self._layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def prepare_step(self, lengths: Tensor, width: int) -> None:
        """Set the positions of the next tokens.

        Args:
            lengths: `(rows,)`, position of each row's next token.
            width: Number of positions of the longest row after the step.
        """
        self.lengths, self.width = lengths, width
        self.indices = torch.arange(len(lengths), device=lengths.device)
        self._grow(len(lengths), width, like=self._layers[0].keys)

    @property
    def num_bytes(self) -> int:
        """Size of all keys and values."""
        return sum(0 if layer.keys is None else layer.keys.nbytes + layer.values.nbytes for layer in self._layers)

    def _grow(self, num_rows: int, num_positions: int, *, like: Tensor) -> None:
        """Allocate at least so many rows and positions; `like` has the shape `(..., heads, positions, head size)`."""
        first = self._layers[0].keys
        old_rows, old_positions = (0, 0) if first is None else (first.shape[0], first.shape[2])
        if num_rows <= old_rows and num_positions <= old_positions:
            return
        rows = max(old_rows, allocated_rows(num_rows, self._max_rows))
        positions = max(old_positions, allocated_positions(num_positions))
        shape = (rows, like.shape[-3], positions, like.shape[-1])
        for layer in self._layers:
            for name in ("keys", "values"):
                # Zeros: masked positions are still multiplied by zero, so they must be finite.
                grown = torch.zeros(shape, dtype=like.dtype, device=like.device)
                if first is not None:
                    grown[:old_rows, :, :old_positions] = getattr(layer, name)
                setattr(layer, name, grown)
            layer.is_initialized = True


class _KVSlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of `KVCacheSlots`, in the form that `transformers` expects."""

    keys: Any
    values: Any

    def __init__(self, slots: KVCacheSlots) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: rows are written before the model is called."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new states, `(rows, heads, 1, head size)`, at each row's next position; return all states."""
        slots = self._slots
        self.keys[slots.indices, :, slots.lengths] = key_states[:, :, 0]
        self.values[slots.indices, :, slots.lengths] = value_states[:, :, 0]
        rows = len(slots.indices)
        return self.keys[:rows, :, : slots.width], self.values[:rows, :, : slots.width]

    def get_mask_sizes(self, _query_length: int) -> tuple[int, int]:
        """Return the number of positions that attention reads, and the first of them."""
        return self._slots.width, 0

    def get_seq_length(self) -> int:
        """Return the number of positions of the longest row before the step."""
        return max(0, self._slots.width - 1)

    def get_max_length(self) -> int:
        """Return -1: the cache has no maximum length."""
        return -1
