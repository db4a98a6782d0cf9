"""The clock of a video: container times with jumps, steps back and stray times → seconds that only rise.

The clock starts with the first frame. A file of one piece has a clock that needs no correction. In other files:

- A step back begins a new part. It follows the part before without a gap.
- A step ahead of more than `JUMP_SECONDS` is a jump, not a pause, where the format allows discontinuities (MPEG-TS,
  MPEG-PS, FLV, HLS), the frames before and after are much closer together, and the audio does not continue in between.
  A jump takes no time. In other formats only a step of more than `LONGEST_PAUSE` is a jump, or one that a later step
  back undoes.
- A frame whose time is far from the times of both neighbours is stray. It is shown between its neighbours.
- A step back that is shorter than a frame is jitter, and changes nothing.

Files, live streams, audio and clips use this module. A note names what was corrected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

JUMP_SECONDS = 10
"""Longest step ahead that is always a pause, in seconds."""

LONGEST_PAUSE = 30 * 3600
"""Longest step ahead that can be a pause in any format, in seconds."""

_JITTER_SECONDS = Fraction(1, 10)
_SLOW_RATE = 8  # a step of fewer usual frame intervals is a pause, as between slides
_MAX_REORDER = 32  # packets by which a frame may be shown later than decoded: 16 frames of two fields
_STRAYS_IN_A_ROW = 3
_PART_SLACK = 2.0  # seconds by which audio may begin before, or end after, the frames of its part
_AUDIO_STEP_BACK = 0.5  # seconds

SoundGoesOn = Callable[[float, float], bool | None]
"""Whether audio has times between two container times in seconds; None without audio."""


@dataclass(frozen=True)
class ClockPart:
    """A part of a file in which its clock runs continuously.

    Attributes:
        start: Container time of its first frame in seconds.
        end: Container time of the end of its last frame in seconds.
        shift: Seconds to subtract from container times of this part.
    """

    start: Fraction
    end: Fraction
    shift: Fraction


@dataclass(frozen=True)
class VideoClock:
    """Container times of one file → seconds on the clock of its video.

    Attributes:
        zero: Container time of the first frame in seconds.
        parts: Parts of the file in its order; the first has no shift.
        notes: Sentences that name what was corrected.
    """

    zero: Fraction
    parts: tuple[ClockPart, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_continuous(self) -> bool:
        """Whether one shift holds for the whole file."""
        return len(self.parts) == 1

    def follow(self) -> ClockFollower:
        """Return the clock for the packets of another stream, in file order."""
        return ClockFollower(self)


class ClockFollower:
    """The clock of a video for another stream of the file, whose times come in file order.

    A jump is made by all streams of a file, but not at the same packet. The stream's own times tell when it has
    reached the next part.
    """

    def __init__(self, clock: VideoClock) -> None:
        self._clock, self._part = clock, 0
        self._last: Fraction | None = None

    def place(self, time: Fraction) -> Fraction:
        """Return the seconds on the video's clock of a container time in seconds."""
        parts = self._clock.parts
        is_step_back = self._last is not None and time < self._last - Fraction(_AUDIO_STEP_BACK)
        for number in range(self._part + is_step_back, len(parts)):
            part = parts[number]
            if part.start - Fraction(_PART_SLACK) <= time <= part.end + Fraction(_PART_SLACK):
                self._part = number
                break
        self._last = time
        return time - parts[self._part].shift - self._clock.zero


