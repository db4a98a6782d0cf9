"""Answers for video editors: the events one after the other as cuts of the video, counted in frames."""

import re
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from timechat.answers.events import Answer, Event, event_time_range, one_line
from timechat.answers.tasks import event_title
from timechat.answers.timecode import can_drop_frames, frame_at, is_near_rate, parse_timecode, timebase, timecode
from timechat.errors import missing_extra
from timechat.export.text import rating_text, video_name

DEFAULT_FPS = 25
"""Default frames per second if the rate of the video is unknown."""

_FIRST_HOUR = 3600  # seconds: first time code of a program, by convention


class _Cut(NamedTuple):
    """One event as frame numbers of the video; `end` is the first frame after it."""

    start: int
    end: int
    event: Event


def to_edl(
    answer: Answer,
    *,
    fps: float | Fraction = DEFAULT_FPS,
    start_timecode: str | None = None,
    drop_frame: bool | None = None,
) -> str:
    """A CMX3600 list: the events in time order, cut one after the other from 01:00:00:00 on.

    Args:
        answer: The answer. Its times become the nearest frame borders; a moment lasts `MOMENT_SECONDS`.
        fps: Frames per second of the video; what editors cannot count at is counted at their `timebase`.
        start_timecode: Timecode of the first frame, see `parse_timecode`; None counts from 00:00:00:00.
        drop_frame: Whether timecode leaves out numbers so that it keeps up with the clock, which exists at 29.97 and
            59.94 frames per second only. None does so there unless `start_timecode` does not.

    Raises:
        ValueError: Drop-frame timecode at another rate, an invalid start timecode, or more than the 999 events that a
            list holds.
    """
    rate = timebase(fps)
    can_drop = can_drop_frames(rate)
    if drop_frame and not can_drop:
        raise ValueError(f"drop-frame timecode exists at 29.97 and 59.94 frames per second, not at {float(rate):g}")
    if len(answer.events) > 999:
        raise ValueError(f"a CMX3600 list holds 999 events, the answer has {len(answer.events)}; write it as otio")
    first, drop = (0, can_drop) if start_timecode is None else parse_timecode(start_timecode, fps)
    drop = drop if drop_frame is None else drop_frame
    cuts = _cuts(answer, rate)
    name = video_name(answer)
    record = accumulate((cut.end - cut.start for cut in cuts), initial=frame_at(_FIRST_HOUR, rate, drop=drop))
    lines = [f"TITLE: {_title(answer)}", f"FCM: {'' if drop else 'NON-'}DROP FRAME"]
    for number, (cut, at) in enumerate(zip(cuts, record, strict=False), start=1):
        frames = (first + cut.start, first + cut.end, at, at + cut.end - cut.start)
        times = " ".join(timecode(frame, rate, drop=drop) for frame in frames)
        lines += ["", f"{number:03d}  {_reel(name):<8} V     C        {times}"]
        lines += [f"* FROM CLIP NAME: {name}"] if name else []
        lines.append(f"* COMMENT: {event_title(cut.event, answer)}")
        rating = rating_text(cut.event)
        lines += [f"* COMMENT: {rating}"] if rating else []
    return "\n".join(lines) + "\n"


def to_otio(
    answer: Answer,
    *,
    fps: float | Fraction = DEFAULT_FPS,
    start_timecode: str | None = None,
    is_local: bool = True,
) -> str:
    """An OpenTimelineIO timeline: the events in time order as clips of the video, one after the other.

    The metadata of a clip says, under `timechat`, the event's exact times in seconds, its caption and its score.

    Args:
        answer: The answer.
        fps: Frames per second of the video, see `to_edl`.
        start_timecode: Timecode of the first frame, see `parse_timecode`; None counts from frame 0.
        is_local: Whether the path of the video is one of this machine and becomes absolute; otherwise a relative path
            stays relative, so that the file reveals no folder of this machine.

    Raises:
        ModuleNotFoundError: opentimelineio is not installed.
    """
    check_otio()
    import opentimelineio as otio

    rate = float(timebase(fps))
    first = 0 if start_timecode is None else parse_timecode(start_timecode, fps)[0]

    def frames(start: int, end: int) -> otio.opentime.TimeRange:
        at, length = (otio.opentime.RationalTime(count, rate) for count in (first + start, end - start))
        return otio.opentime.TimeRange(at, length)

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


def frame_notes(answer: Answer, fps: float | Fraction | None, start_timecode: str | None = None) -> list[str]:
    """Differences between the frame numbers of a list for editors and those of the video."""
    if not answer.events:
        return []
    notes = []
    rate = timebase(fps or DEFAULT_FPS)
    if fps is None:
        notes.append(f"frames are counted at {DEFAULT_FPS} a second: the video's own rate is not known")
    elif not is_near_rate(rate, Fraction(fps)):
        notes.append(f"frames are counted at {float(rate):.6g} a second, as editors know no {float(fps):.6g}")
    if start_timecode is not None and fitting_timecode(start_timecode, fps) is None:
        notes.append(
            f"frames are counted from 00:00:00:00: the file's timecode {start_timecode} does not fit "
            f"{float(rate):.6g} frames per second"
        )
    return notes


def fitting_timecode(start_timecode: str | None, fps: float | Fraction | None) -> str | None:
    """The timecode of a file, or None if it cannot be counted at the rate of the video."""
    if start_timecode is None:
        return None
    try:
        parse_timecode(start_timecode, fps or DEFAULT_FPS)
    except ValueError:
        return None
    return start_timecode


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
