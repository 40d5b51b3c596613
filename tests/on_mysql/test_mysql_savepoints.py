"""A savepoint that a view rolls back by hand, after it has called ``write``."""

from __future__ import annotations

import contextlib
import inspect
import threading
from contextlib import closing
from typing import Any, Callable, Iterator

import pymysql
import pytest
from flask import Flask
from mysql_callers import CALLERS, Caller, PyMySQLCaller
from mysql_databases import Database, fresh_database
from pymysql.constants import CLIENT

from hydracache_sync import InvalidationIntent, MemoryStore, NotInTransactionError
from hydracache_sync.integrations.flask import HydraCache
from outbox_contract.common import keys_of
from support.servers import MariaDB


@pytest.fixture
def database(mariadb: MariaDB) -> Iterator[Database]:
    with fresh_database(mariadb) as database:
        database.sql("create table item (id integer primary key, name text)")
        database.sql("insert into item values (1, 'before'), (2, 'before')")
        with closing(database.outbox()) as outbox:
            outbox.install_schema()
        yield database


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Caller:
    found: Caller = request.param
    return found


def run(
    database: Database, view: Callable[[HydraCache], None], **config: str
) -> list[Any]:
    """Serve ``view``; return the keys whose rows are durable."""
    hydracache, app = HydraCache(), Flask("shop")
    with closing(database.outbox()) as outbox:
        app.config.update(
            SECRET_KEY="not secret",
            HYDRACACHE_OUTBOX=outbox,
            HYDRACACHE_NAMESPACE="shop",
            HYDRACACHE_MEMCACHED=MemoryStore(),
            HYDRACACHE_POOL="none",
            **config,
        )
        hydracache.init_app(app)

        @app.post("/")
        def page() -> str:
            view(hydracache)
            return "done"

        assert app.test_client().post("/").status_code == 200
        return keys_of(outbox.rows("shop"))


