"""What the language model remembers from one prompt to the next."""

import weakref
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class _CachedPrefix:
    """The states of one prompt: keys and values of each layer, `(1, heads, positions, head size)`."""

    video: "weakref.ref[object]"
    ids: list[int]
    lora_scale: float | None
    states: list[tuple[Tensor, Tensor]]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.states for tensor in pair)


class PrefixCache:
    """What the language model remembers of the last prompt about each of the last videos.

    Two prompts about one video are the same up to the question; so are the turns of a conversation. The
    states of that shared part are taken over instead of being computed again.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        """Remember nothing yet.

        Args:
            max_bytes: Of all states together; the prompt that was used last is remembered whatever its size.
        """
        self._max_bytes = max_bytes
        self._known: OrderedDict[int, _CachedPrefix] = OrderedDict()

    def take(self, video: object, ids: list[int], lora_scale: float | None) -> DynamicCache:
        """Return a cache of its own that holds the longest prefix of `ids` that is known."""
        cache = DynamicCache()
        known = self._known.get(id(video))
        if known is None or known.video() is not video or known.lora_scale != lora_scale:
            return cache
        self._known.move_to_end(id(video))
        # At least one token must be read anew: its output is where the answer starts.
        shared = min(_shared_length(known.ids, ids), len(ids) - 1, known.states[0][0].shape[2])
        for layer, (keys, values) in enumerate(known.states):
            cache.update(keys[:, :, :shared], values[:, :, :shared], layer)
        return cache

    def store(self, video: object, ids: list[int], lora_scale: float | None, cache: DynamicCache) -> None:
        """Remember the states of `ids`, of which the last may not have been read by the model."""
        if any(getattr(cache, "is_sliding", ())):
            return  # a window that slid on cannot be turned back
        key = id(video)
        reference = weakref.ref(video, lambda _: self._known.pop(key, None))
        # A dynamic cache never writes into its tensors: it makes new ones.
        states = [(layer.keys, layer.values) for layer in cache.layers]
        self._known[key] = _CachedPrefix(reference, ids, lora_scale, states)
        self._known.move_to_end(key)
        while len(self._known) > 1 and sum(known.num_bytes for known in list(self._known.values())) > self._max_bytes:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()


def _shared_length(a: list[int], b: list[int]) -> int:
    """Return how many ids two prompts have in common from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
