"""Folders of synthetic videos: records together with the events of the scripts."""

import random
from pathlib import Path

import pytest

from tests.synthetic.conftest import PARTS
from timechat.errors import DataError
from timechat.evaluation.metrics.captioning import Attributes
from timechat.synthetic.captions import correct_readings, read_caption
from timechat.synthetic.folder import read_videos
from timechat.synthetic.scene import KINDS, SHAPES, write_scene
from timechat.synthetic.wording import ActionPhrase, caption


def test_videos_have_their_records_and_all_events(folder: Path):
    videos = read_videos(folder)
    assert [video.part for video in videos] == list(PARTS)
    scene = write_scene(5, 0, level=1, split="test")
    assert videos[0].video == f"videos/{scene.id}.mp4"
    assert [(e.id, e.kind, e.span) for e in videos[0].events] == [
        (h.id, h.kind, (h.start, h.end)) for h in scene.actions
    ]
    grounding = [record for record in videos[0].records if record.task == "grounding"]
    assert {record.events[0].id for record in grounding} == {event.id for event in videos[0].events}
    assert videos[0].kind(grounding[0]) == scene.actions[0].kind


def test_tasks_and_videos_can_be_chosen(folder: Path):
    videos = read_videos(folder, tasks=["qa"], limit=2)
    assert len(videos) == 2
    assert {record.task for video in videos for record in video.records} == {"qa"}


def test_an_empty_folder_names_the_command(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no records\.jsonl; make the folder with `timechat data draw"):
        read_videos(tmp_path)


def test_records_without_their_script_are_refused(folder: Path, tmp_path: Path):
    (tmp_path / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    (tmp_path / "truth.jsonl").write_text("")
    with pytest.raises(DataError, match=r"has no script for videos/test-1-5-000000\.mp4"):
        read_videos(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_wording_of_every_action_is_read(kind: str):
    deed = ActionPhrase(kind, ("red", "circle"), ("blue", "star") if kind == "meet" else None)
    assert read_caption(caption(deed)) == Attributes("circle", "red", kind)
    for seed in range(20):
        read = read_caption(deed.clause(random.Random(seed)).text)
        assert read.action == kind
        assert read.object in SHAPES


def test_a_meeting_may_be_told_from_either_side():
    meeting = caption(ActionPhrase("meet", ("red", "circle"), ("blue", "star")))
    assert correct_readings(meeting) == (Attributes("circle", "red", "meet"), Attributes("star", "blue", "meet"))
    assert correct_readings("The red circle bounces") == (Attributes("circle", "red", "bounce"),)


def test_captions_have_the_attributes_of_their_events(folder: Path):
    for video in read_videos(folder, tasks=["dense_caption"]):
        [record] = video.records
        by_id = {event.id: event for event in video.events}
        for event in record.events:
            assert set(correct_readings(event.caption)) == set(by_id[str(event.id)].readings)
