"""The engine: many requests, one model; fair, called off in time, and bounded."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from timechat.answers.tasks import DecodingOptions
from timechat.pipeline import TimeChat
from timechat.pipeline.executor import GenerationBatch
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


def asker(nano, engine, ticket=None) -> TimeChat:
    return nano.with_executor(EngineExecutor(engine, ticket or RequestContext()))


def long_order(nano, video, max_new_tokens=1500) -> GenerationBatch:
    """An answer that does not end by itself."""
    prompt = nano._prompt(_question(max_new_tokens), video)
    return GenerationBatch([prompt], [_endless()], DecodingOptions(max_new_tokens=max_new_tokens))


def _question(max_new_tokens):
    from timechat.pipeline.timechat import _Request

    return _Request("ask", "What?", (), DecodingOptions(max_new_tokens=max_new_tokens), "timechat@1", None)


def _endless():
    from timechat.answers.grammar import AnswerGrammar

    return AnswerGrammar("start: /(a ){3000}/\n", None, has_captions=False)


def test_answers_are_those_of_the_pipeline_alone(nano, engine, video):
    tasks = [("ask", "What happens?"), ("dense_caption", None), ("grounding", "a circle"), ("highlights", None)]
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda task: asker(nano, engine).run(task[0], video, task[1]), tasks * 2))
    expected = [nano.run(task, video, words) for task, words in tasks] * 2
    assert [answer.text for answer in told] == [answer.text for answer in expected]
    assert engine.state.running == engine.state.waiting == 0


def test_a_video_is_seen_by_the_engine_as_without_it(nano, engine):
    frames = [frames_of(seed, 11) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        seen = list(threads.map(lambda one: asker(nano, engine).encode(one), frames))
    for one, encoded in zip(frames, seen, strict=True):
        torch.testing.assert_close(encoded.video_tokens, nano.encode(one).video_tokens, rtol=1e-4, atol=1e-4)
    assert engine.state.frames == 33


def test_a_stream_of_the_engine_is_the_whole_answer_in_pieces(nano, engine, video):
    stream = asker(nano, engine).stream("ask", video, "What happens?")
    pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == nano.run("ask", video, "What happens?").text == stream.answer.text


def test_a_short_request_does_not_wait_for_long_ones_to_end(nano, engine, video):
    long_ones = [
        engine.generate(long_order(nano, video), RequestContext()) for _ in range(4)
    ]  # twice as many as there are rows
    until(lambda: engine.state.running == 2)
    answer = asker(nano, engine).run("ask", video, "What?", decoding=DecodingOptions(max_new_tokens=6))
    assert answer.text
    assert not any(future.done() for future in long_ones)
    assert engine.state.preempted > 0


def test_who_is_new_takes_the_row_of_a_long_answer_within_a_few_steps(nano, video):
    with Engine(nano.model, nano.processor, max_rows=1, preempt_after_tokens=200) as engine:
        engine.generate(long_order(nano, video), RequestContext())
        until(lambda: engine.state.tokens > 210)
        before = engine.state.tokens
        answer = engine.generate(long_order(nano, video, 6), RequestContext()).result(timeout=60)[0]
        assert len(answer.token_ids) == 6
        assert engine.state.tokens - before < 60


def test_long_answers_that_made_room_come_to_their_end(nano, engine, video):
    futures = [engine.generate(long_order(nano, video, 60), RequestContext()) for _ in range(5)]
    written = [future.result(timeout=120)[0] for future in futures]
    assert {len(one.token_ids) for one in written} == {60}
    assert len({tuple(one.token_ids) for one in written}) == 1


def test_a_request_with_many_windows_leaves_rows_to_others(nano, engine, video):
    order = long_order(nano, video)
    many = GenerationBatch(list(order.prompts) * 6, list(order.grammars) * 6, order.decoding)
    future = engine.generate(many, RequestContext())
    until(lambda: engine.state.running == 2)
    assert asker(nano, engine).run("ask", video, "What?", decoding=DecodingOptions(max_new_tokens=6)).text
    assert not future.done()


def test_a_request_that_is_called_off_ends_within_a_step_and_leaves_nothing(nano, engine, video):
    ticket = RequestContext()
    future = engine.generate(long_order(nano, video), ticket)
    until(lambda: engine.state.running == 1)
    ticket.cancel()
    engine.wake()
    with pytest.raises(CancelledRequestError):
        future.result(timeout=5)
    assert engine.state.running == 0
    with pytest.raises(CancelledRequestError):
        engine.generate(long_order(nano, video), ticket)


def test_a_request_whose_time_is_up_is_given_up(nano, engine, video):
    future = engine.generate(long_order(nano, video), RequestContext(deadline=time.monotonic() + 0.3))
    with pytest.raises(DeadlineError, match="took longer than this server allows"):
        future.result(timeout=10)
    until(lambda: engine.state.running == 0)


def test_encoding_is_called_off_too(nano, engine, video):
    ticket = RequestContext()
    error = []

    def encode():
        try:
            asker(nano, engine, ticket).encode(frames_of(1, 400))
        except CancelledRequestError as raised:
            error.append(raised)

    thread = threading.Thread(target=encode)
    thread.start()
    until(lambda: engine.state.frames > 0)
    ticket.cancel()
    thread.join(timeout=20)
    assert error
    assert engine.state.frames < 400


def test_language_goes_on_while_a_long_video_is_looked_at(nano, engine, video):
    ticket = RequestContext()
    thread = threading.Thread(
        target=lambda: _until_cancelled(lambda: asker(nano, engine, ticket).encode(frames_of(1, 2000)))
    )
    thread.start()
    until(lambda: engine.state.frames > 0)
    assert asker(nano, engine).run("ask", video, "What?", decoding=DecodingOptions(max_new_tokens=6)).text
    assert engine.state.frames < 2000
    ticket.cancel()
    thread.join(timeout=20)


def test_an_error_in_a_step_fails_who_is_at_work_and_nobody_else(nano, engine, video, monkeypatch):
    future = engine.generate(long_order(nano, video), RequestContext())
    until(lambda: engine.state.running == 1)

    def fail():
        raise RuntimeError("out of something")

    monkeypatch.setattr(engine.batch, "decode_step", fail)
    with pytest.raises(EngineFailedError, match="try again"):
        future.result(timeout=5)
    monkeypatch.undo()
    assert asker(nano, engine).run("ask", video, "What?", decoding=DecodingOptions(max_new_tokens=6)).text


def test_a_prompt_that_cannot_be_read_fails_alone(nano, engine, video):
    going_on = engine.generate(long_order(nano, video, 40), RequestContext())
    good = long_order(nano, video)
    bad = GenerationBatch([replace(good.prompts[0], video_tokens=video.video_tokens[:3])], good.grammars, good.decoding)
    with pytest.raises(ValueError, match="places for video tokens"):
        engine.generate(bad, RequestContext()).result(timeout=20)
    assert len(going_on.result(timeout=60)[0].token_ids) == 40


def test_an_engine_that_stops_tells_who_waits(nano, video):
    engine = Engine(nano.model, nano.processor)
    engine.start()
    future = engine.generate(long_order(nano, video), RequestContext())
    until(lambda: engine.state.running == 1)
    engine.stop()
    with pytest.raises(EngineStoppedError):
        future.result(timeout=5)
    with pytest.raises(EngineStoppedError):
        engine.generate(long_order(nano, video), RequestContext())


def _until_cancelled(work) -> None:
    with suppress(CancelledRequestError):
        work()


def until(is_so, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)
