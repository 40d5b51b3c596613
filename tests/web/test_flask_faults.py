"""What breaks under a Flask app loses nothing, and costs a page a bounded time."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest
from shop import Shop, close_db, hydracache

from hydracache_sync import MemcachedStore
from hydracache_sync.app.fallback_writer import RETRY_AFTER
from support.clock import Later
from support.faulty_memcached import FaultyMemcached, Mode
from support.servers import Memcached

#: Seconds after which a page counts as one that has no limit at all.
FAR_TOO_LONG = 20.0


def add_view(shop: Shop) -> None:
    shop.app.teardown_appcontext(close_db)

    @shop.app.post("/")
    def rename() -> str:
        with hydracache.transaction(shop.db()):
            shop.rename("after")
            hydracache.invalidate_key("item:1")
        return "done"


def pending(shop: Shop) -> int:
    return sum(not row.is_published for row in shop.rows())


class TestInlinePublish:
    @pytest.fixture
    def node(self) -> Iterator[FaultyMemcached]:
        with FaultyMemcached() as node:
            yield node

    @pytest.mark.parametrize("mode", [Mode.HANG, Mode.REFUSE, Mode.SERVER_ERROR])
    def test_a_memcached_that_is_gone_costs_a_page_its_timeout_and_no_row(
        self, tmp_path: Path, node: FaultyMemcached, mode: Mode
    ) -> None:
        shop = Shop(
            tmp_path / "i.db",
            HYDRACACHE_MODE="inline",
            HYDRACACHE_MEMCACHED=node.address,
            HYDRACACHE_TIMEOUT=0.1,
            HYDRACACHE_CONNECT_TIMEOUT=0.1,
        )
        add_view(shop)
        node.mode = mode
        started = time.monotonic()

        answer = shop.client.post("/")

        assert answer.status_code == 200
        assert time.monotonic() - started < FAR_TOO_LONG
        assert (shop.name(), pending(shop)) == ("after", 1)

    def test_the_pages_after_it_do_not_wait_again(
        self, tmp_path: Path, node: FaultyMemcached
    ) -> None:
        # As the app's own store, but for the time until it tries the node again.
        store = MemcachedStore([node.address], timeout=0.1, retry_after=3600)
        shop = Shop(
            tmp_path / "i.db", HYDRACACHE_MODE="inline", HYDRACACHE_MEMCACHED=store
        )
        add_view(shop)
        node.mode = Mode.HANG
        asked = []

        for _ in range(2):
            shop.client.post("/")
            asked.append(len(node.requests))
        store.close()

        # The node is left alone after its failure: the second page sent nothing.
        assert asked[0] > 0
        assert asked[1] == asked[0]
        assert pending(shop) == 2

    def test_a_worker_publishes_what_the_page_could_not(
        self, tmp_path: Path, unique: str
    ) -> None:
        with Memcached() as server:
            shop = Shop(
                tmp_path / "i.db",
                HYDRACACHE_MODE="inline",
                HYDRACACHE_MEMCACHED=server.address,
                HYDRACACHE_TIMEOUT=0.2,
            )
            add_view(shop)
            server.pause()
            shop.client.post("/")
            before = pending(shop)
            server.resume()

            ended = shop.app.test_cli_runner().invoke(args=["hydracache", "drain"])

        assert before == 1
        assert ended.exit_code == 0, ended.output
        assert pending(shop) == 0


def test_a_process_killed_between_commit_and_publish_leaves_the_row_to_a_worker(
    tmp_path: Path, memcached: Memcached, unique: str
) -> None:
    shop = Shop(
        tmp_path / "k.db",
        HYDRACACHE_MODE="inline",
        HYDRACACHE_MEMCACHED=memcached.address,
        HYDRACACHE_RING=unique,
        HYDRACACHE_CLOCK_SKEW=0,
    )
    add_view(shop)
    with shop.app.app_context():
        shop.state.cache.reserve("item:1", since=time.time())
        time.sleep(0.01)
        shop.state.cache.get_or_load("item:1", lambda: "before", since=time.time())
        assert shop.state.cache.get("item:1") == "before"

    pid = os.fork()
    if pid == 0:
        try:
            shop.state.runtime.worker.applier.apply_batch = lambda _: os._exit(9)
            shop.client.post("/")
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    killed = shop.name(), pending(shop), shop.state.cache.get("item:1")
    shop.app.test_cli_runner().invoke(args=["hydracache", "drain"])

    assert os.WEXITSTATUS(status) == 9
    assert killed == ("after", 1, "before")
    assert pending(shop) == 0
    assert shop.state.cache.get("item:1") is None


class TestEndOfTheRequest:
    def test_a_view_that_raises_before_its_commit_over_invalidates(
        self, shop: Shop
    ) -> None:
        shop.app.teardown_appcontext(close_db)

        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            raise ZeroDivisionError

        assert shop.client.post("/").status_code == 500

        # Whether the data was committed nobody can know here; a miss is cheap.
        assert (shop.name(), shop.targets()) == ("before", ["item:1"])

    def test_a_view_that_raises_after_write_is_rolled_back_with_it(
        self, shop: Shop
    ) -> None:
        shop.app.teardown_appcontext(close_db)

        @shop.app.post("/")
        def view() -> str:
            shop.rename("after")
            hydracache.invalidate_key("item:1")
            hydracache.write(shop.db())
            raise ZeroDivisionError

        assert shop.client.post("/").status_code == 500

        assert (shop.name(), shop.targets()) == ("before", [])

    def test_an_apps_transaction_that_outlives_the_request_delays_the_row_only(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # An app that keeps its connection, and its write transaction, in a global.
        shop = Shop(tmp_path / "own.db", HYDRACACHE_NET_TIMEOUT=0.01)
        with closing(sqlite3.connect(shop.path)) as own:

            @shop.app.post("/")
            def view() -> str:
                own.execute("update item set name = 'after'")
                hydracache.invalidate_key("item:1")
                return "done"

            started = time.monotonic()
            status = shop.client.post("/").status_code
            took = time.monotonic() - started
            locked_out = shop.targets()
            own.commit()
        Later(monkeypatch).advance(RETRY_AFTER)
        shop.client.get("/nothing-here")

        assert (status, locked_out) == (200, [])
        assert took < FAR_TOO_LONG
        assert "the outbox could not be written" in caplog.text
        assert (shop.name(), shop.targets()) == ("after", ["item:1"])

    def test_what_a_view_raises_does_not_hide_behind_our_failure(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(shop.state.runtime.fallback, "save", broken)

        @shop.app.post("/")
        def view() -> str:
            hydracache.invalidate_key("item:1")
            return "done"

        assert shop.client.post("/").status_code == 200
