"""What is kept by thread, made anew in each process.

``threading.local`` outlives a fork, and may not know what a thread is: gunicorn's
gevent worker makes greenlets of threads after its fork, and with ``--preload`` the app
has been imported by then. A local of before would be one for all greenlets, and the
requests of a worker would talk on one connection at once.
"""

from __future__ import annotations

import os
import threading
from typing import Any


class ProcessLocal:
    """A ``threading.local`` of each process's own, made at its first use there."""

    def __init__(self) -> None:
        self._locals: dict[int, threading.local] = {}

    def mine(self) -> Any:
        """Where this thread of this process keeps its attributes."""
        pid = os.getpid()
        local = self._locals.get(pid)
        if local is None:
            # Atomic: of two threads that come first, both get the same one.
            local = self._locals.setdefault(pid, threading.local())
        return local
