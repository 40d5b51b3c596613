"""A connection outlives its request, and nobody has ended the transaction on it.

What the next request reads there may be older than an invalidation in between. It must
not be stored: the row of the invalidation is published, and nothing would end it.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import pymysql
import pytest
from flask import Flask
from fresh_mariadb import fresh_mariadb

from hydracache_sync import InvalidationIntent, MemcachedApplier, MemoryStore
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.wsgi import HydraCache
from support.servers import MariaDB

TAGS = ["item"]


@pytest.fixture(params=["sqlite", "mariadb"])
def connect(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], Any]]:
    """Make a connection to a database with one item, as drivers do by default."""
    if request.param == "sqlite":
        with closing(sqlite3.connect(tmp_path / "data.db")) as connection:
            connection.execute("pragma journal_mode=wal")
        yield lambda: sqlite3.connect(tmp_path / "data.db")
    else:
        server: MariaDB = request.getfixturevalue("mariadb")
        with fresh_mariadb(server) as (_, options):
            yield lambda: pymysql.connect(**options)


def run(connection: Any, statement: str) -> Any:
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


class Site:
    """An app whose one connection serves all of its requests."""

    def __init__(self, connect: Callable[[], Any], path: Path, **config: Any) -> None:
        self.connect = connect
        with closing(connect()) as connection:
            run(connection, "create table item (name varchar(20))")
            run(connection, "insert into item values ('before')")
            connection.commit()
        self.db = connect()
        self.store = MemoryStore()
        self.config = {
            "HYDRACACHE_OUTBOX": f"sqlite:///{path}",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": self.store,
            "HYDRACACHE_POOL": "none",
            "HYDRACACHE_CLOCK_SKEW": 0,
            **config,
        }
        self.loads = 0

    def name(self) -> str:
        self.loads += 1
        [(name,)] = run(self.db, "select name from item")
        return str(name)

    def leave_open(self) -> None:
        """Read in a transaction that nobody ends."""
        if isinstance(self.db, sqlite3.Connection):
            self.db.execute("begin")
        run(self.db, "select name from item")

    def another_changes(self) -> None:
        """Another process writes, commits and publishes; a while ago, by the token."""
        with closing(self.connect()) as connection:
            run(connection, "update item set name = 'after'")
            connection.commit()
        self.publish()

    def publish(self) -> None:
        applier = MemcachedApplier(self.store, "shop", clock=lambda: 1.0)
        assert applier.apply_batch([InvalidationIntent.tag("item")]) == [None]


class WSGISite(Site):
    def __init__(self, *args: Any, named: bool = True, **config: Any) -> None:
        super().__init__(*args, **config)
        self.calls = HydraCache(self.config)
        self.app = self.calls.middleware(
            self._app, connection=(lambda: self.db) if named else None
        )

    def _app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        return [self.cached().encode()]

    def cached(self) -> str:
        found: str = self.calls.get_or_load("item:1", self.name, tags=TAGS)
        return found

    def request(self) -> str:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
        return b"".join(self.app(environ, lambda *_: None)).decode()

    @property
    def stored(self) -> Any:
        return self.calls.cache.get("item:1", tags=TAGS)


class FlaskSite(Site):
    def __init__(self, *args: Any, **config: Any) -> None:
        super().__init__(*args, **config)
        self.calls = FlaskHydraCache()
        self.app = Flask(__name__)
        self.app.config.update(self.config, SECRET_KEY="of tests")
        self.calls.init_app(self.app, connection=lambda: self.db)
        self.app.add_url_rule("/", "show", self.cached)

    def cached(self) -> str:
        found: str = self.calls.get_or_load("item:1", self.name, tags=TAGS)
        return found

    def request(self) -> str:
        answer = self.app.test_client().get("/")
        assert answer.status_code == 200
        return str(answer.get_data(as_text=True))

    @property
    def stored(self) -> Any:
        with self.app.app_context():
            return self.calls.cache.get("item:1", tags=TAGS)


@pytest.fixture(params=[WSGISite, FlaskSite])
def make(
    request: pytest.FixtureRequest, connect: Callable[[], Any], tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    sites: list[Site] = []

    def made(**config: Any) -> Site:
        site: Site = request.param(connect, tmp_path / "outbox.db", **config)
        sites.append(site)
        return site

    yield made
    for each in sites:
        each.db.close()


@pytest.mark.parametrize(
    "snapshot",
    [
        "auto",
        "request",
        # The sqlite3 of Python 3.9 does not show where a load reads.
        pytest.param("fresh", marks=pytest.mark.needs_python(3, 10)),
    ],
)
def test_what_is_read_in_it_is_not_stored(
    make: Callable[..., Any], snapshot: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = make(HYDRACACHE_SNAPSHOT=snapshot)
    site.leave_open()
    site.another_changes()

    assert [site.request() for _ in range(3)] == ["before"] * 3  # the app's own fault

    assert site.stored is None
    assert site.loads == 3
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "Commit or roll back at the end of each request" in record.getMessage()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_request_that_ends_its_transaction_is_stored(
    make: Callable[..., Any], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = make()
    site.leave_open()
    getattr(site.db, end)()
    site.another_changes()

    assert site.request() == "after"
    getattr(site.db, end)()
    assert site.request() == "after"

    assert site.stored == "after"
    assert not caplog.records


def test_a_read_of_the_request_before_the_load_does_not_count(
    make: Callable[..., Any],
) -> None:
    """Of a visitor, say: its transaction began within the request."""
    site = make()
    site.publish()

    def view() -> str:
        site.leave_open()
        found = cached()
        site.db.rollback()
        return found

    cached, site.cached = site.cached, view
    if isinstance(site, FlaskSite):
        site.app.view_functions["show"] = view
    assert site.request() == site.request() == "before"

    assert site.stored == "before"


def test_it_may_be_ended_within_the_request(make: Callable[..., Any]) -> None:
    site = make()
    site.leave_open()
    site.another_changes()

    def view() -> str:
        site.db.rollback()
        return cached()

    cached, site.cached = site.cached, view
    if isinstance(site, FlaskSite):
        site.app.view_functions["show"] = view
    assert site.request() == site.request() == "after"

    assert site.stored == "after"


def test_a_fresh_load_elsewhere_is_stored(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The connection that is named may be one for writes alone."""
    site = make(HYDRACACHE_SNAPSHOT="fresh")
    site.leave_open()
    site.another_changes()

    def name() -> str:
        with closing(site.connect()) as connection:
            [(found,)] = run(connection, "select name from item")
            return str(found)

    site.name = name
    assert site.request() == "after"

    assert site.stored == "after"
    assert not caplog.records


