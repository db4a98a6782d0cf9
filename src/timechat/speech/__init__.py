"""What is said in a video: read from a transcript or recognised in its sound, and put before a question.

transcript file ─▶ transcripts ─┐
sound ─▶ recognition ───────────┴▶ loading ─▶ Transcript ─▶ wording (cut, thinned, quoted)
"""

from timechat.speech.loading import load_transcript
from timechat.speech.prompt import add_transcript, clean_transcript, thin_transcript, transcript_between
from timechat.speech.recognition import Transcript, check_recognizer, transcribe_audio
from timechat.speech.transcripts import parse_transcript, read_transcript

__all__ = [
    "Transcript",
    "add_transcript",
    "check_recognizer",
    "clean_transcript",
    "load_transcript",
    "parse_transcript",
    "read_transcript",
    "thin_transcript",
    "transcribe_audio",
    "transcript_between",
]
