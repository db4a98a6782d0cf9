"""Install the package with the lowest versions of its dependencies, or with another Python, and run the tests.

    python -m tests.versions lowest FOLDER
    python -m tests.versions 3.13 FOLDER [ARGUMENTS OF PYTEST]

`lowest` takes the lowest version of each dependency of `pyproject.toml` that fits the others; with another argument,
a version of Python, the versions are those of `constraints.txt`. uv resolves and installs them into the folder, which
keeps the environment: 5 GB, because torch comes with CUDA.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lower_bounds() -> dict[str, str]:
    """The lowest version that `pyproject.toml` allows of each package of the project and its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", one) for one in ranges]
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def make_environment(version: str, folder: Path) -> Path:
    """Make the virtual environment and return its interpreter."""
    uv, environment = folder / "uv" / "bin" / "uv", folder / "environment"
    if not uv.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", folder / "uv", "uv"], check=True)
    if not environment.exists():
        interpreter = sys.executable if version == "lowest" else version
        subprocess.run([uv, "venv", "-q", "--python", interpreter, environment], check=True)
    python = environment / "bin" / "python"
    choice = ["--resolution", "lowest-direct"] if version == "lowest" else ["--constraints", ROOT / "constraints.txt"]
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *choice, "-e", f"{ROOT}[dev]"], check=True)
    return python


def print_raised(python: Path) -> None:
    """Print the packages that are installed in a higher version than the lower bound, which others need."""
    site = next((python.parents[1] / "lib").glob("python*/site-packages"))
    bounds = lower_bounds()
    for one in distributions(path=[str(site)]):
        bound = bounds.get(one.name.lower().replace("_", "-"))
        if bound and [*map(int, one.version.split(".")[:3])] > [*map(int, f"{bound}.0.0".split(".")[:3])]:
            print(f"{one.name}: {one.version}, because other packages do not allow {bound}", flush=True)


def main() -> None:
    """Make the environment and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", help="lowest, or a version of Python such as 3.13.")
    parser.add_argument("folder", type=Path, help="Folder of the environment.")
    options, arguments = parser.parse_known_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = make_environment(options.version, folder)
    if options.version == "lowest":
        print_raised(python)
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    pytest = [python, "-m", "pytest", *(arguments or ["-n", "2", "--dist", "loadfile"])]
    sys.exit(subprocess.run(pytest, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
