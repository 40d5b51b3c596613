"""Open each page of the built site in a real browser, from the disk and offline.

    make docs
    PYTHONPATH=tests python tests/browser/site.py [--pictures FOLDER]

Ends with 0 only if no page is wider than the window, at 360 and at 1440 pixels, none
complains to the browser's console, and the search finds a word that is there. Pictures
are of a few pages, at both widths, light and dark: to be looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from support import ROOT
from support.browser import Browser, ChromeDriver
from support.waiting import eventually

SITE = ROOT / "docs" / "_build" / "html"

WIDTHS = (360, 1440)

#: Pages of which pictures are taken.
SHOWN = (
    "docs/index.html",
    "README.html",
    "docs/tutorials/flask_sqlalchemy.html",
    "docs/reference/settings.html",
    "docs/project/performance.html",
)


def faults(browser: Browser, page: Path) -> list[str]:
    """What is wrong with a page, at one width or the other."""
    found = []
    browser.get(page.as_uri())
    for width in WIDTHS:
        browser.resize(width, 900)
        wide, seen = browser.widths()
        if wide > seen:
            found.append(f"{wide} pixels wide in a window of {seen}")
    return found + browser.complaints()


def search_finds(browser: Browser, word: str) -> bool:
    """Whether the site's search finds a page, without a server."""
    browser.get(f"{(SITE / 'search.html').as_uri()}?q={word}")
    links = "#search-results li a"
    with contextlib.suppress(AssertionError):
        return bool(eventually(lambda: browser.find_elements("css selector", links)))
    return False


def take_pictures(browser: Browser, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        browser.get((SITE / name).as_uri())
        for width in WIDTHS:
            for dark in (False, True):
                browser.resize(width, 900)
                browser.prefer(dark=dark)
                scheme = "dark" if dark else "light"
                path = folder / f"{Path(name).stem}-{width}-{scheme}.png"
                path.write_bytes(browser.picture())
                print(path)
    browser.prefer(dark=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    pages = sorted(SITE.glob("**/*.html"))
    if not pages:
        sys.exit(f"no page below {SITE}: make docs")
    bad = 0
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(ChromeDriver())
        browser = stack.enter_context(Browser(driver))
        if options.pictures:
            take_pictures(browser, options.pictures)
        for page in pages:
            for fault in faults(browser, page):
                print(f"{page.relative_to(SITE)}: {fault}")
                bad += 1
        if not search_finds(browser, "outbox"):
            print("search.html: finds no page with outbox")
            bad += 1
    print(f"{len(pages)} pages, {bad} faults")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
