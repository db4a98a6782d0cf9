"""Decoding with a model of `transformers`: batches, reuse of the states of a window, log probabilities of given words.

The loop over tokens is ours, not `generate`: every call names the positions of its tokens, so nothing that the model
remembers of an earlier prompt can enter, each row has its own rules and sampler, and an answer can end at any token.
"""

import copy
import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import acquire
from timechat.backbones.transformers.media import EncodedFrames, MediaEncoder
from timechat.backbones.transformers.prompts import TransformersPrompt
from timechat.model.generation.choosing import choose_tokens
from timechat.model.generation.generate import Sampler
from timechat.model.generation.grammar_state import GrammarState

Check = Callable[[], object]
OnToken = Callable[[list[int]], object]


@dataclass(eq=False)
class AnswerRowState:
    """An answer that is being written, as `choose_tokens` needs it.

    Attributes:
        prompt: Prompt to continue.
        decoding: Decoding options, with the seed of this answer.
        constraint: Grammar state that masks the tokens; None for an unconstrained answer.
        token_ids: Tokens generated so far, with the end token of a complete answer.
        logprobs: Natural logarithm of the probability of each token under the model, before any constraint.
        is_finished: Whether the answer is complete or has reached its maximum length.
        error: Error of the constraint; None without error.
        sampler: Sampler that draws the tokens; None until the first drawn token.
        allowed: Log probability of all tokens that the constraint allowed at the place of each token; empty for an
            unconstrained answer.
    """

    prompt: TransformersPrompt
    decoding: DecodingOptions
    constraint: GrammarState | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_finished: bool = False
    error: ValueError | None = None
    sampler: Sampler | None = None
    allowed: list[float] | None = field(default_factory=list)

    @property
    def tokens_left(self) -> int:
        """Maximum number of tokens that follow the generated ones."""
        return self.decoding.max_new_tokens - len(self.token_ids)


