"""Of a share of hits the value is loaded as well, and both are compared.

A difference proves nothing by itself: a change may have been committed between the hit
and the load, and its invalidation is on its way. So it is remembered, and checked again
``SETTLE`` seconds later. It counts as stale only if the same entry is still served
under the same tokens. Where the outbox is known, no row may be pending that is as old
as the load, either. Reports, and changes nothing: to delete the entry would hide the
fault, which is in the writer, and leave the other entries of the same tags as they are.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from time import monotonic
from typing import Any, Callable, NamedTuple, Sequence

from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.entries import Entries, Lookup
from hydracache_sync.cache.loads.snapshot import LoadSnapshot
from hydracache_sync.cache.tokens.token import is_placeholder, stamp_ms
from hydracache_sync.cache.unstorable import NotToBeStored
from hydracache_sync.errors import HydraCacheError
from hydracache_sync.events import Event, StaleHit, log_fields
from hydracache_sync.fork import PerProcess, ProcessLock
from hydracache_sync.keys import identity_text
from hydracache_sync.printable import printable_logger
from hydracache_sync.subscribers import Subscribers

logger = printable_logger(__name__)

#: Seconds between two audits of a process, at least: ten in a second at most.
PAUSE = 0.1

#: After an audit of so many seconds there is none for so many times as long: audits
#: take a twentieth of one thread at most, however slow a loader is.
COST = 20

#: Seconds until a difference is looked at again. An app that writes its rows at the end
#: of a request, and a worker that is busy, are done by then.
SETTLE = 10.0

#: Seconds after which a difference is given up whose rows are still pending.
PATIENCE = 120.0

#: Differences remembered at once. One more is not looked at again.
MAX_SUSPECTS = 10

#: Tags that a line of the log shows. An entry may have a thousand.
SHOWN_TAGS = 10

#: Loaded in place of a value that the database does not have.
ABSENT: Any = object()

_PACKAGE = str(Path(__file__).parents[1])


class _Suspect(NamedTuple):
    lookup: Lookup
    place: str
    request: str | None
    seen_at: float


class _Audits:
    """Those of one process."""

    def __init__(self) -> None:
        self.lock = ProcessLock()
        self.next_at = 0.0
        self.look_at = float("inf")
        self.suspects: list[_Suspect] = []


class Audit:
    """The audit of one cache. Safe for threads and forks.

    :param share: of hits, from 0 to 1.
    :param clock: Unix seconds.
    :param clock_skew: seconds by which a row's moment may be off.
    :param oldest_pending: returns the age of the oldest pending row in seconds, 0 for
        none, infinite if it is not known. None where no outbox is known.
    :param request: returns what names the request that reads; None outside of one.
    """

    def __init__(
        self,
        entries: Entries,
        share: float,
        *,
        clock: Callable[[], float],
        clock_skew: float,
        oldest_pending: Callable[[], float] | None,
        request: Callable[[], str | None] | None,
    ) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            raise TypeError(f"audit must be a number, not {type(share).__name__}")
        if not 0 <= share <= 1:
            raise ValueError(f"audit must be a share from 0 to 1, not {share!r}")
        self._entries = entries
        self._share = share
        self._clock = clock
        self._clock_skew = clock_skew
        self._oldest_pending = oldest_pending
        self._request = request
        self._mine = PerProcess(_Audits)
        self.subscribers: Subscribers[Event] = Subscribers("after an audit")

    def hit(
        self,
        lookup: Lookup,
        loader: Callable[[], Any],
        snapshot: Callable[[], LoadSnapshot],
    ) -> None:
        """Audit the hit ``lookup`` if it is its turn. Raises nothing of the loader's.

        :param snapshot: what is known of the snapshot of a load that begins now.
        """
        mine, now = self._mine.mine(), monotonic()
        takes = random.random() < self._share and now >= mine.next_at
        if not takes and now < mine.look_at:
            return
        lock = mine.lock.mine()
        if not lock.acquire(blocking=False):
            return  # one at a time, also not one within another's load
        try:
            if now >= mine.look_at:
                self._look_again(mine)
            if takes:
                self._compare(mine, lookup, loader, snapshot)
        finally:
            ended = monotonic()
            mine.next_at = ended + max(PAUSE, (ended - now) * COST)
            lock.release()

    def _compare(
        self,
        mine: _Audits,
        lookup: Lookup,
        loader: Callable[[], Any],
        snapshot: Callable[[], LoadSnapshot],
    ) -> None:
        counters = self._entries.counters
        try:
            loaded = self._loaded(lookup, loader, snapshot)
            if loaded is MISS:
                return
            counters.audited.add()
            if self._are_equal(lookup, loaded, lookup.value):
                return
            again = self._loaded(lookup, loader, snapshot)
            # A loader of a random value, or of one that changes all the while.
            proves = again is not MISS and self._are_equal(lookup, loaded, again)
        except NotToBeStored:
            return
        except Exception:
            # The reader has its hit, and did not ask for this load.
            counters.audit_failed.add()
            logger.warning("the audit of key %r failed", lookup.key, exc_info=True)
            return
        if any(lookup.addresses == each.lookup.addresses for each in mine.suspects):
            return
        if not proves or len(mine.suspects) >= MAX_SUSPECTS:
            counters.audit_unsettled.add()
            return
        request = None if self._request is None else self._request()
        mine.suspects.append(_Suspect(lookup, _place(), request, monotonic()))
        mine.look_at = min(mine.look_at, monotonic() + SETTLE)

    def _loaded(
        self,
        lookup: Lookup,
        loader: Callable[[], Any],
        snapshots: Callable[[], LoadSnapshot],
    ) -> Any:
        """Load; MISS where the load may be older than the entry's tokens.

        By the rule for a fill: a value that could be stored under these tokens is as
        new as all that they stand for.
        """
        snapshot = snapshots()
        if self._entries.check_fill(lookup, snapshot.since).refused is not None:
            return MISS
        loaded = snapshot.read(loader)
        if self._entries.check_fill(lookup, snapshot.since).refused is not None:
            return MISS
        return loaded

    def _are_equal(self, lookup: Lookup, loaded: Any, value: Any) -> bool:
        """Compare as both come out of the cache; objects without ``==`` by bytes."""
        if loaded is ABSENT or value is ABSENT:
            return loaded is value
        entries = self._entries
        one, other = (entries.pack_shared(lookup, each) for each in (loaded, value))
        loaded, value = (entries.unpack_shared(lookup, each) for each in (one, other))
        return bool(loaded == value) or (
            entries.pack_shared(lookup, loaded) == entries.pack_shared(lookup, value)
        )

    def _look_again(self, mine: _Audits) -> None:
        """Look at the oldest difference again, whose time has come."""
        suspect = mine.suspects.pop(0)
        elapsed = monotonic() - suspect.seen_at
        # First: a row counts as published when the tokens are replaced.
        settled = self._is_settled(elapsed)
        lookup, _ = self._entries.reread(suspect.lookup, suspect.lookup.addresses[0])
        if lookup.value is MISS or lookup.entry != suspect.lookup.entry:
            self._entries.counters.audit_unsettled.add()
        elif settled:
            self._report(suspect)
        elif elapsed >= PATIENCE:
            self._entries.counters.audit_unsettled.add()
        else:
            mine.suspects.append(suspect)
        mine.look_at = float("inf")
        if mine.suspects:
            due = mine.suspects[0].seen_at + SETTLE
            mine.look_at = max(due, monotonic() + PAUSE * COST)

    def _is_settled(self, elapsed: float) -> bool:
        """Whether every row is published that was there ``elapsed`` seconds ago."""
        if self._oldest_pending is None:
            return True
        try:
            return self._oldest_pending() < elapsed - self._clock_skew
        except HydraCacheError:
            # The outbox could not be read. The next look asks again.
            logger.debug("an audit could not read the outbox", exc_info=True)
            return False
        except Exception:
            # A function of the app's; the reader has its hit all the same.
            self._entries.counters.audit_failed.add()
            logger.warning("oldest_pending of an audit failed", exc_info=True)
            return False

    def _report(self, suspect: _Suspect) -> None:
        lookup = suspect.lookup
        self._entries.counters.audit_stale.add()
        stamps = [
            stamp_ms(token)
            for token in lookup.tokens or ()
            if token is not None and not is_placeholder(token)
        ]
        # It was stored under these tokens, and so after the youngest was made.
        youngest = max(0.0, self._clock() - max(stamps) / 1000) if stamps else None
        event = StaleHit(
            self._entries.namespace,
            key=identity_text("key", lookup.key),
            tags=lookup.tag_set.names,
            max_age=youngest,
            place=suspect.place,
            request=suspect.request,
        )
        # Never the values: they are the app's users'.
        logger.error(
            "stale: key %r with the tags %s, read at %s%s, is not what the database"
            " has, and no invalidation of it is on its way",
            event.key,
            _shown(event.tags),
            event.place,
            "" if event.request is None else f" for {event.request}",
            extra=log_fields(event),
        )
        self.subscribers.tell(event)


def _shown(tags: Sequence[str]) -> str:
    """The first of ``tags``; the fields of the record have all."""
    more = f" and {len(tags) - SHOWN_TAGS} more" if len(tags) > SHOWN_TAGS else ""
    return ", ".join(map(repr, tags[:SHOWN_TAGS])) + more if tags else "()"


def _place() -> str:
    """Where the code is that reads, outside of this package: file, line, function."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
