"""Frames at a low rate from whole videos: near their requested times, with their true times."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import HEIGHT, RECIPES, WIDTH, Clip, clock_frame, draw_clip, read_numbers
from timechat.errors import VideoError
from timechat.video import VideoReader
from timechat.video.decoding import PacketReader

FPS = 2.0


def iterate(path: Path, fps: float = FPS, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[list[float], list[int]]:
    with VideoReader(path, workers=1) as reader:
        parts = list(reader.iterate(fps=fps, size=size, frames_per_part=3))
    pixels = np.concatenate([part.pixels for part in parts])
    return np.concatenate([part.timestamps for part in parts]).tolist(), read_numbers(pixels)


@pytest.mark.parametrize("name", [name for name in RECIPES if "turned" not in name and "odd" not in name])
def test_frames_have_their_true_times(name, tmp_path):
    recipe = RECIPES[name]
    clip: Clip = draw_clip(recipe, tmp_path / f"clip{recipe.suffix}")
    times, numbers = iterate(clip.path)
    steps = np.arange(0, float(clip.duration), 1 / FPS)
    assert len(times) == len(steps)
    assert times == sorted(times)
    for time, step, number in zip(times, steps.tolist(), numbers, strict=True):
        assert clip.on_screen(time + 1e-3) == number, f"the frame given for {step} s"
        assert abs(time - step) <= 0.5 / FPS + 0.25 or clip.on_screen(step) == number


@pytest.mark.parametrize("name", [name for name in RECIPES if "turned" not in name and "odd" not in name])
def test_a_resumed_reading_gives_the_same_frames(name, tmp_path):
    recipe = RECIPES[name]
    check_resumed(draw_clip(recipe, tmp_path / f"clip{recipe.suffix}").path, FPS, expected_parts=2)


def check_resumed(path: Path, fps: float, *, expected_parts: int) -> None:
    """Compare all frames behind each part with those of one reading."""
    parts, positions = [], []
    options = {"fps": fps, "size": (HEIGHT, WIDTH), "frames_per_part": 3}
    with VideoReader(path, workers=1) as reader:
        for part in reader.iterate(**options):
            parts.append(part)
            positions.append(reader.position)
    assert len(parts) >= expected_parts
    assert positions.pop() is None
    for number, position in enumerate(positions, 1):
        assert position is not None
        with VideoReader(path, workers=1) as reader:
            rest = list(reader.iterate(**options, after=position))
        assert [part.timestamps.tolist() for part in rest] == [part.timestamps.tolist() for part in parts[number:]]
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(rest, parts[number:], strict=True))


def slides(path: Path, changes: list[float], duration: float) -> Path:
    """Write a video in which a frame stays on screen until the next change."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate([*changes, duration]):
            frame = av.VideoFrame.from_ndarray(clock_frame(number), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_slide_is_repeated_while_it_is_on_screen(tmp_path):
    times, numbers = iterate(slides(tmp_path / "slides.mkv", [0.0, 20.5], 30.0), 1.0)
    assert times[:31] == [*range(21), 20.5, *range(22, 30), 30.0]
    assert numbers[:31] == [0] * 21 + [1] * 9 + [2]


@pytest.mark.parametrize("fps", [0.3, 1.0, 4.0])
def test_a_reading_is_resumed_while_a_slide_is_on_screen(fps, tmp_path):
    check_resumed(slides(tmp_path / "slides.mkv", [0.0, 2.0, 2.2, 20.5], 30.0), fps, expected_parts=3)


def test_a_reading_is_resumed_where_decoding_cannot_start_from_a_keyframe(tmp_path, monkeypatch):
    path = draw_clip(RECIPES["constant rate"], tmp_path / "clip.mp4").path
    frames = PacketReader.frames
    monkeypatch.setattr(
        PacketReader, "frames", lambda self, each, **k: frames(self, each, **k) if not each.first else []
    )
    check_resumed(path, FPS, expected_parts=2)


def test_a_reading_cannot_be_resumed_behind_damage(tmp_path):
    path = draw_clip(RECIPES["constant rate"], tmp_path / "clip.mp4").path
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with VideoReader(path, workers=1) as reader:
        positions = [reader.position for _ in reader.iterate(fps=25.0, size=64, frames_per_part=2)]
    assert positions[0] is not None
    assert positions[len(positions) * 3 // 4 :] == [None] * len(positions[len(positions) * 3 // 4 :])


def test_a_video_shorter_than_a_step_gives_its_first_frame(tmp_path):
    clip = draw_clip(RECIPES["constant rate"], tmp_path / "clip.mp4")
    assert iterate(clip.path, 0.1) == ([0.0], [0])


@pytest.mark.parametrize("name", ["constant rate", "open groups of pictures", "HEVC", "VP9 with hidden frames", "AV1"])
def test_keyframes_alone_are_decoded_where_they_are_near_enough(name, tmp_path, monkeypatch):
    recipe = RECIPES[name]
    clip = draw_clip(recipe, tmp_path / f"clip{recipe.suffix}")
    decoded = []
    frames = PacketReader.frames
    monkeypatch.setattr(PacketReader, "frames", lambda *a, **k: (decoded.append(f) or f for f in frames(*a, **k)))
    times, numbers = iterate(clip.path, 1.0)
    assert numbers == [0, 24, 48]  # keyframes
    assert times == pytest.approx([0, 0.96, 1.92], abs=1e-3)
    assert len(decoded) == 3


def test_keyframe_times_are_those_of_the_file(tmp_path):
    clip = draw_clip(RECIPES["starts at 7 s"], tmp_path / "clip.mkv")
    with VideoReader(clip.path) as reader:
        assert reader.keyframe_times == pytest.approx([0, 0.96, 1.92, 2.88])


def test_damage_is_counted_in_the_notes(tmp_path):
    clip = draw_clip(RECIPES["constant rate without B-frames"], tmp_path / "clip.mp4")
    content = bytearray(clip.path.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 600] = bytes(600)
    clip.path.write_bytes(content)
    with VideoReader(clip.path, workers=1) as reader:
        parts = list(reader.iterate(fps=25.0, size=64))
    assert any("could not be decoded" in note for note in parts[-1].notes)


def test_a_video_without_a_decodable_frame_is_refused(tmp_path):
    clip = draw_clip(RECIPES["motion JPEG"], tmp_path / "clip.mov")
    with VideoReader(clip.path, workers=1) as reader:
        content = bytearray(clip.path.read_bytes())
        content[40 : len(content) * 9 // 10] = bytes(len(content) * 9 // 10 - 40)
        clip.path.write_bytes(content)
        with pytest.raises(VideoError, match=r"none of its frames|cannot be"):
            list(reader.iterate(fps=1.0, size=64))
