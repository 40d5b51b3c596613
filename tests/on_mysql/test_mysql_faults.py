"""MariaDB and MySQL that fail, are far away, or are set up in odd ways."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import threading
import time
from typing import Any, Callable, Iterator

import pymysql
import pytest
from mysql_databases import (
    KINDS,
    PATIENCE,
    Database,
    at_statement,
    fresh_database,
    interrupt_after,
    lose_answer_to,
    started,
)
from mysql_grants import grant

from hydracache_sync.cli.exit_codes import ExitCode
from hydracache_sync.cli.findings import Level
from hydracache_sync.cli.outbox_checks import examine_outbox
from hydracache_sync.errors import (
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.outbox import MySQLOutbox, OutboxState
from hydracache_sync.outbox.mysql.outbox import ClaimTurns
from hydracache_sync.outbox.mysql.sessions import LOCK_WAIT_TIMEOUT
from outbox_contract.common import SHOP, batch_of, keys_of, numbered
from support.processes import Child, in_processes, in_threads
from support.servers import SQLServer, free_port


@pytest.fixture(scope="module", params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    """A server that tests may kill, pause and change the global settings of."""
    with started(request.param) as server:
        yield server


@pytest.fixture
def own(own_server: SQLServer) -> Iterator[Database]:
    """A database on it."""
    own_server.start()
    with fresh_database(own_server) as database:
        yield database


@pytest.fixture
def outbox(own: Database) -> Iterator[MySQLOutbox]:
    """An outbox with its tables, beside a table of the app; by the server's clock."""
    own.sql("create table app (id integer primary key, note varchar(20))")
    outbox = own.outbox()
    outbox.install_schema()
    yield outbox
    outbox.close()


def notes(database: Database) -> list[str]:
    return [note for (note,) in database.sql("select note from app order by id")]


def write(connection: Any, note: str = "data") -> None:
    connection.cursor().execute(f"insert into app values (1, '{note}')")


def claim(outbox: MySQLOutbox, limit: int = 100, claim_ttl: float = 30) -> Any:
    return outbox.claim(SHOP, "w", limit=limit, claim_ttl=claim_ttl)


def seconds_of(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def own_connection_id(outbox: MySQLOutbox) -> int:
    with outbox.transaction() as connection:
        return int(connection.thread_id())


def live_a_whole_life(outbox: MySQLOutbox, database: Database) -> None:
    """Everything that producers, workers, waiters and operators do, once."""
    again = outbox.enqueue(SHOP, batch_of("x"), commit_position="tx:7")
    again = outbox.enqueue(SHOP, batch_of("x"), commit_position="tx:7")
    time.sleep(0.002)  # it is the first in each order
    receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c", "d", reason="why"))
    assert (receipt.inserted, again.inserted) == (4, 0)
    with outbox.transaction() as connection:
        write(connection, "block")
        outbox.enqueue_in(connection, SHOP, batch_of("in a block"))
    with database.connect(autocommit=False) as connection:
        connection.cursor().execute("insert into app values (2, 'callers')")
        outbox.enqueue_in(connection, SHOP, batch_of("callers"))
        connection.commit()
        connection.cursor().execute("insert into app values (3, 'undone')")
        outbox.enqueue_in(connection, SHOP, batch_of("undone"))
        connection.rollback()

    x, *rows = claim(outbox, limit=6)
    assert keys_of([x, *rows]) == ["x", "a", "b", "c", "d", "in a block"]
    assert claim(outbox, limit=1) == outbox.rows(SHOP)[6:]
    assert outbox.mark_published(rows[:2]) == 2
    # In gbk the backslash before the second quote is half a character.
    error = "KeyError('\u4f60')"
    assert outbox.mark_failed(rows[2:3], error, backoff=0, dead=True) == 1
    assert outbox.mark_failed(rows[3:4], error, backoff=3600, dead=False) == 1
    assert outbox.row(rows[2].id).last_error == error
    assert outbox.release([x]) == 1
    assert outbox.publish_commit(again, seen=[x]) == 1
    status = outbox.status(SHOP)
    assert (status.pending, status.dead_lettered, status.failed_attempts) == (3, 1, 2)
    assert outbox.status_for_commit(SHOP, receipt.commit_position)[:3] == (1, 2, 1)
    assert outbox.reset_dead_letters(SHOP) == 1
    assert outbox.escalate(SHOP) is True
    time.sleep(0.005)
    assert outbox.purge_published(SHOP, older_than=0.001) == 3
    assert len(outbox.rows(SHOP)) == 5
    assert notes(database) == ["block", "callers"]
    # All of it is committed, and nothing is left open.
    outbox.close()
    assert len(outbox.rows(SHOP)) == 5
    assert claim(outbox, limit=1)


# Settings of the server


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("--log-bin=binlog", "--server-id=1", "--binlog-format=STATEMENT"),
        (
            "--autocommit=0",
            "--sql-mode=ANSI_QUOTES",
            "--character-set-server=utf16",
            "--transaction-isolation=SERIALIZABLE",
            "--default-storage-engine=MyISAM",
            "--default-time-zone=-11:30",
            "--auto-increment-increment=7",
            "--completion-type=CHAIN",
        ),
        (
            "--sql-mode=TRADITIONAL,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT",
            "--character-set-server=latin1",
            "--collation-server=latin1_german1_ci",
            "--transaction-isolation=READ-UNCOMMITTED",
            "--lower-case-table-names=1",
            "--innodb-autoinc-lock-mode=0",
            "--innodb-rollback-on-timeout=1",
            "--skip-innodb-stats-persistent",
        ),
        (
            "--sql-mode=STRICT_ALL_TABLES,ONLY_FULL_GROUP_BY,NO_ZERO_DATE",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_unicode_ci",
            "--transaction-isolation=READ-COMMITTED",
            "--log-bin=binlog",
            "--server-id=1",
            "--binlog-format=ROW",
            "--max-allowed-packet=64K",
        ),
        (
            "--sql-mode=",
            "--character-set-server=gbk",
            "--loose-skip-character-set-client-handshake",
            "--transaction-isolation=REPEATABLE-READ",
            "--init-connect=set sql_mode = 'ANSI', autocommit = 0",
        ),
    ],
    ids=[
        "statements in the binary log",
        "odd",
        "odd in another way",
        "strict",
        "lax, and odd to users without SUPER",
    ],
)
def test_settings_of_the_server_do_not_matter(kind, arguments):
    with started(kind, *arguments) as server, fresh_database(server) as database:
        database.sql(
            "create table app (id integer primary key, note varchar(20)) engine=innodb"
        )
        with contextlib.closing(database.outbox()) as outbox:
            outbox.install_schema()

            live_a_whole_life(outbox, database)
            in_threads(4, lambda index: drain_by_name(outbox, f"other:{index % 2}"))


