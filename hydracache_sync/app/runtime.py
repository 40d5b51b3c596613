"""What one app runs on: its outbox, cache, worker and pool, made of its config.

Makes everything, connects to nothing. Knows no framework and no request.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import Any, Callable, ContextManager, Iterable, Sequence

from hydracache_sync.app import app_settings, build, settings
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.hold_offs import held_off, hold_off_late
from hydracache_sync.app.placement import PoolPlacement
from hydracache_sync.app.pool_lock import PoolLock
from hydracache_sync.app.request_state import EnqueuedBatch
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError, HydraCacheError, OutboxError
from hydracache_sync.fork import ProcessLock
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable, printable_logger
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.worker.worker import OutboxWorker, PublishReport

logger = printable_logger(__name__)

#: Intents that could not be written and are kept in this process for a later try.
#: Beyond that one flush stands for all of them.
MOST_LEFT = 10_000

#: Seconds between two tries to write them.
TRY_AGAIN = 1.0

#: Connections for what views have forgotten to write, beside those of the outbox: it is
#: rare, and each is in use for milliseconds.
NET_CONNECTIONS = 2


class Runtime:
    """The parts of one app. Thread-safe, usable after a fork.

    :param snapshot: tells the cache when the transaction began that loaders read in.
    """

    def __init__(
        self, config: AppConfig, *, snapshot: Callable[[], float | None] | None = None
    ) -> None:
        self.config = config
        self.namespace: str = config[settings.NAMESPACE]
        self.mode: str = config[app_settings.MODE]
        self.strict = self.mode == "strict"
        self.outbox = build.outbox(config)
        self._net: InvalidationOutbox | None = None
        self._cache: TaggedCache | None = None
        self._worker: OutboxWorker | None = None
        store = build.store(config)
        if store is not None:
            previous, strict = build.previous_stores(config), self.strict
            self._cache = build.cache(
                config,
                store,
                previous,
                self.namespace,
                strict=strict,
                snapshot=snapshot,
            )
            self._worker = build.worker(
                config, self.outbox, store, previous, self.namespace, strict=strict
            )
        self.placement = PoolPlacement(
            self._make_pool, config[app_settings.POOL], self._pool_lock
        )
        self._left: list[InvalidationIntentBatch] = []
        self._left_lock = ProcessLock()
        self._next_try = 0.0

    # Parts

    @property
    def cache(self) -> TaggedCache:
        if self._cache is None:
            raise ConfigurationError(
                "HYDRACACHE_MEMCACHED is missing: there is no cache"
            )
        return self._cache

    @property
    def worker(self) -> OutboxWorker:
        if self._worker is None:
            raise ConfigurationError(
                "HYDRACACHE_MEMCACHED is missing: there is nothing to publish to"
            )
        return self._worker

    def _make_pool(self) -> WorkerPool:
        threads = self.config[app_settings.POOL_THREADS]
        return build.pool(self.config, [self.worker], threads=threads)

    def _pool_lock(self) -> PoolLock:
        name = hashlib.sha256(f"{self.outbox!r} {self.namespace}".encode()).hexdigest()
        return PoolLock(self.config[app_settings.POOL_LOCK], name[:16])

    # Writing

    def write(
        self,
        connection: Any,
        batch: InvalidationIntentBatch,
        position: CommitPosition | None = None,
    ) -> InvalidationReceipt:
        """Enqueue ``batch`` in the open transaction of ``connection``."""
        return self.outbox.enqueue_in(
            connection, self.namespace, batch, commit_position=position
        )

    def quarantine(
        self, written: Iterable[EnqueuedBatch], *, degrade: bool | None = None
    ) -> ContextManager[None]:
        """Hold off what was ``written``, in a block around its COMMIT; in mode strict.

        In other modes the block does nothing.

        :param degrade: commit all the same while memcached is away; by default as
            ``HYDRACACHE_DEGRADE`` says.
        :raises QuarantineError: entering the block: do not commit; roll back.
        """
        if not self.strict:
            return contextlib.nullcontext()
        if degrade is None:
            degrade = self.config[app_settings.DEGRADE]
        return held_off(self.cache, written, degrade=bool(degrade))

    def hold_off_late(self, written: Iterable[EnqueuedBatch], where: str) -> None:
        """Say what was committed without its quarantine, and hold it off from here on.

        Never raises.
        """
        late = []
        for each in written:
            if self.strict and each.receipt.strict is None:
                self.look(each)
                if each.committed:
                    late.append(each)
        if not late:
            return
        logger.error(
            "%s committed without a quarantine, and reads meanwhile may have got older"
            " values: commit in transaction(), or in a block of quarantine()",
            where,
        )
        hold_off_late(self.cache, late)

    def committed(self, written: EnqueuedBatch) -> None:
        """Do what comes after a commit: publish inline, or wake the pool.

        Never raises for an outage: the row is committed and will be found.
        """
        written.committed = True
        if self.mode == "inline":
            self.publish(written)
        if not written.published:
            self.wake()

    def settle(self, written: Sequence[EnqueuedBatch]) -> None:
        """At the end of a request: publish inline what is committed, or wake the pool.

        Only by now an app that commits in its own teardown has done so.
        """
        for each in written:
            if not each.published and self.mode == "inline":
                self.publish(each)
        if not all(each.published for each in written):
            self.wake()

    def publish(self, written: EnqueuedBatch) -> PublishReport:
        """Publish one receipt now, within the inline budget."""
        report = self.worker.publish(
            written.receipt, timeout=self.config[app_settings.INLINE_TIMEOUT]
        )
        written.published = report.complete
        written.committed |= report.unseen < max(1, report.claimed)
        return report

    def wake(self) -> None:
        """Have this process's pool, if it has one, look for rows now."""
        pool = self.placement.pool
        if pool is not None:
            pool.wake()

    # The safety net

    def save(
        self,
        batch: InvalidationIntentBatch,
        where: str,
        why: str,
        position: CommitPosition | None = None,
    ) -> None:
        """Write what was collected and never written, on an own connection.

        Not atomic with the data any more, so it is said. Over-invalidates where the
        data was rolled back; that costs a cache miss. Ends in bounded time; never
        raises: what cannot be written is kept in this process and tried again.
        """
        saved = self._save_or_keep(batch, position)
        logger.warning(
            "%s collected %s and did not write it in its transaction: %s. %s",
            where,
            _listed(batch),
            why,
            saved,
        )

    def save_missing(self, written: Sequence[EnqueuedBatch], where: str) -> None:
        """Write on an own connection what a transaction took and did not commit.

        Only what was written where perhaps no transaction was open: with one, what is
        rolled back is rolled back with its data. Never raises.
        """
        for each in written:
            if each.joined is True or each.committed or each.published:
                continue
            self.look(each)
            batch = each.receipt.batch
            if each.committed or batch is None:
                continue
            # By the same position: a browser, or who was given the receipt, waits.
            saved = self._save_or_keep(batch, each.receipt.commit_position)
            if each.joined is False:
                logger.warning(
                    "%s wrote %s where no transaction was open, after its commit"
                    " perhaps, and did not commit it: call write() before the commit."
                    " %s",
                    where,
                    _listed(batch),
                    saved,
                )
            else:
                # Most likely rolled back with the data, which costs a miss then.
                logger.info(
                    "%s wrote %s and did not commit it, and its driver cannot tell"
                    " whether that was before its commit. %s",
                    where,
                    _listed(batch),
                    saved,
                )

    def _save_or_keep(
        self, batch: InvalidationIntentBatch, position: CommitPosition | None
    ) -> str:
        """Write ``batch`` on an own connection, or later; return what was done."""
        if self._try_to_save(batch, position):
            return (
                "Written now on an own connection; a crash before that would have lost"
                " it"
            )
        self._keep(batch)
        return "It is kept in this process and tried again"

    def save_left(self) -> None:
        """Try again to write what an earlier request could not."""
        if not self._left or time.monotonic() < self._next_try:
            return
        with self._left_lock:
            self._next_try = time.monotonic() + TRY_AGAIN
            left, self._left = self._left, []
        for position, batch in enumerate(left):
            if not self._try_to_save(batch):
                with self._left_lock:
                    self._left = left[position:] + self._left
                return
        if left:
            logger.info("%d batches that were kept are written now", len(left))

    def _try_to_save(
        self, batch: InvalidationIntentBatch, position: CommitPosition | None = None
    ) -> bool:
        try:
            with self._held_off(batch):
                self._net_outbox().enqueue(
                    self.namespace,
                    _within(self.outbox.max_batch, batch),
                    commit_position=position,
                )
        except Exception as exc:
            # A teardown must not raise. The batch is kept by the caller.
            logger.error(
                "the outbox could not be written at the end of a request: %s",
                exc,
                # What the outbox does not raise is a mistake: show where.
                exc_info=None if isinstance(exc, HydraCacheError) else exc,
            )
            return False
        self.wake()
        return True

    def _held_off(self, batch: InvalidationIntentBatch) -> ContextManager[Any]:
        """In mode strict: too late for the data's commit, but reads are right again."""
        if not self.strict:
            return contextlib.nullcontext()
        return self.cache.quarantine(batch, degrade=True)

    def _keep(self, batch: InvalidationIntentBatch) -> None:
        with self._left_lock:
            self._next_try = time.monotonic() + TRY_AGAIN
            self._left.append(batch)
            if sum(map(len, self._left)) > MOST_LEFT:
                flush = InvalidationIntentBatch("the outbox was away for long").flush()
                self._left = [flush]

    def _net_outbox(self) -> InvalidationOutbox:
        """The outbox once more, with little patience: a visitor waits meanwhile."""
        if self._net is None:
            limit = self.config[app_settings.NET_TIMEOUT]
            more: dict[str, Any] = {}
            given = self.config[settings.OUTBOX]
            if isinstance(given, str) and not given.startswith("sqlite:"):
                more = dict.fromkeys(
                    ("connect_timeout", "read_timeout", "write_timeout"), limit
                )
                more["pool_size"] = NET_CONNECTIONS
            self._net = build.outbox(self.config, busy_timeout=limit, **more)
        return self._net

    # Reading own writes

    def look(self, written: EnqueuedBatch) -> bool:
        """Whether the rows of a receipt are published, by one look at the outbox."""
        if not written.published:
            receipt = written.receipt
            try:
                found = self.outbox.status_for_commit(
                    receipt.namespace,
                    receipt.commit_position,
                    batch=receipt.batch,
                    timeout=self.config[app_settings.INLINE_TIMEOUT],
                )
            except OutboxError as exc:
                # Not known is as good as not published: the caller asks the database.
                logger.warning("cannot tell whether %s is published: %s", receipt, exc)
                return False
            seen = found.pending + found.published + found.dead_lettered
            written.committed |= seen > 0
            written.published = found.published >= receipt.targets
        return written.published


def _within(
    limit: int | None, batch: InvalidationIntentBatch
) -> InvalidationIntentBatch:
    """Return ``batch``, or one that covers it where no enqueue would take so many."""
    if limit is None or len(batch.distinct()) <= limit:
        return batch
    return InvalidationIntentBatch(batch.reason).flush()


def _listed(batch: InvalidationIntentBatch) -> str:
    shown = ", ".join(_shown(intent) for intent in batch.intents[:3])
    return f"{shown} and {len(batch) - 3} more" if len(batch) > 3 else shown


def _shown(intent: Any) -> str:
    text = " ".join(part for part in intent if part is not None)
    return printable(text, 80)
