"""The processes that apply rows, in words: for ``hydracache status`` and ``doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Iterable, Sequence

from hydracache_sync.cache.diagnostics import CacheDiagnostics
from hydracache_sync.outbox.row import OutboxStatus
from hydracache_sync.outbox.workers import (
    LEAST_PATIENCE_MS,
    WorkerProcess,
    carriers,
)
from hydracache_sync.printable import printable
from hydracache_sync.wording.moments import counted, duration, utc
from hydracache_sync.wording.rows import count_of

HEADINGS = ("applied by", "namespaces", "version", "seen", "last batch", "published")

#: Processes that are listed; what else there is, is counted.
LISTED = 20


def name_of(process: WorkerProcess) -> str:
    return printable(f"{process.kind} {process.host}/{process.pid}")


def record_of(process: WorkerProcess, now_ms: int) -> tuple[str, ...]:
    """The cells below :data:`HEADINGS`."""
    batch = "-"
    if process.batch_ms is not None:
        batch = f"{duration(max(0, now_ms - process.batch_ms) / 1000)} ago"
    return (
        name_of(process),
        " ".join(process.namespaces),
        process.version,
        f"{duration(process.unseen_ms / 1000)} ago",
        batch,
        str(process.carried),
    )


def object_of(process: WorkerProcess) -> dict[str, Any]:
    """The same for programs."""
    return {**asdict(process), "late": process.is_late}


def uncarried(
    name: str, status: OutboxStatus, processes: Iterable[WorkerProcess]
) -> str | None:
    """Say that no process applies the rows of ``name``; None while one does.

    Also None where none was seen in a day and no row has waited for long: the first
    one may not have come yet. In a pause no process should apply them.
    """
    now, last = carriers(processes, name)
    if status.paused_since_ms is not None:
        return None
    rows = counted(count_of(status.pending, status), "row")
    waits = f"{rows} {'waits' if status.pending == 1 else 'wait'}, and"
    if now:
        return _after_one_drain(waits, status, now)
    if last is None:
        if not status.pending or status.oldest_pending_age_ms < LEAST_PATIENCE_MS:
            return None
        return f"{waits} no worker has been seen within a day"
    if last.stopped:
        if last.unseen_ms < LEAST_PATIENCE_MS:
            return None  # it may be starting again
        text = f"no worker runs; the last, {name_of(last)}, stopped at"
        text += f" {utc(last.seen_ms)}"
    else:
        usual = f", seen every {duration(last.every_ms / 1000)} until then"
        text = (
            f"no worker has been seen for {duration(last.unseen_ms / 1000)}; the last"
            f" was {name_of(last)} at {utc(last.seen_ms)}"
            f"{usual if last.every_ms else ''}"
        )
    return f"{waits} {text}" if status.pending else f"{text}. Rows would wait"


def _after_one_drain(
    waits: str, status: OutboxStatus, now: Sequence[WorkerProcess]
) -> str | None:
    """Say that rows wait since the only drain that was seen, which has run once.

    One by hand is not cron: it may never come again.
    """
    if any(each.kind != "drain" or each.every_ms for each in now):
        return None
    last = min(now, key=lambda each: each.unseen_ms)
    age_ms = status.oldest_pending_age_ms
    # What is older than the drain waits for something else: it is in backoff.
    if not status.pending or not LEAST_PATIENCE_MS <= age_ms < last.unseen_ms:
        return None
    return (
        f"{waits} the only worker that was seen is {name_of(last)}, which ran once,"
        f" {duration(last.unseen_ms / 1000)} ago"
    )


def cache_counts(name: str, processes: Iterable[WorkerProcess]) -> CacheDiagnostics:
    """What the caches of the namespace did in those of ``processes`` that run."""
    return CacheDiagnostics.added_up(
        process.caches[name]
        for process in processes
        if name in process.caches and process.is_running
    )


def hit_rate_text(found: CacheDiagnostics) -> str | None:
    """Say how many reads the caches answered, and why loads were not stored."""
    if found.hit_rate is None:
        return None
    text = (
        f"hit rate {found.hit_rate:.1%} of"
        f" {counted(found.hits + found.misses, 'cached read')}"
    )
    reasons = ", ".join(
        f"{why} {count}" for why, count in found.not_stored.items() if count
    )
    return f"{text}; loads not stored: {reasons}" if reasons else text


def cache_object(found: CacheDiagnostics) -> dict[str, Any]:
    """The same for programs."""
    return {
        "hits": found.hits,
        "misses": found.misses,
        "hit_rate": found.hit_rate,
        "fills": found.fills,
        "not_stored": found.not_stored,
    }


def versions_of(processes: Sequence[WorkerProcess]) -> dict[str, int]:
    """How many processes that run have which version of the library."""
    found: dict[str, int] = {}
    for process in processes:
        if process.is_running:
            found[process.version] = found.get(process.version, 0) + 1
    return found
