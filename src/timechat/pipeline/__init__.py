"""TimeChat: a video of any length in, answers with times out.

video ─▶ LongVideo ─▶ EncodedVideo, one a window ─▶ WindowAnswer ─▶ Answer
       looking.py      encoding.py, store.py       timechat.py    answers.py
"""

from timechat.answers.tasks import GREEDY, DecodingOptions
from timechat.answers.windows import Window, WindowConfig
from timechat.pipeline.encoded import EncodedVideo, Video
from timechat.pipeline.merging import MomentSelection
from timechat.pipeline.session import VideoSession
from timechat.pipeline.streaming import AnswerStream
from timechat.pipeline.timechat import UNTRAINED_NOTE, TimeChat
from timechat.pipeline.window_plan import WindowPlan, WindowSampling

__all__ = [
    "GREEDY",
    "UNTRAINED_NOTE",
    "AnswerStream",
    "DecodingOptions",
    "EncodedVideo",
    "MomentSelection",
    "TimeChat",
    "Video",
    "VideoSession",
    "Window",
    "WindowConfig",
    "WindowPlan",
    "WindowSampling",
]
