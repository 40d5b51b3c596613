"""One load in this process for all threads that want the same value at once.

Safety rests on which flight a thread may join, by two facts that the caller decides.
The *key* of a flight holds the tokens its load began under, so no thread joins a load
older than an invalidation that it must see. A flight that is not *shared* cannot be
joined once its loader has started: its tokens are cooling, and do not show what was
committed meanwhile. Knows no store.

A flight may have several loaders, since the first one may be slow, or hang: a thread
that waits may *relieve* it, and begins to load as well. It begins later than the first
did, and so has seen all that the first must see. What ends first is given to all.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Hashable

from hydracache_sync.fork import PerProcess, ProcessLocal, ProcessLock

#: How many flights this thread loads for, of all caches: others may wait for it.
_this_thread = ProcessLocal()


class Flight:
    """One load and those who wait for it.

    :ivar finished: set when a load has given an outcome, or the last one has ended.
    :ivar outcome: what it gave to those who joined, None if nothing.
    :ivar previous: a flight that this one should let finish first, or None.
    :ivar began_at: moment of ``time.monotonic`` when the last of its loaders started,
        or None before the first.
    """

    __slots__ = (
        "finished",
        "outcome",
        "previous",
        "began_at",
        "_key",
        "_made_at",
        "_leader",
        "_loaders",
        "_shared",
        "_joined",
    )

    def __init__(self, key: Hashable, leader: int, previous: Flight | None) -> None:
        self.finished = threading.Event()
        self.outcome: Any = None
        self.previous = previous
        self.began_at: float | None = None
        self._key = key
        self._made_at = monotonic()
        self._leader = leader
        self._loaders: set[int] = set()
        self._shared = False
        self._joined = False


class SingleFlight:
    """The loads under way in this process. Safe for threads; a fork begins again."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        # The leaders of the parent's flights are not in a child: none would finish.
        self._flights_of: PerProcess[dict[Hashable, Flight]] = PerProcess(dict)

    @property
    def _flights(self) -> dict[Hashable, Flight]:
        return self._flights_of.mine()

    def join(
        self, key: Hashable, *, must_lead: bool = False, may_lead: bool = True
    ) -> tuple[Flight | None, bool]:
        """Join the flight of ``key``, or lead a new one.

        :param must_lead: lead a new one, or the one there is if it has not begun: its
            leader may be waiting for what this caller has.
        :param may_lead: otherwise there may be no flight.
        :return: the flight and whether the caller leads it. A leader calls
            :meth:`begin` before the load, then :meth:`close` and :meth:`finish`. No
            flight for a loader that asks for what it is itself loading.
        """
        thread = threading.get_ident()
        with self._lock.mine():
            current = self._flights.get(key)
            previous = None
            if current is not None and must_lead and current.began_at is None:
                return current, True
            if current is not None and not must_lead:
                if current._leader == thread or thread in current._loaders:
                    return None, False
                if current.began_at is None or current._shared:
                    current._joined = True
                    return current, False
                previous = current
            if not may_lead:
                return None, False
            flight = self._flights[key] = Flight(key, thread, previous)
            return flight, True

    def begin(self, flight: Flight, *, shared: bool) -> None:
        """State that a loader starts now, in this thread.

        :param shared: whether it may be joined from now on as well.
        """
        with self._lock.mine():
            self._begin(flight, shared)

    def relieve(self, flight: Flight, patience: float, *, shared: bool) -> float:
        """Begin to load as well, if no loader of ``flight`` has done so lately.

        :param patience: seconds from one beginning to the next. As much time has a
            leader that has not begun: it may be waiting itself.
        :return: 0 if the caller has begun, which then calls :meth:`finish`; else the
            seconds until one of those who wait may.
        """
        with self._lock.mine():
            if flight.finished.is_set():
                return patience
            last = flight.began_at
            if last is None:
                last = flight._made_at + patience
            remaining = last + patience - monotonic()
            if remaining > 0:
                return remaining
            self._begin(flight, shared)
            return 0.0

    @staticmethod
    def is_loaded_by_this(flight: Flight) -> bool:
        """Whether this thread is one of its loaders."""
        return threading.get_ident() in flight._loaders

    def close(self, flight: Flight) -> bool:
        """Let no thread join from now on; return whether any has joined."""
        with self._lock.mine():
            return self._close(flight)

    def finish(self, flight: Flight, outcome: Any) -> None:
        """End a load of this thread, and release those who wait.

        Without an outcome they go on waiting while another loader is under way, and
        else each goes on by itself.
        """
        thread = threading.get_ident()
        with self._lock.mine():
            if thread in flight._loaders:
                flight._loaders.discard(thread)
                mine = _this_thread.mine()
                # None of this process: it was forked in the middle of the load.
                mine.flights = max(0, getattr(mine, "flights", 0) - 1)
            if flight.finished.is_set() or (outcome is None and flight._loaders):
                return
            self._close(flight)
            flight.outcome = outcome
            flight.finished.set()

    @staticmethod
    def is_waited_for() -> bool:
        """Whether this thread loads for a flight now, so that others may wait for it.

        Then it must not itself wait for long: two that wait for each other would.
        """
        return getattr(_this_thread.mine(), "flights", 0) > 0

    def _begin(self, flight: Flight, shared: bool) -> None:
        mine = _this_thread.mine()
        mine.flights = getattr(mine, "flights", 0) + 1
        flight._loaders.add(threading.get_ident())
        flight.began_at = monotonic()
        flight._shared = shared
        flight.previous = None

    def _close(self, flight: Flight) -> bool:
        if self._flights.get(flight._key) is flight:
            del self._flights[flight._key]
        return flight._joined

    def __len__(self) -> int:
        return len(self._flights)
