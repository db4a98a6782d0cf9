"""The client against a server on this machine that fails in every way."""

import logging
import threading
import traceback
from concurrent.futures import CancelledError
from email.utils import formatdate
from time import perf_counter

import pytest

from tests.backbones.endpoint.conftest import Connect
from tests.backbones.endpoint.stub import SECRET, Reply, StubServer, answering, chunks, completion, refusal, streaming
from timechat.backbones.endpoint.address import ApiKey, EndpointAddress
from timechat.backbones.endpoint.client import EndpointClient, ListedModel
from timechat.backbones.endpoint.limits import RequestLimits
from timechat.errors import EndpointError

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Is it?"}]}


@pytest.fixture(autouse=True)
def _longest_waits(monkeypatch):
    monkeypatch.setattr("timechat.backbones.endpoint.client.random.uniform", lambda _low, high: high)


def fails(connected, body=BODY) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        connected.client.post(body)
    return caught.value


def test_request_has_key_and_body_and_gets_the_response(connect: Connect):
    connected = connect(answering())
    assert connected.client.post(BODY) == completion()
    (request,) = connected.server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == BODY
    assert request.headers["Authorization"] == f"Bearer {SECRET}"
    assert connected.waits == []


def test_without_key_no_authorization_is_sent(connect: Connect):
    connected = connect(answering(), key=None)
    connected.client.post(BODY)
    assert "Authorization" not in connected.server.requests[0].headers


# ------------------------------------------------------------------------------------------------ retries


def test_retry_waits_as_long_as_the_server_asks(connect: Connect):
    busy = refusal("slow down", 429)
    connected = connect(
        Reply(429, busy.body, {"Retry-After": "3"}),
        Reply(429, busy.body, {"retry-after-ms": "250"}),
        Reply(503, b"", {"Retry-After": formatdate(usegmt=True)}),
        answering(),
    )
    assert connected.client.post(BODY) == completion()
    assert connected.waits == [3.0, 0.25, 0.0]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_temporary_statuses_are_retried_after_longer_waits(connect: Connect, status):
    connected = connect(Reply(status), Reply(status), Reply(status), answering())
    assert connected.client.post(BODY) == completion()
    assert connected.waits == [0.5, 1.0, 2.0]


def test_error_after_last_retry_has_words_of_the_server(connect: Connect):
    connected = connect(refusal("out of memory", 500), limits=RequestLimits(retries=2))
    error = fails(connected)
    assert (error.reason, error.detail) == ("failed", "out of memory")
    assert str(error) == f"{connected.address.base_url} answered with status 500: out of memory"
    assert len(connected.server.requests) == 3


def test_wait_beyond_the_time_limit_is_refused_at_once(connect: Connect):
    connected = connect(Reply(429, b"{}", {"Retry-After": "3600"}), limits=RequestLimits(timeout=60))
    assert fails(connected).reason == "failed"
    assert connected.waits == []


def test_missing_quota_is_not_retried(connect: Connect):
    connected = connect(refusal("You exceeded your current quota", 429, code="insufficient_quota"))
    assert fails(connected).detail == "insufficient_quota: You exceeded your current quota"
    assert connected.waits == []


def test_broken_connection_is_retried(connect: Connect):
    connected = connect(Reply(body=b'{"choi', cuts=True), answering())
    assert connected.client.post(BODY) == completion()
    assert connected.waits == [0.5]


def test_dead_server_is_named_without_retries():
    with StubServer(answering()) as server:
        url = server.url
    with EndpointClient(EndpointAddress.parse(f"{url}#tiny")) as client, pytest.raises(EndpointError) as caught:
        client.post(BODY)
    assert caught.value.reason == "unreachable"
    assert str(caught.value) == (
        f"{url} cannot be reached: All connection attempts failed; check the address, and that the server runs"
    )


def test_server_that_answered_before_is_waited_for(connect: Connect):
    connected = connect(Reply(body=completion(), headers={"Connection": "close"}))
    connected.client.post(BODY)
    connected.server.__exit__()
    assert fails(connected).reason == "unreachable"
    assert connected.waits == [0.5, 1.0, 2.0, 4.0, 8.0]


# ---------------------------------------------------------------------------------- time, number, cancellation


def test_hanging_server_ends_at_the_time_limit(connect: Connect):
    connected = connect(Reply(hangs=True), limits=RequestLimits(timeout=0.05))
    began = perf_counter()
    error = fails(connected)
    assert error.reason == "timeout"
    assert "gave no complete answer within 0.05 s" in str(error)
    assert perf_counter() - began < 5


def test_check_cancels_a_request_that_waits(connect: Connect):
    connected = connect(Reply(hangs=True), answering(), limits=RequestLimits(max_concurrent=1))

    def check():
        if connected.server.requests:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connected.client.post(BODY, check)
    assert connected.client.post(BODY) == completion()  # its place is free again


