"""Features of frozen parts: they give the loss of pixels, and features that do not fit are refused."""

import dataclasses
import json
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.model.random_nano import build_random_nano
from timechat.answers.prompts import Message
from timechat.data.dataset import InstructionDataset
from timechat.data.features import FeatureStore, check_parts_are_frozen, encode_features
from timechat.data.loader import BatchLoader
from timechat.data.mixture import Mixture, RecordSource
from timechat.data.records import Record
from timechat.data.settings import SampleSettings
from timechat.data.skipped import DataIssues
from timechat.errors import DataError, VideoError
from timechat.video import Frames

SETTINGS = SampleSettings(num_frames=3, sampling="uniform", augmentation=False)


@pytest.fixture(scope="module")
def nano():
    model, processor = build_random_nano()
    return model.eval(), processor


def records(folder, count=3):
    turns = (Message("user", "When?"), Message("assistant", "In 1.0 - 2.0 seconds."))
    return [Record(video=str(folder / f"{i}.mp4"), id=str(i), messages=turns) for i in range(count)]


def drawn(record):
    number = int(record.id)
    pixels = np.random.default_rng(number).integers(0, 256, (2 + number, 20, 20, 3), dtype=np.uint8)
    return Frames(pixels, np.arange(2 + number, dtype=np.float64) * 9.7, 30.0)


def encode(nano, items, folder, **options: Any) -> list[str | None]:
    model, processor = nano
    settings: dict[str, Any] = {"settings": SETTINGS, "video_loader": drawn, "workers": 1} | options
    return list(encode_features(model, processor, items, folder, **settings))


def batch_of(processor, items, features=None, *, size=3):
    dataset = InstructionDataset(
        Mixture([RecordSource("a", items)], seed=0, batch_size=size),
        processor,
        SETTINGS,
        video_loader=drawn,
        features=features,
    )
    loader = BatchLoader(dataset, batch_size=size, workers=0, report=DataIssues(max_bad_share=1))
    return next(islice(loader.batches(), 1)), loader


@torch.no_grad()
def loss(model, batch):
    return model(**batch.inputs).loss.item()


@pytest.mark.parametrize(("parts", "name"), [("vision", "vision_states"), ("frames", "frame_tokens")])
def test_features_give_the_loss_of_pixels(nano, tmp_path, parts, name):
    items = records(tmp_path)
    assert encode(nano, items, tmp_path / "store", parts=parts) == [None, None, None]
    batch, _ = batch_of(nano[1], items, FeatureStore(tmp_path / "store", nano[0]))
    pixels, _ = batch_of(nano[1], items)
    assert name in batch.inputs
    assert "pixel_values" not in batch.inputs
    assert loss(nano[0], batch) == pytest.approx(loss(nano[0], pixels), abs=1e-6)


@pytest.mark.parametrize("parts", ["vision", "frames"])
def test_half_precision_features_are_close(nano, tmp_path, parts):
    items = records(tmp_path)
    encode(nano, items, tmp_path / "store", parts=parts, dtype="float16")
    batch, _ = batch_of(nano[1], items, FeatureStore(tmp_path / "store", nano[0]))
    pixels, _ = batch_of(nano[1], items)
    assert loss(nano[0], batch) == pytest.approx(loss(nano[0], pixels), abs=1e-2)


def test_encoding_resumes_where_it_stopped(nano, tmp_path):
    items, store = records(tmp_path), tmp_path / "store"
    model, processor = nano
    with closing(encode_features(model, processor, items, store, SETTINGS, video_loader=drawn, workers=1)) as encoding:
        assert next(encoding) is None
    loaded = []

    def loader(record):
        loaded.append(record.id)
        return drawn(record)

    encode(nano, items * 2, store, video_loader=loader)
    assert loaded == ["1", "2"]
    files = sorted(path for path in store.rglob("*") if path.is_file())
    assert len(files) == 4  # three videos and the index, no temporary file
    with safe_open(files[0], framework="pt") as file:
        assert set(file.metadata()) == {"video", "start", "end", "duration"}
        assert len(file.get_tensor("timestamps")) == len(file.get_tensor("states"))


