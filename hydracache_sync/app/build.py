"""The one place that makes parts out of settings: for commands and for apps.

Makes everything, connects to nothing. What two settings say against each other is found
here too, and named as the caller's user knows them: by option or by variable.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Container, Iterator, Sequence

from hydracache_sync.app import app_settings, settings
from hydracache_sync.app.memcached_tls import OF_TLS, tls_context, tls_contradictions
from hydracache_sync.app.setting import Setting, SettingValues
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.memcached.store import MemcachedStore
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.url import open_outbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.worker.appliers import MemcachedApplier
from hydracache_sync.worker.worker import OutboxWorker

#: What :func:`outbox` reads.
OF_OUTBOX = (settings.OUTBOX, settings.TABLE, settings.BUSY_TIMEOUT)

#: What :func:`store` reads.
OF_STORE = (
    settings.MEMCACHED,
    *OF_TLS,
    settings.RING,
    settings.WEIGHTS,
    settings.CONNECT_TIMEOUT,
    settings.TIMEOUT,
)

#: What :func:`previous_stores` reads beside them.
OF_PREVIOUS = (
    settings.PREVIOUS_MEMCACHED,
    settings.PREVIOUS_RING,
    settings.PREVIOUS_WEIGHTS,
)

#: What only an app with a cache reads, beside what workers and pools do.
OF_CACHE = (
    app_settings.DEGRADE,
    app_settings.POOL_THREADS,
    app_settings.POOL_LOCK,
    app_settings.WAIT,
    app_settings.SNAPSHOT,
    app_settings.READ_LAG,
    app_settings.TTL,
    app_settings.CLOCK_SKEW,
)

#: What :func:`worker` reads.
OF_WORKER = (
    settings.HOLD_OFF,
    settings.BATCH_SIZE,
    settings.CLAIM_TTL,
    settings.BACKOFF,
    settings.MAX_BACKOFF,
    settings.MAX_ATTEMPTS,
    settings.ESCALATE,
)

#: What :func:`pool` reads.
OF_POOL = (
    settings.POLL_INTERVAL,
    settings.KEEP_PUBLISHED,
    settings.PURGE_EVERY,
    settings.HEARTBEAT,
)


def contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say what is set against something else that is set.

    :param values: those of OF_STORE, OF_PREVIOUS and OF_WORKER.
    :param name: returns what a setting is called where it was set.
    """
    yield from store_contradictions(values, name)
    first, longest = values[settings.BACKOFF], values[settings.MAX_BACKOFF]
    if first > longest:
        yield (
            f"{name(settings.MAX_BACKOFF)} {longest:g} is below"
            f" {name(settings.BACKOFF)} {first:g}"
        )


def store_contradictions(
    values: SettingValues, name: Callable[[Setting], str]
) -> Iterator[str]:
    """As :func:`contradictions`, of what stores are made of."""
    given = [each for each in OF_PREVIOUS if values[each] is not None]
    together = (settings.PREVIOUS_MEMCACHED, settings.PREVIOUS_RING)
    if given and not set(together) <= set(given):
        yield f"{' and '.join(map(name, together))} belong together"
    elif given and values[settings.PREVIOUS_RING] == values[settings.RING]:
        yield (
            f"{name(settings.PREVIOUS_RING)} is {name(settings.RING)}:"
            f" {values[settings.RING]!r} names both server lists, and the ring id must"
            " be new at every change"
        )
    yield from tls_contradictions(values, name)


def beside_objects(
    values: SettingValues, given: Container[Setting], name: Callable[[Setting], str]
) -> Iterator[str]:
    """Say what is set of an object, which has been made otherwise.

    :param given: what has been set, also to its default.
    """
    for made, kind, read in (
        (settings.OUTBOX, InvalidationOutbox, OF_OUTBOX),
        (settings.MEMCACHED, CacheStore, OF_STORE),
    ):
        thing = values[made]
        for each in read if isinstance(thing, kind) else ():
            if each is made or each not in given:
                continue
            if each is settings.RING and values[each] == getattr(thing, "ring", None):
                continue
            yield (
                f"{name(each)} has no effect where {name(made)} is an object: make that"
                " with it"
            )


