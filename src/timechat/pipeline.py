"""TimeChat: a video in, answers with times out. Encode once, ask many times."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timechat.events import Answer, Task
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration, quiet_transformers
from timechat.model.prefix_cache import PrefixCache
from timechat.model.processing import TimeChatProcessor
from timechat.model.streaming import AnswerStream
from timechat.prompts import DEFAULT_PRESET
from timechat.tasks import GREEDY, Decoding, build_question, find_preset, read_answer
from timechat.video import Frames, VideoSource, load_frames

__all__ = ["GREEDY", "AnswerStream", "Decoding", "EncodedVideo", "TimeChat"]

Video = VideoSource | Frames
Progress = Callable[[str, int, int], None]
"""Called with the stage (`"decode"`, `"encode"`), what is done of it and what there is to do."""

UNTRAINED_NOTE = "this model has untrained (random) weights: its answers mean nothing"
_FRAMES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video as the language model sees it; made by `TimeChat.encode`, asked as often as you like.

    Attributes:
        video_tokens: `(video tokens, text hidden)`, on the model's device.
        timestamps: `(frames,)` float64 seconds, the true times of the frames that were looked at.
        duration: Seconds.
        name: Path or address of the video, None for ready-made frames without one.
        notes: What a reader of the answers should know, such as frames lost to damage.
        model: Name of the model that looked; another one cannot read its tokens.
    """

    video_tokens: Tensor = field(repr=False)
    timestamps: NDArray[np.float64] = field(repr=False)
    duration: float
    name: str | None = None
    notes: tuple[str, ...] = ()
    model: str | None = None

    def __post_init__(self) -> None:
        timestamps = np.array(self.timestamps, dtype=np.float64)
        timestamps.setflags(write=False)
        object.__setattr__(self, "timestamps", timestamps)

    @property
    def num_frames(self) -> int:
        """Number of frames that were looked at."""
        return len(self.timestamps)


