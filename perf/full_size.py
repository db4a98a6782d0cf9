"""Convert, load and run a model of the published size: seconds and peak memory of every stage.

Writes a synthetic set of the original's files (true names, shapes and dtypes, random weights, 17 GB), converts it with
`timechat convert`, loads the result and asks two questions about a video. Conversion and answers run in separate
processes. Needs Linux, about 36 GB of disk and 24 GB of memory; int8 and int4 need 26 GB of disk and 10 GB of memory:

    python perf/full_size.py VIDEO --json out/full_size.json
    python perf/full_size.py VIDEO --frames 96 --quantize int4,int8 --json out/full_size.json

`--originals DIR` writes the set to DIR, or takes the one that is there. `--scale tiny` does the same on a small set in
seconds.
"""

import argparse
import json
import mmap
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.original_layout import FULL, LLM_SHARDS, TINY, Sizes, llama_config, original_tensors
from perf.stand_in_vocabularies import write_bert_vocab, write_llama_tokenizer

from timechat.model.convert.files import TensorInfo
from timechat.model.convert.write import LAYOUT

SCALES = {"full": FULL, "tiny": TINY}
QUESTION = "When does the person turn a light on?"
FOLLOW_UP = "What is on the table?"
_GIB = 1 << 30
_SECONDS_BETWEEN_READINGS = 0.02
_MORE_TOKENS = 24  # that decoding is measured with


@dataclass
class Stage:
    """One row of the result.

    Attributes:
        name: What was done.
        seconds: Wall time.
        cpu_seconds: Of all threads.
        peak_bytes: Highest resident memory: files that are mapped count, though the system can take them back.
        peak_private_bytes: Highest memory that is not backed by a file, which the machine must really have.
    """

    name: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    peak_private_bytes: int


@dataclass
class Result:
    """Results of a run."""

    scale: str
    set_bytes: int
    machine: dict[str, object] = field(default_factory=dict)
    formats: list["FormatResult"] = field(default_factory=list)


@dataclass
class FormatResult:
    """Results of one format.

    Attributes:
        format: `none`, `int8` or `int4`.
        folder_bytes: Size of the converted folder.
        stages: Seconds and memory of every stage.
        answer: Answer, number of parameters, and speed of decoding.
    """

    format: str
    folder_bytes: int
    stages: list[Stage] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> Result:
    options = _parse(arguments)
    with _work_folder(options.work, keep=options.keep) as work:
        originals = options.originals or work / "originals"
        if not originals.exists():
            write_originals(originals, SCALES[options.scale])
        result = Result(options.scale, _folder_bytes(originals), machine=_machine())
        for name in options.quantize:
            result.formats.append(measure_format(name, originals, work / f"model-{name}", options))
            if not options.keep:
                shutil.rmtree(work / f"model-{name}")
    print(_table(result))
    text = json.dumps(asdict(result), indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return result


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="video for the question")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--frames", type=int, default=8, help="number of frames (8)")
    parser.add_argument("--tokens", type=int, default=4, help="maximum number of tokens of the answer (4)")
    parser.add_argument("--dtype", default="auto", help="dtype for TimeChat.from_pretrained (auto)")
    parser.add_argument("--quantize", type=_formats, default="none", help="formats: none,int8,int4 (none)")
    parser.add_argument("--originals", type=Path, help="folder of the set of original files, written if it is missing")
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--work", type=Path, help="folder for the files; by default a temporary one")
    parser.add_argument("--keep", action="store_true", help="do not delete the files at the end")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args(arguments)


