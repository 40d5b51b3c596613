"""A pool outlives what fails around it, says so once, and loses nothing.

Faults of the database server are in ``on_mysql/test_mysql_pool.py``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import sqlite3
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pytest

from hydracache_sync import (
    Event,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutageBegan,
    OutageEnded,
    OutboxError,
    OutboxWorker,
    RecordingApplier,
    SQLiteOutbox,
    ThreadReplaced,
    ThreadState,
    ThreadStuck,
    WorkerPool,
)
from hydracache_sync.backoff import Backoff
from hydracache_sync.outbox.due import QuietLook
from hydracache_sync.pool.batches import Batches
from hydracache_sync.pool.timing import PoolTiming
from support.faulty_memcached import FaultyMemcached, Mode
from support.node_return import FEW, LONG_WAITS, Crowd
from support.pool_processes import DEADLINE, SHOP
from support.processes import Child, in_threads
from support.servers import Memcached
from support.waiting import eventually

#: Threads are checked a hundred times a second.
SOON = PoolTiming(supervise_every=0.01)

#: How a memcached fails, and whether it then keeps what it had.
CACHE_FAULTS = [
    Mode.REFUSE,
    Mode.HANG,
    Mode.SERVER_ERROR,
    Mode.GARBAGE,
    Mode.CLOSE_MID_REPLY,
]


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    return batch


def keys_of(applier: RecordingApplier) -> list[str | None]:
    return [intent.value for intent in list(applier.applied)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(path, busy_timeout=DEADLINE)) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture
def applier() -> RecordingApplier:
    return RecordingApplier(SHOP)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Log lines of outages so far, each as its level and what it is about."""
    caplog.set_level(logging.INFO, "hydracache_sync")

    def lines() -> list[str]:
        return [
            f"{record.levelname} {record.__dict__['hydracache_what']}"
            for record in caplog.records
            if "Outage" in record.__dict__.get("hydracache_event", "")
        ]

    return lines


class Counting:
    """Counts the calls of a method of an outbox that return something."""

    def __init__(self, outbox: Any, name: str) -> None:
        self.calls = 0
        really = getattr(outbox, name)

        def method(*args: Any, **options: Any) -> Any:
            result = really(*args, **options)
            self.calls += bool(result)
            return result

        setattr(outbox, name, method)


