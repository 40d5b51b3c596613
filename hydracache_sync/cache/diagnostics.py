"""Counts of what a ``TaggedCache`` did, and the reports that it gives to meters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import count
from typing import Iterable, Mapping, Protocol

from hydracache_sync.fork import ProcessLock

_REFUSED = "refused_"

#: Reasons that are also counted as ``refused_snapshot``.
OF_SNAPSHOT = ("transaction", "earlier", "uncommitted", "unseen", "request")


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
        snapshot that the value was loaded from. Of these an app counts five apart:
    :ivar refused_transaction: a transaction was open since before the token was made.
    :ivar refused_earlier: the request had read something before the load, which the
        loader may return, so that it counted for as old as the request.
    :ivar refused_uncommitted: the request had changed something and not committed it.
    :ivar refused_unseen: the load was not seen to read on connections that the app
        knows, and on them alone, so that it counted for as old as the request.
    :ivar refused_request: of the request's connections nothing was known at all; with
        ``HYDRACACHE_SNAPSHOT=request``: the request was older than the token.
    :ivar refused_size: fills refused because the store takes no value of that size.
    :ivar refused_value: loads whose value the codec does not keep, by
        ``unstorable="log"``; such a value is loaded at each read.
    :ivar refused_hold_off: fills refused because a strict namespace holds off what a
        write has touched, or a token that was missing.
    :ivar bypassed: reads and fills left out because this thread is writing what they
        rest on.
    :ivar joined: misses answered by the load of another reader, here or elsewhere.
    :ivar waited_in_vain: misses that waited for another's load and then loaded
        themselves.
    :ivar refreshed: hits past their soft TTL that were loaded again.
    :ivar stale_on_error: loads that failed and were answered with an outdated value, as
        the caller had asked.
    :ivar audited: hits whose value was loaded as well, by ``audit``.
    :ivar audit_stale: of these, hits that were not what the database had, with no
        invalidation on its way; each is a :class:`~hydracache_sync.StaleHit`.
    :ivar audit_unsettled: of these, hits that differed and prove nothing: they were
        invalidated soon after, or rows stayed pending, or two loads differed.
    :ivar audit_failed: audits whose loader, or ``oldest_pending``, raised; the reader
        got its hit.
    :ivar lapsed: reads that were not served an entry because it may be older than
        ``max_staleness``; counted as misses, too.
    :ivar unreadable: entries found compressed by a library that is not installed here;
        counted as misses, too, and by the codec, for all of its caches.
    :ivar loads: calls of a loader whose value was to be stored, one for all keys that
        ``get_many_or_load`` misses.
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
    refused_transaction: int = 0
    refused_uncommitted: int = 0
    refused_unseen: int = 0
    refused_request: int = 0
    refused_earlier: int = 0
    audited: int = 0
    audit_stale: int = 0
    audit_unsettled: int = 0
    audit_failed: int = 0
    refused_value: int = 0
    lapsed: int = 0
    unreadable: int = 0
    loads: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Hits among all reads, from 0 to 1; None before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else None

    @property
    def not_stored(self) -> dict[str, int]:
        """Loads that were not stored, by the reason, as ``refused_`` of it counts them.

        Each load has one: what is told apart is not counted as "snapshot", too.
        """
        found = {
            field.name[len(_REFUSED) :]: getattr(self, field.name)
            for field in fields(self)
            if field.name.startswith(_REFUSED)
        }
        found["snapshot"] -= sum(found[why] for why in OF_SNAPSHOT)
        return found

    @classmethod
    def added_up(cls, counts: Iterable[Mapping[str, int]]) -> CacheDiagnostics:
        """Add up the counts of several processes, by the names of the fields.

        A name that is no field's is of another version, and left out.
        """
        found = {field.name: 0 for field in fields(cls)}
        for each in counts:
            for name in found.keys() & each.keys():
                found[name] += each[name]
        return cls(**found)


class Counter:
    """A number that any thread may add one to. Adding takes no lock."""

    def __init__(self) -> None:
        #: Call it to add one. In C, so that no other thread comes in between.
        self.add = count().__next__
        self._lock = ProcessLock()
        self._looks = 0

    @property
    def total(self) -> int:
        with self._lock.mine():
            # To look takes a number, too.
            total = self.add() - self._looks
            self._looks += 1
            return total


class Counters:
    """One :class:`Counter` for each field of the diagnostics. Safe for threads.

    :param unreadable: the codec's own.
    """

    def __init__(self, unreadable: Counter) -> None:
        self.unreadable = unreadable
        self.hits = Counter()
        self.misses = Counter()
        self.fills = Counter()
        self.refused_unknown = Counter()
        self.refused_snapshot = Counter()
        self.refused_size = Counter()
        self.refused_hold_off = Counter()
        self.refused_value = Counter()
        self.bypassed = Counter()
        self.joined = Counter()
        self.waited_in_vain = Counter()
        self.refreshed = Counter()
        self.stale_on_error = Counter()
        self.errors = Counter()
        self.refused_transaction = Counter()
        self.refused_uncommitted = Counter()
        self.refused_unseen = Counter()
        self.refused_request = Counter()
        self.refused_earlier = Counter()
        self.audited = Counter()
        self.audit_stale = Counter()
        self.audit_unsettled = Counter()
        self.audit_failed = Counter()
        self.lapsed = Counter()
        self.loads = Counter()
        self._by_reason = {
            "transaction": self.refused_transaction,
            "uncommitted": self.refused_uncommitted,
            "unseen": self.refused_unseen,
            "request": self.refused_request,
            "earlier": self.refused_earlier,
        }

    def refused_by(self, since: float) -> Counter:
        """What counts a fill that is refused because its snapshot is of ``since``."""
        why = getattr(since, "why", "")
        return self._by_reason.get(why, self.refused_snapshot)

    def diagnostics(self) -> CacheDiagnostics:
        """Count what happened so far."""
        found = {
            field.name: getattr(self, field.name).total
            for field in fields(CacheDiagnostics)
        }
        found["refused_snapshot"] += sum(
            found[f"refused_{why}"] for why in self._by_reason
        )
        return CacheDiagnostics(**found)


#: Of so many reads one is measured, and counts for all of them: to note each takes
#: some 2 us, a tenth of a hit from memcached.
READS_FOR_ONE = 64


class CacheMeter(Protocol):
    """Notes what one cache does; in any of its threads. Never raises."""

    def note_read(self, seconds: float, size: int) -> None:
        """Note a read, one in :data:`READS_FOR_ONE`.

        :param size: bytes that it found.
        """

    def note_stored(self, size: int) -> None:
        """Note what is about to be stored, in bytes."""
