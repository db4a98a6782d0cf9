"""Several videos in one command: files, folders, patterns and standard input."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from timechat.cli.videos import find_videos, names_a_video, output_names
from timechat.errors import VideoError
from timechat.pipeline import TimeChat

FAST = ("--max-new-tokens", 4, "--num-frames", 4)


@pytest.fixture
def videos(tmp_path, drawn_film, monkeypatch) -> Path:
    """A folder with two videos, one of them in a subfolder, and other files; it is the current folder's `videos`."""
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("a.mp4", "sub/a.MKV", ".hidden/c.mp4", ".d.mp4"):
        shutil.copy(drawn_film, folder / name)
    (folder / "notes.txt").write_text("no video")
    monkeypatch.chdir(tmp_path)
    return folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_means_its_videos_and_those_of_its_subfolders(videos):
    found = find_videos(["videos"])
    assert (found.names, found.is_many, found.problems) == (("videos/a.mp4", "videos/sub/a.MKV"), True, ())


def test_a_pattern_means_the_videos_that_match(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "b.mp4", "a.mp4", "a.txt", "x.raw", "deep/er/c.mp4", "[1].mp4")
    assert find_videos(["*"]).names == ("[1].mp4", "a.mp4", "b.mp4")
    assert find_videos(["?.mp4"]).names == ("a.mp4", "b.mp4")
    assert find_videos(["*.raw"]).names == ("x.raw",)
    assert find_videos(["**/*.mp4"]).names == ("[1].mp4", "a.mp4", "b.mp4", "deep/er/c.mp4")
    assert find_videos(["[1].mp4"]).names == ("[1].mp4",)  # a file of this name is no pattern


def test_a_single_file_is_not_many(videos):
    assert find_videos(["videos/a.mp4"]).is_many is False
    assert find_videos(["missing.mp4"]).names == ("missing.mp4",)  # the error is that of opening it
    assert find_videos(["https://host/*.mp4"]).names == ("https://host/*.mp4",)


def test_a_video_is_answered_once(videos):
    assert find_videos(["videos/a.mp4", "./videos/a.mp4", str(videos), "videos/*.mp4"]).names == (
        "videos/a.mp4",
        str(videos / "sub/a.MKV"),
    )


@pytest.mark.parametrize(("argument", "what"), [("empty", "a folder without"), ("*.mp4", "a pattern that matches no")])
def test_an_argument_without_videos_is_refused(tmp_path, monkeypatch, argument, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match=f"is {what} video"):
        find_videos([argument])
    assert len(find_videos([argument, "a.mp4"]).problems) == 1


def test_standard_input_is_named_once():
    with pytest.raises(ValueError, match="holds one video"):
        find_videos(["-", "-"])


def test_repeated_stems_get_numbers():
    names = ["a/x.mp4", "b/x.mkv", "c/X.mp4", "x-2.mp4", "https://h/v/my%20film.mp4?t=1", "https://h/", "-", "c:d?.mp4"]
    assert output_names(names, ".srt") == [
        *("x.srt", "x-2.srt", "X-3.srt", "x-2-2.srt"),
        *("my film.srt", "h.srt", "stdin.srt", "c_d_.srt"),
    ]


def test_the_last_argument_of_highlights_may_be_its_topic(videos):
    assert not names_a_video("a goal")
    for argument in ("-", "videos", "videos/*", "missing.mp4", "http://host/x", "videos/notes.txt"):
        assert names_a_video(argument)


def test_each_video_gets_its_file_and_the_model_is_loaded_once(run, videos, tmp_path, monkeypatch):
    loaded = []
    load = TimeChat.from_pretrained.__func__
    monkeypatch.setattr(
        TimeChat, "from_pretrained", classmethod(lambda cls, *a, **k: loaded.append(a) or load(cls, *a, **k))
    )
    status, out, _ = run("caption", "videos", "--output-dir", "out", "--format", "json", *FAST)
    assert (status, out, len(loaded)) == (0, "", 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.json", "a.json"]
    assert json.loads((tmp_path / "out/a-2.json").read_text())["video"] == "videos/sub/a.MKV"


def test_results_of_many_videos_are_lines_of_one_file(run, videos, tmp_path):
    status, out, _ = run("ask", "videos/a.mp4", "videos/sub/*", "What happens?", "-o", "out.jsonl", *FAST)
    assert (status, out) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["video"], row["question"]) for row in rows] == [
        ("videos/a.mp4", "What happens?"),
        ("videos/sub/a.MKV", "What happens?"),
    ]


def test_a_folder_of_one_video_gives_one_result(run, videos, tmp_path):
    status, _, _ = run("caption", "videos/sub", "-o", "out.jsonl", *FAST)
    assert status == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["video"] == "videos/sub/a.MKV"
    status, out, _ = run("caption", "videos/sub", "--json", *FAST)
    assert (status, json.loads(out)["video"]) == (0, "videos/sub/a.MKV")


