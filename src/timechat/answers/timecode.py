"""SMPTE timecode (ST 12-1): frames of a video as hours, minutes, seconds and frames, as editors count them."""

import math
import re
from fractions import Fraction

TIMECODE = re.compile(
    r"(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)(?P<mark>[:;.])(?P<frames>\d\d\d?)"
)
"""A timecode; a `;` or `.` before the frames means drop-frame timecode."""

_NTSC_FILM, _NTSC, _NTSC_FAST = (Fraction(number * 1000, 1001) for number in (24, 30, 60))
_EDITORS_RATES = sorted([_NTSC_FILM, _NTSC, _NTSC_FAST, *map(Fraction, (24, 25, 30, 48, 50, 60))])
_SAME_RATE = 0.01  # maximum relative difference between the average rate of a recording and its nominal rate


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
        if is_near_rate(nearest, multiple * exact):
            return nearest
    whole = (rate for rate in _EDITORS_RATES if rate >= exact and rate.denominator == 1)
    return next(whole, Fraction(math.ceil(exact)))


def is_near_rate(rate: Fraction, other: Fraction) -> bool:
    """Whether two frame rates differ by less than the average rate of a recording from its nominal rate."""
    return abs(rate / other - 1) < _SAME_RATE


def can_drop_frames(rate: Fraction) -> bool:
    """Whether drop-frame timecode exists at a `timebase`."""
    return rate in (_NTSC, _NTSC_FAST)


def timecode(frame: int, rate: Fraction, *, drop: bool = False) -> str:
    """A frame number as `hh:mm:ss:ff`, or as drop-frame `hh:mm:ss;ff`, modulo a day."""
    base = round(rate)
    if drop:
        dropped = _dropped(rate)
        in_ten_minutes, in_minute = 10 * 60 * base - 9 * dropped, 60 * base - dropped
        tens, rest = divmod(frame, in_ten_minutes)
        frame += 9 * dropped * tens + dropped * max(0, (rest - dropped) // in_minute)
    seconds, frames = divmod(frame, base)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}:{seconds:02d}{';' if drop else ':'}{frames:02d}"


def parse_timecode(text: str, fps: float | Fraction) -> tuple[int, bool]:
    """The frame number of a timecode at the `timebase` of a video, and whether it is drop-frame timecode.

    Args:
        text: `hh:mm:ss:ff`, or `hh:mm:ss;ff` for drop-frame timecode, which counts as such at 29.97 and 59.94 only.
        fps: Frames per second of the video.

    Raises:
        ValueError: The text is no timecode, or names a frame that a second of the video does not have.
    """
    match = TIMECODE.fullmatch(text)
    if match is None:
        raise ValueError(f"a timecode is hh:mm:ss:ff, or hh:mm:ss;ff for drop-frame timecode, got {text[:40]!r}")
    hours, minutes, seconds, frames = (int(match[part]) for part in ("hours", "minutes", "seconds", "frames"))
    rate = timebase(fps)
    base, each = round(rate), max(1, round(rate / Fraction(fps)))
    if frames * each >= base:
        raise ValueError(f"the timecode {text} does not fit a video of {float(fps):.6g} frames per second")
    minutes += 60 * hours
    frame = (60 * minutes + seconds) * base + frames * each
    drop = match["mark"] != ":" and can_drop_frames(rate)
    return frame - (_dropped(rate) * (minutes - minutes // 10) if drop else 0), drop


def frame_at(seconds: int, rate: Fraction, *, drop: bool) -> int:
    """The frame that timecode calls so many whole seconds."""
    return round(seconds * rate) if drop else seconds * round(rate)


def _dropped(rate: Fraction) -> int:
    """Numbers that drop-frame timecode leaves out at the start of every minute but each tenth (SMPTE ST 12-1)."""
    return round(rate) // 15
