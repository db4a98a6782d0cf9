"""Run `python -m PACKAGE ARGUMENTS` and record which of the package's functions are called, in all threads.

    python -P perf/trace_calls.py trace.json src/timechat ground clip.mp4 "a ball bounces" --format srt

Writes `{"functions": {FILE: [NAME, ...]}, "code_objects": {FILE: N}, "max_depth": N}`, files and names in order of
first call. `structure.py`, which starts this script, defines what counts as a function. Code objects are everything
but module bodies: functions, lambdas, comprehensions and class bodies, each counted by its own. `-P` keeps the names
in this folder from hiding modules.
"""

import json
import os
import runpy
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

_IS_FUNCTION = 0x1  # CO_OPTIMIZED: set for functions, not for the bodies of modules and classes


class CallRecorder:
    """Records the called functions of a package, in this thread and in every thread that starts after `start`."""

    def __init__(self, package: Path) -> None:
        self.functions: dict[str, list[str]] = {}
        self.code_objects: dict[str, int] = {}
        self.max_depth = 0
        self._root = f"{package.resolve()}{os.sep}"
        self._identified: dict[CodeType, tuple[str, str] | None] = {}
        self._thread = threading.local()

    def start(self) -> None:
        """Start to record."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    def stop(self) -> None:
        """Stop to record in this thread; threads that run already are still recorded."""
        sys.setprofile(None)
        threading.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in self._identified:
            self._count_code_object(code)
            self._identified[code] = self._identify(code)
            if function := self._identified[code]:
                names = self.functions.setdefault(function[0], [])
                if function[1] not in names:
                    names.append(function[1])
        if self._identified[code]:
            depth = max(0, getattr(self._thread, "depth", 0) + (1 if event == "call" else -1))
            self._thread.depth = depth
            self.max_depth = max(self.max_depth, depth)

    def _count_code_object(self, code: CodeType) -> None:
        path = os.path.realpath(code.co_filename)
        if path.startswith(self._root) and code.co_name != "<module>":
            file = path.removeprefix(self._root).replace(os.sep, "/")
            self.code_objects[file] = self.code_objects.get(file, 0) + 1

    def _identify(self, code: CodeType) -> tuple[str, str] | None:
        """File and name of the function that a code object counts as; None if it does not count."""
        path = os.path.realpath(code.co_filename)
        if not code.co_flags & _IS_FUNCTION or not path.startswith(self._root):
            return None
        parts = code.co_qualname.split(".")
        while parts[-1].startswith("<") and parts[-2:-1] == ["<locals>"]:  # such as f.<locals>.<lambda>: counts as f
            del parts[-2:]
        if parts[-1].startswith("<") and parts[-1] != "<lambda>":  # a comprehension in the body of a module or class
            return None
        return path.removeprefix(self._root).replace(os.sep, "/"), ".".join(parts)


def main(output: str, package: str, *arguments: str) -> None:
    """Run the package and write the trace, also if the package exits or fails.

    Args:
        output: JSON file to write.
        package: Folder of the package, which Python must be able to import by its name.
        arguments: Command-line arguments for the package.
    """
    recorder = CallRecorder(Path(package))
    sys.argv = [package, *arguments]
    recorder.start()
    try:
        runpy.run_module(Path(package).name, run_name="__main__", alter_sys=True)
    finally:
        recorder.stop()
        result = {
            "functions": recorder.functions,
            "code_objects": recorder.code_objects,
            "max_depth": recorder.max_depth,
        }
        Path(output).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
