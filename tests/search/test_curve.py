"""The curve of the scores of one video."""

import numpy as np
import pytest

from tests.pipeline.color_encoder import ColorEncoder
from timechat.search.curve import score_curve
from timechat.search.video_vectors import VideoVectors


def video(num_frames: int, *red: int) -> VideoVectors:
    """Black frames, one per second, some of them red."""
    vectors = np.zeros((num_frames, 3), np.float16)
    vectors[list(red), 0] = 1
    times = np.arange(num_frames, dtype=np.float64)
    return VideoVectors(times, vectors, float(num_frames), (), np.zeros(0), np.zeros(0, np.float32))


def test_a_curve_has_the_probability_of_each_frame():
    curve = score_curve(video(3, 1), ColorEncoder(), "red")
    low, high = 1 / (1 + np.exp(5)), 1 / (1 + np.exp(-5))
    assert curve.times == (0.0, 1.0, 2.0)
    assert curve.scores == pytest.approx((low, high, low))
    assert curve.threshold == 0.5


def test_a_long_video_has_the_peaks_of_runs_of_frames():
    curve = score_curve(video(3601, 700), ColorEncoder(), "red")
    assert len(curve.times) == 451
    assert curve.times[1:3] == (8.0, 16.0)
    assert [time for time, score in zip(curve.times, curve.scores, strict=True) if score > 0.5] == [696.0]


def test_a_curve_in_an_unknown_language_has_no_points(monkeypatch):
    monkeypatch.setattr(ColorEncoder, "knows", lambda *_: False)
    assert score_curve(video(3, 1), ColorEncoder(), "красный").to_dict() == {
        "times": [],
        "scores": [],
        "threshold": 0.5,
    }
