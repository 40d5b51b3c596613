"""How long an entry lives, and when it is due to be loaded again.

Entries that were stored together must not end together: each gets a little less than it
was promised.
"""

from __future__ import annotations

import random
from typing import Callable, NamedTuple

from hydracache_sync.cache.store import whole_seconds
from hydracache_sync.durations import checked_seconds

#: Seconds an entry lives by default. Tokens keep entries right; this bounds
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
        check_lifetime(ttl, soft_ttl)
        self.default = Lifetime(ttl, soft_ttl)

    def of(self, ttl: float | None, soft_ttl: float | None = None) -> Lifetime:
        """Check what a call asks for; None for the default.

        :raises TypeError, ValueError: it is no number of seconds, or negative, or
            ``soft_ttl`` is not below the TTL of the entry.
        """
        if ttl is None and soft_ttl is None:
            return self.default
        if ttl is None:
            ttl = self.default.ttl
        check_lifetime(ttl, soft_ttl)
        if soft_ttl is None:
            # The default of a cache is for entries of its TTL; one that ends before it
            # is never due.
            soft_ttl = self.default.soft_ttl
        return Lifetime(ttl, soft_ttl)

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


def check_lifetime(ttl: float | None, soft_ttl: float | None) -> None:
    """Refuse what is no lifetime, and a soft TTL that an entry does not live to see.

    :param ttl: None if the TTL is not known yet, 0 for no limit.
    :param soft_ttl: None for none.
    :raises TypeError, ValueError: says which of them, and why.
    """
    if ttl is not None:
        whole_seconds(ttl)
    if soft_ttl is None:
        return
    checked_seconds("soft_ttl", soft_ttl, above_zero=True)
    if ttl and soft_ttl >= ttl:
        raise ValueError(
            f"soft_ttl must be below ttl, not {soft_ttl:g} with a ttl of {ttl:g}: the"
            " entry would end before it is due"
        )
