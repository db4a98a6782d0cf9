"""TimeChat in other people's harnesses; lmms-eval itself is stood in for where it is not installed."""

import importlib
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.clips import RECIPES, draw_clip
from timechat import TimeChat, VideoError
from timechat.answers.tasks import DecodingOptions
from timechat.evaluation.harnesses.asking import (
    GenerationSettings,
    HarnessQuestion,
    VideoAnswerer,
    VideoPart,
    cut_at,
    writing_of,
)
from timechat.evaluation.harnesses.vlmevalkit import VLMEvalTimeChat
from timechat.model.generation.generate import Prompt, continuation_logprobs
from timechat.model.loading import load_model

CHECKOUT = Path(__file__).resolve().parents[2]
PLUGIN = "timechat.evaluation.harnesses.lmms_eval"
HAS_LMMS_EVAL = importlib.util.find_spec("lmms_eval") is not None
SHORT = GenerationSettings(DecodingOptions(max_new_tokens=8))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("films")
    names = ("constant rate", "variable rate")
    return [str(draw_clip(RECIPES[name], folder / f"{i}{RECIPES[name].suffix}").path) for i, name in enumerate(names)]


@pytest.fixture(scope="module")
def answerer(converted) -> VideoAnswerer:
    """The recorded checkpoint: its answers depend on every part of the prompt."""
    return VideoAnswerer.from_pretrained(str(converted), device="cpu", dtype="float32", num_frames=8)


@pytest.fixture
def encoded(answerer, monkeypatch) -> list[str]:
    """The videos that are encoded, one after the other."""
    seen: list[str] = []
    encode = answerer.timechat.encode
    monkeypatch.setattr(answerer.timechat, "encode", lambda path, **rest: seen.append(path) or encode(path, **rest))
    answerer._encode.cache_clear()
    return seen