@pytest.mark.parametrize(
    "argument", ["max-join-size=1", "sql-safe-updates=1", "sql-select-limit=1"]
)
def test_settings_that_refuse_statements_do_not_matter(outbox, own, argument):
    variable, value = argument.replace("-", "_").split("=")
    [(default,)] = own.sql(f"select @@global.{variable}")
    own.sql(f"set global {variable} = {value}")
    try:
        with contextlib.closing(own.outbox()) as limited:
            assert limited.missing_rights() == {}
            drain_by_name(limited, SHOP)
            assert limited.purge_published(SHOP, older_than=0)
            assert limited.status(SHOP).pending == 0
    finally:
        own.sql(f"set global {variable} = {default}")


def test_limit_that_the_server_sets_for_answers_cuts_none(outbox, own):
    for n in range(40):
        outbox.pause(f"n{n}")
    own.sql("set global sql_select_limit = 30")
    try:
        with contextlib.closing(own.outbox()) as limited:
            assert len(limited.paused()) == 40
    finally:
        own.sql(f"set global sql_select_limit = {2**64 - 1}")


def drain_by_name(outbox: MySQLOutbox, namespace: str) -> None:
    for n in range(5):
        outbox.enqueue(namespace, batch_of(f"{n}:1", f"{n}:2"))
        rows = outbox.claim(namespace, "w", limit=3, claim_ttl=30)
        assert outbox.mark_published(rows) == len(rows)


def test_unix_socket_will_do(own):
    outbox = MySQLOutbox(
        database=own.name, user="root", unix_socket=own.server.unix_socket
    )

    outbox.install_schema()

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
    assert own.server.unix_socket in repr(outbox)
    outbox.close()


# Locks


def test_rows_that_others_have_locked_are_skipped_or_waited_for(outbox, own):
    outbox.enqueue(SHOP, batch_of("locked", "free"))
    with own.connect() as other:
        other.begin()
        other.cursor().execute(
            "select id from hydracache_outbox order by id limit 1 for update"
        )
        unlock = threading.Timer(0.3, other.commit)
        unlock.start()

        rows = claim(outbox)
        if own.server.skips_locked_rows:
            assert keys_of(rows) == ["free"]
            unlock.join()
            rows = [*claim(outbox), *rows]

        unlock.join()

    assert keys_of(rows) == ["locked", "free"]


def test_lock_that_is_held_for_too_long_is_busy_and_changes_nothing(own, outbox):
    outbox.enqueue(SHOP, batch_of("a"))
    rows = claim(outbox)
    before = outbox.rows(SHOP)
    impatient = own.outbox(busy_timeout=0)
    with own.connect() as other:
        other.begin()
        other.cursor().execute("select id from hydracache_outbox for update")

        for call in (
            lambda: impatient.mark_published(rows),
            lambda: impatient.mark_failed(rows, "e", backoff=0, dead=True),
        ):
            with pytest.raises(OutboxBusyError, match="1205"):
                call()
        other.rollback()

    assert outbox.rows(SHOP) == before
    assert impatient.mark_published(rows) == 1
    impatient.close()


