"""A database of an app and a replica of it, which is as late as a test wants it.

Two files of SQLite: replicating one copies it, the outbox and its heartbeat too.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any, Callable

from hydracache_sync import MemoryStore, SQLiteOutbox

#: Seconds until something that should happen counts as never happening.
DEADLINE = 30.0

#: Seconds, longer than the millisecond that stamps of tokens are cut to.
A_MOMENT = 0.003


class Replicated:
    """The files ``primary``, and ``replicas`` by name, each with one item.

    :ivar config: of an app that writes to the one and reads the others.
    """

    def __init__(self, folder: Path, *replicas: str, primary: Path | None = None):
        self.primary = primary or folder / "primary.db"
        self.replicas = {name: folder / f"{name}.db" for name in replicas}
        self.outbox = SQLiteOutbox(self.primary)
        self.outbox.install_schema()
        with contextlib.closing(sqlite3.connect(self.primary)) as data:
            data.execute("create table if not exists item (name text)")
            data.execute("delete from item")
            data.execute("insert into item values ('before')")
            data.commit()
        self.config: dict[str, Any] = {
            "SECRET_KEY": "not secret",
            "HYDRACACHE_OUTBOX": f"sqlite:///{self.primary}",
            "HYDRACACHE_NAMESPACE": "shop",
            "HYDRACACHE_MEMCACHED": MemoryStore(),
            "HYDRACACHE_MODE": "inline",
            "HYDRACACHE_POOL": "none",
            # A busy machine is no busy database.
            "HYDRACACHE_INLINE_TIMEOUT": 30,
            "HYDRACACHE_SNAPSHOT": "replica",
            # All clocks are this one.
            "HYDRACACHE_CLOCK_SKEW": 0,
        }
        self.beat()
        self.replicate()

    def close(self) -> None:
        self.outbox.close()

    def beat(self) -> None:
        """Write a heartbeat that is later than what was done before."""
        time.sleep(A_MOMENT)
        self.outbox.write_heartbeat()

    def replicate(self, *names: str) -> None:
        """Have the replicas, or those of ``names``, apply all that was committed."""
        for name in names or self.replicas:
            with contextlib.closing(sqlite3.connect(self.primary)) as source:
                with contextlib.closing(sqlite3.connect(self.replicas[name])) as copy:
                    source.backup(copy)


def change(hydracache: Any, connection: sqlite3.Connection, name: str) -> None:
    """Rename the item and invalidate it, in a request or a script; published then.

    The key "probe" as well: where that may be stored again, so might the item.
    """
    with hydracache.transaction(connection):
        connection.execute("update item set name = ?", (name,))
        hydracache.invalidate_key("item")
        hydracache.invalidate_key("probe")
    assert hydracache.publish().complete


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < deadline, "it never came"
