"""When the transaction began that a loader reads in, for the cache of an app.

What a transaction has changed and not committed must not be stored, nor what it may
have seen before an invalidation. Knows no framework: it is told where to look.

A load is looked at: which snapshot it reads in, and where it reads. Fresh is what it
reads in transactions that begin in it. That is seen in the load: an attached session
and Django show each statement, and of the connections that the app names some show that
they were used. What was seen on no connection that is known, or also on another, counts
for as old as the request, as it does where nothing is known.

So does the load of a request that has read anything before: a row, or the value of
another read, which may be somewhat older. The loader may return that.
"""

from __future__ import annotations

from typing import Any, Callable, TypeVar

from hydracache_sync.app import open_transactions, replica_reads, savepoints
from hydracache_sync.app.known_connections import LEFT_OPEN_SINCE, FreshLoad
from hydracache_sync.app.replica_reads import Reads, ReplicaReads
from hydracache_sync.app.request_state import RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.cache.loads.snapshot import LoadSnapshot
from hydracache_sync.cache.tokens.seen import EarlierHits
from hydracache_sync.drivers.mysql_statements import is_same, tell_of_statements
from hydracache_sync.printable import printable_logger
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest

logger = printable_logger(__name__)

T = TypeVar("T")


def see_statements() -> bool:
    """Have drivers tell which connections they send on; as ``tell_of_statements``."""
    return tell_of_statements(open_transactions.note_sent, savepoints.note_end)


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
        """A statement was sent, in a transaction that has begun or is not followed."""
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


_UNCOMMITTED = LocalMoment.because("uncommitted", NEVER)


class SnapshotGuard:
    """For ``TaggedCache(snapshot=...)``.

    :param kind: as ``HYDRACACHE_SNAPSHOT`` says.
    :param collected: returns the collector of the request, None if it has none.
    :param request_began: returns when the request began, in Unix seconds; ``NEVER``
        where none is being served.
    :param writes: returns what is known of the request's connections, None of none.
    :param replica_reads: returns what knows where loads read; needed by kind "replica".
    :param seer: returns what is told where they read, with kind "auto".
    :ivar earlier_hits: what the request was given that loads as old as it may return.
    """

    def __init__(
        self,
        kind: str,
        collected: Callable[[], RequestState | None],
        request_began: Callable[[], float],
        writes: Callable[[], RequestWrites | None],
        replica_reads: Callable[[], ReplicaReads | None] = lambda: None,
        seer: Callable[[], Reads | None] = lambda: None,
    ) -> None:
        self._kind = kind
        self._collected = collected
        self._request_began = request_began
        self._writes = writes
        self._replica_reads = replica_reads
        self._seer = seer
        self._warned = False
        self.earlier_hits: EarlierHits | None = None
        if kind == "auto":
            see_statements()
        if kind in ("auto", "request"):
            self.earlier_hits = EarlierHits(request_began)

    def __call__(self) -> float | None:
        """Return a moment that the loader's transaction is not older than.

        :return: None where the loader begins a fresh one, ``NEVER`` where nothing that
            it loads is to be stored.
        """
        if self._may_read_uncommitted():
            return _UNCOMMITTED
        if self._kind == "replica":
            return self._of_replica()
        if self._kind == "fresh":
            return _UNCOMMITTED if open_transactions.writing() else None
        began = open_transactions.snapshot()
        if began is not None:
            began = LocalMoment.because("transaction", began)
        if self._kind == "session":
            return began
        request_began = self._request_began()
        return oldest(
            began,
            self._since_left_open(),
            LocalMoment.because("request", request_began),
            open_transactions.oldest_read_since(request_began),
        )

    def of_load(self) -> LoadSnapshot:
        """Return the snapshot of a load that begins now: with ``auto``, look at it."""
        writes = self._writes() if self._kind in ("auto", "fresh") else None
        if writes is None or not writes.show_reads or self._may_read_uncommitted():
            return LoadSnapshot(self())
        if self._kind == "fresh":
            return FreshLoad(self(), writes.left_open, self._warn)
        load = WatchedLoad(self._request_began(), writes, self._seer())
        load.since = oldest(load.since, self._since_left_open())
        return load

    def _since_left_open(self) -> float | None:
        writes = self._writes()
        if writes is None or not writes.reads_in_left_open():
            return None
        if writes.left_open:  # and not only perhaps
            self._warn()
        return LEFT_OPEN_SINCE

    def _warn(self) -> None:
        """Say once that the app itself reads old data, past the cache as well."""
        if self._warned:
            return
        self._warned = True
        logger.warning(
            "a connection that connection= returns, or one of Django, was in a"
            " transaction when the request began: an earlier request has left it open."
            " What is read on it is as old as that transaction, also past the cache,"
            " and is not stored."
            " Commit or roll back at the end of each request. Said once in a process"
        )

    def _of_replica(self) -> float:
        writes = self._writes()
        reads = None if writes is None else self._replica_reads()
        if reads is None or writes is None:
            return NEVER
        named = writes.named()
        if named is None:
            return NEVER
        return reads.since(named, followed=writes.are_followed)

    def _may_read_uncommitted(self) -> bool:
        """Whether the loader may read rows that the request rolls back afterwards."""
        collected = self._collected()
        if collected is not None and collected.may_be_uncommitted:
            return True
        writes = self._writes()
        return writes is not None and not writes.may_store()
