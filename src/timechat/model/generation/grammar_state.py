"""Answers kept in their task's form while they are written: words by llguidance, numbers by the shape itself."""

import threading
from collections.abc import Sequence
from functools import cached_property

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from timechat.answers.grammar import AnswerGrammar

# Free space between the signs of JSON would let a model write nothing else, for as long as it may.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_KEPT_GRAMMARS = 32  # compiled ones; each answer starts from a copy


class GrammarCompiler:
    """Makes constraints for one model's tokens; made once a model, since its vocabulary takes a moment to prepare."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Take a vocabulary.

        Args:
            tokenizer: The language model's.
            vocab_size: Number of ids that the model gives scores to; the tokenizer may know more.
            eos_token_ids: Ids that end an answer.
        """
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(eos_token_ids)
        self._matchers: dict[str, LLMatcher] = {}
        self._lock = threading.Lock()

    def state(self, grammar: AnswerGrammar) -> "GrammarState":
        """Return what keeps one answer in form, token by token."""
        with self._lock:
            matcher = self._matchers.get(grammar.grammar)
        if matcher is None:
            matcher = self._compile(grammar)
        with self._lock:
            self._matchers[grammar.grammar] = matcher
            while len(self._matchers) > _KEPT_GRAMMARS:
                self._matchers.pop(next(iter(self._matchers)))
            return GrammarState(self, grammar, matcher.deep_copy())

    def _compile(self, grammar: AnswerGrammar) -> LLMatcher:
        try:
            if grammar.is_json:
                source = LLMatcher.grammar_from_json_schema(grammar.grammar, _COMPACT)
            else:
                source = LLMatcher.grammar_from_lark(grammar.grammar)
        except ValueError as error:
            raise ValueError(f"the form of the answer cannot be read: {error}") from error
        matcher = LLMatcher(self.engine, source, log_level=0)
        if complaint := matcher.get_error():
            if grammar.is_json:
                raise ValueError(f"the JSON schema of the answer cannot be kept to: {complaint.splitlines()[0]}")
            raise RuntimeError(f"llguidance does not take our grammar: {complaint}")
        return matcher

    def logits_processor(
        self, grammars: Sequence[AnswerGrammar | None], max_new_tokens: int
    ) -> "GrammarLogitsProcessor":
        """Return what keeps a batch in form, for `generate`.

        Args:
            grammars: One a row; None leaves a row free.
            max_new_tokens: Longest answer, in tokens: answers come to an end before it.
        """
        return GrammarLogitsProcessor(self, grammars, max_new_tokens)

    @cached_property
    def engine(self) -> LLTokenizer:
        """The vocabulary, as the engine wants it."""
        # A tokenizer may know ids, such as the video's place, for which the model has no scores.
        size = max(self.vocab_size, len(self._tokenizer))
        return llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=size, eos_token=list(self.eos_token_ids))

    @cached_property
    def texts(self) -> list[str]:
        """What each id writes."""
        return [self.engine.decode_bytes([i]).decode("utf-8", "replace") for i in range(self.vocab_size)]

    @cached_property
    def has_gap(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether an id writes two spaces, which stand between events."""
        return np.array(["  " in text for text in self.texts])

    @cached_property
    def begins_with_space(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether what an id writes begins with a space."""
        return np.array([text.startswith(" ") for text in self.texts])

    @cached_property
    def is_word(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether an id writes nothing but letters, after which a sentence may end."""
        return np.array([text.isascii() and text.isalpha() for text in self.texts])

    @cached_property
    def ends_sentence(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether an id ends a sentence."""
        return np.array([text in (".", "!", "?") for text in self.texts])


class GrammarLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Takes from every row's next tokens those after which its answer could no longer be read.

    Scores of tokens that stay are left as they are.
    """

    def __init__(
        self, constraints: GrammarCompiler, grammars: Sequence[AnswerGrammar | None], max_new_tokens: int
    ) -> None:
        self._constraints = constraints
        self._max_new_tokens = max_new_tokens
        self._rows = [None if shape is None else constraints.state(shape) for shape in grammars]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask scores `(batch, vocab)`; `input_ids` `(batch, written)` holds only what has been written so far."""
        written = input_ids.shape[1]
        allowed = np.ones(scores.shape, dtype=bool)
        for i, row in enumerate(self._rows):
            if row is None or row.is_finished:
                continue
            if written:
                row.accept_token(int(input_ids[i, -1]))
            if not row.is_finished:
                allowed[i] = row.allowed_tokens(self._max_new_tokens - written)
        return scores.masked_fill(torch.from_numpy(~allowed).to(scores.device), float("-inf"))


class GrammarState:
    """Tells for one answer, while it is written, which tokens may come next."""

    def __init__(self, constraints: GrammarCompiler, grammar: AnswerGrammar, matcher: LLMatcher) -> None:
        """Begin an answer; made by `AnswerConstraints.state`."""
        self._constraints, self._shape, self._matcher = constraints, grammar, matcher
        self._ids: list[int] = []
        self._text = ""
        self.is_finished = False

    def accept_token(self, token: int) -> None:
        """Take note of the token that was chosen.

        Raises:
            ValueError: The form is too large to be kept to.
        """
        self.is_finished = token in self._constraints.eos_token_ids or not self._matcher.consume_token(token)
        self._check()
        self._ids.append(token)
        self._text = self._constraints.engine.decode_bytes(self._ids).decode("utf-8", "ignore").removeprefix(" ")

    def allowed_tokens(self, tokens_left: int) -> NDArray[np.bool_]:
        """`(vocab,)`: which tokens may come next; the end where none other may.

        Raises:
            ValueError: The form is too large to be kept to.
        """
        allowed, doubtful = self._candidates(tokens_left)
        for token in np.flatnonzero(doubtful):
            allowed[token] = self._fits(int(token), tokens_left)
        return self._or_end(allowed)

    def most_likely_token(self, scores: NDArray[np.float32], tokens_left: int) -> int:
        """The token with the highest score, `(vocab,)`, among those that may come next.

        Numbers are checked in the order of their scores until one fits. That is one or two numbers, where
        `allowed_tokens` checks all.
        """
        allowed, doubtful = self._candidates(tokens_left)
        scores = np.where(allowed, scores, -np.inf)
        while allowed.any():
            token = int(scores.argmax())
            if not allowed[token]:  # all that may come is of no likelihood at all
                token = int(allowed.argmax())
            if not doubtful[token] or self._fits(token, tokens_left):
                return token
            allowed[token], scores[token] = False, -np.inf
        return self._constraints.eos_token_ids[0]

    def _candidates(self, tokens_left: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """`(vocab,)` each: tokens that the grammar allows, and those whose numbers are still to be looked at."""
        constraints = self._constraints
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, bitorder="little")[: constraints.vocab_size].astype(bool)
        nothing = np.zeros_like(allowed)
        if self._shape.allows is None:
            return allowed, nothing
        ends = [token for token in constraints.eos_token_ids if allowed[token]]
        turn = self._shape.turn(self._text, tokens_left)
        if turn == "last words":
            return self._last_words(allowed, ends), nothing
        doubtful = allowed.copy() if turn == "numbers" else allowed & self._begins_event()
        doubtful[ends] = False
        return allowed, doubtful

    def _check(self) -> None:
        if complaint := self._matcher.get_error():
            raise ValueError(f"the form of the answer is too large to be kept to: {complaint.splitlines()[0][:200]}")

    def _fits(self, token: int, tokens_left: int) -> bool:
        """Whether the numbers are right with this token."""
        assert self._shape.allows is not None
        return self._shape.allows(self._after(token), tokens_left - 1)

    def _or_end(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The same, or the end where nothing is allowed."""
        if not allowed.any():
            allowed[list(self._constraints.eos_token_ids)] = True
        return allowed

    def _after(self, token: int) -> str:
        """The answer with one more token; the space before its first is none of it."""
        text = self._text + self._constraints.texts[token]
        return text if self._ids else text.removeprefix(" ")

    def _begins_event(self) -> NDArray[np.bool_]:
        """Tokens after which a new event begins."""
        constraints = self._constraints
        return constraints.has_gap | constraints.begins_with_space if self._text.endswith(" ") else constraints.has_gap

    def _last_words(self, allowed: NDArray[np.bool_], ends: list[int]) -> NDArray[np.bool_]:
        """Tokens that bring a caption to its end, as far as there are any."""
        if ends:
            only = np.zeros_like(allowed)
            only[ends] = True
            return only
        stops = allowed & self._constraints.ends_sentence
        if stops.any():
            return stops
        words = allowed & self._constraints.is_word
        return words if words.any() else allowed & ~self._begins_event()
