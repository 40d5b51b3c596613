"""Which processes apply rows: each leaves a row beside the outbox, and writes it again.

One row a process, or one for all drains of the same namespaces, in a table of its own:
no producer touches it, and each statement here commits by itself. Times are of the
outbox's clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping

from hydracache_sync.durations import duration_ms
from hydracache_sync.keys import checked_text
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.arguments import checked_count, kept_error
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.row import kept_node, readable, whole

#: What a process may be: a pool in an app, ``hydracache worker``, ``hydracache drain``.
KINDS = ("pool", "worker", "drain")

#: Seconds that the row of a process which is not seen is kept.
KEEP_WORKERS = 86400.0

#: A process is late when it was not seen for so many times its usual distance, and for
#: so many milliseconds at least.
LATE_AFTER = 3
LEAST_PATIENCE_MS = 60_000

#: Milliseconds for which a process that is late is listed. After a deploy that kills
#: its processes a day of them would hide those that run.
LATE_FOR_MS = 3_600_000

#: Usual distance of drains that have run once: nobody knows better yet.
FIRST_DISTANCE_MS = 300_000

#: What a process that has stopped by itself has in place of its usual distance.
STOPPED = -1

#: Bytes of an owner's name.
MAX_OWNER = 255


def checked_kind(kind: str) -> str:
    """Return ``kind`` if it is one of :data:`KINDS`; else a ``ValueError``."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return kind


@dataclass(frozen=True)
class WorkerBeat:
    """What a process says of itself.

    :ivar owner: its name, or that of all drains alike: 1 to 255 bytes of UTF-8.
    :ivar kind: "pool", "worker" or "drain".
    :ivar version: of this library.
    :ivar age: seconds since it began.
    :ivar every: seconds between two beats. 0 has the distance measured, and ``carried``
        added to what is there: for drains, of which each beats once.
    :ivar carried: rows that it has published since it began.
    :ivar batch_age: seconds since the end of its last batch that claimed rows; None if
        there was none.
    :ivar last_error: why rows wait, or were retried or given up, lately.
    :ivar caches: counts of its caches that are not 0, by namespace and by the name that
        they have in ``CacheDiagnostics``.
    :ivar reads_elsewhere: a server that loads were seen to read, which is not known to
        have what is committed.
    :ivar stopped: it applies no more: this is its last word.
    """

    owner: str
    kind: str
    host: str
    pid: int
    version: str
    namespaces: tuple[str, ...]
    age: float
    every: float
    carried: int
    batch_age: float | None = None
    last_error: str | None = None
    caches: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reads_elsewhere: str | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        checked_text("owner", self.owner, maximum=MAX_OWNER, minimum=1)
        checked_kind(self.kind)


@dataclass(frozen=True)
class WorkerProcess:
    """A process that applies rows, or did within a day, as it was seen last.

    Of drains of the same namespaces only the last one is known. Texts are as they were
    stored, by whomever.

    :ivar owner: tells it from all others.
    :ivar kind: "pool" in an app, "worker" or "drain".
    :ivar version: of its hydracache_sync.
    :ivar started_ms: Unix milliseconds of the outbox's clock, as all that end so.
    :ivar seen_ms: when it wrote last.
    :ivar unseen_ms: milliseconds since then.
    :ivar every_ms: its usual distance: of drains the time between the last two, half
        of the one before where that was less, and no less than before within 30
        seconds; 0 while only one has run.
    :ivar batch_ms: when it ended its last batch; None if it has claimed no row.
    :ivar carried: rows published since it began; by drains, since the first of them.
    :ivar caches: counts of its caches by namespace, those of ``CacheDiagnostics`` that
        are not 0.
    :ivar reads_elsewhere: a server that its loads read, and that may be behind.
    :ivar stopped: it has said that it applies no more.
    """

    owner: str
    kind: str
    host: str
    pid: int
    version: str
    namespaces: tuple[str, ...]
    started_ms: int
    seen_ms: int
    unseen_ms: int
    every_ms: int
    batch_ms: int | None
    carried: int
    last_error: str | None
    caches: Mapping[str, Mapping[str, int]] = field(hash=False)
    reads_elsewhere: str | None
    stopped: bool = False

    @property
    def patience_ms(self) -> int:
        """Milliseconds without a word after which it is late."""
        distance = self.every_ms or FIRST_DISTANCE_MS
        return max(LEAST_PATIENCE_MS, LATE_AFTER * distance)

    @property
    def is_late(self) -> bool:
        """Whether it was not seen for longer than is usual: it was killed, or hangs."""
        return not self.stopped and self.unseen_ms > self.patience_ms

    @property
    def is_running(self) -> bool:
        """Whether it applies rows, as far as is known."""
        return not self.stopped and not self.is_late

    @property
    def is_listed(self) -> bool:
        """Whether an operator is to see it: it runs, or is late since a short while."""
        return self.is_running or (
            self.is_late and self.unseen_ms <= self.patience_ms + LATE_FOR_MS
        )


