"""Which loads an app stores that is told nothing of its snapshots: those alone that are
seen to read in a fresh one. Each page reads in the middle of another's change."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from alchemy_site import Site
from flask import g
from shop import Shop, close_db, hydracache, text
from sqlalchemy import create_engine
from sqlalchemy import text as sql
from sqlalchemy.orm import sessionmaker

from hydracache_sync import InvalidationIntent, MemcachedApplier

TAGS = ["item"]


class Page:
    """Views of one app, and what another process does meanwhile."""

    def __init__(self, site: Any, calls: Any, namespace: str, path: Path) -> None:
        self.site = site
        self.calls = calls
        self.namespace = namespace
        self.path = path
        site.app.add_url_rule("/page", "page", lambda: self.view())
        self.view: Callable[[], str] = lambda: ""

    def another_changes(self, name: str = "after") -> None:
        """Another process writes, commits and publishes."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("update item set name = ? where id = 1", (name,))
            connection.commit()
        applier = MemcachedApplier(self.site.store, self.namespace)
        assert applier.apply_batch([InvalidationIntent.tag("item")]) == [None]

    def read(self, load: Callable[[], Any]) -> str:
        found: str = self.calls.get_or_load("item:1", load, tags=TAGS)
        return found

    def shows(self, view: Callable[[], str]) -> str:
        self.view = view
        answer = self.site.client.get("/page")
        assert answer.status_code == 200
        return text(answer)

    @property
    def stored(self) -> Any:
        with self.site.app.app_context():
            return self.site.state.cache.get("item:1", tags=TAGS)

    @property
    def refused(self) -> Any:
        return self.site.state.cache.diagnostics()


