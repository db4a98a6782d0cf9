"""Subtitles, chapters, lists for editors and submissions, read back by the libraries that others read them with."""

import html
import io
import json
import sys
import time
from fractions import Fraction
from itertools import pairwise

import av
import opentimelineio as otio
import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from timechat.answers.events import Answer, Event
from timechat.answers.timecode import parse_timecode, timecode
from timechat.export import (
    FORMATS,
    MOMENT_SECONDS,
    export_notes,
    timebase,
    to_edl,
    to_ffmetadata,
    to_otio,
    to_qvhighlights,
    to_srt,
    to_vtt,
    to_vtt_chapters,
    to_youtube,
    write_as,
)

NTSC = Fraction(30000, 1001)
FILM = Answer(
    "",
    [
        Event(0, 12.5, "Chop; dice."),
        Event(12.5, 70.25, "Fry = brown #1 \\ turn."),
        Event(80, 95, "Eat <all>\n& smile."),
    ],
    task="steps",
    video="films/my film.mp4",
    duration=120.0,
)
MOMENTS = Answer(
    "",
    [Event(118, 118, "end", saliency=2.5), Event(3, 3, "on", saliency=4)],
    task="highlights",
    question="on",
    duration=119.0,
)

times = st.integers(0, 5 * 3600 * 1000).map(lambda milliseconds: milliseconds / 1000)
captions = st.text(st.characters(codec="utf-8"), max_size=30)
events = st.builds(
    lambda a, b, caption, score: Event(min(a, b), max(a, b), caption, score),
    *(times, times, captions, st.none() | st.floats(0, 1)),
)
answers = st.builds(lambda found: Answer("", found, task="steps", video="film.mp4"), st.lists(events, max_size=6))
rates = st.sampled_from([Fraction(24000, 1001), 24, 25, NTSC, 30, 50, Fraction(60000, 1001), 60])


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_a_text_that_ends_a_line_also_for_no_events(form):
    assert FORMATS[form].write(FILM).endswith("\n")
    if form != "youtube":
        assert isinstance(FORMATS[form].write(Answer("")), str)
    assert export_notes(Answer(""), form) == []


# ------------------------------------------------------------------------------------------------- subtitles


@given(answers)
def test_srt_is_read_by_pysubs2_to_the_millisecond(answer):
    read = pysubs2.SSAFile.from_string(to_srt(answer), format_="srt") if answer.events else []
    expected = sorted(
        (round(e.start * 1000), round((e.end if e.duration else e.start + 2) * 1000)) for e in answer.events
    )
    assert [(line.start, line.end) for line in read] == expected


def test_srt_captions_are_read_as_they_were():
    read = pysubs2.SSAFile.from_string(to_srt(FILM), format_="srt", keep_html_tags=True)
    assert [line.plaintext for line in read] == [event.caption for event in FILM.events]


def read_vtt(text):
    """Start and end in milliseconds and text of every cue, as webvtt-py reads them."""
    cues = webvtt.from_string(text).captions
    return [(c.start_time.in_milliseconds(), c.end_time.in_milliseconds(), c.text) for c in cues]


@pytest.mark.parametrize("write", [to_vtt, to_vtt_chapters])
def test_vtt_is_read_by_webvtt(write):
    read = read_vtt(write(FILM))
    assert [cue[:2] for cue in read] == [(e.start * 1000, e.end * 1000) for e in FILM.events]
    assert [html.unescape(text).replace("\n", " ") for _, _, text in read] == [
        "Chop; dice.",
        "Fry = brown #1 \\ turn.",
        "Eat <all> & smile.",
    ]


# -------------------------------------------------------------------------------------------------- chapters


