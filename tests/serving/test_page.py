"""The page of `timechat serve`, in a browser and against the server itself."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clips import RECIPES, draw_clip

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
)
expect = sync_api.expect
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"the page is tested in Chromium: no {CHROMIUM}")

SERVE = [sys.executable, "-m", "timechat", "serve"]
READY_SECONDS = 300
ANSWER_MS = 60_000
SHORT, LONG, EDITED, UNPLAYABLE = "short.mp4", "long.mp4", "edited.mp4", "unplayable.avi"
TIGHT = 0.15
"""Tolerance of a seek in seconds: browsers seek to a frame."""


# ---------------------------------------------------------------------------------------------------- a server


@dataclass(frozen=True)
class Films:
    """Synthetic videos: one of half a minute, twice, one of two minutes, and one that no browser plays."""

    folder: Path
    short: Path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    drawn, library = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("library")
    for name, options in ((SHORT, []), (LONG, ["--minutes", "2"])):
        command = [sys.executable, "-m", "timechat", "data", "draw", drawn / name, "--clips", "1", "--seed", "3"]
        subprocess.run([*command, *options, "--workers", "1", "--quiet"], check=True, capture_output=True)
        shutil.copy(next((drawn / name / "videos").glob("*.mp4")), library / name)
    shutil.copy(library / SHORT, library / EDITED)  # nothing is asked about this one: its events are made by hand
    draw_clip(RECIPES["MPEG-4 in AVI, B-frames without times"], library / UNPLAYABLE)
    return Films(library, library / SHORT)


def serve(*options: str | Path) -> Iterator[str]:
    """Start a server, give its address, and stop it."""
    environment = {**os.environ, "TIMECHAT_CACHE": "", "OMP_NUM_THREADS": "1"}
    command = [*SERVE, "--port", "0", "--model", "nano", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        timer = threading.Timer(READY_SECONDS, process.kill)
        timer.start()
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"timechat serve: (http://\S+)", line):
                    timer.cancel()
                    threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits to write
                    yield found[1].rstrip("/")
                    return
            pytest.fail("the server did not start:\n" + "".join(said))
        finally:
            timer.cancel()
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def server(films: Films, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve("--allow", films.folder, "--data", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "sync_api.Browser") -> Iterator["sync_api.Page"]:
    """A new window; at the end of the test it must have broken no rule of its security policy."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(15_000)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda message: "Content Security Policy" in message.text and broken.append(message.text))
    yield page
    context.close()
    assert broken == []


def open_film(page: "sync_api.Page", server: str, name: str = SHORT) -> None:
    page.goto(server)
    page.get_by_role("region", name="Library").locator(".film-open", has_text=name).click()
    expect(page.locator("#film-name")).to_have_text(name)
    if name != UNPLAYABLE:
        wait_until(page, "document.getElementById('video').readyState >= 1")


def start_task(page: "sync_api.Page", task: str) -> "sync_api.Locator":
    """Start a task that needs no query, wait for its job to succeed and return its lane.

    The server keeps the jobs of other tests, so that a lane of the same task may be there before.
    """
    earlier = finished_jobs(page, task)
    page.locator(f".task[data-task={task}]").click()
    deadline = time.monotonic() + ANSWER_MS / 1000
    while finished_jobs(page, task) <= earlier:
        assert time.monotonic() < deadline, f"{task} did not succeed"
        page.wait_for_timeout(50)
    lane = page.locator(f".lane[data-task={task}]")
    expect(lane).to_have_count(1, timeout=ANSWER_MS)
    return lane


def finished_jobs(page: "sync_api.Page", task: str) -> set[str]:
    """Ids of the jobs of a task that have succeeded."""
    address = urlsplit(page.url)
    jobs = page.request.get(f"{address.scheme}://{address.netloc}/v1/jobs").json()["data"]
    return {job["id"] for job in jobs if job["task"] == task and job["status"] == "succeeded"}


@pytest.fixture
def captioned(page: "sync_api.Page", server: str) -> "sync_api.Page":
    """A video with a track of three events with known times."""
    open_film(page, server, EDITED)
    for start, caption in ((2, "one"), (10, "two"), (20, "three")):
        seek(page, start)
        page.keyboard.press("a")
        page.keyboard.type(caption)
        page.keyboard.press("Enter")
    expect(page.locator(".bar")).to_have_count(3)
    return page


