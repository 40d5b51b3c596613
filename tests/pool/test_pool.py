"""A pool carries what is committed, in threads that start, stop and tell how they are.

Outages are in ``test_pool_faults.py``, forks and the end of the process in
``test_pool_processes.py``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, Sequence

import pytest

from hydracache_sync import (
    ApplyPermanent,
    DeadLettered,
    Event,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryOutbox,
    MemoryStore,
    OutboxError,
    OutboxWorker,
    Published,
    Purged,
    RecordingApplier,
    Retried,
    SQLiteOutbox,
    ThreadState,
    WorkerPool,
)
from hydracache_sync.cache.bound import watermark_ms
from hydracache_sync.cache.keyspace import Keyspace
from hydracache_sync.events import log_fields
from hydracache_sync.pool.maintenance import (
    SHORTEST_PURGE_PAUSE,
    Maintenance,
    Purge,
)
from hydracache_sync.pool.poll_scheduler import PollScheduler
from hydracache_sync.pool.timing import PoolTiming
from support.processes import DEADLINE
from support.waiting import eventually

SHOP = "shop"

#: Seconds, for a pool that must not find rows by polling.
NEVER = 3600.0


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    return batch


def keys_of(applier: RecordingApplier) -> list[str | None]:
    return [intent.value for intent in list(applier.applied)]


class GatedApplier(RecordingApplier):
    """Holds each invalidation until it is let go."""

    def __init__(self, namespace: str | None = None) -> None:
        super().__init__(namespace)
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        self.entered.release()
        assert self.gate.wait(DEADLINE)
        super().apply_invalidation(intent)

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        return super().apply_batch(intents)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SQLiteOutbox]:
    with contextlib.closing(SQLiteOutbox(tmp_path / "app.db")) as outbox:
        outbox.install_schema()
        yield outbox


@pytest.fixture
def applier() -> RecordingApplier:
    return RecordingApplier(SHOP)


class TestCarrying:
    def test_what_waits_at_the_start_is_carried(self, outbox, applier):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        with WorkerPool(OutboxWorker(outbox, applier)):
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert keys_of(applier) == ["a", "b"]

    def test_a_commit_of_this_process_wakes_the_pool(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), poll_interval=NEVER) as pool:
            eventually(lambda: pool.health().ok)
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: keys_of(applier) == ["a"])
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("b"))
            eventually(lambda: keys_of(applier) == ["a", "b"])

    def test_a_commit_of_the_callers_connection_is_looked_for(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), poll_interval=NEVER):
            with contextlib.closing(sqlite3.connect(outbox.path)) as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                connection.commit()
            eventually(lambda: keys_of(applier) == ["a"])

    def test_what_it_is_told_of_is_carried_without_a_look(self, tmp_path, applier):
        class BlindOutbox(SQLiteOutbox):
            def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
                return []

        with contextlib.closing(BlindOutbox(tmp_path / "app.db")) as outbox:
            outbox.install_schema()
            with WorkerPool(OutboxWorker(outbox, applier), poll_interval=NEVER):
                outbox.enqueue(SHOP, batch_of("a"))
                eventually(lambda: keys_of(applier) == ["a"])

    def test_a_process_that_goes_on_committing_keeps_no_other_waiting(
        self, tmp_path, applier
    ):
        # SQLite's locks are no queue: a writer may wait long beside one that goes on.
        outbox, elsewhere = (
            SQLiteOutbox(tmp_path / "app.db", busy_timeout=DEADLINE) for _ in range(2)
        )
        outbox.install_schema()
        ends = threading.Event()

        class Endless(RecordingApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                # The next one is told of before this round is over.
                if not ends.is_set():
                    outbox.enqueue("endless", batch_of("again"))

        pool = WorkerPool(
            OutboxWorker(outbox, applier),
            OutboxWorker(outbox, Endless("endless")),
            poll_interval=NEVER,
        )
        with contextlib.closing(outbox), contextlib.closing(elsewhere), pool:
            outbox.enqueue("endless", batch_of("first"))
            elsewhere.enqueue(SHOP, batch_of("a"))
            eventually(lambda: keys_of(applier) == ["a"])
            ends.set()

    def test_what_another_object_commits_is_found_by_polling(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier)):
            with contextlib.closing(SQLiteOutbox(outbox.path)) as other:
                other.enqueue(SHOP, batch_of("a"))
            eventually(lambda: keys_of(applier) == ["a"])

    def test_a_wake_finds_what_another_object_committed(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), poll_interval=NEVER) as pool:
            with contextlib.closing(SQLiteOutbox(outbox.path)) as other:
                other.enqueue(SHOP, batch_of("a"))
            pool.wake()
            eventually(lambda: keys_of(applier) == ["a"])

    def test_a_full_batch_is_followed_by_the_next(self, outbox, applier):
        keys = [f"key:{n}" for n in range(50)]
        worker = OutboxWorker(outbox, applier, batch_size=2)

        with WorkerPool(worker, poll_interval=NEVER):
            outbox.enqueue(SHOP, batch_of(*keys))
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert keys_of(applier) == keys

    def test_several_outboxes_and_namespaces_are_carried(self, tmp_path, outbox):
        other = SQLiteOutbox(tmp_path / "other.db")
        other.install_schema()
        appliers = [RecordingApplier(name) for name in (SHOP, "blog", SHOP)]
        workers = [
            OutboxWorker(outbox, appliers[0]),
            OutboxWorker(outbox, appliers[1]),
            OutboxWorker(other, appliers[2]),
        ]

        with contextlib.closing(other), WorkerPool(*workers, poll_interval=NEVER):
            outbox.enqueue(SHOP, batch_of("a"))
            outbox.enqueue("blog", batch_of("b"))
            other.enqueue(SHOP, batch_of("c"))
            eventually(lambda: all(each.applied for each in appliers))

        assert [keys_of(each) for each in appliers] == [["a"], ["b"], ["c"]]

    def test_a_flood_in_one_namespace_starves_no_other(self, outbox):
        order: list[str] = []

        class Ordered(InvalidationApplier):
            def __init__(self, namespace: str) -> None:
                self.namespace = namespace

            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                assert self.namespace is not None
                order.append(self.namespace)

        workers = [
            OutboxWorker(outbox, Ordered(name), batch_size=1)
            for name in ("flood", "calm", "quiet")
        ]
        outbox.enqueue("flood", batch_of(*(f"key:{n}" for n in range(200))))
        outbox.enqueue("calm", batch_of("a", "b"))
        outbox.enqueue("quiet", batch_of("c"))

        with WorkerPool(*workers):
            eventually(lambda: len(order) == 203)

        assert sorted(order[:3]) == ["calm", "flood", "quiet"]
        assert order.index("calm", order.index("calm") + 1) < 6

    def test_threads_share_a_backlog_and_no_row_is_carried_twice(self, outbox, applier):
        keys = [f"key:{n}" for n in range(300)]
        outbox.enqueue(SHOP, batch_of(*keys))

        with WorkerPool(OutboxWorker(outbox, applier, batch_size=5), threads=4):
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert sorted(keys_of(applier)) == sorted(keys)

    def test_a_thread_that_is_busy_leaves_the_looking_to_another(self, outbox):
        slow, fast = GatedApplier("slow"), RecordingApplier("fast")
        workers = [OutboxWorker(outbox, slow), OutboxWorker(outbox, fast)]

        with WorkerPool(*workers, threads=2):
            outbox.enqueue("slow", batch_of("a"))
            assert slow.entered.acquire(timeout=DEADLINE)
            outbox.enqueue("fast", batch_of("b"))
            eventually(lambda: fast.applied)
            slow.gate.set()

    def test_memory_outbox_is_carried_too(self, applier):
        outbox = MemoryOutbox()

        with WorkerPool(OutboxWorker(outbox, applier), threads=2, poll_interval=NEVER):
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: keys_of(applier) == ["a"])


class TestStartAndStop:
    def test_nothing_runs_before_the_start_and_after_the_stop(self, outbox, applier):
        pool = WorkerPool(OutboxWorker(outbox, applier))
        before = threading.active_count()

        assert not pool.health().running
        assert pool.start() is pool
        assert pool.health().running
        assert pool.stop(DEADLINE) is True

        assert threading.active_count() == before
        outbox.enqueue(SHOP, batch_of("a"))
        assert not pool.health().running
        assert applier.applied == []

    def test_start_and_stop_are_safe_twice(self, outbox, applier):
        pool = WorkerPool(OutboxWorker(outbox, applier))

        pool.start()
        threads = threading.active_count()
        pool.start()

        assert threading.active_count() == threads
        assert pool.stop(DEADLINE) is True
        assert pool.stop(DEADLINE) is True

    def test_a_stopped_pool_can_be_started_again(self, outbox, applier):
        pool = WorkerPool(OutboxWorker(outbox, applier), poll_interval=NEVER)
        for key in ("a", "b", "c"):
            with pool:
                outbox.enqueue(SHOP, batch_of(key))
                eventually(lambda: key in keys_of(applier))

        assert keys_of(applier) == ["a", "b", "c"]

    def test_stop_finishes_the_batch_in_flight(self, outbox):
        applier = GatedApplier(SHOP)
        pool = WorkerPool(OutboxWorker(outbox, applier, batch_size=2)).start()
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        assert applier.entered.acquire(timeout=DEADLINE)

        in_time = pool.stop(0.0)
        applier.gate.set()
        afterwards = pool.stop(DEADLINE)

        assert (in_time, afterwards) == (False, True)
        assert keys_of(applier) == ["a", "b"]
        rows = outbox.rows(SHOP)
        assert [row.is_published for row in rows] == [True, True, False]
        assert rows[2].claim_token is None

    def test_stop_that_was_cut_off_can_be_called_again(
        self, outbox, applier, monkeypatch
    ):
        """By a signal's handler, for instance, which raises at any line."""
        subscribe, ends = outbox.subscribe, [SystemExit]

        def subscribe_and_fail_to_end(callback: Any) -> Any:
            unsubscribe = subscribe(callback)

            def end() -> None:
                if ends:
                    raise ends.pop()
                unsubscribe()

            return end

        monkeypatch.setattr(outbox, "subscribe", subscribe_and_fail_to_end)
        before = threading.active_count()
        pool = WorkerPool(OutboxWorker(outbox, applier)).start()

        with pytest.raises(SystemExit):
            pool.stop(DEADLINE)

        assert pool.stop(DEADLINE) is True
        assert threading.active_count() == before

    def test_pool_can_be_started_while_a_stopped_thread_still_ends(self, outbox):
        applier = GatedApplier(SHOP)
        pool = WorkerPool(OutboxWorker(outbox, applier)).start()
        outbox.enqueue(SHOP, batch_of("a"))
        assert applier.entered.acquire(timeout=DEADLINE)

        assert pool.stop(0.0) is False
        pool.start()
        outbox.enqueue(SHOP, batch_of("b"))
        assert applier.entered.acquire(timeout=DEADLINE)
        applier.gate.set()

        eventually(lambda: outbox.status(SHOP).pending == 0)
        assert pool.stop(DEADLINE) is True
        assert sorted(keys_of(applier)) == ["a", "b"]

    def test_a_thread_of_the_pool_may_stop_it(self, outbox, applier):
        pool = WorkerPool(OutboxWorker(outbox, applier))
        answers: list[bool] = []
        pool.subscribe(lambda event: answers.append(pool.stop(DEADLINE)))
        pool.start()

        outbox.enqueue(SHOP, batch_of("a"))

        eventually(lambda: answers == [False])
        assert pool.stop(DEADLINE) is True

    def test_starts_and_stops_leave_nothing_behind(self, outbox, applier):
        pool = WorkerPool(OutboxWorker(outbox, applier), threads=3)

        def used() -> tuple[int, int]:
            with pool:
                outbox.enqueue(SHOP, batch_of("a"))
                eventually(lambda: outbox.status(SHOP).pending == 0)
            return threading.active_count(), len(os.listdir("/proc/self/fd"))

        first = used()

        assert [used() for _ in range(10)] == [first] * 10

    def test_threads_tell_by_their_names_what_they_do(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), threads=2):
            names = {thread.name for thread in threading.enumerate()}

        assert {
            "hydracache-worker-1",
            "hydracache-worker-2",
            "hydracache-maintenance",
        } <= names

    @pytest.mark.parametrize(
        "options, name",
        [
            ({"threads": 0}, "threads"),
            ({"poll_interval": 0}, "poll_interval"),
            ({"poll_interval": -1}, "poll_interval"),
            ({"purge_every": 0}, "purge_every"),
            ({"heartbeat": 0}, "heartbeat"),
            ({"keep_published": -1}, "keep_published"),
            ({"stuck_after": 0}, "stuck_after"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, outbox, applier, options, name):
        with pytest.raises(ValueError, match=name):
            WorkerPool(OutboxWorker(outbox, applier), **options)

    def test_two_workers_of_one_namespace_are_refused(self, outbox, applier):
        with pytest.raises(ValueError, match="two workers for namespace 'shop'"):
            WorkerPool(OutboxWorker(outbox, applier), OutboxWorker(outbox, applier))

    def test_a_pool_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="at least one worker"):
            WorkerPool()


class TestHealth:
    def test_idle_threads_are_idle(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), threads=3) as pool:
            eventually(
                lambda: {each.state for each in pool.health().threads}
                == {ThreadState.IDLE}
            )
            health = pool.health()

        assert health.ok
        assert len(health.threads) == 3
        assert health.outages == ()

    def test_a_thread_that_carries_is_working_and_tells_on_what(self, outbox):
        applier = GatedApplier(SHOP)
        with WorkerPool(OutboxWorker(outbox, applier)) as pool:
            outbox.enqueue(SHOP, batch_of("a"))
            assert applier.entered.acquire(timeout=DEADLINE)
            [thread] = pool.health().threads
            applier.gate.set()

        assert thread.state is ThreadState.WORKING
        assert thread.namespace == SHOP
        assert thread.seconds >= 0

    def test_a_thread_that_does_not_come_back_is_stuck(self, outbox):
        applier = GatedApplier(SHOP)
        pool = WorkerPool(OutboxWorker(outbox, applier), stuck_after=0.001)
        with pool:
            outbox.enqueue(SHOP, batch_of("a"))
            assert applier.entered.acquire(timeout=DEADLINE)
            eventually(lambda: not pool.health().ok)
            stuck = pool.health().threads[0]
            applier.gate.set()

        assert stuck.state is ThreadState.STUCK
        assert stuck.namespace == SHOP


