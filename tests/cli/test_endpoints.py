"""Models behind a server, in commands."""

import pytest

from tests.backbones.endpoint.stub import Reply, StubServer, answering
from timechat.backbones.endpoint.backbone import load_endpoint


@pytest.mark.parametrize("command", [["ask", "What happens?"], ["caption"]])
def test_endpoint_that_does_not_answer_is_one_line(refused, short_clip, monkeypatch, command):
    monkeypatch.setattr("timechat.pipeline.TimeChat.from_pretrained", lambda model, **_: load_endpoint(model))
    name, *query = command
    error = refused(name, short_clip, *query, "--model", "http://127.0.0.1:9/v1#tiny")
    assert error.startswith("http://127.0.0.1:9/v1 cannot be reached: ")
    assert error.rstrip().endswith("; check the address, and that the server runs")


def test_info_describes_how_a_model_of_a_server_reads_a_video(run, short_clip):
    with StubServer(Reply()) as server:
        status, out, _ = run("info", short_clip, "--model", f"{server.url}#tiny")
    assert (status, server.num_lists) == (0, 1)
    assert f"sampling  by {server.url}#tiny: " in out


def test_a_key_for_a_model_on_this_machine_is_refused(refused, short_clip):
    error = refused("caption", short_clip, "--api-key-env", "MY_KEY")
    assert error.strip() == "api_key_env MY_KEY is not an option of a model on this machine (nano); leave it out"


def test_a_long_video_costs_one_request_for_each_window(run, short_clip):
    with StubServer(answering("Nothing.")) as server:
        address = f"{server.url}#tiny"
        status, _, _ = run(
            "ask", short_clip, "What?", "--model", address, "--window", "0.5", "--overlap", "0", "--no-cache"
        )
        assert status == 0
        assert len(server.requests) > 4
        body = server.requests[0].body
    assert len({str(request.body["messages"]) for request in server.requests}) == len(server.requests)
    assert body["max_tokens"] == 512


def test_what_leaves_the_machine_is_said_once(run, short_clip, monkeypatch):
    note = "Frames of the video leave this machine."
    monkeypatch.setattr("timechat.backbones.endpoint.address.EndpointAddress.privacy_note", lambda *_, **__: note)
    with StubServer(answering("Nothing.")) as server:
        _, out, err = run("ask", short_clip, "What?", "--model", f"{server.url}#tiny", "--json", "--no-cache")
    assert err.count(note) == 1
    assert note in out
