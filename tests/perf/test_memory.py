"""What `perf/memory.py` measures is what a process took."""

import subprocess
import sys

import pytest
from perf.memory import measure, to_markdown

from timechat.files.system import peak_memory_bytes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the benchmark reads Unix' resource usage")


@pytest.mark.slow
def test_the_peak_is_the_process_s_own():
    # Above this process's own size, which every child has at first.
    size = (peak_memory_bytes() >> 20) + 200
    peaks = [measure([sys.executable, "-c", f"x = b'x' * {s << 20}"]).peak_bytes >> 20 for s in (size, size + 200)]
    assert 190 < peaks[1] - peaks[0] < 210
    assert size < peaks[0] < size + 100


def test_a_command_that_fails_says_why():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        measure([sys.executable, "-c", "import sys; print('no such video'); sys.exit(2)"])
    assert (caught.value.returncode, caught.value.output.strip()) == (2, "no such video")


def test_the_table_tells_seconds_per_hour_and_the_ratio():
    rows = [
        {"duration": 600.0, "peak_mib": 500.0, "seconds": 30.0, "timings": {"decode": 1.0, "encode": 6.0}},
        {"duration": 18000.0, "peak_mib": 525.0, "seconds": 1000.0, "timings": {"decode": 40.0, "encode": 300.0}},
    ]
    assert to_markdown(rows).splitlines() == [
        "| video | peak memory, MiB | over the first | decode, s per hour | encode, s per hour | all, s per hour |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| 10 min | 500 | 1.000 | 6.0 | 36.0 | 180.0 |",
        "| 300 min | 525 | 1.050 | 8.0 | 60.0 | 200.0 |",
    ]
