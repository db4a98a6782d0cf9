import base64
import csv
import hashlib
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.answers.events import Answer, Event, event_time_range
from timechat.errors import VideoError
from timechat.export import event_lines, to_csv, to_html, to_json, to_jsonl, to_srt, to_text, to_vtt
from timechat.export import write_text_atomically as write

STEPS = Answer(
    "0.0 - 9.1 seconds, Chop.  9.1 - 70.25 seconds, Fry.",
    [Event(0, 9.1, "Chop."), Event(9.1, 70.25, "Fry.")],
    task="dense_caption",
    video="film.mp4",
    duration=75.0,
    model="nano",
)
MOMENTS = Answer(
    "There are 2 highlight moments in the 2.0, 74.0 second. Their saliency scores are 1.3, 4.0.",
    [Event(2, 2, saliency=1.3), Event(74, 74, saliency=4)],
    task="highlights",
    question="a light goes on",
    duration=75.0,
)
EMPTY = Answer("I do not know.")

events = st.builds(
    lambda a, b, caption, score: Event(min(a, b), max(a, b), caption, score),
    st.integers(0, 10**7).map(lambda milliseconds: milliseconds / 1000),
    st.integers(0, 10**7).map(lambda milliseconds: milliseconds / 1000),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.none() | st.floats(0, 1),
)
answers = st.builds(lambda found: Answer("", found, task="steps"), st.lists(events, max_size=5))


def subtitles(text, decimal_mark):
    """Start and end in milliseconds and the text of every cue, as a player would take them."""
    stamp = rf"(\d\d+):(\d\d):(\d\d){re.escape(decimal_mark)}(\d\d\d)"
    cues = []
    for block in re.split(r"\n\n+", text.removeprefix("WEBVTT\n\n").strip("\n")) if "-->" in text else []:
        number, timing, *lines = block.split("\n")
        assert number == str(len(cues) + 1)
        parts = [int(part) for part in re.fullmatch(f"{stamp} --> {stamp}", timing).groups()]
        start, end = ((h * 3600 + m * 60 + s) * 1000 + ms for h, m, s, ms in (parts[:4], parts[4:]))
        cues.append((start, end, "\n".join(lines)))
    return cues


# --------------------------------------------------------------------------------------- text, JSON and CSV


def test_text_for_people_has_an_event_a_line():
    assert to_text(STEPS) == "0:00.0 – 0:09.1  Chop.\n0:09.1 – 1:10.2  Fry.\n"
    assert to_text(MOMENTS) == "0:02.0  (saliency 1.3)\n1:14.0  (saliency 4)\n"


def test_text_of_a_free_answer_is_the_answer_with_its_times_below():
    said = "He sits at 3 seconds."
    assert to_text(Answer(said, [Event(3, 3, said)])) == "He sits at 3 seconds.\n  0:03.0\n"
    two = Answer("Yes. He sits. He runs.", [Event(3, 3, "He sits."), Event(61, 70, "He runs.")])
    assert to_text(two) == "Yes. He sits. He runs.\n  0:03.0           He sits.\n  1:01.0 – 1:10.0  He runs.\n"


def test_the_lines_of_the_events_can_be_had_alone():
    assert event_lines(STEPS) == ["0:00.0 – 0:09.1  Chop.", "0:09.1 – 1:10.2  Fry."]
    assert event_lines(Answer("Yes.", [Event(3, 3, "Yes.")])) == ["  0:03.0"]
    assert event_lines(EMPTY) == []


def test_text_of_an_answer_that_was_not_understood_is_the_answer():
    assert to_text(EMPTY) == "I do not know.\n"
    assert to_text(Answer("No idea.", task="grounding")) == "No idea.\n"


def test_text_cannot_steer_the_terminal():
    assert to_text(Answer("\x1b[2Jgone\x07\x9b")) == "[2Jgone\n"
    assert to_text(Answer("", [Event(0, 1, "\x1b[2Jgone\r")], task="steps")) == "0:00.0 – 0:01.0  [2Jgone\n"


