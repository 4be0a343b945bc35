"""Screenshots of the page of `ta serve`, as docs/serving.md shows it: on a desktop, on a phone, in the dark.

    pip install playwright && apt-get install chromium
    ta serve checkpoint=outputs/quickstart port=8000
    python benchmarks/page_screenshots.py http://127.0.0.1:8000 talk.flac docs

Fails where a script of the page fails, or where the page is wider than the screen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

SCREENS = {
    "serving.png": (900, 640, "light"),
    "serving_phone.png": (390, 780, "light"),
    "serving_dark.png": (900, 640, "dark"),
}
PLAYED = 12  # the word that is played when the picture is taken


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the server")
    parser.add_argument("recording", type=Path)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser (default: %(default)s)")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, scheme) in SCREENS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            failures: list[str] = []
            page.on("pageerror", lambda error, failures=failures: failures.append(str(error)))
            page.goto(args.address)
            page.set_input_files("#file", args.recording)
            page.locator("#copy:enabled").wait_for()
            page.locator("#play:enabled").wait_for()
            page.locator(".word").nth(PLAYED).click()
            page.locator(".word.lit").wait_for()
            page.click("#play")
            page.mouse.move(0, 0)
            page.screenshot(path=args.folder / name)
            wide = page.evaluate("document.documentElement.scrollWidth")
            if failures or wide > width:
                raise SystemExit(f"{name}: {failures or f'the page is {wide} px wide on a screen of {width}'}")
        browser.close()


if __name__ == "__main__":
    main()
