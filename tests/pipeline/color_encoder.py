"""A frame-text encoder that knows colors only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from timechat.search.encoder import FloatArray, FrameTextEncoder

COLORS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}


class ColorEncoder(FrameTextEncoder):
    """A frame is its mean color; a sentence is the colors that it names.

    Attributes:
        num_frames: Number of frames that were encoded so far.
    """

    name, licence, fingerprint = "colors", "none", "fingerprint of colors"
    dimension = sentence_dimension = 3
    image_size = (8, 8)
    cut_distance = 0.5

    def __init__(self) -> None:
        self.num_frames = 0

    def encode_frames(self, pixels: NDArray[np.uint8]) -> FloatArray:
        self.num_frames += len(pixels)
        return (pixels.reshape(len(pixels), -1, 3).mean(1) / 255).astype(np.float32)

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        words = [[COLORS[word] for word in sentence.split() if word in COLORS] for sentence in sentences]
        return np.array([np.sum(each or [(-1, -1, -1)], axis=0) for each in words], np.float32)

    def evidence(self, frame_vectors: FloatArray, sentence: FloatArray) -> FloatArray:
        return (10 * (frame_vectors @ sentence) - 5).astype(np.float32)


def painted_pixels(seconds: float, *, fps: float = 2.0, **spans: tuple[float, float]) -> NDArray[np.uint8]:
    """Return black frames with parts in a color: `red=(20, 25)` is red from 20 s to 25 s."""
    times = np.arange(round(seconds * fps)) / fps
    pixels = np.zeros((len(times), 96, 96, 3), np.uint8)
    for channel, color in enumerate(COLORS):
        if color in spans:
            first, last = spans[color]
            pixels[(times >= first) & (times < last), :, :, channel] = 255
    return pixels
