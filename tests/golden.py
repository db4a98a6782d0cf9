"""Recordings of the original system: small ones are part of the tests, others may be in `../shared`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

_HERE = Path(__file__).parent / "data" / "golden"
_BESIDE = Path(__file__).parents[2] / "shared" / "reference" / "golden"


def golden_path(name: str) -> Path:
    """Return the path of a recording, or skip the test if this checkout lacks it."""
    for folder in (_HERE, _BESIDE):
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"the recording {name} is not part of this checkout (expected in {_BESIDE.parent.name}/golden)")


@cache
def golden_tensors(case: str) -> dict[str, Tensor]:
    return load_file(golden_path(f"{case}.safetensors"))


@cache
def golden_meta() -> dict[str, Any]:
    return json.loads((_HERE / "meta.json").read_text())


@cache
def golden_host_side() -> dict[str, Any]:
    return json.loads((_HERE / "host_side.json").read_text())


# Settings that the tensors of the recorded checkpoints do not show.
GOLDEN_OVERRIDES = {
    "vision_config": {"image_size": 56, "num_attention_heads": 4},
    "qformer_config": {"num_attention_heads": 4},
    "video_qformer_config": {"num_attention_heads": 4},
}


def golden_checkpoint(**parts: str) -> dict[str, Path]:
    """Return the recorded original files, as `OriginalFiles.find` takes them."""
    files = {
        "vit": "eva_vit_g.pth",
        "qformer": "instruct_blip.pth",
        "llm": "llama",
        "bert_vocab": "bert/vocab.txt",
    }
    return {part: golden_path(f"checkpoints/{name}") for part, name in (files | parts).items()}
