"""What is said in a video, from a file or by listening: whichever is asked for."""

import os
from pathlib import Path

from timechat.answers.events import Event
from timechat.speech.prompt import clean_transcript
from timechat.speech.recognition import ProgressCallback, Transcript, transcribe_audio
from timechat.speech.transcripts import read_transcript
from timechat.video import VideoSource
from timechat.video.loading import DEFAULT_TIMEOUT


def load_transcript(
    video: VideoSource,
    *,
    transcript: str | Path | None = None,
    asr_model: str | os.PathLike[str] | None = None,
    language: str | None = None,
    device: str = "auto",
    timeout: float = DEFAULT_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Transcript | None:
    """Return what is said in a video, cleaned as for the original's training; None where nobody asked for it.

    Args:
        video: As `load_frames` takes it; only opened where it is listened to.
        transcript: File of a transcript, see `read_transcript`.
        asr_model: Recogniser to listen with instead, see `transcribe_audio`.
        language: Of the speech, for the recogniser.
        device: Of the recogniser.
        timeout: Seconds that reading the video may take, listening not counted.
        progress: Told how far listening is.

    Raises:
        ValueError: Both a transcript and a recogniser are given.
        DataError: The transcript is missing or malformed.
        VideoError, CheckpointError, ModuleNotFoundError: As `transcribe_audio`.
    """
    if transcript is not None and asr_model is not None:
        raise ValueError("both a transcript and a speech recogniser are given; give one of them")
    if transcript is not None:
        return _cleaned(Transcript(read_transcript(transcript)))
    if asr_model is not None:
        return _cleaned(
            transcribe_audio(video, asr_model, language=language, device=device, timeout=timeout, progress=progress)
        )
    return None


def _cleaned(heard: Transcript) -> Transcript:
    """Leave out what says next to nothing, unless there is nothing else: a transcript of single words, say."""
    lines: tuple[Event, ...] = clean_transcript(heard.lines) or heard.lines
    left_out = len(heard.lines) - len(lines)
    told = (f"lines of speech with fewer than three words or said twice, left out: {left_out} of {len(heard.lines)}",)
    return Transcript(lines, heard.notes + told * bool(left_out))
