"""What an evaluation is: frozen dataclasses, read from one YAML file of `recipes/`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import DecodingOptions, find_preset
from timechat.config import build, merge, read_mapping, read_overrides
from timechat.data.settings import FrameRateSettings
from timechat.evaluation.benchmarks import BENCHMARKS

Setting = Literal["zero-shot", "fine-tuned"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What is asked, about which videos."""

    name: str
    """One of `timechat.evaluation.benchmarks.BENCHMARKS`."""
    annotations: str
    """The benchmark's own file of annotations, or the folder of its files."""
    videos: str
    """Folder of its videos."""
    split: str = "val"
    """Of the annotations, where one folder holds several."""
    transcripts: str | None = None
    """Folder of what is said in each video, told with the question; None tells nothing."""
    setting: Setting | None = None
    """With which published figures ours are to be compared."""

    def __post_init__(self) -> None:
        if self.name not in BENCHMARKS:
            raise ValueError(f"benchmark.name must be one of {', '.join(BENCHMARKS)}, got {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class EvaluatedModelSettings:
    """Who answers."""

    checkpoint: str = "nano"
    """`nano`, a folder made by `timechat convert`, or a hub id."""
    device: str = "auto"
    """`cuda`, `mps`, `cpu` or `auto`."""
    dtype: str = "auto"
    """Number format, as `TimeChat.from_pretrained` takes it."""
    lora_alpha: float | None = None
    """Strength of the adapter, which the original sets to 20 for question answering; None keeps the checkpoint's."""
    timestamp_tokenizer: Literal["bert", "llama"] | None = None
    """Vocabulary of the time sentences; None keeps the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class FrameSettings(FrameRateSettings):
    """Frames of a video; without any number, those of the model's configuration."""

    windows: bool = False
    """Whether long videos are looked at window by window, as `timechat ground` does; else each video at one look."""
    timeout: float = 600.0
    """Seconds after which reading a video is given up."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRunSettings:
    """How the work is done."""

    output: str = "runs/evaluate"
    """Folder of the run."""
    batch_size: int = 16
    """Questions that are answered at once, and videos that are held for them."""
    limit: int | None = None
    """The first so many samples; None takes all."""
    resamples: int = 2000
    """Bootstrap resamples behind the intervals."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit", "resamples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """One evaluation."""

    benchmark: BenchmarkSettings
    name: str = "evaluate"
    """Of the run."""
    model: EvaluatedModelSettings = field(default_factory=EvaluatedModelSettings)
    """Who answers."""
    frames: FrameSettings = field(default_factory=FrameSettings)
    """Which frames are looked at."""
    preset: str = DEFAULT_PRESET
    """Wording of questions and system prompt."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """How answers are written: greedy, unless `do_sample`."""
    run: EvaluationRunSettings = field(default_factory=EvaluationRunSettings)
    """How the work is done."""

    def __post_init__(self) -> None:
        find_preset(self.preset)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> EvaluationRecipe:
    """Read a recipe; `${NAME}` in a value is replaced by the environment's variable.

    Args:
        path: The YAML file.
        overrides: `section.key=value`, the value as YAML.

    Raises:
        ValueError: The file is no YAML mapping, a key is unknown, a value does not fit, or a variable is not set.
    """
    return build(EvaluationRecipe, merge(read_mapping(path), read_overrides(overrides)), str(path))
