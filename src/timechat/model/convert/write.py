"""Original checkpoints → one folder in the `transformers` layout.

The files are those of the original instructions; sizes are read from their tensors. The report covers every key:
used, ignored with a reason, or missing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from timechat.answers.prompts import VIDEO_PLACEHOLDER
from timechat.errors import CheckpointError
from timechat.model import lora as adapter
from timechat.model.convert.files import PlannedTensor, WeightFile, inspect_model_folder, read_json, write_shards
from timechat.model.convert.folder import check_is_free, making_folder
from timechat.model.convert.plan import ConversionPlan, ConversionReport
from timechat.model.convert.quantize import quantized_plan
from timechat.model.convert.tokenizers import check_vocabularies, first_line, load_bert_tokenizer, load_llm_tokenizer
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.quantization import Quantization, quantization_config
from timechat.model.tensor_files import check_is_downloaded, save_tensors

REPORT_FILE = "conversion.json"
LAYOUT = {
    "vit": "eva-vit-g/eva_vit_g.pth",
    "qformer": "instruct-blip/instruct_blip_vicuna7b_trimmed.pth",
    "llm": "Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf",
    "timechat": "timechat/timechat_7b.pth",
    "video_llama": "Video-LLaMA-2-7B-Finetuned/VL_LLaMA_2_7B_Finetuned.pth",
    "bert_vocab": "bert-base-uncased/vocab.txt",
}
_LORA_RANK = 32  # rank of the original's recipes; used only for checkpoints without an adapter
_LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class OriginalFiles:
    """Paths of the original's files.

    Attributes:
        vit: `eva_vit_g.pth`, the vision tower.
        qformer: `instruct_blip_vicuna7b_trimmed.pth`, the image Q-Former and the norm before it.
        llm: Folder of the language model and its tokenizer.
        timechat: `timechat_7b.pth` or another fine-tuned checkpoint; None for the stage-2 starting point.
        video_llama: `VL_LLaMA_2_7B_Finetuned.pth`, needed only if `timechat` is None.
        bert_vocab: `vocab.txt` of bert-base-uncased.
    """

    vit: Path
    qformer: Path
    llm: Path
    bert_vocab: Path
    timechat: Path | None = None
    video_llama: Path | None = None

    def __post_init__(self) -> None:
        if (self.timechat is None) == (self.video_llama is None):
            raise ValueError(
                "give either timechat (a trained checkpoint) or video_llama (the stage-2 starting point): "
                f"got timechat={self.timechat} and video_llama={self.video_llama}"
            )

    @classmethod
    def find(cls, folder: Path | None = None, **given: Path | None) -> "OriginalFiles":
        """Return the given files, and the other files from the original's layout below `folder`.

        Raises:
            CheckpointError: A file is missing; the message names it and the searched place.
        """
        if folder is not None and not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; expected a folder with the original's files")
        found = {part: given.get(part) or _in_layout(folder, part) for part in LAYOUT}
        found["bert_vocab"] = found["bert_vocab"] or _cached_bert_vocab()
        if given.get("video_llama") and not given.get("timechat"):
            found["timechat"] = None  # the starting point was requested
        if found["timechat"]:
            found["video_llama"] = None  # timechat_7b.pth contains everything in it
        for part in ("vit", "qformer", "llm", "bert_vocab"):
            if found[part] is None:
                raise CheckpointError(_missing(part, folder))
        if found["timechat"] is None and found["video_llama"] is None:
            raise CheckpointError(_missing("timechat", folder))
        for part, path in found.items():
            if path is not None and not path.exists():
                raise CheckpointError(
                    f"{path} does not exist; give the original's file or folder with --{part.replace('_', '-')}"
                )
        if not found["llm"].is_dir():  # type: ignore[union-attr]
            raise CheckpointError(f"{found['llm']} is a file; expected the folder of the language model")
        return cls(**found)  # type: ignore[arg-type]


def _in_layout(folder: Path | None, part: str) -> Path | None:
    if folder is None:
        return None
    path = folder / LAYOUT[part]
    return path if path.exists() else None


def _cached_bert_vocab() -> Path | None:
    for repository in ("bert-base-uncased", "google-bert/bert-base-uncased"):
        if isinstance(path := try_to_load_from_cache(repository, "vocab.txt"), str):
            return Path(path)
    return None


def _missing(part: str, folder: Path | None) -> str:
    option = "--" + part.replace("_", "-")
    searched = f" at {folder / LAYOUT[part]}" if folder else ""
    if part == "bert_vocab":
        return (
            f"the vocabulary of bert-base-uncased was not found{searched or ' in the local hub cache'}: it is not one "
            "of the original files, but the time sentences need it; download it with `timechat download CKPT_DIR "
            "--only bert-vocab` or name a vocab.txt with --bert-vocab FILE"
        )
    name = "timechat_7b.pth or VL_LLaMA_2_7B_Finetuned.pth" if part == "timechat" else Path(LAYOUT[part]).name
    return f"{name} was not found{searched}; name it with {option}, or the folder of all files with --from CKPT_DIR"


def convert(
    files: OriginalFiles,
    out_dir: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    merge: bool = False,
    quantize: Quantization | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert original checkpoints into a folder that `from_pretrained` loads.

    Args:
        files: Paths of the original's files.
        out_dir: Folder to create, complete or not at all.
        overrides: Nested part of a `TimeChatConfig`; settings that tensors do not show (heads, image size, window,
            stride, frame positions) otherwise have the original's values.
        merge: Whether to merge the LoRA adapter into the weights instead of storing it as `lora/`.
        quantize: Format of the linear layers of vision tower and language model; None keeps floating point.
        progress: Callback with the bytes written so far and the total bytes.

    Returns:
        Report on every key; also written into the folder.

    Raises:
        CheckpointError: A file is missing, unreadable or does not fit; no files remain.
    """
    check_is_free(out_dir)
    tokenizer = load_llm_tokenizer(files.llm)
    qformer_tokenizer = load_bert_tokenizer(files.bert_vocab)
    plan = ConversionPlan(
        _inspect_parts(files),
        _load_text_config(files.llm),
        image_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER),
        overrides=overrides,
    )
    check_vocabularies(plan.config, tokenizer, qformer_tokenizer, files.llm)
    with making_folder(out_dir) as folder:
        _write(plan, folder, merge=merge, quantize=quantize, progress=progress)
        _generation_config(files.llm, tokenizer).save_pretrained(folder)
        TimeChatProcessor(tokenizer, qformer_tokenizer, plan.config).save_pretrained(str(folder))
        (folder / REPORT_FILE).write_text(json.dumps(asdict(plan.report), indent=2), encoding="utf-8")
    return plan.report