def test_json_is_the_whole_answer():
    assert json.loads(to_json(STEPS)) == STEPS.to_dict()
    assert list(json.loads(to_json(EMPTY))) == [
        *(
            "video",
            "duration",
            "task",
            "question",
            "text",
            "events",
            "model",
            "found",
            "score",
            "step",
            "by",
            "read_share",
            "player_offset",
            "timings",
            "notes",
        ),
    ]


def test_json_keeps_letters_and_survives_a_file_name_that_is_not_utf8():
    text = to_json(Answer("für 李", video="film\udcff.mp4"))
    assert '"für 李"' in text
    assert json.loads(text.encode())["video"] == "film\udcff.mp4"


def test_jsonl_is_an_event_a_line():
    assert to_jsonl(STEPS) == (
        '{"start": 0.0, "end": 9.1, "caption": "Chop.", "score": null}\n'
        '{"start": 9.1, "end": 70.25, "caption": "Fry.", "score": null}\n'
    )
    assert to_jsonl(EMPTY) == ""


@given(answers)
def test_jsonl_reads_back_the_same(answer):
    assert [Event(**json.loads(line)) for line in to_jsonl(answer).splitlines()] == answer.events


def test_csv_is_a_table_with_a_heading():
    assert to_csv(STEPS) == "start,end,caption,score\n0.0,9.1,Chop.,\n9.1,70.25,Fry.,\n"
    assert to_csv(MOMENTS) == "start,end,caption,score,saliency\n2.0,2.0,,,1.3\n74.0,74.0,,,4.0\n"
    assert to_csv(Answer("", [Event(0, 1, 'a, "b"\nc')])).endswith('0.0,1.0,"a, ""b""\nc",\n')


@pytest.mark.parametrize(
    ("caption", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),
        ("  =1", "'  =1"),
        ("\u3000=1", "'\u3000=1"),
        ("＝1", "'＝1"),
        ("＠A1; ＋1", "'＠A1;' ＋1"),
        ("a;=1", "a;'=1"),
        ("a; \u00a0-1", "a;' \u00a0-1"),
        ("a\n=1", "a\n'=1"),
        ("a\t@A1", "a\t'@A1"),
        ("a = 1, b - c; d", "a = 1, b - c; d"),
    ],
)
def test_csv_captions_are_no_formulas(caption, cell):
    [_, row] = csv.reader(io.StringIO(to_csv(Answer("", [Event(0, 1, caption)])), newline=""))
    assert row == ["0.0", "1.0", cell, ""]


@given(st.text("=+-@;\t\n \u3000＝a\"',", max_size=20))
def test_no_cell_of_any_spreadsheet_is_a_formula(caption):
    [_, row] = csv.reader(io.StringIO(to_csv(Answer("", [Event(0, 1, caption)])), newline=""))
    for cell in re.split("[;\t\n]", row[2]):
        assert not cell.strip().startswith(tuple("=+-@＝"))
    assert row[2].replace("'", "") == caption.replace("'", "")


@given(answers)
def test_csv_reads_back_the_same(answer):
    rows = list(csv.DictReader(io.StringIO(to_csv(answer), newline="")))
    numbers = [(float(row["start"]), float(row["end"]), float(row["score"] or "nan")) for row in rows]
    expected = [(e.start, e.end, math.nan if e.score is None else e.score) for e in answer.events]
    assert repr(numbers) == repr(expected)
    captions = ["".join(c for c in e.caption if c in "\n\t" or category(c) != "Cc") for e in answer.events]
    assert [row["caption"].replace("'", "") for row in rows] == [c.replace("'", "") for c in captions]


# ------------------------------------------------------------------------------------------------- subtitles


def test_srt_has_a_numbered_cue_an_event():
    assert to_srt(STEPS) == ("1\n00:00:00,000 --> 00:00:09,100\nChop.\n\n2\n00:00:09,100 --> 00:01:10,250\nFry.\n")
    assert to_srt(EMPTY) == ""


def test_vtt_has_its_signature_and_a_numbered_cue_an_event():
    assert to_vtt(STEPS) == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:09.100\nChop.\n\n2\n00:00:09.100 --> 00:01:10.250\nFry.\n"
    )
    assert to_vtt(EMPTY) == "WEBVTT\n"


