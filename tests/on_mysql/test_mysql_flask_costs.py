"""What a Flask request sends to MariaDB and to memcached, counted.

The same on SQLite is in ``web/test_flask_costs.py``.
"""

from __future__ import annotations

import secrets
from typing import Any, Iterator

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from mysql_databases import Database, fresh_database, spy_on_statements

from hydracache_sync.integrations.flask import HydraCache
from hydracache_sync.memcached.transport import Connection
from support.servers import MariaDB, Memcached

hydracache = HydraCache()


@pytest.fixture
def on_mariadb(mariadb: MariaDB) -> Iterator[Database]:
    with fresh_database(mariadb) as database:
        database.outbox().install_schema()
        database.sql("create table item (id integer primary key, name text)")
        database.sql("insert into item values (1, 'before')")
        yield database


@pytest.fixture
def client(on_mariadb: Database, memcached: Memcached) -> Iterator[FlaskClient]:
    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=on_mariadb.server.url(str(on_mariadb.name)),
        HYDRACACHE_NAMESPACE="t" + secrets.token_hex(5),
        HYDRACACHE_MEMCACHED=[memcached.address],
        HYDRACACHE_CONNECT_TIMEOUT=30,
        HYDRACACHE_TIMEOUT=30,
        HYDRACACHE_MODE="inline",
        HYDRACACHE_POOL="none",
    )
    # One for all requests: connecting is not what is counted.
    connection = on_mariadb.connect()
    hydracache.init_app(app, connection=lambda: g.get("db"))

    @app.get("/")
    def nothing() -> str:
        return "nothing"

    @app.post("/<end>")
    def change(end: str) -> str:
        g.db = connection
        with connection.cursor() as cursor:
            cursor.execute("update item set name = concat(name, '.') where id = 1")
        hydracache.invalidate_key("item:1")
        hydracache.invalidate_entity("item", "1")
        hydracache.invalidate_collection("items")
        hydracache.write(connection)
        getattr(connection, end)()
        return "changed"

    with connection:
        client = app.test_client()
        # The first request of a process connects.
        assert client.post("/commit").status_code == 200
        yield client
    app.extensions["hydracache"].outbox.close()


def words(statements: list[str]) -> list[str]:
    return [statement.split()[0].lower() for statement in statements]


def test_request_that_invalidates_nothing_sends_nothing(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = spy_on_statements(monkeypatch)

    client.get("/")

    assert statements == []


def test_three_intents_are_one_insert_and_nothing_else(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = spy_on_statements(monkeypatch)

    client.post("/rollback")

    assert words(statements)[:3] == ["update", "insert", "rollback"]
    # Nobody knows that it was rolled back: it is looked for, and not found.
    assert "insert" not in words(statements)[3:]


def test_inline_publish_is_two_round_trips_and_one_update(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = spy_on_statements(monkeypatch)
    sent: list[Any] = []
    send = Connection.send

    def send_counted(connection: Connection, data: Any, deadline: float) -> None:
        sent.append(data)
        send(connection, data, deadline)

    monkeypatch.setattr(Connection, "send", send_counted)

    client.post("/commit")

    assert words(statements) == ["update", "insert", "commit", "update"]
    assert len(sent) == 2
