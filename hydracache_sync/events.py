"""What happened, as values: the seam for metrics, alerts and an operator's page.

``subscribe`` of a worker, a pool or a cache hands each event to a callback, in the
thread in which it happened and after everything about it is written down; whatever the
callback does can no longer hurt a row. It should be quick: the thread carries nothing
meanwhile.

The log lines of the same events have the same facts as fields, see :func:`log_fields`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Callable, Sequence

from hydracache_sync.outbox.row import OutboxRow


@dataclass(frozen=True)
class Event:
    """Base of all events.

    :ivar namespace: the cache namespace; None for what concerns the whole database.
    """

    namespace: str | None


@dataclass(frozen=True)
class RowsEvent(Event):
    """Something happened to rows.

    :ivar rows: as they were claimed; a row's ``id`` names it for an operator. Some
        attributes are read from the database when they are asked for first, see
        :class:`~hydracache_sync.OutboxRow`.
    :ivar lost: how many of them had been taken over by another worker meanwhile, and
        were left to it. Which ones is not known.
    """

    rows: Sequence[OutboxRow]
    lost: int

    @property
    def count(self) -> int:
        """Rows that it really happened to."""
        return len(self.rows) - self.lost


@dataclass(frozen=True)
class Published(RowsEvent):
    """Rows were applied, acknowledged and finished.

    :ivar seconds: from the claim, or from the call of an inline publish, to the end.
    :ivar inline: by ``publish`` in the writer's own thread, not by a claim.
    """

    seconds: float
    inline: bool = False


@dataclass(frozen=True)
class Retried(RowsEvent):
    """An attempt failed and was counted; the rows are due again after a backoff.

    :ivar attempts: failed attempts so far, this one included.
    :ivar backoff: seconds until they are due.
    """

    error: str
    attempts: int
    backoff: float


@dataclass(frozen=True)
class Released(RowsEvent):
    """Rows were given back and no attempt was counted.

    :ivar error: why; None if time was up or the worker was stopped.
    :ivar delay: seconds until they are due.
    """

    error: str | None
    delay: float


@dataclass(frozen=True)
class DeadLettered(RowsEvent):
    """Rows were given up and wait for an operator.

    :ivar flushed: a flush of the namespace was added so that nothing stale stays.
    """

    error: str
    flushed: bool


@dataclass(frozen=True)
class OutageBegan(Event):
    """The cache of a namespace, or a database, does not serve. Nothing is lost.

    :ivar what: "cache" or "database".
    :ivar error: what was met first.
    :ivar node: the cache's node that is away; None for all of it, or a database.
    """

    what: str
    error: str
    node: str | None = None


@dataclass(frozen=True)
class OutageEnded(Event):
    """It serves again.

    :ivar seconds: how long it did not, as far as was seen.
    :ivar node: as in :class:`OutageBegan`.
    """

    what: str
    seconds: float
    node: str | None = None


@dataclass(frozen=True)
class Purged(Event):
    """Old published rows were deleted.

    :ivar rows: how many.
    """

    rows: int
    seconds: float


@dataclass(frozen=True)
class ThreadStuck(Event):
    """A thread of a pool does not come back from what it does.

    :ivar thread: its name.
    :ivar seconds: how long it has been at it.
    """

    thread: str
    seconds: float


@dataclass(frozen=True)
class ThreadReplaced(Event):
    """A thread of a pool died, or was stuck for too long; another took its place.

    :ivar error: what it died of; None if it was stuck.
    """

    thread: str
    error: str | None


@dataclass(frozen=True)
class StaleHit(Event):
    """An audit met an entry that was not what the database had; reported by a cache.

    :ivar key: of the entry, as text.
    :ivar tags: of the entry, sorted.
    :ivar max_age: seconds that the entry has been there at most; None if not known.
    :ivar place: where it was read: file, line and function.
    :ivar request: what read it, where an app knows: method and path, without the query
        string, as ``GET /product/1``; or the name of a task.
    """

    key: str
    tags: tuple[str, ...]
    max_age: float | None
    place: str
    request: str | None = None


#: Takes an event; what it returns is ignored, what it raises is logged.
EventSubscriber = Callable[[Event], object]


def log_fields(event: Event) -> dict[str, Any]:
    """Return ``event`` as fields for ``extra=`` of a log call.

    ``hydracache_event`` is the name of its class, then one field for each attribute,
    ``hydracache_namespace`` for instance. ``hydracache_rows`` are ids, the first 100.
    """
    record: dict[str, Any] = {"hydracache_event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "rows" and not isinstance(value, int):
            value = [row.id for row in value[:100]]
        record[f"hydracache_{field.name}"] = value
    return record
