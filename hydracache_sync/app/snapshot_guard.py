"""When the transaction began that a loader reads in, for the cache of an app.

What a transaction has changed and not committed must not be stored, nor what it may
have seen before an invalidation. Knows no framework: it is told where to look.
"""

from __future__ import annotations

from typing import Callable

from hydracache_sync.app import open_transactions
from hydracache_sync.app.request_state import RequestState
from hydracache_sync.app.request_writes import RequestWrites
from hydracache_sync.snapshots import NEVER


class SnapshotGuard:
    """For ``TaggedCache(snapshot=...)``.

    :param kind: as ``HYDRACACHE_SNAPSHOT`` says.
    :param collected: returns the collector of the request, None if it has none.
    :param request_began: returns when the request began, in Unix seconds; ``NEVER``
        where none is being served.
    :param writes: returns what is known of the request's connections, None of none.
    """

    def __init__(
        self,
        kind: str,
        collected: Callable[[], RequestState | None],
        request_began: Callable[[], float],
        writes: Callable[[], RequestWrites | None],
    ) -> None:
        self._kind = kind
        self._collected = collected
        self._request_began = request_began
        self._writes = writes

    def __call__(self) -> float | None:
        """Return a moment that the loader's transaction is not older than.

        :return: None where the loader begins a fresh one, ``NEVER`` where nothing that
            it loads is to be stored.
        """
        collected = self._collected()
        if collected is not None and collected.may_be_uncommitted:
            # It may read its own rows, and roll them back afterwards.
            return NEVER
        writes = self._writes()
        if writes is not None and not writes.may_store():
            return NEVER
        if self._kind == "fresh":
            return NEVER if open_transactions.writing() else None
        began = open_transactions.snapshot()
        if self._kind == "request":
            request_began = self._request_began()
            return request_began if began is None else min(began, request_began)
        return began
