"""Flask-SQLAlchemy, 2.5 and 3.x: what a view collects goes with ``db.session``."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from alchemy_site import ITEM, Site
from flask import abort, redirect
from shop import text
from sqlalchemy import create_engine, select
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site.db")
    yield site
    site.close()


class TestWrites:
    def test_what_a_view_collected_is_committed_with_its_data(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        receipts: list[Any] = []

        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.hydracache.invalidate_collection("items")
            site.db.session.commit()
            receipts.append(site.hydracache.receipt)
            return "done"

        assert site.run(view).status_code == 200

        assert site.written() == ("after", ["1", "items"])
        assert {row.reason for row in site.outbox.rows("site")} == {"POST rename_item"}
        assert receipts[0].targets == 2
        assert caplog.records == []

    @pytest.mark.parametrize("end", ["forgets", "raises", "aborts"])
    def test_without_a_commit_neither_is_there(
        self, site: Site, end: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.db.session.flush()
            if end == "raises":
                raise ZeroDivisionError
            if end == "aborts":
                abort(409)
            return "done"

        site.run(view)

        assert site.written() == ("before", [])
        assert [each for each in caplog.records if each.name != "site"] == []

    def test_a_view_that_raises_after_its_commit_loses_nothing(
        self, site: Site
    ) -> None:
        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.db.session.commit()
            raise ZeroDivisionError

        assert site.run(view).status_code == 500

        assert site.written() == ("after", ["1"])

    def test_a_rollback_takes_what_was_collected_since_the_transaction_began(
        self, site: Site
    ) -> None:
        def view() -> str:
            for name in ("never", "after"):
                site.item.name = name
                site.hydracache.invalidate_key(name)
                site.db.session.flush()
                if name == "never":
                    site.db.session.rollback()
            site.db.session.commit()
            return "done"

        site.run(view)

        assert site.written() == ("after", ["after"])

    def test_a_savepoint_takes_what_was_collected_in_it(self, site: Site) -> None:
        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_key("kept")
            savepoint = site.db.session.begin_nested()
            site.item.name = "never"
            site.hydracache.invalidate_key("lost")
            site.db.session.flush()
            savepoint.rollback()
            site.db.session.commit()
            return "done"

        site.run(view)

        assert site.written() == ("after", ["kept"])

    def test_what_was_written_before_its_savepoint_was_rolled_back_is_saved(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            session = site.db.session
            session.execute(sql("update item set name = 'after'"))
            site.hydracache.invalidate_key("kept")
            savepoint = session.begin_nested()
            driver = session.connection().connection
            site.hydracache.write(getattr(driver, "driver_connection", driver))
            savepoint.rollback()
            session.commit()
            return "done"

        site.run(view)

        assert site.written() == ("after", ["kept"])
        assert "went back to a savepoint" in caplog.text

    def test_what_the_drivers_own_commit_has_made_durable_is_saved(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_key("kept")
            site.db.session.flush()
            driver = site.db.session.connection().connection
            getattr(driver, "driver_connection", driver).commit()
            site.db.session.rollback()
            return "done"

        site.run(view)

        assert site.written() == ("after", ["kept"])
        assert "statements were committed one by one" in caplog.text

    def test_what_a_failed_flush_had_collected_is_rolled_back_with_it(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            site.db.session.add(site.Item(id=1, name="twice"))
            site.hydracache.invalidate_key("lost")
            with pytest.raises(IntegrityError):
                site.db.session.commit()
            site.db.session.rollback()
            return "done"

        site.run(view)

        assert site.written() == ("before", [])
        assert caplog.messages == []

    def test_what_was_collected_after_the_commit_is_saved_with_a_warning(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            site.item.name = "after"
            site.db.session.commit()
            site.hydracache.invalidate_entity("item", "1")
            return "done"

        site.run(view)

        assert site.written() == ("after", ["1"])
        assert "POST rename_item collected entity item 1" in caplog.text

    def test_what_a_session_that_changed_nothing_leaves_may_belong_to_another(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The view writes on a connection of its own, and forgets to say so."""

        def view() -> str:
            assert site.item.name == "before"
            with closing(sqlite3.connect(site.path)) as connection:
                connection.execute("update item set name = 'after'")
                site.hydracache.invalidate_entity("item", "1")
                connection.commit()
            site.db.session.rollback()
            return "done"

        site.run(view)

        assert site.written() == ("after", ["1"])
        assert "a transaction ended without a commit" in caplog.text

    def test_an_app_that_commits_at_teardown_gets_both(self, tmp_path: Path) -> None:
        site = Site(tmp_path / "teardown.db")

        @site.app.get("/read")
        def show() -> str:
            return read(site)

        @site.app.teardown_request
        def end(exc: BaseException | None) -> None:
            site.db.session.commit()

        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            return "done"

        answer = site.run(view)

        assert site.written() == ("after", ["1"])
        promised = answer.headers["Set-Cookie"]
        assert promised.startswith("hydracache-")
        site.state.runtime.worker.drain()
        assert "Max-Age=0" in site.client.get("/read").headers["Set-Cookie"]
        site.close()

    @pytest.mark.parametrize("phase", ["teardown_request", "teardown_appcontext"])
    def test_its_cookie_names_what_only_the_commit_finds_changed(
        self, tmp_path: Path, phase: str
    ) -> None:
        site = Site(tmp_path / "watched.db", HYDRACACHE_WAIT=0)
        site.sessions.watch(site.Item, entity="item")

        @site.app.get("/read")
        def show() -> str:
            return read(site)

        def end(exc: BaseException | None) -> None:
            site.db.session.commit()

        getattr(site.app, phase)(end)

        def view() -> str:
            site.item.name = "after"
            return "done"

        site.app.add_url_rule("/", "rename_item", view, methods=["POST"])
        assert text(site.client.get("/read")) == "before"
        site.client.post("/")

        assert site.written() == ("after", ["1"])
        assert text(site.client.get("/read")) == "after"
        site.state.runtime.worker.drain()
        assert "Max-Age=0" in site.client.get("/read").headers["Set-Cookie"]
        site.close()

    @pytest.mark.parametrize(("commits", "status"), [(True, 500), (False, 200)])
    def test_a_connection_in_autocommit_loses_nothing(
        self,
        site: Site,
        commits: bool,
        status: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        site.sessions.watch(site.Item, collections=["items"])

        def view() -> str:
            options = {"isolation_level": "AUTOCOMMIT"}
            site.db.session.connection(execution_options=options)
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.db.session.flush()
            if commits:
                site.db.session.commit()
            return "done"

        assert site.run(view).status_code == status

        assert site.written() == ("after", ["1", "items"])
        assert "statements were committed one by one" in caplog.text

    def test_models_that_are_watched_need_no_call(self, site: Site) -> None:
        site.sessions.watch(site.Item, entity="item", collections=["items"])

        def view() -> str:
            site.item.name = "after"
            site.db.session.commit()
            return "done"

        site.run(view)

        name, values = site.written()
        assert (name, sorted(values)) == ("after", ["1", "items"])

    def test_scripts_in_an_app_context_are_covered(self, site: Site) -> None:
        site.sessions.watch(site.Item, entity="item")

        with site.app.app_context():
            site.item.name = "after"
            site.db.session.commit()

        assert site.written() == ("after", ["1"])

    def test_inline_publishes_right_after_the_commit(self, tmp_path: Path) -> None:
        site = Site(tmp_path / "inline.db", HYDRACACHE_MODE="inline")
        published: list[bool] = []

        def view() -> str:
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.db.session.commit()
            published.extend(row.is_published for row in site.outbox.rows("site"))
            return "done"

        site.run(view)

        assert published == [True]
        site.close()


class TestTwoSessions:
    """Of which of them a collected intent is, nobody can know."""

    @pytest.fixture
    def other(self, site: Site) -> Iterator[Any]:
        engine = create_engine(f"sqlite:///{site.path}")
        make = sessionmaker(bind=engine)
        site.hydracache.attach(make)
        yield make
        engine.dispose()

    def test_both_write_what_was_collected_while_both_were_open(
        self, site: Site, other: Any
    ) -> None:
        def view() -> str:
            session = other()
            session.query(site.Item).all()
            assert site.item.name == "before"
            site.hydracache.invalidate_key("collected")
            site.db.session.commit()
            session.commit()
            session.close()
            return "done"

        site.run(view)

        assert site.written() == ("before", ["collected", "collected"])

    def test_a_rollback_of_one_takes_nothing_from_the_other(
        self, site: Site, other: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            session = other()
            session.query(site.Item).all()
            session.rollback()
            session.query(site.Item).all()
            site.item.name = "never"
            site.hydracache.invalidate_key("collected")
            site.db.session.flush()
            site.db.session.rollback()
            session.commit()
            session.close()
            return "done"

        site.run(view)

        assert site.written() == ("before", ["collected"])
        assert caplog.records == []

    def test_one_that_stays_open_does_not_make_the_other_repeat_itself(
        self, site: Site, other: Any
    ) -> None:
        def view() -> str:
            session = other()
            session.query(site.Item).all()
            for name in ("one", "two", "three"):
                site.item.name = name
                site.hydracache.invalidate_key(name)
                site.db.session.commit()
            session.close()
            return "done"

        site.run(view)

        assert site.written() == ("three", ["one", "two", "three"])

    def test_when_both_have_ended_nothing_is_kept_for_either(
        self, site: Site, other: Any
    ) -> None:
        with site.app.app_context():
            session = other()
            session.query(site.Item).all()
            site.item.name = "after"
            site.hydracache.invalidate_key("collected")
            site.db.session.commit()
            kept = site.hydracache.collected().intents
            session.close()
            left = site.hydracache.collected().intents

        assert len(kept) == 1
        assert left == ()


def read(site: Site) -> str:
    def load() -> str:
        return str(site.item.name)

    return site.hydracache.get_or_load("item:1", load, tags=[ITEM])


class TestReads:
    def test_a_view_reads_its_own_writes_and_stores_nothing_uncommitted(
        self, site: Site
    ) -> None:
        @site.app.get("/")
        def show() -> str:
            return read(site)

        @site.app.post("/shown")
        def change() -> str:
            site.item.name = "after"
            unflushed = read(site)
            site.db.session.flush()
            flushed = read(site)
            site.db.session.rollback()
            return f"{unflushed} {flushed} {read(site)}"

        assert text(site.client.get("/")) == "before"
        assert text(site.client.post("/shown")) == "after after before"
        assert text(site.client.get("/")) == "before"
        assert site.state.cache.diagnostics().fills == 1

    def test_post_redirect_get_shows_the_write_before_it_is_published(
        self, site: Site
    ) -> None:
        @site.app.get("/")
        def show() -> str:
            return read(site)

        @site.app.post("/change")
        def change() -> Any:
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.db.session.commit()
            return redirect("/")

        assert text(site.client.get("/")) == "before"
        site.client.post("/change")

        assert text(site.client.get("/")) == "after"
        assert text(site.app.test_client().get("/")) == "before"

    def test_a_session_that_an_earlier_request_left_open_stores_nothing_old(
        self, tmp_path: Path
    ) -> None:
        site = Site(
            tmp_path / "open.db",
            HYDRACACHE_SNAPSHOT="request",
            HYDRACACHE_COOKIE="",
        )
        runtime = site.state.runtime
        session = sessionmaker(bind=create_engine(f"sqlite:///{site.path}"))()
        site.hydracache.attach(session)

        def load() -> str:
            found = session.execute(select(site.Item.name)).scalar()
            return str(found)

        @site.app.get("/")
        def show() -> str:
            return site.hydracache.get_or_load("item:1", load, tags=[ITEM])

        # A value is not stored under tokens that its own read has made.
        site.client.get("/")
        session.rollback()
        with site.app.app_context():
            # The driver begins none for a SELECT.
            session.execute(sql("begin"))
            load()
            site.item.name = "after"
            site.hydracache.invalidate_entity("item", "1")
            site.db.session.commit()
        runtime.worker.drain()
        # Tokens have the time in whole milliseconds.
        time.sleep(0.01)

        assert text(site.client.get("/")) == "before"
        assert runtime.cache.diagnostics().fills == 0
        session.rollback()
        assert text(site.client.get("/")) == "after"
        assert runtime.cache.diagnostics().fills == 1
        session.close()
        session.get_bind().dispose()
        site.close()


def test_out_of_an_app_context_a_commit_with_intents_is_refused(site: Site) -> None:
    engine = create_engine(f"sqlite:///{site.path}")
    make = sessionmaker(bind=engine)
    sessions = site.hydracache.attach(make)
    sessions.watch(site.Item, entity="item")

    with make() as session:
        session.get(site.Item, 1).name = "after"
        with pytest.raises(RuntimeError, match="application context"):
            session.commit()

    engine.dispose()
    assert site.written() == ("before", [])
