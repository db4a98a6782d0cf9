"""Answers as subtitles, with the times of players."""

from html import escape

from timechat.answers.events import Answer, Event, event_time_range, on_player_clock, one_line
from timechat.answers.tasks import event_title
from timechat.export.text import rating_text


def to_srt(answer: Answer) -> str:
    """SubRip subtitles in time order; a moment is shown for `MOMENT_SECONDS`.

    SubRip knows no escapes: an arrow `-->` in a caption becomes `→`, and blank lines, which would end it, go.
    """
    cues = _cues(answer)
    return "\n".join(
        f"{number}\n{timing(start, end, ',')}\n{caption.replace('-->', '→')}\n"
        for number, (start, end, caption) in enumerate(cues, start=1)
    )


def to_vtt(answer: Answer) -> str:
    """WebVTT subtitles in time order; a moment is shown for `MOMENT_SECONDS`; `&`, `<` and `>` are escaped."""
    return "WEBVTT\n" + "".join(
        f"\n{number}\n{timing(start, end, '.')}\n{escape(caption, quote=False)}\n"
        for number, (start, end, caption) in enumerate(_cues(answer), start=1)
    )


def _cues(answer: Answer) -> list[tuple[int, int, str]]:
    """Start and end in whole milliseconds and the text of every subtitle, in time order."""
    answer = on_player_clock(answer)
    cues = [(*visible_milliseconds(event, answer), _cue_text(event, answer)) for event in answer.events]
    return sorted(cues, key=lambda cue: cue[:2])


def visible_milliseconds(event: Event, answer: Answer) -> tuple[int, int]:
    """Start and end, rounded to milliseconds; a moment lasts `MOMENT_SECONDS`, see `event_time_range`."""
    start, end = event_time_range(event, answer.duration)
    return round(start * 1000), round(end * 1000)


def _cue_text(event: Event, answer: Answer) -> str:
    """The caption without blank lines, which would end the subtitle, and the saliency of a highlight."""
    lines = [one_line(line) for line in event.caption.splitlines()]
    caption = "\n".join(line for line in lines if line) or event_title(event, answer)
    return caption if event.saliency is None else f"{caption} ({rating_text(event)})"


def timing(start_ms: int, end_ms: int, decimal_mark: str) -> str:
    """The line of a subtitle that says from when to when it is shown."""
    return f"{_timestamp(start_ms, decimal_mark)} --> {_timestamp(end_ms, decimal_mark)}"


def _timestamp(milliseconds: int, decimal_mark: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{decimal_mark}{milliseconds:03d}"
