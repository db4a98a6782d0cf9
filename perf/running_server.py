"""`timechat serve` in a separate process, for benchmarks that measure it from outside (Linux)."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Usage:
    """Resources of a process: bytes of memory, descriptors, threads, child processes."""

    memory: int
    descriptors: int
    threads: int
    children: int


class RunningServer:
    """A server on loopback; a context manager that stops it.

    Attributes:
        log: Output of the server so far.
    """

    def __init__(self, data: Path, library: Path, *options: str, cache: Path) -> None:
        """Start a server and wait until it answers.

        Args:
            data: Folder of uploads and jobs.
            library: Folder of videos that the server may open.
            options: Other options of `timechat serve`.
            cache: Folder of the cache.
        """
        command = [sys.executable, "-m", "timechat", "serve", "--port", "0", "--data", str(data)]
        self._process = subprocess.Popen(
            [*command, "--allow", str(library), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={"OMP_NUM_THREADS": "1", **os.environ, "TIMECHAT_CACHE": str(cache)},
        )
        self.log: list[str] = []
        self._is_up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._is_up.wait(120)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", "".join(self.log))
        if found is None:
            self.kill()
            raise RuntimeError(f"the server did not start: {''.join(self.log)[-2000:]}")
        self.address = ("127.0.0.1", int(found[1]))

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if line.startswith("timechat serve: http"):
                self._is_up.set()
        self._is_up.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill()

    def kill(self) -> None:
        """Kill the server at once, like a power failure."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5)

    @property
    def is_alive(self) -> bool:
        """Return whether the server is running."""
        return self._process.poll() is None

    @property
    def usage(self) -> Usage:
        """Return its resources now."""
        process = Path(f"/proc/{self._process.pid}")
        pages = int((process / "statm").read_text().split()[1])
        children = 0
        for task in process.glob("task/*/children"):
            with suppress(OSError):  # the thread has ended in the meantime
                children += len(task.read_text().split())
        return Usage(
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(list((process / "fd").iterdir())),
            len(list((process / "task").iterdir())),
            children,
        )

    def connect(self, timeout: float = 60.0) -> socket.socket:
        """Return a connection to the server."""
        return socket.create_connection(self.address, timeout=timeout)

    def ask(self, method: str, target: str, body: Any = None, timeout: float = 120.0) -> tuple[int, Any]:
        """Send a correct request; return status and JSON, or text if the response is not JSON."""
        connection = HTTPConnection(*self.address, timeout=timeout)
        content = None if body is None else json.dumps(body)
        try:
            connection.request(method, target, content, {"Content-Type": "application/json"} if content else {})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def gauges(self) -> dict[str, float]:
        """Return the metrics without labels."""
        text = self.ask("GET", "/metrics")[1]
        return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}

    def waits_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Poll a condition until it holds or a time in seconds has passed."""
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True

    @property
    def host(self) -> str:
        """Host and port, as in the header `Host`."""
        return f"{self.address[0]}:{self.address[1]}"