def name(connection: Any) -> str:
    [(found,)] = connection.execute("select name from item where id = 1")
    return str(found)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that nobody has named."""
    connection = sqlite3.connect(
        tmp_path / "site.db", isolation_level=None, check_same_thread=False
    )
    yield connection
    connection.close()


class TestConnectionOfTheApp:
    @pytest.fixture
    def page(self, tmp_path: Path) -> Page:
        shop = Shop(
            tmp_path / "site.db",
            first=lambda app: app.teardown_appcontext(close_db),
            options={"connection": lambda: g.get("db")},
        )
        return Page(shop, hydracache, "shop", tmp_path / "site.db")

    def test_a_load_that_opens_it_is_stored(self, page: Page) -> None:
        def view() -> str:
            page.another_changes()
            return page.read(lambda: name(page.site.db()))

        assert page.shows(view) == "after"
        assert page.stored == "after"

    def test_one_that_reads_on_it_without_a_transaction_is_stored(
        self, page: Page
    ) -> None:
        def view() -> str:
            before = name(page.site.db())
            page.another_changes()
            return before + page.read(lambda: name(page.site.db()))

        assert page.shows(view) == "beforeafter"
        # Python 3.9's sqlite3 does not show that the load has read there.
        assert page.stored == ("after" if sys.version_info >= (3, 10) else None)

    def test_what_is_read_in_an_open_transaction_is_not(self, page: Page) -> None:
        def view() -> str:
            page.site.db().execute("begin")
            name(page.site.db())
            page.another_changes()
            return page.read(lambda: name(page.site.db()))

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_transaction == 1

    def test_nor_if_it_was_seen_idle_before_and_the_loader_commits(
        self, page: Page
    ) -> None:
        def view() -> str:
            db = page.site.db()
            page.calls.get_or_load("another", lambda: name(db))
            db.execute("begin")
            name(db)
            page.another_changes()

            def load() -> str:
                found = name(db)
                db.commit()
                return found

            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None

    def test_a_transaction_without_a_read_yet_makes_nothing_old(
        self, page: Page
    ) -> None:
        def view() -> str:
            page.site.db().execute("begin deferred")
            page.another_changes()
            return page.read(lambda: name(page.site.db()))

        assert page.shows(view) == "after"
        assert page.stored in (None, "after")

    def test_nor_is_what_is_read_beside_a_cursor_that_still_reads(
        self, page: Page
    ) -> None:
        """It keeps its snapshot, and others of the connection read in that."""

        def view() -> str:
            db = page.site.db()
            rows = db.execute("select 1 union all select name from item")
            next(rows)
            page.another_changes()
            found = page.read(lambda: name(db))
            rows.close()
            return found

        assert page.shows(view) == "before"
        assert page.stored is None

    @pytest.mark.parametrize("is_open", [False, True])
    def test_nor_what_is_read_on_a_connection_that_was_not_named(
        self, page: Page, other: sqlite3.Connection, is_open: bool
    ) -> None:
        def view() -> str:
            if is_open:
                name(page.site.db())
            other.execute("begin")
            name(other)
            page.another_changes()
            return page.read(lambda: name(other))

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_unseen == 1

    def test_nor_what_is_read_by_another_thread(
        self, page: Page, other: sqlite3.Connection
    ) -> None:
        def load() -> str:
            found: list[str] = []
            thread = threading.Thread(target=lambda: found.append(name(other)))
            thread.start()
            thread.join()
            return found[0]

        def view() -> str:
            name(page.site.db())
            other.execute("begin")
            name(other)
            page.another_changes()
            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None

    def test_nor_what_the_request_had_read_before(self, page: Page) -> None:
        def view() -> str:
            found = name(page.site.db())
            page.another_changes()
            return page.read(lambda: found)

        assert page.shows(view) == "before"
        assert page.stored is None

    def test_nor_anything_while_the_app_cannot_name_it(
        self, tmp_path: Path, other: sqlite3.Connection
    ) -> None:
        def fails() -> Any:
            raise ZeroDivisionError

        shop = Shop(tmp_path / "site.db", options={"connection": fails})
        page = Page(shop, hydracache, "shop", tmp_path / "site.db")

        def view() -> str:
            other.execute("begin")
            name(other)
            page.another_changes()
            return page.read(lambda: name(other))

        assert page.shows(view) == "before"
        assert page.stored is None

    def test_nor_stored_in_place_of_an_entry_that_is_due(
        self, page: Page, other: sqlite3.Connection
    ) -> None:
        def stores() -> str:
            return page.read(lambda: name(page.site.db()))

        def view() -> str:
            other.execute("begin")
            name(other)
            page.another_changes()
            visitor = page.site.app.test_client()
            assert text(visitor.get("/stores")) == "after"
            time.sleep(0.01)
            return page.read(lambda: name(other))

        def read(load: Callable[[], Any]) -> str:
            found: str = page.calls.get_or_load(
                "item:1", load, tags=TAGS, soft_ttl=0.001
            )
            return found

        page.read = read  # type: ignore[method-assign]
        page.site.app.add_url_rule("/stores", "stores", stores)
        page.shows(view)

        assert page.stored == "after"

    def test_those_who_wait_for_such_a_load_do_not_get_it(
        self, page: Page, other: sqlite3.Connection
    ) -> None:
        """To them it looked as if it would begin a fresh snapshot."""
        loads, waits = threading.Event(), threading.Event()
        shown: list[str] = []

        def joins() -> str:
            def load() -> str:
                return name(page.site.db())

            loads.wait(20)
            threading.Timer(0.2, waits.set).start()
            return page.read(load)

        def view() -> str:
            other.execute("begin")
            name(other)
            page.another_changes()

            def load() -> str:
                loads.set()
                waits.wait(20)
                return name(other)

            return page.read(load)

        page.site.app.add_url_rule("/joins", "joins", joins)
        thread = threading.Thread(
            target=lambda: shown.append(text(page.site.app.test_client().get("/joins")))
        )
        thread.start()
        assert page.shows(view) == "before"
        thread.join(20)

        assert shown == ["after"]

    def test_one_loads_for_all_who_miss_at_once(self, page: Page) -> None:
        barrier = threading.Barrier(16)
        loads: list[str] = []
        shown: list[str] = []

        def view() -> str:
            barrier.wait(20)

            def load() -> str:
                loads.append("a load")
                threading.Event().wait(0.5)
                return name(page.site.db())

            return page.read(load)

        def visit() -> None:
            shown.append(text(page.site.app.test_client().get("/page")))

        page.view = view
        page.another_changes()
        threads = [threading.Thread(target=visit) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        assert shown == ["after"] * 16
        assert len(loads) == 1


class TestAttachedSession:
    @pytest.fixture
    def page(self, tmp_path: Path) -> Iterator[Page]:
        site = Site(
            tmp_path / "site.db",
            HYDRACACHE_SNAPSHOT="auto",
            HYDRACACHE_CLOCK_SKEW=1.0,
        )
        yield Page(site, site.hydracache, "site", tmp_path / "site.db")
        site.close()

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Any]:
        """Of the same database; not attached."""
        engine = create_engine(f"sqlite:///{tmp_path / 'site.db'}", future=True)
        yield engine
        engine.dispose()

    def test_a_load_that_begins_its_transaction_is_stored(self, page: Page) -> None:
        def view() -> str:
            page.another_changes()
            return page.read(lambda: page.site.item.name)

        assert page.shows(view) == "after"
        assert page.stored == "after"

    def test_also_after_a_commit(self, page: Page) -> None:
        def view() -> str:
            before = page.site.item.name
            page.site.db.session.commit()
            page.another_changes()
            return str(before + page.read(lambda: page.site.item.name))

        assert page.shows(view) == "beforeafter"
        assert page.stored == "after"

    @pytest.mark.parametrize("loader", ["reads", "commits", "nested"])
    def test_what_is_read_in_an_open_transaction_is_not(
        self, page: Page, loader: str
    ) -> None:
        session = page.site.db.session

        def load() -> str:
            if loader == "nested":
                with session.begin_nested():
                    return str(page.site.item.name)
            found = str(page.site.item.name)
            if loader == "commits":
                session.commit()
            return found

        def view() -> str:
            item = page.site.item
            assert item.name == "before"
            page.another_changes()
            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_transaction == 1

    def test_nor_objects_that_a_session_has_kept(self, page: Page, engine: Any) -> None:
        make = sessionmaker(engine, expire_on_commit=False, future=True)
        page.calls.attach(make)

        def view() -> str:
            with make() as session:
                item = session.get(page.site.Item, 1)
                session.commit()
                page.another_changes()

                def load() -> str:
                    session.execute(sql("select 1"))
                    return str(session.get(page.site.Item, 1).name)

                found = page.read(load)
                del item  # the session's own hold on it is weak
                return found

        assert page.shows(view) == "before"
        assert page.stored is None

    @pytest.mark.parametrize("kept", [False, True])
    def test_nor_what_a_session_shows_that_another_thread_has_begun(
        self, page: Page, tmp_path: Path, kept: bool
    ) -> None:
        engine = create_engine(
            f"sqlite:///{tmp_path / 'site.db'}",
            connect_args={"check_same_thread": False},
            future=True,
        )
        make = sessionmaker(engine, expire_on_commit=not kept, future=True)
        page.calls.attach(make)
        session = make()
        held: list[Any] = []

        def begin() -> None:
            session.execute(sql("begin"))
            held.append(session.get(page.site.Item, 1))
            if kept:
                session.commit()

        def load() -> str:
            session.execute(sql("select 1"))
            return str(session.get(page.site.Item, 1).name)

        def view() -> str:
            thread = threading.Thread(target=begin)
            thread.start()
            thread.join()
            page.another_changes()
            return page.read(load)

        try:
            assert page.shows(view) == "before"
            assert page.stored is None
        finally:
            session.close()
            engine.dispose()

    @pytest.mark.parametrize(
        ("through", "also"),
        [
            ("a session", False),
            ("a session", True),
            ("a connection", False),
            ("a connection", True),
            ("the driver", False),
        ],
    )
    def test_nor_what_is_read_where_nobody_follows(
        self,
        page: Page,
        engine: Any,
        other: sqlite3.Connection,
        through: str,
        also: bool,
    ) -> None:
        if through == "the driver":
            owner: Any = other
            statement: Any = "select name from item where id = 1"
        else:
            owner = engine.connect() if through != "a session" else None
            owner = owner or sessionmaker(engine, future=True)()
            statement = sql("select name from item where id = 1")

        def old() -> str:
            [(found,)] = owner.execute(statement)
            return str(found)

        def load() -> str:
            if also:
                page.site.db.session.execute(sql("select 1"))
            return old()

        def view() -> str:
            owner.execute("begin" if owner is other else sql("begin"))
            old()
            page.another_changes()
            return page.read(load)

        try:
            assert page.shows(view) == "before"
        finally:
            owner.close()
        assert page.stored is None
        assert page.refused.refused_unseen == 1

    @pytest.mark.parametrize("given", ["bind", "binds", "bind_arguments"])
    def test_a_connection_that_was_given_to_the_session_is_of_unknown_age(
        self, page: Page, engine: Any, given: str
    ) -> None:
        make = sessionmaker(future=True)
        page.calls.attach(make)
        statement = sql("select name from item")

        def view() -> str:
            with engine.connect() as connection:
                connection.execute(sql("begin"))
                connection.execute(statement).all()
                page.another_changes()
                options = {
                    "bind": {"bind": connection},
                    "binds": {"binds": {page.site.Item: connection}},
                    "bind_arguments": {},
                }[given]
                arguments = {"mapper": page.site.Item}
                if given == "bind_arguments":
                    arguments = {"bind": connection}
                with make(**options) as session:
                    return page.read(
                        lambda: str(
                            session.execute(
                                statement, bind_arguments=arguments
                            ).scalar()
                        )
                    )

        assert page.shows(view) == "before"
        assert page.stored is None

    @pytest.mark.parametrize("how", ["add", "merge"])
    def test_so_is_an_object_that_was_put_into_it(
        self, tmp_path: Path, how: str
    ) -> None:
        # The session is younger than the change, by more than the skew.
        site = Site(
            tmp_path / "other.db",
            HYDRACACHE_SNAPSHOT="auto",
            HYDRACACHE_CLOCK_SKEW=0.0,
        )
        page = Page(site, site.hydracache, "site", tmp_path / "other.db")
        session = site.db.session

        def put(item: Any) -> Any:
            if how == "merge":
                return session.merge(item, load=False)
            session.add(item)
            return item

        def load() -> str:
            session.execute(sql("select 1"))
            return str(site.item.name)

        def view() -> str:
            item = site.item
            session.remove()
            page.another_changes()
            time.sleep(0.01)
            item = put(item)
            shown = page.read(load)
            kept = page.stored
            session.commit()
            return f"{shown} {kept} {item.name} {page.read(load)}"

        try:
            assert page.shows(view) == "before None after after"
            assert page.stored == "after"
        finally:
            site.close()

    def test_of_an_engine_that_is_attached_the_same_holds(
        self, page: Page, engine: Any
    ) -> None:
        page.calls.attach(engine)
        statement = sql("select name from item where id = 1")

        def fresh() -> str:
            with engine.connect() as connection:
                return str(connection.execute(statement).scalar())

        def in_the_open(connection: Any) -> str:
            connection.execute(sql("begin"))
            connection.execute(statement).scalar()
            page.another_changes("later")
            return page.read(lambda: str(connection.execute(statement).scalar()))

        def view() -> str:
            page.another_changes()
            first = page.read(fresh)
            kept = page.stored
            with engine.connect() as connection:
                return f"{first} {kept} {in_the_open(connection)}"

        assert page.shows(view) == "after after after"
        assert page.stored is None


def test_without_any_knowledge_a_value_counts_for_as_old_as_the_request(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path / "site.db")
    shop.app.teardown_appcontext(close_db)
    page = Page(shop, hydracache, "shop", tmp_path / "site.db")

    def view() -> str:
        page.another_changes()
        return page.read(lambda: name(shop.db()))

    assert page.shows(view) == "after"
    assert page.stored is None
    assert page.refused.refused_request == page.refused.refused_snapshot == 1
