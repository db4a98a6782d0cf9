"""Formats by file name, and options that contradict each other."""

import json
import sys
from pathlib import Path

import pytest

from timechat.answers.events import Answer, Event
from timechat.cli.outputs import OutputOptions, write_results
from timechat.cli.times import parse_time, time_from
from timechat.export import FORMATS

SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".srt": "srt",
    ".vtt": "vtt",
    ".edl": "edl",
    ".otio": "otio",
    ".txt": "text",
}


def check(options: OutputOptions, videos: tuple[str, ...] = ("a.mp4",), **settings: bool) -> None:
    options.check_output(videos, is_many=len(videos) > 1, **settings)


@pytest.mark.parametrize(("suffix", "form"), SUFFIXES.items())
def test_the_ending_chooses_the_format(tmp_path, suffix, form):
    for name in (f"out{suffix}", f"OUT.2{suffix.upper()}"):
        options = OutputOptions(output=tmp_path / name)
        check(options)
        assert options.form == form


def test_the_format_without_a_file_is_text():
    assert OutputOptions().form == "text"
    assert OutputOptions(as_json=True).form == "json"
    assert OutputOptions(output_dir=Path("out"), format="srt").form == "srt"


@pytest.mark.parametrize("name", ["out", "out.xml", "out.mp4", "out.md", ".srt", "out.srt.bak", "out.htm"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"names no format; use .txt, .json, .jsonl, .csv, .srt, .vtt, .edl, .otio"):
        check(OutputOptions(output=tmp_path / name))


def test_an_ending_of_a_page_names_the_option_of_pages(tmp_path):
    with pytest.raises(ValueError, match=r"a page is written by --html FILE$"):
        check(OutputOptions(output=tmp_path / "out.html"))


@pytest.mark.parametrize(
    ("form", "endings"),
    [
        *((form, (suffix,)) for suffix, form in SUFFIXES.items()),
        ("vtt-chapters", (".vtt", ".chapters.vtt")),
        ("youtube", (".txt",)),
        ("ffmetadata", (".txt",)),
        ("qvhighlights", (".jsonl",)),
        ("html", (".html", ".htm")),
    ],
)
def test_a_format_takes_its_endings_and_no_other(tmp_path, form, endings):
    assert form in FORMATS
    known = {*SUFFIXES, ".html", ".htm", *endings}
    for ending in known:
        options = OutputOptions(format=form, output=tmp_path / f"out{ending}")
        if ending in endings:
            check(options)
        else:
            with pytest.raises(ValueError, match=f"does not end like format {form}; name a file that ends in "):
                check(options)
    check(OutputOptions(format=form, output=tmp_path / "out.dat"))  # the ending of no format
    check(OutputOptions(format=form, output=tmp_path / "out"))


def test_a_device_may_have_any_name():
    options = OutputOptions(output=Path("/dev/null"))
    check(options)
    assert options.form == "text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_json": True, "format": "srt"}, "--json and --format srt name two formats; give one of them"),
        ({"output": "a.txt", "output_dir": "b"}, "--output and --output-dir were both given; give one of them"),
        ({"cut": "copy"}, "--cut copy needs --clips DIR or --reel FILE"),
    ],
)
def test_options_that_contradict_each_other_are_refused(refused, options, message):
    given = {"as_json": "--json", "output_dir": "--output-dir"}
    words = []
    for name, value in options.items():
        words += [given.get(name, f"--{name}"), *([] if value is True else [value])]
    assert refused("caption", "a.mp4", *words) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["caption", "--num-frames", 4, "--fps", 2],
            "--num-frames and --fps both say how many frames are taken; give one of them",
        ),
        (
            ["caption", "--window", 0, "--overlap", 1],
            "--window 0 makes one window of the video, which has no overlap; leave out --overlap",
        ),
        (
            ["caption", "--num-frames", 8, "--overlap", 1],
            "--num-frames without --window makes one window of the video, which has no overlap; leave out --overlap",
        ),
        (["caption", "--temperature", 0.5], "--temperature has an effect only with --sample; add it"),
        (["caption", "--top-p", 0.5], "--top-p has an effect only with --sample; add it"),
        (["caption", "--top-k", 5], "--top-k has an effect only with --sample; add it"),
        (["caption", "--length-penalty", 2], "--length-penalty has an effect only with --num-beams above 1; add it"),
        (
            ["caption", "--num-beams", 2, "--sample"],
            "--num-beams searches for the most likely answer and --sample draws one; give one of them",
        ),
        (["caption", "--repetition-penalty", 0], "repetition_penalty must be above 0, got 0.0; 1 is no penalty"),
        (
            ["caption", "--min-new-tokens", 9, "--max-new-tokens", 8],
            "min_new_tokens must be from 0 to max_new_tokens=8, got 9",
        ),
        (
            ["caption", "--plan", "-o", "a.json"],
            "--plan prints an estimate and writes no answer; leave out --output a.json",
        ),
        (
            ["caption", "--plan", "--output-dir", "x"],
            "--plan prints an estimate and writes no answer; leave out --output-dir x",
        ),
        (
            ["caption", "--plan", "--html", "a.html"],
            "--plan prints an estimate and writes no answer; leave out --html a.html",
        ),
        (["caption", "--plan", "--clips", "x"], "--plan prints an estimate and writes no answer; leave out --clips x"),
        (
            ["caption", "--plan", "--reel", "a.mp4"],
            "--plan prints an estimate and writes no answer; leave out --reel a.mp4",
        ),
        (["caption", "--plan", "--format", "srt"], "--plan prints text or JSON; leave out --format srt"),
        (
            ["ground", "x", "--all", "--best", 2],
            "--all and --best both say how many moments are returned; give one of them",
        ),
        (["ground", "x", "--plan", "--exit-status"], "--plan answers nothing; leave out --exit-status"),
        (
            ["caption", "--json", "-o", "a.parquet"],
            "-o a.parquet gets one result per video in its own format; leave out --json",
        ),
    ],
    ids=lambda value: " ".join(map(str, value[1:])) if isinstance(value, list) else "",
)
def test_conflicts_are_refused_before_the_video_is_opened(refused, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("timechat.cli.outputs._check_parquet", lambda: None)
    name, *options = words
    assert refused(name, "missing.mp4", *options) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--export-original", "a", "b", "--fresh"], "--export-original does not train; leave out --fresh"),
        (
            ["train", "--export-original", "a", "b", "--set", "a.b=1"],
            "--export-original does not train; leave out --set",
        ),
        (
            ["train", "a.yaml", "--fresh", "--accept-changed-recipe"],
            "--fresh starts anew, so no change is to be accepted; leave out --accept-changed-recipe",
        ),
        (["download", "--list", "x"], "--list downloads nothing; leave out CKPT_DIR"),
        (
            ["info", "nano", "--model", "x"],
            "--model says which model samples a video, but nano is a model; leave out --model",
        ),
        (["chat", "-"], "chat reads the questions from standard input; give the video as a file, not as -"),
        (
            ["watch", "rtsp://a/b", "x", "--follow"],
            "--follow waits for more data of a file; leave it out for an address and for standard input",
        ),
        (
            ["serve", "--no-auth", "--api-key", "12345678"],
            "--no-auth accepts requests without a key, but keys were given; leave out one of them",
        ),
        (["recipes", "-o", "x"], "-o FILE copies one recipe; name it: timechat recipes NAME -o FILE"),
        (["ask", "a.mp4"], "Missing argument 'QUESTION' (try --help)"),
        (["ground", "a.mp4"], "Missing argument 'QUERY' (try --help)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_conflicts_of_other_commands_are_refused(refused, words, message):
    assert refused(*words) == message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90.0), ("1:30", 90.0), ("01:30.5", 90.5), ("90:00", 5400.0), ("1:02:03", 3723.0)),
        *(("1:02:03.25", 3723.25), ("0:05", 5.0), (".5", 0.5), ("1e2", 100.0), ("-1", -1.0), (600.0, 600.0)),
    ],
)
def test_times_are_seconds_or_clock_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["1:60", "1:60:00", "1:2:3:4", "1m", "", "1,5", ":30", "1:", "nan", "-1:30", "1:-5"])
def test_other_texts_are_no_times(text):
    with pytest.raises(ValueError, match=r"^must be a time in seconds, m:ss or h:mm:ss$"):
        parse_time(text)


