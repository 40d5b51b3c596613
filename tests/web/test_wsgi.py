"""The middleware: what a plain WSGI app collects goes with its data, or out late."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import io
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Deque, Iterable, Iterator
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from hydracache_sync import (
    ConfigurationError,
    InvalidationIntentBatch,
    MemoryStore,
    SQLiteOutbox,
)
from hydracache_sync.app.fallback_writer import RETRY_AFTER
from hydracache_sync.cache import audit
from hydracache_sync.integrations.wsgi import HydraCache
from support.clock import Later

View = Callable[[], Iterable[bytes]]


class Site:
    """A WSGI app on SQLite with one view, which tests put in."""

    def __init__(self, path: Path, *, offers: bool = False, **config: Any) -> None:
        self.path = path
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table item (name text)")
            connection.execute("insert into item values ('before')")
            connection.commit()
        self.calls = HydraCache(
            {
                "HYDRACACHE_OUTBOX": f"sqlite:///{path}",
                "HYDRACACHE_NAMESPACE": "shop",
                "HYDRACACHE_MEMCACHED": MemoryStore(),
                "HYDRACACHE_POOL": "none",
                "HYDRACACHE_NET_TIMEOUT": 0.05,
                "PATH": "/usr/bin",
                **config,
            }
        )
        self.db: sqlite3.Connection | None = None
        self.view: View = lambda: [b"done"]
        self.app = self.calls.middleware(
            self._app, connection=(lambda: self.db) if offers else None
        )

    def _app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return self.view()

    def change(self) -> sqlite3.Connection:
        """Rename the item in an open transaction, and collect it."""
        if self.db is None:
            self.db = sqlite3.connect(self.path, timeout=0, check_same_thread=False)
        self.db.execute("update item set name = 'after'")
        self.calls.invalidate_key("item:1")
        return self.db

    def close_db(self, *, commits: bool = False) -> None:
        if self.db is not None:
            if commits:
                self.db.commit()
            self.db.close()
        self.db = None

    def get(self) -> Iterable[bytes]:
        """Call the app as a server would; the response is not read yet."""
        environ: dict[str, Any] = {"PATH_INFO": "/items", "QUERY_STRING": ""}
        environ["SCRIPT_NAME"] = ""
        setup_testing_defaults(environ)
        return validator(self.app)(environ, lambda *_: lambda data: None)

    def read(self) -> bytes:
        """A whole request."""
        body = self.get()
        try:
            return b"".join(body)
        finally:
            body.close()  # type: ignore[attr-defined]

    def written(self) -> tuple[str, list[Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            [(name,)] = connection.execute("select name from item")
        return name, self.targets()

    def targets(self) -> list[Any]:
        return [row.intent and row.intent.value for row in self.outbox.rows("shop")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site.db")
    yield site
    site.close_db()


@pytest.fixture
def offering(tmp_path: Path) -> Iterator[Site]:
    """A site that tells its connection, and ends its transaction in close()."""
    site = Site(tmp_path / "offering.db", offers=True)
    yield site
    site.close_db()


class Response:
    """A response of the app with a ``close()`` of its own."""

    def __init__(self, parts: Iterable[bytes], close: Callable[[], None]) -> None:
        self._parts = parts
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)


class TestWrite:
    def test_rows_go_with_the_data(self, site: Site) -> None:
        def view() -> list[bytes]:
            connection = site.change()
            site.calls.write(connection)
            connection.commit()
            return [b"done"]

        site.view = view

        assert site.read() == b"done"

        assert site.written() == ("after", ["item:1"])
        [row] = site.outbox.rows("shop")
        assert row.reason == "GET /items"

    def test_a_rollback_takes_both(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> list[bytes]:
            connection = site.change()
            site.calls.write(connection)
            connection.rollback()
            return [b"done"]

        site.view = view

        site.read()

        assert site.written() == ("before", [])
        assert caplog.records == []

    def test_a_transaction_publishes_inline_before_the_first_byte(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "inline.db", HYDRACACHE_MODE="inline")

        def view() -> Iterable[bytes]:
            connection = site.change()
            site.calls.write(connection)
            connection.commit()
            return iter([b"done"])

        site.view = view

        body = site.get()
        published = [row.is_published for row in site.outbox.rows("shop")]
        body.close()  # type: ignore[attr-defined]
        site.close_db()

        assert published == [True]

    def test_each_request_has_its_own(self, site: Site) -> None:
        receipts: list[Any] = []

        def view() -> list[bytes]:
            receipts.append(list(site.calls.receipts))
            connection = site.change()
            site.calls.write(connection)
            connection.commit()
            return [b"done"]

        site.view = view

        site.read()
        site.read()

        assert receipts == [[], []]
        assert site.targets() == ["item:1", "item:1"]

    def test_nothing_of_it_stays_in_the_thread(self, site: Site) -> None:
        site.view = lambda: parts(site)

        body = site.get()
        between = site.calls.collected_if_any()
        list(body)
        body.close()  # type: ignore[attr-defined]

        assert between is None
        with pytest.raises(ConfigurationError, match="nothing is being served"):
            site.calls.invalidate_key("item:1")

    def test_threads_do_not_see_each_others(self, tmp_path: Path) -> None:
        site = Site(tmp_path / "threads.db", HYDRACACHE_NET_TIMEOUT=10)
        barrier = threading.Barrier(4)

        def view() -> list[bytes]:
            site.calls.invalidate_key(threading.current_thread().name)
            barrier.wait(30)
            assert len(site.calls.collected()) == 1
            return [b"done"]

        site.view = view
        threads = [threading.Thread(target=site.read, name=f"t{n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(site.targets()) == ["t0", "t1", "t2", "t3"]


class TestNet:
    @pytest.mark.parametrize("kind", ["list", "generator"])
    def test_what_was_not_written_goes_out_with_a_warning(
        self, site: Site, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> Iterable[bytes]:
            site.change().commit()
            return [b"done"] if kind == "list" else (part for part in [b"done"])

        site.view = view

        site.read()

        assert site.written() == ("after", ["item:1"])
        assert "GET /items collected key item:1" in caplog.text
        assert "write() was not called" in caplog.text

    def test_a_view_that_raises_loses_nothing_and_its_error_comes_out(
        self, site: Site
    ) -> None:
        def view() -> list[bytes]:
            site.change().commit()
            raise ZeroDivisionError

        site.view = view

        with pytest.raises(ZeroDivisionError):
            site.get()

        assert site.written() == ("after", ["item:1"])

    def test_what_a_generator_collects_counts(self, site: Site) -> None:
        def view() -> Iterator[bytes]:
            site.change().commit()
            yield b"first"
            site.calls.invalidate_key("item:2")
            yield b"second"

        site.view = view

        assert site.read() == b"firstsecond"

        assert site.targets() == ["item:1", "item:2"]

    def test_a_generator_that_raises_loses_nothing(self, site: Site) -> None:
        def view() -> Iterator[bytes]:
            site.change().commit()
            yield b"first"
            raise ZeroDivisionError

        site.view = view

        with pytest.raises(ZeroDivisionError):
            site.read()

        assert site.targets() == ["item:1"]

    def test_a_client_that_goes_away_ends_the_request(self, site: Site) -> None:
        def view() -> Iterator[bytes]:
            site.change().commit()
            yield b"first"
            yield b"never sent"

        site.view = view
        body = site.get()

        next(iter(body))
        body.close()  # type: ignore[attr-defined]

        assert site.targets() == ["item:1"]

    def test_closed_twice_it_writes_and_closes_once(self, site: Site) -> None:
        closed: list[str] = []
        site.view = lambda: Response(parts(site), lambda: closed.append("once"))
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        body: Any = site.app(environ, lambda *_: lambda data: None)

        list(body)
        body.close()
        body.close()

        assert closed == ["once"]
        assert site.targets() == ["item:1"]

    def test_never_closed_it_is_written_by_the_next_request(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        site.view = lambda: parts(site)
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        body: Any = site.app(environ, lambda *_: lambda data: None)
        list(body)
        del body
        gc.collect()
        before = site.targets()
        site.view = lambda: [b"another"]

        site.read()

        assert before == []
        assert site.targets() == ["item:1"]
        assert "its response was never closed" in caplog.text

    def test_what_a_thread_collects_in_a_copy_of_its_context_is_not_lost(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Also after the request has ended."""
        copies = []

        def view() -> list[bytes]:
            copies.append(contextvars.copy_context())
            return [b"done"]

        site.view = view
        site.read()
        with ThreadPoolExecutor(1) as threads:
            run = copies.pop().run
            threads.submit(run, site.calls.invalidate_entity, "item", "1").result()
        del run
        gc.collect()
        site.view = lambda: [b"another"]
        site.read()

        assert site.targets() == ["1"]
        assert "a thread of the app has outlived it" in caplog.text

    def test_a_close_of_the_app_that_raises_loses_nothing(self, site: Site) -> None:
        def close() -> None:
            raise ZeroDivisionError

        site.view = lambda: Response(parts(site), close)

        with pytest.raises(ZeroDivisionError):
            site.read()

        assert site.targets() == ["item:1"]

    def test_an_open_transaction_of_the_app_delays_the_row_only(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def view() -> list[bytes]:
            site.change()
            return [b"done"]

        site.view = view
        site.read()
        locked_out = site.targets()
        site.close_db(commits=True)
        Later(monkeypatch).advance(RETRY_AFTER)
        site.view = lambda: [b"another"]

        site.read()

        assert locked_out == []
        assert site.written() == ("after", ["item:1"])


def parts(site: Site) -> Iterator[bytes]:
    site.change().commit()
    yield b"done"


class TestOffer:
    """``connection=`` was given, and the app ends its transaction in close()."""

    @pytest.mark.parametrize("commits", [True, False])
    def test_it_goes_with_the_data_and_out_where_that_is_in_doubt(
        self, offering: Site, commits: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = offering

        def view() -> Iterable[bytes]:
            site.change()
            return Response([b"done"], lambda: site.close_db(commits=commits))

        site.view = view

        site.read()

        assert site.written() == ("after" if commits else "before", ["item:1"])
        assert ("was not committed" in caplog.text) is not commits

    def test_what_the_close_of_the_app_collects_goes_out_too(
        self, offering: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = offering

        def close() -> None:
            site.close_db(commits=True)
            site.calls.invalidate_key("item:2")

        def view() -> Iterable[bytes]:
            site.change()
            return Response([b"done"], close)

        site.view = view

        site.read()

        assert site.written() == ("after", ["item:1", "item:2"])

    def test_an_error_in_the_view_offers_it_to_whoever_rolls_back(
        self, offering: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = offering

        def view() -> list[bytes]:
            site.change()
            raise ZeroDivisionError

        site.view = view

        with pytest.raises(ZeroDivisionError):
            site.get()
        site.close_db()

        assert site.written() == ("before", [])
        assert caplog.records == []

    def test_a_connection_that_is_no_function_is_refused(self, site: Site) -> None:
        connection: Any = "db"

        with pytest.raises(TypeError, match="must be a function"):
            site.calls.middleware(site.app, connection=connection)


class TestStrict:
    def test_a_commit_in_close_is_held_off_before(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = Site(tmp_path / "strict.db", offers=True, HYDRACACHE_MODE="strict")
        receipts: list[Any] = []

        def close() -> None:
            receipts.extend(site.calls.collected().written)
            site.close_db(commits=True)

        def view() -> Iterable[bytes]:
            site.change()
            return Response([b"done"], close)

        site.view = view

        site.read()

        assert site.written() == ("after", ["item:1"])
        assert [written.receipt.strict for written in receipts] == [True]
        assert caplog.records == []


class TestResponse:
    def test_lists_and_files_reach_the_server_as_they_are(self, site: Site) -> None:
        environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
        setup_testing_defaults(environ)
        file = FileWrapper(io.BytesIO(b"done"))
        answers = []

        for body in ([b"done"], (b"done",), file):
            site.view = lambda body=body: body  # type: ignore[misc]
            answers.append(site.app(environ, lambda *_: lambda data: None))

        assert answers == [[b"done"], (b"done",), file]

    def test_a_server_sends_it(self, site: Site) -> None:
        site.view = lambda: parts(site)
        out, errors = io.BytesIO(), io.StringIO()
        environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}

        handler = SimpleHandler(io.BytesIO(), out, errors, environ)
        handler.run(site.app)  # type: ignore[arg-type]

        assert errors.getvalue() == ""
        assert out.getvalue().endswith(b"\r\n\r\ndone")
        assert site.targets() == ["item:1"]


class TestReads:
    def test_a_request_reads_its_own_writes_and_stores_nothing_before_its_commit(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "reads.db", HYDRACACHE_SNAPSHOT="fresh")
        seen: list[str] = []

        def read(value: str) -> str:
            return site.calls.get_or_load("item:1", lambda: value)

        def view() -> list[bytes]:
            seen.append(read("before"))
            connection = site.change()
            seen.append(read("uncommitted"))
            connection.rollback()
            site.calls.discard()
            seen.append(read("again"))
            return [b"done"]

        site.view = view

        site.read()
        site.close_db()

        assert seen == ["before", "uncommitted", "before"]

    def test_what_a_request_may_have_read_before_an_invalidation_is_not_stored(
        self, site: Site
    ) -> None:
        def view() -> list[bytes]:
            batch = InvalidationIntentBatch().invalidate_key("item:1")
            site.outbox.enqueue("shop", batch)
            site.calls.runtime.worker.drain()
            site.calls.get_or_load("item:1", lambda: "older")
            return [b"done"]

        site.view = view

        site.read()

        assert site.calls.cache.diagnostics().fills == 0


class TestAfterAnError:
    """What a block has written is forgotten if it is rolled back, and only then."""

    @pytest.mark.parametrize("commits", ["an inner block", "the block itself"])
    def test_what_is_committed_all_the_same_is_waited_for(
        self, site: Site, commits: str
    ) -> None:
        calls = site.calls
        with calls.collecting("a script"):
            with pytest.raises(KeyError), calls.transaction(site.change()) as outer:
                if commits == "an inner block":
                    with calls.transaction(outer):
                        pass
                else:
                    calls.write(outer)
                    outer.commit()
                raise KeyError

            assert site.written() == ("after", ["item:1"])
            assert not calls.wait(0).satisfied
            read = calls.get_or_load("item:1", lambda: "loaded")
            assert (read, calls.reads_own_writes()) == ("loaded", False)
            assert calls.publish().complete

    def test_what_is_rolled_back_is_forgotten(self, site: Site) -> None:
        calls = site.calls
        with calls.collecting("a script"), closing(
            sqlite3.connect(site.path)
        ) as connection:
            with pytest.raises(KeyError), calls.transaction(connection):
                connection.execute("update item set name = 'after'")
                calls.invalidate_key("item:1")
                calls.write(connection)
                raise KeyError

            assert site.written() == ("before", [])
            assert calls.receipts == [] and calls.wait(0).satisfied


class TestScript:
    def test_a_block_collects_and_writes(self, site: Site) -> None:
        with site.calls.collecting("nightly import"):
            connection = site.change()
            with site.calls.transaction(connection):
                site.calls.invalidate_tag("items")

        assert site.written() == ("after", ["item:1", "items"])
        assert {row.reason for row in site.outbox.rows("shop")} == {"nightly import"}

    def test_within_a_request_its_reads_know_what_it_wrote(
        self, tmp_path: Path
    ) -> None:
        site = Site(tmp_path / "reads.db", HYDRACACHE_SNAPSHOT="fresh")

        def read() -> str:
            return site.calls.get_or_load("item:1", lambda: site.written()[0])

        def view() -> list[bytes]:
            before = read()
            with site.calls.collecting("a job that a view may run, too"):
                connection = site.change()
                site.calls.write(connection)
                connection.commit()
            return [f"{before} {read()}".encode()]

        site.view = view

        assert site.read() == b"before after"
        site.close_db()

    def test_what_it_leaves_goes_out_at_its_end(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        with contextlib.suppress(ZeroDivisionError):
            with site.calls.collecting("nightly import"):
                site.change().commit()
                raise ZeroDivisionError

        assert site.targets() == ["item:1"]
        assert "nightly import collected key item:1" in caplog.text

    def test_outside_of_all_this_it_is_told_what_to_do(self, site: Site) -> None:
        with pytest.raises(ConfigurationError, match="collecting"):
            site.calls.invalidate_key("item:1")

        assert site.calls.receipts == []


class TestConfig:
    def test_a_misspelt_key_is_named(self) -> None:
        with pytest.raises(ConfigurationError, match="did you mean HYDRACACHE_MODE"):
            HydraCache({"HYDRACACHE_MOD": "inline"})

    def test_the_pool_starts_with_the_first_request(self, tmp_path: Path) -> None:
        site = Site(tmp_path / "pool.db", HYDRACACHE_POOL="every")

        before = site.calls.pool
        with site.calls.collecting():
            script = site.calls.pool
        site.read()
        pool = site.calls.pool
        stopped = site.calls.stop_pool(30)

        assert (before, script) == (None, None)
        assert pool is not None and stopped


class TestReadYourWrites:
    """The recipe of docs/integrations/wsgi.md, as it is there."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        return Site(tmp_path / "shop.db", HYDRACACHE_MODE="eventual")

    @pytest.fixture
    def recipe(self, site: Site) -> dict[str, Any]:
        page = Path(__file__).parents[2] / "docs" / "integrations" / "wsgi.md"
        [code] = [
            block
            for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
            if "hmac" in block
        ]
        names: dict[str, Any] = {"hydracache": site.calls, "SECRET_KEY": b"secret"}
        exec(code, names)
        return names

    def test_it_waits_for_what_the_browser_wrote(
        self, site: Site, recipe: dict[str, Any]
    ) -> None:
        batch = InvalidationIntentBatch().invalidate_key("item:1")
        text = recipe["signed"](site.outbox.enqueue("shop", batch))

        before = recipe["is_published"](text)
        site.calls.runtime.worker.drain()

        assert (before, recipe["is_published"](text)) == (False, True)

    @pytest.mark.parametrize("forged", ["unsigned", "changed", "other", "\xe9", ""])
    def test_it_asks_nobody_about_what_is_not_of_this_app(
        self, site: Site, recipe: dict[str, Any], forged: str
    ) -> None:
        batch = InvalidationIntentBatch().invalidate_key("item:1")
        receipt = site.outbox.enqueue("shop", batch)
        other = site.outbox.enqueue("blog", batch)
        text = {
            "unsigned": receipt.to_string(),
            "changed": recipe["signed"](receipt)[:-1] + "9",
            "other": recipe["signed"](other),
        }.get(forged, forged)

        assert recipe["earlier_receipt"](text) is None
        assert recipe["is_published"](text) is True


class TestEnds:
    def test_two_threads_may_end_one_abandoned_request(self, site: Site) -> None:
        class SeenByBoth(Deque[Any]):
            """Empty by the time that this thread takes what it saw there."""

            def __bool__(self) -> bool:
                return True

        site.calls.runtime.abandoned = SeenByBoth()

        body = site.get()
        assert list(body) == [b"done"]
        body.close()  # type: ignore[attr-defined]

    def test_what_was_collected_outlives_an_exit_of_the_offer(
        self, tmp_path: Path
    ) -> None:
        class Ended(BaseException):
            pass

        def connection() -> Any:
            if site.db is not None:  # it is asked at the begin, too
                raise Ended

        site = Site(tmp_path / "other.db")
        site.app = site.calls.middleware(site._app, connection=connection)

        def view() -> Iterable[bytes]:
            site.change().commit()
            return [b"done"]

        site.view = view
        with pytest.raises(Ended):
            site.get()

        assert site.targets() == ["item:1"]
        site.close_db()

    @pytest.mark.parametrize("fails", [False, True])
    def test_what_is_written_again_is_announced_as_what_is_new(
        self, tmp_path: Path, fails: bool
    ) -> None:
        site = Site(tmp_path / "inline.db", HYDRACACHE_MODE="inline")
        seen: list[bool] = []

        def view() -> Iterable[bytes]:
            connection = site.change()
            site.calls.write(connection)
            connection.rollback()
            if fails:
                with pytest.raises(ZeroDivisionError):
                    with site.calls.transaction(connection):
                        1 / 0
            with site.calls.transaction(connection):
                site.calls.invalidate_key("item:2")
            seen.append(site.calls.reads_own_writes())
            seen.append(site.calls.publish().claimed == 0)
            return [b"done"]

        site.view = view
        site.get().close()  # type: ignore[attr-defined]

        assert seen == [True, True]
        assert sorted(map(str, site.targets())) == ["item:1", "item:2"]
        site.close_db()


def test_an_audit_names_the_request_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 1000.0
    monkeypatch.setattr(audit, "monotonic", lambda: seconds)
    names = ["before"]
    site = Site(tmp_path / "shop.db", HYDRACACHE_AUDIT=1, HYDRACACHE_SNAPSHOT="fresh")
    events: list[Any] = []
    site.calls.cache.subscribe(events.append)

    def view() -> list[bytes]:
        site.calls.get_or_load("item", lambda: names[-1], tags=["item"])
        return [b"done"]

    site.view = view
    for _ in range(3):
        site.read()
        names.append("by hand")
        seconds += audit.SETTLE

    assert [event.request for event in events] == ["GET /items"]
