"""The parts of pages that programs write: tables of settings, figures of benchmarks.

    PYTHONPATH=tests python -m support.generated

A part stands between two comments, which a code host does not show::

    <!-- figures hit_rate -->
    <!-- end -->

These are the tables of ``docs/figures/hit_rate.json``, which a benchmark has written,
with its command, its day and its machine. ``<!-- settings of commands -->`` and
``<!-- settings of apps -->`` are the tables of the settings.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Iterable, Iterator

from hydracache_sync.app.app_settings import APP_SETTINGS
from hydracache_sync.app.setting import Setting
from hydracache_sync.app.settings import SETTINGS
from support import ROOT

FIGURES = ROOT / "docs" / "figures"

PART = re.compile(
    r"(<!-- (figures|settings) (?:of )?(\w+) -->\n).*?(<!-- end -->)", re.S
)


def filled(page: str) -> str:
    """Return the text of a page with the parts that it asks for.

    :raises FileNotFoundError: there is no such result file.
    """

    def part(found: re.Match[str]) -> str:
        lines = _figures(found[3]) if found[2] == "figures" else _settings(found[3])
        return found[1] + "".join(f"{line}\n" for line in lines) + found[4]

    return PART.sub(part, page)


def pages() -> list[Path]:
    """Those that have such parts."""
    found = sorted((ROOT / "docs").glob("*/*.md"))
    return [page for page in found if PART.search(page.read_text("utf-8"))]


def _table(columns: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    # An empty cell is one blank: the formatters of others agree on that.
    for row in (columns, ["---"] * len(columns), *rows):
        yield re.sub("  +", " ", f"| {' | '.join(row)} |")


def _settings(whose: str) -> Iterator[str]:
    of_apps = whose == "apps"
    rows = []
    for each in APP_SETTINGS if of_apps else SETTINGS:
        name = f"`{each.variable}`"
        if not of_apps:
            name += f"<br>`{each.option} {_value(each)}`"
        meaning = re.sub(r"\b[a-z]+:/{2,4}[^ ,]+[a-z]", r"`\g<0>`", each.meaning)
        rows.append([name, _default(each.default), meaning])
    return _table(["key" if of_apps else "setting", "default", "meaning"], rows)


def _value(setting: Setting) -> str:
    """What the option takes; a bar would end the cell."""
    return setting.metavar.replace("|", "/")


def _default(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, (int, float)):
        return f"{default:.10g}"
    return f"`{default}`" if not str(default).isalnum() else str(default)


def result(name: str) -> Any:
    """What a result file holds."""
    return json.loads((FIGURES / f"{name}.json").read_text("utf-8"))


def _figures(name: str) -> Iterator[str]:
    found = result(name)
    versions = ", ".join(" ".join(each) for each in found["versions"].items())
    yield f"`tests/benchmarks/{found['command']}`, {found['day']}; {versions};"
    yield f"{found['processors']} processors, load {found['load']:g}."
    for table in found["tables"]:
        yield from ("", table["title"], "")
        yield from _table(table["columns"], table["rows"])


def main() -> None:
    for page in pages():
        page.write_text(filled(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
