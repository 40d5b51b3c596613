"""Counts of what a ``TaggedCache`` did."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import count


@dataclass(frozen=True)
class CacheDiagnostics:
    """What a cache object did in this process since it was made.

    A forked child goes on from its parent's numbers.

    :ivar hits: reads answered from the cache.
    :ivar misses: reads that were not, whatever the reason.
    :ivar fills: values stored after a load.
    :ivar refused_unknown: fills refused because a token was missing, of no known kind,
        or could not be read or made before the load.
    :ivar refused_snapshot: fills refused because a token may be younger than the
        snapshot that the value was loaded from.
    :ivar refused_size: fills refused because the store takes no value of that size.
    :ivar refused_hold_off: fills refused because a strict namespace holds off what a
        write has touched, or a token that was missing.
    :ivar bypassed: reads and fills left out because this thread is writing what they
        rest on.
    :ivar joined: misses answered by the load of another reader, here or elsewhere.
    :ivar waited_in_vain: misses that waited for another's load and then loaded
        themselves.
    :ivar refreshed: hits past their soft TTL that were loaded anew.
    :ivar stale_on_error: loads that failed and were answered with an outdated value, as
        the caller had asked.
    :ivar errors: calls that the store failed; each made its read a miss, or lost a
        fill or a delete.
    """

    hits: int
    misses: int
    fills: int
    refused_unknown: int
    refused_snapshot: int
    refused_size: int
    errors: int
    refused_hold_off: int = 0
    bypassed: int = 0
    joined: int = 0
    waited_in_vain: int = 0
    refreshed: int = 0
    stale_on_error: int = 0


class Tally:
    """A number that any thread may add one to. Takes no lock that a fork could keep."""

    def __init__(self) -> None:
        self._count = count()
        #: Call it to add one.
        self.add = self._count.__next__

    @property
    def total(self) -> int:
        # The only way to look at the next number without taking it.
        return int(repr(self._count)[len("count(") : -1])


class Tallies:
    """One :class:`Tally` for each field of the diagnostics. Safe for threads."""

    def __init__(self) -> None:
        self.hits = Tally()
        self.misses = Tally()
        self.fills = Tally()
        self.refused_unknown = Tally()
        self.refused_snapshot = Tally()
        self.refused_size = Tally()
        self.refused_hold_off = Tally()
        self.bypassed = Tally()
        self.joined = Tally()
        self.waited_in_vain = Tally()
        self.refreshed = Tally()
        self.stale_on_error = Tally()
        self.errors = Tally()

    def diagnostics(self) -> CacheDiagnostics:
        """Count what happened so far."""
        return CacheDiagnostics(
            **{
                field.name: getattr(self, field.name).total
                for field in fields(CacheDiagnostics)
            }
        )
