"""Scripts of `perf/` that no test runs: the names that they import from the package exist."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "perf").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_imported_names_exist(script):
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "timechat":
            continue
        if find_spec(node.module) is None:
            missing.append(node.module)
            continue
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name) and find_spec(f"{node.module}.{alias.name}") is None:
                missing.append(f"{node.module}.{alias.name}")
    assert not missing
