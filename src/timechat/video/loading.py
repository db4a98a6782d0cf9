"""`load_frames` and `probe_video`: from a video source to `Frames`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.errors import VideoError
from timechat.files.system import num_cores
from timechat.video.decoding import OpenReaders, decode_frames
from timechat.video.frames import Frames, FrameSize, Interpolation, Size, VideoInfo, check_interpolation, resize
from timechat.video.index import PacketIndex, VideoIndex, exact_info, index_by_decoding, read_index, seconds
from timechat.video.iteration import FrameIterator, ReadPosition
from timechat.video.sampling import DEFAULT_NUM_FRAMES, TIME_SLACK, FrameSampling, sample_indices
from timechat.video.scan import read_packets
from timechat.video.sequential import SequentialDecoder
from timechat.video.source import VideoHandle, VideoSource, open_source

ChooseIndices = Callable[[NDArray[np.float64], float, float], NDArray[np.int64]]
"""Indices of the frames to take, given the times of all frames, the end time and the time base, in seconds."""

_DEFAULT_SAMPLING = FrameSampling()

SINGLE_FRAME_NOTE = "the file has a single frame, as a still picture: nothing happens in it over time"

DEFAULT_TIMEOUT = 600.0
"""Maximum wall time in seconds for reading one file."""


def probe_video(source: VideoSource, *, timeout: float = 60.0) -> VideoInfo:
    """Read the header and the first frame of a video; fast for any length.

    Args:
        source: Video source as in `load_frames`; a source that can be read only once (a pipe) is used up.
        timeout: Maximum wall time in seconds.

    Raises:
        VideoError: The file is missing or empty, is no video, or no frame can be decoded.
    """
    with open_source(source, timeout) as handle:
        return probe_handle(handle)


def probe_handle(handle: VideoHandle) -> VideoInfo:
    """Read the header and the first frame of an open source; all packets only if the header states no duration."""
    info = read_packets(handle, only_first_frame=True)[1]
    return info if info.duration else read_index(handle).info


def load_frames(
    source: VideoSource | Frames,
    *,
    num_frames: int | None = DEFAULT_NUM_FRAMES,
    fps: float | None = None,
    max_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    timestamps: ArrayLike | None = None,
    size: Size | None = None,
    interpolation: Interpolation = "bilinear",
    sampling: Literal["exact", "keyframes"] = "exact",
    clock: Literal["video", "container"] = "video",
    generator: np.random.Generator | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    workers: int | None = None,
) -> Frames:
    """Load frames of a video with the times at which they are shown.

    By default `num_frames` frames are spread evenly over the video, each the one on screen at its time; a video
    with fewer frames gives all of them. For files with a constant frame rate these are exactly the frames that the
    original TimeChat takes. Frames are always in time order; a frame that is on screen at several of the requested
    times is repeated, with its own time.

    Args:
        source: Path (or `file://`), `http(s)` address, address of an object store (`s3://`, `gs://`, ..., see
            `timechat.files.remote`), bytes, binary file object (its position moves), or `Frames`, which are sampled and
            resized by the same rules. A server that sends only whole files is read once, into a temporary file.
        num_frames: Number of frames, spread evenly; None means the default.
        fps: Frames per second of video, instead of a number of frames; never more than the video has.
        max_frames: Maximum number of frames; where `fps` gives more, they are spread evenly.
        start: Seconds; frames from the one on screen at this time.
        end: Seconds; frames shown before this time.
        timestamps: Seconds; the frame on screen at each of these times. The result has the frames' own times.
        size: Height and width in pixels, or one number for both. Frames are resized without keeping their aspect ratio,
            as in the original. None keeps the displayed size.
        interpolation: Filter that resizes frames to `size`: `bilinear` as in the original, or `bicubic`.
        sampling: `keyframes` takes the keyframe nearest to each requested frame, with the keyframe's own time, each
            once: many times faster on long files, but up to half a keyframe interval away from the `exact` frame, and
            with fewer frames if the file has few keyframes.
        clock: `video` starts when the first frame is shown; `container` keeps the times of the file, for arguments and
            result.
        generator: Random generator that places one frame in each interval, for training; None takes the start of each.
        timeout: Maximum wall time in seconds.
        workers: Number of decoding threads; None takes all cores.

    Returns:
        Frames whose `notes` report all missing or damaged frames.

    Raises:
        VideoError: The video cannot be read, or nothing is shown in the requested part.
        ValueError: An option is invalid.
    """
    check_interpolation(interpolation)
    return sample_video(
        source,
        FrameSampling(num_frames, fps, max_frames, start, end, timestamps, sampling),
        size=None if size is None else FrameSize.of(size, interpolation),
        keep_clock=clock == "container",
        generator=generator,
        timeout=timeout,
        workers=workers,
    )


def sample_video(
    source: VideoSource | Frames,
    sampling: FrameSampling,
    *,
    size: Size | None = None,
    keep_clock: bool = False,
    generator: np.random.Generator | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    workers: int | None = None,
) -> Frames:
    """Load frames as `load_frames` does, with the frame options as one value; `keep_clock` is `clock="container"`."""
    if generator is not None and sampling.timestamps is not None:
        raise ValueError("timestamps already say which frames: leave out generator")
    if isinstance(source, Frames):
        return _sample_frames(source, sampling, size=None if size is None else FrameSize.of(size), generator=generator)
    with VideoReader(source, timeout=timeout, workers=workers, loads_once=True) as reader:
        return reader.load(sampling, size=size, keep_clock=keep_clock, generator=generator)


class VideoReader:
    """A video that is opened once and sampled any number of times; a context manager.

    Parts that are loaded one after the other are decoded once, even if the file has few keyframes.

    Attributes:
        info: Properties of the video, with its exact number of frames and duration.
        position: Position behind the last part of `iterate`, from which it can be resumed; None before the first part,
            behind the last frame, and after damage.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        workers: int | None = None,
        check: Callable[[], object] | None = None,
        loads_once: bool = False,
        index: VideoIndex | None = None,
    ) -> None:
        """Open a video and read the times of its frames, without decoding them.

        Args:
            source: Video source as in `load_frames`, except `Frames`.
            timeout: Maximum wall time in seconds for opening the file, and again for each call of `load`.
            workers: Number of decoding threads; None takes all cores.
            check: Function called repeatedly while the video is read, from any thread; an exception it raises ends the
                reading.
            loads_once: Whether `load` is called once, so that nothing is kept for later calls.
            index: `index` of an earlier reader of the same file, in this process or another one: the packets are then
                not read again. None reads them.

        Raises:
            VideoError: The video cannot be read.
        """
        self._open = ExitStack()
        self._workers, self._loads_once = workers or num_cores(), loads_once
        self._handle = self._open.enter_context(open_source(source, timeout, check))
        try:
            known = read_index(self._handle) if index is None else index
        except BaseException:
            self._open.close()
            raise
        self._readers = OpenReaders()
        self._index, self.info, self._notes = known.packets, known.info, known.notes
        self._use(self._index)
        self.position: ReadPosition | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source."""
        self._sequential.close()
        self._readers.close()
        self._open.close()

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last frame."""
        return self.info.duration

    @property
    def index(self) -> VideoIndex:
        """What was read of the file so far, for other readers of the same file."""
        return VideoIndex(self._index, self.info, self._notes)

    def load(
        self,
        sampling: FrameSampling = _DEFAULT_SAMPLING,
        *,
        size: Size | None = None,
        keep_clock: bool = False,
        generator: np.random.Generator | None = None,
        check: Callable[[], object] | None = None,
    ) -> Frames:
        """Load frames of the video; result and errors are those of `load_frames`.

        Args:
            sampling: Frames to take.
            size: Height and width in pixels, or one number for both; None keeps the displayed size.
            keep_clock: Whether times are those of the container instead of starting with the first frame.
            generator: Random generator that places one frame in each interval; None takes the start of each interval.
            check: Function called repeatedly while frames are decoded; an exception it raises ends the call.
        """
        chosen_size = FrameSize.of((self.info.height, self.info.width) if size is None else size)
        choose = partial(_choose_indices, sampling, self._handle.name, generator)
        self._handle.deadline.check_caller = check
        self._handle.deadline.restart()
        frames = self._load(choose, sampling, chosen_size, keep_clock)
        if frames is None:  # the file does not contain the frames that its packets promise
            self._sequential.close()
            self._readers.close()
            self._index = index_by_decoding(self._handle, self.info, self._index)
            self.info = exact_info(self.info, self._index)
            self._notes = (*self._index.clock.notes, *self._notes)
            self._use(self._index)
            frames = self._load(choose, sampling, chosen_size, keep_clock)
            if frames is None:
                raise VideoError(f"{self._handle.name}: is damaged: it decodes differently each time it is read")
        return frames

    def iterate(
        self, *, fps: float, size: Size, frames_per_part: int = 16, after: ReadPosition | None = None
    ) -> Iterator[Frames]:
        """Yield frames of the whole video, about `fps` of them per second, in parts and in order of time.

        A frame is near its requested time, at most about half the distance of the frames away, and has its true time.
        This is several times faster than `load`, and needs the same memory for any length. The timeout holds for each
        part.

        Args:
            fps: Frames per second of video.
            size: Height and width in pixels, or one number for both.
            frames_per_part: Maximum number of frames of a part.
            after: `position` behind a part of an earlier reading with the same arguments. The parts are those that
                followed it.

        Raises:
            VideoError: No frame can be decoded.
        """
        frames = FrameIterator(
            self._handle, self.info, self._index, fps=fps, size=FrameSize.of(size), threads=self._workers, after=after
        )
        single = [SINGLE_FRAME_NOTE] if self.info.num_frames == 1 else []
        self._handle.deadline.restart()
        reading, is_empty = iter(frames), True
        while part := list(islice(reading, frames_per_part)):
            is_empty = False
            damage = [f"frames that could not be decoded so far: {frames.num_errors}"] if frames.num_errors else []
            times, pixels = np.array([time for time, _ in part]), np.stack([pixels for _, pixels in part])
            self.position = (
                None if frames.num_errors or frames.is_done else ReadPosition(frames.num_requested, float(times[-1]))
            )
            yield Frames(pixels, times, self.duration, self.info, (*self._notes, *single, *damage))
            self._handle.deadline.restart()
        if is_empty and after is None:
            raise VideoError(f"{self._handle.name}: is damaged: none of its frames can be decoded")

    @property
    def keyframe_times(self) -> NDArray[np.float64]:
        """Seconds at which keyframes are shown, `(keyframes,)`, rising."""
        index = self._index
        shown = index.pts[np.intersect1d(index.keys, index.shown)]
        return np.sort(seconds(shown - int(index.frame_pts[0]), index.time_base))

    def _use(self, index: PacketIndex) -> None:
        self._sequential = SequentialDecoder(
            self._handle, self.info, index, self._workers, keeps_frames=not self._loads_once
        )

    def _load(self, choose: ChooseIndices, sampling: FrameSampling, size: FrameSize, keep_clock: bool) -> Frames | None:
        """Choose frames by their times and decode them; None if the file does not contain these frames."""
        index = self._index
        ticks = index.frame_pts - int(index.frame_pts[0])
        zero = float(index.clock.zero) if keep_clock else 0.0
        times = seconds(ticks, index.time_base) + zero
        end_time = float(seconds(np.array(index.end - int(index.frame_pts[0])), index.time_base)) + zero
        chosen = choose(times, end_time, float(index.time_base))
        notes = [*self._notes, *sampling.notes(end_time)]
        if len(times) == 1:
            notes.append(SINGLE_FRAME_NOTE)
        if sampling.sampling == "keyframes":
            keyframes = np.flatnonzero(np.isin(index.shown, index.keys))
            chosen, distances = _nearest_keyframes(times, chosen, keyframes)
            notes += distances
        wanted, rows = np.unique(chosen, return_inverse=True)
        readers = None if self._loads_once else self._readers
        result = decode_frames(
            self._handle, self.info, index, wanted, size, self._workers, self._sequential.decode, readers
        )
        if result.missing and not result.errors and index.can_seek:
            return None
        is_there = np.array([label not in result.missing for label in index.frame_labels[wanted].tolist()])
        notes += self._damage(times[wanted], is_there, len(result.suspect))
        rows = rows[is_there[rows]]
        is_whole = len(rows) == len(wanted) and bool(is_there.all())
        return Frames(
            result.pixels if is_whole else result.pixels[rows],
            times[wanted[rows]],
            self.info.duration,
            self.info,
            tuple(notes),
        )

    def _damage(self, times: NDArray[np.float64], is_there: NDArray[np.bool_], num_suspect: int) -> list[str]:
        """Return notes about missing and damaged frames; raise if no frame is left."""
        if not is_there.any():
            raise VideoError(
                f"{self._handle.name}: is damaged: none of the {len(times)} frames wanted, from {times[0]:.3f} to "
                f"{times[-1]:.3f} s, can be decoded; try another part of it with start and end"
            )
        notes = []
        if not is_there.all():
            notes.append(
                f"{(~is_there).sum()} of {len(times)} frames wanted are damaged and left out, the first at "
                f"{times[~is_there][0]:.3f} s"
            )
        if num_suspect:
            notes.append(f"{num_suspect} of {len(times)} frames follow damage and may show it")
        return notes


