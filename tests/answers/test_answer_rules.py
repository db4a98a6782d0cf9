"""The rules of parsing an answer, each on answers as models write them: what is a time, an event, a caption."""

import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.answers.reading import captioned, rated, span
from timechat.answers.answer_text import AnswerText, given_answer
from timechat.answers.events import Task
from timechat.answers.parsing import move_times
from timechat.answers.presets import PRESETS
from timechat.answers.prompts import NOT_FOUND_ANSWER, PROMPT_EXAMPLES, frame_message
from timechat.answers.tasks import parse_events

# ------------------------------------------------------------------------------------- thoughts and echoes


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>3 - 5 s</think><answer>7 - 9 s</answer> ok", "7 - 9 s"),
        ("<THINK>3 - 5 s</THINK> <Answer>7 - 9 s", "7 - 9 s"),
        ("3 - 5 s</think>7 - 9 s", "7 - 9 s"),
        ("<think>so <answer>1 - 2 s</answer></think><answer>7 - 9 s</answer>", "7 - 9 s"),
        ("<think>so <answer>7 - 9 s</answer></think>", "7 - 9 s"),
        ("<think>3 - 5 s", ""),
        ("<answer>1 - 2 s</answer> and <answer>7 - 9 s</answer>", "1 - 2 s\n7 - 9 s"),
        ("a < b, <thin> and </answers>", "a < b, <thin> and </answers>"),
    ],
)
def test_what_was_thought_is_not_answered(text, answer):
    assert given_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "task", "events"),
    [
        (
            "<0.0 seconds> - <4.0 seconds> A man sits.\n<4.0 seconds> - <9.5 seconds> He eats.",
            "dense_caption",
            [(0, 4, "A man sits."), (4, 9.5, "He eats.")],
        ),
        ("<0.0 seconds> - <4.0 seconds> A man sits.", "grounding", [(0, 4, "")]),
        (
            "He sits from <3.0 seconds> to <4.0 seconds>.",
            "ask",
            [(3, 4, "He sits from <3.0 seconds> to <4.0 seconds>.")],
        ),
        ("Between <3 seconds> and <4 seconds> he sits.", "grounding", [(3, 4, "")]),
        ("He sits at <3.0 seconds>.", "ask", [(3, 3, "He sits at <3.0 seconds>.")]),
        ("<45.0 seconds> Set-up", "ask", [(45, 45, "Set-up")]),
        ("From <17> to <26> he sits.", "ask", []),
    ],
)
def test_times_in_angle_brackets_are_read(text, task, events):
    assert captioned(text, task) == events


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("[[1.0, 2.5], [9, 7]]", [(1, 2.5, ""), (7, 9, "")]),
        ('```json\n[{"start": 1, "end": 2}, {"start": 5, "end": 6}]\n```', [(1, 2, ""), (5, 6, "")]),
        ('{"spans": [[1, 2], [5, 6]]}', [(1, 2, ""), (5, 6, "")]),
        ('{"query": "a dog", "relevant_windows": [[1, 2], [5, 6]]}', [(1, 2, "")]),
        ("<think>[[1, 2]]</think><answer>12.54 to 17.83</answer>", [(12.54, 17.83, "")]),
        ("It happens from 1 s to 2 s, and from 5 s to 6 s.", [(1, 2, "")]),
    ],
)
def test_grounding_keeps_every_span_of_a_json_list(text, events):
    assert captioned(text, "grounding") == events


@given(st.text(alphabet="<>/abc 12-s", max_size=30), st.integers(0, 50), st.integers(51, 99))
def test_a_thought_never_adds_an_event(thought, start, end):
    assert span(f"<think>{thought} 1 - 2 seconds</think>{start} - {end} seconds") == (start, end)


@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_no_prompt_said_again_gives_an_event(preset, task):
    for prompt in preset.prompts.values():
        assert captioned(prompt.replace("{query}", "a dog barks"), task) == []


@pytest.mark.parametrize("example", PROMPT_EXAMPLES)
def test_the_answer_after_a_repeated_prompt_is_read(example):
    for lead in ("A specific example is : ' ", "the output format should be like: '", "For example, "):
        assert span(f"{lead}{example}' . The given query happens in 6.5 - 11.0 seconds.") == (6.5, 11)


