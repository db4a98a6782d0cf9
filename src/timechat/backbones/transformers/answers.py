"""Text of an answer from its tokens: without thoughts and marks of the chat, whole or while it is written."""

from collections.abc import Callable, Sequence
from functools import partial

from transformers import PreTrainedTokenizerBase

from timechat.answers.answer_text import range_without_thoughts
from timechat.answers.token_evidence import Token
from timechat.model.generation.generate import decoded_spans


def read_answer(
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    allowed: Sequence[float] = (),
) -> tuple[str, tuple[Token, ...]]:
    """Return the text of an answer without thoughts, and its tokens with their characters in it.

    Args:
        tokenizer: Tokenizer of the model.
        token_ids: Tokens of the answer.
        logprobs: Log probability of each token.
        allowed: Log probability of all tokens that the form allowed at the place of each token; empty without a form.
    """
    text, spans = decoded_spans(partial(tokenizer.decode, skip_special_tokens=True), token_ids)
    first, end = range_without_thoughts(text)
    of_form: Sequence[float | None] = allowed or [None] * len(spans)
    first += len(text[first:end]) - len(text[first:end].lstrip())
    answer = text[first:end].strip()
    last = first + len(answer)
    tokens = [
        Token(max(start, first) - first, min(stop, last) - first, logprob, mass)
        for (start, stop), logprob, mass in zip(spans, logprobs, of_form, strict=True)
        if (first == 0 or stop > first) and (start < last or last == len(text))
    ]
    return answer, tuple(tokens)


class TextStream:
    """Passes on the pieces of an answer while it is written; together they are its text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], object]) -> None:
        """Make a stream.

        Args:
            tokenizer: Tokenizer of the model.
            on_text: Callback for the pieces.
        """
        self._tokenizer, self._on_text = tokenizer, on_text
        self._sent = ""

    def put(self, token_ids: Sequence[int]) -> None:
        """Take the tokens so far, and pass on the text that later tokens cannot change."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        first, end = range_without_thoughts(text)
        stable = text[first:end].strip().rstrip("\ufffd")
        mark = stable.rfind("<")
        if mark >= 0 and len(stable) - mark < len("</thinking>"):  # it may be the start of a thought
            stable = stable[:mark]
        self._send(stable.rstrip())

    def finish(self, text: str) -> None:
        """Pass on the rest of the whole text."""
        self._send(text)

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent) and text.startswith(self._sent):
            piece, self._sent = text[len(self._sent) :], text
            self._on_text(piece)
