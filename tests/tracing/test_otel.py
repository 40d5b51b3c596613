"""Spans of an outbox, its workers and caches, by the real SDK of OpenTelemetry."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest
from opentelemetry import context
from opentelemetry.trace import SpanKind

from hydracache_sync import (
    ApplyTransient,
    ApplyUnavailable,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxError,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.tracing import instrument
from hydracache_sync.tracing.otel import MAX_LINKS
from support.clock import FakeClock
from support.servers import Memcached
from support.spans import (
    Broken,
    Spans,
    attributes_of,
    id_of,
    is_error,
    linked,
    trace_of,
)

SHOP = "shop"

#: Where nothing listens.
NOWHERE = "127.0.0.1:1"


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch()
    for key in keys:
        batch.invalidate_key(key)
    return batch


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(tmp_path / "app.db", clock=clock)) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def worker(outbox: SQLiteOutbox, store: MemoryStore, spans: Spans) -> OutboxWorker:
    worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
    instrument(worker, tracer_provider=spans.provider)
    return worker


class Moody(InvalidationApplier):
    """Raises what a test gives it."""

    namespace = SHOP

    def __init__(self, error: Exception) -> None:
        self.error = error

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        raise self.error


class TestOutbox:
    def test_an_enqueue_is_a_producers_span_of_its_request(
        self, outbox: SQLiteOutbox, spans: Spans, tmp_path: Path
    ) -> None:
        instrument(outbox, tracer_provider=spans.provider)
        connection = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("begin")
            with spans.tracer.start_as_current_span("request"):
                outbox.enqueue_in(connection, SHOP, batch_of("a", "b", "a"))
            connection.execute("commit")

        span, request = spans.one("enqueue shop"), spans.one("request")
        assert span.kind is SpanKind.PRODUCER
        assert span.parent is not None and span.parent.span_id == id_of(request)
        assert attributes_of(span) == {
            "messaging.system": "hydracache",
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": "shop",
            "messaging.batch.message_count": 2,
        }
        [first, second] = outbox.rows(SHOP)
        ids = f"{trace_of(span):032x}-{id_of(span):016x}"
        assert first.traceparent == second.traceparent
        assert str(first.traceparent).startswith(f"00-{ids}-")
        assert len(str(first.traceparent)) == 55

    def test_an_enqueue_that_fails_is_an_error(
        self, outbox: SQLiteOutbox, spans: Spans
    ) -> None:
        instrument(outbox, tracer_provider=spans.provider)

        with pytest.raises(ValueError, match="namespace"):
            outbox.enqueue("", batch_of("a"))

        [span] = spans.all()
        assert is_error(span)
        assert attributes_of(span)["error.type"] == "ValueError"
        assert [event.name for event in span.events] == ["exception"]

    def test_without_an_sdk_nothing_is_kept_and_all_works(
        self, outbox: SQLiteOutbox
    ) -> None:
        instrument(outbox)

        outbox.enqueue(SHOP, batch_of("a"))

        [row] = outbox.rows(SHOP)
        assert row.traceparent is None


class TestWorker:
    def test_a_batch_is_one_trace_that_links_to_each_request(
        self, outbox: SQLiteOutbox, worker: OutboxWorker, spans: Spans
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a", "b"))
        outbox.enqueue(SHOP, batch_of("c"))

        worker.run_once()

        enqueued = [id_of(span) for span in spans.named("enqueue shop")]
        claim, apply, publish = (
            spans.one(f"{name} shop") for name in ("claim", "apply", "publish")
        )
        assert linked(claim) == linked(apply) == enqueued
        assert claim.parent is None
        assert apply.parent is not None and apply.parent.span_id == id_of(claim)
        assert publish.parent is not None and publish.parent.span_id == id_of(apply)
        kinds = claim.kind, apply.kind, publish.kind
        assert kinds == (SpanKind.CLIENT, SpanKind.CONSUMER, SpanKind.CLIENT)
        types = [
            attributes_of(span)["messaging.operation.type"]
            for span in (claim, apply, publish)
        ]
        assert types == ["receive", "process", "settle"]
        assert attributes_of(apply) == {
            "messaging.system": "hydracache",
            "messaging.operation.name": "apply",
            "messaging.operation.type": "process",
            "messaging.destination.name": "shop",
            "messaging.batch.message_count": 3,
            "hydracache.rows.published": 3,
        }
        assert not any(map(is_error, spans.all()))

    def test_where_nothing_is_due_there_is_no_span(
        self, worker: OutboxWorker, spans: Spans
    ) -> None:
        worker.run_once()
        worker.drain()

        assert spans.names() == []

    def test_links_are_bounded(self, outbox: SQLiteOutbox, store: MemoryStore) -> None:
        # With more than the SDK keeps by default: else its bound would be seen.
        spans = Spans(most_links=2 * MAX_LINKS)
        worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
        instrument(worker, tracer_provider=spans.provider)
        for n in range(MAX_LINKS + 5):
            outbox.enqueue(SHOP, batch_of(f"key:{n}"))

        worker.run_once()

        apply = spans.one("apply shop")
        assert len(apply.links) == MAX_LINKS
        assert attributes_of(apply)["messaging.batch.message_count"] == MAX_LINKS + 5

    @pytest.mark.parametrize(
        "key",
        [context._SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"],
        # The first has a new end in each process.
        ids=["api", "instrumentations"],
    )
    def test_where_the_app_wants_no_spans_there_are_none(
        self, outbox: SQLiteOutbox, worker: OutboxWorker, spans: Spans, key: str
    ) -> None:
        cache = TaggedCache(MemoryStore(), SHOP)
        instrument(cache, tracer_provider=spans.provider)
        with spans.tracer.start_as_current_span("request"):
            token = context.attach(context.set_value(key, True))
            outbox.enqueue(SHOP, batch_of("a"))
            [row] = outbox.rows(SHOP)
            report = worker.run_once()
            cache.get_or_load("a", lambda: 1)
            context.detach(token)
        cache.get("a")

        assert report.published == 1
        assert row.traceparent is None
        assert spans.names() == ["request", "get shop"]

    def test_rows_of_before_it_was_on_are_applied_without_a_link(
        self, outbox: SQLiteOutbox, spans: Spans, store: MemoryStore
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a"))
        worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
        instrument(worker, tracer_provider=spans.provider)

        report = worker.run_once()

        assert report.published == 1
        assert linked(spans.one("apply shop")) == []

    @pytest.mark.parametrize("text", ["", "bogus", "00-" + "0" * 32 + "-1-01", "\xff"])
    def test_a_malformed_context_is_counted_and_said_once(
        self,
        outbox: SQLiteOutbox,
        worker: OutboxWorker,
        spans: Spans,
        text: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for key in ("a", "b"):
            outbox.enqueue(SHOP, batch_of(key))
            with outbox.transaction() as connection:
                connection.execute(
                    "update hydracache_outbox set traceparent = ?", (text,)
                )
            outbox.enqueue(SHOP, batch_of(f"{key}, traced"))
            worker.run_once()

        first, second = spans.named("apply shop")
        for apply in (first, second):
            assert attributes_of(apply)["hydracache.malformed_traceparents"] == 1
            assert attributes_of(apply)["hydracache.rows.published"] == 2
            assert len(apply.links) == 1
        said = [each for each in caplog.records if "traceparent" in each.message]
        assert len(said) == 1

    def test_what_an_applier_raises_is_recorded(
        self, outbox: SQLiteOutbox, spans: Spans
    ) -> None:
        worker = OutboxWorker(outbox, Moody(ApplyTransient("not now")))
        instrument(worker, tracer_provider=spans.provider)
        outbox.enqueue(SHOP, batch_of("a", "b"))

        worker.run_once()

        apply = spans.one("apply shop")
        assert is_error(apply)
        assert attributes_of(apply)["error.type"] == "ApplyTransient"
        assert attributes_of(apply)["hydracache.rows.retried"] == 2
        # One for both rows.
        [event] = apply.events
        assert dict(event.attributes or {})["exception.message"] == "not now"
        assert not is_error(spans.one("publish shop"))

    def test_a_database_that_fails_the_claim_is_an_error(
        self, outbox: SQLiteOutbox, worker: OutboxWorker, spans: Spans
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            connection.execute("alter table hydracache_outbox rename to gone")

        with pytest.raises(OutboxError):
            worker.run_once()

        assert is_error(spans.one("claim shop"))
        assert spans.named("apply shop") == []

    def test_an_inline_publish_is_a_span_of_the_request(
        self, outbox: SQLiteOutbox, worker: OutboxWorker, spans: Spans
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        with spans.tracer.start_as_current_span("request"):
            assert worker.publish(receipt).complete

        apply = spans.one("apply shop")
        assert apply.parent is not None
        assert apply.parent.span_id == id_of(spans.one("request"))
        assert attributes_of(apply)["hydracache.rows.published"] == 1


class TestCache:
    @pytest.fixture
    def cache(self, store: MemoryStore, spans: Spans) -> TaggedCache:
        cache = TaggedCache(store, SHOP)
        instrument(cache, tracer_provider=spans.provider)
        return cache

    def test_a_miss_is_a_get_a_load_and_a_put(
        self, cache: TaggedCache, spans: Spans
    ) -> None:
        def load() -> str:
            with spans.tracer.start_as_current_span("select"):
                return "value"

        assert cache.get_or_load("secret:42", load, tags=["hidden"]) == "value"

        assert spans.names() == ["get shop", "select", "load shop", "put shop"]
        get, select, load_span, put = spans.all()
        assert (get.kind, put.kind) == (SpanKind.CLIENT, SpanKind.CLIENT)
        assert load_span.kind is SpanKind.INTERNAL
        assert select.parent is not None
        assert select.parent.span_id == id_of(load_span)
        assert attributes_of(get) == {
            "db.system.name": "memory",
            "db.operation.name": "get",
            "db.namespace": "shop",
            "cache.hit": False,
        }
        assert attributes_of(put)["cache.item_size"] > 0
        told = repr([(span.name, attributes_of(span)) for span in spans.all()])
        assert "secret" not in told and "hidden" not in told

    def test_a_hit_is_a_get(self, cache: TaggedCache, spans: Spans) -> None:
        cache.get_or_load("a", lambda: "value")
        spans.exporter.clear()

        assert cache.get_or_load("a", lambda: "other") == "value"
        assert cache.get("a") == "value"

        hits = [attributes_of(span) for span in spans.all()]
        assert [each["cache.hit"] for each in hits] == [True, True]
        assert all(each["cache.item_size"] > 0 for each in hits)
        assert spans.names() == ["get shop", "get shop"]

    def test_several_reads_are_one_span(self, cache: TaggedCache, spans: Spans) -> None:
        cache.get_or_load("a", lambda: "value")
        spans.exporter.clear()

        cache.get_many_or_load(["a", "b", "c"], lambda keys: dict.fromkeys(keys, "x"))

        get, _, put = spans.all()
        assert attributes_of(get)["db.operation.batch.size"] == 3
        assert attributes_of(get)["hydracache.hits"] == 1
        assert attributes_of(get)["cache.hit"] is False
        assert attributes_of(put)["db.operation.batch.size"] == 2

    def test_a_removal_is_a_span(self, cache: TaggedCache, spans: Spans) -> None:
        assert cache.delete("a")

        assert spans.names() == ["remove shop"]

    def test_keys_are_there_where_they_are_asked_for(
        self, store: MemoryStore, spans: Spans
    ) -> None:
        cache = TaggedCache(store, SHOP)
        instrument(cache, keys=True, tracer_provider=spans.provider)

        cache.get_or_load(42, lambda: "value")

        keys = [attributes_of(span)["cache.key"] for span in spans.all()]
        assert keys == [("42",)] * 3
        assert set(spans.names()) == {"get shop", "load shop", "put shop"}

    def test_what_a_loader_raises_is_its_spans_error(
        self, cache: TaggedCache, spans: Spans
    ) -> None:
        def load() -> str:
            raise LookupError("no such item")

        with pytest.raises(LookupError):
            cache.get_or_load("a", load)

        assert is_error(spans.one("load shop"))
        assert not is_error(spans.one("get shop"))

    def test_a_decorated_function_is_traced(
        self, cache: TaggedCache, spans: Spans
    ) -> None:
        @cache.cached(key=str, tags=())
        def price(item: int) -> int:
            return item * 10

        assert (price(1), price(1)) == (10, 10)

        assert spans.names() == ["get shop", "load shop", "put shop", "get shop"]

    def test_a_memcached_that_is_away_is_an_error(self, spans: Spans) -> None:
        with contextlib.closing(MemcachedStore([NOWHERE], ring="1")) as store:
            cache = TaggedCache(store, SHOP)
            instrument(cache, tracer_provider=spans.provider)

            assert cache.get_or_load("a", lambda: "value") == "value"

        get = spans.one("get shop")
        assert is_error(get)
        assert attributes_of(get)["error.type"] == "unavailable"

    def test_the_node_is_named(
        self, memcached: Memcached, unique: str, spans: Spans
    ) -> None:
        with contextlib.closing(MemcachedStore([memcached.address], ring="1")) as store:
            cache = TaggedCache(store, unique)
            instrument(cache, tracer_provider=spans.provider)
            cache.get_or_load("a", lambda: "value")

        host, _, port = memcached.address.rpartition(":")
        for name in ("get", "put"):
            found = attributes_of(spans.one(f"{name} {unique}"))
            assert found["db.system.name"] == "memcached"
            assert found["server.address"] == host
            assert found["server.port"] == int(port)


class TestBrokenProcessor:
    @pytest.mark.parametrize("moments", [("start",), ("end",), ("start", "end")])
    def test_it_breaks_nothing_and_is_said_once(
        self,
        moments: tuple[str, ...],
        outbox: SQLiteOutbox,
        store: MemoryStore,
        spans: Spans,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        broken = Broken(*moments)
        spans.provider.add_span_processor(broken)
        worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))
        cache = TaggedCache(store, SHOP)
        instrument(worker, cache, tracer_provider=spans.provider)

        with caplog.at_level(logging.INFO):
            outbox.enqueue(SHOP, batch_of("a"))
            receipt = outbox.enqueue(SHOP, batch_of("b"))
            assert worker.publish(receipt).complete
            assert worker.drain().published == 1
            assert cache.get_or_load("a", lambda: "value") == "value"
            assert cache.get("a") == "value"

        assert broken.raised > 5
        said = [each for each in caplog.records if "tracing fails" in each.message]
        assert len(said) == 1

    def test_a_context_of_the_request_is_kept_where_the_span_is_lost(
        self, outbox: SQLiteOutbox, spans: Spans
    ) -> None:
        instrument(outbox, tracer_provider=spans.provider)
        with spans.tracer.start_as_current_span("request") as request:
            spans.provider.add_span_processor(Broken("start"))
            outbox.enqueue(SHOP, batch_of("a"))

        [row] = outbox.rows(SHOP)
        assert row.traceparent is not None
        assert f"{request.get_span_context().span_id:016x}" in row.traceparent


class TestArguments:
    def test_another_backend_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'zipkin' is not allowed: one of otel"):
            instrument(backend="zipkin")

    def test_another_part_is_refused(self) -> None:
        part: Any = "shop"
        with pytest.raises(TypeError, match="an outbox, a worker or a cache, not str"):
            instrument(part)

    def test_an_outbox_in_memory_is_traced(self, spans: Spans) -> None:
        outbox = MemoryOutbox()
        instrument(outbox, tracer_provider=spans.provider)

        outbox.enqueue(SHOP, batch_of("a"))

        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=1)
        assert row.traceparent is not None
        assert linked(spans.one("enqueue shop")) == []


def test_an_unavailable_cache_is_named_in_the_batch(
    outbox: SQLiteOutbox, spans: Spans
) -> None:
    worker = OutboxWorker(outbox, Moody(ApplyUnavailable("away")))
    instrument(worker, tracer_provider=spans.provider)
    outbox.enqueue(SHOP, batch_of("a"))

    worker.run_once()

    apply = spans.one("apply shop")
    assert is_error(apply)
    assert attributes_of(apply)["hydracache.rows.released"] == 1
