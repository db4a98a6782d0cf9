"""Drop what a speech recogniser writes where nothing is said: over silence, music and noise.

Whisper was trained on the subtitles of web videos, so it fills sounds without speech with what such subtitles often
hold. The thresholds of probability and compression are those of Whisper's own decoding (Radford et al. 2022, section
4.5, and the defaults of `openai-whisper` and `faster-whisper`), which retries with a higher temperature where this
module drops. The shortest and longest time of a word, 0.133 s and 2 s, are those of the anomaly score of
`openai-whisper` (`hallucination_silence_threshold`). Credits and sign-offs are those that users of `openai-whisper`
report, see also Barański et al. 2025, "Investigation of Whisper ASR Hallucinations Induced by Non-Speech Audio". The
other constants are choices of this project.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from timechat.answers.events import Event
from timechat.speech.prompt import spoken_words

_MIN_LOGPROB = -1.0  # Whisper's `logprob_threshold`
_MAX_NO_SPEECH = 0.6  # Whisper's `no_speech_threshold`
_MAX_COMPRESSION = 2.4  # Whisper's `compression_ratio_threshold`
_WEAK_LOGPROB = -0.7

_SHORTEST_WORD, _LONGEST_WORD = 0.133, 2.0  # seconds
_SPARE_WORDS = 3  # words of a line that may be faster: recognisers give the last words of a window too little time
_SPARE_SECONDS = 4.0  # seconds of a line that may be pauses

_WINDOW = 30.0  # seconds; Whisper's window
_AT_WINDOW = 0.02  # seconds; Whisper's unit of time
_FEW_WORDS = 6
_ALONE_SECONDS = 30.0
_RECENT_LINES = 4
_MIN_REPEATED_WORDS = 3  # people say "no" three times

_CREDITS = re.compile(
    r"amara\.org|castingwords|dimatorzok|opensubtitles"
    r"|^(?:subtitles|captions|captioning|transcribed|transcription) by\b"
    r"|^(?:untertitel|untertitelung)\b.*\b(?:von|des|der|im auftrag|zdf|ard|wdr|ndr|swr)\b|^sous-titr(?:es|age)\b"
    r"|^субтитры\b|^редактор субтитров\b|^legendas? (?:pela|por)\b|^subt[ií]tulos (?:por|realizados)\b"
    r"|^sottotitoli (?:creati|e revisione|a cura)\b|^ondertitel(?:s|ing)\b|^napisy\b|^altyazı\b|^字幕|^請不吝|^请不吝"
)
_MOST_WORDS_OF_CREDITS = 12
_SIGN_OFF = re.compile(
    r"(?:and )?(?:thank you|thanks)(?: (?:so|very) much)?(?: (?:all|everyone|guys))?"
    r"(?: for (?:watching|listening|viewing))?(?: (?:this|the|my|our) video)?"
    r"|(?:please )?(?:like and )?subscribe(?: to (?:my|our|the) channel)?|(?:bye[ -]?)+"
    r"|(?:i ll )?see you (?:in the )?(?:next (?:time|video)|later|soon)|you|the end|music|applause|silence"
    r"|vielen dank(?: fürs zuschauen)?|danke fürs zuschauen|merci d avoir regardé(?: cette vidéo)?"
    r"|gracias por ver(?: el v[ií]deo)?|obrigad[oa] por assistir|grazie per la visione"
    r"|спасибо за (?:просмотр|внимание)|продолжение следует|ご視聴ありがとうございました|ありがとうございました"
    r"|(?:谢谢|謝謝)(?:大家|观看|觀看)*|(?:시청해주셔서 )?감사합니다"
)


@dataclass(frozen=True, slots=True)
class RecognizedLine:
    """A line of recognised speech, with what the recogniser knows about it.

    Attributes:
        event: Line on the clock of the video, cut to the audio.
        start: Start in seconds on the clock of the recogniser.
        end: End in seconds on the clock of the recogniser.
        avg_logprob: Average log-probability of the tokens of its window.
        no_speech_prob: Probability that its window holds no speech.
        compression_ratio: Number of bytes of the text of its window, divided by their number when compressed.
    """

    event: Event
    start: float
    end: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float

    @property
    def is_weak(self) -> bool:
        """Whether the recogniser is not sure that something was said."""
        return self.no_speech_prob > _MAX_NO_SPEECH or self.avg_logprob < _WEAK_LOGPROB

    @property
    def is_at_window(self) -> bool:
        """Whether a line fills whole windows, or is short and starts or ends where a window does."""
        starts, ends = (abs(time - _WINDOW * round(time / _WINDOW)) <= _AT_WINDOW for time in (self.start, self.end))
        if starts and ends:
            return self.end > self.start + _AT_WINDOW
        is_first = self.start < _WINDOW / 2  # most recordings begin with speech
        return (ends or (starts and not is_first)) and spoken_words(self.event.caption) <= _FEW_WORDS

    @property
    def is_sign_off(self) -> bool:
        """Whether the line is one that ends many web videos, or names a sound."""
        return _SIGN_OFF.fullmatch(_normalized(self.event.caption)) is not None


def plausible_lines(lines: Sequence[RecognizedLine]) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """Return the lines that were probably said, and a note on the others, if there are any.

    Args:
        lines: Recognised lines in order of time.
    """
    dropped: Counter[str] = Counter()
    heard: list[RecognizedLine] = []
    recent: deque[str] = deque(maxlen=_RECENT_LINES)
    for line in lines:
        words = _normalized(line.event.caption)
        reason = _flaw(line) or _repetition(line, words, recent)
        recent.append(words)
        if reason is None:
            heard.append(line)
        else:
            dropped[reason] += 1
    speech = [line for line in heard if not line.is_sign_off]
    kept = []
    for line in heard:
        reason = _weakness(line, speech)
        if reason is None:
            kept.append(line.event)
        else:
            dropped[reason] += 1
    if not dropped:
        return tuple(kept), ()
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    count = f"{dropped.total()} of {len(lines)} ({reasons})"
    return tuple(kept), (f"recognized lines that were probably not said, left out: {count}",)


def _flaw(line: RecognizedLine) -> str | None:
    """Return why a line was not said, whatever is around it; None if it may have been said."""
    caption = line.event.caption
    words, seconds = spoken_words(caption), line.end - line.start
    if not _normalized(caption):
        return "without words"
    if line.no_speech_prob > _MAX_NO_SPEECH and line.avg_logprob < _WEAK_LOGPROB:
        return "without a voice"
    if line.avg_logprob < _MIN_LOGPROB:
        return "with a low probability"
    if _compression_ratio(caption) > _MAX_COMPRESSION:
        return "that repeat themselves"
    if seconds > _SPARE_SECONDS + _LONGEST_WORD * words:
        return "too long for the words"
    if words > _SPARE_WORDS + seconds / _SHORTEST_WORD:
        return "too short for the words"
    is_credit = words <= _MOST_WORDS_OF_CREDITS and _CREDITS.search(_normalized(caption))
    return "of credits of subtitles" if is_credit else None


def _repetition(line: RecognizedLine, words: str, recent: Sequence[str]) -> str | None:
    """Return that a line repeats others: in a window that repeats itself, or the third equal one in a row."""
    is_loop = line.compression_ratio > _MAX_COMPRESSION and words in recent
    is_third = list(recent)[-2:] == [words, words] and spoken_words(words) >= _MIN_REPEATED_WORDS
    return "that repeat others" if is_loop or is_third else None


def _weakness(line: RecognizedLine, speech: Sequence[RecognizedLine]) -> str | None:
    """Return why a line with weak evidence was not said: at the edge of a window, or a sign-off that ends nothing."""
    if line.is_weak and line.is_at_window:
        return "at the edge of a window"
    if line.is_sign_off and (line.is_weak or all(_gap(line.event, other.event) > _ALONE_SECONDS for other in speech)):
        return "of sign-offs without other speech"
    return None


def _gap(a: Event, b: Event) -> float:
    """Seconds between two lines; negative if they overlap."""
    return max(a.start - b.end, b.start - a.end)


def _normalized(text: str) -> str:
    """Return a text in lower case, without punctuation around its words."""
    return " ".join(re.sub(r"[^\w\s.-]|(?<!\w)[.-]+|[.-]+(?!\w)", " ", text.lower()).split())


def _compression_ratio(text: str) -> float:
    content = text.encode()
    return len(content) / len(zlib.compress(content))