def test_the_example_of_a_prompt_alone_is_an_answer():
    assert span("The given query happens in 20.8 - 30.0 seconds.") == (20.8, 30)
    assert captioned("90 - 102 seconds, spread margarine on two slices of white bread.") == [
        (90, 102, "spread margarine on two slices of white bread.")
    ]


def test_the_times_of_the_frames_said_again_are_no_highlights():
    answer = "There are 1 highlight moments in the 12.0 second. Their saliency scores are 3.0."
    assert rated(frame_message([0, 0.3, 0.6]) + answer) == [(12, 3)]


# ---------------------------------------------------------------------------------------- length of the video


@pytest.mark.parametrize(
    "words",
    [
        "The video is 120 seconds long.",
        "The video lasts 2:00.",
        "This short clip lasts for about 2 minutes.",
        "The video runs from 0.0 to 120.0 seconds.",
        "The clip goes from the start to 2:00.",
        "It is a 120-second-long video.",
        "In the 2-minute video:",
        "In the video of 120.0 seconds:",
        "The total length of the video is 120 s.",
        "Video duration: 2:00.",
        "Out of 120 seconds:",
        "In 120 seconds of video:",
        "The video starts at 0.0 seconds and ends at 120.0 seconds.",
    ],
)
def test_how_long_the_video_is_is_no_event(words):
    assert span(f"{words} The event happens in 6.5 - 11.0 seconds.") == (6.5, 11)
    assert rated(f"{words} Highlights at 12 s: 3.5, 14 s: 2.") == [(12, 3.5), (14, 2)]
    assert captioned(f"{words} He sits down.", "ask") == []
    caption = words[0].lower() + words[1:].rstrip(":")
    assert captioned(f"0 - 5 seconds, {caption}  5 - 9 seconds, b.") == [(0, 5, caption), (5, 9, "b.")]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("The clip from 14 to 19 seconds shows it.", (14, 19)),
        ("The relevant clip lasts from 14 to 19 seconds.", (14, 19)),
        ("The time of the event in the video is 14.5 - 19.5 seconds.", (14.5, 19.5)),
        ("14.5 - 19.5 seconds video shows it.", (14.5, 19.5)),
    ],
)
def test_a_part_of_the_video_is_an_event(text, ends):
    assert span(text) == ends


# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (".5 - 3.5 seconds", (0.5, 3.5)),
        ("[.5, 4.]", (0.5, 4)),
        ("4. - 8. seconds", (4, 8)),
        ("from 4. to 8. s", (4, 8)),
        ("12.6000000000000005 - 17.19999999999999999999 s", (12.6, 17.2)),
        ("14,5 - 19,8", (14.5, 19.8)),
        ("between 14,5 and 19,8 seconds", (14.5, 19.8)),
        ("von 14,5s - 19,8s", (14.5, 19.8)),
        ("[4,8]", (4, 8)),
        ("(4,8)", (4, 8)),
        ("[4,8 - 9,5]", (4.8, 9.5)),
        ("from the 5th to the 9th second", (5, 9)),
        ("between the 82nd and 83rd second", (82, 83)),
        ("Vom 14. bis 19. Sekunde", None),
        ("de 14,5 a 19,8 segundos", None),
    ],
)
def test_a_number_is_read_however_it_is_written(text, ends):
    assert span(text) == ends


def test_a_comma_in_a_list_or_a_caption_is_no_decimal_comma():
    assert captioned("0 - 4 seconds, 1,200 people run.") == [(0, 4, "1,200 people run.")]
    assert rated("in the 36,38 second. Scores: 3, 2.") == [(36, 3), (38, 2)]
    assert rated("14,5 und 19,8 Sekunden") == []
    assert captioned("1. second man enters (0:02 - 0:05)\n2. he sits (0:05 - 0:09)") == [
        (2, 5, "second man enters"),
        (5, 9, "he sits"),
    ]


@given(
    st.integers(0, 99_999), st.integers(0, 99_999), st.sampled_from([",", "."]), st.sampled_from([" - ", "-", " to "])
)
def test_decimals_with_a_comma_or_a_point_are_the_same(a, b, mark, join):
    low, high = sorted((a / 100, b / 100))
    text = f"{low:.2f}{join}{high:.2f} seconds".replace(".", mark)
    assert span(text) == (low, high)


