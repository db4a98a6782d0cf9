"""Answers by a real vLLM engine, which one fixture starts for all tests; run in the environment of `make vllm`.

.venv-vllm/bin/python -m pytest -m vllm tests/backbones/timechat
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from timechat.answers.forms import answer_form
from timechat.answers.grammar import AnswerGrammar
from timechat.answers.merging import MomentSelection
from timechat.answers.tasks import DecodingOptions, build_question
from timechat.answers.windows import WindowConfig
from timechat.backbones.backbone import GeneratedText, Question
from timechat.backbones.loading import load_backbone
from timechat.backbones.timechat.executor import GenerationBatch
from timechat.errors import EngineError, PromptTooLongError
from timechat.model.generation.generate import Prompt
from timechat.model.loading import load_config
from timechat.pipeline import Request, TimeChat
from timechat.serving.recording import RecordingBackbone
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

_TEXT = load_config("nano").text_config
_STATE = 2 * _TEXT.num_hidden_layers * _TEXT.num_key_value_heads * _TEXT.head_dim * torch.float32.itemsize  # of a token
OPTIONS = {"kv_cache_memory_bytes": 20 * 128 * _STATE, "max_num_seqs": 32, "max_model_len": 2048}
"""A cache of 20 blocks of 128 tokens, for about seven answers, so that longer ones are preempted."""
GAP = 1e-3  # nats; the largest gap of a log probability in float32 was about 2e-5

_DRAWN = DecodingOptions(max_new_tokens=80, do_sample=True, temperature=1.3, seed=5)
_SCHEMA = '{"type": "object", "properties": {"what": {"type": "string", "maxLength": 60}, "n": {"type": "integer"}}, '
_SCHEMA += '"required": ["what", "n"], "additionalProperties": false}'
KINDS: dict[str, tuple[Request, WindowConfig]] = {
    "dense captions": (Request("dense_caption"), WindowConfig()),
    "steps": (Request("steps"), WindowConfig()),
    "transcribe": (Request("transcribe"), WindowConfig()),
    "grounding": (Request("grounding", "the orange cross moves"), WindowConfig()),
    "grounding of something absent": (Request("grounding", "a dog barks"), WindowConfig()),
    "grounding, best 3": (Request("grounding", "a shape moves", moments=MomentSelection(3)), WindowConfig()),
    "highlights": (Request("highlights", "the cross"), WindowConfig()),
    "question": (Request("ask", "What is there?"), WindowConfig()),
    "second turn": (Request("ask", "And then?", history=[("What is there?", "A cross.")]), WindowConfig()),
    "summary": (Request("summary"), WindowConfig()),
    "JSON schema": (Request("ask", "What?", decoding=DecodingOptions(json_schema=_SCHEMA)), WindowConfig()),
    "summary, cited and verified": (Request("summary", cite=True, verify=True), WindowConfig()),
    "windows of 10 s": (Request("grounding", "a shape moves"), WindowConfig(10)),
    "captions in windows of 10 s": (Request("dense_caption"), WindowConfig(10)),
    "unconstrained captions": (Request("dense_caption", decoding=DecodingOptions(is_free=True)), WindowConfig()),
    "penalty and minimum length": (
        Request("ask", "What?", decoding=DecodingOptions(repetition_penalty=1.4, min_new_tokens=25)),
        WindowConfig(),
    ),
    "drawn answer": (Request("ask", "What is there?", decoding=_DRAWN), WindowConfig()),
    "drawn captions in windows": (Request("dense_caption", decoding=_DRAWN), WindowConfig(10)),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("videos") / f"{i}.mp4" for i in range(4)]
    for i, path in enumerate(paths):
        write_video(write_scene(11, i, level=1), path)
    return paths


@pytest.fixture(scope="module")
def own() -> TimeChat:
    return TimeChat.from_pretrained("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs() -> Iterator[TimeChat]:
    timechat = TimeChat.from_pretrained("nano", device="cpu", dtype="float32", engine="vllm", engine_options=OPTIONS)
    yield timechat
    timechat.backbone.close()


@pytest.fixture(scope="module")
def writer(theirs):
    return theirs.own_backbone.executor.writer


@pytest.fixture(scope="module")
def encoded(own, videos):
    return own.encode(videos[0])


def answer(timechat: TimeChat, kind: str, video: Path) -> tuple[dict, list[GeneratedText]]:
    """Return an answer, and all texts that were written for it."""
    request, windows = KINDS[kind]
    texts: list[GeneratedText] = []
    recorded = timechat.with_backbone(RecordingBackbone(timechat.backbone, texts))
    with recorded.open(video, windows=windows) as session:
        return recorded.run(request, session).to_dict(), texts


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_equal_token_by_token(kind, own, theirs, videos, record_property) -> None:
    largest, num_tokens = 0.0, 0
    for video in videos:
        (expected, right), (found, texts) = (answer(timechat, kind, video) for timechat in (own, theirs))
        assert found["text"] == expected["text"]
        assert len(texts) == len(right)
        for one, other in zip(texts, right, strict=True):
            assert one.text == other.text
            assert [(t.first, t.end) for t in one.tokens] == [(t.first, t.end) for t in other.tokens]
            gaps = [abs(a.logprob - b.logprob) for a, b in zip(one.tokens, other.tokens, strict=True)]
            largest, num_tokens = max([largest, *gaps]), num_tokens + one.num_tokens
        scores = [[event["score"] for event in each["events"]] for each in (found, expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    record_property("tokens", num_tokens)
    record_property("largest_gap", largest)
    print(f"\n{kind}: {len(videos)} of {len(videos)} equal, {num_tokens} tokens, largest gap {largest:.1e}")
    assert largest < GAP


def test_a_stream_comes_token_by_token_and_is_equal(own, theirs, encoded) -> None:
    parts: list[list[str]] = []
    texts = []
    for timechat in (own, theirs):
        prompt = timechat.backbone.prompt(encoded, Question(build_question("dense_caption")), 100)
        parts.append([])
        [text] = timechat.backbone.generate(
            [prompt],
            [answer_form("dense_caption", duration=encoded.duration)],
            DecodingOptions(max_new_tokens=100),
            on_text=parts[-1].append,
        )
        texts.append(text.text)
    assert texts[0] == texts[1]
    assert parts[0] == parts[1]
    assert len(parts[1]) > 10


def test_a_stop_in_the_middle_of_a_stream_cuts_there(own, theirs, encoded) -> None:
    texts = []
    for timechat in (own, theirs):
        read: list[str] = []
        prompt = timechat.backbone.prompt(encoded, Question(build_question("dense_caption")), 100)
        [text] = timechat.backbone.generate(
            [prompt],
            [None],
            DecodingOptions(max_new_tokens=100),
            on_text=read.append,
            should_stop=lambda read=read: len(read) >= 4,
        )
        texts.append(text)
    ours, vllms = texts
    # transformers 5.19 asks whether to stop before it streams a token, our executor for vLLM afterwards.
    assert ours.num_tokens - vllms.num_tokens in (0, 1)
    assert vllms.text == ours.text[: vllms.tokens[-1].end]
    assert 3 < vllms.num_tokens < 20
    assert idle(theirs)


def idle(timechat: TimeChat) -> bool:
    """Wait until the engine has no request."""
    end = time.monotonic() + 20
    while timechat.own_backbone.executor.writer.engine.state.running and time.monotonic() < end:
        time.sleep(0.05)
    return timechat.own_backbone.executor.writer.engine.state.running == 0


def prompts_of(timechat: TimeChat, encoded, count: int, max_new_tokens: int) -> list[Prompt]:
    return [timechat.backbone.prompt(encoded, Question(f"Tell all, {i}."), max_new_tokens) for i in range(count)]


@pytest.mark.parametrize("is_drawn", [False, True])
def test_preempted_answers_are_equal(is_drawn, own, theirs, encoded) -> None:
    """24 answers of three blocks of 128 tokens do not fit into a cache of 20 blocks."""
    decoding = DecodingOptions(max_new_tokens=220, do_sample=is_drawn, temperature=1.5, min_new_tokens=200)
    form = answer_form("dense_caption", duration=encoded.duration)
    texts = []
    for timechat in (own, theirs):
        prompts = prompts_of(timechat, encoded, 24, 220)
        texts.append([t.text for t in timechat.backbone.generate(prompts, [form] * 24, decoding)])
    assert texts[0] == texts[1]


def test_scores_of_given_words_are_those_of_the_network(own, theirs, encoded) -> None:
    processor = own.processor
    prompt = processor.render_prompt(encoded.timestamps, "What is it?")
    ids = [processor.encode_prompt_with_answer(prompt, words, encoded.num_frames)[0] for words in ("a cross", "a dog")]
    prompts = [Prompt(each, encoded.content) for each in ids]
    expected, found = (
        timechat.own_backbone.executor.continuation_logprobs(prompts, [4, 3]) for timechat in (own, theirs)
    )
    assert [len(values) for values in found] == [4, 3]
    for values, right in zip(found, expected, strict=True):
        assert values == pytest.approx(right, abs=1e-4)


def test_an_answer_may_fill_the_context_and_no_more(theirs, writer, encoded) -> None:
    prompt = theirs.backbone.prompt(encoded, Question("Tell all."), 8)
    padded = Prompt([5] * (writer.engine.max_length - 8 - len(prompt.input_ids)) + prompt.input_ids, encoded.content)
    decoding = DecodingOptions(max_new_tokens=8, min_new_tokens=8)
    [output], _ = writer.generate(GenerationBatch([padded], [None], decoding), lambda: None)
    assert len(output.token_ids) == 8
    longer = Prompt([5, *padded.input_ids], encoded.content)
    with pytest.raises(PromptTooLongError, match="but the engine reads"):
        writer.generate(GenerationBatch([longer], [None], decoding), lambda: None)


def test_a_bad_request_fails_alone(own, theirs, writer, encoded) -> None:
    prompt = theirs.backbone.prompt(encoded, Question("Tell all."), 40)
    decoding = DecodingOptions(max_new_tokens=40)
    for video in (encoded.content[:, :-1], encoded.content * float("nan")):
        with pytest.raises(ValueError, match="video tokens"):
            writer.generate(GenerationBatch([Prompt(prompt.input_ids, video)], [None], decoding), lambda: None)
    schema = DecodingOptions(json_schema='{"type": "nonsense"}')
    with pytest.raises(ValueError, match="JSON schema"):
        theirs.run(Request("ask", "What?", decoding=schema), encoded)
    request = Request("dense_caption", decoding=decoding)
    assert theirs.run(request, encoded).text == own.run(request, encoded).text


def test_a_grammar_that_fails_in_the_processor_fails_alone(own, theirs, writer, encoded, monkeypatch) -> None:
    prompt = theirs.backbone.prompt(encoded, Question("Tell all."), 40)
    decoding = DecodingOptions(max_new_tokens=40)
    good = answer_form("dense_caption", duration=encoded.duration).grammar
    bad = AnswerGrammar("start: nothing\n", None)
    compiler = writer.grammar_compiler
    state = compiler.state
    monkeypatch.setattr(compiler, "state", lambda _: state(good))  # only the other process sees the bad one
    with pytest.raises(ValueError, match="could not be enforced by the engine"):
        writer.generate(GenerationBatch([prompt] * 2, [bad, good], decoding), lambda: None)
    request = Request("dense_caption", decoding=decoding)
    assert theirs.run(request, encoded).text == own.run(request, encoded).text


def test_a_client_that_leaves_frees_the_engine(own, theirs, writer, encoded) -> None:
    prompt = theirs.backbone.prompt(encoded, Question("Tell all."), 900)
    decoding = DecodingOptions(max_new_tokens=900, min_new_tokens=900)
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 1.0:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        writer.generate(GenerationBatch([prompt] * 3, [None] * 3, decoding), check)
    assert idle(theirs)
    request = Request("dense_caption", decoding=DecodingOptions(max_new_tokens=30))
    assert theirs.run(request, encoded).text == own.run(request, encoded).text


def test_prompts_of_one_client_are_cached_for_it_alone(theirs, writer, encoded) -> None:
    prompt = theirs.backbone.prompt(encoded, Question("What is there? " * 30), 4)
    batch = GenerationBatch([prompt], [None], DecodingOptions(max_new_tokens=4))
    cached = [writer.generate(batch, lambda: None, client)[1] for client in ("a", "a", "b", "a")]
    assert cached[0] == cached[2] == 0
    assert cached[1] == cached[3] >= 128


def test_a_wrong_option_ends_the_start_in_one_line() -> None:
    with pytest.raises(EngineError, match="vLLM cannot be started: ") as caught:
        load_backbone("nano", device="cpu", engine="vllm", engine_options={"max_model_len": 10_000_000})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="'max_rows' is no argument"):
        load_backbone("nano", device="cpu", engine="vllm", engine_options={"max_rows": 3})


def workers_of(process: int) -> list[int]:
    """Return the ids of the processes below a process that run a part of vLLM."""
    found, parents = [], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    for child, parent in parents.items():
        seen = parent
        while seen not in (process, 0, 1) and seen in parents:
            seen = parents[seen]
        if seen == process and "VLLM" in Path(f"/proc/{child}/comm").read_text().upper():
            found.append(child)
    return found


def test_a_killed_worker_fails_requests_and_is_replaced(own, theirs, writer, encoded) -> None:
    """This test is the last one: the engine starts again."""
    prompt = theirs.backbone.prompt(encoded, Question("Tell all."), 900)
    decoding = replace(DecodingOptions(), max_new_tokens=900, min_new_tokens=900)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            writer.generate(GenerationBatch([prompt], [None], decoding), lambda: None)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    workers = workers_of(os.getpid())
    assert workers
    os.kill(workers[-1], signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in errors] == [EngineError] * 3
    assert {str(error) for error in errors} == {
        "the engine that writes answers failed during this one; try again in a minute"
    }
    assert not writer.engine.is_alive
    with pytest.raises(EngineError, match="is being started again"):
        writer.generate(GenerationBatch([prompt], [None], decoding), lambda: None)
    end = time.monotonic() + 400
    while not writer.engine.is_alive and time.monotonic() < end:
        time.sleep(0.5)
    assert writer.engine.state.restarts == 1
    request = Request("dense_caption", decoding=DecodingOptions(max_new_tokens=30))
    assert theirs.run(request, encoded).text == own.run(request, encoded).text
