"""Streams: read as they come, seen as files are, and told of while they go on."""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.clips import RECIPES, draw_clip, read_numbers
from tests.search.conftest import ColorEncoder
from timechat import VideoError, load_frames
from timechat.answers.windows import Window, WindowConfig
from timechat.cli import main
from timechat.pipeline.watch import StreamMonitor
from timechat.search.retrieval import RetrievalConfig
from timechat.video import FrameSampling
from timechat.video.live import LiveFrame, LiveVideo

LOOKING = WindowConfig(window=8, overlap=2)


@pytest.fixture(scope="module")
def stream(video_path) -> Path:
    """The same video_path as a transport stream, which can be read from its start while it grows."""
    path = video_path.with_suffix(".ts")
    with av.open(str(video_path)) as source, av.open(str(path), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    return path


def numbers_of(frames: list[LiveFrame]) -> list[int]:
    return read_numbers(np.stack([frame.pixels for frame in frames]))


@pytest.mark.parametrize(
    "name",
    ["constant rate", "29.97 fps", "variable rate", "variable rate in Matroska", "starts at 7 s", "transport stream",
     "many B-frames", "turned by 90 degrees", "edit list trims the start"],
)  # fmt: skip
@pytest.mark.parametrize("fps", [2.0, 5.0])
def test_a_stream_gives_the_frames_that_the_file_gives(tmp_path, name, fps):
    clip = draw_clip(RECIPES[name], tmp_path / f"clip{RECIPES[name].suffix}")
    want = load_frames(clip.path, fps=fps)
    with LiveVideo(clip.path) as video:
        got = list(video.frames(fps=fps))
    assert video.notes == []
    np.testing.assert_allclose([frame.time for frame in got], want.timestamps, atol=1e-6)
    assert numbers_of(got) == read_numbers(want.pixels)
    assert video.end_time == pytest.approx(want.duration, abs=0.1)


def test_a_file_that_grows_is_waited_for(stream, tmp_path):
    content, growing = stream.read_bytes(), tmp_path / "growing.ts"
    growing.write_bytes(content[: len(content) // 3])

    def grow() -> None:
        with growing.open("ab") as file:
            for part in (2, 3):
                time.sleep(0.4)
                file.write(content[(part - 1) * len(content) // 3 : part * len(content) // 3])
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    with LiveVideo(growing, follow=True, idle_timeout=1.5) as video:
        times = [frame.time for frame in video.frames(fps=2, size=32)]
    thread.join()
    with LiveVideo(stream) as video:
        assert times == [frame.time for frame in video.frames(fps=2, size=32)]


def test_a_pipe_and_a_server_that_sends_slowly_are_read_as_they_come(stream, tmp_path):
    with LiveVideo(stream) as video:
        want = [frame.time for frame in video.frames(fps=2, size=32)]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(stream.read_bytes()))
    writer.start()
    with LiveVideo(pipe) as video:
        assert [frame.time for frame in video.frames(fps=2, size=32)] == want
    writer.join()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            content = stream.read_bytes()
            for first in range(0, len(content), 1 + len(content) // 5):
                self.wfile.write(content[first : first + 1 + len(content) // 5])
                self.wfile.flush()
                time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with LiveVideo(f"http://127.0.0.1:{server.server_port}/live.ts") as video:
            assert [frame.time for frame in video.frames(fps=2, size=32)] == want
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_no_stream_is_refused(tmp_path):
    with pytest.raises(VideoError, match="no such file; give a file, a pipe"):
        LiveVideo(tmp_path / "missing.ts")
    text = tmp_path / "text.ts"
    text.write_text("hello")
    with pytest.raises(VideoError, match="cannot be opened as a stream"):
        LiveVideo(text)
    with pytest.raises(ValueError, match="idle_timeout must be seconds above 0"):
        LiveVideo(text, idle_timeout=0)


# ---------------------------------------------------------------------------------------------------- watching


def test_streamed_windows_are_those_of_the_file(nano, video_path, stream, monkeypatch):
    windows = []
    encode = StreamMonitor.encode_window
    monkeypatch.setattr(
        StreamMonitor, "encode_window", lambda self, a, b: windows.append(encode(self, a, b)) or windows[-1]
    )
    watcher = StreamMonitor(nano, ["the blue star blinks"], windows=LOOKING, drop_below=None)
    with LiveVideo(stream) as video:
        list(watcher.watch(video.frames(fps=1 / watcher.step, size=nano.model.config.frame_size)))
    assert [(w.window.start, w.window.end) for w in windows[:3]] == [(0, 8), (6, 14), (12, 20)]
    with nano.open(video_path, windows=LOOKING) as opened:
        for streamed in windows:
            window = streamed.window
            looked = opened.encode_part(window, FrameSampling(fps=2.0, start=window.start, end=window.end))
            ids = [nano.processor.encode_timestamps(each.timestamps)[0] for each in (streamed, looked)]
            assert torch.equal(*ids)
            np.testing.assert_allclose(streamed.timestamps, looked.timestamps, atol=1e-6)
            torch.testing.assert_close(streamed.content, looked.content, atol=1e-4, rtol=1e-4)
    assert watcher.num_windows == len(windows) > 3
    assert watcher.num_dropped == 0


def test_duplicate_frames_of_a_stream_are_encoded_once(nano):
    still = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    frames = [LiveFrame(i / 2, still) for i in range(40)]
    answers = []
    for drop_below in (2.0, None):
        watcher = StreamMonitor(nano, ["the blue star blinks"], windows=LOOKING, drop_below=drop_below, threshold=0.0)
        answers.append([s.to_dict() for s in watcher.watch(frames)])
        assert watcher.num_frames == 40
        assert watcher.num_dropped == (39 if drop_below else 0)
    assert [(a["start"], a["end"]) for a in answers[0]] == [(a["start"], a["end"]) for a in answers[1]]


def test_changed_frames_are_encoded(nano):
    pictures = np.random.default_rng(0).integers(0, 255, (16, 96, 96, 3), dtype=np.uint8)
    watcher = StreamMonitor(nano, ["x"], windows=LOOKING)
    list(watcher.watch(LiveFrame(i / 2, picture) for i, picture in enumerate(pictures)))
    assert watcher.num_dropped == 0


def test_an_event_in_two_windows_is_detected_once(nano, monkeypatch):
    from timechat.answers.events import Answer, Event

    def ground(encoded, query, **_):
        window = encoded.window
        inside = window.start < 15 and window.end > 10
        events = [Event(max(10.0, window.start), min(15.0, window.end), query, 0.9)] if inside else []
        return Answer("", events, task="grounding", found=bool(events))

    monkeypatch.setattr(nano, "ground", ground)
    watcher = StreamMonitor(nano, ["a", "b"], windows=WindowConfig(window=8, overlap=4))
    kept = []

    def frames():
        for i in range(60):
            kept.append(len(watcher._seen))
            yield LiveFrame(i / 2, np.full((96, 96, 3), i * 4, np.uint8))

    sightings = list(watcher.watch(frames()))
    assert [s.query for s in sightings] == ["a", "b"]
    assert max(kept) <= 16


def test_the_end_of_a_stream_is_a_window_too(nano, monkeypatch):
    asked: list[Window] = []
    monkeypatch.setattr(StreamMonitor, "_ask", lambda _, a, b: iter(asked.append(Window(a, b)) or ()))
    watcher = StreamMonitor(nano, ["x"], windows=LOOKING)
    list(watcher.watch(LiveFrame(i / 2, np.zeros((96, 96, 3), np.uint8)) for i in range(21)))
    assert [(w.start, w.end) for w in asked] == [(0, 8), (6, 10.5)]
    watcher = StreamMonitor(nano, ["x"], windows=LOOKING)
    asked.clear()
    list(watcher.watch(LiveFrame(i / 2, np.zeros((96, 96, 3), np.uint8)) for i in range(3)))
    assert [(w.start, w.end) for w in asked] == [(0, 1.5)]


def noise(seconds: float, *, red: tuple[float, float]) -> list[LiveFrame]:
    """Frames of gray noise, two per second, which nano was not trained on, with a part in red."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(round(2 * seconds)):
        pixels = np.repeat(rng.integers(0, 255, (96, 96, 1), np.uint8), 3, axis=2)
        if red[0] <= i / 2 < red[1]:
            pixels[:, :, 1:] //= 8
        frames.append(LiveFrame(i / 2, pixels))
    return frames


@pytest.mark.parametrize("by", ["auto", "search"])
def test_a_stream_outside_of_the_domain_is_searched(nano, by):
    encoder = ColorEncoder()
    watcher = StreamMonitor(nano, ["red", "green"], windows=LOOKING, retrieval=RetrievalConfig(by=by, encoder=encoder))
    (found,) = watcher.watch(noise(26, red=(9, 13)))
    assert (found.query, found.by) == ("red", "search")
    assert (found.event.start, found.event.end) == pytest.approx((9, 13), abs=1.1)
    assert found.event.score > 0.9
    assert watcher.notes == ("windows answered by the search of colors, not by nano",)
    assert watcher.search_size == (8, 8)


def test_a_moment_of_several_windows_is_reported_once(nano):
    encoder = ColorEncoder()
    watcher = StreamMonitor(nano, ["red"], windows=LOOKING, retrieval=RetrievalConfig(by="auto", encoder=encoder))
    assert len(list(watcher.watch(noise(26, red=(5, 26))))) == 1


def test_a_stream_of_the_domain_is_left_to_the_model(nano, stream):
    encoder = ColorEncoder()
    watcher = StreamMonitor(
        nano, ["the blue star blinks"], windows=LOOKING, retrieval=RetrievalConfig(by="auto", encoder=encoder)
    )
    with LiveVideo(stream) as video:
        frames = video.frames(fps=2, size=nano.model.config.frame_size, search_size=watcher.search_size)
        kept = list(frames)
    assert {frame.search_pixels.shape for frame in kept} == {(8, 8, 3)}
    assert {found.by for found in watcher.watch(kept)} <= {"model"}
    assert encoder.num_frames == 0


@pytest.mark.parametrize(
    ("queries", "looking", "message"),
    [
        ([], LOOKING, "one or more queries"),
        (["  "], LOOKING, "one or more queries"),
        (["x"], WindowConfig(window=0), "a stream has no end"),
    ],
)
def test_watching_in_a_way_that_makes_no_sense_is_refused(nano, queries, looking, message):
    with pytest.raises(ValueError, match=message):
        StreamMonitor(nano, queries, windows=looking)


def test_a_larger_step_is_a_faster_clock(nano):
    watcher = StreamMonitor(nano, ["x"], windows=replace(LOOKING, window=None, overlap=None, step=1.0))
    assert watcher.step == 1.0
    assert watcher._length == 120
    assert watcher._time_scale == 2.0


QUERIES = ["the blue star blinks", "the cyan ring bounces"]
OPTIONS = ["--window", "8", "--overlap", "2", "--threshold", "0", "--device", "cpu"]


def test_the_command_prints_detections_while_the_stream_runs(stream):
    """A line is there before the writer has come to its end."""
    command = [sys.executable, "-m", "timechat", "watch", "/dev/stdin", *QUERIES, *OPTIONS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    content = stream.read_bytes()
    process.stdin.write(content[: 4 * len(content) // 5])
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    assert process.poll() is None
    rest, errors = process.communicate(content[4 * len(content) // 5 :])
    assert process.returncode == 0, errors
    assert {"query", "start", "end", "score", "window", "seen_at", "model"} <= first.keys()
    assert all(json.loads(line)["start"] >= 0 for line in rest.splitlines())
    assert b" windows, " in errors


def test_the_command_watches_its_standard_input(stream, monkeypatch):
    """The writer gives the last fifth of the stream when it has seen the first line."""
    printed, seen = io.StringIO(), threading.Event()
    monkeypatch.setattr(printed, "write", lambda text: seen.set() or io.StringIO.write(printed, text))
    reader, writer = os.pipe()
    content = stream.read_bytes()
    waited = []

    def feed():
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            pipe.write(content[: 4 * len(content) // 5])
            waited.append(seen.wait(120))
            pipe.write(content[4 * len(content) // 5 :])

    feeder = threading.Thread(target=feed)
    with os.fdopen(reader, "rb") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "argv", ["timechat", "watch", "-", *QUERIES, *OPTIONS])
        feeder.start()
        with pytest.raises(SystemExit) as ended:
            main()
    feeder.join()
    assert waited == [True]
    assert not ended.value.code
    lines = [json.loads(line) for line in printed.getvalue().splitlines()]
    assert {"query", "start", "end", "score", "window", "seen_at", "model"} <= lines[0].keys()
    assert all(line["start"] >= 0 for line in lines)