def wait_until(page: "sync_api.Page", expression: str, argument: object = None, seconds: float = 15) -> None:
    """Poll the page; waiting by Playwright needs an `eval` that the policy of the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < deadline, f"never true: {expression} {argument}"
        page.wait_for_timeout(50)


def seek(page: "sync_api.Page", seconds: float) -> None:
    page.evaluate("seconds => { document.getElementById('video').currentTime = seconds }", seconds)
    wait_until(page, "!document.getElementById('video').seeking")


def hold_uploads(page: "sync_api.Page") -> list:
    """Hold uploads back from the server; each is added to the list when it arrives."""
    held = []
    page.route("**/v1/files", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    return held


def sought_by(page: "sync_api.Page", click: "sync_api.Locator") -> float:
    """Return the time of the video to which a click seeks, before it continues to play."""
    page.evaluate(
        """() => document.getElementById('video').addEventListener(
            'seeking', ({ target }) => { document.body.dataset.sought = target.currentTime; }, { once: true })"""
    )
    click.click()
    wait_until(page, "document.body.dataset.sought")
    return float(page.evaluate("document.body.dataset.sought"))


def expect_time(page: "sync_api.Page", seconds: float) -> None:
    wait_until(
        page,
        "([time, tight]) => Math.abs(document.getElementById('video').currentTime - time) < tight",
        [seconds, TIGHT],
    )


def event_times(page: "sync_api.Page") -> list[str]:
    return page.locator(".row-time").all_inner_texts()


def no_overflow(page: "sync_api.Page") -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


# ---------------------------------------------------------------------------------------------------- films


def drop(page: "sync_api.Page", film: Path) -> None:
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
            const data = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([data], name, { type: "video/mp4" }));
            return transfer;
        }""",
        [base64.b64encode(film.read_bytes()).decode(), film.name],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def test_a_dropped_video_plays_at_once_and_is_uploaded(page, server, films):
    page.goto(server)
    expect(page.locator(".film-card").first).to_be_visible()
    drop(page, films.short)
    wait_until(page, "!document.getElementById('video').paused")
    expect(page).to_have_url(re.compile(r"\?film=file-"))
    assert page.evaluate("document.getElementById('video').currentSrc").startswith("blob:")
    expect(page.locator(".task").first).to_be_enabled()
    expect(page.locator("#upload")).to_be_hidden()


def test_an_upload_shows_progress_and_can_be_cancelled(page, server, films):
    page.goto(server)
    hold_uploads(page)
    page.locator("#file").set_input_files(films.short)
    expect(page.locator("#upload-words")).to_contain_text(re.compile("Uploading|Reading"))
    expect(page.locator(".task").first).to_be_disabled()
    expect(page.locator("#question")).to_be_disabled()
    page.locator("#upload-cancel").click()
    expect(page.locator("#upload")).to_be_hidden()
    expect(page.locator(".toast")).to_contain_text("The upload was cancelled.")
    wait_until(page, "document.getElementById('video').readyState >= 1")  # it plays all the same


def test_a_video_dropped_during_an_upload_replaces_it(page, server, films, tmp_path):
    page.goto(server)
    held = hold_uploads(page)
    page.locator("#file").set_input_files(films.short)
    expect(page.locator("#upload")).to_be_visible()
    other = shutil.copy(films.short, tmp_path / "other.mp4")
    page.locator("#file").set_input_files(other)
    expect(page.locator("#film-name")).to_have_text("other.mp4")
    page.wait_for_timeout(400)  # what the first one leaves behind comes to nothing
    expect(page.locator("#upload")).to_be_visible()
    expect(page.locator(".toast")).to_have_count(0)
    held[1].continue_()
    expect(page.locator(".task").first).to_be_enabled()
    expect(page.locator("#upload")).to_be_hidden()


def test_events_made_during_an_upload_stay_with_their_video(page, server, films):
    page.goto(server)
    held = hold_uploads(page)
    page.locator("#file").set_input_files(films.short)
    expect(page.locator("#upload")).to_be_visible()
    page.keyboard.press("a")
    page.keyboard.type("early")
    page.keyboard.press("Enter")
    held[0].continue_()
    expect(page.locator(".task").first).to_be_enabled()
    expect(page.locator(".bar")).to_have_text(["early"])
    page.reload()
    expect(page.locator(".bar")).to_have_text(["early"])
    page.locator("#file").set_input_files(films.short)
    expect(page.locator("#upload")).to_be_visible()
    expect(page.locator(".bar")).to_have_count(0)


def test_leaving_a_video_cancels_its_upload_silently(page, server, films):
    page.goto(server)
    page.route("**/v1/files", lambda route: None if route.request.method == "POST" else route.continue_())
    page.locator("#file").set_input_files(films.short)
    expect(page.locator("#upload")).to_be_visible()
    with page.expect_event("requestfailed"):
        page.locator("#show-films").click()
    expect(page.locator("#drop")).to_be_visible()
    expect(page.locator(".toast")).to_have_count(0)


def test_a_video_of_the_library_is_streamed_in_ranges(page, server):
    statuses = []
    page.on("response", lambda reply: reply.url.endswith("/content") and statuses.append(reply.status))
    open_film(page, server)
    assert statuses
    assert set(statuses) == {206}


