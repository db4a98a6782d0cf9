"""The command, as a user calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.cli.conftest import run_command as run
from timechat import __version__
from timechat.cli import main

FAST = ["--max-new-tokens", "4", "--num-frames", "4"]


@pytest.fixture
def clip(drawn_film: Path) -> Path:
    return drawn_film


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Call the command with bad input; returns its one line."""
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("timechat: ")
    assert err.count("\n") == 1
    return err


def test_ask_prints_the_answer_to_stdout_and_notes_to_stderr(capsys, clip):
    status, out, err = run(capsys, "ask", clip, "What happens?", *FAST)
    assert status == 0
    assert out.endswith("\n")
    assert err == ""  # nothing to note


def test_json_has_the_fixed_keys(capsys, clip):
    _, out, _ = run(capsys, "ask", clip, "What happens?", "--json", *FAST)
    answer = json.loads(out)
    assert {"video", "duration", "task", "text", "events", "model", "notes"} <= answer.keys()
    assert answer["video"] == str(clip)
    assert answer["task"] == "ask"
    assert answer["notes"] == []


@pytest.mark.parametrize(
    ("command", "task"),
    [
        (["caption"], "dense_caption"),
        (["ground", "a light"], "grounding"),
        (["highlights"], "highlights"),
        (["highlights", "a light"], "highlights"),
        (["steps"], "steps"),
        (["summarize"], "summary"),
        (["transcribe", "--guess"], "transcribe"),
    ],
)
def test_every_task_has_its_command(capsys, clip, command, task):
    name, *words = command
    status, out, _ = run(capsys, name, clip, *words, "--json", *FAST)
    assert status == 0
    assert json.loads(out)["task"] == task


@pytest.mark.parametrize(
    ("form", "start"),
    [("srt", ""), ("vtt", "WEBVTT"), ("csv", "start,end"), ("jsonl", ""), ("html", "<!doctype html>")],
)
def test_every_format_is_written(capsys, clip, form, start):
    status, out, _ = run(capsys, "caption", clip, "--format", form, *FAST)
    assert status == 0
    assert out.startswith(start)


def test_output_and_page_are_written_to_files(capsys, clip, tmp_path):
    page, table = tmp_path / "answer.html", tmp_path / "events.csv"
    status, out, _ = run(capsys, "caption", clip, "--format", "csv", "-o", table, "--html", page, *FAST)
    assert (status, out) == (0, "")
    assert table.read_text().startswith("start,end,caption,score")
    assert "<video" in page.read_text()


def test_places_that_cannot_be_written_are_refused_before_any_work(capsys, clip, tmp_path):
    for options, says in (
        (["--html", tmp_path / "none" / "p.html"], "there is no folder"),
        (["-o", tmp_path], "is a folder"),
        (["-o", clip], "is the video itself"),
        (["-o", tmp_path / "x", "--html", tmp_path / "x"], "both name"),
    ):
        assert says in refused(capsys, "ask", clip, "x", "--model", "./nowhere", *options)


def test_a_video_can_come_through_a_pipe(clip):
    command = f"cat '{clip}' | '{sys.executable}' -m timechat ask /dev/stdin x --json {' '.join(FAST)}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert json.loads(done.stdout)["video"] == "/dev/stdin"


def test_quiet_keeps_stderr_empty(capsys, clip):
    assert run(capsys, "ask", clip, "What?", "--quiet", *FAST)[2] == ""


def test_the_converted_model_answers(capsys, clip, converted):
    status, out, err = run(capsys, "ask", clip, "When?", "--model", converted, "--json", *FAST)
    assert status == 0
    assert json.loads(out)["model"] == str(converted)
    assert "untrained" not in err


def test_chat_remembers_what_was_said(capsys, clip, monkeypatch):
    questions = iter(["What happens?", "and then?", ""])
    monkeypatch.setattr("builtins.input", lambda: next(questions))
    status, out, err = run(capsys, "chat", clip, *FAST)
    assert status == 0
    assert out.count("\n") == 2
    assert "4 frames" in err


def test_chat_drops_the_oldest_question_of_a_long_conversation(capsys, clip, monkeypatch):
    questions = iter([*["What happens, in many words? " * 220] * 3, "what is <ImageHere>?", ""])
    monkeypatch.setattr("builtins.input", lambda: next(questions))
    status, _, err = run(capsys, "chat", clip, *FAST)
    assert status == 0
    assert "its oldest question is forgotten" in err
    assert "<ImageHere> exactly once" in err


def test_info_lists_the_parts_of_a_model(capsys, converted):
    _, out, _ = run(capsys, "info", converted, "--json")
    facts = json.loads(out)
    assert [part["name"] for part in facts["parts"]] == [
        "vision tower",
        "image Q-Former",
        "video Q-Former",
        "language model",
        "LoRA adapter",
    ]
    assert facts["window_size"] == 32
    assert any("non-commercial" in terms for terms in facts["terms"])
    assert "LoRA adapter" in run(capsys, "info", converted)[1]


