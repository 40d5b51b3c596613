"""What a storm is made of, and what the seed decides: which faults, and how far apart.

Faults come by progress, not by the clock, so that a slow machine gets as many.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Sequence

from faults.fate import Fate

KILL_WRITER = "kill writer"
KILL_WORKER = "kill worker"
FREEZE_WORKER = "freeze worker"
RESTART_MEMCACHED = "restart memcached"
RESTART_DATABASE = "restart database"

#: Seconds that a frozen worker is left frozen after the end of its claim.
FROZEN_BEYOND = (0.3, 1.5)

#: Seconds that memcached is away before it comes back empty, or a database server
#: before it comes back with all that was committed.
AWAY = (0.2, 1.2)

#: Seconds between two drains of cron.
CRON_EVERY = 1.5

#: How often a process passes a point before its fate happens there. A new process takes
#: up to a second to start on a busy machine, and the storm must not consist of starts.
WRITER_PASSES = (40, 250)
WORKER_PASSES = (10, 80)
CRON_PASSES = (1, 6)


@dataclass(frozen=True)
class Settings:
    """
    :ivar database: which one, see ``kill_storm.py``.
    :ivar rate: transactions a second of all writers, 0 for no limit. Without one the
        storm is over before much has happened in it.
    :ivar deadline: seconds after which everything is stopped and the storm has failed.
    :ivar plain_delete: read and invalidate by get, set and delete.
    :ivar drop_intents: share of intents that workers publish without applying them.
    """

    seed: int
    database: str = "sqlite"
    transactions: int = 10_000
    writers: int = 4
    workers: int = 2
    readers: int = 2
    items: int = 40
    rate: float = 100.0
    memcached_restarts: int = 2
    database_restarts: int = 0
    deadline: float = 360.0
    plain_delete: bool = False
    drop_intents: float = 0.0

    def quota(self, slot: int) -> int:
        """Transactions of one writer's slot."""
        share, rest = divmod(self.transactions, self.writers)
        return share + (slot < rest)


class Event(NamedTuple):
    """A fault from outside, when the share ``at`` of all transactions is committed."""

    at: float
    what: str


def draw_events(settings: Settings, rng: random.Random) -> list[Event]:
    """Draw all faults from outside, in order."""
    kills = max(6, settings.transactions // 250)
    faults = [KILL_WRITER] * kills + [KILL_WORKER] * kills
    faults += [FREEZE_WORKER] * max(3, settings.transactions // 1000)
    events = [Event(rng.uniform(0.02, 0.97), what) for what in faults]
    for what, count in (
        (RESTART_MEMCACHED, settings.memcached_restarts),
        (RESTART_DATABASE, settings.database_restarts),
    ):
        for number in range(count):
            at = (number + rng.uniform(0.7, 1.3)) / (count + 1)
            events.append(Event(at, what))
    return sorted(events)


def fates(
    kinds: Sequence[tuple[str, int]], passes: tuple[int, int], rng: random.Random
) -> Iterator[Fate]:
    """Deal fates without end, each kind once before any comes again."""
    while True:
        for point, number in rng.sample(kinds, len(kinds)):
            yield point, rng.randint(*passes), number
