"""What is collected where a block or a request does not end as it began: within another
one, in another order, in a forked process, or never."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from flask import Flask

from hydracache_sync import ConfigurationError, MemoryStore, SQLiteOutbox
from hydracache_sync.integrations.flask import HydraCache as FlaskHydraCache
from hydracache_sync.integrations.wsgi import HydraCache

#: Seconds that a child may take, on a machine that does much else.
PATIENCE = 60.0


class Site:
    """A database with an outbox, and the calls of an app on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("create table item (name text)")
            db.execute("insert into item values ('before')")
        self.config: dict[str, Any] = {
            "HYDRACACHE_OUTBOX": f"sqlite:///{path}",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": MemoryStore(),
            "HYDRACACHE_POOL": "none",
        }
        self.calls = HydraCache(self.config)

    def keys(self) -> list[str | None]:
        """Of the rows that are durable."""
        return [row.intent and row.intent.value for row in self.outbox.rows("shop")]

    def generator(self, key: str) -> Iterator[None]:
        with self.calls.collecting(key):
            self.calls.invalidate_key(key)
            yield


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "shop.db")
    yield site
    site.calls.outbox.close()
    site.outbox.close()


def in_child(work: Callable[[], object]) -> int | None:
    """Run ``work`` in a child of multiprocessing; return what it exits with."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(PATIENCE)
    return child.exitcode


def serving(site: Site, work: Callable[[], object]) -> None:
    scope = site.calls.begin("POST", "/")
    with site.calls.current(scope):
        work()
    scope.end()


def in_a_script(site: Site, work: Callable[[], object]) -> None:
    with site.calls.collecting("a script"):
        work()


class TestForked:
    """A child has its parent's memory, and ends nothing that the parent serves."""

    @pytest.mark.parametrize("within", [serving, in_a_script])
    def test_a_block_of_a_child_is_its_own(self, site: Site, within: Any) -> None:
        def work() -> None:
            with site.calls.collecting("a child"):
                site.calls.invalidate_key("item")

        within(site, lambda: in_child(work))

        assert site.keys() == ["item"]

    @pytest.mark.parametrize("within", [serving, in_a_script])
    def test_a_child_without_one_is_refused(self, site: Site, within: Any) -> None:
        def work() -> None:
            with pytest.raises(ConfigurationError, match="forked"):
                site.calls.invalidate_key("item")

        codes = []
        within(site, lambda: codes.append(in_child(work)))

        assert codes == [0]

    def test_of_flask_its_exit_writes_what_it_collects_in_that_context(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls, app = FlaskHydraCache(), Flask("shop")
        app.config.update(SECRET_KEY="not secret", **site.config)
        calls.init_app(app)
        said = site.path.with_name("said")

        def work() -> None:
            calls.invalidate_key("item")
            said.write_text(caplog.text)

        @app.post("/")
        def view() -> str:
            calls.invalidate_key("of the parent")
            in_child(work)
            calls.discard()
            return "done"

        assert app.test_client().post("/").status_code == 200
        assert site.keys() == ["item"]
        assert "was forked from its own, and nothing ends it here" in said.read_text()


class TestNeverEnded:
    """The exit of the process ends it."""

    def in_a_script(self, site: Site) -> Any:
        generator = site.generator("item")
        next(generator)
        return generator

    def in_an_open_stream(self, site: Site) -> Any:
        def view(environ: Any, start_response: Any) -> Iterator[bytes]:
            site.calls.invalidate_key("item")
            yield b"a part"

        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/"}
        response = site.calls.middleware(view)(environ, lambda *_: None)
        next(iter(response))
        return response

    def let_go(self, site: Site) -> None:
        self.in_an_open_stream(site)

    @pytest.mark.parametrize("begin", [in_a_script, in_an_open_stream, let_go])
    def test_what_it_collected_is_written(self, site: Site, begin: Any) -> None:
        kept = []

        def work() -> None:
            kept.append(begin(self, site))

        assert in_child(work) == 0
        assert site.keys() == ["item"]

    def test_also_where_the_exit_is_that_of_python(self, site: Site) -> None:
        child = os.fork()
        if not child:
            kept = self.in_an_open_stream(site)
            atexit._run_exitfuncs()
            os._exit(0 if kept else 1)

        assert os.waitpid(child, 0)[1] == 0
        assert site.keys() == ["item"]


class TestGenerators:
    def test_blocks_that_end_in_the_order_of_their_begins_leave_nothing(
        self, site: Site
    ) -> None:
        first, second = site.generator("first"), site.generator("second")
        next(first)
        next(second)
        first.close()
        second.close()

        assert site.keys() == ["first", "second"]
        assert site.calls.current_scope is None
        with pytest.raises(ConfigurationError):
            site.calls.invalidate_key("item")

    def test_one_that_another_thread_ends_leaves_nothing(self, site: Site) -> None:
        generator = site.generator("item")
        next(generator)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(generator.close).result()

        assert site.keys() == ["item"]
        assert site.calls.current_scope is None


class TestNested:
    """A task that is called at once, by a script in a block of its own."""

    def test_what_it_collects_is_committed_with_the_open_transaction(
        self, site: Site
    ) -> None:
        with site.calls.collecting("a script"):
            with closing(sqlite3.connect(site.path)) as db:
                with site.calls.transaction(db):
                    with site.calls.collecting("a task", is_request=True):
                        site.calls.invalidate_key("item")
                    before = site.keys()
                    db.execute("update item set name = 'after'")

        assert (before, site.keys()) == ([], ["item"])

    @pytest.mark.parametrize("is_request", [True, False])
    def test_what_the_script_may_roll_back_is_not_stored(
        self, site: Site, is_request: bool
    ) -> None:
        def name() -> str:
            [(found,)] = db.execute("select name from item")
            return str(found)

        with closing(sqlite3.connect(site.path)) as db:
            with site.calls.collecting("before"):
                site.calls.get_or_load("item", name)
            with site.calls.collecting("a script"):
                db.execute("update item set name = 'never'")
                site.calls.invalidate_key("item")
                with site.calls.collecting("a task", is_request=is_request):
                    found = [
                        site.calls.get_or_load("item", name),
                        site.calls.refresh("item", name),
                    ]
                db.rollback()
                site.calls.discard()

        assert found == ["never", "never"]
        assert site.calls.cache.get("item") in (None, "before")

    def test_else_it_ends_by_itself(self, site: Site) -> None:
        with site.calls.collecting("a consumer"):
            with site.calls.collecting("a message"):
                site.calls.invalidate_key("item")
            assert site.keys() == ["item"]
