"""An app's own connection, of each driver and in each of its ways, on both servers."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Callable, Iterator

import mysql.connector.pooling
import MySQLdb.cursors
import pymysql
import pytest
import sqlalchemy
from mysql_callers import CALLERS, Caller
from mysql_databases import PATIENCE, Database

from hydracache_sync.errors import (
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import MySQLOutbox
from outbox_contract.common import ODD_TEXTS, SHOP, batch_of, keys_of, numbered
from support.waiting import eventually

#: Bytes of max_allowed_packet that a batch of some hundred keys is beyond.
SMALL_PACKET = 64 * 1024


@pytest.fixture
def outbox(database: Database) -> Iterator[MySQLOutbox]:
    """An outbox with its tables, beside a table of the app."""
    database.sql("create table app (id integer primary key, note varchar(20))")
    outbox = database.outbox()
    outbox.install_schema()
    yield outbox
    outbox.close()


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Caller:
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test take each way of each driver: ``caller`` and one of its ``way``."""
    if "way" in metafunc.fixturenames:
        table = metafunc.function.ways
        metafunc.parametrize(
            ("caller", "way"),
            [
                pytest.param(caller, way, id=f"{caller.name}, {way}")
                for caller in CALLERS
                for way in getattr(caller, table)
            ],
        )


def for_each(table: str) -> Callable[[Any], Any]:
    def mark(function: Any) -> Any:
        function.ways = table
        return function

    return mark


@contextlib.contextmanager
def begun(caller: Caller, database: Database, way: str, **options: Any) -> Any:
    """The app's connection with a transaction begun in ``way``."""
    autocommit, begin = caller.beginnings[way]
    with contextlib.closing(
        caller.connect(database, autocommit=autocommit, **options)
    ) as connection:
        begin(connection)
        yield connection


def write(caller: Caller, connection: Any, note: str = "data") -> None:
    caller.execute(connection, f"insert into app values (1, '{note}')")


def notes(database: Database) -> list[str]:
    return [note for (note,) in database.sql("select note from app order by id")]


@contextlib.contextmanager
def statements_of(caller: Caller, database: Database, connection: Any) -> Any:
    """The statements that the server got on ``connection`` inside the block."""
    statements: list[str] = []
    id = caller.id_of(connection)
    database.sql("set global log_output = 'TABLE'")
    database.sql("truncate mysql.general_log")
    database.sql("set global general_log = on")
    try:
        yield statements
    finally:
        database.sql("set global general_log = off")
        for text, kind in database.sql(
            "select argument, command_type from mysql.general_log where thread_id = ?",
            (id,),
        ):
            # A cursor of mysql-connector-python begins with a ping.
            if kind != "Ping":
                text = text.decode() if isinstance(text, bytes) else text
                statements.append(text.strip().lower())


@contextlib.contextmanager
def small_packets(database: Database) -> Iterator[None]:
    """Connections opened inside the block may send no more than SMALL_PACKET."""
    [(usual,)] = database.sql("select @@global.max_allowed_packet")
    database.sql(f"set global max_allowed_packet = {SMALL_PACKET}")
    try:
        yield
    finally:
        database.sql(f"set global max_allowed_packet = {usual}")


@for_each("beginnings")
def test_rows_are_committed_with_the_data_in_each_way(outbox, database, caller, way):
    with begun(caller, database, way) as connection:
        write(caller, connection)
        receipt = outbox.enqueue_in(connection, SHOP, batch_of("a", "b", "a"))
        assert outbox.rows(SHOP) == []
        connection.commit()

    assert notes(database) == ["data"]
    assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
    assert (receipt.targets, receipt.inserted) == (2, 2)


@for_each("beginnings")
def test_rows_that_come_first_are_rolled_back_in_each_way(
    outbox, database, caller, way
):
    with begun(caller, database, way) as connection:
        # Nothing to enqueue is no reason to refuse.
        nothing = outbox.enqueue_in(connection, SHOP, InvalidationIntentBatch())
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        write(caller, connection)
        connection.rollback()

    assert (nothing.targets, nothing.inserted) == (0, 0)
    assert notes(database) == []
    assert outbox.rows(SHOP) == []


def test_connection_that_is_closed_without_a_commit_leaves_nothing(
    outbox, database, caller
):
    with begun(caller, database, "autocommit off") as connection:
        write(caller, connection)
        outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert notes(database) == []
    assert outbox.rows(SHOP) == []


