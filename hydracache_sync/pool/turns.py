"""Whose turn it is to look for due rows, and when: leader and followers.

Of the threads of one outbox one looks, the leader, so that a pool costs the database
the same however many threads it has. When the leader has found something it passes its
turn on and goes to work. Knows no outbox: what looking means is the caller's.
"""

from __future__ import annotations

import contextlib
import threading
import time

#: Seconds from an ``enqueue_in`` to the first look for its commit, and by how much each
#: further pause is longer: rows are found after as long again as the transaction took,
#: at most, and after five looks the matter is left to the poll.
FIRST_LOOK = 0.001
LOOK_GROWTH = 2.0

#: Times as long as a look took that a burst pauses at least: on a database that is
#: slow, looking more often would make it slower.
LOOK_SHARE = 3.0

#: Seconds after which a look that has not come back is held to hang, and a follower
#: looks too: the leader's connection may be dead and its own alive.
HANGING_LOOK = 1.0


class Turns:
    """Decides which thread looks next, and lets the others wait. Thread-safe.

    :param poll_interval: seconds between two looks while nothing happens.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        # Reentrant, since wake() may be called by a signal's handler.
        self._lock = threading.RLock()
        self._follower_waits = threading.Condition(self._lock)
        #: What the leader waits for: locked until it is rung. A condition makes a lock
        #: for each wait, and this is most of what an idle pool does.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._leader: object = None
        self._looking_since: float | None = None
        self._next_look = time.monotonic()
        self._woken = False
        self._burst: float | None = None
        self._ended = False

    def wait(self, me: object) -> bool:
        """Block until ``me`` should look; False when it should end."""
        while True:
            with self._lock:
                if self._ended:
                    return False
                if self._leader is None:
                    self._leader = me
                now = time.monotonic()
                if self._leader is me:
                    pause = self._next_look - now
                    if self._woken or pause <= 0:
                        self._woken = False
                        self._looking_since = now
                        return True
                elif self._looking_since is not None and (
                    now - self._looking_since > HANGING_LOOK
                ):
                    self._leader = me
                    self._looking_since = now
                    return True
                else:
                    self._follower_waits.wait(HANGING_LOOK)
                    continue
            # Rung between the two, it does not wait. Rung for what is seen to already,
            # it comes round once more.
            self._bell.acquire(True, pause)

    def found_nothing(self, me: object, took: float) -> None:
        """Look again after a while.

        :param took: seconds that the look took.
        """
        with self._lock:
            # Whoever has carried something looks again without having the turn.
            if self._leader not in (me, None):
                return
            pause = self._poll_interval
            if self._burst is not None:
                pause = min(pause, max(self._burst, took * LOOK_SHARE))
                self._burst *= LOOK_GROWTH
                if self._burst >= self._poll_interval:
                    self._burst = None
            self._looking_since = None
            self._next_look = time.monotonic() + pause

    def failed(self, me: object, pause: float) -> None:
        """The look failed: nobody looks again before ``pause`` seconds are over."""
        with self._lock:
            self._look_after(pause)
            if self._leader is me:
                self._looking_since = None

    def pass_on(self, me: object) -> None:
        """Leave the looking to another thread: ``me`` has found something, or ends."""
        with self._lock:
            if self._leader is not me:
                return
            self._leader = None
            # Not at once: what is due now is about to be claimed.
            self._look_after(self._poll_interval)
            self._follower_waits.notify()

    def _look_after(self, pause: float) -> None:
        self._looking_since = None
        self._next_look = time.monotonic() + pause

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self._bell.release()

    def wake(self) -> None:
        """Rows have been committed: have a thread look at once."""
        with self._lock:
            self._woken = True
            self._ring()

    def expect(self) -> None:
        """Rows may be committed soon: look often for a short while."""
        with self._lock:
            self._burst = FIRST_LOOK
            if self._looking_since is not None:
                return
            first = time.monotonic() + FIRST_LOOK
            if self._next_look > first:
                self._next_look = first
                self._ring()

    def end(self) -> None:
        """Have every ``wait`` return False, now and later."""
        with self._lock:
            self._ended = True
            self._ring()
            self._follower_waits.notify_all()
