"""Rows of folders, patterns, lists and manifests."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from timechat.batch import Row, read_manifest
from timechat.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with two videos in `videos`, one of them in a subfolder."""
    (tmp_path / "videos" / "sub").mkdir(parents=True)
    for name in ("a.mp4", "sub/b.mkv", "notes.txt"):
        (tmp_path / "videos" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def caption(id_: str, video: str, **columns) -> Row:
    return Row(id_, video, "dense_caption", **columns)


def test_the_videos_of_a_folder_have_their_paths_as_ids(folder):
    expected = [caption("a.mp4", "videos/a.mp4"), caption("sub/b.mkv", "videos/sub/b.mkv")]
    assert read_manifest("videos", task="caption") == expected


def test_patterns_videos_and_addresses_are_rows(folder):
    names = ["videos/a.mp4", "videos/sub/b.mkv"]
    assert [row.video for row in read_manifest("videos/**/*.m*", task="caption")] == names
    given = ["missing.mp4", "https://host/c.mp4?x=[1]"]
    assert read_manifest(given, task="caption") == [caption(name, name) for name in given]


def test_a_list_names_videos_beside_itself(folder):
    (folder / "videos" / "all.txt").write_text("a.mp4\n\nhttps://host/c.mp4\n")
    rows = read_manifest("videos/all.txt", task="caption")
    assert [row.video for row in rows] == ["videos/a.mp4", "https://host/c.mp4"]


COLUMNS = {
    "video": "a.mp4",
    "id": "x",
    "task": "ground",
    "query": "a light",
    "start": 1.5,
    "end": 9,
    "transcript": "a.srt",
}
GROUND = Row("x", "videos/a.mp4", "grounding", "a light", 1.5, 9.0, "videos/a.srt")


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_each_form_of_manifest_has_the_same_columns(folder, form):
    path = folder / "videos" / f"m.{form}"
    second = {"video": "sub/b.mkv"}
    if form == "jsonl":
        path.write_text(f"{json.dumps(COLUMNS)}\n{json.dumps(second)}\n")
    elif form == "csv":
        path.write_text(f"{','.join(COLUMNS)}\n{','.join(map(str, COLUMNS.values()))}\nsub/b.mkv,,,,,,\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([COLUMNS, second]), path)
    rows = read_manifest(f"videos/m.{form}", task="caption")
    assert rows == [GROUND, caption("videos/sub/b.mkv", "videos/sub/b.mkv")]


def test_metadata_of_a_dataset_may_have_columns_of_its_own(folder):
    (folder / "videos" / "metadata.jsonl").write_text('{"file_name": "a.mp4", "label": 3}\n')
    assert read_manifest("videos", task="caption") == [caption("videos/a.mp4", "videos/a.mp4")]


def test_a_query_is_for_rows_whose_task_takes_one(folder):
    (folder / "m.jsonl").write_text(
        '{"video": "a.mp4"}\n{"video": "b.mp4", "query": "own"}\n{"video": "c.mp4", "task": "caption"}\n'
    )
    rows = read_manifest("m.jsonl", task="ground", query="a light")
    assert [row.query for row in rows] == ["a light", "own", None]


def test_two_questions_about_a_video_have_different_ids(folder):
    lines = [{"video": "a.mp4", "task": "ground", "query": query} for query in ("a light", "a car")]
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    first, second = read_manifest("m.jsonl", task="caption")
    assert (first.id, second.id[:-8]) == ("a.mp4", "a.mp4#")
    (folder / "m.jsonl").write_text(f"{json.dumps(lines[0])}\n{json.dumps(lines[1])}\n{json.dumps(lines[1])}\n")
    with pytest.raises(DataError, match=r"two rows have the id 'a.mp4#\w{8}'; give each question"):
        read_manifest("m.jsonl", task="caption")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a.mp4", "task": "look"}', r"m.jsonl:2: unknown task 'look'; choose one of ask, caption, ground"),
        ('{"video": "a.mp4", "path": "x"}', r"m.jsonl:2: unknown column 'path'; the columns are video, id, task"),
        ('{"id": "x"}', "m.jsonl:2: the column video is missing or empty"),
        ('{"video": "a.mp4", "task": "ground"}', "m.jsonl:2: .*query"),
        ('{"video": "a.mp4", "query": "x"}', "m.jsonl:2: caption takes no query, got 'x'; leave it empty"),
        ('{"video": "a.mp4", "start": "soon"}', "m.jsonl:2: start must be a number of seconds from 0, got 'soon'"),
        ('{"video": "a.mp4", "start": 5, "end": 5}', "m.jsonl:2: end must be after start, got start=5 and end=5"),
        ('{"video": 3}', "m.jsonl:2: video must be text, got 3"),
        ("[1]", "m.jsonl:2: is no JSON object"),
        ("{", "m.jsonl:2: is not JSON"),
        ('{"video": "z.mp4", "id": "z"}', "two rows have the id 'z'"),
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence(folder, line, message):
    (folder / "m.jsonl").write_text('{"video": "z.mp4", "id": "z"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_manifest("m.jsonl", task="caption")


def test_wrong_arguments_are_refused(folder):
    (folder / "empty").mkdir()
    (folder / "m.csv").write_text("video\na.mp4,b.mp4\n")
    (folder / "m.parquet").write_text("no table")
    with pytest.raises(ValueError, match="unknown task 'dense_caption'; choose one of"):
        read_manifest("videos", task="dense_caption")
    with pytest.raises(ValueError, match="--query is given, but caption takes no query"):
        read_manifest("videos", task="caption", query="a light")
    with pytest.raises(DataError, match="empty: is a folder without videos"):
        read_manifest("empty", task="caption")
    with pytest.raises(DataError, match="is a pattern that matches no video"):
        read_manifest("*.mp4", task="caption")
    with pytest.raises(DataError, match=r"m.csv:2: has more values than the header has columns"):
        read_manifest("m.csv", task="caption")
    with pytest.raises(DataError, match=r"m.parquet: is not Parquet"):
        read_manifest("m.parquet", task="caption")