class TimeChat:
    """A model with everything around it: `encode` a video, then `ask` it.

    Attributes:
        model: The network.
        processor: Wording and tokenizers.
        name: What the model was loaded from.
        notes: Said with every answer, such as untrained weights.
    """

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        processor: TimeChatProcessor,
        *,
        name: str,
        notes: Sequence[str] = (),
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.notes = tuple(notes)
        self._prefix = PrefixCache()
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        lora_scale: float | None = None,
    ) -> "TimeChat":
        """Load a model.

        Args:
            model: `"nano"` (built in), a folder made by `timechat convert` or `save_pretrained`, or a hub id.
            device: `"cuda"`, `"mps"`, `"cpu"`, ...; `"auto"` takes the first of these that is there.
            dtype: Number format: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` (CPUs only) or `"auto"`, which
                takes half precision on GPUs and, on a CPU, float32 as far as it fits into its memory.
            lora_scale: Strength of the LoRA adapter (`lora_alpha / r`); None keeps the checkpoint's. The
                authors advise 20 / 32 for question answering.

        Raises:
            CheckpointError: There is no model of that name, or it cannot be loaded.
        """
        network, processor = load_model(str(model), device=device, dtype=dtype)
        if lora_scale is not None:
            network.set_lora_scale(lora_scale)
        notes = () if network.config.is_trained else (UNTRAINED_NOTE,)
        return cls(network, processor, name=str(model), notes=notes)

    @torch.inference_mode()
    def encode(
        self,
        video: Video,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        timestamps: Sequence[float] | None = None,
        sampling: Literal["exact", "keyframes"] = "exact",
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Look at a video: decode frames, encode them, compress them into video tokens.

        Args:
            video: Path, address, bytes, open file, or `Frames`.
            num_frames: Frames spread evenly over the video; None samples as the model's config says.
            fps: Frames a second instead.
            max_frames: Most frames to take with `fps`.
            start: Seconds; look from here on.
            end: Seconds; look up to here.
            timestamps: Seconds; look at exactly these times instead.
            sampling: `"exact"` frames, or the nearest `"keyframes"` with their true times, which is many
                times faster on long files.
            timeout: Seconds of wall time after which reading the file is given up.
            progress: Told how far the work is.

        Raises:
            VideoError: The video cannot be read.
        """
        _report(progress, "decode", 0, 1)
        if isinstance(video, Frames) and all(
            option is None for option in (num_frames, fps, max_frames, start, end, timestamps)
        ):
            frames = video  # ready-made frames are taken as they are
        else:
            chosen: dict[str, Any] = {"num_frames": num_frames, "fps": fps, "max_frames": max_frames}
            if num_frames is None and fps is None and timestamps is None:
                limit = {} if max_frames is None else {"max_frames": max_frames}
                chosen = self.model.config.default_sampling() | limit
            frames = load_frames(
                video,
                **chosen,
                start=start,
                end=end,
                timestamps=timestamps,
                size=self.model.config.vision_config.image_size,
                sampling=sampling,
                timeout=timeout,
            )
        _report(progress, "decode", 1, 1)
        shortest_prompt = self.processor.render_prompt(frames.timestamps, "")
        self._check_room(len(self.processor.encode_prompt(shortest_prompt, len(frames))), max_new_tokens=1)
        frame_tokens = torch.cat(list(self._encode_frames(frames, progress)), dim=1)
        video_tokens = self.model.video_qformer(frame_tokens)[0]
        name = frames.source.name if frames.source else None
        return EncodedVideo(video_tokens, frames.timestamps, frames.duration, name, frames.notes, self.name)

    def _encode_frames(self, frames: Frames, progress: Progress | None) -> Iterator[Tensor]:
        """Encode frames a few at a time; yields `(1, frames, tokens, hidden)`."""
        input_ids, attention_mask = self.processor.encode_timestamps(frames.timestamps)
        for first in range(0, len(frames), _FRAMES_AT_ONCE):
            part = slice(first, first + _FRAMES_AT_ONCE)
            piece = replace(frames, pixels=frames.pixels[part], timestamps=frames.timestamps[part])
            inputs = (self.processor.normalize(piece), input_ids[part], attention_mask[part])
            yield self.model.get_frame_features(*(tensor[None].to(self.model.device) for tensor in inputs))
            _report(progress, "encode", min(first + _FRAMES_AT_ONCE, len(frames)), len(frames))

    @overload
    def ask(
        self,
        video: Video | EncodedVideo,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: Literal[False] = False,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        video: Video | EncodedVideo,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: Literal[True],
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> AnswerStream: ...

    def ask(
        self,
        video: Video | EncodedVideo,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        stream: bool = False,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer | AnswerStream:
        """Ask anything about a video.

        Args:
            video: A video, or better an `EncodedVideo`: a second question about it does no vision work and
                reads again only what is new in the prompt.
            question: In words.
            history: Earlier (question, answer) pairs of this conversation.
            stream: Return an `AnswerStream` that yields the text while it is written.
            decoding: How the answer is written; greedy by default.
            preset: Wording whose system prompt is used.

        Returns:
            An `Answer`, whose events are the times that it names; with `stream` an `AnswerStream`.
        """
        answer = self.stream if stream else self.run
        return answer("ask", video, question, history=history or (), decoding=decoding, preset=preset)

    def dense_caption(
        self,
        video: Video | EncodedVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """Tell all that happens, each event with start, end and a caption."""
        return self.run("dense_caption", video, decoding=decoding, preset=preset)

    def ground(
        self,
        video: Video | EncodedVideo,
        query: str,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """Find when the query happens: at most one event."""
        return self.run("grounding", video, query, decoding=decoding, preset=preset)

    def highlights(
        self,
        video: Video | EncodedVideo,
        query: str | None = None,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """Find the moments worth seeing, with saliency scores: events with `start == end`."""
        return self.run("highlights", video, query, decoding=decoding, preset=preset)

    def steps(
        self,
        video: Video | EncodedVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """List the steps of what is being done, with start and end."""
        return self.run("steps", video, decoding=decoding, preset=preset)

    def summarize(
        self,
        video: Video | EncodedVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """Tell in a few sentences what happens."""
        return self.run("summary", video, decoding=decoding, preset=preset)

    def transcribe(
        self,
        video: Video | EncodedVideo,
        *,
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """Let the model write the speech that it believes to be there, with times."""
        return self.run("transcribe", video, decoding=decoding, preset=preset)

    def run(
        self,
        task: Task,
        video: Video | EncodedVideo,
        words: str | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> Answer:
        """Run a task by name.

        Args:
            task: Which one.
            video: A video or an `EncodedVideo`.
            words: The question, or what to look for, where the task takes it.
            history: Earlier (question, answer) pairs of this conversation.
            decoding: How the answer is written.
            preset: Wording of the task, such as `"original-zeroshot@1"`.
        """
        prompt = self._prepare(task, video, words, history, decoding, preset)
        return prompt.read(self._generate(prompt, decoding))

    def stream(
        self,
        task: Task,
        video: Video | EncodedVideo,
        words: str | None = None,
        *,
        history: Sequence[tuple[str, str]] = (),
        decoding: Decoding = GREEDY,
        preset: str = DEFAULT_PRESET,
    ) -> AnswerStream:
        """Run a task by name, as `run` does, and hand over the text while it is written."""
        prompt = self._prepare(task, video, words, history, decoding, preset)
        return AnswerStream(self.processor.tokenizer, partial(self._generate, prompt, decoding), prompt.read)

    def _prepare(
        self,
        task: Task,
        video: Video | EncodedVideo,
        words: str | None,
        history: Sequence[tuple[str, str]],
        decoding: Decoding,
        preset: str,
    ) -> "_Prompt":
        """Put everything together that the language model is shown."""
        question = build_question(task, words, preset=preset)
        encoded = video if isinstance(video, EncodedVideo) else self.encode(video)
        if encoded.model not in (None, self.name):
            raise ValueError(f"the video was encoded by {encoded.model}, not by {self.name}; encode it with this model")
        text = self.processor.render_prompt(
            encoded.timestamps, question, history=history, system=find_preset(preset).system
        )
        input_ids = self.processor.encode_prompt(text, encoded.num_frames)
        self._check_room(len(input_ids), decoding.max_new_tokens)
        read = partial(
            read_answer,
            task=task,
            words=words,
            video=encoded.name,
            duration=encoded.duration,
            model=self.name,
            notes=(*self.notes, *encoded.notes),
        )
        return _Prompt(encoded, input_ids, read)

    def _check_room(self, prompt_length: int, max_new_tokens: int) -> None:
        room = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if room is not None and prompt_length + max_new_tokens > room:
            raise ValueError(
                f"the prompt has {prompt_length} tokens and the answer may have {max_new_tokens}, but the "
                f"language model reads {room} in all; take fewer frames, a shorter question or history, or lower "
                "max_new_tokens"
            )

    @torch.inference_mode()
    def _generate(self, prompt: "_Prompt", decoding: Decoding, **watchers: Any) -> str:
        """Write an answer, starting from what the cache already knows of the prompt."""
        encoded, input_ids = prompt.video, prompt.input_ids
        with self._lock, _seeded(decoding, self.model.device):
            ids = torch.tensor([input_ids], device=self.model.device)
            embeds = self.model.embed_prompt(ids, encoded.video_tokens)
            cache = self._prefix.take(encoded, input_ids, self.model.lora_scale)
            with quiet_transformers():
                new_ids = self.model.generate(
                    inputs_embeds=embeds,
                    attention_mask=torch.ones_like(ids),
                    past_key_values=cache,
                    **decoding.arguments(),
                    **watchers,
                )[0].tolist()
            self._prefix.keep(encoded, input_ids + new_ids, self.model.lora_scale, cache)
        return self.processor.decode(new_ids)


@dataclass(frozen=True)
class _Prompt:
    """A question ready to be answered, and how to read what will be written."""

    video: EncodedVideo
    input_ids: list[int]
    read: Callable[[str], Answer]


def _report(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)


@contextmanager
def _seeded(decoding: Decoding, device: torch.device) -> Iterator[None]:
    """Draw from the call's own seed and leave the caller's random numbers alone."""
    if not decoding.do_sample:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(decoding.seed)
        yield
