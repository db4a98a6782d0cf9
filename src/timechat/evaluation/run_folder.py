"""The folder of one evaluation: its settings, its predictions and their metrics.

recipe.yaml                 every setting, with its value
run.json                    versions, and hashes of weights, wording and samples
predictions-0-of-1.jsonl    predictions of each share, until the run is finished
predictions.jsonl           all predictions, in the order of the samples, when the run is finished
results/                    predictions and ground truth in the formats of the original's and the benchmarks' scorers
metrics.json  table.md      metrics
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timechat.config import save_recipe
from timechat.errors import DataError, located
from timechat.evaluation.config import EvaluationRecipe
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import write_json_atomically, write_text_atomically

PREDICTIONS_FILE = "predictions.jsonl"
RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
TABLE_FILE = "table.md"
RESULTS_FOLDER = "results"


class RunFolder:
    """Stores the predictions of a run; every process of the run opens the folder separately.

    Attributes:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, recipe: EvaluationRecipe, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Create the folder, or resume the run in it.

        Args:
            recipe: Recipe of the run.
            facts: Versions of libraries, and the machine type.
            settings: All settings that the answers depend on, for JSON.

        Raises:
            DataError: The folder holds predictions that were made with other settings.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.has_begun:
            self.check(settings)
        else:
            write_json_atomically(self.path / RUN_FILE, {**facts, "settings": dict(settings)})
        save_recipe(recipe, self.path / RECIPE_FILE)

    @property
    def has_begun(self) -> bool:
        """Whether a run has written to the folder."""
        return (self.path / RUN_FILE).exists()

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that the settings equal those of the run in the folder.

        Args:
            settings: Some of the settings that the answers depend on.

        Raises:
            DataError: The folder's predictions were made with other settings.
        """
        there = self.read(RUN_FILE).get("settings", {})
        differing = [key for key in settings if there.get(key) != settings[key]]
        if differing:
            differences = ", ".join(f"{key} {there.get(key)!r} instead of {settings[key]!r}" for key in differing)
            raise DataError(
                f"{self.path} holds predictions that were made with {differences}; give another --output, or --fresh"
            )

    def clear(self) -> None:
        """Remove the files of an earlier run."""
        for name in (RUN_FILE, METRICS_FILE, TABLE_FILE):
            (self.path / name).unlink(missing_ok=True)
        for path in self._prediction_files():
            path.unlink()

    def predictions(self) -> dict[str, Prediction]:
        """All stored predictions by sample identifier; the later of two counts."""
        found: dict[str, Prediction] = {}
        for path in self._prediction_files():
            for number, line in enumerate(_whole_lines(path), 1):
                with located(f"{path}:{number}"):
                    prediction = Prediction.from_dict(json.loads(line))
                found[prediction.id] = prediction
        return found

    def add(self, predictions: Sequence[Prediction], shard: tuple[int, int] = (0, 1)) -> None:
        """Store the predictions of a chunk; they are on disk when this returns."""
        path = self.path / f"predictions-{shard[0]}-of-{shard[1]}.jsonl"
        if path.exists():
            _cut_rest(path)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(prediction) for prediction in predictions))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, samples: Sequence[Sample]) -> list[Prediction] | None:
        """Join all shares into one file in the order of the samples, followed by other predictions of the run.

        Returns:
            The predictions of the samples; None if a sample has no prediction yet.
        """
        found = self.predictions()
        if any(sample.id not in found for sample in samples):
            return None
        predictions = [found.pop(sample.id) for sample in samples]
        write_text_atomically(self.path / PREDICTIONS_FILE, "".join(map(_line, [*predictions, *found.values()])))
        for path in self.path.glob("predictions-*-of-*.jsonl"):
            path.unlink(missing_ok=True)
        return predictions

    def results(self) -> Path:
        """The folder of result files."""
        path = self.path / RESULTS_FOLDER
        path.mkdir(exist_ok=True)
        return path

    def write_metrics(self, metrics: Mapping[str, Any], table: str) -> None:
        """Store the metrics."""
        write_json_atomically(self.path / METRICS_FILE, metrics)
        write_text_atomically(self.path / TABLE_FILE, table)

    def read(self, name: str) -> Any:
        """Read a JSON file of the folder.

        Raises:
            DataError: The file is missing or is not JSON.
        """
        path = self.path / name
        if not path.exists():
            raise DataError(f"{path}: no such file; the evaluation is not finished")
        with located(str(path)):
            return json.loads(path.read_text(encoding="utf-8"))

    def _prediction_files(self) -> list[Path]:
        whole = self.path / PREDICTIONS_FILE
        return [*([whole] if whole.exists() else []), *sorted(self.path.glob("predictions-*-of-*.jsonl"))]


def _line(prediction: Prediction) -> str:
    return json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n"


def _whole_lines(path: Path) -> list[str]:
    """Complete lines of a file; another process can be writing the next line."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].decode().split("\n")[:-1]


def _cut_rest(path: Path) -> None:
    """Remove an incomplete last line, which a killed run leaves."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