def test_a_video_that_fails_does_not_stop_the_others(run, videos, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    status, out, err = run(
        "caption", "missing.mp4", "broken.mp4", "none/*.mp4", "videos/a.mp4", "-o", "out.jsonl", *FAST
    )
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith("timechat: none/*.mp4: is a pattern that matches no video")
    assert lines[1].startswith("timechat: missing.mp4: no such file")
    assert lines[2].startswith("timechat: broken.mp4: cannot be opened as a video")
    assert lines[-1] == "timechat: 3 of 4 videos failed"
    assert json.loads((tmp_path / "out.jsonl").read_text())["video"] == "videos/a.mp4"


def test_no_model_is_loaded_if_all_videos_fail(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in (("--output-dir", "out"), ("-o", "out.jsonl")):
        status, _, err = run("caption", "a.mp4", "b.mp4", *output, "--model", "./nowhere")
        assert (status, err.splitlines()[-1]) == (1, "timechat: 2 of 2 videos failed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "2 videos need --output-dir DIR, -o FILE.jsonl or -o FILE.parquet"),
        (["-o", "out.srt"], "2 videos need --output-dir DIR, -o FILE.jsonl or -o FILE.parquet, got -o out.srt"),
        (["--html", "a.html"], "--html takes one video, got 2; give --output-dir DIR for several"),
        (["--clips", "x"], "--clips takes one video, got 2; give --output-dir DIR for several"),
        (["--reel", "a.mp4"], "--reel takes one video, got 2; give --output-dir DIR for several"),
        (["--transcript", "a.srt"], "--transcript takes one video, got 2"),
        (["--plan"], "--plan takes one video, got 2"),
        (["--exit-status"], "--exit-status takes one video, got 2"),
        (["-o", "a.jsonl", "--json"], "-o a.jsonl gets one result per video in its own format; leave out --json"),
        (
            ["-o", "a.jsonl", "--format", "qvhighlights"],
            "-o a.jsonl gets one result per video in its own format; leave out --format qvhighlights",
        ),
        (["--output-dir", "videos/a.mp4"], "videos/a.mp4 is a file; name a folder for --output-dir"),
        (["--output-dir", "no/out"], "no/out cannot be made: there is no folder no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_for_one_video_are_refused_for_several(refused, videos, options, message):
    assert refused("ground", "videos", "a light", *options) == message


def test_one_missing_video_is_bad_input(refused):
    assert refused("caption", "missing.mp4").startswith("missing.mp4: no such file")
    assert refused("ground", "missing.mp4", "x", "--exit-status").startswith("missing.mp4: no such file")


def test_highlights_of_several_videos_take_an_option(run, videos, tmp_path):
    status, _, _ = run("highlights", "videos/a.mp4", "videos/sub/a.MKV", "--query", "a goal", "-o", "out.jsonl", *FAST)
    assert status == 0
    assert [json.loads(line)["question"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "a goal"
    ] * 2
    _, out, _ = run("highlights", "videos/a.mp4", "--query", "a goal", "--json", *FAST)
    assert json.loads(out)["question"] == "a goal"


def test_a_video_comes_through_standard_input(run, drawn_film, tmp_path, monkeypatch):
    with drawn_film.open("rb") as video:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(video))
        status, out, err = run("ask", "-", "What?", "--json", "--html", tmp_path / "page.html", *FAST)
    assert (status, json.loads(out)["video"]) == (0, "-")
    assert "the page has no video, because the video came through standard input" in err
    assert "<video" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_empty_or_missing_standard_input_is_one_line(refused, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert refused("caption", "-").startswith("-: standard input is a terminal; send a video to it")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert refused("caption", "-") == "-: standard input is empty; expected the content of a video file"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"not a video")))
    assert refused("caption", "-").startswith("-: cannot be opened as a video")


def test_the_exit_status_says_whether_it_was_found(run, drawn_film):
    arguments = ("ground", drawn_film, "a light", "--exit-status", "--num-frames", 4)
    assert run(*arguments, "--threshold", 0)[0] == 0
    assert run(*arguments, "--threshold", 1)[0] == 1
    assert run(*arguments[:3], "--num-frames", 4, "--threshold", 1)[0] == 0  # without the option


def test_a_terminal_shows_no_moment_that_is_not_found(run, drawn_film, monkeypatch):
    monkeypatch.setattr("timechat.cli.answers.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    arguments = ("ground", drawn_film, "a light", "--by", "model", "--window", 0, "--threshold", 1)
    assert run(*arguments)[1].startswith("not found: a light (score ")


def test_the_cache_is_neither_read_nor_written(run, drawn_film, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMECHAT_CACHE", str(tmp_path / "cache"))
    assert run("caption", drawn_film, "--no-cache", *FAST)[0] == 0
    assert not (tmp_path / "cache").exists()
    assert run("caption", drawn_film, *FAST)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert run("caption", drawn_film, "--no-cache", *FAST)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before
