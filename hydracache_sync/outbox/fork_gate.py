"""Keeps forks away from threads that are inside SQLite.

SQLite notes in the memory of the process who holds which lock on a file. A fork copies
that note: what another thread held at that moment is held in the child for ever, by a
thread that is not there, and the child finds the file locked or hangs. So a fork waits
until the threads of ours are out, which takes milliseconds.

Python tells of forks it makes itself, also through multiprocessing and gunicorn. uWSGI
does not tell it of its own.
"""

from __future__ import annotations

import os
import threading
import time

from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds that a fork waits at most. Statements take milliseconds; the rest is for
#: threads inside a ``transaction()`` block, which might wait for the one that forks.
LONGEST_WAIT = 2.0


class ForkGate:
    """Threads pass through it one beside the other, and none while a fork is made."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Forget everything: in a child no other thread is inside."""
        # Reentrant: a connection may be collected, and closed, at any line of ours.
        self._changed = threading.Condition(threading.RLock())
        #: How deep each thread is inside: in a block of one outbox it may use another.
        self._inside: dict[int, int] = {}
        #: Threads that fork; several may at once.
        self._forking: set[int] = set()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            # Who is inside goes on: the fork waits for him. So does who forks, and
            # collects a connection meanwhile.
            while self._forking and not (
                thread in self._inside or thread in self._forking
            ):
                self._changed.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            thread = threading.get_ident()
            # A child that was forked inside has forgotten it.
            depth = self._inside.pop(thread, 1) - 1
            if depth:
                self._inside[thread] = depth
            elif self._forking:
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in, and wait until the others are out."""
        deadline = time.monotonic() + LONGEST_WAIT
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
            "a fork in the midst of another thread's transaction on SQLite: the child"
            " may find the file locked for ever"
        )

    def open(self) -> None:
        with self._changed:
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()


#: One for the process: a fork copies all of it.
fork_gate = ForkGate()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_gate.close,
        after_in_parent=fork_gate.open,
        after_in_child=fork_gate.renew,
    )
