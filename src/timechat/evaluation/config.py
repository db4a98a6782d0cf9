"""What an evaluation is: frozen dataclasses, read from one YAML file of `recipes/`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import DecodingOptions, find_preset
from timechat.config import build, merge, read_mapping, read_overrides
from timechat.data.settings import FrameRateSettings

Setting = Literal["zero-shot", "fine-tuned"]
Wording = Literal["preset", "annotations"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What is asked, about which videos."""

    name: str
    """Name of the benchmark: one of `timechat.evaluation.benchmarks.BENCHMARKS`, or one that the caller hands in."""
    annotations: str
    """The benchmark's own file of annotations, or the folder of its files."""
    videos: str
    """Folder of its videos."""
    split: str = "val"
    """Of the annotations, where one folder holds several."""
    transcripts: str | None = None
    """Folder of what is said in each video, told with the question; None tells nothing."""
    setting: Setting | None = None
    """Setting of the published metrics that `--compare` shows."""
    wording: Wording = "preset"
    """Wording of the questions: of the recipe's preset, or of the annotations, where these have one of their own."""


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
    step: float | None = None
    """With windows: seconds between two frames of the first pass; None takes the model's own."""
    refine: bool | None = None
    """With windows: whether the borders of a moment are read again with denser frames; None decides by the step."""
    timeout: float = 600.0
    """Seconds after which reading a video is given up."""

    def __post_init__(self) -> None:
        if not self.windows and (self.step is not None or self.refine is not None):
            raise ValueError("frames.step and frames.refine need frames.windows=true")


@dataclass(frozen=True, kw_only=True)
class MomentSettings:
    """Which moments grounding keeps with `frames.windows`."""

    find_all: bool = True
    """All moments, instead of the best one."""
    threshold: float | None = 0.0
    """Lowest score, from 0 to 1, of a moment that counts as found; null takes the model's threshold."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRunSettings:
    """How the work is done."""

    output: str = "runs/evaluate"
    """Folder of the run."""
    batch_size: int = 16
    """Questions that are answered at once, and videos that are held for them."""
    limit: int | None = None
    """The first so many samples; None takes all."""
    per_video: int | None = None
    """Maximum number of samples about one video, evenly spaced in the order of the annotations; null takes all."""
    resamples: int = 2000
    """Bootstrap resamples behind the intervals."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit", "per_video", "resamples"):
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
    moments: MomentSettings = field(default_factory=MomentSettings)
    """Which moments grounding keeps with `frames.windows`."""
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