def test_no_more_requests_at_once_than_allowed(connect: Connect):
    go = threading.Event()

    def answer(_body):
        go.wait(5)
        return answering()

    connected = connect(answer, limits=RequestLimits(max_concurrent=2))
    threads = [threading.Thread(target=connected.client.post, args=(BODY,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert connected.server.wait_for_requests(2)
    assert not connected.server.wait_for_requests(3, timeout=0.05)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(connected.server.requests) == 5


def test_two_clients_ask_one_server_at_once(connect: Connect):
    meeting = threading.Barrier(2)

    def answer(body):
        meeting.wait(5)
        return answering(body["messages"][0]["content"])

    connected = connect(answer)
    found = {}
    with EndpointClient(connected.address) as other:

        def ask(client, word):
            body = {"model": "tiny", "messages": [{"role": "user", "content": word}]}
            found[word] = client.post(body)["choices"][0]["message"]["content"]

        thread = threading.Thread(target=ask, args=(other, "second"))
        thread.start()
        ask(connected.client, "first")
        thread.join(10)
    assert found == {"first": "first", "second": "second"}


def test_closing_cancels_the_requests_that_wait(connect: Connect):
    connected = connect(Reply(hangs=True))
    caught = []

    def ask():
        try:
            connected.client.post(BODY)
        except CancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert connected.server.wait_for_requests(1)
    connected.client.close()
    thread.join(5)
    assert len(caught) == 1


def test_closed_client_refuses_requests(connect: Connect):
    connected = connect(answering())
    connected.client.post(BODY)
    connected.client.close()
    with pytest.raises(EndpointError, match="the connection to the server was closed"):
        connected.client.post(BODY)


# ------------------------------------------------------------------------------------------------- errors


def test_refused_key_is_named_by_its_variable(connect: Connect):
    connected = connect(refusal(f"Incorrect API key provided: {SECRET}", 401))
    error = fails(connected)
    assert error.reason == "bad_key"
    assert str(error) == (
        f"{connected.address.base_url} refuses the key in the environment variable OPENAI_API_KEY (status 401)"
    )


def test_missing_key_is_asked_for(connect: Connect):
    connected = connect(Reply(401), key=None)
    assert "needs a key; set the environment variable OPENAI_API_KEY (status 401)" in str(fails(connected))


@pytest.mark.parametrize(
    "reply",
    [
        refusal("The model `big` does not exist.", 404),
        refusal("model 'big' not found", 404),
        refusal("nothing here", 404, code="model_not_found"),
        Reply(400, {"detail": "unknown model: big"}),
    ],
)
def test_unknown_model_names_those_of_the_server(connect: Connect, reply):
    connected = connect(reply, models=("small", "tiny"))
    error = fails(connected, {**BODY, "model": "big"})
    assert error.reason == "unknown_model"
    assert str(error) == f"{connected.address.base_url} does not know the model 'big'; it has small, tiny"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(404, b"<html>not found</html>"), "it has no such address (status 404); the address usually ends in /v1"),
        (Reply(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}), "was expected, got text/html"),
        (Reply(body=b"[1]"), "a JSON object was expected, got application/json"),
        (
            Reply(307, headers={"Location": "https://other.example/v1/chat?key=1"}),
            "it redirects to https://other.example/v1/chat; give the final address",
        ),
    ],
)
def test_other_protocols_are_named(connect: Connect, reply, words):
    connected = connect(reply)
    error = fails(connected)
    assert error.reason == "bad_response"
    assert words in str(error)
    assert len(connected.server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_key_does_not_follow_a_redirect(connect: Connect, status):
    other = connect(answering())
    connected = connect(Reply(status, headers={"Location": f"{other.address.base_url}/chat/completions"}))
    assert fails(connected).reason == "bad_response"
    assert other.server.requests == []


def test_proxy_gets_nothing_that_stays_on_this_machine(connect: Connect, monkeypatch):
    proxy = connect(answering())
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.address.base_url.removesuffix("/v1"))
    connected = connect(answering())
    connected.client.post(BODY)
    assert (len(connected.server.requests), len(proxy.server.requests)) == (1, 0)


def test_forbidden_request_has_the_words_of_the_server(connect: Connect):
    assert str(fails(connect(refusal("Country not supported", 403)))).endswith("(status 403): Country not supported")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(413, b"<html>too large</html>"),
        refusal("This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."),
        refusal("max_completion_tokens=5000 cannot be greater than max_model_len=2048."),
        refusal("At most 8 image(s) may be provided in one prompt."),
        refusal("the request exceeds the available context size", code="exceed_context_size_error"),
    ],
)
def test_request_that_is_too_large_has_its_own_reason(connect: Connect, reply):
    assert fails(connect(reply)).reason == "too_large"


def test_other_refusals_have_field_and_words(connect: Connect):
    detail = [{"loc": ["body", "seed"], "msg": "must be positive", "input": {"guided_regex": "x"}}]
    error = fails(connect(Reply(422, {"detail": detail})))
    assert (error.reason, error.detail) == ("refused", "seed: must be positive")


