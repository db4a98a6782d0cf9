"""The demo notebook runs from top to bottom, as it is stored."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(EXAMPLES / "demo.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_stored_without_outputs_and_machine_paths(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert not any(re.search(r"""["']([A-Z]:|/|~)""", cell.source) for cell in code_cells(notebook))


def test_the_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shutil.copy(EXAMPLES / "demo.py", tmp_path)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    text = nbformat.writes(notebook)
    assert "image/png" in text  # the frames were shown
    assert re.search(r"Event\(start=\d", text)  # a caption or a moment with its times
    assert (tmp_path / "captions.srt").is_file()
    assert "<video" in (tmp_path / "captions.html").read_text()
