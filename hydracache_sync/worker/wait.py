"""Read your writes: wait until the rows of a receipt are seen published.

Each poll is a statement by itself, so that it sees what is committed at that moment,
and not what an open transaction saw first.
"""

from __future__ import annotations

import enum
import threading
import time
from dataclasses import dataclass
from typing import Callable, NamedTuple

from hydracache_sync.durations import duration_ms, positive_ms
from hydracache_sync.errors import OutboxBusyError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.receipts import InvalidationReceipt

#: Seconds between two polls.
POLL_INTERVAL = 0.01

#: Seconds that published rows are kept before a purge. A receipt older than that
#: whose rows are gone counts as published; keep it at or above what you purge by.
KEEP_PUBLISHED = 86_400.0


class ConsistencyMode(enum.Enum):
    """What a writer asks for after its commit.

    NO_WAIT promises nothing. LOCAL and BEST_EFFORT wait alike and differ in name only,
    as in the Rust module.
    """

    NO_WAIT = "no_wait"
    LOCAL = "local"
    BEST_EFFORT = "best_effort"


@dataclass(frozen=True)
class WaitOutcome:
    """What was known when the wait ended.

    :ivar satisfied: every row was seen published; always so for NO_WAIT.
    :ivar degraded: the reader should not rely on the cache: rows are dead, or the time
        was up. Ask the database.
    :ivar timed_out: the time was up.
    :ivar pending: rows not seen finished: waiting, or not visible (not committed yet,
        rolled back, discarded).
    :ivar dead_lettered: rows given up.
    :ivar elapsed_ms: how long the wait took.

    Source: ``InvalidationWaitOutcome`` in ``hydracache-db/src/outbox.rs``.
    """

    mode: ConsistencyMode
    satisfied: bool
    degraded: bool
    timed_out: bool
    pending: int
    dead_lettered: int
    elapsed_ms: int


@dataclass(frozen=True)
class WaitDiagnostics:
    """Counts of waits since the helper was made, in this process."""

    waits: int = 0
    satisfied: int = 0
    timed_out: int = 0
    degraded: int = 0


class _Poll(NamedTuple):
    """What one poll of the outbox saw.

    :ivar final: waiting longer would not make it done.
    """

    done: bool = False
    final: bool = False
    pending: int = 0
    dead_lettered: int = 0


