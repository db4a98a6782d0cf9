"""Small pictures of a video, for people to find their way: quick and near, where `load_frames` is exact."""

import io
import os

import av.error
from PIL import Image

from timechat.errors import VideoError
from timechat.video.index import read_packets
from timechat.video.source import open_source, reason

_QUALITY = 80
_WIDEST = 8  # times as wide as high


def thumbnail(source: str | os.PathLike[str], time: float, height: int, *, timeout: float = 20.0) -> bytes:
    """Return the keyframe that is shown at a time, or last before it, as JPEG.

    Args:
        source: A file.
        time: Seconds; past the end the last keyframe.
        height: Pixels; the width follows from the displayed shape.
        timeout: Seconds after which the file is given up.

    Raises:
        VideoError: No picture can be decoded there.
    """
    with open_source(source, timeout) as opener:
        _, info, _ = read_packets(opener, only_first_picture=True)
        try:
            with opener.open() as container:
                stream = container.streams[info.stream]
                assert stream.time_base is not None
                container.seek(int((time + info.start_time) / stream.time_base), stream=stream)
                frame = next(iter(container.decode(stream)))
                picture = frame.to_image()  # type: ignore[union-attr]
        except (av.error.FFmpegError, StopIteration) as error:
            raise VideoError(f"{opener.name}: no picture can be decoded at {time:g} s: {reason(error)}") from error
    if info.rotation:
        picture = picture.rotate(info.rotation, expand=True)
    width = min(_WIDEST * height, max(1, round(height * info.width / info.height)))
    content = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
