"""A pool beside 100,000 dead letters and a backlog of 1,000,000 rows.

    PYTHONPATH=tests python tests/faults/pool_backlog.py [--dead N] [--pending N]

Rows of one namespace are inserted by SQL, then a pool starts on it and on another
beside it. Checked: that rows of that other are carried meanwhile, that old
published rows are purged meanwhile, and at the end that nothing is lost and no dead
letter was touched; it ends with 1 if not. Printed: what a look for due rows, a claim
and a status take amid few rows and amid all, how late rows of the other namespace are,
and the memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from typing import Any, Iterator

from hydracache_sync import (
    InvalidationApplier,
    InvalidationIntent,
    InvalidationIntentBatch,
    OutboxWorker,
    Published,
    Purged,
    WorkerPool,
    open_outbox,
)
from support.servers import MariaDB

FLOOD, CALM = "flood", "calm"

#: Rows of one bulk insert.
BULK = 10_000


class CountingApplier(InvalidationApplier):
    """Takes everything at once and keeps nothing."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def apply_invalidation(self, intent: InvalidationIntent) -> None:
        pass

    def apply_batch(self, intents: Any) -> list[Exception | None]:
        return [None] * len(intents)


def insert(outbox: Any, state: int, count: int) -> None:
    """Insert ``count`` rows of namespace FLOOD in ``state``, past the outbox."""
    now_ms = int(time.time() * 1000) - 3_600_000
    mark = outbox._database.dialect.marker
    with outbox.transaction() as connection:
        cursor = connection.cursor()
        for start in range(0, count, BULK):
            rows = []
            for n in range(start, min(count, start + BULK)):
                key = f"key:{state}:{n}"
                rows.append(
                    (
                        InvalidationIntent.key(key).target_hash(),
                        key.encode() if mark == "%s" else key,
                        FLOOD,
                        f"bulk:{state}:{n}",
                        now_ms,
                        now_ms + n // 100,
                        state,
                    )
                )
            cursor.executemany(
                "insert into hydracache_outbox (target_hash, kind, value, namespace,"
                " commit_position, reason, created_at_ms, at_ms, state) values"
                f" ({mark}, 'key', {mark}, {mark}, {mark}, '', {mark}, {mark}, {mark})",
                rows,
            )


def seconds_of(call: Any, times: int = 20) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


def rss_mb() -> float:
    with open("/proc/self/status") as status:
        [line] = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def look_and_claim(outbox: Any, when: str) -> None:
    def claim() -> None:
        outbox.release(outbox.claim(FLOOD, "probe", limit=256, claim_ttl=30))

    looked = seconds_of(lambda: outbox.due_namespaces([FLOOD, CALM]))
    print(
        f"  {when}: look {looked:.2f} ms, claim and release of 256 rows"
        f" {seconds_of(claim, 5):.1f} ms, status"
        f" {seconds_of(lambda: outbox.status(FLOOD), 5):.1f} ms"
    )


def run(url: str, dead: int, pending: int, seconds: float) -> bool:
    outbox: Any = open_outbox(url)
    outbox.install_schema()
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(outbox.path)) as one:
            one.execute("pragma journal_mode = wal")
    insert(outbox, 0, 1000)
    look_and_claim(outbox, "amid 1000 rows")
    with outbox.transaction() as connection:
        connection.cursor().execute("delete from hydracache_outbox")
    insert(outbox, 2, dead)
    insert(outbox, 0, pending)
    look_and_claim(outbox, f"amid {dead} dead and {pending} pending")

    published = {FLOOD: 0, CALM: 0}
    late: list[float] = []
    enqueued: dict[str, float] = {}
    purged = 0
    lock = threading.Lock()

    def hear(event: Any) -> None:
        nonlocal purged
        with lock:
            if isinstance(event, Published):
                published[event.namespace or ""] += event.count
                if event.namespace == CALM:
                    for row in event.rows:
                        late.append(time.monotonic() - enqueued[row.intent.value])
            elif isinstance(event, Purged):
                purged += event.rows

    pool = WorkerPool(
        OutboxWorker(outbox, CountingApplier(FLOOD)),
        OutboxWorker(outbox, CountingApplier(CALM)),
        keep_published=1.0,
        purge_every=1.0,
    )
    pool.subscribe(hear)
    before = rss_mb()
    calm = 0
    started = time.monotonic()
    with pool:
        while time.monotonic() - started < seconds:
            key = f"calm:{calm}"
            enqueued[key] = time.monotonic()
            outbox.enqueue(CALM, InvalidationIntentBatch().invalidate_key(key))
            calm += 1
            time.sleep(0.1)
        took = time.monotonic() - started
    # What the pool had not come to.
    OutboxWorker(outbox, CountingApplier(CALM)).drain()
    left = outbox.due_namespaces([CALM])
    with outbox.transaction() as connection:
        cursor = connection.cursor()
        cursor.execute("select state, count(*) from hydracache_outbox group by state")
        states = dict(cursor.fetchall())
    rate = published[FLOOD] / took
    # An event comes when a purge has come to its end, which it may not under a flood.
    purged = max(purged, sum(published.values()) - states.get(1, 0))
    late.sort()
    print(
        f"  in {took:.0f} s: {published[FLOOD]} rows of the flood, {rate:.0f}/s;"
        f" {len(late)} of {calm} beside it, median {statistics.median(late) * 1000:.0f}"
        f" ms late, worst {late[-1] * 1000:.0f} ms; {purged} purged; memory"
        f" {before:.0f} -> {rss_mb():.0f} MB"
    )
    failures = [
        what
        for what, failed in {
            "dead letters were touched": states.get(2, 0) != dead,
            "rows are lost": states.get(0, 0) + published[FLOOD] != pending,
            "the namespace beside it was starved": len(late) < calm * 0.5,
            "rows beside it are left": bool(left),
            "nothing was purged": seconds >= 5 and purged == 0,
            "nothing was carried": published[FLOOD] == 0,
        }.items()
        if failed
    ]
    for what in failures:
        print(f"  FAILED: {what}; states {states}")
    outbox.close()
    return not failures


@contextlib.contextmanager
def sqlite_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield f"sqlite:///{directory}/app.db"


@contextlib.contextmanager
def mariadb_url() -> Iterator[str]:
    import pymysql

    with MariaDB() as server:
        name = "t" + secrets.token_hex(4)
        connection = pymysql.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
        )
        connection.cursor().execute(f"create database {name}")
        connection.close()
        yield server.url(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dead", type=int, default=100_000)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=["sqlite", "mariadb"])
    options = parser.parse_args()
    fine = True
    for place, urls in (("sqlite", sqlite_url), ("mariadb", mariadb_url)):
        if options.only in (None, place):
            with urls() as url:
                print(place)
                fine &= run(url, options.dead, options.pending, options.seconds)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
