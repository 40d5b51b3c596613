"""Loads on a read-only server, of an app that says nothing of replicas, are told."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import Any, Iterator

import pymysql
import pytest
import sqlalchemy as sa
from flask import Flask
from mysql_databases import (
    KINDS,
    Database,
    at_statement,
    fresh_database,
    spy_on_statements,
    started,
)
from sqlalchemy.orm import scoped_session, sessionmaker

from hydracache_sync import MemoryStore
from hydracache_sync.app.read_only_reads import ReadOnlyReads
from hydracache_sync.integrations.flask import HydraCache
from support.servers import SQLServer
from support.waiting import eventually


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    """One that only these tests make read-only."""
    with started(request.param) as server:
        yield server


@pytest.fixture
def database(server: SQLServer) -> Iterator[Database]:
    with fresh_database(server) as database:
        with closing(database.outbox()) as outbox:
            outbox.install_schema()
        yield database


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    database.sql("set global read_only = 1")
    try:
        yield
    finally:
        database.sql("set global read_only = 0")


def test_a_read_only_server_is_told_once_and_another_is_not(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere, own = ReadOnlyReads("db1:3306"), ReadOnlyReads("db1:3306")
    with database.connect() as connection:
        where = f"{connection.host}:{connection.port}"
        same = ReadOnlyReads(where)
        own.reads_on(connection)
        with read_only(database):
            same.reads_on(connection)
            for _ in range(2):
                elsewhere.reads_on(connection)

    assert (own.server, same.server) == (None, None)
    assert elsewhere.server == where
    [line] = caplog.messages
    assert "which is read-only and not the outbox's server db1:3306" in line


def test_the_question_begins_no_transaction_and_no_snapshot(
    database: Database,
) -> None:
    database.sql("create table item (id integer primary key)")
    with database.connect() as connection, read_only(database):
        cursor = connection.cursor()
        cursor.execute("set autocommit = 0")
        ReadOnlyReads("db1:3306").reads_on(connection)
        database.sql("insert into item values (1)")
        cursor.execute("select count(*) from item")
        assert cursor.fetchall() == ((1,),)


def test_a_connection_that_cannot_be_asked_harms_no_load(database: Database) -> None:
    reads = ReadOnlyReads("db1:3306")
    with database.connect() as connection:
        pass

    for odd in (connection, None, object()):
        reads.reads_on(odd)

    assert reads.server is None


def test_a_server_that_refuses_the_question_is_asked_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise pymysql.OperationalError(1193, "Unknown system variable")

    at_statement(monkeypatch, "select @@global", refuse)
    reads = ReadOnlyReads("db1:3306")
    with database.connect() as first, database.connect() as second:
        statements = spy_on_statements(monkeypatch)
        for connection in (first, first, second):
            reads.reads_on(connection)

    assert [text.partition(".")[0] for text in statements] == ["select @@global"]
    assert reads.server is None


@pytest.mark.parametrize(
    ("declared", "told"),
    [({}, True), ({"READ_LAG": 5.0}, False), ({"SNAPSHOT": "fresh"}, False)],
    ids=["nothing", "a lag", "another way"],
)
def test_an_app_says_so_beside_its_outbox(
    database: Database,
    declared: dict[str, Any],
    told: bool,
) -> None:
    database.sql("create table item (id integer primary key)")
    app = Flask("shop")
    outbox = database.outbox()
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=outbox,
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=MemoryStore(),
        **{f"HYDRACACHE_{name}": value for name, value in declared.items()},
    )
    hydracache = HydraCache(app)
    # The same server by another address stands for a replica.
    engine = sa.create_engine(
        "mysql+pymysql://", creator=lambda: database.connect(host="localhost")
    )
    session = scoped_session(sessionmaker(bind=engine))
    hydracache.attach(session)

    def load() -> bytes:
        found = session.execute(sa.text("select count(*) from item")).scalar()
        return b"%d" % found

    @app.get("/")
    def view() -> str:
        found: bytes = hydracache.cache.get_or_load("k", load)
        session.remove()
        return found.decode()

    with read_only(database):
        assert app.test_client().get("/").text == "0"
    [process] = eventually(outbox.workers)
    with app.app_context():
        pool = hydracache.pool
    assert pool is not None and pool.stop(60)
    engine.dispose()
    outbox.close()

    expected = f"localhost:{database.server.port}" if told else None
    assert process.reads_elsewhere == expected
