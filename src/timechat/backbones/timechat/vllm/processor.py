"""Logits processor of vLLM's first model runner, which writes the answers of TimeChat's grammars."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from timechat.backbones.timechat.vllm.owner import end_with_owner
from timechat.backbones.timechat.vllm.token_chooser import ChosenRow, TokenChooser, check_arguments


class AnswerLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token to each answer that has a grammar, or that is drawn; see `TokenChooser`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        """Read the model's folder; called by vLLM in the process of the model."""
        end_with_owner()
        self._chooser = TokenChooser(Path(vllm_config.model_config.model), device)
        self._rows: dict[int, tuple[ChosenRow, list[int]]] = {}

    @classmethod
    def validate_params(cls, params: Any) -> None:
        """Refuse arguments that cannot be read, before the request is sent."""
        check_arguments(params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Return False: the most likely token changes."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that enter, leave and move in the batch."""
        process_dict_updates(self._rows, batch_update, self._start)

    def _start(
        self,
        params: Any,
        prompt_token_ids: list[int] | None,  # noqa: ARG002 - as vLLM calls it
        output_token_ids: list[int],
    ) -> tuple[ChosenRow, list[int]] | None:
        row = self._chooser.start(params.extra_args)
        return None if row is None else (row, output_token_ids)  # vLLM appends to the list

    def apply(self, logits: Tensor) -> Tensor:
        """Change the scores `(batch, vocab)` in place."""
        return self._chooser.force(self._rows, logits)
