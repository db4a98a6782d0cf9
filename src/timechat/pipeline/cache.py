"""Encoded windows and answers kept on disk for later calls.

Every entry is found under the hash of everything that it depends on, which includes the content of the video. So a job
that was interrupted needs no record of its progress: the same command reuses the windows that are done.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal
from weakref import WeakKeyDictionary

import av
import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from timechat.answers.merging import WindowAnswer
from timechat.answers.prompts import frame_prompt
from timechat.answers.windows import Window
from timechat.cache import DiskCache, cache_key, file_digest
from timechat.model.fingerprint import tensors_fingerprint, weights_fingerprint
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline.request import Request
from timechat.pipeline.session import EncodedVideo, Video
from timechat.video import Frames, FrameSampling

TokenKind = Literal["frames", "video"]
"""`frames`: output of the image Q-Former for each frame; `video`: input of the language model."""

_CHECKSUM = "sha256"
_NO_INFLUENCE = {"_name_or_path", "architectures", "dtype", "transformers_version"}
_PROBES = (0.0, 12345.6, 7890.0)  # seconds with every digit, so that their sentences show how times become ids
_vocabularies: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()


class TokenCache:
    """Tensors in a `DiskCache`.

    Attributes:
        disk: Cache on disk that holds the files.
    """

    def __init__(self, disk: DiskCache) -> None:
        self.disk = disk

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of a key, on the CPU, as they were saved; None if they are missing or damaged."""
        path = self.disk.get(key)
        if path is None:
            return None
        try:
            content = (
                path.read_bytes()
            )  # no memory mapping: it can fail on a network disk when another process evicts the file
            tensors: dict[str, Tensor] = load(content)
            checksum = _checksum(content)
        except (SafetensorError, OSError, ValueError):  # the last two: another process has removed the file
            tensors, checksum = {}, None
        if checksum is None or checksum != tensors_fingerprint(tensors):
            self.disk.discard(key)
            return None
        return tensors

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Save tensors from any device in their own number formats."""
        if not self.disk.is_on:
            return
        # Copies, since safetensors takes no two views of one memory.
        copies = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        content = save(copies, metadata={_CHECKSUM: tensors_fingerprint(copies)})
        self.disk.put(key, lambda unfinished: unfinished.write_bytes(content))


def model_fingerprint(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, kind: TokenKind = "video"
) -> dict[str, Any]:
    """Return everything about a model that its tokens depend on, as facts for `cache_key`.

    Args:
        model: Network; its vision weights are hashed at the first call, which takes seconds for a large model.
        processor: Processor of the model.
        kind: Kind of tokens; frame tokens do not depend on the parts of the model after them.
    """
    config = model.config
    encoder = model.frame_encoder
    facts: dict[str, Any] = {
        "kind": kind,
        "weights": weights_fingerprint(encoder),
        "dtypes": [str(encoder.query_tokens.dtype), str(next(encoder.vision_model.parameters()).dtype)],
        "device": model.device.type,
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__, "av": av.__version__},
        "vision": _config_fingerprint(config.vision_config),
        "qformer": _config_fingerprint(config.qformer_config),
        "num_query_tokens": config.num_query_tokens,
        "vision_post_layernorm_eps": config.vision_post_layernorm_eps,
        "image_size": config.vision_config.image_size,
        "frame_interpolation": config.frame_interpolation,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "timestamp_tokenizer": config.timestamp_tokenizer,
        "time_vocabulary": _vocabulary_fingerprint(processor.timestamp_tokenizer),
        "time_sentences": _time_prompts_fingerprint(processor),
    }
    if kind == "video":
        facts |= {
            "video_weights": weights_fingerprint(model.video_qformer),
            "video_dtype": str(model.video_qformer.query_tokens.dtype),
            "video_qformer": _config_fingerprint(config.video_qformer_config),
            "num_video_query_tokens": config.num_video_query_tokens,
            "window_size": config.window_size,
            "stride": config.stride,
            "max_frame_positions": config.max_frame_positions,
        }
    return facts


def _checksum(content: bytes) -> str | None:
    """Return the checksum in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {}).get(_CHECKSUM)  # type: ignore[no-any-return]


def _config_fingerprint(config: PreTrainedConfig | GenerationConfig) -> dict[str, Any]:
    """Return the values of a configuration, without those that only name its origin."""
    return {name: value for name, value in config.to_dict().items() if name not in _NO_INFLUENCE}


def _time_prompts_fingerprint(processor: TimeChatProcessor) -> list[Any]:
    """Return some time sentences and the token ids that the image Q-Former reads for them."""
    input_ids, _ = processor.encode_timestamps(_PROBES)
    return [[frame_prompt(seconds) for seconds in _PROBES], input_ids.tolist()]


def _vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer not in _vocabularies:
        words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
        _vocabularies[tokenizer] = hashlib.sha256(words.encode()).hexdigest()
    return _vocabularies[tokenizer]


