"""Transcripts of every format, and their lines in the prompt of a question."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.answers.events import Answer, Event
from timechat.answers.presets import PRESETS
from timechat.errors import DataError
from timechat.export import to_json, to_srt, to_vtt
from timechat.speech import (
    Transcript,
    add_transcript,
    clean_transcript,
    parse_transcript,
    read_transcript,
    thin_transcript,
    transcript_between,
)
from timechat.speech.loading import load_transcript
from timechat.speech.transcripts import _num_repeated, transcript_of_file

LINES = (Event(1.0, 2.5, "hello there everyone"), Event(3661.25, 3663.0, "now we cut the onion"))

SRT = """1
00:00:01,000 --> 00:00:02,500
hello there
everyone

2
01:01:01,250 --> 01:01:03,000
now we cut the onion
"""
VTT = """WEBVTT - a talk

STYLE
::cue { color: red }

NOTE what stands here
is nobody's speech

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Fred>hello there</v>
<c.loud>everyone</c>

01:01:01.250 --> 01:01:03.000
now <00:01:02.000><c>we</c> cut the&nbsp;onion

NOTE the end
"""
SEGMENTS = [
    {"id": 0, "start": 1.0, "end": 2.5, "text": " hello there everyone", "tokens": [50364], "avg_logprob": -0.2},
    {"id": 1, "start": 3661.25, "end": 3663.0, "text": " now we cut the onion", "words": [{"text": "now"}]},
]
WHISPER = {"text": " hello there everyone now we cut the onion", "segments": SEGMENTS, "language": "en"}
WHISPER_CPP = {
    "params": {"model": "tiny"},
    "transcription": [
        {
            "timestamps": {"from": "00:00:01,000"},
            "offsets": {"from": 1000, "to": 2500},
            "text": " hello there everyone",
        },
        {"offsets": {"from": 3661250, "to": 3663000}, "text": " now we cut the onion"},
    ],
}
TRANSFORMERS = {
    "text": "...",
    "chunks": [{"timestamp": [s["start"], s["end"]], "text": s["text"]} for s in SEGMENTS],
}
TABS = "1.00\t2.50\thello there everyone\n3661.25\t3663.00\tnow we cut the onion\n"
TSV = "start\tend\ttext\n1000\t2500\thello there everyone\n3661250\t3663000\tnow we cut the onion\n"

FORMATS = {
    "SRT": SRT,
    "SRT with a mark before it, carriage returns and no last line end": "\ufeff" + SRT.strip().replace("\n", "\r\n"),
    "SRT without numbers": SRT.replace("1\n00", "00").replace("2\n01", "01"),
    "SRT with styles, points for commas and spaces about": SRT.replace(",", " . ")
    .replace("hello", r"{\an8}<i>hello")
    .replace("everyone", '</i><font color="#fff">everyone</font>  '),
    "SRT with empty lines within a text and many between": SRT.replace("there\n", "there\n\n").replace(
        "\n2\n", "\n\n\n2\n"
    ),
    "SRT out of order": "2\n" + SRT.split("\n2\n")[1] + "\n1\n" + SRT.split("1\n", 1)[1].split("\n2\n")[0],
    "WebVTT": VTT,
    "WebVTT with carriage returns": VTT.replace("\n", "\r\n"),
    "WebVTT of a header alone and a mark": "\ufeff" + VTT.replace("WEBVTT - a talk", "WEBVTT"),
    "Whisper": json.dumps(WHISPER),
    "Whisper, on many lines": "\n" + json.dumps(WHISPER, indent=1),
    "a list of segments": json.dumps(SEGMENTS),
    "whisper.cpp": json.dumps(WHISPER_CPP),
    "transformers": json.dumps(TRANSFORMERS),
    "lines with tabs": TABS,
    "Whisper's TSV": TSV,
    "an answer of ours as SRT": to_srt(Answer("", list(LINES))),
    "an answer of ours as WebVTT": to_vtt(Answer("", list(LINES))),
    "an answer of ours as JSON": to_json(Answer("", list(LINES), task="transcribe")),
}


def transcript(folder, content, name="speech.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("content", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_lines(content, tmp_path):
    assert read_transcript(transcript(tmp_path, content)) == LINES


def test_a_file_in_utf_16_is_read(tmp_path):
    assert read_transcript(transcript(tmp_path, SRT.encode("utf-16"))) == LINES


def test_subrip_that_is_not_utf_8_is_read_as_windows_1252(tmp_path):
    content = "1\n00:00:00,500 --> 00:00:02,000\ndéjà vu – 5 €\n".encode("cp1252")
    found = transcript_of_file(transcript(tmp_path, content, "old.srt"))
    assert found.lines == (Event(0.5, 2.0, "déjà vu – 5 €"),)
    assert found.notes == ("old.srt is not UTF-8 and was read as Windows-1252",)


@pytest.mark.parametrize("start", [b"WEBVTT\n\n", b"\xef\xbb\xbf", b"\x81"])
def test_other_text_that_is_not_utf_8_is_refused(tmp_path, start):
    content = start + "1\n00:00:00.500 --> 00:00:02.000\ndéjà vu\n".encode("latin-1")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        transcript_of_file(transcript(tmp_path, content))


def test_rolling_captions_are_read_once(tmp_path):
    rolling = """WEBVTT
