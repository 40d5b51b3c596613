"""Applying invalidations to a cache, and saying what the cache has acknowledged.

An applier knows a cache and no outbox. The classes of errors that it raises decide
what happens to the row, see :mod:`hydracache_sync.errors`.
"""

from __future__ import annotations

import time
from typing import Callable, Iterable, Sequence

from hydracache_sync.cache.bound import store_watermark
from hydracache_sync.cache.keyspace import Address, Keyspace
from hydracache_sync.cache.store import CacheStore, Copy, Failures
from hydracache_sync.cache.tokens.policy import DEFAULT_HOLD_OFF, HoldOff
from hydracache_sync.cache.tokens.replacing import replace
from hydracache_sync.cache.tokens.token import COLD, LIVE, fresh_tokens
from hydracache_sync.errors import ApplyUnavailable, ConfigurationError
from hydracache_sync.intents import InvalidationIntent


class InvalidationApplier:
    """Base of all appliers: override :meth:`apply_invalidation`, or the batch's.

    A worker may call it from several threads at once. An invalidation may be applied
    more than once, and late: applying must be idempotent.

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

        By default one by one; a worker then checks the time of its claim after each.
        An override gets the whole batch at once and should return within seconds.
        """
        failures: list[Exception | None] = []
        for intent in intents:
            try:
                self.apply_invalidation(intent)
            except Exception as exc:
                # Returned to the worker, which settles the row by the error's class.
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
        """Return if all that must acknowledge ``intent`` answers now; change nothing.

        Called before an invalidation is tried again whose last worker died: in an
        outage of the cache that is no fault of the invalidation. By default nothing is
        asked, and each such death counts an attempt.

        :raises ApplyUnavailable: some of it does not answer.
        """

    def store_watermark(self, moment_ms: int) -> None:
        """Tell readers that all commits that ended before ``moment_ms`` are applied.

        By default nothing is stored: a cache of yours has no such readers.

        :raises ApplyUnavailable: not each node of the cache has acknowledged it.
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

    @property
    def stores(self) -> Sequence[CacheStore]:
        """The store, and those of ``also``."""
        return [each for each, _ in self._stores]

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
            require_answers(
                store, store.nodes_of(keyspace.target(*intent.to_cache_invalidation()))
            )

    def store_watermark(self, moment_ms: int) -> None:
        # All of them before the first failure is raised.
        found = [store_watermark(*each, moment_ms) for each in self._stores]
        for failures in found:
            for failure in failures.values():
                raise failure

    def _apply_to(
        self,
        store: CacheStore,
        keyspace: Keyspace,
        intents: Sequence[InvalidationIntent],
    ) -> list[Exception | None]:
        addresses = keyspace.targets(intents)
        # Distinct intents may meet in one tag.
        targets = dict.fromkeys(addresses)
        failures = replace(store, list(targets), self._new_tokens, self._kind)
        flush = keyspace.namespace_token()
        if flush in targets and flush not in failures:
            self._replace_copies_again(store, flush, failures)
        if not failures:
            return [None] * len(intents)
        return [failures.get(address) for address in addresses]

    def _replace_copies_again(
        self, store: CacheStore, flush: Address, failures: Failures
    ) -> None:
        """Replace the namespace's token on each node once more, if there are several.

        The first copies arrive one after the other. What a loader has made of an entry
        that the flush had not reached, and stored where it had, ends with the second.
        """
        if len(store.nodes_of(flush)) > 1:
            failures.update(replace(store, [flush], self._new_tokens, self._kind))

    def _new_tokens(self, _: Sequence[Copy], found: Sequence[bytes]) -> list[bytes]:
        return fresh_tokens(len(found), int(self._clock() * 1000), self._kind)


def require_answers(store: CacheStore, nodes: Sequence[str]) -> None:
    """Return if each of ``nodes`` answers; else raise its ApplyUnavailable."""
    answers = store.ping()
    for node in nodes:
        answer = answers.get(node)
        if isinstance(answer, ApplyUnavailable):
            raise answer


def _joint_failure(failures: Iterable[Exception | None]) -> Exception | None:
    """Return the failure of an intent that several stores had to acknowledge.

    While one of them is away no other failure is final: the row waits.
    """
    found: Exception | None = None
    for failure in failures:
        if isinstance(failure, ApplyUnavailable):
            return failure
        found = found or failure
    return found


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
