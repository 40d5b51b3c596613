"""How the threads of a pool are, as values for a health check or a page."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hydracache_sync.events import OutageBegan


class ThreadState(enum.Enum):
    """What a thread of a pool is at."""

    #: Nothing is due.
    IDLE = "idle"
    #: Carries a batch.
    WORKING = "working"
    #: The database or the cache of a namespace is away; rows wait, nothing is lost.
    WAITING = "waiting"
    #: Has not come back for ``stuck_after`` seconds from an applier or the database.
    STUCK = "stuck"
    #: Has ended without being told to; is replaced within seconds.
    DEAD = "dead"


@dataclass(frozen=True)
class ThreadHealth:
    """One thread.

    :ivar seconds: how long it has been at that.
    :ivar outbox: the outbox that it carries from, as text.
    :ivar namespace: what it is working on, or stuck with, or whose cache is away.
    :ivar error: what keeps it waiting, or what it died of.
    """

    name: str
    state: ThreadState
    seconds: float
    outbox: str
    namespace: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class PoolHealth:
    """All threads of a pool in this process.

    :ivar running: started here and not stopped. False in a forked child until the pool
        is used there.
    :ivar pid: the process that this was asked in.
    :ivar outages: those that last now.
    :ivar replaced: threads that died or were stuck, and were replaced, since the start.
    """

    running: bool
    pid: int
    threads: tuple[ThreadHealth, ...] = ()
    outages: tuple[OutageBegan, ...] = ()
    replaced: int = 0

    @property
    def ok(self) -> bool:
        """Whether rows are being carried, or would be if there were any."""
        fine = (ThreadState.IDLE, ThreadState.WORKING)
        return self.running and all(thread.state in fine for thread in self.threads)
