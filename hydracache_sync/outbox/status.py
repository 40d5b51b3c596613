"""Counts of what is not yet published, and of one commit's rows.

Each call reads a fresh snapshot.
"""

from __future__ import annotations

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import checked_count, checked_position
from hydracache_sync.outbox.database import IDS_PER_STATEMENT, Database, parts_of
from hydracache_sync.outbox.row import CommitStatus, OutboxStatus, whole
from hydracache_sync.receipts import CommitPosition

#: Rows of each state that are counted before it stops: counting a million rows takes
#: 100 to 250 ms, and beyond this an exact count is of no use.
STATUS_CAP = 10_000


def namespace_status(
    database: Database, namespace: str, *, cap: int, timeout: float | None
) -> OutboxStatus:
    """See ``InvalidationOutbox.status``."""
    params = database.params_of(namespace, cap=checked_count("cap", cap) + 1)
    [record] = database.read(statements.STATUS, params, timeout=timeout)
    now_ms, pending, oldest, newest, tried, dead, died, published, paused = record[:9]
    claimed, backoff = record[9:]
    return OutboxStatus(
        pending=min(pending, cap),
        oldest_pending_age_ms=(
            0 if oldest is None else max(0, int(now_ms) - whole(oldest, now_ms))
        ),
        dead_lettered=min(dead, cap),
        last_published_at_ms=None if published is None else whole(published, 0),
        failed_attempts=int(tried or 0) + int(died or 0),
        capped=max(pending, dead) > cap,
        paused_since_ms=None if paused is None else whole(paused, 0),
        ahead_ms=max(0, whole(newest, now_ms) - int(now_ms)),
        claimed=min(int(claimed or 0), cap),
        backoff=min(int(backoff or 0), cap),
    )


def commit_status(
    database: Database,
    namespace: str,
    commit_position: CommitPosition | str,
    *,
    batch: InvalidationIntentBatch | None,
    timeout: float | None,
) -> CommitStatus:
    """See ``InvalidationOutbox.status_for_commit``."""
    position, _ = checked_position(commit_position)
    params = database.params_of(
        namespace, position=database.dialect.encode(position.value)
    )
    with database.limits.within(timeout):
        if batch is None:
            records = database.read(
                statements.STATUS_FOR_COMMIT, params, timeout=timeout
            )
        else:
            hashes = [intent.target_hash() for intent in batch.distinct()]
            records = [
                record
                for part in parts_of(hashes, IDS_PER_STATEMENT)
                for record in database.read(
                    statements.STATUS_FOR_TARGETS, params, part, timeout=timeout
                )
            ]
    now_ms = max((int(record[0]) for record in records), default=0)
    pending, published, dead = (
        sum(int(record[state] or 0) for record in records) for state in (1, 2, 3)
    )
    return CommitStatus(pending, published, dead, now_ms)
