"""The cache that readers read through: the library's, or one that is known to fail."""

from __future__ import annotations

import json
from typing import Any, Callable, Iterable, Protocol

from faults.job import NAMESPACE, Job
from faults.workload import key_of, tags_of
from hydracache_sync import (
    InvalidationApplier,
    InvalidationIntent,
    MemcachedApplier,
    MemcachedStore,
    PlainKeyApplier,
    TaggedCache,
)
from hydracache_sync.cache import CacheStore, Keyspace, app_address
from hydracache_sync.errors import ApplyError


class Cache(Protocol):
    """The part of ``TaggedCache`` that readers use."""

    def get_or_load(
        self, key: str, loader: Callable[[], Any], *, tags: Iterable[str] = ()
    ) -> Any: ...


class PlainDeleteCache:
    """Cache-aside as it is mostly written: get, load, set. A writer deletes the key.

    The reader that has loaded the old value before the commit sets it after the delete.
    The storm must find that, or its silence about ``TaggedCache`` means nothing.
    """

    def __init__(self, store: CacheStore) -> None:
        self._store = store

    def get_or_load(
        self, key: str, loader: Callable[[], Any], *, tags: Iterable[str] = ()
    ) -> Any:
        address = app_address(plain_key(key))
        try:
            [found] = self._store.get_many([address])
        except ApplyError:
            return loader()
        if found is not None:
            return json.loads(found)
        value = loader()
        self._store.set_many([(address, json.dumps(value).encode("ascii"), None)])
        return value


def plain_key(key: str) -> str:
    return key.encode("utf-8").hex()


def open_cache(job: Job, store: CacheStore) -> Cache:
    if job.plain_delete:
        return PlainDeleteCache(store)
    return TaggedCache(store, NAMESPACE)


def open_store(job: Job) -> MemcachedStore:
    return MemcachedStore([job.memcached])


def open_applier(job: Job, store: CacheStore) -> InvalidationApplier:
    if not job.plain_delete:
        return MemcachedApplier(store, NAMESPACE)

    items_of: dict[str, list[int]] = {}
    for item in range(job.items):
        for tag in tags_of(item):
            items_of.setdefault(tag, []).append(item)

    def keys(intent: InvalidationIntent) -> list[str]:
        kind, value = intent.to_cache_invalidation()
        if kind == "key":
            return [plain_key(str(value))]
        return [plain_key(key_of(item)) for item in items_of.get(str(value), [])]

    return PlainKeyApplier(store, key=keys, namespace=NAMESPACE)


def evict(store: CacheStore, intent: InvalidationIntent) -> None:
    """Have the store lose the token that ``intent`` sets, as a full one does."""
    keyspace = Keyspace(store.ring, NAMESPACE)
    kind, value = intent.to_cache_invalidation()
    token = keyspace.key_token if kind == "key" else keyspace.tag_token
    store.delete_many([token(str(value))])