def without_servers(
    values: SettingValues,
    given: Container[Setting],
    name: Callable[[Setting], str],
    *,
    read: Sequence[Setting] = (),
) -> Iterator[str]:
    """Say what is set of parts that are not made, because there is no memcached.

    :param given: as for :func:`beside_objects`.
    :param read: what such parts read beside OF_STORE and OF_PREVIOUS.
    """
    if values[settings.MEMCACHED] is None:
        for each in (*OF_STORE, *OF_PREVIOUS, *read):
            if each in given:
                yield f"{name(each)} has no effect without {name(settings.MEMCACHED)}"


def outbox(values: SettingValues, **changed: Any) -> InvalidationOutbox:
    """Return the outbox, opened but not connected.

    :param changed: keyword arguments of the outbox in place of what is set.
    """
    given = values[settings.OUTBOX]
    if isinstance(given, InvalidationOutbox):
        return given
    options = {
        "table": values[settings.TABLE],
        "busy_timeout": values[settings.BUSY_TIMEOUT],
    }
    return open_outbox(given, **{**options, **changed})


def store(values: SettingValues) -> CacheStore | None:
    """Return the store of the server list, or the object that was given as it."""
    given = values[settings.MEMCACHED]
    if given is None or isinstance(given, CacheStore):
        return given
    return _store_on(values, given, settings.RING, settings.WEIGHTS)


def previous_stores(values: SettingValues) -> list[CacheStore]:
    """Return the store of the list before the last change, while it is still read."""
    given = values[settings.PREVIOUS_MEMCACHED]
    if given is None:
        return []
    return [_store_on(values, given, settings.PREVIOUS_RING, settings.PREVIOUS_WEIGHTS)]


def _store_on(
    values: SettingValues, servers: Sequence[str], ring: Setting, weights: Setting
) -> MemcachedStore:
    return MemcachedStore(
        servers,
        ring=values[ring],
        weights=values[weights],
        connect_timeout=values[settings.CONNECT_TIMEOUT],
        timeout=values[settings.TIMEOUT],
        tls_context=tls_context(values),
    )


def cache(
    values: SettingValues,
    on: CacheStore,
    previous: Sequence[CacheStore],
    namespace: str,
    *,
    strict: bool,
    snapshot: Callable[[], float | None] | None,
) -> TaggedCache:
    """Return an app's cache.

    :param on: its store.
    :param previous: the stores of :func:`previous_stores`.
    :param snapshot: returns when the transaction began that loaders read in.
    """
    return TaggedCache(
        on,
        namespace,
        snapshot=snapshot,
        read_lag=values[app_settings.READ_LAG],
        clock_skew=values[app_settings.CLOCK_SKEW],
        ttl=values[app_settings.TTL],
        strict=strict,
        hold_off=values[settings.HOLD_OFF],
        also=previous,
    )


def worker(
    values: SettingValues,
    rows_of: InvalidationOutbox,
    on: CacheStore,
    previous: Sequence[CacheStore],
    namespace: str,
    *,
    strict: bool,
) -> OutboxWorker:
    """Return what carries the rows of ``namespace`` to ``on`` and ``previous``."""
    return OutboxWorker(
        rows_of,
        MemcachedApplier(
            on,
            namespace,
            also=previous,
            strict=strict,
            hold_off=values[settings.HOLD_OFF],
        ),
        batch_size=values[settings.BATCH_SIZE],
        claim_ttl=values[settings.CLAIM_TTL],
        backoff=values[settings.BACKOFF],
        max_backoff=values[settings.MAX_BACKOFF],
        max_attempts=values[settings.MAX_ATTEMPTS],
        escalate=values[settings.ESCALATE],
    )


def pool(
    values: SettingValues, workers: Sequence[OutboxWorker], *, threads: int
) -> WorkerPool:
    """Return the threads that run ``workers``; none is started."""
    keep_published = values[settings.KEEP_PUBLISHED]
    return WorkerPool(
        *workers,
        threads=threads,
        poll_interval=values[settings.POLL_INTERVAL],
        keep_published=None if keep_published == math.inf else keep_published,
        purge_every=values[settings.PURGE_EVERY],
        heartbeat=values[settings.HEARTBEAT],
    )
