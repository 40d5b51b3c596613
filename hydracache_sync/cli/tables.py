"""Tables for a terminal: columns as wide as what is in them, no more."""

from __future__ import annotations

from typing import Sequence

import click

from hydracache_sync.printable import printable


def print_table(headings: Sequence[str], records: Sequence[Sequence[str]]) -> None:
    """Print ``records``; what is in them may come from anywhere."""
    table = [headings, *([printable(cell) for cell in record] for record in records)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths)]
        click.echo("  ".join(cells).rstrip())


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
