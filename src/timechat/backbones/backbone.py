"""The `Backbone` protocol: what the time engine needs of a video language model, wherever the model runs.

The engine plans windows, reads frames with their true times, parses answers, merges and scores events. A backbone
encodes the frames of one window, builds prompts, generates texts with the log probabilities of their tokens, and says
how likely given words are. It never reads a video and never computes the time of a frame.

Times are seconds on the clock of the window. What a backbone keeps of the frames of a window (`EncodedVideo.content`)
and its prompts are values of its own, which the engine passes on without a look inside.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Event
from timechat.answers.forms import AnswerForm
from timechat.answers.merging import Scoring
from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import DecodingOptions
from timechat.answers.token_evidence import Token
from timechat.answers.windows import Window
from timechat.video import Frames
from timechat.video.frames import FrameSize
from timechat.video.sampling import FrameSampling

Check = Callable[[], object]
"""Function that raises if the result is no longer needed; called repeatedly, from any thread."""

_POLL_SECONDS = 0.1  # between two calls of `check` while `acquire` waits

Tensors = Mapping[str, Any]
"""Tensors by their names; this module does not import torch."""

Facts = Literal["frames", "video", "answer"]
"""What facts are about: encoded frames before the part of the model that joins them, an encoded window, or answers."""


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """Properties of a backbone that decide how the engine reads a video and judges answers.

    Attributes:
        rate: Frame rate in a window, and the maximum number of its frames; without a rate, the model spreads a fixed
            number of frames.
        num_frames: Number of frames of a window without a frame rate.
        window_seconds: Length of a window in seconds of the window's clock.
        preset: Name of the prompt preset that the model was made for.
        context: Maximum number of tokens of prompt and answer; None if it is not known.
        score_calibration: Fitted weights of the scores, see `TimeChatConfig`; empty without a fit.
        found_threshold: Minimum score of a moment that counts as found.
        lowercase_queries: Whether the model reads queries in lower case.
        domain: Description of the videos that the model was trained on, see `model.domain`; None without one.
        is_remote: Whether a server answers, so that a trial costs a request.
        privacy_note: Sentence that says what leaves this machine and where it goes; None if nothing does.
        frame_size: Size to which frames are decoded; None if it depends on the video.
    """

    rate: FrameSampling
    num_frames: int
    window_seconds: float
    preset: str = DEFAULT_PRESET
    context: int | None = None
    score_calibration: Mapping[str, Any] = field(default_factory=dict)
    found_threshold: float = 0.0
    lowercase_queries: bool = False
    domain: dict[str, Any] | None = None
    is_remote: bool = False
    privacy_note: str | None = None
    frame_size: FrameSize | None = None

    @property
    def scoring(self) -> Scoring:
        """How evidence becomes scores, and which score counts as found."""
        return Scoring.fitted(self.score_calibration, self.found_threshold)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "BackboneConfig":
        """Read the output of `dataclasses.asdict`, also after JSON."""
        size, rate = content["frame_size"], FrameSampling(**content["rate"])
        return cls(**{**content, "rate": rate, "frame_size": None if size is None else FrameSize(**size)})

    def default_sampling(self) -> dict[str, Any]:
        """Return the default frame sampling, as arguments of `load_frames`."""
        if self.rate.fps is None:
            return {"num_frames": self.num_frames}
        return {"fps": self.rate.fps, "max_frames": self.rate.max_frames}


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video, or one window of a long one, as its backbone reads it; it can be asked any number of times.

    Attributes:
        content: What the backbone keeps of the frames. For TimeChat: the video tokens, `(video tokens, text hidden)`,
            on the model's device.
        timestamps: `(frames,)` float64 seconds of the encoded frames; those of a window are on the window's clock.
        duration: Duration in seconds; that of a window is on the window's clock.
        name: Path or address of the video; None for ready-made frames without one.
        notes: Sentences for readers of the answers, such as the number of damaged frames.
        model: Name of the model that encoded the video; other models cannot read its content.
        window: Window of the video that was encoded; None for a whole video.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames.
        window_number: Number of the window in the plan of its video, from 0, which is added to the seed of sampling.
    """

    content: Any = field(repr=False)
    timestamps: NDArray[np.float64] = field(repr=False)
    duration: float
    name: str | None = None
    notes: tuple[str, ...] = ()
    model: str | None = None
    window: Window | None = None
    player_offset: float = 0.0
    window_number: int = 0

    def __post_init__(self) -> None:
        timestamps = np.array(self.timestamps, dtype=np.float64)
        timestamps.setflags(write=False)
        object.__setattr__(self, "timestamps", timestamps)

    @property
    def num_frames(self) -> int:
        """Number of encoded frames."""
        return len(self.timestamps)

    @property
    def span(self) -> Window:
        """The window that was encoded; for a whole video, the window that covers it."""
        return self.window or Window(0.0, self.duration)

    @property
    def frame_interval(self) -> float | None:
        """Mean seconds of video between frames; None for a single frame."""
        if self.num_frames < 2:
            return None
        return float(self.timestamps[-1] - self.timestamps[0]) / (self.num_frames - 1) * self.span.time_scale


