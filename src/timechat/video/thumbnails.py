"""Small preview images of a video: fast and approximate, while `load_frames` is exact."""

import io
import os

import av.error
from PIL import Image

from timechat.errors import VideoError
from timechat.video.index import read_packets
from timechat.video.source import open_source, reason

_QUALITY = 80
_MAX_ASPECT = 8  # maximum width divided by height


def thumbnail(source: str | os.PathLike[str], time: float, height: int, *, timeout: float = 20.0) -> bytes:
    """Return the last keyframe at or before a time, as JPEG.

    Args:
        source: Path of a video.
        time: Time in seconds; past the end, the last keyframe is returned.
        height: Height in pixels; the width follows from the displayed aspect ratio.
        timeout: Maximum time in seconds.

    Raises:
        VideoError: No frame can be decoded there.
    """
    with open_source(source, timeout) as handle:
        _, info, _ = read_packets(handle, only_first_frame=True)
        try:
            with handle.open() as container:
                stream = container.streams[info.stream]
                assert stream.time_base is not None
                container.seek(int((time + info.start_time) / stream.time_base), stream=stream)
                frame = next(iter(container.decode(stream)))
                image = frame.to_image()  # type: ignore[union-attr]
        except (av.error.FFmpegError, StopIteration) as error:
            raise VideoError(f"{handle.name}: no frame can be decoded at {time:g} s: {reason(error)}") from error
    if info.rotation:
        image = image.rotate(info.rotation, expand=True)
    width = min(_MAX_ASPECT * height, max(1, round(height * info.width / info.height)))
    content = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
