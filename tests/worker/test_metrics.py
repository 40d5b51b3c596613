"""What Prometheus is told is what was done, with few labels and no key among them."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hydracache_sync import (
    ApplyPermanent,
    ApplyTransient,
    InvalidationApplier,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxWorker,
    RecordingApplier,
    SQLiteOutbox,
    TaggedCache,
    WorkerPool,
)
from hydracache_sync.cache.diagnostics import READS_FOR_ONE, CacheDiagnostics
from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.store import Failures, Write
from hydracache_sync.errors import OutboxError
from hydracache_sync.metrics import Metrics
from hydracache_sync.metrics.tables import OF_CACHES, OF_WORKERS
from hydracache_sync.worker.process_beats import ProcessBeats
from hydracache_sync.worker.reports import WorkerDiagnostics
from support.clock import FakeClock
from support.processes import Child
from support.servers import Memcached

#: Where nothing listens.
NOWHERE = "127.0.0.1:1"


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch()
    for key in keys:
        batch.invalidate_key(key)
    return batch


class Told:
    """The samples of a text in Prometheus's format."""

    def __init__(self, text: bytes) -> None:
        self.families = list(text_string_to_metric_families(text.decode()))

    def __call__(self, name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == f"hydracache_{name}"
            and labels.items() <= sample.labels.items()
        ]
        assert found, f"{name} {labels} is missing"
        return sum(found)

    def has(self, name: str) -> bool:
        return any(
            sample.name == f"hydracache_{name}"
            for family in self.families
            for sample in family.samples
        )


@pytest.fixture
def outbox() -> Iterator[MemoryOutbox]:
    with closing(MemoryOutbox(clock=FakeClock())) as outbox:
        yield outbox


class Weighed(MemoryStore):
    """Adds up the bytes of entries, which are all larger than tokens here."""

    read = stored = 0

    def get_many(self, addresses: Sequence[Address]) -> list[bytes | None]:
        found = super().get_many(addresses)
        self.read += sum(len(each) for each in found if each and len(each) > 500)
        return found

    def set_many(self, writes: Sequence[Write]) -> Failures:
        sizes = [len(value) for _, value, *_ in writes]
        self.stored += sum(size for size in sizes if size > 500)
        return super().set_many(writes)


class Moody(InvalidationApplier):
    """Fails what its keys say."""

    namespace = "shop"
    can_flush = False

    def apply_invalidation(self, intent: Any) -> None:
        if intent.value.startswith("busy"):
            raise ApplyTransient("busy")
        if intent.value.startswith("hopeless"):
            raise ApplyPermanent("hopeless")


