"""Metrics for Prometheus and for StatsD; docs/operations/metrics.md.

``Metrics`` needs the extra ``metrics``. It is imported when it is asked for first, so
that ``StatsD`` needs no library of Prometheus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydracache_sync.metrics.statsd import StatsD

if TYPE_CHECKING:
    from hydracache_sync.metrics.exporter import Metrics

__all__ = ["Metrics", "StatsD"]


def __getattr__(name: str) -> Any:
    if name == "Metrics":
        from hydracache_sync.metrics.exporter import Metrics

        return Metrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
