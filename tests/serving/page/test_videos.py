"""Videos on the page: the library, uploads, links and the key."""

import re
import shutil
from fractions import Fraction

import pytest

from tests.clips import Recipe, draw_clip
from tests.serving.page.actions import (
    ANSWER_MS,
    click_at_rest,
    drop,
    expect,
    expect_time,
    held_back,
    hold_uploads,
    open_film,
    seek,
    settle,
    start_task,
    wait_for_request,
    wait_until,
)
from tests.serving.page.conftest import LONG, SHORT, UNPLAYABLE, serve


def test_a_dropped_video_plays_at_once_and_is_uploaded(page, server, films):
    page.goto(server)
    expect(page.locator(".film-card").first).to_be_visible()
    drop(page, films.short)
    wait_until(page, "!document.getElementById('video').paused")
    expect(page).to_have_url(re.compile(r"\?film=file-"))
    assert page.evaluate("document.getElementById('video').currentSrc").startswith("blob:")
    expect(page.locator(".task").first).to_be_enabled()
    expect(page.locator("#upload")).to_be_hidden()


def test_the_list_does_not_move_when_the_search_above_it_appears(page, server):
    with held_back(page, re.compile(r"/v1/library$")) as held:
        page.goto(server)
        wait_for_request(page, held)
        settle(page)
        assert page.locator(".film-card").count() == 0
    expect(page.locator(".film-card").first).to_be_visible()
    expect(page.get_by_role("region", name="Search in the videos")).to_be_visible()


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
    with page.expect_event("requestfailed"):  # the upload of the first one is cancelled
        page.locator("#file").set_input_files(other)
    expect(page.locator("#film-name")).to_have_text("other.mp4")
    settle(page)
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
    expect(picture).not_to_have_js_property("naturalWidth", 0)


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


def test_a_server_with_a_key_asks_for_it_and_videos_play(page, films, tmp_path):
    with serve("--allow", films.folder, "--data", tmp_path, "--api-key", "a-secret") as server:
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


@pytest.mark.parametrize(("name", "kind"), [("a.ts", "text/vnd.trolltech.linguist"), ("a.OGG", "audio/ogg")])
def test_a_video_with_the_type_of_another_kind_is_taken(page, server, films, name, kind):
    page.goto(server)
    hold_uploads(page)
    file = {"name": name, "mimeType": kind, "buffer": films.short.read_bytes()}
    page.locator("#file").set_input_files(file)
    expect(page.locator("#film-name")).to_have_text(name)
    expect(page.locator("#upload")).to_be_visible()


@pytest.mark.parametrize(("name", "kind"), [("a.txt", "text/plain"), ("a.png", "image/png"), ("a.mp3", "audio/mpeg")])
def test_a_file_of_another_kind_is_refused_by_name(page, server, name, kind):
    page.goto(server)
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": b"no video"})
    expect(page.get_by_role("alert")).to_contain_text(f"{name} is not a video.")
    expect(page.locator("#drop")).to_be_visible()


def test_the_length_of_a_short_video_has_tenths(page, server, tmp_path):
    recipe = Recipe(times=[Fraction(i, 25) for i in range(15)])
    page.goto(server)
    page.locator("#file").set_input_files(draw_clip(recipe, tmp_path / "brief.mp4").path)
    expect(page.locator("#film-facts")).to_contain_text("0:00.6 ·")
    expect(page.locator("#duration")).to_have_text("0:00.6")
    page.locator("#show-films").click()
    expect(page.locator(".film-card", has_text="brief.mp4").locator(".film-length")).to_have_text("0:00.6")


VIDEO = re.compile(r"/v1/files/[^/]+$")
THUMBNAIL = re.compile(r"/thumbnail\?")
CONTENT = re.compile(r"/content$")