class RunningClock:
    """Corrects times one after the other, as they arrive.

    Attributes:
        last: Latest corrected time in ticks; None before the first time.
        shift: Ticks that are subtracted from times now.
        is_stray: Whether the time that was placed last is stray.
        num_strays: Number of stray times so far.
        num_jumps: Number of jumps ahead so far.
        num_steps_back: Number of steps back so far.
    """

    def __init__(
        self,
        time_base: Fraction,
        *,
        may_jump: bool,
        gap: int,
        reorder: int = 0,
        sound_goes_on: SoundGoesOn | None = None,
    ) -> None:
        """Start a clock.

        Args:
            time_base: Duration of a tick in seconds.
            may_jump: Whether the clock of the format may have discontinuities.
            gap: Usual interval between frames in ticks, until frames were seen.
            reorder: Number of places by which a time may come too early in the sequence; 0 for times in order.
            sound_goes_on: Function that tells a pause from a jump; None if the audio is not known.
        """
        self.time_base, self._may_jump, self._sound_goes_on = time_base, may_jump, sound_goes_on
        self._first_gap = max(1, gap)
        self._far, self._longest = int(JUMP_SECONDS / time_base), int(LONGEST_PAUSE / time_base)
        self._tenth, self._second = int(_JITTER_SECONDS / time_base), int(1 / time_base)
        self._gaps: deque[int] = deque(maxlen=31)
        self._latest: deque[int] = deque(maxlen=reorder + 1)
        self._shifts: list[int] = []
        self._pauses: list[tuple[int, int, int]] = []
        self._forced: frozenset[int] = frozenset()
        self._count = 0
        self.last: int | None = None
        self.shift = 0
        self.is_stray = False
        self.num_strays = self.num_jumps = self.num_steps_back = 0
        self.false_pause: int | None = None

    @property
    def gap(self) -> int:
        """Usual interval between frames in ticks."""
        return sorted(self._gaps)[len(self._gaps) // 2] if self._gaps else self._first_gap

    def needs_next(self, raw: int) -> bool:
        """Whether the time after `raw` can tell whether `raw` is stray."""
        if self.last is None:
            return False
        time = raw - self.shift
        return self._is_far(time) and not self.last < time <= self.last + _SLOW_RATE * self.gap

    def place(self, raw: int, following: Sequence[int] = ()) -> int:
        """Return the corrected time of a frame in ticks.

        Args:
            raw: Time in the container in ticks.
            following: The next times in the container, as far as they are known.
        """
        self.is_stray = False
        time = raw - self.shift
        if self.last is None:
            self.last = time
            self._latest.append(time)
            self._count += 1
            return time
        step = time - self.last
        if self._is_far(time):
            time = self._correct(raw, time, following)
        elif step > 0:
            self._gaps.append(step)
        self.last = max(self.last, time)
        self._latest.append(self.last)
        self._count += 1
        return time

    def lost(self) -> int:
        """Return the time of a frame without a time: one interval after the one before."""
        time = 0 if self.last is None else self.last + self.gap
        self.last = time
        self._latest.append(time)
        self._count += 1
        return time

    def notes(self) -> list[str]:
        """Sentences that name what was corrected so far."""
        return clock_notes(self.num_steps_back, self.num_jumps, self.num_strays)

    def _is_far(self, time: int) -> bool:
        """Whether a time lies behind the jitter, or further ahead than every pause."""
        assert self.last is not None
        if time - self.last > self._far:
            return True
        floor = self._latest[0] - self._tenth
        return time < floor and time < self._latest[0] - self.gap

    def _correct(self, raw: int, time: int, following: Sequence[int]) -> int:
        assert self.last is not None
        last, gap = self.last, self.gap
        jitter = max(self._tenth, gap)
        if self._is_back_at_once(time, following, jitter):
            self.is_stray = True
            self.num_strays += 1
            return last + gap
        for shift in reversed(self._shifts):
            if last - jitter <= raw - shift <= last + 2 * gap + self._second // 2:
                return self._begin_part(raw, shift)
        if time > last:
            if self._count not in self._forced and not self._is_jump(raw, time - last, gap, following):
                self._pauses.append((self._count, last, time))
                return time
            self.num_jumps += 1
        else:
            self._look_for_false_pause(time, gap)
            self.num_steps_back += 1
        return self._begin_part(raw, raw - (last + gap))

    def _begin_part(self, raw: int, shift: int) -> int:
        self._shifts.append(self.shift)
        self.shift = shift
        self._latest.clear()
        return raw - shift

    def _is_back_at_once(self, time: int, following: Sequence[int], jitter: int) -> bool:
        """Whether one of the next times continues where the clock was before this time."""
        assert self.last is not None
        gap = self.gap
        if time > self.last and time - self.last <= _SLOW_RATE * gap:
            return False
        for number, raw in enumerate(following[:_STRAYS_IN_A_ROW], start=2):
            if self._latest[0] - jitter <= raw - self.shift <= self.last + (number + 1) * gap + self._second:
                return True
        return False

    def _is_jump(self, raw: int, step: int, gap: int, following: Sequence[int]) -> bool:
        if step > self._longest:
            return True
        if not self._may_jump or step <= _SLOW_RATE * gap:
            return False
        # After a jump frames come as fast as before; one slide follows another slowly, and the last one alone.
        if not following or abs(following[0] - raw) > max(_SLOW_RATE * gap, self._second):
            return False
        if self._sound_goes_on is None:
            return True
        ends = (float((raw - step) * self.time_base), float(raw * self.time_base))
        return not self._sound_goes_on(*ends)

    def _look_for_false_pause(self, time: int, gap: int) -> None:
        """Find a pause that was a jump: the step back undoes it."""
        assert self.last is not None
        for number, before, after in reversed(self._pauses):
            if abs(time - (before + gap + self.last - after)) <= self._second + 2 * gap:
                self.false_pause = number


@dataclass(frozen=True)
class CorrectedTimes:
    """Corrected times of all packets of a stream.

    Attributes:
        pts: `(packets,)`, presentation times in ticks.
        starts: Positions of the first packets of all parts.
        notes: Sentences that name what was corrected.
    """

    pts: NDArray[np.int64]
    starts: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()

    @property
    def is_corrected(self) -> bool:
        """Whether any time differs from the file."""
        return bool(self.notes)


def correct_times(
    pts: NDArray[np.int64],
    dts: NDArray[np.int64] | None,
    time_base: Fraction,
    *,
    may_jump: bool,
    gap: int,
    has_reordered_frames: bool,
    sound_goes_on: SoundGoesOn | None = None,
) -> CorrectedTimes:
    """Correct the presentation times of a stream; files whose clock runs continuously are recognised at once.

    Args:
        pts: `(packets,)`, presentation times in decode order, in ticks.
        dts: `(packets,)`, decode times in ticks; None if the container has none.
        time_base: Duration of a tick in seconds.
        may_jump: Whether the clock of the format may have discontinuities.
        gap: Usual interval between frames in ticks; 0 if it is not known.
        has_reordered_frames: Whether frames are decoded in another order than they are shown.
        sound_goes_on: Function that tells a pause from a jump.
    """
    order = pts if dts is None else dts
    reorder = _MAX_REORDER if dts is None and has_reordered_frames else 0
    if len(order) < 2 or _is_continuous(order, time_base, reorder):
        return CorrectedTimes(pts)
    forced: frozenset[int] = frozenset()
    values = order.tolist()
    steps = np.diff(order)
    gap = gap or (int(np.median(steps[steps > 0])) if (steps > 0).any() else 1)
    while True:
        clock = RunningClock(time_base, may_jump=may_jump, gap=gap, reorder=reorder, sound_goes_on=sound_goes_on)
        clock._forced = forced
        parts, strays = [(0, 0)], []
        for position, raw in enumerate(values):
            before = clock.shift
            clock.place(raw, values[position + 1 : position + 1 + _STRAYS_IN_A_ROW])
            if clock.is_stray:
                strays.append(position)
            elif clock.shift != before:
                parts.append((position, clock.shift))
            if clock.false_pause is not None:
                break
        if clock.false_pause is None:
            break
        forced |= {clock.false_pause}
    if len(parts) == 1 and not strays:
        return CorrectedTimes(pts)
    if dts is not None:
        far = int(JUMP_SECONDS / time_base)
        strays += [p for p in _near_joints(parts) if p not in strays and abs(int(pts[p] - dts[p])) > far]
    shown_gaps = np.diff(np.sort(pts))  # in decode order, steps are longer where frames are reordered
    shown_gaps = shown_gaps[shown_gaps > 0]
    shown_gap = min(clock.gap, int(np.median(shown_gaps))) if len(shown_gaps) else clock.gap
    corrected = _shifted(pts, parts, strays, shown_gap)
    return CorrectedTimes(corrected, tuple(first for first, _ in parts), tuple(clock.notes()))


def _is_continuous(order: NDArray[np.int64], time_base: Fraction, reorder: int) -> bool:
    """Whether no step is a jump, a step back or a stray time; vectorised, for ordinary files."""
    far, jitter = int(JUMP_SECONDS / time_base), int(_JITTER_SECONDS / time_base)
    if not reorder:
        steps = np.diff(order)
        return bool(steps.max() <= far and steps.min() >= -jitter)
    latest = np.maximum.accumulate(order)
    return bool((order[1:] - latest[:-1]).max() <= far and (order[reorder:] >= latest[:-reorder] - jitter).all())


def _near_joints(parts: list[tuple[int, int]]) -> list[int]:
    """Positions of the packets before joints: a demuxer that computes times may take those after the jump for them."""
    return [p for first, _ in parts[1:] for p in range(max(0, first - _STRAYS_IN_A_ROW), first)]


def _shifted(pts: NDArray[np.int64], parts: list[tuple[int, int]], strays: list[int], gap: int) -> NDArray[np.int64]:
    """Move each part so that its first frame follows the last one of the part before."""
    corrected = pts.copy()
    is_known = np.ones(len(pts), bool)
    is_known[strays] = False
    final: dict[int, int] = {0: 0}
    top: int | None = None
    for (first, shift), (stop, _) in zip(parts, [*parts[1:], (len(pts), 0)], strict=True):
        rows = np.arange(first, stop)[is_known[first:stop]]
        if not len(rows):
            continue
        if shift not in final:
            final[shift] = int(pts[rows[:_MAX_REORDER]].min()) - ((top or 0) + gap)
        corrected[rows] -= final[shift]
        top = int(corrected[rows].max()) if top is None else max(top, int(corrected[rows].max()))
        top += gap * int((~is_known[max(first, stop - _STRAYS_IN_A_ROW) : stop]).sum())  # for strays at the end
    for position in strays:
        corrected[position] = _hole(corrected, is_known, position, gap)
        is_known[position] = True
    return corrected


def _hole(times: NDArray[np.int64], is_known: NDArray[np.bool_], position: int, gap: int) -> int:
    """Return the time of a stray frame: in the nearest gap of a frame among the frames around it in the file."""
    start = max(0, position - _MAX_REORDER // 2)
    around = slice(start, position + _MAX_REORDER // 2)
    near = np.sort(times[around][is_known[around]])
    if len(near) < 2:
        return int(near[0]) + gap if len(near) else gap
    rank = int(is_known[start:position].sum())  # of the frame in `near`, if frames were shown as they are decoded
    gaps = np.diff(near)
    holes = np.flatnonzero(gaps >= 1.5 * gap)
    if not len(holes):
        return int(near[rank - 1]) + max(1, gap // 2) if rank else int(near[0]) - gap
    hole = int(holes[np.abs(holes - rank + 0.5).argmin()])
    return int(near[hole]) + min(gap, int(gaps[hole]) // 2)


def clock_notes(num_steps_back: int, num_jumps: int, num_strays: int) -> list[str]:
    """Sentences that name what was corrected on a clock."""
    notes = []
    if num_steps_back:
        notes.append(f"the file's clock is set back {num_steps_back} times: times are counted on from there")
    if num_jumps:
        notes.append(f"the file's clock jumps ahead {num_jumps} times: the jumps take no time")
    if num_strays:
        notes.append(f"{num_strays} frames have a time far from their neighbours: they are shown between them")
    return notes


def make_clock(
    raw: NDArray[np.int64],
    corrected: CorrectedTimes,
    shown: NDArray[np.int64],
    time_base: Fraction,
    end: int,
    notes: Sequence[str] = (),
) -> VideoClock:
    """Describe the corrections of a stream, for its other streams.

    Args:
        raw: `(packets,)`, presentation times in the container in ticks.
        corrected: Corrected times of the packets.
        shown: `(frames,)`, positions of the displayed frames in display order.
        time_base: Duration of a tick in seconds.
        end: End of the last frame in corrected ticks.
        notes: More sentences about corrections.
    """
    zero = int(corrected.pts[shown[0]]) if len(shown) else 0
    parts = []
    starts = [*corrected.starts, len(raw)]
    for first, stop in pairwise(starts):
        shifts = raw[first:stop] - corrected.pts[first:stop]
        shift = int(np.median(shifts))
        times = raw[first:stop][shifts == shift]
        if not len(times):
            continue
        parts.append(ClockPart(int(times.min()) * time_base, int(times.max()) * time_base, shift * time_base))
    last = parts[-1]
    parts[-1] = ClockPart(last.start, max(last.end, end * time_base + last.shift), last.shift)
    return VideoClock(zero * time_base, tuple(parts), (*corrected.notes, *notes))
