"""Synthetic videos: their records are true, and their files show what their scripts say."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import av
import pytest

from timechat.answers.events import Task
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import build_question, parse_events
from timechat.cli import main
from timechat.data.records import Record
from timechat.synthetic import records as recording
from timechat.synthetic import write as writing
from timechat.synthetic.questions import QuestionKind
from timechat.synthetic.records import CLIP_SECONDS, SyntheticRecord, relevant_moments, synthetic_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import COLORS, SHAPES, TICK, Action, SyntheticVideo, is_unseen_pair, write_scene
from timechat.synthetic.speech import make_speech
from timechat.synthetic.vocabulary import all_sentences
from timechat.synthetic.wording import ACTIONS, action_phrases
from timechat.synthetic.write import SyntheticSet, is_rendered, render_videos, write_video
from timechat.video import load_frames

VIDEOS = [write_scene(7, i, level=level) for level in (1, 2, 3) for i in range(25)]
RECORDS = {video.id: synthetic_records(video) for video in VIDEOS}
PAIRS = [(video, record) for video in VIDEOS for record in RECORDS[video.id]]


def of_task(*tasks: str) -> list[tuple[SyntheticVideo, SyntheticRecord]]:
    return [(video, record) for video, record in PAIRS if record.task in tasks]


def event_task(task: str) -> Task:
    """Check that a task is one of the model's."""
    assert task in get_args(Task)
    return cast(Task, task)


def test_variants_differ_and_the_same_variant_is_repeatable():
    video = VIDEOS[0]
    assert synthetic_records(video) == RECORDS[video.id]
    other = synthetic_records(video, variant=1)
    assert [r.question for r in other] != [r.question for r in RECORDS[video.id]]
    assert {r.transcript for r in other} == {r.transcript for r in RECORDS[video.id]}


def test_every_video_has_every_task_and_unique_record_ids():
    for video in VIDEOS:
        records = RECORDS[video.id]
        tasks = {record.task for record in records} - {"transcribe"}
        assert tasks == {"dense_caption", "grounding", "highlights", "steps", "summary", "qa"}
        assert len({record.id for record in records}) == len(records)
        assert {record.part for record in records} == {"standard"}
        assert {record.video for record in records} == {f"videos/{video.id}.mp4"}


def test_every_event_has_one_grounding_record_with_its_id():
    for video in VIDEOS:
        questions = [r for r in RECORDS[video.id] if r.task == "grounding" and not r.is_negative]
        assert [r.events[0].id for r in questions] == [action.id for action in video.actions]
        for record, action in zip(questions, video.actions, strict=True):
            assert (record.events[0].start, record.events[0].end) == (action.start, action.end)
            assert record.query


def test_an_event_id_is_the_same_event_in_all_records():
    for video in VIDEOS:
        events = {event for record in RECORDS[video.id] for event in record.events}
        assert len({event.id for event in events}) == len(events)


def test_descriptions_of_events_are_unique_in_a_video():
    for video in VIDEOS:
        phrases = action_phrases(video).values()
        assert len({phrase.clause().text for phrase in phrases}) == len(video.actions)


def test_repeated_actions_are_numbered_in_order_of_time():
    numbered = 0
    for video in VIDEOS:
        phrases = action_phrases(video)
        again: dict[object, list[int]] = {}
        for action in video.actions:
            if (ordinal := phrases[action.id].ordinal) is not None:
                again.setdefault((action.kind, frozenset(action.actors)), []).append(ordinal)
        for ordinals in again.values():
            assert ordinals == list(range(len(ordinals)))
            numbered += len(ordinals) > 1
    assert numbered


def test_captions_use_the_first_wording():
    video = next(video for video in VIDEOS if any(action.kind == "meet" for action in video.actions))
    captions = {event.id: event.caption for event in RECORDS[video.id][0].events}
    for action in video.actions:
        obj, *other = (video.objects[i].name for i in action.actors)
        verb = ACTIONS[action.kind][0].finite.replace("{other}", f"the {other[0] if other else ''}")
        assert captions[action.id] == f"The {obj} {verb}."


