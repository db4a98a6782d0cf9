"""Check a set of records before training: videos, events and lengths."""

import difflib
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timechat.answers.prompts import CHAT_MARKS
from timechat.data.records import Record
from timechat.data.settings import SampleSettings, check_max_length, conversation, read_frames
from timechat.data.threads import ThreadLocalCopies, ordered_map
from timechat.errors import VideoError
from timechat.model.processing import TimeChatProcessor
from timechat.model.training_text import IGNORED_LABEL
from timechat.video import FrameSize, probe_video

IssueKind = Literal[
    "missing",
    "damaged",
    "degraded",
    "short",
    "late_event",
    "long_event",
    "reversed_event",
    "empty",
    "mark",
    "system_turn",
    "truncated",
    "shortened",
    "unknown_key",
]

MEANINGS: dict[IssueKind, str] = {
    "missing": "the video file does not exist",
    "damaged": "the video cannot be read",
    "degraded": "some frames of the video are damaged",
    "short": "the video has fewer frames than the number of sampled frames",
    "late_event": "an event starts after the end of the video",
    "long_event": "an event ends more than a second after the end of the video",
    "reversed_event": "an answer names an event that ends before it starts",
    "empty": "a question or an answer is empty; training skips a record with an empty answer",
    "mark": "a text contains a special mark of the chat format or of another toolkit; training reads it as text",
    "system_turn": "a system turn is not used; every record is trained with the one system prompt of the model",
    "truncated": "the whole answer is beyond the maximum length; training skips the record",
    "shortened": "a part of the answer is beyond the maximum length",
    "unknown_key": "an unknown key is similar to a known one",
}
_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_OPTIONAL_KEYS = ("start", "end", "clock", "duration", "task", "query", "source", "events", "transcript", "system")
_END_SLACK = 1.0  # seconds that annotations may exceed the end of a video, because of rounding
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")
_OTHER_MARK = re.compile(r"<\|\w+\|>")  # as in the chat formats of newer language models
_VIDEO_PLACES = ("<video>", "<image>")  # in an answer they are words


@dataclass(frozen=True, slots=True)
class Issue:
    """A finding about one record.

    Attributes:
        kind: Kind of finding, a key of `MEANINGS`.
        record: Id of the record.
        video: Path of its video.
        detail: Description of the finding.
    """

    kind: IssueKind
    record: str
    video: str
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """Result of checking a set of records.

    Attributes:
        records: Number of records.
        videos: Number of different videos, or parts of videos.
        findings: Findings in the order of the records.
        token_quantiles: Number of tokens of a conversation before truncation, by quantile; empty without a processor
            or videos.
    """

    records: int
    videos: int
    findings: tuple[Issue, ...]
    token_quantiles: dict[float, int]

    @property
    def counts(self) -> dict[IssueKind, int]:
        """Number of findings of each kind with findings."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in MEANINGS if found[kind]}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "records": self.records,
            "videos": self.videos,
            "counts": self.counts,
            "token_quantiles": {f"{quantile:g}": tokens for quantile, tokens in self.token_quantiles.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class _SampledFrames:
    """Frames of one part of a video.

    Attributes:
        timestamps: Times `(frames,)` in seconds of the frames that training would read; estimated if not decoded.
        duration: Length in seconds, on the clock of the record.
        notes: Descriptions of damage.
    """

    timestamps: NDArray[np.float64]
    duration: float
    notes: tuple[str, ...] = ()


def check_records(
    records: Sequence[Record],
    settings: SampleSettings,
    *,
    processor: TimeChatProcessor | None = None,
    decodes: bool = False,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check every record, and read every video once.

    Args:
        records: Records to check.
        settings: Settings of the training.
        processor: Processor that counts tokens; None does not count them.
        decodes: Whether to decode the frames that training would read, instead of header and first frame only. This
            finds all damage and exact times, and takes as long as reading the videos once.
        workers: Number of threads.
        progress: Callback that gets the number of checked videos and the number of all videos.

    Raises:
        ValueError: `max_length` is more than the language model reads.
    """
    if processor is not None:
        check_max_length(settings, processor)
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault((record.video, record.start, record.end, record.clock), []).append(index)
    found: dict[int, list[Issue]] = {}
    lengths: list[int] = []

    processors = ThreadLocalCopies(processor)

    def examine(indices: list[int]) -> list[tuple[list[Issue], int | None]]:
        sampled = _sample_frames(records[indices[0]], settings, decodes=decodes, processor=processor)
        return [_examine(records[index], sampled, settings, processors.get()) for index in indices]

    for done, (indices, results) in enumerate(ordered_map(groups.values(), examine, workers=workers), 1):
        for index, (findings, length) in zip(indices, results, strict=True):
            found[index] = findings
            lengths += [] if length is None else [length]
        if progress is not None:
            progress(done, len(groups))
    quantiles = np.quantile(lengths, _QUANTILES, method="higher").tolist() if lengths else []
    return CheckReport(
        records=len(records),
        videos=len(groups),
        findings=tuple(finding for index in sorted(found) for finding in found[index]),
        token_quantiles=dict(zip(_QUANTILES, map(int, quantiles), strict=False)),
    )