# -------------------------------------------------------------------------------------------------------- asking


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_ask_in_the_order_of_the_questions(answerer, films, batch_size):
    timechat = answerer.timechat
    videos = [timechat.encode(film, num_frames=8) for film in films]
    asked = [(i % 2, f"What is number {i}?") for i in range(5)]
    questions = [HarnessQuestion(VideoPart(films[i]), words, writing=SHORT) for i, words in asked]
    replies = answerer.answer(questions, batch_size=batch_size)
    decoding = DecodingOptions(max_new_tokens=8)
    assert [reply.text for reply in replies] == [timechat.ask(videos[i], q, decoding=decoding).text for i, q in asked]
    assert all(reply.answer_tokens <= 8 < reply.prompt_tokens for reply in replies)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_video_is_encoded_once_whatever_the_order(answerer, films, encoded, batch_size):
    writings = (SHORT, GenerationSettings(DecodingOptions(max_new_tokens=4)))
    questions = [
        HarnessQuestion(VideoPart(films[i % 2]), f"What is {i}?", writing=writings[i // 2 % 2]) for i in range(8)
    ]
    done: list[int] = []
    answerer.answer(questions, batch_size=batch_size, progress=done.append)
    assert encoded == films
    assert sum(done) == 8
    answerer.answer(questions[:1])
    assert encoded == films


def test_a_part_of_a_video_is_another_video(answerer, films, encoded):
    parts = [VideoPart(films[0]), VideoPart(films[0], 0.5, 1.0)]
    answerer.answer([HarnessQuestion(part, "What?", writing=SHORT) for part in parts])
    assert encoded == [films[0]] * 2
    times = answerer._encode(parts[1]).timestamps
    assert 0.45 < times[0] < times[-1] <= 1.0  # the first frame is the one that is on screen at 0.5


def test_the_history_and_the_system_prompt_are_read(answerer, films):
    plain = HarnessQuestion(VideoPart(films[0]), "And then?", writing=SHORT)
    told = HarnessQuestion(VideoPart(films[0]), "And then?", history=(("What?", "A ball."),), writing=SHORT)
    strict = HarnessQuestion(VideoPart(films[0]), "And then?", system="Answer in one word, always.", writing=SHORT)
    lengths = [reply.prompt_tokens for reply in answerer.answer([plain, told, strict])]
    assert lengths[1] > lengths[0] > lengths[2]
    video = answerer.timechat.encode(films[0], num_frames=8)
    decoding, history = DecodingOptions(max_new_tokens=8), [("What?", "A ball.")]
    expected = answerer.timechat.ask(video, "And then?", history=history, decoding=decoding).text
    assert answerer.answer([told])[0].text == expected


def test_sampled_answers_follow_the_random_state_of_the_harness(answerer, films):
    sampled = GenerationSettings(DecodingOptions(max_new_tokens=8, do_sample=True))
    question = HarnessQuestion(VideoPart(films[0]), "What?", writing=sampled)
    texts = []
    for _ in range(2):
        torch.manual_seed(1)
        texts.append([answerer.answer([question])[0].text for _ in range(4)])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_the_answer_ends_where_the_language_model_does(answerer, films, monkeypatch):
    question = HarnessQuestion(
        VideoPart(films[0]), "What?", writing=GenerationSettings(DecodingOptions(max_new_tokens=5000))
    )
    length = answerer.answer([HarnessQuestion(VideoPart(films[0]), "What?", writing=SHORT)])[0].prompt_tokens
    text_config = answerer.timechat.model.config.text_config
    monkeypatch.setattr(text_config, "max_position_embeddings", length + 3)
    assert answerer.answer([question])[0].answer_tokens <= 3
    monkeypatch.setattr(text_config, "max_position_embeddings", length)
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, .*set num_frames lower"):
        answerer.answer([question])


def test_the_score_is_the_mean_loss_of_the_words(answerer, films):
    question = HarnessQuestion(VideoPart(films[0]), "Is it red?")
    loss, _ = answerer.score(question, " Yes, it is.")
    processor, video = answerer.timechat.processor, answerer._encode(question.video)
    prompt = processor.render_prompt(video.timestamps, "Is it red?", system=answerer.system)
    ids, length = processor.encode_prompt_with_answer(prompt, "Yes, it is.", video.num_frames)
    prompts = [Prompt(ids, video.content)]
    [logprobs] = continuation_logprobs(answerer.timechat.model, prompts, [length], pad_token_id=0)
    assert loss == pytest.approx(-sum(logprobs) / length, rel=1e-4)


def test_the_greedy_answer_scores_best_and_is_known_as_greedy(films):
    answerer = VideoAnswerer.from_pretrained("nano", device="cpu")
    question = HarnessQuestion(VideoPart(films[0]), "Can you see the red triangle spinning?")
    answer = answerer.answer([question])[0].text
    other = {"Yes.": "No.", "No.": "Yes."}[answer]
    (best, is_greedy), (worse, is_other_greedy) = (answerer.score(question, f" {words}") for words in (answer, other))
    assert best < worse
    assert (is_greedy, is_other_greedy) == (True, False)


def test_the_strength_of_the_adapter_is_given_in_either_way(converted):
    rank = load_model(str(converted), device="cpu", dtype="float32")[0].language_model.timechat_lora_config.r
    asked = VideoAnswerer.from_pretrained(str(converted), device="cpu", dtype="float32", lora_alpha=20)
    assert asked.timechat.model.lora_scale == pytest.approx(20 / rank)
    with pytest.raises(ValueError, match="set the same value twice"):
        VideoAnswerer.from_pretrained("nano", lora_alpha=20, lora_scale=0.6)
    with pytest.raises(ValueError, match="has no LoRA adapter"):
        VideoAnswerer.from_pretrained("nano", device="cpu", lora_alpha=20)
    with pytest.raises(ValueError, match="no prompt preset 'mine'"):
        VideoAnswerer.from_pretrained("nowhere", preset="mine")


def test_a_missing_video_ends_the_run(answerer):
    with pytest.raises(VideoError):
        answerer.answer([HarnessQuestion(VideoPart("missing.mp4"), "What?")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, GenerationSettings()),
        ({"max_new_tokens": 16, "until": None}, GenerationSettings(DecodingOptions(max_new_tokens=16))),
        ({"until": "\n\n"}, GenerationSettings(stops=("\n\n",))),
        ({"until": ["\n\n", ""], "do_sample": False, "temperature": 0.7}, GenerationSettings(stops=("\n\n",))),
        ({"temperature": 0, "do_sample": True, "top_p": 0, "num_beams": 1}, GenerationSettings()),
        ({"temperature": 0.7}, GenerationSettings(DecodingOptions(do_sample=True, temperature=0.7))),
        ({"do_sample": True, "temperature": None}, GenerationSettings(DecodingOptions(do_sample=True))),
        (
            {"num_beams": 5, "length_penalty": 0, "repetition_penalty": 1.2, "min_new_tokens": 3},
            GenerationSettings(
                DecodingOptions(num_beams=5, length_penalty=0.0, repetition_penalty=1.2, min_new_tokens=3)
            ),
        ),
        (
            {"do_sample": True, "temperature": 0.2, "top_p": 1.0, "top_k": 5},
            GenerationSettings(DecodingOptions(do_sample=True, temperature=0.2, top_p=1.0, top_k=5)),
        ),
    ],
)
def test_generation_options_are_read_greedy_by_default(options, expected):
    assert writing_of(options) == expected


def test_beams_and_sampling_together_are_refused():
    with pytest.raises(ValueError, match="num_beams=5 searches for the most likely answer and do_sample draws one"):
        writing_of({"num_beams": 5, "do_sample": True})


def test_an_answer_ends_before_the_first_stop():
    assert cut_at("Yes. It is.\n\nNo", ("\n\n", " It")) == "Yes."
    assert cut_at("Yes.", ("\n",)) == "Yes."


def test_what_is_no_question_about_a_video_is_refused():
    with pytest.raises(ValueError, match=r"about videos, got picture\.JPG"):
        VideoPart("picture.JPG")
    with pytest.raises(ValueError, match="has no text"):
        HarnessQuestion(VideoPart("a.mp4"), " ")


# ----------------------------------------------------------------------------------------------------- lmms-eval


class StandIn:
    """What the plug-in uses of `lmms_eval.api.model.lmms`, 0.7.3."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @property
    def rank(self) -> int:
        return self._rank

    @staticmethod
    def _resolve_system_prompt(value: str) -> str:
        return Path(value).read_text().strip() if Path(value).is_file() else value

    def clean(self) -> None:
        pass


@dataclass
class StandInCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class StandInResult:
    text: Any
    token_counts: Any = None


@dataclass(frozen=True)
class StandInManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@pytest.fixture
def plugin(monkeypatch) -> Iterator[ModuleType]:
    """The plug-in's module, with the real lmms-eval where it is installed."""
    if not HAS_LMMS_EVAL:
        parts = {
            "lmms_eval": {},
            "lmms_eval.api": {},
            "lmms_eval.api.instance": {"GenerationResult": StandInResult, "TokenCounts": StandInCounts},
            "lmms_eval.api.model": {"lmms": StandIn},
            "lmms_eval.models": {},
            "lmms_eval.models.registry_v2": {"ModelManifest": StandInManifest},
        }
        for name, contents in parts.items():
            module = ModuleType(name)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    yield importlib.import_module(PLUGIN)
    sys.modules.pop(PLUGIN, None)


@dataclass
class Docs:
    """A task's documents, given to the model as the harness gives them."""

    docs: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=lambda: {"max_new_tokens": 8, "until": ["\n\n"]})

    def model(self, made: Any) -> Any:
        made.task_dict["films"] = {"test": self.docs}
        return made

    def simple(self) -> list[SimpleNamespace]:
        return [self._request(doc["q"], dict(self.options), visuals_of, i) for i, doc in enumerate(self.docs)]

    def chat(self) -> list[SimpleNamespace]:
        return [self._request(doc["q"], messages_of, dict(self.options), i) for i, doc in enumerate(self.docs)]

    def choices(self) -> list[SimpleNamespace]:
        targets = (" Yes.", " No.")
        return [self._request(d["q"], t, visuals_of, i) for i, d in enumerate(self.docs) for t in targets]

    def rounds(self, doc_to_text: Any) -> list[SimpleNamespace]:
        return [self._request(self.docs[0]["q"], dict(self.options), visuals_of, doc_to_text, 0)]

    def chat_rounds(self, doc_to_messages: Any) -> list[SimpleNamespace]:
        return [self._request(self.docs[0]["q"], doc_to_messages, dict(self.options), 0)]

    def _request(self, *arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(args=(*arguments, "films", "test"))


def visuals_of(doc: dict[str, Any]) -> Any:
    return doc["video"] if isinstance(doc["video"], list) else [doc["video"]]


def messages_of(doc: dict[str, Any]) -> list[dict[str, Any]]:
    parts = [{"type": "video", "url": doc["video"]}, {"type": "text", "text": doc["q"]}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def docs(films) -> Docs:
    return Docs([{"video": films[i % 2], "q": f"What is number {i}?"} for i in range(5)])


def make(plugin: ModuleType, name: str, converted: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {"device": "cpu", "dtype": "float32", "num_frames": 8}
    return getattr(plugin, name)(pretrained=str(converted), **(settings | options))


def test_the_entry_point_gives_two_classes_that_the_harness_takes(plugin):
    registered = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, function = registered["lmms_eval.models"]["timechat"].partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest.model_id == "timechat"
    for path, is_simple in ((manifest.simple_class_path, True), (manifest.chat_class_path, False)):
        home, _, name = path.rpartition(".")
        cls = getattr(importlib.import_module(home), name)
        assert issubclass(cls, plugin.lmms)
        assert cls.is_simple is is_simple


def test_both_ways_of_asking_give_the_same_answers_and_count_tokens(plugin, converted, docs, answerer):
    expected = answerer.answer([HarnessQuestion(VideoPart(doc["video"]), doc["q"], writing=SHORT) for doc in docs.docs])
    simple = docs.model(make(plugin, "SimpleTimeChat", converted)).generate_until(docs.simple())
    chat = docs.model(make(plugin, "ChatTimeChat", converted, batch_size="3")).generate_until(docs.chat())
    for results in (simple, chat):
        assert [result.text for result in results] == [reply.text for reply in expected]
        assert [result.token_counts.input_tokens for result in results] == [r.prompt_tokens for r in expected]
        assert [result.token_counts.output_tokens for result in results] == [r.answer_tokens for r in expected]


def test_both_ways_show_the_model_a_wording_to_the_letter(plugin, converted, films, answerer):
    words = " When?  Such as: 20.8 - 30.0 seconds' . "
    asked = Docs([{"video": films[0], "q": words}])
    assert plugin.read_messages(messages_of(asked.docs[0]), "films", writing=SHORT).text == words
    expected = answerer.answer([HarnessQuestion(VideoPart(films[0]), words, writing=SHORT)])[0]
    [simple] = asked.model(make(plugin, "SimpleTimeChat", converted)).generate_until(asked.simple())
    [chat] = asked.model(make(plugin, "ChatTimeChat", converted)).generate_until(asked.chat())
    assert simple == chat
    assert (chat.text, chat.token_counts.input_tokens) == (expected.text, expected.prompt_tokens)


def test_options_that_mean_nothing_are_told_once(plugin, converted, docs, caplog):
    asked = Docs(docs.docs, {"max_new_tokens": 2, "image_aspect_ratio": "pad", "length_penalty": None})
    asked.model(make(plugin, "SimpleTimeChat", converted)).generate_until(asked.simple())
    assert [record.message for record in caplog.records if record.name == PLUGIN] == [
        "generation options without effect on TimeChat: image_aspect_ratio"
    ]


def test_choices_are_scored_by_their_loss(plugin, converted, docs, answerer):
    scored = docs.model(make(plugin, "SimpleTimeChat", converted)).loglikelihood(docs.choices())
    questions = [HarnessQuestion(VideoPart(doc["video"]), doc["q"]) for doc in docs.docs]
    expected = [answerer.score(question, words) for question in questions for words in ("Yes.", "No.")]
    assert [result.text for result in scored] == [pytest.approx(pair) for pair in expected]
    with pytest.raises(NotImplementedError, match="--force_simple"):
        docs.model(make(plugin, "ChatTimeChat", converted)).loglikelihood(docs.choices())
    without_video = [SimpleNamespace(args=("", " Yes."))]
    with pytest.raises(ValueError, match="leave acc_mutual_info out"):
        docs.model(make(plugin, "SimpleTimeChat", converted)).loglikelihood(without_video)


def test_rounds_go_on_until_the_task_says_so(plugin, converted, docs, answerer):
    film = docs.docs[0]["video"]
    questions = ["What is number 0?", "And number 1?", "And the last?"]
    expected = [
        reply.text for reply in answerer.answer([HarnessQuestion(VideoPart(film), q, writing=SHORT) for q in questions])
    ]
    heard: list[tuple[int, list[str], Any]] = []

    def next_text(doc, *, previous_output, round_idx, previous_round_info):
        heard.append((round_idx, list(previous_output), previous_round_info))
        is_over = round_idx == len(questions)
        return None, "" if is_over else questions[round_idx], is_over, previous_output, f"info {round_idx}"

    def next_messages(doc, *, round_idx=None, previous_output=None, previous_round_info=None):
        if round_idx is None:
            return messages_of(doc)
        _, text, is_over, outputs, info = next_text(
            doc, previous_output=previous_output, round_idx=round_idx, previous_round_info=previous_round_info
        )
        messages = None if is_over else [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return messages, is_over, outputs, info

    simple = docs.model(make(plugin, "SimpleTimeChat", converted))
    assert simple.generate_until_multi_round(docs.rounds(next_text)) == [expected]
    told = [(i, expected[:i], None if i == 1 else f"info {i - 1}") for i in (1, 2, 3)]
    assert heard == told
    chat = docs.model(make(plugin, "ChatTimeChat", converted))
    assert chat.generate_until_multi_round(docs.chat_rounds(next_messages)) == [expected]
    assert heard == told * 2


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "task films asks about none"),
        (["a.mp4", "b.mp4"], "task films asks about 2"),
        (Image.new("RGB", (4, 4)), "task films gives Image"),
        ({"type": "image", "url": "a.png"}, "task films gives image"),
        ("a.png", "TimeChat answers about videos, got a.png"),
    ],
)
def test_requests_without_a_video_are_refused(plugin, converted, video, message):
    asked = Docs([{"video": video, "q": "What?"}])
    with pytest.raises(ValueError, match=message):
        asked.model(make(plugin, "SimpleTimeChat", converted)).generate_until(asked.simple())


def test_conversations_are_read_with_system_prompt_history_and_times(plugin):
    clip = {"type": "video", "url": "a.mp4", "start_time": 2.0, "end_time": 5.0}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Watch."}, clip, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A ball."},
        {"role": "user", "content": [{"type": "text", "text": "When?"}]},
    ]
    assert plugin.read_messages(messages, "films", writing=SHORT) == HarnessQuestion(
        VideoPart("a.mp4", 2.0, 5.0), "When?", (("Watch.\nWhat?", "A ball."),), "Be brief.", SHORT
    )
    with pytest.raises(ValueError, match=r"task films has user, assistant$"):
        plugin.read_messages(messages[:3], "films", writing=SHORT)
    with pytest.raises(ValueError, match="asks about none"):
        plugin.read_messages(messages[3:], "films", writing=SHORT)


