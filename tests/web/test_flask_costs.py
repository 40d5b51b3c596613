"""What a request sends to the database and to memcached, counted.

The same on MariaDB is in ``on_mysql/test_mysql_flask_costs.py``; what it takes in time
is measured by ``benchmarks/flask_request.py``.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from shop import Shop, close_db, hydracache

from hydracache_sync.memcached.transport import Connection
from hydracache_sync.outbox.sqlite.sessions import SQLiteConnector
from support.servers import Memcached


class Counted:
    """A shop that publishes inline, and what was sent since the last :meth:`clear`.

    :ivar statements: of the view's connection.
    :ivar own: of the library's connections.
    :ivar round_trips: to memcached.
    """

    def __init__(
        self, path: Path, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.statements: list[str] = []
        self.own: list[str] = []
        self.round_trips = 0
        connect, send = SQLiteConnector.connect, Connection.send

        def connect_watched(connector: SQLiteConnector, mode: str = "rw") -> Any:
            connection = connect(connector, mode)
            connection.set_trace_callback(self.own.append)
            return connection

        def send_counted(connection: Connection, data: bytes, deadline: float) -> None:
            self.round_trips += 1
            send(connection, data, deadline)

        monkeypatch.setattr(SQLiteConnector, "connect", connect_watched)
        monkeypatch.setattr(Connection, "send", send_counted)
        self.shop = Shop(
            path,
            first=lambda app: app.teardown_appcontext(close_db),
            HYDRACACHE_MEMCACHED=[memcached.address],
            HYDRACACHE_MODE="inline",
        )

    def db(self) -> sqlite3.Connection:
        connection = self.shop.db()
        connection.set_trace_callback(self.statements.append)
        return connection

    def collect_three(self, id: str) -> None:
        hydracache.invalidate_key(f"item:{id}")
        hydracache.invalidate_entity("item", id)
        hydracache.invalidate_collection("items")

    def clear(self) -> None:
        self.statements.clear()
        self.own.clear()
        self.round_trips = 0


@pytest.fixture
def counted(
    tmp_path: Path, memcached: Memcached, monkeypatch: pytest.MonkeyPatch
) -> Counted:
    counted = Counted(tmp_path / "shop.db", memcached, monkeypatch)
    app = counted.shop.app

    @app.get("/")
    def nothing() -> str:
        return "nothing"

    @app.post("/<id>/<end>")
    def change(id: str, end: str) -> str:
        counted.db().execute("update item set name = 'new' where id = ?", (id,))
        counted.collect_three(id)
        hydracache.write(counted.db())
        getattr(counted.db(), end)()
        return "changed"

    # The first request of a process connects, and asks about its file.
    assert counted.shop.client.post("/1/commit").status_code == 200
    counted.clear()
    return counted


def test_request_that_invalidates_nothing_sends_nothing(counted: Counted) -> None:
    counted.shop.client.get("/")

    assert (counted.statements, counted.own, counted.round_trips) == ([], [], 0)


def test_three_intents_are_one_insert_and_nothing_else(counted: Counted) -> None:
    counted.shop.client.post("/1/rollback")

    words = [statement.split()[0].lower() for statement in counted.statements]
    # The pragma asks a connection, once, which file it has open.
    assert words == ["begin", "update", "pragma", "insert", "rollback"]


def test_inline_publish_is_two_round_trips_and_one_update(counted: Counted) -> None:
    counted.shop.client.post("/1/commit")

    words = [statement.split()[0].lower() for statement in counted.own]
    assert counted.round_trips == 2
    assert words.count("update") == 1
    assert set(words) <= {"select", "begin", "update", "commit"}
    assert counted.shop.outbox.status("shop").pending == 0
