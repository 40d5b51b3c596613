"""Shows the main job on SQLite and the in-process store, with no server.

Run it:  python examples/quickstart.py
     or: python tests/support/with_servers.py examples/quickstart.py

The second runs the same app on private servers of MariaDB and memcached. On servers of
yours: HYDRACACHE_OUTBOX=mysql://user:password@host/database, an empty one, and
HYDRACACHE_MEMCACHED=host:port.

You should see a slow reader whose old value is never served, a process killed right
after its commit whose invalidation arrives all the same, and the outbox's status.
It leaves nothing but the outbox's tables. Its exit code is 0 if each step went well.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from typing import Any, Sequence
from urllib.parse import unquote, urlsplit

import pymysql

from hydracache_sync import (
    InvalidationIntentBatch,
    InvalidationReceipt,
    InvalidationWait,
    MemcachedApplier,
    MemcachedStore,
    MemoryStore,
    OutboxWorker,
    TaggedCache,
    entity_tag,
    open_outbox,
)

USER = entity_tag("user", 42)


def connect(url: str) -> Any:
    """Open the app's own connection, to the database that has the outbox, too."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        connection = sqlite3.connect(unquote(parts.path[1:]))
        connection.execute("pragma journal_mode = wal")
        return connection
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=unquote(parts.path[1:]),
    )


def execute(connection: Any, statement: str, *values: object) -> Sequence[Any]:
    if not isinstance(connection, sqlite3.Connection):
        statement = statement.replace("?", "%s")
    cursor = connection.cursor()
    cursor.execute(statement, values)
    found: Sequence[Any] = cursor.fetchall()
    return found


def rename(url: str, name: str, *, killed: bool = False) -> InvalidationReceipt:
    """Change the user and enqueue what that invalidates, in one transaction."""
    with closing(connect(url)) as connection, closing(open_outbox(url)) as outbox:
        execute(connection, "update app_users set name = ? where id = 42", name)
        receipt = outbox.enqueue_in(
            connection,
            "shop",
            InvalidationIntentBatch("rename").invalidate_entity("user", 42),
        )
        connection.commit()
        if killed:
            # No handler runs, no finally: as when the machine loses power.
            os.kill(os.getpid(), signal.SIGKILL)
    return receipt


def load(url: str) -> str:
    with closing(connect(url)) as connection:
        [(name,)] = execute(connection, "select name from app_users where id = 42")
    return str(name)


def show(what: str, value: object) -> None:
    print(f"   {what:<46} {value}")


def expect(what: str, value: object, wanted: object) -> None:
    show(what, value)
    if value != wanted:
        sys.exit(f"expected {wanted!r}: this is a bug")


def main(url: str, servers: list[str]) -> None:
    with closing(connect(url)) as connection:
        execute(connection, "drop table if exists app_users")
        execute(
            connection,
            "create table app_users (id integer primary key, name varchar(50))",
        )
        execute(connection, "insert into app_users values (42, 'Ada')")
        connection.commit()
    outbox = open_outbox(url)
    outbox.install_schema()

    # The one line that differs from an app with memcached.
    store = MemcachedStore(servers) if servers else MemoryStore()
    cache = TaggedCache(store, "shop")
    worker = OutboxWorker(outbox, MemcachedApplier(store, "shop"))
    worker.drain()
    cache.delete("profile:42")  # of an earlier run

    def read() -> str:
        return cache.get_or_load("profile:42", lambda: load(url), tags=[USER])

    print("1. A write invalidates what is cached")
    expect("first read, from the database", read(), "Ada")
    receipt = rename(url, "Ada Lovelace")
    show("committed, not applied yet: the cache has", read())
    worker.run_once()
    outcome = InvalidationWait.local(timeout=1.0).wait(outbox, receipt)
    expect("a wait for the receipt is satisfied", outcome.satisfied, True)
    expect("read after it", read(), "Ada Lovelace")

    print("2. A slow reader cannot bring the old value back")
    cache.delete("profile:42")
    reservation = cache.reserve("profile:42", tags=[USER])
    old = load(url)
    show("a reader has loaded, and now sleeps", old)
    rename(url, "Countess Lovelace")
    worker.run_once()
    show("meanwhile: renamed, committed, applied", "Countess Lovelace")
    reservation.fill(old)
    show("the reader wakes up and stores", old)
    expect("the next read", read(), "Countess Lovelace")

    print("3. A process killed between its commit and the apply loses nothing")
    died = subprocess.run(
        [sys.executable, __file__, "killed"],
        env={**os.environ, "HYDRACACHE_OUTBOX": url},
    )
    expect("exit status of the writer (SIGKILL)", died.returncode, -signal.SIGKILL)
    show("the cache still has", read())
    expect("rows that wait in the outbox", outbox.status("shop").pending, 1)
    report = worker.drain()
    expect("a drain, as cron would run it, publishes", report.published, 1)
    expect("the next read", read(), "Ada, Countess of Lovelace")

    print("4. What `hydracache status` shows an operator", flush=True)
    outbox.close()
    subprocess.run(
        [sys.executable, "-m", "hydracache_sync", "status"],
        env={
            **os.environ,
            "HYDRACACHE_OUTBOX": url,
            "HYDRACACHE_NAMESPACE": "shop",
        },
        check=True,
    )
    with closing(connect(url)) as connection:
        execute(connection, "drop table app_users")


if __name__ == "__main__":
    url = os.environ.get("HYDRACACHE_OUTBOX")
    if sys.argv[1:] == ["killed"]:
        rename(url or "", "Ada, Countess of Lovelace", killed=True)
    memcached = os.environ.get("HYDRACACHE_MEMCACHED", "")
    with tempfile.TemporaryDirectory() as folder:
        main(
            url or f"sqlite:///{folder}/shop.db",
            memcached.split(",") if memcached else [],
        )
