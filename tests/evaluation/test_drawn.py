"""Asking about drawn films, the figures beside the baselines, and what validation in training reports."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.random_nano import build_random_nano
from tests.model.tiny import made_frames
from timechat import TimeChat
from timechat.answers.events import Event, format_events
from timechat.data.records import Record
from timechat.errors import DataError
from timechat.evaluation import asking as asking_module
from timechat.evaluation.answering import answer_questions
from timechat.evaluation.asking import Asking, ask_films, open_store
from timechat.evaluation.baselines import best_constant_span, expected_figures, random_spans, training_spans
from timechat.evaluation.drawn import report_drawn
from timechat.evaluation.films import DrawnFilm, read_films
from timechat.evaluation.metrics.captioning import Attributes
from timechat.evaluation.scoring import (
    GroundedQuery,
    caption_figures,
    grounding_figures,
    highlight_figures,
    question_figures,
)
from timechat.evaluation.store import AnswerStore
from timechat.evaluation.validation import draw_grounding_film, grounding_validation, sampled_times
from timechat.evaluation.wordings import read_caption
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.pipeline import DecodingOptions
from timechat.synthetic.records import synthetic_records
from timechat.synthetic.scene import COLORS, KINDS, SHAPES, write_scene
from timechat.synthetic.speech import make_speech
from timechat.synthetic.wording import ACTIONS, ActionPhrase, caption
from timechat.video import Frames

PARTS = ("standard", "standard", "unseen_pairs", "longer")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Records and truth of four films, as `timechat data draw` writes them; the files themselves are not drawn."""
    folder = tmp_path_factory.mktemp("films")
    films = [write_scene(5, i, level=1, split="test", part=part) for i, part in enumerate(PARTS)]
    with (folder / "records.jsonl").open("w") as records, (folder / "truth.jsonl").open("w") as truth:
        for film in films:
            truth.write(json.dumps(film.to_dict()) + "\n")
            for record in synthetic_records(film, has_negatives=film.part == "longer"):
                records.write(json.dumps(record.to_dict()) + "\n")
    return folder


@pytest.fixture(scope="module")
def films(folder) -> list[DrawnFilm]:
    return read_films(folder)


@pytest.fixture(scope="module")
def timechat() -> TimeChat:
    """A small model with weights large enough to tell one prompt from another."""
    model, processor = build_random_nano()
    timechat = TimeChat(model, processor, name="random")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in timechat.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return timechat


def true_answers(films) -> dict[str, dict[str, str]]:
    return {film.video: {record.id: record.turns[0][1] for record in film.records} for film in films}


def of_task(film: DrawnFilm, task: str) -> list[Record]:
    return [record for record in film.records if record.task == task]


# ---------------------------------------------------------------------------------------------- many questions


def test_questions_together_are_answered_as_one_by_one(timechat):
    encoded = timechat.encode(made_frames(10, size=56))
    questions = ["When does it bounce?", "What happens at the very end of this film?", "Who?"]
    one_by_one = [timechat.ask(encoded, q, decoding=DecodingOptions(max_new_tokens=12)).text for q in questions]
    together = answer_questions(
        timechat.model,
        timechat.processor,
        encoded.video_tokens,
        encoded.timestamps.tolist(),
        questions,
        max_new_tokens=12,
    )
    assert together == one_by_one
    assert len(set(together)) == 3


def test_batches_do_not_change_answers(timechat):
    encoded = timechat.encode(made_frames(4, size=56))
    arguments = (timechat.model, timechat.processor, encoded.video_tokens, encoded.timestamps.tolist())
    questions = ["Who?", "Who?", "When does the red circle bounce?"]
    at_once, in_pairs, singly = (
        answer_questions(*arguments, questions, max_new_tokens=8, batch_size=size) for size in (3, 2, 1)
    )
    assert at_once == in_pairs == singly
    assert answer_questions(*arguments, [], max_new_tokens=8) == []


