"""Parameter names of the original → names in `TimeChatForConditionalGeneration`."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Ignored:
    """A key that is not converted, with the reason."""

    reason: str


def rename(key: str) -> str | Ignored:
    """Return the name in `TimeChatForConditionalGeneration` for a key of a complete original state dict.

    LoRA keys map to the names of the adapter below `language_model.`.
    """
    if key.endswith(("embeddings.position_ids", "rotary_emb.inv_freq")):
        return Ignored("a buffer that is computed")
    for pattern, replacement in _RENAMES:
        if re.match(pattern, key):
            if isinstance(replacement, Ignored):
                return replacement
            name = re.sub(pattern, replacement, key)
            return _rename_inner(name)
    return Ignored("no part of TimeChat has this name")


_RENAMES: list[tuple[str, str | Ignored]] = [
    (r"^visual_encoder\.(norm|fc_norm|head)\.", Ignored("the original ends at the last block")),
    (r"^visual_encoder\.(mask_token|.*rel_pos|.*relative_position)", Ignored("unused by EVA ViT-g here")),
    (r"^visual_encoder\.cls_token$", "frame_encoder.vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "frame_encoder.vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "frame_encoder.vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.blocks\.(\d+)\.", r"frame_encoder.vision_model.encoder.layers.\1."),
    (r"^ln_vision\.", "frame_encoder.vision_model.post_layernorm."),
    (r"^query_tokens$", "frame_encoder.query_tokens"),
    (r"^Qformer\.cls\.", Ignored("BERT's word predictor, which the original removes")),
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "frame_encoder.qformer.embeddings.layernorm."),
    (r"^Qformer\.bert\.", "frame_encoder.qformer."),
    (r"^llm_proj\.", Ignored("InstructBLIP's own projection; TimeChat has llama_proj")),
    (r"^video_query_tokens$", "video_qformer.query_tokens"),
    (r"^video_frame_position_embedding\.", "video_qformer.frame_positions."),
    (
        r"^video_Qformer\.(cls\.|bert\.embeddings\.(word|position)_embeddings)",
        Ignored("the video Q-Former reads no text"),
    ),
    (r"^video_Qformer\.bert\.embeddings\.LayerNorm\.", "video_qformer.qformer.layernorm."),
    (r"^video_Qformer\.bert\.", "video_qformer.qformer."),
    (r"^llama_proj\.", "video_qformer.projection."),
    (r"^llama_model\.base_model\.model\.", "language_model."),
    (r"^llama_model\.", "language_model."),
]
_INNER_RENAMES = [
    (r"(vision_model\.encoder\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"(vision_model\.encoder\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.projection."),
    (r"(vision_model\.encoder\.layers\.\d+)\.attn\.", r"\1.self_attn."),
    (r"(qformer\.encoder\.layer\.\d+\.(?:cross)?attention)\.self\.", r"\1.attention."),
    (r"(self_attn\.[qkvo]_proj)\.base_layer\.", r"\1."),
]


def _rename_inner(name: str) -> str:
    for pattern, replacement in _INNER_RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
