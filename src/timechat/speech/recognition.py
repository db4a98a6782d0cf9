"""Speech recognition: the sound of a video → what is said, by faster-whisper and any model of its kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timechat.answers.events import Event
from timechat.errors import CheckpointError
from timechat.speech.transcripts import Transcript
from timechat.video import VideoSource, probe_video
from timechat.video.audio import AudioSegment, read_audio
from timechat.video.loading import DEFAULT_TIMEOUT

ProgressCallback = Callable[[str, int, int], None]
"""Called with the stage (`"listen"`), the seconds that were heard and the seconds that there are."""

_MODEL_FILES = ("model.bin", "config.json", "tokenizer.json")
_NO_SOUND = "the video has no sound that can be decoded, so nothing is heard in it"


def check_recognizer(model: str | os.PathLike[str]) -> None:
    """Find a recogniser that cannot work while nothing has been decoded yet.

    Raises:
        ModuleNotFoundError: faster-whisper is missing.
        CheckpointError: The folder is none of a model that faster-whisper can load.
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
            f"{folder}: is no model of faster-whisper, {', '.join(missing)} missing; a Whisper model of transformers "
            f"becomes one with ct2-transformers-converter --model {folder} --copy_files tokenizer.json "
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
    """Write down what is said in a video.

    The sound is heard in pieces of some minutes, cut where it is quiet; what is no speech is left out. The answer is
    greedy and the same each time.

    Args:
        source: As `load_frames` takes it; read twice, so no pipe.
        model: Folder of a Whisper model in CTranslate2's format, or a name that faster-whisper knows and fetches.
        language: Such as `"en"`; None lets the model tell by the first piece in which something is said.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `mps` means `cpu`, since the recogniser cannot use it.
        timeout: Seconds that reading the video may take, listening not counted.
        progress: Told how far the work is.

    Returns:
        All lines, or none and a note where the video has no sound.

    Raises:
        VideoError: The video cannot be read.
        CheckpointError: The model cannot be loaded.
        ModuleNotFoundError: faster-whisper is missing.
    """
    check_recognizer(model)
    duration = probe_video(source, timeout=timeout).duration
    recogniser = None
    lines: list[Event] = []
    notes: list[str] = []
    for sound in read_audio(source, timeout=timeout):
        recogniser = recogniser or _load_recognizer(model, device)
        notes += sound.notes
        heard, told = recogniser.transcribe(sound.samples, language=language, temperature=0.0, vad_filter=True)
        for segment in heard:
            lines += _line_on_video_clock(segment, sound)
            _report(progress, sound.start + segment.end, duration)
        _report(progress, sound.end, duration)
        language = language or (told.language if lines else None)
    if recogniser is None:
        return Transcript(notes=(_NO_SOUND,))
    return Transcript(tuple(sorted(lines, key=lambda line: line.start)), tuple(notes))


def _import_faster_whisper() -> Any:
    try:
        from faster_whisper import WhisperModel
    except ModuleNotFoundError:
        raise ModuleNotFoundError('speech recognition needs faster-whisper: pip install "timechat[asr]"') from None
    return WhisperModel


def _load_recognizer(model: str | os.PathLike[str], device: str) -> Any:
    kind, _, number = device.partition(":")
    try:
        return _import_faster_whisper()(
            os.fspath(model), device="cpu" if kind == "mps" else kind, device_index=int(number or 0)
        )
    except Exception as error:  # CTranslate2, the hub and tokenizers raise whatever they like, even bare exceptions
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{model}: cannot be used to recognise speech on {device}: {told}; give the folder of a Whisper model that "
            "ct2-transformers-converter wrote"
        ) from error


def _line_on_video_clock(segment: Any, sound: AudioSegment) -> list[Event]:
    """The line of a segment, unless it says nothing, or lies before the first picture or after all sound."""
    start = max(0.0, sound.start + segment.start)
    end = min(sound.start + segment.end, sound.end)
    words = " ".join(segment.text.split())
    return [Event(round(start, 3), round(end, 3), words)] if words and start <= end else []


def _report(progress: ProgressCallback | None, seconds: float, duration: float) -> None:
    if progress is not None:
        total = max(1, round(duration))
        progress("listen", min(total, max(0, round(seconds))), total)
