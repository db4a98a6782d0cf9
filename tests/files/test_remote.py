"""Files of object stores: addresses, listing, reading, and their errors."""

import importlib.util
import json

import fsspec
import numpy as np
import pyarrow.parquet
import pytest

from tests.batch.test_results import RECIPE, ROWS, A, B, fill, finish, read_lines
from tests.clips import RECIPES, draw_clip
from timechat.batch import BatchSettings, read_manifest
from timechat.batch.results import ResultFolder
from timechat.cli.videos import find_videos
from timechat.errors import DataError, VideoError
from timechat.files.remote import RemoteFolder, find_remote, is_remote, open_remote
from timechat.video import VideoReader, load_frames, probe_video

needs_no_s3fs = pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")


@pytest.fixture
def store(tmp_path_factory, monkeypatch):
    """An object store in memory with the bucket `b`, empty at first."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("s3://b/a.mp4", True), ("gs://b", True), ("memory://b/a", True), ("zip://a.mp4::s3://b/c.zip", True)]
    + [(name, False) for name in ("a.mp4", "/a/b", "C://a", "file:///a", "https://h/a", "HTTP://h/a", "-")],
)
def test_an_address_of_a_store_has_another_scheme(name, expected):
    assert is_remote(name) is expected


def test_folders_and_patterns_are_listed_and_files_are_not(store):
    for name in ("x/a.mp4", "y.mp4", "notes.txt"):
        store.pipe(f"/b/{name}", b"1")
    assert find_remote("memory://b") == ["memory:///b/notes.txt", "memory:///b/x/a.mp4", "memory:///b/y.mp4"]
    assert find_remote("memory://b/*.mp4") == ["memory:///b/y.mp4"]
    assert find_remote("memory://b/y.mp4") is None
    assert find_videos(["memory://b"]).names == ("memory:///b/x/a.mp4", "memory:///b/y.mp4")
    with pytest.raises(VideoError, match=r"memory://b/\*\.mkv: is a pattern that matches no video"):
        find_videos(["memory://b/*.mkv"])


def test_a_file_is_read_at_any_place(store):
    store.pipe("/b/a", bytes(range(100)))
    with open_remote("memory://b/a") as file:
        assert file.seek(-2, 2) == 98
        assert (file.read(), file.seek(3), file.read(2)) == (b"bc", 3, b"\x03\x04")


def test_a_video_of_a_store_gives_the_frames_of_the_file(store, tmp_path):
    draw_clip(RECIPES["constant rate"], tmp_path / "clip.mp4")
    store.put_file(str(tmp_path / "clip.mp4"), "/b/clip.mp4")
    local, remote = (load_frames(name, num_frames=5) for name in (str(tmp_path / "clip.mp4"), "memory://b/clip.mp4"))
    assert np.array_equal(local.pixels, remote.pixels)
    assert local.timestamps.tolist() == remote.timestamps.tolist()
    assert probe_video((tmp_path / "clip.mp4").as_uri()).num_frames == probe_video("memory://b/clip.mp4").num_frames
    with VideoReader("memory://b/clip.mp4") as reader, VideoReader("memory://b/clip.mp4", index=reader.index) as again:
        assert again.duration == reader.duration


def test_errors_of_a_store_are_errors_of_the_video(store, monkeypatch):
    store.pipe("/b/empty.mp4", b"")
    with pytest.raises(VideoError, match=r"^memory://b/no.mp4: no such file; check the address$"):
        probe_video("memory://b/no.mp4")
    with pytest.raises(VideoError, match=r"^memory://b/empty.mp4: is empty"):
        probe_video("memory://b/empty.mp4")
    with pytest.raises(VideoError, match=r"^odd://b/a.mp4: odd:// is no known file system"):
        probe_video("odd://b/a.mp4")

    def refuse(*_, **__):
        raise RuntimeError("no credentials\nwere found")

    monkeypatch.setattr(type(store), "_open", refuse)
    with pytest.raises(VideoError, match=r"a.mp4: cannot be opened: no credentials were found; check the address and"):
        probe_video("memory://b/a.mp4")


@needs_no_s3fs
def test_a_missing_package_is_named(store):
    with pytest.raises(VideoError, match=r"^s3://b/a.mp4: s3:// needs s3fs; install it: pip install s3fs$"):
        probe_video("s3://b/a.mp4")
    with pytest.raises(ModuleNotFoundError, match="s3:// needs s3fs"):
        read_manifest("s3://b/m.jsonl", task="caption")


def test_a_store_that_fails_while_it_is_read_is_an_error(store, tmp_path, monkeypatch):
    draw_clip(RECIPES["constant rate"], tmp_path / "clip.mp4")
    store.put_file(str(tmp_path / "clip.mp4"), "/b/clip.mp4")
    with VideoReader("memory://b/clip.mp4") as reader:

        def fail(*_):
            raise RuntimeError("the connection was reset")

        monkeypatch.setattr(type(store.store["/b/clip.mp4"]), "read", fail)
        with pytest.raises(VideoError, match=r"memory://b/clip.mp4: .*the connection was reset"):
            reader.load()


# ---------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet"])
def test_a_manifest_of_a_store_names_videos_beside_itself(store, suffix):
    contents = {".jsonl": b'{"video": "a.mp4"}\n', ".csv": b"video\na.mp4\n", ".txt": b"a.mp4\n"}
    if suffix == ".parquet":
        with store.open("/b/m.parquet", "wb") as file:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"video": "a.mp4"}]), file)
    else:
        store.pipe(f"/b/m{suffix}", contents[suffix])
    (row,) = read_manifest(f"memory://b/m{suffix}", task="caption")
    assert (row.id, row.video) == ("memory://b/a.mp4",) * 2


def test_folders_and_patterns_of_a_store_are_rows(store):
    for name in ("x/a.mp4", "y.mp4", "notes.txt"):
        store.pipe(f"/b/{name}", b"1")
    assert [row.video for row in read_manifest("memory://b/*.mp4", task="caption")] == ["memory:///b/y.mp4"]
    rows = read_manifest("memory:///b", task="caption")
    assert [(row.id, row.video) for row in rows] == [
        ("x/a.mp4", "memory:///b/x/a.mp4"),
        ("y.mp4", "memory:///b/y.mp4"),
    ]
    store.pipe("/b/metadata.jsonl", json.dumps({"file_name": "x/a.mp4", "other": 1}).encode())
    assert [row.video for row in read_manifest("memory:///b", task="caption")] == ["memory:///b/x/a.mp4"]
    with pytest.raises(DataError, match=r"memory://b/\*\.mkv: is a folder or pattern without videos"):
        read_manifest("memory://b/*.mkv", task="caption")


def test_a_file_address_is_a_path_of_a_batch(tmp_path):
    (tmp_path / "a.mp4").touch()
    (row,) = read_manifest(tmp_path.as_uri(), task="caption")
    assert (row.id, row.video) == ("a.mp4", str(tmp_path / "a.mp4"))
    assert BatchSettings(task="caption", output=tmp_path.as_uri()).output == tmp_path
    assert BatchSettings(task="caption", output="s3://b/out").output == "s3://b/out"


def test_results_are_sent_and_another_machine_resumes(store, tmp_path, monkeypatch):
    report = fill("memory://b/out")
    stored = RemoteFolder("memory://b/out")
    assert (report["ok"], report["failed"]) == (2, 1)
    assert stored.names() == ["failed.jsonl", "recipe.json", "report.json"]
    assert stored.names("answers") == ["part-00001.jsonl", "part-00001.parquet"]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with ResultFolder("memory://b/out", RECIPE) as folder:
        assert folder.todo(ROWS, retry=False) == []
        assert folder.todo(ROWS, retry=True) == [B]
        folder.add(B, "ok", {"windows": 1})
        assert finish(folder)["ok"] == 3
    assert list((tmp_path / "timechat" / "batch").iterdir()) == []
    names = [row["id"] for part in ("1", "2") for row in lines_of(stored, f"answers/part-0000{part}.jsonl", tmp_path)]
    assert names == ["a", "c", "b"]
    with pytest.raises(DataError, match="memory://b/out holds answers that were made with model 'nano' instead of 'x'"):
        ResultFolder("memory://b/out", {**RECIPE, "model": "x"})


def test_rows_that_were_not_sent_yet_are_kept(store):
    with ResultFolder("memory://b/out", RECIPE) as folder:
        folder.add(A, "ok", {"windows": 1})
    assert RemoteFolder("memory://b/out").names("answers") == []
    with ResultFolder("memory://b/out", RECIPE) as folder:
        assert [row.id for row in folder.todo(ROWS, retry=False)] == ["b", "c"]
        assert finish(folder, is_stopped=True)["ok"] == 1
    assert len(RemoteFolder("memory://b/out").names("answers")) == 2


def lines_of(stored: RemoteFolder, name: str, folder):
    stored.fetch(name, folder / "lines")
    return read_lines(folder / "lines")
