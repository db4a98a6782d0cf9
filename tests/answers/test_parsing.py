import json
import string
import time
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timechat.answers import parsing
from timechat.answers.events import Event, Task, clip_scores
from timechat.answers.parsing import is_own_span, move_times, read_grounding, states_none
from timechat.answers.tasks import format_events, parse_events

CASES = json.loads((Path(__file__).parent / "parsing_cases.json").read_text(encoding="utf-8"))
TASKS = {"dvc": "dense_caption", "tvg": "grounding", "vhd": "highlights"}


def read(text, task="dense_caption", duration=None):
    """Events as `(start, end, caption)`."""
    return [(e.start, e.end, e.caption) for e in parse_events(text, task=task, duration=duration).events]


def read_highlights(text, duration=150.0):
    events = parse_events(text, task="highlights", duration=duration).events
    assert all(event.start == event.end for event in events)
    return [(event.start, event.saliency) for event in events]


def without_outer_punctuation(caption):
    return caption.strip(string.punctuation + string.whitespace)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded_answers_are_read_as_they_should_be(case):
    events = parse_events(case["output"], task=TASKS[case["task"]], duration=case["duration"]).events
    if case["task"] == "dvc":
        found = [(e.start, e.end, without_outer_punctuation(e.caption)) for e in events]
        wanted = [(e["start"], e["end"], without_outer_punctuation(e["caption"])) for e in case["expected"]]
        assert found == wanted
    elif case["task"] == "tvg":
        expected = case["expected"]
        assert events == ([] if expected is None else [Event(expected["start"], expected["end"])])
    else:
        assert [(e.start, e.saliency) for e in events] == [(e["time"], e["score"]) for e in case["expected"]]
        scores = clip_scores(events, case["duration"])
        assert len(scores) == 75
        assert {clip: s for clip, s in enumerate(scores) if s} == {
            int(clip): s for clip, s in case["expected_clip_scores"].items() if s
        }


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (
            "**0.0 - 9.1 seconds**: Chop.\n**9.1 – 10.8 seconds**: Fry.",
            [(0, 9.1, "Chop."), (9.1, 10.8, "Fry.")],
        ),
        ("**0:00** - **0:09**: Chop.\n**0:09** - **0:20**: Fry.", [(0, 9, "Chop."), (9, 20, "Fry.")]),
        ("- 0:00-0:09 Chop\n- 0:09-0:20 Fry", [(0, 9, "Chop"), (9, 20, "Fry")]),
        ("• [0.0s → 9.1s] Chop\n• [9.1s → 10.8s] Fry", [(0, 9.1, "Chop"), (9.1, 10.8, "Fry")]),
        ("00:05 - 00:10: sits\n00:10 - 00:15: stands", [(5, 10, "sits"), (10, 15, "stands")]),
        (
            "1) From 0.0 to 9.1 seconds: chop.\n2) From 9.1 until 12 sec: fry.",
            [(0, 9.1, "chop."), (9.1, 12, "fry.")],
        ),
        ("Between 1 and 9 seconds, he sits for 2 to 3 seconds.", [(1, 9, "he sits for 2 to 3 seconds.")]),
        ("Step 1 (0 - 9 seconds): Chop.\nStep 2 (9 - 12 seconds): Fry.", [(0, 9, "Chop."), (9, 12, "Fry.")]),
        ("Event 1: 0 - 9 seconds, chop\nEvent 2: 9 - 12 seconds, fry", [(0, 9, "chop"), (9, 12, "fry")]),
        (
            "1. Chop it: 0.0 - 9.1 seconds\n2. Fry it: 9.1 - 12 seconds",
            [(0, 9.1, "Chop it"), (9.1, 12, "Fry it")],
        ),
        ("Chop it (0:00 - 0:09).\nFry it (0:09 - 0:20).", [(0, 9, "Chop it."), (9, 20, "Fry it.")]),
        ("(0.0, 9.1) chop\n(9.1, 12) fry", [(0, 9.1, "chop"), (9.1, 12, "fry")]),
        ("Start: 0:00, End: 0:09, Chop. Start: 0:09, End: 0:12, Fry.", [(0, 9, "Chop."), (9, 12, "Fry.")]),
        ("1:02:03 - 1:02:04.5, a. 1:03:00 — 1:04:00, b.", [(3723, 3724.5, "a."), (3780, 3840, "b.")]),
        (
            "0 - 9 seconds, 2 eggs break. 9 - 12 seconds, 3.5 cups of milk.",
            [(0, 9, "2 eggs break."), (9, 12, "3.5 cups of milk.")],
        ),
        ("90 - 102 seconds, mix. 2 - 3 cups of flour.", [(90, 102, "mix. 2 - 3 cups of flour.")]),
        (
            "Transcribed speech: 0.0 - 2.1 seconds, hello. 3.0 - 5.0 seconds, a 3 - 2 win.",
            [(0, 2.1, "hello."), (3, 5, "a 3 - 2 win.")],
        ),
        ("90 - 102 seconds, a. 114 - 127 seconds, b. 130 - 14", [(90, 102, "a."), (114, 127, "b.")]),
        ("90 - 102 seconds, a. 114 - 127 seconds, b. 13", [(90, 102, "a."), (114, 127, "b.")]),
        (
            "1. **Chop it** (0:05 - 0:10): He chops.\n2. **Fry it** (0:10 - 0:20): He fries.",
            [(5, 10, "Chop it: He chops."), (10, 20, "Fry it: He fries.")],
        ),
        ("A man (0:00 - 0:10) sits. He runs (0:10 - 0:20).", [(0, 10, "A man sits."), (10, 20, "He runs.")]),
        ("He sits from 3 to 5 seconds.", [(3, 5, "He sits from 3 to 5 seconds.")]),
        ('0 - 5 seconds, he says "hi." 5 - 9 s, he runs.', [(0, 5, 'he says "hi."'), (5, 9, "he runs.")]),
        (
            "**Event 1**\n- Start: 0:00\n- End: 0:05\n- Description: sits\n\n**Event 2**\n- Start: 0:05\n- End: 0:09",
            [(0, 5, "sits"), (5, 9, "")],
        ),
        ("Time: 0-5 sec. Event: he sits.\nTime: 5-9 sec. Event: he runs.", [(0, 5, "he sits."), (5, 9, "he runs.")]),
        ("### 0:05 - 0:10\nHe sits.\n\n### 0:10 - 0:20\nHe runs.", [(5, 10, "He sits."), (10, 20, "He runs.")]),
        ("First, from 5 to 9 s, he sits. Next, from 9 to 12 s, he runs.", [(5, 9, "he sits."), (9, 12, "he runs.")]),
        ("Bake for 20 - 25 minutes. Add 2 - 3 cups.", []),
        ("Stir 20 - 25 seconds until smooth.", []),
        ("start - end seconds, event description", []),
        ("The score was 3 - 2 after 10 minutes.", []),
    ],
)  # fmt: skip
def test_messy_captions_are_read(text, events):
    assert read(text) == events


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The query 'pours 2 - 3 cups' happens in 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("It waits for 3 - 5 seconds and happens in 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("between 5.2 and 11.7 seconds", (5.2, 11.7)),
        ("It starts at around 5s and finishes at about 11s.", (5, 11)),
        ("It begins at the 24.3 second mark and ends at the 30.4 second mark.", (24.3, 30.4)),
        ("It starts at 24.3 seconds and lasts until 30.4 seconds.", (24.3, 30.4)),
        ("from second 24 to second 30", (24, 30)),
        ("**Start time:** 24.3 seconds\n**End time:** 30.4 seconds", (24.3, 30.4)),
        ("[24.3, 30.4]", (24.3, 30.4)),
        ("start: 24.3 - end: 30.4", (24.3, 30.4)),
        ("0:24.3–0:30.4", (24.3, 30.4)),
        ("24.3s~30.4s", (24.3, 30.4)),
        ('{"start": 24.3, "end": "0:30.4"}', (24.3, 30.4)),
        ('{"timestamp": "24.3 - 30.4 seconds"}', (24.3, 30.4)),
        ("from 24.3 seconds until the end of the video", (24.3, 31.1)),
        ("from the beginning to 12 seconds", (0, 12)),
        ("The event happens in 24.3 - 35.0 seconds.", (24.3, 31.1)),
    ],
)
def test_messy_groundings_are_read(text, span):
    assert parse_events(text, task="grounding", duration=31.1).events == [Event(*span)]


