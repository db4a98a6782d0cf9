"""Small preview images of a video: fast and approximate, while `load_frames` is exact."""

import io
import os
from functools import lru_cache
from pathlib import Path

import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timechat.errors import VideoError
from timechat.video.frames import FrameSize, VideoInfo, frame_to_pixels
from timechat.video.index import build_index
from timechat.video.loading import load_frames
from timechat.video.scan import demux, may_jump, read_packets
from timechat.video.source import VideoHandle, open_source

PAGE_HEIGHT = 180
"""Height in pixels of the pictures in a page of search results."""

_QUALITY = 80
_MAX_ASPECT = 8  # maximum width divided by height


def thumbnail(source: str | os.PathLike[str], time: float, height: int, *, timeout: float = 20.0) -> bytes:
    """Return the last keyframe at or before a time, as JPEG; if the clock of the file jumps, the frame at the time.

    Args:
        source: Path of a video.
        time: Time in seconds; past the end, the last keyframe is returned.
        height: Height in pixels; the width follows from the displayed aspect ratio.
        timeout: Maximum time in seconds.

    Raises:
        VideoError: No frame can be decoded there.
    """
    with open_source(source, timeout) as handle:
        scan, info, _ = read_packets(handle, only_first_frame=True)
        can_jump = may_jump(info.format) or ("matroska" in info.format and scan.num_indexed < 2)
        is_searchable = not can_jump or _is_searchable(os.fspath(source), *_version(source), timeout)
        width = min(_MAX_ASPECT * height, max(1, round(height * info.width * info.pixel_aspect / info.height)))
        size = FrameSize(height, width, "bicubic")
        pixels = _keyframe(handle, info, time, size) if is_searchable else None
    if pixels is None:
        pixels = load_frames(source, timestamps=[max(0.0, time)], size=size, timeout=timeout).pixels[0]
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def thumbnail_or_none(source: str | os.PathLike[str], time: float, height: int = PAGE_HEIGHT) -> bytes | None:
    """Return a thumbnail for a page, as `thumbnail` does; None if no frame can be decoded."""
    try:
        return thumbnail(source, time, height)
    except VideoError:
        return None


def _keyframe(handle: VideoHandle, info: VideoInfo, time: float, size: FrameSize) -> NDArray[np.uint8] | None:
    """Return the last keyframe at or before a time, `(height, width, 3)`; None if the container finds none there.

    MPEG-TS and raw streams seek to any packet, which may be behind the last keyframe.
    """
    try:
        with handle.open() as container:
            stream = next(s for s in container.streams.video if s.index == info.stream)
            assert stream.time_base is not None
            container.seek(int((time + info.start_time) / stream.time_base), stream=stream)
            frames = (frame for packet in demux(container, stream) for frame in packet.decode())
            frame = next(frames, None)
            return None if frame is None else frame_to_pixels(frame, size, info.orientation)
    except av.error.FFmpegError:
        return None


def _version(source: str | os.PathLike[str]) -> tuple[int, int]:
    status = Path(source).stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _is_searchable(path: str, _modified: int, _num_bytes: int, timeout: float) -> bool:
    """Whether the times of a file are unique, so that the decoder library can search them; read once per file."""
    with open_source(path, timeout) as handle:
        scan, _, time_base = read_packets(handle, only_first_frame=False)
        return build_index(scan, time_base, handle).can_seek
