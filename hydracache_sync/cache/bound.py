"""Bounded staleness: whether what the cache serves is known to be young enough.

A worker stores the *watermark* of its namespace on every node: each commit that ended
before it is published, so no read that begins later is served anything older. Once true
that stays true. So a reader remembers the greatest that it has seen, and asks for
another, before it asks for an entry, when that is too old. Never with the entry: nodes
answer at different moments, and a token may have been read before the watermark was
computed. The model in ``tests/model/bounded.py`` shows what breaks then.
"""

from __future__ import annotations

from time import monotonic
from typing import Callable

from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.cache.store import CacheStore, Failures
from hydracache_sync.durations import checked_seconds
from hydracache_sync.errors import ApplyError
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Seconds between two watermarks of a pool.
WATERMARK_EVERY = 1.0

#: Seconds for which a reader that got no watermark young enough asks for no other.
ASK_EVERY = 0.1

_SIZE = 8


def store_watermark(store: CacheStore, keyspace: Keyspace, moment_ms: int) -> Failures:
    """Store a watermark on every node; return what was not acknowledged.

    A plain write: one that comes late only makes readers load.
    """
    value = moment_ms.to_bytes(_SIZE, "big")
    return store.set_many([(keyspace.watermark(), value, None)])


def watermark_ms(value: bytes | None) -> int | None:
    """Return what :func:`store_watermark` has stored; None for anything else."""
    if value is None or len(value) != _SIZE:
        return None
    return int.from_bytes(value, "big")


class Bound:
    """What one cache knows of its namespace's watermark. Safe for threads and forks.

    :param seconds: the bound, above ``clock_skew`` and the time between watermarks.
    :param clock: Unix seconds.
    :raises TypeError, ValueError: not so.
    """

    def __init__(
        self,
        store: CacheStore,
        keyspace: Keyspace,
        seconds: float,
        *,
        clock_skew: float,
        clock: Callable[[], float],
    ) -> None:
        least = clock_skew + WATERMARK_EVERY
        if checked_seconds("max_staleness", seconds) <= least:
            raise ValueError(
                f"max_staleness must be above {least:g} seconds, not {seconds!r}: it"
                f" must leave room for clock_skew ({clock_skew:g}) and the time between"
                f" two watermarks ({WATERMARK_EVERY:g})"
            )
        self._store = store
        self._keyspace = keyspace
        self._clock_skew = clock_skew
        self._clock = clock
        #: Seconds for which a watermark is good enough, and a load of others too.
        self.seconds = seconds - clock_skew
        self._until = 0.0
        self._ask_at = 0.0
        #: What was dated ahead when it was seen: no more true when that moment comes.
        self._refused: int | None = None
        self._unknown = LoggedOutage(
            logger, f"max_staleness in the cache of namespace {keyspace.namespace}"
        )

    def holds(self, beside: Address) -> bool:
        """Tell whether entries that are looked up from now on are young enough.

        :param beside: the watermark on its node is asked for if need be.
        :raises ApplyError: the node fails.
        """
        now = self._clock()
        # Believed only where no clock is off by more. What was noted while this host's
        # was ahead, and the database's, would hold until they get there again.
        latest = now + self._clock_skew + self.seconds
        if now <= self._until <= latest:
            return True
        if monotonic() < self._ask_at:
            return False
        [value] = self._store.get_many([self._keyspace.watermark(beside)])
        found = watermark_ms(value)
        if found is None:
            why = (
                "no worker has stored a watermark: give max_staleness"
                " (HYDRACACHE_MAX_STALENESS, watermark=True) to workers and drains too"
            )
        elif found == self._refused or found / 1000 > now + self._clock_skew:
            self._refused = found
            why = "the watermark was dated ahead by more than clock_skew"
        else:
            known = self._until if self._until <= latest else 0.0
            self._until = max(known, found / 1000 + self.seconds)
            if now <= self._until:
                self._unknown.end()
                return True
            age = now - found / 1000
            why = f"the watermark is {age:.1f} s old: no worker has applied all rows"
        self._ask_at = monotonic() + ASK_EVERY
        self._unknown.begin(ApplyError(f"{why}. Meanwhile every read is a miss"))
        return False
