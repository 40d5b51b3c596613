"""Looks of a bounded cost at tables of any size, for a page that an operator waits for.

Rows are found in the order of the index of their state, a part at a time: what one look
costs does not grow with the table.
"""

from __future__ import annotations

from hydracache_sync.durations import positive_ms
from hydracache_sync.intents import MAX_REASON, InvalidationIntent
from hydracache_sync.keys import checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import (
    MAX_ERROR,
    checked_count,
    checked_position,
    checked_state,
)
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.row import (
    FoundRows,
    OutboxState,
    PendingPhase,
    PublishedPart,
    RowPlace,
)
from hydracache_sync.receipts import CommitPosition

#: Rows that one look reads at most.
SCAN = 3_000

#: Rows of each part of a time that are counted.
RATE_CAP = 500

#: A text and this is behind all reasons that begin with the text.
_BEHIND = "\U0010ffff" * MAX_REASON

_FIRST, _LAST = -(2**63), 2**63 - 1


class Looks:
    """Answers in a time that does not grow with the table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self,
        namespace: str,
        state: OutboxState,
        *,
        limit: int,
        after: RowPlace | None,
        newest: bool,
        phase: PendingPhase | None,
        target: InvalidationIntent | None,
        reason: str | None,
        error: str | None,
        scan: int,
    ) -> FoundRows:
        """See ``InvalidationOutbox.find_rows``."""
        dialect = self._database.dialect
        prefix = behind = None
        if reason is not None:
            checked_text("reason", reason, maximum=MAX_REASON)
            prefix, behind = dialect.encode(reason), dialect.encode(reason + _BEHIND)
        pattern = None
        if error is not None:
            pattern = dialect.pattern(checked_text("error", error, maximum=MAX_ERROR))
        wanted = checked_count("limit", limit)
        filtered = any(each is not None for each in (phase, target, reason, error))
        params = self._database.params_of(
            namespace,
            state=checked_state(state, phase),
            target=None if target is None else target.target_hash(),
            reason=prefix,
            behind_reason=behind,
            pattern=pattern,
            # One more tells whether there are more.
            limit=wanted + 1,
            scan=max(wanted + 1, checked_count("scan", scan) if filtered else 0),
            **self._start(after, newest, phase)._asdict(),
        )

        def look(statement: str) -> list[RowPlace]:
            if newest:
                statement = statements.backwards(statement)
            records = self._database.read(statement, params)
            return [RowPlace(*map(int, record)) for record in records]

        find = statements.of_phase(statements.FIND, phase)
        found = look(find if filtered else statements.LOOK)
        if len(found) > wanted:
            return FoundRows([place.id for place in found[:wanted]], found[wanted - 1])
        end: RowPlace | None = None
        if filtered:
            end = next(iter(look(statements.LOOK_END)), None)
            if end is not None:
                # Whether anything is behind it.
                params.update(end._asdict(), scan=1)
                if not look(statements.LOOK):
                    end = None
        return FoundRows([place.id for place in found], end)

    def _start(
        self, after: RowPlace | None, newest: bool, phase: PendingPhase | None
    ) -> RowPlace:
        if newest:
            return after or RowPlace(_LAST, _LAST, _LAST)
        start = after or RowPlace(_FIRST, _FIRST, _FIRST)
        if phase is PendingPhase.BACKOFF:
            # Those that wait for a moment are behind all that are due.
            start = max(start, RowPlace(self._database.now_ms(), _LAST, _LAST))
        return start

    def find_in_commit(
        self,
        namespace: str,
        commit_position: CommitPosition | str,
        *,
        limit: int,
        after: RowPlace | None,
    ) -> FoundRows:
        """See ``InvalidationOutbox.find_in_commit``."""
        position, _ = checked_position(commit_position)
        wanted = checked_count("limit", limit)
        start = b""
        if after is not None:
            # Of a row that has gone meanwhile: from the begin once more.
            for (start,) in self._database.read(statements.HASH, {"id": after.id}):
                pass
        params = self._database.params_of(
            namespace,
            position=self._database.dialect.encode(position.value),
            hash=start,
            limit=wanted + 1,
        )
        records = self._database.read(statements.LOOK_IN_COMMIT, params)
        ids = [int(id) for (id,) in records]
        more = len(ids) > wanted
        return FoundRows(
            ids[:wanted], RowPlace(0, 0, ids[wanted - 1]) if more else None
        )

    def published_rate(
        self, namespace: str, *, seconds: float, cap: int
    ) -> list[PublishedPart]:
        """See ``InvalidationOutbox.published_rate``."""
        parts = statements.RATE_PARTS
        width = max(1, positive_ms("seconds", seconds) // parts)
        # One behind the present moment, so that the last part has that, too.
        start = self._database.now_ms() + 1 - parts * width
        params = self._database.params_of(
            namespace, from_ms=start, width_ms=width, cap=checked_count("cap", cap) + 1
        )
        found = [
            PublishedPart(start + part * width, start + (part + 1) * width)
            for part in range(parts)
        ]
        for record in self._database.read(statements.PUBLISHED_RATE, params):
            place, rows, last, mean, longest = record
            part = found[int(place)]
            if not rows:
                continue
            counted = min(int(rows), cap)
            passed = max(1, int(last) - part.from_ms)
            capped = int(rows) > cap
            found[int(place)] = part._replace(
                rows=counted,
                capped=capped,
                estimate=counted * width // passed if capped else counted,
                mean_lag_ms=max(0, int(mean)),
                max_lag_ms=max(0, int(longest)),
            )
        return found
