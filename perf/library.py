"""Measure a library: speed of indexing, memory, a query over 100 hours, and interruption.

    python perf/library.py speed VIDEO... --json FILE
    python perf/library.py query --hours 100
    python perf/library.py kill FOLDER --kills 30

`speed` encodes each video alone, with one thread, and prints seconds of video per CPU second, decoding included, and
the bytes of its rows per hour. `--repeat` joins a video to itself first, so that memory can be compared at several
lengths. `query` fills a library with random vectors and searches it. `kill` indexes a folder while the process gets
SIGKILL at random moments, and compares the finished library with one that was not disturbed. With `--write-every` it
shows that a long video is resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--seed", type=int, default=0)
    commands = parser.add_subparsers(required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("videos", nargs="+", type=Path)
    speed.add_argument("--repeat", type=int, default=1, help="number of copies that are joined")
    speed.add_argument("--height", type=int, help="join all videos into one H.264 file of this height first")
    speed.add_argument("--keyint", type=int, default=250, help="maximum distance of its keyframes in frames")
    speed.add_argument("--torch", action="store_true", help="use torch even if ONNX Runtime is installed")
    speed.set_defaults(run=measure_speed)
    query = commands.add_parser("query")
    query.add_argument("--hours", type=float, default=100.0)
    query.add_argument("--video-hours", type=float, default=1.0, help="length of each video")
    query.set_defaults(run=measure_query)
    kill = commands.add_parser("kill")
    kill.add_argument("folder", type=Path)
    kill.add_argument("--kills", type=int, default=30)
    kill.add_argument("--write-every", type=float, default=30.0, help="seconds between two writes of a long video")
    kill.add_argument("--keep", action="store_true", help="never remove the library between two kills")
    kill.set_defaults(run=measure_kill)
    options = parser.parse_args()
    result = options.run(options)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from timechat.files.system import peak_memory_bytes
    from timechat.search.sight import SightEncoder
    from timechat.search.video_vectors import encode_video
    from timechat.video import VideoReader

    torch.set_num_threads(1)
    encoder = SightEncoder.load(uses_onnx=not options.torch)
    rows = {}
    videos = [_encoded(options.videos, options.height, options.keyint)] if options.height else options.videos
    for path in videos:
        source = path if options.repeat == 1 else _joined(path, options.repeat)
        with VideoReader(source, workers=1) as reader:
            start = time.process_time()
            for _ in reader.iterate(fps=1.0, size=encoder.image_size):
                pass
            decoding = time.process_time() - start
            info = reader.info
        start = time.process_time()
        video = encode_video(source, encoder)
        seconds = time.process_time() - start
        rows[path.name] = {
            "codec": info.codec,
            "size": f"{info.width}x{info.height}",
            "fps": info.fps,
            "seconds": video.duration,
            "times_real_time": video.duration / seconds,
            "times_real_time_decoding": video.duration / decoding,
            "bytes_per_hour": video.vectors.nbytes / video.duration * 3600,
            "peak_memory_mib": (peak_memory_bytes() or 0) / 2**20,
        }
    return rows


def _encoded(paths: list[Path], height: int, keyint: int) -> Path:
    """Return the path of an H.264 video with the frames of all videos at 25 per second, 16:9."""
    import av

    target = Path(tempfile.mkdtemp(prefix="timechat-library-")) / f"{height}p.mp4"
    number = 0
    with av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "medium", "g": str(keyint)})
        stream.height, stream.width, stream.pix_fmt = height, height * 16 // 9 // 2 * 2, "yuv420p"
        for path in paths:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    small = frame.reformat(stream.width, stream.height, "yuv420p")
                    small.pts, small.time_base = number, Fraction(1, 25)
                    output.mux(stream.encode(small))
                    number += 1
        output.mux(stream.encode(None))
    return target


def _joined(path: Path, copies: int) -> Path:
    """Return the path of a file that shows a video several times, without encoding it again."""
    import av

    target = Path(tempfile.mkdtemp(prefix="timechat-library-")) / f"joined{path.suffix}"
    with av.open(str(target), "w") as output:
        stream, shift = None, 0
        for _ in range(copies):
            with av.open(str(path)) as container:
                source = container.streams.video[0]
                stream = stream or output.add_stream_from_template(source)
                end = 0
                for packet in container.demux(source):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(packet)
                shift += end
    return target


def measure_query(options: argparse.Namespace) -> dict[str, Any]:
    from timechat.search import Library
    from timechat.search.records import KnownFile, KnownVideo
    from timechat.search.video_vectors import VideoVectors

    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder, Library(Path(folder) / "library.db") as library:
        encoder = library.encoder()
        library.set(encoder=encoder.name, encoder_fingerprint=encoder.fingerprint)
        frames = int(options.video_hours * 3600)
        for number in range(round(options.hours / options.video_hours)):
            content = KnownVideo(0, f"{number:064}", float(frames), (480, 640), None, 0.0)
            video = library.add_file(KnownFile(f"/videos/{number}.mp4", None, None, 0.0), content)
            vectors = np.abs(generator.standard_normal((frames, encoder.dimension), np.float32)).astype(np.float16)
            vectors[:, -1] = 1.0
            cuts = tuple(range(10, frames, 10))
            rows = VideoVectors(
                np.arange(frames, dtype=np.float64),
                vectors,
                float(frames),
                cuts,
                np.array(cuts) - 0.5,
                encoder.statistics(vectors[:64].astype(np.float32)),
            )
            library.save_frames(video, rows, {"encoder": encoder.fingerprint})
        times = []
        for number in range(12):
            start = time.perf_counter()
            library.search(f"a red car number {number}")
            times.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        encoder.encode_sentence("a red car on a road")
        return {
            "hours": options.hours,
            "file_bytes": sum(path.stat().st_size for path in Path(folder).iterdir()),
            "first_query_ms": times[0],
            "median_query_ms": statistics.median(times[2:]),
            "encoding_the_words_ms": 1000 * (time.perf_counter() - start),
        }


def measure_kill(options: argparse.Namespace) -> dict[str, Any]:
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole.db", Path(folder) / "killed.db"
        start = time.perf_counter()
        _index(options, whole).wait()
        seconds = time.perf_counter() - start
        num_kills = 0
        for _ in range(options.kills):
            process = _index(options, killed)
            try:
                process.wait(seconds * (generator.uniform(0.2, 0.4) if options.keep else generator.uniform(0.3, 1.0)))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                num_kills += 1
            if generator.random() < 0.3 and not options.keep:  # a finished library would not be disturbed any more
                killed.unlink(missing_ok=True)
        start = time.perf_counter()
        last = _index(options, killed).wait()
        return {
            "kills": num_kills,
            "exit_status": last,
            "is_equal": _content(whole) == _content(killed),
            "seconds_undisturbed": seconds,
            "seconds_of_the_last_run": time.perf_counter() - start,
        }


def _index(options: argparse.Namespace, library: Path) -> subprocess.Popen[bytes]:
    code = (
        "import runpy, timechat.search.unfinished as unfinished; "
        f"unfinished._SECONDS_BETWEEN_WRITES = {options.write_every}; runpy.run_module('timechat', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "index", str(options.folder), "--library", str(library), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _content(path: Path) -> list[Any]:
    from timechat.search import Library

    rows: list[Any] = []
    with Library(path, is_read_only=True) as library:
        for file in library.files():
            frames = library.frames(file.video) if file.video else None
            blobs = None if frames is None else (frames.times.tobytes(), frames.vectors.tobytes(), frames.cuts)
            lines = [(line.kind, line.event) for line in library.lines() if line.video == file.video]
            rows.append((file.path, file.error, blobs, lines))
    return rows


if __name__ == "__main__":
    main()
