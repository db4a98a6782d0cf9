"""An answer as a file: text for people, data, subtitles, chapters, lists for video editors, and a page.

Every writer takes an `Answer` and returns the whole text of the file, ending with a newline. `FORMATS` lists the
formats. A new format is one writer and one entry there: commands, server, page and documentation read the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from timechat.answers.events import MOMENT_SECONDS, Answer, printable
from timechat.answers.timecode import timebase
from timechat.export.chapters import chapter_notes, to_ffmetadata, to_vtt_chapters, to_youtube, youtube_notes
from timechat.export.data import qvhighlights_notes, to_csv, to_json, to_jsonl, to_qvhighlights
from timechat.export.editing import DEFAULT_FPS, check_otio, fitting_timecode, frame_notes, to_edl, to_otio
from timechat.export.html import EMBED_LIMIT_BYTES, page_notes, to_html, to_html_without_video
from timechat.export.subtitles import to_srt, to_vtt
from timechat.export.text import event_lines, to_text
from timechat.files import write_text_atomically

__all__ = [
    "EMBED_LIMIT_BYTES",
    "FORMATS",
    "MOMENT_SECONDS",
    "Format",
    "check_otio",
    "event_lines",
    "export_notes",
    "printable",
    "timebase",
    "to_csv",
    "to_edl",
    "to_ffmetadata",
    "to_html",
    "to_html_without_video",
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


def _no_notes(_answer: Answer) -> list[str]:
    return []


def _nothing_missing() -> None:
    pass


@dataclass(frozen=True)
class Format:
    """A file format for answers.

    Attributes:
        title: Name of the format for people.
        write: Writer: the answer in, the text of the file out. It takes `fps` and
            `start_timecode` if `counts_frames`.
        extension: End of the file name, with the dot. No two formats share one.
        media_type: Media type of the file over HTTP.
        notes: Differences between the file and the answer, one text each. It takes `fps` and
            `start_timecode` if `counts_frames`.
        counts_frames: True if the format counts the frames of the video.
        refers_to_video: True if the file contains the path of the video. The writer takes the keyword `is_local`.
        check: Check that raises `ModuleNotFoundError` if a library that the writer needs is not installed.
        is_for_players: Whether times are those of players, see `Answer.player_offset`.
    """

    title: str
    write: Callable[..., str]
    extension: str
    media_type: str
    notes: Callable[..., list[str]] = _no_notes
    counts_frames: bool = False
    refers_to_video: bool = False
    check: Callable[[], None] = _nothing_missing
    is_for_players: bool = False


FORMATS: dict[str, Format] = {
    "text": Format("Text", to_text, ".txt", "text/plain"),
    "json": Format("JSON", to_json, ".json", "application/json"),
    "jsonl": Format("JSON lines", to_jsonl, ".jsonl", "application/jsonl"),
    "csv": Format("Table (CSV)", to_csv, ".csv", "text/csv"),
    "srt": Format("Subtitles (SRT)", to_srt, ".srt", "application/x-subrip", is_for_players=True),
    "vtt": Format("Subtitles (WebVTT)", to_vtt, ".vtt", "text/vtt", is_for_players=True),
    "vtt-chapters": Format(
        "Chapters (WebVTT)", to_vtt_chapters, ".chapters.vtt", "text/vtt", chapter_notes, is_for_players=True
    ),
    "youtube": Format("YouTube chapters", to_youtube, ".youtube.txt", "text/plain", youtube_notes, is_for_players=True),
    "ffmetadata": Format(
        "FFmpeg chapters", to_ffmetadata, ".ffmetadata.txt", "text/plain", chapter_notes, is_for_players=True
    ),
    "edl": Format("Edit list (EDL)", to_edl, ".edl", "text/plain", frame_notes, counts_frames=True),
    "otio": Format(
        "OpenTimelineIO",
        to_otio,
        ".otio",
        "application/json",
        frame_notes,
        counts_frames=True,
        refers_to_video=True,
        check=check_otio,
    ),
    "qvhighlights": Format(
        "QVHighlights", to_qvhighlights, ".qvhighlights.jsonl", "application/jsonl", qvhighlights_notes
    ),
    "html": Format("Page (HTML)", to_html_without_video, ".html", "text/html", page_notes, is_for_players=True),
}
"""Every format of `--format` and `/v1/export`, by name."""


def write_as(
    answer: Answer,
    form: str,
    *,
    fps: float | Fraction | None = None,
    start_timecode: str | None = None,
    is_local: bool = True,
) -> str:
    """Write the answer in one of `FORMATS`.

    Args:
        answer: The answer.
        form: Name of the format.
        fps: Frame rate of the video; None if it is not known.
        start_timecode: Timecode of the first frame, see `VideoInfo.start_timecode`; None if the file states none.
        is_local: Whether the path of the video is one of this machine, so that a file may name its folder.
    """
    chosen = FORMATS[form]
    options: dict[str, Any] = {"is_local": is_local} if chosen.refers_to_video else {}
    if chosen.counts_frames:
        options |= {"fps": fps or DEFAULT_FPS, "start_timecode": fitting_timecode(start_timecode, fps)}
    return chosen.write(answer, **options)


def export_notes(
    answer: Answer, form: str, *, fps: float | Fraction | None = None, start_timecode: str | None = None
) -> list[str]:
    """List the differences between the file that `write_as` writes and the answer."""
    chosen = FORMATS[form]
    notes = chosen.notes(answer, fps, start_timecode) if chosen.counts_frames else chosen.notes(answer)
    if chosen.is_for_players and answer.player_offset:
        late = (
            f"times are {answer.player_offset:.3f} s later than in the answer: players count from the start of the file"
        )
        return [late, *notes]
    return notes
