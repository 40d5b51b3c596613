"""A connection to another server, with a database and tables of the same names."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import pytest
import sqlalchemy
from mysql_callers import CALLERS, Caller, ConnectorCaller, PyMySQLCaller
from mysql_databases import (
    KINDS,
    Database,
    fresh_database,
    spy_on_statements,
    started,
)
from mysql_proxy import Proxy
from sqlalchemy.orm import Session

from hydracache_sync.errors import NotInTransactionError, SchemaError
from hydracache_sync.integrations.sqlalchemy import attach
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.outbox import MySQLOutbox
from outbox_contract.common import SHOP, batch_of, keys_of
from support.servers import SQLServer

IDENTITY = "select identity from hydracache_outbox_schema"


@pytest.fixture(scope="module", params=KINDS)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[SQLServer, SQLServer]]:
    with started(request.param) as own, started(request.param) as other:
        yield own, other


@contextlib.contextmanager
def with_tables(server: SQLServer) -> Iterator[Database]:
    with fresh_database(server, "shop") as database:
        database.sql("create table app (note varchar(20)) engine = innodb")
        with contextlib.closing(database.outbox()) as outbox:
            outbox.install_schema()
        yield database


@pytest.fixture
def own(servers: tuple[SQLServer, SQLServer]) -> Iterator[Database]:
    with with_tables(servers[0]) as database:
        yield database


@pytest.fixture
def other(servers: tuple[SQLServer, SQLServer]) -> Iterator[Database]:
    with with_tables(servers[1]) as database:
        yield database


@pytest.fixture
def outbox(own: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(own.outbox()) as outbox:
        yield outbox


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Caller:
    return request.param


def rows_of(database: Database) -> list[str]:
    with contextlib.closing(database.outbox()) as outbox:
        return keys_of(outbox.rows(SHOP))


@pytest.fixture
def by_another_address(own: Database) -> Iterator[Database]:
    """The own server, as an app reaches it through something that stands before it."""
    with Proxy(own.server.host, own.server.port) as proxy:

        class Before(Database):
            @property
            def options(self) -> dict[str, Any]:
                return {**own.options, "port": proxy.port}

        yield Before(own.server, own.name)


# A stranger


def test_connection_to_another_server_is_refused_before_anything_is_written(
    outbox, own, other, caller
):
    with contextlib.closing(caller.connect(other)) as connection:
        caller.execute(connection, "insert into app values ('data')")
        with pytest.raises(NotInTransactionError, match="of the same name") as caught:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    assert f":{other.server.port}" in str(caught.value)
    assert f":{own.server.port}" in str(caught.value)
    assert other.sql("select note from app") == [("data",)]
    assert rows_of(other) == rows_of(own) == []


def test_session_of_sqlalchemy_to_another_server_is_refused(outbox, own, other):
    engine = sqlalchemy.create_engine("mysql+pymysql://", creator=other.connect)
    with Session(engine) as session:
        invalidations = attach(session, outbox, SHOP)
        session.execute(sqlalchemy.text("insert into app values ('data')"))
        invalidations.invalidate(session, InvalidationIntent.key("a"))
        with pytest.raises(NotInTransactionError, match="of the same name"):
            session.commit()
    engine.dispose()

    assert other.sql("select note from app") == []
    assert rows_of(other) == rows_of(own) == []


def test_another_server_is_refused_again_and_after_the_own_one(outbox, own, other):
    with own.connect() as good, other.connect() as bad:
        for _ in range(2):
            with pytest.raises(NotInTransactionError):
                outbox.enqueue_in(bad, SHOP, batch_of("a"))
            outbox.enqueue_in(good, SHOP, batch_of("a"))
        good.commit()
        bad.commit()

    assert (rows_of(own), rows_of(other)) == (["a", "a"], [])


def test_tables_installed_by_the_outbox_itself_have_an_identity(own, other):
    own.sql("drop table hydracache_outbox, hydracache_outbox_schema")
    with contextlib.closing(own.outbox()) as outbox, other.connect() as connection:
        with pytest.raises(SchemaError):
            outbox.status(SHOP)
        outbox.install_schema()

        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))


# Nothing known


@pytest.mark.parametrize("unknown", ["right", "table", "own server"])
def test_where_nothing_is_known_the_row_is_written(own, other, caller, unknown):
    options: dict[str, Any] = {}
    outbox = own.outbox()
    if unknown == "right":
        other.sql("create user app@'%' identified by 'se-cret'")
        other.sql("grant insert, select on shop.app to app@'%'")
        other.sql("grant insert on shop.hydracache_outbox to app@'%'")
        options = {"user": "app", "password": "se-cret"}
    elif unknown == "table":
        other.sql("drop table hydracache_outbox_schema")
    else:
        outbox = own.outbox(port=1)
    with contextlib.closing(outbox):
        with contextlib.closing(caller.connect(other, **options)) as connection:
            caller.execute(connection, "insert into app values ('data')")
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            connection.commit()
    if unknown == "right":
        other.sql("drop user app@'%'")

    assert other.sql("select note from app") == [("data",)]
    assert other.sql("select count(*) from hydracache_outbox") == [(1,)]


# The own server by another address


def test_other_address_of_the_own_server_costs_one_question(
    outbox, own, by_another_address, monkeypatch
):
    outbox.check_schema()
    with by_another_address.connect() as connection:
        statements = spy_on_statements(monkeypatch)
        for _ in range(2):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

    words = [statement.split()[0] for statement in statements]
    assert words == ["select", "insert", "insert", "COMMIT"]
    assert rows_of(own) == ["a", "a"]


@pytest.mark.parametrize("how", ["connected", "configured"])
def test_connection_that_reconnects_elsewhere_is_asked_again(
    outbox, own, other, by_another_address, how
):
    """The object is the same; its new session may have the number of the old one."""
    caller = ConnectorCaller() if how == "configured" else PyMySQLCaller()
    with contextlib.closing(caller.connect(by_another_address)) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        connection.commit()

        if how == "configured":
            connection.config(host=other.server.host, port=other.server.port)
            connection.reconnect()
        else:
            connection.host, connection.port = other.server.host, other.server.port
            connection.close()
            connection.connect()
        with pytest.raises(NotInTransactionError, match="of the same name"):
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

    assert (rows_of(own), rows_of(other)) == (["a"], [])


def test_address_that_leads_elsewhere_is_asked_again(outbox, own, other):
    with Proxy(own.server.host, own.server.port) as proxy:

        class Before(Database):
            @property
            def options(self) -> dict[str, Any]:
                return {**own.options, "host": "127.0.0.1", "port": proxy.port}

        with Before(own.server, own.name).connect() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            connection.commit()

            proxy.target = (other.server.host, other.server.port)
            connection.close()
            connection.connect()
            with pytest.raises(NotInTransactionError, match="of the same name"):
                outbox.enqueue_in(connection, SHOP, batch_of("b"))

    assert (rows_of(own), rows_of(other)) == (["a"], [])


def test_the_question_opens_no_snapshot(outbox, own, by_another_address, caller):
    """What the caller reads afterwards is as new as without us."""
    with contextlib.closing(caller.connect(by_another_address)) as connection:
        outbox.enqueue_in(connection, SHOP, batch_of("a"))
        own.sql("insert into app values ('since')")

        assert caller.execute(connection, "select note from app") == [("since",)]
        connection.rollback()


def test_the_question_keeps_nobody_from_asking_or_installing(
    outbox, own, by_another_address
):
    with by_another_address.connect() as one, by_another_address.connect() as two:
        outbox.enqueue_in(one, SHOP, batch_of("a"))
        outbox.enqueue_in(two, SHOP, batch_of("b"))
        outbox.install_schema()
        one.commit()
        two.commit()

    assert rows_of(own) == ["a", "b"]


# The own server becomes another


def test_own_connections_that_come_to_another_server_say_so(own, other, caplog):
    here = {"host": "127.0.0.1"}
    with Proxy(own.server.host, own.server.port) as proxy:
        with contextlib.closing(own.outbox(**here, port=proxy.port)) as outbox:
            outbox.status(SHOP)
            outbox.close()
            outbox.status(SHOP)
            assert caplog.messages == []

            proxy.target = (other.server.host, other.server.port)
            outbox.close()
            outbox.status(SHOP)

            [said] = caplog.messages
            assert "does not replicate the first" in said
            with own.connect() as connection:
                with pytest.raises(NotInTransactionError):
                    outbox.enqueue_in(connection, SHOP, batch_of("a"))
            with other.connect() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("b"))
                connection.commit()
    assert rows_of(other) == ["b"]
