"""`--help`, completion, recipes and `info`."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
import yaml
from typer.main import get_command

from timechat.cli import app
from timechat.cli.examples import EXAMPLES
from timechat.cli.help import command_groups

ROOT = Path(__file__).parents[2]


def commands(group: Any = None, name: str = "") -> dict[str, Any]:
    """Every command and group by its full name."""
    group = get_command(app) if group is None else group
    found = {name: group}
    for inner in getattr(group, "commands", {}).values():
        found |= commands(inner, f"{name} {inner.name}".strip())
    return found


def without_subcommands() -> list[str]:
    return sorted(name for name, command in commands().items() if not getattr(command, "commands", None))


def test_every_command_has_an_example():
    assert sorted({*without_subcommands(), "cache"}) == sorted(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "example"), [(name, example) for name, examples in EXAMPLES.items() for example in examples]
)
def test_an_example_is_a_line_that_the_command_accepts(name, example):
    program, *words = shlex.split(re.split(r" && | < ", example)[0].removeprefix("CLIPS=clips "))
    known = commands()
    name = next(each for each in (" ".join(words[:2]), words[0]) if each in known)
    names, command = name.split(), known[name]
    assert program == "timechat"
    command.make_context(name, words[len(names) :])  # raises for an unknown option, a wrong value, a missing argument


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_shows_examples_and_no_words_of_a_library(run, name):
    status, out, err = run(*name.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: timechat {name}".rstrip() + " [OPTIONS]")
    for example in EXAMPLES.get(name, ()):
        assert f"  {example}\n" in out
    assert not re.search(r"<(bool|int|str|float|path|list)|x>=|\\\[", out)
    assert run(*name.split(), "-h")[1] == out


def test_help_fits_a_terminal_of_eighty_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in without_subcommands():
        text = run(*name.split(), "--help")[1].partition("Examples:")[0]
        assert max(len(line) for line in text.splitlines()) <= 80, name


def test_help_shows_brackets_as_they_are(run):
    assert "[m:ss–m:ss]" in run("ask", "--help")[1]


def test_help_loads_no_decoder():
    code = "import sys, timechat.cli; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_commands_are_shown_in_groups(run):
    root = get_command(app)
    groups = command_groups(root, root.context_class(root, info_name="timechat"))
    assert list(groups) == ["Questions about videos", "Search", "Servers", "Models", "Training and evaluation", "Cache"]
    out = run("--help")[1]
    assert all(f"\n{title}:\n" in out for title in groups)


def test_completion_offers_commands_and_options():
    for words, number, expected in (("timechat gro", 1, "ground"), ("timechat ground --exit", 2, "--exit-status")):
        environment = {
            **os.environ,
            "_TIMECHAT_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(number),
        }
        code = "import sys; sys.argv = ['timechat']; from timechat.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == [expected]


def test_recipes_are_listed_printed_and_copied(run, refused, tmp_path):
    names = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    status, out, _ = run("recipes")
    assert (status, [line.split()[0] for line in out.splitlines()]) == (0, names)
    assert all(line.endswith(".") and len(line.split()) > 3 for line in out.splitlines())
    text = (ROOT / "recipes/eval_drawn.yaml").read_text(encoding="utf-8")
    assert run("recipes", "eval_drawn") == (0, text, "")
    assert run("recipes", "eval_drawn.yaml", "-o", tmp_path / "mine.yaml") == (0, "", "")
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == text
    assert "exists; name a new file" in refused("recipes", "eval_drawn", "-o", tmp_path / "mine.yaml")
    assert refused("recipes", "nothing").startswith("there is no recipe 'nothing'; choose one of eval_activitynet")


def test_the_wheel_has_the_recipes(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    steps = ["egg_info", "--egg-base", str(tmp_path), "build", "--build-base", str(tmp_path / "base")]
    command = [sys.executable, "setup.py", "-q", *steps, "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)
    built = {path.name for path in (tmp_path / "timechat/recipes").iterdir()}
    assert built == {path.name for path in (ROOT / "recipes").iterdir()}
    assert yaml.safe_load((tmp_path / "timechat/recipes/eval_drawn.yaml").read_text())["name"] == "eval_drawn"


def test_info_says_what_the_model_would_sample(run, short_clip, converted):
    _, out, _ = run("info", short_clip, "--json")
    facts = json.loads(out)
    assert (facts["model"], facts["windows"], facts["sampled_frames"], facts["seconds_between_samples"]) == (
        *("nano", 1, 6, 0.5),
    )
    _, out, _ = run("info", short_clip, "--json", "--model", converted)
    facts = json.loads(out)
    assert (facts["model"], facts["windows"], facts["num_frames"]) == (str(converted), 1, 75)
    assert facts["sampled_frames"] == 75  # it takes 96 frames, and the video has 75
    assert facts["seconds_between_samples"] == pytest.approx(0.04)
    assert (
        f"sampling  by {converted}: 75 frames in 1 window, one every 0.04 s"
        in run("info", short_clip, "-m", converted)[1]
    )


def test_info_reads_a_video_from_standard_input(run, short_clip, monkeypatch):
    with short_clip.open("rb") as video:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(video))
        status, out, _ = run("info", "-", "--json")
    assert (status, json.loads(out)["duration"]) == (0, 3.0)


def test_info_states_the_date_of_a_video(run, short_clip, tmp_path):
    dated = tmp_path / "dated.mp4"
    with av.open(str(short_clip)) as source, av.open(str(dated), "w") as target:
        target.metadata["creation_time"] = "2021-05-03T10:20:30Z"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert json.loads(run("info", dated, "--json")[1])["created"] == "2021-05-03T10:20:30+00:00"
    assert "created   2021-05-03T10:20:30+00:00\n" in run("info", dated)[1]
    assert json.loads(run("info", short_clip, "--json")[1])["created"] is None
