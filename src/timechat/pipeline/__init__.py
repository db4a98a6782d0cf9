"""TimeChat: a video of any length in, answers with times out.

video ─▶ LongVideo ─▶ EncodedVideo, one a window ─▶ WindowAnswer ─▶ Answer
       looking.py      encoding.py, store.py       timechat.py    answers.py
"""

from timechat.model.streaming import AnswerStream
from timechat.pipeline.answers import Wanted
from timechat.pipeline.encoded import EncodedVideo, Video
from timechat.pipeline.long_video import LongVideo
from timechat.pipeline.looking import LookPlan, Sampling
from timechat.pipeline.timechat import UNTRAINED_NOTE, TimeChat
from timechat.tasks import GREEDY, Decoding
from timechat.windows import Looking, Window

__all__ = [
    "GREEDY",
    "UNTRAINED_NOTE",
    "AnswerStream",
    "Decoding",
    "EncodedVideo",
    "LongVideo",
    "LookPlan",
    "Looking",
    "Sampling",
    "TimeChat",
    "Video",
    "Wanted",
    "Window",
]
