"""TimeChatProcessor: frames and text → tensors, token ids → text."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from timechat.answers.prompts import (
    SYSTEM_PROMPT,
    TRAINING_SYSTEM_PROMPT,
    VICUNA_MARK,
    VIDEO_PLACEHOLDER,
    ChatStyle,
    Message,
    frame_prompt,
    render_chat,
    video_message,
)
from timechat.errors import CheckpointError
from timechat.model.configuration import TimeChatConfig
from timechat.model.tensor_files import check_is_downloaded
from timechat.model.training_text import encode_conversation
from timechat.video import Frames

PROCESSOR_FILES = (
    "config.json",
    "processor_config.json",
    *(
        f"{folder}{name}"
        for folder in ("", "qformer_tokenizer/")
        for name in ("tokenizer.json", "tokenizer_config.json")
    ),
)
_MAX_FRAME_PROMPT_TOKENS = 32
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class TimeChatProcessor(ProcessorMixin):  # type: ignore[misc]
    """Prepares frames and prompts for the model with `timechat.answers.prompts` and two tokenizers.

    Args:
        tokenizer: The language model's tokenizer, with `<ImageHere>` as one special token.
        qformer_tokenizer: The image Q-Former's tokenizer (BERT).
        config: Config of the model. It is saved once, as `config.json`, and read from there.
        image_mean: Mean per channel of pixels scaled to 0..1.
        image_std: Standard deviation per channel of pixels scaled to 0..1.
        chat_style: Format of a conversation: `"llama_2"` or `"vicuna"`.
        names_frame_times: Whether the prompt also lists the timestamps of the frames as text, as in the original.
            The video tokens contain them in any case.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        qformer_tokenizer: PreTrainedTokenizerBase,
        config: TimeChatConfig,
        image_mean: Sequence[float] = _CLIP_MEAN,
        image_std: Sequence[float] = _CLIP_STD,
        chat_style: ChatStyle = "llama_2",
        names_frame_times: bool = True,
    ) -> None:
        super().__init__(tokenizer, qformer_tokenizer)
        self.config = config
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.chat_style: ChatStyle = chat_style
        self.names_frame_times = names_frame_times

    def __call__(
        self,
        frames: Frames | Sequence[Frames],
        questions: str | Sequence[str],
        *,
        system: str = SYSTEM_PROMPT,
    ) -> BatchFeature:
        """Prepare a batch for `model.generate`: one question per video, left padded.

        Args:
            frames: One or more videos of any length.
            questions: One question for each video.
            system: System prompt of every conversation.

        Returns:
            `input_ids` and `attention_mask` `(batch, sequence)`, `pixel_values`
            `(batch, frames, 3, height, width)`, `qformer_input_ids` and `qformer_attention_mask`
            `(batch, frames, tokens)`, `video_sizes` `(batch, 2)`. A video of a batch is encoded exactly as
            if it were alone.
        """
        videos = [frames] if isinstance(frames, Frames) else list(frames)
        questions = [questions] if isinstance(questions, str) else list(questions)
        if len(videos) != len(questions):
            raise ValueError(f"got {len(videos)} videos and {len(questions)} questions; give one question per video")
        prompts = [
            self.encode_prompt(self.render_prompt(video.timestamps, question, system=system), len(video.timestamps))
            for video, question in zip(videos, questions, strict=True)
        ]
        batch = self.pad_videos([self.encode_frames(video) for video in videos])
        batch["input_ids"], batch["attention_mask"] = pad_left(prompts, self.pad_token_id)
        return BatchFeature(batch)

    def encode_frames(self, frames: Frames) -> dict[str, Tensor]:
        """Prepare one video for the frame encoder.

        Returns:
            `pixel_values` `(frames, 3, height, width)`, `qformer_input_ids` and `qformer_attention_mask`
            `(frames, tokens)`, padded to the longest time sentence of the video.
        """
        input_ids, attention_mask = self.encode_timestamps(frames.timestamps)
        return {
            "pixel_values": self.normalize(frames),
            "qformer_input_ids": input_ids,
            "qformer_attention_mask": attention_mask,
        }

    @staticmethod
    def pad_videos(videos: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack videos of different lengths, with the real size of each as `video_sizes` `(batch, 2)`."""
        sizes = torch.tensor([list(video["qformer_input_ids"].shape) for video in videos])
        frames, tokens = sizes.amax(dim=0).tolist()
        batch = {
            key: torch.stack([_grow(video[key], frames, tokens) for video in videos])
            for key in ("pixel_values", "qformer_input_ids", "qformer_attention_mask")
        }
        return {**batch, "video_sizes": sizes}

    def normalize(self, frames: Frames) -> Tensor:
        """Return normalized pixels, `(frames, 3, size, size)` float32, resized to the size of the vision tower."""
        size = self.config.frame_size
        if frames.pixels.shape[1:3] != (size.height, size.width):
            frames = Frames.from_images(frames.pixels, frames.timestamps, duration=frames.duration, size=size)
        pixels = torch.from_numpy(np.ascontiguousarray(frames.pixels.transpose(0, 3, 1, 2)))
        mean = torch.tensor(self.image_mean).view(3, 1, 1)
        std = torch.tensor(self.image_std).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def encode_timestamps(self, timestamps: Sequence[float] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokenize the time sentences of the frames of one video.

        Returns:
            Ids and mask, each `(frames, tokens)`, right padded to the longest sentence of the video.
        """
        tokenizer = self.timestamp_tokenizer
        rows = [
            tokenizer(frame_prompt(timestamp), truncation=True, max_length=_MAX_FRAME_PROMPT_TOKENS).input_ids
            for timestamp in timestamps
        ]
        self._check_time_ids(rows)
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return _pad(rows, pad_token_id, side="right")

    def set_timestamp_tokenizer(self, vocabulary: str) -> None:
        """Tokenize time sentences with another vocabulary, `"bert"` or `"llama"`.

        Raises:
            ValueError: The image Q-Former has no embeddings for this vocabulary.
        """
        self.config.timestamp_tokenizer = vocabulary
        self.encode_timestamps([0.0])

    def _check_time_ids(self, rows: Sequence[Sequence[int]]) -> None:
        highest, num_rows = max(map(max, rows)), self.config.qformer_config.vocab_size
        if highest >= num_rows:
            raise ValueError(
                f"timestamp_tokenizer is {self.config.timestamp_tokenizer!r}, but the token "
                f"{self.timestamp_tokenizer.convert_ids_to_tokens(highest)!r} of the time sentences has the id "
                f"{highest}, and the image Q-Former has embeddings for the ids 0 to {num_rows - 1} only; set "
                "timestamp_tokenizer to 'bert'"
            )

    def render_prompt(
        self,
        timestamps: Sequence[float] | np.ndarray,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        system: str = SYSTEM_PROMPT,
    ) -> str:
        """Render the conversation up to the start of the model's answer.

        Args:
            timestamps: `(frames,)` seconds.
            question: The question to be answered.
            history: Earlier (question, answer) pairs about the same video.
            system: System prompt.
        """
        messages = []
        for earlier, answer in history:
            messages += [Message("user", earlier), Message("assistant", answer)]
        messages += [Message("user", question), Message("assistant", None)]
        # The original joins video and question with another space: there are two spaces before the question.
        opening = video_message(timestamps, names_times=self.names_frame_times)
        messages[0] = Message("user", f"{opening} {messages[0].text}")
        return render_chat(system, messages, style=self.chat_style)

    def encode_prompt(self, prompt: str, num_frames: int) -> list[int]:
        """Tokenize a rendered prompt with placeholders for the video tokens.

        The texts before and after the video are tokenized separately, as the original does at inference.
        """
        before, found, after = prompt.partition(VIDEO_PLACEHOLDER)
        if not found or VIDEO_PLACEHOLDER in after:
            raise ValueError(
                f"the prompt must contain {VIDEO_PLACEHOLDER} exactly once, got {prompt.count(VIDEO_PLACEHOLDER)} "
                "times; remove it from the question"
            )
        video = [self.config.image_token_id] * self.config.num_video_tokens(num_frames)
        before_ids: list[int] = self.tokenizer(before).input_ids
        after_ids: list[int] = self.tokenizer(after, add_special_tokens=False).input_ids
        return before_ids + video + after_ids

    def encode_prompt_with_answer(self, prompt: str, answer: str, num_frames: int) -> tuple[list[int], int]:
        """Tokenize a rendered prompt followed by an answer.

        Returns:
            All ids, and the number of ids of the answer at their end.
        """
        before = self.encode_prompt(prompt, num_frames)
        ids = self.encode_prompt(f"{prompt} {answer}", num_frames)
        pairs = enumerate(zip(before, ids, strict=False))
        num_equal = next((i for i, (a, b) in pairs if a != b), min(len(before), len(ids)))
        return ids, len(ids) - num_equal

    def encode_training(
        self,
        timestamps: Sequence[float] | np.ndarray,
        turns: Sequence[tuple[str, str]],
        *,
        max_length: int = 2048,
        system: str = TRAINING_SYSTEM_PROMPT,
    ) -> tuple[list[int], list[int]]:
        """Tokenize a whole conversation, with labels on the answers, in the chat style of the model.

        Labels follow the original, see `timechat.model.training_text`. The conversation is tokenized as one string,
        unlike at inference.

        Args:
            timestamps: `(frames,)` seconds.
            turns: (question, answer) pairs.
            max_length: Maximum number of tokens; the rest is cut off at the end.
            system: System prompt; the published checkpoints were trained with a blank one.

        Returns:
            Token ids and labels of equal length; labels are -100 for tokens without loss.
        """
        opening = video_message(
            timestamps,
            num_placeholders=self.config.num_video_tokens(len(timestamps)),
            names_times=self.names_frame_times,
        )
        return encode_conversation(
            self.tokenizer, opening, turns, system=system, style=self.chat_style, max_length=max_length
        )

    def decode(self, token_ids: Tensor | Sequence[int], **kwargs: Any) -> str:
        """Return the text of an answer, without special tokens and surrounding white space."""
        text: str = self.tokenizer.decode(token_ids, **{"skip_special_tokens": True, **kwargs})
        return self.first_turn(text).strip()

    def first_turn(self, text: str) -> str:
        """Return the text before the mark of the next turn, which in the vicuna format is no token of its own."""
        return text.partition(VICUNA_MARK)[0] if self.chat_style == "vicuna" else text

    @property
    def ends_turn(self) -> Callable[[Sequence[int]], bool] | None:
        """Function that returns whether generated tokens are a whole answer; None for formats with an end token."""
        return turn_end(self.tokenizer, self.chat_style)

    @property
    def timestamp_tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the time sentences for the image Q-Former."""
        return {"bert": self.qformer_tokenizer, "llama": self.tokenizer}[self.config.timestamp_tokenizer]

    @property
    def pad_token_id(self) -> int:
        """Token id that pads the prompts of a batch (always masked)."""
        pad_token_id: int | None = self.tokenizer.pad_token_id
        return 0 if pad_token_id is None else pad_token_id

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return the names of the parts that are saved in separate files."""
        return ["tokenizer", "qformer_tokenizer"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load a saved processor; no code from its folder is run.

        Raises:
            CheckpointError: The folder has lost one of the files, or a file is damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            for name in PROCESSOR_FILES:
                _check_file(folder, name)
        kwargs["trust_remote_code"] = False
        return super().from_pretrained(str(pretrained_model_name_or_path), *args, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        tokenizers = super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)
        return [*tokenizers, TimeChatConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> Any:
        """Write the tokenizers and the processor; also the config, unless the model has already written it."""
        saved = super().save_pretrained(save_directory, **kwargs)
        if not _has_config(save_directory):
            self.config.save_pretrained(save_directory)
        return saved

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `processor_config.json`, without the model's config, which is in `config.json`."""
        return {key: value for key, value in super().to_dict().items() if key != "config"}


def turn_end(tokenizer: PreTrainedTokenizerBase, chat_style: ChatStyle) -> Callable[[Sequence[int]], bool] | None:
    """Return the function that tells whether generated tokens are a whole answer; None if an end token tells it."""
    if chat_style != "vicuna":
        return None

    def has_mark(token_ids: Sequence[int]) -> bool:
        last = token_ids[-len(VICUNA_MARK) :]  # the mark has at most as many tokens as characters
        return VICUNA_MARK in tokenizer.decode(list(last))

    return has_mark


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pad prompts on the left; returns ids and mask, each `(batch, sequence)`."""
    return _pad(rows, pad_token_id, side="left")


def pad_right(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pad training samples on the right; returns ids and mask, each `(batch, sequence)`."""
    return _pad(rows, pad_token_id, side="right")


def _pad(rows: Sequence[Sequence[int]], pad_token_id: int, *, side: str) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return ids, mask


def _grow(tensor: Tensor, frames: int, tokens: int) -> Tensor:
    """Pad with zeros: frames always, tokens if the tensor contains ids."""
    shape = (frames, tokens) if tensor.ndim == 2 else (frames, *tensor.shape[1:])
    grown = tensor.new_zeros(shape)
    grown[: tensor.shape[0], : tensor.shape[1]] = tensor
    return grown


def _check_file(folder: Path, name: str) -> None:
    """Refuse a lost or damaged file, without which `transformers` would make an empty tokenizer."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} has lost its {name}; convert or fetch it again")
    check_is_downloaded(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "tokenizer.json":
            is_whole = bool(content["model"]["vocab"])
        elif path.name == "tokenizer_config.json":
            is_whole = "tokenizer_class" in content
        else:
            is_whole = isinstance(content, dict)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CheckpointError(f"{path} is damaged; convert or fetch the checkpoint again")


def _has_config(folder: str) -> bool:
    return (Path(folder) / "config.json").exists()


AutoProcessor.register(TimeChatConfig, TimeChatProcessor, exist_ok=True)
