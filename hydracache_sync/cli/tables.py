"""Tables for a terminal: columns as wide as what is in them, no more."""

from __future__ import annotations

from typing import Sequence

import click


def print_table(headings: Sequence[str], records: Sequence[Sequence[str]]) -> None:
    table = [headings, *records]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths)]
        click.echo("  ".join(cells).rstrip())


def printable(text: str) -> str:
    """Escape what would move the cursor: keys and errors come from anywhere."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