@pytest.mark.parametrize(
    "text",
    [
        "The light is turned on at 24.3 seconds.",
        "The event happens in 40.0 - 45.0 seconds.",
        "This video is from the 1990s.",
        "The event happens in 10:30 am - 11:00 am.",
    ],
)
def test_a_grounding_without_a_span_in_the_video_is_none(text):
    parsed = parse_events(text, task="grounding", duration=31.1)
    assert parsed.events == []
    assert parsed.is_unparsed


@pytest.mark.parametrize(
    ("text", "highlights"),
    [
        ("1. At 82 seconds, score 3.2\n2. At 84 seconds, score: 3.3", [(82, 3.2), (84, 3.3)]),
        ("1. 82.0, saliency score 3.2\n2. 84.0, saliency score 3.3", [(82, 3.2), (84, 3.3)]),
        ("82.0 (3.2), 84.0 (3.3)", [(82, 3.2), (84, 3.3)]),
        ("82.0: 3.2, 84.0: 3.3", [(82, 3.2), (84, 3.3)]),
        ("82 seconds: 3.2\n84 seconds: 3.3", [(82, 3.2), (84, 3.3)]),
        ("Times: 82.0, 84.0\nSaliency scores: 3.2, 3.3", [(82, 3.2), (84, 3.3)]),
        ("At 0:10, score 3.2; at 0:12, score 3.3", [(10, 3.2), (12, 3.3)]),
        ("Time: 0:10 | Score: 4/5\nTime: 0:20 | Score: 3/5", [(10, 4), (20, 3)]),
        ("They are at 10s and 12s, with saliency scores of 3 and 4 respectively.", [(10, 3), (12, 4)]),
        ('[{"timestamp": 82.0, "saliency": 3.2}, {"time": "1:24", "score": 2}]', [(82, 3.2), (84, 2)]),
        (
            "The highlights are in the 4, 6 seconds. On a scale of 1 to 5, their scores are 2, 3.",
            [(4, 2), (6, 3)],
        ),
        ("82 - 88 seconds, score 3", [(85, 3)]),
        ("The highlight moment shows 3 people.", []),
    ],
)  # fmt: skip
def test_messy_highlights_are_read_as_moments(text, highlights):
    assert read_highlights(text) == highlights


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("A man cooks dinner.", []),
        ("He was born in 1990 and there are 3 people at 5 tables.", []),
        ("It takes 3 to 5 seconds with 2 - 3 cups.", []),
        ("The meeting is at 10:30 am, 20 - 30% done.", []),
        ("He sits at 12.3 seconds.", [(12.3, 12.3, "He sits at 12.3 seconds.")]),
        ("He waits. He sits from 3 to 5 seconds.", [(3, 5, "He sits from 3 to 5 seconds.")]),
        ("He jumps at 10 and 12 seconds.", [(t, t, "He jumps at 10 and 12 seconds.") for t in (10, 12)]),
        ("0:00 Intro\n0:45 Set-up", [(0, 0, "Intro"), (45, 45, "Set-up")]),
        ("0.0 - 9.1 seconds, chop.  9.1 - 10.8 seconds, fry.", [(0, 9.1, "chop."), (9.1, 10.8, "fry.")]),
        (
            "He enters. From 20 to 25 seconds, he sits. He leaves at 30 s.",
            [(20, 25, "he sits."), (30, 30, "He leaves at 30 s.")],
        ),
        ("Yes, he sits (0:05 - 0:10).", [(5, 10, "Yes, he sits.")]),
    ],
)  # fmt: skip
def test_a_free_answer_gives_the_times_that_it_states(text, events):
    parsed = parse_events(text, task="ask")
    assert [(e.start, e.end, e.caption) for e in parsed.events] == events
    assert not parsed.is_unparsed
    assert parsed.notes == ()


