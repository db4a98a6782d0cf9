"""`EndpointBackbone`: the model of an OpenAI-compatible server as a backbone of the time engine.

The content of a window is its JPEG pictures with their times, encoded once. Each prompt is one request; the requests of
several windows run at the same time, within the limits of the client. A request that the server refuses as too large is
sent again with smaller pictures, then with fewer ones; what was learned holds for all later windows.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from timechat.answers.events import Event
from timechat.answers.forms import FORM_VERSION, AnswerForm
from timechat.answers.presets import PRESETS, preset_for
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import (
    BackboneConfig,
    Check,
    EncodedVideo,
    Facts,
    FrameCache,
    GeneratedText,
    Question,
    Tensors,
    WindowCost,
)
from timechat.backbones.endpoint.abilities import (
    CompletionRequest,
    complete,
    complete_streamed,
    known_abilities,
    refused_fixed,
    request_body,
)
from timechat.backbones.endpoint.address import ApiKey, EndpointAddress
from timechat.backbones.endpoint.answers import Completion
from timechat.backbones.endpoint.client import EndpointClient, encode_body
from timechat.backbones.endpoint.options import EndpointOptions, EndpointSettings
from timechat.backbones.endpoint.pictures import EncodedPictures, PictureLimits
from timechat.backbones.endpoint.requests import EndpointPrompt, check_decoding, make_request, read_text
from timechat.backbones.endpoint.verification import verification_logprob
from timechat.errors import EndpointError, PromptTooLongError
from timechat.video import Frames
from timechat.video.frames import FrameSize
from timechat.video.sampling import FrameSampling

_REQUEST_VERSION = 1
"""Version of requests and of the reading of their answers in cache keys; raise it when they change."""


class _Learned:
    """What was learned about a server; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits = PictureLimits()
        self.can_verify = True
        self._trials: dict[tuple[object, ...], tuple[int | None, float]] = {}

    @property
    def limits(self) -> PictureLimits:
        with self._lock:
            return self._limits

    def lower(self, limits: PictureLimits) -> None:
        with self._lock:
            self._limits = self._limits & limits

    def trial(self, key: tuple[object, ...]) -> tuple[int | None, float] | None:
        """The number of prompt tokens and the seconds of a trial."""
        with self._lock:
            return self._trials.get(key)

    def add_trial(self, key: tuple[object, ...], prompt_tokens: int | None, seconds: float) -> None:
        with self._lock:
            self._trials[key] = prompt_tokens, seconds


