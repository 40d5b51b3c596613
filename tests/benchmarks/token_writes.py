"""What it costs that tokens are replaced, and not overwritten: before, after, by hand.

    python tests/benchmarks/token_writes.py [--rows 20000] [--rounds 9] [--times 300]
                                            [--only drain publish commit miss trips]
                                            [--database sqlite|mariadb] [--disk DIR]
                                            [--save FILE]

A token's write takes two round trips: what is there is read, then the token is stored
on condition that it still is there. "By hand" does just these on a socket, with the
same SQL. "Before" is the library with a store that overwrites, as it did once
(``tests/support/plain_set_store.py``). All sides run in turn in one process and ratios
are taken round by round: quote their medians.

Goals: a drain of at least 0.90 of the rows a second by hand; from the commit to the
token by inline publish at most 1.5 of a commit and two round trips by hand; no further
round trip on a hit, which is counted.

The database is SQLite in WAL mode with synchronous FULL, or a private MariaDB;
memcached is a private one on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mysql_outbox  # noqa: E402
import sqlite_outbox  # noqa: E402
from _results import Results, add_save, versions  # noqa: E402
from _side_by_side import NAMESPACE, HandTokens, library_worker  # noqa: E402
from latency import Database, TimedApplier, on_disk  # noqa: E402

from hydracache_sync import (  # noqa: E402
    InvalidationIntent,
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
    open_outbox,
)
from hydracache_sync.cache import CacheStore, Keyspace  # noqa: E402
from support.faulty_memcached import FaultyMemcached  # noqa: E402
from support.plain_set_store import PlainSetStore  # noqa: E402
from support.servers import MariaDB, Memcached  # noqa: E402

#: A side of a comparison: runs once, and returns what is to be compared, and the
#: seconds of processor time that this process took for it.
Side = Callable[[], Tuple[float, float]]

#: What is printed, for a table of results.
FOUND: List[List[str]] = []
COLUMNS = "what", "side", "median", "ratio (least to largest)", "processor time"


def compare(
    what: str, unit: str, sides: Mapping[str, Side], rounds: int, base: str
) -> None:
    """Run the sides in turn; print the medians, and the ratio of each to ``base``.

    Processor time is this process's own: on a crowded machine it is the steadier one.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        names = list(sides) if round_ % 2 else list(reversed(sides))
        for name in names:
            figure, processor = sides[name]()
            if round_:
                found[name].append(figure)
                used[name].append(processor)
    print(f"{what}, {rounds} rounds")
    for name, figures in found.items():
        ratios = sorted(a / b for a, b in zip(figures, found[base]))
        processor = statistics.median(a / b for a, b in zip(used[name], used[base]))
        ratio = f"{statistics.median(ratios):.2f}"
        ratio += f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        compared = [ratio, f"{processor:.2f}"] if name != base else ["", ""]
        FOUND.append(
            [
                what if name == next(iter(found)) else "",
                name,
                f"{statistics.median(figures):,.0f} {unit}",
                *compared,
            ]
        )
        print(
            f"  {name:34} {statistics.median(figures):10.1f} {unit}"
            f"  {statistics.median(ratios):6.3f} of {base}"
            f"  ({ratios[0]:.3f} to {ratios[-1]:.3f}), processor time {processor:.3f}",
            flush=True,
        )


def repeated(side: Callable[[], float], times: int) -> Side:
    """Run it so often; the median of what it returns, in microseconds."""

    def run() -> tuple[float, float]:
        started = time.process_time()
        took = statistics.median([side() for _ in range(times)])
        return took * 1e6, time.process_time() - started

    return run


def compare_times(
    what: str,
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    times: int,
    base: str,
) -> None:
    """Compare sides that return seconds."""
    often = {name: repeated(side, times) for name, side in sides.items()}
    compare(what, "us", often, rounds, base)


# A drain


def drain_sqlite(
    folder: str, server: Memcached, rounds: int, rows: int, batch: int
) -> None:
    path = Path(folder) / "drain.db"
    filler = sqlite_outbox.database(path)
    connection = sqlite_outbox.sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma synchronous = full")
    client = HandTokens(server.address)
    with contextlib.closing(SQLiteOutbox(path)) as outbox:
        compare_drains(
            lambda: sqlite_outbox.fill(filler, rows),
            lambda: sqlite_outbox.hand_drain(connection, client, batch),
            outbox,
            server,
            (rounds, rows, batch),
        )
    client.close()
    connection.close()
    filler.close()


