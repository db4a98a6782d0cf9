"""The backbone of a model name: the built-in model, a TimeChat folder, another video language model, or a server."""

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from timechat.backbones.backbone import Backbone, BackboneConfig
from timechat.model import NANO

if TYPE_CHECKING:
    import torch

    from timechat.backbones.endpoint.options import EndpointSettings


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
    from timechat.backbones.endpoint.address import is_endpoint
    from timechat.backbones.engines import check_engine

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


def load_backbone_config(model: str) -> BackboneConfig:
    """Read by which frames and windows a model reads a video, without its weights.

    A server is asked for its list of models; its key is in the usual environment variable.

    Raises:
        CheckpointError: There is no model of that name.
        EndpointError: The server cannot be reached, refuses the key, or does not know the model.
    """
    from timechat.backbones.endpoint.address import is_endpoint

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
