"""ConnectionSnapshot on sqlite3: when the open transaction began, at the latest."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import (
    ConfigurationError,
    ConnectionSnapshot,
    InvalidationIntent,
    MemcachedApplier,
    MemoryStore,
    TaggedCache,
)
from hydracache_sync.snapshots import NEVER
from support.clock import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "shop.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table users (name text)")
    connection.execute("insert into users values ('old')")
    connection.close()
    return path


@pytest.fixture
def connection(path: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def name(connection: sqlite3.Connection) -> Any:
    return connection.execute("select name from users").fetchone()[0]


def test_without_an_open_transaction_the_next_snapshot_is_fresh(
    connection: sqlite3.Connection, clock: FakeClock
) -> None:
    snapshot = ConnectionSnapshot(connection, clock=clock)
    name(connection)

    assert snapshot() is None


def test_an_open_transaction_began_after_the_last_look_without_one(
    connection: sqlite3.Connection, clock: FakeClock
) -> None:
    snapshot = ConnectionSnapshot(connection, clock=clock)
    clock.advance(10)
    snapshot()
    last_look = clock()
    clock.advance(10)
    connection.execute("begin")
    clock.advance(10)

    assert snapshot() == last_look
    assert snapshot() == last_look
    connection.execute("commit")
    assert snapshot() is None


def test_the_end_of_a_transaction_can_be_told(
    connection: sqlite3.Connection, clock: FakeClock
) -> None:
    snapshot = ConnectionSnapshot(connection, clock=clock)
    connection.execute("begin")
    clock.advance(10)
    connection.execute("commit")
    snapshot.ended()
    ended = clock()
    connection.execute("begin")
    clock.advance(10)

    assert snapshot() == ended


def test_a_transaction_from_before_is_older_than_anything(
    connection: sqlite3.Connection, clock: FakeClock
) -> None:
    connection.execute("begin")

    assert ConnectionSnapshot(connection, clock=clock)() == NEVER


def test_what_a_transaction_has_written_itself_is_never_stored(
    connection: sqlite3.Connection, clock: FakeClock
) -> None:
    snapshot = ConnectionSnapshot(connection, clock=clock)
    cache = TaggedCache(MemoryStore(), "shop", clock=clock, snapshot=snapshot)
    # Under tokens that have a stamp, and one that is old enough.
    cache.get_or_load("k", lambda: name(connection), since=clock())
    clock.advance(60)
    snapshot()
    connection.execute("begin")
    connection.execute("update users set name = 'uncommitted'")

    read = cache.get_or_load("k", lambda: name(connection))
    connection.execute("rollback")

    assert read == "uncommitted"
    assert cache.get("k") is None
    assert cache.get_or_load("k", lambda: name(connection)) == "old"
    assert cache.get("k") == "old"


def test_a_reader_in_an_old_snapshot_does_not_bring_back_what_was_invalidated(
    connection: sqlite3.Connection, path: str, clock: FakeClock
) -> None:
    store = MemoryStore()
    snapshot = ConnectionSnapshot(connection, clock=clock)
    cache = TaggedCache(store, "shop", clock=clock, snapshot=snapshot)
    connection.execute("begin")
    name(connection)
    clock.advance(60)
    with sqlite3.connect(path) as writer:
        writer.execute("update users set name = 'new'")
    writer.close()
    applier = MemcachedApplier(store, "shop", clock=clock)
    applier.apply_invalidation(InvalidationIntent.tag("users"))
    clock.advance(60)

    in_transaction = cache.get_or_load("k", lambda: name(connection), tags=["users"])
    connection.execute("commit")

    assert in_transaction == "old"
    assert cache.get_or_load("k", lambda: name(connection), tags=["users"]) == "new"


@pytest.mark.parametrize("ending", ["nothing", "commit", "told"])
def test_a_cursor_that_is_not_at_its_end_keeps_an_old_snapshot(
    connection: sqlite3.Connection, path: str, clock: FakeClock, ending: str
) -> None:
    connection.execute("insert into users values ('another')")
    snapshot = ConnectionSnapshot(connection, clock=clock)
    cache = TaggedCache(MemoryStore(), "shop", clock=clock, snapshot=snapshot)
    cache.reserve("k")
    clock.advance(60)
    if ending != "nothing":
        connection.execute("begin")
    cursor = connection.execute("select name from users")
    cursor.fetchone()
    if ending != "nothing":
        connection.execute("commit")
    with sqlite3.connect(path) as writer:
        writer.execute("update users set name = 'new'")
    writer.close()
    applier = MemcachedApplier(cache._store, "shop", clock=clock)
    applier.apply_invalidation(InvalidationIntent.key("k"))
    clock.advance(60)
    if ending == "told":
        snapshot.ended()

    in_loop = cache.get_or_load("k", lambda: name(connection))
    cursor.close()

    assert in_loop == "old"
    assert cache.get_or_load("k", lambda: name(connection)) == "new"
    assert cache.get("k") == "new"


def test_a_cursor_that_was_open_before_is_older_than_anything(
    connection: sqlite3.Connection, clock: FakeClock
) -> None:
    connection.execute("insert into users values ('another')")
    cursor = connection.execute("select name from users")
    cursor.fetchone()

    assert ConnectionSnapshot(connection, clock=clock)() == NEVER
    cursor.close()


@pytest.mark.parametrize("told", [False, True])
def test_a_cursor_may_be_open_at_the_first_look_without_a_transaction(
    connection: sqlite3.Connection, clock: FakeClock, told: bool
) -> None:
    """Whether one is open is asked only where there is no transaction."""
    connection.execute("insert into users values ('another')")
    ConnectionSnapshot(connection, clock=clock)
    connection.execute("begin")
    snapshot = ConnectionSnapshot(connection, clock=clock)
    connection.execute("rollback")
    cursor = connection.execute("select name from users")
    cursor.fetchone()
    if told:
        snapshot.ended()

    assert snapshot() == NEVER
    cursor.close()
    assert snapshot() is None


def test_other_drivers_are_told_to_pass_the_moment() -> None:
    with pytest.raises(ConfigurationError, match="object.*PyMySQL.*since="):
        ConnectionSnapshot(object())