def test_own_transaction_is_run_again_after_a_lock_wait_timeout(own, outbox):
    outbox.enqueue(SHOP, batch_of("a"))
    rows = claim(outbox)
    with own.connect() as other:
        other.begin()
        other.cursor().execute("select id from hydracache_outbox for update")
        # Longer than one statement of ours waits.
        release = threading.Timer(LOCK_WAIT_TIMEOUT * 1.5, other.rollback)
        release.start()

        assert outbox.mark_published(rows) == 1

        release.join()


def test_table_that_is_being_altered_keeps_no_connection_waiting(own, outbox):
    """Each try that is given up on this side alone would wait on in the server."""
    outbox.enqueue(SHOP, batch_of("a"))
    impatient = own.outbox(busy_timeout=0, read_timeout=3)
    impatient.status(SHOP)
    with own.connect() as reader, own.connect() as dba:
        reader.begin()
        reader.cursor().execute("select * from hydracache_outbox")
        alter = threading.Thread(
            target=lambda: dba.cursor().execute(
                "alter table hydracache_outbox add column more int null"
            )
        )
        alter.start()
        while not waiting_for_a_table(own):
            time.sleep(0.01)

        with pytest.raises(OutboxBusyError, match="1205"):
            claim(impatient)

        waiting = waiting_for_a_table(own)
        reader.rollback()
        alter.join(PATIENCE)

    assert waiting == [dba.thread_id()]
    assert keys_of(claim(impatient)) == ["a"]
    impatient.close()


def waiting_for_a_table(database: Database) -> list[int]:
    return [
        id
        for (id,) in database.sql(
            "select id from information_schema.processlist"
            " where state like 'Waiting for table metadata%'"
        )
    ]


def test_commit_that_was_refused_is_told_and_not_made_again(own, outbox):
    """The server has rolled back; a second COMMIT would succeed, with nothing in it."""
    outbox = own.outbox(read_timeout=3)
    with own.connect() as backup:
        with pytest.raises(OutboxBusyError, match="1205"):
            with outbox.transaction() as connection:
                write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                backup.cursor().execute("flush tables with read lock")
        backup.cursor().execute("unlock tables")

    assert outbox.rows(SHOP) == []
    assert notes(own) == []
    outbox.close()


def test_claims_go_on_behind_one_that_is_stuck_in_its_turn(own, outbox):
    """Where claims take turns, a process that was stopped in its turn holds up none."""
    outbox.enqueue(SHOP, batch_of(*numbered(120)))
    name = f"hydracache_sync {own.name}.hydracache_outbox"[-64:]
    with own.connect() as stuck:
        stuck.cursor().execute("select get_lock(%s, 0)", (name,))

        taken = in_threads(4, lambda _: [row.id for row in claim(outbox, limit=30)])

    ids = [id for each in taken for id in each]
    assert len(ids) == len(set(ids))
    assert ids
    rest = [row.id for row in claim(outbox)]
    assert sorted(ids + rest) == [row.id for row in outbox.rows(SHOP, limit=200)]


def test_workers_that_deadlock_finish_every_row_once(own, outbox, monkeypatch):
    """Without their turns claims deadlock on MySQL 5.6; that costs time, not rows."""
    monkeypatch.setattr(
        ClaimTurns, "around", lambda turns, cursor: contextlib.nullcontext()
    )
    outbox.enqueue(SHOP, batch_of(*numbered(150)))

    def work(_: int) -> int:
        published = 0
        while rows := claim(outbox, limit=10):
            published += outbox.mark_published(rows)
        return published

    published = in_processes(3, lambda index: sum(in_threads(2, work)))

    assert sum(published) + work(0) == 150
    assert {row.attempts for row in outbox.rows(SHOP, limit=200)} == {0}


def test_interrupt_in_a_claim_is_not_taken_for_a_lost_connection(
    own, outbox, monkeypatch
):
    outbox.enqueue(SHOP, batch_of("a"))

    def interrupt() -> None:
        for connection in connections:
            connection._force_close()  # as PyMySQL does when it is interrupted
        raise KeyboardInterrupt

    connections = []
    with outbox.transaction() as connection:
        connections.append(connection)
    at_statement(monkeypatch, "update", interrupt)

    with pytest.raises(KeyboardInterrupt):
        claim(outbox)

    assert keys_of(claim(outbox)) == ["a"]


class TimeIsUp(Exception):
    """What a job's alarm raises."""


@pytest.mark.parametrize(
    "beginning", ["insert", "select", "start", "update", "commit", "select 'block'"]
)
def test_statement_that_was_cut_short_leaves_no_answer_to_the_next(
    outbox, monkeypatch, beginning
):
    outbox.enqueue(SHOP, batch_of("a"))
    interrupt_after(monkeypatch, beginning, TimeIsUp())

    with pytest.raises(TimeIsUp):
        with outbox.transaction() as connection:
            connection.cursor().execute("select 'block'")
        outbox.enqueue(SHOP, batch_of("b"))
        claim(outbox, claim_ttl=0.001)

    monkeypatch.undo()
    for name in "xyz":
        receipt = outbox.enqueue(name, batch_of(name))
        assert receipt.inserted == 1
        assert outbox.status_for_commit(name, receipt.commit_position).pending == 1
        assert keys_of(outbox.claim(name, "w", limit=9, claim_ttl=30)) == [name]


