"""The outbox over a DB-API connection: statements and transactions of every database.

What the statements are is in :mod:`~hydracache_sync.outbox.statements`. Knows nothing
of appliers, caches or threads.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import os
import random
import secrets
import time
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterable,
    Iterator,
    NoReturn,
    Sequence,
    Tuple,
    TypeVar,
)

from hydracache_sync.durations import duration_ms
from hydracache_sync.errors import OutboxBusyError, OutboxError, SchemaError
from hydracache_sync.intents import MAX_REASON, InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace, checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.base import (
    MAX_OWNER,
    STATUS_CAP,
    InvalidationOutbox,
    checked_batch,
    checked_position,
)
from hydracache_sync.outbox.rights import PROBES, Right
from hydracache_sync.outbox.row import (
    CommitStatus,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    PendingPhase,
    readable,
)
from hydracache_sync.outbox.schema import SCHEMA_VERSION
from hydracache_sync.outbox.statements import Dialect, Statements
from hydracache_sync.outbox.transaction_end import TransactionEnd
from hydracache_sync.process_local import ProcessLocal
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt

T = TypeVar("T")

#: What a new row has of its own: hash, kind, value and entity name; text as it is.
NewRow = Tuple[Any, ...]

#: What follows it in each row of an enqueue: namespace, position, reason, and both
#: moments. Where the database's clock is taken only their distance, if there is one.
Shared = Tuple[Any, ...]

#: Ids or hashes in one statement: old SQLite takes 999 parameters.
IDS_PER_STATEMENT = 500

#: Namespaces in one statement: their answers are the bits of a 64-bit number.
NAMESPACES_PER_STATEMENT = 60

#: Characters of an error that a row keeps; the rest is counted, not kept.
MAX_ERROR = 1000

#: First and longest pause, in seconds, before an own transaction that found the
#: database busy is run again. The first is about one commit.
FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.05


class ConnectionLostError(OutboxError):
    """An own connection was dead; it has been dropped. Never seen by callers as such.

    What was under way may have been done or not.
    """


class SQLOutbox(InvalidationOutbox):
    """What SQLite and MySQL share. See :class:`InvalidationOutbox` for the contract."""

    #: Set by the adapter.
    dialect: Dialect

    #: What takes the records of a claim, which are as the dialect selects them.
    claimed_row: type[OutboxRow] = OutboxRow

    def __init__(
        self, *, table: str, busy_timeout: float, clock: Callable[[], float] | None
    ) -> None:
        super().__init__()
        self._statements = Statements(self.dialect, table)
        self._table = table
        duration_ms("busy_timeout", busy_timeout)
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._block = ProcessLocal()
        self._binds_clock = self.dialect.binds_clock
        self._schema_checked = False
        #: What was asked of :meth:`due_namespaces` last, split into statements.
        self._due_parts: dict[tuple[str, ...], list[Sequence[str]]] = {}
        #: Namespaces that have rows due, most likely: a commit or a look has told so,
        #: or the last claim was a full one. A claim asks before it begins elsewhere.
        self._likely: set[str] = set()

    # What an adapter supplies

    @abc.abstractmethod
    def _session(self) -> ContextManager[Any]:
        """Lend this thread its connection, outside of any transaction."""

    @abc.abstractmethod
    def _translated(self) -> ContextManager[None]:
        """Turn the driver's errors into ours."""

    @abc.abstractmethod
    def _abandon(self, connection: Any, exc: BaseException) -> None:
        """Roll back whatever is open; if that fails, drop the connection.

        :param exc: what has ended the transaction.
        """

    @abc.abstractmethod
    def _in_transaction(self, connection: Any) -> bool:
        """Whether the own ``connection`` has a transaction open."""

    # Producers

    def enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch)
        position, new = checked_position(commit_position)
        return self._enqueue(namespace, batch, position, new)

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        batch = checked_batch(namespace, batch)
        position, new = checked_position(commit_position)
        rows = _new_rows(batch)
        shared = self._shared(namespace, batch, position)

        def insert(cursor: Any) -> int | None:
            return self._insert(cursor, rows, shared, new) if rows else 0

        inserted = self._run_in(connection, insert)
        if not new and not self._tells_inserted(connection):
            inserted = None
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

    def _tells_inserted(self, connection: Any) -> bool:
        """Whether rows that are there already are left out of a statement's count."""
        return True

    def _enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        position: CommitPosition,
        new: bool,
        delay_ms: int = 0,
    ) -> InvalidationReceipt:
        rows = _new_rows(batch)
        shared = self._shared(namespace, batch, position, delay_ms)
        tries = 0

        def insert(cursor: Any) -> int | None:
            nonlocal tries
            tries += 1
            # A connection that was lost may have taken the rows with its last breath.
            return self._insert(cursor, rows, shared, new and tries == 1)

        inserted: int | None = 0
        if rows:
            alone = len(self._insert_parts(rows, shared)) == 1
            inserted = self._run(insert) if alone else self._transact(insert)
            if inserted != 0:
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
        inserted: int | None,
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
        self, cursor: Any, rows: Sequence[NewRow], shared: Shared, new: bool
    ) -> int:
        """Insert rows through ``cursor``; return how many.

        :param new: their position was generated: no row can be there already.
        """
        inserted = 0
        for part in self._insert_parts(rows, shared):
            inserted += self._insert_part(cursor, part, shared, new)
        return inserted

    @abc.abstractmethod
    def _insert_parts(
        self, rows: Sequence[NewRow], shared: Shared
    ) -> Sequence[Sequence[NewRow]]:
        """Split rows by what one statement takes; most often into one part."""

    @abc.abstractmethod
    def _insert_part(
        self, cursor: Any, rows: Sequence[NewRow], shared: Shared, new: bool
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

    def _tell_committed(self, namespaces: frozenset[str]) -> None:
        self._likely.update(namespaces)
        super()._tell_committed(namespaces)

    # Workers

    def claim(
        self, namespace: str, owner: str, *, limit: int, claim_ttl: float
    ) -> list[OutboxRow]:
        checked_namespace(namespace)
        checked_text("owner", owner, minimum=1, maximum=MAX_OWNER)
        ttl_ms = duration_ms("claim_ttl", claim_ttl)
        if ttl_ms == 0:
            raise ValueError("claim_ttl must be at least 0.001 seconds, not 0")
        if checked_count("limit", limit) == 0:
            return []
        params = self._params(namespace=self.dialect.encode(namespace), limit=limit)
        # An idle worker begins no transaction and takes no lock.
        if namespace not in self._likely:
            if not self._read(statements.CLAIM_PEEK, params):
                return []
        # Drawn from the system at each claim: unlike a counter or an owner's name it
        # cannot repeat after a restart or a fork. 63 bits fit a signed column.
        token = secrets.randbits(63)

        def take(cursor: Any) -> list[OutboxRow]:
            # The clock is read again: a wait for the lock may have taken seconds.
            self._statements.run(
                cursor,
                statements.CLAIM_SELECT + self._lock_rows(cursor),
                self._params(**params),
            )
            records = cursor.fetchall()
            if not records:
                return []
            now_ms = self.claimed_row.clock(records[0])
            claim = {
                "claimed_at_ms": now_ms,
                "until_ms": now_ms + ttl_ms,
                "owner": self.dialect.encode(owner),
                "token": token,
            }
            taken = 0
            for part in _parts([record[0] for record in records], IDS_PER_STATEMENT):
                self._statements.run(cursor, statements.CLAIM_UPDATE, claim, part)
                taken += cursor.rowcount
            if taken < len(records):
                # Rows that were not locked while they were read may have been
                # finished or discarded in between.
                records = self._still_claimed(cursor, records, token)
            common = (namespace, OutboxState.PENDING.code, *claim.values())
            row = self.claimed_row
            return [row(record, common) for record in records]

        rows = self._transact(take, claim=True)
        if len(rows) < limit:
            self._likely.discard(namespace)
        else:
            self._likely.add(namespace)
        return rows

    def _lock_rows(self, cursor: Any) -> str:
        """End of the claim's select, to lock what it reads and skip what is locked."""
        return ""

    def _still_claimed(
        self, cursor: Any, records: Sequence[tuple[Any, ...]], token: int
    ) -> list[tuple[Any, ...]]:
        held: set[int] = set()
        for part in _parts([record[0] for record in records], IDS_PER_STATEMENT):
            self._statements.run(cursor, statements.CLAIMED_IDS, {"token": token}, part)
            held.update(record[0] for record in cursor.fetchall())
        return [record for record in records if record[0] in held]

    def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
        asked = tuple(namespaces)
        parts = self._due_parts.get(asked)
        if parts is None:
            for namespace in asked:
                checked_namespace(namespace)
            distinct = list(dict.fromkeys(asked))
            parts = list(_parts(distinct, NAMESPACES_PER_STATEMENT))
            # A pool asks for the same ones, fifty times a second.
            self._due_parts = {asked: parts}
        due: list[str] = []
        any_paused = False
        for part in parts:
            bits = self._run(functools.partial(self._due_bits, part))
            due += [name for n, name in enumerate(part) if bits >> n & 1]
            any_paused |= bool(bits >> len(part))
        if due and any_paused:
            paused = self.paused()
            due = [namespace for namespace in due if namespace not in paused]
        self._likely.update(due)
        return due

    def _due_bits(self, namespaces: Sequence[str], cursor: Any) -> int:
        """Ask for ``namespaces`` with one statement."""
        now_ms = self._host_now_ms()
        moments = (now_ms, now_ms) if self.dialect.binds_clock else ()
        values: list[Any] = []
        for namespace in namespaces:
            values += (self.dialect.encode(namespace), *moments)
        cursor.execute(self._statements.due(len(namespaces)), values)
        [(bits,)] = cursor.fetchall()
        return int(bits)

    def mark_published(self, rows: Sequence[OutboxRow]) -> int:
        return self._mark(statements.MARK_PUBLISHED, rows)

    def mark_failed(
        self, rows: Sequence[OutboxRow], error: str, *, backoff: float, dead: bool
    ) -> int:
        delay_ms = duration_ms("backoff", backoff)
        return self._mark(
            statements.MARK_FAILED,
            rows,
            state=OutboxState.DEAD.code if dead else OutboxState.PENDING.code,
            delay_ms=0 if dead else delay_ms,
            error=self._kept_error(error),
        )

    def release(
        self, rows: Sequence[OutboxRow], *, delay: float = 0.0, error: str | None = None
    ) -> int:
        return self._mark(
            statements.RELEASE,
            rows,
            delay_ms=duration_ms("delay", delay),
            error=None if error is None else self._kept_error(error),
        )

    def _mark(self, template: str, rows: Sequence[OutboxRow], **params: Any) -> int:
        """Change the rows that their claim still holds; count them."""
        held: dict[int, list[int]] = {}
        for row in rows:
            token = row.claim_token
            if token is not None:
                held.setdefault(token, []).append(row.id)
        parts = [
            (token, part)
            for token, ids in held.items()
            for part in _parts(ids, IDS_PER_STATEMENT)
        ]

        def mark(cursor: Any) -> int:
            changed = 0
            for token, part in parts:
                fenced = self._params(**params, token=token)
                self._statements.run(cursor, template, fenced, part)
                changed += cursor.rowcount
            return changed

        if not parts:
            return 0
        return self._run(mark) if len(parts) == 1 else self._transact(mark)

    def publish_commit(
        self, receipt: InvalidationReceipt, *, timeout: float | None = None
    ) -> int:
        if not isinstance(receipt, InvalidationReceipt):
            raise TypeError(
                f"receipt must be InvalidationReceipt, not {type(receipt).__name__}"
            )
        if receipt.batch is None:
            raise ValueError(
                "the receipt came as text and has no batch: which rows were applied"
                " is not known"
            )
        hashes = [intent.target_hash() for intent in receipt.batch.distinct()]
        parts = list(_parts(hashes, IDS_PER_STATEMENT))
        position = self.dialect.encode(receipt.commit_position.value)

        def publish(cursor: Any) -> int:
            changed = 0
            for part in parts:
                params = self._params(
                    namespace=self.dialect.encode(receipt.namespace),
                    position=position,
                )
                self._statements.run(cursor, statements.PUBLISH_COMMIT, params, part)
                changed += cursor.rowcount
            return changed

        if not parts:
            return 0
        if len(parts) == 1:
            return self._run(publish, timeout=timeout)
        return self._transact(publish, timeout=timeout)

    # Waiters

    def status(self, namespace: str, *, timeout: float | None = None) -> OutboxStatus:
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            cap=STATUS_CAP + 1,
        )
        [record] = self._read(statements.STATUS, params, timeout=timeout)
        now_ms, pending, oldest, tried, dead, died, published, paused = record
        return OutboxStatus(
            pending=min(pending, STATUS_CAP),
            oldest_pending_age_ms=(
                0 if oldest is None else max(0, int(now_ms) - int(oldest))
            ),
            dead_lettered=min(dead, STATUS_CAP),
            last_published_at_ms=None if published is None else int(published),
            failed_attempts=int(tried or 0) + int(died or 0),
            capped=max(pending, dead) > STATUS_CAP,
            paused_since_ms=None if paused is None else int(paused),
        )

    def status_for_commit(
        self,
        namespace: str,
        commit_position: CommitPosition | str,
        *,
        batch: InvalidationIntentBatch | None = None,
        timeout: float | None = None,
    ) -> CommitStatus:
        position, _ = checked_position(commit_position)
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            position=self.dialect.encode(position.value),
        )
        if batch is None:
            records = self._read(statements.STATUS_FOR_COMMIT, params, timeout=timeout)
        else:
            hashes = [intent.target_hash() for intent in batch.distinct()]
            records = [
                record
                for part in _parts(hashes, IDS_PER_STATEMENT)
                for record in self._read(
                    statements.STATUS_FOR_TARGETS, params, part, timeout=timeout
                )
            ]
        now_ms = max((int(record[0]) for record in records), default=0)
        pending, published, dead = (
            sum(int(record[state] or 0) for record in records) for state in (1, 2, 3)
        )
        return CommitStatus(pending, published, dead, now_ms)

    # Operators

    def row(self, id: int) -> OutboxRow | None:
        records = self._read(statements.ROW, {"id": checked_count("id", id)})
        return OutboxRow(records[0]) if records else None

    def rows(
        self,
        namespace: str,
        *,
        state: OutboxState | None = None,
        commit_position: CommitPosition | str | None = None,
        limit: int = 100,
        after: int = 0,
        timeout: float | None = None,
    ) -> list[OutboxRow]:
        if state is not None and not isinstance(state, OutboxState):
            raise TypeError(f"state must be OutboxState, not {type(state).__name__}")
        params = {
            "namespace": self.dialect.encode(checked_namespace(namespace)),
            "state": None if state is None else state.code,
            "limit": checked_count("limit", limit),
            "after": checked_count("after", after),
        }
        if commit_position is not None:
            position, _ = checked_position(commit_position)
            params["position"] = self.dialect.encode(position.value)
            template = statements.ROWS_OF_COMMIT
        else:
            template = statements.ROWS if state is None else statements.ROWS_OF_STATE
        records = self._read(template, params, timeout=timeout)
        return [OutboxRow(record) for record in records]

    def row_ids(
        self,
        namespace: str,
        state: OutboxState,
        *,
        phase: PendingPhase | None = None,
        error: str | None = None,
        older_than: float | None = None,
    ) -> list[int]:
        if not isinstance(state, OutboxState):
            raise TypeError(f"state must be OutboxState, not {type(state).__name__}")
        if phase is not None and state is not OutboxState.PENDING:
            raise ValueError(f"phase is of pending rows, not of {state.value} ones")
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            state=state.code,
            age_ms=(
                None if older_than is None else duration_ms("older_than", older_than)
            ),
            pattern=(
                None
                if error is None
                else self.dialect.pattern(
                    checked_text("error", error, maximum=MAX_ERROR)
                )
            ),
        )
        template = statements.ROW_IDS
        if phase is not None:
            template += statements.PHASES[phase]
        return sorted(record[0] for record in self._read(template, params))

    def rows_by_id(self, namespace: str, ids: Iterable[int]) -> list[OutboxRow]:
        params = {"namespace": self.dialect.encode(checked_namespace(namespace))}
        wanted = sorted({checked_count("id", id) for id in ids})
        return [
            OutboxRow(record)
            for part in _parts(wanted, IDS_PER_STATEMENT)
            for record in self._read(statements.ROWS_BY_ID, params, part)
        ]

    def published_between(
        self, namespace: str, from_ms: int, until_ms: int, *, limit: int
    ) -> list[OutboxRow]:
        params = {
            "namespace": self.dialect.encode(checked_namespace(namespace)),
            "from_ms": checked_count("from_ms", from_ms),
            "until_ms": checked_count("until_ms", until_ms),
            "limit": checked_count("limit", limit),
        }
        records = self._read(statements.PUBLISHED_BETWEEN, params)
        return [OutboxRow(record) for record in records]

    def namespaces(self) -> list[str]:
        found: list[str] = []
        after: Any = self.dialect.encode("")
        while True:
            [(raw,)] = self._read(statements.NEXT_NAMESPACE, {"after": after})
            if raw is None:
                return found
            namespace = readable(raw)
            if namespace in found:
                # A foreign hand's, which is no UTF-8: what is after it, is not to be
                # said as text.
                everyone = self._read(statements.ALL_NAMESPACES, {})
                return sorted({readable(raw) for (raw,) in everyone})
            found.append(namespace)
            # As it was stored: compared as another type it would be the last one.
            after = self.dialect.encode(namespace)

    def now_ms(self) -> int:
        [(now_ms,)] = self._read(statements.NOW, self._params(), check=False)
        return int(now_ms)

    def missing_rights(self) -> dict[Right, str]:
        """Try each right of :data:`~hydracache_sync.outbox.rights.PROBES`.

        Changes nothing.

        :return: those that this login lacks, and what the database says.
        :raises OutboxError: it is away or locked; nothing is known.
        """
        missing = {}
        for right, probe in PROBES.items():
            run = functools.partial(self._statements.run, template=probe, params={})
            try:
                self._run(run, check=False)
            except (OutboxBusyError, ConnectionLostError, SchemaError):
                raise
            except OutboxError as exc:
                missing[right] = str(exc)
        return missing

    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Name the database and the driver, and their versions."""

    def reset_dead_letters(
        self, namespace: str, ids: Iterable[int] | None = None
    ) -> int:
        if ids is None:
            # Listed first: rows that die again meanwhile are not reset in a circle.
            ids = self.row_ids(namespace, OutboxState.DEAD)
        reset = self._change_dead(statements.RESET_DEAD, namespace, ids)
        if reset:
            self.announce_commit([namespace])
        return reset

    def discard_dead_letters(self, namespace: str, ids: Iterable[int]) -> int:
        return self._change_dead(statements.DISCARD_DEAD, namespace, ids)

    def _change_dead(self, template: str, namespace: str, ids: Iterable[int]) -> int:
        encoded = self.dialect.encode(checked_namespace(namespace))
        changed = 0
        for part in _parts([checked_count("id", id) for id in ids], IDS_PER_STATEMENT):
            changed += self._run_with_ids(template, part, namespace=encoded)
        return changed

    def purge_published(
        self, namespace: str, *, older_than: float, limit: int = 5000
    ) -> int:
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            age_ms=duration_ms("older_than", older_than),
            limit=checked_count("limit", limit),
        )
        ids = [record[0] for record in self._read(statements.PURGE_SELECT, params)]
        # Each part commits by itself: producers wait for 500 rows, not for 5000.
        return sum(
            self._run_with_ids(statements.PURGE_DELETE, part)
            for part in _parts(ids, IDS_PER_STATEMENT)
        )

    def pause(self, namespace: str, reason: str = "") -> None:
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            reason=self.dialect.encode(
                checked_text("reason", reason, maximum=MAX_REASON)
            ),
        )
        self._run(lambda cursor: self._statements.run(cursor, statements.PAUSE, params))

    def resume(self, namespace: str) -> bool:
        params = {"namespace": self.dialect.encode(checked_namespace(namespace))}

        def resume(cursor: Any) -> bool:
            self._statements.run(cursor, statements.RESUME, params)
            return bool(cursor.rowcount > 0)

        resumed = self._run(resume)
        if resumed:
            # Its rows have become due.
            self.announce_commit([namespace])
        return resumed

    def paused(self) -> dict[str, Pause]:
        return {
            readable(namespace): Pause(int(since_ms), readable(reason))
            for namespace, since_ms, reason in self._read(statements.PAUSED, {})
        }

    def escalate(self, namespace: str) -> bool:
        checked_namespace(namespace)
        batch = InvalidationIntentBatch("an invalidation was given up").flush()
        minute = self._host_now_ms() // 60_000
        later = 0
        while True:
            # The position makes the unique key count: one flush a minute, whoever
            # asks. One that nobody has claimed yet will be applied after this moment,
            # and so covers the case; any other may have been applied too early.
            position = CommitPosition(f"dead-letter:{minute + later}")
            delay_ms = 60_000 * later
            receipt = self._enqueue(namespace, batch, position, False, delay_ms)
            if receipt.inserted:
                return True
            flushes = self.rows(namespace, commit_position=position)
            if any(
                row.state is OutboxState.PENDING and row.claim_token is None
                for row in flushes
            ):
                return False
            later += 1

    # The tables

    def check_schema(self) -> None:
        self._check_schema(None)

    def _check_schema(self, timeout: float | None) -> None:
        found = self._found_version(timeout)
        if found is None:
            raise SchemaError(
                f"table {self._table} is missing in {self}; run `hydracache schema"
                " install` or install_schema()",
                expected=SCHEMA_VERSION,
            )
        self._require_version(found)
        self._check_tables(timeout)

    def _require_version(self, found: int) -> None:
        if found == SCHEMA_VERSION:
            return
        age, mend = (
            ("older", "run `hydracache schema install` with this version")
            if found < SCHEMA_VERSION
            else ("newer", "upgrade hydracache_sync here")
        )
        raise SchemaError(
            f"the tables of {self} have version {found}, {age} than version"
            f" {SCHEMA_VERSION} of this library; {mend}",
            found=found,
            expected=SCHEMA_VERSION,
        )

    @abc.abstractmethod
    def _check_tables(self, timeout: float | None) -> None:
        """Raise SchemaError if tables of the right version were altered."""

    def _require_indexes(
        self, unique: Sequence[list[str]], indexes: Sequence[list[str]]
    ) -> None:
        """Raise SchemaError if the indexes that are needed are not there.

        :param unique: columns of the unique indexes; those that are not compared byte
            by byte say so in their names.
        :param indexes: columns of all indexes.
        """
        identity = ["namespace", "commit_position", "target_hash"]
        if identity not in unique:
            self._altered(f"has no unique index on {', '.join(identity)}, as bytes")
        if not any(
            columns[:3] == ["namespace", "state", "at_ms"] for columns in indexes
        ):
            self._altered(
                "has no index that begins with namespace, state, at_ms: each claim"
                " would read every finished row"
            )

    def _altered(self, what: str, table: str | None = None) -> NoReturn:
        raise SchemaError(
            f"{self}: the table {f'{table} ' if table else ''}{what}; compare it with"
            " `hydracache schema show`",
            found=SCHEMA_VERSION,
            expected=SCHEMA_VERSION,
        )

    def _found_version(self, timeout: float | None = None) -> int | None:
        """Version in the database; None where there are no tables."""
        try:
            records = self._read(
                statements.SCHEMA_VERSION_SELECT, {}, timeout=timeout, check=False
            )
        except SchemaError:
            return None
        return int(records[0][0]) if records else None

    def _check_once(self, timeout: float | None = None) -> None:
        """Check the tables before the first use of them by this object."""
        if not self._schema_checked:
            self._check_schema(timeout)
            self._schema_checked = True

    # Running statements

    def _host_now_ms(self) -> int:
        return int((self._clock or time.time)() * 1000)

    def _params(self, **params: Any) -> dict[str, Any]:
        """Add the clock's reading, for dialects that bind it."""
        params["now"] = self._host_now_ms()
        return params

    def _run_with_ids(self, template: str, part: Sequence[int], **params: Any) -> int:
        def change(cursor: Any) -> int:
            self._statements.run(cursor, template, self._params(**params), part)
            return int(cursor.rowcount)

        return self._run(change)

    def _read(
        self,
        template: str,
        params: dict[str, Any],
        ids: Sequence[Any] = (),
        *,
        timeout: float | None = None,
        check: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Run one select by itself, so that it sees what is committed now."""

        def select(cursor: Any) -> list[tuple[Any, ...]]:
            self._statements.run(cursor, template, params, ids)
            return list(cursor.fetchall())

        return self._run(select, timeout=timeout, check=check)

    def _run(
        self,
        work: Callable[[Any], T],
        *,
        timeout: float | None = None,
        check: bool = True,
    ) -> T:
        """Run ``work``, a single statement, which commits by itself."""

        def attempt() -> T:
            with self._session() as connection:
                return work(connection.cursor())

        if check:
            self._check_once(timeout)
        return self._retried(attempt, timeout)

    def _transact(
        self,
        work: Callable[[Any], T],
        *,
        timeout: float | None = None,
        claim: bool = False,
    ) -> T:
        """Run ``work`` in an own transaction; run it again whole if it was busy.

        :param claim: it claims rows, see :meth:`_claiming`.
        """

        def attempt() -> T:
            with self._session() as connection:
                cursor = connection.cursor()
                with self._claiming(cursor) if claim else contextlib.nullcontext():
                    try:
                        cursor.execute(self.dialect.begin)
                        result = work(cursor)
                        connection.commit()
                    except BaseException as exc:
                        self._abandon(connection, exc)
                        raise
                return result

        self._check_once(timeout)
        return self._retried(attempt, timeout)

    @abc.abstractmethod
    def _claiming(self, cursor: Any) -> ContextManager[None]:
        """What a claim needs around its transaction."""

    def _retried(
        self,
        attempt: Callable[[], T],
        timeout: float | None = None,
        *,
        replace: bool = True,
    ) -> T:
        """Call ``attempt`` until the database is not busy, or the time is up.

        :param replace: on a connection that turns out to be dead, call once more on a
            new one. Every attempt is whole and may be made twice.
        """
        if timeout is None:
            timeout = self._busy_timeout
        else:
            duration_ms("timeout", timeout)
        deadline = time.monotonic() + timeout
        longest = FIRST_PAUSE
        while True:
            try:
                with self._translated():
                    return attempt()
            except OutboxBusyError:
                # Nothing was changed; the attempt begins anew. Our own pauses, not
                # SQLite's busy handler, which would stop every greenlet of gevent.
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise
                time.sleep(min(remaining, random.uniform(longest / 2, longest)))
                longest = min(longest * 2, LONGEST_PAUSE)
            except ConnectionLostError:
                if not replace:
                    raise
                replace = False

    def _kept_error(self, error: str) -> Any:
        """Text of an error as a row keeps it: storable, and its cut made visible."""
        text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
        if len(text) > MAX_ERROR:
            text = f"{text[:MAX_ERROR]} ... ({len(text) - MAX_ERROR} more characters)"
        return self.dialect.encode(text)


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


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def checked_count(name: str, value: int) -> int:
    """Check a whole number that is not negative and fits a database's integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return value
