"""What a request changes on one connection and reads there is not stored, whatever else
the library knows of the request."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from alchemy_site import Site
from flask import g
from shop import Shop, close_db, end_db, hydracache, text
from sqlalchemy import create_engine
from sqlalchemy import text as sql
from sqlalchemy.orm import sessionmaker

from hydracache_sync import SQLiteOutbox
from hydracache_sync.integrations.sqlalchemy import attach, reads_own_writes


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    """A second database of the app."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table note (text)")
        connection.execute("insert into note values ('before')")
        connection.commit()
    return path


def note(connection: sqlite3.Connection) -> str:
    [(found,)] = connection.execute("select text from note")
    return str(found)


@pytest.fixture
def engine(other_file: Path) -> Iterator[Any]:
    """Of the second database."""
    engine = create_engine(f"sqlite:///{other_file}", future=True)
    yield engine
    engine.dispose()


class TestBesideAnAttachedSession:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        site = Site(tmp_path / "site.db", HYDRACACHE_SNAPSHOT="fresh")
        yield site
        site.close()

    def posted(self, site: Site, view: Callable[[], str]) -> str:
        answer = site.run(view)
        assert answer.status_code == 200
        return text(answer)

    def stored(self, site: Site) -> str | None:
        value: str | None = site.state.cache.get("note")
        return value

    @pytest.mark.parametrize("through", ["the extension", "the plain cache"])
    def test_what_a_raw_connection_has_changed_is_not_stored(
        self, site: Site, other_file: Path, through: str
    ) -> None:
        def view() -> str:
            assert site.item.name == "before"
            with closing(sqlite3.connect(other_file)) as raw:
                raw.execute("update note set text = 'never'")
                cache: Any = site.hydracache
                if through == "the plain cache":
                    cache = site.hydracache.cache
                found = cache.get_or_load("note", lambda: note(raw))
                raw.rollback()
            return str(found)

        assert self.posted(site, view) == "never"
        assert self.stored(site) is None

    def test_nor_what_it_has_if_a_loader_calls_another(
        self, site: Site, other_file: Path
    ) -> None:
        """The statements of the outer one say nothing of the inner one."""

        def view() -> str:
            with closing(sqlite3.connect(other_file)) as raw:
                raw.execute("update note set text = 'never'")

                def load() -> str:
                    assert site.item.name == "before"
                    cache = site.hydracache.cache
                    return str(cache.get_or_load("note", lambda: note(raw)))

                found = site.hydracache.get_or_load("page", load)
                raw.rollback()
            return str(found)

        assert self.posted(site, view) == "never"
        assert self.stored(site) is None

    def test_nor_what_a_connection_of_another_engine_has(
        self, site: Site, engine: Any
    ) -> None:
        def view() -> str:
            with engine.connect() as connection:
                connection.execute(sql("update note set text = 'never'"))
                found = site.hydracache.get_or_load(
                    "note",
                    lambda: connection.execute(sql("select text from note")).scalar(),
                )
                connection.rollback()
            return str(found)

        assert self.posted(site, view) == "never"
        assert self.stored(site) is None

    def test_nor_what_a_session_that_is_not_attached_has(
        self, site: Site, engine: Any
    ) -> None:
        def view() -> str:
            with sessionmaker(engine, future=True)() as session:
                session.execute(sql("update note set text = 'never'"))
                found = site.hydracache.get_or_load(
                    "note",
                    lambda: session.execute(sql("select text from note")).scalar(),
                )
                session.rollback()
            return str(found)

        assert self.posted(site, view) == "never"
        assert self.stored(site) is None

    def test_nor_what_the_session_itself_has_in_its_other_database(
        self, site: Site, engine: Any
    ) -> None:
        def view() -> str:
            session = site.db.session
            other = session.connection(bind_arguments={"bind": engine})
            other.execute(sql("update note set text = 'never'"))
            found = site.hydracache.get_or_load(
                "note", lambda: other.execute(sql("select text from note")).scalar()
            )
            session.rollback()
            return str(found)

        assert self.posted(site, view) == "never"
        assert self.stored(site) is None

    def test_what_the_session_reads_in_a_post_is_stored(self, site: Site) -> None:
        def view() -> str:
            return str(site.hydracache.get_or_load("note", lambda: str(site.item.name)))

        self.posted(site, view)

        assert self.stored(site) == "before"

    def test_so_is_what_a_session_that_is_not_attached_reads(
        self, site: Site, engine: Any
    ) -> None:
        def view() -> str:
            with sessionmaker(engine, future=True)() as session:
                session.execute(sql("update note set text = 'after'"))
                session.commit()
                return str(
                    site.hydracache.get_or_load(
                        "note",
                        lambda: session.execute(sql("select text from note")).scalar(),
                    )
                )

        self.posted(site, view)

        assert self.stored(site) == "after"

    def test_a_page_stores_what_it_reads_on_a_raw_connection(
        self, site: Site, other_file: Path
    ) -> None:
        @site.app.get("/note")
        def show() -> str:
            with closing(sqlite3.connect(other_file)) as raw:
                return str(site.hydracache.get_or_load("note", lambda: note(raw)))

        site.client.get("/note")

        assert self.stored(site) == "before"


