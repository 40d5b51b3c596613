"""Whatever fails around a worker, no row is lost and none is dead that need not be.

Faults of a real memcached are in ``test_appliers.py``, processes killed with SIGKILL in
``tests/faults``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, Sequence, Union

import pytest

from hydracache_sync import (
    ApplyPermanent,
    ApplyTransient,
    ApplyUnavailable,
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    OutboxBusyError,
    OutboxError,
    OutboxRow,
    OutboxState,
    OutboxWorker,
    PublishReport,
    SchemaError,
    SQLiteOutbox,
)
from hydracache_sync import backoff as backoff_module
from hydracache_sync.outbox.row import ABANDONED
from hydracache_sync.worker.node_outages import OutageTiming
from support.appliers import Applier
from support.clock import FakeClock
from support.processes import DEADLINE, Child
from support.servers import Memcached, free_port
from support.waiting import eventually

SHOP = "shop"

#: Seconds of a claim in these tests, and until it is surely over.
CLAIM_TTL = 30.0
AFTER_CLAIM = 31.0

Outbox = Union[MemoryOutbox, SQLiteOutbox]


class Killed(BaseException):
    """Ends a worker as ``GreenletExit`` does: no ``Exception``, from anywhere."""


class WholeApplier(Applier):
    """The same, but takes a batch as a whole, as ``MemcachedApplier`` does."""

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        return super().apply_batch(intents)


class OddApplier(InvalidationApplier):
    """Does with a batch whatever the test has set as ``answer``."""

    namespace = SHOP

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def apply_batch(self, intents: Sequence[InvalidationIntent]) -> Any:
        return self.answer(intents)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even its text works")


@pytest.fixture
def sqlite(path: Path, clock: FakeClock) -> Iterator[SQLiteOutbox]:
    """An outbox that gives up at once when its file is locked."""
    outbox = SQLiteOutbox(path, clock=clock, busy_timeout=0)
    with contextlib.closing(outbox):
        outbox.install_schema()
        outbox.check_schema()
        yield outbox


@pytest.fixture(params=[Applier, WholeApplier])
def applier(request: pytest.FixtureRequest) -> Applier:
    made: Applier = request.param()
    return made


@pytest.fixture
def longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = SimpleNamespace(uniform=lambda low, high: high)
    monkeypatch.setattr(backoff_module, "random", draw)


def enqueue(outbox: Outbox, *keys: str) -> list[OutboxRow]:
    batch = InvalidationIntentBatch("test")
    for key in keys:
        batch.invalidate_key(key)
    receipt = outbox.enqueue(SHOP, batch)
    return outbox.rows(SHOP, commit_position=receipt.commit_position, limit=len(keys))


def key(name: str) -> InvalidationIntent:
    return InvalidationIntent.key(name)


def states(outbox: Outbox) -> dict[str, OutboxState | None]:
    """State of each row by its key."""
    return {
        str(row.intent and row.intent.value): row.state
        for row in outbox.rows(SHOP, limit=1000)
    }


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == level]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of the file, as a backup or a long import does."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with contextlib.closing(other):
        other.execute("begin immediate")
        yield
        other.execute("rollback")


class TestOutage:
    @pytest.mark.parametrize(
        "failure",
        [
            ApplyUnavailable("node is away", node="cache1:11211"),
            ConnectionRefusedError(111, "Connection refused"),
            socket.timeout("timed out"),
            BrokenPipeError(32, "Broken pipe"),
            OSError("something of the system"),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    def test_it_counts_no_attempt_and_the_row_waits(
        self,
        outbox: Outbox,
        applier: Applier,
        clock: FakeClock,
        failure: Exception,
        longest_waits: None,
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier.failures[key("user:42")] = failure

        report = OutboxWorker(outbox, applier, max_attempts=1).run_once()

        assert report == PublishReport(claimed=1, released=1)
        waiting = outbox.row(row.id)
        assert waiting is not None and waiting.state is OutboxState.PENDING
        assert waiting.attempts == 0
        assert waiting.claim_token is None
        node = getattr(failure, "node", None)
        assert waiting.waits_for == node
        assert waiting.last_error == f"{type(failure).__name__}: {failure}"
        assert waiting.available_at_ms - clock.now_ms == 1000

    def test_its_waits_double_up_to_five_seconds_and_begin_anew_after_it(
        self, outbox: Outbox, applier: Applier, clock: FakeClock, longest_waits: None
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        worker = OutboxWorker(outbox, applier)
        waits = []

        for away in (True, True, True, True, True, False, True):
            applier.failures = {key("user:42"): OSError("away")} if away else {}
            worker.run_once()
            waiting = outbox.row(row.id)
            assert waiting is not None
            waits.append(waiting.available_at_ms - clock.now_ms)
            clock.now_ms = waiting.available_at_ms
            if not away:
                [row] = enqueue(outbox, "user:42")

        assert waits == [1000, 2000, 4000, 5000, 5000, 0, 1000]

    def test_a_thousand_rounds_make_no_dead_letter_and_two_log_lines(
        self, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        outbox, applier = MemoryOutbox(clock=clock), WholeApplier()
        [row] = enqueue(outbox, "user:42")
        applier.failures[key("user:42")] = ApplyUnavailable("node is away")
        # An outage has ended as soon as the cache is back.
        worker = OutboxWorker(outbox, applier, outage_timing=OutageTiming(calm=0.0))
        caplog.set_level(logging.INFO)

        for _ in range(1000):
            worker.run_once()
            clock.advance(5)
        during = messages(caplog, logging.INFO)
        applier.failures.clear()
        report = worker.run_once()

        assert during == []
        assert report == PublishReport(claimed=1, published=1)
        published = outbox.row(row.id)
        assert published is not None and published.attempts == 0
        begun, ended = messages(caplog, logging.WARNING)
        assert "shop is away" in begun and "node is away" in begun
        assert "shop is back" in ended
        assert len(caplog.records) == 2
        counts = worker.diagnostics()
        assert counts.outages == 1
        assert counts.released == 1000
        assert counts.retried == counts.dead_lettered == 0

    def test_a_second_outage_is_told_again(
        self,
        outbox: Outbox,
        applier: Applier,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        worker = OutboxWorker(outbox, applier, outage_timing=OutageTiming(calm=0.0))

        for failures in ({key("user:42"): OSError("away")}, {}) * 2:
            enqueue(outbox, "user:42")
            applier.failures = dict(failures)
            worker.run_once()
            clock.advance(5)

        assert [" is away" in each for each in messages(caplog, logging.WARNING)] == [
            True,
            False,
            True,
            False,
        ]
        assert worker.diagnostics().outages == 2

    def test_having_nothing_to_do_does_not_end_it(
        self,
        outbox: Outbox,
        applier: Applier,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
        longest_waits: None,
    ) -> None:
        enqueue(outbox, "user:42")
        applier.failures[key("user:42")] = OSError("away")
        worker = OutboxWorker(outbox, applier)
        caplog.set_level(logging.INFO)
        worker.run_once()

        idle = worker.run_once()
        clock.advance(1)
        worker.run_once()

        assert idle == PublishReport()
        assert messages(caplog, logging.INFO) == []
        assert len(messages(caplog, logging.WARNING)) == 1
        assert worker.diagnostics().outages == 1

    def test_rows_of_targets_that_answer_go_on(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        enqueue(outbox, "here", "away", "here too")
        applier.failures[key("away")] = ApplyUnavailable("away", node="cache2:11211")

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=3, published=2, released=1)
        assert states(outbox) == {
            "here": OutboxState.PUBLISHED,
            "away": OutboxState.PENDING,
            "here too": OutboxState.PUBLISHED,
        }

    def test_rows_that_wait_are_out_of_the_way_of_others(
        self, outbox: Outbox, applier: Applier, longest_waits: None
    ) -> None:
        enqueue(outbox, "away")
        applier.failures[key("away")] = OSError("away")
        worker = OutboxWorker(outbox, applier, batch_size=1)
        worker.run_once()
        enqueue(outbox, "here")

        report = worker.run_once()

        assert report == PublishReport(claimed=1, published=1)

    def test_a_drain_ends_at_once_and_asks_for_no_further_batch(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        enqueue(outbox, *"abcdef")
        asked: list[InvalidationIntent] = []

        class AwayApplier(WholeApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                asked.append(intent)
                raise OSError("away")

        report = OutboxWorker(outbox, AwayApplier(), batch_size=2).drain()

        assert report == PublishReport(claimed=2, released=2)
        assert asked == [key("a"), key("b")]

    def test_a_drain_goes_on_past_some_rows_that_wait(
        self, outbox: Outbox, applier: Applier, longest_waits: None
    ) -> None:
        enqueue(outbox, *"abcdef")
        applier.failures[key("b")] = OSError("away")

        report = OutboxWorker(outbox, applier, batch_size=2).drain()

        assert report == PublishReport(claimed=6, published=5, released=1)


class TestEndOfClaim:
    @pytest.fixture
    def slow(self, clock: FakeClock) -> Applier:
        class SlowApplier(Applier):
            """Takes six seconds for each."""

            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                super().apply_invalidation(intent)
                clock.advance(6)

        return SlowApplier()

    def test_nothing_is_started_in_its_second_half_and_the_rest_is_given_back(
        self,
        outbox: Outbox,
        slow: Applier,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        rows = enqueue(outbox, *"abcdefgh")

        report = OutboxWorker(
            outbox, slow, claim_ttl=CLAIM_TTL, monotonic=clock
        ).run_once()

        assert report == PublishReport(claimed=8, published=3, released=5)
        assert slow.applied == [key("a"), key("b"), key("c")]
        for row in rows[3:]:
            given_back = outbox.row(row.id)
            assert given_back is not None and given_back.claim_token is None
            assert given_back.attempts == 0
            assert given_back.available_at_ms == row.available_at_ms
        [warning] = messages(caplog, logging.WARNING)
        assert "5 of 8" in warning and "batch_size" in warning

    def test_a_claim_that_took_so_long_is_not_laid_to_the_applier(
        self,
        outbox: Outbox,
        applier: Applier,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        enqueue(outbox, "a")
        really = outbox.claim

        def hanging(*arguments: Any, **options: Any) -> list[OutboxRow]:
            rows = really(*arguments, **options)
            clock.advance(CLAIM_TTL / 2)
            return rows

        monkeypatch.setattr(outbox, "claim", hanging)

        report = OutboxWorker(
            outbox, applier, claim_ttl=CLAIM_TTL, monotonic=clock
        ).run_once()

        assert report == PublishReport(claimed=1, released=1)
        [warning] = messages(caplog, logging.WARNING)
        assert "does the database hang?" in warning and "batch_size" not in warning

    def test_a_drain_then_takes_them_up_again(
        self, outbox: Outbox, slow: Applier, clock: FakeClock
    ) -> None:
        enqueue(outbox, *"abcdefgh")

        report = OutboxWorker(
            outbox, slow, claim_ttl=CLAIM_TTL, monotonic=clock
        ).drain()

        assert report == PublishReport(claimed=15, published=8, released=7)
        assert slow.applied == [key(name) for name in "abcdefgh"]

    def test_a_claim_that_took_too_long_itself_starts_nothing(
        self,
        outbox: Outbox,
        applier: Applier,
        clock: FakeClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        enqueue(outbox, *"abc")
        claim = outbox.claim

        def slow_claim(*args: Any, **kwargs: Any) -> list[OutboxRow]:
            rows = claim(*args, **kwargs)
            clock.advance(CLAIM_TTL * 0.6)
            return rows

        monkeypatch.setattr(outbox, "claim", slow_claim)

        report = OutboxWorker(
            outbox, applier, claim_ttl=CLAIM_TTL, monotonic=clock
        ).run_once()

        assert report == PublishReport(claimed=3, released=3)
        assert applier.applied == []


class TestStop:
    def test_what_was_not_begun_is_given_back_at_once(self, outbox: Outbox) -> None:
        rows = enqueue(outbox, *"abcd")
        stop = threading.Event()

        class StoppedApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                super().apply_invalidation(intent)
                if intent == key("b"):
                    stop.set()

        applier = StoppedApplier()

        report = OutboxWorker(outbox, applier).run_once(stop=stop)

        assert report == PublishReport(claimed=4, published=2, released=2)
        assert applier.applied == [key("a"), key("b")]
        for row in rows[2:]:
            assert outbox.row(row.id) == row

    def test_a_batch_taken_as_a_whole_is_finished(self, outbox: Outbox) -> None:
        enqueue(outbox, *"abcd")
        stop = threading.Event()

        class StoppedApplier(WholeApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                super().apply_invalidation(intent)
                stop.set()

        report = OutboxWorker(outbox, StoppedApplier()).drain(stop=stop)

        assert report == PublishReport(claimed=4, published=4)

    def test_one_that_is_set_already_lets_nothing_begin(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        stop = threading.Event()
        stop.set()

        OutboxWorker(outbox, applier).drain(stop=stop)

        assert applier.applied == []
        assert outbox.row(row.id) == row


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, Killed])
class TestEndedFromOutside:
    def test_what_was_applied_is_published_and_the_rest_is_given_back_at_once(
        self, outbox: Outbox, end: type[BaseException]
    ) -> None:
        rows = enqueue(outbox, *"abcd")
        applier = Applier()
        applier.failures[key("c")] = end()

        with pytest.raises(end):
            OutboxWorker(outbox, applier).drain()

        first, second, *others = [outbox.row(row.id) for row in rows]
        assert first is not None and first.is_published
        assert second is not None and second.is_published
        assert others == rows[2:]

    def test_an_abandoned_row_that_is_not_reached_is_released_at_once(
        self, outbox: Outbox, clock: FakeClock, end: type[BaseException]
    ) -> None:
        [abandoned] = enqueue(outbox, "abandoned")
        outbox.claim(SHOP, "a worker that dies", limit=1, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        enqueue(outbox, "fresh")
        applier = Applier()
        applier.failures[key("fresh")] = end()

        with pytest.raises(end):
            OutboxWorker(outbox, applier).run_once()

        row = outbox.row(abandoned.id)
        assert row is not None and row.claim_token is None
        assert row.was_abandoned and row.attempts == 0

    def test_of_a_batch_taken_as_a_whole_nothing_is_known_and_all_comes_again(
        self, outbox: Outbox, end: type[BaseException]
    ) -> None:
        rows = enqueue(outbox, *"abcd")
        applier = WholeApplier()
        applier.failures[key("c")] = end()

        with pytest.raises(end):
            OutboxWorker(outbox, applier).run_once()

        assert [outbox.row(row.id) for row in rows] == rows

    def test_a_database_that_fails_then_does_not_hide_it(
        self,
        sqlite: SQLiteOutbox,
        path: Path,
        clock: FakeClock,
        end: type[BaseException],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        enqueue(sqlite, *"ab")
        applier = Applier()
        applier.failures[key("b")] = end()
        lock = contextlib.ExitStack()

        class LockingApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                if intent == key("b"):
                    lock.enter_context(locked(path))
                applier.apply_invalidation(intent)

        worker = OutboxWorker(sqlite, LockingApplier(), claim_ttl=CLAIM_TTL)

        with lock, pytest.raises(end):
            worker.run_once()

        [error] = messages(caplog, logging.ERROR)
        assert "rows stay claimed for up to 30.0 s" in error
        clock.advance(AFTER_CLAIM)
        assert OutboxWorker(sqlite, Applier()).drain() == PublishReport(
            claimed=2, published=2
        )


class TestMisbehavingApplier:
    @pytest.mark.parametrize(
        "answer, shown",
        [
            (lambda intents: [], "returned 0 results for 3 intents"),
            (lambda intents: [None] * 2, "returned 2 results for 3 intents"),
            (lambda intents: [None] * 4, "returned 4 results for 3 intents"),
            (lambda intents: None, "NoneType"),
            (lambda intents: iter([None] * 3), "iterator"),
        ],
        ids=["none", "too few", "too many", "None", "iterator"],
    )
    def test_results_that_fit_no_intent_publish_nothing(
        self, outbox: Outbox, answer: Any, shown: str
    ) -> None:
        rows = enqueue(outbox, *"abc")

        report = OutboxWorker(outbox, OddApplier(answer)).run_once()

        assert report == PublishReport(claimed=3, retried=3)
        for row in rows:
            failed = outbox.row(row.id)
            assert failed is not None and shown in (failed.last_error or "")

    @pytest.mark.parametrize(
        "failure, expected",
        [
            (ApplyUnavailable("away"), PublishReport(claimed=2, released=2)),
            (OSError("away"), PublishReport(claimed=2, released=2)),
            (ApplyTransient("later"), PublishReport(claimed=2, retried=2)),
            (ZeroDivisionError("odd"), PublishReport(claimed=2, retried=2)),
            (ApplyPermanent("never"), PublishReport(claimed=2, dead_lettered=2)),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_a_whole_batch_raises_settles_each_of_its_rows(
        self, outbox: Outbox, failure: Exception, expected: PublishReport
    ) -> None:
        enqueue(outbox, *"ab")

        def answer(intents: Sequence[InvalidationIntent]) -> None:
            raise failure

        report = OutboxWorker(outbox, OddApplier(answer), escalate=False).run_once()

        assert report == expected

    def test_an_exception_without_a_text_fails_its_own_row_only(
        self, outbox: Outbox, applier: Applier
    ) -> None:
        enqueue(outbox, "fine", "odd")
        applier.failures[key("odd")] = Unprintable()

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=2, published=1, retried=1)

    @pytest.mark.parametrize(
        "text", ["x" * 1_000_000, "\ud800 \0 \r\n", ""], ids=["long", "odd", "empty"]
    )
    def test_an_error_of_any_text_can_be_kept(
        self, outbox: Outbox, applier: Applier, text: str
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        applier.failures[key("user:42")] = RuntimeError(text)

        report = OutboxWorker(outbox, applier).run_once()

        assert report == PublishReport(claimed=1, retried=1)
        failed = outbox.row(row.id)
        assert failed is not None
        assert (failed.last_error or "").startswith("RuntimeError: ")
        assert len(failed.last_error or "") < 1100


class TestDatabase:
    def test_a_lock_at_the_claim_is_raised_and_nothing_has_happened(
        self, sqlite: SQLiteOutbox, path: Path, applier: Applier
    ) -> None:
        [row] = enqueue(sqlite, "user:42")
        worker = OutboxWorker(sqlite, applier)

        with locked(path), pytest.raises(OutboxBusyError):
            worker.run_once()

        assert applier.applied == []
        assert sqlite.row(row.id) == row
        assert worker.run_once() == PublishReport(claimed=1, published=1)

    def test_a_missing_table_is_named_with_what_to_run(
        self, tmp_path: Path, applier: Applier
    ) -> None:
        path = tmp_path / "empty.db"
        path.touch()
        with contextlib.closing(SQLiteOutbox(path)) as empty:
            worker = OutboxWorker(empty, applier)

            with pytest.raises(SchemaError, match="hydracache schema install"):
                worker.run_once()

    def test_a_missing_file_is_named_and_not_made(
        self, tmp_path: Path, applier: Applier
    ) -> None:
        path = tmp_path / "missing.db"
        with contextlib.closing(SQLiteOutbox(path)) as missing:
            worker = OutboxWorker(missing, applier)

            with pytest.raises(OutboxError, match="missing.db.*check the path"):
                worker.run_once()

        assert not path.exists()

    @pytest.mark.parametrize(
        "failure",
        [None, OSError("away"), ApplyTransient("later"), ApplyPermanent("never")],
        ids=["published", "released", "retried", "dead"],
    )
    def test_a_lock_at_the_acknowledgement_brings_the_rows_again_after_the_claim(
        self,
        sqlite: SQLiteOutbox,
        path: Path,
        clock: FakeClock,
        failure: Exception | None,
    ) -> None:
        [row] = enqueue(sqlite, "user:42")
        lock = contextlib.ExitStack()
        applied: list[InvalidationIntent] = []

        class LockingApplier(WholeApplier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                lock.enter_context(locked(path))
                applied.append(intent)
                if failure is not None:
                    raise failure

        worker = OutboxWorker(sqlite, LockingApplier(), claim_ttl=CLAIM_TTL)
        with lock, pytest.raises(OutboxBusyError):
            worker.run_once()
        sequel = OutboxWorker(sqlite, Applier(), claim_ttl=CLAIM_TTL)

        before = sequel.run_once()
        clock.advance(AFTER_CLAIM)
        after = sequel.run_once()

        assert applied == [key("user:42")]
        assert before == PublishReport()
        assert after == PublishReport(claimed=1, published=1)
        published = sqlite.row(row.id)
        assert published is not None and published.attempts == 0

    @pytest.mark.parametrize("statement", ["mark_published", "release", "mark_failed"])
    def test_rows_settled_before_it_failed_stay_settled_and_the_others_come_again(
        self,
        outbox: Outbox,
        applier: Applier,
        clock: FakeClock,
        statement: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        enqueue(outbox, "fine", "away", "busy")
        applier.failures = {
            key("away"): OSError("away"),
            key("busy"): ApplyTransient("later"),
        }
        worker = OutboxWorker(outbox, applier, claim_ttl=CLAIM_TTL)

        def fail(*args: Any, **kwargs: Any) -> int:
            raise OutboxError("the disk is on fire")

        with monkeypatch.context() as patch:
            patch.setattr(outbox, statement, fail)
            with pytest.raises(OutboxError, match="on fire"):
                worker.run_once()
        applier.failures.clear()
        clock.advance(AFTER_CLAIM)
        worker.drain()

        assert set(states(outbox).values()) == {OutboxState.PUBLISHED}
        assert len(states(outbox)) == 3

    def test_an_escalation_that_fails_leaves_no_dead_letter_without_its_flush(
        self, outbox: Outbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        enqueue(outbox, "hopeless")
        applier = Applier()
        applier.failures[key("hopeless")] = ApplyPermanent("never")
        worker = OutboxWorker(outbox, applier, claim_ttl=CLAIM_TTL)

        def fail(namespace: str) -> bool:
            raise OutboxError("the disk is on fire")

        with monkeypatch.context() as patch:
            patch.setattr(outbox, "escalate", fail)
            with pytest.raises(OutboxError):
                worker.run_once()

        assert outbox.status(SHOP).dead_lettered == 0
        clock.advance(AFTER_CLAIM)
        report = worker.drain()
        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)
        assert applier.applied == [InvalidationIntent.flush()]

    def test_death_between_flush_and_dead_letter_loses_neither(
        self, outbox: Outbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [row] = enqueue(outbox, "hopeless")
        applier = Applier()
        applier.failures[key("hopeless")] = ApplyPermanent("never")

        def die(*args: Any, **kwargs: Any) -> int:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(outbox, "mark_failed", die)
            with pytest.raises(Killed):
                OutboxWorker(outbox, applier, claim_ttl=CLAIM_TTL).run_once()
        clock.advance(AFTER_CLAIM)
        report = OutboxWorker(outbox, applier).drain()

        assert report == PublishReport(claimed=2, published=1, dead_lettered=1)
        assert applier.applied == [InvalidationIntent.flush()]
        dead = outbox.row(row.id)
        assert dead is not None and dead.is_dead_lettered


class TestLateWorker:
    @pytest.mark.parametrize(
        "failure",
        [None, OSError("away"), ApplyTransient("later"), ApplyPermanent("never")],
        ids=["published", "released", "retried", "dead"],
    )
    def test_it_changes_nothing_of_what_another_has_done_since(
        self, outbox: Outbox, clock: FakeClock, failure: Exception | None
    ) -> None:
        [row] = enqueue(outbox, "user:42")
        quick = OutboxWorker(outbox, Applier())
        reports = []

        class LateApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                clock.advance(AFTER_CLAIM)
                reports.append(quick.run_once())
                if failure is not None:
                    raise failure

        late = OutboxWorker(outbox, LateApplier(), claim_ttl=CLAIM_TTL, escalate=False)

        report = late.run_once()

        assert reports == [PublishReport(claimed=1, published=1)]
        assert report == PublishReport(claimed=1, lost=1)
        assert not report.complete
        published = outbox.row(row.id)
        assert published is not None and published.is_published
        assert published.attempts == 0 and published.last_error is None
        assert late.diagnostics().lost == 1

    def test_a_row_that_another_holds_now_stays_with_it(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        [row] = enqueue(outbox, "user:42")

        class LateApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                clock.advance(AFTER_CLAIM)
                outbox.claim(SHOP, "another", limit=1, claim_ttl=CLAIM_TTL)

        report = OutboxWorker(outbox, LateApplier(), claim_ttl=CLAIM_TTL).run_once()

        assert report == PublishReport(claimed=1, lost=1)
        held = outbox.row(row.id)
        assert held is not None and held.state is OutboxState.PENDING
        assert held.claim_owner == "another"

    def test_it_may_still_finish_what_nobody_has_taken_over(
        self, outbox: Outbox, clock: FakeClock
    ) -> None:
        enqueue(outbox, "user:42")

        class LateApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                clock.advance(AFTER_CLAIM)

        report = OutboxWorker(outbox, LateApplier(), claim_ttl=CLAIM_TTL).run_once()

        assert report == PublishReport(claimed=1, published=1)

    def test_it_reports_no_dead_letter_that_there_is_not(
        self, outbox: Outbox, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        enqueue(outbox, "user:42")
        quick = OutboxWorker(outbox, Applier())

        class LateApplier(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                clock.advance(AFTER_CLAIM)
                quick.run_once()
                raise ApplyPermanent("never")

        late = OutboxWorker(outbox, LateApplier(), claim_ttl=CLAIM_TTL, escalate=False)

        late.run_once()

        assert outbox.status(SHOP).dead_lettered == 0
        assert messages(caplog, logging.ERROR) == []

    def test_a_dead_letter_beside_a_row_that_it_has_lost_is_still_an_error(
        self, outbox: Outbox, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        lost, _ = enqueue(outbox, "lost", "dead")
        quick = OutboxWorker(outbox, Applier(), batch_size=1)

        class LateApplier(WholeApplier):
            def apply_batch(
                self, intents: Sequence[InvalidationIntent]
            ) -> list[Exception | None]:
                clock.advance(AFTER_CLAIM)
                quick.run_once()
                return [ApplyPermanent("never")] * len(intents)

        late = OutboxWorker(outbox, LateApplier(), claim_ttl=CLAIM_TTL, escalate=False)

        report = late.run_once()

        assert report == PublishReport(claimed=2, dead_lettered=1, lost=1)
        assert states(outbox) == {
            "lost": OutboxState.PUBLISHED,
            "dead": OutboxState.DEAD,
        }
        errors = messages(caplog, logging.ERROR)
        assert any("never" in each for each in errors)
        assert not any(f"row {lost.id} " in each for each in errors)


class TestThreads:
    def test_two_threads_on_one_worker_share_the_rows_and_the_counts(
        self, tmp_path: Path
    ) -> None:
        outbox = SQLiteOutbox(tmp_path / "app.db")
        outbox.install_schema()
        enqueue(outbox, *(f"key:{number}" for number in range(200)))
        applier = Applier()
        worker = OutboxWorker(outbox, applier, batch_size=5)
        barrier = threading.Barrier(2)
        reports: list[PublishReport] = []

        def drain() -> None:
            barrier.wait()
            reports.append(worker.drain())

        threads = [threading.Thread(target=drain) for _ in range(2)]
        with contextlib.closing(outbox):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            assert outbox.status(SHOP).pending == 0
        assert sum(reports, PublishReport()) == PublishReport(
            claimed=200, published=200
        )
        assert set(Counter(applier.applied).values()) == {1}
        assert worker.diagnostics().published == 200

    def test_eight_threads_log_one_outage_once(
        self, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        outbox, applier = MemoryOutbox(clock=clock), WholeApplier()
        enqueue(outbox, *"abcdefgh")
        for name in "abcdefgh":
            applier.failures[key(name)] = OSError("away")
        worker = OutboxWorker(outbox, applier, batch_size=1, backoff=0)
        barrier = threading.Barrier(8)

        def run() -> None:
            barrier.wait()
            worker.run_once()

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(messages(caplog, logging.WARNING)) == 1
        assert worker.diagnostics().outages == 1
        assert worker.diagnostics().released == 8


def claims_seen(outbox: SQLiteOutbox) -> list[int | None]:
    return [row.claim_token for row in outbox.rows(SHOP)]


def patient_worker(outbox: SQLiteOutbox, memcached: Memcached) -> OutboxWorker:
    store = MemcachedStore([memcached.address], timeout=DEADLINE)
    return OutboxWorker(outbox, MemcachedApplier(store, SHOP), claim_ttl=CLAIM_TTL)


class TestAbandonedRows:
    """A worker that died says nothing: neither of its rows nor of what killed it."""

    def test_rows_of_a_dead_worker_are_applied_each_alone(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        batches: list[list[str | None]] = []

        class WholeNoting(Applier):
            def apply_batch(
                self, intents: Sequence[InvalidationIntent]
            ) -> list[Exception | None]:
                batches.append([intent.value for intent in intents])
                return [None] * len(intents)

        enqueue(sqlite, "a", "b", "c")
        sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        enqueue(sqlite, "d", "e")

        report = OutboxWorker(sqlite, WholeNoting()).drain()

        assert report == PublishReport(claimed=5, published=5)
        # The others first: they are not to wait for what may kill the next worker.
        assert batches == [["d", "e"], ["a"], ["b"], ["c"]]

    def test_a_row_that_kills_its_worker_is_given_up_and_no_other(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        class Deadly(Applier):
            def apply_invalidation(self, intent: InvalidationIntent) -> None:
                if intent.value == "poison":
                    os._exit(3)

        enqueue(sqlite, "a", "poison", "b", "c")
        deaths = 0

        def drain() -> None:
            OutboxWorker(sqlite, Deadly(), max_attempts=2, escalate=False).drain()

        while sqlite.status(SHOP).pending:
            deaths += Child(drain).ended() == 3
            clock.advance(AFTER_CLAIM)
            assert deaths < 10

        # Once in a batch, where nobody knows whose fault it was, and twice alone.
        assert deaths == 3
        [dead] = sqlite.dead_letters(SHOP)
        assert dead.intent == InvalidationIntent.key("poison")
        assert ABANDONED in str(dead.last_error)

    def test_no_number_of_deaths_in_a_crowd_kills_a_row(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        enqueue(sqlite, "a", "b", "c")
        worker = OutboxWorker(sqlite, Applier(), max_attempts=1, escalate=False)
        for _ in range(20):
            sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
            clock.advance(AFTER_CLAIM)

        report = worker.drain()

        assert report == PublishReport(claimed=3, published=3)

    def test_no_number_of_deaths_in_an_outage_kills_a_row(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        """Each worker is killed while it waits for a memcached that hangs."""
        enqueue(sqlite, "a", "b")
        sqlite = SQLiteOutbox(sqlite.path, clock=clock, busy_timeout=DEADLINE)
        claimed = claims_seen(sqlite)
        with contextlib.closing(sqlite), Memcached() as memcached:
            memcached.pause()
            for _ in range(8):
                child = Child(lambda: patient_worker(sqlite, memcached).run_once())
                eventually(lambda: claims_seen(sqlite) != claimed)
                os.kill(child.pid, signal.SIGKILL)
                child.ended()
                claimed = claims_seen(sqlite)
                clock.advance(AFTER_CLAIM)
            memcached.resume()
            report = patient_worker(sqlite, memcached).drain()
            attempts = [row.attempts for row in sqlite.rows(SHOP)]

        assert report == PublishReport(claimed=2, published=2)
        assert attempts == [0, 0]

    def test_a_cache_that_is_away_is_an_outage_for_a_row_that_is_tried_alone(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        enqueue(sqlite, "a")
        sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        with MemcachedStore([f"127.0.0.1:{free_port()}"], timeout=0.5) as store:
            applier = MemcachedApplier(store, SHOP)
            worker = OutboxWorker(sqlite, applier)

            report = worker.run_once()
            nodes = applier.nodes()

        assert report == PublishReport(claimed=1, released=1)
        assert worker.outage is not None
        [row] = sqlite.rows(SHOP)
        assert (row.attempts, row.claim_token) == (0, None)
        assert [row.waits_for] == nodes

    def test_a_row_that_another_has_taken_is_not_tried_alone(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        class Slow(Applier):
            def probe(self, intent: InvalidationIntent) -> None:
                clock.advance(AFTER_CLAIM)
                sqlite.claim(SHOP, "other", limit=10, claim_ttl=CLAIM_TTL)

        enqueue(sqlite, "a")
        sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        applier = Slow()

        report = OutboxWorker(sqlite, applier).run_once()

        assert report == PublishReport(claimed=1, lost=1)
        assert applier.applied == []

    def test_a_stop_after_the_probe_is_no_attempt(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        stop = threading.Event()

        class Stopping(Applier):
            def probe(self, intent: InvalidationIntent) -> None:
                stop.set()

        enqueue(sqlite, "a")
        sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        OutboxWorker(sqlite, Stopping()).run_once(stop=stop)
        [row] = sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        [again] = sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)

        assert (row.attempts, row.was_abandoned) == (0, True)
        assert again.attempts == 0

    @pytest.mark.parametrize("can_flush", [True, False])
    def test_a_dead_letter_without_a_net_says_so(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture, can_flush: bool
    ) -> None:
        applier = Applier()
        applier.can_flush = can_flush
        applier.failures[InvalidationIntent.key("a")] = ApplyPermanent("never")
        enqueue(outbox, "a")

        OutboxWorker(outbox, applier).run_once()

        [text] = messages(caplog, logging.ERROR)
        assert ("its applier cannot flush" in text) is not can_flush

    def test_a_stop_leaves_them_for_the_next(
        self, sqlite: SQLiteOutbox, clock: FakeClock
    ) -> None:
        enqueue(sqlite, "a", "b")
        sqlite.claim(SHOP, "dead", limit=10, claim_ttl=CLAIM_TTL)
        clock.advance(AFTER_CLAIM)
        stop = threading.Event()
        stop.set()

        report = OutboxWorker(sqlite, Applier()).run_once(stop=stop)

        assert report == PublishReport(claimed=1, released=1)
        assert sqlite.due_namespaces([SHOP]) == [SHOP]
        assert OutboxWorker(sqlite, Applier()).drain().published == 2