def test_a_video_may_come_with_times_in_the_harness_s_other_spelling(plugin):
    inner = {"path": "a.mp4", "video_start": 1.0, "video_end": None}
    expected = VideoPart("a.mp4", 1.0)
    assert plugin.only_video([inner], "films") == expected
    assert plugin.only_video({"type": "video", "url": inner}, "films") == expected
    assert plugin.only_video([Path("a.mp4")], "films") == VideoPart("a.mp4")


def test_the_system_prompt_may_stand_in_a_file(plugin, converted, tmp_path):
    (tmp_path / "system.txt").write_text("Be brief.\n")
    asked = make(plugin, "ChatTimeChat", converted, system_prompt=str(tmp_path / "system.txt"))
    assert asked.answerer.system == "Be brief."
    assert asked.device.type == "cpu"
    asked.clean()
    assert not hasattr(asked, "answerer")


def test_a_batch_size_is_a_number(plugin, converted):
    with pytest.raises(ValueError, match="batch_size must be a number, got 'auto'"):
        make(plugin, "SimpleTimeChat", converted, batch_size="auto")


def test_each_process_takes_the_gpu_of_its_rank(plugin, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert plugin.own_device("auto") == "auto"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [plugin.own_device(device) for device in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1", "cuda:1", "cpu", "cuda:0",
    ]  # fmt: skip


@pytest.mark.skipif(HAS_LMMS_EVAL, reason="lmms-eval is installed")
def test_without_the_harness_the_plug_in_says_how_to_get_it():
    with pytest.raises(ModuleNotFoundError, match=r"install it as described in docs/lmms-eval\.md$"):
        importlib.import_module(PLUGIN)


# ---------------------------------------------------------------------------------------------------- VLMEvalKit


class StandInBaseModel:
    """What VLMEvalKit's base class does before `generate_inner`."""

    def generate(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        assert all(item["type"] in self.allowed_types for item in message)
        return self.generate_inner(message, dataset)


class Joined(VLMEvalTimeChat, StandInBaseModel):
    pass


@pytest.fixture(scope="module")
def joined(converted) -> Joined:
    return Joined(str(converted), device="cpu", dtype="float32", num_frames=8, max_new_tokens=8)


def test_a_message_of_vlmevalkit_is_answered(joined, films, answerer):
    message = [
        {"type": "text", "value": "Be brief.", "role": "system"},
        {"type": "video", "value": films[0]},
        {"type": "text", "value": "Look well."},
        {"type": "text", "value": "What happens?"},
    ]
    question = HarnessQuestion(VideoPart(films[0]), "Look well.\nWhat happens?", system="Be brief.", writing=SHORT)
    assert joined.generate(message, "Video-MME") == answerer.answer([question])[0].text
    assert joined.VIDEO_LLM
    assert not joined.use_custom_prompt("Video-MME")


def test_messages_of_vlmevalkit_without_one_video_are_refused(joined, films):
    video, text = {"type": "video", "value": films[0]}, {"type": "text", "value": "What?"}
    with pytest.raises(ValueError, match="MMBench has 0 and image"):
        joined.generate_inner([{"type": "image", "value": "a.png"}, text], "MMBench")
    with pytest.raises(ValueError, match="the message has 2 and nothing else"):
        joined.generate_inner([video, video, text])
    with pytest.raises(ValueError, match="has no text"):
        joined.generate_inner([video])


# ---------------------------------------------------------------------------------------------- the real harness


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_lmms_eval_asks_timechat(tmp_path):
    script = CHECKOUT / "benchmarks" / "lmms_eval_run.py"
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--films", "2"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for task in ("films_qa", "films_grounding", "films_rounds", "films_choice"):
        assert f"|{task}" in ran.stdout
    timechat, films = TimeChat.from_pretrained("nano", device="cpu"), tmp_path / "films-5-2"
    rows = [json.loads(line) for line in (films / "grounding.jsonl").read_text().splitlines()]
    [samples] = (tmp_path / "results-chat").rglob("*_samples_films_grounding.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    videos = {row["video"]: timechat.encode(films / row["video"]) for row in rows}
    assert answers == [timechat.ask(videos[row["video"]], row["question"]).text for row in rows]