@pytest.mark.parametrize("words", ["rollback to s", "ROLLBACK  WORK TO SAVEPOINT s"])
def test_what_was_collected_before_it_is_saved_and_said(
    database: Database, caller: Caller, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'after' where id = 1")
            hydracache.invalidate_key("one")
            caller.execute(connection, "savepoint s")
            caller.execute(connection, "update item set name = 'never' where id = 2")
            hydracache.invalidate_key("two")
            hydracache.write(connection)
            caller.execute(connection, words)
            connection.commit()

        keys = run(database, view)

    assert database.sql("select name from item order by id") == [
        ("after",),
        ("before",),
    ]
    assert keys == ["one", "two"]
    assert "went back to a savepoint" in caplog.text


@pytest.mark.parametrize(
    "body",
    ["rollback to s", "rollback"],
    ids=["goes back to a savepoint", "rolls back"],
)
def test_what_a_procedure_has_undone_is_saved(
    database: Database, caller: Caller, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.sql(
        f"create procedure go_on() begin {body};"
        " update item set name = 'after' where id = 1; end"
    )
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'never' where id = 2")
            caller.execute(connection, "savepoint s")
            write(hydracache, connection)
            caller.execute(connection, "call go_on()")
            connection.commit()

        keys = run(database, view)

    assert database.sql("select name from item where id = 1") == [("after",)]
    assert keys == ["one"]
    assert "called a procedure" in caplog.text


def test_a_procedure_that_undoes_nothing_is_no_trouble(
    database: Database, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    database.sql(
        "create procedure rename_it() update item set name = 'after' where id = 1"
    )
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'after' where id = 2")
            write(hydracache, connection)
            caller.execute(connection, "call rename_it()")
            connection.commit()

        assert run(database, view) == ["one"]

    assert "called a procedure" not in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        "update item set name = 'never' where id = 2; /* as before */ rollback to s",
        "select 1; call go_back()",
    ],
    ids=["rollback to", "call"],
)
def test_what_is_undone_further_on_in_a_text_is_saved(
    database: Database, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the one driver whose rows are not looked for in any case."""
    database.sql("create procedure go_back() rollback to s")
    caller = PyMySQLCaller()
    several = CLIENT.MULTI_STATEMENTS
    with closing(database.connect(autocommit=False, client_flag=several)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'after' where id = 1")
            caller.execute(connection, "savepoint s")
            write(hydracache, connection)
            caller.execute(connection, words)
            connection.commit()

        keys = run(database, view)

    assert database.sql("select name from item order by id") == [
        ("after",),
        ("before",),
    ]
    assert keys == ["one"]
    assert "went back to a savepoint" in caplog.text


def deadlock(database: Database, connection: Any, caller: Caller) -> None:
    """Have the server roll back ``connection``, which has changed item 1 alone."""
    with closing(database.connect(autocommit=False)) as other:
        with other.cursor() as cursor:
            cursor.execute("update item set name = 'other' where id = 2")
            # The transaction that has changed less is the one to be rolled back.
            rows = ", ".join(f"({n}, 'other')" for n in range(10, 60))
            cursor.execute(f"insert into item values {rows}")

            def wait() -> None:
                cursor.execute("update item set name = 'other' where id = 1")

            thread = threading.Thread(target=wait)
            thread.start()
            try:
                with pytest.raises(Exception, match="(?i)deadlock"):
                    while True:  # until the other one waits
                        caller.execute(
                            connection, "select 1 from item where id = 2 for update"
                        )
            finally:
                thread.join()
        other.rollback()


def write(hydracache: HydraCache, connection: Any) -> None:
    hydracache.invalidate_key("one")
    hydracache.write(connection)


def enqueue(hydracache: HydraCache, connection: Any) -> None:
    hydracache.enqueue(connection, InvalidationIntent.key("one"))


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "gives up"])
@pytest.mark.parametrize("written_by", [write, enqueue])
def test_what_was_written_before_a_deadlock_is_saved_if_the_view_goes_on(
    database: Database,
    written_by: Callable[[HydraCache, Any], None],
    goes_on: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of the one driver whose rows are not looked for in any case."""
    caller = PyMySQLCaller()
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'never' where id = 1")
            written_by(hydracache, connection)
            deadlock(database, connection, caller)
            caller.execute(connection, "select name from item")
            if goes_on:
                caller.execute(
                    connection, "update item set name = 'after' where id = 1"
                )
                connection.commit()

        keys = run(database, view)

    name = "after" if goes_on else "before"
    assert database.sql("select name from item where id = 1") == [(name,)]
    assert keys == (["one"] if goes_on else [])
    assert ("such as a deadlock" in caplog.text) == goes_on


@pytest.mark.parametrize(
    "words",
    [
        "select 1; update item set name = 'after' where id = 1",
        "set @a = 1; update item set name = 'after' where id = 1",
    ],
)
def test_a_view_goes_on_after_a_deadlock_further_on_in_a_text(
    database: Database, words: str
) -> None:
    caller = PyMySQLCaller()
    several = CLIENT.MULTI_STATEMENTS
    with closing(database.connect(autocommit=False, client_flag=several)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'never' where id = 1")
            write(hydracache, connection)
            deadlock(database, connection, caller)
            caller.execute(connection, words)
            connection.commit()

        keys = run(database, view)

    assert database.sql("select name from item where id = 1") == [("after",)]
    assert keys == ["one"]


@pytest.mark.parametrize("snapshot", ["fresh", "request", "session"])
def test_a_deadlock_is_seen_whatever_is_known_of_snapshots(
    database: Database, snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a process that has not watched statements before."""
    caller = PyMySQLCaller()
    kind = pymysql.connections.Connection
    monkeypatch.setattr(kind, "query", inspect.unwrap(kind.query))
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'never' where id = 1")
            write(hydracache, connection)
            deadlock(database, connection, caller)
            caller.execute(connection, "update item set name = 'after' where id = 1")
            connection.commit()

        keys = run(database, view, HYDRACACHE_SNAPSHOT=snapshot)

    assert database.sql("select name from item where id = 1") == [("after",)]
    assert keys == ["one"]


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "gives up"])
def test_in_autocommit_a_block_that_goes_on_after_a_deadlock_keeps_what_it_wrote(
    database: Database, goes_on: bool
) -> None:
    """What it changes from there on is committed at once, and its end is refused.

    MariaDB 10.5 and MySQL 5.6 begin another transaction instead, which the block ends.
    """
    caller = PyMySQLCaller()
    with closing(database.connect(autocommit=True)) as connection:

        def view(hydracache: HydraCache) -> None:
            expected = NotInTransactionError if goes_on else ValueError
            with contextlib.suppress(expected):
                with hydracache.transaction(connection):
                    caller.execute(
                        connection, "update item set name = 'never' where id = 1"
                    )
                    write(hydracache, connection)
                    deadlock(database, connection, caller)
                    if not goes_on:
                        raise ValueError
                    caller.execute(
                        connection, "update item set name = 'after' where id = 1"
                    )

        keys = run(database, view)

    name = "after" if goes_on else "before"
    assert database.sql("select name from item where id = 1") == [(name,)]
    assert keys == (["one"] if goes_on else [])


@pytest.mark.parametrize(
    "words",
    [
        "alter table item comment = 'new'",
        "/* as before */ COMMIT",
        "set @@session.autocommit = 1",
        "create temporary table some as select 1 as n",
    ],
)
def test_a_block_that_raises_keeps_what_it_collected_if_a_statement_has_committed(
    database: Database, caller: Caller, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    has_committed = "temporary" not in words
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            with contextlib.suppress(ZeroDivisionError):
                with hydracache.transaction(connection):
                    caller.execute(
                        connection, "update item set name = 'after' where id = 1"
                    )
                    hydracache.invalidate_key("one")
                    caller.execute(connection, words)
                    caller.execute(
                        connection, "update item set name = 'never' where id = 2"
                    )
                    raise ZeroDivisionError

        keys = run(database, view)

    name = "after" if has_committed else "before"
    assert database.sql("select name from item where id = 1") == [(name,)]
    assert keys == (["one"] if has_committed else [])
    assert ("its block" in caplog.text) == has_committed


def test_a_rollback_of_the_whole_transaction_takes_the_rows_along(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the one driver that tells whether the rows joined the transaction."""
    caller = PyMySQLCaller()
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "update item set name = 'never'")
            hydracache.invalidate_key("one")
            hydracache.write(connection)
            caller.execute(connection, "rollback")

        assert run(database, view) == []

    assert "savepoint" not in caplog.text


def test_written_after_it_nothing_is_written_twice(
    database: Database, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(caller.connect(database)) as connection:

        def view(hydracache: HydraCache) -> None:
            caller.execute(connection, "savepoint s")
            caller.execute(connection, "update item set name = 'never'")
            caller.execute(connection, "rollback to s")
            caller.execute(connection, "update item set name = 'after'")
            hydracache.invalidate_key("one")
            hydracache.write(connection)
            connection.commit()

        assert run(database, view) == ["one"]

    assert "savepoint" not in caplog.text
