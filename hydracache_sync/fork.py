"""What survives a fork, and what is made again in the child.

A fork copies the memory and one thread. Three things go wrong with it, and each has its
answer here:

* A lock that another thread held stays locked in the child: ``PerProcess`` and
  ``ProcessLock`` make a new one in each process.
* A socket that two processes share mixes up their answers: its owner registers with
  ``abandon_in_children``.
* SQLite remembers in memory which locks the process holds on a file: ``ForkLock`` makes
  the fork wait until no other thread is inside SQLite.

Hooks at the fork only tidy up early. uWSGI forks without telling Python, so what has to
hold compares process ids at each use. This is the only file that registers hooks.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from typing import Any, Callable, Generic, TypeVar

from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")

#: Seconds that a fork waits at most. Statements take milliseconds; the rest is for
#: threads inside a ``transaction()`` block, which might wait for the one that forks.
LONGEST_WAIT = 2.0


class PerProcess(Generic[T]):
    """A value of each process's own, made at its first use there. Safe for threads.

    :param make: makes the value. Two threads that come first may both call it; both get
        the same result.
    """

    __slots__ = ("_make", "_values")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}

    def mine(self) -> T:
        """Return the value of this process."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            # Atomic, so the second of two threads gets the value of the first.
            return self._values.setdefault(pid, self._make())


class ProcessLocal(PerProcess[Any]):
    """A ``threading.local`` of each process's own.

    A plain one outlives a fork, and may not know what a thread is. gunicorn's gevent
    worker turns threads into greenlets after its fork, and with ``--preload`` the app
    was imported before. That local would be one for all greenlets, and the requests of
    a worker would share one connection.
    """

    __slots__ = ()

    def __init__(self) -> None:
        # Looked up at the first use: gevent may have replaced it by then.
        super().__init__(lambda: threading.local())


class ProcessLock(PerProcess[Any]):
    """A ``threading.Lock`` of each process's own: ``with lock.mine():``.

    Not itself for ``with``: that would be two methods in Python, and a signal handler
    that raises between their lines would leave the lock locked for good.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda: threading.Lock())


class ForkLock:
    """Held by threads side by side, and by none of them while a fork is made.

    For SQLite, which notes in memory which locks the process holds on a file. In the
    child the locks of the parent's other threads would never be released. A thread that
    is already inside may enter again, and so may the thread that forks.
    """

    def __init__(self, longest_wait: float = LONGEST_WAIT) -> None:
        self.longest_wait = longest_wait
        self.renew()

    def renew(self) -> None:
        """Forget everything: in a child no other thread is inside."""
        # Reentrant: a connection may be collected, and closed, at any line of ours.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        #: How deep each thread is inside: in a block of one outbox it may use another.
        self._inside: dict[int, int] = {}
        #: Threads that fork; several may at once.
        self._forking: set[int] = set()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        # By itself, which makes no call in Python: each statement on SQLite does this.
        with self._lock:
            # The fork waits for a thread that is inside, so that thread must go on. A
            # thread that forks may collect a connection, which enters too.
            while self._forking and not (
                thread in self._inside or thread in self._forking
            ):
                self._changed.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            thread = threading.get_ident()
            # A child that was forked inside has forgotten it.
            depth = self._inside.pop(thread, 1) - 1
            if depth:
                self._inside[thread] = depth
            elif self._forking:
                self._changed.notify_all()

    def close(self) -> None:
        """Let no thread in, and wait until the others are out."""
        deadline = time.monotonic() + self.longest_wait
        thread = threading.get_ident()
        with self._changed:
            self._forking.add(thread)
            while self._inside.keys() - {thread}:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            else:
                return
        logger.warning(
            "a fork during another thread's transaction on SQLite: the child may find"
            " the file locked, without end"
        )

    def open(self) -> None:
        """Let threads in again."""
        with self._changed:
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()


#: One for the process: a fork copies all of it.
fork_lock = ForkLock()


def keep_for_good(connection: Any) -> None:
    """Keep an inherited connection from ever being closed or collected.

    In SQLite its end would let go of the parent's locks on the file, or play back the
    journal of the parent's transaction over what the parent has committed since. One
    reference too many does it, also at the interpreter's end, where a list of them
    would be emptied.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_holders: weakref.WeakSet[Any] = weakref.WeakSet()


def abandon_in_children(holder: Any) -> None:
    """Have ``holder.abandon_inherited()`` called in each child, while it lives.

    The method drops the child's copies of its parent's connections, and leaves alone
    what this process has opened itself: it may be called at any time.
    """
    _holders.add(holder)


def abandon_inherited() -> None:
    """Drop this process's copies of its parent's connections, all of them."""
    for holder in list(_holders):
        holder.abandon_inherited()


def _before() -> None:
    fork_lock.close()


def _after_in_parent() -> None:
    fork_lock.open()


def _after_in_child() -> None:
    # First: what is abandoned may enter it.
    fork_lock.renew()
    abandon_inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )
