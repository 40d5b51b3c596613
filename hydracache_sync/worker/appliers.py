"""What carries an invalidation to a cache, and says honestly whether it got there.

An applier knows a cache and no outbox. The classes of errors that it raises decide
what happens to the row, see :mod:`hydracache_sync.errors`.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Iterable, Mapping, Protocol, Sequence, Union

from hydracache_sync.cache.hold_off import DEFAULT_HOLD_OFF, HoldOff
from hydracache_sync.cache.keyspace import (
    MAX_APP_KEY,
    Keyspace,
    app_address,
    checked_app_key,
)
from hydracache_sync.cache.replacing import replace
from hydracache_sync.cache.store import CacheStore, Copy
from hydracache_sync.cache.tokens import COLD, LIVE, fresh_tokens
from hydracache_sync.errors import (
    ApplyPermanent,
    ApplyUnavailable,
    ConfigurationError,
)
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: No client stores a key with one of these bytes in memcached's text protocol.
_UNSTORABLE = frozenset(b" \t\n\v\f\r\0")


class InvalidationApplier:
    """Base of all appliers: override :meth:`apply_invalidation`, or the batch's.

    A worker may call it from several threads at once. An invalidation may be applied
    more than once, and late; applying must be idempotent.

    Source: trait ``InvalidationApplier`` in ``hydracache-db/src/outbox.rs``.
    """

    #: Namespace that the applier serves; None if it leaves that to the worker.
    namespace: str | None = None

    #: Whether an intent of kind ``flush`` means something to this applier. Only then
    #: does a worker flush when it gives an invalidation up.
    can_flush: bool = True

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        """Apply ``intent``; return only when the cache has acknowledged it.

        :raises ApplyUnavailable: the cache is away; the row waits, no attempt counts.
            ``OSError`` means the same.
        :raises ApplyPermanent: never possible; the row becomes a dead letter.
        :raises Exception: any other counts an attempt and is retried with backoff.
        """
        raise NotImplementedError

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        """Apply ``intents``, all different; return the failure of each, or None.

        By default one by one. A worker then looks after each at the end of its claim;
        an override gets the whole batch at once and should be done within seconds.
        """
        failures: list[Exception | None] = []
        for intent in intents:
            try:
                self.apply_invalidation(intent)
            except Exception as exc:
                # Handed to the worker, which settles the row by the error's class.
                failures.append(exc)
            else:
                failures.append(None)
        return failures

    def nodes(self) -> Sequence[str]:
        """Return the names of the cache's nodes; none if it has no such parts.

        Those that ``ApplyUnavailable`` names. The rows of one that is away wait, and
        the others go on.
        """
        return ()

    def nodes_of(self, intent: InvalidationIntent) -> Sequence[str]:
        """Return those of :meth:`nodes` that must acknowledge ``intent``."""
        return ()

    def probe(self, intent: InvalidationIntent) -> None:
        """Return if what must acknowledge ``intent`` answers now; change nothing.

        Asked before an invalidation is tried again whose last worker died: in an
        outage of the cache that is no fault of the invalidation's. By default nothing
        is asked, and each such death counts an attempt.

        :raises ApplyUnavailable: it does not.
        """


class MemcachedApplier(InvalidationApplier):
    """Makes entries of :class:`~hydracache_sync.TaggedCache` unservable for good.

    Each target gets a fresh random token. An entry that was loaded under another one,
    stored before this moment or after it, by whatever reader, never matches again. A
    batch is two acknowledged round trips, each to all nodes at once.

    Thread-safe, usable after a fork.

    :param store: the store that the readers use, with the same servers and ring.
    :param namespace: the namespace that the readers use.
    :param also: further stores, of other rings, that some readers may still use or use
        already: while the server list changes. An invalidation is done when each of
        them has acknowledged it.
    :param strict: for a strict namespace: what was invalidated is not cached for a
        while, instead of getting a token that is live at once. As in its caches.
    :param hold_off: as in the caches of a strict namespace.
    :param clock: returns Unix seconds, for tests.
    :raises ConfigurationError: two of the stores have the same ring id.
    """

    def __init__(
        self,
        store: CacheStore,
        namespace: str,
        *,
        also: Sequence[CacheStore] = (),
        strict: bool = False,
        hold_off: float = DEFAULT_HOLD_OFF,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(also, CacheStore):
            raise ConfigurationError("also must be a list of stores, not one of them")
        self._stores = [
            (each, Keyspace(each.ring, namespace)) for each in (store, *also)
        ]
        rings = [each.ring for each, _ in self._stores]
        if len(set(rings)) < len(rings):
            raise ConfigurationError(
                f"store and also have the same ring id twice: {', '.join(rings)}; it"
                " must be new at every change of the server list"
            )
        if strict:
            HoldOff(hold_off)  # checks it
        self._kind = COLD if strict else LIVE
        self._clock = clock
        self.namespace = namespace

    def __repr__(self) -> str:
        store, *also = [each for each, _ in self._stores]
        more = f", also={also!r}" if also else ""
        return f"MemcachedApplier({store!r}, {self.namespace!r}{more})"

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        [failure] = self.apply_batch([intent])
        if failure is not None:
            raise failure

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        outcomes = [
            self._apply_to(store, keyspace, intents) for store, keyspace in self._stores
        ]
        if len(outcomes) == 1:
            return outcomes[0]
        return [_joint_failure(failures) for failures in zip(*outcomes)]

    def nodes(self) -> Sequence[str]:
        return self.nodes_of(InvalidationIntent.flush())

    def nodes_of(self, intent: InvalidationIntent) -> Sequence[str]:
        return [
            name
            for store, keyspace in self._stores
            for name in store.nodes_of(keyspace.target(*intent.to_cache_invalidation()))
        ]

    def probe(self, intent: InvalidationIntent) -> None:
        for store, keyspace in self._stores:
            _probe(
                store, store.nodes_of(keyspace.target(*intent.to_cache_invalidation()))
            )

    def _apply_to(
        self,
        store: CacheStore,
        keyspace: Keyspace,
        intents: Sequence[InvalidationIntent],
    ) -> list[Exception | None]:
        addresses = keyspace.targets(
            [intent.to_cache_invalidation() for intent in intents]
        )
        # Distinct intents may meet in one tag.
        targets = list(dict.fromkeys(addresses))
        failures = replace(store, targets, self._new_tokens, self._kind)
        if not failures:
            return [None] * len(intents)
        return [failures.get(address) for address in addresses]

    def _new_tokens(self, _: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
        return fresh_tokens(len(found), int(self._clock() * 1000), self._kind)


def _probe(store: CacheStore, nodes: Sequence[str]) -> None:
    answers = store.ping()
    for node in nodes:
        answer = answers.get(node)
        if isinstance(answer, ApplyUnavailable):
            raise answer


def _joint_failure(failures: Iterable[Exception | None]) -> Exception | None:
    """What became of an intent that several stores had to take.

    Where one of them is away nothing about the row is final: it waits.
    """
    found: Exception | None = None
    for failure in failures:
        if isinstance(failure, ApplyUnavailable):
            return failure
        found = found or failure
    return found


class AcknowledgingClient(Protocol):
    """The part of ``pymemcache``'s ``Client`` and ``PooledClient`` that is used."""

    def delete(self, key: Any, noreply: bool | None = None) -> bool: ...

    def get(self, key: Any) -> Any: ...


