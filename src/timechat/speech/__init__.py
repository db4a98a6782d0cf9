"""Speech of a video: read from a transcript or its subtitles, or recognised in its audio, and put before a question.

    transcript file ──────▶ transcripts ─┐
    file beside, track ────▶ subtitles ──┤
    audio ─▶ recognition ─▶ plausibility ┴▶ loading ─▶ Transcript ─▶ prompt (cut, thinned, quoted)

`timechat.speech.loading`, `timechat.speech.subtitles` and `timechat.speech.recognition` read videos and are imported by
name where they are needed.
"""

from timechat.speech.prompt import add_transcript, clean_transcript, thin_transcript, transcript_between
from timechat.speech.transcripts import NO_AUDIO, Transcript, parse_transcript, read_transcript, transcript_answer

__all__ = [
    "NO_AUDIO",
    "Transcript",
    "add_transcript",
    "clean_transcript",
    "parse_transcript",
    "read_transcript",
    "thin_transcript",
    "transcript_answer",
    "transcript_between",
]
