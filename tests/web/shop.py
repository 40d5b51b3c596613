"""A small Flask app on SQLite, built again for each test, as its users build theirs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

from flask import Flask, g

from hydracache_sync import MemoryStore, SQLiteOutbox
from hydracache_sync.cache.store import CacheStore
from hydracache_sync.integrations.flask import HydraCache
from hydracache_sync.outbox.row import OutboxRow

NAMESPACE = "shop"

hydracache = HydraCache()


class Shop:
    """The app, its file, and looks at both from beside.

    Views are added by the tests. ``db()`` is the connection of the request, opened at
    its first use; ``close_db`` is the app's own teardown.

    :param first: called with the app before ``init_app``.
    :param options: arguments of ``init_app``.
    :param config: further config keys, or other values.
    """

    def __init__(
        self,
        path: Path,
        *,
        first: Callable[[Flask], Any] | None = None,
        options: dict[str, Any] | None = None,
        namespace: str = NAMESPACE,
        **config: Any,
    ) -> None:
        self.path = path
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table item (id integer primary key, name text)")
            connection.execute("insert into item values (1, 'before')")
            connection.commit()
        self.store = MemoryStore()
        self.app = Flask("shop")
        self.app.config.update(
            SECRET_KEY="not secret",
            HYDRACACHE_OUTBOX=f"sqlite:///{path}",
            HYDRACACHE_NAMESPACE=namespace,
            HYDRACACHE_MEMCACHED=self.store,
            HYDRACACHE_POOL="none",
        )
        self.app.config.update(config)
        servers = self.app.config["HYDRACACHE_MEMCACHED"]
        if servers is not None and not isinstance(servers, CacheStore):
            # A busy machine is no outage.
            self.app.config.setdefault("HYDRACACHE_CONNECT_TIMEOUT", 30)
            self.app.config.setdefault("HYDRACACHE_TIMEOUT", 30)
        if first is not None:
            first(self.app)
        hydracache.init_app(self.app, **(options or {}))
        self._close_what_is_left()
        self.client = self.app.test_client()

    def _close_what_is_left(self) -> None:
        """Have a connection that the app forgets closed after all else."""
        teardown = self.app.do_teardown_appcontext

        def run(*args: Any, **kwargs: Any) -> None:
            try:
                teardown(*args, **kwargs)
            finally:
                close_db()

        self.app.do_teardown_appcontext = run  # type: ignore[method-assign]

    @property
    def state(self) -> Any:
        return self.app.extensions["hydracache"]

    def db(self) -> sqlite3.Connection:
        if "db" not in g:
            g.db = sqlite3.connect(self.path, timeout=0)
        connection: sqlite3.Connection = g.db
        return connection

    def rename(self, name: str) -> None:
        self.db().execute("update item set name = ? where id = 1", (name,))

    def name(self) -> str:
        with closing(sqlite3.connect(self.path)) as connection:
            [(name,)] = connection.execute("select name from item where id = 1")
        return str(name)

    def rows(self, namespace: str = NAMESPACE) -> list[OutboxRow]:
        return self.outbox.rows(namespace)

    def targets(self, namespace: str = NAMESPACE) -> list[str | None]:
        """Values of the rows that are durable, in order."""
        return [row.intent and row.intent.value for row in self.rows(namespace)]


def text(response: Any) -> str:
    """The body; ``response.text`` came with Werkzeug 2.1."""
    body: str = response.get_data(as_text=True)
    return body


def close_db(exc: BaseException | None = None) -> None:
    """The usual teardown of an app: closes, and so rolls back what is open."""
    connection = g.pop("db", None)
    if connection is not None:
        connection.close()


def end_db(exc: BaseException | None = None) -> None:
    """The teardown of an app that commits there, unless the view failed."""
    connection = g.pop("db", None)
    if connection is not None:
        if exc is None:
            connection.commit()
        connection.close()
