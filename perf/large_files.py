"""Large films and large uploads: does their size cost time or memory?

A film of 2 GB in a folder of the server is read by `Range` at random places, beside one of 2 MB in the same run; then
1 GB is uploaded, made as it is sent, while the server's memory is looked at and its `/health` is asked.

    PYTHONPATH=src python perf/large_files.py [--film 2e9] [--upload 1e9] [--requests 300]

The files are valid films: a short one and a `free` box, as large as it must be and full of nothing. The result is JSON
on stdout; the exit status is 1 where memory grew by more than 50 MB, or a large film is more than 1.5 times as slow.
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
PART = 65_536  # bytes of each Range
BLOCK = 1 << 20


def free_box(size: int) -> bytes:
    """The head of a box of so many bytes that players pass over (ISO 14496-12, 8.1.2)."""
    return struct.pack(">I4sQ", 1, b"free", size)


def make_large(short: Path, path: Path, size: int) -> None:
    """Write a film of so many bytes; the disk holds little of it."""
    content = short.read_bytes()
    with path.open("wb") as file:
        file.write(content + free_box(size - len(content)))
        file.truncate(size)


def first_bytes(server: RunningServer, film: str, size: int, requests: int, rng: random.Random) -> list[float]:
    """Seconds to the first byte of parts at random places, all over one HTTP/1.1 connection."""
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
    """Median, 95th percentile and most, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=20)
    figures = {"median_ms": statistics.median(seconds), "p95_ms": cuts[18], "most_ms": max(seconds)}
    return {name: round(value * 1000, 2) for name, value in figures.items()}


def measure_ranges(server: RunningServer, sizes: dict[str, int], requests: int) -> dict[str, Any]:
    """Time to the first byte of each film, turn by turn."""
    films = {file["filename"]: file["id"] for file in server.ask("GET", "/v1/files")[1]["data"]}
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    for turn in range(11):
        for name, size in sizes.items():
            told = first_bytes(server, films[name], size, max(1, requests // 10), random.Random(turn))
            seconds[name] += told if turn else []  # the first turn finds out what the film is
    large, small = (spread(seconds[name]) for name in sizes)
    ratios = {name.replace("_ms", ""): round(large[name] / small[name], 2) for name in ("median_ms", "p95_ms")}
    return {"large": large, "small": small, "ratio": ratios, "requests": len(seconds["large.mp4"])}


def upload_pieces(short: Path, size: int) -> Iterator[bytes]:
    """A form with a film of so many bytes, piece by piece."""
    content = short.read_bytes()
    yield b'--XX\r\nContent-Disposition: form-data; name="file"; filename="large.mp4"\r\n\r\n'
    yield content + free_box(size - len(content))
    left, block = size - len(content) - 16, bytes(BLOCK)
    while left > 0:
        yield block[: min(left, BLOCK)]
        left -= BLOCK
    yield b"\r\n--XX--\r\n"


def ask_health(server: RunningServer, ended: threading.Event, seconds: list[float], memory: list[int]) -> None:
    """Ask whether the server lives, and look at its memory, until the upload has ended."""
    while not ended.wait(0.05):
        began = time.perf_counter()
        status, _ = server.ask("GET", "/health")
        seconds.append(time.perf_counter() - began)
        memory.append(server.usage.memory)
        assert status == 200


def measure_upload(server: RunningServer, short: Path, size: int) -> dict[str, Any]:
    """Upload a film of so many bytes, and see what that does to the server."""
    upload(server, short, 20_000_000)  # what an upload needs at all is loaded
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
    """Upload a film and remove it; its bytes as the server tells them."""
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
    """Measure, print, and tell by the exit status whether size costs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=float, default=2e9, help="bytes of the large film")
    parser.add_argument("--upload", type=float, default=1e9, help="bytes of the upload")
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
