"""Models behind a server, in commands."""

import pytest

from tests.backbones.endpoint.stub import Reply, StubServer
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
