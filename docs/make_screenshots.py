"""Take the pictures of the page that the documentation shows: `python docs/make_screenshots.py`.

Starts a server with nano and a drawn film, opens its page in headless Chromium, asks, and writes `docs/page-light.png`,
`docs/page-dark.png` and `docs/page-phone.png`.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))
import make_docs  # noqa: E402

VIEWS = {"light": (1280, 860), "dark": (1280, 860), "phone": (390, 844)}


@contextmanager
def server(films: Path, data: Path) -> Iterator[str]:
    """Run a server as long as the block lasts."""
    command = [sys.executable, "-m", "timechat", "serve", "--port", "0", "--allow", str(films), "--data", str(data)]
    environment = os.environ | {"TIMECHAT_CACHE": "", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            found = next(
                match for line in process.stderr if (match := re.search(r"timechat serve: (http://\S+)", line))
            )
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield found[1]
        finally:
            process.terminate()


def ask(page: Page) -> None:
    """Let the page show captions, highlights and a moment."""
    page.get_by_text("film.mp4").first.click()
    page.wait_for_timeout(1500)
    if not page.locator(".bar.needle").count():
        page.locator(".task[data-task=dense_caption]").click()
        page.wait_for_timeout(6000)
        page.locator(".task[data-task=highlights]").click()
        page.get_by_role("button", name="Start").click()
        page.wait_for_timeout(6000)
    page.evaluate("document.querySelector('video').currentTime = 7.5")
    page.wait_for_timeout(1500)


def main() -> None:
    """Take them."""
    browser = shutil.which("chromium") or "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        films = Path(folder) / "films"
        films.mkdir()
        make_docs.draw_demo(films / "film.mp4")
        with server(films, Path(folder) / "data") as url:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            for name, (width, height) in VIEWS.items():
                page = chromium.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if name == "dark" else "light",
                )
                page.goto(url)
                ask(page)
                picture = Image.open(io.BytesIO(page.screenshot()))
                picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(
                    DOCS / f"page-{name}.png", optimize=True
                )
                page.close()
            chromium.close()


if __name__ == "__main__":
    main()
