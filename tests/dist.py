"""Release check: build the package, install the wheel into an empty environment and use it outside the source tree.

Run by `make dist`:

    python -m tests.dist OUT

It builds the sdist and the wheel in OUT and checks their size. It installs the wheel with the extras `eval` and
`server` and the versions of `constraints.txt`. Then it runs `ground`, `serve` with its page, `mcp` and a recipe of
the sdist. It needs a package index.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_BYTES = 100_000_000
_START_SECONDS = 120.0


def build(out: Path) -> tuple[Path, Path]:
    """Build the distributions of the source tree.

    Args:
        out: Folder for the files; created if missing, emptied if present.

    Returns:
        Paths of the wheel and of the sdist.
    """
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, stdout=subprocess.DEVNULL
    )
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
        if path.stat().st_size >= MAX_BYTES:
            raise SystemExit(f"{path.name} has {path.stat().st_size} bytes; the limit is {MAX_BYTES}")
    return wheel, sdist


def install(wheel: Path, folder: Path) -> Path:
    """Create an empty environment in `folder` and install the wheel into it.

    Returns:
        Path of the environment's `bin` folder.
    """
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "-c", ROOT / "constraints.txt", f"{wheel}[eval,server]"], check=True)
    return folder / "bin"


class InstalledPackage:
    """The commands of an installed wheel, run in a folder outside the source tree."""

    def __init__(self, scripts: Path, folder: Path) -> None:
        """Use the environment at `scripts`, with `folder` as the current folder of every command."""
        self._scripts, self._folder = scripts, folder
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        self._environment = {**kept, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "TIMECHAT_CACHE": ""}

    def run(self, *arguments: str | Path) -> str:
        """Run a command to its end and return its stdout."""
        command = [self._scripts / "timechat", *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stderr}")
        return done.stdout

    def check_origin(self) -> None:
        """Fail if the package is imported from the source tree."""
        code = "import timechat; print(timechat.__file__)"
        command = [self._scripts / "python", "-c", code]
        path = subprocess.run(
            command, cwd=self._folder, env=self._environment, check=True, capture_output=True, text=True
        )
        if ROOT / "src" in Path(path.stdout.strip()).parents:
            raise SystemExit(f"timechat is imported from the source tree: {path.stdout.strip()}")

    def check_ground(self) -> None:
        """Make a synthetic video, ask for the moment of one of its events and check the subtitles."""
        self.run("data", "draw", "videos", "--clips", "1", "--seed", "7", "--quiet")
        records = [json.loads(line) for line in (self._folder / "videos" / "records.jsonl").read_text().splitlines()]
        record = next(record for record in records if record["task"] == "grounding" and record["events"])
        answer = json.loads(self.run("ground", f"videos/{record['video']}", record["query"], "--json", "--quiet"))
        assert answer["task"] == "grounding", answer
        subtitles = self.run("caption", f"videos/{record['video']}", "--format", "srt", "--quiet")
        assert " --> " in subtitles, subtitles

    def check_search(self) -> None:
        """Index the synthetic video, search it with the built-in encoder and write the page of the moments."""
        self.run("index", "videos", "--library", "library.db", "--quiet")
        found = json.loads(self.run("search", "a dog", "--library", "library.db", "--json", "--html", "page.html"))
        assert (found["encoder"], len(found["moments"]) > 0) == ("sight", True), found
        assert "<li>" in (self._folder / "page.html").read_text() or not found["found"], "the page is empty"

    def check_serve(self) -> None:
        """Start the server, fetch its page, every file of the page and the list of models, and stop it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [self._scripts / "timechat", "serve", "--port", str(port), "--data", "server", "--allow", "videos"]
        process = subprocess.Popen(command, cwd=self._folder, env=self._environment)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_ready(f"{address}/ready", process)
            page = _get(f"{address}/").decode()
            named = set(re.findall(r'(?:src|href)="static/([^"#]+)', page))
            files = {path.name for path in (ROOT / "src/timechat/serving/web").iterdir()} - {"index.html"}
            assert named, "the page names no file"
            for name in sorted(named | files):
                assert _get(f"{address}/static/{name}"), f"static/{name} is empty"
            assert json.loads(_get(f"{address}/v1/models"))["data"][0]["id"] == "nano"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def check_mcp(self) -> None:
        """Start the MCP server over stdio with the official client and list its tools."""
        code = (
            "import asyncio, sys\n"
            "from mcp import ClientSession, StdioServerParameters\n"
            "from mcp.client.stdio import stdio_client\n"
            "async def main():\n"
            "    parameters = StdioServerParameters(command=sys.argv[1], args=['mcp', '--allow', 'videos'])\n"
            "    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:\n"
            "        await session.initialize()\n"
            "        print(len((await session.list_tools()).tools))\n"
            "asyncio.run(main())\n"
        )
        command = [self._scripts / "python", "-c", code, self._scripts / "timechat"]
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, check=True, capture_output=True, text=True, timeout=300
        )
        assert int(done.stdout) == 10, done.stdout

    def check_recipe(self, sdist: Path) -> None:
        """Evaluate the built-in model on two synthetic videos with a recipe of the wheel, the same as in the sdist."""
        with tarfile.open(sdist) as archive:
            archive.extractall(self._folder / "sdist", filter="data")
        (source,) = (self._folder / "sdist").glob("*/recipes/eval_drawn.yaml")
        recipe = self._folder / "eval_drawn.yaml"
        self.run("recipes", "eval_drawn", "-o", recipe)
        assert recipe.read_text(encoding="utf-8") == source.read_text(encoding="utf-8")
        self.run("data", "draw", "out/films", "--clips", "2", "--seed", "1001", "--split", "test", "--quiet")
        metrics = json.loads(self.run("evaluate", recipe, "--limit", "12", "--json", "--quiet"))
        assert metrics["scores"], metrics


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode} before it was ready")
        try:
            _get(address)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise SystemExit(f"the server was not ready within {_START_SECONDS:g} s")


def _get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=30) as response:
        content: bytes = response.read()
    return content


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="Folder for the wheel and the sdist.")
    out = parser.parse_args().out.resolve()
    wheel, sdist = build(out)
    with tempfile.TemporaryDirectory(prefix="timechat-dist-") as temporary:
        scripts = install(wheel, Path(temporary) / "venv")
        folder = Path(temporary) / "work"
        folder.mkdir()
        package = InstalledPackage(scripts, folder)
        checks = {
            "import": package.check_origin,
            "ground": package.check_ground,
            "search": package.check_search,
            "serve": package.check_serve,
            "mcp": package.check_mcp,
            "recipe": lambda: package.check_recipe(sdist),
        }
        for name, check in checks.items():
            began = time.monotonic()
            check()
            print(f"{name}: ok, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
