"""Batches from records: they do not depend on processes and workers, and every skipped record is reported."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from tests import parity
from tests.clips import Recipe, draw_clip, read_numbers
from tests.conftest import with_timestamps
from tests.golden import golden_meta, golden_path, golden_tensors
from tests.model.random_nano import build_random_nano
from tests.model.test_parity import legacy_processor
from timechat.answers.prompts import Message
from timechat.data.augmentation import draw_crop, random_resized_crop
from timechat.data.dataset import InstructionDataset
from timechat.data.loader import BatchLoader
from timechat.data.mixture import Mixture, RecordSource
from timechat.data.records import Record
from timechat.data.settings import SampleSettings, read_frames
from timechat.data.skipped import DataIssues, SkippedRecord
from timechat.data.threads import ordered_map
from timechat.errors import DataError, VideoError
from timechat.video import Frames, load_frames
from timechat.video.sampling import FrameSampling, random_indices, sample_indices

PLAIN = SampleSettings(num_frames=4, sampling="uniform", augmentation=False)


def record(number: int, answer: str = "In 1.0 - 2.0 seconds.", **changes) -> Record:
    messages = (Message("user", f"When {number}?"), Message("assistant", answer))
    return Record(**{"video": f"{number}.mp4", "id": str(number), "messages": messages} | changes)


def source(size: int = 10, name: str = "a", weight: float = 1.0, first: int = 0) -> RecordSource:
    return RecordSource(name, [record(first + i) for i in range(size)], weight)


def drawn(record: Record) -> Frames:
    """A video whose pixels and times tell which it is."""
    number = int(record.id)
    pixels = np.random.default_rng(number).integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)
    return Frames(pixels, np.arange(12) / 2, 6.0)


@pytest.fixture(scope="module")
def processor():
    return build_random_nano()[1]


def make_dataset(processor, *, sources=None, batch_size=1, settings=PLAIN, video_loader=drawn, seed=7, **options):
    mixture = Mixture(sources or [source()], seed=seed, batch_size=batch_size, **options)
    return InstructionDataset(mixture, processor, settings, video_loader=video_loader)


def test_every_epoch_has_each_record_once_in_a_new_order():
    mixture = Mixture([source(50)], seed=3, batch_size=4)
    places = [mixture.locate(number) for number in range(150)]
    orders = [[place.index for place in places[start : start + 50]] for start in (0, 50, 100)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert [place.epoch for place in places[::50]] == [0, 1, 2]


def test_a_sample_depends_on_seed_and_number_only():
    sources = [source(30), source(7, "b", 2.0)]
    forwards = Mixture(sources, seed=5, batch_size=3)
    numbers = list(range(0, 60_000, 997))
    backwards = Mixture(sources, seed=5, batch_size=3)
    assert [forwards.locate(n) for n in numbers] == [backwards.locate(n) for n in reversed(numbers)][::-1]
    other = Mixture(sources, seed=6, batch_size=3)
    assert [forwards.locate(n) for n in numbers] != [other.locate(n) for n in numbers]


def test_a_batch_has_one_source_and_each_source_its_own_order():
    mixture = Mixture([source(30), source(7, "b")], seed=5, batch_size=4)
    places = [mixture.locate(number) for number in range(16_000)]
    batches = np.array([place.source for place in places]).reshape(-1, 4)
    assert (batches == batches[:, :1]).all()
    of_b = [place.index for place in places if place.source == 1]
    assert all(sorted(of_b[i : i + 7]) == list(range(7)) for i in range(0, len(of_b) - 7, 7))


@pytest.mark.parametrize("mixed", [False, True])
def test_sources_are_drawn_by_weight_and_not_by_size(mixed):
    sources = [source(1000), source(10, "b", 3.0)]
    mixture = Mixture(sources, seed=1, batch_size=2, mixed_batches=mixed)
    share = np.mean([mixture.locate(number).source for number in range(20_000)])
    assert share == pytest.approx(0.75, abs=0.02)


def test_invalid_mixtures_are_refused():
    with pytest.raises(ValueError, match="weight of the source 'a' must be above 0"):
        source(weight=0.0)
    with pytest.raises(DataError, match="holds no record"):
        RecordSource("a", [])
    with pytest.raises(ValueError, match="at least one set of records"):
        Mixture([], seed=0)
    with pytest.raises(ValueError, match="made for batches of 2"):
        Mixture([source()], seed=0, batch_size=2).check_batches(3)


def test_random_frames_come_from_the_intervals_of_the_original():
    cases = json.loads(golden_path("host_side.json").read_text()).get("rand_sampling_allowed")
    if cases is None:
        cases = [{"vlen": 1000, "n": 96, "allowed": None}]
    for case in cases:
        vlen, n = case["vlen"], case["n"]
        generator = np.random.default_rng(0)
        drawn = np.array([random_indices(vlen, n, generator) for _ in range(400)])
        borders = np.trunc(np.linspace(0, vlen, n + 1)).astype(int)
        assert (drawn.min(axis=0) >= borders[:-1]).all()
        assert (drawn.max(axis=0) == borders[1:] - 1).all()  # the original excludes the last frame
        if case["allowed"] is not None and vlen >= 2 * n:
            low, high = np.array(case["allowed"]).T
            assert (low == borders[:-1]).all()
            assert (high == borders[1:] - 2).all()


def test_short_videos_give_each_frame_once():
    generator = np.random.default_rng(0)
    assert random_indices(5, 96, generator).tolist() == [0, 1, 2, 3, 4]
    for _ in range(20):
        indices = random_indices(130, 96, generator)
        assert (np.diff(indices) > 0).all()
        assert indices[-1] < 130


def test_random_times_of_a_variable_rate_lie_in_their_intervals():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.4, 300))
    times -= times[0]
    for options in ({"num_frames": 16}, {"fps": 0.5}):
        indices = sample_indices(times, times[-1] + 0.1, FrameSampling(**options), generator=np.random.default_rng(1))
        plain = sample_indices(times, times[-1] + 0.1, FrameSampling(**options))
        assert (indices >= plain).all()
        assert (indices != plain).any()


def test_a_part_of_a_video_may_count_from_its_own_start():
    frames = drawn(record(1))
    whole = record(1, start=2.0, end=4.0)
    part = dataclasses.replace(whole, clock="part")
    assert read_frames(whole, PLAIN, size=20, source=frames).timestamps.tolist() == [2.0, 2.5, 3.0, 3.5]
    shifted = read_frames(part, PLAIN, size=20, source=frames)
    assert shifted.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert shifted.duration == 2.0


def test_a_crop_never_wraps_around():
    edge = np.zeros((2, 40, 40, 3), np.uint8)
    edge[:, :, 20:] = 255
    frames = Frames(edge, np.array([0.0, 1.0]), 2.0)
    for seed in range(20):
        pixels = random_resized_crop(frames, np.random.default_rng(seed)).pixels
        assert pixels.shape == edge.shape
        assert (pixels[0] == pixels[1]).all()  # one crop for all frames
        rows = pixels[0, :, :, 0].astype(int)
        assert (np.diff(rows, axis=1) >= -20).all()  # dark to bright: an overshoot that wraps falls by 200 and more


def test_crops_have_the_originals_areas_and_ratios():
    generator = np.random.default_rng(0)
    crops = np.array([draw_crop(224, 224, generator) for _ in range(500)])
    area = crops[:, 2] * crops[:, 3] / 224**2
    ratio = crops[:, 3] / crops[:, 2]
    assert 0.49 < area.min() < 0.55
    assert area.max() > 0.95
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert (crops[:, :2] + crops[:, 2:] <= 224).all()


def test_random_samples_are_repeatable(processor):
    dataset = make_dataset(processor, settings=SampleSettings(num_frames=4))
    first, second = dataset[3], dataset[13]  # the same record in another epoch, or not: another draw
    again = make_dataset(processor, settings=SampleSettings(num_frames=4))[3]
    assert first.record == again.record
    assert torch.equal(first.video["pixel_values"], again.video["pixel_values"])
    assert not torch.equal(first.video["pixel_values"], second.video["pixel_values"])
    assert first.input_ids == again.input_ids


@pytest.mark.parametrize("case", parity.TRAINING_CASES)
def test_dataset_and_collate_give_the_recorded_ids_and_losses(case, golden_model, llama_processor):
    meta, want = golden_meta()["cases"][case], golden_tensors(case)
    processor = legacy_processor(llama_processor) if meta["tokenizer_legacy"] else llama_processor
    records = [
        Record(
            video=sample["video"],
            id=str(i),
            messages=tuple(
                message
                for turn in sample["QA"]
                for message in (Message("user", turn["q"]), Message("assistant", turn["a"]))
            ),
        )
        for i, sample in enumerate(meta["samples"])
    ]
    settings = SampleSettings(
        num_frames=meta["num_frm"], sampling="uniform", augmentation=False, max_length=meta["max_txt_len"]
    )
    seed = next(s for s in range(99) if _order(records, s) == list(range(len(records))))
    mixture = Mixture([RecordSource("golden", records)], seed=seed, batch_size=len(records))
    dataset = InstructionDataset(
        mixture, processor, settings, video_loader=lambda record: parity.video_of(case, int(record.id))
    )
    batch = next(BatchLoader(dataset, batch_size=len(records), workers=0).batches())
    inputs = dict(batch.inputs)
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(inputs[name].long(), want[name].long())
    if case != "train_batch_mixed_T":  # the original pads the time sentences of stacked videos together
        del inputs["video_sizes"]
    with torch.no_grad():
        assert golden_model(**inputs).loss == pytest.approx(float(want["loss"]), abs=1e-5)
    assert [loss.kind for loss in batch.samples[0].skipped] == (["shortened"] if case == "train_truncated" else [])


def _order(records, seed):
    mixture = Mixture([RecordSource("golden", records)], seed=seed, batch_size=len(records))
    return [mixture.locate(number).index for number in range(len(records))]


def ids_of(loader, batches, first_step=0):
    return [batch.record_ids for batch in islice(loader.batches(first_step), batches)]


def test_two_processes_get_the_samples_of_one_with_twice_the_batch(processor):
    sources, settings = [source(10), source(6, "b", first=100)], dataclasses.replace(PLAIN, num_frames=1)
    dataset = make_dataset(processor, sources=sources, batch_size=4, settings=settings)
    whole = ids_of(BatchLoader(dataset, batch_size=4, workers=0), 6)
    halves = [ids_of(BatchLoader(dataset, batch_size=2, rank=r, world_size=2, workers=0), 6) for r in (0, 1)]
    assert whole == [first + second for first, second in zip(*halves, strict=True)]


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_workers_or_interruptions(processor, workers):
    settings = SampleSettings(num_frames=3)
    dataset = make_dataset(processor, batch_size=2, settings=settings)
    plain = list(islice(BatchLoader(dataset, batch_size=2, workers=0).batches(), 6))
    resumed = list(islice(BatchLoader(dataset, batch_size=2, workers=workers).batches(2), 4))
    assert [batch.step for batch in resumed] == [2, 3, 4, 5]
    for one, other in zip(plain[2:], resumed, strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(one.inputs[key], other.inputs[key]) for key in one.inputs)


@pytest.mark.parametrize("sampling", ["uniform", "random"])
def test_an_image_is_trained_as_it_is_answered(processor, tmp_path, sampling):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = record(0, video=str(tmp_path / "a.png"), is_image=True)
    settings = dataclasses.replace(PLAIN, sampling=sampling)
    sample = make_dataset(processor, sources=[RecordSource("a", [item])], settings=settings, video_loader=None)[5]
    frames = load_frames(tmp_path / "a.png", size=processor.config.frame_size)
    assert (sample.timestamps.tolist(), sample.skipped) == ([0.0], ())
    assert torch.equal(sample.video["pixel_values"], processor.normalize(frames))
    assert sample.input_ids == processor.encode_training([0.0], item.turns)[0]


def test_threads_do_not_truncate_texts_of_other_threads(processor):
    shared = with_timestamps(processor, "llama")  # one vocabulary for time sentences, cut at 32, and conversations
    items = [record(i, answer="because " * 50) for i in range(40)]
    dataset = make_dataset(
        shared, sources=[RecordSource("a", items)], settings=dataclasses.replace(PLAIN, num_frames=12)
    )
    plain = [dataset[number].input_ids for number in range(40)]
    threaded = [sample.input_ids for _, sample in ordered_map(range(40), dataset.__getitem__, workers=4)]
    assert threaded == plain


def test_videos_of_different_lengths_are_padded_and_measured(processor):
    def loader(record):
        frames = drawn(record)
        return frames if int(record.id) % 2 else Frames(frames.pixels[:2], np.array([0.0, 100.0]), 101.0)

    dataset = make_dataset(processor, sources=[source(2)], batch_size=2, video_loader=loader)
    (batch,) = islice(BatchLoader(dataset, batch_size=2, workers=0).batches(), 1)
    by_id = dict(zip(batch.record_ids, batch.inputs["video_sizes"].tolist(), strict=True))
    assert by_id["0"][0] == 2
    assert by_id["1"][0] == 4
    short = batch.record_ids.index("0")
    assert batch.inputs["pixel_values"].shape[:2] == (2, 4)
    assert not batch.inputs["pixel_values"][short, 2:].any()
    assert not batch.inputs["qformer_attention_mask"][short, 2:].any()
    assert (batch.inputs["labels"][batch.inputs["attention_mask"] == 0] == -100).all()


def test_ordered_map_ends_its_threads_and_raises_in_order():
    made = []

    def make(number):
        made.append(number)
        if number == 5:
            raise VideoError("five")
        return number * number

    results = ordered_map(range(100), make, workers=2, ahead=3)
    assert [next(results) for _ in range(5)] == [(i, i * i) for i in range(5)]
    with pytest.raises(VideoError, match="five"):
        next(results)
    assert len(made) <= 9  # no further ahead than was allowed


def broken(*numbers, then=drawn):
    def load(record):
        if int(record.id) in numbers:
            raise VideoError(f"{record.video}: is damaged: its header is gone")
        return then(record)

    return load


def test_a_damaged_video_is_replaced_by_the_next_and_named(processor, tmp_path):
    good = make_dataset(processor)
    dataset = make_dataset(processor, video_loader=broken(4))
    order = [good[number].record.id for number in range(10)]
    place = order.index("4")
    loader = BatchLoader(dataset, batch_size=1, workers=2, report=DataIssues(tmp_path / "bad.jsonl", max_bad_share=1))
    got = [batch.record_ids[0] for batch in islice(loader.batches(), 9 if place == 9 else 10)]
    if place < 9:
        assert got == [*order[:place], order[place + 1], *order[place + 1 :]]
    assert loader.report.counts["missing"] == sum(number == "4" for number in order[: len(got)])
    (line,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (line["record"], line["kind"], line["video"]) == ("4", "missing", "4.mp4")
    assert "header is gone" in line["reason"]


def test_a_run_with_too_many_bad_videos_stops_with_an_error(processor):
    settings = dataclasses.replace(PLAIN, num_frames=1)
    dataset = make_dataset(processor, sources=[source(200)], video_loader=broken(*range(20)), settings=settings)
    loader = BatchLoader(dataset, batch_size=1, workers=0, report=DataIssues(max_bad_share=0.01))
    with pytest.raises(DataError, match=r"% of the videos cannot be read, more than max_bad_share=1\.0%"):
        list(islice(loader.batches(), 300))
    assert loader.report.samples == 100


def test_a_fully_unreadable_source_stops_immediately(processor):
    dataset = make_dataset(processor, sources=[source(200)], video_loader=broken(*range(200)))
    with pytest.raises(DataError, match="20 records in a row of the source 'a' cannot be used"):
        dataset[0]
    small = make_dataset(processor, sources=[source(3)], video_loader=broken(*range(3)))
    with pytest.raises(DataError, match="3 records in a row"):
        small[0]


def test_a_fully_truncated_answer_is_skipped(processor):
    long = record(0, messages=(Message("user", "why " * 400), Message("assistant", "because")))
    settings = dataclasses.replace(PLAIN, max_length=300)
    dataset = make_dataset(processor, sources=[RecordSource("a", [long, record(1)])], settings=settings)
    samples = [dataset[number] for number in range(2)]
    assert [sample.record.id for sample in samples] == ["1", "1"]
    assert sorted(loss.kind for sample in samples for loss in sample.skipped) == ["truncated"]
    assert all(any(label != -100 for label in sample.labels) for sample in samples)


def test_conversations_longer_than_the_model_reads_are_refused(processor):
    message = "max_length is 4097 tokens, but the language model reads 4096 .its max_position_embeddings"
    with pytest.raises(ValueError, match=message):
        make_dataset(processor, settings=dataclasses.replace(PLAIN, max_length=4097))
    assert make_dataset(processor, settings=dataclasses.replace(PLAIN, max_length=4096))[0].labels


def test_a_record_with_an_empty_answer_is_skipped(processor):
    turns = (*record(0).messages, Message("user", "And then?"), Message("assistant", " \n"))
    dataset = make_dataset(processor, sources=[RecordSource("a", [record(0, messages=turns), record(1)])])
    samples = [dataset[number] for number in range(2)]
    assert [sample.record.id for sample in samples] == ["1", "1"]
    assert [(item.kind, item.record) for sample in samples for item in sample.skipped] == [("empty", "0")]


def test_a_shortened_answer_is_used_and_reported(processor):
    long = record(0, answer="because " * 300)
    dataset = make_dataset(
        processor, sources=[RecordSource("a", [long])], settings=dataclasses.replace(PLAIN, max_length=300)
    )
    sample = dataset[0]
    assert len(sample.input_ids) == 300
    assert [loss.kind for loss in sample.skipped] == ["shortened"]


def test_damaged_frames_are_reported(processor):
    def load(record):
        return dataclasses.replace(drawn(record), notes=("1 of 4 frames wanted are damaged and left out",))

    assert [loss.kind for loss in make_dataset(processor, video_loader=load)[0].skipped] == ["degraded"]


def test_programming_errors_are_not_treated_as_bad_videos(processor):
    def load(record):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        make_dataset(processor, video_loader=load)[0]


def test_a_report_is_continued(tmp_path):
    path = tmp_path / "losses.jsonl"
    loss = SkippedRecord("missing", "a", "1", "1.mp4", "no such file", 0)
    report = DataIssues(path, max_bad_share=1)
    report.add([loss])
    report.write()
    again = DataIssues(path, max_bad_share=1)
    again.add([loss, dataclasses.replace(loss, record="2")])
    again.write()
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == ["1", "2"]
    assert again.summary() == "2 missing"
    assert list(tmp_path.iterdir()) == [path]


def test_real_files_are_read_at_random_frames_in_order(processor, tmp_path):
    clip = draw_clip(Recipe(options={"g": "12", "preset": "ultrafast"}), tmp_path / "clock.mp4")
    item = record(0, video=str(clip.path))
    generator = np.random.default_rng(0)
    frames = read_frames(item, dataclasses.replace(PLAIN, num_frames=8), size=56, generator=generator)
    numbers = read_numbers(frames.pixels)
    borders = np.arange(9) * 75 // 8
    assert all(low <= number < high for low, number, high in zip(borders, numbers, borders[1:], strict=False))
    assert frames.timestamps.tolist() == pytest.approx([number / 25 for number in numbers])
    dataset = make_dataset(processor, sources=[RecordSource("a", [item])], video_loader=None)
    batch = next(BatchLoader(dataset, batch_size=1, workers=1).batches())
    assert batch.samples[0].timestamps.tolist() == pytest.approx([0.0, 0.72, 1.48, 2.24], abs=0.05)
