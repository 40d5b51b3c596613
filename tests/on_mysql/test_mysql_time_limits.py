"""What a call was given is what it takes, on connections that are dead or nearly so."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, Iterator

import pytest
from mysql_databases import Database
from mysql_proxy import Proxy

from hydracache_sync import (
    InvalidationReceipt,
    InvalidationWait,
    MemcachedApplier,
    MemcachedStore,
    MySQLOutbox,
    OutboxBusyError,
    OutboxError,
    OutboxWorker,
    RecordingApplier,
    TaggedCache,
)
from outbox_contract.common import SHOP, batch_of, keys_of
from support.resolver import Resolver
from support.servers import Memcached

#: Seconds that a call may take beyond its limit: this machine may be busy. Far less
#: than the limits of the connections themselves.
SLACK = 5.0

#: Seconds of a limit that is far beyond what these tests wait for.
LONG = 30.0

#: Seconds between two bytes: an answer takes many times the limits.
DRIP = 0.05


#: More than one INSERT takes.
LARGE = batch_of(*(f"{n}:{'x' * 4000}" for n in range(150)))


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    host, port = database.options["host"], database.options["port"]
    with Proxy(str(host), int(port)) as proxy:
        yield proxy


@pytest.fixture
def outbox(database: Database, proxy: Proxy) -> Iterator[MySQLOutbox]:
    """An outbox behind the proxy, whose own limits are long, at its first use."""
    with contextlib.closing(database.outbox()) as beside:
        beside.install_schema()
    here = {"host": "127.0.0.1", "port": proxy.port}
    limits = {"connect_timeout": LONG, "read_timeout": LONG, "write_timeout": LONG}
    with contextlib.closing(database.outbox(**here, **limits)) as outbox:
        yield outbox


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    with Resolver(monkeypatch) as resolver:
        resolver.hang()
        yield resolver


@pytest.fixture
def receipt(outbox: MySQLOutbox) -> InvalidationReceipt:
    """Of rows that wait, on a connection that is there now."""
    return outbox.enqueue(SHOP, batch_of("a"))


def seconds_of(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def refused(call: Callable[[], Any]) -> float:
    """How long it takes until a call is told that its time is over."""

    def told() -> None:
        with pytest.raises(OutboxBusyError, match="time is over"):
            call()

    return seconds_of(told)


#: Calls that have a time limit.
LIMITED: dict[str, Callable[[MySQLOutbox, InvalidationReceipt, float], Any]] = {
    "status": lambda outbox, receipt, limit: outbox.status(SHOP, timeout=limit),
    "rows": lambda outbox, receipt, limit: outbox.rows(SHOP, timeout=limit),
    "of a commit": lambda outbox, receipt, limit: outbox.status_for_commit(
        SHOP, receipt.commit_position, batch=receipt.batch, timeout=limit
    ),
    "enqueue": lambda outbox, receipt, limit: outbox.enqueue(
        SHOP, batch_of("b"), timeout=limit
    ),
    "enqueue in parts": lambda outbox, receipt, limit: outbox.enqueue(
        SHOP, LARGE, timeout=limit
    ),
    "publish": lambda outbox, receipt, limit: outbox.publish_commit(
        receipt, timeout=limit
    ),
}


@pytest.mark.parametrize("call", LIMITED.values(), ids=LIMITED)
class TestLimitOfACall:
    def test_it_holds_where_packets_of_the_session_are_swallowed(
        self, outbox, proxy, receipt, call
    ):
        proxy.forget()

        assert refused(lambda: call(outbox, receipt, 0.3)) < 0.3 + SLACK
        # The connection is not used again: it may have the answer yet.
        assert seconds_of(lambda: call(outbox, receipt, LONG)) < SLACK

    def test_it_holds_where_nobody_can_be_reached(self, outbox, proxy, receipt, call):
        outbox.close()
        proxy.swallowing = True

        assert refused(lambda: call(outbox, receipt, 0.3)) < 0.3 + SLACK

    def test_it_holds_where_the_answer_comes_byte_by_byte(
        self, outbox, proxy, receipt, call
    ):
        proxy.drip = DRIP

        assert refused(lambda: call(outbox, receipt, 0.3)) < 0.3 + SLACK

    def test_it_holds_where_the_greeting_comes_byte_by_byte(
        self, outbox, proxy, receipt, call
    ):
        outbox.close()
        proxy.drip = DRIP

        assert refused(lambda: call(outbox, receipt, 0.3)) < 0.3 + SLACK

    def test_it_holds_where_the_resolver_hangs(
        self, database, receipt, call, hanging_resolver, unique
    ):
        here = {"host": f"{unique}.test", "connect_timeout": LONG, "read_timeout": LONG}
        with contextlib.closing(database.outbox(**here)) as named:
            assert refused(lambda: call(named, receipt, 0.3)) < LONG / 2
        assert hanging_resolver.hangs()

    def test_none_is_still_a_question(self, outbox, receipt, call, monkeypatch):
        # The rows of several INSERTs take a busy machine longer than a round trip.
        now, began = time.monotonic, time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: began + (now() - began) / 100)

        call(outbox, receipt, 0.0)


def test_first_look_checks_the_tables_within_its_limit(outbox, proxy):
    """Some six statements, each of which is answered in time, and together are not."""
    proxy.delay = 0.1

    assert refused(lambda: outbox.status(SHOP, timeout=0.3)) < 0.3 + SLACK


def test_slow_answers_that_come_in_time_are_taken(outbox, proxy, receipt):
    proxy.delay = 0.1

    assert outbox.status(SHOP, timeout=2.0).pending == 1
    assert keys_of(outbox.rows(SHOP, timeout=2.0)) == ["a"]


class TestThoseWhoWait:
    def test_wait_ends_in_time_and_asks_once_more_on_a_new_connection(
        self, outbox, proxy, receipt
    ):
        proxy.forget()
        began = time.monotonic()

        outcome = InvalidationWait.local(0.5).wait(outbox, receipt)

        assert time.monotonic() - began < 0.5 + SLACK
        assert (outcome.timed_out, outcome.pending) == (True, 1)

    def test_wait_ends_in_time_where_nobody_is_reached(self, outbox, proxy, receipt):
        proxy.swallowing = True

        def wait() -> None:
            with pytest.raises(OutboxError):
                InvalidationWait.local(0.5).wait(outbox, receipt)

        assert seconds_of(wait) < 0.5 + 0.25 + SLACK

    def test_inline_publish_leaves_the_rows_to_a_worker_in_time(
        self, outbox, proxy, receipt
    ):
        worker = OutboxWorker(outbox, RecordingApplier(SHOP))
        proxy.swallowing = True
        began = time.monotonic()

        report = worker.publish(receipt, timeout=0.25)

        assert time.monotonic() - began < 0.25 + SLACK
        assert report.released == 1


class TestLimitOfAnAnswer:
    """``read_timeout`` is from the question to the end of the answer."""

    @pytest.fixture
    def impatient(self, database, proxy, outbox, receipt) -> Iterator[MySQLOutbox]:
        options = {"host": "127.0.0.1", "port": proxy.port, "read_timeout": 0.3}
        with contextlib.closing(database.outbox(**options)) as impatient:
            impatient.due_namespaces([SHOP])
            yield impatient

    @pytest.mark.parametrize(
        "call",
        [
            lambda outbox: outbox.enqueue(SHOP, batch_of("b")),
            lambda outbox: outbox.status(SHOP),
            lambda outbox: outbox.due_namespaces([SHOP]),
            lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl=30),
        ],
        ids=["enqueue", "status", "look", "claim"],
    )
    def test_byte_by_byte_it_is_no_longer(self, impatient, proxy, call):
        proxy.drip = DRIP

        def told() -> None:
            with pytest.raises(OutboxError):
                call(impatient)

        # On the connection that is there, and to make another, at most.
        assert seconds_of(told) < 2 * 0.3 + 3.0 + 0.3 + SLACK


class TestAgeOfAConnection:
    def session_of(self, outbox: MySQLOutbox) -> int:
        with outbox._database.session() as connection:
            return int(connection.thread_id())

    def age(self, outbox: MySQLOutbox, **change: float) -> int:
        with outbox._database.session() as connection:
            pass
        for name, seconds in change.items():
            setattr(connection, name, getattr(connection, name) + seconds)
        return int(connection.thread_id())

    def test_after_a_minute_of_idleness_it_is_not_trusted(self, outbox, proxy, receipt):
        before = self.age(outbox, used_at=-61.0)
        proxy.forget()

        assert seconds_of(lambda: outbox.enqueue(SHOP, batch_of("b"))) < SLACK

        assert self.session_of(outbox) != before

    def test_one_in_use_is_replaced_after_some_minutes(self, outbox, receipt):
        before = self.age(outbox, ends_at=-181.0)

        assert self.session_of(outbox) != before

    def test_it_lasts_that_long(self, outbox, receipt):
        before = self.age(outbox, ends_at=-130.0, used_at=-55.0)

        assert self.session_of(outbox) == before


class TestTheCachesSide:
    """memcached behind the same proxy: its limits are of whole calls, too."""

    @pytest.fixture
    def cut(self, memcached: Memcached) -> Iterator[Proxy]:
        with Proxy("127.0.0.1", memcached.port) as proxy:
            yield proxy

    @pytest.fixture
    def store(self, cut: Proxy) -> Iterator[MemcachedStore]:
        store = MemcachedStore(
            [f"127.0.0.1:{cut.port}"], connect_timeout=0.3, timeout=0.3
        )
        with contextlib.closing(store):
            yield store

    @pytest.mark.parametrize("how", ["forget", "swallow", "drip"])
    def test_reads_and_appliers_end_in_time(self, cut, store, unique, how):
        cache = TaggedCache(store, unique)
        batch = batch_of("a")
        assert cache.get_or_load("k", lambda: "v", tags=["t"]) == "v"
        {
            "forget": cut.forget,
            "swallow": lambda: setattr(cut, "swallowing", True),
            "drip": lambda: setattr(cut, "drip", DRIP),
        }[how]()

        read = seconds_of(lambda: cache.get_or_load("k", lambda: "v", tags=["t"]))
        applied = seconds_of(
            lambda: MemcachedApplier(store, unique).apply_batch(batch.distinct())
        )

        assert max(read, applied) < 2 * (0.3 + 0.3) + SLACK
