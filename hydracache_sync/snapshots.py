"""When the transaction began that is open on a connection, for reads through the cache.

A loader that reads in an open REPEATABLE READ transaction, or in any of SQLite, sees
the database as it was then. Stored under the tokens of now, that would bring back what
was invalidated meanwhile. Neither driver tells the moment; but it is not before the
last time that no transaction was seen open.

Only looks at connections that the caller uses. Imports no driver.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any, Callable

from hydracache_sync.errors import ConfigurationError

#: SERVER_STATUS_IN_TRANS
_IN_TRANSACTION = 1

#: A function that is left on connections of sqlite3, see ``_reads_on``.
_PROBE = "hydracache_sync_probe"

#: Older than every token: what is loaded at this moment is never stored.
NEVER = 0.0


class LocalMoment(float):
    """A moment of this process: Unix seconds that know the steady clock's time, too.

    By that clock a cache tells whether a transaction began after a read did, which no
    wall clock can tell. Arithmetic gives a plain float.

    :ivar steady: ``time.monotonic()`` at the moment.
    """

    steady: float

    @classmethod
    def now(cls) -> LocalMoment:
        steady = time.monotonic()
        moment = cls(time.time())
        moment.steady = steady
        return moment


class ConnectionSnapshot:
    """When a connection's transaction began; for ``TaggedCache(snapshot=...)``.

    Make it when the connection is made, before its first statement, and use it in the
    threads that use the connection::

        snapshot = ConnectionSnapshot(connection)
        cache.get_or_load(key, loader, tags=tags, since=snapshot())

    Asks PyMySQL's server with a ping, because the driver does not learn from a SELECT
    that it has opened a transaction; a read asks only when it is about to load. On a
    connection of ``sqlite3`` a function named ``hydracache_sync_probe`` is left, which
    finds out whether a cursor still reads.

    :param connection: of PyMySQL or ``sqlite3``.
    :param clock: Unix seconds; replaced in tests.
    :raises ConfigurationError: it is of another driver; then pass ``since=``, the
        moment before the first statement of the transaction.
    """

    def __init__(
        self, connection: Any, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._changes = 0
        if isinstance(connection, sqlite3.Connection):
            self._is_open = self._sqlite_is_open
        elif _is_pymysql(connection):
            self._is_open = self._pymysql_is_open
        else:
            kind = type(connection)
            raise ConfigurationError(
                f"{kind.__module__}.{kind.__qualname__} is no connection of PyMySQL or"
                " sqlite3: pass since= to the read instead"
            )
        self._idle_at = NEVER
        if isinstance(connection, sqlite3.Connection):
            connection.create_function(_PROBE, 0, _nothing)
        self()

    def __call__(self) -> float | None:
        """Return a moment that the open transaction is not older than.

        :return: Unix seconds; None if there is none open, so that the next statement
            begins a fresh snapshot. ``NEVER`` for a transaction of SQLite that has
            written, and for one that was open before this object was made.
        """
        # Before the look: it may begin right after it.
        now = self._clock()
        if not self._is_open():
            self._idle_at = now
            return None
        if self._has_written():
            return NEVER
        return self._idle_at

    def ended(self) -> None:
        """State that the transaction has just been committed or rolled back.

        Not needed, but makes the next moment younger where a connection is hardly ever
        seen between two transactions, as with ``autocommit=False`` of Python 3.12.
        """
        if isinstance(self._connection, sqlite3.Connection):
            if self._reads_on():
                return
            self._changes = self._connection.total_changes
        self._idle_at = self._clock()

    def _sqlite_is_open(self) -> bool:
        if self._connection.in_transaction or self._reads_on():
            return True
        self._changes = self._connection.total_changes
        return False

    def _reads_on(self) -> bool:
        """Tell whether a SELECT is not at its end, a cursor in a loop for instance.

        It keeps its snapshot, also outside of a transaction and after a commit, and
        every other statement of the connection reads in it. Nothing says so, but SQLite
        redefines no function while a statement runs.
        """
        try:
            self._connection.create_function(_PROBE, 0, _nothing)
        except sqlite3.OperationalError:
            return True
        return False

    def _pymysql_is_open(self) -> bool:
        result = getattr(self._connection, "_result", None)
        if result is not None and getattr(result, "unbuffered_active", False):
            # It is in the middle of an answer, and a ping would throw that away.
            return True
        self._connection.ping(reconnect=False)
        return bool(self._connection.server_status & _IN_TRANSACTION)

    def _has_written(self) -> bool:
        connection = self._connection
        if not isinstance(connection, sqlite3.Connection):
            return False
        return connection.total_changes != self._changes


def _nothing() -> None:
    """Never called."""


def _is_pymysql(connection: Any) -> bool:
    return any(
        kind.__module__.startswith("pymysql.") for kind in type(connection).__mro__
    )