class TestWorker:
    def test_rows_are_counted_by_what_became_of_them(
        self, outbox: MemoryOutbox
    ) -> None:
        worker = OutboxWorker(outbox, Moody())
        metrics = Metrics(outbox, ["shop"], workers=[worker])
        outbox.enqueue("shop", batch_of("a", "b", "busy", "hopeless"))
        worker.run_once()
        before = Told(metrics.scrape())
        outbox.enqueue("shop", batch_of("c"))
        worker.run_once()

        told = Told(metrics.scrape())

        assert before("worker_rows_total", outcome="published") == 2
        assert told("worker_rows_total", outcome="published") == 3
        assert told("worker_rows_total", outcome="retried") == 1
        assert told("worker_rows_total", outcome="dead_lettered") == 1
        assert told("worker_rows_total") == 5
        assert told("worker_batches_total") == 2
        assert told("worker_batch_seconds_count", namespace="shop") == 2

    def test_the_outbox_is_read_at_each_scrape(self, outbox: MemoryOutbox) -> None:
        metrics = Metrics(outbox, ["shop", "blog"])
        outbox.enqueue("shop", batch_of("held", "failed", "dead", "due"))
        held, failed, dead = outbox.claim("shop", "w", limit=3, claim_ttl=30)
        outbox.mark_failed([failed], "e", backoff=60, dead=False)
        outbox.mark_failed([dead], "e", backoff=0, dead=True)

        told = Told(metrics.scrape())

        names = ("pending", "due", "claimed", "backoff", "dead", "paused", "up")
        found = [told(f"outbox_{name}", namespace="shop") for name in names]
        assert found == [3, 1, 1, 1, 1, 0, 1]
        assert told("outbox_pending", namespace="blog") == 0

    def test_a_pause_is_told(self, outbox: MemoryOutbox) -> None:
        outbox.pause("shop", "a move")

        assert Told(Metrics(outbox, ["shop"]).scrape())("outbox_paused") == 1

    def test_a_namespace_is_carried_while_a_process_of_it_runs(self) -> None:
        clock = FakeClock()
        with closing(MemoryOutbox(clock=clock)) as outbox:
            metrics = Metrics(outbox, ["shop", "blog"])
            worker = OutboxWorker(outbox, RecordingApplier("shop"))
            before = Told(metrics.scrape())
            ProcessBeats([worker], kind="worker", every=10).write()
            running = Told(metrics.scrape())
            clock.advance(3600)
            late = Told(metrics.scrape())

        assert before("outbox_worker_up") == 0
        assert running("outbox_worker_up", namespace="shop") == 1
        assert running("outbox_worker_up", namespace="blog") == 0
        assert late("outbox_worker_up") == 0

    def test_a_login_that_may_not_see_the_workers_sees_the_rest(
        self, outbox: MemoryOutbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(**_: object) -> list[object]:
            raise OutboxError("no right")

        monkeypatch.setattr(outbox, "workers", refused)

        told = Told(Metrics(outbox, ["shop"]).scrape())

        assert told("outbox_up") == 1
        assert told.has("outbox_pending")
        assert not told.has("outbox_worker_up")

    def test_an_outbox_that_cannot_be_read_is_told_and_nothing_invented(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(SQLiteOutbox(tmp_path / "nowhere" / "shop.db")) as outbox:
            # Not asked: a database that is busy would let the scrape wait again.
            monkeypatch.setattr(outbox, "workers", None)
            told = Told(Metrics(outbox, ["shop", "blog"]).scrape())

        assert told("outbox_up", namespace="shop") == 0
        assert told("outbox_up", namespace="blog") == 0
        assert not told.has("outbox_pending")
        assert not told.has("outbox_worker_up")

    def test_the_lag_is_from_enqueue_to_publish(self) -> None:
        clock = FakeClock()
        with closing(MemoryOutbox(clock=clock)) as outbox:
            worker = OutboxWorker(outbox, RecordingApplier("shop"))
            metrics = Metrics(outbox, ["shop"], workers=[worker])
            outbox.enqueue("shop", batch_of("a", "b"))
            clock.advance(7)
            worker.run_once()

            told = Told(metrics.scrape())

        assert told("publish_lag_seconds_count") == 2
        assert told("publish_lag_seconds_sum") == pytest.approx(14)
        assert told("publish_lag_seconds_bucket", le="5.0") == 0
        assert told("publish_lag_seconds_bucket", le="10.0") == 2

    def test_the_age_of_the_watermark_is_since_what_is_published(self) -> None:
        clock, steady = FakeClock(), [100.0]
        with closing(MemoryOutbox(clock=clock)) as outbox:
            worker = OutboxWorker(
                outbox,
                MemcachedApplier(MemoryStore(), "shop"),
                watermark=True,
                monotonic=lambda: steady[0],
            )
            metrics = Metrics(outbox, ["shop"], workers=[worker])
            before = Told(metrics.scrape())
            assert worker.store_watermark()
            at_once = Told(metrics.scrape())
            outbox.enqueue("shop", batch_of("a"))
            clock.advance(7)
            steady[0] += 7
            assert worker.store_watermark()
            steady[0] += 3

            told = Told(metrics.scrape())

        assert not before.has("watermark_age_seconds")
        assert at_once("watermark_age_seconds", namespace="shop") == 0
        assert told("watermark_age_seconds", namespace="shop") == pytest.approx(10)

    def test_a_watermark_that_a_node_lacks_grows_old(
        self, outbox: MemoryOutbox, memcached: Memcached
    ) -> None:
        steady = [100.0]
        with MemcachedStore([memcached.address, NOWHERE]) as store:
            worker = OutboxWorker(
                outbox,
                MemcachedApplier(store, "shop"),
                watermark=True,
                monotonic=lambda: steady[0],
            )
            assert not worker.store_watermark()
            told = Told(Metrics(outbox, ["shop"], workers=[worker]).scrape())

        assert not told.has("watermark_age_seconds")

    def test_an_outage_is_counted_and_its_node_named_while_it_lasts(
        self, outbox: MemoryOutbox, memcached: Memcached
    ) -> None:
        with MemcachedStore([memcached.address, NOWHERE]) as store:
            worker = OutboxWorker(outbox, MemcachedApplier(store, "shop"))
            metrics = Metrics(outbox, ["shop"], workers=[worker])
            before = Told(metrics.scrape())
            outbox.enqueue("shop", InvalidationIntentBatch().flush())
            worker.run_once()

            told = Told(metrics.scrape())

        for name in ("cache_away", "circuit_open"):
            assert before(name) == 0
            assert told(name, node=memcached.address) == 0
            assert told(name, node=NOWHERE) == 1
        assert told("cache_outages_total", node=NOWHERE) == 1
        assert told("cache_outages_total") == 1

    def test_an_inline_publish_need_not_read_its_rows_for_it(
        self, outbox: MemoryOutbox
    ) -> None:
        worker = OutboxWorker(outbox, RecordingApplier("shop"))
        metrics = Metrics(outbox, ["shop"], workers=[worker])
        events: list[object] = []
        stop = worker.subscribe(events.append, inline=False)
        everything: list[object] = []
        stop_all = worker.subscribe(everything.append)
        worker.publish(outbox.enqueue("shop", batch_of("a")))
        outbox.enqueue("shop", batch_of("b"))
        worker.run_once()
        stop()
        stop_all()
        outbox.enqueue("shop", batch_of("c"))
        worker.run_once()

        told = Told(metrics.scrape())

        assert (len(events), len(everything)) == (1, 2)
        assert told("worker_batch_seconds_count") == 2
        assert told("worker_rows_total", outcome="published") == 3

    def test_threads_are_told_by_state(self, outbox: MemoryOutbox) -> None:
        worker = OutboxWorker(outbox, RecordingApplier("shop"))
        with WorkerPool(worker, threads=3) as pool:
            metrics = Metrics(outbox, ["shop"], workers=[worker], pool=lambda: pool)
            running = Told(metrics.scrape())

        stopped = Told(metrics.scrape())

        assert running("pool_threads") == 3
        assert running("pool_threads", state="dead") == 0
        assert stopped("pool_threads") == 0
        assert running("database_away") == 0


class TestCache:
    def test_reads_fills_and_refusals_are_counted(self, outbox: MemoryOutbox) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        metrics = Metrics(outbox, ["shop"], caches=[cache])
        cache.get_or_load("a", lambda: 1)
        cache.get_or_load("a", lambda: 2)
        cache.get("b")
        cache.get_or_load("c", lambda: 3, since=1.0)
        before = metrics.scrape()
        cache.get("a")

        told = Told(metrics.scrape())

        assert Told(before)("cache_reads_total", outcome="hits") == 1
        assert told("cache_reads_total", outcome="hits") == 2
        assert told("cache_reads_total", outcome="misses") == 3
        assert told("cache_loads_total") == 2
        refused = cache.diagnostics().refused_snapshot
        assert told("cache_fills_total") == 2 - refused
        assert told("cache_fills_refused_total", reason="snapshot") == refused == 1
        assert told("cache_fills_refused_total") == 1

    def test_bytes_are_those_that_the_store_has(self, outbox: MemoryOutbox) -> None:
        store = Weighed()
        cache = TaggedCache(store, "shop")
        metrics = Metrics(outbox, ["shop"], caches=[cache])
        cache.get_or_load("a", lambda: "x" * 1000, tags=["t"])
        cache.get_or_load("refused", lambda: "x" * 5000, since=1.0)
        for _ in range(READS_FOR_ONE):
            cache.get("a", tags=["t"])
        for _ in range(READS_FOR_ONE):
            cache.get_many(["a", "b"], tags=["t"])

        told = Told(metrics.scrape())

        assert 1000 < told("cache_bytes_total", direction="stored") == store.stored
        assert told("cache_bytes_total", direction="read") == store.read
        assert store.read == 2 * READS_FOR_ONE * store.stored

    def test_one_read_of_several_is_timed(self, outbox: MemoryOutbox) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        metrics = Metrics(outbox, ["shop"], caches=[cache])
        for _ in range(3 * READS_FOR_ONE):
            cache.get("a")

        told = Told(metrics.scrape())

        assert told("cache_read_seconds_count", namespace="shop") == 3
        assert told("cache_read_seconds_sum") > 0

    def test_all_who_measure_a_cache_are_told_of_its_reads(
        self, outbox: MemoryOutbox
    ) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        both = [Metrics(outbox, ["shop"], caches=[cache]) for _ in range(2)]
        for _ in range(2 * READS_FOR_ONE):
            cache.get("a")

        for metrics in both:
            assert Told(metrics.scrape())("cache_read_seconds_count") == 2

    def test_a_load_is_counted_however_it_comes(self) -> None:
        cache = TaggedCache(MemoryStore(), "shop")

        cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, 1))
        cache.refresh("a", lambda: 2)
        cache.get_or_load("a", lambda: 3)

        assert cache.diagnostics().loads == 2

    def test_all_that_is_counted_is_exported_or_left_out_on_purpose(self) -> None:
        fields = {
            name
            for kind in (CacheDiagnostics, WorkerDiagnostics)
            for name in (field.name for field in dataclasses.fields(kind))
        }
        exported = {name for *_, of in OF_CACHES + OF_WORKERS for name in of.split()}

        # The sum of others; by an event, with its node.
        assert fields - exported == {"claimed", "outages"}
        assert exported <= fields


