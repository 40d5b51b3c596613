"""A cache in front of a database that never serves what was invalidated.

The rules, and what breaks without each, are in section 6 of the design. In short: an
entry is served only while all tokens that it was loaded under are still the ones in the
store; tokens are read before the load and never after; who does not know them all, or
reads an older snapshot than they are, loads and stores nothing. Knows no outbox.
"""

from __future__ import annotations

import logging
import time
from math import isfinite
from typing import Any, Callable, Iterable, Sequence, TypeVar, Union

from hydracache_sync.cache.codec import MISS, Codec
from hydracache_sync.cache.diagnostics import CacheDiagnostics, Tally
from hydracache_sync.cache.entry import basis_of
from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.cache.outage import Outage
from hydracache_sync.cache.signed_pickle import PickleCodec
from hydracache_sync.cache.store import CacheStore, whole_seconds
from hydracache_sync.cache.tag_sets import TagSets
from hydracache_sync.cache.tokens import fresh_tokens, is_live, stamp_ms
from hydracache_sync.errors import ApplyError, ApplyPermanent

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds an entry lives unless told otherwise. Tokens keep entries right; this bounds
#: how long a change that bypassed the outbox (a script, a trigger) stays unseen.
DEFAULT_TTL = 3600.0


class TaggedCache:
    """Cached reads of one namespace. Safe for threads, and across forks.

    Never raises because of the store: when that fails, reads are misses, values come
    from the loader and are not stored, and ``diagnostics()`` counts it.

    A key is text of 0 to 4096 bytes of UTF-8, a tag of 0 to 24577 (``entity_tag`` makes
    long ones). The tags of a key must be the same in every read of it: other tags are a
    miss. Their order does not matter.

    Values are ``bytes``, ``str``, None, ``bool``, ``int``, finite ``float``, and
    ``list`` and ``dict`` (with ``str`` keys) of these. They come back equal and of the
    same types; anything else is a ``TypeError`` when it is to be stored. A value over
    the store's item limit (memcached's ``-I``, 1 MiB by default) is returned, counted
    in ``refused_size``, and not stored.

    :param store: shared with others as you like; must be what the appliers write to.
    :param namespace: as in the outbox; 1 to 64 bytes of UTF-8.
    :param snapshot: called before a load, tells when the database snapshot began that
        the load will read (see ``since`` below), or None if it opens a fresh one.
    :param clock_skew: seconds by which the clocks of hosts may differ, 0 or more.
    :param ttl: default seconds that an entry lives, rounded up; 0 for no limit.
    :param codec: ``PickleCodec(key=...)`` to keep any value that pickle takes, signed.
    :param clock: Unix seconds; replaced in tests.
    :raises TypeError, ValueError: one of these is not as said.
    """

    def __init__(
        self,
        store: CacheStore,
        namespace: str,
        *,
        snapshot: Callable[[], float | None] | None = None,
        clock_skew: float = 1.0,
        ttl: float = DEFAULT_TTL,
        codec: Union[Codec, PickleCodec, None] = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keyspace = Keyspace(store.ring, namespace)
        self._tag_sets = TagSets(self._keyspace)
        self._snapshot = snapshot
        self._clock_skew = _checked_seconds("clock_skew", clock_skew)
        if self._clock_skew < 0:
            raise ValueError(f"clock_skew must be 0 or more, not {clock_skew!r}")
        whole_seconds(ttl)
        self._ttl = ttl
        self._codec = Codec() if codec is None else codec
        self._decode = self._codec.decode
        self._clock = clock
        self._reading = Outage(logger, f"reading the cache of namespace {namespace}")
        self._writing = Outage(logger, f"writing the cache of namespace {namespace}")
        self._hits = Tally()
        self._misses = Tally()
        self._fills = Tally()
        self._refused_unknown = Tally()
        self._refused_snapshot = Tally()
        self._refused_size = Tally()
        self._errors = Tally()

    @property
    def namespace(self) -> str:
        """What the outbox calls this cache."""
        return self._keyspace.namespace

    def get(self, key: str, *, tags: Iterable[str] = (), default: Any = None) -> Any:
        """Return the cached value of ``key``, or ``default``. One round trip.

        None may be a cached value: give a ``default`` of your own to tell.

        :raises TypeError, ValueError: key or tags are not as the class says.
        """
        value = self._look_up(key, tags)[0]
        return default if value is MISS else value

    def get_or_load(
        self,
        key: str,
        loader: Callable[[], T],
        *,
        tags: Iterable[str] = (),
        ttl: float | None = None,
        since: float | None = None,
    ) -> T:
        """Return the cached value of ``key``, or load it and store it.

        A hit takes one round trip. A miss takes two, and one more where tokens were
        missing. What the loader raises comes out, and nothing is stored then.

        :param loader: reads the database. Unless ``since`` or ``snapshot`` says
            otherwise it must begin a fresh snapshot: in an open REPEATABLE READ
            transaction it would store what was already invalidated.
        :param tags: what the value depends on; all that its writers may invalidate.
        :param ttl: seconds that the entry lives, rounded up; None for the cache's
            default, 0 for no limit.
        :param since: Unix seconds, taken before the first statement of the transaction
            that the loader reads in. The value is stored only if every token is older
            than that by more than ``clock_skew`` and the millisecond that stamps count.
        :raises TypeError: the loaded value cannot be stored and come back the same. It
            was not stored. A mistake in the program, so it is not passed over: it would
            make every read a miss.
        :raises ValueError: the same, for a number that is not finite, a value that
            holds itself or is nested too deeply. Both also for arguments that are not
            as said, before anything is done.
        """
        if ttl is not None:
            whole_seconds(ttl)
        if since is not None:
            _check_since(since)
        value, addresses, tag_digest, tokens = self._look_up(key, tags)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        reservation = self._reservation(addresses, tag_digest, tokens, since)
        loaded = loader()
        reservation.fill(loaded, ttl)
        return loaded

    def reserve(
        self,
        key: str,
        *,
        tags: Iterable[str] = (),
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
            _check_since(since)
        tag_addresses, tag_digest = self._tag_sets.of(tags)
        addresses = self._keyspace.of_key(key) + tag_addresses
        try:
            tokens = self._store.get_many(addresses[1:])
        except ApplyError as exc:
            self._failed(self._reading, exc)
            tokens = None
        return self._reservation(addresses, tag_digest, tokens, since)

    def delete(self, key: str) -> bool:
        """Remove the entry of ``key``; tell whether the store has confirmed it.

        Frees memory. It invalidates nothing: a load under way may store the value
        again. For that there are intents.

        :raises TypeError, ValueError: the key is not as the class says.
        """
        failures = self._store.delete_many([self._keyspace.entry(key)])
        for error in failures.values():
            self._failed(self._writing, error)
            return False
        return True

    def diagnostics(self) -> CacheDiagnostics:
        """Count what happened so far. Safe at any time, from any thread."""
        return CacheDiagnostics(
            hits=self._hits.total,
            misses=self._misses.total,
            fills=self._fills.total,
            refused_unknown=self._refused_unknown.total,
            refused_snapshot=self._refused_snapshot.total,
            refused_size=self._refused_size.total,
            errors=self._errors.total,
        )

    def __repr__(self) -> str:
        return f"TaggedCache({self._store!r}, {self.namespace!r})"

    def _look_up(
        self, key: str, tags: Iterable[str]
    ) -> tuple[Any, tuple[Address, ...], bytes, list[bytes | None] | None]:
        """Read an entry with all it rests on, in one round trip.

        :return: the value or ``MISS``; the addresses of the entry and of its tokens;
            the digest of the tags; the tokens, None if the store does not know.
        """
        tag_addresses, tag_digest = self._tag_sets.of(tags)
        addresses = self._keyspace.of_key(key) + tag_addresses
        try:
            entry, *tokens = self._store.get_many(addresses)
        except ApplyError as exc:
            self._failed(self._reading, exc)
            self._misses.add()
            return MISS, addresses, tag_digest, None
        if self._reading.active:
            self._reading.end()
        value = self._decode(entry, tag_digest, tokens)
        if value is MISS:
            self._misses.add()
        else:
            self._hits.add()
        return value, addresses, tag_digest, tokens

    def _reservation(
        self,
        addresses: Sequence[Address],
        tag_digest: bytes,
        tokens: Sequence[bytes | None] | None,
        since: float | None,
    ) -> Reservation:
        """Settle, before the load, whether and under what its value may be stored."""
        if tokens is not None:
            tokens = self._with_missing(addresses[1:], tokens)
        if since is None and self._snapshot is not None:
            since = self._snapshot()
            if since is not None:
                _check_since(since)
        known = [token for token in tokens or () if token and is_live(token)]
        refused = None
        if tokens is None or len(known) < len(tokens):
            refused = self._refused_unknown
        elif since is not None and not self._all_before(known, since):
            refused = self._refused_snapshot
        return Reservation(self, addresses[0], basis_of(tag_digest, known), refused)

    def _with_missing(
        self, addresses: Sequence[Address], tokens: Sequence[bytes | None]
    ) -> Sequence[bytes | None]:
        """Create the tokens that are None, and return those that are there then."""
        missing = [index for index, token in enumerate(tokens) if token is None]
        if not missing:
            return tokens
        fresh = fresh_tokens(len(missing), int(self._clock() * 1000))
        writes = [(addresses[index], new, None) for index, new in zip(missing, fresh)]
        complete = list(tokens)
        try:
            for index, token in zip(missing, self._store.add_many(writes)):
                complete[index] = token
        except ApplyError as exc:
            self._failed(self._writing, exc)
        return complete

    def _all_before(self, tokens: Sequence[bytes], since: float) -> bool:
        # Stamps are cut to the millisecond: a token may be almost one younger than it
        # says. And strictly: one of the same moment may be the younger.
        return all(
            (stamp_ms(token) + 1) / 1000 + self._clock_skew < since for token in tokens
        )

    def _fill(
        self,
        entry: Address,
        value: object,
        basis: bytes,
        ttl: float | None,
        refused: Tally | None,
    ) -> bool:
        seconds = self._ttl if ttl is None else ttl
        if refused is not None:
            refused.add()
            return False
        data = self._codec.encode(value, basis)
        failures = self._store.set_many([(entry, data, seconds)])
        for error in failures.values():
            if isinstance(error, ApplyPermanent):
                self._refused_size.add()
            else:
                self._failed(self._writing, error)
            return False
        self._writing.end()
        self._fills.add()
        return True

    def _failed(self, outage: Outage, error: ApplyError) -> None:
        self._errors.add()
        outage.begin(error)


class Reservation:
    """The tokens of a key as they were before a load. Safe for threads."""

    def __init__(
        self, cache: TaggedCache, entry: Address, basis: bytes, refused: Tally | None
    ) -> None:
        self._cache = cache
        self._entry = entry
        self._basis = basis
        self._refused = refused

    @property
    def fillable(self) -> bool:
        """Whether :meth:`fill` will try to store, or is refused already."""
        return self._refused is None

    def fill(self, value: object, ttl: float | None = None) -> bool:
        """Store a value that was loaded since this reservation was made.

        It is served until something it rests on is invalidated; if that has happened
        meanwhile, never. One round trip, none if refused. A value over the item limit
        is not stored and counted.

        :param ttl: as in ``get_or_load``.
        :return: whether the store has confirmed it.
        :raises TypeError, ValueError: as ``get_or_load``; nothing was stored.
        """
        return self._cache._fill(self._entry, value, self._basis, ttl, self._refused)


def _check_since(since: float) -> None:
    _checked_seconds("since", since)


def _checked_seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds, not {type(value).__name__}")
    if not isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return value
