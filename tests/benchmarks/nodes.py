"""What three memcached nodes cost against one, and a worker with one of them away.

    python tests/benchmarks/nodes.py [--reads 3000] [--rounds 9] [--rows 20000]
                                       [--outage 60] [--quick] [--only ...]

A cached read takes the namespace's token, the key's and two tags', with a value of 100
bytes; on three nodes it is one that needs all three. Sides run in turn in one process
and the ratio is taken round by round: quote medians of ratios. Sends are counted on a
server that counts them. The servers are private ones on loopback.

At the end ``--rows`` rows, and five times as many, wait for a node in a SQLite outbox
with two pools that know nothing of each other. Said is how long it takes, from the
moment when the node's program runs, until all are applied, and how long the last of
them would have waited.

Goals: a read on three nodes at most 2.50 of one on one node, one send to each node.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pymemcache.client.base import Client  # noqa: E402

from faulty_memcached import FaultyMemcached  # noqa: E402
from hydracache_sync import (  # noqa: E402
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from node_return import Crowd  # noqa: E402
from servers import Memcached  # noqa: E402

NAMESPACE = "shop"
VALUE = os.urandom(100)


def seconds(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - started


def spread_read(store: MemcachedStore) -> tuple[str, list[str]]:
    """A key and two tags that are on as many nodes as there are, up to three."""
    cache = TaggedCache(store, NAMESPACE)
    keyspace = cache._keyspace
    wanted = min(3, len(store.ping()))
    for number in range(10_000):
        key, tags = f"user:{number}", [f"tag:{number}", f"list:{number}"]
        addresses = [keyspace.entry(key), *map(keyspace.tag_token, tags)]
        if len({store.nodes_of(address)[0] for address in addresses}) == wanted:
            return key, tags
    raise RuntimeError("no such key")


def reader(store: MemcachedStore) -> Callable[[], object]:
    cache = TaggedCache(store, NAMESPACE)
    key, tags = spread_read(store)
    cache.get_or_load(key, lambda: VALUE, tags=tags)
    if cache.get(key, tags=tags) != VALUE:
        raise RuntimeError("not a hit")
    return lambda: cache.get(key, tags=tags)


def reads(servers: list[Memcached], times: int, rounds: int) -> None:
    one = reader(MemcachedStore([servers[0].address]))
    three = reader(MemcachedStore([server.address for server in servers]))
    plain = Client(("127.0.0.1", servers[0].port), no_delay=True)
    plain.set("plain", VALUE)
    sides: dict[str, Callable[[], object]] = {
        "one node": one,
        "three nodes": three,
        "Client.get": lambda: plain.get("plain"),
    }
    ratios: dict[str, list[float]] = {name: [] for name in sides}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        now = {name: seconds(call, times) / times for name, call in sides.items()}
        for name, each in now.items():
            took[name].append(each)
            ratios[name].append(each / now["one node"])
    for name in sides:
        print(
            f"cached read, {name:12} {statistics.median(took[name]) * 1e6:7.1f} us"
            f"  {statistics.median(ratios[name]):5.2f} of one node"
            f"  ({min(ratios[name]):.2f} to {max(ratios[name]):.2f})"
        )
    plain.close()


def sends() -> None:
    with FaultyMemcached() as one, FaultyMemcached() as two, FaultyMemcached() as three:
        servers = [one, two, three]
        read = reader(MemcachedStore([server.address for server in servers]))
        for server in servers:
            server.forget()
        for _ in range(100):
            read()
        print(
            "sends for 100 cached reads that need three nodes:",
            ", ".join(str(server.round_trips) for server in servers),
        )


def drained(store: MemcachedStore, rows: int, healthy: Callable[[str], bool]) -> float:
    """Rows a second of healthy nodes; every node has its share of the backlog."""
    outbox = MemoryOutbox()
    for start in range(0, rows, 1000):
        batch = InvalidationIntentBatch("benchmark")
        for number in range(start, start + 1000):
            batch.invalidate_key(f"key:{number}")
        outbox.enqueue(NAMESPACE, batch)
    applier = MemcachedApplier(store, NAMESPACE)
    worker = OutboxWorker(outbox, applier)
    started = time.perf_counter()
    published = 0
    wanted = sum(
        healthy(applier.nodes_of(intent)[0])
        for row in outbox.rows(NAMESPACE, limit=rows)
        if (intent := row.intent) is not None
    )
    started = time.perf_counter()
    while published < wanted:
        published += worker.run_once().published
    return published / (time.perf_counter() - started)


def worker_with_one_away(servers: list[Memcached], rows: int, rounds: int) -> None:
    names = [server.address for server in servers]
    away = servers[2]
    for fault, begin, end in (
        ("refused", away.stop, away.start),
        ("hung", away.pause, away.resume),
    ):
        ratios = []
        for _ in range(rounds):
            all_there = drained(MemcachedStore(names), rows, lambda name: True)
            begin()
            # Two thirds of the rows can be published, in batches that hold all.
            some = drained(MemcachedStore(names), rows, lambda n: n != away.address)
            end()
            ratios.append(some / all_there)
        print(
            f"worker, one of three nodes {fault:8}"
            f" {statistics.median(ratios):5.2f} of its rows/s with three"
            f"  ({min(ratios):.2f} to {max(ratios):.2f}; last {some:,.0f} of"
            f" {all_there:,.0f} rows/s)"
        )


def node_comes_back(servers: list[Memcached], rows: int, outage: float) -> None:
    """How long ``rows`` that waited for a node wait after its return."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(directory) / "app.db"
        SQLiteOutbox(path).install_schema()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma journal_mode = wal")
        crowd = Crowd(lambda: SQLiteOutbox(path), servers, pools=2)
        crowd.node.stop()
        stack.enter_context(crowd.running())
        crowd.enqueue(rows)
        time.sleep(outage)
        now_ms = crowd.outbox.now_ms()
        waits = [row.available_at_ms - now_ms for row in crowd.rows().values()]
        crowd.node.start()
        seconds = crowd.carried()
        print(
            f"node back after {outage:.0f} s: {rows:,} rows applied within"
            f" {seconds:.1f} s; the last was to be due in {max(waits) / 1000:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reads", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--outage", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["reads", "sends", "away", "back"])
    options = parser.parse_args()
    if options.quick:
        options.reads, options.rounds, options.outage = 1000, 5, 10.0
    with Memcached() as one, Memcached() as two, Memcached() as three:
        servers = [one, two, three]
        if options.only in (None, "reads"):
            reads(servers, options.reads, options.rounds)
        if options.only in (None, "sends"):
            sends()
        if options.only in (None, "away"):
            worker_with_one_away(servers, options.rows, min(3, options.rounds))
        if options.only in (None, "back"):
            for times in (1, 5):
                node_comes_back(servers, options.rows * times, options.outage)


if __name__ == "__main__":
    main()
