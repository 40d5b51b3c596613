"""Cached reads in transactions of MySQL: old snapshots, and what was written itself."""

from __future__ import annotations

import time
from typing import Any, Iterator

import pytest
from mysql_databases import Database
from pymysql.cursors import SSCursor

from hydracache_sync import (
    ConnectionSnapshot,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    TaggedCache,
)
from support.servers import Memcached

TAGS = ("users",)

#: Seconds. Both clocks are of one host.
SKEW = 0.05


@pytest.fixture
def users(database: Database) -> Database:
    database.sql("create table users (name varchar(20)) engine=InnoDB")
    database.sql("insert into users values ('old')")
    return database


@pytest.fixture
def connection(users: Database) -> Iterator[Any]:
    with users.connect() as connection:
        yield connection


@pytest.fixture
def store(memcached: Memcached) -> MemcachedStore:
    return MemcachedStore([memcached.address], timeout=10, connect_timeout=10)


def name(connection: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("select name from users")
        return cursor.fetchone()[0]


def test_a_select_opens_a_transaction_that_is_noticed(connection: Any) -> None:
    snapshot = ConnectionSnapshot(connection)
    before = time.time()
    assert snapshot() is None
    after = time.time()

    name(connection)

    began = snapshot()
    assert began is not None and before <= began <= after
    connection.commit()
    assert snapshot() is None
    connection.begin()
    assert snapshot() is not None
    connection.rollback()
    assert snapshot() is None


def test_with_autocommit_each_statement_is_fresh(users: Database) -> None:
    with users.connect(autocommit=True) as connection:
        snapshot = ConnectionSnapshot(connection)
        name(connection)
        assert snapshot() is None
        connection.begin()
        name(connection)
        assert snapshot() is not None


def test_an_answer_that_is_being_read_is_not_thrown_away(users: Database) -> None:
    users.sql("insert into users values ('a'), ('b')")
    with users.connect(cursorclass=SSCursor) as connection:
        snapshot = ConnectionSnapshot(connection)
        with connection.cursor() as cursor:
            cursor.execute("select name from users")
            cursor.fetchone()

            assert snapshot() is not None
            assert len(cursor.fetchall()) == 2


def in_an_old_snapshot(
    users: Database, connection: Any, store: MemcachedStore, cache: TaggedCache
) -> Any:
    """Read in a transaction that began before another's commit and its apply."""
    applier = MemcachedApplier(store, cache.namespace)
    outbox = users.outbox()
    outbox.install_schema()
    cache.get_or_load("k", lambda: name(connection), tags=TAGS)
    with outbox.transaction() as writer:
        with writer.cursor() as cursor:
            cursor.execute("update users set name = 'new'")
        batch = InvalidationIntentBatch().invalidate_tag("users")
        outbox.enqueue_in(writer, cache.namespace, batch)
    assert OutboxWorker(outbox, applier).drain().published == 1
    outbox.close()
    return cache.get_or_load("k", lambda: name(connection), tags=TAGS)


def test_a_reader_in_an_old_snapshot_never_stores_after_the_apply(
    users: Database, connection: Any, store: MemcachedStore, unique: str
) -> None:
    snapshot = ConnectionSnapshot(connection)
    cache = TaggedCache(store, unique, clock_skew=SKEW, snapshot=snapshot)

    in_transaction = in_an_old_snapshot(users, connection, store, cache)

    assert in_transaction == "old"
    assert cache.get("k", tags=TAGS) is None
    connection.commit()
    assert cache.get_or_load("k", lambda: name(connection), tags=TAGS) == "new"


def test_without_the_guard_it_would_bring_back_what_was_invalidated(
    users: Database, connection: Any, store: MemcachedStore, unique: str
) -> None:
    cache = TaggedCache(store, unique, clock_skew=SKEW)

    in_an_old_snapshot(users, connection, store, cache)
    connection.commit()

    assert name(connection) == "new"
    assert cache.get("k", tags=TAGS) == "old"


def test_a_young_snapshot_stores_under_tokens_that_are_older(
    users: Database, connection: Any, store: MemcachedStore, unique: str
) -> None:
    snapshot = ConnectionSnapshot(connection)
    cache = TaggedCache(store, unique, clock_skew=SKEW, snapshot=snapshot)
    cache.reserve("k", tags=TAGS, since=time.time())
    time.sleep(2 * SKEW)
    assert snapshot() is None
    connection.begin()
    name(connection)

    cache.get_or_load("k", lambda: name(connection), tags=TAGS)

    assert cache.get("k", tags=TAGS) == "old"


def test_what_a_transaction_has_written_goes_round_the_cache(
    users: Database, connection: Any, store: MemcachedStore, unique: str
) -> None:
    cache = TaggedCache(store, unique)
    outbox = users.outbox()
    outbox.install_schema()
    cache.get_or_load("k", lambda: name(connection), tags=TAGS)
    connection.commit()
    batch = InvalidationIntentBatch().invalidate_tag("users")

    with cache.writing(batch):
        with connection.cursor() as cursor:
            cursor.execute("update users set name = 'uncommitted'")
        outbox.enqueue_in(connection, unique, batch)
        own = cache.get_or_load("k", lambda: name(connection), tags=TAGS)
        connection.rollback()
    outbox.close()

    assert own == "uncommitted"
    assert cache.get("k", tags=TAGS) == "old"


def test_without_that_it_reads_what_it_has_just_changed(
    users: Database, connection: Any, store: MemcachedStore, unique: str
) -> None:
    cache = TaggedCache(store, unique)
    cache.get_or_load("k", lambda: name(connection), tags=TAGS)
    with connection.cursor() as cursor:
        cursor.execute("update users set name = 'uncommitted'")

    assert cache.get_or_load("k", lambda: name(connection), tags=TAGS) == "old"
    cache.delete("k")
    cache.get_or_load("k", lambda: name(connection), tags=TAGS)
    connection.rollback()

    assert cache.get("k", tags=TAGS) == "uncommitted"
    MemcachedApplier(store, unique).apply_invalidation(InvalidationIntent.tag("users"))
