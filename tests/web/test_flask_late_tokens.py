"""Two Flask apps with default settings, and what one sends to memcached is late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator

import pymysql
import pytest
from flask import Flask, g
from fresh_mariadb import fresh_mariadb

from hydracache_sync import (
    MemcachedApplier,
    MemcachedStore,
    MySQLOutbox,
    OutboxWorker,
    entity_tag,
)
from hydracache_sync.integrations.flask import HydraCache
from support.late_link import PATIENCE, Link
from support.servers import MariaDB, Memcached

NAMESPACE = "shop"
SKEW = 0.05


class Host:
    """One host's app, on PyMySQL in REPEATABLE READ, which publishes in line."""

    def __init__(self, options: dict[str, Any], store: MemcachedStore) -> None:
        self.options = options
        self.go_on = threading.Event()
        self.began = threading.Event()
        self.cache = HydraCache()
        url = "mysql://{user}:{password}@{host}:{port}/{database}"
        app = Flask("shop")
        app.config.update(
            SECRET_KEY="not secret",
            HYDRACACHE_OUTBOX=url.format(**options),
            HYDRACACHE_NAMESPACE=NAMESPACE,
            HYDRACACHE_MEMCACHED=store,
            HYDRACACHE_MODE="inline",
            HYDRACACHE_POOL="none",
            HYDRACACHE_CLOCK_SKEW=SKEW,
        )
        # The app's own teardown runs before ours.
        app.teardown_appcontext(self.close_db)
        self.cache.init_app(app)
        app.add_url_rule("/", view_func=self.page)
        app.add_url_rule("/slow", view_func=self.slow)
        app.add_url_rule("/<int:version>", view_func=self.write, methods=["POST"])
        self.client = app.test_client(use_cookies=False)

    def db(self) -> Any:
        if "db" not in g:
            g.db = pymysql.connect(**self.options)
        return g.db

    def close_db(self, error: object) -> None:
        if "db" in g:
            g.pop("db").close()

    def version(self) -> int:
        with self.db().cursor() as cursor:
            cursor.execute("select version from item where id = 1")
            [version] = cursor.fetchone()
        return int(version)

    def page(self) -> str:
        return str(
            self.cache.get_or_load("k", self.version, tags=[entity_tag("item", "1")])
        )

    def slow(self) -> str:
        """Works for a while in its transaction before it reads through the cache."""
        self.version()
        self.began.set()
        assert self.go_on.wait(PATIENCE)
        return self.page()

    def write(self, version: int) -> str:
        with self.db().cursor() as cursor:
            cursor.execute("update item set version = %s where id = 1", (version,))
        self.cache.invalidate_entity("item", "1")
        self.cache.write(self.db())
        self.db().commit()
        return "done"

    def get(self, path: str = "/") -> str:
        return str(self.client.get(path).get_data(as_text=True))

    def post(self, version: int) -> None:
        assert self.client.post(f"/{version}").status_code == 200


@pytest.fixture
def server() -> Iterator[Memcached]:
    with Memcached() as server:
        yield server


@pytest.fixture
def link(server: Memcached) -> Iterator[Link]:
    with Link(server.address) as link:
        yield link


@pytest.fixture
def database(mariadb: MariaDB) -> Iterator[dict[str, Any]]:
    with fresh_mariadb(mariadb) as (_, options):
        outbox = MySQLOutbox(**options)
        outbox.install_schema()
        outbox.close()
        connection = pymysql.connect(**options)
        with connection, connection.cursor() as cursor:
            cursor.execute("create table item (id integer, version integer)")
            cursor.execute("insert into item values (1, 0)")
            connection.commit()
        yield options


@pytest.mark.parametrize("cut", [Link.hold, Link.hold_after_reply])
def test_a_slow_page_does_not_bring_back_what_was_there_before_a_commit(
    database: dict[str, Any],
    server: Memcached,
    link: Link,
    cut: Callable[[Link], None],
) -> None:
    store_a = MemcachedStore([link.address], timeout=0.4, retry_after=0)
    store_b = MemcachedStore([server.address])
    a, b = Host(database, store_a), Host(database, store_b)
    assert (a.get(), b.get()) == ("0", "0")
    cut(link)
    a.post(1)
    assert link.wait_until_given_up()
    outbox = MySQLOutbox(**database)
    OutboxWorker(outbox, MemcachedApplier(store_b, NAMESPACE)).drain()
    # More than the clocks of hosts may differ.
    time.sleep(2 * SKEW)

    with ThreadPoolExecutor() as executor:
        slow = executor.submit(b.get, "/slow")
        assert b.began.wait(PATIENCE)
        b.post(2)
        link.release()
        assert link.wait_until_delivered()
        b.go_on.set()
        # Its transaction is that old, so it may.
        assert slow.result(PATIENCE) == "1"

    assert outbox.status(NAMESPACE).pending == 0
    assert (a.get(), b.get(), b.get()) == ("2", "2", "2")
    outbox.close()
    store_a.close()
    store_b.close()