class Failing:
    """Makes a method of an outbox fail while the test says so."""

    def __init__(self, outbox: Any, name: str) -> None:
        self.error: Exception | None = None
        self.calls = 0
        really = getattr(outbox, name)

        def method(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return really(*args, **options)

        setattr(outbox, name, method)


class TestDatabase:
    def test_missing_tables_are_waited_for(self, path, applier, told):
        sqlite3.connect(path).close()
        outbox = SQLiteOutbox(path)
        events: list[Event] = []
        pool = WorkerPool(OutboxWorker(outbox, applier))
        pool.subscribe(events.append)

        with contextlib.closing(outbox), pool:
            eventually(lambda: pool.health().outages)
            [waiting] = pool.health().threads
            outbox.install_schema()
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: keys_of(applier) == ["a"])
            eventually(lambda: len(told()) == 2)
            eventually(lambda: pool.health().ok)

        assert waiting.state is ThreadState.WAITING
        assert "install_schema" in (waiting.error or "")
        assert told() == ["WARNING database"] * 2
        began, ended = (
            each for each in events if isinstance(each, (OutageBegan, OutageEnded))
        )
        assert (began.what, ended.what) == ("database", "database")

    def test_a_file_that_others_keep_locked_is_waited_for(self, outbox, applier, told):
        impatient = SQLiteOutbox(outbox.path, busy_timeout=0.05)
        pool = WorkerPool(OutboxWorker(impatient, applier))

        with contextlib.closing(impatient), pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            with contextlib.closing(sqlite3.connect(outbox.path)) as other:
                other.execute("begin exclusive")
                eventually(told)
                other.rollback()
            outbox.enqueue(SHOP, batch_of("b"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            eventually(lambda: len(told()) == 2)
            eventually(lambda: pool.health().ok)

        assert told() == ["WARNING database"] * 2
        assert [row.attempts for row in outbox.rows(SHOP)] == [0, 0]

    @pytest.mark.parametrize(
        "method", ["claim", "mark_published", "mark_failed", "release"]
    )
    def test_a_failure_in_mid_batch_loses_no_row(self, outbox, told, method):
        class Applier(RecordingApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                if intent.value == "retried" and intent not in self.applied:
                    self.applied.append(intent)
                    raise RuntimeError("not now")
                if intent.value == "away" and intent not in self.applied:
                    self.applied.append(intent)
                    raise OSError("away")
                super().apply_invalidation(intent)

        failing = Failing(outbox, method)
        failing.error = OutboxError("the database is gone")
        worker = OutboxWorker(outbox, Applier(SHOP), claim_ttl=0.2, backoff=0.01)

        with WorkerPool(worker):
            outbox.enqueue(SHOP, batch_of("fine", "retried", "away"))
            eventually(lambda: failing.calls >= 1)
            failing.error = None
            eventually(lambda: outbox.status(SHOP).pending == 0)
            eventually(lambda: told().count("WARNING database") == 2)

        assert told().count("WARNING database") == 2
        assert outbox.status(SHOP).dead_lettered == 0

    def test_a_database_that_flaps_is_one_outage(self, outbox, applier, told):
        timing = PoolTiming(database_backoff=Backoff(0.01, 0.01))
        failing = Failing(outbox, "due_namespaces")
        really = outbox.due_namespaces

        def flapping(namespaces: Sequence[str]) -> list[str]:
            failing.error = OutboxError("gone") if failing.calls % 2 else None
            return really(namespaces)

        outbox.due_namespaces = flapping

        with WorkerPool(
            OutboxWorker(outbox, applier), poll_interval=0.001, timing=timing
        ):
            eventually(lambda: failing.calls >= 100)
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: keys_of(applier) == ["a"])
            while_flapping = told()
            outbox.due_namespaces = really
            failing.error = None
            eventually(lambda: len(told()) == 2)

        assert while_flapping == ["WARNING database"]
        assert told() == ["WARNING database"] * 2

    def test_an_outage_of_one_database_stops_no_other(self, tmp_path, outbox, applier):
        other = SQLiteOutbox(tmp_path / "nothing here.db")
        lost = RecordingApplier("lost")

        with contextlib.closing(other):
            with WorkerPool(
                OutboxWorker(other, lost), OutboxWorker(outbox, applier)
            ) as pool:
                eventually(lambda: pool.health().outages)
                outbox.enqueue(SHOP, batch_of("a"))
                eventually(lambda: keys_of(applier) == ["a"])
                states = [each.state for each in pool.health().threads]

        assert states[0] is ThreadState.WAITING
        assert states[1] in (ThreadState.IDLE, ThreadState.WORKING)

    def test_while_looks_are_answered_and_claims_are_not_it_is_one_outage(
        self, outbox, applier, told
    ):
        timing = PoolTiming(database_calm=0.01, namespace_backoff=Backoff(0.1, 0.1))
        claims = Failing(outbox, "claim")
        claims.error = OutboxError("the database is read-only")
        outbox.enqueue(SHOP, batch_of("a"))

        with WorkerPool(OutboxWorker(outbox, applier), timing=timing) as pool:
            eventually(lambda: claims.calls >= 4)
            meanwhile = told(), len(pool.health().outages)
            claims.error = None
            eventually(lambda: len(told()) > 1 and not pool.health().outages)

        assert meanwhile == (["WARNING database"], 1)
        assert told() == ["WARNING database"] * 2

    def test_an_outage_ends_when_what_could_not_be_carried_is_not_due_any_more(
        self, outbox, applier, told
    ):
        claims = Failing(outbox, "claim")
        claims.error = OutboxError("only for this process")
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        timing = PoolTiming(database_calm=0.01)

        with WorkerPool(OutboxWorker(outbox, applier), timing=timing):
            eventually(lambda: told() == ["WARNING database"])
            outbox.publish_commit(receipt)
            eventually(lambda: told() == ["WARNING database"] * 2)

    def test_what_another_thread_has_claimed_meanwhile_is_not_this_ones(
        self, outbox, applier
    ):
        """Of rows that stay claimed a poll that finds none due proves nothing."""
        worker = OutboxWorker(outbox, applier)
        batches = Batches([worker], timing=PoolTiming(), emit=lambda event: None)
        outbox.enqueue(SHOP, batch_of("a"))
        really = outbox.claim

        def refused_late(*args: Any, **options: Any) -> Any:
            outbox.claim = really
            in_threads(1, lambda index: batches.run(SHOP, threading.Event()))
            raise OutboxError("the database is read-only")

        outbox.claim = refused_late
        with pytest.raises(OutboxError) as caught:
            batches.run(SHOP, threading.Event())
        batches.outage.failed(caught.value, SHOP)
        assert batches.outages() != []

        assert list(batches.due(again=True)) == []

        assert keys_of(applier) == ["a"]
        assert batches.outages() == []

    def test_a_thread_that_tries_a_database_that_is_away_is_waiting(
        self, outbox, applier
    ):
        gate = threading.Event()
        tried_again = threading.Event()
        calls: list[int] = []

        def held(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) > 1:
                tried_again.set()
                gate.wait(DEADLINE)
            raise OutboxError("locked")

        outbox.claim = held
        with WorkerPool(OutboxWorker(outbox, applier)) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            assert tried_again.wait(DEADLINE)
            health = pool.health()
            gate.set()

        assert [each.state for each in health.threads] == [ThreadState.WAITING]
        assert not health.ok

    def test_a_database_that_hangs_is_waited_for_before_anything_has_failed(
        self, outbox, applier
    ):
        timing = PoolTiming(hanging_poll=0.05)
        gate = threading.Event()

        def hang(namespaces: Sequence[str]) -> list[str]:
            assert gate.wait(DEADLINE)
            return []

        outbox.due_namespaces = hang
        with WorkerPool(OutboxWorker(outbox, applier), timing=timing) as pool:
            eventually(lambda: not pool.health().ok)
            [thread] = pool.health().threads
            gate.set()
            eventually(lambda: pool.health().ok)

        assert thread.state is ThreadState.WAITING
        assert "has not answered" in (thread.error or "")

    def test_a_look_for_little_that_hangs_is_waited_for_too(self, outbox, applier):
        timing = PoolTiming(hanging_poll=0.05)
        gate = threading.Event()

        def hang(now: float) -> bool:
            assert gate.wait(DEADLINE)
            return False

        outbox.quiet_look = lambda namespaces: QuietLook(hang, math.inf)
        with WorkerPool(OutboxWorker(outbox, applier), timing=timing) as pool:
            eventually(lambda: not pool.health().ok)
            [thread] = pool.health().threads
            gate.set()
            del outbox.quiet_look
            eventually(lambda: pool.health().ok)

        assert thread.state is ThreadState.WAITING
        assert "has not answered" in (thread.error or "")

    def test_the_end_tells_how_long_a_look_for_little_hung(self, outbox, applier):
        events: list[Event] = []
        really = outbox.due_namespaces

        def fail_once(namespaces: Sequence[str]) -> list[str]:
            outbox.due_namespaces = really
            raise OutboxError("no answer in time")

        def hang(now: float) -> bool:
            threading.Event().wait(0.3)
            outbox.due_namespaces = fail_once
            del outbox.quiet_look
            return False

        outbox.quiet_look = lambda namespaces: QuietLook(hang, math.inf)
        timing = PoolTiming(database_calm=0.01)
        pool = WorkerPool(OutboxWorker(outbox, applier), timing=timing)
        pool.subscribe(events.append)
        with pool:
            eventually(lambda: any(isinstance(e, OutageEnded) for e in events))

        [ended] = [each for each in events if isinstance(each, OutageEnded)]
        assert 0.3 <= ended.seconds < DEADLINE

    def test_the_end_tells_how_long_a_database_hung(self, outbox, applier):
        events: list[Event] = []
        hung = threading.Event()
        really = outbox.due_namespaces

        def hang_once(namespaces: Sequence[str]) -> list[str]:
            if hung.is_set():
                return really(namespaces)
            threading.Event().wait(0.3)
            hung.set()
            raise OutboxError("no answer in time")

        outbox.due_namespaces = hang_once
        timing = PoolTiming(database_calm=0.01)
        pool = WorkerPool(OutboxWorker(outbox, applier), timing=timing)
        pool.subscribe(events.append)
        with pool:
            eventually(lambda: any(isinstance(e, OutageEnded) for e in events))

        [ended] = [each for each in events if isinstance(each, OutageEnded)]
        assert 0.3 <= ended.seconds < DEADLINE

    def test_a_backup_that_is_put_in_place_of_the_file_is_carried_from(
        self, path, outbox, applier, told
    ):
        with contextlib.closing(SQLiteOutbox(f"{path}.backup")) as backup:
            backup.install_schema()
            backup.enqueue(SHOP, batch_of("from the backup"))

        with WorkerPool(OutboxWorker(outbox, applier)):
            outbox.enqueue(SHOP, batch_of("before"))
            eventually(lambda: keys_of(applier) == ["before"])
            os.unlink(path)
            eventually(lambda: told() == ["WARNING database"])
            os.rename(f"{path}.backup", path)
            eventually(lambda: keys_of(applier) == ["before", "from the backup"])
            eventually(lambda: told() == ["WARNING database"] * 2)

    def test_one_that_refuses_to_settle_what_it_let_be_claimed_is_one_outage(
        self, outbox, path, applier, told
    ):
        timing = PoolTiming(database_calm=0.05)
        claims = Counting(outbox, "claim")
        outbox.enqueue(SHOP, batch_of("a"))
        with contextlib.closing(sqlite3.connect(path, timeout=DEADLINE)) as other:
            other.execute(
                "create trigger refusing before update on hydracache_outbox"
                " when old.claim_token is not null and new.claim_token is null"
                " begin select raise(abort, 'refused'); end"
            )
            worker = OutboxWorker(outbox, applier, claim_ttl=0.5)
            with WorkerPool(worker, timing=timing) as pool:
                # Its claim ends, and it is claimed again, time after time.
                eventually(lambda: claims.calls >= 4)
                assert pool.health().outages
                refused = told()
                other.execute("drop trigger refusing")
                eventually(lambda: outbox.status(SHOP).pending == 0)
                eventually(lambda: len(told()) > 1)

        assert refused == ["WARNING database"]
        assert told() == ["WARNING database"] * 2
        assert outbox.status(SHOP).dead_lettered == 0

    def test_a_full_disk_is_waited_out(self, path):
        def in_child() -> tuple[list[str], int, int]:
            outbox = SQLiteOutbox(path, busy_timeout=0.5)
            outbox.install_schema()
            outbox.enqueue(SHOP, batch_of(*(f"key:{n}" for n in range(300))))
            applier = RecordingApplier(SHOP)
            events: list[Event] = []
            pool = WorkerPool(OutboxWorker(outbox, applier))
            pool.subscribe(events.append)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
            with pool:
                eventually(lambda: any(isinstance(e, OutageBegan) for e in events))
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                eventually(lambda: outbox.status(SHOP).pending == 0)
                eventually(lambda: any(isinstance(e, OutageEnded) for e in events))
            status = outbox.status(SHOP)
            what = [each.error for each in events if isinstance(each, OutageBegan)]
            return what, len(applier.applied), status.dead_lettered

        [error], applied, dead = Child(in_child).result()

        assert "disk" in error
        assert applied >= 300
        assert dead == 0


class TestCache:
    @pytest.fixture
    def memcached(self) -> Iterator[FaultyMemcached]:
        with FaultyMemcached() as server:
            yield server

    @pytest.fixture
    def worker(
        self, outbox: SQLiteOutbox, memcached: FaultyMemcached
    ) -> Iterator[OutboxWorker]:
        store = MemcachedStore(
            [memcached.address], connect_timeout=0.2, timeout=0.2, ring="1"
        )
        with contextlib.closing(store):
            yield OutboxWorker(outbox, MemcachedApplier(store, SHOP), backoff=0.01)

    @pytest.mark.parametrize("mode", CACHE_FAULTS, ids=lambda mode: mode.name.lower())
    def test_an_outage_of_the_cache_is_waited_out(
        self, outbox, memcached, worker, told, mode
    ):
        with WorkerPool(worker) as pool:
            outbox.enqueue(SHOP, batch_of("before"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            memcached.mode = mode
            outbox.enqueue(SHOP, batch_of("a", "b"))
            eventually(lambda: pool.health().outages)
            eventually(lambda: pool.health().threads[0].state is ThreadState.WAITING)
            outbox.enqueue(SHOP, batch_of("c"))
            memcached.mode = Mode.WORKING
            memcached.restart()
            eventually(lambda: outbox.status(SHOP).pending == 0)
            eventually(lambda: len(told()) == 2)
            eventually(lambda: pool.health().ok)

        assert told() == ["WARNING cache"] * 2
        assert [row.attempts for row in outbox.rows(SHOP)] == [0] * 4
        assert outbox.status(SHOP).dead_lettered == 0

    def test_a_thread_that_tries_a_cache_that_is_away_is_waiting(self, outbox):
        gate = threading.Event()
        tries_again = threading.Event()

        class Away(InvalidationApplier):
            namespace = SHOP
            calls = 0

            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                self.calls += 1
                if self.calls > 1:
                    tries_again.set()
                    gate.wait(DEADLINE)
                raise OSError("away")

        with WorkerPool(OutboxWorker(outbox, Away(), backoff=0.01)) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            assert tries_again.wait(DEADLINE)
            health = pool.health()
            gate.set()

        assert [each.state for each in health.threads] == [ThreadState.WAITING]
        assert not health.ok

    def test_a_cache_that_flaps_is_one_outage(self, outbox, memcached, told):
        def carried() -> bool:
            return outbox.status(SHOP).pending == 0

        def put_off() -> bool:
            return any(
                row.last_error and not row.is_published for row in outbox.rows(SHOP)
            )

        # Without a breaker each flap is seen.
        store = MemcachedStore([memcached.address], timeout=5.0, retry_after=0)
        worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP), backoff=0.01)
        with contextlib.closing(store), WorkerPool(worker) as pool:
            for number in range(5):
                memcached.mode = Mode.SERVER_ERROR
                outbox.enqueue(SHOP, batch_of(str(number)))
                eventually(put_off)
                memcached.mode = Mode.WORKING
                eventually(carried)
                while_flapping = told()
            eventually(lambda: pool.health().ok)
            eventually(lambda: len(told()) == 2)

        assert while_flapping == ["WARNING cache"]
        assert told() == ["WARNING cache"] * 2

    def test_an_outage_does_not_churn_through_the_backlog(
        self, outbox, memcached, worker
    ):
        outbox.enqueue(SHOP, batch_of(*(f"key:{n}" for n in range(2000))))
        memcached.mode = Mode.REFUSE
        worker.batch_size = 1
        claims = Failing(outbox, "claim")

        with WorkerPool(worker) as pool:
            eventually(lambda: pool.health().outages)
            pauses = threading.Event()
            pauses.wait(1.0)

        # Some holds long, of a tenth of a second and then longer ones; not thousands.
        assert claims.calls < 40

    def test_other_namespaces_go_on(self, outbox, memcached, worker):
        memcached.mode = Mode.HANG
        blog = RecordingApplier("blog")

        with WorkerPool(worker, OutboxWorker(outbox, blog)) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: pool.health().outages)
            outbox.enqueue("blog", batch_of("b"))
            eventually(lambda: keys_of(blog) == ["b"])


class Killed(BaseException):
    """Ends a thread as ``GreenletExit`` does: no ``Exception``, from anywhere."""


class OnceApplier(RecordingApplier):
    """Raises ``error`` at its first call."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(SHOP)
        self.error: BaseException | None = error

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().apply_batch(intents)


class TestUserCode:
    def test_an_applier_that_raises_costs_an_attempt(self, outbox):
        applier = OnceApplier(RuntimeError("not now"))

        with WorkerPool(OutboxWorker(outbox, applier, backoff=0.01)) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            replaced = pool.health().replaced

        assert outbox.rows(SHOP)[0].attempts == 1
        assert replaced == 0

    def test_an_applier_that_calls_sys_exit_costs_an_attempt(self, outbox):
        applier = OnceApplier(SystemExit("enough"))

        with WorkerPool(OutboxWorker(outbox, applier, backoff=0.01)) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            replaced = pool.health().replaced

        assert outbox.rows(SHOP)[0].attempts == 1
        assert replaced == 0

    def test_a_thread_that_dies_is_told_and_replaced(self, outbox, caplog):
        applier = OnceApplier(Killed("from outside"))
        events: list[Event] = []
        pool = WorkerPool(OutboxWorker(outbox, applier))
        pool.subscribe(events.append)

        with pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            # The new thread can carry the row before the group has counted it.
            eventually(lambda: pool.health().ok and pool.health().replaced == 1)

        [replaced] = [each for each in events if isinstance(each, ThreadReplaced)]
        assert "from outside" in (replaced.error or "")
        assert "from outside" in caplog.text
        assert outbox.rows(SHOP)[0].attempts == 0

    def test_a_thread_that_cannot_be_replaced_yet_is_replaced_later(
        self, outbox, monkeypatch, caplog
    ):
        pool = WorkerPool(
            OutboxWorker(outbox, OnceApplier(Killed("from outside"))), timing=SOON
        )
        start = threading.Thread.start
        refusals = [RuntimeError("can't start new thread")] * 3

        with pool:

            def refused(thread: threading.Thread) -> None:
                if refusals:
                    raise refusals.pop()
                start(thread)

            monkeypatch.setattr(threading.Thread, "start", refused)
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            eventually(lambda: pool.health().ok)

        assert refusals == []
        assert "could not be replaced" in caplog.text

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_log_that_raises_leaves_the_pool_alive(self, outbox):
        log = logging.getLogger("hydracache_sync")

        class WantsRequest(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("working outside of a request")

        handler = WantsRequest()
        log.addHandler(handler)
        try:
            worker = OutboxWorker(outbox, OnceApplier(Killed("it")))
            with WorkerPool(worker, timing=SOON) as pool:
                outbox.enqueue(SHOP, batch_of("a"))
                eventually(lambda: outbox.status(SHOP).pending == 0)
                # Some thirty looks: they start no other thread for the same one. A
                # warning of the thread itself, on a busy machine, may end one more.
                threading.Event().wait(0.3)
                eventually(lambda: pool.health().ok)
                health = pool.health()
        finally:
            log.removeHandler(handler)

        assert 1 <= health.replaced <= 3
        assert len(health.threads) == 1

    def test_a_dead_thread_is_seen(self, outbox):
        timing = PoolTiming(supervise_every=DEADLINE)
        applier = OnceApplier(Killed("from outside"))

        with WorkerPool(OutboxWorker(outbox, applier), timing=timing) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: not pool.health().ok)
            [thread] = pool.health().threads

        assert thread.state is ThreadState.DEAD
        assert "from outside" in (thread.error or "")

    def test_an_applier_that_hangs_holds_up_no_other_namespace(self, outbox, caplog):
        gate = threading.Event()

        class Hanging(InvalidationApplier):
            namespace = "hanging"

            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                assert gate.wait(DEADLINE)

        events: list[Event] = []
        blog = RecordingApplier("blog")
        pool = WorkerPool(
            OutboxWorker(outbox, Hanging()),
            OutboxWorker(outbox, blog),
            stuck_after=0.1,
        )
        pool.subscribe(events.append)

        with pool:
            outbox.enqueue("hanging", batch_of("a"))
            eventually(lambda: any(isinstance(e, ThreadStuck) for e in events))
            outbox.enqueue("blog", batch_of("b"))
            eventually(lambda: keys_of(blog) == ["b"])
            states = {each.state for each in pool.health().threads}
            gate.set()
            eventually(lambda: outbox.status("hanging").pending == 0)
            # The one that came back has ended: its place is taken.
            eventually(lambda: len(pool.health().threads) == 1)

        assert ThreadState.STUCK in states
        assert [each.namespace for each in events if isinstance(each, ThreadStuck)] == [
            "hanging"
        ]

    def test_an_applier_that_always_hangs_does_not_fill_the_process(self, outbox):
        gate = threading.Event()

        class Hanging(InvalidationApplier):
            namespace = SHOP

            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                assert gate.wait(DEADLINE)

        worker = OutboxWorker(outbox, Hanging(), batch_size=1, claim_ttl=0.1)
        outbox.enqueue(SHOP, batch_of(*(f"key:{n}" for n in range(20))))

        pool = WorkerPool(worker, stuck_after=0.01).start()
        eventually(lambda: pool.health().replaced == 1)
        threading.Event().wait(2.5)  # two more looks at the threads
        threads = len(pool.health().threads)
        gate.set()

        assert pool.stop(DEADLINE)
        assert threads == 2

    def test_an_event_subscriber_that_hangs_or_raises_loses_no_row(self, outbox):
        applier = RecordingApplier(SHOP)
        gate = threading.Event()
        worker = OutboxWorker(outbox, applier)
        worker.subscribe(lambda event: gate.wait(DEADLINE))

        with WorkerPool(worker):
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            gate.set()

        assert keys_of(applier) == ["a"]

    def test_a_mistake_in_one_namespace_holds_up_no_other(self, outbox, caplog):
        blog = RecordingApplier("blog")
        broken = OutboxWorker(outbox, RecordingApplier("broken"))

        def run_once(**options: Any) -> Any:
            raise TypeError("a mistake")

        broken.run_once = run_once  # type: ignore[method-assign]

        with WorkerPool(broken, OutboxWorker(outbox, blog)) as pool:
            outbox.enqueue("broken", batch_of("a"))
            for n in range(20):
                outbox.enqueue("blog", batch_of(str(n)))
            eventually(lambda: len(blog.applied) == 20)
            eventually(lambda: "a mistake" in caplog.text)
            eventually(lambda: pool.health().ok)


class TestFork:
    def test_a_fork_waits_until_threads_are_out_of_sqlite(self, outbox):
        inside, go = threading.Event(), threading.Event()

        def write() -> None:
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("parent"))
                inside.set()
                go.wait(0.2)

        thread = threading.Thread(target=write)
        thread.start()
        assert inside.wait(DEADLINE)

        def in_child() -> int:
            outbox.enqueue(SHOP, batch_of("child"))
            return os.getpid()

        Child(in_child).result()
        thread.join()

        assert outbox.status(SHOP).pending == 2

    def test_a_fork_waits_until_threads_that_end_have_closed_their_connections(
        self, outbox
    ):
        for _ in range(60):
            threads = [
                threading.Thread(target=outbox.status, args=[SHOP]) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            pending = Child(lambda: outbox.status(SHOP).pending).result()
            for thread in threads:
                thread.join()
            assert pending == 0

    def test_a_thread_that_forks_may_collect_a_connection_meanwhile(self):
        from hydracache_sync.fork import ForkLock

        gate = ForkLock()
        gate.close()
        with gate:
            pass
        gate.open()

    def test_a_fork_waits_for_a_thread_that_uses_another_outbox_in_its_block(
        self, outbox, tmp_path, monkeypatch, caplog
    ):
        from hydracache_sync.fork import fork_lock

        monkeypatch.setattr(fork_lock, "longest_wait", 0.05)
        inside, go = threading.Event(), threading.Event()
        other = SQLiteOutbox(tmp_path / "other.db")
        other.install_schema()

        def write() -> None:
            with outbox.transaction():
                other.status(SHOP)
                inside.set()
                go.wait(DEADLINE)

        thread = threading.Thread(target=write)
        thread.start()
        assert inside.wait(DEADLINE)
        Child(lambda: None).result()
        go.set()
        thread.join()
        other.close()

        # It has tried to; the test is too impatient to let it.
        assert "the child may find the file locked" in caplog.text

    def test_a_fork_does_not_wait_for_its_own_thread_or_for_ever(
        self, outbox, monkeypatch, caplog
    ):
        from hydracache_sync.fork import fork_lock

        monkeypatch.setattr(fork_lock, "longest_wait", 0.05)
        inside, go = threading.Event(), threading.Event()

        def write() -> None:
            with outbox.transaction():
                inside.set()
                go.wait(DEADLINE)

        with outbox.transaction():
            Child(lambda: None).result()
        own = list(caplog.records)
        thread = threading.Thread(target=write)
        thread.start()
        assert inside.wait(DEADLINE)
        Child(lambda: None).result()
        go.set()
        thread.join()

        assert own == []
        assert "the child may find the file locked" in caplog.text
        outbox.enqueue(SHOP, batch_of("a"))


# Very many rows wait for a node


@pytest.mark.parametrize("pools", [1, 2])
def test_thousands_of_rows_that_wait_for_a_node_are_applied_when_it_is_back(
    path: Path, outbox: SQLiteOutbox, pools: int
) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")

    def opened() -> SQLiteOutbox:
        return SQLiteOutbox(path, busy_timeout=DEADLINE)

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Memcached()) for _ in range(3)]
        crowd = Crowd(opened, servers, pools=pools, timing=LONG_WAITS, batch_size=FEW)
        crowd.node.stop()
        stack.enter_context(crowd.running())
        crowd.enqueue(2000)
        # Each batch waits for a random time: not all of them for so long.
        crowd.wait_until_put_off(1000, DEADLINE)
        crowd.node.start()
        seconds = crowd.carried()

    # None of the 1,000 has waited for its moment, which was a minute away or more.
    assert seconds < DEADLINE
    assert {row.attempts for row in crowd.rows().values()} == {0}
