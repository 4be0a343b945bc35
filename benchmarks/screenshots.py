"""Screenshots for the docs: of the page of `ta serve`, of a report, of the docs themselves.

    pip install playwright && apt-get install chromium
    ta serve checkpoint=outputs/quickstart port=8000
    python benchmarks/screenshots.py page http://127.0.0.1:8000 docs --recording talk.flac
    python benchmarks/screenshots.py report judged/report.html docs
    mkdocs build --strict && python benchmarks/screenshots.py site build/site docs

Fails where a script of the page fails, where it loads something from elsewhere, or where it is wider than the screen.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PLAYED = 12  # the word that is played when the picture of `ta serve`'s page is taken


class Screen(NamedTuple):
    """A picture to take; `place` is what of the page: below the address, or a selector in it."""

    width: int
    height: int
    scheme: str
    place: str = ""


SCREENS = {
    "page": {
        "serving.png": Screen(900, 640, "light"),
        "serving_phone.png": Screen(390, 780, "light"),
        "serving_dark.png": Screen(900, 640, "dark"),
    },
    "report": {
        "evaluation_report.png": Screen(1100, 1000, "light"),
        "evaluation_report_phone.png": Screen(390, 844, "dark", "#clips"),
    },
    "site": {
        "docs.png": Screen(1300, 800, "light", "tutorial/"),
        "docs_phone.png": Screen(390, 844, "light", "troubleshooting/"),
        "docs_dark.png": Screen(1300, 800, "dark", "configuration/"),
    },
}


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(SCREENS))
    parser.add_argument("where", help="the address, the report's file, or the site's folder")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--recording", type=Path, help="page: what is transcribed on it")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser (default: %(default)s)")
    args = parser.parse_args()
    if (args.what == "page") != (args.recording is not None):
        parser.error("--recording is needed for page, and for page alone")
    with address(args.what, args.where) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=FLAGS)
        for name, screen in SCREENS[args.what].items():
            view = {"width": screen.width, "height": screen.height}
            page = browser.new_page(viewport=view, color_scheme=screen.scheme)  # type: ignore[arg-type]
            failures = watch(page, home)
            answer = page.goto(home + (screen.place if args.what == "site" else ""))
            if answer is not None and not answer.ok:
                raise SystemExit(f"{answer.url}: {answer.status}")
            if args.what == "page":
                play(page, args.recording)
            elif args.what == "report" and screen.place:
                page.evaluate(f"document.querySelector('{screen.place}').scrollIntoView()")
            page.screenshot(path=args.folder / name)
            wide = page.evaluate("document.documentElement.scrollWidth")
            if failures or wide > screen.width:
                raise SystemExit(f"{name}: {failures or f'the page is {wide} px wide on a screen of {screen.width}'}")
        browser.close()


@contextmanager
def address(what: str, where: str) -> Iterator[str]:
    """Give the address to open; a site is served for as long."""
    if what != "site":
        yield where if what == "page" else Path(where).resolve().as_uri()
        return
    handler = functools.partial(Quiet, directory=where)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def watch(page: Page, home: str) -> list[str]:
    """Return a list that fills with what fails on a page, and with what it asks of other machines."""
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))

    def look(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.netloc != urlsplit(home).netloc:
            failures.append(f"asks for {url}")

    page.on("request", lambda request: look(request.url))
    return failures


def play(page: Page, recording: Path) -> None:
    """Have a recording transcribed, and play one of its words."""
    page.set_input_files("#file", recording)
    page.locator("#copy:enabled").wait_for()
    page.locator("#play:enabled").wait_for()
    page.locator(".word").nth(PLAYED).click()
    page.locator(".word.lit").wait_for()
    page.click("#play")
    page.mouse.move(0, 0)


if __name__ == "__main__":
    main()