def test_a_free_answer_in_the_highlight_wording_gives_highlights():
    text = "The highlight timestamps are in the 82, 84 seconds. Their saliency scores are 1.3, 1.7."
    assert parse_events(text, task="summary").events == [Event(82, 82, saliency=1.3), Event(84, 84, saliency=1.7)]


@pytest.mark.parametrize(
    "text",
    [
        '[{"start": 0, "end": 9.1, "text": "a, \\"b\\""}, {"from": "0:09", "to": "0:20", "step": "c"}]',
        '```json\n{"e": [{"span": [0, 9.1], "text": "a, \\"b\\""}, {"time": [9, 20], "label": "c"}]}\n```',
        "[{'start_time': 0, 'end_time': 9.1, 'event': 'a, \"b\"'}, {'start': 9, 'end': 20, 'text': 'c'}, {'s",
    ],
)  # fmt: skip
def test_answers_in_json_are_read_even_unfinished(text):
    assert read(text) == [(0, 9.1, 'a, "b"'), (9, 20, "c")]


@pytest.mark.parametrize(
    ("score", "value"),
    [("4.5.", 4.5), ("1.2.3", 1.2), ("3:", 3), (".", 0), ("good", 0), ("9" * 999, 999_999_999), ("1:" * 999, 3661)],
)  # fmt: skip
def test_a_score_is_its_first_whole_number_and_never_an_error(score, value):
    text = json.dumps({"time": 1, "score": score})
    assert parse_events(text, task="highlights").events == [Event(1, 1, saliency=value)]


