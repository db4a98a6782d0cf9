"""Answers as a page that plays the video beside its events."""

import base64
import hashlib
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from timechat.answers.events import Answer, Event, format_time, move_event, on_player_clock, one_line, printable
from timechat.answers.tasks import TASKS
from timechat.errors import VideoError
from timechat.export.text import event_label, rating_text, time_range
from timechat.files import address_from

EMBED_LIMIT_BYTES = 8 * 2**20
"""Maximum size of a video that is embedded in the page by default; a larger video is linked."""


def to_html(
    answer: Answer,
    video: str | Path | None = None,
    *,
    page_folder: str | Path | None = None,
    embed: bool | None = None,
    tracks: Mapping[str, Sequence[Event]] | None = None,
) -> str:
    """A page of its own that plays the video beside a timeline of its events, without any other file or address.

    Its times are those of the player.

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
    tracks = {
        name: [move_event(event, answer.player_offset) for event in events] for name, events in (tracks or {}).items()
    }
    answer = on_player_clock(answer)
    source = answer.video if video is None else str(video)
    address = None if not source else _video_address(source, page_folder, embed)
    template = files("timechat.export").joinpath("answer.html").read_text(encoding="utf-8")
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
        "tracks": _tracks(answer, tracks, scale),
        "ticks": _ticks(scale),
        "events": _event_rows(answer.events),
        "count": escape(_count(answer)),
        "text": escape(printable(answer.text).strip()),
        "is_open": "" if answer.events and answer.task != "ask" else "open",
        "notes": "".join(f"<p class=note>{escape(note)}</p>" for note in answer.notes),
    }
    # One pass, so that nothing in a value is taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def to_html_without_video(answer: Answer) -> str:
    """A page with the timeline and the events alone: it neither holds nor names the video file."""
    return to_html(replace(answer, video=None))


def page_notes(answer: Answer) -> list[str]:
    """The difference between the page of `to_html_without_video` and the answer."""
    return ["the page shows the events without the video"] if answer.video else []


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
    return address_from(path, Path(page_folder))


def _video_element(address: str | None) -> str:
    if address is None:
        return ""
    return f'<video controls playsinline preload="metadata" src="{escape(address)}"></video>'


def _heading(answer: Answer, source: str | None) -> tuple[str, list[str]]:
    """The heading (what was asked, or else the video's name) and what the line under it says."""
    task = TASKS[answer.task].title or "Answer"
    name = printable(Path(urlsplit(source).path if "://" in source else source).name) if source else ""
    length = "" if answer.duration is None else format_time(answer.duration)
    first, *others = [part for part in (answer.question, name, task) if part]
    facts = [task, *(other for other in others if other != task), length, answer.model or ""]
    return first, [fact for fact in facts if fact and fact != first]


def _count(answer: Answer) -> str:
    count = len(answer.events)
    noun = TASKS[answer.task].noun
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _percent(part: float, whole: float) -> str:
    return f"{min(100.0, max(0.0, 100 * part / whole)):.3f}%"


def _tracks(answer: Answer, others: Mapping[str, Sequence[Event]], scale: float) -> str:
    """The timeline of the answer, whose events can be clicked, and the others below it, with their names."""
    timelines = [_name(TASKS[answer.task].title or "Answer")] if others else []
    timelines.append(_timeline(answer.events, scale))
    for name, events in others.items():
        timelines += [_name(name), _timeline(events, scale, element="span")]
    return "".join(timelines)


def _name(name: str) -> str:
    return f'<p class="name">{escape(printable(name))}</p>'


def _timeline(events: Sequence[Event], scale: float, *, element: Literal["button", "span"] = "button") -> str:
    """A bar to scale for every event, overlapping ones in lanes; a needle as high as its saliency for a highlight."""
    lanes = _lanes(events)
    best = _best_saliency(events)
    labelled = _labelled_highlights(events, scale)
    marks = []
    for index, event in enumerate(events):
        kind, place = "pin", f"left:{_percent(event.start, scale)}"
        if event.start < event.end:
            kind = "span"
            place += f";width:{_percent(event.end - event.start, scale)};--lane:{lanes[index]}"
        elif event.saliency is not None:
            kind, place = "needle", f"{place};--height:{max(0.12, event.saliency / best):.3f}"
        tip = escape(f"{time_range(event)}  {event_label(event)}".strip())
        label = f"<b>{event.saliency:g}</b>" if index in labelled else ""
        chosen = f' data-index="{index}" tabindex="-1" aria-label="{tip}"' if element == "button" else ""
        marks.append(
            f'<{element} class="mark {kind} hue{index % 6}" style="{place}" title="{tip}"{chosen}>{label}</{element}>'
        )
    moments = [event.saliency for event in events if event.start == event.end]
    needles, pins = any(saliency is not None for saliency in moments), None in moments
    style = f"--lanes:{max(lanes, default=-1) + 1};--needles:{needles:d};--pins:{pins:d}"
    return f'<div class="track"><div class="marks" style="{style}">{"".join(marks)}</div></div>'


def _best_saliency(events: Sequence[Event]) -> float:
    """The highest saliency, against which the others are drawn; 1.0 if none is above 0."""
    best = max((event.saliency or 0.0 for event in events), default=0.0)
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


def _labelled_highlights(events: Sequence[Event], scale: float) -> set[int]:
    """The highlights whose saliency has room on the timeline: those far from their neighbours, or else the best."""
    moments = sorted((e.start, i) for i, e in enumerate(events) if e.start == e.end and e.saliency is not None)
    if not moments:
        return set()
    if all(later[0] - earlier[0] > 0.06 * scale for earlier, later in pairwise(moments)):
        return {index for _, index in moments}
    return {max((index for _, index in moments), key=lambda index: events[index].saliency or 0.0)}


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
    best = _best_saliency(events)
    rows = []
    for index, event in enumerate(events):
        caption = escape(one_line(event.caption))
        rows.append(
            f'<li><button class="row hue{index % 6}" data-index="{index}" data-start="{event.start!r}" '
            f'data-end="{event.end!r}"><span class="time">{time_range(event)}</span>'
            f'<span class="caption">{caption}</span>{_rating_bar(event, best)}</button></li>'
        )
    return f"<ol>{''.join(rows)}</ol>"


def _rating_bar(event: Event, best_saliency: float) -> str:
    """A bar for the score or the saliency of an event and its number; empty for an event without either."""
    if not (text := rating_text(event)):
        return ""
    name, number = text.split()
    part = event.score if event.saliency is None else event.saliency / best_saliency
    bar = f'<span class="score" title="{name}"><i style="width:{_percent(part or 0.0, 1.0)}"></i></span>'
    return f'{bar}<span class="number">{number}</span>'
