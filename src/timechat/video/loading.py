"""`load_frames` and `probe_video`: from a video source to `Frames`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import Literal

import av.error
import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.errors import VideoError
from timechat.system import num_cores
from timechat.video.decoding import decode_all, decode_frames
from timechat.video.frames import Frames, Size, VideoInfo, frame_to_pixels, height_width, resize
from timechat.video.index import PacketIndex, build_index, read_packets, seconds
from timechat.video.sampling import DEFAULT_NUM_FRAMES, TIME_SLACK, FrameSampling, sample_indices
from timechat.video.source import VideoHandle, VideoSource, open_source, reason

ChooseIndices = Callable[[NDArray[np.float64], float, float], NDArray[np.int64]]
"""Indices of the frames to take, given the times of all frames, the end time and the time base, in seconds."""

_DEFAULT_SAMPLING = FrameSampling()

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
        return read_packets(handle, only_first_frame=True)[1]


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
        source: Path (or `file://`), `http(s)` address, bytes, binary file object (its position moves), or `Frames`,
            which are sampled and resized by the same rules. A server that sends only whole files is read once, into a
            temporary file.
        num_frames: Number of frames, spread evenly; None means the default.
        fps: Frames per second of video, instead of a number of frames; never more than the video has.
        max_frames: Maximum number of frames; where `fps` gives more, they are spread evenly.
        start: Seconds; frames from the one on screen at this time.
        end: Seconds; frames shown before this time.
        timestamps: Seconds; the frame on screen at each of these times. The result has the frames' own times.
        size: Height and width in pixels, or one number for both. Frames are resized by the bicubic filter of the
            decoder library, without keeping their aspect ratio, as in the original. None keeps the displayed size.
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
    """
    return sample_video(
        source,
        FrameSampling(num_frames, fps, max_frames, start, end, timestamps, sampling),
        size=size,
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
    size = None if size is None else height_width(size)
    if isinstance(source, Frames):
        return _sample_frames(source, sampling, size=size, generator=generator)
    with VideoReader(source, timeout=timeout, workers=workers) as reader:
        return reader.load(sampling, size=size, keep_clock=keep_clock, generator=generator)


@dataclass(frozen=True)
class _Sample:
    """Decoded frames and the timeline they were chosen from.

    Attributes:
        pixels: uint8 `(frames, height, width, 3)`.
        timestamps: `(frames,)` seconds of the decoded frames.
        times: `(all frames,)` seconds of all frames of the video.
        end_time: Seconds at which the last frame leaves the screen.
        notes: Notes about missing, damaged and replaced frames.
    """

    pixels: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    times: NDArray[np.float64]
    end_time: float
    notes: list[str]


class VideoReader:
    """A video that is opened once and sampled any number of times; a context manager.

    Attributes:
        info: Properties of the video, with its exact number of frames and duration.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        workers: int | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        """Open a video and read the times of its frames, without decoding them.

        Args:
            source: Video source as in `load_frames`, except `Frames`.
            timeout: Maximum wall time in seconds for opening the file, and again for each call of `load`.
            workers: Number of decoding threads; None takes all cores.
            check: Function called repeatedly while the video is read, from any thread; an exception it raises ends the
                reading.

        Raises:
            VideoError: The video cannot be read.
        """
        self._open = ExitStack()
        self._workers = workers or num_cores()
        self._handle = self._open.enter_context(open_source(source, timeout, check))
        try:
            found, self.info, time_base = read_packets(self._handle, only_first_frame=False)
            self._index = build_index(found, time_base)
            times, end_time, _ = self._timeline
        except BaseException:
            self._open.close()
            raise
        duration = float(end_time - times[0])
        self._losses = found.damage_notes(duration, self.info)
        self.info = replace(self.info, num_frames=len(times), duration=duration)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source."""
        self._open.close()

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last frame."""
        return self.info.duration

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
        size_px = (self.info.height, self.info.width) if size is None else height_width(size)
        choose = partial(_choose_indices, sampling, self._handle.name, generator)
        self._handle.deadline.check_caller = check
        self._handle.deadline.restart()
        sample = None
        if self._index.is_trusted:
            sample = _sample_by_index(
                self._handle, self.info, self._index, choose, sampling.sampling, size_px, keep_clock, self._workers
            )
        if sample is None:
            sample = self._in_order(choose, sampling.sampling, size_px, keep_clock)
        duration = float(sample.end_time - sample.times[0])
        notes = (*self._losses, *sampling.notes(sample.end_time), *sample.notes)
        info = replace(self.info, num_frames=len(sample.times), duration=duration)
        return Frames(sample.pixels, sample.timestamps, duration, info, notes)

    @cached_property
    def _timeline(self) -> tuple[NDArray[np.float64], float, list[str]]:
        """Seconds at which all frames are shown, seconds at which the last one ends, and notes."""
        index = self._index
        if index.is_trusted:
            zero = int(index.frame_pts[0])
            times = seconds(index.frame_pts - zero, index.time_base)
            return times, float(seconds(np.array(index.end - zero), index.time_base)), []
        return self._timeline_in_order

    @cached_property
    def _timeline_in_order(self) -> tuple[NDArray[np.float64], float, list[str]]:
        """The same for a file whose packets have no usable times: by decoding all of it."""
        ticks = [frame.pts for frame in decode_all(self._handle, self.info)]
        if not ticks:
            raise VideoError(f"{self._handle.name}: is damaged: no frame can be decoded")
        rate = self.info.fps or 25.0
        times, notes = times_in_order(ticks, self._index.time_base, rate)
        return times, float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1 / rate)), notes

    def _in_order(self, choose: ChooseIndices, kind: str, size: tuple[int, int], keep_clock: bool) -> _Sample:
        """Decode a file from its start to the last requested frame."""
        times, end_time, notes = self._timeline_in_order
        if keep_clock:
            times, end_time = times + self.info.start_time, end_time + self.info.start_time
        chosen = choose(times, end_time, float(self._index.time_base))
        wanted, rows = np.unique(chosen, return_inverse=True)
        pictures = _frames_at(self._handle, self.info, wanted, size)
        if kind == "keyframes":
            notes = [*notes, "the file has no usable index: exact frames were taken, not keyframes"]
        return _Sample(pictures[rows], times[chosen], times, end_time, notes)


def _sample_by_index(
    handle: VideoHandle,
    info: VideoInfo,
    index: PacketIndex,
    choose: ChooseIndices,
    kind: str,
    size: tuple[int, int],
    keep_clock: bool,
    workers: int,
) -> _Sample | None:
    """Choose frames by the times of the packets and decode them; None if the file does not contain these frames."""
    zero = 0 if keep_clock else int(index.frame_pts[0])
    times = seconds(index.frame_pts - zero, index.time_base)
    end_time = float(seconds(np.array(index.end - zero), index.time_base))
    chosen = choose(times, end_time, float(index.time_base))
    notes: list[str] = []
    if kind == "keyframes":
        keyframes = np.flatnonzero(np.isin(index.shown, index.keys))
        chosen, notes = _nearest_keyframes(times, chosen, keyframes)
    wanted, rows = np.unique(chosen, return_inverse=True)
    result = decode_frames(handle, info, index, wanted, size, workers)
    if result.missing and not result.errors:
        return None
    if len(result.missing) == len(wanted):
        raise VideoError(
            f"{handle.name}: is damaged: none of the {len(wanted)} frames wanted, from {times[wanted[0]]:.3f} to "
            f"{times[wanted[-1]]:.3f} s, can be decoded; try another part of it with start and end"
        )
    is_there = np.array([int(pts) not in result.missing for pts in index.frame_pts[wanted]])
    if not is_there.all():
        first = times[wanted[~is_there][0]]
        notes.append(
            f"{(~is_there).sum()} of {len(wanted)} frames wanted are damaged and left out, the first at {first:.3f} s"
        )
    if result.suspect:
        notes.append(f"{len(result.suspect)} of {len(wanted)} frames follow damage and may show it")
    rows = rows[is_there[rows]]
    is_whole = len(rows) == len(wanted) and bool(is_there.all())
    return _Sample(result.pixels if is_whole else result.pixels[rows], times[wanted[rows]], times, end_time, notes)


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


def times_in_order(ticks: list[int | None], time_base: Fraction, rate: float) -> tuple[NDArray[np.float64], list[str]]:
    """Return seconds since the first frame, for frames in the order in which they are shown."""
    known = np.array([tick for tick in ticks if tick is not None], dtype=np.int64)
    if len(known) < len(ticks):
        note = f"the file gives no usable times: its frames are taken to follow each other at {rate:g} a second"
        return np.arange(len(ticks)) / rate, [note]
    gaps = seconds(np.diff(known), time_base)
    set_back = gaps <= 0
    if not set_back.any():
        return seconds(known - known[0], time_base), []
    gaps[set_back] = np.median(gaps[~set_back]) if not set_back.all() else 1 / rate
    note = f"the file's clock is set back {set_back.sum()} times: times are counted on from there"
    return np.concatenate([[0.0], np.cumsum(gaps)]), [note]


def _frames_at(
    handle: VideoHandle, info: VideoInfo, positions: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Frames with these numbers, `(wanted frames, height, width, 3)`, by decoding from the start."""
    pictures = np.empty((len(positions), *size, 3), np.uint8)
    row = 0
    try:
        for number, frame in enumerate(decode_all(handle, info)):
            if number == positions[row]:
                pictures[row] = frame_to_pixels(frame, *size)
                row += 1
            if row == len(positions):
                return pictures
    except av.error.FFmpegError as error:
        raise VideoError(f"{handle.name}: is damaged: a frame cannot be converted: {reason(error)}") from error
    raise VideoError(f"{handle.name}: is damaged: it decodes differently each time it is read")


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
    frames: Frames, sampling: FrameSampling, *, size: tuple[int, int] | None, generator: np.random.Generator | None
) -> Frames:
    """Sample and resize ready-made frames by the rules for files."""
    end_time = max(frames.duration, float(frames.timestamps[-1]))
    chosen = _choose_indices(sampling, "frames", generator, frames.timestamps, end_time, TIME_SLACK)
    is_whole = len(chosen) == len(frames)
    pixels = frames.pixels if is_whole else frames.pixels[chosen]
    if size is not None and pixels.shape[1:3] != size:
        pixels = np.stack([resize(picture, *size) for picture in pixels])
    notes = (*frames.notes, *sampling.notes(end_time))
    return Frames(pixels, frames.timestamps[chosen], frames.duration, frames.source, notes)