def test_producers_in_repeatable_read_are_never_harmed(own, outbox):
    """Their errors, beside workers and a purge; how much they are slowed is measured
    elsewhere."""
    stop = threading.Event()
    produced = [0, 0, 0]

    def produce(index: int) -> None:
        with own.connect() as connection:
            while not stop.is_set():
                connection.begin()
                n = produced[index]
                connection.cursor().execute(
                    f"insert into app values ({index * 10**6 + n}, 'x')"
                )
                position = None if n % 2 else f"tx:{index}:{n}"
                outbox.enqueue_in(
                    connection, SHOP, batch_of("a", "b", "c"), commit_position=position
                )
                connection.commit()
                produced[index] += 1

    def work(_: int) -> None:
        while not stop.is_set():
            rows = claim(outbox, limit=20)
            outbox.mark_failed(rows[:1], "e", backoff=0, dead=False)
            outbox.release(rows[1:2])
            outbox.mark_published(rows[2:])

    def purge(_: int) -> None:
        while not stop.wait(0.02):
            outbox.purge_published(SHOP, older_than=0.05, limit=700)

    end = threading.Timer(1.5, stop.set)
    end.start()
    parts = [produce] * 3 + [work] * 2 + [purge]
    try:
        in_threads(6, lambda index: parts[index](index))
    finally:
        stop.set()

    assert min(produced) > 20
    assert len(notes(own)) == sum(produced)


# Connections


def test_killed_connection_is_replaced_and_the_call_done_once(own, outbox):
    receipts = []
    for call in (
        lambda: receipts.append(outbox.enqueue(SHOP, batch_of("a"))),
        lambda: receipts.append(outbox.enqueue(SHOP, batch_of(*numbered(3000)))),
        lambda: outbox.status(SHOP),
        lambda: claim(outbox, limit=1),
        lambda: outbox.publish_commit(receipts[0]),
        lambda: outbox.transaction().__enter__(),
    ):
        own.kill(own_connection_id(outbox))
        call()
    outbox.close()

    again = own.outbox()
    assert again.status(SHOP).pending == 3000
    assert [receipt.inserted for receipt in receipts] == [1, 3000]
    again.close()


def test_idle_connection_that_the_server_closed_is_replaced(own, outbox):
    [(usual,)] = own.sql("select @@global.wait_timeout")
    own.sql("set global wait_timeout = 1")
    try:
        idle = own.outbox()
        idle.enqueue(SHOP, batch_of("a"))
        id = own_connection_id(idle)
        while own.has_connection(id):
            time.sleep(0.05)

        [row] = claim(idle)
    finally:
        own.sql(f"set global wait_timeout = {usual}")

    assert idle.mark_published([row]) == 1
    idle.close()


@pytest.mark.parametrize("number", [3169, 4031])
def test_connection_that_mysql_8_has_ended_is_replaced(outbox, monkeypatch, number):
    """It says so, killed or idle for too long, where others only close it."""

    def say() -> None:
        raise pymysql.OperationalError(number, "disconnected by the server")

    at_statement(monkeypatch, "insert", say)

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize(
    "garbage", [struct.error("unpack"), IndexError("out of range"), AssertionError()]
)
def test_connection_on_which_garbage_came_is_replaced(outbox, monkeypatch, garbage):
    """PyMySQL takes packets apart without a look whether they are what they should."""

    def say() -> None:
        raise garbage

    at_statement(monkeypatch, "insert", say)

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_connection_killed_in_a_block_leaves_nothing(own, outbox):
    with pytest.raises(OutboxError):
        with outbox.transaction() as connection:
            write(connection)
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            own.kill(connection.thread_id())
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

    assert outbox.rows(SHOP) == []
    assert notes(own) == []


def test_commit_of_a_block_that_was_never_sent_leaves_nothing(own, outbox):
    with pytest.raises(OutboxError):
        with outbox.transaction() as connection:
            write(connection)
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            own.kill(connection.thread_id())

    assert outbox.rows(SHOP) == []
    assert notes(own) == []


@pytest.mark.parametrize("rows", [2, 3000])
def test_enqueue_whose_answer_was_lost_is_there_once(outbox, monkeypatch, rows):
    outbox.status(SHOP)
    lose_answer_to(monkeypatch, "insert" if rows == 2 else "commit")

    receipt = outbox.enqueue(SHOP, batch_of(*numbered(rows)))

    assert receipt.inserted == 0  # none by the call that was answered
    assert keys_of(outbox.rows(SHOP, limit=5000)) == numbered(rows)


