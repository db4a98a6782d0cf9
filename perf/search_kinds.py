"""Measure a library by the kind of query: exact phrase, paraphrase, thing, scene.

    python perf/search_kinds.py --videos ../shared/videos --distractors /usr/share/common-licenses/GPL-3

The clips are indexed, and lines of speech are spread over them, together with the lines of another text.
The probability that two sentences mean the same was chosen on every second paraphrase, from the first one on; the
others are printed alone. R@1 is the share of queries whose first moment is the right line (phrases, paraphrases) or
lies in the right clip (things, scenes). `found` is the share whose first moment counts as found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timechat.answers.events import Event
from timechat.search import Library
from timechat.search.records import Kind
from timechat.search.video_vectors import VideoVectors

SECONDS_PER_LINE = 0.5


class Lines:
    """Source of given lines by the name of the video."""

    kind: Kind = "speech"

    def __init__(self, lines: dict[str, list[str]]) -> None:
        self._lines = lines

    def choose(self, paths: Sequence[str]) -> str:
        return paths[0]

    def facts(self, path: str) -> dict[str, Any]:
        return {}

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        return True

    def read(self, path: str, frames: VideoVectors, check: object) -> tuple[list[Event], tuple[str, ...]]:
        texts = self._lines[Path(path).name]
        step = min(SECONDS_PER_LINE, frames.duration / len(texts))
        return [Event(n * step, (n + 1) * step, text) for n, text in enumerate(texts)], ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=Path, default=Path(__file__).with_name("search_kinds.json"))
    parser.add_argument("--videos", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--distractors", type=Path, help="text whose lines are mixed in")
    parser.add_argument("--encoder", default="sight")
    options = parser.parse_args()
    content = json.loads(options.queries.read_text(encoding="utf-8"))
    other = options.distractors.read_text(encoding="utf-8").splitlines() if options.distractors else []
    other = [line.strip() for line in other if len(line.split()) > 4]
    clips = content["clips"]
    lines = {
        name: [line for line, *_ in content["lines"][n :: len(clips)]] + other[n :: len(clips)]
        for n, name in enumerate(clips)
    }
    with tempfile.TemporaryDirectory() as folder, Library(Path(folder) / "library.db") as library:
        library.index([options.videos / name for name in clips], encoder=options.encoder, sources=[Lines(lines)])
        print(f"{len(content['lines'])} lines among {sum(map(len, lines.values()))}")
        print(f"{'kind':18} {'queries':>7} {'R@1':>6} {'found':>6}")
        show("phrase", library, [(phrase, line) for line, phrase, _ in content["lines"]], by_text=True)
        paraphrases = [(words, line) for line, _, words in content["lines"]]
        show("paraphrase, used", library, paraphrases[::2], by_text=True)
        show("paraphrase", library, paraphrases[1::2], by_text=True)
        for kind in ("things", "scenes"):
            show(
                kind, library, [(text, name) for name, texts in content[kind].items() for text in texts], by_text=False
            )


def show(kind: str, library: Library, queries: Sequence[tuple[str, str]], *, by_text: bool) -> None:
    """Print one row."""
    right, found = 0, 0
    for words, expected in queries:
        result = library.search(words)
        first = result.moments[0]
        right += (first.text if by_text else Path(first.video).name) == expected
        found += result.found
    print(f"{kind:18} {len(queries):7} {right / len(queries):6.3f} {found / len(queries):6.3f}")


if __name__ == "__main__":
    main()
