"""Builders of instruction records: every source in its published format, and the recordings of the original."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import golden_path
from timechat.data.builders import BUILDERS, PUBLISHED, BuildOptions, BuildReport, build_file
from timechat.data.builders.matlab import read_matlab
from timechat.data.builders.speech import lines_of_words
from timechat.data.builders.summaries import best_units
from timechat.data.records import Record, read_jsonl
from timechat.errors import DataError

DATA = Path(__file__).parent / "builders"
UNREAD = BuildOptions(reads_durations=False)  # the videos of most tests are empty files


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_rows(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def build(
    source: str, annotations: Path, folder: Path, *names: str, options: BuildOptions = UNREAD
) -> tuple[list[Record], BuildReport]:
    """Build records about empty videos."""
    for name in names:
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "videos" / name).touch()
    report = build_file(source, annotations, folder / "out.jsonl", videos=folder / "videos", options=options)
    return list(read_jsonl(folder / "out.jsonl")), report


def answers(records: list[Record]) -> list[str]:
    return [record.turns[0][1] for record in records]


# ---------------------------------------------------------------------------------- recordings of the original


def construction_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(Path(golden_path("data_construction.json")).read_text())["cases"]
    return cases


SOURCE_OF = {
    ("process_dvc_data", "youcook2"): "youcook2",
    ("process_dvc_data", "anet"): "anet",
    ("process_dvc_data", "queryd"): "queryd",
    ("process_grounding_data", "queryd"): "queryd/grounding",
    ("process_grounding_data", "anet"): "anet/grounding",
    ("process_grounding_data", "charades"): "charades",
    ("process_grounding_data", "didemo"): "didemo",
    ("process_grounding_data", "hirest"): "hirest/grounding",
    ("process_action_data", "coin"): "coin",
    ("process_action_data", "hirest"): "hirest/steps",
    ("process_highlight_data", "qvhighlights"): "qvhighlights",
    ("process_highlight_data", "summe"): "summe",
    ("process_highlight_data", "tvsum"): "tvsum",
    ("process_tsg_data", "yttemporal"): "yttemporal",
}


@pytest.mark.parametrize("wording", ["original", "timechat"])
@pytest.mark.parametrize(("script", "dataset"), SOURCE_OF)
def test_annotations_give_the_answers_of_the_original(script, dataset, wording, tmp_path):
    cases = construction_cases()
    case = next(case for case in cases if case["script"] == script and case.get("dataset") == dataset)
    for name, content in case["inputs"].items():
        write(tmp_path / name, content)
    for item in case["output"]:
        video = tmp_path / item["video"]
        video.parent.mkdir(parents=True, exist_ok=True)
        video.touch()
    source = tmp_path if len(case["inputs"]) > 1 else tmp_path / next(iter(case["inputs"]))
    if dataset == "yttemporal":
        source = source.parent
    videos = (
        (tmp_path / case["output"][0]["video"]).parent if "video_path" not in case else tmp_path / case["video_path"]
    )
    out = tmp_path / "out" / "records.jsonl"
    options = BuildOptions(reads_durations=False, wording=wording)
    build_file(SOURCE_OF[script, dataset], source, out, videos=videos, options=options)
    records = list(read_jsonl(out))
    assert [record.video for record in records] == [str(tmp_path / item["video"]) for item in case["output"]]
    wanted = [turn for item in case["output"] for turn in item["QA"]]
    assert answers(records) == [turn["a"] for turn in wanted]
    for record, turn in zip(records, wanted, strict=True):
        assert turn.get("query_in_q", "") in record.turns[0][0]


def test_only_vitt_and_valley_have_no_recording():
    assert set(BUILDERS) - set(SOURCE_OF.values()) == {"vitt", "valley"}
    assert set(PUBLISHED) <= set(BUILDERS)


# ------------------------------------------------------------------------------------------- published formats


def test_youcook2_is_read_from_its_database(tmp_path):
    steps = [
        {"segment": [3, 9], "id": 0, "sentence": "cut the #onion "},
        {"segment": [12, 20], "id": 1, "sentence": "x"},
    ]
    database = {
        "abc": {"duration": 30.5, "subset": "training", "recipe_type": "101", "annotations": steps},
        "def": {"duration": 9.0, "subset": "validation", "recipe_type": "101", "annotations": steps},
    }
    path = write(tmp_path / "youcookii_annotations_trainval.json", {"database": database})
    records, report = build("youcook2", path, tmp_path, "101/abc.mkv", "101/def.mp4")
    assert answers(records) == ["3.0 - 9.0 seconds, cut the onion."]
    assert (records[0].video, records[0].duration) == (str(tmp_path / "videos/101/abc.mkv"), 30.5)
    (counts,) = report.sources
    assert (counts.read, counts.kept, counts.published) == (2, 1, "1.2k")
    assert (counts.count("record"), counts.count("event")) == ({"other split": 1}, {"empty text": 1})
    records, _ = build("youcook2", path, tmp_path, options=BuildOptions(split="val"))
    assert [record.video for record in records] == [str(tmp_path / "videos/101/def.mp4")]


def test_prepared_captions_are_divided_into_sentences_with_times(tmp_path):
    items = [
        {"image_id": "a.mp4", "pure_cap": "cut it. fry #it.", "segments": [[1, 2], [3, 4]], "duration": 3.5},
        {"image_id": "b.mp4", "pure_cap": "cut it", "segments": [[1, 2], [3, 4]]},
        {"image_id": "c.mp4", "pure_cap": "cut it. fry it. eat it", "segments": [[1, 2], [3, 4]]},
        {"image_id": "d.mp4", "pure_cap": "cut it. ", "segments": [[1, 2]]},
    ]
    path = write(tmp_path / "train.caption_coco_format.json", {"annotations": items})
    records, report = build("youcook2", path, tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    cut = "1.0 - 2.0 seconds, cut it."
    assert answers(records) == [f"{cut}  3.0 - 4.0 seconds, fry it.", cut, cut]
    assert [record.duration for record in records] == [3.5, None, None]
    (counts,) = report.sources
    assert counts.count("record") == {"more sentences than times": 1}
    assert counts.count("event") == {"empty text": 1}
    items = [
        {"image_id": "p/a.mp4", "caption": "He adds 2.5 cups. He stirs.", "segments": [[1, 2], [3, 4]]},
        {"image_id": "b.mp4", "caption": "He sits. ", "segments": [[1, 2], [3, 4]]},
    ]
    path = write(tmp_path / "anet.json", {"annotations": items})
    records, report = build("anet/grounding", path, tmp_path, "a.mp4", "b.mp4")
    assert report.sources[0].count("record") == {"more sentences than times": 1, "empty text": 1}


ACTIVITYNET = {
    "v_one": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81], [80.0, 95.0], [90.0, 95.0]],
        "sentences": ["A woman walks.", " She #sits down. ", "She leaves.", "Too late."],
    },
    "v_two": {"duration": 10.0, "timestamps": [[5, 5]], "sentences": ["No length."]},
}


def test_activitynet_is_read_from_its_published_file(tmp_path):
    path = write(tmp_path / "train.json", ACTIVITYNET)
    records, report = build("anet", path, tmp_path, "v_one.mp4", "two.mkv")
    assert answers(records) == [
        "0.8 - 19.9 seconds, A woman walks.  17.4 - 60.8 seconds, She #sits down.  80.0 - 82.7 seconds, She leaves."
    ]
    (counts,) = report.sources
    assert counts.count("record") == {"event without length": 1}
    assert counts.count("event") == {"event after the end": 1, "clipped end": 1}


def test_activitynet_sentences_are_queries(tmp_path):
    path = write(tmp_path / "train.json", ACTIVITYNET)
    records, report = build("anet/grounding", path, tmp_path, "v_one.mp4")
    assert [record.query for record in records] == ["A woman walks", "She sits down", "She leaves"]
    assert answers(records)[1] == "The given query happens in 17.4 - 60.8 seconds."
    assert report.sources[0].count("record") == {"missing video": 1, "event after the end": 1}


def test_vitt_is_read_with_the_ids_beside_it(tmp_path):
    rows = [
        {"id": "FmTp", "annotations": [{"timestamp": 260, "tag": "Opening"}, {"timestamp": 16000, "tag": "Technique"}]},
        {"id": "Gone", "annotations": [{"timestamp": 0, "tag": "Opening"}]},
    ]
    path = write_rows(tmp_path / "ViTT-annotations.json", *rows)
    write(tmp_path / "id_mapping.json", {"FmTp": "yt_id123456"})
    records, report = build("vitt", path, tmp_path, "yt_id123456.mp4")
    assert answers(records) == ["0.3 seconds, Opening.  16.0 seconds, Technique."]
    assert report.sources[0].count("record") == {"missing video": 1}
    assert report.notes == (
        "no wording of the original is recorded for dense_caption_starts; the prompt of this package is used",
    )


def test_vitt_is_read_as_the_original_prepared_it(tmp_path):
    item = {"vid": "a.mp4", "captions": ["#Mix it", "b"], "segments": [[8.46, 12.0], [20, 21]]}
    records, _ = build("vitt", write(tmp_path / "train.json", [item]), tmp_path, "a.mp4")
    assert answers(records) == ["8.5 seconds, Mix it."]


def test_queryd_is_read_from_its_pickles(tmp_path):
    folder = tmp_path / "queryd"
    folder.mkdir()
    texts = {"video-a": [["a", "dog", "runs."], ["it", "sits"]]}
    times = {"video-a": [[1.26, 4.0], [7.31, 7.33]]}
    for name, content in (("raw", texts), ("times", times)):
        (folder / f"{name}_captions_combined_filtered-v2.pkl").write_bytes(pickle.dumps(content))
    write(folder / "train_list.txt", "video-a\nvideo-b\n")
    records, report = build("queryd/grounding", folder, tmp_path, "a.mp4")
    assert answers(records) == [
        "The given query happens in 1.3 - 4.0 seconds.",
        "The given query happens in 7.3 seconds.",
    ]
    assert report.sources[0].count("record") == {"no annotation": 1}
    assert report.notes == (
        'every wording has the word "end"; queries with one time as the answer have a wording of this package',
    )
    assert records[0].video.endswith("videos/a.mp4")


def test_a_pickle_with_code_is_refused(tmp_path):
    folder = tmp_path / "queryd"
    folder.mkdir()
    (tmp_path / "videos").mkdir()
    (folder / "raw_captions_combined_filtered.pkl").write_bytes(pickle.dumps(Path("x")))
    write(folder / "train_list.txt", "video-a\n")
    with pytest.raises(DataError, match="is not a pickle of plain lists: it names pathlib"):
        build("queryd", folder, tmp_path)


def test_didemo_takes_the_time_that_most_people_gave(tmp_path):
    items = [
        {
            "annotation_id": 1,
            "description": "the cat jumps",
            "video": "9@N00_1.avi",
            "times": [[0, 0], [2, 3], [2, 3], [5, 5]],
        },
        {"annotation_id": 2, "description": "rain. ", "video": "9@N00_1.avi", "times": [[1, 1]]},
    ]
    path = write(tmp_path / "train_data.json", items)
    records, _ = build("didemo", path, tmp_path, "9@N00_1.mov")
    assert answers(records) == [
        "The given query happens in 10 - 20 seconds.",
        "The given query happens in 5 - 10 seconds.",
    ]
    assert [record.query for record in records] == ["the cat jumps", "rain"]


HIREST = {
    "Make tea": {
        "a.mp4": {
            "relevant": True,
            "clip": True,
            "v_duration": 100,
            "bounds": [10, 60],
            "steps": [
                {"index": 0, "heading": "boil water", "absolute_bounds": [10, 30]},
                {"index": 1, "heading": "pour it", "absolute_bounds": [30, 75]},
            ],
        },
        "b.mp4": {"relevant": False, "clip": False, "v_duration": 9, "bounds": [], "steps": []},
        "c.mp4": {"relevant": True, "clip": False, "v_duration": 9, "bounds": [], "steps": []},
        "d.mp4": {"relevant": True, "clip": True, "v_duration": 9, "bounds": [1, 9], "steps": []},
    }
}


def test_hirest_clips_are_queries_in_the_whole_video(tmp_path):
    path = write(tmp_path / "all_data_train.json", HIREST)
    records, report = build("hirest/grounding", path, tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    assert answers(records)[0] == "The given query happens in 10.0 - 60.0 seconds."
    assert [record.query for record in records] == ["Make tea", "Make tea"]
    assert report.sources[0].count("record") == {"not relevant": 1, "no clip": 1}


def test_hirest_steps_count_from_the_start_of_the_clip(tmp_path):
    path = write(tmp_path / "all_data_train.json", HIREST)
    (record,), report = build("hirest/steps", path, tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    assert (record.start, record.end, record.clock, record.duration) == (10.0, 60.0, "part", 100)
    assert answers([record]) == ["0.0 - 20.0 seconds, boil water.  20.0 - 50.0 seconds, pour it."]
    assert report.sources[0].count("record") == {"no annotation": 1, "not relevant": 1, "no clip": 1}
    assert report.sources[0].count("event") == {"clipped end": 1}


def test_coin_is_read_from_its_database(tmp_path):
    step = {"id": "12", "segment": [3.0, 9.2], "label": "cut wire"}
    item = {"duration": 50.1, "start": 1.0, "end": 40.0, "recipe_type": 116, "class": "Weld", "annotation": [step]}
    database = {"NLy71UrHElw": item | {"subset": "training"}, "b": item | {"subset": "testing"}}
    path = write(tmp_path / "COIN.json", {"database": database})
    records, report = build("coin", path, tmp_path, "116/video-NLy71UrHElw")
    assert answers(records) == ["3.0 - 9.2 seconds, cut wire."]
    assert records[0].video.endswith("videos/116/video-NLy71UrHElw")
    assert report.sources[0].count("record") == {"other split": 1}


def test_qvhighlights_is_read_from_its_lines(tmp_path):
    row = {
        "qid": 8737,
        "query": "A family is playing basketball.",
        "duration": 126,
        "vid": "bP5KfdFJzC4_660.0_810.0",
        "relevant_windows": [[0, 4]],
        "relevant_clip_ids": [0, 1, 70],
        "saliency_scores": [[4, 1, 1], [4, 3, 3], [1, 1, 1]],
    }
    test_row = {"qid": 1, "query": "A dog.", "duration": 150, "vid": "other"}
    path = write_rows(tmp_path / "highlight_train_release.jsonl", row, test_row)
    records, report = build("qvhighlights", path, tmp_path, "train/v_bP5KfdFJzC4_660.0_810.0.mp4")
    assert answers(records) == [
        "There are 2 highlight moments in the 0.0, 2.0 second. Their saliency scores are 2.0, 3.3."
    ]
    assert (records[0].task, records[0].query) == ("highlights", "A family is playing basketball")
    assert report.sources[0].count("record") == {"no annotation": 1}
    assert report.sources[0].count("event") == {"event after the end": 1}


def test_the_best_units_of_a_video_are_its_highlights():
    scores = np.array([1.0] * 20 + [5.0] * 20 + [3.0] * 40 + [1.0] * 320)  # 10 frames per second
    spans = best_units(scores, 40.0)
    assert [(span.start, span.saliency) for span in spans] == [(2, 5.0), (4, 3.0), (6, 3.0)]
    assert len(best_units(scores[:10], 1.0)) == 1


def test_summe_is_read_from_its_matlab_files():
    arrays = read_matlab(DATA / "summe_gt.mat")  # written by SciPy, compressed
    assert arrays["gt_score"].shape == (60, 1)
    assert arrays["user_score"].shape == (60, 3)
    assert float(arrays["FPS"].item()) == 10.0
    assert arrays["gt_score"][20:23, 0].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    plain = read_matlab(DATA / "summe_plain.mat")
    assert plain["gt_score"].reshape(-1).tolist() == arrays["gt_score"].reshape(-1).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no", "is not a MATLAB file"), (b"\x89HDF\r\n\x1a\n", "version 7.3"), (b"MATLAB 7.3 MAT-file", "version 7.3")],
)
def test_other_matlab_files_are_refused(content, message, tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_matlab(path)


def test_a_cut_matlab_file_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes((DATA / "summe_gt.mat").read_bytes()[:300])
    with pytest.raises(DataError, match="is damaged: it ends within an element"):
        read_matlab(path)


def test_words_of_yt_temporal_become_lines(tmp_path):
    words = ["hello", "there", "my", "friend.", "we", "go", "home", "now"]
    starts = [0.0, 0.4, 0.8, 1.2, 5.0, 5.5, 6.0, 9.0]
    row = {
        "id": "y1",
        "duration": 20,
        "subtitles": " ".join(words),
        "subtitles_t_start": starts,
        "subtitles_t_end": [start + 0.3 for start in starts],
    }
    older = {
        "info": {"display_id": "y2", "duration": 20},
        "subtitles": [{"word": word, "time": time} for word, time in zip(words, starts, strict=True)],
    }
    path = tmp_path / "yttemporal1b_val.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(each) for each in (row, older)).encode()))
    records, _ = build("yttemporal", path, tmp_path, "y1.mp4", "video-y2")
    assert answers(records) == [
        "Transcribed speech: 5.0 - 6.3 seconds, we go home. ",
        "Transcribed speech: 5.0 - 6.5 seconds, we go home. ",
    ]
    lines = lines_of_words([(t, t + 0.5, "word") for t in range(25)])
    assert [(line.start, line.end) for line in lines] == [(0, 9.5), (10, 19.5), (20, 24.5)]


def said(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "A dog."}]


def test_valley_names_parts_unless_the_file_is_cut(tmp_path):
    names = ["abcDE123456_000012_000022", "zbcDE123456_000012_000022"]
    items = [
        {"v_id": names[0], "video": "x/1.mp4", "source": "VATEX", "conversations": said("<video>\nWhat is it?")},
        {"v_id": names[1], "video": "x/2.mp4", "source": "VATEX", "conversations": said("What?")},
        {"v_id": "j1", "source": "jukinmedia", "conversations": said("What is it?\n<video>") + said("Why?")},
        {"v_id": "j2", "source": "jukinmedia", "conversations": said("Where?")},
    ]
    path = write(tmp_path / "valley.json", items)
    records, report = build("valley", path, tmp_path, f"{names[0]}.mp4", "zbcDE123456.mp4", "j1.mp4")
    assert [(record.start, record.end, record.clock) for record in records] == [
        (None, None, "video"),
        (12.0, 22.0, "part"),
        (None, None, "video"),
    ]
    assert records[0].turns == [("What is it?", "A dog.")]
    assert records[2].turns == [("What is it?", "A dog."), ("Why?", "A dog.")]
    assert report.sources[0].count("record") == {"missing video": 1}
