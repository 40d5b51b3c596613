"""Status: counts of what is not yet published, and of one commit's rows."""

from __future__ import annotations

from typing import Any

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import checked_position
from hydracache_sync.outbox.database import IDS_PER_STATEMENT, Database, parts_of
from hydracache_sync.outbox.row import CommitStatus, OutboxStatus
from hydracache_sync.receipts import CommitPosition

#: Rows of each state that are counted before it stops: counting a million rows takes
#: 100 to 250 ms, and beyond this an exact count is of no use.
STATUS_CAP = 10_000


class Status:
    """Counts rows; each call reads a fresh snapshot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_namespace(
        self, namespace: str, *, timeout: float | None = None
    ) -> OutboxStatus:
        params = self._database.params(
            namespace=self._database.dialect.encode(checked_namespace(namespace)),
            cap=STATUS_CAP + 1,
        )
        [record] = self._database.read(statements.STATUS, params, timeout=timeout)
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

    def of_commit(
        self,
        namespace: str,
        commit_position: CommitPosition | str,
        *,
        batch: InvalidationIntentBatch | None = None,
        timeout: float | None = None,
    ) -> CommitStatus:
        position, _ = checked_position(commit_position)
        params = self._database.params(
            namespace=self._database.dialect.encode(checked_namespace(namespace)),
            position=self._database.dialect.encode(position.value),
        )
        with self._database.limits.within(timeout):
            if batch is None:
                records = self._database.read(
                    statements.STATUS_FOR_COMMIT, params, timeout=timeout
                )
            else:
                hashes = [intent.target_hash() for intent in batch.distinct()]
                records = [
                    record
                    for part in parts_of(hashes, IDS_PER_STATEMENT)
                    for record in self._database.read(
                        statements.STATUS_FOR_TARGETS, params, part, timeout=timeout
                    )
                ]
        now_ms = max((int(record[0]) for record in records), default=0)
        pending, published, dead = (
            sum(int(record[state] or 0) for record in records) for state in (1, 2, 3)
        )
        return CommitStatus(pending, published, dead, now_ms)


def _whole(found: Any, otherwise: int) -> int:
    """The number in a column, unless a foreign hand wrote something else there."""
    try:
        return int(found)
    except (TypeError, ValueError):
        return int(otherwise)
