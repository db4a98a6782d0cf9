"""Long videos in pieces, for several processes: plan, decode, answer, merge.

row ─▶ PlanPieces ─▶ PieceTask, one for each batch of windows ─▶ DecodePiece ─▶ AnswerPiece ─▶ PieceBoard
            └─ RankTask ─▶ RankWindows ─▲                                            └─ MergeTask ◀─┘ the last piece

A piece is the batch of windows that the command would answer at once, so the merged answer is that of the command.
With `read` below 1, the windows of long videos are ranked first, and only the chosen ones become pieces. Planning and
decoding import no torch. The process that answers the last piece of a video also merges the answers, and
refines moments.
"""

import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from timechat.answers.merging import WindowAnswer
from timechat.answers.windows import Window
from timechat.batch.manifest import Row
from timechat.batch.settings import BatchSettings
from timechat.batch.stages import AnswerVideo, OnPiece, Piece, result_of
from timechat.video import Frames, VideoIndex, VideoReader

if TYPE_CHECKING:
    from timechat.backbones.backbone import BackboneConfig
    from timechat.pipeline import Request, VideoSession
    from timechat.pipeline.request import WindowPlan
    from timechat.pipeline.retrieving import ChosenWindows
    from timechat.search.encoder import FrameTextEncoder
    from timechat.search.video_vectors import VideoVectors

Seconds = dict[str, float]
VideoT = TypeVar("VideoT")


@dataclass(frozen=True)
class PieceTask:
    """One batch of windows of a row.

    Attributes:
        row: Row of the manifest.
        windows: Windows to answer; empty if all of them have been answered before.
        num_pieces: Number of pieces of the video; 0 for a row that is not split.
        index: `pack_index` of the video.
        chosen: Windows of the video that are read; None for all of them.
        frames: Decoded frames of the windows; empty if the process that answers decodes them.
        is_outside: Whether the video is unlike the training videos of the model; None if it is not known yet.
    """

    row: Row
    windows: tuple[Window, ...] = ()
    num_pieces: int = 0
    index: bytes = field(default=b"", repr=False)
    chosen: "ChosenWindows | None" = field(default=None, repr=False)
    frames: tuple[Frames, ...] = field(default=(), repr=False)
    is_outside: bool | None = None

    @property
    def video(self) -> str:
        """Path or address of the video."""
        return self.row.video


@dataclass(frozen=True)
class RankTask:
    """All windows of a row, of which some are to be chosen.

    Attributes:
        row: Row of the manifest.
        windows: Windows of the video in order of time.
        known: Windows that have been answered before.
        index: `pack_index` of the video.
    """

    row: Row
    windows: tuple[Window, ...]
    known: frozenset[Window]
    index: bytes = field(repr=False)

    @property
    def video(self) -> str:
        """Path or address of the video."""
        return self.row.video


@dataclass(frozen=True)
class MergeTask:
    """All answers about a video.

    Attributes:
        row: Row of the manifest.
        index: `pack_index` of the video.
        answers: Answers about all windows.
        seconds: Seconds spent on the pieces by stage.
        chosen: Windows of the video that are read; None for all of them.
    """

    row: Row
    index: bytes = field(repr=False)
    answers: tuple[WindowAnswer, ...] = field(repr=False)
    seconds: Seconds
    chosen: "ChosenWindows | None" = field(default=None, repr=False)

    @property
    def video(self) -> str:
        """Path or address of the video."""
        return self.row.video


def pack_index(index: VideoIndex) -> bytes:
    """Return an index as bytes for another process of the same job.

    Times rise evenly, so their differences take little room: an hour of video has some 20 kB instead of 3.5 MB.
    """
    buffers: list[pickle.PickleBuffer] = []
    plain = replace(index, packets=replace(index.packets))  # without cached properties
    head = pickle.dumps(plain, protocol=5, buffer_callback=buffers.append)
    return pickle.dumps((head, [_packed(buffer.raw()) for buffer in buffers]))


def unpack_index(packed: bytes) -> VideoIndex:
    """Return the index of `pack_index`; the bytes must come from this job, as pickled objects can run code."""
    head, buffers = pickle.loads(packed)
    index: VideoIndex = pickle.loads(head, buffers=[_unpacked(buffer) for buffer in buffers])
    return index


def _packed(buffer: memoryview) -> tuple[bool, bytes]:
    is_times = buffer.nbytes % 8 == 0
    if is_times:
        values = np.frombuffer(buffer, dtype=np.int64)
        buffer = np.diff(values, prepend=np.int64(0)).data
    return is_times, zlib.compress(buffer, 1)


def _unpacked(packed: tuple[bool, bytes]) -> bytearray | memoryview:
    is_times, content = packed
    data = bytearray(zlib.decompress(content))
    return np.cumsum(np.frombuffer(data, dtype=np.int64)).data if is_times else data


