"""Windows, as far as Linux can simulate it: without what only POSIX has, and with paths as Windows has them."""

import ast
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import timechat
from tests.clips import RECIPES, draw_clip
from timechat.files import address_from, portable_name, system, without_scheme
from timechat.serving.access import probing
from timechat.serving.access.folders import _local_path

PACKAGE = Path(timechat.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline"}
POSIX_NAMES = {
    *(
        "os.sched_getaffinity",
        "os.killpg",
        "os.setsid",
        "os.getuid",
        "os.geteuid",
        "os.getpgid",
        "os.fork",
        "os.fchmod",
    ),
    *("os.fchmod", "os.mkfifo", "os.O_NOFOLLOW", "os.O_DIRECTORY", "os.O_NONBLOCK", "os.O_CLOEXEC", "os.sysconf"),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.alarm", "socket.AF_UNIX", "ctypes.CDLL", "socket.SO_REUSEADDR"),
}

# Refuses what Windows lacks to the package's own files; libraries keep it.
WITHOUT_POSIX = f"""
import builtins, importlib, os, pkgutil, runpy, sys, types
real_import = builtins.__import__
absent = {sorted(name.partition(".")[2] for name in POSIX_NAMES if name.startswith("os."))!r}
windows_os = types.ModuleType("os")
windows_os.__dict__.update({{name: value for name, value in vars(os).items() if name not in absent}})
def refuse(name, globals=None, locals=None, fromlist=(), level=0):
    is_own = str((globals or {{}}).get("__name__", "")).split(".")[0] == "timechat"
    if is_own and level == 0 and name in {sorted(POSIX_MODULES)!r}:
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    module = real_import(name, globals, locals, fromlist, level)
    return windows_os if is_own and name == "os" and not fromlist else module
builtins.__import__ = refuse
"""


def run_without_posix(program: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program as if the system had no POSIX-only parts."""
    command = [sys.executable, "-c", WITHOUT_POSIX + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, encoding="utf-8", cwd=cwd)


def names_used(path: Path) -> set[str]:
    """Names such as `os.killpg` that a file mentions, and modules that it imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return found


def test_posix_only_parts_are_used_in_one_file():
    used = {path.relative_to(PACKAGE).as_posix(): names_used(path) for path in MODULES}
    assert {name for name, names in used.items() if names & (POSIX_MODULES | POSIX_NAMES)} == {"files/system.py"}


NEED_OTHERS = (
    *("__main__", "batch.ray_data", "vllm.engine", "vllm.processor", "vllm.processor_v2"),
    *("vllm_plugin.inputs", "vllm_plugin.loader", "vllm_plugin.model"),
)
"""Ends of the names of modules that need packages of other environments."""

VIDEOS = ("C:/clips/a.mp4", "C:\\clips\\b%20#1.mp4")


@pytest.fixture(scope="module")
def without_posix(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One process without POSIX: it imports and prints every module, then answers about two videos of its folder."""
    if sys.platform == "win32":
        pytest.skip("the file names are for a simulation")
    folder = tmp_path_factory.mktemp("windows")
    (folder / "C:/clips").mkdir(parents=True)
    draw_clip(RECIPES["constant rate"], folder / "C:/clips/a.mp4")
    (folder / "C:\\clips\\b%20#1.mp4").write_bytes((folder / "C:/clips/a.mp4").read_bytes())
    program = f"""
import timechat
for module in pkgutil.walk_packages(timechat.__path__, "timechat."):
    if not module.name.endswith({NEED_OTHERS!r}) and "harnesses" not in module.name:
        importlib.import_module(module.name)
        print(module.name)
runpy.run_module("timechat", run_name="__main__", alter_sys=True)
"""
    options = ("a light", "--num-frames", "8", "--quiet", "--output-dir", "out", "--format", "json")
    return folder, run_without_posix(program, "ground", *VIDEOS, *options, cwd=folder)


def test_every_module_is_imported_without_posix(without_posix):
    _, done = without_posix
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) > 200


def test_a_command_answers_without_posix(without_posix):
    folder, done = without_posix
    assert (done.returncode, done.stderr) == (0, "")
    written = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "out").iterdir()}
    assert {name: answer["video"] for name, answer in written.items()} == {
        "a.json": VIDEOS[0],
        "C__clips_b%20#1.json": VIDEOS[1],
    }


def test_text_files_are_opened_with_an_encoding():
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node) and "encoding" not in {k.arg for k in node.keywords}:
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert wrong == []


def _opens_text(node: ast.Call) -> bool:
    """Whether a call is `path.read_text()`, `path.write_text(...)`, or `open` with a mode of text files."""
    if not isinstance(node.func, ast.Attribute):
        return False
    modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    is_path = isinstance(node.func.value, ast.Name) and node.func.value.id in ("path", "file", "source")
    has_mode = bool(set(modes) & set("rwax")) and getattr(node.func.value, "id", "") != "av"
    is_open = node.func.attr in ("open", "fdopen") and (has_mode or (is_path and not node.args))
    return node.func.attr in ("read_text", "write_text") or is_open


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///C:/clips/a.mp4", "C:\\clips\\a.mp4"),
        ("file:///c|/clips/a.mp4", "c:\\clips\\a.mp4"),
        ("file://localhost/C:/clips/a%20b.mp4", "C:\\clips\\a b.mp4"),
        ("file://C:/clips/a.mp4", "C:\\clips\\a.mp4"),
        ("FILE:///C:/clips/%C3%A4.mp4", "C:\\clips\\ä.mp4"),
        ("file://server/clips/a.mp4", "\\\\server\\clips\\a.mp4"),
        ("C:\\clips\\a.mp4", "C:\\clips\\a.mp4"),
        ("C:/clips/a.mp4", "C:/clips/a.mp4"),
    ],
)
def test_a_path_of_windows_is_read(address, path):
    assert without_scheme(address, is_windows=True) == path


@pytest.mark.parametrize("path", ["C:\\clips\\a.mp4", "C:/clips/a.mp4", "C:/clips//a.mp4", "c:a.mp4"])
def test_a_drive_letter_is_not_a_scheme(path):
    assert without_scheme(path) == path
    assert _local_path(path) == Path(path)


def test_a_file_address_of_posix_is_read():
    assert without_scheme("file:///clips/a%25b%3A.mp4", is_windows=False) == "/clips/a%b:.mp4"
    path = Path(os.fsdecode(b"/clips/\xff.mp4"))
    assert without_scheme(path.as_uri(), is_windows=False) == str(path)


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("film 1.srt", "film 1.srt"),
        ('a:b<c>|d?e*f"g/h\\i\n.srt', "a_b_c__d_e_f_g_h_i_.srt"),
        ("con.srt", "_con.srt"),
        ("COM7", "_COM7"),
        ("console.srt", "console.srt"),
        ("ends with a dot. ", "ends with a dot"),
        ("...", "_"),
        ("Ünïcode ☃.vtt", "Ünïcode ☃.vtt"),
    ],
)
def test_names_hold_no_character_that_windows_forbids(name, portable):
    assert portable_name(name) == portable
    assert portable_name(portable) == portable


def test_a_page_names_a_file_by_a_relative_address(tmp_path):
    assert address_from(tmp_path / "a b/c#d.mp4", tmp_path / "pages") == "../a%20b/c%23d.mp4"


def test_a_page_names_a_file_on_another_drive(tmp_path, monkeypatch):
    def refuse(*_: object) -> str:
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", refuse)
    assert address_from(tmp_path / "a.mp4", tmp_path) == (tmp_path / "a.mp4").as_uri()


def test_a_child_is_read_in_a_thread_where_pipes_have_no_wait(monkeypatch):
    monkeypatch.delattr(os, "killpg", raising=False)
    assert probing.run_bounded([sys.executable, "-c", "print('done')"], 20) == f"done{os.linesep}".encode()
    assert probing.run_bounded([sys.executable, "-c", "while True: print('x' * 1000)"], 20) is None
    began = time.monotonic()
    assert probing.run_bounded([sys.executable, "-c", "import time; time.sleep(60)"], 1) is None
    assert time.monotonic() - began < 10


def test_limits_that_are_not_enforced_are_named(monkeypatch):
    assert system.missing_limits() == []
    monkeypatch.setattr(system, "resource", None)
    (note,) = system.missing_limits()
    assert note.startswith("this system cannot limit the memory of the processes that read an unknown video")
    assert system.peak_memory_bytes() is None
    system.limit_this_process(1 << 20, 1.0)  # without an effect
    assert len(bytearray(2 << 20)) == 2 << 20


def test_memory_is_unknown_where_the_system_does_not_report_it(monkeypatch):
    assert 1 << 28 < system.total_memory_bytes() < 1 << 50
    monkeypatch.delattr(os, "sysconf")
    assert system.total_memory_bytes() == 1 << 62


def test_a_port_in_use_is_not_bound_twice():
    with socket.socket() as one, socket.socket() as other:
        system.bind(one, ("127.0.0.1", 0))
        one.listen()
        with pytest.raises(OSError, match="in use"):
            system.bind(other, one.getsockname())


@pytest.mark.parametrize(
    ("before", "chosen", "expected"),
    [("", None, "PASSIVE"), ("", "ACTIVE", "ACTIVE"), ("sys.modules['torch'] = sys; ", None, None)],
)
def test_threads_sleep_while_they_wait_unless_chosen_otherwise(before, chosen, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if chosen is None else {"OMP_WAIT_POLICY": chosen}
    code = f"import os, sys; {before}import timechat; print(os.environ.get('OMP_WAIT_POLICY'))"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(expected)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these options")
@pytest.mark.parametrize(
    ("accepts_large_blocks", "variables", "options"),
    [
        (True, {}, [(-3, 1 << 29), (-1, 1 << 29)]),
        (False, {}, [(-3, 1 << 29)]),
        (True, {"MALLOC_TRIM_THRESHOLD_": "131072"}, []),
        (True, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, []),
    ],
)
def test_freed_memory_is_kept_unless_the_user_chose(accepts_large_blocks, variables, options, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    called: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        called.append((option, value))
        return int(accepts_large_blocks)

    monkeypatch.setattr(system.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    system.keep_freed_memory()
    assert called == options
