"""One measurement of `perf/model_versions.py`: it runs with this version and with version 0.1.

    python -P perf/model_versions_work.py tokens|train|question MODEL VIDEO THREADS

Prints CPU seconds after the imports and a first small run, the peak memory of the process, and a checksum of the
result.
"""

import importlib
import json
import resource
import sys
import time

import timechat  # isort: skip  # before torch: this version then sets the wait policy
import torch
from peft import LoraConfig

NUM_FRAMES, STEPS = 96, 3


def first_module(*names):
    """Return the first module that exists: the versions have other names."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"none of {names}")


def load(model):
    return first_module("timechat.model.loading").load_model(model, device="cpu", dtype="float32")


def tokens(model, video):
    """Encode 96 frames into video tokens."""
    pipeline = first_module("timechat.pipeline.encoding", "timechat.pipeline.session")
    network, processor = load(model)
    frames = timechat.video.load_frames(video, num_frames=NUM_FRAMES, size=224)
    few = timechat.video.load_frames(video, num_frames=4, size=224)

    def run(some):
        return pipeline.compress_frames(network, pipeline.encode_frames(network, processor, some))

    run(few)
    yield
    yield float(run(frames).double().abs().sum())


def train(model, video):
    """Take training steps on 64 frames: LoRA, video Q-Former and projection learn, the tower is frozen."""
    objectives = first_module("timechat.training.objectives")
    network, processor = load(model)
    lora = first_module("timechat.model.lora", "timechat.model.adapter")
    torch.manual_seed(0)
    lora.attach_adapter(network.language_model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    frames = timechat.video.load_frames(video, num_frames=64, size=224)
    ids, mask = processor.encode_timestamps(frames.timestamps)
    config = network.config
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(3, 200, (1, 160), generator=generator)
    video_ids = torch.full((1, config.num_video_tokens(len(frames))), config.image_token_id)
    labels = torch.cat([torch.full_like(video_ids, -100), text], dim=1)
    inputs = {
        "input_ids": torch.cat([video_ids, text], dim=1),
        "attention_mask": torch.ones_like(labels),
        "qformer_input_ids": ids[None],
        "qformer_attention_mask": mask[None],
        "video_sizes": torch.tensor([[len(frames), ids.shape[1]]]),
        "labels": labels,
    }
    network.train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(("video_qformer", "projection")))
    network.frame_encoder.eval()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    objective = next(iter(objectives.OBJECTIVES.values()))
    loss = getattr(objective, "loss", objective)
    module = objectives.ObjectiveModule(network, loss)

    def step():
        pixels = processor.normalize(frames)[None]
        optimizer.zero_grad(set_to_none=True)
        result = module(inputs | {"pixel_values": pixels})
        (result.loss_sum / result.num_tokens).backward()
        optimizer.step()
        return float(result.loss_sum)

    step()
    yield
    yield sum(step() for _ in range(STEPS))


def question(model, video):
    """Open a video and ask the first question: decode, encode, answer with up to 32 tokens."""
    tasks = first_module("timechat.answers.tasks", "timechat.tasks")
    options = tasks.DecodingOptions if hasattr(tasks, "DecodingOptions") else tasks.Decoding
    product = timechat.TimeChat.from_pretrained(model, device="cpu", dtype="float32")
    yield
    answer = product.ask(video, "What happens in this video?", decoding=options(max_new_tokens=32))
    yield float(len(answer.text) + 1)


def main():
    work, model, video, threads = sys.argv[1:]
    if int(threads):
        torch.set_num_threads(int(threads))
    steps = {"tokens": tokens, "train": train, "question": question}[work](model, video)
    next(steps)
    start = time.process_time()
    checksum = next(steps)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "checksum": checksum}))


if __name__ == "__main__":
    main()
