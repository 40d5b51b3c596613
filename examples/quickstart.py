"""Shows the main job on SQLite and the in-process store, with no server.

Run it:  python examples/quickstart.py

You should see a slow reader whose old value is never served, a process killed right
after its commit whose invalidation arrives all the same, and the outbox's status.
It writes to a temporary folder and ends with exit code 0 if all went as told.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from hydracache_sync import (
    InvalidationIntentBatch,
    InvalidationReceipt,
    InvalidationWait,
    MemcachedApplier,
    MemoryStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
    entity_tag,
)

USER = entity_tag("user", "42")


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode = wal")
    return connection


def rename(
    path: Path, outbox: SQLiteOutbox, name: str, *, killed: bool = False
) -> InvalidationReceipt:
    """Change the user and enqueue what that invalidates, in one transaction."""
    with closing(connect(path)) as connection:
        connection.execute("update users set name = ? where id = 42", (name,))
        receipt = outbox.enqueue_in(
            connection,
            "shop",
            InvalidationIntentBatch("rename").invalidate_entity("user", "42"),
        )
        connection.commit()
        if killed:
            # No handler runs, no finally: as when the machine loses power.
            os.kill(os.getpid(), signal.SIGKILL)
    return receipt


def load(path: Path) -> str:
    with closing(connect(path)) as connection:
        [(name,)] = connection.execute("select name from users where id = 42")
    return str(name)


def show(what: str, value: object) -> None:
    print(f"   {what:<46} {value}")


def expect(what: str, value: object, wanted: object) -> None:
    show(what, value)
    if value != wanted:
        sys.exit(f"expected {wanted!r}: this is a bug")


def main(path: Path) -> None:
    with closing(connect(path)) as connection, connection:
        connection.execute("create table users (id integer primary key, name text)")
        connection.execute("insert into users values (42, 'Ada')")
    outbox = SQLiteOutbox(path)
    outbox.install_schema()

    # In an app the store is MemcachedStore(["10.0.0.7:11211"]); the rest stays.
    store = MemoryStore()
    cache = TaggedCache(store, "shop")
    worker = OutboxWorker(outbox, MemcachedApplier(store, "shop"))

    def read() -> str:
        return cache.get_or_load("profile:42", lambda: load(path), tags=[USER])

    print("1. A write invalidates what is cached")
    expect("first read, from the database", read(), "Ada")
    receipt = rename(path, outbox, "Ada Lovelace")
    expect("committed, not applied yet: the cache has", read(), "Ada")
    worker.run_once()
    outcome = InvalidationWait.local(timeout=1.0).wait(outbox, receipt)
    expect("a wait for the receipt is satisfied", outcome.satisfied, True)
    expect("read after it", read(), "Ada Lovelace")

    print("2. A slow reader cannot bring the old value back")
    cache.delete("profile:42")
    reservation = cache.reserve("profile:42", tags=[USER])
    old = load(path)
    show("a reader has loaded, and now sleeps", old)
    rename(path, outbox, "Countess Lovelace")
    worker.run_once()
    show("meanwhile: renamed, committed, applied", "Countess Lovelace")
    reservation.fill(old)
    show("the reader wakes up and stores", old)
    expect("the next read", read(), "Countess Lovelace")

    print("3. A process killed between its commit and the apply loses nothing")
    died = subprocess.run([sys.executable, __file__, "killed", str(path)])
    expect("exit status of the writer (SIGKILL)", died.returncode, -signal.SIGKILL)
    expect("the cache still has", read(), "Countess Lovelace")
    expect("rows that wait in the outbox", outbox.status("shop").pending, 1)
    report = worker.drain()
    expect("a drain, as cron would run it, publishes", report.published, 1)
    expect("the next read", read(), "Ada, Countess of Lovelace")

    print("4. Status")
    for name, value in outbox.status("shop")._asdict().items():
        show(name, value)
    outbox.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["killed"]:
        database = Path(sys.argv[2])
        rename(
            database, SQLiteOutbox(database), "Ada, Countess of Lovelace", killed=True
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "shop.db")
