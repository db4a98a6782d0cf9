"""What a model's own probabilities say for a moment, by hand."""

import json
import math
from dataclasses import replace

import pytest

from timechat.answers.events import Event
from timechat.answers.merging import (
    UNCALIBRATED,
    Calibration,
    Evidence,
    MomentSelection,
    Scoring,
    WindowAnswer,
    event_evidence,
    merge_window_answers,
)
from timechat.answers.token_evidence import Token, event_logprobs, existence_logprob
from timechat.answers.windows import Window, split_into_windows
from timechat.export import write_as


def tokens_of(text: str, *pieces: tuple[str, float]) -> list[Token]:
    """Tokens with their probabilities, one after the other."""
    assert "".join(piece for piece, _ in pieces) == text
    tokens, first = [], 0
    for piece, probability in pieces:
        tokens.append(Token(first, first + len(piece), math.log(probability)))
        first += len(piece)
    return tokens


GROUNDED = "It happens in 2.0 - 8.5 seconds."
TOKENS = tokens_of(
    GROUNDED, ("It", 1.0), (" happens", 0.8), (" in", 0.5), (" 2.0", 0.9), (" -", 1.0), (" 8", 0.4), (".5", 0.9),
    (" seconds.", 1.0),
)  # fmt: skip


def test_presence_is_the_probability_of_the_form():
    assert math.exp(existence_logprob(TOKENS, GROUNDED)) == pytest.approx(0.8 * 0.5)


def test_sharpness_is_the_mean_logarithm_of_the_times():
    (evidence,) = event_logprobs([Event(2.0, 8.5)], GROUNDED, TOKENS)
    assert evidence.time_logprob == pytest.approx(math.log(0.9 * 0.4 * 0.9) / 3)
    assert evidence.caption_logprob == pytest.approx(0.0)


def test_each_event_has_the_evidence_of_its_own_tokens():
    text = "1.0 - 2.0 seconds, A.  1.0 - 4.0 seconds, B."
    pieces = [("1.0", 0.5), (" - ", 1.0), ("2.0", 0.5), (" seconds, ", 1.0), ("A.  ", 0.25)]
    pieces += [("1.0", 0.1), (" - ", 1.0), ("4.0", 0.1), (" seconds, ", 1.0), ("B.", 1.0)]
    first, second = event_logprobs([Event(1, 2, "A."), Event(1, 4, "B.")], text, tokens_of(text, *pieces))
    assert first.time_logprob == pytest.approx(math.log(0.5))
    assert first.caption_logprob == pytest.approx(math.log(0.25) / 3)
    assert second.time_logprob == pytest.approx(math.log(0.1))
    assert second.caption_logprob == pytest.approx(0.0)


def test_an_event_whose_times_the_text_does_not_hold_has_no_evidence():
    assert event_logprobs([Event(3.0, 4.0)], GROUNDED, TOKENS) == [None]
    assert event_logprobs([], GROUNDED, TOKENS) == []


def test_calibration_is_a_line_of_log_odds():
    assert UNCALIBRATED(Evidence()) == 0.5
    of_0_1 = Calibration.from_config([2.0, -1.0])
    existence = math.log(0.8 / 0.2)
    assert of_0_1(Evidence(time=1.0, existence=existence)) == pytest.approx(
        1 / (1 + math.exp(-(2.0 * (1.0 + math.log(0.8)) - 1.0)))
    )
    weighted = Calibration.from_config({"time": 1.0, "existence": 3.0, "offset": 0.5})
    assert weighted(Evidence(-0.5, -0.2, verification=9.0)) == pytest.approx(1 / (1 + math.exp(0.6)))
    assert 0 <= Calibration()(Evidence(-1e9)) < Calibration()(Evidence(1e9)) <= 1