def _nearest_keyframes(
    times: NDArray[np.float64], chosen: NDArray[np.int64], keyframes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """The keyframe nearest to each chosen frame, each once; outside the requested part only if it has no keyframe."""
    if not len(keyframes):
        return chosen, ["no keyframe of the file is shown: exact frames were taken"]
    inside = keyframes[(keyframes >= chosen[0]) & (keyframes <= chosen[-1])]
    candidates = inside if len(inside) else keyframes
    after = np.clip(np.searchsorted(times[candidates], times[chosen]), 1, max(1, len(candidates) - 1))
    before, after = candidates[after - 1], candidates[np.minimum(after, len(candidates) - 1)]
    is_before = times[chosen] - times[before] <= times[after] - times[chosen]
    nearest = np.where(is_before, before, after)
    distance = float(np.abs(times[nearest] - times[chosen]).max())
    taken = np.unique(nearest)
    note = f"{len(taken)} keyframes stand for {len(chosen)} frames, up to {distance:.3f} s away from them"
    return taken, [note] if distance else []


def _choose_indices(
    sampling: FrameSampling,
    name: str,
    generator: np.random.Generator | None,
    times: NDArray[np.float64],
    end_time: float,
    tick: float,
) -> NDArray[np.int64]:
    """Choose frame indices as `sample_indices` does; the error names the video and the times that it covers."""
    try:
        return sample_indices(times, end_time, sampling, tick=tick, generator=generator)
    except ValueError as error:
        raise VideoError(f"{name}: {error}; its pictures run from {times[0]:.3f} to {end_time:.3f} s") from error


def _sample_frames(
    frames: Frames, sampling: FrameSampling, *, size: FrameSize | None, generator: np.random.Generator | None
) -> Frames:
    """Sample and resize ready-made frames by the rules for files."""
    end_time = max(frames.duration, float(frames.timestamps[-1]))
    chosen = _choose_indices(sampling, "frames", generator, frames.timestamps, end_time, TIME_SLACK)
    is_whole = len(chosen) == len(frames)
    pixels = frames.pixels if is_whole else frames.pixels[chosen]
    if size is not None and pixels.shape[1:3] != (size.height, size.width):
        pixels = np.stack([resize(picture, size) for picture in pixels])
    notes = (*frames.notes, *sampling.notes(end_time))
    return Frames(pixels, frames.timestamps[chosen], frames.duration, frames.source, notes)