def test_every_span_past_the_end_is_dropped_or_cut_and_counted():
    text = "90 - 102 seconds, a. 114 - 127 seconds, b. 130 - 140 seconds, c."
    parsed = parse_events(text, task="dense_caption", duration=120)
    assert parsed.events == [Event(90, 102, "a."), Event(114, 120, "b.")]
    assert (parsed.dropped_times, parsed.clipped_ends) == (1, 1)
    assert parsed.notes == (
        "1 time past the end of the video dropped",
        "1 event past the end of the video cut there",
    )


def test_what_could_not_be_read_is_counted():
    text = "There are 3 highlight moments in the 10.0, 12.0 second. Their scores are 1.0, 2.0, 3.0, 4.0."
    assert parse_events(text, task="highlights").extra_scores == 2
    assert parse_events("in the 10.0, 12.0 second. Scores are 1.0.", task="highlights").missing_scores == 1
    assert parse_events("Nothing.", task="steps").notes == ("no event could be read from the answer",)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="there is no task 'dvc'; choose one of ask, dense_caption"):
        parse_events("", task="dvc")


@given(
    st.text(alphabet="0123456789 .:,-–tos\n()[]{}\"'*|aend", max_size=120),
    st.sampled_from(["ask", *TASKS.values()]),
)
def test_no_text_breaks_the_reader(text, task):
    parsed = parse_events(text, task=task, duration=50.0)
    assert all(0 <= event.start <= event.end <= 50.0 for event in parsed.events)
    assert parse_events(text, task=task, duration=50.0) == parsed


pieces = [
    "1",
    "23",
    "٣",
    ".",
    ":",
    "-",
    " - ",
    ", ",
    " ",
    "\n",
    "s",
    " seconds",
    "start",
    "end",
    "at ",
    "from ",
    " to ",
]
pieces += ["score", '"time": ', '"score": "', '"start": [', '"', "'", "{", "}", "(", "[", "]", "9" * 400, "**", "1. "]


