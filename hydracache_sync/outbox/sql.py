"""The outbox in a database: one object that is made of parts, one for each question.

Which part answers what: :class:`~hydracache_sync.outbox.enqueue.Enqueuer` writes rows,
:class:`~hydracache_sync.outbox.claims.Claims` takes them,
:class:`~hydracache_sync.outbox.marks.Marks` finishes them, a
:class:`~hydracache_sync.outbox.due.Poll` says where some are due,
:class:`~hydracache_sync.outbox.status.Status` counts them,
:class:`~hydracache_sync.outbox.admin.Admin` lists and purges them, and a
:class:`~hydracache_sync.outbox.heartbeat.Heartbeat` tells replicas the time. Each holds
the :class:`~hydracache_sync.outbox.database.Database`.
"""

from __future__ import annotations

from typing import Any, Callable, ContextManager, Iterable, Sequence

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox.admin import Admin
from hydracache_sync.outbox.base import InvalidationOutbox, Subscriber
from hydracache_sync.outbox.claims import ClaimOrder, Claims
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.due import DuePoll, Poll
from hydracache_sync.outbox.enqueue import Callers, Enqueuer, Inserts
from hydracache_sync.outbox.flush_scheduler import FlushScheduler
from hydracache_sync.outbox.heartbeat import Heartbeat
from hydracache_sync.outbox.marks import Marks
from hydracache_sync.outbox.pauses import Pauses
from hydracache_sync.outbox.privileges import Privilege, missing_privileges
from hydracache_sync.outbox.row import (
    CommitStatus,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    PendingPhase,
)
from hydracache_sync.outbox.schema_checker import SchemaChecker, Tables
from hydracache_sync.outbox.status import Status
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt


