"""The state of one request that all its threads share: cancellation, deadline and token counts."""

import time
from dataclasses import dataclass

from timechat.backbones.backbone import GeneratedText
from timechat.errors import TimeChatError
from timechat.serving.errors import CancelledRequestError, DeadlineError


@dataclass(eq=False)
class RequestContext:
    """One request: cancellation, deadline and token counts.

    Attributes:
        deadline: Time on the clock of `time.monotonic` after which the request ends; None for no limit.
        prompt_tokens: Number of prompt tokens.
        cached_tokens: Number of prompt tokens that were not read again: their states or the answer were cached.
        written_tokens: Number of generated tokens.
        reached_length_limit: Whether an answer ended at its maximum number of tokens.
        is_stream: Whether the client reads the answer as a stream of events.
        client: Name of the client, which keeps its cached prompts apart from those of others; empty without keys.
        adapter: Name of the LoRA adapter that writes the answers; empty for none.
        texts: Texts of the model with their tokens, in order; None if they are not kept.
    """

    deadline: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    reached_length_limit: bool = False
    is_stream: bool = False
    client: str = ""
    adapter: str = ""
    texts: list[GeneratedText] | None = None
    _error: TimeChatError | None = None

    def cancel(self, error: TimeChatError | None = None) -> None:
        """Cancel the request: its running work ends within one step of the model and raises the error."""
        self._error = self._error or error or CancelledRequestError("the request was cancelled")

    def check(self) -> None:
        """Raise if the request was cancelled or its deadline has passed.

        Raises:
            CancelledRequestError: The request was cancelled.
            DeadlineError: The deadline has passed.
        """
        if self._error is None and self.deadline is not None and time.monotonic() > self.deadline:
            self._error = DeadlineError("the request took longer than this server allows; ask about less of the video")
        if self._error is not None:
            raise self._error

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, max_new_tokens: int) -> None:
        """Count the tokens of an answer from the cache, and those of its prompt as cached."""
        self.prompt_tokens += num_prompt_tokens
        self.cached_tokens += num_prompt_tokens
        self.written_tokens += num_tokens
        self.reached_length_limit |= num_tokens >= max_new_tokens

    @property
    def is_over(self) -> bool:
        """Whether the request was cancelled or its deadline has passed."""
        try:
            self.check()
        except TimeChatError:
            return True
        return False

    @property
    def error(self) -> TimeChatError:
        """The error that ended the request."""
        return self._error or CancelledRequestError("the request was cancelled")
