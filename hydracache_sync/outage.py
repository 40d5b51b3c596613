"""An outage: it begins, what failed answers again, it calms, it ends.

Something that comes and goes is one outage. So an outage has ended only when its
subject has answered for a while and has not failed meanwhile. The same rule holds for
the reads of a cache, the nodes of a worker's cache and the database of a pool.
"""

from __future__ import annotations

import logging
import time
from typing import Callable

from hydracache_sync.fork import ProcessLock

#: Seconds of answers that end the outage of a cache's reads, writes or loads. Calls
#: that need a failing node alternate with calls that do not.
CALM = 5.0


class Outage:
    """When one thing began to fail, and since when it answers again.

    Takes no lock. The caller holds one where two threads must not both begin it.

    :param calm: seconds without a failure after the first answer that end the outage.
    :param clock: seconds that never go back.

    :ivar active: it has begun and has not ended.
    """

    __slots__ = ("active", "_calm", "_clock", "_began_at", "_answered_at")

    def __init__(
        self, calm: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.active = False
        self._calm = calm
        self._clock = clock
        self._began_at = 0.0
        self._answered_at: float | None = None

    @property
    def failing(self) -> bool:
        """Whether nothing was answered since the last failure."""
        return self.active and self._answered_at is None

    def failed(self, since: float | None = None) -> bool:
        """Note a failure; return whether an outage begins with it.

        :param since: when the call began that failed, if it is known: it counts as the
            beginning of the outage.
        """
        self._answered_at = None
        if self.active:
            return False
        self._began_at = self._clock() if since is None else since
        self.active = True
        return True

    def answered(self) -> bool:
        """Note an answer; return whether it is the first since a failure."""
        if not self.failing:
            return False
        self._answered_at = self._clock()
        return True

    def end(self) -> float | None:
        """End the outage if it is calm; return the seconds from failure to answer.

        None if there is none, or if it has not been calm for long enough.
        """
        answered_at = self._answered_at
        if not self.active or answered_at is None:
            return None
        if self._clock() - answered_at < self._calm:
            return None
        self.active = False
        self._answered_at = None
        return answered_at - self._began_at


class LoggedOutage:
    """An outage that logs its beginning and its end, once each. Safe for threads.

    A success takes no lock while there is no outage, a failure none while nothing is
    answered: nothing changes then.

    :param logger: gets a WARNING when it begins and an INFO when it ends.
    :param what: begins both lines, as in "reading the cache of namespace shop".
    :param clock: seconds that never go back; by default ``time.monotonic``.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._outage = Outage(CALM, clock=clock or time.monotonic)
        self._lock = ProcessLock()
        self._logger = logger
        self._what = what

    @property
    def active(self) -> bool:
        return self._outage.active

    def begin(self, error: BaseException) -> None:
        """Note a failure."""
        if self._outage.failing:
            return
        with self._lock.mine():
            begins = self._outage.failed()
        if begins:
            self._logger.warning("%s fails: %s", self._what, error)

    def end(self) -> None:
        """Note a success; it ends the outage if it is calm."""
        if not self._outage.active:
            return
        with self._lock.mine():
            self._outage.answered()
            ends = self._outage.end() is not None
        if ends:
            # As loud as its begin: a log that has only that says that it lasts.
            self._logger.warning("%s works again", self._what)
