"""What `perf/retrieval.py` and its encoder from nano's tokens measure."""

import numpy as np
import pytest
from perf.nano_encoder import _overlapping, read_query
from perf.retrieval import Result, holds, summary

from timechat import Event, Frames
from timechat.answers.windows import Window
from timechat.synthetic.nano.labels import COLOR_NAMES
from timechat.synthetic.scene import KINDS, SHAPES


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("the green star bounces", ("green", "star", "bounce")),
        ("the square that is purple taking another color", ("purple", "square", "recolor")),
        ("the red moon going round and round", ("red", "moon", "spin")),
        ("something blue", ("blue", None, None)),
    ],
)
def test_a_query_is_its_color_its_shape_and_its_action(query, expected):
    named = (COLOR_NAMES, SHAPES, KINDS)
    found = [None if i is None else names[i] for i, names in zip(read_query(query), named, strict=True)]
    assert tuple(found) == expected


def test_parts_are_joined_with_the_frames_around_them():
    whole = [Frames(np.full((24, 1, 1, 3), part, np.uint8), np.arange(24.0) + 24 * part, 72.0) for part in range(3)]
    joined = list(_overlapping(iter(whole)))
    assert [len(part) for part, _, _ in joined] == [40, 56, 40]
    kept = np.concatenate([part.timestamps[first:after] for part, first, after in joined])
    assert kept.tolist() == list(range(72))


def test_a_window_holds_a_moment_of_which_it_has_half():
    assert holds(Window(0, 10), Event(5, 15)) is True
    assert holds(Window(0, 10), Event(6, 15)) is False


def test_the_first_question_has_its_own_time():
    results = [
        Result(0.6, True, 0.1, 30.0, True),
        Result(0.2, False, 0.1, 2.0, False),
        Result(0.4, True, 0.1, 4.0, False),
    ]
    row = summary(results)
    assert (row["r1_iou_0.5"], row["r1_iou_0.3"]) == (1 / 3, 2 / 3)
    assert (row["first_seconds"], row["further_seconds"], row["n"]) == (30.0, 3.0, 3)
    assert row["held"] == 2 / 3
