"""Answers as chapters in time order without overlap, with the times of players. Notes list the changes."""

import re
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby

from timechat.answers.events import Answer, on_player_clock
from timechat.answers.tasks import event_title
from timechat.export.subtitles import timing, visible_milliseconds

YOUTUBE_MIN_CHAPTERS = 3
YOUTUBE_MIN_SECONDS = 10
"""YouTube shows chapters if there are so many, each so long, and the first starts at 0:00."""

_OPENING = "Opening"


@dataclass(frozen=True)
class _Chapter:
    """A part of a video; times in milliseconds."""

    start: int
    end: int
    title: str


def to_vtt_chapters(answer: Answer) -> str:
    """A WebVTT chapter track: a title a line; `&`, `<` and `>` are escaped."""
    return "WEBVTT\n" + "".join(
        f"\n{number}\n{timing(chapter.start, chapter.end, '.')}\n{escape(chapter.title, quote=False)}\n"
        for number, chapter in enumerate(_chapters(answer)[0], start=1)
    )


def to_ffmetadata(answer: Answer) -> str:
    """Chapters as FFmpeg reads them (`ffmpeg -i video.mp4 -i chapters.txt -map_metadata 1 -codec copy out.mp4`)."""
    return ";FFMETADATA1\n" + "".join(
        f"\n[CHAPTER]\nTIMEBASE=1/1000\nSTART={chapter.start}\nEND={chapter.end}\ntitle={_escaped(chapter.title)}\n"
        for chapter in _chapters(answer)[0]
    )


def _escaped(title: str) -> str:
    """The title, which is one line, with a backslash before what means something in the file."""
    return re.sub(r"([=;#\\])", r"\\\1", title)


def to_youtube(answer: Answer) -> str:
    """Lines for the description of a video on YouTube, which makes chapters of them: whole seconds and a title.

    YouTube wants the first chapter at 0:00, at least three, each at least 10 s long, and lets each last until the
    next one starts. So an opening is put before a first event that starts later, and an event too near to another
    or to the end is left out.

    Raises:
        ValueError: Fewer than three chapters are left.
    """
    chapters, _ = _youtube_chapters(answer)
    if len(chapters) < YOUTUBE_MIN_CHAPTERS:
        raise ValueError(
            f"YouTube takes {YOUTUBE_MIN_CHAPTERS} chapters or more, each of {YOUTUBE_MIN_SECONDS} s or more; the "
            f"answer's {len(answer.events)} events give {len(chapters)}; vtt-chapters and ffmetadata have no such rule"
        )
    return "".join(f"{_clock(second)} {title}\n" for second, title in chapters)


def chapter_notes(answer: Answer) -> list[str]:
    """What a chapter track or FFmetadata tells otherwise than the answer."""
    return _chapters(answer)[1]


def youtube_notes(answer: Answer) -> list[str]:
    """What YouTube's chapters tell otherwise than the answer."""
    return _youtube_chapters(answer)[1]


def _chapters(answer: Answer) -> tuple[list[_Chapter], list[str]]:
    """The events one after the other: each ends where the next starts, those that start together are one."""
    answer = on_player_clock(answer)
    chapters: list[_Chapter] = []
    shortened = 0
    found = [_Chapter(*visible_milliseconds(event, answer), event_title(event, answer)) for event in answer.events]
    found.sort(key=lambda chapter: (chapter.start, chapter.end))
    for start, together in groupby(found, key=lambda chapter: chapter.start):
        parts = list(together)
        if chapters and chapters[-1].end > start:
            chapters[-1] = replace(chapters[-1], end=start)
            shortened += 1
        chapters.append(_Chapter(start, parts[-1].end, " / ".join(part.title for part in parts)))
    joined = len(found) - len(chapters)
    notes = []
    if shortened:
        notes.append(f"{shortened} of {len(chapters)} chapters end early, where the next one starts")
    if joined:
        notes.append(f"{joined} events start together with another and share its chapter")
    return chapters, notes


def _youtube_chapters(answer: Answer) -> tuple[list[tuple[int, str]], list[str]]:
    """Start in whole seconds and title of each chapter that keeps the rules."""
    answer = on_player_clock(answer)
    events = sorted(answer.events, key=lambda event: (event.start, event.end))
    if not events:
        return [], []
    found = [(round(event.start), event_title(event, answer)) for event in events]
    notes: list[str] = []
    if 0 < found[0][0] < YOUTUBE_MIN_SECONDS:
        notes.append(f"the first chapter starts at 0:00, not at {_clock(found[0][0])}: YouTube wants it so")
        found[0] = (0, found[0][1])
    elif found[0][0]:
        notes.append(f"a chapter {_OPENING!r} is put before the first event: YouTube wants one at 0:00")
        found.insert(0, (0, _OPENING))
    end = int(max(event.end for event in events) if answer.duration is None else answer.duration)
    chapters: list[tuple[int, str]] = []
    left_out: list[str] = []
    for second, title in found:
        is_short = bool(chapters) and second - chapters[-1][0] < YOUTUBE_MIN_SECONDS
        if is_short or end - second < YOUTUBE_MIN_SECONDS:
            left_out.append(f"{_clock(second)} {title}")
        else:
            chapters.append((second, title.translate({ord("<"): "‹", ord(">"): "›"})))  # refused in descriptions
    if left_out:
        notes.append(f"left out, as chapters must last {YOUTUBE_MIN_SECONDS} s: {'; '.join(left_out)}")
    return chapters, notes


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
