"""Clips whose frames show their own numbers: each kind of model reads the true times of the frames that it sees."""

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from tests.backbones.endpoint.stub import StubServer, answering, picture_of
from tests.backbones.transformers.tiny import FAMILY_NAMES, tiny_backbone, tiny_tokenizer
from tests.clips import RECIPES, Clip, draw_clip, read_numbers
from timechat.answers.windows import WindowConfig
from timechat.backbones.backbone import Backbone, EncodedVideo, Question
from timechat.backbones.endpoint.backbone import load_endpoint
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.transformers.prompts import TransformersPrompt
from timechat.files.cache import DiskCache
from timechat.model.loading import load_model
from timechat.pipeline import FrameSampling, TimeChat
from timechat.video import Frames

CLIPS = ("constant rate", "variable rate", "starts at 7 s", "edit list trims the start", "variable rate and edit list")
SAMPLING = FrameSampling(fps=5)
HALF_A_WINDOW = WindowConfig(window=1.5, overlap=0.0)
kept_backbone = cache(tiny_backbone)
TENTH = 0.05 + 1e-6  # times are written in tenths of a second


@pytest.fixture(scope="module", params=CLIPS)
def clip(request, tmp_path_factory) -> Clip:
    recipe = RECIPES[request.param]
    return draw_clip(recipe, tmp_path_factory.mktemp("clip") / f"clock{recipe.suffix}")


@pytest.fixture(scope="module")
def nano() -> TimeChatBackbone:
    return TimeChatBackbone(*load_model("nano", device="cpu", dtype="float32"), name="nano")


def record_frames(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[Frames]:
    """Let a backbone keep the frames that it encodes."""
    seen: list[Frames] = []
    encode = backbone.encode

    def recording(frames: Frames, **options: object) -> object:
        seen.append(frames)
        return encode(frames, **options)

    monkeypatch.setattr(backbone, "encode", recording)
    return seen


def check_times(
    clip: Clip,
    backbone: Backbone,
    read_times: Callable[[EncodedVideo], list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read a clip in two windows; compare the frames that the backbone encodes with the times that its model reads."""
    seen = record_frames(backbone, monkeypatch)
    timechat = TimeChat(backbone, cache=DiskCache(max_bytes=0))
    with timechat.open(clip.path, windows=HALF_A_WINDOW, sampling=SAMPLING) as video:
        assert len(video.windows) > 1
        for window, encoded in zip(video.windows, video.encode(video.windows), strict=True):
            frames = seen.pop()
            true = times_in_window(clip, read_numbers(frames.pixels), window.start)
            np.testing.assert_allclose(frames.timestamps, true, atol=2e-3)
            check_written(read_times(encoded), true)


def times_in_window(clip: Clip, numbers: Sequence[int], start: float) -> list[float]:
    """Times of frames on the clock of a window; a frame that is on screen when the window starts has the time 0."""
    return [max(0.0, float(clip.times[number] or 0) - start) for number in numbers]


def check_written(written: Sequence[float], true: Sequence[float]) -> None:
    """Compare the times of pictures with those of their frames; a picture of two frames has the mean of both."""
    if len(written) < len(true):
        even = [*true, *true[-1:] * (len(true) % 2)]
        true = [(first + second) / 2 for first, second in zip(even[::2], even[1::2], strict=True)]
    np.testing.assert_allclose(written, true, atol=TENTH + 2e-3)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_models_of_transformers_read_the_times_of_their_frames(name, clip, monkeypatch):
    backbone = kept_backbone(name)

    def read_times(video: EncodedVideo) -> list[float]:
        prompt = backbone.prompt(video, Question("When?"), 8)
        return times_of(prompt)

    check_times(clip, backbone, read_times, monkeypatch)


def times_of(prompt: TransformersPrompt) -> list[float]:
    text = tiny_tokenizer().decode(prompt.ids)
    found = re.findall(r"<(\d+\.\d) seconds>|from (\d+):(\d+\.\d):|at (\d+\.\d) seconds:", text)
    return [float(seconds or sentence or int(minutes) * 60 + float(rest)) for seconds, minutes, rest, sentence in found]


def test_nano_reads_the_times_of_its_frames(nano, clip, monkeypatch):
    def read_times(video: EncodedVideo) -> list[float]:
        ids, _ = nano.processor.encode_timestamps(video.timestamps)
        sentences = nano.processor.timestamp_tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [float(re.sub(r"\s", "", re.findall(r"at (.*?) ?second", sentence)[0])) for sentence in sentences]

    check_times(clip, nano, read_times, monkeypatch)


def test_a_server_gets_pictures_with_their_true_times(clip):
    answer = "The event happens in 0.4 - 0.9 seconds."
    with StubServer(*[answering(answer)] * 8) as server:
        backbone = load_endpoint(f"{server.url}#tiny")
        timechat = TimeChat(backbone, cache=DiskCache(max_bytes=0))
        with timechat.open(clip.path, windows=HALF_A_WINDOW, sampling=SAMPLING) as video:
            found = timechat.ground(video, "it happens", find_all=True, by="model")
            windows = video.windows
        backbone.close()
    assert len(server.requests) == len(windows) > 1
    starts = [window.start for window in windows]
    for request in server.requests:
        parts = request.body["messages"][-1]["content"]
        written = [float(time) for part in parts if (time := time_before(part)) is not None]
        pictures = [np.asarray(picture_of(part)) for part in parts if part["type"] == "image_url"]
        numbers = read_numbers(np.stack(pictures))
        latest = float(clip.times[numbers[-1]] or 0)
        start = max(start for start in starts if start <= latest)
        check_written(written, times_in_window(clip, numbers, start))
    assert {round(event.start, 3) for event in found.events} == {round(start + 0.4, 3) for start in starts}


def time_before(part: dict) -> str | None:
    match = re.fullmatch(r"<(\d+\.\d) seconds>", part.get("text", "").strip())
    return None if match is None else match[1]