class SQLOutbox(InvalidationOutbox):
    """Hands each call to the part that does it. See the base class for the contract.

    :param unchecked: runs statements; here the tables are checked before the first.
    :param poll: gives what answers :meth:`due_namespaces`, by what asks with a query.
    """

    def __init__(
        self,
        unchecked: Database,
        tables: Tables,
        inserts: Inserts,
        callers: Callers,
        order: ClaimOrder,
        poll: Callable[[Poll], Poll],
        *,
        max_batch: int | None,
    ) -> None:
        super().__init__()
        self.max_batch = max_batch
        self._unchecked = unchecked
        self._tables = tables
        self._schema = SchemaChecker(unchecked, tables)
        self._database = database = unchecked.checked_by(self._schema.check)
        self._enqueuer = Enqueuer(
            database,
            inserts,
            callers,
            max_batch=max_batch,
            on_commit=self._on_commit,
            on_enqueue=self._on_enqueue,
        )
        self._claims = Claims(database, order)
        self._marks = Marks(database)
        self._pauses = Pauses(database, self._on_commit)
        self._heartbeat = Heartbeat(database)
        self._poll = poll(DuePoll(database, self._pauses))
        self._status = Status(database)
        self._admin = Admin(database, self._on_commit)
        self._flushes = FlushScheduler(database, self._enqueuer, self._admin)

    def __repr__(self) -> str:
        return self._database.name

    # The tables

    @property
    def table(self) -> str:
        """Name of the rows' table as statements have it, with that of its database."""
        return self._database.table

    def schema(self) -> str:
        """Return the DDL, for a DBA to read or run."""
        return self._tables.text()

    def install_schema(self) -> None:
        self._schema.install()

    def check_schema(self) -> None:
        self._schema.check()

    def close(self) -> None:
        """Close all connections; those in use when they come back."""
        self._database.sessions.close()

    # Producers

    def enqueue(
        self,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
        timeout: float | None = None,
    ) -> InvalidationReceipt:
        return self._enqueuer.enqueue(namespace, batch, commit_position, timeout)

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        return self._enqueuer.enqueue_in(connection, namespace, batch, commit_position)

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        return self._enqueuer.sees(connection, receipt)

    def transaction(self) -> ContextManager[Any]:
        return self._enqueuer.transaction()

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        if not self._on_commit:
            # Told first: a pool that wakes up then claims without a look.
            self._on_commit.add(self._claims.expect)
        return super().subscribe(callback)

    # Workers

    def claim(
        self, namespace: str, owner: str, *, limit: int, claim_ttl: float
    ) -> list[OutboxRow]:
        return self._claims.claim(namespace, owner, limit=limit, claim_ttl=claim_ttl)

    def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
        self._claims.make_dated_ahead_due(namespaces)
        due = self._poll.due(namespaces)
        self._claims.expect(due)
        return due

    def mark_published(self, rows: Sequence[OutboxRow]) -> int:
        return self._marks.mark_published(rows)

    def mark_failed(
        self, rows: Sequence[OutboxRow], error: str, *, backoff: float, dead: bool
    ) -> int:
        return self._marks.mark_failed(rows, error, backoff=backoff, dead=dead)

    def mark_tried_alone(self, rows: Sequence[OutboxRow]) -> int:
        return self._marks.mark_tried_alone(rows)

    def release(
        self,
        rows: Sequence[OutboxRow],
        *,
        delay: float = 0.0,
        error: str | None = None,
        waits_for: str | None = None,
    ) -> int:
        return self._marks.release(rows, delay=delay, error=error, waits_for=waits_for)

    def make_due(
        self, namespace: str, *, waits_for: str, limit: int, from_ms: int = 0
    ) -> int | None:
        return self._marks.make_due(
            namespace, waits_for=waits_for, limit=limit, from_ms=from_ms
        )

    def publish_commit(
        self,
        receipt: InvalidationReceipt,
        *,
        seen: Sequence[OutboxRow] | None = None,
        timeout: float | None = None,
    ) -> int:
        return self._marks.publish_commit(receipt, seen=seen, timeout=timeout)

    def escalate(self, namespace: str) -> bool:
        return self._flushes.schedule(namespace)

    def write_heartbeat(self, *, every: float = 0.0) -> None:
        self._heartbeat.write(every=every)

    # Waiters

    def status(self, namespace: str, *, timeout: float | None = None) -> OutboxStatus:
        return self._status.of_namespace(namespace, timeout=timeout)

    def status_for_commit(
        self,
        namespace: str,
        commit_position: CommitPosition | str,
        *,
        batch: InvalidationIntentBatch | None = None,
        timeout: float | None = None,
    ) -> CommitStatus:
        return self._status.of_commit(
            namespace, commit_position, batch=batch, timeout=timeout
        )

    # Operators

    def row(self, id: int) -> OutboxRow | None:
        return self._admin.row(id)

    def rows(
        self,
        namespace: str,
        *,
        state: OutboxState | None = None,
        commit_position: CommitPosition | str | None = None,
        limit: int = 100,
        after: int = 0,
        newest: bool = False,
        timeout: float | None = None,
    ) -> list[OutboxRow]:
        return self._admin.rows(
            namespace,
            state=state,
            commit_position=commit_position,
            limit=limit,
            after=after,
            newest=newest,
            timeout=timeout,
        )

    def row_ids(
        self,
        namespace: str,
        state: OutboxState,
        *,
        phase: PendingPhase | None = None,
        error: str | None = None,
        older_than: float | None = None,
    ) -> list[int]:
        return self._admin.row_ids(
            namespace, state, phase=phase, error=error, older_than=older_than
        )

    def rows_by_id(self, namespace: str, ids: Iterable[int]) -> list[OutboxRow]:
        return self._admin.rows_by_id(namespace, ids)

    def published_between(
        self, namespace: str, from_ms: int, until_ms: int, *, limit: int
    ) -> list[OutboxRow]:
        return self._admin.published_between(namespace, from_ms, until_ms, limit=limit)

    def namespaces(self) -> list[str]:
        return self._admin.namespaces()

    def now_ms(self) -> int:
        return self._unchecked.now_ms()

    def missing_rights(self) -> dict[Privilege, str]:
        """Try each privilege that a role may need. Changes nothing.

        :return: those that this login lacks, and what the database says.
        :raises OutboxError: it is away, locked or read-only; nothing is known.
        """
        return missing_privileges(self._unchecked)

    def versions(self) -> dict[str, str]:
        """Name the database and the driver, and their versions."""
        return self._tables.versions()

    def reset_dead_letters(
        self, namespace: str, ids: Iterable[int] | None = None
    ) -> int:
        return self._admin.reset_dead_letters(namespace, ids)

    def discard_dead_letters(self, namespace: str, ids: Iterable[int]) -> int:
        return self._admin.discard_dead_letters(namespace, ids)

    def purge_published(
        self, namespace: str, *, older_than: float, limit: int = 5000
    ) -> int:
        return self._admin.purge_published(
            namespace, older_than=older_than, limit=limit
        )

    def pause(self, namespace: str, reason: str = "") -> None:
        self._pauses.pause(namespace, reason)

    def resume(self, namespace: str) -> bool:
        return self._pauses.resume(namespace)

    def paused(self) -> dict[str, Pause]:
        return self._pauses.paused()
