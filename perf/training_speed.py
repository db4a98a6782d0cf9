"""Speed of training: from pixels with parallel reading, from extracted features, and in a plain loop.

    timechat data draw films --clips 64 --seed 5
    python perf/training_speed.py films --json training-speed.json

All three train on the same samples in the same order, with the same model, optimiser and number of steps, one after the
other in one process. They take turns, `--rounds` times, so that the load of the machine affects all of them. Prints
samples per second and their ratios. The extraction of the features is timed too; it is done once per training.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from timechat.data.collate import collate
from timechat.data.dataset import InstructionDataset
from timechat.data.features import encode_features
from timechat.data.mixture import Mixture, RecordSource
from timechat.data.readers import read_records
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.training.config import (
    DataSettings,
    OptimizerSettings,
    SourceSettings,
    TrainedModelSettings,
    TrainingRecipe,
    TrainingRunSettings,
)
from timechat.training.data import make_source, sample_settings
from timechat.training.export import build_start
from timechat.training.objectives import ObjectiveModule, find_objective
from timechat.training.parameters import build_optimizer, set_training_mode, trainable
from timechat.training.step import take_step


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of `timechat data draw`")
    parser.add_argument("--model", default="nano", help="model for TimeChat.from_pretrained")
    parser.add_argument("--steps", type=int, default=6, help="steps per variant and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="threads that read videos")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--json", type=Path, help="output file for the results")
    return parser.parse_args()


def make_recipe(options: argparse.Namespace) -> TrainingRecipe:
    """Return a recipe with frozen vision and image Q-Former, so that both can be extracted; the rest is trained."""
    return TrainingRecipe(
        model=TrainedModelSettings(checkpoint=options.model, train=["video_qformer", "projection", "language_model"]),
        data=DataSettings(
            sources=[SourceSettings(records=str(options.folder / "records.jsonl"))],
            fps=2.0,
            max_frames=600,
            sampling="uniform",
            augmentation=False,
            workers=options.workers,
        ),
        optimizer=OptimizerSettings(lr=1e-5),
        run=TrainingRunSettings(steps=options.steps * options.rounds, batch_size=options.batch_size),
    )


class TimeChatLoop:
    """Batches and steps of `timechat train`."""

    def __init__(self, recipe: TrainingRecipe) -> None:
        self.recipe = recipe
        self.model, processor = build_start(recipe)
        set_training_mode(self.model)
        self.module = ObjectiveModule(self.model, find_objective(recipe.objective).loss)
        self.optimizer = build_optimizer(trainable(self.model).items(), recipe.optimizer)
        self.batches = make_source(recipe, self.model, processor).batches(0)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def run(self, first: int, steps: int) -> None:
        """Run some steps."""
        for step in range(first, first + steps):
            take_step(self.recipe, self.module, self.optimizer, self.scaler, self.batches, step)


class PlainLoop:
    """The same model, data and optimiser, in a plain loop: read a batch, compute, read the next."""

    def __init__(self, recipe: TrainingRecipe) -> None:
        self.model, processor = build_start(recipe)
        set_training_mode(self.model)
        self.optimizer = torch.optim.AdamW(trainable(self.model).values(), lr=recipe.optimizer.lr)
        records = read_records(recipe.data.sources[0].records)
        size = recipe.run.samples_per_process(1)
        mixture = Mixture([RecordSource("films", records)], seed=recipe.run.seed, batch_size=size)
        self.dataset = InstructionDataset(mixture, processor, sample_settings(recipe.data))
        self.size = size

    def run(self, first: int, steps: int) -> None:
        """Run some steps."""
        for step in range(first, first + steps):
            samples = [self.dataset[step * self.size + i] for i in range(self.size)]
            batch = collate(samples, self.dataset.processor)
            loss = self.model(**batch.inputs, use_cache=False).loss
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()


def extract(
    recipe: TrainingRecipe, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, out: Path
) -> tuple[float, int]:
    """Extract features; return seconds and bytes."""
    records = read_records(recipe.data.sources[0].records)
    begun = time.perf_counter()
    problems = [
        problem
        for problem in encode_features(
            model.eval(),
            processor,
            records,
            out,
            sample_settings(recipe.data),
            parts="frames",
            dtype="float32",
            workers=1,
        )
        if problem
    ]
    assert not problems, problems
    return time.perf_counter() - begun, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    recipe = make_recipe(options)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "features"
        seconds, size = extract(recipe, *build_start(recipe), store)
        of_features = replace(recipe, data=replace(recipe.data, features=str(store)))
        make: dict[str, Callable[[], Any]] = {
            "plain loop": lambda: PlainLoop(recipe),
            "pixels": lambda: TimeChatLoop(replace(recipe, run=replace(recipe.run, output=f"{folder}/pixels"))),
            "features": lambda: TimeChatLoop(
                replace(of_features, run=replace(of_features.run, output=f"{folder}/features"))
            ),
        }
        loops = {name: made() for name, made in make.items()}
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(options.rounds):
            for name, loop in loops.items():
                begun = time.perf_counter()
                loop.run(turn * options.steps, options.steps)
                speeds[name].append(options.steps * options.batch_size / (time.perf_counter() - begun))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "samples_per_second": {name: [round(value, 3) for value in values] for name, values in speeds.items()},
        "median": {name: round(value, 3) for name, value in medians.items()},
        "over_plain_loop": {name: round(value / medians["plain loop"], 2) for name, value in medians.items()},
        "extraction_seconds": round(seconds, 1),
        "features_mb": round(size / 1e6, 1),
        "batch_size": options.batch_size,
        "threads": options.threads,
        "workers": options.workers,
    }


def main() -> None:
    options = parse_options()
    figures = measure(options)
    print("| variant | samples per second (median) | ratio to the plain loop |\n|---|---|---|")
    for name, value in figures["median"].items():
        print(f"| {name} | {value} | {figures['over_plain_loop'][name]} |")
    print(f"\nextracting: {figures['extraction_seconds']} s, {figures['features_mb']} MB")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
