"""Everything that the tokens and answers of a TimeChat model depend on, as facts for cache keys."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import av
import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from timechat.answers.merging import Scoring
from timechat.answers.prompts import frame_prompt
from timechat.model.fingerprint import weights_fingerprint
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor

TokenKind = Literal["frames", "video"]
"""`frames`: output of the image Q-Former for each frame; `video`: input of the language model."""

_NO_INFLUENCE = {"_name_or_path", "architectures", "dtype", "transformers_version"}
_PROBES = (0.0, 12345.6, 7890.0)  # seconds with every digit, so that their sentences show how times become ids
_vocabularies: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()


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
        if config.domain is not None:  # the notes of a window are kept with its tokens
            facts["domain"] = config.domain
    return facts


def answer_facts(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    language_model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return everything about a model that its answers depend on, as facts for `cache_key`.

    Args:
        model: Network.
        processor: Processor of the model.
        language_model: Facts of the weights of a language model that another process runs; None if `model` has them.
    """
    if language_model is None:
        language_model = {"weights": weights_fingerprint(model.language_model), "lora_scale": model.lora_scale}
    scoring = Scoring.fitted(model.config.score_calibration, model.config.found_threshold)
    fitted: dict[str, Any] = {}  # models without a fit keep the keys that they had
    if scoring.decides_found:
        fitted["names_moment"] = True
    if not scoring.grounding.weights.verification:
        fitted["verifies"] = False
    return {
        "tokens": model_fingerprint(model, processor),
        **fitted,
        **language_model,
        "text": _config_fingerprint(model.config.text_config),
        "lowercase_queries": model.config.lowercase_queries,
        "generation": _config_fingerprint(model.generation_config),
        "vocabulary": _vocabulary_fingerprint(processor.tokenizer),
        "chat_style": processor.chat_style,
        "names_frame_times": processor.names_frame_times,
    }


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
