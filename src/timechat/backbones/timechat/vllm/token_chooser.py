"""The tokens of answers in vLLM's process: chosen by the same code as in the engine of TimeChat.

The logits processor replaces the scores of a row by those of one token. So a grammar with its numbers, a sampled
answer, a repetition penalty and a minimum length give the tokens that TimeChat's own engine gives. A greedy answer
without any of them needs no processor.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from timechat.answers.grammar import AnswerGrammar
from timechat.answers.grammar_facts import grammar_facts, grammar_from_facts
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.vllm.folder import FACTS_FILE
from timechat.model.generation.choosing import choose_tokens
from timechat.model.generation.generate import Sampler
from timechat.model.generation.grammar_state import GrammarCompiler, GrammarState
from timechat.model.processing import turn_end

ARGUMENT = "timechat"
"""Name of the request's argument with the facts of its answer."""

logger = logging.getLogger(__name__)


def answer_arguments(
    decoding: DecodingOptions, grammar: AnswerGrammar | None, *, needs_turn_end: bool = False
) -> dict[str, str] | None:
    """Return the extra arguments of a request to vLLM; None if the most likely token is the right one at every step.

    Args:
        decoding: Decoding options of the answer.
        grammar: Grammar of the answer; None for an unconstrained answer.
        needs_turn_end: Whether the end of an answer is found in its text, because the model has no end token for it.
    """
    is_plain = not decoding.do_sample and decoding.repetition_penalty == 1.0 and not decoding.min_new_tokens
    if is_plain and grammar is None and not needs_turn_end:
        return None
    facts = {"decoding": asdict(decoding), "grammar": None if grammar is None else grammar_facts(grammar)}
    return {ARGUMENT: json.dumps(facts)}


def check_arguments(arguments: Mapping[str, Any] | None) -> str | None:
    """Return the facts of an answer from the extra arguments of a request; None without them.

    Raises:
        ValueError: They cannot be read.
    """
    text = (arguments or {}).get(ARGUMENT)
    if text is None:
        return None
    try:
        facts = json.loads(text)
        DecodingOptions(**facts["decoding"])
        if facts["grammar"] is not None:
            grammar_from_facts(facts["grammar"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{ARGUMENT} must be the JSON text of `answer_arguments`, got {text!r:.80} ({error})"
        ) from error
    return str(text)


@dataclass(eq=False)
class ChosenRow:
    """One answer, as `AnswerRow` has it.

    Attributes:
        decoding: Decoding options.
        grammar: Grammar of the answer; None for an unconstrained answer.
    """

    decoding: DecodingOptions
    grammar: AnswerGrammar | None
    constraint: GrammarState | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_finished: bool = False
    error: ValueError | None = None
    sampler: Sampler | None = None
    allowed: list[float] | None = None

    @property
    def tokens_left(self) -> int:
        """Maximum number of tokens that follow the generated ones."""
        return self.decoding.max_new_tokens - len(self.token_ids)


class TokenChooser:
    """Chooses tokens for the rows of a batch; no error of a row leaves it.

    A row with an error is answered with the end token. The process that sent the request finds the error by reading the
    answer again.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Read what the exported folder says about the model.

        Args:
            folder: Folder of the language model, with its tokenizer.
            device: Device of the scores, on which samplers draw.
        """
        self._facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        self._folder, self._device = folder, device
        self.end_token_ids: list[int] = self._facts["eos_token_ids"]

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(str(self._folder), trust_remote_code=False)

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self._tokenizer, self._facts["vocab_size"], self.end_token_ids, check_schemas=False)

    @cached_property
    def _ends_turn(self) -> Any:
        return turn_end(self._tokenizer, self._facts["chat_style"])

    def start(self, arguments: Mapping[str, Any] | None) -> ChosenRow | None:
        """Return the row of a new request; None if its tokens are left to vLLM."""
        try:
            text = check_arguments(arguments)
            if text is None:
                return None
            facts = json.loads(text)
            grammar = None if facts["grammar"] is None else grammar_from_facts(facts["grammar"])
            row = ChosenRow(DecodingOptions(**facts["decoding"]), grammar)
            self._restart(row, [])
        except Exception as error:  # an exception would end the engine for all requests
            logger.exception("the facts of an answer cannot be used")
            return ChosenRow(DecodingOptions(), None, error=ValueError(str(error)))
        return row

    def choose(self, rows: Sequence[tuple[ChosenRow, Sequence[int]]], logits: Tensor) -> list[int]:
        """Return the next token of each row.

        Args:
            rows: Rows with the tokens of their answers so far.
            logits: `(rows, vocab)`; not changed.
        """
        for row, token_ids in rows:
            self._follow(row, token_ids)
        tokens = [self.end_token_ids[0]] * len(rows)
        open_rows = [i for i, (row, _) in enumerate(rows) if row.error is None and not row.is_finished]
        if not open_rows:
            return tokens
        try:
            self._choose([rows[i][0] for i in open_rows], logits[open_rows])
        except Exception:  # one row must not end the others
            logger.exception("a step of constrained answers failed; each row is tried alone")
            for i in open_rows:
                row, token_ids = rows[i]
                try:
                    self._restart(row, token_ids)
                    self._choose([row], logits[i : i + 1])
                except Exception as error:
                    row.error = ValueError(str(error))
        for i in open_rows:
            row = rows[i][0]
            if row.error is None:
                tokens[i] = row.token_ids[-1]
        return tokens

    def force(self, rows: Mapping[int, tuple[ChosenRow, Sequence[int]]], logits: Tensor) -> Tensor:
        """Leave one token to each row of a batch that this class chooses for, in place.

        Args:
            rows: Rows with the tokens of their answers so far, by their places in the batch.
            logits: `(batch, vocab)`.
        """
        present = [place for place in sorted(rows) if place < logits.shape[0]]
        if present:
            places = torch.tensor(present, device=logits.device)
            tokens = self.choose([rows[place] for place in present], logits.index_select(0, places))
            logits[places] = float("-inf")
            logits[places, torch.tensor(tokens, device=logits.device)] = 0.0
        return logits

    def _choose(self, rows: Sequence[ChosenRow], logits: Tensor) -> None:
        choose_tokens(rows, logits, self.end_token_ids, self._ends_turn)

    def _follow(self, row: ChosenRow, token_ids: Sequence[int]) -> None:
        """Bring a row to the tokens that vLLM keeps: it drops the token of a step that is computed again."""
        if row.error is not None or row.token_ids == list(token_ids):
            return
        try:
            self._restart(row, token_ids)
        except Exception as error:
            row.error = ValueError(str(error))

    def _restart(self, row: ChosenRow, token_ids: Sequence[int]) -> None:
        """Set a row to the state after the tokens of an answer."""
        row.token_ids, row.logprobs, row.is_finished = list(token_ids), [0.0] * len(token_ids), False
        row.constraint = None if row.grammar is None else self._compiler.state(row.grammar)
        row.sampler = None
        if row.decoding.do_sample and token_ids:
            row.sampler = Sampler(row.decoding, self._device)
            row.sampler.skip(len(token_ids), self._facts["vocab_size"])
        for token in token_ids:
            if row.constraint is not None and not row.constraint.is_finished:
                row.constraint.accept_token(token)
        row.is_finished = bool(token_ids) and token_ids[-1] in self.end_token_ids
        row.is_finished |= row.constraint is not None and row.constraint.is_finished
        row.is_finished |= self._ends_turn is not None and self._ends_turn(token_ids)
