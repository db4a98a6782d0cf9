"""The original system in plain tensor operations, on the original's key names.

Written from the specification of the original alone, without a look at `timechat.model`, so that a mistake of one is
not a mistake of the other. Everything is float32 on the CPU; nothing is fast.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]
LORA = "llama_model.base_model.model."


@dataclass(frozen=True)
class Settings:
    """Settings that the original reads from its configuration files, because tensors do not show them."""

    image_size: int
    vit_heads: int
    vit_depth: int
    qformer_heads: int
    video_qformer_heads: int
    window_size: int = 32
    stride: int = 32
    max_frame_positions: int = 96
    lora_alpha: float = 32.0


# Loading: later files overwrite earlier ones, unknown keys are ignored.


def load_original(
    settings: Settings, vit: Path, qformer: Path, llm: Path, checkpoint: Path
) -> tuple[State, dict[str, Any]]:
    """Return the state of the assembled model and the language model's config.json."""
    state = {f"visual_encoder.{key}": value for key, value in torch.load(vit, weights_only=True).items()}
    grid = settings.image_size // state["visual_encoder.patch_embed.proj.weight"].shape[-1]
    state["visual_encoder.pos_embed"] = resize_patch_positions(state["visual_encoder.pos_embed"].float(), grid)
    state |= torch.load(qformer, weights_only=True)["model"]
    shards = sorted(llm.glob("*.safetensors"))
    files = [load_file(path) for path in shards] or [
        torch.load(path, weights_only=True) for path in sorted(llm.glob("pytorch_model*.bin"))
    ]
    for tensors in files:
        state |= {LORA + key: value for key, value in tensors.items()}
    state |= torch.load(checkpoint, weights_only=True)["model"]
    name = "video_frame_position_embedding.weight"
    state[name] = resize_frame_positions(state[name], settings.max_frame_positions)
    if LORA + "lm_head.weight" not in state:  # tied
        state[LORA + "lm_head.weight"] = state[LORA + "model.embed_tokens.weight"]
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return state, json.loads((llm / "config.json").read_text())


def resize_patch_positions(table: Tensor, grid: int) -> Tensor:
    """Interpolate a square table of patch positions; the first row belongs to the class token."""
    old = round((table.shape[1] - 1) ** 0.5)
    if old == grid:
        return table
    image = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], image.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def resize_frame_positions(table: Tensor, length: int) -> Tensor:
    """Nearest: row j of the new table is row floor(j * old / new) of the old one, as torch rounds it."""
    return functional.interpolate(table.T[None], size=length, mode="nearest")[0].T


# Building blocks.


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Multi-head attention over `(batch, tokens, width)`; `bias` is added to the scores."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


# Vision transformer.


def encode_images(state: State, settings: Settings, pixels: Tensor) -> Tensor:
    """Take `(images, 3, height, width)` to `(images, 1 + patches, width)`, after `ln_vision`."""
    weight = state["visual_encoder.patch_embed.proj.weight"]
    patches = functional.conv2d(pixels, weight, state["visual_encoder.patch_embed.proj.bias"], stride=weight.shape[-1])
    patches = patches.flatten(2).transpose(1, 2)
    x = torch.cat([state["visual_encoder.cls_token"].expand(len(pixels), -1, -1), patches], dim=1)
    x = x + state["visual_encoder.pos_embed"]
    for i in range(settings.vit_depth):
        x = vit_block(state, settings, f"visual_encoder.blocks.{i}", x)
    return layer_norm(state, "ln_vision", x, 1e-5)


