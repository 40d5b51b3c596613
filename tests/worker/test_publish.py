"""Publishing inline: the writer applies its own batch right after its commit.

A worker finds whatever this leaves behind; nothing that the writer does too early, too
late or in vain may cost a row.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence, Union

import pytest

from hydracache_sync import (
    ApplyPermanent,
    ApplyUnavailable,
    InvalidationIntent,
    InvalidationIntentBatch,
    InvalidationReceipt,
    MemcachedApplier,
    MemoryOutbox,
    MemoryStore,
    OutboxError,
    OutboxState,
    OutboxWorker,
    PublishReport,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.outbox import database
from hydracache_sync.worker.publish import PART
from support.appliers import Applier
from support.clock import FakeClock

SHOP = "shop"

Outbox = Union[MemoryOutbox, SQLiteOutbox]


class SlowApplier(Applier):
    """Takes its time for each batch.

    :ivar sizes: of the batches.
    """

    def __init__(self, clock: FakeClock, *, seconds: float) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._clock = clock
        self._seconds = seconds

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        self.sizes.append(len(intents))
        self._clock.advance(self._seconds)
        return super().apply_batch(intents)


class Time:
    """Time that passes only while somebody sleeps, for the outbox's own waits."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def applier() -> Applier:
    return Applier()


def trace(outbox: SQLiteOutbox, statements: list[str]) -> None:
    """Append to ``statements`` what this thread's connection runs from now on."""
    with outbox._database.session() as connection:
        connection.set_trace_callback(statements.append)


@pytest.fixture
def passing_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    passing = Time()
    monkeypatch.setattr(database, "time", passing)
    return passing


