"""A thread of a pool, its place in a group, and what it does now.

Its end can be waited for while exceptions are thrown in. One that is thrown into
``Thread.join`` makes Python before 3.13 take the thread for ended, and then the process
ends in the midst of its batch. gunicorn's gevent worker does throw one there: on
SIGQUIT, at whatever its main greenlet waits for.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, NamedTuple

from hydracache_sync.outbox.lent_connections import keep_apart


class PoolThread:
    """A daemon that runs ``function``.

    It holds a ``threading.Thread`` instead of being one: gevent replaces that class,
    perhaps after this file was imported.
    """

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self._function = function
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start it.

        :raises RuntimeError: the system gives no thread.
        """
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def has_ended(self, deadline: float) -> bool:
        """Wait for its end until ``deadline``; return whether it has ended.

        Called by the thread itself it does not wait.

        :param deadline: moment of ``time.monotonic()``.
        """
        if self._thread is not threading.current_thread():
            if self._done.wait(max(0.0, deadline - time.monotonic())):
                self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        keep_apart()
        try:
            self._function()
        finally:
            self._done.set()


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
    :ivar polling_since: when it began to poll for little; None while it does not.
    :ivar error: what the thread died of.
    :ivar replaced: another thread has its place; this one ends after its batch.
    :ivar reported: it was logged as stuck.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread: PoolThread | None = None
        self.activity = Activity(False, time.monotonic())
        self.polling_since: float | None = None
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

    def current(self) -> Activity:
        """Return its activity, which may be to poll for little."""
        since = self.polling_since
        return self.activity if since is None else Activity(True, since)

    def seconds(self, now: float) -> float:
        """How long it has been at its activity."""
        return now - self.current().since

    def is_stuck(self, now: float, stuck_after: float) -> bool:
        activity = self.current()
        return activity.working and now - activity.since > stuck_after
