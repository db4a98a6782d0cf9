"""Plan of a conversion, derived from names and shapes before any values are read."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    PreTrainedConfig,
)

from timechat.errors import CheckpointError
from timechat.model import lora as adapter
from timechat.model.configuration import VIDEO_QFORMER_DEFAULTS, TimeChatConfig
from timechat.model.convert.adapters import AdapterNames, check_adapter, peft_name
from timechat.model.convert.files import PlannedTensor, TensorInfo, WeightFile
from timechat.model.convert.keys import Ignored, rename
from timechat.model.convert.overrides import MISFITS, apply_overrides, check_overrides, last_line
from timechat.model.modeling import TimeChatForConditionalGeneration


@dataclass
class ConversionReport:
    """Report on every key.

    Attributes:
        used: File → number of keys that are used in the model. A file is its name, with as many parent folders as
            needed to distinguish files of the same name.
        ignored: File → key → reason for leaving it out.
        overridden: File → number of keys that a later file contains too, as in the original's loading order.
        notes: Notes for the reader: interpolated tables, assumed sizes, a new adapter.
    """

    used: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, dict[str, str]] = field(default_factory=dict)
    overridden: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as text, one line per fact."""
        lines = [f"{file}: {count} keys used" for file, count in self.used.items()]
        lines += [f"{file}: {count} keys come from a later file" for file, count in self.overridden.items()]
        for file, keys in self.ignored.items():
            reasons: dict[str, list[str]] = {}
            for key, reason in keys.items():
                reasons.setdefault(reason, []).append(key)
            for reason, names in reasons.items():
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                lines.append(f"{file}: ignored {names[0]}{more}: {reason}")
        return lines + self.notes


