"""`TimeChatBackbone`: TimeChat's own network, whose image Q-Former reads a sentence with the time of each frame."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList, TextStreamer

from timechat.answers.events import Event
from timechat.answers.forms import AnswerForm
from timechat.answers.tasks import DecodingOptions, find_preset
from timechat.answers.token_evidence import Token
from timechat.backbones.backbone import (
    BackboneConfig,
    Check,
    EncodedVideo,
    Facts,
    FrameCache,
    GeneratedText,
    Question,
    WindowCost,
)
from timechat.backbones.timechat.encoding import compress_frames, encode_frames
from timechat.backbones.timechat.executor import Executor, GenerationBatch, LocalExecutor
from timechat.backbones.timechat.facts import answer_facts, model_fingerprint
from timechat.backbones.timechat.verification import verification_logprobs
from timechat.errors import PromptTooLongError
from timechat.model.configuration import TimeChatConfig
from timechat.model.domain import outside_domain_notes
from timechat.model.generation.generate import GenerationOutput, Prompt, token_spans
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.video import Frames
from timechat.video.frames import FrameSize
from timechat.video.sampling import FrameSampling

UNTRAINED_NOTE = "this model has untrained (random) weights: its answers mean nothing"

Result = TypeVar("Result")

_TRIAL_FRAMES = 8
_TRIAL_TOKENS = 16


def backbone_config(config: TimeChatConfig) -> BackboneConfig:
    """Return the properties that the configuration of a TimeChat model states."""
    return BackboneConfig(
        rate=FrameSampling(fps=config.fps, max_frames=config.max_frames or None),
        num_frames=config.max_frame_positions,
        window_seconds=config.window_seconds,
        context=getattr(config.text_config, "max_position_embeddings", None),
        score_calibration=config.score_calibration or {},
        found_threshold=config.found_threshold,
        lowercase_queries=config.lowercase_queries,
        domain=config.domain,
        frame_size=config.frame_size,
    )


class TimeChatBackbone:
    """A TimeChat model with its processor and the executor of its work; see `Backbone`."""

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        processor: TimeChatProcessor,
        *,
        name: str,
        executor: Executor | None = None,
    ) -> None:
        """Combine a model and its processor.

        Args:
            model: Network.
            processor: Processor of the model.
            name: Name of the model.
            executor: Executor of the model's work; None runs it in the caller's thread.
        """
        self.model, self.processor, self.name = model.eval(), processor, name
        self.notes: tuple[str, ...] = () if model.config.is_trained else (UNTRAINED_NOTE,)
        self.executor: Executor = LocalExecutor(self.model, processor) if executor is None else executor
        self.check: Check = self.executor.check

    def with_executor(self, executor: Executor) -> "TimeChatBackbone":
        """Return the same model with another executor of its work."""
        return TimeChatBackbone(self.model, self.processor, name=self.name, executor=executor)

    def with_check(self, check: Check) -> Self:
        """Return the same model for one request, whose work ends between two steps when `check` raises."""
        other = copy.copy(self)
        other.check = check
        return other

    def close(self) -> None:
        """Close the executor; the memory of the network is released with the object."""
        self.executor.close()

    @property
    def config(self) -> BackboneConfig:
        """The properties that the checkpoint states."""
        return backbone_config(self.model.config)

    def frame_size(self, height: int, width: int) -> FrameSize:  # noqa: ARG002 - as `Backbone` has it
        """Return the size of the vision tower's input, whatever the size of the video."""
        return self.model.config.frame_size  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------------- encoding

    @torch.inference_mode()
    def encode(
        self,
        frames: Frames,
        *,
        frame_cache: FrameCache | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Encode the frames of a window into video tokens `(video tokens, text hidden)`.

        Raises:
            PromptTooLongError: The language model cannot read so many frames, whatever the question.
        """
        shortest = self.processor.render_prompt(frames.timestamps, "")
        self._check_length(len(self.processor.encode_prompt(shortest, len(frames))), max_new_tokens=1)
        found = None if frame_cache is None else frame_cache.load()
        if found is None:
            tokens = encode_frames(self.model, self.processor, frames, progress, encode=self.executor.encode_frames)
            if frame_cache is not None:
                frame_cache.save({"tokens": tokens})
        else:
            tokens = found["tokens"].to(self.model.device)
        return self._joined(tokens)

    def _joined(self, tokens: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        video_tokens = self.executor.call(partial(compress_frames, self.model, tokens))
        return video_tokens, outside_domain_notes(self.model.config.domain, tokens[0])

    @torch.inference_mode()
    def frame_states(self, picture: NDArray[np.uint8]) -> Tensor:
        """Encode one frame `(height, width, 3)` without its time, for `encode_states`."""
        pixels = self.processor.normalize(Frames(picture[None], np.zeros(1), 0.0))
        return self.model.frame_encoder.vision_states(pixels.to(self.model.device))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def encode_states(
        self, states: Sequence[Tensor], timestamps: NDArray[np.float64]
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Encode the frames of a window from their states and times on the clock of the window."""
        device = self.model.device
        input_ids, mask = self.processor.encode_timestamps(timestamps)
        tokens = self.model.get_frame_features(
            None, input_ids[None].to(device), mask[None].to(device), vision_states=torch.cat(list(states))[None]
        )
        return self._joined(tokens)

    def pack(self, content: Tensor) -> Mapping[str, Tensor]:
        """Return the video tokens for the disk."""
        return {"tokens": content}

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the video tokens on the model's device."""
        return tensors["tokens"].to(self.model.device)

    # ------------------------------------------------------------------------------------------------ answering

    def prompt(self, video: EncodedVideo, question: Question, max_new_tokens: int) -> Prompt:
        """Build the prompt of a question about a window.

        Raises:
            PromptTooLongError: Prompt and answer do not fit into the language model.
        """
        system = find_preset(self.config.preset).system if question.system is None else question.system
        text = self.processor.render_prompt(video.timestamps, question.text, history=question.history, system=system)
        input_ids = self.processor.encode_prompt(text, video.num_frames)
        self._check_length(len(input_ids), max_new_tokens)
        return Prompt(input_ids, video.content)

    def generate(
        self,
        prompts: Sequence[Prompt],
        forms: Sequence[AnswerForm | None],
        decoding: DecodingOptions,
        *,
        window_numbers: Sequence[int] = (),
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[GeneratedText]:
        """Answer prompts in one batch; each answer is independent of the others."""
        batch = GenerationBatch(
            prompts,
            [None if form is None else form.grammar for form in forms],
            decoding,
            window_numbers,
            None if on_text is None else _TextStreamer(self.processor.tokenizer, on_text),
            None if should_stop is None else StoppingCriteriaList([_StopWhen(should_stop)]),
        )
        return [self._text(output) for output in self.executor.generate(batch)]

    def _text(self, output: GenerationOutput) -> GeneratedText:
        text, spans = token_spans(self.processor, output.token_ids)
        written = zip(spans, output.logprobs, strict=True)
        tokens = tuple(Token(first, end, logprob) for (first, end), logprob in written)
        return GeneratedText(text, tokens, output.num_prompt_tokens, len(output.token_ids))

    def verify(self, videos: Sequence[EncodedVideo], events: Sequence[Event], *, preset: str) -> list[float]:
        """Return how much more likely each caption is at its time with the video than with a blank one, in nats."""
        compute = self.executor.continuation_logprobs
        return verification_logprobs(compute, self.processor, videos, events, preset=preset)

    @torch.inference_mode()
    def measure(
        self,
        frames: Frames,
        duration: float,
        question: Question,
        form: AnswerForm | None,
        decoding: DecodingOptions,
        typical_tokens: int,
    ) -> WindowCost:
        """Estimate the work of a window by encoding a few of its frames and writing the start of an answer."""
        few = replace(frames, pixels=frames.pixels[:_TRIAL_FRAMES], timestamps=frames.timestamps[:_TRIAL_FRAMES])
        tokens, encode = _timed(partial(encode_frames, self.model, self.processor, few))
        tokens = tokens.repeat(1, -(-len(frames) // len(few)), 1, 1)[:, : len(frames)]
        video = EncodedVideo(compress_frames(self.model, tokens), frames.timestamps, duration)
        trial = DecodingOptions(max_new_tokens=_TRIAL_TOKENS, num_beams=decoding.num_beams)
        prompt = self.prompt(video, question, _TRIAL_TOKENS)
        (answer,), seconds = _timed(partial(self.generate, [prompt], [form], trial))
        usual = min(typical_tokens, decoding.max_new_tokens)
        # The prompt takes about the time of one more token; the answer of the trial may have ended early.
        seconds = encode * len(frames) / len(few) + seconds * (usual + 1) / (answer.num_tokens + 1)
        return WindowCost(seconds, prompt_tokens=answer.num_prompt_tokens, answer_tokens=usual)

    def facts(self, kind: Facts) -> dict[str, Any]:
        """Return everything that tokens or answers depend on; the weights are hashed at the first call."""
        if kind == "answer":
            return answer_facts(self.model, self.processor, self.executor.language_model_facts)
        return model_fingerprint(self.model, self.processor, kind)

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Count an answer that is reused from the cache, and its prompt."""
        self.executor.count_cached(num_prompt_tokens, num_tokens, decoding)

    def _check_length(self, prompt_length: int, max_new_tokens: int) -> None:
        limit = self.config.context
        if limit is not None and prompt_length + max_new_tokens > limit:
            raise PromptTooLongError(
                f"the prompt has {prompt_length} tokens and the answer may have {max_new_tokens}, but the "
                f"language model reads {limit} in all; take fewer frames, a shorter question or history, or lower "
                "max_new_tokens"
            )


class _TextStreamer(TextStreamer):  # type: ignore[misc]
    """Passes the text to a function as it is written, word by word."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 - as transformers calls it
        """Pass on a piece of text."""
        if text:
            self._on_text(text)


class _StopWhen(StoppingCriteria):  # type: ignore[misc]
    """Stopping criterion that ends generation at the next token once a function returns True."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._should_stop(), device=input_ids.device)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Do a piece of work; return its result and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began
