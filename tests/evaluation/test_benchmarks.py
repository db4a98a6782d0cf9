"""Every benchmark's public files become the samples that are asked, in the original's words."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import RECIPES as CLIPS
from tests.clips import clock_frame, draw_clip, read_numbers
from timechat.answers.tasks import find_preset
from timechat.errors import DataError, VideoError
from timechat.evaluation.benchmarks import BENCHMARKS, BenchmarkFiles, load_pictures, load_segment_centres
from timechat.evaluation.benchmarks.centres import segment_centres
from timechat.evaluation.benchmarks.choices import lettered
from timechat.evaluation.benchmarks.mvbench import PARTS
from timechat.evaluation.config import read_recipe
from timechat.evaluation.metrics.choices import choice_metrics, read_choice, read_choice_as_published
from timechat.evaluation.samples import Prediction, Sample

DATA = Path(__file__).parents[1] / "data" / "benchmarks"
RECIPES = Path(__file__).parents[2] / "recipes"
EGO = "00000000-aaaa-4aaa-8aaa-00000000000"


def read(name: str, annotations: Path | str, split: str = "val", transcripts: Path | None = None) -> list[Sample]:
    source = BenchmarkFiles(DATA / annotations, Path("/videos"), split, transcripts)
    return list(BENCHMARKS[name].read(source))


def truth(*parts: str):
    return json.loads(DATA.joinpath(*parts).read_text())


def answers(samples: list[Sample], texts: list[str]) -> list[Prediction]:
    return [
        Prediction(id=sample.id, video=sample.video, task="ask", query=sample.query, text=text)
        for sample, text in zip(samples, texts, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ captions


def test_youcook2_asks_for_the_captions_of_each_video():
    rows = truth("youcook2", "val.caption_coco_format.json")["annotations"]
    assert read("youcook2", "youcook2") == [
        Sample(
            id="aaaaaaaaaaa.mp4", video="val/aaaaaaaaaaa.mp4", task="dense_caption", duration=30.0, ground_truth=rows[0]
        ),
        Sample(
            id="bbbbbbbbbbb.mp4", video="val/bbbbbbbbbbb.mp4", task="dense_caption", duration=24.5, ground_truth=rows[1]
        ),
    ]


def test_what_is_said_in_a_video_is_told_with_its_question(tmp_path):
    (tmp_path / "aaaaaaaaaaa.txt").write_text("0.0\t2.5\tnow cut the onion\n")
    first, second = read("youcook2", "youcook2", transcripts=tmp_path)
    assert [(event.start, event.end, event.caption) for event in first.speech] == [(0.0, 2.5, "now cut the onion")]
    assert second.speech == ()


def test_activitynet_is_read_as_published_and_as_the_original_lays_it_out():
    row = {
        "image_id": "v_aaaaaaaaaaa.mp4",
        "duration": 40.0,
        "segments": [[0.5, 10.0], [30.0, 12.5]],
        "pure_cap": "A man walks in. He sits down.",
    }
    first, second = read("activitynet_captions", "activitynet/public")
    assert first == Sample(
        id="v_aaaaaaaaaaa.mp4", video="v_aaaaaaaaaaa.mp4", task="dense_caption", duration=40.0, ground_truth=row
    )
    assert (second.video, second.ground_truth["pure_cap"]) == ("v_bbbbbbbbbbb.mp4", "A girl dances.")
    [original] = read("activitynet_captions", "activitynet/original")
    assert original.ground_truth == truth("activitynet", "original", "val.caption_coco_format.json")["annotations"][0]
    assert (original.id, original.duration) == (first.id, first.duration)


# ----------------------------------------------------------------------------------------------- grounding


def grounded(number, video, query, span, duration=None) -> Sample:
    return Sample(
        id=str(number),
        video=video,
        task="grounding",
        query=query,
        duration=duration,
        ground_truth={"id": number, "image_id": video, "caption": query, "timestamp": span},
    )


def test_each_sentence_of_activitynet_is_a_query_and_reversed_segments_are_turned():
    assert read("activitynet_grounding", "activitynet/public") == [
        grounded(0, "v_aaaaaaaaaaa.mp4", "A man walks in", [0.5, 10.0], 40.0),
        grounded(1, "v_aaaaaaaaaaa.mp4", "He sits down", [12.5, 30.0], 40.0),
        grounded(2, "v_bbbbbbbbbbb.mp4", "A girl dances", [0, 15.25], 15.25),
    ]
    assert [sample.query for sample in read("activitynet_grounding", "activitynet/original")] == [
        "A man walks in",
        "He sits down",
    ]


@pytest.mark.parametrize(("layout", "durations"), [("public", (None, None)), ("original", (20.5, 12.0))])
def test_charades_sta_is_read_as_published_and_as_the_original_lays_it_out(layout, durations):
    assert read("charades_sta", f"charades_sta/{layout}", "test") == [
        grounded(0, "AAAAA.mp4", "a person opens a door.", [1.2, 6.9], durations[0]),
        grounded(1, "BBBBB.mp4", "person laughs", [0.0, 4.0], durations[1]),
    ]


def test_timelens_is_read_with_the_queries_of_its_own_code():
    assert read("timelens", "timelens", "charades") == [
        grounded(0, "3MSZA.mp4", "A person turns a light on", [24.3, 30.4], 30.96),
        grounded(1, "3MSZA.mp4", "A person opens a door", [0.0, 6.5], 30.96),
        grounded(2, "v_AAAA.mp4", "A dog barks", [1.0, 2.5], 12.5),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected one object by the ids of videos, got a list"),
        ('{"a": {"duration": 9, "spans": [[1, 2]], "queries": []}}', "a: 0 queries for 1 spans"),
        ('{"a": {"duration": 9, "spans": [[1]], "queries": ["x"]}}', "a: not enough values"),
    ],
)
def test_timelens_files_of_another_form_are_refused(tmp_path, content, message):
    (tmp_path / "charades-timelens.json").write_text(content)
    with pytest.raises(DataError, match=message):
        list(BENCHMARKS["timelens"].read(BenchmarkFiles(tmp_path, tmp_path, "charades")))


@pytest.mark.parametrize("layout", ["public", "original"])
def test_qvhighlights_is_read_as_published_and_as_the_original_lays_it_out(layout):
    first, second = read("qvhighlights", f"qvhighlights/{layout}")
    expected = {
        "qid": 7001,
        "query": "A man rides a bike",
        "duration": 10,
        "vid": "aaaaaaaaaaa_60.0_70.0",
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[3, 4, 2], [4, 4, 4]],
    }
    if layout == "public":
        expected["relevant_windows"] = [[2, 6]]
    assert first == Sample(
        id="7001",
        video="aaaaaaaaaaa_60.0_70.0.mp4",
        task="highlights",
        query="A man rides a bike",
        duration=10,
        ground_truth=expected,
    )
    assert (second.id, second.query) == ("7002", "A cat sleeps")


def test_moments_of_qvhighlights_need_the_public_file():
    samples = read("qvhighlights_moments", "qvhighlights/public")
    assert [(sample.task, sample.ground_truth["relevant_windows"]) for sample in samples] == [
        ("grounding", [[2, 6]]),
        ("grounding", [[0, 2]]),
    ]
    with pytest.raises(
        DataError, match=r"query 7001: no relevant_windows; give the public highlight_val_release.jsonl"
    ):
        read("qvhighlights_moments", "qvhighlights/original")


# --------------------------------------------------------------------------------------------- with options


def test_egoschema_is_asked_in_the_originals_words():
    samples = read("egoschema", "egoschema")
    rows = truth("egoschema", "questions.json")
    options = (
        "C throws the ball to a man.",
        "C hides the ball in a box.",
        "C washes the ball.",
        "C carries the ball through the garden.",
        "C paints the ball.",
    )
    assert samples[0] == Sample(
        id=f"{EGO}1",
        video=f"{EGO}1.mp4",
        task="ask",
        query="Select the best answer to the following multiple-choice question based on the egocentric video. Respond "
        "with only the letter (A, B, C, D, or E) of the correct option. \nQuestion: What does c do with the red ball?\n"
        "(A) C throws the ball to a man.\n(B) C hides the ball in a box.\n(C) C washes the ball.\n"
        "(D) C carries the ball through the garden.\n(E) C paints the ball.\nThe best answer is:",
        options=options,
        answer="C carries the ball through the garden.",
        ground_truth=rows[0],
    )
    assert [sample.answer for sample in samples] == [options[3], None, "To fetch a ladder."]


def test_the_subset_of_egoschema_is_what_has_public_answers(tmp_path):
    assert [sample.id for sample in read("egoschema", "egoschema", "subset")] == [f"{EGO}1", f"{EGO}3"]
    shutil.copy(DATA / "egoschema" / "questions.json", tmp_path)
    assert [sample.answer for sample in read("egoschema", tmp_path, "all")] == [None, None, None]
    with pytest.raises(DataError, match=r"subset_answers.json: no such file"):
        read("egoschema", tmp_path, "subset")


BENCHMARK_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
MVBENCH_WORDS = (
    f"{BENCHMARK_SYSTEM}Question: What happened after the person took the cup?\nOptions:\n(A) Ate the bread.\n"
    "(B) Closed the door.\n(C) Washed the cup.\n(D) Opened the book.\nOnly give the best option."
)


def test_mvbench_is_asked_in_the_originals_words_about_a_stretch_of_the_video():
    first, second, counting, episode = read("mvbench", "mvbench")
    assert first == Sample(
        id="action_sequence:0",
        video="star/Charades_v1_480/AAAAA.mp4",
        task="ask",
        query=MVBENCH_WORDS,
        start=2.0,
        end=9.5,
        sampling="segment_centres",
        options=("Ate the bread.", "Closed the door.", "Washed the cup.", "Opened the book."),
        answer="Washed the cup.",
        groups=("Action Sequence",),
        ground_truth=truth("mvbench", "json", "action_sequence.json")[0],
    )
    assert (second.id, second.start, second.end) == ("action_sequence:1", 0.5, 4.0)
    assert (counting.groups, counting.start, counting.end) == (("Moving Count",), None, None)
    assert (counting.video, counting.answer) == ("clevrer/video_validation/video_10000.mp4", "3")
    assert episode.video == "tvqa/frames_fps3_hq/made_up_s01e01_seg01_clip_00"
    assert (episode.groups, episode.start, episode.end) == (("Episodic Reasoning",), 1.0, 3.0)


def test_mvbench_may_be_its_folder_of_files_or_one_file_and_missing_tasks_are_told(caplog):
    whole = read("mvbench", "mvbench")
    [warning] = caplog.messages
    assert "has no action_prediction.json, action_antonym.json, fine_grained_action.json" in warning
    assert read("mvbench", "mvbench/json") == whole
    assert read("mvbench", "mvbench/json/action_sequence.json") == whole[:2]


def test_mvbench_has_twenty_tasks_five_of_them_about_a_stretch():
    assert len({part.file for part in PARTS}) == 20
    assert [part.title for part in PARTS if part.has_bounds] == [
        "Action Sequence",
        "Action Prediction",
        "Object Interaction",
        "Action Localization",
        "Episodic Reasoning",
    ]


def test_tempcompass_is_asked_in_the_originals_words_in_four_ways():
    samples = read("tempcompass", "tempcompass/questions")
    assert [sample.id for sample in samples] == [
        "multi-choice:1000000001:action:0",
        "multi-choice:1000000001:direction:0",
        "multi-choice:1000000001_reverse:direction:0",
        "yes_no:1000000001:action:0",
        "yes_no:1000000001:action:1",
        "caption_matching:1000000001:action:0",
        "caption_matching:1000000001:action:1",
        "captioning:1000000001:action:0",
    ]
    choice, _, backwards, yes, no, matching, sentences, caption = samples
    question = "What is the dog doing?\nA. sleeping\nB. running\nC. eating"
    assert choice == Sample(
        id="multi-choice:1000000001:action:0",
        video="1000000001.mp4",
        task="ask",
        query=f"Question: {question}\nPlease directly give the best option:",
        options=("A. sleeping", "B. running", "C. eating"),
        answer="B. running",
        groups=("multi-choice",),
        ground_truth={
            "task": "multi-choice",
            "video": "1000000001",
            "dimension": "action",
            "question": question,
            "answer": "B. running",
        },
    )
    assert backwards.video == "1000000001_reverse.mp4"
    assert yes.query == "Question: Is the dog running?\nPlease answer yes or no:"
    assert [(sample.options, sample.answer) for sample in (yes, no)] == [(("yes", "no"), "yes"), (("yes", "no"), "no")]
    assert matching.query == (
        "Question: Which description is a more suitable match for the video?\nOption 1: The dog is eating.\n"
        "Option 2: The dog is running.\nPlease directly give the best option (Option 1 or Option 2):"
    )
    assert matching.answer == "Option 2: The dog is running."
    assert sentences.query.endswith("\nPlease directly give the best option (Sentence A or Sentence B):")
    assert caption.query.endswith("'action': 'running'}\nGenerated Caption:")
    assert (caption.options, caption.answer, caption.ground_truth["answer"]) == ((), None, "B. running")


VIDEO_MME_WORDS = (
    "Question: Select the best answer to the following multiple-choice question based on the egocentric video. Respond "
    "with only the letter (A, B, C, or D) of the correct option. \nQuestion: What colour is the kite?\n"
    "A. Red.\nB. Blue.\nC. Green.\nD. White.\nThe best answer is:"
)


def test_video_mme_is_asked_in_the_originals_words():
    first, second, third = read("video_mme", "video_mme/original")
    assert first == Sample(
        id="001-1",
        video="aaaaaaaaaaa.mp4",
        task="ask",
        query=VIDEO_MME_WORDS,
        options=("A. Red.", "B. Blue.", "C. Green.", "D. White."),
        answer="B. Blue.",
        groups=("short",),
        ground_truth={
            "video_id": "001",
            "videoID": "aaaaaaaaaaa",
            "question": "What colour is the kite?",
            "options": ["A. Red.", "B. Blue.", "C. Green.", "D. White."],
            "answer": "B",
            "duration": "short",
        },
    )
    assert (second.id, second.answer) == ("001-2", "D. Four.")
    assert (third.id, third.video, third.groups) == ("601-1", "bbbbbbbbbbb.mp4", ("long",))
    assert third.answer == "A. The host."


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["Red.", "Blue."], "(A) Red.\n(B) Blue."),
        (["A. Red.", "B. Blue."], "A. Red.\nB. Blue."),
        (["(A) Red.", "(B) Blue."], "(A) Red.\n(B) Blue."),
        (["A: Red.", "B) Blue."], "A: Red.\nB) Blue."),
        (["A. Red.", "Blue."], "(A) A. Red.\n(B) Blue."),
        (["B. Red.", "A. Blue."], "(A) B. Red.\n(B) A. Blue."),
        (["C. elegans", "B. subtilis"], "(A) C. elegans\n(B) B. subtilis"),
        (["A.M.", "B.C."], "(A) A.M.\n(B) B.C."),
    ],
)
def test_options_get_letters_unless_they_have_them(options, lines):
    assert lettered(options) == lines


def test_video_mme_may_be_the_authors_rows():
    first, second = read("video_mme", "video_mme/public")
    assert first.query == VIDEO_MME_WORDS
    assert (first.id, first.options[1], first.answer) == ("001-1", "B. Blue.", "B. Blue.")
    assert first.ground_truth == truth("video_mme", "public", "video-mme.json")[0]
    assert second.video == "aaaaaaaaaaa.mp4"


@pytest.mark.parametrize(
    ("benchmark", "annotations", "words"),
    [("mvbench", "mvbench", MVBENCH_WORDS), ("video_mme", "video_mme/original", VIDEO_MME_WORDS)],
)
def test_the_prompt_is_the_originals_to_the_letter(benchmark, annotations, words, golden_processor):
    sample = read(benchmark, annotations)[0]
    prompt = golden_processor.render_prompt(
        [0.0, 2.04], sample.query, system=find_preset("original-benchmarks@1").system
    )
    assert prompt == (
        f"[INST] <<SYS>>\n{BENCHMARK_SYSTEM}\n<</SYS>>\n\n<Video><ImageHere></Video> "
        f"The video contains 2 frames sampled at 0.0, 2.0 seconds.  {words} [/INST]"
    )


# --------------------------------------------------------------------------------------- what is malformed


@pytest.mark.parametrize(
    ("benchmark", "file", "content", "message"),
    [
        ("youcook2", "val.caption_coco_format.json", "[]", r'expected \{"annotations": \[...\]\}'),
        ("youcook2", "val.caption_coco_format.json", "{", "is not JSON: "),
        (
            "youcook2",
            "val.caption_coco_format.json",
            '{"annotations": [{}]}',
            "annotation 0: the key 'image_id' is missing",
        ),
        ("charades_sta", "charades_sta_val.txt", "AAAAA 1 2 opens", "_val.txt:1: expected VIDEO START END##SENTENCE"),
        ("charades_sta", "charades_sta_val.txt", "\nAAAAA 1##opens", "charades_sta_val.txt:2: not enough values"),
        ("qvhighlights", "highlight_val_release.jsonl", '{"qid": 1}', "release.jsonl:1: the key 'vid' is missing"),
        ("activitynet_captions", "val_1.json", '{"v_a": {}}', "val_1.json: v_a: the key 'duration' is missing"),
        (
            "activitynet_grounding",
            "val_1.json",
            '{"v_a": {"duration": 3, "timestamps": [[0, 1]], "sentences": []}}',
            "v_a: 0 sentences for 1 timestamps",
        ),
        ("egoschema", "questions.json", "{}", "questions.json: expected a list of questions, got dict"),
        ("egoschema", "questions.json", '["what?"]', "question 0: string indices must be integers"),
        ("egoschema", "questions.json", '[{"option 0": 7}]', "question 0: option 0 should be a text, got 7"),
        ("egoschema", "questions.json", '[{"option 0": "x"}]', "question 0: the key 'option 1' is missing"),
        ("mvbench", "moving_count.json", "{}", "moving_count.json: expected a list of questions, got dict"),
        (
            "mvbench",
            "moving_count.json",
            '[{"video": "a.mp4", "question": "?", "candidates": ["1", "2"], "answer": "3"}]',
            r"question 0: sample moving_count:0: the answer '3' is none of \['1', '2'\]",
        ),
        ("mvbench", "moving_count.json", '[{"candidates": "12"}]', "question 0: expected a list of options, got '12'"),
        ("mvbench", "moving_count.json", '[{"candidates": ["1"]}]', "question 0: expected 2 to 26 options, got 1"),
        (
            "mvbench",
            "action_sequence.json",
            '[{"video": "a.mp4", "question": "?", "candidates": ["1", "2"], "answer": "1"}]',
            "action_sequence.json: question 0: the key 'start' is missing",
        ),
        ("video_mme", "video-mme.json", '{"001": {}}', "video 001: expected a list of questions, got dict"),
        ("video_mme", "video-mme.json", '{"001": [{}]}', "video 001, question 1: the key 'option' is missing"),
        (
            "video_mme",
            "video-mme.json",
            '{"001": [{"videoID": "a", "question": "?", "option": ["1", "2", "3", "4"], "answer": "E"}]}',
            "video 001, question 1: expected an answer from A to D, got 'E'",
        ),
        ("video_mme", "video-mme.json", '[{"question_id": 1}]', "question 0: question_id should be a text, got 1"),
    ],
)
def test_what_is_malformed_is_named_with_its_place(benchmark, file, content, message, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read(benchmark, tmp_path)
    assert str(error.value).startswith(str(tmp_path / file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        (
            "multi-choice",
            '{"question": "What?\\nA. x\\nB. y", "answer": "C. z"}',
            r"the answer 'C. z' is none of \['A. x'",
        ),
        ("multi-choice", '{"question": "What?", "answer": "A. x"}', "expected a question with one option per line"),
        ("yes_no", '{"question": "Is it?", "answer": "maybe"}', "the answer 'maybe' is none of"),
        ("yes_no", '{"question": "Is it?"}', "the key 'answer' is missing"),
        ("captioning", '{"question": 3}', "question should be a text, got 3"),
    ],
)
def test_what_is_malformed_in_tempcompass_is_named_with_its_place(task, rows, message, tmp_path):
    path = tmp_path / f"{task}.json"
    path.write_text(f'{{"17": {{"action": [{rows}]}}}}')
    with pytest.raises(DataError, match=message) as error:
        read("tempcompass", path)
    assert str(error.value).startswith(f"{path}: 17, action 0: ")


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ("youcook2", "no such file, nor a folder with val.caption_coco_format.json"),
        ("egoschema", "no such file, nor a folder with questions.json"),
        ("mvbench", "has no file of MVBench, such as json/action_sequence.json"),
        ("tempcompass", "has no multi-choice.json, yes_no.json, caption_matching.json, captioning.json"),
        ("video_mme", "no such file, nor a folder with video-mme.json"),
    ],
)
def test_annotations_that_are_not_there_are_told(benchmark, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(benchmark, tmp_path)


# ------------------------------------------------------------------------------------------ reading answers

LIVELY = ("sleeping", "running in the garden", "running")
LABELLED = ("A. from left to right", "B. from right to left", "C. upward")
SENTENCES = ("Sentence A: The dog runs.", "Sentence B: The dog sleeps.")
NUMBERED = ("Option 1: The dog runs.", "Option 2: The dog sleeps.")


@pytest.mark.parametrize(
    ("text", "options", "choice"),
    [
        ("B", LIVELY, 1),
        ("b", LIVELY, 1),
        ("(B)", LIVELY, 1),
        ("(b) running in the garden", LIVELY, 1),
        ("B. running in the garden", LIVELY, 1),
        ("B) running", LIVELY, 1),
        ("C\nbecause it runs", LIVELY, 2),
        ("Running.</s> ...", LIVELY, 2),
        ("The dog is running.", LIVELY, 2),
        ("It is running in the garden", LIVELY, 1),
        ("The best answer is (A).", LIVELY, 0),
        ("The answer is B.", LIVELY, 1),
        ("Option C is right", LIVELY, 2),
        ("A dog is running", LIVELY, 2),
        ("A dog", LIVELY, None),
        ("It is sleeping, or running", LIVELY, None),
        ("(A) or (B)? Hard to say", LIVELY, 0),
        ("Either (A) or (B)", LIVELY, None),
        ("D", LIVELY, None),
        ("", LIVELY, None),
        ("C washes the cup", ("C paints", "C washes the cup"), 1),
        ("C is tired", ("C paints", "C washes the cup", "C sings"), None),
        ("3", ("2", "4", "3", "0"), 2),
        ("There are 3 objects.", ("2", "4", "3", "0"), 2),
        ("from right to left", LABELLED, 1),
        ("The man moves from left to right.", LABELLED, 0),
        ("C. upward", LABELLED, 2),
        ("Option 2", NUMBERED, 1),
        ("option 2: the dog sleeps", NUMBERED, 1),
        ("I think Option 1 fits.", NUMBERED, 0),
        ("Option 1, not Option 2", NUMBERED, 0),
        ("Not Option 1 but Option 2", NUMBERED, None),
        ("2", NUMBERED, 1),
        ("Sentence B", SENTENCES, 1),
        ("B", SENTENCES, 1),
        ("The dog sleeps", SENTENCES, 1),
        ("Yes, it is.", ("yes", "no"), 0),
        ("no", ("yes", "no"), 1),
        ("No.", ("yes", "no"), 1),
        ("There is no dog", ("yes", "no"), None),
        ("Nothing", ("yes", "no"), None),
        ("(B) no", ("yes", "no"), 1),
        ("(B)", ("Yes", "No"), 1),
        ("The best answer is (A)", ("yes", "no"), 0),
        ("(C)", ("yes", "no", "not sure"), 2),
        ("B", ("A dog", "C. elegans", "B. subtilis"), 1),
        ("A", (), None),
    ],
)
def test_a_choice_is_read_by_its_label_its_letter_or_its_words(text, options, choice):
    assert read_choice(text, options) == choice


FIVE = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("rule", "text", "options", "choice"),
    [
        ("egoschema", "(D)", FIVE, 3),
        ("egoschema", "The answer is E. Because", FIVE, 4),
        ("egoschema", "Because of (E)", FIVE, 1),  # the B of Because
        ("egoschema", "none of them", FIVE, None),
        ("mvbench", "(C) Washed the cup.", FIVE, 2),
        ("mvbench", "Best is (b)\nor (d)", FIVE, 1),
        ("mvbench", "\n(b)", FIVE, 1),
        ("mvbench", "C", FIVE, 0),
        ("mvbench", "none\n(d)", FIVE, 0),
        ("mvbench", "(the cup) (d)", FIVE, 0),
        ("mvbench", "", FIVE, 0),
        ("video_mme", "A man, so (C), not (D)", FIVE[:4], 2),
        ("video_mme", "C", FIVE[:4], None),
        ("tempcompass", "B. from right to left", LABELLED, 1),
        ("tempcompass", "B", LABELLED, 1),
        ("tempcompass", "B) because", LABELLED, 1),
        ("tempcompass", "from right to left", LABELLED, None),
        ("tempcompass", "D. downward", LABELLED, 3),
        ("tempcompass", "Yesterday", ("yes", "no"), 0),
        ("tempcompass", "It is", ("yes", "no"), None),
        ("tempcompass", "Option 2.", NUMBERED, 1),
        ("tempcompass", "Option 2: The dog sleeps.</s>", NUMBERED, 1),
        ("tempcompass", "The dog runs.", NUMBERED, 0),
        ("tempcompass", "(1) The dog runs.", NUMBERED, 0),
        ("tempcompass", "I take Option 2", NUMBERED, None),
    ],
)
def test_published_figures_read_answers_by_their_own_rules(rule, text, options, choice):
    assert read_choice_as_published(text, options, rule) == choice


def test_an_unparsed_choice_is_wrong_and_as_published_a_guess():
    texts = ["B", "a", None, "no idea", "Because of (c)", "E"]
    metrics = choice_metrics(texts, [FIVE] * 6, ["b", "a", "a", "a", "c", "e"], published_rule="egoschema")
    assert metrics["accuracy"].tolist() == [1, 1, 0, 0, 1, 1]
    assert metrics["unparsed"].tolist() == [0, 0, 1, 1, 0, 0]
    assert metrics["accuracy_as_published"].tolist() == [1, 0.2, 0, 0.2, 0, 1]


def test_options_that_say_the_same_are_both_right_and_letters_without_an_option_wrong():
    twice = ("x", "y", "x")
    metrics = choice_metrics(["(C)", "(D)", "?"], [twice] * 3, ["x"] * 3, published_rule="video_mme")
    assert metrics["accuracy_as_published"].tolist() == [1, 0, pytest.approx(2 / 3)]
    assert choice_metrics(["(A)"], [FIVE], ["a"]).keys() == {"accuracy", "unparsed"}


def test_as_many_answers_as_questions_are_needed():
    with pytest.raises(ValueError, match="got 1 answers and 2 right ones to 2 questions"):
        choice_metrics(["A"], [FIVE, FIVE], ["a", "b"])


# --------------------------------------------------------------------------------------------- result files


def test_egoschema_gets_an_index_for_every_question(tmp_path):
    samples = read("egoschema", "egoschema")
    [path] = BENCHMARKS["egoschema"].write_results(samples, answers(samples, ["(D)", "no idea", "To rest."]), tmp_path)
    assert path.name == "output.csv"
    lines = path.read_text().split("\n")
    assert lines == ["q_uid,answer", f"{EGO}1,3", lines[2], f"{EGO}3,4", ""]
    assert lines[2] in {f"{EGO}2,{i}" for i in range(5)}


def test_mvbench_gets_answers_beside_the_right_options(tmp_path):
    samples = read("mvbench", "mvbench")
    texts = ["(C) Washed the cup.", "(B)", "C", "none"]
    [path] = BENCHMARKS["mvbench"].write_results(samples, answers(samples, texts), tmp_path)
    assert json.loads(path.read_text()) == {
        "acc_dict": {"Action Sequence": [1, 2], "Moving Count": [0, 1], "Episodic Reasoning": [0, 1]},
        "res_list": [
            {"pred": "(C) Washed the cup.", "gt": "(C) Washed the cup."},
            {"pred": "(B)", "gt": "(A) Took the shoe."},
            {"pred": "C", "gt": "(C) 3"},
            {"pred": "none", "gt": "(C) He had two hats on."},
        ],
    }


def test_tempcompass_gets_a_file_a_task(tmp_path):
    samples = read("tempcompass", "tempcompass/questions")
    texts = [f"answer {i}" for i in range(len(samples))]
    paths = BENCHMARKS["tempcompass"].write_results(samples, answers(samples, texts), tmp_path)
    assert [path.name for path in paths] == [
        "multi-choice.json",
        "yes_no.json",
        "caption_matching.json",
        "captioning.json",
    ]
    for path in paths:
        written, asked = json.loads(path.read_text()), truth("tempcompass", "questions", path.name)
        for dimensions in written.values():
            for rows in dimensions.values():
                for row in rows:
                    assert row.pop("prediction").startswith("answer ")
        assert written == asked


def test_video_mme_gets_the_authors_template(tmp_path):
    samples = read("video_mme", "video_mme/public")
    [path] = BENCHMARKS["video_mme"].write_results(samples, answers(samples, ["(B)", "A"]), tmp_path)
    [video] = json.loads(path.read_text())
    assert {name: value for name, value in video.items() if name != "questions"} == {
        "video_id": "001",
        "duration_category": "short",
        "video_category": "Life Record",
        "video_subcategory": "Daily Life",
    }
    assert video["questions"][0] == {
        "question_id": "001-1",
        "task_type": "Attribute Perception",
        "question": "What colour is the kite?",
        "choices": ["A. Red.", "B. Blue.", "C. Green.", "D. White."],
        "answer": "B",
        "response": "(B)",
    }
    original = read("video_mme", "video_mme/original")
    [path] = BENCHMARKS["video_mme"].write_results(original, answers(original, ["A", "A", "A"]), tmp_path)
    assert [len(video["questions"]) for video in json.loads(path.read_text())] == [2, 1]


def test_a_sample_without_a_prediction_is_told_and_nothing_is_written(tmp_path):
    samples = read("egoschema", "egoschema")
    with pytest.raises(ValueError, match=f"sample {EGO}2 has no prediction"):
        BENCHMARKS["egoschema"].write_results(samples, answers(samples[:1], ["A"]), tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- the middles of parts


@pytest.mark.parametrize(
    ("arguments", "indices"),
    [
        ({"num_available": 101, "fps": 25.0, "num_frames": 4}, [12, 37, 62, 87]),
        ({"num_available": 101, "fps": 25.0, "num_frames": 2, "start": 1.0, "end": 3.0}, [37, 62]),
        ({"num_available": 101, "fps": 25.0, "num_frames": 2, "start": 3.0, "end": 60.0}, [81, 93]),
        ({"num_available": 3, "fps": 25.0, "num_frames": 4}, [0, 0, 1, 2]),
        ({"num_available": 10, "fps": 1.0, "num_frames": 2, "start": 50.0, "end": 60.0}, [9, 9]),
    ],
)
def test_mvbench_looks_at_the_middles_of_equal_parts(arguments, indices):
    assert segment_centres(**arguments).tolist() == indices


@pytest.mark.parametrize("clip", ["constant rate", "29.97 fps", "starts at 7 s"])
def test_frames_in_the_middles_have_their_true_times(clip, tmp_path):
    film = draw_clip(CLIPS[clip], tmp_path / f"film{CLIPS[clip].suffix}")
    frames = load_segment_centres(film.path, num_frames=6, start=0.5, end=2.0)
    rate = len(film.times) / float(film.duration)
    expected = segment_centres(len(film.times), rate, 6, start=0.5, end=2.0).tolist()
    assert read_numbers(frames.pixels) == expected
    np.testing.assert_allclose(frames.timestamps, [float(film.times[i]) for i in expected], atol=1e-4)


def test_a_square_is_cut_from_the_middle(tmp_path):
    film = draw_clip(CLIPS["constant rate"], tmp_path / "film.mp4")  # 160 x 96
    frames = load_segment_centres(film.path, num_frames=2, size=48)
    assert frames.pixels.shape == (2, 48, 48, 3)
    whole = load_segment_centres(film.path, num_frames=2)
    wide = [np.asarray(Image.fromarray(pixels).resize((80, 48), Image.Resampling.BICUBIC)) for pixels in whole.pixels]
    assert (frames.pixels == np.stack(wide)[:, :, 16:64]).all()


def draw_pictures(folder: Path, numbers) -> None:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(clock_frame(number)).save(folder / f"{number:05d}.jpg", quality=95)


def test_a_folder_of_pictures_is_a_video_of_three_a_second(tmp_path):
    draw_pictures(tmp_path / "clip", range(1, 13))
    frames = load_pictures(tmp_path / "clip")
    assert read_numbers(frames.pixels) == list(range(1, 13))
    np.testing.assert_allclose(frames.timestamps, np.arange(12) / 3)
    assert frames.duration == 4.0
    chosen = load_segment_centres(tmp_path / "clip", num_frames=3, start=1.0, end=3.0, size=48)
    np.testing.assert_allclose(chosen.timestamps, [4 / 3, 6 / 3, 8 / 3])
    assert chosen.pixels.shape == (3, 48, 48, 3)
    assert chosen.duration == 4.0


def test_few_pictures_are_shown_repeatedly(tmp_path):
    draw_pictures(tmp_path / "clip", range(1, 3))
    assert read_numbers(load_segment_centres(tmp_path / "clip", num_frames=4).pixels) == [1, 1, 1, 2]


def test_pictures_that_are_missing_or_damaged_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match=r"empty: has no images 00001.jpg"):
        load_pictures(tmp_path / "empty")
    draw_pictures(tmp_path / "gap", [1, 3])
    with pytest.raises(VideoError, match=r"00002.jpg: no such image; the images of a folder must be numbered"):
        load_pictures(tmp_path / "gap")
    (tmp_path / "gap" / "00002.jpg").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"00002.jpg: is not an image"):
        load_pictures(tmp_path / "gap")


# -------------------------------------------------------------------------------------------------- recipes

ZEROSHOT, FINETUNED = "original-zeroshot@1", "original-finetuned@1"
EVALUATIONS = {
    "egoschema": ("egoschema", "zero-shot", "original-benchmarks@1"),
    "mvbench": ("mvbench", "zero-shot", "original-benchmarks@1"),
    "tempcompass": ("tempcompass", "zero-shot", "original-benchmarks@1"),
    "video_mme": ("video_mme", "zero-shot", "original-benchmarks@1"),
    "youcook2_zeroshot": ("youcook2", "zero-shot", ZEROSHOT),
    "youcook2_finetuned": ("youcook2", "fine-tuned", FINETUNED),
    "youcook2_zeroshot_speech": ("youcook2", "zero-shot", ZEROSHOT),
    "youcook2_finetuned_speech": ("youcook2", "fine-tuned", "original-finetuned-speech@1"),
    "charades_sta_zeroshot": ("charades_sta", "zero-shot", ZEROSHOT),
    "charades_sta_finetuned": ("charades_sta", "fine-tuned", FINETUNED),
    "qvhighlights_zeroshot": ("qvhighlights", "zero-shot", ZEROSHOT),
    "qvhighlights_finetuned": ("qvhighlights", "fine-tuned", FINETUNED),
    "activitynet_captions": ("activitynet_captions", None, FINETUNED),
    "activitynet_grounding": ("activitynet_grounding", None, FINETUNED),
}
SETS = ("EGOSCHEMA", "MVBENCH", "TEMPCOMPASS", "VIDEO_MME", "YOUCOOK2", "CHARADES", "QVHIGHLIGHTS", "ACTIVITYNET")


@pytest.fixture
def paths(monkeypatch):
    monkeypatch.setenv("TIMECHAT_CHECKPOINT", "/models/timechat")
    for name in SETS:
        for what in ("ANNOTATIONS", "VIDEOS", "TRANSCRIPTS"):
            monkeypatch.setenv(f"{name}_{what}", f"/data/{name}/{what}")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_recipes_evaluate_as_the_original_does(name, paths):
    recipe = read_recipe(RECIPES / f"eval_{name}.yaml")
    is_choice = "choices" in BENCHMARKS[recipe.benchmark.name].scorers.values()
    assert (recipe.benchmark.name, recipe.benchmark.setting, recipe.preset) == EVALUATIONS[name]
    assert (recipe.name, recipe.run.output) == (f"eval_{name}", f"runs/eval_{name}")
    assert (recipe.model.checkpoint, recipe.frames.num_frames) == ("/models/timechat", 96)
    assert (recipe.decoding.max_new_tokens, recipe.decoding.is_free, recipe.decoding.do_sample) == (512, True, False)
    assert recipe.model.lora_alpha == (20 if is_choice else None)
    assert recipe.model.timestamp_tokenizer == ("llama" if name == "mvbench" else None)
    assert (recipe.benchmark.transcripts is not None) == name.endswith("speech")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_recipes_tell_how_the_original_draws_its_answers(name, paths):
    words = (RECIPES / f"eval_{name}.yaml").read_text().replace("\n# ", " ").split()
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set" and words[i + 1].startswith("decoding")]
    decoding = read_recipe(RECIPES / f"eval_{name}.yaml", settings).decoding
    assert (decoding.do_sample, decoding.temperature, decoding.top_p) == (True, 1.0, 0.8)
    assert (decoding.top_k, decoding.seed) == (50, 42)


def test_every_recipe_of_the_originals_evaluations_is_checked():
    ours = {"eval_drawn", "eval_drawn_moments", "eval_timelens"}
    there = {path.stem for path in RECIPES.glob("eval_*.yaml")} - ours
    assert there == {f"eval_{name}" for name in EVALUATIONS}


def test_the_prompts_of_the_benchmarks_have_their_system_prompt():
    preset, plain = find_preset("original-benchmarks@1"), find_preset(FINETUNED)
    assert preset.system == BENCHMARK_SYSTEM
    assert preset.prompts["grounding"] == plain.prompts["grounding"]
