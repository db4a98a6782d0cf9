"""Settings of a training run: frozen dataclasses, read from one YAML file by `timechat.training.recipes`."""

from dataclasses import dataclass, field
from typing import Literal

from timechat.answers.prompts import ChatStyle
from timechat.data.settings import FrameRateSettings

Precision = Literal["fp32", "bf16", "fp16"]
Parallel = Literal["none", "ddp", "fsdp2", "hsdp"]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter of the language model, made by PEFT if the checkpoint has none."""

    rank: int = 32
    """Rank of the adapter; an adapter in the checkpoint must have the same rank."""
    alpha: float = 32
    """Strength of the adapter: its output is multiplied by `alpha / rank`."""
    dropout: float = 0.1
    """Dropout probability of the inputs of the adapter."""
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the adapted layers of the language model."""

    def __post_init__(self) -> None:
        _at_least("model.lora.rank", self.rank, 1)
        _share("model.lora.dropout", self.dropout)


@dataclass(frozen=True, kw_only=True)
class TrainedModelSettings:
    """Start checkpoint and trained parts of the model."""

    checkpoint: str = "nano"
    """Start checkpoint: a folder made by `timechat convert`, a hub id, or `nano`."""
    heads: str | None = None
    """File with start weights of the heads, which are for training only: `heads.safetensors` of another run. It is
    for nano's objectives. The later stages of a recipe use the heads of the stage before."""
    start: str | None = None
    """Name of an initializer of the objective, which changes the model before training."""
    train: list[str] = field(default_factory=lambda: ["image_qformer", "video_qformer", "projection", "lora"])
    """Trained parts: `vision`, `image_qformer`, `temporal`, `video_qformer`, `projection`, `lora`, `language_model`, or
    the start of parameter names. All other parameters are frozen."""
    freeze: list[str] = field(default_factory=list)
    """Starts of names of parameters that are frozen although `train` names them. They may start with `training_heads.`;
    all heads are trained otherwise."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Settings of the adapter; they have an effect only if `train` contains `lora`."""
    timestamp_tokenizer: Literal["bert", "llama"] | None = None
    """Vocabulary of the time sentences in training; the original trains with `llama` and answers with `bert`. None
    takes that of the checkpoint. The exported model answers with the vocabulary of the checkpoint in any case."""
    chat_style: ChatStyle | None = None
    """Chat format of training and of the exported model: `llama_2`, or `vicuna` as in the original's older models.
    None keeps that of the checkpoint."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Implementation of attention."""
    language_model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the frozen weights of the language model in training; all other and all trained weights are
    float32. The exported folder has the frozen weights of the checkpoint, unrounded."""
    gradient_checkpointing: bool = False
    """Whether to compute the layers of the language model twice, which saves the memory of activations."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One set of instruction records."""

    records: str
    """File of records: a path or an address (`s3://`, ...); or WebDataset shards: a `.tar` file, or a pattern such as
    `shards/*.tar`; or `hf-dataset://NAME?split=train`, a data set of the `datasets` library."""
    name: str | None = None
    """Name of the source in reports; None takes the name of the file or data set."""
    videos: str | None = None
    """Base folder or address of the video paths in the records; None takes the folder of the records."""
    format: Literal["auto", "timechat", "instruct", "valley"] = "auto"
    """Format of the records: `timechat`, ours; `instruct`, that of TimeIT; `valley`, `conversations` as in Valley and
    LLaVA; `auto` detects the format of each record."""
    weight: float = 1.0
    """Share of the samples, relative to the weights of the other sources."""
    transcripts: str | None = None
    """Folder of transcripts, one `VIDEO_NAME.txt` per video; see `data.transcripts`."""

    def __post_init__(self) -> None:
        _above("data.sources[].weight", self.weight, 0)


