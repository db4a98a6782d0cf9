"""Frames with their times become the token ids and the features that stand in a prompt for a window."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from timechat.backbones.transformers.families import Family, fit_size
from timechat.video import Frames
from timechat.video.frames import FrameSize

_PICTURES_AT_ONCE = 16  # in the vision tower; more need more memory and are hardly faster

Turn = Callable[[], AbstractContextManager[None]]
"""Function that holds the model for a short piece of work."""


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """The frames of a window as the model reads them: the content of an `EncodedVideo`.

    Attributes:
        ids: `(length,)` int64 token ids: times, marks of pictures, and a placeholder for each feature.
        is_picture: `(length,)` bool: whether an id belongs to a picture; the others are text with times.
        features: `(features, hidden)` features of the pictures in order, on the model's device.
        deepstack: `(layers, features, hidden)` features that later layers read; None for models without them.
        grid: `(pictures, 3)` int64 patches of each picture in time, height and width; None for models without grids.
    """

    ids: Tensor
    is_picture: Tensor
    features: Tensor
    deepstack: Tensor | None = None
    grid: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        named = {name: getattr(self, name) for name in ("ids", "is_picture", "features", "deepstack", "grid")}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> "EncodedFrames":
        """Return the frames whose tensors were stored; features move to the device."""
        moved = {name: tensors[name].to(device) for name in ("features", "deepstack") if name in tensors}
        return cls(tensors["ids"], tensors["is_picture"], grid=tensors.get("grid"), **moved)

    def times_only(self) -> list[int]:
        """Return the token ids of the times, without the pictures."""
        return self.ids[~self.is_picture].tolist()


class MediaEncoder:
    """Encodes frames with the vision part of a model."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, image_processor: Any, family: Family
    ) -> None:
        """Make an encoder.

        Args:
            model: Model with a head, in evaluation mode.
            tokenizer: Tokenizer of the model.
            image_processor: Image processor of the model, of the Pillow backend.
            family: Family of the model.

        Raises:
            ValueError: The vision part needs inputs that this family does not give.
        """
        inner: Any = model.base_model
        encode = getattr(inner, f"get_{family.modality}_features", None)
        vision_config = getattr(inner.config, "vision_config", None)
        if encode is None or vision_config is None:
            raise ValueError(
                f"models of type {model.config.model_type} have no vision part that encodes pictures alone, which is "
                "not supported; take a model such as Qwen3-VL or SmolVLM2, or give the address of a server that runs "
                "this one"
            )
        self._encode, self._side = encode, getattr(vision_config, "image_size", None)
        self._device, self._dtype = model.device, model.dtype
        self._tokenizer, self._processor, self._family = tokenizer, image_processor, family
        self.token_id = placeholder_id(model.config, family.modality)
        parameters = list(inspect.signature(self._encode).parameters.values())[1:]
        needed = [one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
        if family.is_square and (self._side is None or needed):
            raise ValueError(
                f"models of type {model.config.model_type} read pictures in tiles or of any size, which is not "
                "supported; take a model such as Qwen3-VL or SmolVLM2, or give the address of a server that runs this "
                "one"
            )
        self._names = {one.name for one in parameters} | {"pixel_values"}
        self._stack: int | None = None  # tokens of a picture if the model takes all pictures as one tensor, else 0

    def frame_size(self, height: int, width: int) -> FrameSize:
        """Return the size to which frames of a video of this displayed size are decoded."""
        if not self._family.is_square:
            factor = token_side(self._processor)
            return FrameSize(*fit_size(height, width, factor, self._family.tokens_per_picture * factor**2), "bicubic")
        rows, columns = self._side if isinstance(self._side, list | tuple) else (self._side, self._side)
        return FrameSize(rows, columns, "bicubic")

    def encode(self, frames: Frames, turn: Turn, progress: Callable[[int, int], None] | None = None) -> EncodedFrames:
        """Encode the frames of one window.

        Args:
            frames: Frames of any size; those of another size than `frame_size` are resized.
            turn: Function that holds the model for a few pictures.
            progress: Callback for the number of encoded frames and the number of all frames.
        """
        size = self.frame_size(*frames.pixels.shape[1:3])
        if frames.pixels.shape[1:3] != (size.height, size.width):
            frames = Frames.from_images(frames.pixels, frames.timestamps, duration=frames.duration, size=size)
        count = self._family.frames_per_picture
        missing = -len(frames) % count
        pixels = np.concatenate([frames.pixels, frames.pixels[-1:].repeat(missing, 0)]) if missing else frames.pixels
        step = count * _PICTURES_AT_ONCE
        features, deepstack, grids = [], [], []
        for first in range(0, len(pixels), step):
            inputs = self._inputs(pixels[first : first + step])
            with turn():
                output = self._encode(**inputs, return_dict=True)
            pooled = output.pooler_output
            self._stack = pooled.shape[-2] if isinstance(pooled, Tensor) else 0
            features.append(_joined(pooled))
            if (deeper := getattr(output, "deepstack_features", None)) is not None:
                deepstack.append(torch.stack([_joined(layer) for layer in deeper]))
            if (grid := inputs.get(f"{self._family.modality}_grid_thw")) is not None:
                grids.append(grid.cpu())
            if progress is not None:
                progress(min(first + step, len(frames)), len(frames))
        num_pictures = len(pixels) // count
        is_pooled = self._family.layout == "video"  # one more feature ends the pictures of a call
        joined = torch.cat([*(part[:-1] for part in features[:-1]), features[-1]] if is_pooled else features)
        ids, is_picture = self._ids(frames, (len(joined) - is_pooled) // num_pictures, num_tail=int(is_pooled))
        return EncodedFrames(
            torch.tensor(ids),
            torch.tensor(is_picture),
            joined,
            torch.cat(deepstack, 1) if deepstack else None,
            torch.cat([_one_row_each(grid) for grid in grids]) if grids else None,
        )

    def encoder_outputs(self, contents: list[EncodedFrames]) -> dict[str, BaseModelOutputWithPooling]:
        """Return the features of the pictures of several prompts as the forward pass of the model takes them."""
        if self._stack is None:  # the windows were encoded by another process
            blank = np.zeros((self._family.frames_per_picture, *self._smallest_sides(), 3), np.uint8)
            pooled = self._encode(**self._inputs(blank), return_dict=True).pooler_output
            self._stack = pooled.shape[-2] if isinstance(pooled, Tensor) else 0
        features = torch.cat([content.features for content in contents])
        # transformers before 5.20 takes the pictures of Idefics 3 and SmolVLM one by one.
        each = self._stack if self._family.layout == "square" else len(features)
        stacked = features.view(-1, each, features.shape[-1]) if self._stack else [features]
        output = BaseModelOutputWithPooling(pooler_output=stacked)
        layers = [content.deepstack for content in contents if content.deepstack is not None]
        if layers:
            output["deepstack_features"] = [[layer] for layer in torch.cat(layers, 1)]
        return {self._family.modality: output}

    def _smallest_sides(self) -> tuple[int, int]:
        size = self.frame_size(1, 1)
        return size.height, size.width

    def _inputs(self, pixels: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return the arguments of the vision part for frames `(frames, height, width, 3)`."""
        layout = self._family.layout
        if layout in ("square", "video"):
            return self._square_inputs(pixels)
        images = list(pixels)
        if layout == "processor":
            budget = self._family.tokens_per_picture
            inputs = self._processor(images=images, max_soft_tokens=budget, return_tensors="pt")
            return {
                name: value.to(self._device, self._dtype if value.is_floating_point() else value.dtype)
                for name, value in inputs.items()
                if name in self._names
            }
        inputs = self._processor(images=images, do_resize=False, input_data_format="channels_last", return_tensors="pt")
        patches, grid = inputs["pixel_values"], inputs["image_grid_thw"]
        if layout == "patches":
            patches = join_patches(patches, len(pixels), self._family.frames_per_picture)
            grid = torch.tensor([[len(pixels) // self._family.frames_per_picture, *grid[0, 1:].tolist()]])
            named = {"pixel_values_videos": patches, "video_grid_thw": grid}
        else:
            named = {"pixel_values": patches, "image_grid_thw": grid}
        return {name: value.to(self._device) for name, value in named.items()}

    def _square_inputs(self, pixels: NDArray[np.uint8]) -> dict[str, Tensor]:
        values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float()
        mean = torch.tensor(self._processor.image_mean).view(3, 1, 1)
        std = torch.tensor(self._processor.image_std).view(3, 1, 1)
        values = ((values * self._processor.rescale_factor - mean) / std).to(self._device, self._dtype)
        if self._family.layout == "video":
            return {"pixel_values_videos": values[None]}  # (1, frames, 3, side, side)
        nests = "pixel_attention_mask" in self._names  # Idefics 3 and SmolVLM
        return {"pixel_values": values[None] if nests else values}

    def _ids(self, frames: Frames, num_tokens: int, num_tail: int) -> tuple[list[int], list[bool]]:
        """Return the ids of times and pictures, and whether each belongs to a picture."""
        family = self._family
        times = family.picture_times(frames.timestamps.tolist())
        before, after = self._text_ids(family.before), self._text_ids(family.after)
        intro = "" if family.introduce is None else family.introduce(len(times), frames.duration)
        ids: list[int] = []
        is_picture: list[bool] = []
        for i, time in enumerate(times):
            text = self._text_ids((intro if i == 0 else "") + family.write_time(time))
            placeholders = [self.token_id] * (num_tokens + (num_tail if i == len(times) - 1 else 0))
            picture = [*before, *placeholders, *after]
            ids += text + picture
            is_picture += [False] * len(text) + [True] * len(picture)
        outro = self._text_ids(family.outro)
        return ids + outro, is_picture + [False] * len(outro)

    def _text_ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids if text else []


def token_side(processor: Any) -> int:
    """Return the side in pixels of the square of a picture that becomes one token."""
    joined = getattr(processor, "merge_size", None) or processor.pooling_kernel_size
    return int(processor.patch_size * joined)


def placeholder_id(config: Any, modality: str) -> int:
    """Return the token id that stands for a feature of an image or a video.

    Raises:
        ValueError: The configuration names none.
    """
    for name in (f"{modality}_token_id", f"{modality}_token_index"):
        if isinstance(number := getattr(config, name, None), int):
            return number
    raise ValueError(f"the configuration of {config.model_type} names no {modality}_token_id; take another model")


def join_patches(patches: Tensor, num_frames: int, per_picture: int) -> Tensor:
    """Join the patches of neighbouring frames to patches of a video, in the order of Qwen3-VL's video processor.

    Args:
        patches: `(frames * patches of a frame, channels * slots * height * width)`: patches of images, which repeat
            their frame in every slot of time.
        num_frames: Number of frames, a multiple of `per_picture`.
        per_picture: Number of slots of time.

    Returns:
        `(pictures * patches of a frame, channels * slots * height * width)`.
    """
    each = patches.shape[0] // num_frames
    slots = patches.view(num_frames // per_picture, per_picture, each, 3, per_picture, -1)
    # Slot 0 of each frame; the frames of a picture become the slots of its patches.
    joined = slots[:, :, :, :, 0].permute(0, 2, 3, 1, 4)
    return joined.reshape(num_frames // per_picture * each, -1)


def _joined(features: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Return features of several pictures as `(features, hidden)`."""
    if isinstance(features, Tensor):
        return features.reshape(-1, features.shape[-1])
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in features])


def _one_row_each(grid: Tensor) -> Tensor:
    """Return a grid with one row of `(1, height, width)` for each picture."""
    rows: Iterator[Tensor] = (row for row in grid for _ in range(int(row[0])))
    return torch.stack([torch.cat([row.new_ones(1), row[1:]]) for row in rows])
