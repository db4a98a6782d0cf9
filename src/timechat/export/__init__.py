"""An answer as a file: text for people, data, subtitles, chapters, lists for video editors, and a page.

Every writer takes an `Answer` and returns the whole text of the file, ending with a newline. Where a format cannot
say all that the answer says, `export_notes` tells what it says otherwise.
"""

from collections.abc import Callable
from fractions import Fraction

from timechat.answers.events import MOMENT_SECONDS, Answer, printable
from timechat.export.chapters import chapter_notes, to_ffmetadata, to_vtt_chapters, to_youtube, youtube_notes
from timechat.export.data import to_csv, to_json, to_jsonl, to_qvhighlights
from timechat.export.editing import check_otio, rate_notes, timebase, to_edl, to_otio
from timechat.export.html import EMBED_LIMIT_BYTES, to_html
from timechat.export.subtitles import to_srt, to_vtt
from timechat.export.text import event_lines, to_text
from timechat.files import write_text_atomically

__all__ = [
    "EMBED_LIMIT_BYTES",
    "FORMATS",
    "MOMENT_SECONDS",
    "check_otio",
    "event_lines",
    "export_notes",
    "printable",
    "timebase",
    "to_csv",
    "to_edl",
    "to_ffmetadata",
    "to_html",
    "to_json",
    "to_jsonl",
    "to_otio",
    "to_qvhighlights",
    "to_srt",
    "to_text",
    "to_vtt",
    "to_vtt_chapters",
    "to_youtube",
    "write_as",
    "write_text_atomically",
]

FORMATS: dict[str, Callable[[Answer], str]] = {
    "text": to_text,
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "srt": to_srt,
    "vtt": to_vtt,
    "vtt-chapters": to_vtt_chapters,
    "youtube": to_youtube,
    "ffmetadata": to_ffmetadata,
    "edl": to_edl,
    "otio": to_otio,
    "qvhighlights": to_qvhighlights,
}
"""Every format that `--format` takes, by name."""

_FRAME_COUNTING = {"edl": to_edl, "otio": to_otio}


def write_as(answer: Answer, form: str, *, fps: float | Fraction | None = None) -> str:
    """The answer in one of `FORMATS`; what counts frames does so at `fps`, if that is known."""
    if fps is not None and form in _FRAME_COUNTING:
        return _FRAME_COUNTING[form](answer, fps=fps)
    return FORMATS[form](answer)


def export_notes(answer: Answer, form: str, *, fps: float | Fraction | None = None) -> list[str]:
    """What whoever uses a file of `write_as` should know: what it tells otherwise than the answer."""
    if form in _FRAME_COUNTING:
        return rate_notes(answer, fps)
    if form == "youtube":
        return youtube_notes(answer)
    return chapter_notes(answer) if form in ("vtt-chapters", "ffmetadata") else []
