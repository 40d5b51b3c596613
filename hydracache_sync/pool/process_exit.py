"""Work at the exit of a process, not cut off by a second exit: stopping its pools.

The threads of a pool are daemons: without this they would be cut off in mid-batch.

The process is exiting already when another SystemExit comes. gunicorn's gevent worker
throws one, on SIGQUIT, into what its main greenlet waits for. That may be a callback of
``atexit``: under gevent a wait of 0 seconds gives way, too. A second signal raises one
at any line.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import time
import weakref
from typing import Callable, Protocol, TypeVar

from hydracache_sync.pool.health import PoolHealth
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")


def finished(work: Callable[[], T]) -> T:
    """Call ``work`` until a call is not cut off; return what that call returns.

    :param work: goes on with what an earlier call has left.
    """
    while True:
        try:
            return work()
        except SystemExit:
            logger.debug("SystemExit during work at the exit, which goes on")


#: Seconds that ``stop`` and the exit of the process wait for the batches in flight.
#: Below the grace that servers give (30 s for gunicorn); a batch takes milliseconds.
STOP_TIMEOUT = 5.0


class Stoppable(Protocol):
    """The part of a pool that is used here."""

    def health(self) -> PoolHealth: ...

    def stop(self, timeout: float) -> bool: ...


#: Every pool of this process.
_pools: weakref.WeakSet[Stoppable] = weakref.WeakSet()
#: Processes that stop their pools at exit.
_registered_in: set[int] = set()


def at_exit(work: Callable[[], object]) -> None:
    """Have ``work`` called at the exit of this process, and of none that it forks."""
    pid = os.getpid()

    def call() -> None:
        if os.getpid() == pid:
            work()

    atexit.register(call)
    # A child of multiprocessing, or of Celery's billiard, ends without atexit.
    for package in "multiprocessing", "billiard":
        process = sys.modules.get(f"{package}.process")
        if process is not None and process.current_process()._parent_pid is not None:
            util = importlib.import_module(f"{package}.util")
            util.Finalize(None, call, exitpriority=100)


def stop_at_exit(pool: Stoppable) -> None:
    """Stop ``pool`` at the exit of this process, if it runs then. May be repeated."""
    _pools.add(pool)
    if os.getpid() not in _registered_in:
        _registered_in.add(os.getpid())
        at_exit(_stop_all)


def _stop_all() -> None:
    """Stop every pool of this process, all within one deadline."""
    pools = [pool for pool in list(_pools) if pool.health().running]
    for pool in pools:
        _stop(pool, time.monotonic())
    deadline = time.monotonic() + STOP_TIMEOUT
    for pool in pools:
        if not _stop(pool, deadline):
            logger.warning(
                "%s did not end within %.0f s; another worker takes over its rows when"
                " their claims end",
                pool,
                STOP_TIMEOUT,
            )


def _stop(pool: Stoppable, deadline: float) -> bool:
    """Stop a pool, and wait until the deadline; return whether its threads ended."""
    return finished(lambda: pool.stop(max(0.0, deadline - time.monotonic())))
