"""Cuts of clock clips, whose frames show their own numbers, so that the content of a cut is known."""

from __future__ import annotations

import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import HEIGHT, RECIPES, VARIABLE, WIDTH, clock_frame, draw_clip, read_numbers
from timechat.answers.events import Event
from timechat.errors import VideoError
from timechat.video import load_frames, probe_video
from timechat.video.clips import concat_clips, extract_clip, extract_clips
from timechat.video.clips.cut import merge_ranges

REAL = Path(__file__).parents[3] / "shared" / "videos"
real_videos = pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real clips is not there")

CUT = [
    "constant rate",
    "29.97 fps",
    "29.97 fps in Matroska's milliseconds",
    "variable rate",
    "variable rate in Matroska",
    "starts at 7 s",
    "transport stream",
    "open groups of pictures",
    "intra refresh",
    "edit list trims past a keyframe",
    "variable rate and edit list",
    "turned by 90 degrees",
    "turned by 270 degrees",
    "odd size",
    "10 bit",
    "VP8 with hidden frames",
    "VP9 of odd size",
    "AV1",
    "HEVC 10 bit, variable rate",
    "MPEG-4 in AVI, B-frames without times",
    "raw H.264 without times",
    "motion JPEG",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Function from the name of a recipe to its clip, which is made once."""
    folder, drawn = tmp_path_factory.mktemp("clips"), {}

    def find(name):
        if name not in drawn:
            drawn[name] = draw_clip(RECIPES[name], folder / f"{len(drawn)}{RECIPES[name].suffix}")
        return drawn[name]

    return find


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A clock video with 25 frames per second, a keyframe per second, and audio that becomes louder with time."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    draw_video(path)
    return path


def draw_video(path, seconds=6, rate=44100):
    with av.open(str(path), "w") as container:
        video_stream = container.add_stream("libx264", rate=25, options={"g": "25", "sc_threshold": "0", "bf": "2"})
        video_stream.width, video_stream.height, video_stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=rate)
        audio.layout = "mono"
        for number in range(25 * seconds):
            container.mux(video_stream.encode(av.VideoFrame.from_ndarray(clock_frame(number), format="rgb24")))
        container.mux(video_stream.encode(None))
        at = np.arange(rate * seconds)
        wave = (np.sin(at * 0.3) * loudness(at / rate)).astype(np.float32)[None]
        for start in range(0, wave.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", "mono")
            block.sample_rate, block.pts = rate, start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))


def loudness(time):
    return 0.1 + 0.1 * np.floor(np.asarray(time) * 2) / 2  # a step every half second


def shown_frames(path):
    """Return times and numbers of all frames of a file, and the end of the last frame."""
    frames = load_frames(path, num_frames=10**6)
    return frames.timestamps.tolist(), read_numbers(frames.pixels), frames.duration


def peak_level(path, start, end):
    """Return the peak level of the audio between two times on the clock of the file."""
    with av.open(str(path)) as container:
        blocks = [(float(frame.time or 0), frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    times = np.concatenate([at + np.arange(len(block)) / rate for at, block in blocks])
    wave = np.concatenate([block for _, block in blocks])
    return float(np.abs(wave[(times >= start) & (times < end)]).max())


def test_loading_a_video_does_not_import_clips():
    code = "import sys, timechat.video; sys.exit('timechat.video.clips' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------- exact cuts


@pytest.mark.parametrize("name", CUT)
def test_an_exact_cut_starts_with_the_frame_on_screen(clip, tmp_path, name):
    source = clip(name)
    shown = source.shown
    for start, end in ((0.51, 1.83), (0.0, 0.3), (1.1, float(source.duration))):
        report = extract_clip(source.path, start, end, tmp_path / "cut.mp4")
        first = source.on_screen(Fraction(start))
        wanted = [(time, number) for time, number in shown if number == first or start < time < end]
        times, numbers, length = shown_frames(report.path)
        assert numbers == [number for _, number in wanted]
        expected = [max(0.0, float(time) - start) for time, _ in wanted]
        assert times == pytest.approx(expected, abs=2e-3 if ".mkv" in source.path.name else 2e-4)
        assert length == pytest.approx(min(end, float(source.duration)) - start, abs=2e-3)
        assert report.start == pytest.approx(start, abs=1e-5)
        assert report.end == pytest.approx(min(end, float(source.duration)), abs=2e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_an_exact_cut_can_begin_at_the_start_of_a_frame(clip, tmp_path, suffix):
    source = clip("variable rate")
    for number in (0, 1, 13, 39, 41, 50):
        report = extract_clip(source.path, float(source.times[number]), 3.5, tmp_path / f"cut{suffix}")
        assert shown_frames(report.path)[1][0] == number
        assert report.start_shift == pytest.approx(0, abs=1e-5)


def test_an_exact_cut_keeps_the_colours(clip, tmp_path):
    for name in ("motion JPEG", "constant rate"):
        cut = extract_clip(clip(name).path, 0.5, 1, tmp_path / "cut.mp4").path
        before = load_frames(clip(name).path, timestamps=[0.6]).pixels.astype(int)
        after = load_frames(cut, timestamps=[0.1]).pixels.astype(int)
        assert np.abs(before - after).mean() < 4


def test_a_rotated_video_is_cut_upright(clip, tmp_path):
    report = extract_clip(clip("turned by 90 degrees").path, 0.5, 1.5, tmp_path / "cut.mp4")
    before, after = probe_video(clip("turned by 90 degrees").path), probe_video(report.path)
    assert (after.width, after.height, after.rotation) == (before.width, before.height, 0)
    copied = extract_clip(clip("turned by 90 degrees").path, 0.5, 1.5, tmp_path / "copy.mp4", mode="copy")
    assert probe_video(copied.path).rotation == before.rotation
    assert shown_frames(copied.path)[1] == list(range(38))


def test_audio_and_frames_of_an_exact_cut_match(video, tmp_path):
    report = extract_clip(video, 2.25, 4.75, tmp_path / "cut.mp4")
    assert probe_video(report.path).has_audio
    assert shown_frames(report.path)[1] == list(range(56, 119))
    for at in (0.05, 0.8, 1.3, 2.3):  # within a step of half a second
        assert peak_level(report.path, at, at + 0.1) == pytest.approx(loudness(2.25 + at), rel=0.08)
    with av.open(str(report.path)) as container:
        audio = container.streams.audio[0]
        assert float(audio.duration * audio.time_base) == pytest.approx(2.5, abs=0.03)


def test_a_cut_past_the_end_ends_with_the_video(video, tmp_path):
    report = extract_clip(video, 5, 9, tmp_path / "cut.mp4")
    assert (report.end, report.end_shift) == (pytest.approx(6), pytest.approx(-3))
    assert str(report) == f"{tmp_path / 'cut.mp4'}: 5.000 to 6.000 s, re-encoded, ends 3.000 s early"


# ------------------------------------------------------------------------------------------------------ copied


@pytest.mark.parametrize("name", [name for name in CUT if "without times" not in name and "refresh" not in name])
def test_a_copy_reports_its_true_times(clip, tmp_path, name):
    source = clip(name)
    for start, end in ((1.5, 1.9), (0.3, 0.5)):
        [report] = extract_clips(source.path, [Event(start, end)], tmp_path / "cuts", mode="copy")
        times, numbers, length = shown_frames(report.path)
        shown = {number: float(time) for time, number in source.shown}
        if report.start >= 0:  # otherwise it begins with frames that the edit list of the video hides
            assert shown[numbers[0]] == pytest.approx(report.start, abs=2e-3)
            # At a variable rate, MP4 stores no duration for a last frame that is not the last to be decoded.
            assert RECIPES[name].times is VARIABLE or length == pytest.approx(report.end - report.start, abs=2e-3)
        after = [time for time, number in source.shown if number > numbers[-1]]
        assert float(min(after, default=source.duration)) == pytest.approx(report.end, abs=2e-3)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert report.start_shift >= 0
        assert report.end_shift >= min(0, float(source.duration) - end) - 1e-3
        assert numbers[0] <= source.on_screen(Fraction(start))
        whole = [shown.get(number, 0) - shown.get(numbers[0], 0) for number in numbers]
        assert report.start < 0 or times == pytest.approx(whole, abs=2e-3)


def test_a_copy_starts_at_the_keyframe_and_reports_the_shift(video, tmp_path):
    report = extract_clip(video, 2.5, 3.3, tmp_path / "copy.mp4", mode="copy")
    _, numbers, length = shown_frames(report.path)
    assert numbers[0] == 50
    assert report.start_shift == pytest.approx(0.5)
    assert numbers[-1] == round(report.end * 25) - 1
    assert length == pytest.approx(report.end - report.start)
    assert 0 <= report.end_shift < 0.2
    assert "copied without loss, starts 0.500 s early" in str(report)
    for at in (0.1, 0.6, 1.1):
        assert peak_level(report.path, at, at + 0.1) == pytest.approx(loudness(2.0 + at), rel=0.08)


def test_a_raw_stream_is_copied_at_its_stated_rate(clip, tmp_path):
    report = extract_clip(clip("raw H.264 without times").path, 1, 2, tmp_path / "copy.mkv", mode="copy")
    times, numbers, _ = shown_frames(report.path)
    assert numbers == list(range(round(report.start * 25), round(report.end * 25)))
    assert times == pytest.approx(np.arange(len(numbers)) / 25, abs=0.001)
    assert report.start <= 1 < 2 <= report.end


# ---------------------------------------------------------------------------------------------- many and joined


def test_clips_are_named_by_number_time_and_caption(video, tmp_path):
    events = [Event(1, 2, "Chop / dice: Möhren!"), Event(90, 95, "never"), Event(6, 6, "end"), Event(3.04, 3.5)]
    reports = extract_clips(video, events, tmp_path / "clips")
    assert [report.path.name for report in reports] == [
        "01_0-01.0_chop-dice-möhren.mp4",
        "03_0-06.0_end.mp4",
        "04_0-03.0.mp4",
    ]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == sorted(r.path.name for r in reports)
    assert [shown_frames(report.path)[1] for report in reports] == [
        list(range(25, 50)),
        list(range(100, 150)),
        list(range(76, 88)),
    ]


def test_an_unsafe_caption_gives_a_short_name_in_the_folder(video, tmp_path):
    [report, other] = extract_clips(video, [Event(0, 0.2, "../../etc/" + "李" * 300), Event(0, 0.2, "...")], tmp_path)
    assert report.path.parent == other.path.parent == tmp_path
    assert len(report.path.name.encode()) < 130
    assert other.path.name == "02_0-00.0.mp4"


def test_joined_events_are_in_time_order_and_shown_once(video, tmp_path):
    events = [Event(4, 4.4), Event(1, 1), Event(1.6, 2.4), Event(4.2, 4.8)]
    reports = concat_clips(video, events, tmp_path / "reel.mp4")
    assert [(report.start, report.end) for report in reports] == [(0, pytest.approx(2.4)), (4, pytest.approx(4.8))]
    times, numbers, length = shown_frames(tmp_path / "reel.mp4")
    assert numbers == [*range(60), *range(100, 120)]
    assert times == pytest.approx([i / 25 for i in range(80)], abs=1e-4)
    assert length == pytest.approx(3.2, abs=1e-3)
    assert peak_level(tmp_path / "reel.mp4", 2.55, 2.65) == pytest.approx(loudness(4.2), rel=0.08)


def test_joined_copies_contain_no_frame_twice(video, tmp_path):
    events = [Event(0.3, 0.6), Event(0.7, 0.9), Event(3.2, 3.4), Event(5.5, 5.6)]
    reports = concat_clips(video, events, tmp_path / "reel.mp4", mode="copy")
    _, numbers, length = shown_frames(tmp_path / "reel.mp4")
    expected = [range(round(r.start * 25), round(r.end * 25)) for r in reports]
    assert numbers == list(itertools.chain(*expected))
    assert (reports[0].requested_start, reports[0].requested_end) == (0.3, 0.9)
    assert length == pytest.approx(sum(r.end - r.start for r in reports), abs=0.02)
    assert peak_level(tmp_path / "reel.mp4", 1.0, 1.1) == pytest.approx(loudness(3.1), rel=0.15)


def test_joined_copies_at_variable_rate_keep_the_frame_order(clip, tmp_path):
    source = clip("variable rate")
    after_long = float(source.times[41])  # the frame before stays for 0.9 s, longer than the copy until then
    reports = concat_clips(
        source.path, [Event(0.05, 0.1), Event(after_long, after_long + 0.03)], tmp_path / "reel.mp4", mode="copy"
    )
    _, numbers, _ = shown_frames(tmp_path / "reel.mp4")
    contained = [[number for time, number in source.shown if r.start - 1e-6 <= time < r.end - 1e-6] for r in reports]
    assert numbers == [*contained[0], *contained[1]]
    assert 40 in contained[1]
    assert 24 not in contained[0]


def test_joined_clips_at_variable_rate_keep_every_time(clip, tmp_path):
    source = clip("variable rate")
    concat_clips(source.path, [Event(0.5, 1.0), Event(1.5, 2.0)], tmp_path / "reel.mp4")
    times, numbers, length = shown_frames(tmp_path / "reel.mp4")
    expected = []
    for start, end, offset in ((0.5, 1.0, 0.0), (1.5, 2.0, 0.5)):
        first = source.on_screen(Fraction(start))
        expected += [(offset + max(0, float(t) - start), n) for t, n in source.shown if n == first or start < t < end]
    assert numbers == [number for _, number in expected]
    assert times == pytest.approx([time for time, _ in expected], abs=1e-4)
    assert length == pytest.approx(1.0, abs=1e-3)


def test_touching_ranges_are_merged():
    assert merge_ranges([(3, 4), (0, 1), (1, 2), (0.5, 0.7)]) == [(0, 2), (3, 4)]


def test_joining_no_events_is_refused(video, tmp_path):
    for events in ([], [Event(7, 8)]):
        with pytest.raises(ValueError, match=rf"none of {len(events)} events lies within the 6\.000 s"):
            concat_clips(video, events, tmp_path / "reel.mp4")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_invalid_times_and_targets_are_refused(video, tmp_path):
    for start, end in ((2, 1), (1, 1), (-1, 2), (0, float("nan"))):
        with pytest.raises(ValueError, match="start must be from 0 and before end"):
            extract_clip(video, start, end, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"ends in one of \.mp4, \.m4v, \.mov, \.mkv, not in '\.webm'"):
        extract_clip(video, 1, 2, tmp_path / "a.webm")
    with pytest.raises(ValueError, match="is the video itself"):
        extract_clip(video, 1, 2, video)
    with pytest.raises(ValueError, match="mode must be 'exact' or 'copy', got 'fast'"):
        extract_clips(video, [], tmp_path, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(VideoError, match=r"ends at 6\.000 s, before the 7\.000 s to cut from"):
        extract_clip(video, 7, 8, tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="no such file"):
        extract_clip(tmp_path / "gone.mp4", 1, 2, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_container_that_cannot_hold_a_copy_is_refused(video, tmp_path):
    with pytest.raises(VideoError, match="webm"):
        extract_clip(video, 1, 2, tmp_path / "a.webm", mode="copy")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file(video, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_text("old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("timechat.video.clips.encode.VideoWriter.end_segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_clip(video, 1, 2, tmp_path / "a.mp4")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.mp4", "old")]


def test_bytes_and_file_objects_are_cut_too(video, tmp_path):
    for source in (video.read_bytes(), video.open("rb")):
        for mode in ("exact", "copy"):
            report = extract_clip(source, 2, 3, tmp_path / "a.mp4", mode=mode)
            assert shown_frames(report.path)[1][:25] == list(range(50, 75))
            assert probe_video(report.path).has_audio


@real_videos
@pytest.mark.parametrize(
    ("name", "size"), [("coffee.mp4", (1280, 720)), ("rotated_90.mov", None), ("nasa_with_audio.mp4", None)]
)
def test_real_videos_are_cut(tmp_path, name, size):
    before = probe_video(REAL / name)
    end = min(0.5, before.duration)
    for mode in ("exact", "copy"):
        report = extract_clip(REAL / name, 0, end, tmp_path / f"cut{mode}.mp4", mode=mode)
        after = probe_video(report.path)
        assert (after.width, after.height) == (before.width, before.height) == (size or (after.width, after.height))
        assert after.has_audio == before.has_audio
        assert after.duration == pytest.approx(report.end - report.start, abs=0.05)
