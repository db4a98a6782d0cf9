"""Keys and looks of the page."""

import pytest

from tests.serving.page.actions import expect, expect_time, no_overflow, open_film, seek, settle, start_task, wait_until
from tests.serving.page.conftest import EDITED


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
    wait_until(page, "document.getElementById('video').paused")
    settle(page)  # only one of the page and the browser handles the click
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


def test_escape_in_the_line_of_a_task_focuses_its_button(page, server):
    open_film(page, server)
    page.locator(".task[data-task=grounding]").click()
    page.keyboard.press("Escape")
    expect(page.locator(".task[data-task=grounding]")).to_be_focused()


def test_the_cards_of_an_export_hold_their_words_on_a_phone(captioned):
    captioned.set_viewport_size({"width": 320, "height": 700})
    captioned.locator(".events-head .export").click()
    expect(captioned.locator("#formats .format").first).to_be_visible()
    wide = captioned.locator("#formats .format").evaluate_all(
        "cards => cards.filter((card) => card.scrollWidth > card.clientWidth).map((card) => card.innerText)"
    )
    assert wide == []


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


def test_lanes_that_are_cut_off_below_are_hinted_at(captioned):
    captioned.set_viewport_size({"width": 1280, "height": 800})
    hint = captioned.locator("#more-lanes")
    expect(hint).to_be_hidden()
    for _ in range(5):  # five simultaneous events need five rows
        captioned.keyboard.press("a")
        captioned.keyboard.press("Escape")
    captioned.set_viewport_size({"width": 1280, "height": 460})
    expect(hint).to_be_visible()
    captioned.locator("#timeline-scroll").evaluate("part => part.scrollTo(0, 0)")
    hint.click()
    wait_until(captioned, "document.getElementById('timeline-scroll').scrollTop > 0")
    captioned.locator("#timeline-scroll").evaluate("part => part.scrollTo(0, part.scrollHeight)")
    expect(hint).to_be_hidden()


def test_tracks_that_are_cut_off_at_the_side_are_hinted_at(page, server):
    open_film(page, server)
    for task in ("dense_caption", "steps"):
        start_task(page, task)
    page.get_by_role("tab", name="Events").click()
    page.set_viewport_size({"width": 320, "height": 700})
    # The page draws the row again with each change, so that the width is a rule and the position is set at each poll.
    page.evaluate("document.styleSheets[0].insertRule('.track-chips { width: 100px }')")
    for position, left, right in ((0, False, True), (30, True, True), (10_000, True, False)):
        wait_until(
            page,
            """([position, left, right]) => {
                const chips = document.querySelector(".track-chips");
                chips.scrollLeft = position;
                return chips.classList.contains("more-left") === left
                    && chips.classList.contains("more-right") === right;
            }""",
            [position, left, right],
        )


def test_the_editor_of_an_event_fits_a_phone(captioned):
    captioned.set_viewport_size({"width": 320, "height": 700})
    captioned.locator(".bar").nth(1).click()
    captioned.locator(".editor textarea").fill("changed")
    captioned.locator(".editor textarea").press("Enter")
    outside = captioned.locator(".editor button, .editor input, .events-head button").evaluate_all(
        """parts => parts.filter((part) => part.checkVisibility()).filter((part) => {
            const panel = document.getElementById("events").getBoundingClientRect();
            return part.getBoundingClientRect().right > panel.right || part.getBoundingClientRect().left < panel.left;
        }).map((part) => part.outerHTML)"""
    )
    assert outside == []