def read_ffmetadata(text):
    """Chapters as FFmpeg reads them: start and end in seconds, and the title."""
    with av.open(io.BytesIO(text.encode()), format="ffmetadata") as container:
        chapters = container.chapters()
    return [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"].get("title", "")) for c in chapters]


def test_ffmetadata_is_read_by_ffmpeg():
    assert read_ffmetadata(to_ffmetadata(FILM)) == [
        (0, Fraction(25, 2), "Chop; dice."),
        (Fraction(25, 2), Fraction(281, 4), "Fry = brown #1 \\ turn."),
        (80, 95, "Eat <all> & smile."),
    ]


@given(st.lists(st.tuples(st.integers(0, 1000), st.text("ab=;#\\ [é李", min_size=1)), min_size=1, max_size=4))
def test_ffmetadata_titles_come_through_ffmpeg(found):
    answer = Answer("", [Event(second, second + 0.5, f".{text}.") for second, text in dict(found).items()])
    expected = {e.start: " ".join(e.caption.split()) for e in answer.events}
    assert {start: title for start, _, title in read_ffmetadata(to_ffmetadata(answer))} == expected


@pytest.mark.parametrize("write", [to_vtt_chapters, to_ffmetadata])
@given(answer=answers)
def test_chapters_follow_each_other_and_start_where_events_start(write, answer):
    if write is to_ffmetadata:
        read = [(round(start * 1000), round(end * 1000)) for start, end, _ in read_ffmetadata(write(answer))]
    else:
        read = [cue[:2] for cue in read_vtt(write(answer))]
    assert [start for start, _ in read] == sorted({round(event.start * 1000) for event in answer.events})
    assert all(start < end for start, end in read)
    assert all(end <= start for (_, end), (start, _) in pairwise(read))


def test_chapters_that_had_to_give_way_are_told():
    answer = Answer("", [Event(0, 50, "a"), Event(10, 20, "b"), Event(10, 30, "c")])
    assert read_ffmetadata(to_ffmetadata(answer)) == [(0, 10, "a"), (10, 30, "b / c")]
    assert export_notes(answer, "ffmetadata") == [
        "1 of 2 chapters end early, where the next one starts",
        "1 events start together with another and share its chapter",
    ]
    assert export_notes(FILM, "vtt-chapters") == []


def test_a_film_with_chapters_from_ffmetadata_has_them(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        with av.open(io.BytesIO(to_ffmetadata(FILM).encode()), format="ffmetadata") as chapters:
            container.set_chapters(chapters.chapters())
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 16
        for pts in range(120):
            frame = av.VideoFrame(16, 16, "yuv420p")
            frame.pts, frame.time_base = pts, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "film.mp4")) as container:
        found = [(float(c["start"] * c["time_base"]), c["metadata"]["title"]) for c in container.chapters()]
    assert found == [(0, "Chop; dice."), (12.5, "Fry = brown #1 \\ turn."), (80, "Eat <all> & smile.")]


def youtube(*starts, duration=4000.0):
    return Answer("", [Event(start, start + 1, f"e{start}") for start in starts], duration=duration)


def test_youtube_chapters_start_at_zero_with_an_opening_if_need_be():
    assert to_youtube(FILM) == "0:00 Chop; dice.\n0:12 Fry = brown #1 \\ turn.\n1:20 Eat ‹all› & smile.\n"
    assert export_notes(FILM, "youtube") == []
    assert to_youtube(youtube(75, 3725.4)) == "0:00 Opening\n1:15 e75\n1:02:05 e3725.4\n"
    assert "'Opening' is put before" in export_notes(youtube(75, 3725), "youtube")[0]
    assert to_youtube(youtube(4, 20, 30)) == "0:00 e4\n0:20 e20\n0:30 e30\n"
    assert export_notes(youtube(4, 20, 30), "youtube") == [
        "the first chapter starts at 0:00, not at 0:04: YouTube wants it so"
    ]


def test_youtube_chapters_too_near_to_another_or_to_the_end_are_left_out():
    answer = youtube(0, 9, 10, 15, 30, 3991)
    assert to_youtube(answer) == "0:00 e0\n0:10 e10\n0:30 e30\n"
    assert export_notes(answer, "youtube") == ["left out, as chapters must last 10 s: 0:09 e9; 0:15 e15; 1:06:31 e3991"]


@pytest.mark.parametrize("answer", [youtube(0, 30), youtube(0, 5, 9, 30), youtube(5, 10, duration=18.0), Answer("")])
def test_fewer_than_three_youtube_chapters_are_refused(answer):
    with pytest.raises(ValueError, match=r"YouTube takes 3 chapters or more.*give [012]; vtt-chapters"):
        to_youtube(answer)


@given(answers)
def test_youtube_chapters_keep_the_rules(answer):
    try:
        lines = to_youtube(answer).splitlines()
    except ValueError:
        return
    assert all(len(line.split(" ", 1)[1]) > 0 for line in lines)
    seconds = [
        sum(int(part) * 60**place for place, part in enumerate(reversed(line.split()[0].split(":")))) for line in lines
    ]
    assert len(seconds) >= 3
    assert seconds[0] == 0
    assert all(later - earlier >= 10 for earlier, later in pairwise(seconds))