def test_existence_counts_as_log_odds():
    def evidence(probability):
        tokens = tokens_of(GROUNDED, ("It happens in ", probability), ("2.0 - 8.5", 0.5), (" seconds.", 1.0))
        window = split_into_windows(0, 60, length=60, overlap=0.0)[0]
        (found,) = event_evidence([Event(2.0, 8.5)], WindowAnswer(window, GROUNDED, tuple(tokens)), "grounding")
        return found

    assert evidence(0.8).existence == pytest.approx(math.log(4))
    assert evidence(0.5).existence == pytest.approx(0.0)
    assert evidence(0.999).existence - evidence(0.99).existence == pytest.approx(math.log(999 / 99))
    assert evidence(1.0).existence == pytest.approx(math.log(1e6), abs=1e-5)  # finite
    assert evidence(0.8).time == pytest.approx(math.log(0.5))
    assert event_evidence(
        [Event(2.0, 8.5)], WindowAnswer(Window(0, 60), GROUNDED, (Token(0, 31, -1.0),)), "grounding"
    ) == [Evidence(time=-1.0)]


def test_the_score_decides_what_is_found_where_a_threshold_was_fitted():
    assert Scoring(found_threshold=0.1).decides_found
    assert not Scoring().decides_found


def test_probabilities_count_among_the_allowed_tokens():
    raw = Token(0, 3, math.log(0.01))
    assert raw.form_logprob == math.log(0.01)
    assert Token(0, 3, math.log(0.01), math.log(0.02)).form_logprob == pytest.approx(math.log(0.5))
    assert Token(0, 3, math.log(0.01), math.log(0.009)).form_logprob == 0.0
    tokens = [replace(token, allowed=token.logprob) for token in TOKENS]
    assert existence_logprob(tokens, GROUNDED) == 0.0
    assert event_logprobs([Event(2.0, 8.5)], GROUNDED, tokens)[0].time_logprob == 0.0


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("[[9.0, 3.0]]", Event(3.0, 9.0)),
        ("01:12 - 01:15", Event(72, 75)),
        ("1:02:03.5 - 1:02:05", Event(3723.5, 3725)),
        ("From 01:15 back to 01:12", Event(72, 75)),
    ],
)
def test_swapped_ends_and_clock_times_have_evidence(text, event):
    (evidence,) = event_logprobs([event], text, [Token(0, len(text), math.log(0.5))])
    assert evidence.time_logprob == pytest.approx(math.log(0.5))


def test_swapped_ends_of_several_spans_are_those_of_each():
    text = "[[9.0, 3.0], [12.0, 10.0]]"
    pieces = [("[[", 1.0), ("9.0, 3.0", 0.5), ("], [", 1.0), ("12.0, 10.0", 0.25), ("]]", 1.0)]
    first, second = event_logprobs([Event(3, 9), Event(10, 12)], text, tokens_of(text, *pieces))
    assert (first.time_logprob, second.time_logprob) == pytest.approx((math.log(0.5), math.log(0.25)))
    assert (first.end, second.end) == (10, 24)


def test_tokens_of_a_window_are_stored_with_what_is_known():
    window = split_into_windows(0, 60, length=60, overlap=0.0)[0]
    tokens = (Token(0, 1, -0.5), Token(1, 2, -0.25, -0.125))
    content = WindowAnswer(window, "[]", tokens).to_dict()
    assert content["tokens"] == [[0, 1, -0.5], [1, 2, -0.25, -0.125]]
    assert WindowAnswer.from_dict(window, content).tokens == tokens


# ------------------------------------------------------------------------------------------------- merged answers


def merged(task: str, query: str | None, texts: list[str], *, moments=None, seconds: float = 60.0, priors=None):
    """The answer to a request whose windows of `seconds` were answered with these texts."""
    windows = split_into_windows(0, seconds * len(texts), length=seconds, overlap=0.0)
    answers = [
        WindowAnswer(window, text, (Token(0, len(text), math.log(0.8)),), (2.0,))
        for window, text in zip(windows, texts, strict=True)
    ]
    return merge_window_answers(
        answers,
        task,
        query,
        duration=seconds * len(texts),
        scoring=Scoring(found_threshold=0.3),
        moments=moments or MomentSelection(),
        priors=None if priors is None else dict(zip(windows, priors, strict=True)),
    )


