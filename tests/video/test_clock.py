"""One clock for files, live streams, audio and thumbnails; videos whose frames show their own numbers."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.clips import clock_frame, read_numbers
from tests.video import odd_servers
from timechat.answers.events import Answer, Event
from timechat.errors import VideoError
from timechat.export import export_notes, to_csv, to_ffmetadata, to_html, to_srt, to_vtt, to_vtt_chapters
from timechat.video import FrameSampling, VideoReader, load_frames, probe_video, sample_indices
from timechat.video.audio import SAMPLE_RATE, read_audio
from timechat.video.clips import extract_clip
from timechat.video.clock import RunningClock, correct_times
from timechat.video.hdr import KNEE, to_sdr
from timechat.video.live import LiveVideo
from timechat.video.thumbnails import thumbnail

DATA = Path(__file__).parents[1] / "data" / "clock"
MS = Fraction(1, 1000)
X264 = {"preset": "veryfast", "crf": "20", "g": "25", "sc_threshold": "0"}


# ── Making videos ─────────────────────────────────────────────────────────────────────────────────────────────


def draw_piece(
    path: Path,
    first: int,
    count: int,
    *,
    hz: int = 0,
    offset: float = 0.0,
    step: int = 1,
    b_frames: int = 2,
    form: str = "mpegts",
    video_start: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write `count` frames at 25 per second, or one every `step / 25` s, with a tone of `hz`, from `offset` s on."""
    tick = Fraction(1, 90000)
    options = (options or {}) | ({"output_ts_offset": str(offset)} if offset else {})
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={**X264, "bf": str(b_frames)})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = tick
        packets: list[Any] = []
        audio = container.add_stream("aac", rate=16000) if hz else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(clock_frame(first + number), format="rgb24")
            frame.pts, frame.time_base = round((video_start + number * step / 25) / tick), tick
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if audio is not None:
            audio.layout = "mono"
            at = np.arange(round((video_start + count * step / 25) * 16000))
            wave = (0.5 * np.sin(2 * np.pi * hz * at / 16000)).astype(np.float32)[None]
            for start in range(0, wave.shape[1], 1024):
                block = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", "mono")
                block.sample_rate, block.pts = 16000, start
                packets += audio.encode(block)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def join(target: Path, *pieces: Path) -> Path:
    target.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    return target


def retime(source: Path, target: Path, times: Callable[[int, int], int], *, duration_ms: int = 40) -> Path:
    """Copy a video into Matroska; `times` gives the time of packet `n`, which was shown at `ms`, in milliseconds."""
    with av.open(str(source)) as inside, av.open(str(target), "w", format="matroska") as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        copy.time_base = MS
        for number, packet in enumerate(packet for packet in inside.demux(stream) if packet.size):
            pts = times(number, round(packet.pts * packet.time_base / MS))
            packet.stream, packet.time_base, packet.duration = copy, MS, duration_ms
            packet.pts, packet.dts = pts, number
            outside.mux(packet)
    return target


