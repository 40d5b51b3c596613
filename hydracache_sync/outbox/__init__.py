"""Outboxes: the durable table of invalidations in SQLite, in memory, in MySQL."""

from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.memory import MemoryOutbox
from hydracache_sync.outbox.mysql import MySQLOutbox
from hydracache_sync.outbox.row import (
    CommitStatus,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    PendingPhase,
)
from hydracache_sync.outbox.sqlite import SQLiteOutbox
from hydracache_sync.outbox.url import open_outbox

__all__ = [
    "CommitStatus",
    "InvalidationOutbox",
    "MemoryOutbox",
    "MySQLOutbox",
    "OutboxRow",
    "OutboxState",
    "OutboxStatus",
    "Pause",
    "PendingPhase",
    "SQLiteOutbox",
    "open_outbox",
]
