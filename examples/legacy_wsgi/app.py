"""A counter of votes from before the frameworks: plain WSGI, SQLite. See README.md."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any, Iterable
from wsgiref.simple_server import make_server

from hydracache_sync import InvalidationIntent
from hydracache_sync.integrations.wsgi import HydraCache

PATH = os.path.abspath(os.environ.get("VOTES_DB", "votes.db"))

hydracache = HydraCache(
    {
        "HYDRACACHE_OUTBOX": f"sqlite:///{PATH}",
        "HYDRACACHE_NAMESPACE": "votes",
        "HYDRACACHE_MEMCACHED": os.environ.get("VOTES_MEMCACHED", "127.0.0.1:11211"),
        # The request publishes what it has written, right after its commit.
        "HYDRACACHE_MODE": "inline",
        # load() opens its own connection: it reads fresh data.
        "HYDRACACHE_SNAPSHOT": "fresh",
    }
)


def connect() -> sqlite3.Connection:
    return sqlite3.connect(PATH)


def votes(name: str) -> str:
    source = "the cache"

    def load() -> int:
        nonlocal source
        source = "the database"
        with closing(connect()) as db:
            query = "select count(*) from vote where name = ?"
            return int(db.execute(query, (name,)).fetchone()[0])

    count = hydracache.get_or_load(f"votes:{name}", load)
    return f"{name} has {count}, from {source}\n"


def vote(name: str) -> str:
    with closing(connect()) as db:
        db.execute("insert into vote values (?)", (name,))
        hydracache.invalidate_key(f"votes:{name}")
        hydracache.write(db)  # one INSERT, in the transaction of the vote
        db.commit()
    return "counted\n"


def application(environ: Any, start_response: Any) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/") or "nobody"
    text = vote(name) if environ["REQUEST_METHOD"] == "POST" else votes(name)
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


app = hydracache.middleware(application)


def init() -> None:
    """What a script does, outside of requests."""
    hydracache.outbox.install_schema()
    with closing(connect()) as db:
        db.execute("create table if not exists vote (name text)")


def recount(name: str) -> None:
    with hydracache.collecting("recount"), closing(connect()) as db:
        with hydracache.transaction(db):
            db.execute("delete from vote where name = ?", (name,))
            hydracache.invalidate(InvalidationIntent.key(f"votes:{name}"))


if __name__ == "__main__":
    import sys

    if sys.argv[1:] == ["init"]:
        init()
    elif sys.argv[1:2] == ["recount"]:
        recount(sys.argv[2])
    else:
        port = int(os.environ.get("VOTES_PORT", "8000"))
        make_server("127.0.0.1", port, app).serve_forever()
