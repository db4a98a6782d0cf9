"""An answer as a stream of text."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from timechat.answers.events import Answer


class AnswerStream(Iterator[str]):
    """Iterator over the pieces of text as they are written; `.answer` is the whole answer.

    The model starts when the first piece is requested, in a thread of its own. An error of the model is raised in the
    thread that iterates or reads the answer. `close()` stops the model early.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        write: Callable[..., str],
        read: Callable[[str], Answer],
    ) -> None:
        """Prepare a stream.

        Args:
            tokenizer: Tokenizer that turns tokens into pieces of text.
            write: Function that writes the whole answer, given `streamer` and `stopping_criteria` for `generate`.
            read: Function that turns the whole text into an `Answer`.
        """
        self._pieces = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
        self._stop = _StopOnSignal()
        self._write, self._read = write, read
        self._thread: threading.Thread | None = None
        self._text = ""
        self._error: BaseException | None = None
        self._has_begun = self._has_ended = False

    def __next__(self) -> str:
        try:
            while not self._has_ended:
                self._start()
                piece: str | None = next(self._pieces, None)
                if piece is None:
                    break
                piece = piece if self._has_begun else piece.lstrip()
                if piece:
                    self._has_begun = True
                    return piece
        except BaseException:
            self.close()
            raise
        self.close()
        if self._error is not None:
            raise self._error
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The answer; waits until it is written, or takes the text so far if the stream was closed."""
        for _ in self:
            pass
        return self._read(self._text)

    def close(self) -> None:
        """Stop the model after its next token."""
        self._has_ended = self._stop.is_set = True
        if self._thread is not None:
            self._thread.join()

    def __del__(self) -> None:
        self._stop.is_set = True

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="timechat-answer", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            self._text = self._write(streamer=self._pieces, stopping_criteria=StoppingCriteriaList([self._stop]))
        except BaseException as error:
            self._error = error
            self._pieces.end()


class _StopOnSignal(StoppingCriteria):  # type: ignore[misc]
    """Stopping criterion that ends generation at the next token once `is_set` is True."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.is_set, device=input_ids.device)
