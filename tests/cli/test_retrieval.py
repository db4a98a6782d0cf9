"""What commands do with videos outside of the model's domain, and how much of a long video they read."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.search.conftest import ColorEncoder
from timechat import TimeChat


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Eight seconds of gray noise, which nano was not trained on, with red from 4 s to 8 s."""
    path = tmp_path_factory.mktemp("noise") / "noise.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(2))
        stream.width = stream.height = 96
        stream.pix_fmt = "bgr0"
        for i in range(16):
            pixels = np.repeat(rng.integers(0, 255, (96, 96, 1), np.uint8), 3, axis=2)
            pixels[:, :, 1:] //= 1 if i < 8 else 8
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained("nano", device="cpu")


@pytest.fixture(autouse=True)
def models(monkeypatch, nano) -> None:
    """Load the model once, and take an encoder of colors for sight."""
    monkeypatch.setattr(TimeChat, "from_pretrained", lambda *_, **__: nano)
    monkeypatch.setattr("timechat.pipeline.retrieving._loaded", {"sight": ColorEncoder()})


def test_a_real_video_is_searched_and_the_answer_says_so(run, noise):
    status, out, err = run("ground", noise, "red", "--json", "--threshold", 0)
    answer = json.loads(out)
    assert status == 0
    assert (answer["by"], answer["read_share"], answer["model"], answer["found"]) == ("search", 1.0, "colors", True)
    assert answer["events"][0]["start"] == pytest.approx(4, abs=0.6)
    assert answer["events"][0]["score"] == answer["score"]
    assert err.startswith("note: answered by the search of colors, not by nano: this video is unlike the videos")


def test_what_the_search_does_not_find_is_no_error(run, noise):
    status, out, _ = run("ground", noise, "green", "--json")
    assert (status, json.loads(out)["found"], json.loads(out)["events"]) == (0, False, [])
    assert run("ground", noise, "green", "--exit-status")[0] == 1


@pytest.mark.parametrize(("by", "model"), [("model", "nano"), ("search", "colors")])
def test_the_user_chooses_who_answers(run, noise, by, model):
    _, out, _ = run("ground", noise, "red", "--by", by, "--json")
    assert (json.loads(out)["by"], json.loads(out)["model"]) == (by, model)


@pytest.mark.parametrize(
    "command",
    [["caption"], ["ask", "What?"], ["highlights"], ["steps"], ["summarize"], ["transcribe", "--guess"], ["chat"]],
)
def test_other_commands_refuse_a_real_video(refused, noise, command, monkeypatch):
    monkeypatch.setattr("timechat.cli.answers._TaskCommand.is_known_speech", lambda *_: False)
    name, *words = command
    assert refused(name, noise, *words) == (
        f"{noise}: nano was trained only on synthetic videos of coloured shapes, and this video is unlike them; "
        "search it with `timechat search`, take another model with --model, or add --force to get a guess"
    )


def test_a_real_video_is_answered_with_force(run, noise):
    status, out, err = run("caption", noise, "--force", "--json", "--max-new-tokens", 4)
    assert (status, json.loads(out)["by"]) == (0, "model")
    assert "the answer is a guess" in err


def test_an_estimate_needs_no_force(run, noise):
    assert run("caption", noise, "--plan")[0] == 0


def test_a_real_video_among_others_is_reported(run, refused, noise, drawn_film, tmp_path):
    status, _, err = run("caption", noise, drawn_film, "-o", tmp_path / "out.jsonl", "--max-new-tokens", 4)
    assert status == 1
    assert "this video is unlike them" in err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_share_of_a_long_video_is_read(run, short_clip):
    arguments = ("--window", 0.6, "--overlap", 0, "--by", "model", "--json")
    answer = json.loads(run("ground", short_clip, "red", "--read", 0.25, *arguments)[1])
    assert answer["read_share"] == pytest.approx(0.2, abs=0.05)
    assert answer["notes"][0].endswith("of 5 windows that colors ranks first")
    assert json.loads(run("ground", short_clip, "red", "--read", "all", *arguments)[1])["read_share"] == 1.0


@pytest.mark.parametrize("read", ["0", "2", "half"])
def test_a_share_outside_of_the_video_is_refused(refused, short_clip, read):
    assert f"such as 0.1, or all, got {read!r}" in refused("ask", short_clip, "red", "--read", read)
