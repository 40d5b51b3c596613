"""A shop with an operator's console, for tests and pictures of its pages."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Iterator, Mapping
from urllib.parse import urlencode

from flask import Flask

from hydracache_sync import (
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.console import console_blueprint
from support.probing import PATIENCE
from support.serving import served

NAMESPACE = "shop"

#: Name of the operator.
OPERATOR = "ann"


class ConsoleSite:
    """The shop's outbox, its worker, its cache, and the console over them.

    :ivar url: of the console, once it is served.
    """

    def __init__(self, folder: Path, memcached: str, ring: str) -> None:
        self.path = folder / "shop.db"
        self.outbox = SQLiteOutbox(self.path)
        self.outbox.install_schema()
        # A busy machine is no outage.
        patience = {"connect_timeout": PATIENCE, "timeout": PATIENCE}
        self.store = MemcachedStore([memcached], ring=ring, **patience)
        self.cache = TaggedCache(self.store, NAMESPACE)
        # Without the flush that follows a dead letter: else it would be that which is
        # seen, and not what the operator did.
        self.worker = OutboxWorker(
            self.outbox, MemcachedApplier(self.store, NAMESPACE), escalate=False
        )
        self.url = ""

    def app(self) -> Flask:
        app = Flask("shop")
        app.secret_key = "of these tests"
        console = console_blueprint(
            {"orders": self.outbox},
            authenticate=lambda: OPERATOR,
            writable=True,
            namespaces=[NAMESPACE],
            workers=[self.worker],
            caches=[self.cache],
        )
        app.register_blueprint(console, url_prefix="/console")
        return app

    def page(self, path: str = "", query: Mapping[str, object] | None = None) -> str:
        """The URL of a page of the shop's namespace; of the overview without a path."""
        if not path:
            return f"{self.url}/console/"
        scope = {"outbox": "orders", "namespace": NAMESPACE}
        return f"{self.url}/console/{path}?{urlencode({**scope, **(query or {})})}"

    def enqueue(self, *intents: InvalidationIntent, reason: str = "") -> list[int]:
        """Commit these intents; return the ids of their rows."""
        batch = InvalidationIntentBatch(reason)
        for intent in intents:
            batch.intent(intent)
        receipt = self.outbox.enqueue(NAMESPACE, batch)
        rows = self.outbox.rows(NAMESPACE, commit_position=receipt.commit_position)
        return [row.id for row in rows]

    def set_column(self, column: str, value: object, id: int) -> None:
        """Change a row behind the library's back, as a script of somebody's could."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            statement = f"update hydracache_outbox set {column} = ? where id = ?"
            assert connection.execute(statement, (value, id)).rowcount == 1

    def dead_letter(
        self, intent: InvalidationIntent, *, reason: str = "", kind: str = "Tag"
    ) -> int:
        """A row that is dead since a script wrote a kind that there is not."""
        [id] = self.enqueue(intent, reason=reason)
        self.set_column("kind", kind, id)
        report = self.worker.drain()
        assert report.dead_lettered == 1, report
        return id


@contextlib.contextmanager
def console_site(folder: Path, memcached: str, ring: str) -> Iterator[ConsoleSite]:
    site = ConsoleSite(folder, memcached, ring)
    with served(site.app()) as url:
        site.url = url
        yield site
    site.store.close()
    site.outbox.close()