def test_ordinals_before_second_are_times():
    assert rated("in the 36th, 38th and 40th seconds. Scores: 3, 2, 1") == [(36, 3), (38, 2), (40, 1)]
    assert captioned("The 2nd man jumps at the 5th second.", "ask") == [(5, 5, "The 2nd man jumps at the 5th second.")]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("from 2 - 3, 5 - 6 and 8 - 9 s", [(2, 3), (5, 6), (8, 9)]),
        ("from 2 to 3 and from 5 to 6 minutes", [(120, 180), (300, 360)]),
        ("at 2 and 3 minutes", [(120, 120), (180, 180)]),
        ("from 2 - 3 cups, from 8 - 9 s", [(8, 9)]),
    ],
)
def test_one_unit_counts_for_all_times_before_it(text, events):
    assert [(e[0], e[1]) for e in captioned(text, "ask")][-len(events) :] == events
    assert span(text) == events[0] or events[0][0] == events[0][1]


# ------------------------------------------------------------------------------------------ minutes and hours


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2 minutes 5 seconds", 125),
        ("1 minute and 12 seconds", 72),
        ("1 minute, 12 seconds", 72),
        ("2.5 minutes", 150),
        ("2,5 minutes", 150),
        ("1m20s", 80),
        ("1m 20.5s", 80.5),
        ("1 min 5 sec", 65),
        ("1 hour 2 minutes 3 seconds", 3723),
        ("1h02m03s", 3723),
        ("1 hr", 3600),
        ("90 minutes", 5400),
        ("1 min. 5 sec.", 65),
        ("1m:20s", 80),
        ("1'20\"", 80),
    ],
)
def test_minutes_and_hours_are_read_where_seconds_would_be(written, seconds):
    assert span(f"from {written} to 9:59:59") == (seconds, 35999)
    assert captioned(f"He stops at {written}", "ask") == [(seconds, seconds, f"He stops at {written}")]
    assert captioned(f"{written} - 9:59:59: he eats\n") == [(seconds, 35999, "he eats")]
    assert rated(f"At {written}, score 3.5") == [(seconds, 3.5)]
    caption = f"a timer shows {written.rstrip('.')}."
    assert captioned(f"0 - 9 seconds, {caption}") == [(0, 9, caption)]


@given(
    st.integers(0, 99), st.integers(0, 59), st.sampled_from(["{} minutes {} seconds", "{}m{}s", "{} min and {} sec"])
)
def test_minutes_and_seconds_make_one_time(minutes, seconds, form):
    assert span(f"from {form.format(minutes, seconds)} to 2:00:00") == (60 * minutes + seconds, 7200)


def test_two_times_joined_by_and_stay_two():
    assert span("between 1 minute and 72 seconds") == (60, 72)
    assert span("between 1 minute and 2 minutes") == (60, 120)


def test_lengths_inside_captions_are_no_events():
    text = "0 - 5 seconds, mix the dough. 20 - 25 minutes is enough. 5 - 9 seconds, bake for 2 minutes."
    assert captioned(text) == [(0, 5, "mix the dough. 20 - 25 minutes is enough."), (5, 9, "bake for 2 minutes.")]
    assert captioned("0 seconds - 1 minute: cut. 1 minute - 2 minutes: fry.") == [(0, 60, "cut."), (60, 120, "fry.")]
    assert span("The query 'bakes 20 - 25 minutes' happens in 24.3 - 30.4 seconds.") == (24.3, 30.4)


def test_minutes_move_to_another_clock():
    moved = move_times("He sits from 1 minute 5 seconds to 2.5 minutes, for 3 minutes.", lambda seconds: seconds + 10)
    assert moved == "He sits from 75.0 seconds to 160.0 seconds, for 3 minutes."


# ------------------------------------------------------------------------------------------- what is no time


