"""What pages for people say of files is true."""

from __future__ import annotations

import re

import pytest

from support import ROOT, TESTS

PAGES = [
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/project/architecture.md",
    "tests/README.md",
]

#: Where a file that a page names may be.
PLACES = [ROOT, ROOT / "hydracache_sync", TESTS]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    files = set(re.findall(r"`((?:[\w.]+/)*[\w*]+\.(?:py|md|sql|sh))`", text))

    missing = [
        name for name in files if not any(list(place.glob(name)) for place in PLACES)
    ]

    assert files and missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_page_leads_to_one(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)", path.read_text("utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []
