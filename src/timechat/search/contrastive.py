"""CLIP and SigLIP models of `transformers` as frame-text encoders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from timechat.errors import CheckpointError
from timechat.model.fingerprint import weights_fingerprint
from timechat.search.encoder import FloatArray, FrameTextEncoder, StoredVectors, full_name
from timechat.search.products import multiply

MODEL_TYPES = ("clip", "siglip")  # SigLIP 2 of a fixed resolution has the type siglip

_BATCH = 8  # frames or sentences
_BUFFERS = ("position_ids",)  # ends of the names of tensors that are not trained, which some checkpoints leave out
_CLIP_MIDDLE = 0.22  # cosine that CLIP's pairs of unrelated pictures and sentences rarely reach
_FILTERS = {2: "bilinear", 3: "bicubic"}  # numbers of PIL's filters in preprocessor configs


@dataclass(frozen=True)
class Preprocessing:
    """Preparation of frames, as the model's preprocessor config states it.

    Attributes:
        size: Height and width in pixels of the model's input.
        mean: Mean of each color channel, of values from 0 to 1.
        std: Deviation of each color channel.
        scale: Factor that brings 0..255 to 0..1.
        interpolation: `bilinear` or `bicubic`.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    interpolation: str

    @classmethod
    def from_config(cls, config: dict[str, Any], image_size: int) -> Self:
        """Read a preprocessor config. Frames are resized as a whole, also for models that crop photographs."""
        stated: Any = config.get("crop_size") or config.get("size") or image_size
        edges: dict[str, int] = stated if isinstance(stated, dict) else {"shortest_edge": stated}
        edge = edges.get("shortest_edge") or image_size
        return cls(
            size=(int(edges.get("height", edge)), int(edges.get("width", edge))),
            mean=tuple(config.get("image_mean") or (0.5, 0.5, 0.5)),
            std=tuple(config.get("image_std") or (0.5, 0.5, 0.5)),
            scale=float(config.get("rescale_factor", 1 / 255)),
            interpolation=_FILTERS.get(config.get("resample", 3), "bicubic"),
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Prepare `(frames, height, width, 3)` RGB as `(frames, 3, height, width)` float32."""
        values = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()
        if values.shape[2:] != self.size:
            values = functional.interpolate(
                values, self.size, mode=self.interpolation, antialias=True, align_corners=False
            ).clamp(0.0, 255.0)
        mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (self.mean, self.std))
        return (values * self.scale - mean) / std


class ContrastiveEncoder(FrameTextEncoder):
    """A CLIP or SigLIP model. The score is the cosine of frame and sentence.

    SigLIP's probability is that of its own loss: a sigmoid with the trained scale and bias. CLIP was trained to choose
    among sentences and has no such bias, so its probability is a sigmoid around a cosine of 0.22, without calibration.

    Args:
        name: Folder or hub id.
        model: A `CLIPModel` or `SiglipModel`.
        tokenizer: Its tokenizer.
        preprocessing: Preparation of its frames.
        licence: Licence of its weights.
    """

    cut_distance = 0.2

    def __init__(self, name: str, model: Any, tokenizer: Any, preprocessing: Preprocessing, licence: str) -> None:
        self.name, self.licence = name, licence
        self.image_size = preprocessing.size
        self._model, self._tokenizer, self._preprocessing = model.eval(), tokenizer, preprocessing
        self._is_siglip = model.config.model_type != "clip"
        self._text_length = int(model.config.text_config.max_position_embeddings)
        self._scale = float(model.logit_scale.detach().exp())
        self._bias = float(model.logit_bias.detach()) if self._is_siglip else -self._scale * _CLIP_MIDDLE
        self.dimension = self.sentence_dimension = int(
            model.config.text_config.projection_size if self._is_siglip else model.config.projection_dim
        )
        self.fingerprint = weights_fingerprint(model)

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a model by its folder or hub id.

        Raises:
            CheckpointError: There is no such model, it is not CLIP or SigLIP, or its weights are damaged or incomplete.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        name = full_name(name)
        try:
            config = AutoConfig.from_pretrained(name)
            if config.model_type not in MODEL_TYPES:
                raise CheckpointError(
                    f"{name} is a model of type {config.model_type}; an encoder must be one of {', '.join(MODEL_TYPES)}"
                )
            model, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"cannot load encoder {name}: {first_line}. "
                "Give sight, or the folder or hub id of a CLIP or SigLIP model"
            ) from error
        missing = sorted(key for key in info["missing_keys"] if not key.endswith(_BUFFERS))
        if missing:
            raise CheckpointError(
                f"cannot load encoder {name}: its weights lack {len(missing)} tensors, such as {missing[0]}; download "
                "the model again or choose another encoder"
            )
        image_size = int(config.vision_config.image_size)
        preprocessing = Preprocessing.from_config(_preprocessor_config(name), image_size)
        return cls(name, model, tokenizer, preprocessing, f"as stated by {name}")

    @torch.inference_mode()
    def encode_frames(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """Encode frames as unit vectors."""
        vectors = np.empty((len(pixels), self.dimension), np.float32)
        for start in range(0, len(pixels), _BATCH):
            values = self._preprocessing(pixels[start : start + _BATCH])
            vectors[start : start + _BATCH] = _unit(self._model.get_image_features(pixel_values=values))
        return vectors

    @torch.inference_mode()
    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """Encode sentences as unit vectors. SigLIP's are in lower case and padded to the full length of the model."""
        vectors = np.empty((len(sentences), self.dimension), np.float32)
        for start in range(0, len(sentences), _BATCH):
            texts = list(sentences[start : start + _BATCH])
            if self._is_siglip:
                texts = [text.lower() for text in texts]
            inputs = self._tokenizer(
                texts,
                padding="max_length" if self._is_siglip else True,
                max_length=self._text_length,
                truncation=True,
                return_tensors="pt",
            )
            # SigLIP was trained without a mask: its padding is part of the sentence.
            kwargs = {} if self._is_siglip else {"attention_mask": inputs["attention_mask"]}
            features = self._model.get_text_features(input_ids=inputs["input_ids"], **kwargs)
            vectors[start : start + _BATCH] = _unit(features)
        return vectors

    def evidence(self, frame_vectors: StoredVectors, sentence: FloatArray) -> FloatArray:
        """Return the logits of the model's loss."""
        (cosines,) = multiply(frame_vectors, sentence[:, None])
        result: FloatArray = np.float32(self._scale) * cosines + np.float32(self._bias)
        return result


def _preprocessor_config(name: str) -> dict[str, Any]:
    """Return the preprocessor config of a model; empty if it has none."""
    from transformers.utils import cached_file

    for file in ("preprocessor_config.json", "processor_config.json"):
        path = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if path is not None:
            config: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            part: dict[str, Any] = config.get("image_processor", config)
            return part
    return {}


def _unit(features: Any) -> NDArray[np.float32]:
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    vectors: NDArray[np.float32] = functional.normalize(pooled.float(), dim=-1).numpy()
    return vectors