@pytest.mark.parametrize(
    "text",
    [
        "It lasts over [0.25, 0.4] of the video.",
        "0.25 to 0.4 of the duration",
        "normalized time: 0.25 - 0.40",
        "0.25 to 0.40 (normalized)",
        "from 25% to 40% of the video",
        "from 25 to 40 percent",
        "20 - 30 % of it",
        "frames 30-55",
        "between frame 30 and frame 55",
        "Frame numbers: [30, 55]",
        "in frames #30 to #55",
        "from 42000 ms to 47500 ms",
        "[40, 41, 42, 43]",
        "40, 41, 42, 43",
        "(40; 41; 42)",
        "2020-01-15",
        "<17> to <26>",
        "<t17> - <t26>",
        "<|3.5|> - <|4.5|>",
        '{"start_frame": 30, "end_frame": 55}',
        '{"start": -1, "end": -1}',
        '{"start": null, "end": null}',
        '{"start": 5}',
    ],
)
def test_what_counts_no_seconds_gives_no_moment(text):
    parsed = parse_events(text, task="grounding")
    assert (parsed.events, parsed.is_unparsed) == ([], True)
    assert captioned(text, "ask") == []


@pytest.mark.parametrize(
    "text", ["frames 30, 40", "30 to 55 frames", "42000 to 47500 ms", "40, 41, 42", "(40, 41, 42)"]
)
def test_what_counts_no_seconds_is_no_highlight(text):
    assert rated(text) == []


def test_seconds_beside_other_numbers_are_read():
    assert span("from frame 30 to frame 55 (1.2 to 2.2 seconds)") == (1.2, 2.2)
    assert span("2020-01-15: 3 - 5 seconds, 20% of it") == (3, 5)
    assert captioned("5 - 9 seconds, the frame 3.  9 - 12 seconds, 50% done.") == [
        (5, 9, "the frame 3."),
        (9, 12, "50% done."),
    ]


# --------------------------------------------------------------------------------------- ends and list marks


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("13.5s,18.0s", (13.5, 18)),
        ("0:13, 0:18", (13, 18)),
        ("13.5 seconds and 18.0 seconds.", (13.5, 18)),
        ("Start and end: 13.5, 18", (13.5, 18)),
        ("The start time and end time are 13.5 and 18.0.", (13.5, 18)),
        ("start_time and end_time: 13.5, 18", (13.5, 18)),
        ("The beginning and the end are 13.5 s and 18 s", (13.5, 18)),
        ("The starting and ending times are 0:13 and 0:18.", (13, 18)),
        ("timestamps: 13.5 and 18 seconds", (13.5, 18)),
        ("The timestamps are 13.5, 18, 20 and 30 s", None),
        ("from 21 s until the video ends", (21, 48)),
        ("from 21 s till the clip is over", (21, 48)),
        ("from 21 s to the very end", None),
    ],
)
def test_two_ends_need_no_range_mark(text, ends):
    assert span(text, 48) == ends


def test_two_highlights_are_no_span():
    assert rated("The timestamps are 3, 5 seconds. Scores: 1, 2.") == [(3, 1), (5, 2)]
    assert rated("13.5s, 18.0s") == [(13.5, 0), (18, 0)]