class TestEvents:
    def test_subscribers_hear_what_became_of_rows(self, outbox):
        class Applier(RecordingApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                if intent.value == "bad":
                    raise RuntimeError("no such thing")
                super().apply_invalidation(intent)

        events: list[Event] = []
        worker = OutboxWorker(outbox, Applier(SHOP), backoff=0.001, max_attempts=2)
        pool = WorkerPool(worker)
        pool.subscribe(events.append)

        with pool:
            receipt = outbox.enqueue(SHOP, batch_of("good", "bad"))
            eventually(lambda: outbox.status(SHOP).dead_lettered == 1)
        good, bad = outbox.rows(SHOP, commit_position=receipt.commit_position)

        published = [each for each in events if isinstance(each, Published)]
        [retried] = [each for each in events if isinstance(each, Retried)]
        [dead] = [each for each in events if isinstance(each, DeadLettered)]
        assert [row.id for each in published for row in each.rows] == [good.id]
        assert published[0].count == 1
        assert published[0].seconds >= 0
        assert [row.id for row in retried.rows] == [bad.id]
        assert retried.attempts == 1
        assert "no such thing" in retried.error
        assert [row.id for row in dead.rows] == [bad.id]
        assert {each.namespace for each in events} == {SHOP}

    def test_a_subscriber_that_raises_hurts_no_row(self, outbox, applier, caplog):
        def broken(event: Event) -> None:
            raise RuntimeError("subscriber is broken")

        pool = WorkerPool(OutboxWorker(outbox, applier))
        pool.subscribe(broken)

        with pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert "subscriber is broken" in caplog.text

    def test_a_subscriber_that_exits_ends_no_thread(self, outbox, applier, caplog):
        pool = WorkerPool(OutboxWorker(outbox, applier), keep_published=0.0)
        pool.subscribe(lambda event: sys.exit("subscriber has had enough"))

        with pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            eventually(lambda: "had enough" in caplog.text)
            names = {thread.name for thread in threading.enumerate()}
            health = pool.health()

        assert {"hydracache-worker-1", "hydracache-maintenance"} <= names
        assert health.ok
        assert health.replaced == 0

    def test_unsubscribed_is_told_no_more(self, outbox, applier):
        events: list[Event] = []
        pool = WorkerPool(OutboxWorker(outbox, applier))
        unsubscribe = pool.subscribe(events.append)
        unsubscribe()

        with pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert events == []


class TestLogFields:
    def test_log_lines_carry_the_facts_of_their_events(self, outbox, caplog):
        class Applier(RecordingApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                raise ApplyPermanent("no such thing")

        with WorkerPool(OutboxWorker(outbox, Applier(SHOP), escalate=False)):
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).dead_lettered == 1)

        [row] = outbox.rows(SHOP)
        [record] = [each for each in caplog.records if each.levelname == "ERROR"]
        fields = {
            name: value
            for name, value in vars(record).items()
            if name.startswith("hydracache_")
        }
        assert fields == {
            "hydracache_event": "DeadLettered",
            "hydracache_namespace": SHOP,
            "hydracache_rows": [row.id],
            "hydracache_lost": 0,
            "hydracache_error": "ApplyPermanent: no such thing",
            "hydracache_flushed": False,
        }

    def test_no_more_than_a_hundred_ids_are_logged(self, outbox):
        outbox.enqueue(SHOP, batch_of(*(f"key:{n}" for n in range(150))))
        rows = outbox.rows(SHOP, limit=150)

        fields = log_fields(Published(SHOP, rows, 0, 0.5))

        assert fields["hydracache_rows"] == [row.id for row in rows[:100]]


