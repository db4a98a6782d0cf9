"""What a training run is: frozen dataclasses, read from one YAML file by `timechat.training.recipes`."""

from dataclasses import dataclass, field
from typing import Literal

from timechat.data.settings import FrameRateSettings

Precision = Literal["fp32", "bf16", "fp16"]
Parallel = Literal["none", "ddp", "fsdp2"]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter of the language model, made by PEFT where the checkpoint brings none."""

    rank: int = 32
    """Width of the adapter; a checkpoint's own adapter must have the same."""
    alpha: float = 32
    """Strength: the adapter's product is scaled by `alpha / rank`."""
    dropout: float = 0.1
    """Share of the adapter's inputs that is dropped in training."""
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the language model's layers that are adapted."""

    def __post_init__(self) -> None:
        _at_least("model.lora.rank", self.rank, 1)
        _share("model.lora.dropout", self.dropout)


@dataclass(frozen=True, kw_only=True)
class TrainedModelSettings:
    """Where training starts, and what it may change."""

    checkpoint: str = "nano"
    """A folder made by `timechat convert`, a hub id, or `nano`."""
    heads: str | None = None
    """File of what helps in training and is not exported, `heads.safetensors` of another run's folder, to start from;
    for nano's objectives. The later stages of a recipe take those of the stage before."""
    start: Literal["nano_comparing"] | None = None
    """What is done to the model before training; `nano_comparing` lets nano's video Q-Former start as a comparison."""
    train: list[str] = field(default_factory=lambda: ["image_qformer", "video_qformer", "projection", "lora"])
    """Parts that learn: `vision`, `image_qformer`, `video_qformer`, `projection`, `lora`, `language_model`, or the
    beginning of parameter names. Everything else is frozen."""
    freeze: list[str] = field(default_factory=list)
    """Beginnings of names of parameters that do not learn although `train` names them; also of what helps in training,
    `training_heads.`, all of which learns otherwise."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The adapter; only of effect where `lora` is among `train`."""
    timestamp_tokenizer: Literal["bert", "llama"] | None = None
    """Vocabulary of the time sentences; the original trains with `llama` and answers with `bert`. None keeps the
    checkpoint's."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How attention is computed."""
    language_model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the language model's frozen weights; everything else, and all that learns, is in float32."""
    gradient_checkpointing: bool = False
    """Compute the language model's layers twice instead of remembering what they did: less memory, more time."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One set of instruction records."""

    records: str
    """File of records."""
    name: str | None = None
    """What the source is called in reports; None takes the file's name."""
    videos: str | None = None
    """Folder that the records' video paths start from; None takes the folder of the records."""
    format: Literal["auto", "timechat", "instruct", "valley"] = "auto"
    """How the records are written: `timechat`, JSON Lines of ours; `instruct`, as TimeIT is published; `valley`;
    `auto` looks into the file."""
    weight: float = 1.0
    """Share of the samples, relative to the other sources' weights."""
    transcripts: str | None = None
    """Folder of speech transcripts, a `VIDEO_NAME.txt` a video; see `data.transcripts`."""

    def __post_init__(self) -> None:
        _above("data.sources[].weight", self.weight, 0)


@dataclass(frozen=True, kw_only=True)
class SyntheticDataSettings:
    """Drawn films to learn from, made as they are needed; how the built-in nano model is trained."""

    seed: int = 0
    """Of the films; other seeds are other films."""
    levels: list[int] = field(default_factory=lambda: [1, 1, 2, 3])
    """How hard the films are; one of these is drawn for each, so that repeating a level gives it a larger share."""
    num_films: int | None = None
    """Films that are drawn once and then learned from again and again, as features of the frozen parts kept in
    `features` of the run's folder; None draws new ones for every batch."""
    longest: list[float] = field(default_factory=list)
    """Seconds: longest film in each of as many equal parts of the run; empty lets in all from the start."""
    questions: int = 8
    """Questions about a film, in one sequence."""
    brief_share: float = 0.0
    """Share of the run, from its start, in which questions are worded as shortly as they can be and nearly all ask
    after one event."""

    def __post_init__(self) -> None:
        _at_least("data.films.questions", self.questions, 1)
        _share("data.films.brief_share", self.brief_share)
        if not self.levels or not set(self.levels) <= {1, 2, 3}:
            raise ValueError(f"data.films.levels must be a list of 1, 2 and 3, got {self.levels}")


