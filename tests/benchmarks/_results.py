"""Result files: what a benchmark printed, where pages and plots take their figures.

``tests/support/generated.py`` says how a page asks for them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Sequence


class Results:
    """Tables that a program fills, cell by cell, as it prints them."""

    def __init__(self) -> None:
        self._tables: list[dict[str, Any]] = []

    def table(self, title: str, columns: Sequence[str]) -> list[list[str]]:
        """Begin a table; return the list that takes its rows.

        :param title: what stands above it in a page.
        """
        rows: list[list[str]] = []
        self._tables.append({"title": title, "columns": list(columns), "rows": rows})
        return rows

    def save(self, path: str | Path, **versions: str) -> None:
        """Write the tables, and how they came to be.

        :param versions: of what was measured with, by name.
        """
        program = Path(sys.argv[0]).name
        record = {
            "command": shlex.join([program, *_without_save(sys.argv[1:])]),
            "day": time.strftime("%Y-%m-%d", time.gmtime()),
            "processors": os.cpu_count(),
            "load": round(os.getloadavg()[2], 1),
            "versions": {"Python": platform.python_version(), **versions},
            "tables": self._tables,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", "utf-8")


def tell(rows: list[list[str]], *cells: str) -> None:
    """Print a row of a table, and add it."""
    rows.append(list(cells))
    first, *others = cells
    print(f"  {first:<48}" + "".join(f" {cell:>12}" for cell in others), flush=True)


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def add_save(parser: argparse.ArgumentParser) -> None:
    """Give a program the option ``--save FILE``."""
    parser.add_argument("--save", metavar="FILE", help="write the figures there, too")


def _without_save(arguments: Sequence[str]) -> list[str]:
    """The arguments that say what was measured: without ``--save FILE``."""
    kept: list[str] = []
    for at, argument in enumerate(arguments):
        is_file = at > 0 and arguments[at - 1] == "--save"
        if not is_file and argument.partition("=")[0] != "--save":
            kept.append(argument)
    return kept
