"""The heartbeat on MySQL and MariaDB, read in transactions of every level and driver.

One server stands for primary and replica; replicas themselves are in
``test_mysql_clusters.py``.
"""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest
from mysql_callers import CALLERS, Caller
from mysql_databases import Database
from mysql_grants import grant, grants_of, revoke

from hydracache_sync import MySQLOutbox, ReplicaSnapshot, replica_snapshot
from hydracache_sync.errors import OutboxError
from hydracache_sync.outbox import database as outbox_database
from hydracache_sync.outbox import statements
from hydracache_sync.snapshots import NEVER

BEAT = "select beat_ms from hydracache_outbox_heartbeat"

RR, RC = "repeatable read", "read committed"

DAYS = 3 * 86400.0


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.install_schema()
        database.sql("create table app (id integer primary key) engine=InnoDB")
        yield outbox


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    replica_snapshot._said.clear()
    yield lambda: "\n".join(caplog.messages)


def beat(outbox: MySQLOutbox, database: Database) -> float:
    """Write a heartbeat that differs from the last; return its moment."""
    before = database.sql(BEAT)
    while database.sql(BEAT) == before:
        outbox.write_heartbeat()
    [(beat_ms,)] = database.sql(BEAT)
    return float(beat_ms / 1000)


@contextlib.contextmanager
def connected(
    caller: Caller, database: Database, level: str = RR, **options: Any
) -> Iterator[Any]:
    with contextlib.closing(caller.connect(database, **options)) as connection:
        caller.execute(connection, f"set session transaction isolation level {level}")
        yield connection


def test_heartbeat_of_an_open_snapshot_is_its_own(outbox, database, caller):
    first = beat(outbox, database)
    with connected(caller, database) as connection:
        caller.execute(connection, "select * from app")
        second = beat(outbox, database)

        assert ReplicaSnapshot(connection)() == first
        connection.commit()
        assert ReplicaSnapshot(connection)() == second


@pytest.mark.parametrize("autocommit", [False, True])
def test_heartbeat_that_was_read_after_the_data_is_not_trusted(
    outbox, database, caller, autocommit
):
    """READ COMMITTED: each statement has a snapshot of its own."""
    first = beat(outbox, database)
    with connected(caller, database, RC, autocommit=autocommit) as connection:
        if autocommit:
            caller.execute(connection, "begin")
        caller.execute(connection, "select * from app")
        second = beat(outbox, database)
        snapshot = ReplicaSnapshot(connection)

        assert snapshot() == NEVER
        connection.commit()
        if autocommit or caller.name == "PyMySQL":
            assert snapshot() == second > first
            third = beat(outbox, database)
            caller.execute(connection, "begin")
            # Older than what the transaction reads, and so still true of it.
            assert snapshot() in (second, third)
        else:
            # Such a driver does not tell whether a transaction is open.
            assert snapshot() == NEVER


@pytest.mark.parametrize("level", ["read uncommitted", "serializable"])
def test_levels_that_tell_nothing_store_nothing(outbox, database, said, level):
    beat(outbox, database)
    with connected(CALLERS[0], database, level) as connection:
        assert ReplicaSnapshot(connection)() == NEVER
    assert "use REPEATABLE READ" in said()


def test_level_may_change_between_two_calls(outbox, database):
    beat(outbox, database)
    with connected(CALLERS[0], database, autocommit=True) as connection:
        snapshot = ReplicaSnapshot(connection)
        known = snapshot()
        set_level = "set session transaction isolation level "
        CALLERS[0].execute(connection, set_level + "read uncommitted")
        unknown = snapshot()
        CALLERS[0].execute(connection, set_level + RR)

        assert (unknown, snapshot()) == (NEVER, known)
        assert known != NEVER


def test_what_one_session_knew_is_forgotten_in_the_next(outbox, database):
    """It may be one at a server that is further behind."""
    beat(outbox, database)
    with connected(CALLERS[0], database, RC) as connection:
        snapshot = ReplicaSnapshot(connection)
        assert snapshot() != NEVER
        connection.close()
        connection.connect()
        set_level = "set session transaction isolation level read committed"
        CALLERS[0].execute(connection, set_level)
        CALLERS[0].execute(connection, "select * from app")

        assert snapshot() == NEVER


def test_heartbeat_that_commits_late_is_as_old_as_it_was_begun(outbox, database):
    """What is committed meanwhile is before it, and it says nothing of that."""
    first = beat(outbox, database)
    with database.connect() as slow, connected(
        CALLERS[0], database, autocommit=True
    ) as connection:
        snapshot = ReplicaSnapshot(connection)
        with slow.cursor() as cursor:
            # As a worker writes it, but that its commit is held up.
            outbox._unchecked.statements.run(
                cursor,
                statements.HEARTBEAT,
                {"every_ms": 0, "host_ms": int(time.time() * 1000)},
            )
        begun_by = time.time()
        database.sql("insert into app values (1)")
        before_its_commit = snapshot()
        slow.commit()

        assert before_its_commit == first
        assert first <= snapshot() <= begun_by


@pytest.mark.parametrize("error", [-DAYS, DAYS])
def test_writer_whose_clock_is_days_off_harms_nobody(
    outbox, database, monkeypatch, error
):
    good = beat(outbox, database)

    def tell() -> float:
        return time.time() + error

    wrong = SimpleNamespace(time=tell, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(outbox_database, "time", wrong)
    time.sleep(0.005)
    outbox.write_heartbeat()

    [(beat_ms,)] = database.sql(BEAT)
    if error < 0:
        assert beat_ms / 1000 == good
    else:
        assert good < beat_ms / 1000 <= time.time()


def test_database_whose_clock_was_days_ahead_is_not_trusted(outbox, database, said):
    ahead = int((time.time() + DAYS) * 1000)
    database.sql(f"insert into hydracache_outbox_heartbeat values (1, {ahead})")
    with connected(CALLERS[0], database) as connection:
        assert ReplicaSnapshot(connection)() == NEVER
        assert "ahead of this host's clock" in said()

        outbox.write_heartbeat()
        connection.commit()

        assert abs(ReplicaSnapshot(connection)() - time.time()) < 60


def test_connection_that_is_closed_tells_nothing_and_raises_nothing(
    outbox, database, caller, said
):
    with connected(caller, database) as connection:
        pass

    assert ReplicaSnapshot(connection)() == NEVER
    assert "could not be read" in said()


# Rights


@pytest.fixture
def user(database: Database) -> Iterator[str]:
    name = str(database.name)
    database.sql(f"create user '{name}'@'%' identified by 'se-cret'")
    yield name
    database.sql(f"drop user '{name}'@'%'")


def test_grants_of_the_docs_are_enough_and_all_needed(outbox, database, user):
    grant(database, user, "worker")
    grant(database, user, "heartbeat")
    with contextlib.closing(
        database.outbox(user=user, password="se-cret")
    ) as powerless:
        powerless.write_heartbeat()
        powerless.write_heartbeat()
        for right in grants_of("heartbeat"):
            revoke(database, user, right)
            with pytest.raises(OutboxError, match="grants"):
                powerless.write_heartbeat()
            grant(database, user, "heartbeat")


def test_reader_needs_the_right_to_read_it(outbox, database, user, said):
    outbox.write_heartbeat()
    database.sql(f"grant select on `{database.name}`.app to '{user}'@'%'")
    options = {"user": user, "password": "se-cret", "autocommit": True}
    with database.connect(**options) as connection:
        assert ReplicaSnapshot(connection)() == NEVER
        assert "could not be read" in said()
        grant(database, user, "reader")
        assert ReplicaSnapshot(connection)() != NEVER