def test_videos_of_the_library_have_thumbnails(page, server):
    page.goto(server)
    picture = page.get_by_role("region", name="Library").locator(".film-open", has_text=SHORT).locator("img")
    wait_until(page, "image => image.complete && image.naturalWidth > 0", picture.element_handle())


def test_a_video_the_browser_cannot_play_has_stills_and_tasks(page, server):
    open_film(page, server, UNPLAYABLE)
    expect(page.locator("#unplayable")).to_contain_text("cannot play this video")
    page.locator("#strip").click(position={"x": 400, "y": 20})
    expect(page.locator("#time")).not_to_have_text("0:00.0")
    wait_until(page, "document.getElementById('still').naturalWidth > 0")
    page.locator(".task[data-task=dense_caption]").click()
    expect(page.locator(".job[data-status=succeeded]", has_text=UNPLAYABLE)).to_have_count(1, timeout=ANSWER_MS)


def test_a_video_that_does_not_arrive_is_requested_again(page, server):
    gone = [True]
    page.route("**/content", lambda route: route.abort() if gone else route.continue_())
    page.goto(server)
    page.locator(".film-open", has_text=SHORT).last.click()
    expect(page.locator("#unplayable")).to_contain_text("Trying again")
    gone.clear()
    wait_until(page, "document.getElementById('video').readyState >= 1")
    expect(page.locator("#unplayable")).to_be_hidden()
    expect(page.locator("#play")).to_be_enabled()


def test_a_link_with_a_time_opens_the_video_there(page, server):
    open_film(page, server)
    film = page.evaluate("new URLSearchParams(location.search).get('film')")
    page.goto(f"{server}/?film={film}&t=12.5")
    expect_time(page, 12.5)
    expect(page.locator("#time")).to_have_text("0:12.5")


def test_the_address_follows_the_time_of_the_video(page, server):
    open_film(page, server)
    seek(page, 7)
    expect(page).to_have_url(re.compile(r"film=.*&t=7$"))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy-link").click()
    expect(page.locator(".toast")).to_contain_text("0:07.0")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_back_and_forward_of_the_browser_change_the_video(page, server):
    page.goto(server)
    page.locator(".film-card", has_text=LONG).click()
    expect(page.locator("#film-name")).to_have_text(LONG)
    wait_until(page, "document.getElementById('video').readyState >= 1")
    for second in (3, 7):  # which are no steps
        seek(page, second)
    expect(page).to_have_url(re.compile(r"t=7$"))
    page.go_back()
    expect(page.locator("#drop")).to_be_visible()
    expect(page.locator("#film-title")).to_be_hidden()
    page.go_forward()
    expect(page.locator("#film-name")).to_have_text(LONG)
    expect_time(page, 7)
    page.locator("#show-films").click()
    expect(page.locator("#drop")).to_be_visible()
    page.go_back()
    expect(page.locator("#film-name")).to_have_text(LONG)


def test_the_history_skips_a_missing_video(page, server):
    page.goto(server)
    steps = page.evaluate("history.length")
    page.goto(f"{server}/?film=file-000000000000000000000000")
    expect(page.get_by_role("alert")).to_contain_text("There is no file")
    expect(page.locator("#drop")).to_be_visible()
    expect(page).to_have_url(f"{server}/")
    assert page.evaluate("history.length") == steps + 1


def test_a_file_that_is_not_a_video_leads_back_to_the_list(page, server, tmp_path):
    (tmp_path / "words.mp4").write_text("no film")
    page.goto(server)
    page.locator("#file").set_input_files(tmp_path / "words.mp4")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("words.mp4|video"))
    expect(page.locator("#drop")).to_be_visible()


def test_a_time_without_a_video_waits_for_one(page, server):
    page.goto(f"{server}/?t=5")
    page.get_by_role("region", name="Library").locator(".film-open", has_text=SHORT).click()
    wait_until(page, "document.getElementById('video').readyState >= 1")
    expect_time(page, 5)


def test_a_missing_video_shows_the_message_of_the_server(page, server):
    page.goto(f"{server}/?film=file-none")
    expect(page.get_by_role("alert")).to_contain_text("file-none")
    expect(page.locator("#drop")).to_be_visible()


# ---------------------------------------------------------------------------------------------------- talking


def ask(page: "sync_api.Page", words: str) -> None:
    page.keyboard.press("/")
    page.keyboard.type(words)
    page.keyboard.press("Enter")


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
    page.locator(".job[data-task=steps] .job-open", has_text=LONG).first.click()
    expect(page.locator("#film-name")).to_have_text(LONG)
    expect(page.locator(".lane[data-task=dense_caption]")).to_have_count(1)
    page.wait_for_timeout(300)  # nothing that comes later selects another one
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


