"""Prompts of models of `transformers`: the chat template of the model around the pictures and the user's words.

The template is rendered with a sentinel for each text and for the pictures. The pieces between are the model's own
control words; everything else is plain text, in which control words have no effect.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jinja2
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from timechat.backbones.backbone import Question
from timechat.backbones.transformers.media import EncodedFrames
from timechat.errors import CheckpointError, PromptTooLongError

_SENTINEL = re.compile("\ue000([0-9]+)\ue001")
_PICTURES = 0  # number of the sentinel of the pictures
_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
_END_OF_THOUGHT = "\n\n</think>\n\n"


@dataclass(frozen=True, eq=False)
class TransformersPrompt:
    """A prompt ready for generation.

    Attributes:
        ids: Token ids, with one placeholder for each feature.
        content: Encoded frames of the placeholders; None for a prompt without pictures.
        media_end: Number of ids up to the end of the pictures; prompts about one window share these.
        positions: `(3, length)` positions of a model with M-RoPE; None for positions that count the ids.
    """

    ids: list[int]
    content: EncodedFrames | None = field(repr=False)
    media_end: int
    positions: Tensor | None = field(default=None, repr=False)

    @property
    def next_position(self) -> int:
        """Position of the first token of the answer."""
        return len(self.ids) if self.positions is None else int(self.positions.max()) + 1


class PromptBuilder:
    """Builds prompts with the chat template of a model; usable from several threads."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        *,
        name: str,
        context: int | None,
        rope_index: Callable[[list[int], EncodedFrames | None], Tensor] | None = None,
    ) -> None:
        """Check the template.

        Args:
            tokenizer: Tokenizer of the model.
            template: Chat template; None takes that of the tokenizer.
            name: Name of the model in messages.
            context: Maximum number of tokens of prompt and answer; None if it is not known.
            rope_index: Function that computes M-RoPE positions `(3, length)`; None for models without them.

        Raises:
            CheckpointError: There is no template, or it loses texts.
        """
        self._tokenizer, self._template, self._name, self._context = tokenizer, template, name, context
        self._rope_index = rope_index
        if template is None and not tokenizer.chat_template:
            raise CheckpointError(
                f"{name} has no chat template, so it is no model for questions; take an instruction-tuned version of it"
            )
        marks = sorted(
            {
                token.content
                for token in tokenizer.added_tokens_decoder.values()
                if token.special or re.fullmatch(r"<.+>|\[.+\]", token.content)
            }
            - {""},
            key=len,
            reverse=True,
        )
        self._marks = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._render(Question("?", [("?", "!")], "."))

    def build(self, content: EncodedFrames, question: Question, max_new_tokens: int) -> TransformersPrompt:
        """Build the prompt of a question about a window.

        Raises:
            PromptTooLongError: Prompt and answer do not fit into the model.
        """
        prompt = self.with_pictures(content, question)
        self.check_length(len(prompt.ids), max_new_tokens)
        return prompt

    def with_pictures(self, content: EncodedFrames, question: Question) -> TransformersPrompt:
        """Build a prompt with the pictures of a window, however long it is."""
        before, after = self._around(question)
        media: list[int] = content.ids.tolist()
        return self._prompt([*before, *media, *after], content, len(before) + len(media))

    def without_pictures(self, content: EncodedFrames, question: Question) -> TransformersPrompt:
        """Build the same prompt with the times of the pictures and without the pictures."""
        before, after = self._around(question)
        media = content.times_only()
        return self._prompt([*before, *media, *after], None, len(before) + len(media))

    def check_length(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        """Raise a `PromptTooLongError` if prompt and answer have more tokens than the model reads."""
        if self._context is not None and num_prompt_tokens + max_new_tokens > self._context:
            raise PromptTooLongError(
                f"the prompt has {num_prompt_tokens} tokens and the answer may have {max_new_tokens}, but {self._name} "
                f"reads {self._context} in all; take fewer frames, shorter windows, a shorter question or history, or "
                "lower max_new_tokens"
            )

    def plain_ids(self, text: str) -> list[int]:
        """Tokenize the words of a user; control words in them become plain text.

        A control word is split behind its first character. The state of the tokenizer does not change, as it would
        with `split_special_tokens`, so that other threads are not affected.
        """
        starts = [0, *(match.start() + 1 for match in self._marks.finditer(text)), len(text)]
        parts = [text[first:end] for first, end in pairwise(starts) if first < end]
        if any(self._marks.search(part) for part in parts):  # marks that overlap: no two characters stay together
            parts = list(text)
        return [number for part in parts for number in self._ids(part)]

    def _prompt(self, ids: list[int], content: EncodedFrames | None, media_end: int) -> TransformersPrompt:
        positions = None if self._rope_index is None else self._rope_index(ids, content)
        return TransformersPrompt(ids, content, media_end, positions)

    def _around(self, question: Question) -> tuple[list[int], list[int]]:
        """Return the ids before and behind the pictures."""
        rendered, texts = self._render(question)
        before: list[int] = []
        after: list[int] = []
        ids = before
        for i, piece in enumerate(_SENTINEL.split(rendered)):
            if i % 2 == 0:
                ids += self._ids(piece)
            elif int(piece) == _PICTURES:
                ids = after
            else:
                ids += self.plain_ids(texts[int(piece)])
        return self._with_start(before, rendered), after

    def _with_start(self, ids: list[int], rendered: str) -> list[int]:
        """Return ids with the start token that the tokenizer adds, unless the template has it."""
        start, token = self._tokenizer.bos_token_id, self._tokenizer.bos_token
        if start is None or rendered.startswith(token):
            return ids
        adds = self._tokenizer("a").input_ids[:1] == [start]
        return [start, *ids] if adds else ids

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids if text else []

    def _render(self, question: Question) -> tuple[str, list[str]]:
        """Return the rendered template with sentinels, and the text of each sentinel.

        Raises:
            CheckpointError: The template loses texts.
        """
        texts = [""]

        def mark(text: str) -> str:
            texts.append(text)
            return f"\ue000{len(texts) - 1}\ue001"

        pictures = f"\ue000{_PICTURES}\ue001"
        turns: list[tuple[str, str]] = []
        for asked, answer in question.history:
            turns += [("user", mark(asked)), ("assistant", mark(answer))]
        turns.append(("user", mark(question.text)))
        turns[0] = ("user", pictures + turns[0][1])
        system = [] if not question.system else [("system", mark(question.system))]
        merged = [("user", f"{system[0][1]}\n{turns[0][1]}"), *turns[1:]] if system else turns
        problem = "it loses texts"
        # Templates differ: texts as lists of parts or as strings, with a turn of the system or without.
        for messages in ([*system, *turns], merged):
            for as_parts in (True, False):
                try:
                    rendered = self._apply(messages, as_parts=as_parts)
                except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
                    problem = str(error).splitlines()[0] if str(error) else type(error).__name__
                    continue
                if sorted(map(int, _SENTINEL.findall(rendered))) == list(range(len(texts))):
                    return rendered, texts
        raise CheckpointError(f"the chat template of {self._name} cannot be used: {problem}; take another model")

    def _apply(self, messages: Sequence[tuple[str, str]], *, as_parts: bool) -> str:
        chat: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}] if as_parts else text} for role, text in messages
        ]
        rendered: str = self._tokenizer.apply_chat_template(
            chat,
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return rendered.rstrip() + _END_OF_THOUGHT if _OPEN_THOUGHT.search(rendered) else rendered


def rope_index(inner: Any, config: Any) -> Callable[[list[int], EncodedFrames | None], Tensor] | None:
    """Return the function that computes the M-RoPE positions of a prompt; None for a model without M-RoPE.

    The positions are given to the model with every call. What the model would remember of the prompt before
    (`rope_deltas`) is never used: with states of an earlier prompt, it would belong to another video.
    """
    if not hasattr(inner, "get_rope_index"):
        return None
    kinds = {getattr(config, "image_token_id", None): 1, getattr(config, "video_token_id", None): 2}

    def positions(ids: list[int], content: EncodedFrames | None) -> Tensor:
        row, types = torch.tensor([ids]), torch.tensor([[kinds.get(number, 0) for number in ids]])
        arguments: dict[str, Tensor] = {}
        if content is not None and content.grid is not None:
            is_video = bool((types == 2).any())
            arguments["video_grid_thw" if is_video else "image_grid_thw"] = content.grid
        found: Tensor = inner.get_rope_index(row, mm_token_type_ids=types, **arguments)[0]
        return found[:, 0]

    return positions