@pytest.mark.parametrize("beginning, attempts", [("update", 0), ("commit", 0)])
def test_claim_whose_answer_was_lost_holds_rows_no_longer_than_it_said(
    outbox, monkeypatch, beginning, attempts
):
    """Also where it was committed, and nobody has tried them."""
    outbox.enqueue(SHOP, batch_of("a", "b"))
    lose_answer_to(monkeypatch, beginning)

    rows = claim(outbox, claim_ttl=0.3)
    while not rows:
        time.sleep(0.02)
        rows = claim(outbox, claim_ttl=30)

    assert keys_of(rows) == ["a", "b"]
    assert outbox.mark_published(rows) == 2
    assert {row.attempts for row in outbox.rows(SHOP)} == {attempts}


def test_mark_whose_answer_was_lost_has_been_done(outbox, monkeypatch):
    outbox.enqueue(SHOP, batch_of("a", "b"))
    rows = claim(outbox)
    lose_answer_to(monkeypatch, "update")

    assert outbox.mark_published(rows) == 0

    assert outbox.status(SHOP).pending == 0


def test_fork_never_shares_a_connection(outbox):
    mine = own_connection_id(outbox)

    theirs = in_processes(3, lambda _: own_connection_id(outbox))

    assert len({mine, *theirs}) == 4
    assert own_connection_id(outbox) == mine


# A server that dies, or does not answer


@pytest.mark.parametrize("at", ["select id", "update", "commit"])
def test_claim_in_which_the_server_dies_has_lost_nothing(own, outbox, monkeypatch, at):
    outbox.enqueue(SHOP, batch_of("a", "b"))
    at_statement(monkeypatch, at, own.server.kill)

    with pytest.raises(OutboxError):
        claim(outbox, claim_ttl=0.5)
    own.close()
    own.server.start()

    rows = claim(outbox)
    assert keys_of(rows) == ["a", "b"]
    assert {row.attempts for row in rows} == {0}
    assert outbox.mark_published(rows) == 2


@pytest.mark.parametrize(
    "mark",
    [
        lambda outbox, rows: outbox.mark_published(rows),
        lambda outbox, rows: outbox.mark_failed(rows, "e", backoff=0, dead=True),
        lambda outbox, rows: outbox.release(rows),
    ],
    ids=["published", "dead", "released"],
)
def test_mark_in_which_the_server_dies_can_be_made_again(
    own, outbox, monkeypatch, mark
):
    outbox.enqueue(SHOP, batch_of("a", "b"))
    rows = claim(outbox)
    before = outbox.rows(SHOP)
    at_statement(monkeypatch, "update", own.server.kill)

    with pytest.raises(OutboxError):
        mark(outbox, rows)
    own.close()
    own.server.start()

    assert outbox.rows(SHOP) == before
    assert mark(outbox, rows) == 2


@pytest.mark.parametrize("at", ["update", "commit"])
def test_server_that_is_back_at_once_is_not_even_noticed(own, outbox, monkeypatch, at):
    outbox.enqueue(SHOP, batch_of("a"))

    def restart() -> None:
        own.close()
        own.server.restart()

    at_statement(monkeypatch, at, restart)

    rows = claim(outbox)

    assert keys_of(rows) == ["a"]
    assert outbox.mark_published(rows) == 1


def test_rows_committed_right_before_a_crash_are_there_after_it(own, outbox):
    with own.connect() as connection:
        write(connection)
        outbox.enqueue_in(connection, SHOP, batch_of("committed"))
        connection.commit()
        connection.cursor().execute("insert into app values (2, 'lost')")
        outbox.enqueue_in(connection, SHOP, batch_of("not committed"))
        own.close()
        own.server.restart()
        connection._force_close()

    assert keys_of(claim(outbox)) == ["committed"]
    assert notes(own) == ["data"]


def test_server_that_is_away_is_told_at_once(outbox, own):
    own.close()
    own.server.kill()

    with pytest.raises(OutboxError, match="2003") as caught:
        outbox.enqueue(SHOP, batch_of("a"))
    with pytest.raises(OutboxError):
        outbox.transaction().__enter__()
    spent = seconds_of(lambda: pytest.raises(OutboxError, outbox.status, SHOP))

    assert not isinstance(caught.value, OutboxBusyError)
    assert spent < 2
    own.server.start()
    assert outbox.status(SHOP).pending == 0


def test_server_that_does_not_answer_is_given_up_in_time(outbox, own):
    patient = own.outbox(read_timeout=0.3, connect_timeout=0.3)
    patient.enqueue(SHOP, batch_of("a"))
    [row] = claim(patient)
    own.server.pause()
    try:
        spent = [
            seconds_of(lambda: pytest.raises(OutboxError, call))
            for call in (
                lambda: patient.mark_published([row]),
                lambda: patient.enqueue(SHOP, batch_of("b")),
                lambda: claim(patient),
            )
        ]
    finally:
        own.server.resume()

    assert max(spent) < 4
    # What was sent may be done when the server goes on.
    assert patient.mark_published([row]) + len(
        outbox.rows(SHOP, state=OutboxState.PUBLISHED)
    ) in (1, 2)
    assert outbox.row(row.id).attempts == 0
    patient.close()


