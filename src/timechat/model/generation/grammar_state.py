"""Constrained decoding: llguidance checks the text, the answer grammar itself checks the numbers."""

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
from timechat.model.generation.schema_check import SchemaChecker, compile_schema

_NEGLIGIBLE = -12.0  # log probability; a thousand such tokens have a probability of less than 1 %
_KEPT_GRAMMARS = 32  # compiled grammars in memory; each answer starts from a copy


class GrammarCompiler:
    """Compiles grammars for the vocabulary of one model; one instance per model, since the preparation takes time."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        *,
        check_schemas: bool = True,
    ) -> None:
        """Create a compiler without compiled grammars.

        Args:
            tokenizer: Tokenizer of the language model.
            vocab_size: Number of ids for which the model computes scores; the tokenizer may have more.
            eos_token_ids: Token ids that end an answer.
            check_schemas: Whether another process compiles each JSON schema first, with limits of time and memory.
        """
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(eos_token_ids)
        self._matchers: dict[str, LLMatcher] = {}
        self._lock = threading.Lock()
        self._with_sign: dict[str, NDArray[np.bool_]] = {}
        self._check_schemas = check_schemas
        self._schemas: SchemaChecker | None = None  # made for the first schema
        self._compiling = threading.Lock()  # of JSON schemas, one at a time: each may use much memory

    def state(self, grammar: AnswerGrammar) -> "GrammarState":
        """Return the initial state for one answer."""
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
        if grammar.is_json:
            if self._check_schemas:
                with self._lock:
                    self._schemas = schemas = self._schemas or SchemaChecker()
                schemas.check(grammar.grammar)
            with self._compiling:
                return compile_schema(self.engine, grammar.grammar)
        matcher = LLMatcher(self.engine, LLMatcher.grammar_from_lark(grammar.grammar), log_level=0)
        if problem := matcher.get_error():
            raise RuntimeError(f"llguidance refuses the grammar of this task: {problem}")
        return matcher

    def close(self) -> None:
        """End the process that checks JSON schemas; a later schema starts it again."""
        if self._schemas is not None:
            self._schemas.close()

    def logits_processor(
        self, grammars: Sequence[AnswerGrammar | None], max_new_tokens: int, num_beams: int = 1
    ) -> LogitsProcessor:
        """Return a logits processor for `generate`.

        Args:
            grammars: Grammar of each prompt; None leaves an answer unconstrained.
            max_new_tokens: Maximum number of tokens of an answer; constrained answers end before it.
            num_beams: Number of rows of each prompt: beams of a search.
        """
        if num_beams > 1:
            return BeamGrammarLogitsProcessor(self, grammars, max_new_tokens, num_beams)
        return GrammarLogitsProcessor(self, grammars, max_new_tokens)

    @cached_property
    def engine(self) -> LLTokenizer:
        """The vocabulary in the form of llguidance."""
        # A tokenizer may have ids, such as the video placeholder, for which the model has no scores.
        size = max(self.vocab_size, len(self._tokenizer))
        return llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=size, eos_token=list(self.eos_token_ids))

    @cached_property
    def texts(self) -> list[str]:
        """Text of each id."""
        return [self.engine.decode_bytes([i]).decode("utf-8", "replace") for i in range(self.vocab_size)]

    @cached_property
    def has_gap(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether the text of an id contains two spaces, the separator of events."""
        return np.array(["  " in text for text in self.texts])

    @cached_property
    def begins_with_space(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether the text of an id starts with a space."""
        return np.array([text.startswith(" ") for text in self.texts])

    def tokens_with(self, sign: str) -> NDArray[np.bool_]:
        """Return the mask `(vocab_size,)` of the ids whose text contains a sign."""
        if sign not in self._with_sign:
            self._with_sign[sign] = np.array([sign in text for text in self.texts])
        return self._with_sign[sign]

    @cached_property
    def is_word(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether the text of an id has only letters, so that a sentence may end after it."""
        return np.array([text.isascii() and text.isalpha() for text in self.texts])

    @cached_property
    def ends_sentence(self) -> NDArray[np.bool_]:
        """`(vocab_size,)`: whether an id ends a sentence."""
        return np.array([text in (".", "!", "?") for text in self.texts])


class GrammarLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Masks the tokens that no grammar of a row allows; the scores of allowed tokens do not change."""

    def __init__(
        self, compiler: GrammarCompiler, grammars: Sequence[AnswerGrammar | None], max_new_tokens: int
    ) -> None:
        self._max_new_tokens = max_new_tokens
        self._rows = [None if grammar is None else compiler.state(grammar) for grammar in grammars]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask scores `(batch, vocab)`; `input_ids` `(batch, generated)` holds only the generated tokens."""
        num_generated = input_ids.shape[1]
        allowed = np.ones(scores.shape, dtype=bool)
        for i, row in enumerate(self._rows):
            if row is None or row.is_finished:
                continue
            if num_generated:
                row.accept_token(int(input_ids[i, -1]))
            if not row.is_finished:
                allowed[i] = row.allowed_tokens(self._max_new_tokens - num_generated)
        return scores.masked_fill(torch.from_numpy(~allowed).to(scores.device), float("-inf"))


class BeamGrammarLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Masks tokens as `GrammarLogitsProcessor` does, in a beam search, which repeats, reorders and drops rows.

    The state of a row is found by the tokens of the row, and a state that several rows continue is copied.
    """

    def __init__(
        self,
        compiler: GrammarCompiler,
        grammars: Sequence[AnswerGrammar | None],
        max_new_tokens: int,
        num_beams: int,
    ) -> None:
        self._max_new_tokens, self._num_beams = max_new_tokens, num_beams
        # For each prompt, the states of the last step by the tokens of the row, each with its mask of the next token.
        self._known: list[dict[tuple[int, ...], tuple[GrammarState, NDArray[np.bool_]]]] = [{} for _ in grammars]
        self._starts = [None if grammar is None else compiler.state(grammar) for grammar in grammars]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask scores `(prompts * num_beams, vocab)`; `input_ids` `(rows, generated)` holds the generated tokens."""
        tokens_left = self._max_new_tokens - input_ids.shape[1]
        allowed = np.ones(scores.shape, dtype=bool)
        rows = [tuple(ids) for ids in input_ids.tolist()]
        for i, start in enumerate(self._starts):
            if start is None:
                continue
            known, self._known[i] = self._known[i], {}
            for row in range(i * self._num_beams, (i + 1) * self._num_beams):
                ids = rows[row]
                if ids not in self._known[i] and (state := self._continued(start, known, ids)) is not None:
                    self._known[i][ids] = state, state.allowed_tokens(tokens_left)
                # A row without a state has left the grammar, which happens only at the score -inf; it stays there.
                allowed[row] = self._known[i][ids][1] if ids in self._known[i] else False
        return scores.masked_fill(torch.from_numpy(~allowed).to(scores.device), float("-inf"))

    @staticmethod
    def _continued(
        start: "GrammarState",
        known: dict[tuple[int, ...], tuple["GrammarState", NDArray[np.bool_]]],
        ids: tuple[int, ...],
    ) -> "GrammarState | None":
        """Return the state after tokens that continue a known row; None if the grammar does not allow the last one."""
        if not ids:
            return start
        before = known.get(ids[:-1])
        if before is None or not before[1][ids[-1]]:
            return None
        state = before[0].copy()
        state.accept_token(ids[-1])
        return None if state.is_finished else state


class GrammarState:
    """State of one answer in its grammar: the tokens that may come next."""

    def __init__(self, compiler: GrammarCompiler, grammar: AnswerGrammar, matcher: LLMatcher) -> None:
        """Start an answer; called by `GrammarCompiler.state`."""
        self._compiler, self._grammar, self._matcher = compiler, grammar, matcher
        self._ids: list[int] = []
        self._text = ""
        self.is_finished = False

    def copy(self) -> "GrammarState":
        """Return an independent copy."""
        copied = GrammarState(self._compiler, self._grammar, self._matcher.deep_copy())
        copied._ids, copied._text, copied.is_finished = list(self._ids), self._text, self.is_finished
        return copied

    def accept_token(self, token: int) -> None:
        """Advance the state by the chosen token.

        Raises:
            ValueError: The grammar is too large to be enforced.
        """
        self.is_finished = token in self._compiler.eos_token_ids or not self._matcher.consume_token(token)
        self._check()
        self._ids.append(token)
        self._text = self._compiler.engine.decode_bytes(self._ids).decode("utf-8", "ignore").removeprefix(" ")

    def allowed_tokens(self, tokens_left: int) -> NDArray[np.bool_]:
        """Return the mask of the next tokens, `(vocab,)`; the end tokens if no other token is allowed.

        Raises:
            ValueError: The grammar is too large to be enforced.
        """
        allowed, doubtful = self._candidates(tokens_left)
        for token in np.flatnonzero(doubtful):
            allowed[token] = self._fits(int(token), tokens_left)
        return self._or_end(allowed)

    def allowed_logprob(self, logprobs: NDArray[np.float32], tokens_left: int) -> float:
        """Return the log probability that the next token is an allowed one; `logprobs` is `(vocab,)`.

        Numbers are checked only in tokens that are likely enough to count; the others are taken as not allowed.
        """
        allowed, doubtful = self._candidates(tokens_left)
        allowed &= ~doubtful | (logprobs > _NEGLIGIBLE)
        for token in np.flatnonzero(doubtful & allowed):
            allowed[token] = self._fits(int(token), tokens_left)
        return float(np.logaddexp.reduce(logprobs[self._or_end(allowed)]))

    def most_likely_token(self, scores: NDArray[np.float32], tokens_left: int) -> int:
        """Return the allowed token with the highest score; `scores` is `(vocab,)`.

        Numbers are checked in the order of their scores until one fits: usually one or two, while `allowed_tokens`
        checks all.
        """
        allowed, doubtful = self._candidates(tokens_left)
        scores = np.where(allowed, scores, -np.inf)
        while allowed.any():
            token = int(scores.argmax())
            if not allowed[token]:  # every allowed token has the score -inf
                token = int(allowed.argmax())
            if not doubtful[token] or self._fits(token, tokens_left):
                return token
            allowed[token], scores[token] = False, -np.inf
        return self._compiler.eos_token_ids[0]

    def _candidates(self, tokens_left: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return two masks, `(vocab,)` each: allowed by the grammar, and with numbers that must be checked."""
        compiler = self._compiler
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, bitorder="little")[: compiler.vocab_size].astype(bool)
        none = np.zeros_like(allowed)
        if self._grammar.allows is None:
            return allowed, none
        ends = [token for token in compiler.eos_token_ids if allowed[token]]
        turn = self._grammar.turn(self._text, tokens_left)
        if turn == "last words":
            return self._last_words(allowed, ends, tokens_left), none
        doubtful = allowed.copy() if turn == "numbers" else allowed & self._leaves_caption()
        doubtful[ends] = False
        return allowed, doubtful

    def _check(self) -> None:
        if problem := self._matcher.get_error():
            raise ValueError(f"the grammar of the answer is too large to be enforced: {problem.splitlines()[0][:200]}")

    def _fits(self, token: int, tokens_left: int) -> bool:
        """Whether the numbers of the answer are valid with this token."""
        assert self._grammar.allows is not None
        return self._grammar.allows(self._after(token), tokens_left - 1)

    def _or_end(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask, with the end tokens set if it is empty."""
        if not allowed.any():
            allowed[list(self._compiler.eos_token_ids)] = True
        return allowed

    def _after(self, token: int) -> str:
        """Return the answer with one more token, without a leading space."""
        text = self._text + self._compiler.texts[token]
        return text if self._ids else text.removeprefix(" ")

    def _leaves_caption(self) -> NDArray[np.bool_]:
        """Return the mask of tokens that start a new event, or that close the caption."""
        compiler, marks = self._compiler, self._grammar.captions
        if marks is not None and marks.closing:
            return compiler.tokens_with(marks.closing)
        return compiler.has_gap | compiler.begins_with_space if self._text.endswith(" ") else compiler.has_gap

    def _last_words(self, allowed: NDArray[np.bool_], ends: list[int], tokens_left: int) -> NDArray[np.bool_]:
        """Return the mask of tokens that end a caption, if there are any."""
        marks = self._grammar.captions
        if marks is not None and marks.closing:
            closing = allowed & self._compiler.tokens_with(marks.closing)
            for token in np.flatnonzero(closing):
                closing[token] = self._compiler.texts[token].startswith(marks.closing) and self._fits(
                    int(token), tokens_left
                )
            return closing if closing.any() else allowed  # within a character that several tokens write
        if ends:
            only = np.zeros_like(allowed)
            only[ends] = True
            return only
        stops = allowed & self._compiler.ends_sentence
        if stops.any():
            return stops
        words = allowed & self._compiler.is_word
        return words if words.any() else allowed & ~self._leaves_caption()
