"""One load for a herd: of the readers that miss a key at once, one asks the database.

Within a process the others join its flight, in other processes one waits for the entry
that the holder of the lock will store. Nobody waits longer for one load than
``max_wait`` seconds, and then he loads for himself: a load too many is a cost, never a
wrong value. If the holder was killed that is one load for each process, which those who
have joined it wait for in turn.

What may be joined:

- a flight under the same tokens, all of them known. They were read before its load
  began, so it has seen whatever is published by the time they are still the same.
- Where a token is cold it does not tell what has been committed since it was
  set: there only a flight whose loader has not started. Readers then gather
  behind the load that is under way, and the next one serves all of them.
- A reader of an older snapshot neither leads nor joins: what it loads is not what
  others must see, and what they load is not in its snapshot.
- Who may not store takes no lock: the others would wait for an entry that never comes.
- Nor does anybody wait for a holder of the lock who loads under other tokens: what he
  stores is no use to him. Nor for a value that the store has lately not taken. Then it
  is one load for each process.

A loader that raises does so for its own caller. Those who have joined it then load each
for himself: the error may be of that caller alone.
"""

from __future__ import annotations

import random
from time import monotonic, sleep
from typing import Any, Callable, TypeVar

from hydracache_sync.cache.codec import MISS
from hydracache_sync.cache.entries import Entries, Judgement, Look
from hydracache_sync.cache.flights import Flight, Flights
from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.lifetime import Lifetime
from hydracache_sync.cache.load_lock import LoadLock, is_worth_waiting_for
from hydracache_sync.cache.outage import Outage
from hydracache_sync.errors import ApplyError
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")

#: Seconds that a reader waits for the load of another, unless told otherwise. Longer
#: than most loads take; and what a page pays for a holder of the lock that was killed.
DEFAULT_MAX_WAIT = 3.0

#: Seconds for which nobody waits for a load of a key whose value the store did not
#: take, because it is over the item limit for one: there is nothing to wait for.
UNSTORED_TTL = 10.0

#: Such keys remembered. When full all are forgotten, which costs a wait.
MAX_UNSTORED = 1024

#: First and longest pause, in seconds, of who looks whether the entry has come. Each
#: process has one such reader for a key, so the store sees some tens of looks a second.
FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.05


