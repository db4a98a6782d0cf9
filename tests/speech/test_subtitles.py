"""Subtitles of a video: files beside it and tracks of its container, on the clock of its frames."""

import io
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from av.stream import Disposition

from tests.clips import RECIPES, Subtitles, draw_clip, draw_video_with_audio, draw_video_with_subtitles
from timechat.answers.events import Event
from timechat.errors import VideoError
from timechat.speech import Transcript, transcript_answer
from timechat.speech.languages import language_code
from timechat.speech.loading import load_transcript
from timechat.speech.subtitles import find_subtitles
from timechat.video import load_frames, probe_video, subtitle_tracks
from timechat.video.clock import ClockPart, VideoClock

LINES = [(0.5, 2.0, "welcome to the kitchen"), (2.5, 4.0, "we chop two onions")]
SPEECH = tuple(Event(*line) for line in LINES)


def srt(*lines: tuple[float, float, str]) -> str:
    def clock(seconds):
        ms = round(seconds * 1000)
        return f"00:{ms // 60000:02}:{ms // 1000 % 60:02},{ms % 1000:03}"

    return "\n".join(f"{i}\n{clock(a)} --> {clock(b)}\n{text}\n" for i, (a, b, text) in enumerate(lines, 1))


def plain_video(path: Path) -> Path:
    return draw_video_with_subtitles(path)


# -------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["clip.srt", "clip.SRT", "clip.en.srt", "clip.pt-BR.srt", "clip.eng.sdh.srt"])
def test_a_file_of_the_same_stem_is_the_transcript(tmp_path, name):
    video = plain_video(tmp_path / "clip.mp4")
    (tmp_path / name).write_text(srt(*LINES))
    expected = Transcript(SPEECH, (f"speech: subtitles of {name}",))
    assert find_subtitles(video) == find_subtitles(str(video)) == find_subtitles(video.as_uri()) == expected
    assert find_subtitles(video, probe_video(video)) == load_transcript(video) == expected


def test_subtitles_for_a_prompt_are_cleaned(tmp_path):
    video = plain_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.srt").write_text(srt(*LINES, (4.0, 4.5, "Yes.")))
    assert load_transcript(video) == Transcript(
        SPEECH,
        (
            "speech: subtitles of clip.srt",
            "lines of speech with fewer than three words or repeated, left out: 1 of 3",
        ),
    )
    assert load_transcript(video, is_cleaned=False).lines == (*SPEECH, Event(4.0, 4.5, "Yes."))


def test_a_webvtt_file_has_no_markup_left(tmp_path):
    video = plain_video(tmp_path / "clip.mp4")
    cues = "WEBVTT\n\n00:00.500 --> 00:02.000\n<v Ann><i>welcome</i> to\nthe kitchen &amp; more\n"
    (tmp_path / "clip.vtt").write_text(cues)
    (line,) = find_subtitles(video).lines
    assert line == Event(0.5, 2.0, "welcome to the kitchen & more")


@pytest.mark.parametrize(
    "name", ["clips.srt", "clip.part2.srt", "clip.txt", "clip2.srt", "my clip.srt", "clip.mp4.srt", "clip.final.srt"]
)
def test_files_of_other_videos_are_not_read(tmp_path, name):
    video = plain_video(tmp_path / "clip.mp4")
    (tmp_path / name).write_text(srt(*LINES))
    (tmp_path / "clip.srt").mkdir()
    assert find_subtitles(video) is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_of_a_file_are_those_of_players(tmp_path, suffix):
    video = draw_video_with_audio(tmp_path / f"late{suffix}", video_start=1.5, audio_start=0, beep=1, seconds=3)
    lines = [(0.2, 1.4, "before"), (1.0, 2.0, "cut"), (2.5, 3.25, "inside"), (4.0, 9.0, "cut too"), (9.0, 9.5, "after")]
    (tmp_path / "late.srt").write_text(srt(*lines))
    info = probe_video(video)
    assert info.player_offset == pytest.approx(1.5, abs=0.03)  # AAC begins with a block of silence
    found = find_subtitles(video, info)
    assert [line.caption for line in found.lines] == ["cut", "inside", "cut too"]
    assert [line.start for line in found.lines] == pytest.approx([0.0, 1.0, 2.5], abs=0.03)
    assert [line.end for line in found.lines] == pytest.approx([0.5, 1.75, info.duration], abs=0.03)
    assert found.lines[1].start + info.player_offset == pytest.approx(2.5, abs=1e-6)
    assert found.notes == (
        "speech: subtitles of late.srt",
        "lines of the subtitles outside of the frames, left out: 2",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no subtitles at all", "clip.srt:1: 'no subtitles at all' is not the start of a transcript"),
        (b"1\n00:00:01,000 --> 00:00:02,000\ncaf\x81\n", "clip.srt: byte 35 is not UTF-8 text"),
        (b"1\n00:00:01,000 --> never\nwords\n", "clip.srt:2: expected times such as"),
    ],
)
def test_a_damaged_file_is_noted_and_the_track_is_read(tmp_path, content, reason):
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(LINES))
    (tmp_path / "clip.srt").write_bytes(content)
    found = find_subtitles(video)
    assert found.lines == SPEECH
    assert found.notes[0] == "speech: subtitle track 1"
    assert found.notes[1].startswith(f"subtitles not used: {reason}")
    assert str(tmp_path) not in found.notes[1]


