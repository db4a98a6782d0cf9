"""Frame tokens and video tokens kept on disk, and what they depend on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from timechat.answers.prompts import frame_prompt
from timechat.cache import DiskCache
from timechat.model.fingerprint import tensors_fingerprint, weights_fingerprint
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor

TokenKind = Literal["frames", "video"]
"""`frames`: what the image Q-Former gives for each frame; `video`: what the language model sees."""

_CHECKSUM = "sha256"
_NO_INFLUENCE = {"_name_or_path", "architectures", "dtype", "transformers_version"}
_PROBES = (0.0, 12345.6, 7890.0)  # seconds: every digit, so that their sentences show how times become ids
_vocabularies: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()


class TokenCache:
    """Tensors in a `DiskCache`.

    Attributes:
        disk: Where they are kept.
    """

    def __init__(self, disk: DiskCache) -> None:
        self.disk = disk

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors of a key, on the CPU, as they were saved; None if there are none or they are damaged."""
        path = self.disk.get(key)
        if path is None:
            return None
        try:
            content = path.read_bytes()  # no mapping: on a network disk it may break off when another process evicts
            tensors: dict[str, Tensor] = load(content)
            checksum = _checksum(content)
        except (SafetensorError, OSError, ValueError):  # or removed meanwhile by another process
            tensors, checksum = {}, None
        if checksum is None or checksum != tensors_fingerprint(tensors):
            self.disk.discard(key)
            return None
        return tensors

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, from any device, in their own number formats."""
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
    """Tell everything about a model that its tokens depend on, as facts for `cache_key`.

    Args:
        model: Its vision part is hashed at the first call, which takes seconds for a large one.
        processor: The model's.
        kind: Which tokens; what comes after frame tokens has no influence on them.
    """
    config = model.config
    encoder = model.frame_encoder
    facts: dict[str, Any] = {
        "kind": kind,
        "weights": weights_fingerprint(encoder),
        "dtypes": [str(encoder.query_tokens.dtype), str(next(encoder.vision_model.parameters()).dtype)],
        "device": model.device.type,
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
        "vision": _config_fingerprint(config.vision_config),
        "qformer": _config_fingerprint(config.qformer_config),
        "num_query_tokens": config.num_query_tokens,
        "vision_post_layernorm_eps": config.vision_post_layernorm_eps,
        "image_size": config.vision_config.image_size,
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
    """Return what the header of a safetensors file says about its tensors."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {}).get(_CHECKSUM)  # type: ignore[no-any-return]


def _config_fingerprint(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the numbers of a part, without what only says where it came from."""
    return {name: value for name, value in config.to_dict().items() if name not in _NO_INFLUENCE}


def _time_prompts_fingerprint(processor: TimeChatProcessor) -> list[Any]:
    """Return some time sentences, and the ids that the image Q-Former reads for them."""
    input_ids, _ = processor.encode_timestamps(_PROBES)
    return [[frame_prompt(seconds) for seconds in _PROBES], input_ids.tolist()]


def _vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer not in _vocabularies:
        words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
        _vocabularies[tokenizer] = hashlib.sha256(words.encode()).hexdigest()
    return _vocabularies[tokenizer]
