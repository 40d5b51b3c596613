"""The worker: claims rows, applies them, settles each row by what came of it.

One claim, one apply, one acknowledgement a batch. A row is published only after the
cache has acknowledged it; whatever else happens, it comes back. Owns no thread and no
connection: run it in a loop, a thread or a cron job.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from dataclasses import astuple, dataclass, fields, replace
from typing import Callable, Iterator, Mapping, Sequence

from hydracache_sync.backoff import FULL_JITTER, Backoff
from hydracache_sync.durations import duration_ms
from hydracache_sync.errors import (
    ApplyPermanent,
    ApplyTransient,
    ApplyUnavailable,
    OutboxError,
)
from hydracache_sync.events import (
    DeadLettered,
    Event,
    EventSubscriber,
    OutageBegan,
    Published,
    Released,
    Retried,
    log_fields,
)
from hydracache_sync.fork import ProcessLock
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import ABANDONED, OutboxRow, OutboxState
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.subscribers import Subscribers
from hydracache_sync.worker.appliers import InvalidationApplier
from hydracache_sync.worker.node_outages import CacheOutages, NodeName

logger = printable_logger(__name__)

#: Rows of a claim. Memcached takes them in milliseconds; more rows save little and
#: make a batch that is killed repeat more.
BATCH_SIZE = 256

#: Seconds until a dead worker's rows are taken over by others.
CLAIM_TTL = 30.0

#: Part of the claim's time after which nothing new is started: what is running then
#: must end while the rows are still ours.
CLAIM_SHARE = 0.5

#: Seconds: the first wait of a failed row at most, and the longest of a row that
#: fails again and again.
BACKOFF = 1.0
MAX_BACKOFF = 300.0

#: Rows of a claim while some of them were abandoned: each of those is tried alone.
CAREFUL_BATCH_SIZE = 16

#: Rows of a commit that an inline publish reads at once.
PUBLISH_PAGE = 1000

#: Said of a dead letter whose applier cannot flush in place of what it lacks.
NO_NET = (
    "; its applier cannot flush, so what it was to invalidate may be served until its"
    " own end: mend the cause, then `hydracache dead retry`"
)

#: Failed attempts that make a dead letter.
MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class PublishReport:
    """What became of the rows of one call; reports add up with ``+``.

    :ivar claimed: rows taken, or targets of a published receipt. The sum of the rest.
    :ivar published: applied, acknowledged and finished.
    :ivar retried: failed and counted an attempt; due again after a backoff.
    :ivar dead_lettered: given up; an operator's to retry or discard.
    :ivar released: given back without counting an attempt: the cache was away, the
        claim's time was running out, or the worker was told to stop.
    :ivar lost: the claim had ended and another worker has the row, or had it.
    :ivar unseen: :meth:`OutboxWorker.publish` found no row, or one that may be of an
        enqueue before under the same position: not committed yet, rolled back, or
        purged. Rows that are committed later wait for a worker.
    """

    claimed: int = 0
    published: int = 0
    retried: int = 0
    dead_lettered: int = 0
    released: int = 0
    lost: int = 0
    unseen: int = 0

    @property
    def complete(self) -> bool:
        """Whether every row was published: what was written before is readable."""
        return self.published == self.claimed

    def __add__(self, other: PublishReport) -> PublishReport:
        return PublishReport(*map(sum, zip(astuple(self), astuple(other))))


@dataclass(frozen=True)
class WorkerDiagnostics:
    """Counts since the worker was made, in this process.

    ``iterations`` and ``escalations`` count calls and flushes, the rest as in
    :class:`PublishReport`. ``outages`` counts how often the cache went away.
    """

    iterations: int = 0
    claimed: int = 0
    published: int = 0
    retried: int = 0
    dead_lettered: int = 0
    released: int = 0
    lost: int = 0
    unseen: int = 0
    outages: int = 0
    escalations: int = 0


class OutboxWorker:
    """Carries the rows of one namespace to one applier. Thread-safe.

    :param namespace: by default the applier's.
    :param owner: name written to claimed rows; by default one that is unique to host,
        process, thread and start.
    :param batch_size: rows of a claim; at least 1.
    :param claim_ttl: seconds until others take over the rows of a worker that died.
    :param backoff: seconds a row waits at most after its first failed attempt; doubled
        by each further one, each wait drawn from 0 to that (full jitter).
    :param max_backoff: seconds, the bound of that.
    :param max_attempts: failed attempts that make a dead letter; at least 1. A worker
        that died or hung at a row has failed too, if it tried the row alone and the
        cache had answered: its claim has ended then without a word.
    :param escalate: flush the namespace when a row becomes a dead letter, at most once
        a minute, so that what it was to invalidate is not served for ever.

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
    ) -> None:
        if None not in (namespace, applier.namespace) and (
            namespace != applier.namespace
        ):
            raise ValueError(
                f"namespace {namespace!r} is not the applier's, {applier.namespace!r}"
            )
        if namespace is None and applier.namespace is None:
            raise ValueError("namespace is missing: the applier has none of its own")
        if duration_ms("claim_ttl", claim_ttl) == 0:
            raise ValueError(f"claim_ttl must be at least 0.001, not {claim_ttl}")
        if duration_ms("backoff", backoff) > duration_ms("max_backoff", max_backoff):
            raise ValueError(
                f"max_backoff must not be below backoff, {max_backoff} < {backoff}"
            )
        self.outbox = outbox
        self.applier = applier
        self.namespace = checked_namespace(
            applier.namespace if namespace is None else namespace
        )
        self.batch_size = max(1, batch_size)
        self.claim_ttl = claim_ttl
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.max_attempts = max(1, max_attempts)
        self.escalate = escalate
        self._owner = owner
        self._start = secrets.token_hex(4)
        self._lock = ProcessLock()
        #: Whether rows of the last claim were abandoned. More are likely to be.
        self._is_careful = False
        self._diagnostics = WorkerDiagnostics()
        self._outages = CacheOutages(self.namespace, logger, backoff)
        self._subscribers: Subscribers[Event] = Subscribers("after a batch")

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
        """How an outage of the cache that lasts now began; None if there is none.

        The oldest, if several nodes are away.
        """
        return next(iter(self._outages.now), None)

    @property
    def partly_away(self) -> bool:
        """Whether some nodes of the cache are away, and others are not."""
        return self.outage is not None and self._outages.leaves_some(
            self.applier.nodes()
        )

    def worth_another(self, report: PublishReport) -> bool:
        """Whether a drain should take another batch after the one of ``report``.

        Not when nothing was due, or nothing can be done: the cache is away. While only
        some of its nodes are, the rows for the others may come next.
        """
        return self._outages.worth_another(
            claimed=report.claimed, released=report.released, partly=self.partly_away
        )

    def end_outages(self) -> None:
        """Tell of outages of the cache that have ended since the last batch.

        For who runs no batch while nothing is due. Thread-safe.
        """
        for event in self._outages.calmed():
            self._subscribers.tell(event)

    def subscribe(self, callback: EventSubscriber) -> Callable[[], None]:
        """Have ``callback`` called with each event, see :mod:`hydracache_sync.events`.

        It runs in the thread that carried the rows, when all is written down. What it
        raises is logged and dropped. Thread-safe.

        :return: call it to unsubscribe.
        """
        return self._subscribers.add(callback)

    # Running

    def run_once(self, *, stop: threading.Event | None = None) -> PublishReport:
        """Claim one batch, apply it and settle each row.

        :param stop: when set, what was not yet handed to the applier is released.
        :raises OutboxError: the database failed. Rows that could not be settled stay
            claimed until the claim ends and are then applied again.
        """
        started = time.monotonic()
        limit = self.batch_size
        if self._is_careful:
            limit = min(limit, CAREFUL_BATCH_SIZE)
        rows = self.outbox.claim(
            self.namespace, self.owner, limit=limit, claim_ttl=self.claim_ttl
        )
        abandoned = [row for row in rows if row.was_abandoned]
        self._is_careful = bool(abandoned)
        if not abandoned:
            return self._carry(rows, started, stop)
        # One of them may be what has killed its worker: each is tried alone and after
        # all others, so that the next death tells which. The rest keeps its place.
        self.outbox.release(abandoned[1:])
        fresh = [row for row in rows if not row.was_abandoned]
        report = self._carry(fresh, started, stop) if fresh else PublishReport()
        return report + self._carry(abandoned[:1], started, stop, alone=True)

    def _carry(
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
        batch = _Batch(rows, self.max_attempts)
        try:
            if not alone or self._may_try_alone(batch):
                self._apply(batch, started + self.claim_ttl * CLAIM_SHARE, stop)
        except BaseException:
            # The process is being ended, or a greenlet is: what has an outcome keeps
            # it, the other rows are released at once instead of when the claim ends.
            try:
                self._settle(batch, started)
            except OutboxError:
                logger.exception("rows stay claimed for up to %s s", self.claim_ttl)
            raise
        return self._settle(batch, started)

    def _may_try_alone(self, batch: _Batch) -> bool:
        """Whether the only row of ``batch`` can be tried, so that a death counts.

        A worker that dies while the cache hangs has not died of the row: it must have
        answered first. What it says otherwise is noted as the row's failure.
        """
        for intent, rows in batch.rows.items():
            try:
                self.applier.probe(intent)
            except Exception as exc:
                # As any failure to apply it, by the error's class.
                batch.failures.append(exc)
                return False
            # A row that is another's by now is left to that: no mark would find it.
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
        deadline = None if max_seconds is None else time.monotonic() + max_seconds
        total = PublishReport()
        while True:
            report = self.run_once(stop=stop)
            total += report
            if not self.worth_another(report):
                return total
            if stop is not None and stop.is_set():
                return total
            if deadline is not None and time.monotonic() >= deadline:
                return total

    def publish(
        self, receipt: InvalidationReceipt, *, timeout: float = 1.0
    ) -> PublishReport:
        """Apply a receipt's rows now, in the writer's own thread, after its commit.

        Called before the commit it does nothing, says ``unseen``, and a worker finds
        the rows later. That the commit is done is known of ``transaction()``,
        ``enqueue()`` and PyMySQL's connections; elsewhere the rows are looked for
        first.

        Never raises for an outage of cache or database: the rows stay for a worker
        and the report says so (``released``).

        :param timeout: seconds to wait at most for a busy database. The cache's own
            timeouts come on top.
        :return: ``complete`` if every later read, anywhere, sees the write.
        """
        if receipt.namespace != self.namespace:
            raise ValueError(
                f"the receipt is of namespace {receipt.namespace!r}, this worker of"
                f" {self.namespace!r}"
            )
        if duration_ms("timeout", timeout) < 0 or receipt.targets == 0:
            return PublishReport()
        started = time.monotonic()
        try:
            report, rows, lost = self._publish(receipt, started + timeout)
        except OutboxError as exc:
            # Pending rows stay pending: a worker applies them, once more.
            logger.warning("inline publish left %s to a worker: %s", receipt, exc)
            report = PublishReport(claimed=receipt.targets, released=receipt.targets)
            rows, lost = [], 0
        self._record(report)
        if len(rows) > lost:
            seconds = time.monotonic() - started
            self._subscribers.tell(
                Published(self.namespace, rows, lost, seconds, inline=True)
            )
        return report

    def _publish(
        self, receipt: InvalidationReceipt, deadline: float
    ) -> tuple[PublishReport, list[OutboxRow], int]:
        """Return what came of it, and the rows and losses that its event tells of."""
        batch = receipt.batch
        if receipt.is_over and receipt.inserted == receipt.targets and batch:
            return self._publish_unseen(receipt, batch, deadline)
        if not receipt.is_over and receipt.inserted not in (None, receipt.targets):
            # What an enqueue before has left under its position proves no commit.
            targets = receipt.targets
            return PublishReport(claimed=targets, unseen=targets), [], 0
        rows = self._rows_of(receipt, deadline)
        waiting: dict[InvalidationIntent, list[OutboxRow]] = {}
        for row in rows:
            if row.state is OutboxState.PENDING and row.intent is not None:
                waiting.setdefault(row.intent, []).append(row)
        applied, _ = self._apply_inline(receipt, list(waiting), deadline, waiting)
        # Applied is what counts for a reader, also where another worker, that was at
        # the same row, has written it down first.
        published = len(applied) + sum(row.is_published for row in rows)
        claimed = max(receipt.targets, len(rows))
        unseen = claimed - len(rows)
        report = PublishReport(
            claimed=claimed,
            published=published,
            released=claimed - published - unseen,
            unseen=unseen,
        )
        return report, [row for each in applied for row in waiting[each]], 0

    def _publish_unseen(
        self,
        receipt: InvalidationReceipt,
        batch: InvalidationIntentBatch,
        deadline: float,
    ) -> tuple[PublishReport, list[OutboxRow], int]:
        """As :meth:`_publish`, of a transaction that is over, without a look first.

        If it was rolled back, the cache has lost what it could have kept, no more.
        """
        started = time.monotonic()
        applied, done = self._apply_inline(receipt, batch.distinct(), deadline)
        targets = receipt.targets
        if done == targets and not self._subscribers:
            return PublishReport(claimed=targets, published=targets), [], 0
        # Who listens wants to have the rows. Or not all have been finished here: they
        # failed, a worker was faster, or they were rolled back.
        rows = self._rows_of(receipt, deadline + time.monotonic() - started)
        # A row that waits all the same, for it was enqueued again or a worker has noted
        # an error at it, was applied after its commit.
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
        return report, finished, max(0, len(finished) - done)

    def _apply_inline(
        self,
        receipt: InvalidationReceipt,
        intents: Sequence[InvalidationIntent],
        deadline: float,
        seen: Mapping[InvalidationIntent, Sequence[OutboxRow]] | None = None,
    ) -> tuple[set[InvalidationIntent], int]:
        """Apply and finish what can be; return it, and how many rows were finished.

        :param seen: rows as they were read before, if they were.
        """
        if not intents:
            return set(), 0
        started = time.monotonic()
        failures = self._apply_portion(intents)
        # The cache's time comes on top of the database's.
        deadline += time.monotonic() - started
        applied = InvalidationIntentBatch()
        for intent, failure in zip(intents, failures):
            if failure is None:
                applied.intent(intent)
            else:
                logger.info("inline publish left a row to a worker: %s", failure)
        if not applied:
            return set(), 0
        done = self.outbox.publish_commit(
            replace(receipt, batch=applied),
            seen=None if seen is None else _rows_in(seen, applied),
            timeout=max(0.0, deadline - time.monotonic()),
        )
        return set(applied.intents), done

    def _rows_of(
        self, receipt: InvalidationReceipt, deadline: float
    ) -> list[OutboxRow]:
        """Rows of the receipt; of its whole commit if it came as text."""
        wanted = None if receipt.batch is None else set(receipt.batch.intents)
        found: list[OutboxRow] = []
        after = 0
        while True:
            page = self.outbox.rows(
                receipt.namespace,
                commit_position=receipt.commit_position,
                limit=PUBLISH_PAGE,
                after=after,
                timeout=max(0.0, deadline - time.monotonic()),
            )
            found += [row for row in page if wanted is None or row.intent in wanted]
            if len(page) < PUBLISH_PAGE:
                return found
            after = page[-1].id

    def diagnostics(self) -> WorkerDiagnostics:
        """Return the counts so far; a forked child goes on from its parent's."""
        return self._diagnostics

    def reset_dead_letters(self) -> int:
        """Make all dead letters of the namespace pending again; returns how many."""
        return self.outbox.reset_dead_letters(self.namespace)

    # Applying

    def _apply(
        self, batch: _Batch, deadline: float, stop: threading.Event | None
    ) -> None:
        """Apply the batch's intents until the deadline, noting each outcome."""
        intents = list(batch.rows)
        # An applier that takes intents one by one is looked after between them; one
        # that takes them together gets them together.
        own = type(self.applier).apply_batch is not InvalidationApplier.apply_batch
        size = len(intents) if own else 1
        for start in range(0, len(intents), max(1, size)):
            if stop is not None and stop.is_set():
                return
            if time.monotonic() >= deadline:
                logger.warning(
                    "half of the claim's %s s are over: %d of %d invalidations are"
                    " given back; %s",
                    self.claim_ttl,
                    len(intents) - start,
                    len(intents),
                    (
                        "a smaller batch_size suits this applier"
                        if start
                        else "to claim them took so long: does the database hang?"
                    ),
                )
                return
            batch.failures += self._apply_portion(intents[start : start + size])

    def _apply_portion(
        self, intents: Sequence[InvalidationIntent]
    ) -> Sequence[Exception | None]:
        try:
            failures = self.applier.apply_batch(intents)
            if len(failures) != len(intents):
                raise TypeError(
                    f"{type(self.applier).__name__}.apply_batch returned"
                    f" {len(failures)} results for {len(intents)} intents"
                )
        except Exception as exc:
            # Which were applied is not known: each row is settled as failed by the
            # error's class, and applying once more does no harm.
            return [exc] * len(intents)
        except SystemExit as exc:
            if threading.current_thread() is threading.main_thread():
                raise  # a signal's handler ends the process
            # Elsewhere it comes from the applier and would end the thread without a
            # word, again and again at the same row.
            name = type(self.applier).__name__
            failure = ApplyTransient(f"{name} raised SystemExit: {exc}")
            return [failure] * len(intents)
        return failures

    # Settling

    def _settle(self, batch: _Batch, started: float) -> PublishReport:
        """Write down what became of each row; as few statements as outcomes."""
        events: list[Event] = []
        published: list[OutboxRow] = []
        unavailable: dict[tuple[NodeName, str], list[OutboxRow]] = {}
        failed: dict[tuple[str, int], list[OutboxRow]] = {}
        dead: dict[str, list[OutboxRow]] = {}
        released: list[OutboxRow] = []
        for row in batch.malformed:
            dead.setdefault(row.last_error or "malformed row", []).append(row)
        for row in batch.hopeless:
            error = f"{row.attempts} attempts without success; the last: {ABANDONED}"
            dead.setdefault(error, []).append(row)
        groups = iter(batch.rows.values())
        # Failures first: zip takes no group that it then finds no failure for.
        for failure, rows in zip(batch.failures, groups):
            if failure is None:
                published += rows
                continue
            error = _described(failure)
            if isinstance(failure, (ApplyUnavailable, OSError)):
                node = getattr(failure, "node", None)
                unavailable.setdefault((node, error), []).extend(rows)
                continue
            for row in rows:
                tries = row.attempts + 1
                if isinstance(failure, ApplyPermanent) or tries >= self.max_attempts:
                    dead.setdefault(error, []).append(row)
                else:
                    failed.setdefault((error, tries), []).append(row)
        for rows in groups:
            released += rows

        report = PublishReport(claimed=batch.size)
        try:
            if published:
                done = self.outbox.mark_published(published)
                report += PublishReport(published=done, lost=len(published) - done)
                seconds = time.monotonic() - started
                events.append(
                    Published(self.namespace, published, len(published) - done, seconds)
                )
            events += self._note_outages(unavailable, batch)
            alone = not self.partly_away
            for (node, error), rows in unavailable.items():
                for some, delay in self._outages.waits(node, rows, alone=alone):
                    done = self.outbox.release(
                        some, delay=delay, error=error, waits_for=node
                    )
                    lost = len(some) - done
                    report += PublishReport(released=done, lost=lost)
                    events.append(Released(self.namespace, some, lost, error, delay))
            if released:
                done = self.outbox.release(released)
                lost = len(released) - done
                report += PublishReport(released=done, lost=lost)
                events.append(Released(self.namespace, released, lost, None, 0.0))
            for (error, tries), rows in failed.items():
                backoff = Backoff(self.backoff, self.max_backoff, FULL_JITTER)
                wait = backoff.pause(tries)
                done = self.outbox.mark_failed(rows, error, backoff=wait, dead=False)
                lost = len(rows) - done
                report += PublishReport(retried=done, lost=lost)
                events.append(Retried(self.namespace, rows, lost, error, tries, wait))
            for error, rows in dead.items():
                burial = self._bury(rows, error)
                report += PublishReport(dead_lettered=burial.count, lost=burial.lost)
                events.append(burial)
            self._recall(batch, published)
        finally:
            # Also of what was written down before the database failed.
            self._record(report, iterations=1)
            for event in events:
                self._subscribers.tell(event)
        return report

    def _recall(self, batch: _Batch, published: Sequence[OutboxRow]) -> None:
        """Make due what waits for nodes that are back, as many rows as a claim takes.

        So many are due at once as are carried meanwhile, and other rows need not queue
        behind all that an outage has left.
        """
        if batch.waited:
            done = {row.id for row in published}
            nodes = [row.waits_for for row in batch.waited if row.id in done]
            self._outages.carried_late(node for node in nodes if node)
        for recall in self._outages.recalls():
            reached: int | None = recall.from_ms
            try:
                reached = self.outbox.make_due(
                    self.namespace,
                    waits_for=recall.node,
                    limit=self.batch_size,
                    from_ms=recall.from_ms,
                )
            finally:
                # If the database failed the next batch goes on here.
                self._outages.recalled(recall, reached)

    def _bury(self, rows: Sequence[OutboxRow], error: str) -> DeadLettered:
        """Make dead letters of ``rows``, with a flush in place of what they lack."""
        flush = InvalidationIntent.flush()
        flushed = False
        if (
            self.escalate
            and self.applier.can_flush
            # A flush that cannot be applied is no help against itself.
            and any(row.intent != flush for row in rows)
        ):
            # Before the mark: killed in between, the row is applied once more and
            # dies again; the other way round the flush would be lost.
            flushed = self.outbox.escalate(self.namespace)
        done = self.outbox.mark_failed(rows, error, backoff=0.0, dead=True)
        event = DeadLettered(self.namespace, rows, len(rows) - done, error, flushed)
        if flushed:
            self._record(PublishReport(), escalations=1)
            logger.warning(
                "namespace %s will be flushed: an invalidation was given up",
                self.namespace,
                extra=log_fields(event),
            )
        if done < len(rows):
            # Some are another worker's by now; only what died here is reported.
            rows = [row for row in rows if self._died(row)]
        net = "" if flushed or self.applier.can_flush else NO_NET
        for row in rows:
            logger.error(
                "row %d of namespace %s is a dead letter after %d attempts: %s%s",
                row.id,
                self.namespace,
                row.attempts + 1,
                error,
                net,
                extra=log_fields(replace(event, rows=[row], lost=0)),
            )
        return event

    def _died(self, row: OutboxRow) -> bool:
        found = self.outbox.row(row.id)
        return found is not None and found.is_dead_lettered

    def _note_outages(
        self, unavailable: Mapping[tuple[NodeName, str], object], batch: _Batch
    ) -> list[Event]:
        failed: dict[NodeName, str] = {}
        for node, error in unavailable:
            failed.setdefault(node, error)

        def answered() -> Iterator[Sequence[NodeName]]:
            unknown = (None,)
            for failure, intent in zip(batch.failures, batch.rows):
                if failure is None:
                    yield self.applier.nodes_of(intent) or unknown
                elif not isinstance(
                    failure, (ApplyUnavailable, OSError, ApplyPermanent)
                ):
                    # The cache was there to refuse, if there is no telling more.
                    yield () if self.applier.nodes() else unknown

        events = self._outages.note(failed, answered)
        began = sum(isinstance(event, OutageBegan) for event in events)
        if began:
            self._record(PublishReport(), outages=began)
        return events

    def _record(self, report: PublishReport, **more: int) -> None:
        with self._lock:
            counts = {
                field.name: getattr(self._diagnostics, field.name)
                + getattr(report, field.name, 0)
                + more.get(field.name, 0)
                for field in fields(WorkerDiagnostics)
            }
            self._diagnostics = WorkerDiagnostics(**counts)


def _rows_in(
    seen: Mapping[InvalidationIntent, Sequence[OutboxRow]],
    batch: InvalidationIntentBatch,
) -> list[OutboxRow]:
    return [row for intent in batch.intents for row in seen[intent]]


def _described(failure: Exception) -> str:
    try:
        return f"{type(failure).__name__}: {failure}"
    except Exception:
        # Its text cannot be had; the row is settled by its class all the same.
        return type(failure).__name__


class _Batch:
    """The rows of one claim by what they invalidate, and what came of it."""

    def __init__(self, rows: Sequence[OutboxRow], max_attempts: int) -> None:
        self.size = len(rows)
        #: Rows with the same target are applied once.
        self.rows: dict[InvalidationIntent, list[OutboxRow]] = {}
        self.malformed: list[OutboxRow] = []
        #: Rows that nobody came back from, once too often. Deaths in a batch, which may
        #: have been another row's, and in outages were not counted.
        self.hopeless: list[OutboxRow] = []
        #: Rows that were put off because a node was away.
        self.waited: list[OutboxRow] = []
        #: What became of the first targets; of the others nothing is known.
        self.failures: list[Exception | None] = []
        for row in rows:
            intent = row.intent
            if intent is None:
                self.malformed.append(row)
                continue
            if row.was_abandoned and row.attempts >= max_attempts:
                self.hopeless.append(row)
                continue
            if row.waits_for is not None:
                self.waited.append(row)
            self.rows.setdefault(intent, []).append(row)
