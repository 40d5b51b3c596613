"""The flush that makes up for an invalidation that was given up."""

from __future__ import annotations

from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import checked_namespace
from hydracache_sync.outbox.admin import Admin
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.enqueue import Enqueuer
from hydracache_sync.outbox.row import OutboxState
from hydracache_sync.outbox.statements import Present
from hydracache_sync.receipts import CommitPosition


class FlushScheduler:
    """Enqueues at most one flush a minute and namespace."""

    def __init__(self, database: Database, enqueuer: Enqueuer, admin: Admin) -> None:
        self._database = database
        self._enqueuer = enqueuer
        self._admin = admin

    def schedule(self, namespace: str) -> bool:
        """Enqueue a flush of ``namespace``, unless one to come covers the case."""
        checked_namespace(namespace)
        batch = InvalidationIntentBatch("an invalidation was given up").flush()
        minute = self._database.host_now_ms() // 60_000
        later = 0
        while True:
            # The position makes the unique key count: one flush a minute, of all
            # processes. One that is not claimed yet will be applied after this moment,
            # and so covers the case; any other may have been applied too early.
            position = CommitPosition(f"dead-letter:{minute + later}")
            receipt = self._enqueuer.write(
                namespace, batch, position, Present.LEFT, 60_000 * later
            )
            if receipt.inserted:
                return True
            flushes = self._admin.rows(namespace, commit_position=position)
            if any(
                row.state is OutboxState.PENDING and row.claim_token is None
                for row in flushes
            ):
                return False
            later += 1