def test_a_moment_is_shown_for_two_seconds_within_the_video_under_what_was_asked():
    assert subtitles(to_srt(MOMENTS), ",") == [
        (2000, 4000, "a light goes on (saliency 1.3)"),
        (73_000, 75_000, "a light goes on (saliency 4)"),
    ]


def test_subtitles_are_in_time_order_and_never_blank():
    answer = Answer("", [Event(3600, 3601.0005, " "), Event(1, 2, "b")], task="grounding")
    assert subtitles(to_vtt(answer), ".") == [(1000, 2000, "b"), (3_600_000, 3_601_000, "Moment")]


def test_captions_cannot_break_out_of_their_subtitle():
    answer = Answer("", [Event(0, 1, "a --> b <i>&\n\n2\n00:00:00,000 --> 00:00:01,000\r\n\x00c")])
    assert to_srt(answer).split("\n")[2:] == ["a → b <i>&", "2", "00:00:00,000 → 00:00:01,000", "c", ""]
    lines = to_vtt(answer).split("\n")[4:]
    assert lines == ["a --&gt; b &lt;i&gt;&amp;", "2", "00:00:00,000 --&gt; 00:00:01,000", "c", ""]


@pytest.mark.parametrize(("write_subtitles", "mark"), [(to_srt, ","), (to_vtt, ".")])
@given(answer=answers)
def test_subtitles_read_back_the_same_times(write_subtitles, mark, answer):
    cues = subtitles(write_subtitles(answer), mark)
    times = [(round(e.start * 1000), round(e.end * 1000)) for e in answer.events]
    assert [cue[:2] for cue in cues] == sorted((a, b if b > a else a + 2000) for a, b in times)
    assert all(text.strip() for _, _, text in cues)


@given(st.lists(st.text("abc <>&;-é李", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3))
def test_vtt_captions_read_back_the_same(lines):
    caption = "\n".join(" ".join(line.split()) for line in lines)
    [(_, _, text)] = subtitles(to_vtt(Answer("", [Event(0, 1, caption)])), ".")
    assert html.unescape(text) == caption


# -------------------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """The elements of a page as `(tag, attributes)`, and the text that stands directly in them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data):
        self.texts.append((self.open, data))

    def attributes(self, tag, kind=None):
        return [a for t, a in self.elements if t == tag and kind in (None, *a.get("class", "").split())]


def test_the_page_lists_every_event_and_draws_it_to_scale():
    page = Page(to_html(STEPS))
    rows = page.attributes("button", "row")
    assert [(row["data-start"], row["data-end"]) for row in rows] == [("0.0", "9.1"), ("9.1", "70.25")]
    assert [mark["style"] for mark in page.attributes("button", "span")] == [
        "left:0.000%;width:12.133%;--lane:0",
        "left:12.133%;width:81.533%;--lane:0",
    ]
    assert ("h1", "film.mp4") in page.texts
    assert page.attributes("video")[0]["src"].startswith("file:///")


def test_the_page_draws_highlights_as_high_as_their_scores():
    needles = Page(to_html(MOMENTS)).attributes("button", "needle")
    assert [needle["style"] for needle in needles] == [
        "left:2.667%;--height:0.325",
        "left:98.667%;--height:1.000",
    ]
    assert needles[1]["title"] == "1:14.0  (saliency 4)"


def test_overlapping_events_get_lanes_of_their_own():
    found = [Event(0, 5), Event(4, 9), Event(5, 6), Event(3, 3), *(Event(20, 30) for _ in range(8))]
    page = to_html(Answer("", found, duration=40))
    assert re.findall(r"--lane:(\d)", page) == list("010") + list("01234500")
    assert '"--lanes:6;--needles:0;--pins:1"' in page


def test_more_timelines_are_drawn_below_with_their_names_and_cannot_be_chosen():
    page = Page(to_html(STEPS, tracks={"What <really> happens": [Event(0, 7.5, "A cup.")]}))
    assert [text for tag, text in page.texts if tag == "p" and "happens" in text] == ["What <really> happens"]
    assert [mark["style"] for mark in page.attributes("span", "span")] == ["left:0.000%;width:10.000%;--lane:0"]
    assert len(page.attributes("button", "mark")) == len(STEPS.events)
    assert not Page(to_html(STEPS)).attributes("p", "name")


def test_a_page_without_video_length_is_drawn_to_its_last_event():
    assert 'data-scale="8.0"' in to_html(Answer("", [Event(2, 8)]))
    assert "The answer names no times." in to_html(EMPTY)
    assert "<video" not in to_html(EMPTY)


def test_nothing_in_an_answer_becomes_markup():
    evil = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{events}}"
    answer = Answer(evil, [Event(0, 1, evil)], question=evil, video=evil, model=evil, notes=(evil,))
    plain, page = Page(to_html(STEPS)), Page(to_html(answer))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"p"}
    assert len(page.attributes("script")) == 1
    assert {name for _, a in page.elements for name in a if name.startswith("on")} == set()
    assert "".join(text for tag, text in page.texts if tag == "h1").strip() == evil


