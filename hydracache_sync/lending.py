"""Connections of which a process has only so many, each lent to one thread at a time.

Threads wait for a free one instead of failing. What was used last is lent first, so
that the others stay idle and can be closed. Knows nothing of what is lent. To lend and
to take back without a crowd needs no lock and no call:

    lent = lendings.idle.pop()          # IndexError: lendings.wait_or_make(deadline)
    ...
    lendings.idle.append(lent)
    if lendings.waiting:
        lendings.wake_one()

Waiters register before they check ``idle``, so no wake-up is lost.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Generic, TypeVar

#: Seconds after which an idle connection is closed rather than used. Firewalls and
#: load balancers forget silent connections after some minutes, without telling us.
MAX_IDLE = 60.0

#: Seconds after which the lock counts as lost: it is held for microseconds.
LOCK_LOST = 1.0

T = TypeVar("T")


class NoFreeConnection(TimeoutError):
    """All connections stayed in use: says something of the callers, not of a server."""


class Lendings(Generic[T]):
    """What one process lends. Replaced as a whole after a fork. Safe for threads.

    :param size: of what there is at most, 1 or more.
    :param make: makes one more, which is not open yet; takes these lendings.
    :param advice: what to do where all stay in use, for the error.

    :ivar pid: of the process that these belong to.
    :ivar idle: what can be lent. A list pops and appends whole.
    :ivar waiting: threads that wait for one.
    """

    __slots__ = (
        "pid",
        "lock",
        "waiting",
        "idle",
        "all",
        "_size",
        "_make",
        "_advice",
        "__weakref__",
    )

    def __init__(
        self, size: int, make: Callable[[Lendings[T]], T], advice: str
    ) -> None:
        self.pid = os.getpid()
        # Reentrant: at any line of ours a block may be collected, and its connection
        # given back.
        self.lock = threading.RLock()
        # A lock for each that waits, released to wake it. Not a Condition: interrupted
        # while it takes its lock again, it goes on without, and gives up another's.
        self.waiting: deque[threading.Lock] = deque()
        self.idle: list[T] = []
        # Weak, so that a connection lost to an exception between two lines of ours
        # gives its place back when it is collected.
        self.all: weakref.WeakSet[Any] = weakref.WeakSet()
        self._size = size
        self._make = make
        self._advice = advice

    def again(self) -> Lendings[T]:
        """Return lendings like these, which have lent nothing yet."""
        return Lendings(self._size, self._make, self._advice)

    def wait_or_make(self, deadline: float) -> T:
        """Return an idle one, or a new one that is not open yet.

        :param deadline: when to wait for one no more, of ``time.monotonic()``.
        :raises NoFreeConnection: all were in use until then.
        """
        while True:
            ticket = self.add_waiter()
            unused = True
            try:
                lent = self._idle_or_new()
                if lent is not None:
                    return lent
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise NoFreeConnection(
                        f"all {self._size} connections stayed in use; raise pool_size,"
                        f" or {self._advice}"
                    )
                ticket.acquire(timeout=remaining)
                unused = False
            finally:
                self.remove_waiter(ticket, unused=unused)

    def forget(self, lent: T) -> None:
        """Let another be made in place of ``lent``."""
        if self.pid != os.getpid():
            # The lock is the parent's copy, and may stay locked.
            return
        try:
            lock = self._locked()
            try:
                self.all.discard(lent)
            finally:
                lock.release()
        finally:
            self.wake_one()

    def add_waiter(self) -> threading.Lock:
        """Register a waiter. Its lock is released when something comes free."""
        ticket = threading.Lock()
        ticket.acquire()
        self.waiting.append(ticket)
        return ticket

    def remove_waiter(self, ticket: threading.Lock, *, unused: bool) -> None:
        """Take a waiter off. If it was woken and ``unused``, the next one is woken."""
        try:
            self.waiting.remove(ticket)
        except ValueError:
            # Woken meanwhile.
            if unused:
                self.wake_one()

    def wake_one(self) -> None:
        """Wake the waiter that came first, if there is one."""
        try:
            self.waiting.popleft().release()
        except IndexError:
            pass  # there is none

    def _idle_or_new(self) -> T | None:
        lock = self._locked()
        try:
            try:
                return self.idle.pop()
            except IndexError:
                if len(self.all) >= self._size:
                    return None
            made = self._make(self)
            self.all.add(made)
            return made
        finally:
            lock.release()

    def _locked(self) -> Any:
        """Acquire the lock and return it, to be released.

        A signal handler that raises right at the end of a block leaves its lock as it
        was. On Python 3.9 ``with`` does not release it then, and all threads would wait
        without end. A lost lock is replaced. Should its holder only be slow, there may
        be a connection too many.
        """
        while True:
            lock = self.lock
            if lock.acquire(timeout=LOCK_LOST):
                return lock
            if self.lock is lock:
                self.lock = threading.RLock()
