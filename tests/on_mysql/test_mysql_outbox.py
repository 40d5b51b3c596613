"""The outbox in each MariaDB and MySQL: the contract, and what is their own."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Iterator, Sequence
from weakref import WeakKeyDictionary

import pytest
from mysql_databases import Database, fresh_database, spy_on_statements
from pymysql.cursors import DictCursor

from hydracache_sync.errors import OutboxBusyError, OutboxError
from hydracache_sync.outbox import MySQLOutbox
from outbox_contract.common import SHOP, batch_of, keys_of, numbered
from outbox_contract.whole import SharedOutboxContract
from support.processes import DEADLINE, in_threads
from support.servers import SQLServer


class TestMySQLOutbox(SharedOutboxContract):
    #: Where the outboxes of a test keep their rows.
    _storages: WeakKeyDictionary[MySQLOutbox, Database] = WeakKeyDictionary()

    @pytest.fixture
    def storage(self, sql_server: SQLServer) -> Iterator[Database]:
        with fresh_database(sql_server) as database:
            yield database

    def make_outbox(self, storage: Database, **options: Any) -> MySQLOutbox:
        outbox = storage.outbox(**options)
        self._storages[outbox] = storage
        return outbox

    def sql(
        self, outbox: MySQLOutbox, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        return self._storages[outbox].sql(statement, parameters)

    def spy(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        return spy_on_statements(monkeypatch)

    def plant(
        self, outbox: MySQLOutbox, column: str, value: Any, kind: str = "key"
    ) -> int:
        # As the outbox makes it, the column takes nothing over-long.
        self.sql(outbox, "alter table hydracache_outbox modify value varbinary(5000)")
        return super().plant(outbox, column, value, kind)

    @contextlib.contextmanager
    def connect(self, storage: Database) -> Iterator[Any]:
        with storage.connect(read_timeout=DEADLINE) as connection:
            yield connection

    def begin(self, connection: Any) -> None:
        connection.begin()

    def test_rows_survive_their_outbox(self, outbox, storage):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.close()

        with contextlib.closing(storage.outbox()) as reopened:
            assert keys_of(reopened.rows(SHOP)) == ["a"]

    def test_outbox_can_be_used_again_after_its_close(self, outbox):
        outbox.enqueue(SHOP, batch_of("a"))
        outbox.close()
        outbox.close()

        assert outbox.enqueue(SHOP, batch_of("b")).inserted == 1

    def test_connection_lent_to_a_block_is_an_ordinary_one(self, outbox, app):
        with outbox.transaction() as connection:
            app.write(connection, "caf\xe9")
            connection.cursorclass = DictCursor
            with connection.cursor() as cursor:
                cursor.execute("select note from app")
                note = cursor.fetchone()
            outbox.enqueue_in(connection, SHOP, batch_of("a"))
            connection.autocommit(False)

        outbox.enqueue(SHOP, batch_of("b"))
        assert note == {"note": "caf\xe9"}
        assert self.sql(outbox, "select count(*) from hydracache_outbox") == [(2,)]
        assert keys_of(outbox.rows(SHOP)) == ["a", "b"]

    def test_block_whose_connection_was_closed_has_changed_nothing(self, outbox, app):
        with pytest.raises(OutboxError):
            with outbox.transaction() as connection:
                app.write(connection)
                outbox.enqueue_in(connection, SHOP, batch_of("a"))
                connection.close()

        assert outbox.rows(SHOP) == []
        assert app.notes() == []

    def test_batch_of_several_statements_is_written_whole_or_not_at_all(self, outbox):
        self.sql(
            outbox,
            "create trigger refuse before insert on hydracache_outbox for each row"
            " if new.value = 'key:2999' then signal sqlstate '45000'; end if",
        )

        with pytest.raises(OutboxError):
            outbox.enqueue(SHOP, batch_of(*numbered(3000)))

        assert outbox.rows(SHOP) == []

    def test_a_row_published_since_the_callers_snapshot_is_carried_again(
        self, outbox, storage
    ):
        first = outbox.enqueue(SHOP, batch_of("a"), commit_position="tx:7")
        with self.connect(storage) as caller, caller.cursor() as cursor:
            cursor.execute("set session transaction isolation level repeatable read")
            cursor.execute("start transaction with consistent snapshot")
            outbox.publish_commit(first)

            if storage.server.checks_snapshots:
                # It refuses to change what is newer, and has rolled back.
                with pytest.raises(OutboxBusyError, match="1020"):
                    outbox.enqueue_in(
                        caller, SHOP, batch_of("a"), commit_position="tx:7"
                    )
                caller.begin()
            outbox.enqueue_in(caller, SHOP, batch_of("a"), commit_position="tx:7")
            caller.commit()

        assert outbox.status(SHOP).pending == 1

    def test_a_row_of_a_session_with_another_time_is_carried_and_told(self, storage):
        with contextlib.closing(self.make_outbox(storage)) as outbox:
            outbox.install_schema()
            with self.connect(storage) as caller, caller.cursor() as cursor:
                cursor.execute("set timestamp = unix_timestamp() + 86400")
                outbox.enqueue_in(caller, SHOP, batch_of("a"))
                caller.commit()

            ahead = outbox.status(SHOP).ahead_ms
            rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert 86_000_000 < ahead <= 86_400_000
        assert keys_of(rows) == ["a"]

    def test_idle_claim_begins_no_transaction_and_locks_nothing(
        self, storage, clock, monkeypatch
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)

        assert outbox.claim(SHOP, "w", limit=1, claim_ttl=30) == []

        assert [text.split()[0] for text in statements] == ["select"]
        outbox.close()

    def test_claim_after_a_full_one_does_not_ask_first(
        self, storage, clock, monkeypatch
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        outbox.enqueue(SHOP, batch_of("a", "b", "c"))
        sent = []
        for _ in range(3):
            statements.clear()
            outbox.claim(SHOP, "w", limit=2, claim_ttl=30)
            sent.append(len([text for text in statements if "lock" not in text]))
        statements.clear()
        outbox.claim(SHOP, "w", limit=2, claim_ttl=30)

        # What is there is asked for once, then taken for granted while it lasts.
        assert sent[1] == sent[0] - 1
        assert len(statements) == 1
        outbox.close()

    def test_claim_waits_for_no_pause_that_is_not_committed(self, storage, clock):
        outbox = self.make_outbox(storage, clock=clock, busy_timeout=0)
        outbox.install_schema()
        outbox.enqueue(SHOP, batch_of("a"))

        with storage.connect() as connection:
            connection.begin()
            connection.cursor().execute(
                "insert into hydracache_outbox_paused values ('shop', 1, '')"
            )
            rows = outbox.claim(SHOP, "w", limit=1, claim_ttl=30)

        assert keys_of(rows) == ["a"]
        outbox.close()

    @pytest.mark.parametrize("paused", [True, False])
    def test_claim_locks_no_row_of_the_pauses(
        self, storage, clock, monkeypatch, paused
    ):
        outbox, statements = self.spied_outbox(storage, clock, monkeypatch)
        outbox.enqueue(SHOP, batch_of("a"))
        statements.clear()
        outbox.claim(SHOP, "w", limit=1, claim_ttl=30)
        [select] = [text for text in statements if "created_at_ms, id" in text]
        if paused:
            outbox.pause(SHOP)
        impatient = self.make_outbox(storage, clock=clock, busy_timeout=0)

        with storage.connect() as connection:
            connection.begin()
            connection.cursor().execute(select)
            impatient.pause(SHOP, "again")
            resumed = impatient.resume(SHOP)

        assert resumed
        impatient.close()
        outbox.close()

    def test_claims_meet_no_row_that_is_newer_than_they_are(self, storage):
        """What MariaDB from 11.6 on refuses by default, also at READ COMMITTED."""
        outbox = self.make_outbox(storage, busy_timeout=0)
        outbox.install_schema()
        # Many, so that others commit while a claim reads them.
        outbox.enqueue(SHOP, batch_of(*numbered(2000)))
        claims = 10
        refused: list[str] = []
        enough = threading.Event()

        def carry() -> None:
            try:
                for _ in range(claims):
                    try:
                        rows = outbox.claim(SHOP, "w", limit=10_000, claim_ttl=30)
                        outbox.release(rows)
                    except OutboxBusyError as exc:
                        refused.append(str(exc))
            finally:
                enough.set()

        def produce() -> None:
            while not enough.is_set():
                outbox.enqueue(SHOP, batch_of("a", "b"))

        in_threads(2, lambda index: (produce, carry)[index]())

        assert [text for text in refused if "1020" in text] == []
        outbox.close()
