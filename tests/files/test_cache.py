"""The disk cache: complete files within a limit, with concurrent and killed processes."""

import errno
import io
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.cli import main
from timechat.files import cache as cache_module
from timechat.files.cache import DEFAULT_MAX_BYTES, DiskCache, cache_key, file_digest, parse_size


@pytest.fixture
def disk(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache", max_bytes=1000)


def key(number: int) -> str:
    return cache_key(number=number)


def put(disk: DiskCache, number: int, size: int = 300) -> str:
    disk.put(key(number), lambda path: path.write_bytes(bytes([number]) * size))
    return key(number)


def stored_numbers(disk: DiskCache) -> set[int]:
    return {number for number in range(256) if (disk.folder / key(number)[:2] / key(number)).exists()}


def total_bytes(disk: DiskCache) -> int:
    return sum(entry.num_bytes for entry in disk.entries())


def age(disk: DiskCache, number: int, seconds: float) -> None:
    """Set the last use of an entry to some seconds ago."""
    then = time.time() - seconds
    os.utime(disk.folder / key(number)[:2] / key(number), (then, then))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------------------ put and get


def test_an_entry_is_found_by_another_cache_of_the_folder(disk):
    assert disk.get(key(1)) is None
    put(disk, 1)
    found = DiskCache(disk.folder, max_bytes=1000).get(key(1))
    assert found.read_bytes() == bytes([1]) * 300
    assert total_bytes(disk) == 300


def test_storing_a_key_again_replaces_its_file(disk):
    put(disk, 1)
    disk.put(key(1), lambda path: path.write_bytes(b"new"))
    assert disk.get(key(1)).read_bytes() == b"new"
    assert len(files(disk.folder)) == 1


def test_an_entry_can_be_discarded_twice(disk):
    put(disk, 1)
    disk.discard(key(1))
    disk.discard(key(1))
    assert disk.get(key(1)) is None


def test_a_failed_write_leaves_no_file_and_raises(disk):
    def write(path):
        path.write_bytes(b"half")
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        disk.put(key(1), write)
    assert files(disk.folder) == []


def test_an_invalid_key_is_refused(disk):
    with pytest.raises(ValueError, match=r"key must be 64 hexadecimal digits, got '\.\./x'"):
        disk.get("../x")


# ------------------------------------------------------------------------------------------------- the limit


def test_the_least_recently_used_entry_is_evicted(disk):
    for number in (1, 2, 3):
        put(disk, number)
        age(disk, number, 100 - number)
    disk.get(key(1))
    put(disk, 4)
    assert stored_numbers(disk) == {1, 3, 4}
    assert total_bytes(disk) <= disk.max_bytes


def test_entries_are_listed_from_the_least_recently_used_to_the_last(disk):
    for number, seconds in ((1, 10), (2, 30), (3, 20)):
        put(disk, number, size=100 * number)
        age(disk, number, seconds)
    assert [entry.num_bytes for entry in disk.entries()] == [200, 300, 100]


def test_the_new_entry_stays_even_if_others_seem_newer(disk):
    for number in (1, 2, 3):
        put(disk, number)
        age(disk, number, -1000)  # by the clock of another machine
    put(disk, 4, size=800)
    assert stored_numbers(disk) == {4}


def test_an_entry_above_the_limit_is_not_stored(disk, caplog):
    put(disk, 1)
    put(disk, 2, size=1001)
    assert stored_numbers(disk) == {1}
    assert "1001 bytes are more than its limit of 1000" in caplog.text


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 400)), max_size=30))
def test_one_process_never_exceeds_the_limit(tmp_path_factory, puts):
    disk = DiskCache(tmp_path_factory.mktemp("cache"), max_bytes=1000)
    for number, size in puts:
        put(disk, number, size)
        assert total_bytes(disk) <= 1000
        assert disk.get(key(number)).stat().st_size == size


def test_two_writers_of_one_folder_keep_to_the_limit(tmp_path):
    writers = [DiskCache(tmp_path, max_bytes=50_000) for _ in range(2)]
    for number in range(200):
        put(writers[number % 2], number, size=1000)
        assert total_bytes(writers[0]) <= 50_000


def test_an_entry_that_another_process_has_removed_counts_as_removed(disk, monkeypatch):
    for number in (1, 2, 3):
        put(disk, number)
        age(disk, number, 100 - number)
    listed = disk.entries()
    monkeypatch.setattr(DiskCache, "entries", lambda _: listed)
    disk.discard(key(1))
    disk.prune(600)
    assert stored_numbers(disk) == {2, 3}


