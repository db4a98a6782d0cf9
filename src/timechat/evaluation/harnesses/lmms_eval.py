"""TimeChat as a model of lmms-eval: `lmms-eval --model timechat --model_args pretrained=nano --tasks ...`.

The harness finds `manifest` by the entry point `lmms_eval.models`. The harness has two kinds of models, and both
are here: `chat`, the default, receives messages; `simple` (`--force_simple`) receives a text and the task's videos,
and is the only kind that scores given choices (`multiple_choice`, `loglikelihood`).
"""

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from tqdm import tqdm

from timechat.answers.prompts import DEFAULT_PRESET
from timechat.evaluation.harnesses.asking import (
    OPTIONS,
    GenerationSettings,
    HarnessQuestion,
    Reply,
    VideoAnswerer,
    VideoPart,
    writing_of,
)

try:
    from lmms_eval.api.instance import GenerationResult, TokenCounts
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelManifest
except ModuleNotFoundError as error:
    if error.name != "lmms_eval":
        raise
    raise ModuleNotFoundError(
        "this plug-in needs lmms-eval: install it as described in docs/lmms-eval.md", name=error.name
    ) from error

logger = logging.getLogger(__name__)


def manifest() -> Any:
    """Return the manifest with the paths of the two model classes."""
    return ModelManifest(
        model_id="timechat",
        simple_class_path=f"{__name__}.SimpleTimeChat",
        chat_class_path=f"{__name__}.ChatTimeChat",
    )


class SimpleTimeChat(lmms):  # type: ignore[misc]
    """TimeChat as a simple model: requests with a text and videos."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "nano",
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        lora_scale: float | None = None,
        lora_alpha: float | None = None,
        num_frames: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        system_prompt: str | None = None,
        preset: str = DEFAULT_PRESET,
    ) -> None:
        """Load the model; the arguments come from `--model_args`.

        Args:
            pretrained: Checkpoint: `nano`, a folder of `timechat convert`, or a hub id.
            device: Device, such as `cpu` or `cuda`; with several processes each one uses the GPU of its rank.
            dtype: Number format, as in `TimeChat.from_pretrained`.
            quantize: Format to which weights are rounded, as in `TimeChat.from_pretrained`.
            lora_scale: Strength of the LoRA adapter, `lora_alpha / r`.
            lora_alpha: Strength of the adapter before division by its rank, such as 20 for question answering.
            num_frames: Number of evenly spaced frames of each video; None uses the model's configuration.
            batch_size: Maximum number of questions in a batch.
            max_batch_size: Argument of the harness for a batch size search, which is not supported; must be None.
            system_prompt: System prompt, or the path of a file that contains it.
            preset: Preset that provides the system prompt if none is given.
        """
        super().__init__()
        if max_batch_size is not None or not str(batch_size).isdigit():
            raise ValueError(
                f"batch_size must be a number, got {batch_size!r} and max_batch_size={max_batch_size}: TimeChat does "
                "not search for one; give --batch_size 8, say"
            )
        self.batch_size = int(batch_size)
        self._told: set[str] = set()
        self.answerer = VideoAnswerer.from_pretrained(
            str(pretrained),
            device=own_device(device),
            dtype=dtype,
            quantize=quantize,
            lora_scale=lora_scale,
            lora_alpha=lora_alpha,
            num_frames=None if num_frames is None else int(num_frames),
            preset=preset,
            system=None if system_prompt is None else self._resolve_system_prompt(system_prompt),
        )

    @property
    def device(self) -> torch.device:
        """Device of the model; the harness gathers its counts there."""
        return self.answerer.device

    def clean(self) -> None:
        """Free the memory of the model after the last answer."""
        del self.answerer
        super().clean()

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the harness's requests, each with its number of tokens."""
        questions = []
        for request in requests:
            context, options, doc_to_visual, doc_id, task, split = request.args
            video = only_video(doc_to_visual(self.task_dict[task][split][doc_id]), task)
            questions.append(HarnessQuestion(video, context, writing=self._writing(options)))
        return self._generate(questions)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Answer in rounds until the task ends them; each round has its own prompt."""
        return [self._rounds(request) for request in tqdm(requests, disable=self.rank != 0, desc="TimeChat, rounds")]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Score given continuations: the mean loss of each one's tokens, and whether it is the greedy answer.

        The score is a loss (lower is better): `multiple_choice` of lmms-eval 0.7 selects the minimum, and the harness's
        own models return a loss, although the interface documents a log-likelihood.
        """
        scored = []
        for request in tqdm(requests, disable=self.rank != 0, desc="TimeChat, scores"):
            if len(request.args) != 6:
                raise ValueError(
                    "a continuation without a video cannot be scored; leave acc_mutual_info out of the task"
                )
            context, target, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            question = HarnessQuestion(only_video(doc_to_visual(doc), task), context)
            score = self.answerer.score(question, str(target(doc) if callable(target) else target))
            scored.append(GenerationResult(score))  # lmms-eval 0.7.3 converts a bare pair to a string and then fails
        return scored

    def _writing(self, options: Mapping[str, Any]) -> GenerationSettings:
        """Read a task's generation options; log each option without effect once."""
        strange = {name for name, value in options.items() if value is not None} - OPTIONS - self._told
        if strange:
            logger.warning("generation options without effect on TimeChat: %s", ", ".join(sorted(strange)))
            self._told |= strange
        return writing_of(options)

    def _generate(self, questions: Sequence[HarnessQuestion]) -> list[Any]:
        with tqdm(total=len(questions), disable=self.rank != 0, desc="TimeChat, answers") as bar:
            replies = self.answerer.answer(questions, batch_size=self.batch_size, progress=bar.update)
        return [_result(reply) for reply in replies]

    def _rounds(self, request: Any) -> list[str]:
        context, options, doc_to_visual, doc_to_text, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        video, writing = only_video(doc_to_visual(doc), task), self._writing(options)
        answers: list[str] = []
        round_info = None
        for round_idx in count(1):
            answers.append(self._answer_one(HarnessQuestion(video, context, writing=writing)))
            visuals, context, is_over, answered, round_info = doc_to_text(
                doc, previous_output=answers, round_idx=round_idx, previous_round_info=round_info
            )
            answers = list(answers if answered is None else answered)
            if is_over:
                break
            video = only_video(visuals, task) if visuals else video
        return answers

    def _answer_one(self, question: HarnessQuestion) -> str:
        return self.answerer.answer([question])[0].text