class TestPollScheduler:
    """One of several threads polls, the leader; the others wait."""

    def test_one_of_several_polls_at_a_time(self):
        scheduler = PollScheduler(0.001)
        looking, most = 0, 0
        lock = threading.Lock()
        ends = time.monotonic() + 0.3

        def run(me: object) -> None:
            nonlocal looking, most
            while scheduler.wait(me) and time.monotonic() < ends:
                with lock:
                    looking += 1
                    most = max(most, looking)
                with lock:
                    looking -= 1
                scheduler.nothing_due(me, 0.0)
            scheduler.close()

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)

        assert most == 1

    def test_a_wake_up_is_kept_for_the_next_thread(self):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("first")
        scheduler.release("first")

        scheduler.wake()

        assert scheduler.wait("second")
        scheduler.nothing_due("second", 0.0)

    def test_one_poll_serves_all_wake_ups_before_it(self):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("me")
        scheduler.nothing_due("me", 0.0)

        for _ in range(3):
            scheduler.wake()
        assert scheduler.wait("me")
        scheduler.nothing_due("me", 0.0)

        end = threading.Timer(0.05, scheduler.close)
        end.start()
        assert not scheduler.wait("me")

    def test_each_expected_commit_is_polled_for_soon(self):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("me")
        scheduler.nothing_due("me", 0.0)
        scheduler.poll_soon()
        # The first poll finds it.
        assert scheduler.wait("me")
        scheduler.release("me")
        end = threading.Timer(DEADLINE, scheduler.close)
        end.start()

        scheduler.poll_soon()

        assert scheduler.wait("me")
        end.cancel()

    def test_a_thread_that_has_applied_rows_goes_on_to_poll_soon(self):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("me")
        scheduler.poll_soon()
        scheduler.release("me")
        # It polls again without being the leader, and too early.
        scheduler.nothing_due("me", 0.0)
        end = threading.Timer(DEADLINE, scheduler.close)
        end.start()

        assert scheduler.wait("me")
        end.cancel()

    def test_polls_for_an_expected_commit_grow_rare(self):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("me")
        scheduler.nothing_due("me", 0.0)
        scheduler.poll_soon()

        pauses = []
        for _ in range(8):
            started = time.monotonic()
            assert scheduler.wait("me")
            pauses.append(time.monotonic() - started)
            scheduler.nothing_due("me", 0.0)

        # Whatever the machine adds, it takes nothing away.
        assert pauses[-1] >= 0.001 * 2.0**6 * 0.9

    def test_another_polls_if_the_leader_does_not_return(self):
        scheduler = PollScheduler(NEVER, hanging_poll=0.01)
        assert scheduler.wait("hanging")

        assert scheduler.wait("other")

    def test_it_goes_on_to_wait_while_it_is_quiet(self):
        scheduler = PollScheduler(0.001)
        answers = iter([True, True, False])
        asked = []

        def is_quiet(thread: object, now: float) -> bool:
            asked.append((thread, now))
            return next(answers)

        while len(asked) < 3:  # a slow machine polls late, without it
            assert scheduler.wait("me", is_quiet)
            scheduler.nothing_due("me", 0.0)

        assert [thread for thread, _ in asked] == ["me"] * 3
        moments = [now for _, now in asked]
        assert min(b - a for a, b in zip(moments, moments[1:])) >= 0.001

    @pytest.mark.parametrize("by", ["wake", "poll_soon"])
    def test_a_wake_up_during_a_look_for_little_is_kept(self, by):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("me")
        asked = 0

        def is_quiet(thread: object, now: float) -> bool:
            nonlocal asked
            asked += 1
            if asked == 1:
                getattr(scheduler, by)()
            return asked == 1

        end = threading.Timer(DEADLINE, scheduler.close)
        end.start()
        while not asked:  # a slow machine polls late, without it
            scheduler.failed(0.001)
            assert scheduler.wait("me", is_quiet)
        end.cancel()

    def test_who_hangs_in_a_look_for_little_loses_its_role(self):
        scheduler = PollScheduler(0.001, hanging_poll=0.01)
        assert scheduler.wait("hanging")
        other_polls = False

        def hang(thread: object, now: float) -> bool:
            nonlocal other_polls
            other_polls = scheduler.wait("other")
            return True

        while not other_polls:  # a slow machine polls late, without it
            scheduler.nothing_due("hanging", 0.0)
            goes_on = scheduler.wait("hanging", hang)

        assert not goes_on

    def test_all_end_at_the_end(self):
        scheduler = PollScheduler(NEVER)
        assert scheduler.wait("leader")
        scheduler.nothing_due("leader", 0.0)
        answers: list[bool] = []
        threads = [
            threading.Thread(target=lambda me=me: answers.append(scheduler.wait(me)))
            for me in ("leader", "follower")
        ]
        for thread in threads:
            thread.start()

        scheduler.close()
        for thread in threads:
            thread.join(DEADLINE)

        assert answers == [False, False]
        assert scheduler.wait("late") is False


