"""Windows over long videos, and what several of them tell, told once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.answers.events import Event
from timechat.answers.windows import (
    Window,
    WindowConfig,
    best_highlights,
    best_moments,
    degenerate_notes,
    distinct_events,
    merge_events,
    merge_texts,
    split_into_windows,
    temporal_iou,
    word_overlap,
)


def test_a_video_that_fits_is_one_window():
    assert split_into_windows(0, 60, length=60, overlap=10) == (Window(0, 60),)
    assert split_into_windows(0, 7200, length=0, overlap=0) == (Window(0, 7200),)


def test_ten_minutes_in_windows_of_a_minute():
    windows = split_into_windows(0, 600, length=60, overlap=10)
    assert len(windows) == 12
    assert windows[0] == Window(0, 59)
    assert windows[-1].end == 600


@given(
    st.floats(0, 1000), st.floats(1, 20000), st.floats(5, 600), st.floats(0, 0.5)
)  # fmt: skip
def test_windows_cover_all_in_order_and_overlap_as_they_should(start, whole, length, share):
    overlap = share * length
    windows = split_into_windows(start, start + whole, length=length, overlap=overlap)
    assert windows[0].start == start
    assert windows[-1].end == start + whole
    assert all(window.end - window.start <= length + 0.5 + 1e-6 for window in windows)
    for earlier, later in pairwise(windows):
        assert earlier.start < later.start
        assert earlier.end - later.start >= overlap - 1e-6
        assert earlier.end <= later.end


def test_a_windows_clock_starts_at_zero_and_may_run_fast():
    window = Window(100, 220, time_scale=2.0)
    assert window.duration == 60
    assert window.to_window(130) == 15
    assert window.to_video(15) == 130
    assert window.to_video_event(Event(1, 200, "x")) == Event(102, 220, "x")


def test_an_event_cut_at_a_border_is_merged_with_its_whole():
    first, second = Window(0, 60), Window(50, 110)
    events = merge_events(
        [
            (first, [Event(5, 9, "The ring spins."), Event(52, 60, "The star leaves.", 0.4)]),
            (second, [Event(50, 65, "The star leaves.", 0.7), Event(80, 90, "The ring spins.")]),
        ]
    )
    assert [(e.start, e.end, e.caption) for e in events] == [
        (5, 9, "The ring spins."),
        (52, 65, "The star leaves."),  # the first window sees two seconds before it, the second none
        (80, 90, "The ring spins."),
    ]
    assert events[1].score == 0.7


def test_different_events_at_one_time_stay_apart():
    first, second = Window(0, 60), Window(50, 110)
    told = [(first, [Event(52, 58, "The star leaves.")]), (second, [Event(52, 58, "A man opens the door.")])]
    assert len(merge_events(told)) == 2


def test_the_same_words_at_different_times_stay_apart():
    first, second = Window(0, 60), Window(50, 110)
    told = [(first, [Event(50, 53, "The star leaves.")]), (second, [Event(55, 58, "The star leaves.")])]
    assert len(merge_events(told)) == 2


def test_repeated_events_of_one_window_are_kept():
    told = [(Window(0, 60), [Event(1, 5, "The star leaves."), Event(1, 5, "The star leaves.")])]
    assert len(merge_events(told)) == 2


def test_moments_that_lie_within_a_second_are_one():
    told = [(Window(0, 60), [Event(54, 54, "q", saliency=2)]), (Window(50, 110), [Event(54.5, 54.5, "q", saliency=3)])]
    assert [(e.start, e.saliency) for e in merge_events(told)] == [(54, 3.0)]


@given(st.lists(st.tuples(st.integers(0, 1180), st.integers(1, 100)), max_size=12), st.integers(0, 3))
def test_an_event_seen_by_every_window_is_merged_to_one(spans, seed):
    truth = sorted({(start / 10, min(119.0, (start + length) / 10)) for start, length in spans if start < 1180})
    events = [Event(a, b, f"thing {i} does number{i}") for i, (a, b) in enumerate(truth) if a < b]
    windows = split_into_windows(0, 119, length=40, overlap=12)
    told = []
    for window in windows:
        seen = [e for e in events if e.start < window.end - 1 and e.end > window.start + 1]
        told.append(
            (window, [Event(max(e.start, window.start), min(e.end, window.end), e.caption) for e in seen])
        )  # fmt: skip
    merged = merge_events(told)
    assert [e.caption for e in merged] == [e.caption for e in sorted(merged, key=lambda e: (e.start, e.end))]
    for event in events:
        same = [e for e in merged if e.caption == event.caption]
        if 2 < event.duration < 28 and event.start > 1 and event.end < 118:
            assert len(same) == 1
            assert (same[0].start, same[0].end) == pytest.approx((event.start, event.end))


def test_like_answers_of_neighbours_are_said_once():
    windows = split_into_windows(0, 150, length=60, overlap=10)
    texts = ["A ring.", "A ring.", "", "A star."]
    assert merge_texts(zip(windows, texts, strict=False)) == [(0.0, windows[1].end, "A ring.")]
    assert merge_texts([(Window(0, 10), "a"), (Window(9, 19), "b")]) == [(0, 10, "a"), (9, 19, "b")]


def test_the_best_of_overlapping_moments_is_kept():
    moments = [Event(0, 10, "q", 0.2), Event(1, 10, "q", 0.9), Event(50, 60, "q", 0.5)]
    assert best_moments(moments, max_moments=None) == [moments[1], moments[2]]
    assert best_moments(moments, max_moments=1) == [moments[1]]


def test_overlap_and_common_words_by_hand():
    assert temporal_iou(Event(0, 10), Event(5, 15)) == pytest.approx(1 / 3)
    assert temporal_iou(Event(0, 1), Event(2, 3)) == 0
    assert temporal_iou(Event(1, 1), Event(1, 1)) == 0
    assert word_overlap("The red ring.", "the red star") == pytest.approx(2 / 3)
    assert word_overlap("", "") == 1


def test_degenerate_answers_are_noticed():
    assert "covers (nearly) the whole video" in degenerate_notes([Event(0, 99, "x")], 100)[0]
    again = [Event(i, i + 1, "The ring spins.") for i in range(4)]
    assert "occurs 4 times in a row" in degenerate_notes(again, 100)[0]
    assert degenerate_notes([Event(0, 10, "a"), Event(10, 20, "b"), Event(30, 40, "b"), Event(50, 60, "b")], 100) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": -1}, "window must be seconds"),
        ({"overlap": float("nan")}, "overlap must be seconds"),
        ({"step": 0}, "step must be seconds above 0"),
        (
            {"window": 10, "overlap": 5.1},
            "overlap must be at most half a window, got 5.1 of 10 seconds; take a smaller",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_looking_in_a_way_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WindowConfig(**options)


def test_an_overlap_of_half_a_window_is_kept():
    assert WindowConfig(window=10, overlap=5).overlap == 5
    assert split_into_windows(0, 20, length=10, overlap=5) == (Window(0, 10), Window(5, 15), Window(10, 20))


@pytest.mark.parametrize("end", [20.0, 8.0])
def test_an_overlap_above_half_of_any_window_is_refused(end):
    with pytest.raises(ValueError, match="overlap must be at most half a window, got 6 of 10 seconds"):
        split_into_windows(0, end, length=10, overlap=6)


@pytest.mark.parametrize(("name", "value"), [("num_frames", 8), ("fps", 1.5)])
def test_a_step_beside_another_density_is_refused(name, value):
    options = {"num_frames": None, "fps": None} | {name: value}
    with pytest.raises(
        ValueError, match=f"step and {name} both say how dense.*got step=2 and {name}={value}; give one"
    ):
        WindowConfig(step=2.0).check_density(**options)
    WindowConfig().check_density(**options)


def test_a_plan_of_very_many_windows_is_refused():
    with pytest.raises(ValueError, match="more than 20000; take longer ones"):
        split_into_windows(0.0, 3600.0, length=0.01, overlap=0.0)


def test_equal_events_are_one_with_the_best_score():
    events = [Event(1, 2, "A ball rolls.", 0.3), Event(3, 4, "b"), Event(1, 2, "a ball  rolls.", 0.6)]
    assert distinct_events(events) == [Event(1, 2, "a ball  rolls.", 0.6), Event(3, 4, "b")]


def test_events_that_differ_in_time_or_words_stay():
    events = [Event(1, 2, "a"), Event(1, 2, "b"), Event(1, 2.1, "a")]
    assert distinct_events(events) == events


def test_highlights_closer_than_a_clip_keep_the_best():
    moments = [(0, 3), (1.5, 4), (3, 2), (5, 2), (7, 2), (8.9, 1)]
    kept = best_highlights(Event(t, t, saliency=s) for t, s in moments)
    assert [(event.start, event.saliency) for event in kept] == [(1.5, 4), (5, 2), (7, 2)]
