"""Compare the model with tensors recorded from the original: `python -m tests.parity` prints the table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden import golden_meta, golden_tensors
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor, pad_left
from timechat.video import Frames

INFERENCE_CASES = ("infer_T8", "infer_T8_short_video", "infer_T40", "infer_T96")
BATCH_CASES = ("batch_same_T", "batch_mixed_T")
TRAINING_CASES = (
    "train_single_turn",
    "train_single_turn_legacy1",
    "train_multi_turn",
    "train_multi_turn_legacy1",
    "train_truncated",
    "train_batch_same_T",
    "train_batch_mixed_T",
)
# Tolerances of the recordings' README: maximum absolute difference, except for gradients (relative norm).
_TOLERANCES = {
    "pixel_values": 1e-6,
    "vit": 1e-5,
    "qformer": 1e-5,
    "frame_hidden_plus_pos": 1e-5,
    "video_qformer": 1e-5,
    "video_tokens": 2e-6,
    "inputs_embeds": 2e-6,
    "logits": 1e-4,
    "loss": 1e-5,
    "grad": 1e-4,
    "grad_norm": 1e-4,
}


@dataclass(frozen=True)
class Comparison:
    """One recorded tensor and the tensor of this model."""

    case: str
    tensor: str
    tolerance: float
    measured: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.tolerance


def _compare(case: str, tensor: str, got: Tensor, want: Tensor, mask: Tensor | None = None) -> Comparison:
    assert got.shape == want.shape, f"{case} {tensor}: {tuple(got.shape)} is not {tuple(want.shape)}"
    if not want.is_floating_point():
        return Comparison(case, tensor, 0, float((got.long() != want.long()).sum()))
    name = tensor.removeprefix("llama_ts.")
    tolerance = next(_TOLERANCES[key] for key in sorted(_TOLERANCES, key=len, reverse=True) if name.startswith(key))
    difference = (got - want).abs() if mask is None else (got - want).abs()[mask]
    if name.startswith("grad"):
        return Comparison(case, tensor, tolerance, float((got - want).norm() / want.norm()))
    return Comparison(case, tensor, tolerance, float(difference.max()))


def video_of(case: str, index: int | None = None) -> Frames:
    """Return the recorded frames of a case with the timestamps of the original."""
    tensors, meta = golden_tensors(case), golden_meta()["cases"][case]
    video = meta["video"] if index is None else meta["videos"][index]
    pixels = tensors["frames_u8" if index is None else f"frames_u8.{index}"].numpy()
    num_frames = min(meta.get("n_frms") or meta["num_frm"], video["vlen"])
    indices = np.arange(0, video["vlen"], video["vlen"] / num_frames).astype(int)
    return Frames(pixels=pixels, timestamps=indices / video["fps"], duration=video["vlen"] / video["fps"])


@torch.no_grad()
def compare_inference(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, case: str
) -> Iterator[Comparison]:
    """One video, one question: every tensor from pixels to logits, and the greedy answer."""
    want, meta = golden_tensors(case), golden_meta()["cases"][case]
    video = video_of(case)
    inputs = processor.encode_frames(video)
    yield _compare(case, "timestamp_input_ids", inputs["qformer_input_ids"], want["timestamp_input_ids"])
    yield _compare(case, "timestamp_attention_mask", inputs["qformer_attention_mask"], want["timestamp_attention_mask"])
    if "pixel_values" in want:
        yield _compare(case, "pixel_values", inputs["pixel_values"].transpose(0, 1), want["pixel_values"])

    seen = _record(model)
    batch = {key: value[None] for key, value in inputs.items()}
    video_tokens = model.get_video_features(**batch)
    states = _stop(seen)
    yield from _compare_vision(case, states, want)
    yield _compare(case, "video_tokens", video_tokens, want["video_tokens"])

    prompt = processor.render_prompt(video.timestamps, meta["question"])
    assert prompt == meta["prompt"]
    ids = torch.tensor([processor.encode_prompt(prompt, len(video.timestamps))])
    is_text = ids[0] != model.config.image_token_id
    recorded_ids = torch.cat([want["prompt_ids_before"], want["prompt_ids_after"]])
    yield _compare(case, "prompt_ids", ids[0, is_text], recorded_ids)
    embeds = model.embed_prompt(ids, video_tokens)
    yield _compare(case, "inputs_embeds", embeds, want["inputs_embeds"])
    logits = model(inputs_embeds=embeds).logits
    yield _compare(case, "logits", logits[:, -want["logits"].shape[1] :], want["logits"])
    greedy = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=-1,
    )
    yield _compare(case, "greedy_ids", greedy[0], want["greedy_ids"])


def _record(model: TimeChatForConditionalGeneration) -> tuple[dict[str, list[Tensor]], list[Any]]:
    """Record intermediate tensors of the model during the next forward pass."""
    states: dict[str, list[Tensor]] = {}
    tower: Any = model.frame_encoder.vision_model
    qformer = model.frame_encoder.qformer
    watched = {
        "vit.patch_embed": tower.embeddings.patch_embedding,
        "vit.ln_vision": tower.post_layernorm,
        "qformer.embeddings": qformer.embeddings,
        "qformer.layer0": qformer.encoder.layer[0],
        "qformer.last_hidden_state": qformer.encoder,
        "video_qformer.windows": model.video_qformer.qformer,
    } | {f"vit.block{i}": layer for i, layer in enumerate(tower.encoder.layers)}

    def hook(name: str) -> Any:
        def note(_module: Any, _inputs: Any, output: Any) -> None:
            output = getattr(output, "last_hidden_state", output)
            output = output[0] if isinstance(output, tuple) else output
            states.setdefault(name, []).append(output)

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in watched.items()]

    def note_input(_module: Any, _args: Any, kwargs: Any) -> None:
        states.setdefault("frame_hidden_plus_pos", []).append(kwargs["encoder_hidden_states"])

    handles.append(model.video_qformer.qformer.register_forward_pre_hook(note_input, with_kwargs=True))
    return states, handles


def _stop(seen: tuple[dict[str, list[Tensor]], list[Any]]) -> dict[str, list[Tensor]]:
    states, handles = seen
    for handle in handles:
        handle.remove()
    return states


def _compare_vision(case: str, states: dict[str, list[Tensor]], want: dict[str, Tensor]) -> Iterator[Comparison]:
    for name, recorded in want.items():
        if name not in states:
            continue
        # The tower calls its norm again for a pooled output; windows are separate calls.
        got = torch.cat(states[name]) if name == "video_qformer.windows" else states[name][0]
        if name == "vit.patch_embed":
            got = got.flatten(2).transpose(1, 2)  # (frames, patches, hidden)
        yield _compare(case, name, got[: recorded.shape[0]], recorded)


@torch.no_grad()
def compare_llama_timestamps(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, case: str
) -> Iterator[Comparison]:
    """The same frames with time sentences in the language model's vocabulary."""
    want = golden_tensors(case)
    inputs = processor.encode_frames(video_of(case))
    ids, mask = inputs["qformer_input_ids"], inputs["qformer_attention_mask"]
    yield _compare(case, "llama_ts.timestamp_input_ids", ids, want["llama_ts.timestamp_input_ids"])
    yield _compare(case, "llama_ts.timestamp_attention_mask", mask, want["llama_ts.timestamp_attention_mask"])
    batch = {key: value[None] for key, value in inputs.items()}
    states = model.get_frame_features(**batch)[0]
    name = "llama_ts.qformer.last_hidden_state"
    yield _compare(case, name, states, want[name])
    yield _compare(case, "llama_ts.video_tokens", model.get_video_features(**batch), want["llama_ts.video_tokens"])


