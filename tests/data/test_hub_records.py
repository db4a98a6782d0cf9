"""Records of a local data set that the `datasets` library reads, beside those of the same file of JSON lines."""

import json
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.clips import RECIPES, draw_clip
from tests.data.test_indexed import item
from tests.training.small import small_recipe
from timechat.data.dataset import InstructionDataset
from timechat.data.hub_records import DatasetAddress, DatasetRecords
from timechat.data.indexed import folder_of, index_records, short_name
from timechat.data.loader import BatchLoader
from timechat.data.mixture import Mixture, RecordSource
from timechat.data.readers import read_records
from timechat.data.records import Record
from timechat.data.settings import SampleSettings
from timechat.errors import DataError
from timechat.model.loading import load_processor
from timechat.training.checkpoint import find_checkpoints
from timechat.training.logs import read_log
from timechat.training.run import train_recipe

datasets = pytest.importorskip("datasets", reason='needs the extra "datasets"')


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Arrow files in a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow"))
        yield


ITEMS: list[dict[str, Any]] = [item(number) | {"id": f"r{number}", "note": "x" * number} for number in range(6)]
ITEMS[1] |= {"start": 0.5, "end": 1.5, "clock": "part"}
ITEMS[3] |= {"events": [{"start": 0.0, "end": 1.0, "caption": "it turns"}], "query": "it turns"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two Parquet files with a video beside them, and the same records as JSON lines."""
    folder = tmp_path_factory.mktemp("set")
    draw_clip(RECIPES["constant rate"], folder / "clip.mp4")
    write_parquet(ITEMS[:4], folder / "data" / "train-00000-of-00002.parquet")
    write_parquet(ITEMS[4:], folder / "data" / "train-00001-of-00002.parquet")
    (folder.parent / "lines.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in ITEMS))
    return folder


def write_parquet(items: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = dict.fromkeys(key for each in ITEMS for key in each)
    table = pyarrow.Table.from_pylist([missing | each for each in [*ITEMS, *items]])
    pyarrow.parquet.write_table(table.slice(len(ITEMS)), path)  # the schema of all items


def address(folder: Path, options: str = "?split=train") -> str:
    return f"hf-dataset://{folder}{options}"


def test_records_equal_those_of_json_lines(folder, tmp_path):
    want = read_records(folder.parent / "lines.jsonl", videos=folder)
    records = index_records(address(folder))
    assert isinstance(records, DatasetRecords)
    assert list(records) == records[:] == want
    assert [records[1].extra, records[-1].extra] == [{"note": "x"}, {"note": "xxxxx"}]
    assert list(pickle.loads(pickle.dumps(records))) == want
    assert len(pickle.dumps(records)) < 1000
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "train.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in ITEMS))
    assert list(index_records(address(lines, ""), videos=folder)) == want


def test_an_address_names_the_split_the_configuration_and_the_revision():
    assert DatasetAddress.parse("hf-dataset://a/b") == DatasetAddress("a/b", "train")
    full = "hf-dataset://a/b?split=val&config=small&revision=v1"
    assert DatasetAddress.parse(full) == DatasetAddress("a/b", "val", "small", "v1")
    assert (folder_of(full), short_name(full)) == ("hf://datasets/a/b@v1", "b")
    for wrong in ("hf-dataset://", "hf-dataset://a/b?splits=train", "hf-dataset://a/b?split="):
        with pytest.raises(DataError, match=r"expected hf-dataset://NAME\?split=SPLIT"):
            DatasetAddress.parse(wrong)


def test_rows_stay_on_the_disk(tmp_path, monkeypatch):
    rows = [ITEMS[0] | {"id": f"r{number}", "note": "x" * 10_000} for number in range(2000)]
    write_parquet(rows, tmp_path / "train.parquet")
    live, most = 0, 0
    checked = Record.__post_init__

    def counted(self: Record) -> None:
        nonlocal live, most
        checked(self)
        live += 1
        most = max(most, live)
        weakref.finalize(self, forgotten)

    def forgotten() -> None:
        nonlocal live
        live -= 1

    monkeypatch.setattr(Record, "__post_init__", counted)
    before = pyarrow.total_allocated_bytes()
    records = index_records(address(tmp_path))
    assert (len(records), records[1999].id) == (2000, "r1999")
    assert 0 < most <= 4
    assert pyarrow.total_allocated_bytes() - before < 2_000_000  # of 20 MB


def batches_of(records: Any, rank: int, world_size: int, first: int = 0, count: int = 3) -> list[list[str]]:
    """Return the ids of the records of some batches of four samples on all processes together."""
    mixture = Mixture([RecordSource("set", records)], seed=3, batch_size=4)
    dataset = InstructionDataset(mixture, load_processor("nano"), SampleSettings(num_frames=2, max_length=256))
    loader = BatchLoader(dataset, batch_size=4 // world_size, rank=rank, world_size=world_size, workers=0)
    batches = loader.batches(first)
    found = [list(next(batches).record_ids) for _ in range(count)]
    batches.close()
    return found


def test_processes_share_the_samples_and_resume_at_their_places(folder):
    records = index_records(address(folder))
    copies = [pickle.loads(pickle.dumps(records)) for _ in range(2)]
    one = batches_of(index_records(folder.parent / "lines.jsonl", videos=folder), 0, 1)
    assert batches_of(records, 0, 1) == one
    first, second = (batches_of(copy, rank, 2) for rank, copy in enumerate(copies))
    assert [a + b for a, b in zip(first, second, strict=True)] == one
    epoch = [each for batch in one for each in batch][:6]
    assert sorted(epoch) == [f"r{number}" for number in range(6)]
    assert batches_of(copies[1], 1, 2, first=1, count=2) == second[1:]


def test_another_data_set_on_another_machine_is_noticed(folder, tmp_path):
    write_parquet(ITEMS[:4], tmp_path / "train.parquet")
    copy = pickle.loads(pickle.dumps(index_records(address(tmp_path))))
    write_parquet(ITEMS[:3], tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has 3 rows here and 4 in the first process; give all machines"):
        copy[0]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, "?split=val", r"\?split=val: cannot be loaded: Unknown split \"val\"\. Should be one of \['train'\]\."),
        ({"messages": None}, "", r": has no column 'messages' \(or 'conversations' .*; its columns are .*note"),
        ({"video": None}, "", r": row 0: .*'video'"),
        ({"id": "same"}, "", "two records have the id 'same'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, change, options, message):
    dropped = {key for key, value in change.items() if value is None}
    rows = [{key: value for key, value in (each | change).items() if key not in dropped} for each in ITEMS[:2]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message) as caught:
        index_records(address(tmp_path, options))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_missing_package_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none: cannot be loaded: Couldn't find any data"):
        index_records(f"hf-dataset://{tmp_path}/none")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs datasets; install the extra "datasets"'):
        index_records(address(folder))


def test_bytes_of_videos_are_refused(tmp_path):
    rows = [ITEMS[0] | {"video": {"bytes": b"1", "path": "a.mp4"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 0: the column 'video' holds the bytes of files; only paths and addresses"):
        index_records(address(tmp_path))


@pytest.mark.slow
def test_a_data_set_trains_as_its_json_lines(folder, tmp_path):
    places = {"lines": str(folder.parent / "lines.jsonl"), "set": address(folder)}
    for name, records in places.items():
        content = {"sources": [{"records": records, "videos": str(folder)}], "num_frames": 4, "max_length": 512}
        assert train_recipe(small_recipe(tmp_path / name, "run.steps=2", data=content))
    lines, stored = ([line["loss_hex"] for line in read_log(tmp_path / name) if "loss" in line] for name in places)
    assert len(lines) == 2
    assert stored == lines
    assert len({find_checkpoints(tmp_path / name)[-1].inputs["records"] for name in places}) == 1
