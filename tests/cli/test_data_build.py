"""`timechat data build` and `timechat data merge`, from annotations to a training step."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from timechat.data.builders import BUILDERS
from timechat.training.logs import read_log

STEPS = [{"index": 0, "heading": "show zero", "absolute_bounds": [0.5, 1.5]}]
ANNOTATIONS = {
    "charades": "clock 0.5 1.5##the clock turns.\n",
    "youcook2": {
        "database": {
            "clock": {
                "duration": 3.0,
                "subset": "training",
                "annotations": [{"id": 0, "segment": [0, 2], "sentence": "wind the clock"}],
            }
        }
    },
    "anet": {"v_clock": {"duration": 3.0, "timestamps": [[0, 1.5]], "sentences": ["The clock turns."]}},
    "hirest/steps": {
        "Read a clock": {
            "clock.mp4": {"relevant": True, "clip": True, "v_duration": 3, "bounds": [0.2, 2.8], "steps": STEPS}
        }
    },
    "qvhighlights": {
        "qid": 1,
        "query": "A clock.",
        "duration": 3,
        "vid": "clock",
        "relevant_windows": [[0, 2]],
        "relevant_clip_ids": [0, 1],
        "saliency_scores": [[1, 2, 3], [4, 4, 4]],
    },
    "didemo": [{"annotation_id": 1, "description": "a clock", "video": "clock.avi", "times": [[0, 0]]}],
    "vitt": {"id": "clock", "annotations": [{"timestamp": 500, "tag": "It turns"}]},
    "coin": {
        "database": {
            "clock": {
                "duration": 3.0,
                "subset": "training",
                "annotation": [{"id": "1", "segment": [0, 2], "label": "wind the clock"}],
            }
        }
    },
    "tvsum": "clock\tVT\t1,2,3\nclock\tVT\t1,1,5\n",
    "yttemporal": {
        "id": "clock",
        "duration": 3,
        "subtitles": "one two three. four five six.",
        "subtitles_t_start": [0, 0.3, 0.6, 1, 1.3, 1.6],
        "subtitles_t_end": [0.3, 0.6, 1, 1.3, 1.6, 2],
    },
    "valley": [
        {
            "v_id": "clock",
            "source": "jukinmedia",
            "conversations": [{"from": "human", "value": "What is it?\n<video>"}, {"from": "gpt", "value": "A clock."}],
        }
    ],
}


@pytest.fixture
def folder(short_clip, tmp_path) -> Path:
    """Folder with a video and annotations of it in the formats of several sources."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/clock.mp4").symlink_to(short_clip)
    for source, content in ANNOTATIONS.items():
        name = source.replace("/", "_")
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "qvhighlights").rename(tmp_path / "qvhighlights.jsonl")
    return tmp_path


def arguments(source: str, folder: Path, *options: object) -> list[object]:
    name = "qvhighlights.jsonl" if source == "qvhighlights" else source.replace("/", "_")
    out = folder / f"{source.replace('/', '_')}.records.jsonl"
    return ["data", "build", source, folder / name, "--videos", folder / "videos", "--out", out, *options]


def test_a_build_prints_its_counts(folder, run):
    (folder / "charades").write_text(
        "clock 0.5 1.5##the clock turns.\nnone 0 1##it is missing\nclock 2 9##it is long\n"
    )
    status, out, err = run(*arguments("charades", folder))
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{folder}/charades.records.jsonl: 2 records about 1 video",
        "  source    read  kept  dropped  published",
        "  charades     3     2        1      12.4k",
        "  charades: dropped, missing video: 1 (the folder holds no file with the id of the video)",
        "    charades:1 none.mp4",
        "  charades: event changed, clipped end: 1 (the event ends more than a second after the video; its end is now "
        "that of the video)",
        "    charades:2 clock.mp4: 2 - 9 s, it is long",
    ]
    status, out, _ = run(*arguments("charades", folder, "--json"))
    report = json.loads(out)
    assert (report["file"], report["records"]) == (f"{folder}/charades.records.jsonl", 2)
    assert [finding["reason"] for finding in report["findings"]] == ["missing video", "clipped end"]


