"""Refinement of long moments with a scripted model: 60-second windows around the borders in a video of 300 s."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from timechat import Event
from timechat.answers.events import Answer
from timechat.answers.merging import Scoring, WindowAnswer
from timechat.answers.windows import Window
from timechat.backbones.timechat.backbone import backbone_config
from timechat.model.configuration import TimeChatConfig
from timechat.pipeline.refining import refine_moments
from timechat.pipeline.session import EncodedVideo

NANO = backbone_config(TimeChatConfig(fps=2, max_frames=600, window_seconds=60))


class FakeVideo:
    """A video of 300 seconds with two windows in its plan, and no frames."""

    duration = 300.0
    windows = (Window(0.0, 160.0), Window(140.0, 300.0))

    def encode_part(self, window: Window, *_: Any) -> EncodedVideo:
        return EncodedVideo(torch.zeros(1, 1), np.zeros(1), window.duration, window=window)


def refine(
    event: Event, *second: tuple[float, float] | None, video: FakeVideo | None = None, others: Sequence[Event] = ()
) -> tuple[Answer, list[EncodedVideo]]:
    """Refine moments with a model that finds these spans, on the video's clock, in one window after the other."""
    spans, asked = iter(second), []

    def answer_windows(windows: list[EncodedVideo]) -> list[WindowAnswer]:
        (encoded,) = windows
        asked.append(encoded)
        if (span := next(spans)) is None:
            return [WindowAnswer(encoded.span, "The given query does not happen in the video.")]
        start, end = (encoded.span.to_window(time) for time in span)
        return [WindowAnswer(encoded.span, f"The given query happens in {start:.1f} - {end:.1f} seconds.")]

    answer = Answer("", [event, *others], task="grounding", step=1.0)
    video = video or FakeVideo()
    return refine_moments(answer, video, SimpleNamespace(config=NANO), answer_windows, Scoring()), asked  # type: ignore[arg-type]


LONG = Event(100.0, 200.0, "a light")
"""A moment that is longer than half a refinement window, so that each border is refined on its own."""


def test_a_long_moment_is_refined_at_each_border():
    answer, asked = refine(LONG, (101.5, 130.0), (170.0, 202.5))
    assert [(encoded.span.start, encoded.span.end) for encoded in asked] == [(70.0, 130.0), (170.0, 230.0)]
    assert [(e.start, e.end, e.caption) for e in answer.events] == [(101.5, 202.5, "a light")]
    assert answer.step == 0.5
    assert answer.text == "The given query happens in 101.5 - 202.5 seconds."


def test_refinement_stays_in_the_part_that_is_asked_about():
    video = FakeVideo()
    video.windows = (Window(90.0, 160.0), Window(140.0, 210.0))
    _, asked = refine(LONG, (100.0, 130.0), (170.0, 200.0), video=video)
    assert [(encoded.span.start, encoded.span.end) for encoded in asked] == [(90.0, 150.0), (170.0, 210.0)]


@pytest.mark.parametrize(
    ("second", "span"),
    [
        (((101.5, 130.0), None), (101.5, 200.0)),
        ((None, (170.0, 202.5)), (100.0, 202.5)),
        ((None, None), (100.0, 200.0)),
    ],
)
def test_one_border_without_refinement_keeps_the_coarse_step(second, span):
    answer, _ = refine(LONG, *second)
    assert [(e.start, e.end) for e in answer.events] == [span]
    assert answer.step == 1.0


@pytest.mark.parametrize(
    ("second", "span"),
    [
        (((115.0, 130.0), (170.0, 185.0)), (115.0, 185.0)),
        (((115.1, 130.0), (170.0, 184.9)), (100.0, 200.0)),
        (((85.0, 130.0), (170.0, 215.0)), (85.0, 215.0)),
        (((84.9, 130.0), (170.0, 215.1)), (100.0, 200.0)),
    ],
)
def test_a_border_moves_by_a_quarter_of_its_window_at_most(second, span):
    answer, _ = refine(LONG, *second)
    assert [(e.start, e.end) for e in answer.events] == [span]


def test_refinement_windows_have_the_numbers_after_the_plan():
    _, asked = refine(LONG, (100.0, 130.0), (170.0, 200.0))
    assert [encoded.window_number for encoded in asked] == [2, 3]


@pytest.mark.parametrize(("second", "is_same"), [((100.0, 103.0), True), ((100.0, 102.9), False)])
def test_a_short_moment_is_replaced_only_by_a_similar_one(second, is_same):
    event = Event(100.0, 110.0, "a light")
    answer, asked = refine(event, second)
    assert [(encoded.span.start, encoded.span.end) for encoded in asked] == [(75.0, 135.0)]
    assert [(e.start, e.end) for e in answer.events] == [second if is_same else (100.0, 110.0)]
    assert answer.step == (0.5 if is_same else 1.0)


def test_moments_that_become_the_same_are_one_moment():
    first, other = Event(100.0, 110.0, "a light", score=0.9), Event(107.0, 120.0, "a light", score=0.8)
    answer, asked = refine(first, (104.0, 113.0), (104.5, 113.5), others=[other])
    assert len(asked) == 2
    assert [(e.start, e.end, e.score) for e in answer.events] == [(104.0, 113.0, 0.9)]
    assert answer.text == "The given query happens in 104.0 - 113.0 seconds."
