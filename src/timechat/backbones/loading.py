"""The backbone of a model name: the built-in model, a TimeChat folder, another video language model, or a server."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timechat.backbones.backbone import Backbone, BackboneConfig
from timechat.files.cache import DiskCache, cache_key
from timechat.model import NANO, NANO_FOLDER

if TYPE_CHECKING:
    import torch

    from timechat.backbones.endpoint.options import EndpointSettings

ENGINES = ("vllm",)
"""Names of the engines that write answers in another process."""

LORA_MODULES = "lora_modules"
"""Option of the engine vllm: folders of LoRA adapters by the names that requests give."""

_CONFIG_VERSION = 1  # increased when the same files give other properties


def is_endpoint(text: str) -> bool:
    """Whether the name of a model is the address of an endpoint."""
    return text.lower().startswith(("http://", "https://"))


def load_backbone(
    model: str,
    *,
    device: str = "auto",
    dtype: "str | torch.dtype" = "auto",
    quantize: str | None = None,
    lora_scale: float | None = None,
    picture_side: int | None = None,
    endpoint: "EndpointSettings | None" = None,
    engine: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> Backbone:
    """Load a model; the arguments are those of `TimeChat.from_pretrained`.

    Raises:
        CheckpointError: There is no model of that name, or it cannot be loaded.
        EndpointError: The server cannot be reached, refuses the key, or does not know the model.
        EngineError: The engine cannot be started.
        ValueError: An option does not fit the kind of model.
    """
    check_engine(engine, engine_options)
    if is_endpoint(model):
        _refuse(model, "a server", "leave it out", engine=engine)
        _refuse(model, "a server", "start the server with it", device=device, dtype=dtype)
        _refuse(model, "a server", "start the server with it", quantize=quantize, lora_scale=lora_scale)
        from timechat.backbones.endpoint.backbone import load_endpoint
        from timechat.backbones.endpoint.options import EndpointSettings

        return load_endpoint(model, settings=(endpoint or EndpointSettings()).with_side(picture_side))
    given_key = None if endpoint is None else endpoint.api_key_env
    _refuse(model, "a model on this machine", "leave it out", api_key_env=given_key)
    if model != NANO:
        from timechat.backbones.transformers.loading import is_transformers_model

        if is_transformers_model(model):
            _refuse(model, "a model of transformers", "start vLLM's server and name its address", engine=engine)
            _refuse(model, "a model of transformers", "leave it out", quantize=quantize, lora_scale=lora_scale)
            from timechat.backbones.transformers.backbone import load_transformers_backbone

            return load_transformers_backbone(model, device=device, dtype=dtype, picture_side=picture_side)
    _refuse(model, "a TimeChat model", "leave it out", picture_side=picture_side)
    if engine is not None:
        _refuse("vllm", "the engine", "name a folder of `timechat convert --quantize int8`", quantize=quantize)
        from timechat.backbones.timechat.vllm.loading import load_vllm_backbone

        return load_vllm_backbone(model, device=device, dtype=dtype, lora_scale=lora_scale, options=engine_options)
    from timechat.backbones.timechat.backbone import TimeChatBackbone
    from timechat.model.loading import load_model

    network, processor = load_model(model, device=device, dtype=dtype, quantize=quantize)
    if lora_scale is not None:
        network.set_lora_scale(lora_scale)
    return TimeChatBackbone(network, processor, name=model)


def check_engine(engine: str | None, options: Mapping[str, Any] | None) -> None:
    """Refuse the name of an unknown engine, and options without an engine.

    Raises:
        ValueError: One of them cannot be used.
    """
    if engine is not None and engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}; leave it out for TimeChat's own")
    if engine is None and options:
        raise ValueError("engine_options are options of another engine; give engine vllm too, or leave them out")


def parse_engine_options(text: str) -> dict[str, Any]:
    """Return the options of a JSON text.

    Raises:
        ValueError: The text is no JSON object.
    """
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"engine options must be a JSON object, such as '{{\"max_num_seqs\": 64}}': {error}"
        ) from error
    if not isinstance(options, dict):
        raise ValueError(f"engine options must be a JSON object, such as '{{\"max_num_seqs\": 64}}', got {text!r:.80}")
    return options


def load_backbone_config(model: str, cache: DiskCache | None = None) -> BackboneConfig:
    """Read by which frames and windows a model reads a video, without its weights.

    A server is asked for its list of models; its key is in the usual environment variable.

    Args:
        model: Model, as in `load_backbone`.
        cache: Cache of the properties of models in a folder, by the content of its files: reading them imports torch
            and transformers, which takes seconds. None for no cache.

    Raises:
        CheckpointError: There is no model of that name.
        EndpointError: The server cannot be reached, refuses the key, or does not know the model.
    """
    key = None if cache is None or not cache.is_on else _config_key(model)
    if cache is None or key is None:
        return _read_backbone_config(model)
    if (path := cache.get(key)) is not None:
        with suppress(OSError, ValueError, TypeError, KeyError):  # damaged, or removed by another process
            return BackboneConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    config = _read_backbone_config(model)
    cache.put(key, lambda path: path.write_text(json.dumps(asdict(config)), encoding="utf-8"))
    return config


def _config_key(model: str) -> str | None:
    """Return the key of the properties of a model in a folder; None for other models."""
    folder = NANO_FOLDER if model == NANO else Path(model).absolute()
    if not (folder / "config.json").is_file():
        return None
    return cache_key(
        kind="backbone config",
        version=_CONFIG_VERSION,
        fields=[field.name for field in fields(BackboneConfig)],
        transformers=metadata.version("transformers"),
        files={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.json"))},
        run=sorted(path.name for path in folder.parent.iterdir()),  # a training run states some properties
    )


def _read_backbone_config(model: str) -> BackboneConfig:
    if is_endpoint(model):
        from timechat.backbones.endpoint.backbone import load_endpoint

        with closing(load_endpoint(model)) as server:
            return server.config
    if model != NANO:
        from timechat.backbones.transformers.loading import is_transformers_model

        if is_transformers_model(model):
            from timechat.backbones.transformers.backbone import read_backbone_config

            return read_backbone_config(model)
    from timechat.backbones.timechat.backbone import backbone_config
    from timechat.model.loading import load_config

    return backbone_config(load_config(model))


def _refuse(model: str, kind: str, advice: str, **options: object) -> None:
    """Raise a `ValueError` for an option that a kind of model does not have."""
    for name, value in options.items():
        if value not in (None, "auto"):
            raise ValueError(f"{name} {value} is not an option of {kind} ({model}); {advice}")