def drain_mariadb(
    database: MariaDB, server: Memcached, rounds: int, rows: int, batch: int
) -> None:
    place = mysql_outbox.Place(database, server)
    mysql_outbox.prepare(place, rows)
    filler = place.connect(database=mysql_outbox.DATABASE, autocommit=True)
    connection, client = place.worker_connection(), place.client()
    with contextlib.closing(open_outbox(place.url)) as outbox:
        compare_drains(
            lambda: mysql_outbox.fill(filler),
            lambda: mysql_outbox.hand_drain(place, connection, client, batch),
            outbox,
            server,
            (rounds, rows, batch),
        )
    for closed in (filler, connection, client):
        closed.close()


def compare_drains(
    fill: Callable[[], None],
    by_hand: Callable[[], int],
    outbox: Any,
    server: Memcached,
    size: tuple[int, int, int],
) -> None:
    rounds, rows, batch = size
    workers = {
        name: library_worker(outbox, kind([server.address]), batch)
        for name, kind in (("library", MemcachedStore), ("before", PlainSetStore))
    }

    def timed(drain: Callable[[], int]) -> Side:
        def side() -> tuple[float, float]:
            fill()
            started, processor = time.perf_counter(), time.process_time()
            done = drain()
            took = time.perf_counter() - started
            if done != rows:
                raise RuntimeError(f"{done} of {rows} rows were published")
            return done / took, time.process_time() - processor

        return side

    sides = {
        "by hand, two trips": timed(by_hand),
        "library": timed(lambda: workers["library"].drain().published),
        "before": timed(lambda: workers["before"].drain().published),
    }
    what = f"drain of {rows:,} rows in batches of {batch} (goal >= 0.90)"
    compare(what, "rows/s", sides, rounds, "by hand, two trips")


# A commit, and its token


def publish(database: Database, server: Memcached, rounds: int, times: int) -> None:
    """From the moment before COMMIT to the acknowledged token."""
    hand = HandTokens(server.address)

    def by_hand() -> float:
        key = secrets.token_hex(8)
        receipt, before = database.write(NAMESPACE, key)
        hand.replace([b"hc1:1:shop:k" + key.encode()])
        took = time.monotonic() - before
        database.outbox.publish_commit(receipt)
        return took

    def by(store: CacheStore) -> Callable[[], float]:
        applier = TimedApplier(store, NAMESPACE)
        worker = OutboxWorker(database.outbox, applier)

        def side() -> float:
            key = secrets.token_hex(8)
            receipt, before = database.write(NAMESPACE, key)
            if not worker.publish(receipt).complete:
                raise RuntimeError("not published")
            return applier.moment_of(key) - before

        return side

    sides = {
        "commit and two trips by hand": by_hand,
        "inline publish": by(MemcachedStore([server.address])),
        "before": by(PlainSetStore([server.address])),
    }
    what = "commit to token by inline publish (goal <= 1.5)"
    compare_times(what, sides, rounds, times, "commit and two trips by hand")
    hand.close()


def commit(database: Database, server: Memcached, rounds: int, times: int) -> None:
    """A strict commit: the quarantine, then COMMIT; settled afterwards."""
    hand = HandTokens(server.address)
    key = "user:42"
    batch = InvalidationIntentBatch().invalidate_key(key)

    def enqueued() -> Any:
        database.connection.cursor().execute("update app set n = n + 1 where id = 1")
        return database.outbox.enqueue_in(database.connection, NAMESPACE, batch)

    def timed(mark_and_commit: Callable[[], None]) -> Callable[[], float]:
        def side() -> float:
            receipt = enqueued()
            started = time.monotonic()
            mark_and_commit()
            took = time.monotonic() - started
            database.outbox.publish_commit(receipt)
            return took

        return side

    def by_hand() -> None:
        hand.replace([b"hc1:1:shop:k" + key.encode()])
        database.connection.commit()

    def by(store: CacheStore) -> Callable[[], float]:
        cache = TaggedCache(store, NAMESPACE, strict=True)

        def quarantined() -> None:
            with cache.quarantine(batch):
                database.connection.commit()

        return timed(quarantined)

    sides = {
        "commit without a mark": timed(database.connection.commit),
        "two trips by hand and commit": timed(by_hand),
        "strict commit": by(MemcachedStore([server.address])),
        "before": by(PlainSetStore([server.address])),
    }
    base = "two trips by hand and commit"
    compare_times("strict commit", sides, rounds, times, base)
    hand.close()


# A reader that misses


def miss(server: Memcached, rounds: int, times: int) -> None:
    """Reads of a key with two tags, whose entry or tokens are not there."""
    kinds = {
        "fresh": ({}, False),
        "in a snapshot": ({}, True),
        "strict": ({"strict": True}, False),
    }
    for kind, (options, snapshot) in kinds.items():
        for what in ("its entry", "its entry and tokens"):
            sides = {
                name: _miss(store([server.address]), what, options, snapshot)
                for name, store in (("before", PlainSetStore), ("now", MemcachedStore))
            }
            title = f"miss of {what}, {kind} reader"
            compare_times(title, sides, rounds, times, "before")


