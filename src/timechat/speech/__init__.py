"""What is said in a video: read from a transcript or recognised in its sound, and put before a question.

transcript file ─▶ transcripts ─┐
sound ─▶ recognition ───────────┴▶ loading ─▶ Transcript ─▶ wording (cut, thinned, quoted)
"""

from timechat.speech.loading import load_speech
from timechat.speech.recognition import Transcript, check_recogniser, transcribe_audio
from timechat.speech.transcripts import parse_transcript, read_transcript
from timechat.speech.wording import clean_speech, heard_question, speech_between, thin_speech

__all__ = [
    "Transcript",
    "check_recogniser",
    "clean_speech",
    "heard_question",
    "load_speech",
    "parse_transcript",
    "read_transcript",
    "speech_between",
    "thin_speech",
    "transcribe_audio",
]
