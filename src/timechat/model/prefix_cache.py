"""What the language model remembers from one prompt to the next."""

import weakref

from transformers import DynamicCache


class PrefixCache:
    """What the language model remembers of the last prompt about the last video.

    Two prompts about one video are the same up to the question; so are the turns of a conversation. The
    states of that shared part are taken over instead of being computed again.
    """

    def __init__(self) -> None:
        self._video: weakref.ref[object] | None = None
        self._ids: list[int] = []
        self._lora_scale: float | None = None
        self._cache: DynamicCache | None = None

    def take(self, video: object, ids: list[int], lora_scale: float | None) -> DynamicCache:
        """Return a cache that holds the longest prefix of `ids` that is known; it is no longer kept here."""
        known, cache = self._ids, self._cache
        is_same = self._video is not None and self._video() is video and self._lora_scale == lora_scale
        self.clear()
        if cache is None or not is_same:
            return DynamicCache()
        # At least one token must be read anew: its output is where the answer starts.
        shared = min(_shared_length(known, ids), len(ids) - 1, cache.get_seq_length())
        cache.crop(shared - cache.get_seq_length())
        return cache

    def keep(self, video: object, ids: list[int], lora_scale: float | None, cache: DynamicCache) -> None:
        """Remember the states of `ids`, of which the last have not been read by the model."""
        if any(getattr(cache, "is_sliding", ())):
            return  # a window that slid on cannot be turned back
        self._video = weakref.ref(video, lambda _: self.clear())
        self._ids, self._lora_scale, self._cache = ids, lora_scale, cache

    def clear(self) -> None:
        """Forget everything."""
        self._video, self._ids, self._cache = None, [], None


def _shared_length(a: list[int], b: list[int]) -> int:
    """Return how many ids two prompts have in common from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