def test_unreadable_videos_are_named_and_replaced_in_training(nano, tmp_path):
    def loader(record):
        if record.id == "1":
            raise VideoError("1.mp4: is damaged")
        return drawn(record)

    items, store = records(tmp_path), tmp_path / "store"
    assert encode(nano, items, store, video_loader=loader) == [None, "1.mp4: is damaged", None]
    index = json.loads((store / "index.json").read_text())
    assert list(index["bad"].values()) == ["1.mp4: is damaged"]
    batch, batches = batch_of(nano[1], items, FeatureStore(store, nano[0]))
    assert "1" not in batch.record_ids
    assert batches.report.counts == {"missing": 1}
    # After a repair and another call, the store has the video.
    assert encode(nano, items, store) == [None, None, None]
    assert json.loads((store / "index.json").read_text())["bad"] == {}


def test_features_of_other_weights_or_settings_are_refused(nano, tmp_path):
    items, store = records(tmp_path), tmp_path / "store"
    encode(nano, items, store)
    other, _ = build_random_nano()
    with torch.no_grad():
        next(other.frame_encoder.vision_model.parameters()).add_(1e-3)
    with pytest.raises(DataError, match="made by other weights"):
        FeatureStore(store, other)
    with pytest.raises(DataError, match="features of another kind: weights is"):
        encode((other.eval(), nano[1]), items, store)
    with pytest.raises(DataError, match="features of another kind: dtype is 'float32', not 'float16'"):
        encode(nano, items, store, dtype="float16")
    features = FeatureStore(store, nano[0])
    mixture = Mixture([RecordSource("a", items)], seed=0)
    for changes, message in (
        ({"num_frames": 6}, "num_frames is 3, not 6"),
        ({"fps": 1.0}, "fps is None, not 1.0"),
        ({"sampling": "random"}, "set sampling=uniform"),
        ({"augmentation": True}, "augmentation=false"),
    ):
        with pytest.raises(DataError, match=message):
            InstructionDataset(mixture, nano[1], dataclasses.replace(SETTINGS, **changes), features=features)


def test_features_ignore_settings_that_they_do_not_depend_on(nano, tmp_path):
    items, store = records(tmp_path), tmp_path / "store"
    encode(nano, items, store)
    other, _ = build_random_nano()
    with torch.no_grad():
        other.frame_encoder.query_tokens.add_(1.0)  # the image Q-Former learns
    FeatureStore(store, other)
    check_parts_are_frozen(["frame_encoder.query_tokens"], "vision")
    with pytest.raises(DataError, match="cannot be used while it learns"):
        check_parts_are_frozen(["frame_encoder.query_tokens"], "frames")


def test_a_record_without_features_stops_the_run(nano, tmp_path):
    items, store = records(tmp_path), tmp_path / "store"
    encode(nano, items[:2], store)
    with pytest.raises(DataError, match=r"holds no features of .*2\.mp4"):
        batch_of(nano[1], items[2:], FeatureStore(store, nano[0]), size=1)
    with pytest.raises(DataError, match="holds no features; make them with"):
        FeatureStore(tmp_path / "none", nano[0])


def test_a_store_moves_with_its_videos(nano, tmp_path):
    items = records(tmp_path / "here")
    encode(nano, items, tmp_path / "here" / "store")
    (tmp_path / "here").rename(tmp_path / "there")
    store = FeatureStore(tmp_path / "there" / "store", nano[0])
    moved = records(tmp_path / "there")
    assert store.read(moved[0], nano[1])[0]["vision_states"].shape[0] == 2


def test_each_part_of_a_video_has_its_own_features(nano, tmp_path):
    whole = records(tmp_path, 1)[0]
    part = dataclasses.replace(whole, start=10.0, end=12.0)
    encode(nano, [whole, part], tmp_path / "store")
    store = FeatureStore(tmp_path / "store", nano[0])
    assert store.read(part, nano[1])[1].tolist() != store.read(whole, nano[1])[1].tolist()
