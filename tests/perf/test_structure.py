"""The measures of `perf/structure.py` on a small package."""

import json
from pathlib import Path
from textwrap import dedent

import pytest
from perf.structure import SourceFile, Trace

from perf import structure

FILES = {
    "__init__.py": "",
    "__main__.py": "from timechat.work import main\n\nmain()\n",
    "py.typed": "",
    "page.html": "x\n" * 900,
    "empty/__pycache__/old.pyc": "",
    "settings.py": '''
        class Options:
            """Options.

            Attributes:
                num_frames: Of the video.
                fps: Frames per second.
            """

            num_frames: int
            fps: float
            max_frames: int

            @classmethod
            def make(cls, num_frames, fps, max_frames):
                return cls(num_frames=num_frames, fps=fps, max_frames=max_frames)

        class _Hidden:
            pass
    ''',
    "video/__init__.py": "",
    "video/frames.py": '''
        class Outer:
            class Options:
                num_frames: int

        class _Hidden:
            pass

        def load(path, *, num_frames=None, fps=None, max_frames=None, start=None):
            """Load frames.

            Args:
                path: Offset or path. Of the file.
                num_frames: As many as there are.
                fps:
                    Told by the caller.
                max_frames (int): Maximum number of frames.
                    Of the video.
                *rest, **more: That is left.

            Returns:
                frames: Of the video.
            """

        def save(frames):
            return load(frames, num_frames=1, fps=2, max_frames=3)

        def partly(frames, fps):
            return load(frames, num_frames=1, fps=fps)
    ''',
    "work.py": """
        import sys
        import threading
        from functools import cached_property

        from timechat import idle, video

        TABLE = {"key": lambda: [helper(value) for value in range(2)]}

        def helper(value):
            return value

        def unused():
            pass

        class Worker:
            squares = [value**2 for value in range(3)]

            @cached_property
            def total(self):
                return sum(helper(value) for value in self.squares)

        def run_thread():
            def target():
                first()
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

        def first():
            from timechat.late import last
            last(3)

        def main():
            TABLE["key"]()
            run_thread()
            print(Worker().total, *sys.argv[1:])
            sys.exit(0)
    """,
    "idle.py": "def idle():\n    pass\n",
    "late.py": "def last(count):\n    return last(count - 1) if count else 0\n",
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "src" / "timechat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).strip() + "\n")
    return tmp_path


@pytest.fixture
def sources(repo: Path) -> list[SourceFile]:
    return structure.read_sources(repo / "src" / "timechat")


def test_entries_leave_out_markers_and_empty_folders(repo):
    entries = structure.find_entries(repo / "src" / "timechat")
    assert entries == [
        "__init__.py",
        "__main__.py",
        "idle.py",
        "late.py",
        "page.html",
        "settings.py",
        "video",
        "work.py",
    ]


def test_the_longest_file_is_a_python_file(sources):
    assert structure.find_longest_file(sources) == (37, "work.py")


def test_the_longest_class_is_measured_from_its_class_line(sources):
    assert structure.find_longest_class(sources) == (15, "Options", "settings.py")


def test_no_class_gives_no_longest_class():
    assert structure.find_longest_class([SourceFile("a.py", "x = 1\n")]) == (0, "", "")


def test_a_place_declares_all_three_frame_options(sources):
    places = structure.find_frame_options(sources)
    assert list(map(str, places)) == ["settings.py:1 Options", "video/frames.py:8 load"]


def test_a_call_with_all_frame_options_repeats_them(sources):
    places = structure.find_frame_options(sources, repeated=True)
    assert [place.text for place in places] == ["Options", "load", "save"]


@pytest.mark.parametrize(
    "statement",
    [
        'd = {"num_frames": 1, "fps": 2, "max_frames": 3}',
        'd = ("num_frames", "fps", "max_frames")',
        "d = dict(num_frames=1, fps=2, max_frames=3)",
    ],
)
def test_literals_in_a_module_repeat_the_frame_options(statement):
    source = SourceFile("a.py", statement)
    assert structure.find_frame_options([source]) == []
    assert [place.text for place in structure.find_frame_options([source], repeated=True)] == ["(module)"]


def test_a_public_class_name_in_two_files_is_repeated(sources):
    found = structure.find_repeated_classes(sources)
    assert {name: list(map(str, places)) for name, places in found.items()} == {
        "Options": ["settings.py:1 Options", "video/frames.py:2 Outer.Options"]
    }


def test_two_classes_of_a_name_in_one_file_are_not_repeated():
    assert structure.find_repeated_classes([SourceFile("a.py", "class A: ...\nclass A: ...\n")]) == {}


def test_fragments_in_docstrings_are_found_with_their_lines(sources):
    assert list(map(str, structure.find_fragment_lines(sources))) == [
        "settings.py:5 num_frames: Of the video.",
        "video/frames.py:13 num_frames: As many as there are.",
        "video/frames.py:14 fps:",
        "video/frames.py:18 *rest, **more: That is left.",
    ]


@pytest.mark.parametrize("start", structure.FRAGMENT_STARTS)
def test_every_fragment_start_is_found(start):
    text = f'def f(a):\n    """Do it.\n\n    Args:\n        a: {start} it.\n    """\n'
    assert len(structure.find_fragment_lines([SourceFile("a.py", text)])) == 1


def test_check_lists_fragments_and_limits_and_exits_with_1(repo, capsys, monkeypatch):
    monkeypatch.setattr(structure, "trace_ground", pytest.fail)
    assert structure.main(["--repo", str(repo), "--check"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "src/timechat/settings.py:5 num_frames: Of the video."
    assert printed[-2].startswith("4 parameter lines begin with Of or That or Told or ")
    assert printed[-1] == "at most 0, got 1 public class names used twice or more, see --classes"


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("MAX_ENTRIES", "at most 1, got 8 entries at the top of the package"),
        ("MAX_FILE_LINES", "at most 1, got 37 lines in work.py"),
        ("MAX_CLASS_LINES", "at most 1, got 15 lines in the class Options in settings.py"),
        (
            "MAX_FRAME_OPTIONS",
            "at most 1, got 2 places that list the frame options: settings.py:1 Options, ",
        ),
    ],
)
def test_each_exceeded_limit_is_a_sentence(repo, sources, limit, sentence, monkeypatch):
    known = structure.find_exceeded_limits(repo / "src" / "timechat", sources)
    monkeypatch.setattr(structure, limit, 1)
    (added,) = set(structure.find_exceeded_limits(repo / "src" / "timechat", sources)) - set(known)
    assert added.startswith(sentence)


def test_check_exits_with_0_without_fragments(repo, capsys):
    for name in ("settings.py", "video/frames.py"):
        (repo / "src" / "timechat" / name).write_text('"""A module.\n\nArgs:\n    a: The value.\n"""\n')
    assert structure.main(["--repo", str(repo), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        structure.main(["--repo", str(tmp_path)])
    assert caught.value.code == 2
    assert f"src/timechat/__init__.py, got {tmp_path}" in capsys.readouterr().err


def test_the_tracer_counts_called_functions_in_all_threads(repo):
    trace, text = structure.trace_command(repo / "src" / "timechat", ["a", "b c"])
    assert text == "5 a b c\n"
    assert trace.functions == {
        "work.py": ["main", "<lambda>", "helper", "run_thread", "run_thread.<locals>.target", "first", "Worker.total"],
        "late.py": ["last"],
    }
    assert trace.num_functions == 8
    assert trace.max_depth == 6  # in the thread: target, first, and four calls of last


def test_a_traced_command_that_fails_says_why(repo):
    (repo / "src" / "timechat" / "work.py").write_text("def main():\n    raise ValueError('no such video')\n")
    with pytest.raises(SystemExit, match=r"failed with status 1:\n(.*\n)*ValueError: no such video"):
        structure.trace_command(repo / "src" / "timechat", [])


def test_the_table_and_the_json_hold_the_same_numbers(repo, capsys, monkeypatch):
    trace = Trace({"work.py": ["main", "first"], "late.py": ["last"]}, {"work.py": 3, "late.py": 1}, 3)
    monkeypatch.setattr(structure, "trace_ground", lambda _: trace)
    assert structure.main(["--repo", str(repo)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| measure | value |",
        "| --- | --- |",
        "| entries at the top of the package | 8 |",
        "| files / functions executed by `ground --format srt` | 2 / 3 |",
        "| files / code objects, with class bodies and comprehensions | 2 / 4 |",
        "| call depth of `ground --format srt` | 3 |",
        "| longest file (lines) | 37 (`work.py`) |",
        "| longest class (lines) | 15 (`Options` in `settings.py`) |",
        "| places that list the frame options | 2 |",
        "| the same, with places where they are repeated | 3 |",
        "| public class names used twice or more | 1 |",
        "| parameter lines that are fragments | 4 |",
    ]
    assert structure.main(["--repo", str(repo), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["executed"] == {
        "num_files": 2,
        "num_functions": 3,
        "max_depth": 3,
        "functions": {"work.py": ["main", "first"], "late.py": ["last"]},
        "code_objects": {"work.py": 3, "late.py": 1},
    }
    assert [place["text"] for place in result["frame_options_repeated"]] == ["Options", "load", "save"]
    assert len(result["parameter_lines"]) == 4


def test_trace_files_are_numbered_in_order_of_first_call(repo, capsys, monkeypatch):
    trace = Trace({"work.py": ["main", "first"], "late.py": ["last"]}, {"work.py": 3, "late.py": 1}, 3)
    monkeypatch.setattr(structure, "trace_ground", lambda _: trace)
    assert structure.main(["--repo", str(repo), "--trace-files"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1. work.py (2 functions)",
        "2. late.py (1 function)",
        "2 files, 3 functions, call depth 3",
    ]


def test_the_first_query_that_is_found_is_traced(repo):
    (repo / "src" / "timechat" / "work.py").write_text(
        dedent("""
            import json
            import os
            import sys
            from pathlib import Path

            RECORDS = [
                {"task": "dense_caption", "video": "a.mp4", "events": [1]},
                {"task": "grounding", "video": "a.mp4", "events": [], "query": "negative"},
                {"task": "grounding", "video": "a.mp4", "events": [1], "query": "missed"},
                {"task": "grounding", "video": "a.mp4", "events": [1], "query": "found"},
            ]

            def negative():
                print("1 --> 2")

            def missed():
                pass

            def found():
                print("1 --> 2")

            def main():
                assert os.environ["TIMECHAT_CACHE"] == ""
                if sys.argv[1] == "data":
                    lines = map(json.dumps, RECORDS)
                    return Path(sys.argv[-1], "records.jsonl").write_text("\\n".join(lines))
                globals()[sys.argv[3]]()
        """)
    )
    assert structure.trace_ground(repo / "src" / "timechat") == Trace({"work.py": ["main", "found"]}, {"work.py": 2}, 2)
