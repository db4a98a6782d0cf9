"""A video in pieces for several processes: the same answer as in one process, and what a dead process costs."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.batch.fakes import DecodeWithModules, PlanPiecesWithModules
from tests.clips import RECIPES, draw_clip
from tests.search.conftest import ColorEncoder, write_video
from timechat.answers.merging import WindowAnswer
from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import Window, WindowConfig
from timechat.batch import BatchSettings, Row
from timechat.batch.board import PieceBoard
from timechat.batch.pieces import (
    AnswerPiece,
    DecodePiece,
    MergeTask,
    PieceTask,
    PlanPieces,
    RankTask,
    RankWindows,
    pack_index,
    unpack_index,
)
from timechat.batch.stages import AnswerVideo, OutsideDomainError, Piece, read_config, result_of
from timechat.batch.worker import Worker
from timechat.errors import VideoError
from timechat.pipeline import FrameSampling, Request, retrieving
from timechat.pipeline.window_encoder import WindowEncoder
from timechat.search.retrieval import RetrievalConfig
from timechat.video import VideoReader

SETTINGS = BatchSettings(
    task="caption",
    output=Path("out"),
    device="cpu",
    windows=WindowConfig(window=1.0, overlap=0.1, batch_size=2),
    decoding=DecodingOptions(max_new_tokens=6),
    by="model",
    force=True,
)
CONFIG = read_config(SETTINGS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clip") / "clock.mp4"
    draw_clip(RECIPES["constant rate"], path)
    return str(path)


@pytest.fixture(scope="module")
def answer() -> AnswerPiece:
    return AnswerPiece(SETTINGS)


def plan(row: Row, pieces: Sequence[Piece] = (), settings: BatchSettings = SETTINGS) -> list[PieceTask]:
    return PlanPieces(settings, CONFIG)(row, pieces, pytest.fail)["tasks"]


def decode(task: PieceTask, settings: BatchSettings = SETTINGS) -> PieceTask:
    return replace(task, frames=DecodePiece(settings, CONFIG)(task, [], pytest.fail)["frames"])


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "timings": sorted(result["timings"])}


@pytest.mark.parametrize(("task", "query"), [("dense_caption", None), ("grounding", "a clock")])
def test_pieces_in_any_order_give_the_answer_of_one_process(answer, clip, task, query):
    row, known = Row("x", clip, task, query), []
    expected = AnswerVideo(SETTINGS)(row, [], known.append)
    tasks = plan(row)
    assert [len(each.windows) for each in tasks] == [len(piece.answers) for piece in known] == [2, 2]
    board, merged = PieceBoard({}), []
    for each in (tasks[1], decode(tasks[0])):
        found = answer(each, [], pytest.fail)
        piece = Piece(found["answers"], found["total"])
        if (answers := board.add("x", each.windows[0].start, piece, found["seconds"], False)) is not None:
            merged.append(answer(MergeTask(row, each.index, *answers), [], pytest.fail))
    assert board.take() == [("x", piece) for piece in known[::-1]]
    assert [without_times(result) for result in merged] == [without_times(expected)]
    (rest,) = plan(row, known[1:])
    assert rest.windows == tasks[0].windows
    assert [each.windows for each in plan(row, known)] == [()]


def test_a_video_of_one_piece_is_merged_at_once(answer, clip):
    row = Row("x", clip, "dense_caption", start=0.5, end=2.0)
    (task,) = plan(row)
    assert task.num_pieces == 1
    result = answer(decode(task), [], pytest.fail)
    assert without_times(result) == without_times(AnswerVideo(SETTINGS)(row, [], lambda _: None))
    assert result["windows"] == 2


def test_an_index_keeps_every_time(clip):
    with VideoReader(clip) as reader:
        index = reader.index
    again = unpack_index(pack_index(index))
    for name in ("pts", "dts", "keys", "shown", "raw_pts", "labels"):
        assert np.array_equal(getattr(again.packets, name), getattr(index.packets, name))
    assert again.packets.has_own_labels == index.packets.has_own_labels
    assert (again.info, again.notes) == (index.info, index.notes)


def test_rows_that_are_not_split_stay_whole(clip):
    searched = replace(SETTINGS, by="search")
    assert plan(Row("x", clip, "transcribe")) == [PieceTask(Row("x", clip, "transcribe"))]
    assert plan(Row("x", clip, "grounding", "a clock"), settings=searched)[0].num_pieces == 0
    with pytest.raises(VideoError, match=r"clock.mp4: ends at 3.000 s, before the start at 9 s"):
        plan(Row("x", clip, "dense_caption", start=9.0))


def test_planning_and_decoding_import_no_torch(clip):
    with (
        Worker(PlanPiecesWithModules(SETTINGS, CONFIG)) as planner,
        Worker(DecodeWithModules(SETTINGS, CONFIG)) as decoder,
    ):
        planned = planner.run(Row("x", clip, "dense_caption"), timeout=60.0).result
        assert planned is not None
        decoded = decoder.run(planned["tasks"][0], timeout=60.0).result
    assert decoded is not None
    assert (planned["has_torch"], decoded["has_torch"]) == (False, False)
    assert [len(frames) for frames in decoded["frames"]] == [2, 2]


# ------------------------------------------------------------------------------------------------ ranked windows

READ = replace(
    SETTINGS,
    task="ground",
    windows=WindowConfig(window=3.0, overlap=0.0, batch_size=2),
    sampling=FrameSampling(fps=1.0),
    read=0.5,
    encoder="colors",
)


@pytest.mark.parametrize(("task", "read", "starts"), [("grounding", 0.5, [0, 9, 15]), ("ask", 0.17, [15])])
def test_pieces_of_the_best_windows_give_the_answer_of_the_command(answer, tmp_path, monkeypatch, task, read, starts):
    monkeypatch.setitem(retrieving._loaded, "colors", ColorEncoder())
    video = str(write_video(tmp_path / "colors.mp4", ["red", "blue", "green", "red", "blue", "red"]))
    settings, timechat = replace(READ, read=read), answer._whole.timechat
    stage = AnswerPiece(settings)
    stage._whole.__dict__["timechat"] = timechat
    request = Request(task, "red", decoding=READ.decoding, retrieval=RetrievalConfig(read, encoder="colors"))
    command = timechat.run(request, video, windows=READ.windows, sampling=READ.sampling)
    row, known = Row("x", video, task, "red"), []
    loop = stage._whole(row, [], known.append)
    assert without_times(loop) == without_times(result_of(command, len(starts)))
    (planned,) = plan(row, settings=settings)
    tasks = pickle.loads(pickle.dumps(RankWindows(settings)(planned, [], pytest.fail)["tasks"]))
    assert [window.start for task in tasks for window in task.windows] == starts
    board, merged = PieceBoard({}), []
    for each in tasks:
        found = stage(decode(each, settings), [], pytest.fail)
        if each.num_pieces == 1:
            merged.append(found)
            continue
        piece = Piece(found["answers"], found["total"])
        if (answers := board.add("x", each.windows[0].start, piece, {}, False)) is not None:
            merged.append(stage(MergeTask(row, each.index, *answers, each.chosen), [], pytest.fail))
    assert [without_times(result) for result in merged] == [without_times(loop)]
    (rest, *others) = RankWindows(settings)(plan(row, known[:1], settings)[0], [], pytest.fail)["tasks"]
    assert (rest.windows, others) == (tasks[1].windows if len(tasks) > 1 else (), [])


def test_all_windows_of_a_short_video_and_of_other_tasks_are_read(clip):
    settings = replace(SETTINGS, task="ground", read=0.5)
    short, captions = Row("x", clip, "grounding", "a", 0.0, 2.0), Row("x", clip, "dense_caption")
    assert [type(task) for task in plan(Row("x", clip, "grounding", "a"), settings=settings)] == [RankTask]
    for row in (short, captions):
        assert {type(task) for task in plan(row, settings=settings)} == {PieceTask}


# --------------------------------------------------------------------------------------------------- the domain


@pytest.fixture
def strict(answer, monkeypatch) -> AnswerPiece:
    """A stage that does not guess about videos outside of the domain, as all of them are here."""
    monkeypatch.setattr("timechat.pipeline.answering.Answerer.is_outside_domain", lambda *_: True)
    stage = AnswerPiece(replace(SETTINGS, by="auto", force=False))
    stage._whole.__dict__["timechat"] = answer._whole.timechat
    return stage


def test_a_piece_outside_of_the_domain_is_refused_or_searched(strict, clip):
    (caption, *_), (ground, *_) = plan(Row("x", clip, "dense_caption")), plan(Row("x", clip, "grounding", "a clock"))
    with pytest.raises(OutsideDomainError, match="nano was trained only on"):
        strict(caption, [], pytest.fail)
    assert strict(ground, [], pytest.fail) == {"is_searched": True, "is_outside": True}
    known = strict(replace(ground, is_outside=False), [], pytest.fail)
    assert (len(known["answers"]), known["is_outside"], known["total"]) == (2, False, 4)


def test_windows_that_test_the_domain_are_encoded_once(answer, clip, monkeypatch):
    """A piece whose windows were encoded to test the domain uses them."""
    monkeypatch.setattr("timechat.pipeline.answering.is_outside_by_notes", lambda *_: False)
    encoded, encode = [], WindowEncoder.encode
    monkeypatch.setattr(WindowEncoder, "encode", lambda self, *args: encoded.append(args[1]) or encode(self, *args))
    settings = replace(SETTINGS, force=False)
    stage = AnswerPiece(settings)
    stage._whole.__dict__["timechat"] = answer._whole.timechat
    row = Row("x", clip, "dense_caption")
    expected = stage(row, [], lambda _: None)
    assert len(encoded) == len(set(encoded)) == 4
    encoded.clear()
    tasks = [decode(task, settings) for task in plan(row, settings=settings)]
    found = [stage(task, [], pytest.fail) for task in tasks]
    assert len(encoded) == len(set(encoded)) == 4
    assert [result["seconds"]["encode"] > 0 for result in found] == [True, False]
    answers = tuple(each for result in found for each in result["answers"])
    merged = stage(MergeTask(row, tasks[0].index, answers, {}), [], pytest.fail)
    assert without_times(merged) == without_times(expected)


# ---------------------------------------------------------------------------------------------------- the board

WINDOWS = [Window(10.0 * i, 10.0 * (i + 1)) for i in range(4)]
FIRST, LAST = (Piece(tuple(WindowAnswer(window, "") for window in pair), 4) for pair in (WINDOWS[:2], WINDOWS[2:]))


def test_the_last_piece_gets_all_answers_and_so_does_its_repetition():
    board = PieceBoard({})
    assert board.add("x", 0.0, FIRST, {"answer": 1.0}, True) is None
    state = board.begin("x", WINDOWS[:2])
    assert (state.is_over, state.is_known, state.is_outside) == (False, True, True)
    assert not board.begin("x", WINDOWS[1:3]).is_known
    for _ in range(2):
        assert board.add("x", 20.0, LAST, {"answer": 2.0}, False) == ((*FIRST.answers, *LAST.answers), {"answer": 3.0})
    assert board.add("x", 0.0, FIRST, {}, False) is None
    board.begin_round()
    assert board.add("x", 0.0, FIRST, {}, False) is not None
    assert [piece for _, piece in board.take()] == [FIRST, LAST]
    assert board.take() == []


def test_a_known_piece_that_is_repeated_waits_for_the_others():
    board, known = PieceBoard({}), Piece((), 0)
    assert board.add("x", 0.0, known, {}, None) is None
    board.add("x", 0.0, FIRST, {}, None)
    assert board.add("x", 0.0, known, {}, None) is None
    assert board.add("x", 20.0, LAST, {}, None) is not None
    assert board.add("x", 0.0, known, {}, None) is None
    assert board.add("x", 20.0, known, {}, None) is not None


def test_pieces_of_an_earlier_run_are_known_and_not_new():
    board = PieceBoard({"x": [FIRST]})
    assert board.begin("x", WINDOWS[:2]).is_known
    found = board.add("x", 20.0, LAST, {}, False)
    assert found is not None
    assert found[0] == (*FIRST.answers, *LAST.answers)
    assert board.take() == [("x", LAST)]
    assert PieceBoard({"x": [FIRST, LAST]}).add("x", -1.0, Piece((), 4), {}, None) is not None


def test_a_row_that_is_over_needs_no_more_pieces():
    board = PieceBoard({})
    board.finish("x")
    assert board.begin("x", WINDOWS).is_over
    board.begin_round()
    assert not board.begin("x", WINDOWS).is_over
    assert [board.claim("y", start) for start in (10.0, 0.0, 10.0)] == [True, False, True]
    board.forget("x")
    assert board.begin("x", WINDOWS).is_over
