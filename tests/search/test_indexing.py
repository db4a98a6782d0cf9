"""Files and folders → library: what is read, what is kept, and what is dropped."""

import itertools
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.search.conftest import ColorEncoder, Lines, write_video
from timechat.search import Library, LibraryError
from timechat.search.encoded_files import EncodedFile, encode_file
from timechat.search.index_report import IndexStopped


@pytest.fixture(autouse=True)
def _trusted_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stamps of new files count: otherwise each test had to wait for two seconds."""
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)


def names(library: Library, *, offline: bool | None = None) -> list[str]:
    return [Path(file.path).name for file in library.files() if offline is None or file.is_offline == offline]


# ── What is read ────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_is_new_is_read(library, videos, encoder):
    first = library.index([videos])
    assert (first.num_videos, first.num_read, first.num_unchanged) == (2, 2, 0)
    assert first.seconds == pytest.approx(9.0)
    before = encoder.num_frames
    second = library.index([videos])
    assert (second.num_videos, second.num_read, second.num_unchanged) == (2, 0, 2)
    assert encoder.num_frames == before
    write_video(videos / "new.mp4", ["blue"])
    assert library.index([videos]).num_read == 1


def test_only_a_changed_content_is_not_current(library, videos):
    library.index([videos])
    paths = [file.path for file in library.files()]
    os.utime(paths[0], (1, 1))
    assert library.without_current([*paths, "/unknown.mp4"]) == ["/unknown.mp4"]
    with Path(paths[0]).open("ab") as file:
        file.write(b"more")
    assert library.without_current(paths) == [paths[0]]


def test_frames_are_stored_with_their_true_times(library, videos):
    library.index([videos])
    (video,) = [number for number, video in library.videos().items() if video.duration == pytest.approx(6.0)]
    frames = library.frames(video)
    assert frames is not None
    assert frames.times.tolist() == pytest.approx([0, 1, 2, 3, 4, 5])
    assert np.argmax(frames.vectors, axis=1).tolist() == [1, 1, 1, 2, 2, 2]
    assert (frames.cuts, frames.duration) == ((3,), pytest.approx(6.0))
    assert frames.cut_times.tolist() == pytest.approx([3.0])  # where the encoder has placed a keyframe


def test_everything_is_read_again_with_full(library, videos, encoder):
    library.index([videos])
    before = encoder.num_frames
    assert library.index([videos], full=True).num_read == 2
    assert encoder.num_frames == 2 * before


def test_a_video_is_completed_by_kind_of_row(library, videos, encoder):
    library.index([videos], sources=[])
    before = encoder.num_frames
    lines = Lines(["hello there"])
    assert library.index([videos], sources=[lines]).num_read == 2
    assert library.index([videos], sources=[lines]).num_read == 0
    assert (lines.num_reads, encoder.num_frames) == (2, before)
    newer = Lines(["good bye", "everyone"], version=2)
    assert library.index([videos], sources=[newer]).num_read == 2
    assert [line.event.caption for line in library.lines()] == ["good bye", "everyone"] * 2


def test_equal_files_are_one_video_with_two_paths(library, videos, encoder):
    library.index([videos])
    before = encoder.num_frames
    shutil.copy(videos / "red.mp4", videos / "copy.mp4")
    assert library.index([videos]).num_videos == 3
    assert (len(library.videos()), len(library.files()), encoder.num_frames) == (2, 3, before)


def test_a_single_file_and_a_pattern_are_indexed(library, videos):
    assert library.index([videos / "red.mp4"]).num_videos == 1
    assert library.index([f"{videos}/**/*.mp4"]).num_videos == 2


def test_a_loop_of_links_ends(library, videos):
    (videos / "many" / "loop").symlink_to(videos)
    assert library.index([videos]).num_videos == 2


def test_a_broken_link_is_named(library, videos):
    (videos / "broken.mp4").symlink_to(videos / "missing.mp4")
    report = library.index([videos])
    assert list(report.failed) == [str(videos / "broken.mp4")]
    assert report.num_videos == 2


def test_an_empty_folder_gives_a_note(library, tmp_path):
    (tmp_path / "empty").mkdir()
    report = library.index([tmp_path / "empty"])
    assert report.num_videos == 0
    assert report.notes == [f"no videos were found in {tmp_path / 'empty'}"]


# ── Other processes ─────────────────────────────────────────────────────────────────────────────────────────────


def encoding_with(encoder, asked: list[list[str]], *, leave_out: str = "", broken: str = ""):
    """Return a function that encodes files as another process would, the last one first."""

    def encode_files(paths, known, check):
        asked.append([Path(path).name for path in paths])
        for path in sorted(paths, reverse=True):
            check()
            if Path(path).name == broken:
                yield EncodedFile(path, error=f"{path}: is damaged")
            elif Path(path).name != leave_out:
                yield encode_file(path, encoder, known, timeout=60.0)

    return encode_files


def test_files_that_other_processes_read_are_stored_alike(library, videos, encoder, tmp_path):
    library.index([videos])
    asked: list[list[str]] = []
    with Library(tmp_path / "other.db", encoder=encoder) as other:
        report = other.index([videos], encode_files=encoding_with(encoder, asked, leave_out="red.mp4"))
        assert (report.num_videos, report.num_read, report.failed) == (2, 2, {})
        before = encoder.num_frames
        assert names(other) == names(library)
        found = {video.digest: number for number, video in other.videos().items()}
        for number, video in library.videos().items():
            ours, theirs = library.frames(number), other.frames(found[video.digest])
            assert ours is not None
            assert theirs is not None
            assert np.array_equal(ours.vectors, theirs.vectors)
            assert (ours.times.tolist(), ours.cuts) == (theirs.times.tolist(), theirs.cuts)
        shutil.copy(videos / "red.mp4", videos / "copy.mp4")
        write_video(videos / "new.mp4", ["blue"])
        write_video(videos / "bad.mp4", ["red"])
        report = other.index([videos], encode_files=encoding_with(encoder, asked, broken="bad.mp4"))
        assert [sorted(names) for names in asked[1:]] == [["bad.mp4", "copy.mp4", "new.mp4"]]
        assert report.failed == {str(videos / "bad.mp4"): "is damaged"}
        assert encoder.num_frames == before + 2  # only those of new.mp4
        other.index([videos], encode_files=encoding_with(encoder, asked))
        assert asked[2:] == [[]]
        assert other.index([videos], encode_files=encoding_with(encoder, asked), full=True).num_read == 3  # contents
        assert sorted(asked[3]) == ["bad.mp4", "copy.mp4", "green_blue.mp4", "new.mp4", "red.mp4"]


def test_a_file_that_changes_after_another_process_read_it_fails(library, videos, encoder):
    def encode_files(paths, known, check):
        for path in paths:
            file = encode_file(path, encoder, known, timeout=60.0)
            os.utime(path, (1, 1))
            yield file

    report = library.index([videos], encode_files=encode_files)
    assert set(report.failed.values()) == {"changed while it was read; the next run reads it again"}
    assert report.num_read == 0


# ── What changes ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_renamed_file_keeps_its_rows_under_its_new_path(library, videos, encoder):
    library.index([videos])
    before = encoder.num_frames
    (videos / "red.mp4").rename(videos / "many" / "renamed.mp4")
    report = library.index([videos])
    assert (report.num_moved, report.num_removed, encoder.num_frames) == (1, 0, before)
    assert names(library) == ["green_blue.mp4", "renamed.mp4"]


def test_a_renamed_folder_keeps_its_rows(library, videos, encoder):
    library.index([videos])
    before = encoder.num_frames
    (videos / "many").rename(videos / "few")
    assert library.index([videos]).num_moved == 1
    assert encoder.num_frames == before
    assert [Path(file.path).parent.name for file in library.files()] == ["few", "videos"]


def test_new_content_under_a_path_replaces_all_its_rows(library, videos):
    path = videos / "red.mp4"
    library.index([videos], sources=[Lines(["old words"])])
    status = path.stat()
    write_video(path, ["green"])
    content = path.read_bytes()
    path.write_bytes(content.ljust(status.st_size, b"\0")[: max(status.st_size, len(content))])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert library.index([path], sources=[Lines(["new words"])]).num_read == 1
    by_path = {Path(file.path).name: file.video for file in library.files()}
    frames = library.frames(by_path["red.mp4"])
    assert frames is not None
    assert np.argmax(frames.vectors, axis=1).tolist() == [1, 1, 1]
    assert len(library.videos()) == 2
    assert library.lines(matching='"old words"') == [
        line for line in library.lines() if line.video == by_path["green_blue.mp4"]
    ]


def test_a_missing_file_is_dropped_if_its_folder_holds_another(library, videos):
    write_video(videos / "blue.mp4", ["blue"])
    library.index([videos])
    (videos / "blue.mp4").unlink()
    report = library.index([videos])
    assert (report.num_removed, report.offline) == (1, [])
    assert names(library) == ["green_blue.mp4", "red.mp4"]
    assert len(library.videos()) == 2


def test_an_empty_known_folder_loses_nothing(library, videos, tmp_path, encoder):
    library.index([videos])
    before = encoder.num_frames
    videos.rename(tmp_path / "unmounted")
    videos.mkdir()
    report = library.index([videos])
    assert (report.num_removed, len(report.offline)) == (0, 2)
    assert names(library, offline=True) == ["green_blue.mp4", "red.mp4"]
    videos.rmdir()
    (tmp_path / "unmounted").rename(videos)
    report = library.index([videos])
    assert (report.num_unchanged, encoder.num_frames) == (2, before)
    assert names(library, offline=False) == ["green_blue.mp4", "red.mp4"]


def test_the_last_file_of_a_folder_is_kept_as_offline(library, videos):
    library.index([videos])
    (videos / "many" / "green_blue.mp4").unlink()
    library.index([videos])
    assert names(library, offline=True) == ["green_blue.mp4"]


def test_a_known_folder_that_is_away_is_an_error_that_loses_nothing(library, videos, tmp_path):
    library.index([videos])
    videos.rename(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError, match="is away; its 2 known files are kept and marked as offline"):
        library.index([videos])
    assert names(library, offline=True) == ["green_blue.mp4", "red.mp4"]


def test_a_path_that_does_not_exist_is_an_error(library, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.mp4: no such file or folder; give the path"):
        library.index([tmp_path / "nothing.mp4"])


def test_an_unreadable_folder_is_named_and_its_files_are_kept(library, videos, monkeypatch):
    library.index([videos])
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "many":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("timechat.files.os.scandir", refuse)
    report = library.index([videos])
    assert report.failed == {str(videos / "many"): "the folder cannot be read: permission denied"}
    assert names(library, offline=True) == ["green_blue.mp4"]


def test_a_new_file_in_the_folder_of_a_mount_point_drops_nothing(library, videos, tmp_path):
    write_video(videos / "blue.mp4", ["blue"])
    library.index([videos])
    videos.rename(tmp_path / "unmounted")
    write_video(videos / "new.mp4", ["red"], seed=3)
    report = library.index([videos])
    assert (report.num_removed, len(report.offline)) == (0, 3)
    assert names(library, offline=False) == ["new.mp4"]


def test_numbered_rotation_keeps_all_rows(library, tmp_path, encoder):
    for number, color in enumerate(["red", "green", "blue"], start=1):
        write_video(tmp_path / "cam" / f"{number}.mp4", [color])
    library.index([tmp_path / "cam"])
    before = encoder.num_frames
    (tmp_path / "cam" / "3.mp4").unlink()
    (tmp_path / "cam" / "2.mp4").rename(tmp_path / "cam" / "3.mp4")
    (tmp_path / "cam" / "1.mp4").rename(tmp_path / "cam" / "2.mp4")
    assert library.index([tmp_path / "cam"]).num_unchanged == 2
    assert (encoder.num_frames, len(library.videos())) == (before, 2)


def test_a_copy_elsewhere_does_not_drop_a_path_that_is_away(library, videos, tmp_path):
    library.index([videos / "many"])
    shutil.copy(videos / "many" / "green_blue.mp4", tmp_path / "copy.mp4")
    (videos / "many").rename(tmp_path / "unmounted")
    assert library.index([tmp_path / "copy.mp4"]).num_moved == 0
    assert names(library) == ["copy.mp4", "green_blue.mp4"]


def test_a_file_that_changes_while_it_is_read_is_read_by_the_next_run(library, videos, encoder, monkeypatch):
    path = videos / "red.mp4"
    encode = encoder.encode_frames

    def change(pixels: Any) -> Any:
        write_video(path, ["green"])
        return encode(pixels)

    monkeypatch.setattr(encoder, "encode_frames", change)
    assert "changed while it was read" in library.index([path]).failed[str(path)]
    monkeypatch.setattr(encoder, "encode_frames", encode)
    assert library.index([path]).num_read == 1


def test_vectors_of_another_encoder_are_not_searched(tmp_path, videos):
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library:
        library.index([videos])
    with Library(tmp_path / "library.db", encoder=ColorEncoder("2")) as library:
        library.index([videos / "many"], full=True)
        assert library.num_outdated() == 1
        assert {Path(one.video).name for one in library.search("red").moments} == {"green_blue.mp4"}
        assert library.index([videos]).num_read == 1
        assert library.num_outdated() == 0


def test_a_removal_by_another_process_does_not_break_the_library(library, videos, tmp_path):
    library.index([videos])
    shutil.copy(videos / "red.mp4", videos / "zcopy.mp4")

    def check() -> None:
        with Library(tmp_path / "library.db") as other:
            other.remove([videos / "red.mp4"])

    library.index([videos / "zcopy.mp4"], check=check)
    assert library.search("red").found
    assert all(file.video in library.videos() for file in library.files())


def test_a_library_at_rest_is_one_file(library, videos, tmp_path):
    library.index([videos], sources=[Lines(["hello there"])])
    shutil.copy(tmp_path / "library.db", tmp_path / "copy.db")
    with Library(tmp_path / "copy.db", encoder=ColorEncoder(), is_read_only=True) as copied:
        assert copied.search("red").found
        assert len(copied.lines(matching="hello")) == 2


def test_a_file_that_is_there_is_not_offline(library, videos):
    shutil.copy(videos / "red.mp4", videos / "clip.dat")
    library.index([videos / "clip.dat"])
    assert library.index([videos]).offline == []


def test_removed_paths_are_deleted_in_any_case(library, videos):
    library.index([videos])
    assert library.remove([videos / "many"]) == 1
    assert names(library) == ["red.mp4"]
    assert len(library.videos()) == 1


# ── What fails ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_cannot_be_read_is_tried_again_when_it_changes(library, videos):
    path = videos / "broken.mp4"
    path.write_bytes(b"no video" * 100)
    report = library.index([videos])
    assert (report.num_videos, list(report.failed)) == (2, [str(path)])
    again = library.index([videos])
    assert "it has not changed; --retry" not in report.failed[str(path)]
    assert again.failed[str(path)].endswith("(the file has not changed; --retry tries it again)")
    assert "--retry" not in library.index([videos], retry=True).failed[str(path)]
    write_video(path, ["blue"])
    assert library.index([videos]).failed == {}
    assert names(library) == ["broken.mp4", "green_blue.mp4", "red.mp4"]


def test_a_video_that_fails_while_it_is_encoded_is_not_read_each_time(library, videos, encoder, monkeypatch):
    attempts = []

    def fail(pixels: Any) -> Any:
        attempts.append(len(pixels))
        raise ValueError("no frame fits")

    monkeypatch.setattr(encoder, "encode_frames", fail)
    assert len(library.index([videos]).failed) == 2
    again = library.index([videos])
    assert all(reason.endswith("--retry tries it again)") for reason in again.failed.values())
    assert (len(attempts), library.videos()) == (2, {})
    monkeypatch.undo()
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)
    assert library.index([videos], retry=True).num_read == 2


def test_a_full_disk_is_one_line_and_loses_nothing(library, videos):
    library.index([videos / "red.mp4"])
    pages = library._connection.execute("PRAGMA page_count").fetchone()[0]
    library._connection.execute(f"PRAGMA max_page_count = {pages}")
    texts = [f"words {number} " * 4000 for number in range(10)]
    with pytest.raises(LibraryError, match="full; free some space; nothing that was written before is lost"):
        library.index([videos], sources=[Lines(texts)])
    library._connection.execute("PRAGMA max_page_count = 100000")
    assert library.index([videos], sources=[Lines(texts)]).num_videos == 2
    assert len(library.lines()) == 20


def test_a_library_in_a_read_only_folder_is_searched(library, videos, tmp_path, monkeypatch):
    library.index([videos])
    library.close()
    monkeypatch.setattr("timechat.search.store.os.access", lambda *_: False)
    with Library(tmp_path / "library.db", encoder=ColorEncoder(), is_read_only=True) as reopened:
        monkeypatch.undo()
        assert reopened.search("red").found
        with pytest.raises(LibraryError, match="it cannot be written there; give a file in another folder"):
            reopened.index([videos], full=True)


def test_vectors_of_another_encoder_are_not_mixed(library, videos, tmp_path):
    library.index([videos])
    library.close()
    other = ColorEncoder("2")
    with Library(tmp_path / "library.db", encoder=other) as reopened:
        with pytest.raises(LibraryError, match=r"another version of the encoder colors.*add --full"):
            reopened.index([videos])
        with pytest.raises(LibraryError, match="index --full"):
            reopened.search("red")
        assert reopened.index([videos], full=True).num_read == 2
        assert reopened.search("red").found


def test_lost_writes_are_noticed(library, videos):
    library.index([videos], sources=[])
    library._connection.execute("CREATE TRIGGER lose BEFORE INSERT ON lines BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(LibraryError, match=r"wrote \[2, 2\] lines of speech but holds \[0, 0\]"):
        library.index([videos], sources=[Lines(["one", "two"])])
    library._connection.execute("DROP TRIGGER lose")
    library._connection.execute("DROP TRIGGER line_added")  # lines without their entries for full-text search
    with pytest.raises(LibraryError, match=r"wrote \[2, 2\] lines of speech but holds \[2, 0\]"):
        library.index([videos], sources=[Lines(["one", "two"])])
    assert all("speech" not in library.parts(number) for number in library.videos())


def test_a_stopped_scan_is_finished_by_the_next(tmp_path, videos):
    def content(library: Library) -> list[Any]:
        rows = []
        for file in library.files():
            frames = library.frames(file.video or 0)
            assert frames is not None
            rows.append((file.path, frames.times.tolist(), frames.vectors.tolist(), frames.cuts))
        return [*rows, [(line.event.start, line.event.caption) for line in library.lines()]]

    with Library(tmp_path / "whole.db", encoder=ColorEncoder()) as whole:
        whole.index([videos], sources=[Lines(["a", "b"])])
        expected = content(whole)
    number_of_stops = 0
    with Library(tmp_path / "stopped.db", encoder=ColorEncoder()) as library:
        for stop_at in range(1, 10_000, 37):
            calls = itertools.count(1)

            def check(stop_at: int = stop_at, calls: Any = calls) -> None:
                if next(calls) == stop_at:
                    raise IndexStopped

            try:
                library.index([videos], sources=[Lines(["a", "b"])], check=check)
            except IndexStopped:
                number_of_stops += 1
            else:
                break
        assert content(library) == expected
    assert number_of_stops >= 5


def test_two_processes_may_index_the_same_folder(tmp_path, videos):
    def index() -> None:
        with Library(tmp_path / "shared.db", encoder=ColorEncoder()) as library:
            library.index([videos], sources=[Lines(["words"])])

    threads = [threading.Thread(target=index) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Library(tmp_path / "shared.db", is_read_only=True) as library:
        assert names(library) == ["green_blue.mp4", "red.mp4"]
        assert [set(library.parts(number)) for number in library.videos()] == [{"picture", "speech"}] * 2
        assert len(library.lines()) == 2


# ── The file ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_file_is_no_library(tmp_path):
    (tmp_path / "text.db").write_text("no database" * 1000)
    with pytest.raises(LibraryError, match="is damaged or another kind of file"):
        Library(tmp_path / "text.db")
    import sqlite3

    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(LibraryError, match="is not a library of timechat"):
        Library(tmp_path / "other.db")


def test_a_library_of_another_version_is_refused(tmp_path, library):
    library._connection.execute("PRAGMA user_version = 99")
    library.close()
    with pytest.raises(LibraryError, match="version 99, and this timechat uses version 1; index the videos again"):
        Library(tmp_path / "library.db")


def test_a_missing_library_is_not_made_by_a_search(tmp_path):
    with pytest.raises(LibraryError, match="there is no library; make it with: timechat index FOLDER"):
        Library(tmp_path / "none.db", is_read_only=True)
    assert not (tmp_path / "none.db").exists()


def test_a_folder_is_no_library(tmp_path):
    with pytest.raises(LibraryError, match="is a folder"):
        Library(tmp_path)


def test_names_that_are_not_utf_8_are_kept(library, videos):
    path = os.fsdecode(os.fsencode(str(videos)) + b"/caf\xe9.mp4")
    (videos / "red.mp4").rename(path)
    library.index([videos])
    assert path in [file.path for file in library.files()]
    assert library.index([videos]).num_unchanged == 2


# ── One path ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_path_is_not_a_sequence_of_characters(library, videos):
    assert library.index(str(videos), sources=[]).num_videos == 2
    many = videos / "many"
    assert library.split_known(str(many)) == ([str(many)], [])
    assert library.split_known("elsewhere") == ([], ["elsewhere"])
    assert library.remove(str(many)) == 1
    assert [Path(file.path).name for file in library.files()] == ["red.mp4"]
    assert library.remove(videos) == 1
