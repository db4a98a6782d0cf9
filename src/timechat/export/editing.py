"""Answers for video editors: the events one after the other as cuts of the video, counted in frames."""

import math
import re
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from timechat.answers.events import Answer, Event, event_time_range, one_line
from timechat.answers.tasks import event_title
from timechat.errors import missing_extra
from timechat.export.text import rating_text, video_name

DEFAULT_FPS = 25
"""Default frames per second if the rate of the video is unknown."""

_NTSC_FILM, _NTSC, _NTSC_FAST = (Fraction(number * 1000, 1001) for number in (24, 30, 60))
_EDITORS_RATES = sorted([_NTSC_FILM, _NTSC, _NTSC_FAST, *map(Fraction, (24, 25, 30, 48, 50, 60))])
_SAME_RATE = 0.01  # maximum relative difference between the average rate of a recording and its nominal rate
_FIRST_HOUR = 3600  # seconds: first time code of a program, by convention


class _Cut(NamedTuple):
    """One event as frame numbers of the video; `end` is the first frame after it."""

    start: int
    end: int
    event: Event


def timebase(fps: float | Fraction) -> Fraction:
    """The rate at which editors can count the frames of a video, in frames per second.

    Editors know few rates. Another one (a screen recording's 15, a varying 13.7) is counted at the rate of theirs
    that is a whole multiple of it, or else at the lowest whole one above it, so that no time is moved by more than
    half a frame of the video's own. Above 60 it is rounded up to a whole number.
    """
    if not 0 < fps < math.inf:
        raise ValueError(f"fps must be frames per second, above 0, got {fps}")
    exact = Fraction(fps)
    for multiple in range(1, max(1, round(_EDITORS_RATES[-1] / exact)) + 1):
        nearest = min(_EDITORS_RATES, key=lambda rate: abs(rate - multiple * exact))
        if _is_near(nearest, multiple * exact):
            return nearest
    whole = (rate for rate in _EDITORS_RATES if rate >= exact and rate.denominator == 1)
    return next(whole, Fraction(math.ceil(exact)))


def _is_near(rate: Fraction, other: Fraction) -> bool:
    return abs(rate / other - 1) < _SAME_RATE


def to_edl(answer: Answer, *, fps: float | Fraction = DEFAULT_FPS, drop_frame: bool | None = None) -> str:
    """A CMX3600 list: the events in time order, cut one after the other from 01:00:00:00 on.

    Args:
        answer: The answer. Its times become the nearest frame borders; a moment lasts `MOMENT_SECONDS`.
        fps: Frames per second of the video; what editors cannot count at is counted at their `timebase`.
        drop_frame: Whether timecode leaves out numbers so that it keeps up with the clock, which exists at 29.97 and
            59.94 frames per second only. None does so there.

    Raises:
        ValueError: Drop-frame timecode at another rate, or more than the 999 events that a list holds.
    """
    rate = timebase(fps)
    can_drop = rate in (_NTSC, _NTSC_FAST)
    if drop_frame and not can_drop:
        raise ValueError(f"drop-frame timecode exists at 29.97 and 59.94 frames per second, not at {float(rate):g}")
    if len(answer.events) > 999:
        raise ValueError(f"a CMX3600 list holds 999 events, the answer has {len(answer.events)}; write it as otio")
    drop = can_drop if drop_frame is None else drop_frame
    cuts = _cuts(answer, rate)
    name = video_name(answer)
    record = accumulate((cut.end - cut.start for cut in cuts), initial=_frame_at(_FIRST_HOUR, rate, drop))
    lines = [f"TITLE: {_title(answer)}", f"FCM: {'' if drop else 'NON-'}DROP FRAME"]
    for number, (cut, at) in enumerate(zip(cuts, record, strict=False), start=1):
        frames = (cut.start, cut.end, at, at + cut.end - cut.start)
        times = " ".join(timecode(frame, rate, drop=drop) for frame in frames)
        lines += ["", f"{number:03d}  {_reel(name):<8} V     C        {times}"]
        lines += [f"* FROM CLIP NAME: {name}"] if name else []
        lines.append(f"* COMMENT: {event_title(cut.event, answer)}")
        rating = rating_text(cut.event)
        lines += [f"* COMMENT: {rating}"] if rating else []
    return "\n".join(lines) + "\n"