class Decoder:
    """Runs the language part of one model; one call at a time, from any thread.

    Attributes:
        lock: Lock of the model.
        num_read: Number of prompt ids that the last call read, without those whose states were reused.
    """

    def __init__(self, model: PreTrainedModel, encoder: MediaEncoder, end_token_ids: Sequence[int]) -> None:
        """Make a decoder.

        Args:
            model: Model with a head, in evaluation mode.
            encoder: Encoder of the pictures.
            end_token_ids: Token ids that end an answer.

        Raises:
            ValueError: The model does not take encoded pictures.
        """
        self._model, self._encoder, self.end_token_ids = model, encoder, tuple(end_token_ids)
        names = inspect.signature(model.forward).parameters
        if "mm_encoder_outputs" not in names:
            raise ValueError(
                f"{type(model).__name__} of transformers takes no encoded pictures, so that windows cannot be kept; "
                "serve this model with vLLM or another server and give its address as the model"
            )
        self._types_name = next((name for name in ("token_type_ids", "mm_token_type_ids") if name in names), None)
        self.lock = threading.RLock()
        self.num_read = 0
        self._states = WindowStates()

    @torch.inference_mode()
    def write(
        self,
        rows: Sequence[AnswerRowState],
        check: Check,
        on_token: OnToken | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """Write the answers of all rows, each as if it were alone.

        Args:
            rows: Answers without tokens.
            check: Function that raises if the answers are no longer needed; called before every token.
            on_token: Callback for the tokens so far, after each token; for a single row.
            should_stop: Function that ends the answers after the next token when it returns True.

        Raises:
            ValueError: A grammar is too large to be enforced.
        """
        with acquire(self.lock, check):
            logits, cache, mask = self._read_prompts([row.prompt for row in rows], check)
            positions = torch.tensor([row.prompt.next_position for row in rows], device=logits.device)
            while True:
                self._choose(rows, logits)
                if on_token is not None:
                    on_token(rows[0].token_ids)
                check()
                if all(row.is_finished for row in rows) or (should_stop is not None and should_stop()):
                    return
                ids = torch.tensor([row.token_ids[-1:] for row in rows], device=logits.device)
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
                logits = self._forward(ids, mask, self._at(positions[:, None], rows[0].prompt), cache)[:, -1]
                positions = positions + 1

    @torch.inference_mode()
    def continuation_logprobs(self, prompt: TransformersPrompt, ids: Sequence[int], check: Check) -> list[float]:
        """Return the log probability of each of the ids that continue a prompt, given all ids before it."""
        with acquire(self.lock, check):
            check()
            device = self._model.device
            cache, num_known = self._window(prompt)
            after = torch.arange(len(ids) - 1) + prompt.next_position
            row = torch.tensor([[*prompt.ids[num_known:], *ids[:-1]]], device=device)
            before = self._positions(prompt)[..., num_known:]
            positions = torch.cat([before, after.expand(*before.shape[:-1], -1)], -1)
            mask = torch.ones(1, len(prompt.ids) + len(ids) - 1, dtype=torch.long, device=device)
            contents = [] if num_known else [prompt.content]
            logits = self._forward(row, mask, self._batched([positions]), cache, contents, keep=len(ids))
            logprobs = logits[0].float().log_softmax(-1)
            chosen = torch.tensor(list(ids), device=device)[:, None]
            return logprobs.gather(1, chosen)[:, 0].tolist()

    def forget(self) -> None:
        """Forget the states of the last window."""
        with self.lock:
            self._states = WindowStates()

    def _choose(self, rows: Sequence[AnswerRowState], logits: Tensor) -> None:
        open_rows = [i for i, row in enumerate(rows) if not row.is_finished]
        choose_tokens([rows[i] for i in open_rows], logits[open_rows], self.end_token_ids)
        for row in rows:
            if row.error is not None:
                raise row.error

    def _read_prompts(self, prompts: Sequence[TransformersPrompt], check: Check) -> tuple[Tensor, DynamicCache, Tensor]:
        """Read prompts; return logits `(rows, vocab)`, states, and the mask `(rows, length)` of padded ids."""
        check()
        device = self._model.device
        if len(prompts) == 1:
            prompt = prompts[0]
            cache, num_known = self._window(prompt)
            check()
            ids = torch.tensor([prompt.ids[num_known:]], device=device)
            mask = torch.ones(1, len(prompt.ids), dtype=torch.long, device=device)
            positions = self._batched([self._positions(prompt)[..., num_known:]])
            contents = [] if num_known else [prompt.content]
            return self._forward(ids, mask, positions, cache, contents)[:, -1], cache, mask
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        padded = []
        for i, prompt in enumerate(prompts):
            missing = longest - len(prompt.ids)
            ids[i, missing:] = torch.tensor(prompt.ids)
            mask[i, missing:] = 1
            padded.append(torch.nn.functional.pad(self._positions(prompt), (missing, 0)))
        self.num_read = int(mask.sum())
        cache, mask = self._empty_cache(), mask.to(device)
        contents = [prompt.content for prompt in prompts]
        return self._forward(ids.to(device), mask, self._batched(padded), cache, contents)[:, -1], cache, mask

    def _window(self, prompt: TransformersPrompt) -> tuple[DynamicCache, int]:
        """Return the states of a prompt up to the end of its pictures, and their number.

        They are computed unless the last prompt was about the same window. Afterwards they are kept for the next one.
        """
        ids = prompt.ids[: prompt.media_end]
        if prompt.content is None:
            self.num_read = len(prompt.ids)
            return self._empty_cache(), 0
        cache = self._states.take(prompt.content, ids)
        self.num_read = len(prompt.ids) - (0 if cache is None else len(ids))
        if cache is None:
            self._states = WindowStates()  # frees the memory of the last window first
            cache = self._empty_cache()
            device = self._model.device
            mask = torch.ones(1, len(ids), dtype=torch.long, device=device)
            positions = self._batched([self._positions(prompt)[..., : len(ids)]])
            self._forward(torch.tensor([ids], device=device), mask, positions, cache, [prompt.content])
            self._states = WindowStates(weakref.ref(prompt.content, self._drop), ids, copy_states(cache))
        return cache, len(ids)

    def _drop(self, content: "weakref.ref[EncodedFrames]") -> None:
        """Free the states of a window that exists no more."""
        if self._states.content is content:
            self._states = WindowStates()

    def _positions(self, prompt: TransformersPrompt) -> Tensor:
        """Return the positions of a prompt, `(3, length)` with M-RoPE and `(length,)` without."""
        return torch.arange(len(prompt.ids)) if prompt.positions is None else prompt.positions

    def _batched(self, positions: Sequence[Tensor]) -> Tensor:
        """Stack positions to `(3, rows, length)` or `(rows, length)`."""
        return torch.stack(list(positions), dim=-2).to(self._model.device)

    @staticmethod
    def _at(positions: Tensor, prompt: TransformersPrompt) -> Tensor:
        """Return positions `(rows, 1)` of tokens of text as the model of the prompt takes them."""
        return positions if prompt.positions is None else positions.expand(3, -1, -1)

    def _empty_cache(self) -> DynamicCache:
        return DynamicCache(config=self._model.config.get_text_config(decoder=True))

    def _forward(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache,
        contents: Sequence[EncodedFrames | None] = (),
        keep: int = 1,
    ) -> Tensor:
        """Read ids `(rows, new)` behind the states; return the logits of the last ones, `(rows, keep, vocab)`.

        Args:
            ids: Token ids; `contents` has the features of their placeholders.
            mask: `(rows, states + new)`, 0 for padding.
            positions: Positions of the new ids, `(rows, new)` or `(3, rows, new)`.
            cache: States, which grow by the new ones.
            contents: Encoded frames of each row; None for a row without pictures.
            keep: Number of last ids whose logits are returned.
        """
        given: dict[str, Any] = {}
        if pictures := [content for content in contents if content is not None]:
            given["mm_encoder_outputs"] = self._encoder.encoder_outputs(pictures)
            if self._types_name is not None:
                is_picture = (ids == self._encoder.token_id).long()
                given[self._types_name] = is_picture * (2 if "video" in given["mm_encoder_outputs"] else 1)
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
            **given,
        ).logits
        return logits


@dataclass(frozen=True)
class WindowStates:
    """The states of the language part up to the end of the pictures of the last window."""

    content: "weakref.ref[EncodedFrames] | None" = None
    ids: Sequence[int] = ()
    cache: DynamicCache | None = None

    def take(self, content: EncodedFrames, ids: Sequence[int]) -> DynamicCache | None:
        """Return an independent copy for a prompt that begins with the ids; None if it begins otherwise."""
        is_same = self.content is not None and self.content() is content and list(self.ids) == list(ids)
        return copy_states(self.cache) if is_same and self.cache is not None else None


def copy_states(cache: DynamicCache) -> DynamicCache:
    """Return states that grow independently of the given ones.

    Layers with keys and values make new tensors when they grow, so that both can share the present ones. Other layers,
    such as those of linear attention, change their states in place and are copied.
    """
    copied = copy.copy(cache)
    copied.layers = [
        copy.copy(layer) if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return copied
