"""Logits processor of vLLM's second model runner (`VLLM_USE_V2_MODEL_RUNNER=1`), which needs a GPU.

It was tested with stand-ins of the runner's buffers on a CPU; it was not run by vLLM.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

from timechat.backbones.timechat.vllm.owner import end_with_owner
from timechat.backbones.timechat.vllm.token_chooser import ChosenRow, TokenChooser, check_arguments


class AnswerLogitsProcessorV2(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token to each answer that has a grammar, or that is drawn; see `TokenChooser`."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        """Read the model's folder; called by vLLM in the process of the model."""
        end_with_owner()
        self._chooser = TokenChooser(Path(vllm_config.model_config.model), req_states.device)
        self._states = req_states
        self._rows: dict[int, ChosenRow] = {}  # by the slots of the requests

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse arguments that cannot be read, before the request is sent."""
        check_arguments(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Start the answer of a slot; the slot may have had another one."""
        row = self._chooser.start(sampling_params.extra_args)
        self._rows.pop(req_idx, None)
        if row is not None:
            self._rows[req_idx] = row
        return row is not None

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Change the scores `(rows, vocab)` in place."""
        if not any(int(slot) in self._rows for slot in ctx.idx_mapping_np):
            return logits
        slots, positions = ctx.expanded_idx_mapping.tolist(), ctx.pos.tolist()
        rows = {}
        for place, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            if slot in self._rows:
                first = int(self._states.prompt_len.np[slot])
                token_ids = self._states.all_token_ids.gpu[slot, first : max(first, position + 1)].tolist()
                rows[place] = (self._rows[slot], token_ids)
        return self._chooser.force(rows, logits)
