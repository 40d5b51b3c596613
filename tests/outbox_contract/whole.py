"""All topics together, for one adapter."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any, ContextManager, Iterator

import pytest

from hydracache_sync.errors import (
    OutboxError,
    SchemaError,
)
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    InvalidationOutbox,
    OutboxState,
)
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from outbox_contract.claim import ClaimContract
from outbox_contract.common import SHOP, batch_of, claims, keys_of, numbered
from outbox_contract.dead_letters import DeadLetterContract
from outbox_contract.depth import DepthContract
from outbox_contract.due import DueContract
from outbox_contract.enqueue import EnqueueContract
from outbox_contract.escalation import EscalationContract
from outbox_contract.finding import FindingContract
from outbox_contract.heartbeat import HeartbeatContract
from outbox_contract.history import HistoryContract
from outbox_contract.identifiers import IdentifierContract
from outbox_contract.looking import LookingContract
from outbox_contract.malformed_rows import MalformedRowContract
from outbox_contract.mark import MarkContract
from outbox_contract.model import ModelContract
from outbox_contract.pause import PauseContract
from outbox_contract.publish import PublishCommitContract
from outbox_contract.purge import PurgeContract
from outbox_contract.schema import SchemaContract
from outbox_contract.status import StatusContract
from outbox_contract.subscribers import SubscriberContract
from outbox_contract.traceparent import TraceparentContract
from outbox_contract.transactions import TransactionContract
from outbox_contract.watermark import WatermarkContract
from outbox_contract.workers import WorkerContract
from support.clock import FakeClock
from support.processes import DEADLINE, in_processes, in_threads, killed


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
    HeartbeatContract,
    WatermarkContract,
    WorkerContract,
    PauseContract,
    LookingContract,
    FindingContract,
    SchemaContract,
    TraceparentContract,
    HistoryContract,
    DepthContract,
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
            lambda: outbox.write_heartbeat(),
            lambda: outbox.workers(),
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
