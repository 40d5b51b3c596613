"""An outage of an outbox's database, as all threads of a pool together see it."""

from __future__ import annotations

import random
import threading
import time
from typing import Callable, Collection

from hydracache_sync.errors import ConnectionLostError, OutboxError
from hydracache_sync.events import Event, OutageBegan, OutageEnded, log_fields
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds: the pause after the first failure, and the longest one. Short, so that rows
#: are carried within seconds of the database's return.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0

#: Seconds without a failure until an outage counts as over: a database that flaps is
#: one outage and two log lines, not hundreds.
CALM = 1.0

#: Claims of rows that could not be settled, one after the other, that must have ended
#: until it counts that none of them is due.
CLAIMS = 2


class DatabaseOutage:
    """Tells one outage from many failures, and how long to pause. Thread-safe.

    :param database: what is away, for the log.
    :param tell: is handed the events.
    """

    def __init__(self, database: str, tell: Callable[[Event], None]) -> None:
        self._database = database
        self._tell = tell
        self._lock = threading.Lock()
        self._began: OutageBegan | None = None
        self._since = 0.0
        self._failed_at = 0.0
        self._answered_at = 0.0
        self._failures = 0
        self._failing = False
        #: Namespaces whose rows could not be claimed or settled, and not again since;
        #: and until when a look that finds none due proves nothing of them.
        self._failing_at: dict[str, float] = {}

    @property
    def now(self) -> OutageBegan | None:
        """How the outage began that lasts now; None if the last call was answered."""
        return self._began if self._failing else None

    def keeps(self, namespace: str) -> bool:
        """Whether the rows of ``namespace`` wait for the end of an outage."""
        if not self._failing:
            return False
        return not self._failing_at or namespace in self._failing_at

    @property
    def lasts(self) -> bool:
        """Whether one has begun and has not been told to have ended."""
        return self._began is not None

    def unsettled(self, exc: Exception, namespace: str, claim_ttl: float) -> None:
        """Note that rows of ``namespace`` stay claimed; :meth:`failed` comes next.

        Of a database that refuses to settle what it lets be claimed no row is due until
        the claims end, and those of another process that meets the same.
        """
        if isinstance(exc, ConnectionLostError):
            return  # it was gone and refuses nothing
        until = time.monotonic() + CLAIMS * claim_ttl + CALM
        with self._lock:
            self._failing_at[namespace] = until

    def failed(
        self, exc: Exception, namespace: str | None = None, since: float | None = None
    ) -> float:
        """Note a failure; return the seconds to pause.

        :param namespace: whose rows were being carried; None for a look.
        :param since: when the call was made that failed, of ``time.monotonic()``: a
            database that hangs has done so for as long.
        """
        error = f"{type(exc).__name__}: {exc}"
        now = time.monotonic()
        with self._lock:
            began = None
            if self._began is None:
                began = self._began = OutageBegan(None, "database", error)
                self._since = now if since is None else since
            self._failing = True
            self._failed_at = now
            if namespace is not None:
                self._failing_at.setdefault(namespace, now)
            self._failures += 1
            longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 30))
        if began is not None:
            logger.warning(
                "the outbox %s does not serve, rows wait: %s",
                self._database,
                error,
                # What the outbox does not raise is a mistake: show where.
                exc_info=None if isinstance(exc, OutboxError) else exc,
                extra=log_fields(began),
            )
            self._tell(began)
        else:
            logger.debug("the outbox %s still does not serve: %s", self._database, exc)
        return random.uniform(longest / 2, longest)

    def looked(self, due: Collection[str]) -> None:
        """Note that a look was answered.

        While rows are due that could not be carried it proves nothing: a database with
        a full disk, or one that became read-only, answers every look.

        :param due: namespaces that have rows.
        """
        if self._began is not None:
            now = time.monotonic()
            with self._lock:
                for namespace in self._failing_at.keys() & set(due):
                    # Nobody holds them: when they are due no more, somebody carried
                    # them.
                    self._failing_at[namespace] = now
                proven = [
                    namespace
                    for namespace, until in self._failing_at.items()
                    if namespace not in due and until <= now
                ]
            self._answered(proven)

    def carried(self, namespace: str) -> None:
        """Note that a batch was claimed and settled."""
        if self._began is not None:
            self._answered([namespace])

    def _answered(self, proven: Collection[str]) -> None:
        now = time.monotonic()
        ended = None
        with self._lock:
            for namespace in proven:
                self._failing_at.pop(namespace, None)
            if self._failing_at:
                return
            if self._failing:
                self._failing = False
                self._answered_at = now
            if self._began is not None and now - self._failed_at >= CALM:
                ended = OutageEnded(None, "database", self._answered_at - self._since)
                self._began = None
                self._failures = 0
        if ended is not None:
            logger.info(
                "the outbox %s serves again after %.1f s",
                self._database,
                ended.seconds,
                extra=log_fields(ended),
            )
            self._tell(ended)
