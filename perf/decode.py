"""Sample 96 frames at 224x224 from long files: TimeChat against decord, OpenCV, torchcodec and plain PyAV.

    python perf/decode.py [--cache FOLDER] [--out docs/decode-benchmark.md] [--repeat 1]

Needs the `ffmpeg` command to make the files (once, in the cache folder) and creates a virtual environment for the
peers there. Every method runs in a separate process, which reports CPU seconds, wall seconds and peak memory. Its
frames are compared with a full decode: a frame counts as exact if, of the requested frame and its three neighbours
on either side, the requested one is the nearest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

try:  # the peers' environment has no timechat
    from timechat.video import FrameSampling, load_frames, sample_indices
    from timechat.video.decoding import plan_packet_ranges
    from timechat.video.index import build_index, seconds
    from timechat.video.scan import read_packets
    from timechat.video.source import open_source
except ModuleNotFoundError:
    pass

if TYPE_CHECKING:
    import cv2
    import decord
    import torchcodec

NUM_FRAMES, SIZE_PX, RATE = 96, 224, 25
PEERS = [
    "numpy==2.4.6",
    "av==18.1.0",
    "decord==0.6.0",
    "opencv-python-headless==5.0.0.93",
    "torch==2.13.0",
    "torchcodec==0.13.0",
]
FFMPEG = ["ffmpeg", "-hide_banner", "-v", "error", "-nostdin", "-y"]


@dataclass(frozen=True)
class Film:
    """A file to make, with the promised ratio to the CPU seconds of decord."""

    title: str
    size: str
    seconds: int
    keyframe_seconds: int
    promise: float
    preset: str = "veryfast"
    is_variable: bool = False

    @property
    def path(self) -> str:
        """File name in the cache folder."""
        kind = "vfr" if self.is_variable else "cfr"
        return f"{self.size}_{self.seconds}s_key{self.keyframe_seconds}s_{kind}.mp4"


FILMS = [
    Film("10 min 720p, keyframe every 1 s", "1280x720", 600, 1, 1.7),
    Film("10 min 720p, keyframe every 10 s", "1280x720", 600, 10, 2.0),
    Film("5 min 480p, variable rate, keyframe every 10 s", "854x480", 300, 10, 2.0, is_variable=True),
    Film("1 h 480p, keyframe every 1 s", "854x480", 3600, 1, 1.7, "superfast"),
    Film("1 h 480p, keyframe every 10 s", "854x480", 3600, 10, 2.0, "superfast"),
]


# ── The files ───────────────────────────────────────────────────────────────────────────────────────────────────


def draw(film: Film, path: Path) -> None:
    """Encode moving, grainy pictures with x264: 3 B-frames, keyframes only at the interval."""
    picture = f"testsrc2=s={film.size}:r={RATE}:d={film.seconds},noise=alls=12:allf=t"
    if film.is_variable:  # drop frames in bursts, so that the rate and the gaps are uneven
        picture += ",select='not(between(mod(n,50),20,33))*gt(mod(n,7),0)'"
    interval = str(film.keyframe_seconds * RATE)
    partial = path.with_suffix(".part.mp4")
    source = ["-f", "lavfi", "-i", picture, "-fps_mode", "passthrough", "-pix_fmt", "yuv420p"]
    encoder = ["-c:v", "libx264", "-preset", film.preset, "-crf", "28", "-bf", "3", "-sc_threshold", "0"]
    keyframes = ["-g", interval, "-keyint_min", interval]
    subprocess.run([*FFMPEG, *source, *encoder, *keyframes, "-movflags", "+faststart", str(partial)], check=True)
    partial.rename(path)


def wanted_indices(path: Path) -> list[int]:
    """Return the display positions of the 96 frames that are on screen at even times."""
    packets, _, time_base = first_pass(path)
    index = build_index(packets, time_base)
    times = seconds(index.frame_pts - index.frame_pts[0], index.time_base)
    end_time = float(index.end - index.frame_pts[0]) * float(time_base)
    return sample_indices(times, end_time, FrameSampling(num_frames=NUM_FRAMES), tick=float(time_base)).tolist()


def first_pass(path: Path) -> Any:
    with open_source(path, timeout=600) as opener:
        return read_packets(opener, only_first_frame=False)


def least_frames(path: Path, indices: list[int]) -> tuple[int, int]:
    """Return how many frames must be decoded from the keyframes on: all, and only reference frames."""
    packets, _, time_base = first_pass(path)
    index = build_index(packets, time_base)
    positions = index.shown[indices].tolist()
    with av.open(str(path)) as container:
        is_reference = [bool(reference_level(p)) for p in container.demux(video=0) if p.size]
    every = needed = 0
    for packet_range in plan_packet_ranges(index, positions):
        span = range(packet_range.first, packet_range.last + 1)
        every += len(span)
        needed += sum(is_reference[i] or int(index.pts[i]) in packet_range.target_pts for i in span)
    return every, needed


def reference_level(packet: av.Packet) -> int:
    """`nal_ref_idc` of the first slice in an H.264 packet with four-byte lengths; 0 if nothing refers to it."""
    data, at = memoryview(packet), 0
    while data[at + 4] & 31 not in (1, 5):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return data[at + 4] >> 5


def truth(path: Path, indices: list[int]) -> np.ndarray:
    """Return the requested frames and three on either side, `(96, 7, 224, 224, 3)`, from a cached full decode."""
    kept = path.with_suffix(".truth.npy")
    if not kept.exists():
        rows: dict[int, list[tuple[int, int]]] = {}
        for row, index in enumerate(indices):
            for column in range(7):
                rows.setdefault(index + column - 3, []).append((row, column))
        pictures = np.zeros((len(indices), 7, SIZE_PX, SIZE_PX, 3), np.uint8)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                for place in rows.get(number, ()):
                    pictures[place] = small(frame)
        np.save(kept, pictures)
    return np.load(kept)


def count_exact(pictures: np.ndarray, true: np.ndarray) -> int:
    """Return the number of frames that are nearer to the requested frame than to its neighbours."""
    distances = np.abs(pictures[:, None].astype(np.int16) - true).mean(axis=(2, 3, 4))  # (96, 7)
    return int((distances[:, 3] <= distances.min(axis=1) + 1e-9).sum())


# ── The methods: each takes a path and frame numbers and gives (96, 224, 224, 3) ──────────────────────────────────


def small(frame: av.VideoFrame) -> np.ndarray:
    return frame.reformat(SIZE_PX, SIZE_PX, "rgb24", interpolation="BILINEAR").to_ndarray()


def with_timechat(path: str, _: list[int]) -> np.ndarray:
    return load_frames(path, num_frames=NUM_FRAMES, size=SIZE_PX).pixels


def with_timechat_keyframes(path: str, _: list[int]) -> np.ndarray:
    return load_frames(path, num_frames=NUM_FRAMES, size=SIZE_PX, sampling="keyframes").pixels


def with_decord(path: str, indices: list[int]) -> np.ndarray:
    reader = decord.VideoReader(path, width=SIZE_PX, height=SIZE_PX)
    return reader.get_batch(indices).asnumpy()


def with_opencv(path: str, indices: list[int]) -> np.ndarray:
    capture, pictures = cv2.VideoCapture(path), []
    for index in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        picture = cv2.resize(capture.read()[1], (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return np.stack(pictures)


def with_torchcodec(path: str, indices: list[int]) -> np.ndarray:
    resize = torchcodec.transforms.Resize((SIZE_PX, SIZE_PX))
    decoder = torchcodec.decoders.VideoDecoder(path, dimension_order="NHWC", transforms=[resize])
    return decoder.get_frames_at(indices).data.numpy()


def with_pyav(path: str, indices: list[int]) -> np.ndarray:
    wanted, pictures = set(indices), []
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                pictures.append(small(frame))
            if len(pictures) == len(wanted):
                break
    return np.stack(pictures)


METHODS = {
    "timechat": with_timechat,
    "timechat, keyframes": with_timechat_keyframes,
    "decord 0.6.0": with_decord,
    "OpenCV 5.0.0": with_opencv,
    "torchcodec 0.13.0": with_torchcodec,
    "PyAV, start to end": with_pyav,
}
MODULES = {"decord 0.6.0": "decord", "OpenCV 5.0.0": "cv2", "torchcodec 0.13.0": "torchcodec"}


class DecodedCount(logging.Handler):
    """Log handler that stores the number of decoded frames."""

    decoded: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Store the first argument of the message."""
        if isinstance(record.args, tuple):
            self.decoded = int(str(record.args[0]))


