"""The chat of the page."""

import json
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.serving.page.actions import (
    ANSWER_MS,
    JOBS,
    ask,
    expect,
    expect_time,
    open_film,
    open_requests,
    start_task,
    wait_for_replies,
)
from tests.serving.page.conftest import EDITED, LONG

TIMES = {
    "at 12.5 seconds": [12.5],
    "[0:12–0:20] and 1:02:03": [12.0, 3723.0],
    "0.5 - 5.0 seconds, a cross appears": [0.5],
    "in the 2, 4.5, 6 seconds": [2.0, 4.5, 6.0],
    "after 3s": [3.0],
}


OF_NO_TIME = "2 crosses in the 1990s, 16:9"


def test_an_answer_is_streamed_and_the_whole_conversation_is_sent(page, server):
    sent = []
    page.on("request", lambda asked: asked.url.endswith("/chat/completions") and sent.append(asked.post_data_json))
    open_film(page, server)
    ask(page, "What happens?")
    first = page.locator(".message.assistant .words").first
    expect(page.locator(".clear-chat")).to_be_visible(timeout=ANSWER_MS)
    answer = first.inner_text()
    assert answer
    ask(page, "And then?")
    expect(page.locator(".message.assistant")).to_have_count(2)
    expect(page.locator(".clear-chat")).to_be_visible(timeout=ANSWER_MS)
    assert [message["role"] for message in sent[1]["messages"]] == ["user", "assistant", "user"]
    assert sent[1]["stream"] is True
    assert sent[1]["messages"][0]["content"][0]["file"]["file_id"].startswith("film-")
    assert sent[1]["messages"][1]["content"].strip() == answer.strip()


def test_a_time_in_an_answer_seeks(page, server):
    words = "It starts at 12.5 seconds, <b>see</b> [0:20–0:25]."
    chunks = [{"choices": [{"delta": {"content": words}}]}]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route("**/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    open_film(page, server)
    ask(page, "When?")
    expect(page.locator(".message.assistant .words")).to_have_text(words)
    assert page.locator(".message.assistant b").count() == 0
    page.get_by_role("link", name="12.5 seconds").click()
    expect_time(page, 12.5)
    page.get_by_role("link", name="[0:20–0:25]").click()
    expect_time(page, 20)


def test_a_question_that_failed_can_be_asked_again(page, server):
    gone = [True]
    page.route("**/chat/completions", lambda route: route.abort() if gone else route.continue_())
    open_film(page, server)
    ask(page, "What happens?")
    expect(page.locator(".message.assistant")).to_contain_text("The server cannot be reached.")
    gone.clear()
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".clear-chat")).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator(".message.user .words")).to_have_text(["What happens?"])
    expect(page.get_by_role("button", name="Ask again")).to_have_count(0)


def test_a_video_deleted_in_another_tab_is_named(page, server, films, tmp_path):
    page.goto(server)
    page.locator("#file").set_input_files(shutil.copy(films.short, tmp_path / "gone.mp4"))
    expect(page.locator(".task").first).to_be_enabled()
    film = page.evaluate("new URLSearchParams(location.search).get('film')")
    page.request.delete(f"{server}/v1/files/{film}")
    ask(page, "What happens?")
    expect(page.locator(".message.assistant")).to_contain_text("“gone.mp4” was deleted from the server.")
    page.locator(".task[data-task=steps]").click()
    expect(page.locator(".toast.error")).to_contain_text("“gone.mp4” was deleted from the server.")


def test_a_reload_during_an_answer_keeps_the_question(page, server):
    page.route("**/chat/completions", lambda _: None)  # a model that never answers
    open_film(page, server)
    ask(page, "What happens?")
    expect(page.locator("#stop")).to_be_visible()
    page.reload()
    expect(page.locator(".message.user .words")).to_have_text(["What happens?"])
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()


def test_an_answer_can_be_stopped(page, server):
    page.route("**/chat/completions", lambda _: None)  # a model that never answers
    open_film(page, server)
    ask(page, "What happens?")
    page.locator("#stop").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".message.assistant")).to_have_count(0)


def test_a_result_of_another_video_opens_during_an_answer(page, server):
    open_film(page, server, LONG)
    start_task(page, "dense_caption")
    start_task(page, "steps")
    open_film(page, server)
    page.route("**/chat/completions", lambda _: None)  # a model that never answers
    ask(page, "What happens?")
    expect(page.locator("#stop")).to_be_visible()
    page.get_by_role("tab", name="Jobs").click()
    replies = open_requests(page, JOBS)
    page.locator(".job[data-task=steps] .job-open", has_text=LONG).first.click()
    expect(page.locator("#film-name")).to_have_text(LONG)
    expect(page.locator(".lane[data-task=dense_caption]")).to_have_count(1)
    wait_for_replies(page, replies)  # nothing that comes later selects another one
    expect(page.locator(".lane.is-selected")).to_have_attribute("data-task", "steps")
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()


def test_edits_of_an_answer_are_not_those_of_the_next(page, server):
    asked = []

    def reply(route) -> None:
        asked.append(route)
        event = {"start": len(asked), "end": len(asked) + 3, "caption": f"answer {len(asked)}", "score": None}
        answer = {"task": "ask", "question": "q", "text": "t", "events": [event], "notes": []}
        chunks = [{"choices": [{"delta": {"content": "words"}}]}, {"choices": [], "timechat": answer}]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/chat/completions", reply)
    open_film(page, server, EDITED)
    ask(page, "When?")
    bars = page.locator(".lane[data-task=ask] .bar")
    bars.first.click()
    page.get_by_role("tab", name="Events").click()
    page.locator(".editor textarea").fill("mine")
    page.locator(".editor textarea").press("Enter")
    expect(bars).to_have_text(["mine"])
    ask(page, "And then?")
    expect(bars).to_have_text(["answer 2"])


def test_times_are_found_in_the_text_of_the_model(page, server):
    page.goto(server)
    found = page.evaluate(
        """async (texts) => {
            const { splitTimes } = await import("/static/time.js");
            const timesOf = (text) => splitTimes(text, 4000).map((piece) => piece.time).filter((time) => time !== null);
            return texts.map(timesOf);
        }""",
        list(TIMES),
    )
    assert found == list(TIMES.values())
    short = page.evaluate(
        """async (text) => (await import("/static/time.js")).splitTimes(text, 60).map((piece) => piece.time)""",
        OF_NO_TIME,
    )
    assert short == [None]


@contextmanager
def dying_server() -> Iterator[str]:
    """A server that begins to stream an answer and is gone before its end; gives its address."""
    event = b'data: {"choices": [{"delta": {"content": "It begins"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(head + f"{len(event):x}\r\n".encode() + event + b"\r\n")
            is_read.wait(15)

    is_read = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        is_read.set()
        server.shutdown()


LOST = "The connection to the server was lost before the answer was complete."


def test_a_server_that_dies_during_an_answer_is_reported(page, server):
    open_film(page, server)
    words = page.locator(".message.assistant .words")
    with dying_server() as dying:
        page.route("**/chat/completions", lambda route: route.continue_(url=f"{dying}/v1/chat/completions"))
        ask(page, "What happens?")
        expect(words).to_have_text("It begins")
    expect(page.locator(".message.assistant .aside")).to_have_text(LOST)
    expect(words).to_have_text("It begins")
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()


def test_an_answer_without_its_end_is_not_taken_for_complete(page, server):
    body = 'data: {"choices": [{"delta": {"content": "It begins"}}]}\n\n'
    page.route("**/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    open_film(page, server)
    ask(page, "What happens?")
    expect(page.locator(".message.assistant .aside")).to_have_text(LOST)
