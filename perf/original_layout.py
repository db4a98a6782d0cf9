"""Names, shapes and dtypes of the original's published files, at any size.

No tensor is allocated: the list of the full-size set costs as much as the list of a tiny set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from timechat.model.convert.files import TensorInfo
from timechat.model.convert.write import LAYOUT

Shapes = Iterator[tuple[str, tuple[int, ...]]]

LLM_SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a set of original files; the defaults are the published ones.

    Attributes:
        vision_blocks: Blocks in the file of the vision tower; the model leaves the last one out.
        vision_positions: Patches and the class token of one frame.
        qformer_words: BERT's words and `[DEC]`.
        text_words: Rows of the language model's embedding.
        head_size: Width of one head of the language model.
        video_llama_frames: Rows of Video-LLaMA's frame position embedding.
        timechat_frames: Rows of TimeChat's frame position embedding.
    """

    vision_width: int = 1408
    vision_feed_forward: int = 6144
    vision_blocks: int = 40
    vision_positions: int = 257
    patch_size: int = 14
    qformer_width: int = 768
    qformer_feed_forward: int = 3072
    qformer_layers: int = 12
    qformer_words: int = 30523
    qformer_positions: int = 512
    num_query_tokens: int = 32
    video_qformer_layers: int = 2
    num_video_query_tokens: int = 32
    text_width: int = 4096
    text_feed_forward: int = 11008
    text_layers: int = 32
    text_words: int = 32000
    head_size: int = 128
    lora_rank: int = 32
    video_llama_frames: int = 32
    timechat_frames: int = 96


FULL = Sizes()
TINY = Sizes(  # the same heads and vocabularies, so that it converts without a --config
    vision_width=64,
    vision_feed_forward=96,
    vision_blocks=4,
    qformer_width=48,
    qformer_feed_forward=96,
    qformer_layers=4,
    text_width=64,
    text_feed_forward=112,
    text_layers=3,
    head_size=16,
    lora_rank=8,
)


def original_tensors(sizes: Sizes) -> dict[str, dict[str, TensorInfo]]:
    """Return file → name → shape and dtype, files named as below the original's checkpoint folder."""
    half, full = torch.float16, torch.float32
    files = {
        LAYOUT["vit"]: _with_dtype(_vision_tower(sizes), half),
        LAYOUT["qformer"]: _with_dtype(_instruct_blip(sizes), full),
        LAYOUT["video_llama"]: _with_dtype(_video_llama(sizes), full),
        LAYOUT["timechat"]: _with_dtype(_timechat(sizes), full),
    }
    for shard, layers in zip(LLM_SHARDS, _cut(sizes.text_layers), strict=True):
        files[f"{LAYOUT['llm']}/{shard}"] = _with_dtype(_llama(sizes, layers), half)
    return files


def llama_config(sizes: Sizes) -> dict[str, Any]:
    """Return `config.json` of the language model's folder."""
    heads = sizes.text_width // sizes.head_size
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": sizes.text_width,
        "initializer_range": 0.02,
        "intermediate_size": sizes.text_feed_forward,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": sizes.text_layers,
        "num_key_value_heads": heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": sizes.text_words,
    }


def _with_dtype(shapes: Shapes, dtype: torch.dtype) -> dict[str, TensorInfo]:
    """Give every tensor the dtype of the file, except buffers, which have their own."""
    buffers = {"position_ids": torch.int64, "inv_freq": torch.float32}
    return {name: TensorInfo(shape, buffers.get(name.rpartition(".")[2], dtype)) for name, shape in shapes}


def _cut(num_layers: int) -> tuple[range, range]:
    """Distribute layers over two shards about as the published ones, three to one."""
    first = num_layers * 3 // 4
    return range(first), range(first, num_layers)


def _linear(name: str, rows: int, columns: int) -> Shapes:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _vision_tower(sizes: Sizes) -> Shapes:
    width, feed_forward, patch = sizes.vision_width, sizes.vision_feed_forward, sizes.patch_size
    yield "cls_token", (1, 1, width)
    yield "pos_embed", (1, sizes.vision_positions, width)
    yield "patch_embed.proj.weight", (width, 3, patch, patch)
    yield "patch_embed.proj.bias", (width,)
    for i in range(sizes.vision_blocks):
        yield from _norm(f"blocks.{i}.norm1", width)
        yield f"blocks.{i}.attn.q_bias", (width,)
        yield f"blocks.{i}.attn.v_bias", (width,)
        yield f"blocks.{i}.attn.qkv.weight", (3 * width, width)
        yield from _linear(f"blocks.{i}.attn.proj", width, width)
        yield from _norm(f"blocks.{i}.norm2", width)
        yield from _linear(f"blocks.{i}.mlp.fc1", feed_forward, width)
        yield from _linear(f"blocks.{i}.mlp.fc2", width, feed_forward)


