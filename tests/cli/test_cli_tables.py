"""Tables: whole in a pipe, no wider than a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from hydracache_sync.cli.row_output import HEADINGS
from hydracache_sync.cli.tables import table_lines
from support import ROOT
from support.commands import PATIENCE, PROGRAM, Shop, environment

STATUS = ("namespace", "pending", "oldest pending", "dead letters", "last published")
RECORD = ("shop", "12", "3 min 4 s", "0", "2026-11-29 03:12:44Z")
ROW = ("1234", "shop", "entity product 123456789", "backoff", "2 h 3 min", "12")
ROW += ("memcached: connection refused by cache-3.internal:11211",)


def test_a_pipe_gets_all_of_each_cell() -> None:
    lines = table_lines(HEADINGS, [ROW], None)

    assert len(lines) == 2
    assert ROW[-1] in lines[1]


@pytest.mark.parametrize("width", range(20, 121))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for headings, record in ((STATUS, RECORD), (HEADINGS, ROW)):
        lines = table_lines(headings, [record, record], width)

        assert max(map(len, lines)) <= width
        assert all(line == line.rstrip() for line in lines)


def test_headings_are_broken_between_words_before_a_cell_is_cut() -> None:
    lines = table_lines(STATUS, [RECORD], 64)

    assert lines == [
        "                    oldest     dead     last",
        "namespace  pending  pending    letters  published",
        "shop       12       3 min 4 s  0        2026-11-29 03:12:44Z",
    ]


def test_the_longest_cells_are_cut_and_the_others_kept() -> None:
    *_, line = table_lines(HEADINGS, [ROW], 79)

    assert line.split()[:2] == ["1234", "shop"]
    assert "backoff" in line and "2 h 3 min" in line and line.endswith("...")


def test_what_fits_no_table_is_a_list() -> None:
    assert table_lines(STATUS, [RECORD], 36) == [
        "namespace       shop",
        "pending         12",
        "oldest pending  3 min 4 s",
        "dead letters    0",
        "last published  2026-11-29 03:12:44Z",
    ]


def test_a_table_without_records_has_its_headings() -> None:
    assert table_lines(("id", "state"), [], None) == ["id  state"]


def test_a_terminal_of_80_columns_shows_whole_lines(
    tmp_path: Path, unique: str
) -> None:
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
        shop.invalidate(3)
        values = {**environment(**shop.settings), "PYTHONPATH": ""}
        values.pop("COLUMNS", None)
        ran = subprocess.run(
            [sys.executable, *PROGRAM[1:], "rows"],
            env=values,
            stdin=child,
            stdout=child,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            cwd=ROOT,
        )
        status = subprocess.run(
            [sys.executable, *PROGRAM[1:], "status"],
            env=values,
            stdin=child,
            stdout=child,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            cwd=ROOT,
        )
    os.close(child)
    shown = os.read(parent, 65536).decode()
    os.close(parent)

    assert (ran.returncode, status.returncode) == (0, 0), ran.stderr
    assert max(len(line) for line in shown.splitlines()) < 80
    assert shown.count("key product:") == 3
