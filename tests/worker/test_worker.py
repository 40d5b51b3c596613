"""A worker carries committed rows to its applier and settles each by what came of it.

What happens when cache, database or process fail meanwhile is in
``test_worker_faults.py``, publishing from the writer's own thread in
``test_publish.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, Sequence, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hydracache_sync
from hydracache_sync import (
    ApplyPermanent,
    ApplyTransient,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    MemoryStore,
    OutboxRow,
    OutboxState,
    OutboxWorker,
    PublishReport,
    RecordingApplier,
    SQLiteOutbox,
)
from hydracache_sync import backoff as backoff_module
from support.appliers import Applier
from support.clock import FakeClock
from support.faulty_memcached import FaultyMemcached

SHOP = "shop"

#: Of the fake clock, which starts in mid-minute: escalation counts by the minute.
MINUTE = 60.0

#: Keys of rows, by what becomes of them.
FATES = ["fine", "busy", "hopeless", "away", "malformed"]

Outbox = Union[MemoryOutbox, SQLiteOutbox]


class FlushlessApplier(Applier):
    can_flush = False


def trace(outbox: SQLiteOutbox | MemoryOutbox, statements: list[str]) -> None:
    """Append to ``statements`` what this thread's connection runs from now on."""
    with outbox._database.session() as connection:
        connection.set_trace_callback(statements.append)


class TracedMemoryOutbox(MemoryOutbox):
    """Keeps every statement that its connection runs."""

    def __init__(self, clock: FakeClock) -> None:
        self.statements: list[str] = []
        super().__init__(clock=clock)
        trace(self, self.statements)


