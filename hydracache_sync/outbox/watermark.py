"""The watermark: the moment before which everything that was committed is published.

Of rows that wait the one that was created first holds it back, since its transaction
ended later than that. The model in ``tests/model/bounded.py`` shows what breaks when
any kind of row is left out. And the heartbeat, which says the same of a replica.
"""

from __future__ import annotations

from typing import NamedTuple

from hydracache_sync.durations import duration_ms
from hydracache_sync.outbox import statements
from hydracache_sync.outbox.database import Database
from hydracache_sync.outbox.row import whole

#: Begin of the positions of flushes that make up for dead letters, and what is behind
#: all of them.
DEAD_LETTER, BEHIND_DEAD_LETTERS = "dead-letter:", "dead-letter;"

#: Rows that are read to find the oldest; with more of them none is found. Applying so
#: many takes seconds in any case.
WATERMARK_CAP = 50_000


class Watermark(NamedTuple):
    """Until when everything is published, at one moment.

    :ivar moment_ms: in Unix milliseconds of the outbox's clock: each commit that ended
        before it is published. None if that is not known: too many rows wait, one of
        them is dated ahead, or a flush that makes up for a dead letter waits.
    :ivar now_ms: the outbox's clock.
    :ivar dead_letters: of the rows that hold it back, those that are dead letters.
    """

    moment_ms: int | None
    now_ms: int
    dead_letters: int


def watermark(
    database: Database, namespace: str, *, cap: int = WATERMARK_CAP
) -> Watermark:
    """See ``InvalidationOutbox.watermark``."""
    params = database.params_of(
        namespace,
        first=database.dialect.encode(DEAD_LETTER),
        last=database.dialect.encode(BEHIND_DEAD_LETTERS),
        cap=cap,
    )
    [record] = database.read(statements.WATERMARK, params)
    now, rows, oldest, newest, dead, flush_waits = record
    moment: int | None = int(now)
    if rows:
        # Of a row that is dated ahead it is not known when it was created, nor of one
        # whose date is no number: SQLite sorts such a one behind all others.
        known = rows < cap and whole(newest, now + 1) <= int(now)
        moment = int(oldest) if known else None
    if flush_waits:
        moment = None
    return Watermark(moment, int(now), int(dead or 0))


def write_heartbeat(database: Database, *, every: float) -> None:
    """See ``InvalidationOutbox.write_heartbeat``.

    One row on the server that takes the writes. Its moment is read before its own
    commit, so whatever was committed before that moment is before it in the log, too.
    Where a replica applies commits in their order, a snapshot that shows the row has
    all of that.
    """
    every_ms = duration_ms("every", every)

    def write(cursor: object) -> None:
        # The host's clock at each try, not before one that had to wait.
        params = database.params(every_ms=every_ms)
        params["host_ms"] = params["now"]
        database.statements.run(cursor, statements.HEARTBEAT, params)

    database.run(write)
