"""What became of the rows of one call, and counts since a worker was made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import add, attrgetter

from hydracache_sync.fork import ProcessLock


@dataclass(frozen=True)
class PublishReport:
    """What became of the rows of one call; reports add up with ``+``.

    :ivar claimed: rows claimed, or targets of a published receipt. The sum of the rest.
    :ivar published: applied, acknowledged and finished.
    :ivar retried: failed and counted an attempt; due again after a backoff.
    :ivar dead_lettered: given up; an operator retries or discards them.
    :ivar released: given back without counting an attempt: the cache was away, the
        claim's time was running out, or the worker was told to stop.
    :ivar lost: the claim had ended and another worker has the row, or had it.
    :ivar unseen: :meth:`OutboxWorker.publish` found no row, or one that may belong to
        an earlier enqueue under the same position: not committed yet, rolled back, or
        purged. A worker finds rows that are committed later.
    """

    claimed: int = 0
    published: int = 0
    retried: int = 0
    dead_lettered: int = 0
    released: int = 0
    lost: int = 0
    unseen: int = 0

    @property
    def complete(self) -> bool:
        """Whether every row was published: every later read sees the write."""
        return self.published == self.claimed

    def __add__(self, other: PublishReport) -> PublishReport:
        # Some times for each batch; astuple() would copy each number.
        return PublishReport(*map(add, _counts(self), _counts(other)))


#: Reads the fields of a report, in their order.
_counts = attrgetter(*(field.name for field in fields(PublishReport)))


@dataclass(frozen=True)
class WorkerDiagnostics:
    """Counts since the worker was made, in this process.

    ``iterations`` and ``escalations`` count calls and flushes, the rest as in
    :class:`PublishReport`. ``outages`` counts how often the cache went away.
    """

    iterations: int = 0
    claimed: int = 0
    published: int = 0
    retried: int = 0
    dead_lettered: int = 0
    released: int = 0
    lost: int = 0
    unseen: int = 0
    outages: int = 0
    escalations: int = 0


class WorkerCounts:
    """The counts of one worker. Safe for threads and forks.

    :ivar total: so far; replaced as a whole, so that it is read without a lock.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self.total = WorkerDiagnostics()

    def add(self, report: PublishReport, **more: int) -> None:
        """Add ``report``, and further counts by their names."""
        with self._lock.mine():
            total = self.total
            counts = {**total.__dict__}
            for name, count in (*report.__dict__.items(), *more.items()):
                counts[name] += count
            self.total = WorkerDiagnostics(**counts)
