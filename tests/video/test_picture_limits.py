"""Pictures that are larger than their file states, or that take a decoder very long, are refused before decoding."""

import base64
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from PIL import Image

from tests.clips import draw_video_with_audio
from timechat.errors import AccessError, VideoError
from timechat.serving.access import Limits, probe_safely
from timechat.serving.errors import RequestError
from timechat.serving.inline_frames import InlineFrames
from timechat.video import limits, load_frames
from timechat.video.audio import read_audio
from timechat.video.clips import extract_clip
from timechat.video.frames import FrameSize
from timechat.video.limits import GROWN_PIXELS, MAX_PIXELS, MAX_SCANS, MAX_STREAMS
from timechat.video.live import LiveVideo
from timechat.video.thumbnails import thumbnail


def _jpeg(width: int, height: int, *, is_progressive: bool = False) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 40)).save(content, "JPEG", progressive=is_progressive)
    return content.getvalue()


def _h264(width: int, height: int) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = np.full((height * 3 // 2, width), 90, np.uint8)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return content.getvalue()


def _motion_jpeg(path: Path, pictures: list[bytes]) -> Path:
    """Write a Motion JPEG file whose header states 64x48, whatever the pictures have; 10 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
        for number, picture in enumerate(pictures):
            packet = Packet(picture)
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return path


@pytest.fixture
def growing(tmp_path, monkeypatch) -> Path:
    """A video whose third and fourth of five frames are larger than its header states, and than is accepted."""
    monkeypatch.setattr(limits, "GROWN_PIXELS", 128 * 96)
    small, large = _jpeg(64, 48), _jpeg(640, 480)
    return _motion_jpeg(tmp_path / "growing.mkv", [small, small, large, large, small])


def test_the_limits_of_pictures_are_these():
    assert GROWN_PIXELS == 4096 * 4096 == Limits().max_pixels
    assert MAX_PIXELS == 8192 * 8192
    assert (MAX_STREAMS, MAX_SCANS) == (128, 50)


def test_frames_that_grow_within_a_video_are_left_out(growing):
    frames = load_frames(growing, num_frames=5, size=16)
    assert frames.timestamps.tolist() == pytest.approx([0.0, 0.1, 0.4])
    assert frames.notes[0].startswith("2 of 5 frames wanted are damaged and left out, the first at 0.200 s")


def test_live_frames_that_grow_are_left_out(growing):
    with LiveVideo(growing) as video:
        times = [frame.time for frame in video.frames(fps=10, size=16)]
    assert set(np.round(times, 3).tolist()) == {0.0, 0.1, 0.4}


def test_thumbnails_and_clips_decode_no_frame_that_grows(growing, tmp_path):
    with pytest.raises(VideoError, match="is damaged"):
        thumbnail(growing, 0.2, 16)
    extract_clip(growing, 0.0, 0.2, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        assert {(frame.width, frame.height) for frame in clip.decode(video=0)} == {(64, 48)}


def test_every_decoder_has_the_limit_of_pixels(tmp_path, monkeypatch):
    opened = []
    path = _motion_jpeg(tmp_path / "film.avi", [_jpeg(64, 48)] * 3)
    limit = limits.limit_decoders
    monkeypatch.setattr("timechat.video.source.limit_decoders", lambda c, n: (limit(c, n), opened.append(c)))
    load_frames(path, num_frames=2, size=16)
    assert len(opened) >= 2
    with av.open(str(path)) as container:
        limit(container, "film")
        assert container.streams.video[0].codec_context.options == {"max_pixels": str(4096 * 4096)}


def test_a_stream_with_larger_frames_than_allowed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 64 * 48 - 1)
    path = _motion_jpeg(tmp_path / "huge.avi", [_jpeg(64, 48)] * 2)
    with pytest.raises(VideoError, match="has frames of 64x48; frames of at most 3071 pixels are read"):
        load_frames(path, num_frames=2)
    with pytest.raises(VideoError, match="has frames of 64x48"):
        LiveVideo(path)


def test_a_header_larger_than_the_first_frame_counts(tmp_path):
    raw = _h264(64, 48) + _h264(256, 192)  # without a container, the largest of the first frames is stated
    (tmp_path / "raw.h264").write_bytes(raw)
    with pytest.raises(AccessError, match="frames of 64x48 and states up to 49152 pixels, more than the 49151"):
        probe_safely(tmp_path / "raw.h264", Limits(max_pixels=256 * 192 - 1))


def test_a_container_with_too_many_streams_is_bounded(tmp_path):
    with av.open(str(tmp_path / "many.mkv"), "w") as container:
        streams = [container.add_stream("mjpeg", rate=10) for _ in range(MAX_STREAMS + 20)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        container.start_encoding()
        for stream in streams:
            packet = Packet(_jpeg(16, 16))
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), 0, 0
            container.mux(packet)
    try:
        source = load_frames(tmp_path / "many.mkv", num_frames=1).source
    except VideoError:
        return
    assert source is not None
    assert len(source.streams) <= MAX_STREAMS


def _with_scans(num_scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    picture = _jpeg(64, 48, is_progressive=True)
    last, end = picture.rindex(b"\xff\xda"), picture.rindex(b"\xff\xd9")
    scan = picture[last:end]
    return picture[:end] + scan * (num_scans - picture.count(b"\xff\xda")) + picture[end:]


def test_a_jpeg_frame_with_thousands_of_scans_is_refused(tmp_path):
    ordinary = _jpeg(64, 48, is_progressive=True)
    assert 5 < ordinary.count(b"\xff\xda") < MAX_SCANS
    path = _motion_jpeg(tmp_path / "scans.avi", [ordinary, ordinary, _with_scans(3000), ordinary])
    with pytest.raises(VideoError, match="has 3000 scans; frames of at most 50 are decoded"):
        load_frames(path, num_frames=4)
    assert len(load_frames(_motion_jpeg(tmp_path / "fine.avi", [ordinary] * 3), num_frames=3)) == 3


def _address(picture: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()


def test_a_damaged_rate_of_a_raw_stream_is_not_used(tmp_path):
    raw = bytearray(_h264(64, 48))
    (tmp_path / "raw.h264").write_bytes(raw)
    with av.open(str(tmp_path / "raw.h264")) as container:
        assert container.streams.video[0].codec_context.framerate == 25
    position = raw.index(b"\x00\x00\x00\x01\x67")
    results = set()
    for bit in range(8 * 22):  # the sequence parameters hold the rate
        damaged = bytearray(raw)
        damaged[position + 5 + bit // 8] ^= 1 << bit % 8
        try:
            frames = load_frames(bytes(damaged), num_frames=2, size=16, workers=1)
        except VideoError:
            continue
        results.add(frames.source.fps)
        assert frames.source.fps >= 0.001
    assert 25 in results


def test_audio_without_a_decoder_is_no_audio(tmp_path):
    path = draw_video_with_audio(tmp_path / "film.mkv", video_start=0, audio_start=0, beep=1, seconds=2)
    assert b"A_PCM/INT/LIT" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_ZZZ/INT/LIT"))
    assert list(read_audio(path)) == []


def test_an_image_with_thousands_of_scans_is_refused():
    frames = InlineFrames((_address(_with_scans(3000)), _address(_jpeg(8, 8))), (0.0, 1.0), None)
    with pytest.raises(RequestError, match="has 3000 scans; at most 50 are decoded") as caught:
        frames.decode(FrameSize(16, 16))
    assert caught.value.status == 413


def test_cancellation_is_checked_between_images():
    checks = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise RequestError(499, "cancelled")

    frames = InlineFrames((_address(_jpeg(8, 8)),) * 10, tuple(map(float, range(10))), None)
    with pytest.raises(RequestError, match="cancelled"):
        frames.decode(lambda *_: FrameSize(16, 16), check)
    assert len(checks) == 3
