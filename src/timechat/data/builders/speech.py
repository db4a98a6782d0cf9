"""Speech of videos as an answer: YT-Temporal, from transcripts or from the published annotations."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from timechat.answers.events import Event
from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    as_list,
    as_number,
    as_object,
    as_text,
    paired,
    read_rows,
)
from timechat.data.builders.answers import write_speech
from timechat.data.transcripts import find_transcript
from timechat.errors import located
from timechat.speech import clean_transcript, thin_transcript

_LONGEST_LINE = 10.0  # seconds
_PAUSE = 1.0  # seconds between words that end a line
_WORD_SECONDS = 0.5  # longest length of a word of which only the start is known
_SENTENCE_ENDS = (".", "?", "!")
_ID_KEYS = ("id", "video_id", "display_id", "vid", "video")


def read_yttemporal(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:
    """Read a folder of transcripts `VIDEO.txt`, or the published lines of YT-Temporal (`.jsonl`, `.jsonl.gz`).

    With a folder, every video of the video folder gives a record, also one without speech, as in the original. A
    published line holds the words of a video and their times: `subtitles` with `{"word", "time"}` (180M), or
    `subtitles` with `subtitles_t_start` and `subtitles_t_end` (1B). Words become lines, which end with a sentence, at a
    pause of a second, or after ten seconds.
    """
    if path.is_dir():
        for file in context.videos:
            yield _annotation(file.name, find_transcript(path, file.name))
        return
    for location, item in read_rows(path):
        with located(location):
            info = as_object(item.get("info", item))
            video = next((each[key] for each in (item, info) for key in _ID_KEYS if each.get(key)), None)
            if video is None:
                raise ValueError(f"needs one of the keys {', '.join(_ID_KEYS)}")
            words = _words(item)
            if not words:
                yield Dropped(as_text(video), "no annotation")
                continue
            yield _annotation(as_text(video), clean_transcript(lines_of_words(words)), info.get("duration"))


def lines_of_words(words: Sequence[tuple[float, float, str]]) -> tuple[Event, ...]:
    """Join words with times, `(start, end, word)` in seconds, to lines."""
    lines: list[Event] = []
    group: list[tuple[float, float, str]] = []
    for number, word in enumerate(words):
        group.append(word)
        following = words[number + 1] if number + 1 < len(words) else None
        if (
            following is None
            or word[2].endswith(_SENTENCE_ENDS)
            or following[0] - word[1] >= _PAUSE
            or following[0] - group[0][0] >= _LONGEST_LINE
        ):
            end = max(group[0][0], word[1])
            lines.append(Event(group[0][0], end, " ".join(each[2].strip() for each in group)))
            group = []
    return tuple(lines)


def _annotation(video: str, speech: Sequence[Event], duration: float | None = None) -> Annotation:
    """Return the annotation of a video; the selected lines begin with line 1, as in the original."""
    spans = tuple(Span(start, end, text) for start, end, text in thin_transcript(speech, first=1))
    return Annotation(
        video=video,
        task="transcribe",
        spans=spans,
        write=write_speech,
        duration=duration,
        has_moments=True,
        may_be_empty=True,
    )


def _words(item: Mapping[str, Any]) -> list[tuple[float, float, str]]:
    """Return the words of a published line with their times."""
    subtitles = item["subtitles"]
    if "subtitles_t_start" in item:
        words = subtitles.split() if isinstance(subtitles, str) else as_list(subtitles)
        texts = [as_text(each) for each in words]
        starts, ends = ([_time(time) for time in as_list(item[f"subtitles_t_{name}"])] for name in ("start", "end"))
    else:
        objects = [as_object(each) for each in as_list(subtitles)]
        texts = [as_text(each["word"]) for each in objects]
        starts = [_time(each["time"]) for each in objects]
        ends = [min(after, start + _WORD_SECONDS) for start, after in pairwise(starts)]
        ends += [start + _WORD_SECONDS for start in starts[-1:]]
    spans = paired(starts, ends, "starts", "ends")
    return [(start, max(start, end), text) for (start, end), text in paired(spans, texts, "times", "words")]


def _time(value: Any) -> float:
    seconds = float(as_number(value))
    if not seconds >= 0:
        raise ValueError(f"a time must be seconds, at least 0, got {value!r}")
    return seconds
