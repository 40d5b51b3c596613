"""One place of a thread group: its thread, and what that thread does now."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple

from hydracache_sync.pool.thread import PoolThread


class Activity(NamedTuple):
    """What a thread does.

    :ivar working: False while it waits for the next poll.
    :ivar since: moment of ``time.monotonic()``.
    :ivar namespace: whose rows it applies; None while it polls the database.
    """

    working: bool
    since: float
    namespace: str | None = None


class ThreadSlot:
    """A thread, what it does, and whether another has taken its place.

    :ivar activity: replaced as a whole, so that it is read without a lock.
    :ivar error: what the thread died of.
    :ivar replaced: another thread has its place; this one ends after its batch.
    :ivar reported: it was logged as stuck.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread: PoolThread | None = None
        self.activity = Activity(False, time.monotonic())
        self.error: str | None = None
        self.replaced = False
        self.reported = False

    def start(self, function: Callable[[ThreadSlot], None]) -> None:
        """Start the thread, which calls ``function`` with this slot.

        :raises RuntimeError: the system gives no thread.
        """
        self.thread = PoolThread(lambda: function(self), self.name)
        self.thread.start()

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def seconds(self, now: float) -> float:
        """How long it has been at its activity."""
        return now - self.activity.since

    def is_stuck(self, now: float, stuck_after: float) -> bool:
        activity = self.activity
        return activity.working and now - activity.since > stuck_after