def test_a_cache_far_from_full_is_not_scanned_each_time(tmp_path, monkeypatch):
    disk = DiskCache(tmp_path, max_bytes=1_000_000)
    looks = []
    monkeypatch.setattr(DiskCache, "entries", lambda self, entries=DiskCache.entries: looks.append(1) or entries(self))
    for number in range(100):
        put(disk, number)
    assert len(looks) == 1


def test_an_entry_used_during_an_eviction_stays(disk, monkeypatch):
    for number in (1, 2, 3):
        put(disk, number)
        age(disk, number, 100 - number)
    listed = disk.entries()
    monkeypatch.setattr(DiskCache, "entries", lambda _: listed)  # as listed before the first was used again
    disk.get(key(1))
    disk.prune(300)
    assert stored_numbers(disk) == {1}


def test_pruning_and_clearing_keep_other_files(disk):
    for number in (1, 2, 3):
        put(disk, number)
        age(disk, number, 100 - number)
    foreign = [disk.folder / "notes.txt", disk.folder / "ab" / "notes.txt", disk.folder / "models" / key(9)]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert [entry.key for entry in disk.prune(600)] == [key(1)]
    assert {entry.key for entry in disk.clear()} == {key(2), key(3)}
    assert sorted(files(disk.folder)) == sorted(foreign)


# ------------------------------------------------------------------------------------- several processes, kills


def keep_putting(folder: Path, seed: int, rounds: int) -> None:
    disk = DiskCache(folder, max_bytes=20_000)
    for i in range(rounds):
        number = (seed * 7 + i * (seed + 1)) % 40
        path = disk.get(key(number))
        if path is not None:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            assert content == bytes([number]) * (1000 + number)
        put(disk, number, 1000 + number)


def test_concurrent_processes_leave_only_complete_entries(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=keep_putting, args=(tmp_path, seed, 300)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    entries = DiskCache(tmp_path, max_bytes=20_000).entries()
    assert 10 < len(entries) == len(files(tmp_path))
    sizes = {key(number): 1000 + number for number in range(40)}
    assert all(entry.num_bytes == sizes[entry.key] for entry in entries)
    assert sum(entry.num_bytes for entry in entries) <= 20_000 + 1040


KILLED_WRITER = """
import sys, time
from timechat.files.cache import DiskCache, cache_key
def write(path):
    path.write_bytes(b"half of it")
    print("writing", flush=True)
    time.sleep(60)
DiskCache(sys.argv[1], max_bytes=1000).put(cache_key(number=1), write)
"""


def test_a_killed_write_leaves_no_entry_and_is_cleaned_up(disk):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED_WRITER, str(disk.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    (unfinished,) = files(disk.folder)
    assert disk.get(key(1)) is None
    assert disk.entries() == []
    put(disk, 2)
    assert unfinished.exists()  # it may belong to a process that is still writing
    long_ago = time.time() - 2 * 3600
    os.utime(unfinished, (long_ago, long_ago))
    put(DiskCache(disk.folder, max_bytes=1000), 3)
    assert not unfinished.exists()
    assert stored_numbers(disk) == {2, 3}


def test_a_folder_removed_during_a_write_is_no_error(disk, caplog):
    def write(path):
        path.write_bytes(b"x")
        path.unlink()
        path.parent.rmdir()

    disk.put(key(1), write)
    assert caplog.text == ""
    put(disk, 1)
    assert stored_numbers(disk) == {1}


# -------------------------------------------------------------------------------------------- disks that refuse


def test_a_full_disk_gives_one_warning(disk, caplog):
    def write(path):
        path.write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING):
        disk.put(key(1), write)
        disk.put(key(2), write)
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert "TIMECHAT_CACHE" in caplog.text
    assert files(disk.folder) == []


def test_a_folder_that_cannot_be_created_gives_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    disk = DiskCache(tmp_path / "file" / "cache", max_bytes=1000)
    put(disk, 1)
    put(disk, 2)
    assert disk.get(key(1)) is None
    assert disk.entries() == []
    assert disk.clear() == []
    assert len(caplog.records) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_still_gives_its_entries(disk, caplog):
    put(disk, 1)
    folders = [disk.folder, *(path for path in disk.folder.iterdir())]
    (disk.folder / key(1)[:2] / key(1)).chmod(0o444)
    for folder in folders:
        folder.chmod(0o555)
    try:
        put(disk, 2)
        assert disk.get(key(1)).read_bytes() == bytes([1]) * 300
        assert disk.get(key(2)) is None
        assert len(caplog.records) == 1
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_entries_with_fixed_times_are_still_found(disk, monkeypatch):
    put(disk, 1)
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EROFS, "read-only")))
    assert disk.get(key(1)).read_bytes() == bytes([1]) * 300
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(errno.EROFS, "no")))
    assert disk.clear() == []
    disk.discard(key(1))
    assert stored_numbers(disk) == {1}