class ChatTimeChat(SimpleTimeChat):
    """TimeChat as a chat model: requests with messages."""

    is_simple = False

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the harness's requests, each with its number of tokens."""
        questions = []
        for request in requests:
            _, doc_to_messages, options, doc_id, task, split = request.args
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            questions.append(read_messages(messages, task, writing=self._writing(options)))
        return self._generate(questions)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Raise an error: the harness scores continuations with simple models only."""
        raise NotImplementedError("lmms-eval scores given answers for simple models only; add --force_simple")

    def _rounds(self, request: Any) -> list[str]:
        _, doc_to_messages, options, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        writing = self._writing(options)
        question = read_messages(doc_to_messages(doc), task, writing=writing)
        answers: list[str] = []
        round_info = None
        for round_idx in count(1):
            answers.append(self._answer_one(question))
            messages, is_over, answered, round_info = doc_to_messages(
                doc, round_idx=round_idx, previous_output=answers, previous_round_info=round_info
            )
            answers = list(answers if answered is None else answered)
            if is_over:
                break
            question = read_messages(messages, task, writing=writing, video=question.video)
        return answers


def own_device(device: str) -> str:
    """Return the device of this process; with several processes, the GPU of its local rank."""
    if device in ("auto", "cuda") and int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def only_video(visuals: Any, task: str) -> VideoPart:
    """Return the one video of a request.

    Raises:
        ValueError: The request has no video, several videos, or an image.
    """
    found = list(visuals) if isinstance(visuals, list | tuple) else [] if visuals is None else [visuals]
    if len(found) != 1:
        raise ValueError(
            f"TimeChat answers about one video, but task {task} asks about {len(found) or 'none'}; choose tasks that "
            "give the path of one video for each question"
        )
    return _video_part(found[0], task)


def read_messages(
    messages: Sequence[Mapping[str, Any]], task: str, *, writing: GenerationSettings, video: VideoPart | None = None
) -> HarnessQuestion:
    """Read a conversation that ends with the question; the video always precedes the text in the prompt.

    Texts are not stripped: a trailing space is a token that may have occurred in the training data.

    Args:
        messages: Messages with `role` and `content`, a text or a list of `{"type": ..., "text" or "url": ...}`.
        task: Name of the task, for errors.
        writing: Decoding options of the answer.
        video: Video of the question if no message has one.
    """
    videos: list[Any] = []
    said: list[tuple[str, str]] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        videos += [part for part in parts if part["type"] != "text"]
        said.append((message["role"], "\n".join(part["text"] for part in parts if part["type"] == "text")))
    system = "\n".join(text for role, text in said if role == "system") or None
    turns = [(role, text) for role, text in said if role != "system"]
    if len(turns) % 2 == 0 or any(role != ("user", "assistant")[i % 2] for i, (role, _) in enumerate(turns)):
        roles = ", ".join(role for role, _ in turns) or "no message"
        raise ValueError(f"user and assistant must alternate and the user must be last, but task {task} has {roles}")
    texts = [text for _, text in turns]
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    about = video if video is not None and not videos else only_video(videos, task)
    return HarnessQuestion(about, texts[-1], history=history, system=system, writing=writing)


def _video_part(visual: Any, task: str) -> VideoPart:
    """Read a video value of a task: a path, or a path with times in one of the harness's formats."""
    start = end = None
    while isinstance(visual, Mapping) and visual.get("type", "video") == "video":
        start = _first(visual, ("start_time", "video_start"), start)
        end = _first(visual, ("end_time", "video_end"), end)
        visual = _first(visual, ("url", "path", "video"), None)
    if not isinstance(visual, str | os.PathLike):
        kind = visual.get("type") if isinstance(visual, Mapping) else type(visual).__name__
        raise ValueError(f"TimeChat needs the path of a video, but task {task} gives {kind}; choose tasks about videos")
    return VideoPart(os.fspath(visual), start, end)


def _first(values: Mapping[str, Any], names: Sequence[str], otherwise: Any) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), otherwise)


def _result(reply: Reply) -> Any:
    return GenerationResult(
        reply.text, TokenCounts(input_tokens=reply.prompt_tokens, output_tokens=reply.answer_tokens)
    )
