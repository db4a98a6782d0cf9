"""Errors of the times in the output files of an answer, on an hour of video at a variable frame rate.

    python perf/clock.py [--minutes 60] [--events 200] [--seed 0] [--video clock.mp4]

Makes a video whose frames show their own numbers and last 1/20 to 1/12 s, takes events that start and end at random
frames, reads their times from the video as for any answer, and compares with the true times: the times in JSON, SRT,
WebVTT and a CMX3600 list, the first frame of the exact cuts, and the reported starts of the copies. A CMX3600 list
counts frames at one rate, so its times are those of `timebase(average rate)`. The exit status is 1 if any time is off
by more than half of its frame. Needs `pip install ".[dev]"`.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import opentimelineio as otio
from numpy.typing import NDArray

from timechat.answers.events import Answer, Event
from timechat.export import timebase, to_edl, to_json, to_srt, to_vtt
from timechat.video import load_frames, probe_video
from timechat.video.clips import extract_clips

ROWS, COLUMNS = 3, 6  # one bit per block: numbers up to 2 ** 18
WIDTH, HEIGHT = 192, 96
TICKS = 90_000  # per second
SHORTEST, LONGEST = TICKS // 20, TICKS // 12  # ticks from one frame to the next
ENCODING = {"preset": "ultrafast", "crf": "20", "g": "250", "bf": "2", "sc_threshold": "0"}


def picture(number: int) -> NDArray[np.uint8]:
    """Return a frame of black and white blocks that show `number` in binary, `(height, width)`."""
    bits = (number >> np.arange(ROWS * COLUMNS) & 1).reshape(ROWS, COLUMNS)
    gray = np.where(bits == 1, 220, 30).astype(np.uint8)
    return np.repeat(np.repeat(gray, HEIGHT // ROWS, axis=0), WIDTH // COLUMNS, axis=1)


def read_number(pixels: NDArray[np.uint8]) -> int:
    """Return the number that a frame `(height, width, 3)` shows."""
    blocks = pixels.mean(axis=-1).reshape(ROWS, HEIGHT // ROWS, COLUMNS, WIDTH // COLUMNS).mean(axis=(1, 3))
    return int((blocks.ravel() > 125) @ (1 << np.arange(ROWS * COLUMNS)))


def draw(path: Path, ticks: NDArray[np.int64]) -> None:
    """Write a video with frames at `ticks`; the last tick is the end of the last frame."""
    gaps = dict(zip(ticks[:-1].tolist(), np.diff(ticks).tolist(), strict=True))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options=ENCODING)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        for number in range(len(ticks)):
            frame = None
            if number < len(ticks) - 1:
                frame = av.VideoFrame.from_ndarray(picture(number), format="gray")
                frame.pts, frame.time_base = int(ticks[number]), Fraction(1, TICKS)
            for packet in stream.encode(frame):
                packet.duration = gaps.pop(packet.pts)
                container.mux(packet)


def choose(ticks: NDArray[np.int64], count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Return the first frame of each event and the frame after its last; events last 1 to 20 s."""
    firsts = np.sort(generator.choice(len(ticks) - 500, count, replace=False))
    return [(int(first), int(first + generator.integers(20, 240))) for first in firsts]


def measured(video: Path, ticks: NDArray[np.int64], borders: Sequence[tuple[int, int]]) -> Answer:
    """Return an answer with the times that `load_frames` gives for the frames on screen at the true times."""
    numbers = sorted({number for pair in borders for number in pair})
    frames = load_frames(video, timestamps=ticks[numbers] / TICKS)
    shown = [read_number(pixels) for pixels in frames.pixels]
    assert shown == numbers, "load_frames returned other frames than those on screen"
    time_of = dict(zip(numbers, frames.timestamps.tolist(), strict=True))
    events = [Event(time_of[first], time_of[last], f"{first} to {last}") for first, last in borders]
    return Answer("", events, task="dense_caption", video=str(video), duration=frames.duration)


