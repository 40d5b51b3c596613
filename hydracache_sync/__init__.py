"""Cache invalidation that cannot be lost, in plain threads.

A write enqueues what it invalidates in its own transaction; a worker applies it to
memcached until it is acknowledged; a tagged cache never serves what came before.
"""

from hydracache_sync.cache import (
    Codec,
    MemoryStore,
    PickleCodec,
    Quarantine,
    Reservation,
    SignedCodec,
    Stale,
    TaggedCache,
    cacheable,
)
from hydracache_sync.errors import (
    ApplyError,
    ApplyPermanent,
    ApplyTransient,
    ApplyUnavailable,
    ConfigurationError,
    ConnectionLostError,
    HydraCacheError,
    NotInTransactionError,
    OutboxBusyError,
    OutboxError,
    QuarantineError,
    ReadOnlyServerError,
    SchemaError,
)
from hydracache_sync.events import (
    DeadLettered,
    Event,
    OutageBegan,
    OutageEnded,
    Published,
    Purged,
    Released,
    Retried,
    StaleHit,
    ThreadReplaced,
    ThreadStuck,
)
from hydracache_sync.intents import (
    CacheInvalidation,
    InvalidationIntent,
    InvalidationIntentBatch,
)
from hydracache_sync.keys import (
    CacheKeyBuilder,
    collection_tag,
    entity_key,
    entity_tag,
    kind_tag,
)
from hydracache_sync.memcached import MemcachedStore
from hydracache_sync.outbox import (
    CommitStatus,
    FoundRows,
    InvalidationOutbox,
    MemoryOutbox,
    MySQLOutbox,
    OutboxRow,
    OutboxState,
    OutboxStatus,
    Pause,
    PendingPhase,
    PublishedPart,
    RowEvent,
    RowEventKind,
    RowHistory,
    RowPlace,
    SQLiteOutbox,
    WorkerBeat,
    WorkerProcess,
    open_outbox,
)
from hydracache_sync.pool import PoolHealth, ThreadHealth, ThreadState, WorkerPool
from hydracache_sync.receipts import CommitPosition, InvalidationReceipt
from hydracache_sync.replica_snapshot import ReplicaSnapshot
from hydracache_sync.snapshots import ConnectionSnapshot
from hydracache_sync.verify import CacheVerifier
from hydracache_sync.verify_report import CachedRead, StaleRead, VerifyReport, Within
from hydracache_sync.version import __version__ as __version__  # noqa: F401
from hydracache_sync.worker.appliers import (
    InvalidationApplier,
    MemcachedApplier,
    RecordingApplier,
)
from hydracache_sync.worker.plain_keys import PlainKeyApplier
from hydracache_sync.worker.reports import PublishReport, WorkerDiagnostics
from hydracache_sync.worker.wait import (
    ConsistencyMode,
    InvalidationWait,
    WaitDiagnostics,
    WaitOutcome,
)
from hydracache_sync.worker.worker import OutboxWorker

__all__ = [
    # what a write invalidates
    "CacheInvalidation",
    "CacheKeyBuilder",
    "InvalidationIntent",
    "InvalidationIntentBatch",
    "collection_tag",
    "entity_key",
    "entity_tag",
    "kind_tag",
    # the outbox
    "CommitPosition",
    "CommitStatus",
    "FoundRows",
    "InvalidationOutbox",
    "InvalidationReceipt",
    "MemoryOutbox",
    "MySQLOutbox",
    "OutboxRow",
    "OutboxState",
    "OutboxStatus",
    "Pause",
    "PendingPhase",
    "PublishedPart",
    "RowEvent",
    "RowEventKind",
    "RowHistory",
    "RowPlace",
    "SQLiteOutbox",
    "WorkerBeat",
    "WorkerProcess",
    "open_outbox",
    # applying it to the cache
    "InvalidationApplier",
    "MemcachedApplier",
    "OutboxWorker",
    "PlainKeyApplier",
    "PublishReport",
    "RecordingApplier",
    "WorkerDiagnostics",
    # threads that do, and what they tell
    "DeadLettered",
    "Event",
    "OutageBegan",
    "OutageEnded",
    "PoolHealth",
    "Published",
    "Purged",
    "Released",
    "Retried",
    "ThreadHealth",
    "StaleHit",
    "ThreadReplaced",
    "ThreadState",
    "ThreadStuck",
    "WorkerPool",
    # reading your writes
    "ConsistencyMode",
    "InvalidationWait",
    "WaitDiagnostics",
    "WaitOutcome",
    # the cached read
    "Codec",
    "MemcachedStore",
    "MemoryStore",
    "PickleCodec",
    "ConnectionSnapshot",
    "ReplicaSnapshot",
    "Quarantine",
    "Reservation",
    "SignedCodec",
    "cacheable",
    "Stale",
    "TaggedCache",
    # checking it in production
    "CachedRead",
    "CacheVerifier",
    "StaleRead",
    "VerifyReport",
    "Within",
    # errors
    "ApplyError",
    "ApplyPermanent",
    "ApplyTransient",
    "ApplyUnavailable",
    "ConfigurationError",
    "ConnectionLostError",
    "HydraCacheError",
    "NotInTransactionError",
    "OutboxBusyError",
    "OutboxError",
    "QuarantineError",
    "ReadOnlyServerError",
    "SchemaError",
]
