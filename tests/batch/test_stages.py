"""Stages with the built-in model, and without any."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.fakes import PlanWithModules
from tests.clips import RECIPES, draw_clip
from timechat import TimeChat
from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import WindowConfig
from timechat.backbones import loading
from timechat.backbones.backbone import BackboneConfig
from timechat.batch import BatchSettings, Row
from timechat.batch.stages import AnswerVideo, OutsideDomainError, PlanVideo, error_kind, error_message
from timechat.batch.worker import Worker
from timechat.errors import DataError, EndpointError, PromptTooLongError, VideoError, VideoTimeoutError
from timechat.files.cache import DiskCache
from timechat.model import NANO_FOLDER
from timechat.pipeline import Request
from timechat.pipeline.answering import Answerer
from timechat.video.sampling import FrameSampling

WINDOWS = WindowConfig(window=1.0, overlap=0.1, batch_size=3)
SHORT = DecodingOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clock.mp4"
    draw_clip(RECIPES["constant rate"], path)
    return path


@pytest.fixture(scope="module")
def stage() -> AnswerVideo:
    settings = BatchSettings(
        task="caption", output=Path("out"), device="cpu", windows=WINDOWS, decoding=SHORT, by="model", force=True
    )
    return AnswerVideo(settings)


@pytest.mark.parametrize(("task", "query"), [("dense_caption", None), ("grounding", "a clock")])
def test_a_row_has_the_answer_of_the_command(stage, clip, task, query):
    nano = TimeChat(stage.timechat.backbone, cache=DiskCache(max_bytes=0))
    expected = nano.run(Request(task, query, decoding=SHORT), clip, windows=WINDOWS).to_dict()
    pieces = []
    result = stage(Row("x", str(clip), task, query), [], pieces.append)
    windows = [answer.window for piece in pieces for answer in piece.answers]
    assert result == {**expected, "timings": result["timings"], "windows": len(windows)}
    assert len(pieces) == -(-len(windows) // 3)
    again = []
    resumed = stage(Row("x", str(clip), task, query), pieces[:1], again.append)
    assert {**resumed, "timings": None} == {**result, "timings": None}
    assert again == pieces[1:]


def test_a_video_outside_of_the_domain_is_refused(stage, clip, monkeypatch):
    monkeypatch.setattr(Answerer, "is_outside_domain", lambda *_: True)
    strict = AnswerVideo(BatchSettings(task="caption", output=Path("out"), windows=WINDOWS))
    strict.__dict__["timechat"] = stage.timechat
    with pytest.raises(OutsideDomainError, match=r"nano was trained only on .*--force to get a guess"):
        strict(Row("x", str(clip), "dense_caption"), [], pytest.fail)


def test_known_speech_is_the_answer_of_transcribe(stage, clip, tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nHello there.\n")
    result = stage(Row("x", str(clip), "transcribe", transcript=str(tmp_path / "a.srt")), [], pytest.fail)
    assert [(event["start"], event["end"], event["caption"]) for event in result["events"]] == [
        (0.5, 1.0, "Hello there.")
    ]
    with pytest.raises(ValueError, match="has no subtitles to transcribe"):
        stage(Row("x", str(clip), "transcribe"), [], pytest.fail)


def test_a_plan_needs_no_torch(clip):
    config = BackboneConfig(FrameSampling(fps=2, max_frames=600), num_frames=16, window_seconds=60)
    settings = BatchSettings(task="caption", output=Path("out"), windows=WINDOWS)
    row = Row("x", str(clip), "dense_caption")
    with Worker(PlanWithModules(settings, config)) as worker:
        outcome = worker.run(row, timeout=60, on_piece=pytest.fail)
    assert outcome.result is not None
    assert outcome.result.pop("has_torch") is False
    assert outcome.result == PlanVideo(settings, config)(row, [], pytest.fail)
    assert outcome.result["pieces"] == -(-outcome.result["windows"] // 3) > 1
    with pytest.raises(VideoError, match="before the start at 100 s"):
        PlanVideo(settings, config)(Row("x", str(clip), "dense_caption", start=100.0), [], pytest.fail)


def test_the_properties_of_a_model_in_a_folder_are_read_once(tmp_path, monkeypatch):
    cache, folder = DiskCache(tmp_path / "cache"), tmp_path / "model"
    folder.mkdir()
    content = json.loads((NANO_FOLDER / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content))
    known = [loading.load_backbone_config(name, cache) for name in ("nano", str(folder))]
    assert known[0] == known[1] == loading.load_backbone_config("nano")
    again = replace(known[0], window_seconds=7)
    monkeypatch.setattr(loading, "_read_backbone_config", lambda _: again)
    assert [loading.load_backbone_config(name, cache) for name in ("nano", str(folder))] == known
    (folder / "config.json").write_text(json.dumps({**content, "window_seconds": 7}))
    assert loading.load_backbone_config(str(folder), cache) == again
    assert loading.load_backbone_config("nano", DiskCache(tmp_path / "cache", max_bytes=0)) == again


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (VideoTimeoutError("late"), "timeout", "late"),
        (VideoError("damaged"), "unreadable_video", "damaged"),
        (PromptTooLongError("long"), "too_long", "long"),
        (EndpointError("away", "unreachable"), "server", "away"),
        (OutsideDomainError("unlike"), "outside_domain", "unlike"),
        (DataError("lines"), "invalid", "lines"),
        (MemoryError("full"), "out_of_memory", "full"),
        (ZeroDivisionError("zero"), "internal", "ZeroDivisionError: zero"),
    ],
)
def test_an_error_has_a_kind_and_one_line(error, kind, message):
    assert (error_kind(error), error_message(error)) == (kind, message)
