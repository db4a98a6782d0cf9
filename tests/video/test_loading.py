import http.server
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import RECIPES, VARIABLE, Clip, clock_frame, draw_audio, draw_clip, read_numbers
from timechat.errors import VideoError
from timechat.files.system import num_cores
from timechat.video import (
    Frames,
    FrameSampling,
    VideoReader,
    is_constant_rate,
    load_frames,
    probe_video,
    sample_indices,
    uniform_indices,
)
from timechat.video import scan as scan_module
from timechat.video.index import build_index
from timechat.video.scan import PacketScan

DATA = Path(__file__).parents[1] / "data"
REAL_CLIPS = Path(__file__).parents[3] / "shared" / "videos"
with_real_clips = pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="../shared/videos is not on this machine")
GOLDEN = json.loads((DATA / "uniform_sampling.json").read_text())


class Shelf:
    """Clips by the name of their recipe, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clips = folder, dict[str, Clip]()

    def __getitem__(self, name: str) -> Clip:
        if name not in self.clips:
            recipe = RECIPES[name]
            if recipe.codec not in av.codecs_available:
                pytest.skip(f"this PyAV has no encoder {recipe.codec}")
            self.clips[name] = draw_clip(recipe, self.folder / f"{len(self.clips)}{recipe.suffix}")
        return self.clips[name]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("clips"))


def true_times(clip: Clip, frames: Frames) -> list[float]:
    """Return the times of frames from the numbers that they show."""
    times = {number: time for time, number in clip.shown}
    return [float(times[number]) for number in read_numbers(frames.pixels)]


# ── Which frames ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['vlen']} frames at {case['fps']}")
def test_uniform_indices_match_the_original(case: dict) -> None:
    indices = uniform_indices(case["vlen"], case["n_frms"])
    assert indices.tolist() == case["indices"]
    assert [str(round(i / case["fps"], 1)) for i in indices.tolist()] == case["times"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['vlen']} frames at {case['fps']}")
@pytest.mark.parametrize("tick", [1 / 90000, 1 / 1000])
def test_sampling_at_a_constant_rate_matches_the_original(case: dict, tick: float) -> None:
    times = np.round(np.arange(case["vlen"]) / case["fps"] / tick) * tick
    end = case["vlen"] / case["fps"]
    assert sample_indices(times, end, FrameSampling(num_frames=case["n_frms"]), tick=tick).tolist() == case["indices"]


def test_float_steps_never_give_one_frame_too_many() -> None:
    assert len(np.arange(0, 113, 113 / 100)) == 101
    assert len(uniform_indices(113, 100)) == 100


def test_a_rate_is_constant_up_to_the_rounding_of_the_clock() -> None:
    assert is_constant_rate(np.round(np.arange(90) * 1001 / 30) / 1000, tick=1e-3)
    assert not is_constant_rate(np.round(np.arange(90) * 1001 / 30) / 1000, tick=1e-6)
    assert not is_constant_rate(np.delete(np.arange(90) / 25, 40), tick=1 / 25)


def test_variable_rate_is_sampled_evenly_in_time() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 9.9])
    assert sample_indices(times, 10.0, FrameSampling(num_frames=5)).tolist() == [0, 3, 3, 4, 4]


def test_fps_selects_the_frame_on_screen_at_each_step() -> None:
    times = np.arange(100) / 25
    assert sample_indices(times, 4.0, FrameSampling(fps=2)).tolist() == [0, 12, 25, 37, 50, 62, 75, 87]


def test_an_fps_above_the_videos_rate_gives_every_frame_once() -> None:
    assert sample_indices(np.arange(10) / 25, 0.4, FrameSampling(fps=100)).tolist() == list(range(10))


@pytest.mark.parametrize("fps", [1e308, np.float64(1e308)])
def test_a_huge_fps_gives_every_frame_once(fps: float) -> None:
    times = np.arange(10, dtype=np.float64) * 3.0
    assert sample_indices(times, 30.0, FrameSampling(fps=fps)).tolist() == list(range(10))
    assert sample_indices(times, 30.0, FrameSampling(fps=fps, max_frames=5)).tolist() == [0, 2, 4, 6, 8]


def test_max_frames_limits_fps_and_spreads_frames_evenly() -> None:
    times = np.arange(100) / 25
    assert sample_indices(times, 4.0, FrameSampling(fps=10, max_frames=4)).tolist() == [0, 25, 50, 75]
    assert sample_indices(times, 4.0, FrameSampling(fps=1, max_frames=4)).tolist() == [0, 25, 50, 75]
    assert sample_indices(times, 4.0, FrameSampling(max_frames=4)).tolist() == [0, 25, 50, 75]


def test_start_and_end_select_the_frames_between_them() -> None:
    times = np.arange(100) / 25
    assert sample_indices(times, 4.0, FrameSampling(start=1.01, end=1.2)).tolist() == [25, 26, 27, 28, 29]
    assert sample_indices(times, 4.0, FrameSampling(start=3.9)).tolist() == [97, 98, 99]
    assert sample_indices(times, 4.0, FrameSampling(end=0.08)).tolist() == [0, 1]
    assert sample_indices(times, 4.0, FrameSampling(start=1, end=3, num_frames=4)).tolist() == [25, 37, 50, 62]


def test_matroska_milliseconds_do_not_shift_the_frames() -> None:
    times = np.round(np.arange(90) * 1000 / 30) / 1000
    assert sample_indices(times, 3.0, FrameSampling(fps=15), tick=1e-3).tolist() == list(range(0, 90, 2))


def test_a_frame_shown_before_its_keyframe_needs_the_one_before() -> None:
    pts = [0, 1, 2, 5, 3, 4, 6]  # an open GOP: the frames at 3 and 4 follow the keyframe at 5
    scan = PacketScan(pts=array("q", pts), dts=array("q", range(7)), durations=array("q", [1] * 7))
    scan.keys, scan.shown = array("q", [0, 3]), array("q", range(7))
    index = build_index(scan, Fraction(1, 10))
    assert [index.key_slot(position) for position in range(7)] == [0, 0, 0, 1, 0, 0, 1]


# ── The clock clips ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", RECIPES)
def test_every_frame_has_the_time_that_its_pixels_show(clips: Shelf, name: str) -> None:
    clip = clips[name]
    frames = load_frames(clip.path, num_frames=1000)
    assert read_numbers(frames.pixels) == [number for _, number in clip.shown]
    assert frames.timestamps.tolist() == [float(time) for time, _ in clip.shown]
    assert frames.duration == pytest.approx(float(clip.duration), abs=0.0015)
    assert frames.timestamps[0] == 0
    assert frames.source is not None
    assert frames.source.num_frames == len(clip.shown)
    assert frames.notes == () or "without times" in name


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "tif", "bmp", "ppm"])
def test_a_picture_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    picture = np.full((48, 64, 3), (200, 40, 90), np.uint8)
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}")
    frames = load_frames(tmp_path / f"a.{suffix}")
    assert (frames.timestamps.tolist(), frames.pixels.shape) == ([0.0], (1, 48, 64, 3))
    assert np.abs(frames.pixels[0].astype(int) - picture).max() <= 6  # WebP is lossy
    assert frames.notes == ("the file has a single frame, as a still picture: nothing happens in it over time",)


def test_a_photo_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of the file's
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    turned = load_frames(tmp_path / "a.jpg").pixels[0]
    assert turned.shape == (64, 48, 3)
    assert turned[:28, 28:].min() > 200
    assert turned[36:].max() < 50


@pytest.mark.parametrize("name", RECIPES)
def test_sampled_frames_are_on_screen_at_even_times(clips: Shelf, name: str) -> None:
    clip = clips[name]
    frames = load_frames(clip.path, num_frames=7, size=(64, 80))
    assert frames.pixels.shape == (7, 64, 80, 3)
    assert frames.timestamps.tolist() == true_times(clip, frames)
    shown = [number for _, number in clip.shown]
    if RECIPES[name].times is VARIABLE:
        duration = Fraction(frames.duration).limit_denominator(90000)
        assert read_numbers(frames.pixels) == [clip.on_screen(i * duration / 7) for i in range(7)]
    else:
        assert read_numbers(frames.pixels) == [shown[i] for i in uniform_indices(len(shown), 7)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_time_gives_the_frame_on_screen_with_its_own_time(clips: Shelf, name: str) -> None:
    clip = clips[name]
    wanted = np.sort(np.random.default_rng(0).uniform(0, float(clip.duration), 9))
    wanted = np.append(wanted, [float(clip.shown[-1][0]), float(clip.duration) - 0.002])
    frames = load_frames(clip.path, timestamps=np.sort(wanted))
    assert read_numbers(frames.pixels) == [clip.on_screen(time) for time in np.sort(wanted) + 1e-6]
    assert frames.timestamps.tolist() == true_times(clip, frames)


@pytest.mark.parametrize("name", RECIPES)
def test_keyframes_have_their_true_times_and_are_unique(clips: Shelf, name: str) -> None:
    clip = clips[name]
    frames = load_frames(clip.path, num_frames=20, sampling="keyframes")
    assert frames.timestamps.tolist() == true_times(clip, frames)
    assert len(set(frames.timestamps)) == len(frames) <= 20


@pytest.mark.parametrize("name", ["constant rate", "variable rate in Matroska", "edit list trims the start"])
def test_threads_do_not_change_any_pixel(clips: Shelf, name: str) -> None:
    one, many = (load_frames(clips[name].path, num_frames=30, workers=workers) for workers in (1, 8))
    assert np.array_equal(one.pixels, many.pixels)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no such policies")
def test_drawing_clips_does_not_change_the_thread_count(tmp_path: Path) -> None:
    draw_clip(RECIPES["AV1"], tmp_path / "clip.mkv")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("name", ["many B-frames", "HEVC", "open groups of pictures", "MPEG-2", "AV1"])
def test_skipped_frames_do_not_change_any_pixel(clips: Shelf, name: str) -> None:
    path = clips[name].path
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24", interpolation="BILINEAR") for frame in container.decode(video=0)]
    frames = load_frames(path, num_frames=5)
    for pixels, index in zip(frames.pixels, uniform_indices(len(whole), 5), strict=True):
        assert np.array_equal(pixels, whole[index])


def test_keyframe_sampling_notes_its_inaccuracy(clips: Shelf) -> None:
    frames = load_frames(clips["constant rate"].path, sampling="keyframes")
    assert frames.notes == ("4 keyframes stand for 75 frames, up to 0.480 s away from them",)


def test_the_container_clock_is_kept_on_request(clips: Shelf) -> None:
    frames = load_frames(clips["starts at 7 s"].path, start=8, end=9, num_frames=2, clock="container")
    assert frames.timestamps.tolist() == [8.0, 8.48]
    assert frames.source is not None
    assert frames.source.start_time == 7.0


def test_a_part_keeps_the_clock_and_duration_of_the_video(clips: Shelf) -> None:
    frames = load_frames(clips["constant rate"].path, start=1, end=2, num_frames=5)
    assert frames.timestamps.tolist() == [1.0, 1.2, 1.4, 1.6, 1.8]
    assert frames.duration == 3.0


def test_a_long_still_frame_is_repeated_with_its_own_time(clips: Shelf) -> None:
    clip = clips["variable rate"]
    frames = load_frames(clip.path, num_frames=30)
    assert len(frames) == 30
    assert len(set(frames.timestamps)) < 30
    assert frames.timestamps.tolist() == true_times(clip, frames)


def test_times_after_the_end_give_the_last_frame_and_a_note(clips: Shelf) -> None:
    frames = load_frames(clips["constant rate"].path, timestamps=[1.0, 50.0])
    assert frames.timestamps.tolist() == [1.0, 2.96]
    assert frames.notes == ("1 of the times asked for lie after the end: the last frame is given",)


def test_a_joined_recording_begins_at_its_first_keyframe(clips: Shelf, tmp_path: Path) -> None:
    content = clips["transport stream"].path.read_bytes()
    path = tmp_path / "cut_in.ts"
    path.write_bytes(content[len(content) // 188 // 5 * 188 :])
    frames = load_frames(path, num_frames=1000)
    assert read_numbers(frames.pixels) == list(range(24, 75))
    assert frames.timestamps == pytest.approx(np.arange(51) / 25)
    assert frames.notes == ()


def test_times_continue_after_a_clock_set_back(clips: Shelf, tmp_path: Path) -> None:
    content = clips["transport stream"].path.read_bytes()
    path = tmp_path / "twice.ts"
    path.write_bytes(content + content)
    frames = load_frames(path, num_frames=1000)
    assert read_numbers(frames.pixels) == [*range(75), *range(75)]
    assert frames.timestamps == pytest.approx(np.arange(150) / 25)
    assert frames.notes[-1] == "the file's clock is set back 1 times: times are counted on from there"


def test_rotation_swaps_the_size(clips: Shelf) -> None:
    info = probe_video(clips["turned by 90 degrees"].path)
    assert (info.width, info.height, info.rotation) == (96, 160, 270)
    assert load_frames(clips["turned by 90 degrees"].path, num_frames=1).pixels.shape == (1, 160, 96, 3)


# ── Where videos come from ──────────────────────────────────────────────────────────────────────────────────────


def expected(clips: Shelf, name: str = "constant rate") -> Frames:
    return load_frames(clips[name].path, num_frames=5, size=32)


def test_bytes_and_open_files_give_the_same_frames_as_the_path(clips: Shelf) -> None:
    path = clips["constant rate"].path
    with path.open("rb") as file:
        for source in (str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            frames = load_frames(source, num_frames=5, size=32)
            assert np.array_equal(frames.pixels, expected(clips).pixels)


def test_a_pipe_is_read_once(clips: Shelf, tmp_path: Path) -> None:
    content = clips["constant rate"].path.read_bytes()
    os.mkfifo(pipe := tmp_path / "pipe.mp4")
    writer = threading.Thread(target=pipe.write_bytes, args=[content])
    writer.start()
    frames = load_frames(pipe, num_frames=5, size=32)
    writer.join()
    assert np.array_equal(frames.pixels, expected(clips).pixels)


def test_a_file_object_that_cannot_seek_is_read_once(clips: Shelf) -> None:
    class Socket(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self.rest = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            return self.rest.readinto(memoryview(buffer)[:1000])

    frames = load_frames(cast(IO[bytes], Socket(clips["constant rate"].path.read_bytes())), num_frames=5, size=32)
    assert np.array_equal(frames.pixels, expected(clips).pixels)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file, with or without ranges; with `hold`, only half of it until the event is set."""

    def __init__(self, *args: Any, content: bytes, has_ranges: bool, hold: threading.Event | None) -> None:
        self.content, self.has_ranges, self.hold = content, has_ranges, hold
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path != "/clip":
            self.send_error(404)
            return
        first, last = 0, len(self.content) - 1
        if self.has_ranges and (wanted := self.headers.get("Range")):
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), int(end or last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        half = len(self.content) // 2 if self.hold else len(self.content)
        try:
            self.wfile.write(self.content[first : min(last + 1, half)])
            if self.hold and last >= half:
                self.hold.wait(60)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Function that serves a clip on a local web server and returns its address."""
    servers = []
    hold = threading.Event()

    def start(path: Path, has_ranges: bool, *, stalls: bool = False) -> str:
        handler = partial(Server, content=path.read_bytes(), has_ranges=has_ranges, hold=hold if stalls else None)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/clip"

    yield start
    hold.set()
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "has_ranges"),
    [
        ("constant rate", True),
        ("constant rate", False),  # its header is at the end
        ("variable rate in Matroska", True),
        ("variable rate in Matroska", False),
        ("fragmented MP4", False),
        ("transport stream", False),
    ],
)
def test_an_address_gives_the_same_frames_as_the_path(clips: Shelf, serve, name: str, has_ranges: bool) -> None:
    address = serve(clips[name].path, has_ranges)
    assert probe_video(address).codec == "h264"
    assert np.array_equal(load_frames(address, num_frames=5, size=32).pixels, expected(clips, name).pixels)


def test_a_missing_address_is_named(clips: Shelf, serve) -> None:
    address = serve(clips["constant rate"].path, True)
    with pytest.raises(VideoError, match=r"/nothing: cannot be opened as a video: .*404.*; check the address"):
        probe_video(address.replace("/clip", "/nothing"))


def test_a_silent_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(VideoError, match=r"clip.mp4: the server did not answer.* within 1 s"):
            load_frames(f"http://127.0.0.1:{silent.getsockname()[1]}/clip.mp4", timeout=1)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("name", ["constant rate", "variable rate in Matroska", "fragmented MP4", "transport stream"])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_server_that_stops_answering_is_an_error(
    clips: Shelf, serve, monkeypatch: pytest.MonkeyPatch, name: str, has_ranges: bool
) -> None:
    monkeypatch.setattr("timechat.video.limits.DEFAULT_PATIENCE", 0.5)
    with pytest.raises(VideoError, match=r"/clip: the server .* stopped answering, within 0.5 s"):
        load_frames(serve(clips[name].path, has_ranges, stalls=True), timeout=20)


def test_a_wrong_address_says_what_to_check(tmp_path: Path, serve) -> None:
    (page := tmp_path / "page").write_text("<!doctype html><title>A video</title>" * 100)
    for address in (serve(page, False), serve(page, True), "http://nowhere.invalid/clip.mp4"):
        with pytest.raises(
            VideoError,
            match=r"cannot be opened.*; check the address, the network, and that it is the",
        ):
            probe_video(address)


def test_a_file_address_is_a_path(clips: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "my clip.mp4"
    path.write_bytes(clips["constant rate"].path.read_bytes())
    for address in (path.as_uri(), f"file://{path}", f"FILE://localhost{path}"):
        assert probe_video(address).codec == "h264"


def test_a_dash_gives_a_hint_to_standard_input() -> None:
    with pytest.raises(VideoError, match=r"^-: no such file; give /dev/stdin for standard input"):
        probe_video("-")


def test_a_pipe_without_a_writer_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"pipe.mp4: not read within 0.5 s"):
        load_frames(pipe, timeout=0.5)


def test_a_slow_file_is_an_error(clips: Shelf) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            time.sleep(0.3)
            return super().read(min(size or 4096, 4096))

    with pytest.raises(VideoError, match=r"not read within 0.5 s.*timeout=SECONDS"):
        load_frames(Slow(clips["constant rate"].path.read_bytes() * 20), timeout=0.5)


def test_a_cancelled_request_ends_the_reading(clips: Shelf, tmp_path: Path) -> None:
    class RequestCancelledError(Exception):
        pass

    def check() -> None:
        checks.append(True)
        if len(checks) > most:
            raise RequestCancelledError

    path, checks, most = clips["constant rate"].path, [], 0
    with pytest.raises(RequestCancelledError):
        VideoReader(path, check=check)
    os.mkfifo(pipe := tmp_path / "pipe.mp4")
    with pytest.raises(RequestCancelledError):  # before there is a writer
        VideoReader(pipe, check=check)
    with VideoReader(path) as reader:
        checks, most = [], 5
        with pytest.raises(RequestCancelledError):
            reader.load(FrameSampling(num_frames=8), check=check)
        assert len(checks) <= most + 2 * num_cores()
        assert len(reader.load(FrameSampling(num_frames=8)).pixels) == 8


# ── Ready-made frames ─────────────────────────────────────────────────────────────────────────────────────────


def test_ready_made_frames_pass_through() -> None:
    frames = Frames.from_images([clock_frame(i) for i in range(5)], [0, 1, 2, 3, 4])
    assert frames.duration == 5.0
    again = load_frames(frames)
    assert again.pixels is frames.pixels
    assert again.timestamps.tolist() == [0, 1, 2, 3, 4]


def test_ready_made_frames_are_sampled_by_the_same_rules() -> None:
    frames = Frames.from_images([clock_frame(i) for i in range(10)], np.arange(10), duration=10)
    assert read_numbers(load_frames(frames, num_frames=4).pixels) == [0, 2, 5, 7]
    assert load_frames(frames, start=3, end=5).timestamps.tolist() == [3, 4]
    assert read_numbers(load_frames(frames, timestamps=[2.5, 7], size=48).pixels) == [2, 7]


def test_images_of_many_kinds_become_frames() -> None:
    pillow = Image.fromarray(clock_frame(3)).convert("RGBA").resize((50, 40))
    frames = Frames.from_images([clock_frame(3), pillow], [0.0, 0.5], size=(64, 64), duration=9)
    assert frames.pixels.shape == (2, 64, 64, 3)
    assert read_numbers(frames.pixels) == [3, 3]


@pytest.mark.parametrize(
    ("pixels", "timestamps", "duration", "message"),
    [
        (np.zeros((2, 4, 4, 3)), [0, 1], 2, r"pixels must be uint8 \(frames, height, width, 3\).*float64"),
        (np.zeros((0, 4, 4, 3), np.uint8), [], 2, "at least one frame"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], 2, r"timestamps must be \(2,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [1, 0], 2, "rising order"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 1], -1, "duration must be seconds"),
    ],
)
def test_frames_check_themselves(pixels: np.ndarray, timestamps: list, duration: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frames(pixels, np.array(timestamps, float), duration)


# ── Bad input ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_missing_file_folder_and_empty_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"nothing.mp4: no such file"):
        load_frames(tmp_path / "nothing.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        load_frames(tmp_path)
    with pytest.raises(VideoError, match=r"empty.mp4: is empty \(0 bytes\)"):
        load_frames(tmp_path / "empty.mp4")
    with pytest.raises(VideoError, match="<0 bytes>: is empty"):
        load_frames(b"")
    with pytest.raises(VideoError, match="is a device"):
        probe_video("/dev/zero")


@pytest.mark.parametrize("name", ["notes.txt", "film.mp4", "page.html", "list.m3u8"])
def test_text_is_not_a_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("#EXTM3U\n#EXTINF:1,\nother.ts\n" if name == "list.m3u8" else "Only words.\n" * 100)
    with pytest.raises(VideoError, match=f"{name}: (is not a video but text|cannot be opened)"):
        probe_video(path)


def test_audio_alone_is_not_a_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has no video stream, only audio"):
        load_frames(draw_audio(tmp_path / "sound.m4a"))


def test_cover_art_is_not_a_video(tmp_path: Path) -> None:
    path = draw_audio(tmp_path / "song.mp3", cover=clock_frame(5))
    with pytest.raises(VideoError, match="has no video stream, only audio, picture"):
        probe_video(path)


def test_a_truncated_file_gives_its_frames_and_a_note(clips: Shelf, tmp_path: Path) -> None:
    clip = clips["variable rate in Matroska"]
    path = tmp_path / "cut.mkv"
    path.write_bytes(clip.path.read_bytes()[: clip.path.stat().st_size // 2])
    frames = load_frames(path)
    assert 1 < len(frames) < len(clip.times)
    assert frames.timestamps.tolist() == true_times(clip, frames)
    assert any("frames end at" in note for note in frames.notes)


def test_an_mp4_cut_before_its_header_is_refused(clips: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    content = clips["constant rate"].path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=r"cut.mp4: cannot be opened as a video: Invalid data"):
        load_frames(path)


def test_damage_in_the_middle_is_counted(clips: Shelf, tmp_path: Path) -> None:
    clip = clips["constant rate, one long group"]
    content = bytearray(clip.path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov")
    hole = slice(start + (end - start) // 2, start + (end - start) * 5 // 8)
    content[hole] = b"\xff" * (hole.stop - hole.start)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    frames = load_frames(path)
    assert 10 < len(frames) < 75
    assert any("damaged and left out" in note for note in frames.notes)


def test_a_file_without_a_decodable_frame_is_refused(clips: Shelf, tmp_path: Path) -> None:
    content = bytearray(clips["constant rate"].path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = b"\xff" * (end - start)
    path = tmp_path / "noise.mp4"
    path.write_bytes(content)
    for look in (probe_video, load_frames):
        with pytest.raises(VideoError, match=r"noise.mp4: no frame can be decoded from its h264 stream"):
            look(path)


def test_a_part_after_the_end_is_refused(clips: Shelf) -> None:
    with pytest.raises(VideoError, match=r"nothing is shown between .*; its pictures run from 0.000 to 3.000 s"):
        load_frames(clips["constant rate"].path, start=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames must be a whole number, at least 1, got 0"),
        ({"num_frames": "8"}, "num_frames must be a whole number, at least 1, got '8'"),
        ({"max_frames": float("inf")}, "max_frames must be a whole number, at least 1, got inf"),
        ({"fps": 0}, "fps must be frames per second, above 0"),
        ({"fps": "2"}, "fps must be frames per second, above 0, got '2'"),
        ({"start": "3"}, "start must be a time in seconds, got '3'"),
        ({"start": 3, "end": 2}, "start must be before end"),
        ({"timestamps": []}, "timestamps must be one or more times"),
        ({"timestamps": [1], "fps": 2}, "timestamps already say which frames"),
        ({"size": 0}, "size must be at least 1 pixel"),
        ({"sampling": "fast"}, "sampling must be 'exact' or 'keyframes', got 'fast'"),
    ],
)
def test_invalid_options_are_refused(clips: Shelf, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_frames(clips["constant rate"].path, **options)


def test_no_number_of_frames_means_the_default(clips: Shelf) -> None:
    assert len(load_frames(clips["constant rate"].path, num_frames=None)) == 75
    assert len(load_frames(clips["constant rate"].path, num_frames=8.0)) == 8  # type: ignore[arg-type]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Frames.from_images\(images, timestamps\)"):
        load_frames(clock_frame(1))  # type: ignore[arg-type]


def test_no_torch_is_needed() -> None:
    code = "import sys, timechat.video; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ── Real clips ──────────────────────────────────────────────────────────────────────────────────────────────────


@with_real_clips
def test_frames_of_real_clips_match_the_original() -> None:
    for name, fps in (("charades_3MSZA.mp4", 30), ("coffee.mp4", 30000 / 1001), ("flipping_a_pancake.mkv", 30)):
        frames = load_frames(REAL_CLIPS / name, size=32)
        assert frames.source is not None
        assert frames.source.num_frames is not None
        indices = uniform_indices(frames.source.num_frames, 96)
        assert frames.timestamps == pytest.approx(indices / fps, abs=0.0006)
        assert frames.notes == ()


@with_real_clips
def test_unusual_real_clips_are_read() -> None:
    sizes = {
        "av1.mkv": (360, 640),
        "h265_10bit.mp4": (200, 200),
        "rotated_90.mov": (568, 320),
        "unordered.mov": (50, 50),
    }
    for name, size in sizes.items():
        assert load_frames(REAL_CLIPS / name, num_frames=3).pixels.shape == (3, *size, 3)
    assert load_frames(REAL_CLIPS / "nasa_with_audio.mp4", num_frames=1).pixels.shape == (1, 270, 480, 3)
    assert probe_video(REAL_CLIPS / "nasa_with_audio.mp4").stream == 3


@with_real_clips
def test_lost_frames_of_a_damaged_real_clip_are_counted() -> None:
    frames = load_frames(REAL_CLIPS / "corrupted.mp4", size=32)
    assert len(frames) == 48
    assert frames.notes == (
        "2 of 50 frames wanted are damaged and left out, the first at 3.000 s",
        "20 of 50 frames follow damage and may show it",
    )


# ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_index_needs_a_few_bytes_per_frame() -> None:
    """At most 80 bytes during the scan, so that five hours at 30 frames per second need 43 MB at peak."""
    num_packets, gap = 50_000, 3000
    scan = PacketScan()
    tracemalloc.start()
    try:
        for i in range(num_packets):
            times = {"pts": i * gap + 10**9, "dts": i * gap + 10**9 - 2 * gap, "duration": gap}
            flags = {"is_keyframe": i % 150 == 0, "is_corrupt": False, "is_discard": False}
            packet: Any = SimpleNamespace(**times, **flags)
            scan_module._record_packet(scan, packet, "h264")
        index = build_index(scan, Fraction(1, 90000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(index.frame_pts) == num_packets
    assert index.end - index.frame_pts[0] == num_packets * gap
    assert peak < 80 * num_packets


def test_a_still_picture_is_loaded_with_a_note(tmp_path):
    path = tmp_path / "still.png"
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(path)
    frames = load_frames(path)
    assert len(frames) == 1
    assert frames.notes == ("the file has a single frame, as a still picture: nothing happens in it over time",)


# ------------------------------------------------------------------------------------------- the index of a file


def test_a_second_reader_with_the_index_reads_no_packets(clips, monkeypatch):
    path = clips["29.97 fps"].path
    with VideoReader(path) as reader:
        known = pickle.loads(pickle.dumps(reader.index))
        expected = reader.load(FrameSampling(num_frames=5))
    monkeypatch.setattr("timechat.video.index.read_packets", lambda *_, **__: pytest.fail("packets were read"))
    with VideoReader(path, index=known) as reader:
        again = reader.load(FrameSampling(num_frames=5))
        assert reader.info == known.info
    assert np.array_equal(again.pixels, expected.pixels)
    assert again.timestamps.tolist() == expected.timestamps.tolist()
    assert (again.duration, again.notes) == (expected.duration, expected.notes)