@pytest.mark.parametrize(
    "marks",
    [
        *(("🎬 ", "🎬 "), ("✅", "✅"), ("⭐️ ", "⭐️ "), ("1️⃣ ", "2️⃣ "), ("① ", "② "), ("→ ", "→ "), ("— ", "— ")),
        *(("(1) ", "(2) "), ("a) ", "b) "), ("A. ", "B. "), ("#1 ", "#2 "), ("- [ ] ", "- [x] ")),
        *(("[1] ", "[2] "), ("100. ", "101. "), ("1 - ", "2 - ")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("gap", ["\n", " "])
def test_any_mark_before_an_event_is_no_part_of_it(marks, gap):
    first, second = marks
    text = f"{first}0.0 - 3.5 seconds, a duck swims.{gap}{second}3.5 - 6.0 seconds, it dives."
    if gap == "\n" or first != "1 - ":
        assert captioned(text) == [(0, 3.5, "a duck swims."), (3.5, 6, "it dives.")]


@pytest.mark.parametrize(("opening", "closing"), ["“”", '""', "«»", "''", "[]", "()", "<>", ("**", "**")])
def test_marks_round_a_span_are_no_part_of_it(opening, closing):
    text = f"{opening}0:00 – 0:03{closing} a duck\n{opening}0:03 – 0:06{closing} it dives"
    assert captioned(text) == [(0, 3, "a duck"), (3, 6, "it dives")]


def test_angle_brackets_round_each_time_are_no_part_of_it():
    assert captioned("<0.0 seconds> to <3.5 seconds>: a duck") == [(0, 3.5, "a duck")]
    assert captioned("<28.5 seconds> a choir sings.\n[0:30] people leave.", "ask") == [
        (28.5, 28.5, "a choir sings."),
        (30, 30, "people leave."),
    ]


# ----------------------------------------------------------------------------------------- behind the text


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("1. Rain (0:02 - 0:09)\n2. Sun (0:12 - 0:12)", [(2, 9, "Rain"), (12, 12, "Sun")]),
        ("- Rain (2 - 9 s)\n- (9 - 12 s)\n- Sun (12 - 15 s)", [(2, 9, "Rain"), (9, 12, ""), (12, 15, "Sun")]),
        ("Rain [2.0 - 9.0]\nSun [9.0 - 12.0]", [(2, 9, "Rain"), (9, 12, "Sun")]),
        ("Rain, 0:02 - 0:09\nSun - 0:09 - 0:12", [(2, 9, "Rain"), (9, 12, "Sun")]),
        ("🎬 Rain (0:02 - 0:09)\nB) Sun (0:09 - 0:12)", [(2, 9, "Rain"), (9, 12, "Sun")]),
        ("It is wet. Rain falls (0:02 - 0:09).", [(2, 9, "Rain falls.")]),
        ("0:02 - 0:09\nRain (2 - 3 drops)", [(2, 9, "Rain (2 - 3 drops)")]),
    ],
)
def test_a_span_behind_its_text_counts_line_by_line(text, events):
    assert captioned(text) == events


# --------------------------------------------------------------------------------------------------- none


@pytest.mark.parametrize("words", [NOT_FOUND_ANSWER, "No highlight moments were found.", "Transcribed speech: None."])
@pytest.mark.parametrize("form", ["{}", " {}\n", "<think>hm</think> {}", "<answer>{}</answer>"])
def test_the_words_for_none_count_as_parsed(words, form):
    for task in ("grounding", "highlights", "transcribe"):
        parsed = parse_events(form.format(words), task=task)
        assert (parsed.events, parsed.is_unparsed, parsed.notes) == ([], False, ())


def test_speech_that_begins_with_none_is_speech():
    assert captioned("Transcribed speech: 0.0 - 2.0 seconds, None of you.", "transcribe") == [(0, 2, "None of you.")]
    assert parse_events("Transcribed speech: None of you.", task="transcribe").is_unparsed


# ------------------------------------------------------------------------------------------------ the text


@given(st.text(max_size=60) | st.text("0123456789.,:-–%s mith<>[](){}nd\n", max_size=80))
def test_the_whole_text_is_quoted_as_it_was(text):
    answer = AnswerText.from_answer(text)
    assert answer.quote(0, len(answer.text)) == text


PIECES = [
    *("1,2 ", "1, ", ".5", "4. - ", "1 - 2, ", "1st and ", "2 minutes and ", "1m", "1h1m1s ", "0:01,0:02\n"),
    *("frame 1 ", "frames 1 ", "sampled at 1 ", "the video is 1 ", "[1, "),
    *("<1> to ", "<think>", "</think>", "<answer>"),
    *("1-", "%"),
    *("example is : ", "timestamps 1 ", "start and end ", "a | b\n", "start,end\n", "| Start | End |\n" ),
    *('<s start="1" ', "<start>1</start>", "[[", '[{"', '{"a": [', "'", '"', "\\", "🎬 ", "(a) (", "x (0:01 - 0:02)\n"),
    *("0:01 --> 0:02\n", "until the video ", "0.1 of the ", "normalized "),
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_repeated_pieces_take_time_in_proportion(piece):
    began = time.process_time()
    for task in ("dense_caption", "grounding", "highlights", "ask"):
        parse_events(piece * (20_000 // len(piece)), task=task, duration=99)
    assert time.process_time() - began < 3  # about half a second each; minutes, if a pattern went wrong