TIMES = {
    "at 12.5 seconds": [12.5],
    "[0:12–0:20] and 1:02:03": [12.0, 3723.0],
    "0.5 - 5.0 seconds, a cross appears": [0.5],
    "in the 2, 4.5, 6 seconds": [2.0, 4.5, 6.0],
    "after 3s": [3.0],
}
OF_NO_TIME = "2 crosses in the 1990s, 16:9"


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


# ---------------------------------------------------------------------------------------------------- tasks


def test_a_task_shows_progress_and_its_events_can_be_played(page, server):
    open_film(page, server, LONG)
    page.locator(".task[data-task=dense_caption]").click()
    expect(page.locator(".running-job progress")).to_be_visible()
    lane = page.locator(".lane[data-task=dense_caption]")
    expect(lane).to_have_count(1, timeout=ANSWER_MS)  # perhaps that of an earlier test's answer, at once
    expect(page.locator(".running-job")).to_have_count(0, timeout=ANSWER_MS)
    row = page.locator(".row-open").nth(1)
    sought = sought_by(page, row)
    minutes, seconds = row.locator(".row-time").inner_text().split(" ")[0].split(":")
    assert sought == pytest.approx(60 * int(minutes) + float(seconds), abs=TIGHT)


def test_a_moment_is_found_by_its_query(page, server):
    sent = []
    page.on("request", lambda asked: asked.method == "POST" and sent.append((asked.url, asked.post_data_json)))
    open_film(page, server)
    page.locator(".task[data-task=grounding]").click()
    page.locator("#task-query").fill("the white square bounces")
    page.locator("#task-all").check()
    page.locator("#task-form").get_by_role("button", name="Find").click()
    expect(page.locator(".lane[data-task=grounding] .lane-title")).to_contain_text(
        "the white square bounces", timeout=ANSWER_MS
    )
    body = next(body for url, body in sent if url.endswith("/v1/jobs"))
    assert (body["task"], body["query"], body["find_all"]) == ("grounding", "the white square bounces", True)


def test_a_double_click_on_a_task_starts_it_once(page, server):
    open_film(page, server)
    sent = []
    page.on("request", lambda asked: asked.method == "POST" and sent.append(asked.url))
    page.locator(".task[data-task=steps]").dblclick()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1, timeout=ANSWER_MS)
    assert [url.rpartition("/")[2] for url in sent] == ["jobs"]


def test_highlights_have_a_curve(page, server):
    open_film(page, server)
    page.locator(".task[data-task=highlights]").click()
    page.keyboard.press("Enter")
    lane = page.locator(".lane[data-task=highlights]")
    expect(lane.locator(".curve-line")).to_have_count(1, timeout=ANSWER_MS)
    assert lane.locator(".needle").count() > 1


def test_jobs_outlive_a_reload_and_open_their_result(page, server):
    open_film(page, server)
    start_task(page, "steps")
    page.reload()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
    page.locator(".lane[data-task=steps]").get_by_role("button", name="Hide Steps").click()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(0)
    page.get_by_role("tab", name="Jobs").click()
    page.locator(".job[data-task=steps][data-status=succeeded] .job-open").first.click()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
    expect(page.get_by_role("tab", name="Events")).to_have_attribute("aria-selected", "true")


@contextmanager
def held_back(page: "sync_api.Page", pattern: "re.Pattern[str]") -> Iterator[list]:
    """Hold requests back from the server during a `with` block; each is added to the list when it arrives."""
    held: list = []
    is_over = []

    def handle(route) -> None:
        if is_over:
            route.continue_()
        else:
            held.append(route)

    page.route(pattern, handle)
    yield held
    is_over.append(True)
    for route in held:
        route.continue_()


def wait_for_request(page: "sync_api.Page", held: list) -> None:
    """Wait for the first request that is held back."""
    deadline = time.monotonic() + 15
    while not held:
        assert time.monotonic() < deadline, "no request came"
        page.wait_for_timeout(50)


JOB_LIST = re.compile(r"/v1/jobs(\?.*)?$")
PROGRESS = re.compile(r"/v1/jobs/[^/]+/events$")


def test_the_page_reads_all_jobs_that_the_server_keeps(page, server):
    with page.expect_request(JOB_LIST) as request:
        open_film(page, server)
    assert urlsplit(request.value.url).query == "limit=1000"


def test_a_chosen_tab_stays_when_known_results_arrive(page, server):
    open_film(page, server)
    start_task(page, "steps")
    jobs = page.get_by_role("tab", name="Jobs")
    with held_back(page, JOB_LIST) as held:
        page.reload()
        jobs.click()
        wait_for_request(page, held)
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
    page.wait_for_timeout(300)  # nothing that comes later changes it
    expect(jobs).to_have_attribute("aria-selected", "true")


