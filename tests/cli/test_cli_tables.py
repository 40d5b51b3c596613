"""Tables: whole and plain in a pipe, no wider than a terminal and in colour on one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import InvalidationIntentBatch
from hydracache_sync.cli.row_output import HEADINGS
from hydracache_sync.cli.tables import table_lines
from support import ROOT
from support.commands import PATIENCE, PROGRAM, Shop, environment, run

STATUS = ("namespace", "pending", "oldest pending", "dead letters", "last published")
RECORD = ("shop", "12", "3 min 4 s", "0", "2026-11-29 03:12:44Z")
ERROR = "memcached: connection refused by cache-3.internal:11211, is it running there?"
ROW = ("1234", "shop", "entity product 123456789", "backoff", "2 h 3 min", "12", ERROR)

#: What colours and bold letters are switched by.
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def lines_of(headings: Any, records: Any, width: int | None) -> list[str]:
    return [line for part in table_lines(headings, records, width) for line in part]


def test_a_pipe_gets_all_of_each_cell() -> None:
    lines = lines_of(HEADINGS, [ROW], None)

    assert len(lines) == 2
    assert lines[1].endswith(ERROR)


@pytest.mark.parametrize("width", range(20, 121))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for headings, record in ((STATUS, RECORD), (HEADINGS, ROW)):
        lines = lines_of(headings, [record, record], width)

        assert max(map(len, lines)) <= width
        assert all(line == line.rstrip() for line in lines)


def test_headings_are_broken_between_words_before_a_cell_is() -> None:
    assert lines_of(STATUS, [RECORD], 64) == [
        "                    oldest     dead",
        "namespace  pending  pending    letters  last published",
        "shop       12       3 min 4 s  0        2026-11-29 03:12:44Z",
    ]


def test_the_longest_cells_are_broken_between_words() -> None:
    assert lines_of(HEADINGS, [ROW], 79) == [
        "id    namespace  invalidates      state    age        attempts  last error",
        "1234  shop       entity product   backoff  2 h 3 min  12        memcached:",
        "                 123456789                                      connection",
        "                                                                refused by...",
    ]


def test_a_long_word_is_broken_where_it_must_be() -> None:
    *_, first, second = lines_of(("id", "value"), [("1", "x" * 30)], 24)

    assert (first, second) == ("1   " + "x" * 20, "    " + "x" * 10)


def test_what_fits_no_table_is_a_list() -> None:
    assert lines_of(STATUS, [RECORD, RECORD], 32) == 2 * [
        "namespace       shop",
        "pending         12",
        "oldest pending  3 min 4 s",
        "dead letters    0",
        "last published  2026-11-29",
        "                03:12:44Z",
        "",
    ]


def test_a_table_without_records_has_its_headings() -> None:
    assert lines_of(("id", "state"), [], None) == ["id  state"]


@pytest.fixture
def shop(tmp_path: Path, unique: str) -> Iterator[Shop]:
    """Three rows that wait, and one dead letter with a long error."""
    with Shop(tmp_path / "shop.db", unique, "127.0.0.1:1") as shop:
        shop.invalidate(4)
        [row] = shop.outbox.claim(shop.namespace, "test", limit=1, claim_ttl=30)
        shop.outbox.mark_failed([row], ERROR, backoff=0, dead=True)
        shop.outbox.pause(shop.namespace, "until the second node has more memory")
        yield shop


def on_terminal(shop: Shop, columns: int, *arguments: str, **variables: str) -> str:
    """What a command shows on a terminal that is so wide."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    given = ("outbox", "namespace", "memcached")
    values = environment(**{name: shop.settings[name] for name in given})
    for name in ("COLUMNS", "NO_COLOR"):
        values.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, *PROGRAM[1:], *arguments],
        env={**values, "PYTHONPATH": "", "TERM": "xterm", **variables},
        stdin=child,
        stdout=child,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    os.close(child)
    shown = b""
    try:
        # At the end of the program Linux answers with an error.
        with contextlib.suppress(OSError):
            while data := os.read(parent, 65536):
                shown += data
        _, complaints = process.communicate(timeout=PATIENCE)
    finally:
        os.close(parent)
        process.kill()
        process.wait()
    assert complaints == b""
    return shown.decode().replace("\r\n", "\n")


COMMANDS = [("rows", "--state", "all"), ("status",), ("dead", "list"), ("doctor",)]
COMMANDS += [("dead", "show", "1")]


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_a_terminal_shows_whole_words_in_its_width(
    shop: Shop, columns: int, command: tuple[str, ...]
) -> None:
    shown = STYLE.sub("", on_terminal(shop, columns, *command))

    # An identifier is not broken, so that it can be copied.
    long = [line for line in shown.splitlines() if len(line) >= columns]
    assert all(re.search(r"\S{20}$", line) for line in long), shown
    if command[0] in ("rows", "dead"):
        assert {"memcached:", "connection", "refused"} <= set(shown.split())


def test_what_needs_somebody_is_red(shop: Shop) -> None:
    status = on_terminal(shop, 80, "status")
    rows = on_terminal(shop, 80, "rows", "--state", "all")
    doctor = on_terminal(shop, 80, "doctor")

    assert "\x1b[31mALERT" in status
    assert len(re.findall(r"\x1b\[31m\d", rows)) == 1  # the dead one
    assert "\x1b[31mPROBLEM" in doctor and "\x1b[32mok" in doctor


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_colours_are_left_out_where_they_are_not_wanted(
    shop: Shop, command: tuple[str, ...], variables: dict[str, str]
) -> None:
    assert "\x1b" not in on_terminal(shop, 80, *command, **variables)


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_a_pipe_gets_whole_lines_without_colours(
    shop: Shop, command: tuple[str, ...]
) -> None:
    given = ("outbox", "namespace", "memcached")
    taken = {name: shop.settings[name] for name in given if name != "memcached"}
    if command == ("doctor",):
        taken["memcached"] = shop.settings["memcached"]

    shown = run(*command, **taken).out

    assert "\x1b" not in shown
    if "status" not in command and "doctor" not in command:
        assert ERROR in shown


def test_moments_are_in_words_on_a_terminal_and_exact_elsewhere(
    shop: Shop,
) -> None:
    receipt = shop.outbox.enqueue(shop.namespace, InvalidationIntentBatch().flush())
    shop.outbox.publish_commit(receipt)
    taken = {name: shop.settings[name] for name in ("outbox", "namespace")}

    terminal = STYLE.sub("", on_terminal(shop, 120, "status"))
    pipe = run("status", **taken).out
    [exact] = run("status", "--json", **taken).json["namespaces"]

    assert re.search(r"[0-9.]+ s ago$", terminal, re.M), terminal
    assert re.search(r"is paused for [0-9.]+ s:", terminal), terminal
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", pipe, re.M), pipe
    assert exact["last_published_at_ms"] > 0
