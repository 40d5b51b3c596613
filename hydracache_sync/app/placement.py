"""Which processes run a worker pool: every one that serves requests, one, or none.

A thread does not survive a fork, and says that it does under uWSGI. So the process id
decides, and a pool is started where a request is served: never at import, never in a
process that only forks others, never in a command.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Callable

from hydracache_sync.app.pool_lock import PoolLock
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.fork import ProcessLock
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds between two looks at whether the process with the one pool is gone.
LOOK_INTERVAL = 1.0


class PoolPlacement:
    """The pool of this process, if it is to have one. Thread-safe, also across forks.

    :param make: makes the pool; called once at most.
    :param where: "every", "one" or "none".
    :param lock: makes the lock that the process with the one pool keeps; called for
        "one" only.
    :ivar problem: why this process has not the pool that it should have; None where it
        has, or is to have none. Where another process has the one pool it is None, too.
    """

    def __init__(
        self, make: Callable[[], WorkerPool], where: str, lock: Callable[[], PoolLock]
    ) -> None:
        if where == "one" and sys.platform == "win32":
            raise ConfigurationError(
                "HYDRACACHE_POOL one needs POSIX file locks, which are not there"
            )
        self._make = make
        self._where = where
        self._lock = lock() if where == "one" else None
        self.problem: str | None = None
        self._mutex = ProcessLock()
        #: The process for which nothing is left to do.
        self._settled = 0
        self._looked_in = 0
        self._next_look = 0.0
        self._pool: WorkerPool | None = None
        self._pool_pid = 0
        self._complained_in = 0

    @property
    def pool(self) -> WorkerPool | None:
        """The running pool of this process; None where there is none."""
        return self._pool if self._pool_pid == os.getpid() else None

    def ensure(self) -> None:
        """Start the pool if this process is to have one and it is not running.

        Called at each request: the usual case is one comparison.
        """
        pid = os.getpid()
        if self._settled == pid:
            return
        if self._where == "none":
            self._settled = pid
        elif self._looked_in != pid or time.monotonic() >= self._next_look:
            with self._mutex.mine():
                if self._settled != pid:
                    self._looked_in = pid
                    self._next_look = time.monotonic() + LOOK_INTERVAL
                    self._ensure(pid)

    def start(self) -> WorkerPool | None:
        """Start the pool now, as :meth:`ensure`; return it if it is here."""
        self._next_look = 0.0
        self.ensure()
        return self.pool

    def stop(self, timeout: float) -> bool:
        """Stop this process's pool and keep it stopped; tell whether it has ended."""
        with self._mutex.mine():
            self._settled = os.getpid()
            pool, self._pool_pid = self.pool, 0
        if pool is None:
            return True
        stopped = pool.stop(timeout)
        if self._lock is not None:
            self._lock.release()
        return stopped

    def _ensure(self, pid: int) -> None:
        if self._pool is None:
            self._pool = self._make()
        elif self._pool_pid not in (0, pid):
            # Inherited: without this it would start itself at the first write.
            self._pool.stop(0.0)
            self._pool_pid = 0
        try:
            if self._lock is not None and not self._lock.take():
                self.problem = None
                return
            self._pool.start()
        except ConfigurationError as exc:
            # uWSGI without threads. Said once in each process; requests go on, and
            # inline publishing and cron carry the rows.
            self._cannot(pid, exc)
        except (OSError, RuntimeError) as exc:
            # A lock's file that is not ours, or no thread to be had. Requests go on,
            # and one of them tries again.
            self._cannot(pid, exc)
            return
        else:
            self._pool_pid, self.problem = pid, None
        self._settled = pid

    def _cannot(self, pid: int, exc: Exception) -> None:
        """Say why there is no pool, once; leave it to another process, if it can."""
        if self._lock is not None:
            self._lock.release()
        if self.problem is None or self._complained_in != pid:
            unapplied = (
                "" if self._lock is None else "; perhaps no process applies rows"
            )
            logger.error("no worker pool in process %d: %s%s", pid, exc, unapplied)
        self.problem, self._complained_in = str(exc), pid
