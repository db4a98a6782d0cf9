"""Run the real lmms-eval with TimeChat as its model, in a separate virtual environment.

    python perf/lmms_eval_run.py

creates the environment in `out/lmms-eval`, installs lmms-eval and this checkout there with pip, makes a few synthetic
videos, and runs the harness on them, without network after the installation. Prints the tables of the harness. A second
run reuses the environment and the videos, and installs this checkout again.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LMMS_EVAL = "0.7.3"
CHECKOUT = Path(__file__).resolve().parent.parent
TASKS = CHECKOUT / "benchmarks" / "lmms_eval_films"
PINNED = (
    *("torch", "transformers", "tokenizers", "numpy", "peft", "accelerate", "safetensors", "huggingface_hub"),
    "filelock",  # lmms-eval 0.7.3 uses its internals, which 4.3 has moved
)
"""Packages that must have the tested version. Pip chooses the others: the project's `av`, `protobuf` and more are newer
than lmms-eval or its dependencies allow."""

SHOWN = ("lmms_eval", "timechat", "torch", "torchvision", "transformers", "datasets", "av")
RUNS = {  # what the harness is run with beside the model: its usual way of asking, and the one that scores choices
    "chat": ["--tasks", "films_qa,films_grounding,films_rounds", "--batch_size", "8"],
    "simple": ["--force_simple", "--tasks", "films_qa,films_choice,films_rounds"],
}


class RunError(Exception):
    """The harness or its environment failed."""


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/lmms-eval"), help="working folder")
    parser.add_argument("--model", default="nano", help="model for TimeChat.from_pretrained")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--films", type=int, default=4, metavar="N", help="number of synthetic videos")
    parser.add_argument("--seed", type=int, default=5, help="random seed of the videos")
    options = parser.parse_args()
    if options.films < 1:
        parser.error(f"--films must be at least 1, got {options.films}")
    return options


def run(command: Sequence[str | Path], *, log: Path, cwd: Path | None = None) -> str:
    """Run a command, store its output in a file, and return it."""
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    settings |= {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(log.parent / "hf"),
        "TIMECHAT_CACHE": "",
    }
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            [str(part) for part in command], cwd=cwd, env=settings, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    said = log.read_text(encoding="utf-8")
    if code:
        raise RunError(f"{Path(command[0]).name} ended with {code}, see {log}:\n" + "\n".join(said.splitlines()[-20:]))
    return said


def make_environment(folder: Path) -> Path:
    """Return the Python of an environment that has lmms-eval and this checkout."""
    home = folder / "venv"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pin for pin in pins if pin.split("==")[0] in PINNED) + "\n", encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-c", constraints]
    if not python.is_file():
        venv.create(home, with_pip=True)
        run([*pip, f"lmms-eval=={LMMS_EVAL}"], log=folder / "install-lmms-eval.log")
    # Installed second, because no version of PyAV suits both. The harness works with this one, despite a note of pip.
    run([*pip, CHECKOUT], log=folder / "install-timechat.log")
    run([*pip, "--force-reinstall", "--no-deps", CHECKOUT], log=folder / "reinstall-timechat.log")
    return drop_broken_torchvision(python, folder)


def drop_broken_torchvision(python: Path, folder: Path) -> Path:
    """Remove a torchvision that was built for another torch: transformers would fail."""
    try:
        run([python, "-c", "import torchvision"], log=folder / "torchvision.log")
    except RunError as error:
        if "No module named 'torchvision'" not in str(error):
            print("torchvision does not fit to this torch, so it is taken out; lmms-eval itself does not need it")
            run([python, "-m", "pip", "uninstall", "--yes", "torchvision"], log=folder / "uninstall.log")
    return python


def draw_films(python: Path, folder: Path, films: int, seed: int) -> Path:
    """Make synthetic videos and write the questions of each task beside them."""
    out = folder / f"films-{seed}-{films}"
    command = [python, "-m", "timechat", "data", "draw", out, "--clips", films, "--seed", seed, "--split", "test"]
    run(command, log=folder / "draw.log")
    records = [json.loads(line) for line in (out / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    for task, rows in task_rows(records).items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return out


def task_rows(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of each task, with the reference answers."""
    asked: dict[str, list[dict[str, Any]]] = {"qa": [], "grounding": []}
    for record in records:
        question, answer = (message["content"] for message in record["messages"][:2])
        row = {"video": record["video"], "question": question, "answer": answer}
        if record["task"] == "qa":
            asked["qa"].append(row)
        elif record["task"] == "grounding" and len(record["events"]) == 1:
            asked["grounding"].append(row | {name: record["events"][0][name] for name in ("start", "end")})
    pairs = zip(asked["qa"][::2], asked["qa"][1::2], strict=False)
    asked["rounds"] = [
        {"video": a["video"], "questions": [a["question"], b["question"]], "answers": [a["answer"], b["answer"]]}
        for a, b in pairs
        if a["video"] == b["video"]
    ]
    asked["choice"] = [row for row in asked["qa"] if row["answer"] in ("Yes.", "No.")]
    return asked


def ask(python: Path, folder: Path, films: Path, options: argparse.Namespace) -> Iterator[str]:
    """Run the harness in both modes and return the tables that it prints."""
    for name, arguments in RUNS.items():
        results = folder / f"results-{name}"
        known = set(results.rglob("*_results.json"))
        command = [python, "-m", "lmms_eval", "--model", "timechat", "--model_args", f"pretrained={options.model}"]
        command += ["--device", options.device, "--include_path", TASKS, "--log_samples", "--output_path", results]
        said = run([*command, *arguments], log=folder / f"harness-{name}.log", cwd=films)
        # lmms-eval always exits with 0; its files show whether it failed.
        written = sorted(set(results.rglob("*_results.json")) - known)
        tables = re.search(r"^timechat \(.*", said, flags=re.MULTILINE | re.DOTALL)
        if not written or tables is None:
            raise RunError(f"lmms-eval wrote no results, see {folder}:\n" + "\n".join(said.splitlines()[-20:]))
        tasks = json.loads(written[-1].read_text(encoding="utf-8"))["results"]
        if missing := set(arguments[arguments.index("--tasks") + 1].split(",")) - tasks.keys():
            raise RunError(f"{written[-1]} has no {', '.join(sorted(missing))}")
        yield (
            f"$ lmms-eval --model timechat --model_args pretrained={options.model} --device {options.device} "
            + " ".join(arguments)
        )
        yield tables[0].strip()


def versions(python: Path, folder: Path) -> str:
    listed = json.loads(
        run([python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"], log=folder / "versions.log")
    )
    found = {package["name"].replace("-", "_"): package["version"] for package in listed}
    return ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)


def main() -> None:
    """Install, make videos, run the harness, and print its tables."""
    options = parse_options()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        python = make_environment(folder)
        print(versions(python, folder), flush=True)
        films = draw_films(python, folder, options.films, options.seed)
        for text in ask(python, folder, films, options):
            print(f"\n{text}", flush=True)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
