"""Subtitles and recognized speech as lines of the index."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.search.conftest import write_video
from timechat.answers.events import Event
from timechat.search import Library
from timechat.search.line_sources import SpeechLines
from timechat.speech import Transcript

SRT = "1\n00:00:00,500 --> 00:00:02,000\nThe ferry leaves at noon.\n"


@pytest.fixture(autouse=True)
def _trusted_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "videos" / "clip.mp4", ["red"])


def said(library: Library) -> list[tuple[float, float, str]]:
    return [(line.event.start, line.event.end, line.event.caption) for line in library.lines()]


def test_subtitles_beside_a_video_are_its_speech(library, video):
    video.with_suffix(".srt").write_text(SRT)
    library.index([video])
    assert said(library) == [(0.5, 2.0, "The ferry leaves at noon.")]
    first = library.search("ferry leaves").moments[0]
    assert (first.start, first.end, first.score, first.by) == (0.5, 2.0, 1.0, ("speech",))


def test_subtitles_are_read_again_when_they_change(library, video, encoder):
    library.index([video])
    before = encoder.num_frames
    assert said(library) == []
    video.with_suffix(".en.srt").write_text(SRT)
    assert library.index([video]).num_read == 1
    assert len(said(library)) == 1
    video.with_suffix(".en.srt").write_text(SRT.replace("noon", "midnight"))
    library.index([video])
    assert said(library)[0][2] == "The ferry leaves at midnight."
    assert encoder.num_frames == before
    assert library.index([video]).num_read == 0


def test_subtitles_of_another_video_are_not_used(library, video):
    video.with_name("clip2.srt").write_text(SRT)
    library.index([video])
    assert said(library) == []


class Recognizer:
    """Recognizes the same words in each video."""

    def __init__(self, *_: object, **__: object) -> None:
        self.num_videos = 0

    def transcribe(self, path: str, *, progress: Any) -> Transcript:
        self.num_videos += 1
        progress("listen", 1, 3)
        return Transcript((Event(0.5, 2.0, "good morning"),), ("lines left out: 2 of 3",))


@pytest.fixture
def recognizing(monkeypatch: pytest.MonkeyPatch, video: Path) -> SpeechLines:
    monkeypatch.setattr("timechat.speech.recognition.SpeechRecognizer", Recognizer)
    monkeypatch.setattr("timechat.video.frames.VideoInfo.has_audio", property(lambda _: True))
    return SpeechLines("tiny.en")


def test_speech_is_recognized_if_there_are_no_subtitles(library, video, recognizing):
    report = library.index([video], sources=[recognizing])
    assert said(library) == [(0.5, 2.0, "good morning")]
    assert report.notes == [f"{video}: lines left out: 2 of 3"]


def test_recognized_speech_is_kept_without_a_recognizer(library, video, recognizing):
    library.index([video])
    assert library.index([video], sources=[recognizing]).num_read == 1
    assert library.index([video], sources=[recognizing]).num_read == 0
    assert library.index([video]).num_read == 0
    assert said(library) == [(0.5, 2.0, "good morning")]


def test_subtitles_come_before_recognition(library, video, recognizing):
    video.with_suffix(".vtt").write_text("WEBVTT\n\n00:00.500 --> 00:02.000\nfrom the file\n")
    library.index([video], sources=[recognizing])
    assert said(library) == [(0.5, 2.0, "from the file")]
    assert recognizing._recognizer.num_videos == 0


def test_a_copy_without_subtitles_does_not_replace_them(library, video, encoder):
    video.with_suffix(".srt").write_text(SRT)
    library.index([video])
    for folder in ("backup", "zbackup"):
        copied = video.parent / folder / "a" / "clip.mp4"
        copied.parent.mkdir(parents=True)
        copied.write_bytes(video.read_bytes())
    assert library.index([video.parent]).num_read == 0
    assert len(said(library)) == 1


def test_lines_of_storage_that_is_away_are_kept(library, video, tmp_path):
    video.with_suffix(".srt").write_text(SRT)
    copied = tmp_path / "home" / "clip.mp4"
    copied.parent.mkdir()
    copied.write_bytes(video.read_bytes())
    library.index([video, copied])
    video.parent.rename(tmp_path / "unmounted")
    library.index([copied])
    assert len(said(library)) == 1


def test_another_language_is_read_again(library, video):
    video.with_suffix(".de.srt").write_text(SRT.replace("The ferry leaves", "Die Faehre geht"))
    video.with_suffix(".en.srt").write_text(SRT)
    for language, word in (("en", "ferry"), ("de", "Faehre"), (None, "Faehre")):
        library.index([video], sources=[SpeechLines(language=language)])
        assert word in said(library)[0][2]


def test_a_folder_of_subtitles_is_listed_once(tmp_path, video, monkeypatch):
    listed = []
    scan = os.scandir
    monkeypatch.setattr("timechat.search.line_sources.os.scandir", lambda path: listed.append(path) or scan(path))
    source = SpeechLines()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        source.facts(str(video.with_name(name)))
    assert len(listed) == 1
