"""The backbone of a model name: the built-in model, a TimeChat folder, another video language model, or a server."""

from typing import TYPE_CHECKING

from timechat.backbones.backbone import Backbone

if TYPE_CHECKING:
    import torch


def load_backbone(
    model: str,
    *,
    device: str = "auto",
    dtype: "str | torch.dtype" = "auto",
    quantize: str | None = None,
    lora_scale: float | None = None,
) -> Backbone:
    """Load a model; the arguments are those of `TimeChat.from_pretrained`.

    Raises:
        CheckpointError: There is no model of that name, or it cannot be loaded.
    """
    from timechat.backbones.timechat.backbone import TimeChatBackbone
    from timechat.model.loading import load_model

    network, processor = load_model(model, device=device, dtype=dtype, quantize=quantize)
    if lora_scale is not None:
        network.set_lora_scale(lora_scale)
    return TimeChatBackbone(network, processor, name=model)
