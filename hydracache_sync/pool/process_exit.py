"""Stopping the pools of a process at its exit.

Their threads are daemons: without this they would be cut off in mid-batch.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from typing import Protocol

from hydracache_sync.exit_work import finished
from hydracache_sync.pool.health import PoolHealth
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

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


def stop_at_exit(pool: Stoppable) -> None:
    """Stop ``pool`` at the exit of this process, if it runs then. May be repeated."""
    _pools.add(pool)
    if os.getpid() in _registered_in:
        return
    if not _registered_in:
        # A forked child that ends by sys.exit() has inherited it.
        atexit.register(_stop_all)
    _registered_in.add(os.getpid())
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        # A child of multiprocessing ends without atexit.
        from multiprocessing.util import Finalize

        Finalize(None, _stop_all, exitpriority=100)


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
