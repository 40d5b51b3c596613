"""The outbox: one object that is made of parts, one for each question.

Which part answers what: :class:`~hydracache_sync.outbox.enqueue.Enqueuer` writes rows,
:class:`~hydracache_sync.outbox.claims.Claims` takes them,
:class:`~hydracache_sync.outbox.marks.Marks` finishes them, a
:class:`~hydracache_sync.outbox.due.Poll` says where some are due,
:class:`~hydracache_sync.outbox.looks.Looks` finds some for a page, and
:class:`~hydracache_sync.outbox.admin.Admin` lists and purges them; ``status`` and
``watermark`` have functions that count them. Each holds the
:class:`~hydracache_sync.outbox.database.Database`. Here is what they promise together;
``tests/outbox_contract`` checks it. Long, since every call has its promise here and
nowhere else. Knows no applier and no cache.
"""

from __future__ import annotations

from typing import Any, Callable, ContextManager, Iterable, NoReturn, Sequence

from hydracache_sync.intents import InvalidationIntent, InvalidationIntentBatch
from hydracache_sync.outbox.admin import Admin
from hydracache_sync.outbox.claims import ClaimOrder, Claims
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.due import DuePoll, Poll, QuietLook
from hydracache_sync.outbox.enqueue import Callers, Enqueuer, Inserts, OutboxTracer
from hydracache_sync.outbox.looks import RATE_CAP, SCAN, Looks
from hydracache_sync.outbox.marks import Marks
from hydracache_sync.outbox.privileges import Privilege, missing_privileges
from hydracache_sync.outbox.row import (
    CommitStatus,
    FoundRows,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    PendingPhase,
    PublishedPart,
    RowPlace,
)
from hydracache_sync.outbox.schema_checker import SchemaChecker, Tables
from hydracache_sync.outbox.status import STATUS_CAP, commit_status, namespace_status
from hydracache_sync.outbox.watermark import Watermark, watermark, write_heartbeat
from hydracache_sync.outbox.workers import (
    KEEP_WORKERS,
    WorkerBeat,
    WorkerProcess,
    Workers,
)
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.subscribers import Subscribers

#: Called with the namespaces that have new rows.
Subscriber = Callable[[frozenset[str]], None]