def work(method: str, path: str, indices: list[int], out: str) -> None:
    """Run one method in this process and print its time and memory."""
    counter = DecodedCount()
    logging.getLogger("timechat.video.decoding").addHandler(counter)
    logging.getLogger("timechat.video.decoding").setLevel(logging.DEBUG)
    if method in MODULES:
        globals()[MODULES[method]] = importlib.import_module(MODULES[method])
    if method.startswith("torchcodec"):
        importlib.import_module("torchcodec.decoders")
        importlib.import_module("torchcodec.transforms")
    cpu, wall = time.process_time(), time.perf_counter()
    pictures = METHODS[method](path, indices)
    result = {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mb": peak_megabytes(),
        "decoded": counter.decoded,
    }
    np.save(out, pictures)
    print(json.dumps(result))


def peak_megabytes() -> float:
    """Return the peak memory of this process; unlike `ru_maxrss` it does not include the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ── The run ───────────────────────────────────────────────────────────────────────────────────────────────────


def peers_python(cache: Path) -> Path:
    """Return the interpreter of the peers' environment, which the first run creates."""
    python = cache / "peers" / "bin" / "python"
    if not (cache / "peers" / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / "peers")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
        (cache / "peers" / "complete").touch()
    return python


def measure(method: str, path: Path, indices: list[int], true: np.ndarray, python: Path, repeat: int) -> dict[str, Any]:
    """Return the best of several runs, each in a separate process; an error is a result too."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pictures.npy"
        command = [str(python) if method in MODULES else sys.executable, __file__]
        job = json.dumps([method, str(path), indices, str(out)])
        for _ in range(repeat):
            done = subprocess.run([*command, "--work", job], capture_output=True, text=True, check=False)
            if done.returncode:
                return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
            results.append(json.loads(done.stdout.splitlines()[-1]))
        best = min(results, key=lambda result: result["cpu_seconds"])
        pictures = np.load(out)
        best["exact"] = count_exact(pictures, true) if len(pictures) == len(true) else None
        best["frames"] = len(pictures)
    return best


def run(film: Film, cache: Path, python: Path, repeat: int) -> dict[str, Any]:
    """Run all methods on one file."""
    path = cache / film.path
    if not path.exists():
        print(f"drawing {film.title} ...", flush=True)
        draw(film, path)
    indices = wanted_indices(path)
    true = truth(path, indices)
    every, needed = least_frames(path, indices)
    report = {"film": film.title, "megabytes": path.stat().st_size / 1e6, "from_keyframes": every, "least": needed}
    subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True)  # all methods read it from the page cache
    report["methods"] = {}
    for method in METHODS:
        report["methods"][method] = result = measure(method, path, indices, true, python, repeat)
        print(film.title, "|", method, json.dumps(result), flush=True)
    return report


def table(report: dict[str, Any], film: Film) -> str:
    """Return the results of one file as Markdown, with kept and broken promises."""
    methods = report["methods"]
    decord_cpu = methods["decord 0.6.0"].get("cpu_seconds")
    lines = [
        f"### {report['film']}",
        "",
        f"{report['megabytes']:.0f} MB. There are {report['from_keyframes']} frames from each keyframe to the last "
        "wanted frame after it. Without unwanted frames that no other frame refers to there are "
        f"{report['least']}, the minimum for this file.",
        "",
        "| method | CPU s | decord / method | wall s | peak MB | frames decoded | exact |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, m in methods.items():
        if "error" in m:
            lines.append(f"| {name} | {m['error']} | | | | | |")
            continue
        exact = f"{m['exact']}/{NUM_FRAMES}" if "keyframes" not in name else f"{m['frames']} keyframes"
        ratio = f"{decord_cpu / m['cpu_seconds']:.2f}" if decord_cpu else ""
        lines.append(
            f"| {name} | {m['cpu_seconds']:.2f} | {ratio} | {m['wall_seconds']:.2f} | {m['peak_mb']:.0f} "
            f"| {m['decoded'] or ''} | {exact} |"
        )
    return "\n".join([*lines, "", *promises(report, film), ""])


def promises(report: dict[str, Any], film: Film) -> list[str]:
    """Return the promises for a file, and whether this run keeps them."""
    methods = report["methods"]
    exact = {n: m["cpu_seconds"] for n, m in methods.items() if m.get("exact") == NUM_FRAMES}
    fastest = min(exact, key=lambda name: exact[name])
    lines = [f"- fastest exact method (CPU): {fastest}"]
    if "cpu_seconds" in methods["decord 0.6.0"]:
        base = methods["decord 0.6.0"]["cpu_seconds"]
        ratio = base / methods["timechat"]["cpu_seconds"]
        lines.append(f"- {ratio:.2f} times as fast as decord; target {film.promise} ({verdict(ratio, film.promise)})")
        if film.keyframe_seconds == 10:
            ratio = base / methods["timechat, keyframes"]["cpu_seconds"]
            lines.append(f"- keyframe mode {ratio:.1f} times as fast; target 10 ({verdict(ratio, 10)})")
    return lines


def verdict(value: float, promise: float) -> str:
    return "met" if value >= promise else "MISSED"


def hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, PyAV {av.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "timechat-decode-benchmark")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/decode-benchmark.md"),
        help="output file, with a .json file beside it",
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs of each method; the best counts")
    parser.add_argument("--only", default="", help="run only files whose title contains this text")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*json.loads(options.work))
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    python = peers_python(options.cache)
    kept = options.out.with_suffix(".json")
    reports = json.loads(kept.read_text()) if options.only and kept.exists() else {}
    for film in FILMS:
        if options.only in film.title:
            reports[film.title] = run(film, options.cache, python, options.repeat)
            kept.write_text(json.dumps(reports, indent=1) + "\n")
    head = HEAD.format(frames=NUM_FRAMES, size=SIZE_PX, hardware=hardware(), date=date.today(), repeat=options.repeat)
    options.out.write_text(head + "\n".join(table(reports[f.title], f) for f in FILMS if f.title in reports))
    print(options.out.read_text())


HEAD = """# Decoding benchmark

The task is to decode {frames} frames, spread evenly, at {size}x{size}, from long H.264 files (x264, 3 B-frames).
{hardware}, {date}.

- Best of {repeat} run(s) of each method, on a machine that was doing other work too.
- Each run is a process of its own. CPU seconds are the measure to compare; wall seconds are indicative.
- "exact" counts the frames that are equal to the wanted ones, compared with a full decode.
- decord is the reader of the original. On the variable-rate file, this benchmark gives it the correct frame
  numbers, which the original does not know.
- All methods ran one after the other on a video. The videos may have run at different times (`--only`).

Made by:

    python perf/decode.py

"""

if __name__ == "__main__":
    main()
