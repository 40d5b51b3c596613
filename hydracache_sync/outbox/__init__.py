"""Outboxes: the durable table of invalidations in SQLite, in memory, in MySQL."""

from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.history import RowEvent, RowEventKind, RowHistory
from hydracache_sync.outbox.memory import MemoryOutbox
from hydracache_sync.outbox.mysql.outbox import MySQLOutbox
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
from hydracache_sync.outbox.sqlite.outbox import SQLiteOutbox
from hydracache_sync.outbox.url import open_outbox
from hydracache_sync.outbox.workers import WorkerBeat, WorkerProcess

__all__ = [
    "CommitStatus",
    "FoundRows",
    "InvalidationOutbox",
    "MemoryOutbox",
    "MySQLOutbox",
    "OutboxRow",
    "OutboxState",
    "OutboxStatus",
    "Pause",
    "PendingPhase",
    "RowEvent",
    "RowEventKind",
    "RowHistory",
    "RowPlace",
    "PublishedPart",
    "SQLiteOutbox",
    "WorkerBeat",
    "WorkerProcess",
    "open_outbox",
]
