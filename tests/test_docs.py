"""What the pages say is so: their Python prints what they say it prints, their --help texts are the real ones."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^(?:```|~~~~)sh\n(.*?)^(?:```|~~~~)", re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
RUNNABLE = "timechat data draw out/films", "timechat data draw clips"  # first lines of examples that run as written
CODE_BLOCK = re.compile(r"^(```|~~~~).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo_clip(make_docs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "demo.mp4"
    make_docs.draw_demo(path)
    return path


def pages_with_python() -> list[str]:
    return [page for page in PAGES if PYTHON.search((ROOT / page).read_text())]


def test_the_readme_shows_python():
    assert "README.md" in pages_with_python()


@pytest.mark.parametrize("page", pages_with_python())
def test_python_on_the_page_prints_what_it_says(page, demo_clip, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo.mp4").symlink_to(demo_clip)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in PYTHON.findall((ROOT / page).read_text()):
        capsys.readouterr()
        exec(compile(code, page, "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = PRINTED.findall(code)
        assert len(printed) >= len(promised)
        for text, promise in zip(printed, promised, strict=False):
            assert is_as_promised(text, promise), f"{page} promises {promise!r}, but {text!r} was printed"


def is_as_promised(text: str, promise: str) -> bool:
    """In a promise, … stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, promise.split("…"))), text) is not None


def commands() -> dict:
    """Every command by its name; those of a group as "group command"."""
    from typer.main import get_command

    from timechat.cli import app

    found = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner[each] for each in inner or ()}
        if inner is None or command.invoke_without_command:
            found[name] = command
    return found


def test_every_command_has_its_section():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## `timechat (.*)`$", page, re.MULTILINE)) == sorted(commands())


def test_the_page_of_commands_is_that_of_the_code(make_docs):
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == make_docs.cli_page() + "\n", "docs/cli.md is out of date: run `make docs`"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/evaluation.md", "docs/training.md"])
def test_the_example_on_the_page_runs_as_written(page, tmp_path):
    (script,) = (
        block
        for block in SHELL.findall((ROOT / page).read_text(encoding="utf-8"))
        if any(line in block for line in RUNNABLE)
    )
    script = script.replace('pip install ".[eval]"', ":")  # the tests have the extra
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/timechat").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m timechat "$@"\n')
    (tmp_path / "bin/timechat").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["sh", "-e"], input=script, cwd=tmp_path, env={**os.environ, "PATH": path}, text=True)
    assert done.returncode == 0


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE-WEIGHTS.md"])
def test_links_inside_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text()
    targets = [link or picture for link, picture in LINK.findall(text)]
    files = [target.partition("#")[0] for target in targets if not target.startswith(("http", "#"))]
    missing = [file for file in files if not (ROOT / page).parent.joinpath(file).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_headings_lead_to_one(page):
    targets = [link.partition("#") for link, _ in LINK.findall((ROOT / page).read_text()) if "#" in link]
    inside = [(file or page.rpartition("/")[2], name) for file, _, name in targets if not file.startswith("http")]
    missing = [
        f"{file}#{name}"
        for file, name in inside
        if file.endswith(".md") and name not in heading_names((ROOT / page).parent / file)
    ]
    assert not missing


def heading_names(page: Path) -> set[str]:
    """The names by which links lead to the headings of a page, as GitHub makes them."""
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES)
def test_shell_lines_name_real_options(page):
    known_commands = commands()
    blocks = SHELL.findall((ROOT / page).read_text())
    for line in re.findall(r"^timechat .*$", "\n".join(blocks), re.MULTILINE):
        words = line.partition("  #")[0].split()
        if words[1].startswith("--"):
            continue
        name = next((name for name in (" ".join(words[1:3]), words[1]) if name in known_commands), None)
        assert name is not None, line
        options = (parameter.opts + parameter.secondary_opts for parameter in known_commands[name].params)
        known = {"--help"}.union(*options)
        assert {word for word in words[2:] if word.startswith("--")} <= known, line


def test_the_architecture_page_names_every_folder():
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "src" / "timechat"
    folders = {path.parent.relative_to(package).as_posix() + "/" for path in package.glob("*/**/*.py")}
    files = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    unnamed = {"serving/http/routes/"}  # part of the HTTP API
    assert [name for name in sorted((folders | files) - unnamed) if f"`{name}`" not in page] == []


def test_the_architecture_page_has_at_most_150_lines():
    assert len((ROOT / "docs" / "architecture.md").read_text().splitlines()) <= 150
