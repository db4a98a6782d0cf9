"""Measure the structure of the code base and print a Markdown table.

    python perf/structure.py                     # the table
    python perf/structure.py --places --classes  # the lists behind two of its numbers, without the table
    python perf/structure.py --trace-files       # the files that one command executes, in order
    python perf/structure.py --check             # exit 1 above a limit, or if a parameter line is a fragment
    python perf/structure.py --repo DIR --json   # another checkout, everything as JSON

The measures:

- Entries: files and folders directly under the package, with `__init__.py` and `__main__.py`, without `py.typed`,
  `__pycache__`, hidden names, and folders that hold no file.
- Executed files and functions: what `timechat ground VIDEO QUERY --format srt` calls, in all threads of the process,
  with the cache off, on one synthetic video in which the query is found. A file counts if one of its functions is
  called, also if only an import calls it. Bodies of modules and classes do not count. A nested function counts as a
  function of its own. A lambda, a comprehension or a generator expression counts as the function that encloses it; all
  lambdas of a module or class body count as one function. Generated functions without a file, such as the `__init__`
  of a dataclass, do not count. The next row counts every code object but the bodies of modules: class bodies, lambdas
  and comprehensions count by their own, and a file counts if one of them runs, also by an import. The call depth is
  the largest number of the package's functions on the stack of one thread.
- Longest file and class: in lines, Python files only. A class begins at its `class` line and ends with its last line.
- Places that list the frame options: functions with all of `FRAME_OPTIONS` among their parameters, and classes with all
  of them among their annotated fields (dataclasses, pydantic models). A function or class inside such a place is part
  of it. The next row also counts functions, classes and modules with all of them as keys of one dict literal, keyword
  arguments of one call, or items of one literal tuple, list or set.
- Class names: public names (no leading underscore) of classes that two or more files define, at any depth.
- Parameter lines: entries in the sections `Args:` and `Attributes:` of docstrings whose text begins with one of
  `FRAGMENT_STARTS`. Such a text is a fragment: the reader must join it with the name to understand it.

Needs only the standard library; the traced command runs in a child process of the same Python.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGE = "timechat"
FRAME_OPTIONS = ("num_frames", "fps", "max_frames")
MAX_ENTRIES = 20
MAX_FILE_LINES = 450
MAX_CLASS_LINES = 300
MAX_FRAME_OPTIONS = 5
"""Limits of `--check`; a public class name may be used once."""

FRAGMENT_STARTS = ("Of", "That", "Told", "Whom", "As many", "In words", "By which", "With which", "To which")

DRAW_ARGUMENTS = ("data", "draw", "--clips", "1", "--seed", "0", "--quiet")
"""Arguments that make the traced video; the output folder follows."""
TRACED_ARGUMENTS = ("ground", "{video}", "{query}", "--format", "srt")

_NOT_ENTRIES = ("py.typed", "__pycache__")
_SECTIONS = ("Args:", "Arguments:", "Keyword Args:", "Attributes:")
_PARAMETER = re.compile(r"[*\w][\w.*, ]*(?:\([^)]*\))?:(?: +(?P<text>.*))?$")
_FRAGMENT = re.compile(rf"(?:{'|'.join(FRAGMENT_STARTS)})\b")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Location:
    """A place in the source.

    Attributes:
        path: File, relative to the package.
        line: Line number, counted from 1.
        text: Name of the definition with its enclosing ones, or the line itself.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.text}"


@dataclass(frozen=True)
class SourceFile:
    """A Python file of the package.

    Attributes:
        path: File, relative to the package, with slashes.
        text: Content of the file.
    """

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Syntax tree of the file."""
        return ast.parse(self.text, self.path)

    @property
    def num_lines(self) -> int:
        """Number of lines."""
        return len(self.text.splitlines())

    def location(self, line: int, text: str) -> Location:
        """Return a location in this file."""
        return Location(self.path, line, text)


@dataclass(frozen=True)
class Trace:
    """Functions of a package that one run of a command called.

    Attributes:
        functions: Names of the called functions per file, both in order of first call.
        code_objects: Number of executed code objects per file, without the bodies of modules.
        max_depth: Largest number of the package's functions on the stack of one thread.
    """

    functions: dict[str, list[str]]
    code_objects: dict[str, int]
    max_depth: int

    @property
    def num_functions(self) -> int:
        """Number of called functions in all files."""
        return sum(map(len, self.functions.values()))


def read_sources(package: Path) -> list[SourceFile]:
    """Read all Python files under `package`, sorted by path."""
    paths = sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)
    return [SourceFile(path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def find_entries(package: Path) -> list[str]:
    """Names of the files and folders directly under `package` that count as entries, sorted."""
    return sorted(
        path.name
        for path in package.iterdir()
        if path.name not in _NOT_ENTRIES and not path.name.startswith(".") and (path.is_file() or _holds_files(path))
    )


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() and "__pycache__" not in path.parts for path in folder.rglob("*"))


def find_definitions(source: SourceFile) -> Iterator[tuple[str, Definition]]:
    """Yield every function and class of a file with its dotted name, outer ones first."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _DEFINITIONS):
                yield prefix + child.name, child
                yield from visit(child, f"{prefix}{child.name}.")
            else:
                yield from visit(child, prefix)

    return visit(source.tree, "")


