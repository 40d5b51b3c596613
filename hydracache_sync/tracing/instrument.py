"""The one call that has outboxes, workers and caches traced.

Imports what spans are made with when it is called, and no earlier.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Sequence, Union

from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.tracing.caches import CacheBackend, CacheSpans
from hydracache_sync.worker.worker import OutboxWorker

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

#: What is traced.
Part = Union[InvalidationOutbox, OutboxWorker, TaggedCache]

#: What makes the spans. Sentry's are of caches alone.
BACKENDS = ("otel", "sentry")


def instrument(
    *parts: Part,
    backend: str = "otel",
    keys: bool = False,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Trace ``parts`` from now on, and the outboxes of workers among them.

    Once for each part, when the process starts. What fails in a span, its processors
    or its exporter, is logged and breaks nothing.

    :param backend: ``otel``, which needs the extra of that name; or ``sentry``, for
        Sentry's page of caches alone: outboxes and workers are left as they are.
    :param keys: give each span of a cache the key. Sentry's always have it.
    :param tracer_provider: of OpenTelemetry; by default the global one.
    :raises ValueError: there is no such backend.
    :raises TypeError: a part is none of these.
    :raises ModuleNotFoundError: the extra is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"backend {backend!r} is not allowed: one of {', '.join(BACKENDS)}"
        )
    for part in parts:
        if not isinstance(part, (InvalidationOutbox, OutboxWorker, TaggedCache)):
            raise TypeError(
                "a part must be an outbox, a worker or a cache, not"
                f" {type(part).__name__}"
            )
    if backend == "sentry":
        from hydracache_sync.tracing.sentry import SentryCacheSpans

        backend_of_caches: CacheBackend = SentryCacheSpans()
    else:
        backend_of_caches = _trace_by_opentelemetry(parts, tracer_provider, keys)
    for cache in parts:
        if isinstance(cache, TaggedCache):
            cache.trace(partial(CacheSpans, backend_of_caches, cache.namespace))


def _trace_by_opentelemetry(
    parts: Sequence[Part], provider: TracerProvider | None, keys: bool
) -> CacheBackend:
    """Trace outboxes and workers; return what caches are traced with."""
    from hydracache_sync.tracing.otel import OpenTelemetryTracer

    tracer = OpenTelemetryTracer(provider, keys=keys)
    workers = [part for part in parts if isinstance(part, OutboxWorker)]
    for outbox in (
        *(part for part in parts if isinstance(part, InvalidationOutbox)),
        *(worker.outbox for worker in workers),
    ):
        outbox.trace(tracer)
    for worker in workers:
        worker.trace(tracer)
    return tracer
