"""The outbox over a DB-API connection: what SQLite and MySQL share."""

from __future__ import annotations

import functools
import secrets
import time
from typing import Any, Callable, Sequence

from hydracache_sync.durations import duration_ms
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace, checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.base import MAX_OWNER, STATUS_CAP, checked_position
from hydracache_sync.outbox.row import (
    CommitStatus,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    kept_node,
)
from hydracache_sync.outbox.sql_operators import MAX_ERROR, OperatorsSide
from hydracache_sync.outbox.sql_producers import ProducersSide
from hydracache_sync.outbox.sql_runner import (
    IDS_PER_STATEMENT,
    checked_count,
    parts_of,
)
from hydracache_sync.outbox.sql_tables import CheckedTables
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt

logger = printable_logger(__name__)

#: Seconds between two looks for rows that are dated ahead, in one namespace. A look
#: reads all rows that wait for a moment, 100,000 of them in 10 to 30 ms.
LOOK_AHEAD_EVERY = 10.0

#: Namespaces in one statement: their answers are the bits of a 64-bit number.
NAMESPACES_PER_STATEMENT = 60


class SQLOutbox(ProducersSide, OperatorsSide, CheckedTables):
    """Workers and those who wait, beside what it inherits.

    See :class:`InvalidationOutbox` for the contract.
    """

    #: What takes the records of a claim, which are as the dialect selects them.
    claimed_row: type[OutboxRow] = OutboxRow

    def __init__(
        self,
        *,
        table: str,
        busy_timeout: float,
        max_batch: int | None,
        clock: Callable[[], float] | None,
    ) -> None:
        super().__init__(
            table=table, busy_timeout=busy_timeout, max_batch=max_batch, clock=clock
        )
        #: What was asked of :meth:`due_namespaces` last, split into statements.
        self._due_parts: dict[tuple[str, ...], list[Sequence[str]]] = {}
        #: Namespaces that have rows due, most likely: a commit or a look has told so,
        #: or the last claim was a full one. A claim asks before it begins elsewhere.
        self._likely: set[str] = set()
        #: When rows that are dated ahead are looked for next, in each namespace.
        self._ahead_at: dict[str, float] = {}

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
        self._look_ahead((namespace,))
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
            for part in parts_of([record[0] for record in records], IDS_PER_STATEMENT):
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
        for part in parts_of([record[0] for record in records], IDS_PER_STATEMENT):
            self._statements.run(cursor, statements.CLAIMED_IDS, {"token": token}, part)
            held.update(record[0] for record in cursor.fetchall())
        return [record for record in records if record[0] in held]

    def _look_ahead(self, namespaces: Sequence[str]) -> None:
        """Make rows due that are dated ahead, now and then, in one of ``namespaces``.

        Apart from the look for due rows: it reads all rows that wait for a moment.
        """
        now = time.monotonic()
        for namespace in namespaces:
            if now >= self._ahead_at.get(namespace, now):
                break
        else:
            return
        # A look that fails is not repeated at once: the next call says why.
        self._ahead_at[namespace] = now + LOOK_AHEAD_EVERY
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            limit=IDS_PER_STATEMENT,
        )
        records = self._read(statements.DATED_AHEAD, params)
        if not records:
            return
        if len(records) == IDS_PER_STATEMENT:
            self._ahead_at[namespace] = now  # there may be more
        # In the order of the key, as others lock rows too.
        ids = sorted(record[0] for record in records)
        changed = self._run_with_ids(statements.MAKE_DATED_AHEAD_DUE, ids)
        logger.warning(
            "%d rows of namespace %s were dated up to %.1f s ahead of the outbox's"
            " clock and are due now: the clock of a producer is wrong, or its session"
            " has SET timestamp",
            changed,
            namespace,
            max(int(record[1]) for record in records) / 1000,
        )

    def due_namespaces(self, namespaces: Sequence[str]) -> list[str]:
        self._look_ahead(namespaces)
        asked = tuple(namespaces)
        parts = self._due_parts.get(asked)
        if parts is None:
            for namespace in asked:
                checked_namespace(namespace)
            distinct = list(dict.fromkeys(asked))
            parts = list(parts_of(distinct, NAMESPACES_PER_STATEMENT))
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

    def mark_tried_alone(self, rows: Sequence[OutboxRow]) -> int:
        return self._mark(statements.MARK_TRIED_ALONE, rows)

    def release(
        self,
        rows: Sequence[OutboxRow],
        *,
        delay: float = 0.0,
        error: str | None = None,
        waits_for: str | None = None,
    ) -> int:
        delay_ms = duration_ms("delay", delay)
        if error is None:
            if waits_for is not None:
                raise ValueError("waits_for needs an error, which says why")
            return self._mark(statements.RELEASE, rows, delay_ms=delay_ms)
        return self._mark(
            statements.RELEASE_WITH_ERROR,
            rows,
            delay_ms=delay_ms,
            error=self._kept_error(error),
            waits_for=self._kept_node(waits_for) if waits_for else None,
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
            for part in parts_of(ids, IDS_PER_STATEMENT)
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

    def make_due(
        self, namespace: str, *, waits_for: str, limit: int, from_ms: int = 0
    ) -> int | None:
        node = self._kept_node(waits_for)
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            from_ms=checked_count("from_ms", from_ms),
            limit=checked_count("limit", limit),
            waits_for=node,
        )
        records = self._read(statements.WAITING, params)
        # In the order of the key, as others lock rows too. Each part commits by itself.
        ids = sorted(record[0] for record in records)
        for part in parts_of(ids, IDS_PER_STATEMENT):
            self._run_with_ids(statements.MAKE_DUE, part, waits_for=node)
        return int(records[-1][1]) if records and len(records) == limit else None

    def publish_commit(
        self,
        receipt: InvalidationReceipt,
        *,
        seen: Sequence[OutboxRow] | None = None,
        timeout: float | None = None,
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
        if seen is None:
            template = statements.PUBLISH_COMMIT
            fixed: dict[str, Any] = {
                "namespace": self.dialect.encode(receipt.namespace),
                "position": self.dialect.encode(receipt.commit_position.value),
            }
            hashes = [intent.target_hash() for intent in receipt.batch.distinct()]
            parts = [(fixed, part) for part in parts_of(hashes, IDS_PER_STATEMENT)]
        else:
            template = statements.PUBLISH_SEEN
            by_moment: dict[int, list[Any]] = {}
            for row in seen:
                by_moment.setdefault(row.created_at_ms, []).append(row.id)
            parts = [
                ({"created_at_ms": moment}, part)
                for moment, ids in by_moment.items()
                for part in parts_of(ids, IDS_PER_STATEMENT)
            ]

        def publish(cursor: Any) -> int:
            changed = 0
            for fixed, part in parts:
                params = self._params(**fixed)
                self._statements.run(cursor, template, params, part)
                changed += cursor.rowcount
            return changed

        if not parts:
            return 0
        if len(parts) == 1:
            return self._run(publish, timeout=timeout)
        return self._transact(publish, timeout=timeout)

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
            receipt = self._enqueue(
                namespace, batch, position, statements.Present.LEFT, delay_ms
            )
            if receipt.inserted:
                return True
            flushes = self.rows(namespace, commit_position=position)
            if any(
                row.state is OutboxState.PENDING and row.claim_token is None
                for row in flushes
            ):
                return False
            later += 1

    # Waiters

    def status(self, namespace: str, *, timeout: float | None = None) -> OutboxStatus:
        params = self._params(
            namespace=self.dialect.encode(checked_namespace(namespace)),
            cap=STATUS_CAP + 1,
        )
        [record] = self._read(statements.STATUS, params, timeout=timeout)
        now_ms, pending, oldest, newest, tried, dead, died, published, paused = record
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
            ahead_ms=max(0, _whole(newest, now_ms) - int(now_ms)),
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
        with self._within(timeout):
            if batch is None:
                records = self._read(
                    statements.STATUS_FOR_COMMIT, params, timeout=timeout
                )
            else:
                hashes = [intent.target_hash() for intent in batch.distinct()]
                records = [
                    record
                    for part in parts_of(hashes, IDS_PER_STATEMENT)
                    for record in self._read(
                        statements.STATUS_FOR_TARGETS, params, part, timeout=timeout
                    )
                ]
        now_ms = max((int(record[0]) for record in records), default=0)
        pending, published, dead = (
            sum(int(record[state] or 0) for record in records) for state in (1, 2, 3)
        )
        return CommitStatus(pending, published, dead, now_ms)

    def _kept_node(self, node: str) -> Any:
        return self.dialect.encode(kept_node(node))

    def _kept_error(self, error: str) -> Any:
        """Text of an error as a row keeps it: storable, and its cut made visible."""
        text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
        if len(text) > MAX_ERROR:
            text = f"{text[:MAX_ERROR]} ... ({len(text) - MAX_ERROR} more characters)"
        return self.dialect.encode(text)


def _whole(found: Any, otherwise: int) -> int:
    """The number in a column, unless a foreign hand wrote something else there."""
    try:
        return int(found)
    except (TypeError, ValueError):
        return int(otherwise)
