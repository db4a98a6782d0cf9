"""TimeChat as a model of VLMEvalKit, which has no plug-ins: combine the class with the harness's base class.

from vlmeval.config import supported_VLM
from vlmeval.vlm.base import BaseModel
from timechat.evaluation.harnesses.vlmevalkit import VLMEvalTimeChat

class TimeChatModel(VLMEvalTimeChat, BaseModel):
    pass

supported_VLM["timechat"] = TimeChatModel
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timechat.answers.prompts import DEFAULT_PRESET
from timechat.answers.tasks import DecodingOptions
from timechat.evaluation.harnesses.asking import GenerationSettings, HarnessQuestion, VideoAnswerer, VideoPart


class VLMEvalTimeChat:
    """Model that answers the harness's messages; the harness's base class adds `generate`."""

    INTERLEAVE = False
    VIDEO_LLM = True  # data sets then pass the path of the video instead of extracted frames
    allowed_types = ("text", "video")

    def __init__(
        self,
        pretrained: str = "nano",
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        lora_scale: float | None = None,
        lora_alpha: float | None = None,
        num_frames: int | None = None,
        preset: str = DEFAULT_PRESET,
        system_prompt: str | None = None,
        max_new_tokens: int = 512,
    ) -> None:
        """Load the model.

        Args:
            pretrained: Checkpoint: `nano`, a folder of `timechat convert`, or a hub id.
            device: Device, as in `TimeChat.from_pretrained`.
            dtype: Number format, as in `TimeChat.from_pretrained`.
            quantize: Format to which weights are rounded, as in `TimeChat.from_pretrained`.
            lora_scale: Strength of the LoRA adapter, `lora_alpha / r`.
            lora_alpha: Strength of the adapter before division by its rank.
            num_frames: Number of evenly spaced frames of each video; None uses the model's configuration.
            preset: Preset that provides the system prompt if none is given.
            system_prompt: System prompt instead of the preset's.
            max_new_tokens: Maximum number of tokens of an answer; decoding is greedy.
        """
        super().__init__()
        self.writing = GenerationSettings(DecodingOptions(max_new_tokens=max_new_tokens))
        self.answerer = VideoAnswerer.from_pretrained(
            pretrained,
            device=device,
            dtype=dtype,
            quantize=quantize,
            lora_scale=lora_scale,
            lora_alpha=lora_alpha,
            num_frames=num_frames,
            preset=preset,
            system=system_prompt,
        )

    def use_custom_prompt(self, dataset: str) -> bool:  # noqa: ARG002 - the harness's signature
        """Return False: each data set words its own questions."""
        return False

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """Answer a message.

        Args:
            message: Parts, `{"type": "text" or "video", "value": ...}`; a text with `"role": "system"` is the system
                prompt.
            dataset: Name of the data set, for errors.

        Raises:
            ValueError: There is not exactly one video, there are images, or there is no question.
        """
        strange = {part["type"] for part in message} - set(self.allowed_types)
        videos = [part["value"] for part in message if part["type"] == "video"]
        if strange or len(videos) != 1:
            raise ValueError(
                f"TimeChat answers about one video, but {dataset or 'the message'} has {len(videos)} and "
                f"{', '.join(sorted(strange)) or 'nothing else'}; choose a data set of whole videos"
            )
        system = "\n".join(_texts(message, is_system=True)) or None
        question = HarnessQuestion(
            VideoPart(videos[0]), "\n".join(_texts(message, is_system=False)), system=system, writing=self.writing
        )
        return self.answerer.answer([question])[0].text


def _texts(message: Sequence[Mapping[str, Any]], *, is_system: bool) -> list[str]:
    return [
        str(part["value"]) for part in message if part["type"] == "text" and (part.get("role") == "system") == is_system
    ]