class WindowCache:
    """The encoded windows and the answers of one video and one model, in a cache on disk.

    Attributes:
        disk: Cache on disk.
        digest: Hash of the video's content.
    """

    def __init__(
        self, disk: DiskCache, digest: str, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor
    ) -> None:
        """Make the cache of a video.

        Args:
            disk: Cache on disk.
            digest: Hash of the video's content.
            model: Network that encodes the video and answers.
            processor: Processor of the model.
        """
        self.disk, self.digest = disk, digest
        self._tokens = TokenCache(disk)
        self._model, self._processor = model, processor

    @classmethod
    def open(
        cls, disk: DiskCache, video: Video, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor
    ) -> "WindowCache | None":
        """Return the cache of a video; None for a video without a known content: an address, or ready-made frames."""
        digest = None if isinstance(video, Frames) else file_digest(video, disk)
        return None if digest is None else cls(disk, digest, model, processor)

    def load(self, window: Window | None, sampling: FrameSampling) -> EncodedVideo | None:
        """Return a window that was encoded earlier, without the names of video and model; None if it is not there.

        Args:
            window: Window of the video; None for a whole video.
            sampling: Frame options of the window.
        """
        found = self._tokens.load(self._key("video", window, sampling))
        if found is None:
            return None
        saved = json.loads(bytes(found["facts"].tolist()))
        return EncodedVideo(
            found["tokens"].to(self._model.device),
            found["timestamps"].numpy(),
            saved["duration"],
            notes=tuple(saved["notes"]),
            player_offset=saved.get("player_offset", 0.0),
            window=window,
        )

    def save(self, window: Window | None, sampling: FrameSampling, encoded: EncodedVideo) -> None:
        """Save an encoded window."""
        facts_of_video = {"duration": encoded.duration, "notes": list(encoded.notes)}
        saved = json.dumps(facts_of_video | {"player_offset": encoded.player_offset}).encode()
        tensors = {
            "tokens": encoded.video_tokens,
            "timestamps": torch.from_numpy(encoded.timestamps.copy()),
            "facts": torch.from_numpy(np.frombuffer(saved, np.uint8).copy()),
        }
        self._tokens.save(self._key("video", window, sampling), tensors)

    def load_frame_tokens(self, window: Window | None, sampling: FrameSampling) -> Tensor | None:
        """Return the frame tokens of a window, `(1, frames, tokens, hidden)`; None if they are not there."""
        found = self._tokens.load(self._key("frames", window, sampling))
        return None if found is None else found["tokens"].to(self._model.device)

    def save_frame_tokens(self, window: Window | None, sampling: FrameSampling, tokens: Tensor) -> None:
        """Save the frame tokens of a window."""
        self._tokens.save(self._key("frames", window, sampling), {"tokens": tokens})

    def load_answer(self, request: Request, window: Window, sampling: FrameSampling) -> WindowAnswer | None:
        """Return the answer to a request about a window with these frames; None if it is not there."""
        found = self._tokens.load(self._answer_key(request, window, sampling))
        return None if found is None else WindowAnswer.from_dict(window, json.loads(bytes(found["answer"].tolist())))

    def save_answer(self, request: Request, sampling: FrameSampling, answer: WindowAnswer) -> None:
        """Save the answer to a request about a window with these frames."""
        content = np.frombuffer(json.dumps(answer.to_dict()).encode(), np.uint8).copy()
        key = self._answer_key(request, answer.window, sampling)
        self._tokens.save(key, {"answer": torch.from_numpy(content)})

    def _key(self, kind: TokenKind, window: Window | None, sampling: FrameSampling) -> str:
        return cache_key(**self._frame_facts(window, sampling), **model_fingerprint(self._model, self._processor, kind))

    def _frame_facts(self, window: Window | None, sampling: FrameSampling) -> dict[str, Any]:
        """Return the video, the window and all frame options."""
        return {
            "video": self.digest,
            "window": None if window is None else asdict(window),
            "sampling": asdict(sampling),
        }

    def _answer_key(self, request: Request, window: Window, sampling: FrameSampling) -> str:
        model = {
            "tokens": model_fingerprint(self._model, self._processor),
            "weights": weights_fingerprint(self._model.language_model),
            "text": _config_fingerprint(self._model.config.text_config),
            "lowercase_queries": self._model.config.lowercase_queries,
            "generation": _config_fingerprint(self._model.generation_config),
            "lora_scale": self._model.lora_scale,
            "vocabulary": _vocabulary_fingerprint(self._processor.tokenizer),
            "chat_style": self._processor.chat_style,
            "names_frame_times": self._processor.names_frame_times,
        }
        facts = self._frame_facts(window, sampling)
        return cache_key(kind="answer", request=request.cache_facts(window), model=model, **facts)
