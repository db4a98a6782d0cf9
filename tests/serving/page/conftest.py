"""A server with synthetic videos, and its page in headless Chromium."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clips import RECIPES, draw_clip
from timechat.synthetic.write import LongSet, SyntheticSet, write_video

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SERVE = [sys.executable, "-m", "timechat", "serve"]
READY_SECONDS = 300
SHORT, LONG, EDITED, UNPLAYABLE = "short.mp4", "long.mp4", "edited.mp4", "unplayable.avi"


@dataclass(frozen=True)
class Films:
    """Synthetic videos: one of half a minute, twice, one of two minutes, and one that no browser plays."""

    folder: Path
    short: Path


@pytest.fixture(scope="package")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    library = tmp_path_factory.mktemp("library")
    write_video(SyntheticSet(1, 3).script(0), library / SHORT)
    write_video(LongSet(1, 3, minutes=2).script(0), library / LONG)
    shutil.copy(library / SHORT, library / EDITED)  # nothing is asked about this one: its events are made by hand
    draw_clip(RECIPES["MPEG-4 in AVI, B-frames without times"], library / UNPLAYABLE)
    return Films(library, library / SHORT)


@contextmanager
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


@pytest.fixture(scope="package")
def server(films: Films, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    with serve("--allow", films.folder, "--data", data, "--library", data / "library.db") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, until the end of the module: an open Playwright is a running event loop, where no other can start."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
    )
    sync_api.expect.set_options(timeout=15_000)  # a busy machine takes longer than the 5 s of playwright
    if not Path(CHROMIUM).exists():
        pytest.skip(f"the page is tested in Chromium: no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    """A new window; at the end of the test it must have broken no rule of its security policy."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    broken: list[str] = []
    context.on("weberror", lambda error: broken.append(str(error.error)))
    context.on("console", lambda line: broken.append(line.text) if "Content Security Policy" in line.text else None)
    page = context.new_page()
    page.set_default_timeout(15_000)
    yield page
    context.close()
    assert broken == []


@pytest.fixture
def captioned(page: "Page", server: str) -> "Page":
    """A video with a track of three events with known times."""
    from tests.serving.page.actions import expect, open_film, seek

    open_film(page, server, EDITED)
    for start, caption in ((2, "one"), (10, "two"), (20, "three")):
        seek(page, start)
        page.keyboard.press("a")
        page.keyboard.type(caption)
        page.keyboard.press("Enter")
    expect(page.locator(".bar")).to_have_count(3)
    return page
