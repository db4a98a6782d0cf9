"""Annotations with wrong values anywhere: a build drops what is wrong, or names it in one line."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_builders import ACTIVITYNET, HIREST, UNREAD, write, write_rows
from timechat.data.builders import build_file
from timechat.data.records import read_jsonl
from timechat.errors import DataError

WRONG = [None, True, 3, -1.5, "x", "", [], {}, [1], {"x": 1}, float("nan"), float("inf"), 10**400]

STEP = {"id": "12", "segment": [3.0, 9.2], "label": "cut wire", "sentence": "cut wire"}
VIDEO = {"duration": 50.1, "subset": "training", "annotation": [STEP], "annotations": [STEP]}
COCO = {
    "image_id": "a.mp4",
    "caption": "It is so. It was.",
    "pure_cap": "it is so. it was",
    "segments": [[0, 1], [2, 3]],
}
SAMPLES: dict[str, list[Any]] = {
    "youcook2": [{"database": {"a": VIDEO}}, {"annotations": [COCO]}],
    "coin": [{"database": {"a": VIDEO}}, [{"video_path": "a.mp4", "segments": [[1, 2]], "labels": ["cut wire"]}]],
    "anet": [ACTIVITYNET, {"annotations": [COCO]}],
    "vitt": [
        [{"id": "a", "annotations": [{"timestamp": 260, "tag": "Opening"}]}],
        [{"vid": "a.mp4", "captions": ["Mix it"], "segments": [[8.46, 12.0]]}],
    ],
    "didemo": [[{"description": "the cat jumps", "video": "a.avi", "times": [[0, 0], [2, 3]]}]],
    "hirest/grounding": [HIREST, [{"image_id": "a.mp4", "caption": "Make tea", "timestamp": [3, 97.5]}]],
    "hirest/steps": [HIREST],
    "tvsum": [{"annotations": [{"image_id": "a.mp4", "timestamps": [0, 2.04], "scores": [0.0, 1.0]}]}],
    "valley": [
        [
            {
                "v_id": "a",
                "source": "VATEX",
                "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}],
            }
        ]
    ],
    "qvhighlights": [
        {"annotations": [{"image_id": "a.mp4", "caption": "A.", "relevant_clip_ids": [3], "saliency_scores": [[1, 2]]}]}
    ],
}
ROWS: dict[str, list[Any]] = {
    "qvhighlights": [
        {"qid": 1, "query": "A dog.", "duration": 9, "vid": "a", "relevant_clip_ids": [0], "saliency_scores": [[4, 1]]}
    ],
    "yttemporal": [
        {
            "id": "a",
            "duration": 20,
            "subtitles": "we go now",
            "subtitles_t_start": [0, 1, 2],
            "subtitles_t_end": [1, 2, 3],
        },
        {"info": {"display_id": "a"}, "subtitles": [{"word": "go", "time": 1.0}]},
    ],
    "didemo": [{"clip_name": "a", "caption_list": ["the cat"], "timestamps": [[0, 1]]}],
}


def paths(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in a JSON value, the value itself included."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


def changed(content: Any) -> Iterator[Any]:
    """Yield copies of a JSON value with one wrong value, or without one key."""
    for path in paths(content):
        for wrong in WRONG:
            if not path:
                yield wrong
                continue
            result = copy.deepcopy(content)
            parent = result
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = wrong
            yield result
        if path:
            result = copy.deepcopy(content)
            parent = result
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
            yield result


def try_to_build(source: str, annotations: Path, folder: Path) -> bool:
    """Build; any error but a `DataError` fails. Whatever is written can be read."""
    try:
        build_file(source, annotations, folder / "out.jsonl", videos=folder / "videos", options=UNREAD)
    except DataError:
        return False
    assert list(read_jsonl(folder / "out.jsonl"))
    return True


@pytest.mark.parametrize("source", SAMPLES)
def test_wrong_values_in_a_file_are_dropped_or_named(source, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    results = []
    for sample in SAMPLES[source]:
        for content in [*changed(sample), sample]:
            path = write(tmp_path / "a.json", json.dumps(content))
            results.append(try_to_build(source, path, tmp_path))
    assert results[-1]
    assert not all(results)


@pytest.mark.parametrize("source", ROWS)
def test_wrong_values_in_lines_are_dropped_or_named(source, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    results = []
    for sample in ROWS[source]:
        for content in [*changed(sample), sample]:
            path = write_rows(tmp_path / "a.jsonl", content)
            results.append(try_to_build(source, path, tmp_path))
    assert results[-1]
    assert not all(results)


@pytest.mark.parametrize(
    "line",
    [
        "a 1 2",
        "a 1 2##",
        "##",
        "a b c##text",
        "a nan 2##text",
        "a 1 inf##text",
        "a -1 2##text",
        "a 1e400 2##text",
        "a 1 2 3##t",
    ],
)
def test_wrong_lines_of_charades_are_dropped_or_named(line, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    try_to_build("charades", write(tmp_path / "a.txt", f"{line}\na 0 1##it is so\n"), tmp_path)


@pytest.mark.parametrize("line", ["a", "a\tb", "a\tb\tc", "a\tb\t1,,2", "a\tb\tnan,1", "a\tb\t", "a\tb\t1\t2"])
def test_wrong_lines_of_tvsum_are_dropped_or_named(line, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    assert not try_to_build("tvsum", write(tmp_path / "a.tsv", f"{line}\n"), tmp_path)
