"""Captions of a model as lines of the index."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.pipeline.color_encoder import ColorEncoder
from tests.search.conftest import write_video
from timechat.answers.events import Answer, Event
from timechat.pipeline.caption_lines import CaptionLines
from timechat.search import Library


class Captioner:
    """A model that writes the same captions for each video, or knows no video."""

    name = "captioner"

    def __init__(self, *, is_outside: bool = False) -> None:
        self._is_outside, self.num_answers = is_outside, 0
        self.backbone = SimpleNamespace(facts=lambda kind: {"kind": kind}, config=SimpleNamespace(privacy_note=None))

    @contextmanager
    def open(self, path: str, *, keep_in_memory: bool):
        assert not keep_in_memory
        yield path

    def answerer(self) -> "Captioner":
        return self

    def is_outside_domain(self, video: str) -> bool:
        return self._is_outside

    def run(self, request, video, *, progress) -> Answer:
        assert request.task == "dense_caption"
        self.num_answers += 1
        progress("windows", 1, 1)
        return Answer("", [Event(2, 3, "a boat lands"), Event(0, 1, "a dog barks", 0.7), Event(1, 2, " ")])


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)
    write_video(tmp_path / "red.mp4", ["red"])
    with Library(tmp_path / "library.db", encoder=ColorEncoder()) as library:
        yield library


def test_captions_are_written_once_and_found(library, tmp_path):
    captioner = Captioner()
    for _ in range(2):
        library.index([tmp_path / "red.mp4"], sources=[CaptionLines(captioner)])
    assert captioner.num_answers == 1
    assert [(line.event.start, line.event.caption) for line in library.lines()] == [
        (0.0, "a dog barks"),
        (2.0, "a boat lands"),
    ]
    first = library.search("a boat lands").moments[0]
    assert (first.start, first.end, first.by, first.score) == (2.0, 3.0, ("caption",), 1.0)


def test_a_video_outside_the_domain_of_the_model_gets_no_captions(library, tmp_path):
    report = library.index([tmp_path / "red.mp4"], sources=[CaptionLines(Captioner(is_outside=True))])
    assert library.lines() == []
    assert report.notes == [f"{tmp_path}/red.mp4: no captions by captioner: the video is unlike its training videos"]


def test_captions_are_kept_without_the_model(library, tmp_path):
    library.index([tmp_path / "red.mp4"], sources=[CaptionLines(Captioner())])
    assert library.index([tmp_path / "red.mp4"], sources=[]).num_unchanged == 1
    assert len(library.lines()) == 2