class TestBesideAnAttachedSessionAndNamed:
    """``connection=`` names what the app uses past its session."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        site = Site(
            tmp_path / "site.db",
            connection=lambda: [None, g.get("raw")],
            HYDRACACHE_SNAPSHOT="fresh",
        )
        yield site
        site.close()

    def posted(self, site: Site, other_file: Path, change: str) -> str | None:
        """What is stored of a loader that reads through both."""

        def view() -> str:
            with closing(sqlite3.connect(other_file)) as g.raw:
                g.raw.execute(change)
                found = site.hydracache.get_or_load(
                    "note", lambda: f"{site.item.name} {note(g.raw)}"
                )
                g.raw.rollback()
            return str(found)

        assert site.run(view).status_code == 200
        value: str | None = site.state.cache.get("note")
        return value

    def test_what_a_loader_reads_of_its_changes_is_not_stored(
        self, site: Site, other_file: Path
    ) -> None:
        assert self.posted(site, other_file, "update note set text = 'never'") is None

    def test_where_it_has_only_read_it_is(self, site: Site, other_file: Path) -> None:
        stored = self.posted(site, other_file, "select text from note")

        assert stored == "before before"

    def test_what_the_session_has_changed_is_not(
        self, site: Site, other_file: Path
    ) -> None:
        def view() -> str:
            with closing(sqlite3.connect(other_file)) as g.raw:
                site.item.name = "never"
                site.db.session.flush()
                found = site.hydracache.get_or_load("note", lambda: site.item.name)
                site.db.session.rollback()
            return str(found)

        assert site.run(view).data == b"never"
        assert site.state.cache.get("note") is None

    def test_the_session_goes_on_writing_what_is_collected(
        self, site: Site, other_file: Path
    ) -> None:
        def view() -> str:
            with closing(sqlite3.connect(other_file)) as g.raw:
                site.item.name = "after"
                site.hydracache.invalidate_entity("item", "1")
                site.db.session.commit()
            return "changed"

        site.run(view)

        assert site.written() == ("after", ["1"])


class TestSeveralConnections:
    @pytest.fixture
    def shop(self, tmp_path: Path) -> Shop:
        """It has named two connections as those of its requests."""
        return Shop(
            tmp_path / "shop.db",
            first=lambda app: app.teardown_appcontext(close_db),
            options={"connection": lambda: [g.get("db"), g.get("other")]},
            HYDRACACHE_SNAPSHOT="fresh",
        )

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_what_the_second_has_changed_is_not_stored(
        self, shop: Shop, other_file: Path, method: str
    ) -> None:
        @shop.app.route("/", methods=["GET", "POST"])
        def view() -> str:
            with closing(sqlite3.connect(other_file)) as g.other:
                shop.db().execute("select * from item").fetchall()
                g.other.execute("update note set text = 'never'")
                found = hydracache.get_or_load("note", lambda: note(g.other))
                g.other.rollback()
            return found

        answer = shop.client.open("/", method=method)

        assert text(answer) == "never"
        assert shop.state.cache.get("note") is None

    def test_what_both_only_read_is_stored_in_a_post(
        self, shop: Shop, other_file: Path
    ) -> None:
        @shop.app.post("/")
        def view() -> str:
            with closing(sqlite3.connect(other_file)) as g.other:
                shop.db().execute("select * from item").fetchall()
                return hydracache.get_or_load("note", lambda: note(g.other))

        shop.client.post("/")

        assert shop.state.cache.get("note") == "before"

    def test_what_is_left_goes_into_the_transaction_of_the_first(
        self, tmp_path: Path
    ) -> None:
        shop = Shop(
            tmp_path / "shop.db",
            first=lambda app: app.teardown_appcontext(end_db),
            options={"connection": lambda: (g.get("db"), None)},
        )

        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            return "changed"

        shop.client.post("/")

        assert (shop.name(), shop.targets()) == ("after", ["item:1"])


def test_a_connection_named_in_passing_is_not_taken_for_the_only_one(
    tmp_path: Path, other_file: Path
) -> None:
    shop = Shop(
        tmp_path / "shop.db",
        first=lambda app: app.teardown_appcontext(close_db),
        HYDRACACHE_SNAPSHOT="fresh",
    )

    @shop.app.post("/")
    def view() -> str:
        with hydracache.transaction(shop.db()):
            shop.rename("after")
        with closing(sqlite3.connect(other_file)) as raw:
            raw.execute("update note set text = 'never'")
            found = hydracache.get_or_load("note", lambda: note(raw))
            raw.rollback()
        return found

    answer = shop.client.post("/")

    assert text(answer) == "never"
    assert shop.state.cache.get("note") is None


class TestUnattached:
    @pytest.fixture(autouse=True)
    def attached(self, tmp_path: Path) -> None:
        """The program has attached something else."""
        attach(sessionmaker(), SQLiteOutbox(tmp_path / "site.db"), "shop")

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_it_has_changes_until_its_transaction_ends(
        self, engine: Any, end: str
    ) -> None:
        with engine.connect() as connection:
            before = reads_own_writes()
            connection.execute(sql("update note set text = 'after'"))
            during = reads_own_writes()
            getattr(connection, end)()
            after = reads_own_writes()

        assert (before, during, after) == (True, False, True)

    def test_none_in_autocommit(self, engine: Any) -> None:
        eager = engine.execution_options(isolation_level="AUTOCOMMIT")

        with eager.connect() as connection:
            connection.execute(sql("update note set text = 'after'"))

            assert reads_own_writes()

    def test_none_when_it_was_given_back(self, engine: Any) -> None:
        connection = engine.connect()
        connection.execute(sql("update note set text = 'never'"))
        connection.close()

        assert reads_own_writes()