def test_times_are_half_seconds_inside_the_video():
    for video, record in PAIRS:
        spans = [(event.start, event.end) for event in record.events]
        spans += [(sentence.start, sentence.end) for sentence in record.transcript or ()]
        for start, end in spans:
            assert 0 <= start < end <= video.duration
            assert start % TICK == end % TICK == 0
        for moment in record.moments or ():
            assert 0 <= moment.start < video.duration
            assert moment.start % CLIP_SECONDS == 0


def test_answers_parse_back_to_the_same_events():
    for video, record in of_task("dense_caption", "steps", "transcribe"):
        parsed = parse_events(record.response, task=event_task(record.task), duration=video.duration)
        assert [(e.start, e.end, e.caption) for e in parsed.events] == [
            (e.start, e.end, e.caption) for e in record.events
        ]
    for video, record in of_task("grounding"):
        parsed = parse_events(record.response, task="grounding", duration=video.duration)
        assert [(e.start, e.end) for e in parsed.events] == [(e.start, e.end) for e in record.events]
    for video, record in of_task("highlights", "summary"):
        parsed = parse_events(record.response, task=event_task(record.task), duration=video.duration)
        assert [(e.start, e.saliency) for e in parsed.events] == [(m.start, m.saliency) for m in record.moments or ()]


def test_highlights_lie_in_their_events_and_peak_in_the_middle():
    for _, record in of_task("highlights"):
        assert record.moments
        scores = {moment.start: moment.saliency or 0.0 for moment in record.moments}
        for moment in record.moments:
            assert 1.0 <= scores[moment.start] <= 4.0
            assert any(e.start < moment.start + CLIP_SECONDS and moment.start < e.end for e in record.events)
        if len(record.events) == 1:
            event = record.events[0]
            best = max(scores, key=lambda start: scores[start])
            assert abs(best + CLIP_SECONDS / 2 - (event.start + event.end) / 2) <= CLIP_SECONDS / 2


def test_clip_scores_fall_from_the_middle_of_an_action():
    spin = Action("a", "spin", 0, 3.0, 7.0)
    assert [(m.start, m.end, m.saliency) for m in relevant_moments([spin])] == [(2, 2, 2.0), (4, 4, 4.0), (6, 6, 2.0)]
    bounce = Action("b", "bounce", 1, 6.0, 8.0)  # the better score of two actions counts
    assert [(m.start, m.saliency) for m in relevant_moments([spin, bounce])] == [(2, 2.0), (4, 4.0), (6, 4.0)]
    assert relevant_moments([Action("c", "bounce", 1, 5.5, 6.5)]) == []  # less than half of each clip


def test_clips_with_more_actions_are_more_important():
    actions = [Action("a", "spin", 0, 3.0, 7.0), Action("b", "bounce", 1, 6.0, 8.0)]
    moments = recording._important_moments(actions)
    assert [(m.start, m.end, m.saliency) for m in moments] == [(2, 2, 1.5), (4, 4, 2.5), (6, 6, 3.0)]


def test_summary_has_moments_with_scores_and_sentences():
    for video in VIDEOS:
        moments, sentences = (r for r in RECORDS[video.id] if r.task == "summary")
        assert (moments.kind, sentences.kind) == ("moments", "sentences")
        assert 1 <= len(moments.moments or ()) <= 10
        assert sentences.response.startswith(sentences.events[0].caption)
        assert len(sentences.events) == sentences.response.count(".")


def test_steps_are_all_actions_of_one_object():
    for video, record in of_task("steps"):
        actors = {action.object for action in video.actions if action.id in {event.id for event in record.events}}
        assert len(actors) == 1
        assert len(record.events) == sum(action.object in actors for action in video.actions)
        if record.query:
            assert record.query in record.question
        else:
            counts = [sum(action.object == i for action in video.actions) for i in range(len(video.objects))]
            assert len(record.events) == max(counts)


def test_over_half_of_the_questions_use_the_preset():
    for task in ("dense_caption", "grounding", "highlights", "steps", "summary", "transcribe"):
        questions = [record for _, record in of_task(task)]
        usual = 0
        for record in questions:
            name = "highlights" if record.kind == "moments" else task
            query = record.query if task in ("grounding", "highlights") else None
            usual += record.question.endswith(build_question(event_task(name), query))
        assert usual / len(questions) > 0.5, task


