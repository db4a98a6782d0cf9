"""TimeChatConfig: sizes and constants of a checkpoint."""

import os
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    Blip2QFormerConfig,
    InstructBlipQFormerConfig,
    PreTrainedConfig,
)

from timechat.model.domain import DOMAIN_KEYS
from timechat.video.frames import FrameSize, check_interpolation

__all__ = ["TimeChatConfig"]


@strict
class TimeChatConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes and constants of a TimeChat model; the defaults are those of the published 7B checkpoint.

    Attributes:
        vision_config: The vision tower: EVA ViT-g, or any tower that `AutoModel` builds.
        qformer_config: The image Q-Former, which reads one frame together with its timestamp.
        video_qformer_config: The video Q-Former, which reads one window of frames.
        text_config: The language model: LLaMA-2, or any causal language model.
        num_query_tokens: Learned queries of the image Q-Former, per frame.
        num_video_query_tokens: Learned queries of the video Q-Former, per window.
        window_size: Frames in one window of the video Q-Former; 0 reads the whole video as one window.
        stride: Frames from the start of one window to the start of the next.
        max_frame_positions: Rows of the frame position embedding; positions restart after this number of frames.
        temporal_layers: Layers before the windows that mix each query token of a frame with the same token of the
            frames around it, see `timechat.model.video_qformer`; 0, as in the original, has none.
        temporal_kernel: Number of frames that a temporal layer reads, odd.
        fps: Default number of sampled frames per second. None, as in the original, spreads
            `max_frame_positions` frames evenly over a video of any length.
        frame_interpolation: Filter that resizes frames to the size of the vision tower, `"bilinear"` as in the
            original, or `"bicubic"`. A folder that does not name it means bilinear, but one of a training run means
            bicubic: it was made before there was a choice.
        max_frames: Default maximum number of frames of a video when `fps` is set.
        window_seconds: Default length of a window in seconds; a longer video is processed in several windows. The
            default is about the average length of the training videos of the original (TimeIT, 190.8 s), at two
            seconds per frame.
        score_calibration: Mapping from evidence to a score for `"grounding"` and for `"captions"`: weights by name and
            `offset`, or `[slope, offset]` of version 0.1, see `timechat.answers.merging`; None without a fit.
        found_threshold: Minimum score of a moment that counts as found, in a video of any length. Above 0, the model
            names a moment in every window, and the score alone decides whether a query happens.
        domain: Test whether a video is of the kind that the model was trained on, see `timechat.model.domain`; None
            for a model that is not limited to one kind of video.
        lowercase_queries: Whether the model was trained on queries in lower case: the query of a grounding or highlight
            prompt is then written in lower case.
        timestamp_tokenizer: Vocabulary of the per-frame prompts at inference, `"bert"` as in the original, or
            `"llama"`, that of the language model. Training takes `model.timestamp_tokenizer` of its recipe; the
            original trains with `"llama"` (and evaluates MVBench with it).
        vision_post_layernorm_eps: Epsilon of the norm after the vision tower (`ln_vision` of the original,
            1e-5), which differs from the 1e-6 inside the tower. None leaves the tower's own.
        image_token_id: Placeholder id of one video token in `input_ids`. It may lie outside of the
            vocabulary, as in the original.
        lora_alpha: Strength of the LoRA adapter: its product is scaled by `lora_alpha / r`. The authors
            advise 20 (of r = 32) for question answering.
        has_lora: Whether the saved weights have an adapter, in the folder `lora/` beside them.
        is_trained: False for random weights; every answer then carries a note.
    """

    model_type = "timechat"
    sub_configs: ClassVar = {
        "vision_config": AutoConfig,
        "qformer_config": InstructBlipQFormerConfig,
        "video_qformer_config": Blip2QFormerConfig,
        "text_config": AutoConfig,
    }

    vision_config: Any = None
    qformer_config: Any = None
    video_qformer_config: Any = None
    text_config: Any = None
    num_query_tokens: int = 32
    num_video_query_tokens: int = 32
    window_size: int = 32
    stride: int = 32
    max_frame_positions: int = 96
    temporal_layers: int = 0
    temporal_kernel: int = 5
    fps: float | int | None = None
    frame_interpolation: str = "bilinear"
    max_frames: int | None = None
    window_seconds: float | int = 192
    score_calibration: dict[str, Any] | None = None
    found_threshold: float | int = 0.0
    domain: dict[str, Any] | None = None
    lowercase_queries: bool = False
    timestamp_tokenizer: str = "bert"
    vision_post_layernorm_eps: float | None = 1e-5
    image_token_id: int = 32000
    lora_alpha: float | int = 32
    has_lora: bool = False
    is_trained: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: object) -> None:
        for name, config_class in self.sub_configs.items():
            setattr(self, name, _part_config(getattr(self, name), config_class, _PART_DEFAULTS[name]))
        super().__post_init__(**kwargs)
        # Widths that must agree are derived from the module that produces them.
        self.qformer_config.encoder_hidden_size = _vision_width(self.vision_config)
        self.video_qformer_config.encoder_hidden_size = self.qformer_config.hidden_size
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        self._check()

    def _check(self) -> None:
        at_least_one = ("num_query_tokens", "num_video_query_tokens", "max_frame_positions")
        for name in at_least_one + (("stride",) if self.window_size else ()):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}; set it in TimeChatConfig({name}=...)"
                )
        if self.window_size < 0:
            raise ValueError(
                f"window_size must be at least 1 frame, or 0 for one window over the whole video, "
                f"got {self.window_size}; set it in TimeChatConfig(window_size=...)"
            )
        if self.temporal_layers < 0:
            raise ValueError(
                f"temporal_layers must be at least 0, got {self.temporal_layers}; set it in "
                "TimeChatConfig(temporal_layers=...)"
            )
        if self.temporal_kernel < 1 or self.temporal_kernel % 2 == 0:
            raise ValueError(
                f"temporal_kernel must be an odd number of frames, got {self.temporal_kernel}; set it in "
                "TimeChatConfig(temporal_kernel=...)"
            )
        check_interpolation(self.frame_interpolation)
        if not self.window_seconds > 0:
            raise ValueError(
                f"window_seconds must be above 0, got {self.window_seconds}; set it in "
                "TimeChatConfig(window_seconds=...)"
            )
        if self.domain is not None and self.domain.keys() != set(DOMAIN_KEYS):
            raise ValueError(f"domain must have the keys {', '.join(DOMAIN_KEYS)}, got {', '.join(self.domain)}")
        if self.timestamp_tokenizer not in ("bert", "llama"):
            raise ValueError(
                f"timestamp_tokenizer must be 'bert' or 'llama', got {self.timestamp_tokenizer!r}; "
                "set it in TimeChatConfig(timestamp_tokenizer=...)"
            )

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the values of a folder, as transformers does; see `frame_interpolation` for folders of training runs."""
        values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        run = Path(pretrained_model_name_or_path).absolute().parent
        is_of_run = all((run / name).is_file() for name in ("recipe.yaml", "log.jsonl", "finished.json"))
        if values and "frame_interpolation" not in values and is_of_run:
            values["frame_interpolation"] = "bicubic"
        return values, rest

    @classmethod
    def default_config_fields(cls) -> dict[str, Any]:
        """Return the defaults, for which `config.json` holds the differences only; of the parts as well."""
        own: dict[str, Any] = super().default_config_fields()
        return own | {name: {} for name in cls.sub_configs}

    @property
    def frame_size(self) -> FrameSize:
        """Size of the frames that the vision tower reads, and the filter that resizes them."""
        side = int(self.vision_config.image_size)
        return FrameSize(side, side, self.frame_interpolation)  # type: ignore[arg-type]

    def default_sampling(self) -> dict[str, Any]:
        """Return the default frame sampling, as arguments of `load_frames`."""
        if self.fps is None:
            return {"num_frames": self.max_frame_positions}
        return {"fps": self.fps, "max_frames": self.max_frames}

    def window_starts(self, num_frames: int) -> range:
        """Return the first frame of every window of a video of `num_frames` frames; the last window may be shorter."""
        if self.window_size == 0:
            return range(1)
        return range(0, num_frames, self.stride)

    def num_video_tokens(self, num_frames: int) -> int:
        """Return the number of video tokens of a video of `num_frames` frames."""
        return self.num_video_query_tokens * len(self.window_starts(num_frames))