def test_nobody_at_the_address_is_told(own):
    outbox = own.outbox(port=free_port())

    with pytest.raises(OutboxError, match="2003"):
        outbox.install_schema()


# Rights


@pytest.fixture
def user(own: Database) -> Iterator[str]:
    """A user without any right yet."""
    name = own.name
    own.sql(f"create user '{name}'@'%' identified by 'se-cret'")
    yield name
    own.sql(f"drop user '{name}'@'%'")


def test_wrong_password_is_told_and_never_shown(own, user):
    own.sql(f"grant all on `{own.name}`.* to '{user}'@'%'")
    outbox = own.outbox(user=user, password="not-the-se-cret")

    with pytest.raises(OutboxError, match="1045.*password right.*grants") as caught:
        outbox.enqueue(SHOP, batch_of("a"))

    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {outbox!r}"
    assert "se-cret" not in shown
    assert user in shown


def test_missing_database_is_told(own):
    with pytest.raises(OutboxError, match="nowhere.*does not exist"):
        own.outbox(database="nowhere").check_schema()


def test_user_without_rights_is_told_which_are_missing(own, outbox, user):
    outbox.enqueue(SHOP, batch_of("a"))
    powerless = own.outbox(user=user, password="se-cret")

    with pytest.raises(OutboxError, match="1044.*grants"):
        powerless.enqueue(SHOP, batch_of("b"))
    own.sql(f"grant select on `{own.name}`.* to '{user}'@'%'")
    for call in (
        lambda: powerless.enqueue(SHOP, batch_of("b")),
        lambda: claim(powerless),
        lambda: powerless.escalate(SHOP),
    ):
        with pytest.raises(OutboxError, match="1142.*grants"):
            call()
    assert powerless.status(SHOP).pending == 1

    powerless.close()
    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("operator", set()),
        (
            "producer",
            {
                "delete ",
                *(f"{verb} _paused" for verb in ("insert", "update", "delete")),
                *(f"{verb} _workers" for verb in ("insert", "update", "delete")),
            },
        ),
    ],
)
def test_rights_that_a_login_lacks_are_found(own, outbox, user, role, missing):
    grant(own, user, role)
    asking = own.outbox(user=user, password="se-cret")

    found = asking.missing_rights()

    assert {f"{right.verb} {right.suffix}" for right in found} == missing
    assert all("1142" in text and "grants" in text for text in found.values())
    asking.close()


def test_a_server_that_is_read_only_is_not_taken_for_missing_rights(own, outbox, user):
    grant(own, user, "operator")
    outbox.enqueue(SHOP, batch_of("a"))
    asking = own.outbox(user=user, password="se-cret")
    own.sql("set global read_only = 1")
    try:
        with pytest.raises(ReadOnlyServerError, match="read-only.*primary"):
            asking.missing_rights()
        findings = list(examine_outbox(asking, [], "operator"))
    finally:
        own.sql("set global read_only = 0")

    assert not [each for each in findings if "grant" in (each.mend or "")]
    [problem] = [each for each in findings if each.level is Level.PROBLEM]
    assert (problem.check, problem.code) == ("outbox", ExitCode.OUTBOX_AWAY)
    assert "read-only" in problem.text
    # What can be read is looked at all the same.
    assert f"namespace {SHOP}" in {each.check for each in findings}
    asking.close()


@pytest.mark.parametrize("kind", KINDS)
def test_replica_is_told_to_be_one(kind):
    """Read-only from its start on; what only reads works."""
    with started(kind) as server, fresh_database(server) as database:
        database.sql("create user app@'%' identified by 'se-cret'")
        database.sql(f"grant all on `{database.name}`.* to app@'%'")
        with contextlib.closing(database.outbox()) as primary:
            primary.install_schema()
            primary.enqueue(SHOP, batch_of("a", "b"))
            [held] = claim(primary, limit=1)
            before = primary.rows(SHOP)
        database.close()
        server._arguments.append("--read-only")
        server.restart()
        login = {"user": "app", "password": "se-cret"}
        outbox = database.outbox(**login)

        with database.connect(**login) as connection:
            for call in (
                lambda: outbox.enqueue(SHOP, batch_of("c")),
                lambda: outbox.enqueue_in(connection, SHOP, batch_of("c")),
                lambda: claim(outbox),
                lambda: outbox.mark_published([held]),
                lambda: outbox.pause(SHOP),
                lambda: database.outbox(table="other", **login).install_schema(),
            ):
                with pytest.raises(OutboxError, match="read-only.*primary"):
                    call()

        assert outbox.rows(SHOP) == before
        assert outbox.status(SHOP).pending == 2
        assert outbox.due_namespaces([SHOP]) == [SHOP]
        outbox.close()


