"""Cache keys hold everything that tokens and answers depend on."""

from dataclasses import fields, replace

import pytest

from timechat import Event, TimeChat
from timechat.answers.merging import MomentSelection
from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import Window, WindowConfig
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.files.cache import DiskCache
from timechat.pipeline import FrameSampling, Request
from timechat.pipeline.cache import WindowCache
from timechat.pipeline.request import NOT_IN_WINDOW_ANSWERS, WindowPlan, plan_windows
from timechat.search.retrieval import RetrievalConfig

WINDOW = Window(0.0, 20.0)
REQUEST = Request("ask", "What happens?")
FRAMES = FrameSampling(num_frames=8)

OTHER_REQUESTS = {
    "task": Request("summary"),
    "query": replace(REQUEST, query="Who is there?"),
    "history": replace(REQUEST, history=[("a", "b")]),
    "decoding": replace(REQUEST, decoding=DecodingOptions(is_free=True)),
    "preset": replace(REQUEST, preset="original-zeroshot@1"),
    "transcript": replace(REQUEST, transcript=[Event(1.0, 2.0, "hello")]),
    "system": replace(REQUEST, system="Be brief."),
    "moments": replace(REQUEST, moments=MomentSelection(top_k=2)),
    "cite": replace(REQUEST, cite=True),
    "verify": replace(REQUEST, verify=True),
    "question": replace(REQUEST, question="What happens here?"),
    "retrieval": replace(REQUEST, retrieval=RetrievalConfig(0.1)),
}
OTHER_DECODING = {
    "max_new_tokens": DecodingOptions(max_new_tokens=5),
    "is_free": DecodingOptions(is_free=True),
    "do_sample": DecodingOptions(do_sample=True),
    "temperature": DecodingOptions(temperature=0.5),
    "top_p": DecodingOptions(top_p=0.5),
    "top_k": DecodingOptions(top_k=5),
    "seed": DecodingOptions(seed=5),
    "json_schema": DecodingOptions(json_schema="{}"),
    "num_beams": DecodingOptions(num_beams=2),
    "length_penalty": DecodingOptions(length_penalty=2.0),
    "repetition_penalty": DecodingOptions(repetition_penalty=1.2),
    "min_new_tokens": DecodingOptions(min_new_tokens=5),
}
OTHER_FRAMES = {
    "num_frames": FrameSampling(num_frames=9),
    "fps": FrameSampling(fps=2.0),
    "max_frames": replace(FRAMES, max_frames=8),
    "start": replace(FRAMES, start=1.0),
    "end": replace(FRAMES, end=9.0),
    "timestamps": FrameSampling(timestamps=[1.0]),
    "sampling": replace(FRAMES, sampling="keyframes"),
}
OTHER_WINDOWS = {
    "start": Window(1.0, 20.0),
    "end": Window(0.0, 19.0),
    "time_scale": Window(0.0, 20.0, 2.0),
}
OTHER_PLANS = {
    "window": WindowConfig(window=30.0),
    "overlap": WindowConfig(overlap=2.0),
    "step": WindowConfig(step=2.0),
}


@pytest.fixture(scope="module")
def keys(nano):
    return WindowCache(DiskCache(max_bytes=0), "digest of the video", nano.backbone)._answer_key


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_every_field_of_a_request_is_in_the_key(keys, name):
    is_same = keys(REQUEST, WINDOW, FRAMES) == keys(OTHER_REQUESTS[name], WINDOW, FRAMES)
    assert is_same == (name in NOT_IN_WINDOW_ANSWERS and name != "transcript")


@pytest.mark.parametrize("name", [field.name for field in fields(DecodingOptions)])
def test_every_decoding_option_is_in_the_key(keys, name):
    other = replace(REQUEST, decoding=OTHER_DECODING[name])
    assert keys(REQUEST, WINDOW, FRAMES) != keys(other, WINDOW, FRAMES)


@pytest.mark.parametrize("name", [field.name for field in fields(FrameSampling)])
def test_every_frame_option_is_in_the_keys(nano, keys, name):
    assert keys(REQUEST, WINDOW, FRAMES) != keys(REQUEST, WINDOW, OTHER_FRAMES[name])
    tokens = WindowCache(DiskCache(max_bytes=0), "digest of the video", nano.backbone)._key
    assert tokens("video", WINDOW, FRAMES) != tokens("video", WINDOW, OTHER_FRAMES[name])
    assert tokens("frames", None, FRAMES) != tokens("frames", None, OTHER_FRAMES[name])


@pytest.mark.parametrize("name", [field.name for field in fields(Window)])
def test_every_field_of_a_window_is_in_the_key(keys, name):
    assert keys(REQUEST, WINDOW, FRAMES) != keys(REQUEST, OTHER_WINDOWS[name], FRAMES)


@pytest.mark.parametrize("name", [field.name for field in fields(WindowConfig)])
def test_window_options_change_the_windows(nano, name):
    """`refine` and `batch_size` concern the answers together: no window changes."""

    def windows(config: WindowConfig) -> WindowPlan:
        return plan_windows(nano.backbone.config, 200.0, config, FrameSampling())

    if name in OTHER_PLANS:
        assert windows(OTHER_PLANS[name]) != windows(WindowConfig())
    else:
        assert name in ("refine", "batch_size")


def test_speech_outside_a_window_keeps_its_answer(keys):
    late = replace(REQUEST, transcript=[Event(30.0, 31.0, "hello")])
    none = replace(REQUEST, transcript=[])
    assert keys(late, WINDOW, FRAMES) == keys(none, WINDOW, FRAMES) != keys(REQUEST, WINDOW, FRAMES)


def test_every_reason_names_a_field_of_the_request():
    assert set(NOT_IN_WINDOW_ANSWERS) < {field.name for field in fields(Request)}
    assert all(len(reason) > 20 for reason in NOT_IN_WINDOW_ANSWERS.values())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"num_frames": 4}, {"num_frames": 8}),
        ({"fps": 1.0}, {"fps": 2.0}),
        ({"fps": 2.0}, {"fps": 2.0, "max_frames": 5}),
        ({"num_frames": 8}, {"num_frames": 8, "sampling": "keyframes"}),
    ],
)
def test_other_frames_give_another_answer(cached, video_path, first, second):
    """Version 0.1 returned the first answer with the second `step`."""
    request = Request("grounding", "the red circle blinks", decoding=DecodingOptions(max_new_tokens=8))
    cached.run(request, video_path, sampling=FrameSampling(**first))
    after = cached.run(request, video_path, sampling=FrameSampling(**second))
    fresh = TimeChat(TimeChatBackbone(cached.model, cached.processor, name="nano"), cache=DiskCache(max_bytes=0))
    expected = fresh.run(request, video_path, sampling=FrameSampling(**second))
    assert (after.text, after.events, after.score, after.step) == (
        expected.text,
        expected.events,
        expected.score,
        expected.step,
    )


def test_an_answer_from_the_cache_keeps_its_notes(cached, video_path):
    request = Request("grounding", "the red circle blinks", decoding=DecodingOptions(max_new_tokens=8))
    sampling = FrameSampling(num_frames=8, sampling="keyframes")
    first = cached.run(request, video_path, sampling=sampling)
    again = cached.run(request, video_path, sampling=sampling)
    assert any("keyframe" in note for note in first.notes)
    assert again.notes == first.notes
    assert again.timings["encode"] == 0.0
