"""An answer as a file: text for people, JSON, CSV, subtitles, and a page that plays the video beside its events.

Every writer takes an `Answer` and returns the whole text of the file, ending with a newline.
"""

import base64
import csv
import hashlib
import io
import json
import mimetypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from timechat.errors import VideoError
from timechat.events import Answer, Event, format_time
from timechat.files import written_whole

MOMENT_SECONDS = 2.0
"""How long a moment (an event with `start == end`) is shown as a subtitle, in seconds."""

EMBED_LIMIT_BYTES = 8 * 2**20
"""A page carries its video inside it up to this size, unless it is told otherwise; above, it refers to the file."""

_TASK_TITLES = {
    "dense_caption": "Events",
    "steps": "Steps",
    "transcribe": "Speech",
    "grounding": "Moment",
    "highlights": "Highlights",
    "summary": "Summary",
}


# ------------------------------------------------------------------------------------------ text and numbers


_FREE_TASKS = ("ask", "summary")


def to_text(answer: Answer) -> str:
    """Text for people: an event a line with its times as `m:ss.s`; a free answer stands before its times."""
    lines = event_lines(answer)
    if answer.task in _FREE_TASKS or not lines:
        lines = [printable(answer.text).strip(), *lines]
    return "".join(f"{line}\n" for line in lines)


def event_lines(answer: Answer) -> list[str]:
    """The events alone, a line each for people; below a free answer they are indented and don't repeat it."""
    is_free, text = answer.task in _FREE_TASKS, printable(answer.text).strip()
    times = [_time_range(event) for event in answer.events]
    labels = ["" if is_free and event.caption == text else _label(event) for event in answer.events]
    width = max(map(len, times), default=0)
    indent = "  " if is_free else ""
    return [f"{indent}{time:<{width}}  {label}".rstrip() for time, label in zip(times, labels, strict=True)]


def _time_range(event: Event) -> str:
    start = format_time(event.start)
    return start if event.start == event.end else f"{start} – {format_time(event.end)}"


def _label(event: Event) -> str:
    """The caption on one line, with the score where there is one."""
    caption = " ".join(printable(event.caption).split())
    return caption if event.score is None else f"{caption} (score {event.score:g})".strip()


def printable(text: str) -> str:
    """The text without control characters, which could steer a terminal or break a file."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def to_json(answer: Answer) -> str:
    """The whole answer as one JSON object, see `Answer.to_dict`; times in seconds."""
    return _json(answer.to_dict(), indent=2) + "\n"


def to_jsonl(answer: Answer) -> str:
    """One JSON object `{"start", "end", "caption", "score"}` an event and line; times in seconds."""
    # Some readers take these three for line ends; JSON allows them bare.
    line_ends = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}
    return "".join(f"{_json(event.to_dict()).translate(line_ends)}\n" for event in answer.events)


def _json(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # A file name that is not UTF-8 holds lone surrogates; replaced this way they are JSON escapes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_csv(answer: Answer) -> str:
    """A table `start,end,caption,score`, times in seconds, an unknown score empty.

    A caption that a spreadsheet would run as a formula (it begins with `=`, `+`, `-`, `@` or a tab) gets a `'` in
    front, as spreadsheets themselves mark text.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("start", "end", "caption", "score"))
    for event in answer.events:
        caption = printable(event.caption)
        caption = f"'{caption}" if caption.startswith(tuple("=+-@\t")) else caption
        writer.writerow((event.start, event.end, caption, "" if event.score is None else event.score))
    return table.getvalue()


# ------------------------------------------------------------------------------------------------- subtitles


def to_srt(answer: Answer) -> str:
    """SubRip subtitles in time order; a moment is shown for `MOMENT_SECONDS`.

    SubRip knows no escapes: an arrow `-->` in a caption becomes `→`, and blank lines, which would end it, go.
    """
    cues = _cues(answer)
    return "\n".join(
        f"{number}\n{_timing(start, end, ',')}\n{caption.replace('-->', '→')}\n"
        for number, (start, end, caption) in enumerate(cues, start=1)
    )


def to_vtt(answer: Answer) -> str:
    """WebVTT subtitles in time order; a moment is shown for `MOMENT_SECONDS`; `&`, `<` and `>` are escaped."""
    return "WEBVTT\n" + "".join(
        f"\n{number}\n{_timing(start, end, '.')}\n{escape(caption, quote=False)}\n"
        for number, (start, end, caption) in enumerate(_cues(answer), start=1)
    )


def _cues(answer: Answer) -> list[tuple[int, int, str]]:
    """Start and end in whole milliseconds and the text of every subtitle, in time order."""
    instead = answer.question or _TASK_TITLES.get(answer.task, "Event")
    cues = [(*_visible(event, answer.duration), _cue_text(event, instead)) for event in answer.events]
    return sorted(cues, key=lambda cue: cue[:2])