class _OpenVideo(Generic[VideoT]):
    """The video of the last piece, which stays open for the next piece of the same row in the same process."""

    def __init__(self) -> None:
        self._key: object = None
        self._video: VideoT | None = None
        self._stack = ExitStack()

    @contextmanager
    def open(self, key: object, open_video: Callable[[], AbstractContextManager[VideoT]]) -> Iterator[VideoT]:
        """Yield the open video of a key, or open it; an error closes it."""
        if self._video is None or self._key != key:
            self.close()
            self._video, self._key = self._stack.enter_context(open_video()), key
        try:
            yield self._video
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the video if one is open."""
        self._video = self._key = None
        self._stack.close()


# ------------------------------------------------------------------------------------------------------ stages


@dataclass(frozen=True)
class PlanPieces:
    """Stage that reads the index of a video and splits its windows into pieces, without torch.

    Attributes:
        settings: Settings of the batch.
        config: Properties of the model.
    """

    settings: BatchSettings
    config: "BackboneConfig"

    def load(self) -> None:
        """Load nothing."""

    def __call__(self, row: Row, pieces: Sequence[Piece], on_piece: OnPiece, /) -> dict[str, Any]:  # noqa: ARG002
        """Return the `tasks` of a row, without the windows of earlier `pieces`; see `Stage`.

        It is one `RankTask` if not all windows of the video are read.
        """
        retrieval = self.settings.retrieval(row.task)
        if row.task == "transcribe" or retrieval.by == "search" or Path(row.video).is_fifo():
            return {"tasks": [PieceTask(row)]}
        with VideoReader(row.video, timeout=self.settings.timeout) as reader:
            index, name = reader.index, reader.info.name
        windows = _plan(self.settings, self.config, row, index, name).windows
        known, packed = frozenset(answer.window for piece in pieces for answer in piece.answers), pack_index(index)
        if not retrieval.reads_all(len(windows)):
            return {"tasks": [RankTask(row, windows, known, packed)]}
        return {"tasks": _split(self.settings, row, windows, known, packed)}


@dataclass(frozen=True)
class RankWindows:
    """Stage that ranks the windows of a video by a frame-text encoder, and splits the chosen ones into pieces.

    Attributes:
        settings: Settings of the batch.
    """

    settings: BatchSettings

    def load(self) -> None:
        """Load the encoder."""
        from timechat.pipeline.retrieving import shared_encoder

        shared_encoder(self.settings.encoder)

    def __call__(self, row: RankTask, pieces: Sequence[Piece], on_piece: OnPiece, /) -> dict[str, Any]:  # noqa: ARG002
        """Return the `tasks` of a row, without the windows that are known; see `Stage`."""
        from timechat.pipeline.request import Request
        from timechat.pipeline.retrieving import choose_windows, vectors_between
        from timechat.search.video_vectors import encode_video

        windows, asked = row.windows, row.row
        request = Request(asked.task, asked.query, retrieval=self.settings.retrieval(asked.task))

        def encode(encoder: "FrameTextEncoder") -> "VideoVectors":
            whole = encode_video(asked.video, encoder, timeout=self.settings.timeout)
            return vectors_between(whole, encoder, windows[0].start, windows[-1].end)

        chosen = choose_windows(request, windows, encode)
        return {"tasks": _split(self.settings, asked, chosen.windows, row.known, row.index, chosen)}


@dataclass(frozen=True)
class DecodePiece:
    """Stage that decodes the frames of a piece, without torch.

    Attributes:
        settings: Settings of the batch.
        config: Properties of the model, with a `frame_size`.
    """

    settings: BatchSettings
    config: "BackboneConfig"

    def load(self) -> None:
        """Load nothing."""

    def __call__(self, row: PieceTask, pieces: Sequence[Piece], on_piece: OnPiece, /) -> dict[str, Any]:  # noqa: ARG002
        """Return the `frames` of each window of a piece; see `Stage`."""
        with self._kept.open((row.row, row.index), partial(self._open, row)) as reader:
            plan = _plan(self.settings, self.config, row.row, reader.index, reader.info.name)
            size = self.config.frame_size
            return {"frames": tuple(reader.load(plan.window_sampling(window), size=size) for window in row.windows)}

    @cached_property
    def _kept(self) -> "_OpenVideo[VideoReader]":
        return _OpenVideo()  # opening a long file reads its tables

    def _open(self, task: PieceTask) -> VideoReader:
        # One thread: several pieces are decoded at the same time, and each thread opens the file again.
        return VideoReader(task.video, timeout=self.settings.timeout, workers=1, index=unpack_index(task.index))


@dataclass(frozen=True)
class AnswerPiece:
    """Stage that answers the windows of a piece, or merges all pieces of a video; it takes whole rows too.

    Attributes:
        settings: Settings of the batch.
    """

    settings: BatchSettings

    @cached_property
    def _whole(self) -> AnswerVideo:
        return AnswerVideo(self.settings)

    def load(self) -> None:
        """Load the model."""
        self._whole.load()

    def __call__(
        self, row: Row | PieceTask | MergeTask, pieces: Sequence[Piece], on_piece: OnPiece, /
    ) -> dict[str, Any]:
        """Return the columns of the result; see `Stage`.

        For one of several pieces: its `answers`, the `seconds` by stage, and `is_outside`. `is_searched` means that the
        search answers the whole row instead.
        """
        if isinstance(row, Row):
            self._kept.close()
            return self._whole(row, pieces, on_piece)
        request, notes = self._whole.request(row.row)
        with self._kept.open((row.row, row.index), partial(self._open, row)) as video:
            video.timings.update(dict.fromkeys(video.timings, 0.0))  # those of this piece
            if isinstance(row, MergeTask):
                result = self._merged(request, notes, video, row, row.answers, row.seconds)
            else:
                result = self._answered(request, notes, video, row)
        if isinstance(row, MergeTask) or row.num_pieces == 1:
            self._kept.close()
        return result

    @cached_property
    def _kept(self) -> "_OpenVideo[VideoSession]":
        return _OpenVideo()  # with the windows that were encoded to test the domain

    def _open(self, task: PieceTask | MergeTask) -> "VideoSession":
        return self._whole.open(task.row, unpack_index(task.index))

    def _answered(
        self, request: "Request", notes: tuple[str, ...], video: "VideoSession", task: PieceTask
    ) -> dict[str, Any]:
        for window, frames in zip(task.windows, task.frames, strict=bool(task.frames)):
            video.use_frames(window, frames)
        is_outside = self._is_outside(request, video) if task.is_outside is None else task.is_outside
        if is_outside and request.task == "grounding":
            return {"is_searched": True, "is_outside": True}
        answers = self._whole.timechat.answerer().answer_windows(request, video, task.windows)
        found = tuple(answer for batch in answers for answer in batch)
        if task.num_pieces == 1:
            return self._merged(request, notes, video, task, found, {})
        total = len(_windows_read(task, video))
        return {"answers": found, "seconds": dict(video.timings), "is_outside": is_outside, "total": total}

    def _is_outside(self, request: "Request", video: "VideoSession") -> bool:
        """Whether the search answers; raise if nothing does."""
        if request.task == "grounding":
            return self._whole.timechat.answerer().uses_search(request, video)
        self._whole.check_domain(request, video)
        return False

    def _merged(
        self,
        request: "Request",
        notes: tuple[str, ...],
        video: "VideoSession",
        task: PieceTask | MergeTask,
        answers: Iterable[WindowAnswer],
        seconds: Seconds,
    ) -> dict[str, Any]:
        answer = self._whole.timechat.answerer().merge(request, video, answers, task.chosen)
        timings = {stage: round(value + seconds.get(stage, 0.0), 3) for stage, value in answer.timings.items()}
        result = replace(answer, notes=(*notes, *answer.notes), timings=timings)
        return result_of(result, len(_windows_read(task, video)))


def _windows_read(task: PieceTask | MergeTask, video: "VideoSession") -> tuple[Window, ...]:
    return video.windows if task.chosen is None else task.chosen.windows


def _split(
    settings: BatchSettings,
    row: Row,
    windows: Sequence[Window],
    known: Set[Window],
    index: bytes,
    chosen: "ChosenWindows | None" = None,
) -> list[PieceTask]:
    """Return the pieces of a row, without those whose windows are known; one without windows if all are."""
    size = settings.windows.batch_size
    groups = [tuple(windows[i : i + size]) for i in range(0, len(windows), size)]
    todo = [group for group in groups if not known >= set(group)]
    return [PieceTask(row, group, len(groups), index, chosen) for group in todo or [()]]


def _plan(
    settings: BatchSettings, config: "BackboneConfig", row: Row, index: VideoIndex, name: str | None
) -> "WindowPlan":
    from timechat.pipeline.request import check_start, plan_windows

    sampling = settings.row_sampling(row.start, row.end)
    check_start(name or row.video, index.info.duration, sampling)
    return plan_windows(config, index.info.duration, settings.windows, sampling)


# ------------------------------------------------------------------------------------------------------- board


@dataclass(frozen=True)
class PieceStages:
    """Stages of a batch on several processes.

    Attributes:
        answer: Stage with the model, for rows and pieces.
        plan: Stage that splits a row; None if rows are not split.
        rank: Stage that chooses the windows of a row; None if all windows are read.
        decode: Stage that decodes the frames of a piece; None if the process that answers decodes them.
    """

    answer: Any
    plan: Any = None
    rank: Any = None
    decode: Any = None

    @classmethod
    def of(cls, settings: BatchSettings, config: "BackboneConfig") -> "PieceStages":
        """Return the stages for the settings of a batch.

        Frames are decoded by processes of their own where their size does not depend on the video.
        """
        rank = None if settings.read == 1 else RankWindows(settings)
        decode = None if config.frame_size is None else DecodePiece(settings, config)
        return cls(AnswerPiece(settings), PlanPieces(settings, config), rank, decode)
