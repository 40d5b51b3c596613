"""What ``app.extensions`` holds of an app that has the extension."""

from __future__ import annotations

from flask import Flask

from hydracache_sync.app.extension import Extension
from hydracache_sync.app.receipt_cookie import ReceiptCookie
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.app.teardown import ConnectionOf
from hydracache_sync.cache.tagged import TaggedCache
from hydracache_sync.errors import ConfigurationError
from hydracache_sync.outbox.base import InvalidationOutbox
from hydracache_sync.pool import WorkerPool

NAME = "hydracache"


class FlaskState:
    """What ``app.extensions["hydracache"]`` holds: the parts of one app.

    :ivar calls: the extension that the app was given.
    """

    def __init__(
        self,
        calls: Extension,
        runtime: Runtime,
        connection_of: ConnectionOf | None,
        cookie: ReceiptCookie,
    ) -> None:
        self.calls = calls
        self.runtime = runtime
        self.connection_of = connection_of
        self.cookie = cookie

    @property
    def cache(self) -> TaggedCache:
        return self.runtime.cache

    @property
    def outbox(self) -> InvalidationOutbox:
        return self.runtime.outbox

    @property
    def pool(self) -> WorkerPool | None:
        return self.runtime.placement.pool


def state_of(app: Flask) -> FlaskState:
    try:
        state: FlaskState = app.extensions[NAME]
    except KeyError:
        raise ConfigurationError(
            f"{app.name} has no HydraCache: call init_app(app) when you make it"
        ) from None
    return state
