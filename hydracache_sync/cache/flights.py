"""One load in this process for all threads that want the same value at once.

Whom a thread may join is what makes this safe, and the caller decides the two facts
that it rests on: the *key* of a flight holds the tokens its load began under, so that
nobody joins a load older than an invalidation that he must see; and a flight that is
not *shared* takes nobody in once its loader has started, since its tokens are cold
and do not tell what was committed meanwhile. Knows no store.
"""

from __future__ import annotations

import os
import threading
import weakref
from time import monotonic
from typing import Any, Hashable


class Flight:
    """One load and those who wait for it.

    :ivar landed: set when the load has ended, well or not.
    :ivar outcome: what it gave to those who joined, None if nothing.
    :ivar ahead: a flight that this one should let land first, or None.
    :ivar began_at: moment of ``time.monotonic`` when its loader started, or None.
    """

    __slots__ = (
        "landed",
        "outcome",
        "ahead",
        "began_at",
        "_key",
        "_leader",
        "_shared",
        "_joined",
    )

    def __init__(self, key: Hashable, leader: int, ahead: Flight | None) -> None:
        self.landed = threading.Event()
        self.outcome: Any = None
        self.ahead = ahead
        self.began_at: float | None = None
        self._key = key
        self._leader = leader
        self._shared = False
        self._joined = False


class Flights:
    """The loads under way in this process. Safe for threads; a fork begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Flight] = {}
        _all.add(self)

    def board(
        self, key: Hashable, *, must_lead: bool = False
    ) -> tuple[Flight | None, bool]:
        """Join the flight of ``key``, or lead a new one.

        :param must_lead: do not join; later callers join the new flight.
        :return: the flight and whether the caller leads it. A leader calls
            :meth:`begin` before the load, then :meth:`close` and :meth:`land`. No
            flight for a loader that asks for what it is itself loading.
        """
        thread = threading.get_ident()
        with self._lock:
            current = self._flights.get(key)
            ahead = None
            if current is not None and not must_lead:
                if current._leader == thread:
                    return None, False
                if current.began_at is None or current._shared:
                    current._joined = True
                    return current, False
                ahead = current
            flight = self._flights[key] = Flight(key, thread, ahead)
            return flight, True

    def begin(self, flight: Flight, *, shared: bool) -> None:
        """State that the loader starts now.

        :param shared: whether it may be joined from now on as well.
        """
        with self._lock:
            flight.began_at = monotonic()
            flight._shared = shared
            flight.ahead = None

    def close(self, flight: Flight) -> bool:
        """Take nobody in from now on; tell whether anybody waits."""
        with self._lock:
            if self._flights.get(flight._key) is flight:
                del self._flights[flight._key]
            return flight._joined

    def land(self, flight: Flight, outcome: Any) -> None:
        """Release those who wait; without an outcome each goes on by itself."""
        self.close(flight)
        flight.outcome = outcome
        flight.landed.set()

    def __len__(self) -> int:
        return len(self._flights)


_all: weakref.WeakSet[Flights] = weakref.WeakSet()


def _begin_anew() -> None:
    for flights in _all:
        flights._lock = threading.Lock()
        flights._flights = {}


# The leaders of the parent's flights are not in the child: nobody would ever land them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
