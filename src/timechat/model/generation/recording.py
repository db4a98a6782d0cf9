"""Records of the probabilities with which a model writes: of the chosen tokens, and of all tokens that are allowed.

The recorders are logits processors of `generate`: `LogprobRecorder` in front of all others, where it sees the scores of
the model, and `AllowedRecorder` behind those that mask tokens.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor


class LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Records the log probability of each token; stores the scores of one step only."""

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self._recorded: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record the last token; scores `(rows, vocab)` do not change."""
        if self.last is not None:
            self._record(input_ids[:, -1])
        self.last = scores.float().log_softmax(-1)
        return scores

    def finish(self, new_ids: Tensor) -> Tensor:
        """Return the log probabilities of all generated tokens, `(rows, steps)`."""
        if len(self._recorded) < new_ids.shape[1]:
            self._record(new_ids[:, -1])
        return torch.stack(self._recorded, dim=1)

    def _record(self, chosen: Tensor) -> None:
        assert self.last is not None
        self._recorded.append(self.last.gather(1, chosen[:, None].to(self.last.device))[:, 0])


class AllowedRecorder(LogitsProcessor):  # type: ignore[misc]
    """Records the log probability, under the model, of all tokens that the processors in front of it allow."""

    def __init__(self, recorder: LogprobRecorder) -> None:
        """Create a recorder.

        Args:
            recorder: Recorder of the same generation, which sees the scores of the model.
        """
        self._recorder = recorder
        self._recorded: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - as transformers calls it
        """Record one step; scores `(rows, vocab)` do not change."""
        assert self._recorder.last is not None
        known = self._recorder.last.masked_fill(scores.isneginf(), float("-inf"))
        self._recorded.append(known.logsumexp(-1).clamp(max=0.0))
        return scores

    def finish(self) -> Tensor:
        """Return the log probability of the allowed tokens of each step, `(rows, steps)`."""
        return torch.stack(self._recorded, dim=1)
