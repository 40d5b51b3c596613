"""The page of an app that has its metrics for Prometheus."""

from __future__ import annotations

from flask import Flask, Response

from hydracache_sync.app import app_settings, build, settings
from hydracache_sync.app.runtime import Runtime


def serve_metrics(app: Flask, runtime: Runtime, path: str) -> None:
    """Add the page to ``app``, at ``path``.

    :raises ConfigurationError: prometheus_client is not installed.
    """
    has_cache = runtime.config[settings.MEMCACHED] is not None
    metrics = build.metrics(
        app_settings.METRICS.variable,
        runtime.outbox,
        [runtime.namespace],
        workers=[runtime.worker] if has_cache else [],
        caches=[runtime.cache] if has_cache else [],
        pool=lambda: runtime.placement.pool,
    )
    app.before_request(metrics.ensure)
    app.add_url_rule(
        path,
        "hydracache_metrics",
        lambda: Response(metrics.scrape(), content_type=metrics.content_type),
    )