def test_info_describes_a_video(capsys, clip):
    _, out, _ = run(capsys, "info", clip, "--json")
    assert json.loads(out)["codec"] == "h264"
    assert "h264" in run(capsys, "info", clip)[1]


def test_convert_prints_the_folder_and_reports_on_stderr(capsys, tmp_path):
    from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint

    (tmp_path / "config.json").write_text(json.dumps(GOLDEN_OVERRIDES))
    options = [
        part
        for name, path in golden_checkpoint(timechat="timechat_7b.pth").items()
        for part in (f"--{name.replace('_', '-')}", path)
    ]
    status, out, err = run(capsys, "convert", *options, "--config", tmp_path / "config.json", tmp_path / "model")
    assert (status, out) == (0, f"{tmp_path / 'model'}\n")
    assert "timechat_7b.pth: 187 keys used" in err
    assert "ignored blocks.3" in err


# What must not work, and says so in one line with exit status 2.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask"], "Missing argument 'VIDEO'"),
        (["ask", "nowhere.mp4", "x"], "nowhere.mp4"),
        (["ask", ".", "x"], "folder"),
        (["nothing"], "No such command 'nothing'"),
        (["--nothing"], "No such option"),
        (["convert", "out"], "--vit"),
        (["convert", "out", "--from", "nowhere"], "nowhere is not a folder"),
        (["convert", "out", "--timechat", "a", "--video-llama", "b"], "give one of them"),
        (["convert", "out", "--config", "nowhere.json"], "nowhere.json does not exist"),
        (["info", "."], "no config.json"),
    ],
)
def test_bad_input_gets_one_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_video_is_probed_before_any_model_is_loaded(capsys, tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "empty.mp4" in refused(capsys, "ask", tmp_path / "empty.mp4", "x", "--model", "./no-such-model")


def test_options_that_make_no_sense_get_one_line(capsys, clip):
    assert "no prompt preset" in refused(capsys, "ask", clip, "x", "--preset", "mine", "--model", "./nowhere")
    assert "temperature" in refused(capsys, "ask", clip, "x", "--sample", "--temperature", 0, "--model", "./nowhere")
    assert "grounding needs a query" in refused(capsys, "ground", clip, " ")
    assert "there is no model './nowhere'" in refused(capsys, "ask", clip, "x", "--model", "./nowhere")
    assert "no LoRA adapter" in refused(capsys, "ask", clip, "x", "--lora-scale", "0.5")


def test_a_video_that_takes_too_long_is_given_up(capsys, clip):
    assert "not read within" in refused(capsys, "ask", clip, "x", "--timeout", "0", "--model", "./nowhere")


def test_debug_shows_where_an_error_comes_from(capsys, monkeypatch):
    monkeypatch.setenv("TIMECHAT_DEBUG", "")
    sys.argv = ["timechat", "--debug", "ask", "nowhere.mp4", "x"]
    with pytest.raises(Exception, match=r"nowhere\.mp4"):
        main()


# The process as a whole.


def timechat(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "timechat", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_and_import_load_no_torch():
    code = "import sys, timechat, timechat.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_and_version_answer():
    assert "highlights" in timechat("--help").stdout
    assert timechat("--version").stdout == f"timechat {__version__}\n"


def test_ctrl_c_ends_with_130_and_leaves_nothing(clip, tmp_path):
    pipe, out = tmp_path / "film", tmp_path / "out.txt"
    os.mkfifo(pipe)
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - shells let background jobs ignore it
    command = [sys.executable, "-m", "timechat", "caption", str(pipe), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    with pipe.open("wb", buffering=0) as film:  # opens when the command has begun to read, however busy the machine
        film.write(clip.read_bytes()[:1000])  # and now it waits for the rest
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("is_stdin", [False, True])
def test_a_pipe_without_data_is_given_up_in_time(is_stdin, capsys, tmp_path, monkeypatch):
    if is_stdin:
        reader, writer = os.pipe()
        stdin = os.fdopen(reader)
        monkeypatch.setattr(sys, "stdin", stdin)
    else:
        os.mkfifo(tmp_path / "f.mp4")
    began = time.monotonic()
    status, _, err = run(capsys, "caption", "-" if is_stdin else tmp_path / "f.mp4", "--timeout", "0.2")
    assert (status, "not read within 0.2 s" in err) == (2, True)
    assert time.monotonic() - began < 20
    if is_stdin:
        stdin.close()
        os.close(writer)


def test_results_go_to_a_pipe_that_may_close_early(capsys, clip, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    out = os.fdopen(writer, "w")
    with suppress(BrokenPipeError), closing(out), monkeypatch.context() as patch:  # the rest cannot be written
        patch.setattr(sys, "stdout", out)
        status, _, err = run(capsys, "caption", clip, "--format", "json", *FAST)
    assert (status, err) == (1, "")


def test_the_first_lines_of_a_command_can_be_read():
    command = f"'{sys.executable}' -m timechat recipes eval_drawn | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("# The built-in model on synthetic videos")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------------ long videos


def test_a_plan_is_printed_instead_of_an_answer(capsys, clip):
    status, out, _ = run(capsys, "caption", clip, "--plan", "--window", 10, "--overlap", 2)
    assert status == 0
    assert re.match(r"\d+ windows, \d+ frames, one every 0.5 s, about (\d+ s|\d+ min), [\d.]+ GB of memory\n", out)
    _, out, _ = run(capsys, "caption", clip, "--plan", "--json")
    assert json.loads(out)["windows"] == 1


def test_a_long_job_says_first_what_it_takes(capsys, clip):
    _, _, err = run(capsys, "ground", clip, "the blue star blinks", "--window", 5, "--overlap", 1, "--end", 18)
    assert err.startswith("plan: ")
    _, _, err = run(
        capsys, "ground", clip, "the blue star blinks", "--window", 5, "--overlap", 1, "--end", 18, "--quiet"
    )
    assert err == ""


def test_moments_have_scores_and_what_is_not_there_is_not_made_up(capsys, clip):
    _, out, _ = run(capsys, "ground", clip, "the blue star blinks", "--json", "--all", "--threshold", 0)
    answer = json.loads(out)
    assert answer["found"] is True
    assert answer["score"] == max(event["score"] for event in answer["events"])
    assert answer["step"] == pytest.approx(0.5)
    assert answer["timings"]["encode"] > 0
    _, out, _ = run(capsys, "ground", clip, "the blue star blinks", "--threshold", 1)
    assert re.fullmatch(r"not found: the blue star blinks \(score 0\.\d\d\)\n", out)


def test_free_answers_need_not_be_in_form(capsys, clip):
    for options in ([], ["--free"]):
        status, out, _ = run(capsys, "ground", clip, "the blue star blinks", "--json", *options)
        assert status == 0
        assert json.loads(out)["text"].startswith("The given query happens in")


def test_a_transcript_is_shown_with_the_question(capsys, clip, tmp_path):
    transcript = tmp_path / "film.srt"
    transcript.write_text("1\n00:00:01,000 --> 00:00:03,000\nNow the blue star blinks.\n")
    status, out, _ = run(capsys, "caption", clip, "--transcript", transcript, "--json", "--max-new-tokens", 48)
    assert status == 0
    assert json.loads(out)["events"]
    (tmp_path / "bad.srt").write_text("1\n00:00:99 --> nothing\nx\n")
    assert "bad.srt" in refused(capsys, "caption", clip, "--transcript", tmp_path / "bad.srt")
    both = ("--transcript", transcript, "--asr", "small")
    assert "give one of them" in refused(capsys, "caption", clip, *both)


def test_sentences_cite_and_are_verified(capsys, clip):
    _, out, _ = run(capsys, "summarize", clip, "--verify", "--json")
    answer = json.loads(out)
    assert re.search(r"\[\d:\d\d–\d:\d\d", answer["text"])
    assert all(event["score"] is not None for event in answer["events"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "10", "--overlap", "6"], "overlap must be at most half a window, got 6 of 10 seconds"),
        (["--overlap", "31"], "overlap must be at most half a window, got 31 of 60 seconds"),
        (["--step", "1", "--fps", "2"], "step and fps both say how dense the frames are"),
        (["--step", "0"], "step must be seconds above 0"),
        (["--reel", "film.txt"], "a cut (exact) ends in one of"),
    ],
)
def test_invalid_options_of_windows_are_refused(capsys, clip, options, message):
    assert message in refused(capsys, "ground", clip, "the blue star blinks", *options)


def test_moments_are_cut_out_and_joined(capsys, clip, tmp_path):
    import av

    arguments = ("ground", clip, "the blue star blinks", "--threshold", 0)
    status, _, err = run(capsys, *arguments, "--clips", tmp_path / "clips", "--reel", tmp_path / "reel.mp4")
    assert status == 0
    (moment,) = (tmp_path / "clips").iterdir()
    assert err.count("note: ") >= 2
    with av.open(str(moment)) as cut, av.open(str(tmp_path / "reel.mp4")) as reel:
        assert cut.duration == pytest.approx(reel.duration, abs=100_000)
    status, _, err = run(capsys, *arguments, "--clips", tmp_path / "copies", "--cut", "copy")
    assert status == 0
    assert "copied" in err


def test_an_answer_that_does_not_fit_a_form_is_not_lost(capsys, clip):
    status, out, err = run(capsys, "ground", clip, "the blue star blinks", "--threshold", 0, "--format", "youtube")
    assert (status, out) == (2, "")
    assert "the blue star blinks (score " in err
    assert "YouTube takes 3 chapters or more" in err