def test_half_of_the_queries_use_the_words_of_answers():
    questions = [(video, r) for video, r in of_task("grounding") if not r.is_negative]
    canonical = sum(r.query == action_phrases(video)[r.events[0].id].clause().text for video, r in questions)
    assert 0.35 < canonical / len(questions) < 0.7


def test_all_kinds_of_question_occur():
    assert {record.kind for _, record in of_task("qa")} == set(get_args(QuestionKind))


def test_the_short_answer_is_the_response_in_lower_case():
    for _, record in of_task("qa"):
        assert record.answer
        assert record.response == f"{record.answer[0].upper()}{record.answer[1:]}."


def test_yes_and_no_answers_are_balanced():
    for video in VIDEOS:
        questions = [r for r in RECORDS[video.id] if r.kind == "does_happen"]
        assert sorted(str(r.answer) for r in questions) == ["no", "yes"]


def test_only_one_event_happens_at_the_time_of_a_question():
    for video, record in of_task("qa"):
        if record.kind == "what_at":
            time = float(next(word for word in record.question.split("possible")[-1].split() if word[0].isdigit()))
            shown = [action.id for action in video.actions if action.start <= time <= action.end]
            assert shown == [event.id for event in record.events]


def test_counts_and_lengths_are_correct():
    for video, record in of_task("qa"):
        events = {event.id: event for event in record.events}
        if record.kind == "how_many":
            names = ["none", "one", "two", "three", "four", "five", "six"]
            objects = {action.object for action in video.actions if action.id in events}
            assert record.answer == names[len(objects)]
        if record.kind == "how_often":
            assert str(record.answer).startswith(
                ["never", "once", "twice", "three", "four", "five", "six"][len(events)]
            )
        if record.kind == "how_long":
            (event,) = record.events
            assert record.answer == f"{event.end - event.start:.1f} seconds"


def test_negative_queries_do_not_happen():
    verbs = {verb.finite: kind for kind, verbs in ACTIONS.items() for verb in verbs if kind != "meet"}
    checked = 0
    for video, record in of_task("grounding"):
        if record.is_negative:
            assert record.response == NOT_FOUND_ANSWER
            assert record.events == ()
            happens = {(action.kind, video.objects[action.object].name) for action in video.actions}
            for obj, (finite, kind) in itertools.product(video.objects, verbs.items()):
                if record.query == f"the {obj.name} {finite}":
                    assert (kind, obj.name) not in happens
                    checked += 1
    assert checked


def test_negatives_are_an_eighth_of_training_and_none_of_testing():
    questions = [record for _, record in of_task("grounding")]
    assert 0.09 < sum(r.is_negative for r in questions) / len(questions) < 0.16
    video = write_scene(7, 0, split="test")
    assert not any(r.is_negative for r in synthetic_records(video))
    assert any(r.is_negative for v in range(9) for r in synthetic_records(video, variant=v, has_negatives=True))


def test_speech_is_in_every_record_and_half_of_the_questions():
    prefixed = total = 0
    for video in VIDEOS:
        speech = make_speech(video)
        has_transcribe = any(r.task == "transcribe" for r in RECORDS[video.id])
        assert has_transcribe == (speech is not None and speech.is_narration)
        for record in RECORDS[video.id]:
            assert (record.transcript is None) == (speech is None)
            is_prefixed = record.question.startswith("Transcribed speech: ")
            assert not (is_prefixed and (speech is None or record.task == "transcribe"))
            if speech is not None and record.task != "transcribe":
                assert not is_prefixed or speech.utterances[0].text in record.question
                prefixed, total = prefixed + is_prefixed, total + 1
    assert 0.4 < prefixed / total < 0.6


def test_a_narrator_names_events_when_they_start():
    for video, record in of_task("transcribe"):
        phrases = action_phrases(video)
        starts = {(action.start, phrases[action.id].clause().text) for action in video.actions}
        for event in record.events:
            assert (event.start, event.caption.removeprefix("Now ").removesuffix(".")) in starts


def test_training_and_testing_share_no_video():
    train, test = SyntheticSet(30, 5), SyntheticSet(30, 5, split="test")
    scripts = [{str(videos.script(i).actions) for i in range(30)} for videos in (train, test)]
    ids = [{videos.script(i).id for i in range(30)} for videos in (train, test)]
    assert not scripts[0] & scripts[1]
    assert not ids[0] & ids[1]


