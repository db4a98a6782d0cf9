"""The engine: many requests share one model; fairness, cancellation and limits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from timechat.answers.tasks import DecodingOptions
from timechat.answers.windows import WindowConfig
from timechat.backbones.timechat.executor import GenerationBatch
from timechat.pipeline import Request, TimeChat
from timechat.serving.context import RequestContext
from timechat.serving.engine import Engine, EngineExecutor
from timechat.serving.errors import CancelledRequestError, DeadlineError, EngineFailedError, EngineStoppedError
from timechat.video import Frames


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained()


@pytest.fixture(scope="module")
def video(nano):
    return nano.encode(frames_of(3, 8))


def frames_of(seed: int, count: int) -> Frames:
    pixels = torch.randint(0, 255, (count, 56, 56, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Frames(pixels.numpy(), [i / 2 for i in range(count)], count / 2)


@pytest.fixture
def engine(nano):
    with Engine(nano.model, nano.processor, max_rows=2, preempt_after_tokens=8) as engine:
        yield engine


def with_engine(nano, engine, context=None) -> TimeChat:
    return nano.with_backbone(nano.backbone.with_executor(EngineExecutor(engine, context or RequestContext())))


def endless_batch(nano, video, max_new_tokens=1500) -> GenerationBatch:
    """Return a batch with one answer that does not end before its maximum length."""
    prompt = nano.answerer().windows.prompt(_question(max_new_tokens), video)
    return GenerationBatch([prompt], [_endless()], DecodingOptions(max_new_tokens=max_new_tokens))


def _question(max_new_tokens):
    return Request("ask", "What?", decoding=DecodingOptions(max_new_tokens=max_new_tokens))


def _endless():
    from timechat.answers.grammar import AnswerGrammar

    return AnswerGrammar("start: /(a ){3000}/\n", None)


def test_the_engine_answers_as_the_pipeline_does(nano, engine, video):
    tasks = [("ask", "What happens?"), ("dense_caption", None), ("grounding", "a circle"), ("highlights", None)]
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda task: with_engine(nano, engine).run(Request(*task), video), tasks * 2))
    expected = [nano.run(Request(*task), video) for task in tasks] * 2
    assert [answer.text for answer in told] == [answer.text for answer in expected]
    assert engine.state.running == engine.state.waiting == 0


@pytest.mark.parametrize(("task", "words"), [("ask", "What happens?"), ("dense_caption", None)])
def test_sampled_answers_about_windows_are_those_of_the_library(nano, engine, task, words):
    decoding = DecodingOptions(max_new_tokens=20, do_sample=True, temperature=1.5, top_p=0.95, seed=3)
    request, windows, frames = (
        Request(task, words, decoding=decoding),
        WindowConfig(window=8, overlap=2),
        frames_of(5, 48),
    )
    expected = nano.run(request, frames, windows=windows)
    answer = with_engine(nano, engine).run(request, frames, windows=windows)
    assert answer.text == expected.text
    scores = [event.score for event in expected.events]
    assert [event.score for event in answer.events] == [s if s is None else pytest.approx(s, rel=1e-4) for s in scores]
    greedy = replace(request, decoding=DecodingOptions(max_new_tokens=20))
    assert answer.text != nano.run(greedy, frames, windows=windows).text


def test_the_engine_encodes_a_video_as_the_pipeline_does(nano, engine):
    frames = [frames_of(seed, 11) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        seen = list(threads.map(lambda one: with_engine(nano, engine).encode(one), frames))
    for one, encoded in zip(frames, seen, strict=True):
        torch.testing.assert_close(encoded.content, nano.encode(one).content, rtol=1e-4, atol=1e-4)
    assert engine.state.frames == 33


def test_a_stream_of_the_engine_is_the_whole_answer_in_pieces(nano, engine, video):
    stream = with_engine(nano, engine).stream(Request("ask", "What happens?"), video)
    pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == nano.run(Request("ask", "What happens?"), video).text == stream.answer.text


def test_a_short_request_does_not_wait_for_long_ones_to_end(nano, engine, video):
    long_ones = [
        engine.generate(endless_batch(nano, video), RequestContext()) for _ in range(4)
    ]  # twice as many as there are rows
    until(lambda: engine.state.running == 2)
    answer = with_engine(nano, engine).run(Request("ask", "What?", decoding=DecodingOptions(max_new_tokens=6)), video)
    assert answer.text
    assert not any(future.done() for future in long_ones)
    assert engine.state.preempted > 0


def test_a_new_request_gets_the_row_of_a_long_answer_quickly(nano, video):
    with Engine(nano.model, nano.processor, max_rows=1, preempt_after_tokens=200) as engine:
        engine.generate(endless_batch(nano, video), RequestContext())
        until(lambda: engine.state.tokens > 210)
        before = engine.state.tokens
        answer = engine.generate(endless_batch(nano, video, 6), RequestContext()).result(timeout=60)[0]
        assert len(answer.token_ids) == 6
        assert engine.state.tokens - before < 60


def test_preempted_answers_are_finished(nano, engine, video):
    futures = [engine.generate(endless_batch(nano, video, 60), RequestContext()) for _ in range(5)]
    written = [future.result(timeout=120)[0] for future in futures]
    assert {len(one.token_ids) for one in written} == {60}
    assert len({tuple(one.token_ids) for one in written}) == 1


def test_a_request_with_many_windows_leaves_rows_to_others(nano, engine, video):
    order = endless_batch(nano, video)
    many = GenerationBatch(list(order.prompts) * 6, list(order.grammars) * 6, order.decoding)
    future = engine.generate(many, RequestContext())
    until(lambda: engine.state.running == 2)
    assert (
        with_engine(nano, engine).run(Request("ask", "What?", decoding=DecodingOptions(max_new_tokens=6)), video).text
    )
    assert not future.done()


def test_a_cancelled_request_ends_within_one_step(nano, engine, video):
    context = RequestContext()
    future = engine.generate(endless_batch(nano, video), context)
    until(lambda: engine.state.running == 1)
    context.cancel()
    engine.wake()
    with pytest.raises(CancelledRequestError):
        future.result(timeout=5)
    assert engine.state.running == 0
    with pytest.raises(CancelledRequestError):
        engine.generate(endless_batch(nano, video), context)


def test_a_request_ends_at_its_deadline(nano, engine, video):
    future = engine.generate(endless_batch(nano, video), RequestContext(deadline=time.monotonic() + 0.3))
    with pytest.raises(DeadlineError, match="took longer than this server allows"):
        future.result(timeout=10)
    until(lambda: engine.state.running == 0)


def test_encoding_can_be_cancelled(nano, engine, video):
    context = RequestContext()
    error = []

    def encode():
        try:
            with_engine(nano, engine, context).encode(frames_of(1, 400))
        except CancelledRequestError as raised:
            error.append(raised)

    thread = threading.Thread(target=encode)
    thread.start()
    until(lambda: engine.state.frames > 0)
    context.cancel()
    thread.join(timeout=20)
    assert error
    assert engine.state.frames < 400


def test_answers_continue_while_a_long_video_is_encoded(nano, engine, video):
    context = RequestContext()
    thread = threading.Thread(
        target=lambda: _until_cancelled(lambda: with_engine(nano, engine, context).encode(frames_of(1, 2000)))
    )
    thread.start()
    until(lambda: engine.state.frames > 0)
    assert (
        with_engine(nano, engine).run(Request("ask", "What?", decoding=DecodingOptions(max_new_tokens=6)), video).text
    )
    assert engine.state.frames < 2000
    context.cancel()
    thread.join(timeout=20)


def test_an_error_in_a_step_fails_only_the_running_requests(nano, engine, video, monkeypatch):
    future = engine.generate(endless_batch(nano, video), RequestContext())
    until(lambda: engine.state.running == 1)

    def fail():
        raise RuntimeError("out of something")

    monkeypatch.setattr(engine.batch, "decode_step", fail)
    with pytest.raises(EngineFailedError, match="try again"):
        future.result(timeout=5)
    monkeypatch.undo()
    assert (
        with_engine(nano, engine).run(Request("ask", "What?", decoding=DecodingOptions(max_new_tokens=6)), video).text
    )


def test_a_prompt_that_cannot_be_read_fails_alone(nano, engine, video):
    going_on = engine.generate(endless_batch(nano, video, 40), RequestContext())
    good = endless_batch(nano, video)
    bad = GenerationBatch([replace(good.prompts[0], video_tokens=video.content[:3])], good.grammars, good.decoding)
    with pytest.raises(ValueError, match="placeholders for video tokens"):
        engine.generate(bad, RequestContext()).result(timeout=20)
    assert len(going_on.result(timeout=60)[0].token_ids) == 40


def test_stopping_the_engine_ends_waiting_requests(nano, video):
    engine = Engine(nano.model, nano.processor)
    engine.start()
    future = engine.generate(endless_batch(nano, video), RequestContext())
    until(lambda: engine.state.running == 1)
    engine.stop()
    with pytest.raises(EngineStoppedError):
        future.result(timeout=5)
    with pytest.raises(EngineStoppedError):
        engine.generate(endless_batch(nano, video), RequestContext())


def _until_cancelled(work) -> None:
    with suppress(CancelledRequestError):
        work()


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.002)


def test_beams_are_refused_by_name(nano, engine, video):
    batch = endless_batch(nano, video)
    with pytest.raises(ValueError, match=r"num_beams=3 is not offered by the engine.*use num_beams=1, or the commands"):
        engine.generate(replace(batch, decoding=DecodingOptions(num_beams=3)), RequestContext())