def _inspect_parts(files: OriginalFiles) -> dict[str, list[WeightFile]]:
    parts = {"vit": [WeightFile.inspect(files.vit)], "qformer": [WeightFile.inspect(files.qformer)]}
    parts["llm"] = inspect_model_folder(files.llm)
    if files.timechat:
        parts["timechat"] = [WeightFile.inspect(files.timechat)]
    if files.video_llama:
        parts["video_llama"] = [WeightFile.inspect(files.video_llama)]
    return parts


def _load_text_config(folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    if path.is_file():
        check_is_downloaded(path)
        if code := read_json(path).get("auto_map"):
            raise CheckpointError(
                f"{path} names code of its own ({', '.join(map(str, code))}), and TimeChat runs no code from "
                "checkpoints; give a language model that transformers knows, such as LLaMA-2"
            )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, StrictDataclassError) as error:
        raise CheckpointError(f"{folder}: no readable config.json of a language model ({first_line(error)})") from error


def _generation_config(folder: Path, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return a generation config with the special tokens only; sampling options belong to a call, not a checkpoint."""
    try:
        eos_token_id = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        eos_token_id = None
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos_token_id if eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _write(
    plan: ConversionPlan,
    folder: Path,
    *,
    merge: bool,
    quantize: Quantization | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    config = plan.config
    config.architectures = [TimeChatForConditionalGeneration.__name__]
    config.has_lora = not merge
    config.dtype = next(t.info.dtype for t in plan.tensors if t.name.startswith("language_model."))
    scale = config.lora_alpha / _lora_rank(plan)
    tensors = _merge_plan(plan, scale) if merge else plan.tensors
    if quantize is not None:
        tensors = quantized_plan(tensors, config, quantize)
        config.quantization_config = quantization_config(quantize)
    write_shards(folder, tensors, progress)
    config.save_pretrained(folder)
    if merge:
        plan.report.notes.append(f"the LoRA adapter was merged into the weights with the scale {scale:g}")
    else:
        _write_lora(plan, folder / adapter.ADAPTER_FOLDER)


def _lora_rank(plan: ConversionPlan) -> int:
    ranks = {tensor.info.shape[0] for tensor in plan.lora if ".lora_A." in tensor.name}
    if len(ranks) > 1:
        raise CheckpointError(f"the adapter's layers have different ranks: {sorted(ranks)}; expected one rank")
    return ranks.pop() if ranks else _LORA_RANK


def _merge_plan(plan: ConversionPlan, scale: float) -> list[PlannedTensor]:
    adapters = {tensor.name: tensor.sources[0] for tensor in plan.lora}
    merged = []
    for tensor in plan.tensors:
        stem = "base_model.model." + tensor.name.removeprefix("language_model.").removesuffix(".weight")
        sides = [adapters.get(f"{stem}.lora_{side}.weight") for side in "AB"]
        if all(sides):
            sources = (*tensor.sources, *sides)
            make = partial(adapter.merged_weight, scale=scale)
            tensor = PlannedTensor(tensor.name, tensor.info, sources, make)  # type: ignore[arg-type]
        merged.append(tensor)
    return merged


def _write_lora(plan: ConversionPlan, folder: Path) -> None:
    folder.mkdir()
    rank = _lora_rank(plan)
    if plan.lora:
        write_shards(folder, plan.lora)
        (folder / "model.safetensors").rename(folder / adapter.WEIGHTS_FILE)
        targets = _lora_targets(plan)
    else:
        targets = _LORA_TARGETS
        save_tensors(_fresh_lora(plan, rank), folder / adapter.WEIGHTS_FILE)
        plan.report.notes.append(f"lora: a new adapter of rank {rank}, without effect until it is trained")
    LoraConfig(
        r=rank,
        lora_alpha=plan.config.lora_alpha,
        lora_dropout=0.1,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    ).save_pretrained(str(folder))


def _lora_targets(plan: ConversionPlan) -> list[str]:
    """Return the adapted layers: by last name if all layers of that name are adapted, else one by one."""
    prefix = "base_model.model."
    adapted = {tensor.name.removeprefix(prefix).split(".lora_")[0] for tensor in plan.lora}
    names = {module.rpartition(".")[2] for module in adapted}
    modules = {tensor.name.removeprefix("language_model.").removesuffix(".weight") for tensor in plan.tensors}
    same_names = {module for module in modules if module.rpartition(".")[2] in names}
    return sorted(names if same_names == adapted else adapted)


def _fresh_lora(plan: ConversionPlan, rank: int) -> dict[str, Tensor]:
    """Return the initial adapter for training: A uniform as in `nn.Linear`, B zero (arXiv:2106.09685)."""
    generator = torch.Generator().manual_seed(42)
    tensors = {}
    for tensor in plan.tensors:
        stem = tensor.name.removeprefix("language_model.").removesuffix(".weight")
        if not tensor.name.startswith("language_model.") or stem.rpartition(".")[2] not in _LORA_TARGETS:
            continue
        rows, columns = tensor.info.shape
        bound = columns**-0.5
        lora_a = (torch.rand(rank, columns, generator=generator) * 2 - 1) * bound
        tensors[f"base_model.model.{stem}.lora_A.weight"] = lora_a
        tensors[f"base_model.model.{stem}.lora_B.weight"] = torch.zeros(rows, rank)
    return tensors
