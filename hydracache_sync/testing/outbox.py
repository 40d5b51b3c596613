"""An outbox in memory that takes part in the transactions of any caller's connection.

The caller's own database says what became of a transaction: with each batch a mark is
written into a temporary table of the connection. A batch counts where its mark is still
seen. Savepoints, and an outer transaction that a test rolls back, need no rule then.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from typing import Any

from hydracache_sync.drivers import CallersConnection, driver_of
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.errors import OutboxError
from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.arguments import checked_batch, checked_position
from hydracache_sync.outbox.memory import MemoryOutbox
from hydracache_sync.outbox.row import OutboxRow
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt

_TABLE = "hydracache_marks"
_CREATE = f"create temporary table if not exists {_TABLE} (mark char(32) primary key)"


class RecordingOutbox(MemoryOutbox):
    """A ``MemoryOutbox`` that takes any connection an outbox could be told of.

    Of sqlite3, also to ``:memory:``, and of MySQL's drivers; those of SQLAlchemy by
    ``attach`` and those of Django by ``atomic``, as everywhere. What is enqueued there
    is held, and becomes rows when it is to be applied, if the connection still sees the
    mark: it was not rolled back. Whether the outermost transaction is
    committed does not matter, as it does not for the data that the test sees.

    A connection that is closed, or is another thread's, is not asked: what was written
    in it counts as committed. Thread-safe; for one process.
    """

    def __init__(self, *, max_batch: int | None = None) -> None:
        super().__init__(max_batch=max_batch)
        self._held: list[_Held] = []
        self._deciding = threading.RLock()

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        position, _ = checked_position(commit_position)
        block = self._database.open_block()
        if block is not None and block.connection is connection:
            return super().enqueue_in(
                connection, namespace, batch, commit_position=position
            )
        driver = driver_of(own_connection(connection))
        batch = checked_batch(namespace, batch, self.max_batch)
        driver.require_transaction()
        if batch:
            held = _Held(driver, namespace, batch, position)
            try:
                held.write_mark()
            except driver.errors as exc:
                raise OutboxError(f"{self!r}: {exc}") from exc
            with self._deciding:
                self._held.append(held)
        count = len(batch.distinct())
        return InvalidationReceipt(
            namespace, position, self.now_ms(), count, batch, count
        )

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        with self._deciding:
            held = self._held_of(receipt.commit_position)
            if held:
                return any(each.stands() for each in held)
        found = self.status_for_commit(receipt.namespace, receipt.commit_position)
        return found.pending + found.published + found.dead_lettered > 0

    def settle(self) -> None:
        """Make rows of all that is held and was not rolled back; forget the rest."""
        with self._deciding:
            self._decide(self._held)

    def standing(self) -> list[InvalidationIntent]:
        """What is held and was not rolled back so far, which may be later."""
        with self._deciding:
            # The rest is forgotten: a connection that is closed is not asked.
            self._held = [each for each in self._held if each.stands()]
            return [intent for each in self._held for intent in each.batch.distinct()]

    def forget(self) -> None:
        """Forget all, rows included: another test begins."""
        with self._deciding:
            self._held = []
            with self.transaction() as connection:
                connection.execute(f"delete from {self.table}")

    def rows(
        self,
        namespace: str,
        *,
        commit_position: CommitPosition | str | None = None,
        **options: Any,
    ) -> list[OutboxRow]:
        if commit_position is not None:
            # A writer asks for it, after its commit and in its own thread.
            with self._deciding:
                self._decide(self._held_of(commit_position))
        return super().rows(namespace, commit_position=commit_position, **options)

    # Below, _deciding is held.

    def _held_of(self, position: CommitPosition | str) -> list[_Held]:
        value = checked_position(position)[0].value
        return [each for each in self._held if each.position.value == value]

    def _decide(self, some: list[_Held]) -> None:
        for each in list(some):
            if each.stands():
                self.enqueue(each.namespace, each.batch, commit_position=each.position)
            self._held.remove(each)


@dataclass(eq=False)
class _Held:
    """A batch, and the mark of it in the caller's transaction."""

    driver: CallersConnection
    namespace: str
    batch: InvalidationIntentBatch
    position: CommitPosition

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.thread = threading.get_ident()

    def write_mark(self) -> None:
        cursor = self.driver.cursor()
        cursor.execute(_CREATE)
        cursor.execute(f"insert into {_TABLE} values ('{self.mark}')")
        cursor.close()

    def stands(self) -> bool:
        """Whether it was not rolled back; true where the connection cannot be asked."""
        if self.thread != threading.get_ident():
            return True
        try:
            cursor = self.driver.cursor()
            cursor.execute("select 1")
            cursor.fetchall()
        except self.driver.errors:
            return True  # closed
        was_over = self.driver.has_begun() is False
        # SQLite takes back the table with the transaction that made it.
        cursor.execute(_CREATE)
        cursor.execute(f"select mark from {_TABLE} where mark = '{self.mark}'")
        found = bool(cursor.fetchall())
        cursor.close()
        if was_over:
            self.driver.roll_back()  # what the look has begun, where autocommit is off
        return found
