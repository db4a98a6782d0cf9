"""The engine of a TimeChat model in a server: one that writes the answers itself, or one beside vLLM."""

from collections.abc import Sequence
from dataclasses import replace

from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.executor import Executor, GenerationBatch
from timechat.backbones.timechat.vllm.executor import VllmExecutor, VllmWriter
from timechat.model.generation.generate import GenerationOutput, Prompt
from timechat.serving.context import RequestContext
from timechat.serving.engine import Engine, EngineExecutor, EngineState
from timechat.serving.settings import ServerSettings


def make_engine(backbone: TimeChatBackbone, settings: ServerSettings) -> Engine:
    """Return the engine of a model, which starts with `start`."""
    if isinstance(backbone.executor, VllmExecutor):
        return VisionEngine(backbone, backbone.executor.writer)
    return Engine(
        backbone.model,
        backbone.processor,
        max_rows=settings.max_rows,
        max_bytes=settings.max_state_bytes,
        preempt_after_tokens=settings.preempt_after_tokens,
    )


class VisionEngine(Engine):
    """Encodes the frames of all requests in one thread, while vLLM writes their answers in other processes."""

    def __init__(self, backbone: TimeChatBackbone, writer: VllmWriter) -> None:
        """Join a model, whose language model may be without weights, and the writer of its answers."""
        super().__init__(backbone.model, backbone.processor)
        self._writer = writer

    def stop(self) -> None:
        """Stop the thread and the processes of vLLM."""
        super().stop()
        self._writer.close()

    @property
    def is_alive(self) -> bool:
        """Whether requests can be answered: False while vLLM is being started again."""
        return self._takes_work and self._writer.engine.is_alive

    @property
    def state(self) -> EngineState:
        """Counters and queues; vLLM counts a waiting answer as a running one."""
        answers = self._writer.engine.state
        return replace(super().state, tokens=answers.tokens, running=answers.running)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that requests may choose."""
        return tuple(self._writer.adapters)

    def executor(self, context: RequestContext) -> Executor:
        """Return the executor of one request."""
        return _VllmRequestExecutor(self, context, self._writer)


class _VllmRequestExecutor(EngineExecutor):
    """Passes frames to the engine's thread, and prompts to vLLM."""

    def __init__(self, engine: Engine, context: RequestContext, writer: VllmWriter) -> None:
        super().__init__(engine, context)
        self._writer = writer
        self.language_model_facts = writer.facts(context.adapter)

    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Answer prompts and count their tokens."""
        context = self._context
        outputs, num_cached = self._writer.generate(batch, context.check, context.client, context.adapter)
        context.cached_tokens += num_cached
        for output in outputs:
            context.prompt_tokens += output.num_prompt_tokens
            context.written_tokens += len(output.token_ids)
            context.reached_length_limit |= len(output.token_ids) >= batch.decoding.max_new_tokens
        return outputs

    def continuation_logprobs(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[list[float]]:
        """Return the log probabilities of given continuations."""
        context = self._context
        return self._writer.continuation_logprobs(prompts, lengths, context.check, context.client, context.adapter)
