"""The backbone of local models of `transformers`."""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
import transformers
from torch import Tensor

from timechat.answers.events import Event
from timechat.answers.forms import FORM_VERSION, AnswerForm
from timechat.answers.presets import preset_for
from timechat.answers.tasks import DecodingOptions, build_question, caption_texts, find_preset
from timechat.backbones.backbone import (
    BackboneConfig,
    Check,
    EncodedVideo,
    Facts,
    FrameCache,
    GeneratedText,
    Question,
    WindowCost,
    acquire,
)
from timechat.backbones.transformers.answers import TextStream, read_answer
from timechat.backbones.transformers.families import WORDING_VERSION, Family, backbone_config, find_family
from timechat.backbones.transformers.generation import AnswerRowState, Decoder
from timechat.backbones.transformers.loading import LoadedModel, load_model_files, read_config
from timechat.backbones.transformers.media import EncodedFrames, MediaEncoder, token_side
from timechat.backbones.transformers.prompts import PromptBuilder, TransformersPrompt, rope_index
from timechat.files.system import keep_freed_memory
from timechat.model.fingerprint import weights_fingerprint
from timechat.model.generation.generate import end_token_ids
from timechat.model.generation.grammar_state import GrammarCompiler
from timechat.video import Frames
from timechat.video.frames import FrameSize

_MAX_PACKED_BYTES = 16 << 20  # larger windows are encoded again instead of being read from the disk
_TRIAL_FRAMES = 8
_TRIAL_TOKENS = 8
_NO_INFLUENCE = ("_name_or_path", "transformers_version")


