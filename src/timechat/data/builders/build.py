"""Build the records of one source: read, check, ask, write."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from timechat.data.builders.annotation import Annotation, Dropped, ReadContext, Span, Split
from timechat.data.builders.checking import check_spans
from timechat.data.builders.report import BuildReport, Finding, Kind, SourceCounts
from timechat.data.builders.sources import BUILDERS, PUBLISHED
from timechat.data.builders.video_folder import VideoFolder
from timechat.data.builders.wordings import UNRECORDED, Wordings, load_wordings
from timechat.data.readers import as_messages
from timechat.data.records import Record, write_lines
from timechat.data.transcripts import find_transcript
from timechat.errors import DataError, VideoError
from timechat.speech import add_transcript, transcript_between
from timechat.video import probe_video

_SOURCE_TASKS = {
    "dense_caption_starts": "dense_caption",
    "highlights_without_query": "highlights",
}
"""Tasks of records whose questions have wordings of their own."""

_MOMENT_NOTE = 'every wording has the word "end"; queries with one time as the answer have a wording of this package'

Prepare = Callable[[Path], Path]
"""Function that gets the file of a video of a record, and returns the file that the record names."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How records are built.

    Attributes:
        wording: `original`, `timechat`, or the path of a file, see `load_wordings`.
        seed: Random seed of the draw of a wording.
        split: Split to read from a file that holds several.
        transcripts: Folder of transcripts `VIDEO.txt`; the speech is written before the questions. None writes none.
        reads_durations: Whether to read the length of a video where the annotations do not state it. Otherwise events
            of these videos are not compared with it.
        timeout: Maximum time to read the length of one video, in seconds.
    """

    wording: str = "original"
    seed: int = 0
    split: Split = "train"
    transcripts: Path | None = None
    reads_durations: bool = True
    timeout: float = 60.0


def build_file(
    source: str,
    annotations: str | Path,
    out: str | Path,
    *,
    videos: str | Path,
    options: BuildOptions | None = None,
    prepare: Prepare | None = None,
    progress: Callable[[int], None] | None = None,
) -> BuildReport:
    """Write the instruction records of one source; the file appears when it is complete.

    Args:
        source: Name of the source, a key of `BUILDERS`.
        annotations: File that the data set publishes, or the prepared file of the original; a folder for QuerYD, SumMe
            and transcripts of YT-Temporal.
        out: File of records to write, one per line.
        videos: Folder of the videos, with subfolders.
        options: Options; None takes the defaults.
        prepare: Function that is called once for every video of a record before the record is written.
        progress: Callback that gets the number of items read so far.

    Returns:
        Counts, and all that was dropped or changed.

    Raises:
        DataError: The annotations are missing or malformed, the videos are no folder, or no record is left; nothing is
            written.
    """
    if source not in BUILDERS:
        raise ValueError(f"the source must be one of {', '.join(BUILDERS)}, got {source!r}")
    options = options or BuildOptions()
    path = Path(annotations)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give the annotations of {source}")
    if Path(out).resolve() == path.resolve():
        raise ValueError(f"{out}: is the file of annotations; give another --out")
    folder = VideoFolder(videos)
    counts = SourceCounts(source, PUBLISHED.get(source))
    builder = _Builder(source, options, folder, counts, prepare)

    def rows() -> Iterator[dict[str, object]]:
        for number, item in enumerate(BUILDERS[source](path, ReadContext(folder, options.split))):
            record = builder.record(f"{source}:{number}", item)
            if record is not None:
                yield record.to_dict()
            if progress is not None:
                progress(number + 1)
        if not counts.kept:
            raise DataError(f"{path}: gives no record of {source}: {_nothing_kept(counts, folder)}")

    write_lines(Path(out), rows())
    return BuildReport((counts,), tuple(sorted(builder.notes)))


class _Builder:
    """Makes records of the annotations of one source, and counts."""

    def __init__(
        self,
        source: str,
        options: BuildOptions,
        folder: VideoFolder,
        counts: SourceCounts,
        prepare: Prepare | None,
    ) -> None:
        self._source, self._options, self._folder, self._counts = source, options, folder, counts
        self._prepare = prepare
        self._wordings: dict[str, Wordings] = {}
        self._durations: dict[Path, float | VideoError] = {}
        self._prepared: dict[Path, Path] = {}
        self.notes: set[str] = set()

    def record(self, name: str, item: Annotation | Dropped) -> Record | None:
        """Return the record of an item; None if it is dropped.

        Args:
            name: Id of the record.
            item: Item of the annotations.
        """
        self._counts.read += 1
        if isinstance(item, Dropped):
            self._note(name, item.video, item.reason)
            return None
        file = self._folder.find(item.video)
        if file is None:
            self._note(name, item.video, "missing video")
            return None
        duration = self._duration(file, item)
        if isinstance(duration, VideoError):
            self._note(name, item.video, "unreadable video", str(duration))
            return None
        part = item.part
        if part is not None and not 0 <= part[0] < part[1]:
            self._note(name, item.video, "invalid time", f"the part from {part[0]:g} to {part[1]:g} s")
            return None
        if part is not None and duration is not None:
            if part[0] >= duration:
                detail = f"{part[0]:g} - {part[1]:g} s, the video ends at {duration:g} s"
                self._note(name, item.video, "part outside the video", detail)
                return None
            part = (part[0], min(part[1], duration))
        length = duration if part is None else part[1] - part[0]
        spans = self._spans(name, item, length)
        if spans is None:
            return None
        turns = item.turns or ((self._question(item, spans), item.write(spans)),)
        video = self._prepared_file(file)
        self._counts.kept += 1
        self._counts.videos.add(str(video))
        return Record(
            id=name,
            video=str(video.absolute()),
            messages=as_messages(self._with_speech(turns, file, part)),
            start=None if part is None else part[0],
            end=None if part is None else part[1],
            clock="video" if part is None else "part",
            duration=duration,
            task=_SOURCE_TASKS.get(item.task, item.task),
            query=item.query,
            source=self._source,
        )

    def _note(self, name: str, video: str, reason: str, detail: str = "", kind: Kind = "record") -> None:
        self._counts.findings.append(Finding(kind, name, video, reason, detail))

    def _duration(self, file: Path, item: Annotation) -> float | VideoError | None:
        """Return the length of a video in seconds: of its annotation, else of the file; None if it is not read."""
        if item.duration is not None:
            return float(item.duration)
        if not self._options.reads_durations and item.spans_of is None:
            return None
        if file not in self._durations:
            try:
                self._durations[file] = probe_video(file, timeout=self._options.timeout).duration
            except VideoError as error:
                self._durations[file] = error
        return self._durations[file]

    def _spans(self, name: str, item: Annotation, length: float | None) -> tuple[Span, ...] | None:
        """Return the events that are left; None if the record is dropped."""
        if item.turns:
            return ()
        spans = item.spans
        if item.spans_of is not None:
            assert length is not None
            spans = item.spans_of(length)
        checked = list(check_spans(item, spans, length))
        kept = tuple(each.span for each in checked if each.span is not None)
        is_kept = bool(kept) or item.may_be_empty
        if not is_kept and len(checked) == 1:  # the record is its one event: it counts once, as a record
            self._note(name, item.video, checked[0].reason or "no event", checked[0].detail)
            return None
        for each in checked:
            if each.reason is not None:
                self._note(name, item.video, each.reason, each.detail, "event")
        if not is_kept:
            self._note(name, item.video, "no event")
            return None
        return kept

    def _question(self, item: Annotation, spans: tuple[Span, ...]) -> str:
        wording = self._options.wording
        if item.task not in self._wordings:
            self._wordings[item.task] = load_wordings(wording, task=item.task)
        if wording == "original" and item.task in UNRECORDED:
            self.notes.add(
                f"no wording of the original is recorded for {item.task}; the prompt of this package is used"
            )
        answer = item.write(spans)
        content = [self._source, item.video, item.task, item.query, item.part, answer]
        is_moment = item.task == "grounding" and item.has_moments and " - " not in answer
        if is_moment and not self._wordings[item.task].can_ask_moments(item.task):
            self.notes.add(_MOMENT_NOTE)
        return self._wordings[item.task].question(
            item.task,
            key=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            seed=self._options.seed,
            dataset=self._source.partition("/")[0],
            query=item.query,
            is_moment=is_moment,
        )

    def _with_speech(
        self, turns: tuple[tuple[str, str], ...], file: Path, part: tuple[float, float] | None
    ) -> tuple[tuple[str, str], ...]:
        """Write the speech of the video, or of the part, before the first question."""
        if self._options.transcripts is None:
            return turns
        speech = find_transcript(self._options.transcripts, file.name)
        if part is not None:
            speech = transcript_between(speech, *part)
        return ((add_transcript(turns[0][0], speech), turns[0][1]), *turns[1:])

    def _prepared_file(self, file: Path) -> Path:
        if self._prepare is None:
            return file
        if file not in self._prepared:
            self._prepared[file] = self._prepare(file)
        return self._prepared[file]


def _nothing_kept(counts: SourceCounts, folder: VideoFolder) -> str:
    """Say why no record is left."""
    if not counts.read:
        return "it holds no item"
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.count("record").items())
    missing = f" (looked in {folder.path})" if "missing video" in counts.count("record") else ""
    return f"all {counts.read} items are dropped: {reasons}{missing}"
