"""How long an entry lives, and when it is due to be loaded anew.

Entries that were stored together must not end together: each gets a little less than it
was promised.
"""

from __future__ import annotations

import random
from typing import Callable, NamedTuple

from hydracache_sync.cache.store import whole_seconds
from hydracache_sync.durations import checked_seconds

#: Seconds an entry lives unless told otherwise. Tokens keep entries right; this bounds
#: how long a change that bypassed the outbox (a script, a trigger) stays unseen.
DEFAULT_TTL = 3600.0

#: Part of its TTL by which an entry may end earlier. A tenth spreads the reloads of an
#: hour's entries over six minutes.
DEFAULT_JITTER = 0.1


#: Later than any clock, and the most that an entry has room for.
_NEVER_MS = 2**63 - 1


class Lifetime(NamedTuple):
    """What one call asks for, checked; seconds.

    :ivar ttl: 0 for no limit.
    :ivar soft_ttl: None for none.
    """

    ttl: float
    soft_ttl: float | None


class Lifetimes:
    """The defaults of a cache, and what they come to for an entry. Immutable.

    :param clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        ttl: float,
        soft_ttl: float | None,
        jitter: float,
        clock: Callable[[], float],
    ) -> None:
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
            raise TypeError(f"jitter must be a number, not {type(jitter).__name__}")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter must be 0 or more and below 1, not {jitter!r}")
        self._jitter = jitter
        self._clock = clock
        whole_seconds(ttl)
        self.default = Lifetime(ttl, _checked_soft(soft_ttl))

    def of(self, ttl: float | None, soft_ttl: float | None = None) -> Lifetime:
        """Check what a call asks for; None for the default.

        :raises TypeError, ValueError: it is no number of seconds, or negative.
        """
        if ttl is None and soft_ttl is None:
            return self.default
        if ttl is None:
            ttl = self.default.ttl
        else:
            whole_seconds(ttl)
        if soft_ttl is None:
            soft_ttl = self.default.soft_ttl
        return Lifetime(ttl, _checked_soft(soft_ttl))

    def seconds(self, lifetime: Lifetime) -> float:
        """For how long an entry is to be stored now, 0 for no limit."""
        return lifetime.ttl * (1 - self._jitter * random.random())

    def soft_expiry_ms(self, lifetime: Lifetime) -> int:
        """When an entry stored now is due, in Unix milliseconds, 0 for never."""
        if lifetime.soft_ttl is None:
            return 0
        spread = 1 - self._jitter * random.random()
        return min(int((self._clock() + lifetime.soft_ttl * spread) * 1000), _NEVER_MS)

    def is_due(self, soft_ms: int) -> bool:
        """Tell whether that moment has come."""
        return 0 < soft_ms <= self._clock() * 1000


def _checked_soft(soft_ttl: float | None) -> float | None:
    if soft_ttl is None:
        return None
    return checked_seconds("soft_ttl", soft_ttl, above_zero=True)
