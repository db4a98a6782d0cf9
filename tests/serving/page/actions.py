"""What tests do on the page, and how they wait for what it does."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.serving.page.conftest import SHORT, UNPLAYABLE

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Request

expect = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
).expect

ANSWER_MS = 60_000
TIGHT = 0.15
"""Tolerance of a seek in seconds: browsers seek to a frame."""
JOBS = re.compile(r"/v1/jobs(/[^/]+)?(\?.*)?$")
"""Addresses of the list of jobs and of a job, without those of its events."""


def open_film(page: Page, server: str, name: str = SHORT) -> None:
    page.goto(server)
    page.get_by_role("region", name="Library").locator(".film-open", has_text=name).click()
    expect(page.locator("#film-name")).to_have_text(name, timeout=ANSWER_MS)
    if name != UNPLAYABLE:
        wait_until(page, "document.getElementById('video').readyState >= 1")


def start_task(page: Page, task: str) -> Locator:
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


def finished_jobs(page: Page, task: str) -> set[str]:
    """Ids of the jobs of a task that have succeeded."""
    address = urlsplit(page.url)
    jobs = page.request.get(f"{address.scheme}://{address.netloc}/v1/jobs").json()["data"]
    return {job["id"] for job in jobs if job["task"] == task and job["status"] == "succeeded"}


def wait_until(page: Page, expression: str, argument: object = None, seconds: float = 15) -> None:
    """Poll the page; waiting by Playwright needs an `eval` that the policy of the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < deadline, f"never true: {expression} {argument}"
        page.wait_for_timeout(50)


def seek(page: Page, seconds: float) -> None:
    page.evaluate("seconds => { document.getElementById('video').currentTime = seconds }", seconds)
    wait_until(page, "!document.getElementById('video').seeking")


def sought_by(page: Page, click: Locator) -> float:
    """Return the time of the video to which a click seeks, before it continues to play."""
    page.evaluate(
        """() => document.querySelector('video').addEventListener(
            'seeking', ({ target }) => { document.body.dataset.sought = target.currentTime; }, { once: true })"""
    )
    click.click()
    wait_until(page, "document.body.dataset.sought")
    sought = float(page.evaluate("document.body.dataset.sought"))
    page.evaluate("delete document.body.dataset.sought")
    return sought


def expect_time(page: Page, seconds: float) -> None:
    wait_until(
        page,
        "([time, tight]) => Math.abs(document.getElementById('video').currentTime - time) < tight",
        [seconds, TIGHT],
    )


def event_times(page: Page) -> list[str]:
    return page.locator(".row-time").all_inner_texts()


def no_overflow(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def hold_uploads(page: Page) -> list:
    """Hold uploads back from the server; each is added to the list when it arrives."""
    held = []
    page.route("**/v1/files", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    return held


def ask(page: Page, words: str) -> None:
    page.keyboard.press("/")
    page.keyboard.type(words)
    page.keyboard.press("Enter")


@contextmanager
def held_back(page: Page, pattern: re.Pattern[str]) -> Iterator[list]:
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


def wait_for_request(page: Page, held: list) -> None:
    """Wait for the first request that is held back."""
    deadline = time.monotonic() + 15
    while not held:
        assert time.monotonic() < deadline, "no request came"
        page.wait_for_timeout(50)


def drop(page: Page, film: Path) -> None:
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


def drag_end(page: Page, bar: int, seconds: float) -> None:
    box = page.locator(".bar").nth(bar).bounding_box()
    width = page.locator("#timeline-content").bounding_box()["width"]
    duration = page.evaluate("document.getElementById('video').duration")
    x, y = box["x"] + box["width"] - 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + seconds * width / duration, y, steps=5)
    page.mouse.up()


def open_requests(page: Page, pattern: re.Pattern[str]) -> set[Request]:
    """Return a set that holds, from now on, the requests of the page that have no response yet."""
    pending: set[Request] = set()
    page.on("request", lambda request: pending.add(request) if pattern.search(request.url) else None)
    page.on("requestfinished", lambda request: pending.discard(request))
    page.on("requestfailed", lambda request: pending.discard(request))
    return pending


def wait_for_replies(page: Page, pending: set[Request]) -> None:
    """Wait until all requests of a set of `open_requests` have a response that the page has handled."""
    deadline = time.monotonic() + 15
    settle(page)
    while pending:
        assert time.monotonic() < deadline, f"no response to {[request.url for request in pending]}"
        page.wait_for_timeout(50)
        settle(page)


def click_at_rest(page: Page, button: Locator, seconds: float = 0.4) -> None:
    """Click a button that has not moved for a while: a press counts for no button if it moves before the release."""
    deadline, rested_since, place = time.monotonic() + 15, time.monotonic(), button.bounding_box()
    while time.monotonic() - rested_since < seconds:
        assert time.monotonic() < deadline, "the button moves all the time"
        page.wait_for_timeout(50)
        if (now := button.bounding_box()) != place:
            rested_since, place = time.monotonic(), now
    button.click()


def settle(page: Page) -> None:
    """Wait until the page has handled all events of now and has drawn their effects."""
    page.evaluate(
        """async () => {
            for (let frame = 0; frame < 3; frame++) await new Promise((resolve) => requestAnimationFrame(resolve));
            await new Promise((resolve) => setTimeout(resolve));
        }"""
    )
