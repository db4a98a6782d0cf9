"""Answers about encoded windows in one batch: prompts, generation and verification.

A grounding answer is verified: a language model that is asked when something happens tends to name a time in any case.
Better evidence is the query as the caption of that time. Where the query is true, its words are more likely with the
video than with a blank one; the difference of the log probabilities (the pointwise mutual information of caption and
video, in nats) counts in the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from timechat.answers.events import Event
from timechat.answers.forms import AnswerForm
from timechat.answers.merging import WindowAnswer
from timechat.answers.tasks import parse_events
from timechat.answers.windows import Window
from timechat.backbones.backbone import Backbone, EncodedVideo, GeneratedText, Question
from timechat.errors import PromptTooLongError
from timechat.pipeline.request import Request


@dataclass(frozen=True, eq=False)
class WindowAnswerer:
    """Answers requests about encoded windows with one model.

    Attributes:
        backbone: Model.
    """

    backbone: Backbone

    def answer_all(self, request: Request, windows: Sequence[EncodedVideo]) -> list[WindowAnswer]:
        """Answer one request about each of several windows in one batch."""
        return self.answer([request] * len(windows), windows)

    def answer(self, requests: Sequence[Request], windows: Sequence[EncodedVideo]) -> list[WindowAnswer]:
        """Answer each request about its window in one batch; task and decoding are those of the first request."""
        return self.verified(requests, windows, self.generate(requests, windows))

    def generate(
        self, requests: Sequence[Request], windows: Sequence[EncodedVideo], **callbacks: Any
    ) -> list[GeneratedText]:
        """Generate answers in one batch; `callbacks` are `on_text` and `should_stop` of `Backbone.generate`."""
        prompts = [self.prompt(request, window) for request, window in zip(requests, windows, strict=True)]
        forms = [self.form(requests[0], window.duration) for window in windows]
        numbers = [window.window_number for window in windows]
        return self.backbone.generate(prompts, forms, requests[0].decoding, window_numbers=numbers, **callbacks)

    def with_preset(self, request: Request) -> Request:
        """Return a request with the prompt preset of the model, if it names none."""
        return request if request.preset is not None else replace(request, preset=self.backbone.config.preset)

    def form(self, request: Request, duration: float) -> AnswerForm | None:
        """Return the form of an answer about `duration` seconds of video; None for an unconstrained answer."""
        names_moment = self.backbone.config.scoring.decides_found
        return self.with_preset(request).form(duration, names_moment=names_moment)

    def question(self, request: Request, window: Window) -> Question:
        """Return the words of the prompt about a window."""
        request = self.with_preset(request)
        text = request.prompt_text(window, lowercase_query=self.backbone.config.lowercase_queries)
        return Question(text, request.history or (), request.system_prompt or None)

    def prompt(self, request: Request, encoded: EncodedVideo) -> Any:
        """Build the prompt of a request about a window.

        Raises:
            PromptTooLongError: Prompt and answer do not fit into the model.
            ValueError: Another model has encoded the window.
        """
        if encoded.model not in (None, self.backbone.name):
            raise ValueError(
                f"the video was encoded by {encoded.model}, not by {self.backbone.name}; encode it with this model"
            )
        return self.backbone.prompt(encoded, self.question(request, encoded.span), request.decoding.max_new_tokens)

    def verified(
        self, requests: Sequence[Request], windows: Sequence[EncodedVideo], outputs: Sequence[GeneratedText]
    ) -> list[WindowAnswer]:
        """Return generated texts as answers; each grounding answer says how much the video speaks for its moments.

        Nothing is verified for a model whose scores do not depend on it.
        """
        answers = [_window_answer(window, output) for window, output in zip(windows, outputs, strict=True)]
        if requests[0].task != "grounding" or not self.backbone.config.scoring.grounding.weights.verification:
            return answers
        found: list[tuple[int, Event]] = []
        for i, answer in enumerate(answers):
            events = parse_events(answer.text, task="grounding", duration=answer.window.duration).events
            found += [(i, replace(event, caption=requests[i].query or "")) for event in events]
        if not found:
            return answers
        preset = requests[0].preset or self.backbone.config.preset
        try:
            nats = self.backbone.verify([windows[i] for i, _ in found], [event for _, event in found], preset=preset)
        except PromptTooLongError:  # the prompt of a caption is longer than that of the query; the answer stands
            nats = None
        if nats is None:
            return answers
        known: dict[int, list[float]] = {}
        for (i, _), value in zip(found, nats, strict=True):
            known.setdefault(i, []).append(value)
        return [replace(answer, verification=tuple(known.get(i, ()))) for i, answer in enumerate(answers)]


def _window_answer(window: EncodedVideo, output: GeneratedText) -> WindowAnswer:
    return WindowAnswer(
        window.span,
        output.text,
        output.tokens,
        notes=(*window.notes, *output.notes),
        num_prompt_tokens=output.num_prompt_tokens,
        num_tokens=output.num_tokens,
    )
