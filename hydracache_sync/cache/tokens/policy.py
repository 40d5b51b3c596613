"""When a token may be served and filled under: the rule of a cache, strict or not.

In a strict namespace each token is *cooling* for the hold-off after it was made.
Nothing is filled under it, and so nothing served, until the longest commit that it may
announce has ended. A writer stores new tokens before the commit, and every apply stores
new ones after it; none is taken back. A token that a reader makes where none is may
replace one that was evicted, so it is cooling as well. The model in ``tests/model``
shows what breaks without each of these.
"""

from __future__ import annotations

from typing import Sequence

from hydracache_sync.cache.tokens.token import COLD, LIVE, stamp_ms
from hydracache_sync.durations import checked_seconds

#: Seconds for which a strict namespace holds off. A COMMIT has to end within it.
DEFAULT_HOLD_OFF = 2.0


class HoldOff:
    """The seconds of a strict namespace, the same in all its processes. Immutable.

    :param seconds: over 0.
    :raises TypeError, ValueError: not so.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = checked_seconds("hold_off", seconds, above_zero=True)
        #: Seconds after which a COMMIT is no longer sent. It has as long to end.
        self.latest_commit = seconds / 2


class TokenPolicy:
    """Decides which tokens are live, and when a cache fills under them. Immutable.

    :param hold_off: of a strict namespace, None for one that is not.
    :param clock_skew: seconds by which the clocks of hosts may differ.
    """

    def __init__(self, hold_off: HoldOff | None, clock_skew: float) -> None:
        #: The kind of a token that may serve, which is that of a new one. Another kind
        #: in a strict namespace, so that an entry or a token made by a process that is
        #: not strict by mistake serves nobody who is.
        self.kind = LIVE if hold_off is None else COLD
        self.strict = hold_off is not None
        self._clock_skew = clock_skew
        self._cooling = clock_skew + (0.0 if hold_off is None else hold_off.seconds)

    def needs_stamps(self, since: float | None) -> bool:
        """Tell whether a load of a snapshot of ``since`` looks at stamps."""
        return self.strict or since is not None

    def is_ahead(self, since: float, now: float) -> bool:
        """Tell whether ``since`` is no moment before ``now``, and so proves nothing.

        It was given in milliseconds, say, or the clock was set back meanwhile.
        """
        return since > now + self._clock_skew

    def are_older_than(self, since: float, tokens: Sequence[bytes]) -> bool:
        """Tell whether a snapshot of ``since`` has all that these tokens stand for."""
        return _all_before(tokens, since - self._cooling)

    def are_settled(self, tokens: Sequence[bytes], now: float) -> bool:
        """Return whether none is cooling, for a load that begins now."""
        return not self.strict or _all_before(tokens, now - self._cooling)


def _all_before(tokens: Sequence[bytes], moment: float) -> bool:
    # Stamps are cut to the millisecond: a token may be almost one younger than it says.
    # And strictly: one of the same moment may be the younger.
    return all((stamp_ms(token) + 1) / 1000 < moment for token in tokens)
