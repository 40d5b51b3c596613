"""From a request to memcached by MySQL, as one sees it in traces."""

from __future__ import annotations

import contextlib
from typing import Iterator

import pytest
from mysql_databases import Database

from hydracache_sync import (
    MemcachedApplier,
    MemcachedStore,
    MySQLOutbox,
    OutboxWorker,
    TaggedCache,
)
from hydracache_sync.tracing import instrument
from outbox_contract.common import batch_of
from support.servers import Memcached
from support.spans import Spans, attributes_of, id_of, linked, trace_of


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture
def store(memcached: Memcached) -> Iterator[MemcachedStore]:
    with contextlib.closing(MemcachedStore([memcached.address], ring="1")) as store:
        yield store


def test_a_request_is_found_from_the_batch_that_applied_it(
    database: Database, outbox: MySQLOutbox, store: MemcachedStore, unique: str
) -> None:
    spans = Spans()
    worker = OutboxWorker(outbox, MemcachedApplier(store, unique))
    cache = TaggedCache(store, unique)
    # Before any of it was traced.
    outbox.enqueue(unique, batch_of("before"))
    instrument(worker, cache, tracer_provider=spans.provider)
    cache.get_or_load("a", lambda: "old")

    with contextlib.closing(database.connect()) as writer:
        for name in ("first", "second"):
            writer.begin()
            with spans.tracer.start_as_current_span(name):
                outbox.enqueue_in(writer, unique, batch_of("a", "b"))
            writer.commit()
    report = worker.drain()

    assert report.published == 5
    assert cache.get("a") is None
    enqueued = spans.named(f"enqueue {unique}")
    apply = spans.one(f"apply {unique}")
    assert linked(apply) == [id_of(span) for span in enqueued]
    requests = [trace_of(spans.one(name)) for name in ("first", "second")]
    assert [link.context.trace_id for link in apply.links] == requests
    assert attributes_of(apply)["hydracache.rows.published"] == 5
    hits = [attributes_of(span)["cache.hit"] for span in spans.named(f"get {unique}")]
    assert hits == [False, False]


def test_a_row_that_a_foreign_hand_wrote_is_applied(
    outbox: MySQLOutbox, store: MemcachedStore, unique: str, database: Database
) -> None:
    spans = Spans()
    worker = OutboxWorker(outbox, MemcachedApplier(store, unique))
    instrument(worker, tracer_provider=spans.provider)
    outbox.enqueue(unique, batch_of("a"))
    database.sql("update hydracache_outbox set traceparent = x'ff00'")

    assert worker.drain().published == 1

    apply = spans.one(f"apply {unique}")
    assert apply.links == ()
    assert attributes_of(apply)["hydracache.malformed_traceparents"] == 1