# --------------------------------------------------------------------------------------------- video editors


def read_edl(text, rate):
    """Clips as OpenTimelineIO reads them from a CMX3600 list."""
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate))
    return list(timeline.find_clips()), timeline


def seconds(time_range):
    """Start and end of an OpenTimelineIO range in exact seconds, at its true rate."""
    rate = timebase(time_range.start_time.rate)
    start = Fraction(round(time_range.start_time.value)) / rate
    return start, start + Fraction(round(time_range.duration.value)) / rate


def test_an_edl_is_a_list_of_cuts_with_reel_timecodes_and_comments():
    assert to_edl(FILM, fps=25) == (
        "TITLE: my film.mp4\n"
        "FCM: NON-DROP FRAME\n"
        "\n"
        "001  MYFILM   V     C        00:00:00:00 00:00:12:12 01:00:00:00 01:00:12:12\n"
        "* FROM CLIP NAME: my film.mp4\n"
        "* COMMENT: Chop; dice.\n"
        "\n"
        "002  MYFILM   V     C        00:00:12:12 00:01:10:06 01:00:12:12 01:01:10:06\n"
        "* FROM CLIP NAME: my film.mp4\n"
        "* COMMENT: Fry = brown #1 \\ turn.\n"
        "\n"
        "003  MYFILM   V     C        00:01:20:00 00:01:35:00 01:01:10:06 01:01:25:06\n"
        "* FROM CLIP NAME: my film.mp4\n"
        "* COMMENT: Eat <all> & smile.\n"
    )


@given(answers, rates, st.booleans())
def test_an_edl_is_read_by_opentimelineio_within_half_a_frame(answer, rate, is_dropped):
    can_drop = rate in (NTSC, Fraction(60000, 1001))
    clips, _ = read_edl(to_edl(answer, fps=rate, drop_frame=is_dropped and can_drop), rate)
    wanted = sorted(answer.events, key=lambda event: (event.start, event.end))
    assert len(clips) == len(wanted)
    for clip, event in zip(clips, wanted, strict=True):
        start, end = seconds(clip.source_range)
        event_end = event.end if event.duration else event.start + MOMENT_SECONDS
        half = Fraction(1, 2) / rate
        assert abs(start - Fraction(event.start)) <= half
        assert abs(end - Fraction(event_end)) <= half or end - start == 1 / Fraction(rate)


@given(st.integers(0, 24 * 107892 - 1), st.booleans())
def test_timecode_is_that_of_opentimelineio(frame, is_dropped):
    for rate in (NTSC, 2 * NTSC) if is_dropped else (Fraction(25), NTSC, 2 * NTSC):
        theirs = otio.opentime.RationalTime(frame, float(rate)).to_timecode(float(rate), drop_frame=is_dropped)
        assert timecode(frame, rate, drop=is_dropped) == theirs


def test_drop_frame_timecode_keeps_up_with_the_clock():
    hour = Answer("", [Event(3600, 3661)])
    assert "01:00:00;00 01:01:01;00 01:00:00;00 01:01:01;00" in to_edl(hour, fps=29.97)
    assert "FCM: DROP FRAME" in to_edl(hour, fps=59.94)
    assert "00:59:56:12 01:00:57:10 01:00:00:00" in to_edl(hour, fps=29.97, drop_frame=False)
    with pytest.raises(ValueError, match=r"exists at 29\.97 and 59\.94 frames per second, not at 25"):
        to_edl(hour, fps=25, drop_frame=True)


def test_captions_scores_and_reels_come_through_an_edl():
    clips, timeline = read_edl(to_edl(MOMENTS, fps=25), 25)
    assert timeline.name == "on"
    assert [list(clip.metadata["cmx_3600"]["comments"]) for clip in clips] == [
        ["COMMENT: on", "COMMENT: saliency 4"],
        ["COMMENT: end", "COMMENT: saliency 2.5"],
    ]
    assert [seconds(clip.source_range) for clip in clips] == [(3, 5), (117, 119)]
    [clip, *_], _ = read_edl(to_edl(FILM), 25)
    assert (clip.name, clip.metadata["cmx_3600"]["reel"]) == ("my film.mp4", "MYFILM")
    assert "001  AX " in to_edl(MOMENTS)


