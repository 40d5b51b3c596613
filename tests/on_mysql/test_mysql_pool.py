"""A pool over MariaDB and MySQL outlives whatever they do, and forks."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator

import pymysql
import pytest
from mysql_databases import KINDS, Database, fresh_database, started
from mysql_proxy import Proxy

from hydracache_sync import (
    InvalidationIntentBatch,
    MySQLOutbox,
    OutboxWorker,
    RecordingApplier,
    ThreadState,
    WorkerPool,
)
from support.node_return import FEW, LONG_WAITS, Crowd
from support.pool_processes import DEADLINE, SHOP, Shop
from support.processes import Child, UnseenChild
from support.servers import Memcached, SQLServer
from support.waiting import eventually

#: Seconds, so that a server which hangs is given up soon.
TIMEOUTS = {"connect_timeout": 0.5, "read_timeout": 0.5, "write_timeout": 0.5}


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    return batch


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The events of the log lines about outages so far."""
    caplog.set_level(logging.INFO, "hydracache_sync")

    def events() -> list[str]:
        found = (each.__dict__.get("hydracache_event", "") for each in caplog.records)
        return [event for event in found if "Outage" in event]

    return events


@pytest.fixture(scope="module", params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    """A server that only these tests hurt."""
    with started(request.param) as server:
        yield server


@pytest.fixture
def own(own_server: SQLServer) -> Iterator[Database]:
    with fresh_database(own_server) as database:
        yield database


@pytest.fixture
def outbox(own: Database) -> Iterator[MySQLOutbox]:
    with contextlib.closing(own.outbox(**TIMEOUTS)) as outbox:
        outbox.install_schema()
        yield outbox


class Carried:
    """A pool at work over ``outbox``, before, in and after an outage."""

    def __init__(self, outbox: MySQLOutbox, told: Callable[[], list[str]]) -> None:
        self.outbox = outbox
        self.applier = RecordingApplier(SHOP)
        self.pool = WorkerPool(
            OutboxWorker(outbox, self.applier, claim_ttl=1.0), threads=2
        )
        self._told = told

    def works(self, key: str) -> None:
        self.outbox.enqueue(SHOP, batch_of(key))
        eventually(lambda: self.outbox.status(SHOP).pending == 0)
        assert key in {intent.value for intent in list(self.applier.applied)}

    def waits(self) -> None:
        eventually(
            lambda: ThreadState.WAITING
            in {each.state for each in self.pool.health().threads}
        )
        assert {each.what for each in self.pool.health().outages} == {"database"}

    def has_lost_nothing(self) -> None:
        eventually(lambda: len(self._told()) == 2)
        eventually(lambda: self.pool.health().ok)
        assert self._told() == ["OutageBegan", "OutageEnded"]
        status = self.outbox.status(SHOP)
        assert (status.pending, status.dead_lettered) == (0, 0)


class TestServer:
    def test_a_server_that_is_restarted_is_waited_for(self, own_server, outbox, told):
        carried = Carried(outbox, told)
        with carried.pool:
            carried.works("before")
            own_server.restart()
            carried.works("after")
            carried.has_lost_nothing()

    def test_a_server_that_is_killed_is_waited_for(self, own_server, outbox, told):
        carried = Carried(outbox, told)
        with carried.pool:
            carried.works("before")
            own_server.kill()
            carried.waits()
            own_server.start()
            carried.works("after")
            carried.has_lost_nothing()

    def test_a_server_that_hangs_is_waited_for(self, own_server, outbox, told):
        carried = Carried(outbox, told)
        with carried.pool:
            carried.works("before")
            own_server.pause()
            try:
                carried.waits()
            finally:
                own_server.resume()
            carried.works("after")
            carried.has_lost_nothing()

    def test_a_server_that_is_away_at_the_start_is_waited_for(
        self, own_server, outbox, told
    ):
        carried = Carried(outbox, told)
        own_server.kill()
        with carried.pool:
            carried.waits()
            own_server.start()
            carried.works("a")
            carried.has_lost_nothing()

    def test_connections_that_are_killed_are_replaced_without_a_word(
        self, own, outbox, told
    ):
        carried = Carried(outbox, told)
        with carried.pool:
            carried.works("before")
            for id, user in own.sql(
                "select id, db from information_schema.processlist"
            ):
                if user == own.name and id != own.sql("select connection_id()")[0][0]:
                    with contextlib.suppress(pymysql.Error):  # ended by itself
                        own.sql(f"kill {id}")
            carried.works("after")

        assert told() == []


class TestNetwork:
    @pytest.fixture
    def proxy(self, own: Database) -> Iterator[Proxy]:
        with Proxy(str(own.options["host"]), int(own.options["port"])) as proxy:
            yield proxy

    @pytest.fixture
    def through(
        self, own: Database, outbox: MySQLOutbox, proxy: Proxy
    ) -> Iterator[MySQLOutbox]:
        options = {"host": "127.0.0.1", "port": proxy.port, **TIMEOUTS}
        with contextlib.closing(own.outbox(**options)) as outbox:
            yield outbox

    def test_a_network_that_swallows_packets_is_waited_for(
        self, proxy, through, outbox, told
    ):
        carried = Carried(through, told)
        with carried.pool:
            carried.works("before")
            proxy.swallowing = True
            outbox.enqueue(SHOP, batch_of("meanwhile"))
            carried.waits()
            proxy.swallowing = False
            carried.works("after")
            carried.has_lost_nothing()

    def test_a_slow_network_is_only_slow(self, proxy, through, told):
        carried = Carried(through, told)
        proxy.delay = 0.03
        with carried.pool:
            carried.works("a")

        assert told() == []

    def test_a_network_that_flaps_is_one_outage(self, proxy, through, outbox, told):
        carried = Carried(through, told)
        with carried.pool:
            carried.works("before")
            for n in range(3):
                proxy.swallowing = True
                outbox.enqueue(SHOP, batch_of(f"flap:{n}"))
                carried.waits()
                proxy.swallowing = False
                eventually(lambda: outbox.status(SHOP).pending == 0)
            carried.works("after")
            eventually(lambda: told()[-1:] == ["OutageEnded"])

            assert told().count("OutageBegan") == told().count("OutageEnded") <= 3
            assert outbox.status(SHOP).dead_lettered == 0

    def test_a_name_that_no_longer_resolves_is_waited_for(
        self, own, outbox, told, monkeypatch
    ):
        real = socket.getaddrinfo
        lost = threading.Event()

        def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
            if host != "db.example":
                return real(host, *args, **options)
            if lost.is_set():
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
            return real("127.0.0.1", *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        named = own.outbox(host="db.example", **TIMEOUTS)
        carried = Carried(outbox, told)
        carried.pool = WorkerPool(OutboxWorker(named, carried.applier), threads=2)

        with contextlib.closing(named), carried.pool:
            carried.works("before")
            lost.set()
            for (id,) in own.sql("select id from information_schema.processlist"):
                if id != own.sql("select connection_id()")[0][0]:
                    with contextlib.suppress(pymysql.Error):  # ended by itself
                        own.sql(f"kill {id}")
            carried.waits()
            lost.clear()
            carried.works("after")
            carried.has_lost_nothing()


class MySQLShop(Shop):
    def __init__(self, database: Database, outbox: MySQLOutbox, **options: Any) -> None:
        super().__init__(outbox, **options)
        self._database = database

    def another_outbox(self) -> Any:
        return self._database.outbox()

    def enqueue_in_own_transaction(self, key: str) -> None:
        with self._database.connect() as connection:
            connection.begin()
            self.outbox.enqueue_in(connection, SHOP, self.batch(key))
            connection.commit()


class TestFork:
    """As on SQLite; here a parent that is at work may fork in any way."""

    @pytest.fixture
    def shop(self, own: Database) -> Iterator[MySQLShop]:
        with contextlib.closing(own.outbox()) as outbox:
            outbox.install_schema()
            yield MySQLShop(own, outbox)

    @pytest.mark.parametrize("use", ["start", "wake", "enqueue", "enqueue_in"])
    @pytest.mark.parametrize("fork", [Child, UnseenChild])
    def test_pool_starts_anew_in_the_child(self, shop, fork, use):
        def in_child() -> tuple[list[str], bool]:
            if use == "enqueue":
                shop.outbox.enqueue(SHOP, shop.batch("child"))
            elif use == "enqueue_in":
                shop.enqueue_in_own_transaction("child")
            else:
                with contextlib.closing(shop.another_outbox()) as other:
                    other.enqueue(SHOP, shop.batch("child"))
                getattr(shop.pool, use)()
            eventually(lambda: shop.pending() == 0)
            return shop.applied(), shop.pool.stop(DEADLINE)

        with shop.paused_parent():
            assert fork(in_child).result() == (["child"], True)

    @pytest.mark.parametrize("fork", [Child, UnseenChild])
    def test_a_child_does_not_wait_for_an_answer_to_its_parent(self, own, outbox, fork):
        asking = threading.Event()

        def ask() -> None:
            with outbox.transaction() as connection, connection.cursor() as cursor:
                asking.set()
                cursor.execute("select sleep(0.4)")  # less than the timeout

        def in_child() -> int:
            outbox.enqueue(SHOP, batch_of("child"))
            return outbox.status(SHOP).pending

        thread = threading.Thread(target=ask)
        thread.start()
        assert asking.wait(DEADLINE)
        time.sleep(0.1)  # until it waits for the answer
        child = fork(in_child)
        try:
            assert child.result() == 1
        finally:
            thread.join()

    def test_children_of_a_busy_parent_share_no_connection_with_it(self, own, outbox):
        # Forks that Python knows of: without it the interpreter's own lock may be left
        # to a thread that is not there, if that thread was just asking for it.
        shop = MySQLShop(own, outbox, poll_interval=0.001)

        def in_child() -> tuple[int, int]:
            shop.pool.start()
            for n in range(5):
                shop.outbox.enqueue(SHOP, shop.batch(f"{os.getpid()}:{n}"))
            eventually(lambda: shop.pending() == 0)
            assert shop.pool.stop(DEADLINE)
            with shop.outbox.transaction() as connection:
                return len(shop.applied()), connection.thread_id()

        with shop.pool:
            children = []
            for n in range(6):
                shop.outbox.enqueue(SHOP, shop.batch(f"parent:{n}"))
                children.append(Child(in_child))
            results = [child.result() for child in children]
            eventually(lambda: shop.pending() == 0)
            with shop.outbox.transaction() as connection:
                mine = connection.thread_id()
            eventually(lambda: shop.pool.health().ok)

        carried = sum(count for count, _ in results) + len(shop.applied())
        assert carried >= 36
        assert len({mine, *(id for _, id in results)}) == 7


def test_rows_that_wait_for_a_node_are_applied_when_it_is_back_beside_producers(
    database: Database,
) -> None:
    database.outbox().install_schema()
    ended = threading.Event()

    def produce() -> int:
        """Commit as an app does, which runs nothing again that the database refused."""
        outbox, commits = database.outbox(), 0
        with database.connect() as connection:
            while not ended.wait(0.002):
                connection.begin()
                batch = InvalidationIntentBatch().invalidate_key(f"new:{commits}")
                outbox.enqueue_in(connection, SHOP, batch)
                connection.commit()
                commits += 1
        return commits

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Memcached()) for _ in range(3)]
        crowd = Crowd(
            database.outbox, servers, pools=2, timing=LONG_WAITS, batch_size=FEW
        )
        crowd.node.stop()
        stack.enter_context(crowd.running())
        crowd.enqueue(2000)
        # Each batch waits for a random time: not all of them for so long.
        crowd.wait_until_put_off(1000, DEADLINE)
        producers = stack.enter_context(ThreadPoolExecutor(2))
        counts = [producers.submit(produce) for _ in range(2)]
        stack.callback(ended.set)
        time.sleep(0.5)
        crowd.node.start()
        seconds = crowd.carried(2000)
        ended.set()
        assert min(count.result(DEADLINE) for count in counts) > 10
        crowd.carried()

    assert seconds < DEADLINE
    assert {row.attempts for row in crowd.rows().values()} == {0}
