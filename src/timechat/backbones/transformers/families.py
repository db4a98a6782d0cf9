"""Families of models: how each reads frames, how the time of a frame is written for it, and its usual windows.

The time stands as text before each picture. Where a family was trained with times, its own words are used; whole
seconds of such words get a decimal, because tenths of a second are the resolution of the engine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedConfig

from timechat.backbones.backbone import BackboneConfig
from timechat.video.sampling import FrameSampling

WORDING_VERSION = 1
"""Version of all wordings below, for the cache: raise it when a text changes."""
_OTHER_TOKENS = 1536  # of the question, the template and an answer of 512 tokens
_TOKENS_OF_TIME = 16  # and marks of a picture
_MIN_WINDOW_SECONDS = 4.0

Layout = Literal["patches", "video", "image", "square", "processor"]
"""How pictures become tensors.

`patches` joins two neighbouring frames in one patch of a video (Qwen3-VL), `video` pools each frame of a video
(LLaVA-OneVision), `image` takes each frame as an image of any size in patches (Qwen), `square` as an image of the one
size of the vision part, and `processor` as the image processor of the model prepares it (Gemma 4).
"""


def write_seconds(seconds: float) -> str:
    """Write a time as Qwen3-VL reads it: `<12.3 seconds>`."""
    return f"<{seconds:.1f} seconds>"


def write_clock(seconds: float) -> str:
    """Write a time as minutes and seconds: `00:12.3`; minutes run on above 59."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes:02d}:{tenths // 10:02d}.{tenths % 10}"


def write_sentence(seconds: float) -> str:
    """Write a time for a model that was not trained with times: `Frame at 12.3 seconds:`."""
    return f"Frame at {seconds:.1f} seconds:"


def _write_smol(seconds: float) -> str:
    return f"\nFrame from {write_clock(seconds)}:"


def _write_gemma(seconds: float) -> str:
    return f"{write_clock(seconds)} "


