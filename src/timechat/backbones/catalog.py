"""Known video language models: what each needs, what is published about it, and what was tried with this software."""

from dataclasses import asdict, dataclass
from typing import Any

MEMORY_SHARE = 0.9
"""Share of the memory of a machine that a model may take in the recommendations."""

_TIMELENS = "model cards and README of TimeLens and TimeLens2, 2026"
_STUDIED = "a random model of this architecture and small size; the published weights were not tried"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that the engine can use.

    Attributes:
        name: Value of `--model`, or the name of the model for a server.
        parameters: Number of parameters in billions.
        download: Size of the download in GB.
        memory: Approximate memory in GB of the device that runs it: weights, and key-value states and features of a
            window of 64 s; computed, not measured.
        licence: Licence of the weights as their page states it; None if it was not looked up.
        good_at: What the model is made for.
        metrics: Published mIoU of TimeLens-Bench (Charades, ActivityNet, QVHighlights) in percent; None without.
        source: Source of the metrics; None without metrics.
        tried: What was run with this software.
        through_server: Whether the size is that of 4-bit weights for a local server such as Ollama or llama.cpp.
    """

    name: str
    parameters: float
    download: float
    memory: float
    licence: str | None
    good_at: str
    metrics: tuple[float, float, float] | None = None
    source: str | None = None
    tried: str = _STUDIED
    through_server: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return all facts, ready for JSON."""
        return asdict(self)


MODELS = (
    KnownModel(
        "nano",
        0.001,
        0.0,
        1.0,
        "as this software",
        "synthetic videos only: demo and tests",
        tried="everything; built in, no download",
    ),
    KnownModel(
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        0.5,
        2.0,
        2.5,
        "Apache-2.0",
        "captions and questions on a small machine; times are rough",
    ),
    KnownModel(
        "qwen3-vl:2b (a server such as Ollama)",
        2.1,
        1.9,
        4.0,
        None,
        "captions, questions and rough times on a CPU, 4-bit weights",
        tried="the requests, against test servers; not this model",
        through_server=True,
    ),
    KnownModel("MCG-NJU/TimeLens2-2B", 2.1, 4.3, 7.1, "Apache-2.0", "grounding"),
    KnownModel(
        "qwen3-vl:4b (a server such as Ollama)",
        4.4,
        3.3,
        6.5,
        None,
        "captions, questions and times, 4-bit weights",
        tried="the requests, against test servers; not this model",
        through_server=True,
    ),
    KnownModel("MCG-NJU/TimeLens2-4B", 4.4, 8.9, 12.5, "Apache-2.0", "grounding", (57.7, 59.0, 69.3), _TIMELENS),
    KnownModel("Qwen/Qwen3-VL-4B-Instruct", 4.4, 8.9, 12.5, None, "captions, questions, summaries"),
    KnownModel("TencentARC/TimeLens-8B", 8.8, 17.5, 21.0, None, "grounding", (55.2, 53.2, 65.5), _TIMELENS),
    KnownModel("MCG-NJU/TimeLens2-8B", 8.8, 17.5, 21.0, "Apache-2.0", "grounding", (58.6, 58.6, 70.2), _TIMELENS),
    KnownModel(
        "Qwen/Qwen3-VL-8B-Instruct",
        8.8,
        17.5,
        21.0,
        "Apache-2.0",
        "captions, questions, summaries",
        (48.3, 46.8, 59.4),
        _TIMELENS,
    ),
    KnownModel("TencentARC/TimeLens-7B", 8.3, 16.6, 20.0, "BSD-3-Clause", "grounding", (48.8, 46.2, 56.0), _TIMELENS),
    KnownModel(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        8.3,
        16.6,
        20.0,
        None,
        "captions, questions",
        (39.3, 31.4, 31.6),
        _TIMELENS,
    ),
    KnownModel(
        "Qwen/Qwen3-VL-32B-Instruct",
        33.0,
        66.0,
        72.0,
        None,
        "captions, questions, summaries, through vLLM",
        tried="the requests, against a vLLM server with a tiny model; not this model",
    ),
)
"""Known models, the smallest first."""

RECOMMENDED = {
    8: ("qwen3-vl:2b (a server such as Ollama)", "MCG-NJU/TimeLens2-2B"),
    16: ("qwen3-vl:4b (a server such as Ollama)", "MCG-NJU/TimeLens2-4B"),
    24: ("Qwen/Qwen3-VL-8B-Instruct", "MCG-NJU/TimeLens2-8B"),
    80: ("Qwen/Qwen3-VL-32B-Instruct", "MCG-NJU/TimeLens2-8B"),
}
"""By the memory of the device in GB: the model for captions and questions, and the one for grounding."""


def models_within(memory: float) -> list[KnownModel]:
    """Return the models that fit a device of `memory` GB, the largest first."""
    fitting = [model for model in MODELS if model.memory <= memory * MEMORY_SHARE]
    return sorted(fitting, key=lambda model: -model.memory)


def recommended(memory: float) -> tuple[str, str] | None:
    """Return the model for captions and the one for grounding on a device of `memory` GB; None below 8 GB."""
    sizes = [size for size in RECOMMENDED if size <= memory]
    return RECOMMENDED[max(sizes)] if sizes else None