def _vision_width(config: PreTrainedConfig) -> int:
    """Return the output width of the vision tower; convolutional towers have one width for each stage."""
    return int(config.hidden_size if hasattr(config, "hidden_size") else config.hidden_sizes[-1])


def _part_config(
    values: PreTrainedConfig | dict[str, Any] | None, config_class: Any, defaults: dict[str, Any]
) -> PreTrainedConfig:
    """Return the config of a part: a config as it is, a mapping of values completed by the defaults."""
    if isinstance(values, PreTrainedConfig):
        return values
    create = AutoConfig.for_model if config_class is AutoConfig else config_class
    return create(**(defaults | (values or {})))


_QFORMER_DEFAULTS = {
    "vocab_size": 30523,  # BERT's words and [DEC]
    "pad_token_id": None,  # the original trains the padding's embedding like any other
}
VIDEO_QFORMER_DEFAULTS = {
    "num_hidden_layers": 2,
    "cross_attention_frequency": 1,
    "encoder_hidden_size": 768,
    "use_qformer_text_input": False,
}
_PART_DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_config": {"model_type": "instructblip_vision_model"},
    "qformer_config": _QFORMER_DEFAULTS,
    "video_qformer_config": VIDEO_QFORMER_DEFAULTS,
    "text_config": {"model_type": "llama"},
}
