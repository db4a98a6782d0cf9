"""Decode ordinary files with this version and with an earlier one, alternating, and compare the CPU seconds.

    python perf/decode_versions.py [--baseline COMMIT] [--runs 5] [--cache FOLDER] [VIDEO ...]

The earlier version is checked out into the cache folder and runs with the libraries of this environment. Every
measurement is one process that samples 96 frames at 224x224 and reports its CPU seconds after the imports. The
table gives the medians and their ratio; both versions must return the same pixels and times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.earlier_version import ROOT, VERSION_0_1, check_out

_RATE = 25
_FILES = {  # name: codec, width, height, seconds, keyframe interval in seconds, options
    "720p_key1s.mp4": ("libx264", 1280, 720, 60, 1, {"preset": "veryfast"}),
    "720p_key10s.mp4": ("libx264", 1280, 720, 60, 10, {"preset": "veryfast"}),
    "480p_key2s.mkv": ("libx264", 854, 480, 120, 2, {"preset": "veryfast"}),
    "480p_key2s.ts": ("libx264", 854, 480, 60, 2, {"preset": "veryfast"}),
    "480p_hevc.mp4": ("libx265", 854, 480, 30, 5, {"preset": "ultrafast", "x265-params": "log-level=error"}),
}
_MEASURE = """
import hashlib, json, sys, time
from timechat.video import load_frames
load_frames(sys.argv[2], num_frames=2, size=224)  # codecs and filters are loaded
start = time.process_time()
frames = load_frames(sys.argv[1], num_frames=96, size=224)
seconds = time.process_time() - start
digest = hashlib.sha256(frames.pixels.tobytes() + frames.timestamps.round(6).tobytes()).hexdigest()
print(json.dumps({"seconds": seconds, "digest": digest}))
"""


def write_video(
    path: Path, codec: str, width: int, height: int, seconds: int, interval: int, options: dict[str, str]
) -> None:
    """Encode moving, grainy pictures."""
    random = np.random.default_rng(0)
    grain = random.integers(0, 24, (height, 2 * width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 200, 2 * width, dtype=np.uint8)[None, :, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = interval * _RATE
        for number in range(seconds * _RATE):
            shift = 7 * number % width
            picture = grain[:, shift : shift + width] + ramp[:, (shift * 3) % width :][:, :width]
            container.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def measure(root: Path, video: Path, warm_up: Path) -> tuple[float, str]:
    """CPU seconds of sampling a video with the version in a checkout, and the hash of the result."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-c", _MEASURE, str(video), str(warm_up)]
    result = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
    measured = json.loads(result.stdout.splitlines()[-1])
    return float(measured["seconds"]), str(measured["digest"])


def main() -> None:
    """Print one line per file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="More videos to measure.")
    parser.add_argument("--baseline", default=VERSION_0_1, metavar="COMMIT", help="Earlier version; default: 0.1.")
    parser.add_argument("--runs", type=int, default=5, help="Measurements of each version per file.")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "timechat-decode-versions")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    baseline = check_out(options.baseline, options.cache)
    videos = []
    for name, recipe in _FILES.items():
        path = options.cache / name
        if not path.exists():
            write_video(path.with_stem(f"{path.stem}.part"), *recipe)
            path.with_stem(f"{path.stem}.part").rename(path)
        videos.append(path)
    print(f"{'file':<28}{'before':>9}{'now':>9}{'ratio':>8}  same result")
    ratios = []
    for video in [*videos, *(path.resolve() for path in options.videos)]:
        before, now, digests = [], [], set()
        for _ in range(options.runs):
            for root, seconds in ((baseline, before), (ROOT, now)):
                cpu, digest = measure(root, video, videos[0])
                seconds.append(cpu)
                digests.add(digest)
        ratios.append(statistics.median(now) / statistics.median(before))
        print(
            f"{video.name:<28}{statistics.median(before):>9.3f}{statistics.median(now):>9.3f}{ratios[-1]:>8.3f}"
            f"  {'yes' if len(digests) == 1 else 'no'}",
            flush=True,
        )
    print(f"{'median of the ratios':<46}{statistics.median(ratios):>8.3f}")


if __name__ == "__main__":
    main()