def test_a_chosen_tab_stays_when_a_task_ends_until_the_next(page, server):
    open_film(page, server)
    before = page.locator(".job[data-task=steps][data-status=succeeded]").count()
    jobs = page.get_by_role("tab", name="Jobs")
    with held_back(page, PROGRESS) as held:
        page.locator(".task[data-task=steps]").click()
        jobs.click()
        wait_for_request(page, held)
    expect(page.locator(".job[data-task=steps][data-status=succeeded]")).to_have_count(before + 1, timeout=ANSWER_MS)
    page.wait_for_timeout(300)  # nothing that comes later changes it
    expect(jobs).to_have_attribute("aria-selected", "true")
    page.locator(".task[data-task=steps]").click()
    expect(page.get_by_role("tab", name="Events")).to_have_attribute("aria-selected", "true", timeout=ANSWER_MS)


def test_a_repeated_question_has_one_lane_also_after_a_reload(page, server):
    open_film(page, server, LONG)
    jobs = page.locator(".job[data-task=grounding][data-status=succeeded]")
    lanes = page.locator(".lane[data-task=grounding]")
    before = jobs.count()
    for asked in (1, 2):
        page.locator(".task[data-task=grounding]").click()
        page.keyboard.type("something appears")
        page.keyboard.press("Enter")
        expect(jobs).to_have_count(before + asked, timeout=ANSWER_MS)
        expect(lanes).to_have_count(1)
    page.reload()
    expect(lanes).to_have_count(1)
    expect(jobs.nth(before + 1)).to_be_attached()
    expect(lanes).to_have_count(1)


def test_a_running_task_can_be_cancelled(page, server):
    open_film(page, server, LONG)
    film = page.evaluate("new URLSearchParams(location.search).get('film')")
    ahead = [{"task": "dense_caption", "video": film, "window": window} for window in (2, 2.25, 2.5, 2.75)]
    jobs = [
        page.request.post(f"{server}/v1/jobs", data=body).json()["id"] for body in ahead
    ]  # so that it takes a while
    page.locator(".task[data-task=transcribe]").click()
    page.locator(".running-job[data-task=transcribe]").get_by_role("button", name="Cancel Speech").click()
    page.get_by_role("tab", name="Jobs").click()
    expect(page.locator(".job[data-task=transcribe]").first).to_have_attribute("data-status", "cancelled")
    for job in jobs:
        page.request.post(f"{server}/v1/jobs/{job}/cancel")


def test_a_late_response_does_not_revive_a_cancelled_job(page, server):
    open_film(page, server, LONG)
    film = page.evaluate("new URLSearchParams(location.search).get('film')")
    ahead = [
        page.request.post(f"{server}/v1/jobs", data={"task": "dense_caption", "video": film, "window": window}).json()
        for window in (2.1, 2.35, 2.6, 2.85)
    ]
    held = []

    def hold(route) -> None:
        held.append((route, route.fetch().json() | {"status": "running"}))

    page.route("**/cancel", hold)
    page.locator(".task[data-task=transcribe]").click()
    page.locator(".running-job[data-task=transcribe]").get_by_role("button", name="Cancel Speech").click()
    page.get_by_role("tab", name="Jobs").click()
    job = page.locator(".job[data-task=transcribe]").first
    expect(job).to_have_attribute("data-status", "cancelled", timeout=ANSWER_MS)
    ((route, body),) = held
    with page.expect_response("**/cancel"):
        route.fulfill(json=body)
    page.wait_for_timeout(300)  # the late response does not change it
    expect(job).to_have_attribute("data-status", "cancelled")
    for each in ahead:
        page.request.post(f"{server}/v1/jobs/{each['id']}/cancel")


def test_a_busy_server_is_reported_and_asked_again(page, server):
    replies = iter(["busy"])

    def answer(route) -> None:
        if route.request.method == "POST" and next(replies, None):
            error = {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": None}
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": error})
        else:
            route.continue_()

    page.route("**/v1/jobs", answer)
    open_film(page, server)
    page.locator(".task[data-task=steps]").click()
    expect(page.get_by_text("The server is busy. Trying again in 1 s.")).to_be_visible()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1, timeout=ANSWER_MS)


