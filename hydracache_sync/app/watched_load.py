"""One load of an app, looked at: which snapshot it reads in, and where it reads.

Fresh is what it reads in transactions that begin in it. That is seen in the load: an
attached session and Django show each statement, and of the connections that the app
names some show that they were used. What was seen on no connection that is known, or
also on another, counts for as old as the request, as it does where nothing is known.

So does the load of a request that has read anything before: a row, or the value of
another read, which may be somewhat older. The loader may return that.
"""

from __future__ import annotations

from typing import Any, Callable, TypeVar

from hydracache_sync.app import open_transactions, replica_reads
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.cache.load_snapshot import LoadSnapshot
from hydracache_sync.drivers.mysql_statements import is_same, tell_of_statements
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest

T = TypeVar("T")


def see_statements() -> bool:
    """Have drivers tell which connections they send on; as ``tell_of_statements``."""
    return tell_of_statements(open_transactions.note_sent)


class WatchedLoad(LoadSnapshot):
    """The snapshot of one load; of the thread that loads.

    :param request_began: what it counts for as old as where it is not known better.
    :param writes: what is known of the request's connections.
    :param seer: is told where it reads.
    """

    def __init__(
        self,
        request_began: float,
        writes: RequestWrites,
        seer: replica_reads.Reads | None = None,
    ) -> None:
        self._seer = seer
        # Before anything is looked at: what begins later begins in the load.
        self._made_at = LocalMoment.now()
        began = open_transactions.snapshot()
        unseen = oldest(began, request_began) or NEVER
        self._unless_seen = LocalMoment.because("unseen", unseen)
        self._reads = writes.before_load(request_began)
        since = oldest(_open_since(began), self._reads.since)
        earlier = open_transactions.oldest_read_since(request_began)
        super().__init__(oldest(since, earlier))
        self._is_seen = False
        # Of a driver that was imported since the last load it is not known.
        self._is_elsewhere = see_statements()
        self._followed: list[Any] = []
        self._sent: list[Any] = []

    def read(self, loader: Callable[[], T]) -> T:
        with open_transactions.listening(self), replica_reads.seen_by(self._seer):
            value = loader()
        # Of a driver that was imported in the load no snapshot is older.
        see_statements()
        self._is_elsewhere |= self._has_strangers()
        if self._is_elsewhere or not (self._is_seen or self._reads.are_seen()):
            self.since = oldest(self._unless_seen, self.since)
        return value

    def note(self, began: float | None, connection: Any) -> None:
        """A statement was sent, in a transaction that nobody follows or that began."""
        _add(self._followed, connection)
        if began is None:
            self._is_elsewhere = True
            return
        self._is_seen = True
        if getattr(began, "steady", 0.0) < self._made_at.steady:
            self.since = _open_since(self.since, began)

    def note_sent(self, connection: Any) -> None:
        _add(self._sent, connection)

    def _has_strangers(self) -> bool:
        """Whether a driver has sent on a connection that the app has not named."""
        return any(
            not self._reads.have(each)
            for each in self._sent
            if not any(is_same(each, followed) for followed in self._followed)
        )


def _add(connections: list[Any], connection: Any) -> None:
    # From the end: most loads send on one.
    if not any(connection is each for each in reversed(connections)):
        connections.append(connection)


def _open_since(*moments: float | None) -> float | None:
    """The first of ``moments``, when a transaction began that is open."""
    began = oldest(*moments)
    return None if began is None else LocalMoment.because("transaction", began)
