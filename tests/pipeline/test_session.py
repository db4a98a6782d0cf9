"""Videos of any length: windows, plans, what is kept on disk, the second look, and evidence."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.tiny import made_frames
from timechat import Event, TimeChat, VideoError
from timechat.answers.events import Answer
from timechat.answers.merging import Scoring, WindowAnswer, merge_window_answers, parse_window
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.token_evidence import Token
from timechat.answers.windows import Window
from timechat.backbones.backbone import BackboneConfig, GeneratedText, WindowCost
from timechat.backbones.timechat.backbone import backbone_config
from timechat.files.cache import DiskCache
from timechat.model.configuration import TimeChatConfig
from timechat.model.generation.generate import Prompt, continuation_logprobs, generate_answers
from timechat.pipeline import DecodingOptions, FrameSampling, MomentSelection, Request, WindowConfig, estimate, session
from timechat.pipeline.cache import WindowCache
from timechat.pipeline.citing import cited_answer, verified_answer
from timechat.pipeline.refining import border_window
from timechat.pipeline.request import plan_windows
from timechat.pipeline.window_answering import WindowAnswerer
from timechat.synthetic.long import write_long_scene
from timechat.synthetic.write import write_video
from timechat.video import Frames

SHORT = DecodingOptions(max_new_tokens=24)
IN_SECONDS = WindowConfig(window=8, overlap=2)
FIRST_HALF = FrameSampling(end=28)  # of the video of a minute


# ---------------------------------------------------------------------------------------------------- windows

NANO = backbone_config(TimeChatConfig(fps=2, max_frames=600, window_seconds=60))
ORIGINAL = backbone_config(TimeChatConfig())


def test_a_video_as_long_as_in_training_is_one_window():
    plan = plan_windows(NANO, 60.0, WindowConfig(), FrameSampling())
    assert plan.windows == (Window(0, 60.0),)
    assert plan.window_sampling(plan.windows[0]) == FrameSampling(fps=2, max_frames=600, start=0, end=60.0)
    plan = plan_windows(ORIGINAL, 190.0, WindowConfig(), FrameSampling())
    assert plan.windows == (Window(0, 190.0),)
    assert plan.sampling == FrameSampling(num_frames=96)
    assert plan.frame_interval == pytest.approx(190 / 96)


def test_windows_overlap_by_a_sixth_of_a_window_by_default():
    plan = plan_windows(NANO, 210.0, WindowConfig(), FrameSampling())
    assert [(window.start, window.end) for window in plan.windows] == [(0, 60), (50, 110), (100, 160), (150, 210)]


def test_a_larger_step_makes_longer_windows():
    plan = plan_windows(NANO, 600.0, WindowConfig(step=1.0), FrameSampling())
    assert {window.time_scale for window in plan.windows} == {2.0}
    assert max(window.duration for window in plan.windows) <= 60.25
    assert plan.sampling.fps == 1.0
    plan = plan_windows(ORIGINAL, 3600.0, WindowConfig(step=4.0), FrameSampling())
    assert {window.time_scale for window in plan.windows} == {1.0}
    assert max(window.end - window.start for window in plan.windows) <= 4.0 * 96 + 0.5


def test_a_step_within_a_window_sets_the_number_of_frames():
    plan = plan_windows(ORIGINAL, 600.0, WindowConfig(window=60, step=2.0), FrameSampling())
    assert plan.sampling.num_frames == 30
    assert plan.frame_interval == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize(
    ("config", "window", "step", "message"),
    [
        (ORIGINAL, 192.0, 1.0, "a step of 1 s in windows of 192 s takes 192 frames, more than the 96 of a window"),
        (ORIGINAL, 0.0, 1.0, "a step of 1 s in windows of 3600 s takes 3600 frames, more than the 96 of a window"),
        (NANO, 0.0, 0.5, "a step of 0.5 s in windows of 3599.5 s takes 7199 frames, more than the 600 of a window"),
    ],
)
def test_a_step_that_cannot_be_kept_is_refused(config, window, step, message):
    with pytest.raises(ValueError, match=message):
        plan_windows(config, 3600.0, WindowConfig(window=window, step=step), FrameSampling())


@pytest.mark.parametrize("sampling", [FrameSampling(max_frames=10), FrameSampling(num_frames=20, max_frames=10)])
def test_the_maximum_number_of_frames_is_kept(sampling):
    plan = plan_windows(ORIGINAL, 100.0, WindowConfig(), sampling)
    assert plan.sampling.num_frames == 10
    assert plan.frame_interval == pytest.approx(10.0)


def test_a_number_of_frames_alone_makes_one_window():
    assert len(plan_windows(ORIGINAL, 3600.0, WindowConfig(), FrameSampling(num_frames=96)).windows) == 1
    assert len(plan_windows(ORIGINAL, 3600.0, WindowConfig(window=192), FrameSampling(num_frames=96)).windows) > 1
    assert len(plan_windows(NANO, 3600.0, WindowConfig(window=0), FrameSampling()).windows) == 1


@pytest.mark.parametrize(
    ("fps", "step", "refines"), [(2.0, None, False), (1.0, None, False), (1.0, 2.0, True), (2.0, 1.0, True)]
)
def test_frames_as_dense_as_the_model_wants_are_not_refined(fps, step, refines):
    config = BackboneConfig(FrameSampling(fps=fps), num_frames=64, window_seconds=64.0)
    assert plan_windows(config, 300.0, WindowConfig(step=step), FrameSampling()).refines is refines


def test_windows_cover_only_the_requested_part():
    plan = plan_windows(NANO, 3600.0, WindowConfig(), FrameSampling(start=100.0, end=300.0))
    assert (plan.windows[0].start, plan.windows[-1].end) == (100.0, 300.0)


def test_a_stretch_that_the_video_does_not_reach_is_refused(nano, video_path):
    with pytest.raises(VideoError, match=r"ends at \d+\.\d+ s, before the start at 100 s"):
        nano.open(video_path, sampling=FrameSampling(start=100.0))


def test_refinement_windows_are_denser_and_around_the_border():
    window, sampling = border_window(ORIGINAL, 500.0, 2.0, Window(0.0, 3600.0))
    assert sampling.fps == pytest.approx(2.0)
    assert (window.start, window.end, window.time_scale) == (pytest.approx(476.0), pytest.approx(524.0), 1.0)
    window, sampling = border_window(NANO, 500.0, 1.0, Window(0.0, 3600.0))
    assert (sampling.fps, window.time_scale) == (2.0, 1.0)  # no denser than the model is used to


def test_one_window_equals_encode(nano, video_path):
    whole = nano.encode(video_path)
    with nano.open(video_path, windows=WindowConfig(window=60)) as video:
        (encoded,) = video.encode(video.windows)
        np.testing.assert_array_equal(encoded.timestamps, whole.timestamps)
        torch.testing.assert_close(encoded.content, whole.content)
        assert nano.dense_caption(video).text == nano.dense_caption(whole).text


def test_a_window_is_seen_as_a_video_of_its_own(nano, video_path):
    with nano.open(video_path, windows=IN_SECONDS) as video:
        window = video.windows[2]
        (encoded,) = video.encode([window])
    part = nano.encode(video_path, start=window.start, end=window.end, fps=2)
    np.testing.assert_allclose(encoded.timestamps, part.timestamps - window.start, atol=1e-9)
    assert encoded.timestamps[0] == 0
    assert encoded.duration == window.duration


def test_windows_in_a_batch_answer_like_single_windows(nano, video_path):
    """In a batch, as everywhere, an answer does not depend on its neighbours."""
    answers = []
    for batch_size in (1, 8):
        windows = replace(IN_SECONDS, batch_size=batch_size)
        with nano.open(video_path, windows=windows, sampling=FIRST_HALF) as video:
            assert len(video.windows) > 3
            answers.append(nano.dense_caption(video, decoding=DecodingOptions(max_new_tokens=80)))
    assert [e.caption for e in answers[0].events] == [e.caption for e in answers[1].events]
    assert [(e.start, e.end) for e in answers[0].events] == [(e.start, e.end) for e in answers[1].events]
    assert answers[0].events


def test_all_tasks_take_a_long_video_and_answer_on_its_clock(nano, video_path):
    with nano.open(video_path, windows=IN_SECONDS, sampling=FIRST_HALF) as video:
        assert len(video.windows) > 3
        for task, words in [
            ("ask", "What happens?"), ("dense_caption", None), ("grounding", "the blue star blinks"),
            ("highlights", "the blue star blinks"), ("steps", None), ("summary", None), ("transcribe", None),
        ]:  # fmt: skip
            answer = nano.run(Request(task, words, decoding=DecodingOptions(max_new_tokens=60)), video)
            assert answer.task == task
            assert all(0 <= e.start <= e.end <= video.duration for e in answer.events)
            assert answer.duration == video.duration
            assert answer.step == pytest.approx(0.5)
            if task not in ("ask", "summary"):
                assert answer.events == sorted(answer.events, key=lambda e: (e.start, e.end)) or task == "grounding"
    late = [e for e in nano.dense_caption(video_path, windows=IN_SECONDS).events if e.start > 16]
    assert late  # the later windows have their say


def test_a_path_is_answered_window_by_window(nano, tmp_path):
    chain = write_long_scene(3, 0, minutes=2, level=1, split="test")
    path = tmp_path / "two.mp4"
    write_video(chain, path)
    answer = nano.dense_caption(path)
    assert answer.duration == pytest.approx(120, abs=0.5)
    assert max(e.end for e in answer.events) > 80
    assert min(e.start for e in answer.events) < 40


def test_lines_of_free_answers_start_with_their_time_span(nano, video_path):
    answer = nano.ask(video_path, "What happens?", windows=IN_SECONDS, decoding=SHORT)
    lines = answer.text.split("\n")
    assert lines[0].startswith("[0:00–")
    assert all(line.startswith("[") for line in lines)


def test_ready_made_frames_are_cut_into_windows_too(nano):
    frames = made_frames(40, size=96, seconds=20.0)
    with nano.open(frames, windows=IN_SECONDS) as video:
        assert len(video.windows) == 3
        assert [e.num_frames for e in video.encode(video.windows)] == [16, 16, 16]


def test_windows_stay_in_memory_while_there_is_room(nano, video_path, monkeypatch):
    with nano.open(video_path, windows=IN_SECONDS) as video:
        first = next(video.encode(video.windows))
        monkeypatch.setattr(session, "_MAX_KEPT_BYTES", first.content.nbytes)
        encoded, again = list(video.encode(video.windows)), list(video.encode(video.windows))
        assert [one is other for one, other in zip(encoded, again, strict=True)] == [True] + [False] * 8
        assert all(torch.equal(one.content, other.content) for one, other in zip(encoded, again, strict=True))


def test_several_windows_are_not_answered_in_one_stream(nano, video_path):
    with (
        nano.open(video_path, windows=IN_SECONDS) as video,
        pytest.raises(ValueError, match=r"a video of \d+ windows cannot be answered as a stream"),
    ):
        nano.stream(Request("ask", "What happens?"), video)


@pytest.fixture
def scripted(monkeypatch):
    """A function that sets the text that the model writes about every window."""

    def write(text: str) -> None:
        def generate(self, requests, windows, *, on_text=None, should_stop=None):
            if on_text is not None:
                on_text(text)
            return [GeneratedText(text) for _ in windows]

        monkeypatch.setattr(WindowAnswerer, "generate", generate)

    return write


def test_a_stream_about_a_part_has_the_times_of_the_video(nano, scripted):
    scripted("3.5 - 4.0 seconds, A ball falls.")
    frames = made_frames(20, size=96, seconds=20.0)
    request = Request("dense_caption")
    with nano.open(frames, sampling=FrameSampling(start=14.0)) as video:
        assert not nano.answerer().keeps_text(request, video)
        stream = nano.stream(request, video)
        assert list(stream) == ["17.5 - 18.0 seconds, A ball falls."]
        assert stream.answer.text == nano.run(request, video).text == "17.5 - 18.0 seconds, A ball falls."
        assert stream.answer.duration == 20.0
        assert stream.answer.timings.keys() == {"decode", "encode", "answer"}
    with nano.open(frames, windows=WindowConfig(window=0, step=1.0)) as video:
        assert "".join(nano.stream(request, video)) == "7.0 - 8.0 seconds, A ball falls."


def test_a_streamed_moment_is_refined_like_any_other(nano, scripted):
    scripted(SPAN.format("2.0", "4.0"))
    request = Request("grounding", "a ball", moments=MomentSelection(threshold=0.0))
    with nano.open(made_frames(20, size=96, seconds=20.0), windows=WindowConfig(window=0, step=1.0)) as video:
        stream = nano.stream(request, video)
        streamed, whole = "".join(stream), nano.run(request, video)
        assert (streamed, stream.answer.events, stream.answer.step) == (whole.text, whole.events, whole.step)


# ----------------------------------------------------------------------------------------------- sampled answers

SAMPLED = DecodingOptions(max_new_tokens=12, do_sample=True, temperature=1.5, top_p=1.0, seed=7)


@pytest.mark.parametrize(("task", "words"), [("ask", "What happens?"), ("dense_caption", None)])
def test_sampled_answers_do_not_depend_on_the_batch_size(nano, task, words):
    frames = made_frames(40, size=96, seconds=20.0)
    looks = [replace(IN_SECONDS, batch_size=size) for size in (1, 2, 8)]
    answers = [nano.run(Request(task, words, decoding=SAMPLED), frames, windows=look) for look in looks]
    assert answers[0].text
    assert [answer.text for answer in answers[1:]] == [answers[0].text] * 2
    for answer in answers[1:]:
        assert [replace(event, score=None) for event in answer.events] == [
            replace(event, score=None) for event in answers[0].events
        ]
        assert [event.score for event in answer.events] == pytest.approx(
            [event.score for event in answers[0].events], rel=1e-4
        )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_windows_of_equal_content_draw_different_numbers(nano, batch_size):
    one = made_frames(1, size=96, seconds=1.0).pixels
    still = Frames(one.repeat(48, axis=0), np.arange(48) / 2, 24.0)
    look = WindowConfig(window=8, overlap=0, batch_size=batch_size)
    lines = nano.ask(still, "What happens?", decoding=SAMPLED, windows=look).text.split("\n")
    assert len({line.partition("] ")[2] for line in lines}) == len(lines) == 3


def test_a_window_keeps_its_number_whichever_windows_are_asked(nano):
    frames = made_frames(40, size=96, seconds=20.0)
    with nano.open(frames, windows=IN_SECONDS) as video:
        numbers = [encoded.window_number for encoded in video.encode(video.windows[1:])]
        assert numbers == [1, 2]
        assert [encoded.window_number for encoded in video.encode(video.windows)] == [0, 1, 2]


# ----------------------------------------------------------------------------------------------- probabilities


def test_the_probability_of_every_token_is_the_models_own(nano, video_path):
    encoded = nano.encode(video_path)
    processor, model = nano.processor, nano.model
    prompts = []
    for question in ("What happens?", "When does the blue star blink in the video, and for how long?"):
        text = processor.render_prompt(encoded.timestamps, question)
        prompts.append(Prompt(processor.encode_prompt(text, encoded.num_frames), encoded.content))
    arguments = {"max_new_tokens": 12, "do_sample": False}
    with torch.inference_mode():
        together = generate_answers(model, prompts, pad_token_id=0, arguments=arguments)
        for prompt, written in zip(prompts, together, strict=True):
            (alone,) = generate_answers(model, [prompt], pad_token_id=0, arguments=arguments)
            assert alone.token_ids == written.token_ids
            ids = prompt.input_ids + written.token_ids
            logits = model(inputs_embeds=model.embed_prompt(torch.tensor([ids]), encoded.content)).logits[0]
            want = logits.log_softmax(-1)[len(prompt.input_ids) - 1 : -1].gather(
                1, torch.tensor(written.token_ids)[:, None]
            )
            np.testing.assert_allclose(written.logprobs, want[:, 0].numpy(), atol=1e-3)
        forced = [Prompt(p.input_ids + w.token_ids, p.video_tokens) for p, w in zip(prompts, together, strict=True)]
        again = continuation_logprobs(model, forced, [len(w.token_ids) for w in together], pad_token_id=0)
    for written, logprobs in zip(together, again, strict=True):
        np.testing.assert_allclose(written.logprobs, logprobs, atol=1e-3)


# -------------------------------------------------------------------------------------------------- found or not

BEST = MomentSelection()
SCORING = Scoring(found_threshold=0.5)


def told(window: Window, text: str, logprob: float = 0.0, verification: float | None = None) -> WindowAnswer:
    return WindowAnswer(window, text, (Token(0, len(text), logprob),), () if verification is None else (verification,))


def find(*answers: WindowAnswer, moments: MomentSelection = BEST) -> Answer:
    return merge_window_answers(answers, "grounding", "a light", duration=100.0, scoring=SCORING, moments=moments)


SPAN = "The given query happens in {} - {} seconds."


def test_the_best_moment_is_kept_or_all_with_find_all():
    answers = (
        told(Window(0, 50), SPAN.format("2.0", "8.0"), verification=1.0),
        told(Window(50, 100), SPAN.format("10.0", "20.0"), verification=3.0),
    )
    best = find(*answers)
    assert [(e.start, e.end, e.caption) for e in best.events] == [(60, 70, "a light")]
    assert best.found is True
    odds = np.exp(3.0) / 2  # one of two windows
    assert best.score == best.events[0].score == pytest.approx(odds / (1 + odds))
    assert best.text == SPAN.format("60.0", "70.0")
    assert [(e.start, e.end) for e in find(*answers, moments=MomentSelection(find_all=True)).events] == [
        (60, 70),
        (2, 8),
    ]
    assert [(e.start, e.end) for e in find(*answers, moments=MomentSelection(top_k=5)).events] == [(60, 70), (2, 8)]


def test_what_is_not_there_gives_no_made_up_span():
    denied = find(
        told(Window(0, 50), NOT_FOUND_ANSWER, np.log(0.9)), told(Window(50, 100), NOT_FOUND_ANSWER, np.log(0.7))
    )
    assert denied.found is False
    assert denied.events == []
    assert denied.score == pytest.approx(0.3 / 0.7 / 2 / (1 + 0.3 / 0.7 / 2))
    assert denied.text == NOT_FOUND_ANSWER
    assert denied.notes == ()
    unsure = find(told(Window(0, 100), SPAN.format("2.0", "8.0"), verification=-2.0))
    assert unsure.found is False
    assert unsure.events == []
    assert unsure.text == NOT_FOUND_ANSWER
    assert unsure.score == pytest.approx(1 / (1 + np.exp(2)))
    assert find(
        told(Window(0, 100), SPAN.format("2.0", "8.0"), verification=-2.0), moments=MomentSelection(threshold=0)
    ).found


def test_the_video_speaks_for_what_it_shows(nano, video_path):
    """Of a thing that is there and does it, and of one that is not, at the same time."""
    encoded = nano.encode(video_path)
    events = [Event(26.5, 34.0, "the blue star blinks"), Event(26.5, 34.0, "the orange heart spins")]
    there, absent = nano.backbone.verify([encoded] * 2, events, preset="timechat@1")
    assert there > absent + 1


def test_a_model_with_a_threshold_names_a_moment_and_the_score_decides(nano, video_path, monkeypatch):
    monkeypatch.setattr(nano.model.config, "found_threshold", 0.9999)
    monkeypatch.setattr(nano.model.config, "score_calibration", {"grounding": {"existence": 1.0, "offset": 0.0}})
    monkeypatch.setattr(type(nano.backbone), "verify", lambda *_, **__: pytest.fail("the score does not depend on it"))
    refused = nano.ground(video_path, "the orange heart spins")
    assert (refused.found, refused.events, refused.text) == (False, [], NOT_FOUND_ANSWER)
    named = nano.ground(video_path, "the orange heart spins", threshold=0.0)
    assert named.found
    assert named.text.startswith("The given query happens in")
    assert named.score == named.events[0].score == refused.score


@pytest.mark.parametrize("options", [{"top_k": 0}, {"threshold": 1.5}, {"threshold": -0.1}])
def test_invalid_moment_selections_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        MomentSelection(**options)


# ------------------------------------------------------------------------------------------------ coarse to fine


def test_a_moment_found_in_sparse_frames_is_refined(nano, video_path, monkeypatch):
    looked = []
    from timechat.pipeline.session import VideoSession

    encode = VideoSession.encode_part
    monkeypatch.setattr(
        VideoSession, "encode_part", lambda self, w, s, executor: (looked.append(s), encode(self, w, s, executor))[1]
    )
    coarse = nano.ground(video_path, "the blue star blinks", windows=WindowConfig(step=1.0, refine=False))
    assert not looked
    assert coarse.step == pytest.approx(1.0)
    fine = nano.ground(video_path, "the blue star blinks", windows=WindowConfig(step=1.0))
    assert looked
    assert looked[0].fps == 2.0
    assert fine.events
    overlap = min(coarse.events[0].end, fine.events[0].end) - max(coarse.events[0].start, fine.events[0].start)
    assert fine.step == pytest.approx(0.5) if fine.events != coarse.events else overlap > 0


def test_a_border_that_refinement_does_not_confirm_stays(nano, video_path):
    from timechat.pipeline.refining import refine_moments

    answer = Answer("", [Event(10.0, 20.0, "q")], task="grounding", step=1.0)

    def elsewhere(windows):
        return [told(w.window, SPAN.format("0.0", "2.0")) for w in windows]

    def nearby(windows):
        start = windows[0].window.to_window(10.5)
        return [told(w.window, SPAN.format(f"{start:.1f}", f"{start + 9:.1f}")) for w in windows]

    with nano.open(video_path, windows=WindowConfig(step=1.0)) as video:
        kept = refine_moments(answer, video, nano.backbone, elsewhere, SCORING)
        moved = refine_moments(answer, video, nano.backbone, nearby, SCORING)
    assert (kept.events, kept.step) == (answer.events, 1.0)
    assert (moved.events[0].start, moved.events[0].end, moved.step) == (10.5, 19.5, 0.5)


# ------------------------------------------------------------------------------------------------------ on disk


def count_frames(timechat: TimeChat, monkeypatch) -> list[int]:
    """Note how many frames go through the vision tower."""
    seen: list[int] = []
    forward = timechat.model.frame_encoder.forward
    monkeypatch.setattr(
        timechat.model.frame_encoder,
        "forward",
        lambda pixels, *rest: (seen.append(len(pixels)), forward(pixels, *rest))[1],
    )
    return seen


def test_a_second_call_looks_at_nothing_and_answers_the_same(cached, video_path, monkeypatch):
    first = cached.dense_caption(video_path, windows=IN_SECONDS, decoding=SHORT)
    seen = count_frames(cached, monkeypatch)
    again = cached.dense_caption(video_path, windows=IN_SECONDS, decoding=SHORT)
    assert again == first
    assert seen == []
    other = cached.ground(video_path, "the blue star blinks", windows=IN_SECONDS)  # another question, the same windows
    assert seen == []
    assert other.events


def test_encoded_videos_are_cached_by_content_not_by_name(cached, video_path, tmp_path, monkeypatch):
    first = cached.encode(video_path)
    seen = count_frames(cached, monkeypatch)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video_path.read_bytes())
    again = cached.encode(copy)
    assert seen == []
    assert torch.equal(again.content, first.content)
    np.testing.assert_array_equal(again.timestamps, first.timestamps)
    assert (again.duration, again.notes, again.name) == (first.duration, first.notes, str(copy))
    cached.encode(video_path, num_frames=5)
    assert sum(seen) == 5


def test_frame_tokens_outlive_a_change_of_what_follows_them(cached, video_path, monkeypatch):
    with cached.open(video_path, windows=IN_SECONDS) as video:
        list(video.encode(video.windows[:1]))
    seen = count_frames(cached, monkeypatch)
    changed = cached.model.video_qformer.projection.bias
    with torch.no_grad():
        changed += 1
    try:
        with cached.open(video_path, windows=IN_SECONDS) as video:
            list(video.encode(video.windows[:1]))
    finally:
        with torch.no_grad():
            changed -= 1
    assert seen == []


@pytest.mark.slow
def test_another_question_setting_or_adapter_is_answered_anew(cached, video_path, monkeypatch):
    calls = []
    write = WindowAnswerer.answer_all
    monkeypatch.setattr(WindowAnswerer, "answer_all", lambda self, q, w: (calls.append(len(w)), write(self, q, w))[1])
    cached.summarize(video_path, windows=IN_SECONDS, decoding=SHORT)
    windows = sum(calls)
    calls.clear()
    cached.summarize(video_path, windows=IN_SECONDS, decoding=SHORT)
    assert calls == []
    cached.summarize(video_path, windows=IN_SECONDS, decoding=DecodingOptions(max_new_tokens=25))
    cached.summarize(video_path, windows=IN_SECONDS, decoding=SHORT, transcript=[Event(0, 60, "Now the ring spins.")])
    assert sum(calls) == 2 * windows
    calls.clear()
    drawn = DecodingOptions(max_new_tokens=8, do_sample=True)
    for _ in range(2):
        cached.summarize(video_path, windows=IN_SECONDS, decoding=drawn)
    assert sum(calls) == 2 * windows  # what is drawn by chance is not kept


SCRIPT = """
import sys
from timechat import TimeChat
from timechat.pipeline import DecodingOptions, WindowConfig
from timechat.pipeline.window_answering import WindowAnswerer
write = WindowAnswerer.answer_all
def slowly(self, request, windows):
    print("window", flush=True)
    sys.stdin.readline()
    return write(self, request, windows)
