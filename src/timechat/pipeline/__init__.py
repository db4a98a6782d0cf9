"""TimeChat: a video of any length in, answers with times out.

video ─▶ VideoSession ─▶ EncodedVideo, one per window ─▶ WindowAnswer ─▶ Answer
        session.py                                      answering.py   merging.py
"""

from timechat.answers.merging import MomentSelection
from timechat.answers.tasks import GREEDY, DecodingOptions
from timechat.answers.windows import Window, WindowConfig
from timechat.backbones.backbone import EncodedVideo
from timechat.pipeline.request import Request, WindowPlan
from timechat.pipeline.session import ProgressCallback, Video, VideoSession
from timechat.pipeline.timechat import TimeChat
from timechat.video import FrameSampling

__all__ = [
    "GREEDY",
    "DecodingOptions",
    "EncodedVideo",
    "FrameSampling",
    "MomentSelection",
    "ProgressCallback",
    "Request",
    "TimeChat",
    "Video",
    "VideoSession",
    "Window",
    "WindowConfig",
    "WindowPlan",
]
