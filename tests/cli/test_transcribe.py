"""`timechat transcribe`: speech that is known, recognized or guessed."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from tests.clips import Subtitles, draw_video_with_subtitles
from timechat.answers.events import Event
from timechat.speech import NO_AUDIO, Transcript, transcript_answer

LINES = [
    Event(0.5, 2.0, "welcome to the kitchen"),
    Event(2.5, 4.0, "we chop two onions"),
    Event(90.0, 91.0, "too late"),
]


@pytest.fixture
def subtitles(tmp_path) -> Path:
    path = tmp_path / "speech.srt"
    path.write_text(
        "1\n00:00:00,500 --> 00:00:02,000\nwelcome to the kitchen\n\n"
        "2\n00:00:02,500 --> 00:00:04,000\nwe chop two onions\n"
    )
    return path


def test_without_a_source_of_words_all_three_are_named(run, short_clip):
    status, out, err = run("transcribe", short_clip)
    assert (status, out) == (2, "")
    assert all(option in err for option in ("--transcript FILE", "--asr MODEL", "--guess"))
    assert err.count("\n") == 1


def test_known_words_are_written_without_the_model(run, short_clip, subtitles, monkeypatch):
    monkeypatch.setattr("timechat.cli.answers.load_timechat", lambda *_, **__: pytest.fail("the model was loaded"))
    status, out, err = run("transcribe", short_clip, "--transcript", subtitles, "--json")
    answer = json.loads(out)
    assert (status, answer["task"], answer["model"]) == (0, "transcribe", None)
    assert [(e["start"], e["end"], e["caption"]) for e in answer["events"]] == [
        (0.5, 2.0, "welcome to the kitchen"),
        (2.5, 4.0, "we chop two onions"),
    ]
    assert "guess" not in err


def test_known_words_become_subtitles_and_a_page(run, short_clip, subtitles, tmp_path):
    target, page = tmp_path / "out.vtt", tmp_path / "out.html"
    status, _, _ = run("transcribe", short_clip, "--transcript", subtitles, "-o", target, "--html", page)
    assert status == 0
    assert "00:00:02.500 --> 00:00:04.000\nwe chop two onions" in target.read_text()
    assert "we chop two onions" in page.read_text()


@pytest.mark.parametrize("other", ["--transcript", "--asr"])
def test_a_guess_beside_known_words_is_refused(run, short_clip, subtitles, other):
    status, _, err = run("transcribe", short_clip, "--guess", other, subtitles)
    assert status == 2
    assert "leave out --transcript and --asr, or --guess" in err


def test_a_silent_video_has_no_speech(run, short_clip, monkeypatch):
    monkeypatch.setattr("timechat.cli.answers.load_timechat", lambda *_, **__: pytest.fail("the model was loaded"))
    status, out, err = run("transcribe", short_clip, "--guess", "--json")
    answer = json.loads(out)
    assert (status, answer["events"], answer["notes"]) == (0, [], [NO_AUDIO])
    assert NO_AUDIO in err


def test_lines_outside_of_the_part_are_left_out():
    answer = transcript_answer(Transcript(tuple(LINES)), video="a.mp4", duration=60.0, start=2.2)
    assert [event.caption for event in answer.events] == ["we chop two onions"]
    assert answer.notes == ("lines of the transcript after the end of the video, left out: 1",)


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_a_cut_list_counts_from_the_timecode_of_the_file(run, subtitles, tmp_path, suffix):
    path, target = tmp_path / f"camera{suffix}", tmp_path / "out.edl"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = "10:20:30;04"
        for _ in range(150):
            container.mux(stream.encode(VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    status, _, err = run("transcribe", path, "--transcript", subtitles, "-o", target)
    assert (status, err) == (0, "")
    assert "V     C        10:20:30;19 10:20:32;04 01:00:00;00 01:00:01;15\n" in target.read_text()


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.setattr("timechat.cli.answers.load_timechat", lambda *_, **__: pytest.fail("the model was loaded"))


@pytest.mark.usefixtures("no_model")
def test_subtitles_are_the_words_of_a_video(run, tmp_path):
    track = Subtitles([(0.5, 2.0, "welcome to the kitchen"), (2.5, 4.0, "Yes.")], language="eng")
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", track)
    status, out, err = run("transcribe", video, "--json")
    answer = json.loads(out)
    assert (status, answer["task"], answer["model"]) == (0, "transcribe", None)
    assert [(e["start"], e["end"], e["caption"]) for e in answer["events"]] == [
        (0.5, 2.0, "welcome to the kitchen"),
        (2.5, 4.0, "Yes."),
    ]
    assert answer["notes"] == ["speech: subtitle track 1 (eng)"]
    assert err == "note: speech: subtitle track 1 (eng)\n"
    video.with_suffix(".srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nbeside the video\n")
    assert [e["caption"] for e in json.loads(run("transcribe", video, "--json")[1])["events"]] == ["beside the video"]


@pytest.mark.usefixtures("no_model")
def test_without_subtitles_the_other_sources_are_named(refused, tmp_path):
    video = draw_video_with_subtitles(tmp_path / "clip.mp4")
    video.with_suffix(".srt").write_text("nonsense")
    line = refused("transcribe", video)
    assert line.startswith(
        f"{video}: has no subtitles to transcribe (subtitles not used: clip.srt:1: 'nonsense' is not"
    )
    assert all(option in line for option in ("--transcript FILE", "--asr MODEL", "--guess"))


@pytest.mark.usefixtures("no_model")
def test_a_video_without_subtitles_fails_alone(run, tmp_path):
    track = Subtitles([(0.5, 2.0, "welcome to the kitchen")])
    draw_video_with_subtitles(tmp_path / "clip.mkv", track)
    draw_video_with_subtitles(tmp_path / "silent.mkv")
    status, _, err = run("transcribe", tmp_path, "--output-dir", tmp_path / "out", "--format", "srt")
    assert status == 1
    assert "silent.mkv: has no subtitles to transcribe; give" in err
    assert "1 of 2 videos failed" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.srt"]


@pytest.mark.usefixtures("no_model")
def test_a_guess_does_not_read_subtitles(run, tmp_path):
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles([(0.5, 2.0, "welcome to the kitchen")]))
    answer = json.loads(run("transcribe", video, "--guess", "--json")[1])
    assert (answer["events"], answer["notes"]) == ([], [NO_AUDIO])


@pytest.mark.usefixtures("no_model")
def test_short_lines_of_a_transcript_are_written(run, short_clip, tmp_path):
    path = tmp_path / "speech.srt"
    path.write_text("1\n00:00:00,500 --> 00:00:01,000\nYes.\n\n2\n00:00:01,000 --> 00:00:02,000\nwe chop two onions\n")
    answer = json.loads(run("transcribe", short_clip, "--transcript", path, "--json")[1])
    assert ([e["caption"] for e in answer["events"]], answer["notes"]) == (["Yes.", "we chop two onions"], [])


def test_a_plan_needs_the_model(refused, short_clip):
    assert "leave out --plan, or add --guess" in refused("transcribe", short_clip, "--plan")
