"""Video files to `Frames`: the frames on screen at given times, and their pixels.

The clock of a video starts with its first frame and only rises; `timechat.video.clock` makes it from the container's
presentation times. All times are seconds on that clock. A file is read twice: first without decoding, for the times of
all frames; then only the packet ranges with a requested frame are decoded, each from the keyframe before it.
`timechat.video.clips` cuts videos.

    source ─▶ index (times of all frames) ─▶ sampling (selection) ─▶ decoding (their pixels) ─▶ frames
"""

from timechat.video.frames import Frames, FrameSize, Size, StreamInfo, VideoInfo
from timechat.video.index import VideoIndex
from timechat.video.iteration import ReadPosition
from timechat.video.loading import VideoReader, load_frames, probe_video, sample_video
from timechat.video.sampling import FrameSampling, is_constant_rate, sample_indices, uniform_indices
from timechat.video.source import VideoSource

__all__ = [
    "FrameSampling",
    "FrameSize",
    "Frames",
    "ReadPosition",
    "Size",
    "StreamInfo",
    "VideoIndex",
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