def test_the_same_error_is_shown_once(page, server):
    open_film(page, server)
    page.route("**/v1/jobs", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    for _ in range(3):
        with page.expect_event("requestfailed"):
            page.locator(".task[data-task=steps]").click()
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


# ---------------------------------------------------------------------------------------------------- the timeline


def test_a_click_on_the_timeline_seeks(page, server):
    open_film(page, server)
    box = page.locator("#strip").bounding_box()
    page.locator("#strip").click(position={"x": box["width"] / 2, "y": 20})
    expect_time(page, page.evaluate("document.getElementById('video').duration") / 2)


def test_a_click_on_a_bar_plays_its_event(captioned):
    assert sought_by(captioned, captioned.locator(".bar").nth(1)) == pytest.approx(10, abs=TIGHT)
    wait_until(captioned, "!document.getElementById('video').paused")
    expect(captioned.locator(".event-row.is-selected textarea")).to_have_value("two")


def test_hovering_a_bar_shows_its_caption(captioned):
    captioned.locator(".bar").nth(2).hover()
    expect(captioned.locator("#tip")).to_contain_text("three")
    expect(captioned.locator("#tip")).to_contain_text("0:20.0 – 0:23.0")


def drag_end(page: "sync_api.Page", bar: int, seconds: float) -> None:
    box = page.locator(".bar").nth(bar).bounding_box()
    width = page.locator("#timeline-content").bounding_box()["width"]
    duration = page.evaluate("document.getElementById('video').duration")
    x, y = box["x"] + box["width"] - 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + seconds * width / duration, y, steps=5)
    page.mouse.up()


def test_a_border_is_dragged_undone_and_kept(captioned):
    drag_end(captioned, 1, 4)
    assert event_times(captioned)[1] == "0:10.0 – 0:17.0"
    captioned.keyboard.press("Control+z")
    assert event_times(captioned)[1] == "0:10.0 – 0:13.0"
    captioned.keyboard.press("Control+Shift+z")
    captioned.reload()
    expect(captioned.locator(".bar")).to_have_count(3)
    captioned.get_by_role("tab", name="Events").click()
    assert event_times(captioned) == ["0:02.0 – 0:05.0", "0:10.0 – 0:17.0", "0:20.0 – 0:23.0"]


def test_a_finger_selects_an_event_and_then_drags_its_border(captioned):
    captioned.set_viewport_size({"width": 390, "height": 844})
    devtools = captioned.context.new_cdp_session(captioned)
    devtools.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def touch(kind: str, *point: float) -> None:
        points = [{"x": point[0], "y": point[1]}] if point else []
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def drag() -> None:
        bar = captioned.locator(".bar").nth(1)
        bar.scroll_into_view_if_needed()
        box = bar.bounding_box()
        second = captioned.locator("#timeline-content").bounding_box()["width"] / duration
        x, y = box["x"] + box["width"] - 2, box["y"] + box["height"] / 2
        touch("touchStart", x, y)
        for i in range(1, 6):
            touch("touchMove", x + i * second, y)
        touch("touchEnd")

    duration = captioned.evaluate("document.getElementById('video').duration")
    captioned.locator(".bar").nth(0).click()  # so that another one is selected
    drag()
    assert event_times(captioned)[1] == "0:10.0 – 0:13.0"
    captioned.locator(".bar").nth(1).click()
    drag()
    wait_until(captioned, "document.querySelectorAll('.row-time')[1].textContent.startsWith('0:10.0 – 0:18')")


def test_borders_are_set_and_nudged_by_keys(captioned):
    captioned.keyboard.press("Escape")
    seek(captioned, 0)
    captioned.keyboard.press("n")
    captioned.keyboard.press("n")
    seek(captioned, 11)
    captioned.keyboard.press("[")
    seek(captioned, 12)
    captioned.keyboard.press("]")
    assert event_times(captioned)[1] == "0:11.0 – 0:12.0"
    captioned.keyboard.press("Shift+ArrowRight")
    assert event_times(captioned)[1] == "0:11.0 – 0:12.1"
    captioned.keyboard.press("Delete")
    expect(captioned.locator(".bar")).to_have_count(2)


def test_the_next_field_or_button_is_reached_right_after_writing(captioned):
    captioned.locator(".bar").nth(1).click()
    captioned.keyboard.press("k")
    caption, end = captioned.locator(".editor textarea"), captioned.locator(".editor [name=end]")
    caption.fill("changed")
    caption.press("Tab")
    expect(captioned.locator(".editor [name=start]")).to_be_focused()
    seek(captioned, 11)
    end.click()
    end.fill("0:14")
    captioned.get_by_role("button", name="Set the start to the playhead").click()
    assert event_times(captioned)[1] == "0:11.0 – 0:14.0"


def test_a_time_outside_the_video_is_moved_inside(captioned):
    captioned.locator(".bar").nth(1).click()
    end = captioned.locator(".editor [name=end]")
    for _ in range(2):
        end.fill("99:00")
        end.press("Enter")
        expect(end).to_have_value(re.compile("0:3"))


def test_a_wrong_time_is_refused(captioned):
    captioned.locator(".bar").nth(1).click()
    end = captioned.locator(".editor [name=end]")
    end.fill("1:99")
    end.press("Enter")
    expect(end).to_have_value("0:13.00")
    assert event_times(captioned)[1] == "0:10.0 – 0:13.0"


