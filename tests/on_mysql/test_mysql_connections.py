"""How many own connections an outbox has, who has them, and when they end."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Iterator

import pytest
from mysql_databases import PATIENCE, Database

from hydracache_sync import (
    ConfigurationError,
    MySQLOutbox,
    OutboxBusyError,
    OutboxWorker,
    RecordingApplier,
    WorkerPool,
    open_outbox,
)
from outbox_contract.common import SHOP, batch_of
from support.processes import Child, in_threads
from support.waiting import eventually

#: Threads of a web process.
THREADS = 24


@pytest.fixture
def tables(database: Database) -> Iterator[None]:
    with contextlib.closing(database.outbox()) as outbox:
        outbox.install_schema()
        yield


@pytest.fixture
def outbox(database: Database, tables: None) -> Iterator[MySQLOutbox]:
    with contextlib.closing(database.outbox(pool_size=3)) as outbox:
        yield outbox


def sessions(database: Database) -> set[int]:
    """Those on the database, but for ours."""
    found = database.sql(
        "select id from information_schema.processlist"
        f" where db = '{database.name}' and id <> connection_id()"
    )
    return {id for (id,) in found}


def requests_of(outbox: MySQLOutbox, index: int) -> None:
    """What requests with an inline publish have of the outbox."""
    for n in range(20):
        receipt = outbox.enqueue(SHOP, batch_of(f"{index}:{n}"))
        assert outbox.publish_commit(receipt) == 1
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of(f"{index}:{n}:block"))


class TestSharing:
    def test_many_threads_have_as_many_as_they_may(self, database, outbox):
        seen: set[int] = set()
        stop = threading.Event()

        def watch() -> None:
            with database.connect(autocommit=True) as beside:
                while not stop.is_set():
                    with beside.cursor() as cursor:
                        cursor.execute(
                            "select id from information_schema.processlist where"
                            f" db = '{database.name}' and id <> connection_id()"
                        )
                        seen.update(id for (id,) in cursor.fetchall())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            in_threads(THREADS, lambda index: requests_of(outbox, index))
        finally:
            stop.set()
            watching.join(PATIENCE)

        # One is of the fixture that made the tables.
        assert len(seen) <= 3 + 1
        assert outbox.status(SHOP).pending == THREADS * 20

    def test_one_after_the_other_they_have_one(self, database, outbox):
        for index in range(5):
            in_threads(1, lambda _: requests_of(outbox, index))

        assert len(sessions(database)) == 1 + 1

    def test_what_ended_together_is_one_retry(self, database, outbox):
        barrier = threading.Barrier(3)

        def hold(_: int) -> None:
            with outbox.transaction():
                barrier.wait(PATIENCE)

        in_threads(3, hold)
        for id in sessions(database):
            database.sql(f"kill {id}")

        receipt = outbox.enqueue(SHOP, batch_of("a"))

        assert receipt.inserted == 1

    def test_those_that_wait_are_served_when_one_comes_free(self, database, tables):
        with contextlib.closing(database.outbox(pool_size=1)) as outbox:
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                waiting = threading.Thread(
                    target=lambda: outbox.enqueue(SHOP, batch_of("b"))
                )
                waiting.start()
                eventually(lambda: outbox._sessions.connections._lendings.waiting)
            waiting.join(PATIENCE)

            assert outbox.status(SHOP).pending == 2

    def test_none_that_comes_free_is_told_within_the_calls_limit(
        self, database, tables
    ):
        spent: list[float] = []
        with contextlib.closing(
            database.outbox(pool_size=1, busy_timeout=0.4)
        ) as outbox:

            def wait(call: Any) -> None:
                began = time.monotonic()
                with pytest.raises(OutboxBusyError, match="all 1 .* pool_size"):
                    call()
                spent.append(time.monotonic() - began)

            outbox.status(SHOP)
            with outbox.transaction():
                in_threads(1, lambda _: wait(lambda: outbox.status(SHOP, timeout=0.3)))
                in_threads(
                    1, lambda _: wait(lambda: outbox.enqueue(SHOP, batch_of("a")))
                )

        assert spent[0] >= 0.3 and spent[1] >= 0.4
        assert max(spent) < 1.5

    def test_an_error_or_an_interrupt_gives_its_place_back(self, database, tables):
        with contextlib.closing(database.outbox(pool_size=1)) as outbox:
            for error in (ValueError(), KeyboardInterrupt(), GeneratorExit()):
                with pytest.raises(type(error)):
                    with outbox.transaction() as connection:
                        outbox.enqueue_in(connection, SHOP, batch_of("a"))
                        raise error
            for _ in range(3):
                id = database.sql("select 1") and outbox.status(SHOP)
                assert id.pending == 0
                [own] = sessions(database) - {self.of_tables(database)}
                database.kill(own)

    def of_tables(self, database: Database) -> int:
        return min(sessions(database))

    def test_a_block_that_is_thrown_away_gives_its_place_back(self, database, tables):
        with contextlib.closing(database.outbox(pool_size=1, busy_timeout=2)) as outbox:
            block = outbox.transaction()
            outbox.enqueue_in(block.__enter__(), SHOP, batch_of("a"))
            del block

            assert outbox.status(SHOP).pending == 0

    @pytest.mark.parametrize("size", [0, -1, True, 2.5, "3"])
    def test_a_size_that_is_none_is_refused(self, database, size):
        with pytest.raises((ValueError, TypeError), match="pool_size"):
            database.outbox(pool_size=size)

    def test_a_url_says_how_many(self, database, tables):
        url = f"{database.server.url(str(database.name))}?pool_size=2"
        with contextlib.closing(open_outbox(url)) as outbox:
            in_threads(6, lambda index: requests_of(outbox, index))

            assert len(sessions(database)) <= 2 + 1
        for size in ("0", "-1", "many", "1.5", ""):
            with pytest.raises(ConfigurationError, match="pool_size"):
                open_outbox(f"mysql://u@h/db?pool_size={size}")


class TestEnds:
    def test_idle_ones_end_when_another_is_used(self, database, outbox):
        in_threads(THREADS, lambda index: requests_of(outbox, index))
        barrier = threading.Barrier(3)

        def hold(_: int) -> None:
            with outbox._database.session():
                barrier.wait(PATIENCE)

        in_threads(3, hold)
        for place in outbox._sessions.connections._lendings.idle[:2]:
            place.connection.used_at -= 61.0

        outbox.status(SHOP)

        eventually(lambda: len(sessions(database)) == 1 + 1)

    def test_idle_ones_end_beside_a_pool_without_being_used(self, database, outbox):
        outbox.status(SHOP)
        [place] = outbox._sessions.connections._lendings.idle
        place.connection.used_at -= 61.0
        worker = OutboxWorker(outbox, RecordingApplier(SHOP))

        with WorkerPool(worker):
            eventually(lambda: place.connection is None)

    def test_closing_ends_those_in_use_when_they_come_back(self, database, outbox):
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            outbox.close()

        eventually(lambda: len(sessions(database)) == 1)
        assert outbox.status(SHOP).pending == 1


class TestPools:
    def test_a_pool_carries_while_requests_have_all_connections(self, database, tables):
        with contextlib.closing(database.outbox(pool_size=1)) as outbox:
            applier = RecordingApplier(SHOP)
            with WorkerPool(OutboxWorker(outbox, applier), threads=2):
                with outbox.transaction():
                    with contextlib.closing(database.outbox()) as beside:
                        beside.enqueue(SHOP, batch_of("a"))
                        eventually(lambda: beside.status(SHOP).pending == 0)

    def test_its_threads_take_none_from_requests(self, database, tables):
        ended = threading.Event()
        carrying = threading.Event()

        class Slow(RecordingApplier):
            def apply_batch(self, intents: Any) -> Any:
                carrying.set()
                ended.wait(PATIENCE)
                return super().apply_batch(intents)

        with contextlib.closing(database.outbox(pool_size=1)) as outbox:
            with WorkerPool(OutboxWorker(outbox, Slow(SHOP)), threads=3):
                outbox.enqueue(SHOP, batch_of("a"))
                assert carrying.wait(PATIENCE)
                outbox.status(SHOP)
                in_threads(4, lambda index: requests_of(outbox, index))
                ended.set()

    def test_its_connections_end_with_it(self, database, outbox):
        with WorkerPool(OutboxWorker(outbox, RecordingApplier(SHOP)), threads=2):
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
        outbox.close()

        eventually(lambda: len(sessions(database)) == 1)


class TestForks:
    def test_a_child_makes_its_own_and_leaves_its_parents_alone(self, database, outbox):
        def ids(_: int) -> int:
            with outbox._database.session() as connection:
                barrier.wait(PATIENCE)
                return int(connection.thread_id())

        barrier = threading.Barrier(3)
        mine = set(in_threads(3, ids))

        childs = Child(lambda: sorted(in_threads(3, ids))).result()

        assert not mine & set(childs)
        assert set(in_threads(3, ids)) == mine

    def test_a_child_of_a_crowd_is_not_held_up_by_those_that_are_not_there(
        self, database, tables
    ):
        with contextlib.closing(database.outbox(pool_size=2)) as outbox:
            inside = threading.Barrier(3)
            go_on = threading.Event()

            def hold(_: int) -> None:
                with outbox.transaction() as connection:
                    outbox.enqueue_in(connection, SHOP, batch_of("a"))
                    inside.wait(PATIENCE)
                    go_on.wait(PATIENCE)

            holding = [threading.Thread(target=hold, args=(n,)) for n in range(2)]
            for thread in holding:
                thread.start()
            inside.wait(PATIENCE)

            seen = Child(lambda: outbox.status(SHOP, timeout=5.0).pending).result()

            go_on.set()
            for thread in holding:
                thread.join(PATIENCE)
            assert seen == 0
            assert outbox.status(SHOP).pending == 2

    def test_a_block_that_is_left_in_a_child_goes_on_in_the_parent(
        self, database, outbox
    ):
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            assert (
                Child(lambda: len(outbox._sessions.connections._lendings.idle)).result()
                == 0
            )

        assert outbox.status(SHOP).pending == 1
