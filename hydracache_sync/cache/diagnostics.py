"""Counts of what a ``TaggedCache`` did."""

from __future__ import annotations

from dataclasses import dataclass
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
