"""Connections of ``sqlite3``.

Two functions may be left on one, and are never called: ``hydracache_sync_mark`` keeps
which file it has open, and ``hydracache_sync_probe`` finds out whether a cursor still
reads.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import weakref
from typing import Any, Callable, Iterator

from hydracache_sync.errors import NotInTransactionError

_PROBE = "hydracache_sync_probe"
_BLOCK = "hydracache_sync_block"


class SQLiteConnection:
    """See :class:`~hydracache_sync.drivers.connection.CallersConnection`."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    tells_snapshots = True

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._has_probe = False
        #: What it had changed when nothing of it was uncommitted; None if that never
        #: was known.
        self._committed_changes: int | None = None

    def cursor(self) -> sqlite3.Cursor:
        # Not connection.cursor(): a subclass may give it other habits.
        return sqlite3.Cursor(self.connection)

    def server(self) -> str | None:
        return None

    def session(self) -> object:
        return None

    def in_transaction(self) -> bool:
        if self.connection.in_transaction:
            return True
        # Before 3.12 there is no attribute; -1 says that isolation_level decides: the
        # driver begins a transaction before an INSERT.
        legacy = getattr(self.connection, "autocommit", -1) == -1
        return legacy and self.connection.isolation_level is not None

    def require_transaction(self) -> None:
        if self.in_transaction():
            return
        legacy = getattr(self.connection, "autocommit", -1) == -1
        mode = "isolation_level=None" if legacy else "autocommit=True"
        raise NotInTransactionError(
            f"the connection has {mode} and no transaction open: the invalidation would"
            ' be committed without the data. Execute "BEGIN" first, or use'
            " transaction() of the outbox"
        )

    def has_begun(self) -> bool | None:
        if self._is_always_open():
            return None
        return bool(self.connection.in_transaction)

    def has_snapshot(self) -> bool:
        return self.connection.in_transaction or self.is_reading()

    def seen_in_snapshot(self) -> bool | None:
        return self.has_snapshot()

    def is_reading(self) -> bool:
        """Whether a SELECT is not at its end, a cursor in a loop for instance.

        It keeps its snapshot, also outside of a transaction and after a commit, and
        every other statement of the connection reads in it. Nothing says so, but SQLite
        redefines no function while a statement runs.
        """
        try:
            # Perhaps another object has left it there: then the first fails as well.
            if not self._has_probe:
                self.connection.create_function(_PROBE, 0, _nothing)
                self._has_probe = True
            self.connection.create_function(_PROBE, 0, _nothing)
        except sqlite3.OperationalError:
            return True
        return False

    def answered(self) -> object:
        """How often its statement cache was asked, which each statement does once.

        CPython shows the cache, an ``lru_cache`` since 3.10, to its garbage collector
        alone.
        """
        for each in gc.get_referents(self.connection):
            if hasattr(each, "cache_info"):
                found = each.cache_info()
                return int(found.hits + found.misses)
        return None

    def changes(self) -> int | None:
        return int(self.connection.total_changes)

    def has_written(self) -> bool | None:
        connection, before = self.connection, self._committed_changes
        changes = connection.total_changes
        if not connection.in_transaction or changes == (before or 0):
            self._committed_changes = changes
            return False
        if before is None and self._is_always_open():
            return None
        return True

    def committed_at_once(self) -> bool:
        return not self.connection.in_transaction

    def has_committed(self) -> bool:
        return self.has_begun() is False

    def completion(self) -> Callable[[], bool] | None:
        return None

    def begin(self) -> None:
        if not self.connection.in_transaction:
            kind = self.connection.isolation_level or ""
            self.cursor().execute(f"begin {kind}")

    @contextlib.contextmanager
    def noted_end(self) -> Iterator[Callable[[], bool]]:
        cursor = self.cursor()
        try:
            cursor.execute(f"savepoint {_BLOCK}")
        except sqlite3.Error:  # an INSERT ... RETURNING has not been read to its end
            yield lambda: False
            return

        def is_over() -> bool:
            try:
                cursor.execute(f"release {_BLOCK}")
            except sqlite3.Error:
                return True
            return False

        yield is_over

    def commit(self) -> None:
        if self._commit_does_nothing():
            self.cursor().execute("commit")
        else:
            self.connection.commit()

    def roll_back(self) -> None:
        if not self._commit_does_nothing():
            self.connection.rollback()
        elif self.connection.in_transaction:
            self.cursor().execute("rollback")

    def end_implicit(self) -> None:
        """Undo the BEGIN that the driver has sent for a statement; it holds nothing."""
        with contextlib.suppress(sqlite3.Error):  # the connection was closed
            if self.connection.in_transaction:
                sqlite3.Connection.rollback(self.connection)

    def begins_late(self) -> bool:
        """Whether the driver begins a transaction by itself, but not at a savepoint."""
        return self.connection.isolation_level is not None

    def _is_always_open(self) -> bool:
        """``autocommit=False`` of Python 3.12."""
        return getattr(self.connection, "autocommit", -1) is False

    def _commit_does_nothing(self) -> bool:
        """``autocommit=True`` of Python 3.12."""
        return getattr(self.connection, "autocommit", -1) is True


def _nothing() -> None:
    """Never called."""


class _Mark:
    """Registered with a connection as an SQL function; never called.

    Which file is open a pragma says, a second statement in each producer's transaction
    if it were asked each time. A connection takes no weak reference, and an ``id()`` is
    used again after it. But it takes a function, which it releases when it is closed or
    collected. This is our mark: when it ends, the connection has ended.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self) -> str:
        return self.file


#: Marks of the connections seen, by their ``id()``; gone when the connection is. Not a
#: WeakValueDictionary, which is read by a call in Python.
_marks: dict[int, weakref.ref[_Mark]] = {}


def _keep(connection: int, mark: _Mark) -> None:
    def forget(ended: weakref.ref[_Mark]) -> None:
        # Its id() may be another's by now.
        if _marks.get(connection) is ended:
            _marks.pop(connection, None)

    _marks[connection] = weakref.ref(mark, forget)


def opened_file(connection: sqlite3.Connection) -> str:
    """Return the path of ``connection``'s main database, "" for one in memory.

    Reads no page and begins no transaction.

    :raises sqlite3.Error: the connection is closed, or belongs to another thread.
    """
    kept = _marks.get(id(connection))
    mark = None if kept is None else kept()
    if mark is None:
        # Not connection.cursor(): a subclass may give it other habits.
        cursor = sqlite3.Cursor(connection)
        cursor.row_factory = None
        text_factory, connection.text_factory = connection.text_factory, bytes
        try:
            file = cursor.execute("pragma database_list").fetchone()[2]
        finally:
            connection.text_factory = text_factory
        mark = _Mark(os.fsdecode(file or b""))
        sqlite3.Connection.create_function(connection, "hydracache_sync_mark", 0, mark)
        _keep(id(connection), mark)
    return mark.file
