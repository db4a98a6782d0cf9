"""Plug-in of vLLM: its own server answers questions about videos with a folder of TimeChat.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). `docs/endpoints.md` states how the
server is started, and what it lacks in comparison with `timechat serve --engine vllm`.
"""

from pathlib import Path
from typing import Any

from timechat.model.configuration import TimeChatConfig

__all__ = ["CHAT_TEMPLATE", "VIDEO_LOADER", "media_options", "register"]

CHAT_TEMPLATE = Path(__file__).parent / "llama_2.jinja"
"""Chat template of models with the chat style `llama_2`, for `--chat-template`."""

VIDEO_LOADER = "timechat"
"""Name of the loader that reads true frame times, the `video_backend` of `--media-io-kwargs`."""


def media_options(config: TimeChatConfig) -> dict[str, Any]:
    """Return the value of `--media-io-kwargs` with which vLLM samples frames as this package does by default."""
    sampling = config.default_sampling()
    num_frames = sampling.pop("num_frames", -1)
    size = {"size": config.frame_size.height, "interpolation": config.frame_interpolation}
    return {"video": {"video_backend": VIDEO_LOADER, "num_frames": num_frames, **sampling, **size}}


def register() -> None:
    """Make the configuration, the model class and the video loader known to vLLM."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from timechat.backbones.timechat.vllm_plugin import loader  # noqa: F401 - registers the loader

    AutoConfig.register("timechat", TimeChatConfig, exist_ok=True)
    ModelRegistry.register_model(
        "TimeChatForConditionalGeneration", "timechat.backbones.timechat.vllm_plugin.model:TimeChatForVLLM"
    )
