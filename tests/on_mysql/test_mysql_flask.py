"""A Flask app whose MariaDB goes away while a page is served."""

from __future__ import annotations

import time
from typing import Iterator

import pytest
from flask import Flask
from mysql_databases import PATIENCE, Database, fresh_database, started

from hydracache_sync import MemoryStore
from hydracache_sync.integrations.flask import HydraCache
from servers import SQLServer

hydracache = HydraCache()


@pytest.fixture
def server() -> Iterator[SQLServer]:
    """A server of the test's own: it is paused."""
    with started("mariadb") as server:
        yield server


@pytest.fixture
def database(server: SQLServer) -> Iterator[Database]:
    with fresh_database(server) as database:
        yield database


def test_a_database_gone_at_teardown_costs_the_page_a_bounded_time_and_no_row(
    server: SQLServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = database.outbox()
    outbox.install_schema()
    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not secret",
        HYDRACACHE_OUTBOX=server.url(str(database.name)),
        HYDRACACHE_NAMESPACE="shop",
        HYDRACACHE_MEMCACHED=MemoryStore(),
        HYDRACACHE_POOL="none",
        HYDRACACHE_NET_TIMEOUT=0.3,
    )
    hydracache.init_app(app)

    @app.get("/")
    def view() -> str:
        hydracache.invalidate_key("item:1")
        server.pause()
        return "done"

    @app.get("/after")
    def after() -> str:
        return "done"

    began = time.monotonic()
    answer = app.test_client().get("/")
    took = time.monotonic() - began
    server.resume()
    deadline = time.monotonic() + PATIENCE
    # The pages after it try again, each within its own short time.
    while not outbox.rows("shop") and time.monotonic() < deadline:
        app.test_client().get("/after")

    assert answer.status_code == 200
    assert took < PATIENCE / 2
    assert "the outbox could not be written at the end of a request" in caplog.text
    assert [row.intent and row.intent.value for row in outbox.rows("shop")] == [
        "item:1"
    ]
    outbox.close()
