"""Stages of a batch: plain callables from a row to a result, which know neither processes nor Ray."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from timechat.answers.events import Answer
from timechat.answers.merging import WindowAnswer
from timechat.answers.windows import Window
from timechat.batch.manifest import Row
from timechat.batch.settings import BatchSettings
from timechat.errors import (
    EndpointError,
    PromptTooLongError,
    TimeChatError,
    VideoError,
    VideoTimeoutError,
    describe_error,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from timechat.backbones.backbone import BackboneConfig
    from timechat.pipeline import Request, TimeChat, VideoSession
    from timechat.video import VideoIndex

ErrorKind = Literal[
    "unreadable_video",
    "timeout",
    "crashed",
    "too_long",
    "outside_domain",
    "server",
    "out_of_memory",
    "invalid",
    "internal",
    "lost",
]
"""Reason why a row has no answer."""


class OutsideDomainError(ValueError):
    """A video that is unlike the videos that the model was trained on."""


def error_kind(error: Exception) -> ErrorKind:
    """Return the kind of an error about one video."""
    kinds: tuple[tuple[type[Exception], ErrorKind], ...] = (
        (VideoTimeoutError, "timeout"),
        (VideoError, "unreadable_video"),
        (PromptTooLongError, "too_long"),
        (EndpointError, "server"),
        (OutsideDomainError, "outside_domain"),
    )
    known = next((name for kind, name in kinds if isinstance(error, kind)), None)
    if known is not None:
        return known
    if is_out_of_memory(error):
        return "out_of_memory"
    return "invalid" if isinstance(error, TimeChatError | ValueError | OSError) else "internal"


def error_message(error: Exception) -> str:
    """Return one line about an error, with its type if it is none of ours."""
    message = describe_error(error)
    return f"{type(error).__name__}: {message}" if error_kind(error) == "internal" else message


@dataclass(frozen=True)
class Piece:
    """Answers about one batch of windows of a video.

    Attributes:
        answers: Answers about windows in order of time.
        num_windows: Number of windows of the whole video that are answered.
    """

    answers: tuple[WindowAnswer, ...]
    num_windows: int

    def to_dict(self) -> dict[str, Any]:
        """Return the piece ready for JSON."""
        answers = [{"window": asdict(answer.window), **answer.to_dict()} for answer in self.answers]
        return {"num_windows": self.num_windows, "answers": answers}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Piece":
        """Read the output of `to_dict`."""
        answers = [WindowAnswer.from_dict(Window(**answer["window"]), answer) for answer in content["answers"]]
        return cls(tuple(answers), content["num_windows"])


OnPiece = Callable[[Piece], None]


class WorkItem(Protocol):
    """Work for a stage: a row, or a part of one."""

    @property
    def video(self) -> str:
        """Path or address of the video."""


WorkItemT = TypeVar("WorkItemT", bound=WorkItem, contravariant=True)


class Stage(Protocol[WorkItemT]):
    """A callable for a worker, perhaps with a model."""

    def load(self) -> None:
        """Load the model."""

    def __call__(self, row: WorkItemT, pieces: Sequence[Piece], on_piece: OnPiece, /) -> dict[str, Any]:
        """Process one row, or one part of a row.

        Args:
            row: Row of the manifest, or another kind of job.
            pieces: Answers of an earlier, interrupted attempt.
            on_piece: Callback for the answers about each further batch of windows.

        Returns:
            Columns of the result.
        """


@dataclass(frozen=True)
class AnswerVideo:
    """Stage that answers one row as the command of its task does.

    Attributes:
        settings: Settings of the batch.
    """

    settings: BatchSettings

    @cached_property
    def timechat(self) -> "TimeChat":
        """The model, without the cache on disk: the results are the progress of a batch."""
        from timechat.files.cache import DiskCache
        from timechat.pipeline import TimeChat
        from timechat.pipeline.timechat import choose_threads

        settings = self.settings
        timechat = TimeChat.from_pretrained(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
            lora_scale=settings.lora_scale,
            picture_side=settings.picture_side,
            endpoint=settings.endpoint,
            engine=settings.engine,
            engine_options=settings.engine_options,
        )
        choose_threads(timechat)
        return TimeChat(timechat.backbone, cache=DiskCache(max_bytes=0))

    def load(self) -> None:
        """Load the model."""
        self.timechat  # noqa: B018 - loaded here, before the first row

    def __call__(self, row: Row, pieces: Sequence[Piece], on_piece: OnPiece) -> dict[str, Any]:
        """Answer one row; see `Stage`."""
        if row.task == "transcribe":
            return result_of(self._transcribe(row), 0)
        request, notes = self.request(row)
        with self.open(row) as video:
            self.check_domain(request, video)
            answer, num_windows = self._answer(request, video, pieces, on_piece)
            return result_of(replace(answer, notes=(*notes, *answer.notes)), num_windows)

    def request(self, row: Row) -> "tuple[Request, tuple[str, ...]]":
        """Return the request of a row, and the notes about its transcript."""
        from timechat.pipeline import Request
        from timechat.speech.loading import load_transcript

        settings, transcript = self.settings, None
        if row.transcript is not None:
            transcript = load_transcript(row.video, transcript=row.transcript, timeout=settings.timeout)
        request = Request(
            row.task,
            row.query,
            decoding=settings.decoding,
            preset=settings.preset,
            transcript=transcript.lines if transcript else None,
            retrieval=settings.retrieval(row.task),
        )
        return request, transcript.notes if transcript else ()

    def open(self, row: Row, index: "VideoIndex | None" = None) -> "VideoSession":
        """Open the video of a row; `index` is that of another process."""
        settings = self.settings
        return self.timechat.open(
            row.video,
            windows=settings.windows,
            sampling=settings.row_sampling(row.start, row.end),
            keep_in_memory=False,
            timeout=settings.timeout,
            index=index,
        )

    def check_domain(self, request: "Request", video: "VideoSession") -> None:
        """Raise if the model would only guess about a video; the search can answer a grounding request instead."""
        domain = self.timechat.backbone.config.domain
        is_checked = request.task != "grounding" and not self.settings.force
        if is_checked and domain is not None and self.timechat.answerer().is_outside_domain(video):
            raise OutsideDomainError(
                f"{video.name}: {self.timechat.name} was trained only on {domain['description']}, and this video is "
                "unlike them; take another model with --model, or add --force to get a guess"
            )

    def _answer(
        self, request: "Request", video: "VideoSession", pieces: Sequence[Piece], on_piece: OnPiece
    ) -> tuple[Answer, int]:
        """Return the answer about a video, and the number of its windows that were read."""
        answerer = self.timechat.answerer()
        if answerer.uses_search(request, video):
            return self.timechat.run(request, video), len(video.windows)
        chosen = answerer.choose_windows(request, video)
        windows = video.windows if chosen is None else chosen.windows
        known = {answer.window: answer for piece in pieces for answer in piece.answers if answer.window in windows}
        todo = [window for window in windows if window not in known]
        for answers in answerer.answer_windows(request, video, todo):
            known |= {answer.window: answer for answer in answers}
            on_piece(Piece(tuple(answers), len(windows)))
        return answerer.merge(request, video, known.values(), chosen), len(windows)

    def _transcribe(self, row: Row) -> Answer:
        from timechat.speech import transcript_answer
        from timechat.speech.loading import load_transcript
        from timechat.video import probe_video

        timeout = self.settings.timeout
        transcript = load_transcript(row.video, transcript=row.transcript, is_cleaned=False, timeout=timeout)
        info = probe_video(row.video, timeout=timeout)
        if transcript is None or not transcript.lines:
            raise ValueError(f"{row.video}: has no subtitles to transcribe; name a transcript in the column transcript")
        return transcript_answer(
            transcript,
            video=row.video,
            duration=info.duration,
            player_offset=info.player_offset,
            start=row.start,
            end=row.end,
        )


def result_of(answer: Answer, num_windows: int) -> dict[str, Any]:
    """Return the columns of an answer."""
    return {**answer.to_dict(), "windows": num_windows}


@dataclass(frozen=True)
class PlanVideo:
    """Stage that counts the windows of a video from its header, without a model and without torch.

    Attributes:
        settings: Settings of the batch.
        config: Properties of the model.
    """

    settings: BatchSettings
    config: "BackboneConfig"

    def load(self) -> None:
        """Load nothing."""

    def __call__(self, row: Row, pieces: Sequence[Piece], on_piece: OnPiece) -> dict[str, Any]:  # noqa: ARG002
        """Return `duration`, `windows` and `pieces` of a row; see `Stage`."""
        from timechat.pipeline.request import plan_windows
        from timechat.video import probe_video

        duration = probe_video(row.video, timeout=self.settings.timeout).duration
        start, end = row.start or 0.0, duration if row.end is None else min(row.end, duration)
        if start >= end:
            raise VideoError(f"{row.video}: ends at {duration:.3f} s, before the start at {start:g} s")
        sampling = replace(self.settings.sampling, start=start, end=end)
        windows = len(plan_windows(self.config, duration, self.settings.windows, sampling).windows)
        return {
            "duration": end - start,
            "windows": windows,
            "pieces": -(-windows // self.settings.windows.batch_size),
        }


def read_config(settings: BatchSettings) -> "BackboneConfig":
    """Read the properties of the model; only a server is contacted."""
    from timechat.backbones.loading import is_endpoint, load_backbone, load_backbone_config
    from timechat.files.cache import DiskCache

    if not is_endpoint(settings.model):
        return load_backbone_config(settings.model, DiskCache())
    backbone = load_backbone(settings.model, endpoint=settings.endpoint)
    try:
        return backbone.config
    finally:
        backbone.close()
