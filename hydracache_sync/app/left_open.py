"""Transactions that earlier requests have left open on the connections of an app.

A connection of a thread or a pool outlives its requests. If none of them ends the
transaction, each later one reads in it, at REPEATABLE READ as of its first SELECT.
No driver tells when that was. They are looked for when a request begins: later a
transaction of its own looks the same.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, TypeVar

from hydracache_sync.app.known_connections import KnownConnection
from hydracache_sync.cache.load_snapshot import LoadSnapshot
from hydracache_sync.snapshots import NEVER, LocalMoment

T = TypeVar("T")

#: Older than everything, by the reason that it is counted under.
SINCE = LocalMoment.because("transaction", NEVER)


class LeftOpen:
    """Those of one request, which has just begun; of its thread.

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


class FreshLoad(LoadSnapshot):
    """A load that the app says is fresh, and that is not where it reads on one of them.

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
            self.since = SINCE
            self._found()
        return value
