"""The folder of a batch: parts, kills, retries and the report."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.batch.fakes import EVENT, result_of
from timechat.answers.merging import WindowAnswer
from timechat.answers.token_evidence import Token
from timechat.answers.windows import Window
from timechat.batch.manifest import Row, read_manifest
from timechat.batch.results import ResultFolder
from timechat.batch.stages import Piece
from timechat.errors import DataError

RECIPE = {"task": "caption", "model": "nano"}
A, B, C = (Row(name, f"{name}.mp4", "dense_caption") for name in "abc")
ROWS = [A, B, C]
FAILURE = {"error_kind": "unreadable_video", "error": "b.mp4: is damaged", "attempts": 2}


def read_parts(folder: Path) -> list[dict]:
    return [
        row for path in sorted(folder.glob("answers/*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def finish(folder: ResultFolder, *, is_stopped: bool = False) -> dict:
    return asdict(folder.finish(ROWS, is_stopped=is_stopped, seconds=1.5, answered=1))


def fill(path: Path) -> dict:
    """Answer rows a and c, and let b fail."""
    with ResultFolder(path, RECIPE) as folder:
        folder.add(A, "ok", result_of(A))
        folder.add(B, "failed", FAILURE)
        folder.add(C, "ok", result_of(C))
        return finish(folder)


def test_a_part_holds_the_same_rows_as_its_json_lines(tmp_path):
    fill(tmp_path)
    rows = read_parts(tmp_path)
    assert [(row["id"], row["status"], row["error_kind"], row["attempts"]) for row in rows] == [
        ("a", "ok", None, 1),
        ("b", "failed", "unreadable_video", 2),
        ("c", "ok", None, 1),
    ]
    assert rows[0]["events"] == [{**EVENT.to_dict(), "saliency": None}]
    assert (rows[0]["task"], rows[0]["video"], rows[0]["text"]) == ("dense_caption", "a.mp4", "about a.mp4")
    lines = read_lines(tmp_path / "answers" / "part-00001.jsonl")
    assert lines[0]["events"] == [EVENT.to_dict()]
    assert [list(line) for line in lines] == [list(rows[0])] * 3
    assert not (tmp_path / "open.jsonl").exists()


def test_the_counts_of_a_report_add_up(tmp_path):
    report = fill(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report == {
        "rows": 3,
        "ok": 2,
        "failed": 1,
        "lost": 0,
        "stopped": False,
        "errors": {"unreadable_video": 1},
        "windows": 4,
        "video_seconds": 20.0,
        "answered_now": 1,
        "seconds_now": 1.5,
    }


def test_rows_without_a_result_are_lost_or_still_to_do(tmp_path):
    with ResultFolder(tmp_path, RECIPE) as folder:
        folder.add(A, "ok", result_of(A))
        report = finish(folder, is_stopped=True)
    assert (report["rows"], report["ok"], report["lost"], report["errors"]) == (3, 1, 2, {})
    assert (tmp_path / "failed.jsonl").read_text() == ""
    with ResultFolder(tmp_path, RECIPE) as folder:
        assert folder.todo(ROWS, retry=False) == [B, C]
        report = finish(folder)
    assert (report["rows"], report["ok"], report["lost"], report["errors"]) == (3, 1, 2, {"lost": 2})
    assert [line["id"] for line in read_lines(tmp_path / "failed.jsonl")] == ["b", "c"]


def test_failed_rows_are_a_manifest_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "out")
    (line,) = read_lines(tmp_path / "out" / "failed.jsonl")
    assert line == {
        "id": "b",
        "video": str(tmp_path / "b.mp4"),
        "task": "caption",
        "status": "failed",
        "error_kind": "unreadable_video",
        "error": "b.mp4: is damaged",
    }
    assert read_manifest("out/failed.jsonl", task="ask") == [Row("b", str(tmp_path / "b.mp4"), "dense_caption")]


def test_failed_rows_are_repeated_only_with_retry(tmp_path):
    fill(tmp_path)
    with ResultFolder(tmp_path, RECIPE) as folder:
        assert folder.todo(ROWS, retry=False) == []
        assert folder.todo(ROWS, retry=True) == [B]
    with ResultFolder(tmp_path, RECIPE) as folder:  # killed before the second attempt: the row is missing
        assert folder.todo(ROWS, retry=False) == [B]
        folder.add(B, "ok", result_of(B))
        report = finish(folder)
    assert (report["rows"], report["ok"], report["failed"]) == (3, 3, 0)
    assert [row["id"] for row in read_parts(tmp_path)] == ["a", "c", "b"]
    assert [line["id"] for line in read_lines(tmp_path / "answers" / "part-00001.jsonl")] == ["a", "c"]
    assert (tmp_path / "failed.jsonl").read_text() == ""


def test_rows_of_a_killed_process_are_kept_and_a_cut_line_dropped(tmp_path):
    with ResultFolder(tmp_path, RECIPE) as folder:
        folder.add(A, "ok", result_of(A))
        folder.add(B, "failed", FAILURE)
    content = (tmp_path / "open.jsonl").read_bytes()
    (tmp_path / "open.jsonl").write_bytes(content[:-20])
    with ResultFolder(tmp_path, RECIPE) as folder:
        assert folder.todo(ROWS, retry=False) == [B, C]
        folder.add(B, "failed", FAILURE)
        folder.add(C, "ok", result_of(C))
        finish(folder)
    assert [row["id"] for row in read_parts(tmp_path)] == ["a", "b", "c"]


def test_a_kill_between_the_files_of_a_part_is_repaired(tmp_path):
    with ResultFolder(tmp_path, RECIPE) as folder:
        folder.add(A, "ok", result_of(A))
        open_rows = (tmp_path / "open.jsonl").read_text()
        folder.seal()
    answers = tmp_path / "answers"
    lines = (answers / "part-00001.jsonl").read_text()
    (answers / "part-00001.jsonl").unlink()  # killed after the Parquet file
    (tmp_path / "open.jsonl").write_text(open_rows)
    (answers / "part-00002.jsonl").write_text(lines)  # killed in a part that was removed
    (answers / ".0123456789abcdef.unfinished").touch()
    with ResultFolder(tmp_path, RECIPE) as folder:
        assert folder.todo(ROWS, retry=False) == [B, C]
        finish(folder, is_stopped=True)
    assert sorted(path.name for path in answers.iterdir()) == ["part-00001.jsonl", "part-00001.parquet"]
    assert (answers / "part-00001.jsonl").read_text() == lines


def test_many_rows_make_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("timechat.batch.results._ROWS_OF_PART", 2)
    fill(tmp_path)
    names = [path.name for path in sorted((tmp_path / "answers").glob("*.parquet"))]
    assert names == ["part-00001.parquet", "part-00002.parquet"]
    assert [row["id"] for row in read_parts(tmp_path)] == ["a", "b", "c"]


def test_another_recipe_or_question_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(DataError, match="made with task 'caption' instead of 'ground'; give another --output"):
        ResultFolder(tmp_path, {**RECIPE, "task": "ground"})
    other = Row("a", "a.mp4", "grounding", "a light")
    with ResultFolder(tmp_path, RECIPE) as folder, pytest.raises(DataError, match="another question with the id 'a'"):
        folder.todo([other], retry=False)


def test_a_folder_takes_one_process_at_a_time(tmp_path):
    with ResultFolder(tmp_path, RECIPE), pytest.raises(DataError, match="is in use by another process"):
        ResultFolder(tmp_path, RECIPE)


def test_pieces_are_kept_until_their_row_has_a_result(tmp_path):
    windows = [Window(0.0, 60.0), Window(50.0, 100.0, 2.0)]
    first = Piece((WindowAnswer(windows[0], "first", (Token(0, 1, -0.5),), (0.25,), ("note",), 7),), 2)
    with ResultFolder(tmp_path, RECIPE) as folder:
        assert folder.pieces(A) == []
        folder.add_piece(A, first)
        folder.add_piece(B, Piece((WindowAnswer(windows[0], "all"),), 1))  # a video of one batch needs no piece
    (path,) = (tmp_path / "pieces").iterdir()
    path.write_bytes(path.read_bytes() + b'{"question": ["dense')  # cut by a kill
    with ResultFolder(tmp_path, RECIPE) as folder:
        assert folder.pieces(A) == [first]
        folder.add_piece(A, Piece((WindowAnswer(windows[1], "second"),), 2))
        assert [answer.window for piece in folder.pieces(A) for answer in piece.answers] == windows
        folder.add(A, "ok", result_of(A))
    assert list((tmp_path / "pieces").iterdir()) == []


def test_a_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match='timechat batch needs pyarrow; install the extra "batch"'):
        ResultFolder(tmp_path, RECIPE)
