"""Windows of a long video, ranked for a query."""

import numpy as np
import pytest

from timechat.answers.windows import Window
from timechat.search.retrieval import RetrievalConfig, best_windows, parse_read, rank_windows, read_share, window_priors

WINDOWS = [Window(0, 12), Window(10, 22), Window(20, 32), Window(30, 42), Window(40, 52)]
TIMES = np.arange(52.0)


def curve(*moments: tuple[int, int, float]) -> np.ndarray:
    scores = np.zeros(len(TIMES))
    for first, after, height in moments:
        scores[first:after] = height
    return scores


def starts(windows) -> list[float]:
    return [window.start for window in windows]


def ranked(scores: np.ndarray) -> list[float]:
    return [one.window.start for one in rank_windows(WINDOWS, TIMES, scores)]


def test_windows_are_ranked_by_their_best_frame():
    assert ranked(curve((3, 5, 0.5), (24, 26, 1.0), (45, 47, 0.8)))[:3] == [20, 40, 0]


def test_a_window_that_sees_more_of_the_moment_comes_first():
    assert ranked(curve((20, 25, 1.0)))[0] == 20
    assert ranked(curve((17, 22, 1.0)))[0] == 10


def test_neighbors_follow_if_a_moment_crosses_a_border():
    assert ranked(curve((15, 25, 1.0), (45, 47, 0.9)))[:3] == [10, 20, 40]
    assert ranked(curve((24, 26, 1.0), (45, 47, 0.9)))[:2] == [20, 40]


def test_every_window_is_ranked_once():
    for scores in (curve(), curve((0, 52, 1.0)), curve((15, 25, 1.0))):
        assert sorted(ranked(scores)) == [0, 10, 20, 30, 40]


def test_a_window_without_frames_takes_the_nearest_one():
    (only,) = rank_windows([Window(4.2, 4.8)], TIMES, curve((5, 6, 0.7)))
    assert only.score == 0.0
    (only,) = rank_windows([Window(4.6, 4.8)], TIMES, curve((5, 6, 0.7)))
    assert only.score == 0.7


def test_the_best_windows_come_in_order_of_time():
    scores = curve((3, 5, 0.5), (24, 26, 1.0), (45, 47, 0.8))
    ranking = rank_windows(WINDOWS, TIMES, scores)
    assert starts(best_windows(ranking, 0.5, scores, until_scores_fall=False)) == [20, 40]
    assert starts(best_windows(ranking, 1.0, scores, until_scores_fall=False)) == [0, 10, 20, 30, 40]


def test_all_moments_are_read_until_the_scores_fall():
    scores = curve((3, 5, 0.5), (24, 26, 1.0), (45, 47, 0.8), (35, 37, 0.1))
    ranking = rank_windows(WINDOWS, TIMES, scores)
    assert starts(best_windows(ranking, 0.1, scores, until_scores_fall=True)) == [0, 20, 40]


def test_priors_follow_the_best_evidence_of_each_window():
    evidence = curve((3, 5, 1.0), (24, 26, 1.0 + np.log(3)))
    priors = window_priors([WINDOWS[0], WINDOWS[2]], TIMES, evidence)
    assert priors == pytest.approx({WINDOWS[0]: 0.25, WINDOWS[2]: 0.75})
    assert window_priors(WINDOWS[:1], TIMES, evidence) == {WINDOWS[0]: 1.0}


def test_the_read_share_counts_overlaps_once():
    assert read_share(WINDOWS, WINDOWS) == 1.0
    assert read_share(WINDOWS[:1], WINDOWS) == 12 / 52
    assert read_share(WINDOWS[:2], WINDOWS) == 22 / 52
    assert read_share([Window(0, 0)], [Window(0, 0)]) == 1.0


@pytest.mark.parametrize(("read", "expected"), [(0.01, 1), (0.25, 1), (0.46, 1), (0.47, 2), (0.7, 3), (1.0, 5)])
def test_the_windows_cover_at_most_the_share_but_one_is_read(read, expected):
    scores = curve((3, 5, 0.5), (24, 26, 1.0), (45, 47, 0.8))
    ranking = rank_windows(WINDOWS, TIMES, scores)
    assert len(best_windows(ranking, read, scores, until_scores_fall=False)) == expected


@pytest.mark.parametrize(("read", "total", "expected"), [(0.1, 4, False), (0.1, 3, True), (1.0, 72, True)])
def test_a_video_of_few_windows_is_read_as_a_whole(read, total, expected):
    assert RetrievalConfig(read=read).reads_all(total) is expected


def test_a_share_is_a_number_or_all():
    assert parse_read("all") == 1.0
    assert parse_read("0.1") == parse_read(0.1) == 0.1


@pytest.mark.parametrize("value", ["0", "1.5", "-0.1", "nan", "some", None])
def test_other_shares_are_refused(value):
    with pytest.raises(ValueError, match=f"such as 0.1, or all, got {value!r}"):
        parse_read(value)


def test_an_unknown_source_of_answers_is_refused():
    with pytest.raises(ValueError, match="by must be auto, model or search, got 'mine'"):
        RetrievalConfig(by="mine")
