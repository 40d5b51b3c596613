"""Deleting the keys that an app itself writes to memcached, acknowledged.

The guarantee is weaker than that of tokens, see :class:`PlainKeyApplier`.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Protocol, Sequence, Union

from hydracache_sync.cache.keyspace import MAX_APP_KEY, app_address, checked_app_key
from hydracache_sync.cache.store import EVERY_NODE, CacheStore
from hydracache_sync.errors import (
    ApplyPermanent,
    ApplyUnavailable,
    ConfigurationError,
)
from hydracache_sync.intents import InvalidationIntent
from hydracache_sync.printable import printable_logger
from hydracache_sync.worker.appliers import InvalidationApplier, require_answers

logger = printable_logger(__name__)

#: No client stores a key with one of these bytes in memcached's text protocol.
_UNSTORABLE = frozenset(b" \t\n\v\f\r\0")


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
    old value before the commit may store it after the delete. Then it stays until its
    TTL. Only tokens close that race.

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
            return self._client.nodes_of(EVERY_NODE)
        return ()

    def nodes_of(self, intent: InvalidationIntent) -> Sequence[str]:
        if not isinstance(self._client, CacheStore):
            return ()
        if intent.kind == "flush":
            return ()
        try:
            keys = self._mapped(intent)
        except Exception:
            # The row was applied when the mapping still answered. Which nodes have
            # acknowledged it is not known.
            return ()
        return [
            name for key in keys for name in self._client.nodes_of(app_address(key))
        ]

    def probe(self, intent: InvalidationIntent) -> None:
        # All nodes, since which it needs is known of ``key`` alone. If that kills the
        # process, the try must have been noted before.
        if isinstance(self._client, CacheStore):
            require_answers(self._client, self.nodes())

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
                # Keys are often made of users' input: the row is not at fault.
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