class TracedSQLiteOutbox(SQLiteOutbox):
    """Keeps every statement that its own connections run."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.statements: list[str] = []
        super().__init__(path, clock=clock)
        self.install_schema()
        trace(self, self.statements)


@pytest.fixture(params=["memory", "sqlite"])
def traced(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> Iterator[TracedMemoryOutbox | TracedSQLiteOutbox]:
    """An outbox that has run its first statements and forgotten them."""
    if request.param == "memory":
        memory = TracedMemoryOutbox(clock)
        memory.claim(SHOP, "w", limit=1, claim_ttl=1)
        memory.statements.clear()
        yield memory
        return
    with contextlib.closing(TracedSQLiteOutbox(tmp_path / "app.db", clock)) as outbox:
        outbox.install_schema()
        outbox.claim(SHOP, "w", limit=1, claim_ttl=1)
        outbox.statements.clear()
        yield outbox


def enqueue(outbox: Outbox, *keys: str, namespace: str = SHOP) -> list[OutboxRow]:
    """Commit one row a key, all in one batch; return the rows."""
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    receipt = outbox.enqueue(namespace, batch)
    return outbox.rows(
        namespace, commit_position=receipt.commit_position, limit=len(keys)
    )


def corrupt(outbox: Outbox, id: int, assignment: str) -> None:
    """Change a row in a way that no version of the library would."""
    with outbox.transaction() as connection:
        connection.execute(
            f"update hydracache_outbox set {assignment} where id = ?", (id,)
        )


def key(name: str) -> InvalidationIntent:
    return InvalidationIntent.key(name)


def parts_of(report: PublishReport) -> int:
    claimed, *parts = astuple(report)
    return sum(parts)


def verbs(statements: Sequence[str]) -> list[str]:
    return [statement.split()[0].lower() for statement in statements]


class TestRunOnce:
    def test_a_committed_row_is_applied_and_published(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        clock.advance(3)

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=1, published=1)
        assert applier.applied == [key("user:42")]
        published = outbox.row(row.id)
        assert published is not None and published.is_published
        assert published.published_at_ms == clock.now_ms
        assert published.claim_token is None

    def test_nothing_due_is_an_empty_report(self, outbox: Outbox) -> None:
        applier = Applier()

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport()
        assert report.complete
        assert applier.applied == []

    def test_a_rolled_back_row_is_never_applied(self, outbox: Outbox) -> None:
        applier = Applier()
        batch = InvalidationIntentBatch().invalidate_key("user:42")
        with contextlib.suppress(ZeroDivisionError):
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch)
                raise ZeroDivisionError

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport()
        assert applier.applied == []

    def test_a_published_row_is_not_applied_again(self, outbox: Outbox) -> None:
        enqueue(outbox, "user:42")
        applier = Applier()
        worker = OutboxWorker(outbox, applier)
        worker.run_once()

        report = worker.run_once()

        assert report == PublishReport()
        assert applier.applied == [key("user:42")]

    def test_a_batch_takes_no_more_rows_than_it_may(self, outbox: Outbox) -> None:
        enqueue(outbox, "a", "b", "c")
        applier = Applier()

        report = OutboxWorker(outbox, applier, batch_size=2).run_once()

        assert report == PublishReport(claimed=2, published=2)
        assert applier.applied == [key("a"), key("b")]
        assert outbox.status(SHOP).pending == 1

    def test_rows_are_applied_in_the_order_of_their_arrival(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        for name in "zebra":
            enqueue(outbox, name)
            clock.advance(0.001)
        applier = Applier()

        OutboxWorker(outbox, applier).run_once()

        assert applier.applied == [key(name) for name in "zebra"]

    def test_each_kind_of_outcome_is_counted_and_the_parts_sum_up(
        self, outbox: Outbox
    ) -> None:
        *_, bad = enqueue(outbox, "fine", "busy", "hopeless", "away", "bad")
        corrupt(outbox, bad.id, "kind = 'banana'")
        applier = Applier()
        applier.failures = {
            key("busy"): ApplyTransient("later"),
            key("hopeless"): ApplyPermanent("never"),
            key("away"): ConnectionRefusedError("nobody there"),
        }

        report = OutboxWorker(outbox, applier, escalate=False).run_once()

        assert report == PublishReport(
            claimed=5, published=1, retried=1, dead_lettered=2, released=1
        )
        assert parts_of(report) == report.claimed
        assert not report.complete

    def test_another_namespace_is_left_alone(self, outbox: Outbox) -> None:
        [other] = enqueue(outbox, "user:42", namespace="blog")

        report = OutboxWorker(outbox, Applier()).run_once()

        assert report == PublishReport()
        row = outbox.row(other.id)
        assert row is not None and row.state is OutboxState.PENDING
        assert row.claim_token is None


class TestReports:
    def test_reports_add_up(self) -> None:
        one = PublishReport(claimed=3, published=1, released=2)
        other = PublishReport(
            claimed=15, published=5, retried=4, dead_lettered=3, lost=2, unseen=1
        )

        assert one + other == PublishReport(
            claimed=18,
            published=6,
            retried=4,
            dead_lettered=3,
            released=2,
            lost=2,
            unseen=1,
        )

    @pytest.mark.parametrize(
        "part", ["retried", "dead_lettered", "released", "lost", "unseen"]
    )
    def test_only_a_report_with_all_published_is_complete(self, part: str) -> None:
        assert PublishReport(claimed=2, published=2).complete
        assert not PublishReport(claimed=2, published=1, **{part: 1}).complete

    @given(fates=st.lists(st.sampled_from(FATES), max_size=30), size=st.integers(1, 9))
    def test_whatever_happens_to_rows_claimed_is_the_sum_of_the_rest(
        self, fates: list[str], size: int
    ) -> None:
        outbox = MemoryOutbox(clock=FakeClock())
        for fate in fates:
            enqueue(outbox, fate)
        with outbox.transaction() as connection:
            connection.execute(
                "update hydracache_outbox set kind = 'banana'"
                " where value = 'malformed'"
            )
        applier = Applier()
        applier.failures = {
            key("busy"): RuntimeError("later"),
            key("hopeless"): ApplyPermanent("never"),
            key("away"): OSError("nobody there"),
        }
        worker = OutboxWorker(outbox, applier, escalate=False, batch_size=size)

        report = worker.run_once()

        assert report.claimed == min(size, len(fates)) == parts_of(report)
        assert report.claimed == worker.diagnostics().claimed


class TestDrain:
    def test_it_runs_batches_until_nothing_is_due(self, outbox: Outbox) -> None:
        enqueue(outbox, *"abcde")
        applier = Applier()
        worker = OutboxWorker(outbox, applier, batch_size=2)

        report = worker.drain()

        assert report == PublishReport(claimed=5, published=5)
        assert applier.applied == [key(name) for name in "abcde"]
        assert outbox.status(SHOP).pending == 0

    def test_it_leaves_rows_in_backoff_and_returns(self, outbox: Outbox) -> None:
        enqueue(outbox, *"abc")
        applier = Applier()
        applier.failures[key("b")] = ApplyTransient("later")

        # One pause in a thousand of a second is none, to the millisecond.
        report = OutboxWorker(outbox, applier, backoff=1000, max_backoff=1000).drain()

        assert report == PublishReport(claimed=3, published=2, retried=1)
        assert outbox.status(SHOP).pending == 1

    def test_no_batch_is_started_once_the_time_is_up(self, outbox: Outbox) -> None:
        enqueue(outbox, *"abc")
        worker = OutboxWorker(outbox, Applier(), batch_size=1)

        report = worker.drain(max_seconds=0)

        assert report == PublishReport(claimed=1, published=1)
        assert outbox.status(SHOP).pending == 2

    def test_time_counts_from_the_call_by_the_monotonic_clock(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        enqueue(outbox, *"abcdef")

        class SlowApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                clock.advance(2)

        worker = OutboxWorker(outbox, SlowApplier(SHOP), batch_size=1, monotonic=clock)

        report = worker.drain(max_seconds=5)

        assert report == PublishReport(claimed=3, published=3)

    def test_a_set_stop_event_ends_it_after_the_batch(self, outbox: Outbox) -> None:
        enqueue(outbox, *"abc")
        stop = threading.Event()

        class StoppingApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                stop.set()

        worker = OutboxWorker(outbox, StoppingApplier(), batch_size=1)

        report = worker.drain(stop=stop)

        assert report == PublishReport(claimed=1, published=1)
        assert outbox.status(SHOP).pending == 2

    def test_a_backlog_of_failing_rows_ends_it_too(self, outbox: Outbox) -> None:
        enqueue(outbox, *"abc")
        applier = Applier()
        for name in "abc":
            applier.failures[key(name)] = RuntimeError("broken")
        worker = OutboxWorker(outbox, applier, backoff=0, escalate=False)

        report = worker.drain()

        assert report.dead_lettered == 3
        assert report.retried == 3 * (worker.max_attempts - 1)
        assert parts_of(report) == report.claimed


class TestDiagnostics:
    def test_counts_grow_from_call_to_call(self, outbox: Outbox) -> None:
        enqueue(outbox, "fine", "busy", "hopeless", "away")
        applier = Applier()
        applier.failures = {
            key("busy"): ApplyTransient("later"),
            key("hopeless"): ApplyPermanent("never"),
            key("away"): OSError("nobody there"),
        }
        worker = OutboxWorker(outbox, applier)
        worker.run_once()
        enqueue(outbox, "more")

        worker.run_once()

        counts = worker.diagnostics()
        assert counts.iterations == 2
        # The flush that stands for the dead letter has come in between.
        assert counts.claimed == 6
        assert counts.published == 3
        assert counts.retried == counts.dead_lettered == counts.released == 1
        assert counts.outages == 1
        assert counts.escalations == 1
        assert counts.lost == counts.unseen == 0

    def test_they_are_those_of_one_worker(self, outbox: Outbox) -> None:
        enqueue(outbox, "user:42")
        busy, idle = OutboxWorker(outbox, Applier()), OutboxWorker(outbox, Applier())

        busy.run_once()

        assert busy.diagnostics().published == 1
        assert idle.diagnostics().published == 0

    def test_a_reset_makes_dead_letters_pending_again(self, outbox: Outbox) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = ApplyPermanent("never")
        worker = OutboxWorker(outbox, applier, escalate=False)
        worker.run_once()
        applier.failures.clear()

        count = worker.reset_dead_letters()

        assert count == 1
        reset = outbox.row(row.id)
        assert reset is not None and reset.attempts == 0 and reset.last_error is None
        assert worker.run_once() == PublishReport(claimed=1, published=1)


class TestSettings:
    def test_batch_size_and_max_attempts_are_at_least_one(self) -> None:
        worker = OutboxWorker(MemoryOutbox(), Applier(), batch_size=-3, max_attempts=0)

        assert worker.batch_size == 1
        assert worker.max_attempts == 1

    def test_max_attempts_of_zero_still_makes_one_attempt(self, outbox: Outbox) -> None:
        enqueue(outbox, "fine", "broken")
        applier = Applier()
        applier.failures[key("broken")] = RuntimeError("broken")
        worker = OutboxWorker(outbox, applier, max_attempts=0, escalate=False)

        report = worker.run_once()

        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)

    @pytest.mark.parametrize(
        "settings",
        [
            {"claim_ttl": 0},
            {"claim_ttl": -1.0},
            {"claim_ttl": float("nan")},
            {"claim_ttl": float("inf")},
            {"backoff": -1.0},
            {"backoff": float("nan")},
            {"backoff": 2.0, "max_backoff": 1.0},
            {"max_backoff": float("nan")},
        ],
        ids=str,
    )
    def test_durations_that_no_claim_could_take_are_refused(
        self, settings: dict[str, float]
    ) -> None:
        with pytest.raises(ValueError, match="claim_ttl|backoff"):
            OutboxWorker(MemoryOutbox(), Applier(), **settings)  # type: ignore

    def test_the_applier_names_the_namespace(self) -> None:
        worker = OutboxWorker(MemoryOutbox(), Applier("blog"))

        assert worker.namespace == "blog"

    def test_the_worker_names_it_for_an_applier_that_has_none(self) -> None:
        worker = OutboxWorker(MemoryOutbox(), Applier(None), "blog")

        assert worker.namespace == "blog"

    def test_naming_it_twice_alike_is_fine(self) -> None:
        worker = OutboxWorker(MemoryOutbox(), Applier("blog"), "blog")

        assert worker.namespace == "blog"

    def test_two_different_namespaces_are_refused_with_both_names(self) -> None:
        with pytest.raises(ValueError, match="'blog'.*'shop'"):
            OutboxWorker(MemoryOutbox(), Applier("shop"), "blog")

    def test_no_namespace_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="namespace is missing"):
            OutboxWorker(MemoryOutbox(), Applier(None))

    @pytest.mark.parametrize("namespace", ["", "n" * 65, "\ud800"], ids=ascii)
    def test_a_namespace_that_no_row_can_have_is_refused(self, namespace: str) -> None:
        with pytest.raises(ValueError, match="namespace"):
            OutboxWorker(MemoryOutbox(), Applier(None), namespace)

    def test_making_a_worker_connects_to_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "no-such-directory" / "app.db"
        store = MemcachedStore(["127.0.0.1:1"])

        OutboxWorker(SQLiteOutbox(path), MemcachedApplier(store, SHOP))

        assert not path.parent.exists()


class TestOwner:
    def test_it_names_host_process_and_thread(self) -> None:
        worker = OutboxWorker(MemoryOutbox(), Applier())

        assert socket.gethostname() in worker.owner
        assert str(os.getpid()) in worker.owner
        assert str(threading.get_ident()) in worker.owner

    def test_two_workers_of_one_thread_differ(self) -> None:
        outbox = MemoryOutbox()

        owners = {OutboxWorker(outbox, Applier()).owner for _ in range(20)}

        assert len(owners) == 20

    def test_two_threads_on_one_worker_differ(self) -> None:
        worker = OutboxWorker(MemoryOutbox(), Applier())
        owners = [worker.owner]
        thread = threading.Thread(target=lambda: owners.append(worker.owner))

        thread.start()
        thread.join()

        assert len(set(owners)) == 2

    def test_a_forked_child_differs(self) -> None:
        # In a fresh interpreter: a fork of this one would have the threads of others.
        program = """if True:
            import os
            from hydracache_sync import MemoryOutbox, OutboxWorker, RecordingApplier
            worker = OutboxWorker(MemoryOutbox(), RecordingApplier("shop"))
            if os.fork() == 0:
                print(worker.owner, flush=True)
                os._exit(0)
            os.wait()
            print(worker.owner)
        """

        answer = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(hydracache_sync.__file__).parents[1],
            capture_output=True,
            text=True,
        )

        owners = answer.stdout.split()
        assert len(set(owners)) == 2, answer.stderr

    def test_it_is_written_to_the_rows_of_a_claim(self, outbox: Outbox) -> None:
        [row] = enqueue(outbox, "user:42")
        seen: list[OutboxRow | None] = []

        class LookingApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                seen.append(outbox.row(row.id))

        worker = OutboxWorker(outbox, LookingApplier(), claim_ttl=7)

        worker.run_once()

        [claimed] = seen
        assert claimed is not None and claimed.claim_owner == worker.owner
        assert claimed.claim_until_ms == claimed.claimed_at_ms + 7000  # type: ignore

    def test_a_name_of_ones_own_is_kept(self, outbox: Outbox) -> None:
        worker = OutboxWorker(outbox, Applier(), owner="cron on web1")

        assert worker.owner == "cron on web1"


class TestAttempts:
    @pytest.mark.parametrize(
        "failure", [ApplyTransient("later"), RuntimeError("?"), KeyError("k")], ids=repr
    )
    def test_any_other_exception_counts_an_attempt_and_waits(
        self, outbox: Outbox, clock: FakeClock, failure: Exception
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = failure

        report = OutboxWorker(outbox, applier, backoff=1.0).run_once()

        assert report == PublishReport(claimed=1, retried=1)
        failed = outbox.row(row.id)
        assert failed is not None and failed.state is OutboxState.PENDING
        assert failed.attempts == 1
        assert failed.claim_token is None
        assert failed.last_error == f"{type(failure).__name__}: {failure}"
        assert 0 <= failed.available_at_ms - clock.now_ms <= 1000

    def test_a_permanent_failure_is_a_dead_letter_at_once(self, outbox: Outbox) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = ApplyPermanent("never ever")

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=1, dead_lettered=1)
        dead = outbox.row(row.id)
        assert dead is not None and dead.is_dead_lettered
        assert dead.last_error == "ApplyPermanent: never ever"
        assert dead.attempts == 1

    def test_the_last_attempt_makes_a_dead_letter(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = RuntimeError("broken")
        worker = OutboxWorker(outbox, applier, max_attempts=3, escalate=False)

        reports = []
        for _ in range(4):
            reports.append(worker.run_once())
            clock.advance(worker.max_backoff)

        retried = PublishReport(claimed=1, retried=1)
        dead = PublishReport(claimed=1, dead_lettered=1)
        assert reports == [retried, retried, dead, PublishReport()]
        letter = outbox.row(row.id)
        assert letter is not None and letter.attempts == 3

    def test_waits_grow_twofold_up_to_the_bound(
        self, outbox: Outbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = RuntimeError("broken")
        worker = OutboxWorker(
            outbox, applier, backoff=2.0, max_backoff=10.0, max_attempts=99
        )
        longest = SimpleNamespace(uniform=lambda low, high: high)
        monkeypatch.setattr(backoff_module, "random", longest)

        waits = []
        for _ in range(5):
            worker.run_once()
            waiting = outbox.row(row.id)
            assert waiting is not None
            waits.append(waiting.available_at_ms - clock.now_ms)
            clock.now_ms = waiting.available_at_ms

        assert waits == [2000, 4000, 8000, 10_000, 10_000]

    @given(
        backoff=st.floats(0, 60),
        attempts=st.integers(0, 40),
        max_backoff=st.floats(60, 86_400),
    )
    def test_each_wait_is_drawn_between_nothing_and_its_bound(
        self, backoff: float, attempts: int, max_backoff: float
    ) -> None:
        clock = FakeClock()
        outbox = MemoryOutbox(clock=clock)
        [row] = enqueue(outbox, "user:42")
        corrupt(outbox, row.id, f"attempts = {attempts}")
        applier = Applier()
        applier.failures[key("user:42")] = RuntimeError("broken")
        worker = OutboxWorker(
            outbox,
            applier,
            backoff=backoff,
            max_backoff=max_backoff,
            max_attempts=1000,
        )

        worker.run_once()

        waiting = outbox.row(row.id)
        assert waiting is not None and waiting.attempts == attempts + 1
        wait_ms = waiting.available_at_ms - clock.now_ms
        bound = min(max_backoff, backoff * 2**attempts)
        assert 0 <= wait_ms <= round(bound * 1000)

    def test_a_row_that_succeeds_at_last_keeps_its_attempts_and_loses_its_error(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = RuntimeError("broken")
        worker = OutboxWorker(outbox, applier)
        worker.run_once()
        applier.failures.clear()
        clock.advance(1)

        worker.run_once()

        published = outbox.row(row.id)
        assert published is not None and published.is_published
        assert published.attempts == 1
        assert published.last_error is None

    def test_each_row_of_a_target_counts_its_own_attempts(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        [old] = enqueue(outbox, "user:42")
        applier = Applier()
        applier.failures[key("user:42")] = RuntimeError("broken")
        worker = OutboxWorker(outbox, applier, max_attempts=2, escalate=False)
        worker.run_once()
        clock.advance(1)
        [new] = enqueue(outbox, "user:42")

        report = worker.run_once()

        assert report == PublishReport(claimed=2, retried=1, dead_lettered=1)
        dead, waiting = outbox.row(old.id), outbox.row(new.id)
        assert dead is not None and dead.is_dead_lettered and dead.attempts == 2
        assert waiting is not None and waiting.attempts == 1


class TestMalformedRows:
    @pytest.mark.parametrize(
        "assignment, reason",
        [
            ("kind = 'banana'", "unknown kind 'banana'"),
            ("kind = 'flush'", "flush with a value"),
            ("value = null", "key without a value"),
            ("entity_name = 'user'", "key with an entity name"),
            ("value = cast(x'ff' as text)", "value is not UTF-8"),
            ("value = hex(zeroblob(2049))", "4098 bytes, limit 4096"),
        ],
        ids=lambda value: value,
    )
    def test_a_malformed_row_is_dead_with_its_reason_and_its_neighbours_go_on(
        self, outbox: Outbox, assignment: str, reason: str
    ) -> None:
        before, bad, after = enqueue(outbox, "before", "bad", "after")
        corrupt(outbox, bad.id, assignment)
        applier = Applier()
        worker = OutboxWorker(outbox, applier, escalate=False)

        report = worker.run_once()

        assert report == PublishReport(claimed=3, published=2, dead_lettered=1)
        assert applier.applied == [key("before"), key("after")]
        dead = outbox.row(bad.id)
        assert dead is not None and dead.is_dead_lettered
        assert reason in (dead.last_error or "")

    def test_malformed_rows_alone_do_not_reach_the_applier(
        self, outbox: Outbox
    ) -> None:
        [bad] = enqueue(outbox, "bad")
        corrupt(outbox, bad.id, "kind = 'banana'")
        applier = Applier()

        report = OutboxWorker(outbox, applier, escalate=False).drain()

        assert report == PublishReport(claimed=1, dead_lettered=1)
        assert applier.applied == []

    def test_what_a_malformed_row_meant_is_made_up_for_by_a_flush(
        self, outbox: Outbox
    ) -> None:
        [bad] = enqueue(outbox, "bad")
        corrupt(outbox, bad.id, "kind = 'banana'")
        applier = Applier()

        OutboxWorker(outbox, applier).drain()

        assert applier.applied == [InvalidationIntent.flush()]


class TestCoalescing:
    def test_a_target_in_many_rows_is_applied_once_and_each_row_settled(
        self, outbox: Outbox
    ) -> None:
        rows = [row for _ in range(7) for row in enqueue(outbox, "hot", "cold")]
        applier = Applier()

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=14, published=14)
        assert Counter(applier.applied) == {key("hot"): 1, key("cold"): 1}
        for row in rows:
            published = outbox.row(row.id)
            assert published is not None and published.is_published

    def test_a_failed_target_fails_each_of_its_rows(self, outbox: Outbox) -> None:
        rows = [row for _ in range(3) for row in enqueue(outbox, "hot")]
        applier = Applier()
        applier.failures[key("hot")] = RuntimeError("broken")

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=3, retried=3)
        for row in rows:
            failed = outbox.row(row.id)
            assert failed is not None and failed.attempts == 1


class TestEscalation:
    @pytest.fixture
    def applier(self) -> Applier:
        applier = Applier()
        for name in ("hopeless", "hopeless too", "hopeless three"):
            applier.failures[key(name)] = ApplyPermanent("never")
        return applier

    def test_a_dead_letter_leaves_a_durable_flush_behind(
        self, outbox: Outbox, applier: Applier, caplog: pytest.LogCaptureFixture
    ) -> None:
        [hopeless] = enqueue(outbox, "hopeless")

        OutboxWorker(outbox, applier).run_once()

        [flush] = outbox.rows(SHOP, state=OutboxState.PENDING)
        assert flush.intent == InvalidationIntent.flush()
        assert "given up" in flush.reason
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
        assert f"row {hopeless.id} of namespace shop" in caplog.text
        assert "ApplyPermanent: never" in caplog.text

    def test_the_flush_is_applied_like_any_row(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        enqueue(outbox, "hopeless", "fine")

        report = OutboxWorker(outbox, applier).drain()

        assert report == PublishReport(claimed=3, published=2, dead_lettered=1)
        assert applier.applied == [key("fine"), InvalidationIntent.flush()]

    def test_many_dead_letters_share_one_flush(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        enqueue(outbox, "hopeless", "hopeless too")
        enqueue(outbox, "hopeless three")
        worker = OutboxWorker(outbox, applier, batch_size=1)

        worker.run_once()
        worker.run_once()
        worker.run_once()

        [flush] = outbox.rows(SHOP, state=OutboxState.PENDING)
        assert flush.intent == InvalidationIntent.flush()
        assert worker.diagnostics().escalations == 1

    def test_a_second_flush_waits_for_the_next_minute(
        self, outbox: Outbox, applier: Applier, clock: FakeClock
    ) -> None:
        worker = OutboxWorker(outbox, applier)
        enqueue(outbox, "hopeless")
        worker.drain()
        clock.advance(1)
        enqueue(outbox, "hopeless too")
        worker.drain()
        clock.advance(1)
        enqueue(outbox, "hopeless three")

        worker.drain()
        flushes_within_the_minute = Counter(applier.applied)
        clock.advance(MINUTE)
        worker.drain()

        assert flushes_within_the_minute == {InvalidationIntent.flush(): 1}
        assert Counter(applier.applied) == {InvalidationIntent.flush(): 2}
        assert outbox.status(SHOP).pending == 0
        assert worker.diagnostics().escalations == 2

    def test_the_flush_comes_after_every_row_that_it_stands_for(
        self, outbox: Outbox, applier: Applier, clock: FakeClock
    ) -> None:
        given_up: dict[int, int] = {}
        worker = OutboxWorker(outbox, applier)
        for _ in range(30):
            [row] = enqueue(outbox, "hopeless")
            worker.drain()
            given_up[row.id] = clock.now_ms
            clock.advance(7)

        clock.advance(MINUTE)
        worker.drain()

        flushed = [
            row.published_at_ms
            for row in outbox.rows(SHOP, state=OutboxState.PUBLISHED)
        ]
        assert max(filter(None, flushed)) >= max(given_up.values())
        assert len(flushed) <= 2 + 30 * 7 // 60

    def test_a_dead_letter_during_the_apply_of_a_flush_gets_one_of_its_own(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        # The first flush has reached the cache when the second write is committed, so
        # it says nothing about it, although its row is not yet marked.
        log: list[str] = []

        class Meanwhile(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                super().apply_invalidation(intent)
                log.append(intent.kind)
                if log == ["flush"]:
                    enqueue(outbox, "hopeless too")
                    OutboxWorker(outbox, self).run_once()
                    log.append("given up")

        applier = Meanwhile()
        for name in ("hopeless", "hopeless too"):
            applier.failures[key(name)] = ApplyPermanent("never")
        worker = OutboxWorker(outbox, applier)
        enqueue(outbox, "hopeless")
        worker.drain()

        clock.advance(2 * MINUTE)
        worker.drain()

        assert log == ["flush", "given up", "flush"]

    def test_a_setting_turns_it_off(self, outbox: Outbox, applier: Applier) -> None:
        enqueue(outbox, "hopeless")

        report = OutboxWorker(outbox, applier, escalate=False).drain()

        assert report == PublishReport(claimed=1, dead_lettered=1)
        assert outbox.rows(SHOP, state=OutboxState.PENDING) == []

    def test_an_applier_that_cannot_flush_is_not_asked_to(self, outbox: Outbox) -> None:
        enqueue(outbox, "hopeless")
        applier = FlushlessApplier()
        applier.failures[key("hopeless")] = ApplyPermanent("never")

        report = OutboxWorker(outbox, applier).drain()

        assert report == PublishReport(claimed=1, dead_lettered=1)
        assert outbox.rows(SHOP, state=OutboxState.PENDING) == []

    def test_a_flush_that_dies_asks_for_no_other(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        applier = Applier()
        applier.failures[InvalidationIntent.flush()] = ApplyPermanent("never")
        outbox.enqueue(SHOP, InvalidationIntentBatch().flush())
        worker = OutboxWorker(outbox, applier)

        worker.drain()
        clock.advance(10 * MINUTE)

        assert worker.drain() == PublishReport()
        assert outbox.status(SHOP).dead_lettered == 1
        assert worker.diagnostics().escalations == 0

    def test_a_flush_that_dies_with_another_row_does_not_stand_for_that_one(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        applier.failures[InvalidationIntent.flush()] = ApplyPermanent("never")
        outbox.enqueue(SHOP, InvalidationIntentBatch().flush())
        enqueue(outbox, "hopeless")

        OutboxWorker(outbox, applier).run_once()

        [flush] = outbox.rows(SHOP, state=OutboxState.PENDING)
        assert flush.intent == InvalidationIntent.flush()

    def test_namespaces_flush_on_their_own(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        enqueue(outbox, "hopeless")
        enqueue(outbox, "fine", namespace="blog")

        OutboxWorker(outbox, applier).drain()

        assert outbox.status("blog").pending == 1
        assert all(
            row.intent != InvalidationIntent.flush() for row in outbox.rows("blog")
        )


class CountingStore(MemoryStore):
    """Counts the calls that would be two round trips."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def replace_many(self, *arguments):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().replace_many(*arguments)


