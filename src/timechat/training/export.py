"""Exports of a run: a `from_pretrained` folder, a PEFT adapter, and a `.pth` file of the original."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from timechat.config import plain
from timechat.errors import CheckpointError, TrainingError
from timechat.model import NANO
from timechat.model import lora as adapter
from timechat.model.convert.original_export import export_original
from timechat.model.loading import check_folder, find_folder, load_config, load_model, load_processor
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.pretrained import quiet_transformers
from timechat.model.processing import TimeChatProcessor
from timechat.training.checkpoint import Checkpoint, best_checkpoint, find_checkpoints, write_folder
from timechat.training.config import TrainedModelSettings, TrainingRecipe
from timechat.training.objectives import HEADS_NAME, OBJECTIVES, Objective, find_objective
from timechat.training.parameters import prepare_parameters
from timechat.training.recipes import RESOLVED_FILE, load_resolved
from timechat.training.restoring import load_weights

Model = TimeChatForConditionalGeneration
MakeModel = Callable[[TrainedModelSettings], tuple[Model, TimeChatProcessor]]

MODEL_FOLDER, ADAPTER_FOLDER, ORIGINAL_FILE = "model", "adapter", "original.pth"

INTERPOLATION = "frame interpolation"
"""Name of the filter that resizes frames among the inputs that a checkpoint stores."""


def load_start(settings: TrainedModelSettings, *, without_weights: bool = False) -> tuple[Model, TimeChatProcessor]:
    """Load the start checkpoint of training on the CPU, with trainable parameters in float32.

    Args:
        settings: Start checkpoint and trained parts.
        without_weights: Whether to make the model on the meta device; its weights come from another process.

    Raises:
        CheckpointError: The model does not exist, or it is quantized.
    """
    if settings.checkpoint != NANO and Path(settings.checkpoint).is_dir():
        tunes_all = any(
            "language_model".startswith(part) or part.startswith("language_model") for part in settings.train
        )
        processor = load_processor(settings.checkpoint)
        if getattr(processor.config, "quantization_config", None) is not None:
            raise CheckpointError(
                f"{settings.checkpoint} is quantized and cannot be trained; name the folder that it was made from"
            )
        model = Model.from_pretrained(
            settings.checkpoint,
            dtype="float32" if tunes_all else settings.language_model_dtype,
            keep_vision_in_float32=True,
            use_safetensors=True,  # never a pickle, even if the folder contains one
            device_map="meta" if without_weights else None,
        )
    elif without_weights:
        folder = str(find_folder(settings.checkpoint))
        model = Model.from_pretrained(folder, dtype="float32", use_safetensors=True, device_map="meta")
        processor = load_processor(settings.checkpoint)
    else:
        model, processor = load_model(settings.checkpoint, device="cpu", dtype="float32")
    if settings.chat_style is not None:
        processor.chat_style = settings.chat_style
    if settings.attention == "eager":  # models load with sdpa if they support it
        model.set_attn_implementation("eager")
    return model, processor


def training_processor(processor: TimeChatProcessor, settings: TrainedModelSettings) -> TimeChatProcessor:
    """Return the processor of the training samples: a copy with the vocabulary of the recipe for time sentences.

    Validation and exports keep the vocabulary of the start checkpoint, with which the model answers.

    Raises:
        ValueError: The image Q-Former has no embeddings for this vocabulary.
    """
    if settings.timestamp_tokenizer in (None, processor.config.timestamp_tokenizer):
        return processor
    changed = copy.copy(processor)
    changed.config = copy.deepcopy(processor.config)
    changed.set_timestamp_tokenizer(settings.timestamp_tokenizer)
    return changed


def build_start(
    recipe: TrainingRecipe, make_model: MakeModel = load_start, *, objectives: Mapping[str, Objective] = OBJECTIVES
) -> tuple[Model, TimeChatProcessor]:
    """Make the model as a recipe starts with it: adapter and heads attached, frozen parts frozen.

    Args:
        recipe: A stage of a training run.
        make_model: Loads the model that the stage starts from.
        objectives: Known objectives by name.

    Raises:
        ValueError: The recipe's objective is unknown.
    """
    make_heads = find_objective(recipe.objective, objectives).make_heads
    model, processor = make_model(recipe.model)
    if make_heads is not None:
        setattr(model, HEADS_NAME, make_heads(model))
    prepare_parameters(model, recipe.model)
    return model, processor


def load_trained(
    run_folder: Path, make_model: MakeModel = load_start, *, objectives: Mapping[str, Objective] = OBJECTIVES
) -> tuple[TrainingRecipe, Model, TimeChatProcessor]:
    """Load the trained model of a run: its best checkpoint if known, otherwise its latest.

    Raises:
        TrainingError: The folder holds no run, or the run has no checkpoint yet.
    """
    if not (run_folder / RESOLVED_FILE).is_file():
        raise TrainingError(f"{run_folder} is not a training run: it has no {RESOLVED_FILE}")
    recipe = load_resolved(run_folder / RESOLVED_FILE)
    checkpoint = chosen_checkpoint(run_folder, recipe)
    model, processor = build_start(_unrounded(recipe), make_model, objectives=objectives)
    load_weights(checkpoint, model, alone=True)
    keep_interpolation(checkpoint, model, processor)
    model.config.is_trained = True
    return recipe, model, processor


def _unrounded(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return a recipe that loads the frozen weights of the language model in the number format of their files."""
    settings = recipe.model
    dtype = "float32"
    if settings.checkpoint != NANO and Path(settings.checkpoint).is_dir():
        stored = str(load_config(settings.checkpoint).dtype).removeprefix("torch.")
        dtype = stored if stored in ("bfloat16", "float16") else dtype
    return replace(recipe, model=replace(settings, language_model_dtype=dtype))  # type: ignore[arg-type]


