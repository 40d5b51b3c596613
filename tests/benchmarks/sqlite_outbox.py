"""What an enqueue and a drain cost on SQLite, against doing only the necessary by hand.

    python tests/benchmarks/sqlite_outbox.py [--rows 100000] [--rounds 7] [--batch 256]

Both sides run in turn in one process on one machine, and the ratio is taken round by
round: quote the medians of ratios, not the absolute figures. The database is in WAL
mode with synchronous FULL, memcached is a private one on loopback.

Goals: an enqueue's transaction at most 1.10 of the hand-written one, a drain at least
0.90 of its rows a second.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pymemcache.client.base import Client  # noqa: E402

from hydracache_sync import (  # noqa: E402
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
)
from servers import Memcached  # noqa: E402

NAMESPACE = "shop"
COLUMNS = (
    "target_hash, kind, value, entity_name, namespace, commit_position, reason,"
    " created_at_ms, at_ms, state"
)
INSERT_3 = f"insert into hydracache_outbox ({COLUMNS}) values " + ", ".join(
    ["(?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"] * 3
)


def database(path: Path) -> sqlite3.Connection:
    outbox = SQLiteOutbox(path)
    outbox.install_schema()
    outbox.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("create table users (id integer primary key, version integer)")
    connection.execute("insert into users values (42, 0)")
    return connection


def part(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


DOMAIN = part(b"hydracache-invalidation-intent-v1")
KEY, TAG, ENTITY = (DOMAIN + part(kind) for kind in (b"key", b"tag", b"entity"))


def hand_enqueue(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("begin immediate")
    connection.execute("update users set version = version + 1 where id = 42")
    position = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    now = int(time.time() * 1000)
    key, id = f"user:{number}", str(number)
    shared = (NAMESPACE, position, "write", now, now)
    connection.execute(
        INSERT_3,
        (
            sha256(KEY + part(key.encode())).digest(),
            "key",
            key,
            None,
            *shared,
            sha256(ENTITY + part(b"user") + part(id.encode())).digest(),
            "entity",
            id,
            "user",
            *shared,
            sha256(TAG + part(b"users")).digest(),
            "tag",
            "users",
            None,
            *shared,
        ),
    )
    connection.execute("commit")


def library_enqueue(
    outbox: SQLiteOutbox, connection: sqlite3.Connection, number: int
) -> None:
    connection.execute("begin immediate")
    connection.execute("update users set version = version + 1 where id = 42")
    outbox.enqueue_in(
        connection,
        NAMESPACE,
        InvalidationIntentBatch("write")
        .invalidate_key(f"user:{number}")
        .invalidate_entity("user", str(number))
        .invalidate_tag("users"),
    )
    connection.execute("commit")


def enqueue(folder: Path, rounds: int, transactions: int) -> None:
    path = folder / "enqueue.db"
    connection = database(path)
    outbox = SQLiteOutbox(path)
    sides: list[Callable[[int], None]] = [
        lambda number: hand_enqueue(connection, number),
        lambda number: library_enqueue(outbox, connection, number),
    ]
    times: list[tuple[float, float]] = []
    for round_ in range(rounds + 1):
        took = [0.0, 0.0]
        # One of each in turn: a pause of the disk or of the machine hits both.
        for number in range(transactions):
            order = (0, 1) if number % 2 else (1, 0)
            for side in order:
                started = time.perf_counter()
                sides[side](number)
                took[side] += time.perf_counter() - started
        if round_:
            times.append((took[0] / transactions, took[1] / transactions))
    hand, library = (statistics.median(side) * 1e6 for side in zip(*times))
    ratio = statistics.median(b / a for a, b in times)
    print(
        f"enqueue: transaction of an update and 3 intents, by hand {hand:.0f} us,"
        f" library {library:.0f} us, ratio {ratio:.3f} (goal <= 1.10),"
        f" {rounds} rounds of {transactions}"
    )
    connection.close()
    outbox.close()


def fill(connection: sqlite3.Connection, rows: int) -> None:
    connection.execute("begin")
    connection.execute("delete from hydracache_outbox")
    now = int(time.time() * 1000)
    connection.executemany(
        f"insert into hydracache_outbox ({COLUMNS})"
        " values (?, 'entity', ?, 'user', ?, ?, 'write', ?, ?, 0)",
        (
            (
                sha256(str(number).encode()).digest(),
                str(number),
                NAMESPACE,
                f"position:{number // 3}",
                now,
                now,
            )
            for number in range(rows)
        ),
    )
    connection.execute("commit")
    connection.execute("pragma wal_checkpoint(truncate)")


def hand_drain(connection: sqlite3.Connection, client: Client, batch: int) -> int:
    marks = ", ".join("?" * batch)
    total = 0
    while True:
        connection.execute("begin immediate")
        now = int(time.time() * 1000)
        rows = connection.execute(
            "select id, kind, value, entity_name from hydracache_outbox"
            " where namespace = ? and state = 0 and at_ms <= ?"
            " and (claim_until_ms is null or claim_until_ms <= ?)"
            " order by at_ms, created_at_ms, id limit ?",
            (NAMESPACE, now, now, batch),
        ).fetchall()
        if not rows:
            connection.execute("rollback")
            return total
        ids = [row[0] for row in rows]
        if len(ids) < batch:
            marks = ", ".join("?" * len(ids))
        token = secrets.randbits(63)
        connection.execute(
            "update hydracache_outbox set claimed_at_ms = ?, claim_until_ms = ?,"
            f" claim_owner = 'hand', claim_token = ? where id in ({marks})",
            (now, now + 30_000, token, *ids),
        )
        connection.execute("commit")
        stamp = now.to_bytes(8, "big")
        tokens = {
            f"hc1:1:shop:tuser:{value}": b"L" + os.urandom(8) + stamp
            for _, _, value, _ in rows
        }
        if client.set_many(tokens, noreply=False):
            raise RuntimeError("memcached refused a token")
        total += connection.execute(
            "update hydracache_outbox set state = 1, at_ms = ?, last_error = null,"
            " claimed_at_ms = null, claim_until_ms = null, claim_owner = null,"
            f" claim_token = null where id in ({marks}) and claim_token = ?",
            (int(time.time() * 1000), *ids, token),
        ).rowcount


def drain(folder: Path, rounds: int, rows: int, batch: int) -> None:
    path = folder / "drain.db"
    # Neither side drains through the connection that filled the table: its pages
    # would be in that one's cache.
    filler = database(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma synchronous = full")
    outbox = SQLiteOutbox(path)
    with Memcached() as server:
        client = Client(server.address, no_delay=True, timeout=5)
        store = MemcachedStore([server.address])
        worker = OutboxWorker(
            outbox, MemcachedApplier(store, NAMESPACE), batch_size=batch
        )
        sides: list[Callable[[], int]] = [
            lambda: hand_drain(connection, client, batch),
            lambda: worker.drain().published,
        ]
        rates: list[tuple[float, float]] = []
        for round_ in range(rounds):
            rate = [0.0, 0.0]
            for side in (0, 1) if round_ % 2 else (1, 0):
                fill(filler, rows)
                started = time.perf_counter()
                done = sides[side]()
                rate[side] = done / (time.perf_counter() - started)
                if done != rows:
                    raise RuntimeError(f"{done} of {rows} rows were published")
            rates.append((rate[0], rate[1]))
        store.close()
        client.close()
    hand, library = (statistics.median(side) for side in zip(*rates))
    ratio = statistics.median(b / a for a, b in rates)
    print(
        f"drain: {rows} rows in batches of {batch}, by hand {hand:.0f} rows/s, library"
        f" {library:.0f} rows/s, ratio {ratio:.3f} (goal >= 0.90), {rounds} rounds"
    )
    filler.close()
    connection.close()
    outbox.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--transactions", type=int, default=1000)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory() as folder:
        enqueue(Path(folder), options.rounds, options.transactions)
        drain(Path(folder), options.rounds, options.rows, options.batch)


if __name__ == "__main__":
    main()
