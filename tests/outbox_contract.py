"""The promises of every outbox, each checked once, against whichever adapter it is.

An adapter's test file subclasses :class:`OutboxContract`, or
:class:`SharedOutboxContract` where other objects and other processes see the same rows.
It names the subclass ``Test...``, supplies what :class:`OutboxHooks` asks for, and adds
only what is the adapter's own.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import math
import os
import pickle
import select
import signal
import threading
import time
import traceback
import warnings
from typing import Any, Callable, ContextManager, Iterator, Sequence, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clock import FakeClock
from hydracache_sync.errors import (
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    SchemaError,
)
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox import (
    CommitStatus,
    InvalidationOutbox,
    MemoryOutbox,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    PendingPhase,
)
from hydracache_sync.outbox.row import ABANDONED, ENQUEUED_AGAIN, kept_node
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt

T = TypeVar("T")

SHOP = "shop"

#: Seconds until a thread or process of a test counts as stuck.
DEADLINE = 60.0

#: What Hypothesis should not mind: one outbox for all examples of a test, and a test
#: that several classes inherit.
EVERY_OUTBOX = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.differing_executors,
    HealthCheck.too_slow,
]

#: Text that some layer or other has cut, folded, unescaped or taken for syntax.
ODD_TEXTS = {
    "nul": "\0",
    "nul inside": "a\0b",
    "emoji": "\N{GRINNING FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "combining": "e\N{COMBINING ACUTE ACCENT}",
    "right to left": "\N{HEBREW LETTER ALEF}\N{RIGHT-TO-LEFT OVERRIDE}x",
    "quotes": "'\"`''\"\"",
    "line ends": "a\r\nb\nc\r\u2028\u0085",
    "wildcards": "%_*?[a]",
    "backslashes": "\\ \\\\ \\' \\0 \\n",
    "parameters": ":now ? %s %(now)s $1 {ids} {table} {0}",
    "statement": "'); drop table hydracache_outbox; --",
    "blanks": " \t a \t ",
    "null": "NULL",
    "number": "007",
    "noncharacter": "\uffff\U0010ffff",
}

#: Texts that a collation may hold equal and an identifier must not.
LOOKALIKES = [
    "tx:A",
    "tx:a",
    "tx:a ",
    "tx:a\t",
    "tx:a\0",
    "tx:\xe4",
    "tx:a\N{COMBINING DIAERESIS}",
    "tx:\N{FULLWIDTH LATIN SMALL LETTER A}",
]


class Name(str, enum.Enum):
    """What apps like to name namespaces and keys with; ``str(Name.SHOP)`` differs."""

    SHOP = "shop"
    KEY = "user:42"
    POSITION = "tx:7"
    OWNER = "worker"


def batch_of(*keys: str, reason: str = "") -> InvalidationIntentBatch:
    batch = InvalidationIntentBatch(reason)
    for key in keys:
        batch.invalidate_key(key)
    return batch


def keys_of(rows: Sequence[OutboxRow]) -> list[str | None]:
    return [row.intent.value if row.intent else None for row in rows]


def claim_of(row: OutboxRow) -> tuple[Any, ...] | None:
    """All that a row says of its claim; None if nobody holds it."""
    claim = (row.claimed_at_ms, row.claim_until_ms, row.claim_owner, row.claim_token)
    return None if claim == (None,) * 4 else claim


def numbered(count: int) -> list[str]:
    return [f"key:{n}" for n in range(count)]


def claims(outbox: InvalidationOutbox, *, limit: int) -> Iterator[list[OutboxRow]]:
    """Claim until nothing is due, or far more often than there can be rows.

    All under one owner's name: only their tokens tell these claims apart.
    """
    for _ in range(500):
        rows = outbox.claim(SHOP, "same name", limit=limit, claim_ttl=30)
        if not rows:
            return
        yield rows


def in_threads(count: int, function: Callable[[int], T]) -> list[T]:
    """Run ``function(0)`` ... in threads that start together; return their results."""
    barrier = threading.Barrier(count)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            barrier.wait(DEADLINE)
            results[index] = function(index)
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=run, args=(index,), daemon=True)
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"stuck: {thread.name}"
    if failures:
        raise failures[0]
    return [results[index] for index in range(count)]


def in_processes(count: int, function: Callable[[int], T]) -> list[T]:
    """Run ``function(0)`` ... in forked processes that start together."""
    waits, go = os.pipe()

    def run(index: int) -> T:
        os.close(go)
        os.read(waits, 1)
        return function(index)

    children = [Child(lambda index=index: run(index)) for index in range(count)]
    os.close(waits)
    os.close(go)
    return [child.result() for child in children]


def killed(function: Callable[[], object]) -> None:
    """Run ``function`` in a forked process that then ends by SIGKILL."""

    def run() -> None:
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    child = Child(run)
    assert child.ended() == -signal.SIGKILL, child.report()


class Child:
    """A forked process that runs a function and reports what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._pipe, report = os.pipe()
        with warnings.catch_warnings():
            # A thread that an earlier test left behind is no concern of this one.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            # Whatever happens, a child must never run on into the test suite.
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(DEADLINE))
                try:
                    answer = (True, function())
                except BaseException:
                    answer = (False, traceback.format_exc())
                with os.fdopen(report, "wb") as pipe:
                    pickle.dump(answer, pipe)
            finally:
                os._exit(0)
        os.close(report)
        self._report: bytes | None = None

    def report(self) -> bytes:
        """What the child wrote until it ended."""
        if self._report is None:
            with os.fdopen(self._pipe, "rb") as pipe:
                ready, _, _ = select.select([pipe], [], [], DEADLINE)
                assert ready, f"process {self.pid} is stuck"
                self._report = pipe.read()
        return self._report

    def ended(self) -> int:
        """Wait for the end; the exit code, or the negative of the signal."""
        self.report()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def result(self) -> Any:
        report = self.report()
        assert self.ended() == 0, "a child process was killed"
        done, value = pickle.loads(report)
        assert done, f"in a child process:\n{value}"
        return value