class InvalidationWait:
    """Waits for receipts. Thread-safe; make one and keep it for its counts.

    Build it with :meth:`no_wait`, :meth:`local` or :meth:`best_effort`.

    Source: ``InvalidationWait`` in ``hydracache-db/src/outbox.rs``. Differs: it watches
    the rows of the receipt and not the whole namespace, which in a busy app never
    drains. Neither a dead letter nor a commit that is not visible satisfies it.
    """

    def __init__(
        self,
        mode: ConsistencyMode,
        timeout: float = 0.0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        duration_ms("timeout", timeout)
        self._mode = mode
        self._timeout = timeout
        self._poll_interval = POLL_INTERVAL
        self._keep_published = KEEP_PUBLISHED
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._diagnostics = WaitDiagnostics()

    @classmethod
    def no_wait(cls) -> InvalidationWait:
        """Return at once, satisfied; nothing is promised."""
        return cls(ConsistencyMode.NO_WAIT)

    @classmethod
    def local(cls, timeout: float) -> InvalidationWait:
        """Wait up to ``timeout`` seconds; 0 polls once."""
        return cls(ConsistencyMode.LOCAL, timeout)

    @classmethod
    def best_effort(cls, timeout: float) -> InvalidationWait:
        """As :meth:`local`; the name says that the caller goes on either way."""
        return cls(ConsistencyMode.BEST_EFFORT, timeout)

    def poll_interval(self, seconds: float) -> InvalidationWait:
        """Set the seconds between two polls, above 0; returns the helper."""
        positive_ms("poll_interval", seconds)
        self._poll_interval = seconds
        return self

    def keep_published(self, seconds: float) -> InvalidationWait:
        """Set how long published rows are kept before a purge; returns the helper."""
        duration_ms("keep_published", seconds)
        self._keep_published = seconds
        return self

    @property
    def mode(self) -> ConsistencyMode:
        return self._mode

    def diagnostics(self) -> WaitDiagnostics:
        """Return the counts so far; a forked child goes on from its parent's."""
        return self._diagnostics

    def wait(
        self, outbox: InvalidationOutbox, receipt: InvalidationReceipt
    ) -> WaitOutcome:
        """Wait until every row of ``receipt`` is published.

        Call it after the commit. Polls once before and once after the timeout, so that
        a timeout of 0 is a question. Ends early when a row is dead: waiting longer
        would not help.

        :raises OutboxError: the outbox could not be read; nothing is known.
        """

        def poll(timeout: float) -> _Poll:
            if receipt.targets == 0:
                return _Poll(done=True)
            found = outbox.status_for_commit(
                receipt.namespace,
                receipt.commit_position,
                batch=receipt.batch,
                timeout=timeout,
            )
            dead = found.dead_lettered
            pending = max(found.pending, receipt.targets - found.published - dead)
            # Purged rows cannot be told from rows never committed but by age. A row
            # that still waits is never purged, however old.
            age_ms = found.now_ms - receipt.created_at_ms
            if found.pending == 0 and age_ms > self._keep_published * 1000:
                pending = 0
            return _Poll(pending == 0 and dead == 0, dead > 0, pending, dead)

        return self._until(poll)

    def wait_drained(self, outbox: InvalidationOutbox, namespace: str) -> WaitOutcome:
        """Wait until nothing in ``namespace`` is pending; dead letters degrade it.

        For scripts and tests. In a busy app there is always something pending.

        :raises OutboxError: the outbox could not be read; nothing is known.
        """

        def poll(timeout: float) -> _Poll:
            status = outbox.status(namespace, timeout=timeout)
            pending, dead = status.pending, status.dead_lettered
            return _Poll(
                pending == 0 and dead == 0, pending == 0 and dead > 0, pending, dead
            )

        return self._until(poll)

    def _until(self, poll: Callable[[float], _Poll]) -> WaitOutcome:
        """Poll until it is done or final, or the time is up."""
        started = self._monotonic()
        seen, timed_out = _Poll(done=True), False
        if self._mode is not ConsistencyMode.NO_WAIT:
            seen, timed_out = self._repeat(poll, started)
        outcome = WaitOutcome(
            self._mode,
            satisfied=seen.done,
            degraded=not seen.done,
            timed_out=timed_out,
            pending=seen.pending,
            dead_lettered=seen.dead_lettered,
            elapsed_ms=int((self._monotonic() - started) * 1000),
        )
        with self._lock:
            before = self._diagnostics
            self._diagnostics = WaitDiagnostics(
                waits=before.waits + 1,
                satisfied=before.satisfied + outcome.satisfied,
                timed_out=before.timed_out + outcome.timed_out,
                degraded=before.degraded + outcome.degraded,
            )
        return outcome

    def _repeat(
        self, poll: Callable[[float], _Poll], started: float
    ) -> tuple[_Poll, bool]:
        deadline = started + self._timeout
        last = self._timeout == 0
        answered: _Poll | None = None
        while True:
            try:
                seen = answered = poll(max(0.0, deadline - self._monotonic()))
            except OutboxBusyError:
                # Locked for so long: poll again; at the end an earlier answer counts.
                if last and answered is None:
                    raise
                seen = answered or _Poll()
            if seen.done or seen.final:
                return seen, False
            if last:
                return seen, True
            remaining = deadline - self._monotonic()
            last = remaining <= self._poll_interval
            if remaining > 0:
                self._sleep(min(self._poll_interval, remaining))
