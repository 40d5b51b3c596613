"""What a StatsD is sent adds up to what was done; nothing waits for an absent one."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any, Iterator

import pytest
from prometheus_client import CollectorRegistry

from hydracache_sync import (
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
from hydracache_sync.cache.diagnostics import READS_FOR_ONE
from hydracache_sync.metrics import Metrics, StatsD
from hydracache_sync.metrics.statsd import MAX_PACKET, TIMERS_OF_BATCH
from support.clock import FakeClock
from support.processes import Child, UnseenChild
from support.resolver import Resolver
from support.servers import Memcached
from support.statsd import StatsDServer
from support.waiting import eventually

#: Where nothing listens.
NOWHERE = "127.0.0.1:1"

#: Seconds between two sends where a test waits for the thread.
OFTEN = 0.01

#: Seconds that never come: the thread does not disturb a test that sends by itself.
NEVER = 10_000.0


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch()
    for key in keys:
        batch.invalidate_key(key)
    return batch


@pytest.fixture
def outbox() -> Iterator[MemoryOutbox]:
    with closing(MemoryOutbox(clock=FakeClock())) as outbox:
        yield outbox


@pytest.fixture
def server() -> Iterator[StatsDServer]:
    with StatsDServer() as server:
        yield server


@pytest.fixture
def sender(outbox: MemoryOutbox, server: StatsDServer) -> Iterator[Any]:
    """Makes what sends to the server; all are closed at the end."""
    made: list[StatsD] = []

    def make(host: str = "127.0.0.1", **options: Any) -> StatsD:
        namespaces = options.pop("namespaces", ["shop"])
        port = options.pop("port", server.port)
        options = {"send_every": NEVER, **options}
        made.append(StatsD(host, port, outbox, namespaces, **options))
        return made[-1]

    yield make
    for each in made:
        each.close(timeout=0.0)


def test_counters_add_up_over_several_sends(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any
) -> None:
    worker = OutboxWorker(outbox, RecordingApplier("shop"))
    cache = TaggedCache(MemoryStore(), "shop")
    statsd = sender(workers=[worker], caches=[cache])
    for number in range(3):
        outbox.enqueue("shop", batch_of(f"a{number}", f"b{number}"))
        worker.run_once()
        cache.get("a")
        assert statsd.flush()

    assert statsd.flush()
    counts = server.read().counts

    assert counts["hydracache.worker_rows.shop.published"] == 6
    assert counts["hydracache.worker_batches.shop"] == 3
    assert counts["hydracache.cache_reads.shop.misses"] == 3
    assert server.timed("hydracache.worker_batch.shop") == 3


def test_it_has_the_names_and_numbers_of_prometheus(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any, memcached: Memcached
) -> None:
    registry = CollectorRegistry()
    with MemcachedStore([memcached.address, NOWHERE]) as store:
        worker = OutboxWorker(outbox, MemcachedApplier(store, "shop"), watermark=True)
        cache = TaggedCache(MemoryStore(), "shop")
        parts: dict[str, Any] = {"workers": [worker], "caches": [cache]}
        Metrics(outbox, ["shop"], registry=registry, **parts)
        statsd = sender(**parts)
        cache.get_or_load("a", lambda: 1)
        cache.get("a")
        outbox.enqueue("shop", InvalidationIntentBatch().flush())
        worker.run_once()
        families = list(registry.collect())
        assert statsd.flush()

    def name(metric: str, labels: dict[str, str]) -> str:
        # As the page says: labels in the order of its table.
        order = ["namespace", "node", "outcome", "reason", "direction", "state"]
        parts = [labels[label] for label in order if label in labels]
        return ".".join(["hydracache", metric[len("hydracache_") :], *parts]).replace(
            memcached.address, memcached.address.replace(".", "_").replace(":", "_")
        )

    sent = server.read()
    prometheus = {
        kind: {
            name(family.name, sample.labels).replace(NOWHERE, "127_0_0_1_1"): (
                sample.value
            )
            for family in families
            for sample in family.samples
            if family.type == kind and not sample.name.endswith("_created")
        }
        for kind in ("counter", "gauge")
    }
    grown = {name: count for name, count in prometheus["counter"].items() if count}
    assert grown["hydracache.cache_outages.shop.127_0_0_1_1"] == 1
    assert sent.counts == grown
    assert sent.gauges == prometheus["gauge"]


def test_no_key_or_tag_is_in_a_name(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any
) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    worker = OutboxWorker(outbox, RecordingApplier("shop"))
    statsd = sender(workers=[worker], caches=[cache])
    cache.get_or_load("secret-key", lambda: 1, tags=["secret-tag"])
    outbox.enqueue("shop", batch_of("secret-key"))
    worker.run_once()

    statsd.flush()

    assert server.read().names()
    assert [name for name in server.names() if "secret" in name] == []


def test_names_begin_with_the_prefix_and_have_no_dot_of_a_label(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any
) -> None:
    statsd = sender(prefix="ops.shop", namespaces=["bücher v1.2", "a:b|c@d\ne"])

    statsd.flush()

    pending = {name for name in server.read().gauges if ".outbox_pending." in name}
    assert pending == {
        "ops.shop.outbox_pending.b_cher_v1_2",
        "ops.shop.outbox_pending.a_b_c_d_e",
    }


def test_the_lag_of_a_large_batch_is_sampled_and_counts_all_rows(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any
) -> None:
    worker = OutboxWorker(outbox, RecordingApplier("shop"), batch_size=100)
    statsd = sender(workers=[worker])
    outbox.enqueue("shop", batch_of(*map(str, range(40))))
    worker.run_once()

    statsd.flush()

    name = "hydracache.publish_lag.shop"
    assert len(server.read().timers[name]) == TIMERS_OF_BATCH
    assert server.timed(name) == pytest.approx(40)


def test_the_lag_is_in_milliseconds(server: StatsDServer) -> None:
    clock = FakeClock()
    with closing(MemoryOutbox(clock=clock)) as outbox:
        worker = OutboxWorker(outbox, RecordingApplier("shop"))
        statsd = StatsD("127.0.0.1", server.port, outbox, ["shop"], workers=[worker])
        outbox.enqueue("shop", batch_of("a"))
        clock.advance(7)
        worker.run_once()
        statsd.close()

    assert server.read().timers["hydracache.publish_lag.shop"] == [(7000, 1)]


def test_a_timed_read_counts_for_those_that_are_not(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any
) -> None:
    cache = TaggedCache(MemoryStore(), "shop")
    statsd = sender(caches=[cache])
    for _ in range(3 * READS_FOR_ONE):
        cache.get("a")

    statsd.flush()

    name = "hydracache.cache_read.shop"
    assert len(server.read().timers[name]) == 3
    assert server.timed(name) == pytest.approx(3 * READS_FOR_ONE)


def test_what_does_not_fit_into_one_packet_comes_in_several(
    outbox: MemoryOutbox, server: StatsDServer, sender: Any
) -> None:
    namespaces = [f"shop-{number}-{'n' * 40}" for number in range(50)]

    assert sender(namespaces=namespaces).flush()

    gauges = server.read().gauges
    assert len(server.packets) > 1
    assert max(server.packets) <= MAX_PACKET
    assert all(gauges[f"hydracache.outbox_up.{name}"] == 1 for name in namespaces)


class TestThread:
    def test_it_sends_by_itself(
        self, outbox: MemoryOutbox, server: StatsDServer, sender: Any
    ) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        statsd = sender(caches=[cache], send_every=OFTEN, gauges_every=OFTEN)
        statsd.ensure()
        for _ in range(3):
            cache.get("a")

        name = "hydracache.cache_reads.shop.misses"
        eventually(lambda: server.read().counts.get(name) == 3)
        eventually(lambda: "hydracache.outbox_up.shop" in server.read().gauges)

    def test_a_pool_starts_it(
        self, outbox: MemoryOutbox, server: StatsDServer, sender: Any
    ) -> None:
        worker = OutboxWorker(outbox, RecordingApplier("shop"))
        with WorkerPool(worker) as pool:
            sender(workers=[worker], pool=lambda: pool, send_every=OFTEN)
            outbox.enqueue("shop", batch_of("a", "b"))

            name = "hydracache.worker_rows.shop.published"
            eventually(lambda: server.read().counts.get(name) == 2)
        assert server.gauges["hydracache.pool_threads.dead"] == 0

    def test_its_end_sends_what_is_left(
        self, outbox: MemoryOutbox, server: StatsDServer, sender: Any
    ) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        statsd = sender(caches=[cache])
        statsd.ensure()
        cache.get("a")

        statsd.close()
        statsd.close()
        cache.get("b")
        statsd.ensure()

        assert server.read().counts == {"hydracache.cache_reads.shop.misses": 1}

    @pytest.mark.parametrize("kind", [Child, UnseenChild])
    def test_a_child_sends_what_it_counts_itself(
        self, outbox: MemoryOutbox, server: StatsDServer, sender: Any, kind: Any
    ) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        statsd = sender(caches=[cache])
        statsd.ensure()
        for _ in range(3):
            cache.get("a")

        def read_and_send() -> bool:
            statsd.ensure()
            cache.get("b")
            return bool(statsd.flush())

        name = "hydracache.cache_reads.shop.misses"
        assert kind(read_and_send).result()
        of_child = server.read().counts.get(name)
        assert statsd.flush()

        assert of_child == 1
        assert server.read().counts[name] == 4


class TestAway:
    def test_a_name_that_is_not_known_loses_no_count_and_is_said_once(
        self,
        outbox: MemoryOutbox,
        server: StatsDServer,
        sender: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with Resolver(monkeypatch):
            resolve = socket.getaddrinfo

            def unknown(host: str, *more: Any) -> Any:
                raise socket.gaierror(socket.EAI_NONAME, "not known")

            monkeypatch.setattr(socket, "getaddrinfo", unknown)
            cache = TaggedCache(MemoryStore(), "shop")
            worker = OutboxWorker(outbox, RecordingApplier("shop"))
            statsd = sender("unknown.test", caches=[cache], workers=[worker])
            with caplog.at_level(logging.WARNING):
                for _ in range(3):
                    cache.get("a")
                    outbox.enqueue("shop", batch_of("a"))
                    worker.run_once()
                    assert not statsd.flush()
            monkeypatch.setattr(socket, "getaddrinfo", resolve)

            assert statsd.flush()

        counts = server.read().counts
        assert counts["hydracache.cache_reads.shop.misses"] == 3
        assert counts["hydracache.worker_rows.shop.published"] == 3
        assert server.timed("hydracache.worker_batch.shop") == 3
        assert caplog.text.count("sending metrics to unknown.test port") == 1

    def test_a_resolver_that_hangs_holds_no_request_and_no_worker(
        self,
        outbox: MemoryOutbox,
        server: StatsDServer,
        sender: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with Resolver(monkeypatch) as resolver:
            resolver.hang()
            worker = OutboxWorker(outbox, RecordingApplier("shop"))
            statsd = sender("hangs.test", workers=[worker], send_every=OFTEN)
            statsd.ensure()
            eventually(lambda: resolver.asked)
            for _ in range(3):
                outbox.enqueue("shop", batch_of("a"))
                assert worker.run_once().published == 1
                statsd.ensure()

            assert resolver.hangs()
            assert not statsd.flush(timeout=0.0)
            resolver.answer()

            name = "hydracache.worker_rows.shop.published"
            eventually(lambda: server.read().counts.get(name) == 3)

    def test_a_port_where_nothing_listens_is_said(
        self,
        outbox: MemoryOutbox,
        sender: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cache = TaggedCache(MemoryStore(), "shop")
        host, _, port = NOWHERE.partition(":")
        statsd = sender(host, port=int(port), caches=[cache])

        def is_refused() -> bool:
            cache.get("a")
            return not statsd.flush()

        with caplog.at_level(logging.WARNING):
            eventually(is_refused)

        assert "sending metrics to 127.0.0.1 port 1 fails" in caplog.text

    @pytest.mark.parametrize("sent", range(6))
    def test_what_the_network_refuses_is_sent_later_and_the_rest_once(
        self,
        outbox: MemoryOutbox,
        server: StatsDServer,
        sender: Any,
        monkeypatch: pytest.MonkeyPatch,
        sent: int,
    ) -> None:
        caches = [TaggedCache(MemoryStore(), f"{'n' * 40}{n}") for n in range(30)]
        worker = OutboxWorker(outbox, RecordingApplier("shop"))
        statsd = sender(caches=caches, workers=[worker])
        for cache in caches:
            cache.get("a")
        for _ in range(60):
            outbox.enqueue("shop", batch_of("a"))
            worker.run_once()
        left = [sent]
        send = socket.socket.send

        def refusing(to: socket.socket, packet: bytes) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("refused")
            return send(to, packet)

        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "send", refusing)
            assert not statsd.flush()
        assert statsd.flush()

        counts = server.read().counts
        assert sum(n for name, n in counts.items() if ".cache_reads." in name) == 30
        assert counts["hydracache.worker_rows.shop.published"] == 60
        assert server.timed("hydracache.worker_batch.shop") == 60

    def test_an_outbox_that_cannot_be_read_is_told(
        self, server: StatsDServer, tmp_path: Any
    ) -> None:
        with closing(SQLiteOutbox(tmp_path / "nowhere" / "shop.db")) as outbox:
            StatsD("127.0.0.1", server.port, outbox, ["shop", "blog"]).close()

        gauges = server.read().gauges
        assert gauges["hydracache.outbox_up.shop"] == 0
        assert gauges["hydracache.outbox_up.blog"] == 0
        assert "hydracache.outbox_pending.shop" not in gauges


def test_it_needs_no_library_of_prometheus() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from hydracache_sync.metrics import StatsD\n"
        "try:\n"
        "    from hydracache_sync.metrics import Metrics\n"
        "except ModuleNotFoundError:\n"
        "    print('not installed')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.stderr) == ("not installed\n", "")