@pytest.mark.parametrize("autocommit", [False, True])
def test_rows_go_back_to_a_savepoint(outbox, database, caller, autocommit):
    with contextlib.closing(caller.connect(database, autocommit=autocommit)) as app:
        caller.execute(app, "start transaction")
        caller.execute(app, "savepoint one")
        outbox.enqueue_in(app, SHOP, batch_of("kept"))
        caller.execute(app, "savepoint two")
        write(caller, app)
        outbox.enqueue_in(app, SHOP, batch_of("undone"))
        caller.execute(app, "rollback to savepoint two")
        outbox.enqueue_in(app, SHOP, batch_of("kept as well"))
        caller.execute(app, "release savepoint one")
        app.commit()

    assert notes(database) == []
    assert keys_of(outbox.rows(SHOP)) == ["kept", "kept as well"]


@pytest.mark.parametrize("batch", [batch_of("a"), InvalidationIntentBatch()])
def test_autocommitting_connection_is_refused_and_left_as_it_was(
    outbox, database, caller, batch
):
    with contextlib.closing(caller.connect(database, autocommit=True)) as connection:
        with pytest.raises(NotInTransactionError, match="autocommit"):
            outbox.enqueue_in(connection, SHOP, batch)

        assert outbox.rows(SHOP) == []
        write(caller, connection)
        assert notes(database) == ["data"]
        caller.execute(connection, "start transaction")
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.rollback()
        assert outbox.rows(SHOP) == []


@for_each("odd_options")
def test_odd_connection_that_autocommits_is_refused(outbox, database, caller, way):
    with contextlib.closing(
        caller.connect(database, autocommit=True, **caller.odd_options[way])
    ) as connection:
        with pytest.raises(NotInTransactionError, match="autocommit"):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert outbox.rows(SHOP) == []


@pytest.mark.parametrize(
    "ended", ["commit", "rollback", "create table more (id integer)"]
)
def test_connection_whose_transaction_is_over_is_refused(
    outbox, database, caller, ended
):
    with begun(caller, database, "BEGIN") as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        caller.execute(connection, ended)

        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

    assert keys_of(outbox.rows(SHOP)) == ([] if ended == "rollback" else ["a"])


@for_each("odd_options")
def test_odd_connection_takes_any_text_and_any_size(outbox, database, caller, way):
    batch = InvalidationIntentBatch("caf\xe9 \\ ' \" \0")
    for text in ODD_TEXTS.values():
        batch.invalidate_key(text).invalidate_entity(text, text)
    large = batch_of(*numbered(300))

    with contextlib.closing(
        caller.connect(database, **caller.odd_options[way])
    ) as connection:
        outbox.enqueue_in(connection, SHOP, batch, commit_position="\0'\\%s")
        outbox.enqueue_in(connection, "large", large)
        connection.commit()

    stored = outbox.rows(SHOP, commit_position="\0'\\%s")
    assert [row.intent for row in stored] == batch.distinct()
    assert {row.reason for row in stored} == {batch.reason}
    assert keys_of(outbox.rows("large", limit=1000)) == numbered(300)


@for_each("odd_options")
def test_odd_connection_sees_what_it_has_written(outbox, database, caller, way):
    # In gbk the backslash before a quote is the second half of a character.
    positions = "tx:a", "it's", "\u4f60'", "\\", "%s :name"
    with contextlib.closing(
        caller.connect(database, **caller.odd_options[way])
    ) as connection:
        receipts = [
            outbox.enqueue_in(connection, SHOP, batch_of("a"), commit_position=position)
            for position in positions
        ]
        seen = [outbox.sees(connection, receipt) for receipt in receipts]
        connection.rollback()
        gone = [outbox.sees(connection, receipt) for receipt in receipts]
        connection.rollback()

    assert seen == [True] * len(positions)
    assert gone == [False] * len(positions)


SQL_MODES = (
    "",
    "ANSI_QUOTES",
    "NO_BACKSLASH_ESCAPES",
    "TRADITIONAL",
    "ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
    "ORACLE",
    "NO_AUTO_VALUE_ON_ZERO,ONLY_FULL_GROUP_BY,NO_UNSIGNED_SUBTRACTION",
)


def namespace_of(mode: str) -> str:
    return f"mode {mode}"[:64]


