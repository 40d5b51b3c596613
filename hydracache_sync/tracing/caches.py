"""Spans of a cache: its reads, fills and removals, and the loads between them."""

from __future__ import annotations

from typing import Any, Callable, ContextManager, Iterable, Protocol, Sequence

from hydracache_sync.cache.codecs.codec import MISS
from hydracache_sync.cache.entries import FillDecision, Found, Lookup
from hydracache_sync.cache.keyspace import Address
from hydracache_sync.cache.lifetime import Lifetime
from hydracache_sync.cache.load_lock import LoadLock
from hydracache_sync.cache.memory import MemoryStore
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.cache.unstorable import NotToBeStored
from hydracache_sync.keys import Identity

#: Operations of a cache.
GET, PUT, REMOVE = "get", "put", "remove"


class CacheSpan(Protocol):
    """The span of one operation."""

    def note(
        self,
        *,
        failed: bool,
        nodes: Sequence[str],
        hits: int | None = None,
        size: int | None = None,
    ) -> None:
        """Take what came of it. Never raises.

        :param failed: a node did not answer or refused.
        :param nodes: of the entries; empty where they have no names.
        :param hits: keys of a read that were found.
        :param size: bytes of the entries.
        """


class CacheBackend(Protocol):
    """Opens spans. Never raises; what a block raises goes on."""

    def cache(
        self, operation: str, namespace: str, keys: Sequence[str]
    ) -> ContextManager[CacheSpan]:
        """Open the span of an operation on ``keys``."""

    def load(self, namespace: str, key: str) -> ContextManager[object]:
        """Open the span of a loader."""


class CacheSpans:
    """Traces one cache, as a :class:`~hydracache_sync.cache.tracer.CacheTracer`."""

    def __init__(
        self, backend: CacheBackend, namespace: str, store: CacheStore
    ) -> None:
        self._backend = backend
        self._namespace = namespace
        #: None where there is no node to be named.
        self._nodes_of = None if isinstance(store, MemoryStore) else store.nodes_of

    def find(
        self, plain: Callable[..., Found], key: Identity, tags: Iterable[Identity]
    ) -> Found:
        with self._backend.cache(GET, self._namespace, [_text(key)]) as span:
            found = plain(key, tags)
            self._note_found(span, [Lookup._make(found)])
        return found

    def look_up_many(
        self,
        plain: Callable[..., list[Lookup]],
        wanted: Sequence[tuple[Identity, Iterable[Identity]]],
    ) -> list[Lookup]:
        keys = [_text(key) for key, _ in wanted]
        with self._backend.cache(GET, self._namespace, keys) as span:
            found = plain(wanted)
            self._note_found(span, found)
        return found

    def fill(
        self,
        plain: Callable[..., bool],
        packed: Sequence[tuple[FillDecision, bytes]],
        lifetime: Lifetime,
        lock: LoadLock | None = None,
    ) -> bool:
        stored = [each for each in packed if each[0].refused is None]
        if not stored:
            return plain(packed, lifetime, lock)
        keys = [_text(decision.lookup.key) for decision, _ in stored]
        with self._backend.cache(PUT, self._namespace, keys) as span:
            all_stored = plain(packed, lifetime, lock)
            span.note(
                # Where some were refused here, the answer is no in any case.
                failed=not all_stored and len(stored) == len(packed),
                nodes=self._nodes(each.lookup.addresses for each, _ in stored),
                size=sum(len(entry) for _, entry in stored),
            )
        return all_stored

    def delete(self, plain: Callable[..., bool], key: Identity) -> bool:
        with self._backend.cache(REMOVE, self._namespace, [_text(key)]) as span:
            done = plain(key)
            span.note(failed=not done, nodes=())
        return done

    def loader(
        self,
        plain: Callable[..., Callable[[], Any]],
        key: Any,
        tags: Sequence[str],
        loader: Callable[[], Any],
    ) -> Callable[[], Any]:
        load = plain(key, tags, loader)

        def traced() -> Any:
            with self._backend.load(self._namespace, _text(key)):
                try:
                    return load()
                except NotToBeStored as exc:
                    not_stored = exc
            # No failure: how a loader hands its value past the cache.
            raise not_stored

        return traced

    def _note_found(self, span: CacheSpan, found: Sequence[Lookup]) -> None:
        hits = [lookup for lookup in found if lookup.value is not MISS]
        span.note(
            failed=any(lookup.tokens is None for lookup in found),
            nodes=self._nodes(lookup.addresses for lookup in found),
            hits=len(hits),
            size=sum(len(lookup.entry or b"") for lookup in hits) if hits else None,
        )

    def _nodes(self, addresses: Iterable[Sequence[Address]]) -> Sequence[str]:
        nodes_of = self._nodes_of
        if nodes_of is None:
            return ()
        return list(
            dict.fromkeys(node for some in addresses for node in nodes_of(some[0]))
        )


def _text(key: Identity) -> str:
    """What is stored under; a member of an enum of texts prints otherwise."""
    return str.__str__(key) if isinstance(key, str) else str(key)
