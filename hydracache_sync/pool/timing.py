"""How long a pool pauses, and after how long it decides. For tests, mostly."""

from __future__ import annotations

from dataclasses import dataclass

from hydracache_sync.backoff import Backoff
from hydracache_sync.cache.bound import WATERMARK_EVERY


@dataclass(frozen=True)
class PoolTiming:
    """Durations of a pool that have a good default everywhere; all in seconds.

    :ivar supervise_every: time between two checks of the threads, each of which
        replaces a dead one.
    :ivar watermark_every: time between two watermarks of a namespace, for caches with
        ``max_staleness``.
    :ivar beat_every: time between two times that a process says that it carries rows.
    :ivar hanging_poll: a poll that has not returned for as long counts as hanging, and
        another thread polls too: its connection may be alive.
    :ivar check_writable_every: about the time between two checks whether the database
        takes writes. A failover that leaves a pool at a former primary is noticed then.
    :ivar namespace_backoff: how long a namespace of which no row could be applied is
        left alone. In an outage of its cache each batch would only be claimed and
        released.
    :ivar database_backoff: pauses between polls of a database that fails. Short, so
        that rows are applied within seconds of its return.
    :ivar database_calm: time that a database must have answered for until its outage is
        over: one that flaps is one outage and two log lines, not hundreds.
    """

    supervise_every: float = 1.0
    watermark_every: float = WATERMARK_EVERY
    beat_every: float = 10.0
    hanging_poll: float = 1.0
    check_writable_every: float = 5.0
    namespace_backoff: Backoff = Backoff(0.1, 2.0)
    database_backoff: Backoff = Backoff(0.1, 2.0)
    database_calm: float = 1.0


#: What a pool uses unless it is given another.
DEFAULT_TIMING = PoolTiming()
