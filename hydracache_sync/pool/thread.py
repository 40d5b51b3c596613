"""A thread of a pool whose end can be waited for while exceptions are thrown in.

An exception that is thrown into ``Thread.join`` makes Python before 3.13 take the
thread for ended, and then the process ends in the midst of its batch. gunicorn's gevent
worker does throw one there: on SIGQUIT, at whatever its main greenlet waits for.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

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
