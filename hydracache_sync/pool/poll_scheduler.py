"""Which thread polls for due rows, and when: a leader and its followers.

Of the threads of one outbox one polls, the leader, so that a pool costs the database
the same however many threads it has. When a poll finds due rows, the leader releases
its role and applies them. Knows no outbox: how to poll is the caller's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable, TypeVar

from hydracache_sync.pool.timing import DEFAULT_TIMING

#: Seconds from an ``enqueue_in`` to the first poll for its commit, and the factor by
#: which each further pause of the burst is longer. Rows are found at the latest after
#: as long again as the transaction took. The burst ends where its pauses have grown to
#: the poll interval.
FIRST_POLL = 0.001
POLL_GROWTH = 2.0

#: Within a burst a pause is at least this many times as long as the last poll took: to
#: poll a slow database more often would make it slower.
POLL_COST_FACTOR = 3.0


T = TypeVar("T")


def _is_never_quiet(thread: object, now: float) -> bool:
    return False


class PollScheduler:
    """Decides which thread polls next, and blocks the others. Thread-safe.

    :param poll_interval: seconds between two polls while nothing happens.
    :param hanging_poll: seconds after which a follower polls too, because the poll of
        the leader has not returned.
    """

    def __init__(
        self, poll_interval: float, hanging_poll: float = DEFAULT_TIMING.hanging_poll
    ) -> None:
        self._poll_interval = poll_interval
        self._hanging_poll = hanging_poll
        # Reentrant, since wake() may be called by a signal's handler.
        self._lock = threading.RLock()
        self._followers = threading.Condition(self._lock)
        #: The leader blocks on it until it is released. A condition makes a lock for
        #: each wait, and this is most of what an idle pool does.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._leader: object = None
        self._polling_since: float | None = None
        self._next_poll = time.monotonic()
        self._woken = False
        #: The next pause of the burst that poll_soon() began; None outside of one.
        self._burst_pause: float | None = None
        self._closed = False

    def wait(
        self, thread: T, is_quiet: Callable[[T, float], bool] = _is_never_quiet
    ) -> bool:
        """Block until ``thread`` should poll.

        :param is_quiet: polls for little, and says whether it is known that nothing is
            due. Takes ``thread`` and the present moment.
        :return: False when it should end, or has lost its role.
        """
        while True:
            with self._lock:
                if self._closed:
                    return False
                if self._leader is None:
                    self._leader = thread
                now = time.monotonic()
                if self._leader is thread:
                    pause = self._next_poll - now
                    if self._woken or pause <= 0:
                        self._woken = False
                        self._polling_since = now
                        return True
                elif self._polling_since is not None and (
                    now - self._polling_since > self._hanging_poll
                ):
                    self._leader = thread
                    self._polling_since = now
                    return True
                else:
                    self._followers.wait(self._hanging_poll)
                    continue
            # A wake-up between the two blocks is kept: the lock is free then. One that
            # came for work already done costs one more turn of this loop.
            while not self._wakeup.acquire(True, pause):
                # Only time has passed. An idle process does little but this, on cold
                # caches, so it makes no more calls than it must. No lock: a thread
                # that is not polling stays the leader.
                self._polling_since = now = time.monotonic()
                if not is_quiet(thread, now):
                    return self._leader is thread and not self._closed
                with self._lock:
                    if self._leader is not thread:
                        return False
                    self._polling_since = None
                    pause = self._poll_interval
                    if self._burst_pause is not None:
                        took = time.monotonic() - now
                        pause = self._pause_of_burst(self._burst_pause, took)
                    # It took little, or this is early and costs one more turn.
                    self._next_poll = now + pause

    def nothing_due(self, thread: object, took: float) -> None:
        """Schedule the next poll after one that found nothing.

        :param took: seconds that the poll took.
        """
        with self._lock:
            # A thread that has just applied rows polls again without being the leader.
            if self._leader not in (thread, None):
                return
            pause = self._poll_interval
            if self._burst_pause is not None:
                pause = self._pause_of_burst(self._burst_pause, took)
            self._schedule(pause)

    def _pause_of_burst(self, pause: float, took: float) -> float:
        longer = pause * POLL_GROWTH
        self._burst_pause = longer if longer < self._poll_interval else None
        return min(self._poll_interval, max(pause, took * POLL_COST_FACTOR))

    def failed(self, pause: float) -> None:
        """Schedule the next poll of any thread ``pause`` seconds after a failure."""
        with self._lock:
            self._schedule(pause)

    def release(self, thread: object) -> None:
        """Leave the polling to another: ``thread`` has rows to apply, or ends."""
        with self._lock:
            if self._leader is not thread:
                return
            self._leader = None
            # Not at once: what is due now is about to be claimed.
            self._schedule(self._poll_interval)
            self._followers.notify()

    def _schedule(self, pause: float) -> None:
        self._polling_since = None
        self._next_poll = time.monotonic() + pause

    def _wake_leader(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been woken already
            self._wakeup.release()

    def wake(self) -> None:
        """Have a thread poll at once: rows have been committed."""
        with self._lock:
            self._woken = True
            self._wake_leader()

    def poll_soon(self) -> None:
        """Poll often for a short while: rows may be committed soon."""
        with self._lock:
            self._burst_pause = FIRST_POLL
            if self._polling_since is not None:
                return
            first = time.monotonic() + FIRST_POLL
            if self._next_poll > first:
                self._next_poll = first
                self._wake_leader()

    def close(self) -> None:
        """Have every ``wait`` return False, now and later."""
        with self._lock:
            self._closed = True
            self._wake_leader()
            self._followers.notify_all()
