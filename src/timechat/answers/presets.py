"""The prompt presets of all models, and the preset that a model was made for.

A checkpoint that was trained for grounding answers best in the words of its training, and badly in those of another.
Therefore the preset is chosen by checkpoint first, and by architecture only where the checkpoint is not known.
"""

import re
from dataclasses import replace

from timechat.answers.prompts import DEFAULT_PRESET, TIMECHAT_PRESETS, Preset

_OWN = "Own wording for the other tasks."

_TIMELENS_GROUNDING = (
    "Please find the visual event described by the sentence '{query}', determining its starting and ending times. "
    "The format should be: 'The event happens in <start time> - <end time> seconds'."
)
_FRAMES_WITH_NUMBERS = (
    "You are given a video with multiple frames. The numbers before each video frame indicate its sampling timestamp "
    "(in seconds). "
)
_FRAMES_WITH_TIMES = (
    "The time of each frame of the video stands before the frame, in seconds or as minutes:seconds. All times of your "
    "answer are seconds from the start of the video. "
)
_JSON_LIST = (
    'Answer with a JSON list of {"start": seconds, "end": seconds, "caption": "what happens"} and nothing else.'
)
_JSON_MOMENTS = (
    'Answer with a JSON list of {"time": seconds, "score": score} in the order of time and nothing else, with the '
    "score on a scale from 1 to 5."
)
_WITHOUT_GROUNDING = {
    "dense_caption": f"Describe every event of the video in the order of time. {_JSON_LIST}",
    "highlights": (
        f"Find the highlight moments of the video that show the following: '{{query}}'. {_JSON_MOMENTS} If there are "
        "none, answer with []."
    ),
    "highlights_without_query": f"Find the highlight moments of the video. {_JSON_MOMENTS}",
    "steps": f"List every step of the activity in the video in the order of time. {_JSON_LIST}",
    "summary": "Summarize what happens in the video in a few sentences, in the order of time.",
    "transcribe": (
        f"Write down what is said in the video, as far as it can be seen: subtitles and words of speakers. {_JSON_LIST}"
    ),
}

_TIMELENS = Preset(
    name="timelens@1",
    prompts={**_WITHOUT_GROUNDING, "grounding": _TIMELENS_GROUNDING},
    system="",
    forms={
        "grounding": "event_sentence",
        "dense_caption": "json_events",
        "steps": "json_events",
        "transcribe": "json_events",
        "highlights": "json_moments",
    },
    source=f"Grounding: TimeLens-8B (model card and evaluation), and the task `timelens` of lmms-eval. {_OWN}",
)


PRESETS = {
    preset.name: preset
    for preset in (
        *TIMECHAT_PRESETS,
        _TIMELENS,
        replace(
            _TIMELENS,
            name="timelens-7b@1",
            prompts={**_TIMELENS.prompts, "grounding": _FRAMES_WITH_NUMBERS + _TIMELENS_GROUNDING},
            source=f"Grounding: TimeLens-7B, a Qwen2.5-VL (model card and evaluation). {_OWN}",
        ),
        Preset(
            name="timelens2@1",
            prompts={
                **_WITHOUT_GROUNDING,
                "grounding": (
                    'Given the query: "{query}", return ALL time spans (in seconds) where the query is relevant.\n'
                    "Output format MUST be a JSON array of [start, end] pairs.\n"
                ),
            },
            system="",
            forms={**_TIMELENS.forms, "grounding": "json_spans"},
            source=f"Grounding: TimeLens2 (model card). {_OWN}",
        ),
        Preset(
            name="time-r1@1",
            prompts={
                **_WITHOUT_GROUNDING,
                "grounding": (
                    'To accurately pinpoint the event "{query}" in the video, determine the precise time period of the '
                    'event.\n\nWrite the start time and the end time in seconds, with "to" between them, inside of '
                    "<answer> </answer> tags."
                ),
            },
            system="",
            forms={**_TIMELENS.forms, "grounding": "answer_tags"},
            source=(
                "Grounding: the first sentence and the form of the answer are those of Time-R1. Its prompt also asks "
                f"for thoughts; the rest is our wording, for an answer without them. {_OWN}"
            ),
        ),
        replace(
            _TIMELENS,
            name="qwen3-vl@1",
            source=(
                "Grounding: the sentence with which TimeLens evaluates Qwen3-VL; Qwen3-VL's own examples of temporal "
                f"grounding were not at hand. {_OWN}"
            ),
        ),
        replace(
            _TIMELENS,
            name="generic@1",
            prompts={
                task: text if task == "summary" else _FRAMES_WITH_TIMES + text
                for task, text in _TIMELENS.prompts.items()
            },
            source=(
                "Own wording, for models without training in grounding: it says where the times of the frames stand."
            ),
        ),
        Preset(
            name="lmms-eval-charades@1",
            prompts={
                **_WITHOUT_GROUNDING,
                "grounding": (
                    "Please find the visual event described by a sentence in the video, determining its starting and "
                    "ending times. The format should be: 'The event happens in the start time - end time'. For "
                    "example, The event 'person turn a light on' happens in the 24.3 - 30.4 seonds. Now I will give "
                    "you the textual sentence: {query}. Please return its start time and end time."
                ),
            },
            system="",
            forms={task: form for task, form in _TIMELENS.forms.items() if task != "grounding"},
            source=(
                "Grounding: the task `temporal_grounding_charades` of lmms-eval, which has the zero-shot prompt of the "
                f"original without its first sentence. {_OWN}"
            ),
        ),
    )
}
"""Every preset by its name."""


_BY_NAME = (
    (r"time[-_ ]?lens[-_ ]?2(?![\db.])", "timelens2@1"),
    (r"time[-_ ]?lens.*\b[37]b", "timelens-7b@1"),
    (r"time[-_ ]?lens", "timelens@1"),
    (r"time[-_ ]?r1", "time-r1@1"),
    (r"qwen[-_ ]?3(\.\d)?[-_ ]?(vl|omni)|qwen[-_ ]?3\.5", "qwen3-vl@1"),
)
_BY_TYPE = {
    "timechat": DEFAULT_PRESET,
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), "qwen3-vl@1"),
}


def preset_for(model_name: str, model_type: str | None) -> str:
    """Return the name of the preset that a model was made for.

    Args:
        model_name: Hub id, folder, or name under which a server serves the model.
        model_type: Architecture, as in `config.json`; None if it is not known.

    Returns:
        The preset of the checkpoint, if its name is known; else that of the architecture; else `generic@1`.
    """
    if model_type == "timechat" or model_name == "nano":
        return DEFAULT_PRESET
    parts = reversed(model_name.split("/"))  # the name of the folder decides before those of the folders around it
    found = (preset for part in parts for pattern, preset in _BY_NAME if re.search(pattern, part, re.IGNORECASE))
    name = next(found, None)
    if name == "timelens@1" and model_type in ("qwen2_5_vl", "qwen2_vl"):
        return "timelens-7b@1"
    return name or _BY_TYPE.get(model_type or "", "generic@1")