def _visible(event: Event, duration: float | None) -> tuple[int, int]:
    """Start and end in milliseconds; a moment lasts `MOMENT_SECONDS`, ending with the video at the latest."""
    start, end = round(event.start * 1000), round(event.end * 1000)
    if end > start:
        return start, end
    if duration is not None:
        start = max(0, min(start, round((duration - MOMENT_SECONDS) * 1000)))
    return start, start + round(MOMENT_SECONDS * 1000)


def _cue_text(event: Event, instead: str) -> str:
    """The caption without blank lines, which would end the subtitle."""
    lines = [" ".join(printable(line).split()) for line in event.caption.splitlines()]
    caption = "\n".join(line for line in lines if line) or " ".join(instead.split())
    return caption if event.score is None else f"{caption} (score {event.score:g})"


def _timing(start_ms: int, end_ms: int, decimal_mark: str) -> str:
    return f"{_timestamp(start_ms, decimal_mark)} --> {_timestamp(end_ms, decimal_mark)}"


def _timestamp(milliseconds: int, decimal_mark: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{decimal_mark}{milliseconds:03d}"


FORMATS: dict[str, Callable[[Answer], str]] = {
    "text": to_text,
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "srt": to_srt,
    "vtt": to_vtt,
}
"""Every format that `--format` takes, by name."""


# -------------------------------------------------------------------------------------------------- the page


def to_html(
    answer: Answer,
    video: str | Path | None = None,
    *,
    page_folder: str | Path | None = None,
    embed: bool | None = None,
    tracks: Mapping[str, Sequence[Event]] | None = None,
) -> str:
    """A page of its own that plays the video beside a timeline of its events, without any other file or address.

    Args:
        answer: The answer to show.
        video: The video to play: a file, or an `http(s)` address. None takes `answer.video`; a page about neither
            has a timeline only.
        page_folder: The folder that the page will be saved in; the page then refers to the video relative to it, so
            that both can be moved together. None refers to the file by its full `file:` address.
        embed: Whether the video is carried inside the page. None does so up to `EMBED_LIMIT_BYTES`.
        tracks: More timelines to draw below that of the answer, by their names: what really happens, or what was
            found for other questions.

    Raises:
        VideoError: The video shall be embedded and cannot be read.
    """
    source = answer.video if video is None else str(video)
    address = None if not source else _video_address(source, page_folder, embed)
    template = files("timechat").joinpath("templates/answer.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None
    scale = answer.duration or max((event.end for event in answer.events), default=0.0) or 1.0
    heading, facts = _heading(answer, source)
    values = {
        "script_hash": base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode(),
        "title": escape(heading),
        "facts": escape(" · ".join(facts)),
        "video": _video_element(address),
        "scale": repr(scale),
        "tracks": _tracks(answer, tracks or {}, scale),
        "ticks": _ticks(scale),
        "events": _event_rows(answer.events),
        "count": escape(_count(answer)),
        "text": escape(printable(answer.text).strip()),
        "is_open": "" if answer.events and answer.task != "ask" else "open",
        "notes": "".join(f"<p class=note>{escape(note)}</p>" for note in answer.notes),
    }
    # One pass, so that nothing in a value is taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _video_address(source: str, page_folder: str | Path | None, embed: bool | None) -> str:
    """What the page's video element plays: an address, a path relative to the page, or the video itself."""
    if urlsplit(source).scheme in ("http", "https"):
        return source
    path = Path(source)
    if embed is None:
        embed = path.is_file() and path.stat().st_size <= EMBED_LIMIT_BYTES
    if embed:
        try:
            content = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise VideoError(f"cannot embed {path} in the page: {error.strerror}") from error
        kind = mimetypes.guess_type(path.name)[0]
        # Chromium plays QuickTime files, but not under their own name in a data address.
        kind = "video/mp4" if kind in (None, "video/quicktime") else kind
        return f"data:{kind};base64,{content}"
    if page_folder is None:
        return path.absolute().as_uri()
    relative = os.path.relpath(path.absolute(), Path(page_folder).absolute())
    return quote(Path(relative).as_posix().encode("utf-8", "surrogateescape"))


def _video_element(address: str | None) -> str:
    if address is None:
        return ""
    return f'<video controls playsinline preload="metadata" src="{escape(address)}"></video>'


def _heading(answer: Answer, source: str | None) -> tuple[str, list[str]]:
    """The heading (what was asked, or else the video's name) and what the line under it says."""
    task = _TASK_TITLES.get(answer.task, "Answer")
    name = printable(Path(urlsplit(source).path if "://" in source else source).name) if source else ""
    length = "" if answer.duration is None else format_time(answer.duration)
    first, *others = [part for part in (answer.question, name, task) if part]
    facts = [task, *(other for other in others if other != task), length, answer.model or ""]
    return first, [fact for fact in facts if fact and fact != first]


def _count(answer: Answer) -> str:
    count = len(answer.events)
    noun = "highlight" if answer.task == "highlights" else "step" if answer.task == "steps" else "event"
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _percent(part: float, whole: float) -> str:
    return f"{min(100.0, max(0.0, 100 * part / whole)):.3f}%"


def _tracks(answer: Answer, others: Mapping[str, Sequence[Event]], scale: float) -> str:
    """The timeline of the answer, whose events can be clicked, and the others below it, with their names."""
    timelines = [_name(_TASK_TITLES.get(answer.task, "Answer"))] if others else []
    timelines.append(_timeline(answer.events, scale))
    for name, events in others.items():
        timelines += [_name(name), _timeline(events, scale, element="span")]
    return "".join(timelines)


def _name(name: str) -> str:
    return f'<p class="name">{escape(printable(name))}</p>'


def _timeline(events: Sequence[Event], scale: float, *, element: Literal["button", "span"] = "button") -> str:
    """A bar to scale for every event, overlapping ones in lanes; a needle as high as its score for a moment."""
    lanes = _lanes(events)
    best = _best_score(events)
    shown_scores = _shown_scores(events, scale)
    marks = []
    for index, event in enumerate(events):
        kind, place = "pin", f"left:{_percent(event.start, scale)}"
        if event.start < event.end:
            kind = "span"
            place += f";width:{_percent(event.end - event.start, scale)};--lane:{lanes[index]}"
        elif event.score is not None:
            kind, place = "needle", f"{place};--height:{max(0.12, event.score / best):.3f}"
        tip = escape(f"{_time_range(event)}  {_label(event)}".strip())
        score = f"<b>{event.score:g}</b>" if index in shown_scores else ""
        chosen = f' data-index="{index}" tabindex="-1" aria-label="{tip}"' if element == "button" else ""
        marks.append(
            f'<{element} class="mark {kind} hue{index % 6}" style="{place}" title="{tip}"{chosen}>{score}</{element}>'
        )
    moments = [event.score for event in events if event.start == event.end]
    needles, pins = any(score is not None for score in moments), None in moments
    style = f"--lanes:{max(lanes, default=-1) + 1};--needles:{needles:d};--pins:{pins:d}"
    return f'<div class="track"><div class="marks" style="{style}">{"".join(marks)}</div></div>'


def _best_score(events: Sequence[Event]) -> float:
    """The highest score, 1.0 where there is none above 0: a height to draw the others against."""
    best = max((event.score or 0.0 for event in events), default=0.0)
    return best if best > 0 else 1.0


def _lanes(events: Sequence[Event], most: int = 6) -> list[int]:
    """The lane of each event, the first that is free at its start; -1 for moments."""
    free_from: list[float] = []
    lanes = [-1] * len(events)
    for index in sorted(range(len(events)), key=lambda i: events[i].start):
        event = events[index]
        if event.start == event.end:
            continue
        free = [lane for lane, time in enumerate(free_from) if time <= event.start]
        if not free and len(free_from) < most:
            free_from.append(0.0)
            free = [len(free_from) - 1]
        lanes[index] = free[0] if free else min(range(most), key=free_from.__getitem__)
        free_from[lanes[index]] = event.end
    return lanes


def _shown_scores(events: Sequence[Event], scale: float) -> set[int]:
    """The moments whose scores have room on the timeline: those far from their neighbours, or else the best."""
    moments = sorted((e.start, i) for i, e in enumerate(events) if e.start == e.end and e.score is not None)
    if not moments:
        return set()
    if all(later[0] - earlier[0] > 0.06 * scale for earlier, later in pairwise(moments)):
        return {index for _, index in moments}
    return {max((index for _, index in moments), key=lambda index: events[index].score or 0.0)}


_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


def _ticks(scale: float) -> str:
    """At most ten marks of time under the timeline, at round times."""
    step = next((step for step in _TICK_SECONDS if scale / step <= 10), scale)
    ticks = []
    for index in range(int(scale / step + 1e-9) + 1):
        time = index * step
        last = ' class="last"' if time > 0.96 * scale else ""
        label = format_time(time).removesuffix(".0")
        ticks.append(f'<span{last} style="left:{_percent(time, scale)}">{label}</span>')
    return "".join(ticks)


def _event_rows(events: Sequence[Event]) -> str:
    """The list of events: a button each, which plays it."""
    if not events:
        return '<p class="none">The answer names no times.</p>'
    best = _best_score(events)
    rows = []
    for index, event in enumerate(events):
        caption = escape(" ".join(printable(event.caption).split()))
        score = "" if event.score is None else _score_bar(event.score, best)
        rows.append(
            f'<li><button class="row hue{index % 6}" data-index="{index}" data-start="{event.start!r}" '
            f'data-end="{event.end!r}"><span class="time">{_time_range(event)}</span>'
            f'<span class="caption">{caption}</span>{score}</button></li>'
        )
    return f"<ol>{''.join(rows)}</ol>"


def _score_bar(score: float, best: float) -> str:
    bar = f'<span class="score"><i style="width:{_percent(score, best)}"></i></span>'
    return f'{bar}<span class="number">{score:g}</span>'


# ----------------------------------------------------------------------------------------------------- files


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: into the same folder first, then into place; a failure leaves no debris.

    Args:
        path: The file to write, replaced if it is there. A pipe or device such as `/dev/stdout` is written to.
        text: Its content, written as UTF-8 without changing line ends.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
        return
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