def test_an_edl_holds_999_events():
    with pytest.raises(ValueError, match="holds 999 events, the answer has 1000; write it as otio"):
        to_edl(Answer("", [Event(0, 1)] * 1000))


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (23.976, Fraction(24000, 1001)),
        (24, 24),
        (29.97, NTSC),
        (30.02, 30),
        (29.86, NTSC),
        (59.94, 2 * NTSC),
        (15, 30),
        (Fraction(15000, 1001), NTSC),
        (12.5, 25),
        (16, 48),
        (13.7, 24),
        (90.5, 91),
        (0.5, 24),
    ],
)
def test_editors_count_at_a_rate_that_they_know(fps, rate):
    assert timebase(fps) == rate


@given(st.floats(0.1, 240))
def test_rounding_to_the_timebase_moves_no_time_by_more_than_half_a_frame(fps):
    assert timebase(fps) >= fps * 0.99


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(ValueError, match="fps must be frames per second, above 0"):
        timebase(fps)


def test_the_rate_is_told_where_it_is_not_the_videos():
    assert export_notes(FILM, "edl") == ["frames are counted at 25 a second: the video's own rate is not known"]
    assert export_notes(FILM, "otio", fps=13.7) == ["frames are counted at 24 a second, as editors know no 13.7"]
    assert export_notes(FILM, "edl", fps=29.97) == []
    assert write_as(FILM, "edl", fps=50) == to_edl(FILM, fps=50)
    assert write_as(FILM, "srt", fps=50) == to_srt(FILM)


@given(st.integers(0, 24 * 90000 - 1), st.booleans())
def test_a_parsed_timecode_is_the_frame_it_was_written_for(frame, is_dropped):
    for rate in (NTSC, 2 * NTSC) if is_dropped else (Fraction(25), NTSC, 2 * NTSC):
        assert parse_timecode(timecode(frame, rate, drop=is_dropped), rate) == (frame, is_dropped)


@pytest.mark.parametrize(
    ("start_timecode", "fps", "sources", "first_frame"),
    [
        ("10:20:30:05", 25, "10:20:31:05 10:20:32:05", 930755),
        ("00:00:59;29", 29.97, "00:01:01;01 00:01:02;01", 1799),
        ("00:00:59:29", 29.97, "00:01:00:29 00:01:01:29", 1799),
        ("23:59:59:00", 24, "00:00:00:00 00:00:01:00", 24 * 86399),
        ("01:00:00:07", 15, "01:00:01:14 01:00:02:14", 30 * 3600 + 14),
    ],
)
def test_editors_count_from_the_timecode_of_the_file(start_timecode, fps, sources, first_frame):
    answer = Answer("", [Event(1, 2)], video="a.mov", duration=4)
    assert f" C        {sources} 01:00:00" in write_as(answer, "edl", fps=fps, start_timecode=start_timecode)
    text = write_as(answer, "otio", fps=fps, start_timecode=start_timecode)
    [clip] = otio.adapters.read_from_string(text, "otio_json").find_clips()
    rate = timebase(fps)
    assert clip.media_reference.available_range.start_time.value == first_frame
    assert clip.source_range.start_time.value == first_frame + round(rate)
    assert export_notes(answer, "edl", fps=fps, start_timecode=start_timecode) == export_notes(answer, "edl", fps=fps)


@pytest.mark.parametrize("start_timecode", ["10:20:30:25", "25:00:00:00", "x"])
def test_a_timecode_that_does_not_fit_is_not_counted_from(start_timecode):
    options = {"fps": 25, "start_timecode": start_timecode}
    assert write_as(FILM, "edl", **options) == to_edl(FILM, fps=25)
    assert export_notes(FILM, "otio", **options) == [
        f"frames are counted from 00:00:00:00: the file's timecode {start_timecode} does not fit 25 frames per second"
    ]
    with pytest.raises(ValueError, match="timecode"):
        to_edl(FILM, **options)


@given(answers, rates)
def test_a_timeline_is_read_by_opentimelineio(answer, rate):
    timeline = otio.adapters.read_from_string(to_otio(answer, fps=rate), "otio_json")
    wanted = sorted(answer.events, key=lambda event: (event.start, event.end))
    clips = list(timeline.find_clips())
    assert [(c.metadata["timechat"]["start"], c.metadata["timechat"]["end"]) for c in clips] == [
        (event.start, event.end) for event in wanted
    ]
    for clip, event in zip(clips, wanted, strict=True):
        assert abs(seconds(clip.source_range)[0] - Fraction(event.start)) <= Fraction(1, 2) / rate


