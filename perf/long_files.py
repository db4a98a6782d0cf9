"""Long video files within seconds: encode a few frames and write their packets repeatedly.

python perf/long_files.py hours.mp4 --hours 5
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

GROUP_SECONDS = 5  # length of the encoded group of pictures


def write_long_file(
    path: str | Path, seconds: float, fps: float | Fraction = 30, *, width: int = 64, height: int = 64
) -> Path:
    """Write an H.264 file with a constant rate and B-frames; its frames repeat every five seconds.

    Args:
        path: Path of the file; its extension selects the container: .mp4, .mkv, .ts, ...
        seconds: Length in seconds, rounded up to complete groups of pictures.
        fps: Frames per second.
        width: Width in pixels, even.
        height: Height in pixels, even.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = 1 / rate
        group = _encode_group(stream, num_frames=round(GROUP_SECONDS * rate))
        for number in range(-int(-seconds * rate // len(group))):
            for packet in group:
                container.mux(_shifted(packet, number * len(group), stream))
    return Path(path)


def _encode_group(stream: VideoStream, num_frames: int) -> list[Packet[VideoStream]]:
    """Encode frames of a moving bar with one keyframe; return the packets in decode order."""
    stream.codec_context.gop_size = num_frames
    stream.codec_context.options = {**stream.codec_context.options, "sc_threshold": "0"}
    packets = []
    for i in range(num_frames):
        picture = np.full((stream.height, stream.width, 3), 40, np.uint8)
        picture[:, i * stream.width // num_frames :][:, : stream.width // 8] = 200
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = i, stream.codec_context.time_base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _shifted(packet: Packet[VideoStream], ticks: int, stream: VideoStream) -> Packet[VideoStream]:
    """Return a copy of a packet, delayed by a number of ticks (frames)."""
    copy = Packet(bytes(packet))
    copy.stream, copy.time_base, copy.duration = stream, 1 / stream.average_rate, 1
    copy.pts, copy.dts = packet.pts + ticks, packet.dts + ticks
    copy.is_keyframe = packet.is_keyframe
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    begun = time.perf_counter()
    width, height = options.size
    write_long_file(options.path, 3600 * options.hours, options.fps, width=width, height=height)
    print(f"{options.path}: {options.path.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
