"""A circuit breaker for one node: closed, open, then half-open for one probe.

Waiting for a node that hangs costs each caller its timeout; a page with thirty cached
reads would wait thirty times. The first failure opens the circuit: calls that need the
node then fail at once. When its time is over, one call is let through as a probe while
the others go on failing. Its result closes the circuit or opens it for longer.

An open circuit is never an answer: the caller that needed the node gets an error.

Takes no lock, which a fork could copy locked: the state is replaced as a whole.
"""

from __future__ import annotations

from itertools import count
from time import monotonic
from typing import Callable, NamedTuple

from hydracache_sync.backoff import Backoff

#: The first open time is this part of the longest; each further failure doubles it.
FIRST_PART = 1 / 16

#: The circuit is open this many times as long as the failed call took. So a node that
#: hangs costs a third of a caller's time at first, and less later.
TIMES_LOST = 2.0


class OpenState(NamedTuple):
    """The circuit is open, or half-open once ``until`` is over.

    :ivar opened_at: when the node failed; ``time.monotonic``, as all moments here.
    :ivar until: when the next caller may probe.
    :ivar failures: in a row.
    :ivar reason: what the last failure said.
    :ivar probing: one caller has been let through, and has not reported yet.
    :ivar turn: gives the first caller after ``until`` a 0, the others more.
    """

    opened_at: float
    until: float
    failures: int
    reason: str
    probing: bool
    turn: Callable[[], int]


class CircuitBreaker:
    """Decides whether calls may go to one node. Safe for threads and forks.

    :param longest: seconds for which it is open at most; 0 for never.
    :param patience: seconds after which a probe without a result counts as abandoned,
        and the next caller may probe.
    :param clock: seconds that never go back; replaced in tests.

    :ivar state: None while closed, which is all that a call looks at then.
    """

    __slots__ = (
        "state",
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
        self.state: OpenState | None = None
        self._longest = longest
        self._backoff = Backoff(longest * FIRST_PART, longest)
        self._patience = patience
        self._clock = clock
        # When it last began to work again, and after how many failures.
        self._worked_since = float("-inf")
        self._failures_before = 0

    def open_at(self, now: float) -> OpenState | None:
        """Return the state that refuses all calls now, None if one may probe or go."""
        state = self.state
        return state if state is not None and now < state.until else None

    def try_acquire(self, now: float) -> OpenState | None:
        """Ask to call the node.

        :return: the state that refuses it. None lets the caller go on, perhaps as the
            probe: it reports its result, or calls :meth:`cancel_probe`.
        """
        state = self.state
        if state is None:
            return None
        if now < state.until:
            return state
        if state.turn() and now < state.until + self._patience:
            return state
        self.state = state._replace(
            until=now + self._patience, probing=True, turn=count().__next__
        )
        return None

    def failed(self, began: float, reason: str) -> None:
        """Note that a call which began at ``began`` got no proper answer."""
        if not self._longest:
            return
        state = self.state
        if began < (self._worked_since if state is None else state.opened_at):
            # It went out before what is known now. When a node hangs, all callers that
            # wait for it fail at once, and that is one failure.
            return
        now = self._clock()
        failures = 1 if state is None else state.failures + 1
        if state is None and now - self._worked_since < self._longest:
            # It comes and goes: the first, short time would not help then.
            failures = self._failures_before + 1
        length = max(self._backoff.bound(failures), TIMES_LOST * (now - began))
        until = now + self._backoff.jittered(min(self._longest, length))
        self.state = OpenState(now, until, failures, reason, False, count().__next__)

    def succeeded(self, began: float) -> None:
        """Note that a call which began at ``began`` was answered."""
        state = self.state
        if state is None or began < state.opened_at:
            return
        self._failures_before = state.failures
        self._worked_since = self._clock()
        self.state = None

    def cancel_probe(self) -> None:
        """Note that a call was given up and says nothing about the node."""
        state = self.state
        if state is not None and state.probing:
            self.state = state._replace(
                until=self._clock(), probing=False, turn=count().__next__
            )