class TestWatermark:
    def test_one_is_stored_for_each_worker_that_has_it_on(self, outbox):
        store = MemoryStore()
        workers = [
            OutboxWorker(outbox, MemcachedApplier(store, name), watermark=name == SHOP)
            for name in (SHOP, "blog")
        ]

        def stored(name):
            address = Keyspace(store.ring, name).watermark()
            return watermark_ms(store.get_many([address])[0])

        with WorkerPool(*workers, timing=PoolTiming(watermark_every=0.01)):
            eventually(lambda: stored(SHOP))
            first = stored(SHOP)
            eventually(lambda: stored(SHOP) > first)
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert stored("blog") is None

    def test_an_outbox_that_fails_is_logged_once_and_it_goes_on(self, outbox, caplog):
        store = MemoryStore()
        calls = []

        class Failing(OutboxWorker):
            def store_watermark(self):
                calls.append(1)
                raise OutboxError("away")

        worker = Failing(outbox, MemcachedApplier(store, SHOP), watermark=True)
        with WorkerPool(worker, timing=PoolTiming(watermark_every=0.01)):
            eventually(lambda: len(calls) >= 3)

        lines = [each for each in caplog.messages if "the watermark of shop" in each]
        assert len(lines) == 1


class TestHeartbeat:
    def test_heartbeats_are_written_also_while_no_row_comes(self, outbox, applier):
        beats = Beats(outbox)

        with WorkerPool(OutboxWorker(outbox, applier), heartbeat=0.01):
            eventually(lambda: len(beats.seen()) >= 3)

        assert sorted(beats.seen()) == beats.seen()

    def test_heartbeats_go_on_after_one_that_failed(self, outbox, applier, caplog):
        beats = Beats(outbox)
        beats.sql("alter table hydracache_outbox_heartbeat rename to away")

        with WorkerPool(OutboxWorker(outbox, applier), heartbeat=0.01):
            eventually(lambda: "writing the heartbeat" in caplog.text)
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            outbox.install_schema()
            eventually(lambda: len(beats.seen()) >= 2)

        lines = [each for each in caplog.messages if "writing the heartbeat" in each]
        assert len(lines) == 1

    def test_none_is_written_unless_it_is_asked_for(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), purge_every=0.01):
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)

        assert Beats(outbox).seen() == []


