"""`timechat index` and `timechat search` on small videos of colors, with an encoder that knows colors."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.search.conftest import ColorEncoder, write_video


@pytest.fixture(autouse=True)
def _own_library(tmp_path, monkeypatch):
    monkeypatch.setenv("TIMECHAT_LIBRARY", str(tmp_path / "library.db"))
    monkeypatch.setenv("TIMECHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("timechat.search.library.load_encoder", lambda _name: ColorEncoder())
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors")
    write_video(folder / "red.mp4", ["red"])
    write_video(folder / "many" / "green_blue.mp4", ["green", "blue"])
    return folder


def test_a_folder_is_indexed_and_searched(run, folder):
    status, out, err = run("index", folder)
    assert (status, err) == (0, "")
    assert out.startswith("2 videos indexed (2 read) in ")
    status, out, _ = run("search", "blue")
    assert status == 0
    assert out == f"0:03.0 – 0:06.0  0.98  picture  {folder}/many/green_blue.mp4\n"


def test_search_prints_the_fixed_json(run, folder):
    run("index", folder)
    status, out, _ = run("search", "blue", "--json", "--best", 1)
    content = json.loads(out)
    assert status == 0
    assert (content["query"], content["found"], len(content["moments"])) == ("blue", True, 1)
    assert content["moments"][0]["video"] == f"{folder}/many/green_blue.mp4"


def test_a_video_without_an_index_is_searched(run, folder, tmp_path):
    status, out, _ = run("search", "blue", folder / "many" / "green_blue.mp4")
    assert status == 0
    assert out.startswith("0:03.0 – 0:06.0")
    assert not (tmp_path / "library.db").exists()
    assert any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_indexed_and_other_videos_are_searched_together(run, folder, tmp_path):
    run("index", folder / "many")
    write_video(tmp_path / "other.mp4", ["blue"], seed=2)
    _, out, _ = run("search", "blue", folder, tmp_path / "other.mp4", "--json")
    found = [Path(one["video"]).name for one in json.loads(out)["moments"] if one["score"] > 0.5]
    assert sorted(found) == ["green_blue.mp4", "other.mp4"]


def test_paths_beside_a_library_limit_the_search(run, refused, folder, tmp_path):
    library = tmp_path / "own.db"
    run("index", folder, "--library", library)
    _, out, _ = run("search", "blue", folder / "red.mp4", "--library", library, "--json")
    assert {Path(one["video"]).name for one in json.loads(out)["moments"]} == {"red.mp4"}
    write_video(tmp_path / "other.mp4", ["blue"])
    assert "is not in" in refused("search", "blue", tmp_path / "other.mp4", "--library", library)


def test_what_is_not_found_is_said(run, folder):
    run("index", folder)
    status, out, _ = run("search", "purple")
    assert status == 0
    assert out.startswith("not found: purple\nthe most similar moments:\n")
    assert run("search", "purple", "--exit-status")[0] == 1
    assert run("search", "blue", "--exit-status")[0] == 0


def test_moments_are_written_in_other_formats(run, refused, folder, tmp_path):
    run("index", folder)
    run("search", "blue", "-o", tmp_path / "blue.srt")
    assert "00:00:03,000 --> 00:00:06,000\nblue" in (tmp_path / "blue.srt").read_text()
    assert "the moments are in 2 videos, and srt is about one" in refused(
        "search", "red green blue", "--format", "srt", "-o", tmp_path / "all.srt"
    )
    assert run("search", "red green blue", "--format", "csv", "--output-dir", tmp_path / "tables")[0] == 0
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["green_blue.csv", "red.csv"]


def test_a_page_shows_a_picture_of_each_moment(run, folder, tmp_path):
    run("index", folder)
    run("search", "blue", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<li>") == page.count("data:image/jpeg") == 1
    assert "green_blue.mp4#t=3.000,6.000" in page


def test_clips_of_the_found_moments_are_cut(run, folder, tmp_path):
    run("index", folder)
    run("search", "blue", "--clips", tmp_path / "clips")
    assert [path.suffix for path in (tmp_path / "clips").iterdir()] == [".mp4"]


def test_an_unreadable_file_gives_status_1(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "bad.mp4").write_bytes(b"no video" * 99)
    status, out, err = run("index", tmp_path / "copy")
    assert status == 1
    assert out.startswith("2 videos indexed (2 read, 1 failed)")
    assert err.startswith(f"timechat: {tmp_path}/copy/bad.mp4: ")


def test_the_content_of_a_library_is_shown(run, folder, refused):
    assert "there is no library; make it with" in refused("index", "--info")
    run("index", folder)
    _, out, _ = run("index", "--info", "--json")
    content = json.loads(out)
    assert (content["num_videos"], content["rows"], content["encoder"]) == (2, {"picture": 9, "speech": 0}, "colors")
    assert "2, 0:09.0 in all" in run("index", "--info")[1]


def test_paths_are_removed(run, folder):
    run("index", folder)
    assert run("index", "--remove", folder / "many")[1].startswith("1 files removed")
    assert json.loads(run("index", "--info", "--json")[1])["num_videos"] == 1


def test_rows_are_exported_as_a_table(run, folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra batch is not installed")
    run("index", folder)
    run("index", "--export", tmp_path / "rows.parquet")
    rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert len(rows) == 9
    assert rows[0]["start"] == rows[0]["end"] == 0.0
    assert len(rows[0]["vector"]) == 3


def searched(run, *arguments: object) -> set[str]:
    """Return the names of the videos in the result of a search for blue or red."""
    return {
        Path(one["video"]).name for one in json.loads(run("search", "blue red", *arguments, "--json")[1])["moments"]
    }


def test_offline_videos_below_a_folder_are_searched(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    run("index", tmp_path / "copy")
    (tmp_path / "copy" / "many").rename(tmp_path / "away")
    assert searched(run, tmp_path / "copy") == {"red.mp4", "green_blue.mp4"}


def test_a_changed_video_is_searched_as_it_is_now(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    run("index", tmp_path / "copy")
    write_video(tmp_path / "copy" / "red.mp4", ["blue"])
    _, out, _ = run("search", "blue", tmp_path / "copy", "--json")
    found = {Path(one["video"]).name: one["score"] > 0.5 for one in json.loads(out)["moments"]}
    assert found == {"red.mp4": True, "green_blue.mp4": True}
    assert len(json.loads(out)["moments"]) == 2


def test_a_pattern_limits_the_search_of_a_library(run, folder, tmp_path):
    run("index", folder, "--library", tmp_path / "own.db")
    assert searched(run, f"{folder}/*.mp4", "--library", tmp_path / "own.db") == {"red.mp4"}
    run("index", folder)
    assert searched(run, f"{folder}/many/*.mp4") == {"green_blue.mp4"}


@pytest.mark.parametrize("has_library", [True, False])
def test_a_folder_without_videos_is_named(run, refused, folder, tmp_path, has_library):
    if has_library:
        run("index", folder)
    (tmp_path / "empty").mkdir()
    expected = f"{tmp_path}/empty: is a folder without videos; give a video file, a folder of videos or a pattern"
    assert refused("search", "dog", tmp_path / "empty") == expected


def test_a_folder_that_cannot_be_read_is_named(run, folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "many":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    _, _, err = run("search", "red", folder)
    assert f"note: {folder}/many: Permission denied; it was not searched\n" in err


def test_json_lines_hold_found_moments_only(run, folder):
    run("index", folder)
    out = run("search", "blue", "--format", "jsonl")[1]
    assert [json.loads(line)["start"] for line in out.splitlines()] == [3.0]
    assert run("search", "purple", "--format", "jsonl")[1] == ""


def test_nothing_found_writes_no_files(run, folder, tmp_path):
    run("index", folder)
    status, out, err = run("search", "purple", "--format", "csv", "--output-dir", tmp_path / "tables")
    assert (status, out) == (0, "")
    assert err == f"note: nothing was found, so no file was written to {tmp_path}/tables\n"
    assert not (tmp_path / "tables").exists()


def test_an_export_does_not_replace_the_library(run, refused, folder, tmp_path):
    library = tmp_path / "library.parquet"
    run("index", folder, "--library", library)
    before = library.read_bytes()
    message = refused("index", "--export", library, "--library", library)
    assert message == f"{library}: is the library itself, which the table would replace; give another path"
    assert library.read_bytes() == before
    assert "must end in .parquet" in refused("index", "--export", tmp_path / "library.db")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "  "), "the words to search for are missing"),
        (("search", "blue", "missing.mp4"), "missing.mp4: no such file or folder"),
        (("search", "blue"), "there is no library; make it with: timechat index FOLDER"),
        (("search", "--like", "missing.jpg"), "there is no library"),
        (("search", "blue", "--since", "yesterday"), "must be a date such as 2025-07-31"),
        (("index",), "Missing argument 'PATH...'"),
        (("index", "missing"), "missing: no such file or folder; give the path"),
        (("index", "s3://bucket/folder"), "s3://bucket/folder: is an address; a library holds files of this machine"),
        (("index", "--info", "here"), "--info takes no paths"),
        (("index", "--info", "--remove", "here"), "--info and --remove were given; give one of them"),
    ],
)
def test_bad_input_is_refused_in_one_line(refused, arguments, message):
    assert message in refused(*arguments)
