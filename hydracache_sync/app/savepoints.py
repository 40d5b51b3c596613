"""The savepoints that this thread sets and goes back to, as far as that is seen.

Rows that were written after a savepoint are undone with it. Mostly the data is undone,
too. But intents that were collected before the savepoint are of data that stays. And
where the server has ended the transaction by an error, code may go on, and commit the
rest of its data in another one.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from math import inf
from typing import Any, Callable, Deque

from hydracache_sync.fork import ProcessLocal

#: Savepoints of a thread that are remembered, by their names. One that is not counts
#: as set after all that was collected.
REMEMBERED = 64

#: Blanks, and the comments by which programs say where a statement comes from.
_BEFORE = r"(?:\s|(?:--|#)[^\n]*\n|/\*.*?\*/)*"

#: Of what a procedure or a prepared statement does the server tells nobody: it may go
#: back to a savepoint, roll back, commit, or handle a deadlock.
_HIDDEN = r"call|execute|begin\s+not\s+atomic"

#: Statements by which MySQL commits what is open.
_COMMITS = (
    r"commit|begin|start\s+transaction|(?:create|drop)(?!\s+temporary\b)|alter"
    r"|truncate|rename|lock|unlock|grant|revoke|analyze|check|optimize|repair|flush"
    r"|(?:un)?install|set\s[^;]*?autocommit"
)

#: What a statement does to savepoints, and to the transaction.
_notable = re.compile(
    _BEFORE + r"(?:savepoint\s+(?P<sets>\S+)"
    r"|rollback\s+(?:(?:work|transaction)\s+)?to\s+(?:savepoint\s+)?(?P<goes_back>\S+)"
    rf"|(?P<is_hidden>{_HIDDEN})\b|(?P<commits>{_COMMITS})\b)",
    re.I | re.S,
).match

#: The same further on in a text: drivers of MySQL can be told to allow that. If it is
#: in a string, the rows are looked for once too often.
_notable_further = re.compile(
    rf";{_BEFORE}(?:rollback|{_HIDDEN}|{_COMMITS})\b", re.I | re.S
).search

#: Statements that leave nothing behind to be committed.
_changes_nothing = re.compile(
    _BEFORE + r"(?:select|show|set(?!\s+statement\b)|begin|start|savepoint|release"
    r"|commit|rollback)\b[^;]*;?\s*\Z",
    re.I | re.S,
).match


class _OfThread:
    def __init__(self) -> None:
        self.count = 0
        self.numbers: OrderedDict[str, int] = OrderedDict()
        self.rollbacks = 0
        #: To which ones, by their numbers, the newest last.
        self.gone_back: Deque[float] = deque(maxlen=REMEMBERED)
        #: Statements by which MySQL commits, and those that may hide such.
        self.commits = 0
        #: The server may have ended a transaction, and nothing was changed since.
        self.has_ended = False


_local = ProcessLocal()


def _this_thread() -> _OfThread:
    mine = _local.mine()
    try:
        found: _OfThread = mine.savepoints
    except AttributeError:
        found = mine.savepoints = _OfThread()
    return found


def note_statement(statement: Any) -> None:
    """State that this thread sends a statement, given its text or its bytes."""
    if isinstance(statement, bytes):
        part = statement if b";" in statement else statement[:200]
        statement = part.decode("latin-1")
    elif not isinstance(statement, str):
        return
    mine = _this_thread()
    if mine.has_ended and not _changes_nothing(statement):
        # The code goes on, and may commit this without what was written before.
        mine.has_ended = False
        _note_undone_since(inf)
    if ";" in statement and _notable_further(statement):
        mine.commits += 1
        _note_undone_since(inf)
    found = _notable(statement)
    if not found:
        return
    if found["sets"]:
        note_set(found["sets"])
    elif found["goes_back"]:
        note_rollback(found["goes_back"])
    else:
        mine.commits += 1
        if found["is_hidden"]:
            _note_undone_since(inf)


def note_end() -> None:
    """State that the server may have ended a transaction of this thread's, by an error.

    Code that changes nothing more has lost its data with it.
    """
    _this_thread().has_ended = True


def note_set(name: str | None) -> None:
    """State that this thread sets a savepoint."""
    mine = _this_thread()
    mine.count += 1
    name = _plain(name)
    # At the end, also where it was there.
    mine.numbers.pop(name, None)
    mine.numbers[name] = mine.count
    if len(mine.numbers) > REMEMBERED:
        mine.numbers.popitem(last=False)


def note_rollback(name: str | None) -> None:
    """State that this thread undoes what it has sent since a savepoint."""
    _note_undone_since(_this_thread().numbers.get(_plain(name), inf))


def _note_undone_since(savepoint: float) -> None:
    mine = _this_thread()
    mine.gone_back.append(savepoint)
    mine.rollbacks += 1


def commits() -> int:
    """How many statements this thread has sent by which MySQL commits, or may."""
    return _this_thread().commits


def number() -> int:
    """How many savepoints this thread has set: for :func:`undone_after`."""
    return _this_thread().count


def undone_after(collected_at: int) -> Callable[[], bool]:
    """Return what tells of a rollback after this call to a savepoint after another.

    :param collected_at: a :func:`number`: whether the savepoint was set later.
    """
    mine = _this_thread()
    before = mine.rollbacks

    def is_undone() -> bool:
        since = mine.rollbacks - before
        seen = list(mine.gone_back)
        return since > len(seen) or any(
            savepoint > collected_at for savepoint in seen[len(seen) - since :]
        )

    return is_undone


def _plain(name: str | None) -> str:
    return (name or "").rstrip(";").strip('`"').lower()
