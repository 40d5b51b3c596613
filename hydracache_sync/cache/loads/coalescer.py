"""Coalesce loads: of the readers that miss a key at once, one asks the database.

Within a process the others join its flight, in other processes one waits for the entry
that the holder of the lock will store. A load too many is a cost, never a wrong value;
so where one takes longer than ``max_wait`` seconds, or hangs, one of those who wait
loads as well, and so on: one more for each process and ``max_wait``. The others wait on
and get what ends first.

What may be joined:

- a flight under the same tokens, all of them known, whose value may be stored under
  them. An entry of these tokens would be a hit for every reader that has read them. So
  its load is equal to a hit, also for a reader of an older snapshot.
- Where a token is cooling it does not show what has been committed since it was
  set: there only a flight whose loader has not started. Readers then gather
  behind the load that is under way, and the next one serves all of them.
- A reader of an older snapshot leads a flight only if it may store what it loads. If it
  may not it takes a value that is not younger than its own read for what it is: see
  ``load_limit``, which also keeps such loads few.
- A reader that shows rows of its own, not committed yet, shares nothing.
- A reader that may not store takes no lock: others would wait for an entry that never
  comes.
- No reader waits for a lock whose holder loads under other tokens: its entry would be a
  miss for that reader. Nor for a value that the store has lately not taken. Then there
  is one load in each process.

A loader that raises does so for its own caller. The readers that joined it then load by
themselves, since the error may be of that caller alone. For a while so do all readers
that come: waiting for such a load, and then for the next, would be worse than no cache.

The walks of the model (docs/project/model.md) have readers of old snapshots lead and
join, with cooling tokens and without. A load that relieves another is there as one more
reader that began later; ``load_limit`` is not there: it compares no tokens.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any, Callable, NamedTuple, TypeVar

from hydracache_sync.backoff import Backoff
from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.entries import Entries, FillDecision, Lookup
from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.lifetime import Lifetime
from hydracache_sync.cache.load_lock import LoadLock, is_worth_waiting_for
from hydracache_sync.cache.loads.limit import UNKNOWN, LoadLimit
from hydracache_sync.cache.loads.single_flight import Flight, SingleFlight
from hydracache_sync.cache.loads.snapshot import NEVER, LoadSnapshot
from hydracache_sync.cache.unstorable import NotToBeStored
from hydracache_sync.errors import ApplyError
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")

#: Seconds by default until one of the readers that wait for another's load loads as
#: well. Longer than most loads take; a page waits as long if the holder of the lock was
#: killed.
DEFAULT_MAX_WAIT = 3.0

#: A reader that is in no flight itself waits so many times as long, and then loads
#: whatever the others do. They may be waiting for a load that it is part of.
PATIENCE = 10

#: Loads of one key at once in a process, of readers that share no flight.
LOADS_AT_ONCE = 4

#: Seconds between a miss and the lock after which the entry may have come meanwhile: a
#: thread may be kept from running for longer than another's load takes.
LATE = 0.15

#: Seconds for which no reader waits for a load of a key whose value the store did not
#: take. The value may be over the item limit: then there is nothing to wait for.
UNSTORED_TTL = 10.0

#: Such keys remembered, and as many that have raised. When full all are forgotten,
#: which costs a wait.
MAX_UNSTORED = 1024

#: Pauses between two looks whether the entry has come. Each process has one such reader
#: for a key, so the store sees some tens of looks a second.
LOOKS = Backoff(0.002, 0.05)


class _Call(NamedTuple):
    """What one reader has asked for: how its value is loaded, and kept for how long."""

    loader: Callable[[], Any]
    lifetime: Lifetime
    snapshot: LoadSnapshot


class LoadCoalescer:
    """The loads of one cache. Safe for threads and forks.

    :param max_wait: seconds; 0 to load always and at once.
    """

    def __init__(self, entries: Entries, max_wait: float) -> None:
        self._entries = entries
        self._max_wait = max_wait
        self._flights = SingleFlight()
        self._limit = LoadLimit(LOADS_AT_ONCE)
        # Address of an entry -> until when.
        self._unstored: dict[Address, float] = {}
        self._raised: dict[Address, float] = {}
        self._refreshing = LoggedOutage(
            logger, f"loading again for the cache of namespace {entries.namespace}"
        )

    def load(
        self,
        lookup: Lookup,
        loader: Callable[[], T],
        lifetime: Lifetime,
        snapshot: LoadSnapshot,
    ) -> T:
        """Return a value for a miss: loaded by this reader, or by one like it."""
        value: T = self._load_or_join(lookup, _Call(loader, lifetime, snapshot))
        return value

    def _load_or_join(self, lookup: Lookup, call: _Call) -> Any:
        entries, since = self._entries, call.snapshot.since
        missed_at = monotonic()
        # To wait where nobody may take anything, or what was waited for would raise.
        alone = (
            not self._max_wait
            or (since is not None and since <= NEVER)
            or _is_within(self._raised, lookup.addresses[0])
        )
        lock = None
        if lookup.tokens is not None:
            missing = not lookup.knows_all_tokens and entries.fills_under_new_tokens
            if missing and since is None and not alone:
                lock = entries.lock_of(lookup, self._max_wait)
            [lookup], taken = entries.with_missing([lookup], since, lock)
            if not taken:
                lock = None
        decision = entries.check_fill(lookup, since)
        if lock is not None and decision.refused is not None:
            entries.release(lock)
            lock = None
        if alone:
            return self._load(decision, call, lock)
        if not lookup.knows_all_tokens:
            return self._load_in_turn(decision, call)
        may_lead = since is None or decision.refused is None
        flight, leading = self._flights.join(
            (lookup.addresses[0], lookup.token_prefix),
            must_lead=lock is not None,
            may_lead=may_lead,
        )
        if flight is None or (not leading and entries.is_too_old(flight.began_at)):
            if may_lead:
                return self._load(decision, call, lock)
            return self._load_in_turn(decision, call)
        if leading:
            return self._lead(flight, decision, call, lock, missed_at)
        return self._await(flight, decision, call)

    def _await(self, flight: Flight, decision: FillDecision, call: _Call) -> Any:
        """Wait for the load of others, and load where that does not come."""
        entries = self._entries
        may_relieve = call.snapshot.since is None or decision.refused is None
        if self._waits_for(flight, may_relieve, shared=decision.refused is None):
            if flight.outcome is not None:
                value = entries.unpack(*flight.outcome)
                if value is not MISS:
                    entries.counters.joined.add()
                    return value
        else:
            entries.counters.waited_in_vain.add()
            if self._flights.is_loaded_by_this(flight):
                return self._relieve(flight, decision, call)
            if not may_relieve:
                return self._load_in_turn(decision, call)
        # Its tokens were read before the wait and so before this load: they still do.
        return self._load(decision, call)

    def _waits_for(self, flight: Flight, may_relieve: bool, *, shared: bool) -> bool:
        """Wait until ``flight`` is finished; return whether it is.

        If not this reader loads: for all, if it is one of the loaders of ``flight``
        now. One that others wait for does so after ``max_wait`` in any case, so that
        loaders end that need each other's values.
        """
        flights = self._flights
        pause = self._max_wait
        until = monotonic() + PATIENCE * pause
        while not flight.finished.wait(pause):
            if not may_relieve:
                return False
            pause = flights.relieve(flight, self._max_wait, shared=shared)
            if not pause or flights.is_waited_for() or monotonic() >= until:
                return False
        return True

    def _relieve(self, flight: Flight, decision: FillDecision, call: _Call) -> Any:
        """Load beside a slow loader of ``flight``, for all who wait.

        Unless the entry has come meanwhile: a loader in another process tells nobody.
        """
        entries = self._entries
        known = decision.lookup
        outcome = None
        try:
            if decision.refused is None:
                lookup, _ = entries.reread(known, known.addresses[0])
                if lookup.value is not MISS:
                    outcome = lookup, lookup.entry
                    entries.counters.joined.add()
                    value = lookup.value
                    return value
                decision = entries.check_fill(lookup, call.snapshot.since)
            loaded, decision = self._loaded(decision, call)
            if decision.refused is None:
                entry = entries.pack(decision, loaded, call.lifetime)
                outcome = decision.lookup, entry
                entries.fill([(decision, entry)], call.lifetime)
            else:
                decision.refused.add()
                if call.snapshot.since is None:
                    # It began after all who wait here had asked.
                    outcome = self._packed_for_others(known, loaded, call.lifetime)
            return loaded
        finally:
            self._flights.finish(flight, outcome)

    def refresh(
        self,
        lookup: Lookup,
        loader: Callable[[], T],
        lifetime: Lifetime,
        snapshot: LoadSnapshot,
    ) -> T:
        """Load again for a hit that is due, or return its value if another does.

        Stored under the tokens of the hit, which were read before this load, by the
        rules of any fill. If the loader raises, the hit is still right and is returned;
        the log says so once.
        """
        entries, since = self._entries, snapshot.since
        value: T = lookup.value
        if since is not None and since > NEVER:
            # Stamps what has none, for the readers after this one.
            [lookup], _ = entries.with_missing([lookup], since)
        decision = entries.check_fill(lookup, since)
        if decision.refused is not None:
            return value
        flight, leading = self._flights.join(
            (lookup.addresses[0], lookup.token_prefix, "due")
        )
        if flight is None or not leading:
            return value
        try:
            lock = entries.lock_of(lookup, self._max_wait or DEFAULT_MAX_WAIT)
            try:
                if not lock.is_mine(entries.take(lock)):
                    return value
            except ApplyError:
                # The entry goes on. A lock that was taken all the same ends by itself.
                return value
            # If it fails the lock stays, so that it is not tried again at once.
            entries.counters.loads.add()
            try:
                loaded = snapshot.load(loader)
            except Exception as exc:
                self._refreshing.begin(exc)
                return value
            except BaseException:
                # It has not failed, it was ended.
                entries.release(lock)
                raise
            self._refreshing.end()
            if snapshot.since != since:
                decision = entries.check_fill(lookup, snapshot.since)
            if decision.refused is not None:
                decision.refused.add()
                entries.release(lock)
                entries.check_value(loaded)
                return loaded
            entry = entries.pack(decision, loaded, lifetime)
            if entries.fill([(decision, entry)], lifetime, lock):
                entries.counters.refreshed.add()
            return loaded
        finally:
            self._flights.finish(flight, None)

    def _load(
        self, decision: FillDecision, call: _Call, lock: LoadLock | None = None
    ) -> Any:
        """Load for oneself, and store if that may be."""
        entries = self._entries
        try:
            loaded, decision = self._loaded(decision, call)
            if decision.refused is not None:
                decision.refused.add()
                if lock is not None:
                    entries.release(lock)
                return loaded
            entry = entries.pack(decision, loaded, call.lifetime)
        except BaseException:
            if lock is not None:
                entries.release(lock)
            raise
        entries.fill([(decision, entry)], call.lifetime, lock)
        return loaded

    def _load_in_turn(self, decision: FillDecision, call: _Call) -> Any:
        """Load for oneself, one of few; or take what began after this call.

        Stores nothing: tokens are unknown, or may be younger than the snapshot.
        """
        entries = self._entries
        lookup = decision.lookup
        key = lookup.addresses[0], lookup.tag_set.digest
        # A moment of another clock says nothing of when the others here have asked.
        since = call.snapshot.since
        began = None if since is None else getattr(since, "steady", UNKNOWN)
        packed = self._limit.enter(
            key,
            self._max_wait,
            snapshot=began,
            at_once=self._flights.is_waited_for(),
        )
        if packed is not None:
            value = entries.unpack_shared(lookup, packed)
            if value is not MISS:
                entries.counters.joined.add()
                return value
            # Cannot be read here, as it cannot be from the store.
            return self._load(decision, call)
        try:
            loaded, decision = self._loaded(decision, call)
            if decision.refused is not None:
                decision.refused.add()
            if call.snapshot.since == since and self._limit.is_wanted(key):
                try:
                    packed = entries.pack_shared(lookup, loaded)
                except (TypeError, ValueError):
                    # It has been told of. Who waits loads a value of its own.
                    pass
            elif decision.refused is None:
                entries.check_value(loaded)
            return loaded
        finally:
            self._limit.leave(key, packed)

    def _loaded(self, decision: FillDecision, call: _Call) -> tuple[Any, FillDecision]:
        """Call the loader, and remember whether it raised.

        :return: what it loaded, and whether that may be stored by what is known of its
            snapshot now.
        """
        address, since = decision.lookup.addresses[0], call.snapshot.since
        self._entries.counters.loads.add()
        try:
            loaded = call.snapshot.load(call.loader)
        except Exception:
            _note(self._raised, address, self._max_wait)
            raise
        if self._raised:
            self._raised.pop(address, None)
        if decision.refused is None and call.snapshot.since != since:
            decision = self._entries.check_fill(decision.lookup, call.snapshot.since)
        if decision.refused is not None:
            self._entries.check_value(loaded)
        return loaded, decision

    def _lead(
        self,
        flight: Flight,
        decision: FillDecision,
        call: _Call,
        lock: LoadLock | None,
        missed_at: float,
    ) -> Any:
        """Load for oneself and for those who join."""
        entries = self._entries
        token_prefix = decision.lookup.token_prefix
        outcome = None
        try:
            if decision.refused is not None:
                if flight.previous is not None:
                    flight.previous.finished.wait(self._max_wait)
            elif lock is None and not _is_within(
                self._unstored, decision.lookup.addresses[0]
            ):
                decision, lock = self._wait_for_turn(decision, call.snapshot.since)
                lookup = decision.lookup
                if lookup.value is not MISS:
                    outcome = lookup, lookup.entry
                    value = lookup.value
                    return value
                same = decision.refused is None and lookup.token_prefix == token_prefix
                if lock is None and flight.began_at is not None and same:
                    # Another thread here got the lock, and this flight with it.
                    return self._await(flight, decision, call)
            if lock is not None and monotonic() - missed_at > LATE:
                known = decision.lookup
                lookup, _ = entries.reread(known, known.addresses[0])
                if lookup.value is not MISS:
                    entries.counters.joined.add()
                    outcome = lookup, lookup.entry
                    came = lookup.value
                    return came
            if decision.refused is not None and call.snapshot.since is not None:
                # No longer what others may see, also those who have joined already.
                self._flights.finish(flight, None)
            else:
                self._flights.begin(flight, shared=decision.refused is None)
            loaded, decision = self._loaded(decision, call)
            if decision.refused is None:
                entry = entries.pack(decision, loaded, call.lifetime)
                outcome = decision.lookup, entry
                stored = entries.fill([(decision, entry)], call.lifetime, lock)
                lock = None
                if not stored:
                    _note(self._unstored, decision.lookup.addresses[0], UNSTORED_TTL)
            else:
                decision.refused.add()
                if self._flights.close(flight) and call.snapshot.since is None:
                    outcome = self._packed_for_others(
                        decision.lookup, loaded, call.lifetime
                    )
            return loaded
        finally:
            self._flights.finish(flight, outcome)
            if lock is not None:
                entries.release(lock)

    def _packed_for_others(
        self, lookup: Lookup, loaded: Any, lifetime: Lifetime
    ) -> tuple[Lookup, bytes] | None:
        if not lookup.knows_all_tokens:
            return None
        try:
            return lookup, self._entries.pack(
                FillDecision(lookup, None), loaded, lifetime
            )
        except NotToBeStored:
            # It has been told of. Each of the others gets one of its own.
            return None

    def _wait_for_turn(
        self, decision: FillDecision, since: float | None
    ) -> tuple[FillDecision, LoadLock | None]:
        """Take the lock, or wait for the entry that its holder will store.

        Everything is read again at each look. An entry that is found is served as any
        hit. A value that is then loaded is stored under the tokens of the last look
        before the load. Of the same tokens only one holder is waited for: if it brings
        nothing it has raised, and the next one may as well.

        :return: with a look that is a hit if the entry has come.
        """
        entries = self._entries
        lookup = decision.lookup
        lock = entries.lock_of(lookup, self._max_wait)
        deadline = monotonic() + self._max_wait
        lookups = 0
        held: bytes | None = None
        waits_for: tuple[bytes, bytes] | None = None
        while True:
            if held is None:
                try:
                    held = entries.take(lock)
                except ApplyError:
                    # It is asked for nothing more in this read.
                    unknown = lookup._replace(tokens=None)
                    return entries.check_fill(unknown, None), None
            if held is None or lock.is_mine(held):
                return decision, lock
            token_prefix, other = waits_for or (b"", held)
            if token_prefix == lookup.token_prefix and other != held:
                return decision, None
            if not is_worth_waiting_for(held, lookup.token_prefix):
                return decision, None
            waits_for = lookup.token_prefix, held
            remaining = deadline - monotonic()
            if remaining <= 0:
                entries.counters.waited_in_vain.add()
                return decision, None
            lookups += 1
            sleep(min(LOOKS.pause(lookups), remaining))
            lookup, held = entries.reread(lookup, lock.address)
            if lookup.value is not MISS:
                entries.counters.joined.add()
                return FillDecision(lookup, None), None
            decision = entries.check_fill(lookup, since)
            if decision.refused is not None:
                return decision, None


def _note(until: dict[Address, float], address: Address, seconds: float) -> None:
    """Remember ``address`` for a while."""
    if len(until) >= MAX_UNSTORED:
        until.clear()
    until[address] = monotonic() + seconds


def _is_within(until: dict[Address, float], address: Address) -> bool:
    if not until:
        return False
    moment = until.get(address)
    return moment is not None and monotonic() < moment
