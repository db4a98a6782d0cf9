"""Configuration of an evaluation: frozen dataclasses, read from one YAML file of `recipes/`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import DecodingOptions, find_preset
from timechat.config import build, merge, read_mapping, read_overrides
from timechat.data.settings import FrameRateSettings

Setting = Literal["zero-shot", "fine-tuned"]
Wording = Literal["preset", "annotations"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Questions and videos of an evaluation."""

    name: str
    """Name of the benchmark: a key of `timechat.evaluation.benchmarks.BENCHMARKS`, or of the caller's benchmarks."""
    annotations: str
    """File of annotations in the benchmark's own format, or a folder of such files."""
    videos: str
    """Folder of the videos."""
    split: str = "val"
    """Split of the annotations, if one folder holds several splits."""
    transcripts: str | None = None
    """Folder of transcripts, which are added to the questions; None adds no speech."""
    setting: Setting | None = None
    """Setting of the published metrics that `--compare` shows."""
    wording: Wording = "preset"
    """Source of the questions' wording: the recipe's preset, or the annotations, if they have their own wording."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedModelSettings:
    """Model that answers the questions."""

    checkpoint: str = "nano"
    """Model, with the values of `TimeChat.from_pretrained`: `nano`, a folder, a hub id, or the address of a server."""
    picture_side: int | None = None
    """Size of pictures as in `TimeChat.from_pretrained`; null uses the default of the model."""
    api_key_env: str | None = None
    """Environment variable with the key of a server; null uses `OPENAI_API_KEY`."""
    device: str = "auto"
    """Device: `cuda`, `mps`, `cpu` or `auto`."""
    dtype: str = "auto"
    """Number format of the weights, with the values of `TimeChat.from_pretrained`."""
    quantize: Literal["int8", "int4", "bnb8", "bnb4"] | None = None
    """Format to which weights are rounded, as in `TimeChat.from_pretrained`; null keeps the checkpoint's format."""
    engine: Literal["vllm"] | None = None
    """Engine that writes the answers, as in `TimeChat.from_pretrained`; null uses TimeChat's own."""
    engine_options: dict[str, Any] | None = None
    """Options of that engine by name."""
    lora_alpha: float | None = None
    """Strength of the adapter; the original uses 20 for question answering. None keeps the checkpoint's value."""
    timestamp_tokenizer: Literal["bert", "llama"] | None = None
    """Tokenizer of the timestamp sentences; None keeps the checkpoint's value."""


@dataclass(frozen=True, kw_only=True)
class FrameSettings(FrameRateSettings):
    """Frame options of each video; without any value, the model's configuration decides."""

    windows: bool = False
    """Whether videos are processed window by window, as in `timechat ground`; if false, each video is one window."""
    step: float | None = None
    """Seconds between two frames of the first pass over windows; None uses the model's value."""
    refine: bool | None = None
    """Whether a second pass with denser frames refines the borders of a moment in windows; None decides by the step."""
    timeout: float = 600.0
    """Time limit in seconds for reading a video."""

    def __post_init__(self) -> None:
        if not self.windows and (self.step is not None or self.refine is not None):
            raise ValueError("frames.step and frames.refine need frames.windows=true")


@dataclass(frozen=True, kw_only=True)
class MomentSettings:
    """Selection of the moments that grounding keeps with `frames.windows`."""

    find_all: bool = True
    """Whether all moments are kept, instead of the best one."""
    threshold: float | None = 0.0
    """Lowest score, from 0 to 1, of a moment that counts as found; null uses the model's threshold."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRunSettings:
    """Execution of the run."""

    output: str = "runs/evaluate"
    """Folder of the run."""
    batch_size: int = 16
    """Number of questions per batch, and number of videos in memory for them."""
    limit: int | None = None
    """Number of samples, from the first one; None uses all."""
    sample_num: int | None = None
    """Number of samples of a random subset, to which `limit` then applies; None uses all."""
    sample_seed: int = 42
    """Random seed of the subset. A larger `sample_num` with the same seed adds samples to the subset."""
    per_video: int | None = None
    """Maximum number of samples about one video, evenly spaced in the order of the annotations; null uses all."""
    resamples: int = 2000
    """Number of bootstrap resamples for the intervals."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit", "sample_num", "per_video", "resamples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """Recipe of one evaluation."""

    benchmark: BenchmarkSettings
    name: str = "evaluate"
    """Name of the run."""
    model: EvaluatedModelSettings = field(default_factory=EvaluatedModelSettings)
    """Model that answers the questions."""
    frames: FrameSettings = field(default_factory=FrameSettings)
    """Sampling of frames from each video."""
    moments: MomentSettings = field(default_factory=MomentSettings)
    """Selection of the moments that grounding keeps with `frames.windows`."""
    preset: str = DEFAULT_PRESET
    """Preset of the questions' wording and the system prompt."""
    post_check: bool = False
    """Whether a second turn asks the model to correct the form of its answer about events; its second answer counts."""
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    """Decoding options of the answers: greedy unless `do_sample` is true."""
    run: EvaluationRunSettings = field(default_factory=EvaluationRunSettings)
    """Execution of the run."""

    def __post_init__(self) -> None:
        find_preset(self.preset)
        if self.post_check and self.frames.windows:
            raise ValueError(
                "post_check continues the conversation about one window; set frames.windows=false or post_check=false"
            )


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> EvaluationRecipe:
    """Read a recipe; environment variables replace `${NAME}` in values.

    Args:
        path: Path of the YAML file.
        overrides: Settings as `section.key=value`, with the value in YAML.

    Raises:
        ValueError: The file is not a YAML mapping, a key is unknown, a value is invalid, or a variable is not set.
    """
    return build(EvaluationRecipe, merge(read_mapping(path), read_overrides(overrides)), str(path))
