"""Where the loads of an app read, and until when that has everything, by a heartbeat.

Whether a value may be stored is decided before its load. Where the load reads is seen
during it: an attached session and Django show each statement before it is sent, on
whichever connection. So a moment is promised that the servers which were read lately
would keep; after the load the value is stored only if all that it has read on have kept
it. Knows no framework.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Any, Callable, Iterable, Iterator, Protocol

from hydracache_sync.app import open_transactions
from hydracache_sync.fork import ProcessLocal
from hydracache_sync.printable import printable_logger
from hydracache_sync.replica_snapshot import ReplicaSnapshot
from hydracache_sync.snapshots import NEVER

logger = printable_logger(__name__)

#: Loads whose lag counts for what is promised of the next. A heartbeat's age goes from
#: nothing to an interval and back, and servers differ: of so many one was nearly the
#: worst.
LAGS = 8

#: What each thread has in ``load``: the load that runs in it; in ``seer`` what looks at
#: one otherwise.
_local = ProcessLocal()


class Reads(Protocol):
    """Is told where a load reads."""

    def reads_on(self, connection: Any) -> None:
        """The next statement is sent on this connection of a driver's."""


class ReplicaReads:
    """What the loads of one app read on. Thread-safe.

    :param table: of the outbox, named with its database.
    :param clock_skew: seconds by which the clocks of hosts may differ.
    """

    def __init__(self, table: str, clock_skew: float) -> None:
        self._table = table
        self._clock_skew = clock_skew
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._has_warned = False

    def since(self, named: Iterable[Any], *, followed: bool) -> float:
        """Return a moment for the load that begins now, to decide whether to store.

        :param named: connections that the app says it reads on.
        :param followed: statements are seen on others, too.
        :return: Unix seconds; ``NEVER`` to store nothing.
        """
        opened = list(open_transactions.all_open())
        if any(each.outlives_reads() for each in opened):
            return NEVER
        load = _current()
        is_looked_at = load is not None
        if load is None:
            load = _Load(self._snapshot)
        kept = [connection for each in opened for connection in each.read_on()]
        for connection in (*named, *kept):
            load.reads_on(connection)
        if not followed:
            load.promised = NEVER if load.least is None else load.least
        elif is_looked_at and self._lags:
            expected = time.time() - max(self._lags)
            load.promised = min(
                expected, expected if load.least is None else load.least
            )
        return load.promised

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """See where the loader in the block reads."""
        mine = _local.mine()
        outer = _current()
        mine.load = load = _Load(self._snapshot)
        try:
            yield
        finally:
            mine.load = outer
            if outer is not None:
                # What it has loaded may be part of the other's value.
                outer.adds(load)

    def keep_promise(self) -> bool:
        """Whether all that this load has read on has kept what was promised."""
        load = _current()
        if load is None or load.least is None:
            self._warn()
            return False
        if load.least > NEVER:
            self._lags.append(time.time() - load.least)
        return load.least >= load.promised

    def _snapshot(self, connection: Any) -> float:
        try:
            snapshot = ReplicaSnapshot(
                connection, table=self._table, clock_skew=self._clock_skew
            )
            return snapshot()
        except Exception:
            # Of no driver that is known, or of another thread: the loader meets it.
            logger.debug("a heartbeat could not be read", exc_info=True)
            return NEVER

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "HYDRACACHE_SNAPSHOT is replica, and a load has read on no connection"
                " that is known: nothing of it is stored. Attach the session, or name"
                " by connection= what it reads on, already open"
            )


class _Load:
    """One load: what was promised of it, and where it has read by now.

    :ivar least: the least that a connection had; None before any was read on.
    """

    def __init__(self, snapshot: Callable[[Any], float]) -> None:
        self.promised = NEVER
        self.least: float | None = None
        self._snapshot = snapshot
        self._seen: list[Any] = []

    def reads_on(self, connection: Any) -> None:
        """Read the heartbeat, before the first statement that it sends there."""
        if all(each is not connection for each in self._seen):
            self._seen.append(connection)
            self._has(self._snapshot(connection))

    def adds(self, other: _Load) -> None:
        if other.least is not None:
            self._has(other.least)

    def _has(self, since: float) -> None:
        self.least = since if self.least is None else min(self.least, since)


@contextlib.contextmanager
def seen_by(seer: Reads | None) -> Iterator[None]:
    """Tell ``seer``, if there is one, where this thread sends statements."""
    mine = _local.mine()
    outer = getattr(mine, "seer", None)
    mine.seer = seer or outer
    try:
        yield
    finally:
        mine.seer = outer


def sends(connection: Callable[[], Any]) -> None:
    """State that this thread sends a statement next.

    :param connection: returns the driver's connection; asked only in a load.
    """
    load: Reads | None = _current() or getattr(_local.mine(), "seer", None)
    if load is not None:
        load.reads_on(connection())


def _current() -> _Load | None:
    load: _Load | None = getattr(_local.mine(), "load", None)
    return load
