"""When the snapshot began that a connection reads in, for reads through the cache.

A loader that reads in an open REPEATABLE READ transaction, or in any of SQLite, sees
the database as it was then. Stored under the tokens of now, that would bring back what
was invalidated meanwhile. Neither driver tells the moment; but it is not before the
last time that no transaction was seen open.

Only looks at connections that the caller uses; what each tells is in
:mod:`~hydracache_sync.drivers`.
"""

from __future__ import annotations

import time
from math import inf
from typing import Any, Callable

from hydracache_sync.drivers import find_driver
from hydracache_sync.errors import ConfigurationError

#: Older than every token: what is loaded at this moment is never stored.
NEVER = 0.0


class LocalMoment(float):
    """A moment of this process: Unix seconds that know the steady clock's time, too.

    By that clock a cache tells whether a transaction began after a read did, which no
    wall clock can tell. Arithmetic gives a plain float.

    :ivar steady: ``time.monotonic()`` at the moment; before everything if not known.
    :ivar why: what a value is not stored for that is refused because of it, as
        ``CacheDiagnostics`` counts it; empty if nothing in particular.
    """

    steady: float = -inf
    why: str = ""

    @classmethod
    def now(cls) -> LocalMoment:
        steady = time.monotonic()
        moment = cls(time.time())
        moment.steady = steady
        return moment

    @classmethod
    def because(cls, why: str, at: float) -> LocalMoment:
        """Return the moment ``at``, which says why."""
        moment = cls(at)
        moment.steady = getattr(at, "steady", -inf)
        moment.why = why
        return moment


def oldest(*moments: float | None) -> float | None:
    """Return the first of ``moments``, by either clock; None if none of them is one."""
    known = [each for each in moments if each is not None]
    if not known:
        return None
    first = min(known)
    steady = min(getattr(each, "steady", -inf) for each in known)
    if getattr(first, "steady", -inf) > steady:  # the wall clock was set back
        first = LocalMoment.because(getattr(first, "why", ""), first)
        first.steady = steady
    return first


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
        driver = find_driver(connection)
        if driver is None or not driver.tells_snapshots:
            kind = type(connection)
            raise ConfigurationError(
                f"{kind.__module__}.{kind.__qualname__} is no connection of PyMySQL or"
                " sqlite3: pass since= to the read instead"
            )
        self._driver = driver
        self._clock = clock
        #: Rows that it had changed when no transaction was open.
        self._changes: int | None = 0
        self._idle_at = NEVER
        self()

    def __call__(self) -> float | None:
        """Return a moment that the open transaction is not older than.

        :return: Unix seconds; None if there is none open, so that the next statement
            begins a fresh snapshot. ``NEVER`` for a transaction of SQLite that has
            written, and for one that was open before this object was made.
        """
        # Before the look: it may begin right after it.
        now = self._clock()
        if not self._driver.has_snapshot():
            self._idle_at, self._changes = now, self._driver.changes()
            return None
        changes = self._driver.changes()
        if changes is not None and changes != self._changes:
            return NEVER
        return self._idle_at

    def ended(self) -> None:
        """State that the transaction has just been committed or rolled back.

        Not needed, but makes the next moment younger where a connection is hardly ever
        seen between two transactions, as with ``autocommit=False`` of Python 3.12.
        """
        if self._driver.is_reading():
            return
        self._changes = self._driver.changes()
        self._idle_at = self._clock()
