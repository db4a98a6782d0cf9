"""Fixtures of the tests of synthetic videos."""

import json
from pathlib import Path

import pytest

from timechat.synthetic.records import synthetic_records
from timechat.synthetic.scene import write_scene

PARTS = ("standard", "standard", "unseen_pairs", "longer")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records and scripts of four videos, as `timechat data draw` writes them, without the video files."""
    folder = tmp_path_factory.mktemp("synthetic")
    scenes = [write_scene(5, i, level=1, split="test", part=part) for i, part in enumerate(PARTS)]
    with (folder / "records.jsonl").open("w") as records, (folder / "truth.jsonl").open("w") as scripts:
        for scene in scenes:
            scripts.write(json.dumps(scene.to_dict()) + "\n")
            for record in synthetic_records(scene, has_negatives=scene.part == "longer"):
                records.write(json.dumps(record.to_dict()) + "\n")
    return folder