class Beats:
    """The moments that were seen in the table, in the order in which they came."""

    def __init__(self, outbox: SQLiteOutbox) -> None:
        self._path = outbox.path
        self._seen: list[int] = []

    def sql(self, statement: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=DEADLINE)) as own:
            found = own.execute(statement).fetchall()
            own.commit()
        return found

    def seen(self) -> list[int]:
        for (beat_ms,) in self.sql("select beat_ms from hydracache_outbox_heartbeat"):
            if beat_ms not in self._seen:
                self._seen.append(beat_ms)
        return self._seen


class TestPurge:
    def test_rows_published_long_ago_are_purged(self, outbox, applier):
        events: list[Event] = []
        pool = WorkerPool(
            OutboxWorker(outbox, applier), keep_published=0.001, purge_every=0.001
        )
        pool.subscribe(events.append)

        with pool:
            outbox.enqueue(SHOP, batch_of(*(f"key:{n}" for n in range(1200))))
            eventually(lambda: len(applier.applied) == 1200 and not outbox.rows(SHOP))

        purged = [each for each in events if isinstance(each, Purged)]
        assert sum(each.rows for each in purged) == 1200

    def test_maintenance_survives_any_error(self, outbox, applier, caplog):
        purges: list[int] = []

        def hear(event: Event) -> None:
            if isinstance(event, Purged):
                purges.append(event.rows)
                if len(purges) == 1:
                    raise KeyboardInterrupt("from a subscriber")

        pool = WorkerPool(
            OutboxWorker(outbox, applier), keep_published=0.0, purge_every=0.01
        )
        pool.subscribe(hear)
        with pool:
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: purges == [1])
            outbox.enqueue(SHOP, batch_of("b"))
            eventually(lambda: purges == [1, 1])

        assert "the pool's maintenance restarts" in caplog.text

    def test_a_purge_pauses_for_its_own_time_and_not_for_that_of_others(self, outbox):
        now = 0.0
        # A statement alone, one that waited for other writers first, and the last.
        took = {500: [0.004, 0.3], 499: [0.001]}
        statements = [(rows, each) for rows, times in took.items() for each in times]

        def purge_published(*args: Any, **options: Any) -> int:
            nonlocal now
            rows, seconds = statements.pop(0)
            now += seconds
            return rows

        outbox.purge_published = purge_published
        group = SimpleNamespace(outbox=outbox)
        told: list[Event] = []
        maintenance = Maintenance(
            [],
            keep_published=1.0,
            purge_every=1.0,
            emit=told.append,
            clock=lambda: now,
        )
        purges = deque([Purge(group, SHOP, 0.0)])

        pauses = [maintenance.purge_batch(purges) for _ in range(3)]

        assert pauses[:2] == [pytest.approx(0.008)] * 2
        assert pauses[2] == SHORTEST_PURGE_PAUSE
        [purged] = told
        assert purged.rows == 1499 and not purges

    def test_nothing_is_purged_before_its_time(self, outbox, applier):
        with WorkerPool(OutboxWorker(outbox, applier), purge_every=0.001):
            outbox.enqueue(SHOP, batch_of("a"))
            eventually(lambda: outbox.status(SHOP).pending == 0)
            time.sleep(0.05)

        assert len(outbox.rows(SHOP)) == 1
