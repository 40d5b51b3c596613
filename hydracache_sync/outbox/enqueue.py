"""Enqueue: rows in the caller's transaction, in a block's, in one of their own."""

from __future__ import annotations

import contextlib
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterator,
    Protocol,
    Sequence,
    Tuple,
    TypeVar,
)

from hydracache_sync.drivers.connection import TransactionEnd
from hydracache_sync.intents import InvalidationIntentBatch, target_hash
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

T = TypeVar("T")

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
        self,
        cursor: Any,
        rows: Sequence[NewRow],
        shared: Shared,
        present: Present,
        traceparent: str | None = None,
    ) -> int:
        """Insert rows through ``cursor``; return how many were not there already.

        :param traceparent: their trace context; None leaves the column out.
        """


class Callers(Protocol):
    """What is known of callers' connections to one database."""

    def run(
        self, connection: Any, work: Callable[..., T], *args: Any
    ) -> tuple[T, TransactionEnd | None]:
        """Call ``work`` with a plain cursor in the caller's transaction, and ``args``.

        Neither begins, ends nor retries the transaction. The driver's errors become
        ours. A call, not a context manager: in a producer's way each frame counts, the
        more as the processor comes from other work and has none of ours in its caches.

        :param connection: or what stands for one.
        :return: its result, and what tells of the end of the transaction.
        :raises TypeError: the connection is of no driver that is known.
        :raises NotInTransactionError: it would commit the rows at once, or has.
        """

    def execute(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        """Run a statement with ``values``, whatever the connection's converters are."""


class EnqueueSpan(Protocol):
    """The span of one enqueue."""

    @property
    def traceparent(self) -> str | None:
        """What its rows keep: at most 55 bytes of ASCII; None for nothing."""

    def note(self, receipt: InvalidationReceipt) -> None:
        """Take what was written. Never raises."""


class OutboxTracer(Protocol):
    """Opens spans. Never raises; what a block raises goes on."""

    def enqueue(self, namespace: str) -> ContextManager[EnqueueSpan]:
        """Open the span of an enqueue, which is the block."""


class Enqueuer:
    """Writes rows. The caller's transaction is never begun, ended or retried.

    Thread-safe.

    :param max_batch: intents that a batch may have; None without limit.
    :param on_commit: told of the namespaces with rows that were committed here.
    :param on_enqueue: told of the namespaces with rows that the caller will commit.
    :param on_insert: told of a namespace and how many rows were inserted.
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
        on_insert: Subscribers[tuple[str, int]],
    ) -> None:
        if max_batch is not None and checked_count("max_batch", max_batch) == 0:
            raise ValueError("max_batch must be at least 1, not 0")
        self._database = database
        self._inserts = inserts
        self._callers = callers
        self._max_batch = max_batch
        self._on_commit = on_commit
        self._on_enqueue = on_enqueue
        self._on_insert = on_insert
        self._binds_clock = database.dialect.binds_clock

    def enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        commit_position: CommitPosition | str | None,
        timeout: float | None,
        traceparent: str | None = None,
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch, self._max_batch)
        position, new = checked_position(commit_position)
        present = Present.IMPOSSIBLE if new else Present.CARRIED_AGAIN
        return self.write(
            namespace,
            batch,
            position,
            present,
            timeout=timeout,
            traceparent=traceparent,
        )

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        commit_position: CommitPosition | str | None,
        traceparent: str | None = None,
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch, self._max_batch)
        position, new = checked_position(commit_position)
        present = Present.IMPOSSIBLE if new else Present.CARRIED_AGAIN
        rows = _new_rows(batch)
        now_ms = self._database.host_now_ms()
        shared = self._shared(namespace, batch, position, now_ms)
        insert = self._inserts.insert if rows else _insert_nothing
        inserted, over = self._callers.run(
            connection, insert, rows, shared, present, traceparent
        )
        block = self._database.open_block()
        if block is not None and block.connection is connection:
            block.namespaces.append(namespace)
            over = block.over
        elif rows and self._on_enqueue.callbacks:
            self._on_enqueue.tell(frozenset((namespace,)))
        if self._on_insert.callbacks:
            self._on_insert.tell((namespace, inserted))
        return _receipt(namespace, batch, position, now_ms, len(rows), inserted, over)

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        if receipt.inserted is not None and receipt.inserted < receipt.targets:
            return False  # what is there may be of an enqueue before
        encode = self._database.dialect.encode
        # In the order in which the statement has them.
        values = encode(receipt.namespace), encode(receipt.commit_position.value)
        text = self._database.statements.text(statements.SEEN)

        def look(cursor: Any) -> Any:
            self._callers.execute(cursor, text, values)
            return cursor.fetchall()

        [record] = self._callers.run(connection, look)[0]
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
        traceparent: str | None = None,
    ) -> InvalidationReceipt:
        """Write a batch that was checked in a transaction of its own.

        :param delay_ms: until its rows are due.
        :param timeout: seconds that all of it may take.
        """
        rows = _new_rows(batch)
        now_ms = self._database.host_now_ms()
        shared = self._shared(namespace, batch, position, now_ms, delay_ms)
        again = False

        def insert(cursor: Any) -> int:
            nonlocal again
            how = present
            if again and present is Present.IMPOSSIBLE:
                # The connection that was lost may have committed the rows already.
                how = Present.LEFT
            again = True
            return self._inserts.insert(cursor, rows, shared, how, traceparent)

        inserted = 0
        if rows:
            if self._inserts.is_one_statement(rows, shared, present):
                inserted = self._database.run(insert, timeout=timeout)
            else:
                inserted = self._database.transact(insert, timeout=timeout)
            if inserted or present is Present.CARRIED_AGAIN:
                self._on_commit.tell(frozenset((namespace,)))
            if self._on_insert.callbacks:
                self._on_insert.tell((namespace, inserted))
        over = TransactionEnd()
        over.note()
        return _receipt(namespace, batch, position, now_ms, len(rows), inserted, over)

    def _shared(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        position: CommitPosition,
        now_ms: int,
        delay_ms: int = 0,
    ) -> Shared:
        if self._binds_clock:
            due_ms = now_ms + delay_ms
            return namespace, position.value, batch.reason, now_ms, due_ms
        if delay_ms:
            return namespace, position.value, batch.reason, delay_ms
        return namespace, position.value, batch.reason


def _receipt(
    namespace: str,
    batch: InvalidationIntentBatch,
    position: CommitPosition,
    now_ms: int,
    targets: int,
    inserted: int,
    over: TransactionEnd | None,
) -> InvalidationReceipt:
    receipt = object.__new__(InvalidationReceipt)
    # Not by its __init__, which makes a call for each field of a frozen class.
    receipt.__dict__.update(
        namespace=namespace,
        commit_position=position,
        created_at_ms=now_ms,
        targets=targets,
        batch=batch,
        inserted=inserted,
        strict=None,
        _over=over,
    )
    return receipt


def _new_rows(batch: InvalidationIntentBatch) -> list[NewRow]:
    """The rows of a batch, one for each distinct intent."""
    # An intent is the tuple of its columns.
    return [(target_hash(intent),) + intent for intent in batch.distinct()]


def _insert_nothing(*_: Any) -> int:
    """Stand for the INSERT of an empty batch, on a connection that is checked."""
    return 0
