"""Load from another node than the commits: how many writes leave an old value cached?

    python tests/faults/stale_reads.py galera
    python tests/faults/stale_reads.py group --writes 500
    python tests/faults/stale_reads.py replica --delay 1 --writes 20
    python tests/faults/stale_reads.py replica --delay 1 --reads 100000

A writer commits a new version on the primary with its invalidation and publishes it; a
page is then read through a cache, whose loader asks another node in a fresh snapshot.
When that node has the commit, too, the page must show it. The ways to load:

    primary   from the node of the commits
    other     from another node, as it comes
    waiting   from another node, which waits until it has what was committed before
    since     from a replica that says by since= how late it may be
    heartbeat from another node, with a ReplicaSnapshot

Only "other" may leave an old value cached. It is why the assumptions name the rest.
With --reads many readers read meanwhile, see replica_reading.py, and must also find
something cached. Exit code: 0 that is so, 1 it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(here), str(here.parent)]

import pymysql

from faults.replica_reading import PAGES, Count, Reading
from hydracache_sync import (
    InvalidationIntentBatch,
    MemcachedApplier,
    MemoryStore,
    MySQLOutbox,
    OutboxWorker,
    ReplicaSnapshot,
    TaggedCache,
)
from support.clusters import galera, group, replication, sql, until
from support.servers import SQLServer

NAMESPACE = "shop"

#: What a loader's session says first, so that it waits for the commits before it.
WAITS = {
    "galera": "set session wsrep_sync_wait = 1",
    "group": "set session group_replication_consistency = 'BEFORE'",
}

#: Of what pages are written and read.
SEED = 20261129

#: Rows of one statement that keeps the appliers of the other nodes behind.
BULK = 2000


class Stale:
    """A primary and another node, and how many writes are stale through the latter."""

    def __init__(self, primary: SQLServer, other: SQLServer, wait: str | None) -> None:
        self.primary, self.other, self.wait = primary, other, wait
        sql(primary, "create database shop")
        sql(primary, "create table shop.pages (id integer primary key, version int)")
        sql(primary, "create table shop.bulk (id integer auto_increment primary key)")
        sql(primary, "insert into shop.pages values (1, 0)")
        sql(
            primary,
            "create table shop.read_pages (id integer primary key, version int)",
        )
        pages = ", ".join(f"({n}, 0)" for n in range(PAGES))
        sql(primary, f"insert into shop.read_pages values {pages}")
        sql(primary, "insert into shop.bulk values " + ", ".join(["()"] * BULK))
        with contextlib.closing(self.outbox()) as outbox:
            outbox.install_schema()
        self.version = 0

    def outbox(self) -> MySQLOutbox:
        node = self.primary
        return MySQLOutbox(
            host=node.host, port=node.port, user="root", database="shop", ssl=False
        )

    def count(self, way: str, writes: int, *, late: float = 0.0) -> int:
        """Write ``writes`` times; return after how many of them the page was old.

        :param late: seconds that a replica may be behind.
        """
        node = self.primary if way == "primary" else self.other
        until(self.has_come, "the newest version on the other node")
        store = MemoryStore()
        cache = TaggedCache(store, NAMESPACE)
        stale = 0
        with contextlib.ExitStack() as stack:
            outbox = stack.enter_context(contextlib.closing(self.outbox()))
            worker = OutboxWorker(outbox, MemcachedApplier(store, NAMESPACE))
            loader = stack.enter_context(
                pymysql.connect(host=node.host, port=node.port, user="root")
            )
            snapshot = ReplicaSnapshot(loader, table="shop.hydracache_outbox")
            if way == "waiting":
                assert self.wait is not None
                loader.cursor().execute(self.wait)

            def load() -> int:
                loader.rollback()  # each load in a snapshot of its own
                with loader.cursor() as cursor:
                    cursor.execute("select version from shop.pages where id = 1")
                    [(version,)] = cursor.fetchall()
                return int(version)

            for _ in range(writes):
                self.version += 1
                with outbox.transaction() as connection:
                    batch = InvalidationIntentBatch().invalidate_key("page")
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "update shop.pages set version = %s where id = 1",
                            (self.version,),
                        )
                    receipt = outbox.enqueue_in(connection, NAMESPACE, batch)
                report = worker.publish(receipt)
                assert report.complete, report
                outbox.write_heartbeat()
                moment = None
                if way == "since":
                    moment = time.time() - late
                elif way == "heartbeat":
                    loader.rollback()
                    moment = snapshot()
                cache.get_or_load("page", load, since=moment)
                until(self.has_come, "a commit on the other node")
                stale += cache.get_or_load("page", load) != self.version
        return stale

    def read(self, way: str, reads: int, writes: int, *, late: float = 0.0) -> Count:
        """Write and read from many threads; see ``replica_reading``."""
        until(self.has_come, "the newest version on the other node")
        reading = Reading(self.primary, self.other, self.outbox, NAMESPACE, SEED)
        return reading.count(way, reads, writes, late=late)

    def has_come(self) -> bool:
        try:
            seen = sql(self.other, "select version from shop.pages where id = 1")
        except pymysql.Error:  # the table has not come
            return False
        return bool(seen == ((self.version,),))

    @contextlib.contextmanager
    def under_load(self) -> Iterator[None]:
        """While the primary writes many rows besides."""
        ended = threading.Event()

        def write() -> None:
            change = f"update shop.bulk set id = id + {BULK} order by id desc"
            while not ended.is_set():
                sql(self.primary, change)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def a_cluster(name: str, delay: int) -> Iterator[Sequence[SQLServer]]:
    made: Any = {
        "galera": lambda: galera(2),
        "group": lambda: group(2),
        "replica": lambda: replication("mariadb", delay=delay),
        "replica-mysql9": lambda: replication("mysql9", delay=delay),
    }[name]()
    with made as nodes:
        yield nodes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cluster", choices=["galera", "group", "replica", "replica-mysql9"]
    )
    parser.add_argument("--writes", type=int, default=300)
    parser.add_argument("--reads", type=int, help="many readers, so many reads")
    parser.add_argument("--delay", type=int, default=0, help="seconds, of a replica")
    options = parser.parse_args()
    late = options.delay + 5.0
    bad = 0
    with a_cluster(options.cluster, options.delay) as nodes:
        stale = Stale(nodes[0], nodes[1], WAITS.get(options.cluster))
        if options.reads:
            for way in ("other", "heartbeat"):
                with stale.under_load():
                    met = stale.read(way, options.reads, options.writes, late=late)
                print(f"{way}: {met}", flush=True)
                bad += way != "other" and (met.stale > 0 or not met.hits)
            return 1 if bad else 0
        ways = ["primary", "other", "waiting" if stale.wait else "since", "heartbeat"]
        for load in ("idle", "busy"):
            for way in ways:
                with stale.under_load() if load == "busy" else contextlib.nullcontext():
                    found = stale.count(way, options.writes, late=late)
                print(f"{load} {way}: {found} stale of {options.writes}", flush=True)
                bad += found if way != "other" else 0
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