def test_a_border_is_set_by_a_key_with_alt(captioned):
    captioned.locator(".bar").nth(1).click()
    captioned.keyboard.press("k")
    seek(captioned, 11)
    init = {"key": "[", "altKey": True, "ctrlKey": True, "bubbles": True}
    captioned.evaluate("init => document.body.dispatchEvent(new KeyboardEvent('keydown', init))", init)
    expect(captioned.locator(".row-time").nth(1)).to_have_text("0:11.0 – 0:13.0")


def test_a_long_caption_has_at_most_eight_lines(captioned):
    captioned.locator(".bar").first.click()
    field = captioned.locator(".editor textarea")
    field.fill("many words " * 400)
    field.press("Enter")
    captioned.locator(".bar").nth(1).click()
    assert captioned.locator(".row-words").first.bounding_box()["height"] < 200
    captioned.locator(".bar").first.hover()
    expect(captioned.locator("#tip")).to_contain_text("many words")
    box = captioned.locator("#tip").bounding_box()
    assert box["y"] >= 0
    assert box["height"] < 200


def test_captions_have_the_direction_of_their_script(captioned):
    captioned.locator(".bar").first.click()
    field = captioned.locator(".editor textarea")
    field.fill("שלום עולם")
    field.press("Enter")
    captioned.locator(".bar").nth(1).click()
    words = captioned.locator(".row-words").first
    assert words.evaluate("part => getComputedStyle(part).direction") == "rtl"


def test_escape_in_the_line_of_a_task_focuses_its_button(page, server):
    open_film(page, server)
    page.locator(".task[data-task=grounding]").click()
    page.keyboard.press("Escape")
    expect(page.locator(".task[data-task=grounding]")).to_be_focused()


def test_a_double_click_deletes_no_upload(page, server, films, tmp_path):
    page.goto(server)
    page.locator("#file").set_input_files(shutil.copy(films.short, tmp_path / "twice.mp4"))
    expect(page.locator(".task").first).to_be_enabled()
    page.locator("#show-films").click()
    card = page.locator(".film-card", has_text="twice.mp4")
    card.hover()
    card.locator(".film-delete").dblclick()
    expect(page.locator(".toast")).to_contain_text("Press again")
    expect(card).to_have_count(1)
    card.locator(".film-delete").click()
    expect(card).to_have_count(0)


def test_an_upload_asks_before_the_page_is_left(page, server, films):
    page.goto(server)
    hold_uploads(page)
    page.locator("#file").set_input_files(films.short)
    expect(page.locator("#upload")).to_be_visible()
    kinds = []
    page.on("dialog", lambda dialog: (kinds.append(dialog.type), dialog.accept()))
    page.mouse.click(5, 400)  # browsers ask only after the page was used
    page.reload()
    assert kinds == ["beforeunload"]


def test_an_export_has_the_name_and_the_rate_of_the_video(captioned):
    sent = []
    captioned.on("request", lambda asked: asked.url.endswith("/v1/export") and sent.append(asked.post_data_json))
    captioned.locator(".events-head .export").click()
    captioned.locator("#formats input[value=srt]").check()
    with captioned.expect_download() as download:
        captioned.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "edited.dense_caption.srt"
    assert sent[0]["answer"]["video"] == EDITED
    assert sent[0]["fps"] > 0


def test_the_cards_of_an_export_hold_their_words_on_a_phone(captioned):
    captioned.set_viewport_size({"width": 320, "height": 700})
    captioned.locator(".events-head .export").click()
    expect(captioned.locator("#formats .format").first).to_be_visible()
    wide = captioned.locator("#formats .format").evaluate_all(
        "cards => cards.filter((card) => card.scrollWidth > card.clientWidth).map((card) => card.innerText)"
    )
    assert wide == []


def test_captions_are_text_and_never_markup(captioned):
    captioned.locator(".bar").first.click()
    caption = "<img src=x onerror=alert(1)>"
    captioned.locator(".editor textarea").fill(caption)
    captioned.locator(".editor textarea").press("Enter")
    expect(captioned.locator(".bar-words").first).to_have_text(caption)
    captioned.locator(".bar").first.hover()
    expect(captioned.locator("#tip")).to_contain_text(caption)
    assert captioned.locator("img[src=x]").count() == 0


def test_zoom_makes_the_timeline_wider_than_the_window(captioned):
    width = "document.getElementById('timeline-content').clientWidth"
    whole = captioned.evaluate(width)
    captioned.keyboard.press("+")
    captioned.keyboard.press("+")
    assert captioned.evaluate(width) == pytest.approx(1.6**2 * whole, abs=2)
    captioned.keyboard.press("0")
    assert captioned.evaluate(width) == whole
    assert captioned.locator("#zoom-out").is_disabled()


def test_a_track_is_exported_as_edited(captioned):
    drag_end(captioned, 0, 1)
    captioned.locator(".events-head .export").click()
    captioned.locator("#formats").get_by_text("Subtitles (SRT)").click()
    with captioned.expect_download() as download:
        captioned.get_by_role("button", name="Download").click()
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename.endswith(".srt")
    assert text.startswith("1\n00:00:02,000 --> 00:00:06,000\none\n")