@dataclass(eq=False)
class EndpointBackbone:
    """A video language model behind an OpenAI-compatible server; see `Backbone` and `load_endpoint`.

    Attributes:
        client: Connection to the server.
        name: Name of the model in answers.
        options: How videos are sent.
        check: Function that raises if the results are no longer needed.
        notes: Notes of every answer; none.
    """

    client: EndpointClient
    name: str
    options: EndpointOptions = field(default_factory=EndpointOptions)
    check: Check = lambda: None
    notes: tuple[str, ...] = ()
    _learned: _Learned = field(default_factory=_Learned, repr=False)

    # ------------------------------------------------------------------------------------------ identity

    @property
    def config(self) -> BackboneConfig:
        """Properties of the model; the first call asks the server for its list of models."""
        served, options = self.client.served_model(self.check), self.options
        return BackboneConfig(
            rate=FrameSampling(fps=options.fps_of(served.name), max_frames=options.max_frames),
            num_frames=options.max_frames,
            window_seconds=options.window_seconds,
            preset=served.preset if served.preset in PRESETS else preset_for(served.name, None),
            context=served.context,
            privacy_note=self.client.address.privacy_note(),
            is_remote=True,
        )

    def with_check(self, check: Check) -> Self:
        """Return the same backbone for one request."""
        return replace(self, check=check)

    def close(self) -> None:
        """Cancel all requests and close the connections."""
        self.client.close()

    def facts(self, kind: Facts) -> dict[str, Any]:
        """Return everything that results depend on, as far as the server tells it.

        The system fingerprint of the server is not part of it: it is known after the first answer only. The key of the
        server is never part of it.
        """
        options = self.options
        sent = {"max_side": options.pictures.max_side, "quality": options.pictures.quality}
        if kind != "answer":
            return sent
        return sent | {
            "base_url": self.client.address.base_url,
            "model": self.client.model(self.check),
            "wording": options.wording,
            "placement": options.placement,
            "native_video": options.native_video,
            "verify": options.verify,
            "request_version": _REQUEST_VERSION,
            "form_version": FORM_VERSION,
        }

    # ------------------------------------------------------------------------------------------ videos and prompts

    def frame_size(self, height: int, width: int) -> FrameSize:
        """Return the size in which a frame is sent."""
        return self.options.pictures.size(height, width)

    def encode(
        self,
        frames: Frames,
        *,
        frame_cache: FrameCache | None = None,  # noqa: ARG002 - pictures are made faster than they are read
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[EncodedPictures, tuple[str, ...]]:
        """Encode the frames of one window as JPEG pictures; no request is sent."""
        pictures = EncodedPictures.of(frames, self.options.pictures, self.check)
        if progress is not None:
            progress(len(pictures.jpegs), len(pictures.jpegs))
        return pictures, ()

    def pack(self, content: EncodedPictures) -> None:  # noqa: ARG002
        """Return None: pictures are not worth the space on the disk."""
        return

    def unpack(self, tensors: Tensors) -> EncodedPictures:
        """Raise: no window is ever on the disk."""
        raise ValueError(f"the pictures of an endpoint are not kept on the disk, got tensors {sorted(tensors)}")

    def prompt(self, video: EncodedVideo, question: Question, max_new_tokens: int) -> EndpointPrompt:
        """Build the prompt of a question about a window; only the server can count its tokens.

        Raises:
            PromptTooLongError: The answer alone does not fit into the model.
        """
        context = self.client.served_model(self.check).context
        if context is not None and max_new_tokens >= context:
            raise PromptTooLongError(
                f"the answer may have {max_new_tokens} tokens, but the model of {self.client.address.base_url} takes "
                f"{context} tokens with the prompt; lower max_new_tokens"
            )
        return EndpointPrompt(video.content, question)

    # ------------------------------------------------------------------------------------------ answers

    def generate(
        self,
        prompts: Sequence[EndpointPrompt],
        forms: Sequence[AnswerForm | None],
        decoding: DecodingOptions,
        *,
        window_numbers: Sequence[int] = (),
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[GeneratedText]:
        """Answer prompts, one request each.

        Raises:
            EndpointError: The server gave no answer.
            ValueError: The server cannot keep an option of decoding.
        """
        check_decoding(decoding)
        numbers = window_numbers or [0] * len(prompts)
        if len(prompts) == 1:
            send: _Send = complete
            if on_text is not None or should_stop is not None:
                show, stop = on_text or (lambda _: None), should_stop or (lambda: False)
                send = lambda client, request, check: complete_streamed(client, request, show, check, stop)  # noqa: E731
            return [self._answer(prompts[0], forms[0], decoding, numbers[0], self.check, send)]
        jobs = [
            partial(self._answer, prompt, form, decoding, number)
            for prompt, form, number in zip(prompts, forms, numbers, strict=True)
        ]
        return self._all(jobs)

    def verify(self, videos: Sequence[EncodedVideo], events: Sequence[Event], *, preset: str) -> list[float] | None:
        """Return how much more likely each caption is at its time with the pictures than without, in nats.

        Returns:
            None without `EndpointOptions.verify`, for a server without log probabilities of prompts, and if its tokens
            do not fit a caption.
        """
        if not self.options.verify or not self._learned.can_verify:
            return None
        values = []
        for video, event in zip(videos, events, strict=True):
            pictures = video.content.within(self._learned.limits)
            try:
                value = verification_logprob(
                    self.client, self.options, pictures, event, preset=preset, check=self.check
                )
            except EndpointError as error:
                if error.reason == "too_large":  # the prompt of a caption is longer than that of the query
                    return None
                if error.reason != "refused":
                    raise
                self._learned.can_verify = False
                return None
            if value is None:
                return None
            values.append(value)
        return values

    def measure(
        self,
        frames: Frames,
        duration: float,  # noqa: ARG002 - the server counts the tokens
        question: Question,
        form: AnswerForm | None,
        decoding: DecodingOptions,
        typical_tokens: int,
    ) -> WindowCost:
        """Return the cost of one window: the server counts the tokens of its prompt for an answer of one token.

        Windows with the same words and as many frames of one size have the same number of tokens, so the server is
        asked once. `seconds` is the time until the first token.
        """
        check_decoding(decoding)
        pictures, _ = self.encode(frames)
        prompt = EndpointPrompt(pictures, question)
        key = (len(pictures.jpegs), pictures.size, question.text, question.system, tuple(question.history))
        trial = self._learned.trial(key)
        if trial is None:
            trial = self._try(prompt, form, decoding)
            self._learned.add_trial(key, *trial)
        prompt_tokens, seconds = trial
        request = make_request(self.options, pictures.within(self._learned.limits), question, form, decoding, 0)
        model = self.client.model(self.check)
        levels = known_abilities(self.client.address.base_url, model).levels()
        num_bytes = len(encode_body(request_body(request, model, levels)))
        answer_tokens = min(typical_tokens, decoding.max_new_tokens)
        return WindowCost(seconds, 1, prompt_tokens, answer_tokens, num_bytes)

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Do nothing: the server counts its tokens."""

    # ------------------------------------------------------------------------------------------ requests

    def _all(self, jobs: Sequence[Callable[[Check, "_Send"], GeneratedText]]) -> list[GeneratedText]:
        """Run jobs in threads; the first error ends all of them."""
        has_failed = threading.Event()

        def check() -> None:
            self.check()
            if has_failed.is_set():
                raise EndpointError("another request of the same job has failed", "interrupted")

        with ThreadPoolExecutor(self.client.limits.max_concurrent, thread_name_prefix="endpoint-request") as threads:
            futures = [threads.submit(job, check, complete) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                return [future.result() for future in futures]
            finally:
                has_failed.set()
                for future in futures:
                    future.cancel()

    def _answer(
        self,
        prompt: EndpointPrompt,
        form: AnswerForm | None,
        decoding: DecodingOptions,
        number: int,
        check: Check,
        send: "_Send",
    ) -> GeneratedText:
        """Send one prompt, with smaller or fewer pictures after a refusal as too large.

        Limits are learned from a request that is answered. The text of a prompt can be too long by itself.
        """
        limits = PictureLimits()
        while True:
            check()
            limits &= self._learned.limits
            pictures = prompt.pictures.within(limits)
            request = make_request(self.options, pictures, prompt.question, form, decoding, number)
            try:
                completion = send(self.client, request, check)
            except EndpointError as error:
                if names := refused_fixed(error, request):
                    raise ValueError(
                        f"{self.client.address.base_url} does not take {names[0]}: {error.detail}; leave it at its "
                        "default, or use a local model"
                    ) from error
                lower = pictures.lower_limits(error) if error.reason == "too_large" else None
                if lower is None:
                    raise
                limits &= lower
                continue
            self._learned.lower(limits)
            missing = known_abilities(self.client.address.base_url, self.client.model(check)).missing
            return read_text(completion, request, missing, limits.notes)

    def _try(
        self, prompt: EndpointPrompt, form: AnswerForm | None, decoding: DecodingOptions
    ) -> tuple[int | None, float]:
        """Return the number of prompt tokens that the server counts, and the seconds of an answer of one token."""
        began = time.monotonic()
        try:
            short = replace(decoding, max_new_tokens=1, min_new_tokens=0)
            counted = self._answer(prompt, form, short, 0, self.check, complete).num_prompt_tokens
        except EndpointError as error:
            if error.reason != "refused":  # a server can refuse answers of one token
                raise
            counted = 0
        return counted or None, time.monotonic() - began


_Send = Callable[[EndpointClient, CompletionRequest, Check], Completion]


def load_endpoint(
    address: str,
    *,
    settings: EndpointSettings | None = None,
    check: Check = lambda: None,
) -> EndpointBackbone:
    """Connect to a server and ask for its list of models, so that a wrong address or key is an error at once.

    Args:
        address: Address such as `http://127.0.0.1:8000/v1#Qwen3-VL-8B-Instruct`; without a name, the only model of the
            server.
        settings: Key, what is sent, and limits of the requests; None takes the defaults.
        check: Function that can cancel the connection.

    Raises:
        EndpointError: The server cannot be reached, refuses the key, or lists no model or several ones.
        ValueError: The address or the key cannot be read.
    """
    settings = settings or EndpointSettings()
    key = ApiKey.from_environment(settings.api_key_env)
    client = EndpointClient(EndpointAddress.parse(address), key, limits=settings.limits)
    try:
        name = client.served_model(check).name
    except BaseException:
        client.close()
        raise
    return EndpointBackbone(client, name, settings.options)
