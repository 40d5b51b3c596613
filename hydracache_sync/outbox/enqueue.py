"""Enqueue: rows in the caller's transaction, in a block's, in one of their own."""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager, Iterator, Protocol, Sequence, Tuple

from hydracache_sync.drivers.transaction_end import TransactionEnd
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import (
    checked_batch,
    checked_count,
    checked_position,
)
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.statements import Present
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.subscribers import Subscribers

#: What a new row has of its own: hash, kind, value and entity name; text as it is.
NewRow = Tuple[Any, ...]

#: What follows it in each row of an enqueue: namespace, position, reason, and both
#: moments. Where the database's clock is taken only their distance, if there is one.
Shared = Tuple[Any, ...]


class Inserts(Protocol):
    """How one database takes new rows."""

    def is_one_statement(
        self, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> bool:
        """Whether :meth:`insert` runs a single statement, most often."""

    def insert(
        self, cursor: Any, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> int:
        """Insert rows through ``cursor``; return how many were not there already."""


class Callers(Protocol):
    """What is known of a caller's connection to one database."""

    def cursor(self, connection: Any) -> ContextManager[Any]:
        """A plain cursor in the caller's transaction; the driver's errors become ours.

        Neither begins, ends nor retries the transaction.

        :raises NotInTransactionError: the connection would commit the rows at once.
        """

    def execute(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        """Run a statement with ``values``, whatever the connection's converters are."""

    def end_of(self, connection: Any) -> TransactionEnd | None:
        """What tells of the end of the transaction that the caller has open."""


class Enqueuer:
    """Writes rows. The caller's transaction is never begun, ended or retried.

    Thread-safe.

    :param max_batch: intents that a batch may have; None without limit.
    :param on_commit: told of the namespaces with rows that were committed here.
    :param on_enqueue: told of the namespaces with rows that the caller will commit.
    """

    def __init__(
        self,
        database: Database,
        inserts: Inserts,
        callers: Callers,
        *,
        max_batch: int | None,
        on_commit: Subscribers[frozenset[str]],
        on_enqueue: Subscribers[frozenset[str]],
    ) -> None:
        if max_batch is not None and checked_count("max_batch", max_batch) == 0:
            raise ValueError("max_batch must be at least 1, not 0")
        self._database = database
        self._inserts = inserts
        self._callers = callers
        self._max_batch = max_batch
        self._on_commit = on_commit
        self._on_enqueue = on_enqueue
        self._binds_clock = database.dialect.binds_clock

    def enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        commit_position: CommitPosition | str | None,
        timeout: float | None,
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch, self._max_batch)
        position, new = checked_position(commit_position)
        present = Present.IMPOSSIBLE if new else Present.CARRIED_AGAIN
        return self.write(namespace, batch, position, present, timeout=timeout)

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        commit_position: CommitPosition | str | None,
    ) -> InvalidationReceipt:
        connection = own_connection(connection)
        batch = checked_batch(namespace, batch, self._max_batch)
        position, new = checked_position(commit_position)
        present = Present.IMPOSSIBLE if new else Present.CARRIED_AGAIN
        rows = _new_rows(batch)
        shared = self._shared(namespace, batch, position)
        inserted = 0
        with self._callers.cursor(connection) as cursor:
            if rows:
                inserted = self._inserts.insert(cursor, rows, shared, present)
        block = self._database.open_block()
        if block is not None and block.connection is connection:
            block.namespaces.append(namespace)
            over: TransactionEnd | None = block.over
        else:
            over = self._callers.end_of(connection)
            if rows and self._on_enqueue:
                self._on_enqueue.tell(frozenset((namespace,)))
        return self._receipt(namespace, batch, position, len(rows), inserted, over)

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        if receipt.inserted is not None and receipt.inserted < receipt.targets:
            return False  # what is there may be of an enqueue before
        encode = self._database.dialect.encode
        # In the order in which the statement has them.
        values = encode(receipt.namespace), encode(receipt.commit_position.value)
        text = self._database.statements.text(statements.SEEN)
        with self._callers.cursor(own_connection(connection)) as cursor:
            self._callers.execute(cursor, text, values)
            [record] = cursor.fetchall()
        # The caller's cursors may make what they like of a record.
        [rows] = record.values() if isinstance(record, dict) else record
        return int(rows) > 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._database.block() as block:
            yield block.connection
        if block.namespaces:
            self._on_commit.tell(frozenset(block.namespaces))

    def write(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        position: CommitPosition,
        present: Present,
        delay_ms: int = 0,
        *,
        timeout: float | None = None,
    ) -> InvalidationReceipt:
        """Write a batch that was checked in a transaction of its own.

        :param delay_ms: until its rows are due.
        :param timeout: seconds that all of it may take.
        """
        rows = _new_rows(batch)
        shared = self._shared(namespace, batch, position, delay_ms)
        again = False

        def insert(cursor: Any) -> int:
            nonlocal again
            if again and present is Present.IMPOSSIBLE:
                # The connection that was lost may have committed the rows already.
                return self._inserts.insert(cursor, rows, shared, Present.LEFT)
            again = True
            return self._inserts.insert(cursor, rows, shared, present)

        inserted = 0
        if rows:
            if self._inserts.is_one_statement(rows, shared, present):
                inserted = self._database.run(insert, timeout=timeout)
            else:
                inserted = self._database.transact(insert, timeout=timeout)
            if inserted or present is Present.CARRIED_AGAIN:
                self._on_commit.tell(frozenset((namespace,)))
        over = TransactionEnd()
        over.note()
        return self._receipt(namespace, batch, position, len(rows), inserted, over)

    def _receipt(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        position: CommitPosition,
        targets: int,
        inserted: int,
        over: TransactionEnd | None,
    ) -> InvalidationReceipt:
        created_at_ms = self._database.host_now_ms()
        return InvalidationReceipt(
            namespace, position, created_at_ms, targets, batch, inserted, _over=over
        )

    def _shared(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        position: CommitPosition,
        delay_ms: int = 0,
    ) -> Shared:
        shared = namespace, position.value, batch.reason
        if self._binds_clock:
            now_ms = self._database.host_now_ms()
            return (*shared, now_ms, now_ms + delay_ms)
        return (*shared, delay_ms) if delay_ms else shared


def _new_rows(batch: InvalidationIntentBatch) -> list[NewRow]:
    """The rows of a batch, one for each distinct intent."""
    # An intent is the tuple of its columns.
    return [(intent.target_hash(), *intent) for intent in batch.distinct()]
