"""Throughput of a server for many clients at once, against one client after the other.

Real servers over HTTP: the built-in model, and one with a language model of about 100 million random weights. In one
run, in turns:

    decoding     16 clients with short and long answers about already encoded videos, against the same requests
                 one after the other; tokens per second
    end to end   the same about new videos; seconds
    fairness     short requests while every row is taken by an answer that is 100 times as long, and as many are queued
    sameness     the answers of both modes, token by token; at a difference, the gap between the two likeliest

    python perf/serving.py [--rounds 3] [--model nano|mid-size]

With `--vllm`, in the environment of `make vllm`: the engine of TimeChat beside vLLM, each in a server of its own, in
turns; 1 and 16 clients, free answers and answers in a form.

    .venv-vllm/bin/python perf/serving.py --vllm [--rounds 3] [--model nano|mid-size]
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import torch

from timechat.model.configuration import TimeChatConfig
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.pipeline import DecodingOptions, Request, TimeChat
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video

CLIENTS = 16
NUM_FILMS = 4
LONGEST = 96  # tokens of an answer, for the comparison of engines
NOISE = 1e-3  # nats, between the two most likely tokens


@dataclass(frozen=True)
class Asked:
    """A request of the benchmark."""

    film: Path
    words: str
    task: str
    max_tokens: int
    options: dict = field(default_factory=dict, hash=False)

    def body(self) -> dict:
        """Return the request body."""
        video = {"type": "video_url", "video_url": {"url": self.film.as_uri(), **self.options}}
        messages = [{"role": "user", "content": [video, {"type": "text", "text": self.words}]}]
        return {"messages": messages, "task": self.task, "max_tokens": self.max_tokens}


def workload(films: Sequence[Path], num_requests: int, longest: int) -> list[Asked]:
    """Return requests with short and long answers in turn, each with its own question."""
    asked = []
    for i in range(num_requests):
        film = films[i % len(films)]
        if i % 2:
            asked.append(Asked(film, f"Tell all that happens, number {i}.", "dense_caption", longest))
        elif i % 4 == 2:
            asked.append(Asked(film, f"the red ball, number {i}", "grounding", 40))
        else:
            asked.append(Asked(film, f"What is there to see in number {i}?", "ask", 16))
    return asked


@contextmanager
def server(
    model: str, films: Path, threads: int, *, max_rows: int = CLIENTS, options: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """A server in a separate process, without a disk cache: its address and the id of its process."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "timechat", "serve", "--port", "0", "--model", model, "--data", data]
        command += ["--allow", str(films), "--max-rows", str(max_rows), "--quiet", *options]
        environment = os.environ | {"TIMECHAT_CACHE": "", "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("timechat serve: "):
                    break
            else:
                raise SystemExit("the server did not start")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield line.split()[-1], process.pid
        finally:
            process.terminate()
            process.wait(timeout=90)


def ask_all(url: str, requests: Sequence[Asked], clients: int) -> tuple[float, list[dict]]:
    """Return seconds and answers of requests, sent by a number of clients, each one after the other."""
    with httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=clients)) as client:

        def ask(asked: Asked) -> dict:
            answer = client.post("/v1/chat/completions", json=asked.body())
            answer.raise_for_status()
            return answer.json()

        with ThreadPoolExecutor(clients) as threads:
            began = time.perf_counter()
            answers = list(threads.map(ask, requests))
            return time.perf_counter() - began, answers


def num_tokens(answers: Sequence[dict]) -> int:
    return sum(answer["usage"]["completion_tokens"] for answer in answers)


