"""The prompts of the original's evaluation, to the letter: first lines of its prompt files, filled by its script."""

import pytest

from timechat.answers.presets import PRESETS, preset_for

DENSE = (
    "Localize a series of activity events in the video, output the start and end timestamp for each event, and "
    "describe each event with sentences. The output format of each predicted event should be like: 'start - end "
    "seconds, event description'. A specific example is : ' 90 - 102 seconds, spread margarine on two slices of "
    "white bread in the video' ."
)
DENSE_WITH_SPEECH = (
    "You are able to understand the visual content that the user provides. Localize a series of activity events in "
    "the video with the aid of transcribed speech, output the start and end timestamp for each event, and describe "
    "each event with sentences. The output format of each predicted event should be like: 'start - end seconds, "
    "event description'. An specific example is : ' 90 - 102 seconds, spread margarine on two slices of white bread "
    "in the video' ."
)
DENSE_ZERO_SHOT = (
    "You are given a cooking video from the YouCook2 dataset. Please watch the video and extract a maximum of 10 "
    "significant cooking steps. For each step, determine the starting and ending times and provide a concise "
    "description. The format should be: 'start time - end time, brief step description'. For example, ' 90 - 102 "
    "seconds, spread margarine on two slices of white bread'."
)
GROUNDING = (
    "Localize the visual content described by the given textual query a man cooks in the video, and output the start "
    "and end timestamps in seconds. The output format of the predicted timestamp should be like: 'start - end "
    "seconds'. A specific example is : 20.8 - 30.0 seconds' ."
)
GROUNDING_ZERO_SHOT = (
    "You are given a video from the charades dataset. Please find the visual event described by a sentence in the "
    "video, determining its starting and ending times. The format should be: 'The event happens in the start time - "
    "end time'. For example, The event 'person turn a light on' happens in the 24.3 - 30.4 seonds. Now I will give "
    "you the textual sentence: a man cooks. Please return its start time and end time."
)
HIGHLIGHTS = (
    "You are given a video from the qvhighlights dataset. Please find the highlight moments in the video described "
    "by a sentence query, determining the highlight moment's timestamp and its saliency score. The output format "
    "should be like: 'There are 10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, 96, 98, 100 second. Their "
    "saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'. Now I will give you the sentence query: "
    "a man cooks. Please return the query-based highlight moments."
)
HIGHLIGHTS_ZERO_SHOT = (
    "You are given a video from the qvhighlights dataset. Please find the highlight contents in the video described "
    "by a sentence query, determining the highlight timestamps and its saliency score on a scale from 1 to 5. The "
    "output format should be like: 'The highlight timestamps are in the 82, 84, 86, 88, 90, 92, 94, 96, 98, 100 "
    "seconds. Their saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'. Now I will give you the "
    "sentence query: a man cooks. Please return the query-based highlight timestamps and salient scores."
)
WORDINGS = {
    "original-finetuned@1": (DENSE, GROUNDING, HIGHLIGHTS),
    "original-finetuned-speech@1": (DENSE_WITH_SPEECH, GROUNDING, HIGHLIGHTS),
    "original-benchmarks@1": (DENSE, GROUNDING, HIGHLIGHTS),
    "original-zeroshot@1": (DENSE_ZERO_SHOT, GROUNDING_ZERO_SHOT, HIGHLIGHTS_ZERO_SHOT),
}


@pytest.mark.parametrize("name", WORDINGS)
def test_prompts_are_those_of_the_originals_files(name):
    tasks = ("dense_caption", "grounding", "highlights")
    assert tuple(PRESETS[name].question(task, "a man cooks.") for task in tasks) == WORDINGS[name]


def test_every_preset_of_the_original_is_compared():
    assert {name for name in PRESETS if name.startswith("original-")} == set(WORDINGS)


@pytest.mark.parametrize("name", PRESETS)
def test_no_prompt_has_a_blank_at_an_end(name):
    found = [task for task, text in PRESETS[name].prompts.items() if text != text.strip()]
    assert found == (["grounding"] if name == "timelens2@1" else [])  # published with a line break at its end


TIMELENS = (
    "Please find the visual event described by the sentence 'a man cooks', determining its starting and ending times. "
    "The format should be: 'The event happens in <start time> - <end time> seconds'."
)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("timelens@1", TIMELENS),
        ("qwen3-vl@1", TIMELENS),
        (
            "timelens-7b@1",
            "You are given a video with multiple frames. The numbers before each video frame indicate its sampling "
            f"timestamp (in seconds). {TIMELENS}",
        ),
        (
            "timelens2@1",
            'Given the query: "a man cooks", return ALL time spans (in seconds) where the query is relevant.\n'
            "Output format MUST be a JSON array of [start, end] pairs.\n",
        ),
        (
            "lmms-eval-charades@1",
            GROUNDING_ZERO_SHOT.removeprefix("You are given a video from the charades dataset. "),
        ),
    ],
)
def test_grounding_prompts_are_those_of_the_checkpoints(name, prompt):
    assert PRESETS[name].question("grounding", "a man cooks.") == prompt
    assert PRESETS[name].system == ""
    assert PRESETS[name].source


@pytest.mark.parametrize(
    ("model", "model_type", "preset"),
    [
        ("MCG-NJU/TimeLens2-4B", "qwen3_vl", "timelens2@1"),
        ("/models/timelens2_2b/", None, "timelens2@1"),
        ("TencentARC/TimeLens-8B", "qwen3_vl", "timelens@1"),
        ("TencentARC/TimeLens-7B", "qwen2_5_vl", "timelens-7b@1"),
        ("my-timelens", "qwen2_5_vl", "timelens-7b@1"),
        ("Boshenxx/Time-R1-7B", "qwen2_5_vl", "time-r1@1"),
        ("Qwen/Qwen3-VL-8B-Instruct", None, "qwen3-vl@1"),
        ("qwen3-vl:4b", None, "qwen3-vl@1"),
        ("Qwen3.5-9B", None, "qwen3-vl@1"),
        ("a-folder", "qwen3_vl_moe", "qwen3-vl@1"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", "generic@1"),
        ("HuggingFaceTB/SmolVLM2-500M", "smolvlm", "generic@1"),
        ("/models/timelens/Qwen3-VL-8B-Instruct", "qwen3_vl", "qwen3-vl@1"),
        ("/hub/models--MCG-NJU--TimeLens2-4B/snapshots/0a1b", "qwen3_vl", "timelens2@1"),
        ("gpt-5", None, "generic@1"),
        ("nano", None, "timechat@1"),
        ("timelens2-inside", "timechat", "timechat@1"),
    ],
)
def test_preset_is_chosen_by_checkpoint_then_architecture(model, model_type, preset):
    assert preset_for(model, model_type) == preset
    assert preset in PRESETS