#: Keys of one intent: one, several, or None for nothing to delete.
Keys = Union[str, bytes, Iterable[Union[str, bytes]], None]


class PlainKeyApplier(InvalidationApplier):
    """Deletes keys that the app itself writes to memcached, acknowledged.

    For code that keeps its own ``get`` and ``set``. The guarantee is weaker than that
    of :class:`MemcachedApplier`: the delete is not lost, but a reader that loaded the
    old value before the commit may put it back after the delete, and then it stays
    until its TTL. Only tokens close that race.

    Thread-safe if ``client`` is.

    :param client: a :class:`~hydracache_sync.MemcachedStore`, or pymemcache's
        ``PooledClient`` (``Client`` for one thread). Not ``HashClient``: it drops
        deletes in silence while a node is away.
    :param key: maps an intent to the key or keys to delete, or None for nothing. A key
        that memcached cannot store (empty, over 250 bytes, with white space or a null
        byte) needs no delete: there is no value under it. One with another control
        character makes the row a dead letter: some clients store it.
    :param flush: called for a ``flush``, to drop everything; raises if it cannot.
        Without it a flush is a dead letter, and the worker asks for none.
    """

    def __init__(
        self,
        client: CacheStore | AcknowledgingClient,
        *,
        key: Callable[[InvalidationIntent], Keys],
        flush: Callable[[], None] | None = None,
        namespace: str | None = None,
    ) -> None:
        if any(base.__name__ == "HashClient" for base in type(client).__mro__):
            raise ConfigurationError(
                "pymemcache's HashClient loses deletes in silence while a node is away"
                " and then moves keys to another node; give PlainKeyApplier a"
                " MemcachedStore or a PooledClient"
            )
        self._client = client
        self._key = key
        self._flush = flush
        self.namespace = namespace
        self.can_flush = flush is not None

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        [failure] = self.apply_batch([intent])
        if failure is not None:
            raise failure

    def apply_batch(
        self, intents: Sequence[InvalidationIntent]
    ) -> list[Exception | None]:
        failures: dict[InvalidationIntent, Exception | None] = {}
        keys: dict[InvalidationIntent, list[bytes]] = {}
        for intent in intents:
            try:
                keys[intent] = self._keys(intent)
                failures[intent] = None
            except Exception as exc:
                # The mapping or the flush failed: that row alone, by its class.
                failures[intent] = exc
        undeleted = self._delete({key for some in keys.values() for key in some})
        for intent, some in keys.items():
            failures[intent] = next(
                (undeleted[key] for key in some if key in undeleted), None
            )
        return [failures[intent] for intent in intents]

    def nodes(self) -> Sequence[str]:
        if isinstance(self._client, CacheStore):
            return self._client.nodes_of((None, b""))
        return ()

    def nodes_of(self, intent: InvalidationIntent) -> Sequence[str]:
        if not isinstance(self._client, CacheStore):
            return ()
        if intent.kind == "flush":
            return ()
        try:
            keys = self._mapped(intent)
        except Exception:
            # The mapping does not give what it gave when the row was applied. Nothing
            # is to happen to the row; which nodes it was is not known.
            return ()
        return [
            name for key in keys for name in self._client.nodes_of(app_address(key))
        ]

    def probe(self, intent: InvalidationIntent) -> None:
        # All nodes, since ``key`` says which it needs: a row at which that kills the
        # process must be noted before it is called.
        if isinstance(self._client, CacheStore):
            _probe(self._client, self.nodes())

    def _keys(self, intent: InvalidationIntent) -> list[bytes]:
        if intent.kind == "flush":
            if self._flush is None:
                raise ApplyPermanent(
                    "plain keys cannot be flushed: no flush= was given"
                )
            self._flush()
            return []
        return self._mapped(intent)

    def _mapped(self, intent: InvalidationIntent) -> list[bytes]:
        keys = self._key(intent)
        if keys is None:
            return []
        several = (keys,) if isinstance(keys, (str, bytes)) else list(keys)
        for key in several:
            if not isinstance(key, (str, bytes)):
                raise TypeError(f"key= gave a {type(key).__name__}, not str or bytes")
        found = []
        for key in several:
            try:
                found.append(checked_app_key(key))
            except ValueError as exc:
                if not _is_unstorable(key):
                    raise ApplyPermanent(str(exc)) from exc
                # Keys are often made of what users type: no error of the row's.
                logger.debug("nothing to delete, the key cannot be stored: %s", exc)
        return found

    def _delete(self, keys: set[bytes]) -> Mapping[bytes, Exception]:
        """Delete ``keys``; return those that were not acknowledged."""
        if isinstance(self._client, CacheStore):
            addresses = {app_address(key): key for key in keys}
            lost = self._client.delete_many(list(addresses))
            return {addresses[address]: failure for address, failure in lost.items()}
        failures: dict[bytes, Exception] = {}
        away: Exception | None = None
        for key in sorted(keys):
            if away is not None:
                # Each key could wait for its whole timeout, and outlast the claim.
                failures[key] = away
                continue
            try:
                # False is NOT_FOUND, or any line that was not understood. Only a key
                # that is then seen to be missing has been deleted.
                if not self._client.delete(key, noreply=False):
                    if self._client.get(key) is not None:
                        raise ApplyUnavailable("memcached acknowledged no delete")
            except Exception as exc:
                if type(exc).__name__ == "MemcacheIllegalInputError":
                    # With the prefix of its client, which the app has as well.
                    logger.debug("nothing to delete, %r cannot be stored: %s", key, exc)
                    continue
                # Not acknowledged: the rows of this key wait, or are tried again.
                failures[key] = error = _as_ours(exc)
                if isinstance(error, (ApplyUnavailable, OSError)):
                    away = error
        return failures


def _is_unstorable(key: str | bytes) -> bool:
    """Tell whether no client of the text protocol stores anything under ``key``."""
    try:
        raw = key.encode("utf-8") if isinstance(key, str) else key
    except UnicodeEncodeError:
        return True
    return not 1 <= len(raw) <= MAX_APP_KEY or not _UNSTORABLE.isdisjoint(raw)


def _as_ours(exc: Exception) -> Exception:
    """Translate pymemcache's errors, without importing it."""
    name = type(exc).__name__
    if name == "MemcacheClientError":
        return ApplyPermanent(f"memcached refused the key: {exc}")
    if name.startswith("Memcache"):
        return ApplyUnavailable(f"memcached failed: {name}: {exc}")
    if isinstance(exc, RuntimeError) and "Too many objects" in str(exc):
        return ApplyUnavailable(f"no connection is free, max_pool_size: {exc}")
    return exc


class RecordingApplier(InvalidationApplier):
    """Applies to a list, for tests of an app's own invalidations. Thread-safe.

    :ivar applied: the intents, in order.
    """

    can_flush = False

    def __init__(self, namespace: str | None = None) -> None:
        self.namespace = namespace
        self.applied: list[InvalidationIntent] = []

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        self.applied.append(intent)  # atomic