class ConversionPlan:
    """Plan of a conversion, made before any values are read.

    Attributes:
        config: Config of the model: sizes from the tensors, other values from the original or the overrides.
        tensors: Tensors to write, in order.
        lora: Tensors of the adapter, in order, under their PEFT names; empty if a new adapter is made.
        report: Report on every key.
    """

    def __init__(
        self,
        parts: Mapping[str, list[WeightFile]],
        text_config: PreTrainedConfig,
        *,
        image_token_id: int,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        """Plan a conversion.

        Args:
            parts: Weight files of `vit`, `qformer`, `llm`, and `timechat` or `video_llama`.
            text_config: Config of the language model.
            image_token_id: Id of `<ImageHere>` in its tokenizer.
            overrides: Nested part of a `TimeChatConfig` that overrides the values found in the files.

        Raises:
            CheckpointError: A key is missing or has a shape that does not fit the rest, or `overrides` has an unknown
                or impossible setting.
        """
        check_overrides(overrides or {}, text_config)
        self.report = ConversionReport()
        self._files = {part: [file.path.name for file in files] for part, files in parts.items()}
        self._labels = _labels(file.path for files in parts.values() for file in files)
        self._found: dict[str, tuple[WeightFile, str]] = {}
        self._adapter_names = AdapterNames()
        for part in ("vit", "qformer", "llm", "video_llama", "timechat"):
            for file in parts.get(part, []):
                self._collect(file, _PREFIXES.get(part, ""))
        self.config = self._build_config(text_config, image_token_id, overrides or {})
        self._drop_unused_blocks()
        self._note_assumptions(overrides or {})
        expected = _expected_shapes(self.config)
        self.tensors = list(self._plan(expected))
        self.lora = list(self._plan_lora(expected))
        self._check_complete(expected)

    def _collect(self, file: WeightFile, prefix: str) -> None:
        """Record the target name of each key of a file; later files win, as in the original."""
        for key in file.tensors:
            target = rename(prefix + key)
            if isinstance(target, Ignored):
                self._ignore(file, key, target.reason)
                continue
            target = self._adapter_names.plain(target, file, key)
            if target in self._found:
                earlier = self._labels[self._found[target][0].path]
                self.report.overridden[earlier] = self.report.overridden.get(earlier, 0) + 1
                self.report.used[earlier] -= 1
            self._found[target] = (file, key)
            label = self._labels[file.path]
            self.report.used[label] = self.report.used.get(label, 0) + 1

    def _ignore(self, file: WeightFile, key: str, reason: str) -> None:
        self.report.ignored.setdefault(self._labels[file.path], {})[key] = reason

    def _shape(self, name: str, *, dimensions: int = 2) -> tuple[int, ...]:
        if name not in self._found:
            raise CheckpointError(self._missing([name]))
        file, key = self._found[name]
        shape = file.tensors[key].shape
        if len(shape) != dimensions:
            raise CheckpointError(
                f"{file.path}: {key} has the shape {list(shape)}, expected {dimensions} dimensions; "
                "check that the option names the right file"
            )
        return shape

    def _missing(self, names: Sequence[str]) -> str:
        """Return a message that lists missing tensors and the files that should contain them."""
        parts = dict.fromkeys(self._part_of(name) for name in names)
        files = (f"{', '.join(self._files.get(part, [])) or 'a file'} (--{part.replace('_', '-')})" for part in parts)
        return (
            f"the checkpoints lack {_listed(names)}, expected in "
            f"{' and '.join(files)}; check that each option names the right file"
        )

    def _part_of(self, name: str) -> str:
        part = next(part for prefix, part in _TARGET_PARTS.items() if name.startswith(prefix))
        return "video_llama" if part == "timechat" and part not in self._files else part

    def _layers(self, prefix: str) -> int:
        """Count the layers below a prefix: `prefix.0.`, `prefix.1.`, ..."""
        numbers = {int(match[1]) for name in self._found if (match := re.match(rf"{prefix}\.(\d+)\.", name))}
        return max(numbers) + 1 if numbers else 0

    def _build_config(
        self, text_config: PreTrainedConfig, image_token_id: int, overrides: Mapping[str, Any]
    ) -> TimeChatConfig:
        tower = "frame_encoder.vision_model"
        vision_width = self._shape(f"{tower}.embeddings.class_embedding", dimensions=3)[-1]
        num_blocks = self._layers(rf"{tower}\.encoder\.layers")
        read = {
            "vision_config": {
                "model_type": "instructblip_vision_model",
                "hidden_size": vision_width,
                "intermediate_size": self._shape(f"{tower}.encoder.layers.0.mlp.fc1.weight")[0],
                # The published file has 40 blocks; the original uses all but the last.
                "num_hidden_layers": num_blocks if num_blocks == 39 else max(num_blocks - 1, 1),
                "patch_size": self._shape(f"{tower}.embeddings.patch_embedding.weight", dimensions=4)[-1],
            },
            "qformer_config": self._qformer_sizes("frame_encoder.qformer")
            | {
                "vocab_size": self._shape("frame_encoder.qformer.embeddings.word_embeddings.weight")[0],
                "max_position_embeddings": self._shape("frame_encoder.qformer.embeddings.position_embeddings.weight")[
                    0
                ],
            },
            "video_qformer_config": VIDEO_QFORMER_DEFAULTS | self._qformer_sizes("video_qformer.qformer"),
            "text_config": text_config.to_dict(),
            "num_query_tokens": self._shape("frame_encoder.query_tokens", dimensions=3)[1],
            "num_video_query_tokens": self._shape("video_qformer.query_tokens", dimensions=3)[1],
            "image_token_id": image_token_id,
        }
        try:
            config = TimeChatConfig(**apply_overrides(read, overrides))
        except MISFITS as error:
            raise CheckpointError(f"the config does not fit: {last_line(error)}") from error
        image_size, patch_size = config.vision_config.image_size, config.vision_config.patch_size
        if not isinstance(image_size, int) or not isinstance(patch_size, int) or image_size % patch_size:
            raise CheckpointError(
                f"vision_config.image_size is {image_size} pixels, expected a multiple of the patch size {patch_size}; "
                "set it with --config"
            )
        return config

    def _note_assumptions(self, overrides: Mapping[str, Any]) -> None:
        """Note the assumed settings if the tensors do not have the published sizes."""
        if all(
            getattr(getattr(self.config, part), size) == published
            for part, sizes in _PUBLISHED_SIZES.items()
            for size, published in sizes.items()
        ):
            return
        assumed = []
        for name in _ASSUMED_SETTINGS:
            part, _, key = name.rpartition(".")
            if key not in (overrides.get(part, {}) if part else overrides):
                value = getattr(getattr(self.config, part) if part else self.config, key)
                assumed.append(f"{name}={value}")
        if assumed:
            self.report.notes.append(
                f"assumed, because tensors do not show it: {', '.join(assumed)}; correct wrong values with --config"
            )

    def _qformer_sizes(self, prefix: str) -> dict[str, int]:
        layer = f"{prefix}.encoder.layer"
        pattern = rf"{re.escape(layer)}\.(\d+)\.crossattention\.attention\.key\.weight"
        cross_layers = sorted(int(match[1]) for name in self._found if (match := re.match(pattern, name)))
        num_layers = self._layers(re.escape(layer))
        return {
            "hidden_size": self._shape(f"{layer}.0.attention.attention.query.weight")[0],
            "intermediate_size": self._shape(f"{layer}.0.intermediate_query.dense.weight")[0],
            "num_hidden_layers": num_layers,
            "cross_attention_frequency": cross_layers[1] - cross_layers[0] if len(cross_layers) > 1 else num_layers,
        }

    def _drop_unused_blocks(self) -> None:
        depth = self.config.vision_config.num_hidden_layers
        found = self._layers(r"frame_encoder\.vision_model\.encoder\.layers")
        if found != 40:
            self.report.notes.append(
                f"the vision file has {found} blocks, of which {depth} are used (the original uses 39 of 40); set "
                "vision_config.num_hidden_layers with --config to use another number"
            )
        for name in list(self._found):
            match = re.match(r"frame_encoder\.vision_model\.encoder\.layers\.(\d+)\.", name)
            if match and int(match[1]) >= depth:
                file, key = self._found.pop(name)
                self._ignore(file, key, f"the model uses blocks 0 to {depth - 1}")
                self.report.used[self._labels[file.path]] -= 1

    def _plan(self, expected: Mapping[str, tuple[int, ...]]) -> Iterator[PlannedTensor]:
        """Yield the plan of every tensor of the model; missing tensors are left out."""
        for name, shape in expected.items():
            q_bias, v_bias = (self._found.get(name.replace("qkv.bias", f"{letter}_bias")) for letter in "qv")
            if name.endswith("self_attn.qkv.bias") and q_bias and v_bias:
                for bias in (q_bias, v_bias):
                    if _info(bias).shape != (expected_bias := (shape[0] // 3,)):
                        raise _misfit(bias, expected_bias)
                yield PlannedTensor(name, TensorInfo(shape, _info(q_bias).dtype), (q_bias, v_bias), _fuse_qkv_bias)
            elif source := self._found.get(name):
                make, dtype = self._reshaping(name, shape)
                yield PlannedTensor(name, TensorInfo(shape, dtype), (source,), make)

    def _reshaping(self, name: str, shape: tuple[int, ...]) -> tuple[Callable[..., Tensor], torch.dtype]:
        """Return the function that turns a stored tensor into one of `shape`, and its target dtype."""
        found, dtype = _info(self._found[name]).shape, _info(self._found[name]).dtype
        if found == shape:
            return _same, dtype
        can_interpolate = len(found) == len(shape) and found[-1] == shape[-1]
        if (
            name.endswith("embeddings.position_embedding")
            and can_interpolate
            and found[1] > 1
            and isqrt(found[1] - 1) ** 2 == found[1] - 1
        ):
            self.report.notes.append(f"{name}: interpolated from {found[1] - 1} patches to {shape[1] - 1}")
            return partial(_interpolate_patches, num_positions=shape[1]), torch.float32
        if name == "video_qformer.frame_positions.weight" and can_interpolate and found[0] > 0:
            self.report.notes.append(f"{name}: interpolated from {found[0]} frames to {shape[0]}")
            return partial(interpolate_frames, num_frames=shape[0]), dtype
        raise _misfit(self._found[name], shape)

    def _plan_lora(self, expected: Mapping[str, tuple[int, ...]]) -> Iterator[PlannedTensor]:
        found = {name: source for name, source in self._found.items() if adapter.is_adapter_key(name)}
        check_adapter(found, expected)
        for name, (file, key) in found.items():
            yield PlannedTensor(peft_name(name), file.tensors[key], ((file, key),), _same)

    def _check_complete(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        planned = {tensor.name for tensor in self.tensors}
        missing = [name for name in expected if name not in planned]
        if missing:
            raise CheckpointError(self._missing(missing))
        used = {source for tensor in [*self.tensors, *self.lora] for source in tensor.sources}
        for name, (file, key) in self._found.items():
            if (file, key) not in used:
                self._ignore(file, key, f"the model has no {name}")
                self.report.used[self._labels[file.path]] -= 1


def _labels(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a label for each file: its name, with as many parent folders as needed to be unique."""
    paths = set(paths)
    labels = {}
    for path in paths:
        depth = 1
        while any(other != path and other.parts[-depth:] == path.parts[-depth:] for other in paths):
            depth += 1
        labels[path] = str(Path(*path.parts[-depth:]))
    return labels


def _listed(names: Sequence[str], *, limit: int = 5) -> str:
    more = f" and {len(names) - limit} more ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _misfit(source: tuple[WeightFile, str], expected: tuple[int, ...]) -> CheckpointError:
    file, key = source
    return CheckpointError(
        f"{file.path}: {key} has the shape {list(_info(source).shape)}, expected {list(expected)} to fit the other "
        "files; check that the files belong together, or set sizes with --config"
    )


def _info(source: tuple[WeightFile, str]) -> TensorInfo:
    file, key = source
    return file.tensors[key]


_PREFIXES = {"vit": "visual_encoder.", "llm": "llama_model."}
_TARGET_PARTS = {  # prefix of a name → part that contains it; the first match counts
    "frame_encoder.vision_model.post_layernorm.": "qformer",
    "frame_encoder.vision_model.": "vit",
    "frame_encoder.": "qformer",
    "video_qformer.": "timechat",
    "language_model.": "llm",
}
_ASSUMED_SETTINGS = (  # settings that the shapes of the tensors do not show
    "vision_config.image_size",
    "vision_config.num_attention_heads",
    "qformer_config.num_attention_heads",
    "video_qformer_config.num_attention_heads",
    "window_size",
    "stride",
    "max_frame_positions",
)
_PUBLISHED_SIZES = {
    "vision_config": {"hidden_size": 1408, "num_hidden_layers": 39, "patch_size": 14},
    "qformer_config": {"hidden_size": 768, "num_hidden_layers": 12},
    "video_qformer_config": {"hidden_size": 768, "num_hidden_layers": 2},
}


def _expected_shapes(config: TimeChatConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of the model's state dict."""
    try:
        with torch.device("meta"):
            model = TimeChatForConditionalGeneration(config)
    except MISFITS as error:
        raise CheckpointError(f"the config does not fit the tensors: {last_line(error)}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("language_model.lm_head.weight", None)
    return shapes


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _fuse_qkv_bias(q_bias: Tensor, v_bias: Tensor) -> Tensor:
    """Join the biases of the vision tower; its keys have none."""
    return torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])


def _interpolate_patches(table: Tensor, *, num_positions: int) -> Tensor:
    """Resize the tower's position table, `(1, 1 + patches, hidden)`, to another grid, bicubically."""
    class_row, grid = table[:, :1].float(), table[:, 1:].float()
    old, new = int(grid.shape[1] ** 0.5), int((num_positions - 1) ** 0.5)
    grid = grid.unflatten(1, (old, old)).permute(0, 3, 1, 2)  # (1, hidden, height, width)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([class_row, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def interpolate_frames(table: Tensor, *, num_frames: int) -> Tensor:
    """Stretch the frame position table, `(frames, hidden)`, by repeating rows, as the original does."""
    rows = torch.arange(table.shape[0], dtype=torch.float32)
    return table[functional.interpolate(rows[None, None], size=num_frames, mode="nearest")[0, 0].long()]
