"""Publishing the rows of a receipt inline, in the writer's own thread.

There are two ways. Of a transaction that is known to be over, the rows are applied and
marked without a query for them: one statement, after the token is set. Of any other,
the rows are read first, since only rows that are visible are known to be committed.

Many rows are published in parts, and what the time does not reach is left to a worker.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Callable, Iterator, Mapping, NamedTuple, Sequence

from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Event, Published
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.database import parts_of
from hydracache_sync.outbox.row import OutboxRow, OutboxState
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.subscribers import Subscribers
from hydracache_sync.worker.appliers import InvalidationApplier
from hydracache_sync.worker.apply import apply_intents
from hydracache_sync.worker.reports import PublishReport, WorkerCounts

logger = printable_logger(__name__)

#: Rows that are read, applied and marked together; they are one statement each time.
#: With fewer a large commit takes longer, with more the limit of its time is missed by
#: more: these are published in some ten milliseconds.
PART = 500


class _Outcome(NamedTuple):
    """What came of an inline publish.

    :ivar rows: those that it finished, as far as they were read.
    :ivar lost: how many of ``rows`` another worker had finished first.
    """

    report: PublishReport
    rows: Sequence[OutboxRow] = ()
    lost: int = 0


class _Time:
    """The time of one publish.

    What waits for the database ends when it is over, not counting the cache's: what was
    applied is to be marked. A further part is begun only within the time itself.
    """

    def __init__(self, clock: Callable[[], float], timeout: float) -> None:
        self._clock = clock
        self._ends = self._database_ends = clock() + timeout

    @property
    def is_over(self) -> bool:
        return self._clock() >= self._ends

    def of_database(self) -> float:
        """Return the seconds that are left to wait for the database."""
        return max(0.0, self._database_ends - self._clock())

    @contextlib.contextmanager
    def of_cache(self) -> Iterator[None]:
        """What the block takes is not taken from the database's time."""
        started = self._clock()
        yield
        self._database_ends += self._clock() - started


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
            that the cache takes is added. No further part is begun after them.
        """
        started = self._clock()
        try:
            done = self._publish(receipt, _Time(self._clock, timeout))
        except OutboxError as exc:
            _log_failure(receipt, exc)
            targets = receipt.targets
            done = _Outcome(PublishReport(claimed=targets, released=targets))
        self._counts.add(done.report)
        if len(done.rows) > done.lost:
            seconds = self._clock() - started
            self._subscribers.tell(
                Published(receipt.namespace, done.rows, done.lost, seconds, inline=True)
            )
        return done.report

    def _publish(self, receipt: InvalidationReceipt, time: _Time) -> _Outcome:
        batch = receipt.batch
        if receipt.is_over and receipt.inserted == receipt.targets and batch:
            return self._publish_committed(receipt, batch, time)
        if not receipt.is_over and receipt.inserted not in (None, receipt.targets):
            # Some rows are from an earlier enqueue under the same position. That these
            # are visible proves no commit.
            targets = receipt.targets
            return _Outcome(PublishReport(claimed=targets, unseen=targets))
        return self._publish_visible(receipt, time)

    def _publish_visible(self, receipt: InvalidationReceipt, time: _Time) -> _Outcome:
        """Publish the rows that are visible now: these are committed."""
        found = published = 0
        finished: list[OutboxRow] = []
        is_last = False
        try:
            for rows, is_last in self._pages(receipt, time):
                found += len(rows)
                waiting: dict[InvalidationIntent, list[OutboxRow]] = {}
                for row in rows:
                    if row.state is OutboxState.PENDING and row.intent is not None:
                        waiting.setdefault(row.intent, []).append(row)
                applied, _ = self._apply(receipt, list(waiting), time, waiting)
                # Applied is what counts for a reader, also where another worker that
                # had the same row has marked it first.
                published += len(applied) + sum(row.is_published for row in rows)
                finished += [row for each in applied for row in waiting[each]]
        except OutboxError as exc:
            if not published:
                raise
            is_last = False
            _log_failure(receipt, exc)
        claimed = max(receipt.targets, found)
        unseen = claimed - found if is_last else 0
        report = PublishReport(
            claimed=claimed,
            published=published,
            released=claimed - published - unseen,
            unseen=unseen,
        )
        return _Outcome(report, finished)

    def _publish_committed(
        self,
        receipt: InvalidationReceipt,
        batch: InvalidationIntentBatch,
        time: _Time,
    ) -> _Outcome:
        """Publish the rows of a transaction that is over, without reading them first.

        If it was rolled back, the cache has lost entries that it could have kept, and
        nothing else is wrong.
        """
        targets = receipt.targets
        applied: set[InvalidationIntent] = set()
        done = 0
        rows: list[OutboxRow] = []
        is_last = is_cut_off = False
        try:
            for index, part in enumerate(parts_of(batch.distinct(), PART)):
                is_cut_off = index > 0 and time.is_over
                if is_cut_off:
                    break
                some, marked = self._apply(receipt, part, time)
                applied |= some
                done += marked
            if not self._subscribers.callbacks and (done == targets or is_cut_off):
                left = targets - done
                return _Outcome(PublishReport(targets, published=done, released=left))
            # An event needs the rows. Or not all were finished here: they failed, a
            # worker was faster, or they were rolled back.
            for page, is_last in self._pages(receipt, time):
                rows += page
        except OutboxError as exc:
            if not done:
                raise
            is_last = False
            _log_failure(receipt, exc)
        finished = [row for row in rows if row.is_published and row.intent in applied]
        if not is_last:
            report = PublishReport(
                claimed=targets, published=done, released=targets - done
            )
            return _Outcome(report, finished)
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
        return _Outcome(report, finished, max(0, len(finished) - done))

    def _apply(
        self,
        receipt: InvalidationReceipt,
        intents: Sequence[InvalidationIntent],
        time: _Time,
        seen: Mapping[InvalidationIntent, Sequence[OutboxRow]] | None = None,
    ) -> tuple[set[InvalidationIntent], int]:
        """Apply ``intents`` and mark their rows published.

        :param seen: the rows, if they were read before.
        :return: the intents that were applied, and how many rows were marked.
        """
        if not intents:
            return set(), 0
        with time.of_cache():
            failures = apply_intents(self._applier, intents)
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
            timeout=time.of_database(),
        )
        return set(applied.intents), done

    def _pages(
        self, receipt: InvalidationReceipt, time: _Time
    ) -> Iterator[tuple[list[OutboxRow], bool]]:
        """Read the rows of the receipt; of its whole commit if it came as text.

        The first page is always read.

        :return: pages, and of each whether there is nothing behind it.
        """
        wanted = None if receipt.batch is None else set(receipt.batch.intents)
        after = 0
        while True:
            page = self._outbox.rows(
                receipt.namespace,
                commit_position=receipt.commit_position,
                limit=PART,
                after=after,
                timeout=time.of_database(),
            )
            is_last = len(page) < PART
            yield (
                [row for row in page if wanted is None or row.intent in wanted],
                is_last,
            )
            if is_last or time.is_over:
                return
            after = page[-1].id


def _log_failure(receipt: InvalidationReceipt, exc: OutboxError) -> None:
    # Pending rows stay pending: a worker applies them, once more.
    logger.warning("inline publish left %s to a worker: %s", receipt, exc)


def _rows_for(
    batch: InvalidationIntentBatch,
    rows: Mapping[InvalidationIntent, Sequence[OutboxRow]],
) -> list[OutboxRow]:
    return [row for intent in batch.intents for row in rows[intent]]
