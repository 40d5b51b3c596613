"""A guest book: Flask on SQLite, read through memcached. See README.md."""

from __future__ import annotations

import os
import sqlite3

from flask import Flask, g, request

from hydracache_sync.integrations.flask import HydraCache

hydracache = HydraCache()


def db() -> sqlite3.Connection:
    """The connection of this request, opened at its first use."""
    if "db" not in g:
        g.db = sqlite3.connect(os.environ.get("BOOK_DB", "book.db"))
    connection: sqlite3.Connection = g.db
    return connection


def end_db(exc: BaseException | None) -> None:
    """Commit what the view has done, unless it failed; the one commit of this app."""
    connection = g.pop("db", None)
    if connection is not None:
        if exc is None:
            connection.commit()
        connection.close()


def create_app() -> Flask:
    app = Flask(__name__)
    path = os.path.abspath(os.environ.get("BOOK_DB", "book.db"))
    app.config.update(
        # Not to be guessed: it signs cookies. No default, which all would have.
        SECRET_KEY=os.environ["BOOK_SECRET"],
        HYDRACACHE_OUTBOX=f"sqlite:///{path}",
        HYDRACACHE_NAMESPACE="book",
        HYDRACACHE_MEMCACHED=os.environ.get("BOOK_MEMCACHED", "127.0.0.1:11211"),
    )
    # Before init_app: functions registered first run last. What a view has collected is
    # in the transaction by the time end_db commits it.
    app.teardown_appcontext(end_db)
    hydracache.init_app(app, connection=lambda: g.get("db"))

    @app.cli.command("init-db")
    def init_db() -> None:
        """Make the tables."""
        hydracache.outbox.install_schema()
        db().execute("create table if not exists entry (author text, line text)")

    @app.get("/")
    def show() -> str:
        return f"{entries()}, from {g.pop('source', 'the cache')}\n"

    @app.post("/")
    def add() -> str:
        entry = request.form["author"], request.form["line"]
        db().execute("insert into entry values (?, ?)", entry)
        hydracache.invalidate_collection("entries")
        if not entry[1]:
            raise ValueError("an empty line")  # the entry is not committed
        return "thank you\n"

    return app


@hydracache.cached(tags=["entries"])
def entries() -> str:
    g.source = "the database"
    rows = db().execute("select author, line from entry order by rowid").fetchall()
    return "; ".join(f"{author}: {line}" for author, line in rows) or "nothing yet"
