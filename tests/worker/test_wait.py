"""Read your writes: a wait is satisfied by rows seen published and by nothing else."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, Union

import pytest

import hydracache_sync
from hydracache_sync import (
    ApplyPermanent,
    ConsistencyMode,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    InvalidationReceipt,
    InvalidationWait,
    MemoryOutbox,
    OutboxBusyError,
    OutboxError,
    OutboxWorker,
    RecordingApplier,
    SQLiteOutbox,
    WaitDiagnostics,
    WaitOutcome,
)
from hydracache_sync.outbox import database
from support.clock import FakeClock

SHOP = "shop"
LOCAL = ConsistencyMode.LOCAL
WAITING_MODES = [ConsistencyMode.LOCAL, ConsistencyMode.BEST_EFFORT]

#: Seconds within which another process has answered, or something is wrong.
PATIENCE = 30.0

Outbox = Union[MemoryOutbox, SQLiteOutbox]


class Time:
    """Time that passes only while somebody sleeps. Keeps the sleeps.

    :ivar meanwhile: called during each sleep.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        self.meanwhile()


class Looks:
    """An outbox of which the test sees when it was asked, by ``passing``'s time."""

    def __init__(self, outbox: Outbox, passing: Time) -> None:
        self._outbox = outbox
        self._passing = passing
        self.moments: list[float] = []
        self.then: dict[int, OutboxWorker] = {}
        #: Looks that find the database busy, as one that ends a deadlock.
        self.busy: list[int] = []

    def status_for_commit(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.moments.append(self._passing.now - 1000.0)
        if len(self.moments) in self.busy:
            raise OutboxBusyError("deadlock")
        worker = self.then.get(len(self.moments))
        if worker is not None:
            worker.drain()
        return self._outbox.status_for_commit(*args, **kwargs)


class BrokenApplier(InvalidationApplier):
    """Gives up the keys it was made with."""

    namespace = SHOP

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        if intent.value in self.keys:
            raise ApplyPermanent("never")


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def wait(passing: Time) -> InvalidationWait:
    """One second, looked at each quarter."""
    return waiting(passing, timeout=1.0)


def waiting(
    passing: Time, *, timeout: float, mode: ConsistencyMode = LOCAL
) -> InvalidationWait:
    made = InvalidationWait(
        mode, timeout, monotonic=passing.monotonic, sleep=passing.sleep
    )
    return made.poll_interval(0.25)


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for each in keys:
        batch.invalidate_key(each)
    return batch


def drain(outbox: Outbox) -> None:
    OutboxWorker(outbox, RecordingApplier(SHOP)).drain()


def give_up(outbox: Outbox, *keys: str) -> None:
    """Publish what is pending, except for ``keys``, which become dead letters."""
    OutboxWorker(outbox, BrokenApplier(*keys), escalate=False).drain()


def rolled_back(outbox: Outbox, *keys: str) -> InvalidationReceipt:
    with contextlib.suppress(ZeroDivisionError):
        with outbox.transaction() as connection:
            receipt = outbox.enqueue_in(connection, SHOP, batch_of(*keys))
            raise ZeroDivisionError
    return receipt


def satisfied(mode: ConsistencyMode = LOCAL, elapsed_ms: int = 0) -> WaitOutcome:
    return WaitOutcome(mode, True, False, False, 0, 0, elapsed_ms)


def timed_out(pending: int, elapsed_ms: int = 1000) -> WaitOutcome:
    return WaitOutcome(LOCAL, False, True, True, pending, 0, elapsed_ms)


class TestSatisfied:
    @pytest.mark.parametrize("mode", WAITING_MODES)
    def test_published_rows_satisfy_it_at_once(
        self, outbox: Outbox, passing: Time, mode: ConsistencyMode
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        drain(outbox)

        outcome = waiting(passing, timeout=1.0, mode=mode).wait(outbox, receipt)

        assert outcome == satisfied(mode)
        assert passing.sleeps == []

    def test_other_rows_of_the_namespace_do_not_matter(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        drain(outbox)
        outbox.enqueue(SHOP, batch_of("busy"))
        outbox.enqueue("blog", batch_of("a"))

        assert wait.wait(outbox, receipt) == satisfied()

    def test_dead_letters_of_others_do_not_matter(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        outbox.enqueue(SHOP, batch_of("hopeless"))
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        give_up(outbox, "hopeless")

        assert wait.wait(outbox, receipt) == satisfied()

    def test_a_batch_without_intents_is_satisfied_without_a_question(
        self, outbox: Outbox, wait: InvalidationWait, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, InvalidationIntentBatch())
        looks = Looks(outbox, passing)

        outcome = wait.wait(looks, receipt)  # type: ignore[arg-type]

        assert outcome == satisfied()
        assert looks.moments == []

    def test_repeated_intents_are_one_row_to_wait_for(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "a", "a"))
        drain(outbox)

        assert wait.wait(outbox, receipt) == satisfied()

    def test_a_write_repeated_under_its_position_is_not_satisfied_by_the_first(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        drain(outbox)
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        before = wait.wait(outbox, receipt)
        drain(outbox)
        after = wait.wait(outbox, receipt)

        assert (before.satisfied, before.pending) == (False, 1)
        assert after.satisfied

    def test_an_inline_publish_satisfies_it(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        OutboxWorker(outbox, RecordingApplier(SHOP)).publish(receipt)

        assert wait.wait(outbox, receipt) == satisfied()


class TestNotSatisfied:
    def test_a_pending_row_is_waited_for_until_the_time_is_up(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))

        assert wait.wait(outbox, receipt) == timed_out(pending=2)

    def test_one_pending_row_of_three_is_counted(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        OutboxWorker(outbox, RecordingApplier(SHOP), batch_size=2).run_once()

        assert wait.wait(outbox, receipt) == timed_out(pending=1)

    def test_a_claimed_row_is_still_pending(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "a worker", limit=1, claim_ttl=30)

        assert wait.wait(outbox, receipt) == timed_out(pending=1)

    def test_a_rolled_back_batch_is_never_satisfied(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = rolled_back(outbox, "a", "b")

        assert wait.wait(outbox, receipt) == timed_out(pending=2)

    def test_a_batch_that_is_not_committed_yet_is_not_satisfied(
        self, sqlite: SQLiteOutbox, path: Path, wait: InvalidationWait
    ) -> None:
        with contextlib.closing(sqlite3.connect(path)) as writer:
            receipt = sqlite.enqueue_in(writer, SHOP, batch_of("a"))

            before = wait.wait(sqlite, receipt)
            writer.commit()
            drain(sqlite)
            after = wait.wait(sqlite, receipt)

        assert before == timed_out(pending=1)
        assert after == satisfied()

    def test_a_dead_row_ends_it_early_and_degrades_it(
        self, outbox: Outbox, wait: InvalidationWait, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        give_up(outbox, "b")

        outcome = wait.wait(outbox, receipt)

        assert outcome == WaitOutcome(LOCAL, False, True, False, 0, 1, 0)
        assert passing.sleeps == []

    def test_a_dead_row_beside_a_pending_one_shows_both(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        OutboxWorker(
            outbox, BrokenApplier("a"), escalate=False, batch_size=1
        ).run_once()

        outcome = wait.wait(outbox, receipt)

        assert outcome == WaitOutcome(LOCAL, False, True, False, 2, 1, 0)

    def test_a_discarded_row_does_not_count_as_published(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        give_up(outbox, "b")
        [dead] = outbox.dead_letters(SHOP)
        outbox.discard_dead_letters(SHOP, [dead.id])

        assert wait.wait(outbox, receipt) == timed_out(pending=1)

    def test_a_dead_letter_that_is_retried_satisfies_it_in_the_end(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        give_up(outbox, "a")
        outbox.reset_dead_letters(SHOP)
        drain(outbox)

        assert wait.wait(outbox, receipt) == satisfied()

    def test_another_batch_under_the_position_does_not_stand_for_it(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        drain(outbox)
        with contextlib.suppress(ZeroDivisionError):
            with outbox.transaction() as connection:
                receipt = outbox.enqueue_in(
                    connection, SHOP, batch_of("c", "d"), commit_position="tx:7"
                )
                raise ZeroDivisionError

        assert wait.wait(outbox, receipt) == timed_out(pending=2)


class TestRetention:
    def test_purged_rows_of_an_old_receipt_count_as_published(
        self, outbox: Outbox, wait: InvalidationWait, clock: FakeClock
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        drain(outbox)
        clock.advance(3601)
        outbox.purge_published(SHOP, older_than=3600)

        assert wait.keep_published(3600).wait(outbox, receipt) == satisfied()

    def test_rows_that_are_gone_too_early_do_not(
        self, outbox: Outbox, wait: InvalidationWait, clock: FakeClock
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        drain(outbox)
        clock.advance(3600)
        outbox.purge_published(SHOP, older_than=3599)

        outcome = wait.keep_published(3600).wait(outbox, receipt)

        assert outcome == timed_out(pending=2)

    def test_a_day_is_the_default(
        self, outbox: Outbox, wait: InvalidationWait, clock: FakeClock
    ) -> None:
        receipt = rolled_back(outbox, "a")
        clock.advance(86_400)
        at_the_edge = wait.wait(outbox, receipt)
        clock.advance(0.001)

        beyond_it = wait.wait(outbox, receipt)

        assert at_the_edge == timed_out(pending=1)
        assert beyond_it == satisfied()

    def test_a_pending_row_is_waited_for_however_old_it_is(
        self, outbox: Outbox, wait: InvalidationWait, clock: FakeClock
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        OutboxWorker(outbox, RecordingApplier(SHOP), batch_size=1).run_once()
        clock.advance(10 * 86_400)
        outbox.purge_published(SHOP, older_than=86_400)

        outcome = wait.wait(outbox, receipt)

        assert not outcome.satisfied
        assert outcome.timed_out and outcome.pending >= 1

    def test_a_dead_row_degrades_it_however_old_it_is(
        self, outbox: Outbox, wait: InvalidationWait, clock: FakeClock
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        give_up(outbox, "a")
        clock.advance(10 * 86_400)

        assert wait.wait(outbox, receipt).dead_lettered == 1
        assert not wait.wait(outbox, receipt).satisfied


class TestNoWait:
    def test_it_is_satisfied_at_once_and_asks_nothing(self, passing: Time) -> None:
        outbox = MemoryOutbox()
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)
        wait = InvalidationWait.no_wait()

        outcome = wait.wait(looks, receipt)  # type: ignore[arg-type]

        assert outcome.satisfied and not outcome.degraded and not outcome.timed_out
        assert outcome.mode is wait.mode is ConsistencyMode.NO_WAIT
        assert outcome.pending == outcome.dead_lettered == 0
        assert looks.moments == []

    def test_it_is_counted_like_the_others(self) -> None:
        outbox = MemoryOutbox()
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        wait = InvalidationWait.no_wait()

        wait.wait(outbox, receipt)

        assert wait.diagnostics() == WaitDiagnostics(waits=1, satisfied=1)


class TestSequence:
    def test_it_looks_first_then_at_each_interval_and_once_after_the_timeout(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)

        outcome = waiting(passing, timeout=1.125).wait(
            looks, receipt  # type: ignore[arg-type]
        )

        assert looks.moments == [0.0, 0.25, 0.5, 0.75, 1.0, 1.125]
        assert passing.sleeps == [0.25, 0.25, 0.25, 0.25, 0.125]
        assert outcome == timed_out(pending=1, elapsed_ms=1125)

    def test_a_timeout_that_the_interval_divides_is_looked_at_once_when_it_is_over(
        self, outbox: Outbox, wait: InvalidationWait, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)

        wait.wait(looks, receipt)  # type: ignore[arg-type]

        assert looks.moments == [0.0, 0.25, 0.5, 0.75, 1.0]

    def test_an_interval_beyond_the_timeout_is_cut_to_it(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)

        waiting(passing, timeout=0.125).wait(looks, receipt)  # type: ignore[arg-type]

        assert looks.moments == [0.0, 0.125]

    @pytest.mark.parametrize("look, elapsed_ms", [(1, 0), (3, 500), (5, 1000)])
    def test_it_ends_at_the_first_look_that_finds_the_rows_published(
        self, outbox: Outbox, passing: Time, look: int, elapsed_ms: int
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)
        looks.then[look] = OutboxWorker(outbox, RecordingApplier(SHOP))

        outcome = waiting(passing, timeout=1.0).wait(
            looks, receipt  # type: ignore[arg-type]
        )

        assert outcome == satisfied(elapsed_ms=elapsed_ms)
        assert len(looks.moments) == look

    def test_a_sleep_that_overran_the_timeout_is_still_followed_by_a_look(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)
        looks.then[2] = OutboxWorker(outbox, RecordingApplier(SHOP))

        def oversleep(seconds: float) -> None:
            passing.sleep(10.0)

        wait = InvalidationWait(
            LOCAL, 1.0, monotonic=passing.monotonic, sleep=oversleep
        )

        outcome = wait.wait(looks, receipt)  # type: ignore[arg-type]

        assert looks.moments == [0.0, 10.0]
        assert outcome == satisfied(elapsed_ms=10_000)

    def test_a_timeout_of_zero_is_one_question_and_may_be_answered_yes(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)
        drain(outbox)

        outcome = waiting(passing, timeout=0).wait(
            looks, receipt  # type: ignore[arg-type]
        )

        assert outcome == satisfied()
        assert looks.moments == [0.0]
        assert passing.sleeps == []

    def test_a_timeout_of_zero_is_one_question_and_may_be_answered_no(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)

        outcome = waiting(passing, timeout=0).wait(
            looks, receipt  # type: ignore[arg-type]
        )

        assert outcome == timed_out(pending=1, elapsed_ms=0)
        assert looks.moments == [0.0]
        assert passing.sleeps == []


class TestElsewhere:
    def test_a_receipt_that_travelled_as_text_is_as_good(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        text = outbox.enqueue(SHOP, batch_of("a", "b")).to_string()
        before = wait.wait(outbox, InvalidationReceipt.from_string(text))
        drain(outbox)

        after = wait.wait(outbox, InvalidationReceipt.from_string(text))

        assert before == timed_out(pending=2)
        assert after == satisfied()

    def test_another_process_sees_the_commit_and_the_publish_of_this_one(
        self, path: Path
    ) -> None:
        program = """if True:
            import sys
            from hydracache_sync import *
            path, text = sys.argv[1:]

            def sleep(seconds):
                print("waiting", flush=True)
                sys.stdin.readline()

            wait = InvalidationWait(ConsistencyMode.LOCAL, 30.0, sleep=sleep)
            receipt = InvalidationReceipt.from_string(text)
            outcome = wait.wait(SQLiteOutbox(path), receipt)
            print(outcome.satisfied, outcome.pending)
        """
        with contextlib.ExitStack() as stack:
            outbox = stack.enter_context(contextlib.closing(SQLiteOutbox(path)))
            outbox.install_schema()
            writer = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
            receipt = outbox.enqueue_in(writer, SHOP, batch_of("a", "b"))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, str(path), receipt.to_string()],
                    cwd=Path(hydracache_sync.__file__).parents[1],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert process.stdin is not None and process.stdout is not None

            said = [process.stdout.readline()]
            writer.commit()
            process.stdin.write("committed\n")
            process.stdin.flush()
            said.append(process.stdout.readline())
            drain(outbox)
            said += process.communicate("published\n", timeout=PATIENCE)[:1]

        assert said == ["waiting\n", "waiting\n", "True 0\n"]

    @pytest.mark.parametrize("journal", ["wal", "delete"])
    def test_an_old_snapshot_of_the_waiting_thread_does_not_keep_it_from_seeing(
        self, sqlite: SQLiteOutbox, path: Path, wait: InvalidationWait, journal: str
    ) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as own:
            own.execute(f"pragma journal_mode = {journal}")
            receipt = sqlite.enqueue(SHOP, batch_of("a"))
            wait.wait(sqlite, receipt)
            own.execute("begin")
            own.execute("select count(*) from hydracache_outbox").fetchall()
            publisher = threading.Thread(target=drain, args=(sqlite,))
            if journal == "delete":
                # Without a log beside the file, a reader keeps writers out altogether.
                own.execute("rollback")
            publisher.start()
            publisher.join()

            outcome = wait.wait(sqlite, receipt)

        assert outcome == satisfied()

    def test_a_look_leaves_no_transaction_behind(
        self, sqlite: SQLiteOutbox, path: Path, wait: InvalidationWait
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))

        wait.wait(sqlite, receipt)

        with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("begin exclusive")

    def test_inside_an_open_block_of_the_outbox_it_is_refused(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        with outbox.transaction() as connection:
            receipt = outbox.enqueue_in(connection, SHOP, batch_of("a"))

            with pytest.raises(OutboxError, match="inside a transaction"):
                wait.wait(outbox, receipt)


class TestBusyDatabase:
    @pytest.fixture(autouse=True)
    def one_time(self, monkeypatch: pytest.MonkeyPatch, passing: Time) -> None:
        """Let the outbox's own pauses pass the same time."""
        monkeypatch.setattr(database, "time", passing)

    @pytest.fixture
    def writer(self, sqlite: SQLiteOutbox, path: Path) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        with contextlib.closing(connection):
            yield connection

    @pytest.mark.parametrize("timeout", [0.0, 0.5, 1.0])
    def test_a_lock_all_the_while_is_raised_when_the_time_is_up(
        self,
        sqlite: SQLiteOutbox,
        writer: sqlite3.Connection,
        passing: Time,
        timeout: float,
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        writer.execute("begin exclusive")

        with pytest.raises(OutboxBusyError):
            waiting(passing, timeout=timeout).wait(sqlite, receipt)

        assert timeout <= passing.now - 1000.0 <= timeout + 0.1

    def test_a_lock_that_ends_in_time_does_not_show(
        self, sqlite: SQLiteOutbox, writer: sqlite3.Connection, passing: Time
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        drain(sqlite)
        writer.execute("begin exclusive")

        def unlock() -> None:
            if passing.now > 1000.5 and writer.in_transaction:
                writer.execute("rollback")

        passing.meanwhile = unlock

        outcome = waiting(passing, timeout=1.0).wait(sqlite, receipt)

        assert outcome.satisfied
        assert 500 <= outcome.elapsed_ms <= 600

    def test_one_busy_look_is_not_the_last_word(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        drain(outbox)
        looks = Looks(outbox, passing)
        looks.busy = [1, 2]

        outcome = waiting(passing, timeout=1.0).wait(
            looks, receipt  # type: ignore[arg-type]
        )

        assert outcome == satisfied(elapsed_ms=500)

    def test_a_busy_last_look_leaves_the_word_to_the_one_before(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        looks = Looks(outbox, passing)
        looks.busy = [*range(2, 100)]

        outcome = waiting(passing, timeout=1.0).wait(
            looks, receipt  # type: ignore[arg-type]
        )

        assert outcome.timed_out and outcome.degraded and not outcome.satisfied
        assert outcome.pending == 1

    def test_the_first_use_of_an_outbox_waits_no_longer(
        self, path: Path, sqlite: SQLiteOutbox, clock: FakeClock, passing: Time
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("begin exclusive")

            with contextlib.closing(SQLiteOutbox(path, clock=clock)) as fresh:
                with pytest.raises(OutboxBusyError):
                    waiting(passing, timeout=0.5).wait(fresh, receipt)

        assert passing.now - 1000.0 <= 0.7

    def test_other_failures_are_raised_at_once(
        self, sqlite: SQLiteOutbox, writer: sqlite3.Connection, passing: Time
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        writer.execute("drop table hydracache_outbox")

        with pytest.raises(OutboxError, match="no such table"):
            waiting(passing, timeout=1.0).wait(sqlite, receipt)

        assert passing.sleeps == []


class TestMemoryOutbox:
    def test_another_threads_open_block_is_not_waited_out(self) -> None:
        outbox = MemoryOutbox(busy_timeout=60.0)
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        inside, done = threading.Event(), threading.Event()

        def hold() -> None:
            with outbox.transaction():
                inside.set()
                done.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait(60)
        started = time.monotonic()

        with contextlib.suppress(OutboxBusyError):
            InvalidationWait.local(0).wait(outbox, receipt)
        elapsed = time.monotonic() - started
        done.set()
        holder.join()

        assert elapsed < 30.0


class TestWaitDrained:
    def test_an_empty_namespace_satisfies_it(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        outbox.enqueue("blog", batch_of("a"))

        assert wait.wait_drained(outbox, SHOP) == satisfied()

    def test_published_rows_satisfy_it(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a"))
        drain(outbox)

        assert wait.wait_drained(outbox, SHOP) == satisfied()

    def test_pending_rows_are_waited_for(
        self, outbox: Outbox, wait: InvalidationWait, passing: Time
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a", "b"))
        outbox.enqueue(SHOP, batch_of("c"))

        assert wait.wait_drained(outbox, SHOP) == timed_out(pending=3)
        assert passing.sleeps == [0.25] * 4

    def test_dead_letters_degrade_it(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a"))
        give_up(outbox, "a")

        outcome = wait.wait_drained(outbox, SHOP)

        assert outcome == WaitOutcome(LOCAL, False, True, False, 0, 1, 0)

    def test_an_old_dead_letter_does_not_end_it_while_rows_are_pending(
        self, outbox: Outbox, passing: Time
    ) -> None:
        outbox.enqueue(SHOP, batch_of("hopeless"))
        give_up(outbox, "hopeless")
        outbox.enqueue(SHOP, batch_of("a"))

        passing.meanwhile = lambda: drain(outbox)

        outcome = waiting(passing, timeout=1.0).wait_drained(outbox, SHOP)

        assert outcome == WaitOutcome(LOCAL, False, True, False, 0, 1, 250)

    def test_no_wait_asks_nothing_here_either(self, outbox: Outbox) -> None:
        outbox.enqueue(SHOP, batch_of("a"))

        assert InvalidationWait.no_wait().wait_drained(outbox, SHOP).satisfied


class TestCounts:
    def test_each_wait_is_counted_by_its_end(
        self, outbox: Outbox, wait: InvalidationWait
    ) -> None:
        published = outbox.enqueue(SHOP, batch_of("a"))
        drain(outbox)
        dead = outbox.enqueue(SHOP, batch_of("b"))
        give_up(outbox, "b")
        pending = outbox.enqueue(SHOP, batch_of("c"))

        for receipt in (published, published, dead, pending):
            wait.wait(outbox, receipt)

        assert wait.diagnostics() == WaitDiagnostics(
            waits=4, satisfied=2, timed_out=1, degraded=2
        )

    def test_eight_threads_lose_no_count(self) -> None:
        outbox = MemoryOutbox()
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        drain(outbox)
        wait = InvalidationWait.local(1.0)
        barrier = threading.Barrier(8)

        def run() -> None:
            barrier.wait()
            for _ in range(50):
                wait.wait(outbox, receipt)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wait.diagnostics() == WaitDiagnostics(waits=400, satisfied=400)

    def test_elapsed_time_is_told_in_milliseconds(
        self, outbox: Outbox, passing: Time
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))

        outcome = waiting(passing, timeout=2.5).wait(outbox, receipt)

        assert outcome.elapsed_ms == 2500


class TestArguments:
    def test_the_modes_are_made_by_their_names(self) -> None:
        assert InvalidationWait.no_wait().mode is ConsistencyMode.NO_WAIT
        assert InvalidationWait.local(1).mode is ConsistencyMode.LOCAL
        assert InvalidationWait.best_effort(1).mode is ConsistencyMode.BEST_EFFORT

    def test_setters_return_the_helper(self) -> None:
        wait = InvalidationWait.local(1.0)

        assert wait.poll_interval(0.5) is wait
        assert wait.keep_published(60.0) is wait

    @pytest.mark.parametrize("timeout", [-0.001, float("nan"), float("inf")])
    def test_a_timeout_that_no_wait_could_take_is_refused(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout"):
            InvalidationWait.local(timeout)

    @pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
    def test_an_interval_that_would_spin_is_refused(self, seconds: float) -> None:
        with pytest.raises(ValueError, match="poll_interval"):
            InvalidationWait.local(1.0).poll_interval(seconds)

    @pytest.mark.parametrize("seconds", [-1.0, float("nan")])
    def test_a_retention_below_zero_is_refused(self, seconds: float) -> None:
        with pytest.raises(ValueError, match="keep_published"):
            InvalidationWait.local(1.0).keep_published(seconds)

    @pytest.mark.parametrize("namespace", ["", "n" * 65])
    def test_a_namespace_that_no_row_can_have_is_refused(self, namespace: str) -> None:
        with pytest.raises(ValueError, match="namespace"):
            InvalidationWait.local(0).wait_drained(MemoryOutbox(), namespace)
