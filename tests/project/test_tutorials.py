"""Each tutorial works when all its blocks are pasted into an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import ROOT
from support.pasted import Terminal

# Each command of a page is a process of its own, which a busy machine starts slowly.
pytestmark = pytest.mark.timeout(600)

TUTORIALS = ROOT / "docs" / "tutorials"

PAGES = sorted(each.stem for each in TUTORIALS.glob("*.md") if each.stem != "index")

#: Those that use a database server.
ON_MYSQL = {"flask_sqlalchemy", "pymysql"}


@pytest.mark.parametrize("page", PAGES)
def test_all_that_it_shows_comes(tmp_path: Path, page: str) -> None:
    text = (TUTORIALS / f"{page}.md").read_text("utf-8")

    with Terminal(tmp_path, mariadb=page in ON_MYSQL) as terminal:
        count = terminal.paste(text)

    assert count >= 10
    assert text.count("\n") < 160
