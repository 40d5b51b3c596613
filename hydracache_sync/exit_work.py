"""Work at the exit of a process that another SystemExit does not cut off.

The process is exiting already when it comes. gunicorn's gevent worker throws one, on
SIGQUIT, into what its main greenlet waits for. That may be a callback of ``atexit``:
under gevent a wait of 0 seconds gives way, too. A second signal raises one at any line.
"""

from __future__ import annotations

from typing import Callable, TypeVar

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
