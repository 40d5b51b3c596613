"""The build fails if a page would load anything from another host.

So the site reads the same without a network, and no other host learns of its readers.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

#: What a browser fetches by itself, with the attribute that says from where.
FETCHED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}

ELSEWHERE = re.compile(r"(?:https?:)?//", re.I)


class Assets(HTMLParser):
    """Collects what a page fetches from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, "")) or ""
        if ELSEWHERE.match(address):
            self.elsewhere.append(address)


def fetched_from_elsewhere(path: Path) -> list[str]:
    """Addresses on other hosts that a page or a style sheet has the browser fetch."""
    text = path.read_text("utf-8")
    if path.suffix == ".css":
        return re.findall(r"url\(\s*['\"]?((?:https?:)?//[^'\")]+)", text)
    assets = Assets()
    assets.feed(text)
    return assets.elsewhere


def check(app: Sphinx, exception: Exception | None) -> None:
    """Look through what was written.

    :raises SphinxError: something is fetched from elsewhere; names page and address.
    """
    if exception is not None or app.builder.format != "html":
        return
    pages = [
        path for path in Path(app.outdir).rglob("*") if path.suffix in {".html", ".css"}
    ]
    found = [
        f"{path.relative_to(app.outdir)} fetches {address}"
        for path in pages
        for address in fetched_from_elsewhere(path)
    ]
    if found:
        raise SphinxError("\n".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
