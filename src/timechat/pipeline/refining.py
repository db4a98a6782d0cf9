"""Coarse to fine: a moment that was found among sparse frames is looked at again with dense ones around its borders."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from timechat.answers.events import Answer, Event
from timechat.answers.windows import Window, temporal_iou
from timechat.model.configuration import TimeChatConfig
from timechat.pipeline.encoded import EncodedVideo
from timechat.pipeline.executor import Executor
from timechat.pipeline.merging import Scoring, WindowAnswer, parse_window
from timechat.pipeline.session import VideoSession
from timechat.pipeline.window_plan import border_window

_SAME_MOMENT = 0.3  # temporal IoU between the two looks; below, the second one has found something else

AnswerWindows = Callable[[Sequence[EncodedVideo]], list[WindowAnswer]]


def refine_moments(
    answer: Answer,
    video: VideoSession,
    config: TimeChatConfig,
    answer_windows: AnswerWindows,
    scoring: Scoring,
    executor: Executor,
) -> Answer:
    """Look again at every moment of an answer.

    A moment that fits into half of a second look is looked at once, from its middle; a longer one at both its borders.
    A border that the second look does not confirm stays as it was.

    Args:
        answer: Of grounding.
        video: Still open.
        config: Of the model.
        answer_windows: Asks the same question about other windows.
        scoring: Of the model.
        executor: Does what needs the model.

    Returns:
        The answer with finer borders; its `step` is that of the coarsest border.
    """
    step = answer.step or 0.0
    numbers = count(len(video.windows))  # after those of the plan

    def ask_about(window: Window, load_arguments: dict[str, Any]) -> WindowAnswer:
        encoded = video.reencode_window(window, load_arguments, executor)
        (told,) = answer_windows([replace(encoded, window_number=next(numbers))])
        return told

    refined = [_refine(event, video.duration, config, ask_about, scoring, step) for event in answer.events]
    steps = [step for _, step in refined]
    return replace(answer, events=[event for event, _ in refined], step=max(steps, default=step))


def _refine(
    event: Event,
    duration: float,
    config: TimeChatConfig,
    ask_about: Callable[[Window, dict[str, Any]], WindowAnswer],
    scoring: Scoring,
    frame_interval: float,
) -> tuple[Event, float]:
    """The moment with finer borders, and how fine they are."""
    middle = (event.start + event.end) / 2
    window, arguments = border_window(config, middle, frame_interval, duration)
    fine = 1 / arguments["fps"]

    def look(border: float) -> Event | None:
        told = ask_about(*border_window(config, border, frame_interval, duration))
        events = parse_window(told, "grounding", event.caption, scoring).events
        return events[0] if events else None

    if event.duration <= (window.end - window.start) / 2:
        again = look(middle)
        if again is None or temporal_iou(again, event) < _SAME_MOMENT:
            return event, frame_interval
        return replace(event, start=again.start, end=again.end), fine
    reach = (window.end - window.start) / 2
    first, last = look(event.start), look(event.end)
    start = first.start if first and abs(first.start - event.start) <= reach / 2 else event.start
    end = last.end if last and abs(last.end - event.end) <= reach / 2 else event.end
    is_fine = start != event.start and end != event.end
    return (replace(event, start=start, end=end) if start <= end else event), (fine if is_fine else frame_interval)