class InvalidationOutbox:
    """Durable table of invalidations. Thread-safe; usable again in a forked child.

    Namespaces are 1 to 64, positions 1 to 128, reasons up to 255 bytes of UTF-8; what
    does not fit is a ``ValueError`` before anything is written. Every method but
    :meth:`subscribe` raises :class:`~hydracache_sync.errors.OutboxError` when storage
    fails, and then has changed nothing.

    :param unchecked: runs statements; here the tables are checked before the first.
    :param poll: gives what answers :meth:`due_namespaces`, by what asks with a query.

    :ivar max_batch: intents that a batch may have; None without limit.

    Source: trait ``InvalidationOutbox`` in ``hydracache-db/src/outbox.rs``.
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
        self._on_commit: Subscribers[frozenset[str]] = Subscribers("after a commit")
        self._on_enqueue: Subscribers[frozenset[str]] = Subscribers("at an enqueue")
        self._on_insert: Subscribers[tuple[str, int]] = Subscribers("at an enqueue")
        self.max_batch = max_batch
        self._tracer: OutboxTracer | None = None
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
            on_insert=self._on_insert,
        )
        self._claims = Claims(database, order)
        self._marks = Marks(database)
        self._workers = Workers(database)
        self._admin = Admin(database, self._enqueuer, self._on_commit)
        self._poll = poll(DuePoll(database, self._admin.paused))
        self._looks = Looks(database)

    def __repr__(self) -> str:
        return self._database.name

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled or copied: its connections are this process's."
            " Pass its URL, and call open_outbox(url) in the other process"
        )

    # The tables

    @property
    def table(self) -> str:
        """Name of the rows' table as statements have it, with that of its database."""
        return self._database.table

    def schema(self) -> str:
        """Return the DDL, for a DBA to read or run."""
        return self._tables.text()

    def install_schema(self) -> None:
        """Create what is missing of the tables; harmless to repeat and to race.

        :raises SchemaError: tables of another version are there; they are not touched.
        """
        self._schema.install()

    def check_schema(self) -> None:
        """Return if the tables are there and of this library's version.

        :raises SchemaError: missing, older, newer or altered; says what to run.
        """
        self._schema.check()

    def close(self) -> None:
        """Close the connections of this process. A later call opens new ones.

        Not while other threads are inside a call.
        """
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
        """Write ``batch`` in a transaction of its own and commit it.

        For invalidations that belong to no transaction of yours. Where data changes,
        :meth:`enqueue_in` or :meth:`transaction` keep both together.

        :param commit_position: idempotency key. A row that is there already under the
            same position and target, and waits, is not added again and keeps its place;
            one that was published or is dead is applied once more. By default a new
            position.
        :param timeout: seconds that all of it may take, to connect included; at least a
            quarter of a second, by default as long as the outbox was made to wait.
        :raises OutboxBusyError: the time is over. The rows may be there all the same:
            written again, they are applied twice at most.
        :return: the receipt; an empty batch writes nothing and is satisfied at once.
        """
        tracer = self._tracer
        if tracer is None:
            return self._enqueuer.enqueue(namespace, batch, commit_position, timeout)
        with tracer.enqueue(namespace) as span:
            receipt = self._enqueuer.enqueue(
                namespace, batch, commit_position, timeout, span.traceparent
            )
            span.note(receipt)
        return receipt

    def enqueue_in(
        self,
        connection: Any,
        namespace: str,
        batch: InvalidationIntentBatch,
        *,
        commit_position: CommitPosition | str | None = None,
    ) -> InvalidationReceipt:
        """Write ``batch`` with one INSERT inside the caller's open transaction.

        The rows exist if and only if the caller commits. Never begins, commits, rolls
        back or retries; never waits on a cache. A rollback to a savepoint, or an error
        by which the server ends the transaction, as a deadlock does, undoes them: code
        that goes on after it enqueues again. On MySQL, ``LAST_INSERT_ID()`` and
        ``ROW_COUNT()`` are not the caller's after it, and the warnings of the statement
        before are gone: read yours first.

        :param connection: a driver's connection to the outbox's database.
        :param commit_position: as for :meth:`enqueue`.
        :raises NotInTransactionError: the connection would commit the rows at once, or
            has another database open. Nothing was written.
        :raises OutboxBusyError: the database is locked; roll back and run again.
        """
        tracer = self._tracer
        if tracer is None:
            return self._enqueuer.enqueue_in(
                connection, namespace, batch, commit_position
            )
        with tracer.enqueue(namespace) as span:
            receipt = self._enqueuer.enqueue_in(
                connection, namespace, batch, commit_position, span.traceparent
            )
            span.note(receipt)
        return receipt

    def sees(self, connection: Any, receipt: InvalidationReceipt) -> bool:
        """Whether the caller's ``connection`` sees a row of ``receipt``.

        False after the transaction that wrote it was rolled back: what is tried again
        must be enqueued again. Reads inside the caller's transaction.

        :raises NotInTransactionError, OutboxBusyError: as :meth:`enqueue_in`.
        """
        return self._enqueuer.sees(connection, receipt)

    def transaction(self) -> ContextManager[Any]:
        """Open a transaction on an own connection; commit at the end of the block.

        Yields the connection, for the caller's statements and :meth:`enqueue_in`.
        An exception rolls back. Leave commit and rollback to the block: after one of
        yours it raises, or logs a warning if the block has raised something else. That
        you have begun another transaction since is not seen. Inside the block this
        thread may use the outbox through :meth:`enqueue_in` only.

        :raises OutboxBusyError: could not begin, or could not commit: nothing was
            written.
        """
        return self._enqueuer.transaction()

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Have ``callback(namespaces)`` called after each commit this object makes.

        It runs in the committing thread and must be quick; what it raises is logged
        and dropped, since the commit is done. A commit of the caller's own connection
        is unseen, unless it is announced with :meth:`announce_commit`. Thread-safe.

        :return: call it to unsubscribe.
        """
        if not self._on_commit.callbacks:
            # Told first: a pool that wakes up then claims without a look.
            self._on_commit.add(self._claims.expect)
        return self._on_commit.add(callback)

    def subscribe_enqueued(self, callback: Subscriber) -> Callable[[], None]:
        """Have ``callback(namespaces)`` called at each :meth:`enqueue_in`.

        The rows are there and not committed: whether and when they will be is the
        caller's to know. Otherwise as :meth:`subscribe`.
        """
        return self._on_enqueue.add(callback)

    def subscribe_inserts(
        self, callback: Callable[[tuple[str, int]], object]
    ) -> Callable[[], None]:
        """Have ``callback((namespace, rows))`` called when rows were inserted.

        Also those of a transaction that the caller rolls back later. Otherwise as
        :meth:`subscribe`.
        """
        return self._on_insert.add(callback)

    def trace(self, tracer: OutboxTracer) -> None:
        """Have ``tracer`` open a span for each enqueue from now on.

        Rows keep its trace context, and claims read that of each row. For
        :func:`hydracache_sync.tracing.instrument`; a later call replaces the tracer.
        """
        self._tracer = tracer
        self._claims.reads_traceparents = True

    def announce_commit(self, namespaces: Iterable[str] | str) -> None:
        """Tell subscribers that rows of ``namespaces`` have just been committed.

        For a caller that commits a connection of its own after :meth:`enqueue_in` and
        wants the rows applied at once. Never raises; costs nothing without subscribers.
        """
        if self._on_commit.callbacks:
            if isinstance(namespaces, str):
                namespaces = (namespaces,)
            self._on_commit.tell(frozenset(namespaces))

    # Workers

    def claim(
        self, namespace: str, owner: str, *, limit: int, claim_ttl: float
    ) -> Sequence[OutboxRow]:
        """Take up to ``limit`` due rows for ``owner``, the longest due first.

        A row is due when it is pending, its ``available_at_ms`` has come, no worker
        holds it or its claim has ended, and its namespace is not paused. Two callers
        never hold the same row. A row whose enqueue was dated ahead of the outbox's
        clock is made due within 10 seconds, by the claims and looks of each object.
        When a claim ends was settled when it was made: another's shorter ``claim_ttl``
        cannot shorten it. A row whose claim expired without a mark
        :attr:`~OutboxRow.was_abandoned`; a failed attempt is counted if
        :meth:`mark_tried_alone` was called for it.

        :param owner: 1 to 255 bytes, for operators; the claim is told apart from all
            others by its token, also from those of an equal owner.
        :param limit: rows; 0 returns none without touching storage.
        :param claim_ttl: seconds until others may take the rows over, above 0.
        :return: rows by ``available_at_ms``, ``created_at_ms``, ``id``, with their
            claim. A malformed row has :attr:`~OutboxRow.intent` None.

        Source: ``claim``. Differs: see the table in docs/project/names.md.
        """
        return self._claims.claim(namespace, owner, limit=limit, claim_ttl=claim_ttl)

    def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
        """Return those of ``namespaces`` that :meth:`claim` would find rows in now.

        One query whatever their number (up to 60), which takes no lock and costs the
        same however many rows there are: what an idle worker asks again and again.

        :return: in the order given; none for none, without touching storage.
        """
        self._database.require_no_block()
        self._claims.make_dated_ahead_due(namespaces)
        due = self._poll.due(namespaces)
        if due:
            self._claims.expect(due)
        return due

    def quiet_look(self, namespaces: Sequence[str]) -> QuietLook | None:
        """Return what sees for little that :meth:`due_namespaces` still finds nothing.

        For the thread that has just called that, and found nothing: an idle worker asks
        fifty times a second, on cold caches.

        :return: None where there is none for now.
        """
        look = self._poll.quiet_look(namespaces)
        if look is None:
            return None
        until = min(look.until, self._claims.look_ahead_at(namespaces))
        return look._replace(until=until)

    def mark_published(self, rows: Sequence[OutboxRow]) -> int:
        """Finish rows that were applied.

        :param rows: as :meth:`claim` returned them.
        :return: rows that their claim still held. The others have been taken over or
            finished by another, and are left to it.
        """
        return self._marks.mark_published(rows)

    def mark_failed(
        self, rows: Sequence[OutboxRow], error: str, *, backoff: float, dead: bool
    ) -> int:
        """Count a failed attempt and give the rows back, or make them dead letters.

        :param error: for operators; beyond 1000 characters it says how many are left
            out.
        :param backoff: seconds until the rows are due again; of no effect if ``dead``.
        :return: rows that their claim still held; others are not changed.
        """
        return self._marks.mark_failed(rows, error, backoff=backoff, dead=dead)

    def mark_tried_alone(self, rows: Sequence[OutboxRow]) -> int:
        """Note at rows, which stay claimed, that a crash from now on is their fault.

        If their claim expires, a failed attempt is counted. For a worker that is about
        to apply one row alone, whose cache has just answered.

        :return: rows that their claim still held; others are not changed.
        """
        return self._marks.mark_tried_alone(rows)

    def release(
        self,
        rows: Sequence[OutboxRow],
        *,
        delay: float = 0.0,
        error: str | None = None,
        waits_for: str | None = None,
    ) -> int:
        """Give rows back without counting an attempt.

        :param delay: seconds until they are due again; 0 keeps their place.
        :param error: why, for operators; None keeps what is known of the rows'
            trouble: the error, the node that they wait for, and that they were
            abandoned.
        :param waits_for: the node of the cache that is away, for :meth:`make_due`; the
            first 255 bytes of its name count. None for a cache without names.
        :return: rows that their claim still held; others are not changed.
        """
        return self._marks.release(rows, delay=delay, error=error, waits_for=waits_for)

    def make_due(
        self, namespace: str, *, waits_for: str, limit: int, from_ms: int = 0
    ) -> int | None:
        """Let rows wait no longer that were put off because a node was away.

        At most ``limit`` of them, those that were to be due first. What is claimed, due
        already or finished is left alone.

        :param waits_for: the node, as :meth:`release` was told.
        :param from_ms: only rows that were to be due at that moment or later: where the
            call before has ended.
        :return: the moment of the last of them, to go on from; None if there are no
            more.
        """
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
        """Finish the pending rows of ``receipt``'s batch, claimed or not.

        For a writer that applied its own batch after its commit had returned. A row
        that was enqueued again since then is left to a worker: it stands for a later
        commit, too.

        :param seen: rows as they were read before they were applied; only those, and
            only if they are as they were. Without it a row is left, too, at which a
            worker has noted an error.
        :param timeout: seconds to go on trying while the database is busy; by default
            the outbox's own.
        :return: rows finished; 0 if none is visible, or all were finished before.
        :raises ValueError: the receipt came as text and has no batch.
        """
        return self._marks.publish_commit(receipt, seen=seen, timeout=timeout)

    def write_heartbeat(self, *, every: float = 0.0) -> None:
        """Write the present moment for readers of replicas, see ``ReplicaSnapshot``.

        One statement, which commits by itself. Any number of processes may write it.
        The moment is that of the database's clock or this host's, whichever is behind.
        It never goes back, unless it is ahead of the database's clock.

        :param every: seconds; a heartbeat that is younger is left as it is.
        """
        write_heartbeat(self._database, every=every)

    def beat(self, beat: WorkerBeat, *, timeout: float | None = None) -> None:
        """Write what a process that applies rows says of itself, for :meth:`workers`.

        One statement, which commits by itself and touches no row of an invalidation.
        Pools and commands do it by themselves.

        :param timeout: as for :meth:`status`.
        """
        self._workers.beat(beat, timeout=timeout)

    def workers(
        self, *, limit: int = 1000, timeout: float | None = None
    ) -> list[WorkerProcess]:
        """List the processes that apply rows, or did within a day, the last seen first.

        :param limit: processes; 0 lists none.
        :param timeout: as for :meth:`status`.
        """
        return self._workers.all(limit=limit, timeout=timeout)

    def purge_workers(self, *, older_than: float = KEEP_WORKERS) -> int:
        """Forget up to 500 processes that were not seen for ``older_than`` seconds."""
        return self._workers.purge(older_than=older_than)

    def watermark(self, namespace: str) -> Watermark:
        """Return until when everything that was committed is published.

        One statement. What it says stays true, whatever happens later, unless rows are
        discarded that no flush has made up for.
        """
        return watermark(self._database, namespace)

    def check_writable(self) -> None:
        """See to it that the database takes writes; costs next to nothing.

        What only looks for rows would not notice a primary that a failover has made a
        replica, and stay there, content.

        :raises ReadOnlyServerError: it takes none, and is not where a new connection
            leads either.
        """

    def close_idle(self) -> None:
        """Close connections that have been idle for about a minute."""

    # Waiters

    def status(
        self, namespace: str, *, cap: int = STATUS_CAP, timeout: float | None = None
    ) -> OutboxStatus:
        """Count what is not yet published, in a fresh snapshot.

        Costs the same however many rows have been finished.

        :param cap: rows that wait, and dead ones, of which so many are counted.
        :param timeout: seconds to go on trying while the database is busy; by default
            the outbox's own.
        """
        return namespace_status(self._database, namespace, cap=cap, timeout=timeout)

    def status_for_commit(
        self,
        namespace: str,
        commit_position: CommitPosition | str,
        *,
        batch: InvalidationIntentBatch | None = None,
        timeout: float | None = None,
    ) -> CommitStatus:
        """Count the rows of one commit by state, in a fresh snapshot.

        :param batch: count only rows of these targets: others may have been enqueued
            under the same position.
        :param timeout: as for :meth:`status`.
        """
        return commit_status(
            self._database, namespace, commit_position, batch=batch, timeout=timeout
        )

    # Operators

    def row(self, id: int) -> OutboxRow | None:
        """Return the row with the integer key ``id``, and with its history."""
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
        """List rows by ``id``, in a fresh snapshot.

        :param after: the last ``id`` of the page before.
        :param newest: begin with the last one instead, down to ``after``.
        :param timeout: as for :meth:`status`.
        """
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
        """Return the ids of all rows of ``state`` that match, in their order.

        For operators who count, look through and change what may be 100,000 rows.

        :param phase: of pending rows, only those in it.
        :param error: only rows whose last error has this text in it; ``*`` stands for
            any text. Case matters.
        :param older_than: seconds; only rows that have waited, or were finished, that
            long ago.
        """
        return self._admin.row_ids(
            namespace, state, phase=phase, error=error, older_than=older_than
        )

    def find_rows(
        self,
        namespace: str,
        state: OutboxState,
        *,
        limit: int = 100,
        after: RowPlace | None = None,
        newest: bool = False,
        phase: PendingPhase | None = None,
        target: InvalidationIntent | None = None,
        reason: str | None = None,
        error: str | None = None,
        scan: int = SCAN,
    ) -> FoundRows:
        """Find rows of ``state`` by their moment, at a cost that has a bound.

        The moment of a pending row is when it is due, of others when they were
        finished. For a page: look again from ``after`` for the next one.

        :param limit: ids to find at most.
        :param after: what the look before has returned.
        :param newest: begin with the last moment instead.
        :param phase: of pending rows, only those in it.
        :param target: only rows that invalidate exactly this.
        :param reason: only rows whose reason begins with this text.
        :param error: as for :meth:`row_ids`.
        :param scan: rows to look at, at most, where only some are wanted.
        """
        return self._looks.find(
            namespace,
            state,
            limit=limit,
            after=after,
            newest=newest,
            phase=phase,
            target=target,
            reason=reason,
            error=error,
            scan=scan,
        )

    def find_in_commit(
        self,
        namespace: str,
        commit_position: CommitPosition | str,
        *,
        limit: int = 100,
        after: RowPlace | None = None,
    ) -> FoundRows:
        """Find rows of one commit, of whatever state; other things as ``find_rows``.

        They come in the order of their targets' hashes. The cost does not grow with
        the commit.
        """
        return self._looks.find_in_commit(
            namespace, commit_position, limit=limit, after=after
        )

    def published_rate(
        self, namespace: str, *, seconds: float = 3600.0, cap: int = RATE_CAP
    ) -> list[PublishedPart]:
        """Count the rows published in the last ``seconds``, and how late they were.

        In 30 parts of equal length, the oldest first; the last one ends now. Reads at
        most ``cap`` rows of each part. Rows that were purged are not counted.
        """
        return self._looks.published_rate(namespace, seconds=seconds, cap=cap)

    def rows_by_id(self, namespace: str, ids: Iterable[int]) -> list[OutboxRow]:
        """Return those of the rows that are there and of ``namespace``, by ``id``."""
        return self._admin.rows_by_id(namespace, ids)

    def published_between(
        self, namespace: str, from_ms: int, until_ms: int, *, limit: int
    ) -> list[OutboxRow]:
        """List rows by the moment they were published, in a fresh snapshot.

        Costs the same however many rows have been published before. A row whose mark
        is committed later than its moment may be missed by a look that comes between.

        :param from_ms: Unix milliseconds of the outbox's clock, included.
        :param until_ms: the same, not included.
        """
        return self._admin.published_between(namespace, from_ms, until_ms, limit=limit)

    def namespaces(self, *, first: str = "", limit: int | None = None) -> list[str]:
        """Return the namespaces that have rows, of whatever state, in their order.

        :param first: the first one that may be among them.
        :param limit: how many to look for; each costs one seek. None means all.
        """
        return self._admin.namespaces(first=first, limit=limit)

    def now_ms(self) -> int:
        """Return the clock that judges claims and backoffs, in Unix milliseconds."""
        return self._unchecked.now_ms()

    def dead_letters(
        self, namespace: str, *, limit: int = 100, after: int = 0
    ) -> list[OutboxRow]:
        """List dead letters by ``id``; ``after`` as in :meth:`rows`."""
        return self.rows(namespace, state=OutboxState.DEAD, limit=limit, after=after)

    def reset_dead_letters(
        self, namespace: str, ids: Iterable[int] | None = None, *, by: str | None = None
    ) -> int:
        """Make dead letters pending again, due now, attempts and error cleared.

        :param ids: only these; None means all. Rows that are not dead, or of another
            namespace, are left alone.
        :param by: the operator, for the history of each row; by default the operating
            system's user of this process, and its host.
        :return: rows changed. Large numbers are done in several transactions; after an
            error the rows done so far stay done.
        """
        return self._admin.reset_dead_letters(namespace, ids, by=by)

    def discard_dead_letters(self, namespace: str, ids: Iterable[int]) -> int:
        """Delete dead letters for good; returns how many.

        What they were to invalidate may stay stale until a flush or its TTL.
        """
        return self._admin.discard_dead_letters(namespace, ids)

    def purge_published(
        self, namespace: str, *, older_than: float, limit: int = 5000
    ) -> int:
        """Delete up to ``limit`` rows that were published ``older_than`` seconds ago.

        A small ``limit`` keeps the locks short: call again while it returns ``limit``.
        A receipt whose rows are gone can be waited on no longer, so keep them for
        longer than receipts live.
        """
        return self._admin.purge_published(
            namespace, older_than=older_than, limit=limit
        )

    def pause(self, namespace: str, reason: str = "") -> None:
        """Have no more rows of ``namespace`` claimed, by any process, until a resume.

        Durable. What was claimed before is finished; :meth:`enqueue` and
        :meth:`publish_commit`, which a writer calls for its own commit, go on. Where it
        is paused already, only the reason is replaced.

        :param reason: for operators, at most 255 bytes of UTF-8.
        """
        self._admin.pause(namespace, reason)

    def resume(self, namespace: str) -> bool:
        """Have rows of ``namespace`` claimed again; returns whether it was paused."""
        return self._admin.resume(namespace)

    def paused(self) -> dict[str, Pause]:
        """Return the paused namespaces, of all processes."""
        return self._admin.paused()

    def escalate(self, namespace: str) -> bool:
        """Enqueue a flush of ``namespace`` because an invalidation is given up.

        A dead letter may leave something stale; a flush, as durable as any row, makes
        it a miss. At most one a minute and namespace, in all processes: where this
        minute's flush has been applied already, the next minute's is scheduled.

        :return: whether a flush was added; False if one that is still to be applied
            covers the case.
        """
        return self._admin.schedule_flush(namespace)

    def missing_rights(self) -> dict[Privilege, str]:
        """Try each privilege that a role may need. Changes nothing.

        :return: those that this login lacks, and what the database says.
        :raises OutboxError: it is away, locked or read-only; nothing is known.
        """
        return missing_privileges(self._unchecked)

    def versions(self) -> dict[str, str]:
        """Name the database and the driver, and their versions."""
        return self._tables.versions()