@pytest.mark.parametrize("closed", [False, True])
def test_a_connection_that_cannot_be_asked_stores_as_before(
    make: Callable[..., Any], closed: bool
) -> None:
    """A closed one is opened again; one that fails to be named is named later."""
    site = make()
    site.publish()
    old, named = site.db, []

    def view() -> str:
        if not named:
            named.append(site.connect())
            site.db = named[0]
        return cached()

    old.close()
    if not closed:
        del site.db
    cached, site.cached = site.cached, view
    if isinstance(site, FlaskSite):
        site.app.view_functions["show"] = view
    assert site.request() == "before"
    site.db.rollback()
    assert site.request() == "before"

    assert site.stored == "before"


def test_what_pymysql_says_without_asking(mariadb: MariaDB) -> None:
    from hydracache_sync.drivers.pymysql import PyMySQLConnection

    with fresh_mariadb(mariadb) as (_, options):
        connection = pymysql.connect(**options)
        seen = PyMySQLConnection(connection).seen_in_snapshot
        run(connection, "create table item (name varchar(20)) engine=InnoDB")
        assert seen() is False
        run(connection, "select name from item")
        assert seen() is None
        connection.ping()
        assert seen() is True
        connection.rollback()
        assert seen() is False
        run(connection, "insert into item values ('a')")
        assert seen() is True
        connection.commit()
        connection.autocommit(True)
        run(connection, "select name from item")
        assert seen() is False
        connection.begin()
        assert seen() is True
        connection.close()
        assert seen() is False
