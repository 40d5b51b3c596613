"""Bounded staleness: what no worker has said to be published is not served for long."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from typing import Any, Callable, Iterator

import pytest

from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxWorker,
    TaggedCache,
)
from hydracache_sync.cache import bound
from hydracache_sync.cache.bound import store_watermark
from hydracache_sync.cache.keyspace import Keyspace
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.errors import ApplyPermanent
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox.sqlite.outbox import SQLiteOutbox
from support.clock import FakeClock

SHOP = "shop"

#: Seconds: the bound of the tests, of which the skew of clocks takes one.
BOUND, SKEW = 10.0, 1.0


@pytest.fixture(autouse=True)
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count(0.0, bound.ASK_EVERY)
    monkeypatch.setattr(bound, "monotonic", lambda: next(readings))


@pytest.fixture
def outbox(clock: FakeClock) -> MemoryOutbox:
    return MemoryOutbox(clock=clock)


@pytest.fixture(params=["memory", "memcached"])
def store(request: Any, unique: str) -> Iterator[CacheStore]:
    if request.param == "memory":
        yield MemoryStore(ring=unique)
    else:
        server = request.getfixturevalue("memcached")
        with MemcachedStore([server.address], ring=unique) as store:
            yield store


def worker_of(outbox: Any, store: CacheStore, **more: Any) -> OutboxWorker:
    applier = MemcachedApplier(store, SHOP)
    return OutboxWorker(outbox, applier, watermark=True, **more)


def cache_of(store: CacheStore, clock: Callable[[], float], **more: Any) -> TaggedCache:
    more = {"max_staleness": BOUND, "clock_skew": SKEW, **more}
    return TaggedCache(store, SHOP, clock=clock, **more)


def batch_of(key: str) -> InvalidationIntentBatch:
    return InvalidationIntentBatch().invalidate_key(key)


class TestBound:
    def test_what_was_committed_longer_ago_is_not_served(
        self, outbox: Any, store: CacheStore, clock: FakeClock
    ) -> None:
        worker, cache = worker_of(outbox, store), cache_of(store, clock)
        worker.drain()
        cache.get_or_load("k", lambda: "old")
        outbox.enqueue(SHOP, batch_of("k"))  # and no worker runs any more
        clock.advance(BOUND - SKEW - 0.001)
        young = cache.get("k")
        clock.advance(0.002)
        lapsed = cache.get("k"), cache.get_many(["k"]), cache.diagnostics().lapsed
        loaded = cache.get_or_load("k", lambda: "new")
        worker.drain()

        assert young == "old"
        assert lapsed == (None, {}, 2)
        assert loaded == "new"
        assert cache.get("k") is None
        assert cache.get_or_load("k", lambda: "newer") == "newer"
        assert cache.get("k") == "newer"

    def test_row_that_is_not_carried_holds_back_what_a_worker_says(
        self, outbox: Any, store: CacheStore, clock: FakeClock
    ) -> None:
        worker, cache = worker_of(outbox, store), cache_of(store, clock)
        outbox.enqueue(SHOP, batch_of("other"))
        cache.get_or_load("k", lambda: "old")
        clock.advance(BOUND + 1)
        assert worker.store_watermark()
        held = cache.get("k")
        worker.drain()

        assert held is None
        assert cache.get("k") == "old"

    def test_a_transaction_that_ends_late_is_within_the_bound(
        self, tmp_path: Any, clock: FakeClock
    ) -> None:
        store = MemoryStore()
        outbox = SQLiteOutbox(tmp_path / "shop.db", clock=clock)
        outbox.install_schema()
        producer = SQLiteOutbox(tmp_path / "shop.db", clock=clock)
        worker, cache = worker_of(outbox, store), cache_of(store, clock)
        with producer.transaction() as connection:
            producer.enqueue_in(connection, SHOP, batch_of("k"))
            created = clock.now_ms
            clock.advance(60)
            open_still = outbox.watermark(SHOP).moment_ms
            worker.store_watermark()
            cache.get_or_load("k", lambda: "old")
        ended = outbox.watermark(SHOP).moment_ms
        worker.store_watermark()
        outbox.close()
        producer.close()

        assert open_still == clock.now_ms
        assert ended == created
        # What was said before stays true: the commit ended after that moment.
        assert cache.get("k") == "old"
        clock.advance(BOUND)
        assert cache.get("k") is None

    def test_watermark_that_comes_while_an_entry_is_read_is_not_for_that_read(
        self, outbox: Any, clock: FakeClock
    ) -> None:
        class Answering(MemoryStore):
            """Answers, and before the reader goes on something happens."""

            after: Callable[[], object] | None = None

            def get_many(self, addresses: Any) -> list[bytes | None]:
                found = super().get_many(addresses)
                if len(addresses) > 1 and self.after is not None:
                    after, self.after = self.after, None
                    after()
                return found

        store = Answering()
        worker, cache = worker_of(outbox, store), cache_of(store, clock)
        worker.drain()
        cache.get_or_load("k", lambda: "old")
        outbox.enqueue(SHOP, batch_of("k"))
        clock.advance(BOUND + 1)
        store.after = worker.drain

        assert cache.get("k") is None
        assert outbox.status(SHOP).pending == 0

    @pytest.mark.parametrize("behind", [-SKEW, 0.0, SKEW])
    def test_clock_of_a_reader_may_be_off_by_the_skew(
        self, outbox: Any, store: CacheStore, clock: FakeClock, behind: float
    ) -> None:
        worker = worker_of(outbox, store)
        cache = cache_of(store, lambda: clock() - behind)
        worker.drain()
        cache.get_or_load("k", lambda: "old")
        outbox.enqueue(SHOP, batch_of("k"))
        committed = clock()
        while cache.get("k") is not None:
            clock.advance(0.1)

        assert clock() - committed <= BOUND + 0.1

    def test_watermark_of_a_clock_that_is_ahead_is_not_believed(
        self, store: CacheStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = cache_of(store, clock)
        ahead = clock.now_ms + 3_600_000
        assert not store_watermark(store, Keyspace(store.ring, SHOP), ahead)
        cache.get_or_load("k", lambda: "old")

        assert cache.get("k") is None
        assert "dated ahead" in caplog.text

    def test_watermark_that_was_dated_ahead_is_not_believed_when_its_moment_comes(
        self, outbox: Any, store: CacheStore, clock: FakeClock
    ) -> None:
        cache = cache_of(store, clock)
        clock.advance(3600)
        worker_of(outbox, store).drain()
        clock.advance(-3600)
        cache.get_or_load("k", lambda: "old")
        outbox.enqueue(SHOP, batch_of("k"))  # and no worker runs any more
        clock.advance(3600)
        found = cache.get("k")
        clock.advance(1)
        worker_of(outbox, store).drain()
        cache.get_or_load("k", lambda: "new")

        assert found is None
        assert cache.get("k") == "new"

    def test_what_was_believed_by_a_clock_that_was_ahead_ends_when_it_is_set_back(
        self, outbox: Any, store: CacheStore, clock: FakeClock
    ) -> None:
        worker, cache = worker_of(outbox, store), cache_of(store, clock)
        clock.advance(3600)
        worker.drain()
        cache.get_or_load("k", lambda: "old")
        ahead = cache.get("k")
        clock.advance(-3600)
        worker.drain()
        set_back = cache.get("k")
        outbox.enqueue(SHOP, batch_of("k"))  # and no worker runs any more
        clock.advance(BOUND + 1)

        assert (ahead, set_back) == ("old", "old")
        assert cache.get("k") is None

    @pytest.mark.parametrize("value", [b"", b"1234567", b"123456789", b"L" * 17])
    def test_what_is_no_watermark_is_none(
        self, store: CacheStore, clock: FakeClock, value: bytes
    ) -> None:
        cache = cache_of(store, clock)
        cache.get_or_load("k", lambda: "old")
        store.set_many([(Keyspace(store.ring, SHOP).watermark(), value, None)])

        assert cache.get("k") is None

    def test_node_that_lost_everything_has_one_again(
        self, outbox: Any, clock: FakeClock
    ) -> None:
        store = MemoryStore()
        worker = worker_of(outbox, store)
        worker.drain()
        store.clear()
        cache = cache_of(store, clock)
        cache.get_or_load("k", lambda: "value")
        before = cache.get("k")
        worker.drain()

        assert before is None
        assert cache.get("k") == "value"

    def test_another_namespaces_and_another_rings_say_nothing(
        self, outbox: Any, clock: FakeClock
    ) -> None:
        store, other = MemoryStore(), MemoryStore(ring="2")
        OutboxWorker(outbox, MemcachedApplier(store, "blog"), watermark=True).drain()
        worker_of(outbox, other).drain()
        cache = cache_of(store, clock)
        cache.get_or_load("k", lambda: "value")

        assert cache.get("k") is None

    def test_both_rings_of_a_change_get_it(self, outbox: Any, clock: FakeClock) -> None:
        stores = [MemoryStore(), MemoryStore(ring="2")]
        applier = MemcachedApplier(stores[0], SHOP, also=stores[1:])
        OutboxWorker(outbox, applier, watermark=True).drain()
        caches = [cache_of(each, clock) for each in stores]

        for cache in caches:
            cache.get_or_load("k", lambda: "value")
        assert [cache.get("k") for cache in caches] == ["value"] * 2

    def test_strict_namespace_may_have_a_bound(
        self, outbox: Any, clock: FakeClock
    ) -> None:
        store = MemoryStore()
        applier = MemcachedApplier(store, SHOP, strict=True)
        OutboxWorker(outbox, applier, watermark=True).drain()
        cache = cache_of(store, clock, strict=True)
        cache.get_or_load("k", lambda: "value")
        clock.advance(5)
        cache.get_or_load("k", lambda: "value")

        assert cache.get("k") == "value"
        clock.advance(BOUND)
        assert cache.get("k") is None

    def test_without_one_nothing_is_asked_for(self, clock: FakeClock) -> None:
        cache = cache_of(MemoryStore(), clock, max_staleness=None)
        cache.get_or_load("k", lambda: "value")
        clock.advance(1000)

        assert cache.get("k") == "value"


class TestDeadLetters:
    def test_one_is_made_up_for_by_the_flush_that_follows(
        self, outbox: Any, clock: FakeClock
    ) -> None:
        store = MemoryStore()
        worker, cache = worker_of(outbox, store), cache_of(store, clock)
        worker.drain()
        cache.get_or_load("k", lambda: "old")
        outbox.enqueue(SHOP, batch_of("k"))
        clock.advance(1)
        dying = OutboxWorker(outbox, _Refusing(store, SHOP), escalate=False)
        dying.run_once()
        clock.advance(BOUND)
        dead = outbox.watermark(SHOP)
        lapsed = cache.get("k")
        # The flush was lost, as by a worker that was killed: it is scheduled now.
        worker.store_watermark()
        worker.drain()

        assert dead.dead_letters == 1
        assert lapsed is None
        assert outbox.watermark(SHOP) == (clock.now_ms, clock.now_ms, 0)
        assert cache.get("k") is None  # flushed
        cache.get_or_load("k", lambda: "new")
        assert cache.get("k") == "new"


class _Refusing(MemcachedApplier):
    def apply_batch(self, intents: Any) -> list[Exception | None]:
        flush = InvalidationIntent.flush()
        return [None if each == flush else ApplyPermanent("no") for each in intents]


class TestLoads:
    def test_while_nobody_says_anything_readers_share_a_load(
        self, store: CacheStore, clock: FakeClock
    ) -> None:
        cache = cache_of(store, clock, max_wait=30.0)
        cache.get_or_load("k", lambda: "filled")
        started, go_on = threading.Event(), threading.Event()
        loads = []

        def load() -> str:
            loads.append(1)
            started.set()
            assert go_on.wait(30)
            return "loaded"

        found: list[str] = []
        threads = [
            threading.Thread(target=lambda: found.append(cache.get_or_load("k", load)))
            for _ in range(8)
        ]
        threads[0].start()
        assert started.wait(30)
        for thread in threads[1:]:
            thread.start()
        # All have missed and joined, or will load by themselves.
        while cache.diagnostics().lapsed < 8:
            pass
        go_on.set()
        for thread in threads:
            thread.join(30)

        assert found == ["loaded"] * 8
        assert len(loads) + cache.diagnostics().joined == 8

    def test_load_that_began_before_the_bound_is_not_joined(
        self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = cache_of(MemoryStore(), clock, max_wait=60.0)
        cache.get_or_load("other", lambda: "value")
        started, go_on = threading.Event(), threading.Event()

        def slow() -> str:
            started.set()
            assert go_on.wait(60)
            return "old"

        thread = threading.Thread(target=lambda: cache.get_or_load("k", slow))
        thread.start()
        assert started.wait(60)
        # As if the load had taken longer than the bound by now.
        real = time.monotonic
        monkeypatch.setattr(
            "hydracache_sync.cache.entries.monotonic", lambda: real() + BOUND
        )
        # One that joined all the same is given the old value then.
        timer = threading.Timer(1.0, go_on.set)
        timer.start()
        found = cache.get_or_load("k", lambda: "new")
        timer.join(60)
        thread.join(60)

        assert found == "new"


class TestWords:
    def test_reader_that_no_worker_serves_says_so_once(
        self, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = cache_of(MemoryStore(), clock)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert cache.get("k") is None

        [line] = caplog.messages
        assert "no worker has stored a watermark" in line
        assert "HYDRACACHE_MAX_STALENESS" in line

    @pytest.mark.parametrize(
        "seconds", [True, "10", float("nan"), float("inf"), -1, 0, 1.0, SKEW + 1]
    )
    def test_what_is_no_bound_is_refused(self, seconds: Any, clock: FakeClock) -> None:
        with pytest.raises((TypeError, ValueError), match="max_staleness"):
            cache_of(MemoryStore(), clock, max_staleness=seconds)

    def test_node_that_is_away_is_logged_and_raises_nothing(
        self, outbox: Any, memcached: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        servers = [memcached.address, "127.0.0.1:1"]
        with MemcachedStore(servers, ring="away", retry_after=0) as store:
            stored = worker_of(outbox, store).store_watermark()

        assert not stored
        assert "storing the watermark of namespace shop fails" in caplog.text
