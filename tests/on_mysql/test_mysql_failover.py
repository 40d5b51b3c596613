"""Own connections leave a server that takes no writes, and conflicts are no outage."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from typing import Any, Callable, Iterator

import pymysql
import pytest
from mysql_databases import (
    KINDS,
    MARIADBS,
    PATIENCE,
    Database,
    at_statement,
    fresh_database,
    one_of,
    spy_on_statements,
    started,
)
from mysql_proxy import Proxy

from hydracache_sync import (
    ConnectionLostError,
    MySQLOutbox,
    OutboxBusyError,
    OutboxError,
    OutboxWorker,
    ReadOnlyServerError,
    RecordingApplier,
    ThreadState,
    WorkerPool,
)
from hydracache_sync.cli import ExitCode
from hydracache_sync.drivers import pymysql_connection
from hydracache_sync.outbox.lent_connections import keep_apart
from hydracache_sync.outbox.mysql.sessions import MySQLConnector
from hydracache_sync.pool.timing import PoolTiming
from outbox_contract.common import SHOP, batch_of, keys_of
from support.commands import ended, start
from support.processes import in_threads
from support.servers import SQLServer
from support.waiting import eventually

LOGIN = {"user": "app", "password": "se-cret"}

#: Seconds, so that what hangs is given up soon.
TIMEOUTS = {"connect_timeout": 2.0, "read_timeout": 2.0, "write_timeout": 2.0}


@pytest.fixture(
    scope="module",
    params=[pytest.param(one_of(*MARIADBS), marks=pytest.mark.needs_server(*MARIADBS))],
)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[SQLServer, SQLServer]]:
    """Two servers that only these tests hurt."""
    with started(request.param) as one, started(request.param) as other:
        yield one, other


@contextlib.contextmanager
def with_tables(server: SQLServer) -> Iterator[Database]:
    """A database with the tables, and a user without the right to write anyway."""
    with fresh_database(server, "failover") as database:
        database.sql("create or replace user app@'%' identified by 'se-cret'")
        database.sql("grant all on failover.* to app@'%'")
        with contextlib.closing(database.outbox()) as outbox:
            outbox.install_schema()
        yield database
        database.sql("set global read_only = 0")


class Primary:
    """A name, as a proxy has it: of one server first, and of another by a failover."""

    def __init__(self, old: Database, new: Database, proxy: Proxy) -> None:
        self.old, self.new, self._proxy = old, new, proxy

    @property
    def port(self) -> int:
        return self._proxy.port

    def outbox(self, **options: Any) -> MySQLOutbox:
        here = {"host": "127.0.0.1", "port": self._proxy.port, **LOGIN, **TIMEOUTS}
        return self.old.outbox(**here, **options)

    def fail_over(self) -> None:
        """The old one lives on and takes no writes; its sessions stay open."""
        self.old.sql("set global read_only = 1")
        self.move()

    def move(self) -> None:
        self._proxy.target = (self.new.server.host, self.new.server.port)


@pytest.fixture
def primary(pair: tuple[SQLServer, SQLServer]) -> Iterator[Primary]:
    one, other = pair
    with with_tables(one) as old, with_tables(other) as new:
        with Proxy(one.host, one.port) as proxy:
            yield Primary(old, new, proxy)


@pytest.fixture
def outbox(primary: Primary) -> Iterator[MySQLOutbox]:
    with contextlib.closing(primary.outbox()) as outbox:
        outbox.status(SHOP)
        yield outbox


def rows_of(database: Database) -> list[str]:
    with contextlib.closing(database.outbox()) as outbox:
        return keys_of(outbox.rows(SHOP))


# A server that takes no writes


def test_write_goes_to_where_the_name_leads_now(primary, outbox):
    primary.fail_over()

    outbox.enqueue(SHOP, batch_of("a"))

    assert rows_of(primary.old) == []
    assert rows_of(primary.new) == ["a"]


def test_claims_and_marks_go_to_where_the_name_leads_now(primary, outbox):
    outbox.enqueue(SHOP, batch_of("of the old one"))
    with contextlib.closing(primary.new.outbox()) as beside:
        beside.enqueue(SHOP, batch_of("of the new one"))
    primary.fail_over()

    rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

    assert keys_of(rows) == ["of the new one"]
    assert outbox.mark_published(rows) == 1


def test_block_that_a_failover_has_ended_is_run_again_on_the_new_one(primary, outbox):
    def write() -> None:
        with outbox.transaction() as connection:
            connection.cursor().execute("create temporary table seen (n int)")
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

    primary.fail_over()

    with pytest.raises(ReadOnlyServerError, match="1290.*primary"):
        write()
    write()

    assert rows_of(primary.new) == ["a"]


def test_error_of_the_callers_own_statement_leaves_the_server_too(primary, outbox):
    for database in (primary.old, primary.new):
        database.sql("create table app (id integer primary key)")
    primary.fail_over()

    with pytest.raises(pymysql.OperationalError, match="1290"):
        with outbox.transaction() as connection:
            connection.cursor().execute("insert into app values (1)")
    with outbox.transaction() as connection:
        connection.cursor().execute("insert into app values (1)")

    assert primary.new.sql("select id from app") == [(1,)]


def test_server_that_takes_no_writes_is_told_as_such(primary, outbox):
    primary.old.sql("set global read_only = 1")

    with pytest.raises(ReadOnlyServerError, match="1290.*primary"):
        outbox.enqueue(SHOP, batch_of("a"))

    primary.old.sql("set global read_only = 0")
    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1


def raising(*arguments: Any) -> Callable[[], None]:
    def say() -> None:
        raise pymysql.OperationalError(*arguments)

    return say


def session_of(outbox: MySQLOutbox) -> int:
    with outbox.transaction() as connection:
        return int(connection.thread_id())


@pytest.mark.parametrize("number", [1036, 1047, 1290, 1792, 1836, 1874, 3032, 3100])
def test_what_says_that_no_writes_are_taken_ends_the_session(
    outbox, monkeypatch, number
):
    before = session_of(outbox)
    at_statement(monkeypatch, "insert", raising(number, "not here"))

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1

    assert session_of(outbox) != before


def port_of(outbox: MySQLOutbox, held: threading.Barrier | None = None) -> int:
    """Of the server that this thread's next statement goes to.

    :param held: waited at while the connection is in use.
    """
    with outbox.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("select @@port")
        port = int(cursor.fetchone()[0])
        if held is not None:
            held.wait(PATIENCE)
        return port


def test_what_one_thread_has_met_is_known_to_those_of_a_pool(primary, outbox):
    """Each has a connection of its own, and only one of them asks."""
    ready, met = threading.Barrier(2), threading.Event()

    def carry(index: int) -> tuple[int, int]:
        keep_apart()
        before = port_of(outbox, ready)
        if index == 0:
            primary.fail_over()
            outbox.check_writable()
            met.set()
        met.wait(PATIENCE)
        return before, port_of(outbox)

    seen = in_threads(2, carry)

    assert seen == [(primary.old.server.port, primary.new.server.port)] * 2


# Idle pools

CHECKS_OFTEN = PoolTiming(check_writable_every=0.1)


@pytest.fixture
def applier() -> RecordingApplier:
    return RecordingApplier(SHOP)


@pytest.fixture
def timing() -> PoolTiming:
    return PoolTiming()


@pytest.fixture
def pool(
    outbox: MySQLOutbox, applier: RecordingApplier, timing: PoolTiming
) -> Iterator[WorkerPool]:
    worker = OutboxWorker(outbox, applier)
    with WorkerPool(worker, threads=2, timing=timing) as pool:
        eventually(lambda: pool.health().ok)
        yield pool


def write_on(database: Database, key: str) -> None:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.enqueue(SHOP, batch_of(key))


def is_carried_on(database: Database) -> None:
    with contextlib.closing(database.outbox()) as outbox:
        eventually(lambda: outbox.status(SHOP).pending == 0)


@pytest.mark.parametrize("timing", [CHECKS_OFTEN])
def test_idle_pool_goes_to_where_the_name_leads_now(primary, pool):
    primary.fail_over()
    write_on(primary.new, "a")

    is_carried_on(primary.new)

    eventually(lambda: pool.health().ok)
    assert pool.health().outages == ()


@pytest.mark.parametrize("timing", [CHECKS_OFTEN])
def test_idle_pool_at_a_server_that_takes_no_writes_is_not_well(primary, pool, caplog):
    caplog.set_level(logging.INFO, "hydracache_sync")
    primary.old.sql("set global read_only = 1")

    eventually(lambda: not pool.health().ok)
    [outage] = pool.health().outages
    assert outage.what == "database"
    assert "ReadOnlyServerError" in outage.error and "primary" in outage.error
    assert {thread.state for thread in pool.health().threads} == {ThreadState.WAITING}

    primary.old.sql("set global read_only = 0")
    eventually(lambda: pool.health().ok)
    eventually(lambda: any("serves again" in text for text in caplog.messages))
    began, ended = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "does not serve" in began.getMessage()
    assert "serves again" in ended.getMessage()


def test_pool_that_finds_nothing_asks_seldom(primary, pool, monkeypatch):
    """It looks fifty times a second; of the server it asks every few seconds."""
    statements = spy_on_statements(monkeypatch)
    write_on(primary.old, "a")
    is_carried_on(primary.old)
    time.sleep(1.0)

    asked = [text for text in statements if "@@global.read_only" in text]
    assert len(asked) <= 2


def test_name_that_moves_is_followed_in_the_end(primary, monkeypatch, applier):
    """Both servers live and take writes: nothing but a new connection can tell."""
    monkeypatch.setattr(pymysql_connection, "MAX_AGE", 0.4)
    with contextlib.closing(primary.outbox()) as outbox:
        with WorkerPool(OutboxWorker(outbox, applier)):
            write_on(primary.old, "old")
            is_carried_on(primary.old)
            primary.move()
            write_on(primary.new, "new")
            is_carried_on(primary.new)
            outbox.enqueue(SHOP, batch_of("told here"))
            eventually(lambda: "told here" in rows_of(primary.new))


def test_worker_process_goes_to_where_the_name_leads_now(primary, memcached, unique):
    login = f"{LOGIN['user']}:{LOGIN['password']}"
    worker = start(
        "worker",
        outbox=f"mysql://{login}@127.0.0.1:{primary.port}/failover?read_timeout=2",
        namespace=unique,
        memcached=memcached.address,
    )
    try:
        for database in (primary.old, primary.new):
            if database is primary.new:
                primary.fail_over()
            with contextlib.closing(database.outbox()) as outbox:
                outbox.enqueue(unique, batch_of("a"))
                eventually(lambda: outbox.status(unique).pending == 0)
    finally:
        worker.send_signal(signal.SIGTERM)
    assert ended(worker).code == ExitCode.DONE


# Conflicts

#: What group replication answers to a COMMIT that another member's has crossed.
CONFLICTS = [
    (3101, "Plugin instructed the server to rollback the current transaction."),
    (1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT"),
]


@pytest.mark.parametrize("conflict", CONFLICTS, ids=["3101", "1180"])
def test_conflict_at_a_commit_is_busy_and_the_block_may_be_run_again(
    outbox, monkeypatch, conflict
):
    def write() -> None:
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

    at_statement(monkeypatch, "commit", raising(*conflict))

    with pytest.raises(OutboxBusyError, match="run the transaction again"):
        write()
    write()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("conflict", CONFLICTS, ids=["3101", "1180"])
def test_claim_that_meets_a_conflict_at_its_commit_is_made_again(
    outbox, monkeypatch, conflict
):
    outbox.enqueue(SHOP, batch_of("a", "b"))
    at_statement(monkeypatch, "commit", raising(*conflict))

    rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

    assert keys_of(rows) == ["a", "b"]
    assert {row.attempts for row in rows} == {0}


def test_other_errors_at_a_commit_are_an_outage(outbox, monkeypatch):
    said = 1180, "Got error 107 'Not connected to Primary' during COMMIT"
    at_statement(monkeypatch, "commit", raising(*said))

    with pytest.raises(OutboxError, match="1180") as caught:
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert not isinstance(caught.value, OutboxBusyError)


# Connections that are killed while they are set up


@pytest.mark.parametrize("at", ["show variables", "set session", "set names utf8mb4,"])
def test_connection_that_is_killed_in_its_set_up_is_made_again(
    primary, monkeypatch, at
):
    def kill() -> None:
        for (id,) in primary.old.sql(
            "select id from information_schema.processlist where user = 'app'"
        ):
            primary.old.kill(id)

    with contextlib.closing(primary.outbox(busy_timeout=0)) as fresh:
        at_statement(monkeypatch, at, kill)

        assert fresh.enqueue(SHOP, batch_of("a")).inserted == 1


def test_server_that_ends_every_connection_is_an_outage_at_once(primary, monkeypatch):
    made: list[int] = []
    set_up = MySQLConnector.set_up

    def killed(connector: MySQLConnector) -> Any:
        made.append(1)
        at_statement(
            monkeypatch, "show variables", raising(2013, "Lost connection to server")
        )
        return set_up(connector)

    monkeypatch.setattr(MySQLConnector, "set_up", killed)
    with contextlib.closing(primary.outbox()) as fresh:
        with pytest.raises(OutboxError, match="2013"):
            fresh.status(SHOP)

    assert len(made) == 2


# What a COMMIT that nobody answered may be


def test_commit_that_nobody_answered_is_told_as_a_lost_connection(primary, outbox):
    with pytest.raises(ConnectionLostError) as caught:
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            primary.old.kill(connection.thread_id())

    assert isinstance(caught.value, OutboxError)
    assert "done or not" in str(ConnectionLostError.__doc__)


# Sessions that are made to read only, or to commit nothing


@pytest.mark.parametrize("kind", KINDS)
def test_server_that_makes_transactions_read_only_does_not_matter(kind):
    with started(kind) as server:
        is_mysql8 = not server.is_mariadb and server.version >= (8,)
        name = "transaction_read_only" if is_mysql8 else "tx_read_only"
        with fresh_database(server) as database:
            database.sql(f"set global init_connect = 'set {name} = 1'")
            database.sql(f"set global {name} = 1")
            database.close()
            with database.connect(autocommit=True) as root:
                root.cursor().execute(f"set session {name} = 0")
                root.cursor().execute("create user app@'%' identified by 'se-cret'")
                root.cursor().execute(f"grant all on `{database.name}`.* to app@'%'")
            with contextlib.closing(database.outbox(**LOGIN)) as outbox:
                outbox.install_schema()

                with outbox.transaction() as connection:
                    outbox.enqueue_in(connection, SHOP, batch_of("a"))
                outbox.enqueue(SHOP, batch_of("b"))

                rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
                assert outbox.mark_published(rows) == 2
            with database.connect(autocommit=True) as root:
                root.cursor().execute(f"set global {name} = 0")
            database.close()


def test_status_that_wrongly_tells_of_autocommit_is_looked_through(primary, outbox):
    """MySQL 9.7 with autocommit=0 tells so in every status; off it is all the same."""
    with primary.old.connect(autocommit=False) as connection:
        connection.server_status |= 2

        outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert rows_of(primary.old) == []
        connection.commit()
    assert rows_of(primary.old) == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_server_with_autocommit_off_needs_no_begin(kind):
    with started(kind, "--autocommit=0") as server, fresh_database(server) as database:
        with contextlib.closing(database.outbox()) as outbox:
            outbox.install_schema()
            with database.connect(autocommit=None) as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

                assert outbox.status(SHOP).pending == 0
                connection.commit()
            outbox.enqueue(SHOP, batch_of("b"))

            assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