def _miss(
    store: CacheStore, what: str, options: dict[str, Any], snapshot: bool
) -> Callable[[], float]:
    cache = TaggedCache(store, NAMESPACE, **options)
    keyspace = Keyspace(store.ring, NAMESPACE)
    key, tags = "user:42", ["user:42", "users"]
    lost = [keyspace.entry(key)]
    if what != "its entry":
        lost += [keyspace.key_token(key), *map(keyspace.tag_token, tags)]

    def side() -> float:
        store.delete_many(lost)
        since = time.time() if snapshot else None
        started = time.monotonic()
        cache.get_or_load(key, lambda: b"value", tags=tags, since=since)
        return time.monotonic() - started

    return side


# Round trips, counted


def trips(results: Results) -> None:
    """Round trips to one node, as the node sees them."""
    saved = results.table(
        "Round trips to a node, counted by the node:", ["what", "before", "library"]
    )
    print("round trips to a node: before, now")
    counted = [_counted(store) for store in (PlainSetStore, MemcachedStore)]
    for what, before in counted[0].items():
        print(f"  {what:44} {before}  {counted[1][what]}")
        saved.append([what, str(before), str(counted[1][what])])


def _counted(kind: type[MemcachedStore]) -> dict[str, int]:
    counts: dict[str, int] = {}
    tags = ["user:42", "users"]
    batch = InvalidationIntentBatch().invalidate_key("k").invalidate_tag("users")
    with FaultyMemcached() as node:
        store = kind([node.address])
        cache = TaggedCache(store, NAMESPACE)
        strict = TaggedCache(store, "strict", strict=True)
        applier = MemcachedApplier(store, NAMESPACE)

        def count(what: str, call: Callable[[], object]) -> None:
            node.forget()
            call()
            counts[what] = node.round_trips

        def read(cache: TaggedCache = cache, since: float | None = None) -> object:
            return cache.get_or_load("k", lambda: b"value", tags=tags, since=since)

        def quarantine() -> None:
            with strict.quarantine(batch):
                pass

        read(strict)
        count("miss, nothing is there", read)
        count("hit", read)
        count("hit in a snapshot", lambda: read(since=time.time()))
        cache.delete("k")
        count("miss, the tokens are there", read)
        count("apply of two", lambda: applier.apply_batch(list(batch)))
        count("miss after it", read)
        node.items.clear()
        now = time.time()
        count("miss in a snapshot, nothing is there", lambda: read(since=now))
        node.items.clear()
        count("miss of a strict reader, nothing is there", lambda: read(strict))
        count("flush", lambda: applier.apply_batch([InvalidationIntent.flush()]))
        count("quarantine of two", quarantine)
        store.close()
    return counts


@contextlib.contextmanager
def databases(kind: str, disk: str | None) -> Iterator[tuple[str, MariaDB | None]]:
    """A directory, and a server if it is one's turn."""
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        if kind == "sqlite":
            yield folder, None
            return
        with MariaDB() if disk is None else on_disk(MariaDB, folder) as server:
            yield folder, server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--times", type=int, default=300)
    parts = ("drain", "publish", "commit", "miss", "trips")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--database", choices=("sqlite", "mariadb"), default="sqlite")
    parser.add_argument("--disk", metavar="DIR", help="where its data is")
    add_save(parser)
    options = parser.parse_args()
    wanted = options.only
    results = Results()
    saved = results.table(
        f"Medians of {options.rounds} rounds:",
        COLUMNS,
    )
    servers: dict[str, str] = {}
    rounds, times = options.rounds, options.times
    if {"drain", "publish", "commit"} & set(wanted):
        with databases(options.database, options.disk) as (folder, database):
            with Memcached() as server:
                if "drain" in wanted:
                    size = rounds, options.rows, options.batch
                    if database is None:
                        drain_sqlite(folder, server, *size)
                    else:
                        drain_mariadb(database, server, *size)
                app = Database(_app_url(folder, database))
                servers = app.outbox.versions()
                if "publish" in wanted:
                    publish(app, server, rounds, times)
                if "commit" in wanted:
                    commit(app, server, rounds, times)
                app.connection.close()
                app.outbox.close()
    if "miss" in wanted:
        with Memcached() as server:
            miss(server, rounds, times)
    if "trips" in wanted:
        trips(results)
    saved += FOUND
    if options.save:
        results.save(options.save, **servers, **versions("pymemcache"))


def _app_url(folder: str, database: MariaDB | None) -> str:
    if database is None:
        return f"sqlite:///{folder}/app.db"
    import pymysql

    connection = pymysql.connect(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("create database app")
    return database.url("app")


if __name__ == "__main__":
    main()
