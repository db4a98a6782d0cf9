"""Search on the page: the box above the list, the moments, and the curve of a video."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.serving.page.actions import ANSWER_MS, expect, no_overflow, open_film, wait_until
from tests.serving.page.conftest import SHORT

if TYPE_CHECKING:
    from playwright.sync_api import Page

SEARCH = re.compile(r"/v1/search$")
LIBRARY = {
    "object": "library",
    "name": "library.db",
    "exists": True,
    "encoder": "sight",
    "num_videos": 9,
    "duration": 60.0,
    "can_index": True,
}


def answer_with(page: Page, address: str | re.Pattern[str], content: dict[str, Any], status: int = 200) -> None:
    """Let requests to an address get a fixed response."""
    page.route(address, lambda route: route.fulfill(status=status, json=content))


def moment(page: Page, server: str, start: float, end: float, score: float, **more: Any) -> dict[str, Any]:
    """A moment of the short video as the API gives it."""
    files = json.loads(page.request.get(f"{server}/v1/files").text())["data"]
    video = next(file["id"] for file in files if file["filename"] == SHORT)
    found = {"video": video, "start": start, "end": end, "score": score, "by": ["picture"], "text": None}
    return {**found, "offline": False, "filename": SHORT, **more}


def result(query: str, *moments: dict[str, Any], found: bool = True, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    content = {"query": query, "library": "library.db", "encoder": "sight", "found": found, "threshold": 0.5}
    return {**content, "moments": list(moments), "notes": list(notes)}


def search(page: Page, words: str) -> None:
    page.locator("#search-words").fill(words)
    page.keyboard.press("Enter")


def test_videos_are_indexed_and_searched_on_the_page(page, server):
    page.route("**/v1/index", lambda route: route.continue_(post_data=json.dumps({"videos": [SHORT]})))  # less work
    page.goto(server)
    page.get_by_role("button", name="Index the videos").click()
    expect(page.locator("#search-form")).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator("#search-state")).to_contain_text("1 of 4 videos are indexed.", timeout=ANSWER_MS)
    search(page, "a ball")
    first = page.locator(".search-results a").first
    expect(first.locator("img")).not_to_have_js_property("naturalWidth", 0)
    start = float(re.search(r"[&?]t=([\d.]+)", first.get_attribute("href"))[1])
    first.click()
    lane = page.get_by_role("group", name="Search: a ball")
    expect(lane.locator(".curve-line")).to_have_count(1)
    wait_until(page, "start => document.getElementById('video').currentTime >= start - 0.1", start)
    expect(page.locator(".row-time").first).to_be_visible()
    page.go_back()
    expect(page.locator(".search-results a").first).to_be_visible()


def test_a_moment_is_found_and_played_by_keys(page, server):
    answer_with(page, "**/v1/library", LIBRARY)
    best = moment(page, server, 10, 12, 0.9, text="the red one", by=["speech"])
    answer_with(page, SEARCH, result("red", best, moment(page, server, 1, 2, 0.4)))
    curve = {"times": [0, 10, 11, 12], "scores": [0.1, 0.9, 0.9, 0.2], "threshold": 0.5}
    answer_with(page, "**/v1/search/curve", curve)
    page.goto(server)
    expect(page.locator("#search-form")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Moments for “red”")).to_be_visible()
    expect(page.locator("#announcement")).to_have_text("Moments for “red”: 1")
    card = page.get_by_role("link", name="the red one")
    expect(card).to_contain_text("90 % · said")
    card.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("film="))
    wait_until(page, "document.getElementById('video').currentTime >= 9.9")
    wait_until(page, "document.getElementById('video').paused")  # at the end of the moment
    assert page.evaluate("document.getElementById('video').currentTime") < 13
    lane = page.get_by_role("group", name="Search: red")  # other tests have left other lanes of this video
    expect(lane.locator(".bar")).to_have_text(["the red one"])
    expect(page.locator(".fact").first).to_have_text("Found; the search is 90 % sure.")


def test_what_is_not_found_is_said_with_the_nearest(page, server):
    page.set_viewport_size({"width": 360, "height": 740})
    answer_with(page, "**/v1/library", LIBRARY)
    away = moment(page, server, 3, 4, 0.1, offline=True)
    note = "sight knows English only, so pictures were not searched"
    answer_with(page, SEARCH, result("x", moment(page, server, 1, 2, 0.2), away, found=False, notes=(note,)))
    page.goto(server)
    search(page, "x")
    expect(page.locator(".search-head h2")).to_have_text("Nothing matches “x” well. These moments are the nearest.")
    expect(page.locator(".search-note")).to_have_text(note)
    expect(page.locator(".search-results a")).to_have_count(1)
    expect(page.locator(".is-offline")).to_contain_text("The file is not there now.")
    assert no_overflow(page)
    page.locator("#search-words").focus()
    page.keyboard.press("Escape")
    expect(page.locator(".search-results *")).to_have_count(0)


def test_a_server_without_library_and_folders_has_no_search(page, server):
    answer_with(page, "**/v1/library", LIBRARY | {"exists": False, "can_index": False, "num_videos": 0})
    open_film(page, server)
    page.locator("#show-films").click()
    expect(page.locator(".film-card").first).to_be_visible()
    expect(page.locator("#search")).to_be_hidden()
