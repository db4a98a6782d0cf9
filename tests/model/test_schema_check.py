"""A JSON schema of a client cannot use up the time or the memory of the process that answers."""

import json
import time
from pathlib import Path

import pytest
from llguidance import LLTokenizer

from timechat.model.generation import schema_check
from timechat.model.generation.schema_check import SchemaChecker, compile_schema

_ORDINARY = json.dumps({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})


def _all_of(*patterns: str) -> str:
    return json.dumps({"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]})


@pytest.fixture(scope="module")
def checker():
    checker = SchemaChecker()
    yield checker
    checker.close()


@pytest.fixture
def impatient(monkeypatch):
    """A checker whose process has little time."""
    monkeypatch.setattr(schema_check, "COMPILE_SECONDS", 0.3)
    checker = SchemaChecker()
    yield checker
    checker.close()


def test_one_process_checks_many_ordinary_schemas(checker):
    checker.check(_ORDINARY)
    process = checker._process
    began = time.monotonic()
    for number in range(20):
        checker.check(json.dumps({"type": "integer", "minimum": number}))
    assert checker._process is process
    assert time.monotonic() - began < 2


def test_a_schema_that_compiles_for_ever_is_refused(impatient):
    endless = _all_of(*(f"a.{{{20 + i}}}b" for i in range(40)))
    assert len(endless) < 1500
    impatient.check(_ORDINARY)
    first = impatient._process
    with pytest.raises(ValueError, match=r"needs more than .* s or too much memory to be compiled; use fewer"):
        impatient.check(endless)
    assert first.poll() is not None
    began = time.monotonic()
    with pytest.raises(ValueError, match="to be compiled"):
        impatient.check(endless)  # it is not compiled again
    assert time.monotonic() - began < 0.1
    impatient.check(_ORDINARY)
    assert impatient._process is not first


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (json.dumps({"enum": ["x" * 100] * 3000}), "has .* characters; at most 200000 are allowed"),
        ('{"properties": {"a": ' * 5000 + "{}" + "}}" * 5000, "cannot be read: recursion limit"),
        (json.dumps({"$ref": "https://example.org/schema.json"}), "cannot be enforced"),
        (json.dumps({"type": "string", "pattern": "(" * 2000 + "a" + ")" * 2000}), "cannot be enforced"),
        ("[]", "cannot be enforced|cannot be read"),
    ],
    ids=["large", "deep", "remote", "brackets", "list"],
)
def test_a_schema_that_cannot_be_enforced_is_refused(checker, schema, problem):
    with pytest.raises(ValueError, match=problem):
        checker.check(schema)


def test_a_process_that_is_killed_is_replaced(checker):
    checker.check(_ORDINARY)
    checker._process.kill()
    checker._process.wait()
    checker.check(json.dumps({"type": "boolean"}))


def test_the_memory_of_the_process_is_limited(checker):
    checker.check(_ORDINARY)
    limits = Path(f"/proc/{checker._process.pid}/limits").read_text()
    assert [line.split()[3] for line in limits.splitlines() if line.startswith("Max address space")] == [str(640 << 20)]
    assert [line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")] == ["0"]


def test_a_checked_schema_is_compiled_for_the_vocabulary():
    matcher = compile_schema(LLTokenizer("byte"), '{"const": "yes"}')
    assert matcher.consume_tokens(list(b'"yes"'))
    assert matcher.is_accepting()