class App:
    """A table of the app's own, beside the outbox."""

    def __init__(self, sql: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self._sql = sql
        self._written = 0

    def write(self, connection: Any, note: str = "data") -> None:
        self._written += 1
        connection.cursor().execute(
            f"insert into app (id, note) values ({self._written}, '{note}')"
        )

    def notes(self) -> list[str]:
        """What is committed."""
        rows = self._sql("select note from app order by id")
        return [note.decode() if isinstance(note, bytes) else note for (note,) in rows]


class OutboxHooks:
    """What a subclass supplies, and the fixtures built out of it."""

    @pytest.fixture
    def storage(self) -> Any:
        """Where the outboxes of one test keep their rows; no tables are there yet."""
        raise NotImplementedError

    def make_outbox(self, storage: Any, **options: Any) -> InvalidationOutbox:
        """Return a new outbox over ``storage``, made with ``options``."""
        raise NotImplementedError

    def sql(
        self, outbox: InvalidationOutbox, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement with ``?`` markers where the rows are, commit, return rows.

        Past the outbox, to look at rows and to plant what it would never write.
        """
        raise NotImplementedError

    def spy(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return a list that grows by each statement of the outboxes made from now on.

        BEGIN and COMMIT are among them if the database sees them as statements.
        """
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def outbox(self, storage: Any, clock: FakeClock) -> Iterator[InvalidationOutbox]:
        """An outbox with its tables, patient enough for any machine."""
        outbox = self.make_outbox(storage, clock=clock, busy_timeout=DEADLINE)
        outbox.install_schema()
        yield outbox
        outbox.close()

    def spied_outbox(
        self, storage: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[InvalidationOutbox, list[str]]:
        """An outbox with its tables and checks behind it, and its next statements."""
        statements = self.spy(monkeypatch)
        outbox = self.make_outbox(storage, clock=clock)
        outbox.install_schema()
        outbox.claim(SHOP, "w", limit=1, claim_ttl=1)
        statements.clear()
        return outbox, statements


class EnqueueContract(OutboxHooks):
    """Rows come into being once, whole and in order."""

    def test_enqueued_batch_becomes_pending_rows_in_its_order(self, outbox, clock):
        batch = batch_of("a", reason="user-write").invalidate_entity("user", "42")
        batch.invalidate_tag("users").invalidate_collection("users:active").flush()

        receipt = outbox.enqueue(SHOP, batch)

        rows = outbox.rows(SHOP)
        assert [row.intent for row in rows] == list(batch.intents)
        assert {row.state for row in rows} == {OutboxState.PENDING}
        assert {row.namespace for row in rows} == {SHOP}
        assert {row.reason for row in rows} == {"user-write"}
        assert {row.commit_position for row in rows} == {receipt.commit_position}
        assert {row.created_at_ms for row in rows} == {clock.now_ms}
        assert {row.available_at_ms for row in rows} == {clock.now_ms}
        assert {row.attempts for row in rows} == {0}
        assert {row.last_error for row in rows} == {None}
        assert {claim_of(row) for row in rows} == {None}
        assert [row.target_hash for row in rows] == [
            intent.target_hash_hex() for intent in batch.intents
        ]
        assert len({row.row_id for row in rows}) == 5

    def test_rows_are_stamped_with_the_present_by_default(self, storage):
        outbox = self.make_outbox(storage)
        outbox.install_schema()

        receipt = outbox.enqueue(SHOP, batch_of("a"))

        # A database on another host has a clock of its own.
        [row] = outbox.rows(SHOP)
        assert abs(row.created_at_ms - time.time() * 1000) < 60_000
        assert abs(receipt.created_at_ms - time.time() * 1000) < 60_000
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]
        outbox.close()

    def test_receipt_tells_what_was_enqueued(self, outbox, clock):
        batch = batch_of("a", "b", "a")

        receipt = outbox.enqueue(SHOP, batch, commit_position="tx:7")

        assert receipt.namespace == SHOP
        assert receipt.commit_position == CommitPosition("tx:7")
        assert receipt.created_at_ms == clock.now_ms
        assert receipt.targets == 2
        assert receipt.inserted == 2
        assert receipt.batch == batch

    def test_receipt_keeps_the_batch_as_it_was(self, outbox):
        batch = batch_of("a")
        receipt = outbox.enqueue(SHOP, batch)

        batch.invalidate_key("b")

        assert receipt.batch == batch_of("a")

    def test_position_may_be_given_as_text_or_as_a_position(self, outbox):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        second = outbox.enqueue(
            SHOP, batch_of("b"), commit_position=CommitPosition("tx:7")
        )

        assert first.commit_position == second.commit_position
        assert len(outbox.rows(SHOP, commit_position="tx:7")) == 2

    def test_a_batch_beyond_the_limit_is_refused_before_anything_is_written(
        self, storage, clock
    ):
        outbox = self.make_outbox(storage, clock=clock, max_batch=3)
        outbox.install_schema()

        outbox.enqueue(SHOP, batch_of("a", "b", "c", "a", "b"))
        with pytest.raises(ValueError, match="batch has 4 intents, limit 3"):
            outbox.enqueue(SHOP, batch_of("d", "e", "f", "g"))
        with pytest.raises(ValueError, match="max_batch"):
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("d", "e", "f", "g"))

        assert keys_of(outbox.rows(SHOP)) == ["a", "b", "c"]
        outbox.close()

    @pytest.mark.parametrize("limit", [0, -1])
    def test_a_limit_that_no_batch_keeps_is_refused(self, storage, limit):
        with pytest.raises(ValueError, match="max_batch"):
            self.make_outbox(storage, max_batch=limit)

    @pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_copy_is_refused_with_what_to_do(self, outbox, take):
        with pytest.raises(TypeError, match=r"open_outbox\(url\)"):
            take(outbox)

    def test_duplicates_within_a_batch_are_one_row(self, outbox):
        outbox.enqueue(SHOP, batch_of("b", "a", "b", "b", "c", "a"))

        assert keys_of(outbox.rows(SHOP)) == ["b", "a", "c"]

    def test_same_position_and_target_is_enqueued_once(self, outbox):
        first = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        second = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")

        assert (first.inserted, second.inserted) == (2, 0)
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_only_new_targets_of_a_known_position_are_added(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        receipt = outbox.enqueue(SHOP, batch_of("b", "a"), commit_position="tx:7")

        assert (receipt.targets, receipt.inserted) == (2, 1)
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_a_row_that_waits_keeps_its_place_when_it_is_enqueued_again(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a", reason="first"), commit_position="tx:7")
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed([row], "e", backoff=60, dead=False)
        [before] = outbox.rows(SHOP)
        clock.advance(5)

        outbox.enqueue(SHOP, batch_of("a", reason="second"), commit_position="tx:7")

        [row] = outbox.rows(SHOP)
        assert (row.id, row.reason, row.attempts) == (before.id, "first", 1)
        assert row.available_at_ms == before.available_at_ms
        assert row.created_at_ms - before.created_at_ms <= 1
        assert row.last_error == ENQUEUED_AGAIN

    @pytest.mark.parametrize("end", ["published", "dead", "published inline"])
    def test_a_finished_row_is_carried_once_more_when_it_is_enqueued_again(
        self, outbox, clock, end
    ):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        if end == "published inline":
            outbox.publish_commit(first)
        else:
            [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            if end == "dead":
                outbox.mark_failed([row], "e", backoff=0, dead=True)
            else:
                outbox.mark_published([row])
        clock.advance(5)

        again = outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")

        status = outbox.status_for_commit(SHOP, "tx:7")
        assert (again.targets, again.inserted) == (2, 1)
        assert (status.pending, status.published, status.dead_lettered) == (2, 0, 0)
        assert outbox.status(SHOP).oldest_pending_age_ms == 0
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert sorted(keys_of(rows)) == ["a", "b"]
        assert {row.attempts for row in rows} == {0}
        assert {row.intent.value: row.last_error for row in rows} == {
            "a": ENQUEUED_AGAIN,
            "b": None,
        }

    def test_a_worker_that_holds_a_row_has_it_no_more_when_it_is_enqueued_again(
        self, outbox
    ):
        """It has applied the row, perhaps, before the second commit."""
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert outbox.mark_published(held) == 0
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        assert (row.attempts, row.was_abandoned) == (0, False)
        assert outbox.mark_published([row]) == 1

    def test_many_rows_of_a_known_position_are_carried_again(self, outbox):
        keys = numbered(1200)
        first = outbox.enqueue(SHOP, batch_of(*keys), commit_position="tx:7")
        outbox.publish_commit(first)

        again = outbox.enqueue(
            SHOP, batch_of(*keys[600:], *"abc"), commit_position="tx:7"
        )

        assert (again.targets, again.inserted) == (603, 3)
        assert outbox.status(SHOP).pending == 603
        errors = [row.last_error for row in outbox.rows(SHOP, limit=2000)]
        assert errors == [None] * 600 + [ENQUEUED_AGAIN] * 600 + [None] * 3

    def test_a_position_in_another_namespace_is_another(self, outbox):
        outbox.publish_commit(
            outbox.enqueue("other", batch_of("a"), commit_position="tx:7")
        )

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert outbox.status("other").pending == 0

    def test_a_flush_that_was_escalated_is_not_carried_again(self, outbox):
        outbox.escalate(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

        outbox.escalate(SHOP)

        states = [row.state for row in outbox.rows(SHOP)]
        assert states == [OutboxState.PUBLISHED, OutboxState.PENDING]

    def test_same_target_at_another_position_is_another_row(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:8")

        assert receipt.inserted == 1
        assert len(outbox.rows(SHOP)) == 2

    def test_enqueues_without_a_position_are_never_duplicates(self, outbox):
        receipts = [outbox.enqueue(SHOP, batch_of("a")) for _ in range(3)]

        assert [receipt.inserted for receipt in receipts] == [1, 1, 1]
        assert len({receipt.commit_position for receipt in receipts}) == 3

    def test_kinds_with_the_same_text_are_different_targets(self, outbox):
        batch = batch_of("x").invalidate_tag("x").invalidate_collection("x")
        batch.invalidate_entity("x", "").invalidate_entity("", "x").invalidate_key("")

        outbox.enqueue(SHOP, batch, commit_position="tx:7")

        assert [row.intent for row in outbox.rows(SHOP)] == list(batch.intents)

    def test_empty_batch_writes_nothing(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        receipt = outbox.enqueue(SHOP, InvalidationIntentBatch("nothing"))

        assert (receipt.targets, receipt.inserted) == (0, 0)
        assert statements == []
        outbox.close()

    def test_batch_is_one_insert_whatever_its_size(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        outbox.enqueue(SHOP, batch_of(*numbered(100)))

        assert len(statements) == 1
        assert statements[0].strip().lower().startswith("insert")
        outbox.close()

    def test_very_large_batch_is_enqueued_whole(self, outbox):
        keys = numbered(7501)

        receipt = outbox.enqueue(SHOP, batch_of(*keys), commit_position="tx:7")

        assert receipt.inserted == 7501
        assert keys_of(outbox.rows(SHOP, limit=10_000)) == keys

    def test_row_is_found_by_its_id(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.rows(SHOP)

        assert outbox.row(second.id) == second
        assert outbox.row(second.id + 1) is None
        assert outbox.row(0) is None
        assert first.id < second.id

    def test_rows_are_listed_page_by_page(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c", "d", "e"))

        first = outbox.rows(SHOP, limit=2)
        second = outbox.rows(SHOP, limit=2, after=first[-1].id)
        third = outbox.rows(SHOP, limit=2, after=second[-1].id)

        assert keys_of(first + second + third) == ["a", "b", "c", "d", "e"]
        assert outbox.rows(SHOP, after=third[-1].id) == []
        assert outbox.rows(SHOP, limit=0) == []

    def test_the_newest_rows_are_listed_from_the_end(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"), commit_position="tx:1")
        first, second, third = outbox.rows(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))
        pending = OutboxState.PENDING

        assert keys_of(outbox.rows(SHOP, newest=True)) == ["c", "b", "a"]
        assert keys_of(outbox.rows(SHOP, newest=True, limit=2)) == ["c", "b"]
        assert keys_of(outbox.rows(SHOP, newest=True, after=second.id)) == ["c"]
        assert keys_of(outbox.rows(SHOP, newest=True, state=pending)) == ["c", "b"]
        of_commit = outbox.rows(SHOP, newest=True, commit_position="tx:1", limit=1)
        assert keys_of(of_commit) == ["c"]

    def test_rows_are_listed_by_state_and_by_position(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:1")
        outbox.enqueue(SHOP, batch_of("c", "d"), commit_position="tx:2")
        rows = outbox.claim(SHOP, "w", limit=4, claim_ttl=30)
        outbox.mark_published([rows[0], rows[2]])

        done = OutboxState.PUBLISHED
        pending = OutboxState.PENDING
        assert keys_of(outbox.rows(SHOP, state=done)) == ["a", "c"]
        assert keys_of(outbox.rows(SHOP, state=pending)) == ["b", "d"]
        assert keys_of(outbox.rows(SHOP, commit_position="tx:2")) == ["c", "d"]
        assert keys_of(outbox.rows(SHOP, state=done, commit_position="tx:2")) == ["c"]
        assert outbox.rows(SHOP, commit_position="tx:3") == []

    def test_pages_of_a_state_and_of_a_position_follow_each_other(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"), commit_position="tx:1")
        first, second, third = outbox.rows(SHOP)

        for filters in ({"state": OutboxState.PENDING}, {"commit_position": "tx:1"}):
            assert outbox.rows(SHOP, limit=2, **filters) == [first, second]
            assert outbox.rows(SHOP, after=second.id, **filters) == [third]


class IdentifierContract(OutboxHooks):
    """What identifies is kept to the byte, or refused before anything is written."""

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
    def test_odd_text_is_kept_in_every_column(self, outbox, text):
        batch = InvalidationIntentBatch(text).invalidate_key(text).invalidate_tag(text)
        batch.invalidate_entity(text, text).invalidate_collection(text).flush()
        outbox.enqueue(text, batch, commit_position=text)

        rows = outbox.claim(text, text, limit=10, claim_ttl=30)
        outbox.mark_failed(rows, text, backoff=0, dead=True)

        stored = outbox.dead_letters(text)
        assert [row.intent for row in rows] == list(batch.intents)
        assert [row.intent for row in stored] == list(batch.intents)
        assert {row.namespace for row in stored} == {text}
        assert {row.commit_position.value for row in stored} == {text}
        assert {row.reason for row in stored} == {text}
        assert {row.claim_owner for row in rows} == {text}
        assert {row.last_error for row in stored} == {text}
        assert outbox.status_for_commit(text, text).dead_lettered == 5
        assert outbox.status(text).dead_lettered == 5

    @settings(max_examples=30, suppress_health_check=EVERY_OUTBOX)
    @given(texts=st.lists(st.text(max_size=50), min_size=1, max_size=8))
    def test_any_text_comes_back_as_it_went_in(self, outbox, texts):
        batch = batch_of(*texts)
        for text in texts:
            batch.invalidate_entity(text, texts[0])

        receipt = outbox.enqueue(SHOP, batch)

        rows = outbox.rows(SHOP, commit_position=receipt.commit_position)
        assert [row.intent for row in rows] == batch.distinct()

    @pytest.mark.parametrize("text", LOOKALIKES, ids=ascii)
    def test_texts_at_their_limits_are_kept_whole(self, outbox, text):
        def filled(limit: int) -> str:
            return text + "x" * (limit - len(text.encode()))

        namespace, position, target = filled(64), filled(128), filled(4096)
        batch = InvalidationIntentBatch(filled(255)).invalidate_key(target)
        batch.invalidate_tag(target).invalidate_entity(target, target)
        batch.invalidate_collection(target)

        outbox.enqueue(namespace, batch, commit_position=position)
        rows = outbox.claim(namespace, filled(255), limit=10, claim_ttl=30)

        assert [row.intent for row in rows] == list(batch.intents)
        assert {row.namespace for row in rows} == {namespace}
        assert {row.commit_position.value for row in rows} == {position}
        assert {row.reason for row in rows} == {filled(255)}
        assert {outbox.row(row.id).claim_owner for row in rows} == {filled(255)}
        assert outbox.status_for_commit(namespace, position).pending == 4

    def test_four_byte_characters_fill_the_limits(self, outbox):
        face = "\N{GRINNING FACE}"

        outbox.enqueue(face * 16, batch_of(face * 1024), commit_position=face * 32)

        [row] = outbox.claim(face * 16, face * 63, limit=1, claim_ttl=30)
        assert keys_of([row]) == [face * 1024]
        assert row.commit_position.value == face * 32

    def test_identifiers_that_look_alike_are_different(self, outbox):
        for text in LOOKALIKES:
            outbox.enqueue(text, batch_of(*LOOKALIKES), commit_position="tx")
            outbox.enqueue(SHOP, batch_of(*LOOKALIKES), commit_position=text)

        for text in LOOKALIKES:
            assert keys_of(outbox.rows(text)) == LOOKALIKES
            assert keys_of(outbox.rows(SHOP, commit_position=text)) == LOOKALIKES
            assert outbox.status(text).pending == len(LOOKALIKES)
            assert outbox.status_for_commit(SHOP, text).pending == len(LOOKALIKES)

    def test_empty_targets_are_targets(self, outbox):
        batch = batch_of("").invalidate_tag("").invalidate_collection("")
        batch.invalidate_entity("", "")

        outbox.enqueue(SHOP, batch)

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        assert [row.intent for row in rows] == list(batch.intents)

    @pytest.mark.parametrize("namespace", ["", "x" * 65, "\xe9" * 33], ids=ascii)
    def test_namespace_beyond_its_limits_is_refused_everywhere(self, outbox, namespace):
        length = len(namespace.encode())
        expected = rf"^namespace is {length} bytes.*\b64$"

        for call in (
            lambda: outbox.enqueue(namespace, batch_of("a")),
            lambda: outbox.enqueue(namespace, InvalidationIntentBatch()),
            lambda: outbox.claim(namespace, "w", limit=1, claim_ttl=30),
            lambda: outbox.claim(namespace, "w", limit=0, claim_ttl=30),
            lambda: outbox.status(namespace),
            lambda: outbox.status_for_commit(namespace, "tx"),
            lambda: outbox.rows(namespace),
            lambda: outbox.dead_letters(namespace),
            lambda: outbox.reset_dead_letters(namespace),
            lambda: outbox.discard_dead_letters(namespace, []),
            lambda: outbox.purge_published(namespace, older_than=0),
            lambda: outbox.escalate(namespace),
        ):
            with pytest.raises(ValueError, match=expected):
                call()

        assert self.sql(outbox, "select count(*) from hydracache_outbox") == [(0,)]

    @pytest.mark.parametrize("position", ["", "x" * 129, "\xe9" * 65], ids=ascii)
    def test_position_beyond_its_limits_is_refused(self, outbox, position):
        length = len(position.encode())
        expected = rf"^commit_position is {length} bytes.*\b128$"

        with pytest.raises(ValueError, match=expected):
            outbox.enqueue(SHOP, batch_of("a"), commit_position=position)
        with pytest.raises(ValueError, match=expected):
            outbox.status_for_commit(SHOP, position)
        with pytest.raises(ValueError, match=expected):
            outbox.rows(SHOP, commit_position=position)

        assert outbox.rows(SHOP) == []

    @pytest.mark.parametrize("owner", ["", "x" * 256, "\xe9" * 128], ids=ascii)
    def test_owner_beyond_its_limits_is_refused(self, outbox, owner):
        outbox.enqueue(SHOP, batch_of("a"))

        with pytest.raises(ValueError, match=r"^owner is \d+ bytes.*\b255$"):
            outbox.claim(SHOP, owner, limit=1, claim_ttl=30)

        assert outbox.rows(SHOP)[0].claim_owner is None

    @pytest.mark.parametrize(
        "intent",
        [
            InvalidationIntent("bogus", "a"),
            InvalidationIntent("entity", "42"),
            InvalidationIntent("key", "x" * 4097),
            InvalidationIntent("key", "\ud800"),
        ],
        ids=["kind", "entity", "too long", "surrogate"],
    )
    def test_intent_made_by_hand_is_checked_like_any_other(self, outbox, intent):
        with pytest.raises(ValueError):
            outbox.enqueue(SHOP, batch_of("a").intent(intent))

        assert outbox.rows(SHOP) == []

    def test_lone_surrogates_are_refused_before_anything_is_written(self, outbox):
        for call in (
            lambda: outbox.enqueue("\ud800", batch_of("a")),
            lambda: outbox.enqueue(SHOP, batch_of("a"), commit_position="tx\udfff"),
            lambda: outbox.enqueue(SHOP, batch_of("a", "\ud83d")),
            lambda: outbox.enqueue(SHOP, batch_of("a", reason="\ud83d")),
            lambda: outbox.claim(SHOP, "\ud800", limit=1, claim_ttl=30),
        ):
            with pytest.raises(ValueError, match="surrogate"):
                call()

        assert self.sql(outbox, "select count(*) from hydracache_outbox") == [(0,)]

    def test_member_of_a_str_enum_means_its_value(self, outbox):
        batch = batch_of(Name.KEY).invalidate_entity(Name.SHOP, Name.KEY)

        outbox.enqueue(Name.SHOP, batch, commit_position=Name.POSITION)

        rows = outbox.claim("shop", Name.OWNER, limit=2, claim_ttl=30)
        assert [row.intent for row in rows] == list(
            batch_of("user:42").invalidate_entity("shop", "user:42")
        )
        assert [row.target_hash for row in rows] == [
            row.intent.target_hash_hex() for row in rows
        ]
        assert {outbox.row(row.id).claim_owner for row in rows} == {"worker"}
        assert outbox.status_for_commit(Name.SHOP, "tx:7").pending == 2

    WRONG_TYPES = {
        "namespace int": lambda outbox: outbox.enqueue(5, batch_of("a")),
        "namespace bytes": lambda outbox: outbox.enqueue(b"shop", batch_of("a")),
        "namespace None": lambda outbox: outbox.status(None),
        "batch list": lambda outbox: outbox.enqueue(SHOP, ["a"]),
        "batch intent": lambda outbox: outbox.enqueue(SHOP, InvalidationIntent.flush()),
        "position int": lambda outbox: outbox.enqueue(
            SHOP, batch_of("a"), commit_position=7
        ),
        "awaited position int": lambda outbox: outbox.status_for_commit(SHOP, 7),
        "owner int": lambda outbox: outbox.claim(SHOP, 7, limit=1, claim_ttl=30),
        "limit float": lambda outbox: outbox.claim(SHOP, "w", limit=1.0, claim_ttl=30),
        "limit str": lambda outbox: outbox.claim(SHOP, "w", limit="1", claim_ttl=30),
        "limit bool": lambda outbox: outbox.claim(SHOP, "w", limit=True, claim_ttl=30),
        "ttl str": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl="30"),
        "ttl bool": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl=True),
        "ttl None": lambda outbox: outbox.claim(SHOP, "w", limit=1, claim_ttl=None),
        "backoff None": lambda outbox: outbox.mark_failed(
            [], "e", backoff=None, dead=False
        ),
        "delay str": lambda outbox: outbox.release([], delay="1"),
        "receipt str": lambda outbox: outbox.publish_commit("hc1:shop:tx:5:1"),
        "row id str": lambda outbox: outbox.row("1"),
        "row id bool": lambda outbox: outbox.row(True),
        "rows limit str": lambda outbox: outbox.rows(SHOP, limit="all"),
        "rows after None": lambda outbox: outbox.rows(SHOP, after=None),
        "rows state str": lambda outbox: outbox.rows(SHOP, state="dead"),
        "reset ids str": lambda outbox: outbox.reset_dead_letters(SHOP, ["1"]),
        "discard ids float": lambda outbox: outbox.discard_dead_letters(SHOP, [1.0]),
        "age str": lambda outbox: outbox.purge_published(SHOP, older_than="a day"),
        "purge limit bool": lambda outbox: outbox.purge_published(
            SHOP, older_than=1, limit=True
        ),
    }

    @pytest.mark.parametrize("call", WRONG_TYPES.values(), ids=WRONG_TYPES)
    def test_argument_of_a_wrong_type_is_a_type_error(self, outbox, call):
        outbox.enqueue(SHOP, batch_of("here"))
        before = outbox.rows(SHOP)

        with pytest.raises(TypeError):
            call(outbox)

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize(
        "seconds",
        [-0.001, -1, float("nan"), float("inf"), -float("inf"), 1e300, 10**400],
        ids=["-0.001", "-1", "nan", "inf", "-inf", "1e300", "10**400"],
    )
    def test_duration_out_of_range_is_a_value_error(self, outbox, seconds):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        before = outbox.rows(SHOP)

        for field, call in {
            "claim_ttl": lambda: outbox.claim(SHOP, "w", limit=1, claim_ttl=seconds),
            "backoff": lambda: outbox.mark_failed(
                [row], "e", backoff=seconds, dead=False
            ),
            "delay": lambda: outbox.release([row], delay=seconds),
            "older_than": lambda: outbox.purge_published(SHOP, older_than=seconds),
            "timeout": lambda: outbox.publish_commit(receipt, timeout=seconds),
        }.items():
            with pytest.raises(ValueError, match=field):
                call()

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("seconds", [0, 0.0, 0.0004])
    def test_claim_that_would_not_last_a_millisecond_is_refused(self, outbox, seconds):
        outbox.enqueue(SHOP, batch_of("a"))

        with pytest.raises(ValueError, match="claim_ttl"):
            outbox.claim(SHOP, "w", limit=1, claim_ttl=seconds)

        assert outbox.rows(SHOP)[0].claim_token is None

    @pytest.mark.parametrize("number", [-1, -(10**30), 2**63, 10**400], ids=str)
    def test_number_out_of_range_is_a_value_error(self, outbox, number):
        outbox.enqueue(SHOP, batch_of("a"))
        before = outbox.rows(SHOP)

        for call in (
            lambda: outbox.claim(SHOP, "w", limit=number, claim_ttl=30),
            lambda: outbox.rows(SHOP, limit=number),
            lambda: outbox.rows(SHOP, after=number),
            lambda: outbox.row(number),
            lambda: outbox.reset_dead_letters(SHOP, [number]),
            lambda: outbox.discard_dead_letters(SHOP, [number]),
            lambda: outbox.purge_published(SHOP, older_than=0, limit=number),
        ):
            with pytest.raises(ValueError):
                call()

        assert outbox.rows(SHOP) == before


class ClaimContract(OutboxHooks):
    """A due row is held by one claim at a time, for as long as that claim said."""

    def test_claimed_rows_carry_their_claim(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        rows = outbox.claim(SHOP, "worker-1", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["a", "b"]
        assert {row.claim_owner for row in rows} == {"worker-1"}
        assert {row.claimed_at_ms for row in rows} == {clock.now_ms}
        assert {row.claim_until_ms for row in rows} == {clock.now_ms + 30_000}
        assert len({row.claim_token for row in rows}) == 1
        assert {row.state for row in rows} == {OutboxState.PENDING}

    def test_claimed_rows_are_the_stored_rows(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", reason="r").invalidate_entity("user", "1"))

        rows = outbox.claim(SHOP, "worker-1", limit=10, claim_ttl=30)

        assert rows == outbox.rows(SHOP)
        assert [claim_of(row) for row in rows] == [
            claim_of(row) for row in outbox.rows(SHOP)
        ]

    def test_claim_of_no_rows_does_not_touch_storage(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert outbox.claim(SHOP, "w", limit=0, claim_ttl=30) == []

        assert statements == []
        outbox.close()

    def test_claim_takes_the_longest_due_up_to_its_limit(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))

        first = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)

        assert keys_of(first) == ["a", "b"]
        assert keys_of(second) == ["c"]
        assert outbox.claim(SHOP, "w", limit=2, claim_ttl=30) == []

    def test_large_claim_takes_everything_in_order(self, outbox):
        keys = numbered(1200)
        outbox.enqueue(SHOP, batch_of(*keys))

        rows = outbox.claim(SHOP, "w", limit=2**62, claim_ttl=30)

        assert keys_of(rows) == keys
        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

    def test_rows_are_claimed_in_the_order_they_became_due(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("failed"))
        [failed] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed([failed], "e", backoff=10, dead=False)
        clock.advance(5)
        outbox.enqueue(SHOP, batch_of("later"))
        clock.advance(10)

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["later", "failed"]

    def test_rows_due_at_once_are_claimed_in_the_order_of_their_creation(
        self, outbox, clock
    ):
        """Order of creation and order of ids differ: the clock has been set back."""
        outbox.enqueue(SHOP, batch_of("created last"))
        clock.advance(-5)
        outbox.enqueue(SHOP, batch_of("created first"))
        clock.advance(5)
        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.release(rows, delay=1)
        clock.advance(1)

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["created first", "created last"]
        assert rows[0].id > rows[1].id

    def test_rows_due_and_created_at_once_are_claimed_by_id(self, outbox):
        for key in ("c", "a", "b"):
            outbox.enqueue(SHOP, batch_of(key))

        assert keys_of(outbox.claim(SHOP, "w", limit=2, claim_ttl=30)) == ["c", "a"]

    def test_claimed_row_is_not_claimed_again(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        clock.advance(29.999)

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

    def test_expired_claim_can_be_claimed_again(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        [first] = outbox.claim(SHOP, "w1", limit=1, claim_ttl=30)
        clock.advance(30)

        [second] = outbox.claim(SHOP, "w2", limit=1, claim_ttl=30)

        assert second.id == first.id
        assert second.claim_owner == "w2"
        assert second.claim_token != first.claim_token

    def test_shorter_ttl_of_another_cannot_steal_a_claim(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w1", limit=1, claim_ttl=30)
        clock.advance(29.999)

        assert outbox.claim(SHOP, "w2", limit=1, claim_ttl=0.001) == []

    def test_longer_ttl_of_another_does_not_have_to_wait(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w1", limit=1, claim_ttl=1)
        clock.advance(1)

        assert keys_of(outbox.claim(SHOP, "w2", limit=1, claim_ttl=3600)) == ["a"]

    @pytest.mark.parametrize("alone, attempts", [(True, 2), (False, 0)])
    def test_an_expired_claim_counts_an_attempt_if_the_row_was_tried_alone(
        self, outbox, clock, alone, attempts
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        for _ in range(2):
            rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            assert not alone or outbox.mark_tried_alone(rows) == 1
            clock.advance(31)

        [again] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        assert again.attempts == attempts
        assert again.last_error == ABANDONED
        assert again.was_abandoned
        assert outbox.row(again.id) == again

    def test_that_a_row_was_tried_alone_is_forgotten_with_its_claim(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        ends = (
            lambda rows: outbox.release(rows),
            lambda rows: outbox.release(rows, error="away"),
            lambda rows: outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7"),
            lambda rows: clock.advance(31),
        )
        attempts = []

        for end in ends:
            rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            outbox.mark_tried_alone(rows)
            end(rows)
            outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            clock.advance(31)
            [row] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
            attempts.append(row.attempts)
            outbox.release([row])

        assert attempts == [0, 0, 0, 1]

    def test_an_abandoned_row_that_was_not_tried_is_so_still(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        clock.advance(31)
        rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        outbox.release(rows)
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        [row] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        assert row.was_abandoned and outbox.row(row.id) == row

    def test_what_was_written_at_a_row_does_not_decide(self, outbox, clock):
        """However an error is worded: it is for people."""
        outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        outbox.release(rows, delay=60, error=ABANDONED, waits_for="one")

        outbox.make_due(SHOP, waits_for="two", limit=10)
        outbox.make_due(SHOP, waits_for=ABANDONED, limit=10)

        assert outbox.due_namespaces([SHOP]) == []
        [row] = outbox.rows(SHOP)
        assert (row.was_abandoned, row.waits_for) == (False, "one")

    def test_to_note_that_rows_are_tried_alone_is_for_their_holder(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        late = outbox.claim(SHOP, "worker", limit=1, claim_ttl=1)
        clock.advance(1)
        held = outbox.claim(SHOP, "worker", limit=1, claim_ttl=30)

        assert outbox.mark_tried_alone(held) == 1
        assert outbox.mark_tried_alone(late) == 0
        assert outbox.mark_tried_alone([]) == 0

        [row] = outbox.rows(SHOP)
        assert claim_of(row) == claim_of(held[0])
        assert outbox.mark_published(held) == 1

    def test_a_claim_that_was_given_back_counts_none(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        [row] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        outbox.release([row])
        clock.advance(31)

        [again] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        assert again.attempts == 0
        assert again.last_error is None
        assert not again.was_abandoned

    def test_an_error_after_it_takes_its_place(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        clock.advance(31)
        rows = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)

        [again] = outbox.claim(SHOP, "worker", limit=10, claim_ttl=30)

        assert (again.attempts, again.last_error) == (1, "refused")
        assert not again.was_abandoned

    def test_expired_claims_are_taken_over_in_their_old_order(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        outbox.claim(SHOP, "w1", limit=1, claim_ttl=1)
        clock.advance(1)

        assert keys_of(outbox.claim(SHOP, "w2", limit=2, claim_ttl=30)) == ["a", "b"]

    def test_claims_keep_to_their_namespace(self, outbox):
        outbox.enqueue(SHOP, batch_of("mine"))
        outbox.enqueue("other", batch_of("theirs"))

        assert keys_of(outbox.claim(SHOP, "w", limit=10, claim_ttl=30)) == ["mine"]
        assert outbox.claim("third", "w", limit=10, claim_ttl=30) == []
        assert outbox.rows("other")[0].claim_owner is None

    def test_published_and_dead_rows_are_never_claimed(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([first])
        outbox.mark_failed([second], "e", backoff=0, dead=True)
        clock.advance(10**6)

        assert outbox.claim(SHOP, "w", limit=10, claim_ttl=30) == []

    def test_claimed_row_has_all_that_is_stored(self, outbox):
        batch = InvalidationIntentBatch("why, \0 \xe9\n").invalidate_entity(
            "a,b", "1\n"
        )
        outbox.enqueue(SHOP, batch, commit_position="tx,\xe9\n")
        [untried] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        stored_untried = outbox.row(untried.id)
        outbox.mark_failed([untried], "it, \xe9\n", backoff=0, dead=False)

        [tried] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert untried == stored_untried and untried.last_error is None
        assert tried == outbox.row(tried.id)
        assert (tried.attempts, tried.last_error) == (1, "it, \xe9\n")
        assert (tried.reason, tried.commit_position.value) == (
            "why, \0 \xe9\n",
            "tx,\xe9\n",
        )
        assert tried.target_hash == batch.intents[0].target_hash_hex()

    def test_each_claim_is_told_apart_by_its_token(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(20)))

        claims = [
            outbox.claim(SHOP, "same name", limit=1, claim_ttl=30) for _ in range(20)
        ]

        assert len({row.claim_token for [row] in claims}) == 20

    def test_threads_that_claim_at_once_never_share_a_row(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(400)))

        def claim_all(index: int) -> list[int]:
            taken: list[int] = []
            for rows in claims(outbox, limit=7):
                taken += [row.id for row in rows]
            return taken

        taken = in_threads(8, claim_all)

        ids = [id for each in taken for id in each]
        assert sorted(ids) == [row.id for row in outbox.rows(SHOP, limit=1000)]

    def test_threads_that_take_over_at_once_never_share_a_row(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of(*numbered(40)))
        outbox.claim(SHOP, "killed", limit=40, claim_ttl=1)
        clock.advance(1)

        taken = in_threads(
            8, lambda _: outbox.claim(SHOP, "same name", limit=10, claim_ttl=30)
        )

        ids = [row.id for rows in taken for row in rows]
        assert sorted(ids) == [row.id for row in outbox.rows(SHOP)]

    def test_threads_finish_every_row_once(self, outbox):
        """Each row fails once, is given back once, and is published then."""
        outbox.enqueue(SHOP, batch_of(*numbered(200)))

        def work(index: int) -> int:
            published = 0
            for rows in claims(outbox, limit=9):
                fresh = [row for row in rows if row.attempts == 0]
                outbox.mark_failed(fresh, "once more", backoff=0, dead=False)
                failed = [row for row in rows if row.attempts]
                outbox.release(failed[5:])
                published += outbox.mark_published(failed[:5])
            return published

        published = sum(in_threads(8, work))
        # A thread may have given rows back when the others had found nothing more.
        published += work(0)

        assert published == 200
        rows = outbox.rows(SHOP, limit=1000)
        assert {(row.state, row.attempts) for row in rows} == {
            (OutboxState.PUBLISHED, 1)
        }


class DueContract(OutboxHooks):
    """One question tells which namespaces a claim would find rows in."""

    def test_namespaces_with_a_row_due_are_told_in_the_order_asked(self, outbox):
        for namespace in (SHOP, "blog", "wiki"):
            outbox.enqueue(namespace, batch_of("a", "b"))

        due = outbox.due_namespaces(["wiki", "empty", SHOP])

        assert due == ["wiki", SHOP]

    def test_namespaces_are_told_once_each(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        assert outbox.due_namespaces([SHOP, "blog", SHOP]) == [SHOP]

    def test_only_what_a_claim_would_take_is_due(self, outbox, clock):
        for namespace in ("claimed", "backoff", "published", "dead"):
            outbox.enqueue(namespace, batch_of("a"))
        names = ["claimed", "backoff", "published", "dead"]
        held, failed, done, given_up = (
            outbox.claim(name, "w", limit=1, claim_ttl=30) for name in names
        )
        outbox.mark_failed(failed, "e", backoff=60, dead=False)
        outbox.mark_published(done)
        outbox.mark_failed(given_up, "e", backoff=0, dead=True)

        at_once = outbox.due_namespaces(names)
        clock.advance(31)
        after_the_claim = outbox.due_namespaces(names)
        clock.advance(31)
        after_the_backoff = outbox.due_namespaces(names)

        assert at_once == []
        assert after_the_claim == ["claimed"]
        assert after_the_backoff == ["claimed", "backoff"]

    def test_paused_namespace_is_not_due(self, outbox):
        for namespace in (SHOP, "blog"):
            outbox.enqueue(namespace, batch_of("a"))

        outbox.pause(SHOP)
        while_paused = outbox.due_namespaces([SHOP, "blog"])
        outbox.resume(SHOP)

        assert while_paused == ["blog"]
        assert outbox.due_namespaces([SHOP, "blog"]) == [SHOP, "blog"]

    @pytest.mark.parametrize("look", ["claim", "due_namespaces"])
    def test_a_row_from_the_future_is_due_at_once(self, outbox, clock, caplog, look):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("a", "b"))
        clock.advance(-86_400)

        if look == "due_namespaces":
            assert outbox.due_namespaces(["other", SHOP]) in ([], [SHOP])
            assert outbox.due_namespaces(["other", SHOP]) == [SHOP]
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

        assert keys_of(rows) == ["a", "b"]
        [record] = [each for each in caplog.records if "ahead" in each.getMessage()]
        assert record.levelname == "WARNING"
        assert "2 rows of namespace shop were dated up to 86400.0 s" in (
            record.getMessage()
        )

    def test_a_row_from_the_future_that_is_enqueued_again_is_due_at_once(
        self, outbox, clock
    ):
        for finished in (False, True):
            clock.advance(86_400)
            first = outbox.enqueue(SHOP, batch_of("a"), commit_position=str(finished))
            if finished:
                outbox.publish_commit(first)
            outbox.enqueue(SHOP, batch_of("a"), commit_position=str(finished))
            clock.advance(-86_400)

        assert len(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == 2

    def test_more_rows_from_the_future_than_a_statement_takes_are_due(
        self, outbox, clock
    ):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of(*numbered(1200)))
        clock.advance(-86_400)

        taken = [row for rows in claims(outbox, limit=300) for row in rows]

        assert sorted(keys_of(taken)) == sorted(numbered(1200))

    def test_what_waits_for_a_moment_of_its_own_is_left_to_it(self, outbox, clock):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("from the future"))
        clock.advance(-86_400)
        outbox.escalate(SHOP)
        outbox.enqueue(SHOP, batch_of("failed", "released"))
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        by_key = dict(zip(keys_of(rows), rows))
        outbox.mark_published([by_key[None]])
        outbox.mark_failed(
            [by_key["failed"], by_key["from the future"]], "e", backoff=60, dead=False
        )
        outbox.release([by_key["released"]], delay=60)
        outbox.escalate(SHOP)  # a minute later
        outbox._ahead_at.clear()

        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []

    def test_rows_from_the_future_are_not_looked_for_at_each_claim(
        self, storage, clock, monkeypatch
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        for _ in range(3):
            outbox.claim(SHOP, "w", limit=1, claim_ttl=1)

        assert len(statements) == 3
        outbox.close()

    def test_question_is_one_statement(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        names = [f"namespace:{n}" for n in range(60)]
        for _ in names:
            outbox.due_namespaces(names)
        # Each has been looked at for rows that are dated ahead, which is done for now.
        statements.clear()
        clock.advance(1)

        outbox.due_namespaces(names)

        assert len(statements) == 1

    def test_hundreds_of_namespaces_can_be_asked_for(self, outbox):
        names = [f"namespace:{n}" for n in range(450)]
        for name in (names[3], names[449]):
            outbox.enqueue(name, batch_of("a"))

        assert outbox.due_namespaces(names) == [names[3], names[449]]

    def test_question_for_nothing_does_not_touch_storage(
        self, storage, clock, monkeypatch
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert outbox.due_namespaces([]) == []
        assert statements == []

    def test_namespace_beyond_its_limits_is_refused(self, outbox):
        with pytest.raises(ValueError, match="namespace"):
            outbox.due_namespaces([SHOP, "x" * 65])


class MarkContract(OutboxHooks):
    """Only the claim that holds a row can finish it or give it back."""

    def claimed(
        self, outbox: InvalidationOutbox, *keys: str, claim_ttl: float = 30
    ) -> list[OutboxRow]:
        outbox.enqueue(SHOP, batch_of(*keys or ("a",)))
        return outbox.claim(SHOP, "w", limit=1000, claim_ttl=claim_ttl)

    def test_published_row_is_finished(self, outbox, clock):
        [row] = self.claimed(outbox)
        clock.advance(2)

        assert outbox.mark_published([row]) == 1

        stored = outbox.row(row.id)
        assert stored.is_published
        assert stored.published_at_ms == clock.now_ms
        assert claim_of(stored) is None

    def test_publishing_clears_the_error_and_keeps_the_attempts(self, outbox):
        rows = self.claimed(outbox)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.mark_published(rows)

        [stored] = outbox.rows(SHOP)
        assert stored.last_error is None
        assert stored.attempts == 1

    def test_failed_row_waits_for_its_backoff(self, outbox, clock):
        [row] = self.claimed(outbox)
        clock.advance(1)

        assert outbox.mark_failed([row], "refused", backoff=2.5, dead=False) == 1

        stored = outbox.row(row.id)
        assert stored.state is OutboxState.PENDING
        assert stored.attempts == 1
        assert stored.last_error == "refused"
        assert stored.available_at_ms == clock.now_ms + 2500
        assert claim_of(stored) is None
        clock.advance(2.499)
        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []
        clock.advance(0.001)
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_every_failure_counts_an_attempt_and_keeps_the_last_error(self, outbox):
        self.claimed(outbox)
        [row] = outbox.rows(SHOP)

        for n in range(3):
            outbox.mark_failed([row], f"error {n}", backoff=0, dead=False)
            [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert row.attempts == 3
        assert row.last_error == "error 2"

    def test_dead_row_is_counted_and_keeps_its_error(self, outbox):
        [row] = self.claimed(outbox)

        assert outbox.mark_failed([row], "refused", backoff=9, dead=True) == 1

        stored = outbox.row(row.id)
        assert stored.is_dead_lettered
        assert stored.attempts == 1
        assert stored.last_error == "refused"
        assert claim_of(stored) is None

    def test_several_rows_fail_together(self, outbox):
        rows = self.claimed(outbox, "a", "b", "c")

        assert outbox.mark_failed(rows, "refused", backoff=1, dead=False) == 3

        assert {row.attempts for row in outbox.rows(SHOP)} == {1}

    def test_long_error_is_cut_and_says_so(self, outbox):
        rows = self.claimed(outbox)

        outbox.mark_failed(rows, "\xe9" * 1007, backoff=0, dead=True)

        [row] = outbox.rows(SHOP)
        assert row.last_error.startswith("\xe9" * 1000)
        assert row.last_error.endswith("(7 more characters)")

    def test_error_that_is_no_utf_8_is_kept_readable(self, outbox):
        rows = self.claimed(outbox)

        outbox.mark_failed(rows, "bad \ud800 reply", backoff=0, dead=True)

        assert outbox.rows(SHOP)[0].last_error == r"bad \ud800 reply"

    def test_released_row_keeps_its_place_and_counts_no_attempt(self, outbox, clock):
        self.claimed(outbox, "a", "b")
        first, second = outbox.rows(SHOP)
        clock.advance(3)

        assert outbox.release([second, first]) == 2

        stored = outbox.row(first.id)
        assert stored.attempts == 0
        assert claim_of(stored) is None
        assert stored.available_at_ms == first.available_at_ms
        assert keys_of(outbox.claim(SHOP, "w", limit=2, claim_ttl=30)) == ["a", "b"]

    def test_released_row_waits_for_its_delay(self, outbox, clock):
        [row] = self.claimed(outbox)
        clock.advance(1)

        outbox.release([row], delay=0.5)

        clock.advance(0.499)
        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []
        clock.advance(0.001)
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_release_may_say_why(self, outbox):
        rows = self.claimed(outbox)

        outbox.release(rows, error="memcached is away")

        assert outbox.rows(SHOP)[0].last_error == "memcached is away"

    def test_release_without_an_error_keeps_the_last_one(self, outbox):
        rows = self.claimed(outbox)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.release(rows)

        assert outbox.rows(SHOP)[0].last_error == "refused"

    def test_a_row_tells_which_node_it_waits_for_until_it_fails_otherwise(self, outbox):
        node = "c\xe9:1"
        rows = self.claimed(outbox)
        outbox.release(rows, error="away", waits_for=node)
        found = []

        [waiting] = outbox.rows(SHOP)
        for _ in range(2):
            rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            found.append(rows[0].waits_for)
            outbox.release(rows)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "refused", backoff=0, dead=False)

        assert waiting.waits_for == node and found == [node, node]
        assert outbox.rows(SHOP)[0].waits_for is None

    def test_nothing_of_a_rows_trouble_is_left_when_it_is_published(
        self, outbox, clock
    ):
        rows = self.claimed(outbox)
        outbox.release(rows, error="away", waits_for="one")
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        clock.advance(31)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.mark_published(rows)

        [row] = outbox.rows(SHOP)
        assert (row.last_error, row.waits_for, row.was_abandoned) == (None, None, False)

    def test_a_node_has_an_error_that_says_why_it_is_waited_for(self, outbox):
        rows = self.claimed(outbox)

        with pytest.raises(ValueError, match="waits_for needs an error"):
            outbox.release(rows, waits_for="one")

    @pytest.mark.parametrize("name", ["n" * 300, "\xe9" * 200, "bad \ud800"])
    def test_a_node_is_found_again_whatever_its_name(self, outbox, name):
        rows = self.claimed(outbox)

        outbox.release(rows, delay=60, error="away", waits_for=name)
        outbox.make_due(SHOP, waits_for=name, limit=10)

        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        assert row.waits_for == kept_node(name) != name

    def put_off(self, outbox, delay: float, node: str, *keys: str):
        rows = self.claimed(outbox, *keys)
        outbox.release(rows, delay=delay, error="away", waits_for=node)
        return rows

    def test_rows_that_wait_for_what_is_back_are_made_due(self, outbox, clock):
        self.put_off(outbox, 60, "one", "a", "b")
        self.put_off(outbox, 60, "one two", "c")
        self.put_off(outbox, 60, "ONE", "d")

        reached = outbox.make_due(SHOP, waits_for="one", limit=10)

        assert reached is None
        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a", "b"]
        assert [row.attempts for row in outbox.rows(SHOP)] == [0, 0, 0, 0]

    def test_they_are_made_due_a_few_at_a_time_the_first_to_be_due_first(
        self, outbox, clock
    ):
        for delay, keys in ((30, "ef"), (10, "ab"), (20, "cd")):
            self.put_off(outbox, delay, "one", *keys)
        began = clock.now_ms

        taken, reached, from_ms = [], [], 0
        while from_ms is not None:
            from_ms = outbox.make_due(SHOP, waits_for="one", limit=3, from_ms=from_ms)
            reached.append(from_ms)
            rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
            taken.append(sorted(keys_of(rows)))

        # Rows that were to be due in the same moment are not told apart.
        assert taken[0] in (["a", "b", "c"], ["a", "b", "d"])
        assert taken[1] in (["c", "e", "f"], ["d", "e", "f"])
        assert sorted(sum(taken, [])) == list("abcdef")
        assert reached == [began + 20_000, began + 30_000, None]

    def test_nothing_else_is_made_due(self, outbox, clock):
        self.put_off(outbox, 60, "one", "waits")
        retried, dead, published, held = self.claimed(
            outbox, "retried", "dead", "published", "held"
        )
        outbox.mark_failed([retried], "of its own", backoff=60, dead=False)
        outbox.mark_failed([dead], "away", backoff=0, dead=True)
        outbox.mark_published([published])
        outbox.enqueue("other", batch_of("elsewhere"))
        rows = outbox.claim("other", "w", limit=1, claim_ttl=30)
        outbox.release(rows, delay=60, error="away", waits_for="one")
        before = {row.id: row for row in outbox.rows(SHOP)}

        outbox.make_due(SHOP, waits_for="one", limit=100)

        after = {row.id: row for row in outbox.rows(SHOP)}
        changed = [id for id in before if after[id] != before[id]]
        assert keys_of(outbox.rows_by_id(SHOP, changed)) == ["waits"]
        assert outbox.due_namespaces([SHOP, "other"]) == [SHOP]
        assert outbox.mark_published([held]) == 1

    def test_rows_that_failed_since_they_waited_keep_their_backoff(self, outbox, clock):
        self.put_off(outbox, 1, "one", "a")
        clock.advance(1)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "of its own", backoff=60, dead=False)

        outbox.make_due(SHOP, waits_for="one", limit=10)

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

    def test_to_make_due_asks_for_a_limit_and_takes_none(self, outbox):
        self.put_off(outbox, 60, "one", "a")

        assert outbox.make_due(SHOP, waits_for="one", limit=0) is None

        assert outbox.due_namespaces([SHOP]) == []
        with pytest.raises(ValueError, match="limit"):
            outbox.make_due(SHOP, waits_for="one", limit=-1)

    # Of a worker whose claim was lost, each with what must not happen.
    LATE = {
        "published": lambda outbox, rows: outbox.mark_published(rows),
        "failed": lambda outbox, rows: outbox.mark_failed(
            rows, "late", backoff=99, dead=False
        ),
        "dead": lambda outbox, rows: outbox.mark_failed(
            rows, "late", backoff=0, dead=True
        ),
        "released": lambda outbox, rows: outbox.release(rows, delay=99, error="late"),
    }

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_claim_taken_over_changes_nothing(self, outbox, clock, mark):
        late = self.claimed(outbox, "a", "b", claim_ttl=1)
        clock.advance(1)
        # The owner's name is the same: the claim's token alone tells them apart.
        held = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        before = outbox.rows(SHOP)

        assert mark(outbox, late) == 0

        assert outbox.rows(SHOP) == before
        assert outbox.mark_published(held) == 2

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_row_that_another_finished_changes_nothing(
        self, outbox, clock, mark
    ):
        late = self.claimed(outbox, "done", "given up", claim_ttl=1)
        clock.advance(1)
        done, given_up = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([done])
        outbox.mark_failed([given_up], "e", backoff=0, dead=True)
        before = outbox.rows(SHOP)

        assert mark(outbox, late) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_row_that_another_gave_back_changes_nothing(
        self, outbox, clock, mark
    ):
        late = self.claimed(outbox, "a", "b", claim_ttl=1)
        clock.advance(1)
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.release([first])
        outbox.mark_failed([second], "e", backoff=0, dead=False)
        before = outbox.rows(SHOP)

        assert mark(outbox, late) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_second_mark_of_the_same_claim_changes_nothing(self, outbox, mark):
        rows = self.claimed(outbox)
        outbox.mark_published(rows)
        before = outbox.rows(SHOP)

        assert mark(outbox, rows) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_a_reset_dead_letter_changes_nothing(self, outbox, mark):
        rows = self.claimed(outbox)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        outbox.reset_dead_letters(SHOP)
        before = outbox.rows(SHOP)

        assert mark(outbox, rows) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_expired_claim_that_nobody_took_over_can_still_be_marked(
        self, outbox, clock, mark
    ):
        rows = self.claimed(outbox, claim_ttl=1)
        clock.advance(100)

        assert mark(outbox, rows) == 1

        assert outbox.rows(SHOP)[0].claim_token is None

    def test_mark_counts_only_the_rows_still_held(self, outbox, clock):
        lost, kept = self.claimed(outbox, "lost", "kept", claim_ttl=1)
        clock.advance(1)
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.mark_published([lost, kept]) == 1

        assert [row.state for row in outbox.rows(SHOP)] == [
            OutboxState.PENDING,
            OutboxState.PUBLISHED,
        ]

    def test_rows_of_two_claims_are_marked_together(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        first = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)

        assert outbox.mark_published([second[0], first[0], second[1]]) == 3

        assert outbox.status(SHOP).pending == 0

    def test_row_marked_twice_in_one_call_counts_once(self, outbox):
        [row] = self.claimed(outbox)

        assert outbox.mark_failed([row, row], "e", backoff=0, dead=False) == 1

        assert outbox.row(row.id).attempts == 1

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_more_rows_than_one_statement_takes_are_marked(self, outbox, mark):
        rows = self.claimed(outbox, *numbered(1200))
        rows += outbox.claim(SHOP, "w", limit=1000, claim_ttl=30)

        assert mark(outbox, rows) == 1200

        assert {row.claim_token for row in outbox.rows(SHOP, limit=2000)} == {None}

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_mark_of_no_rows_does_not_touch_storage(
        self, storage, clock, monkeypatch, mark
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert mark(outbox, []) == 0

        assert statements == []
        outbox.close()

    def test_mark_of_a_claim_is_one_statement(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        rows = self.claimed(outbox, *numbered(64))
        statements.clear()

        outbox.mark_published(rows)

        assert len(statements) == 1
        outbox.close()

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_rows_that_were_never_claimed_are_not_marked(self, outbox, mark):
        outbox.enqueue(SHOP, batch_of("a"))
        before = outbox.rows(SHOP)

        assert mark(outbox, before) == 0

        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_rows_of_another_outbox_are_not_marked(self, outbox, clock, mark):
        held = self.claimed(outbox)
        other = MemoryOutbox(clock=clock)
        foreign = self.claimed(other, *numbered(held[0].id))
        before = outbox.rows(SHOP)

        assert mark(outbox, foreign) == 0

        assert held[0].id in [row.id for row in foreign]
        assert outbox.rows(SHOP) == before

    @pytest.mark.parametrize("mark", LATE.values(), ids=LATE)
    def test_rows_that_are_gone_are_not_marked(self, outbox, mark):
        rows = self.claimed(outbox)
        self.sql(outbox, "delete from hydracache_outbox")

        assert mark(outbox, rows) == 0

        assert outbox.rows(SHOP) == []


class Modelled:
    """An outbox and what it should hold, kept in step by calling both."""

    def __init__(self, outbox: InvalidationOutbox, namespace: str, clock: FakeClock):
        self.outbox = outbox
        self.namespace = namespace
        self.clock = clock
        self.rows: list[dict[str, Any]] = []
        self.claims: list[tuple[list[OutboxRow], list[dict[str, Any]], int]] = []
        self.receipts: list[InvalidationReceipt] = []

    def enqueue(self, position: str | None, keys: list[str]) -> None:
        receipt = self.outbox.enqueue(
            self.namespace, batch_of(*keys), commit_position=position
        )
        known = {row["target"]: row for row in self.rows}
        targets = [(str(receipt.commit_position), key) for key in dict.fromkeys(keys)]
        added = [
            {
                "target": target,
                "state": OutboxState.PENDING,
                "created": self.clock.now_ms,
                "at": self.clock.now_ms,
                "attempts": 0,
                "claim": None,
                "until": None,
                "error": False,
            }
            for target in targets
            if target not in known
        ]
        for row in [known[target] for target in targets if target in known]:
            row["created"] += 1
            if row["state"] is not OutboxState.PENDING:
                now = self.clock.now_ms
                row.update(created=max(now, row["created"]), at=now, attempts=0)
                row.update(state=OutboxState.PENDING)
            row.update(claim=None, until=None, error=True)
        self.rows += added
        self.receipts.append(receipt)
        assert receipt.inserted == len(added)

    def claim(self, limit: int, claim_ttl: int) -> None:
        now = self.clock.now_ms
        due = [
            row
            for row in self.rows
            if row["state"] is OutboxState.PENDING
            and row["at"] <= now
            and (row["until"] is None or row["until"] <= now)
        ]
        due = sorted(due, key=lambda row: (row["at"], row["created"]))[:limit]
        for row in due:
            row.update(error=row["error"] or row["claim"] is not None)
            row.update(claim=len(self.claims), until=now + claim_ttl * 1000)
        rows = self.outbox.claim(self.namespace, "w", limit=limit, claim_ttl=claim_ttl)
        self.claims.append((rows, due, len(self.claims)))
        assert keys_of(rows) == [row["target"][1] for row in due]

    def held(self, number: int) -> tuple[list[OutboxRow], list[dict[str, Any]]]:
        """Rows of an earlier claim, and those of them that it still holds."""
        if not self.claims:
            return [], []
        rows, modelled, claim = self.claims[number % len(self.claims)]
        return rows, [row for row in modelled if row["claim"] == claim]

    def publish(self, number: int) -> None:
        rows, held = self.held(number)
        for row in held:
            row.update(state=OutboxState.PUBLISHED, at=self.clock.now_ms)
            row.update(claim=None, until=None, error=False)
        assert self.outbox.mark_published(rows) == len(held)

    def fail(self, number: int, backoff: int, dead: bool) -> None:
        rows, held = self.held(number)
        for row in held:
            at = self.clock.now_ms + (0 if dead else backoff * 1000)
            row.update(at=at, attempts=row["attempts"] + 1, claim=None, until=None)
            row.update(state=OutboxState.DEAD if dead else OutboxState.PENDING)
            row.update(error=True)
        marked = self.outbox.mark_failed(rows, "e", backoff=backoff, dead=dead)
        assert marked == len(held)

    def release(self, number: int, delay: int) -> None:
        rows, held = self.held(number)
        for row in held:
            at = self.clock.now_ms + delay * 1000 if delay else row["at"]
            row.update(at=at, claim=None, until=None)
        assert self.outbox.release(rows, delay=delay) == len(held)

    def publish_commit(self, number: int) -> None:
        if not self.receipts:
            return
        receipt = self.receipts[number % len(self.receipts)]
        targets = [
            (str(receipt.commit_position), intent.value)
            for intent in receipt.batch.intents
        ]
        pending = [
            row
            for row in self.rows
            if row["target"] in targets
            and row["state"] is OutboxState.PENDING
            and not row["error"]
        ]
        for row in pending:
            row.update(state=OutboxState.PUBLISHED, at=self.clock.now_ms)
            row.update(claim=None, until=None, error=False)
        assert self.outbox.publish_commit(receipt) == len(pending)

    def reset(self) -> None:
        dead = [row for row in self.rows if row["state"] is OutboxState.DEAD]
        for row in dead:
            row.update(state=OutboxState.PENDING, at=self.clock.now_ms, attempts=0)
            row.update(error=False)
        assert self.outbox.reset_dead_letters(self.namespace) == len(dead)

    def purge(self, older_than: int) -> None:
        before = self.clock.now_ms - older_than * 1000
        old = [
            row
            for row in self.rows
            if row["state"] is OutboxState.PUBLISHED and row["at"] < before
        ]
        self.rows = [row for row in self.rows if row not in old]
        purged = self.outbox.purge_published(self.namespace, older_than=older_than)
        assert purged == len(old)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def compare(self) -> None:
        assert [
            (
                (row.commit_position.value, row.intent.value),
                row.state,
                row.created_at_ms,
                row.available_at_ms,
                row.attempts,
                row.claim_until_ms,
            )
            for row in self.outbox.rows(self.namespace, limit=1000)
        ] == [
            tuple(
                row[field]
                for field in ("target", "state", "created", "at", "attempts", "until")
            )
            for row in self.rows
        ]
        status = self.outbox.status(self.namespace)
        states = [row["state"] for row in self.rows]
        assert status.pending == states.count(OutboxState.PENDING)
        assert status.dead_lettered == states.count(OutboxState.DEAD)


class ModelContract(OutboxHooks):
    """Any order of calls leads where a model of a page says."""

    STEPS = st.one_of(
        st.tuples(
            st.just("enqueue"),
            st.sampled_from(["tx:1", "tx:2", None]),
            st.lists(st.sampled_from("abcd"), max_size=3),
        ),
        st.tuples(st.just("claim"), st.integers(1, 4), st.sampled_from([1, 5])),
        st.tuples(st.just("publish"), st.integers(0, 9)),
        st.tuples(
            st.just("fail"), st.integers(0, 9), st.sampled_from([0, 2]), st.booleans()
        ),
        st.tuples(st.just("release"), st.integers(0, 9), st.sampled_from([0, 2])),
        st.tuples(st.just("publish_commit"), st.integers(0, 9)),
        st.tuples(st.just("reset")),
        st.tuples(st.just("purge"), st.sampled_from([0, 2])),
        st.tuples(st.just("advance"), st.sampled_from([0.001, 1, 2, 5, -1])),
    )

    @settings(max_examples=50, suppress_health_check=EVERY_OUTBOX)
    @given(steps=st.lists(STEPS, min_size=5, max_size=30))
    def test_any_calls_in_any_order_do_as_the_model_does(self, outbox, clock, steps):
        modelled = Modelled(outbox, f"model:{time.monotonic_ns()}", clock)
        # Looked for now and then, by another clock: here, never.
        outbox._ahead_at[modelled.namespace] = math.inf

        for name, *arguments in steps:
            getattr(modelled, name)(*arguments)
            modelled.compare()


class DeadLetterContract(OutboxHooks):
    """Dead letters wait for an operator, who lists, retries or discards them."""

    def bury(self, outbox: InvalidationOutbox, *keys: str, namespace: str = SHOP):
        outbox.enqueue(namespace, batch_of(*keys))
        rows = outbox.claim(namespace, "w", limit=1000, claim_ttl=30)
        outbox.mark_failed(rows, "refused", backoff=0, dead=True)
        return rows

    def test_dead_letters_are_listed_page_by_page(self, outbox):
        self.bury(outbox, "a", "b", "c")
        outbox.enqueue(SHOP, batch_of("alive"))

        first = outbox.dead_letters(SHOP, limit=2)
        second = outbox.dead_letters(SHOP, limit=2, after=first[-1].id)

        assert keys_of(first) == ["a", "b"]
        assert keys_of(second) == ["c"]
        assert outbox.dead_letters(SHOP, after=second[-1].id) == []

    def test_dead_letters_are_listed_by_id_also_if_they_died_out_of_order(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        first, second = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_failed([second], "e", backoff=0, dead=True)
        clock.advance(1)
        outbox.mark_failed([first], "e", backoff=0, dead=True)

        assert keys_of(outbox.dead_letters(SHOP, limit=1)) == ["a"]
        assert keys_of(outbox.dead_letters(SHOP, after=first.id)) == ["b"]

    def test_all_dead_letters_are_retried(self, outbox, clock):
        self.bury(outbox, "a", "b")
        clock.advance(7)

        assert outbox.reset_dead_letters(SHOP) == 2

        rows = outbox.rows(SHOP)
        assert {row.state for row in rows} == {OutboxState.PENDING}
        assert {row.attempts for row in rows} == {0}
        assert {row.last_error for row in rows} == {None}
        assert {row.available_at_ms for row in rows} == {clock.now_ms}
        assert {claim_of(row) for row in rows} == {None}
        assert keys_of(outbox.claim(SHOP, "w", limit=2, claim_ttl=30)) == ["a", "b"]

    def test_some_dead_letters_are_retried(self, outbox):
        first, second, third = self.bury(outbox, "a", "b", "c")

        assert outbox.reset_dead_letters(SHOP, [third.id, first.id, third.id]) == 2

        assert keys_of(outbox.dead_letters(SHOP)) == ["b"]

    def test_no_dead_letters_are_retried_if_none_is_named(self, outbox):
        self.bury(outbox, "a")

        assert outbox.reset_dead_letters(SHOP, []) == 0

        assert keys_of(outbox.dead_letters(SHOP)) == ["a"]

    def test_ids_may_come_out_of_a_generator(self, outbox):
        rows = self.bury(outbox, "a", "b", "c")

        assert outbox.reset_dead_letters(SHOP, (row.id for row in rows[:2])) == 2
        assert outbox.discard_dead_letters(SHOP, (row.id for row in rows)) == 1

    def test_dead_letters_are_discarded_for_good(self, outbox):
        first, second = self.bury(outbox, "a", "b")

        assert outbox.discard_dead_letters(SHOP, [first.id]) == 1

        assert outbox.row(first.id) is None
        assert keys_of(outbox.rows(SHOP)) == ["b"]
        assert outbox.discard_dead_letters(SHOP, [first.id]) == 0

    def test_rows_that_are_not_dead_are_neither_retried_nor_discarded(self, outbox):
        outbox.enqueue(SHOP, batch_of("held", "done", "waiting"))
        held, done = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([done])
        before = outbox.rows(SHOP)
        ids = [row.id for row in before]

        assert outbox.reset_dead_letters(SHOP) == 0
        assert outbox.reset_dead_letters(SHOP, ids) == 0
        assert outbox.discard_dead_letters(SHOP, ids) == 0

        assert outbox.rows(SHOP) == before

    def test_dead_letters_of_another_namespace_are_left_alone(self, outbox):
        [other] = self.bury(outbox, "theirs", namespace="other")

        assert outbox.dead_letters(SHOP) == []
        assert outbox.reset_dead_letters(SHOP) == 0
        assert outbox.reset_dead_letters(SHOP, [other.id]) == 0
        assert outbox.discard_dead_letters(SHOP, [other.id]) == 0

        assert keys_of(outbox.dead_letters("other")) == ["theirs"]

    def test_more_dead_letters_than_one_statement_takes(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(1200)))
        rows = outbox.claim(SHOP, "w", limit=2000, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)

        assert outbox.reset_dead_letters(SHOP) == 1200

        rows = outbox.claim(SHOP, "w", limit=2000, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        ids = [row.id for row in rows]
        assert outbox.discard_dead_letters(SHOP, ids) == 1200
        assert outbox.rows(SHOP) == []


class PurgeContract(OutboxHooks):
    """Finished rows go after their time, and no others."""

    def publish(self, outbox: InvalidationOutbox, *keys: str, namespace: str = SHOP):
        return outbox.publish_commit(outbox.enqueue(namespace, batch_of(*keys)))

    def test_only_rows_published_long_enough_ago_are_purged(self, outbox, clock):
        self.publish(outbox, "old")
        clock.advance(60)
        self.publish(outbox, "young")
        clock.advance(30.001)

        assert outbox.purge_published(SHOP, older_than=90) == 1

        assert keys_of(outbox.rows(SHOP)) == ["young"]

    def test_age_counts_from_the_publication_not_from_the_enqueue(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(100)
        outbox.publish_commit(receipt)
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=50) == 0

    def test_purge_takes_the_oldest_up_to_its_limit(self, outbox, clock):
        for key in ("a", "b", "c"):
            self.publish(outbox, key)
            clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0, limit=2) == 2

        assert keys_of(outbox.rows(SHOP)) == ["c"]
        assert outbox.purge_published(SHOP, older_than=0, limit=2) == 1
        assert outbox.purge_published(SHOP, older_than=0, limit=2) == 0

    def test_purge_of_nothing_is_nothing(self, outbox, clock):
        self.publish(outbox, "a")
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0, limit=0) == 0

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_pending_and_dead_rows_are_never_purged(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("dead", "held", "waiting"))
        dead, held = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_failed([dead], "e", backoff=0, dead=True)
        clock.advance(10**6)

        assert outbox.purge_published(SHOP, older_than=0) == 0

        assert keys_of(outbox.rows(SHOP)) == ["dead", "held", "waiting"]

    def test_purge_keeps_to_its_namespace(self, outbox, clock):
        self.publish(outbox, "theirs", namespace="other")
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0) == 0

        assert keys_of(outbox.rows("other")) == ["theirs"]

    def test_large_purge_counts_every_row(self, outbox, clock):
        self.publish(outbox, *numbered(1300))
        clock.advance(1)

        assert outbox.purge_published(SHOP, older_than=0, limit=1200) == 1200
        assert outbox.purge_published(SHOP, older_than=0) == 100

    def test_purged_position_can_be_used_again(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.publish_commit(receipt)
        clock.advance(1)
        outbox.purge_published(SHOP, older_than=0)

        again = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert again.inserted == 1


class StatusContract(OutboxHooks):
    """What is on its way is counted, per namespace and per commit."""

    def test_empty_namespace_has_an_empty_status(self, outbox):
        outbox.enqueue("other", batch_of("theirs"))

        assert outbox.status(SHOP) == OutboxStatus()

    def test_status_counts_what_is_not_published(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("done", "dead", "failed", "held"))
        clock.advance(5)
        outbox.enqueue(SHOP, batch_of("waiting"))
        done, dead, failed, held = outbox.claim(SHOP, "w", limit=4, claim_ttl=30)
        published_at_ms = clock.now_ms
        outbox.mark_published([done])
        outbox.mark_failed([dead], "e", backoff=0, dead=True)
        outbox.mark_failed([failed], "e", backoff=60, dead=False)
        clock.advance(2)

        status = outbox.status(SHOP)

        assert status == OutboxStatus(
            pending=3,
            oldest_pending_age_ms=7000,
            dead_lettered=1,
            last_published_at_ms=published_at_ms,
            failed_attempts=2,
            capped=False,
        )

    def test_attempts_of_published_rows_are_not_counted(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=False)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

        assert outbox.status(SHOP).failed_attempts == 0

    def test_age_is_that_of_the_oldest_row_whenever_it_is_due(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("oldest"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=3600, dead=False)
        clock.advance(10)
        outbox.enqueue(SHOP, batch_of("younger"))

        assert outbox.status(SHOP).oldest_pending_age_ms == 10_000

    def test_a_row_from_the_future_is_told(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("now"))
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(-86_390)

        status = outbox.status(SHOP)

        assert status.oldest_pending_age_ms == 10_000
        assert status.ahead_ms == 86_390_000

    def test_a_row_from_the_future_ages_since_a_worker_found_it(self, outbox, clock):
        clock.advance(86_400)
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(-86_400)
        before = outbox.status(SHOP).oldest_pending_age_ms
        outbox.release(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))
        clock.advance(5)

        assert before == 0
        assert outbox.status(SHOP).oldest_pending_age_ms == 5000

    def test_counts_beyond_the_cap_are_marked_capped(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of(*numbered(10_000)))

        exact = outbox.status(SHOP)
        outbox.enqueue(SHOP, batch_of("one more"))
        capped = outbox.status(SHOP)

        assert (exact.pending, exact.capped) == (10_000, False)
        assert (capped.pending, capped.capped) == (10_000, True)
        assert outbox.publish_commit(receipt) == 10_000
        assert outbox.status(SHOP).pending == 1

    def test_dead_letters_beyond_the_cap_are_marked_capped(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(10_001)))
        rows = outbox.claim(SHOP, "w", limit=20_000, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)

        status = outbox.status(SHOP)

        assert (status.dead_lettered, status.capped) == (10_000, True)
        assert status.pending == 0

    def test_commit_is_counted_by_state(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("done", "dead", "held", "waiting"))
        done, dead, held = outbox.claim(SHOP, "w", limit=3, claim_ttl=30)
        outbox.mark_published([done])
        outbox.mark_failed([dead], "e", backoff=0, dead=True)

        status = outbox.status_for_commit(SHOP, receipt.commit_position)

        assert status == CommitStatus(
            pending=2, published=1, dead_lettered=1, now_ms=clock.now_ms
        )

    def test_commit_that_is_not_visible_counts_nothing(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue("other", batch_of("a"), commit_position="tx:8")

        assert outbox.status_for_commit(SHOP, "tx:8") == (0, 0, 0, clock.now_ms)

    def test_discarded_row_is_seen_no_more(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"), commit_position="tx:7")
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        outbox.discard_dead_letters(SHOP, [rows[0].id])

        assert outbox.status_for_commit(SHOP, "tx:7")[:3] == (1, 0, 0)


class PublishCommitContract(OutboxHooks):
    """A writer that applied its own batch finishes its own rows."""

    def test_pending_rows_of_the_commit_are_published(self, outbox, clock):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "a"))
        outbox.enqueue(SHOP, batch_of("later"))
        clock.advance(1)

        assert outbox.publish_commit(receipt) == 2

        rows = outbox.rows(SHOP, state=OutboxState.PUBLISHED)
        assert keys_of(rows) == ["a", "b"]
        assert {row.published_at_ms for row in rows} == {clock.now_ms}
        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["later"]

    def test_claimed_rows_are_published_too_and_their_claim_is_over(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.publish_commit(receipt) == 2

        assert outbox.mark_failed(rows, "late", backoff=0, dead=True) == 0
        assert {row.state for row in outbox.rows(SHOP)} == {OutboxState.PUBLISHED}
        assert {row.claim_token for row in outbox.rows(SHOP)} == {None}

    def test_rows_in_backoff_that_were_seen_are_published_and_their_error_is_cleared(
        self, outbox
    ):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=3600, dead=False)

        assert outbox.publish_commit(receipt) == 0
        assert outbox.publish_commit(receipt, seen=outbox.rows(SHOP)) == 1

        [row] = outbox.rows(SHOP)
        assert (row.last_error, row.attempts) == (None, 1)

    def test_a_row_that_was_enqueued_again_is_left_to_a_worker(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b"))
        again = outbox.enqueue(
            SHOP, batch_of("a"), commit_position=receipt.commit_position
        )

        assert outbox.publish_commit(receipt) == 1
        assert outbox.publish_commit(again) == 0

        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a"]

    @pytest.mark.parametrize("before", ["waiting", "published"])
    def test_a_row_that_was_enqueued_again_since_it_was_seen_is_left(
        self, outbox, before
    ):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        seen = outbox.rows(SHOP)
        if before == "published":
            held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
            outbox.mark_published(held)

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert outbox.publish_commit(receipt, seen=seen) == 0
        assert outbox.publish_commit(receipt, seen=outbox.rows(SHOP)) == 1

    def test_rows_of_another_batch_at_the_same_position_are_left(self, outbox):
        mine = outbox.enqueue(SHOP, batch_of("mine"), commit_position="tx:7")
        outbox.enqueue(SHOP, batch_of("theirs"), commit_position="tx:7")

        assert outbox.publish_commit(mine) == 1

        assert keys_of(outbox.rows(SHOP, state=OutboxState.PENDING)) == ["theirs"]

    def test_same_position_in_another_namespace_is_left(self, outbox):
        mine = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue("other", batch_of("a"), commit_position="tx:7")

        assert outbox.publish_commit(mine) == 1

        assert outbox.status("other").pending == 1

    def test_finished_rows_are_not_counted_again(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        done, dead = outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
        outbox.mark_published([done])
        outbox.mark_failed([dead], "e", backoff=0, dead=True)

        assert outbox.publish_commit(receipt) == 1
        assert outbox.publish_commit(receipt) == 0

        assert outbox.row(dead.id).is_dead_lettered

    def test_rows_that_are_not_visible_are_not_counted(self, outbox):
        receipt = InvalidationReceipt(
            SHOP, CommitPosition("tx:7"), 0, 1, batch_of("rolled back")
        )

        assert outbox.publish_commit(receipt) == 0

    def test_receipt_of_an_empty_batch_has_nothing_to_publish(self, outbox):
        receipt = outbox.enqueue(SHOP, InvalidationIntentBatch())

        assert outbox.publish_commit(receipt) == 0

    def test_receipt_that_came_as_text_is_refused(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        travelled = InvalidationReceipt.from_string(receipt.to_string())

        with pytest.raises(ValueError, match="batch"):
            outbox.publish_commit(travelled)

        assert outbox.status(SHOP).pending == 1

    def test_more_rows_than_one_statement_takes_are_published(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of(*numbered(1200)))

        assert outbox.publish_commit(receipt) == 1200

        assert outbox.status(SHOP).pending == 0


class MalformedRowContract(OutboxHooks):
    """A row of a foreign hand is reported and spoils none of its neighbours."""

    def plant(
        self, outbox: InvalidationOutbox, column: str, value: Any, kind: str = "key"
    ) -> int:
        """Enqueue three rows and overwrite a column of the middle one."""
        middle = {
            "key": InvalidationIntent.key("middle"),
            "entity": InvalidationIntent.entity("user", "middle"),
            "flush": InvalidationIntent.flush(),
        }[kind]
        outbox.enqueue(SHOP, batch_of("before").intent(middle).invalidate_key("after"))
        id = outbox.rows(SHOP)[1].id
        self.sql(
            outbox,
            f"update hydracache_outbox set {column} = ? where id = ?",
            (value, id),
        )
        return id

    @pytest.mark.parametrize(
        ("kind", "column", "value", "said"),
        [
            ("key", "kind", "bogus", "bogus"),
            ("key", "value", None, "value"),
            ("key", "value", b"\xff\xfe", "UTF-8"),
            ("key", "value", b"\xed\xa0\x80", "UTF-8"),
            ("key", "value", "x" * 4097, "4097"),
            ("entity", "entity_name", None, "entity"),
            ("entity", "entity_name", b"user\xff", "UTF-8"),
            ("entity", "kind", "key", "entity"),
            ("flush", "value", "not for a flush", "value"),
        ],
        ids=[
            "unknown kind",
            "no value",
            "invalid UTF-8",
            "surrogate",
            "over-long",
            "no entity",
            "invalid entity",
            "superfluous entity",
            "superfluous value",
        ],
    )
    def test_malformed_row_is_claimed_with_its_fault_and_neighbours_are_fine(
        self, outbox, kind, column, value, said
    ):
        self.plant(outbox, column, value, kind)

        before, middle, after = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of([before, after]) == ["before", "after"]
        assert middle.intent is None
        assert said in middle.last_error
        assert outbox.mark_published([before, after]) == 2
        assert outbox.mark_failed([middle], middle.last_error, backoff=0, dead=True)
        [dead] = outbox.dead_letters(SHOP)
        assert dead.intent is None
        assert said in dead.last_error

    def test_row_of_an_unknown_state_is_shown_and_left_alone(self, outbox):
        id = self.plant(outbox, "state", 9)

        claimed = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        row = outbox.row(id)
        assert keys_of(claimed) == ["before", "after"]
        assert (row.state, row.intent) == (None, None)
        assert "state" in row.last_error
        assert keys_of(outbox.rows(SHOP)) == ["before", None, "after"]
        assert outbox.status(SHOP).pending == 2

    @pytest.mark.parametrize(
        "column", ["commit_position", "reason", "claim_owner", "last_error"]
    )
    def test_text_beside_the_intent_may_be_malformed(self, outbox, column):
        self.plant(outbox, column, b"\xff")

        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)

        assert keys_of(rows) == ["before", "middle", "after"]
        assert [repr(row) for row in outbox.rows(SHOP)]
        assert outbox.mark_published(rows) == 3

    def test_namespace_that_is_no_text_is_shown_beside_the_others(self, outbox):
        outbox.enqueue("zoo", batch_of("a"))
        self.plant(outbox, "namespace", b"\xffA")

        assert sorted(outbox.namespaces()) == ["\\xffA", SHOP, "zoo"]

    def test_malformed_rows_can_be_reset_and_discarded(self, outbox):
        id = self.plant(outbox, "kind", "bogus")
        rows = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.mark_failed(rows[1:2], "malformed", backoff=0, dead=True)

        assert outbox.reset_dead_letters(SHOP, [id]) == 1
        [row] = outbox.claim(SHOP, "w", limit=10, claim_ttl=30)
        outbox.mark_failed([row], "malformed", backoff=0, dead=True)
        assert outbox.discard_dead_letters(SHOP, [id]) == 1


class TransactionContract(OutboxHooks):
    """In ``transaction()``, rows exist if and only if the caller's data does."""

    @pytest.fixture
    def app(self, outbox: InvalidationOutbox) -> App:
        self.sql(outbox, "create table app (id integer primary key, note varchar(20))")
        return App(lambda statement: self.sql(outbox, statement))

    def test_data_and_rows_are_committed_together(self, outbox, app):
        with outbox.transaction() as connection:
            app.write(connection)
            receipt = outbox.enqueue_in(connection, SHOP, batch_of("a", "b", "a"))

        assert app.notes() == ["data"]
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
        assert (receipt.targets, receipt.inserted) == (2, 2)
        assert outbox.rows(SHOP)[0].commit_position == receipt.commit_position

    def test_exception_rolls_both_back(self, outbox, app):
        with pytest.raises(ZeroDivisionError):
            with outbox.transaction() as connection:
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                1 / 0

        assert app.notes() == []
        assert outbox.rows(SHOP) == []

    @pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_whatever_ends_the_block_rolls_back(self, outbox, end):
        with pytest.raises(end):
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                raise end

        assert outbox.rows(SHOP) == []
        assert outbox.enqueue(SHOP, batch_of("b")).inserted == 1

    def test_several_batches_share_a_transaction(self, outbox):
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            outbox.enqueue_in(connection, "other", batch_of("b"))
            outbox.enqueue_in(connection, SHOP, batch_of("a"), commit_position="tx:7")
            again = outbox.enqueue_in(
                connection, SHOP, batch_of("a"), commit_position="tx:7"
            )

        assert again.inserted == 0
        assert keys_of(outbox.rows(SHOP)) == ["a", "a"]
        assert keys_of(outbox.rows("other")) == ["b"]

    def test_refused_enqueue_does_not_spoil_the_transaction(self, outbox, app):
        with outbox.transaction() as connection:
            app.write(connection)
            with pytest.raises(ValueError):
                outbox.enqueue_in(connection, "x" * 65, batch_of("a"))
            with pytest.raises(TypeError):
                outbox.enqueue_in(connection, SHOP, ["a"])
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert app.notes() == ["data"]
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_empty_batch_in_a_transaction_writes_nothing(self, outbox):
        with outbox.transaction() as connection:
            receipt = outbox.enqueue_in(connection, SHOP, InvalidationIntentBatch())

        assert (receipt.targets, receipt.inserted) == (0, 0)
        assert outbox.rows(SHOP) == []

    def test_transaction_without_rows_is_a_transaction_of_the_caller(self, outbox, app):
        with outbox.transaction() as connection:
            app.write(connection)

        assert app.notes() == ["data"]

    def test_block_after_a_failed_block_works(self, outbox, app):
        with contextlib.suppress(ZeroDivisionError):
            with outbox.transaction() as connection:
                app.write(connection, "lost")
                1 / 0

        with outbox.transaction() as connection:
            app.write(connection, "kept")

        assert app.notes() == ["kept"]

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_enqueue_after_the_caller_ended_the_transaction_is_refused(
        self, outbox, end, app
    ):
        with pytest.raises(OutboxError):
            with outbox.transaction() as connection:
                app.write(connection)
                getattr(connection, end)()
                with pytest.raises(NotInTransactionError):
                    outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert outbox.rows(SHOP) == []
        assert app.notes() == (["data"] if end == "commit" else [])

    def test_block_that_lost_its_transaction_says_so(self, outbox):
        with pytest.raises(OutboxError, match="transaction"):
            with outbox.transaction() as connection:
                connection.rollback()

    def test_other_calls_inside_the_block_are_refused_at_once(self, outbox):
        receipt = outbox.enqueue(SHOP, batch_of("before"))
        began = time.monotonic()

        with outbox.transaction() as connection:
            for call in (
                lambda: outbox.enqueue(SHOP, batch_of("a")),
                lambda: outbox.claim(SHOP, "w", limit=1, claim_ttl=30),
                lambda: outbox.status(SHOP),
                lambda: outbox.publish_commit(receipt),
                lambda: outbox.transaction().__enter__(),
            ):
                with pytest.raises(OutboxError, match="block"):
                    call()
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert time.monotonic() - began < DEADLINE / 4
        assert keys_of(outbox.rows(SHOP)) == ["before", "a"]

    def test_transactions_of_threads_are_apart(self, outbox, app):
        def write(index: int) -> None:
            for n in range(5):
                with contextlib.suppress(ZeroDivisionError):
                    with outbox.transaction() as connection:
                        connection.cursor().execute(
                            "insert into app (id, note)"
                            f" values ({index * 10 + n}, '{index}:{n}')"
                        )
                        outbox.enqueue_in(connection, SHOP, batch_of(f"{index}:{n}"))
                        if n % 2:
                            1 / 0

        in_threads(8, write)

        assert sorted(keys_of(outbox.rows(SHOP))) == app.notes()
        assert len(app.notes()) == 24

    @pytest.mark.parametrize(
        "call",
        [
            lambda outbox, receipt: outbox.publish_commit(receipt, timeout=0.01),
            lambda outbox, receipt: outbox.status(SHOP, timeout=0.01),
            lambda outbox, receipt: outbox.status_for_commit(
                SHOP, receipt.commit_position, timeout=0.01
            ),
        ],
        ids=["publish_commit", "status", "status_for_commit"],
    )
    def test_timeout_of_a_call_holds_while_another_thread_writes(
        self, storage, clock, call
    ):
        outbox = self.make_outbox(storage, clock=clock, busy_timeout=16.0)
        outbox.install_schema()
        receipt = outbox.enqueue(SHOP, batch_of("a"))
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("b"))
                entered.set()
                assert leave.wait(DEADLINE)

        def try_once() -> float:
            assert entered.wait(DEADLINE)
            began = time.monotonic()
            try:
                # Where readers, or rows, are not locked, nothing is in the way.
                with contextlib.suppress(OutboxBusyError):
                    call(outbox, receipt)
                return time.monotonic() - began
            finally:
                leave.set()

        _, waited = in_threads(2, lambda index: (hold, try_once)[index]())

        assert waited < 8.0
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
        outbox.close()


class SubscriberContract(OutboxHooks):
    """Subscribers hear of committed rows, after the commit."""

    @pytest.fixture
    def heard(self, outbox: InvalidationOutbox) -> list[frozenset[str]]:
        heard: list[frozenset[str]] = []
        outbox.subscribe(heard.append)
        return heard

    def test_subscriber_hears_of_an_enqueue(self, outbox, heard):
        outbox.enqueue(SHOP, batch_of("a"))

        assert heard == [frozenset({SHOP})]

    def test_subscriber_can_see_what_it_hears_of(self, outbox):
        seen: list[int] = []
        outbox.subscribe(lambda namespaces: seen.append(outbox.status(SHOP).pending))

        outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert seen == [1, 2]

    def test_subscriber_hears_once_of_a_transaction(self, outbox, heard):
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            outbox.enqueue_in(connection, "other", batch_of("b"))
            outbox.enqueue_in(connection, SHOP, batch_of("c"))
            assert heard == []

        assert heard == [frozenset({SHOP, "other"})]

    def test_subscriber_does_not_hear_of_a_rollback(self, outbox, heard):
        with pytest.raises(ZeroDivisionError):
            with outbox.transaction() as connection:
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                1 / 0
        with outbox.transaction():
            pass

        assert heard == []

    def test_subscriber_hears_of_dead_letters_that_are_retried(self, outbox, heard):
        outbox.enqueue(SHOP, batch_of("a"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)
        heard.clear()

        outbox.reset_dead_letters(SHOP)
        outbox.reset_dead_letters(SHOP)

        assert heard == [frozenset({SHOP})]

    def test_subscriber_hears_of_an_escalation(self, outbox, heard):
        outbox.escalate(SHOP)
        outbox.escalate(SHOP)

        assert heard == [frozenset({SHOP})]

    def test_subscriber_hears_of_rows_that_are_carried_again(self, outbox, heard):
        receipt = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.publish_commit(receipt)
        heard.clear()

        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")

        assert heard == [frozenset({SHOP})]

    def test_subscriber_does_not_hear_of_what_added_nothing(self, outbox, heard):
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        heard.clear()

        outbox.enqueue(SHOP, InvalidationIntentBatch())
        with pytest.raises(ValueError):
            outbox.enqueue("", batch_of("a"))

        assert heard == []

    def test_enqueue_in_is_told_apart_from_a_commit(self, outbox, heard):
        expected: list[frozenset[str]] = []
        outbox.subscribe_enqueued(expected.append)

        outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert heard == [frozenset({SHOP})] * 2
        assert expected == []

    def test_commit_of_a_caller_can_be_announced(self, outbox, heard):
        outbox.announce_commit(iter([SHOP, "blog", SHOP]))

        assert heard == [frozenset({SHOP, "blog"})]

    def test_commit_of_one_namespace_can_be_announced(self, outbox, heard):
        outbox.announce_commit(SHOP)

        assert heard == [frozenset({SHOP})]

    def test_subscriber_that_raises_hurts_nobody(self, outbox, caplog):
        heard: list[frozenset[str]] = []

        def broken(namespaces: frozenset[str]) -> None:
            raise RuntimeError("subscriber is broken")

        outbox.subscribe(broken)
        outbox.subscribe(heard.append)

        receipt = outbox.enqueue(SHOP, batch_of("a"))
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert receipt.inserted == 1
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
        assert heard == [frozenset({SHOP})] * 2
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
        assert "subscriber is broken" in caplog.text

    def test_unsubscribed_callback_is_not_called(self, outbox):
        heard: list[frozenset[str]] = []
        unsubscribe = outbox.subscribe(heard.append)

        unsubscribe()
        unsubscribe()
        outbox.enqueue(SHOP, batch_of("a"))

        assert heard == []

    def test_each_subscription_ends_by_itself(self, outbox):
        heard: list[frozenset[str]] = []
        hear = heard.append
        outbox.subscribe(hear)
        unsubscribe = outbox.subscribe(hear)

        unsubscribe()
        outbox.enqueue(SHOP, batch_of("a"))

        assert heard == [frozenset({SHOP})]


class EscalationContract(OutboxHooks):
    """A flush stands in for an invalidation that was given up, once a minute."""

    def test_escalation_enqueues_a_flush_that_is_due_now(self, outbox):
        assert outbox.escalate(SHOP) is True

        [row] = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert row.intent == InvalidationIntent.flush()
        assert row.reason

    def test_flush_that_still_waits_covers_the_next_escalation(self, outbox):
        outbox.escalate(SHOP)

        assert outbox.escalate(SHOP) is False

        assert len(outbox.rows(SHOP)) == 1

    def test_flush_in_backoff_covers_the_next_escalation(self, outbox):
        outbox.escalate(SHOP)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=3600, dead=False)

        assert outbox.escalate(SHOP) is False

    def test_flush_that_a_worker_holds_does_not_cover_the_next_escalation(self, outbox):
        """It may have been applied already, before what is given up now was written."""
        outbox.escalate(SHOP)
        held = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.escalate(SHOP) is True

        outbox.mark_published(held)
        assert outbox.status(SHOP).pending == 1

    def test_flush_already_applied_is_followed_by_one_a_minute_later(
        self, outbox, clock
    ):
        outbox.escalate(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))

        assert outbox.escalate(SHOP) is True
        assert outbox.escalate(SHOP) is False

        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []
        clock.advance(60)
        [row] = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert row.intent == InvalidationIntent.flush()

    def test_dead_flush_is_no_cover(self, outbox):
        outbox.escalate(SHOP)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=0, dead=True)

        assert outbox.escalate(SHOP) is True

    def test_next_minute_has_a_flush_of_its_own(self, outbox, clock):
        outbox.escalate(SHOP)
        outbox.mark_published(outbox.claim(SHOP, "w", limit=1, claim_ttl=30))
        clock.advance(60)

        assert outbox.escalate(SHOP) is True

        assert len(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == 1

    def test_namespaces_are_flushed_apart(self, outbox):
        assert outbox.escalate(SHOP) is True
        assert outbox.escalate("other") is True

        assert len(outbox.rows(SHOP)) == len(outbox.rows("other")) == 1

    def test_threads_that_escalate_at_once_add_one_flush(self, outbox):
        added = in_threads(8, lambda _: outbox.escalate(SHOP))

        assert sorted(added) == [False] * 7 + [True]
        assert len(outbox.rows(SHOP)) == 1


class PauseContract(OutboxHooks):
    """A paused namespace is claimed by nobody, and nothing else of it changes."""

    def test_paused_namespace_is_not_claimed_until_it_is_resumed(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        outbox.pause(SHOP)
        paused = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.resume(SHOP)
        resumed = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

        assert paused == []
        assert keys_of(resumed) == ["a"]

    def test_pause_stops_a_drain_between_two_full_claims(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        before = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.pause(SHOP)
        after = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert keys_of(before) == ["a"]
        assert after == []

    def test_pause_says_since_when_and_why(self, outbox, clock):
        began = clock.now_ms
        outbox.pause(SHOP, "memcached moves")
        outbox.pause("caf\xe9")
        clock.advance(60)

        assert outbox.paused() == {
            SHOP: Pause(began, "memcached moves"),
            "caf\xe9": Pause(began, ""),
        }

    def test_second_pause_replaces_the_reason_and_keeps_the_beginning(
        self, outbox, clock
    ):
        began = clock.now_ms
        outbox.pause(SHOP, "first")
        clock.advance(60)

        outbox.pause(SHOP, "second")

        assert outbox.paused() == {SHOP: Pause(began, "second")}

    def test_resume_says_whether_the_namespace_was_paused(self, outbox):
        outbox.pause(SHOP)

        assert [outbox.resume(SHOP), outbox.resume(SHOP)] == [True, False]
        assert outbox.paused() == {}

    def test_pause_keeps_to_its_namespace(self, outbox):
        names = [SHOP, SHOP.upper(), f"{SHOP} "]
        for name in names:
            outbox.enqueue(name, batch_of("a"))

        outbox.pause(SHOP)

        claimed = [outbox.claim(name, "w", limit=1, claim_ttl=30) for name in names]
        assert [len(rows) for rows in claimed] == [0, 1, 1]

    def test_what_was_claimed_before_a_pause_is_finished(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)

        outbox.pause(SHOP)

        assert outbox.mark_published(rows[:1]) == 1
        assert outbox.mark_failed(rows[1:], "e", backoff=0, dead=False) == 1
        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []

    def test_claim_that_ends_in_a_pause_is_taken_over_after_it(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.pause(SHOP)
        clock.advance(31)

        assert outbox.claim(SHOP, "v", limit=9, claim_ttl=30) == []
        outbox.resume(SHOP)
        assert keys_of(outbox.claim(SHOP, "v", limit=9, claim_ttl=30)) == ["a"]

    def test_writers_go_on_in_a_pause(self, outbox):
        outbox.pause(SHOP)

        receipt = outbox.enqueue(SHOP, batch_of("a"))
        assert outbox.status(SHOP).pending == 1
        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert outbox.publish_commit(receipt) == 1
        assert [row.state for row in outbox.rows(SHOP)] == [
            OutboxState.PUBLISHED,
            OutboxState.PENDING,
        ]

    def test_operators_go_on_in_a_pause(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        a, b, c = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        outbox.mark_failed([a, b], "e", backoff=0, dead=True)
        outbox.mark_published([c])
        outbox.pause(SHOP)
        clock.advance(10)

        assert outbox.reset_dead_letters(SHOP, [a.id]) == 1
        assert outbox.discard_dead_letters(SHOP, [b.id]) == 1
        assert outbox.purge_published(SHOP, older_than=5) == 1
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_status_says_that_a_namespace_is_paused(self, outbox, clock):
        before = outbox.status(SHOP)
        outbox.pause(SHOP)

        assert before.paused_since_ms is None
        assert outbox.status(SHOP).paused_since_ms == clock.now_ms
        assert outbox.status("other").paused_since_ms is None
        outbox.resume(SHOP)
        assert outbox.status(SHOP) == before

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
    def test_odd_text_is_kept_as_a_reason(self, outbox, text):
        outbox.pause(SHOP, text)

        assert outbox.paused()[SHOP].reason == text

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, outbox):
        with pytest.raises(ValueError, match="namespace.*65.*1 to 64"):
            outbox.pause("n" * 65)
        with pytest.raises(ValueError, match="namespace"):
            outbox.resume("")
        with pytest.raises(ValueError, match="reason.*256.*0 to 255"):
            outbox.pause(SHOP, "r" * 256)

        outbox.pause("n" * 64, "r" * 255)
        assert list(outbox.paused()) == ["n" * 64]

    def test_subscriber_hears_of_a_resume(self, outbox):
        heard = []
        outbox.subscribe(heard.append)
        outbox.pause(SHOP)

        outbox.resume(SHOP)
        outbox.resume(SHOP)

        assert heard == [frozenset([SHOP])]

    def test_claim_in_a_pause_is_one_select(self, storage, clock, monkeypatch):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.pause(SHOP)
        statements.clear()

        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []

        assert [text.split()[0] for text in statements] == ["select"]
        outbox.close()

    def test_threads_that_pause_and_resume_at_once_lose_no_row(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(200)))

        def work(number: int) -> int:
            published = 0
            for turn in range(20):
                if number == 0:
                    (outbox.pause if turn % 2 == 0 else outbox.resume)(SHOP)
                else:
                    rows = outbox.claim(SHOP, f"w{number}", limit=9, claim_ttl=30)
                    published += outbox.mark_published(rows)
            return published

        published = sum(in_threads(4, work))
        published += outbox.mark_published(
            outbox.claim(SHOP, "w", limit=200, claim_ttl=30)
        )

        assert published == 200
        assert outbox.status(SHOP).pending == 0


class LookingContract(OutboxHooks):
    """Operators find the rows they mean, and all of them."""

    def fail(self, outbox: InvalidationOutbox, key: str, error: str) -> int:
        """Make a dead letter; return its id."""
        outbox.enqueue(SHOP, batch_of(key))
        [row] = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed([row], error, backoff=0, dead=True)
        return row.id

    def test_rows_of_a_state_are_found(self, outbox):
        dead = [self.fail(outbox, key, "e") for key in "ab"]
        outbox.enqueue(SHOP, batch_of("c"))
        outbox.enqueue("other", batch_of("d"))

        [pending] = outbox.row_ids(SHOP, OutboxState.PENDING)

        assert outbox.row_ids(SHOP, OutboxState.DEAD) == dead
        assert outbox.row(pending).intent.value == "c"
        assert outbox.row_ids(SHOP, OutboxState.PUBLISHED) == []

    @pytest.mark.parametrize(
        ("error", "found"),
        [
            ("timed out", {"a"}),
            ("Timed out", set()),
            ("node*out", {"a"}),
            ("out*node", set()),
            ("100%", {"b"}),
            ("100_", {"c"}),
            ("[x]", {"d"}),
            ("what?", {"e"}),
            ("a|b", {"f"}),
            ("caf\xe9", {"g"}),
            ("", set("abcdefg")),
            ("'", set()),
            ("\\", set()),
        ],
    )
    def test_dead_letters_are_found_by_what_their_error_says(
        self, outbox, error, found
    ):
        for key, text in {
            "a": "node 3 timed out",
            "b": "100% full",
            "c": "100_000 bytes",
            "d": "list[x]",
            "e": "what? no",
            "f": "a|b",
            "g": "caf\xe9",
        }.items():
            self.fail(outbox, key, text)

        ids = outbox.row_ids(SHOP, OutboxState.DEAD, error=error)

        assert set(keys_of(outbox.rows_by_id(SHOP, ids))) == found

    def test_dead_letters_are_found_by_the_time_since_they_died(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("b"))
        clock.advance(100)
        old = self.fail(outbox, "a", "e")  # "b", which was the longest due
        clock.advance(60)
        self.fail(outbox, "c", "e")

        assert outbox.row_ids(SHOP, OutboxState.DEAD, older_than=60) == [old]
        assert outbox.row_ids(SHOP, OutboxState.DEAD, older_than=61) == []
        assert len(outbox.row_ids(SHOP, OutboxState.DEAD, older_than=0)) == 2

    def test_pending_rows_are_found_by_the_time_they_have_waited(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        clock.advance(60)
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        outbox.mark_failed(rows, "e", backoff=900, dead=False)
        outbox.enqueue(SHOP, batch_of("b"))

        ids = outbox.row_ids(SHOP, OutboxState.PENDING, older_than=60)

        assert keys_of(outbox.rows_by_id(SHOP, ids)) == ["a"]

    def test_published_rows_are_listed_by_when_they_were_published(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("a", "b", "c", "pending"))
        outbox.enqueue("other", batch_of("elsewhere"))
        began = clock.now_ms
        rows = outbox.claim(SHOP, "w", limit=4, claim_ttl=900)
        for index in (2, 0, 1):
            outbox.mark_published([rows[index]])
            outbox.mark_published(outbox.claim("other", "w", limit=1, claim_ttl=900))
            clock.advance(10)

        def keys(from_s, until_s, limit=10):
            first, last = (began + seconds * 1000 for seconds in (from_s, until_s))
            return keys_of(outbox.published_between(SHOP, first, last, limit=limit))

        assert keys(0, 30) == ["c", "a", "b"]
        assert keys(0, 10) == ["c"]
        assert keys(10, 20) == ["a"]
        assert keys(0, 30, limit=2) == ["c", "a"]
        assert keys(30, 60) == []

    def test_pending_rows_are_found_by_what_they_wait_for(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of("failed", "ended", "held", "due"))
        failed, ended = outbox.claim(SHOP, "w", limit=2, claim_ttl=10)
        outbox.mark_failed([failed], "e", backoff=60, dead=False)
        clock.advance(9)
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        clock.advance(1)

        found = {
            phase: keys_of(
                outbox.rows_by_id(
                    SHOP, outbox.row_ids(SHOP, OutboxState.PENDING, phase=phase)
                )
            )
            for phase in PendingPhase
        }

        assert found == {
            PendingPhase.DUE: ["ended", "due"],
            PendingPhase.CLAIMED: ["held"],
            PendingPhase.BACKOFF: ["failed"],
        }

    def test_phase_of_rows_that_are_not_pending_is_refused(self, outbox):
        with pytest.raises(ValueError, match="phase.*dead"):
            outbox.row_ids(SHOP, OutboxState.DEAD, phase=PendingPhase.DUE)

    def test_large_numbers_of_rows_are_found(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(1200)))

        ids = outbox.row_ids(SHOP, OutboxState.PENDING)

        assert keys_of(outbox.rows_by_id(SHOP, reversed(ids))) == numbered(1200)

    def test_rows_of_other_namespaces_are_not_given(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.enqueue("other", batch_of("b"))

        assert keys_of(outbox.rows_by_id("other", range(10))) == ["b"]

    def test_namespaces_are_those_that_have_rows(self, outbox):
        names = sorted(["a", "A", "a ", "caf\xe9", "n" * 64])
        assert outbox.namespaces() == []
        for name in names:
            outbox.enqueue(name, batch_of("a", "b"))

        assert outbox.namespaces() == names

    def test_clock_is_the_one_that_judges_claims(self, outbox, clock):
        assert outbox.now_ms() == clock.now_ms
        clock.advance(5)
        assert outbox.now_ms() == clock.now_ms

    def test_no_right_is_missing_and_nothing_is_changed_to_find_out(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.pause("other")
        before = outbox.rows(SHOP)

        assert outbox.missing_rights() == {}
        assert outbox.rows(SHOP) == before
        assert list(outbox.paused()) == ["other"]


class SchemaContract(OutboxHooks):
    """Tables are made once, and those of another version are left alone."""

    def test_schema_can_be_installed_again(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        outbox.install_schema()

        outbox.check_schema()
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    @pytest.mark.parametrize("table", ["hydracache_outbox", "hydracache_outbox_paused"])
    def test_a_table_that_is_missing_is_all_that_an_error_tells_of(self, outbox, table):
        self.sql(outbox, f"drop table {table}")

        with pytest.raises(SchemaError, match="schema install") as caught:
            if table == "hydracache_outbox":
                outbox.enqueue(SHOP, batch_of("a"))
            else:
                outbox.pause(SHOP)

        error = caught.value
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        assert table in str(error)
        assert len([line for line in lines if line.startswith("Traceback")]) == 1

    def test_newer_tables_are_refused(self, outbox):
        self.sql(outbox, "update hydracache_outbox_schema set version = 99")

        with pytest.raises(SchemaError, match="99.*newer.*upgrade") as caught:
            outbox.check_schema()

        assert (caught.value.found, caught.value.expected) == (99, 1)

    def test_older_tables_are_refused(self, outbox):
        self.sql(outbox, "update hydracache_outbox_schema set version = 0")

        with pytest.raises(SchemaError, match="older.*schema install") as caught:
            outbox.check_schema()

        assert (caught.value.found, caught.value.expected) == (0, 1)

    @pytest.mark.parametrize("version", [0, 99])
    def test_install_does_not_touch_another_version(self, outbox, version):
        outbox.enqueue(SHOP, batch_of("a"))
        before = outbox.rows(SHOP)
        self.sql(outbox, "update hydracache_outbox_schema set version = ?", (version,))

        with pytest.raises(SchemaError) as caught:
            outbox.install_schema()

        assert caught.value.found == version
        versions = self.sql(outbox, "select version from hydracache_outbox_schema")
        assert versions == [(version,)]
        assert outbox.rows(SHOP) == before


class OutboxContract(
    EnqueueContract,
    IdentifierContract,
    ClaimContract,
    DueContract,
    MarkContract,
    ModelContract,
    DeadLetterContract,
    PurgeContract,
    StatusContract,
    PublishCommitContract,
    MalformedRowContract,
    TransactionContract,
    SubscriberContract,
    EscalationContract,
    PauseContract,
    LookingContract,
    SchemaContract,
):
    """Everything that an outbox promises to one process."""


class SharedOutboxContract(OutboxContract):
    """And what one promises whose storage other objects and processes use as well."""

    def connect(self, storage: Any) -> ContextManager[Any]:
        """Open a connection of the app's own; closed at the end, nothing committed."""
        raise NotImplementedError

    def begin(self, connection: Any) -> None:
        """Begin a transaction as the app would."""
        raise NotImplementedError

    @pytest.fixture
    def caller(self, outbox: InvalidationOutbox, storage: Any) -> Iterator[Any]:
        """The app's own connection, with a transaction open."""
        with self.connect(storage) as connection:
            self.begin(connection)
            yield connection

    @pytest.fixture
    def second(self, storage: Any, clock: FakeClock) -> Iterator[InvalidationOutbox]:
        """A second outbox object over the same rows."""
        outbox = self.make_outbox(storage, clock=clock, busy_timeout=DEADLINE)
        yield outbox
        outbox.close()

    def test_rows_are_committed_with_the_callers_data(self, outbox, caller, app):
        app.write(caller)
        receipt = outbox.enqueue_in(caller, SHOP, batch_of("a", "b", "a"))

        caller.commit()

        assert app.notes() == ["data"]
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
        assert receipt.targets == 2
        assert receipt.batch == batch_of("a", "b", "a")

    def test_subscriber_hears_of_rows_that_a_caller_may_commit(self, outbox, caller):
        committed: list[frozenset[str]] = []
        expected: list[frozenset[str]] = []
        outbox.subscribe(committed.append)
        unsubscribe = outbox.subscribe_enqueued(expected.append)

        outbox.enqueue_in(caller, SHOP, batch_of("a"))
        outbox.enqueue_in(caller, SHOP, InvalidationIntentBatch())
        unsubscribe()
        outbox.enqueue_in(caller, SHOP, batch_of("b"))
        caller.commit()

        assert expected == [frozenset({SHOP})]
        assert committed == []

    def test_rows_are_rolled_back_with_the_callers_data(self, outbox, caller, app):
        app.write(caller)
        outbox.enqueue_in(caller, SHOP, batch_of("a"))

        caller.rollback()

        assert app.notes() == []
        assert outbox.rows(SHOP) == []

    def test_nobody_sees_rows_before_the_caller_commits(self, outbox, caller):
        receipt = outbox.enqueue_in(caller, SHOP, batch_of("a"))

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []
        assert outbox.status(SHOP).pending == 0
        assert outbox.status_for_commit(SHOP, receipt.commit_position).pending == 0
        caller.commit()
        assert outbox.status_for_commit(SHOP, receipt.commit_position).pending == 1
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_rows_that_are_carried_again_are_so_with_the_callers_data(
        self, outbox, caller
    ):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.publish_commit(first)
        pending = []
        for end in (caller.rollback, caller.commit):
            again = outbox.enqueue_in(
                caller, SHOP, batch_of("a"), commit_position="tx:7"
            )
            pending.append(outbox.status(SHOP).pending)
            end()
            pending.append(outbox.status(SHOP).pending)
            self.begin(caller)

        assert again.inserted == 0
        assert pending == [0, 0, 0, 1]

    def test_what_was_applied_before_the_second_commit_is_not_published_by_that(
        self, outbox, second, caller
    ):
        """The worker took the row before, and comes back after."""
        outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        held = second.claim(SHOP, "w", limit=1, claim_ttl=30)

        outbox.enqueue_in(caller, SHOP, batch_of("a"), commit_position="tx:7")
        caller.commit()

        assert second.mark_published(held) == 0
        assert outbox.status_for_commit(SHOP, "tx:7").pending == 1

    def test_a_purge_takes_no_row_that_is_carried_again(
        self, outbox, second, caller, clock
    ):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        outbox.publish_commit(first)
        clock.advance(60)
        outbox.enqueue_in(caller, SHOP, batch_of("a"), commit_position="tx:7")
        purged: list[int] = []
        purge = threading.Thread(
            target=lambda: purged.append(second.purge_published(SHOP, older_than=1)),
            daemon=True,
        )

        purge.start()
        purge.join(0.1)
        caller.commit()
        purge.join(DEADLINE)

        assert purged == [0]
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_caller_may_retry_a_transaction_under_its_position(self, outbox, caller):
        for _ in range(2):
            outbox.enqueue_in(caller, SHOP, batch_of("a"), commit_position="tx:7")
            caller.commit()
            self.begin(caller)

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_repeated_position_within_the_transaction_is_one_row(
        self, outbox, caller, app
    ):
        app.write(caller)
        for _ in range(2):
            outbox.enqueue_in(caller, SHOP, batch_of("a"), commit_position="tx:7")
        outbox.enqueue_in(caller, SHOP, batch_of("b"), commit_position="tx:7")

        caller.commit()

        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]
        assert app.notes() == ["data"]

    def test_refused_enqueue_leaves_the_callers_transaction_as_it_is(
        self, outbox, caller, app
    ):
        app.write(caller)
        for namespace, batch, position in (
            ("", batch_of("a"), None),
            ("x" * 65, batch_of("a"), None),
            (SHOP, batch_of("a"), "x" * 129),
            (SHOP, batch_of("a"), ""),
        ):
            with pytest.raises(ValueError):
                outbox.enqueue_in(caller, namespace, batch, commit_position=position)
        with pytest.raises(TypeError):
            outbox.enqueue_in(caller, SHOP, ["a"])

        caller.commit()

        assert app.notes() == ["data"]
        assert outbox.rows(SHOP) == []

    def test_large_batch_stays_in_the_callers_transaction(self, outbox, caller):
        outbox.enqueue_in(caller, SHOP, batch_of(*numbered(7501)))
        caller.rollback()
        self.begin(caller)
        outbox.enqueue_in(caller, "other", batch_of(*numbered(7501)))
        caller.commit()

        assert outbox.rows(SHOP) == []
        assert outbox.status("other").pending == 7501

    def test_commit_of_the_callers_connection_is_unseen(self, outbox, caller):
        heard: list[frozenset[str]] = []
        outbox.subscribe(heard.append)

        outbox.enqueue_in(caller, SHOP, batch_of("a"))
        caller.commit()

        assert heard == []

    def test_what_is_no_connection_is_a_type_error(self, outbox):
        for connection in (None, "app.db", object()):
            with pytest.raises(TypeError, match="connection"):
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

    def test_second_object_sees_and_finishes_the_same_rows(self, outbox, second):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert second.rows(SHOP) == outbox.rows(SHOP)
        assert keys_of(second.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["b"]
        assert second.mark_published(rows) == 1

    def test_second_object_cannot_steal_a_claim(self, outbox, second, clock):
        outbox.enqueue(SHOP, batch_of("a"))
        late = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        assert second.claim(SHOP, "w", limit=1, claim_ttl=0.001) == []
        clock.advance(30)
        held = second.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert outbox.mark_published(late) == 0
        assert second.mark_published(held) == 1

    def test_two_objects_escalate_once(self, outbox, second):
        assert outbox.escalate(SHOP) is True
        assert second.escalate(SHOP) is False

        assert len(outbox.rows(SHOP)) == 1

    def test_pause_of_one_object_holds_for_all_and_outlives_it(
        self, outbox, second, storage, clock
    ):
        outbox.enqueue(SHOP, batch_of("a"))
        second.pause(SHOP, "night")
        second.close()

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []
        with contextlib.closing(self.make_outbox(storage, clock=clock)) as third:
            assert third.claim(SHOP, "w", limit=1, claim_ttl=30) == []
            assert third.resume(SHOP)
        assert keys_of(outbox.claim(SHOP, "w", limit=1, claim_ttl=30)) == ["a"]

    def test_processes_that_claim_at_once_never_share_a_row(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(400)))

        def claim_all(index: int) -> list[int]:
            taken: list[int] = []
            for rows in claims(outbox, limit=7):
                taken += [row.id for row in rows]
            return taken

        taken = in_processes(4, claim_all)

        ids = [id for each in taken for id in each]
        assert sorted(ids) == [row.id for row in outbox.rows(SHOP, limit=1000)]

    def test_threads_of_processes_finish_every_row_once(self, outbox):
        outbox.enqueue(SHOP, batch_of(*numbered(200)))

        def work(_: int) -> int:
            published = 0
            for rows in claims(outbox, limit=5):
                published += outbox.mark_published(rows)
            return published

        published = in_processes(4, lambda _: sum(in_threads(2, work)))

        assert sum(published) == 200
        assert outbox.status(SHOP).pending == 0

    def test_processes_that_take_over_at_once_never_share_a_row(self, outbox, clock):
        outbox.enqueue(SHOP, batch_of(*numbered(40)))
        outbox.claim(SHOP, "killed", limit=40, claim_ttl=1)
        clock.advance(1)

        taken = in_processes(
            4,
            lambda _: [
                row.id for row in outbox.claim(SHOP, "w", limit=20, claim_ttl=30)
            ],
        )

        ids = [id for each in taken for id in each]
        assert sorted(ids) == [row.id for row in outbox.rows(SHOP)]

    def test_processes_that_enqueue_one_position_at_once_add_it_once(self, outbox):
        inserted = in_processes(
            4,
            lambda _: outbox.enqueue(
                SHOP, batch_of("a", "b"), commit_position="tx:7"
            ).inserted,
        )

        assert sum(inserted) == 2
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_forked_child_works_beside_its_parent(self, outbox):
        outbox.enqueue(SHOP, batch_of("a", "b"))
        held = outbox.claim(SHOP, "parent", limit=1, claim_ttl=30)

        def child(_: int) -> tuple[list[Any], int]:
            outbox.enqueue(SHOP, batch_of("c"))
            rows = outbox.claim(SHOP, "child", limit=9, claim_ttl=30)
            return keys_of(rows), outbox.mark_published(rows)

        [(keys, published)] = in_processes(1, child)

        assert keys == ["b", "c"]
        assert published == 2
        assert outbox.mark_published(held) == 1
        assert outbox.status(SHOP).pending == 0

    def test_childs_close_and_end_leave_the_parents_transaction_alone(
        self, outbox, app
    ):
        def child(_: int) -> int:
            pending = outbox.status(SHOP).pending
            outbox.close()
            return pending

        with outbox.transaction() as connection:
            app.write(connection)
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            seen = in_processes(2, child)
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert seen == [0, 0]
        assert app.notes() == ["data"]
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    @pytest.mark.parametrize(
        "error", [None, ZeroDivisionError()], ids=["leaves", "raises"]
    )
    def test_child_that_leaves_the_parents_block_ends_nothing(self, outbox, app, error):
        def leave(_: int) -> None:
            with contextlib.suppress(OutboxError, ZeroDivisionError):
                block.__exit__(error and type(error), error, None)

        block = outbox.transaction()
        with block as connection:
            app.write(connection)
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            in_processes(1, leave)
            committed = app.notes()
            outbox.enqueue_in(connection, SHOP, batch_of("b"))

        assert committed == []
        assert app.notes() == ["data"]
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_process_killed_before_its_commit_leaves_nothing(
        self, outbox, storage, app
    ):
        def die_uncommitted() -> None:
            with self.connect(storage) as connection:
                self.begin(connection)
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                os.kill(os.getpid(), signal.SIGKILL)

        killed(die_uncommitted)

        assert app.notes() == []
        assert outbox.rows(SHOP) == []
        assert outbox.enqueue(SHOP, batch_of("b")).inserted == 1

    def test_process_killed_inside_a_block_leaves_nothing(self, outbox, app):
        def die_inside() -> None:
            with outbox.transaction() as connection:
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                os.kill(os.getpid(), signal.SIGKILL)

        killed(die_inside)

        assert app.notes() == []
        assert outbox.rows(SHOP) == []
        assert outbox.enqueue(SHOP, batch_of("b")).inserted == 1

    def test_process_killed_after_its_commit_leaves_both(self, outbox, storage, app):
        def die_committed() -> None:
            with self.connect(storage) as connection:
                self.begin(connection)
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                connection.commit()
                os.kill(os.getpid(), signal.SIGKILL)

        killed(die_committed)

        assert app.notes() == ["data"]
        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a"]

    def test_process_killed_after_its_enqueue_leaves_the_rows(self, outbox):
        killed(lambda: outbox.enqueue(SHOP, batch_of("a", "b")))

        assert keys_of(outbox.claim(SHOP, "w", limit=9, claim_ttl=30)) == ["a", "b"]

    def test_rows_of_a_process_killed_after_its_claim_are_taken_over_in_time(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a", "b"))

        killed(lambda: outbox.claim(SHOP, "w", limit=9, claim_ttl=30))

        assert {row.attempts for row in outbox.rows(SHOP)} == {0}
        clock.advance(29.999)
        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []
        clock.advance(0.001)
        rows = outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
        assert keys_of(rows) == ["a", "b"]
        assert outbox.mark_published(rows) == 2

    def test_process_killed_after_its_mark_leaves_the_rows_finished(
        self, outbox, clock
    ):
        outbox.enqueue(SHOP, batch_of("a"))

        killed(
            lambda: outbox.mark_published(
                outbox.claim(SHOP, "w", limit=9, claim_ttl=30)
            )
        )

        clock.advance(100)
        assert outbox.claim(SHOP, "w", limit=9, claim_ttl=30) == []
        assert outbox.rows(SHOP)[0].is_published

    @pytest.fixture
    def bare(self, storage: Any, clock: FakeClock) -> Iterator[InvalidationOutbox]:
        """An outbox whose tables are not there."""
        outbox = self.make_outbox(storage, clock=clock, busy_timeout=DEADLINE)
        yield outbox
        outbox.close()

    def refused(self, outbox: InvalidationOutbox) -> list[SchemaError]:
        """What the calls of producers, workers, waiters and operators say."""
        receipt = InvalidationReceipt(SHOP, CommitPosition("tx"), 0, 1, batch_of("a"))
        errors = []
        for call in (
            lambda: outbox.check_schema(),
            lambda: outbox.enqueue(SHOP, batch_of("a")),
            lambda: outbox.transaction().__enter__(),
            lambda: outbox.claim(SHOP, "w", limit=1, claim_ttl=30),
            lambda: outbox.publish_commit(receipt),
            lambda: outbox.status(SHOP),
            lambda: outbox.status_for_commit(SHOP, "tx"),
            lambda: outbox.row(1),
            lambda: outbox.rows(SHOP),
            lambda: outbox.dead_letters(SHOP),
            lambda: outbox.reset_dead_letters(SHOP),
            lambda: outbox.discard_dead_letters(SHOP, [1]),
            lambda: outbox.purge_published(SHOP, older_than=0),
            lambda: outbox.escalate(SHOP),
            lambda: outbox.pause(SHOP),
            lambda: outbox.resume(SHOP),
            lambda: outbox.paused(),
            lambda: outbox.row_ids(SHOP, OutboxState.DEAD),
            lambda: outbox.rows_by_id(SHOP, [1]),
            lambda: outbox.namespaces(),
        ):
            with pytest.raises(SchemaError) as caught:
                call()
            errors.append(caught.value)
        return errors

    def test_missing_tables_are_named_with_what_to_run(self, bare):
        for error in self.refused(bare):
            assert "missing" in str(error)
            assert "hydracache schema install" in str(error)
            assert (error.found, error.expected) == (None, 1)

    def test_tables_installed_later_are_found(self, bare):
        with pytest.raises(SchemaError):
            bare.enqueue(SHOP, batch_of("a"))

        bare.install_schema()

        assert bare.enqueue(SHOP, batch_of("a")).inserted == 1

    @pytest.mark.parametrize("version", [0, 99])
    def test_tables_of_another_version_are_refused_by_every_call(
        self, bare, storage, clock, version
    ):
        bare.install_schema()
        self.sql(bare, "update hydracache_outbox_schema set version = ?", (version,))
        outbox = self.make_outbox(storage, clock=clock)

        for error in self.refused(outbox):
            assert error.found == version

        outbox.close()

    def test_threads_install_at_once(self, bare, storage, clock):
        def install(_: int) -> None:
            outbox = self.make_outbox(storage, clock=clock, busy_timeout=DEADLINE)
            outbox.install_schema()
            outbox.enqueue(SHOP, batch_of("a"))
            outbox.close()

        in_threads(8, install)

        bare.check_schema()
        assert bare.status(SHOP).pending == 8

    def test_processes_install_at_once(self, bare):
        def install(_: int) -> None:
            bare.install_schema()
            bare.enqueue(SHOP, batch_of("a"))

        in_processes(4, install)

        bare.check_schema()
        assert bare.status(SHOP).pending == 4
