"""Loads of an app that also read on a connection of a driver that nobody has named."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any, Callable, Iterator

import pytest
import sqlalchemy as sa
from flask import Flask, g
from mysql_callers import CALLERS, Caller
from mysql_databases import Database, fresh_database
from sqlalchemy.orm import scoped_session, sessionmaker

from hydracache_sync import InvalidationIntent, MemcachedApplier, MemoryStore
from hydracache_sync.integrations.flask import HydraCache
from support.servers import MariaDB

TAGS = ["item"]
SELECT = "select name from item where id = 1"


class Page:
    """A view of an app, and what another process does meanwhile."""

    def __init__(self, database: Database, attached: bool) -> None:
        self.database = database
        self.store = MemoryStore()
        self.view: Callable[[], Any] = str
        self.app = Flask("shop")
        self.app.config.update(
            SECRET_KEY="not secret",
            HYDRACACHE_OUTBOX=database.outbox(),
            HYDRACACHE_NAMESPACE="shop",
            HYDRACACHE_MEMCACHED=self.store,
            HYDRACACHE_POOL="none",
        )
        self.calls = HydraCache()
        self.engine = sa.create_engine("mysql+pymysql://", creator=database.connect)
        self.session = scoped_session(sessionmaker(bind=self.engine))
        named = None
        if attached:
            self.calls.attach(self.session)
            self.read_known = self.read_in_session
        else:
            named = self.named
            self.read_known = self.read_named
        self.calls.init_app(self.app, connection=named)
        self.app.add_url_rule("/", "page", lambda: str(self.view()))

    def named(self) -> Any:
        return g.get("db")

    def read_in_session(self) -> str:
        return str(self.session.execute(sa.text(SELECT)).scalar())

    def read_named(self) -> str:
        if "db" not in g:
            g.db = self.database.connect(autocommit=True)
        with g.db.cursor() as cursor:
            cursor.execute(SELECT)
            [(name,)] = cursor.fetchall()
        return str(name)

    def another_changes(self) -> None:
        def run() -> None:
            self.database.sql("update item set name = 'after'")
            applier = MemcachedApplier(self.store, "shop")
            assert applier.apply_batch([InvalidationIntent.tag("item")]) == [None]

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(60)

    def read(self, load: Callable[[], Any]) -> Any:
        return self.calls.get_or_load("item:1", load, tags=TAGS)

    def shows(self, view: Callable[[], Any]) -> str:
        self.view = view
        answer = self.app.test_client().get("/")
        assert answer.status_code == 200
        return answer.get_data(as_text=True)

    @property
    def stored(self) -> Any:
        return self.calls_of_app.cache.get("item:1", tags=TAGS)

    @property
    def refused(self) -> int:
        """How many loads were as old as the request, because of earlier ones or not."""
        counts = self.calls_of_app.cache.diagnostics()
        return counts.refused_earlier + counts.refused_unseen

    @property
    def calls_of_app(self) -> Any:
        return self.app.extensions["hydracache"]

    def end_request(self, exc: BaseException | None = None) -> None:
        self.session.remove()
        db = g.pop("db", None)
        if db is not None:
            db.close()


@pytest.fixture(params=["named", "attached"])
def page(request: pytest.FixtureRequest, mariadb: MariaDB) -> Iterator[Page]:
    with fresh_database(mariadb) as database:
        with closing(database.outbox()) as outbox:
            outbox.install_schema()
        database.sql("create table item (id integer primary key, name text)")
        database.sql("insert into item values (1, 'before')")
        page = Page(database, request.param == "attached")
        page.app.teardown_appcontext(page.end_request)
        yield page
        page.engine.dispose()
        page.calls_of_app.outbox.close()


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request: pytest.FixtureRequest) -> Caller:
    found: Caller = request.param
    return found


@pytest.fixture
def other(page: Page, caller: Caller) -> Iterator[Any]:
    with closing(caller.connect(page.database)) as connection:
        yield connection


def name(caller: Caller, connection: Any) -> str:
    [(found,)] = caller.execute(connection, SELECT)
    return found.decode() if isinstance(found, bytes) else str(found)


def test_what_is_read_there_beside_a_known_one_is_as_old_as_the_request(
    page: Page, caller: Caller, other: Any
) -> None:
    """Its snapshot is from before the change, and that of the known one is not."""

    def view() -> Any:
        caller.execute(other, SELECT)
        page.another_changes()
        return page.read(lambda: [name(caller, other), page.read_known()])

    assert page.shows(view) == "['before', 'after']"
    assert page.stored is None
    assert page.refused == 1


def test_so_it_is_if_the_request_had_not_read_there_before(
    page: Page, caller: Caller, other: Any
) -> None:
    """An earlier request has left its transaction open."""
    caller.execute(other, SELECT)

    def view() -> Any:
        page.another_changes()
        return page.read(lambda: [name(caller, other), page.read_known()])

    assert page.shows(view) == "['before', 'after']"
    assert page.stored is None
    assert page.refused == 1


def test_so_is_a_row_that_the_view_had_read_there(
    page: Page, caller: Caller, other: Any
) -> None:
    def view() -> Any:
        found = name(caller, other)
        page.another_changes()
        return page.read(lambda: [found, page.read_known()])

    assert page.shows(view) == "['before', 'after']"
    assert page.stored is None
    assert page.refused == 1


def test_so_is_what_a_load_within_the_load_reads_there(
    page: Page, caller: Caller, other: Any
) -> None:
    caller.execute(other, SELECT)

    def view() -> Any:
        page.another_changes()

        def load() -> list[Any]:
            inner = page.calls.get_or_load("inner", lambda: name(caller, other))
            return [inner, page.read_known()]

        return page.read(load)

    assert page.shows(view) == "['before', 'after']"
    assert page.stored is None


def test_what_is_read_on_known_ones_alone_is_stored(page: Page) -> None:
    def view() -> Any:
        page.another_changes()

        def load() -> list[Any]:
            return [page.calls.get_or_load("inner", page.read_known)]

        return page.read(load)

    assert page.shows(view) == "['after']"
    assert page.stored == ["after"]


def test_what_another_thread_sends_is_no_matter(page: Page) -> None:
    def view() -> Any:
        page.another_changes()

        def load() -> Any:
            page.another_changes()
            return page.read_known()

        return page.calls.get_or_load("other", load, tags=["another"])

    assert page.shows(view) == "after"
    assert page.calls_of_app.cache.get("other", tags=["another"]) == "after"