@torch.no_grad()
def compare_batch(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, case: str
) -> Iterator[Comparison]:
    """Two videos at once, left padded, with time sentences padded as the original pads them."""
    want, meta = golden_tensors(case), golden_meta()["cases"][case]
    videos = [video_of(case, i) for i in range(2)]
    inputs = [processor.encode_frames(video) for video in videos]
    if case == "batch_same_T":  # stacked videos share one padding in the original
        ids, mask = processor.encode_timestamps(np.concatenate([video.timestamps for video in videos]))
        for i, item in enumerate(inputs):
            rows = slice(i * len(videos[0].timestamps), (i + 1) * len(videos[0].timestamps))
            item.update(qformer_input_ids=ids[rows], qformer_attention_mask=mask[rows])
    tokens = [model.get_video_features(**{key: value[None] for key, value in item.items()}) for item in inputs]
    for i, got in enumerate(tokens):
        yield _compare(case, f"video_tokens.{i}", got, want[f"video_tokens.{i}"])
    prompts = [
        processor.encode_prompt(processor.render_prompt(video.timestamps, question), len(video.timestamps))
        for video, question in zip(videos, meta["questions"], strict=True)
    ]
    ids, mask = pad_left(prompts, processor.pad_token_id)
    yield _compare(case, "attention_mask", mask, want["attention_mask"].long())
    embeds = model.embed_prompt(ids, torch.cat([got[0] for got in tokens]))
    yield _compare(case, "inputs_embeds", embeds, want["inputs_embeds"])
    logits = model(inputs_embeds=embeds, attention_mask=mask).logits
    kept = want["logits"].shape[1]
    yield _compare(case, "logits", logits[:, -kept:], want["logits"], mask=mask[:, -kept:].bool())


