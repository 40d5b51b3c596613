"""The one place that makes parts out of settings: for commands and for apps.

Makes everything, connects to nothing. What two settings say against each other is in
``contradictions``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable, Sequence

from hydracache_sync.app import app_settings, settings
from hydracache_sync.app.memcached_tls import OF_TLS, tls_context
from hydracache_sync.app.setting import Setting, SettingValues
from hydracache_sync.cache.codecs.codec import Codec
from hydracache_sync.cache.codecs.signed import InnerCodec, PickleCodec, SignedCodec
from hydracache_sync.cache.entity_kinds import EntityKinds
from hydracache_sync.cache.read_memo import ReadMemo
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.memcached.store import MemcachedStore
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.outbox.url import open_outbox
from hydracache_sync.pool import WorkerPool
from hydracache_sync.worker.appliers import MemcachedApplier
from hydracache_sync.worker.worker import OutboxWorker

if TYPE_CHECKING:
    from hydracache_sync.metrics import Metrics, StatsD
    from hydracache_sync.tracing.instrument import Part

#: What :func:`outbox` reads.
OF_OUTBOX = (settings.OUTBOX, settings.TABLE, settings.BUSY_TIMEOUT)

#: What :func:`store` reads.
OF_STORE = (
    settings.MEMCACHED,
    *OF_TLS,
    settings.MEMCACHED_USER,
    settings.MEMCACHED_PASSWORD,
    settings.RING,
    settings.WEIGHTS,
    settings.CONNECT_TIMEOUT,
    settings.TIMEOUT,
    settings.CALL_TIMEOUT,
    settings.RETRY_AFTER,
    settings.CONNECTIONS,
    settings.MAX_VALUE,
)

#: What :func:`previous_stores` reads beside them.
OF_PREVIOUS = (
    settings.PREVIOUS_MEMCACHED,
    settings.PREVIOUS_RING,
    settings.PREVIOUS_WEIGHTS,
)

#: What :func:`codec` reads, and what the values of a cache heed beside it.
OF_CODEC = (
    app_settings.CODEC,
    app_settings.CODEC_KEY,
    app_settings.COMPRESS_OVER,
    app_settings.COMPRESSION,
    app_settings.UNSTORABLE,
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
    app_settings.SOFT_TTL,
    app_settings.MAX_WAIT,
    app_settings.CLOCK_SKEW,
    app_settings.AUDIT,
    *OF_CODEC,
    app_settings.REQUEST_MEMO,
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
    settings.MAX_STALENESS,
)

#: What :func:`pool` reads.
OF_POOL = (
    settings.POLL_INTERVAL,
    settings.KEEP_PUBLISHED,
    settings.PURGE_EVERY,
    settings.HEARTBEAT,
)


#: What :func:`statsd` reads.
OF_STATSD = (settings.STATSD, settings.STATSD_PREFIX)


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
    user = values[settings.MEMCACHED_USER]
    return MemcachedStore(
        servers,
        ring=values[ring],
        weights=values[weights],
        connect_timeout=values[settings.CONNECT_TIMEOUT],
        timeout=values[settings.TIMEOUT],
        call_timeout=values[settings.CALL_TIMEOUT],
        retry_after=values[settings.RETRY_AFTER],
        pool_size=values[settings.CONNECTIONS],
        max_value=values[settings.MAX_VALUE],
        tls_context=tls_context(values),
        tls_name=values[settings.MEMCACHED_TLS_NAME],
        auth=None if user is None else (user, values[settings.MEMCACHED_PASSWORD]),
    )


def cache(
    values: SettingValues,
    on: CacheStore,
    previous: Sequence[CacheStore],
    namespace: str,
    *,
    strict: bool,
    snapshot: Callable[[], float | None] | None,
    oldest_pending: Callable[[], float],
    kinds: EntityKinds | None,
    memo: Callable[[], ReadMemo | None] | None,
    request: Callable[[], str | None] | None,
) -> TaggedCache:
    """Return an app's cache.

    :param on: its store.
    :param previous: the stores of :func:`previous_stores`.
    :param snapshot: returns when the transaction began that loaders read in.
    :param oldest_pending: returns for how long rows have been pending, see the cache.
    :param kinds: of entities that are changed in bulk.
    :param memo: returns that of the request that is served, if it has one.
    :param request: returns the name of the request that is served, for an audit.
    """
    return TaggedCache(
        on,
        namespace,
        snapshot=snapshot,
        read_lag=values[app_settings.READ_LAG],
        clock_skew=values[app_settings.CLOCK_SKEW],
        ttl=values[app_settings.TTL],
        soft_ttl=values[app_settings.SOFT_TTL],
        max_wait=values[app_settings.MAX_WAIT],
        strict=strict,
        hold_off=values[settings.HOLD_OFF],
        also=previous,
        audit=values[app_settings.AUDIT],
        codec=codec(values),
        unstorable=values[app_settings.UNSTORABLE],
        oldest_pending=oldest_pending,
        request=request,
        kinds=kinds,
        max_staleness=values[settings.MAX_STALENESS],
        memo=memo if values[app_settings.REQUEST_MEMO] else None,
    )


def codec(values: SettingValues) -> InnerCodec:
    """Return the codec of an app's cache."""
    kind, key = values[app_settings.CODEC], values[app_settings.CODEC_KEY]
    over, by = values[app_settings.COMPRESS_OVER], values[app_settings.COMPRESSION]
    if kind == "pickle":
        return PickleCodec(key=key, compress_over=over, compression=by)
    plain = Codec(json_only=kind == "json", compress_over=over, compression=by)
    return SignedCodec(key=key, codec=plain) if kind == "signed" else plain


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
        watermark=values[settings.MAX_STALENESS] is not None,
    )


