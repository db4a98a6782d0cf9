"""What is wrong with a set of records before anything is trained on it."""

import difflib
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timechat.data.records import Record
from timechat.data.settings import SampleSettings, conversation, read_frames
from timechat.data.threads import ThreadLocalCopies, ordered_map
from timechat.errors import VideoError
from timechat.model.processing import IGNORED_LABEL, TimeChatProcessor
from timechat.video import probe_video

IssueKind = Literal["missing", "damaged", "degraded", "short", "late_event", "truncated", "shortened", "unknown_key"]

MEANINGS: dict[IssueKind, str] = {
    "missing": "the video's file is not there",
    "damaged": "the video cannot be read",
    "degraded": "some of the video's frames are damaged",
    "short": "the video has fewer frames than are looked at",
    "late_event": "an event begins after the video's end",
    "truncated": "the whole answer is cut off: the record is passed over in training",
    "shortened": "a part of the answer is cut off",
    "unknown_key": "a key is spelt nearly like one that is known",
}
_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_OPTIONAL_KEYS = ("start", "end", "clock", "duration", "task", "query", "source", "events", "transcript", "id")
_END_SLACK = 1.0  # seconds by which annotations may pass a video's end: containers round, annotators too


@dataclass(frozen=True, slots=True)
class Issue:
    """Something to know of one record.

    Attributes:
        kind: A key of `MEANINGS`.
        record: Its id.
        video: Path of its video.
        detail: In words.
    """

    kind: IssueKind
    record: str
    video: str
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """What was found in a set of records.

    Attributes:
        records: How many there are.
        videos: How many videos, or parts of videos, they are about.
        findings: What is wrong, in the order of the records.
        token_quantiles: Quantile → tokens of a conversation before it is cut; empty without a processor or videos.
    """

    records: int
    videos: int
    findings: tuple[Issue, ...]
    token_quantiles: dict[float, int]

    @property
    def counts(self) -> dict[IssueKind, int]:
        """Findings of each kind that was found."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in MEANINGS if found[kind]}

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "records": self.records,
            "videos": self.videos,
            "counts": self.counts,
            "token_quantiles": {f"{quantile:g}": tokens for quantile, tokens in self.token_quantiles.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class _SampledFrames:
    """What is known of one part of a video.

    Attributes:
        timestamps: `(frames,)` seconds of the frames that training would look at; estimated unless decoded.
        duration: Seconds, on the clock of the record.
        notes: Damage.
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
    """Look at every record, and at every video once.

    Args:
        records: What is to be checked.
        settings: How they would be trained on.
        processor: Counts tokens; None counts none.
        decodes: Read the frames that training would read, instead of header and first picture alone. Damage further
            on is found, times are exact, and it takes as long as reading the videos once.
        workers: Threads.
        progress: Called with the videos that are done and all there are.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault((record.video, record.start, record.end, record.clock), []).append(index)
    found: dict[int, list[Issue]] = {}
    lengths: list[int] = []

    processors = ThreadLocalCopies(processor)

    def examine(indices: list[int]) -> list[tuple[list[Issue], int | None]]:
        look = _sample_frames(records[indices[0]], settings, decodes=decodes, processor=processor)
        return [_examine(records[index], look, settings, processors.get()) for index in indices]

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
    """Look at the part of a video that a record is about."""
    try:
        if decodes:
            size = 224 if processor is None else processor.config.vision_config.image_size
            frames = read_frames(record, settings, size=size)
            return _SampledFrames(frames.timestamps, frames.duration, frames.notes)
        info = probe_video(record.video, timeout=settings.timeout)
    except VideoError as error:
        return error
    begin = min(record.start or 0.0, info.duration)
    end = info.duration if record.end is None else min(record.end, info.duration)
    if begin >= end:
        return VideoError(
            f"{record.video}: nothing is shown from {begin:g} s on; the video ends at {info.duration:g} s"
        )
    available = None
    if info.num_frames is not None:
        available = max(1, round(info.num_frames * (end - begin) / info.duration))
    times = begin + _even_times(end - begin, available, settings)
    if record.clock == "part":
        return _SampledFrames(times - begin, end - begin)
    return _SampledFrames(times, info.duration)


def _even_times(seconds: float, available: int | None, settings: SampleSettings) -> NDArray[np.float64]:
    """Times at which frames would be taken, `(frames,)`, if the video's frames follow each other evenly."""
    num_frames = settings.num_frames
    if settings.fps is not None:
        num_frames = max(1, math.ceil(seconds * settings.fps - 1e-6))
        num_frames = min(num_frames, settings.max_frames or num_frames)
    num_frames = min(num_frames, available or num_frames)
    return np.linspace(0.0, seconds, num_frames, endpoint=False)


def _examine(
    record: Record, look: _SampledFrames | VideoError, settings: SampleSettings, processor: TimeChatProcessor | None
) -> tuple[list[Issue], int | None]:
    """Return what is wrong with one record, and how many tokens it has."""
    findings: list[Issue] = []

    def note(kind: IssueKind, detail: str) -> None:
        findings.append(Issue(kind, record.id, record.video, detail))

    for key in record.extra:
        if close := difflib.get_close_matches(key, _OPTIONAL_KEYS, n=1, cutoff=0.75):
            note("unknown_key", f"{key!r} means nothing; is {close[0]!r} meant?")
    if isinstance(look, VideoError):
        is_there = "://" in record.video or Path(record.video).exists()
        note("damaged" if is_there else "missing", str(look))
        return findings, None
    for damage in look.notes:
        note("degraded", damage)
    if settings.fps is None and len(look.timestamps) < settings.num_frames and not look.notes:
        note("short", f"has {len(look.timestamps)} frames, {settings.num_frames} are looked at")
    if late := [event for event in record.events if event.start > look.duration + _END_SLACK]:
        note("late_event", f"an event starts at {late[0].start:g} s, the video ends at {look.duration:g} s")
    if processor is None:
        return findings, None
    length, kept = _count_tokens(record, look, settings, processor)
    if not kept:
        note("truncated", f"of {length} tokens, the first {settings.max_length} hold none of the answer")
    elif length > settings.max_length:
        note("shortened", f"{length} tokens are cut to {settings.max_length}")
    return findings, length


def _count_tokens(
    record: Record, look: _SampledFrames, settings: SampleSettings, processor: TimeChatProcessor
) -> tuple[int, int]:
    """Tokens of the whole conversation, and those of the answers that are left after cutting."""
    input_ids, labels = processor.encode_training(
        look.timestamps,
        conversation(record, transcripts=settings.transcripts),
        max_length=sys.maxsize,
        system=settings.system,
    )
    return len(input_ids), sum(label != IGNORED_LABEL for label in labels[: settings.max_length])