def spelled(pixels: NDArray[np.uint8]) -> list[int]:
    """The numbers of the files in `tests/data/clock`: 16 bits in the upper half."""
    height, width = pixels.shape[1:3]
    rows = (2 * np.arange(2) + 1) * (height // 2) // 4
    columns = (2 * np.arange(8) + 1) * width // 16
    bits = pixels[:, rows][:, :, columns].mean(axis=-1) > 125
    return [int((each.ravel() << np.arange(16)).sum()) for each in bits]


def every_frame(path: Path | str) -> tuple[list[int], list[float], float, tuple[str, ...]]:
    frames = load_frames(path, num_frames=10**6)
    return read_numbers(frames.pixels), frames.timestamps.tolist(), frames.duration, frames.notes


def watched(path: Path, **options: Any) -> tuple[list[int], list[float], float | None, list[str]]:
    """Every frame of a stream that is read forward only, at 25 frames per second."""
    with LiveVideo(path, **options) as live:
        frames = list(live.frames(fps=25))
        numbers = read_numbers(np.stack([frame.pixels for frame in frames]))
        return numbers, [frame.time for frame in frames], live.end_time, live.notes


def tones(path: Path, seconds: float) -> list[int]:
    """The pitch of each whole second of audio, rounded to 10 Hz."""
    line = np.zeros(round((seconds + 1) * SAMPLE_RATE), np.float32)
    for segment in read_audio(path):
        at = round(segment.start * SAMPLE_RATE)
        samples = segment.samples[max(0, -at) :]
        at = max(0, at)
        line[at : at + len(samples)] = samples[: len(line) - at]
    found = []
    for second in range(round(seconds)):
        part = line[round((second + 0.2) * SAMPLE_RATE) : round((second + 0.8) * SAMPLE_RATE)]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        found.append(round(float(spectrum.argmax()) * SAMPLE_RATE / len(part) / 10) * 10)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clock")


@pytest.fixture(scope="module")
def pieces(folder: Path) -> list[Path]:
    """Pieces of a recording: 2 s, 2 s, and 1 s, of 440, 880 and 660 Hz."""
    return [
        draw_piece(folder / "0.ts", 0, 50, hz=440),
        draw_piece(folder / "1.ts", 50, 50, hz=880),
        draw_piece(folder / "2.ts", 100, 25, hz=660),
        draw_piece(folder / "1_later.ts", 50, 50, hz=880, offset=3600),
    ]


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """5 s at 25 frames per second without B-frames."""
    return draw_piece(folder / "plain.mp4", 0, 125, b_frames=0, form="mp4")


@pytest.fixture(scope="module")
def b_frames(folder: Path) -> Path:
    """5 s at 25 frames per second with B-frames."""
    return draw_piece(folder / "b_frames.mp4", 0, 125, form="mp4")


# ── The clock itself ──────────────────────────────────────────────────────────────────────────────────────────


def run(raw: list[int], *, may_jump: bool = True, gap: int = 40) -> tuple[list[int], list[str]]:
    clock = RunningClock(MS, may_jump=may_jump, gap=gap)
    return [clock.place(time, raw[n + 1 : n + 4]) for n, time in enumerate(raw)], clock.notes()


def test_a_step_back_continues_after_the_frame_before() -> None:
    assert run([4000, 4040, 4080, 0, 40]) == (
        [4000, 4040, 4080, 4120, 4160],
        ["the file's clock is set back 1 times: times are counted on from there"],
    )


def test_a_jump_ahead_takes_no_time() -> None:
    assert run([0, 40, 80, 20000, 20040]) == (
        [0, 40, 80, 120, 160],
        ["the file's clock jumps ahead 1 times: the jumps take no time"],
    )


def test_a_format_without_discontinuities_has_pauses() -> None:
    raw = [0, 40, 80, 20000, 20040]
    assert run(raw, may_jump=False) == (raw, [])


def test_more_than_thirty_hours_are_a_jump_in_any_format() -> None:
    assert run([0, 40, 31 * 3600 * 1000, 31 * 3600 * 1000 + 40], may_jump=False)[0] == [0, 40, 80, 120]


def test_slides_are_pauses_even_where_jumps_are_possible() -> None:
    raw = [0, 60_000, 120_000, 180_000]
    assert run(raw) == (raw, [])


def test_a_last_frame_after_a_pause_is_no_jump() -> None:
    assert run([0, 40, 80, 20000]) == ([0, 40, 80, 20000], [])


@pytest.mark.parametrize("stray", [9_000_000, -9_000_000])
def test_a_stray_time_is_shown_between_its_neighbours(stray: int) -> None:
    assert run([0, 40, stray, 120, 160], may_jump=False) == (
        [0, 40, 80, 120, 160],
        ["1 frames have a time far from their neighbours: they are shown between them"],
    )


def test_jitter_of_less_than_a_frame_is_no_step_back() -> None:
    assert run([0, 40, 39, 120, 160]) == ([0, 40, 39, 120, 160], [])


def test_a_pause_that_a_later_step_back_undoes_is_a_jump() -> None:
    raw = np.array([0, 40, 80, 9_000_120, 9_000_160, 9_000_200, 9_000_240, 280, 320])
    found = correct_times(raw, None, MS, may_jump=False, gap=40, has_reordered_frames=False)
    assert found.pts.tolist() == [0, 40, 80, 120, 160, 200, 240, 280, 320]


def test_audio_that_goes_on_makes_a_jump_a_pause() -> None:
    raw = np.array([0, 40, 80, 20_000, 20_040])
    options = {"may_jump": True, "gap": 40, "has_reordered_frames": False}
    assert correct_times(raw, None, MS, sound_goes_on=lambda _start, _end: True, **options).pts is raw
    assert correct_times(raw, None, MS, sound_goes_on=lambda _start, _end: False, **options).pts.tolist() == [
        0,
        40,
        80,
        120,
        160,
    ]


def test_reordered_frames_are_no_steps_back() -> None:
    raw = np.array([0, 120, 40, 80, 240, 160, 200])
    assert correct_times(raw, None, MS, may_jump=True, gap=40, has_reordered_frames=True).pts is raw


# ── Jumps and steps back in files ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def jumps(folder: Path, pieces: list[Path]) -> Path:
    """5 s: the clock jumps ahead by an hour after 2 s, and back after 4 s."""
    return join(folder / "jumps.ts", pieces[0], pieces[3], pieces[2])


def test_joined_recordings_follow_each_other(jumps: Path) -> None:
    numbers, times, duration, notes = every_frame(jumps)
    assert numbers == list(range(125))
    assert times == pytest.approx(np.arange(125) / 25, abs=0.001)
    assert duration == pytest.approx(5.0, abs=0.001)
    assert notes == (
        "the file's clock is set back 1 times: times are counted on from there",
        "the file's clock jumps ahead 1 times: the jumps take no time",
    )


def test_audio_follows_the_clock_of_the_frames(jumps: Path) -> None:
    assert tones(jumps, 5) == [440, 440, 880, 880, 660]


def test_a_stream_has_the_clock_of_the_file(jumps: Path) -> None:
    numbers, times, end, notes = watched(jumps)
    assert numbers == list(range(125))
    assert times == pytest.approx(np.arange(125) / 25, abs=0.001)
    assert end == pytest.approx(5.0, abs=0.001)
    assert len(notes) == 2


def test_a_thumbnail_has_the_clock_of_the_file(jumps: Path) -> None:
    picture = np.asarray(Image.open(io.BytesIO(thumbnail(jumps, 3.0, 96))).convert("RGB"))
    assert read_numbers(picture[None]) == [75]


def test_an_exact_clip_after_a_jump_has_frames_and_audio(jumps: Path, tmp_path: Path) -> None:
    report = extract_clip(jumps, 2.4, 3.6, tmp_path / "clip.mp4")
    assert (report.start, report.end) == pytest.approx((2.4, 3.6), abs=0.001)
    assert every_frame(report.path)[0] == list(range(60, 90))
    assert tones(report.path, 1) == [880]


def test_slides_in_a_format_that_can_jump_stay_apart(folder: Path) -> None:
    path = draw_piece(folder / "slides.ts", 0, 4, step=1500, b_frames=0)
    assert every_frame(path)[1] == pytest.approx([0, 60, 120, 180], abs=0.001)
    with LiveVideo(path) as live:
        assert [round(frame.time) for frame in live.frames(fps=1 / 60)] == [0, 60, 120, 180]
        assert live.notes == []


def test_slides_with_audio_stay_apart(folder: Path) -> None:
    path = draw_piece(folder / "slides_audio.ts", 0, 3, step=500, b_frames=0, hz=300)
    assert every_frame(path)[1] == pytest.approx([0, 20, 40], abs=0.001)


@pytest.mark.parametrize("name", ["plain", "b_frames"])
def test_frames_with_stray_times_stay_in_place(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(name)
    path = retime(source, folder / f"stray_{name}.mkv", lambda n, ms: ms + 5000 + 37_600_000 * (n % 50 == 26))
    numbers, times, duration, notes = every_frame(path)
    assert numbers == list(range(125))
    assert times == pytest.approx(np.arange(125) / 25, abs=0.001)
    assert duration == pytest.approx(5.0, abs=0.001)
    assert notes[0] == "2 frames have a time far from their neighbours: they are shown between them"


def test_a_step_back_within_matroska_is_corrected(folder: Path, b_frames: Path) -> None:
    path = retime(b_frames, folder / "back.mkv", lambda n, ms: ms + 5000 - 2000 * (n >= 75))
    numbers, times, *_ = every_frame(path)
    assert numbers == list(range(125))
    assert times == pytest.approx(np.arange(125) / 25, abs=0.001)


def test_a_pause_in_matroska_stays(folder: Path, plain: Path) -> None:
    path = retime(plain, folder / "pause.mkv", lambda n, ms: ms + 20_000 * (n >= 50))
    times = every_frame(path)[1]
    assert times[49:51] == pytest.approx([1.96, 22.0])


# ── Repeated times, untimed frames, fields ────────────────────────────────────────────────────────────────────


def test_repeated_times_move_no_other_frame(folder: Path, plain: Path) -> None:
    path = retime(plain, folder / "repeated.mkv", lambda n, ms: ms - 40 * (n % 10 == 5))
    numbers, times, duration, notes = every_frame(path)
    kept = [n for n in range(125) if n % 10 != 5]
    assert numbers == kept
    assert times == pytest.approx([n / 25 for n in kept])
    assert duration == 5.0
    assert notes == ("12 frames have the time of another frame and are left out",)
    assert watched(path)[1] == pytest.approx([(n - (n % 10 == 5)) / 25 for n in range(125)])


def test_fields_are_no_frames() -> None:
    path = DATA / "fields_short.mkv"
    assert probe_video(path).fps == 25.0
    with VideoReader(path) as reader:
        assert (reader.info.fps, reader.info.num_frames, reader.info.duration) == (25.0, 120, 4.8)
    frames = load_frames(path, num_frames=1000)
    assert spelled(frames.pixels) == list(range(120))
    assert frames.timestamps == pytest.approx(np.arange(120) / 25)


def test_avi_frames_are_in_display_order(tmp_path: Path) -> None:
    frames = load_frames(DATA / "packed.avi", num_frames=1000)
    assert spelled(frames.pixels) == list(range(100))
    assert frames.timestamps == pytest.approx(np.arange(100) / 25)
    with LiveVideo(DATA / "packed.avi") as live:
        shown = list(live.frames(fps=25))
    assert spelled(np.stack([frame.pixels for frame in shown])) == list(range(100))


def draw_raw(path: Path, codec: str, rate: int, options: dict[str, str]) -> Path:
    with av.open(str(path), "w", format=path.suffix[1:]) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(clock_frame(number), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_raw_stream_has_the_rate_that_it_states(tmp_path: Path) -> None:
    path = draw_raw(tmp_path / "raw.h264", "libx264", 30, {**X264, "bf": "2"})
    numbers, times, duration, notes = every_frame(path)
    assert probe_video(path).fps == 30.0
    assert numbers == list(range(60))
    assert times == pytest.approx(np.arange(60) / 30)
    assert duration == pytest.approx(2.0)
    assert notes == ("the file gives no usable times: its frames are taken to follow each other at 30 a second",)


def test_a_raw_stream_without_a_rate_is_noted(tmp_path: Path) -> None:
    path = draw_raw(tmp_path / "raw.mjpeg", "mjpeg", 30, {})
    assert every_frame(path)[3] == ("the file does not state its frame rate: 25 frames per second are assumed",)


def test_short_gif_frames_last_as_in_browsers(tmp_path: Path) -> None:
    delays = [100, 40, 500, 20, 70, 10, 10, 300]
    pictures = [Image.fromarray(clock_frame(number)) for number in range(len(delays))]
    path = tmp_path / "fast.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=delays, loop=0, disposal=2)
    shown = [100 if delay < 20 else delay for delay in delays]
    _, times, duration, _ = every_frame(path)
    assert times == pytest.approx(np.array([0, *accumulate(shown)][:-1]) / 1000)
    assert duration == pytest.approx(sum(shown) / 1000)


# ── Decoding once ─────────────────────────────────────────────────────────────────────────────────────────────


def count_decoded(source: Path, window: float, overlap: float, length: float) -> int:
    """Number of packets that are decoded for all windows of a video."""
    count = 0

    def note(_frame: Any, event: str, function: Any) -> None:
        nonlocal count
        count += event == "c_call" and getattr(function, "__qualname__", "").endswith("CodecContext.decode")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        with VideoReader(source, workers=1) as reader:
            for start in np.arange(0.0, length - overlap, window - overlap):
                end = min(float(start) + window, length)
                frames = reader.load(FrameSampling(start=float(start), end=end, fps=5), size=(96, 160))
                assert read_numbers(frames.pixels) == [round(25 * time) for time in frames.timestamps]
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return count


def test_a_file_with_one_keyframe_is_decoded_once(tmp_path: Path) -> None:
    path = tmp_path / "one_key.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={**X264, "g": "100000", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(1500):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(clock_frame(number), format="rgb24")))
        container.mux(stream.encode(None))
    assert 1200 < count_decoded(path, 18, 3, 60) <= 1.2 * 1500


def test_a_file_with_joints_is_decoded_once(jumps: Path) -> None:
    assert 100 < count_decoded(jumps, 2, 0.4, 5) <= 1.3 * 125


# ── Bursts ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fps_takes_some_frames_of_a_burst() -> None:
    times = np.array([*np.arange(100) / 50, *np.arange(7, 107, 5)])
    chosen = times[sample_indices(times, 107.0, FrameSampling(fps=2))]
    assert chosen[:4].tolist() == [0, 0.5, 1, 1.5]
    assert chosen[5:].tolist() == list(range(7, 107, 5))
    part = times[sample_indices(times, 107.0, FrameSampling(fps=2, start=0, end=60))]
    assert part.tolist() == [time for time in chosen.tolist() if time < 60]


# ── What is left out has a note ───────────────────────────────────────────────────────────────────────────────


def test_audio_after_the_last_frame_has_a_note(folder: Path) -> None:
    path = folder / "sound_longer.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=X264)
        audio = container.add_stream("aac", rate=16000)
        stream.width, stream.height, stream.pix_fmt, audio.layout = 160, 96, "yuv420p", "mono"
        for number in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(clock_frame(number), format="rgb24")))
        container.mux(stream.encode(None))
        for start in range(0, 6 * 16000, 1024):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            block.sample_rate, block.pts = 16000, start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    assert every_frame(path)[3] == ("the pictures end at 1.000 s, but the sound goes on to 6.016 s",)


@pytest.mark.parametrize("damage", ["zeros", "noise", "cut out"])
def test_a_lost_beginning_of_matroska_has_a_note(damage: str, folder: Path) -> None:
    whole = draw_piece(
        folder / "clusters.mkv", 0, 125, form="matroska", b_frames=0, options={"cluster_time_limit": "900"}
    )
    content = whole.read_bytes()
    mark = bytes.fromhex("1F43B675")
    first = content.index(mark)
    third = content.index(mark, content.index(mark, first + 4) + 4)
    filling = {"zeros": bytes(third - first), "noise": bytes(range(1, 255)) * 1000, "cut out": b""}[damage]
    path = folder / f"{damage}.mkv"
    path.write_bytes(content[:first] + filling[: third - first] + content[third:])
    numbers, times, _, notes = every_frame(path)
    lost = numbers[0] / 25
    assert lost >= 1
    assert times[-1] == pytest.approx(124 / 25 - lost)
    assert notes[-1] == f"the first {lost:.3f} s of the file are lost: times count from the first frame that is there"


def test_a_matroska_file_may_begin_late(folder: Path, plain: Path) -> None:
    path = retime(plain, folder / "late.mkv", lambda _, ms: ms + 2000)
    assert every_frame(path)[3] == ()


def test_the_default_track_is_read_not_a_few_stills() -> None:
    info = probe_video(DATA / "two_films.mp4")
    assert (info.width, info.height, info.fps) == (320, 240, 30.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [("encrypted.mp4", r"is encrypted \(DRM, Common Encryption\)"), ("animated.webp", "animated WebP")],
)
def test_files_that_cannot_be_shown_say_why(name: str, message: str, tmp_path: Path) -> None:
    path = DATA / name
    if name.endswith("webp"):
        path = tmp_path / name
        pictures = [Image.fromarray(clock_frame(number)) for number in range(3)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    with pytest.raises(VideoError, match=message):
        load_frames(path)


def test_an_mp4_that_cannot_be_streamed_says_why(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=X264)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 255, (20, 96, 160, 3), dtype=np.uint8)
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))

    class Pipe:
        """A file that can be read forward only."""

        name = "pipe"

        def __init__(self, content: bytes) -> None:
            self._file = io.BytesIO(content)

        def read(self, size: int = -1) -> bytes:
            return self._file.read(size)

    with pytest.raises(VideoError, match=r"moov"), LiveVideo(Pipe(path.read_bytes())) as live:  # type: ignore[arg-type]
        list(live.frames(fps=1))


