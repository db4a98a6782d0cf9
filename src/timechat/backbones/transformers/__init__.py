"""Any local video language model of `transformers` as a backbone, by folder or hub id, without torchvision.

`loading` reads the files, `families` says how each family of models reads frames and times, `media` encodes frames,
`prompts` builds prompts, `generation` decodes, and `backbone` is the class that the engine uses. No code from a
model's folder is run.
"""

from timechat.backbones.transformers.backbone import (
    TransformersBackbone,
    load_transformers_backbone,
    read_backbone_config,
)
from timechat.backbones.transformers.loading import is_transformers_model

__all__ = ["TransformersBackbone", "is_transformers_model", "load_transformers_backbone", "read_backbone_config"]
