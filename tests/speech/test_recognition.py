"""Speech recognition: the sound of a video on the clock of its pictures, and who listens to it."""

import functools
import json
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import numpy as np
import pytest

from tests.clips import RECIPES, draw_clip, draw_film_with_sound
from timechat.errors import CheckpointError, VideoError
from timechat.speech import Transcript, recognition
from timechat.speech.loading import load_transcript
from timechat.speech.recognition import transcribe_audio
from timechat.video import probe_video
from timechat.video.audio import SAMPLE_RATE, AudioSegment, _blocks, _segments, read_audio

REAL_VIDEOS = Path(__file__).parents[3] / "shared" / "videos"
FROM_AAC = 0.01  # seconds; the codec smears a sharp start
RUN_IN = 1024 / 44100 + FROM_AAC  # seconds; the codec writes a block of silence first


def beep_times(sound: AudioSegment) -> tuple[float, float]:
    """Start and end of what can be heard, in seconds on the video's clock."""
    loud = np.flatnonzero(np.abs(sound.samples) > 0.1)
    return sound.start + loud[0] / SAMPLE_RATE, sound.start + loud[-1] / SAMPLE_RATE


# ---------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(
    ("pictures_start", "sound_start", "heard_at"),
    [(0.0, 0.0, 1.0), (0.0, 2.0, 3.0), (1.5, 0.0, -0.5), (1.0, 1.0, 1.0), (5.0, 6.0, 2.0)],
)
def test_audio_times_count_from_the_first_frame(suffix, pictures_start, sound_start, heard_at, tmp_path):
    film = draw_film_with_sound(
        tmp_path / f"film{suffix}", pictures_start=pictures_start, sound_start=sound_start, beep=1.0, seconds=3.0
    )
    (sound,) = read_audio(film)
    assert beep_times(sound) == pytest.approx((heard_at, heard_at + 0.5), abs=FROM_AAC)
    assert sound.start == pytest.approx(sound_start - pictures_start, abs=RUN_IN)
    assert len(sound.samples) == pytest.approx(3.0 * SAMPLE_RATE, abs=0.05 * SAMPLE_RATE)
    assert sound.samples.dtype == np.float32
    assert np.abs(sound.samples).max() == pytest.approx(0.5, abs=0.05)
    assert sound.notes == ()


@pytest.mark.parametrize("source", [bytes, str, "file"])
def test_audio_is_read_from_any_source(source, tmp_path):
    film = draw_film_with_sound(tmp_path / "f.mkv", pictures_start=0, sound_start=0, beep=0.2, seconds=1.0)
    if source == "file":
        with film.open("rb") as file:
            (sound,) = read_audio(file)
    else:
        (sound,) = read_audio(film.read_bytes() if source is bytes else str(film))
    assert beep_times(sound)[0] == pytest.approx(0.2, abs=0.01)


def test_a_gap_in_the_audio_is_silence(tmp_path):
    film = draw_film_with_sound(tmp_path / "f.mkv", pictures_start=0, sound_start=0, beep=1.0, seconds=2.0, gap=4.0)
    (sound,) = read_audio(film)
    assert beep_times(sound)[0] == pytest.approx(5.0, abs=0.01)
    assert sound.end == pytest.approx(6.0, abs=0.02)


def test_a_new_segment_begins_after_a_long_gap(tmp_path):
    film = draw_film_with_sound(tmp_path / "f.mkv", pictures_start=0, sound_start=0, beep=1.0, seconds=2.0, gap=4000)
    first, second = read_audio(film)
    assert first.end == pytest.approx(0.9, abs=0.03)
    assert beep_times(second)[0] == pytest.approx(4001.0, abs=0.01)


def test_segments_are_cut_at_quiet_moments_without_loss():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.2, 25 * SAMPLE_RATE).astype(np.float32)
    samples[int(8.3 * SAMPLE_RATE) : int(8.9 * SAMPLE_RATE)] = 0
    blocks = [AudioSegment(samples[i : i + 1000], 3.0 + i / SAMPLE_RATE) for i in range(0, len(samples), 1000)]
    pieces = list(_segments(blocks, 10.0))
    assert 3.0 + 8.3 < pieces[0].end < 3.0 + 8.9
    assert all(len(piece.samples) <= 10 * SAMPLE_RATE for piece in pieces)
    assert [piece.start for piece in pieces[1:]] == pytest.approx([piece.end for piece in pieces[:-1]])
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), samples)


def silence(samples, rate, layout, start):
    wave = np.zeros((1, samples * (2 if layout == "stereo" else 1)), np.int16)
    frame = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, 1000), round(start * 1000)
    return frame


def test_audio_continues_after_a_change_of_format():
    frames = [silence(4800, 48000, "stereo", 0), silence(4410, 44100, "mono", 0.1), silence(800, 8000, "mono", 0.2)]
    (sound,) = _segments(_blocks(frames), 10.0)
    assert sound.end == pytest.approx(0.3, abs=0.002)


