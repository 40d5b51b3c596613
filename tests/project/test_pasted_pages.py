"""Pages of concepts, tasks and operations show what a reader gets who pastes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import ROOT
from support.page_blocks import pasted_pages
from support.pasted import Terminal

# Each command of a page is a process of its own, which a busy machine starts slowly.
pytestmark = pytest.mark.timeout(600)

#: All that no other test runs.
PAGES = [page for page in pasted_pages() if not page.startswith("docs/tutorials/")]


@pytest.mark.parametrize("page", PAGES)
def test_all_that_it_shows_comes(tmp_path: Path, page: str) -> None:
    text = (ROOT / page).read_text("utf-8")

    with Terminal(tmp_path) as terminal:
        count = terminal.paste(text)

    assert count >= 1
    assert text.count("\n") <= 120


@pytest.mark.parametrize("page", PAGES)
def test_the_index_of_its_folder_names_it(page: str) -> None:
    path = ROOT / page

    assert f"]({path.name})" in (path.parent / "index.md").read_text("utf-8")
