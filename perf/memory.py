"""Peak memory of a task on a short and a long file, their ratio, and the time of each stage per hour of video.

    python perf/memory.py long_files

makes a file of ten minutes and one of five hours in the folder (once) and runs the task on both, each in a separate
process. Arguments after `--` are passed to the command:

    python perf/memory.py long_files --task ground -- "the red circle bounces" --model nano
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HOUR = 3600.0
# Linux reports kilobytes, macOS bytes.
_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a process used.

    Attributes:
        peak_bytes: Peak resident memory in bytes.
        seconds: Wall time in seconds.
    """

    peak_bytes: int
    seconds: float


def measure(command: Sequence[str]) -> Usage:
    """Run a command to its end.

    The peak is at least the size of this process, which the new process has for a moment, so this script imports
    nothing large.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, list(command), output.read().decode())
    return Usage(usage.ru_maxrss * _UNIT, seconds)


def measure_task(task: str, video: Path, more: Sequence[str]) -> dict[str, Any]:
    """Run a task of the command line on a file; return peak, seconds, duration and the seconds of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "timechat", task, str(video), *more, "--json", "-o", str(out), "--quiet"]
        usage = measure(command)
        answer = json.loads(out.read_text(encoding="utf-8"))
    return {
        "video": video.name,
        "duration": answer["duration"],
        "events": len(answer["events"]),
        "peak_mib": usage.peak_bytes / 2**20,
        "seconds": usage.seconds,
        "timings": answer.get("timings", {}),
    }


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the measurements as a table, the short file first; stages in seconds per hour of video."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row["timings"]))
    heads = ["video", "peak memory, MiB", "over the first", *(f"{stage}, s per hour" for stage in [*stages, "all"])]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for row in rows:
        hours = row["duration"] / _HOUR
        cells = [f"{row['duration'] / 60:.0f} min", f"{row['peak_mib']:.0f}"]
        cells.append(f"{row['peak_mib'] / rows[0]['peak_mib']:.3f}")
        cells += [f"{row['timings'].get(stage, 0.0) / hours:.1f}" for stage in stages]
        cells.append(f"{row['seconds'] / hours:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(folder: Path, seconds: float, fps: float) -> Path:
    """Return the file of a length; make it if it is missing."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from perf.long_files import write_long_file  # large, see `measure`

    path = folder / f"{seconds:.0f}s-{fps:g}fps.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished-{path.name}")
        write_long_file(unfinished, seconds, fps=fps)
        unfinished.replace(path)
    return path


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the files, which are made once")
    parser.add_argument("--task", default="caption", help="command that prints its answer as JSON")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0, 300.0], help="lengths, shortest first")
    parser.add_argument("--fps", type=float, default=10.0, help="frames per second of the files")
    parser.add_argument("--json", type=Path, help="output file for the measurements")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    options.more = arguments[split + 1 :]
    return options


def main() -> None:
    """Measure and print a table."""
    options = parse_options()
    videos = [draw(options.folder, 60 * minutes, options.fps) for minutes in options.minutes]
    rows = []
    for video in videos:
        try:
            rows.append(measure_task(options.task, video, options.more))
        except subprocess.CalledProcessError as error:
            print(f"error: {' '.join(error.cmd)} failed: {error.output.strip()}", file=sys.stderr)
            sys.exit(2)
        print(f"{video.name}: {rows[-1]['peak_mib']:.0f} MiB, {rows[-1]['seconds']:.1f} s", file=sys.stderr)
    print(to_markdown(rows))
    if options.json:
        options.json.write_text(json.dumps({"task": options.task, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
