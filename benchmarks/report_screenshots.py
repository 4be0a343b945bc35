"""Screenshots of a report, as docs/evaluation.md shows it: of a desktop, and of a phone in the dark.

    pip install playwright && apt-get install chromium
    python benchmarks/report_screenshots.py judged/report.html docs

Fails where a script of the page fails, or where the page is wider than the screen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

SCREENS = {
    "evaluation_report.png": (1100, 1000, "light", None),
    "evaluation_report_phone.png": (390, 844, "dark", "#clips"),
}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser (default: %(default)s)")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=FLAGS)
        for name, (width, height, scheme, place) in SCREENS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            failures: list[str] = []
            page.on("pageerror", lambda error, failures=failures: failures.append(str(error)))
            page.goto(args.report.resolve().as_uri())
            if place is not None:
                page.evaluate(f"document.querySelector('{place}').scrollIntoView()")
            page.screenshot(path=args.folder / name)
            wide = page.evaluate("document.documentElement.scrollWidth")
            if failures or wide > width:
                raise SystemExit(f"{name}: {failures or f'the page is {wide} px wide on a screen of {width}'}")
        browser.close()


if __name__ == "__main__":
    main()