@pytest.mark.parametrize("task", get_args(Task))
@given(st.lists(st.sampled_from(pieces) | st.characters(), max_size=40).map("".join), st.none() | st.just(50.0))
def test_no_pieces_of_an_answer_break_the_reader(task, text, duration):
    for answer in (text, f'{{"time": 1, "score": "{text}'):
        parse_events(answer, task=task, duration=duration)


@pytest.mark.parametrize("task", ["dense_caption", "highlights"])  # between them they use every pattern
@pytest.mark.parametrize(
    "piece",
    [
        *("1 - ", "1\n", ". 1 ", "[start ", "start at 1 ", "{'a':'", '{"start": "\\', "0:00 ", "x 0:01 - 0:02 "),
        *("at 1, ", "between 1 and ", "1 score\n", "event 1: ", " "),
    ],
)
def test_reading_takes_time_in_proportion_to_the_text(piece, task):
    began = time.process_time()
    parse_events(piece * (100_000 // len(piece)), task=task, duration=99)
    assert time.process_time() - began < 7.5  # it takes a second or less; many minutes, if a pattern went wrong


# ------------------------------------------------------------------------------------------------ there and back

tenths = st.integers(0, 99_999).map(lambda tenth: tenth / 10)
words = st.lists(
    st.sampled_from(["a", "man", "2", "eggs,", "the-pan", "(3 - 4 cups)", "for", "5 - 6", "seconds", "0:07"]),
    min_size=1,
)
captions = st.just("") | words.map(lambda chosen: f"She {' '.join(chosen)} x.")
captioned = st.builds(lambda a, b, c: Event(min(a, b), max(a, b), c), tenths, tenths, captions)
highlights = st.builds(lambda t, s: Event(t, t, saliency=s), tenths, st.integers(0, 50).map(lambda tenth: tenth / 10))


@pytest.mark.parametrize("task", ["dense_caption", "steps", "transcribe", "ask"])
@given(events=st.lists(captioned, max_size=6))
def test_written_captions_read_back_the_same(events, task):
    assert parse_events(format_events(events, "steps" if task == "ask" else task), task=task).events == events


@given(tenths, tenths)
def test_a_written_grounding_reads_back_the_same(a, b):
    events = [Event(min(a, b), max(a, b))]
    assert parse_events(format_events(events, "grounding"), task="grounding").events == events


@pytest.mark.parametrize("task", ["highlights", "summary"])
@given(events=st.lists(highlights, max_size=12))
def test_written_highlights_read_back_the_same(events, task):
    assert parse_events(format_events(events, task), task=task).events == events


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("The ring spins from 3.0 to 5.5 seconds.", "The ring spins from 103.0 to 105.5 seconds."),
        ("2.0 - 8.0 seconds, out.  9 - 12 seconds, in.", "102.0 - 108.0 seconds, out.  109.0 - 112.0 seconds, in."),
        ("It blinks at 10 and 12 seconds.", "It blinks at 110.0 and 112.0 seconds."),
        ("He sits down (0:03 - 0:05).", "He sits down (1:43 - 1:45)."),
        ("It lasts for 3 seconds and takes 2 cups.", "It lasts for 3 seconds and takes 2 cups."),
        ("From the start to 5 seconds nobody moves.", "From the start to 105.0 seconds nobody moves."),
        ("Nothing happens.", "Nothing happens."),
    ],
)  # fmt: skip
def test_stated_times_can_be_moved_to_another_clock(text, moved):
    assert move_times(text, lambda seconds: seconds + 100) == moved


@given(st.lists(st.integers(0, 5990), min_size=2, max_size=8, unique=True))
def test_moved_times_are_read_where_they_were_moved(tenths):
    times = sorted(tenth / 10 for tenth in tenths)
    text = "".join(f"{a:.1f} - {b:.1f} seconds, it moves.  " for a, b in pairwise(times))
    moved = parse_events(move_times(text, lambda seconds: seconds + 49.5)).events
    assert [(e.start, e.end) for e in moved] == [
        (pytest.approx(e.start + 49.5), pytest.approx(e.end + 49.5)) for e in parse_events(text).events
    ]


