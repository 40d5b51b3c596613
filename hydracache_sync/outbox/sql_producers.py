"""Producers: rows in the caller's transaction, in a block's, in one of their own."""

from __future__ import annotations

import abc
import contextlib
import os
from typing import Any, Callable, ContextManager, Iterator, Sequence, Tuple, TypeVar

from hydracache_sync.drivers.transaction_end import TransactionEnd
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.errors import OutboxError
from hydracache_sync.fork import ProcessLocal
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.base import checked_batch, checked_position
from hydracache_sync.outbox.sql_runner import StatementRunner, checked_count
from hydracache_sync.outbox.statements import Present
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt

T = TypeVar("T")

#: What a new row has of its own: hash, kind, value and entity name; text as it is.
NewRow = Tuple[Any, ...]

#: What follows it in each row of an enqueue: namespace, position, reason, and both
#: moments. Where the database's clock is taken only their distance, if there is one.
Shared = Tuple[Any, ...]


class ProducersSide(StatementRunner):
    """What writes rows. The caller's transaction is never begun, ended or retried."""

    def __init__(
        self,
        *,
        table: str,
        busy_timeout: float,
        max_batch: int | None,
        clock: Callable[[], float] | None,
    ) -> None:
        super().__init__(table=table, busy_timeout=busy_timeout, clock=clock)
        if max_batch is not None and checked_count("max_batch", max_batch) == 0:
            raise ValueError("max_batch must be at least 1, not 0")
        self.max_batch = max_batch
        self._block = ProcessLocal()
        self._binds_clock = self.dialect.binds_clock

    def enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch, self.max_batch)
        position, new = checked_position(commit_position)
        present = Present.IMPOSSIBLE if new else Present.CARRIED_AGAIN
        return self._enqueue(namespace, batch, position, present)

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        connection = own_connection(connection)
        batch = checked_batch(namespace, batch, self.max_batch)
        position, new = checked_position(commit_position)
        rows = _new_rows(batch)
        shared = self._shared(namespace, batch, position)

        present = Present.IMPOSSIBLE if new else Present.CARRIED_AGAIN

        def insert(cursor: Any) -> int:
            return self._insert(cursor, rows, shared, present) if rows else 0

        inserted = self._run_in(connection, insert)
        block = self._open_block()
        if block is not None and block.connection is connection:
            block.namespaces.append(namespace)
            over: TransactionEnd | None = block.over
        else:
            over = self._end_of(connection)
            if rows and self._on_enqueue:
                self._on_enqueue.tell(frozenset((namespace,)))
        return self._receipt(namespace, batch, position, len(rows), inserted, over)

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        if receipt.inserted is not None and receipt.inserted < receipt.targets:
            return False  # what is there may be of an enqueue before
        connection = own_connection(connection)
        encode = self.dialect.encode
        # In the order in which the statement has them.
        values = encode(receipt.namespace), encode(receipt.commit_position.value)

        def count(cursor: Any) -> int:
            text = self._statements.text(statements.SEEN)
            self._execute_in(cursor, text, values)
            [record] = cursor.fetchall()
            # The caller's cursors may make what they like of a record.
            [rows] = record.values() if isinstance(record, dict) else record
            return int(rows)

        return self._run_in(connection, count) > 0

    def _end_of(self, connection: Any) -> TransactionEnd | None:
        """What tells of the end of the transaction that the caller has open."""
        return None

    @abc.abstractmethod
    def _run_in(self, connection: Any, work: Callable[[Any], T]) -> T:
        """Check the caller's connection and run ``work`` with a cursor on it.

        Not a context manager: in a producer's way each call counts, the more as the
        processor comes from other work and has none of ours in its caches.

        :raises NotInTransactionError: as :meth:`enqueue_in`.
        """

    def _execute_in(self, cursor: Any, text: str, values: Sequence[Any]) -> None:
        """Run a statement with ``values`` on a cursor of the caller's connection."""
        cursor.execute(text, values)

    def _enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        position: CommitPosition,
        present: Present,
        delay_ms: int = 0,
    ) -> InvalidationReceipt:
        rows = _new_rows(batch)
        shared = self._shared(namespace, batch, position, delay_ms)
        again = False

        def insert(cursor: Any) -> int:
            nonlocal again
            if again and present is Present.IMPOSSIBLE:
                # A connection that was lost may have taken the rows with it.
                return self._insert(cursor, rows, shared, Present.LEFT)
            again = True
            return self._insert(cursor, rows, shared, present)

        inserted = 0
        if rows:
            alone = len(self._insert_parts(rows, shared)) == 1 and (
                present is not Present.CARRIED_AGAIN
                or self.dialect.carry_again is not None
            )
            inserted = self._run(insert) if alone else self._transact(insert)
            if inserted or present is Present.CARRIED_AGAIN:
                self.announce_commit([namespace])
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
        created_at_ms = self._host_now_ms()
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
            now_ms = self._host_now_ms()
            return (*shared, now_ms, now_ms + delay_ms)
        return (*shared, delay_ms) if delay_ms else shared

    def _insert(
        self, cursor: Any, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> int:
        """Insert rows through ``cursor``; return how many were not there already."""
        inserted = 0
        for part in self._insert_parts(rows, shared):
            inserted += self._insert_part(cursor, part, shared, present)
        return inserted

    @abc.abstractmethod
    def _insert_parts(
        self, rows: Sequence[NewRow], shared: Shared
    ) -> Sequence[Sequence[NewRow]]:
        """Split rows by what one statement takes; most often into one part."""

    @abc.abstractmethod
    def _insert_part(
        self, cursor: Any, rows: Sequence[NewRow], shared: Shared, present: Present
    ) -> int:
        """Run one INSERT; return the rows inserted."""

    def transaction(self) -> ContextManager[Any]:
        return self._transaction()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        self._check_once()
        with contextlib.ExitStack() as stack:
            connection = self._retried(lambda: self._begin(stack))
            pid = os.getpid()
            block = self._block.mine().entry = _Block(pid, connection)
            try:
                self._lend(connection)
                yield connection
                self._end_block(connection, pid)
            except BaseException as exc:
                if os.getpid() == pid:
                    self._abandon(connection, exc)
                raise
            finally:
                self._block.mine().entry = None
                self._take_back(connection)
        block.over.note()
        if block.namespaces:
            self.announce_commit(block.namespaces)

    def _end_block(self, connection: Any, pid: int) -> None:
        if os.getpid() != pid:
            raise OutboxError(
                f"a transaction() block of process {pid} was left in its child; it ends"
                " in the parent"
            )
        if not self._in_transaction(connection):
            raise OutboxError(
                "the transaction was ended inside the transaction() block; leave commit"
                " and rollback to the block"
            )
        self._commit(connection)

    def _commit(self, connection: Any) -> None:
        """Commit the transaction of a block; again, until the database is not busy."""
        self._retried(connection.commit, replace=False)

    def _begin(self, stack: contextlib.ExitStack) -> Any:
        """Begin a transaction on an own connection that ``stack`` gives back."""
        with contextlib.ExitStack() as lent:
            connection = lent.enter_context(self._session())
            connection.cursor().execute(self.dialect.begin)
            stack.push(lent.pop_all())
        return connection

    def _lend(self, connection: Any) -> None:
        """Prepare an own connection for the caller of :meth:`transaction`."""

    def _take_back(self, connection: Any) -> None:
        """Undo :meth:`_lend`."""

    def _refuse_in_block(self) -> None:
        if self._open_block() is not None:
            raise OutboxError(
                "this thread is inside a transaction() block of the outbox; there it"
                " may call enqueue_in with the block's connection only"
            )

    def _open_block(self) -> _Block | None:
        """This thread's open ``transaction()`` block, if it has one."""
        # Not getattr(): there is none most of the time, which would raise within it.
        block: _Block | None = self._block.mine().__dict__.get("entry")
        return block if block is not None and block.pid == os.getpid() else None


class _Block:
    """An open ``transaction()`` block of one thread.

    :ivar namespaces: in which rows were enqueued in it.
    """

    def __init__(self, pid: int, connection: Any) -> None:
        self.pid = pid
        self.connection = connection
        self.namespaces: list[str] = []
        self.over = TransactionEnd()


def _new_rows(batch: InvalidationIntentBatch) -> list[NewRow]:
    """The rows of a batch, one for each distinct intent."""
    # An intent is the tuple of its columns.
    return [(intent.target_hash(), *intent) for intent in batch.distinct()]