def test_priors_of_windows_change_which_moment_is_best():
    texts = ["The given query happens in 2.0 - 8.0 seconds."] * 2
    every = MomentSelection(threshold=0.0)
    equal = merged("grounding", "a light", texts, moments=every)
    assert merged("grounding", "a light", texts, moments=every, priors=(0.5, 0.5)) == equal
    second = merged("grounding", "a light", texts, moments=every, priors=(0.2, 0.8))
    assert (equal.events[0].start, second.events[0].start) == (2.0, 62.0)
    assert second.score > equal.score


@pytest.mark.parametrize("num_windows", [1, 2, 3, 10, 30, 100])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.05, 0.6, 0.999])
def test_found_compares_the_score_that_is_shown(num_windows, threshold):
    texts = ["The given query happens in 2.0 - 8.0 seconds."] * num_windows
    kept = merged("grounding", "a light", texts, moments=MomentSelection(threshold=0.0))
    answer = merged("grounding", "a light", texts, moments=MomentSelection(threshold=threshold))
    shown = kept.events[0].score
    assert kept.score == shown
    assert answer.found is (shown >= (0.3 if threshold is None else threshold))
    assert answer.events == (kept.events if answer.found else [])
    assert answer.score == shown


def test_a_free_answer_hides_the_form_of_another_task():
    texts = [
        "A dog barks at 3.0 seconds.",
        "There are 2 highlight moments in the 4.0, 8.0 second. Their saliency scores are 2.7, 3.3.",
        "The given query does not happen in the video.",
        "The given query happens in 5.0 - 9.0 seconds.",
    ]
    answer = merged("ask", "When does the dog bark?", texts)
    assert answer.text.splitlines() == [
        "[0:00–1:00] A dog barks at 3.0 seconds.",
        "[1:00–2:00] at [1:04], [1:08]",
        "[2:00–3:00] nothing found",
        "[3:00–4:00] at [3:05–3:09]",
    ]
    assert [(event.start, event.end, event.saliency) for event in answer.events] == [
        (3, 3, None),
        (64, 64, None),
        (68, 68, None),
        (185, 189, None),
    ]
    assert "3 of 4 windows were answered in the form of another task; their times are listed" in answer.notes


@pytest.mark.parametrize(
    ("query", "is_counting"),
    [("How many dogs are there?", True), ("Count the dogs.", True), ("how often does it bark", True), ("Who?", False)],
)
def test_a_count_over_windows_says_that_each_was_asked(query, is_counting):
    notes = merged("ask", query, ["Two."] * 3).notes
    assert any("counts one window" in note for note in notes) is is_counting
    assert merged("ask", query, ["Two."]).notes == ()


def test_equal_events_of_one_window_are_one():
    text = "1.0 - 2.0 seconds, A dog.  1.0 - 2.0 seconds, A dog.  3.0 - 4.0 seconds, A cat."
    assert [event.start for event in merged("dense_caption", None, [text]).events] == [1, 3]


def test_close_highlights_are_one():
    text = "There are 3 highlight moments in the 4.0, 5.0, 6.0 second. Their saliency scores are 2.0, 3.0, 2.5."
    assert [(e.start, e.saliency) for e in merged("highlights", "a dog", [text]).events] == [(5, 3.0)]


def grounded(*answers: tuple[str, list[tuple[str, float]]], moments=None, seconds: float = 60.0):
    """The merged answer of windows whose tokens have these probabilities among the allowed ones."""
    windows = split_into_windows(0, seconds * len(answers), length=seconds, overlap=0.0)
    told = []
    for window, (text, pieces) in zip(windows, answers, strict=True):
        tokens = [replace(t, logprob=t.logprob - 20, allowed=-20.0) for t in tokens_of(text, *pieces)] if pieces else []
        told.append(WindowAnswer(window, text, tuple(tokens)))
    return merge_window_answers(
        told,
        "grounding",
        "a light",
        duration=seconds * len(answers),
        scoring=Scoring(found_threshold=0.1),
        moments=moments or MomentSelection(),
    )


