"""TimeChat answers questions about long videos, with start and end of each event.

Every public name is imported on first use, so `import timechat` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from timechat.files.system import let_idle_threads_sleep

if TYPE_CHECKING:
    from timechat.answers.events import Answer, Event
    from timechat.errors import CheckpointError, TimeChatError, VideoError
    from timechat.model.configuration import TimeChatConfig
    from timechat.model.modeling import TimeChatForConditionalGeneration
    from timechat.model.processing import TimeChatProcessor
    from timechat.pipeline import EncodedVideo, TimeChat
    from timechat.video import Frames, load_frames

__version__ = "0.2.0"

let_idle_threads_sleep()  # here: OpenMP reads the setting when torch is loaded

_HOMES = {
    "TimeChat": "pipeline",
    "EncodedVideo": "pipeline",
    "Answer": "answers.events",
    "Event": "answers.events",
    "Frames": "video",
    "load_frames": "video",
    "TimeChatConfig": "model.configuration",
    "TimeChatProcessor": "model.processing",
    "TimeChatForConditionalGeneration": "model.modeling",
    "TimeChatError": "errors",
    "VideoError": "errors",
    "CheckpointError": "errors",
}

__all__ = [  # noqa: RUF022 - in the order a reader meets them
    "TimeChat",
    "Answer",
    "Event",
    "EncodedVideo",
    "Frames",
    "load_frames",
    "TimeChatConfig",
    "TimeChatProcessor",
    "TimeChatForConditionalGeneration",
    "TimeChatError",
    "VideoError",
    "CheckpointError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'timechat' has no attribute {name!r}")
    value = getattr(import_module(f"timechat.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
