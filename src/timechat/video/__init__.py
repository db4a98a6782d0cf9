"""Video files to `Frames`: which frames are on screen at which times, and their pixels.

The clock of a video starts when its first frame is shown; every time is the container's presentation time on
that clock, in seconds. A file is read twice: once without decoding, for the time of every frame, then
only the stretches that hold a wanted frame are decoded, each from the keyframe before it.

    source ─▶ index (times of all frames) ─▶ sampling (which ones) ─▶ decoding (their pixels) ─▶ frames
"""

from timechat.video.frames import Frames, Size, StreamInfo, VideoInfo
from timechat.video.loading import VideoReader, load_frames, probe_video, sample_video
from timechat.video.sampling import FrameSampling, is_constant_rate, sample_indices, uniform_indices
from timechat.video.source import VideoSource

__all__ = [
    "FrameSampling",
    "Frames",
    "Size",
    "StreamInfo",
    "VideoInfo",
    "VideoReader",
    "VideoSource",
    "is_constant_rate",
    "load_frames",
    "probe_video",
    "sample_indices",
    "sample_video",
    "uniform_indices",
]