def test_sql_mode_of_the_connection_does_not_matter(outbox, database, caller):
    batch = batch_of(*ODD_TEXTS.values())
    is_mysql8 = not database.server.is_mariadb and database.server.version >= (8,)
    modes = [mode for mode in SQL_MODES if mode != "ORACLE" or not is_mysql8]
    with contextlib.closing(caller.connect(database)) as connection:
        for mode in modes:
            caller.execute(connection, f"set session sql_mode = '{mode}'")
            outbox.enqueue_in(
                connection, namespace_of(mode), batch, commit_position="tx:7"
            )
            outbox.enqueue_in(connection, namespace_of(mode), batch_of("more"))
            connection.commit()

    for mode in modes:
        expected = [*ODD_TEXTS.values(), "more"]
        assert keys_of(outbox.rows(namespace_of(mode))) == expected, mode


@pytest.mark.parametrize("current", ["information_schema", None])
def test_another_database_may_be_the_current_one(outbox, database, caller, current):
    elsewhere = Database(database.server, current)
    with contextlib.closing(caller.connect(elsewhere)) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_isolation_of_the_transaction_does_not_matter(outbox, database, caller):
    levels = "read uncommitted", "read committed", "repeatable read", "serializable"
    for level in levels:
        with contextlib.closing(caller.connect(database)) as connection:
            caller.execute(
                connection, f"set session transaction isolation level {level}"
            )
            caller.execute(connection, "select * from app")
            outbox.enqueue(level, batch_of("before"), commit_position="tx:7")
            batch = batch_of("before", "mine")

            if database.server.checks_snapshots and level in levels[2:]:
                # Once: the caller's next snapshot has the row in it.
                with pytest.raises(OutboxBusyError, match="1020"):
                    outbox.enqueue_in(connection, level, batch, commit_position="tx:7")
                connection.rollback()
            again = outbox.enqueue_in(connection, level, batch, commit_position="tx:7")
            connection.commit()

        assert again.inserted == 1
        assert keys_of(outbox.rows(level)) == ["before", "mine"]


@pytest.mark.parametrize("found_rows", [False, True])
def test_inserted_rows_are_counted(outbox, database, caller, found_rows):
    with begun(caller, database, "autocommit off", found_rows=found_rows) as connection:
        new = outbox.enqueue_in(connection, SHOP, batch_of("a", "b"))
        first = outbox.enqueue_in(
            connection, SHOP, batch_of("a"), commit_position="tx:7"
        )
        again = outbox.enqueue_in(
            connection, SHOP, batch_of("a"), commit_position="tx:7"
        )
        more = outbox.enqueue_in(
            connection, SHOP, batch_of("a", "b", "c"), commit_position="tx:7"
        )
        connection.commit()

    assert new.inserted == 2
    assert [first.inserted, again.inserted, more.inserted] == [1, 0, 2]
    assert keys_of(outbox.rows(SHOP, commit_position="tx:7")) == ["a", "b", "c"]


#: Ways after which the first statement, ours, will begin the transaction.
NOTHING_OPEN = ("autocommit off", "SET autocommit", "autocommit attribute")


@for_each("beginnings")
def test_exactly_one_statement_is_added_but_for_what_a_driver_must_ask(
    outbox, database, caller, way
):
    autocommit, _ = caller.beginnings[way]
    with begun(caller, database, way) as connection:
        with statements_of(caller, database, connection) as first:
            outbox.enqueue_in(connection, SHOP, batch_of(*numbered(50)))
        with statements_of(caller, database, connection) as second:
            outbox.enqueue_in(
                connection, SHOP, batch_of(*numbered(50)), commit_position="tx:7"
            )
        connection.rollback()

    assert [text.split()[0] for text in (first[-1], second[-1])] == ["insert"] * 2
    if caller.name == "mysqlclient":
        # It knows of autocommit, and not of BEGIN.
        asked = caller.questions if autocommit and "autocommit" not in way else ()
        assert (first[:-1], second[:-1]) == (list(asked), list(asked))
    elif caller.name.startswith("mysql-connector") and way in NOTHING_OPEN:
        # It knows of a transaction, and none is open before the first statement.
        assert (first[:-1], second[:-1]) == (["select @@session.autocommit"], [])
    else:
        assert (first[:-1], second[:-1]) == ([], [])


