"""The model for harnesses: any number of questions about videos → answers, with each video encoded once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import GREEDY, DecodingOptions, find_preset
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.evaluation.answering import answer_batch, make_prompt
from timechat.pipeline import EncodedVideo, TimeChat

_NO_VIDEOS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp", ".wav", ".mp3", ".m4a", ".flac"))
_SEARCH_OPTIONS = ("num_beams", "length_penalty", "repetition_penalty", "min_new_tokens")
OPTIONS = frozenset(("max_new_tokens", "until", "do_sample", "temperature", "top_p", "top_k", *_SEARCH_OPTIONS))
"""Generation options that TimeChat reads; tasks of harnesses also set options of other models."""
_KEPT_VIDEOS = 16  # encoded videos, less than 1 MB each; a harness asks in the order of its data set

Progress = Callable[[int], object]
"""Function that is called with the number of new answers."""


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A video, or a clip of it.

    Attributes:
        path: Path or address of the file.
        start: Start of the clip in seconds; None is the beginning of the video.
        end: End of the clip in seconds; None is the end of the video.
    """

    path: str
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if PurePath(self.path).suffix.lower() in _NO_VIDEOS:
            raise ValueError(f"TimeChat answers about videos, got {self.path}; choose tasks about videos")


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Decoding of an answer.

    Attributes:
        decoding: Decoding options. Sampling uses the random state of the harness, not this seed: a harness repeats a
            question to measure how much the answers differ.
        stops: Stop strings; the first one in the text ends the answer and is not part of it.
    """

    decoding: DecodingOptions = GREEDY
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HarnessQuestion:
    """A question about a video.

    Attributes:
        video: Video of the question.
        text: The question.
        history: Earlier (question, answer) pairs.
        system: System prompt; None uses the model's.
        writing: Decoding options of the answer.
    """

    video: VideoPart
    text: str
    history: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    writing: GenerationSettings = GenerationSettings()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError(f"a question about {self.video.path} has no text; add a question to the task")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with its token counts.

    Attributes:
        text: Text of the answer without leading and trailing white space.
        prompt_tokens: Number of prompt tokens, including the video tokens.
        answer_tokens: Number of generated tokens.
    """

    text: str
    prompt_tokens: int
    answer_tokens: int


