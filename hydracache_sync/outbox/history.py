"""What has happened to a row, beside its success: what its column ``history`` holds.

A statement that changes a row because of a failure or for an operator appends a line to
the column, and cuts the whole to its last :data:`MAX_HISTORY`. A line is the moment by
the database's clock and what :func:`noted` makes of the rest. The text begins with an
empty line, until it is cut. No worker reads it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from hydracache_sync.printable import printable, without_passwords

#: Bytes of a history at most; characters where the database counts those.
MAX_HISTORY = 4096

#: Characters of the texts of one event at most. The last error is longer in the row.
MAX_WHO, MAX_EVENT_NODE, MAX_EVENT_ERROR = 120, 100, 200

#: Characters of an error that are looked at.
_READ = 2000


class RowEventKind(enum.Enum):
    """What happened."""

    #: An attempt failed, and the row will be tried again.
    FAILED = "failed"
    #: An attempt failed, and the row was given up.
    DEAD = "dead"
    #: The row was put off without an attempt counted: its cache was away.
    WAITS = "waits"
    #: The claim ran out: its worker crashed or hung.
    EXPIRED = "expired"
    #: An operator made a dead letter pending again.
    RETRIED = "retried"
    #: A later commit enqueued the same under the same position.
    AGAIN = "enqueued again"


class RowEvent(NamedTuple):
    """One thing that happened to a row.

    :ivar at_ms: Unix milliseconds, by the outbox's clock.
    :ivar who: the worker, as its claim names it, or the operator; empty if not known.
    :ivar node: that was away; empty where the applier names no nodes.
    :ivar error: the begin of it; empty if there was none.
    """

    at_ms: int
    kind: RowEventKind
    who: str = ""
    node: str = ""
    error: str = ""


class RowHistory(NamedTuple):
    """What happened to a row, the oldest first.

    :ivar events: while a node is away, one for the first time that the row was put off.
    :ivar is_whole: whether these are all; false once older ones were dropped.
    """

    events: tuple[RowEvent, ...] = ()
    is_whole: bool = True


def noted(kind: RowEventKind, *, who: str = "", node: str = "", error: str = "") -> str:
    """Return a line but for its moment, fit to be kept: no text has a tab in it."""
    texts = (
        kind.value,
        printable(who, MAX_WHO),
        printable(node, MAX_EVENT_NODE),
        # Before it is cut: of half a URL the password would not be found.
        printable(without_passwords(error[:_READ]), MAX_EVENT_ERROR),
    )
    return "\t" + "\t".join(texts)


def history_of(stored: str | None) -> RowHistory:
    """Read what a row holds; a line that a foreign hand wrote counts as dropped."""
    if stored is None:
        return RowHistory()
    first, *lines = stored.split("\n")
    is_whole = first == "" and bool(lines) and lines[0] == ""
    events = []
    # Else the first line is what the cut has left of one, if it has left any of it.
    for line in lines[1:] if is_whole else lines:
        event = _event(line)
        if event is None:
            is_whole = False
        else:
            events.append(event)
    return RowHistory(tuple(events), is_whole)


def _event(line: str) -> RowEvent | None:
    moment, *texts = line.split("\t")
    if len(texts) != 4 or not (moment.isascii() and moment.isdigit()):
        return None
    # More digits are no moment, and Python refuses to read thousands of them.
    if len(moment) > 18:
        return None
    try:
        kind = RowEventKind(texts[0])
    except ValueError:
        return None
    # Of a claim that ran out the worker was named in SQL, with what cannot be shown.
    return RowEvent(int(moment), kind, *map(printable, texts[1:]))