def test_server_that_became_read_only_is_told(own, outbox, user):
    grant(own, user, "worker")
    worker = own.outbox(user=user, password="se-cret")
    receipt = worker.enqueue(SHOP, batch_of("a", "b"))
    rows = claim(worker, limit=1)
    before = outbox.rows(SHOP)
    own.sql("set global read_only = 1")
    try:
        for call in (
            lambda: worker.enqueue(SHOP, batch_of("c")),
            lambda: claim(worker),
            lambda: worker.mark_published(rows),
            lambda: worker.publish_commit(receipt),
        ):
            with pytest.raises(OutboxError, match="read-only.*primary"):
                call()
        assert worker.status(SHOP).pending == 2
    finally:
        own.sql("set global read_only = 0")

    assert outbox.rows(SHOP) == before
    assert worker.mark_published(rows) == 1
    worker.close()


# The tables


def test_table_that_was_dropped_is_told_and_can_be_installed_again(own, outbox):
    own.sql("drop table hydracache_outbox")
    fresh = own.outbox()

    for call in (
        lambda: outbox.enqueue(SHOP, batch_of("a")),
        lambda: claim(outbox),
        lambda: fresh.check_schema(),
        lambda: fresh.enqueue(SHOP, batch_of("a")),
    ):
        with pytest.raises(SchemaError, match="schema install"):
            call()
    fresh.install_schema()

    assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1
    fresh.close()


def test_table_of_pauses_that_was_dropped_is_told_and_can_be_installed(own, outbox):
    own.sql("drop table hydracache_outbox_paused")
    fresh = own.outbox()

    for call in (
        lambda: claim(outbox),
        lambda: outbox.paused(),
        lambda: fresh.check_schema(),
    ):
        with pytest.raises(SchemaError, match="paused.*schema install"):
            call()
    fresh.install_schema()

    fresh.pause(SHOP)
    assert list(outbox.paused()) == [SHOP]
    fresh.close()


def test_table_of_pauses_that_ignores_case_is_refused(own, outbox):
    own.sql(
        "alter table hydracache_outbox_paused modify namespace varchar(64) not null"
    )

    with pytest.raises(SchemaError, match="outbox_paused has namespace as varchar"):
        own.outbox().check_schema()


def test_column_that_became_too_short_is_an_error_and_cuts_nothing(own, outbox):
    """Also where the server cuts by default, as MySQL 5.6 does."""
    outbox.status(SHOP)
    own.sql("alter table hydracache_outbox modify value varbinary(5) null")

    with pytest.raises(OutboxError, match="1406"):
        outbox.enqueue(SHOP, batch_of("short", "longer"))

    assert outbox.rows(SHOP) == []


def test_install_makes_nothing_beside_another_version(own, outbox):
    own.sql("drop table hydracache_outbox")
    own.sql("update hydracache_outbox_schema set version = 99")

    with pytest.raises(SchemaError, match="99"):
        own.outbox().install_schema()

    assert own.sql("show tables like 'hydracache_outbox'") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("engine = MyISAM", "engine MyISAM"),
        ("modify namespace varchar(64) not null", "namespace as varchar"),
        (
            "modify commit_position varchar(128) character set utf8 collate utf8_bin"
            " not null",
            "commit_position as varchar",
        ),
        ("modify target_hash char(32) not null", "target_hash as char"),
        ("drop key hydracache_outbox_commit", "no unique index"),
        (
            "drop key hydracache_outbox_commit,"
            " add key same (namespace, commit_position, target_hash)",
            "no unique index",
        ),
        (
            "drop key hydracache_outbox_commit,"
            " add unique key same (namespace, commit_position)",
            "no unique index",
        ),
        (
            "drop key hydracache_outbox_commit,"
            " add unique key same (namespace, commit_position, target_hash(8))",
            "no unique index",
        ),
        ("drop key hydracache_outbox_state", "no index"),
        ("drop column claim_token", "lacks the columns claim_token"),
        (
            "drop column waits_for, drop column abandoned, drop column tried_alone",
            "lacks the columns waits_for, abandoned, tried_alone",
        ),
        ("drop column history", "lacks the columns history"),
        ("modify history varbinary(255) null", "history as varbinary of 255"),
        ("modify value varbinary(255) null", "value as varbinary of 255"),
        ("modify last_error text null", "last_error as text"),
        ("modify claim_token int null", "claim_token as int"),
    ],
    ids=lambda value: value if value.startswith(("engine", "modify")) else "",
)
def test_altered_table_is_refused_with_what_is_wrong(own, outbox, change, said):
    own.sql(f"alter table hydracache_outbox {change}")
    fresh = own.outbox()

    for call in (
        lambda: fresh.check_schema(),
        lambda: fresh.enqueue(SHOP, batch_of("a")),
        lambda: claim(fresh),
        lambda: fresh.install_schema(),
    ):
        with pytest.raises(SchemaError, match=f"{said}.*schema show"):
            call()

    fresh.close()


