"""Parts of a video as files: encoded exactly, or copied from keyframe to keyframe without loss.

source ─▶ timeline (time of every frame) ─▶ cut ─┬▶ encode (H.264, AAC) ─┬▶ file
└▶ copy (packets) ──────┘
"""

from timechat.video.clips.compress import compress_video
from timechat.video.clips.cut import CutReport, check_target, concat_clips, extract_clip, extract_clips

__all__ = ["CutReport", "check_target", "compress_video", "concat_clips", "extract_clip", "extract_clips"]