def compare_training(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, case: str
) -> Iterator[Comparison]:
    """One training step: ids, labels, loss, logits and gradients."""
    want, meta = golden_tensors(case), golden_meta()["cases"][case]
    batch = training_batch(processor, case)
    for name in ("input_ids", "labels", "attention_mask"):
        yield _compare(case, name, batch[name], want[name])
    stacked = case != "train_batch_mixed_T"
    for i in range(len(meta["samples"])):
        if not stacked:
            frames, tokens = batch["video_sizes"][i].tolist()
            got = batch["qformer_input_ids"][i, :frames, :tokens]
            yield _compare(case, f"timestamp_input_ids.{i}", got, want[f"timestamp_input_ids.{i}"])
    if stacked:
        yield _compare(
            case, "timestamp_input_ids", batch["qformer_input_ids"].flatten(0, 1), want["timestamp_input_ids"]
        )
        del batch["video_sizes"]
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    yield _compare(case, "loss", output.loss.detach(), want["loss"])
    kept = want["logits"].shape[1]
    real = batch["attention_mask"][:, -kept:].bool()
    yield _compare(case, "logits", output.logits.detach()[:, -kept:], want["logits"], mask=real)
    gradients = _gradients(model)
    for name, recorded in want.items():
        if name.startswith("grad."):
            yield _compare(case, name, gradients[name.removeprefix("grad.")], recorded)
    # The gradient of a key bias is only noise: softmax ignores a constant added to every score.
    norms = {key: norm for key, norm in meta["grad_norms"].items() if not key.endswith("key.bias")}
    worst = max(abs(float(gradients[key].norm()) / norm - 1) for key, norm in norms.items())
    yield Comparison(case, f"grad_norm (worst of {len(norms)})", _TOLERANCES["grad_norm"], worst)


def training_batch(processor: TimeChatProcessor, case: str) -> dict[str, Tensor]:
    """Build a training batch from the recorded sample, as the original's collater does."""
    from timechat.model.processing import pad_right
    from timechat.model.training_text import IGNORED_LABEL

    meta = golden_meta()["cases"][case]
    videos = [video_of(case, i) for i in range(len(meta["samples"]))]
    rows, labels = [], []
    for video, sample in zip(videos, meta["samples"], strict=True):
        turns = [(turn["q"], turn["a"]) for turn in sample["QA"]]
        ids, targets = processor.encode_training(video.timestamps, turns, max_length=meta["max_txt_len"])
        rows.append(ids)
        labels.append(targets)
    batch = dict(processor.pad_videos([processor.encode_frames(video) for video in videos]))
    batch["input_ids"], batch["attention_mask"] = pad_right(rows, processor.pad_token_id)
    batch["labels"], _ = pad_right(labels, IGNORED_LABEL)
    return batch


def _gradients(model: TimeChatForConditionalGeneration) -> dict[str, Tensor]:
    """Return gradients under the original's names."""
    from timechat.model.convert.keys import rename

    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {key: ours[rename(key)] for key in golden_meta()["cases"]["train_single_turn"]["grad_norms"]}


def main() -> None:
    """Convert the recorded checkpoints and print every comparison."""
    import tempfile
    from pathlib import Path

    from tests.conftest import with_timestamps
    from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint
    from timechat.model.convert.write import OriginalFiles, convert

    with tempfile.TemporaryDirectory() as folder:
        convert(
            OriginalFiles.find(**golden_checkpoint(timechat="timechat_7b.pth")),
            Path(folder) / "model",
            overrides=GOLDEN_OVERRIDES,
        )
        processor = TimeChatProcessor.from_pretrained(f"{folder}/model")
        llama = with_timestamps(processor, "llama")
        for attention in ("eager", "sdpa"):
            model = TimeChatForConditionalGeneration.from_pretrained(
                f"{folder}/model", attn_implementation=attention
            ).eval()
            for name, parameter in model.named_parameters():
                frozen = "vision_model." in name or ("language_model." in name and ".lora_" not in name)
                parameter.requires_grad_(not frozen)
            rows = [row for case in INFERENCE_CASES for row in compare_inference(model, processor, case)]
            for case in ("infer_T8", "infer_T40"):
                rows += compare_llama_timestamps(model, llama, case)
            for case in BATCH_CASES:
                rows += compare_batch(model, processor, case)
            for case in TRAINING_CASES:
                if not case.endswith("legacy1"):
                    rows += compare_training(model, llama, case)
            _print(attention, rows)


def _print(attention: str, rows: list[Comparison]) -> None:
    """Print the largest difference of each tensor over all cases."""
    worst: dict[str, Comparison] = {}
    for row in rows:
        if row.tensor not in worst or row.measured > worst[row.tensor].measured:
            worst[row.tensor] = row
    print(f"| tensor ({attention}) | worst case | tolerance | measured |\n| --- | --- | --- | --- |")
    for row in worst.values():
        print(f"| {row.tensor} | {row.case} | {row.tolerance:g} | {row.measured:.2g} |")


if __name__ == "__main__":
    main()