# ---------------------------------------------------------------------------------- whatever a model may write

REAL = [
    "0.0 - 9.1 seconds, a man sits.  9.1 - 10.8 seconds, he stands.",
    "The given query happens in 24.3 - 30.4 seconds.",
    "There are 2 highlight moments in the 82.0, 84.0 second. Their saliency scores are 1.3, 1.7.",
    "Transcribed speech: 0.0 - 2.1 seconds, hello there. 2.1 - 4.0 seconds, who is it?",
    '[{"start": "0:12", "end": "0:18", "caption": "cut"}, {"time": 3, "score": 4',
    "**Step 1:** from 0:03 to 1:02:03 (approximately) - stir;\n- 2) between 5 and 7 s",
    "the end of the video to the start, 1/4 cup at 3pm, 20% from 99999999 - 1e9 seconds",
]
STRANGE = ["\x00", "\u202e", "\ud800", "−", "٣", "½", "  ", "\n", "1e309", "-"]
ENDLESS = [
    text * 400 for text in ("1 - 2 seconds, a. ", "- ", "(", "{", '"', "0:", "9", "9.9.", "at 3 and ", "to ", "[")
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A real answer that has been cut, doubled, turned round, or sprinkled with strange signs."""
    text = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(text)))
        strange = st.characters() | st.sampled_from(STRANGE)
        how = draw(st.sampled_from(["cut", "insert", "double", "swap", "drop"]))
        if how == "cut":
            text = text[:at]
        elif how == "insert":
            text = text[:at] + draw(strange) + text[at:]
        elif how == "double":
            text = text[:at] + text[:at] + text[at:]
        elif how == "swap":
            text = text[at:] + text[:at]
        else:
            text = text[:at] + text[at + draw(st.integers(1, 9)) :]
    return text


def read_in_every_way(text: str) -> None:
    began = time.process_time()
    for task in get_args(Task):
        for duration in (None, 0.0, 50.0):
            parsed = parse_events(text, task=task, duration=duration)
            assert all(0 <= event.start <= event.end for event in parsed.events)
            assert duration is None or all(event.end <= duration for event in parsed.events)
            assert isinstance(parsed.notes, tuple)
    move_times(text, lambda seconds: seconds + 1)
    assert time.process_time() - began < 5


@given(mutated() | st.text(max_size=300))
def test_whatever_a_model_writes_is_read_without_an_exception(text):
    read_in_every_way(text)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(mutated() | st.text(max_size=300))
def test_ten_thousand_answers_are_read_without_an_exception(text):
    read_in_every_way(text)


@pytest.mark.parametrize("text", ENDLESS)
def test_an_endless_answer_is_read_in_no_time(text):
    read_in_every_way(text)


TIMES = ("0", "0.0", "3", "7.1", "12.5", "99999.9")


@pytest.mark.parametrize("head", ["", "The given query happens in ", "The event happens in the "])
@pytest.mark.parametrize("duration", [None, 5.0, 60.0])
def test_the_own_wording_has_the_span_that_the_readers_of_all_wordings_find(head, duration, monkeypatch):
    texts = [f" {head}{start} - {end} seconds.\n" for start in TIMES for end in TIMES]
    found = [(is_own_span(text), states_none(text), read_grounding(text, duration)) for text in texts]
    monkeypatch.setattr(parsing, "is_own_span", lambda _: False)
    assert found == [(True, states_none(text), read_grounding(text, duration)) for text in texts]


@pytest.mark.parametrize(
    "text", ["1 - 2 seconds", "The query is at 1 - 2 seconds.", "1 - 2 seconds. 3 - 4 seconds.", ""]
)
def test_another_wording_is_no_own_span(text):
    assert not is_own_span(text)
