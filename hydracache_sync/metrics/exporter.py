"""The exporter for Prometheus, of the numbers of ``readings``.

Their counters are added to Prometheus's when they are scraped. In the multiprocess mode
of ``prometheus_client``, where a scrape reaches one process of several, a thread of
each process adds them once a second. Needs the extra ``metrics``.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Callable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    write_to_textfile,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.fork import ProcessLock
from hydracache_sync.metrics.readings import Readings, nodes_of
from hydracache_sync.metrics.tables import (
    GAUGES,
    LAG_BUCKETS,
    OF_CACHES,
    OF_INSERTS,
    OF_OUTBOX,
    OF_READS,
    OF_WORKERS,
    READ_BUCKETS,
)
from hydracache_sync.metrics.textfile import Continued
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.worker import OutboxWorker

logger = printable_logger(__name__)

#: Seconds between two additions to the counters, in the multiprocess mode.
FLUSH_EVERY = 1.0


class Metrics:
    """What Prometheus is told of one outbox, and of what works on it in this process.

    Thread-safe, usable after a fork; a child exports what it counts itself.

    :param namespaces: whose rows are counted in the outbox, at each scrape.
    :param workers: whose counts are exported.
    :param caches: the same.
    :param pool: returns the pool of this process, None while it has none.
    :param registry: takes the metrics, those of one object of this class; by default a
        registry of their own.
    :ivar content_type: of what :meth:`scrape` returns.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        outbox: InvalidationOutbox,
        namespaces: Sequence[str],
        *,
        workers: Sequence[OutboxWorker] = (),
        caches: Sequence[TaggedCache] = (),
        pool: Callable[[], WorkerPool | None] = lambda: None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._readings = Readings(
            outbox, namespaces, workers=workers, caches=caches, pool=pool
        )
        self._registry = CollectorRegistry() if registry is None else registry
        self._is_multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._lock = ProcessLock()
        self._flushing_in = 0
        self._flushing = LoggedOutage(logger, "adding up metrics")
        # They need no refresh, and raise where the registry has some already.
        self._make_counters_of_events()
        # Before the others: it brings up to date what is collected after it.
        self._registry.register(self)
        counters = {
            name: Counter(
                f"hydracache_{name}",
                meaning,
                ["namespace", label] if label else ["namespace"],
                registry=self._registry,
            )
            for name, meaning, label, _ in (
                *OF_CACHES,
                *OF_READS,
                *OF_INSERTS,
                *OF_WORKERS,
            )
        }
        self._counters = {
            (name, labels): counters[name].labels(*labels)
            for name, labels in self._readings.counters()
        }
        self._gauges = {
            name: Gauge(
                f"hydracache_{name}",
                meaning,
                labels,
                registry=self._registry,
                multiprocess_mode=mode,
            )
            for name, meaning, labels, mode in GAUGES
        }
        if self._is_multiprocess:
            atexit.register(self.refresh)

    def _make_counters_of_events(self) -> None:
        of = ["namespace"]
        self._batch_seconds = Histogram(
            "hydracache_worker_batch_seconds",
            "From the claim of a batch that published rows to its end.",
            of,
            registry=self._registry,
        )
        self._lag = Histogram(
            "hydracache_publish_lag_seconds",
            "From a row's enqueue to its publish by a worker; of one batch a second.",
            of,
            buckets=LAG_BUCKETS,
            registry=self._registry,
        )
        self._read_seconds = Histogram(
            "hydracache_cache_read_seconds",
            "From asking the cache to its unpacked answer; of one read in 64.",
            of,
            buckets=READ_BUCKETS,
            registry=self._registry,
        )
        self._outages = Counter(
            "hydracache_cache_outages",
            "Outages of the cache that a worker has met.",
            [*of, "node"],
            registry=self._registry,
        )
        for namespace in self._readings.cached:
            self._read_seconds.labels(namespace)
        for worker in self._readings.workers:
            self._batch_seconds.labels(worker.namespace)
            self._lag.labels(worker.namespace)
            for node in nodes_of(worker):
                self._outages.labels(worker.namespace, node)
        self._readings.listen(
            outage=self._note_outage,
            batch=self._note_batch,
            lags=self._note_lags,
            read=self._note_read,
        )

    # Told

    def scrape(self) -> bytes:
        """Return all metrics in Prometheus's text format.

        Reads the status of each namespace in the outbox. Where that fails,
        ``hydracache_outbox_up`` is 0 and its other gauges are missing. In the
        multiprocess mode all of ``PROMETHEUS_MULTIPROC_DIR`` is returned.
        """
        if not self._is_multiprocess:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        registry.register(self)
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def write_file(self, path: str) -> None:
        """Replace the file at ``path`` at once, for the node exporter's textfiles.

        Counters go on from what is in it, so that short-lived processes add up. Of two
        that write at the same moment the later one wins.

        :raises OSError: it cannot be written; the file is as it was.
        """
        write_to_textfile(path, Continued(path, self._registry))

    def collect(self) -> Iterator[Metric]:
        """Bring the counters up to date and read the outbox; for the registry."""
        self.refresh()
        families = {
            f"outbox_{name}": GaugeMetricFamily(
                f"hydracache_outbox_{name}", text, labels=["namespace"]
            )
            for name, text in [
                ("up", "1 if the status could be read."),
                ("worker_up", "1 if a process that applies its rows runs."),
                *((name, text) for name, text, _ in OF_OUTBOX),
            ]
        }
        for name, labels, value in self._readings.outbox():
            families[name].add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Sequence[Metric]:
        """Nothing, so that the registry does not collect to find out."""
        return ()

    # Kept up to date

    def ensure(self) -> None:
        """In the multiprocess mode, have this process's counts added once a second.

        For each request: the usual case is one comparison.
        """
        pid = os.getpid()
        if not self._is_multiprocess or self._flushing_in == pid:
            return
        self._readings.abandon_inherited()
        with self._lock.mine():
            if self._flushing_in == pid:
                return
            self._flushing_in = pid
        thread = threading.Thread(
            target=self._flush, name="hydracache-metrics", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:
            # No thread to be had. Scrapes of this process and its end add the counts.
            self._flushing.begin(exc)

    def _flush(self) -> None:
        while True:
            time.sleep(FLUSH_EVERY)
            try:
                self.refresh()
            except Exception as exc:
                # Nothing is lost: it is added with the next.
                self._flushing.begin(exc)
            else:
                self._flushing.end()

    def refresh(self) -> None:
        """Add to the counters what was counted since the last time; set the gauges."""
        for series, more in self._readings.grown():
            self._counters[series].inc(more)
        for name, labels, value in self._readings.states():
            gauge = self._gauges[name]
            (gauge.labels(*labels) if labels else gauge).set(value)

    # Events of workers and reads

    def _note_outage(self, namespace: str, node: str) -> None:
        self._outages.labels(namespace, node).inc()

    def _note_batch(self, namespace: str, seconds: float) -> None:
        self._batch_seconds.labels(namespace).observe(seconds)

    def _note_read(self, namespace: str, seconds: float) -> None:
        self._read_seconds.labels(namespace).observe(seconds)

    def _note_lags(self, namespace: str, lags: Sequence[float]) -> None:
        # Found once: that takes as long as an observation.
        histogram = self._lag.labels(namespace)
        for lag in lags:
            histogram.observe(lag)
