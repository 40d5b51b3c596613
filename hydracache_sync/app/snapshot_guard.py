"""When the transaction began that a loader reads in, for the cache of an app.

What a transaction has changed and not committed must not be stored, nor what it may
have seen before an invalidation. Knows no framework: it is told where to look.
"""

from __future__ import annotations

from typing import Callable

from hydracache_sync.app import left_open, open_transactions
from hydracache_sync.app.replica_reads import Reads, ReplicaReads
from hydracache_sync.app.request_state import RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.app.watched_load import WatchedLoad, see_statements
from hydracache_sync.cache.earlier_hits import EarlierHits
from hydracache_sync.cache.load_snapshot import LoadSnapshot
from hydracache_sync.printable import printable_logger
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest

logger = printable_logger(__name__)

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
            return left_open.FreshLoad(self(), writes.left_open, self._warn)
        load = WatchedLoad(self._request_began(), writes, self._seer())
        load.since = oldest(load.since, self._since_left_open())
        return load

    def _since_left_open(self) -> float | None:
        writes = self._writes()
        if writes is None or not writes.reads_in_left_open():
            return None
        self._warn()
        return left_open.SINCE

    def _warn(self) -> None:
        """Say once that the app itself reads old data, past the cache as well."""
        if self._warned:
            return
        self._warned = True
        logger.warning(
            "a connection that connection= returns was in a transaction when the"
            " request began: an earlier request has left it open. What is read on it"
            " is as old as that transaction, also past the cache, and is not stored."
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
