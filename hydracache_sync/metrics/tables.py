"""The metrics by name: what is exported, and of what.

For people, docs/operations/metrics.md. Beside them ``exporter`` has three histograms
and a counter of what workers and reads tell.
"""

from __future__ import annotations

from typing import Callable, Literal, Sequence

from hydracache_sync.cache.diagnostics import OF_SNAPSHOT
from hydracache_sync.outbox.row import OutboxStatus

GaugeMode = Literal["livesum", "livemin"]

#: Seconds.
LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)

READ_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)

_OF_SNAPSHOT = " ".join(f"refused_{why}" for why in OF_SNAPSHOT)
REFUSED = f"refused_unknown refused_snapshot {_OF_SNAPSHOT} refused_size"

#: Counters: name, meaning, a label beside the namespace, and the fields of diagnostics
#: that it counts. The label's value is the field's name, without "refused_".
OF_CACHES = (
    ("cache_reads", "Cached reads.", "outcome", "hits misses bypassed"),
    ("cache_fills", "Values stored.", "", "fills"),
    (
        "cache_fills_refused",
        "Values loaded and not stored.",
        "reason",
        f"{REFUSED} refused_hold_off refused_value",
    ),
    ("cache_loads", "Calls of loaders.", "", "loads"),
    (
        "cache_load_waits",
        "Misses that waited for another's load.",
        "outcome",
        "joined waited_in_vain",
    ),
    ("cache_refreshes", "Hits past their soft TTL, loaded again.", "", "refreshed"),
    (
        "cache_stale",
        "Reads answered with an outdated value, and stale hits that an audit found.",
        "reason",
        "stale_on_error audit_stale",
    ),
    (
        "cache_audits",
        "Audits of hits.",
        "outcome",
        "audited audit_unsettled audit_failed",
    ),
    ("cache_lapsed", "Entries older than max_staleness allows.", "", "lapsed"),
    (
        "cache_unreadable",
        "Entries compressed by a library that is not installed.",
        "",
        "unreadable",
    ),
    ("cache_errors", "Calls that the store failed.", "", "errors"),
)
OF_READS = (
    (
        "cache_bytes",
        "Bytes of entries, as the store has them.",
        "direction",
        "read stored",
    ),
)
OF_INSERTS = (
    ("outbox_enqueued", "Rows that this process has inserted.", "", "enqueued"),
)
OF_WORKERS = (
    ("worker_batches", "Batches claimed, empty ones too.", "", "iterations"),
    (
        "worker_rows",
        "Rows of batches and of inline publishes.",
        "outcome",
        "published retried dead_lettered released lost unseen",
    ),
    ("worker_escalations", "Flushes in place of dead letters.", "", "escalations"),
)

#: Gauges that each process sets: name, meaning, labels, and what is told of several
#: processes in the multiprocess mode.
GAUGES: Sequence[tuple[str, str, Sequence[str], GaugeMode]] = (
    ("pool_threads", "Threads of pools.", ["state"], "livesum"),
    ("database_away", "Processes whose pool waits for the database.", [], "livesum"),
    (
        "cache_away",
        "Processes whose worker waits for a node of the cache.",
        ["namespace", "node"],
        "livesum",
    ),
    (
        "circuit_open",
        "Processes whose circuit breaker is not closed.",
        ["node"],
        "livesum",
    ),
    (
        "watermark_age_seconds",
        "Since the moment before which all that was committed is published.",
        ["namespace"],
        "livemin",
    ),
)

#: Gauges read from the outbox at each scrape: name, meaning, what of a status it is.
OF_OUTBOX: tuple[tuple[str, str, Callable[[OutboxStatus], float]], ...] = (
    ("pending", "Rows not yet published, up to 10000.", lambda s: s.pending),
    ("due", "Of these, rows that a worker could claim now.", lambda s: s.due),
    ("claimed", "Of these, rows that a worker holds.", lambda s: s.claimed),
    ("backoff", "Of these, rows that wait for a moment.", lambda s: s.backoff),
    ("dead", "Dead letters, up to 10000.", lambda s: s.dead_lettered),
    (
        "oldest_pending_age_seconds",
        "Since the oldest pending row was enqueued.",
        lambda s: s.oldest_pending_age_ms / 1000,
    ),
    ("paused", "1 while it is paused.", lambda s: s.paused_since_ms is not None),
)