def keep_interpolation(checkpoint: Checkpoint, model: Model, processor: TimeChatProcessor) -> None:
    """Resize frames as the run did before: bicubically if its checkpoint names no filter, as there was no other."""
    for config in (model.config, processor.config):
        config.frame_interpolation = checkpoint.inputs.get(INTERPOLATION, "bicubic")


def chosen_checkpoint(run_folder: Path, recipe: TrainingRecipe) -> Checkpoint:
    """Return the best checkpoint by the metric of the recipe, otherwise the latest.

    Raises:
        TrainingError: The run has no checkpoint.
    """
    checkpoints = find_checkpoints(run_folder)
    if not checkpoints:
        raise TrainingError(
            f"{run_folder} has no checkpoint yet; the first is saved after {recipe.run.save_every} steps"
        )
    return best_checkpoint(checkpoints, recipe.run.best_metric, recipe.run.best_is) or checkpoints[-1]


def export_run(
    run_folder: Path, make_model: MakeModel = load_start, *, objectives: Mapping[str, Objective] = OBJECTIVES
) -> None:
    """Write the exports that `run.export` of the recipe names into the folder of the run."""
    recipe, model, processor = load_trained(run_folder, make_model, objectives=objectives)
    drop_heads(model)
    if "original" in recipe.run.export:
        export_original_of(recipe, model, run_folder / ORIGINAL_FILE)
    if "adapter" in recipe.run.export:
        if not model.has_lora:
            raise ValueError("run.export names adapter, but the recipe trains none; add lora to model.train")
        alpha = model.config.lora_alpha
        write_folder(
            run_folder / ADAPTER_FOLDER, lambda partial: adapter.save_adapter(model.language_model, partial, alpha)
        )
    if "folder" in recipe.run.export:

        def write(partial: Path) -> None:
            with quiet_transformers():
                model.save_pretrained(partial)
                processor.save_pretrained(str(partial))

        write_folder(run_folder / MODEL_FOLDER, write)


def export_original_of(recipe: TrainingRecipe, model: Model, out: Path) -> None:
    """Write a trained model as a `.pth` file of the original."""
    export_original(
        model,
        out,
        with_vision="vision" in recipe.model.train,
        with_language_model="language_model" in recipe.model.train,
        config={"recipe": plain(recipe)},
        epoch=(recipe.run.epochs or 1) - 1,
    )


def drop_heads(model: nn.Module) -> dict[str, Any]:
    """Remove the heads, which are for training only, and return their weights."""
    heads = getattr(model, HEADS_NAME, None)
    if heads is None:
        return {}
    delattr(model, HEADS_NAME)
    state: dict[str, Any] = heads.state_dict()
    return state


def export_folder_as_original(folder: Path, out: Path, *, objectives: Mapping[str, Objective] = OBJECTIVES) -> None:
    """Write a training run, or a folder for `from_pretrained`, as a `.pth` file of the original.

    Args:
        folder: The folder of the run or of the model.
        out: The file to write.
        objectives: Known objectives by name.

    Raises:
        TrainingError: The folder is a run without a checkpoint.
        CheckpointError: The folder is neither of the two.
    """
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{out} cannot be written: there is no folder {out.parent}")
    if (folder / RESOLVED_FILE).is_file():
        recipe, model, _ = load_trained(folder, objectives=objectives)
        drop_heads(model)
        export_original_of(recipe, model, out)
        return
    check_folder(folder)
    export_original(Model.from_pretrained(str(folder), dtype="float32"), out)
