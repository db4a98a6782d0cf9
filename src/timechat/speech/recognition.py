"""Speech recognition: the audio of a video → transcript, with faster-whisper and compatible models."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.answers.events import Event
from timechat.errors import CheckpointError, missing_extra
from timechat.speech.plausibility import RecognizedLine, plausible_lines
from timechat.speech.transcripts import NO_AUDIO, Transcript
from timechat.video import VideoSource, probe_video
from timechat.video.audio import AudioSegment, read_audio
from timechat.video.loading import DEFAULT_TIMEOUT

ProgressCallback = Callable[[str, int, int], None]
"""Callback with the stage (`"listen"`), the transcribed seconds and the total seconds."""

_PAUSE = 2.0  # seconds between words; faster-whisper leaves longer silences out before it recognises words
_WORDS_OF_A_LINE = 3  # fewer words after a pause stay with the words before it

_MODEL_FILES = ("model.bin", "config.json", "tokenizer.json")


def check_recognizer(model: str | os.PathLike[str]) -> None:
    """Check a recogniser before the video is decoded.

    Raises:
        ModuleNotFoundError: faster-whisper is missing.
        CheckpointError: The folder is not a model that faster-whisper can load.
    """
    _import_faster_whisper()
    folder = Path(model)
    if not folder.is_dir():
        if folder.exists():
            raise CheckpointError(f"{folder}: is a file; give the folder of a Whisper model")
        return
    missing = [name for name in _MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: is not a model of faster-whisper: {', '.join(missing)} missing; convert a Whisper model of "
            f"transformers with ct2-transformers-converter --model {folder} --copy_files tokenizer.json "
            "preprocessor_config.json --output_dir FOLDER"
        )


def transcribe_audio(
    source: VideoSource,
    model: str | os.PathLike[str],
    *,
    language: str | None = None,
    device: str = "auto",
    timeout: float = DEFAULT_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Transcript:
    """Transcribe the speech of a video.

    The audio is processed in segments of some minutes, cut at quiet moments; parts without a voice are left out, and so
    are lines that were probably not said, see `timechat.speech.plausibility`.
    Decoding is greedy, so the transcript is the same each time.

    Args:
        source: Video in any form that `load_frames` takes, except a pipe, because it is read twice.
        model: Folder of a Whisper model in the CTranslate2 format, or a model name that faster-whisper can download.
        language: Language code such as `"en"`; None detects it in the first segment with speech.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `mps` means `cpu`, because the recogniser cannot use it.
        timeout: Maximum time for reading the video in seconds, without the time of the recogniser.
        progress: Progress callback.

    Returns:
        Transcript of all lines, with a note on those that were left out; for a video without audio, an empty transcript
        with a note.

    Raises:
        VideoError: The video cannot be read.
        CheckpointError: The model cannot be loaded.
        ModuleNotFoundError: faster-whisper is missing.
    """
    return SpeechRecognizer(model, language=language, device=device).transcribe(
        source, timeout=timeout, progress=progress
    )


class SpeechRecognizer:
    """A recogniser for any number of videos; its model is loaded when the first audio is heard."""

    def __init__(self, model: str | os.PathLike[str], *, language: str | None = None, device: str = "auto") -> None:
        """Check the model, see `transcribe_audio`.

        Args:
            model: Folder or name of a model.
            language: Language code; None detects it for each video.
            device: Device of the model.
        """
        check_recognizer(model)
        self._model, self._language, self._device = model, language, device
        self._loaded: Any = None

    def transcribe(
        self, source: VideoSource, *, timeout: float = DEFAULT_TIMEOUT, progress: ProgressCallback | None = None
    ) -> Transcript:
        """Transcribe the speech of a video, see `transcribe_audio`."""
        duration = probe_video(source, timeout=timeout).duration
        language, has_audio = self._language, False
        lines: list[RecognizedLine] = []
        notes: list[str] = []
        for segment in read_audio(source, timeout=timeout):
            has_audio = True
            self._loaded = self._loaded or _load_recognizer(self._model, self._device)
            notes += segment.notes
            spoken, info = self._loaded.transcribe(
                segment.samples, language=language, temperature=0.0, vad_filter=True, word_timestamps=True
            )
            for line in spoken:
                lines += [placed for piece in _pieces(line) for placed in _on_video_clock(piece, line, segment)]
                _report(progress, segment.start + line.end, duration)
            _report(progress, segment.end, duration)
            language = language or (info.language if lines else None)
        if not has_audio:
            return Transcript(notes=(NO_AUDIO,))
        said, remarks = plausible_lines(sorted(lines, key=lambda line: line.event.start))
        return Transcript(said, (*notes, *remarks))


def _import_faster_whisper() -> Any:
    try:
        from faster_whisper import WhisperModel
    except ModuleNotFoundError:
        raise missing_extra("speech recognition needs faster-whisper", "asr") from None
    return WhisperModel


def _load_recognizer(model: str | os.PathLike[str], device: str) -> Any:
    kind, _, number = device.partition(":")
    try:
        return _import_faster_whisper()(
            os.fspath(model), device="cpu" if kind == "mps" else kind, device_index=int(number or 0)
        )
    except Exception as error:  # CTranslate2, the hub and tokenizers raise many types, even plain Exception
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = "" if device == "auto" else f" on {device}"
        raise CheckpointError(
            f"{model}: cannot be used to recognize speech{place}: {problem}; give the folder of a Whisper model "
            "written by ct2-transformers-converter, or a name that can be downloaded"
        ) from error


@dataclass(frozen=True, slots=True)
class _Piece:
    """Words without a long pause, with their time in seconds on the clock of the recogniser."""

    start: float
    end: float
    text: str
    num_words: int

    def joined(self, following: _Piece) -> _Piece:
        """Return both pieces as one, with the time of the longer one: the pause between them is no speech."""
        longer = following if following.num_words > self.num_words else self
        return _Piece(longer.start, longer.end, self.text + following.text, self.num_words + following.num_words)


def _pieces(line: Any) -> list[_Piece]:
    """Split a line of faster-whisper at its pauses, so that its times are those of its words.

    faster-whisper recognises the voiced parts of the audio without the silence between them, so a line may cover words
    that were said before and after a long silence.
    """
    if not line.words:
        return [_Piece(line.start, line.end, line.text, len(line.text.split()))]
    runs: list[_Piece] = []
    for word in line.words:
        start, end = float(word.start), float(word.end)
        if runs and start - runs[-1].end <= _PAUSE:
            last = runs[-1]
            runs[-1] = _Piece(last.start, end, last.text + word.word, last.num_words + 1)
        else:
            runs.append(_Piece(start, end, word.word, 1))
    pieces: list[_Piece] = []
    for run in runs:
        if pieces and min(run.num_words, pieces[-1].num_words) < _WORDS_OF_A_LINE:
            pieces[-1] = pieces[-1].joined(run)
        else:
            pieces.append(run)
    return pieces


def _on_video_clock(piece: _Piece, line: Any, segment: AudioSegment) -> list[RecognizedLine]:
    """Return words as an event; empty without words, before the first frame or after the audio."""
    start = max(0.0, segment.start + piece.start)
    end = min(segment.start + piece.end, segment.end)
    words = " ".join(piece.text.split())
    if not words or start > end:
        return []
    event = Event(round(start, 3), round(end, 3), words)
    evidence = (line.avg_logprob, line.no_speech_prob, line.compression_ratio)
    return [RecognizedLine(event, piece.start, piece.end, *evidence)]


def _report(progress: ProgressCallback | None, seconds: float, duration: float) -> None:
    if progress is not None:
        total = max(1, round(duration))
        progress("listen", min(total, max(0, round(seconds))), total)