class TestCost:
    @pytest.mark.parametrize("rows", [1, 10, 256])
    def test_a_batch_is_one_claim_one_apply_and_one_acknowledgement(
        self, traced: TracedMemoryOutbox | TracedSQLiteOutbox, rows: int
    ) -> None:
        enqueue(traced, *(f"key:{number}" for number in range(rows)))
        traced.statements.clear()
        store = CountingStore()

        report = OutboxWorker(traced, MemcachedApplier(store, SHOP)).run_once()

        assert report == PublishReport(claimed=rows, published=rows)
        assert store.calls == 1
        peek, begin, select, claim, commit, acknowledge = traced.statements
        assert verbs([peek, begin, select, claim]) == [
            "select",
            "begin",
            "select",
            "update",
        ]
        assert verbs([commit, acknowledge]) == ["commit", "update"]

    def test_a_batch_is_two_round_trips_to_memcached(self, outbox: Outbox) -> None:
        enqueue(outbox, *(f"key:{number}" for number in range(100)))
        with FaultyMemcached() as server:
            with MemcachedStore([server.address]) as store:
                worker = OutboxWorker(outbox, MemcachedApplier(store, SHOP))

                report = worker.run_once()

            assert report == PublishReport(claimed=100, published=100)
            assert server.round_trips == 2
            assert server.connections == 1

    def test_idle_polling_takes_no_write_lock(
        self, traced: TracedMemoryOutbox | TracedSQLiteOutbox
    ) -> None:
        OutboxWorker(traced, RecordingApplier(SHOP)).run_once()

        assert verbs(traced.statements) == ["select"]

    def test_an_outage_is_one_statement_however_many_rows_wait(
        self, traced: TracedMemoryOutbox | TracedSQLiteOutbox
    ) -> None:
        enqueue(traced, *(f"key:{number}" for number in range(50)))
        traced.statements.clear()
        store = MemcachedStore(["127.0.0.1:1"])
        worker = OutboxWorker(traced, MemcachedApplier(store, SHOP))

        report = worker.run_once()

        assert report == PublishReport(claimed=50, released=50)
        assert verbs(traced.statements)[-2:] == ["commit", "update"]
        assert len(traced.statements) == 6


class TestLogs:
    def test_a_batch_without_trouble_logs_nothing_above_debug(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        enqueue(outbox, *"abc")
        caplog.set_level(logging.INFO)

        OutboxWorker(outbox, Applier()).drain()

        assert caplog.records == []

    def test_each_dead_letter_is_one_error(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = enqueue(outbox, *"abc")
        applier = Applier()
        for name in "abc":
            applier.failures[key(name)] = ApplyPermanent(f"never {name}")

        OutboxWorker(outbox, applier, escalate=False).drain()

        errors = [record.getMessage() for record in caplog.records]
        assert len(errors) == 3
        for row, name, error in zip(rows, "abc", errors):
            assert f"row {row.id} " in error and f"never {name}" in error