def _sample_frames(
    record: Record, settings: SampleSettings, *, decodes: bool, processor: TimeChatProcessor | None
) -> _SampledFrames | VideoError:
    """Return the frames of the part of a video that a record is about."""
    try:
        if decodes:
            size = FrameSize(224, 224) if processor is None else processor.config.frame_size
            frames = read_frames(record, settings, size=size)
            return _SampledFrames(frames.timestamps, frames.duration, frames.notes)
        info = probe_video(record.video, timeout=settings.timeout)
    except VideoError as error:
        return error
    if record.is_image:
        return _SampledFrames(np.zeros(1), info.duration)
    begin = min(record.start or 0.0, info.duration)
    end = info.duration if record.end is None else min(record.end, info.duration)
    if begin >= end:
        return VideoError(
            f"{record.video}: there is no frame from {begin:g} s on; the video ends at {info.duration:g} s"
        )
    available = None
    if info.num_frames is not None:
        available = max(1, round(info.num_frames * (end - begin) / info.duration))
    times = begin + _even_times(end - begin, available, settings)
    if record.clock == "part":
        return _SampledFrames(times - begin, end - begin)
    return _SampledFrames(times, info.duration)


def _even_times(seconds: float, available: int | None, settings: SampleSettings) -> NDArray[np.float64]:
    """Return the times `(frames,)` of the sampled frames, for a video with a constant frame rate."""
    num_frames = settings.num_frames
    if settings.fps is not None:
        num_frames = max(1, math.ceil(seconds * settings.fps - 1e-6))
        num_frames = min(num_frames, settings.max_frames or num_frames)
    num_frames = min(num_frames, available or num_frames)
    return np.linspace(0.0, seconds, num_frames, endpoint=False)


def _examine(
    record: Record, sampled: _SampledFrames | VideoError, settings: SampleSettings, processor: TimeChatProcessor | None
) -> tuple[list[Issue], int | None]:
    """Return the findings about one record, and its number of tokens."""
    findings: list[Issue] = []

    def note(kind: IssueKind, detail: str) -> None:
        findings.append(Issue(kind, record.id, record.video, detail))

    for key in record.extra:
        if close := difflib.get_close_matches(key, _OPTIONAL_KEYS, n=1, cutoff=0.75):
            note("unknown_key", f"{key!r} is unknown; did you mean {close[0]!r}?")
    _examine_text(record, note)
    if isinstance(sampled, VideoError):
        exists = "://" in record.video or Path(record.video).exists()
        note("damaged" if exists else "missing", str(sampled))
        return findings, None
    for damage in sampled.notes:
        note("degraded", damage)
    is_short = settings.fps is None and len(sampled.timestamps) < settings.num_frames and not record.is_image
    if is_short and not sampled.notes:
        note("short", f"has {len(sampled.timestamps)} frames, fewer than {settings.num_frames}")
    limit = sampled.duration + _END_SLACK
    if late := [event for event in record.events if event.start > limit]:
        note("late_event", f"an event starts at {late[0].start:g} s, but the video ends at {sampled.duration:g} s")
    if long := [event for event in record.events if event.start <= limit < event.end]:
        note("long_event", f"an event ends at {long[0].end:g} s, but the video ends at {sampled.duration:g} s")
    if processor is None:
        return findings, None
    length, kept = _count_tokens(record, sampled, settings, processor)
    if not kept:
        note("truncated", f"the first {settings.max_length} of {length} tokens contain no part of the answer")
    elif length > settings.max_length:
        note("shortened", f"{length} tokens are truncated to {settings.max_length}")
    return findings, length


def _examine_text(record: Record, note: Callable[[IssueKind, str], None]) -> None:
    """Note what is wrong with the texts of a record, whatever its video is."""
    if record.system is not None:
        note("system_turn", f"the system turn {_excerpt(record.system)} is not used")
    for number, (question, answer) in enumerate(record.turns, 1):
        for name, text in (("question", question), ("answer", answer)):
            where = f"{name} {number}" if len(record.turns) > 1 else f"the {name}"
            if not text.strip():
                note("empty", f"{where} is empty")
            for mark in _marks(text, in_answer=name == "answer"):
                note("mark", f"{where} contains the mark {mark}")
        for start, end in _reversed_spans(answer, record):
            note("reversed_event", f"an event ends at {end:g} s, before its start at {start:g} s")


def _marks(text: str, *, in_answer: bool) -> list[str]:
    """Return the special marks in a text, each once."""
    marks = [mark for mark in CHAT_MARKS if mark in text]
    marks += [] if in_answer else [mark for mark in _VIDEO_PLACES if mark in text]
    return marks + sorted(set(_OTHER_MARK.findall(text)))


def _reversed_spans(answer: str, record: Record) -> list[tuple[float, float]]:
    """Return the spans of an answer that are written with their end first; the parser reads them in the right order."""
    times = [_seconds(match) for match in _TIME.finditer(answer)]
    written = Counter(pairwise(times))
    spans = Counter((event.start, event.end) for event in record.parsed_events)
    found = (
        span for span, count in spans.items() if span[0] < span[1] and written[span[::-1]] and written[span] < count
    )
    return sorted((end, start) for start, end in found)


def _seconds(match: re.Match[str]) -> float:
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _count_tokens(
    record: Record, sampled: _SampledFrames, settings: SampleSettings, processor: TimeChatProcessor
) -> tuple[int, int]:
    """Return the number of tokens of the conversation, and of the answers after truncation."""
    input_ids, labels = processor.encode_training(
        sampled.timestamps,
        conversation(record, transcripts=settings.transcripts),
        max_length=sys.maxsize,
        system=settings.system,
    )
    return len(input_ids), sum(label != IGNORED_LABEL for label in labels[: settings.max_length])
