"""Claims: a worker takes rows that are due, for a while, and no other has them."""

from __future__ import annotations

import functools
import secrets
import time
from typing import Any, ContextManager, Iterable, Iterator, Protocol, Sequence

from hydracache_sync.durations import positive_ms
from hydracache_sync.keys import checked_namespace, checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import checked_count
from hydracache_sync.outbox.claimed_row import Claim, ClaimedRows
from hydracache_sync.outbox.database import IDS_PER_STATEMENT, Database, parts_of
from hydracache_sync.outbox.row import OutboxRow, OutboxState
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Bytes of a claim owner's name.
MAX_OWNER = 255

_PENDING = OutboxState.PENDING.code

#: Seconds between two looks for rows that are dated ahead, in one namespace. A look
#: reads all rows that wait for a moment, 100,000 of them in 10 to 30 ms.
LOOK_AHEAD_EVERY = 10.0


class ClaimOrder(Protocol):
    """How the claims of one database keep out of each other's way."""

    def around(self, cursor: Any) -> ContextManager[None]:
        """What a claim needs around its transaction."""

    def locking(self, cursor: Any) -> str:
        """End of the claim's select, to lock what it reads and skip what is locked."""


class Claims:
    """Claims rows. Thread-safe."""

    def __init__(self, database: Database, order: ClaimOrder) -> None:
        self._database = database
        self._order = order
        #: Whether a claim reads the trace contexts of its rows.
        self.reads_traceparents = False
        #: Namespaces in which rows are likely to be due: no look before the claim.
        self._likely: set[str] = set()
        #: When to look for rows dated ahead again, of ``time.monotonic()``.
        self._ahead_at: dict[str, float] = {}

    def expect(self, namespaces: Iterable[str]) -> None:
        """Take it that rows of ``namespaces`` are due: they have been seen."""
        self._likely.update(namespaces)

    def claim(
        self, namespace: str, owner: str, *, limit: int, claim_ttl: float
    ) -> Sequence[OutboxRow]:
        checked_namespace(namespace)
        checked_text("owner", owner, minimum=1, maximum=MAX_OWNER)
        ttl_ms = positive_ms("claim_ttl", claim_ttl)
        if checked_count("limit", limit) == 0:
            return []
        self.make_dated_ahead_due((namespace,))
        database, order = self._database, self._order
        run, encode = database.statements.run, database.dialect.encode
        params = database.params(namespace=encode(namespace), limit=limit)
        # An idle worker begins no transaction and takes no lock.
        if namespace not in self._likely:
            if not database.read(statements.CLAIM_PEEK, params):
                return []
        # Drawn from the system at each claim: unlike a counter or an owner's name it
        # cannot repeat after a restart or a fork. 63 bits fit a signed column.
        token = secrets.randbits(63)

        def take(cursor: Any) -> Sequence[OutboxRow]:
            # The clock is read again: a wait for the lock may have taken seconds.
            select = statements.CLAIM_SELECT
            if self.reads_traceparents:
                select = statements.CLAIM_SELECT_TRACED
            select += order.locking(cursor)
            run(cursor, select, database.params(**params))
            records = cursor.fetchall()
            if not records:
                return []
            now_ms = abs(int(records[0][-1]))
            claim = {
                "claimed_at_ms": now_ms,
                "until_ms": now_ms + ttl_ms,
                "owner": encode(owner),
                "token": token,
            }
            taken = 0
            ids, *_, clocks = zip(*records)
            tried: list[int] = []
            update = statements.CLAIM_UPDATE
            if min(clocks) < 0:
                tried = [id for id, clock in zip(ids, clocks) if clock < 0]
                update = statements.CLAIM_UPDATE_NOTED
            for part in parts_of(ids, IDS_PER_STATEMENT):
                run(cursor, update, claim, part)
                taken += cursor.rowcount
            if taken < len(records):
                # Rows that were not locked while they were read may have been
                # finished or discarded in between.
                records = self._still_claimed(cursor, records, token)
                ids = tuple(record[0] for record in records)
            traceparents = None
            if self.reads_traceparents:
                traceparents = {record[0]: record[-2] for record in records}
                records = [(*record[:-2], record[-1]) for record in records]
            shared = Claim(
                (namespace, _PENDING, *claim.values()),
                ids,
                functools.partial(self._read_whole, params),
                traceparents,
            )
            rows = ClaimedRows(records, shared)
            if tried:
                whole = self._whole(cursor, params, tried)
                return [whole.get(row.id, row) for row in rows]
            return rows

        rows = database.transact(take, around=order.around)
        if len(rows) < limit:
            self._likely.discard(namespace)
        else:
            self._likely.add(namespace)
        return rows

    def _still_claimed(
        self, cursor: Any, records: Sequence[tuple[Any, ...]], token: int
    ) -> list[tuple[Any, ...]]:
        held: set[int] = set()
        for part in parts_of([record[0] for record in records], IDS_PER_STATEMENT):
            self._database.statements.run(
                cursor, statements.CLAIMED_IDS, {"token": token}, part
            )
            held.update(record[0] for record in cursor.fetchall())
        return [record for record in records if record[0] in held]

    def _whole(
        self, cursor: Any, params: dict[str, Any], ids: Sequence[int]
    ) -> dict[int, OutboxRow]:
        """Read rows as they are in the open transaction."""
        found: dict[int, OutboxRow] = {}
        for part in parts_of(ids, IDS_PER_STATEMENT):
            self._database.statements.run(cursor, statements.ROWS_BY_ID, params, part)
            for record in cursor.fetchall():
                found[record[0]] = OutboxRow(record)
        return found

    def _read_whole(
        self, params: dict[str, Any], ids: Sequence[int]
    ) -> Iterator[OutboxRow]:
        """Read rows as they are now."""
        for part in parts_of(ids, IDS_PER_STATEMENT):
            for record in self._database.read(statements.ROWS_BY_ID, params, part):
                yield OutboxRow(record)

    def look_ahead_at(self, namespaces: Sequence[str]) -> float:
        """When :meth:`make_dated_ahead_due` has something to do."""
        return min((self._ahead_at.get(each, 0.0) for each in namespaces), default=0.0)

    def make_dated_ahead_due(self, namespaces: Sequence[str]) -> None:
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
        database = self._database
        params = database.params_of(namespace, limit=IDS_PER_STATEMENT)
        records = database.read(statements.DATED_AHEAD, params)
        if not records:
            return
        if len(records) == IDS_PER_STATEMENT:
            self._ahead_at[namespace] = now  # there may be more
        # In the order of the key, as others lock rows too.
        ids = sorted(record[0] for record in records)
        changed = database.change(
            statements.MAKE_DATED_AHEAD_DUE, database.params(), ids
        )
        logger.warning(
            "%d rows of namespace %s were dated up to %.1f s ahead of the outbox's"
            " clock and are due now: the clock of a producer is wrong, or its session"
            " has SET timestamp",
            changed,
            namespace,
            max(int(record[1]) for record in records) / 1000,
        )
