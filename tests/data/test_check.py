"""`check_records`: what is wrong with records before they are trained on."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.clips import Recipe, draw_clip
from tests.model.random_nano import build_random_nano
from timechat.answers.prompts import Message
from timechat.data.check import check_records
from timechat.data.records import Record
from timechat.data.settings import SampleSettings

SETTINGS = SampleSettings(num_frames=8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A clip of three seconds, one cut in half, and one that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    clip = draw_clip(Recipe(options={"g": "25", "preset": "ultrafast"}), folder / "good.mp4")
    data = clip.path.read_bytes()
    (folder / "half.ts").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(b"no video" * 100)
    broken = bytearray(data)
    broken[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (folder / "holes.mp4").write_bytes(broken)
    return folder


@pytest.fixture(scope="module")
def processor():
    return build_random_nano()[1]


def record(videos, name="good.mp4", question="When?", answer="In 1.0 - 2.0 seconds.", **changes):
    messages = (Message("user", question), Message("assistant", answer))
    return Record(**{"video": str(videos / name), "id": name, "messages": messages} | changes)


def kinds(report):
    return [finding.kind for finding in report.findings]


def test_good_records_give_lengths_and_no_findings(videos, processor):
    report = check_records([record(videos), record(videos, id="2")], SETTINGS, processor=processor, workers=1)
    assert (report.records, report.videos, report.findings) == (2, 1, ())
    times = [i * 3.0 / 8 for i in range(8)]
    ids, _ = processor.encode_training(times, [("When?", "In 1.0 - 2.0 seconds.")])
    assert report.token_quantiles == {0.5: len(ids), 0.9: len(ids), 0.99: len(ids), 1.0: len(ids)}


@pytest.mark.parametrize("decodes", [False, True])
def test_an_image_is_a_good_record(videos, processor, decodes):
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(videos / "grey.jpg")
    item = record(videos, "grey.jpg", "Which colour?", "Grey.", is_image=True)
    report = check_records([item], SETTINGS, processor=processor, decodes=decodes, workers=0)
    assert report.findings == ()
    assert report.token_quantiles[1.0] == len(processor.encode_training([0.0], [("Which colour?", "Grey.")])[0])
    (videos / "bad.jpg").write_bytes(b"no image" * 100)
    bad = record(videos, "bad.jpg", is_image=True)
    assert kinds(check_records([bad], SETTINGS, decodes=decodes, workers=0)) == ["damaged"]


def test_bad_videos_are_classified_in_the_order_of_records(videos):
    names = ["none.mp4", "noise.mp4", "good.mp4", "half.ts"]
    done = []
    report = check_records(
        [record(videos, name) for name in names], SETTINGS, workers=2, progress=lambda *state: done.append(state)
    )
    assert [(finding.record, finding.kind) for finding in report.findings] == [
        ("none.mp4", "missing"),
        ("noise.mp4", "damaged"),
        ("half.ts", "damaged"),
    ]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.counts == {"missing": 1, "damaged": 2}
    assert report.token_quantiles == {}


def test_decoding_finds_damage_after_the_header(videos):
    item = record(videos, "holes.mp4")
    assert check_records([item], SETTINGS, workers=0).findings == ()
    assert set(kinds(check_records([item], SETTINGS, decodes=True, workers=0))) <= {"degraded", "damaged"}
    assert check_records([item], SETTINGS, decodes=True, workers=0).findings


@pytest.mark.parametrize("decodes", [False, True])
def test_short_videos_and_late_events_are_found(videos, decodes):
    late = record(videos, answer="9.0 - 12.0 seconds, a dog runs.")
    assert kinds(check_records([late], SETTINGS, decodes=decodes, workers=0)) == ["late_event"]
    many = dataclasses.replace(SETTINGS, num_frames=90)
    assert kinds(check_records([record(videos)], many, decodes=decodes, workers=0)) == ["short"]
    part = record(videos, start=1.0, end=2.0)
    half = dataclasses.replace(SETTINGS, num_frames=40)
    assert kinds(check_records([part], half, decodes=decodes, workers=0)) == ["short"]
    gone = record(videos, start=7.0, end=8.0)
    assert kinds(check_records([gone], SETTINGS, decodes=decodes, workers=0)) == ["damaged"]


def test_truncated_answers_are_found(videos, processor):
    settings = dataclasses.replace(SETTINGS, max_length=300)
    items = [record(videos, question="why " * 400), record(videos, answer="because " * 200, id="2")]
    report = check_records(items, settings, processor=processor, workers=0)
    assert kinds(report) == ["truncated", "shortened"]
    assert min(report.token_quantiles.values()) > 300


def test_typing_errors_in_optional_keys_are_found(videos):
    item = record(videos, extra={"transcrpt": [], "level": 1})
    (finding,) = check_records([item], SETTINGS, workers=0).findings
    assert finding.detail == "'transcrpt' is unknown; did you mean 'transcript'?"


@pytest.mark.parametrize(
    ("question", "answer", "found"),
    [
        ("Why <ImageHere>?", "So.", {"mark": "the question contains the mark <ImageHere>"}),
        ("Why?", "So [/INST] it is.", {"mark": "the answer contains the mark [/INST]"}),
        ("Why? </s>", "So.", {"mark": "the question contains the mark </s>"}),
        ("Is <video> here?", "So.", {"mark": "the question contains the mark <video>"}),
        ("Why?", "It is <video>.", {}),
        ("Why?", "So.<|eot_id|>", {"mark": "the answer contains the mark <|eot_id|>"}),
        ("Why?", " \n", {"empty": "the answer is empty"}),
        ("", "So.", {"empty": "the question is empty"}),
        ("When?", "In 2.5 - 1.0 seconds.", {"reversed_event": "an event ends at 1 s, before its start at 2.5 s"}),
        (
            "When?",
            "1.0 - 90.0 seconds, a dog runs.",
            {"long_event": "an event ends at 90 s, but the video ends at 3 s"},
        ),
        ("When?", "1.0 - 3.6 seconds, a dog runs.", {}),
    ],
)
def test_texts_and_events_with_problems_are_found(videos, question, answer, found):
    report = check_records([record(videos, question=question, answer=answer)], SETTINGS, workers=0)
    assert {finding.kind: finding.detail for finding in report.findings} == found


def test_a_system_turn_is_named_although_the_video_is_missing(videos):
    report = check_records([record(videos, "none.mp4", system="Be brief.")], SETTINGS, workers=0)
    assert kinds(report) == ["system_turn", "missing"]