# ----------------------------------------------------------------------------------------------- its settings


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/timechat"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/timechat"),
        ("linux", {}, "/home/me/.cache/timechat"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "/home/me/Library/Caches/timechat"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/timechat"),
        ("win32", {}, "/home/me/AppData/Local/timechat"),
        ("linux", {"XDG_CACHE_HOME": "/caches", "TIMECHAT_CACHE": "/mine"}, "/mine"),
    ],
)
def test_the_variable_overrides_the_users_folder(monkeypatch, platform, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "TIMECHAT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert DiskCache().folder == Path(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, DEFAULT_MAX_BYTES), ("123", 123), ("5GB", 5 * 10**9), ("0", 0), ("", 0), ("1.5 GiB", 3 * 2**29)],
)
def test_the_limit_is_read_from_the_variable(monkeypatch, tmp_path, text, expected):
    if text is None:
        monkeypatch.delenv("TIMECHAT_CACHE_LIMIT", raising=False)
    else:
        monkeypatch.setenv("TIMECHAT_CACHE_LIMIT", text)
    assert DiskCache(tmp_path).max_bytes == expected
    assert DiskCache(tmp_path).is_on == bool(expected)


def test_an_invalid_limit_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("TIMECHAT_CACHE_LIMIT", "lots")
    with pytest.raises(ValueError, match=r"\$TIMECHAT_CACHE_LIMIT: a size must be .* such as 500MB or 5GB, got 'lots'"):
        DiskCache(tmp_path)
    with pytest.raises(ValueError, match="max_bytes must be at least 0 bytes, got -1"):
        DiskCache(tmp_path, max_bytes=-1)


@pytest.mark.parametrize("text", ["-1", "5 XB", "GB", "1e9", "nan"])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(ValueError, match="a size must be"):
        parse_size(text)


