"""The worker: claims rows, applies them, and settles each by its outcome.

One claim, one apply, one acknowledgement a batch. A row is published only after the
cache has acknowledged it; otherwise it is due again later. Owns no thread and no
connection: run it in a loop, a thread or a cron job.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from typing import Callable, Sequence

from hydracache_sync.backoff import FULL_JITTER, Backoff
from hydracache_sync.durations import duration_ms, positive_ms
from hydracache_sync.errors import ApplyError, OutboxError
from hydracache_sync.events import Event, EventSubscriber, OutageBegan
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.claimed_row import ClaimedRows
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.subscribers import Subscribers
from hydracache_sync.worker.appliers import InvalidationApplier
from hydracache_sync.worker.apply import Batch, apply_batch
from hydracache_sync.worker.node_outages import (
    DEFAULT_OUTAGE_TIMING,
    CacheOutages,
    OutageTiming,
)
from hydracache_sync.worker.publish import InlinePublisher
from hydracache_sync.worker.reports import (
    PublishReport,
    WorkerCounts,
    WorkerDiagnostics,
)
from hydracache_sync.worker.settle import Settler
from hydracache_sync.worker.tracer import NO_TRACER, WorkerTracer

logger = printable_logger(__name__)

#: Rows of a claim. Memcached takes them in milliseconds; more rows save little and
#: make a batch that is killed repeat more.
BATCH_SIZE = 256

#: Seconds until other workers take over a dead worker's rows.
CLAIM_TTL = 30.0

#: Part of the claim's time after which nothing new is started: what is running then
#: must end while the rows are still claimed.
CLAIM_SHARE = 0.5

#: Seconds: the longest wait of a row after its first failure, and after any number.
BACKOFF = 1.0
MAX_BACKOFF = 300.0

#: Rows of a claim while some of them were abandoned: each of those is tried alone.
CAREFUL_BATCH_SIZE = 16

#: Failed attempts that make a dead letter.
MAX_ATTEMPTS = 5


class OutboxWorker:
    """Applies the rows of one namespace with one applier. Thread-safe.

    :param namespace: by default the applier's.
    :param owner: name written to claimed rows; by default one that is unique to host,
        process, thread and start.
    :param batch_size: rows of a claim; at least 1.
    :param claim_ttl: seconds until other workers take over the rows of a dead worker.
    :param backoff: seconds that a row waits at most after its first failed attempt;
        doubled by each further one. Each wait is drawn from 0 to that (full jitter).
    :param max_backoff: seconds, the bound of that.
    :param max_attempts: failed attempts that make a dead letter; at least 1. A worker
        that died or hung at a row counts as one, if it tried the row alone and the
        cache had answered: its claim expired then.
    :param escalate: flush the namespace when a row becomes a dead letter, at most once
        a minute, so that the old value is not served for an unlimited time.
    :param watermark: have the pool, and :meth:`drain` at its end, store until when all
        is published, for caches with ``max_staleness``.
    :param outage_timing: how outages of the cache's nodes are judged; for tests.
    :param monotonic: seconds that never go back; replaced in tests.

    Source: ``InvalidationOutboxWorker`` in ``hydracache-db/src/outbox.rs``.
    """

    def __init__(
        self,
        outbox: InvalidationOutbox,
        applier: InvalidationApplier,
        namespace: str | None = None,
        *,
        owner: str | None = None,
        batch_size: int = BATCH_SIZE,
        claim_ttl: float = CLAIM_TTL,
        backoff: float = BACKOFF,
        max_backoff: float = MAX_BACKOFF,
        max_attempts: int = MAX_ATTEMPTS,
        escalate: bool = True,
        watermark: bool = False,
        outage_timing: OutageTiming = DEFAULT_OUTAGE_TIMING,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        positive_ms("claim_ttl", claim_ttl)
        if duration_ms("backoff", backoff) > duration_ms("max_backoff", max_backoff):
            raise ValueError(
                f"max_backoff must not be below backoff, {max_backoff} < {backoff}"
            )
        self.outbox = outbox
        self.applier = applier
        self.namespace = _namespace_of(applier, namespace)
        self.batch_size = max(1, batch_size)
        self.claim_ttl = claim_ttl
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.max_attempts = max(1, max_attempts)
        self.escalate = escalate
        self.watermark = watermark
        self._owner = owner
        self._start = secrets.token_hex(4)
        self._monotonic = monotonic
        #: Whether rows of the last claim were abandoned. More are likely to be.
        self._is_careful = False
        self._counts = WorkerCounts()
        self._tracer = NO_TRACER
        self._subscribers: Subscribers[Event] = Subscribers("after a batch")
        self._inline: Subscribers[Event] = Subscribers("after an inline publish")
        self._outages = CacheOutages(
            self.namespace, logger, backoff, timing=outage_timing, clock=monotonic
        )
        #: The moment of the watermark that every node has, of the monotonic clock.
        self._watermark_at: float | None = None
        self._storing_watermark = LoggedOutage(
            logger, f"storing the watermark of namespace {self.namespace}"
        )
        self._publisher = InlinePublisher(
            outbox,
            applier,
            counts=self._counts,
            subscribers=self._inline,
            clock=monotonic,
        )
        self._settler = Settler(
            outbox,
            applier,
            self.namespace,
            self._outages,
            backoff=Backoff(backoff, max_backoff, FULL_JITTER),
            max_attempts=self.max_attempts,
            escalate=escalate,
            counts=self._counts,
            subscribers=self._subscribers,
            clock=monotonic,
        )

    @property
    def owner(self) -> str:
        """Name that claims of the calling thread are made under."""
        if self._owner is not None:
            return self._owner
        thread = threading.get_ident()
        return f"{socket.gethostname()}/{os.getpid()}/{thread}/{self._start}"

    def __repr__(self) -> str:
        return f"OutboxWorker({self.outbox!r}, {self.applier!r}, {self.namespace!r})"

    @property
    def outage(self) -> OutageBegan | None:
        """How the outage of the cache began that lasts now; None if there is none.

        The oldest, if several nodes are away.
        """
        return next(iter(self.outages), None)

    @property
    def outages(self) -> Sequence[OutageBegan]:
        """How each outage of the cache began that lasts now, oldest first."""
        return self._outages.current

    @property
    def partly_away(self) -> bool:
        """Whether some nodes of the cache are away, and others are not."""
        return self.outage is not None and self._outages.leaves_some(
            self.applier.nodes()
        )

    def worth_another(self, report: PublishReport) -> bool:
        """Whether a drain should take another batch after the one of ``report``.

        False when no row was due, or none can be applied: the cache is away. While only
        some of its nodes are away, rows for the others may come next.
        """
        return self._outages.worth_another(
            claimed=report.claimed, released=report.released, partly=self.partly_away
        )

    def end_outages(self) -> None:
        """Emit the end of outages of the cache that are over.

        For a caller that runs no batch while nothing is due. Thread-safe.
        """
        for event in self._outages.expire():
            self._subscribers.tell(event)

    def subscribe(
        self, callback: EventSubscriber, *, inline: bool = True
    ) -> Callable[[], None]:
        """Have ``callback`` called with each event, see ``hydracache_sync.events``.

        It is called in the thread that ran the batch, after all is written down. What
        it raises is logged and dropped. Thread-safe.

        :param inline: also with those of :meth:`publish`, which then reads the rows.
        :return: call it to unsubscribe.
        """
        of = [self._subscribers, *([self._inline] if inline else [])]
        ends = [each.add(callback) for each in of]

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe

    def trace(self, tracer: WorkerTracer) -> None:
        """Have ``tracer`` open spans around the worker's work from now on.

        For :func:`hydracache_sync.tracing.instrument`; a later call replaces it.
        """
        self._tracer = tracer

    # Running

    def run_once(
        self,
        *,
        stop: threading.Event | None = None,
        on_claim: Callable[[int], object] | None = None,
    ) -> PublishReport:
        """Claim one batch, apply it and settle each row.

        :param stop: when set, rows that the applier has not got yet are released.
        :param on_claim: called with the number of rows claimed, before any is applied.
        :raises OutboxError: the database failed. Rows that could not be settled stay
            claimed until the claim ends and are then applied again.
        """
        started = self._monotonic()
        limit = self.batch_size
        if self._is_careful:
            limit = min(limit, CAREFUL_BATCH_SIZE)
        with self._tracer.claim(self.namespace) as note:
            rows = self.outbox.claim(
                self.namespace, self.owner, limit=limit, claim_ttl=self.claim_ttl
            )
            note(rows)
        if on_claim is not None:
            on_claim(len(rows))
        # Rows that are not made yet are new ones: none was abandoned.
        abandoned = (
            []
            if isinstance(rows, ClaimedRows)
            else [row for row in rows if row.was_abandoned]
        )
        self._is_careful = bool(abandoned)
        if not abandoned:
            return self._process(rows, started, stop)
        # One of them may be what has killed its worker: each is tried alone and after
        # all others, so that the next death tells which. The rest keeps its place.
        self.outbox.release(abandoned[1:])
        fresh = [row for row in rows if not row.was_abandoned]
        report = PublishReport()
        if fresh:
            try:
                report += self._process(fresh, started, stop)
            except BaseException:
                self._release_on_error(abandoned[:1])
                raise
        return report + self._process(abandoned[:1], started, stop, alone=True)

    def _process(
        self,
        rows: Sequence[OutboxRow],
        started: float,
        stop: threading.Event | None,
        *,
        alone: bool = False,
    ) -> PublishReport:
        """Apply claimed rows and settle each.

        :param alone: the last worker of the only row has died, perhaps of it.
        """
        batch = Batch(rows, self.max_attempts)
        with self._tracer.apply(self.namespace, rows) as note:
            report = self._apply_and_settle(batch, started, stop, alone)
            note(report, batch.failures)
        return report

    def _apply_and_settle(
        self, batch: Batch, started: float, stop: threading.Event | None, alone: bool
    ) -> PublishReport:
        try:
            if not alone or self._may_try_alone(batch):
                apply_batch(
                    batch,
                    self.applier,
                    ends=started + self.claim_ttl * CLAIM_SHARE,
                    claim_ttl=self.claim_ttl,
                    stop=stop,
                    clock=self._monotonic,
                )
        except BaseException:
            # The process or a greenlet is being ended. Rows with an outcome are settled
            # by it; the others are released now instead of when the claim ends.
            try:
                self._settle(batch, started)
            except OutboxError:
                logger.exception("rows stay claimed for up to %s s", self.claim_ttl)
            raise
        return self._settle(batch, started)

    def _settle(self, batch: Batch, started: float) -> PublishReport:
        with self._tracer.settle(self.namespace, batch.size):
            return self._settler.settle(
                batch, started=started, requeue_limit=self.batch_size
            )

    def _release_on_error(self, rows: Sequence[OutboxRow]) -> None:
        """Release ``rows`` that are not reached, because of an error that goes on."""
        try:
            self.outbox.release(rows)
        except OutboxError:
            logger.exception("rows stay claimed for up to %s s", self.claim_ttl)

    def _may_try_alone(self, batch: Batch) -> bool:
        """Whether the only row of ``batch`` can be tried, so that a death counts.

        A worker that dies while the cache hangs has not died of the row: the cache must
        have answered first. If it does not, that is noted as the row's failure.
        """
        for intent, rows in zip(batch.intents, batch.groups()):
            try:
                self.applier.probe(intent)
            except Exception as exc:
                # As any failure to apply it, by the error's class.
                batch.failures.append(exc)
                return False
            # A row that another worker has by now is left to it: no mark would find it.
            return self.outbox.mark_tried_alone(rows) == len(rows)
        return False

    def drain(
        self, *, max_seconds: float | None = None, stop: threading.Event | None = None
    ) -> PublishReport:
        """Run batches until nothing is due, the time is up or the cache is away.

        :param max_seconds: start no further batch after that.
        :param stop: when set, finish what the applier is doing and return.
        :raises OutboxError: as :meth:`run_once`; batches finished before stay finished.
        """
        deadline = None if max_seconds is None else self._monotonic() + max_seconds
        total = PublishReport()
        while True:
            report = self.run_once(stop=stop)
            total += report
            if not self.worth_another(report):
                break
            if stop is not None and stop.is_set():
                break
            if deadline is not None and self._monotonic() >= deadline:
                break
        if self.watermark:
            self.store_watermark()
        return total

    def store_watermark(self) -> bool:
        """Store until when everything is published, for caches with ``max_staleness``.

        For a loop of your own around :meth:`run_once`: call it about once a second. A
        dead letter holds the watermark back until a flush has made up for it, which is
        scheduled where that was lost.

        :return: whether every node has it. False if one is away, which is logged, or if
            nothing is known at the moment: see ``InvalidationOutbox.watermark``.
        :raises OutboxError: the database failed.
        """
        found = self.outbox.watermark(self.namespace)
        if found.dead_letters and self.escalate and self.applier.can_flush:
            self.outbox.escalate(self.namespace)
        if found.moment_ms is None:
            return False
        try:
            self.applier.store_watermark(found.moment_ms)
        except (ApplyError, OSError) as exc:
            # Readers of that node load until the next one reaches it.
            self._storing_watermark.begin(exc)
            return False
        self._storing_watermark.end()
        age = (found.now_ms - found.moment_ms) / 1000
        self._watermark_at = self._monotonic() - age
        return True

    @property
    def watermark_age(self) -> float | None:
        """Seconds since the moment that this worker last stored as the watermark.

        Each commit that ended before it is published, and every node knows that. None
        until one was stored.
        """
        stored = self._watermark_at
        return None if stored is None else max(0.0, self._monotonic() - stored)

    def publish(
        self, receipt: InvalidationReceipt, *, timeout: float = 1.0
    ) -> PublishReport:
        """Apply a receipt's rows now, in the writer's own thread, after its commit.

        Called before the commit it changes nothing and counts the rows as ``unseen``;
        a worker finds them later. That the commit is done is known of
        ``transaction()``, ``enqueue()`` and PyMySQL's connections; elsewhere the rows
        are read first.

        Never raises for an outage of cache or database: the rows stay for a worker
        and are counted as ``released``.

        :param timeout: seconds to wait at most for a busy database. The cache's own
            timeouts come on top. Of a large commit no further part of 500 rows is
            begun after that time: the rest is left to a worker, as ``released``.
        :return: ``complete`` if every later read, anywhere, sees the write.
        """
        if receipt.namespace != self.namespace:
            raise ValueError(
                f"the receipt is of namespace {receipt.namespace!r}, this worker of"
                f" {self.namespace!r}"
            )
        duration_ms("timeout", timeout)
        if receipt.targets == 0:
            return PublishReport()
        with self._tracer.publish(receipt) as note:
            report = self._publisher.publish(receipt, timeout=timeout)
            note(report)
        return report

    def diagnostics(self) -> WorkerDiagnostics:
        """Return the counts so far; a forked child goes on from its parent's."""
        return self._counts.total

    def reset_dead_letters(self) -> int:
        """Make all dead letters of the namespace pending again; returns how many."""
        return self.outbox.reset_dead_letters(self.namespace)


def _namespace_of(applier: InvalidationApplier, namespace: str | None) -> str:
    if namespace is None and applier.namespace is None:
        raise ValueError("namespace is missing: the applier has none of its own")
    if None not in (namespace, applier.namespace) and namespace != applier.namespace:
        raise ValueError(
            f"namespace {namespace!r} is not the applier's, {applier.namespace!r}"
        )
    return checked_namespace(applier.namespace if namespace is None else namespace)
