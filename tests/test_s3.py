"""Videos, manifests, results and training records by the S3 protocol, from a server on the loopback interface."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import run_command
from tests.clips import RECIPES, draw_clip
from tests.training.small import small_recipe
from timechat.answers.windows import WindowConfig
from timechat.batch import BatchSettings, read_manifest, run_batch
from timechat.data.indexed import RecordIndex, index_records, open_video
from timechat.errors import VideoError
from timechat.files.remote import RemoteFolder, find_remote, open_remote
from timechat.training.checkpoint import find_checkpoints
from timechat.training.logs import read_log
from timechat.training.run import train_recipe
from timechat.video import load_frames, probe_video
from timechat.video.sampling import FrameSampling

pytestmark = pytest.mark.slow

REASON = "needs a server of S3: pip install s3fs 'moto[s3]' flask flask-cors (docs/many-machines.md#object-stores)"


@dataclass(frozen=True)
class Bucket:
    """The bucket `archive` of a server; its objects are those of the folder `local`."""

    files: Any
    local: Path
    endpoint: str

    def put(self, name: str, content: bytes) -> None:
        (self.local / name).parent.mkdir(parents=True, exist_ok=True)
        (self.local / name).write_bytes(content)
        self.files.pipe_file(f"archive/{name}", content)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket with two videos, a manifest, records and a tar shard."""
    s3fs = pytest.importorskip("s3fs", reason=REASON)
    pytest.importorskip("flask_cors", reason=REASON)
    moto = pytest.importorskip("moto.server", reason=REASON)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
    local = tmp_path_factory.mktemp("bucket")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**values, "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        files.mkdir("archive")
        made = Bucket(files, local, values["ENDPOINT_URL"])
        for name, recipe in (("a.mp4", "constant rate"), ("sub/b.mp4", "variable rate")):
            (local / "sub").mkdir(exist_ok=True)
            draw_clip(RECIPES[recipe], local / name)
            made.put(name, (local / name).read_bytes())
        rows = [{"video": "a.mp4", "id": "a"}, {"video": "sub/b.mp4", "id": "b", "task": "ground", "query": "a clock"}]
        made.put("m.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        made.put("records.jsonl", "".join(f"{json.dumps(record(number))}\n" for number in range(3)).encode())
        made.put("shards/0.tar", shard((local / "a.mp4").read_bytes()))
        yield made
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def record(number: int) -> dict[str, Any]:
    answer = "The given query happens in 0.5 - 1.5 seconds."
    return {"video": "a.mp4", "QA": [{"q": f"When does it turn for the {number}th time?", "a": answer}]}


def shard(video: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number in range(3):
            for ending, data in (("json", json.dumps(record(number)).encode()), ("mp4", video)):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def test_files_are_listed_and_read_at_any_place(bucket):
    assert find_remote("s3://archive/sub") == ["s3://archive/sub/b.mp4"]
    assert find_remote("s3://archive/*.mp4") == ["s3://archive/a.mp4"]
    assert find_remote("s3://archive/a.mp4") is None
    content = (bucket.local / "a.mp4").read_bytes()
    with open_remote("s3://archive/a.mp4") as file:
        assert (file.seek(-3, 2), file.read()) == (len(content) - 3, content[-3:])
        assert (file.seek(7), file.read(5)) == (7, content[7:12])
    local, stored = (load_frames(place, num_frames=5) for place in (str(bucket.local / "a.mp4"), "s3://archive/a.mp4"))
    assert np.array_equal(local.pixels, stored.pixels)
    assert local.timestamps.tolist() == stored.timestamps.tolist()


def test_errors_of_the_server_are_one_line(bucket, monkeypatch):
    with pytest.raises(VideoError, match=r"^s3://archive/no\.mp4: no such file; check the address$"):
        probe_video("s3://archive/no.mp4")
    with pytest.raises(VideoError, match=r"^s3://none/a\.mp4: no such file; check the address$"):
        probe_video("s3://none/a.mp4")
    with pytest.raises(FileNotFoundError, match=r"no such file: 's3://archive/no\.jsonl'"):
        read_manifest("s3://archive/no.jsonl", task="caption")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    type(bucket.files).clear_instance_cache()
    with pytest.raises(
        VideoError, match=r"^s3://archive/a\.mp4: cannot be opened: Unable to locate credentials"
    ) as caught:
        probe_video("s3://archive/a.mp4")
    assert "\n" not in str(caught.value)
    type(bucket.files).clear_instance_cache()


def answers(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of parts without what differs between places."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    found = {row["id"]: {**row, "timings": None, "video": Path(row["video"]).name} for row in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


@pytest.mark.timeout(1800)  # three processes load the model, beside other work
def test_a_batch_has_the_rows_of_local_files(bucket, tmp_path):
    windows, sampling = WindowConfig(window=8.0, overlap=0.0), FrameSampling(fps=1.0)
    common = {
        "task": "caption",
        "device": "cpu",
        "windows": windows,
        "sampling": sampling,
        "force": True,
        "timeout": 900.0,
    }
    local = run_batch(str(bucket.local / "m.jsonl"), BatchSettings(output=tmp_path / "local", **common))
    assert (local.rows, local.ok) == (2, 2)
    report = run_batch("s3://archive/m.jsonl", BatchSettings(output="s3://archive/out", **common))
    assert (report.rows, report.ok, report.answered_now) == (2, 2, 2)
    stored = RemoteFolder("s3://archive/out")
    assert stored.names() == ["failed.jsonl", "recipe.json", "report.json"]
    parts = stored.names("answers")
    assert parts == ["part-00001.jsonl", "part-00001.parquet"]
    (tmp_path / "stored").mkdir()
    for part in parts:
        stored.fetch(f"answers/{part}", tmp_path / "stored" / part)
    assert answers(tmp_path / "stored") == answers(tmp_path / "local" / "answers")
    again = run_batch("s3://archive/m.jsonl", BatchSettings(output="s3://archive/out", **common))
    assert (again.ok, again.answered_now) == (2, 0)


def test_the_command_answers_about_a_video_of_a_bucket(bucket, capsys):
    found = []
    for place in (str(bucket.local / "a.mp4"), "s3://archive/a.mp4"):
        status, out, err = run_command(capsys, "ground", place, "a clock", "--device", "cpu", "--json", "--quiet")
        assert status == 0, err
        found.append(json.loads(out) | {"video": None, "timings": None})
    assert found[0] == found[1]


def test_a_library_takes_no_address(bucket, tmp_path, capsys):
    status, out, err = run_command(capsys, "index", "s3://archive/sub", "--library", tmp_path / "library.db")
    assert (status, out) == (2, "")
    assert err == (
        "timechat: s3://archive/sub: is an address; a library holds files of this machine, so mount the store as a "
        "folder or copy the videos\n"
    )


def test_records_and_shards_are_those_of_local_files(bucket):
    local = index_records(bucket.local / "records.jsonl")
    for place in ("s3://archive/records.jsonl", "s3://archive/shards/*.tar"):
        stored = index_records(place)
        assert [each.messages for each in stored] == [each.messages for each in local]
    assert isinstance(stored, RecordIndex)
    assert stored.files == ("s3://archive/shards/0.tar",)
    assert open_video(stored[2]) == (bucket.local / "a.mp4").read_bytes()
    assert index_records("s3://archive/records.jsonl")[1].video == "s3://archive/a.mp4"


def test_records_in_a_bucket_train_the_same(bucket, tmp_path):
    places = {"local": f"{bucket.local}/records.jsonl", "stored": "s3://archive/records.jsonl"}
    for name, records in places.items():
        content = {"sources": [{"records": records}], "num_frames": 4, "max_length": 512}
        assert train_recipe(small_recipe(tmp_path / name, "run.steps=2", data=content))
    local, stored = ([line["loss_hex"] for line in read_log(tmp_path / name) if "loss" in line] for name in places)
    assert len(local) == 2
    assert stored == local
    digests = {find_checkpoints(tmp_path / name)[-1].inputs["records"] for name in places}
    assert len(digests) == 1
