"""Speed of a model of the published size on one GPU, beside the roofline of the same device.

    python perf/gpu.py --json out/gpu.json

Measures, with random weights and in at most `--minutes 8`:

    roofline    peak FLOP/s of a big matrix product, and peak bytes/s of a big copy
    vision      frames per second of the vision tower (ViT-g)
    encoding    frames per second from pixels to video tokens: vision tower, image Q-Former, video Q-Former
    prefill     prompt tokens per second of the 7B language model
    decode      tokens per second of one answer
    clients     tokens per second of 16 clients at once, through the engine of the server
    training    samples per second of a stage-2 step: adapter and Q-Formers trained, gradient checkpointing

The roofline of a stage is the larger of two times: its FLOPs at the peak rate, and the bytes that it must read at the
peak bandwidth. FLOPs are counted by torch while the stage runs once. A stage that fails, for example by lack of memory,
is reported with its error, and the others run. The package has no int8 layers for GPUs, so the only number format is
bfloat16 (float16 where the device has no bfloat16).

`--small` does the same with tiny shapes in seconds, also on a CPU; its numbers mean nothing.
"""

import argparse
import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.gpu_bench import FULL, SENTENCE_TOKENS, SMALL, Bench, Measured, Shapes, count_flops, num_bytes

from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.executor import GenerationBatch
from timechat.model.generation.generate import Prompt, end_token_ids, generate_answers
from timechat.model.generation.score_processors import score_processors
from timechat.model.loading import load_processor
from timechat.model.training_text import IGNORED_LABEL
from timechat.serving.context import RequestContext
from timechat.serving.engine import Engine
from timechat.training.config import (
    DataSettings,
    LoraSettings,
    OptimizerSettings,
    SourceSettings,
    TrainedModelSettings,
    TrainingRecipe,
    TrainingRunSettings,
)
from timechat.training.objectives import ObjectiveModule, find_objective
from timechat.training.parameters import build_optimizer, prepare_parameters, set_training_mode, trainable
from timechat.training.step import take_step

CLIENTS = 16


# ---------------------------------------------------------------------------------------------------- the stages


@torch.no_grad()
def measure_vision(bench: Bench) -> Measured:
    count, encoder = bench.shapes.frames_at_once, bench.model.frame_encoder
    pixels = bench.pixels(count)[0]

    def work() -> Tensor:
        return encoder.vision_states(pixels)

    flops = count_flops(work)
    seconds = bench.timed(work)
    roofline = bench.peaks.seconds(flops, num_bytes(encoder.vision_model))
    return Measured("vision", count / seconds, "frames/s", seconds, roofline)


@torch.no_grad()
def measure_encoding(bench: Bench) -> Measured:
    pixels, (ids, mask) = bench.pixels(bench.shapes.frames), bench.sentences()

    def work() -> Tensor:
        return bench.model.get_video_features(pixels, ids, mask)

    flops = count_flops(work)
    seconds = bench.timed(work)
    read = num_bytes(bench.model.frame_encoder) + num_bytes(bench.model.video_qformer)
    return Measured("encoding", bench.shapes.frames / seconds, "frames/s", seconds, bench.peaks.seconds(flops, read))


@torch.no_grad()
def measure_prefill(bench: Bench) -> Measured:
    prompt = bench.prompt(bench.shapes.long_prompt)
    embeds = bench.model.embed_prompt(torch.tensor([prompt.input_ids], device=bench.device), prompt.video_tokens)

    def work() -> object:
        return bench.model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    flops = count_flops(work)
    seconds = bench.timed(work)
    roofline = bench.peaks.seconds(flops, bench.bytes_per_token(0))
    return Measured("prefill", embeds.shape[1] / seconds, "tokens/s", seconds, roofline)