@pytest.mark.parametrize("variable", ["TIMECHAT_CACHE", "TIMECHAT_CACHE_LIMIT"])
def test_a_cache_that_is_off_stores_nothing(monkeypatch, tmp_path, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIMECHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(variable, "")
    disk = DiskCache()
    assert not disk.is_on
    disk.put(key(1), lambda _: pytest.fail("it was asked to write"))
    assert disk.get(key(1)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    for name in ("XDG_CACHE_HOME", "TIMECHAT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert not DiskCache().is_on


# ------------------------------------------------------------------------------------------- keys and digests

FACTS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), min_size=1)


@given(FACTS, st.data())
def test_a_key_differs_when_any_fact_differs_and_not_with_their_order(facts, data):
    name = data.draw(st.sampled_from(sorted(facts)))
    other = data.draw((st.none() | st.integers() | st.text()).filter(lambda value: value != facts[name]))
    shuffled = dict(data.draw(st.permutations(list(facts.items()))))
    assert cache_key(facts=facts) == cache_key(facts=shuffled)
    assert cache_key(facts=facts) != cache_key(facts=facts | {name: other})


def test_a_key_depends_on_the_version_of_the_format(monkeypatch):
    before = cache_key(a=1)
    monkeypatch.setattr(cache_module, "FORMAT_VERSION", cache_module.FORMAT_VERSION + 1)
    assert cache_key(a=1) != before


def test_a_fact_without_an_exact_text_is_refused():
    with pytest.raises(TypeError):
        cache_key(path=object())
    with pytest.raises(ValueError):
        cache_key(start=float("nan"))


@pytest.fixture
def large_disk(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache", max_bytes=1_000_000)


@pytest.fixture
def settled(monkeypatch):
    """Let files that the test has just written count as old."""
    monkeypatch.setattr(cache_module, "_CLOCK_TICK", -1.0)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that are read for hashing."""
    read: list[str] = []
    digest = cache_module._digest
    monkeypatch.setattr(cache_module, "_digest", lambda file: read.append(file.name) or digest(file))
    return read


HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256sum of "hello"


def test_paths_bytes_and_file_objects_of_one_content_have_one_digest(large_disk, tmp_path):
    path = tmp_path / "a b.mp4"
    path.write_bytes(b"hello")
    link = tmp_path / "link.mp4"
    link.symlink_to(path)
    file = io.BytesIO(b"hello")
    file.seek(3)
    sources: tuple[Any, ...] = (path, str(path), link, path.as_uri(), b"hello", bytearray(b"hello"), file)
    for source in sources:
        assert file_digest(source, large_disk) == HELLO
    assert file.tell() == 3


def test_a_file_is_hashed_once_under_all_its_names(large_disk, tmp_path, settled, hashed):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"hello")
    (tmp_path / "link.mp4").symlink_to(path)
    for name in ("a.mp4", "link.mp4", "a.mp4"):
        assert file_digest(tmp_path / name, DiskCache(large_disk.folder, max_bytes=1_000_000)) == HELLO
    assert hashed == [str(path)]


def test_a_changed_file_of_the_same_size_and_time_has_another_digest(large_disk, tmp_path, settled):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"hello")
    before = path.stat()
    assert file_digest(path, large_disk) == HELLO
    path.write_bytes(b"hullo")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert file_digest(path, large_disk) != HELLO


def test_a_recently_written_file_is_hashed_again(large_disk, tmp_path, hashed):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"hello")
    file_digest(path, large_disk)
    file_digest(path, large_disk)
    assert len(hashed) == 2
    assert large_disk.entries() == []


def test_a_file_written_during_hashing_is_not_cached(large_disk, tmp_path, settled, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"hello")
    digest = cache_module._digest
    monkeypatch.setattr(cache_module, "_digest", lambda file: path.write_bytes(b"longer than it was") and digest(file))
    file_digest(path, large_disk)
    assert large_disk.entries() == []


@pytest.mark.parametrize("damage", [b"", b"hello", b"\xff" * 64])
def test_a_damaged_digest_is_computed_again(large_disk, tmp_path, settled, damage):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"hello")
    file_digest(path, large_disk)
    (entry,) = large_disk.entries()
    entry.path.write_bytes(damage)
    assert file_digest(path, large_disk) == HELLO
    assert entry.path.read_text() == HELLO


def test_a_source_that_cannot_be_read_twice_has_no_digest(large_disk, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        for source in ("https://example.org/a.mp4", tmp_path / "pipe", tmp_path / "missing.mp4", tmp_path, pipe, "\0"):
            assert file_digest(source, large_disk) is None


# ------------------------------------------------------------------------------------------------ the command


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    sys.argv = ["timechat", "cache", *map(str, arguments)]
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def filled(monkeypatch, tmp_path) -> DiskCache:
    """The cache of the command, with three entries, used an hour, two minutes and a second ago."""
    monkeypatch.setenv("TIMECHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TIMECHAT_CACHE_LIMIT", "2GB")
    disk = DiskCache()
    for number, seconds in ((1, 3600), (2, 120), (3, 1)):
        put(disk, number, size=1000)
        age(disk, number, seconds)
    return disk


def test_the_command_shows_the_cache(capsys, filled):
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"folder   {filled.folder}",
        "size     3.0 kB in 3 entries",
        "limit    2.0 GB",
    ]


def test_the_command_prints_json(capsys, filled):
    facts = json.loads(run(capsys, "--json")[1])
    assert facts | {"oldest": None, "newest": None} == {
        "folder": str(filled.folder),
        "is_on": True,
        "bytes": 3000,
        "max_bytes": 2_000_000_000,
        "entries": 3,
        "oldest": None,
        "newest": None,
    }
    assert facts["oldest"] < facts["newest"]


def test_the_command_shows_an_empty_cache_and_one_that_is_off(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TIMECHAT_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("TIMECHAT_CACHE_LIMIT", "0")
    status, out, _ = run(capsys)
    assert status == 0
    assert "0 bytes in 0 entries" in out
    assert "limit    0: the cache is disabled" in out
    assert not (tmp_path / "none").exists()


def test_the_command_clears_the_cache(capsys, filled):
    assert run(capsys, "clear") == (0, "removed 3 entries, 3.0 kB\n", "")
    assert filled.entries() == []
    assert json.loads(run(capsys, "clear", "--json")[1]) == {"removed_entries": 0, "removed_bytes": 0}


def test_the_command_prunes_the_least_recently_used(capsys, filled):
    assert run(capsys, "prune", "--to", "2kB") == (0, "removed 1 entry, 1.0 kB\n", "")
    assert stored_numbers(filled) == {2, 3}


def test_the_command_refuses_an_invalid_size(capsys, filled):
    status, out, err = run(capsys, "prune", "--to", "much")
    assert (status, out) == (2, "")
    assert err == "timechat: a size must be bytes or a number with a unit, such as 500MB or 5GB, got 'much'\n"
    assert len(filled.entries()) == 3