def test_large_batch_asks_for_the_limit_and_no_more(outbox, database, caller):
    with begun(caller, database, "BEGIN") as connection:
        with statements_of(caller, database, connection) as statements:
            outbox.enqueue_in(connection, SHOP, batch_of(*numbered(400)))
        connection.rollback()

    words = [text.split()[:2] for text in statements if "savepoint" not in text]
    assert words == [["select", "@@max_allowed_packet"], ["insert", "into"]]


def test_batch_beyond_the_packet_limit_is_split_within_the_transaction(
    outbox, database, caller
):
    keys = numbered(1500)
    with small_packets(database), begun(caller, database, "BEGIN") as connection:
        write(caller, connection)
        with statements_of(caller, database, connection) as statements:
            outbox.enqueue_in(connection, SHOP, batch_of(*keys))
        connection.rollback()
        rolled_back = outbox.rows(SHOP)
        caller.execute(connection, "start transaction")
        receipt = outbox.enqueue_in(
            connection, SHOP, batch_of(*keys), commit_position="tx:7"
        )
        connection.commit()

    inserts = [text for text in statements if text.startswith("insert")]
    assert len(inserts) > 5
    assert max(map(len, inserts)) < SMALL_PACKET
    assert rolled_back == []
    assert notes(database) == []
    assert receipt.inserted == 1500
    assert keys_of(outbox.rows(SHOP, limit=2000)) == keys


def test_long_targets_are_split_by_their_length(outbox, database, caller):
    keys = [f"{n:04}" + "\N{GRINNING FACE}" * 1023 for n in range(40)]
    with small_packets(database), begun(caller, database, "BEGIN") as connection:
        outbox.enqueue_in(connection, SHOP, batch_of(*keys))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == keys


def test_last_insert_id_becomes_that_of_the_outbox(outbox, database, caller):
    """So an app reads it before it enqueues, or from its cursor."""
    database.sql(
        "create table ids (id bigint primary key auto_increment) engine=innodb"
    )
    database.sql("alter table ids auto_increment = 5000")
    with begun(caller, database, "autocommit off") as connection:
        cursor = connection.cursor()
        cursor.execute("insert into ids values (null)")
        [before] = caller.execute(connection, "select last_insert_id()")
        outbox.enqueue_in(connection, SHOP, batch_of("a", "b", "c"))
        [after] = caller.execute(connection, "select last_insert_id()")
        kept = cursor.lastrowid, cursor.rowcount
        cursor.close()
        connection.commit()

    first = outbox.rows(SHOP)[0]
    assert before == (5000,)
    assert after == (first.id,)
    assert kept == (5000, 1)


def test_warnings_of_the_statement_before_are_gone(outbox, database, caller):
    with begun(caller, database, "autocommit off") as connection:
        caller.execute(connection, "drop temporary table if exists never_was")
        before = caller.execute(connection, "show warnings")
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        after = caller.execute(connection, "show warnings")
        connection.commit()

    assert [number for _, number, _ in before] == [1051]
    assert after == []
    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("position", [None, "tx:7"])
def test_no_warning_is_left_on_the_connection(outbox, database, caller, position):
    outbox.enqueue(SHOP, batch_of("there"), commit_position="tx:7")
    with begun(caller, database, "autocommit off") as connection:
        outbox.enqueue_in(
            connection, SHOP, batch_of("there", "new"), commit_position=position
        )
        warnings = caller.execute(connection, "show warnings")
        connection.commit()

    assert warnings == []


def test_callers_cursor_stays_usable(outbox, database, caller):
    with begun(caller, database, "autocommit off") as connection:
        cursor = connection.cursor()
        cursor.execute("insert into app values (1, 'one')")
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        assert cursor.rowcount == 1
        cursor.execute("insert into app values (2, 'two')")
        cursor.close()
        connection.commit()

    assert notes(database) == ["one", "two"]


def test_result_that_is_being_read_is_not_cut_in_silence(outbox, database, caller):
    database.sql("insert into app values (1, 'one'), (2, 'two'), (3, 'three')")
    with begun(caller, database, "autocommit off") as connection:
        cursor = unbuffered(connection)
        cursor.execute("select note from app order by id")
        read = [cursor.fetchone()[0]]

        with pytest.raises(OutboxError):
            outbox.enqueue_in(connection, SHOP, batch_of("too early"))

        told = False
        try:
            read += [note for (note,) in cursor.fetchall()]
        except caller.error:
            told = True

    assert told or read == ["one", "two", "three"]
    assert outbox.rows(SHOP) == []