def test_mixed_parts_are_80_10_and_10_percent():
    videos = SyntheticSet(20, 5, split="test")
    parts = [videos.script(i).part for i in range(20)]
    assert [parts.count(part) for part in ("standard", "unseen_pairs", "longer")] == [16, 2, 2]


def test_unseen_pairs_are_not_shown_or_named_in_training():
    videos = SyntheticSet(150, 1, level=3)
    for i in range(150):
        video = videos.script(i)
        assert not any(is_unseen_pair(obj.color, obj.shape) for obj in video.objects)
    looks = list(itertools.product(COLORS, SHAPES))
    unseen = {f"{c} {s}" for c, s in looks if is_unseen_pair(c, s)}
    named = {f"{c} {s}" for _, r in PAIRS for c, s in looks if f"{c} {s}" in str(r.query)}
    assert named
    assert not named & unseen
    video = write_scene(1, 0, split="test", part="unseen_pairs")
    assert sum(is_unseen_pair(obj.color, obj.shape) for obj in video.objects) == 1


def test_longer_videos_are_longer_than_any_in_training():
    for level in (1, 2, 3):
        longest = max(write_scene(2, i, level=level).duration for i in range(60))
        assert write_scene(2, 0, level=level, split="test", part="longer").duration > longest


def test_the_corpus_has_every_word_of_questions_and_answers():
    words = {word for text in all_sentences() for word in _words(text)}
    missing = {word for _, r in PAIRS for text in (r.question, r.response) for word in _words(text)} - words
    assert not missing
    assert len(words) < 500
    assert list(all_sentences()) == list(all_sentences())


def _words(text: str) -> set[str]:
    return {word.strip(".,:;?!'()-").lower() for word in text.split() if not any(c.isdigit() for c in word)} - {""}


@pytest.fixture
def small_videos(monkeypatch):
    """Make videos with few and small frames, so that rendering is fast."""
    monkeypatch.setattr(writing, "write_scene", lambda *a, **k: _make_small(write_scene(*a, **k)))


def _make_small(video: SyntheticVideo) -> SyntheticVideo:
    return replace(video, fps=5, width=64, height=48)