def _formats(text: str) -> list[str]:
    if unknown := set(text.split(",")) - {"none", "int8", "int4"}:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; expected none, int8 or int4")
    return text.split(",")


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _work_folder(folder: Path | None, *, keep: bool) -> Iterator[Path]:
    """Yield a new folder, inside `folder` if given; delete it at the end unless it is to be kept."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="timechat-full-size-", dir=folder))
    print(f"files go to {work}", file=sys.stderr)
    try:
        yield work
    finally:
        if not keep:
            shutil.rmtree(work)


def _machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "memory_bytes": memory}


# The set of original files


def write_originals(folder: Path, sizes: Sizes) -> int:
    """Write a complete synthetic set of the original's files; return the bytes of its tensors."""
    begun = time.perf_counter()
    files = original_tensors(sizes)
    for path, tensors in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_pickle(target, tensors, is_wrapped=target.suffix == ".pth" and path != LAYOUT["vit"])
    _write_llm_settings(folder / LAYOUT["llm"], sizes)
    bert_vocab = folder / LAYOUT["bert_vocab"]
    bert_vocab.parent.mkdir(parents=True, exist_ok=True)
    write_bert_vocab(bert_vocab)
    num_bytes = sum(info.num_bytes for tensors in files.values() for info in tensors.values())
    print(f"wrote {num_bytes / 1e9:.1f} GB in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return num_bytes


_CHUNK_BYTES = 1 << 24


def write_pickle(path: Path, tensors: dict[str, TensorInfo], *, is_wrapped: bool) -> None:
    """Write random weights in the format of `torch.save`, but fill them in on disk, with little memory."""
    state_dict = {name: torch.empty(info.shape, dtype=info.dtype) for name, info in tensors.items()}
    with torch.serialization.skip_data():  # space for the values, as a hole in the file
        torch.save({"model": state_dict} if is_wrapped else state_dict, path)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        content = torch.load(path, mmap=True, weights_only=True)
        for name, tensor in (content["model"] if is_wrapped else content).items():
            _fill(name, tensor)
    _write_checksums(path)


def _write_checksums(path: Path) -> None:
    """Write the CRC-32 of each member of a zip file into its central directory; the members were filled afterwards."""
    with zipfile.ZipFile(path) as archive:
        members, place = archive.infolist(), archive.start_dir
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        for member in members:
            name_length, extra_length = struct.unpack_from("<HH", content, member.header_offset + 26)
            start = member.header_offset + 30 + name_length + extra_length
            checksum = 0
            for first in range(start, start + member.file_size, _CHUNK_BYTES):
                checksum = zlib.crc32(content[first : min(first + _CHUNK_BYTES, start + member.file_size)], checksum)
            struct.pack_into("<I", content, place + 16, checksum)
            place += 46 + sum(struct.unpack_from("<HHH", content, place + 28))


def _fill(name: str, tensor: Tensor) -> None:
    """Fill a tensor with values of a plausible size, in place."""
    if name.endswith("position_ids"):
        tensor.copy_(torch.arange(tensor.shape[-1])[None])
    elif name.endswith("inv_freq"):
        tensor.copy_(10000.0 ** -torch.linspace(0, 1, tensor.numel()))
    elif "norm" in name.lower() and name.endswith("weight"):
        tensor.fill_(1)
    elif name.endswith("bias"):
        tensor.zero_()
    else:
        _tile(tensor.view(-1), _random_numbers().to(tensor.dtype))


@cache
def _random_numbers() -> Tensor:
    """Return a prime number of normal values, so that no two rows of a matrix are equal when they repeat."""
    return torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)) * 0.02


def _tile(flat: Tensor, numbers: Tensor) -> None:
    for piece in flat.split(len(numbers)):
        piece.copy_(numbers[: len(piece)])