def test_error_in_a_successful_response_is_an_error(connect: Connect):
    error = fails(connect(Reply(body={"error": {"message": "upstream is down", "code": 502}})))
    assert (error.reason, error.detail) == ("failed", "upstream is down")


def test_key_and_pictures_are_in_no_output(connect: Connect, caplog):
    caplog.set_level(logging.DEBUG)
    words = f"Authorization: Bearer {SECRET}\nwith data:image/jpeg;base64,{'A' * 400} and sk-ve***89 \x1b[31m"
    replies = [
        Reply(500, words.encode()),
        refusal(words),
        refusal(words, 401),
        refusal(f"model {SECRET} not found", 404),
    ]
    texts = []
    for reply in replies:
        connected = connect(reply, models=(SECRET,), limits=RequestLimits(retries=0))
        error = fails(connected)
        texts += [str(error), repr(error), error.detail, *traceback.format_exception(error)]
        texts += [repr(connected.client), str(connected.address), repr(connected.client.failures)]
    connected.server.__exit__()
    texts += [str(fails(connected)), caplog.text, repr(ApiKey("KEY", SECRET))]
    assert "/v1/chat/completions" in caplog.text
    for text in texts:
        assert SECRET not in text
        assert "sk-ve" not in text
        assert "AAAA" not in text
        assert "\x1b" not in text
    assert "Authorization: Bearer … with data:… and … \\x1b[31m" in texts[0]


# ------------------------------------------------------------------------------------------------- models


def test_only_model_of_a_server_is_asked(connect: Connect):
    connected = connect(answering(), model=None)
    assert connected.client.model() == "tiny"
    assert connected.client.model() == "tiny"
    assert connected.server.num_lists == 1


def test_one_of_several_models_must_be_named(connect: Connect):
    connected = connect(answering(), model=None, models=("a", "b"))
    with pytest.raises(EndpointError) as caught:
        connected.client.model()
    url = connected.address.base_url
    assert str(caught.value) == f"{url} has 2 models (a, b); name one in the address: {url}#MODEL"


def test_models_are_listed_with_their_context(connect: Connect, monkeypatch):
    connected = connect(answering(), models=("a",))
    assert connected.client.list_models() == (ListedModel("a"),)

    async def listed(*_):
        return {"data": [{"id": "a", "max_model_len": 4096}, {"id": 3}, "b"]}

    monkeypatch.setattr(connected.client, "_send", listed)
    assert connected.client.list_models() == (ListedModel("a", 4096),)


# ------------------------------------------------------------------------------------------------- streams


def texts_of(parts):
    return [choice["delta"].get("content") for part in parts for choice in part["choices"]]


def test_stream_gives_the_parts_in_order(connect: Connect):
    connected = connect(streaming(chunks("A", "B\u2028C")))
    assert texts_of(connected.client.stream(BODY)) == ["A", "B\u2028C", None]
    assert connected.server.requests[0].body == {**BODY, "stream": True}


def test_stream_that_fails_before_its_first_part_is_repeated(connect: Connect):
    connected = connect(Reply(500), streaming([], done=False), streaming(chunks("A")))
    assert texts_of(connected.client.stream(BODY)) == ["A", None]
    assert connected.waits == [0.5, 1.0]


@pytest.mark.parametrize("cuts", [True, False])
def test_stream_that_is_cut_is_an_error(connect: Connect, cuts):
    connected = connect(streaming(chunks("A", "B", finish=None), done=False, cuts=cuts))
    parts = connected.client.stream(BODY)
    found = [next(parts), next(parts)]
    with pytest.raises(EndpointError, match="stopped in the middle of an answer; try again") as caught:
        next(parts)
    assert texts_of(found) == ["A", "B"]
    assert caught.value.reason == "interrupted"


def test_stream_that_is_cut_after_its_end_is_complete(connect: Connect):
    connected = connect(streaming(chunks("A"), done=False, cuts=True))
    assert texts_of(connected.client.stream(BODY)) == ["A", None]


def test_error_within_a_stream_is_an_error(connect: Connect):
    connected = connect(streaming([*chunks("A", finish=None), {"error": {"message": "engine died"}}]))
    parts = connected.client.stream(BODY)
    next(parts)
    with pytest.raises(EndpointError, match="answered with an error: engine died"):
        next(parts)


def test_server_that_does_not_stream_gives_one_part(connect: Connect):
    assert list(connect(answering()).client.stream(BODY)) == [completion()]


def test_stream_is_cancelled_by_its_reader(connect: Connect):
    connected = connect(Reply(hangs=True), answering(), limits=RequestLimits(max_concurrent=1))

    def check():
        if connected.server.requests:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(connected.client.stream(BODY, check))
    assert connected.client.post(BODY) == completion()


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_concurrent must be at least 1, got 0"):
        RequestLimits(max_concurrent=0)
    with pytest.raises(ValueError, match="retries must be at least 0, got -1"):
        RequestLimits(retries=-1)
    with pytest.raises(ValueError, match=r"time limits must be above 0 s, got 0 and 10\.0"):
        RequestLimits(timeout=0)