def test_a_video_without_audio_gives_no_segment(tmp_path):
    clip = draw_clip(RECIPES["constant rate"], tmp_path / "silent.mp4")
    assert list(read_audio(clip.path)) == []


def test_the_callers_time_does_not_count_as_reading(tmp_path, monkeypatch):
    film = draw_film_with_sound(tmp_path / "f.mkv", pictures_start=0, sound_start=0, beep=1.0, seconds=3.0)
    now = time.monotonic
    pieces = read_audio(film, max_seconds=1.0, timeout=60)
    next(pieces)
    monkeypatch.setattr(time, "monotonic", lambda: now() + 1000)
    assert list(pieces)[-1].end == pytest.approx(3.0, abs=0.01)


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        list(read_audio(tmp_path / "none.mp4"))


def damaged_film(path):
    film = draw_film_with_sound(path, pictures_start=0, sound_start=0, beep=1.0, seconds=4.0)
    with av.open(str(film)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(film.read_bytes())
    for position, size in places[40:50]:
        data[position : position + size] = b"\xff" * size
    return bytes(data)


def test_damaged_audio_is_counted(tmp_path):
    pieces = list(read_audio(damaged_film(tmp_path / "f.mp4")))
    assert pieces[-1].end == pytest.approx(4.0, abs=0.1)
    assert any("damaged audio packets left out" in note for piece in pieces for note in piece.notes)


@pytest.mark.parametrize(
    ("name", "seconds"), [("nasa_with_audio.mp4", 13.056), ("charades_3MSZA.mp4", 31.068), ("coffee.mp4", 9.557)]
)
def test_real_audio_has_the_length_of_its_file(name, seconds):
    path = REAL_VIDEOS / name
    if not path.exists():
        pytest.skip("the shared test videos are not here")
    (sound,) = read_audio(path)
    assert sound.end == pytest.approx(seconds, abs=0.03)
    assert sound.end == pytest.approx(probe_video(path).duration, abs=0.1)
    pieces = list(read_audio(path, max_seconds=2.0))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), sound.samples)


# ---------------------------------------------------------------------------------------------- recognition


class Listener:
    """Stands in for `faster_whisper.WhisperModel`: hears beeps, and says where in the sound they are."""

    made: ClassVar[list[dict]] = []
    asked: ClassVar[list[dict]] = []

    def __init__(self, model, **options):
        Listener.made.append({"model": model, **options})

    def transcribe(self, samples, **options):
        Listener.asked.append(options)
        loud = np.flatnonzero(np.abs(samples) > 0.1)
        if not len(loud):
            return iter(()), SimpleNamespace(language="fr")
        start, end = loud[0] / SAMPLE_RATE, loud[-1] / SAMPLE_RATE
        segments = [
            SimpleNamespace(start=start, end=end, text=" a beep is heard"),
            SimpleNamespace(start=start, end=start + 60, text=" it goes on"),
            SimpleNamespace(start=end, end=end, text="  "),
            SimpleNamespace(start=end + 60, end=end + 61, text=" nobody said this"),
        ]
        return iter(segments), SimpleNamespace(language="de")


@pytest.fixture
def listener(monkeypatch, tmp_path):
    """A folder that passes for a model's, and the stand-in that is loaded from it."""
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Listener))
    Listener.made, Listener.asked = [], []
    folder = tmp_path / "whisper"
    folder.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def film_of(path, **options):
    defaults = {"pictures_start": 0.0, "sound_start": 0.0, "beep": 1.0, "seconds": 3.0}
    return draw_film_with_sound(path, **{**defaults, **options})


@pytest.mark.parametrize(
    ("pictures_start", "sound_start", "at"), [(0, 0, 1.0), (0, 2, 3.0), (1.2, 0, 0.0), (0.5, 0, 0.5)]
)
def test_lines_have_times_on_the_video_clock(listener, tmp_path, pictures_start, sound_start, at):
    film = film_of(tmp_path / "f.mkv", pictures_start=pictures_start, sound_start=sound_start)
    heard = transcribe_audio(film, listener)
    sound_end = sound_start - pictures_start + 3.0
    beep_end = sound_start - pictures_start + 1.5
    assert [line.caption for line in heard.lines] == ["a beep is heard", "it goes on"]
    assert [line.start for line in heard.lines] == pytest.approx([at, at], abs=0.01)
    assert [line.end for line in heard.lines] == pytest.approx([beep_end, sound_end], abs=0.02)
    assert heard.notes == ()


def test_speech_before_the_first_frame_is_left_out(listener, tmp_path):
    heard = transcribe_audio(film_of(tmp_path / "f.mkv", pictures_start=2.0, seconds=2.5), listener)
    assert [line.caption for line in heard.lines] == ["it goes on"]
    assert heard.lines[0].start == 0.0