@torch.inference_mode()
def measure_decode(bench: Bench) -> Measured:
    """Time answers of two lengths; the difference is the time of the further tokens."""
    prompt, more = bench.prompt(bench.short_prompt), bench.shapes.new_tokens

    def write(num_tokens: int) -> Callable[[], object]:
        decoding = DecodingOptions(max_new_tokens=num_tokens, min_new_tokens=num_tokens)
        arguments = {"max_new_tokens": num_tokens, "do_sample": False}
        processors = score_processors(decoding, end_token_ids(bench.model))
        return lambda: generate_answers(
            bench.model, [prompt], pad_token_id=0, arguments=arguments, processors=processors
        )

    seconds = max(bench.timed(write(1 + more)) - bench.timed(write(1)), 1e-9)
    read = more * bench.bytes_per_token(bench.short_prompt + more // 2)
    return Measured("decode", more / seconds, "tokens/s", seconds, read / bench.peaks.bytes_per_second)


def measure_clients(bench: Bench) -> Measured:
    """Time one answer for each client, all at once; the prompts are different."""
    new_tokens = bench.shapes.new_tokens
    decoding = DecodingOptions(max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    # The processor of nano stands in: without a grammar, the engine never uses the vocabulary.
    with (
        Engine(bench.model, load_processor("nano"), max_rows=CLIENTS) as engine,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):

        def ask(prompt: Prompt) -> int:
            [answer] = engine.generate(GenerationBatch([prompt], [None], decoding), RequestContext()).result()
            return len(answer.token_ids)

        def work() -> list[int]:
            return list(clients.map(ask, [bench.prompt(bench.short_prompt) for _ in range(CLIENTS)]))

        seconds = bench.timed(work)
    prompt = torch.randn(1, bench.short_prompt, bench.model.config.text_config.hidden_size, device=bench.device)
    with torch.no_grad():
        flops = count_flops(lambda: bench.model(inputs_embeds=prompt.to(bench.dtype), logits_to_keep=1))
    prefill = CLIENTS * bench.peaks.seconds(flops, bench.bytes_per_token(0))
    step = bench.bytes_per_token(bench.short_prompt + new_tokens // 2, CLIENTS) / bench.peaks.bytes_per_second
    return Measured(
        "clients", CLIENTS * new_tokens / seconds, "tokens/s", seconds, prefill + (new_tokens - 1) * step
    )  # fmt: skip


def measure_training(bench: Bench) -> Measured:
    """Time optimizer steps with the settings of the original's stage 2. Changes the model: the last stage."""
    model = bench.model
    settings = TrainedModelSettings(
        checkpoint="random",
        train=["image_qformer", "video_qformer", "projection", "lora"],
        lora=LoraSettings(rank=32, alpha=32, dropout=0.1, targets=["q_proj", "k_proj", "v_proj", "o_proj"]),
        language_model_dtype=str(bench.dtype).removeprefix("torch."),
        gradient_checkpointing=True,
    )
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}[bench.dtype]
    recipe = TrainingRecipe(
        model=settings,
        data=DataSettings(sources=[SourceSettings(records="random")]),
        optimizer=OptimizerSettings(lr=3e-5),
        run=TrainingRunSettings(steps=100, batch_size=1, precision=precision),  # type: ignore[arg-type]
    )
    prepare_parameters(model, settings)
    set_training_mode(model)
    module = ObjectiveModule(model, find_objective(recipe.objective).loss)
    optimizer = build_optimizer(trainable(model).items(), recipe.optimizer)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=precision == "fp16")
    batches: Iterator[dict[str, Any]] = repeat(_training_batch(bench))
    numbers = iter(range(100))

    def work() -> object:
        return take_step(recipe, module, optimizer, scaler, batches, next(numbers))

    flops = count_flops(work)
    seconds = bench.timed(work)
    return Measured("training", 1 / seconds, "samples/s", seconds, bench.peaks.seconds(flops, num_bytes(model)))


def _training_batch(bench: Bench) -> dict[str, Any]:
    """Return one sample: a video, a question, and an answer of `new_tokens` tokens."""
    prompt = bench.prompt(bench.short_prompt + bench.shapes.new_tokens)
    ids = torch.tensor([prompt.input_ids], device=bench.device)
    labels = ids.clone()
    labels[:, : -bench.shapes.new_tokens] = IGNORED_LABEL
    sentences, mask = bench.sentences()
    return {
        "pixel_values": bench.pixels(bench.shapes.frames).float(),
        "qformer_input_ids": sentences,
        "qformer_attention_mask": mask,
        "video_sizes": torch.tensor([[bench.shapes.frames, SENTENCE_TOKENS]]),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
    }


STAGES: Sequence[Callable[[Bench], Measured]] = (
    measure_vision,
    measure_encoding,
    measure_prefill,
    measure_decode,
    measure_clients,
    measure_training,
)


# ---------------------------------------------------------------------------------------------------- the command


class OutOfTimeError(Exception):
    """The time of the command has passed."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise an `OutOfTimeError` in the main thread after some seconds."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(shapes: Shapes, device: torch.device, *, seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure every stage; `report` is called with all results so far after each of them."""
    results: list[Measured] = []
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    is_out_of_time = False
    bench: Bench | None = None
    try:
        with time_limit(seconds):
            bench = Bench(shapes, device)
            facts |= {"dtype": str(bench.dtype), **asdict(bench.peaks)}
            for stage in STAGES:
                results.append(_run(stage, bench))
                report(facts | {"stages": [_row(one) for one in results]})
    except OutOfTimeError:
        is_out_of_time = True
    for stage in STAGES[len(results) :]:
        results.append(Measured(_name(stage), error=f"not measured in the {seconds:.0f} s of the command"))
    if is_out_of_time:
        report(facts | {"stages": [_row(one) for one in results]})


def _run(stage: Callable[[Bench], Measured], bench: Bench) -> Measured:
    try:
        return stage(bench)
    except OutOfTimeError:
        raise
    except Exception as error:  # such as no memory left on the device
        return Measured(_name(stage), error=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
    finally:
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def _name(stage: Callable[[Bench], Measured]) -> str:
    return stage.__name__.removeprefix("measure_")


def _row(result: Measured) -> dict[str, Any]:
    return asdict(result) | {"share_of_roofline": result.share}


def table(results: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    lines = [f"{results['device']}, torch {results['torch']}, {results.get('dtype', 'no model')}, {results['date']}"]
    if "flops_per_second" in results:
        peaks = results["flops_per_second"] / 1e12, results["bytes_per_second"] / 1e9
        lines.append("Roofline: {:.4g} TFLOP/s, {:.4g} GB/s".format(*peaks))
    lines += ["", "| stage | rate | seconds | roofline seconds | share |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in results["stages"]:
        if row["error"]:
            lines.append(f"| {row['stage']} | {row['error']} | | | |")
            continue
        numbers = f"{row['seconds']:.4g} | {row['roofline_seconds']:.4g} | {row['share_of_roofline']:.1%}"
        lines.append(f"| {row['stage']} | {row['rate']:.4g} {row['unit']} | {numbers} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny shapes, also on a CPU: a check of the command")
    parser.add_argument("--minutes", type=float, default=8.0, help="maximum time; later stages are then not measured")
    parser.add_argument("--json", type=Path, help="output file for the results; written after every stage")
    options = parser.parse_args(arguments)
    has_cuda = torch.cuda.is_available()
    if not has_cuda and not options.small:
        print(
            "perf/gpu.py: torch finds no CUDA device; run it on one, or check the command with --small", file=sys.stderr
        )
        return 2
    latest: dict[str, Any] = {}

    def report(results: dict[str, Any]) -> None:
        latest.update(results)
        print(f"{results['stages'][-1]['stage']}: done", file=sys.stderr)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    shapes = SMALL if options.small else FULL
    measure(shapes, torch.device("cuda" if has_cuda else "cpu"), seconds=60 * options.minutes, report=report)
    print(table(latest))
    return 1 if any(row["error"] for row in latest["stages"]) else 0


if __name__ == "__main__":
    sys.exit(main())
