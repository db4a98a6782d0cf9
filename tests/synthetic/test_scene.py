"""Drawn films: what is said about them is true, and their files are what their scripts say."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import av
import pytest

from timechat.answers.tasks import build_question, parse_events
from timechat.cli import main
from timechat.data.records import Record
from timechat.synthetic import write as writing
from timechat.synthetic.questions import QUESTION_KINDS
from timechat.synthetic.records import CLIP_SECONDS, SyntheticRecord, synthetic_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import COLORS, SHAPES, TICK, SyntheticVideo, is_unseen_pair, write_scene
from timechat.synthetic.speech import make_speech
from timechat.synthetic.wording import ACTIONS, NOT_FOUND_ANSWER, action_phrases, all_sentences
from timechat.synthetic.write import SyntheticSet, is_rendered, render_videos, write_video
from timechat.video import load_frames

FILMS = [write_scene(7, i, level=level) for level in (1, 2, 3) for i in range(25)]
RECORDS = {film.id: synthetic_records(film) for film in FILMS}
PAIRS = [(film, record) for film in FILMS for record in RECORDS[film.id]]


def of_task(*tasks: str) -> list[tuple[SyntheticVideo, SyntheticRecord]]:
    return [(film, record) for film, record in PAIRS if record.task in tasks]


# ------------------------------------------------------------------------------------------------ the records


def test_same_film_gives_same_records_and_another_variant_others():
    film = FILMS[0]
    assert synthetic_records(film) == RECORDS[film.id]
    other = synthetic_records(film, variant=1)
    assert [r.question for r in other] != [r.question for r in RECORDS[film.id]]
    assert {r.transcript for r in other} == {r.transcript for r in RECORDS[film.id]}


def test_every_film_has_every_task_and_ids_are_unique():
    for film in FILMS:
        records = RECORDS[film.id]
        tasks = {record.task for record in records} - {"transcribe"}
        assert tasks == {"dense_caption", "grounding", "highlights", "steps", "summary", "qa"}
        assert len({record.id for record in records}) == len(records)
        assert {record.part for record in records} == {"standard"}
        assert {record.video for record in records} == {f"videos/{film.id}.mp4"}


def test_every_event_is_grounded_once_under_its_own_id():
    for film in FILMS:
        asked = [r for r in RECORDS[film.id] if r.task == "grounding" and not r.is_negative]
        assert [r.events[0].id for r in asked] == [h.id for h in film.actions]
        for record, happening in zip(asked, film.actions, strict=True):
            assert (record.events[0].start, record.events[0].end) == (happening.start, happening.end)
            assert record.query


def test_an_id_names_the_same_event_in_all_records_of_a_film():
    for film in FILMS:
        events = {event for record in RECORDS[film.id] for event in record.events}
        assert len({event.id for event in events}) == len(events)


def test_no_two_events_of_a_film_share_a_query():
    for film in FILMS:
        deeds = action_phrases(film).values()
        assert len({deed.clause().text for deed in deeds}) == len(film.actions)


def test_things_that_happen_again_are_numbered_in_order_of_time():
    numbered = 0
    for film in FILMS:
        deeds = action_phrases(film)
        again: dict[object, list[int]] = {}
        for happening in film.actions:
            if (ordinal := deeds[happening.id].ordinal) is not None:
                again.setdefault((happening.kind, frozenset(happening.actors)), []).append(ordinal)
        for ordinals in again.values():
            assert ordinals == list(range(len(ordinals)))
            numbered += len(ordinals) > 1
    assert numbered


def test_captions_are_said_in_one_way():
    film = next(film for film in FILMS if any(h.kind == "meet" for h in film.actions))
    captions = {event.id: event.caption for event in RECORDS[film.id][0].events}
    for happening in film.actions:
        thing, *other = (film.objects[i].name for i in happening.actors)
        action = ACTIONS[happening.kind][0].finite.replace("{other}", f"the {other[0] if other else ''}")
        assert captions[happening.id] == f"The {thing} {action}."


def test_times_are_half_seconds_within_the_film():
    for film, record in PAIRS:
        spans = [(event.start, event.end) for event in [*record.events, *(record.transcript or ())]]
        for start, end in spans:
            assert 0 <= start < end <= film.duration
            assert start % TICK == end % TICK == 0
        for moment in record.moments or ():
            assert 0 <= moment.start < film.duration
            assert moment.start % CLIP_SECONDS == 0


def test_answers_parse_back_to_the_same_events():
    for film, record in of_task("dense_caption", "steps", "transcribe"):
        parsed = parse_events(record.response, task=record.task, duration=film.duration)
        assert [(e.start, e.end, e.caption) for e in parsed.events] == [
            (e.start, e.end, e.caption) for e in record.events
        ]
    for film, record in of_task("grounding"):
        parsed = parse_events(record.response, task="grounding", duration=film.duration)
        assert [(e.start, e.end) for e in parsed.events] == [(e.start, e.end) for e in record.events]
    for film, record in of_task("highlights", "summary"):
        parsed = parse_events(record.response, task=record.task, duration=film.duration)
        assert [(e.start, e.score) for e in parsed.events] == [(m.start, m.score) for m in record.moments or ()]


def test_highlights_lie_in_their_events_and_are_best_in_the_middle():
    for _, record in of_task("highlights"):
        assert record.moments
        for moment in record.moments:
            assert 1.0 <= moment.score <= 4.0
            assert any(e.start < moment.start + CLIP_SECONDS and moment.start < e.end for e in record.events)
        if len(record.events) == 1:
            event = record.events[0]
            best = max(record.moments, key=lambda moment: moment.score)
            assert abs(best.start + CLIP_SECONDS / 2 - (event.start + event.end) / 2) <= CLIP_SECONDS / 2


def test_summary_has_moments_with_scores_and_sentences():
    for film in FILMS:
        moments, sentences = (r for r in RECORDS[film.id] if r.task == "summary")
        assert (moments.kind, sentences.kind) == ("moments", "sentences")
        assert 1 <= len(moments.moments) <= 10
        assert sentences.response.startswith(sentences.events[0].caption)
        assert len(sentences.events) == sentences.response.count(".")


def test_steps_are_what_one_thing_does():
    for film, record in of_task("steps"):
        actors = {h.object for h in film.actions if h.id in {event.id for event in record.events}}
        assert len(actors) == 1
        assert len(record.events) == sum(h.object in actors for h in film.actions)
        if record.query:
            assert record.query in record.question
        else:
            counts = [sum(h.object == i for h in film.actions) for i in range(len(film.objects))]
            assert len(record.events) == max(counts)


def test_half_of_the_questions_are_the_command_lines():
    for task in ("dense_caption", "grounding", "highlights", "steps", "summary", "transcribe"):
        asked = [record for _, record in of_task(task)]
        usual = 0
        for record in asked:
            name = "highlights" if record.kind == "moments" else task
            query = record.query if task in ("grounding", "highlights") else None
            usual += record.question.endswith(build_question(name, query))
        assert usual / len(asked) > 0.5, task


def test_queries_name_half_of_the_events_as_answers_do():
    asked = [(film, r) for film, r in of_task("grounding") if not r.is_negative]
    canonical = sum(r.query == action_phrases(film)[r.events[0].id].clause().text for film, r in asked)
    assert 0.35 < canonical / len(asked) < 0.7


# -------------------------------------------------------------------------------------------------- questions


def test_every_kind_of_question_is_asked():
    assert {record.kind for _, record in of_task("qa")} == set(QUESTION_KINDS)


def test_the_short_answer_is_the_response_without_capital_and_full_stop():
    for _, record in of_task("qa"):
        assert record.answer
        assert record.response == f"{record.answer[0].upper()}{record.answer[1:]}."


def test_yes_and_no_are_balanced():
    for film in FILMS:
        asked = [r for r in RECORDS[film.id] if r.kind == "does_happen"]
        assert sorted(r.answer for r in asked) == ["no", "yes"]


def test_what_happens_at_a_time_is_the_only_thing_that_does():
    for film, record in of_task("qa"):
        if record.kind == "what_at":
            time = float(next(word for word in record.question.split("possible")[-1].split() if word[0].isdigit()))
            shown = [h.id for h in film.actions if h.start <= time <= h.end]
            assert shown == [event.id for event in record.events]


def test_counts_and_lengths_are_right():
    for film, record in of_task("qa"):
        events = {event.id: event for event in record.events}
        if record.kind == "how_many":
            names = ["none", "one", "two", "three", "four", "five", "six"]
            things = {h.object for h in film.actions if h.id in events}
            assert record.answer == names[len(things)]
        if record.kind == "how_often":
            assert record.answer.startswith(["never", "once", "twice", "three", "four", "five", "six"][len(events)])
        if record.kind == "how_long":
            (event,) = record.events
            assert record.answer == f"{event.end - event.start:.1f} seconds"


def test_what_is_asked_in_vain_does_not_happen():
    said = {a.finite: kind for kind, actions in ACTIONS.items() for a in actions if kind != "meet"}
    checked = 0
    for film, record in of_task("grounding"):
        if record.is_negative:
            assert record.response == NOT_FOUND_ANSWER
            assert record.events == ()
            happens = {(h.kind, film.objects[h.object].name) for h in film.actions}
            for thing, (finite, kind) in itertools.product(film.objects, said.items()):
                if record.query == f"the {thing.name} {finite}":
                    assert (kind, thing.name) not in happens
                    checked += 1
    assert checked


def test_negatives_are_an_eighth_of_grounding_in_training_and_none_in_testing():
    asked = [record for _, record in of_task("grounding")]
    assert 0.09 < sum(r.is_negative for r in asked) / len(asked) < 0.16
    film = write_scene(7, 0, split="test")
    assert not any(r.is_negative for r in synthetic_records(film))
    assert any(r.is_negative for v in range(9) for r in synthetic_records(film, variant=v, has_negatives=True))


# ----------------------------------------------------------------------------------------------------- speech


def test_speech_is_in_every_record_of_its_film_and_before_half_of_the_questions():
    prefixed = total = 0
    for film in FILMS:
        speech = make_speech(film)
        has_transcribe = any(r.task == "transcribe" for r in RECORDS[film.id])
        assert has_transcribe == (speech is not None and speech.can_be_seen)
        for record in RECORDS[film.id]:
            assert (record.transcript is None) == (speech is None)
            is_prefixed = record.question.startswith("Transcribed speech: ")
            assert not (is_prefixed and (speech is None or record.task == "transcribe"))
            if speech is not None and record.task != "transcribe":
                assert not is_prefixed or speech.utterances[0].text in record.question
                prefixed, total = prefixed + is_prefixed, total + 1
    assert 0.4 < prefixed / total < 0.6


def test_a_narrator_says_what_begins_when_it_begins():
    for film, record in of_task("transcribe"):
        deeds = action_phrases(film)
        starts = {(h.start, deeds[h.id].clause().text) for h in film.actions}
        for event in record.events:
            assert (event.start, event.caption.removeprefix("Now ").removesuffix(".")) in starts


# ----------------------------------------------------------------------------------------------------- splits


def test_training_and_testing_share_no_film():
    train, test = SyntheticSet(30, 5), SyntheticSet(30, 5, split="test")
    scripts = [{str(films.film(i).actions) for i in range(30)} for films in (train, test)]
    ids = [{films.film(i).id for i in range(30)} for films in (train, test)]
    assert not scripts[0] & scripts[1]
    assert not ids[0] & ids[1]


def test_mixed_parts_are_80_10_and_10_percent():
    films = SyntheticSet(20, 5, split="test")
    parts = [films.film(i).part for i in range(20)]
    assert [parts.count(part) for part in ("standard", "unseen_pairs", "longer")] == [16, 2, 2]


def test_unseen_pairs_are_neither_seen_nor_named_in_training():
    films = SyntheticSet(150, 1, level=3)
    for i in range(150):
        film = films.film(i)
        assert not any(is_unseen_pair(thing.color, thing.shape) for thing in film.objects)
    looks = list(itertools.product(COLORS, SHAPES))
    unseen = {f"{c} {s}" for c, s in looks if is_unseen_pair(c, s)}
    said = {f"{c} {s}" for _, r in PAIRS for c, s in looks if f"{c} {s}" in str(r.query)}
    assert said
    assert not said & unseen
    film = write_scene(1, 0, split="test", part="unseen_pairs")
    assert sum(is_unseen_pair(thing.color, thing.shape) for thing in film.objects) == 1


def test_longer_films_are_longer_than_any_in_training():
    for level in (1, 2, 3):
        longest = max(write_scene(2, i, level=level).duration for i in range(60))
        assert write_scene(2, 0, level=level, split="test", part="longer").duration > longest


def test_all_sentences_hold_every_word_of_questions_and_answers():
    words = {word for text in all_sentences() for word in _words(text)}
    missing = {word for _, r in PAIRS for text in (r.question, r.response) for word in _words(text)} - words
    assert not missing
    assert len(words) < 500
    assert list(all_sentences()) == list(all_sentences())


def _words(text: str) -> set[str]:
    return {word.strip(".,:;?!'()-").lower() for word in text.split() if not any(c.isdigit() for c in word)} - {""}


# ------------------------------------------------------------------------------------------------------ files


@pytest.fixture
def small_films(monkeypatch):
    """Have films of few and small frames, so that drawing takes no time."""
    monkeypatch.setattr(writing, "write_scene", lambda *a, **k: _make_small(write_scene(*a, **k)))


def _make_small(film: SyntheticVideo) -> SyntheticVideo:
    return replace(film, fps=5, width=64, height=48)


def test_files_hold_what_the_function_gives(tmp_path, small_films):
    films = SyntheticSet(3, 11, level=2, split="test")
    done = render_videos(films, tmp_path, workers=1)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    expected = [record.to_dict() for i in range(3) for record in synthetic_records(films.film(i))]
    assert lines == expected
    assert (done.drawn, done.kept, done.records) == (3, 0, len(lines))
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert truth == [
        json.loads(json.dumps({"video": f"videos/{films.film(i).id}.mp4", **films.film(i).to_dict()})) for i in range(3)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.jsonl", "truth.jsonl", "videos"]
    assert {tmp_path / line["video"] for line in lines} == set((tmp_path / "videos").iterdir())
    assert {"id", "video", "duration", "task", "messages", "events", "source", "part"} <= lines[0].keys()
    assert [Record.from_dict(line).to_dict() for line in lines] == lines
    assert [message["role"] for message in lines[0]["messages"]] == ["user", "assistant"]


def test_what_is_there_and_whole_is_kept_and_what_is_damaged_is_drawn_again(tmp_path, small_films):
    films = SyntheticSet(3, 12)
    assert render_videos(films, tmp_path, workers=1).drawn == 3
    first, second, third = sorted((tmp_path / "videos").iterdir())
    second.write_bytes(second.read_bytes()[:500])
    third.write_bytes(first.read_bytes())  # another film under this name
    before = first.stat().st_mtime_ns
    records = (tmp_path / "records.jsonl").read_bytes()
    seen: list[tuple[int, int]] = []
    done = render_videos(films, tmp_path, workers=1, progress=lambda *counts: seen.append(counts))
    assert (done.drawn, done.kept) == (2, 1)
    assert first.stat().st_mtime_ns == before
    assert is_rendered(films.film(1), second)
    assert is_rendered(films.film(2), third)
    assert (tmp_path / "records.jsonl").read_bytes() == records
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_number_of_workers_changes_nothing(tmp_path):
    films = SyntheticSet(2, 13)
    for workers in (1, 2):
        render_videos(films, tmp_path / str(workers), workers=workers)
    for name in ("records.jsonl", "truth.jsonl", *(f"videos/{films.film(i).id}.mp4" for i in range(2))):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_video_is_what_its_script_says(tmp_path):
    film = write_scene(3, 5)
    path = tmp_path / "film.mp4"
    write_video(film, path)
    times = [3.0, film.duration / 2, film.duration - 1]
    frames = load_frames(path, timestamps=times)
    assert frames.duration == pytest.approx(film.duration, abs=1e-6)
    assert frames.pixels.shape == (3, film.height, film.width, 3)
    drawn = draw_frames(film, frames.timestamps)
    assert abs(frames.pixels.astype(int) - drawn).mean() < 4
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        keyframes = [float(p.pts * p.time_base) for p in container.demux(stream) if p.is_keyframe and p.pts is not None]
    gaps = [b - a for a, b in itertools.pairwise([*keyframes, film.duration])]
    assert max(gaps) <= film.keyframe_seconds + 1e-6


def test_some_films_have_b_frames(tmp_path, small_films):
    render_videos(SyntheticSet(5, 14), tmp_path, workers=1)
    has_b_frames = set()
    for path in (tmp_path / "videos").iterdir():
        with av.open(str(path)) as container:
            order = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        has_b_frames.add(order != sorted(order))
    assert has_b_frames == {True, False}


def test_nothing_half_written_stays_behind(tmp_path, small_films, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writing, "draw_frames", fail)
    with pytest.raises(OSError, match="disk full"):
        render_videos(SyntheticSet(1, 15), tmp_path, workers=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["videos"]


# ---------------------------------------------------------------------------------------------------- command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    sys.argv = ["timechat", *map(str, arguments)]
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_the_command_prints_the_records_path_and_its_speed(capsys, tmp_path, small_films):
    out = tmp_path / "films"
    command = ("data", "draw", out, "--clips", 2, "--seed", 1, "--workers", 1)
    status, printed, report = run(capsys, *command)
    assert status == 0
    assert Path(printed.strip()) == out / "records.jsonl"
    assert report.startswith("drew 2 films, wrote ")
    assert "films per second" in report
    assert run(capsys, *command)[2].startswith("drew 0 films, kept 2 that were there")
    assert run(capsys, *command, "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--clips", 0, "--seed", 1], "--clips"),
        (["--clips", 2], "--seed"),
        (["--clips", 2, "--seed", 1, "--level", 4], "--level"),
        (["--clips", 2, "--seed", 1, "--split", "dev"], "--split"),
        (["--clips", 2, "--seed", 1, "--part", "longer"], "kept for testing"),
        (["--clips", 2, "--seed", 1, "--workers", 0], "--workers"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, options, complaint):
    status, printed, error = run(capsys, "data", "draw", tmp_path / "out", *options)
    assert (status, printed) == (2, "")
    assert error.startswith("timechat: ")
    assert error.count("\n") == 1
    assert complaint in error
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_said(capsys, tmp_path):
    (tmp_path / "out").write_text("")
    status, _, error = run(capsys, "data", "draw", tmp_path / "out", "--clips", 1, "--seed", 1)
    assert status == 2
    assert error == f"timechat: {tmp_path / 'out' / 'videos'}: not a directory\n"