def test_the_first_segment_with_speech_gives_the_language(listener, tmp_path, monkeypatch):
    heard = transcribe_audio(film_of(tmp_path / "late.mkv", gap=4000), listener)
    assert [line.start for line in heard.lines] == pytest.approx([4001, 4001], abs=0.01)
    assert [asked["language"] for asked in Listener.asked] == [None, None]
    Listener.asked.clear()
    monkeypatch.setattr(recognition, "read_audio", functools.partial(read_audio, max_seconds=1.6))
    transcribe_audio(film_of(tmp_path / "early.mkv", beep=0.2), listener)
    assert [asked["language"] for asked in Listener.asked][:2] == [None, "de"]


def test_a_given_language_is_used(listener, tmp_path):
    transcribe_audio(film_of(tmp_path / "f.mkv"), listener, language="en")
    assert Listener.asked == [{"language": "en", "temperature": 0.0, "vad_filter": True}]


def test_damaged_audio_is_noted(listener, tmp_path):
    (note,) = transcribe_audio(damaged_film(tmp_path / "f.mp4"), listener).notes
    assert note.startswith("damaged audio packets left out: ")


@pytest.mark.parametrize(
    ("device", "kind", "number"), [("auto", "auto", 0), ("mps", "cpu", 0), ("cuda:1", "cuda", 1), ("cpu", "cpu", 0)]
)
def test_the_recogniser_is_loaded_once_on_the_device(listener, tmp_path, device, kind, number):
    transcribe_audio(film_of(tmp_path / "f.mkv", gap=4000), listener, device=device)
    assert Listener.made == [{"model": str(listener), "device": kind, "device_index": number}]


def test_progress_is_reported_in_seconds(listener, tmp_path):
    told = []
    transcribe_audio(film_of(tmp_path / "f.mkv"), listener, progress=lambda *step: told.append(step))
    assert told[-1] == ("listen", 3, 3)
    assert all(0 <= done <= total for _, done, total in told)


def test_a_video_without_audio_needs_no_recogniser(listener, tmp_path):
    clip = draw_clip(RECIPES["constant rate"], tmp_path / "silent.mp4")
    heard = load_transcript(clip.path, asr_model=listener)
    assert heard == Transcript((), ("the video has no audio that can be decoded, so there is no transcript",))
    assert Listener.made == []


def test_recognised_speech_is_cleaned(listener, tmp_path):
    heard = load_transcript(film_of(tmp_path / "f.mkv"), asr_model=listener)
    assert [line.caption for line in heard.lines] == ["a beep is heard", "it goes on"]


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs faster-whisper: pip install "timechat\[asr\]"'):
        transcribe_audio(tmp_path / "none.mp4", "tiny")


def test_an_invalid_model_is_refused_before_reading_the_video(listener, tmp_path):
    (listener / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"model\.bin missing; .* ct2-transformers-converter --model"):
        transcribe_audio(tmp_path / "none.mp4", listener)
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        transcribe_audio(tmp_path / "none.mp4", listener / "config.json")


# --------------------------------------------------------------------------- the real recogniser, untrained


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A tiny Whisper with random weights in CTranslate2's format."""
    pytest.importorskip("faster_whisper")
    folder = tmp_path_factory.mktemp("whisper")
    save_random_whisper(folder / "transformers")
    from ctranslate2.converters import TransformersConverter

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
    sound = {"feature_size": 80, "sampling_rate": SAMPLE_RATE, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(sound))


@pytest.fixture
def everything_is_speech(monkeypatch):
    """Drawn films have no speech, which the real recogniser would notice."""
    import faster_whisper

    transcribe = faster_whisper.WhisperModel.transcribe
    monkeypatch.setattr(
        faster_whisper.WhisperModel,
        "transcribe",
        lambda self, samples, **options: transcribe(self, samples, **{**options, "vad_filter": False}),
    )


def test_the_real_recogniser_transcribes(whisper, everything_is_speech, tmp_path):
    early = transcribe_audio(film_of(tmp_path / "early.mkv"), whisper)
    late = transcribe_audio(film_of(tmp_path / "late.mkv", sound_start=2.0), whisper)
    assert early.lines
    assert all(0 <= line.start <= line.end <= 3.0 + 0.02 for line in early.lines)
    assert [line.start - 2.0 for line in late.lines] == pytest.approx([line.start for line in early.lines], abs=0.002)
    assert transcribe_audio(film_of(tmp_path / "again.mkv"), whisper) == early


def test_the_real_recogniser_finds_no_speech_in_a_beep(whisper, tmp_path):
    assert transcribe_audio(film_of(tmp_path / "f.mkv"), whisper) == Transcript()


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_one_clear_line(name, whisper, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in whisper.iterdir():
        (folder / path.name).write_bytes(b"\x00 damaged" if path.name == name else path.read_bytes())
    with pytest.raises(CheckpointError, match="cannot be used to recognise speech on cpu: ") as error:
        transcribe_audio(film_of(tmp_path / "f.mkv"), folder, device="cpu")
    assert "\n" not in str(error.value)


def test_an_unknown_model_name_is_one_clear_line(whisper, tmp_path):
    with pytest.raises(
        CheckpointError, match="gigantic: cannot be used to recognise speech on auto: Invalid model size"
    ):
        transcribe_audio(film_of(tmp_path / "f.mkv"), "gigantic")
