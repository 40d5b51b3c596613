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

#: Python 3.9's sqlite3 does not show whether statements were sent.
_TELLS_NO_READS = sys.version_info < (3, 10)


class Page:
    """Views of one app, and what another process does meanwhile."""

    def __init__(self, site: Any, calls: Any, namespace: str, path: Path) -> None:
        self.site = site
        self.calls = calls
        self.namespace = namespace
        self.path = path
        site.app.add_url_rule("/page", "page", lambda: self.view())
        self.view: Callable[[], str] = lambda: ""

    def another_changes(self, name: str = "after", *, in_flight: float = 0.0) -> None:
        """Another process writes, commits and publishes.

        :param in_flight: seconds since it has stamped the token.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("update item set name = ? where id = 1", (name,))
            connection.commit()
        applier = MemcachedApplier(
            self.site.store, self.namespace, clock=lambda: time.time() - in_flight
        )
        assert applier.apply_batch([InvalidationIntent.tag("item")]) == [None]

    def read(self, load: Callable[[], Any]) -> str:
        found: str = self.calls.get_or_load("item:1", load, tags=TAGS)
        return found

    def has_cached(self, key: str, load: Callable[[], str]) -> None:
        """See to it that an earlier request has stored what it loads."""
        for _ in range(2):
            self.shows(lambda: str(self.calls.get_or_load(key, load)))
        assert self.site.state.cache.get(key) == "before"

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
        assert page.stored == (None if _TELLS_NO_READS else "after")

    def test_so_is_what_refreshes_an_entry(self, page: Page) -> None:
        def view() -> str:
            page.another_changes()
            found: str = page.calls.refresh(
                "item:1", lambda: name(page.site.db()), tags=TAGS
            )
            return found

        assert page.shows(view) == "after"
        assert page.stored == (None if _TELLS_NO_READS else "after")

    def test_so_is_one_on_a_connection_that_nothing_was_read_on(
        self, page: Page
    ) -> None:
        def view() -> str:
            db = page.site.db()
            page.another_changes()
            return page.read(lambda: name(db))

        assert page.shows(view) == "after"
        assert page.stored == (None if _TELLS_NO_READS else "after")

    @pytest.mark.parametrize("also", [False, True])
    def test_a_row_that_the_request_had_read_before_is_not(
        self, page: Page, also: bool
    ) -> None:
        """Its transaction is over, and the loader returns it."""

        def view() -> str:
            found = name(page.site.db())
            page.site.db().commit()
            page.another_changes()

            def load() -> str:
                if also:
                    name(page.site.db())
                return found

            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_earlier == 1

    def test_nor_is_the_value_of_another_read(self, page: Page) -> None:
        page.has_cached("name", lambda: name(page.site.db()))

        def view() -> str:
            found = page.calls.get_or_load("name", lambda: "not loaded")
            page.another_changes()

            def load() -> str:
                name(page.site.db())
                return str(found)

            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_earlier == 1

    @pytest.mark.parametrize("reads", [False, True])
    def test_nor_what_is_read_beside_a_connection_that_the_load_has_opened(
        self, page: Page, other: sqlite3.Connection, reads: bool
    ) -> None:
        """A pool hands out what somebody has left a transaction open on."""

        def view() -> str:
            other.execute("begin")
            name(other)
            page.another_changes()

            def load() -> str:
                if reads:
                    g.db = other
                    return name(page.site.db())
                page.site.db()
                return name(other)

            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_unseen == 1

    def test_what_is_read_in_an_open_transaction_is_not(self, page: Page) -> None:
        def view() -> str:
            page.site.db().execute("begin")
            name(page.site.db())
            page.another_changes()
            return page.read(lambda: name(page.site.db()))

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_earlier == 1

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
                page.site.db()
            other.execute("begin")
            name(other)
            page.another_changes()
            return page.read(lambda: name(other))

        assert page.shows(view) == "before"
        assert page.stored is None
        if not is_open or not _TELLS_NO_READS:
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

    def test_nor_is_the_request_younger_when_its_view_has_asked_the_app_itself(
        self, page: Page
    ) -> None:
        client = page.site.app.test_client()

        def visited() -> str:  # stored by none, and so its tokens are known
            return page.read(lambda: "")

        def view() -> str:
            found = name(page.site.db())
            page.another_changes()
            # In a thread: what this request reads is another matter.
            thread = threading.Thread(target=lambda: client.get("/visited"))
            thread.start()
            thread.join(20)
            time.sleep(0.01)
            client.get("/plain")
            return page.read(lambda: found)

        page.site.app.add_url_rule("/visited", "visited", visited)
        page.site.app.add_url_rule("/plain", "plain", lambda: "")
        assert page.shows(view) == "before"
        assert page.stored is None

    def test_nor_does_a_post_become_safe_that_way(self, tmp_path: Path) -> None:
        shop = Shop(tmp_path / "site.db", HYDRACACHE_SNAPSHOT="fresh")
        page = Page(shop, hydracache, "shop", tmp_path / "site.db")

        def visited() -> str:
            return str(page.calls.get_or_load("item:2", lambda: "", tags=TAGS))

        def view() -> str:
            shop.app.test_client().get("/visited")
            return page.read(lambda: "perhaps rolled back")

        shop.app.add_url_rule("/visited", "visited", visited)
        shop.app.add_url_rule("/post", "post", view, methods=["POST"])
        assert text(shop.client.post("/post")) == "perhaps rolled back"
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
        shown: list[str] = []

        def stores() -> str:
            return page.read(lambda: name(page.site.db()))

        def visits() -> None:
            shown.append(text(page.site.app.test_client().get("/stores")))

        def view() -> str:
            other.execute("begin")
            name(other)
            page.another_changes()
            for _ in range(2):  # the second one has begun after its tokens
                thread = threading.Thread(target=visits)
                thread.start()
                thread.join(20)
            assert shown == ["after", "after"]
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

        page.another_changes()
        # It stores nothing; the tokens are there before the requests that follow.
        page.shows(lambda: name(page.site.db()) + page.read(lambda: "not stored"))
        page.view = view
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

    def test_a_row_that_the_request_had_read_before_is_not(self, page: Page) -> None:
        """Its transaction is over, and the loader returns it."""
        session = page.site.db.session

        def view() -> str:
            found = str(page.site.item.name)
            session.commit()
            page.another_changes()

            def load() -> str:
                session.execute(sql("select 1"))
                return found

            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_earlier == 1

    def test_nor_is_the_value_of_another_read(self, page: Page) -> None:
        session = page.site.db.session
        page.has_cached("name", lambda: str(page.site.item.name))

        def view() -> str:
            found = page.calls.get_or_load("name", lambda: "not loaded")
            page.another_changes()

            def load() -> str:
                session.execute(sql("select 1"))
                return str(found)

            return page.read(load)

        assert page.shows(view) == "before"
        assert page.stored is None
        assert page.refused.refused_earlier == 1

    def test_the_next_request_stores_what_it_reads(self, page: Page) -> None:
        """Whose tokens were there before it began."""

        def view() -> str:
            return str(page.site.item.name + page.read(lambda: page.site.item.name))

        page.another_changes()
        kept = [(page.shows(view), page.stored) for _ in range(2)]

        assert kept == [("afterafter", None), ("afterafter", "after")]

    def test_so_does_a_job_in_an_app_context(self, page: Page) -> None:
        def job() -> str:
            with page.site.app.app_context():
                found = str(page.site.item.name)
                page.read(lambda: page.site.item.name)
            return found

        page.another_changes()
        kept = [(job(), page.stored) for _ in range(2)]

        assert kept == [("after", None), ("after", "after")]

    def test_what_an_earlier_request_has_read_makes_nothing_old(
        self, page: Page
    ) -> None:
        page.shows(lambda: str(page.site.item.name))

        def view() -> str:
            page.another_changes()
            return page.read(lambda: page.site.item.name)

        assert page.shows(view) == "after"
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
        assert page.refused.refused_earlier == 1

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

    def test_nor_if_that_was_before_the_request_and_the_load_reads_elsewhere_too(
        self, page: Page, tmp_path: Path
    ) -> None:
        url = f"sqlite:///{tmp_path / 'site.db'}"
        options: Any = {"connect_args": {"check_same_thread": False}, "future": True}
        engine, unattached = create_engine(url, **options), create_engine(url)
        make = sessionmaker(engine, future=True)
        page.calls.attach(make)
        session = make()

        def begin() -> None:
            session.execute(sql("begin"))
            session.get(page.site.Item, 1)

        def load() -> str:
            with unattached.connect() as connection:
                connection.execute(sql("select 1"))
            session.execute(sql("select 1"))
            return str(session.get(page.site.Item, 1).name)

        try:
            thread = threading.Thread(target=begin)
            thread.start()
            thread.join()
            page.another_changes()
            # The tokens are older than the requests by now, by any clock.
            for _ in range(3):
                time.sleep(0.01)
                assert page.shows(lambda: page.read(load)) == "before"
            assert page.stored is None
        finally:
            session.close()
            engine.dispose()
            unattached.dispose()

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
            page.another_changes()
            return page.read(load)

        try:
            owner.execute("begin" if owner is other else sql("begin"))
            old()
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
            item = put(items[0])
            found = page.read(load)
            del item  # the session's own hold on it is weak
            return found

        try:
            with site.app.app_context():
                items = [site.item]
            page.another_changes()
            time.sleep(0.01)
            assert page.shows(view) == "before"
            assert page.stored is None
            assert page.shows(lambda: page.read(load)) == "after"
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


class TestValuesThatTheRequestWasGiven:
    """The loader of the item returns one. By their stamps the tokens are older than the
    request."""

    @pytest.fixture(params=["auto", "request"])
    def page(self, tmp_path: Path, request: Any) -> Iterator[Page]:
        site = Site(tmp_path / "site.db", HYDRACACHE_SNAPSHOT=request.param)
        page = Page(site, site.hydracache, "site", tmp_path / "site.db")
        # From here on its tokens are known, and it rests on a new one alone.
        for _ in range(2):
            page.shows(lambda: self.load(page) + page.read(lambda: self.load(page)))
            assert page.shows(lambda: self.named(page)) == "before"
        yield page
        site.close()

    def load(self, page: Page) -> str:
        page.site.db.session.execute(sql("select 1"))
        return str(page.site.item.name)

    def named(self, page: Page, **options: Any) -> str:
        found: str = page.calls.get_or_load(
            "name", lambda: self.load(page), tags=TAGS, **options
        )
        return found

    def stores(self, page: Page, found: str) -> str:
        """Have the item loaded, in a fresh transaction."""
        page.site.db.session.commit()
        return page.read(lambda: self.load(page) and found)

    @pytest.mark.parametrize("many", [False, True])
    def test_are_not_stored_under_a_token_that_was_another_then(
        self, page: Page, many: bool
    ) -> None:
        def view() -> str:
            if many:
                found = page.calls.get_many_or_load(["name"], dict, tags=TAGS)["name"]
            else:
                found = self.named(page)
            page.another_changes(in_flight=3600.0)
            return self.stores(page, found)

        assert page.shows(view) == "before"
        assert page.stored is None

    def test_nor_if_another_thread_has_loaded_them(self, page: Page) -> None:
        loads, goes_on = threading.Event(), threading.Event()
        page.another_changes("older", in_flight=3600.0)

        def slow() -> str:
            found = self.load(page)
            loads.set()
            goes_on.wait(20)
            return found

        def leads() -> str:
            return str(page.calls.get_or_load("name", slow, tags=TAGS))

        def view() -> str:
            loads.wait(20)
            threading.Timer(0.2, goes_on.set).start()
            found = page.calls.get_or_load("name", lambda: "not loaded", tags=TAGS)
            page.another_changes(in_flight=3600.0)
            return self.stores(page, found)

        thread = threading.Thread(
            target=page.site.app.test_client().get, args=["/page"]
        )

        def either() -> str:
            return leads() if threading.current_thread() is thread else view()

        page.view = either
        thread.start()
        assert page.shows(either) == "older"
        thread.join(20)

        assert page.stored is None

    def test_nor_if_they_were_out_of_date(self, page: Page) -> None:
        def fails() -> str:
            raise ConnectionError

        def view() -> str:
            found = page.calls.get_or_load(
                "name", fails, tags=TAGS, stale_on_error=lambda stale: stale.value
            )
            return self.stores(page, str(found))

        page.another_changes(in_flight=3600.0)
        assert page.shows(view) == "before"
        assert page.stored is None

    def test_are_stored_under_the_tokens_that_were_there(self, page: Page) -> None:
        page.another_changes("older", in_flight=2.0)
        page.shows(lambda: self.named(page))

        assert page.shows(lambda: self.stores(page, self.named(page))) == "older"
        assert page.stored == "older"