@pytest.mark.parametrize(
    "change",
    [
        "add column noted_by_the_dba varchar(10) null",
        "add key of_the_dba (created_at_ms)",
        "modify value varbinary(8000) null",
        "modify last_error longblob null",
        "modify attempts bigint not null default 0",
        "row_format = compressed",
        "default character set latin1",
    ],
)
def test_table_that_a_dba_has_only_extended_is_fine(own, outbox, change):
    own.sql(f"alter table hydracache_outbox {change}")
    fresh = own.outbox()

    fresh.check_schema()
    live_a_whole_life(fresh, own)

    fresh.close()


@pytest.mark.parametrize("mode", ["", "ANSI,TRADITIONAL"])
def test_ddl_shown_to_a_dba_is_what_install_does(own, mode):
    outbox = own.outbox()
    client = shutil.which("mariadb") or shutil.which("mysql")
    assert client, "no mysql client: apt-get install mariadb-client"
    command = [client, "--no-defaults", f"--socket={own.server.unix_socket}"]
    command += ["--user=root", f"--init-command=set sql_mode='{mode}'", own.name]

    for _ in range(2):
        subprocess.run(command, input=outbox.schema(), text=True, check=True)
    by_hand = tables_of(own)

    outbox.check_schema()
    for table in TABLES:
        own.sql(f"drop table {table}")
    outbox.install_schema()
    assert by_hand == tables_of(own)
    outbox.close()


TABLES = (
    "hydracache_outbox",
    "hydracache_outbox_heartbeat",
    "hydracache_outbox_paused",
    "hydracache_outbox_schema",
    "hydracache_outbox_workers",
)


def tables_of(database: Database) -> list[Any]:
    return [database.sql(f"show create table {table}")[0][1] for table in TABLES]


def test_table_may_have_another_name(own):
    outbox = own.outbox(table="Other_Outbox")

    outbox.install_schema()
    outbox.enqueue(SHOP, batch_of("a"))

    assert keys_of(claim(outbox)) == ["a"]
    assert own.sql("select count(*) from Other_Outbox") == [(1,)]
    outbox.close()


def test_database_may_have_an_odd_name(own_server):
    with fresh_database(own_server, "caf\xe9:state - 'x\" \\ .select") as database:
        outbox = database.outbox()
        outbox.install_schema()
        database.sql("create table app (id integer primary key, note varchar(20))")

        live_a_whole_life(outbox, database)

        outbox.close()


# Clocks


def test_hosts_with_wrong_clocks_share_claims_rightly(outbox, monkeypatch):
    """One clock judges: the database's."""
    real = time.time

    def on_host(error: float, call: Callable[[], Any]) -> Any:
        def run() -> Any:
            time.time = lambda: real() + error
            return call()

        return Child(run).result()

    on_host(+7200, lambda: outbox.enqueue(SHOP, batch_of("from the future")).inserted)
    on_host(-7200, lambda: outbox.enqueue(SHOP, batch_of("from the past")).inserted)
    held = claim(outbox, limit=1, claim_ttl=60)
    assert keys_of(held) == ["from the future"]

    taken = on_host(+7200, lambda: keys_of(claim(outbox, claim_ttl=0.4)))
    assert taken == ["from the past"]
    assert on_host(-7200, lambda: keys_of(claim(outbox))) == []
    deadline = time.monotonic() + PATIENCE
    while not taken_over(taken := on_host(-7200, lambda: keys_of(claim(outbox)))):
        assert time.monotonic() < deadline
    assert taken == ["from the past"]
    assert outbox.mark_published(held) == 1

    for row in outbox.rows(SHOP):
        assert abs(row.created_at_ms / 1000 - real()) < PATIENCE
    assert outbox.status(SHOP).oldest_pending_age_ms < PATIENCE * 1000


def taken_over(keys: list[str]) -> bool:
    return bool(keys)


def test_backoff_delay_and_age_count_by_the_databases_clock(outbox, monkeypatch):
    outbox.enqueue(SHOP, batch_of("failed", "released", "done"))
    failed, released, done = claim(outbox)
    monkeypatch.setattr(time, "time", lambda: 0.0)

    outbox.mark_failed([failed], "e", backoff=0.3, dead=False)
    outbox.release([released], delay=0.3)
    outbox.mark_published([done])

    assert claim(outbox) == []
    assert outbox.purge_published(SHOP, older_than=30) == 0
    time.sleep(0.35)
    assert keys_of(claim(outbox)) == ["failed", "released"]
    assert outbox.purge_published(SHOP, older_than=0.2) == 1


def test_time_zone_of_a_caller_does_not_matter(own, outbox):
    with own.connect(init_command="set time_zone = '+12:00'") as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert keys_of(claim(outbox)) == ["a"]
    assert outbox.status(SHOP).oldest_pending_age_ms < PATIENCE * 1000
