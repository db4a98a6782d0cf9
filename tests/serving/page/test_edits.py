"""Events on the page: edits by pointer, fields and keys, and their export."""

import re
from pathlib import Path

import pytest

from tests.clips import RECIPES, draw_clip
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


def write_caption(page, event: int, words: str) -> None:
    page.locator(".bar").nth(event).click()
    page.locator(".editor textarea").fill(words)
    page.locator(".editor textarea").press("Enter")


def second_tab(page, server):
    """The same video in another tab of the same browser."""
    other = page.context.new_page()
    open_film(other, server, EDITED)
    expect(other.locator(".bar")).to_have_count(3)
    other.get_by_role("tab", name="Events").click()
    return other


def test_edits_in_two_tabs_are_merged_in_both_without_a_reload(captioned, server):
    other = second_tab(captioned, server)
    write_caption(captioned, 0, "first tab")
    write_caption(other, 1, "second tab")
    for tab in (captioned, other):
        expect(tab.locator(".bar")).to_have_text(["first tab", "second tab", "three"])
        expect(tab.locator(".row-words")).to_have_text(["first tab", "second tab", "three"])
    captioned.reload()
    expect(captioned.locator(".bar")).to_have_text(["first tab", "second tab", "three"])


def test_an_undo_in_one_tab_keeps_the_edits_of_the_other(captioned, server):
    other = second_tab(captioned, server)
    write_caption(captioned, 0, "first tab")
    other.locator(".bar").nth(2).click()
    other.keyboard.press("Delete")
    seek(other, 24)
    other.keyboard.press("a")
    other.keyboard.type("four")
    other.keyboard.press("Enter")
    for tab in (captioned, other):
        expect(tab.locator(".bar")).to_have_text(["first tab", "two", "four"])
    captioned.locator("#undo").click()
    for tab in (captioned, other):
        expect(tab.locator(".bar")).to_have_text(["one", "two", "four"])


def test_a_field_keeps_its_focus_when_another_tab_adds_an_event(captioned, server):
    other = second_tab(captioned, server)
    captioned.locator(".bar").nth(1).click()
    captioned.locator(".editor textarea").fill("half writ")
    seek(other, 5)
    other.keyboard.press("a")
    other.keyboard.type("between")
    other.keyboard.press("Enter")
    expect(captioned.locator(".row-words")).to_have_text(["one", "between", "two", "three"])
    captioned.keyboard.type("ten")
    captioned.keyboard.press("Enter")
    for tab in (captioned, other):
        expect(tab.locator(".bar")).to_have_text(["one", "between", "half written", "three"])


def test_the_first_event_of_a_video_appears_in_the_other_tab(page, server):
    open_film(page, server, EDITED)
    other = page.context.new_page()
    open_film(other, server, EDITED)
    page.keyboard.press("a")
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    expect(other.locator(".lane[data-source=own] .bar")).to_have_text(["mine"])
    other.locator(".bar", has_text="mine").click()
    other.keyboard.press("Delete")
    expect(page.locator(".lane[data-source=own]")).to_have_count(0)


def test_edits_that_earlier_versions_stored_are_kept(page, server):
    page.goto(server)
    captions, old_list = page.evaluate(
        """async () => {
            const { Track } = await import("/static/track.js");
            const event = (start, caption) => ({ start, end: start + 1, caption, score: null, saliency: null });
            const answer = { task: "steps", events: [event(0, "one"), event(1, "two"), event(2, "three")] };
            const name = "timechat.edits:video:steps:job";
            localStorage.setItem(name, JSON.stringify([event(0, "changed"), event(2, "three"), event(7, "added")]));
            const open = () => new Track("video", "job", answer).ordered.map((event) => event.caption);
            return [[open(), open()], localStorage.getItem(name)];
        }"""
    )
    assert captions == [["changed", "three", "added"]] * 2
    assert old_list is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1:99", "“1:99” is not a time: seconds after a colon go up to 59."),
        ("1:75:00", "“1:75:00” is not a time: minutes between two colons go up to 59."),
        ("noon", "“noon” is not a time: write seconds (75.5), minutes and seconds (1:15.5), or hours too (1:02:03)."),
    ],
)
def test_a_text_that_is_not_a_time_is_refused_by_name(captioned, written, said):
    captioned.locator(".bar").nth(1).click()
    end = captioned.locator(".editor [name=end]")
    end.fill(written)
    end.press("Enter")
    expect(captioned.locator(".toast")).to_contain_text(said)
    expect(end).to_have_value("0:13.00")


def test_a_border_that_is_moved_is_reported(captioned):
    length = captioned.evaluate(
        """async () => {
            const { formatTime } = await import("/static/time.js");
            return formatTime(document.getElementById("video").duration, 2);
        }"""
    )
    captioned.locator(".bar").nth(1).click()
    captioned.locator(".editor [name=end]").fill("1:50")
    captioned.locator(".editor [name=end]").press("Enter")
    expect(captioned.locator(".toast")).to_contain_text(
        f"1:50.00 is after the end of the video: the end was set to the end, {length}."
    )
    captioned.locator(".editor [name=end]").fill("0:13")
    captioned.locator(".editor [name=end]").press("Enter")
    expect(captioned.locator(".toast")).to_have_count(0)
    captioned.locator(".editor [name=start]").fill("0:14")
    captioned.locator(".editor [name=start]").press("Enter")
    expect(captioned.locator(".toast")).to_contain_text(
        "The end was moved to 0:14.00, since an event cannot end before it starts."
    )
    assert event_times(captioned)[1] == "0:14.0"


def export_as(page, form: str) -> str:
    page.locator(".events-head .export").click()
    page.locator(f"#formats input[value={form}]").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    page.locator("#export-dialog").evaluate("dialog => dialog.close()")
    return Path(download.value.path()).read_text()


def test_edl_and_otio_have_the_frame_rate_of_the_video(page, server, tmp_path):
    clip = draw_clip(RECIPES["29.97 fps"], tmp_path / "ntsc.mp4")
    page.goto(server)
    page.locator("#file").set_input_files(clip.path)
    expect(page.locator(".task").first).to_be_enabled()
    page.evaluate("document.getElementById('video').pause()")
    seek(page, 1)
    page.keyboard.press("a")
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    sent = []
    page.on("request", lambda asked: sent.append(asked.post_data_json) if asked.url.endswith("/v1/export") else None)
    edl, otio = export_as(page, "edl"), export_as(page, "otio")
    assert [body["format"] for body in sent] == ["edl", "otio"]
    assert [body["fps"] for body in sent] == pytest.approx([30000 / 1001] * 2)
    assert "FCM: DROP FRAME" in edl
    assert "00:00:01;00 00:00:03;00" in edl
    rates = [float(rate) for rate in re.findall(r'"rate": ?([\d.]+)', otio)]
    assert rates
    assert rates == pytest.approx([30000 / 1001] * len(rates))