def test_rows_that_are_inserted_are_counted(tmp_path: Path) -> None:
    with closing(SQLiteOutbox(tmp_path / "shop.db")) as outbox:
        outbox.install_schema()
        metrics = Metrics(outbox, ["shop", "blog"])
        first = outbox.enqueue("shop", batch_of("a", "b"))
        # Already there: nothing is inserted.
        outbox.enqueue("shop", batch_of("a"), commit_position=first.commit_position)
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, "shop", batch_of("c"))
            outbox.enqueue_in(connection, "blog", batch_of("d"))
        outbox.enqueue("elsewhere", batch_of("e"))

        told = Told(metrics.scrape())

    assert told("outbox_enqueued_total", namespace="shop") == 3
    assert told("outbox_enqueued_total") == 4


def test_labels_are_few_and_none_is_a_key(outbox: MemoryOutbox) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    worker = OutboxWorker(outbox, RecordingApplier("shop"))
    metrics = Metrics(outbox, ["shop"], workers=[worker], caches=[cache])
    cache.get_or_load("secret-key", lambda: 1, tags=["secret-tag"])
    outbox.enqueue("shop", batch_of("secret-key"))
    worker.run_once()

    text = metrics.scrape()

    names = {
        name
        for family in Told(text).families
        for sample in family.samples
        for name in sample.labels
    }
    assert names == {
        *("namespace", "node", "outcome", "reason", "direction", "state", "le")
    }
    assert b"secret" not in text


