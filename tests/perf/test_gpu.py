"""`perf/gpu.py` with tiny shapes on a CPU: every stage runs, and is compared with the roofline."""

import json
import math

import pytest
import torch
from perf.gpu import STAGES, main, measure
from perf.gpu_bench import SMALL, Bench, Measured, Peaks, count_flops, num_bytes

NAMES = ["vision", "encoding", "prefill", "decode", "clients", "training"]


@pytest.fixture(autouse=True)
def _no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_every_stage_is_measured_beside_the_roofline(tmp_path, capsys):
    assert main(["--small", "--json", str(tmp_path / "out" / "gpu.json")]) == 0
    results = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [row["stage"] for row in results["stages"]] == NAMES
    for row in results["stages"]:
        assert row["error"] is None
        assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("rate", "seconds", "roofline_seconds"))
        assert row["share_of_roofline"] == pytest.approx(row["roofline_seconds"] / row["seconds"])
    table = capsys.readouterr().out
    assert "Roofline: " in table
    assert table.count("frames/s") == 2
    assert table.count("tokens/s") == 3


def test_without_cuda_one_line_says_what_to_do(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "perf/gpu.py: torch finds no CUDA device; run it on one, or check the command with --small\n"
    )


def test_the_roofline_is_the_larger_of_two_times():
    peaks = Peaks(flops_per_second=100.0, bytes_per_second=10.0)
    assert peaks.seconds(flops=400.0, num_bytes=20.0) == 4.0
    assert peaks.seconds(flops=400.0, num_bytes=80.0) == 8.0
    assert Measured("x", 1.0, "", seconds=16.0, roofline_seconds=4.0).share == 0.25


def test_flops_and_bytes_are_counted_exactly():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    bench = Bench(SMALL, torch.device("cpu"))
    weights = sum(p.numel() for name, p in bench.model.language_model.named_parameters() if "embed" not in name)
    assert bench.bytes_per_token(10, 3) == 2 * (weights + 3 * 10 * 2 * 2 * 32)
    assert num_bytes(torch.nn.Linear(3, 5)) == 4 * (15 + 5)


def test_a_failed_stage_and_the_end_of_the_time_are_reported(monkeypatch):
    def measure_nothing(_: Bench) -> Measured:
        raise torch.OutOfMemoryError("no memory\nand more")

    def measure_forever(_: Bench) -> Measured:
        while True:
            sum(range(1000))

    monkeypatch.setattr("perf.gpu.STAGES", (measure_nothing, measure_forever, STAGES[0]))
    reports = []
    measure(SMALL, torch.device("cpu"), seconds=1.0, report=reports.append)
    assert [(row["stage"], row["error"]) for row in reports[-1]["stages"]] == [
        ("nothing", "OutOfMemoryError: no memory"),
        ("forever", "not measured in the 1 s of the command"),
        ("vision", "not measured in the 1 s of the command"),
    ]