def load_transformers_backbone(
    model: str, *, device: str = "auto", dtype: str | torch.dtype = "auto", picture_side: int | None = None
) -> "TransformersBackbone":
    """Load a video language model of `transformers` as a backbone.

    Args:
        model: Folder or hub id.
        device: Torch device; `"auto"` selects CUDA, else MPS, else the CPU.
        dtype: `"float32"`, `"float16"`, `"bfloat16"` or `"auto"`: half precision on GPUs; on a CPU float32 if it fits
            into the memory of the machine, else bfloat16.
        picture_side: Side in pixels of the square whose area a picture has at most; None takes that of the family.

    Raises:
        CheckpointError: The model does not exist, is of another kind, does not fit into memory, or cannot be loaded.
        ValueError: The device is not available, the dtype is unknown, or the model reads pictures of one size only.
    """
    loaded = load_model_files(model, device=device, dtype=dtype)
    if loaded.model.device.type == "cpu":
        keep_freed_memory()
    family = find_family(loaded.model.config.model_type)
    if picture_side is not None:
        if family.is_square:
            raise ValueError(f"{model} reads pictures of one size only, got picture_side={picture_side}; leave it out")
        tokens = max(1, picture_side**2 // token_side(loaded.image_processor) ** 2)
        family = replace(family, tokens_per_picture=tokens)
    return TransformersBackbone(loaded, model, family=family)


def read_backbone_config(model: str) -> BackboneConfig:
    """Read by which frames and windows a model of `transformers` reads a video, from its `config.json` alone.

    Raises:
        CheckpointError: There is no model of that name.
    """
    config = read_config(model)
    preset = preset_for(model, config.model_type)
    return backbone_config(config, find_family(config.model_type), preset)


class TransformersBackbone:
    """A video language model of `transformers` for the time engine; see the protocol `Backbone`.

    Copies made by `with_check` share the model, its lock, and the states of the last window.

    Attributes:
        name: Folder or hub id of the model.
        notes: Notes of every answer.
        config: Properties that decide how a video is read.
        check: Function that raises if the results are no longer needed.
        family: Family of the model.
    """

    def __init__(
        self, loaded: LoadedModel, name: str, *, preset: str | None = None, family: Family | None = None
    ) -> None:
        """Make a backbone.

        Args:
            loaded: Model, tokenizer, image processor and template.
            name: Name of the model.
            preset: Name of the prompt preset that the model was made for; None chooses it by name and architecture.
            family: Family of the model; None finds it by the type of the model.

        Raises:
            CheckpointError: The model has no usable chat template.
            ValueError: The model cannot read encoded pictures.
        """
        self._loaded = loaded
        model, config = loaded.model, loaded.model.config
        self.name = name
        self.family = find_family(config.model_type) if family is None else family
        self.notes = () if self.family.note is None else (self.family.note,)
        self.check: Check = _go_on
        self.config = backbone_config(config, self.family, preset or preset_for(name, config.model_type))
        self._encoder = MediaEncoder(model, loaded.tokenizer, loaded.image_processor, self.family)
        self._prompts = PromptBuilder(
            loaded.tokenizer,
            loaded.template,
            name=name,
            context=self.config.context,
            rope_index=rope_index(model.base_model, config),
        )
        ends = end_token_ids(model)
        if loaded.tokenizer.eos_token_id is not None and loaded.tokenizer.eos_token_id not in ends:
            ends = [*ends, loaded.tokenizer.eos_token_id]
        self._decoder = Decoder(model, self._encoder, ends)
        self._compiler = GrammarCompiler(loaded.tokenizer, config.get_text_config(decoder=True).vocab_size, ends)
        self._facts: dict[str, Any] = {}  # shared by all copies

    def with_check(self, check: Check) -> Self:
        """Return the same backbone for one request, whose work ends when `check` raises."""
        other = copy.copy(self)
        other.check = check
        return other

    def close(self) -> None:
        """Release the states of the last window and the process that checks JSON schemas."""
        self._decoder.forget()
        self._compiler.close()

    # ----------------------------------------------------------------------------------------------- windows

    def frame_size(self, height: int, width: int) -> FrameSize:
        """Return the size to which frames of a video of this displayed size are decoded."""
        return self._encoder.frame_size(height, width)

    @torch.inference_mode()
    def encode(
        self,
        frames: Frames,
        *,
        frame_cache: FrameCache | None = None,  # noqa: ARG002 - features of frames are as large as those of windows
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[EncodedFrames, tuple[str, ...]]:
        """Encode the frames of one window, each with its time; the model is free between a few pictures."""
        turn = partial(acquire, self._decoder.lock, self.check)
        return self._encoder.encode(frames, turn, progress), ()

    def pack(self, content: EncodedFrames) -> dict[str, Tensor] | None:
        """Return the tensors of a window for the disk; None if they are larger than 16 MiB."""
        return content.tensors() if content.num_bytes <= _MAX_PACKED_BYTES else None

    def unpack(self, tensors: Mapping[str, Tensor]) -> EncodedFrames:
        """Return the content of a window from its tensors."""
        return EncodedFrames.from_tensors(tensors, self._loaded.model.device)

    def prompt(self, video: EncodedVideo, question: Question, max_new_tokens: int) -> TransformersPrompt:
        """Build the prompt of a question about a window.

        Raises:
            PromptTooLongError: Prompt and answer do not fit into the model.
            ValueError: Another model has encoded the window.
        """
        if video.model not in (None, self.name):
            raise ValueError(f"the video was encoded by {video.model}, not by {self.name}; encode it with this model")
        return self._prompts.build(video.content, question, max_new_tokens)

    # ----------------------------------------------------------------------------------------------- answers

    def generate(
        self,
        prompts: Sequence[TransformersPrompt],
        forms: Sequence[AnswerForm | None],
        decoding: DecodingOptions,
        *,
        window_numbers: Sequence[int] = (),
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[GeneratedText]:
        """Answer prompts, each as if it were alone; several prompts are one batch.

        Raises:
            ValueError: The decoding asks for a beam search, a form is too large, or a callback has several prompts.
        """
        if decoding.num_beams > 1:
            raise ValueError(
                f"num_beams={decoding.num_beams} is for TimeChat models; {self.name} answers with num_beams=1, or "
                "with sampling"
            )
        if len(prompts) > 1 and (on_text is not None or should_stop is not None):
            raise ValueError(
                f"on_text and should_stop are for a single prompt, got {len(prompts)}; give them one by one"
            )
        numbers = window_numbers or [0] * len(prompts)
        rows = [
            AnswerRowState(
                prompt,
                replace(decoding, seed=(decoding.seed + number) % 2**63),
                None if form is None or form.grammar is None else self._compiler.state(form.grammar),
            )
            for prompt, form, number in zip(prompts, forms, numbers, strict=True)
        ]
        stream = None if on_text is None else TextStream(self._loaded.tokenizer, on_text)
        self._decoder.write(rows, self.check, None if stream is None else stream.put, should_stop)
        answers = [self._answer(row) for row in rows]
        if stream is not None:
            stream.finish(answers[0].text)
        return answers

    def _answer(self, row: AnswerRowState) -> GeneratedText:
        text, tokens = read_answer(self._loaded.tokenizer, row.token_ids, row.logprobs, row.allowed or ())
        return GeneratedText(text, tokens, len(row.prompt.ids), len(row.token_ids))

    def verify(self, videos: Sequence[EncodedVideo], events: Sequence[Event], *, preset: str) -> list[float] | None:
        """Return how much more likely each caption is at its time with the pictures than without, in nats.

        Without pictures, the prompt has the same text with the same times.
        """
        question = Question(build_question("dense_caption", preset=preset), system=find_preset(preset).system)
        values = []
        for video, event in zip(videos, events, strict=True):
            ids, num_words = self._caption_ids(event, preset)
            shown, blank = (
                sum(self.score(build(video.content, question), ids)[-num_words:])
                for build in (self._prompts.with_pictures, self._prompts.without_pictures)
            )
            values.append(shown - blank)
        return values

    def score(self, prompt: TransformersPrompt, token_ids: Sequence[int]) -> list[float]:
        """Return the log probability of each token of a given answer, as generation would record it."""
        self._prompts.check_length(len(prompt.ids), len(token_ids))
        return self._decoder.continuation_logprobs(prompt, token_ids, self.check)

    def _caption_ids(self, event: Event, preset: str) -> tuple[list[int], int]:
        """Return the ids of an answer up to the end of a caption, and the number of the last ids that are its words."""
        head, answer = caption_texts(event, preset)
        ids, before = self._prompts.plain_ids(answer), self._prompts.plain_ids(head)
        pairs = enumerate(zip(ids, before, strict=False))
        num_equal = next((i for i, (one, other) in pairs if one != other), min(len(ids), len(before)))
        return ids, max(1, len(ids) - num_equal)

    # ---------------------------------------------------------------------------------------- costs and facts

    def measure(
        self,
        frames: Frames,
        duration: float,
        question: Question,
        form: AnswerForm | None,
        decoding: DecodingOptions,
        typical_tokens: int,
    ) -> WindowCost:
        """Estimate the work of one window by encoding a few of its frames and writing the start of an answer."""
        few = replace(frames, pixels=frames.pixels[:_TRIAL_FRAMES], timestamps=frames.timestamps[:_TRIAL_FRAMES])
        share = len(frames) / len(few)
        began = time.perf_counter()
        content, _ = self.encode(few)
        prompt = self.prompt(EncodedVideo(content, few.timestamps, duration), question, _TRIAL_TOKENS)
        trial = replace(decoding, num_beams=1, min_new_tokens=0)
        self.generate([prompt], [form], replace(trial, max_new_tokens=1))
        read = time.perf_counter()
        (answer,) = self.generate([prompt], [form], replace(trial, max_new_tokens=_TRIAL_TOKENS))
        each = (time.perf_counter() - read) / max(1, answer.num_tokens)
        num_tokens = min(typical_tokens, decoding.max_new_tokens)
        return WindowCost(
            seconds=(read - began) * share + each * num_tokens,
            prompt_tokens=round(len(content.ids) * share) + len(prompt.ids) - len(content.ids),
            answer_tokens=num_tokens,
        )

    def facts(self, kind: Facts) -> dict[str, Any]:
        """Return everything that results of this kind depend on; the weights are hashed at the first call."""
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        if not self._facts:
            words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
            self._facts |= {
                "backbone": "transformers",
                "weights": weights_fingerprint(model),
                "config": _without_origin(model.config.to_dict()),
                "image_processor": _plain(self._loaded.image_processor.to_dict()),
                "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
                "family": [self.family.name, self.family.layout, self.family.tokens_per_picture, WORDING_VERSION],
                "dtype": str(model.dtype),
                "device": model.device.type,
                "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
        facts = {"kind": kind, **self._facts}
        if kind == "answer":
            facts["chat_template"] = self._loaded.template or tokenizer.chat_template
            facts["form_version"] = FORM_VERSION
            facts["end_token_ids"] = list(self._decoder.end_token_ids)
        return facts

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Do nothing: tokens are not counted here."""


def _go_on() -> None:
    """Do nothing: the caller waits for the result."""


def _without_origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration, without those that only name its origin."""
    plain = {name: value for name, value in config.items() if name not in _NO_INFLUENCE}
    return {
        name: _without_origin(value) if isinstance(value, Mapping) else _plain(value) for name, value in plain.items()
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON keeps it."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))
