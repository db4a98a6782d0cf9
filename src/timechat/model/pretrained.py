"""TimeChatPreTrainedModel: how a TimeChat model is initialised, saved and loaded, with its LoRA adapter."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file, logging

from timechat.errors import CheckpointError
from timechat.model import lora as adapter
from timechat.model.configuration import TimeChatConfig
from timechat.model.frame_encoder import FrameEncoder
from timechat.model.quantization import (
    Quantization,
    is_quantized,
    load_quantized_weights,
    quantization_config,
    stored_quantization,
    weight_keys,
)
from timechat.model.tensor_files import apply_umask
from timechat.model.video_qformer import SlidingVideoQFormer

_HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "force_download")


class TimeChatPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Initialisation, saving, strict loading and LoRA adapter of a TimeChat model, as `transformers` expects them."""

    config_class = TimeChatConfig
    base_model_prefix = ""
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)
    language_model: Any

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FrameEncoder | SlidingVideoQFormer):
            nn.init.normal_(module.query_tokens, std=0.02)
        if isinstance(module, FrameEncoder) and hasattr(module, "map_positions"):
            nn.init.normal_(module.map_positions, std=0.5)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        quantization: Quantization | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a saved model strictly; its LoRA adapter, if there is one, is active at `config.lora_alpha`.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            *args: Passed to `transformers`.
            quantization: Format of the linear layers of vision tower and language model, which are quantized one by
                one while they are read. None keeps the format of the folder. Quantized layers are for the CPU, and
                other weights are then float32.
            **kwargs: Passed to `transformers`.

        Raises:
            CheckpointError: A weight is missing, unexpected or has another shape, the adapter is incomplete, or the
                folder is quantized in another format.
        """
        name = pretrained_model_name_or_path
        returns_info = kwargs.pop("output_loading_info", False)
        kwargs["trust_remote_code"] = False  # no folder can run code
        hub_options = {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}
        if not isinstance(config := kwargs.pop("config", None), TimeChatConfig):
            config = cls.config_class.from_pretrained(config or name, **hub_options)
        stated = getattr(config, "quantization_config", None)
        stored = None if stated is None else stored_quantization(stated, name)
        if stored and quantization not in (None, stored):
            raise CheckpointError(f"{name} is quantized as {stored} already; leave quantize out, or load the original")
        if method := quantization or stored:
            config.quantization_config = None  # transformers would look for a package that reads it
            kwargs |= {"quantization": method, "dtype": torch.float32}
        with quiet_transformers():
            model, info = super().from_pretrained(name, *args, config=config, output_loading_info=True, **kwargs)
        if method:
            info["unexpected_keys"] = set(info["unexpected_keys"]) - weight_keys(model, is_stored=stored is not None)
        _check_loaded(name, info)
        if method:
            folder = Path(cached_file(str(name), CONFIG_NAME, **hub_options)).parent
            load_quantized_weights(model, folder, is_stored=stored is not None)
            model.config.quantization_config = quantization_config(method)
        if adapter_folder := adapter.find_adapter(str(name), **hub_options):
            adapter.load_adapter(model.language_model, adapter_folder)
            model.set_lora_scale()
        elif model.config.has_lora:
            raise CheckpointError(
                f"{name} has lost its LoRA adapter: the folder {adapter.ADAPTER_FOLDER}/ is "
                "missing; convert or fetch it again"
            )
        return (model, info) if returns_info else model

    def save_pretrained(
        self,
        save_directory: str | Path,
        *args: Any,
        state_dict: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config and weights (safetensors), and the LoRA adapter as a PEFT folder `lora/` beside them."""
        if is_quantized(self):
            raise CheckpointError(
                "a quantized model cannot be saved; write a quantized folder with `timechat convert --quantize`"
            )
        self.config.has_lora = self.has_lora
        state_dict = adapter.base_state_dict(dict(self.state_dict() if state_dict is None else state_dict))
        super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        if self.has_lora:
            folder = Path(save_directory) / adapter.ADAPTER_FOLDER
            adapter.save_adapter(self.language_model, folder, self.config.lora_alpha)
        apply_umask(Path(save_directory))

    @property
    def has_lora(self) -> bool:
        """Whether the language model has a LoRA adapter."""
        return adapter.has_adapter(self.language_model)

    @property
    def lora_scale(self) -> float | None:
        """Present strength of the LoRA adapter, `lora_alpha / r`; None without an adapter."""
        return adapter.adapter_scale(self.language_model)

    def set_lora_scale(self, lora_scale: float | None = None) -> None:
        """Set the strength of the LoRA adapter: the factor of its product.

        Args:
            lora_scale: `lora_alpha / r`; 0 switches the adapter off, the authors advise 20 / 32 for question
                answering. None means the config's `lora_alpha` divided by the adapter's rank.
        """
        if not self.has_lora:
            if lora_scale is None:
                return
            raise ValueError(
                f"lora_scale={lora_scale} was given, but this model has no LoRA adapter (it may be merged); "
                "leave lora_scale out"
            )
        if lora_scale is not None and not math.isfinite(lora_scale):
            raise ValueError(f"lora_scale must be a finite number, such as 0.625, got {lora_scale}")
        if lora_scale is None:
            lora_scale = self.config.lora_alpha / self.language_model.timechat_lora_config.r
        adapter.set_adapter_scale(self.language_model, lora_scale)

    def set_lora_alpha(self, lora_alpha: float) -> None:
        """Set the strength of the LoRA adapter as the original's settings do: divided by the adapter's own rank.

        Raises:
            ValueError: There is no adapter.
        """
        if not self.has_lora:
            raise ValueError(
                f"lora_alpha={lora_alpha} was given, but this model has no LoRA adapter (it may be merged); leave "
                "lora_alpha out"
            )
        self.set_lora_scale(lora_alpha / self.language_model.timechat_lora_config.r)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the reports, advice and progress bars of `transformers`, on which users of TimeChat cannot act."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def _check_loaded(name: str | Path, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not exactly those of the model."""
    wrong = {kind: sorted(map(str, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(keys[:5])} ({len(keys)} in all)" for kind, keys in wrong.items() if keys
        )
        raise CheckpointError(f"{name} does not hold this model's weights: {listed}; convert or fetch it again")
