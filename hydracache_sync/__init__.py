"""Cache invalidation that cannot be lost, in plain threads.

A write enqueues what it invalidates in its own transaction; a worker carries it to
memcached until it is acknowledged; a tagged cache never serves what came before.
"""

from hydracache_sync.appliers import (
    InvalidationApplier,
    MemcachedApplier,
    PlainKeyApplier,
    RecordingApplier,
)
from hydracache_sync.cache import (
    MemcachedStore,
    MemoryStore,
    PickleCodec,
    Reservation,
    TaggedCache,
)
from hydracache_sync.errors import (
    ApplyError,
    ApplyPermanent,
    ApplyTransient,
    ApplyUnavailable,
    ConfigurationError,
    HydraCacheError,
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    QuarantineError,
    SchemaError,
)
from hydracache_sync.intents import (
    CacheInvalidation,
    InvalidationIntent,
    InvalidationIntentBatch,
)
from hydracache_sync.keys import CacheKeyBuilder, collection_tag, entity_tag
from hydracache_sync.outbox import (
    CommitStatus,
    InvalidationOutbox,
    MemoryOutbox,
    MySQLOutbox,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    SQLiteOutbox,
    open_outbox,
)
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.wait import (
    ConsistencyMode,
    InvalidationWait,
    WaitDiagnostics,
    WaitOutcome,
)
from hydracache_sync.worker import OutboxWorker, PublishReport, WorkerDiagnostics

__version__ = "0.1.0"

__all__ = [
    # what a write invalidates
    "CacheInvalidation",
    "CacheKeyBuilder",
    "InvalidationIntent",
    "InvalidationIntentBatch",
    "collection_tag",
    "entity_tag",
    # the outbox
    "CommitPosition",
    "CommitStatus",
    "InvalidationOutbox",
    "InvalidationReceipt",
    "MemoryOutbox",
    "MySQLOutbox",
    "OutboxRow",
    "OutboxState",
    "OutboxStatus",
    "Pause",
    "SQLiteOutbox",
    "open_outbox",
    # carrying it to the cache
    "InvalidationApplier",
    "MemcachedApplier",
    "OutboxWorker",
    "PlainKeyApplier",
    "PublishReport",
    "RecordingApplier",
    "WorkerDiagnostics",
    # reading your writes
    "ConsistencyMode",
    "InvalidationWait",
    "WaitDiagnostics",
    "WaitOutcome",
    # the cached read
    "MemcachedStore",
    "MemoryStore",
    "PickleCodec",
    "Reservation",
    "TaggedCache",
    # errors
    "ApplyError",
    "ApplyPermanent",
    "ApplyTransient",
    "ApplyUnavailable",
    "ConfigurationError",
    "HydraCacheError",
    "NotInTransactionError",
    "OutboxBusyError",
    "OutboxError",
    "QuarantineError",
    "SchemaError",
]
