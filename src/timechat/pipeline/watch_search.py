"""The search of a frame-text encoder in the windows of a stream."""

from collections.abc import Sequence

import numpy as np

from timechat.answers.events import Event
from timechat.search.encoder import FrameTextEncoder
from timechat.search.video_vectors import FRAMES_PER_SECOND, encode_video, find_spans
from timechat.video import Frames
from timechat.video.frames import FrameSize, resize
from timechat.video.live import LiveFrame

_MAX_MOMENTS = 10  # of one query in one window


class StreamSearch:
    """Finds queries in windows of a stream, from about one frame per second.

    The frames of a window are kept as pixels in the size of the encoder, and encoded only if the window is searched.

    Attributes:
        encoder: Frame-text encoder.
    """

    def __init__(
        self, encoder: FrameTextEncoder, queries: Sequence[str], *, frame_interval: float, threshold: float | None
    ) -> None:
        """Prepare the search.

        Args:
            encoder: Frame-text encoder.
            queries: Descriptions of what to detect.
            frame_interval: Seconds between the frames of the stream.
            threshold: Minimum probability of a moment; None takes the encoder's.
        """
        self.encoder, self._queries = encoder, tuple(queries)
        self._sentences = encoder.encode_sentences(self._queries)
        self._threshold = encoder.found_threshold if threshold is None else threshold
        self._every = max(1, round(1 / (FRAMES_PER_SECOND * frame_interval)))  # frames
        self._size = FrameSize(*encoder.image_size)
        self._frames: dict[int, LiveFrame] = {}  # by their numbers in the stream

    def add_frame(self, number: int, frame: LiveFrame) -> None:
        """Keep a frame of the stream, unless the frames are denser than the search needs."""
        if number % self._every == 0:
            pixels = frame.pixels if frame.search_pixels is None else frame.search_pixels
            self._frames[number] = LiveFrame(frame.time, resize(pixels, self._size))

    def drop_before(self, number: int) -> None:
        """Forget the frames before a number."""
        self._frames = {kept: frame for kept, frame in self._frames.items() if kept >= number}

    def find(self, start: float, end: float) -> list[tuple[str, Event]]:
        """Return the queries that are found in the frames in memory, with their moments on the stream's clock.

        Args:
            start: Start of the window in seconds.
            end: End of the window in seconds.
        """
        kept = list(self._frames.values())
        if not kept:
            return []
        times = np.maximum([frame.time - start for frame in kept], 0.0)
        frames = Frames(np.stack([frame.pixels for frame in kept]), times, end - start)
        window = encode_video(frames, self.encoder)
        return [
            (query, Event(start + moment.start, start + moment.end, query, moment.score))
            for query, sentence in zip(self._queries, self._sentences, strict=True)
            for moment in find_spans(window, self.encoder, sentence, limit=_MAX_MOMENTS)
            if moment.score >= self._threshold
        ]
