"""Say once that something began to fail, and once that it works again."""

from __future__ import annotations

import logging


class Outage:
    """The state of one thing that can fail. Safe for threads.

    :param logger: gets a WARNING when it begins and an INFO when it ends; two threads
        may both say so.
    :param what: begins both sentences, as in "reading the cache of namespace shop".
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self.active = False
        self._logger = logger
        self._what = what

    def begin(self, error: BaseException) -> None:
        """Note a failure."""
        if not self.active:
            self.active = True
            self._logger.warning("%s fails: %s", self._what, error)

    def end(self) -> None:
        """Note a success."""
        if self.active:
            self.active = False
            self._logger.info("%s works again", self._what)