def test_old_subrip_is_read_with_a_note(tmp_path):
    path = plain_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.srt").write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n")
    found = find_subtitles(path, probe_video(path))
    assert found is not None
    assert [line.caption for line in found.lines] == ["café"]
    assert found.notes == (
        "speech: subtitles of clip.srt",
        "clip.srt is not UTF-8 and was read as Windows-1252",
    )


def test_a_file_that_cannot_be_opened_is_noted(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    video = plain_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.srt").write_text(srt(*LINES))
    monkeypatch.setattr("timechat.speech.subtitles.transcript_of_file", refuse)
    assert find_subtitles(video) == Transcript((), ("subtitles not used: clip.srt: Permission denied",))


def test_an_empty_file_is_no_transcript(tmp_path):
    video = plain_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.srt").write_text("\n")
    assert find_subtitles(video) == Transcript((), ("subtitles of clip.srt: no line of speech",))


@pytest.mark.parametrize(
    ("language", "name"), [(None, "clip.srt"), ("de", "clip.de.srt"), ("ger", "clip.de.srt"), ("fr", "clip.srt")]
)
def test_the_wanted_language_of_several_files_is_read(tmp_path, language, name):
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(LINES, language="eng"))
    for each in ("clip.de.forced.srt", "clip.de.srt", "clip.es.srt", "clip.srt", "clip.vtt"):
        (tmp_path / each).write_text(srt(*LINES))
    assert find_subtitles(video, language=language).notes == (f"speech: subtitles of {name}",)


def test_a_file_may_be_refused(tmp_path):
    video = plain_video(tmp_path / "clip.mp4")
    (tmp_path / "clip.srt").write_text(srt(*LINES))
    assert find_subtitles(video, may_read=lambda path: path.name != "clip.srt") is None


# ------------------------------------------------------------------------------------------------------- tracks


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mkv", "subrip"), (".mkv", "ass"), (".mkv", "webvtt"), (".mp4", "mov_text")]
)
def test_a_track_is_on_the_clock_of_the_frames(tmp_path, suffix, codec):
    lines = [
        (0.25, 1.25, "before the first frame"),
        (1.0, 2.0, r"{\i1}welcome{\i0}, you"),
        (2.5, 4.0, r"we chop\Ntwo onions"),
        (6.0, 8.0, "until the end"),
        (8.0, 9.0, "after the end"),
    ]
    track = Subtitles(lines, codec, language="eng")
    video = draw_video_with_subtitles(tmp_path / f"late{suffix}", track, video_start=1.5)
    info = load_frames(video, num_frames=1).source  # exact: the header of a .mkv states the end of the subtitles
    found = find_subtitles(video, info)
    assert found == Transcript(
        (Event(0, 0.5, "welcome, you"), Event(1, 2.5, "we chop two onions"), Event(4.5, 5, "until the end")),
        ("speech: subtitle track 1 (eng)", "lines of the subtitles outside of the frames, left out: 2"),
    )
    content = video.read_bytes()
    assert find_subtitles(content, info) == find_subtitles(io.BytesIO(content), info) == found


def test_override_tags_and_drawings_of_ass_are_removed(tmp_path):
    lines = [
        (0.5, 1.0, r"{\an8\fs20}welcome {comment}to{\b1} the{\b0}\hkitchen"),
        (1.0, 1.5, r"{\p1}m 0 0 l 100 0 100 100{\p0}"),
        (1.5, 2.0, r"{\pos(10,20)}cut\Nall, please"),
    ]
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(lines, "ass"))
    assert find_subtitles(video).lines == (Event(0.5, 1, "welcome to the kitchen"), Event(1.5, 2, "cut all, please"))


def test_a_line_that_stays_on_screen_is_read_once(tmp_path):
    lines = [(0.5, 2.0, "we begin"), (0.5, 2.0, "we begin"), (2.0, 3.0, r"we begin\Nwith onions"), (4, 5, "we begin")]
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(lines, "ass"))
    assert [line.caption for line in find_subtitles(video).lines] == ["we begin", "with onions", "we begin"]


def test_a_track_of_pictures_is_noted(tmp_path):
    track = Subtitles([(0.5, 1.0, b"\x00\x06\x00\x04\x00\x00")], "dvd_subtitle", language="eng")
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", track)
    assert find_subtitles(video) == Transcript((), ("subtitle track 1 (dvd_subtitle) is not read: it is not text",))


