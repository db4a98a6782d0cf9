"""The wording is the original's, to the letter."""

import pytest

from tests.golden import golden_host_side, golden_meta
from timechat.answers.prompts import PRESETS, Message, frame_message, frame_prompt, render_chat, time_text


@pytest.mark.parametrize("case", golden_host_side()["prompts"])
def test_conversations_are_written_as_the_original_writes_them(case):
    messages = [Message(("user", "assistant")[role], text) for role, text in case["messages"]]
    style = {"llama_v2": "llama_2", "vicuna": "vicuna"}[case["kind"]]
    assert render_chat(case["system"], messages, style=style) == case["prompt"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0.0"), (2.25, "2.2"), (2.35, "2.4"), (117, "117.0")])
def test_times_are_seconds_with_one_decimal(seconds, text):
    assert time_text(seconds) == text


def test_the_frame_message_of_a_recorded_video_is_the_originals():
    case = golden_meta()["cases"]["infer_T8"]
    times = [index / case["video"]["fps"] for index in (0, 12, 24, 36, 48, 60, 72, 84)]
    assert frame_message(times) == case["frame_message"]


def test_the_sentence_beside_a_frame_says_its_time():
    assert frame_prompt(12.34) == "This frame is sampled at 12.3 second."


def test_a_query_is_put_where_the_wording_has_its_place():
    question = PRESETS["timechat@1"].question("grounding", " person turns a light on. ")
    assert question == (
        "Localize the visual content described by the given textual query 'person turns a light on' in the video, "
        "and output the start and end timestamps in seconds."
    )


def test_a_task_that_needs_a_query_says_so():
    with pytest.raises(ValueError, match="grounding needs a query, got ' '"):
        PRESETS["timechat@1"].question("grounding", " ")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", ["dense_caption", "grounding", "highlights", "steps", "summary", "transcribe"])
def test_every_preset_words_every_task(name, task):
    question = PRESETS[name].question(task, "a {strange} query")
    assert "{query}" not in question
    assert PRESETS[name].name == name
