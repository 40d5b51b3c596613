"""Every fenced block of the pages, and what runs it.

A page that is not in :data:`RUN_BY` is pasted into a terminal, as a tutorial is: by
``project/test_pasted_pages.py``, which needs no list of its own. Of another page each
block has an entry, in order, so that a block that is added has none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from support import ROOT

#: Pages that readers of the repository and of the site have.
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "examples").glob("**/README.md")),
]

#: Languages that nothing has to run, each with the reason.
NOT_RUN = {
    "mermaid": "a picture; `make docs` draws it",
    "{eval-rst}": "autodoc, which `make docs` resolves with warnings as errors",
}

#: In one process, after a prelude: a test for each page.
FRAGMENTS = "project/test_page_fragments.py"
WIRING = "project/test_readme_wiring.py"
#: Nothing, but its commands are parsed, as those of all blocks.
CHECKED = "project/test_page_blocks.py"
#: Nothing: arrows and words.
DRAWING = ""

#: The test that runs each block of a page, in order.
RUN_BY: dict[str, list[str]] = {
    "README.md": ["project/test_readme.py"] * 5,
    "docs/concepts/bounded_staleness.md": [FRAGMENTS],
    "docs/concepts/guide.md": [DRAWING, FRAGMENTS, FRAGMENTS],
    "docs/concepts/own_writes.md": [FRAGMENTS],
    "docs/concepts/strict.md": [FRAGMENTS],
    "docs/how_to/drains_and_pools.md": [CHECKED, FRAGMENTS, FRAGMENTS],
    "docs/how_to/finding_missing_tags.md": [FRAGMENTS] * 3,
    "docs/how_to/jobs.md": ["web/test_jobs.py"] * 4,
    "docs/how_to/library.md": [FRAGMENTS] * 5,
    "docs/how_to/migrations.md": ["web/test_alembic.py"] * 4,
    "docs/how_to/pages.md": [FRAGMENTS] * 3,
    "docs/how_to/plain_keys.md": ["worker/test_plain_key_libraries.py"] * 5,
    "docs/how_to/restore.md": ["cli/test_cli_invalidate.py"],
    "docs/how_to/testing.md": ["testing/test_docs_testing.py"] * 9,
    "docs/integrations/django.md": [
        WIRING,
        "web/test_django_app.py",
        *[WIRING] * 3,
        "web/test_django_app.py",
    ],
    "docs/integrations/flask.md": [WIRING],
    "docs/integrations/sqlalchemy.md": [WIRING, *[FRAGMENTS] * 3],
    "docs/integrations/wsgi.md": [WIRING, FRAGMENTS, "web/test_wsgi.py"],
    "docs/operations/console.md": [
        "cli/test_cli_console.py",
        FRAGMENTS,
        FRAGMENTS,
        "web/test_console_changes.py",
    ],
    "docs/operations/databases.md": [
        "on_mysql/test_mysql_pages.py",
        "on_mysql/test_mysql_grants.py",
        "on_mysql/test_mysql_pages.py",
    ],
    "docs/operations/metrics.md": [FRAGMENTS],
    "docs/operations/nodes.md": [FRAGMENTS],
    "docs/operations/operating.md": [
        "cli/test_cli_dead.py",
        "cli/test_cli_carriers.py",
        FRAGMENTS,
        CHECKED,
    ],
    "docs/operations/servers.md": [FRAGMENTS, FRAGMENTS],
    "docs/project/coming_from.md": ["web/test_coming_from.py"] * 3,
    "docs/project/consistency.md": ["model/test_model.py"],
    "docs/project/model_late_messages.md": ["model/test_model.py"],
    "docs/project/model_rules.md": ["model/test_model.py"] * 2,
    "examples/cron/README.md": ["cli/test_cli_cron.py"],
    "examples/flask_mysql/README.md": ["servers_web/test_server_examples.py"],
    "examples/flask_sqlite/README.md": ["project/test_web_examples.py"],
    "examples/legacy_wsgi/README.md": ["project/test_web_examples.py"],
    "examples/monitoring/README.md": [CHECKED, "project/test_monitoring.py"],
    "examples/shop_pymysql/README.md": ["project/test_shop_examples.py"],
    "examples/shop_sqlalchemy/README.md": ["project/test_shop_examples.py"],
    "examples/systemd/README.md": ["cli/test_cli_worker.py"] * 3,
}


class Block(NamedTuple):
    """A fenced block.

    :ivar page: its path below the root.
    :ivar line: of its first line.
    """

    page: str
    line: int
    language: str
    body: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_in(text: str, page: str = "") -> list[Block]:
    """Every fenced block, of any language and depth.

    :raises ValueError: one has no end.
    """
    found = []
    opened: tuple[int, str, int] | None = None
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        fence = re.match(r"\s*(?:```|~~~)\s*(\S*)", line)
        if fence is None:
            continue
        if opened is None:
            opened = number + 1, fence[1], len(line) - len(line.lstrip())
            continue
        first, language, depth = opened
        body = "".join(each[depth:] or "\n" for each in lines[first - 1 : number - 1])
        found.append(Block(page, first, language, body))
        opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: a block without an end")
    return found


def blocks_of(page: str) -> list[Block]:
    """Those of a page that something has to run."""
    text = (ROOT / page).read_text("utf-8")
    return [each for each in blocks_in(text, page) if each.language not in NOT_RUN]


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(name_of(page))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def pasted_pages() -> list[str]:
    """Those that are pasted into a terminal, by their paths."""
    return [
        name_of(page)
        for page in PAGES
        if name_of(page) not in RUN_BY and blocks_of(name_of(page))
    ]