def test_a_time_may_have_a_minimum():
    assert time_from(0)("0:00") == 0.0
    with pytest.raises(ValueError, match=r"^must be a time of at least 0 s$"):
        time_from(0)("-0.5")


def test_a_wrong_time_is_named_with_its_option(refused):
    assert refused("caption", "a.mp4", "--start", "1:75") == (
        "Invalid value for '--start': must be a time in seconds, m:ss or h:mm:ss, got '1:75' (try --help)"
    )


def test_times_of_options_are_clock_times(run, short_clip):
    _, out, _ = run("info", short_clip, "--json")
    assert json.loads(out)["duration"] == 3.0
    status, out, _ = run(
        "caption", short_clip, "--plan", "--json", "--start", "0:01", "--end", "0:00:02", "--step", "0:00.5"
    )
    assert (status, json.loads(out)["frames"]) == (0, 2)


ANSWERS = [
    Answer("x", [Event(0, 1, "a\u2028b"), Event(2, 2, saliency=4.0)], video="a.mp4", notes=("n",)),
    Answer("y", task="grounding", found=False, score=0.25, video="b.mp4"),
]


def test_results_are_one_line_of_json_per_video(tmp_path):
    write_results(tmp_path / "out.jsonl", ANSWERS)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [answer.to_dict() for answer in ANSWERS]


def test_results_are_rows_of_a_parquet_file(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_results(tmp_path / "out.parquet", ANSWERS)
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["video"] for row in rows] == ["a.mp4", "b.mp4"]
    first = rows[0]["events"][0]
    assert (first["start"], first["end"], first["caption"], first["score"]) == (0.0, 1.0, "a\u2028b", None)
    assert [(event["score"], event["saliency"]) for event in rows[0]["events"]] == [(None, None), (None, 4.0)]
    assert (rows[1]["found"], rows[1]["score"], rows[1]["notes"]) == (False, 0.25, [])


def test_a_parquet_file_without_its_library_names_the_extra(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused("caption", "a.mp4", "-o", tmp_path / "a.parquet") == (
        '-o FILE.parquet needs pyarrow; install the extra "batch": pip install ".[batch]" in a checkout, or pip '
        'install "WHEEL[batch]"'
    )
