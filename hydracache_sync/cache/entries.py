"""Entries under tokens: reading one with all it rests on, and storing one.

An entry is served only while all tokens that it was loaded under are still the ones in
the store. Tokens are read before the load and never after. A reader that does not know
them all, or whose snapshot is older than one of them, stores nothing. The model in
``tests/model`` shows what breaks without each rule. Never raises because of the store.
Knows nothing of which reader loads, and how many at once.
"""

from __future__ import annotations

from itertools import cycle
from time import monotonic, perf_counter
from typing import (
    Any,
    Callable,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from hydracache_sync.cache.bound import Bound
from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.codecs.signed import InnerCodec, unreadable_of
from hydracache_sync.cache.diagnostics import (
    READS_FOR_ONE,
    CacheMeter,
    Counter,
    Counters,
)
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.entry_format import soft_ms_of, token_prefix_of, tokens_in
from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.cache.lifetime import Lifetime, Lifetimes
from hydracache_sync.cache.load_lock import LoadLock
from hydracache_sync.cache.store import CacheStore, Copy, Write
from hydracache_sync.cache.tag_sets import TagSet, TagSets
from hydracache_sync.cache.tokens.policy import TokenPolicy
from hydracache_sync.cache.tokens.replacing import replace
from hydracache_sync.cache.tokens.seen import EarlierHits, SeenTokens
from hydracache_sync.cache.tokens.token import (
    is_live,
    is_placeholder,
    placeholders,
    stamp_ms,
    stamped,
)
from hydracache_sync.cache.unstorable import Unstorable
from hydracache_sync.errors import ApplyError, ApplyPermanent
from hydracache_sync.keys import Identity
from hydracache_sync.outage import LoggedOutage
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

T = TypeVar("T")


class Lookup(NamedTuple):
    """What one round trip has read of a key.

    :ivar key: as the caller gave it.
    :ivar value: of a hit, else ``MISS``.
    :ivar entry: as stored, None where there is none.
    :ivar addresses: of the entry, then of its tokens in the order of the digest.
    :ivar tag_set: the tags that were asked for.
    :ivar tokens: as they were, each None where there was none; None in place of all if
        the store did not say.
    """

    key: Any
    value: Any
    entry: bytes | None
    addresses: tuple[Address, ...]
    tag_set: TagSet
    tokens: Sequence[bytes | None] | None

    @property
    def knows_all_tokens(self) -> bool:
        """Whether there was a token at each address, live or not."""
        return self.tokens is not None and None not in self.tokens

    @property
    def token_prefix(self) -> bytes:
        """The first bytes of an entry under just these tokens; all must be known."""
        tokens: Any = self.tokens
        return token_prefix_of(self.tag_set.digest, tokens)


#: A lookup without its names.
Found = Tuple[
    Any,
    Any,
    Optional[bytes],
    Tuple[Address, ...],
    TagSet,
    Optional[Sequence[Optional[bytes]]],
]


class FillDecision(NamedTuple):
    """Whether a load that begins now may store its value.

    :ivar lookup: the tokens that its value would be stored under.
    :ivar refused: why it will not be stored, as what counts it; None if it will.
    """

    lookup: Lookup
    refused: Counter | None


class Entries:
    """The entries of one namespace in one store. Safe for threads and forks."""

    def __init__(
        self,
        store: CacheStore,
        keyspace: Keyspace,
        *,
        policy: TokenPolicy,
        lifetimes: Lifetimes,
        codec: InnerCodec,
        unstorable: str,
        kinds: EntityKinds,
        clock: Callable[[], float],
        bound: Bound | None = None,
        earlier_hits: EarlierHits | None = None,
    ) -> None:
        self._store = store
        self._keyspace = keyspace
        self._policy = policy
        self._lifetimes = lifetimes
        self._encode = codec.encode
        self._decode = codec.decode
        self._clock = clock
        self.tag_sets = TagSets(keyspace, kinds, strict=policy.strict)
        self._seen = SeenTokens()
        self._bound = bound
        self._hits = earlier_hits
        self.counters = Counters(unreadable_of(codec))
        self._unstorable = Unstorable(
            unstorable, self.counters.refused_value, keyspace.namespace
        )
        self._count_hit = self.counters.hits.add
        self._count_miss = self.counters.misses.add
        self.namespace = namespace = keyspace.namespace
        self._reading = LoggedOutage(
            logger, f"reading the cache of namespace {namespace}"
        )
        self._writing = LoggedOutage(
            logger, f"writing the cache of namespace {namespace}"
        )

        self._meters: tuple[CacheMeter, ...] = ()
        #: Whether a read is measured, which each asks; None where nobody measures.
        self._is_measured: Callable[[], bool] | None = None

    def measure(self, meter: CacheMeter) -> None:
        """Have ``meter``, too, told of reads and of what is stored from now on."""
        self._meters += (meter,)
        # In C, and so in one step for all threads. A read that is measured asks twice.
        self._is_measured = cycle([True, *[False] * READS_FOR_ONE]).__next__

    # Reading

    def find(self, key: Identity, tags: Iterable[Identity]) -> Found:
        """Read the entry of ``key`` with all it rests on, in one round trip.

        :return: the fields of a :class:`Lookup`, in a plain tuple: a hit needs no more
            than its value, and naming the others takes a twentieth of its time.
        """
        if self._is_measured is not None and self._is_measured():
            return self._measured(_size_of, Entries.find, key, tags)
        tag_set = self.tag_sets.of(tags)
        addresses = self._keyspace.of_key(key) + tag_set[0]
        bound = self._bound
        try:
            holds = bound is None or bound.holds(addresses[0])
            entry, *tokens = self._store.get_many(addresses)
        except ApplyError as exc:
            self._failed(self._reading, exc)
            self.counters.misses.add()
            return key, MISS, None, addresses, tag_set, None
        if self._reading.active:
            self._reading.end()
        value = self._decode(entry, tag_set[1], tokens, addresses[0][1])
        if not holds:
            value = self._lapsed(value)
        if value is MISS:
            self._count_miss()
        else:
            self._count_hit()
            if self._hits is not None:
                self._hits.note(addresses, tokens)
        return key, value, entry, addresses, tag_set, tokens

    def look_up_many(
        self, wanted: Sequence[tuple[Identity, Iterable[Identity]]]
    ) -> list[Lookup]:
        """Read several entries with all they rest on, together in one round trip."""
        if self._is_measured is not None and self._is_measured():
            return self._measured(_size_of_all, Entries.look_up_many, wanted)
        plans = []
        for key, tags in wanted:
            tag_set = self.tag_sets.of(tags)
            plans.append((key, self._keyspace.of_key(key) + tag_set.addresses, tag_set))
        every = list(dict.fromkeys(at for _, some, _ in plans for at in some))
        bound = self._bound
        try:
            holds = bound is None or not every or bound.holds(every[0])
            found = dict(zip(every, self._store.get_many(every)))
        except ApplyError as exc:
            self._failed(self._reading, exc)
            for _ in plans:
                self.counters.misses.add()
            return [Lookup(key, MISS, None, at, tags, None) for key, at, tags in plans]
        if self._reading.active:
            self._reading.end()
        lookups = []
        for key, addresses, tag_set in plans:
            entry, *tokens = [found[each] for each in addresses]
            value = self._decode(entry, tag_set.digest, tokens, addresses[0][1])
            if not holds:
                value = self._lapsed(value)
            (self.counters.misses if value is MISS else self.counters.hits).add()
            if value is not MISS and self._hits is not None:
                self._hits.note(addresses, tokens)
            lookups.append(Lookup(key, value, entry, addresses, tag_set, tokens))
        return lookups

    def reread(self, lookup: Lookup, beside: Address) -> tuple[Lookup, bytes | None]:
        """Read what ``lookup`` has read once more, and one address beside it.

        Counts neither as a hit nor as a miss.
        """
        bound = self._bound
        try:
            holds = bound is None or bound.holds(lookup.addresses[0])
            other, *found = self._store.get_many((beside,) + lookup.addresses)
        except ApplyError as exc:
            self._failed(self._reading, exc)
            return lookup._replace(value=MISS, entry=None, tokens=None), None
        entry, *tokens = found
        name = lookup.addresses[0][1]
        value = MISS
        if holds:
            value = self._decode(entry, lookup.tag_set.digest, tokens, name)
        return lookup._replace(value=value, entry=entry, tokens=tokens), other

    def _lapsed(self, value: Any) -> Any:
        """Not serve what may be older than the bound."""
        if value is not MISS:
            self.counters.lapsed.add()
        return MISS

    def is_too_old(self, began_at: float | None) -> bool:
        """Tell whether a load may show what is older than the bound to one who joins.

        :param began_at: moment of ``time.monotonic``; None if it has yet to begin.
        """
        bound = self._bound
        return (
            bound is not None
            and began_at is not None
            and monotonic() - began_at > bound.seconds
        )

    def tokens_of(self, key: Identity, tags: Iterable[Identity]) -> Lookup:
        """Read the tokens alone, for a value that is loaded later."""
        tag_set = self.tag_sets.of(tags)
        addresses = self._keyspace.of_key(key) + tag_set.addresses
        tokens = None
        try:
            tokens = self._store.get_many(addresses[1:])
        except ApplyError as exc:
            self._failed(self._reading, exc)
        return Lookup(key, MISS, None, addresses, tag_set, tokens)

    def outdated(self, lookup: Lookup) -> Any:
        """Return what was cached under other tokens for the same tags, or MISS."""
        if lookup.entry is None:
            return MISS
        tokens = tokens_in(lookup.entry, len(lookup.addresses) - 1)
        if self._hits is not None:
            self._hits.note(lookup.addresses, tokens)
        name = lookup.addresses[0][1]
        return self._decode(lookup.entry, lookup.tag_set.digest, tokens, name)

    def stamp_of(self, kind: str, value: str | None, beside: Identity) -> float | None:
        """When the token of a target was made, None if that is not known."""
        address = self._keyspace.of_key(beside)[1]
        if value is not None:
            address = self._keyspace.target(kind, value)
        try:
            [token] = self._store.get_many([address])
        except ApplyError as exc:
            self._failed(self._reading, exc)
            return None
        if token is None or is_placeholder(token):
            return None
        return stamp_ms(token) / 1000

    def is_due(self, lookup: Lookup) -> bool:
        """Tell whether a hit is past its soft TTL."""
        assert lookup.entry is not None and lookup.tokens is not None
        return self._lifetimes.is_due(soft_ms_of(lookup.entry, len(lookup.tokens)))

    # Before a load

    def with_missing(
        self,
        lookups: Sequence[Lookup],
        since: float | None,
        lock: LoadLock | None = None,
    ) -> tuple[list[Lookup], bool]:
        """Create the tokens that are missing, and take ``lock`` in the same round trip.

        A load that looks at stamps has them stamped as well, for the loads after it:
        a stamp of now lets itself store nothing.

        :param since: as :meth:`check_fill` will get it. ``lock`` is None if stamps
            count.
        :return: the lookups with the tokens that are there now, and whether the lock
            was taken.
        """
        stamps = self._policy.needs_stamps(since)
        wanted = dict.fromkeys(
            address
            for lookup in lookups
            for address, token in zip(lookup.addresses[1:], lookup.tokens or ())
            if token is None or (stamps and self._lacks_stamp(token))
        )
        if not wanted and lock is None:
            return list(lookups), False
        taken = False
        try:
            if stamps:
                there = self._stamped(list(wanted))
            else:
                there, taken = self._added(list(wanted), lock)
        except ApplyError as exc:
            self._failed(self._writing, exc)
            # Also those whose tokens were all there: after one failure this read asks
            # the store for nothing more, so that it ends within its time.
            return [lookup._replace(tokens=None) for lookup in lookups], False
        return [
            (
                lookup
                if lookup.tokens is None
                else lookup._replace(
                    tokens=[
                        there.get(address) if address in wanted else token
                        for address, token in zip(lookup.addresses[1:], lookup.tokens)
                    ]
                )
            )
            for lookup in lookups
        ], taken

    def _lacks_stamp(self, token: bytes) -> bool:
        return is_live(token, self._policy.kind) and is_placeholder(token)

    def _added(
        self, missing: Sequence[Address], lock: LoadLock | None
    ) -> tuple[Mapping[Address, bytes | None], bool]:
        """Add a token where none is; return what is there, and if the lock is taken."""
        tokens = placeholders(len(missing), self._policy.kind)
        writes: list[Write] = [
            (address, token, None) for address, token in zip(missing, tokens)
        ]
        if lock is not None:
            writes.append(lock.request())
        answers = self._store.add_many(writes)
        taken = lock is not None and lock.is_mine(answers[-1])
        return dict(zip(missing, answers)), taken

    def _stamped(self, wanted: Sequence[Address]) -> Mapping[Address, bytes | None]:
        """Add a token where none is, stamp what has no stamp; return what is there.

        The random part stays: it is the token that others fill under meanwhile.
        """
        there: dict[Address, bytes | None] = {}

        def stamp(copies: Sequence[Copy], found: Sequence[bytes]) -> list[bytes | None]:
            now_ms = int(self._clock() * 1000)
            there.update((copy[0], token) for copy, token in zip(copies, found))
            return [
                stamped(token, now_ms) if self._lacks_stamp(token) else None
                for token in found
            ]

        failures = replace(self._store, wanted, stamp, self._policy.kind, again=False)
        for failure in failures.values():
            raise failure
        return there

    def check_fill(self, lookup: Lookup, since: float | None) -> FillDecision:
        """Decide, before a load, whether its value may be stored under these tokens.

        :param since: when its snapshot began, None for one that has yet to begin.
        """
        if lookup.tokens is None:
            return FillDecision(lookup, self.counters.refused_unknown)
        policy = self._policy
        tokens = [
            token for token in lookup.tokens if token and is_live(token, policy.kind)
        ]
        if len(tokens) < len(lookup.tokens):
            return FillDecision(lookup, self.counters.refused_unknown)
        now = self._clock()
        found = list(zip(lookup.addresses[1:], tokens))
        hits = self._hits
        is_too_old = since is not None and (
            policy.is_ahead(since, now)
            or not policy.are_older_than(since, self._seen.others(found, since))
            or self._had_hits_under_others(found)
        )
        if hits is not None:
            # The caller may be given what another has loaded under these.
            hits.note(lookup.addresses, tokens)
        if since is not None and is_too_old:
            if not policy.strict:
                # There, a token is made before the commit that it stands for.
                self._seen.add(found)
            return FillDecision(lookup, self.counters.refused_by(since))
        if not policy.are_settled(tokens, now):
            return FillDecision(lookup, self.counters.refused_hold_off)
        return FillDecision(lookup, None)

    def _had_hits_under_others(self, found: Sequence[tuple[Address, bytes]]) -> bool:
        hits = self._hits
        return hits is not None and hits.were_under_others(found, self._store.nodes_of)

    @property
    def fills_under_new_tokens(self) -> bool:
        """Whether a load may fill under tokens that it has itself created just now."""
        return not self._policy.strict

    def _measured(
        self, size_of: Callable[[T], int], read: Callable[..., T], *args: Any
    ) -> T:
        """Read and have it noted; ``read`` asks once more, and is not measured."""
        began = perf_counter()
        found = read(self, *args)
        seconds = perf_counter() - began
        for meter in self._meters:
            meter.note_read(seconds, size_of(found))
        return found

    # The lock

    def lock_of(self, lookup: Lookup, seconds: float) -> LoadLock:
        """One try to be the one who loads this key."""
        token_prefix = lookup.token_prefix if lookup.knows_all_tokens else None
        return LoadLock(self._keyspace.load_lock(lookup.key), token_prefix, seconds)

    def take(self, lock: LoadLock) -> bytes | None:
        """Try to take ``lock``, and return what is there then.

        :raises ApplyError: the store fails; counted and logged.
        """
        try:
            [held] = self._store.add_many([lock.request()])
        except ApplyError as exc:
            self._failed(self._writing, exc)
            raise
        return held

    def release(self, lock: LoadLock) -> None:
        """Give ``lock`` back."""
        self._set(lock.releases())

    # After a load

    def pack(self, decision: FillDecision, value: object, lifetime: Lifetime) -> bytes:
        """Make the entry of a loaded value.

        :raises TypeError, ValueError: it cannot be stored and come back the same; or
            NotToBeStored, where that is no error. Its value is not yet told of.
        """
        soft_ms = self._lifetimes.soft_expiry_ms(lifetime)
        lookup = decision.lookup
        name = lookup.addresses[0][1]
        try:
            return self._encode(value, lookup.token_prefix, soft_ms, name)
        except (TypeError, ValueError) as exc:
            self._unstorable.refuse(value, exc)

    def check_value(self, value: object) -> None:
        """Raise as :meth:`pack` would, or tell of the value, also where none is stored.

        Else a mistake in the program shows up at the first load that may be stored,
        long after the page was tried out.
        """
        try:
            self._encode(value, b"")
        except (TypeError, ValueError) as exc:
            self._unstorable.tell(exc)

    def unpack(self, lookup: Lookup, entry: bytes) -> Any:
        """Return a value of one's own from an entry that another load has made."""
        name = lookup.addresses[0][1]
        return self._decode(entry, lookup.tag_set.digest, lookup.tokens or (), name)

    def pack_shared(self, lookup: Lookup, value: object) -> bytes:
        """Make an entry under no tokens, to hand a value to other threads alone.

        :raises TypeError, ValueError: it cannot come back the same.
        """
        return self._encode(value, token_prefix_of(lookup.tag_set.digest, ()))

    def unpack_shared(self, lookup: Lookup, entry: bytes) -> Any:
        """Return a value of one's own from what :meth:`pack_shared` has made."""
        return self._decode(entry, lookup.tag_set.digest, ())

    def fill(
        self,
        packed: Sequence[tuple[FillDecision, bytes]],
        lifetime: Lifetime,
        lock: LoadLock | None = None,
    ) -> bool:
        """Store the entries that may be, and give ``lock`` back in the same round trip.

        :return: whether the store has confirmed every one of them.
        """
        for meter in self._meters:
            meter.note_stored(
                sum(len(entry) for (_, refused), entry in packed if refused is None)
            )
        writes: list[Write] = []
        refusals = 0
        for (lookup, refused), entry in packed:
            if refused is not None:
                refused.add()
                refusals += 1
                continue
            seconds = self._lifetimes.seconds(lifetime)
            writes.append((lookup.addresses[0], entry, seconds))
        if lock is not None:
            writes += lock.releases()
        failures = self._set(writes)
        for (lookup, refused), _ in packed:
            if refused is None and lookup.addresses[0] not in failures:
                self.counters.fills.add()
        return not failures and not refusals

    def delete(self, key: Identity) -> bool:
        """Remove the entry of ``key``, and the lock of who loads it."""
        addresses = [self._keyspace.entry(key), self._keyspace.load_lock(key)]
        failures = self._store.delete_many(addresses)
        for error in failures.values():
            self._failed(self._writing, error)
            return False
        return True

    def _set(self, writes: Sequence[Write]) -> Mapping[Address, ApplyError]:
        if not writes:
            return {}
        failures = self._store.set_many(writes)
        away = None
        for error in failures.values():
            if isinstance(error, ApplyPermanent):
                self.counters.refused_size.add()
            else:
                away = error
        if away is not None:
            self._failed(self._writing, away)
        elif self._writing.active:
            self._writing.end()
        return failures

    def _failed(self, outage: LoggedOutage, error: ApplyError) -> None:
        self.counters.errors.add()
        outage.begin(error)


def _size_of(found: Found) -> int:
    return len(found[2] or b"")


def _size_of_all(lookups: Iterable[Lookup]) -> int:
    return sum(len(lookup.entry or b"") for lookup in lookups)
