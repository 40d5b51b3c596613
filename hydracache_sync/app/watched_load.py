"""One load of an app, looked at: which snapshot it reads in, and where it reads.

Before the load it is asked of each connection that is known whether a transaction is
open on it. Where none is, the load begins a fresh snapshot, provided that it reads
there. That is seen in the load: an attached session, Django and PyMySQL show each
statement. What was seen on no connection that is known, or also on another, counts for
as old as the request, as it does where nothing is known.
"""

from __future__ import annotations

from typing import Callable, TypeVar

from hydracache_sync.app import open_transactions
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.cache.load_snapshot import LoadSnapshot
from hydracache_sync.snapshots import NEVER, LocalMoment, oldest

T = TypeVar("T")


class WatchedLoad(LoadSnapshot):
    """The snapshot of one load; of the thread that loads.

    :param request_began: what it counts for as old as where it is not known better.
    :param writes: what is known of the request's connections.
    """

    def __init__(self, request_began: float, writes: RequestWrites) -> None:
        # Before anything is looked at: what begins later begins in the load.
        self._made_at = LocalMoment.now()
        began = open_transactions.snapshot()
        unseen = oldest(began, request_began) or NEVER
        self._unless_seen = LocalMoment.because("unseen", unseen)
        self._reads = writes.before_load(request_began)
        super().__init__(_open_since(began, self._reads.since))
        self._is_seen = self._is_elsewhere = False

    def read(self, loader: Callable[[], T]) -> T:
        with open_transactions.listening(self):
            value = loader()
        if self._is_elsewhere or not (self._is_seen or self._reads.are_seen()):
            self.since = self._unless_seen
        return value

    def note(self, began: float | None) -> None:
        """A statement was sent, in a transaction that nobody follows or that began."""
        if began is None:
            self._is_elsewhere = True
            return
        self._is_seen = True
        if getattr(began, "steady", 0.0) < self._made_at.steady:
            self.since = _open_since(self.since, began)


def _open_since(*moments: float | None) -> float | None:
    """The first of ``moments``, when a transaction began that is open."""
    began = oldest(*moments)
    return None if began is None else LocalMoment.because("transaction", began)