Kind: captions

00:00:00.320 --> 00:00:02.389 align:start position:0%
\x20
hello<00:00:00.640><c> everyone</c><00:00:01.199><c> welcome</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello everyone welcome
\x20

00:00:02.399 --> 00:00:04.789 align:start position:0%
hello everyone welcome
to<00:00:02.560><c> my</c><00:00:02.800><c> kitchen</c>

00:00:09.000 --> 00:00:10.000
to my kitchen
"""
    assert read_transcript(transcript(tmp_path, rolling)) == (
        Event(0.32, 2.389, "hello everyone welcome"),
        Event(2.399, 4.789, "to my kitchen"),
        Event(9.0, 10.0, "to my kitchen"),
    )


def test_a_text_that_is_a_number_is_kept(tmp_path):
    said = "1\n00:00:01,000 --> 00:00:02,000\n42\n\n2\n00:00:03,000 --> 00:00:04,000\n7\n"
    assert [line.caption for line in read_transcript(transcript(tmp_path, said))] == ["42", "7"]


def test_characters_without_markup_meaning_are_kept(tmp_path):
    said = "00:00:01,000 --> 00:00:02,000\nI <3 you, 1 < 2 > 0 &amp; R&B {all}\n"
    assert read_transcript(transcript(tmp_path, said))[0].caption == "I <3 you, 1 < 2 > 0 & R&B {all}"


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff", "WEBVTT\n\nNOTE nobody speaks\n", "[]", '{"segments": []}'])
def test_a_transcript_may_be_empty(content, tmp_path):
    assert read_transcript(transcript(tmp_path, content)) == ()


def test_a_line_that_ends_before_its_start_has_no_duration(tmp_path):
    segments = [{"start": 5.0, "end": 4.5, "text": "so"}, {"timestamp": [6.0, None], "text": "end"}]
    assert read_transcript(transcript(tmp_path, json.dumps(segments))) == (
        Event(5.0, 5.0, "so"),
        Event(6.0, 6.0, "end"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SRT.replace("01:01:01,250", "01:xx:01"), r"speech\.txt:7: expected times such as .* got '01:xx:01 --> "),
        (VTT.replace("00:01.000", "1.000"), r"speech\.txt:10: expected times such as"),
        ("\n\nhello there\n", r"speech\.txt:3: 'hello there' is not the start of a transcript; expected SRT"),
        (TABS + "a line", r"speech\.txt:3: expected tab-separated start, end and text, got 'a line'"),
        (TABS + "1.0\tx\ty", r"speech\.txt:3: could not convert string to float: 'x'"),
        ('{"segments": [', r"speech\.txt:1: is not JSON \(.*\) and not another known format; expected SRT"),
        ('{"text": "all of it"}', r'speech\.txt: expected \{"segments": .* got the keys text'),
        ('[{"start": 1, "text": "a"}]', r"speech\.txt: segment 0: the key 'end' is missing"),
        ('[{"start": 1, "end": 2, "text": "a"}, 3]', r"speech\.txt: segment 1: expected \{"),
        ('[{"start": 1, "end": 2, "text": null}]', r"segment 0: text must be text, got None"),
        ('[{"start": -1, "end": 2, "text": "a"}]', r"segment 0: start must be a finite number of seconds from 0"),
        ('[{"start": null, "end": 2, "text": "a"}]', r"segment 0: start and end must be seconds, got None and 2"),
        ("hell\u00f6 there".encode("latin-1"), r"speech\.txt: byte 4 is not UTF-8 text; save the file as UTF-8"),
        (b"\x00" * 3 + b"\xff\xd8", r"speech\.txt: byte 3 is not UTF-8 text"),
    ],
)
def test_an_error_names_its_line(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_transcript(transcript(tmp_path, content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.srt: no such file"):
        read_transcript(tmp_path / "none.srt")
    with pytest.raises(DataError, match="is a folder"):
        read_transcript(tmp_path)


# -------------------------------------------------------------------------------------------------- windows


def test_speech_is_cut_to_a_window_with_relative_times():
    speech = [Event(0, 4, "before"), Event(8, 12, "over the start"), Event(12, 14, "in"), Event(18, 25, "over the end")]
    assert transcript_between([*speech, Event(20, 21, "after")], 10, 20) == (
        Event(0.0, 2.0, "over the start"),
        Event(2.0, 4.0, "in"),
        Event(8.0, 10.0, "over the end"),
    )


def test_a_line_belongs_to_every_window_that_it_overlaps():
    speech = [Event(5, 10, "ends there"), Event(10, 10, "a moment"), Event(20, 22, "starts there")]
    assert [line.caption for line in transcript_between(speech, 10, 20)] == ["a moment"]
    with pytest.raises(ValueError, match="a part must start at 0 s or later"):
        transcript_between(speech, 20, 10)


times = st.floats(0, 1e4)
speeches = st.lists(st.builds(lambda a, b: Event(min(a, b), max(a, b), "words"), times, times), max_size=8)


@given(speeches, times, times)
def test_windows_together_cover_all_speech(speech, one, other):
    start, end = sorted((one, other))
    inside = sum(line.duration for line in transcript_between(speech, start, end))
    assert inside == pytest.approx(sum(max(0.0, min(e.end, end) - max(e.start, start)) for e in speech), abs=1e-6)
    assert all(0 <= line.start <= line.end <= end - start for line in transcript_between(speech, start, end))


# ------------------------------------------------------------------------------------------------ questions


def numbered(count):
    return [Event(i, i + 1, f"line number {i}") for i in range(count)]


@pytest.mark.parametrize(
    ("count", "as_original", "all_of_it"),
    [  # specification, 5.1: lines 1, 1 + s, 1 + 2s, ... with s = max(1, n // 15)
        (0, [], []),
        (1, [], [0]),
        (14, list(range(1, 14)), list(range(14))),
        (29, list(range(1, 29)), list(range(29))),
        (30, list(range(1, 30, 2)), list(range(0, 30, 2))),
        (44, list(range(1, 44, 2)), list(range(0, 44, 2))),
        (1000, list(range(1, 1000, 66)), list(range(0, 1000, 66))),
    ],
)
def test_a_long_transcript_is_thinned_as_in_the_original(count, as_original, all_of_it):
    assert [start for start, *_ in thin_transcript(numbered(count), first=1)] == as_original
    assert [start for start, *_ in thin_transcript(numbered(count))] == all_of_it


def test_a_question_contains_the_transcript():
    speech = [Event(0.04, 2.25, "look at this"), Event(3.0, 4.06, "and now stir.")]
    assert add_transcript("What happens?", speech) == (
        "Transcribed speech: 0.0 - 2.2 seconds, look at this. 3.0 - 4.1 seconds, and now stir.  "
        "Based on the video content and possible transcribed speech, What happens?"
    )
    assert add_transcript("What happens?", speech, first=1).startswith("Transcribed speech: 3.0 - 4.1 seconds, and")


def test_a_question_without_speech_says_so():
    asked = "Transcribed speech: None. Based on the video content and possible transcribed speech, What happens?"
    assert add_transcript("What happens?", ()) == asked
    assert add_transcript(asked, numbered(3)) == asked


def test_only_dense_captioning_has_its_own_speech_wording():
    plain, heard = PRESETS["original-finetuned@1"], PRESETS["original-finetuned-speech@1"]
    assert "with the aid of transcribed speech" in heard.prompts["dense_caption"]
    assert dataclasses.replace(heard, name=plain.name, prompts=plain.prompts) == plain
    assert {task for task in plain.prompts if plain.prompts[task] != heard.prompts[task]} == {"dense_caption"}


@given(st.lists(st.sampled_from("ab"), max_size=8), st.lists(st.sampled_from("ab"), max_size=8))
def test_lines_still_on_screen_are_found(shown, lines):
    right = max(n for n in range(min(len(shown), len(lines)) + 1) if n == 0 or shown[-n:] == lines[:n])
    assert _num_repeated(shown, lines) == right


def test_a_cue_of_many_equal_lines_takes_linear_time():
    cue = "00:00:0{0}.000 --> 00:00:0{1}.000\n" + "a\n" * 30_000 + "b{0}\n\n"
    began = time.process_time()
    lines = parse_transcript("WEBVTT\n\n" + cue.format(0, 1) + cue.format(1, 2) + cue.format(2, 3))
    assert time.process_time() - began < 5
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        (f'[{{"start": 0, "end": 1{"0" * 5000}, "text": "a"}}]', "a number that is no time"),
        (f'[{{"start": 0, "end": 1{"0" * 400}, "text": "a"}}]', "a time must be from 0 to 1e\\+07 seconds"),
        ('[{"start": 0, "end": 1e999, "text": "a"}]', "a time must be from 0 to 1e\\+07 seconds, got inf"),
        ('[{"start": NaN, "end": 1, "text": "a"}]', "a time must be from 0 to 1e\\+07 seconds, got nan"),
        (f'[{{"offsets": {{"from": 0, "to": 1{"0" * 400}}}, "text": "a"}}]', "a time must be from 0"),
        (f"0\t{'9' * 400}\ta b c", "a time must be from 0"),
        (f"00:00:00.000 --> {'9' * 400}:00:00.000\na b c", "a time must be from 0"),
    ],
)
def test_a_hostile_transcript_is_a_data_error(text, message):
    with pytest.raises(DataError, match=message) as error:
        parse_transcript(text)
    assert len(str(error.value)) < 400


# ------------------------------------------------------------------------------------------------- cleaning


def test_short_and_repeated_lines_are_dropped():
    said = ["Yes.", "Well, we begin.", "Well, we begin.", "ok then", "今天我们做菜", "สวัสดี", "на кухне сейчас", "好"]
    kept = clean_transcript([Event(i, i + 1, words) for i, words in enumerate(said)])
    assert [line.caption for line in kept] == ["Well, we begin.", "今天我们做菜", "สวัสดี", "на кухне сейчас"]


def test_a_loaded_transcript_is_cleaned_with_a_note(tmp_path):
    path = transcript(tmp_path, TABS + "3664.00\t3665.00\tyes\n")
    assert load_transcript("video.mp4", transcript=path, is_cleaned=False).lines[-1] == Event(3664.0, 3665.0, "yes")
    assert load_transcript("video.mp4", transcript=path) == Transcript(
        LINES, ("lines of speech with fewer than three words or repeated, left out: 1 of 3",)
    )
    assert load_transcript("video.mp4", transcript=transcript(tmp_path, TABS)) == Transcript(LINES)


def test_a_transcript_of_single_words_is_kept(tmp_path):
    words = Transcript((Event(0, 1, "we"), Event(1, 2, "cut")))
    assert load_transcript("video.mp4", transcript=transcript(tmp_path, "0\t1\twe\n1\t2\tcut\n")) == words


def test_transcripts_do_not_import_the_recogniser():
    code = "import sys, timechat.speech.loading; sys.exit('timechat.speech.recognition' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_transcripts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="both a transcript and a speech recogniser"):
        load_transcript("video.mp4", transcript=tmp_path / "a.srt", asr_model="tiny")
