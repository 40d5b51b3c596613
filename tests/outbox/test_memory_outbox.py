"""The outbox in memory: the contract, and what comes of living in one process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from typing import Any, Sequence

import pytest

from hydracache_sync.errors import NotInTransactionError, OutboxBusyError, OutboxError
from hydracache_sync.outbox import MemoryOutbox, statements
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.memory import MemorySessions
from hydracache_sync.outbox.row import OutboxRow
from outbox_contract.common import SHOP, batch_of, keys_of
from outbox_contract.whole import OutboxContract
from support import ROOT
from support.clock import FakeClock
from support.processes import DEADLINE, in_processes, in_threads


class TestMemoryOutbox(OutboxContract):
    @pytest.fixture
    def storage(self) -> None:
        return None

    def make_outbox(self, storage: None, **options: Any) -> MemoryOutbox:
        return MemoryOutbox(**options)

    def sql(
        self, outbox: MemoryOutbox, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        with outbox.transaction() as connection:
            return connection.execute(statement, parameters).fetchall()

    def spy(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        statements: list[str] = []
        connect = sqlite3.connect

        def spied(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(statements.append)
            return connection

        monkeypatch.setattr(sqlite3, "connect", spied)
        return statements

    def test_rows_are_there_without_an_install(self, clock):
        outbox = MemoryOutbox(clock=clock)

        outbox.check_schema()

        assert outbox.enqueue(SHOP, batch_of("a")).inserted == 1

    def test_two_outboxes_share_nothing(self, outbox, clock):
        other = MemoryOutbox(clock=clock)

        outbox.enqueue(SHOP, batch_of("a"))

        assert other.rows(SHOP) == []

    def test_closing_keeps_the_rows(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))

        outbox.close()

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_nothing_is_written_to_the_disk(self, tmp_path, monkeypatch, clock):
        monkeypatch.chdir(tmp_path)

        MemoryOutbox(clock=clock).enqueue(SHOP, batch_of("a"))

        assert os.listdir(tmp_path) == []

    def test_connections_of_others_are_refused(self, outbox):
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("begin")
            for foreign in (connection, None):
                with pytest.raises(NotInTransactionError, match="transaction()"):
                    outbox.enqueue_in(foreign, SHOP, batch_of("a"))

        assert outbox.rows(SHOP) == []

    def test_connection_of_a_block_is_refused_after_the_block(self, outbox):
        with outbox.transaction() as connection:
            pass

        with pytest.raises(NotInTransactionError):
            outbox.enqueue_in(connection, SHOP, batch_of("a"))

        assert outbox.rows(SHOP) == []

    def test_connection_of_another_threads_block_is_refused(self, outbox):
        with outbox.transaction() as connection:

            def join_in(_: int) -> None:
                with pytest.raises(NotInTransactionError):
                    outbox.enqueue_in(connection, SHOP, batch_of("theirs"))

            in_threads(1, join_in)
            outbox.enqueue_in(connection, SHOP, batch_of("mine"))

        assert keys_of(outbox.rows(SHOP)) == ["mine"]

    def test_threads_wait_for_a_transaction_and_give_up_in_the_end(self, clock):
        outbox = MemoryOutbox(clock=clock, busy_timeout=0.01)

        def enqueue(_: int) -> None:
            with pytest.raises(OutboxBusyError, match="transaction()"):
                outbox.enqueue(SHOP, batch_of("b"))

        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            in_threads(2, enqueue)

        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_thread_goes_on_when_a_transaction_has_ended(self, outbox):
        entered, asking = threading.Event(), threading.Event()

        def hold() -> None:
            with outbox.transaction() as connection:
                entered.set()
                assert asking.wait(DEADLINE)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))

        def wait() -> None:
            assert entered.wait(DEADLINE)
            asking.set()
            outbox.enqueue(SHOP, batch_of("b"))

        in_threads(2, lambda index: (hold, wait)[index]())

        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_child_process_is_refused(self, outbox):
        def child(_: int) -> list[str]:
            said = []
            for call in (
                lambda: outbox.enqueue(SHOP, batch_of("b")),
                lambda: outbox.claim(SHOP, "w", limit=1, claim_ttl=30),
                lambda: outbox.status(SHOP),
                lambda: outbox.rows(SHOP),
                lambda: outbox.check_schema(),
                lambda: outbox.install_schema(),
                lambda: outbox.transaction().__enter__(),
            ):
                with pytest.raises(OutboxError) as caught:
                    call()
                said.append(str(caught.value))
            return said

        outbox.enqueue(SHOP, batch_of("a"))

        [said] = in_processes(1, child)

        assert all("SQLiteOutbox" in each for each in said)
        assert keys_of(outbox.rows(SHOP)) == ["a"]

    def test_block_does_not_reach_into_a_child_process(self, outbox):
        def child(_: int) -> None:
            with pytest.raises(OutboxError):
                outbox.enqueue_in(connection, SHOP, batch_of("b"))

        with outbox.transaction() as connection:
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            in_processes(1, child)

        assert keys_of(outbox.rows(SHOP)) == ["a"]


def test_a_row_that_fails_just_before_it_is_made_due_keeps_its_backoff(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def overtaken(database: Database, template: str, *args: Any, **options: Any) -> Any:
        records = read(database, template, *args, **options)
        if template is statements.WAITING:
            clock.advance(10)
            rows = outbox.claim(SHOP, "other", limit=1, claim_ttl=30)
            outbox.mark_failed(rows, "of its own", backoff=60, dead=False)
        return records

    clock = FakeClock()
    outbox = MemoryOutbox(clock=clock)
    read = Database.read
    monkeypatch.setattr(Database, "read", overtaken)
    outbox.enqueue(SHOP, batch_of("a"))
    rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
    outbox.release(rows, delay=10, error="away", waits_for="one")

    outbox.make_due(SHOP, waits_for="one", limit=1)

    assert outbox.due_namespaces([SHOP]) == []


def test_outbox_that_is_dropped_warns_of_nothing() -> None:
    script = """
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import MemoryOutbox

for _ in range(2):
    MemoryOutbox().enqueue("shop", InvalidationIntentBatch().flush())
kept = MemoryOutbox()
"""

    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_another_thread_reads_does_not_change_the_text_in_a_block(monkeypatch):
    """Found to be no text once the connection was given back, and lent to the block."""
    outbox = MemoryOutbox()
    outbox.enqueue(SHOP, batch_of("a"))
    with outbox.transaction() as connection:
        connection.execute(
            "update hydracache_outbox set reason = cast(x'ff' as text)"
        ).close()
    failed, in_block, judged = threading.Event(), threading.Event(), threading.Event()
    error_of = MemorySessions.error_of

    def late(self: MemorySessions, exc: Exception) -> OutboxError | None:
        failed.set()
        in_block.wait(DEADLINE)
        try:
            return error_of(self, exc)
        finally:
            judged.set()

    monkeypatch.setattr(MemorySessions, "error_of", late)
    read: list[OutboxRow] = []
    reader = threading.Thread(target=lambda: read.extend(outbox.rows(SHOP)))
    reader.start()
    failed.wait(DEADLINE)
    with outbox.transaction() as connection:
        in_block.set()
        judged.wait(DEADLINE)
        [(found,)] = connection.execute("select 'text'").fetchall()
    reader.join()

    assert found == "text"
    assert len(read) == 1
