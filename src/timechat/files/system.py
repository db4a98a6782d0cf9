"""The machine and its processes: the only file that uses parts that POSIX has and Windows does not.

Each function has a portable alternative, or does nothing where a limit cannot be enforced; `missing_limits` names such
limits. Linux is tested. Windows is only simulated: `tests/files/test_system.py` refuses the POSIX-only parts.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from types import ModuleType
from typing import IO, Any

fcntl: ModuleType | None
resource: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None
try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

_IS_WINDOWS = sys.platform == "win32"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_KEPT_BYTES = 1 << 29
_INHERITED_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


# ── the machine ─────────────────────────────────────────────────────────────────────────────────────────────────


def num_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int | None:
    """Return the peak memory of this process so far, in bytes; None if the system does not report it."""
    if resource is None:
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory_bytes() -> int:
    """Return the memory of the machine in bytes; a very large number if the system does not report it."""
    if sys.platform == "win32":
        status = _MemoryStatus()
        status.dwLength = ctypes.sizeof(status)
        is_known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.ullTotalPhys) if is_known else 1 << 62
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 62


def available_memory_bytes() -> int:
    """Return the memory that a new program can use without swapping, in bytes.

    Where the system does not report it, this is the memory of the machine. A limit of a container counts.
    """
    if sys.platform == "win32":
        status = _MemoryStatus()
        status.dwLength = ctypes.sizeof(status)
        is_known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.ullAvailPhys) if is_known else 1 << 62
    available = total_memory_bytes()
    with suppress(OSError, ValueError, StopIteration, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        available = min(available, limit - int((group / "memory.current").read_text(encoding="ascii")))
    return max(0, available)


class _MemoryStatus(ctypes.Structure):
    """`MEMORYSTATUSEX` of Windows."""

    _fields_ = (
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 5),
    )


def share_freed_memory() -> None:
    """Let threads share freed memory: otherwise glibc keeps one heap per thread, and a server grows."""
    _set_malloc_option(_M_ARENA_MAX, 2)


def keep_freed_memory() -> None:
    """Let this process keep up to 512 MiB of freed memory per heap of `malloc` for its next tensors.

    By default, glibc returns each large block to the system, which clears it again for the next tensor. That is about
    8 % of the CPU time of a vision tower. Variables of the environment such as `MALLOC_TRIM_THRESHOLD_` have priority.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    # Old versions of glibc refuse so large a block. Then the other option alone would make allocation slower.
    if _set_malloc_option(_M_MMAP_THRESHOLD, _KEPT_BYTES):
        _set_malloc_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _set_malloc_option(option: int, value: int) -> bool:
    """Set an option of glibc's `malloc`; return False if the system refuses or does not have it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(option, value))


def return_freed_memory() -> None:
    """Give memory that this process has freed back to the system, where glibc would keep it."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)