# ------------------------------------------------------------------------------------------------------- films


def test_films_are_read_with_their_records_and_their_truth(folder, films):
    assert [film.part for film in films] == list(PARTS)
    script = write_scene(5, 0, level=1, split="test")
    assert films[0].video == f"videos/{script.id}.mp4"
    assert [(e.id, e.kind, e.span) for e in films[0].events] == [
        (h.id, h.kind, (h.start, h.end)) for h in script.actions
    ]
    asked = of_task(films[0], "grounding")
    assert {record.events[0].id for record in asked} == {event.id for event in films[0].events}
    assert films[0].kind(asked[0]) == script.actions[0].kind


def test_tasks_and_films_can_be_chosen(folder):
    films = read_films(folder, tasks=["qa"], limit=2)
    assert len(films) == 2
    assert {record.task for film in films for record in film.records} == {"qa"}


def test_a_folder_without_films_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"has no records\.jsonl; make the folder with `timechat data draw"):
        read_films(tmp_path)


def test_records_without_their_script_are_refused(folder, tmp_path):
    (tmp_path / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    (tmp_path / "truth.jsonl").write_text("")
    with pytest.raises(DataError, match=r"has no script for videos/test-1-5-000000\.mp4"):
        read_films(tmp_path)


# ------------------------------------------------------------------------------------------------------- store


def test_answers_are_kept_and_found_again(tmp_path):
    path = tmp_path / "answers" / "a.jsonl"
    store = AnswerStore(path, {"model": "m"})
    store.add("film", "film", {"1": "a"})
    store.add("film", "blank", {"1": "b"})
    store.add("film", "film", {"2": "c"})
    again = AnswerStore(path, {"model": "m"})
    assert again.get("film", "film") == {"1": "a", "2": "c"}
    assert again.shown("blank") == {"film": {"1": "b"}}


def test_a_line_that_was_cut_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    AnswerStore(path, {}).add("film", "film", {"1": "a"})
    with path.open("a") as file:
        file.write('{"video": "oth')
    store = AnswerStore(path, {})
    store.add("other", "film", {"3": "x"})
    assert AnswerStore(path, {}).shown("film") == {"film": {"1": "a"}, "other": {"3": "x"}}


def test_answers_of_another_model_are_refused(tmp_path):
    AnswerStore(tmp_path / "a.jsonl", {"weights": "1"})
    with pytest.raises(DataError, match="were given with weights '1' instead of '2'"):
        AnswerStore(tmp_path / "a.jsonl", {"weights": "2"})


# -------------------------------------------------------------------------------------------------- baselines


def test_a_random_event_is_an_average_over_events():
    figures = expected_figures([(0, 10), (0, 6), (20, 30)], (0, 10))
    assert figures == {
        "r1_iou_0.3": pytest.approx(2 / 3),
        "r1_iou_0.5": pytest.approx(2 / 3),
        "r1_iou_0.7": pytest.approx(1 / 3),
        "miou": pytest.approx(1.6 / 3),
    }


def test_random_spans_are_stretched_to_each_film():
    figures = random_spans([(0, 10), (10, 20)], [20, 40], [(0.0, 0.5), (0.25, 0.5)])
    assert figures["r1_iou_0.5"].tolist() == [1.0, 1.0]  # [0, 10] and [5, 10]; [0, 20] and [10, 20]
    assert figures["r1_iou_0.7"].tolist() == [0.5, 0.5]


def test_the_constant_span_is_the_best_for_each_figure():
    figures = best_constant_span([(0, 5), (20, 25), (0, 50)], [10, 50, 100])
    assert figures["r1_iou_0.5"].mean() == pytest.approx(2 / 3)
    assert figures["r1_iou_0.7"].tolist() == [1.0, 0.0, 1.0]


def test_training_spans_are_shares_of_the_duration():
    spans = training_spans(1, films=5)
    assert spans.shape[1] == 2
    assert (spans[:, 0] < spans[:, 1]).all()
    assert spans.min() > 0
    assert spans.max() <= 1


# ---------------------------------------------------------------------------------------------------- scoring


def test_an_answer_is_scored_on_the_event_asked_for_and_on_every_other():
    figures = GroundedQuery((0.0, 10.0), (0.0, 10.0), np.array([(0.0, 6.0), (20.0, 30.0)])).figures()
    assert figures["asked"]["r1_iou_0.5"] == 1.0
    assert figures["different_event"]["r1_iou_0.5"] == 0.5
    assert figures["random_event"]["r1_iou_0.5"] == pytest.approx(2 / 3)


def test_an_answer_without_a_span_is_wrong_on_every_event():
    figures = GroundedQuery(None, (0.0, 10.0), np.array([(0.0, 6.0)])).figures()
    assert set(figures["asked"].values()) == set(figures["different_event"].values()) == {0.0}
    assert figures["random_event"]["r1_iou_0.5"] == 1.0


def test_true_answers_score_everything(films):
    answers = true_answers(films)
    rows, absent = grounding_figures(films, answers, training_spans(1, films=5))
    assert set(rows["asked"].values["r1_iou_0.7"]) == {1.0}
    assert len(rows["asked"]) == sum(len(film.events) for film in films)
    heard = [r for film in films for r in of_task(film, "grounding") if r.turns[0][0].startswith("Transcribed speech:")]
    assert len(rows["asked_without_speech"]) == len(rows["asked"]) - sum(bool(r.events) for r in heard)
    assert np.mean(rows["random_event"].values["r1_iou_0.5"]) < 0.5
    assert len(rows["constant_span"]) == len(rows["random_span"]) == len(rows["asked"])
    assert set(absent.parts) == {"longer"}
    assert set(absent.values["refused"]) == {1.0}
    found, words = caption_figures(films, answers)
    assert set(found["model"].values["f1"]) == {1.0}
    assert set(words["model"].values["all"]) == {1.0}
    assert len(words["model"]) == len(rows["asked"])
    assert np.mean(found["other_film"].values["f1"]) < 0.6
    highlights = highlight_figures(films, answers)
    assert set(highlights["model"].values["map_relevant"]) == {1.0}
    assert set(highlights["model"].values["hit1_good"]) == {1.0}
    assert 0 < np.mean(highlights["random_clip"].values["hit1_relevant"]) < 0.7
    questions = question_figures(films, answers)
    assert set(questions.values["accuracy"]) == {1.0}
    assert 0 < np.mean(questions.values["majority"]) < 0.9


def test_the_answer_about_another_event_shows_in_the_gap(films):
    film = films[0]
    records = of_task(film, "grounding")
    wrong = {record.id: records[i - 1].turns[0][1] for i, record in enumerate(records)}
    rows, _ = grounding_figures([film], {film.video: wrong})
    assert np.mean(rows["gap"].values["r1_iou_0.5"]) < 0
    assert np.mean(rows["lead"].values["r1_iou_0.5"]) < 0
    assert "random_span" not in rows


def test_words_without_meaning_score_nothing_and_are_counted(films):
    film = films[0]
    answers = {film.video: {record.id: "blue blue" for record in film.records}}
    rows, _ = grounding_figures([film], answers)
    assert set(rows["asked"].values["unread"]) == {1.0}
    assert set(rows["asked"].values["miou"]) == {0.0}
    found, _ = caption_figures([film], answers)
    assert (found["model"].values["f1"], found["model"].values["unread"]) == ([0.0], [1.0])
    assert set(highlight_figures([film], answers)["model"].values["hit1_relevant"]) == {0.0}


def test_a_wrong_color_is_found_in_a_matched_caption(films):
    film = films[0]
    record = of_task(film, "dense_caption")[0]
    color = next(color for color in COLORS if color not in record.turns[0][1])
    told = [Event(e.start, e.end, f"The {color} {e.subjects[0][1]} {ACTIONS[e.kind][0].finite}") for e in film.events]
    _, words = caption_figures([film], {film.video: {record.id: format_events(told, "dense_caption")}})
    means = {name: np.mean(values) for name, values in words["model"].values.items()}
    assert means["color"] == means["all"] == 0.0
    assert means["object"] > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_every_wording_of_every_action_is_understood(kind):
    deed = ActionPhrase(kind, ("red", "circle"), ("blue", "star") if kind == "meet" else None)
    assert read_caption(caption(deed)) == Attributes("circle", "red", kind)
    for seed in range(20):
        read = read_caption(deed.clause(random.Random(seed)).text)
        assert read.action == kind
        assert read.object in SHAPES


# ----------------------------------------------------------------------------------------------- asking, report


@pytest.fixture
def drawn_in_memory(monkeypatch) -> list[Frames]:
    """Let films be read without files; returns the frames that were made for controls."""
    altered: list[Frames] = []

    def load(source, *, timestamps=None, size=None, num_frames=None, **_: object) -> Frames:
        times = np.arange(6) * 3.0 if timestamps is None else np.array(timestamps)
        frames = made_frames(len(times), size=56)
        return Frames(frames.pixels, times, duration=20.0)

    monkeypatch.setattr(asking_module, "load_frames", load)
    monkeypatch.setattr("timechat.pipeline.timechat.load_frames", load)
    encode = TimeChat.encode

    def watch(self, video, **options):
        if isinstance(video, Frames):
            altered.append(video)
        return encode(self, video, **options)

    monkeypatch.setattr(TimeChat, "encode", watch)
    return altered


@pytest.fixture
def short_answers(monkeypatch) -> None:
    monkeypatch.setattr(asking_module, "_MAX_NEW_TOKENS", dict.fromkeys(asking_module.TASKS, 4))


def test_a_stopped_run_goes_on_and_reports_every_task(
    folder, timechat, drawn_in_memory, short_answers, tmp_path, monkeypatch
):
    films = read_films(folder, tasks=asking_module.TASKS, limit=2)
    path = tmp_path / "answers.jsonl"
    ask_films(timechat, films[:1], open_store(path, timechat, Asking(), "f"))
    assert not drawn_in_memory
    store = open_store(path, timechat, Asking(), "f")
    asked: list[int] = []
    ask_films(timechat, films, store, controls=True, progress=lambda done, _: asked.append(done))
    assert asked == [0, 1, 2]
    assert [frames.pixels.any() for frames in drawn_in_memory] == [False, True] * 2
    blank, shuffled = drawn_in_memory[:2]
    real = made_frames(6, size=56).pixels
    assert sorted(frame.tobytes() for frame in shuffled.pixels) == sorted(frame.tobytes() for frame in real)
    assert not np.array_equal(shuffled.pixels, real)
    np.testing.assert_array_equal(blank.timestamps, np.arange(6) * 3.0)
    for film in films:
        assert set(store.get(film.video, "film")) == {record.id for record in film.records}
        assert set(store.get(film.video, "blank")) == {record.id for record in of_task(film, "grounding")}
    monkeypatch.setattr(TimeChat, "encode", None)  # nothing is left to be asked
    ask_films(timechat, films, open_store(path, timechat, Asking(), "f"), controls=True)

    report = report_drawn(films, store, heading="nano", facts={"model": "nano"})
    tables = report.to_dict()["tables"]
    rows = [row for row in tables["grounding"] if row != "asked_without_speech"]
    assert rows == [
        "asked", "different_event", "gap", "random_event", "lead", "random_span", "constant_span", "blank", "shuffled"
    ]  # fmt: skip
    assert {"dense_caption", "highlights", "qa", "grounding_by_kind"} <= set(tables)
    cell = tables["grounding"]["random_event"]["r1_iou_0.5"]
    assert cell["low"] <= cell["value"] <= cell["high"]
    assert (cell["groups"], cell["items"]) == (2, sum(len(film.events) for film in films))
    assert json.loads(json.dumps(report.to_dict()))["model"] == "nano"
    assert "| **model** | 0." in report.to_markdown()


def test_parts_are_reported_apart(folder, films, tmp_path):
    store = AnswerStore(tmp_path / "a.jsonl", {})
    for video, answers in true_answers(films).items():
        store.add(video, "film", answers)
    report = report_drawn(films, store, heading="truth")
    by_part = report.to_dict()["tables"]["grounding_by_part"]
    assert by_part["longer_asked"]["r1_iou_0.7"]["value"] == 1.0
    assert {"standard_asked", "unseen_pairs_random_event"} <= set(by_part)
    assert report.to_dict()["tables"]["qa"]["all"]["accuracy"]["value"] == 1.0
    assert report.to_dict()["tables"]["grounding_absent"]["model"]["refused"]["value"] == 1.0
    assert report.to_markdown().count("### ") == len(report.tables)


def test_questions_can_be_asked_in_the_words_of_the_pipeline(films):
    record = of_task(films[0], "grounding")[0]
    assert Asking().question(record) == record.turns[0][0]
    asked = Asking(wording="preset").question(record)
    assert asked.startswith("Localize the visual content described by the given textual query")
    assert record.query in asked
    question = of_task(films[0], "qa")[0]
    assert Asking(wording="preset").question(question) == question.turns[0][0]


# --------------------------------------------------------------------------------------------------- validation


def test_questions_that_tell_what_is_said_are_no_validation():
    script = next(film for i in range(60) if (speech := make_speech(film := write_scene(9, i))) and speech.is_narration)
    film = draw_grounding_film(script, lambda film: sampled_times(film, 2), size=56)
    told = [
        r.question for r in synthetic_records(script) if "Transcribed speech" in r.question and r.task == "grounding"
    ]
    assert told
    assert not set(told) & {question.text for question in film.questions}


def test_validation_asks_after_every_event_and_leaves_the_model_as_it_was(timechat):
    scripts = [write_scene(9, i, split="test") for i in range(2)]
    films = [draw_grounding_film(script, lambda film: sampled_times(film, 6), size=56) for script in scripts]
    assert [len(film.questions) for film in films] == [len(script.actions) for script in scripts]
    timechat.model.train()
    figures = grounding_validation(timechat.model, timechat.processor, films)
    assert timechat.model.training
    timechat.model.eval()
    assert set(figures) == {
        "r1_iou_0.3", "r1_iou_0.5", "r1_iou_0.7", "miou", "different_event", "random_event", "gap", "unread"
    }  # fmt: skip
    assert 0 < figures["random_event"] < 1
    assert figures["gap"] == pytest.approx(figures["r1_iou_0.5"] - figures["different_event"])


def test_validation_counts_right_answers(timechat, monkeypatch):
    script = write_scene(9, 0, split="test")
    film = draw_grounding_film(script, lambda film: sampled_times(film, 2), size=56)
    texts = [f"{h.start} - {h.end} seconds" for h in script.actions]
    texts[0] = "no idea"
    monkeypatch.setattr("timechat.evaluation.validation.answer_questions", lambda *_, **__: texts)
    figures = grounding_validation(timechat.model, timechat.processor, [film])
    right = 1 - 1 / len(texts)
    assert figures["r1_iou_0.7"] == figures["miou"] == pytest.approx(right)
    assert figures["unread"] == pytest.approx(1 / len(texts))
    assert figures["gap"] > 0.5


def test_validation_without_questions_is_refused(timechat: TimeChat):
    model: TimeChatForConditionalGeneration = timechat.model
    with pytest.raises(ValueError, match="at least one question"):
        grounding_validation(model, timechat.processor, [])


def test_sampled_times_are_those_of_the_film_s_frames():
    film = write_scene(9, 0, split="test")
    times = sampled_times(film, 10)
    assert len(times) == 10
    np.testing.assert_allclose(times * film.fps, np.round(times * film.fps))
