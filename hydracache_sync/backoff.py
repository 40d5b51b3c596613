"""How long to wait before trying again."""

from __future__ import annotations

import random

#: Doublings after which the wait no longer grows: 2**30 seconds is 34 years, and
#: a float would overflow at 2**1024.
_MAX_DOUBLINGS = 30


def full_jitter(base: float, longest: float, failures: int) -> float:
    """Return seconds to wait after ``failures`` failures in a row, 1 or more.

    Anything from 0 to ``base`` after the first, to twice that after the second and so
    on, never above ``longest``: what failed together must not come back together.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    doublings = min(max(failures, 1) - 1, _MAX_DOUBLINGS)
    return random.uniform(0.0, min(longest, base * 2.0**doublings))
