"""`timechat data check` and `timechat data encode`, as a user calls them."""

import json

import pytest

from tests.clips import Recipe, draw_clip
from timechat import cli
from timechat.data.features import FeatureStore
from timechat.data.readers import read_records
from timechat.model.loading import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of a clip that is there and of one that is not."""
    folder = tmp_path_factory.mktemp("set")
    draw_clip(Recipe(options={"g": "25", "preset": "ultrafast"}), folder / "a.mp4")
    item = {"QA": [{"q": "When?", "a": "The given query happens in 1.0 - 2.0 seconds."}]}
    (folder / "good.json").write_text(json.dumps([item | {"video": "a.mp4"}]))
    (folder / "bad.json").write_text(json.dumps([item | {"video": "a.mp4"}, item | {"video": "b.mp4"}]))
    return folder


def run(monkeypatch, capsys, *arguments):
    """Call the command; returns exit status, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["timechat", "data", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr()
    return stopped.value.code, told.out, told.err


def test_check_lists_findings_and_fails_with_strict_only(folder, monkeypatch, capsys):
    options = ("check", folder / "bad.json", "--num-frames", 8)
    status, out, _ = run(monkeypatch, capsys, *options)
    assert status == 0
    assert "2 records about 2 videos" in out
    assert "missing        1: the video file does not exist" in out
    assert "b.mp4: no such file" in out
    assert run(monkeypatch, capsys, *options, "--strict")[0] == 1
    assert run(monkeypatch, capsys, "check", folder / "good.json", "--num-frames", 8, "--strict")[0] == 0


def test_check_prints_json(folder, monkeypatch, capsys):
    files = (folder / "good.json", folder / "bad.json")
    status, out, _ = run(monkeypatch, capsys, "check", *files, "--num-frames", 8, "--decode", "--json")
    good, bad = json.loads(out)["files"]
    assert status == 0
    assert (good["records"], good["counts"]) == (1, {})
    assert bad["counts"] == {"missing": 1}
    assert bad["findings"][0]["record"] == "bad:1"
    assert good["token_quantiles"].keys() == {"0.5", "0.9", "0.99", "1"}


def test_check_refuses_a_file_without_records_in_one_line(folder, monkeypatch, capsys):
    status, out, err = run(monkeypatch, capsys, "check", folder / "none.json")
    assert (status, out) == (2, "")
    assert err == f"timechat: {folder}/none.json: no such file; give a file of instruction records\n"


def test_encode_makes_a_store_and_names_unreadable_videos(folder, tmp_path, monkeypatch, capsys):
    options = ("encode", folder / "bad.json", "--out", tmp_path / "store", "--num-frames", 2, "--device", "cpu")
    status, out, err = run(monkeypatch, capsys, *options)
    assert (status, out.strip()) == (0, str(tmp_path / "store"))
    assert "b.mp4: no such file" in err
    assert "1 of 2 videos are in the store" in err
    model, processor = load_model("nano", device="cpu")
    record = read_records(folder / "good.json")[0]
    video, timestamps = FeatureStore(tmp_path / "store", model).read(record, processor)
    assert video["vision_states"].shape[0] == len(timestamps) == 2
    assert timestamps.tolist() == pytest.approx([0.0, 1.48])