@dataclass(frozen=True, kw_only=True)
class SyntheticDataSettings:
    """Synthetic training videos, made during training; the built-in nano model is trained with them."""

    seed: int = 0
    """Random seed of the videos."""
    levels: list[int] = field(default_factory=lambda: [1, 1, 2, 3])
    """Levels of difficulty; one of them is drawn for each video, so repeating a level gives it a larger share."""
    num_films: int | None = None
    """Number of videos that are used repeatedly, as features of the frozen parts in the folder `features` beside the
    run; None makes new videos for every batch."""
    longest: list[float] = field(default_factory=list)
    """Maximum length of videos in seconds, one value per part of the run, in equal parts; empty means no limit."""
    questions: int = 8
    """Maximum number of questions about a video, in one sequence."""
    brief_share: float = 0.0
    """Share of the run, from its start, in which questions have their shortest wording and almost all are about one
    event."""
    window_share: float = 0.0
    """Share of the samples that are windows of a minute of long videos instead of whole videos."""
    negative_share: float | None = None
    """Share of the grounding questions whose query does not happen; None keeps that of the records, one in eight."""
    highlights: int | None = None
    """Maximum number of questions about highlights of a video; None keeps one or two, of most videos. With a number,
    questions of the kinds that are learned least are preferred."""
    timestamps: bool = True
    """Whether the sentence of each frame states its time; False states 0 seconds for every frame, for an ablation."""

    def __post_init__(self) -> None:
        _at_least("data.films.questions", self.questions, 1)
        _at_least("data.films.highlights", 1 if self.highlights is None else self.highlights, 1)
        _share("data.films.brief_share", self.brief_share)
        _share("data.films.window_share", self.window_share)
        _share("data.films.negative_share", self.negative_share or 0.0)
        if not self.levels or not set(self.levels) <= {1, 2, 3}:
            raise ValueError(f"data.films.levels must be a list of 1, 2 and 3, got {self.levels}")


@dataclass(frozen=True, kw_only=True)
class SyntheticValidationSettings:
    """Synthetic videos for the validation of grounding, from the test split, which training never uses."""

    level: int = 1
    """Level of difficulty, 1 to 3."""
    num_films: int = 40
    """Number of videos."""
    seed: int = 0
    """Random seed of the videos."""

    def __post_init__(self) -> None:
        _at_least("data.validation_films.num_films", self.num_films, 1)
        if self.level not in (1, 2, 3):
            raise ValueError(f"data.validation_films.level must be 1, 2 or 3, got {self.level}")


