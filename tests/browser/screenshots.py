"""Pictures of the operator's console, to be looked at and for the docs.

    PYTHONPATH=tests python tests/browser/screenshots.py FOLDER
    PYTHONPATH=tests python tests/browser/screenshots.py --docs

The first writes each page, light and dark, wide and narrow, whole. The second writes
the pictures that the docs show, into docs/images; pngquant makes them small.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

from hydracache_sync import (
    InvalidationIntent,
    OutboxWorker,
    SQLiteOutbox,
    __version__,
)
from hydracache_sync.outbox.workers import WorkerBeat
from support import ROOT
from support.browser import Browser, ChromeDriver
from support.console_site import NAMESPACE, ConsoleSite, console_site
from support.servers import Memcached

IMAGES = ROOT / "docs" / "images"

WIDE, NARROW = 1440, 360

#: Bytes of a picture in the docs at most.
LARGEST = 80_000

#: Pictures of the docs: page, width, whether it is dark.
SHOWN = (
    ("overview", WIDE, False),
    ("overview", NARROW, True),
    ("dead", WIDE, True),
    ("row", NARROW, False),
)

MINUTES = 60


class _Past:
    """A clock that is behind by some seconds."""

    behind = 0.0

    def __call__(self) -> float:
        return time.time() - self.behind


def fill(site: ConsoleSite) -> None:
    """An hour of a shop: sales, an outage of ten minutes, an import that went wrong."""
    chance = random.Random(7)
    past = _Past()
    outbox = SQLiteOutbox(site.path, clock=past)
    worker = OutboxWorker(outbox, site.worker.applier, escalate=False)
    earlier, now = site.outbox, site.worker
    site.outbox, site.worker = outbox, worker
    for minute in reversed(range(1, MINUTES)):
        sales = 12 + chance.randrange(20) + 25 * (20 < minute < 32)
        past.behind = 60 * minute
        for sale in range(sales):
            site.enqueue(
                InvalidationIntent.entity("order", str(70_000 + 100 * minute + sale)),
                InvalidationIntent.tag(f"stock:{chance.randrange(400)}"),
                reason="checkout",
            )
        if not 38 < minute < 48:  # a node was away
            past.behind -= 0.02 + chance.random() / 5 + 4 * (20 < minute < 32)
            worker.drain()
    past.behind = 1500
    for sku in ("A-1017", "A-1018", "B-2201"):
        site.dead_letter(
            InvalidationIntent.entity("product", sku), reason="price import, 21:30"
        )
    # Tried once more at night, in vain.
    past.behind = 700
    outbox.reset_dead_letters(NAMESPACE, by="console: ann")
    past.behind = 699
    worker.drain()
    past.behind = 0.4
    for order in range(5):
        site.enqueue(
            InvalidationIntent.entity("order", str(82_310 + order)), reason="checkout"
        )
    site.outbox, site.worker = earlier, now
    outbox.close()
    for number, host in enumerate(("web1", "web2")):
        site.outbox.beat(
            WorkerBeat(
                owner=f"{host}/2041",
                kind="pool",
                host=host,
                pid=2041 + number,
                version=__version__,
                namespaces=(NAMESPACE,),
                age=86_400.0,
                every=10.0,
                carried=1551,
                batch_age=61.0,
            )
        )
    for product in range(40):
        site.cache.reserve(f"product:{product}").fill(b"cached")
        for _ in range(chance.randrange(30)):
            site.cache.get(f"product:{product}")


def pages(site: ConsoleSite) -> dict[str, str]:
    dead = site.outbox.dead_letters(NAMESPACE)[0].id
    return {
        "overview": site.page(),
        "pending": site.page("rows", {"state": "pending"}),
        "dead": site.page("rows", {"state": "dead"}),
        "row": site.page("row", {"id": dead}),
        "question": site.page("confirm", {"action": "retry", "id": dead}),
        "actions": site.page("act"),
        "error": site.page("row", {"id": 10**9}),
    }


@contextlib.contextmanager
def opened() -> Iterator[tuple[Browser, dict[str, str]]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memcached = stack.enter_context(Memcached())
        site = stack.enter_context(console_site(folder, memcached.address, "pictures"))
        fill(site)
        driver = stack.enter_context(ChromeDriver())
        yield stack.enter_context(Browser(driver)), pages(site)


def picture(browser: Browser, url: str, width: int, dark: bool) -> bytes:
    """The whole page, however long it is."""
    browser.resize(width, 400)
    browser.prefer(dark=dark)
    browser.get(url)
    metrics = browser.command("Page.getLayoutMetrics")
    browser.resize(width, int(metrics["cssContentSize"]["height"]))
    return browser.picture()


def name_of(page: str, width: int, dark: bool) -> str:
    size = "wide" if width == WIDE else "narrow"
    return f"console-{page}-{size}-{'dark' if dark else 'light'}.png"


def smaller(png: bytes) -> bytes:
    """With a palette of the colours that are there, which text on a page has few of."""
    program = shutil.which("pngquant")
    if program is None:
        sys.exit("pngquant is missing: apt-get install pngquant")
    return subprocess.run(
        [program, "--speed=1", "--strip", "64", "-"],
        input=png,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--docs", action="store_true", help="those of the docs")
    asked = parser.parse_args()
    if asked.docs == (asked.folder is not None):
        parser.error("say a folder, or --docs")
    folder = IMAGES if asked.docs else asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    with opened() as (browser, urls):
        all_ = [
            (page, width, dark)
            for page in urls
            for width in (WIDE, NARROW)
            for dark in (False, True)
        ]
        for page, width, dark in SHOWN if asked.docs else all_:
            png = picture(browser, urls[page], width, dark)
            if asked.docs:
                png = smaller(png)
                assert len(png) <= LARGEST, f"{page}: {len(png)} bytes"
            path = folder / name_of(page, width, dark)
            path.write_bytes(png)
            print(f"{path}: {len(png)} bytes")


if __name__ == "__main__":
    main()