# ── Orientation and colours ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "turned"),
    [
        ("mirrored", lambda p: p[:, ::-1]),
        ("flipped", lambda p: p[::-1]),
        ("transposed", lambda p: p.transpose(1, 0, 2)),
        ("antitransposed", lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_a_matrix_that_mirrors_is_not_a_rotation(name: str, turned: Callable[[Any], Any], tmp_path: Path) -> None:
    path = DATA / f"{name}.mp4"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24", interpolation="BILINEAR")
    right = turned(stored)
    assert np.array_equal(load_frames(path, num_frames=1).pixels[0], right)
    with LiveVideo(path) as live:
        assert np.array_equal(next(iter(live.frames(fps=1))).pixels, right)
    small = np.asarray(Image.open(io.BytesIO(thumbnail(path, 0.0, right.shape[0]))).convert("RGB"))
    assert np.abs(small.astype(int) - right).mean() < 12


@pytest.mark.parametrize(("name", "transfer"), [("hdr_pq.mp4", "PQ"), ("hdr_hlg.mov", "HLG")])
def test_hdr_is_mapped_to_sdr_with_a_note(name: str, transfer: str) -> None:
    frames = load_frames(DATA / name, num_frames=1)
    assert frames.notes == (f"the video is HDR ({transfer}): its colours are mapped to SDR",)
    red, green, blue, gray = (frames.pixels[0, 66:80, x : x + 20].reshape(-1, 3).mean(0) for x in (10, 50, 90, 130))
    assert red[0] > 200 > 110 > max(red[1:])
    assert green[1] > 200 > 110 > max(green[[0, 2]])
    assert blue[2] > 200 > 110 > max(blue[:2])
    assert np.ptp(gray) <= 2


def test_the_tone_curve_keeps_light_up_to_its_knee() -> None:
    nits = np.array([203 * 0.18, 203 * KNEE, 203.0, 1000.0, 10000.0])
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = (nits / 10000) ** m1
    codes = np.rint(65535 * ((c1 + c2 * power) / (1 + c3 * power)) ** m2).astype(np.uint16)
    gray = to_sdr(np.repeat(codes[None, :, None], 3, axis=2), 16, 1)[0, :, 0].tolist()
    expected = [0.18, KNEE, KNEE + (1 - KNEE) * (1 - np.exp(-1)), 1.0, 1.0]
    assert gray[:3] == pytest.approx([255 * light ** (1 / 2.4) for light in expected[:3]], abs=1)
    assert gray[3:] == [255, 255]


# ── Players ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["mp4", "matroska"])
def late_frames(request: pytest.FixtureRequest, folder: Path) -> Path:
    """Audio from 0 s, frames from 2.5 s on."""
    return draw_piece(folder / f"late.{request.param}", 0, 50, hz=440, form=request.param, video_start=2.5)


def test_files_for_players_have_the_clock_of_players(late_frames: Path) -> None:
    frames = load_frames(late_frames, num_frames=1)
    assert frames.source is not None
    assert frames.source.player_offset == pytest.approx(2.5, abs=0.07)  # Matroska moves audio that begins before 0
    offset = 2.5
    answer = Answer("", [Event(1.0, 1.5, "a")], task="dense_caption", duration=2.0, player_offset=offset)
    assert "00:00:03,500 --> 00:00:04,000" in to_srt(answer)
    assert "00:00:03.500 --> 00:00:04.000" in to_vtt(answer)
    assert "00:00:03.500 --> 00:00:04.000" in to_vtt_chapters(answer)
    assert "START=3500\nEND=4000" in to_ffmetadata(answer)
    assert 'data-start="3.5"' in to_html(answer)
    assert "1.0,1.5,a" in to_csv(answer)
    assert answer.to_dict()["events"][0]["start"] == 1.0
    assert answer.to_dict()["player_offset"] == offset
    assert export_notes(answer, "srt") == [
        "times are 2.500 s later than in the answer: players count from the start of the file"
    ]
    assert export_notes(answer, "csv") == []


def test_frames_and_audio_together_have_no_offset(plain: Path) -> None:
    assert probe_video(plain).player_offset == 0.0


# ── Servers and names ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "kind",
    [
        odd_servers.Plain,
        odd_servers.NoConnectionHeader,
        odd_servers.RefusesRanges,
        odd_servers.RefusesParts,
        odd_servers.OnlyFirstByte,
        odd_servers.UnknownTotal,
        odd_servers.WrongTotal,
        odd_servers.DropsConnections,
        odd_servers.DropsWholeFiles,
    ],
)
def test_every_frame_comes_from_an_odd_server(kind: type[odd_servers.Plain], b_frames: Path) -> None:
    assert b_frames.stat().st_size > odd_servers.DROP_AFTER
    with odd_servers.serve(kind, b_frames.read_bytes()) as (address, requests):
        numbers, times, _, notes = every_frame(address)
        assert numbers == list(range(125))
        assert times == pytest.approx(np.arange(125) / 25)
        assert notes == ()
        assert len(requests) < 30


def test_a_download_that_cannot_be_resumed_is_an_error(b_frames: Path) -> None:
    with (
        odd_servers.serve(odd_servers.DropsForever, b_frames.read_bytes()) as (address, _),
        pytest.raises(VideoError, match=r"/clip: the server closed the connection: \d+ bytes are missing; try again"),
    ):
        load_frames(address)


@pytest.mark.parametrize("name", ["12:30:00.mp4", "50%d.mp4", "a#1.mp4"])
def test_file_names_are_no_addresses(name: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert every_frame(name)[0] == list(range(125))
    assert watched(Path(name))[0] == list(range(125))
    assert extract_clip(name, 1, 2, os.path.join("clip " + name)).end == 2.0  # noqa: PTH118