def timecode(frame: int, rate: Fraction, *, drop: bool = False) -> str:
    """A frame number as `hh:mm:ss:ff`, or as drop-frame `hh:mm:ss;ff`, modulo a day."""
    base = round(rate)
    if drop:  # the first numbers of every minute but each tenth do not exist (SMPTE ST 12-1)
        dropped = base // 15
        in_ten_minutes, in_minute = 10 * 60 * base - 9 * dropped, 60 * base - dropped
        tens, rest = divmod(frame, in_ten_minutes)
        frame += 9 * dropped * tens + dropped * max(0, (rest - dropped) // in_minute)
    seconds, frames = divmod(frame, base)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}:{seconds:02d}{';' if drop else ':'}{frames:02d}"


def _frame_at(seconds: int, rate: Fraction, drop: bool) -> int:
    """The frame that timecode calls so many whole seconds."""
    return round(seconds * rate) if drop else seconds * round(rate)


def to_otio(answer: Answer, *, fps: float | Fraction = DEFAULT_FPS, is_local: bool = True) -> str:
    """An OpenTimelineIO timeline: the events in time order as clips of the video, one after the other.

    The metadata of a clip says, under `timechat`, the event's exact times in seconds, its caption and its score.

    Args:
        answer: The answer.
        fps: Frames per second of the video, see `to_edl`.
        is_local: Whether the path of the video is one of this machine and becomes absolute; otherwise a relative path
            stays relative, so that the file reveals no folder of this machine.

    Raises:
        ModuleNotFoundError: opentimelineio is not installed.
    """
    check_otio()
    import opentimelineio as otio

    rate = float(timebase(fps))

    def frames(start: int, end: int) -> otio.opentime.TimeRange:
        first, length = (otio.opentime.RationalTime(count, rate) for count in (start, end - start))
        return otio.opentime.TimeRange(first, length)

    whole = None if answer.duration is None else frames(0, round(answer.duration * rate))
    timeline = otio.schema.Timeline(_title(answer))
    track = otio.schema.Track("V1", kind=otio.schema.TrackKind.Video)
    for cut in _cuts(answer, timebase(fps)):
        address = _address(answer.video, is_local=is_local)
        media = (
            otio.schema.MissingReference()
            if address is None
            else otio.schema.ExternalReference(target_url=address, available_range=whole)
        )
        clip = otio.schema.Clip(event_title(cut.event, answer), media, frames(cut.start, cut.end))
        clip.metadata["timechat"] = {**cut.event.to_dict(), "caption": one_line(cut.event.caption)}
        track.append(clip)
    timeline.tracks.append(track)
    return str(otio.adapters.write_to_string(timeline, "otio_json")) + "\n"


def check_otio() -> None:
    """Raise a `ModuleNotFoundError` that names the extra if timelines cannot be written."""
    try:
        import opentimelineio  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("otio needs opentimelineio", "export") from error


def rate_notes(answer: Answer, fps: float | Fraction | None) -> list[str]:
    """What whoever opens a list for editors should know about the rate it counts at."""
    if not answer.events:
        return []
    if fps is None:
        return [f"frames are counted at {DEFAULT_FPS} a second: the video's own rate is not known"]
    rate = timebase(fps)
    if _is_near(rate, Fraction(fps)):
        return []
    return [f"frames are counted at {float(rate):.6g} a second, as editors know no {float(fps):.6g}"]


def _cuts(answer: Answer, rate: Fraction) -> list[_Cut]:
    """The events in time order between their nearest frame borders, each at least a frame long."""
    cuts = []
    for event in sorted(answer.events, key=lambda event: (event.start, event.end)):
        start, end = (round(Fraction(seconds) * rate) for seconds in event_time_range(event, answer.duration))
        cuts.append(_Cut(start, max(end, start + 1), event))
    return cuts


def _title(answer: Answer) -> str:
    return one_line(answer.question) or video_name(answer) or "TimeChat"


def _reel(name: str) -> str:
    """Up to eight letters and digits, as the format wants; `AX`, its word for "from elsewhere", if there are none."""
    return re.sub(r"[^A-Z0-9]", "", Path(name).stem.upper())[:8] or "AX"


def _address(video: str | None, *, is_local: bool) -> str | None:
    """The video as an address; None where the answer names none."""
    if not video:
        return None
    if "://" in video:
        return video
    path = Path(video)
    return path.absolute().as_uri() if is_local or path.is_absolute() else quote(path.as_posix())
