"""Subtitle tracks of a video: their lines, on the clock of its frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import av.container
import av.error
from av.packet import Packet
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from timechat.video.clock import LONGEST_PAUSE
from timechat.video.frames import VideoInfo
from timechat.video.index import read_index
from timechat.video.limits import reason
from timechat.video.scan import demux, has_decoder, may_jump, read_only
from timechat.video.source import VideoHandle

_TEXT_CODECS = frozenset({"subrip", "webvtt", "mov_text", "ass", "ssa", "text"})
_PARTIAL = Disposition.forced | Disposition.comment
_UNDEFINED = ("und", "")
_STEP_BACK = 0.5  # seconds; a longer step back of the lines is perhaps one of the file's clock
_LONGEST_LINE = Fraction(10)  # seconds; maximum length of a line whose end the file does not state
_MAX_CHARACTERS = 2**24  # of one track; a day of speech needs about a fifteenth of it


@dataclass(frozen=True)
class SubtitleTrack:
    """A subtitle track of a container.

    Attributes:
        index: Index of the stream in the container.
        codec: Name of the codec; None if the decoder library has no decoder.
        language: Language tag; None if the file states none.
        is_default: Whether the file marks it as the default of its kind.
        is_partial: Whether the file marks it as forced (lines in foreign languages only) or as a commentary.
    """

    index: int
    codec: str | None
    language: str | None
    is_default: bool
    is_partial: bool

    @property
    def is_text(self) -> bool:
        """Whether the track holds text that can be read, not pictures of it."""
        return self.codec in _TEXT_CODECS


@dataclass(frozen=True, slots=True)
class SubtitleLine:
    """What a subtitle track shows at one time.

    Attributes:
        start: Start in seconds on the video's clock; negative before the first frame.
        end: End in seconds on the video's clock.
        text: Text without the markup of ASS; its lines are separated by newlines.
    """

    start: float
    end: float
    text: str


def list_subtitle_tracks(handle: VideoHandle) -> list[SubtitleTrack]:
    """Return the subtitle tracks of a video, in the order of the container."""
    with handle.open() as container:
        return [_track(stream) for stream in container.streams.subtitles]


def read_subtitle_track(
    handle: VideoHandle, track: SubtitleTrack, info: VideoInfo
) -> tuple[list[SubtitleLine], tuple[str, ...]]:
    """Read the lines of a text track.

    Args:
        handle: Source of the video.
        track: Track of the video.
        info: Properties of the video.

    Returns:
        Lines in the order of the file, on the clock of the frames, and notes on what could not be read.

    Raises:
        VideoError: The source cannot be read, or not in time.
    """
    issues = _ReadIssues()
    with handle.open() as container:
        stream = next(each for each in container.streams.subtitles if each.index == track.index)
        cues = list(_with_ends(list(_decode(handle, container, stream, issues))))
    starts = _on_video_clock(handle, info, [cue.start for cue in cues])
    lines = [
        SubtitleLine(float(start), float(start + (cue.duration or 0)), cue.text)
        for start, cue in zip(starts, cues, strict=True)
        if cue.text
    ]
    return lines, issues.notes()


def _track(stream: SubtitleStream) -> SubtitleTrack:
    context, language = stream.codec_context, stream.metadata.get("language", "")
    return SubtitleTrack(
        index=stream.index,
        codec=context.codec.canonical_name if has_decoder(stream) else None,
        language=None if language in _UNDEFINED else language,
        is_default=bool(stream.disposition & Disposition.default),
        is_partial=bool(stream.disposition & _PARTIAL),
    )


@dataclass
class _ReadIssues:
    """Reading issues of one track."""

    damaged: int = 0
    stopped: str | None = None

    def notes(self) -> tuple[str, ...]:
        """Return notes on lines that are lost."""
        notes = [f"damaged lines of the subtitles left out: {self.damaged}"] if self.damaged else []
        return (*notes, *([f"reading the subtitles stopped early: {self.stopped}"] if self.stopped else []))


@dataclass(frozen=True, slots=True)
class _Cue:
    """Text with its container times in seconds; the duration is None if the file does not state it."""

    start: Fraction
    duration: Fraction | None
    text: str


def _decode(
    handle: VideoHandle, container: av.container.InputContainer, stream: SubtitleStream, issues: _ReadIssues
) -> Iterator[_Cue]:
    """Yield everything that the track shows; an empty text ends the one before."""
    read_only(container, stream)
    num_characters = 0
    try:
        for packet in demux(container, stream):
            handle.deadline.check()
            if not packet.size or packet.pts is None or packet.time_base is None:
                continue
            try:
                text = _text_of(packet, stream)
            except av.error.FFmpegError:
                issues.damaged += 1
                continue
            num_characters += len(text)
            if num_characters > _MAX_CHARACTERS:
                issues.stopped = f"they hold more than {_MAX_CHARACTERS} characters"
                return
            duration = packet.duration * packet.time_base if packet.duration else None
            yield _Cue(packet.pts * packet.time_base, duration, text)
    except (av.error.FFmpegError, OSError) as error:
        handle.check_answering(error)
        handle.deadline.check()
        issues.stopped = reason(error)


def _text_of(packet: Packet[SubtitleStream], stream: SubtitleStream) -> str:
    shown = stream.codec_context.decode2(packet) or ()
    texts = (_plain_text(part.ass.decode("utf-8", "replace")) for part in shown if isinstance(part, AssSubtitle))
    return "\n".join(text for text in texts if text)


_FIELDS_BEFORE_TEXT = 8  # ReadOrder, Layer, Style, Name, three margins, Effect
_OVERRIDES = re.compile(r"(?<!\\)\{([^}]*)\}")
_DRAWING = re.compile(r"\\p(\d+)")
_ESCAPES = {r"\N": "\n", r"\n": "\n", r"\h": " ", r"\{": "{", r"\}": "}"}
_ESCAPE = re.compile("|".join(map(re.escape, _ESCAPES)))


def _plain_text(event: str) -> str:
    """Return the text of an ASS event as FFmpeg's decoders write it, without override tags and drawings."""
    text = event.split(",", _FIELDS_BEFORE_TEXT)[-1]
    kept: list[str] = []
    is_drawing = False
    for number, part in enumerate(_OVERRIDES.split(text)):
        if number % 2:
            for scale in _DRAWING.findall(part):
                is_drawing = int(scale) > 0
        elif not is_drawing:
            kept.append(part)
    return _ESCAPE.sub(lambda found: _ESCAPES[found[0]], "".join(kept)).strip()


def _with_ends(cues: list[_Cue]) -> Iterator[_Cue]:
    """Let a text without a duration last until the next one, for some seconds at most."""
    for cue, following in pairwise([*cues, None]):
        assert cue is not None
        if cue.duration is None:
            gap = _LONGEST_LINE if following is None else following.start - cue.start
            cue = _Cue(cue.start, min(max(gap, Fraction(0)), _LONGEST_LINE), cue.text)
        yield cue


def _on_video_clock(handle: VideoHandle, info: VideoInfo, starts: list[Fraction]) -> list[Fraction]:
    """Convert container times, in the order of the file, to the clock of the frames.

    The clock of the frames is read only where the file's clock may have jumps, or where the lines have one.
    """
    has_jump = any(not -_STEP_BACK <= after - before <= LONGEST_PAUSE for before, after in pairwise(starts))
    if starts and (has_jump or may_jump(info.format)):
        follower = read_index(handle).packets.clock.follow()
        return [follower.place(start) for start in starts]
    zero = Fraction(info.start_time)
    return [start - zero for start in starts]
