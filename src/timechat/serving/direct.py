"""The work of models that schedule their own requests: servers elsewhere, and models of transformers with one lock."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from timechat.answers.forms import AnswerForm
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import Backbone, GeneratedText
from timechat.serving.context import RequestContext
from timechat.serving.engine import EngineState


class DirectEngine:
    """Has the members of `Engine` that the service uses; the work is done in the threads of the requests."""

    def __init__(self, backbone: Backbone) -> None:
        """Take a model.

        Args:
            backbone: Model that many threads may use at once.
        """
        self._backbone = backbone
        self._tokens = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Do nothing: there is no thread."""

    def stop(self) -> None:
        """Close the model."""
        self._backbone.close()

    def wake(self) -> None:
        """Do nothing: requests check themselves whether they are over."""

    @property
    def is_alive(self) -> bool:
        """Whether requests can be answered."""
        return True

    @property
    def state(self) -> EngineState:
        """Counters since the start; only the generated tokens are known."""
        return EngineState(self._tokens, 0, 0, 0, 0, 0, 0, {})

    def backbone(self, context: RequestContext) -> Backbone:
        """Return the model for one request, whose tokens are counted in its context."""
        return cast(Backbone, _CountedBackbone(self._backbone.with_check(context.check), context, self._count))

    def _count(self, tokens: int) -> None:
        with self._lock:
            self._tokens += tokens


class _CountedBackbone:
    """A backbone that counts the tokens of one request."""

    def __init__(self, backbone: Backbone, context: RequestContext, count: Callable[[int], None]) -> None:
        self._backbone, self._context, self._count = backbone, context, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def generate(
        self,
        prompts: Sequence[Any],
        forms: Sequence[AnswerForm | None],
        decoding: DecodingOptions,
        **options: Any,
    ) -> list[GeneratedText]:
        """Answer prompts and count their tokens."""
        texts = self._backbone.generate(prompts, forms, decoding, **options)
        for text in texts:
            self._context.prompt_tokens += text.num_prompt_tokens
            self._context.written_tokens += text.num_tokens
            self._context.reached_length_limit |= text.num_tokens >= decoding.max_new_tokens
            self._count(text.num_tokens)
        return texts

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Count the tokens of an answer from the cache, and those of its prompt as cached."""
        self._context.count_cached(num_prompt_tokens, num_tokens, decoding.max_new_tokens)