def test_a_video_is_seen_to_open_and_no_thumbnail_delays_it(page, server):
    cancelled = []
    page.on("requestfailed", lambda request: cancelled.append(request.url) if THUMBNAIL.search(request.url) else None)
    with held_back(page, THUMBNAIL) as thumbnails:
        page.goto(server)
        wait_for_request(page, thumbnails)
        card = page.locator(".film-card", has_text=LONG)
        assert card.locator("img").get_attribute("fetchpriority") == "low"
        with held_back(page, VIDEO) as held:
            card.locator(".film-open").click()
            expect(card).to_have_attribute("aria-busy", "true")
            expect(card.locator(".film-opening")).to_be_visible()
            wait_for_request(page, held)
            expect(page.locator("#drop")).to_be_visible()
            settle(page)
            assert sorted(cancelled) == sorted(route.request.url for route in thumbnails)
        expect(page.locator("#film-name")).to_have_text(LONG)
        expect(card).not_to_have_attribute("aria-busy", "true")


def test_a_list_that_is_shown_again_has_its_thumbnails(page, server):
    page.goto(server)
    with held_back(page, VIDEO) as held:
        page.locator(".film-open", has_text=SHORT).last.click()
        wait_for_request(page, held)
        page.locator("#show-films").click()
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
    picture = page.get_by_role("region", name="Library").locator(".film-open", has_text=SHORT).locator("img")
    expect(picture).to_have_count(1)
    expect(picture).not_to_have_js_property("naturalWidth", 0)  # the list is drawn again, with new images
    expect(page.locator("#drop")).to_be_visible()


def test_a_player_that_waits_for_data_says_so(page, server):
    page.goto(server)
    waiting = page.locator("#waiting")
    with held_back(page, CONTENT) as held:
        page.locator(".film-open", has_text=LONG).last.click()
        expect(page.locator("#film-name")).to_have_text(LONG)
        wait_for_request(page, held)
        expect(waiting).to_be_hidden()
        click_at_rest(page, page.locator("#play"))
        expect(waiting).to_have_text("Waiting for the video …")
        expect(waiting).to_be_visible()
        expect(page.locator("#screen")).to_have_attribute("aria-busy", "true")
    expect(waiting).to_be_hidden()
    wait_until(page, "document.getElementById('video').currentTime > 0.2")
    expect(page.locator("#screen")).to_have_attribute("aria-busy", "false")
    expect(waiting).to_be_hidden()


def test_a_video_opened_by_keys_has_the_focus_on_its_play_button(page, server):
    page.goto(server)
    page.locator(".film-open", has_text=SHORT).last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#film-name")).to_have_text(SHORT)
    expect(page.locator("#play")).to_be_focused()
    wait_until(page, "document.getElementById('video').readyState >= 1")
    page.keyboard.press("Enter")
    wait_until(page, "!document.getElementById('video').paused")


def test_a_video_without_a_play_button_has_the_focus_on_its_time(page, server):
    page.goto(server)
    page.locator(".film-open", has_text=UNPLAYABLE).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#unplayable")).to_contain_text("cannot play this video")
    expect(page.locator("#playhead")).to_be_focused()


def test_a_key_is_kept_while_the_server_is_away(page, server):
    page.goto(server)
    page.evaluate("sessionStorage.setItem('timechat.key', 'a-secret')")
    key = "sessionStorage.getItem('timechat.key')"
    replies = [503, 429, None, 401]

    def reply(route) -> None:
        status = replies.pop(0)
        if status:
            route.fulfill(status=status, json={})
        else:
            route.abort()

    page.route("**/v1/session", reply)
    for kept in ("a-secret", "a-secret", "a-secret", None):
        page.reload()
        expect(page.locator(".film-card").first).to_be_visible()
        assert page.evaluate(key) == kept
    assert replies == []


def test_a_sign_in_without_a_server_has_the_words_of_the_page(page, server):
    error = {"message": "a key is needed", "type": "authentication_error", "param": None, "code": None}
    page.route("**/v1/files", lambda route: route.fulfill(status=401, json={"error": error}))
    page.route("**/v1/session", lambda route: route.abort())
    page.goto(server)
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("API key").last.fill("a-secret")
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog.get_by_role("alert")).to_have_text("The server cannot be reached. Is it still running?")
