"""A process that ends or freezes itself at a chosen point.

Signals from outside hit at random moments, and mostly while the victim waits. The
moments that matter, such as the one between a commit and all that follows it, last
microseconds: there the process sends the signal to itself.
"""

from __future__ import annotations

import os
import signal

#: Where, at which time of passing there, and the signal's number.
Fate = tuple[str, int, int]

#: Points of a writer: before COMMIT is sent, after it has returned.
INTENDED, COMMITTED = "intended", "committed"

#: Points of a worker: it holds a claim; is about to write to the cache; the cache has
#: acknowledged and nobody knows; the rows are published.
CLAIMED, APPLYING, APPLIED, MARKED = "claimed", "applying", "applied", "marked"

KILL, FREEZE = int(signal.SIGKILL), int(signal.SIGSTOP)

WRITER_FATES: list[tuple[str, int]] = [(INTENDED, KILL), (COMMITTED, KILL)]

WORKER_FATES: list[tuple[str, int]] = [
    (CLAIMED, KILL),
    (APPLYING, KILL),
    (APPLIED, KILL),
    (MARKED, KILL),
    (CLAIMED, FREEZE),
    (APPLYING, FREEZE),
    (APPLIED, FREEZE),
]


class Fates:
    """Counts how often points are passed, and lets the fate happen."""

    def __init__(self, fate: Fate | None) -> None:
        self._fate = fate
        self._passed = 0

    def reach(self, point: str) -> None:
        if self._fate is None or point != self._fate[0]:
            return
        self._passed += 1
        if self._passed == self._fate[1]:
            os.kill(os.getpid(), self._fate[2])
