"""Cache of the language model's states of earlier prompts."""

import weakref
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class _CachedPrefix:
    """States of one prompt: keys and values of each layer, `(1, heads, positions, head size)`."""

    video: "weakref.ref[object]"
    ids: list[int]
    lora_scale: float | None
    states: list[tuple[Tensor, Tensor]]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.states for tensor in pair)


class PrefixCache:
    """Cache of the states of the last prompt about each recent video.

    Two prompts about one video are equal up to the question, and so are the turns of a conversation. The states of
    this common prefix are reused instead of computed again.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        """Create an empty cache.

        Args:
            max_bytes: Maximum size of all states; the most recent prompt is always cached, whatever its size.
        """
        self._max_bytes = max_bytes
        self._known: OrderedDict[int, _CachedPrefix] = OrderedDict()

    def take(self, video: object, ids: list[int], lora_scale: float | None) -> DynamicCache:
        """Return a new cache with the states of the longest known prefix of `ids`."""
        cache = DynamicCache()
        known = self._known.get(id(video))
        if known is None or known.video() is not video or known.lora_scale != lora_scale:
            return cache
        self._known.move_to_end(id(video))
        # At least one token must be read again: the answer starts from its output.
        shared = min(_shared_length(known.ids, ids), len(ids) - 1, known.states[0][0].shape[2])
        for layer, (keys, values) in enumerate(known.states):
            cache.update(keys[:, :, :shared], values[:, :, :shared], layer)
        return cache

    def store(self, video: object, ids: list[int], lora_scale: float | None, cache: DynamicCache) -> None:
        """Store the states of `ids`; the model may not have read the last of them yet."""
        if any(getattr(cache, "is_sliding", ())):
            return  # a sliding window cannot be cut back to a shorter prefix
        key = id(video)
        reference = weakref.ref(video, lambda _: self._known.pop(key, None))
        # A dynamic cache never writes into its tensors: it creates new ones.
        states = [(layer.keys, layer.values) for layer in cache.layers]
        self._known[key] = _CachedPrefix(reference, ids, lora_scale, states)
        self._known.move_to_end(key)
        while len(self._known) > 1 and sum(known.num_bytes for known in list(self._known.values())) > self._max_bytes:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Remove all states."""
        self._known.clear()


def _shared_length(a: list[int], b: list[int]) -> int:
    """Return the length of the common prefix of two prompts."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
