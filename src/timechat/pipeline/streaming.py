"""An answer as a stream of text."""

import queue
import threading
from collections.abc import Callable, Iterator

from timechat.answers.events import Answer


class AnswerStream(Iterator[str]):
    """Iterator over the pieces of text as they are written; `.answer` is the whole answer.

    The model starts when the first piece is requested, in a thread of its own. An error of the model is raised in the
    thread that iterates or reads the answer. `close()` stops the model early.
    """

    def __init__(self, write: Callable[..., str], read: Callable[[str], Answer]) -> None:
        """Prepare a stream.

        Args:
            write: Function that writes the whole answer, given `on_text` and `should_stop` of `Backbone.generate`.
            read: Function that turns the whole text into an `Answer`.
        """
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._write, self._read = write, read
        self._thread: threading.Thread | None = None
        self._text = ""
        self._error: BaseException | None = None
        self._has_begun = self._has_ended = False

    def __next__(self) -> str:
        try:
            while not self._has_ended:
                self._start()
                piece = self._pieces.get()
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
        self._has_ended = True
        if self._thread is not None:
            self._thread.join()

    def __del__(self) -> None:
        self._has_ended = True

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="timechat-answer", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            self._text = self._write(on_text=self._pieces.put, should_stop=lambda: self._has_ended)
        except BaseException as error:
            self._error = error
        finally:
            self._pieces.put(None)
