"""all-MiniLM-L6-v2: a sentence -> 384 numbers of unit length."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from timechat.search.encoder import FloatArray

_HIDDEN_SIZE = 384
_MAX_TOKENS = 128
_BATCH = 32  # sentences
_SCALE = ".scale"  # suffix of the factors of a weight stored as int8


class MiniLM:
    """The sentence encoder, computed in float32.

    Args:
        tensors: Weights by the names of `BertModel`, and the factors of int8 weights under `NAME.scale`.
        tokenizer: JSON of the tokenizer.
    """

    def __init__(self, tensors: Mapping[str, Tensor], tokenizer: str) -> None:
        from transformers import BertConfig, BertModel

        config = BertConfig(
            hidden_size=_HIDDEN_SIZE,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=4 * _HIDDEN_SIZE,
            vocab_size=tensors["embeddings.word_embeddings.weight"].shape[0],
        )
        self._model = BertModel(config, add_pooling_layer=False).eval()
        self._model.load_state_dict(from_int8(tensors))
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")

    def knows(self, sentence: str) -> bool:
        """Return whether a sentence has a word in Latin letters and at most half of its tokens are unknown."""
        tokens = self._tokenizer.encode(sentence, add_special_tokens=False).tokens
        return 2 * tokens.count("[UNK]") <= len(tokens) and re.search("[a-zA-Z]{2}", sentence) is not None

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> FloatArray:
        """Encode sentences; the result is `(sentences, 384)`."""
        vectors = np.empty((len(sentences), _HIDDEN_SIZE), np.float32)
        for start in range(0, len(sentences), _BATCH):
            encodings = self._tokenizer.encode_batch(list(sentences[start : start + _BATCH]))
            input_ids = torch.tensor([encoding.ids for encoding in encodings])
            mask = torch.tensor([encoding.attention_mask for encoding in encodings])
            hidden = self._model(input_ids=input_ids, attention_mask=mask).last_hidden_state
            means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            vectors[start : start + _BATCH] = functional.normalize(means, dim=-1).numpy()
        return vectors


def to_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store matrices as int8 with one factor per row, and all other tensors as float32."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            stored[name] = tensor.float()
            continue
        scale = tensor.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        stored[name], stored[name + _SCALE] = (tensor / scale).round().to(torch.int8), scale
    return stored


def from_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `to_int8`."""
    return {
        name: tensor.float() * tensors[name + _SCALE] if name + _SCALE in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(_SCALE)
    }
