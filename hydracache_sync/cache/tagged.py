"""A cache in front of a database that never serves what was invalidated.

What callers use. The rules of tokens are in ``entries``, which reader loads is in
``load_coalescer``, and what a strict namespace does before a commit is in ``strict``.
Knows no outbox.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from functools import partial
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterable,
    Mapping,
    Sequence,
    TypeVar,
    Union,
    cast,
)
from uuid import UUID

from hydracache_sync.cache.audit import ABSENT, Audit
from hydracache_sync.cache.bound import Bound
from hydracache_sync.cache.codecs.codec import MISS, Codec
from hydracache_sync.cache.codecs.signed import InnerCodec
from hydracache_sync.cache.diagnostics import CacheDiagnostics, CacheMeter
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.entries import Entries, FillDecision, Lookup
from hydracache_sync.cache.functions.decorator import CachedFunction, KeyOf, TagsOf
from hydracache_sync.cache.keyspace import Keyspace
from hydracache_sync.cache.lifetime import (
    DEFAULT_JITTER,
    DEFAULT_TTL,
    Lifetime,
    Lifetimes,
)
from hydracache_sync.cache.loads.coalescer import (
    DEFAULT_MAX_WAIT,
    LoadCoalescer,
)
from hydracache_sync.cache.loads.snapshot import NEVER, LoadSnapshot, LoadSnapshots
from hydracache_sync.cache.loads.watch import watched
from hydracache_sync.cache.pending_writes import PendingWrites
from hydracache_sync.cache.read_memo import MemoizedReads, ReadMemo
from hydracache_sync.cache.reservation import Reservation
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.cache.tag_sets import several
from hydracache_sync.cache.tokens.policy import DEFAULT_HOLD_OFF, HoldOff, TokenPolicy
from hydracache_sync.cache.tokens.strict import Quarantine
from hydracache_sync.cache.tracer import CacheTracer, trace_entries
from hydracache_sync.cache.unstorable import (
    RAISE,
    NotToBeStored,
    is_withheld_since,
    under_way,
    value_of,
    withhold,
)
from hydracache_sync.durations import checked_number, checked_seconds
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.events import EventSubscriber
from hydracache_sync.intents import InvalidationIntentBatch
from hydracache_sync.keys import Identity, identity_text, identity_texts

T = TypeVar("T")
K = TypeVar("K", bound=Identity)


#: The tags of several keys: the same for all, by key, or made from the key.
TagsOfKeys = Union[
    Iterable[Identity],
    Mapping[Any, Iterable[Identity]],
    Callable[[Any], Iterable[Identity]],
]


@dataclass(frozen=True)
class Stale:
    """An outdated value that a caller has asked for in case its load fails.

    :ivar value: loaded before something that has been invalidated since.
    :ivar error: what the loader raised.
    """

    value: Any
    error: Exception


class TaggedCache:
    """Cached reads of one namespace. Safe for threads, and across forks.

    Never raises because of the store: when that fails, reads are misses, values come
    from the loader and are not stored, and ``diagnostics()`` counts it. After one
    failed round trip a call makes no other, so it costs one ``call_timeout`` at most.

    A key is text of 0 to 4096 bytes of UTF-8, a tag of 0 to 24577 (``entity_tag`` makes
    long ones); an ``int`` or a ``UUID`` stands for its text. An entry has 1,000 tags at
    most. The tags of a key must be the same in every read of it: other tags are a miss.
    Their order does not matter.

    Values are what the codec keeps, see ``Codec``. They come back equal and of the same
    types; anything else is a ``TypeError`` when it is loaded. A value over the store's
    item limit (memcached's ``-I``, 1 MiB by default) is returned, counted in
    ``refused_size``, and not stored.

    :param store: shared with others as you like; must be what the appliers write to.
    :param namespace: as in the outbox; 1 to 64 bytes of UTF-8.
    :param snapshot: called before a load, returns when the database snapshot began that
        the load will read (see ``since`` below), or None if it opens a fresh one.
        ``ConnectionSnapshot`` does that for a connection.
    :param read_lag: seconds by which the server that loaders read may be behind the one
        that takes the writes, 0 or more. Each load counts as that much older than it
        is, whatever else says when its snapshot began. ``ReplicaSnapshot`` knows the
        lag and needs no bound.
    :param clock_skew: seconds by which the clocks of hosts may differ, 0 or more.
    :param ttl: default seconds that an entry lives, rounded up; 0 for no limit.
    :param codec: ``SignedCodec(key=...)`` to take from memcached only what was stored
        with that key; ``PickleCodec(key=...)`` to keep any value that pickle takes.
    :param unstorable: ``raise`` for the errors of ``get_or_load`` for a value that the
        codec does not keep; ``log`` to return it to the caller of the load, count it in
        ``refused_value`` and warn, once a minute at most.
    :param soft_ttl: default of ``get_or_load``, below ``ttl``; no entry whose own TTL
        is not above it is ever due.
    :param jitter: part of its TTL by which an entry may end earlier, from 0 to below 1,
        so that entries stored together do not all have to be loaded together.
    :param max_wait: seconds that readers of a key wait for another's load of it before
        one of them loads as well, and after each so many seconds one more, in each
        process; the others wait on for what ends first, ten times as long at most. One
        whose own load others wait for waits once. 0 to load always and at once.
    :param strict: no read that begins after a commit in :meth:`quarantine` gets an
        older value. All readers, appliers and writers of the namespace must say the
        same, and a new ring is needed when it changes.
    :param hold_off: seconds for which a strict namespace caches nothing that a write
        has touched; the same in all processes. Within it a COMMIT must end.
    :param also: further stores, of other rings, that some readers may still use or use
        already, for a quarantine to reach them too.
    :param audit: share of hits, 0 to 1, whose value is loaded as well and compared, of
        reads that have a loader. At most ten in a second, and a twentieth of a thread's
        time. The reader gets its hit in any case, as late as a miss. What was stale is
        a ``StaleHit``, see :meth:`subscribe`, seen by a later read. Loaders with side
        effects have them at an audit, too.
    :param oldest_pending: for ``audit``: returns how many seconds the oldest pending
        row of the namespace has waited, 0 if there is none, infinite if not known.
        Without it, what is not invalidated 10 s after the load counts as stale.
    :param request: for ``audit``: returns what names the request that reads, for its
        report; None outside of one.
    :param kinds: of entities that are changed in bulk: a read with the tag of one has
        ``kind_tag(entity)`` as well. All readers of the namespace should say the same.
    :param max_staleness: seconds; serve nothing that is older than a commit which ended
        longer ago, also while no worker applies rows: reads are misses then. Needs
        workers with ``watermark=True``, and is above ``clock_skew`` and one second; for
        drains by cron above the time between two of them as well. A cached read takes
        one more round trip about once in so many seconds. None for no bound.
    :param memo: returns what keeps the hits of the request that is served, None where
        there is none: :meth:`get_or_load` fetches an entry once for it then, and a
        later read of it may be as old as the first. What stores or removes an entry,
        and :meth:`writing`, end it. Of no use with ``strict`` or ``max_staleness``.
    :param clock: Unix seconds; replaced in tests.
    :raises TypeError, ValueError: one of these is not as said.
    """

    def __init__(
        self,
        store: CacheStore,
        namespace: str,
        *,
        snapshot: Callable[[], float | None] | LoadSnapshots | None = None,
        read_lag: float = 0.0,
        clock_skew: float = 1.0,
        ttl: float = DEFAULT_TTL,
        codec: InnerCodec | None = None,
        unstorable: str = RAISE,
        soft_ttl: float | None = None,
        jitter: float = DEFAULT_JITTER,
        max_wait: float = DEFAULT_MAX_WAIT,
        strict: bool = False,
        hold_off: float = DEFAULT_HOLD_OFF,
        also: Sequence[CacheStore] = (),
        audit: float = 0.0,
        oldest_pending: Callable[[], float] | None = None,
        request: Callable[[], str | None] | None = None,
        kinds: EntityKinds | None = None,
        max_staleness: float | None = None,
        memo: Callable[[], ReadMemo | None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keyspace = Keyspace(store.ring, namespace)
        self._all_stores = [
            (store, self._keyspace),
            *((each, Keyspace(each.ring, namespace)) for each in also),
        ]
        self._snapshot = snapshot
        self._look_at_load: Callable[[], LoadSnapshot] | None = getattr(
            snapshot, "of_load", None
        )
        self._read_lag = checked_seconds("read_lag", read_lag)
        #: Of whose entities a read has the tag of the kind as well.
        self.kinds = EntityKinds() if kinds is None else kinds
        self._hold_off = HoldOff(hold_off) if strict else None
        policy = TokenPolicy(self._hold_off, checked_seconds("clock_skew", clock_skew))
        self._lifetimes = Lifetimes(
            ttl=ttl, soft_ttl=soft_ttl, jitter=jitter, clock=clock
        )
        self._entries = Entries(
            store,
            self._keyspace,
            policy=policy,
            lifetimes=self._lifetimes,
            codec=Codec() if codec is None else codec,
            unstorable=unstorable,
            kinds=self.kinds,
            clock=clock,
            earlier_hits=getattr(snapshot, "earlier_hits", None),
            bound=(
                None
                if max_staleness is None
                else Bound(
                    store,
                    self._keyspace,
                    max_staleness,
                    clock_skew=clock_skew,
                    clock=clock,
                )
            ),
        )
        self._find = self._entries.find
        self._memoized: MemoizedReads | None = None
        if memo is not None and not strict and max_staleness is None:
            self._memoized = MemoizedReads(self._entries, memo, audited=audit > 0)
        self._default_lifetime = self._lifetimes.default
        self._loads = LoadCoalescer(
            self._entries, checked_seconds("max_wait", max_wait)
        )
        self._pending_writes = PendingWrites()
        #: Takes key, tags and loader of a load, and returns what loads.
        self._loader: Callable[[Any, Sequence[str], Callable[[], Any]], Any] = watched
        self._auditor = Audit(
            self._entries,
            audit,
            clock=clock,
            clock_skew=clock_skew,
            oldest_pending=oldest_pending,
            request=request,
        )
        self._audit = self._auditor.hit if audit else None
        self._clock = clock

    @property
    def namespace(self) -> str:
        """What the outbox calls this cache."""
        return self._keyspace.namespace

    # Reading

    def get(
        self, key: Identity, *, tags: Iterable[Identity] = (), default: Any = None
    ) -> Any:
        """Return the cached value of ``key``, or ``default``. One round trip.

        None may be a cached value: give a ``default`` of your own to tell.

        :param tags: those it was stored with.
        :raises TypeError, ValueError: key or tags are not as the class says.
        """
        if self._pending_writes.open and self._pending_writes.any:
            tags = tuple(tags)
            if self._is_writing(key, tags):
                return default
        value = self._find(key, tags)[1]
        return default if value is MISS else value

    def get_or_load(
        self,
        key: Identity,
        loader: Callable[[], T],
        *,
        tags: Iterable[Identity] = (),
        ttl: float | None = None,
        soft_ttl: float | None = None,
        since: float | None = None,
        stale_on_error: Callable[[Stale], T] | None = None,
    ) -> T:
        """Return the cached value of ``key``, or load it and store it.

        A hit takes one round trip, a miss three beside the load. Of many readers that
        miss at once one loads, and the others get its value; see ``max_wait``. What the
        loader raises comes out, and nothing is stored then.

        :param loader: reads the database. Unless ``since`` or ``snapshot`` says
            otherwise it must begin a fresh snapshot: in an open REPEATABLE READ
            transaction it would store what was already invalidated.
        :param tags: what the value depends on; all that its writers may invalidate.
        :param ttl: seconds that the entry lives, rounded up; None for the cache's
            default, 0 for no limit.
        :param soft_ttl: seconds after which one of the readers that hit the entry loads
            it again, while the others go on with it; None for the cache's default. Over
            0, and below the TTL. If that load fails the entry serves on, and the log
            says so. A reader whose value could not be stored, by ``since``, leaves it
            to another.
        :param since: Unix seconds, taken before the first statement of the transaction
            that the loader reads in. The value is stored only if every token is older
            than that moment by more than ``clock_skew`` and the millisecond that stamps
            count. It is never stored if the moment is in the future, as one in
            milliseconds is.
        :param stale_on_error: called when the loader raises and an entry is still there
            that was invalidated; its result is returned. The one way to get a value
            that is out of date.
        :raises TypeError: the loaded value cannot be stored and come back the same,
            also where it would not have been stored. A mistake in the program, so it is
            not passed over, unless by ``unstorable``: it makes every read a miss.
        :raises ValueError: the same, for a number that is NaN, a value that
            holds itself or is nested too deeply. Both also for arguments that are not
            as said, before anything is done.
        """
        lifetime = self._default_lifetime
        if ttl is not None or soft_ttl is not None:
            lifetime = self._lifetimes.of(ttl, soft_ttl)
        if since is not None:
            checked_number("since", since)
        if self._pending_writes.open and self._pending_writes.any:
            tags = tuple(tags)
            if self._is_writing(key, tags):
                return self._checked(value_of(loader))
        if self._memoized is None:
            found = self._find(key, tags)
        else:
            again, found = self._memoized.find(key, several(tags))
            if again is not MISS:
                return cast(T, again)
        value: T = found[1]
        audit = self._audit
        if value is not MISS and lifetime.soft_ttl is None and audit is None:
            return value
        lookup = Lookup._make(found)
        if value is not MISS:
            if lifetime.soft_ttl is None or not self._entries.is_due(lookup):
                if audit is not None:
                    audit(lookup, loader, partial(self._load_snapshot, since))
                return value
        snapshot = self._load_snapshot(since)
        loader = under_way(self._loader(lookup.key, lookup.tag_set.names, loader))
        try:
            if value is not MISS:
                self._end_memo()
                return self._loads.refresh(lookup, loader, lifetime, snapshot)
            if stale_on_error is None:
                return self._loads.load(lookup, loader, lifetime, snapshot)
            return self._load_or_stale(
                lookup, loader, lifetime, snapshot, stale_on_error
            )
        except NotToBeStored as exc:
            own: T = exc.value
            return self._checked(own)

    def read_again(
        self, memo: ReadMemo, key: Identity, tags: Iterable[Identity]
    ) -> Any:
        """Return the value that ``memo``, of this cache, has kept, else ``MISS``."""
        return MISS if self._memoized is None else self._memoized.again(memo, key, tags)

    def refresh(
        self,
        key: Identity,
        loader: Callable[[], T],
        *,
        tags: Iterable[Identity] = (),
        ttl: float | None = None,
        soft_ttl: float | None = None,
    ) -> T:
        """Load the value of ``key``, whatever is cached, store it and return it.

        It invalidates nothing: other entries that show the same data stay. Under the
        rules of :meth:`get_or_load`, by which a value may be returned and not stored,
        and with its arguments and errors; waits for nobody else's load.
        """
        self._lifetimes.of(ttl, soft_ttl)
        tags = several(tags)
        self._end_memo()
        snapshot = self._load_snapshot(None)
        since = snapshot.since
        decision = self._reserved(key, tags, since)
        loader = under_way(self._loader(key, identity_texts("tag", tags), loader))
        self._entries.counters.loads.add()
        try:
            value = snapshot.load(loader)
        except NotToBeStored as exc:
            own: T = exc.value
            return self._checked(own)
        if decision.refused is None and snapshot.since != since:
            decision = self._entries.check_fill(decision.lookup, snapshot.since)
        self._reservation(decision).fill(value, ttl, soft_ttl=soft_ttl)
        return value

    def get_many(self, keys: Iterable[K], *, tags: TagsOfKeys = ()) -> dict[K, Any]:
        """Return the cached values of ``keys``, without those that are not cached.

        By the keys as they were given: that of ``42`` is under ``42``, not ``"42"``.

        One round trip together, and another for each further 100 names that a node is
        asked for: an entry asks for three and its tags.

        :param tags: the tags of each key: the same for all, a mapping by key, or a
            function of the key.
        :raises TypeError, ValueError: key or tags are not as the class says.
        :raises KeyError: a mapping does not have the tags of a key.
        """
        lookups, _ = self._look_up_many(keys, tags)
        return {
            lookup.key: lookup.value for lookup in lookups if lookup.value is not MISS
        }

    def get_many_or_load(
        self,
        keys: Iterable[K],
        loader: Callable[[list[K]], Mapping[K, T]],
        *,
        tags: TagsOfKeys = (),
        ttl: float | None = None,
        since: float | None = None,
    ) -> dict[K, T]:
        """Return the cached values of ``keys``, and load those that are not cached.

        The loader is called once, with the keys that are missing, and not at all if
        there are none. Three round trips together beside that load, as in
        :meth:`get_many`. Readers of the same keys do not wait for each other here: with
        sets that overlap, they could deadlock. A set is loaded by one query, also while
        another reader loads a part of it.

        :param loader: returns the values by key, as the keys were given: a value at 42
            where "42" was asked for is a TypeError, and so is a list. A key that it
            leaves out is not in the result and is not stored; None is a value.
        :param tags: as in :meth:`get_many`.
        :raises TypeError, ValueError, KeyError: as :meth:`get_or_load` and
            :meth:`get_many`; then none of the loaded values was stored.
        """
        lifetime = self._lifetimes.of(ttl)
        if since is not None:
            checked_number("since", since)
        lookups, written = self._look_up_many(keys, tags)
        values = {
            lookup.key: lookup.value for lookup in lookups if lookup.value is not MISS
        }
        missing = [lookup for lookup in lookups if lookup.value is MISS]
        for lookup in lookups if self._audit is not None else ():
            if lookup.value is not MISS:
                self._audit_one(lookup, loader, since)
        if not missing and not written:
            return values
        told = since is not None
        snapshot = self._load_snapshot(since)
        since = snapshot.since
        complete, _ = self._entries.with_missing(missing, since)
        decisions = [self._entries.check_fill(lookup, since) for lookup in complete]
        wanted = [lookup.key for lookup in missing] + written
        names = missing[0].tag_set.names if missing else ()
        self._entries.counters.loads.add()
        load = under_way(self._loader(wanted[0], names, lambda: loader(wanted)))
        try:
            loaded = snapshot.load(load)
        except NotToBeStored as exc:
            loaded, decisions, written = exc.value, [], wanted
        check_loaded(wanted, loaded)
        if snapshot.since != since:
            decisions = [
                self._entries.check_fill(each.lookup, snapshot.since)
                for each in decisions
            ]
        decisions = self._unless_changed(decisions, told=told)
        packed = []
        for decision in decisions:
            key = decision.lookup.key
            if key in loaded:
                value = loaded[key]
                values[key] = value
                entry = b""
                try:
                    if decision.refused is None:
                        entry = self._entries.pack(decision, value, lifetime)
                    else:
                        self._entries.check_value(value)
                except NotToBeStored:
                    self._entries.check_value(value)
                    continue
                packed.append((decision, entry))
        others = {key: loaded[key] for key in written if key in loaded}
        for value in others.values():
            self._entries.check_value(value)
        self._entries.fill(packed, lifetime)
        values.update(others)
        return values

    # Storing

    def reserve(
        self,
        key: Identity,
        *,
        tags: Iterable[Identity] = (),
        since: float | None = None,
    ) -> Reservation:
        """Read the tokens of ``key`` and ``tags`` now, to store a value loaded later.

        For a value that is not made by one function. Load it after this returns; what
        is invalidated in between is then not served from what you store. One round
        trip, and one more where tokens were missing.

        :param since: as in :meth:`get_or_load`.
        :raises TypeError, ValueError: arguments are not as said.
        """
        if since is not None:
            checked_number("since", since)
        self._end_memo()
        told = since is not None
        return self._reservation(self._reserved(key, tags, self._since(since)), told)

    def set(
        self,
        key: Identity,
        value: object,
        *,
        tags: Iterable[Identity] = (),
        ttl: float | None = None,
        soft_ttl: float | None = None,
        since: float,
    ) -> bool:
        """Store a value that has been loaded already.

        For a value whose tags are known only when it is there. It is stored only if no
        token is as young as ``since``, so a tag that nobody has used before makes the
        first call store nothing. Two round trips.

        :param since: Unix seconds, taken before the first statement of the transaction
            that the value was loaded in. Required: tokens that are read after the load
            would pass off an old value as a new one. So would it be for one that came
            from ``stale_on_error``, which this cannot see.
        :return: whether the store has confirmed it.
        :raises TypeError, ValueError: as :meth:`get_or_load`; nothing was stored.
        """
        checked_number("since", since)
        self._lifetimes.of(ttl, soft_ttl)
        return self.reserve(key, tags=tags, since=since).fill(
            value, ttl, soft_ttl=soft_ttl
        )

    def delete(self, key: Identity) -> bool:
        """Remove the entry of ``key``; tell whether the store has confirmed it.

        Frees memory. It invalidates nothing: a load under way may store the value
        again. For that there are intents.

        :raises TypeError, ValueError: the key is not as the class says.
        """
        self._end_memo()
        return self._entries.delete(key)

    def cached(
        self,
        *,
        key: KeyOf | None = None,
        tags: Iterable[Identity] | TagsOf,
        ttl: float | None = None,
        soft_ttl: float | None = None,
        inherit_tags: bool = True,
    ) -> Callable[[Callable[..., T]], CachedFunction[T]]:
        """Decorate a function so that calls with the same arguments are cached.

        The function is the loader of :meth:`get_or_load`. The decorated function has
        ``key(...)``, ``tags(...)``, ``intent(...)``, ``invalidate(...)`` and
        ``refresh(...)``, each for the arguments of a call, and ``uncached``, the
        function itself.

        :param key: makes the key from the arguments of the call. By default it is made
            of the function's module and name and of every argument with its type, which
            must be ``str``, ``bytes``, ``int``, ``float``, ``bool``, None, ``date``,
            ``datetime``, ``Decimal``, ``UUID``, an enum's member, or a tuple of these.
            Required where the name does not identify the function: a lambda, a partial,
            a function defined inside of another, the method of one object, and what is
            in ``__main__``.
        :param tags: the tags, or a function that makes them from the arguments; ``()``
            says that nothing but its key or a flush invalidates a result.
        :param inherit_tags: take over the tags of the cached functions that it calls in
            this thread. Where its own do not hold them, the first load of a key in each
            process, and the first with other tags, stores nothing. A load that comes
            back to its own key is a ``RecursionError``.
        :param ttl: as in :meth:`get_or_load`.
        :param soft_ttl: as there.
        :raises TypeError, ValueError: one of these is not as said, or the function is a
            coroutine or a generator, or needs ``key=``. A call raises TypeError for an
            argument that cannot be part of the default key.
        """
        self._lifetimes.of(ttl, soft_ttl)

        def decorate(function: Callable[..., T]) -> CachedFunction[T]:
            return CachedFunction(
                self,
                function,
                key=key,
                tags=tags,
                ttl=ttl,
                soft_ttl=soft_ttl,
                inherit_tags=inherit_tags,
            )

        return decorate

    # Writing

    def writing(self, batch: InvalidationIntentBatch) -> ContextManager[None]:
        """Read round the cache what ``batch`` invalidates, in this thread, in a block.

        For the time between the first write of a transaction and its end: reads of what
        it has touched ask the database, and store nothing. Only the database shows the
        transaction its own rows, and it may be rolled back. What is added to the batch
        within the block counts. It must outlast the transaction::

            with cache.writing(batch), outbox.transaction() as connection:
                ...
        """
        self._end_memo()
        return self._pending_writes.of(batch)

    def quarantine(
        self, batch: InvalidationIntentBatch, *, degrade: bool = False
    ) -> Quarantine:
        """Hold off what ``batch`` invalidates, in a block around the COMMIT.

        Of a strict namespace. Enter it after the last statement, with nothing but the
        commit in it::

            with cache.quarantine(batch):
                connection.commit()

        No read that begins after the commit gets an older value, before any worker has
        run. The price: what the batch touches is loaded from the database at each read
        until ``hold_off`` and ``clock_skew`` have passed since the apply.

        :param batch: whole; it is what ``enqueue_in`` was given.
        :param degrade: let the commit go on if the cache cannot be reached; ``strict``
            of what the block gives is False then. Otherwise ``QuarantineError``.
        :raises ConfigurationError: the cache is not strict.
        """
        if self._hold_off is None:
            raise ConfigurationError(
                f"namespace {self.namespace} is not strict: make its caches and"
                " appliers with strict=True, all of them"
            )
        return Quarantine(
            self._all_stores,
            batch,
            self._hold_off,
            degrade=degrade,
            clock=self._clock,
        )

    # Looking at it

    def diagnostics(self) -> CacheDiagnostics:
        """Count what happened so far. Safe at any time, from any thread."""
        return self._entries.counters.diagnostics()

    def invalidated_at(
        self, kind: str, value: str | None, *, beside: Identity
    ) -> float | None:
        """When a target was last invalidated in the cache, Unix seconds.

        By the clock of the worker's host. None where it never was, as far as the store
        remembers, or the store fails.

        :param kind: as ``intent.to_cache_invalidation()`` has it.
        :param value: as there.
        :param beside: a key; of a flush each node has a mark of its own.
        """
        return self._entries.stamp_of(kind, value, beside)

    def subscribe(self, callback: EventSubscriber) -> Callable[[], None]:
        """Have ``callback`` given each ``StaleHit`` of an audit from now on.

        In the thread of the reader that saw it. What it raises is logged.

        :return: call it to end that.
        """
        return self._auditor.subscribers.add(callback)

    def measure(self, meter: CacheMeter) -> None:
        """Have ``meter``, too, told of reads and of what is stored from now on.

        For :class:`hydracache_sync.metrics.Metrics`.
        """
        self._entries.measure(meter)

    def trace(self, make: Callable[[CacheStore], CacheTracer]) -> None:
        """Have a tracer called in place of reads, fills and loads from now on.

        For :func:`hydracache_sync.tracing.instrument`; call it once. A cache that is
        not traced pays nothing for it.

        :param make: returns the tracer, given the cache's store.
        """
        tracer = make(self._store)
        trace_entries(self._entries, tracer)
        self._find = self._entries.find
        self._loader = partial(tracer.loader, self._loader)

    def __repr__(self) -> str:
        return f"TaggedCache({self._store!r}, {self.namespace!r})"

    def _end_memo(self) -> None:
        if self._memoized is not None:
            self._memoized.end()

    def _is_writing(self, key: Identity, tags: Sequence[Identity]) -> bool:
        texts = identity_text("key", key), identity_texts("tag", tags)
        if not self._pending_writes.affects(*texts):
            return False
        # Wrong arguments are an error here too.
        self._keyspace.entry(key)
        self._entries.tag_sets.of(tags)
        self._entries.counters.bypassed.add()
        # What is read now may be rolled back.
        withhold()
        return True

    def _since(self, since: float | None) -> float | None:
        """When the snapshot began that a load of this caller reads."""
        if since is None and self._snapshot is not None:
            since = self._snapshot()
            if since is not None:
                checked_number("since", since)
        if self._read_lag:
            since = (self._clock() if since is None else since) - self._read_lag
        return since

    def _load_snapshot(self, since: float | None) -> LoadSnapshot:
        """What is known of the snapshot that a load of this caller reads."""
        if since is None and self._look_at_load is not None and not self._read_lag:
            return self._look_at_load()
        return LoadSnapshot(self._since(since))

    def _reserved(
        self, key: Identity, tags: Iterable[Identity], since: float | None
    ) -> FillDecision:
        if self._pending_writes.any:
            tags = tuple(tags)
            if self._is_writing(key, tags):
                nothing = Lookup(
                    key, MISS, None, (), self._entries.tag_sets.of(tags), None
                )
                return FillDecision(nothing, self._entries.counters.bypassed)
        lookup = self._entries.tokens_of(key, tags)
        [lookup], _ = self._entries.with_missing([lookup], since)
        return self._entries.check_fill(lookup, since)

    def _reservation(self, decision: FillDecision, told: bool = False) -> Reservation:
        made_at = time.monotonic()

        def unless_changed(decision: FillDecision) -> FillDecision:
            [found] = self._unless_changed([decision], told=told)
            if found.refused is None and is_withheld_since(made_at):
                # The value may be made of one that is out of date, or not committed.
                return FillDecision(found.lookup, self._entries.counters.bypassed)
            return found

        return Reservation(self._entries, decision, self._lifetimes, unless_changed)

    def _unless_changed(
        self, decisions: Sequence[FillDecision], *, told: bool
    ) -> list[FillDecision]:
        """Refuse what this thread has begun to change since it was decided.

        What it loads then shows its own rows, and may be rolled back.

        :param told: the caller has said by ``since`` what was read.
        """
        counters = self._entries.counters
        if not told and self._snapshot is not None and self._snapshot() == NEVER:
            return [
                FillDecision(lookup, refused or counters.refused_snapshot)
                for lookup, refused in decisions
            ]
        written = self._pending_writes.addresses(self._keyspace)
        if not any(written):
            return list(decisions)
        namespace = self._keyspace.namespace_token()
        found = []
        for lookup, refused in decisions:
            rests_on = (namespace, *lookup.addresses)
            if not all(each.isdisjoint(rests_on) for each in written):
                refused = refused or counters.bypassed
            found.append(FillDecision(lookup, refused))
        return found

    def check_value(self, value: object) -> None:
        """Raise or warn as :meth:`get_or_load` does of a value that cannot be stored.

        For a caller that loads past the cache and wants the same error there.

        :raises TypeError, ValueError: as :meth:`get_or_load`.
        """
        self._entries.check_value(value)

    def _checked(self, value: T) -> T:
        self._entries.check_value(value)
        return value

    def _audit_one(
        self,
        lookup: Lookup,
        loader: Callable[[list[K]], Mapping[K, T]],
        since: float | None,
    ) -> None:
        """Audit a hit among several, by a load of its own."""
        key = lookup.key

        def load() -> Any:
            return loader([key]).get(key, ABSENT)

        assert self._audit is not None
        self._audit(lookup, load, partial(self._load_snapshot, since))

    def _load_or_stale(
        self,
        lookup: Lookup,
        loader: Callable[[], T],
        lifetime: Lifetime,
        snapshot: LoadSnapshot,
        stale_on_error: Callable[[Stale], T],
    ) -> T:
        failures: list[Exception] = []

        def watched() -> T:
            try:
                return loader()
            except Exception as exc:
                failures.append(exc)
                raise

        try:
            return self._loads.load(lookup, watched, lifetime, snapshot)
        except Exception as exc:
            # Only the loader's own: a value that cannot be stored is the program's.
            if not failures or exc is not failures[-1]:
                raise
            value = self._entries.outdated(lookup)
            if value is MISS:
                raise
            self._entries.counters.stale_on_error.add()
            withhold()
            return stale_on_error(Stale(value, exc))

    def _look_up_many(
        self, keys: Iterable[K], tags: TagsOfKeys
    ) -> tuple[list[Lookup], list[K]]:
        """Look up all ``keys`` but those that this thread is writing; these besides."""
        if isinstance(keys, (str, bytes)):
            raise TypeError(f"keys must be several texts, not one {keys!r}")
        written = []
        wanted = []
        tags_of = tags_by_key(tags)
        for key in dict.fromkeys(keys):
            some = tags_of(key)
            if self._pending_writes.any:
                some = tuple(some)
                if self._is_writing(key, some):
                    written.append(key)
                    continue
            wanted.append((key, some))
        if not wanted:
            return [], written
        return self._entries.look_up_many(wanted), written


def check_loaded(wanted: Iterable[Any], loaded: object) -> None:
    """Raise where a loader has named what it was asked for otherwise, or not at all.

    The caller would take it for what is not there.

    :raises TypeError: it has.
    """
    if not isinstance(loaded, Mapping):
        raise TypeError(
            "the loader of several keys must return a dict, or another mapping, of"
            f" values by key, not {type(loaded).__name__}"
        )
    left_out = {identity_text("key", key): key for key in wanted if key not in loaded}
    for key in loaded if left_out else ():
        if isinstance(key, (str, int, UUID)) and str(key) in left_out:
            raise TypeError(
                f"the loader was asked for {left_out[str(key)]!r} and has a value at"
                f" {key!r}: its keys must be those that it was given"
            )


def tags_by_key(tags: TagsOfKeys) -> Callable[[Any], Iterable[Identity]]:
    if isinstance(tags, Mapping):
        of_key = tags
        # An app asks twice, and an iterator has nothing the second time.
        return functools.lru_cache(maxsize=None)(lambda key: several(of_key[key]))
    if callable(tags):
        return tags
    if not isinstance(tags, (str, bytes)):
        tags = tuple(tags)
    return lambda key: tags