class VideoAnswerer:
    """Model interface for harnesses.

    Attributes:
        timechat: The model.
        num_frames: Number of frames of each video; None uses the model's configuration.
        system: System prompt of questions without one.
    """

    def __init__(
        self,
        timechat: TimeChat,
        *,
        num_frames: int | None = None,
        preset: str = DEFAULT_PRESET,
        system: str | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            timechat: The model.
            num_frames: Number of evenly spaced frames of each video; None uses the model's configuration.
            preset: Preset that provides the system prompt.
            system: System prompt instead of the preset's.
        """
        self.timechat = timechat
        self.num_frames = num_frames
        self.system = find_preset(preset).system if system is None else system
        self._encode = lru_cache(maxsize=_KEPT_VIDEOS)(self._encode_anew)

    @classmethod
    def from_pretrained(
        cls,
        pretrained: str = "nano",
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        lora_scale: float | None = None,
        lora_alpha: float | None = None,
        num_frames: int | None = None,
        preset: str = DEFAULT_PRESET,
        system: str | None = None,
    ) -> "VideoAnswerer":
        """Load a model; the arguments are those of `TimeChat.from_pretrained` and of this class.

        Args:
            pretrained: Checkpoint name, folder or hub id.
            device: Device, as in `TimeChat.from_pretrained`.
            dtype: Number format, as in `TimeChat.from_pretrained`.
            quantize: Format to which weights are rounded, as in `TimeChat.from_pretrained`.
            lora_scale: Strength of the LoRA adapter, `lora_alpha / r`.
            lora_alpha: Strength of the adapter before division by its rank, as in the original's commands.
            num_frames: Number of frames of each video.
            preset: Preset that provides the system prompt.
            system: System prompt instead of the preset's.
        """
        if lora_scale is not None and lora_alpha is not None:
            raise ValueError(
                f"lora_scale={lora_scale} and lora_alpha={lora_alpha} set the same value twice; give one of them"
            )
        find_preset(preset)  # report a wrong name before the weights are read
        timechat = TimeChat.from_pretrained(
            pretrained, device=device, dtype=dtype, quantize=quantize, lora_scale=lora_scale
        )
        if not isinstance(timechat.backbone, TimeChatBackbone):
            raise ValueError(
                f"{pretrained} is not a TimeChat model; lmms-eval and VLMEvalKit have models of their own for it"
            )
        if lora_alpha is not None:
            timechat.model.set_lora_alpha(lora_alpha)
        return cls(timechat, num_frames=num_frames, preset=preset, system=system)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self.timechat.model.device
        return device

    def answer(
        self, questions: Sequence[HarnessQuestion], *, batch_size: int = 1, progress: Progress | None = None
    ) -> list[Reply]:
        """Answer questions; questions about the same video are processed together, in any input order.

        Args:
            questions: Questions, in any number and order.
            batch_size: Maximum number of questions in a batch.
            progress: Function that is called after each batch with the number of its answers.

        Returns:
            The answers, in the order of the questions.

        Raises:
            VideoError: A video cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 question, got {batch_size}")
        videos = {question.video: i for i, question in reversed(list(enumerate(questions)))}
        writings = {question.writing: i for i, question in reversed(list(enumerate(questions)))}
        order = sorted(
            range(len(questions)), key=lambda i: (videos[questions[i].video], writings[questions[i].writing])
        )
        replies: dict[int, Reply] = {}
        for _, same in groupby(order, key=lambda i: questions[i].writing):
            alike = list(same)
            for first in range(0, len(alike), batch_size):
                batch = alike[first : first + batch_size]
                replies |= zip(batch, self._answer_batch([questions[i] for i in batch]), strict=True)
                if progress is not None:
                    progress(len(batch))
        return [replies[i] for i in range(len(questions))]

    @torch.inference_mode()
    def score(self, question: HarnessQuestion, continuation: str) -> tuple[float, bool]:
        """Compute the likelihood of a given text as the answer.

        Args:
            question: Question about a video.
            continuation: Text to score; leading and trailing white space is ignored.

        Returns:
            The mean negative log probability (natural logarithm) per token of the text, and whether the text is the
            model's greedy answer.
        """
        if not continuation.strip():
            raise ValueError(f"a continuation needs a text, got {continuation!r}; check the task's choices")
        timechat, encoded = self.timechat, self._encode(question.video)
        system = self._system_of(question)
        text = timechat.processor.render_prompt(
            encoded.timestamps, question.text, history=question.history, system=system
        )
        ids, num_scored = timechat.processor.encode_prompt_with_answer(text, continuation.strip(), encoded.num_frames)
        self._room(len(ids) - num_scored, at_least=num_scored)
        input_ids = torch.tensor([ids], device=self.device)
        embeds = timechat.model.embed_prompt(input_ids, encoded.content)  # (1, sequence, hidden)
        logits: Tensor = timechat.model(inputs_embeds=embeds, logits_to_keep=num_scored + 1).logits[0, :-1].float()
        asked = input_ids[0, -num_scored:].to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits, asked)
        return float(loss), bool((logits.argmax(-1) == asked).all())

    def _encode_anew(self, video: VideoPart) -> EncodedVideo:
        return self.timechat.encode(video.path, num_frames=self.num_frames, start=video.start, end=video.end)

    def _system_of(self, question: HarnessQuestion) -> str:
        return self.system if question.system is None else question.system

    def _room(self, prompt_length: int, *, at_least: int = 1) -> int | None:
        """Maximum number of answer tokens that fit the context; None if the language model has no limit."""
        room = getattr(self.timechat.model.config.text_config, "max_position_embeddings", None)
        if room is not None and prompt_length + at_least > room:
            raise ValueError(
                f"the prompt has {prompt_length} tokens, but the language model reads {room} in all with its answer; "
                "set num_frames lower"
            )
        return None if room is None else room - prompt_length

    @torch.inference_mode()
    def _answer_batch(self, questions: Sequence[HarnessQuestion]) -> list[Reply]:
        """Answer questions with the same decoding options."""
        timechat, writing = self.timechat, questions[0].writing
        prompts = [
            make_prompt(
                timechat,
                self._encode(question.video),
                question.text,
                system=self._system_of(question),
                history=question.history,
            )
            for question in questions
        ]
        # The harness sets the maximum number of tokens; a shorter context of the model ends the answer earlier.
        room = self._room(max(len(prompt.input_ids) for prompt in prompts))
        longest = writing.decoding.max_new_tokens if room is None else min(writing.decoding.max_new_tokens, room)
        decoding = replace(writing.decoding, max_new_tokens=longest)
        if decoding.do_sample:  # seed from the harness's random state: it samples the same question several times
            decoding = replace(decoding, seed=int(torch.randint(2**31, ())))
        written = answer_batch(timechat, prompts, decoding, range(len(prompts)))
        return [
            Reply(
                cut_at(one.text, writing.stops),
                len(prompt.input_ids),
                one.num_tokens,
            )
            for prompt, one in zip(prompts, written, strict=True)
        ]


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string, without leading and trailing white space."""
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)].strip() if ends else text


def writing_of(options: Mapping[str, Any]) -> GenerationSettings:
    """Convert the generation options of a harness or its task to decoding options.

    Decoding is greedy unless `do_sample` is true, or `do_sample` is absent and the temperature is above 0.

    Args:
        options: Generation options; names outside `OPTIONS` have no effect.

    Raises:
        ValueError: Beams and sampling are requested together, or a value is out of range.
    """
    left = {name: value for name, value in options.items() if value is not None}
    until = left.pop("until", ())
    stops = (until,) if isinstance(until, str) else tuple(map(str, until))
    warmth = left.pop("temperature", None)  # harnesses use 0 for greedy decoding, regardless of do_sample
    temperature = GREEDY.temperature if warmth is None else float(warmth)
    do_sample = bool(left.pop("do_sample", warmth is not None)) and temperature > 0
    decoding = DecodingOptions(max_new_tokens=int(left.pop("max_new_tokens", GREEDY.max_new_tokens)))
    search = {name: type(getattr(GREEDY, name))(left[name]) for name in _SEARCH_OPTIONS if name in left}
    decoding = replace(decoding, **search)
    top_p, top_k = left.pop("top_p", GREEDY.top_p), left.pop("top_k", GREEDY.top_k)
    if do_sample:
        decoding = replace(decoding, do_sample=True, temperature=temperature, top_p=float(top_p), top_k=int(top_k))
    return GenerationSettings(decoding, tuple(stop for stop in stops if stop))
