"""Official Java programs for captioning from pycocoevalcap: METEOR 1.5 as one process, and Stanford's PTB tokenizer."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from timechat.errors import JavaError, missing_extra

NUM_STATISTICS = 23
"""Number of METEOR statistics of one pair; see `timechat.evaluation.metrics.meteor.meteor_score`."""

DROPPED_TOKENS = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
_LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))
_SECONDS = 600
_UTF_8 = "-Dfile.encoding=UTF-8"  # independent of the locale


def find_java() -> str | None:
    """Path of the `java` command; None if it is not installed."""
    return shutil.which("java")


def java_is_ready() -> bool:
    """Whether the official programs can run: Java and pycocoevalcap are installed."""
    return find_java() is not None and find_spec("pycocoevalcap") is not None


def pycocoevalcap_file(*parts: str) -> Path:
    """Find a file of pycocoevalcap.

    Raises:
        ModuleNotFoundError: pycocoevalcap is not installed.
    """
    found = find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise missing_extra("captions are scored with pycocoevalcap", "eval")
    return Path(found.submodule_search_locations[0], *parts)


def tokenize_ptb(captions: Sequence[str]) -> list[str]:
    """Tokenise captions with Stanford's PTBTokenizer 3.4.1 in one process, as the official scorers do.

    Captions are lower-cased, and punctuation is removed. The programs remove it after lower-casing, so brackets remain
    as `-lrb-`.

    Returns:
        Tokens of each caption, joined by spaces; an empty text for an empty caption.

    Raises:
        JavaError: The program failed.
    """
    if not captions:
        return []
    lines = [caption.translate(_LINE_ENDS) for caption in captions]
    jar = pycocoevalcap_file("tokenizer", "stanford-corenlp-3.4.1.jar")
    command = [
        _java(),
        _UTF_8,
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    done = subprocess.run(
        command,
        input="\n".join(lines).encode("utf-8", "replace"),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    tokenized = done.stdout.decode("utf-8", "replace").split("\n")
    if done.returncode or len(tokenized) not in (len(lines), len(lines) + 1):
        problem = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise JavaError(
            f"the PTB tokenizer gave {len(tokenized)} lines for {len(lines)} captions: {problem[-1] if problem else ''}"
        )
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in DROPPED_TOKENS)
        for line in tokenized[: len(lines)]
    ]


def _java() -> str:
    java = find_java()
    if java is None:
        raise JavaError("there is no java command; install a Java runtime for the official METEOR and tokenizer")
    return java


class MeteorProcess:
    """One METEOR 1.5 process for a whole run; compared pairs are cached.

    Close the object, or use it in a `with` block.
    """

    def __init__(self) -> None:
        """Start the program; it needs some seconds to read its table of paraphrases.

        Raises:
            ModuleNotFoundError: pycocoevalcap is not installed.
            JavaError: Java is not installed.
        """
        jar = pycocoevalcap_file("meteor", "meteor-1.5.jar")
        command = [_java(), _UTF_8, "-jar", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._known: dict[tuple[str, str], NDArray[np.float64]] = {}

    def __enter__(self) -> "MeteorProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the program."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.terminate()
        self._process.wait()
        self._errors.close()

    def statistics(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Statistics of each (hypothesis, reference) pair: `(pairs, 23)`.

        Raises:
            JavaError: The program has ended.
        """
        for pair in dict.fromkeys(pairs):
            if pair not in self._known:
                self._known[pair] = self._ask(*pair)
        return np.array([self._known[pair] for pair in pairs]).reshape(-1, NUM_STATISTICS)

    def _ask(self, hypothesis: str, reference: str) -> NDArray[np.float64]:
        line = " ||| ".join(["SCORE", _plain(reference), _plain(hypothesis)])
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(f"{line}\n".encode("utf-8", "replace"))
            stdin.flush()
            answer = stdout.readline().split()
        except BrokenPipeError:
            answer = []
        if len(answer) != NUM_STATISTICS:
            self._errors.seek(0)
            errors = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            raise JavaError(f"METEOR did not answer to {line!r}: {errors[-1] if errors else 'it has ended'}")
        return np.array([float(number) for number in answer])


def _plain(sentence: str) -> str:
    """Remove separators and line breaks of METEOR's protocol from a sentence."""
    return sentence.translate(_LINE_ENDS).replace("|||", "").replace("  ", " ")
