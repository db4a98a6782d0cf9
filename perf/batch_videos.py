"""Videos of `perf/batch.py`: drawn scenes, and long files made of their packets."""

from pathlib import Path
from typing import Literal

import av

SHORT_VIDEOS = 6


def remux(source: Path, target: Path, times: int) -> None:
    """Write the packets of a video repeatedly, one copy after the other, without decoding them."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        packets = [packet for packet in reader.demux(stream) if packet.dts is not None]
        starts = [packet.pts or 0 for packet in packets]
        length = max(start + (packet.duration or 0) for start, packet in zip(starts, packets, strict=True)) - min(
            starts
        )
        output = writer.add_stream_from_template(stream)
        for number in range(times):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts = (packet.pts or 0) + number * length, (packet.dts or 0) + number * length
                copy.time_base, copy.duration, copy.stream = packet.time_base, packet.duration, output
                copy.is_keyframe = packet.is_keyframe
                writer.mux(copy)


def write_videos(work: Path) -> None:
    """Write synthetic videos of nano's domain."""
    from timechat.synthetic.long import write_long_scene
    from timechat.synthetic.scene import write_scene
    from timechat.synthetic.write import write_video

    videos = work / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    levels: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
    for number in range(SHORT_VIDEOS):
        write_video(write_scene(7, number, level=levels[number % 3], split="test"), videos / f"short{number}.mp4")
    scene = write_scene(7, 0, level=1, split="test")
    write_video(write_long_scene(7, 0, minutes=10, split="test"), work / "long.mp4")
    remux(videos / "short0.mp4", videos / "minutes.mp4", round(1200 / scene.duration))
    remux(videos / "short1.mp4", work / "hours.mp4", round(18000 / write_scene(7, 1, level=2, split="test").duration))
