"""A producer's transaction is the producer's."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from hydracache_sync.errors import (
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
)
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import (
    InvalidationOutbox,
)
from outbox_contract.common import SHOP, App, OutboxHooks, batch_of, keys_of
from support.processes import DEADLINE, in_threads


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

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_block_that_lost_its_transaction_and_raises_says_so_in_the_log(
        self, outbox, end, app, caplog
    ):
        with pytest.raises(ZeroDivisionError):
            with outbox.transaction() as connection:
                app.write(connection)
                getattr(connection, end)()
                1 / 0

        assert app.notes() == (["data"] if end == "commit" else [])
        assert "had been ended inside" in caplog.text

    def test_block_that_only_raises_logs_nothing(self, outbox, app, caplog):
        with pytest.raises(ZeroDivisionError):
            with outbox.transaction() as connection:
                app.write(connection)
                1 / 0

        assert "had been ended inside" not in caplog.text

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
            lambda outbox, receipt: outbox.enqueue(
                SHOP,
                batch_of("a"),
                commit_position=receipt.commit_position,
                timeout=0.01,
            ),
            lambda outbox, receipt: outbox.publish_commit(receipt, timeout=0.01),
            lambda outbox, receipt: outbox.status(SHOP, timeout=0.01),
            lambda outbox, receipt: outbox.status_for_commit(
                SHOP, receipt.commit_position, timeout=0.01
            ),
        ],
        ids=["enqueue", "publish_commit", "status", "status_for_commit"],
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
