"""Checks in a process of its own that a JSON schema can be compiled with little time and memory.

The compiler of grammars is native code without limits: patterns that a client combines in a small schema can use all
memory, and end the process that compiles them. Therefore a child process (`python -m
timechat.model.generation.schema_check`) compiles each schema first, with little memory and little time. It stays for
the next schema, and is replaced after a schema that it did not survive.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from timechat.files.system import (
    end_group,
    end_this_process_after,
    forbid_opening_files,
    limit_this_process,
    module_command,
    read_pipe_until,
    start_group,
)

MAX_SCHEMA = 200_000
"""Maximum number of characters of a JSON schema."""

COMPILE_SECONDS = 2.0
"""Maximum time to compile a JSON schema."""

_MAX_MEMORY = 640 << 20  # address space of the child
_START_SECONDS = 30.0  # maximum time until the child is ready, on a busy machine
_MAX_LINE = 16 * 1024
_STACK_BYTES = 2 << 20  # less than the stacks of the threads that compile the schema afterwards
_KEPT_REFUSALS = 256

# With free white space between JSON tokens, a model could write white space up to the length limit.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_READY = b"ready\n"


def compile_schema(engine: LLTokenizer, schema: str) -> LLMatcher:
    """Compile a JSON schema that was checked.

    Raises:
        ValueError: It is not a JSON schema, or cannot be enforced.
    """
    # The vocabulary is not read in advance for large patterns, so that the time does not depend on it.
    limits = LLParserLimits(max_lexer_states=50_000, precompute_large_lexemes=False, verbose_errors=False)
    try:
        source = LLMatcher.grammar_from_json_schema(schema, _COMPACT)
    except ValueError as error:
        raise ValueError(f"the grammar of the answer cannot be read: {error}") from error
    matcher = LLMatcher(engine, source, log_level=0, limits=limits)
    if problem := matcher.get_error():
        raise ValueError(f"the JSON schema of the answer cannot be enforced: {problem.splitlines()[0][:200]}")
    return matcher


class SchemaChecker:
    """The child process that compiles schemas first; may be used from any thread."""

    def __init__(self) -> None:
        """Create a checker; the process starts with the first schema."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._refusals: OrderedDict[str, str] = OrderedDict()

    def check(self, schema: str) -> None:
        """Check a JSON schema.

        Raises:
            ValueError: It is too long, is not a JSON schema, cannot be enforced, or needs too much time or memory.
        """
        if len(schema) > MAX_SCHEMA:
            raise ValueError(f"the JSON schema has {len(schema)} characters; at most {MAX_SCHEMA} are allowed")
        with self._lock:
            problem = self._refusals.get(schema)
            if problem is None:
                problem = self._problem(schema)
            if problem:
                self._refusals[schema] = problem
                while sum(map(len, self._refusals)) > 2 * MAX_SCHEMA or len(self._refusals) > _KEPT_REFUSALS:
                    self._refusals.popitem(last=False)
                raise ValueError(problem)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _problem(self, schema: str) -> str:
        """Return why the child refuses a schema; an empty text if it does not."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = None
        with suppress(OSError):
            process.stdin.write(json.dumps(schema).encode() + b"\n")
            process.stdin.flush()
            answer = read_pipe_until(process.stdout, time.monotonic() + COMPILE_SECONDS, _MAX_LINE, is_line=True)
        try:
            return str(json.loads(answer or b"")["problem"])
        except (ValueError, KeyError, TypeError):  # too late, or ended by its limits
            self._end()
            return (
                f"the JSON schema of the answer needs more than {COMPILE_SECONDS:g} s or too much memory to be "
                "compiled; use fewer and shorter patterns, and smaller limits of length and number"
            )

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = start_group(module_command("timechat.model.generation.schema_check"), has_input=True)
        assert self._process.stdout is not None
        ready = read_pipe_until(self._process.stdout, time.monotonic() + _START_SECONDS, _MAX_LINE, is_line=True)
        if ready != _READY:
            self._end()
            raise RuntimeError("the process that compiles JSON schemas could not be started")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        end_group(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


# ── in the child ────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Compile the schemas of standard input, one JSON string in each line, and print the problem of each as JSON."""
    limit_this_process(_MAX_MEMORY)
    engine: Any = LLTokenizer("byte")  # 256 tokens; the problem of a schema does not depend on the vocabulary
    forbid_opening_files()
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        end_this_process_after(COMPILE_SECONDS)
        try:
            problem = ""
            compile_schema(engine, json.loads(line)).compute_bitmask()
        except ValueError as error:
            problem = str(error)
        end_this_process_after(None)
        print(json.dumps({"problem": problem}), flush=True)


if __name__ == "__main__":
    threading.stack_size(_STACK_BYTES)
    worker = threading.Thread(target=main)
    worker.start()
    worker.join()