def let_idle_threads_sleep() -> None:
    """Let the threads of torch sleep while they wait for work, unless the user chose otherwise or torch is loaded.

    OpenMP's default is to wait in a loop. Beside other busy processes that costs several times the work itself.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def open_without_waiting(path: str | Path) -> int:
    """Open a file for reading; return its descriptor. A named pipe without a writer is opened at once."""
    extra = ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")  # each exists on some systems only
    return os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in extra))


def flush_to_disk(path: Path) -> None:
    """Wait until a file or a folder is written to the disk; Windows cannot do this for a folder."""
    if _IS_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def only_for_owner(folder: Path) -> None:
    """Let only its owner open a folder; Windows keeps its own permissions, and so does the folder of another user."""
    if not _IS_WINDOWS:
        with suppress(PermissionError):
            folder.chmod(0o700)


def lock_file(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; return False if another process has locked it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


# ── the network ─────────────────────────────────────────────────────────────────────────────────────────────────


def bind(listener: socket.socket, address: tuple[str, int]) -> None:
    """Bind a socket to a port that no other process listens on.

    Windows shares a port by `SO_REUSEADDR`; POSIX systems only reuse the port of a process that has ended.
    """
    option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind(address)


# ── processes of torchrun ───────────────────────────────────────────────────────────────────────────────────────


def launched_processes() -> int:
    """Return the number of processes that `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """Return the number of this process among those that `torchrun` has started, from 0; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the number of this process among those that `torchrun` has started on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_processes() -> int:
    """Return the number of processes that `torchrun` has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


# ── processes with limits ───────────────────────────────────────────────────────────────────────────────────────


def missing_limits() -> list[str]:
    """Return the limits of processes that this system cannot enforce."""
    if resource is not None:
        return []
    return [
        "this system cannot limit the memory of the processes that read an unknown video or compile a JSON schema, nor "
        "the files that they open; only their time is limited"
    ]


def module_command(module: str) -> list[str]:
    """Return the command that runs a module of this package with the Python of this process."""
    # -P: import nothing from the working directory; -B: write no files
    return [sys.executable, "-P", "-B", "-m", module]


def start_group(command: list[str], *, has_input: bool = False) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, with an almost empty environment; its standard output is a pipe.

    Args:
        command: Program and arguments.
        has_input: Whether its standard input is a pipe; otherwise it has no input.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=child_environment(),
        start_new_session=True,  # Windows ignores it
    )


def child_environment() -> dict[str, str]:
    """Return the few variables that Python needs to find the same packages."""
    paths = [str(Path(path).absolute()) for path in sys.path if path]
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "MALLOC_ARENA_MAX": "2",  # else every thread of a decoder reserves 64 MB of the address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and all processes of its group; Windows kills the program only."""
    # Kill the group before waiting for its leader: until then no other group can have its number.
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def read_pipe_until(pipe: IO[bytes], ends: float, max_bytes: int, *, is_line: bool = False) -> bytes | None:
    """Read a pipe until its other end is closed, or one line of it.

    Args:
        pipe: Pipe from another process.
        ends: Time limit, on the clock of `time.monotonic`.
        max_bytes: Maximum number of bytes.
        is_line: Whether to stop after a line; nothing may follow it.

    Returns:
        The bytes; None if there are more, or if the time limit has passed.
    """
    if not hasattr(os, "killpg"):  # Windows, which cannot wait for a pipe
        return _read_in_thread(pipe, ends, max_bytes, is_line=is_line)
    written = b""
    with DefaultSelector() as selector:
        selector.register(pipe, EVENT_READ)
        while len(written) <= max_bytes:
            if not selector.select(max(0.0, ends - time.monotonic())):
                return None
            chunk = os.read(pipe.fileno(), max_bytes)
            written += chunk
            if not chunk or (is_line and written.endswith(b"\n")):
                return written
    return None


def _read_in_thread(pipe: IO[bytes], ends: float, max_bytes: int, *, is_line: bool) -> bytes | None:
    """Read a pipe in a thread, which ends when the writer is killed."""
    written: list[bytes] = []

    def read() -> None:
        written.append(pipe.readline(max_bytes + 1) if is_line else pipe.read(max_bytes + 1))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(max(0.0, ends - time.monotonic()))
    return written[0] if written and len(written[0]) <= max_bytes else None


def limit_this_process(memory_bytes: int, seconds: float | None = None) -> None:
    """Limit the memory of this process permanently, the size of its files to 0, and, if given, its time."""
    if resource is not None:
        if seconds is not None:
            _lower(resource.RLIMIT_CPU, math.ceil(seconds) + 1)
        _lower(resource.RLIMIT_FSIZE, 0)
        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_AS, memory_bytes)
    if seconds is not None:
        end_this_process_after(seconds)


def end_this_process_after(seconds: float | None) -> None:
    """Let the kernel end this process some time after a limit, even if its parent has ended; None stops the timer."""
    if hasattr(signal, "alarm"):
        signal.alarm(0 if seconds is None else math.ceil(seconds) + 5)


def forbid_opening_files() -> None:
    """Let the kernel refuse every new file, socket and pipe of this process; open ones stay open."""
    if resource is not None:
        _lower(resource.RLIMIT_NOFILE, 0)


def _lower(kind: int, limit: int) -> None:
    """Set a limit permanently; macOS does not support all of them."""
    assert resource is not None
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (limit, limit))
