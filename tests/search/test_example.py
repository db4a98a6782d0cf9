"""`examples/search.py` on a video of one color."""

import runpy
import sys
from pathlib import Path

from tests.search.conftest import write_video


def test_the_example_prints_unknown_words_as_not_found(tmp_path, monkeypatch, capsys):
    video = write_video(tmp_path / "red.mp4", ["red"], seconds=1)
    monkeypatch.setattr(sys, "argv", ["search.py", str(tmp_path / "out"), "猫", "--video", str(video)])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "search.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("  note: sight knows English only")
    assert lines[3].split() == ["猫", "not", "found"]
    assert (tmp_path / "out" / "search.html").exists()