@dataclass(frozen=True, slots=True)
class Question:
    """The words of a prompt.

    Attributes:
        text: Question about the video.
        history: Earlier (question, answer) pairs of the conversation.
        system: System prompt; None takes the model's own, if it has one.
    """

    text: str
    history: Sequence[tuple[str, str]] = ()
    system: str | None = None


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A text that a backbone wrote.

    Attributes:
        text: Text, without thoughts and without marks of the chat.
        tokens: Tokens of the text in order, with their log probabilities; empty if the backbone gives none.
        num_prompt_tokens: Number of tokens of the prompt; 0 if it is not known.
        num_tokens: Number of tokens of the answer, the end token included; 0 if it is not known.
        notes: Sentences for readers of the answer, such as a missing ability of a server.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowCost:
    """Work of one window, or the sum of several.

    Attributes:
        seconds: Approximate seconds of encoding and answering.
        requests: Number of requests to a server.
        prompt_tokens: Number of tokens of the prompt; None if it is not known.
        answer_tokens: Usual number of tokens of the answer.
        num_bytes: Number of bytes that leave this machine.
    """

    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: int | None = None
    answer_tokens: int = 0
    num_bytes: int = 0

    def __mul__(self, times: int) -> "WindowCost":
        prompt_tokens = None if self.prompt_tokens is None else self.prompt_tokens * times
        return WindowCost(
            self.seconds * times,
            self.requests * times,
            prompt_tokens,
            self.answer_tokens * times,
            self.num_bytes * times,
        )


class FrameCache(Protocol):
    """Place on disk for what a backbone computes of the frames of one window before it joins them."""

    def load(self) -> Tensors | None:
        """Return the tensors; None if they are not there."""

    def save(self, tensors: Tensors) -> None:
        """Keep the tensors."""


class Backbone(Protocol):
    """A video language model for the time engine.

    Attributes:
        name: Name of the model: `nano`, a folder, a hub id, or the name that a server gives it.
    """

    name: str

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of every answer, such as untrained weights."""

    @property
    def config(self) -> BackboneConfig:
        """Properties that decide how a video is read."""

    @property
    def check(self) -> Check:
        """Function that raises if the results are no longer needed."""

    def with_check(self, check: Check) -> Self:
        """Return the same backbone for one request, whose work ends when `check` raises."""

    def close(self) -> None:
        """Release connections and threads; the backbone is not used afterwards."""

    def frame_size(self, height: int, width: int) -> FrameSize:
        """Return the size to which frames of a video of this displayed size are decoded."""

    def encode(
        self,
        frames: Frames,
        *,
        frame_cache: FrameCache | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Any, tuple[str, ...]]:
        """Encode the frames of one window, each with its time.

        Args:
            frames: Frames of `frame_size` with times on the clock of the window.
            frame_cache: Place on disk for parts of the result that depend on the frames only.
            progress: Callback for the number of encoded frames and the number of all frames.

        Returns:
            The content of an `EncodedVideo`, and notes about it.
        """

    def pack(self, content: Any) -> Tensors | None:
        """Return the content of a window as tensors for the disk; None if it is not worth the space."""

    def unpack(self, tensors: Tensors) -> Any:
        """Return the content of a window from its tensors."""

    def prompt(self, video: EncodedVideo, question: Question, max_new_tokens: int) -> Any:
        """Build the prompt of a question about a window.

        Raises:
            PromptTooLongError: Prompt and answer do not fit into the model.
        """

    def generate(
        self,
        prompts: Sequence[Any],
        forms: Sequence[AnswerForm | None],
        decoding: DecodingOptions,
        *,
        window_numbers: Sequence[int] = (),
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[GeneratedText]:
        """Answer prompts; each answer is independent of the others.

        Args:
            prompts: Prompts about one video or several.
            forms: Form of each answer; None for a free answer.
            decoding: Decoding options of all answers.
            window_numbers: Number of each prompt's window in the plan of its video, which is added to the seed. Empty
                if all are 0.
            on_text: Callback for the pieces of the text while it is written; for a single prompt only.
            should_stop: Function that ends the answer after the next token when it returns True; for a single prompt.
        """

    def verify(self, videos: Sequence[EncodedVideo], events: Sequence[Event], *, preset: str) -> list[float] | None:
        """Return how much more likely each caption is at its time with the video than without, in nats.

        Args:
            videos: One window for each event.
            events: Events on the clocks of their windows, with the captions to verify.
            preset: Name of the prompt preset in which captions are asked for.

        Returns:
            One value for each event; None if the backbone cannot tell.
        """

    def measure(
        self,
        frames: Frames,
        duration: float,
        question: Question,
        form: AnswerForm | None,
        decoding: DecodingOptions,
        typical_tokens: int,
    ) -> WindowCost:
        """Estimate the work of one window by a short trial.

        Args:
            frames: Frames of the window, with times on its clock.
            duration: Duration of the window in seconds.
            question: Words of the prompt.
            form: Form of the answer.
            decoding: Decoding options of the answer.
            typical_tokens: Number of tokens of a usual answer.
        """

    def facts(self, kind: Facts) -> dict[str, Any]:
        """Return everything that results of this kind depend on, ready for `cache_key`."""

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Count an answer of `num_tokens` tokens that is reused from the cache, and its prompt."""


@contextmanager
def acquire(lock: "threading.Lock | threading.RLock", check: Check) -> Iterator[None]:
    """Hold a lock; while another thread holds it, `check` is called several times a second and may raise."""
    while not lock.acquire(timeout=_POLL_SECONDS):
        check()
    try:
        yield
    finally:
        lock.release()
