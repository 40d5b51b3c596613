"""Leave a node alone for a while after it failed, then let one caller try it.

Waiting for a node that hangs costs each caller its timeout; a page with thirty cached
reads would wait thirty times. Here the first failure spares the others: until the rest
is over a call that needs the node fails at once, then one call tries it while the
others go on failing, and what comes of that decides.

Nothing here is an answer: that a node was skipped is an error to whoever needed it.

Takes no lock, which a fork could copy locked: the state is replaced as a whole.
"""

from __future__ import annotations

from itertools import count
from time import monotonic
from typing import Callable, NamedTuple

from hydracache_sync.backoff import Backoff

#: The first rest is this part of the longest; each further failure doubles it.
FIRST_PART = 1 / 16

#: A rest is this many times as long as the failed call took, so that a node that hangs
#: costs a third of a caller's time at first, and less as the rests grow.
TIMES_LOST = 2.0


class Rest(NamedTuple):
    """A node is left alone.

    :ivar opened: when it failed; ``time.monotonic``, as all moments here.
    :ivar until: when the next caller may try.
    :ivar failures: in a row.
    :ivar reason: what the last failure said.
    :ivar trying: one caller has been let through, and has not reported yet.
    :ivar turn: gives the first caller after ``until`` a 0, the others more.
    """

    opened: float
    until: float
    failures: int
    reason: str
    trying: bool
    turn: Callable[[], int]


class Breaker:
    """Whether one node is to be asked. Safe for threads and forks.

    :param longest: seconds of the longest rest; 0 for no rests.
    :param patience: seconds after which a try that nobody reported about is taken for
        abandoned, and the next caller may try.

    :param clock: seconds that never go back; replaced in tests.

    :ivar rest: None while the node is to be asked: the only look that a call pays for.
    """

    __slots__ = (
        "rest",
        "_longest",
        "_backoff",
        "_patience",
        "_clock",
        "_worked_since",
        "_failures_before",
    )

    def __init__(
        self,
        longest: float,
        patience: float,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.rest: Rest | None = None
        self._longest = longest
        self._backoff = Backoff(longest * FIRST_PART, longest)
        self._patience = patience
        self._clock = clock
        # When it last began to work again, and after how many failures.
        self._worked_since = float("-inf")
        self._failures_before = 0

    def at_rest(self, now: float) -> Rest | None:
        """Return the rest that is not over yet, if there is one."""
        rest = self.rest
        return rest if rest is not None and now < rest.until else None

    def refused(self, now: float) -> Rest | None:
        """Ask to call the node; return the rest that forbids it.

        None may mean that this caller is the one that tries: it reports what came of
        it, or calls :meth:`untried`.
        """
        rest = self.rest
        if rest is None:
            return None
        if now < rest.until:
            return rest
        if rest.turn() and now < rest.until + self._patience:
            return rest
        self.rest = rest._replace(
            until=now + self._patience, trying=True, turn=count().__next__
        )
        return None

    def failed(self, began: float, reason: str) -> None:
        """Note that a call which began at ``began`` got no proper answer."""
        if not self._longest:
            return
        rest = self.rest
        if began < (self._worked_since if rest is None else rest.opened):
            # It went out before what is known now. When a node hangs, all callers that
            # wait for it fail at once, and that is one failure.
            return
        now = self._clock()
        failures = 1 if rest is None else rest.failures + 1
        if rest is None and now - self._worked_since < self._longest:
            # It comes and goes: to begin anew each time would be to wait each time.
            failures = self._failures_before + 1
        length = max(self._backoff.bound(failures), TIMES_LOST * (now - began))
        until = now + self._backoff.jittered(min(self._longest, length))
        self.rest = Rest(now, until, failures, reason, False, count().__next__)

    def succeeded(self, began: float) -> None:
        """Note that a call which began at ``began`` was answered."""
        rest = self.rest
        if rest is None or began < rest.opened:
            return
        self._failures_before = rest.failures
        self._worked_since = self._clock()
        self.rest = None

    def untried(self) -> None:
        """Note that a call was given up, with no word about the node."""
        rest = self.rest
        if rest is not None and rest.trying:
            self.rest = rest._replace(
                until=self._clock(), trying=False, turn=count().__next__
            )