def measure_decoding(url: str, requests: Sequence[Asked], rounds: int) -> tuple[dict, list[dict], list[dict]]:
    """Measure tokens per second, one after the other and together, in turns."""
    ask_all(url, requests, CLIENTS)  # encodes the videos
    rates: dict[str, list[float]] = {"one at a time": [], "together": []}
    alone, together = [], []
    for _ in range(rounds):
        seconds, alone = ask_all(url, requests, 1)
        rates["one at a time"].append(num_tokens(alone) / seconds)
        seconds, together = ask_all(url, requests, CLIENTS)
        rates["together"].append(num_tokens(together) / seconds)
    ratios = [b / a for a, b in zip(rates["one at a time"], rates["together"], strict=True)]
    told = {
        "requests": len(requests),
        "tokens": num_tokens(together),
        "one_at_a_time_tokens_per_second": round(statistics.median(rates["one at a time"]), 1),
        "together_tokens_per_second": round(statistics.median(rates["together"]), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
    return told, alone, together


def measure_whole(url: str, films: Sequence[Path], rounds: int) -> dict:
    """Measure seconds for new videos: each request uses another frame rate."""
    seconds: dict[int, list[float]] = {1: [], CLIENTS: []}
    fps = 2.0
    for _ in range(rounds):
        for clients in seconds:
            requests = []
            for i in range(CLIENTS):
                fps += 1e-4
                requests.append(Asked(films[i % len(films)], "What happens?", "ask", 32, {"fps": fps}))
            seconds[clients].append(ask_all(url, requests, clients)[0])
    ratios = [a / b for a, b in zip(seconds[1], seconds[CLIENTS], strict=True)]
    return {
        "requests": CLIENTS,
        "one_at_a_time_seconds": round(statistics.median(seconds[1]), 2),
        "together_seconds": round(statistics.median(seconds[CLIENTS]), 2),
        "ratio": round(statistics.median(ratios), 2),
    }


def measure_fairness(url: str, films: Sequence[Path]) -> dict:
    """Measure short requests beside twice as many long ones as rows; then cancel the long ones."""
    form = {"type": "object", "properties": {"a": {"type": "string", "minLength": 3600, "maxLength": 4000}}}
    form |= {"required": ["a"], "additionalProperties": False}
    long_body = Asked(films[0], "Tell everything.", "ask", 1600).body()
    long_body["response_format"] = {"type": "json_schema", "json_schema": {"name": "long", "schema": form}}
    short = Asked(films[0], "What is there?", "ask", 16)
    ask_all(url, [short], 1)
    alone = [ask_all(url, [short], 1)[0] for _ in range(5)]
    address = urlsplit(url)
    assert address.hostname is not None
    long_ones = [HTTPConnection(address.hostname, address.port) for _ in range(2 * CLIENTS)]
    for connection in long_ones:
        connection.request("POST", "/v1/chat/completions", json.dumps(long_body), {"Content-Type": "application/json"})
    time.sleep(2.0)
    waits = [ask_all(url, [short], 1)[0] for _ in range(10)]
    answered = len(select.select([connection.sock for connection in long_ones], [], [], 0)[0])
    for connection in long_ones:
        connection.close()
    began = time.perf_counter()
    while _metric(url, "timechat_requests_inside") > 0:
        time.sleep(0.02)
    return {
        "long_requests": len(long_ones),
        "long_that_ended_before_the_last_short_one": answered,
        "short_requests": len(waits),
        "short_alone_median_seconds": round(statistics.median(alone), 3),
        "short_median_seconds": round(statistics.median(waits), 3),
        "short_longest_seconds": round(max(waits), 3),
        "seconds_until_vanished_clients_are_forgotten": round(time.perf_counter() - began, 2),
    }


def _metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def compare(model: str, requests: Sequence[Asked], alone: Sequence[dict], together: Sequence[dict]) -> dict:
    """Count different answers, with the gap of the two most likely tokens at the first difference."""
    parted = [
        (asked, a["timechat"]["text"], b["timechat"]["text"])
        for asked, a, b in zip(requests, alone, together, strict=True)
        if a["timechat"]["text"] != b["timechat"]["text"]
    ]
    gaps = []
    timechat = TimeChat.from_pretrained(model) if parted else None
    for asked, one, other in parted:
        assert timechat is not None
        gaps.append(_gap(timechat, asked, one, other))
    return {
        "answers": len(requests),
        "different": len(parted),
        "gaps_where_they_part_nats": [round(gap, 6) for gap in gaps],
        "different_above_noise": sum(gap > NOISE for gap in gaps),
        "noise_nats": NOISE,
    }


@torch.inference_mode()
def _gap(timechat: TimeChat, asked: Asked, one: str, other: str) -> float:
    """Return the gap in nats of the two most likely tokens where two answers first differ."""
    with timechat.open(asked.film) as video:
        encoded = video.encode_whole()
    words = None if asked.task == "dense_caption" else asked.words
    request = Request(asked.task, words, decoding=DecodingOptions(max_new_tokens=asked.max_tokens))  # type: ignore[arg-type]
    prompt = timechat.answerer().windows.prompt(request, encoded)
    first = timechat.processor.tokenizer(one, add_special_tokens=False).input_ids
    second = timechat.processor.tokenizer(other, add_special_tokens=False).input_ids
    shared = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    ids = torch.tensor([prompt.input_ids + first[:shared]])
    embeds = timechat.model.embed_prompt(ids, prompt.video_tokens)
    logits = timechat.model(inputs_embeds=embeds, logits_to_keep=1).logits[0, -1].float()
    likeliest = logits.log_softmax(-1).topk(2).values
    return float(likeliest[0] - likeliest[1])


def save_mid_size(folder: Path) -> int:
    """Write a model like the built-in one, with a larger language model of random weights; return their number."""
    network, processor = load_model("nano", device="cpu", dtype="float32")
    config = TimeChatConfig.from_dict(network.config.to_dict())
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    config.text_config.update(sizes | {"num_key_value_heads": 12, "head_dim": 64})
    config.is_trained = False
    torch.manual_seed(0)
    model = TimeChatForConditionalGeneration(config).eval()
    model.frame_encoder.load_state_dict(network.frame_encoder.state_dict())
    model.generation_config = network.generation_config
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return int(model.language_model.num_parameters())


def compare_engines(model: str, films: Sequence[Path], threads: int, rounds: int) -> dict:
    """Measure both engines in turns: tokens per second, CPU time of each process, equal answers, memory."""
    vllm = ["--engine", "vllm", "--engine-options", json.dumps({"kv_cache_memory_bytes": 1 << 30})]
    kinds = {"free": "ask", "in form": "dense_caption"}
    results: dict = {"threads": threads}
    with (
        server(model, films[0].parent, threads) as own,
        server(model, films[0].parent, threads, options=vllm) as other,
    ):
        servers = {"own": own, "vllm": other}
        for url, _ in servers.values():
            ask_all(url, [Asked(film, "What?", "ask", 4) for film in films], 1)  # encodes the videos
        for kind, task in kinds.items():
            for clients in (1, CLIENTS):
                requests = [
                    Asked(films[i % len(films)], f"Tell all that happens, {i}.", task, LONGEST)
                    for i in range(2 if clients == 1 else CLIENTS)
                ]
                rates: dict[str, list[float]] = {name: [] for name in servers}
                cpu_times: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
                num_equal = num_answers = 0
                for _ in range(rounds):
                    texts = {}
                    for name, (url, process) in servers.items():
                        began, before = time.process_time(), cpu_seconds_of(process)
                        seconds, answers = ask_all(url, requests, clients)
                        spent = {each: value - before.get(each, 0.0) for each, value in cpu_seconds_of(process).items()}
                        spent["client"] = time.process_time() - began
                        written = num_tokens(answers)
                        cpu_times[name].append({each: 1000 * value / written for each, value in spent.items()})
                        rates[name].append(round(written / seconds, 1))
                        texts[name] = [answer["timechat"]["text"] for answer in answers]
                    num_answers += len(requests)
                    num_equal += sum(a == b for a, b in zip(*texts.values(), strict=True))
                medians = {name: statistics.median(values) for name, values in rates.items()}
                case = f"{kind}, {clients} client{'s' * (clients > 1)}"
                results[case] = {
                    **{f"{name}_tokens_per_second": value for name, value in medians.items()},
                    "ratio": round(medians["vllm"] / medians["own"], 2),
                    "rounds": rates,
                    "cpu_ms_per_token": {name: _medians(values) for name, values in cpu_times.items()},
                    "equal": f"{num_equal}/{num_answers}",
                    "load": os.getloadavg()[0],
                }
                print(json.dumps({case: results[case]}), file=sys.stderr, flush=True)
        results["memory_mib"] = {name: memory_of(process) for name, (_, process) in servers.items()}
    return results


def _medians(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the medians of the values of some rounds, by their names."""
    return {name: round(statistics.median(each.get(name, 0.0) for each in values), 2) for name in values[0]}


def processes_below(process: int) -> Iterator[tuple[str, Path]]:
    """Yield the name and id, and the folder in `/proc`, of a process and all below it."""
    below = [process]
    while below:
        folder = Path(f"/proc/{below.pop()}")
        try:
            for task in (folder / "task").iterdir():  # any thread may have started a process
                below += map(int, (task / "children").read_text().split())
            yield f"{(folder / 'comm').read_text().strip()} {folder.name}", folder
        except OSError:  # the process has ended
            continue


def memory_of(process: int) -> dict[str, int]:
    """Return the proportional set size of a process and all below it in MiB, by the names of the processes."""
    found = {}
    for name, folder in processes_below(process):
        with suppress(OSError):
            found[name] = int((folder / "smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) >> 10
    return found


def cpu_seconds_of(process: int) -> dict[str, float]:
    """Return the CPU seconds of a process and all below it since their starts, by the names of the processes."""
    found = {}
    for name, folder in processes_below(process):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["nano", "mid-size"], action="append")
    parser.add_argument("--vllm", action="store_true")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        films = [Path(folder) / "films" / f"{i}.mp4" for i in range(NUM_FILMS)]
        films[0].parent.mkdir()
        for i, path in enumerate(films):
            write_video(write_scene(11, i, level=1), path)
        for name in arguments.model or ["nano", "mid-size"]:
            model, threads, parameters, requests = "nano", 1, None, workload(films, 3 * CLIENTS, 200)
            if name == "mid-size":
                model, threads = str(Path(folder) / "mid-size"), torch.get_num_threads()
                parameters = save_mid_size(Path(model))
                requests = workload(films, 2 * CLIENTS, 96)
            if arguments.vllm:
                results[name] = compare_engines(model, films, threads, arguments.rounds)
                print(json.dumps({name: results[name]}, indent=1), flush=True)
                continue
            with server(model, films[0].parent, threads) as (url, _):
                decoding, alone, together = measure_decoding(url, requests, arguments.rounds)
                results[name] = {
                    "language_model_parameters": parameters,
                    "threads": threads,
                    "decoding": decoding,
                    "end_to_end": measure_whole(url, films, arguments.rounds),
                    "fairness": measure_fairness(url, films),
                }
            results[name]["sameness"] = compare(model, requests, alone, together)
            print(json.dumps({name: results[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
