"""Forms of answers: the numbers exhaustively, the words by reading what they allow."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from timechat.answers.events import Event
from timechat.answers.forms import (
    FORMS,
    AnswerForm,
    answer_form,
    captions_form,
    events_form,
    grounding_form,
    json_form,
    moments_form,
    spans_form,
    time_regex,
)
from timechat.answers.parsing import Parsed, read_captions, read_grounding, states_none
from timechat.answers.presets import PRESETS
from timechat.answers.prompts import NOT_FOUND_ANSWER, TIMECHAT_PRESETS
from timechat.answers.tasks import parse_events


@pytest.mark.parametrize(
    "duration", [0.0, 0.1, 0.95, 1.0, 9.9, 10.0, 10.1, 59.96, 99.9, 100.0, 101.0, 999.4, 1000.0, 2048.7]
)
def test_time_regex_allows_exactly_the_times_of_the_video(duration):
    pattern = re.compile(time_regex(duration))
    last = int(duration * 10 + 1e-6)
    for tenths in range(last + 1200):
        whole, tenth = divmod(tenths, 10)
        assert bool(pattern.fullmatch(f"{whole}.{tenth}")) == (tenths <= last), tenths
        if not tenth:
            assert bool(pattern.fullmatch(str(whole))) == (tenths <= last), tenths


@pytest.mark.parametrize("last", [12345.6, 36000.0, 99999.9])
def test_time_regex_is_exact_around_each_digit(last):
    pattern = re.compile(time_regex(last))
    limit = round(last * 10)
    near = {limit + step for step in range(-1200, 1200)} | {
        10**k * d + step for k in range(7) for d in range(1, 10) for step in (-1, 0, 1)
    }
    for tenths in near:
        assert bool(pattern.fullmatch(f"{tenths // 10}.{tenths % 10}")) == (tenths <= limit), tenths


@pytest.mark.parametrize("text", ["", "-1", "01", "1.", ".5", "1.25", "1e1", " 1", "1,0", "00", "00.5", "010"])
@pytest.mark.parametrize("duration", [10.0, 250.0, 36000.0])
def test_time_regex_allows_no_other_writing(duration, text):
    assert re.fullmatch(time_regex(duration), text) is None


def test_time_regex_of_ten_hours_is_short():
    assert len(time_regex(36000.0)) == 112


def test_duration_that_is_no_time_is_refused():
    with pytest.raises(ValueError, match="duration must be a finite number of seconds from 0"):
        time_regex(float("nan"))


# ------------------------------------------------------------------------------------------------ sentences


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("The event happens in 1.5 - 20 seconds.", [Event(1.5, 20)]),
        ("The event happens in the 20.3 - 4 seconds.", [Event(4, 20.3)]),
        ("The given query happens in 0 - 0.1 seconds.", [Event(0, 0.1)]),
        ("The given query does not happen in the video.", []),
    ],
)
def test_grounding_form_is_kept_by_what_the_parser_reads(text, events):
    form = grounding_form(20.3)
    assert form.is_kept_by(text)
    assert read_grounding(text, 20.3).events == events
    assert states_none(text) == (not events)
    assert not form.is_kept_by(text + " Yes.")
    assert form.schema is None


def test_grounding_form_refuses_times_past_the_end():
    assert not grounding_form(20.3).is_kept_by("The event happens in 1.5 - 20.4 seconds.")


def event_texts(captions):
    times = st.integers(0, 903).map(lambda tenths: f"{tenths / 10:.1f}")
    return st.lists(st.tuples(times, times, captions), min_size=1, max_size=4)


WORDS = ["a", "man", "sits", "to", "until", "from", "between", "and", "start", "end", "beginning", "seconds", "second"]
WORDS += ["s", "minutes", "at", "then", "é", "собака", "狗", "it's", "well-known", "for", "the", "event", "seconds, a"]


@settings(max_examples=50)
@given(event_texts(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)))
def test_captions_form_is_read_event_by_event(events):
    text = "  ".join(f"{start} - {end} seconds, {caption}." for start, end, caption in events)
    assert captions_form(90.3).is_kept_by(text)
    expected = [(min(float(a), float(b)), max(float(a), float(b)), f"{caption}.") for a, b, caption in events]
    assert [(e.start, e.end, e.caption) for e in read_captions(text, 90.3).events] == expected


LETTERS = "stoundilSTOÀÖØöøʯͰԯאתءيऀॣぁヿ一鿿가힣"
STEPS = st.tuples(st.sampled_from(["", "", "", " ", ", ", "'", "-"]), st.sampled_from(LETTERS)).map("".join)


@settings(max_examples=50)
@given(event_texts(st.tuples(st.sampled_from(LETTERS), st.lists(STEPS, max_size=40).map("".join)).map("".join)))
def test_any_letters_of_a_caption_are_read(events):
    text = "  ".join(f"{start} - {end} seconds, {caption}." for start, end, caption in events)
    assert captions_form(90.3).is_kept_by(text)
    assert [event.caption for event in read_captions(text, 90.3).events] == [f"{caption}." for *_, caption in events]


def test_captions_form_refuses_what_reads_as_a_time():
    form = captions_form(90.3, max_caption=10)
    assert form.is_kept_by("0 - 5 seconds, He runs.  5 - 6.5 seconds, A b.")
    for text in (
        "0 - 5 seconds, At 3 s.",
        "0 - 91 seconds, He runs.",
        "0 - 5 seconds, a - b.",
        "0 - 5 seconds, ABCDEFGHIJK.",
    ):
        assert not form.is_kept_by(text)


# ------------------------------------------------------------------------------------------------- JSON


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 903), st.integers(0, 903)), max_size=5))
def test_spans_form_is_read_span_by_span(spans):
    pairs = [[a / 10, b / 10] for a, b in spans]
    text = json.dumps(pairs)
    form = spans_form(90.3)
    assert form.is_kept_by(text)
    expected = [(min(pair), max(pair)) for pair in pairs]
    as_object = json.dumps({"spans": pairs})
    assert form.is_kept_by(as_object, as_json=True)
    for answer in (text, as_object):
        parsed = parse_events(answer, task="grounding", duration=90.3)
        assert [(event.start, event.end) for event in parsed.events] == expected
        assert parsed.notes == ()


CAPTIONS = st.text("abc ,.:;-'[]{}é狗0123456789", min_size=1, max_size=20).map(lambda text: f"x{text}")


@settings(max_examples=50)
@given(event_texts(CAPTIONS))
def test_events_form_is_read_event_by_event(events):
    listed = [{"start": float(a), "end": float(b), "caption": caption} for a, b, caption in events]
    form = events_form(90.3)
    text = json.dumps(listed, ensure_ascii=False)
    assert form.is_kept_by(text)
    read = parse_events(text, task="dense_caption", duration=90.3).events
    times = [(min(e["start"], e["end"]), max(e["start"], e["end"])) for e in listed]
    assert [(event.start, event.end) for event in read] == times
    assert [event.caption for event in read] == [e["caption"] for e in listed]
    assert parse_events(json.dumps({"events": listed}), task="steps", duration=90.3).events == read


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 903), st.integers(10, 50)), max_size=5))
def test_moments_form_is_read_moment_by_moment(moments):
    listed = [{"time": time / 10, "score": score / 10} for time, score in moments]
    text = json.dumps(listed)
    form = moments_form(90.3)
    assert form.is_kept_by(text)
    expected = [(one["time"], one["score"]) for one in listed]
    for answer in (text, json.dumps({"moments": listed})):
        parsed = parse_events(answer, task="highlights", duration=90.3)
        assert [(event.start, event.saliency) for event in parsed.events] == expected
        assert parsed.notes == ()


@pytest.mark.parametrize(
    "text", ['[{"time": 3, "score": 0.5}]', '[{"time": 3, "score": 5.1}]', '[{"time": 90.4, "score": 3}]']
)
def test_moments_form_refuses_other_scores_and_times(text):
    assert not moments_form(90.3).is_kept_by(text)


@pytest.mark.parametrize("duration", [0.0, 9.9, 754.3, 36000.0])
def test_engine_of_structured_outputs_takes_every_form(duration):
    for make in FORMS.values():
        form = make(duration)
        assert LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(form.regex)) == ""
        if form.schema is not None:
            assert LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(form.schema))) == ""


def test_schemas_are_strict_objects_with_times_of_the_video():
    spans, events = spans_form(20.37).schema, events_form(20.37).schema
    number = {"type": "number", "minimum": 0, "maximum": 20.3, "multipleOf": 0.1}
    pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    assert spans == {
        "type": "object",
        "properties": {"spans": {"type": "array", "items": pair, "maxItems": 64}},
        "required": ["spans"],
        "additionalProperties": False,
    }
    item = events["properties"]["events"]["items"]
    assert item["properties"] == {"start": number, "end": number, "caption": {"type": "string"}}
    assert item["required"] == ["start", "end", "caption"]
    assert events_form(20.37).is_kept_by('{"events": []}', as_json=True)
    assert not events_form(20.37).is_kept_by("[1]", as_json=True)
    assert not events_form(20.37).is_kept_by("{", as_json=True)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        " [ ] ",
        '{"events": []}',
        '{"spans":[],"note":null}',
        '{"found": false}',
        '{"found": false, "reason": "there is no dog", "start": 0, "end": 0}',
        "```json\n[]\n```",
        "<think>a</think>[]",
        "<think>[[1, 2]]</think>\n\n[]",
    ],
)
@pytest.mark.parametrize("task", ["grounding", "dense_caption", "highlights"])
def test_empty_json_states_that_there_is_none(text, task):
    assert states_none(text)
    assert parse_events(text, task=task, duration=10.0) == Parsed([])


@pytest.mark.parametrize(
    "text", ["", "no", "{}", "[[]", '{"found": true}', "[0]", "null", "[" * 99999, "[]" + "x" * 9999]
)
def test_other_text_without_events_is_unparsed(text):
    assert parse_events(text, task="grounding", duration=10.0) == Parsed([], is_unparsed=True)
    assert not states_none(text)


def test_spans_past_the_end_are_counted():
    parsed = parse_events("[[20, 30], [8, 12]]", task="grounding", duration=10.0)
    assert parsed == Parsed([Event(8, 10)], dropped_times=1, clipped_ends=1)


# ------------------------------------------------------------------------------------- forms of tasks and presets


@pytest.mark.parametrize(
    ("task", "text", "events"),
    [
        (
            "highlights",
            "There are 2 highlight moments in the 4.0, 8 second. Their saliency scores are 2.7, 3.3.",
            [Event(4, 4, saliency=2.7), Event(8, 8, saliency=3.3)],
        ),
        (
            "highlights",
            "The highlight timestamps are in the 4 seconds. Their saliency scores are 5.0.",
            [Event(4, 4, saliency=5.0)],
        ),
        ("highlights", "No highlight moments were found.", []),
        ("transcribe", "Transcribed speech: 0 - 2.5 seconds, Good morning.", [Event(0, 2.5, "Good morning.")]),
        ("transcribe", "Transcribed speech: None.", []),
    ],
)
def test_sentences_of_the_original_have_an_expression(task, text, events):
    form = answer_form(task, duration=20.3)
    assert form.is_kept_by(text)
    assert not form.is_kept_by(text + "x")
    assert form.schema is None
    assert parse_events(text, task=task, duration=20.3).events == events


GROUNDED = {
    "timechat@1": "The given query happens in 1.5 - 2.0 seconds.",
    "timelens@1": "The event happens in 1.5 - 2.0 seconds",
    "timelens-7b@1": "The event happens in 1.5 - 2.0 seconds.",
    "timelens2@1": "[[1.5, 2.0]]",
    "time-r1@1": "<answer>1.5 to 2.0</answer>",
    "qwen3-vl@1": "The event happens in 1.5 - 2.0 seconds.",
    "generic@1": "The event happens in 1.5 - 2.0 seconds.",
    "lmms-eval-charades@1": "The event happens in the 1.5 - 2.0 seconds.",
}


@pytest.mark.parametrize("preset", GROUNDED)
def test_grounding_has_the_form_of_its_preset(preset):
    form = answer_form("grounding", duration=20.0, preset=preset)
    assert form.is_kept_by(GROUNDED[preset])
    assert parse_events(GROUNDED[preset], task="grounding", duration=20.0).events == [Event(1.5, 2)]


def test_a_grounding_answer_may_have_to_name_a_moment():
    form = answer_form("grounding", duration=20.0, names_moment=True)
    assert form.is_kept_by(GROUNDED["timechat@1"])
    assert not form.is_kept_by(NOT_FOUND_ANSWER)
    assert answer_form("grounding", duration=20.0).is_kept_by(NOT_FOUND_ANSWER)
    captions = answer_form("dense_caption", duration=20.0, names_moment=True)
    assert captions.regex == answer_form("dense_caption", duration=20.0).regex


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_form_for_every_task(preset):
    for task in ("grounding", "dense_caption", "steps", "highlights", "transcribe"):
        form = answer_form(task, duration=20.0, preset=preset)
        assert form.regex
        assert form.grammar.allows("", 100)
        is_original = preset in {one.name for one in TIMECHAT_PRESETS}
        assert (form.schema is None) == (is_original or (task == "grounding" and preset != "timelens2@1"))
    assert answer_form("summary", duration=20.0, preset=preset) is None


def test_form_of_a_json_schema_has_both_spellings():
    form = json_form('{"type": "object"}')
    assert (form.schema, form.grammar.grammar, form.grammar.is_json) == ({"type": "object"}, '{"type": "object"}', True)
    assert json_form("{").schema is None


@pytest.mark.parametrize(
    ("schema", "text", "is_kept"),
    [
        ('{"type": "object"}', "{}", True),
        ('{"type": "object"}', "[]", False),
        ('{"type": "array"}', "[1, 2]", True),
        ('{"anyOf": [{"type": "null"}, {"type": "object"}]}', "null", True),
        ('{"type": "array"}', "none", False),
    ],
)
def test_schema_of_another_value_than_an_object_is_kept(schema, text, is_kept):
    assert json_form(schema).is_kept_by(text, as_json=True) is is_kept


@pytest.mark.parametrize(
    ("text", "can_begin"),
    [("", True), ("[[", True), ("[]", True), ("[[1.5, 20.", True), ("[[1.5, 21", False), ("{", False), ("[] ", False)],
)
def test_beginnings_of_an_answer_are_recognized(text, can_begin):
    assert spans_form(20.0).cursor().allows(text) is can_begin


def test_beginnings_follow_the_schema_of_an_object():
    form = spans_form(20.0)
    assert form.cursor(as_json=True).allows('{"spans": [[1')
    assert not form.cursor(as_json=True).allows("[[1")
    assert AnswerForm().cursor() is None
    assert grounding_form(20.0).cursor(as_json=True) is None


def test_a_cursor_moves_through_an_answer():
    cursor = spans_form(20.0).cursor()
    assert cursor.advance("[[1.0, ")
    assert cursor.allows("19.9]")
    assert not cursor.allows("21")
    assert cursor.advance("2]]")
    assert not cursor.allows("]")
    assert not cursor.advance("]")