def find_longest_file(sources: Sequence[SourceFile]) -> tuple[int, str]:
    """Number of lines and path of the longest file."""
    return max((source.num_lines, source.path) for source in sources)


def find_longest_class(sources: Sequence[SourceFile]) -> tuple[int, str, str]:
    """Number of lines, name and path of the longest class; `(0, "", "")` without classes."""
    classes = [
        ((node.end_lineno or node.lineno) - node.lineno + 1, name, source.path)
        for source in sources
        for name, node in find_definitions(source)
        if isinstance(node, ast.ClassDef)
    ]
    return max(classes, default=(0, "", ""))


def find_repeated_classes(sources: Sequence[SourceFile]) -> dict[str, list[Location]]:
    """Public class names that two or more files define, with their locations."""
    found: dict[str, list[Location]] = defaultdict(list)
    for source in sources:
        for name, node in find_definitions(source):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(source.location(node.lineno, name))
    return {name: found[name] for name in sorted(found) if len({location.path for location in found[name]}) > 1}


def find_frame_options(sources: Sequence[SourceFile], *, repeated: bool = False) -> list[Location]:
    """Find the places that list the frame options.

    Args:
        sources: Files of the package.
        repeated: Count dict literals, calls and literal sequences too, not only parameters and fields.
    """
    found = []
    for source in sources:
        if repeated and _has_options(_listed_names(source.tree)):
            found.append(source.location(1, "(module)"))
        places: set[str] = set()
        for name, node in find_definitions(source):
            is_inside = any(name.startswith(f"{place}.") for place in places)
            listed = [_declared_names(node), *(_listed_names(node) if repeated else ())]
            if not is_inside and _has_options(listed):
                places.add(name)
                found.append(source.location(node.lineno, name))
    return found


def _has_options(listed: Sequence[set[str]]) -> bool:
    return any(names.issuperset(FRAME_OPTIONS) for names in listed)