WindowAnswerer.answer_all = slowly
TimeChat.from_pretrained("nano", device="cpu").dense_caption(
    sys.argv[1], windows=WindowConfig(8, 2, batch_size=1), decoding=DecodingOptions(max_new_tokens=30)
)
"""


def test_a_killed_job_resumes_to_the_same_events(nano, video_path, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMECHAT_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", SCRIPT, str(video_path)]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    killed.stdin.write("go on\n" * 3)
    killed.stdin.flush()
    lines = [killed.stdout.readline() for _ in range(4)]  # the fourth window has been begun, and goes no further
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert lines == ["window\n"] * 4
    options = {"windows": replace(IN_SECONDS, batch_size=1), "decoding": DecodingOptions(max_new_tokens=30)}
    whole = nano.dense_caption(video_path, **options)
    answered = []
    write = WindowAnswerer.answer_all
    monkeypatch.setattr(WindowAnswerer, "answer_all", lambda *given: answered.append(given) or write(*given))
    resumed = TimeChat.from_pretrained("nano", device="cpu").dense_caption(video_path, **options)
    with nano.open(video_path, windows=IN_SECONDS) as video:
        assert len(answered) == len(video.windows) - 3
    events = [(e.start, e.end, e.caption) for e in resumed.events]
    assert events == [(e.start, e.end, e.caption) for e in whole.events]
    assert events


# ------------------------------------------------------------------------------------------------------- plans


def test_an_estimate_counts_windows_frames_and_cached_answers(cached, video_path):
    with cached.open(video_path, windows=IN_SECONDS) as video:
        request = Request("dense_caption", decoding=SHORT)
        plan = cached.estimate(request, video)
        assert (plan.windows, plan.done) == (len(video.windows), 0)
        assert plan.frames == video.plan.num_frames
        assert plan.seconds > 0
        assert plan.memory_bytes > 1e8
        assert f"{plan.windows} windows, {plan.frames} frames, one every 0.5 s, about" in str(plan)
        cached.run(request, video)
        done = cached.estimate(request, video)
        assert (done.done, done.frames, done.seconds) == (plan.windows, 0, 0)


def test_an_estimate_counts_requests_after_cached_answers(cached, scripted, monkeypatch):
    monkeypatch.setattr(type(cached.backbone), "config", replace(cached.backbone.config, is_remote=True))
    monkeypatch.setattr(estimate, "_trial", lambda *_: WindowCost(2.0, 1, 100, 10, 1000))
    scripted("A ball falls.")
    video = cached.open(made_frames(20, size=96, seconds=20.0), windows=WindowConfig(window=8, overlap=2, step=1.0))
    video.cache = WindowCache(cached.cache, "digest", cached.backbone)
    ask = Request("ask", "What happens?")
    cached.run(ask, video)
    plans = [cached.estimate(request, video) for request in (ask, replace(ask, cite=True))]
    assert [(plan.done, plan.requests, plan.seconds) for plan in plans] == [(3, 0, 0.0), (3, 3, 0.0)]
    cached.run(ask.for_captions(), video)
    assert cached.estimate(replace(ask, cite=True), video).requests == 0
    request = Request("grounding", "x")
    assert cached.estimate(request, video).requests == 3 + 3
    cached.run(request, video)
    assert (cached.estimate(request, video).done, cached.estimate(request, video).requests) == (3, 3)


# ------------------------------------------------------------------------------------------------------ evidence


def test_sentences_cite_the_captions_that_say_the_same():
    captions = [Event(12, 18, "The onion is cut."), Event(70, 75, "The pan is heated.")]
    answer = Answer("Somebody cuts the onion. Then the pan is heated.", task="summary")
    cited = cited_answer(answer, captions)
    assert cited.text == "Somebody cuts the onion [0:12–0:18]. Then the pan is heated [1:10–1:15]."
    assert [(e.start, e.end) for e in cited.events] == [(12, 18), (70, 75)]


def test_a_line_about_a_stretch_cites_in_it_or_all_of_it():
    captions = [Event(12, 18, "The onion is cut."), Event(70, 75, "The onion is cut.")]
    answer = Answer("[0:00–1:00] The onion is cut. Nobody sings.\n[1:00–2:00] The onion is cut.", task="summary")
    assert cited_answer(answer, captions).text == (
        "The onion is cut [0:12–0:18]. Nobody sings [0:00–1:00].\nThe onion is cut [1:10–1:15]."
    )


def test_citations_that_are_not_found_again_are_marked():
    answer = Answer("A [0:10–0:20]. B [0:30–0:40].", [Event(10, 20, "A."), Event(30, 40, "B.")], task="summary")
    found = {"A.": [Event(11, 19, "A.", 0.8)], "B.": [Event(80, 90, "B.", 0.9)]}
    verified = verified_answer(answer, lambda event: found[event.caption])
    assert verified.text == "A [0:10–0:20]. B [0:30–0:40, not confirmed]."
    assert [e.score for e in verified.events] == [0.8, 0.0]
    assert verified.notes == ("1 of 2 citations are not confirmed",)


def test_a_citation_behind_the_end_is_not_confirmed(nano, scripted):
    scripted("A ball falls [9:00–9:10].")
    answer = nano.run(Request("summary", verify=True), made_frames(4, size=96, seconds=2.0))
    assert answer.text == "A ball falls [9:00–9:10, not confirmed]."


@pytest.mark.slow
def test_summaries_cite_and_verify_on_real_windows(nano, video_path):
    answer = nano.run(Request("summary", cite=True, verify=True), video_path, windows=WindowConfig(window=20))
    assert answer.events
    assert all(event.score is not None for event in answer.events)
    assert answer.text.count("[") == len(answer.events)
    with pytest.raises(ValueError, match="only ask and summary can cite"):
        Request("steps", cite=True)


def test_each_window_is_shown_only_its_own_speech(nano, video_path, monkeypatch):
    asked = []
    prompt = WindowAnswerer.prompt
    monkeypatch.setattr(
        WindowAnswerer, "prompt", lambda self, q, e: (asked.append(q.prompt_text(e.window)), prompt(self, q, e))[1]
    )
    speech = [Event(1, 3, "Now the ring spins."), Event(30, 32, "Now the star leaves.")]
    nano.dense_caption(video_path, windows=IN_SECONDS, transcript=speech, decoding=SHORT)
    assert asked[0].startswith("Transcribed speech: 1.0 - 3.0 seconds, Now the ring spins.")
    assert "star leaves" not in asked[0]
    assert sum("star leaves" in text for text in asked) >= 1
    assert any("Transcribed speech: None." in text for text in asked)
    assert all("Localize a series of activity events" in text for text in asked)


def test_each_span_of_an_answer_has_its_own_verification():
    text = "[[1.0, 2.0], [5.0, 7.0]]"
    tokens = tuple(Token(i, i + 1, -0.01) for i in range(len(text)))
    scores = {}
    for verification in ((0.0, 4.0), (4.0, 0.0)):
        parsed = parse_window(WindowAnswer(Window(0, 10), text, tokens, verification), "grounding", "x", SCORING)
        scores[verification] = [event.score for event in parsed.events]
    assert scores[0.0, 4.0][1] > scores[4.0, 0.0][1]
    assert scores[0.0, 4.0][0] < scores[4.0, 0.0][0]


def test_earlier_verifications_in_the_cache_are_read():
    saved = {"text": "", "tokens": [], "notes": []}
    assert WindowAnswer.from_dict(Window(0, 1), saved | {"verification": 1.5}).verification == (1.5,)
    assert WindowAnswer.from_dict(Window(0, 1), saved | {"verification": None}).verification == ()


# ------------------------------------------------------------------------------- windows answered elsewhere

PARTS = WindowConfig(window=8, overlap=2, batch_size=3)


def without_timings(answer):
    return answer.to_dict() | {"timings": None}


@pytest.mark.parametrize("request_", [Request("dense_caption", decoding=SHORT), Request("grounding", "a ring")])
def test_windows_answered_elsewhere_merge_to_the_same_answer(nano, video_path, request_):
    nano = TimeChat(nano.backbone, cache=DiskCache(max_bytes=0))
    answerer = nano.answerer()
    windows = WindowConfig(window=8, overlap=2, batch_size=3, refine=True)
    expected = nano.run(request_, video_path, windows=windows)
    with nano.open(video_path, windows=windows) as video:
        index, batches = video.index, [video.windows[i : i + 3] for i in range(0, len(video.windows), 3)]
    answers = []
    for batch in reversed(batches):
        with nano.open(video_path, windows=windows, index=index) as video:
            (answered,) = answerer.answer_windows(request_, video, batch)
            content = json.loads(json.dumps([answer.to_dict() for answer in answered]))
            answers += [WindowAnswer.from_dict(window, one) for window, one in zip(batch, content, strict=True)]
    with nano.open(video_path, windows=windows, index=index) as video:
        merged = answerer.merge(request_, video, answers)
    assert len(batches) > 1
    assert without_timings(merged) == without_timings(expected)


def test_a_merge_without_all_windows_is_refused(nano, video_path):
    with nano.open(video_path, windows=PARTS) as video:
        answers = [WindowAnswer(window, "") for window in video.windows[1:]]
        with pytest.raises(ValueError, match=r"1 of \d+ windows have no answer, the first from 0 s to"):
            nano.answerer().merge(Request("summary"), video, answers)
        with pytest.raises(ValueError, match="citations need the answers to other requests"):
            nano.answerer().merge(Request("summary", cite=True), video, answers)
