import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timechat.answers.events import Answer, Event, clip_scores, format_time
from timechat.answers.tasks import format_events

# ---------------------------------------------------------------------------------------------------- values


def test_an_event_keeps_float_seconds_and_knows_its_duration():
    event = Event(3, 7, "he sits", 1)
    assert (event.start, event.end, event.score, event.duration) == (3.0, 7.0, 1.0, 4.0)
    assert isinstance(event.start, float)
    assert event.to_dict() == {"start": 3.0, "end": 7.0, "caption": "he sits", "score": 1.0}


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5, 3, "must not end before it starts, got start=5.0, end=3.0"),
        (-1, 3, "start must be a finite number of seconds from 0, got -1.0"),
        (0, math.inf, "end must be a finite number of seconds from 0, got inf"),
        (math.nan, 1, "start must be a finite number of seconds from 0, got nan"),
    ],
)
def test_an_impossible_event_is_refused(start, end, message):
    with pytest.raises(ValueError, match=message):
        Event(start, end)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.01, 3.5])
def test_a_score_that_is_no_probability_is_refused(score):
    with pytest.raises(ValueError, match=f"score must be a probability from 0 to 1 or None, got {score}; a rating"):
        Event(0, 1, score=score)


def test_an_event_with_an_endless_saliency_is_refused():
    with pytest.raises(ValueError, match="saliency must be a finite number or None, got inf"):
        Event(1, 1, saliency=math.inf)


def test_only_a_highlight_has_a_saliency_in_json():
    assert Event(1, 1, saliency=4).to_dict() == {
        "start": 1.0,
        "end": 1.0,
        "caption": "",
        "score": None,
        "saliency": 4.0,
    }
    assert "saliency" not in Event(0, 1, score=0.5).to_dict()


def test_an_answer_is_the_json_object_that_the_commands_print():
    answer = Answer(
        "3.0 - 7.0 seconds, he sits.",
        (Event(3, 7, "he sits."),),
        task="dense_caption",
        video=Path("film.mp4"),
        duration=31.1,
        model="nano",
        notes=["untrained weights"],
    )
    assert answer.events == [Event(3, 7, "he sits.")]
    assert answer.to_dict() == {
        "video": "film.mp4",
        "duration": 31.1,
        "task": "dense_caption",
        "question": "",
        "text": "3.0 - 7.0 seconds, he sits.",
        "events": [{"start": 3.0, "end": 7.0, "caption": "he sits.", "score": None}],
        "model": "nano",
        "found": None,
        "score": None,
        "step": None,
        "by": "model",
        "read_share": 1.0,
        "player_offset": 0.0,
        "timings": {},
        "notes": ["untrained weights"],
    }


def test_an_answer_about_a_video_of_negative_length_is_refused():
    with pytest.raises(ValueError, match="seconds from 0, or None, got -1"):
        Answer("", duration=-1)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00.0"),
        (83.46, "1:23.5"),
        (59.94, "0:59.9"),
        (59.96, "1:00.0"),
        (600, "10:00.0"),
        (3599.96, "1:00:00.0"),
        (3661.0, "1:01:01.0"),
        (36000, "10:00:00.0"),
    ],
)
def test_times_for_people_are_minutes_seconds_and_tenths(seconds, shown):
    assert format_time(seconds) == shown


def test_a_negative_time_is_not_shown():
    with pytest.raises(ValueError, match=r"seconds must be a finite number from 0, got -0\.5"):
        format_time(-0.5)


@given(st.floats(0, 1e6))
def test_a_shown_time_reads_back_to_the_tenth(seconds):
    parts = [float(part) for part in format_time(seconds).split(":")]
    assert all(part < 60 for part in parts[1:])
    total = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    assert abs(total - seconds) <= 0.05 + 1e-6


# --------------------------------------------------------------------------------------------------- writing


def test_events_are_written_in_the_training_wording():
    steps = [Event(0, 9.1, "Chop"), Event(9.1, 10.8, "Fry  it\nwell!")]
    assert format_events(steps, "dense_caption") == "0.0 - 9.1 seconds, Chop.  9.1 - 10.8 seconds, Fry it well!"
    assert format_events(steps[:1], "transcribe") == "Transcribed speech: 0.0 - 9.1 seconds, Chop."
    assert format_events([Event(24.3, 30.4)], "grounding") == "The given query happens in 24.3 - 30.4 seconds."
    moments = [Event(82, 82, saliency=1.3), Event(84, 84, saliency=1.7)]
    assert format_events(moments, "highlights") == (
        "There are 2 highlight moments in the 82.0, 84.0 second. Their saliency scores are 1.3, 1.7."
    )
    assert format_events(moments, "summary") == (
        "The highlight timestamps are in the 82, 84 seconds. Their saliency scores are 1.3, 1.7."
    )


def test_grounding_is_written_for_one_event_only():
    assert format_events([], "grounding") == ""
    with pytest.raises(ValueError, match="grounding answers with one event, got 2"):
        format_events([Event(0, 1), Event(2, 3)], "grounding")


def test_a_task_without_a_wording_for_events_is_refused():
    with pytest.raises(ValueError, match=r"task must be one of dense_caption, .*, got 'ask'"):
        format_events([], "ask")


# ----------------------------------------------------------------------------------------------- clip scores


def test_a_time_scores_the_clip_that_it_begins():
    events = [Event(t, t, saliency=s) for t, s in ((2, 3), (3.9, 4), (10, 1), (11, 9))]
    assert clip_scores(events, 10) == [0, 3.5, 0, 0, 1]
    assert clip_scores(events, 9.5) == [0, 3.5, 0, 0, 0]
    assert clip_scores([Event(5, 5)], 10, 5.0) == [0, 0]


def test_the_published_mapping_is_one_clip_early():
    assert clip_scores([Event(82, 82, saliency=3)], 150, as_published=True)[39:42] == [0, 3, 0]
    assert clip_scores([Event(82, 82, saliency=3)], 150)[39:42] == [0, 0, 3]


def test_clips_without_length_are_refused():
    with pytest.raises(ValueError, match="clip_seconds must be above 0, got 0"):
        clip_scores([], 10, 0)


# ------------------------------------------------------------------------------------------------ JSON objects


def test_an_answer_is_read_from_its_json_object():
    events = [Event(1.5, 2.25, "a light", 0.75), Event(3, 3, saliency=4.5)]
    answer = Answer(
        "text",
        events,
        task="grounding",
        question="a light",
        video="a.mp4",
        duration=12.5,
        model="nano",
        found=True,
        score=0.5,
        step=0.25,
        by="search",
        read_share=0.5,
        player_offset=0.125,
        timings={"decode": 1.0},
        notes=("one", "two"),
    )
    again = Answer.from_dict(json.loads(json.dumps(answer.to_dict())))
    assert again == answer
    assert again.to_dict() == answer.to_dict()


def test_the_json_object_of_an_answer_with_a_key_less_is_refused():
    content = Answer("text").to_dict()
    del content["notes"]
    with pytest.raises(KeyError, match="notes"):
        Answer.from_dict(content)
