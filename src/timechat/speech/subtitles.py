"""Subtitles of a video as its speech: files beside it, or tracks in its container."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from timechat.answers.events import Event
from timechat.errors import DataError
from timechat.files import without_scheme
from timechat.speech.languages import language_code
from timechat.speech.transcripts import Transcript, new_lines, plain_line, transcript_of_file
from timechat.video import VideoInfo, VideoSource
from timechat.video.loading import DEFAULT_TIMEOUT, probe_handle
from timechat.video.source import VideoHandle, open_source
from timechat.video.subtitle_tracks import SubtitleTrack, list_subtitle_tracks, read_subtitle_track

SUBTITLE_SUFFIXES = (".srt", ".vtt")
"""File name extensions of subtitles that are read beside a video."""

_Line = tuple[float, float, str]
"""Start and end in seconds on the clock of the frames, before they are cut, and text."""

_FLAGS = {"forced", "sdh", "cc", "default", "full"}
"""Words that players know in the names of subtitle files, beside the language."""


def find_subtitles(
    source: VideoSource,
    info: VideoInfo | None = None,
    *,
    language: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    may_read: Callable[[Path], bool] | None = None,
    check_caller: Callable[[], object] | None = None,
) -> Transcript | None:
    """Return the subtitles of a video on the clock of its frames.

    Files beside a video (`STEM.srt`, `STEM.vtt`, `STEM.LANGUAGE.srt`) come before tracks in its container. Among
    several, the wanted language comes first, then the file without a language or the default track, then the first.
    What holds only forced lines or a commentary comes last, and before that, another language than the wanted one. A
    source that cannot be read or holds no line gives a note, and the next one is tried.

    Args:
        source: Video in any form that `load_frames` takes; only a path has files beside it.
        info: Properties of the video, whose duration cuts the lines; None reads them from its header.
        language: Preferred language, such as `en` or `eng`.
        timeout: Maximum time for reading the video in seconds.
        may_read: Function that tells whether a file beside the video may be read; None allows all.
        check_caller: Function that is called during reading and raises if the caller has cancelled the request.

    Returns:
        Lines, cut to the time of the frames, and a note that names their source. A transcript without lines has notes
        on sources that could not be used. None if the video has no subtitles.

    Raises:
        VideoError: The video cannot be read, or not in time.
    """
    files = [each for each in _files_beside(source) if may_read is None or may_read(each.path)]
    if not files and info is not None and all(stream.kind != "subtitle" for stream in info.streams):
        return None
    notes: list[str] = []
    with open_source(source, timeout, check_caller) as handle:
        info = info or probe_handle(handle)
        tracks = list_subtitle_tracks(handle) if any(stream.kind == "subtitle" for stream in info.streams) else []
        candidates = [_of_file(each, info) for each in files]
        candidates += [_of_track(each, handle, info) for each in tracks if each.is_text]
        for candidate in sorted(candidates, key=partial(_rank, language_code(language))):
            try:
                lines, remarks = candidate.read()
            except DataError as error:
                notes.append(f"subtitles not used: {error}")
                continue
            kept = tuple(_within_frames(lines, info.duration))
            left_out = len(lines) - len(kept)
            if left_out:
                remarks = (*remarks, f"lines of the subtitles outside of the frames, left out: {left_out}")
            if kept:
                return Transcript(kept, (f"speech: {candidate.title}", *notes, *remarks))
            notes += [f"{candidate.title}: no line of speech", *remarks]
    notes += [
        f"subtitle track {track.index} ({track.codec or 'unknown'}) is not read: it is not text"
        for track in tracks
        if not track.is_text
    ]
    return Transcript((), tuple(notes)) if notes else None


@dataclass(frozen=True)
class _SubtitleFile:
    """A subtitle file beside a video; its language and flags stand between the stem and the suffix of its name."""

    path: Path
    language: str | None
    is_partial: bool


@dataclass(frozen=True)
class _Candidate:
    """A source of subtitles.

    Attributes:
        title: Words for notes.
        is_track: Whether it is a track of the container.
        language: Code of its language; None if it is not known.
        is_partial: Whether it has only some of the lines, or a commentary.
        is_default: Whether it is the default among the sources of its kind.
        read: Function that returns the lines and notes; raises `DataError`.
    """

    title: str
    is_track: bool
    language: str | None
    is_partial: bool
    is_default: bool
    read: Callable[[], tuple[list[_Line], tuple[str, ...]]]


def _rank(wanted: str | None, candidate: _Candidate) -> tuple[bool, ...]:
    """Return the place of a source among all; a wanted track comes before a file in another language."""
    is_other = wanted is not None and candidate.language not in (None, wanted)
    is_wanted = wanted is not None and candidate.language == wanted
    return candidate.is_partial, is_other, candidate.is_track, not is_wanted, not candidate.is_default


# -------------------------------------------------------------------------------------------------------- files


def _files_beside(source: VideoSource) -> list[_SubtitleFile]:
    """Return the subtitle files of a video, in the order of their names."""
    if isinstance(source, str) and "://" in source:
        source = without_scheme(source)
    if not isinstance(source, str | os.PathLike) or "://" in os.fspath(source):
        return []
    video = Path(source)
    try:
        with os.scandir(video.parent) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(video.stem))
    except OSError:
        return []
    files = (_subtitle_file(video, name) for name in names)
    return [each for each in files if each is not None and each.path.is_file()]


def _subtitle_file(video: Path, name: str) -> _SubtitleFile | None:
    path = video.with_name(name)
    between = path.stem.removeprefix(video.stem)
    if path.suffix.lower() not in SUBTITLE_SUFFIXES or (between and not between.startswith(".")):
        return None
    tags = [tag.lower() for tag in between.split(".")[1:]]
    languages = [code for tag in tags if tag not in _FLAGS and (code := language_code(tag)) is not None]
    if len(languages) + sum(tag in _FLAGS for tag in tags) < len(tags):
        return None
    return _SubtitleFile(path, languages[0] if languages else None, "forced" in tags)


def _of_file(file: _SubtitleFile, info: VideoInfo) -> _Candidate:
    """Return a file as a candidate; its times are those of players."""

    def read() -> tuple[list[_Line], tuple[str, ...]]:
        offset = info.player_offset
        try:
            found = transcript_of_file(file.path)
            return [(line.start - offset, line.end - offset, line.caption) for line in found.lines], found.notes
        except DataError as error:
            raise DataError(str(error).replace(str(file.path), file.path.name)) from error
        except OSError as error:
            raise DataError(f"{file.path.name}: {error.strerror or 'cannot be read'}") from error

    title = f"subtitles of {file.path.name}"
    return _Candidate(title, False, file.language, file.is_partial, file.language is None, read)


# ------------------------------------------------------------------------------------------------------- tracks


def _of_track(track: SubtitleTrack, handle: VideoHandle, info: VideoInfo) -> _Candidate:
    def read() -> tuple[list[_Line], tuple[str, ...]]:
        lines, notes = read_subtitle_track(handle, track, info)
        cues = (
            (line.start, line.end, [words for part in line.text.split("\n") if (words := plain_line(part))])
            for line in sorted(lines, key=lambda line: line.start)
        )
        return [(start, end, " ".join(words)) for start, end, words in new_lines(cues)], notes

    title = f"subtitle track {track.index}" + (f" ({track.language})" if track.language else "")
    return _Candidate(title, True, language_code(track.language), track.is_partial, track.is_default, read)


def _within_frames(lines: Sequence[_Line], duration: float) -> Iterator[Event]:
    """Yield the lines that are shown with frames, with their times cut."""
    for start, end, words in lines:
        if words and start < duration and (end > 0 or start >= 0):
            yield Event(round(max(start, 0.0), 6), round(min(max(end, start), duration), 6), words)
