"""Sentences that cite the video."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.answers.citations import (
    add_citations,
    citation,
    is_confirmed,
    mark_unconfirmed,
    match_events,
    read_citations,
    split_sentences,
    without_citations,
)
from timechat.answers.events import Event

seconds = st.integers(0, 900 * 3600)
spans = st.tuples(seconds, seconds).map(sorted)
sentences = st.sampled_from(["He cuts the onion", "It is 3.5 cm long", "“Well,” she says", "She waits, e.g. here"])


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (Event(12, 18), "[0:12–0:18]"),
        (Event(12.6, 18.2), "[0:12–0:19]"),
        (Event(0.2, 0.4), "[0:00–0:01]"),
        (Event(0.1 + 0.2 + 11.7, 18.0000000001), "[0:12–0:18]"),
        (Event(17.9999999999, 20), "[0:18–0:20]"),
        (Event(65, 65), "[1:05]"),
        (Event(65.7, 65.7), "[1:05]"),
        (Event(3590, 3610), "[0:59:50–1:00:10]"),
        (Event(3599.5, 3599.9), "[0:59:59–1:00:00]"),
        (Event(36000, 36001), "[10:00:00–10:00:01]"),
    ],
)
def test_a_citation_is_written_in_whole_seconds_that_hold_the_event(event, written):
    assert citation(event) == written


@given(spans)
def test_what_is_cited_is_read_back(span):
    assert read_citations(f"He cuts {citation(Event(*span))}.") == [Event(*span, "He cuts.")]


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_citation_holds_its_event(one, other):
    start, end = sorted((one, other))
    (read,) = read_citations(citation(Event(start, end)))
    if start < end:
        assert read.start <= start + 1e-6
        assert end <= read.end + 1e-6
        assert read.duration <= end - start + 2


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("He cuts [0:12-0:18].", [Event(12, 18, "He cuts.")]),
        ("He cuts. [0:12–0:18] She eats.", [Event(12, 18, "He cuts.")]),
        ("- [0:12 — 0:18] He cuts.\n- [1:00] She eats", [Event(12, 18, "- He cuts."), Event(60, 60, "- She eats")]),
        ("He cuts [0:12–0:18] [1:00–1:10]!", [Event(12, 18, "He cuts!"), Event(60, 70, "He cuts!")]),
        ("He cuts [0:18–0:12].", [Event(12, 18, "He cuts.")]),
        ("He cuts [0:12–0:18, not confirmed].", [Event(12, 18, "He cuts.")]),
        ("He cuts [75:00 to 1:15:30].", [Event(4500, 4530, "He cuts.")]),
        ("At 0:12–0:18 he cuts (1:00) [1] [0:60–0:70] [12–18].", []),
        ("", []),
    ],
)
def test_citations_are_read_as_people_and_models_write_them(text, events):
    assert read_citations(text) == events


@given(st.lists(st.tuples(sentences, spans), max_size=5), st.sampled_from([" ", "\n", "  \n\n"]))
def test_every_sentence_keeps_its_citation(cited, between):
    text = between.join(f"{sentence} {citation(Event(*span))}." for sentence, span in cited)
    assert [(e.start, e.end) for e in read_citations(text)] == [tuple(span) for _, span in cited]
    assert [e.caption for e in read_citations(text)] == [f"{sentence}." for sentence, _ in cited]


@given(st.text(alphabet="ab .!?\n[0:12–18]。", max_size=60))
def test_sentences_joined_are_the_text(text):
    assert "".join(split_sentences(text)) == text


def test_sentences_end_where_people_end_them():
    text = "He adds 1.5 cups, e.g. of milk. “Good!” she says.\nThen... they eat。很好！Done"
    assert [sentence.strip() for sentence in split_sentences(text)] == [
        "He adds 1.5 cups, e.g. of milk.",
        "“Good!” she says.",
        "Then... they eat。",
        "很好！",
        "Done",
    ]


EVENTS = [
    Event(3, 9, "The red circle spins slowly."),
    Event(12, 18, "A blue square is growing."),
    Event(20, 31, "The red circle moves to the left."),
]


def test_a_sentence_is_matched_to_the_event_it_describes():
    told = ["First a red circle is spinning.", "Then the square grows.", "It moves left.", "Everyone is happy."]
    assert match_events(told, EVENTS) == [EVENTS[0], EVENTS[1], EVENTS[2], None]
    assert match_events(["The and of."], EVENTS) == [None]
    assert match_events(told[:1], []) == [None]
    assert match_events(["It is here."], [Event(0, 1)]) == [None]


def test_words_that_many_events_share_count_for_less():
    captions = [
        "the man in the kitchen sings",
        "the man in the kitchen eats",
        "the man waits in the kitchen",
        "it cooks",
    ]
    events = [Event(i, i + 1, caption) for i, caption in enumerate(captions)]
    assert match_events(["The man in the kitchen cooked."], events) == [events[3]]


def test_too_few_words_in_common_are_none():
    told = ["A red dog with long ears runs through the snow towards an old woman."]
    assert match_events(told, EVENTS) == [None]
    assert match_events(told, EVENTS, min_overlap=0.05) == [EVENTS[0]]


def test_a_summary_gets_citations():
    text = "A red circle spins, and later “a blue square grows.”\n\nThe red circle moves left. Everyone is happy!  "
    events = [
        Event(20, 31.5, "the red circle moves left"),
        Event(12, 18, "the blue square grows as a red circle spins"),
    ]
    cited = add_citations(text, events)
    assert cited == (
        "A red circle spins, and later “a blue square grows [0:12–0:18].”\n\n"
        "The red circle moves left [0:20–0:32]. Everyone is happy!  "
    )
    assert add_citations(cited, events) == cited
    assert without_citations(cited) == text.strip()


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        ([], False),
        ([Event(12, 18)], True),
        ([Event(14, 15)], True),
        ([Event(15, 21)], True),
        ([Event(15.1, 21.2)], False),
        ([Event(0, 100)], False),
        ([Event(50, 60), Event(13, 14)], True),
        ([Event(14, 14)], True),
        ([Event(19, 19)], False),
    ],
)
def test_a_citation_holds_where_half_of_what_is_found_lies_in_it(found, holds):
    assert is_confirmed(Event(12, 18), found) is holds


def test_what_does_not_hold_is_marked():
    text = "He cuts [0:12-0:18]. She eats [1:00]. They go [2:00–2:10, not confirmed]."
    marked = "He cuts [0:12–0:18, not confirmed]. She eats [1:00]. They go [2:00–2:10]."
    assert mark_unconfirmed(text, [False, True, True]) == marked
    assert (
        mark_unconfirmed(marked, [True, False, True])
        == "He cuts [0:12–0:18]. She eats [1:00, not confirmed]. They go [2:00–2:10]."
    )
    with pytest.raises(ValueError, match="the text has 3 citations, got 1 verdicts"):
        mark_unconfirmed(text, [True])


@given(st.lists(st.tuples(sentences, spans, st.booleans()), max_size=4))
def test_marks_change_nothing_else(cited):
    text = " ".join(f"{sentence} {citation(Event(*span))}." for sentence, span, _ in cited)
    marked = mark_unconfirmed(text, [verdict for *_, verdict in cited])
    assert read_citations(marked) == read_citations(text)
    assert marked.count("not confirmed") == sum(not verdict for *_, verdict in cited)
    assert mark_unconfirmed(marked, [True] * len(cited)) == text