@dataclass(frozen=True, kw_only=True)
class SyntheticValidationSettings:
    """Drawn films that grounding is validated on: of the test split, which no training sees."""

    level: int = 1
    """How hard they are."""
    num_films: int = 40
    """How many."""
    seed: int = 0
    """Of the films."""

    def __post_init__(self) -> None:
        _at_least("data.validation_films.num_films", self.num_films, 1)
        if self.level not in (1, 2, 3):
            raise ValueError(f"data.validation_films.level must be 1, 2 or 3, got {self.level}")


@dataclass(frozen=True, kw_only=True)
class DataSettings(FrameRateSettings):
    """What is learned from."""

    sources: list[SourceSettings] = field(default_factory=list)
    """The sets of records; a batch never mixes them."""
    films: SyntheticDataSettings | None = None
    """Drawn films instead of records."""
    validation_films: SyntheticValidationSettings | None = None
    """What every `run.validate_every` steps is validated on: grounding, by real decoding."""
    num_frames: int = 96
    """Number of frames of a video, unless `fps` is given."""
    sampling: Literal["random", "uniform"] = "random"
    """Where in each of equal intervals a frame is taken: anywhere, or at its start."""
    augmentation: bool = True
    """Random resized crops, as the original trains with."""
    features: str | None = None
    """Folder made by `timechat data encode`, to train from instead of pixels."""
    max_length: int = 2048
    """Tokens of a conversation; what is longer is cut."""
    transcripts: bool = False
    """Show what is said in a video before the first question, where it is known."""
    workers: int = 2
    """Threads that read videos; 0 reads each batch when it is its turn."""
    timeout: float = 120.0
    """Seconds that reading one video may take."""
    max_bad_share: float = 0.01
    """The run stops when a larger share of the samples cannot be read."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_length"):
            _at_least(f"data.{name}", getattr(self, name), 1)
        _at_least("data.workers", self.workers, 0)
        _share("data.max_bad_share", self.max_bad_share)
        if self.fps is not None:
            _above("data.fps", self.fps, 0)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its learning rate."""

    lr: float = 3e-5
    """Highest learning rate."""
    min_lr: float = 1e-5
    """Learning rate at the end."""
    warmup_lr: float = 1e-6
    """Learning rate at the start."""
    warmup_iters: int = 0
    """Iterations (batches, as `run.iters_per_epoch` counts them) over which the rate rises to `lr`."""
    schedule: Literal["cosine", "constant", "original"] = "cosine"
    """After warm-up: half a cosine down to `min_lr`; `lr` throughout; or as the original: a cosine over the whole
    run that does not know of the warm-up (so the rate drops where that ends), set every batch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradients and of their squares."""
    eps: float = 1e-8
    """What is added to the root of the squares' mean."""
    weight_decay: float = 0.05
    """Of matrices whose name holds none of `bias`, `ln`, `bn`; everything else decays not at all."""
    clip_norm: float | None = 1.0
    """Largest norm of all gradients together; None as in the original, which does not clip."""
    eight_bit: bool = False
    """Keep the optimiser's running means in 8 bits (needs bitsandbytes and a GPU)."""

    def __post_init__(self) -> None:
        _above("optimizer.lr", self.lr, 0)
        _at_least("optimizer.warmup_iters", self.warmup_iters, 0)
        if self.clip_norm is not None:
            _above("optimizer.clip_norm", self.clip_norm, 0)


