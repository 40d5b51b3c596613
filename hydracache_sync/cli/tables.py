"""Tables for a terminal: columns as wide as what is in them, if the terminal is."""

from __future__ import annotations

import shutil
import sys
from typing import Sequence

import click

from hydracache_sync.printable import printable

#: Characters that a cell keeps at least where a table has to be made narrower.
_LEAST = 12

_GAP = "  "


def print_table(headings: Sequence[str], records: Sequence[Sequence[str]]) -> None:
    """Print ``records``; what is in them may come from anywhere.

    On a terminal no line is longer than it is wide. A pipe gets all of each cell.
    """
    shown = [[printable(cell) for cell in record] for record in records]
    # A terminal breaks the line when the last column is written to, some of them.
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None
    for line in table_lines(headings, shown, width):
        click.echo(line)


def table_lines(
    headings: Sequence[str], records: Sequence[Sequence[str]], width: int | None
) -> list[str]:
    """Lay a table out in ``width`` characters; None is as many as it takes.

    Where it is too wide, headings are broken between their words, then the longest
    cells are cut. Where that is not enough, each record is a list of its cells.
    """
    columns = list(zip(*records)) if records else [()] * len(headings)
    cells = [max(map(len, column), default=0) for column in columns]
    widths = [max(pair) for pair in zip(cells, map(len, headings))]
    heads = [[heading] for heading in headings]
    if width is not None and _total(widths) > width:
        heads = [heading.split() for heading in headings]
        words = [max(map(len, head)) for head in heads]
        widths = [max(pair) for pair in zip(cells, words)]
        least = [max(word, min(cell, _LEAST)) for word, cell in zip(words, cells)]
        while _total(widths) > width and widths != least:
            room = [each - low for each, low in zip(widths, least)]
            longest = max((each for each, left in zip(widths, room) if left))
            place = next(
                n for n, each in enumerate(widths) if each == longest and room[n]
            )
            widths[place] -= 1
        if _total(widths) > width:
            return _lists(headings, records, width)
    depth = max(map(len, heads))
    top = [
        [
            head[row - depth + len(head)] if row >= depth - len(head) else ""
            for head in heads
        ]
        for row in range(depth)
    ]
    return [_line(row, widths) for row in (*top, *records)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    fitted = (cut(cell, width).ljust(width) for cell, width in zip(cells, widths))
    return _GAP.join(fitted).rstrip()


def _lists(
    headings: Sequence[str], records: Sequence[Sequence[str]], width: int
) -> list[str]:
    longest = max(map(len, headings))
    return [
        cut(f"{heading.ljust(longest)}{_GAP}{cell}", width)
        for record in records
        for heading, cell in zip(headings, record)
    ]


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."
