"""What three memcached nodes cost against one, and a worker with one of them away.

    python tests/benchmarks/nodes.py [--reads 3000] [--rounds 9] [--rows 20000]
                                       [--outage 60] [--quick] [--only ...]
                                       [--save FILE]

First a store of one node against the same without a store and its ring: the commands,
straight on that node, and their answers; all of it on one processor.

A cached read takes the namespace's token, the key's and two tags', with a value of 100
bytes; on three nodes it is one that needs all three. Sides run in turn in one process
and the ratio is taken round by round: quote medians of ratios. Sends are counted on a
server that counts them. The servers are private ones on loopback.

At the end ``--rows`` rows, and five times as many, wait for a node in a SQLite outbox
with two pools that know nothing of each other. Said is how long it takes, from the
moment when the node's program runs, until all are applied, and how long the last of
them would have waited.

Goals: one node as fast as without a ring; a read on three nodes at most 2.50 of one on
one node, one send to each node.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import Results, add_save, versions  # noqa: E402
from pymemcache.client.base import Client  # noqa: E402

from hydracache_sync import (  # noqa: E402
    InvalidationIntentBatch,
    MemcachedApplier,
    MemcachedStore,
    MemoryOutbox,
    OutboxWorker,
    SQLiteOutbox,
    TaggedCache,
)
from hydracache_sync.cache import Failures, Write  # noqa: E402
from hydracache_sync.cache.keyspace import Address, Keyspace  # noqa: E402
from hydracache_sync.memcached import commands  # noqa: E402
from hydracache_sync.memcached.commands import Window  # noqa: E402
from support.faulty_memcached import FaultyMemcached  # noqa: E402
from support.node_return import Crowd  # noqa: E402
from support.servers import Memcached  # noqa: E402

NAMESPACE = "shop"
VALUE = os.urandom(100)

#: Seconds of one side before the other has its turn.
SLICE = 0.004


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


class Straight:
    """What a store does for one server without a ring: commands and their answers.

    The connections, the breaker and what an answer means are the library's.
    """

    def __init__(self, store: MemcachedStore) -> None:
        [self._node] = store._nodes

    def get_many(self, addresses: Sequence[Address]) -> object:
        keys = [key for _, key in addresses]
        return self._node.read_values(self._node.send_get(keys, time.monotonic()), keys)

    def set_many(self, writes: Sequence[Write]) -> object:
        failures: Failures = {}
        windows = commands.store(b"set", writes, failures, now=time.time())
        return self._write_windows(windows, commands.STORED, failures)

    def delete_many(self, addresses: Sequence[Address]) -> object:
        failures: Failures = {}
        windows = commands.delete(addresses, failures)
        return self._write_windows(windows, commands.DELETED, failures)

    def add_many(self, writes: Sequence[Write]) -> object:
        failures: Failures = {}
        _, adds = commands.each_store(b"add", writes, failures, now=time.time())
        keys = [key for (_, key), _, _ in writes]
        data = b"".join(adds) + commands.get(keys)
        return self._node.read_added(
            self._node.send_writes(data, time.monotonic()), keys
        )

    def _write_windows(
        self, windows: Iterable[Window], accepted: Sequence[bytes], failures: Failures
    ) -> Failures:
        node = self._node
        for window in windows:
            connection = node.send_writes(window.data, time.monotonic())
            node.read_statuses(connection, window.things, accepted, failures)
        return failures


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Keep this process, and what it starts, on one processor.

    To wake a server on another one takes three times as long as what is measured, and
    where it runs changes all the time.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_node(rounds: int, results: Results) -> None:
    """A store of one node, against the same straight on that node."""
    with one_processor(), Memcached() as server:
        compare_with_straight(server, rounds, results)


def compare_with_straight(server: Memcached, rounds: int, results: Results) -> None:
    store = MemcachedStore([server.address])
    straight = Straight(MemcachedStore([server.address]))
    keyspace = Keyspace(store.ring, NAMESPACE)
    few = [keyspace.tag_token(f"tag:{number}") for number in range(5)]
    many = [keyspace.tag_token(f"tag:{number}") for number in range(256)]

    def sides(name: str, things: Sequence[object]) -> list[Callable[[], object]]:
        calls = getattr(straight, name), getattr(store, name)
        return [functools.partial(call, things) for call in calls]

    def writes(addresses: Sequence[Address]) -> list[Write]:
        return [(address, VALUE, 60.0) for address in addresses]

    saved = results.table(
        f"A store of one node, against its commands straight on that node, {rounds}"
        " rounds (goal 1.00):",
        ["call", "straight", "by the store", "half of the rounds"],
    )
    for name, things in (
        ("get_many", few),
        ("set_many", writes(few)),
        ("set_many", writes(many)),
        ("add_many", writes(few)),
        ("delete_many", few),
    ):
        by_hand, by_ring = sides(name, things)
        # Slices of some milliseconds, so that both meet the same machine.
        calls = max(5, round(SLICE / (seconds(by_hand, 50) / 50)))
        took, ratios = [], []
        for _ in range(rounds):
            base = seconds(by_hand, calls)
            took.append(base / calls)
            # One follows the other: whoever comes first of two has an advantage.
            other = seconds(by_ring, 2 * calls) / 2
            base = (base + seconds(by_hand, calls)) / 2
            ratios.append(other / base)
        first, _, third = statistics.quantiles(ratios, n=4)
        print(
            f"one node, {name:11} of {len(things):3}"
            f" {statistics.median(took) * 1e6:7.1f} us straight, by the store"
            f" {statistics.median(ratios):5.3f} of it"
            f"  (half of the rounds: {first:.3f} to {third:.3f})"
        )
        saved.append(
            [
                f"`{name}` of {len(things)}",
                f"{statistics.median(took) * 1e6:.1f} us",
                f"{statistics.median(ratios):.3f}",
                f"{first:.3f} to {third:.3f}",
            ]
        )


def reads(servers: list[Memcached], times: int, rounds: int, results: Results) -> None:
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
    saved = results.table(
        "A cached read with two tags (goal: three nodes <= 2.50):",
        ["what", "time", "of one node", "least to largest"],
    )
    for name in sides:
        saved.append(
            [
                name,
                f"{statistics.median(took[name]) * 1e6:.1f} us",
                f"{statistics.median(ratios[name]):.2f}",
                f"{min(ratios[name]):.2f} to {max(ratios[name]):.2f}",
            ]
        )
        print(
            f"cached read, {name:12} {statistics.median(took[name]) * 1e6:7.1f} us"
            f"  {statistics.median(ratios[name]):5.2f} of one node"
            f"  ({min(ratios[name]):.2f} to {max(ratios[name]):.2f})"
        )
    plain.close()


def sends(results: Results) -> None:
    with FaultyMemcached() as one, FaultyMemcached() as two, FaultyMemcached() as three:
        servers = [one, two, three]
        read = reader(MemcachedStore([server.address for server in servers]))
        for server in servers:
            server.forget()
        for _ in range(100):
            read()
        counted = [str(server.round_trips) for server in servers]
        print("sends for 100 cached reads that need three nodes:", ", ".join(counted))
        saved = results.table(
            "Sends for 100 cached reads that need three nodes, counted by the nodes:",
            ["first node", "second", "third"],
        )
        saved.append(counted)


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


def worker_with_one_away(
    servers: list[Memcached], rows: int, rounds: int, results: Results
) -> None:
    names = [server.address for server in servers]
    away = servers[2]
    saved = results.table(
        f"Rows a second of the healthy nodes, of all with three, {rows:,} rows:",
        ["one of three nodes", "ratio", "least to largest"],
    )
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
        saved.append(
            [
                fault,
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )


def node_comes_back(
    servers: list[Memcached], rows: int, outage: float, saved: list[list[str]]
) -> None:
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
        due = f"{max(waits) / 1000:.1f} s"
        print(
            f"node back after {outage:.0f} s: {rows:,} rows applied within"
            f" {seconds:.1f} s; the last was to be due in {due}"
        )
        saved.append([f"{rows:,}", f"{seconds:.1f} s", due])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reads", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--outage", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true")
    parts = ["one", "reads", "sends", "away", "back"]
    parser.add_argument("--only", choices=parts)
    add_save(parser)
    options = parser.parse_args()
    results = Results()
    if options.quick:
        options.reads, options.rounds, options.outage = 1000, 5, 10.0
    with Memcached() as one, Memcached() as two, Memcached() as three:
        servers = [one, two, three]
        if options.only in (None, "one"):
            one_node(40 * options.rounds, results)
        if options.only in (None, "reads"):
            reads(servers, options.reads, options.rounds, results)
        if options.only in (None, "sends"):
            sends(results)
        if options.only in (None, "away"):
            rounds = min(3, options.rounds)
            worker_with_one_away(servers, options.rows, rounds, results)
        if options.only in (None, "back"):
            saved = results.table(
                f"Rows that waited for a node, away for {options.outage:g} s, from the"
                " moment when its program runs:",
                ["rows", "all applied within", "the last would have been due in"],
            )
            for times in (1, 5):
                node_comes_back(servers, options.rows * times, options.outage, saved)
    if options.save:
        results.save(options.save, **versions("pymemcache"))


if __name__ == "__main__":
    main()
