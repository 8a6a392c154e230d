"""The installed Chromium or Chrome, driven by Playwright.

    python -m parity.tests.browser PAGE.html PICTURE.png

takes a picture of the top of a page, and says after how long something is seen.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
DESKTOP, PHONE = (1440, 900), (390, 844)


def find() -> str | None:
    """The path of a Chromium or Chrome, if one is installed."""
    return next(filter(None, map(shutil.which, (*_NAMES, _MAC))), None)


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """Started for this, with a profile of its own, and gone afterwards."""
    own = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"], env=own
        )
        try:
            yield started
        finally:
            started.close()


@contextmanager
def tab(started: Browser, size: tuple[int, int] = DESKTOP, dark: bool = False, script: bool = True) -> Iterator[Page]:
    """One tab. ``page.complaints`` collects console errors, exceptions and requests that left the page."""
    width, height = size
    context = started.new_context(
        viewport={"width": width, "height": height},
        is_mobile=width < 600,
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
    )
    page = context.new_page()
    page.complaints = complaints = []  # type: ignore[attr-defined]
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    local = ("file:", "data:", "about:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(local) else complaints.append(asked.url))
    try:
        yield page
    finally:
        context.close()


if __name__ == "__main__":
    source, picture = map(Path, sys.argv[1:])
    if executable := find():
        with browser(executable) as started, tab(started) as page:
            page.goto(source.resolve().as_uri())
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            page.screenshot(path=picture)
            print(f"{source}: {source.stat().st_size / 1e6:.2f} MB, first paint after {paint:.0f} ms")
    else:
        print(f"no Chromium or Chrome is installed: {picture} is left as it is")