def _declared_names(node: Definition) -> set[str]:
    """Names of a function's parameters or of a class's annotated fields."""
    if isinstance(node, ast.ClassDef):
        targets = [statement.target for statement in node.body if isinstance(statement, ast.AnnAssign)]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    arguments = node.args
    return {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def _listed_names(node: ast.AST) -> list[set[str]]:
    """Names in each dict literal, call and literal sequence of a node, without those in its inner definitions."""
    listed = []
    nodes = list(ast.iter_child_nodes(node))
    while nodes:
        child = nodes.pop()
        if isinstance(child, _DEFINITIONS):
            continue
        nodes.extend(ast.iter_child_nodes(child))
        if isinstance(child, ast.Call):
            listed.append({keyword.arg for keyword in child.keywords if keyword.arg})
        elif isinstance(child, ast.Dict):
            listed.append(_texts(child.keys))
        elif isinstance(child, ast.Tuple | ast.List | ast.Set):
            listed.append(_texts(child.elts))
    return listed


def _texts(nodes: Sequence[ast.expr | None]) -> set[str]:
    """Values of the text literals among the nodes."""
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def find_fragment_lines(sources: Sequence[SourceFile]) -> list[Location]:
    """Find the parameter lines of docstrings whose text begins with one of `FRAGMENT_STARTS`."""
    return [
        source.location(line, entry)
        for source in sources
        for node in (source.tree, *(node for _, node in find_definitions(source)))
        for line, entry, text in _parameter_lines(node)
        if _FRAGMENT.match(text)
    ]


def _parameter_lines(node: ast.Module | Definition) -> Iterator[tuple[int, str, str]]:
    """Line number, whole entry and text of every parameter in the docstring of a definition."""
    docstring = ast.get_docstring(node, clean=False)
    if docstring is None:
        return
    lines = docstring.expandtabs().splitlines()
    section_indent = entry_indent = None
    for number, line in enumerate(lines):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if not stripped:
            continue
        if section_indent is None or indent <= section_indent:
            section_indent, entry_indent = (indent, None) if number and stripped in _SECTIONS else (None, None)
            continue
        entry_indent = indent if entry_indent is None else entry_indent
        parameter = _PARAMETER.match(stripped)
        if indent == entry_indent and parameter:
            text: str = parameter["text"] or (lines[number + 1].strip() if number + 1 < len(lines) else "")
            yield node.body[0].lineno + number, stripped, text


def trace_command(package: Path, arguments: Sequence[str]) -> tuple[Trace, str]:
    """Run a package with arguments in a child process; return its trace and its standard output.

    Raises:
        SystemExit: The command failed; the message holds its error output.
    """
    script = Path(__file__).resolve().with_name("trace_calls.py")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "trace.json"
        text = _run_python(package, ["-P", str(script), str(output), str(package.resolve()), *arguments])
        return Trace(**json.loads(output.read_text(encoding="utf-8"))), text


def trace_ground(package: Path) -> Trace:
    """Trace `TRACED_ARGUMENTS` on a synthetic video, with the first query of it that is found."""
    with tempfile.TemporaryDirectory() as folder:
        _run_python(package, ["-m", package.name, *DRAW_ARGUMENTS, folder])
        records = (Path(folder) / "records.jsonl").read_text(encoding="utf-8").splitlines()
        for record in map(json.loads, records):
            if record["task"] != "grounding" or not record.get("events"):
                continue
            values = {"video": str(Path(folder) / record["video"]), "query": record["query"]}
            arguments = [argument.format(**values) for argument in TRACED_ARGUMENTS]
            if "-->" not in _run_python(package, ["-m", package.name, *arguments]):
                continue
            trace, text = trace_command(package, arguments)
            if "-->" not in text:
                sys.exit(f"structure: the query {record['query']!r} was found before the trace, but not during it")
            return trace
    sys.exit("structure: no query of the synthetic video is found; change --seed in DRAW_ARGUMENTS")


def _run_python(package: Path, arguments: Sequence[str]) -> str:
    """Run Python in a child process that imports the package from its folder, with the cache off; return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIMECHAT_")}
    environment |= {"PYTHONPATH": str(package.resolve().parent), "TIMECHAT_CACHE": ""}
    with tempfile.TemporaryDirectory() as empty:  # `python -m` imports from the current folder first
        done = subprocess.run(
            [sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"structure: {' '.join(arguments[-6:])} failed with status {done.returncode}:\n{done.stderr}")
    return done.stdout


def to_markdown(package: Path, sources: Sequence[SourceFile], trace: Trace) -> str:
    """Write the table of all measures."""
    file_lines, file_path = find_longest_file(sources)
    class_lines, class_name, class_path = find_longest_class(sources)
    rows = [
        ("entries at the top of the package", len(find_entries(package))),
        (
            "files / functions executed by `ground --format srt`",
            f"{len(trace.functions)} / {trace.num_functions}",
        ),
        (
            "files / code objects, with class bodies and comprehensions",
            f"{len(trace.code_objects)} / {sum(trace.code_objects.values())}",
        ),
        ("call depth of `ground --format srt`", trace.max_depth),
        ("longest file (lines)", f"{file_lines} (`{file_path}`)"),
        ("longest class (lines)", f"{class_lines} (`{class_name}` in `{class_path}`)"),
        ("places that list the frame options", len(find_frame_options(sources))),
        ("the same, with places where they are repeated", len(find_frame_options(sources, repeated=True))),
        ("public class names used twice or more", len(find_repeated_classes(sources))),
        ("parameter lines that are fragments", len(find_fragment_lines(sources))),
    ]
    return "\n".join(["| measure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def to_dict(package: Path, sources: Sequence[SourceFile], trace: Trace) -> dict[str, Any]:
    """Return all measures and the lists behind them, ready for JSON."""
    file_lines, file_path = find_longest_file(sources)
    class_lines, class_name, class_path = find_longest_class(sources)
    return {
        "entries": find_entries(package),
        "executed": {
            "num_files": len(trace.functions),
            "num_functions": trace.num_functions,
            "max_depth": trace.max_depth,
            "functions": trace.functions,
            "code_objects": trace.code_objects,
        },
        "longest_file": {"lines": file_lines, "path": file_path},
        "longest_class": {"lines": class_lines, "name": class_name, "path": class_path},
        "frame_options": [asdict(place) for place in find_frame_options(sources)],
        "frame_options_repeated": [asdict(place) for place in find_frame_options(sources, repeated=True)],
        "repeated_classes": {
            name: [asdict(location) for location in locations]
            for name, locations in find_repeated_classes(sources).items()
        },
        "parameter_lines": [asdict(line) for line in find_fragment_lines(sources)],
    }


def find_exceeded_limits(package: Path, sources: Sequence[SourceFile]) -> list[str]:
    """Sentences about the measures that are above their limits, without the traced ones."""
    file_lines, file_path = find_longest_file(sources)
    class_lines, class_name, class_path = find_longest_class(sources)
    places = ", ".join(map(str, find_frame_options(sources)))
    measures = (
        (len(find_entries(package)), MAX_ENTRIES, "entries at the top of the package"),
        (file_lines, MAX_FILE_LINES, f"lines in {file_path}"),
        (class_lines, MAX_CLASS_LINES, f"lines in the class {class_name} in {class_path}"),
        (len(find_frame_options(sources)), MAX_FRAME_OPTIONS, f"places that list the frame options: {places}"),
        (len(find_repeated_classes(sources)), 0, "public class names used twice or more, see --classes"),
    )
    return [f"at most {limit}, got {value} {what}" for value, limit, what in measures if value > limit]


def _print_places(sources: Sequence[SourceFile]) -> None:
    places = find_frame_options(sources)
    repeated = [place for place in find_frame_options(sources, repeated=True) if place not in places]
    print(f"{len(places)} places list the frame options {', '.join(FRAME_OPTIONS)}:", *places, sep="\n  ")
    print(f"{len(repeated)} places repeat them in a dict, a call or a sequence:", *repeated, sep="\n  ")


def _print_classes(sources: Sequence[SourceFile]) -> None:
    for name, locations in find_repeated_classes(sources).items():
        print(f"{name}: {', '.join(f'{location.path}:{location.line}' for location in locations)}")


def _print_trace(trace: Trace) -> None:
    for number, (path, names) in enumerate(trace.functions.items(), 1):
        print(f"{number}. {path} ({len(names)} {'function' if len(names) == 1 else 'functions'})")
    print(f"{len(trace.functions)} files, {trace.num_functions} functions, call depth {trace.max_depth}")


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[1]
    parser.add_argument("--repo", type=Path, default=default, metavar="DIR", help="checkout to measure")
    parser.add_argument("--json", action="store_true", help="print all measures and lists as JSON")
    parser.add_argument("--trace-files", action="store_true", help="list the executed files in order of first call")
    parser.add_argument("--places", action="store_true", help="list the places that list the frame options")
    parser.add_argument("--classes", action="store_true", help="list the public class names used twice or more")
    parser.add_argument("--parameter-lines", action="store_true", help="list the parameter lines that are fragments")
    parser.add_argument("--check", action="store_true", help="list these lines and exceeded limits; status 1 with any")
    options = parser.parse_args(arguments)
    if not (options.repo / "src" / PACKAGE / "__init__.py").is_file():
        parser.error(f"--repo must be a checkout that holds src/{PACKAGE}/__init__.py, got {options.repo}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table or the chosen lists; return the exit status."""
    options = _parse_options(arguments)
    package = options.repo / "src" / PACKAGE
    sources = read_sources(package)
    if options.check:
        fragments = find_fragment_lines(sources)
        for fragment in fragments:
            print(f"src/{PACKAGE}/{fragment}")
        if fragments:
            starts = " or ".join(FRAGMENT_STARTS)
            print(f"{len(fragments)} parameter lines begin with {starts}; write noun phrases that stand alone")
        exceeded = find_exceeded_limits(package, sources)
        for sentence in exceeded:
            print(sentence)
        return 1 if fragments or exceeded else 0
    if options.json:
        print(json.dumps(to_dict(package, sources, trace_ground(package)), indent=2))
        return 0
    if options.places:
        _print_places(sources)
    if options.classes:
        _print_classes(sources)
    if options.parameter_lines:
        for line in find_fragment_lines(sources):
            print(line)
    if options.trace_files:
        _print_trace(trace_ground(package))
    if not (options.places or options.classes or options.parameter_lines or options.trace_files):
        print(to_markdown(package, sources, trace_ground(package)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
