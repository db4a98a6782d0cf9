"""What a build drops, clips, finds and merges; transcripts and compressed copies."""

import json
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from tests.clips import RECIPES, X264, Recipe, draw_clip, draw_video_with_audio, read_numbers
from tests.data.test_builders import UNREAD, answers, build, write, write_rows
from timechat.data.builders import BuildOptions, MergePart, build_file, merge_files
from timechat.data.builders.media import MediaOptions, prepare_media
from timechat.data.builders.video_folder import VideoFolder
from timechat.data.readers import read_records
from timechat.data.records import read_jsonl
from timechat.data.transcripts import transcript_path
from timechat.errors import DataError, VideoError
from timechat.video import load_frames, probe_video
from timechat.video.clips import compress_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Make a video of 3 s."""
    path = tmp_path_factory.mktemp("clip") / "AO8RW.mp4"
    draw_clip(RECIPES["constant rate"], path)
    return path


# ------------------------------------------------------------------------------------------- events and videos

CHARADES = """\
AO8RW 0.0 2.5##a person runs.
AO8RW 2.00 9.5##a person sits
AO8RW 1.0 3.9##a person rests within a second after the end
AO8RW 2.0 1.0##a person is reversed
AO8RW 1.0 1##a person has no length
AO8RW 3.0 4.0##a person is late
AO8RW 0.5 1.5##x
GONE 0.0 1.0##a person is missing
EMPTY 0.0 1.0##a person cannot be read
"""


def test_events_are_compared_with_the_length_of_the_video(clip, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/AO8RW.mp4").symlink_to(clip)
    path = write(tmp_path / "charades_sta_train.txt", CHARADES)
    records, report = build("charades", path, tmp_path, "EMPTY.mp4", options=BuildOptions())
    assert answers(records) == [
        "The given query happens in 0.0 - 2.5 seconds.",
        "The given query happens in 2.00 - 3.0 seconds.",
        "The given query happens in 1.0 - 3.9 seconds.",
    ]
    assert [record.id for record in records] == ["charades:0", "charades:1", "charades:2"]
    assert [record.duration for record in records] == [3.0, 3.0, 3.0]
    (counts,) = report.sources
    assert (counts.read, counts.kept, report.videos) == (9, 3, 1)
    assert counts.count("record") == {
        "missing video": 1,
        "unreadable video": 1,
        "empty text": 1,
        "reversed event": 1,
        "event without length": 1,
        "event after the end": 1,
    }
    assert counts.count("event") == {"clipped end": 1}
    assert counts.findings[0].detail == "2.00 - 9.5 s, a person sits"
    assert list(report.lines(shown=1))[:3] == [
        "  source    read  kept  dropped  published",
        "  charades     9     3        6      12.4k",
        "  charades: dropped, missing video: 1 (the folder holds no file with the id of the video)",
    ]
    assert "    charades:7 GONE.mp4" in list(report.lines(shown=1))


def test_nothing_is_written_if_no_record_is_left(tmp_path):
    path = write(tmp_path / "charades_sta_train.txt", "GONE 0.0 1.0##a person is missing\n")
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match=r"gives no record of charades: all 1 items are dropped: missing video 1"):
        build("charades", path, tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["charades_sta_train.txt", "videos"]


def test_a_failed_build_keeps_the_file_before_it(tmp_path):
    (tmp_path / "out.jsonl").write_text("before")
    path = write(tmp_path / "charades_sta_train.txt", "A 0.0 1.0##a person runs\nA nothing\n")
    with pytest.raises(DataError, match=r"train\.txt:2: expected VIDEO START END##SENTENCE, got 'A nothing'"):
        build("charades", path, tmp_path, "A.mp4")
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("youcook2", {"database": {"a": {"annotations": []}}}, r"a\.json: a: the key 'subset' is missing"),
        ("youcook2", {"database": {"a": {"subset": "dev", "annotations": []}}}, "the split of a video must be one of"),
        ("youcook2", [1], r'expected \{"annotations"'),
        (
            "anet",
            {"v_a": {"timestamps": [[0, 1]], "sentences": ["A.", "B."]}},
            r"a\.json: v_a: 2 sentences for 1 timestamps; their",
        ),
        ("anet", {"v_a": {"timestamps": [["0", 1]], "sentences": ["A."]}}, "expected a number, got '0'"),
        ("anet", {"v_a": {"timestamps": [[0, 1, 2]], "sentences": ["A."]}}, r"must be \[start, end\]"),
        ("didemo", [{"video": "a", "description": "b", "times": []}], "at least one person"),
        ("didemo", [{"clip_name": "a", "caption_list": ["b"], "timestamps": []}], "1 captions for 0 timestamps"),
        ("vitt", [{"vid": "a", "captions": ["b"], "segments": [1, 2]}], "1 captions for 2 segments"),
        ("hirest/steps", [{"image_id": "a", "labels": [], "segments": [[0, 1]]}], "0 labels for 1 segments"),
        ("coin", [3], "item 0: expected a JSON object, got 3"),
        ("qvhighlights", {"annotations": 1}, r'expected \{"annotations"'),
        ("qvhighlights", {"qid": 1, "query": "A dog."}, r"a\.json:1: the key 'vid' is missing"),
        (
            "qvhighlights",
            {"vid": "a", "query": "A dog.", "relevant_clip_ids": [1, 2], "saliency_scores": [[1]]},
            "1 lists of scores for 2 relevant clips",
        ),
        (
            "yttemporal",
            {"id": "a", "subtitles": ["b"], "subtitles_t_start": [0, 1], "subtitles_t_end": [1, 2]},
            "1 words for 2 times",
        ),
        ("summe", {"annotations": [{"image_id": "a", "timestamps": [1], "scores": []}]}, "0 scores for 1 timestamps"),
        ("tvsum", {"x": 1}, r'expected \{"annotations"'),
        ("valley", [{"video": "a.mp4"}], "item 0: needs 'conversations'"),
        ("yttemporal", "{", r"a\.json:1: is not JSON"),
        ("queryd", None, "give the folder of QuerYD"),
        ("summe", None, r"holds no \.mat file"),
        ("kinetics", "", "the source must be one of youcook2"),
    ],
)
def test_malformed_annotations_are_named(source, content, message, tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / "videos").mkdir()
    if content is None:
        path.mkdir()
    else:
        write(path, content)
    with pytest.raises((DataError, ValueError), match=message):
        build(source, path, tmp_path)


def test_a_file_that_is_no_text_is_named(clip, tmp_path):
    (tmp_path / "videos").mkdir()
    for source in ("charades", "coin", "didemo", "qvhighlights", "yttemporal"):
        with pytest.raises(DataError, match=r"AO8RW\.mp4: is not UTF-8 text"):
            build(source, clip, tmp_path)


def test_the_annotations_are_not_overwritten(tmp_path):
    path = write(tmp_path / "out.jsonl", "A 0.0 1.0##a person runs\n")
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="is the file of annotations"):
        build("charades", path, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/one.mp4", "a/one.mp4"),
        ("one.mp4", "a/one.mp4"),
        ("one", "a/one.mp4"),
        ("two.mp4", "b/v_two.mkv"),
        ("v_three", "video-three"),
        ("four_0.0_1.5", "v_four_0.0_1.5.webm"),
        ("folder\\one.avi", "a/one.mp4"),
        ("none", None),
        ("five", None),
        ("a", None),
    ],
)
def test_videos_are_found_by_id(name, file, tmp_path):
    for each in ("a/one.mp4", "b/v_two.mkv", "video-three", "v_four_0.0_1.5.webm", "five.txt"):
        (tmp_path / each).parent.mkdir(exist_ok=True)
        (tmp_path / each).touch()
    assert VideoFolder(tmp_path).find(name) == (None if file is None else tmp_path / file)


def test_a_reordered_file_gives_the_same_questions(tmp_path):
    lines = [f"A {number}.0 {number + 1}.0##person does {number}\n" for number in range(20)]
    options = BuildOptions(reads_durations=False, wording="timechat", seed=3)
    questions = []
    for name, order in (("a", lines), ("b", lines[::-1])):
        records, _ = build("charades", write(tmp_path / name, "".join(order)), tmp_path, "A.mp4", options=options)
        questions.append({record.query: record.turns[0][0] for record in records})
    assert questions[0] == questions[1]
    assert len({text.replace(query, "") for query, text in questions[0].items()}) == 6


def test_tvsum_needs_the_length_of_the_video(clip, tmp_path):
    scores = ",".join(["1"] * 50 + ["4"] * 25)  # 3 s are two units
    other = ",".join(["1"] * 50 + ["2"] * 25)
    path = write(tmp_path / "anno.tsv", f"AO8RW\tVT\t{scores}\nAO8RW\tVT\t{other}\nGONE\tVT\t1,2\n")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/AO8RW.mp4").symlink_to(clip)
    (record,), report = build("tvsum", path, tmp_path, options=BuildOptions())
    assert answers([record]) == ["The highlight timestamps are in the 2 seconds. Their saliency scores are 3.0."]
    assert record.task == "highlights"
    assert report.sources[0].count("record") == {"missing video": 1}


# ---------------------------------------------------------------------------------------------------- merging


def rows(name: str, count: int, source: str | None) -> list[dict[str, object]]:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    extra = {} if source is None else {"source": source}
    return [{"id": f"{name}:{i}", "video": f"{name}{i}.mp4", "messages": messages} | extra for i in range(count)]


def test_merging_takes_a_share_of_each_file(tmp_path):
    a = write_rows(tmp_path / "a.jsonl", *rows("a", 200, "charades"))
    b = write_rows(tmp_path / "b.jsonl", *rows("b", 3, None))
    report = merge_files([MergePart(a, 0.5), MergePart(b, 2)], tmp_path / "out.jsonl", seed=1)
    records = list(read_jsonl(tmp_path / "out.jsonl"))
    charades, own = report.sources
    assert (charades.read, charades.published, own.source, own.read, own.kept) == (200, "12.4k", "b", 3, 6)
    assert charades.kept == 100
    assert len({record.id for record in records}) == len(records) == report.kept
    assert {record.id for record in records if record.source == "b"} == {
        f"b:{i}{copy}" for i in range(3) for copy in ("", "-2")
    }
    assert [record.source for record in records] != sorted(record.source for record in records)
    assert {record.video for record in records if record.source == "b"} == {
        str(tmp_path / f"b{i}.mp4") for i in range(3)
    }
    again = merge_files([MergePart(b, 2), MergePart(a, 0.5)], tmp_path / "again.jsonl", seed=1)
    assert list(read_jsonl(tmp_path / "again.jsonl")) == records
    assert again.kept == report.kept
    merge_files([MergePart(a, 0.5), MergePart(b, 2)], tmp_path / "other.jsonl", seed=2)
    assert list(read_jsonl(tmp_path / "other.jsonl")) != records


def test_equal_ids_of_two_files_become_different(tmp_path):
    one = write_rows(tmp_path / "one.jsonl", *rows("a", 2, "coin"))
    two = write_rows(tmp_path / "two.jsonl", *rows("a", 2, "coin"))
    merge_files([MergePart(one), MergePart(two)], tmp_path / "out.jsonl")
    assert sorted(record.id for record in read_records(tmp_path / "out.jsonl")) == ["a:0", "a:0+2", "a:1", "a:1+2"]


@pytest.mark.parametrize(("ratio", "kept"), [(0.1, 0), (0.5, 2), (1, 3), (1.34, 4), (2.5, 8)])
def test_a_share_is_rounded_to_whole_records(tmp_path, ratio, kept):
    path = write_rows(tmp_path / "a.jsonl", *rows("a", 3, "coin"))
    if kept:
        assert merge_files([MergePart(path, ratio)], tmp_path / "out.jsonl").kept == kept
    else:
        with pytest.raises(DataError, match="no record is left to write"):
            merge_files([MergePart(path, ratio)], tmp_path / "out.jsonl")
        assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("ratio", [0, -1, float("inf"), float("nan")])
def test_a_ratio_must_be_above_zero(ratio, tmp_path):
    with pytest.raises(ValueError, match=r"the ratio of .* must be above 0"):
        MergePart(tmp_path / "a.jsonl", ratio)


# ---------------------------------------------------------------------------------- transcripts and copies


@pytest.mark.parametrize(
    ("video", "name"), [("a/v1.mp4", "v1.txt"), ("v1.MKV", "v1.txt"), ("v1.5", "v1.5.txt"), ("v1.6.mp4", "v1.6.txt")]
)
def test_a_transcript_has_the_name_of_its_video(tmp_path, video, name):
    assert transcript_path(tmp_path, video) == tmp_path / name


def test_speech_is_written_before_the_question(clip, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/AO8RW.mp4").symlink_to(clip)
    write(tmp_path / "speech/AO8RW.txt", "0.00\t1.50\tlook at this here\n")
    path = write(tmp_path / "a.txt", "AO8RW 0.0 2.5##a person runs.\n")
    options = BuildOptions(transcripts=tmp_path / "speech", wording="timechat")
    (record,), _ = build("charades", path, tmp_path, options=options)
    assert record.turns[0][0].startswith(
        "Transcribed speech: 0.0 - 1.5 seconds, look at this here.  "
        "Based on the video content and possible transcribed speech, "
    )


def test_speech_of_a_part_counts_from_its_start(tmp_path):
    write(tmp_path / "speech/a.txt", "0.00\t5.00\tsaid before the part\n12.00\t15.00\tsaid within the part\n")
    item = {"relevant": True, "clip": True, "v_duration": 30, "bounds": [10, 20]}
    item["steps"] = [{"heading": "pour it", "absolute_bounds": [11, 15]}]
    path = write(tmp_path / "all.json", {"Make tea": {"a.mp4": item}})
    options = BuildOptions(transcripts=tmp_path / "speech", reads_durations=False)
    (record,), _ = build("hirest/steps", path, tmp_path, "a.mp4", options=options)
    assert record.turns[0][0].startswith("Transcribed speech: 2.0 - 5.0 seconds, said within the part.  Based on")


class FakeWhisper:
    """Recogniser that always hears the same sentence."""

    heard = 0

    def __init__(self, model, **options):
        pass

    def transcribe(self, _samples, **_options):
        FakeWhisper.heard += 1
        evidence = {"avg_logprob": -0.2, "no_speech_prob": 0.0, "compression_ratio": 1.0}
        line = SimpleNamespace(start=0.5, end=1.25, text=" a beep is heard", words=None, **evidence)
        return iter([line, line]), SimpleNamespace(language="en")


@pytest.fixture
def whisper(monkeypatch, tmp_path):
    """Folder of a model that is `FakeWhisper`."""
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=FakeWhisper))
    FakeWhisper.heard = 0
    for name in ("model.bin", "config.json", "tokenizer.json"):
        write(tmp_path / "whisper" / name, "{}")
    return str(tmp_path / "whisper")


def run_with_media(source, annotations, folder, options, media):
    prepared = prepare_media(source, annotations, folder / "videos", options, media, lambda *_: None)
    out = folder / "out.jsonl"
    build_file(source, annotations, out, videos=folder / "videos", options=options, prepare=prepared.prepare)
    return list(read_jsonl(out)), prepared.problems


def test_speech_is_recognized_once_per_video(whisper, clip, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    draw_video_with_audio(videos / "A.mp4", video_start=0, audio_start=0, beep=1, seconds=2)
    (videos / "SILENT.mp4").symlink_to(clip)
    draw_video_with_audio(videos / "UNUSED.mp4", video_start=0, audio_start=0, beep=1, seconds=2)
    path = write(
        tmp_path / "a.txt", "A 0.0 1.5##a person runs.\nA 0.0 1##a person sits\nSILENT 0.0 2.0##a person waits\n"
    )
    options = BuildOptions(transcripts=tmp_path / "speech")
    media = MediaOptions(asr=whisper)
    for _ in range(2):
        records, problems = run_with_media("charades", path, tmp_path, options, media)
        assert [record.turns[0][0].partition(" Based on")[0] for record in records] == [
            *["Transcribed speech: 0.5 - 1.2 seconds, a beep is heard. "] * 2,
            "Transcribed speech: None.",
        ]
        assert problems == []
    assert FakeWhisper.heard == 1
    assert {each.name: each.read_text() for each in (tmp_path / "speech").iterdir()} == {
        "A.txt": "0.50\t1.25\ta beep is heard\n0.50\t1.25\ta beep is heard\n",
        "SILENT.txt": "",
    }


def test_recognized_speech_is_the_answer_of_yt_temporal(whisper, tmp_path):
    (tmp_path / "videos").mkdir()
    draw_video_with_audio(tmp_path / "videos/A.mp4", video_start=0, audio_start=0, beep=1, seconds=2)
    records, _ = run_with_media(
        "yttemporal",
        write(tmp_path / "speech/none.txt", "").parent,
        tmp_path,
        BuildOptions(),
        MediaOptions(asr=whisper),
    )
    assert answers(records) == ["Transcribed speech: None."]  # line 0 is never used, as in the original
    assert (tmp_path / "speech/A.txt").exists()


def test_recognition_needs_a_folder_of_transcripts(whisper, tmp_path):
    with pytest.raises(ValueError, match="--asr writes transcripts to the folder that --transcripts names"):
        prepare_media("charades", tmp_path, tmp_path, UNREAD, MediaOptions(asr=whisper), lambda *_: None)


def test_copies_are_not_written_among_the_videos(tmp_path):
    media = MediaOptions(compress=tmp_path / "small")
    with pytest.raises(ValueError, match="give --compress a folder beside it"):
        prepare_media("charades", tmp_path, tmp_path, UNREAD, media, lambda *_: None)


def test_records_name_the_compressed_copies(clip, tmp_path):
    (tmp_path / "videos/sub").mkdir(parents=True)
    (tmp_path / "videos/sub/AO8RW.mkv").write_bytes(clip.read_bytes())
    path = write(tmp_path / "a.txt", "AO8RW 0.0 2.5##a person runs.\nAO8RW 1.0 2##a person sits\n")
    media = MediaOptions(compress=tmp_path / "small")
    copy = tmp_path / "small/sub/AO8RW.mp4"
    records, problems = run_with_media("charades", path, tmp_path, BuildOptions(), media)
    assert ([record.video for record in records], problems) == ([str(copy)] * 2, [])
    before = copy.stat().st_mtime_ns
    run_with_media("charades", path, tmp_path, BuildOptions(), media)
    assert copy.stat().st_mtime_ns == before


LARGE = {
    "constant rate": Recipe(options=X264, width=640, height=384),
    "NTSC, starts at 7 s": Recipe(
        ".mkv", [Fraction(i * 1001, 30000) for i in range(70)], options=X264, width=640, height=384, offset=Fraction(7)
    ),
    "variable rate": Recipe(times=RECIPES["variable rate"].times, options=X264, width=640, height=384),
    "turned": Recipe(options=X264, width=640, height=384, rotation=90),
    "slower than the copy": Recipe(
        times=[Fraction(i, 2) for i in range(6)], options=X264, width=640, height=384, rate=Fraction(2)
    ),
    "small": Recipe(options=X264),
    "small and slower": Recipe(times=[Fraction(i, 2) for i in range(6)], options=X264, rate=Fraction(2)),
    "10 bit": Recipe(
        times=[Fraction(i, 2) for i in range(6)],
        options=X264,
        pixel_format="yuv420p10le",
        width=640,
        height=384,
        rate=Fraction(2),
    ),
    "odd size": Recipe(options=X264, pixel_format="yuv444p", width=645, height=387),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_compressed_copy_is_exact_in_time(name, tmp_path):
    clip = draw_clip(LARGE[name], tmp_path / f"source{LARGE[name].suffix}")
    compress_video(clip.path, tmp_path / "copy.mp4")
    frames = load_frames(tmp_path / "copy.mp4", fps=6)
    all_times = load_frames(tmp_path / "copy.mp4", num_frames=1000).timestamps
    np.testing.assert_allclose(all_times, np.arange(len(all_times)) / 6, atol=1e-6)
    assert read_numbers(frames.pixels) == [clip.on_screen(Fraction(i, 6)) for i in range(len(frames.timestamps))]
    assert frames.duration == pytest.approx(float(clip.duration), abs=1e-3)  # Matroska counts in milliseconds
    source, info = probe_video(clip.path), probe_video(tmp_path / "copy.mp4")
    assert min(info.width, info.height) == (96 if name.startswith("small") else 224)
    assert info.width / info.height == pytest.approx(source.width / source.height, abs=0.01)
    assert info.fps == pytest.approx(len(all_times) / frames.duration, abs=0.01)  # the last frame ends with the video
    assert not info.has_audio


def test_a_damaged_video_is_not_compressed(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError):
        compress_video(tmp_path / "a.mp4", tmp_path / "copy.mp4")
    assert not (tmp_path / "copy.mp4").exists()


def test_the_report_is_one_json_object(tmp_path):
    path = write(tmp_path / "a.txt", "A 0.0 1.0##a person runs\nB 0.0 1.0##a person sits\n")
    _, report = build("charades", path, tmp_path, "A.mp4")
    assert json.loads(json.dumps(report.to_dict())) == {
        "records": 1,
        "videos": 1,
        "sources": [
            {
                "source": "charades",
                "read": 2,
                "kept": 1,
                "dropped": {"missing video": 1},
                "events": {},
                "published": "12.4k",
            }
        ],
        "findings": [
            {"kind": "record", "record": "charades:1", "video": "B.mp4", "reason": "missing video", "detail": ""}
        ],
        "notes": [],
    }
