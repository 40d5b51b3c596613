"""Say once that something began to fail, and once that it works again."""

from __future__ import annotations

import logging
import time
from typing import Callable

#: Seconds without a failure after which it works again. With several nodes calls that
#: need one and calls that do not take turns: each would end what the other began.
CALM = 5.0


class Outage:
    """The state of one thing that can fail. Safe for threads.

    :param logger: gets a WARNING when it begins and an INFO when it ends; two threads
        may both say so.
    :param what: begins both sentences, as in "reading the cache of namespace shop".
    :param clock: seconds that never go back; replaced in tests.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.active = False
        self._logger = logger
        self._what = what
        self._clock = clock
        self._failed_at = float("-inf")

    def begin(self, error: BaseException) -> None:
        """Note a failure."""
        self._failed_at = self._clock()
        if not self.active:
            self.active = True
            self._logger.warning("%s fails: %s", self._what, error)

    def end(self) -> None:
        """Note a success; it ends the outage if the last failure is a while ago."""
        if self.active and self._clock() - self._failed_at >= CALM:
            self.active = False
            self._logger.info("%s works again", self._what)
