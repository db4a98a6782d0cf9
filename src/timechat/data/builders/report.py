"""What was read, kept and dropped when records were built."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

REASONS = {
    "missing video": "the folder holds no file with the id of the video",
    "unreadable video": "the length of the video cannot be read",
    "other split": "the item belongs to another split; --split chooses it",
    "no annotation": "the annotations hold nothing for the video",
    "not relevant": "the annotators found the video not relevant to the query",
    "no clip": "the video has no part that shows the query",
    "more sentences than times": "the text of the video has more sentences than times, so it is not known which belong",
    "longer than 300 s": "the original leaves out longer videos of QuerYD",
    "part outside the video": "the part of the video starts after its end",
    "no event": "no event is left",
    "empty text": "a text is empty or of one character",
    "reversed event": "the event ends before it starts",
    "event without length": "the event ends where it starts",
    "event after the end": "the event starts after the end of the video, or of the part that the record is about",
    "invalid time": "a time is not a number of seconds",
    "clipped start": "the event starts before the video; its start is now 0",
    "clipped end": "the event ends more than a second after the video; its end is now that of the video",
}
"""Meaning of each reason for which a record or an event is dropped or changed."""

CHANGES = ("clipped start", "clipped end")
"""Reasons for which an event is changed and kept."""

Kind = Literal["record", "event"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A record or an event that was dropped or changed.

    Attributes:
        kind: Whether a whole record or one of its events is meant.
        record: Id of the record.
        video: Name of its video.
        reason: Reason, a key of `REASONS`.
        detail: Times and text of the event, or a message.
    """

    kind: Kind
    record: str
    video: str
    reason: str
    detail: str = ""


@dataclass
class SourceCounts:
    """Counts of one source.

    Attributes:
        source: Name of the source.
        published: Number of instructions that the original published, as text; None if it published none.
        read: Number of items that were read.
        kept: Number of records that were written.
        videos: Names of the videos of the records.
        findings: What was dropped or changed, in the order of the annotations.
    """

    source: str
    published: str | None = None
    read: int = 0
    kept: int = 0
    videos: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: Kind) -> dict[str, int]:
        """Return the number of findings about records, or about events, by reason."""
        found = Counter(finding.reason for finding in self.findings if finding.kind == kind)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        return {
            "source": self.source,
            "read": self.read,
            "kept": self.kept,
            "dropped": self.count("record"),
            "events": self.count("event"),
            "published": self.published,
        }


@dataclass(frozen=True)
class BuildReport:
    """Result of building or merging records.

    Attributes:
        sources: Counts of each source.
        notes: Plain sentences that a reader of the result should know.
    """

    sources: tuple[SourceCounts, ...]
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Number of records."""
        return sum(source.kept for source in self.sources)

    @property
    def videos(self) -> int:
        """Number of different videos."""
        return len(set().union(*(source.videos for source in self.sources)))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object, with all findings."""
        return {
            "records": self.kept,
            "videos": self.videos,
            "sources": [source.to_dict() for source in self.sources],
            "findings": [asdict(finding) for source in self.sources for finding in source.findings],
            "notes": list(self.notes),
        }

    def lines(self, *, shown: int) -> Iterator[str]:
        """Yield the report as lines: a table of the sources, then what was dropped or changed, by reason.

        Args:
            shown: Maximum number of findings that are named for each reason.
        """
        rows = [("source", "read", "kept", "dropped", "published")]
        for each in self.sources:
            dropped = sum(each.count("record").values())
            rows.append((each.source, str(each.read), str(each.kept), str(dropped), each.published or "-"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *numbers in rows:
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
            yield f"  {name.ljust(widths[0])}  {'  '.join(cells)}"
        for each in self.sources:
            yield from _finding_lines(each, "record", "dropped", shown)
            yield from _finding_lines(each, "event", "event", shown)


def _finding_lines(counts: SourceCounts, kind: Kind, word: str, shown: int) -> Iterator[str]:
    for reason, count in counts.count(kind).items():
        action = "" if kind == "record" else " changed" if reason in CHANGES else " dropped"
        yield f"  {counts.source}: {word}{action}, {reason}: {count} ({REASONS[reason]})"
        found = [each for each in counts.findings if each.kind == kind and each.reason == reason]
        for finding in found[:shown]:
            detail = f": {finding.detail}" if finding.detail else ""
            yield f"    {finding.record} {finding.video}{detail}"
        if count > shown:
            yield f"    and {count - shown} more; --json prints all"