def test_a_track_of_text_comes_before_one_of_pictures(tmp_path):
    pictures = Subtitles([(0.5, 1.0, b"\x00\x06\x00\x04\x00\x00")], "dvd_subtitle", disposition=Disposition.default)
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", pictures, Subtitles(LINES))
    assert find_subtitles(video) == Transcript(SPEECH, ("speech: subtitle track 2",))


@pytest.mark.parametrize(
    ("language", "track"),
    [(None, "3 (ger)"), ("en", "4 (eng)"), ("eng-US", "4 (eng)"), ("fr", "3 (ger)"), ("xx", "3 (ger)")],
)
def test_the_default_track_or_the_wanted_language_is_read(tmp_path, language, track):
    tracks = [
        Subtitles(LINES, language="eng", disposition=Disposition.forced | Disposition.default),
        Subtitles(LINES, language="spa"),
        Subtitles(LINES, language="ger", disposition=Disposition.default),
        Subtitles(LINES, language="eng"),
        Subtitles(LINES, language="eng", disposition=Disposition.comment),
    ]
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", *tracks)
    assert find_subtitles(video, language=language).notes == (f"speech: subtitle track {track}",)


def test_a_wanted_track_comes_before_another_language(tmp_path):
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(LINES, language="eng"))
    (tmp_path / "clip.de.srt").write_text(srt(*LINES))
    assert find_subtitles(video).notes == ("speech: subtitles of clip.de.srt",)
    assert find_subtitles(video, language="en").notes == ("speech: subtitle track 1 (eng)",)


def test_damaged_lines_of_a_track_are_counted(tmp_path):
    lines = [(0.5, 2.0, b"caf\xe9 is no UTF-8"), (2.5, 4.0, "we chop two onions")]
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(lines))
    found = find_subtitles(video)
    assert found.lines == SPEECH[1:]
    assert found.notes == ("speech: subtitle track 1", "damaged lines of the subtitles left out: 1")


def test_a_track_that_ends_early_keeps_its_lines(tmp_path, monkeypatch):
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(LINES))
    monkeypatch.setattr(subtitle_tracks, "_MAX_CHARACTERS", 30)
    assert find_subtitles(video) == Transcript(
        SPEECH[:1],
        ("speech: subtitle track 1", "reading the subtitles stopped early: they hold more than 30 characters"),
    )


def test_a_track_follows_the_clock_of_the_frames(tmp_path, monkeypatch):
    video = draw_video_with_subtitles(tmp_path / "clip.mkv", Subtitles(LINES))
    parts = [ClockPart(Fraction(a), Fraction(b), Fraction(shift)) for a, b, shift in ((0, 2, 0), (100, 103, 98))]
    index = SimpleNamespace(clock=VideoClock(Fraction(0), tuple(parts)))
    monkeypatch.setattr(subtitle_tracks, "read_index", lambda _: SimpleNamespace(packets=index))
    monkeypatch.setattr(subtitle_tracks, "may_jump", lambda _: True)
    starts = subtitle_tracks._on_video_clock(None, probe_video(video), [Fraction(1), Fraction(101)])
    assert starts == [1, 3]


def test_a_line_without_an_end_lasts_until_the_next_one():
    starts = [0, 3, 30, 31]
    cues = [subtitle_tracks._Cue(Fraction(start), None, "words") for start in starts]
    assert [cue.duration for cue in subtitle_tracks._with_ends(cues)] == [3, 10, 1, 10]


def test_a_video_without_subtitles_has_none(tmp_path):
    clip = draw_clip(RECIPES["constant rate"], tmp_path / "clip.mp4")
    assert find_subtitles(clip.path) is None
    assert find_subtitles(clip.path, probe_video(clip.path)) is None


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        find_subtitles(tmp_path / "clip.mp4")


def test_subtitles_come_back_with_the_times_of_players(tmp_path):
    from timechat.export import write_as

    video = draw_video_with_audio(tmp_path / "late.mkv", video_start=1.5, audio_start=0, beep=1, seconds=5)
    (tmp_path / "late.srt").write_text(srt((2.0, 3.25, "welcome to the kitchen")))
    info = probe_video(video)
    answer = transcript_answer(
        find_subtitles(video, info), video=None, duration=info.duration, player_offset=info.player_offset
    )
    assert answer.events == [Event(0.5, 1.75, "welcome to the kitchen")]
    assert "00:00:02,000 --> 00:00:03,250\nwelcome to the kitchen" in write_as(answer, "srt")


@pytest.mark.parametrize(
    ("tag", "code"),
    [("en", "en"), ("ENG", "en"), ("ger", "de"), ("deu", "de"), ("pt-BR", "pt"), ("zh_Hans", "zh"), ("", None)],
)
def test_language_tags_are_read(tag, code):
    assert language_code(tag) == code


@pytest.mark.parametrize("tag", [None, "und", "sdh", "mp4", "english", "-"])
def test_other_words_are_no_language(tag):
    assert language_code(tag) is None
