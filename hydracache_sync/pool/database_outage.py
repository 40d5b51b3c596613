"""An outage of an outbox's database, as all threads of a pool together see it."""

from __future__ import annotations

import threading
import time
from typing import Callable, Collection

from hydracache_sync.backoff import Backoff
from hydracache_sync.errors import ConnectionLostError, OutboxError
from hydracache_sync.events import Event, OutageBegan, OutageEnded, log_fields
from hydracache_sync.outage import Outage
from hydracache_sync.pool.timing import DEFAULT_TIMING
from hydracache_sync.printable import described, printable_logger

logger = printable_logger(__name__)

#: Claims, one after the other, that must have ended before an empty poll proves that
#: rows which could not be settled were applied by another process.
CLAIMS = 2


class DatabaseOutage:
    """Tells one outage from many failures, and how long to pause. Thread-safe.

    :param database: its name in the log.
    :param emit: called with each event.
    :param backoff: pauses between polls while it lasts.
    :param calm: seconds of answers that end it.
    """

    def __init__(
        self,
        database: str,
        emit: Callable[[Event], None],
        *,
        backoff: Backoff = DEFAULT_TIMING.database_backoff,
        calm: float = DEFAULT_TIMING.database_calm,
    ) -> None:
        self._database = database
        self._emit = emit
        self._backoff = backoff
        self._calm = calm
        self._lock = threading.Lock()
        self._outage = Outage(calm)
        #: Whether one has begun and its end has not been logged. Each poll reads it.
        self.active = False
        self._began: OutageBegan | None = None
        self._failures = 0
        #: Namespaces whose rows could not be claimed or settled, and not again since.
        #: Until the moment given here a poll that finds none due proves nothing.
        self._blocked_until: dict[str, float] = {}

    @property
    def current(self) -> OutageBegan | None:
        """How the outage began that lasts now; None if the last call was answered."""
        return self._began if self._outage.failing else None

    def blocks(self, namespace: str) -> bool:
        """Whether the rows of ``namespace`` wait for the end of an outage."""
        if not self._outage.failing:
            return False
        return not self._blocked_until or namespace in self._blocked_until

    def unsettled(self, exc: Exception, namespace: str, claim_ttl: float) -> None:
        """Note that rows of ``namespace`` stay claimed; :meth:`failed` comes next.

        A database may answer claims and refuse to settle. Then no row is due until the
        claims end, here and in other processes that meet the same.
        """
        if isinstance(exc, ConnectionLostError):
            return  # the database was away, and has refused nothing
        until = time.monotonic() + CLAIMS * claim_ttl + self._calm
        with self._lock:
            self._blocked_until[namespace] = until

    def failed(
        self, exc: Exception, namespace: str | None = None, since: float | None = None
    ) -> float:
        """Note a failure; return the seconds to pause.

        :param namespace: whose rows were being applied; None for a poll.
        :param since: when the failed call was made, of ``time.monotonic()``: a database
            that hangs has done so for as long.
        """
        error = described(exc)
        with self._lock:
            began = None
            if self._outage.failed(since):
                self.active = True
                began = self._began = OutageBegan(None, "database", error)
            if namespace is not None:
                self._blocked_until.setdefault(namespace, time.monotonic())
            self._failures += 1
            pause = self._backoff.pause(self._failures)
        if began is not None:
            logger.warning(
                "the outbox %s does not serve, rows wait: %s",
                self._database,
                error,
                # An error that no outbox raises is a mistake in the code: show where.
                exc_info=None if isinstance(exc, OutboxError) else exc,
                extra=log_fields(began),
            )
            self._emit(began)
        else:
            logger.debug("the outbox %s still does not serve: %s", self._database, exc)
        return pause

    def polled(self, due: Collection[str]) -> None:
        """Note that a poll was answered.

        It proves nothing while rows are due that could not be applied: a database with
        a full disk, or one that became read-only, answers every poll.

        :param due: namespaces that have due rows.
        """
        if not self.active:
            return
        now = time.monotonic()
        with self._lock:
            for namespace in self._blocked_until.keys() & set(due):
                # Due means not claimed. When they are due no more, a worker has
                # applied them.
                self._blocked_until[namespace] = now
            proven = [
                namespace
                for namespace, until in self._blocked_until.items()
                if namespace not in due and until <= now
            ]
        self._answered(proven)

    def settled(self, namespace: str) -> None:
        """Note that a batch was claimed and settled."""
        if self.active:
            self._answered([namespace])

    def _answered(self, proven: Collection[str]) -> None:
        ended = None
        with self._lock:
            for namespace in proven:
                self._blocked_until.pop(namespace, None)
            if self._blocked_until:
                return
            self._outage.answered()
            seconds = self._outage.end()
            if seconds is not None:
                self.active = False
                ended = OutageEnded(None, "database", seconds)
                self._began = None
                self._failures = 0
        if ended is not None:
            # As loud as its begin: a log that has only that says that it lasts.
            logger.warning(
                "the outbox %s serves again after %.1f s",
                self._database,
                ended.seconds,
                extra=log_fields(ended),
            )
            self._emit(ended)
