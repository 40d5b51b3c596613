"""Spans of a cache for Sentry, by the rules of its page of caches.

Only within a transaction of Sentry's, which its integrations open. Needs the extra
``sentry``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, ContextManager, Sequence

import sentry_sdk

from hydracache_sync.tracing.caches import PUT
from hydracache_sync.tracing.guard import Guard, host_and_port

#: Names the spans as ours, in Sentry's form.
ORIGIN = "auto.cache.hydracache_sync"


class SentryCacheSpans:
    """Opens a span for each operation of a cache, and none for a load. Thread-safe."""

    def __init__(self) -> None:
        self._guard = Guard()

    def cache(self, operation: str, namespace: str, keys: Sequence[str]) -> _Span:
        return _Span(self._guard, operation, keys)

    def load(self, namespace: str, key: str) -> ContextManager[object]:
        return _Span(self._guard, None, [key])


class _Span:
    """A span where Sentry has a transaction, else nothing.

    :param operation: None for nothing.
    """

    def __init__(
        self, guard: Guard, operation: str | None, keys: Sequence[str]
    ) -> None:
        self._guard = guard
        self._operation = operation
        self._keys = keys
        self._span: Any = None

    def __enter__(self) -> _Span:
        if self._operation is not None:
            self._span = self._guard.run(self._begin)
        return self

    def _begin(self) -> Any:
        if sentry_sdk.get_current_span() is None:
            return None
        span = sentry_sdk.start_span(
            op=f"cache.{self._operation}", name=", ".join(self._keys), origin=ORIGIN
        )
        span.__enter__()
        span.set_data("cache.key", list(self._keys))
        return span

    def note(
        self,
        *,
        failed: bool,
        nodes: Sequence[str],
        hits: int | None = None,
        size: int | None = None,
    ) -> None:
        if self._span is not None:
            self._guard.run(lambda: self._set(failed, nodes, hits, size))

    def _set(
        self, failed: bool, nodes: Sequence[str], hits: int | None, size: int | None
    ) -> None:
        span = self._span
        if hits is not None:
            span.set_data("cache.hit", hits > 0)
        if size is not None:
            span.set_data("cache.item_size", size)
        if self._operation == PUT:
            span.set_data("cache.success", not failed)
        if len(nodes) == 1:
            host, port = host_and_port(nodes[0])
            span.set_data("network.peer.address", host)
            if port is not None:
                span.set_data("network.peer.port", port)
        if failed:
            span.set_status("unavailable")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._span is not None:
            self._guard.run(lambda: self._span.__exit__(kind, exc, traceback))
