"""A backbone that keeps the texts which it writes for one request."""

from collections.abc import Sequence
from typing import Any

from timechat.answers.forms import AnswerForm
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import Backbone, GeneratedText


class RecordingBackbone:
    """Passes all work to another backbone and adds each text, with its tokens, to a list."""

    def __init__(self, backbone: Backbone, texts: list[GeneratedText]) -> None:
        """Join a backbone and the list."""
        self._backbone, self._texts = backbone, texts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def generate(
        self,
        prompts: Sequence[Any],
        forms: Sequence[AnswerForm | None],
        decoding: DecodingOptions,
        **options: Any,
    ) -> list[GeneratedText]:
        """Answer prompts and keep the texts."""
        texts = self._backbone.generate(prompts, forms, decoding, **options)
        self._texts.extend(texts)
        return texts
