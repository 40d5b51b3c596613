"""What is exported of an outbox, its workers, their pool and caches: the one seam.

Exporters of Prometheus and of StatsD take the same numbers from here, by the names of
``tables``. Knows neither of them, and no library of theirs.

Caches and workers count anyway, and what their counts have grown by is asked for now
and then. What they do not count, the meters here do. Labels are namespace, node,
outcome, reason, direction and state; never a key, a tag or an id.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from hydracache_sync.cache.diagnostics import READS_FOR_ONE
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import OutboxError
from hydracache_sync.events import Event, OutageBegan, Published
from hydracache_sync.fork import ProcessLock, abandon_in_children
from hydracache_sync.metrics.tables import (
    OF_CACHES,
    OF_INSERTS,
    OF_OUTBOX,
    OF_READS,
    OF_WORKERS,
)
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.row import OutboxRow, OutboxStatus
from hydracache_sync.outbox.workers import carriers
from hydracache_sync.pool import PoolHealth, ThreadState, WorkerPool
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.worker import OutboxWorker


class ReadMeter:
    """Measures one cache, as a :class:`~hydracache_sync.cache.diagnostics.CacheMeter`.

    :ivar read: bytes of the entries that were found, as the store has them: an estimate
        from one read in ``READS_FOR_ONE``.
    :ivar stored: bytes of the entries that were to be stored.
    :ivar took: called with the seconds of a read, of one in ``READS_FOR_ONE``.
    """

    def __init__(self) -> None:
        self.read = 0
        self.stored = 0
        self.took: Callable[[float], object] = lambda seconds: None
        self._lock = ProcessLock()

    def note_read(self, seconds: float, size: int) -> None:
        with self._lock.mine():
            self.read += size * READS_FOR_ONE
        self.took(seconds)

    def note_stored(self, size: int) -> None:
        with self._lock.mine():
            self.stored += size


class InsertMeter:
    """Counts the rows that an outbox inserts in this process, of one namespace.

    :ivar enqueued: rows.
    """

    def __init__(self, namespace: str) -> None:
        self.enqueued = 0
        self._namespace = namespace
        self._lock = ProcessLock()

    def note(self, inserted: tuple[str, int]) -> None:
        namespace, rows = inserted
        if namespace == self._namespace:
            with self._lock.mine():
                self.enqueued += rows


logger = printable_logger(__name__)

#: Seconds between two batches of a namespace whose rows' lag is looked at. That costs
#: two statements, too much for each batch of a long backlog.
LAG_EVERY = 1.0

#: Seconds that a reading of the outbox waits for a busy database.
STATUS_TIMEOUT = 2.0

#: One number of many: its name in the tables, and the values of its labels.
Series = Tuple[str, Tuple[str, ...]]

#: A number at a moment.
Reading = Tuple[str, Tuple[str, ...], float]


@dataclass
class _Source:
    """Diagnostics whose fields grow: what reads them, and what they were."""

    read: Callable[[], Any]
    series: List[Tuple[str, Series]] = field(default_factory=list)
    last: Dict[str, int] = field(default_factory=dict)


class Readings:
    """The numbers of one process. Thread-safe, usable after a fork.

    A child has what it counts itself; what was counted before stays with the parent.

    :param namespaces: whose rows are counted in the outbox.
    :param pool: returns the pool of this process, None while it has none.
    """

    def __init__(
        self,
        outbox: InvalidationOutbox,
        namespaces: Sequence[str],
        *,
        workers: Sequence[OutboxWorker],
        caches: Sequence[TaggedCache],
        pool: Callable[[], WorkerPool | None],
    ) -> None:
        self.workers = tuple(workers)
        self._outbox = outbox
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._pool = pool
        self._lock = ProcessLock()
        self._pid = os.getpid()
        self._next_lag: dict[str, float] = {}
        self._seen_away: set[tuple[str, str]] = set()
        #: The namespace of each cache.
        self.cached = [each.namespace for each in caches]
        self._reads = [(each, ReadMeter()) for each in self.cached]
        for cache, (_, meter) in zip(caches, self._reads):
            cache.measure(meter)
        inserts = {each: InsertMeter(each) for each in self._namespaces}
        for insert_meter in inserts.values():
            outbox.subscribe_inserts(insert_meter.note)
        self._sources = [
            *(
                _source(OF_READS, each, partial(_itself, meter))
                for each, meter in self._reads
            ),
            *(
                _source(OF_INSERTS, each, partial(_itself, meter))
                for each, meter in inserts.items()
            ),
            *(
                _source(OF_CACHES, each.namespace, partial(_of_cache, each))
                for each in caches
            ),
            *(
                _source(OF_WORKERS, each.namespace, each.diagnostics)
                for each in self.workers
            ),
        ]
        abandon_in_children(self)

    def counters(self) -> Iterator[Series]:
        """All that :meth:`grown` may name."""
        for source in self._sources:
            yield from (series for _, series in source.series)

    def grown(self) -> list[tuple[Series, int]]:
        """What the counters have grown by since the last time: each once."""
        self.abandon_inherited()
        grown = []
        with self._lock.mine():
            for source in self._sources:
                found = source.read()
                for name, series in source.series:
                    total = getattr(found, name)
                    grown.append((series, total - source.last.get(name, 0)))
                    source.last[name] = total
        return grown

    def abandon_inherited(self) -> None:
        """In a child: leave what was counted before the fork to the parent."""
        if self._pid == os.getpid():
            return
        with self._lock.mine():
            for source in self._sources:
                found = source.read()
                source.last.update(
                    (name, getattr(found, name)) for name, _ in source.series
                )
            self._pid = os.getpid()

    def states(self) -> Iterator[Reading]:
        """The gauges of this process."""
        circuits: dict[str, bool] = {}
        away: set[tuple[str, str]] = set()
        for worker in self.workers:
            of = worker.namespace
            if worker.watermark_age is not None:
                yield "watermark_age_seconds", (of,), worker.watermark_age
            away |= {(of, outage.node or "") for outage in worker.outages}
            self._seen_away |= away | {(of, node) for node in nodes_of(worker)}
            for store in getattr(worker.applier, "stores", ()):
                for node, is_open in store.circuits().items():
                    circuits[node] = bool(is_open or circuits.get(node))
        for place in self._seen_away:
            yield "cache_away", place, place in away
        for node, is_open in circuits.items():
            yield "circuit_open", (node,), is_open
        pool = self._pool()
        health = PoolHealth(False, os.getpid()) if pool is None else pool.health()
        for state in ThreadState:
            count = sum(thread.state is state for thread in health.threads)
            yield "pool_threads", (state.value,), count
        outages = {outage.what for outage in health.outages}
        yield "database_away", (), "database" in outages

    def outbox(self) -> Iterator[Reading]:
        """The gauges of the outbox, by a status of each namespace and its workers.

        Where that fails ``outbox_up`` is 0, and its other gauges are missing.
        """
        answers = True
        for namespace in self._namespaces:
            status: OutboxStatus | None = None
            try:
                if answers:
                    status = self._outbox.status(namespace, timeout=STATUS_TIMEOUT)
            except OutboxError as exc:
                # The others are in the same database, and the reading must end in time.
                answers = False
                logger.debug("no status of namespace %s: %s", namespace, exc)
            yield "outbox_up", (namespace,), status is not None
            if status is not None:
                for name, _, value in OF_OUTBOX:
                    yield f"outbox_{name}", (namespace,), value(status)
        if not answers:
            return
        try:
            processes = self._outbox.workers(timeout=STATUS_TIMEOUT)
        except OutboxError as exc:
            # A login may have no right on their table; the rest is known all the same.
            logger.debug("no workers: %s", exc)
            return
        for namespace in self._namespaces:
            running, _ = carriers(processes, namespace)
            yield "outbox_worker_up", (namespace,), bool(running)

    def listen(
        self,
        *,
        outage: Callable[[str, str], None],
        batch: Callable[[str, float], None],
        lags: Callable[[str, Sequence[float]], None],
        read: Callable[[str, float], None],
    ) -> None:
        """Have what workers and reads tell noted from now on, in their threads.

        :param outage: called with the namespace and the node of one that began.
        :param batch: called with the seconds from the claim of a batch to its end.
        :param lags: called with the seconds from the enqueue of rows to their publish.
        :param read: called with the seconds that a cached read took: a sample of them.
        """
        for namespace, meter in self._reads:
            meter.took = partial(read, namespace)

        def note(event: Event) -> None:
            namespace = event.namespace or ""
            if isinstance(event, OutageBegan):
                outage(namespace, event.node or "")
            elif isinstance(event, Published):
                batch(namespace, event.seconds)
                now = time.monotonic()
                if now >= self._next_lag.get(namespace, 0.0):
                    self._next_lag[namespace] = now + LAG_EVERY
                    lags(namespace, self._lags(namespace, event.rows))

        for worker in self.workers:
            worker.subscribe(note, inline=False)

    def _lags(self, namespace: str, rows: Sequence[OutboxRow]) -> list[float]:
        try:
            now_ms = self._outbox.now_ms()
            return [max(0, now_ms - row.created_at_ms) / 1000 for row in rows]
        except OutboxError as exc:
            # The rows are published all the same; a later batch is looked at.
            logger.debug("no lag of namespace %s: %s", namespace, exc)
            return []


def nodes_of(worker: OutboxWorker) -> Sequence[str]:
    """The nodes of its cache, one without a name where the applier names none."""
    return worker.applier.nodes() or ("",)


def _source(
    table: Sequence[tuple[str, str, str, str]], namespace: str, read: Callable[[], Any]
) -> _Source:
    """What counts the fields of a table of one namespace."""
    source = _Source(read)
    for name, _, label, fields in table:
        for each in fields.split():
            value = (each.replace("refused_", ""),) if label else ()
            source.series.append((each, (name, (namespace, *value))))
    return source


def _itself(meter: object) -> object:
    """What has the fields of its table: it is read as it is."""
    return meter


def _of_cache(cache: TaggedCache) -> Any:
    """Its diagnostics, with each refusal counted once."""
    found = cache.diagnostics()
    return replace(found, refused_snapshot=found.not_stored["snapshot"])