def test_a_page_allows_its_own_script_only_and_loads_nothing():
    text = to_html(STEPS)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}';" in text
    assert re.findall(r"""(?:src|href)=["']?(?!file:)[^"' ]+|url\(|@import""", text) == []
    assert "{{" not in text


def test_a_small_video_is_carried_in_the_page(tmp_path):
    (tmp_path / "a.webm").write_bytes(b"video")
    address = f"data:video/webm;base64,{base64.b64encode(b'video').decode()}"
    assert Page(to_html(STEPS, tmp_path / "a.webm")).attributes("video")[0]["src"] == address


def test_a_large_video_is_referred_to_unless_asked_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr("timechat.export.html.EMBED_LIMIT_BYTES", 4)
    video = tmp_path / "clip #1 ü.mov"
    video.write_bytes(b"video")
    sources = [
        Page(to_html(STEPS, video, page_folder=folder, embed=embed)).attributes("video")[0]["src"]
        for folder, embed in [(None, None), (tmp_path, None), (tmp_path / "pages", None), (tmp_path, True)]
    ]
    name = "clip%20%231%20%C3%BC.mov"
    assert sources == [video.as_uri(), name, f"../{name}", "data:video/mp4;base64,dmlkZW8="]


def test_a_video_on_the_web_stays_there():
    page = Page(to_html(STEPS, "https://example.org/a.mp4?b=1&c=2", embed=True))
    assert page.attributes("video")[0]["src"] == "https://example.org/a.mp4?b=1&c=2"
    assert Page(to_html(STEPS, "javascript:alert(1)", page_folder=".")).attributes("video")[0]["src"] == (
        "javascript%3Aalert%281%29"
    )


def test_a_missing_video_cannot_be_carried_in_the_page(tmp_path):
    with pytest.raises(VideoError, match=r"cannot embed .*gone\.mp4 in the page: No such file or directory"):
        to_html(STEPS, tmp_path / "gone.mp4", embed=True)


# ----------------------------------------------------------------------------------------------------- files


def test_a_file_is_written_whole_with_its_line_ends(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    path.chmod(0o640)
    write(path, "ü\r\nb\n")
    assert path.read_bytes() == "ü\r\nb\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_a_new_file_can_be_read_by_whom_the_user_lets(tmp_path):
    (tmp_path / "plain").touch()
    write(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError):
        write(path, 5)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path):
    write(tmp_path / "a.txt", "new \udcff")
    assert (tmp_path / "a.txt").read_text() == "new \\udcff"


def test_ctrl_c_leaves_no_debris(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_device_is_written_to_not_replaced():
    write("/dev/null", "text")
    with open("/dev/null", "rb") as null:  # noqa: PTH123 - a device, not a path
        assert null.read() == b""


def test_a_moment_does_not_last_longer_than_the_video():
    assert event_time_range(Event(0.5, 0.5), 1.0) == (0.0, 1.0)
    assert event_time_range(Event(9.0, 9.0), 10.0) == (8.0, 10.0)
    assert event_time_range(Event(9.0, 9.0), None) == (9.0, 11.0)
