"""Settling a batch: writing down what became of each of its rows.

One statement for each kind of outcome. If the database fails in between, the rows that
are not settled yet stay claimed until their claim ends, and are then applied again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable, Iterator, Mapping, Sequence

from hydracache_sync.backoff import Backoff
from hydracache_sync.errors import ApplyPermanent, ApplyUnavailable
from hydracache_sync.events import (
    DeadLettered,
    Event,
    OutageBegan,
    Published,
    Released,
    Retried,
    log_fields,
)
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import ABANDONED, OutboxRow
from hydracache_sync.printable import described, printable_logger
from hydracache_sync.subscribers import Subscribers
from hydracache_sync.worker.appliers import InvalidationApplier
from hydracache_sync.worker.apply import Batch
from hydracache_sync.worker.node_outages import CacheOutages, NodeName
from hydracache_sync.worker.reports import PublishReport, WorkerCounts

logger = printable_logger(__name__)

#: Logged with a dead letter whose applier cannot flush.
NO_FLUSH = (
    "; its applier cannot flush, so the cache may serve the old value until its TTL:"
    " fix the cause, then run `hydracache dead retry`"
)


@dataclass
class _Outcomes:
    """The rows of a batch by what is to be written down.

    :ivar unavailable: by the node that was away, and the error.
    :ivar failed: by the error, and the number of attempts.
    :ivar dead: by the error.
    :ivar unstarted: rows that the applier has not got.
    """

    published: Sequence[OutboxRow] = ()
    unavailable: dict[tuple[NodeName, str], list[OutboxRow]] = field(
        default_factory=dict
    )
    failed: dict[tuple[str, int], list[OutboxRow]] = field(default_factory=dict)
    dead: dict[str, list[OutboxRow]] = field(default_factory=dict)
    unstarted: list[OutboxRow] = field(default_factory=list)


def _outcomes_of(batch: Batch, max_attempts: int) -> _Outcomes:
    found = _Outcomes()
    for row in batch.malformed:
        found.dead.setdefault(row.last_error or "malformed row", []).append(row)
    for row in batch.exhausted:
        error = f"no success up to attempt {row.attempts}, the last: {ABANDONED}"
        found.dead.setdefault(error, []).append(row)
    if batch.failures.count(None) == len(batch.intents):
        found.published = batch.applicable()
        return found
    groups = batch.groups()
    published: list[OutboxRow] = []
    # Failures first: zip takes no group that it then finds no failure for.
    for failure, rows in zip(batch.failures, groups):
        if failure is None:
            published += rows
            continue
        error = described(failure)
        if isinstance(failure, (ApplyUnavailable, OSError)):
            node = getattr(failure, "node", None)
            found.unavailable.setdefault((node, error), []).extend(rows)
            continue
        for row in rows:
            attempts = row.attempts + 1
            if isinstance(failure, ApplyPermanent) or attempts >= max_attempts:
                found.dead.setdefault(error, []).append(row)
            else:
                found.failed.setdefault((error, attempts), []).append(row)
    for rows in groups:
        found.unstarted += rows
    found.published = published
    return found


class _Ledger:
    """What has been written down of one batch so far.

    :ivar counts: as in the report.
    """

    def __init__(self, claimed: int) -> None:
        self.counts = {"claimed": claimed}
        self.events: list[Event] = []

    def count(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def note(self, event: Event, **counts: int) -> None:
        self.count(**counts)
        self.events.append(event)


class Settler:
    """Settles the batches of one worker. Thread-safe.

    :param backoff: pauses of a row that fails, by its attempts.
    :param max_attempts: failed attempts that make a dead letter.
    :param escalate: flush the namespace when a row becomes a dead letter.
    :param counts: gets the counts of each batch.
    :param subscribers: get the events of each batch.
    :param clock: seconds that never go back.
    """

    def __init__(
        self,
        outbox: InvalidationOutbox,
        applier: InvalidationApplier,
        namespace: str,
        outages: CacheOutages,
        *,
        backoff: Backoff,
        max_attempts: int,
        escalate: bool,
        counts: WorkerCounts,
        subscribers: Subscribers[Event],
        clock: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._applier = applier
        self._namespace = namespace
        self._outages = outages
        self._backoff = backoff
        self._max_attempts = max_attempts
        self._escalate = escalate
        self._counts = counts
        self._subscribers = subscribers
        self._clock = clock

    def settle(
        self, batch: Batch, *, started: float, requeue_limit: int
    ) -> PublishReport:
        """Write down what became of each row of ``batch``.

        :param started: moment of the clock at which it was claimed.
        :param requeue_limit: waiting rows to requeue at most; as many as a claim takes.
        :raises OutboxError: the database failed; the other rows stay claimed.
        """
        outcomes = _outcomes_of(batch, self._max_attempts)
        ledger = _Ledger(batch.size)
        try:
            self._publish(outcomes.published, started, ledger)
            ledger.events += self._note_outages(outcomes.unavailable, batch)
            self._put_off(outcomes.unavailable, ledger)
            self._release(outcomes.unstarted, ledger)
            self._retry(outcomes.failed, ledger)
            for error, rows in outcomes.dead.items():
                event = self._dead_letter(rows, error)
                ledger.note(event, dead_lettered=event.count, lost=event.lost)
            self._requeue_waiting(batch, outcomes.published, requeue_limit)
        finally:
            # Also of what was written down before the database failed.
            report = PublishReport(**ledger.counts)
            self._counts.add(report, iterations=1)
            for each in ledger.events:
                self._subscribers.tell(each)
        return report

    def _publish(
        self, rows: Sequence[OutboxRow], started: float, ledger: _Ledger
    ) -> None:
        if rows:
            done = self._outbox.mark_published(rows)
            lost = len(rows) - done
            ledger.count(published=done, lost=lost)
            if self._subscribers.callbacks:
                seconds = self._clock() - started
                event = Published(self._namespace, rows, lost, seconds)
                ledger.events.append(event)

    def _note_outages(
        self, unavailable: Mapping[tuple[NodeName, str], object], batch: Batch
    ) -> list[Event]:
        failed: dict[NodeName, str] = {}
        for node, error in unavailable:
            failed.setdefault(node, error)

        def answered() -> Iterator[Sequence[NodeName]]:
            unknown = (None,)
            for failure, intent in zip(batch.failures, batch.intents):
                if failure is None:
                    yield self._applier.nodes_of(intent) or unknown
                elif not isinstance(
                    failure, (ApplyUnavailable, OSError, ApplyPermanent)
                ):
                    # The cache refused, so it answered. With several nodes it is not
                    # known which.
                    yield () if self._applier.nodes() else unknown

        events = self._outages.note(failed, answered)
        began = sum(isinstance(event, OutageBegan) for event in events)
        if began:
            self._counts.add(PublishReport(), outages=began)
        return events

    def _put_off(
        self,
        unavailable: Mapping[tuple[NodeName, str], Sequence[OutboxRow]],
        ledger: _Ledger,
    ) -> None:
        """Release rows whose node is away, each until a later moment."""
        if not unavailable:
            return
        alone = not self._outages.leaves_some(self._applier.nodes())
        for (node, error), rows in unavailable.items():
            delay = self._outages.delay(node, len(rows), alone=alone)
            done = self._outbox.release(rows, delay=delay, error=error, waits_for=node)
            lost = len(rows) - done
            event = Released(self._namespace, rows, lost, error, delay)
            ledger.note(event, released=done, lost=lost)

    def _release(self, rows: Sequence[OutboxRow], ledger: _Ledger) -> None:
        if rows:
            done = self._outbox.release(rows)
            lost = len(rows) - done
            event = Released(self._namespace, rows, lost, None, 0.0)
            ledger.note(event, released=done, lost=lost)

    def _retry(
        self, failed: Mapping[tuple[str, int], Sequence[OutboxRow]], ledger: _Ledger
    ) -> None:
        for (error, attempts), rows in failed.items():
            pause = self._backoff.pause(attempts)
            done = self._outbox.mark_failed(rows, error, backoff=pause, dead=False)
            lost = len(rows) - done
            event = Retried(self._namespace, rows, lost, error, attempts, pause)
            ledger.note(event, retried=done, lost=lost)

    def _dead_letter(self, rows: Sequence[OutboxRow], error: str) -> DeadLettered:
        """Make dead letters of ``rows``; flush the namespace in their place."""
        flush = InvalidationIntent.flush()
        flushed = False
        if (
            self._escalate
            and self._applier.can_flush
            # A flush that cannot be applied is no help against itself.
            and any(row.intent != flush for row in rows)
        ):
            # Before the mark: killed in between, the row is applied once more and
            # dies again; the other way round the flush would be lost.
            flushed = self._outbox.escalate(self._namespace)
        done = self._outbox.mark_failed(rows, error, backoff=0.0, dead=True)
        event = DeadLettered(self._namespace, rows, len(rows) - done, error, flushed)
        if flushed:
            self._counts.add(PublishReport(), escalations=1)
            logger.warning(
                "namespace %s will be flushed: an invalidation was given up",
                self._namespace,
                extra=log_fields(event),
            )
        if done < len(rows):
            # Another worker has some of them by now; only what died here is logged.
            rows = [row for row in rows if self._died(row)]
        advice = "" if flushed or self._applier.can_flush else NO_FLUSH
        for row in rows:
            logger.error(
                "row %d of namespace %s is a dead letter at attempt %d: %s%s",
                row.id,
                self._namespace,
                row.attempts + 1,
                error,
                advice,
                extra=log_fields(replace(event, rows=[row], lost=0)),
            )
        return event

    def _died(self, row: OutboxRow) -> bool:
        found = self._outbox.row(row.id)
        return found is not None and found.is_dead_lettered

    def _requeue_waiting(
        self, batch: Batch, published: Sequence[OutboxRow], limit: int
    ) -> None:
        """Requeue rows that wait for nodes that are back, as many as a claim takes.

        So as many become due as are applied meanwhile, and other rows need not queue
        behind all that an outage has left.
        """
        if batch.waited:
            done = {row.id for row in published}
            nodes = [row.waits_for for row in batch.waited if row.id in done]
            self._outages.note_delayed_success(node for node in nodes if node)
        for requeue in self._outages.requeues.due():
            reached: int | None = requeue.from_ms
            try:
                reached = self._outbox.make_due(
                    self._namespace,
                    waits_for=requeue.node,
                    limit=limit,
                    from_ms=requeue.from_ms,
                )
            finally:
                # If the database failed, the next batch goes on here.
                self._outages.requeues.ran(requeue, reached)
