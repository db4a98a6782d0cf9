"""Result files in the original's formats: the whole prompt, and names of videos."""

import json
from pathlib import Path

import pytest

from timechat.answers.events import Event
from timechat.evaluation.benchmarks import BENCHMARKS
from timechat.evaluation.result_files import write_results
from timechat.evaluation.samples import Prediction, Sample

QUESTION = (
    "Localize the visual content described by the given textual query 'a dog' in the video, and output the start and "
    "end timestamps in seconds."
)


def results(folder: Path, benchmark: str, sample: Sample, prediction: Prediction) -> list[Path]:
    write_results(
        folder, BENCHMARKS[benchmark], [sample], [prediction], split="test", num_frames=96, preset="timechat@1"
    )
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("prompt", "speech", "written"),
    [
        ("[INST] the whole prompt [/INST]", None, "[INST] the whole prompt [/INST]"),
        ("", None, QUESTION),
        (
            "",
            (Event(0.0, 2.0, "look at this"),),
            "Transcribed speech: 0.0 - 2.0 seconds, look at this.  Based on the video content and possible transcribed "
            f"speech, {QUESTION}",
        ),
    ],
)
def test_raw_results_hold_the_prompt(tmp_path, prompt, speech, written):
    truth = {"id": 3, "image_id": "a.mp4", "caption": "a dog", "timestamp": [1, 2]}
    sample = Sample(id="3", video="a.mp4", task="grounding", query="a dog", speech=speech, ground_truth=truth)
    prediction = Prediction(
        id="3", video="a.mp4", task="grounding", query="a dog", text="1 - 2", events=(Event(1, 2),), prompt=prompt
    )
    files = results(tmp_path, "charades_sta", sample, prediction)
    (row,) = json.loads(next(path for path in files if path.name == "charades_test_f96_result.json").read_text())
    assert row == {"vname": "a.mp4", "generated_cap": "1 - 2", "prompt": written, "query": "a dog", "id": 3}
    assert Prediction.from_dict(json.loads(json.dumps(prediction.to_dict()))) == prediction
    assert ("prompt" in prediction.to_dict()) == bool(prompt)


def test_highlight_results_name_the_file_of_the_video(tmp_path):
    truth = {"qid": 7, "query": "a dog", "vid": "v_1.0_2.0", "duration": 4}
    sample = Sample(id="7", video="v_1.0_2.0.mp4", task="highlights", query="a dog", duration=4, ground_truth=truth)
    prediction = Prediction(
        id="7", video="v_1.0_2.0.mp4", task="highlights", query="a dog", text="2", events=(Event(2, 2, saliency=3.0),)
    )
    files = results(tmp_path, "qvhighlights", sample, prediction)
    (row,) = json.loads(next(path for path in files if path.name.startswith("fmt_")).read_text())
    assert row == {"qid": 7, "query": "a dog", "vid": "v_1.0_2.0.mp4", "pred_saliency_scores": [0.0, 3.0]}
