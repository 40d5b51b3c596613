"""A lock that a fork cannot leave locked.

A thread of the parent may hold a plain lock at the moment of a fork. In the child that
thread does not exist, and nobody would ever unlock it. Hooks at the fork are no cure:
uWSGI forks without telling Python.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType


class ProcessLock:
    """A ``threading.Lock`` of each process's own, made at its first use there."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def _mine(self) -> threading.Lock:
        pid = os.getpid()
        lock = self._locks.get(pid)
        if lock is None:
            # Atomic: of two threads that come first, both get the same one.
            lock = self._locks.setdefault(pid, threading.Lock())
        return lock

    def __enter__(self) -> None:
        self._mine().acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mine().release()
