"""Stopped work on a library: long videos and full passes are resumed, and the result is that of one run."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.search.conftest import ColorEncoder, Lines, write_video
from timechat.search import Library
from timechat.search.index_report import IndexStopped
from timechat.search.video_vectors import VERSION


@pytest.fixture(autouse=True)
def _trusted_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stamps of new files count: otherwise each test had to wait for two seconds."""
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)


class Killed(BaseException):
    """The end of a process without any chance to write."""


def all_rows(library: Library) -> list[Any]:
    frames = [library.frames(number) for number in library.videos()]
    return [(f.times.tobytes(), f.vectors.tobytes(), f.cuts, f.statistics.tobytes(), f.notes) for f in frames if f]


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    """Path of a video of 70 frames in 5 parts, of which each second and third frame are equal."""
    return write_video(tmp_path / "long" / "long.mp4", ["red", "green", "green"] * 23 + ["blue"], seconds=1)


def index_until(library: Library, path: Path, seconds: int, error: type[BaseException], **options: Any) -> None:
    """Index until some seconds of a video are encoded."""

    def progress(name: str, done: int, total: int) -> None:
        if done / total > seconds / 70:
            raise error

    with pytest.raises(error):
        library.index([path], progress=progress, **options)


@pytest.mark.parametrize("seconds", [5, 17, 40, 60])
@pytest.mark.parametrize("error", [IndexStopped, Killed])
def test_a_long_video_is_resumed_behind_its_last_part(tmp_path, long_video, monkeypatch, seconds, error):
    if error is Killed:
        monkeypatch.setattr("timechat.search.unfinished._SECONDS_BETWEEN_WRITES", 0.0)
    with Library(tmp_path / "whole.db", encoder=ColorEncoder()) as whole:
        whole.index([long_video])
        expected = all_rows(whole)
    with Library(tmp_path / "stopped.db", encoder=ColorEncoder()) as library:
        index_until(library, long_video, seconds, error)
        assert all_rows(library) == []
    encoder = ColorEncoder()
    with Library(tmp_path / "stopped.db", encoder=encoder) as library:
        library.index([long_video])
        assert all_rows(library) == expected
        assert library.first_frames(1, library.parts(1)["picture"].facts) is None
    done = -(-seconds // 16) * 16
    assert encoder.num_frames == pytest.approx((70 - done) * 2 / 3, abs=1)  # equal frames are encoded once


def test_parts_of_two_processes_are_joined(tmp_path, long_video, monkeypatch):
    monkeypatch.setattr("timechat.search.unfinished._SECONDS_BETWEEN_WRITES", 0.0)
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library:
        index_until(library, long_video, 30, Killed)
        facts = {"encoder": "colors 1", "fps": 1.0, "version": VERSION}
        stored = library.first_frames(1, facts)
        assert stored is not None
        assert len(stored.times) == 32
        library.add_frames(1, 8, stored, facts)  # overlaps
        again = library.first_frames(1, facts)
        assert again is not None
        assert again.times.tolist() == stored.times.tolist()
        assert library.first_frames(1, {**facts, "encoder": "other"}) is None


def test_frames_of_a_file_that_changes_are_not_kept(tmp_path, long_video):
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library:
        stops: list[int] = []

        def progress(name: str, done: int, total: int) -> None:
            if done and not stops:
                stops.append(done)
                os.utime(long_video, ns=(1, 1))
                raise IndexStopped

        report = library.index([long_video], progress=progress)
        assert list(report.failed.values()) == ["changed while it was read; the next run reads it again"]
        assert library.first_frames(1, {"encoder": "colors 1", "fps": 1.0, "version": VERSION}) is None


def test_unfinished_frames_of_a_removed_video_are_removed(tmp_path, long_video):
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library:
        index_until(library, long_video, 30, IndexStopped)
        library.remove([long_video])
        assert library.first_frames(1, {"encoder": "colors 1", "fps": 1.0, "version": VERSION}) is None


def test_a_library_without_the_tables_of_work_gets_them(tmp_path, long_video):
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library, library._writing() as connection:
        connection.execute("DROP TABLE unfinished")
        connection.execute("DROP TABLE read_again")
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library:
        assert library.index([long_video], full=True).num_read == 1


# ── A pass that reads everything again ──────────────────────────────────────────────────────────────────────────


def stop_full_pass(library: Library, paths: list[Path], lines: Lines) -> None:
    """Read everything again until the lines of the first video are read."""
    before = lines.num_reads

    def check() -> None:
        if lines.num_reads > before:
            raise IndexStopped

    with pytest.raises(IndexStopped):
        library.index(paths, full=True, check=check, sources=[lines])


def test_a_stopped_full_pass_is_resumed(library, videos, encoder):
    lines = Lines(["words"])
    library.index([videos], sources=[lines])
    num_frames = encoder.num_frames
    stop_full_pass(library, [videos], lines)
    report = library.index([videos], full=True, sources=[lines])
    assert (report.num_read, report.num_unchanged) == (1, 1)
    assert (encoder.num_frames, lines.num_reads) == (2 * num_frames, 4)
    assert library.index([videos], full=True, sources=[lines]).num_read == 2  # a new pass
    assert (encoder.num_frames, lines.num_reads) == (3 * num_frames, 6)


def test_a_full_pass_of_other_paths_begins_anew(library, videos):
    lines = Lines(["words"])
    stop_full_pass(library, [videos], lines)
    assert library.index([videos / "many"], full=True, sources=[lines]).num_read == 1
    assert library.index([videos], full=True, sources=[lines]).num_read == 2


def test_frames_of_an_earlier_run_are_not_in_a_full_pass(tmp_path, long_video):
    encoder = ColorEncoder()
    with Library(tmp_path / "library.db", encoder=encoder) as library:
        index_until(library, long_video, 30, IndexStopped)
        before = encoder.num_frames
        index_until(library, long_video, 30, IndexStopped, full=True)
        assert encoder.num_frames - before >= 16 * 2 / 3
        library.index([long_video], full=True)
        assert encoder.num_frames - before == pytest.approx(70 * 2 / 3, abs=1)
