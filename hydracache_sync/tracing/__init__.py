"""Traces by OpenTelemetry, and cache reads for Sentry; see docs/tracing.md."""

from hydracache_sync.tracing.instrument import instrument

__all__ = ["instrument"]