def _introduce_smol(num_pictures: int, duration: float) -> str:
    minutes, seconds = divmod(int(duration), 60)
    length = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    return f"You are provided the following series of {num_pictures} frames from a {length} [H:MM:SS] video.\n"


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    Attributes:
        name: Name in facts and messages.
        layout: How pictures become tensors.
        write_time: Function that writes the time of a picture in seconds as the text before it.
        before: Text of tokens before the placeholders of a picture.
        after: Text of tokens behind them.
        introduce: Function of the number of pictures and the duration in seconds that writes the text before all
            pictures; None for no text.
        outro: Text behind all pictures.
        frames_per_picture: Number of frames that share one picture and one time, which is the mean of theirs.
        tokens_per_picture: Maximum number of tokens of one picture, for families that read pictures of any size.
        fps: Frames per second of a window.
        window_seconds: Length of a window in seconds.
        max_frames: Maximum number of frames of a window.
        note: Sentence for readers of the answers; None without one.
    """

    name: str
    layout: Layout
    write_time: Callable[[float], str] = write_sentence
    before: str = ""
    after: str = ""
    introduce: Callable[[int, float], str] | None = None
    outro: str = ""
    frames_per_picture: int = 1
    tokens_per_picture: int = 0
    fps: float = 1.0
    window_seconds: float = 32.0
    max_frames: int = 64
    note: str | None = None

    @property
    def modality(self) -> Literal["image", "video"]:
        """Kind of input that the model reads."""
        return "video" if self.layout in ("patches", "video") else "image"

    @property
    def is_square(self) -> bool:
        """Whether all pictures have one size, that of the vision part."""
        return self.layout in ("square", "video")

    def picture_times(self, times: list[float]) -> list[float]:
        """Return the time of each picture; frames that are missing in the last picture repeat the last frame."""
        count = self.frames_per_picture
        padded = times + times[-1:] * (-len(times) % count)
        return [(padded[i] + padded[i + count - 1]) / 2 for i in range(0, len(padded), count)]


_ROUGH = "This model was not trained with the times of frames; its times are rough"
_WHOLE_SECONDS = "This model was trained with times in whole seconds; tenths of a second are rough."
_QWEN = ("<|vision_start|>", "<|vision_end|>")

QWEN3_NATIVE = Family(
    "qwen3-vl",
    "patches",
    write_seconds,
    *_QWEN,
    frames_per_picture=2,
    tokens_per_picture=128,
    fps=2.0,
    window_seconds=64.0,
    max_frames=256,
)
QWEN3_IMAGES = replace(
    QWEN3_NATIVE, name="qwen3-vl-images", layout="image", frames_per_picture=1, tokens_per_picture=64, max_frames=128
)
QWEN2 = Family(
    "qwen2.5-vl",
    "image",
    write_seconds,
    *_QWEN,
    tokens_per_picture=64,
    fps=2.0,
    window_seconds=64.0,
    max_frames=128,
)
SMOLVLM = Family(
    "smolvlm2",
    "square",
    _write_smol,
    "<fake_token_around_image><global-img>",
    "<fake_token_around_image>",
    introduce=_introduce_smol,
    outro="\n\n",
    note=_WHOLE_SECONDS,
)
LLAVA_ONEVISION = Family("llava-onevision", "video", write_sentence, outro="\n", note=f"{_ROUGH}.", max_frames=32)
GEMMA3 = Family(
    "gemma3",
    "square",
    _write_gemma,
    "\n\n<start_of_image>",
    "<end_of_image>\n\n",
    note=f"{_ROUGH}.",
)
INTERNVL = Family("internvl", "square", write_sentence, "<img>", "</img>", note=f"{_ROUGH}.")
GLM4V = Family(
    "glm-4v",
    "image",
    write_sentence,
    "<|begin_of_image|>",
    "<|end_of_image|>",
    tokens_per_picture=64,
    note=_WHOLE_SECONDS,
)
GEMMA4 = Family("gemma4", "processor", _write_gemma, "<|image>", "<image|>", tokens_per_picture=70, note=_WHOLE_SECONDS)
GENERIC = Family(
    "generic",
    "square",
    note="This family of models is not in TimeChat's table and was not tried; its pictures are interleaved with their "
    "times, which are rough.",
)

FAMILIES = {
    "qwen3_vl": QWEN3_NATIVE,
    "qwen3_vl_moe": QWEN3_NATIVE,
    "qwen3_5": QWEN3_NATIVE,
    "qwen3_5_moe": QWEN3_NATIVE,
    "qwen2_vl": QWEN2,
    "qwen2_5_vl": QWEN2,
    "smolvlm": SMOLVLM,
    "llava_onevision": LLAVA_ONEVISION,
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "internvl": INTERNVL,
    "glm4v": GLM4V,
}
"""Families by the `model_type` of their configuration."""


def find_family(model_type: str) -> Family:
    """Return the family of a model; models of a type without an entry read square images."""
    return FAMILIES.get(model_type, GENERIC)


def backbone_config(config: PreTrainedConfig, family: Family, preset: str) -> BackboneConfig:
    """Return the properties that decide how a model reads a video.

    A window whose frames do not fit into the context of the model is made shorter.

    Args:
        config: Configuration of the model.
        family: Family of the model.
        preset: Name of the prompt preset that the model was made for.
    """
    context = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    names = ("mm_tokens_per_image", "image_seq_length")
    tokens = family.tokens_per_picture or next((one for name in names if (one := getattr(config, name, None))), 0)
    seconds = family.window_seconds
    if context is not None and tokens:
        num_pictures = max(1, (context - _OTHER_TOKENS) // (tokens + _TOKENS_OF_TIME))
        fitting = num_pictures * family.frames_per_picture / family.fps
        seconds = min(seconds, max(_MIN_WINDOW_SECONDS, math.floor(fitting)))
    return BackboneConfig(
        rate=FrameSampling(fps=family.fps, max_frames=family.max_frames),
        num_frames=round(family.fps * seconds),
        window_seconds=seconds,
        preset=preset,
        context=context,
    )


def fit_size(height: int, width: int, factor: int, max_pixels: int) -> tuple[int, int]:
    """Return the size of a picture whose sides are multiples of `factor`, with its shape and at most `max_pixels`.

    A size that fits is returned as it is.
    """
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    limit = max(1, max_pixels // factor**2)
    if rows * columns > limit:
        shrink = math.sqrt(height * width / max_pixels)
        rows = min(limit, max(1, math.floor(height / shrink / factor)))
        columns = min(limit // rows, max(1, math.floor(width / shrink / factor)))
    return rows * factor, columns * factor
