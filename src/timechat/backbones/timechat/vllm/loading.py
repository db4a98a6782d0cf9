"""A TimeChat model whose answers are written by vLLM."""

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from timechat.backbones.loading import LORA_MODULES
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.vllm.adapters import Adapter, read_adapter
from timechat.backbones.timechat.vllm.executor import VllmExecutor, VllmWriter
from timechat.backbones.timechat.vllm.folder import LanguageModelFolder, export_language_model
from timechat.backbones.timechat.vllm.options import default_options
from timechat.files.cache import DiskCache
from timechat.model.generation.generate import end_token_ids
from timechat.model.loading import find_folder, needs_one_thread
from timechat.model.partial_loading import load_without_language_model

EXPORTS = "language-models"
"""Folder of the cache with the exported language models."""

_MAX_ANSWERS = 64
_INSTALL = "install it in an environment of its own: perf/vllm_environment.sh, or `pip install vllm` on a GPU"


def load_vllm_backbone(
    model: str,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    lora_scale: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> TimeChatBackbone:
    """Load a TimeChat model without its language model, and start vLLM with the language model.

    Args:
        model: `"nano"`, a folder, or a hub id.
        device: Torch device of the frame encoder; vLLM chooses its own.
        dtype: Number format, as for `load_model`.
        lora_scale: Strength of the LoRA adapter; None keeps the checkpoint's.
        options: Arguments of vLLM's `AsyncEngineArgs` by name, and `lora_modules`: folders of LoRA adapters by name.

    Raises:
        CheckpointError: The model or an adapter does not exist or cannot be loaded.
        EngineError: vLLM cannot be started.
        ValueError: vLLM is not installed, or an option cannot be used.
    """
    try:
        from timechat.backbones.timechat.vllm.engine import VERSION, AnswerEngine
    except ImportError as error:
        raise ValueError(
            f"engine vllm needs the package vllm, which cannot be imported ({error}); {_INSTALL}"
        ) from error
    network, processor, language_dtype = load_without_language_model(model, device=device, dtype=dtype)
    has_gpu = torch.cuda.is_available()
    is_quantized = getattr(network.config, "quantization_config", None) is not None
    cache = DiskCache()
    root = cache.folder / EXPORTS if cache.is_on else _temporary_folder()
    exported = export_language_model(
        find_folder(model), network, processor, root, lora_scale=lora_scale, dtype=language_dtype
    )
    given = dict(options or {})
    adapters = _read_adapters(given.pop(LORA_MODULES, {}), exported, is_quantized=is_quantized)
    defaults = default_options(network.config.text_config, language_dtype, has_gpu=has_gpu, max_num_seqs=_MAX_ANSWERS)
    engine = AnswerEngine(
        exported.path,
        language_dtype,
        {**defaults, **given},
        end_token_ids(network),
        num_threads=1 if needs_one_thread(network) else None,
        adapters=adapters,
    )
    engine.start()
    facts = {
        "weights": exported.digest,
        "lora_scale": exported.lora_scale,
        "engine": {"name": "vllm", "version": VERSION, "dtype": str(language_dtype), "options": given},
    }
    writer = VllmWriter(network, processor, engine, dtype=language_dtype, facts=facts, adapters=adapters)
    return TimeChatBackbone(network, processor, name=model, executor=VllmExecutor(network, writer))


def _read_adapters(given: object, exported: LanguageModelFolder, *, is_quantized: bool) -> dict[str, Adapter]:
    """Return the adapters of the engine's options by name."""
    if not isinstance(given, Mapping) or not all(isinstance(folder, str) and name for name, folder in given.items()):
        raise ValueError(f"engine option {LORA_MODULES} must be folders by name, such as {{'a': 'run/adapter'}}")
    if given and exported.lora_scale:
        raise ValueError(
            "the model has a LoRA adapter of its own, beside which no other one can be used; give --lora-scale 0, and "
            "name its folder lora/ like the other adapters"
        )
    if given and is_quantized:
        raise ValueError("LoRA adapters of requests were not tried with quantized weights; name the original folder")
    return {name: read_adapter(name, Path(folder), exported.path) for name, folder in given.items()}


def _temporary_folder() -> Path:
    """Return a folder that is removed at the end of the process."""
    folder = Path(tempfile.mkdtemp(prefix="timechat-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
