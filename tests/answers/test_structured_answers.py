"""Answers in tables, JSON, subtitles and XML, as models write them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.answers.reading import captioned, rated, span
from timechat.answers.fields import role_of
from timechat.answers.tasks import parse_events

# -------------------------------------------------------------------------------------------------- tables

DUCK = [(0, 3.5, "A duck swims."), (3.5, 6, "It dives.")]


@pytest.mark.parametrize(
    "text",
    [
        "| Start | End | Event |\n|---|---|---|\n| 0.0 | 3.5 | A duck swims. |\n| 3.5 | 6.0 | It dives. |",
        "Here:\n\n| # | Description | End (s) | Start (s) |\n|:-:|--|--|--|\n| 1 | A duck swims. | 3.5 | 0 |\n"
        "| 2 | It dives. | 0:06 | 0:03.5 |\n\nThat is all.",
        "Time range | What happens\n--- | ---\n0 s - 3.5 s | A duck swims.\n3.5 s - 6 s | It dives.",
        "|Step|Start (ms)|End (ms)|Action|\n|-|-|-|-|\n|1|0|3500|**A duck swims.**|\n|2|3500|6000|It dives.|",
        "start,end,caption\n0.0,3.5,A duck swims.\n3.5,6.0,It dives.",
        'text;end;start\n"A duck swims.";3.5;0\nIt dives.;6;3.5',
        "start\tend\ttext\n0\t3.5\tA duck swims.\n3.5\t6\tIt dives.",
    ],
)
def test_the_head_of_a_table_names_its_columns(text):
    assert captioned(text) == DUCK
    assert captioned(text, "ask") == DUCK
    assert span(text) == (0, 3.5)


def test_a_table_of_highlights_has_times_and_scores():
    assert rated("| No. | Score | Time |\n|---|---|---|\n| 1 | 3.7 | 36 |\n| 2 | 2.3 | 0:38 |") == [
        (36, 3.7),
        (38, 2.3),
    ]


# ---------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "names",
    [
        ("start", "end", "description"),
        ("Start Time", "END-TIME", "Caption"),
        ("startTime", "endTime", "sentence"),
        ("start_sec", "end_sec", "event"),
        ("from", "to", "activity"),
        ("begin", "stop", "Action"),
        ("event_start", "event_end", "event_description"),
        ("timestamp_start", "timestamp_end", "label"),
        ("t_start", "t_end", "step"),
        ("start", "end", "text"),
        ("start", "end", "what happens"),
    ],
)
def test_the_spelling_of_keys_does_not_matter(names):
    start, end, caption = names
    row = {"id": "a", "type": "scene", "duration": "5s", "file": "x.mp4", caption: "a boat", start: 7, end: 12.5}
    assert captioned(json.dumps([row])) == [(7, 12.5, "a boat")]
    assert captioned(json.dumps({"video": "v.mp4", "length": 60, "events": [row]})) == [(7, 12.5, "a boat")]


@pytest.mark.parametrize(
    "name", ["description", "caption", "sentence", "event", "activity", "action", "label", "step", "text"]
)
def test_the_caption_is_under_its_own_key(name):
    assert role_of(name).kind == "caption"
    assert captioned(json.dumps([{"title": "part one", "start": 7, "end": 12, name: "a boat"}])) == [(7, 12, "a boat")]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ('{"timestamps": [[0.4, 18.2], [18.2, 33]], "sentences": ["A.", "B."]}', [(0.4, 18.2, "A."), (18.2, 33, "B.")]),
        ('{"v_x": {"segments": [["0:01", "0:02"]], "captions": ["A."]}}', [(1, 2, "A.")]),
        ('{"times": ["1 s - 2 s", "0:03 - 0:04"]}', [(1, 2, ""), (3, 4, "")]),
        ('{"times": [[1, 2], [3, 4]]}', [(1, 2, ""), (3, 4, "")]),
        ("[[0, 4.5, 'a goat, black'], [4.5, 8, 'it eats']]", [(0, 4.5, "a goat, black"), (4.5, 8, "it eats")]),
        ('[[[0, 4.5], "a goat"]]', [(0, 4.5, "a goat")]),
        ('{"0:00 - 0:05": "row", "0:05 - 0:09": "rest"}', [(0, 5, "row"), (5, 9, "rest")]),
        ("[{'start': 1, 'end': 2, 'caption': 'the man's hat'}]", [(1, 2, "the man's hat")]),
        ('{"start_ms": 4200, "endMs": 4750, "text": "a"}', [(4.2, 4.75, "a")]),
        (
            '{"start": 1, "end": 2, "text": "t\\u00fcr \\ud83d\\ude00\\n\\"a\\" \\\\ \\ud800"}',
            [(1, 2, 'tür 😀\n"a" \\ \ufffd')],
        ),
        ('{"Time Range": "from 7,5s to 12,0s", "Event": "a b"}', [(7.5, 12, "a b")]),
        ('{"start": 1, "end": 2, "text": "a"}, {"start": 2, "te', [(1, 2, "a")]),
        ("{start: 0:05, end: 0:09, caption: he sits}", [(5, 9, "he sits")]),
        ('[{"timestamp": {"start": 1, "end": "0:02"}, "description": "a b"}]', [(1, 2, "a b")]),
        ("[{'time': (0, 4.5), 'event': 'row (fast)'}, (4.5, 8, 'rest')]", [(0, 4.5, "row (fast)"), (4.5, 8, "rest")]),
        ('{"answer": "0.0 - 2.0 seconds, he sits."}', [(0, 2, "he sits.")]),
    ],
)  # fmt: skip
def test_json_of_any_shape_is_read(text, events):
    assert captioned(text) == events


def test_windows_and_scores_in_json_are_read():
    windows = '{"query": "a boat", "relevant_windows": [[10, "17", 0.9], [20, 24, 0.5]]}'
    assert span(windows) == (10, 17)
    assert [e.score for e in parse_events(windows).events] == [0.9, 0.5]
    assert rated('{"6": 3.5, "0:08": 2}') == [(6, 3.5), (8, 2)]
    assert rated('{"timestamps": [3, 5], "scores": [1, 25e-1]}') == [(3, 1), (5, 2.5)]
    assert rated('{"timestamps": [[3], [5]], "scores": [[1], [2.5]]}') == [(3, 1), (5, 2.5)]
    assert rated('{"6": {"score": 3.5}}') == [(6, 3.5)]
    assert rated('[{"start": 4, "end": 8, "score": 1e-3}]') == [(6, 0.001)]


plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(lambda text: f"A {text} b")
rows = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999), plain), min_size=1, max_size=5)


@given(rows, st.booleans(), st.sampled_from([None, 1]))
def test_captions_written_as_json_read_back_the_same(events, ensure_ascii, indent):
    content = [{"start": min(a, b), "end": max(a, b), "caption": text} for a, b, text in events]
    text = json.dumps(content, ensure_ascii=ensure_ascii, indent=indent)
    assert captioned(f"Sure:\n```json\n{text}\n```") == [(row["start"], row["end"], row["caption"]) for row in content]


# -------------------------------------------------------------------------------------- subtitles and XML


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,000 --> 00:00:02,500\nHi, 3 of us.\n\n2\n00:00:03,000 --> 00:00:04,000\nBye",
        "WEBVTT\n\n00:01.000 --> 00:02.500 align:start line:0%\nHi, 3 of us.\n\n00:03.000 --> 00:04.000\nBye",
        "0:00:01.000,0:00:02.500\nHi, 3 of us.\n\n0:00:03.000,0:00:04.000\nBye",
        '<p begin="00:00:01.000" end="2.5s">Hi, 3 of us.</p><p begin="3s" end="4s">Bye</p>',
        "<s start='1' end='2.5' id='a'>Hi, 3 of us.</s>\n<s start='3' end='4'>Bye</s>",
        "<s><start>1</start><end>2.5</end><text>Hi, 3 of us.</text></s>"
        "<s><start>3</start><end>4</end><text>Bye</text></s>",
    ],
)
def test_subtitles_and_xml_are_read(text):
    assert captioned(text, "transcribe") == [(1, 2.5, "Hi, 3 of us."), (3, 4, "Bye")]