def pool(
    values: SettingValues,
    workers: Sequence[OutboxWorker],
    *,
    threads: int,
    **told: Any,
) -> WorkerPool:
    """Return the threads that run ``workers``; none is started.

    :param told: what the pool says of its process.
    """
    keep_published = values[settings.KEEP_PUBLISHED]
    return WorkerPool(
        *workers,
        threads=threads,
        poll_interval=values[settings.POLL_INTERVAL],
        keep_published=None if keep_published == math.inf else keep_published,
        purge_every=values[settings.PURGE_EVERY],
        heartbeat=values[settings.HEARTBEAT],
        **told,
    )


def trace(values: SettingValues, *parts: Part) -> None:
    """Have ``parts`` traced, if that is set; else import nothing.

    :raises ConfigurationError: what makes the spans is not installed.
    """
    how = values[settings.TRACING]
    if how is None:
        return
    from hydracache_sync.tracing import instrument

    backend = "sentry" if how == "sentry" else "otel"
    try:
        instrument(*parts, backend=backend, keys=how == "keys")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"{settings.TRACING.variable} needs {exc.name}: install"
            f" hydracache_sync with its extra '{backend}'"
        ) from exc


def statsd(values: SettingValues, *args: Any, **options: Any) -> StatsD | None:
    """Return what sends the metrics of the other arguments, if that is set.

    :param values: of :data:`OF_STATSD`.
    :return: None, and nothing is imported, where it is not.
    """
    server = values[settings.STATSD]
    if server is None:
        return None
    from hydracache_sync.metrics import StatsD

    return StatsD(*server, *args, prefix=values[settings.STATSD_PREFIX], **options)


def metrics(needed_by: str, *args: Any, **options: Any) -> Metrics:
    """Return the ``Metrics`` of the other arguments.

    :param needed_by: the setting that asks for them, as its user knows it.
    :raises ConfigurationError: prometheus_client is not installed.
    """
    try:
        from hydracache_sync.metrics import Metrics
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"{needed_by} needs prometheus_client: install hydracache_sync"
            " with its extra 'metrics'"
        ) from exc
    return Metrics(*args, **options)