class Herd:
    """The loads of one cache. Safe for threads and forks.

    :param max_wait: seconds; 0 to load always and at once.
    """

    def __init__(self, entries: Entries, max_wait: float) -> None:
        self._entries = entries
        self._max_wait = max_wait
        self._flights = Flights()
        # Address of an entry -> until when.
        self._unstored: dict[Address, float] = {}
        self._refreshing = Outage(
            logger, f"loading anew for the cache of namespace {entries.namespace}"
        )

    def load(
        self,
        look: Look,
        loader: Callable[[], T],
        lifetime: Lifetime,
        since: float | None,
    ) -> T:
        """Return a value for a miss: loaded by this reader, or by one like it."""
        entries = self._entries
        alone = since is not None or not self._max_wait
        lock = None
        if look.tokens is not None:
            if not (alone or look.knows_all_tokens) and entries.fills_under_new_tokens:
                lock = entries.lock_of(look, self._max_wait)
            [look], taken = entries.with_missing([look], since, lock)
            if not taken:
                lock = None
        judgement = entries.judge(look, since)
        if lock is not None and judgement.refused is not None:
            entries.release(lock)
            lock = None
        if alone or not look.knows_all_tokens:
            return self._load(judgement, loader, lifetime, lock)
        key = look.addresses[0], look.basis
        flight, leading = self._flights.board(key, must_lead=lock is not None)
        if flight is None:
            return self._load(judgement, loader, lifetime, lock)
        if leading:
            return self._lead(flight, judgement, loader, lifetime, lock)
        if self._waits_for(flight):
            if flight.outcome is not None:
                value: T = entries.unpack(*flight.outcome)
                if value is not MISS:
                    entries.tallies.joined.add()
                    return value
        else:
            entries.tallies.waited_in_vain.add()
            # Who comes now need not wait in vain as well, for a leader that was perhaps
            # interrupted between two of our lines and never lands.
            self._flights.close(flight)
        # Its tokens were read before the wait and so before this load: they still do.
        return self._load(judgement, loader, lifetime, None)

    def _waits_for(self, flight: Flight) -> bool:
        """Wait until ``flight`` lands; tell if it did in time."""
        if flight.landed.wait(self._max_wait):
            return True
        # Its leader may have waited as long as this reader for the lock of another
        # process, in vain, and begin only now. If all who have joined would begin with
        # it, a holder of the lock that was killed would send the whole herd to the
        # database. To load for oneself would not be any faster.
        now = monotonic()
        began_at = now if flight.began_at is None else flight.began_at
        return flight.landed.wait(max(0.0, began_at + self._max_wait - now))

    def refresh(self, look: Look, loader: Callable[[], T], lifetime: Lifetime) -> T:
        """Load anew for a hit that is due, or return its value if another does.

        Stored under the tokens of the hit, which were read before this load. If the
        loader raises, the hit is still right and is returned; the log says so once.
        """
        entries = self._entries
        judgement = entries.judge(look, None)
        value: T = look.value
        if judgement.refused is not None:
            return value
        flight, leading = self._flights.board((look.addresses[0], look.basis, "due"))
        if flight is None or not leading:
            return value
        try:
            lock = entries.lock_of(look, self._max_wait or DEFAULT_MAX_WAIT)
            try:
                if not lock.is_mine(entries.take(lock)):
                    return value
            except ApplyError:
                return value
            # If it fails the lock stays, so that it is not tried again at once.
            try:
                loaded = loader()
            except Exception as exc:
                self._refreshing.begin(exc)
                return value
            self._refreshing.end()
            entry = entries.pack(judgement, loaded, lifetime)
            if entries.fill([(judgement, entry)], lifetime, lock):
                entries.tallies.refreshed.add()
            return loaded
        finally:
            self._flights.land(flight, None)

    def _load(
        self,
        judgement: Judgement,
        loader: Callable[[], T],
        lifetime: Lifetime,
        lock: LoadLock | None,
    ) -> T:
        """Load for oneself, and store if that may be."""
        entries = self._entries
        try:
            loaded = loader()
            if judgement.refused is not None:
                judgement.refused.add()
                return loaded
            entry = entries.pack(judgement, loaded, lifetime)
        except BaseException:
            if lock is not None:
                entries.release(lock)
            raise
        entries.fill([(judgement, entry)], lifetime, lock)
        return loaded

    def _lead(
        self,
        flight: Flight,
        judgement: Judgement,
        loader: Callable[[], T],
        lifetime: Lifetime,
        lock: LoadLock | None,
    ) -> T:
        """Load for oneself and for those who join."""
        entries = self._entries
        outcome = None
        try:
            if judgement.refused is not None:
                if flight.ahead is not None:
                    flight.ahead.landed.wait(self._max_wait)
            elif lock is None and not self._was_unstored(judgement):
                judgement, lock = self._wait_for_turn(judgement)
                look = judgement.look
                if look.value is not MISS:
                    outcome = look, look.entry
                    value: T = look.value
                    return value
            self._flights.begin(flight, shared=judgement.refused is None)
            loaded = loader()
            if judgement.refused is None:
                entry = entries.pack(judgement, loaded, lifetime)
                outcome = judgement.look, entry
                stored = entries.fill([(judgement, entry)], lifetime, lock)
                lock = None
                if not stored:
                    self._note_unstored(judgement)
            else:
                judgement.refused.add()
                if self._flights.close(flight):
                    outcome = self._packed_for_others(judgement, loaded, lifetime)
            return loaded
        finally:
            self._flights.land(flight, outcome)
            if lock is not None:
                entries.release(lock)

    def _note_unstored(self, judgement: Judgement) -> None:
        if len(self._unstored) >= MAX_UNSTORED:
            self._unstored.clear()
        until = monotonic() + UNSTORED_TTL
        self._unstored[judgement.look.addresses[0]] = until

    def _was_unstored(self, judgement: Judgement) -> bool:
        until = self._unstored.get(judgement.look.addresses[0])
        return until is not None and monotonic() < until

    def _packed_for_others(
        self, judgement: Judgement, loaded: Any, lifetime: Lifetime
    ) -> tuple[Look, bytes] | None:
        if not judgement.look.knows_all_tokens:
            return None
        try:
            return judgement.look, self._entries.pack(judgement, loaded, lifetime)
        except (TypeError, ValueError):
            # Cannot be stored, which is no error where nothing is stored. Each of the
            # others gets one of his own.
            return None

    def _wait_for_turn(self, judgement: Judgement) -> tuple[Judgement, LoadLock | None]:
        """Take the lock, or wait for the entry that its holder will store.

        Everything is read anew at each look: what comes is served as any hit, and what
        is then loaded is stored under the tokens of the last look before the load.

        :return: with a look that is a hit if the entry has come.
        """
        entries = self._entries
        look = judgement.look
        lock = entries.lock_of(look, self._max_wait)
        deadline = monotonic() + self._max_wait
        pause = FIRST_PAUSE
        held: bytes | None = None
        while True:
            if held is None:
                try:
                    held = entries.take(lock)
                except ApplyError:
                    # It is asked for nothing more in this read.
                    unknown = look._replace(tokens=None)
                    return entries.judge(unknown, None), None
            if held is None or lock.is_mine(held):
                return judgement, lock
            if not is_worth_waiting_for(held, look.basis):
                return judgement, None
            remaining = deadline - monotonic()
            if remaining <= 0:
                entries.tallies.waited_in_vain.add()
                return judgement, None
            sleep(min(pause * random.uniform(0.5, 1.0), remaining))
            pause = min(pause * 2, LONGEST_PAUSE)
            look, held = entries.look_again(look, lock.address)
            if look.value is not MISS:
                entries.tallies.joined.add()
                return Judgement(look, None), None
            judgement = entries.judge(look, None)
            if judgement.refused is not None:
                return judgement, None
