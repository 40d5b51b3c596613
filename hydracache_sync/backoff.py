"""The pause that grows with each failure in a row, and its jitter.

Jitter, since callers that failed together must not come back together.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
from typing import NamedTuple

#: Doublings after which the pause no longer grows: 2**30 seconds is 34 years, and
#: a float would overflow at 2**1024.
_MAX_DOUBLINGS = 30

#: Part of a pause that is not drawn by lot, see :class:`Backoff`.
EQUAL_JITTER = 0.5
FULL_JITTER = 0.0


class Backoff(NamedTuple):
    """How long to pause before another attempt. Holds no state; the caller counts.

    :ivar first: seconds, the longest pause after the first failure. Each further
        failure doubles it.
    :ivar longest: seconds, the bound of that.
    :ivar least: the pause is drawn from this part of its bound up to the bound:
        ``EQUAL_JITTER`` for a pause that must be felt, ``FULL_JITTER`` (from 0) to
        spread many callers as widely as possible.
    """

    first: float
    longest: float
    least: float = EQUAL_JITTER

    def bound(self, failures: int) -> float:
        """Return the longest pause after ``failures`` failures in a row, 1 or more."""
        doublings = min(max(failures, 1) - 1, _MAX_DOUBLINGS)
        return min(self.longest, self.first * 2.0**doublings)

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after ``failures`` failures in a row."""
        return self.jittered(self.bound(failures))

    def jittered(self, bound: float) -> float:
        """Return a pause of at most ``bound`` seconds, drawn as this backoff draws."""
        return random.uniform(bound * self.least, bound)
