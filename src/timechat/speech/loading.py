"""Speech of a video, from a transcript file, by speech recognition, or from its subtitles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from timechat.answers.events import Event
from timechat.speech.prompt import clean_transcript
from timechat.speech.subtitles import find_subtitles
from timechat.speech.transcripts import Transcript, transcript_of_file
from timechat.video import VideoInfo, VideoSource
from timechat.video.loading import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from timechat.speech.recognition import ProgressCallback


def load_transcript(
    video: VideoSource,
    *,
    info: VideoInfo | None = None,
    transcript: str | Path | None = None,
    asr_model: str | os.PathLike[str] | None = None,
    is_cleaned: bool = True,
    language: str | None = None,
    device: str = "auto",
    timeout: float = DEFAULT_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Transcript | None:
    """Return the speech of a video: of a transcript, of a recogniser, or else its subtitles; None if it has none.

    Args:
        video: Video in any form that `load_frames` takes; not opened for a transcript.
        info: Properties of the video, for its subtitles; None reads them.
        transcript: Path of a transcript, see `read_transcript`.
        asr_model: Speech recogniser to use instead, see `transcribe_audio`.
        is_cleaned: Whether lines with little content are left out, as in the transcripts of the original's training.
        language: Language of the speech, for the recogniser, and preferred language of subtitles.
        device: Device of the recogniser.
        timeout: Maximum time for reading the video, in seconds, without the time of the recogniser.
        progress: Callback for the progress of the recogniser.

    Raises:
        ValueError: Both a transcript and a recogniser are given.
        DataError: The transcript is missing or malformed.
        VideoError, CheckpointError, ModuleNotFoundError: As `transcribe_audio` and `find_subtitles`.
    """
    if transcript is not None and asr_model is not None:
        raise ValueError("both a transcript and a speech recogniser are given; give one of them")
    if transcript is not None:
        found: Transcript | None = transcript_of_file(transcript)
    elif asr_model is not None:
        from timechat.speech.recognition import transcribe_audio

        found = transcribe_audio(video, asr_model, language=language, device=device, timeout=timeout, progress=progress)
    else:
        found = find_subtitles(video, info, language=language, timeout=timeout)
    return _cleaned(found) if found is not None and is_cleaned else found


def _cleaned(transcript: Transcript) -> Transcript:
    """Drop lines with little content, unless no line would remain, as in a transcript of single words."""
    lines: tuple[Event, ...] = clean_transcript(transcript.lines) or transcript.lines
    num_dropped = len(transcript.lines) - len(lines)
    if not num_dropped:
        return Transcript(lines, transcript.notes)
    note = (
        f"lines of speech with fewer than three words or repeated, left out: {num_dropped} of {len(transcript.lines)}"
    )
    return Transcript(lines, (*transcript.notes, note))
