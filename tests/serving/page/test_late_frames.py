"""Videos whose frames begin after their audio: a click on an event shows the frame of the event.

Players count from the start of the file, so that their clock is ahead of that of the frames.
"""

import pytest

from tests.clips import COLUMNS, HEIGHT, ROWS, WIDTH, draw_video_with_audio
from tests.serving.page.actions import expect, settle, sought_by, wait_until
from timechat import Answer, Event
from timechat.export.html import to_html
from timechat.video import load_frames

FPS, LATE = 25, 2.0
STARTS = [0.5, 1.62, 3.3]
"""Starts of the events, on the clock of the frames."""

READ_FRAME = f"""() => {{
    const canvas = Object.assign(document.createElement("canvas"), {{ width: {WIDTH}, height: {HEIGHT} }});
    const context = canvas.getContext("2d");
    context.drawImage(document.querySelector("video"), 0, 0, {WIDTH}, {HEIGHT});
    const isBright = (row, column) => context.getImageData(
        ((2 * column + 1) * {WIDTH}) / {2 * COLUMNS}, ((2 * row + 1) * {HEIGHT}) / {2 * ROWS}, 1, 1).data[0] > 125;
    let number = 0;
    for (let bit = 0; bit < {ROWS * COLUMNS}; bit++)
        number += isBright(Math.floor(bit / {COLUMNS}), bit % {COLUMNS}) ? 2 ** bit : 0;
    return number;
}}"""
"""Read the number that the frame on screen shows in black and white blocks."""


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def late(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("late") / f"late.{request.param}"
    return draw_video_with_audio(path, video_start=LATE, audio_start=0, beep=0.5, seconds=5)


def shown_by(page, event) -> int:
    """Return the number of the frame that a click on an event shows, before the video plays on."""
    page.evaluate("document.querySelector('video').play = async () => {}")
    sought_by(page, event)
    wait_until(page, "!document.querySelector('video').seeking")
    settle(page)
    return int(page.evaluate(READ_FRAME))


def frames_of(starts: list[float]) -> list[int]:
    return [int(start * FPS + 0.001) for start in starts]


def test_an_event_of_an_exported_page_shows_its_frame(page, late, tmp_path):
    source = load_frames(late, num_frames=1).source
    assert source is not None
    assert source.player_offset == pytest.approx(LATE, abs=0.03)
    events = [Event(start, start + 1, "event") for start in STARTS]
    answer = Answer("", events, task="dense_caption", duration=5.0, player_offset=source.player_offset)
    path = tmp_path / "answer.html"
    path.write_text(to_html(answer, late), encoding="utf-8")
    page.goto(path.as_uri())
    wait_until(page, "document.querySelector('video').readyState >= 2")
    for selector in (".row", "button.mark"):
        marks = page.locator(selector)
        expect(marks).to_have_count(len(STARTS))
        assert [shown_by(page, marks.nth(event)) for event in range(len(STARTS))] == frames_of(STARTS)


def test_an_event_of_the_page_of_a_server_shows_its_frame(page, server, late):
    page.goto(server)
    page.locator("#file").set_input_files(late)
    expect(page.locator(".task").first).to_be_enabled()
    page.reload()  # the server sends the video
    expect(page.locator(".task").first).to_be_enabled()
    wait_until(page, "document.getElementById('video').readyState >= 2")
    for start in STARTS:
        page.keyboard.press("a")
        page.keyboard.press("Enter")
        for border, time in (("end", start + 1), ("start", start)):
            field = page.locator(f".editor [name={border}]")
            field.fill(f"{time}")
            field.press("Enter")
            field.blur()
    expect(page.locator(".row-open")).to_have_count(len(STARTS))
    bars, rows = page.locator(".bar"), page.locator(".row-open")
    for events in (bars, rows):
        assert [shown_by(page, events.nth(event)) for event in range(len(STARTS))] == frames_of(STARTS)
