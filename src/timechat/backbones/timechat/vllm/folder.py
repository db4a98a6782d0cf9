"""The language model of a TimeChat folder as a folder of its own, as vLLM loads it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from timechat.errors import CheckpointError
from timechat.files.cache import cache_key
from timechat.model import lora
from timechat.model.convert.files import PlannedTensor, TensorInfo, WeightFile, inspect_model_folder, write_shards
from timechat.model.convert.folder import making_folder
from timechat.model.generation.generate import end_token_ids
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.quantization import stored_quantization

FACTS_FILE = "timechat_answers.json"
"""File with what the logits processor must know of the model."""

_VERSION = 1  # of the exported folder
_PREFIX = "language_model."
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LanguageModelFolder:
    """An exported language model.

    Attributes:
        path: Folder in the layout of `transformers`, with the tokenizer.
        digest: SHA-256 of everything that it was made from.
        lora_scale: Strength of the adapter that was merged into the weights; None without an adapter.
    """

    path: Path
    digest: str
    lora_scale: float | None


def export_language_model(
    source: Path,
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    root: Path,
    *,
    lora_scale: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> LanguageModelFolder:
    """Write the language model of a folder, with its LoRA adapter merged, unless it is there already.

    The folder is complete or not there at all. It is found again by the hash of its weights and settings, so that the
    next start reads the weights for their hash only.

    Args:
        source: Folder of the TimeChat model.
        model: Model of that folder; its language model may be without weights.
        processor: Processor of the model.
        root: Folder in which exported language models are kept.
        lora_scale: Strength of the adapter; None takes that of the folder.
        dtype: Number format of merged weights; other weights keep the format of the folder.

    Raises:
        CheckpointError: Weights are missing, or have a format that cannot be merged or read by vLLM.
        ValueError: A strength is given for a folder without an adapter.
    """
    files, adapter = inspect_model_folder(source), _find_adapter(source, model)
    scale = _scale(source, model, lora_scale)
    config = _config(model, stored_quantization(getattr(model.config, "quantization_config", None), source))
    if adapter is not None and "quantization_config" in config:
        raise CheckpointError(
            f"{source} is quantized and has a LoRA adapter, which cannot be merged into int8 weights; convert the "
            "original with --merge and --quantize int8"
        )
    answers = {
        "vocab_size": model.config.text_config.vocab_size,
        "eos_token_ids": end_token_ids(model),
        "chat_style": processor.chat_style,
    }
    digest = cache_key(
        version=_VERSION,
        weights=weights_digest([*files, *([] if adapter is None else [adapter])]),
        lora_scale=scale,
        dtype=None if adapter is None else str(dtype),
        config={name: value for name, value in config.items() if name != "transformers_version"},
        answers=answers,
        tokenizer=hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
    )
    path = root / digest
    if not (path / "config.json").is_file():
        with making_folder(path) as folder:
            write_shards(folder, _planned(files, adapter, scale, dtype))
            processor.tokenizer.save_pretrained(str(folder))
            (folder / FACTS_FILE).write_text(json.dumps(answers), encoding="utf-8")
            (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return LanguageModelFolder(path, digest, scale)


def _config(model: TimeChatForConditionalGeneration, quantization: str | None) -> dict[str, Any]:
    """Return the `config.json` of the language model."""
    config: dict[str, Any] = model.config.text_config.to_dict()
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
    config["eos_token_id"] = end_token_ids(model)
    if quantization is not None:
        config["quantization_config"] = dict(model.config.quantization_config)
    return json.loads(json.dumps(config, default=str))  # type: ignore[no-any-return]


def _find_adapter(source: Path, model: TimeChatForConditionalGeneration) -> WeightFile | None:
    path = source / lora.ADAPTER_FOLDER / lora.WEIGHTS_FILE
    if path.is_file():
        lora.check_settings(path.with_name(lora.CONFIG_FILE))
        return WeightFile.inspect(path)
    if model.config.has_lora:
        raise CheckpointError(
            f"{source} has lost its LoRA adapter: the folder {lora.ADAPTER_FOLDER}/ is missing; convert or "
            "fetch it again"
        )
    return None


def _scale(source: Path, model: TimeChatForConditionalGeneration, lora_scale: float | None) -> float | None:
    """Return the strength of the adapter, None without one."""
    path = source / lora.ADAPTER_FOLDER / lora.CONFIG_FILE
    if not path.is_file():
        if lora_scale is not None:
            raise ValueError(
                f"lora_scale={lora_scale} was given, but this model has no LoRA adapter (it may be merged); leave "
                "lora_scale out"
            )
        return None
    if lora_scale is not None:
        return float(lora_scale)
    return float(model.config.lora_alpha / json.loads(path.read_text(encoding="utf-8"))["r"])


def weights_digest(files: Sequence[WeightFile]) -> str:
    """Return the SHA-256 of the weights of a language model and of adapters: names, shapes and values."""
    digest = hashlib.sha256()
    for file in files:
        with file.reading() as get:
            for name in sorted(file.tensors):
                if not name.startswith((_PREFIX, _PEFT_PREFIX)):
                    continue
                tensor = get(name)
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _planned(
    files: list[WeightFile], adapter: WeightFile | None, scale: float | None, dtype: torch.dtype
) -> Iterator[PlannedTensor]:
    adapted: Mapping[str, TensorInfo] = {} if adapter is None else adapter.tensors
    for file in files:
        for key, info in file.tensors.items():
            if not key.startswith(_PREFIX):
                continue
            name = key.removeprefix(_PREFIX)
            stem = _PEFT_PREFIX + name.removesuffix(".weight")
            sides = [f"{stem}.lora_{side}.weight" for side in "AB"]
            if adapter is not None and scale is not None and all(side in adapted for side in sides):
                make = partial(lora.merged_weight, scale=scale)
                sources = ((file, key), *((adapter, side) for side in sides))
                yield PlannedTensor(name, TensorInfo(info.shape, dtype), sources, make)
            else:
                yield PlannedTensor(name, info, ((file, key),), _same)


def _same(tensor: Tensor) -> Tensor:
    return tensor
