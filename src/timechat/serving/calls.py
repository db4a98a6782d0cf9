"""Calls of the engine: what requests hand over, and the futures of the results."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from timechat.backbones.timechat.executor import GenerationBatch
from timechat.model.generation.generate import GenerationOutput
from timechat.serving.context import RequestContext
from timechat.serving.scheduler import SequenceEntry


@dataclass(eq=False, kw_only=True)
class CallEntry(SequenceEntry):
    """A sequence of a call of `Engine.generate`; `num_emitted` tokens have gone to the streamer."""

    call: "GenerationCall"
    num_emitted: int = 0


@dataclass(eq=False)
class GenerationCall:
    """A call of `Engine.generate`."""

    batch: GenerationBatch
    entries: list[CallEntry] = field(default_factory=list)
    future: "Future[list[GenerationOutput]]" = field(default_factory=Future)

    def finish(self) -> None:
        """Set the result once all sequences are finished."""
        if self.future.done():
            return
        if error := next((entry.sequence.error for entry in self.entries if entry.sequence.error), None):
            self.future.set_exception(error)
        elif all(entry.sequence.is_finished for entry in self.entries):
            self.future.set_result([entry.sequence.output for entry in self.entries])

    def fail(self, error: Exception) -> None:
        """End the call with an error."""
        if not self.future.done():
            self.future.set_exception(error)
            if self.batch.streamer is not None:
                self.batch.streamer.end()


@dataclass(eq=False)
class FrameBatch:
    """A few frames of one video."""

    context: RequestContext
    pixel_values: Tensor
    qformer_input_ids: Tensor
    qformer_attention_mask: Tensor
    future: "Future[Tensor]" = field(default_factory=Future)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return int(self.pixel_values.shape[1])


@dataclass(eq=False)
class FunctionCall:
    """Any other function that needs the model."""

    context: RequestContext
    function: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)