def test_every_format_of_the_server_can_be_chosen_and_notes_are_shown(captioned, server):
    formats = [row["format"] for row in captioned.request.get(f"{server}/v1/export/formats").json()["data"]]
    captioned.locator(".events-head .export").click()
    expect(captioned.locator("#formats input")).to_have_count(len(formats))
    shown = captioned.locator("#formats input").evaluate_all("inputs => inputs.map((input) => input.value)")
    assert shown == formats
    captioned.locator("#formats input[value=edl]").check()
    with captioned.expect_download():
        captioned.get_by_role("button", name="Download").click()
    expect(captioned.locator("#export-notes p").first).to_be_visible()


# ---------------------------------------------------------------------------------------------------- keys and looks


def test_keys_play_seek_and_help(page, server):
    open_film(page, server)
    page.keyboard.press("Space")
    wait_until(page, "!document.getElementById('video').paused")
    page.keyboard.press("k")
    wait_until(page, "document.getElementById('video').paused")
    seek(page, 12)
    page.keyboard.press("l")
    expect_time(page, 22)
    page.keyboard.press("j")
    page.keyboard.press("ArrowLeft")
    expect_time(page, 7)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("k j l")
    assert page.locator("#question").input_value() == "k j l"


def test_a_press_beside_a_dialog_closes_it_and_on_its_edge_does_not(page, server):
    open_film(page, server)
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    box = dialog.bounding_box()
    page.mouse.click(box["x"] + 8, box["y"] + box["height"] / 2)
    expect(dialog).to_be_visible()
    page.mouse.click(box["x"] - 20, box["y"] + box["height"] / 2)
    expect(dialog).to_be_hidden()


def test_a_click_on_the_video_in_full_screen_pauses_it(page, server):
    open_film(page, server)
    page.keyboard.press("f")
    wait_until(page, "document.getElementById('video').controls")
    page.keyboard.press("k")
    wait_until(page, "!document.getElementById('video').paused")
    page.mouse.click(500, 200)
    page.wait_for_timeout(500)  # whoever would let it go on has done so by then
    assert page.evaluate("document.getElementById('video').paused")


def test_the_first_link_leads_to_the_question_whatever_is_shown(page, server):
    open_film(page, server)
    page.get_by_role("tab", name="Jobs").click()
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused()


def test_the_page_works_where_the_browser_keeps_nothing(page, server):
    page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""
    )
    open_film(page, server, EDITED)
    page.keyboard.press("a")
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    expect(page.locator(".bar")).to_have_text(["mine"])
    page.locator("#toggle-theme").click()
    page.locator(".events-head .export").click()
    with page.expect_download():
        page.get_by_role("button", name="Download").click()


def test_light_and_dark_follow_the_system_until_one_is_chosen(page, server):
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    page.goto(server)
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    page.locator("#toggle-theme").click()
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_nothing_is_wider_than_the_window(page, server, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(server)
    expect(page.locator(".film-card").first).to_be_visible()
    assert no_overflow(page)
    open_film(page, server)
    page.locator(".task[data-task=grounding]").click()
    assert no_overflow(page)
    page.locator("#task-close").click()
    for tab in ("Events", "Jobs", "Chat"):
        page.get_by_role("tab", name=tab).click()
        assert no_overflow(page)


def test_everything_that_can_be_pressed_has_a_name(captioned):
    nameless = captioned.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea, [role=slider]")]
            .filter((part) => part.checkVisibility())
            .filter((part) => !(part.getAttribute("aria-label") || part.innerText?.trim() || part.labels?.length))
            .map((part) => part.outerHTML)"""
    )
    assert nameless == []


# ---------------------------------------------------------------------------------------------------- the key


def test_a_server_with_a_key_asks_for_it_and_videos_play(page, films, tmp_path):
    for server in serve("--allow", films.folder, "--data", tmp_path, "--api-key", "a-secret"):
        page.goto(server)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_role("button", name="Cancel").click()
        page.get_by_role("alert").get_by_role("button", name="Enter the key").click()
        dialog.get_by_label("API key").last.fill("wrong")
        dialog.get_by_role("button", name="Sign in").click()
        expect(dialog.get_by_role("alert")).to_contain_text("does not take this key")
        dialog.get_by_label("API key").last.fill("a-secret")
        dialog.get_by_role("button", name="Sign in").click()
        expect(dialog).to_be_hidden()
        page.locator(".film-open", has_text=SHORT).click()
        wait_until(page, "document.getElementById('video').readyState >= 1")
        start_task(page, "steps")  # its progress comes by a stream that only a cookie opens
        page.reload()
        expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
        expect(page.get_by_role("dialog")).to_have_count(0)
