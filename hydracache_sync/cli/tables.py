"""Tables: whole and plain in a pipe, as wide as a terminal and in colour on one.

Of our own and not of a library: a pipe must get the same bytes whatever is installed,
and a command that cron starts every minute must start fast.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import Sequence

import click

from hydracache_sync.printable import printable

#: Characters that a cell keeps at least where a table has to be made narrower.
_LEAST = 12

#: Lines of a cell at most; ``hydracache dead show`` prints everything.
_LINES = 3

_MORE = "..."

_GAP = "  "


def on_terminal() -> bool:
    """Whether somebody looks at what is printed, and not a program or a log."""
    return sys.stdout.isatty()


def takes_colour() -> bool:
    """Whether the user's terminal has colours, and the user has nothing against them.

    Click takes colours out of what does not go to a terminal.
    """
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_table(
    headings: Sequence[str],
    records: Sequence[Sequence[str]],
    colours: Sequence[str | None] = (),
) -> None:
    """Print ``records``; what is in them may come from anywhere.

    On a terminal no line is longer than it is wide. A pipe gets all of each cell.

    :param colours: one for each record; None for the terminal's own.
    """
    shown = [[printable(cell) for cell in record] for record in records]
    width = _width() if on_terminal() else None
    top, *lines = table_lines(headings, shown, width)
    for line in top:
        click.secho(line, bold=True)
    for of_record, colour in zip(lines, colours or [None] * len(lines)):
        for line in of_record:
            click.echo(click.style(line, fg=colour) if line and colour else line)


def in_lines(text: str, indent: int = 0) -> str:
    """Break ``text`` between its words as wide as the terminal. A pipe gets one line.

    :param indent: characters before each line but the first, which stands behind them.
    """
    if not on_terminal():
        return text
    room = max(_width() - indent, _LEAST)
    lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)
    return f"\n{' ' * indent}".join(lines)


def _width() -> int:
    # A terminal breaks the line when the last column is written to, some of them.
    return shutil.get_terminal_size().columns - 1


def table_lines(
    headings: Sequence[str], records: Sequence[Sequence[str]], width: int | None
) -> list[list[str]]:
    """Lay a table out in ``width`` characters; None is as many as it takes.

    Where it is too wide, headings are broken between their words, then the longest
    cells. Where that is not enough, each record is a list of its cells.

    :return: the lines of the headings, if there are any, then those of each record.
    """
    columns = list(zip(*records)) if records else [()] * len(headings)
    cells = [max(map(len, column), default=0) for column in columns]
    widths = [max(pair) for pair in zip(cells, map(len, headings))]
    if width is None or _total(widths) <= width:
        return [[_line(record, widths)] for record in (headings, *records)]
    words = [max(map(len, heading.split())) for heading in headings]
    widths = [max(pair) for pair in zip(cells, words)]
    least = [max(word, min(cell, _LEAST)) for word, cell in zip(words, cells)]
    if _total(least) > width:
        return [[], *(_list(headings, record, width) for record in records)]
    while _total(widths) > width:
        room = [each - low for each, low in zip(widths, least)]
        longest = max(each for each, left in zip(widths, room) if left)
        place = next(n for n, each in enumerate(widths) if each == longest and room[n])
        widths[place] -= 1
    top = [wrapped(heading, each) for heading, each in zip(headings, widths)]
    depth = max(map(len, top))
    top = [[""] * (depth - len(heading)) + heading for heading in top]
    found = [[_line(row, widths) for row in zip(*top)]]
    for record in records:
        parts = [wrapped(cell, each) for cell, each in zip(record, widths)]
        depth = max(map(len, parts))
        parts = [part + [""] * (depth - len(part)) for part in parts]
        found.append([_line(row, widths) for row in zip(*parts)])
    return found


def wrapped(text: str, width: int) -> list[str]:
    """Break ``text`` between words, and within those that are too long."""
    most = _LINES if width > len(_MORE) else None
    return textwrap.wrap(
        text, width, max_lines=most, placeholder=_MORE, break_on_hyphens=False
    ) or [""]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(map(str.ljust, cells, widths)).rstrip()


def _list(headings: Sequence[str], record: Sequence[str], width: int) -> list[str]:
    longest = max(map(len, headings))
    room = max(width - longest - len(_GAP), 4)
    lines = []
    for heading, cell in zip(headings, record):
        for number, part in enumerate(wrapped(cell, room)):
            name = "" if number else heading
            lines.append(f"{name.ljust(longest)}{_GAP}{part}".rstrip())
    return [*lines, ""]
