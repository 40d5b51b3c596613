"""ReplicaSnapshot on sqlite3, and the rules that need no server."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntent,
    MemcachedApplier,
    MemoryStore,
    ReplicaSnapshot,
    SQLiteOutbox,
    TaggedCache,
    replica_snapshot,
)
from hydracache_sync.drivers.commit_order import disorder
from hydracache_sync.snapshots import NEVER
from support.clock import FakeClock

DAYS = 3 * 86400.0


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[SQLiteOutbox]:
    path = tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as data:
        data.execute("pragma journal_mode = wal")
        data.execute("create table users (name text)")
        data.execute("insert into users values ('old')")
        data.commit()
    with contextlib.closing(SQLiteOutbox(path, clock=clock)) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture
def connection(outbox: SQLiteOutbox) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(
        sqlite3.connect(outbox.path, isolation_level=None)
    ) as connection:
        yield connection


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    replica_snapshot._said.clear()
    yield lambda: "\n".join(caplog.messages)


def name(connection: sqlite3.Connection) -> Any:
    return connection.execute("select name from users").fetchone()[0]


def rename(outbox: SQLiteOutbox, new: str) -> None:
    with outbox.transaction() as connection:
        connection.execute("update users set name = ?", (new,))


def test_without_a_heartbeat_nothing_is_known(connection, said):
    assert ReplicaSnapshot(connection)() == NEVER
    assert "there is no heartbeat: set HYDRACACHE_HEARTBEAT" in said()


def test_without_its_table_nothing_is_known_and_nothing_raises(connection, said):
    connection.execute("drop table hydracache_outbox_heartbeat")

    assert ReplicaSnapshot(connection)() == NEVER
    assert "could not be read: no such table" in said()


def test_trouble_is_said_once(connection, said):
    for _ in range(3):
        ReplicaSnapshot(connection)()

    assert said().count("there is no heartbeat") == 1


def test_heartbeat_is_the_moment_also_where_it_is_old(outbox, connection, clock):
    outbox.write_heartbeat()
    beat = clock.now_ms / 1000
    clock.advance(DAYS)

    assert ReplicaSnapshot(connection, clock=clock)() == beat


@pytest.mark.parametrize(("ahead", "trusted"), [(0.9, True), (1.2, False)])
def test_heartbeat_from_the_future_is_not_trusted(
    outbox, connection, clock, said, ahead, trusted
):
    clock.advance(ahead)
    outbox.write_heartbeat()
    beat = clock.now_ms / 1000
    clock.advance(-ahead)

    moment = ReplicaSnapshot(connection, clock=clock, clock_skew=1)()

    assert moment == (beat if trusted else NEVER)
    assert ("ahead of this host's clock" in said()) == (not trusted)


def test_heartbeat_is_that_of_the_snapshot_that_is_open(outbox, connection, clock):
    outbox.write_heartbeat()
    beat = clock.now_ms / 1000
    connection.execute("begin")
    name(connection)
    clock.advance(10)
    outbox.write_heartbeat()
    snapshot = ReplicaSnapshot(connection, clock=clock)

    assert snapshot() == beat
    connection.execute("commit")
    assert snapshot() == beat + 10


def test_what_the_transaction_has_written_is_never_stored(outbox, connection, clock):
    outbox.write_heartbeat()
    snapshot = ReplicaSnapshot(connection, clock=clock)
    connection.execute("begin")
    connection.execute("update users set name = 'uncommitted'")

    assert snapshot() == NEVER
    connection.execute("rollback")
    assert snapshot() != NEVER


def test_cursor_that_still_reads_has_an_unknown_snapshot(outbox, connection, clock):
    connection.execute("insert into users values ('another')")
    outbox.write_heartbeat()
    cursor = connection.execute("select name from users")
    cursor.fetchone()

    assert ReplicaSnapshot(connection, clock=clock)() == NEVER
    cursor.close()
    assert ReplicaSnapshot(connection, clock=clock)() != NEVER


def test_an_old_value_is_stored_only_before_its_invalidation(outbox, connection, clock):
    """The snapshot stands for a replica that is behind."""
    store = MemoryStore()
    cache = TaggedCache(
        store, "shop", clock=clock, snapshot=ReplicaSnapshot(connection, clock=clock)
    )
    outbox.write_heartbeat()
    connection.execute("begin")
    name(connection)
    clock.advance(10)
    rename(outbox, "new")
    MemcachedApplier(store, "shop", clock=clock).apply_invalidation(
        InvalidationIntent.key("k")
    )
    clock.advance(10)

    assert cache.get_or_load("k", lambda: name(connection)) == "old"
    assert cache.get("k") is None
    connection.execute("commit")
    assert cache.get_or_load("k", lambda: name(connection)) == "new"
    assert cache.get("k") is None  # the heartbeat is older than the token
    clock.advance(10)
    outbox.write_heartbeat()
    assert cache.get_or_load("k", lambda: name(connection)) == "new"
    assert cache.get("k") == "new"


@pytest.mark.parametrize("table", ["", "a b", "a.b.c", "x; drop table users", "1a"])
def test_what_is_no_table_is_refused(connection, table):
    with pytest.raises(ConfigurationError, match="is not a name"):
        ReplicaSnapshot(connection, table=table)


@pytest.mark.parametrize("table", ["hydracache_outbox", "main.hydracache_outbox"])
def test_table_may_be_named_with_its_database(outbox, connection, clock, table):
    outbox.write_heartbeat()

    assert ReplicaSnapshot(connection, table=table, clock=clock)() != NEVER


def test_what_is_no_connection_is_refused():
    with pytest.raises(ConfigurationError, match="builtins.object is no connection"):
        ReplicaSnapshot(object())


# The bound


def invalidated(clock: FakeClock, **options: Any) -> TaggedCache:
    """A cache whose key was invalidated 10 seconds ago."""
    store = MemoryStore()
    cache = TaggedCache(store, "shop", clock=clock, **options)
    MemcachedApplier(store, "shop", clock=clock).apply_invalidation(
        InvalidationIntent.key("k")
    )
    # What no one has used yet has no stamp.
    cache.get_or_load("k", lambda: "warm", since=clock())
    clock.advance(10)
    return cache


@pytest.mark.parametrize(
    ("lag", "moment", "stored"),
    [(8.9, None, True), (9, None, False), (4.9, 4, True), (5, 4, False)],
)
def test_loads_count_as_older_by_the_bound_of_the_lag(clock, lag, moment, stored):
    """``moment``: seconds ago that the snapshot began; None for a fresh one."""
    snapshot = None if moment is None else lambda: clock() - moment
    cache = invalidated(clock, read_lag=lag, snapshot=snapshot)

    cache.get_or_load("k", lambda: "value")

    assert cache.get("k") == ("value" if stored else None)


@pytest.mark.parametrize(("lag", "stored"), [(5.9, True), (6, False)])
def test_the_bound_holds_for_what_a_caller_says(clock, lag, stored):
    cache = invalidated(clock, read_lag=lag)

    cache.set("k", "value", since=clock() - 3)

    assert cache.get("k") == ("value" if stored else None)


@pytest.mark.parametrize("lag", [-1, float("inf"), "1"])
def test_what_is_no_lag_is_refused(lag):
    with pytest.raises((TypeError, ValueError), match="read_lag"):
        TaggedCache(MemoryStore(), "shop", read_lag=lag)


# The order of commits

MARIADB = {"slave_parallel_mode": "optimistic", "slave_parallel_threads": "4"}
GROUP = {
    "replica_parallel_workers": "4",
    "replica_preserve_commit_order": "ON",
    "group_replication_group_name": "6f1c3c8e",
    "group_replication_single_primary_mode": "ON",
    "group_replication_consistency": "BEFORE_ON_PRIMARY_FAILOVER",
}
GALERA = {"wsrep_on": "ON", "wsrep_provider_options": "a = 1; repl.commit_order = 3; b"}


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, None),
        ({"slave_parallel_workers": "0"}, None),
        ({"slave_parallel_workers": "1"}, None),
        ({"slave_parallel_workers": "2"}, "slave_preserve_commit_order = ON"),
        (
            {"slave_parallel_workers": "2", "slave_preserve_commit_order": "OFF"},
            "slave_preserve_commit_order = ON",
        ),
        ({"slave_parallel_workers": "2", "slave_preserve_commit_order": "ON"}, None),
        (
            {"replica_parallel_workers": "4", "replica_preserve_commit_order": "OFF"},
            "replica_preserve_commit_order = ON",
        ),
        (MARIADB, None),
        ({**MARIADB, "slave_parallel_workers": "4"}, None),
        ({**MARIADB, "gtid_slave_pos": "0-1-7"}, None),
        ({**MARIADB, "gtid_slave_pos": "0-1-7,1-2-9"}, "2 GTID domains"),
        (
            {
                **MARIADB,
                "slave_parallel_threads": "0",
                "gtid_slave_pos": "0-1-7,1-2-9",
            },
            None,
        ),
        (GROUP, None),
        ({**GROUP, "group_replication_single_primary_mode": "OFF"}, "several members"),
        ({**GROUP, "group_replication_consistency": "EVENTUAL"}, "is EVENTUAL"),
        ({**GROUP, "replica_preserve_commit_order": "OFF"}, "order of commits"),
        (GALERA, None),
        ({**GALERA, "wsrep_provider_options": "repl.commit_order = 1;"}, "Galera"),
        ({**GALERA, "wsrep_provider_options": "repl.commit_order = 30"}, "Galera"),
    ],
)
def test_servers_that_show_commits_out_of_order_are_known(variables, why):
    found = disorder(variables)

    assert found is None if why is None else why in (found or "")
