"""Connections that a request is known to have: what they have written, and read.

Asked before a load and after it. What a driver cannot tell, or a connection that is
closed or of another thread, is not known; then nothing rests on it. Knows no framework.

A connection of a thread or a pool outlives its requests. If none of them ends the
transaction, each later one reads in it, at REPEATABLE READ as of its first SELECT.
No driver tells when that was. They are looked for when a request begins: later a
transaction of its own looks the same.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Sequence, TypeVar

from hydracache_sync.cache.loads.snapshot import LoadSnapshot
from hydracache_sync.drivers import CallersConnection, driver_of
from hydracache_sync.drivers.mysql_statements import is_same
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest


class KnownConnection:
    """A connection of a request, of whatever driver."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._driver: CallersConnection | None = None

    def has_written(self) -> bool | None:
        """Whether it has changed something and not committed it; None: not known."""
        try:
            return self.driver().has_written()
        except Exception:
            return None

    def has_snapshot(self) -> bool:
        """Whether a transaction is open on it, or a cursor reads; also if unknown."""
        try:
            driver = self.driver()
            if driver.tells_snapshots:
                return driver.has_snapshot()
            return driver.in_transaction()
        except Exception:
            return True

    def may_be_in_snapshot(self) -> bool:
        """Whether a snapshot may be open on it; asks nobody, and errs to True."""
        try:
            return self.driver().seen_in_snapshot() is not False
        except Exception:
            return False  # it is closed, or of a driver that is not known

    def is_in_snapshot(self) -> bool:
        """Whether a snapshot is open on it; may ask the server. False if unknown."""
        try:
            driver = self.driver()
            seen = driver.seen_in_snapshot()
            if seen is None and driver.tells_snapshots:
                return driver.has_snapshot()
            return bool(seen)
        except Exception:
            return False

    def answered(self) -> object:
        """As the driver's ``answered``; None also where it is not known."""
        try:
            return self.driver().answered()
        except Exception:
            return None

    def stands_for(self, connection: Any) -> bool:
        """Whether it is this connection of a driver's."""
        try:
            return is_same(self.driver().connection, connection)
        except Exception:
            return False

    def driver(self) -> CallersConnection:
        """Return what knows the connection; raises where nothing does."""
        if self._driver is None:
            self._driver = driver_of(own_connection(self.connection))
        return self._driver


class KnownReads:
    """What connections show of one load; made right before it.

    :param known: returns the connections, None while they are not known.
    :param request_began: what counts where the request may have read on one of them.
    :ivar since: a moment that what the load can return of them is not older than; None
        if nothing was read on any of them.
    """

    def __init__(
        self,
        known: Callable[[], Sequence[KnownConnection] | None],
        request_began: float,
    ) -> None:
        self._known = known
        found = known()
        self.since: float | None = None
        if found is None:
            self.since = LocalMoment.because("unseen", request_began)
        self._before = [(each, each.answered()) for each in found or ()]
        if any(answered != 0 for _, answered in self._before):
            # On a connection that was used before the load what the request has read
            # before is not told from what others read there, in requests before.
            earlier = LocalMoment.because("earlier", request_began)
            self.since = oldest(self.since, earlier)

    def are_seen(self) -> bool:
        """Whether the load has read on one of them, or on one that it has opened.

        Not if one that it has opened is in a transaction: a pool may have handed it
        out with the transaction of an earlier user.
        """
        new = [each for each in self._known() or () if self._is_new(each)]
        if any(each.has_snapshot() for each in new):
            return False
        before = [*self._before, *((each, 0) for each in new)]
        return any(each.answered() not in (None, was) for each, was in before)

    def have(self, connection: Any) -> bool:
        """Whether a driver's connection is one of them."""
        return any(each.stands_for(connection) for each in self._known() or ())

    def _is_new(self, connection: KnownConnection) -> bool:
        try:
            own = connection.driver().connection
            return all(own is not each.driver().connection for each, _ in self._before)
        except Exception:
            return False


T = TypeVar("T")

#: Older than everything, by the reason that it is counted under.
LEFT_OPEN_SINCE = LocalMoment.because("transaction", NEVER)


class LeftOpen:
    """What one request, which has just begun, finds open; of its thread.

    :param connections: the driver's connections that the app names at that moment.
    """

    def __init__(self, connections: Iterable[Any]) -> None:
        known = (KnownConnection(each) for each in connections)
        self._found = [each for each in known if each.may_be_in_snapshot()]

    def still_open(self) -> list[KnownConnection]:
        """Those that are in a transaction now; may ask the server, once each."""
        if self._found:
            self._found = [each for each in self._found if each.is_in_snapshot()]
        return self._found

    def __bool__(self) -> bool:
        """Whether there may be one; asks nobody."""
        return bool(self._found)


#: Of all requests that have named no connection: it never changes.
NOTHING_LEFT_OPEN = LeftOpen(())


class FreshLoad(LoadSnapshot):
    """A load that the app calls fresh, and that is not where it reads in such a one.

    :param left_open: where it must not have read.
    :param found: is called if it has.
    """

    def __init__(
        self,
        since: float | None,
        left_open: LeftOpen,
        found: Callable[[], None],
    ) -> None:
        super().__init__(since)
        self._before = [(each, each.answered()) for each in left_open.still_open()]
        self._found = found

    def read(self, loader: Callable[[], T]) -> T:
        value = loader()
        if any(each.answered() not in (None, was) for each, was in self._before):
            self.since = LEFT_OPEN_SINCE
            self._found()
        return value