def _write_llm_settings(folder: Path, sizes: Sizes) -> None:
    """Write the other files of the language model: index of the shards, configs, tokenizer."""
    files = original_tensors(sizes)
    weight_map = {name: shard for shard in LLM_SHARDS for name in files[f"{LAYOUT['llm']}/{shard}"]}
    total = sum(info.num_bytes for shard in LLM_SHARDS for info in files[f"{LAYOUT['llm']}/{shard}"].values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    for name, content in {
        "pytorch_model.bin.index.json": index,
        "config.json": llama_config(sizes),
        "generation_config.json": generation,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    write_llama_tokenizer(folder)


# The stages


def measure_format(name: str, originals: Path, model: Path, options: argparse.Namespace) -> FormatResult:
    """Convert to one format, load and ask."""
    stage = measure_convert(originals, model, name)
    result = FormatResult(name, _folder_bytes(model), [stage])
    measure_answer(result, model, options)
    return result


def measure_convert(originals: Path, model: Path, quantize: str = "none") -> Stage:
    """Convert with the command line."""
    command = [sys.executable, "-m", "timechat", "convert", "--from", str(originals), str(model)]
    command += [] if quantize == "none" else ["--quantize", quantize]
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    with MemoryWatch(process.pid) as watch:
        _, status, usage = os.wait4(process.pid, 0)  # its ru_maxrss is useless: it starts at the size of this process
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"timechat convert failed with exit code {process.returncode}")
    seconds, cpu_seconds = time.perf_counter() - begun, usage.ru_utime + usage.ru_stime
    return Stage("convert", seconds, cpu_seconds, watch.peak_bytes, watch.peak_private_bytes)


def measure_answer(result: FormatResult, model: Path, options: argparse.Namespace) -> None:
    """Load the model and ask, in a separate process."""
    request = {
        "model": str(model),
        "video": str(options.video),
        "question": options.question,
        "frames": options.frames,
        "tokens": options.tokens,
        "dtype": options.dtype,
    }
    command = [sys.executable, __file__, "--answer", json.dumps(request)]
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # as on the command line
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    result.answer = json.loads(output.splitlines()[-1])
    result.stages += [Stage(**stage) for stage in result.answer.pop("stages")]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load the model and ask; return the stages and the answer."""
    stages: list[Stage] = []
    with _measured("load", stages):
        from timechat import TimeChat
        from timechat.pipeline import DecodingOptions
        from timechat.video import load_frames

        timechat = TimeChat.from_pretrained(request["model"], dtype=request["dtype"])
    size = timechat.model.config.vision_config.image_size
    with _measured("decode", stages):
        frames = load_frames(request["video"], num_frames=request["frames"], size=size)
    with _measured("encode", stages):
        encoded = timechat.encode(frames)
    decoding = DecodingOptions(max_new_tokens=request["tokens"])
    with _measured("prompt and answer", stages):
        found = timechat.ask(encoded, request["question"], decoding=decoding)
    with _measured("same question again", stages):
        again = timechat.ask(encoded, request["question"], decoding=decoding)
    with _measured("follow-up question", stages):
        timechat.ask(encoded, FOLLOW_UP, decoding=decoding)
    longer = DecodingOptions(max_new_tokens=request["tokens"] + _MORE_TOKENS)
    with _measured(f"same with {_MORE_TOKENS} more tokens", stages):
        timechat.ask(encoded, FOLLOW_UP, decoding=longer)
    with _measured("same again", stages):
        timechat.ask(encoded, FOLLOW_UP, decoding=decoding)
    seconds = {stage.name: stage.seconds for stage in stages}
    more = seconds[f"same with {_MORE_TOKENS} more tokens"] - seconds["same again"]
    if not encoded.content.isfinite().all():
        raise SystemExit("the video tokens are not finite")
    num_parameters: Counter[str] = Counter()
    for parameter in timechat.model.parameters():
        num_parameters[str(parameter.dtype)] += parameter.numel()
    return {
        "text": found.text,
        "is_reproducible": again.text == found.text,
        "video_tokens": len(encoded.content),
        "num_parameters": num_parameters,
        "tokens_per_second": _MORE_TOKENS / more,
        "stages": [asdict(stage) for stage in stages],
    }


# Memory and time


@contextmanager
def _measured(name: str, stages: list[Stage]) -> Iterator[None]:
    """Record seconds and peak memory of a block, in this process."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak; see proc(5)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    with MemoryWatch(os.getpid()) as watch:
        yield
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    stages.append(Stage(name, seconds, cpu_seconds, watch.peak_bytes, watch.peak_private_bytes))
    print(f"{name}: {seconds:.1f} s", file=sys.stderr)


class MemoryWatch:
    """Polls the memory of a process from a thread, because the system stores no peak of private memory."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self.peak_private_bytes = 0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            is_last = self._is_over.wait(_SECONDS_BETWEEN_READINGS)
            memory = read_memory(self._pid)
            self.peak_bytes = memory.get("VmHWM", self.peak_bytes)
            self.peak_private_bytes = max(self.peak_private_bytes, memory.get("RssAnon", 0))
            if is_last:
                return


def read_memory(pid: int) -> dict[str, int]:
    """Return the memory values of a process in bytes; empty after its end."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.removesuffix("kB")) * 1024 for name, value in pairs}


def _table(result: Result) -> str:
    """Write the result as Markdown."""
    lines = []
    for one in result.formats:
        lines += [
            f"{one.format}: folder of {one.folder_bytes / _GIB:.2f} GiB, "
            f"{one.answer['tokens_per_second']:.2f} tokens per second",
            "",
            "| stage | seconds | CPU seconds | peak resident GiB | peak private GiB |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for stage in one.stages:
            memory = f"{stage.peak_bytes / _GIB:.2f} | {stage.peak_private_bytes / _GIB:.2f}"
            lines.append(f"| {stage.name} | {stage.seconds:.1f} | {stage.cpu_seconds:.1f} | {memory} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:  # the process that `measure_answer` starts
        print(json.dumps(answer(json.loads(sys.argv[2]))))
    else:
        main()
