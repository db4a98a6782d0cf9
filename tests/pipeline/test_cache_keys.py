"""Cache keys that version 0.1 wrote: entries of its caches must still be found."""

import pytest

from timechat import Event
from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import Window, WindowConfig
from timechat.cache import cache_key
from timechat.pipeline import FrameSampling, Request

MACHINE_FACTS = {
    "weights",
    "video_weights",
    "libraries",
    "dtypes",
    "video_dtype",
    "device",
    "vision",
    "qformer",
    "video_qformer",
    "time_vocabulary",
    "time_sentences",
}
"""Facts that depend on the machine, on weights or on libraries; the keys below were made without their values."""


def without_machine(facts):
    return {
        name: None if name in MACHINE_FACTS else without_machine(value) if isinstance(value, dict) else value
        for name, value in facts.items()
    }


@pytest.fixture
def keys(monkeypatch) -> list[str]:
    """The first 16 digits of every cache key, once, in order of first use."""
    found: list[str] = []

    def record(**facts):
        key = cache_key(**without_machine(facts))
        if key[:16] not in found:
            found.append(key[:16])
        return key

    monkeypatch.setattr("timechat.pipeline.cache.cache_key", record)
    monkeypatch.setattr("timechat.pipeline.cache.file_digest", lambda *_: "video")
    return found


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "d69ccc4ba4832d41"),
        ({"max_frames": 5}, "ece6a0cbce37c3d9"),
        ({"num_frames": 4, "start": 1, "end": 2.5, "sampling": "keyframes"}, "d6e7c5f364bc027f"),
        ({"timestamps": [0, 1.5]}, "4bee490606189c83"),
    ],
)
def test_whole_videos_keep_their_cache_keys(cached, video_path, keys, options, key):
    cached.encode(video_path, **options)
    assert keys == [key]


def test_windows_keep_their_cache_keys(cached, video_path, keys):
    with cached.open(video_path, windows=WindowConfig(window=20.0, overlap=4.0, step=2.0)) as session:
        list(session.encode(session.windows[:1], cached.executor))
        assert keys == ["29e93b00d1b49050", "d6a35f3db3109fa8"]
        keys.clear()
        refined = FrameSampling(fps=4.0, start=1.0, end=5.0)
        session.encode_part(Window(1.0, 5.0, 0.5), refined, cached.executor)
    assert keys == ["70742b8266d45b88", "bfbee4e006b00c6f"]


def test_answers_keep_their_cache_keys(cached, video_path, keys):
    with cached.open(video_path, sampling=FrameSampling(num_frames=4)) as session:
        list(session.encode(session.windows, cached.executor))
        assert keys == ["d3d3037de4081fa7", "be39a6fbc8f038f2"]
        keys.clear()
        cached.run(Request("grounding", "a ball", decoding=DecodingOptions(max_new_tokens=4)), session)
        assert keys == ["caeca36d439efa13"]
        keys.clear()
        request = Request(
            "ask",
            "What?",
            [("a", "b")],
            DecodingOptions(max_new_tokens=4, is_free=True),
            "original-zeroshot@1",
            [Event(1.0, 2.0, "hello")],
            "S",
        )
        cached.run(request, session)
    assert keys == ["a64af750db9b8fd1"]
