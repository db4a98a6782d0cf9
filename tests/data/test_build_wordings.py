"""Wordings of questions: golden strings of the original, six of this package, files, and the draw."""

import json
import re

import pytest

from timechat.data.builders.own_wordings import OWN_WORDINGS
from timechat.data.builders.wordings import ORIGINAL_WORDINGS, UNRECORDED, load_wordings
from timechat.errors import DataError


def ask(wording: str, task: str, *, seed: int = 0, key: str = "k", query=None, is_moment=False, dataset="charades"):
    wordings = load_wordings(str(wording), task=task)
    return wordings.question(task, key=key, seed=seed, dataset=dataset, query=query, is_moment=is_moment)


@pytest.mark.parametrize(
    ("task", "query", "dataset", "question"),
    [
        (
            "dense_caption",
            None,
            "youcook2",
            "Localize a series of activity events in the video, output the start and end timestamp for each event, and "
            "describe each event with sentences. The output format of each predicted event should be like: 'start - "
            "end seconds, event description'. A specific example is : ' 90 - 102 seconds, spread margarine on two "
            "slices of white bread in the video' .",
        ),
        (
            "grounding",
            "a person runs",
            "charades",
            "Localize the visual content described by the given textual query 'a person runs' in the video, and output "
            "the start and end timestamps in seconds. The output format of the predicted timestamp should be like: "
            "'start - end seconds'. A specific example is : 20.8 - 30.0 seconds' .",
        ),
        (
            "highlights",
            "A girl cooks",
            "qvhighlights",
            "You are given a video from the qvhighlights dataset. Please find the highlight moments in the video "
            "described by a sentence query, determining the highlight moment's timestamp and its saliency score. The "
            "output format should be like: 'There are 10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, 96, 98, "
            "100 second. Their saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'. Now I will give "
            "you the sentence query: 'A girl cooks'. Please return the query-based highlight moments.",
        ),
    ],
)
def test_the_recorded_wordings_of_the_original(task, query, dataset, question):
    assert ask("original", task, query=query, dataset=dataset) == question


def test_every_task_has_its_wordings():
    assert set(ORIGINAL_WORDINGS) == {"dense_caption", "grounding", "highlights", *UNRECORDED}
    assert set(OWN_WORDINGS) == {*ORIGINAL_WORDINGS, "grounding_moment"}
    for task, texts in OWN_WORDINGS.items():
        assert len(set(texts)) == 6
        assert all(("{query}" in text) == (task in ("grounding", "grounding_moment", "highlights")) for text in texts)
    assert not any(re.search(r"\bend", text) for text in OWN_WORDINGS["grounding_moment"])


def test_the_draw_depends_on_seed_and_record_only():
    drawn = [ask("timechat", "steps", key=f"record {number}") for number in range(600)]
    assert drawn == [ask("timechat", "steps", key=f"record {number}") for number in range(600)]
    counts = [drawn.count(text) for text in OWN_WORDINGS["steps"]]
    assert min(counts) > 70
    assert drawn != [ask("timechat", "steps", key=f"record {number}", seed=1) for number in range(600)]


def test_a_moment_is_asked_without_an_end(tmp_path):
    assert ask("original", "grounding", query="a dog", is_moment=True) in [
        text.replace("{query}", "a dog") for text in OWN_WORDINGS["grounding_moment"]
    ]
    path = tmp_path / "p.txt"
    path.write_text("Start and end of {query}?\nWhen is {query}?\nWhich moment is the endless {query}?\n")
    asked = {ask(path, "grounding", query="it", key=str(number), is_moment=True) for number in range(20)}
    assert asked == {"When is it?", "Which moment is the endless it?"}


@pytest.mark.parametrize(
    ("content", "question"),
    [
        ("\ufeffWhen is {query} in {dataset}?\r\n\r\n", "When is a dog in charades?"),
        ({"0": "When is <query_placeholder> in <dataset_placeholder>? "}, "When is 'a dog' in charades?"),
        (["A video of the {} set. Find {}."], "A video of the charades set. Find a dog."),
        ("Find {} in the video.", "Find a dog in the video."),
        ("{query}: when?", "a dog: when?"),
    ],
)
def test_a_file_gives_the_wordings(tmp_path, content, question):
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if isinstance(content, str):
        path = path.rename(tmp_path / "prompts.txt")
    assert ask(path, "grounding", query="a dog") == question


def test_braces_in_a_query_are_kept(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("{query}? From <dataset_placeholder>.")
    assert ask(path, "grounding", query="{dataset} \\1 {}") == "{dataset} \\1 {}? From charades."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (" \n", "holds no wording; write one per line"),
        ("Find {query}.\nFind it.\n", r"wording 2 has no place for the query; write \{query\} in it"),
        ("[1]", "expected texts, as a list or as the values of an object"),
        (None, "is no wording and no file; give original, timechat, or a file"),
    ],
)
def test_a_useless_file_is_refused(tmp_path, content, message):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_wordings(str(path), task="grounding")