@dataclass(frozen=True, kw_only=True)
class DataSettings(FrameRateSettings):
    """Training data."""

    sources: list[SourceSettings] = field(default_factory=list)
    """Sets of records; all samples of a batch come from one set."""
    films: SyntheticDataSettings | None = None
    """Synthetic videos instead of records."""
    validation_films: SyntheticValidationSettings | None = None
    """Videos for the validation every `run.validate_every` steps: grounding, with real decoding."""
    num_frames: int = 96
    """Number of frames per video, unless `fps` is given."""
    sampling: Literal["random", "uniform"] = "random"
    """Position of the frame in each of equal intervals: `random`, anywhere; `uniform`, at its start."""
    augmentation: bool = True
    """Whether to use random resized crops, as the original does."""
    features: str | None = None
    """Folder made by `timechat data encode`, to train on features instead of pixels."""
    max_length: int = 2048
    """Maximum number of tokens of a conversation; longer ones are truncated."""
    transcripts: bool = False
    """Whether to put the transcript of a video, if known, before the first question."""
    workers: int = 2
    """Number of threads that read videos; 0 reads each batch when it is needed."""
    timeout: float = 120.0
    """Maximum time to read one video, in seconds."""
    max_bad_share: float = 0.01
    """Maximum share of unreadable videos, from 0 to 1; above it, the run stops."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_length"):
            _at_least(f"data.{name}", getattr(self, name), 1)
        _at_least("data.workers", self.workers, 0)
        _share("data.max_bad_share", self.max_bad_share)
        if self.validation_films is not None and self.films is not None and not self.films.timestamps:
            raise ValueError("data.validation_films states the time of each frame and needs data.films.timestamps")
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
    """Iterations (batches, as in `run.iters_per_epoch`) in which the rate rises to `lr`."""
    schedule: Literal["cosine", "constant", "original"] = "cosine"
    """Schedule after the warm-up: `cosine`, half a cosine down to `min_lr`; `constant`; or `original`, a cosine over
    the whole run including the warm-up (so the rate drops where the warm-up ends), updated in every batch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the running means of gradients and of their squares."""
    eps: float = 1e-8
    """Constant that is added to the denominator."""
    weight_decay: float = 0.05
    """Weight decay of matrices whose name contains none of `bias`, `ln`, `bn`; other parameters have none."""
    clip_norm: float | None = 1.0
    """Maximum norm of all gradients; None does not clip, as in the original."""
    eight_bit: bool = False
    """Whether to keep the running means in 8 bits (needs bitsandbytes and a GPU)."""

    def __post_init__(self) -> None:
        _above("optimizer.lr", self.lr, 0)
        _at_least("optimizer.warmup_iters", self.warmup_iters, 0)
        if self.clip_norm is not None:
            _above("optimizer.clip_norm", self.clip_norm, 0)


@dataclass(frozen=True, kw_only=True)
class TrainingRunSettings:
    """Length, batch size, device and outputs of a run.

    An iteration is one batch, divided among the processes. A step is one update of the weights, after `accumulation`
    iterations.
    """

    steps: int | None = None
    """Number of steps; or give `epochs` and `iters_per_epoch` instead."""
    epochs: int | None = None
    """Number of epochs of `iters_per_epoch` iterations, instead of `steps`."""
    iters_per_epoch: int | None = None
    """Number of iterations of an epoch; the data have no end, so an epoch is a number of iterations."""
    global_batch_size: int | None = None
    """Number of samples per iteration on all processes together; must be divisible by their number. Except for
    dropout, the run is the same with any number. None takes one sample, or `batch_size`, for each process of the first
    call."""
    batch_size: int | None = None
    """Deprecated: number of samples per iteration and process of the first call. `global_batch_size` has priority."""
    micro_batch_size: int | None = None
    """Maximum number of samples that a process computes at once, to save memory; None takes all samples that it has in
    an iteration. It is the batch of `loss_mean`."""
    accumulation: int = 1
    """Number of iterations per step."""
    loss_mean: Literal["tokens", "micro_batch"] = "tokens"
    """Mean of the loss: `tokens`, over all answer tokens of a step on all processes; or `micro_batch`, as in the
    original, over the tokens of each batch, then over batches and processes."""
    divide_loss_by_accumulation: bool = True
    """With `micro_batch`: false sums the losses of the batches of a step, as the original does."""
    leftover: Literal["continue", "original"] = "continue"
    """Handling of epochs whose iterations are not divisible by `accumulation`: `continue`, steps cross the border of
    epochs; or `original`, leftover gradients are added to the first step of the next epoch."""
    precision: Precision = "fp32"
    """Number format of the computation; `fp16` uses loss scaling."""
    parallel: Parallel = "none"
    """Parallel training with `torchrun`: `ddp` copies the model to every process, `fsdp2` shards it over all
    processes; `hsdp` shards it over the processes of a machine and copies it to every machine."""
    shard_size: int | None = None
    """Number of processes over which `hsdp` shards the model; None takes the processes of a machine."""
    collective_timeout: float = 1800.0
    """Maximum time in seconds that a process waits for the others, for example while the first one exports."""
    device: str = "auto"
    """Device, as torch names it, or `auto`."""
    seed: int = 42
    """Random seed of data order, dropout and new weights. Dropout depends on the seed, the step and the process."""
    save_every: int = 500
    """Number of steps between checkpoints; there is always one after the last step."""
    save_in_background: bool | None = None
    """Whether to write checkpoints while training continues, from a copy in the memory of the machine; None does so on
    GPUs only."""
    keep_checkpoints: int = 2
    """Number of latest checkpoints that are kept, besides the best."""
    validate_every: int | None = None
    """Number of steps between validations; None disables validation."""
    best_metric: str | None = None
    """Validation metric that selects the best checkpoint, which is kept and exported; None exports the last one."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Whether the highest or the lowest value of `best_metric` is best."""
    log_every: int = 1
    """Number of steps between log lines."""
    tensorboard: bool = True
    """Whether to write TensorBoard files."""
    plot: bool = True
    """Whether to plot the losses at the end."""
    wandb: str | None = None
    """Project of Weights & Biases for the log."""
    export: list[Literal["folder", "adapter", "original"]] = field(default_factory=lambda: ["folder"])
    """Exports at the end: a `from_pretrained` folder `model/`, a PEFT folder `adapter/`, a file `original.pth` for the
    original."""
    output: str = "runs/train"
    """Folder of the run."""

    def __post_init__(self) -> None:
        by_epochs = self.epochs is not None and self.iters_per_epoch is not None
        if (self.steps is None) == (not by_epochs) or (self.steps is not None and self.epochs is not None):
            raise ValueError(
                f"give either run.steps or both run.epochs and run.iters_per_epoch, got steps={self.steps}, "
                f"epochs={self.epochs}, iters_per_epoch={self.iters_per_epoch}"
            )
        counts = (
            "batch_size",
            "global_batch_size",
            "micro_batch_size",
            "shard_size",
            "accumulation",
            "save_every",
            "keep_checkpoints",
            "log_every",
            "validate_every",
        )
        for name in (*counts, "steps", "epochs", "iters_per_epoch"):
            if getattr(self, name) is not None:
                _at_least(f"run.{name}", getattr(self, name), 1)
        _above("run.collective_timeout", self.collective_timeout, 0)
        if self.loss_mean == "tokens" and not self.divide_loss_by_accumulation:
            raise ValueError(
                "run.divide_loss_by_accumulation=false needs run.loss_mean=micro_batch: a mean over all tokens of a "
                "step has no sum of batches"
            )
        if self.leftover == "original" and self.iters_per_epoch is None:
            raise ValueError("run.leftover=original needs run.epochs and run.iters_per_epoch instead of run.steps")
        if self.best_metric is not None and self.validate_every is None:
            raise ValueError(f"run.best_metric={self.best_metric} needs run.validate_every")
        if self.is_sharded and self.precision == "fp16":
            raise ValueError(
                f"run.parallel={self.parallel} does not scale losses; use run.precision=bf16 instead of fp16"
            )
        if self.shard_size is not None and self.parallel != "hsdp":
            raise ValueError(f"run.shard_size is for run.parallel=hsdp, got {self.parallel}; leave it out")

    def samples_per_process(self, num_processes: int) -> int:
        """Return the number of samples per iteration on each of some processes.

        Raises:
            ValueError: `global_batch_size` cannot be divided equally.
        """
        if self.global_batch_size is None:
            return self.batch_size or 1
        if self.global_batch_size % num_processes:
            raise ValueError(
                f"run.global_batch_size must be divisible by the number of processes, got {self.global_batch_size} "
                f"and {num_processes}; change one of them"
            )
        return self.global_batch_size // num_processes

    @property
    def is_sharded(self) -> bool:
        """Whether several processes hold parts of the model."""
        return self.parallel in ("fsdp2", "hsdp")

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
    """Name of the run in logs."""
    objective: str = "next_token"
    """Name of the training objective: `next_token`, or one that the caller hands in."""
    model: TrainedModelSettings = field(default_factory=TrainedModelSettings)
    """Start checkpoint and trained parts of the model."""
    data: DataSettings = field(default_factory=DataSettings)
    """Training data."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """AdamW and its learning rate."""
    run: TrainingRunSettings
    """Length, batch size, device and outputs of the run."""

    def __post_init__(self) -> None:
        if self.optimizer.warmup_iters > self.run.iters:
            raise ValueError(
                f"optimizer.warmup_iters={self.optimizer.warmup_iters} is longer than the run of {self.run.iters} "
                "iterations"
            )
        if self.optimizer.schedule == "original" and self.run.iters_per_epoch is None:
            raise ValueError("optimizer.schedule=original needs run.epochs and run.iters_per_epoch")
        if self.optimizer.eight_bit and self.run.is_sharded:
            raise ValueError(
                f"optimizer.eight_bit cannot be combined with run.parallel={self.run.parallel}, which shards the states"
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