def vit_block(state: State, settings: Settings, name: str, x: Tensor) -> Tensor:
    q_bias, v_bias = state[f"{name}.attn.q_bias"], state[f"{name}.attn.v_bias"]
    bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    normed = layer_norm(state, f"{name}.norm1", x, 1e-6)
    query, key, value = functional.linear(normed, state[f"{name}.attn.qkv.weight"], bias).chunk(3, dim=-1)
    x = x + linear(state, f"{name}.attn.proj", attend(query, key, value, settings.vit_heads))
    hidden = functional.gelu(linear(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", x, 1e-6)))
    return x + linear(state, f"{name}.mlp.fc2", hidden)


# The two Q-Formers.


def bert_output(state: State, name: str, x: Tensor, residual: Tensor) -> Tensor:
    return layer_norm(state, f"{name}.LayerNorm", linear(state, f"{name}.dense", x) + residual, 1e-12)


def bert_attention(
    state: State, name: str, x: Tensor, source: Tensor, heads: int, bias: Tensor | float = 0.0
) -> Tensor:
    query = linear(state, f"{name}.self.query", x)
    key, value = linear(state, f"{name}.self.key", source), linear(state, f"{name}.self.value", source)
    return bert_output(state, f"{name}.output", attend(query, key, value, heads, bias), x)


def bert_feed_forward(state: State, layer: str, suffix: str, x: Tensor) -> Tensor:
    hidden = functional.gelu(linear(state, f"{layer}.intermediate{suffix}.dense", x))
    return bert_output(state, f"{layer}.output{suffix}", hidden, x)


def bert_layers(
    state: State, name: str, x: Tensor, num_queries: int, source: Tensor, heads: int, bias: Tensor | float = 0.0
) -> Tensor:
    """Run all layers: self-attention for all, cross-attention to `source` for queries, a feed-forward for each kind."""
    i = 0
    while f"{name}.encoder.layer.{i}.attention.self.query.weight" in state:
        layer = f"{name}.encoder.layer.{i}"
        x = bert_attention(state, f"{layer}.attention", x, x, heads, bias)
        queries, text = x[:, :num_queries], x[:, num_queries:]
        if f"{layer}.crossattention.self.query.weight" in state:
            queries = bert_attention(state, f"{layer}.crossattention", queries, source, heads)
        x = bert_feed_forward(state, layer, "_query", queries)
        if text.shape[1]:
            x = torch.cat([x, bert_feed_forward(state, layer, "", text)], dim=1)
        i += 1
    return x


def encode_frames(state: State, settings: Settings, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Frames `(frames, 3, height, width)` with their sentences to `(frames, queries + tokens, width)`."""
    images = encode_images(state, settings, pixels)
    queries = state["query_tokens"].expand(len(pixels), -1, -1)
    embeddings = "Qformer.bert.embeddings"
    positions = state[f"{embeddings}.position_embeddings.weight"][: ids.shape[1]]
    text = state[f"{embeddings}.word_embeddings.weight"][ids] + positions
    x = layer_norm(state, f"{embeddings}.LayerNorm", torch.cat([queries, text], dim=1), 1e-12)
    seen = torch.cat([torch.ones(queries.shape[:2]), mask.float()], dim=1)
    bias = (1 - seen)[:, None, None] * -10000.0
    return bert_layers(state, "Qformer.bert", x, queries.shape[1], images, settings.qformer_heads, bias)


def encode_video(state: State, settings: Settings, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Videos `(batch, frames, ...)` to `(batch, windows * video queries, width of the language model)`."""
    batch, frames = pixels.shape[:2]
    x = encode_frames(state, settings, *(part.flatten(0, 1) for part in (pixels, ids, mask))).unflatten(0, (batch, -1))
    x = x + state["video_frame_position_embedding.weight"][:frames][None, :, None]
    windows = [x]
    if settings.window_size > 0:
        windows = [x[:, i : i + settings.window_size] for i in range(0, frames, settings.stride)]
    queries = state["video_query_tokens"].expand(batch, -1, -1)
    queries = layer_norm(state, "video_Qformer.bert.embeddings.LayerNorm", queries, 1e-12)
    heads = settings.video_qformer_heads
    tokens = [
        bert_layers(state, "video_Qformer.bert", queries, queries.shape[1], w.flatten(1, 2), heads) for w in windows
    ]
    return torch.cat([linear(state, "llama_proj", window) for window in tokens], dim=1)


# Language model with LoRA.


def splice(state: State, ids: Tensor, placeholder: int, video_tokens: Tensor) -> Tensor:
    """Look up `(batch, tokens)` ids; rows of placeholders are filled with the video tokens, in order."""
    is_video = ids == placeholder
    embeds = state[f"{LORA}model.embed_tokens.weight"][ids.masked_fill(is_video, 0)]
    return embeds.masked_scatter(is_video[..., None], video_tokens)


def rms_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return state[f"{name}.weight"] * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()


def lora_linear(state: State, alpha: float, name: str, x: Tensor) -> Tensor:
    y = functional.linear(x, state[f"{name}.weight"])
    if f"{name}.lora_A.default.weight" not in state:
        return y
    down, up = state[f"{name}.lora_A.default.weight"], state[f"{name}.lora_B.default.weight"]
    return y + alpha / down.shape[0] * (x @ down.T @ up.T)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotate `(batch, tokens, heads, dim)` by `(batch, tokens)`: dimension i pairs with i + dim / 2."""
    half = x.shape[-1] // 2
    angles = positions[..., None, None] * theta ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def llama_logits(
    state: State,
    config: dict[str, Any],
    alpha: float,
    embeds: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    batch, length = embeds.shape[:2]
    positions = torch.arange(length).expand(batch, -1) if positions is None else positions
    mask = torch.ones(batch, length) if mask is None else mask
    visible = torch.ones(length, length).tril().bool() & mask.bool()[:, None, None]
    bias = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    heads, eps, theta = config["num_attention_heads"], config["rms_norm_eps"], config.get("rope_theta", 10000.0)
    x = embeds
    for i in range(config["num_hidden_layers"]):
        layer = f"{LORA}model.layers.{i}"
        normed = rms_norm(state, f"{layer}.input_layernorm", x, eps)
        query, key, value = (lora_linear(state, alpha, f"{layer}.self_attn.{n}_proj", normed) for n in "qkv")
        dim = query.shape[-1] // heads
        query, key, value = (part.unflatten(-1, (-1, dim)) for part in (query, key, value))
        query, key = rotate(query, positions, theta), rotate(key, positions, theta)
        key, value = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (key, value))
        attended = attend(query.flatten(2), key.flatten(2), value.flatten(2), heads, bias)
        x = x + lora_linear(state, alpha, f"{layer}.self_attn.o_proj", attended)
        normed = rms_norm(state, f"{layer}.post_attention_layernorm", x, eps)
        gate, up = linear(state, f"{layer}.mlp.gate_proj", normed), linear(state, f"{layer}.mlp.up_proj", normed)
        x = x + linear(state, f"{layer}.mlp.down_proj", functional.silu(gate) * up)
    return linear(state, f"{LORA}lm_head", rms_norm(state, f"{LORA}model.norm", x, eps))


def training_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each next token; labels of -100 do not count."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


@torch.no_grad()
def greedy(state: State, config: dict[str, Any], alpha: float, embeds: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Continue one prompt without a cache; also return the margin of the best token at each step."""
    ids, margins = [], []
    for _ in range(steps):
        best = llama_logits(state, config, alpha, embeds)[0, -1].topk(2)
        ids.append(best.indices[0])
        margins.append(best.values[0] - best.values[1])
        embeds = torch.cat([embeds, state[f"{LORA}model.embed_tokens.weight"][ids[-1]][None, None]], dim=1)
    return torch.stack(ids), torch.stack(margins)