TWO_SPANS = (
    "[[1.0, 3.0], [7.0, 9.0]]",
    [("[[", 0.9), ("1.0, 3.0", 0.5), ("], [", 0.4), ("7.0, 9.0", 0.8), ("]]", 0.5)],
)


def test_each_span_of_a_list_has_a_score_of_its_own():
    answer = grounded(TWO_SPANS, moments=MomentSelection(find_all=True))
    odds = [0.9 / 0.1 * 0.5, 0.36 / 0.64 * 0.8]  # odds of the list up to a span, which what follows does not change
    scores = [value / (1 + value) for value in odds]
    assert [(e.start, e.end, e.caption) for e in answer.events] == [(1, 3, "a light"), (7, 9, "a light")]
    assert [event.score for event in answer.events] == pytest.approx(scores)
    assert answer.score == answer.events[0].score
    assert answer.notes == ()
    assert [event.start for event in grounded(TWO_SPANS).events] == [1]


def test_an_empty_list_has_the_score_of_its_absence():
    answer = grounded(("[]", [("[]", 0.75)]))
    assert (answer.found, answer.events) == (False, [])
    assert answer.score == pytest.approx(0.25)
    both = grounded(("[]", [("[]", 0.75)]), ("[[1.0, 2.0]]", [("[[", 1.0), ("1.0, 2.0", 1.0), ("]]", 1.0)]))
    assert both.found is True
    assert [(event.start, event.end) for event in both.events] == [(61, 62)]
    assert both.text == "The given query happens in 61.0 - 62.0 seconds."


NO_LOGPROBS = "the server gives no log probabilities: found is decided by the answer alone"


@pytest.mark.parametrize(
    ("texts", "spans"),
    [
        (("[[7.0, 9.0], [1.0, 3.0]]",), [(1, 3), (7, 9)]),
        (("[]", "[[1.0, 3.0]]"), [(61, 63)]),
        (("[]",), []),
        (("The given query does not happen in the video.", "[]"), []),
    ],
)
def test_without_probabilities_the_answer_alone_decides(texts, spans):
    answer = grounded(*[(text, []) for text in texts], moments=MomentSelection(find_all=True, threshold=0.99))
    assert [(event.start, event.end) for event in answer.events] == spans
    assert answer.found is bool(spans)
    assert answer.score is None
    assert {event.score for event in answer.events} <= {None}
    assert answer.notes == (NO_LOGPROBS,)
    assert json.loads(json.dumps(answer.to_dict()))["score"] is None


def test_without_probabilities_the_first_moment_is_kept():
    answer = grounded(("[[7.0, 9.0], [1.0, 3.0]]", []), ("[[1.0, 3.0]]", []))
    assert [(event.start, event.end) for event in answer.events] == [(1, 3)]
    assert write_as(answer, "csv").splitlines() == ["start,end,caption,score", "1.0,3.0,a light,"]
    assert json.loads(write_as(answer, "json"))["events"][0]["score"] is None
    assert "score" not in write_as(answer, "text")
    assert json.loads(write_as(answer, "qvhighlights"))["pred_relevant_windows"] == [[1.0, 3.0, 1.0]]


def test_a_note_about_probabilities_is_for_grounding_only():
    (window,) = split_into_windows(0, 60, length=60, overlap=0.0)
    text = '[{"start": 5, "end": 6, "caption": "B"}, {"start": 1, "end": 2, "caption": "A"}]'
    answer = merge_window_answers(
        [WindowAnswer(window, text)], "dense_caption", None, duration=60.0, scoring=Scoring(), moments=MomentSelection()
    )
    assert [(event.start, event.caption, event.score) for event in answer.events] == [(1, "A", None), (5, "B", None)]
    assert answer.notes == ()
