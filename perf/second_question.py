"""Time to the first token: the first question about a video against the second.

The first question decodes 96 frames, encodes them and reads the whole prompt; the second reads only the new part.
Both are measured side by side, several times over, on a mid-size model with random weights:

    python perf/second_question.py VIDEO
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from timechat import TimeChat, TimeChatConfig, TimeChatForConditionalGeneration, TimeChatProcessor
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.model.loading import NANO_FOLDER
from timechat.pipeline import DecodingOptions

FIRST_TOKEN = DecodingOptions(max_new_tokens=1)
VISION = {
    "model_type": "instructblip_vision_model",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 224,
    "initializer_range": 0.02,
}
QFORMER = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 4096,
}


def build(seed: int = 0) -> TimeChat:
    """Build a model between nano and the published one, with random weights and nano's tokenizers."""
    nano = TimeChatProcessor.from_pretrained(str(NANO_FOLDER))
    config = TimeChatConfig(
        vision_config=VISION,
        qformer_config=QFORMER | {"num_hidden_layers": 6, "vocab_size": len(nano.qformer_tokenizer)},
        video_qformer_config=QFORMER,
        text_config=LANGUAGE | {"vocab_size": nano.config.text_config.vocab_size},
        image_token_id=nano.config.image_token_id,
    )
    torch.manual_seed(seed)
    model = TimeChatForConditionalGeneration(config)
    processor = TimeChatProcessor(nano.tokenizer, nano.qformer_tokenizer, config)
    return TimeChat(TimeChatBackbone(model, processor, name="mid-size"))


def measure(timechat: TimeChat, video: Path) -> tuple[float, float]:
    """Return the seconds to the first token of the first and of the second question."""
    begun = time.perf_counter()
    encoded = timechat.encode(video)
    timechat.ask(encoded, "When does the person turn a light on?", decoding=FIRST_TOKEN)
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    timechat.ask(encoded, "What does the person hold?", decoding=FIRST_TOKEN)
    return first, time.perf_counter() - begun


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    timechat = build()
    parameters = sum(parameter.numel() for parameter in timechat.model.parameters())
    rows = [measure(timechat, options.video) for _ in range(options.repeats)]
    first, second = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{parameters / 1e6:.0f} M parameters, 96 frames, {torch.get_num_threads()} threads, float32")
    print("| | first question | second question | ratio |\n| --- | --- | --- | --- |")
    print(f"| time to first token, median of {len(rows)} | {first:.2f} s | {second:.3f} s | {first / second:.0f} |")


if __name__ == "__main__":
    main()