def test_a_registry_of_ones_own_is_up_to_date_too(outbox: MemoryOutbox) -> None:
    registry = CollectorRegistry(auto_describe=True)
    cache = TaggedCache(MemoryStore(), "shop")
    Metrics(outbox, ["shop"], caches=[cache], registry=registry)
    cache.get("a")

    assert Told(generate_latest(registry))("cache_reads_total") == 1


def test_a_second_object_is_refused_and_spoils_no_registry(
    outbox: MemoryOutbox,
) -> None:
    registry = CollectorRegistry()
    Metrics(outbox, ["shop"], registry=registry)

    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(outbox, ["blog"], registry=registry)

    assert Told(generate_latest(registry))("outbox_up", namespace="shop") == 1


def test_a_child_exports_what_it_counts_itself(outbox: MemoryOutbox) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    metrics = Metrics(outbox, ["shop"], caches=[cache])
    for _ in range(3):
        cache.get("a")

    def read_and_scrape() -> float:
        cache.get("b")
        return Told(metrics.scrape())("cache_reads_total", outcome="misses")

    assert Child(read_and_scrape).result() == 1
    assert Told(metrics.scrape())("cache_reads_total", outcome="misses") == 3


class TestFile:
    def run(self, outbox: MemoryOutbox, path: Path, namespace: str = "shop") -> None:
        """What one run of a cron job does."""
        worker = OutboxWorker(outbox, Moody() if namespace == "shop" else Blog())
        metrics = Metrics(outbox, [namespace], workers=[worker])
        outbox.enqueue(namespace, batch_of("a", "b"))
        worker.run_once()
        metrics.write_file(str(path))

    def test_counters_of_short_lived_processes_add_up(
        self, outbox: MemoryOutbox, tmp_path: Path
    ) -> None:
        path = tmp_path / "hydracache.prom"
        self.run(outbox, path)
        self.run(outbox, path)
        self.run(outbox, path, "blog")

        told = Told(path.read_bytes())

        assert told("worker_rows_total", namespace="shop", outcome="published") == 4
        assert told("worker_rows_total", namespace="blog", outcome="published") == 2
        assert told("worker_batch_seconds_count", namespace="shop") == 2
        assert told("worker_batch_seconds_bucket", namespace="shop", le="+Inf") == 2
        assert not told.has("outbox_pending") or told("outbox_pending") == 0
        assert [file.name for file in tmp_path.iterdir()] == ["hydracache.prom"]

    def test_what_is_no_metrics_file_is_replaced_with_a_warning(
        self,
        outbox: MemoryOutbox,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        path = tmp_path / "hydracache.prom"
        path.write_text('{"half": "a file')

        self.run(outbox, path)

        assert Told(path.read_bytes())("worker_rows_total", outcome="published") == 2
        assert "is no metrics file" in caplog.text

    def test_a_file_that_cannot_be_written_is_left_alone(
        self, outbox: MemoryOutbox, tmp_path: Path
    ) -> None:
        with pytest.raises(OSError):
            self.run(outbox, tmp_path / "nowhere" / "hydracache.prom")


class Blog(RecordingApplier):
    def __init__(self) -> None:
        super().__init__("blog")
