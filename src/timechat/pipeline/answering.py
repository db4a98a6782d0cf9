"""Answers of one model about open videos: the loop over windows, merging, refinement and citations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from timechat.answers.events import Answer, Event
from timechat.answers.merging import Scoring, WindowAnswer, merge_window_answers, parse_window
from timechat.answers.tasks import TASKS
from timechat.answers.windows import Window
from timechat.backbones.backbone import Backbone, EncodedVideo, GeneratedText
from timechat.model.domain import is_outside_by_notes
from timechat.pipeline.request import Request
from timechat.pipeline.session import ProgressCallback, VideoSession
from timechat.pipeline.window_answering import WindowAnswerer

if TYPE_CHECKING:
    from timechat.pipeline.retrieving import ChosenWindows
    from timechat.pipeline.streaming import AnswerStream

_TESTED_WINDOWS = 4  # maximum number of windows by which a video is compared with the model's domain


@dataclass(frozen=True, eq=False)
class Answerer:
    """Answers requests about open videos with one model.

    Attributes:
        backbone: Model.
    """

    backbone: Backbone

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.backbone.name

    @property
    def windows(self) -> WindowAnswerer:
        """Prompts, generation and verification for encoded windows."""
        return WindowAnswerer(self.backbone)

    @property
    def scoring(self) -> Scoring:
        """Scoring that was fitted for the model."""
        return self.backbone.config.scoring

    # ------------------------------------------------------------------------------------------- whole answers

    def answer(self, request: Request, video: VideoSession, progress: ProgressCallback | None = None) -> Answer:
        """Answer a request about a video; add and verify citations where the request asks for them.

        The model reads all windows, or the best ones (`RetrievalConfig.read`). A grounding query may be answered by the
        search instead (`uses_search`).
        """
        request = self.windows.with_preset(request)
        if self.uses_search(request, video):
            from timechat.pipeline.retrieving import answer_by_search

            domain = self.backbone.config.domain
            description = domain["description"] if domain and request.retrieval.by == "auto" else None
            return answer_by_search(request, video, self.backbone.check, self.name, description, progress)
        chosen = self.choose_windows(request, video, progress)
        if chosen is None:
            return self._answer_with_evidence(request, video, video.windows, progress)
        return chosen.describe(self._answer_with_evidence(request, video, chosen.windows, progress, chosen.priors))

    def choose_windows(
        self, request: Request, video: VideoSession, progress: ProgressCallback | None = None
    ) -> "ChosenWindows | None":
        """Return the windows that the model reads, ranked by a frame-text encoder; None if it reads all of them."""
        if request.retrieval.reads_all(len(video.windows)):
            return None
        from timechat.pipeline.retrieving import windows_to_read

        return windows_to_read(request, video, self.backbone.check, progress)

    def uses_search(self, request: Request, video: VideoSession) -> bool:
        """Return whether the search answers a request; `auto` encodes a few windows of the video to decide it."""
        if request.retrieval.by != "auto" or request.task != "grounding":
            return request.retrieval.by == "search"
        can_be_read = video.encoder is not None and video.encoder.source is not None
        return can_be_read and self.is_outside_domain(video)

    def is_outside_domain(self, video: VideoSession) -> bool:
        """Return whether a video is unlike the videos that the model was trained on, from up to four of its windows."""
        domain = self.backbone.config.domain
        if domain is None:
            return False
        tested = video.encode(video.spread_windows(_TESTED_WINDOWS), self.backbone)
        outside = [is_outside_by_notes(domain, encoded.notes) for encoded in tested]
        return 2 * sum(outside) >= len(outside)

    def answer_each(self, requests: Sequence[Request], videos: Sequence[EncodedVideo]) -> list[Answer]:
        """Answer each request about its video in one batch; every event of the text is kept, whatever its score."""
        requests = [self.windows.with_preset(request) for request in requests]
        answers = []
        for request, video, one in zip(requests, videos, self.windows.answer(requests, videos), strict=True):
            parsed = parse_window(one, request.task, request.query, self.scoring)
            answers.append(
                Answer(
                    one.text,
                    list(parsed.events),
                    task=request.task,
                    question=request.query or "",
                    video=video.name,
                    duration=video.duration,
                    model=self.name,
                    score=parsed.best_score,
                    step=video.frame_interval,
                    player_offset=video.player_offset,
                    notes=(*self._notes(request), *video.notes, *parsed.notes),
                )
            )
        return answers

    def stream(self, request: Request, video: VideoSession) -> "AnswerStream":
        """Answer a request about a video of one window, and return the text while it is written.

        A text that the answer changes (`keeps_text`) comes in one piece at the end.
        """
        from timechat.pipeline.streaming import AnswerStream

        request = self.windows.with_preset(request)
        encoded = video.encode_whole(self.backbone)
        self.windows.prompt(request, encoded)  # raises for a prompt that is too long, before the stream starts
        outputs: list[GeneratedText] = []

        def generate(**callbacks: Any) -> str:
            work = partial(self.windows.generate, [request], [encoded], **callbacks)
            outputs[:] = video.timed("answer", work)
            return outputs[0].text

        @cache
        def finish(text: str) -> Answer:
            output = outputs[0] if outputs else GeneratedText(text)
            return self._merge_and_refine(request, video, self.windows.verified([request], [encoded], [output]))

        def generate_first(on_text: Callable[[str], None], should_stop: Callable[[], bool]) -> str:
            text = generate(should_stop=should_stop)
            if not should_stop():
                on_text(finish(text).text)
            return text

        return AnswerStream(generate if self.keeps_text(request, video) else generate_first, finish)

    def keeps_text(self, request: Request, video: VideoSession) -> bool:
        """Return whether the model's text is that of the answer, so that it can be shown while it is written.

        It is not for several windows, for a window with a clock of its own, for moments that are refined, and where
        the score decides whether a query happens.
        """
        has_clock_of_video = [(window.start, window.time_scale) for window in video.windows] == [(0.0, 1.0)]
        waits_for_score = request.task == "grounding" and self.scoring.decides_found
        return has_clock_of_video and not waits_for_score and not self._refines(request, video)

    def find_answer(self, request: Request, video: VideoSession, window: Window) -> WindowAnswer | None:
        """Return the answer about a window from the cache on disk; None if it is not there."""
        if video.cache is None:
            return None
        return video.cache.load_answer(self.windows.with_preset(request), window, video.plan.window_sampling(window))

    # ------------------------------------------------------------------------------------------ several windows

    def _answer_with_evidence(
        self,
        request: Request,
        video: VideoSession,
        windows: Sequence[Window],
        progress: ProgressCallback | None,
        priors: Mapping[Window, float] | None = None,
    ) -> Answer:
        """Answer about windows; add and verify citations where the request asks for them."""
        answer = self._answer_windows(request, video, windows, progress, priors)
        if not (request.cite or request.verify):
            return answer
        from timechat.pipeline.citing import cited_answer, verified_answer

        captions = self._answer_windows(request.for_captions(), video, windows, progress)
        answer = cited_answer(answer, captions.events)
        return verified_answer(answer, partial(self._find_cited, request, video)) if request.verify else answer

    def _answer_windows(
        self,
        request: Request,
        video: VideoSession,
        windows: Sequence[Window],
        progress: ProgressCallback | None,
        priors: Mapping[Window, float] | None = None,
    ) -> Answer:
        """Answer about windows in order of time, in batches; answers in the cache are reused."""
        kept = video.cache if request.is_reproducible else None
        answers: dict[Window, WindowAnswer] = {}
        for window in windows if kept is not None else ():
            if (found := self.find_answer(request, video, window)) is not None:
                answers[window] = found
                self.backbone.count_cached(found.num_prompt_tokens, found.num_tokens, request.decoding)
        todo = [window for window in windows if window not in answers]
        report = partial(_report, progress, "windows", total=len(windows))
        report(len(answers))
        for batch in self.answer_windows(request, video, todo, progress):
            for answer in batch:
                answers[answer.window] = answer
                if kept is not None:
                    kept.save_answer(request, video.plan.window_sampling(answer.window), answer)
            report(len(answers))
        return self._merge_and_refine(request, video, [answers[window] for window in windows], priors)

    def answer_windows(
        self,
        request: Request,
        video: VideoSession,
        windows: Sequence[Window],
        progress: ProgressCallback | None = None,
    ) -> Iterator[list[WindowAnswer]]:
        """Encode windows and answer a request about them, for `merge`; yield the answers of one batch after the other.

        Several processes can answer windows of one video. To get the answer of `answer` in every digit, each takes
        whole batches: consecutive windows, `batch_size` of them, the first batch from the first window. Where not all
        windows are read (`choose_windows`), the batches are those of the chosen windows.

        Args:
            request: Request.
            video: Open session.
            windows: Windows of the session in order of time.
            progress: Callback for the encoded frames of each window.
        """
        request = self.windows.with_preset(request)
        batch: list[EncodedVideo] = []
        for encoded in video.encode(windows, self.backbone, progress):
            batch.append(encoded)
            if len(batch) == video.batch_size or encoded.span == windows[-1]:
                yield video.timed("answer", partial(self.windows.answer_all, request, batch))
                batch = []

    def merge(
        self,
        request: Request,
        video: VideoSession,
        answers: Iterable[WindowAnswer],
        chosen: "ChosenWindows | None" = None,
    ) -> Answer:
        """Merge the answers about all windows, from this process or others, to the answer that `answer` gives.

        Moments found in sparse frames are refined, as in `answer`, which reads the video and asks the model again.

        Args:
            request: Request that was answered.
            video: Open session with the same windows.
            answers: Answers about all windows, in any order.
            chosen: Result of `choose_windows`, whose windows are all that are needed then.

        Raises:
            ValueError: A window has no answer, or the request asks for citations, which need other requests.
        """
        if request.cite or request.verify:
            raise ValueError(
                "citations need the answers to other requests; use `answer` for a request with cite or verify"
            )
        known = {answer.window: answer for answer in answers}
        windows = video.windows if chosen is None else chosen.windows
        if missing := [window for window in windows if window not in known]:
            raise ValueError(
                f"{len(missing)} of {len(windows)} windows have no answer, the first from {missing[0].start:g} s "
                f"to {missing[0].end:g} s; merge needs the answers about all windows of the session"
            )
        ordered, request = [known[window] for window in windows], self.windows.with_preset(request)
        if chosen is None:
            return self._merge_and_refine(request, video, ordered)
        return chosen.describe(self._merge_and_refine(request, video, ordered, chosen.priors))

    def _merge_and_refine(
        self,
        request: Request,
        video: VideoSession,
        answers: Sequence[WindowAnswer],
        priors: Mapping[Window, float] | None = None,
    ) -> Answer:
        """Merge answers, and refine the moments where the frames are sparse."""
        merged = merge_window_answers(
            answers,
            request.task,
            request.query,
            duration=video.duration,
            scoring=self.scoring,
            moments=request.moments,
            priors=priors,
        )
        merged = replace(
            merged,
            video=video.name,
            model=self.name,
            notes=(*self._notes(request), *merged.notes),
            step=video.plan.frame_interval,
            player_offset=video.player_offset,
            timings={stage: round(seconds, 3) for stage, seconds in video.timings.items()},
        )
        if self._refines(request, video) and merged.events:
            from timechat.pipeline.refining import refine_moments

            again = partial(self.windows.answer_all, request)
            merged = refine_moments(merged, video, self.backbone, again, self.scoring)
        return merged

    @staticmethod
    def _refines(request: Request, video: VideoSession) -> bool:
        return request.task == "grounding" and video.plan.refines

    def _notes(self, request: Request) -> tuple[str, ...]:
        """Notes of every answer of the model to a task."""
        notes = (*self.backbone.notes, self.backbone.config.privacy_note, TASKS[request.task].note)
        return tuple(note for note in notes if note is not None)

    def _find_cited(self, request: Request, video: VideoSession, cited: Event) -> list[Event]:
        """Moments of what a sentence says, in the windows that it cites; none for a time behind the end."""
        windows = [w for w in video.windows if w.start <= cited.end and cited.start <= w.end]
        if not windows:
            return []
        asked = request.for_grounding(cited.caption)
        answers = self.windows.answer_all(asked, list(video.encode(windows, self.backbone)))
        parsed = [parse_window(answer, "grounding", cited.caption, self.scoring) for answer in answers]
        threshold = self.scoring.found_threshold
        return [event for one in parsed for event in one.events if event.score is None or event.score >= threshold]


def _report(progress: ProgressCallback | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