@dataclass(frozen=True, kw_only=True)
class TrainingRunSettings:
    """How long, how large, on what, and what is kept.

    An iteration is one batch on every process; a step is one change of the weights, after `accumulation` iterations.
    """

    steps: int | None = None
    """Steps of the run; or give `epochs` and `iters_per_epoch`."""
    epochs: int | None = None
    """Times `iters_per_epoch` iterations, instead of `steps`."""
    iters_per_epoch: int | None = None
    """Iterations of an epoch; the data never end, so an epoch is a matter of counting."""
    batch_size: int = 1
    """Samples of an iteration, on each process."""
    accumulation: int = 1
    """Iterations of a step."""
    loss_mean: Literal["tokens", "micro_batch"] = "tokens"
    """What the loss is a mean of: all answer tokens of a step, over all processes; or, as in the original, the
    tokens of each batch, and of that a mean over batches and processes."""
    divide_loss_by_accumulation: bool = True
    """With `micro_batch`: false adds up the batches of a step, as the original does."""
    leftover: Literal["continue", "original"] = "continue"
    """Where an epoch's iterations do not divide by `accumulation`: steps go on across the border; or, as in the
    original, the leftover gradients are added to the next epoch's first step."""
    precision: Precision = "fp32"
    """Number format of the arithmetic; `fp16` scales the loss, as half precision needs."""
    parallel: Parallel = "none"
    """With `torchrun`: `ddp` copies the model to every process, `fsdp2` spreads it over them."""
    device: str = "auto"
    """Where to compute, as torch names it."""
    seed: int = 42
    """Of the data's order, dropout and fresh weights; process r adds r for its dropout."""
    save_every: int = 500
    """Steps from checkpoint to checkpoint; the last step always makes one."""
    keep_checkpoints: int = 2
    """Latest checkpoints that are kept, besides the best."""
    validate_every: int | None = None
    """Steps from validation to validation; None does without."""
    best_metric: str | None = None
    """Validation metric whose best checkpoint is kept and exported; None exports the last."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Which value of `best_metric` is best."""
    log_every: int = 1
    """Steps from log line to log line."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    plot: bool = True
    """Draw the losses at the end."""
    wandb: str | None = None
    """Project of Weights & Biases to write to as well."""
    export: list[Literal["folder", "adapter", "original"]] = field(default_factory=lambda: ["folder"])
    """What is written at the end: a `from_pretrained` folder `model/`, a PEFT folder `adapter/`, the original's
    `original.pth`."""
    output: str = "runs/train"
    """Folder of the run."""

    def __post_init__(self) -> None:
        by_epochs = self.epochs is not None and self.iters_per_epoch is not None
        if (self.steps is None) == (not by_epochs) or (self.steps is not None and self.epochs is not None):
            raise ValueError(
                f"give either run.steps or both run.epochs and run.iters_per_epoch, got steps={self.steps}, "
                f"epochs={self.epochs}, iters_per_epoch={self.iters_per_epoch}"
            )
        counts = ("batch_size", "accumulation", "save_every", "keep_checkpoints", "log_every", "validate_every")
        for name in (*counts, "steps", "epochs", "iters_per_epoch"):
            if getattr(self, name) is not None:
                _at_least(f"run.{name}", getattr(self, name), 1)
        if self.loss_mean == "tokens" and not self.divide_loss_by_accumulation:
            raise ValueError(
                "run.divide_loss_by_accumulation=false needs run.loss_mean=micro_batch: a mean over all tokens of a "
                "step has nothing to add up"
            )
        if self.leftover == "original" and self.iters_per_epoch is None:
            raise ValueError("run.leftover=original needs run.epochs and run.iters_per_epoch instead of run.steps")
        if self.best_metric is not None and self.validate_every is None:
            raise ValueError(f"run.best_metric={self.best_metric} needs run.validate_every")
        if self.parallel == "fsdp2" and self.precision == "fp16":
            raise ValueError("run.parallel=fsdp2 does not scale losses; use run.precision=bf16 instead of fp16")

    @property
    def iters(self) -> int:
        """Iterations of the run."""
        if self.steps is not None:
            return self.steps * self.accumulation
        assert self.epochs is not None
        assert self.iters_per_epoch is not None
        return self.epochs * self.iters_per_epoch


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """A training run."""

    name: str = "train"
    """What the run is called in logs."""
    objective: str = "answers"
    """What is learned; a name of `timechat.training.objectives.OBJECTIVES`."""
    model: TrainedModelSettings = field(default_factory=TrainedModelSettings)
    """Where training starts, and what it may change."""
    data: DataSettings = field(default_factory=DataSettings)
    """What is learned from."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """AdamW and its learning rate."""
    run: TrainingRunSettings
    """How long, how large, on what, and what is kept."""

    def __post_init__(self) -> None:
        if self.optimizer.warmup_iters > self.run.iters:
            raise ValueError(
                f"optimizer.warmup_iters={self.optimizer.warmup_iters} is longer than the run of {self.run.iters} "
                "iterations"
            )
        if self.optimizer.schedule == "original" and self.run.iters_per_epoch is None:
            raise ValueError("optimizer.schedule=original needs run.epochs and run.iters_per_epoch")
        if self.optimizer.eight_bit and self.run.parallel == "fsdp2":
            raise ValueError(
                "optimizer.eight_bit does not go with run.parallel=fsdp2, which spreads the states already"
            )


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _above(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ValueError(f"{name} must be above {bound}, got {value}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")
