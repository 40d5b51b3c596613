"""The state of a pool and its threads, as values for a health check or a page."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from hydracache_sync.events import OutageBegan


class ThreadState(enum.Enum):
    """What a thread of a pool does."""

    #: Nothing is due.
    IDLE = "idle"
    #: Applies a batch.
    WORKING = "working"
    #: The database or the cache of a namespace is away; rows wait, nothing is lost.
    WAITING = "waiting"
    #: Has not returned for ``stuck_after`` seconds from an applier or the database.
    STUCK = "stuck"
    #: Died; another thread replaces it within seconds.
    DEAD = "dead"


@dataclass(frozen=True)
class ThreadHealth:
    """One thread.

    :ivar seconds: how long it has been in that state.
    :ivar outbox: the outbox whose rows it applies, as text.
    :ivar namespace: whose rows it applies, or is stuck with, or whose cache is away.
    :ivar error: why it waits, or what it died of.
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
    :ivar pid: the process that was asked.
    :ivar outages: those that last now.
    :ivar replaced: threads that died or were stuck, and were replaced, since the start.
    """

    running: bool
    pid: int
    threads: tuple[ThreadHealth, ...] = ()
    outages: tuple[OutageBegan, ...] = ()
    replaced: int = 0

    #: Statuses with which a restart would fix nothing.
    FINE: ClassVar[tuple[str, ...]] = ("ok", "waiting")

    @property
    def status(self) -> str:
        """All of it in a word: "ok", "stopped", "waiting", "stuck" or "dead"."""
        states = [thread.state for thread in self.threads]
        for state in (ThreadState.DEAD, ThreadState.STUCK, ThreadState.WAITING):
            if state in states:
                return str(state.value)
        return "ok" if self.running else "stopped"

    @property
    def ok(self) -> bool:
        """Whether rows are applied, or would be if any were due."""
        fine = (ThreadState.IDLE, ThreadState.WORKING)
        return self.running and all(thread.state in fine for thread in self.threads)