def unbuffered(connection: Any) -> Any:
    """A cursor that leaves its result with the server; mysql-connector's all do."""
    module = type(connection).__module__.partition(".")[0]
    cursors = {"pymysql": pymysql.cursors, "MySQLdb": MySQLdb.cursors}
    if module in cursors:
        return connection.cursor(cursors[module].SSCursor)
    return connection.cursor()


def is_waiting(database: Database, id: int) -> bool:
    """Whether the connection with this id waits for a lock."""
    # MariaDB refreshes this table ten times a second, if it is read less often.
    time.sleep(0.11)
    return bool(
        database.sql(
            "select 1 from information_schema.innodb_trx"
            " where trx_mysql_thread_id = ? and trx_state = 'LOCK WAIT'",
            (id,),
        )
    )


@contextlib.contextmanager
def deadlock(
    caller: Caller, database: Database, outbox: MySQLOutbox, autocommit: bool
) -> Iterator[Any]:
    """A connection whose next enqueue at tx:7 is chosen to end a deadlock."""
    write_one = "insert into app values (1, 'theirs')"
    with contextlib.closing(
        caller.connect(database, autocommit=autocommit)
    ) as connection, database.connect() as other:
        caller.execute(connection, "start transaction")
        write(caller, connection, "mine")
        other.begin()
        # The heavier one: not the victim.
        outbox.enqueue_in(other, SHOP, batch_of(*numbered(50)), commit_position="tx:7")
        rival = threading.Thread(target=lambda: other.cursor().execute(write_one))
        rival.start()
        eventually(lambda: is_waiting(database, other.thread_id()))
        yield connection
        rival.join(PATIENCE)
        other.commit()


@pytest.mark.parametrize("autocommit", [False, True])
def test_deadlock_in_the_callers_transaction_is_told_and_never_retried(
    outbox, database, caller, autocommit
):
    with deadlock(caller, database, outbox, autocommit) as connection:
        with statements_of(caller, database, connection) as statements:
            with pytest.raises(OutboxBusyError, match="[Rr]oll back") as caught:
                outbox.enqueue_in(
                    connection, SHOP, batch_of("key:7"), commit_position="tx:7"
                )
        connection.rollback()

    assert "1213" in str(caught.value)
    assert isinstance(caught.value.__cause__, caller.error)
    assert len([text for text in statements if text.startswith("insert")]) == 1
    assert notes(database) == ["theirs"]
    assert len(outbox.rows(SHOP)) == 50


def test_enqueue_after_a_deadlock_ended_the_transaction_says_so(
    outbox, database, caller
):
    """The server has rolled back, of which some drivers do not know."""
    with deadlock(caller, database, outbox, autocommit=True) as connection:
        with pytest.raises(OutboxBusyError):
            outbox.enqueue_in(
                connection, SHOP, batch_of("key:7"), commit_position="tx:7"
            )

        told = False
        try:
            outbox.enqueue_in(connection, SHOP, batch_of("late"))
        except NotInTransactionError:
            told = True
        connection.rollback()

    # MySQL has begun another transaction in silence; what it takes can be rolled back.
    assert told or "late" not in keys_of(outbox.rows(SHOP))
    assert notes(database) == ["theirs"]


def test_lock_wait_timeout_is_told_and_leaves_the_transaction_open(
    outbox, database, caller
):
    with database.connect() as other:
        other.begin()
        outbox.enqueue_in(other, SHOP, batch_of("a"), commit_position="tx:7")
        with begun(caller, database, "BEGIN") as connection:
            caller.execute(connection, "set innodb_lock_wait_timeout = 1")
            write(caller, connection)
            with statements_of(caller, database, connection) as statements:
                with pytest.raises(OutboxBusyError, match="1205"):
                    outbox.enqueue_in(
                        connection, SHOP, batch_of("a"), commit_position="tx:7"
                    )
            other.rollback()
            outbox.enqueue_in(connection, SHOP, batch_of("a"), commit_position="tx:7")
            connection.commit()

    assert len([text for text in statements if text.startswith("insert")]) == 1
    assert notes(database) == ["data"]
    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("isolating", [True, False])
