"""Refinement: the borders of moments found in sparse frames are looked for again in denser frames around them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from timechat.answers.events import Answer, Event
from timechat.answers.merging import Scoring, WindowAnswer, parse_window
from timechat.answers.tasks import format_events
from timechat.answers.windows import Window, best_moments, temporal_iou
from timechat.backbones.backbone import Backbone, BackboneConfig, EncodedVideo
from timechat.pipeline.session import VideoSession
from timechat.video import FrameSampling

_SAME_MOMENT = 0.3  # temporal IoU of the first and the second result; below, the second is another moment
_REFINE_FACTOR = 4  # the frames are at most this many times denser than before
_MIN_FRAME_INTERVAL = 0.1  # seconds: the resolution of times in answers

AnswerWindows = Callable[[Sequence[EncodedVideo]], list[WindowAnswer]]


def border_window(
    config: BackboneConfig, border: float, frame_interval: float, part: Window
) -> tuple[Window, FrameSampling]:
    """Choose the window and the frames for a border of a moment.

    Args:
        config: Properties of the model.
        border: Seconds of the border that was found.
        frame_interval: Seconds between the frames in which it was found.
        part: Part of the video that is answered about, in which the window lies.

    Returns:
        A window around the border and its frame options. The frames are several times denser than before, but not
        denser than the resolution of times in answers, nor than the frames that the model was trained on.
    """
    fps = config.rate.fps
    usual = 1 / fps if fps else _MIN_FRAME_INTERVAL
    fine = max(min(frame_interval, usual), frame_interval / _REFINE_FACTOR, _MIN_FRAME_INTERVAL)
    num_frames = round(config.window_seconds * fps) if fps else config.num_frames
    reach = fine * num_frames / 2
    start = max(part.start, math.floor((border - reach) / _MIN_FRAME_INTERVAL) * _MIN_FRAME_INTERVAL)
    window = Window(start, min(part.end, start + 2 * reach), time_scale=fine * fps if fps else 1.0)
    return window, FrameSampling(fps=1 / fine, start=window.start, end=window.end)


def refine_moments(
    answer: Answer,
    video: VideoSession,
    backbone: Backbone,
    answer_windows: AnswerWindows,
    scoring: Scoring,
) -> Answer:
    """Refine every moment of a grounding answer.

    A moment that fits into half of a refinement window is refined by one window around its middle, a longer one by a
    window around each border. A border that the second result does not confirm stays as it was. Moments that have
    become the same one are one moment.

    Args:
        answer: Grounding answer.
        video: Open session.
        backbone: Model.
        answer_windows: Function that puts the same request to other windows.
        scoring: Scoring of the model.

    Returns:
        The answer with finer borders, also in its text; its `step` is the largest frame interval of any border.
    """
    step = answer.step or 0.0
    part = Window(video.windows[0].start, video.windows[-1].end)
    notes = dict.fromkeys(answer.notes)
    numbers = count(len(video.windows))  # refinement windows have the numbers after those of the plan

    def answer_part(window: Window, sampling: FrameSampling) -> WindowAnswer:
        encoded = video.encode_part(window, sampling, backbone)
        (answered,) = answer_windows([replace(encoded, window_number=next(numbers))])
        notes.update(dict.fromkeys(answered.notes))
        return answered

    refined = [_refine(event, part, backbone.config, answer_part, scoring, step) for event in answer.events]
    steps = [step for _, step in refined]
    events = best_moments((event for event, _ in refined), max_moments=None)
    has_moved = [(event.start, event.end) for event in events] != [(event.start, event.end) for event in answer.events]
    text = " ".join(format_events([event], "grounding") for event in events) if has_moved else answer.text
    return replace(answer, text=text, events=events, step=max(steps, default=step), notes=tuple(notes))


def _refine(
    event: Event,
    part: Window,
    config: BackboneConfig,
    answer_part: Callable[[Window, FrameSampling], WindowAnswer],
    scoring: Scoring,
    frame_interval: float,
) -> tuple[Event, float]:
    """The moment with finer borders, and the frame interval in which they were found."""

    def find(border: float) -> Event | None:
        answered = answer_part(*border_window(config, border, frame_interval, part))
        events = parse_window(answered, "grounding", event.caption, scoring).events
        return events[0] if events else None

    middle = (event.start + event.end) / 2
    window, sampling = border_window(config, middle, frame_interval, part)
    assert sampling.fps is not None
    fine, reach = 1 / sampling.fps, (window.end - window.start) / 2
    if event.duration <= reach:
        again = find(middle)
        if again is None or temporal_iou(again, event) < _SAME_MOMENT:
            return event, frame_interval
        return replace(event, start=again.start, end=again.end), fine
    first, last = find(event.start), find(event.end)
    start = first.start if first and abs(first.start - event.start) <= reach / 2 else event.start
    end = last.end if last and abs(last.end - event.end) <= reach / 2 else event.end
    is_fine = start != event.start and end != event.end
    return (replace(event, start=start, end=end) if start <= end else event), (fine if is_fine else frame_interval)
