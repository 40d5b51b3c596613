"""What is written after the commit is not lost with a transaction nobody commits."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest
from shop import Shop, close_db, end_db, hydracache
from sqlalchemy import create_engine

from hydracache_sync import InvalidationIntent, MemoryStore, SQLiteOutbox
from hydracache_sync.integrations.wsgi import HydraCache as WSGIHydraCache


def shop_with(
    path: Path, view: Callable[[Shop], object], *, end: Any = close_db, **config: Any
) -> Shop:
    shop = Shop(path, first=lambda app: app.teardown_appcontext(end), **config)

    @shop.app.post("/")
    def change() -> str:
        view(shop)
        return "done"

    return shop


def write(shop: Shop) -> None:
    hydracache.invalidate_key("item:1")
    hydracache.write(shop.db())


def enqueue(shop: Shop) -> None:
    hydracache.enqueue(shop.db(), InvalidationIntent.key("item:1"))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize("written_by", [write, enqueue])
@pytest.mark.parametrize("mode", ["eventual", "inline", "strict"])
def test_what_is_written_after_the_commit_goes_out_with_a_warning(
    tmp_path: Path,
    written_by: Callable[[Shop], None],
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def view(shop: Shop) -> None:
        shop.rename("after")
        shop.db().commit()
        written_by(shop)

    shop = shop_with(tmp_path / "shop.db", view, HYDRACACHE_MODE=mode)

    shop.client.post("/")

    assert (shop.name(), shop.targets()) == ("after", ["item:1"])
    [line] = [each for each in warnings_in(caplog) if "wrote" in each]
    assert line.startswith("POST change wrote key item:1 where no transaction was open")


def test_a_connection_of_sqlalchemys_pool_is_looked_at_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.db"
    engine = create_engine(f"sqlite:///{path}")

    def view(shop: Shop) -> None:
        with closing(engine.raw_connection()) as connection:
            with hydracache.transaction(connection):
                connection.cursor().execute("update item set name = 'after'")
            hydracache.invalidate_key("item:1")
            hydracache.write(connection)

    shop = shop_with(path, view)

    shop.client.post("/")
    engine.dispose()

    assert (shop.name(), shop.targets()) == ("after", ["item:1"])
    assert "wrote key item:1 where no transaction was open" in caplog.text


def test_its_receipt_is_the_one_that_was_given(tmp_path: Path) -> None:
    given = []

    def view(shop: Shop) -> None:
        shop.rename("after")
        shop.db().commit()
        hydracache.invalidate_key("item:1")
        given.append(hydracache.write(shop.db()))

    shop = shop_with(tmp_path / "shop.db", view)

    shop.client.post("/")

    [row] = shop.rows()
    assert given[0] is not None
    assert row.commit_position == given[0].commit_position


def test_in_a_transaction_it_is_rolled_back_with_the_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def view(shop: Shop) -> None:
        shop.rename("never")
        write(shop)

    shop = shop_with(tmp_path / "shop.db", view)

    shop.client.post("/")

    assert (shop.name(), shop.targets()) == ("before", [])
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("commits_in_teardown", [False, True])
def test_what_is_committed_afterwards_is_written_once_and_not_complained_of(
    tmp_path: Path, commits_in_teardown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def view(shop: Shop) -> None:
        write(shop)
        shop.rename("after")
        if not commits_in_teardown:
            shop.db().commit()

    end = end_db if commits_in_teardown else close_db
    shop = shop_with(tmp_path / "shop.db", view, end=end)

    shop.client.post("/")

    assert (shop.name(), shop.targets()) == ("after", ["item:1"])
    assert warnings_in(caplog) == []


def test_an_app_context_without_a_request_is_looked_after_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = shop_with(tmp_path / "shop.db", lambda shop: None)

    with shop.app.app_context():
        shop.rename("after")
        shop.db().commit()
        write(shop)

    assert shop.targets() == ["item:1"]
    assert "an app context without a request wrote key item:1" in caplog.text


@pytest.mark.parametrize("served", [True, False])
def test_so_are_wsgi_apps_and_scripts(
    tmp_path: Path, served: bool, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = SQLiteOutbox(tmp_path / "wsgi.db")
    outbox.install_schema()
    calls = WSGIHydraCache(
        {
            "HYDRACACHE_OUTBOX": f"sqlite:///{tmp_path / 'wsgi.db'}",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": MemoryStore(),
            "HYDRACACHE_POOL": "none",
        }
    )

    def app(environ: Any = None, start_response: Any = None) -> list[bytes]:
        with closing(sqlite3.connect(tmp_path / "wsgi.db")) as connection:
            connection.execute("create table item (name text)")
            connection.commit()
            calls.invalidate_key("item:1")
            calls.write(connection)
        return [b"done"]

    if served:
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/"}
        calls.middleware(app)(environ, None)
    else:
        with calls.collecting("nightly"):
            app()

    assert [row.intent and row.intent.value for row in outbox.rows("shop")] == [
        "item:1"
    ]
    place = "POST /" if served else "nightly"
    assert f"{place} wrote key item:1 where no transaction was open" in caplog.text
