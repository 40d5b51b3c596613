"""When the transaction began that a loader reads in, for the cache of an app.

What a transaction has changed and not committed must not be stored, nor what it may
have seen before an invalidation. Knows no framework: it is told where to look.
"""

from __future__ import annotations

from typing import Callable

from hydracache_sync.app import open_transactions
from hydracache_sync.app.replica_reads import ReplicaReads
from hydracache_sync.app.request_state import RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.app.watched_load import WatchedLoad
from hydracache_sync.cache.load_snapshot import LoadSnapshot
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest

_UNCOMMITTED = LocalMoment.because("uncommitted", NEVER)


class SnapshotGuard:
    """For ``TaggedCache(snapshot=...)``.

    :param kind: as ``HYDRACACHE_SNAPSHOT`` says.
    :param collected: returns the collector of the request, None if it has none.
    :param request_began: returns when the request began, in Unix seconds; ``NEVER``
        where none is being served.
    :param writes: returns what is known of the request's connections, None of none.
    :param replica_reads: returns what knows where loads read; needed by kind "replica".
    """

    def __init__(
        self,
        kind: str,
        collected: Callable[[], RequestState | None],
        request_began: Callable[[], float],
        writes: Callable[[], RequestWrites | None],
        replica_reads: Callable[[], ReplicaReads | None] = lambda: None,
    ) -> None:
        self._kind = kind
        self._collected = collected
        self._request_began = request_began
        self._writes = writes
        self._replica_reads = replica_reads

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
        return oldest(began, LocalMoment.because("request", self._request_began()))

    def of_load(self) -> LoadSnapshot:
        """Return the snapshot of a load that begins now: with ``auto``, look at it."""
        writes = self._writes() if self._kind == "auto" else None
        if writes is None or not writes.show_reads or self._may_read_uncommitted():
            return LoadSnapshot(self())
        return WatchedLoad(self._request_began(), writes)

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
