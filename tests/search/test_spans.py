"""Moments from curves of scores."""

import numpy as np
import pytest

from timechat.search.spans import best_spans, find_cuts, smooth_scores


def curve(length: int, *moments: tuple[int, int, float]) -> np.ndarray:
    scores = np.zeros(length)
    for first, after, height in moments:
        scores[first:after] = height
    return scores


def test_a_cut_is_where_neighboring_vectors_differ():
    vectors = np.array([[1.0, 0], [0.995, 0.0999], [0, 1], [0, 1]])
    assert find_cuts(vectors, 0.4) == [2]
    assert find_cuts(vectors[:1], 0.4) == []
    assert find_cuts(vectors[:0], 0.4) == []


def test_black_frames_without_features_do_not_give_nan():
    assert find_cuts(np.zeros((3, 4)), 0.4) == [1, 2]


def test_a_span_ends_at_the_cuts_of_its_shot():
    span = best_spans(curve(30, (10, 20, 1.0)), np.arange(30.0), [10, 20])[0]
    assert (span.start, span.end, span.frames) == (9.5, 19.5, (10, 20))


def test_a_first_span_starts_at_zero():
    span = best_spans(curve(20, (0, 6, 1.0)), np.arange(20.0), [6], duration=20.4)[0]
    assert (span.start, span.end) == (0.0, 5.5)


def test_a_last_span_ends_with_the_video():
    scores, times = curve(20, (12, 20, 1.0)), np.arange(20.0)
    assert best_spans(scores, times, [12], duration=20.4)[0].end == 20.4
    assert best_spans(scores, times, [12])[0].end == 20.0


def test_times_need_no_even_distances():
    times = np.array([0.0, 0.5, 4.0, 5.0, 9.0, 9.5, 20.0, 21.0])
    span = best_spans(curve(8, (2, 6, 1.0)), times, [2, 6])[0]
    assert (span.start, span.end) == (2.25, 14.75)


def test_several_spans_come_best_first_without_overlap():
    scores = curve(60, (5, 15, 0.8), (30, 40, 1.0), (50, 58, 0.1))
    spans = best_spans(scores, np.arange(60.0), [5, 15, 30, 40, 50, 58], limit=5)
    assert [span.frames for span in spans] == [(30, 40), (5, 15)]
    assert spans[0].peak > spans[1].peak


def test_a_constant_curve_gives_the_whole_video():
    assert best_spans(np.full(9, 0.2), np.arange(9.0), limit=3)[0].frames == (0, 9)
    assert len(best_spans(np.full(9, 0.2), np.arange(9.0), limit=3)) == 1


def test_one_frame_gives_one_span():
    assert best_spans([0.3], [0.0], duration=0.6)[0].end == 0.6


def test_no_frames_give_no_spans():
    assert best_spans([], []) == []
    assert len(smooth_scores([], [])) == 0


@pytest.mark.parametrize(("scores", "words"), [([1.0], "1 scores"), ([1.0, float("nan")], "NaN")])
def test_bad_scores_are_refused(scores, words):
    with pytest.raises(ValueError, match=words):
        best_spans(scores, [0.0, 1.0])


def test_a_short_dip_does_not_split_a_moment():
    scores = curve(40, (10, 30, 1.0))
    scores[20] = 0.0
    assert best_spans(scores, np.arange(40.0), [10, 30])[0].frames == (10, 30)


def test_frames_of_a_shot_with_clear_evidence_are_inside():
    scores = curve(20, (0, 10, 0.2), (4, 6, 1.0))
    evidence = np.where(np.arange(20) < 10, 2.5, -3.0)
    assert best_spans(scores, np.arange(20.0), [10])[0].frames == (2, 8)
    assert best_spans(scores, np.arange(20.0), [10], evidence=evidence)[0].frames == (0, 10)
    weak = np.where(np.arange(20) < 10, 0.0, -3.0) + curve(20, (4, 6, 1.9))
    assert best_spans(scores, np.arange(20.0), [10], evidence=weak)[0].frames == (2, 8)
