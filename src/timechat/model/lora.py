"""LoRA adapter of the language model, stored as a plain PEFT folder `lora/` beside the weights."""

import json
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import cached_file

from timechat.errors import CheckpointError
from timechat.model.tensor_files import check_is_downloaded, save_tensors

ADAPTER_FOLDER = "lora"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_NAME = "default"
_FREE_SETTINGS = (  # settings that are used, or that do not change what a trained adapter computes
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
    "runtime_config",
)
_PLAIN_STARTS = (True, False, "gaussian")  # others, such as PiSSA, change the base weights too
_PEFT_PREFIX = "base_model.model."


def find_adapter(path_or_hub_id: str, **hub_options: object) -> Path | None:
    """Return the local folder of a checkpoint's adapter, downloaded from the hub if necessary, or None."""
    files = [
        cached_file(
            path_or_hub_id,
            name,
            subfolder=ADAPTER_FOLDER,
            _raise_exceptions_for_missing_entries=False,
            **hub_options,
        )
        for name in (CONFIG_FILE, WEIGHTS_FILE)
    ]
    if any(files) and not all(files):
        missing = WEIGHTS_FILE if files[0] else CONFIG_FILE
        raise CheckpointError(f"{path_or_hub_id}: the LoRA adapter has lost its {missing}; convert or fetch it again")
    return Path(files[0]).parent if all(files) else None


def load_adapter(language_model: nn.Module, folder: Path) -> None:
    """Load the adapter of `folder` into the language model, active and frozen.

    Raises:
        CheckpointError: A weight of the adapter is missing, unexpected or of another shape, or a setting asks for an
            adapter that is computed in another way.
    """
    check_settings(folder / CONFIG_FILE)
    attach_adapter(language_model, LoraConfig.from_pretrained(folder))
    check_is_downloaded(folder / WEIGHTS_FILE)
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} cannot be read ({error}); fetch it again") from error
    tensors = {
        key.removeprefix(_PEFT_PREFIX).replace(".weight", f".{_NAME}.weight"): tensor for key, tensor in stored.items()
    }
    expected = {name for name, _ in language_model.named_parameters() if is_adapter_key(name)}
    if tensors.keys() != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} does not fit the language model: "
            f"missing {sorted(expected - tensors.keys())[:3]}, unexpected {sorted(tensors.keys() - expected)[:3]}; "
            "convert the checkpoint again"
        )
    try:
        language_model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} does not fit the language model: {error}") from error


def check_settings(path: Path) -> None:
    """Refuse settings with which an adapter is computed in another way than plain LoRA, such as DoRA and rsLoRA."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        usual = LoraConfig().to_dict()
        others = {name: value for name, value in settings.items() if name not in _FREE_SETTINGS}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); convert or fetch the checkpoint again") from error
    for name, value in others.items():
        if value and value != usual.get(name) and not (name == "init_lora_weights" and value in _PLAIN_STARTS):
            raise CheckpointError(
                f"{path}: {name} is {value!r}, but TimeChat computes plain LoRA only; merge this adapter into the "
                "weights with PEFT, or train one without this setting"
            )


def attach_adapter(language_model: nn.Module, lora_config: LoraConfig) -> None:
    """Wrap the targeted layers of the language model with fresh LoRA layers, in place."""
    inject_adapter_in_model(lora_config, language_model, adapter_name=_NAME)
    language_model.timechat_lora_config = lora_config
    for layer in _lora_layers(language_model):
        layer.requires_grad_(False)
        layer.train(language_model.training)  # new layers are in training mode, with dropout
        layer.lora_A.float()
        layer.lora_B.float()  # float32 as in the original, whatever the dtype of the base weights


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, *, scale: float) -> Tensor:
    """Return a weight with the product of its adapter, in float32."""
    return weight.float() + scale * (lora_b.float() @ lora_a.float())


def has_adapter(language_model: nn.Module) -> bool:
    """Return whether the language model has an adapter."""
    return getattr(language_model, "timechat_lora_config", None) is not None


def save_adapter(language_model: nn.Module, folder: Path, lora_alpha: float) -> None:
    """Write the adapter as a PEFT folder that `PeftModel.from_pretrained` can read."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _PEFT_PREFIX + name.replace(f".{_NAME}.weight", ".weight"): tensor.detach().cpu().contiguous()
        for name, tensor in language_model.state_dict().items()
        if is_adapter_key(name)
    }
    config: LoraConfig = language_model.timechat_lora_config
    config.lora_alpha = lora_alpha
    save_tensors(tensors, folder / WEIGHTS_FILE)
    config.save_pretrained(str(folder))


def set_adapter_scale(language_model: nn.Module, scale: float) -> None:
    """Set the factor of the adapter's product, `lora_alpha / r`; 0 switches the adapter off."""
    for layer in _lora_layers(language_model):
        layer.scaling[_NAME] = scale


def adapter_scale(language_model: nn.Module) -> float | None:
    """Return the present factor of the adapter's product, None without an adapter."""
    return next((float(layer.scaling[_NAME]) for layer in _lora_layers(language_model)), None)


def base_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the adapter, under their names without an adapter."""
    return {key.replace(".base_layer.", "."): tensor for key, tensor in state_dict.items() if not is_adapter_key(key)}


def is_adapter_key(key: str) -> bool:
    """Return whether a parameter name belongs to a LoRA adapter."""
    return ".lora_A." in key or ".lora_B." in key


def _lora_layers(language_model: nn.Module) -> list[LoraLayer]:
    return [module for module in language_model.modules() if isinstance(module, LoraLayer)]