def test_a_build_notes_wordings_that_are_not_recorded(folder, run):
    _, _, err = run(*arguments("hirest/steps", folder))
    assert err == "note: no wording of the original is recorded for steps; the prompt of this package is used\n"
    assert run(*arguments("hirest/steps", folder, "--wording", "timechat"))[2] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: "kinetics"}, r"the source must be one of youcook2, .*valley, got 'kinetics'"),
        ({3: "none.txt"}, r"none\.txt: no such file or folder; give the annotations of charades"),
        ({5: "nowhere"}, r"nowhere: is not a folder; give the folder of the videos with --videos"),
        ({8: "--wording", 9: "none.txt"}, r"none\.txt: is no wording and no file; give original, timechat, or a file"),
        ({8: "--asr", 9: "model"}, r"--asr writes transcripts to the folder that --transcripts names"),
        ({3: Path(__file__).parent}, r".*cli: is a folder; give the file of the annotations \(docs/data\.md lists"),
        ({8: "--transcripts", 9: "nowhere"}, r"nowhere: is not a folder; give the folder of the transcripts"),
    ],
)
def test_bad_input_of_a_build_gives_one_line(folder, change, message, refused):
    words = dict(enumerate(arguments("charades", folder))) | change
    assert re.match(message, refused(*(words[number] for number in sorted(words))))
    assert not (folder / "charades.records.jsonl").exists()


def test_merging_refuses_options_that_do_not_fit(folder, run, refused):
    run(*arguments("charades", folder))
    file, out = folder / "charades.records.jsonl", folder / "all.jsonl"
    message = refused("data", "merge", file, file, file, "--out", out, "--ratio", 1, "--ratio", 2)
    assert message == "--ratio is given 2 times for 3 files; give it once per file"
    assert "must be above 0, got 0" in refused("data", "merge", file, "--out", out, "--ratio", 0)
    assert "no such file" in refused("data", "merge", folder / "none.jsonl", "--out", out)
    before = file.read_bytes()
    message = refused("data", "merge", file, "--out", file)
    assert message == f"{file}: is one of the files to merge; give another --out"
    assert file.read_bytes() == before


def test_the_help_names_every_source(run):
    status, out, _ = run("data", "build", "--help")
    words = " ".join(out.split())
    assert status == 0
    assert [source for source in BUILDERS if not re.search(rf"\b{source}\b", words)] == []


@pytest.mark.slow
def test_built_records_are_checked_merged_and_trained(folder, run):
    built = []
    for source in ANNOTATIONS:
        status, _, _ = run(*arguments(source, folder))
        assert status == 0
        built.append(folder / f"{source.replace('/', '_')}.records.jsonl")
        status, out, _ = run("data", "check", built[-1], "--num-frames", 4, "--strict")
        assert (status, out.splitlines()[-1]) == (0, "  no findings")
    status, out, _ = run(
        "data", "merge", *built, "--out", folder / "all.jsonl", "--ratio", 1, *["--ratio", 1] * (len(built) - 1)
    )
    assert (status, out.splitlines()[0]) == (0, f"{folder}/all.jsonl: {len(built)} records about 1 video")
    recipe = {
        "model": {"checkpoint": "nano", "lora": {"rank": 4}},
        "data": {"sources": [{"records": str(folder / "all.jsonl")}], "num_frames": 4, "max_length": 1024},
        "run": {
            "steps": 1,
            "batch_size": len(ANNOTATIONS),
            "device": "cpu",
            "export": [],
            "plot": False,
            "tensorboard": False,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        status, _, err = run("train", folder / "recipe.yaml", "--output", folder / "run")
    finally:
        torch.set_num_threads(threads)
    assert status == 0, err
    (line,) = read_log(folder / "run")
    assert (line["step"], math.isfinite(line["loss"])) == (1, True)
    lost = folder / "run/lost-records-0.jsonl"
    assert not lost.exists() or not lost.read_text()
