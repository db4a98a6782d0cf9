"""Frame-text encoders: vectors of frames and sentences, and the score of a sentence in a frame."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.errors import CheckpointError

FloatArray = NDArray[np.float32]

StoredVectors = NDArray[np.float32] | NDArray[np.float16]
"""Frame vectors as an encoder makes them, or as they are stored."""

BUILT_IN = "sight"
"""Name of the encoder in the package."""

_SELF_TEST_SIZE = 64  # pixels
_SELF_TEST_SENTENCES = ("a red sunset in the sky", "a checkered pattern, a chess board")


class FrameTextEncoder(ABC):
    """Vectors of frames and sentences that can be compared.

    The comparison belongs to the encoder: a vector of an encoder has a meaning for this encoder only. Vectors may be
    stored as float16.

    Attributes:
        name: Name, folder or hub id of the encoder.
        licence: Licence of its weights.
        dimension: Number of values of a frame vector.
        sentence_dimension: Number of values of a sentence vector.
        image_size: Height and width in pixels to which frames are resized.
        fingerprint: SHA-256 of the weights and of all constants that change a vector or a score.
        cut_distance: Cosine distance of neighboring frames above which a cut is assumed, at about one frame per
            second.
        found_threshold: Probability from which a moment counts as found.
    """

    name: str
    licence: str
    dimension: int
    sentence_dimension: int
    image_size: tuple[int, int]
    fingerprint: str
    cut_distance: float
    found_threshold: float = 0.5

    @abstractmethod
    def encode_frames(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """Encode frames.

        Args:
            pixels: `(frames, height, width, 3)` RGB of any size. Frames near `image_size` need the least time.

        Returns:
            `(frames, dimension)`.
        """

    @abstractmethod
    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """Encode sentences; the result is `(sentences, sentence_dimension)`."""

    def encode_sentence(self, sentence: str) -> FloatArray:
        """Encode one sentence; the result is `(sentence_dimension,)`."""
        vector: FloatArray = self.encode_sentences([sentence])[0]
        return vector

    @abstractmethod
    def evidence(self, frame_vectors: StoredVectors, sentence: FloatArray) -> FloatArray:
        """Return how much each frame speaks for a sentence, on its own: no other frame changes it.

        Args:
            frame_vectors: `(frames, dimension)`.
            sentence: `(sentence_dimension,)`.

        Returns:
            `(frames,)`, unlimited and calibrated: the sigmoid is the probability. Evidence of different videos can be
            compared.
        """

    def statistics(self, frame_vectors: FloatArray) -> FloatArray:  # noqa: ARG002 - for encoders that need them
        """Return what `score` has to know about a whole video, as one vector that an index can store.

        Args:
            frame_vectors: `(frames, dimension)`, all frames of the video.
        """
        return np.zeros(0, np.float32)

    def compare(
        self,
        frame_vectors: StoredVectors,
        sentence: FloatArray,
        statistics: FloatArray | None = None,  # noqa: ARG002 - for encoders that need them
    ) -> tuple[FloatArray, FloatArray]:
        """Return what ranks the frames of one video for a sentence, and their evidence.

        Args:
            frame_vectors: `(frames, dimension)`, all frames of the video.
            sentence: `(sentence_dimension,)`.
            statistics: Result of `statistics` for the video; None computes it.

        Returns:
            Scores, `(frames,)`, of which only differences within the video have a meaning, and evidence, `(frames,)`.
        """
        evidence = self.evidence(frame_vectors, sentence)
        return evidence, evidence

    def score(
        self, frame_vectors: FloatArray, sentence: FloatArray, statistics: FloatArray | None = None
    ) -> FloatArray:
        """Return the scores of `compare` alone."""
        return self.compare(frame_vectors, sentence, statistics)[0]

    def knows(self, sentence: str) -> bool:  # noqa: ARG002 - for encoders of some languages
        """Return whether the encoder can know what a sentence means."""
        return True

    def notes(self, sentence: str) -> tuple[str, ...]:  # noqa: ARG002 - for encoders of some languages
        """Return sentences for the reader of an answer, such as that the encoder does not know the language."""
        return ()

    def pictures(self, frame_vectors: StoredVectors) -> FloatArray:
        """Return the part of frame vectors that can be compared with other frames, at unit length.

        Args:
            frame_vectors: `(frames, dimension)`.

        Returns:
            `(frames, picture dimension)`; the dot product of two rows is the cosine of two frames.
        """
        vectors = np.asarray(frame_vectors, np.float32)  # 1e-9 is 0 in float16
        result: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        return result

    def probability(self, frame_vectors: FloatArray, sentence: FloatArray) -> float:
        """Return the probability that the frames of one moment show a sentence: the sigmoid of their mean evidence.

        This number from 0 to 1 is shown to users as `score` and compared with `found_threshold`.

        Args:
            frame_vectors: `(frames, dimension)`, the frames of the moment, at least one.
            sentence: `(sentence_dimension,)`.
        """
        if not len(frame_vectors):
            raise ValueError("the probability of a moment needs at least one frame vector")
        return probability_of(self.evidence(frame_vectors, sentence))

    def self_test(self) -> None:
        """Score two pictures for two sentences.

        Raises:
            CheckpointError: A score is not a number, or all pictures or all sentences have equal scores.
        """
        size = _SELF_TEST_SIZE
        rows, columns = np.mgrid[:size, :size]
        sunset = np.stack([255 - rows, 120 - rows, rows], axis=-1)
        board = np.repeat(((rows // 8 + columns // 8) % 2 * 255)[..., None], 3, axis=-1)
        vectors = self.encode_frames(np.stack([sunset, board]).astype(np.uint8))
        sentences = self.encode_sentences(_SELF_TEST_SENTENCES)
        scores = np.stack([self.evidence(vectors, sentence) for sentence in sentences])
        if not np.isfinite(scores).all():
            problem = "a score is not a number"
        elif np.ptp(scores, axis=1).max() < 1e-6:
            problem = "different pictures have equal scores"
        elif np.ptp(scores, axis=0).max() < 1e-6:
            problem = "different sentences have equal scores"
        else:
            return
        raise CheckpointError(
            f"encoder {self.name} failed its test on loading: {problem}. Its weights are damaged or incomplete; "
            "download them again or choose another encoder"
        )


def probability_of(evidence: FloatArray) -> float:
    """Return the probability of a moment from the evidence of its frames, `(frames,)`."""
    return float(sigmoid(evidence.mean()))


def sigmoid(values: ArrayLike) -> NDArray[np.float64]:
    """Return the probabilities of evidence of any shape."""
    result: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(np.asarray(values, np.float64), -80, 80)))
    return result


def full_name(name: str) -> str:
    """Return the name of an encoder in any working directory: an existing folder has its absolute path."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if name != BUILT_IN and folder.is_dir() else name


def load_encoder(name: str = BUILT_IN) -> FrameTextEncoder:
    """Load an encoder and run its test.

    Args:
        name: `sight` for the encoder in the package, otherwise the folder or hub id of a CLIP or SigLIP model in the
            format of `transformers`, such as `google/siglip2-base-patch16-224`.

    Raises:
        CheckpointError: No such model, a model of another kind, or one that fails its test.
    """
    encoder: FrameTextEncoder
    if name == BUILT_IN:
        from timechat.search.sight import SightEncoder

        encoder = SightEncoder.load()
    else:
        from timechat.search.contrastive import ContrastiveEncoder

        encoder = ContrastiveEncoder.load(name)
    encoder.self_test()
    return encoder
