"""Publishing the rows of a receipt inline, in the writer's own thread.

There are two ways. Of a transaction that is known to be over, the rows are applied and
marked without a query for them: one statement, after the token is set. Of any other,
the rows are read first, since only rows that are visible are known to be committed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, NamedTuple, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Event, Published
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxRow, OutboxState
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.subscribers import Subscribers
from hydracache_sync.worker.appliers import InvalidationApplier
from hydracache_sync.worker.apply import apply_intents
from hydracache_sync.worker.reports import PublishReport, WorkerCounts

logger = printable_logger(__name__)

#: Rows of a commit that one query reads.
PAGE = 1000


class _Outcome(NamedTuple):
    """What came of an inline publish.

    :ivar rows: those that it finished, as far as they were read.
    :ivar lost: how many of ``rows`` another worker had finished first.
    """

    report: PublishReport
    rows: Sequence[OutboxRow] = ()
    lost: int = 0


class InlinePublisher:
    """Publishes receipts with one applier. Thread-safe.

    :param counts: gets the counts of each publish.
    :param subscribers: get its event.
    :param clock: seconds that never go back; replaced in tests.
    """

    def __init__(
        self,
        outbox: InvalidationOutbox,
        applier: InvalidationApplier,
        *,
        counts: WorkerCounts,
        subscribers: Subscribers[Event],
        clock: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._applier = applier
        self._counts = counts
        self._subscribers = subscribers
        self._clock = clock

    def publish(self, receipt: InvalidationReceipt, *, timeout: float) -> PublishReport:
        """Apply and finish the rows of ``receipt``; count it and emit its event.

        :param timeout: seconds within which the database must have answered; the time
            that the cache takes is added.
        """
        started = self._clock()
        try:
            done = self._publish(receipt, started + timeout)
        except OutboxError as exc:
            # Pending rows stay pending: a worker applies them, once more.
            logger.warning("inline publish left %s to a worker: %s", receipt, exc)
            targets = receipt.targets
            done = _Outcome(PublishReport(claimed=targets, released=targets))
        self._counts.add(done.report)
        if len(done.rows) > done.lost:
            seconds = self._clock() - started
            self._subscribers.tell(
                Published(receipt.namespace, done.rows, done.lost, seconds, inline=True)
            )
        return done.report

    def _publish(self, receipt: InvalidationReceipt, deadline: float) -> _Outcome:
        batch = receipt.batch
        if receipt.is_over and receipt.inserted == receipt.targets and batch:
            return self._publish_committed(receipt, batch, deadline)
        if not receipt.is_over and receipt.inserted not in (None, receipt.targets):
            # Some rows are from an earlier enqueue under the same position. That these
            # are visible proves no commit.
            targets = receipt.targets
            return _Outcome(PublishReport(claimed=targets, unseen=targets))
        return self._publish_visible(receipt, deadline)

    def _publish_visible(
        self, receipt: InvalidationReceipt, deadline: float
    ) -> _Outcome:
        """Publish the rows that are visible now: these are committed."""
        rows = self._rows_of(receipt, deadline)
        waiting: dict[InvalidationIntent, list[OutboxRow]] = {}
        for row in rows:
            if row.state is OutboxState.PENDING and row.intent is not None:
                waiting.setdefault(row.intent, []).append(row)
        applied, _ = self._apply(receipt, list(waiting), deadline, waiting)
        # Applied is what counts for a reader, also where another worker that had the
        # same row has marked it first.
        published = len(applied) + sum(row.is_published for row in rows)
        claimed = max(receipt.targets, len(rows))
        unseen = claimed - len(rows)
        report = PublishReport(
            claimed=claimed,
            published=published,
            released=claimed - published - unseen,
            unseen=unseen,
        )
        return _Outcome(report, [row for each in applied for row in waiting[each]])

    def _publish_committed(
        self,
        receipt: InvalidationReceipt,
        batch: InvalidationIntentBatch,
        deadline: float,
    ) -> _Outcome:
        """Publish the rows of a transaction that is over, without reading them first.

        If it was rolled back, the cache has lost entries that it could have kept, and
        nothing else is wrong.
        """
        started = self._clock()
        applied, done = self._apply(receipt, batch.distinct(), deadline)
        targets = receipt.targets
        if done == targets and not self._subscribers:
            return _Outcome(PublishReport(claimed=targets, published=targets))
        # An event needs the rows. Or not all were finished here: they failed, a worker
        # was faster, or they were rolled back.
        rows = self._rows_of(receipt, deadline + self._clock() - started)
        # A row that was applied and is pending all the same was applied after its
        # commit: it was enqueued again, or a worker has noted an error at it.
        published = sum(
            row.is_published
            or (row.state is OutboxState.PENDING and row.intent in applied)
            for row in rows
        )
        report = PublishReport(
            claimed=targets,
            published=published,
            released=len(rows) - published,
            unseen=targets - len(rows),
        )
        finished = [row for row in rows if row.is_published and row.intent in applied]
        return _Outcome(report, finished, max(0, len(finished) - done))

    def _apply(
        self,
        receipt: InvalidationReceipt,
        intents: Sequence[InvalidationIntent],
        deadline: float,
        seen: Mapping[InvalidationIntent, Sequence[OutboxRow]] | None = None,
    ) -> tuple[set[InvalidationIntent], int]:
        """Apply ``intents`` and mark their rows published.

        :param seen: the rows, if they were read before.
        :return: the intents that were applied, and how many rows were marked.
        """
        if not intents:
            return set(), 0
        started = self._clock()
        failures = apply_intents(self._applier, intents)
        # The cache's time comes on top of the database's.
        deadline += self._clock() - started
        applied = InvalidationIntentBatch()
        for intent, failure in zip(intents, failures):
            if failure is None:
                applied.intent(intent)
            else:
                logger.info("inline publish left a row to a worker: %s", failure)
        if not applied:
            return set(), 0
        done = self._outbox.publish_commit(
            replace(receipt, batch=applied),
            seen=None if seen is None else _rows_for(applied, seen),
            timeout=max(0.0, deadline - self._clock()),
        )
        return set(applied.intents), done

    def _rows_of(
        self, receipt: InvalidationReceipt, deadline: float
    ) -> list[OutboxRow]:
        """Read the rows of the receipt; of its whole commit if it came as text."""
        wanted = None if receipt.batch is None else set(receipt.batch.intents)
        found: list[OutboxRow] = []
        after = 0
        while True:
            page = self._outbox.rows(
                receipt.namespace,
                commit_position=receipt.commit_position,
                limit=PAGE,
                after=after,
                timeout=max(0.0, deadline - self._clock()),
            )
            found += [row for row in page if wanted is None or row.intent in wanted]
            if len(page) < PAGE:
                return found
            after = page[-1].id


def _rows_for(
    batch: InvalidationIntentBatch,
    rows: Mapping[InvalidationIntent, Sequence[OutboxRow]],
) -> list[OutboxRow]:
    return [row for intent in batch.intents for row in rows[intent]]