def test_row_that_is_newer_than_the_snapshot_is_told_as_busy(
    database, outbox, isolating
):
    """By MariaDB 11.6 and newer, and by older ones that are asked to; and only the row
    that is enqueued again: one beside it is not."""
    with database.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("show variables like 'innodb_snapshot_isolation'")
        knows = bool(cursor.fetchall())
        if knows:
            cursor.execute(f"set innodb_snapshot_isolation = {int(isolating)}")
        cursor.execute("select * from hydracache_outbox")
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        outbox.enqueue_in(connection, SHOP, batch_of("a"), commit_position="tx:6")
        outbox.enqueue_in(connection, SHOP, batch_of("b"), commit_position="tx:7")
        if knows and isolating:
            with pytest.raises(OutboxBusyError, match="1020.*Roll back and run"):
                outbox.enqueue_in(
                    connection, SHOP, batch_of("a"), commit_position="tx:7"
                )
            # The server has rolled back.
            connection.commit()
            kept = ["a"]
        else:
            again = outbox.enqueue_in(
                connection, SHOP, batch_of("a"), commit_position="tx:7"
            )
            connection.commit()
            assert not again.inserted
            kept = ["a", "a", "b"]

    assert sorted(keys_of(outbox.rows(SHOP))) == kept


def test_killed_connection_is_an_error_and_is_not_opened_again(
    outbox, database, caller
):
    with begun(caller, database, "autocommit off") as connection:
        write(caller, connection)
        database.kill(caller.id_of(connection))

        with pytest.raises(OutboxError):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
        with contextlib.suppress(Exception):  # one raises what is no error of its own
            connection.commit()

    assert notes(database) == []
    assert outbox.rows(SHOP) == []


def test_closed_connection_is_an_error(outbox, database, caller):
    connection = caller.connect(database)
    connection.close()

    with pytest.raises(OutboxError):
        outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert outbox.rows(SHOP) == []


def test_read_only_transaction_is_an_error_and_stays_open(outbox, database, caller):
    with begun(caller, database, "autocommit off") as connection:
        caller.execute(connection, "start transaction read only")

        with pytest.raises(OutboxError, match="1792.*READ ONLY began it") as caught:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        # No outage of the server, which takes writes.
        assert not isinstance(caught.value, ReadOnlyServerError)
        connection.rollback()
        outbox.enqueue_in(connection, SHOP, batch_of("b"))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["b"]


def test_missing_table_is_told_with_what_to_run(database, caller):
    outbox = database.outbox()
    database.sql("create table app (id integer primary key, note varchar(20))")

    with begun(caller, database, "autocommit off") as connection:
        with pytest.raises(SchemaError, match="hydracache schema install"):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

    outbox.close()


def test_connection_of_a_subclass_is_one(outbox, database):
    class Connection(pymysql.connections.Connection):
        pass

    with Connection(**database.options) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_connection_out_of_the_pool_of_mysql_connector_is_one(outbox, database):
    pool = mysql.connector.pooling.MySQLConnectionPool(
        pool_name="pool",
        pool_size=1,
        collation="utf8mb4_general_ci",
        **database.options,
    )
    with contextlib.closing(pool.get_connection()) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()
    with contextlib.closing(pool.get_connection()) as connection:
        connection.cursor().execute("set autocommit = 1")
        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("b"))
    pool._remove_connections()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_raw_connection_of_sqlalchemy_is_one(outbox, database):
    engine = sqlalchemy.create_engine("mysql+pymysql://", creator=database.connect)
    with contextlib.closing(engine.raw_connection()) as connection:
        receipt = outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()
        assert receipt.is_over
    engine.dispose()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_autocommit_left_to_the_server_is_asked_for(outbox, database):
    with database.connect(autocommit=None) as connection:
        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

    assert outbox.rows(SHOP) == []


def test_connection_behind_a_proxy_is_one(outbox, database, caller):
    """As tracing libraries put before it."""

    class Proxy:
        def __init__(self, connection: Any) -> None:
            self.connection = connection

        __class__ = property(lambda self: type(self.connection))  # type: ignore

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

    with contextlib.closing(caller.connect(database)) as connection:
        outbox.enqueue_in(Proxy(connection), SHOP, batch_of("a"))
        connection.commit()

    assert keys_of(outbox.rows(SHOP)) == ["a"]


@pytest.mark.parametrize("thing", [None, "mysql://", object()])
def test_what_is_no_connection_of_a_known_driver_is_told(outbox, thing):
    with pytest.raises(TypeError, match="PyMySQL, mysqlclient or mysql-connector"):
        outbox.enqueue_in(thing, SHOP, batch_of("a"))