def test_files_hold_the_records_and_scripts_of_the_set(tmp_path, small_videos):
    videos = SyntheticSet(3, 11, level=2, split="test")
    done = render_videos(videos, tmp_path, workers=1)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    expected = [record.to_dict() for i in range(3) for record in synthetic_records(videos.script(i))]
    assert lines == expected
    assert (done.drawn, done.kept, done.records) == (3, 0, len(lines))
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert truth == [
        json.loads(json.dumps({"video": f"videos/{videos.script(i).id}.mp4", **videos.script(i).to_dict()}))
        for i in range(3)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.jsonl", "truth.jsonl", "videos"]
    assert {tmp_path / line["video"] for line in lines} == set((tmp_path / "videos").iterdir())
    assert {"id", "video", "duration", "task", "messages", "events", "source", "part"} <= lines[0].keys()
    assert [Record.from_dict(line).to_dict() for line in lines] == lines
    assert [message["role"] for message in lines[0]["messages"]] == ["user", "assistant"]


def test_another_set_in_the_folder_leaves_no_orphans(tmp_path, small_videos):
    render_videos(SyntheticSet(2, 12), tmp_path, workers=1)
    mine = tmp_path / "videos" / "mine.mp4"
    mine.write_bytes(b"no synthetic video")
    (tmp_path / "videos" / f".{'0' * 16}.unfinished").touch()
    done = render_videos(SyntheticSet(1, 13), tmp_path, workers=1)
    assert (done.drawn, done.kept, done.removed) == (1, 0, 2)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {tmp_path / line["video"] for line in lines} | {mine} == set((tmp_path / "videos").iterdir())


def test_complete_files_are_kept_and_damaged_ones_replaced(tmp_path, small_videos):
    videos = SyntheticSet(3, 12)
    assert render_videos(videos, tmp_path, workers=1).drawn == 3
    first, second, third = sorted((tmp_path / "videos").iterdir())
    second.write_bytes(second.read_bytes()[:500])
    third.write_bytes(first.read_bytes())  # another video under this name
    before = first.stat().st_mtime_ns
    records = (tmp_path / "records.jsonl").read_bytes()
    seen: list[tuple[int, int]] = []
    done = render_videos(videos, tmp_path, workers=1, progress=lambda *counts: seen.append(counts))
    assert (done.drawn, done.kept) == (2, 1)
    assert first.stat().st_mtime_ns == before
    assert is_rendered(videos.script(1), second)
    assert is_rendered(videos.script(2), third)
    assert (tmp_path / "records.jsonl").read_bytes() == records
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    videos = SyntheticSet(2, 13)
    for workers in (1, 2):
        render_videos(videos, tmp_path / str(workers), workers=workers)
    for name in ("records.jsonl", "truth.jsonl", *(f"videos/{videos.script(i).id}.mp4" for i in range(2))):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_file_shows_the_frames_of_its_script(tmp_path):
    video = write_scene(3, 5)
    path = tmp_path / "video.mp4"
    write_video(video, path)
    times = [3.0, video.duration / 2, video.duration - 1]
    frames = load_frames(path, timestamps=times)
    assert frames.duration == pytest.approx(video.duration, abs=1e-6)
    assert frames.pixels.shape == (3, video.height, video.width, 3)
    drawn = draw_frames(video, frames.timestamps)
    assert abs(frames.pixels.astype(int) - drawn).mean() < 4
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        keyframes = [float(p.pts * p.time_base) for p in container.demux(stream) if p.is_keyframe and p.pts is not None]
    gaps = [b - a for a, b in itertools.pairwise([*keyframes, video.duration])]
    assert max(gaps) <= video.keyframe_seconds + 1e-6


def test_some_videos_have_b_frames(tmp_path, small_videos):
    render_videos(SyntheticSet(5, 14), tmp_path, workers=1)
    has_b_frames = set()
    for path in (tmp_path / "videos").iterdir():
        with av.open(str(path)) as container:
            order = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        has_b_frames.add(order != sorted(order))
    assert has_b_frames == {True, False}


def test_a_failed_write_leaves_no_file(tmp_path, small_videos, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writing, "draw_frames", fail)
    with pytest.raises(OSError, match="disk full"):
        render_videos(SyntheticSet(1, 15), tmp_path, workers=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["videos"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    sys.argv = ["timechat", *map(str, arguments)]
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_data_draw_prints_the_records_path_and_speed(capsys, tmp_path, small_videos):
    out = tmp_path / "videos"
    command = ("data", "draw", out, "--clips", 2, "--seed", 1, "--workers", 1)
    status, printed, report = run(capsys, *command)
    assert status == 0
    assert Path(printed.strip()) == out / "records.jsonl"
    assert report.startswith("drew 2 videos, wrote ")
    assert "videos per second" in report
    assert run(capsys, *command)[2].startswith("drew 0 videos, kept 2 that existed")
    assert run(capsys, *command, "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--clips", 0, "--seed", 1], "--clips"),
        (["--clips", 2], "--seed"),
        (["--clips", 2, "--seed", 1, "--level", 4], "--level"),
        (["--clips", 2, "--seed", 1, "--split", "dev"], "--split"),
        (["--clips", 2, "--seed", 1, "--part", "longer"], "exists for testing"),
        (["--clips", 2, "--seed", 1, "--workers", 0], "--workers"),
    ],
)
def test_bad_options_give_one_line_and_write_nothing(capsys, tmp_path, options, complaint):
    status, printed, error = run(capsys, "data", "draw", tmp_path / "out", *options)
    assert (status, printed) == (2, "")
    assert error.startswith("timechat: ")
    assert error.count("\n") == 1
    assert complaint in error
    assert not (tmp_path / "out").exists()


def test_an_output_path_that_is_a_file_is_an_error(capsys, tmp_path):
    (tmp_path / "out").write_text("")
    status, _, error = run(capsys, "data", "draw", tmp_path / "out", "--clips", 1, "--seed", 1)
    assert status == 2
    assert error == f"timechat: {tmp_path / 'out' / 'videos'}: not a directory\n"
