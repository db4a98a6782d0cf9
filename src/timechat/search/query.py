"""Words or a picture → moments of the videos of a library.

Two kinds of sources answer a query. Pictures: the segments of all videos choose some videos by evidence, and the curve
of the scores of all their frames gives the spans. Lines (speech, on-screen text, captions): the exact words by
full-text search, and the meaning by the cosines of sentence vectors. Moments of several sources at the same time are
one moment. A line with exactly the words of the query is always before all other moments.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import one_line
from timechat.files import is_below
from timechat.files.system import num_cores
from timechat.search.encoder import FloatArray, FrameTextEncoder, StoredVectors, sigmoid
from timechat.search.moments import NO_VIDEO, Moment, SearchResult, merge_moments
from timechat.search.records import KnownFile, Line
from timechat.search.spans import best_spans
from timechat.search.store import LibraryStore, storable
from timechat.search.video_vectors import FoundSpan, VideoVectors, find_spans

if TYPE_CHECKING:
    from timechat.search.minilm import MiniLM

DEFAULT_BEST = 5

_MIN_VIDEOS = 5  # videos of which all frames are scored
_SPANS_PER_VIDEO = 3  # minimum number of spans that are taken from each of these videos
_LINES_PER_MOMENT = 20  # lines with the words that are taken for each moment of the result
_MAX_LINES = 10_000
_ALL_WORDS_SCORE = 0.9  # of a line with all words of the query, but not in this order
_MEANING_SLOPE, _MEANING_MIDDLE = 20.0, 0.40  # cosine of two sentences -> probability that they mean the same
_NO_SPACES = re.compile(  # Thai to Myanmar, Khmer, kana, Han: scripts without spaces between words
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_EXACT_LINES_ONLY = "lines were searched for the exact words only: their sentence encoder knows English only"


@dataclass(frozen=True)
class SearchFilters:
    """Videos that a search takes into account.

    Attributes:
        paths: Files and folders; empty for all.
        name: Pattern of the file name, such as `IMG_*`.
        since: Earliest time of recording in seconds since 1970.
        until: Time in seconds since 1970 before which the video was recorded.
        min_seconds: Minimum duration in seconds.
        max_seconds: Maximum duration in seconds.
        only: Paths of the only files that may be in the result; None for all.
    """

    paths: tuple[str, ...] = ()
    name: str | None = None
    since: float | None = None
    until: float | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    only: frozenset[str] | None = None


EVERYTHING = SearchFilters()


class Searcher:
    """Answers queries about one library with one encoder.

    Args:
        library: Library whose frames have vectors of this encoder.
        encoder: Encoder of frames and queries.
    """

    def __init__(self, library: LibraryStore, encoder: FrameTextEncoder) -> None:
        self._library, self._encoder = library, encoder

    def search(self, words: str, *, best: int = DEFAULT_BEST, filters: SearchFilters = EVERYTHING) -> SearchResult:
        """Search for words.

        Args:
            words: Description of what to see, or words that are said or shown.
            best: Maximum number of moments.
            filters: Videos to search.

        Raises:
            ValueError: The words are blank.
        """
        words = one_line(storable(words))
        if not words:
            raise ValueError("the words to search for are empty; describe what to see or hear")
        files = self._files(filters)
        moments: list[Moment] = []
        if self._encoder.knows(words):
            sentence = self._encoder.encode_sentence(words)
            moments += self._from_pictures(
                lambda vectors: self._encoder.evidence(vectors, sentence),
                lambda frames, limit: find_spans(frames, self._encoder, sentence, limit=limit),
                files,
                best,
            )
        notes = list(self._encoder.notes(words))
        if len(self._library.line_vectors().ids):
            moments += self._from_lines(words, files, best)
            notes += [] if _sentence_encoder().knows(words) else [_EXACT_LINES_ONLY]
        return self._result(words, moments, files, best, self._encoder.found_threshold, notes)

    def search_like(
        self,
        picture: NDArray[np.uint8],
        name: str,
        *,
        best: int = DEFAULT_BEST,
        filters: SearchFilters = EVERYTHING,
    ) -> SearchResult:
        """Search for frames that look like a picture. The score is the mean cosine of the frames of a moment.

        Args:
            picture: `(height, width, 3)` RGB.
            name: Name of the picture for the result.
            best: Maximum number of moments.
            filters: Videos to search.
        """
        files = self._files(filters)
        encoder = self._encoder
        like = encoder.pictures(encoder.encode_frames(picture[None]))[0]

        def find(frames: VideoVectors, limit: int) -> list[FoundSpan]:
            cosines = encoder.pictures(frames.vectors.astype(np.float32)) @ like
            spans = best_spans(
                cosines, frames.times, frames.cuts, duration=frames.duration, cut_times=frames.cut_times, limit=limit
            )
            scores = [float(np.clip(cosines[slice(*span.frames)].mean(), 0, 1)) for span in spans]
            return [FoundSpan(span.start, span.end, score) for span, score in zip(spans, scores, strict=True)]

        moments = self._from_pictures(lambda vectors: encoder.pictures(vectors) @ like, find, files, best)
        # Frames of one shot differ by less than the distance of a cut.
        return self._result(name, moments, files, best, 1 - encoder.cut_distance, ())

    def _files(self, filters: SearchFilters) -> dict[int, KnownFile]:
        """Return the file of each video that the filters leave: one that is there, if there is one."""
        chosen: dict[int, KnownFile] = {}
        for file, video in self._library.entries():
            if not _is_wanted(file, filters):
                continue
            recorded = file.modified if video.created is None else video.created
            is_in_time = (filters.since is None or recorded >= filters.since) and (
                filters.until is None or recorded < filters.until
            )
            is_in_length = (filters.min_seconds is None or video.duration >= filters.min_seconds) and (
                filters.max_seconds is None or video.duration <= filters.max_seconds
            )
            if not (is_in_time and is_in_length):
                continue
            if video.id not in chosen or (chosen[video.id].is_offline and not file.is_offline):
                chosen[video.id] = file
        return chosen

    def _from_pictures(
        self,
        rank: Callable[[StoredVectors], FloatArray],
        find: Callable[[VideoVectors, int], list[FoundSpan]],
        files: dict[int, KnownFile],
        best: int,
    ) -> list[Moment]:
        """Return moments of the videos with the best segments.

        Args:
            rank: Function that gives each segment, `(segments, dimension)`, a number, `(segments,)`.
            find: Function that finds a number of moments in the frames of a video.
            files: File of each video that is searched.
            best: Maximum number of moments of the result.
        """
        segments = self._library.segments()
        if not len(segments.videos):
            return []
        limit = max(_SPANS_PER_VIDEO, best)  # all of the best moments may be in one video

        def moments_of(video: int) -> list[Moment]:
            frames = self._library.frames(video)
            return [] if frames is None else [_moment(files[video], span) for span in find(frames, limit)]

        videos = _best_videos(segments.videos, rank(segments.vectors), files, best)
        with ThreadPoolExecutor(num_cores()) as threads:
            return [moment for moments in threads.map(moments_of, videos) for moment in moments]

    def _from_lines(self, words: str, files: dict[int, KnownFile], best: int) -> list[Moment]:
        """Return moments of lines that match by their words or by their meaning."""
        exact, all_words = (
            self._first_lines(lines, files, best) for lines in (self._exact_lines(words), self._lines_with_all(words))
        )
        lines = {line.id: line for line in (*all_words, *exact)}
        scores = dict.fromkeys((line.id for line in all_words), _ALL_WORDS_SCORE)
        scores |= dict.fromkeys((line.id for line in exact), 1.0)
        for line, score in self._lines_like(words, files, best):
            lines[line.id], scores[line.id] = line, max(scores.get(line.id, 0.0), score)
        exact_ids = {line.id for line in exact}
        return [
            replace(_line_moment(files[line.video], line, scores[number]), is_exact=number in exact_ids)
            for number, line in lines.items()
        ]

    def _exact_lines(self, words: str) -> list[Line]:
        """Return the lines with the words in their order; without spaces, words can be part of a longer run."""
        terms = re.findall(r"\w+", words)
        lines = self._library.lines(matching=f'"{" ".join(terms)}"') if terms else []
        if _has_vowel_signs(words):
            wanted = _signed_words(words)
            lines = [line for line in lines if _has_run(_signed_words(line.event.caption), wanted)]
        if not lines or _NO_SPACES.search(words):
            lines += self._library.lines(containing=words)
        return list({line.id: line for line in lines}.values())

    def _lines_with_all(self, words: str) -> list[Line]:
        """Return the lines with all words in any order."""
        terms = re.findall(r"\w+", words)
        lines = self._library.lines(matching=" AND ".join(f'"{term}"' for term in terms)) if terms else []
        if _has_vowel_signs(words):
            wanted = set(_signed_words(words))
            lines = [line for line in lines if wanted <= set(_signed_words(line.event.caption))]
        return lines

    @staticmethod
    def _first_lines(lines: Iterable[Line], files: dict[int, KnownFile], best: int) -> list[Line]:
        """Return the lines of the searched videos that are first in the order of the result."""
        searched = (line for line in lines if line.video in files)
        ranked = sorted(searched, key=lambda line: (files[line.video].path, line.event.start))
        return ranked[: min(_MAX_LINES, _LINES_PER_MOMENT * best)]

    def _lines_like(self, words: str, files: dict[int, KnownFile], best: int) -> list[tuple[Line, float]]:
        """Return the lines with the most similar meaning, each with its probability.

        The sentence encoder gives all sentences without known words the same vector, so they are left out.
        """
        encoder = _sentence_encoder()
        if not encoder.knows(words):
            return []
        stored = self._library.line_vectors()
        cosines = stored.vectors @ encoder.encode([words])[0]
        is_searched = np.isin(stored.videos, list(files))
        rows = np.argsort(-np.where(is_searched, cosines, -2), kind="stable")
        rows = rows[: min(_MAX_LINES, _SPANS_PER_VIDEO * best, int(is_searched.sum()))]
        scores = sigmoid(_MEANING_SLOPE * (cosines[rows] - _MEANING_MIDDLE))
        by_id = dict(zip(stored.ids[rows].tolist(), scores.tolist(), strict=True))
        lines = self._library.lines(ids=list(by_id)) if by_id else []
        return [(line, by_id[line.id]) for line in lines if encoder.knows(line.event.caption)]

    def _result(
        self,
        query: str,
        moments: list[Moment],
        files: dict[int, KnownFile],
        best: int,
        threshold: float,
        notes: Iterable[str],
    ) -> SearchResult:
        videos = self._library.videos()
        by_path = {file.path: videos[number] for number, file in files.items() if number in videos}
        ranked = [
            replace(one, duration=by_path[one.video].duration, player_offset=by_path[one.video].player_offset)
            for one in merge_moments(moments, threshold)
            if one.video in by_path  # another process may have removed it
        ][:best]
        says = list(notes)
        if not files:
            says.append(NO_VIDEO)
        if outdated := self._library.num_outdated():
            says.append(
                f"videos with vectors of another encoder, which were not searched: {outdated}; index them again"
            )
        if any(moment.is_offline for moment in ranked):
            says.append("some of the videos are offline: their storage was not found at the last scan")
        library = None if self._library.path is None else str(self._library.path)
        return SearchResult(query, library, self._encoder.name, threshold, tuple(ranked), tuple(says))


def _sentence_encoder() -> MiniLM:
    from timechat.search.sight import load_sentence_encoder

    return load_sentence_encoder()


def _has_vowel_signs(text: str) -> bool:
    """Return whether words have signs, such as those of Hindi and Thai vowels, that SQLite takes as ends of words.

    To SQLite, `की` and `का` are the same word. It knows the diacritics of Latin letters, which are at U+0300.
    """
    composed = unicodedata.normalize("NFC", text)
    return any(unicodedata.category(sign) in ("Mn", "Mc") and not "\u0300" <= sign <= "\u036f" for sign in composed)


def _signed_words(text: str) -> list[str]:
    """Return the words of a text, with their signs, in lower case."""
    composed = unicodedata.normalize("NFC", text).casefold()
    return "".join(one if one.isalnum() or unicodedata.category(one)[0] == "M" else " " for one in composed).split()


def _has_run(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(words[first : first + len(wanted)] == wanted for first in range(len(words) - len(wanted) + 1))


def _best_videos(videos: NDArray[np.int64], evidence: FloatArray, files: dict[int, KnownFile], best: int) -> list[int]:
    """Return the videos with the best segments, the best first."""
    numbers, starts = np.unique(videos, return_index=True)  # the numbers of the videos are rising
    order = np.argsort(-np.maximum.reduceat(evidence, starts), kind="stable")
    return [video for video in numbers[order].tolist() if video in files][: max(_MIN_VIDEOS, best)]


def _is_wanted(file: KnownFile, filters: SearchFilters) -> bool:
    if filters.only is not None and file.path not in filters.only:
        return False
    path = Path(file.path)
    is_in_paths = not filters.paths or any(is_below(file.path, one) for one in filters.paths)
    return is_in_paths and (filters.name is None or fnmatch.fnmatch(path.name.lower(), filters.name.lower()))


def _moment(file: KnownFile, span: FoundSpan) -> Moment:
    return Moment(file.path, span.start, span.end, span.score, ("picture",), is_offline=file.is_offline)


def _line_moment(file: KnownFile, line: Line, score: float) -> Moment:
    event = line.event
    return Moment(
        file.path, event.start, event.end, score, (line.kind,), one_line(event.caption), is_offline=file.is_offline
    )