class Workers:
    """Writes, lists and purges the rows of processes. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, beat: WorkerBeat, *, timeout: float | None = None) -> None:
        """See ``InvalidationOutbox.beat``."""
        encode = self._database.dialect.encode
        every_ms = duration_ms("every", beat.every)
        params = self._database.params(
            owner=encode(beat.owner),
            kind=encode(beat.kind),
            host=encode(kept_node(beat.host)),
            pid=checked_count("pid", beat.pid),
            version=encode(kept_node(beat.version)),
            namespaces=encode(json.dumps(list(beat.namespaces), ensure_ascii=False)),
            age_ms=duration_ms("age", beat.age),
            every_ms=STOPPED if beat.stopped else every_ms,
            is_added=int(every_ms == 0),
            batch_age_ms=(
                None
                if beat.batch_age is None
                else duration_ms("batch_age", beat.batch_age)
            ),
            carried=checked_count("carried", beat.carried),
            last_error=self._encoded(beat.last_error, kept_error),
            caches=encode(json.dumps(beat.caches)),
            reads_elsewhere=self._encoded(beat.reads_elsewhere, kept_node),
        )
        self._database.change(statements.WORKER_BEAT, params, timeout=timeout)

    def _encoded(self, text: str | None, kept: Callable[[str], str]) -> Any:
        return None if text is None else self._database.dialect.encode(kept(text))

    def all(
        self, *, limit: int = 1000, timeout: float | None = None
    ) -> list[WorkerProcess]:
        """See ``InvalidationOutbox.workers``."""
        params = self._database.params(limit=checked_count("limit", limit))
        records = self._database.read(statements.WORKERS, params, timeout=timeout)
        return [_process(record) for record in records]

    def purge(self, *, older_than: float = KEEP_WORKERS) -> int:
        """Delete rows of processes that were not seen for ``older_than`` seconds.

        They are found without a lock, and deleted by their key: no beat waits.
        """
        params = self._database.params(age_ms=duration_ms("older_than", older_than))
        owners = [owner for (owner,) in self._database.read(statements.GONE, params)]
        if not owners:
            return 0
        return self._database.change(statements.FORGET_GONE, params, owners)


def carriers(
    workers: Iterable[WorkerProcess], namespace: str
) -> tuple[list[WorkerProcess], WorkerProcess | None]:
    """Return those of ``workers`` that carry ``namespace`` now, and the last that did.

    The second is None if there is none, of whatever age.
    """
    found = [each for each in workers if namespace in each.namespaces]
    last = min(found, key=lambda each: each.unseen_ms, default=None)
    return [each for each in found if each.is_running], last


def _process(record: tuple[Any, ...]) -> WorkerProcess:
    now, owner, kind, host, pid, version, namespaces, *rest = record
    started, seen, every, batch, carried, error, caches, elsewhere = rest
    now_ms = int(now)
    # Where it says no moment, the process is still to be shown: as just late.
    seen_ms = whole(seen, now_ms - LATE_FOR_MS)
    return WorkerProcess(
        owner=readable(owner),
        kind=readable(kind),
        host=readable(host),
        pid=whole(pid, 0),
        version=readable(version),
        namespaces=_names(namespaces),
        started_ms=whole(started, 0),
        seen_ms=seen_ms,
        unseen_ms=max(0, now_ms - seen_ms),
        every_ms=max(0, whole(every, 0)),
        batch_ms=None if batch is None else whole(batch, 0),
        carried=whole(carried, 0),
        last_error=None if error is None else readable(error),
        caches=_counts(caches),
        reads_elsewhere=None if elsewhere is None else readable(elsewhere),
        stopped=every == STOPPED,
    )


def _names(raw: Any) -> tuple[str, ...]:
    found = _parsed(raw)
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _counts(raw: Any) -> dict[str, dict[str, int]]:
    """The numbers in ``raw``; what a foreign hand wrote beside them is left out."""
    found = _parsed(raw)
    return {
        str(namespace): {
            str(name): count for name, count in counts.items() if type(count) is int
        }
        for namespace, counts in (found.items() if isinstance(found, dict) else ())
        if isinstance(counts, dict)
    }


def _parsed(raw: Any) -> Any:
    try:
        return json.loads(readable(raw))
    except (ValueError, RecursionError):
        return None  # a foreign hand's
