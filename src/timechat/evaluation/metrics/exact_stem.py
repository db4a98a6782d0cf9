"""Approximation of METEOR 1.5 without Java: exact and stem matches only, on NLTK's Treebank tokens.

It has separate names (`meteor_exact_stem`) and never replaces METEOR: without synonyms and paraphrases it is slightly
lower.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from timechat.errors import missing_extra
from timechat.evaluation.metrics.java import DROPPED_TOKENS, NUM_STATISTICS, pycocoevalcap_file

_BEAM = 40  # beam size of partial alignments, as in the official aligner
# Tokens of the program's -norm: hyphens split words and are removed, don't is don 't, but 's alone is ' s.
_WORD = re.compile(r"-[lr][rc]b-|(?<=[^\W_])'[^\W_]+|[^\W_]+(?:[.,][^\W_]+)*|[^\w\s-]|_")
_STOP = re.compile(r"(?<=[^\W\d_]{3})\.(?=\s)")  # full stop of a sentence that is not the last one of the caption
_SIGN = re.compile(r"[°£€¥©®™]")
_DASH = re.compile(r"[–—]")
_MARKS = re.compile(r"[!?]{2,}")  # one token in Stanford's tokenizer, which keeps it
_HIDDEN = {ord("!"): "\ue000", ord("?"): "\ue001"}  # hidden from NLTK, which would split them
_Alignment = tuple[int, int, int, tuple[tuple[int, int, bool], ...]]
"""Negative number of matched words; chunks; distance; and matches: position in both sentences, and whether exact."""


def tokenize_treebank(captions: Sequence[str]) -> list[str]:
    """Tokenise captions in lower case without punctuation, as a close approximation of the official PTB tokenizer.

    It differs for consecutive punctuation marks and for some abbreviations.

    Raises:
        ModuleNotFoundError: NLTK is not installed.
    """
    tokenize = _nltk_tokenizer()
    return [" ".join(_kept(tokenize(_with_gaps(" ".join(caption.split()))))) for caption in captions]


def _with_gaps(caption: str) -> str:
    """Insert spaces where Stanford's tokenizer splits and NLTK's does not."""
    caption = _MARKS.sub(lambda run: f" {run[0].translate(_HIDDEN)} ", caption)
    return _DASH.sub(" -- ", _SIGN.sub(r" \g<0> ", _STOP.sub(" . ", caption)))


def _kept(tokens: Sequence[str]) -> list[str]:
    shown = [token.lower().replace("\ue000", "!").replace("\ue001", "?") for token in tokens]
    return [token for token in shown if token not in DROPPED_TOKENS]


class ExactStemCounter:
    """Statistics of pairs in the format of `MeteorProcess`; compared pairs are cached."""

    def __init__(self) -> None:
        self._stem = cache(_nltk_stemmer())
        self._function_words = _function_words()
        self._known: dict[tuple[str, str], NDArray[np.float64]] = {}

    def statistics(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Statistics of each (hypothesis, reference) pair: `(pairs, 23)`."""
        for pair in dict.fromkeys(pairs):
            if pair not in self._known:
                self._known[pair] = self._count(*(_WORD.findall(text) for text in pair))
        return np.array([self._known[pair] for pair in pairs]).reshape(-1, NUM_STATISTICS)

    def _count(self, hypothesis: Sequence[str], reference: Sequence[str]) -> NDArray[np.float64]:
        counts = np.zeros(NUM_STATISTICS)
        counts[0:2] = len(hypothesis), len(reference)
        counts[2:4] = [sum(word in self._function_words for word in words) for words in (hypothesis, reference)]
        matches = self._align(hypothesis, reference)
        for i, j, is_exact in matches:
            first = 4 if is_exact else 8
            counts[first + (2 if hypothesis[i] in self._function_words else 0)] += 1
            counts[first + (3 if reference[j] in self._function_words else 1)] += 1
        counts[20] = _num_chunks(matches)
        counts[21:23] = len(matches)
        return counts

    def _align(self, hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[tuple[int, int, bool], ...]:
        """The alignment with the most matches; then the fewest chunks, then the smallest distance."""
        stems = [self._stem(word) for word in reference]
        beam: list[_Alignment] = [(0, 0, 0, ())]
        for i, word in enumerate(hypothesis):
            stem = self._stem(word)
            places = [j for j in range(len(reference)) if reference[j] == word or stems[j] == stem]
            longer = [
                extended
                for alignment in beam
                for j in places
                if (extended := _extend(alignment, i, j, reference[j] == word)) is not None
            ]
            beam = sorted({*beam, *longer}, key=lambda alignment: alignment[:3])[:_BEAM]
        return beam[0][3]


def _extend(alignment: _Alignment, i: int, j: int, is_exact: bool) -> _Alignment | None:
    """An alignment with one more match; None if the reference word is already matched."""
    matched, chunks, distance, matches = alignment
    if any(match[1] == j for match in matches):
        return None
    goes_on = bool(matches) and matches[-1][:2] == (i - 1, j - 1)
    return matched - 1, chunks + (not goes_on), distance + abs(i - j), (*matches, (i, j, is_exact))


def _num_chunks(matches: Sequence[tuple[int, int, bool]]) -> int:
    places = [(i, j) for i, j, _ in matches]
    return sum(n == 0 or places[n - 1] != (i - 1, j - 1) for n, (i, j) in enumerate(places))


def _nltk_tokenizer() -> Callable[[str], Sequence[str]]:
    try:
        from nltk.tokenize import TreebankWordTokenizer
    except ModuleNotFoundError as error:
        raise _needs_nltk() from error
    tokenizer = TreebankWordTokenizer()
    return lambda caption: tokenizer.tokenize(caption, convert_parentheses=True)


def _nltk_stemmer() -> Callable[[str], str]:
    try:
        from nltk.stem.snowball import SnowballStemmer
    except ModuleNotFoundError as error:
        raise _needs_nltk() from error
    stem: Callable[[str], str] = SnowballStemmer("english").stem
    return stem


def _needs_nltk() -> ModuleNotFoundError:
    return missing_extra("captions are scored with nltk", "eval")


@cache
def _function_words() -> frozenset[str]:
    """English function words from the archive of the official program."""
    with zipfile.ZipFile(pycocoevalcap_file("meteor", "meteor-1.5.jar")) as archive:
        return frozenset(archive.read("function/english.words").decode("utf-8").split())
