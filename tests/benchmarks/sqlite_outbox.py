"""What an enqueue and a drain cost on SQLite, against doing only the necessary by hand.

    python tests/benchmarks/sqlite_outbox.py [--rows 100000] [--rounds 7] [--batch 256]

Both sides run in turn in one process on one machine, and the ratio is taken round by
round: quote the medians of ratios, not the absolute figures. The database is in WAL
mode with synchronous FULL, memcached is a private one on loopback.

Goals: an enqueue's transaction at most 1.10 of the hand-written one, a drain at least
0.90 of its rows a second. Then 1, 2 and 4 processes drain together, on the one writer
that SQLite has.
"""

from __future__ import annotations

import argparse
import secrets
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save  # noqa: E402
from _side_by_side import (  # noqa: E402
    COLUMNS,
    NAMESPACE,
    SIDES,
    HandTokens,
    compare_drains,
    compare_transactions,
    hand_apply,
    hand_targets,
    library_batch,
    library_worker,
    rows_to_drain,
)
from _together import Drain, drain_together  # noqa: E402

from hydracache_sync import MemcachedStore, SQLiteOutbox  # noqa: E402
from support.servers import Memcached  # noqa: E402

INSERT_3 = f"insert into hydracache_outbox ({COLUMNS}) values " + ", ".join(
    ["(?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"] * 3
)


def database(path: Path) -> sqlite3.Connection:
    outbox = SQLiteOutbox(path)
    outbox.install_schema()
    outbox.close()
    connection = connect(path)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table users (id integer primary key, version integer)")
    connection.execute("insert into users values (42, 0)")
    return connection


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("pragma synchronous = full")
    return connection


def hand_enqueue(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("begin immediate")
    connection.execute("update users set version = version + 1 where id = 42")
    position = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    now = int(time.time() * 1000)
    shared = (NAMESPACE, position, "write", now, now)
    first, second, third = hand_targets(number)
    connection.execute(INSERT_3, (*first, *shared, *second, *shared, *third, *shared))
    connection.execute("commit")


def library_enqueue(
    outbox: SQLiteOutbox, connection: sqlite3.Connection, number: int
) -> None:
    connection.execute("begin immediate")
    connection.execute("update users set version = version + 1 where id = 42")
    outbox.enqueue_in(connection, NAMESPACE, library_batch(number))
    connection.execute("commit")


def enqueue(
    folder: Path, rounds: int, transactions: int, saved: list[list[str]]
) -> None:
    path = folder / "enqueue.db"
    connection = database(path)
    outbox = SQLiteOutbox(path)
    compare_transactions(
        [
            lambda number: hand_enqueue(connection, number),
            lambda number: library_enqueue(outbox, connection, number),
        ],
        rounds,
        transactions,
        saved,
    )
    connection.close()
    outbox.close()


def fill(connection: sqlite3.Connection, rows: int) -> None:
    connection.execute("begin")
    connection.execute("delete from hydracache_outbox")
    connection.executemany(
        f"insert into hydracache_outbox ({COLUMNS})"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows_to_drain(rows),
    )
    connection.execute("commit")
    connection.execute("pragma wal_checkpoint(truncate)")


def hand_drain(connection: sqlite3.Connection, client: HandTokens, batch: int) -> int:
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
        hand_apply(client, [row[2] for row in rows])
        total += connection.execute(
            "update hydracache_outbox set state = 1, at_ms = ?, last_error = null,"
            " claimed_at_ms = null, claim_until_ms = null, claim_owner = null,"
            f" claim_token = null where id in ({marks}) and claim_token = ?",
            (int(time.time() * 1000), *ids, token),
        ).rowcount


def drain(
    folder: Path, rounds: int, rows: int, batch: int, saved: list[list[str]]
) -> None:
    path = folder / "drain.db"
    # Neither side drains through the connection that filled the table: its pages
    # would be in that one's cache.
    filler = database(path)
    connection = connect(path)
    outbox = SQLiteOutbox(path)
    with Memcached() as server:
        client = HandTokens(server.address)
        store = MemcachedStore([server.address])
        worker = library_worker(outbox, store, batch)
        compare_drains(
            lambda: fill(filler, rows),
            [
                lambda: hand_drain(connection, client, batch),
                lambda: worker.drain().published,
            ],
            rounds,
            rows,
            batch,
            saved,
        )
        store.close()
        client.close()
    filler.close()
    connection.close()
    outbox.close()


class Place(NamedTuple):
    """Where everything is; travels to the worker processes."""

    path: Path
    memcached: str


def library_process(place: Place, batch: int) -> Drain:
    outbox = SQLiteOutbox(place.path)
    worker = library_worker(outbox, MemcachedStore([place.memcached]), batch)
    return lambda: worker.drain().published


def hand_process(place: Place, batch: int) -> Drain:
    connection, client = connect(place.path), HandTokens(place.memcached)
    return lambda: hand_drain(connection, client, batch)


PROCESSES = {"claims by hand": hand_process, "library": library_process}


def together(
    folder: Path, rounds: int, rows: int, batch: int, results: Results
) -> None:
    path = folder / "together.db"
    filler = database(path)
    with Memcached() as server:
        place = Place(path, server.address)
        drain_together(
            PROCESSES, place, batch, lambda: fill(filler, rows), rounds, rows, results
        )
    filler.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--transactions", type=int, default=1000)
    parser.add_argument("--disk", metavar="DIRECTORY", help="where the data is")
    add_save(parser)
    options = parser.parse_args()
    results = Results()
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory(dir=options.disk) as name:
        folder = Path(name)
        saved = results.table("One process:", SIDES)
        enqueue(folder, options.rounds, options.transactions, saved)
        drain(folder, options.rounds, options.rows, options.batch, saved)
        together(folder, options.rounds, options.rows, options.batch, results)
    if options.save:
        results.save(options.save, SQLite=sqlite3.sqlite_version)


if __name__ == "__main__":
    main()
