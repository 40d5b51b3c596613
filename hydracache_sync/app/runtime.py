"""What one app runs on: its outbox, cache, worker and pool, made of its config.

Makes everything, connects to nothing. Knows no framework and no request.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import weakref
from collections import deque
from typing import Any, Callable, ContextManager, Deque, Iterable, Sequence

from hydracache_sync.app import app_settings, build, settings
from hydracache_sync.app.config import AppConfig
from hydracache_sync.app.fallback_writer import FallbackWriter
from hydracache_sync.app.hold_offs import held_off, hold_off_late
from hydracache_sync.app.placement import PoolPlacement
from hydracache_sync.app.pool_lock import PoolLock
from hydracache_sync.app.read_only_reads import ReadOnlyReads
from hydracache_sync.app.replica_reads import ReplicaReads
from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.read_memo import ReadMemo
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError, OutboxError
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox.mysql.outbox import MySQLOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.worker.reports import PublishReport
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)


class Runtime:
    """The parts of one app. Thread-safe, usable after a fork.

    :param snapshot: tells the cache when the transaction began that loaders read in.
    :param kinds: of entities that are changed in bulk.
    :param memo: returns that of the request that is served, if it has one.
    :param request: returns the name of the request that is served, for an audit.
    """

    def __init__(
        self,
        config: AppConfig,
        *,
        snapshot: Callable[[], float | None] | None = None,
        kinds: EntityKinds | None = None,
        memo: Callable[[], ReadMemo | None] | None = None,
        request: Callable[[], str | None] | None = None,
    ) -> None:
        self.config = config
        self.namespace: str = config[settings.NAMESPACE]
        self.mode: str = config[app_settings.MODE]
        self.strict = self.mode == "strict"
        #: Requests that change nothing, by their method, have a memo of what they read.
        self.memoizes: bool = config[app_settings.REQUEST_MEMO]
        self.outbox = build.outbox(config)
        #: Where loads read, if that may be replicas.
        self.replica_reads = self._reads_of_replicas()
        #: Sees loads on read-only servers, where the app does not say that it has any.
        self.read_only_reads = self._undeclared_reads()
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
                oldest_pending=self._oldest_pending,
                kinds=kinds,
                memo=memo,
                request=request,
            )
            self._worker = build.worker(
                config, self.outbox, store, previous, self.namespace, strict=strict
            )
        parts = (self.outbox, self._worker, self._cache)
        build.trace(config, *(part for part in parts if part is not None))
        self.placement = PoolPlacement(
            self._make_pool, config[app_settings.POOL], self._pool_lock
        )
        self.statsd = build.statsd(
            config,
            self.outbox,
            [self.namespace],
            workers=[] if self._worker is None else [self._worker],
            caches=[] if self._cache is None else [self._cache],
            pool=lambda: self.placement.pool,
        )
        #: Called as a request begins: starts the threads that this process lacks.
        self.ensure = self.placement.ensure
        if self.statsd is not None:
            self.ensure = _both(self.placement.ensure, self.statsd.ensure)
        #: What was collected for requests that nobody has ended.
        self.abandoned: Deque[RequestState] = deque()
        #: What is collected, as long as somebody has it; in a child the parent's, too.
        #: Not a WeakSet, each of whose calls is Python: a reference that ends takes
        #: itself out by :attr:`forget_collector`.
        self.collectors: set[weakref.ref[RequestState]] = set()
        self.forget_collector = self.collectors.discard
        #: The processes that write what is left of these when they end.
        self.ends_collectors_in: set[int] = set()
        #: Writes what no transaction of the app has written.
        self.fallback = FallbackWriter(
            config,
            self.outbox,
            hold_off=self._held_off,
            look=self.look,
            wake=self.wake,
        )

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

    def _reads_of_replicas(self) -> ReplicaReads | None:
        if self.config[app_settings.SNAPSHOT] != "replica":
            return None
        return ReplicaReads(self.outbox.table, self.config[app_settings.CLOCK_SKEW])

    def _undeclared_reads(self) -> ReadOnlyReads | None:
        declared = self.config[app_settings.SNAPSHOT] != "auto"
        if declared or self.config[app_settings.READ_LAG]:
            return None
        if not isinstance(self.outbox, MySQLOutbox):
            return None
        return ReadOnlyReads(self.outbox.where)

    def _reads_elsewhere(self) -> str | None:
        seen = self.read_only_reads
        return None if seen is None else seen.server

    def _oldest_pending(self) -> float:
        """Seconds that the oldest pending row has waited, for an audit of the cache."""
        limit = self.config[app_settings.INLINE_TIMEOUT]
        status = self.outbox.status(self.namespace, timeout=limit)
        ahead = status.ahead_ms / 1000 > self.config[app_settings.CLOCK_SKEW]
        if status.capped or ahead:
            return math.inf
        return status.oldest_pending_age_ms / 1000

    def _make_pool(self) -> WorkerPool:
        threads = self.config[app_settings.POOL_THREADS]
        return build.pool(
            self.config,
            [self.worker],
            threads=threads,
            caches=[self.cache],
            reads_elsewhere=self._reads_elsewhere,
        )

    def _pool_lock(self) -> PoolLock:
        name = hashlib.sha256(f"{self.outbox!r} {self.namespace}".encode()).hexdigest()
        return PoolLock(self.config[app_settings.POOL_LOCK], name[:16], self.namespace)

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

        Only by now an app that commits in its own teardown has done so. All of it takes
        the time of one inline publish at most; the rest is left to a worker.
        """
        if self.mode == "inline":
            self.publish_in_time(written)
        if not all(each.published for each in written):
            self.wake()

    def publish_in_time(self, written: Sequence[EnqueuedBatch]) -> PublishReport:
        """Publish what is not published yet, within one inline budget for all."""
        limit = self.config[app_settings.INLINE_TIMEOUT]
        deadline = time.monotonic() + limit
        report = PublishReport()
        for each in written:
            if each.published:
                continue
            rest = deadline - time.monotonic()
            if rest <= 0 < limit:
                # Left to a worker. It counts: the whole is not complete.
                targets = each.receipt.targets
                report += PublishReport(claimed=targets, released=targets)
            else:
                report += self._publish(each, max(0.0, rest))
        return report

    def publish(self, written: EnqueuedBatch) -> PublishReport:
        """Publish one receipt now, within the inline budget."""
        return self._publish(written, self.config[app_settings.INLINE_TIMEOUT])

    def _publish(self, written: EnqueuedBatch, timeout: float) -> PublishReport:
        report = self.worker.publish(written.receipt, timeout=timeout)
        written.published = report.complete
        written.committed |= report.unseen < max(1, report.claimed)
        return report

    def wake(self) -> None:
        """Have this process's pool, if it has one, look for rows now."""
        pool = self.placement.pool
        if pool is not None:
            pool.wake()

    def _held_off(self, batch: InvalidationIntentBatch) -> ContextManager[Any]:
        """In mode strict: too late for the data's commit, but reads are right again."""
        if not self.strict:
            return contextlib.nullcontext()
        return self.cache.quarantine(batch, degrade=True)

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
                # An unknown state counts as not published: the caller asks the
                # database.
                logger.warning("cannot tell whether %s is published: %s", receipt, exc)
                return False
            seen = found.pending + found.published + found.dead_lettered
            written.committed |= seen > 0
            written.published = found.published >= receipt.targets
        return written.published


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call
