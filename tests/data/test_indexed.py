"""Records that stay in their files, in object stores and in tar shards."""

import io
import json
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from tests.clips import RECIPES, draw_clip
from timechat.data.dataset import InstructionDataset
from timechat.data.indexed import RecordIndex, index_records, open_video
from timechat.data.mixture import Mixture, RecordSource
from timechat.data.readers import read_records
from timechat.data.records import Record
from timechat.data.settings import SampleSettings
from timechat.errors import DataError, VideoError
from timechat.model.loading import load_processor


def item(number: int, video: str | None = "clip.mp4") -> dict[str, object]:
    messages = [{"role": "user", "content": f"Wann? Ä{number}"}, {"role": "assistant", "content": "From 0.5 to 1.5."}]
    return {"video": video, "messages": messages} if video else {"messages": messages}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    draw_clip(RECIPES["constant rate"], path)
    return path


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def shard(items: Sequence[dict[str, object]], clip: Path, name: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number, each in enumerate(items):
            for ending, data in (("json", json.dumps(each).encode()), ("mp4", clip.read_bytes())):
                member = tarfile.TarInfo(f"{name}/{number:04d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


TEXTS = {
    "list": json.dumps([item(0), item(1), item(2)], ensure_ascii=False),
    "indented list": json.dumps([item(0), item(1), item(2)], indent=2),
    "mark": "\ufeff" + json.dumps([item(0), item(1)], ensure_ascii=False),
    "lines": "".join(json.dumps(item(number), ensure_ascii=False) + "\n\n" for number in range(3)),
    "lines with mark": "\ufeff" + "\r\n".join(json.dumps(item(number)) for number in range(3)),
    "one object": json.dumps(item(0), indent=1),
}


@pytest.mark.parametrize("shape", TEXTS)
def test_an_index_has_the_records_of_the_file(shape, tmp_path, store):
    path = tmp_path / "records.json"
    path.write_bytes(TEXTS[shape].encode())
    records = read_records(path, videos="/videos")
    index = index_records(path, videos="/videos")
    assert list(index) == records == index[:]
    assert list(pickle.loads(pickle.dumps(index))) == records
    store.pipe("/set/records.json", path.read_bytes())
    assert list(index_records("memory://set/records.json", videos="/videos")) == records


def test_an_index_holds_places_and_no_records(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(item(number) | {"id": f"r{number}"}) + "\n" for number in range(2000)))
    index = index_records(path)
    assert len(index) == 2000
    assert len(pickle.dumps(index)) < 2000 * 40 + 2000
    assert index[-1].id == "r1999"
    assert index[7].video == str(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXTS["list"][:-1], "records.json: is not JSON: Expecting ',' delimiter"),
        (TEXTS["list"][:-1] + ", ]", r"records.json: is not JSON: "),
        ('[{"a": 1},]', r"records.json: item 0: a record needs"),
        (json.dumps([item(0) | {"id": "a"}] * 2), "two records have the id 'a'"),
        ("[]", "holds no record"),
        ('{"video": 1', r"records.json:1: is not JSON: Expecting"),
    ],
)
def test_a_bad_item_is_named_with_its_place(text, message, tmp_path):
    (tmp_path / "records.json").write_text(text)
    for read in (read_records, index_records):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "records.json")


def test_a_shortened_file_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(item(0)) + "\n" + json.dumps(item(1)) + "\n")
    index = index_records(path)
    path.write_text("")
    with pytest.raises(DataError, match=r"records.jsonl: record 1: is not JSON: Expecting value"):
        index[1]


def samples(records: Sequence[Record]) -> list[dict[str, torch.Tensor]]:
    mixture = Mixture([RecordSource("a", records)], seed=3, batch_size=2)
    settings = SampleSettings(num_frames=3, max_length=256)
    dataset = InstructionDataset(mixture, load_processor("nano"), settings)
    return [{**dataset[number].video, "ids": torch.tensor(dataset[number].input_ids)} for number in range(3)]


def test_samples_are_the_same_from_files_stores_and_shards(clip, tmp_path, store):
    items = [item(0), item(1), item(2)]
    (clip.parent / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    store.pipe({"/set/records.jsonl": (clip.parent / "records.jsonl").read_bytes(), "/set/clip.mp4": clip.read_bytes()})
    without_name = [item(0, None), item(1, None)]
    for folder in ("memory://shards", str(tmp_path)):
        for number, part in enumerate((without_name, items[2:])):
            with fsspec.open(f"{folder}/{number}.tar", "wb") as file:
                file.write(shard(part, clip, "part"))
    want = samples(read_records(clip.parent / "records.jsonl"))
    for place in ("memory://set/records.jsonl", "memory://shards/*.tar", str(tmp_path / "*.tar")):
        index = index_records(place)
        assert isinstance(index, RecordIndex)
        assert [record.messages for record in index] == [
            record.messages for record in index_records(clip.parent / "records.jsonl")
        ]
        for ours, expected in zip(samples(index), want, strict=True):
            assert all(torch.equal(ours[key], expected[key]) for key in expected)
    assert index.files == (str(tmp_path / "0.tar"), str(tmp_path / "1.tar"))
    assert open_video(index[0]) == clip.read_bytes()


def test_a_bad_shard_is_named(clip, tmp_path):
    with pytest.raises(DataError, match=r"none/\*.tar: no such file; give a .tar file or a pattern"):
        index_records(tmp_path / "none" / "*.tar")
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"a.tar: cannot be read: .*; give uncompressed tar files"):
        index_records(tmp_path / "a.tar")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("only.json"), io.BytesIO())
    (tmp_path / "b.tar").write_bytes(content.getvalue())
    with pytest.raises(DataError, match=r"b.tar/.*only: a sample needs a .json file and a video"):
        index_records(tmp_path / "b.tar")
    (tmp_path / "c.tar").write_bytes(shard([item(0)], clip, "c"))
    index = index_records(tmp_path / "c.tar")
    record = index[0]
    (tmp_path / "c.tar").write_bytes(b"")
    with pytest.raises(VideoError, match=r"c.tar/clip.mp4#bytes=.*: cannot be read: it has changed"):
        open_video(record)


def test_the_places_of_records_are_counted_in_bytes(tmp_path):
    path = tmp_path / "records.json"
    path.write_bytes(TEXTS["mark"].encode())
    places = index_records(path)._places
    content = path.read_bytes()
    assert places.dtype == np.int64
    assert [json.loads(content[start : start + length]) for _, start, length, _, _ in places] == [item(0), item(1)]