def _instruct_blip(sizes: Sizes) -> Shapes:
    yield "query_tokens", (1, sizes.num_query_tokens, sizes.qformer_width)
    yield from _norm("ln_vision", sizes.vision_width)
    yield from _image_qformer(sizes)
    yield from _linear("llm_proj", sizes.text_width, sizes.qformer_width)


def _image_qformer(sizes: Sizes) -> Shapes:
    width = sizes.qformer_width
    yield "Qformer.bert.embeddings.position_ids", (1, sizes.qformer_positions)
    yield "Qformer.bert.embeddings.word_embeddings.weight", (sizes.qformer_words, width)
    yield "Qformer.bert.embeddings.position_embeddings.weight", (sizes.qformer_positions, width)
    yield from _norm("Qformer.bert.embeddings.LayerNorm", width)
    for i in range(sizes.qformer_layers):
        layer = f"Qformer.bert.encoder.layer.{i}"
        yield from _attention(f"{layer}.attention", width, width)
        if i % 2 == 0:
            yield from _attention(f"{layer}.crossattention", width, sizes.vision_width)
        yield from _feed_forward(layer, sizes, "")
        yield from _feed_forward(layer, sizes, "_query")


def _attention(name: str, width: int, seen_width: int) -> Shapes:
    yield from _linear(f"{name}.self.query", width, width)
    yield from _linear(f"{name}.self.key", width, seen_width)
    yield from _linear(f"{name}.self.value", width, seen_width)
    yield from _linear(f"{name}.output.dense", width, width)
    yield from _norm(f"{name}.output.LayerNorm", width)


def _feed_forward(layer: str, sizes: Sizes, kind: str) -> Shapes:
    yield from _linear(f"{layer}.intermediate{kind}.dense", sizes.qformer_feed_forward, sizes.qformer_width)
    yield from _linear(f"{layer}.output{kind}.dense", sizes.qformer_width, sizes.qformer_feed_forward)
    yield from _norm(f"{layer}.output{kind}.LayerNorm", sizes.qformer_width)


def _video_part(sizes: Sizes, num_frames: int) -> Shapes:
    width = sizes.qformer_width
    yield "video_query_tokens", (1, sizes.num_video_query_tokens, width)
    yield from _linear("llama_proj", sizes.text_width, width)
    yield "video_frame_position_embedding.weight", (num_frames, width)
    yield "video_Qformer.bert.embeddings.position_ids", (1, sizes.qformer_positions)
    yield from _norm("video_Qformer.bert.embeddings.LayerNorm", width)
    for i in range(sizes.video_qformer_layers):
        layer = f"video_Qformer.bert.encoder.layer.{i}"
        yield from _attention(f"{layer}.attention", width, width)
        yield from _attention(f"{layer}.crossattention", width, width)
        yield from _feed_forward(layer, sizes, "_query")


def _video_llama(sizes: Sizes) -> Shapes:
    """Video-LLaMA's file, with the rotary buffers that older versions of `transformers` saved."""
    yield from _video_part(sizes, sizes.video_llama_frames)
    for i in range(sizes.text_layers):
        yield f"llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq", (sizes.head_size // 2,)


def _timechat(sizes: Sizes) -> Shapes:
    """The checkpoint of the original's trainer: all trained tensors, and buffers."""
    yield "query_tokens", (1, sizes.num_query_tokens, sizes.qformer_width)
    yield from _image_qformer(sizes)
    for i in range(sizes.text_layers):
        for projection in "qkvo":
            name = f"llama_model.base_model.model.model.layers.{i}.self_attn.{projection}_proj"
            yield f"{name}.lora_A.default.weight", (sizes.lora_rank, sizes.text_width)
            yield f"{name}.lora_B.default.weight", (sizes.text_width, sizes.lora_rank)
    yield from _video_part(sizes, sizes.timechat_frames)


def _llama(sizes: Sizes, layers: range) -> Shapes:
    """One shard of the language model."""
    width, feed_forward = sizes.text_width, sizes.text_feed_forward
    if layers.start == 0:
        yield "model.embed_tokens.weight", (sizes.text_words, width)
    for i in layers:
        layer = f"model.layers.{i}"
        for projection in "qkvo":
            yield f"{layer}.self_attn.{projection}_proj.weight", (width, width)
        yield f"{layer}.self_attn.rotary_emb.inv_freq", (sizes.head_size // 2,)
        yield f"{layer}.mlp.gate_proj.weight", (feed_forward, width)
        yield f"{layer}.mlp.up_proj.weight", (feed_forward, width)
        yield f"{layer}.mlp.down_proj.weight", (width, feed_forward)
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
    if layers.stop == sizes.text_layers:
        yield "model.norm.weight", (width,)
        yield "lm_head.weight", (sizes.text_words, width)
