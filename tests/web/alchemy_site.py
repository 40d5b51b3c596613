"""An app with Flask-SQLAlchemy on SQLite, built again for each test."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from hydracache_sync import MemoryStore, SQLiteOutbox, entity_tag
from hydracache_sync.integrations.flask import HydraCache

ITEM = entity_tag("item", "1")


class Site:
    """An app with one item, built as its users build theirs.

    :param connection: of ``HydraCache.init_app``.
    """

    def __init__(
        self,
        path: Path,
        *,
        connection: Callable[[], Any] | None = None,
        **config: Any,
    ) -> None:
        self.path = path
        self.outbox = SQLiteOutbox(path)
        self.outbox.install_schema()
        with closing(sqlite3.connect(path)) as opened:
            opened.execute("pragma journal_mode = wal")
        self.db = db = SQLAlchemy()
        self.hydracache = HydraCache()
        self.sessions = self.hydracache.attach(db.session)
        self.store = MemoryStore()
        self.app = Flask("site")
        self.app.config.update(
            SECRET_KEY="not secret",
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}",
            SQLALCHEMY_TRACK_MODIFICATIONS=False,
            HYDRACACHE_OUTBOX=f"sqlite:///{path}",
            HYDRACACHE_NAMESPACE="site",
            HYDRACACHE_MEMCACHED=self.store,
            HYDRACACHE_POOL="none",
            HYDRACACHE_SNAPSHOT="session",
            HYDRACACHE_CLOCK_SKEW=0.0,
        )
        self.app.config.update(config)
        db.init_app(self.app)
        self.hydracache.init_app(self.app, connection=connection)

        class Item(db.Model):  # type: ignore[name-defined]
            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.String(40))

        self.Item = Item
        with self.app.app_context():
            db.create_all()
            db.session.add(Item(id=1, name="before"))
            db.session.commit()
        self.client = self.app.test_client()

    def close(self) -> None:
        with self.app.app_context():
            self.db.session.remove()
            self.db.engine.dispose()

    @property
    def state(self) -> Any:
        return self.app.extensions["hydracache"]

    @property
    def item(self) -> Any:
        return self.db.session.get(self.Item, 1)

    def run(self, view: Callable[[], Any]) -> Any:
        self.app.add_url_rule("/", "rename_item", view, methods=["POST"])
        return self.client.post("/")

    def name(self) -> str:
        with closing(sqlite3.connect(self.path)) as connection:
            [(name,)] = connection.execute("select name from item where id = 1")
        return str(name)

    def written(self) -> tuple[str, list[Any]]:
        rows = self.outbox.rows("site")
        return self.name(), [row.intent and row.intent.value for row in rows]