def test_a_timeline_refers_to_the_video_and_keeps_captions_and_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [clip, *_] = otio.adapters.read_from_string(to_otio(FILM, fps=25), "otio_json").find_clips()
    assert clip.media_reference.target_url == (tmp_path / "films" / "my film.mp4").as_uri()
    assert seconds(clip.media_reference.available_range) == (0, 120)
    assert (clip.name, dict(clip.metadata["timechat"])["score"]) == ("Chop; dice.", None)
    clips = list(otio.adapters.read_from_string(to_otio(MOMENTS), "otio_json").find_clips())
    assert [clip.metadata["timechat"]["saliency"] for clip in clips] == [4, 2.5]
    assert clips[0].media_reference.is_missing_reference


def test_a_timeline_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    with pytest.raises(ModuleNotFoundError, match=r'install the extra "export"'):
        to_otio(FILM)


# ---------------------------------------------------------------------------------------------- QVHighlights


def test_a_submission_line_has_the_official_keys_and_a_score_a_clip():
    answer = Answer(
        "",
        [Event(3.2, 7.5, score=0.9), Event(8, 8)],
        question="a dog",
        video="x/NUsG9BgSes0_210.0_360.0.mp4",
        duration=9.5,
    )
    [line] = to_qvhighlights(answer, qid=2579).splitlines()
    assert json.loads(line) == {
        "qid": 2579,
        "query": "a dog",
        "vid": "NUsG9BgSes0_210.0_360.0",
        "pred_relevant_windows": [[3.2, 7.5, 0.9], [7.5, 9.5, 1.0]],
        "pred_saliency_scores": [0, 0, 0.9, 0.9, 1.0],
    }


def test_a_submission_keeps_a_name_that_ends_in_a_number_and_takes_the_answers_score():
    answer = Answer("", [Event(0, 4)], video="NUsG9BgSes0_210.0_360.0", score=0.25)
    line = json.loads(to_qvhighlights(answer))
    assert line["vid"] == "NUsG9BgSes0_210.0_360.0"
    assert (line["qid"], line["pred_relevant_windows"]) == (0, [[0, 4, 0.25]])
    assert line["pred_saliency_scores"] == [0.25, 0.25]


def test_a_submission_has_the_mean_score_of_each_clip():
    events = [Event(0, 6, score=0.1), Event(2, 6, score=0.3), Event(5, 5, score=1), Event(99, 99)]
    line = json.loads(to_qvhighlights(Answer("", events, duration=9.0)))
    assert line["pred_saliency_scores"] == pytest.approx([0.1, 0.2, 1.4 / 3, 0, 0])


def test_a_submission_of_many_long_events_takes_linear_time():
    events = [Event(0, 86_000, score=0.5)] * 2000
    began = time.process_time()
    line = json.loads(to_qvhighlights(Answer("", events, duration=86_400.0)))
    assert time.process_time() - began < 5
    assert line["pred_saliency_scores"].count(0.5) == 43_000
    with pytest.raises(ValueError, match="takes videos of up to 86400 s, got 1e"):
        to_qvhighlights(Answer("", [Event(0, 1e9)]))


def test_chapters_of_many_events_take_linear_time():
    events = [Event(1, 2, "x" * 20)] * 50_000
    began = time.process_time()
    text = to_ffmetadata(Answer("", events, duration=10.0))
    assert time.process_time() - began < 10
    assert text.count("[CHAPTER]") == 1
    assert text.count(" / ") == 49_999


def test_a_relative_path_in_a_timeline_can_stay_relative():
    assert '"films/my%20film.mp4"' in to_otio(FILM, is_local=False)


@given(answers)
def test_a_submission_has_a_window_an_event_and_a_score_for_every_clip(answer):
    line = json.loads(to_qvhighlights(answer))
    assert [window[0] for window in line["pred_relevant_windows"]] == [event.start for event in answer.events]
    ends = [window[1] for window in line["pred_relevant_windows"]]
    assert len(line["pred_saliency_scores"]) == max(1, -(-max(ends, default=1) // 2))