@pytest.fixture
def writer(path: Path, sqlite: SQLiteOutbox) -> Iterator[sqlite3.Connection]:
    """The app's own connection to the file of ``sqlite``."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    with contextlib.closing(connection):
        yield connection


def batch_of(*keys: str) -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch("test")
    for each in keys:
        batch.invalidate_key(each)
    return batch


def key(name: str) -> InvalidationIntent:
    return InvalidationIntent.key(name)


def as_text(receipt: InvalidationReceipt) -> InvalidationReceipt:
    """The receipt as another process gets it."""
    return InvalidationReceipt.from_string(receipt.to_string())


#: Hands a receipt over.
Came = Callable[[InvalidationReceipt], InvalidationReceipt]


@pytest.fixture(params=["as an object", "as text"])
def as_it_came(request: pytest.FixtureRequest) -> Came:
    return as_text if request.param == "as text" else lambda receipt: receipt


def rolled_back(outbox: Outbox, *keys: str, position: str) -> InvalidationReceipt:
    """The receipt of a batch whose transaction has not been committed."""
    with contextlib.suppress(ZeroDivisionError):
        with outbox.transaction() as connection:
            receipt = outbox.enqueue_in(
                connection, SHOP, batch_of(*keys), commit_position=position
            )
            raise ZeroDivisionError
    return receipt


def states(outbox: Outbox) -> dict[str, OutboxState | None]:
    return {
        str(row.intent and row.intent.value): row.state for row in outbox.rows(SHOP)
    }


class TestAfterTheCommit:
    def test_the_rows_are_published_and_the_report_is_complete(
        self, outbox: Outbox, applier: Applier, clock: FakeClock
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        clock.advance(1)

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)
        assert report.complete
        assert applier.applied == [key("a"), key("b")]
        for row in outbox.rows(SHOP):
            assert row.is_published and row.published_at_ms == clock.now_ms

    def test_a_worker_finds_nothing_left(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        worker = OutboxWorker(outbox, applier)
        worker.publish(outbox.enqueue(SHOP, batch_of("a")))

        assert worker.drain() == PublishReport()
        assert applier.applied == [key("a")]

    def test_rows_of_other_commits_are_left_to_the_worker(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a"))
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)
        assert outbox.status(SHOP).pending == 1

    def test_a_receipt_of_nothing_is_complete(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, InvalidationIntentBatch())

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport()
        assert report.complete

    def test_repeated_intents_count_once(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "a", "b", "a"))

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)
        assert applier.applied == [key("a"), key("b")]

    def test_a_thousand_rows_are_published_together(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of(*map(str, range(1000))))

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=1000, published=1000)

    def test_it_costs_one_apply_and_one_statement(
        self, path: Path, clock: FakeClock
    ) -> None:
        statements: list[str] = []
        applied: list[int] = []

        class WholeApplier(Applier):
            def apply_batch(
                self, intents: Sequence[InvalidationIntent]
            ) -> list[Exception | None]:
                applied.append(len(intents))
                return [None] * len(intents)

        with contextlib.closing(SQLiteOutbox(path, clock=clock)) as outbox:
            outbox.install_schema()
            trace(outbox, statements)
            receipt = outbox.enqueue(SHOP, batch_of(*"abcdef"))
            statements.clear()

            OutboxWorker(outbox, WholeApplier()).publish(receipt)

        assert applied == [6]
        assert [each.split()[0] for each in statements] == ["update"]

    def test_a_block_that_is_over_needs_no_look(self, path: Path) -> None:
        statements: list[str] = []

        with contextlib.closing(SQLiteOutbox(path)) as outbox:
            outbox.install_schema()
            trace(outbox, statements)
            with outbox.transaction() as connection:
                receipt = outbox.enqueue_in(connection, SHOP, batch_of("a", "b"))
                assert not receipt.is_over
            statements.clear()

            report = OutboxWorker(outbox, Applier()).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)
        assert [each.split()[0] for each in statements] == ["update"]

    def test_a_block_that_was_rolled_back_is_unseen(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        with contextlib.suppress(ZeroDivisionError):
            with outbox.transaction() as connection:
                receipt = outbox.enqueue_in(connection, SHOP, batch_of("a"))
                raise ZeroDivisionError

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=1, unseen=1)
        assert applier.applied == []

    def test_a_receipt_that_was_copied_is_looked_for(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        travelled = pickle.loads(pickle.dumps(receipt))

        report = OutboxWorker(outbox, applier).publish(travelled)

        assert receipt.is_over and not travelled.is_over
        assert travelled == receipt
        assert report.complete
        assert applier.applied == [key("a")]

    def test_a_faster_worker_is_told_apart_in_the_event(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        worker = OutboxWorker(outbox, applier)
        events: list[Any] = []
        worker.subscribe(events.append)
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        OutboxWorker(outbox, Applier(), batch_size=1).run_once()

        report = worker.publish(receipt)

        assert report == PublishReport(claimed=3, published=3)
        [event] = events
        assert (event.count, event.lost) == (2, 1)

    def test_it_is_counted_with_the_workers_own_rows(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        worker = OutboxWorker(outbox, applier)
        worker.publish(outbox.enqueue(SHOP, batch_of("a", "b")))
        outbox.enqueue(SHOP, batch_of("c"))

        worker.run_once()

        counts = worker.diagnostics()
        assert counts.claimed == counts.published == 3
        assert counts.iterations == 1

    def test_a_batch_that_was_changed_since_does_not_matter(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        batch = batch_of("a")
        receipt = outbox.enqueue(SHOP, batch)
        batch.invalidate_key("b")

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=1, published=1)
        assert applier.applied == [key("a")]


class TestAsText:
    def test_a_receipt_that_travelled_as_text_is_published_out_of_its_rows(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = as_text(outbox.enqueue(SHOP, batch_of("a", "b")))

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)
        assert applier.applied == [key("a"), key("b")]
        assert outbox.status(SHOP).pending == 0

    def test_more_rows_than_a_page_are_published_too(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = as_text(outbox.enqueue(SHOP, batch_of(*map(str, range(250)))))

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=250, published=250)

    def test_rows_that_are_not_there_are_unseen(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = as_text(rolled_back(outbox, "a", "b", position="tx:7"))

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, unseen=2)
        assert applier.applied == []

    def test_a_malformed_row_is_left_to_the_worker_and_the_report_says_so(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = as_text(outbox.enqueue(SHOP, batch_of("a", "b")))
        with outbox.transaction() as connection:
            connection.execute(
                "update hydracache_outbox set kind = 'banana' where value = 'b'"
            )

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=1, released=1)

    def test_an_old_receipt_whose_rows_were_purged_is_unseen(
        self, outbox: Outbox, applier: Applier, clock: FakeClock
    ) -> None:
        worker = OutboxWorker(outbox, applier)
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        worker.drain()
        clock.advance(100)
        outbox.purge_published(SHOP, older_than=60)

        report = worker.publish(as_text(receipt))

        assert report == PublishReport(claimed=1, unseen=1)


class TestBeforeTheCommit:
    def test_rows_that_were_rolled_back_are_unseen(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = rolled_back(outbox, "a", "b", position="tx:7")

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, unseen=2)
        assert not report.complete

    def test_a_row_that_is_committed_later_is_applied_later(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = rolled_back(outbox, "a", position="tx:7")
        worker = OutboxWorker(outbox, applier)
        worker.publish(receipt)
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        applier.applied.clear()

        report = worker.drain()

        assert report == PublishReport(claimed=1, published=1)
        assert applier.applied == [key("a")]

    def test_inside_the_outboxs_own_transaction_it_changes_nothing(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        worker = OutboxWorker(outbox, applier)

        with outbox.transaction() as connection:
            receipt = outbox.enqueue_in(connection, SHOP, batch_of("a"))
            report = worker.publish(receipt)

        assert report.published == 0 and not report.complete
        assert states(outbox) == {"a": OutboxState.PENDING}

    def test_while_the_writer_still_holds_the_file_it_gives_up_in_time(
        self,
        sqlite: SQLiteOutbox,
        writer: sqlite3.Connection,
        applier: Applier,
        passing_time: Time,
    ) -> None:
        writer.execute("begin")
        receipt = sqlite.enqueue_in(writer, SHOP, batch_of("a"))
        worker = OutboxWorker(sqlite, applier)

        report = worker.publish(receipt, timeout=0.5)
        writer.execute("commit")

        assert report.published == 0 and not report.complete
        assert passing_time.passed <= 1.1
        assert states(sqlite) == {"a": OutboxState.PENDING}
        assert worker.drain() == PublishReport(claimed=1, published=1)

    def test_a_commit_that_comes_while_it_waits_is_still_applied_after_it(
        self,
        sqlite: SQLiteOutbox,
        writer: sqlite3.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Another thread publishes too early: its tokens are older than the commit, and
        # a reader in between fills the old value under them.
        store = MemoryStore()
        cache = TaggedCache(store, SHOP)
        worker = OutboxWorker(sqlite, MemcachedApplier(store, SHOP))
        writer.execute("create table data (value text)")
        writer.execute("insert into data values ('old')")
        readings: list[str] = []

        def load() -> str:
            with contextlib.closing(sqlite3.connect(sqlite.path)) as reader:
                [[value]] = reader.execute("select value from data")
            return str(value)

        class CommittingTime(Time):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                if writer.in_transaction:
                    readings.append(cache.get_or_load("price", load))
                    writer.execute("commit")

        writer.execute("begin")
        writer.execute("update data set value = 'new'")
        receipt = sqlite.enqueue_in(writer, SHOP, batch_of("price"))
        monkeypatch.setattr(database, "time", CommittingTime())
        worker.publish(receipt)
        with contextlib.suppress(sqlite3.OperationalError):
            writer.execute("commit")

        worker.drain()

        assert sqlite.status(SHOP).pending == 0
        assert readings in ([], ["old"])
        assert cache.get_or_load("price", load) == "new"


class TestBesideAWorker:
    def test_it_finishes_rows_that_a_worker_has_claimed(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        claimed = outbox.claim(SHOP, "a worker", limit=10, claim_ttl=30)

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=1, published=1)
        assert outbox.mark_failed(claimed, "late", backoff=0, dead=True) == 0
        assert states(outbox) == {"a": OutboxState.PUBLISHED}

    def test_a_large_commit_is_published_as_far_as_the_time_goes(
        self, outbox: Outbox, clock: FakeClock, as_it_came: Came
    ) -> None:
        slow = SlowApplier(clock, seconds=0.6)
        worker = OutboxWorker(outbox, slow, monotonic=clock)
        targets = 5 * PART
        receipt = outbox.enqueue(SHOP, batch_of(*map(str, range(targets))))

        report = worker.publish(as_it_came(receipt), timeout=1.0)

        assert slow.sizes == [PART, PART]
        assert report == PublishReport(
            claimed=targets, published=2 * PART, released=3 * PART
        )
        published = outbox.rows(SHOP, state=OutboxState.PUBLISHED, limit=targets)
        assert [row.intent for row in published] == slow.applied
        assert worker.drain().published == 3 * PART

    def test_a_large_commit_is_not_looked_through_when_the_time_is_over(
        self, outbox: Outbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One page of it takes the server as long as all of its rows."""
        worker = OutboxWorker(outbox, SlowApplier(clock, seconds=2), monotonic=clock)
        receipt = outbox.enqueue(SHOP, batch_of(*map(str, range(2 * PART))))
        rows = outbox.rows

        def looked_through(*args: Any, **options: Any) -> Any:
            clock.advance(60)
            return rows(*args, **options)

        monkeypatch.setattr(outbox, "rows", looked_through)
        before = clock()

        report = worker.publish(receipt, timeout=1.0)

        assert report == PublishReport(claimed=2 * PART, published=PART, released=PART)
        assert clock() - before == 2

    def test_what_was_published_before_a_failure_of_the_database_is_reported(
        self, outbox: Outbox, applier: Applier, as_it_came: Came
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of(*map(str, range(3 * PART))))
        really = outbox.publish_commit
        calls: list[int] = []

        def failing(*args: Any, **options: Any) -> int:
            calls.append(1)
            if len(calls) == 2:
                raise OutboxError("gone")
            return really(*args, **options)

        outbox.publish_commit = failing  # type: ignore[method-assign]
        report = OutboxWorker(outbox, applier).publish(as_it_came(receipt))

        assert report == PublishReport(
            claimed=3 * PART, published=PART, released=2 * PART
        )

    def test_a_worker_that_was_faster_makes_it_complete_too(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        OutboxWorker(outbox, Applier()).drain()

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)

    def test_a_worker_that_was_faster_with_a_part_of_it_as_well(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        OutboxWorker(outbox, Applier(), batch_size=1).run_once()

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)

    def test_a_worker_that_is_faster_meanwhile_makes_it_complete_as_well(
        self, outbox: Outbox
    ) -> None:
        class OvertakenApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                OutboxWorker(outbox, Applier()).drain()

        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))

        report = OutboxWorker(outbox, OvertakenApplier()).publish(receipt)

        assert report == PublishReport(claimed=2, published=2)

    def test_a_dead_row_keeps_it_from_being_complete(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        broken = Applier()
        broken.failures[key("b")] = ApplyPermanent("never")
        OutboxWorker(outbox, broken, escalate=False).drain()

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert not report.complete
        assert outbox.status(SHOP).dead_lettered == 1


class TestSharedPosition:
    def test_the_rows_of_another_batch_under_the_position_stay_pending(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        receipt = outbox.enqueue(SHOP, batch_of("c"), commit_position="tx:7")

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=1, published=1)
        assert states(outbox) == {
            "a": OutboxState.PENDING,
            "b": OutboxState.PENDING,
            "c": OutboxState.PUBLISHED,
        }

    def test_overlapping_batches_both_become_complete(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        one = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        two = outbox.enqueue(SHOP, batch_of("b", "c"), commit_position="tx:7")
        worker = OutboxWorker(outbox, applier)

        reports = [worker.publish(one), worker.publish(two)]

        assert reports == [PublishReport(claimed=2, published=2)] * 2
        assert outbox.status(SHOP).pending == 0

    def test_another_batchs_rows_do_not_stand_for_rows_that_are_not_there(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        worker = OutboxWorker(outbox, applier)
        worker.publish(outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7"))
        receipt = rolled_back(outbox, "c", "d", position="tx:7")

        report = worker.publish(receipt)

        assert not report.complete
        assert report == PublishReport(claimed=2, unseen=2)


class TestFaults:
    @pytest.mark.parametrize(
        "failure",
        [
            ApplyUnavailable("away"),
            OSError("away"),
            RuntimeError("broken"),
            ApplyPermanent("never"),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    def test_what_cannot_be_applied_now_is_left_to_a_worker_unharmed(
        self, outbox: Outbox, applier: Applier, failure: Exception
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        applier.failures[key("b")] = failure

        report = OutboxWorker(outbox, applier).publish(receipt)

        assert report == PublishReport(claimed=3, published=2, released=1)
        [left] = outbox.rows(SHOP, state=OutboxState.PENDING)
        assert left.intent == key("b")
        assert left.attempts == 0 and left.claim_token is None

    def test_a_cache_that_is_away_altogether_costs_nothing_but_time(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        applier.failures = {key("a"): OSError("away"), key("b"): OSError("away")}
        worker = OutboxWorker(outbox, applier)

        report = worker.publish(receipt)
        applier.failures.clear()

        assert report == PublishReport(claimed=2, released=2)
        assert worker.drain() == PublishReport(claimed=2, published=2)

    def test_a_locked_database_is_waited_for_within_the_timeout_and_not_raised(
        self,
        sqlite: SQLiteOutbox,
        writer: sqlite3.Connection,
        applier: Applier,
        passing_time: Time,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        writer.execute("begin immediate")
        worker = OutboxWorker(sqlite, applier)

        report = worker.publish(receipt, timeout=0.3)
        writer.execute("rollback")

        assert report == PublishReport(claimed=1, released=1)
        assert 0.2 <= passing_time.passed <= 0.4
        [warning] = caplog.records
        assert warning.levelno == logging.WARNING
        assert str(receipt.commit_position) in warning.getMessage()
        assert worker.drain() == PublishReport(claimed=1, published=1)

    def test_the_time_of_the_cache_is_not_taken_from_that_of_the_database(
        self,
        sqlite: SQLiteOutbox,
        writer: sqlite3.Connection,
        clock: FakeClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        class SlowApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                clock.advance(2.0)
                writer.execute("begin immediate")

        class UnlockingTime(Time):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                if self.passed > 0.3 and writer.in_transaction:
                    writer.execute("rollback")

        monkeypatch.setattr(database, "time", UnlockingTime())
        receipt = sqlite.enqueue(SHOP, batch_of("a"))

        worker = OutboxWorker(sqlite, SlowApplier(), monotonic=clock)
        report = worker.publish(receipt, timeout=1.0)

        assert report == PublishReport(claimed=1, published=1)

    def test_text_does_not_make_it_wait_longer(
        self,
        sqlite: SQLiteOutbox,
        writer: sqlite3.Connection,
        applier: Applier,
        passing_time: Time,
    ) -> None:
        receipt = as_text(sqlite.enqueue(SHOP, batch_of("a")))
        writer.execute("begin exclusive")

        report = OutboxWorker(sqlite, applier).publish(receipt, timeout=0.3)

        assert report == PublishReport(claimed=1, released=1)
        assert passing_time.passed <= 0.4

    def test_the_first_use_of_an_outbox_does_not_make_it_wait_longer(
        self,
        sqlite: SQLiteOutbox,
        path: Path,
        clock: FakeClock,
        writer: sqlite3.Connection,
        applier: Applier,
        passing_time: Time,
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        writer.execute("begin exclusive")

        with contextlib.closing(SQLiteOutbox(path, clock=clock)) as fresh:
            report = OutboxWorker(fresh, applier).publish(receipt, timeout=0.3)

        assert report == PublishReport(claimed=1, released=1)
        assert passing_time.passed <= 0.7

    def test_another_threads_open_block_on_a_memory_outbox_does_not_either(
        self, applier: Applier
    ) -> None:
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

        report = OutboxWorker(outbox, applier).publish(receipt, timeout=0.05)
        elapsed = time.monotonic() - started
        done.set()
        holder.join()

        assert report == PublishReport(claimed=1, released=1)
        assert elapsed < 30.0

    def test_a_table_that_is_gone_is_not_raised_either(
        self, sqlite: SQLiteOutbox, writer: sqlite3.Connection, applier: Applier
    ) -> None:
        receipt = sqlite.enqueue(SHOP, batch_of("a"))
        writer.execute("drop table hydracache_outbox")

        report = OutboxWorker(sqlite, applier).publish(receipt)

        assert report == PublishReport(claimed=1, released=1)

    def test_an_end_from_outside_passes_through_and_the_rows_stay(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        applier.failures[key("b")] = KeyboardInterrupt()

        with pytest.raises(KeyboardInterrupt):
            OutboxWorker(outbox, applier).publish(receipt)

        assert outbox.status(SHOP).pending == 2

    def test_a_receipt_of_another_namespace_is_refused(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        receipt = outbox.enqueue("blog", batch_of("a"))

        with pytest.raises(ValueError, match="'blog'.*'shop'"):
            OutboxWorker(outbox, applier).publish(receipt)

        assert applier.applied == []


class TestReadYourWrites:
    def test_a_complete_report_means_that_no_old_value_is_served(
        self, outbox: Outbox
    ) -> None:
        store = MemoryStore()
        cache = TaggedCache(store, SHOP)
        cache.get_or_load("price", lambda: "old")
        receipt = outbox.enqueue(SHOP, batch_of("price"))

        report = OutboxWorker(outbox, MemcachedApplier(store, SHOP)).publish(receipt)

        assert report.complete
        assert cache.get("price") is None
