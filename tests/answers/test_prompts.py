"""The wording is the original's, to the letter."""

import pytest

from tests.golden import golden_host_side, golden_meta
from timechat.answers.presets import PRESETS
from timechat.answers.prompts import (
    POST_CHECKS,
    Message,
    frame_message,
    frame_prompt,
    render_chat,
    time_text,
)


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


def test_second_turns_are_those_of_the_original():
    """`dvc_post_check`, `tvg_post_check` and `vhd_post_check`, with their spelling."""
    assert POST_CHECKS == {
        "dense_caption": "Be careful about your output format, you should provide start time and end time for each step. The format should be: 'start time - end time, brief step description', for example, ' 90 - 102 seconds, spread margarine on two slices of white bread'.",  # noqa: E501
        "grounding": "Be careful about your output format, you should provide start time and end time for the visual event. The format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a light on' happens in the 24.3 - 30.4 seonds.",  # noqa: E501
        "highlights": "Be careful about your output format, you should provide timestamp and saliency score for the highlight moment. The output format should be like: 'There are 10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, 96, 98, 100 second. Their saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'.",  # noqa: E501
    }
