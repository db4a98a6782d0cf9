"""Large videos and large uploads: the effect of size on time and memory.

A video of 2 GB in a folder of the server is read by `Range` at random positions, and one of 2 MB in the same run; then
1 GB is uploaded, generated during the upload, while the script polls the server's memory and its `/health`.

    PYTHONPATH=src python perf/large_files.py [--film 2e9] [--upload 1e9] [--requests 300]

The files are valid videos: a short one and an empty `free` box of the required size. The result is JSON on stdout; the
exit status is 1 if memory grew by more than 50 MB or a large video is more than 1.5 times as slow.
"""

import argparse
import json
import random
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from running_server import RunningServer
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video

MOST_GROWTH_MB = 50.0
MOST_RATIO = 1.5
SMALL_FILM = 2_000_000
PART = 65_536  # bytes per Range
BLOCK = 1 << 20


def free_box(size: int) -> bytes:
    """Return the header of a box of a given size in bytes that players skip (ISO 14496-12, 8.1.2)."""
    return struct.pack(">I4sQ", 1, b"free", size)


def make_large(short: Path, path: Path, size: int) -> None:
    """Write a sparse video file of a given size in bytes."""
    content = short.read_bytes()
    with path.open("wb") as file:
        file.write(content + free_box(size - len(content)))
        file.truncate(size)


def first_bytes(server: RunningServer, film: str, size: int, requests: int, rng: random.Random) -> list[float]:
    """Return the seconds to the first byte of parts at random positions, over one HTTP/1.1 connection."""
    connection = HTTPConnection(*server.address, timeout=60)
    seconds = []
    for _ in range(requests):
        start = rng.randrange(size - PART)
        began = time.perf_counter()
        connection.request("GET", f"/v1/files/{film}/content", headers={"Range": f"bytes={start}-{start + PART - 1}"})
        response = connection.getresponse()
        first = response.read(1)
        seconds.append(time.perf_counter() - began)
        rest = response.read()
        assert response.status == 206, response.status
        assert len(first + rest) == PART
        assert response.headers["Content-Range"] == f"bytes {start}-{start + PART - 1}/{size}"
    connection.close()
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 95th percentile and maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=20)
    figures = {"median_ms": statistics.median(seconds), "p95_ms": cuts[18], "most_ms": max(seconds)}
    return {name: round(value * 1000, 2) for name, value in figures.items()}


def measure_ranges(server: RunningServer, sizes: dict[str, int], requests: int) -> dict[str, Any]:
    """Measure the time to the first byte of each video, in turns."""
    films = {file["filename"]: file["id"] for file in server.ask("GET", "/v1/files")[1]["data"]}
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    for turn in range(11):
        for name, size in sizes.items():
            told = first_bytes(server, films[name], size, max(1, requests // 10), random.Random(turn))
            seconds[name] += told if turn else []  # in the first turn the server probes the video
    large, small = (spread(seconds[name]) for name in sizes)
    ratios = {name.replace("_ms", ""): round(large[name] / small[name], 2) for name in ("median_ms", "p95_ms")}
    return {"large": large, "small": small, "ratio": ratios, "requests": len(seconds["large.mp4"])}


def upload_pieces(short: Path, size: int) -> Iterator[bytes]:
    """Yield a form with a video of a given size in bytes, in parts."""
    content = short.read_bytes()
    yield b'--XX\r\nContent-Disposition: form-data; name="file"; filename="large.mp4"\r\n\r\n'
    yield content + free_box(size - len(content))
    left, block = size - len(content) - 16, bytes(BLOCK)
    while left > 0:
        yield block[: min(left, BLOCK)]
        left -= BLOCK
    yield b"\r\n--XX--\r\n"


def ask_health(server: RunningServer, ended: threading.Event, seconds: list[float], memory: list[int]) -> None:
    """Poll the health and the memory of the server until the upload has ended."""
    while not ended.wait(0.05):
        began = time.perf_counter()
        status, _ = server.ask("GET", "/health")
        seconds.append(time.perf_counter() - began)
        memory.append(server.usage.memory)
        assert status == 200


def measure_upload(server: RunningServer, short: Path, size: int) -> dict[str, Any]:
    """Upload a video of a given size in bytes and measure the effect on the server."""
    upload(server, short, 20_000_000)  # load everything that any upload needs
    idle: list[float] = []
    memory: list[int] = []
    rest = threading.Event()
    threading.Timer(3, rest.set).start()
    ask_health(server, rest, idle, memory)
    before = statistics.median(memory)
    busy: list[float] = []
    memory = []
    ended = threading.Event()
    asking = threading.Thread(target=ask_health, args=(server, ended, busy, memory))
    asking.start()
    began = time.perf_counter()
    told = upload(server, short, size)
    seconds = time.perf_counter() - began
    ended.set()
    asking.join()
    return {
        "bytes": told,
        "seconds": round(seconds, 1),
        "mb_per_second": round(size / 1e6 / seconds, 1),
        "memory_before_mb": round(before / 1e6, 1),
        "growth_mb": round((max(memory) - before) / 1e6, 1),
        "looks": len(memory),
        "health_meanwhile": spread(busy),
        "health_idle": spread(idle),
    }


def upload(server: RunningServer, short: Path, size: int) -> int:
    """Upload a video and remove it; return its size as the server reports it."""
    length = sum(len(piece) for piece in upload_pieces(short, len(short.read_bytes()) + 16))
    length += size - len(short.read_bytes()) - 16
    connection = HTTPConnection(*server.address, timeout=300)
    headers = {"Content-Type": "multipart/form-data; boundary=XX", "Content-Length": str(length)}
    connection.request("POST", "/v1/files", upload_pieces(short, size), headers)
    response = connection.getresponse()
    told = json.loads(response.read())
    assert response.status == 200, told
    connection.close()
    server.ask("DELETE", f"/v1/files/{told['id']}")
    return int(told["bytes"])


def main() -> int:
    """Measure and print; the exit status shows whether size costs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=float, default=2e9, help="size of the large video in bytes")
    parser.add_argument("--upload", type=float, default=1e9, help="size of the upload in bytes")
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        folder = Path(name)
        library = folder / "library"
        library.mkdir()
        short = folder / "short.mp4"
        write_video(write_scene(0, 0, level=1), short)
        sizes = {"large.mp4": int(given.film), "small.mp4": SMALL_FILM}
        for film, size in sizes.items():
            make_large(short, library / film, size)
        with RunningServer(folder / "data", library, cache=folder / "cache") as server:
            ranges = measure_ranges(server, sizes, given.requests)
            told = measure_upload(server, short, int(given.upload))
    promises = {
        "a part of a large film comes as soon as one of a small film": ranges["ratio"]["median"] <= MOST_RATIO,
        "an upload takes no memory": told["growth_mb"] <= MOST_GROWTH_MB,
        "the upload arrives whole": told["bytes"] == int(given.upload),
    }
    print(json.dumps({"film_bytes": int(given.film), "ranges": ranges, "upload": told, "promises": promises}, indent=1))
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
