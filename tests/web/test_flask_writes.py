"""What a view collects is written with its data, or neither is."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Response, abort, g, stream_with_context
from shop import Shop, close_db, end_db, hydracache

from hydracache_sync import InvalidationIntent, InvalidationIntentBatch, SchemaError
from hydracache_sync.app.fallback_writer import RETRY_AFTER
from hydracache_sync.outbox.row import OutboxState
from support.clock import Later


def written(shop: Shop) -> tuple[str, list[Any]]:
    return shop.name(), shop.targets()


def words(statements: list[str]) -> list[str]:
    """First words, without the pragma that asks a new connection for its file."""
    found = [text.split()[0] for text in statements]
    return [word for word in found if word != "pragma"]


class TestWrite:
    @pytest.fixture
    def shop(self, shop: Shop) -> Shop:
        shop.app.teardown_appcontext(close_db)
        return shop

    def test_all_kinds_are_written_by_one_statement(self, shop: Shop) -> None:
        statements: list[str] = []

        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            hydracache.invalidate_tag("items")
            hydracache.invalidate_entity("item", "1")
            hydracache.invalidate_collection("items:all")
            hydracache.flush()
            hydracache.invalidate(InvalidationIntent.key("item:2"))
            shop.db().set_trace_callback(statements.append)
            hydracache.write(shop.db())
            shop.db().commit()
            return "done"

        assert shop.client.post("/").status_code == 200

        kinds = [row.intent and row.intent.kind for row in shop.rows()]
        assert kinds == ["key", "tag", "entity", "collection", "flush", "key"]
        assert words(statements) == ["insert", "COMMIT"]
        assert {row.reason for row in shop.rows()} == {"POST view"}
        assert len({row.commit_position for row in shop.rows()}) == 1

    @pytest.mark.parametrize("commits", [True, False])
    def test_rows_go_with_the_data(self, shop: Shop, commits: bool) -> None:
        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            hydracache.write(shop.db())
            if commits:
                shop.db().commit()
            return "done"

        shop.client.post("/")

        assert written(shop) == (("after", ["item:1"]) if commits else ("before", []))

    def test_nothing_collected_writes_nothing(self, shop: Shop) -> None:
        with shop.app.app_context():
            assert hydracache.write(shop.db()) is None
            assert hydracache.receipt is None

            shop.db().close()

    def test_enqueue_writes_at_once_and_leaves_what_is_collected(
        self, shop: Shop
    ) -> None:
        with shop.app.app_context():
            shop.rename("after")
            hydracache.invalidate_key("collected")
            receipt = hydracache.enqueue(
                shop.db(),
                InvalidationIntent.key("one"),
                InvalidationIntentBatch().invalidate_tag("two"),
                reason="by hand",
            )
            shop.db().commit()
            now = shop.targets()
            hydracache.discard()

        assert now == ["one", "two"]
        assert receipt.targets == 2
        assert {row.reason for row in shop.rows()} == {"by hand"}

    def test_what_was_rolled_back_is_written_again_with_the_next_try(
        self, shop: Shop
    ) -> None:
        with shop.app.app_context():
            hydracache.invalidate_key("item:1")
            for attempt in range(2):
                shop.rename("after")
                hydracache.write(shop.db())
                if attempt == 0:
                    shop.db().rollback()
            shop.db().commit()

        assert written(shop) == ("after", ["item:1"])

    def test_what_was_committed_is_not_written_again(self, shop: Shop) -> None:
        with shop.app.app_context():
            for name in ("one", "two"):
                hydracache.invalidate_key(name)
                shop.rename(name)
                hydracache.write(shop.db())
                shop.db().commit()
            receipts = hydracache.receipts

        assert shop.targets() == ["one", "two"]
        assert len(receipts) == 2

    def test_a_connection_in_autocommit_is_refused_and_keeps_the_intents(
        self, shop: Shop
    ) -> None:
        with shop.app.app_context():
            hydracache.invalidate_key("item:1")
            connection = sqlite3.connect(shop.path, isolation_level=None)

            with pytest.raises(Exception, match="isolation_level=None"):
                hydracache.write(connection)

            connection.execute("begin")
            receipt = hydracache.write(connection)
            connection.commit()
            connection.close()

        assert receipt is not None and receipt.targets == 1
        assert shop.targets() == ["item:1"]

    def test_a_process_killed_right_after_the_commit_leaves_both(
        self, shop: Shop
    ) -> None:
        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            hydracache.write(shop.db())
            shop.db().commit()
            os._exit(9)

        pid = os.fork()
        if pid == 0:
            shop.client.post("/")
            os._exit(0)
        status = os.waitpid(pid, 0)[1]

        assert os.WEXITSTATUS(status) == 9
        assert written(shop) == ("after", ["item:1"])


class TestTransaction:
    @pytest.mark.parametrize(
        "options", [{}, {"isolation_level": None}, {"isolation_level": "IMMEDIATE"}]
    )
    def test_it_commits_data_and_rows(self, shop: Shop, options: Any) -> None:
        connection = sqlite3.connect(shop.path, **options)

        with shop.app.app_context():
            with hydracache.transaction(connection) as same:
                same.execute("update item set name = 'after'")
                hydracache.invalidate_key("item:1")

        connection.close()
        assert written(shop) == ("after", ["item:1"])

    @pytest.mark.parametrize(
        "options", [{}, {"isolation_level": None}, {"isolation_level": "IMMEDIATE"}]
    )
    def test_an_exception_rolls_both_back_and_comes_out(
        self, shop: Shop, options: Any
    ) -> None:
        connection = sqlite3.connect(shop.path, **options)

        with shop.app.app_context():
            with pytest.raises(ZeroDivisionError):
                with hydracache.transaction(connection):
                    connection.execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    raise ZeroDivisionError

        assert not connection.in_transaction
        connection.close()
        assert written(shop) == ("before", [])

    @pytest.mark.parametrize("options", [{}, {"isolation_level": None}])
    def test_what_the_block_has_committed_itself_is_invalidated(
        self, shop: Shop, options: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = sqlite3.connect(shop.path, **options)

        with shop.app.app_context():
            with pytest.raises(ZeroDivisionError):
                with hydracache.transaction(connection):
                    connection.execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    connection.executescript("create table other (id integer)")
                    raise ZeroDivisionError

        connection.close()
        assert written(shop) == ("after", ["item:1"])
        assert "no transaction was open when its block raised" in caplog.text

    @pytest.mark.parametrize("options", [{}, {"isolation_level": None}])
    @pytest.mark.parametrize("text", [False, True])
    @pytest.mark.parametrize("raises", [True, False])
    def test_what_the_block_has_committed_before_another_transaction_is_invalidated(
        self,
        shop: Shop,
        options: Any,
        text: bool,
        raises: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        connection = sqlite3.connect(shop.path, **options)

        with shop.app.app_context():
            with contextlib.suppress(ZeroDivisionError):
                with hydracache.transaction(connection):
                    connection.execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    connection.execute("commit") if text else connection.commit()
                    connection.execute("begin")
                    connection.execute("insert into item values (2, 'more')")
                    if raises:
                        raise ZeroDivisionError

        connection.close()
        assert written(shop) == ("after", ["item:1"])
        said = "ended the transaction that it had begun" if raises else "a crash in"
        assert said in caplog.text

    def test_a_block_in_a_block_commits_for_both(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection = sqlite3.connect(shop.path)

        with shop.app.app_context():
            with pytest.raises(ZeroDivisionError):
                with hydracache.transaction(connection):
                    connection.execute("update item set name = 'after'")
                    hydracache.invalidate_key("item:1")
                    with hydracache.transaction(connection):
                        pass
                    connection.execute("update item set name = 'lost'")
                    hydracache.invalidate_key("item:2")
                    raise ZeroDivisionError

        connection.close()
        assert written(shop) == ("after", ["item:1"])
        assert not caplog.messages

    @pytest.mark.needs_python(3, 12)
    @pytest.mark.parametrize("autocommit", [True, False])
    def test_the_newer_autocommit_is_understood(
        self, shop: Shop, autocommit: bool
    ) -> None:
        connection = sqlite3.connect(shop.path, autocommit=autocommit)

        with shop.app.app_context():
            with hydracache.transaction(connection):
                connection.execute("update item set name = 'after'")
                hydracache.invalidate_key("item:1")
            with pytest.raises(ZeroDivisionError):
                with hydracache.transaction(connection):
                    connection.execute("update item set name = 'again'")
                    hydracache.invalidate_key("item:2")
                    raise ZeroDivisionError

        connection.close()
        assert written(shop) == ("after", ["item:1"])

    def test_a_failed_block_keeps_what_was_collected_before_it(
        self, shop: Shop
    ) -> None:
        connection = sqlite3.connect(shop.path)

        with shop.app.app_context():
            hydracache.invalidate_key("before")
            for attempt in range(2):
                try:
                    with hydracache.transaction(connection):
                        connection.execute("update item set name = 'after'")
                        hydracache.invalidate_key("inside")
                        if attempt == 0:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    pass

        connection.close()
        assert shop.targets() == ["before", "inside"]

    def test_inline_publishes_right_after_the_commit(self, tmp_path: Path) -> None:
        shop = Shop(tmp_path / "shop.db", HYDRACACHE_MODE="inline")
        connection = sqlite3.connect(shop.path)

        with shop.app.app_context():
            with hydracache.transaction(connection):
                connection.execute("update item set name = 'after'")
                hydracache.invalidate_key("item:1")
            [row] = shop.rows()

        connection.close()
        assert row.is_published


class TestNet:
    """Nobody called write() before the commit."""

    @pytest.fixture
    def shop(self, shop: Shop) -> Shop:
        shop.app.teardown_appcontext(close_db)
        return shop

    def run(self, shop: Shop, view: Callable[[], Any]) -> int:
        shop.app.add_url_rule("/", "rename_item", view)
        return shop.client.get("/").status_code

    def test_what_was_collected_goes_out_with_a_warning_that_names_the_view(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_entity("item", "1")
            shop.db().commit()
            return "done"

        self.run(shop, view)

        assert written(shop) == ("after", ["1"])
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "GET rename_item collected entity item 1" in record.getMessage()
        assert "write() was not called" in record.getMessage()

    def test_a_view_that_raises_after_its_own_commit_loses_nothing(
        self, shop: Shop
    ) -> None:
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            shop.db().commit()
            raise ZeroDivisionError

        assert self.run(shop, view) == 500

        assert written(shop) == ("after", ["item:1"])

    def test_a_view_that_aborts_loses_nothing(self, shop: Shop) -> None:
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            shop.db().commit()
            abort(409)

        assert self.run(shop, view) == 409

        assert written(shop) == ("after", ["item:1"])

    def test_an_error_handler_may_collect_too(self, shop: Shop) -> None:
        @shop.app.errorhandler(ZeroDivisionError)
        def handle(exc: ZeroDivisionError) -> str:
            hydracache.invalidate_key("handled")
            return "handled"

        def view() -> str:
            raise ZeroDivisionError

        assert self.run(shop, view) == 200

        assert shop.targets() == ["handled"]

    @pytest.mark.parametrize("before_init", [True, False])
    def test_an_open_write_transaction_of_the_app_does_not_lock_it_out(
        self, tmp_path: Path, before_init: bool
    ) -> None:
        def register(app: Any) -> None:
            app.teardown_appcontext(close_db)

        shop = Shop(tmp_path / "own.db", first=register if before_init else None)
        if not before_init:
            register(shop.app)

        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            return "never committed"

        self.run(shop, view)

        assert written(shop) == ("before", ["item:1"])

    def test_a_streamed_response_writes_once(self, shop: Shop) -> None:
        def view() -> Response:
            hydracache.invalidate_key("in the view")

            def body() -> Any:
                hydracache.invalidate_key("in the body")
                yield "part"

            return Response(stream_with_context(body()))

        self.run(shop, view)

        assert sorted(map(str, shop.targets())) == ["in the body", "in the view"]

    def test_outside_of_a_request_it_works_too(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with shop.app.app_context():
            hydracache.invalidate_key("script")

        assert shop.targets() == ["script"]
        assert "an app context without a request" in caplog.text

    def test_a_nested_context_has_its_own(self, shop: Shop) -> None:
        with shop.app.app_context():
            hydracache.invalidate_key("outer")
            with shop.app.app_context():
                hydracache.invalidate_key("inner")
            inner = shop.targets()

        assert inner == ["inner"]
        assert shop.targets() == ["inner", "outer"]

    def test_a_database_that_is_gone_is_said_and_what_was_collected_is_kept(
        self,
        shop: Shop,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        away = shop.path.with_suffix(".away")

        def view() -> str:
            hydracache.invalidate_key("item:1")
            shop.path.rename(away)
            return "done"

        status = self.run(shop, view)
        away.rename(shop.path)
        Later(monkeypatch).advance(RETRY_AFTER)
        shop.client.get("/nothing-here")

        assert status == 200
        assert "the outbox could not be written at the end of a request" in caplog.text
        assert shop.targets() == ["item:1"]

    @pytest.mark.parametrize("writes", [False, True])
    def test_missing_tables_are_one_line_with_what_to_run(
        self,
        shop: Shop,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        writes: bool,
    ) -> None:
        with contextlib.closing(sqlite3.connect(shop.path)) as connection:
            connection.execute("drop table hydracache_outbox")

        def view() -> str:
            shop.db().execute("begin")
            hydracache.invalidate_key("item:1")
            if writes:
                with pytest.raises(SchemaError):
                    hydracache.write(shop.db())
            return "done"

        assert self.run(shop, view) == 200

        error, warning = [
            record
            for record in caplog.records
            if record.name == "hydracache_sync.app.fallback_writer"
        ]
        assert "hydracache schema install" in error.getMessage()
        assert (error.levelname, error.exc_info) == ("ERROR", None)
        assert "kept in this process" in warning.getMessage()
        assert ("SchemaError" in warning.getMessage()) is writes

        shop.outbox.install_schema()
        Later(monkeypatch).advance(RETRY_AFTER)
        shop.client.get("/nothing-here")

        assert shop.targets() == ["item:1"]

    def test_a_batch_beyond_the_limit_becomes_a_flush(self, tmp_path: Path) -> None:
        shop = Shop(tmp_path / "limited.db")
        shop.state.runtime.outbox.max_batch = 2

        def view() -> str:
            for number in range(3):
                hydracache.invalidate_key(f"item:{number}")
            return "done"

        assert self.run(shop, view) == 200

        [row] = shop.rows()
        assert row.intent == InvalidationIntent.flush()

    def test_a_locked_database_delays_the_page_no_longer_than_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop = Shop(tmp_path / "locked.db", HYDRACACHE_NET_TIMEOUT=0.01)
        other = sqlite3.connect(shop.path)
        other.execute("begin immediate")

        def view() -> str:
            hydracache.invalidate_key("item:1")
            return "done"

        # Without the limit the outbox would try for five seconds, in vain.
        assert self.run(shop, view) == 200
        other.rollback()
        other.close()
        Later(monkeypatch).advance(RETRY_AFTER)
        shop.client.get("/nothing-here")

        assert shop.targets() == ["item:1"]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_late_teardown_of_the_app_that_raises_loses_nothing(
        self, tmp_path: Path, first: bool
    ) -> None:
        def broken(exc: BaseException | None) -> None:
            raise ZeroDivisionError

        shop = Shop(
            tmp_path / "late.db",
            first=lambda app: first and app.teardown_appcontext(broken),
        )
        if not first:
            shop.app.teardown_appcontext(broken)

        with pytest.raises(ZeroDivisionError):
            with shop.app.app_context():
                hydracache.invalidate_key("item:1")

        assert shop.targets() == ["item:1"]

    def test_a_teardown_of_the_app_that_raises_loses_nothing_on_flask_3(
        self, shop: Shop
    ) -> None:
        @shop.app.teardown_request
        def broken(exc: BaseException | None) -> None:
            raise ZeroDivisionError

        def view() -> str:
            hydracache.invalidate_key("item:1")
            return "done"

        with pytest.raises(ZeroDivisionError):
            self.run(shop, view)

        assert shop.targets() == ["item:1"]

    def test_what_a_thread_collects_after_the_request_is_not_lost(
        self, tmp_path: Path
    ) -> None:
        """In a copy of its context."""
        shop = Shop(tmp_path / "copy.db")
        copies: list[contextvars.Context] = []

        @shop.app.get("/<step>")
        def show(step: str) -> str:
            if step == "first":
                copies.append(contextvars.copy_context())
            return step

        shop.client.get("/first")
        try:
            copies.pop().run(hydracache.invalidate_entity, "item", "1")
        except RuntimeError:
            return  # Flask before 2.2 says that there is no app
        gc.collect()
        shop.client.get("/second")

        assert shop.targets() == ["1"]


class TestTeardownEnqueueing:
    """``connection=`` was given: the app's own transaction gets it."""

    @pytest.fixture(params=["teardown_appcontext", "teardown_request"])
    def shop(self, tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
        """An app that commits in its own teardown, if the view has not raised."""
        return committing_shop(tmp_path / "td.db", request.param, before_init=True)

    def test_it_is_committed_with_the_data(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        statements: list[str] = []

        @shop.app.get("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            hydracache.invalidate_key("item:2")
            shop.db().set_trace_callback(statements.append)
            return "done"

        shop.client.get("/")

        assert written(shop) == ("after", ["item:1", "item:2"])
        assert words(statements) == ["insert", "COMMIT"]
        assert caplog.records == []

    def test_where_it_is_rolled_back_the_net_has_it_in_doubt(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No driver can tell whether the transaction is still that of the data."""

        @shop.app.get("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            raise ZeroDivisionError

        assert shop.client.get("/").status_code == 500

        assert written(shop) == ("before", ["item:1"])
        assert "was not committed" in caplog.text

    def test_nor_is_it_lost_in_a_second_transaction(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of an audit, after the commit of the data, that is never committed."""
        shop = Shop(
            tmp_path / "audit.db",
            first=lambda app: app.teardown_appcontext(close_db),
            options={"connection": lambda: g.get("db")},
        )

        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            shop.db().commit()
            shop.db().execute("insert into item values (2, 'audit')")
            return "done"

        shop.client.post("/")

        assert written(shop) == ("after", ["item:1"])
        assert "POST view collected key item:1" in caplog.text

    def test_nor_in_one_that_outlives_the_request(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept: list[sqlite3.Connection] = []
        shop = Shop(tmp_path / "kept.db", options={"connection": lambda: kept[0]})
        kept.append(sqlite3.connect(shop.path, timeout=0))

        @shop.app.post("/")
        def view() -> str:
            kept[0].execute("update item set name = 'after'")
            hydracache.invalidate_key("item:1")
            kept[0].commit()
            kept[0].execute("insert into item values (2, 'audit')")
            return "done"

        shop.client.post("/")
        kept[0].rollback()
        Later(monkeypatch).advance(RETRY_AFTER)
        with shop.app.app_context():
            pass  # the end of whatever comes next

        kept[0].close()
        assert written(shop) == ("after", ["item:1"])

    def test_where_the_view_has_committed_the_net_has_it(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.app.get("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            shop.db().commit()
            raise ZeroDivisionError

        shop.client.get("/")

        assert written(shop) == ("after", ["item:1"])
        assert "its transaction is not open any more" in caplog.text

    def test_where_no_connection_was_opened_the_net_has_it(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.app.get("/")
        def view() -> str:
            hydracache.invalidate_key("item:1")
            return "done"

        shop.client.get("/")

        assert shop.targets() == ["item:1"]
        assert "has no connection open" in caplog.text

    def test_a_connection_in_autocommit_is_left_alone(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        @shop.app.get("/")
        def view() -> str:
            shop.db().isolation_level = None
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            return "done"

        shop.client.get("/")

        assert written(shop) == ("after", ["item:1"])
        assert "not open any more" in caplog.text

    def test_requests_in_one_app_context_are_each_offered_their_own(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = committing_shop(tmp_path / "one.db", "teardown_request", True)

        @shop.app.post("/first")
        def first() -> str:
            hydracache.invalidate_key("item:1")
            return "done"

        @shop.app.post("/second")
        def second() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:2")
            return "done"

        with shop.app.app_context():
            shop.client.post("/first")
            shop.client.post("/second")
            found = written(shop)

        assert found == ("after", ["item:1", "item:2"])
        assert {row.reason for row in shop.rows()} == {"POST second"}
        assert caplog.records == []

    @pytest.mark.needs_python(3, 12)
    @pytest.mark.parametrize("commits", [True, False])
    def test_a_transaction_that_is_always_open_does_not_swallow_it(
        self, tmp_path: Path, commits: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = Shop(
            tmp_path / "always.db",
            first=lambda app: app.teardown_appcontext(close_db),
            options={"connection": lambda: g.get("db")},
        )

        @shop.app.get("/")
        def view() -> str:
            g.db = sqlite3.connect(shop.path, autocommit=False)
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            if commits:
                g.db.commit()
            return "done"

        shop.client.get("/")

        assert written(shop) == ("after" if commits else "before", ["item:1"])
        assert "cannot tell whether a transaction is open" in caplog.text

    def test_a_callable_that_fails_is_no_error_of_the_page(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> None:
            raise LookupError("no such thing")

        shop = Shop(tmp_path / "broken.db", options={"connection": broken})

        @shop.app.get("/")
        def view() -> str:
            hydracache.invalidate_key("item:1")
            return "done"

        assert shop.client.get("/").status_code == 200
        assert shop.targets() == ["item:1"]
        assert "LookupError: no such thing" in caplog.text

    def test_a_script_in_an_app_context_is_served_too(self, tmp_path: Path) -> None:
        shop = committing_shop(tmp_path / "s.db", "teardown_appcontext", True)

        with shop.app.app_context():
            shop.rename("after")
            hydracache.invalidate_key("item:1")

        assert written(shop) == ("after", ["item:1"])


def committing_shop(path: Path, phase: str, before_init: bool) -> Shop:
    """An app whose own teardown ends its transaction, in ``phase``."""

    def register(app: Any) -> None:
        getattr(app, phase)(end_db)

    shop = Shop(
        path,
        first=register if before_init else None,
        options={"connection": lambda: g.get("db")},
    )
    if not before_init:
        register(shop.app)
    return shop


class TestWrongOrder:
    def test_it_is_said_with_the_function_that_ran_before(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = committing_shop(tmp_path / "wrong.db", "teardown_request", False)

        @shop.app.get("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            return "done"

        shop.client.get("/")

        assert written(shop) == ("after", ["item:1"])
        [record] = caplog.records
        assert "shop.end_db ran before it" in record.getMessage()
        assert "before init_app()" in record.getMessage()

    def test_in_the_later_phase_the_order_does_not_matter(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = committing_shop(tmp_path / "later.db", "teardown_appcontext", False)

        @shop.app.get("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            return "done"

        shop.client.get("/")

        assert written(shop) == ("after", ["item:1"])
        assert caplog.records == []

    def test_a_script_is_told_as_well(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop = committing_shop(tmp_path / "ctx.db", "teardown_appcontext", False)

        with shop.app.app_context():
            shop.rename("after")
            hydracache.invalidate_key("item:1")

        assert written(shop) == ("after", ["item:1"])
        assert "shop.end_db ran before it" in caplog.text


def test_rows_are_pending_until_somebody_publishes(shop: Shop) -> None:
    connection = sqlite3.connect(shop.path)

    with shop.app.app_context():
        with hydracache.transaction(connection):
            hydracache.invalidate_key("item:1")
            connection.execute("update item set name = 'after'")

    connection.close()
    assert [row.state for row in shop.rows()] == [OutboxState.PENDING]
