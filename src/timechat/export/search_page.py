"""The moments of a search as a page with a picture of each; a click plays the moment."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from timechat.answers.events import Answer, Event, move_event, one_line
from timechat.export.text import rating_text, time_range, video_name
from timechat.files import address_from

PictureSource = Callable[[str, float], bytes | None]
"""Returns a JPEG image of a video at a time in seconds; None for a video that cannot be read."""


def to_search_page(
    query: str, answers: Sequence[Answer], pictures: PictureSource, *, found: bool, page_folder: Path
) -> str:
    """Return a page with the moments of several videos, the most likely one first.

    The pictures are in the page. The videos are not: the page refers to them relative to its own folder.

    Args:
        query: Words, or the name of a picture.
        answers: One answer for each video, see `SearchResult.answers`.
        pictures: Source of the pictures.
        found: Whether the best moment counts as found.
        page_folder: Folder in which the page will be saved.
    """
    moments = [(event, answer) for answer in answers for event in answer.events]
    moments.sort(key=lambda moment: -(moment[0].score or 0.0))
    template = files("timechat.export").joinpath("search.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None
    notes = dict.fromkeys(note for answer in answers for note in answer.notes)
    values = {
        "script_hash": base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode(),
        "query": escape(one_line(query)),
        "count": escape(_count(len(moments), found=found)),
        "notes": "".join(f"<p class=note>{escape(note)}</p>" for note in notes),
        "moments": "".join(_card(event, answer, pictures, page_folder) for event, answer in moments),
    }
    # One pass, so that nothing in a value is taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _count(number: int, *, found: bool) -> str:
    if not number:
        return "Nothing was found."
    moments = "1 moment" if number == 1 else f"{number} moments"
    return moments if found else f"Not found. The most similar: {moments}."


def _card(event: Event, answer: Answer, pictures: PictureSource, page_folder: Path) -> str:
    path = Path(answer.video or "")
    shown = move_event(event, answer.player_offset)
    address = f"{address_from(path, page_folder)}#t={shown.start:.3f},{shown.end:.3f}"
    content = pictures(str(path), (event.start + event.end) / 2)
    picture = "<span class=away>no picture: the video is away</span>"
    if content is not None:
        picture = f'<img src="data:image/jpeg;base64,{base64.b64encode(content).decode()}" alt="">'
    caption = one_line(event.caption)
    said = f"<q>{escape(caption)}</q>" if caption and caption != one_line(answer.question) else ""
    return (
        f'<li><button data-video="{escape(address)}" aria-label="Play {escape(time_range(shown))} of '
        f'{escape(video_name(answer))}">{picture}</button><p><b>{escape(time_range(shown))}</b> '
        f"<span>{escape(rating_text(event))}</span><br><span>{escape(video_name(answer))}</span></p>{said}</li>"
    )