Times = list[tuple[Fraction, Fraction]]
Errors = list[tuple[Fraction, int]]  # error in seconds, and the number of the frame


def subtitle_times(text: str) -> Times:
    """Return start and end of every subtitle in seconds."""
    stamp = r"(\d+):(\d\d):(\d\d)[.,](\d\d\d)"
    found = [[int(part) for part in match] for match in re.findall(f"{stamp} --> {stamp}", text)]
    seconds = [[Fraction(((h * 60 + m) * 60 + s) * 1000 + ms, 1000) for h, m, s, ms in (f[:4], f[4:])] for f in found]
    return [(start, end) for start, end in seconds]


def edl_times(text: str, rate: Fraction) -> Times:
    """Return start and end of every event in its source in seconds."""
    clips = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate)).find_clips()
    ranges = [(round(c.source_range.start_time.value), round(c.source_range.duration.value)) for c in clips]
    return [(start / rate, (start + length) / rate) for start, length in ranges]


def cut_errors(answer: Answer, folder: Path, ticks: NDArray[np.int64], mode: Literal["exact", "copy"]) -> Errors:
    """Return the difference between the first frame of every cut and the start in its report."""
    assert answer.video is not None
    errors = []
    for report in extract_clips(answer.video, answer.events, folder, mode=mode):
        first = read_number(load_frames(report.path, timestamps=[0.0]).pixels[0])
        told = Fraction(report.requested_start if mode == "exact" else report.start)
        errors.append((abs(told - Fraction(int(ticks[first]), TICKS)), first))
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--video", type=Path, help="file for the video; an existing file is used")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    count = round(options.minutes * 60 * TICKS / ((SHORTEST + LONGEST) / 2))
    ticks = np.concatenate([[0], np.cumsum(generator.integers(SHORTEST, LONGEST + 1, count))])
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or Path(folder) / "clock.mp4"
        began = time.monotonic()
        if not video.exists():
            draw(video, ticks)
        info = probe_video(video)
        assert info.fps is not None
        rate = timebase(info.fps)
        print(f"{count} frames in {ticks[-1] / TICKS:.3f} s, on average {info.fps:.4f} per second, made", end=" ")
        print(f"in {time.monotonic() - began:.0f} s; the CMX3600 list counts at {float(rate):.6g}")
        borders = choose(ticks[:-1], options.events, generator)
        truth = [(Fraction(int(ticks[first]), TICKS), Fraction(int(ticks[last]), TICKS)) for first, last in borders]
        answer = measured(video, ticks, borders)
        found: dict[str, Times] = {
            "JSON": [(Fraction(e["start"]), Fraction(e["end"])) for e in json.loads(to_json(answer))["events"]],
            "SRT": subtitle_times(to_srt(answer)),
            "WebVTT": subtitle_times(to_vtt(answer)),
            "CMX3600": edl_times(to_edl(answer, fps=info.fps), rate),
        }
        errors = {
            name: [
                (abs(told - true), number)
                for pair, true_pair, border in zip(times, truth, borders, strict=True)
                for told, true, number in zip(pair, true_pair, border, strict=True)
            ]
            for name, times in found.items()
        }
        errors["exact cut, first frame"] = cut_errors(answer, Path(folder) / "exact", ticks, "exact")
        errors["copy, reported start"] = cut_errors(answer, Path(folder) / "copies", ticks, "copy")
    is_right = True
    gaps = np.diff(ticks)
    print(f"{'':24}{'times':>6}  largest error in s  in frames")
    for name, found_errors in errors.items():
        in_seconds = max(error for error, _ in found_errors)
        in_frames = max(error * TICKS / int(gaps[number]) for error, number in found_errors)
        is_right = is_right and in_frames <= Fraction(1, 2)
        print(f"{name:24}{len(found_errors):6}  {float(in_seconds):18.9f}  {float(in_frames):9.6f}")
    print(
        f"{time.monotonic() - began:.0f} s in all, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
