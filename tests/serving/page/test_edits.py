"""Events on the page: edits by pointer, fields and keys, and their export."""

import re
from pathlib import Path

import pytest

from tests.serving.page.actions import (
    TIGHT,
    drag_end,
    event_times,
    expect,
    expect_time,
    open_film,
    seek,
    sought_by,
    wait_until,
)
from tests.serving.page.conftest import EDITED


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
